"""`homeostat replay`: playbooks over recorded time, without a daemon and without an act."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from agent.cli import PROBLEMS, AsJson, ConfigPath, StateFolder, command, emit, where
from agent.errors import Refused, Unavailable
from agent.replay_report import differs, iso, notes, said_of, show
from agent.units import read_duration, read_moment

if TYPE_CHECKING:
    from agent.config import Config
    from agent.journal import Entry
    from agent.model import Incident, Run, Series
    from agent.playbook import Library, Playbook
    from agent.replay import Found, Past

V = TypeVar("V")

_MOST_BYTES: Final = 4e9
_SERIES: Final = re.compile(r"\s*([a-z0-9_.]+\{[^}]*\})\s*=\s*(.+)", re.DOTALL)


@command(
    "replay",
    example=(
        "homeostat replay --from 24h",
        "homeostat replay gpu-hot.yaml --file march.parquet --expect-no-acts",
        "homeostat replay --against playbooks.d/ --from 7d --json",
        "homeostat replay --prometheus http://127.0.0.1:9090 --from 6h --step 15s",
    ),
    then="homeostat playbook explain ID; edit it; replay again",
)
def replay(
    *,
    which: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLAYBOOK]...",
            help="Only these: files, folders, or ids of known playbooks; none = all.",
        ),
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="TIME",
                          help="From when on: 24h (ago), 14:05, 2026-11-23T14:00 or unix seconds.",
                          show_default="the beginning; 1h with --prometheus")
    ] = "",
    end: Annotated[
        str, typer.Option("--to", metavar="TIME", help="Until when.", show_default="the end")
    ] = "",
    warm: Annotated[
        str, typer.Option(metavar="TIME", help="So much before is walked to learn from, and not told.")
    ] = "1h",
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV or parquet of series instead of history.")
    ] = None,
    prometheus: Annotated[
        str, typer.Option(metavar="URL", help="A Prometheus instead of history.")
    ] = "",
    query: Annotated[
        list[str] | None, typer.Option(metavar="SERIES=PROMQL", help="What it shall be asked beside homeostat's own.")
    ] = None,
    step: Annotated[
        str, typer.Option(metavar="TIME", help="Between two rows of Prometheus.")
    ] = "15s",
    token: Annotated[
        str, typer.Option(metavar="SECRET", help="Bearer token for Prometheus: env:NAME or file:PATH.")
    ] = "",
    playbooks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Playbooks in the place of the site's own.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Replay with these, too, and tell what differs.")
    ] = None,
    expect_no_acts: Annotated[
        bool, typer.Option("--expect-no-acts", help="Exit code 1 when anything would be done.")
    ] = False,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Walk playbooks over recorded time; nothing acts.

    The daemon's own code over its history, a file, or a range of Prometheus: which incidents would have been opened
    and paged, what would have been done or suggested, which gates of the guard would have stopped it, and how that
    compares with what the journal recorded. Works beside a living daemon and without one; writes nothing. What an
    act would have changed is not known, so each ends as `cannot tell`. With --against, exit code 1 when two versions
    would act otherwise.
    """
    from agent import registry
    from agent.cli.playbook import sound

    registry.load()
    config_path, folder = where(config, state)
    opened = sound(which or (), config_path, playbooks)
    other = sound((), config_path, against) if against is not None else None
    loaded = opened.config or _defaults()
    with contextlib.ExitStack() as stack:
        if file is not None or prometheus:
            source = _elsewhere(file, prometheus, query or (), _seconds(step, "--step"), token)
        else:
            source = _history(folder, stack)
        if query and source.kind != "prometheus":
            raise Refused("--query asks a Prometheus; say which with --prometheus URL")
        span = _span(source, start, end)
        told, incidents, runs = _journal(folder) if source.kind == "history" else ([], [], [])

        def walk(books: Sequence[Playbook], name: str) -> tuple[Found, float]:
            from agent.replay import Replay

            room = tempfile.TemporaryDirectory(prefix="homeostat-replay-")
            library, clock = _library(books), time.perf_counter()
            with room as place, _progress(name, *span, quiet=as_json) as progress:
                one = Replay(
                    source.past, loaded, library, folder=Path(place), told=told, graph=source.graph
                )
                try:
                    made = one.go(*span, warm_s=_seconds(warm, "--warm"), progress=progress)
                except Unavailable as gone:  # a past that can not be had is no daemon that is dead
                    raise Refused(str(gone)) from None
            return made, time.perf_counter() - clock

        found, took_s = walk(opened.books, "replay")
        if not found.ticks:
            also = ", and whether it holds what --query asks for, or homeostat_... by name"
            raise Refused(
                f"{source.place} has no rows {_said_span(span)}; look at --from and --to"
                + (also if source.kind == "prometheus" else "")
            )
        said = said_of(found, took_s, incidents, runs) | {
            "past": {"kind": source.kind, "place": source.place}, "playbooks": len(opened.books),
            "notes": notes(found, loaded, source.kind),
        }  # fmt: skip
        if other is not None:
            from agent.replay import difference

            same = {b.id for b in opened.books}
            books = [b for b in other.books if not which or b.id in same]
            second, _ = walk(books, "against")
            said["against"] = differs(str(against), difference(found, second))
    wrong = bool(expect_no_acts and said["acts"]) or bool(said.get("against", {}).get("differs"))
    emit(said | {"ok": not wrong}, as_json, show)
    if wrong:
        raise typer.Exit(PROBLEMS)


# ---------------------------------------------------------------- what is asked


