"""Playbooks: sentences in YAML that say for which cause, on what, under which guard, what is done and how it is proven.

    version: 1
    id: serve-bad-deploy               # the key by which built-in, team's and site's playbooks are merged
    title: Roll back a model version that is worse than the one before
    mode: suggest                      # observe | suggest | approve | auto: a ceiling
    target: {kind: model}
    because: {cause: release.model, min_confidence: 60%}
    when: ['model.accuracy_ratio < baseline.model.accuracy_ratio - 0.02']
    unless: ['model.labelled_rows_count < 50.0']
    guard: {cooldown: {per: target, time: 1h}, attempts: {max: 1, per: 24h}}
    do:
      - {id: roll_back, use: roll_back, undo: auto}
    verify: {wait: 1m, within: 10m, expect: ['model.accuracy_ratio > 0.9'], otherwise: escalate}
    then: [{use: notify, with: {text: '${title}: ${verdict.summary}'}}]
    tests:
      - {name: an old release, given: {model.accuracy_ratio: 0.95}, fires: false}

The library is the built-in playbooks with the ones of the user laid over them by `id`: mappings field by field,
lists as a whole, but `do` and `then` whose steps say no `use` change the steps of the same `id`. All that can be
known at load is checked at load: names, types and units of every expression, verbs and their parameters.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints

from agent import registry
from agent.authority import Role
from agent.catalogue import SIGNALS
from agent.causes import CAUSES, known, matches, words
from agent.codec import canonical
from agent.conditions import Condition, Holding
from agent.errors import ConfigError, Fault
from agent.expr import Kind, interpolate, lint, parse, pieces
from agent.model import MODES, Cause, Entity, EntityKind, Incident, Mode, Severity, entity
from agent.ports import Notifier, Silencer, Undo
from agent.questions import Asker
from agent.runner import Plan, PlannedApproval, PlannedStep, PlannedVerify, Until, sealed
from agent.strict import Document, Place, did_you_mean, examine, read
from agent.units import Duration, Model, Ratio

if TYPE_CHECKING:
    from agent.config import Config

Lookup = Callable[[str], Any]
Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
StepId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


# ---------------------------------------------------------------- what people write


class Target(Model):
    """What it acts on: the cause's entity, or its nearest relative of this kind."""

    kind: EntityKind
    where: str = ""
    """An expression about it: `'target.product == "H100"'`."""


class Because(Model):
    """For which causes, and how sure diagnosis must be."""

    cause: str
    """A cause or a branch of the tree: `hardware.gpu` stands for all below it."""
    min_confidence: Ratio = 0.6
    severity: Severity = "note"
    """The incident must be at least this severe."""


def _item(written: Any) -> Any:
    return {"is": written} if isinstance(written, str) else written


class Item(Model):
    """One condition: an expression, perhaps about a signal, perhaps for some time."""

    is_: str = Field(alias="is")
    signal: str = ""
    """Then the expression may say `value`, `peers.median` and `peers.count`."""
    for_: Duration = Field(default=0.0, alias="for")
    """How long it must hold without a break."""

    @property
    def condition(self) -> Condition:
        """The condition as it is followed through time."""
        return Condition(self.is_, self.signal, self.for_)


Items = list[Annotated[Item, BeforeValidator(_item)]]


class When(Model):
    """All of these, or any of those; what is unknown never fires."""

    all: Items = []
    any: Items = []

    def holding(self) -> Holding:
        """Return what follows these conditions through time, from nothing."""
        items = self.any or self.all
        return Holding([i.condition for i in items], "any" if self.any else "all")


def _when(written: Any) -> Any:
    return {"all": written} if isinstance(written, list) else written


class Cooldown(Model):
    """How long it rests after it has acted."""

    per: Literal["target", "playbook"] = "target"
    time: Duration = 1800.0


class Rate(Model):
    """How often it acts at most, over all targets."""

    max: Annotated[int, Field(ge=1)] = 4
    per: Duration = 3600.0


