"""`homeostat replay`: playbooks over recorded time, without a daemon and without an act."""

from __future__ import annotations

import contextlib
import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from agent.cli import PROBLEMS, AsJson, ConfigPath, StateFolder, command, emit, where
from agent.cli_playbook import count
from agent.errors import Refused, Unavailable
from agent.units import read_duration, read_moment, say_duration

if TYPE_CHECKING:
    from agent.config import Config
    from agent.journal import Entry
    from agent.model import Incident, Run, Series
    from agent.playbook import Library, Playbook
    from agent.replay import Act, Difference, Found, Past

V = TypeVar("V")

_MOST_BYTES: Final = 4e9
_SAME_ACT_S: Final = 600.0
"""A recorded run of the same playbook on the same target so near is the same act."""
_MOST_SHOWN: Final = 40
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
        str, typer.Option("--from", metavar="TIME", help="From when on: 24h (ago), unix seconds or 2026-11-23T14:00.",
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
    from agent.cli_playbook import sound

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
            raise Refused(f"{source.place} has no rows {_said_span(span)}; look at --from and --to")
        said = _said(found, took_s, incidents, runs) | {
            "past": {"kind": source.kind, "place": source.place}, "playbooks": len(opened.books),
            "notes": _notes(found, loaded, source.kind),
        }  # fmt: skip
        if other is not None:
            from agent.replay import difference

            same = {b.id for b in opened.books}
            books = [b for b in other.books if not which or b.id in same]
            second, _ = walk(books, "against")
            said["against"] = _differs(str(against), difference(found, second))
    wrong = bool(expect_no_acts and said["acts"]) or bool(said.get("against", {}).get("differs"))
    emit(said | {"ok": not wrong}, as_json, _show)
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
    return f"between {_iso(span[0])} and {_iso(span[1])}"


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


def _iso(ts: float) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


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
            at = "learns" if now < start else _iso(now)
            bar.update(task, completed=max(now - start, 0.0), at=at)

        yield tell


# ---------------------------------------------------------------- what is answered


def _said(
    found: Found, took_s: float, recorded: Sequence[Incident], runs: Sequence[Run]
) -> dict[str, Any]:
    from agent.replay import overlaps

    there = [
        i for i in recorded if i.opened <= found.end and (i.resolved or i.updated) >= found.start
    ]
    same = {one.id: [r.id for r in there if overlaps(one, r)] for one in found.incidents.values()}
    matched = {id_ for ids in same.values() for id_ in ids}
    walked = found.end - found.began
    gates: dict[str, set[tuple[str, str, str]]] = {}
    for held in found.held:
        for gate in held.gates:
            gates.setdefault(gate.name, set()).add((held.playbook, held.target.id, held.incident))
    for act in found.acts:
        for gate in act.held:
            gates.setdefault(gate.name, set()).add(
                (act.plan.playbook, act.plan.target, act.plan.incident)
            )
    return {
        "from": found.start, "to": found.end, "warmed_from": found.began,
        "series": len(found.series), "ticks": found.ticks, "cells": found.cells, "took_s": round(took_s, 3),
        "cells_per_second": round(found.cells / max(took_s, 1e-9)),
        "times_real_time": round(walked / max(took_s, 1e-9), 1),
        "incidents": [
            _incident(i, found, same[i.id])
            for i in sorted(found.incidents.values(), key=lambda i: (i.opened, i.id))
        ],
        "pages": len(found.pages), "pages_per_week": _every(len(found.pages), found, 604_800.0),
        "acts_per_day": _every(len(found.acts), found, 86_400.0),
        "acts": [_act(a, runs) for a in found.acts],
        "held": [
            {"playbook": h.playbook, "target": h.target.id, "incident": h.incident, "from": h.first, "to": h.last,
             "gates": [asdict(g) for g in h.gates]}
            for h in found.held
        ],
        "gates": {name: len(who) for name, who in sorted(gates.items(), key=lambda one: (-len(one[1]), one[0]))},
        "silent": [
            {"incident": incident, "playbook": playbook, "target": target, "reason": reason}
            for incident, some in sorted(found.silent.items())
            for (playbook, target), reason in sorted(some.items())
        ],
        "recorded": {
            "incidents": len(there), "matched": len(matched),
            "missed": [{"id": r.id, "opened": r.opened, "severity": r.severity, "title": r.title}
                       for r in sorted(there, key=lambda r: r.opened) if r.id not in matched],
        },
    }  # fmt: skip


def _every(many: int, found: Found, span_s: float) -> float:
    return round(many * span_s / (found.end - found.start), 3)


def _incident(one: Incident, found: Found, recorded: Sequence[str]) -> dict[str, Any]:
    top = one.diagnosis.top if one.diagnosis else None
    return {
        "id": one.id, "opened": one.opened, "resolved": one.resolved, "state": one.state, "severity": one.severity,
        "title": one.title, "about": one.about.id if one.about else "", "paged": found.pages.get(one.id),
        "cause": top.kind if top else "", "entity": top.entity.id if top else "",
        "probability": round(top.probability, 3) if top else None,
        "before": one.id in found.before, "merged_into": one.merged_into, "recorded": list(recorded),
    }  # fmt: skip


def _act(act: Act, runs: Sequence[Run]) -> dict[str, Any]:
    plan = act.plan
    did = [
        r.id for r in runs
        if (r.playbook, r.target.id) == (plan.playbook, plan.target) and abs(r.started - plan.created) <= _SAME_ACT_S
    ]  # fmt: skip
    return {
        "at": plan.created, "playbook": plan.playbook, "title": plan.title, "target": plan.target,
        "incident": plan.incident, "mode": plan.mode, "cause": plan.cause,
        "steps": [{"id": s.id, "use": s.use, "via": s.via, "with": dict(s.params), "undo": s.undo} for s in plan.steps],
        "held": [asdict(g) for g in act.held], "hash": plan.hash, "verdict": "cannot_tell", "recorded": did,
    }  # fmt: skip


def _differs(folder: str, of: Difference) -> dict[str, Any]:
    return {
        "folder": folder, "differs": bool(of),
        "only_first": [_act(a, ()) for a in of.only_first], "only_against": [_act(a, ()) for a in of.only_second],
        "otherwise": [{"first": _act(a, ()), "against": _act(b, ())} for a, b in of.otherwise],
    }  # fmt: skip


def _notes(found: Found, config: Config, kind: str) -> list[str]:
    """Say what a replay can not know, where it matters here."""
    out = []
    if found.acts:
        out.append(
            "nothing was done: what these acts would have changed, and their verdicts, are not known"
        )
    learnt = found.start - found.began
    if learnt < 600:
        when = f"{say_duration(learnt)} before" if learnt else "with it"
        out.append(f"detectors began as new ones {when}; a later --from lets them learn more first")
    if not found.graph:
        out.append(
            "who runs on and calls whom was not recorded: it is what agent.yaml and the names of the series say"
        )
    if config.forecasts.enabled:
        out.append(
            "forecasts are not made again: incidents that only a forecast opened are missing"
        )
    if config.detectors:
        out.append("joint detectors (`detectors:`) are not trained again: the bank alone looks")
    if kind == "history":
        out.append("alerts from elsewhere are not kept, so they are missing")
    if not config.manages:
        out.append("`manages:` in agent.yaml is empty, so the gate `scope` lets nothing act")
    return out


def _show(said: Any) -> None:
    def line(text: str) -> None:
        typer.echo(text)

    line(
        f"{_iso(said['from'])} to {_iso(said['to'])} ({say_duration(said['to'] - said['from'])}), "
        f"{said['series']} series, {count(said['playbooks'], 'playbook')}; "
        f"walked in {said['took_s']:.1f} s, {said['times_real_time']:,.0f} times as fast as it went"
    )
    recorded = said["recorded"]
    incidents = [i for i in said["incidents"] if not i["merged_into"]]
    there = (
        f"; the journal has {recorded['incidents']}, of which {recorded['matched']} are found again"
    )
    line(
        f"\n{count(len(incidents), 'incident')}, {said['pages']} paged ({said['pages_per_week']:.3g} a week)"
        + (there if said["past"]["kind"] == "history" else "")
    )
    for i in incidents[:_MOST_SHOWN]:
        cause = f": {i['cause']} on {i['entity']}, {i['probability']:.0%}" if i["cause"] else ""
        tail = "  (recorded)" if i["recorded"] else ""
        line(
            f"  {_iso(i['opened'])}  {'page' if i['paged'] else i['severity']:8}{i['title']}{cause}{tail}"
        )
    _more(incidents)
    for r in recorded["missed"]:
        line(f"  {_iso(r['opened'])}  not found again: {r['title']} ({r['severity']})")
    line(f"\n{count(len(said['acts']), 'would-be act')} ({said['acts_per_day']:.3g} a day)")
    for a in said["acts"][:_MOST_SHOWN]:
        line(f"  {_iso(a['at'])}  {_acts(a)}")
        if a["held"]:
            line(f"      no further by {', '.join(g['name'] for g in a['held'])}")
    _more(said["acts"])
    if said["held"]:
        line(f"\n{count(len(said['held']), 'time')} the guard stopped what had fired")
        for h in said["held"][:_MOST_SHOWN]:
            why = "; ".join(
                f"{g['name']} {g['value']}" + (f": {g['reason']}" if g["reason"] else "")
                for g in h["gates"]
            )
            line(f"  {_iso(h['from'])}  {h['playbook']} on {h['target']}: {why}")
        _more(said["held"])
    if "against" in said:
        _show_difference(said["against"])
    line("")
    for one in said["notes"]:
        line(f"note: {one}")


def _acts(a: Any) -> str:
    word = {"suggest": "suggests", "approve": "asks for", "auto": "does", "observe": "notes"}[
        a["mode"]
    ]
    steps = ", ".join(
        s["use"] + (f" {', '.join(f'{k}={v}' for k, v in s['with'].items())}" if s["with"] else "")
        for s in a["steps"]
    )
    return f"{a['playbook']} on {a['target']} {word}: {steps}"


def _more(some: Sequence[Any]) -> None:
    if len(some) > _MOST_SHOWN:
        typer.echo(f"  and {len(some) - _MOST_SHOWN} more: --json has all")


def _show_difference(of: Any) -> None:
    typer.echo(f"\nagainst {of['folder']}: " + ("" if of["differs"] else "the same acts"))
    for a in of["only_first"]:
        typer.echo(f"  - {_iso(a['at'])}  {_acts(a)}")
    for a in of["only_against"]:
        typer.echo(f"  + {_iso(a['at'])}  {_acts(a)}")
    for pair in of["otherwise"]:
        typer.echo(
            f"  ~ {_iso(pair['first']['at'])}  {_acts(pair['first'])}\n    now: {_acts(pair['against'])}"
        )
