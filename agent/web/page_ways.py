"""Ways that only the console's pages ask: any series and what moved, the journal, an incident's part of the graph.

They read and change nothing. Beside the desk, as no command asks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field

from agent import audit, explore, graph, views
from agent.api import Ask, Way
from agent.audit import CheckView, EntryDetail, JournalPage
from agent.codec import unpack
from agent.errors import Refused
from agent.explore import PastScoreView, RankView, ScoreView, SeriesPage
from agent.graph import IncidentGraphView
from agent.meant import NotThere, moment
from agent.model import Decision
from agent.model_features import FeaturesView, features_view
from agent.units import Model
from agent.views import DecisionView

if TYPE_CHECKING:
    from agent.desk import Desk

_LONGEST_S: Final = 7 * 86_400.0
_SHORTEST_S: Final = 3.0
_LOOKED_AT: Final = 200

Word = Annotated[str, Field(max_length=200)]
When = Annotated[str, Field(max_length=40)]


class _Find(Model):
    """Words, all of which must be in the name."""

    search: Word = ""
    sort: Literal["rare", "name"] = "rare"
    offset: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class _OneSeries(Model):
    """Which one."""

    series: Annotated[str, Field(min_length=1, max_length=500)]
    """Its text, or the metric alone where that is unique."""


class _Stretch(_OneSeries):
    """Which one, from when to when."""

    start: When = Field(default="15m", alias="from")
    """`15m` (ago), unix seconds, or ISO 8601."""
    end: When = Field(default="", alias="to")
    """The same; empty = now."""


class _Window(Model):
    """A stretch of time."""

    start: When
    """`15m` (ago), unix seconds, or ISO 8601."""
    end: When = ""
    """The same; empty = now."""
    search: Word = ""
    """Only series that have all these words in their name."""
    limit: Annotated[int, Field(ge=1, le=500)] = 50


class _Record(Model):
    """Which entries."""

    kind: Word = ""
    """One kind, or some with commas between; empty = all."""
    subject: Annotated[str, Field(max_length=300)] = ""
    search: Word = ""
    since: When = ""
    before: Annotated[int, Field(ge=0, le=2**62)] = 0
    """Only entries with a lower number; 0 = from the newest."""
    limit: Annotated[int, Field(ge=1, le=500)] = 100


class _Decided(Model):
    """Of which playbook."""

    playbook: Annotated[str, Field(max_length=200)] = ""
    limit: Annotated[int, Field(ge=1, le=200)] = 20


class _Version(Model):
    version: Annotated[str, Field(max_length=300)] = ""
    """Empty = the one in use."""


def page_ways(desk: Desk) -> tuple[Way, ...]:
    """Return the ways."""
    checker = audit.Checker()
    return (
        Way("GET", "/api/explore/series", "explore_series", "see", "Any series: how it is now, how rare that is.",
            lambda a: _series(desk, a.query), query=_Find, returns=SeriesPage),
        Way("GET", "/api/explore/score", "explore_score", "see", "One series as its detector sees it now.",
            lambda a: _score(desk, a.query.series), query=_OneSeries, returns=ScoreView),
        Way("GET", "/api/explore/past-score", "explore_past", "see", "How rare one series was, by what was said then.",
            lambda a: _past(desk, a.query), query=_Stretch, returns=PastScoreView),
        Way("GET", "/api/explore/rank", "explore_rank", "see", "Series by how far they moved in a window, by evidence.",
            lambda a: _rank(desk, a), query=_Window, returns=RankView),
        Way("GET", "/api/incidents/{id}/graph", "incident_graph", "see", "Who it is about, and the way from its cause.",
            lambda a: _graph(desk, a.path["id"]), returns=IncidentGraphView),
        Way("GET", "/api/models/{model}/features", "features", "see", "All features of a version, with distributions.",
            lambda a: _features(desk, a.path["model"], a.query.version), query=_Version, returns=FeaturesView),
        Way("GET", "/api/decisions", "decisions", "see", "What the guard said, every gate, the newest first.",
            lambda a: _decisions(desk, a.query.playbook, a.query.limit), query=_Decided, returns=list[DecisionView]),
        Way("GET", "/api/runs/{id}/decision", "run_decision", "see", "What let a run act: every gate as it was then.",
            lambda a: _let(desk, a.path["id"]), returns=DecisionView | None),
        Way("GET", "/api/journal", "journal", "see", "The record, the newest first, a page at a time.",
            lambda a: _journal(desk, a.query), query=_Record, returns=JournalPage),
        Way("GET", "/api/journal/check", "journal_check", "see", "Whether the record is as it was written.",
            lambda _: checker.check(desk.hooks.journal, desk.hooks.now()), returns=CheckView),
        Way("GET", "/api/journal/{seq}", "journal_entry", "see", "One entry whole.",
            lambda a: _entry(desk, a.path["seq"]), returns=EntryDetail),
    )  # fmt: skip


def _series(desk: Desk, asked: _Find) -> SeriesPage:
    h = desk.hooks
    return explore.page(
        h.series(), h.world, h.watches(), h.memory.open_incidents(), desk.name,
        search=asked.search, sort=asked.sort, offset=asked.offset, limit=asked.limit,
    )  # fmt: skip


def _score(desk: Desk, text: str) -> ScoreView:
    series = desk.series(text)
    return explore.score(series, desk.hooks.watches(), desk.hooks.world.get(series))


def _past(desk: Desk, asked: _Stretch) -> PastScoreView:
    h = desk.hooks
    series, now = desk.series(asked.series), h.now()
    start, end = moment(asked.start, now, now - 900.0), min(moment(asked.end, now, now), now)
    if not 0.0 < end - start <= _LONGEST_S:
        raise Refused(f"scores over {end - start:.0f} s can not be shown; take at most 7 d")
    return explore.past_score(series, h.scores, h.watches(), start, end)


async def _rank(desk: Desk, ask: Ask) -> RankView:
    asked: _Window = ask.query
    h = desk.hooks
    now = h.now()
    start, end = moment(asked.start, now, now - 900.0), min(moment(asked.end, now, now), now)
    if not _SHORTEST_S <= end - start <= _LONGEST_S:
        raise Refused(
            f"a window of {end - start:.0f} s can not be ranked; take one between 3 s and 7 d"
        )
    words = asked.search.lower().split()
    # how fresh our own eyes are moves with everything: only who asks for it sees it
    some = [
        s
        for s in h.series()
        if all(w in f"{s} {views.title_of(s)} {desk.name(s.entity)}".lower() for w in words)
        and (words or s.entity.kind != "source")
    ]
    return await explore.rank(some, h.read, desk.name, start, end, limit=asked.limit)


def _graph(desk: Desk, id_: str) -> IncidentGraphView:
    h = desk.hooks
    i = h.memory.incidents[desk.incident(id_)["id"]]
    return graph.of_incident(h.world, i, h.memory.open_incidents(), desk.name)


def _features(desk: Desk, model: str, version: str) -> FeaturesView:
    name, found = desk.hooks.asked().features(model, version)
    return features_view(model, name, found)


def _decisions(desk: Desk, playbook: str, limit: int) -> list[DecisionView]:
    found = [d for d in desk.hooks.memory.decisions() if not playbook or d.playbook == playbook]
    found.sort(key=lambda d: -d.ts)
    return [views.decision_view(d, desk.name) for d in found[:limit]]


def _let(desk: Desk, id_: str) -> DecisionView | None:
    """Return the decision that a run was begun by, None where a person began it; a newer one may be of another plan."""
    run = desk.run(id_)
    subject = f"{run['playbook']}|{run['target']['id']}"
    entries = desk.hooks.journal.read(("decision",), subject, limit=_LOOKED_AT, newest_first=True)
    for entry in entries:
        if entry.body.get("plan_hash") == run["plan_hash"]:
            return views.decision_view(unpack(Decision, entry.body), desk.name)
    return None


def _journal(desk: Desk, asked: _Record) -> JournalPage:
    now = desk.hooks.now()
    return audit.page(
        desk.hooks.journal, kinds=[k for k in asked.kind.split(",") if k], subject=asked.subject,
        search=asked.search, since=moment(asked.since, now, 0.0), before=asked.before or None,
        limit=asked.limit,
    )  # fmt: skip


def _entry(desk: Desk, text: str) -> EntryDetail:
    if text.isascii() and text.isdigit() and len(text) < 19:
        found = desk.hooks.journal.read(limit=1, newest_first=True, before=int(text) + 1)
        for entry in found:
            if entry.seq == int(text):
                return audit.detail(entry)
    raise NotThere(f"the journal has no entry {text}")
