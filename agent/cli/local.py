"""Commands that need no daemon: look around, check, try, run, demo, install."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent import control
from agent.cli import (
    AsJson,
    ConfigPath,
    StateFolder,
    command,
    emit,
    note,
)
from agent.errors import ConfigError, Refused, Unavailable
from agent.imports import without

if TYPE_CHECKING:
    from agent.config import Config

_SHOWN: Final = 40


@command(example="homeostat init", then="homeostat check, homeostat try host, homeostat run")
def init(
    *,
    models: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Look for models here too.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write over an agent.yaml that is there.")
    ] = False,
    only_print: Annotated[bool, typer.Option("--print", help="Print it, write nothing.")] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Look around here and write a first agent.yaml.

    Every line of it has a comment. Looks for GPUs, containers, metric servers on the usual ports, model
    folders, gunicorn masters and systemd. It changes nothing but that one file, and the file allows no act:
    `manages:` is empty.
    """
    from agent import surroundings

    found = surroundings.look(folders=[p.absolute() for p in models or ()])
    day = time.strftime("%Y-%m-%d")
    text = _sound(found, day)
    path = config or control.default_config()
    if not only_print:
        surroundings.write(text, path, force=force)
    said = {
        "found": [{"what": what, "text": text} for what, text in surroundings.tell(found)],
        "config": str(path), "written": not only_print, "text": text,
    }  # fmt: skip

    def show(_: Any) -> None:
        if only_print:
            typer.echo(text, nl=False)
            return
        for what, line in surroundings.tell(found):
            typer.echo(f"{what:11}{line}")
        at = "" if path == control.default_config() else f" --config {path}"
        typer.echo(f"\nWrote {path}. Nothing is acted on: `manages:` is empty.")
        typer.echo(f"Next:  homeostat check{at}\n       homeostat run{at}")

    emit(said, as_json, show)


def _sound(found: Any, day: str) -> str:
    """Return a file that passes `check`: what a connector does not accept stays a comment."""
    import tempfile

    from agent import registry, surroundings
    from agent.config import load

    registry.load()
    with tempfile.TemporaryDirectory(prefix="homeostat-") as folder:
        path = Path(folder) / "agent.yaml"
        for plain in (False, True):
            text = surroundings.yaml(found, day=day, plain=plain)
            path.write_text(text, encoding="utf-8")
            try:
                load(path)
            except ConfigError:
                if plain:
                    raise
            else:
                return text
    raise AssertionError("unreachable: the plain file loads or raises")


@command(example="homeostat run", then="open http://127.0.0.1:8787, or: homeostat status")
def run(
    *,
    config: ConfigPath = None,
    state: StateFolder = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Log JSON lines instead of text.")
    ] = False,
) -> None:
    """Run the daemon in the foreground, until Ctrl-C.

    Without an agent.yaml it watches this host with built-in defaults and acts on nothing. SIGHUP reads agent.yaml
    again, SIGTERM drains: runs stop at a step and go on after the next start.
    """
    # structlog would take rich along, for tracebacks in colour that we do not show: 5 MB for as long as it runs
    with without("rich"):
        import structlog  # noqa: F401
    from agent.daemon import run as run_daemon

    raise typer.Exit(run_daemon(control.config_path(config), state=state, log_json=log_json))


