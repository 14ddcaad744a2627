"""The acts of belief: what people do, or fear, to an agent that may act, done to it for real and checked.

    killed in mid-run      kill -9 between the move of the pointer and its record -> one roll back, the run goes on
    everywhere at once     all front ends stop answering                          -> no act, people are called
    wrong playbook         a user's playbook makes it worse                       -> harmed, undone, demoted
    paused in mid-run      `homeostat pause` between two steps                    -> it stops there; resume goes on
    blinded                the prediction log is cut, and a bad release comes     -> unknown, no act; then it heals
    a person meddles       somebody moves the pointer while it is about to        -> it backs off and tells

To hit a run in the middle for sure, the lock of the model directory is held, as any pipeline holds it that moves the
pointer: the agent waits for it. That it has begun to wait is read from its journal, where it notes what it is about to
do; so is what it had noted when it was killed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from agent.demo import settings
from agent.demo.card import Belief
from agent.demo.faults import BadRelease, UnitChange
from agent.demo.ground import MODEL, Ground, free_port
from agent.demo.load import World
from agent.demo.play import Broken, Play, acted, serious, verdict
from agent.demo.trainer import champion, locked, move, promote
from agent.demo.truth import Lines
from agent.errors import AgentError
from agent.journal import JournalReader
from agent.model import ENDED
from agent.views import RunView

_SOON_S: Final = 40.0
"""So long it may take until a run comes to its verdict."""
_AT_WORK_S: Final = 90.0
"""So long until the agent is at work on a fault: its playbook may still rest from the act before."""
_SETTLE_S: Final = 90.0
_STILL_S: Final = 5.0
"""What must not happen is waited for so long."""
_LATE_S: Final = 12.0
"""Labels come late: what is newer than this has too few."""
_BAD: Final = 0.6
_MILD: Final = 0.45
"""Shares of wrong labels: of a bad release (accuracy about .6), and of one that can still be made worse (.78)."""
_WORSE: Final = 0.95
"""Of the version that the wrong playbook takes (accuracy about .38)."""
_FRONTS: Final = 4

Check = Callable[[Play, Belief], None]


@dataclass(frozen=True, slots=True)
class Act:
    """One act: its name, what is done in words, and what does it; that fills in the checks of the row."""

    name: str
    did: str
    do: Check


ACTS: Final[dict[str, Act]] = {}


def _act(name: str, did: str) -> Callable[[Check], Check]:
    def note(do: Check) -> Check:
        ACTS[name] = Act(name, did, do)
        return do

    return note


def show(act: Act, play: Play) -> Belief:
    """Do it, check what must hold, and put the world in order again."""
    row = Belief(act.name, act.did)
    play.progress.say(f"{act.name}: {act.did}", "bold magenta")
    began, since = time.monotonic(), time.time()
    try:
        act.do(play, row)
    except Broken as broken:  # the next act may well be shown
        row.checks[str(broken)] = False
    finally:
        play.ground.turn(World())
    settled = play.watch(f"after {act.name}", _SETTLE_S, _well(play))
    row.checks["all is well again afterwards"] = settled is not None
    row.seconds = time.monotonic() - began
    runs = play.worked(since)
    row.acts = [f"{r['playbook']} ({verdict(r) or r['state']})" for r in runs]
    row.harmful = sum(verdict(r) == "harmed" and r["playbook"] != _WRONG for r in runs)
    for what, well in row.checks.items():
        play.progress.say(f"  {'✓' if well else '✗'} {what}", "bold green" if well else "bold red")
    return row


# ---------------------------------------------------------------- what several of them need


def start_fronts(ground: Ground, acts: Sequence[Act]) -> dict[str, int]:
    """Start the small front ends if one of the acts needs them; returns their names and ports."""
    if not any(act.do is _everywhere for act in acts):
        return {}
    fronts = {f"front-{n}": free_port() for n in range(1, _FRONTS + 1)}
    for name, port in fronts.items():
        ground.start_front(name, port)
    return fronts


def _journal(play: Play, *kinds: str, since: float) -> list[Any]:
    """Return entries of the agent's journal, oldest first."""
    reader = JournalReader(play.ground.state / "journal.sqlite")
    try:
        return list(reader.read(kinds, since=since))
    finally:
        reader.close()


def _about_to(play: Play, step: str, since: float) -> str:
    """Return the run that has noted that it is about to do a step, and not yet what came of it; "" = none."""
    begun = ""
    with contextlib.suppress(AgentError):
        for entry in _journal(play, "intent", "acted", since=since):
            if entry.body["step"] == step:
                begun = entry.subject if entry.kind == "intent" else ""
    return begun


