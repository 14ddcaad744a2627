"""Runs the demo: set the stage, break it, watch the agent heal it, keep the score.

    prepare: rows, first version, service, clients -> a quiet stretch is measured -> agent starts, lives one whole day
    then, in an order drawn from the seed:
        fault:  break it -> incident -> cause -> run -> verified, and clients see it too -> take the outside cause
                away -> temporary measures are put back, the incident is resolved -> next
        swing:  a whole day in which nothing is broken: no act, no page
    or, with `belief`, the acts of belief, one after another (belief.py)
    then the score card, and one JSON line as the last line of standard output

The agent is `homeostat run` in a process of its own. It is told its agent.yaml and nothing else; what this file knows
of it comes over its HTTP API and from the pages it sends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Final, TextIO

import httpx
from rich.console import Console as Screen
from rich.live import Live

from agent.control import no_tls
from agent.demo import belief as beliefs
from agent.demo import card, faults, must_be_installed, settings
from agent.demo.console import Console
from agent.demo.ground import MODEL, Ground, free_port
from agent.demo.load import DAY_S
from agent.demo.person import Person
from agent.demo.play import Broken, Play, Progress
from agent.demo.truth import Lines, Truth
from agent.model import Mode

_QUIET_S: Final = 7.0
_HABIT_S: Final = DAY_S + 3.0
"""The agent sees a whole day before anything breaks: the swing is part of what it knows as ordinary."""


def _wait(what: str, done: Callable[[], bool], seconds: float, ground: Ground) -> None:
    until = time.monotonic() + seconds
    while not done():
        if ended := ground.dead():
            raise Broken(f"{', '.join(ended)} has ended; look into {ground.folder / 'run'}")
        if time.monotonic() > until:
            raise Broken(
                f"{what} did not come up within {seconds:.0f} s; look into {ground.folder / 'run'}"
            )
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False, verify=no_tls()).status_code == 200
    except httpx.HTTPError:
        return False


def _prepare(ground: Ground, progress: Progress) -> Truth:
    """Train the first version, start service and clients."""
    from agent.demo import rows  # numpy only; scikit-learn is imported inside split()

    first, served = rows.split(ground.seed)
    first.save(ground.first_rows)
    served.save(ground.served_rows)
    ground.turn(ground.world)
    ground.run("the first training", ground.python(
        "agent.demo.trainer", "first", "--root", ground.models, "--model", MODEL,
        "--rows", ground.first_rows, "--seed", ground.seed,
    ))  # fmt: skip
    progress.say(
        f"version 1 and its backup are trained on {len(first)} patients; {len(served)} others are served"
    )
    ground.start_service()
    _wait("the service", lambda: _answers(f"http://127.0.0.1:{ground.port}/health"), 40.0, ground)
    ground.start_load()
    progress.say(
        f"the service answers on 127.0.0.1:{ground.port} with one worker; clients have begun"
    )
    return Truth(Lines(ground.answers), Lines(ground.predictions), Lines(ground.labels))


def _measure_quiet(truth: Truth, progress: Progress, ground: Ground) -> float:
    """Return the p95 of a quiet stretch."""
    begin = time.time() + 1.0  # the first second pays for warming up
    while time.time() < begin + _QUIET_S:
        time.sleep(0.5)
        truth.look(time.time())
        progress.now("measuring the quiet service")
    p95 = truth.p95(begin)
    if p95 is None:
        raise Broken(f"the service hardly answers; look into {ground.folder / 'run'}")
    return p95


def _start_agent(
    ground: Ground, latency_s: float, fronts: Mapping[str, int], *, suggest: bool, belief: bool
) -> Console:
    port = free_port()
    mode: Mode = "suggest" if suggest else "auto"
    about = settings.agent_yaml(ground, port, latency_s, mode=mode, fronts=fronts)
    settings.write(ground.config, about, settings.HEAD)
    for name, data in settings.playbooks(latency_s, mode=mode, belief=belief).items():
        settings.write(ground.playbooks / f"{name}.yaml", data, settings.HEAD)
    token = settings.token(ground.state) if suggest else ""
    ground.start_agent()
    console = Console(f"http://127.0.0.1:{port}", ground.folder / "run" / "pages.jsonl", token)
    _wait("the agent", console.ready, 40.0, ground)
    return console


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end us as Ctrl-C does, so that everything is cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # what a handler is given
        raise SystemExit(128 + number)

    kept = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """Yield the folder to play in; it is removed afterwards unless it is to be kept."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    path = Path(tempfile.mkdtemp(prefix="homeostat-demo-")).resolve()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def demo(
    *,
    seed: int | None = None,
    only: Sequence[str] = (),
    belief: bool = False,
    suggest: bool = False,
    press: bool = False,
    plain: bool = False,
    json_out: Path = Path("build/demo.json"),
    keep: Path | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
    out: TextIO | None = None,
) -> int:
    """Run the demo; return 0 only when every fault was detected, named, healed, and nothing else was touched.

    seed      order and severity of the faults; None = by chance
    only      names of faults (or "healthy swing"), with `belief` of acts of belief, to show instead of all
    belief    show the acts of belief instead of the faults; 0 only when all that must hold did
    suggest   the agent only suggests; a person at the terminal presses approve; `press`: it is pressed for them
    plain     lines only, nothing that moves
    keep      folder to play in, kept afterwards; default: a temporary one
    more      further connectors of the agent, as agent.yaml has them: who else should see it
    Raises ValueError, `problem: remedy`, for a name that nobody knows; Refused for libraries that are not installed.
    """
    must_be_installed()
    if seed is None:
        seed = int.from_bytes(os.urandom(2))
    screen = Screen(file=out, width=None if (out or sys.stdout).isatty() else 140)
    moves = screen.is_terminal and not plain and not suggest
    known = (*beliefs.ACTS,) if belief else (*faults.NAMES, faults.SWING)
    unknown = [name for name in only if name not in known]
    if unknown:
        what = "act of belief" if belief else "fault"
        raise ValueError(f"no {what} is called {unknown[0]!r}: take one of {', '.join(known)}")
    if belief and suggest:
        raise ValueError("the acts of belief need an agent that acts: leave --suggest away")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_signals())
        live = (
            stack.enter_context(Live(console=screen, refresh_per_second=4, transient=True))
            if moves
            else None
        )
        progress = Progress(screen, live)
        ground = Ground(stack.enter_context(_folder(keep)), seed, more)
        stack.callback(ground.end)
        try:
            return _play(
                ground, progress, only=only, belief=belief, suggest=suggest, press=press,
                json_out=json_out,
            )  # fmt: skip
        except Broken as broken:
            progress.say(str(broken), "bold red")
            for line in ground.last_words():
                progress.say(f"  {line}", "dim")
            return 1
        except KeyboardInterrupt:
            progress.say("stopped; everything that was started is ended", "yellow")
            return 130