def _defaults() -> Config:
    from agent.config import Config

    return Config()


def _library(books: Sequence[Playbook]) -> Library:
    from agent.playbook import Library

    return Library({b.id: b for b in books if b.enabled})


@dataclass(frozen=True, slots=True)
class _Source:
    """What is walked over, which kind it is and where it lies, and the folder with the graph of then."""

    past: Past
    kind: str
    place: str
    graph: Path | None = None


def _history(folder: Path, stack: contextlib.ExitStack) -> _Source:
    from agent.recorded import Recorded

    history = folder / "history"
    return _Source(stack.enter_context(Recorded(history)), "history", str(history), history)


def _elsewhere(
    file: Path | None, prometheus: str, queries: Sequence[str], step_s: float, token: str
) -> _Source:
    from agent import registry
    from agent.replay import FilePast
    from agent.rows import from_file

    if file is not None and prometheus:
        raise Refused("--file and --prometheus are two pasts; name one of them")
    if file is not None:
        rows = from_file(file, series, most_bytes=_MOST_BYTES)
        return _Source(FilePast(rows), "file", str(file))
    if step_s < 1 or step_s != int(step_s):
        raise Refused(f"--step {step_s:g}s is not whole seconds; write it like 15s")
    wanted = dict(_query(one) for one in queries)
    made = registry.past.get("prometheus")(prometheus, wanted, step_s=int(step_s), token=token)
    return _Source(made, "prometheus", prometheus)


def _span(source: _Source, start: str, end: str) -> tuple[float, float]:
    """Return from when to when: what is asked for, else all that there is, of Prometheus the last hour."""
    now, past = time.time(), source.past
    known = math.isfinite(past.start)
    begin = _moment(start, now, past.start if known else now - 3600.0, "--from")
    until = _moment(end, now, past.end if known else now, "--to")
    if begin >= until or begin > past.end or until < past.start:
        there = f"there is {_said_span((past.start, past.end))}" if known else "let --to be later"
        raise Refused(f"nothing lies {_said_span((begin, until))}; {there}")
    return begin, until


def _said_span(span: tuple[float, float]) -> str:
    return f"between {iso(span[0])} and {iso(span[1])}"


def series(text: str) -> Series:
    """Read `signal{kind:key,label=value}`; raises ValueError or KeyError when it is no signal of the catalogue."""
    from agent.catalogue import SIGNALS
    from agent.model import Series
    from agent.playbook.trial import notation

    signal, about, labels = notation(text)
    definition = SIGNALS[signal]
    if about is None:
        raise ValueError(f"`{text}` does not say whose it is")
    if about.kind != definition.entity_kind:
        raise ValueError(f"`{text}`: {signal} is of a {definition.entity_kind}")
    return Series(signal, about, labels)


def _query(text: str) -> tuple[Series, str]:
    found = _SERIES.fullmatch(text)
    example = "service.latency_p95_seconds{service:shop}=max(latency_p95)"
    if found is None:
        raise Refused(f"not a query: {text!r}; write it like {example}")
    try:
        return series(found[1]), found[2]
    except (ValueError, KeyError) as wrong:
        said = str(wrong) if isinstance(wrong, ValueError) else f"no signal is called {wrong}"
        raise Refused(f"--query {found[1]}: {said}; write it like {example}") from None


def _seconds(text: str, option: str) -> float:
    try:
        return float(read_duration(text))
    except ValueError as wrong:
        raise Refused(f"{option}: {wrong}") from None


def _moment(text: str, now: float, usual: float, option: str) -> float:
    if not text:
        return usual
    try:
        return read_moment(text, now)
    except ValueError as wrong:
        raise Refused(f"{option}: {wrong}") from None


def _journal(folder: Path) -> tuple[list[Entry], list[Incident], list[Run]]:
    """Return what came from outside then, and the incidents and runs that were; nothing when there is no journal."""
    from agent.journal import Journal
    from agent.model import Incident, Run
    from agent.replay import TOLD

    path = folder / "journal.sqlite"
    if not path.exists():
        return [], [], []
    journal = Journal.reader(path)
    try:
        # what our own runs silenced then is not for others to heed
        read = (e for e in journal.read(TOLD) if e.kind != "silence" or not _ours(e))
        told = sorted(read, key=lambda e: (e.ts, e.seq))
        incidents, runs = (
            _values(Incident, journal.latest("incident")), _values(Run, journal.latest("run"))
        )  # fmt: skip
    finally:
        journal.close()
    return told, incidents, runs


def _ours(entry: Entry) -> bool:
    return str(entry.body.get("by", "")).startswith("homeostat:")


def _values(cls: type[V], entries: Iterable[Entry]) -> list[V]:
    """Return what entries hold, but for those that another version wrote otherwise."""
    from pydantic import ValidationError

    from agent.codec import unpack

    out = []
    for entry in entries:
        with contextlib.suppress(ValidationError):
            out.append(unpack(cls, entry.body))
    return out


@contextlib.contextmanager
def _progress(
    name: str, start: float, end: float, *, quiet: bool
) -> Iterator[Callable[[float], None]]:
    """Show a bar on standard error, where somebody looks at it."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn(name), rich.BarColumn(), rich.TaskProgressColumn(), rich.TextColumn("{task.fields[at]}"),
        rich.TimeRemainingColumn(),
    )  # fmt: skip
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=end - start, at="")

        def tell(now: float) -> None:
            at = "learns" if now < start else iso(now)
            bar.update(task, completed=max(now - start, 0.0), at=at)

        yield tell
