"""Who is told what, by which way and when: what a person writes under `people:`, and what follows from it for a note.

    note -> withheld (put off, silenced)? -> routes (CEL) -> ways, channels -> quiet hours -> the outbox, which paces

A message that no route is meant for goes to every way that wants it, so a gap in the routes loses nothing. Quiet hours
and limits keep back what is no page; pages go, unless a way says otherwise. Events (`agent.news`) are for machines and
boards: routes, hours and limits let them through. Pure: times are arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, StringConstraints

from agent.cron import Cron
from agent.expr import Kind, lint, parse, places
from agent.strict import NAME, Document, Place, did_you_mean
from agent.units import Duration, Model

if TYPE_CHECKING:
    from agent.errors import Fault
    from agent.ports import Note

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Clock = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
WayName = Annotated[str, StringConstraints(pattern=NAME)]

NAMES: Final[Mapping[str, Kind]] = {
    "severity": "text", "title": "text", "owner": "text", "cause": "text", "cause_of": "text", "entity": "text",
    "kind": "text", "state": "text", "probability": "number", "hour": "number", "day": "text",
}  # fmt: skip
"""What a route may ask about a note; beside these `labels.NAME`, the attributes of whom it is about."""
_LABELS: Final = "labels."
OWN_HARM: Final = frozenset({"undo", "held_back", "lost"})
"""What runs tell of that they have done themselves and could not mend: neither kept back nor put off."""


# ---------------------------------------------------------------- what is written


class Quiet(Model):
    """Hours in which what is no page waits: `{from: '22:00', to: '07:00'}`."""

    from_: Clock = Field(alias="from")
    to: Clock
    """On the clock on the wall; before `from` = on the next day."""
    days: list[Day] = []
    """On which they begin; default: every day."""


class To(Model):
    """A way, and perhaps a channel of it: `slack`, or `{way: slack, channel: '#fraud'}`."""

    way: WayName
    """Name of a connector that notifies."""
    channel: str = ""

    @property
    def address(self) -> str:
        """How the journal names it."""
        return f"{self.way}/{self.channel}" if self.channel else self.way


def _to(written: Any) -> Any:
    return {"way": written} if isinstance(written, str) else written


Targets = list[Annotated[To, BeforeValidator(_to, json_schema_input_type=str | To)]]


class Route(Model):
    """Where messages go: the first route whose `when` is true; with `also: true` those after it are asked, too."""

    when: str = ""
    """`severity == 'page' && owner == 'team-fraud'`; empty = always."""
    to: Targets = []
    """Empty = to nobody: it waits in console and digest."""
    also: bool = False


class Rung(Model):
    """One step of the ladder: who is called when nobody has taken it for so long."""

    after: Duration = 0.0
    to: Annotated[Targets, Field(min_length=1)]
    when: str = ""
    """Only for these, as in a route; empty = for all."""
    quiet: Quiet | None = None
    """In these hours this step waits until they end."""


class WayPace(Model):
    """How much a way, and each channel of it, may carry."""

    most: Annotated[int, Field(ge=1, le=10_000)] = 60
    """Messages an hour; what is over comes as one summary. Pages are never kept back by it."""
    channels: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = {}
    """The same for single channels: `{'#fraud': 10}`."""
    quiet: Quiet | None = None
    """Its own quiet hours, instead of those of `people`."""
    pages: Literal["always", "wait"] = "always"
    """wait: pages wait for the end of quiet hours, too."""


class People(Model):
    """Who is told what, when, and who is called next."""

    timezone: str = ""
    """`Europe/Berlin`; default: that of this host."""
    quiet: Quiet | None = None
    """What is no page waits until they end, then it comes as one message."""
    routes: Annotated[list[Route], Field(max_length=200)] = []
    ways: dict[WayName, WayPace] = {}
    escalation: Annotated[list[Rung], Field(max_length=20)] = []
    """The ladder of an incident that harms, or that a person called for."""

    @property
    def keeps_quiet(self) -> bool:
        """Whether anything ever waits for quiet hours to end."""
        return self.quiet is not None or any(w.quiet is not None for w in self.ways.values())

    def pace(self, way: str) -> WayPace:
        """Return how much a way may carry."""
        return self.ways.get(way, _PACE)

    def most(self, way: str, channel: str) -> int:
        """Return how many messages an hour a channel of a way may carry."""
        pace = self.pace(way)
        return pace.channels.get(channel, pace.most)


_PACE: Final = WayPace()


# ---------------------------------------------------------------- what is wrong with it


def faults(people: People, document: Document, ways: Mapping[str, bool]) -> Iterator[Fault]:
    """Check expressions, zones, ways and the order of the ladder.

    ways   connectors by name: whether each notifies
    """
    if people.timezone:
        try:
            ZoneInfo(people.timezone)
        except (KeyError, ValueError, OSError):
            problem = f"there is no time zone `{people.timezone}`"
            yield document.fault(
                ("people", "timezone"), problem, "write it like Europe/Berlin or UTC"
            )
    for i, route in enumerate(people.routes):
        path: Place = ("people", "routes", i)
        yield from _expression(route.when, (*path, "when"), document)
        yield from _known(route.to, (*path, "to"), document, ways)
        if not route.when and not route.also and i + 1 < len(people.routes):
            problem = "the routes after this one are never asked"
            yield document.fault(path, problem, "write `when:` or `also: true`, or put it last")
    for i, rung in enumerate(people.escalation):
        path = ("people", "escalation", i)
        yield from _expression(rung.when, (*path, "when"), document)
        yield from _known(rung.to, (*path, "to"), document, ways)
        if i and rung.after < people.escalation[i - 1].after:
            yield document.fault(
                (*path, "after"), "this step comes before the one above it", "sort them by `after`"
            )
    for name in people.ways:
        yield from _known([To(way=name)], ("people", "ways", name), document, ways, whole=True)


def _known(
    targets: Sequence[To],
    path: Place,
    document: Document,
    ways: Mapping[str, bool],
    *,
    whole: bool = False,
) -> Iterator[Fault]:
    able = sorted(name for name, notifies in ways.items() if notifies)
    for i, one in enumerate(targets):
        where = path if whole else (*path, i)
        if one.way not in ways:
            remedy = did_you_mean(one.way, able, show=20) or "add it under `connectors:`"
            yield document.fault(where, f"no connector is called `{one.way}`", remedy)
        elif not ways[one.way]:
            said = f"those that do: {', '.join(able)}" if able else "none here does"
            yield document.fault(where, f"`{one.way}` tells nobody anything", said)


def _expression(text: str, path: Place, document: Document) -> Iterator[Fault]:
    if not text:
        return
    slips = lint(text)
    if not slips:
        unknown = [n for n in sorted(places(text)) if n not in NAMES and not n.startswith(_LABELS)]
        for name in unknown:
            remedy = did_you_mean(name, [*NAMES, "labels.NAME"], show=20)
            said = f"in `{text}`: nothing is called `{name}` here"
            yield document.fault_in(path, text, places(text)[name], said, remedy)
        if unknown:
            return
        slips = parse(text).check(lambda name: NAMES.get(name, "text"), "truth")
    for slip in slips:
        yield document.fault_in(path, text, slip.at, f"in `{text}`: {slip.problem}", slip.remedy)


# ---------------------------------------------------------------- what follows


@dataclass(frozen=True, slots=True)
class Leg:
    """One way that a note takes. due: not before."""

    address: str
    note: Note
    due: float

    @property
    def way(self) -> str:
        """The connector."""
        return self.address.partition("/")[0]


Facts = Callable[["Note"], Mapping[str, Any]]
"""What is known of a note, by the names of `NAMES`, with its labels under `labels`."""
Withheld = Callable[["Note"], str]
"""Why a note is told to nobody; "" = it is."""


@dataclass(slots=True)
class Router:
    """Sends notes their ways.

    people     as agent.yaml has it now
    facts      what routes may ask of a note
    withheld   who has put off or silenced what it is about
    """

    people: People
    facts: Facts = lambda _: {}
    withheld: Withheld = lambda _: ""

    def legs(self, note: Note, ways: Sequence[str]) -> list[Leg]:
        """Return the ways that a note takes, of those that there are."""
        if note.event:
            return [Leg(way, note, note.ts) for way in ways]
        if note.to:
            # a step of the ladder has waited for its own hours
            return [Leg(_address(to, note.channel), note, note.ts) for to in note.to if to in ways]
        found = self.routed(note)
        if found is None:
            later = self.later(note)
            found = [To(way=way) for way in ways if way not in later]
        legs = dict.fromkeys((to.way, to.channel) for to in found if to.way in ways)
        return [
            Leg(
                _address(way, channel),
                replace(note, channel=channel) if channel else note,
                self.due(note, way),
            )
            for way, channel in legs
        ]

    def later(self, note: Note) -> set[str]:
        """Return the ways that the ladder calls in its own time: all for what begins it, else those of later steps.

        What a run has done itself and could not mend waits for no step.
        """
        if note.severity != "page" or not note.incident or not self.people.escalation:
            return set()
        kind, _, rest = note.key.partition(":")
        if rest.partition(":")[0] in OWN_HARM:
            return set()
        look = lookup(self.facts(note), note, self.people.timezone)
        meant = [
            r for r in self.people.escalation if not r.when or parse(r.when).test(look) is True
        ]
        begins = kind in {"page", "call"}
        at_once = set() if begins else {to.way for r in meant if r.after == 0 for to in r.to}
        return {to.way for r in meant for to in r.to} - at_once

    def routed(self, note: Note) -> list[To] | None:
        """Return where the routes send a message; None = no route is meant for it."""
        if not self.people.routes:
            return None
        look = lookup(self.facts(note), note, self.people.timezone)
        out: list[To] = []
        meant = False
        for route in self.people.routes:
            if route.when and parse(route.when).test(look) is not True:
                continue
            meant = True
            out += route.to
            if not route.also:
                break
        return out if meant else None

    def due(self, note: Note, way: str) -> float:
        """Return when a message may go at the earliest."""
        pace = self.people.pace(way)
        quiet = pace.quiet or self.people.quiet
        if quiet is None or (note.severity == "page" and pace.pages == "always"):
            return note.ts
        return quiet_until(quiet, self.people.timezone, note.ts) or note.ts


def _address(way: str, channel: str) -> str:
    return f"{way}/{channel}" if channel else way


def lookup(facts: Mapping[str, Any], note: Note, timezone: str) -> Callable[[str], Any]:
    """Return what an expression may ask of a note."""
    at = datetime.fromtimestamp(note.ts, _zone(timezone)) if timezone else _here(note.ts)
    own = {
        "severity": note.severity, "title": note.title, "owner": note.owner,
        "hour": at.hour + at.minute / 60.0, "day": _DAYS[at.weekday()],
    }  # fmt: skip
    known = {**facts, **{k: v for k, v in own.items() if v != "" or k not in facts}}
    labels = facts.get("labels") or {}

    def look(name: str) -> Any:
        return labels.get(name[len(_LABELS) :]) if name.startswith(_LABELS) else known.get(name)

    return look


def quiet_until(quiet: Quiet, timezone: str, now: float) -> float | None:
    """Return when the quiet hours end that `now` lies in; None = it lies in none."""
    begins, ends = _hours(quiet.from_, quiet.to, tuple(quiet.days), timezone)
    begun = begins.last(now)[1]
    end = ends.next(begun)
    return end if begun <= now < end else None  # never for NaN


@functools.lru_cache(64)
def _hours(start: str, end: str, days: tuple[str, ...], timezone: str) -> tuple[Cron, Cron]:
    zone = _zone(timezone) if timezone else None

    def line(clock: str, on: str) -> str:
        hour, _, minute = clock.partition(":")
        return f"{int(minute)} {int(hour)} * * {on}"

    return Cron(line(start, ",".join(days) or "*"), zone), Cron(line(end, "*"), zone)


def _here(ts: float) -> datetime:
    return datetime.fromtimestamp(ts).astimezone()


@functools.lru_cache(16)
def _zone(timezone: str) -> tzinfo:
    return ZoneInfo(timezone)
