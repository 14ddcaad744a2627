"""`homeostat playbook ...` and `homeostat schema`: what authors need, without a daemon and without production."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agent import control
from agent.cli import (
    PROBLEMS,
    AsJson,
    ConfigPath,
    command,
    emit,
    fault_body,
    playbook_app,
    shown,
)
from agent.errors import ConfigError, Fault, Refused
from agent.units import many, read_quantity, say_duration

if TYPE_CHECKING:
    from agent.config import Config
    from agent.model import Decision, Entity, Incident
    from agent.plans import Plan, PlannedStep
    from agent.playbook import Playbook
    from agent.strict import Document

_OFFLINE: Final = frozenset(
    {"mode", "ability", "never", "scope", "shared", "confidence", "irreversible", "min_healthy"}
)
"""Gates of the guard whose answer needs neither the journal nor the present."""
_OF_CONFIG: Final = frozenset({"ability", "scope", "shared"})
"""Those of them that agent.yaml answers."""
_NUMBER: Final = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
Which = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PLAYBOOK]...", help="Files, folders, or ids of known playbooks; none = all."
    ),
]
One = Annotated[
    str, typer.Argument(metavar="PLAYBOOK", help="A file, or the id of a known playbook.")
]


@dataclass(frozen=True, slots=True)
class Opened:
    """Playbooks that were asked for, sound ones, with the text of each, and the faults of those files."""

    books: list[Playbook]
    documents: Mapping[str, Document]
    faults: list[Fault]
    config: Config | None


def _open(which: Sequence[str], config_path: Path | None, instead: Path | None = None) -> Opened:
    """Read what is asked for over what there is: built-in, then the site's own, then the named files.

    instead   a folder in the place of the site's own
    """
    from agent import registry
    from agent.config import load
    from agent.playbook.library import folders, in_folder, lay, shipped, shipped_ids
    from agent.strict import read

    registry.load()
    path = control.config_path(config_path)
    config = load(path) if path is not None else None
    faults: list[Fault] = []
    site = folders(path, config) if config is not None else []
    site = [instead] if instead is not None else site
    layers = [in_folder(folder, faults) for folder in site]
    files: list[Document] = []
    ids: list[str] = []
    for word in which:
        here = Path(word)
        if here.is_dir():
            files += in_folder(here, faults)
        elif here.exists() or here.suffix in {".yaml", ".yml"} or "/" in word:
            files.append(read(here))
        else:
            ids.append(word)
    layers.append(files)
    _known(ids, {*shipped_ids(), *(_id(d) for layer in layers for d in layer)})
    wanted = {*map(_id, files), *ids} if which else None
    if wanted is not None:  # others are not checked: an author waits for none of them
        layers = [[d for d in layer if _id(d) in wanted] for layer in layers]
    found = lay([shipped(wanted), *layers], config)
    places = {d.place for d in files}
    books = [p for name, p in found.playbooks.items() if wanted is None or name in wanted]
    ours = places | {found.documents[name].place for name in ids}
    faults += [f for f in found.faults if not which or f.place in ours]
    return Opened(books, found.documents, faults, config)


def _id(document: Document) -> str:
    name = document.data.get("id")
    return name if isinstance(name, str) else ""


def _known(ids: Sequence[str], there: Collection[str]) -> None:
    from agent.strict import did_you_mean

    for name in ids:
        if name not in there:
            remedy = did_you_mean(name, sorted(there)) or "name a file, or an id from the README"
            raise Refused(f"no playbook is called {name!r}, and no file either; {remedy}")


def sound(which: Sequence[str], config: Path | None, instead: Path | None = None) -> Opened:
    """Read the same; raises ConfigError with every fault."""
    opened = _open(which, config, instead)
    if opened.faults:
        raise ConfigError(opened.faults)
    return opened


@command(
    "new",
    example="homeostat playbook new gpu-hot --cause hardware.gpu.thermal --use scale",
    then="homeostat playbook lint gpu-hot.yaml, then make it yours",
    parent=playbook_app,
)
def new(
    *,
    name: Annotated[str, typer.Argument(metavar="ID", help="Lower case, digits and dashes.")],
    cause: Annotated[str, typer.Option(help="For which cause, or branch of causes.")],
    use: Annotated[str, typer.Option(help="The verb of its first step.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where it goes.", show_default="ID.yaml"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a first playbook for a cause and a verb.

    It has a comment on each part, is sound, and has tests that pass: change it from there. A file that is there is
    never written over.
    """
    from agent import registry
    from agent.playbook import template
    from agent.playbook.examples import try_examples
    from agent.playbook.library import lay, shipped_ids
    from agent.strict import read

    registry.load()
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise Refused(f"{name!r} can not be an id; use lower case, digits and dashes: gpu-hot")
    if name in shipped_ids():
        raise Refused(
            f"a built-in playbook is called {name!r}; choose another id, or write a layer over it"
        )
    path = out or Path(f"{name}.yaml")
    if path.exists():
        raise Refused(f"{path} is there; choose another id or --out")
    text = template.write(name, cause, use)
    found = lay([[read(text, str(path))]], None)
    if found.faults:
        raise ConfigError(found.faults)
    failing = try_examples(found.playbooks[name])
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as wrong:
        raise Refused(
            f"{path} can not be written: {(wrong.strerror or str(wrong)).lower()}"
        ) from None

    def show(_: Any) -> None:
        typer.echo(f"wrote {path}")
        for line in failing:
            typer.echo(f"  to be mended by you: {line}")
        typer.echo(f"Next:  homeostat playbook lint {path}")

    emit({"path": str(path), "text": text, "failing": failing}, as_json, show)


