"""The digest: how a stretch of time went, in one message, and what a person could change because of it.

    incidents, runs, labels, budget, record of playbooks -> pages against the budget, what was healed without a person,
    what waited (warnings and notes), the noisiest series, playbooks to promote or to retire

Pure; `agent/daemon.py` sends it when `digest: {at: ...}` says so, once for each due time, also over restarts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Final

from typing_extensions import TypedDict

from agent.budget import signal_of
from agent.causes import words
from agent.cron import Cron
from agent.intervals import wilson
from agent.model import MODES, Incident, Mode
from agent.ports import Note
from agent.units import many, say_duration
from agent.windows import zone_of

if TYPE_CHECKING:
    from agent.config import Digest
    from agent.desk import Desk
    from agent.desk.playbooks import PlaybookView
    from agent.memory import Memory

LOOK_EVERY_S: Final = 60.0
_LATE_S: Final = 86_400.0
_ENOUGH: Final = 5
"""Verdicts, or suggestions, before anything is said of a playbook."""
_GOOD: Final = 0.7
"""A playbook may go further when surely (95 %) more of its runs than this helped, and none harmed."""
_POOR: Final = 0.5
"""It should go when surely fewer than this helped."""
_MOST: Final = 10
_THEIRS: Final = frozenset({"playbook", "agent.yaml", "person"})
"""Limits that a person sets: what else holds a playbook is no matter of trust."""


class HealedView(TypedDict):
    """An incident that ended by a run, and nobody had to do anything. lasted_s: from the opening to the end."""

    id: str
    title: str
    playbook: str
    lasted_s: float


class NoisyView(TypedDict):
    """A series that was abnormal in several incidents. noise: how many of them people called so."""

    signal: str
    incidents: int
    noise: int


class AdviceView(TypedDict):
    """What could be changed of a playbook. to: the mode that it has earned, or "" = retire it."""

    playbook: str
    to: str
    why: str


class WaitingView(TypedDict):
    """Something that was not worth a page, and is still open."""

    id: str
    severity: str
    title: str
    cause: str
    opened: float


class DigestView(TypedDict):
    """A stretch of time in one look.

    counts      incidents that began in it, by severity
    pages       false: labelled so; unlabelled: ids of pages that nobody has labelled
    heal_s      median time from the opening to the end, of what ended in it; null = nothing did
    whole       False = more happened than is remembered: counts are lower bounds
    """

    since: float
    until: float
    counts: dict[str, int]
    pages: int
    false: int
    promised_per_week: float
    unlabelled: list[str]
    resolved: int
    heal_s: float | None
    healed: list[HealedView]
    runs: dict[str, int]
    causes: dict[str, int]
    waiting: list[WaitingView]
    noisy: list[NoisyView]
    promote: list[AdviceView]
    retire: list[AdviceView]
    whole: bool
    text: list[str]


def digest(
    memory: Memory,
    playbooks: Sequence[PlaybookView],
    promised_per_week: float,
    since: float,
    until: float,
) -> DigestView:
    """Return what happened from `since` to `until` (unix seconds), and lines that say it."""
    known = list(memory.incidents.values())
    began = [i for i in known if since <= i.opened < until]
    ended = [i for i in known if i.resolved is not None and since <= i.resolved < until]
    proper = [i for i in ended if not i.merged_into]
    said = {id_: label.word for id_, label in memory.labels.items()}
    paged = sorted(memory.paged(since) & {i.id for i in began})
    runs = [r for r in memory.runs.values() if since <= r.started < until]
    verdicts = Counter(r.outcome.verdict for r in runs if r.outcome is not None)
    oldest = min((i.updated for i in known if i.state == "resolved"), default=math.inf)
    full = sum(i.state == "resolved" for i in known) >= memory.room_incidents
    view: DigestView = {
        "since": since, "until": until,
        "counts": dict(Counter(i.severity for i in began)), "pages": len(paged),
        "false": sum(said.get(id_) == "noise" for id_ in paged),
        "promised_per_week": promised_per_week,
        "unlabelled": [id_ for id_ in paged if id_ not in said],
        "resolved": len(proper),
        "heal_s": median((i.resolved or i.opened) - i.opened for i in proper) if proper else None,
        "healed": _healed(memory, proper), "runs": {str(k): n for k, n in verdicts.items()},
        "causes": _causes(began, memory), "waiting": _waiting(known), "noisy": _noisy(began, said),
        "promote": [a for p in playbooks if (a := _promoted(p))],
        "retire": [a for p in playbooks if (a := _retired(p, memory, since))],
        "whole": not (full and oldest > since), "text": [],
    }  # fmt: skip
    view["text"] = lines(view)
    return view


def due(config: Digest, desk: Desk, now: float) -> Note | None:
    """Return the digest that is due and not told yet; None = there is none.

    One that was due while the daemon was away is made up for within a day, and told once: its key is the time at which
    it was due.
    """
    if not config.at:
        return None
    before, newest = Cron(config.at, zone_of(config.timezone)).last(now)
    key = f"digest:{newest:.0f}"
    if math.isnan(newest) or now - newest > _LATE_S or key in desk.hooks.memory.notes:
        return None
    first = next(iter(desk.hooks.journal.read(limit=1)), None)
    if first is None or first.ts > newest:  # nobody watched yet
        return None
    since = newest - 7 * 86_400.0 if math.isnan(before) else before
    view = desk.digest(f"{since:.3f}")
    pages, healed = many(view["pages"], "page"), len(view["healed"])
    title = f"homeostat: {pages}, {healed} healed without a person"
    return Note(key, now, "note", title, "\n".join(view["text"]), event="digest")


# ---------------------------------------------------------------- incidents


def _healed(memory: Memory, ended: Sequence[Incident]) -> list[HealedView]:
    """Return what a run proved to have helped, where no person took it, said yes or began the run."""
    out: list[HealedView] = []
    for i in ended:
        if any(not t.by.startswith("homeostat") for t in i.turns):
            continue
        for run in memory.runs.values():
            plan = memory.plans.get(run.id)
            asked = plan is not None and any(s.approve is not None for s in plan.steps)
            ours = run.mode == "auto" and not (plan and plan.by) and not asked
            helped = run.outcome is not None and run.outcome.verdict == "helped"
            if run.incident == i.id and ours and helped:
                lasted = (i.resolved or i.opened) - i.opened
                healed: HealedView = {
                    "id": i.id, "title": i.title, "playbook": run.playbook, "lasted_s": lasted,
                }  # fmt: skip
                out.append(healed)
                break
    return out


def _causes(began: Sequence[Incident], memory: Memory) -> dict[str, int]:
    """Count kinds of first causes, the most frequent first; what a person rejects counts as what they say it was."""
    kinds: Counter[str] = Counter()
    for i in began:
        top = i.diagnosis.top if i.diagnosis and not i.merged_into else None
        if top is not None:
            said = memory.corrections.get(i.id)
            wrong = said is not None and (said.wrong, said.of) == (top.kind, top.entity.id)
            kinds[(said.right or "unknown") if said is not None and wrong else top.kind] += 1
    return dict(kinds.most_common())


def _waiting(known: Sequence[Incident]) -> list[WaitingView]:
    """Return what is open and called nobody, the oldest first."""
    out: list[WaitingView] = []
    for i in sorted(known, key=lambda i: (i.opened, i.id)):
        if i.state != "resolved" and i.severity != "page":
            top = i.diagnosis.top if i.diagnosis else None
            out.append({
                "id": i.id, "severity": i.severity, "title": i.title,
                "cause": words(top.kind) if top else "", "opened": i.opened,
            })  # fmt: skip
    return out


def _noisy(began: Sequence[Incident], said: Mapping[str, str]) -> list[NoisyView]:
    """Return the signals that were abnormal in most incidents, those called noise before all."""
    times: Counter[str] = Counter()
    noise: Counter[str] = Counter()
    for i in began:
        signals = {signal_of(a.series) for a in i.anomalies}
        times.update(signals)
        if said.get(i.id) == "noise":
            noise.update(signals)
    often = [s for s, n in times.items() if n > 1 or noise[s]]
    often.sort(key=lambda s: (-noise[s], -times[s], s))
    return [{"signal": s, "incidents": times[s], "noise": noise[s]} for s in often[:_MOST]]


# ---------------------------------------------------------------- playbooks


def _promoted(p: PlaybookView) -> AdviceView | None:
    """Say that a playbook has earned the next mode, if nothing but its text or agent.yaml keeps it below."""
    sure = p["record"]["success"]
    told = p["record"]["runs"] - p["record"]["cannot_tell"]
    if told < _ENOUGH or p["record"]["harmed"] or sure is None or sure < _GOOD:
        return None
    at = MODES.index(p["mode"])
    if at + 1 >= len(MODES):
        return None
    to: Mode = MODES[at + 1]
    if any(MODES.index(x["mode"]) <= at for x in p["limits"] if x["by"] not in _THEIRS):
        return None
    helped = f"{p['record']['helped']} of {told} runs helped, surely more than {sure:.0%}"
    holds = "; ".join(p["why"]) or f"its own text says {p['own_mode']}"
    return {"playbook": p["id"], "to": to, "why": f"{helped}; now {p['mode']} ({holds})"}


def _retired(p: PlaybookView, memory: Memory, since: float) -> AdviceView | None:
    """Say that a playbook harms, seldom helps, or is never taken up."""
    record = p["record"]
    told = record["runs"] - record["cannot_tell"]
    if any(x["by"] == "record" for x in p["limits"]):
        return {"playbook": p["id"], "to": "", "why": f"it harmed {many(record['harmed'], 'time')}"}
    if told >= _ENOUGH and float(wilson(record["helped"], told)[1]) < _POOR:
        why = f"{record['helped']} of {told} runs helped"
        return {"playbook": p["id"], "to": "", "why": why}
    asked = [r for r in memory.runs.values() if r.playbook == p["id"] and r.started >= since]
    unheard = [r for r in asked if r.state in {"suggested", "denied", "expired"}]
    if len(unheard) >= _ENOUGH and len(unheard) == len(asked):
        why = f"it was suggested {len(unheard)} times, and nobody said yes"
        return {"playbook": p["id"], "to": "", "why": why}
    return None


# ---------------------------------------------------------------- words


def lines(view: DigestView) -> list[str]:
    """Say it in lines; what there is nothing of is left out."""
    span = say_duration(view["until"] - view["since"])
    fair = view["promised_per_week"] * (view["until"] - view["since"]) / (7 * 86_400.0)
    told = f"{view['pages']} in {span}, {view['false']} of them false"
    out = [f"Pages:    {told}; {fair:.2g} false ones were allowed"]
    if view["unlabelled"]:
        out.append(f"Label:    was it right to page? {_some(view['unlabelled'])}")
    counts = ", ".join(many(view["counts"].get(s, 0), s) for s in ("page", "warning", "note"))
    took = f"; half were over within {say_duration(view['heal_s'])}" if view["heal_s"] else ""
    over = many(view["resolved"], "is over", "are over")
    out.append(f"Begun:    {counts}; {over}{took}")
    out += [
        f"Healed:   {h['title']} by {h['playbook']} in {say_duration(h['lasted_s'])}"
        for h in view["healed"][:_MOST]
    ]
    if view["runs"]:
        came = [f"{n} {v.replace('_', ' ')}" for v, n in view["runs"].items()]
        out.append(f"Runs:     {', '.join(came)}")
    if view["causes"]:
        out.append("Causes:   " + _some([f"{n} {kind}" for kind, n in view["causes"].items()]))
    out += [
        f"Waits:    {w['id']} {w['title']}" + (f" ({w['cause']})" if w["cause"] else "")
        for w in view["waiting"][:_MOST]
    ]
    out += [
        f"Noisy:    {n['signal']} in {many(n['incidents'], 'incident')}"
        + (f", noise in {n['noise']}" if n["noise"] else "")
        for n in view["noisy"][:5]
    ]
    out += [f"Promote:  {a['playbook']} to {a['to']}: {a['why']}" for a in view["promote"]]
    out += [f"Retire:   {a['playbook']}: {a['why']}" for a in view["retire"]]
    if not view["whole"]:
        out.append("Note:     more happened than is remembered; counts are lower bounds")
    return out


def _some(names: Sequence[str], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