class Blast(Model):
    """How many of a domain it may touch at about the same time; one alone is always allowed."""

    max_targets: Annotated[int, Field(ge=1)] = 1
    max_share: Ratio = 0.34
    domain: str = ""
    """Attribute of the targets that tells domains apart (`rack`); empty = all of the same kind."""


class Attempts(Model):
    """How often it is tried on one target before people must look."""

    max: Annotated[int, Field(ge=1)] = 2
    per: Duration = 86_400.0
    then: Literal["escalate", "stop"] = "escalate"


class Breaker(Model):
    """After so many runs in a row that did not help, it rests."""

    bad_outcomes: Annotated[int, Field(ge=1)] = 2
    hold: Duration = 6 * 3600.0


class Approval(Model):
    """Who may say yes, and what silence means."""

    by: Role = "operator"
    timeout: Duration = 900.0
    on_timeout: Literal["escalate", "deny"] = "escalate"


class Guard(Model):
    """Limits of this playbook, beside those that hold for all."""

    cooldown: Cooldown = Cooldown()
    rate: Rate = Rate()
    blast: Blast = Blast()
    settle: Duration = 300.0
    """How long after an act on one target before the next target."""
    attempts: Attempts = Attempts()
    breaker: Breaker = Breaker()
    approve: Approval = Approval()
    fresh: Duration = 120.0
    """Evidence may be this old, no older."""


def _listed(written: Any) -> Any:
    return [written] if isinstance(written, str) else written


Texts = Annotated[list[str], BeforeValidator(_listed)]


class UntilModel(Model):
    """When a temporary measure is put back."""

    is_: Texts = Field(alias="is", min_length=1)
    for_: Duration = Field(default=60.0, alias="for")
    at_most: Duration
    """After this long it is put back anyway."""


class StepModel(Model):
    """One step: a verb and its parameters."""

    id: StepId = ""
    """Default: the verb."""
    use: str
    """The verb."""
    via: str | None = None
    """The connector that has the ability; not needed where only one has it."""
    with_: dict[str, Any] = Field(default={}, alias="with")
    """Parameters of the verb; texts may hold `${}`."""
    undo: Literal["auto", "none"] | None = None
    """auto: put back what was there; none: it can not or shall not be put back. Must be said when it mutates."""
    until: UntilModel | None = None
    timeout: Duration = 60.0
    """For one try."""
    retry: Annotated[int, Field(ge=0, le=5)] = 1
    """How many more tries when it did not answer."""


class VerifyModel(Model):
    """How it is proven that it helped."""

    wait: Duration = 60.0
    """Before the first look."""
    within: Duration
    """Then `expect` must come true in this time."""
    expect: Texts = Field(min_length=1)
    against: Literal["", "peers", "forecast", "past", "before"] = ""
    otherwise: Literal["undo", "escalate", "next"] = "undo"


class Example(Model):
    """A test of `because`, `when` and `unless` that needs no daemon: names to values, and what is expected."""

    name: str
    given: dict[str, float | bool | str | None] = {}
    fires: bool