@command(
    "lint",
    example=(
        "homeostat playbook lint gpu-hot.yaml",
        "homeostat playbook lint playbooks.d/ --strict",
    ),
    then="homeostat playbook test FILE shows each test",
    parent=playbook_app,
)
def lint(
    *,
    which: Which = None,
    strict: Annotated[bool, typer.Option("--strict", help="Hints count as faults.")] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Check playbooks and run their tests.

    Names, types and units of every expression, verbs and their parameters, undo, guard and proof: faults, each with
    line, column and remedy. Then what could be better: hints. Exit code 1 when there is a fault or a test fails.
    """
    from agent.playbook import style
    from agent.playbook.examples import run

    opened = _open(which or (), config)
    _unbuilt(opened.books, opened.config)
    hints = [h for b in opened.books for h in style.hints(b, opened.documents[b.id])]
    if which and not opened.books and not opened.faults:
        nothing = f"there is no playbook in {', '.join(which)}"
        hints.append(Fault(which[0], 0, 0, nothing, "name files, or a folder that holds *.yaml"))
    tried = [
        (book, i, run(book, test)) for book in opened.books for i, test in enumerate(book.tests)
    ]
    faults = list(opened.faults)
    for book, i, one in tried:
        document = opened.documents[book.id]
        faults += [document.fault(("tests", i), f"test `{one.name}`: {line}") for line in one.wrong]
    said = {
        "ok": not faults and not (strict and hints),
        "playbooks": [b.id for b in opened.books], "tests": len(tried),
        "faults": [fault_body(f) for f in faults], "hints": [fault_body(h) for h in hints],
    }  # fmt: skip

    def show(_: Any) -> None:
        for f in faults:
            typer.echo(shown(fault_body(f), f.caret()))
        for h in hints:
            typer.echo(shown({**fault_body(h), "problem": f"hint: {h.problem}"}, h.caret()))
        typer.echo(
            f"{many(len(opened.books), 'playbook')}, {many(len(tried), 'test')}, "
            f"{many(len(faults), 'fault')}, {many(len(hints), 'hint')}"
        )

    emit(said, as_json, show)
    if not said["ok"]:
        raise typer.Exit(PROBLEMS)


def _unbuilt(books: Sequence[Playbook], config: Config | None) -> None:
    """Let playbooks know which connectors that may act for them can not be built here."""
    from agent.trying import unbuilt

    needed = {name for book in books for name in book.needs_connectors}
    faults = unbuilt(config, needed) if config is not None and needed else {}
    for book in books:
        book.unbuilt(faults)


@command(
    "test",
    example=("homeostat playbook test gpu-hot.yaml", "homeostat playbook test -k ramp"),
    parent=playbook_app,
)
def run_tests(
    *,
    which: Which = None,
    only: Annotated[
        str, typer.Option("-k", metavar="WORDS", help="Only tests whose name holds this.")
    ] = "",
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Run the tests of playbooks.

    A test says what is given at one moment, or describes or names frames (`feed:`) that are walked through the real
    matcher and guard with a clock of their own. Exit code 1 when one fails.
    """
    from agent.playbook.examples import run

    opened = sound(which or (), config)
    tried = [(b, run(b, t)) for b in opened.books for t in b.tests if only in t.name]
    if only and not tried:
        raise Refused(f"no test has {only!r} in its name; without -k all of them run")
    said = {
        "passed": sum(not one.wrong for _, one in tried), "failed": sum(bool(one.wrong) for _, one in tried),
        "tests": [{"playbook": book.id, **asdict(one)} for book, one in tried],
    }  # fmt: skip

    def show(_: Any) -> None:
        for book, one in tried:
            acts = "; ".join(f"{say_duration(a.at)}: {', '.join(a.steps)}" for a in one.acts[:4])
            tail = f"  (acts after {acts})" if acts else ""
            typer.echo(f"{'FAILED' if one.wrong else 'ok    '}  {book.id}: {one.name}{tail}")
            for line in (*one.wrong, *(one.acts[0].asks if one.acts else ())):
                typer.echo(f"          {line}")
        typer.echo(f"{said['passed']} passed, {said['failed']} failed")

    emit(said, as_json, show)
    if said["failed"]:
        raise typer.Exit(PROBLEMS)


@command(
    "plan",
    example=(
        "homeostat playbook plan serve-saturation --target service:shop",
        "homeostat playbook plan gpu-hot.yaml --target gpu:GPU-1 --given gpu.clock_ratio=0.6",
        "homeostat playbook plan serve-hang --target service:shop --dry-run --config agent.yaml",
    ),
    parent=playbook_app,
)
def plan(
    *,
    which: One,
    target: Annotated[str, typer.Option(metavar="ENTITY", help="On whom: kind:key.")],
    given: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What is measured or diagnosed.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Ask the connectors of agent.yaml what each step would do."),
    ] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Show the steps that it would take on a target.

    With parameters filled in as far as what is given goes, whether it would fire, how far it may go, and the gates of
    the guard that can be known without a daemon. Nothing is done, in a dry run neither: there each step looks at the
    world as it is now, and says what it would do or why it can not. Exit code 1 when one can not, or has no answer.
    """
    opened = sound([which], config)
    if len(opened.books) != 1:
        raise Refused(f"{which} holds {len(opened.books)} playbooks; name one of them")
    about = _target(target)
    book = opened.books[0]
    if about.kind != book.target.kind:
        raise Refused(
            f"{book.id} acts on a {book.target.kind}, not on {about}; name a {book.target.kind}:KEY"
        )
    _unbuilt([book], opened.config)
    values = dict(_pair(one) for one in given or ())
    _named(values, book)
    made, said = _planned(book, about, values, opened.config)
    if dry_run:
        said["dry_run"] = _dry_run(made, opened.config)
    emit(said, as_json, _show_plan)
    if any(one["status"] in {"refused", "unknown"} for one in said["dry_run"] or ()):
        raise typer.Exit(PROBLEMS)


def _dry_run(made: Plan, config: Config | None) -> list[dict[str, Any]]:
    """Ask every step what it would do."""
    from agent.dry_run import ask

    if config is None:
        raise Refused("a dry run asks the connectors of agent.yaml; name it with --config")
    return [asdict(one) for one in asyncio.run(ask(made, config))]


def _target(text: str) -> Entity:
    from agent.model import entity

    try:
        return entity(text)
    except ValueError as wrong:
        raise Refused(str(wrong).replace(", write", "; write")) from None


def _pair(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE: facts and attributes are text, signals numbers with or without a unit."""
    from agent.catalogue import SIGNALS

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise Refused(f"not a value: {text!r}; write it like --given gpu.clock_ratio=0.6")
    if name.startswith(("cause.", "target.")) and name != "cause.probability":
        return name, value
    measured = name.removeprefix("baseline.") in SIGNALS
    if value in {"true", "false"}:
        return name, float(value == "true") if measured else value == "true"
    try:
        return name, float(read_quantity(value) if not _NUMBER.fullmatch(value) else value)
    except ValueError as wrong:
        if measured:
            raise Refused(f"{name} is a number: {wrong}") from None
        return name, value


def _named(given: Mapping[str, Any], book: Playbook) -> None:
    """Refuse names that nobody knows: what is given under them would be heeded by nothing."""
    from agent.playbook.check import About, unknown

    about = About(book.target.kind)
    for name in given:
        for problem, remedy in () if name == "incident.severity" else unknown(name, about):
            raise Refused(f"{problem}; {remedy}".rstrip("; "))


def _planned(
    book: Playbook, about: Entity, given: Mapping[str, Any], config: Config | None
) -> tuple[Plan, dict[str, Any]]:
    from agent.playbook.examples import forecast
    from agent.playbook.rehearsal import questions

    try:
        fires, reason, incident, made, decision = forecast(book, about, given, config)
    except ValueError as wrong:
        raise Refused(str(wrong)) from None
    # a suggestion asks nobody until a person begins it
    begun = made if made.mode == "approve" else replace(made, mode="auto")
    return made, {
        "playbook": book.id, "title": book.title, "target": about.id, "fires": fires, "reason": reason,
        "cause": _cause(incident), "mode": decision.mode, "config": config is not None,
        "steps": [_step(s) for s in made.steps], "then": [_step(s) for s in made.then],
        "asks": [asdict(a) | {"said": str(a)} for a in questions(begun)],
        "verify": asdict(made.verify) if made.verify else None, "hash": made.hash,
        "gates": _gates(decision, _OFFLINE if config is not None else _OFFLINE - _OF_CONFIG),
        "dry_run": None,
    }  # fmt: skip


def _cause(incident: Incident) -> str:
    top = incident.diagnosis.top if incident.diagnosis else None
    return top.kind if top else ""


def _step(step: PlannedStep) -> dict[str, Any]:
    return {
        "id": step.id,
        "use": step.use,
        "via": step.via,
        "with": dict(step.params),
        "undo": step.undo,
    }


def _gates(decision: Decision, known: frozenset[str]) -> list[dict[str, Any]]:
    return [
        {**asdict(g), "known": g.name in known, "passed": g.passed if g.name in known else None}
        for g in decision.gates
    ]


def _show_plan(said: Any) -> None:
    fires = {
        True: "it would fire",
        False: "it would not fire",
        None: "unknown whether it would fire",
    }[said["fires"]]
    typer.echo(f"{said['title']}  ({said['playbook']} on {said['target']}, cause {said['cause']})")
    typer.echo(fires + (f": {said['reason']}" if said["reason"] else ""))
    typer.echo(f"goes as far as: {said['mode']}")
    from agent.cli.tables import WOULD

    dry = {one["id"]: one for one in said["dry_run"] or ()}
    for part in ("steps", "then"):
        for i, step in enumerate(said[part], 1):
            via = f" via {step['via']}" if step["via"] else ""
            with_ = json.dumps(step["with"], ensure_ascii=False)
            name = f"{'do' if part == 'steps' else part} {i}. {step['id']}"
            typer.echo(f"{name}: {step['use']}{via} {with_}, undo {step['undo']}")
            if step["id"] in dry:
                one = dry[step["id"]]
                typer.echo(f"   {WOULD[one['status']]}{one['text']}")
    for one in said["asks"]:
        typer.echo(one["said"])
    verify = said["verify"]
    if verify:
        typer.echo(
            f"verify after {say_duration(verify['wait'])}, within {say_duration(verify['within'])}: "
            f"{' and '.join(verify['expect'])}; otherwise {verify['otherwise']}"
        )
    for g in said["gates"]:
        if g["known"]:
            why = f": {g['reason']}" if g["reason"] else ""
            typer.echo(
                f"gate {g['name']:13}{'open' if g['passed'] else 'CLOSED'}  {g['value']}{why}"
            )
    later = ", ".join(g["name"] for g in said["gates"] if not g["known"])
    typer.echo(f"asked when it acts: {later}")
    if not said["config"]:
        typer.echo("no agent.yaml at hand (--config): what is managed, and by whom, is not known")


@command(
    "explain",
    example=(
        "homeostat playbook explain serve-bad-deploy",
        "homeostat playbook explain gpu-hot.yaml",
    ),
    parent=playbook_app,
)
def explain(*, which: Which = None, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Say a playbook in words, like a runbook.

    When, on whom, what is done first, how we know that it worked, what is undone, who is asked.
    """
    from agent.playbook import explain as runbook

    opened = sound(which or (), config)
    said = [
        {
            "id": b.id,
            "title": b.title,
            "sections": [{"label": k, "lines": v} for k, v in runbook.explain(b)],
        }
        for b in opened.books
    ]
    emit(said, as_json, lambda _: typer.echo("\n\n".join(runbook.text(b) for b in opened.books)))


class Picture(StrEnum):
    """In which language a picture is written."""

    mermaid = "mermaid"
    dot = "dot"


@command(
    "graph",
    example=(
        "homeostat playbook graph serve-bad-deploy",
        "homeostat playbook graph gpu-hot.yaml --format dot | dot -Tsvg > gpu-hot.svg",
    ),
    parent=playbook_app,
)
def graph(
    *,
    which: One,
    format_: Annotated[
        Picture, typer.Option("--format", "-f", help="mermaid or dot.")
    ] = Picture.mermaid,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Draw the way that a run goes, as Mermaid or DOT."""
    from agent.playbook import flow

    books = sound([which], config).books
    if len(books) != 1:
        raise Refused(f"{which} holds {len(books)} playbooks; name one of them")
    found = flow.flow(books[0])
    said = {
        "playbook": books[0].id,
        "boxes": [
            {"id": k, "shape": shape, "text": text} for k, (shape, text) in found.boxes.items()
        ],
        "arrows": [{"from": a, "to": b, "text": text} for a, b, text in found.arrows],
    }
    drawn = flow.mermaid(found) if format_ is Picture.mermaid else flow.dot(found, books[0].id)
    emit(said, as_json, lambda _: typer.echo(drawn))


class Written(StrEnum):
    """What people write."""

    playbook = "playbook"
    agent = "agent"


@command(
    "schema",
    example="homeostat schema playbook > playbook.schema.json",
    then="put this first in a playbook: # yaml-language-server: $schema=playbook.schema.json",
)
def schema(
    *,
    what: Annotated[
        Written, typer.Argument(help="playbook, or agent for agent.yaml.")
    ] = Written.playbook,
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of playbooks, or of agent.yaml.

    Editors complete and underline by it. It holds the verbs, connectors and detectors that are installed here, with
    their parameters. It is JSON with or without --json.
    """
    from agent import registry
    from agent.playbook import schema as made

    del as_json
    registry.load()
    emit(made.playbook() if what is Written.playbook else made.agent(), True, print)
