"""When an incident is a person's: what is left for people once the agent has done what it may. Pure.

asks, suggests                a run waits for a yes
attempts, correlated          the guard says that people must look
harmed, failed, unanswered    a run ended so, and none is at work
no_effect, cannot_tell        the same, and nothing else may act
held, no_playbook             nothing may act, or nothing is meant for this
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from agent.model import ENDED, Decision, Gate, Incident, Run

if TYPE_CHECKING:
    from agent.memory import Memory

Code = Literal[
    "asks", "suggests", "attempts", "correlated", "harmed", "failed", "unanswered", "no_effect", "cannot_tell",
    "held", "no_playbook",
]  # fmt: skip
GAVE_UP: Final[frozenset[Code]] = frozenset({"attempts", "correlated", "no_effect", "cannot_tell"})
"""What people are told of with a note of its own; runs tell the rest themselves, or it is no news beside the page."""
CALLS: Final[tuple[Code, ...]] = ("attempts", "correlated")
"""Gates by which the guard calls people."""
_PASSES: Final = frozenset(
    {
        "cooldown",
        "settle",
        "busy",
        "fresh",
        "seen",
        "rate",
        "pause",
        "paused_file",
        "journal",
        "silence",
        "maintenance",
    }
)
"""Gates that open by themselves, or at the word of a person who knows: behind them the agent has not given up."""
_GRACE_S: Final = 60.0
"""So long after its cause stands first an incident may still find its playbook."""
_WORDS: Final = {
    "harmed": "did harm", "no_effect": "had no effect", "cannot_tell": "may or may not have helped",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Need:
    """Why a person is needed; code "" = nobody is (any more)."""

    code: Code | Literal[""]
    why: str = ""


NOBODY: Final = Need("")


def needs(
    incidents: Iterable[Incident],
    memory: Memory,
    now: float,
    keen: Callable[[str], bool],
    stops: Callable[[str], bool] = lambda _: False,
) -> Iterator[tuple[Incident, Need]]:
    """Yield incidents with whether, and why, each needs a person. Cost: one pass over runs and decisions for all.

    keen    whether a playbook's conditions have begun to hold for an incident: it may yet act
    stops   whether a playbook says that nobody is called when its attempts are used
    """
    runs: dict[str, list[Run]] = {}
    for run in memory.runs.values():
        runs.setdefault(run.incident, []).append(run)
    decided: dict[str, list[Decision]] = {}
    for decision in memory.decisions():
        decided.setdefault(decision.incident, []).append(decision)
    for i in incidents:
        live = [r for r in runs.get(i.id, ()) if r.state not in ENDED and not memory.aside(r)]
        past = _past(i, runs.get(i.id, ()))
        said = decided.get(i.id, [])
        called = _called(said, stops)
        yield i, _need(i, live, past, said, now, called=called, waits=keen(i.id))


def _need(
    incident: Incident,
    live: Sequence[Run],
    past: Sequence[Run],
    decided: Sequence[Decision],
    now: float,
    *,
    called: Need | None,
    waits: bool,
) -> Need:
    if incident.state not in {"open", "acknowledged"} or incident.diagnosis is None:
        return NOBODY
    asking = next((run for run in live if run.state == "waiting_approval"), None)
    if asking is not None:
        return Need("asks", f"{asking.playbook} asks for a yes: run {asking.id}")
    if live:
        return NOBODY
    ended = _ended(past)
    return called or (
        ended if ended is not None and ended.code not in GAVE_UP
        else Need("suggests", f"{past[-1].playbook} is suggested: run {past[-1].id}")
        if past and past[-1].state == "suggested"
        else NOBODY if (waits and not decided) or any(_passes(d) for d in decided)
        else ended or _left(incident, decided, now)
    )  # fmt: skip


def _called(decided: Sequence[Decision], stops: Callable[[str], bool]) -> Need | None:
    """Return what the guard calls people for."""
    for d in decided:
        for code in CALLS:
            if code == "attempts" and stops(d.playbook):
                continue
            if (gate := _closed(d, code)) is not None:
                return Need(
                    code, f"{d.playbook} on {d.target.id} does not act: {gate.value}; {gate.reason}"
                )
    return None


def _passes(decision: Decision) -> bool:
    """Tell whether what holds a playbook back passes by itself."""
    return not decision.allowed and {g.name for g in decision.gates if not g.passed} <= _PASSES


def _left(incident: Incident, decided: Sequence[Decision], now: float) -> Need:
    """Return what is left when nothing has run: nothing may, or nothing is meant for it."""
    found = incident.diagnosis
    if found is None or any(d.allowed for d in decided):
        return NOBODY
    if now - max(_began(incident), found.since or found.ts) < _GRACE_S:
        return NOBODY
    closed = (g for d in decided for g in d.gates if not g.passed and g.name not in _PASSES)
    first = next(closed, None)
    if first is None:
        return Need("no_playbook", "no playbook is meant for this")
    return Need("held", f"nothing may act: gate {first.name}, {first.reason or first.value}")


def _closed(decision: Decision, name: str) -> Gate | None:
    """Return a gate that is closed on what would have acted by itself or with a yes."""
    if decision.allowed or decision.mode not in {"approve", "auto"}:
        return None
    return next((g for g in decision.gates if g.name == name and not g.passed), None)


def _began(incident: Incident) -> float:
    """Return when this life of the incident began."""
    return max(
        (t.ts for t in incident.turns if t.event in {"opened", "reopened"}), default=incident.opened
    )


def _past(incident: Incident, runs: Iterable[Run]) -> list[Run]:
    """Return the runs of this life of the incident that are over, the newest last."""
    began = _began(incident)
    found = [r for r in runs if r.state in ENDED and r.updated >= began]
    return sorted(found, key=lambda r: (r.updated, r.id))


def _ended(past: Sequence[Run]) -> Need | None:
    """Return what the newest run that did something has come to; None = nothing to look at."""
    for run in reversed(past):
        said = f"{run.playbook} on {run.target.id}"
        if run.state == "failed":
            return Need("failed", f"{said} failed: {run.text}")
        if run.state == "expired" and not run.steps:
            return Need("unanswered", f"{said} was not answered: {run.text}")
        if run.outcome is None:
            continue
        if run.outcome.verdict == "helped" or run.outcome.well:
            return None
        undone = ", and was undone" if run.outcome.undone else ""
        words = f"{said} {_WORDS[run.outcome.verdict]}{undone}: {run.outcome.summary}"
        return Need(run.outcome.verdict, words)
    return None