class Playbook(Model):
    """One playbook. Made by `Library.load`, which checks it against catalogue, causes, verbs and connectors."""

    version: Literal[1]
    id: Id
    title: Annotated[str, Field(min_length=1, max_length=120)]
    owner: str = ""
    enabled: bool = True
    mode: Mode = "suggest"
    order: int = 100
    """Of several for one cause, the more specific one comes first, then the lower order."""
    target: Target
    because: Because
    when: Annotated[When, BeforeValidator(_when)] = When()
    unless: Texts = []
    guard: Guard | None = None
    do: Annotated[list[StepModel], Field(min_length=1)]
    verify: VerifyModel | None = None
    then: list[StepModel] = []
    tests: list[Example] = []

    _text_hash: str = PrivateAttr(default="")
    _lacking: frozenset[str] = PrivateAttr(default=frozenset())
    _cap: Mode = PrivateAttr(default="auto")

    # ---- what follows from the text

    @property
    def text_hash(self) -> str:
        """SHA-256 of the text, merged, in canonical form: what an approval binds to."""
        return self._text_hash

    @property
    def limits(self) -> Guard:
        """The guard, with defaults where nothing is said."""
        return self.guard or Guard()

    @property
    def mutating(self) -> bool:
        """Whether any step changes the world, rather than marking or telling."""
        return any(_verb(step).effect == "mutating" for step in self.do)

    @property
    def shared(self) -> bool:
        """Whether any step acts on something that other agents may act on, too."""
        return any(_verb(step).shared for step in self.do)

    @property
    def touching(self) -> bool:
        """Whether it needs `manages:`: it changes the world, or marks something that others use."""
        return self.mutating or self.shared

    @property
    def irreversible(self) -> bool:
        """Whether a step can not be put back in this world."""
        return any(_verb(s).effect == "mutating" and not _verb(s).reversible for s in self.do)

    @property
    def lacking(self) -> frozenset[str]:
        """Abilities that its steps need and no configured connector has."""
        needed = {_ability(step) for step in self.do if not self._left_out(step)}
        if all(self._left_out(step) for step in self.do):
            needed = {_ability(step) for step in self.do}
        return self._lacking & needed

    @property
    def cap(self) -> Mode:
        """How far it may go at most because of how its abilities were tested."""
        return self._cap

    def ceiling(self, config: Config) -> Mode:
        """Return the lowest of its own mode, that of `agent.yaml`, and the cap of its abilities."""
        return lowest(self.mode, config.mode, self._cap)

    def rank(self) -> tuple[int, int, int, str]:
        """Sort key among playbooks for one cause: specific ones first, then order, then id."""
        return (
            -self.because.cause.count("."),
            -len(self.when.all + self.when.any),
            self.order,
            self.id,
        )

    def _left_out(self, step: StepModel) -> bool:
        """Tell whether a step only tells people and nobody can: they see it on the console anyway."""
        return _verb(step).ability is Notifier and Notifier.__name__ in self._lacking

    # ---- acting

    def touches(self, target: Entity, cause: Cause | None) -> tuple[Entity, ...]:
        """Return whom its steps act on: the target, and entities that parameters name (`${cause.entity}`)."""
        out = {target: None}

        def look(name: str) -> Any:
            head, _, rest = name.partition(".")
            if head == "target":
                return getattr(target, rest, None) if rest in {"id", "kind", "key"} else None
            if head == "cause" and cause is not None:
                return cause.entity.id if rest == "entity" else cause.facts.get(rest)
            return None

        for step in self.do:
            for value in step.with_.values():
                filled = interpolate(value, look) if isinstance(value, str) else None
                if isinstance(filled, str):
                    try:
                        out[entity(filled)] = None
                    except ValueError:
                        continue
        return tuple(out)

    def plan(
        self, target: Entity, incident: Incident, scene: Lookup, mode: Mode, now: float
    ) -> Plan:
        """Fix what a run is going to do. Pure: the run id is made of playbook, target, incident, mode and `now`.

        `${}` is filled as far as it is known now; what stands on `steps`, `verdict` or unknown values stays as text
        and is read when the step acts.
        """
        cause = incident.diagnosis.top if incident.diagnosis else None

        def look(name: str) -> Any:
            head, _, rest = name.partition(".")
            if name == "title":
                return self.title
            if head == "incident":
                return {
                    "id": incident.id,
                    "title": incident.title,
                    "severity": incident.severity,
                }.get(rest)
            if name == "cause.words":
                return words(cause.kind) if cause else None
            return None if head in {"steps", "verdict"} else scene(name)

        seed = "|".join((self.id, target.id, incident.id, mode, repr(now)))
        verify = self.verify
        approve = self.limits.approve
        return sealed(
            Plan(
                run_id=f"{self.id}-{hashlib.sha256(seed.encode()).hexdigest()[:12]}",
                playbook=self.id,
                title=self.title,
                text_hash=self.text_hash,
                target=target.id,
                incident=incident.id,
                mode=mode,
                by="",
                created=now,
                steps=tuple(_planned(s, look) for s in self.do if not self._left_out(s)),
                verify=None
                if verify is None
                else PlannedVerify(
                    verify.wait,
                    verify.within,
                    tuple(verify.expect),
                    verify.against,
                    verify.otherwise,
                ),
                then=tuple(_planned(s, look) for s in self.then if not self._left_out(s)),
                approve=PlannedApproval(approve.by, approve.timeout, approve.on_timeout),
                facts=_facts(cause, incident),
                cause=cause.kind if cause else "",
            )
        )


