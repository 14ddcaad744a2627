"""Which playbooks speak of an incident, on what target, and whether their conditions hold. Pure.

    top cause of the diagnosis -> playbooks whose `because` matches -> target -> signals that are there
        -> `where`, `when`, `unless`

Several playbooks for one cause are ordered: the more specific cause first, then more conditions, then `order`. The
first that fires on a target wins it; the others are recorded with the reason, for `why` and `why-not`. Unknown never
fires: not in `when`, and for what mutates not in `unless` either (we do not know that the exception does not hold).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.causes import matches
from agent.conditions import Holding, View, join
from agent.expr import parse
from agent.model import Cause, Entity, Incident
from agent.record import group_of
from agent.scene import Scene

if TYPE_CHECKING:
    from agent.memory import Memory
    from agent.playbook import Library, Playbook
    from agent.topology import Topology
    from agent.world import World

SceneOf = Callable[[Entity, Cause | None], Scene]
_SEVERITIES: Final = ("note", "warning", "page")
_Who = tuple[str, str, Entity, str]
"""Id and text of a playbook, its target, the incident."""
_FORGET_S: Final = 3600.0
_SWEEP_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Match:
    """How one playbook stands to one incident.

    target   None when no entity of the wanted kind belongs to the incident
    fires    None = unknown: something that it must know is missing
    reason   why it does not fire; "" when it does
    """

    playbook: str
    target: Entity | None
    fires: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Ask:
    """A playbook that may fire on a target: its conditions are asked."""

    playbook: Playbook
    target: Entity
    who: _Who


@dataclass(frozen=True, slots=True)
class _Index:
    """Whom an incident may be about, best first, as long as it is `of` the same; the others with the reason."""

    of: tuple[Any, ...]
    whom: tuple[Entity | None, ...]
    as_of: tuple[int, int]
    entries: tuple[Match | _Ask, ...]


@dataclass(slots=True)
class HoldingState:
    """What matching remembers between ticks: for how long conditions have held, and how the last look ended.

    asked   of how many playbooks the last look asked the conditions
    """

    matches: dict[str, tuple[Match, ...]] = field(default_factory=dict)
    asked: int = 0
    _keen: set[str] = field(default_factory=set)
    _indexes: dict[str, _Index] = field(default_factory=dict)
    _holdings: dict[_Who, tuple[float, Holding]] = field(default_factory=dict)
    _swept: float = 0.0

    def of(self, who: _Who, playbook: Playbook, now: float) -> Holding:
        """Return what follows the conditions of a playbook on a target, for one incident."""
        _, holding = self._holdings.get(who) or (now, playbook.when.holding())
        self._holdings[who] = (now, holding)
        return holding

    def keen(self, incident: str) -> bool:
        """Tell whether something fires for an incident, or may as soon as its conditions have held for long enough."""
        return incident in self._keen

    def settle(self, incident: str, *, keen: bool, asked: int) -> None:
        """Note how a look ended."""
        self.asked = asked
        (self._keen.add if keen else self._keen.discard)(incident)

    def index(
        self, library: Library, incident: Incident, top: Cause, world: World, scene: SceneOf
    ) -> tuple[Match | _Ask, ...]:
        """Return the playbooks for the cause of an incident: those to ask, and why the others are not.

        Not asked is who has no target, or must know what nobody measures there. What was asked before is asked again,
        whatever is measured now: its conditions are followed through the gap.
        """
        of, whom = (library, world, top), (incident.about, *incident.entities)
        as_of = (world.revision, world.topology.revision)
        known = self._indexes.get(incident.id)
        if (
            known is not None
            and known.as_of == as_of
            and all(map(operator.is_, of, known.of))
            and whom == known.whom
        ):
            return known.entries
        targets: dict[str, Entity | None] = {}
        scenes: dict[Entity, Scene] = {}
        measured: dict[tuple[Entity, str], bool] = {}
        entries: list[Match | _Ask] = []
        for playbook in library.for_cause(top.kind):
            kind = playbook.target.kind
            if kind not in targets:
                targets[kind] = target_of(playbook, top, incident, world.topology)
            target = targets[kind]
            if target is None:
                entries.append(Match(playbook.id, None, False, f"no {kind} belongs to it"))
                continue
            who = (playbook.id, playbook.text_hash, target, incident.id)
            seen = scenes.get(target) or scenes.setdefault(target, scene(target, top))
            lacking = self._lacking(playbook, seen, measured)
            if lacking and who not in self._holdings:
                reason = f"when: nobody measures {lacking} there"
                entries.append(Match(playbook.id, target, None, reason))
            else:
                entries.append(_Ask(playbook, target, who))
        self._indexes[incident.id] = _Index(of, whom, as_of, tuple(entries))
        return self._indexes[incident.id].entries

    def _lacking(
        self, playbook: Playbook, scene: Scene, measured: dict[tuple[Entity, str], bool]
    ) -> str:
        """Return a signal without which a playbook can not fire and that nobody measures; "" = none."""

        def there(signal: str) -> bool:
            key = (scene.target, signal)
            if key not in measured:
                measured[key] = bool(scene.series(signal))
            return measured[key]

        ways = [next((s for s in sorted(needs) if not there(s)), "") for needs in playbook.needs]
        return "" if "" in ways else ways[0]

    def keep(self, ids: Collection[str]) -> None:
        """Let go of what is known of all incidents but these; what has held is forgotten later."""
        self._keen &= set(ids)
        for id_ in [i for i in self._indexes if i not in ids]:
            del self._indexes[id_]

    def forget(self, now: float) -> None:
        """Let go of what nobody has asked for in an hour; looks once a minute."""
        if 0.0 <= now - self._swept < _SWEEP_S:
            return
        self._swept = now
        old = [
            k for k, (seen, _) in self._holdings.items() if not -_FORGET_S < now - seen < _FORGET_S
        ]
        for key in old:
            del self._holdings[key]
            self.matches.pop(key[3], None)
        known = self._indexes.keys() | {incident for *_, incident in self._holdings}
        self.matches = {id_: found for id_, found in self.matches.items() if id_ in known}


def candidates(
    library: Library,
    incident: Incident,
    world: World,
    holding: HoldingState,
    now: float,
    *,
    scene: SceneOf,
    memory: Memory | None = None,
) -> list[tuple[Playbook, Entity, Scene]]:
    """Return the playbooks that fire for an incident with their targets: one a target, best first.

    scene    what expressions see for a target
    memory   lets a playbook whose `otherwise: next` did not help give way to the next one
    Cost: a few expressions of 10 us for each playbook that speaks of the cause, to a target of a kind that is there
    and on which somebody measures what it must know: all others are found in an index.
    """
    holding.forget(now)
    top = incident.diagnosis.top if incident.diagnosis else None
    if top is None or incident.state not in {"open", "acknowledged"}:
        holding.matches.pop(incident.id, None)
        holding.settle(incident.id, keen=False, asked=0)
        return []
    entries = holding.index(library, incident, top, world, scene)
    found: list[Match] = []
    keen, asked = False, 0
    out: list[tuple[Playbook, Entity, Scene]] = []
    taken: dict[Entity, str] = {}
    scenes: dict[Entity, Scene] = {}  # made once a target: what it has looked up, it knows for all
    for entry in entries:
        if isinstance(entry, Match):
            found.append(entry)
            continue
        playbook, target = entry.playbook, entry.target
        seen = scenes.get(target) or scenes.setdefault(target, scene(target, top))
        held = holding.of(entry.who, playbook, now)
        fires, reason = fits(playbook, incident, top, seen, holding=held, now=now)
        asked += 1
        keen = keen or fires is True or held.counts
        if fires and memory is not None and _gave_way(playbook, target, incident, memory):
            fires, reason = False, "it has acted and did not help; the next one may try"
        harmed = memory is not None and memory.records.demoted(playbook.id, group_of(target))
        if fires and not taken.get(target) and (harmed or playbook.unable(target)):
            # it can not act whatever the guard says; another one may, and the guard tells of the lack or the harm
            out.append((playbook, target, seen))
        elif fires and target in taken:
            fires, reason = False, f"{taken[target]} comes first"
        elif fires:
            taken[target] = playbook.id
            out.append((playbook, target, seen))
        found.append(Match(playbook.id, target, fires, reason))
    holding.matches[incident.id] = tuple(found)
    holding.settle(incident.id, keen=keen, asked=asked)
    return out


def target_of(
    playbook: Playbook, cause: Cause, incident: Incident, topology: Topology
) -> Entity | None:
    """Return the entity to act on: the cause's own, its nearest relative of the kind, or the incident's.

    A process that burns CPU is no relative of the service that it hurts: the incident's own service is the target.
    Of the versions of a model it is the one that the diagnosis names.
    """
    kind = playbook.target.kind
    named = Entity("version", f"{cause.entity.key}/{cause.facts.get('version', '')}")
    if kind == "version" and cause.entity.kind == "model" and topology.edges(named):
        return named
    starts = [cause.entity, *([incident.about] if incident.about else []), *incident.entities]
    for start in starts:
        found = topology.nearest(start, kind)
        if found is not None:
            return found
    return None


def fits(
    playbook: Playbook,
    incident: Incident,
    cause: Cause,
    scene: View,
    *,
    holding: Holding,
    now: float,
) -> tuple[bool | None, str]:
    """Tell whether a playbook fires: (True, ""), or False / None = unknown with the reason.

    Conditions are looked at in any case, so that the time for which they hold runs on.
    """
    held = holding.update(now, scene)
    because = playbook.because
    if not matches(because.cause, cause.kind):
        return False, f"the cause is {cause.kind}, not {because.cause}"
    if cause.probability < because.min_confidence:
        return False, f"{cause.probability:.0%} sure, it wants {because.min_confidence:.0%}"
    if _SEVERITIES.index(incident.severity) < _SEVERITIES.index(because.severity):
        return False, f"severity is {incident.severity}, it wants {because.severity}"
    fitting, reason = meant_for(playbook, scene)
    if reason.startswith("where"):
        return fitting, reason
    if held is not True:
        standing = next((s for s in holding.standings() if s.met is not True), None)
        so_far = f" (held for {standing.held_s:.0f} s)" if standing and standing.value else ""
        return held, f"when: {standing.condition if standing else ''} is {_word(held)}{so_far}"
    return fitting, reason


def meant_for(playbook: Playbook, scene: View) -> tuple[bool | None, str]:
    """Ask `where` and `unless`, which hold for a person's word, too: what mutates must know that no exception holds."""
    where = parse(playbook.target.where).test(scene) if playbook.target.where else True
    if where is not True:
        return where, f"where: {playbook.target.where} is {_word(where)}"
    answers = {text: parse(text).test(scene) for text in playbook.unless}
    excepted = join(answers.values(), "any") if answers else False
    if excepted is False or (excepted is None and not playbook.mutating):
        return True, ""
    text = next(t for t, answer in answers.items() if answer is excepted)
    return (False if excepted else None), f"unless: {text} is {_word(excepted)}"


def _word(value: bool | None) -> str:
    return {True: "true", False: "not so", None: "unknown"}[value]


def _gave_way(playbook: Playbook, target: Entity, incident: Incident, memory: Memory) -> bool:
    """Tell whether it has had its turn in this incident and said that the next one may try."""
    if playbook.verify is None or playbook.verify.otherwise != "next":
        return False
    return any(
        run.incident == incident.id and run.outcome is not None and run.outcome.verdict != "helped"
        for run in memory.acts(playbook.id, target, since=incident.opened)
    )
