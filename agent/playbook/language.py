"""What a person may write in a playbook, as models, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, StringConstraints

from agent.abilities import OURS, Able, acting
from agent.authority import Approver
from agent.catalogue import SIGNALS
from agent.conditions import Condition, Holding
from agent.errors import Refused
from agent.expr import Lookup, interpolate, parse
from agent.model import MODES, Cause, Entity, EntityKind, Incident, Mode, Severity, entity
from agent.plans import Plan, PlannedBlast
from agent.playbook.plan import make
from agent.playbook.trial import Example
from agent.playbook.verbs import ability_of, verb_of
from agent.ports import Notifier
from agent.units import Duration, Model, Ratio, Span

if TYPE_CHECKING:
    from agent.config import Config

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
StepId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


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
    """Then the expression may say `value`, `peers.median`, `peers.count`; `SIGNAL{label=value}` is one of several."""
    for_: Duration = Field(default=0.0, alias="for")
    """How long it must hold without a break."""

    @property
    def needs(self) -> frozenset[str]:
        """Signals, perhaps with labels, that must be measured for it to be true."""
        expression = parse(self.is_)
        if not expression.strict:
            return frozenset()
        named = {name.removeprefix("baseline.") for name in expression.names}
        about = {self.signal} if self.signal and "value" in named else set()
        return frozenset(about | (named & SIGNALS.keys()))

    @property
    def condition(self) -> Condition:
        """The condition as it is followed through time."""
        return Condition(self.is_, self.signal, self.for_)


MOST: Final = 50
"""Conditions of one kind, or steps; more would be a program, and would cost time at each tick."""
Items = Annotated[
    list[Annotated[Item, BeforeValidator(_item, json_schema_input_type=str | Item)]],
    Field(max_length=MOST),
]


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
    per: Span = 3600.0


class Blast(Model):
    """How many of a domain it may be one of, that any playbook treats at about the same time; one is always allowed."""

    max_targets: Annotated[int, Field(ge=1)] = 1
    max_share: Ratio = 0.34
    domain: str = ""
    """Attribute of the targets that tells domains apart (`labels.rack`); empty = all of the same kind."""


class Attempts(Model):
    """How often it is tried on one target before people must look."""

    max: Annotated[int, Field(ge=1)] = 2
    per: Span = 86_400.0
    then: Literal["escalate", "stop"] = "escalate"


class Breaker(Model):
    """After so many runs in a row that did not help, it rests."""

    bad_outcomes: Annotated[int, Field(ge=1)] = 2
    hold: Duration = 6 * 3600.0


LEAST_TREATED_S: Final = 60.0
"""For so long at least an act counts for the blast radius after it."""


class Approval(Model):
    """Who may say yes, and what silence means."""

    by: Approver = "operator"
    timeout: Span = 900.0
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
    fresh: Span = 120.0
    """Evidence may be this old, no older."""

    @property
    def planned_blast(self) -> PlannedBlast:
        """The blast radius as a plan carries it: an act counts until it has settled."""
        blast = self.blast
        return PlannedBlast(
            blast.max_targets, blast.max_share, blast.domain, max(self.settle, LEAST_TREATED_S)
        )


def _listed(written: Any) -> Any:
    return [written] if isinstance(written, str) else written


Texts = Annotated[
    list[str],
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
    Field(max_length=MOST),
]


class UntilModel(Model):
    """When a temporary measure is put back."""

    is_: Texts = Field(alias="is", min_length=1)
    for_: Duration = Field(default=60.0, alias="for")
    at_most: Span
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
    timeout: Span = 60.0
    """For one try."""
    retry: Annotated[int, Field(ge=0, le=5)] = 1
    """How many more tries when it did not answer."""
    approve: Approval | None = None
    """A person is asked for this step when its turn has come, also when the run acts on its own up to there."""


class VerifyModel(Model):
    """How it is proven that it helped."""

    wait: Duration = 60.0
    """Before the first look."""
    within: Duration
    """Then `expect` must come true in this time."""
    expect: Texts = Field(min_length=1)
    against: Literal["", "peers", "forecast", "past"] = ""
    otherwise: Literal["undo", "escalate", "next"] = "undo"


class Playbook(Model):
    """One playbook. Made by `Library.load`, which checks it against catalogue, causes, verbs and connectors."""

    version: Literal[1]
    id: Id
    title: Annotated[str, Field(min_length=1, max_length=120)]
    owner: str = ""
    """The team that answers for it; texts may say `${owner}`."""
    enabled: bool = True
    mode: Mode = "suggest"
    order: int = 100
    """Of several for one cause, the more specific one comes first, then the lower order."""
    target: Target
    because: Because
    when: Annotated[When, BeforeValidator(_when, json_schema_input_type=Items | When)] = When()
    unless: Texts = []
    guard: Guard | None = None
    do: Annotated[list[StepModel], Field(min_length=1, max_length=MOST)]
    verify: VerifyModel | None = None
    then: Annotated[list[StepModel], Field(max_length=MOST)] = []
    tests: list[Example] = []

    _text_hash: str = PrivateAttr(default="")
    _needs: tuple[frozenset[str], ...] | None = PrivateAttr(default=None)
    _able: Mapping[str, tuple[Able, ...]] | None = PrivateAttr(default=None)
    _unbuilt: Mapping[str, str] = PrivateAttr(default={})
    _folder: Path = PrivateAttr(default=Path())

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
    def needs(self) -> tuple[frozenset[str], ...]:
        """Signals without which it can not fire: all those of one of these sets must be measured."""
        if self._needs is None:
            ways = [item.needs for item in self.when.any]
            self._needs = tuple(ways) or (
                frozenset[str]().union(*(i.needs for i in self.when.all)),
            )
        return self._needs

    @property
    def mutating(self) -> bool:
        """Whether any step changes the world, rather than marking or telling."""
        return any(verb_of(step).effect == "mutating" for step in self.do)

    @property
    def shared(self) -> bool:
        """Whether any step acts on something that other agents may act on, too."""
        return any(verb_of(step).shared for step in self.do)

    @property
    def touching(self) -> bool:
        """Whether it needs `manages:`: it changes the world, or marks something that others use."""
        return self.mutating or self.shared

    @property
    def irreversible(self) -> bool:
        """Whether a step can not be put back in this world, and asks nobody of its own."""
        return any(
            verb_of(s).effect == "mutating" and not verb_of(s).reversible and s.approve is None
            for s in self.do
        )

    @property
    def lacking(self) -> frozenset[str]:
        """Abilities that its steps need and no configured connector has, whoever it acts on."""
        needed = [s for s in self.do if not self.left_out(s)] or self.do
        return frozenset(a for step in needed if (a := ability_of(step)) in self._nobody)

    @property
    def _nobody(self) -> frozenset[str]:
        """Abilities that no connector has; what the journal does by itself is none of them, as long as it is read."""
        none = {name for name, able in (self._able or {}).items() if not able}
        return frozenset(none - (OURS - {Notifier.__name__}))

    def unable(self, target: Entity) -> str:
        """Say why nobody can do its steps on a target, or who of several is not known; "" = somebody can."""
        if self.lacking:
            return f"no connector in agent.yaml can do this: {', '.join(sorted(self.lacking))}"
        try:
            list(self._actors(self.do, target))
        except Refused as why:
            return str(why)
        return ""

    @property
    def broken(self) -> str:
        """Why nobody can do one of its steps, whoever it acts on: those who could were not built; "" = somebody can."""
        for step in self.do:
            could = list(self._actors([step], None))
            if could and all(one.name in self._unbuilt for one in could):
                name = could[0].name
                return f"connector {name} could not be built: {self._unbuilt[name]}"
        return ""

    def unbuilt(self, faults: Mapping[str, str]) -> None:
        """Take which connectors could not be built, and why: the mapping is kept and asked each time."""
        self._unbuilt = faults

    @property
    def needs_connectors(self) -> frozenset[str]:
        """Names of the connectors that may act for it."""
        return frozenset(one.name for one in self._actors((*self.do, *self.then), None))

    def _actors(self, steps: Iterable[StepModel], target: Entity | None) -> Iterator[Able]:
        """Yield who acts in steps: on a target, or whoever may on any (None). Raises Refused when it is not one."""
        for step in steps:
            name = ability_of(step)
            ours = step.via is None and name in OURS
            if self._able is None or not name or ours or self.left_out(step):
                continue
            if target is not None:
                yield acting(self._able[name], step.via, name, target.id, self._unbuilt)
            else:
                yield from (a for a in self._able[name] if step.via in {None, a.name})

    @property
    def folder(self) -> Path:
        """Where its file lies: files that its tests name lie beside it."""
        return self._folder

    def unbound(self) -> Playbook:
        """Return it as it acts where nothing holds it back but its own guard: on `auto`, and able to all it says."""
        out = self.model_copy(update={"mode": "auto"})
        out._able = None  # noqa: SLF001  # its own
        return out

    def cap(self, target: Entity | None = None) -> Mode:
        """How far it may go at most because of how those who act were tested; without a target, whoever may act."""
        try:
            untried = any(a.stand_in for a in self._actors((*self.do, *self.then), target))
        except Refused:
            return "auto"  # nobody acts: that is another gate
        return "approve" if untried else "auto"

    def ceiling(self, config: Config, target: Entity | None = None) -> Mode:
        """Return the lowest of its own mode, that of `agent.yaml`, and the cap of its abilities."""
        return lowest(self.mode, config.mode, self.cap(target))

    def rank(self) -> tuple[int, int, int, str]:
        """Sort key among playbooks for one cause: specific ones first, then order, then id."""
        return (
            -self.because.cause.count("."),
            -len(self.when.all + self.when.any),
            self.order,
            self.id,
        )

    def left_out(self, step: StepModel) -> bool:
        """Tell whether a step only tells people and nobody can: they see it on the console anyway."""
        return verb_of(step).ability is Notifier and Notifier.__name__ in self._nobody

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
            # a text for people may begin with an entity's id, too
            moves = verb_of(step).effect == "mutating" or verb_of(step).shared
            for value in step.with_.values() if moves else ():
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
        """Fix what a run is going to do; see `agent.playbook.plan`."""
        return make(self, target, incident, scene, mode=mode, now=now)


def lowest(*modes: Mode) -> Mode:
    """Return the least that all of them allow."""
    return min(modes, key=MODES.index)