def lowest(*modes: Mode) -> Mode:
    """Return the least that all of them allow."""
    return min(modes, key=MODES.index)


def _verb(step: StepModel) -> type[Any]:
    return registry.action.get(step.use)


def _ability(step: StepModel) -> str:
    ability = _verb(step).ability
    return ability.__name__ if ability is not None else ""


def _planned(step: StepModel, look: Lookup) -> PlannedStep:
    verb = _verb(step)
    undo = step.undo or ("auto" if verb.reversible and _can_undo(verb) else "none")
    until = None
    if step.until is not None:
        until = Until(tuple(step.until.is_), step.until.for_, step.until.at_most)
    return PlannedStep(
        step.id, step.use, step.via, interpolate(step.with_, look, keep=True), undo, until,
        step.timeout, step.retry,
    )  # fmt: skip


_MEASURED: Final = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def _facts(cause: Cause | None, incident: Incident) -> dict[str, str]:
    """Return what steps may read of the diagnosis: who and what, no measurements.

    An approval binds to the facts; a number that moves with every tick would void it for nothing.
    """
    said = dict(cause.facts) if cause else {}
    out = {k: v for k, v in said.items() if "version" in k or not _MEASURED.fullmatch(v)}
    if cause is not None:
        out |= {"kind": cause.kind, "entity": cause.entity.id}
    return out | {"incident": incident.id}


def _can_undo(verb: type[Any]) -> bool:
    return all(hasattr(verb, name) for name in _methods(Undo))


def _methods(port: type[Any]) -> list[str]:
    return [m for m in vars(port) if not m.startswith("_") and callable(getattr(port, m))]


# ---------------------------------------------------------------- the library


@dataclass(frozen=True, slots=True)
class Library:
    """All playbooks by id."""

    playbooks: Mapping[str, Playbook] = field(default_factory=dict)

    @classmethod
    def load(cls, dirs: Sequence[Path], config: Config, *, built_in: bool = True) -> Library:
        """Read the built-in playbooks and lay those of `dirs` over them, in order.

        Connectors and verbs must be registered. Raises ConfigError with every fault of every file.
        """
        faults: list[Fault] = []
        merged: dict[str, Document] = {}
        folders = [_built_in()] if built_in else []
        for files in [*folders, *(_files(folder, faults) for folder in dirs)]:
            seen: dict[str, Document] = {}
            for document in map(_prepared, files):
                name = document.data.get("id")
                if not isinstance(name, str):
                    faults += examine(Playbook, document)[1]
                elif name in seen:
                    other = f"{seen[name].place}:{seen[name].where(('id',))[0]}"
                    faults.append(
                        document.fault(("id",), f"`{name}` is defined in {other} too", "keep one")
                    )
                else:
                    seen[name] = document
                    merged[name] = _over(merged[name], document) if name in merged else document
        playbooks = {}
        for name, document in sorted(merged.items()):
            found, wrong = _checked(document, config)
            faults += wrong
            if found is not None and found.enabled:
                playbooks[name] = found
        if faults:
            raise ConfigError(
                sorted(set(faults), key=lambda f: (f.place, f.line, f.column, f.problem))
            )
        return cls(playbooks)

    def for_cause(self, cause: str) -> list[Playbook]:
        """Return the playbooks that speak of a cause, best first."""
        found = [p for p in self.playbooks.values() if matches(p.because.cause, cause)]
        return sorted(found, key=Playbook.rank)