def _wait_for_intent(play: Play, step: str, since: float, name: str) -> str:
    """Look on until a run is about to do a step; returns its id."""
    found = ""

    def begun(_: float) -> bool:
        nonlocal found
        found = _about_to(play, step, since)
        return bool(found)

    if play.watch(name, _AT_WORK_S, begun) is None:
        raise Broken(f"the agent did not come to the step {step} within {_AT_WORK_S:.0f} s")
    return found


def _run(play: Play, id_: str, seconds: float, done: Callable[[RunView], bool]) -> RunView | None:
    """Look on until a run is as it should be; returns it, or None."""

    def there(_: float) -> bool:
        return id_ in play.runs and done(play.runs[id_])

    return None if play.watch("the run", seconds, there) is None else play.runs[id_]


def _well(play: Play) -> Callable[[float], bool]:
    """Return whether nothing is under way any more and clients have been served well of late."""
    return lambda now: play.settled(now, now - _LATE_S)


def _ended(run: RunView) -> bool:
    return run["state"] in ENDED


def _healed(play: Play, playbook: str, since: float) -> bool:
    """Look on until a playbook has helped; tell whether it did."""
    return (
        play.watch(
            "until it is healed", _AT_WORK_S,
            lambda _: any(
                r["playbook"] == playbook and verdict(r) == "helped" for r in play.worked(since)
            ),
        )
        is not None
    )  # fmt: skip


def _pages(play: Play, since: float) -> list[dict[str, Any]]:
    return [p for p in play.console.pages() if float(p["ts"]) >= since and p["severity"] == "page"]


def _command(play: Play, *argv: str) -> None:
    """Run `homeostat ...` as a person would."""
    play.progress.say(f"  a person types: homeostat {' '.join(argv)}", "bold")
    play.ground.run("homeostat", play.ground.python(
        "agent", *argv, "--config", play.ground.config, "--state", play.ground.state,
    ))  # fmt: skip


@contextlib.contextmanager
def _lent(play: Play, playbook: dict[str, Any]) -> Iterator[None]:
    """Let the agent have one more playbook for a while, as a user adds one: a file, and a reload."""
    path = play.ground.playbooks / f"{playbook['id']}.yaml"
    settings.write(path, playbook, "A user's own playbook.")
    _command(play, "reload")
    if play.console.playbook(playbook["id"]) is None:
        raise Broken(f"the agent did not take {path}")
    try:
        yield
    finally:
        path.unlink()
        _command(play, "reload")


def _pointer(ground: Ground) -> tuple[int, bytes]:
    """Return which file is the pointer now, and what is in it: it is replaced whole at each move."""
    return ground.pointer.stat().st_ino, ground.pointer.read_bytes()


# ---------------------------------------------------------------- the six


@_act("killed in mid-run", "kill -9 of the daemon the moment its roll back has moved the pointer")
def _killed(play: Play, row: Belief) -> None:
    ground, began = play.ground, time.time()
    good = champion(ground.versions)
    BadRelease(_BAD).start(ground)
    with locked(ground.versions):
        run = _wait_for_intent(play, "roll_back", began, "until it rolls back")
        before = _pointer(ground)[0]
    until = time.monotonic() + 10.0
    while ground.pointer.stat().st_ino == before and time.monotonic() < until:
        pass  # no sleep: the record of the move follows within milliseconds
    ground.kill(ground.agent)
    moved = _pointer(ground)
    noted = _about_to(play, "roll_back", began) == run
    row.said = (
        "its journal knew what it was about to do, not yet that it was done"
        if noted
        else "its journal knew already that the pointer had moved"
    )
    play.progress.say(f"  killed -9; {row.said}", "bold")
    ground.start_agent()
    play.watch("until the agent is back", _SOON_S, lambda _: play.console.ready())
    found = _run(play, run, _AT_WORK_S, _ended)
    # what it saw in the seconds before the kill may be lost with it: the verdict may then be that it can not be told
    row.checks["the run that was cut goes on after the restart, to its end"] = (
        found is not None and found["state"] == "done" and verdict(found) != "harmed"
    )
    row.checks["exactly one roll back in the registry: the pointer was not touched again"] = (
        _pointer(ground) == moved
        and json.loads(moved[1])["version"] == good
        and json.loads(moved[1])["by"] == f"homeostat:{run}"
    )
    steps = [s["status"] for s in found["steps"] if s["use"] == "roll_back"] if found else []
    row.checks["exactly one in the record of the run"] = steps in (["done"], ["adopted"])