def _play(
    ground: Ground,
    progress: Progress,
    *,
    only: Sequence[str],
    belief: bool,
    suggest: bool,
    press: bool,
    json_out: Path,
) -> int:
    drawn = [] if belief else faults.draw(ground.seed, only)
    acts = [a for a in beliefs.ACTS.values() if not only or a.name in only] if belief else []
    score = card.Card(ground.seed, sum(fault is not None for fault in drawn), believed=len(acts))
    progress.say(f"homeostat demo, seed {ground.seed}, in {ground.folder}", "bold")
    truth = _prepare(ground, progress)
    quiet = _measure_quiet(truth, progress, ground)
    latency_s = settings.latency_objective(quiet)
    progress.say(f"quiet p95 is {quiet * 1000:.0f} ms: the objective is {latency_s * 1000:.0f} ms, "
                 f"that on accuracy (upper 95 % bound) {settings.ACCURACY:.0%}")  # fmt: skip
    fronts = beliefs.start_fronts(ground, acts)
    console = _start_agent(ground, latency_s, fronts, suggest=suggest, belief=belief)
    progress.say(f"the agent watches; its console: {console.url}/", "bold")
    person = Person(console, progress.say, ground.state, press) if suggest else None
    play = Play(ground, console, progress, truth, latency_s, person)
    progress.say(f"it learns a whole day ({DAY_S:g} s) before anything breaks")
    before = play.quiet("before any fault", _HABIT_S)
    if not before.right:
        score.rows.append(before)
    for fault in drawn:
        score.rows.append(play.swing() if fault is None else play.fault(fault))
    for act in acts:
        score.beliefs.append(beliefs.show(act, play))
    score.seconds = time.monotonic() - progress.began
    play.truth.look(time.time())
    score.asked, score.failed = play.truth.asked, play.truth.failed
    changed = settings.changed(ground)
    console.close()
    if progress.live is not None:
        progress.live.stop()
    card.show(progress.screen, score, changed, settings.compressed())
    line = score.write(json_out)
    progress.screen.file.write(line + "\n")
    progress.screen.file.flush()
    return 0 if score.right else 1