def _built_in() -> list[Document]:
    root = resources.files("playbooks")
    found = sorted((f for f in root.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return [read(f.read_bytes(), f"playbooks/{f.name}") for f in found]


def _files(folder: Path, faults: list[Fault]) -> list[Document]:
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        faults.append(
            Fault(str(folder), 0, 0, f"can not be listed: {reason}", "check `playbooks.dirs`")
        )
        return []
    return [read(f) for f in inside if f.suffix in {".yaml", ".yml"} and not f.name.startswith(".")]


def _prepared(document: Document) -> Document:
    """Give steps that have no id the name of their verb: the key by which they are merged and read."""
    for part in ("do", "then"):
        steps = document.data.get(part)
        for step in steps if isinstance(steps, list) else ():
            if isinstance(step, dict) and isinstance(step.get("use"), str):
                step.setdefault("id", step["use"])
    return document


def _over(under: Document, over: Document) -> Document:
    """Lay one playbook over another of the same id; places are those of the upper one."""
    marks: dict[Place, Place] = {}
    data = _merge(under.data, over.data, (), (), marks)

    def moved(table: Mapping[Place, Any]) -> dict[Place, Any]:
        return {marks[path]: value for path, value in table.items() if path in marks}

    return Document(
        data, over.place, (*under.faults, *over.faults), under.broken or over.broken,
        moved(over.values), moved(over.keys), moved(over.raw),
    )  # fmt: skip


def _merge(under: Any, over: Any, path: Place, at: Place, marks: dict[Place, Place]) -> Any:
    """Merge `over` (at `path` of its file) into `under`; `at` is where it stands in the result."""
    marks[path] = at
    if isinstance(under, dict) and isinstance(over, dict):
        out = dict(under)
        for key, value in over.items():
            out[key] = _merge(under.get(key), value, (*path, key), (*at, key), marks)
        return out
    if isinstance(over, list):
        steps = _same_steps(under, over) if path in {("do",), ("then",)} else None
        if steps is not None:
            out_list = list(under)
            for i, j in enumerate(steps):
                out_list[j] = _merge(under[j], over[i], (*path, i), (*at, j), marks)
            return out_list
        return [_merge(None, one, (*path, i), (*at, i), marks) for i, one in enumerate(over)]
    if isinstance(over, dict):
        return {k: _merge(None, v, (*path, k), (*at, k), marks) for k, v in over.items()}
    return over


def _same_steps(under: Any, over: list[Any]) -> list[int] | None:
    """Return which steps of `under` those of `over` change; None when they replace them as a whole."""
    if not isinstance(under, list) or not all(isinstance(s, dict) for s in [*under, *over]):
        return None
    ids = [step.get("id") for step in under]
    if any("use" in step for step in over) or not all(step.get("id") in ids for step in over):
        return None
    return [ids.index(step["id"]) for step in over]


# ---------------------------------------------------------------- checking


def _checked(document: Document, config: Config) -> tuple[Playbook | None, list[Fault]]:
    playbook, faults = examine(Playbook, document)
    if playbook is None:
        sound = _sound(document)
        if sound is not None:
            faults += _Check(sound, document, config).faults(whole=False)
        return None, faults
    faults += _Check(playbook, document, config).faults()
    if any(step.use not in registry.action for step in (*playbook.do, *playbook.then)):
        return None, faults
    abilities = {_ability(step) for step in (*playbook.do, *playbook.then)} - {""}
    able = _able(config)
    playbook._text_hash = _hash(document.data)  # noqa: SLF001  # set once, here
    playbook._lacking = frozenset(abilities - able.keys())  # noqa: SLF001  # as above
    stand_in = any(able.get(name, False) for name in abilities)
    playbook._cap = "approve" if stand_in else "auto"  # noqa: SLF001  # as above
    return playbook, faults


def _hash(data: Any) -> str:
    return hashlib.sha256(canonical(_jsonable(data)).encode()).hexdigest()


def _jsonable(data: Any) -> Any:
    """Let NaN and infinities, which JSON has not, stand as text."""
    if isinstance(data, float) and not math.isfinite(data):
        return repr(data)
    if isinstance(data, Mapping):
        return {key: _jsonable(value) for key, value in data.items()}
    return [_jsonable(value) for value in data] if isinstance(data, list) else data


def _sound(document: Document) -> Playbook | None:
    """Return what of a faulty playbook is right, so that its names are checked in the same go; None = too little."""
    needed = {name for name, info in Playbook.model_fields.items() if info.is_required()}
    sound = {key: value for key, value in document.data.items() if key in needed}
    if document.broken or examine(Playbook, Document(sound, document.place))[0] is None:
        return None
    for key, value in document.data.items():
        if examine(Playbook, Document(sound | {key: value}, document.place))[0] is not None:
            sound[key] = value
    return examine(Playbook, Document(sound, document.place))[0]


def _able(config: Config) -> dict[str, bool]:
    """Return the abilities that configured connectors have, and whether each was only tested on a stand-in.

    A connector whose class says `stand_in = True` has not met the real system it speaks to.
    """
    names = {c.use or name for name, c in config.connectors.items() if c.enabled}
    if config.page.command:
        names.add("page")
    classes = [registry.connector.get(n) for n in sorted(names) if n in registry.connector]
    out = {
        Silencer.__name__: False,
        Asker.__name__: False,
    }  # what no connector has, the journal does
    for ability in {registry.action.get(n).ability for n in registry.action} - {None}:
        having = [c for c in classes if all(hasattr(c, m) for m in _methods(ability))]
        if having:
            out[ability.__name__] = any(getattr(c, "stand_in", False) for c in having)
    return out


_OWN_NAMES: Final[Mapping[str, Kind]] = {
    "title": "text", "incident.id": "text", "incident.title": "text", "incident.severity": "text",
    "cause.words": "text",
}  # fmt: skip
_TARGET: Final = frozenset({"id", "kind", "key"})
_ABOUT_SIGNAL: Final = frozenset({"value", "peers.median", "peers.count"})


@dataclass(slots=True)
class _Check:
    """Everything about one playbook that only catalogue, causes, verbs and connectors together can tell."""

    playbook: Playbook
    document: Document
    config: Config

    def faults(self, *, whole: bool = True) -> Iterator[Fault]:
        """Yield every fault; of a playbook in parts (not `whole`), none that tells of what is missing."""
        yield from self._because()
        yield from self._conditions()
        yield from self._steps()
        yield from self._expected()
        if whole:
            yield from self._proof()
        yield from self._examples()

    def _say(self, path: Place, problem: str, remedy: str = "", *, key: bool = False) -> Fault:
        return self.document.fault(path, problem, remedy, key=key)

    def _because(self) -> Iterator[Fault]:
        cause = self.playbook.because.cause
        if not known(cause):
            branches = {
                ".".join(c.split(".")[: i + 1]) for c in CAUSES for i in range(c.count(".") + 1)
            }
            yield self._say(
                ("because", "cause"), f"no cause is called `{cause}`", did_you_mean(cause, branches)
            )

    # ---- expressions

    def _conditions(self) -> Iterator[Fault]:
        p = self.playbook
        if p.target.where:
            yield from self._expression(p.target.where, ("target", "where"), "truth")
        written = self.document.data.get("when")
        if p.when.all and p.when.any:
            yield self._say(("when",), "`all` and `any` stand together", "write one of them")
        for how, items in (("all", p.when.all), ("any", p.when.any)):
            base: Place = ("when",) if isinstance(written, list) else ("when", how)
            for i, item in enumerate(items):
                yield from self._item(item, (*base, i))
        for i, text in enumerate(p.unless):
            yield from self._expression(text, ("unless", i), "truth")

    def _item(self, item: Item, path: Place) -> Iterator[Fault]:
        if item.signal and item.signal not in SIGNALS:
            remedy = did_you_mean(item.signal, SIGNALS)
            yield self._say((*path, "signal"), f"no signal is called `{item.signal}`", remedy)
        extra = _ABOUT_SIGNAL if item.signal else frozenset()
        yield from self._expression(item.is_, (*path, "is"), "truth", extra=extra)

    def _expression(
        self,
        text: str,
        path: Place,
        want: Kind,
        *,
        extra: Iterable[str] = (),
        steps: Iterable[str] = (),
    ) -> Iterator[Fault]:
        """Check syntax, names and types of one expression."""
        slips = lint(text)
        if slips:
            yield from (self._say(path, f"in `{text}`: {s.problem}", s.remedy) for s in slips)
            return
        expression = parse(text)
        unknown = [
            self._say(path, f"in `{text}`: {problem}", remedy)
            for name in sorted(expression.names)
            for problem, remedy in _unknown(name, frozenset(extra), frozenset(steps))
        ]
        yield from unknown
        if not unknown:
            yield from (
                self._say(path, f"in `{text}`: {s.problem}", s.remedy)
                for s in expression.check(_kind_of, want)
            )

    def _texts(
        self, data: Any, path: Place, steps: Iterable[str], extra: Iterable[str]
    ) -> Iterator[Fault]:
        """Check every `${}` inside parameters."""
        if isinstance(data, str):
            try:
                found = [words for is_expression, words in pieces(data) if is_expression]
            except ConfigError as error:
                yield self._say(path, error.faults[0].problem, error.faults[0].remedy)
                return
            for words_ in found:
                yield from self._expression(words_, path, "any", steps=steps, extra=extra)
        elif isinstance(data, Mapping):
            for key, value in data.items():
                yield from self._texts(value, (*path, key), steps, extra)
        elif isinstance(data, list):
            for i, value in enumerate(data):
                yield from self._texts(value, (*path, i), steps, extra)

    # ---- steps

    def _steps(self) -> Iterator[Fault]:
        p = self.playbook
        before: list[str] = []
        for part, steps in (("do", p.do), ("then", p.then)):
            for i, step in enumerate(steps):
                path: Place = (part, i)
                if step.id in before:
                    yield self._say(
                        (*path, "id"), f"two steps are called `{step.id}`", "give one an `id:`"
                    )
                if step.use not in registry.action:
                    remedy = did_you_mean(step.use, list(registry.action), show=40)
                    yield self._say((*path, "use"), f"no verb is called `{step.use}`", remedy)
                else:
                    yield from self._step(step, path, before, after=part == "then")
                before.append(step.id)

    def _step(
        self, step: StepModel, path: Place, before: list[str], *, after: bool
    ) -> Iterator[Fault]:
        verb = _verb(step)
        can = verb.reversible and _can_undo(verb)
        if after and verb.effect == "mutating":
            yield self._say(
                (*path, "use"), f"`{step.use}` changes the world after it was proven that all is well",
                "move it to `do:`; `then:` only marks and tells",
            )  # fmt: skip
        if verb.effect == "mutating" and step.undo is None:
            remedy = (
                "write `undo: auto`, or `undo: none` if it shall stay"
                if can
                else "write `undo: none`"
            )
            yield self._say(
                path, f"`{step.use}` changes the world and does not say how it is undone", remedy
            )
        if step.undo == "auto" and not can:
            yield self._say(
                (*path, "undo"), f"`{step.use}` can not be undone", "write `undo: none`"
            )
        if step.via is not None and step.via not in self.config.connectors:
            names = list(self.config.connectors)
            remedy = did_you_mean(step.via, names) or "add it under `connectors:` in agent.yaml"
            yield self._say((*path, "via"), f"no connector is called `{step.via}`", remedy)
        if step.until is not None:
            yield from self._until(step, path, before, can=can)
        extra = {"verdict.summary", "verdict.verdict"} if after else set()
        yield from self._texts(step.with_, (*path, "with"), before, {*_OWN_NAMES, *extra})
        yield from self._params(step, path)

    def _until(
        self, step: StepModel, path: Place, before: list[str], *, can: bool
    ) -> Iterator[Fault]:
        assert step.until is not None  # noqa: S101  # asked by the caller
        if not can or step.undo == "none":
            yield self._say(
                (*path, "until"), f"`{step.use}` is not undone, so it can not be for a while only",
                "write `undo: auto` or take `until` away",
            )  # fmt: skip
        for i, text in enumerate(step.until.is_):
            yield from self._expression(
                text, (*path, "until", "is", i), "truth", steps=[*before, step.id]
            )

    def _params(self, step: StepModel, path: Place) -> Iterator[Fault]:
        """Check parameters by the verb's own model; what holds `${}` is checked when it is filled."""
        model = getattr(_verb(step), "Params", None)
        where: Place = (*path, "with")
        if model is None:
            for key in step.with_:
                yield self._say(
                    (*where, key), f"`{step.use}` has no parameters", "take it away", key=True
                )
            return
        later = {
            self.document.where((*where, key))
            for key, value in step.with_.items()
            if _templated(value)
        }
        base = where if where in self.document.values else path
        _, faults = examine(model, self.document, base, step.with_)
        for fault in faults:
            is_later = (fault.line, fault.column) in later and "unknown key" not in fault.problem
            if not is_later and not (later and fault.problem.startswith("`with`: ")):
                yield fault

    # ---- guard, proof, tests

    def _expected(self) -> Iterator[Fault]:
        done = [step.id for step in self.playbook.do]
        verify = self.playbook.verify
        for i, text in enumerate(verify.expect if verify is not None else ()):
            yield from self._expression(text, ("verify", "expect", i), "truth", steps=done)

    def _proof(self) -> Iterator[Fault]:
        p = self.playbook
        if any(step.use not in registry.action for step in p.do):
            return
        changing = next((i for i, s in enumerate(p.do) if _verb(s).effect == "mutating"), None)
        if changing is not None:
            verb = p.do[changing].use
            for part, remedy in (
                ("guard", "add `guard: {cooldown: {time: 30m}, rate: {max: 2, per: 1h}}`"),
                ("verify", "add `verify: {within: 10m, expect: ['...']}`"),
            ):
                if getattr(p, part) is None:
                    yield self._say(
                        ("do", changing, "use"),
                        f"`{verb}` changes the world, but `{part}:` is missing",
                        remedy,
                    )
        if p.irreversible and p.mode == "auto":
            yield self._say(
                ("mode",),
                "a step can not be put back, so a person must say yes",
                "write `mode: approve`",
            )

    def _examples(self) -> Iterator[Fault]:
        for i, example in enumerate(self.playbook.tests):
            for name in example.given:
                if name in {"cause.kind", "cause.probability", "incident.severity"}:
                    continue
                for problem, remedy in _unknown(name, _ABOUT_SIGNAL, frozenset()):
                    yield self._say(("tests", i, "given", name), problem, remedy, key=True)


def _templated(value: Any) -> bool:
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(map(_templated, value.values()))
    return isinstance(value, list) and any(map(_templated, value))


def _unknown(name: str, extra: frozenset[str], steps: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield (problem, remedy) when nobody can know a name."""
    head, _, rest = name.partition(".")
    if name in extra:
        return
    signal = rest if head == "baseline" else name
    if signal in SIGNALS:
        if SIGNALS[signal].kind == "counter":
            rate = name.replace(signal, SIGNALS[signal].rate)
            yield f"`{name}` only counts up", f"write its rate: `{rate}`"
    elif head in {"target", "cause"} and rest:
        return
    elif head == "steps":
        step, _, value = rest.partition(".")
        if step not in steps:
            yield f"no step before this one is called `{step}`", did_you_mean(step, steps)
        elif not value:
            yield f"`{name}` names no value of the step", f"write `steps.{step}.NAME`"
    elif name in _ABOUT_SIGNAL:
        yield f"`{name}` stands only beside `signal:`", "write {signal: ..., is: '...'}"
    elif head == "verdict":
        yield (
            f"`{name}` is not known here",
            "only `then:` knows `verdict.summary` and `verdict.verdict`",
        )
    else:
        choices = {*SIGNALS, *extra, "target.id", "target.kind", "cause.kind", "cause.entity"}
        near = did_you_mean(signal, choices)
        yield f"nothing is called `{name}`", near


def _kind_of(name: str) -> Kind:
    """Return what a known name yields."""
    if name in _OWN_NAMES:
        return _OWN_NAMES[name]
    signal = name.removeprefix("baseline.")
    if signal in SIGNALS or name in _ABOUT_SIGNAL or name == "cause.probability":
        return "number"
    head, _, rest = name.partition(".")
    if (
        (head == "target" and rest in _TARGET)
        or name in {"cause.kind", "cause.entity"}
        or head == "verdict"
    ):
        return "text"
    return "any"