@_act("everywhere at once", "all front ends stop answering; a playbook would restart each")
def _everywhere(play: Play, row: Belief) -> None:
    ground = play.ground
    with _lent(play, settings.restart_silent()):
        began = time.time()
        fronts = ground.named("front-")
        for one in fronts:
            os.killpg(one.pid, signal.SIGSTOP)
        try:

            def stopped(_: float) -> bool:
                return any("correlated" in _gates(d) for d in _decided(play, began))

            held = play.watch("until the guard says no", _SOON_S, stopped)
            play.watch("whether it leaves them alone", _STILL_S)
            row.checks["the guard says no: the same symptom is nearly everywhere"] = (
                held is not None
            )
            for gate in [
                g for d in _decided(play, began)[-1:] for g in d["gates"] if not g["passed"]
            ]:
                play.progress.say(f"  {gate['name']}: {gate['value']}; {gate['reason']}", "bold")
            row.checks["nothing is restarted"] = not [
                r for r in play.runs.values() if r["started"] >= began and acted(r)
            ]
            row.checks["people are called"] = bool(_pages(play, began))
        finally:
            for one in fronts:
                os.killpg(one.pid, signal.SIGCONT)
        play.watch(
            "until they answer", _SETTLE_S,
            lambda _: all(i["state"] == "resolved" for i in play.incidents.values() if serious(i)),
        )  # fmt: skip


def _decided(play: Play, since: float) -> list[Any]:
    """Return what the guard said about the playbook that would restart, oldest first."""
    found = [
        d for i in play.incidents.values() for d in i["decisions"]
        if d["ts"] >= since and d["playbook"] == "restart-silent"
    ]  # fmt: skip
    return sorted(found, key=lambda d: float(d["ts"]))


def _gates(decision: Any) -> set[str]:
    """Return the gates that were closed."""
    return {g["name"] for g in decision["gates"] if not g["passed"]}


_WRONG: Final = "push-forward"


@_act(
    "wrong playbook", "a user's playbook answers a bad release with a version that is worse still"
)
def _wrong(play: Play, row: Belief) -> None:
    ground = play.ground
    told = ground.run("a training", ground.python(
        "agent.demo.trainer", "release", "--root", ground.models, "--model", MODEL,
        "--wrong", _WORSE, "--seed", ground.seed, "--only-train",
    ))  # fmt: skip
    worst = str(json.loads(told.splitlines()[-1])["version"])
    began = time.time()
    with _lent(play, settings.wrong_idea(worst)):
        BadRelease(_MILD).start(ground)

        def judged(_: float) -> bool:
            return any(r["playbook"] == _WRONG and _ended(r) for r in play.runs.values())

        play.watch("until the wrong playbook is judged", _AT_WORK_S, judged)
        runs = [r for r in play.worked(began) if r["playbook"] == _WRONG]
        outcome = runs[0]["outcome"] if runs else None
        row.checks["its verdict is: harmed"] = (
            outcome is not None and outcome["verdict"] == "harmed"
        )
        row.checks["what it did is undone"] = outcome is not None and outcome["undone"]
        now = play.console.playbook(_WRONG)
        row.checks["it is demoted: from now on it only suggests"] = (
            now is not None and now["own_mode"] == "auto" and now["mode"] == "suggest"
        )
        if now is not None:
            play.progress.say(f"  {_WRONG} may {now['mode']}: {'; '.join(now['why'])}", "bold")
        row.checks["people are called"] = any(
            "did not help" in p["title"] for p in _pages(play, began)
        )
        row.checks["then the right playbook heals"] = _healed(play, "serve-bad-deploy", began)
        runs = [r for r in play.worked(began) if r["playbook"] == _WRONG]
        row.checks["it did not act again"] = len(runs) == 1


@_act("paused in mid-run", "`homeostat pause` while the first of several steps is under way")
def _paused(play: Play, row: Belief) -> None:
    ground, began = play.ground, time.time()
    good = champion(ground.versions)
    UnitChange(100.0).start(ground)
    with locked(ground.versions):
        run = _wait_for_intent(play, "hold", began, "until it holds retraining")
        _command(play, "pause", "--reason", "let me look at this first")
    held = _run(play, run, 15.0, lambda r: r["state"] == "paused")
    play.watch("whether it stands still", _STILL_S)
    row.checks["it stops at the step boundary: the first step is done, the second is not"] = (
        held is not None
        and play.runs[run]["state"] == "paused"
        and (ground.versions / "RETRAINING_HELD").exists()
        and champion(ground.versions) == good
    )
    _command(play, "resume")
    found = _run(play, run, _SOON_S, lambda r: verdict(r) == "helped")
    row.checks["resume goes on where it stopped, and it helped"] = found is not None
    ground.turn(World())
    ended = _run(play, run, _SETTLE_S, _ended)
    row.checks["what was temporary is put back"] = (
        ended is not None and champion(ground.versions) == good
        and not (ground.versions / "RETRAINING_HELD").exists()
    )  # fmt: skip