@command(example="homeostat check", then="homeostat run, or homeostat reload when the daemon runs")
def check(*, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Check agent.yaml, services.d/ and the playbooks.

    Tells every fault at once, with file, line, column and remedy. Exit code 2 when there is a fault. The daemon
    and its config stay as they are.
    """
    from agent import registry
    from agent.config import load

    registry.load()
    path = control.config_path(config)
    loaded = load(path)
    said = _summary(path, loaded)
    from agent.cli import tables

    emit(said, as_json, tables.check)


def _summary(path: Path | None, config: Config) -> dict[str, Any]:
    """Say what will run, and how far it may go."""
    from agent.budget import Promise
    from agent.daemon import wanted_connectors
    from agent.playbook import Library
    from agent.playbook.library import folders

    library = Library.load(folders(path, config), config)
    objectives = sum(len(s.objectives) for s in config.services) + len(config.objectives)
    return {
        "config": str(path or ""), "ok": True, "mode": config.mode, "listen": config.listen,
        "manages": [m.model_dump(exclude_defaults=True) for m in config.manages],
        "connectors": sorted(wanted_connectors(config)),
        "services": [s.id for s in config.services], "objectives": objectives,
        "budget": asdict(Promise.of(config.budget)),
        "playbooks": [
            {"id": p.id, "title": p.title, "mode": p.ceiling(config), "cause": p.because.cause}
            for p in library.playbooks.values()
        ],
    }  # fmt: skip


@command(
    example="homeostat windows", then="homeostat check; more of them: `maintenance:` in agent.yaml"
)
def windows(
    *,
    most: Annotated[int, typer.Option("--most", "-n", min=1, max=1000, help="How many.")] = 10,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """List the maintenance windows that are open or come next.

    As `maintenance:` of agent.yaml says, on the clock of each window and on that of this host. In one, nothing is
    touched; people are told all the same.
    """
    from agent import registry
    from agent.cli import tables
    from agent.config import load
    from agent.windows import upcoming

    registry.load()
    now = time.time()
    said = [
        {
            "name": w.name, "start": start, "end": end, "open": start <= now, "timezone": w.timezone,
            "scope": [m.model_dump(exclude_defaults=True) for m in w.scope], "reason": w.reason,
        }
        for start, end, w in upcoming(load(control.config_path(config)).maintenance, now, most)
    ]  # fmt: skip
    emit(said, as_json, tables.windows)


@command(
    "try",
    example=(
        "homeostat try host",
        "homeostat try predictions --set path=/var/log/fraud.jsonl",
        "homeostat try batch_scoring --set model=churn --set path=/data/scores/*.parquet --set columns.cust_no=id",
    ),
    then="add it under `connectors:` in agent.yaml, then homeostat check",
)
def try_source(
    *,
    source: Annotated[str, typer.Argument(help="Name in agent.yaml, or of a kind of connector.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, beside agent.yaml."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="All series, not the first forty.")
    ] = False,
    send: Annotated[
        bool, typer.Option("--send", help="Send one test note, or one heartbeat.")
    ] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Ask one source alone what it sees and what it may do.

    Reads twice, so that counters become rates. Of prediction logs it shows how many rows are accepted, what each column
    is taken for, and what each check still waits for. Of a way to people it says where it would send, and sends only
    with --send. Changes nothing else, needs no daemon. Exit code 1 when it does not answer.
    """
    from agent import registry, trying
    from agent.cli import tables
    from agent.config import load
    from agent.telemetry import logging_aside

    registry.load()
    path = control.config_path(config)
    own: dict[str, Any] = {}
    for one in setting or ():
        key, equals, value = one.partition("=")
        if not (key and equals):
            raise Refused(f"not a setting: {one!r}; write it like --set path=/srv/models")
        name, dot, inner = key.partition(".")  # columns.cust_no=id: one entry of a map
        if dot:
            own.setdefault(name, {})[inner] = value
        else:
            own[key] = value
    try:
        with logging_aside():
            seen = asyncio.run(trying.look(source, load(path), own, send=send))
    except Unavailable as silent:  # it is the source that does not answer, not the daemon: exit 1
        raise Refused(str(silent)) from None
    emit(seen, as_json, lambda s: tables.tried(s, None if everything else _SHOWN))


@command(
    example=(
        "homeostat demo",
        "homeostat demo --suggest   (you press approve in the console)",
        'homeostat demo --belief --only "killed in mid-run"',
    ),
    then="homeostat init, to watch something of yours",
)
def demo(
    *,
    seed: Annotated[
        int | None,
        typer.Option(help="Order and severity of the faults; the same seed, the same show."),
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Nothing acts until you approve it.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these faults, or acts of belief.")
    ] = None,
    belief: Annotated[
        bool,
        typer.Option(
            "--belief", help="Six things done to the agent itself, instead of the faults."
        ),
    ] = False,
    json_out: Annotated[
        Path, typer.Option("--json-out", metavar="FILE", help="Where the score card goes as JSON.")
    ] = Path("build/demo.json"),
    keep: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Play here, and keep it to look into.")
    ] = None,
    more: Annotated[
        Path | None,
        typer.Option(
            "--with", metavar="FILE", help="Show it to these connectors, too: Slack, mail."
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Lines instead of a live picture.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Break a real model service and watch it heal.

    Five faults, in under five minutes. Starts a service with workers and a model, a load with late labels, and
    the daemon on `auto` for exactly these; injects faults one after another; ends with a score card. Everything
    lives in a folder of its own. With --belief the agent itself is put to the test: killed in the middle of a roll
    back, given a wrong playbook, blinded, crossed by a person, paused, and shown the same symptom everywhere.
    FILE of --with is an agent.yaml with nothing but `connectors:`.
    """
    from agent.demo import must_be_installed

    must_be_installed()  # before what is imported next asks for it
    from agent.demo.settings import more_connectors
    from agent.demo.stage import demo as play

    try:
        code = play(
            seed=seed, suggest=suggest, belief=belief, only=only or (), json_out=json_out, keep=keep,
            more=more_connectors(more) if more else {}, plain=plain or as_json, out=sys.stderr if as_json else None,
        )  # fmt: skip
    except ValueError as error:
        said, _, remedy = str(error).partition(": ")
        raise Refused(f"{said}; {remedy}") from None
    if as_json and json_out.exists():
        typer.echo(json_out.read_text(encoding="utf-8").rstrip())
    raise typer.Exit(code)


@command(
    example=("homeostat install", "sudo homeostat install --write"),
    then="systemctl daemon-reload && systemctl enable --now homeostat",
)
def install(
    *,
    write: Annotated[
        bool,
        typer.Option("--write/--print", help="Write the unit to /etc/systemd/system, or print it."),
    ] = False,
    user: Annotated[
        str, typer.Option(help="Run as this user instead of a fresh one of systemd's own.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a unit that differs.")] = False,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Print or write a systemd unit.

    It has least privileges, and the reason for each line stands above it. Capabilities follow from `manages:`:
    a daemon that only watches has none. Run it again when agent.yaml changes what may be acted on.
    """
    from agent import install as unit
    from agent import registry, surroundings
    from agent.config import Config, load

    registry.load()
    path = config or Path("/etc/homeostat/agent.yaml")
    loaded = load(path) if path.is_file() else Config()
    machine = unit.machine(surroundings.gpu_drivers())
    folder = state or loaded.state or unit.STATE
    sections = unit.plan(loaded, machine, config_path=path.absolute(), state=folder, user=user)
    warnings = unit.warnings(machine, config_path=path, user=user)
    fresh = unit.write(sections, force=force) if write else False
    said = {
        "path": str(unit.UNIT_PATH), "written": fresh, "warnings": warnings,
        "lines": [
            {"section": s.name, "key": x.key, "value": x.value, "why": x.why}
            for s in sections for x in s.lines
        ],
    }  # fmt: skip

    def show(_: Any) -> None:
        if not write:
            typer.echo(unit.text(sections), nl=False)
            return
        typer.echo(f"{'wrote' if fresh else 'unchanged:'} {unit.UNIT_PATH}")
        typer.echo("Next:  systemctl daemon-reload && systemctl enable --now homeostat")

    emit(said, as_json, show)
    for line in warnings:
        note(f"warning: {line}")