@_act("blinded", "the prediction log is turned into a pipe, and then a bad release comes")
def _blinded(play: Play, row: Belief) -> None:
    began = time.time()
    with _Cut(play) as cut:
        blind = play.watch(
            "until it notices", _SOON_S,
            lambda _: any(
                i["opened"] >= began and i["causes"] and i["causes"][0]["kind"] == "observer.blind"
                for i in play.incidents.values()
            ),
        )  # fmt: skip
        row.checks["it says that it is blind"] = blind is not None
        released = time.time()
        BadRelease(_BAD).start(play.ground)
        play.progress.say("  a bad release comes, unseen", "bold")
        hurt = play.watch(
            "until clients are hurt", _SOON_S,
            lambda now: (play.truth.accuracy(max(released + 1.0, now - 6.0)) or 1.0) < settings.ACCURACY,
        )  # fmt: skip
        play.watch("what it does blind", 2 * _STILL_S)
        row.checks["clients are hurt meanwhile"] = hurt is not None
        row.checks["what it does not see is unknown: no act"] = not play.worked(began)
        cut.mend()
        play.progress.say("  the log is a file again, with all that came meanwhile", "bold")
        row.checks["it sees again, and heals"] = _healed(play, "serve-bad-deploy", began)


@_act("a person meddles", "somebody moves the pointer while the agent is about to")
def _meddled(play: Play, row: Belief) -> None:
    ground, began = play.ground, time.time()
    good = champion(ground.versions)
    other = _backup(ground)
    BadRelease(_BAD).start(ground)
    with locked(ground.versions):
        run = _wait_for_intent(play, "roll_back", began, "until it rolls back")
        move(ground.versions, other, "ann")
        play.progress.say(f"  ann moves the pointer to version {other}", "bold")
    found = _run(play, run, _SOON_S, _ended)
    row.checks["the run stops"] = found is not None and found["state"] == "failed"
    row.checks["it says who moved it"] = found is not None and "ann" in found["text"]
    row.checks["it tells people"] = any(
        p["title"].startswith("failed") for p in _pages(play, began)
    )
    play.watch("whether it leaves that alone", 2 * _STILL_S)
    row.checks["what ann chose stays"] = champion(ground.versions) == other
    play.watch("until all is well", _SETTLE_S, _well(play))
    promote(ground.versions, good, by="ann")


def _backup(ground: Ground) -> str:
    """Return a version that does without the strongest feature."""
    for path in sorted(ground.versions.glob("*/metadata.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["role"] == "backup":
            return str(about["version"])
    raise Broken(f"there is no backup version in {ground.versions}")


@dataclass(slots=True)
class _Cut:
    """Cuts the prediction log: it becomes a named pipe, which only somebody else reads; `mend` makes it a file again.

    Whoever reads the pipe writes what comes into a file, which takes the name back when all is mended: nothing that
    the service said is lost, as with a log shipper that was set up wrongly for a while.
    """

    play: Play
    _stop: threading.Event = field(default_factory=threading.Event)
    _reader: threading.Thread | None = None

    @property
    def _log(self) -> Path:
        return self.play.ground.predictions

    @property
    def _aside(self) -> Path:
        return self.play.ground.folder / "world" / "shipped.jsonl"

    def __enter__(self) -> Self:
        log = self._log
        pipe = log.with_name("pipe")  # made aside, so that the name is never without a file
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.play.truth.predictions = Lines(self._aside)
        pipe.replace(log)
        self._reader = threading.Thread(
            target=self._drain, args=(reader, self._aside.open("ab", buffering=0)), daemon=True
        )
        self._reader.start()
        self.play.progress.say(
            "  the prediction log is a pipe now, and somebody else reads it", "bold"
        )
        return self

    def _drain(self, reader: int, out: io.FileIO) -> None:
        with out:
            while not self._stop.is_set():
                with contextlib.suppress(BlockingIOError):
                    out.write(os.read(reader, 65536))
                time.sleep(0.02)
        os.close(reader)

    def mend(self) -> None:
        """Give the name back to a file; once."""
        if self._reader is None:
            return
        self._aside.replace(self._log)  # the reader goes on writing into it
        self.play.truth.predictions.path = self._log
        time.sleep(1.0)  # the service goes over to the file
        self._stop.set()
        self._reader.join()
        self._reader = None

    def __exit__(self, *_: object) -> None:
        self.mend()
