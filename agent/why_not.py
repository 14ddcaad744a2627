"""The answer to `why-not`: why a playbook did not act on a target, at any time.

    journal: decision of that time? -- yes --> every gate's value as it was recorded
                 '-- no --> the incidents of that time: cause, confidence, severity, target, conditions, one by one

What was decided is told as it was written. Where nothing was, it is worked out from the journal (what was open, which
cause was named) and from history (what a condition would have seen); what can not be known any more is said to be so:
for how long a condition had held, and the map, which is that of now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent import match, views
from agent.causes import matches, words
from agent.codec import unpack
from agent.expr import parse
from agent.model import Decision, Entity, Frame, Incident, Run, Series
from agent.scene import Reader, Scene
from agent.units import say_duration
from agent.views import GateView, WhyNotView, clock
from agent.world import World

if TYPE_CHECKING:
    from agent.conditions import Condition
    from agent.desk.hooks import Hooks
    from agent.model import Cause, Gate
    from agent.playbook import Playbook

_SEEN_S: Final = 60.0
"""A value that is older than this at a moment of the past was not known then."""
_LOOK_BACK: Final = 200
_SEVERITIES: Final = ("note", "warning", "page")
_LIVE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who and when."""

    hooks: Hooks
    playbook: str
    target: Entity
    ts: float
    name: Callable[[Entity], str]

    @property
    def when(self) -> str:
        return clock(self.ts, self.hooks.now())

    def head(self) -> str:
        name = self.name(self.target)
        return f"{self.playbook} on {self.target.id}" + (
            f" ({name})" if name not in self.target.id else ""
        )


def targets_of(hooks: Hooks, playbook: str) -> list[Entity]:
    """Return on whom a playbook was decided of late: those that are gone by now can be asked for too."""
    found = {d.target: None for d in hooks.memory.decisions() if d.playbook == playbook}
    return list(found)


def why_not(
    hooks: Hooks, playbook: str, target: Entity, ts: float, name: Callable[[Entity], str]
) -> WhyNotView:
    """Answer for a playbook and a target at a moment; names are whole. Raises Unavailable as the journal does."""
    asked = _Asked(hooks, playbook, target, ts, name)
    decision = _decided(asked)
    return _recorded(asked, decision) if decision is not None else _worked_out(asked)


# ---------------------------------------------------------------- what was recorded


def _decided(asked: _Asked) -> Decision | None:
    """Return the decision that held then: the newest one of an incident that was not over."""
    subject = f"{asked.playbook}|{asked.target.id}"
    entries = asked.hooks.journal.read(("decision",), subject, newest_first=True)
    seen: set[str] = set()
    for entry in entries:
        incident = str(entry.body.get("incident"))
        if entry.ts > asked.ts or incident in seen:
            continue
        decision = unpack(Decision, entry.body)
        if _kept_by_itself(asked, decision):
            continue
        seen.add(incident)
        if _then(asked, incident) is not None:
            return decision
        if len(seen) >= _LOOK_BACK:
            break
    return None


def _kept_by_itself(asked: _Asked, decision: Decision) -> bool:
    """Tell whether nothing but its own run was in its way: then what let that run begin is the answer."""
    closed = [g for g in decision.gates if not g.passed]
    if [g.name for g in closed] != ["busy"]:
        return False
    run = asked.hooks.memory.runs.get(closed[0].value)
    return run is not None and (run.playbook, run.target) == (decision.playbook, decision.target)


def _then(asked: _Asked, incident: str) -> Incident | None:
    """Return an incident as it was then; None when it was not open."""
    for entry in asked.hooks.journal.read(("incident",), incident, newest_first=True):
        if entry.ts <= asked.ts:
            return None if entry.body.get("state") == "resolved" else unpack(Incident, entry.body)
    return None


def _recorded(asked: _Asked, decision: Decision) -> WhyNotView:
    gates = _views(decision.gates)
    closed = [g for g in gates if not g["passed"]]
    opened = [g for g in gates if g["passed"]]
    said = clock(decision.ts, asked.hooks.now())
    run = _run(asked, decision)
    if not decision.allowed or (closed and run is None):
        answer, many = "held", "gate" if len(closed) == 1 else "gates"
        text = (
            f"held back by {len(closed)} {many}, since {said}"
            if closed
            else f"it only observes, since {said}"
        )
        next_ = f"homeostat why {decision.incident}"
    elif decision.mode == "suggest":
        answer, text = "suggested", f"it was suggested at {said}, not done: a person has to say yes"
        next_ = (
            f"homeostat approve {run.id}"
            if run is not None
            else f"homeostat why {decision.incident}"
        )
    else:
        answer = "ran"
        text = f"nothing held it back at {said}: it was let go on {decision.mode}"
        next_ = (
            f"homeostat {'approve' if run.state == 'waiting_approval' else 'runs'} {run.id}"
            if run is not None
            else f"homeostat why {decision.incident}"
        )
    lines = [f"{asked.head()}, at {asked.when}", f"Answer:   {text} (incident {decision.incident})"]
    if run is not None:
        lines.append(f"Run:      {run.id} is {run.state.replace('_', ' ')}: {run.text}")
    if answer == "suggested" and closed:
        lines.append("Held:     these lower it to a suggestion")
    lines += [_line("Closed", g) for g in closed]
    lines.append("Open:     " + ", ".join(f"{g['name']} {g['value']}" for g in opened))
    lines.append(f"Next:     {next_}")
    return _view(
        asked, answer, lines, gates, decision.incident, decision=decision, run=run, next_=next_
    )


def _run(asked: _Asked, decision: Decision) -> Run | None:
    """Return what came of a decision: the run that began with it."""
    found = [
        r
        for r in asked.hooks.memory.runs.values()
        if (r.playbook, r.target, r.incident) == (decision.playbook, decision.target, decision.incident)
        and r.started == decision.ts
    ]  # fmt: skip
    return found[-1] if found else None


# ---------------------------------------------------------------- what can still be known


def _worked_out(asked: _Asked) -> WhyNotView:
    book = asked.hooks.playbook(asked.playbook)
    near = sorted(_concerning(asked), key=lambda i: -_SEVERITIES.index(i.severity))
    before = _before(asked)
    answer, incident, note = "nothing", "", ""
    gates: list[GateView] = []
    if not near:
        text = f"nothing concerned {asked.name(asked.target)} then: no incident was open that has to do with it"
        next_ = "homeostat incidents --all"
    elif book is None:
        incident = near[0].id
        text, answer = (
            "nothing was decided, and the playbook is not loaded here, so its text can not be asked",
            "unknown",
        )
        next_ = f"homeostat why {incident}"
    else:
        tried = [(i, _checks(asked, book, i)) for i in near]
        # the incident for which it came furthest is the one that a person means
        one, gates = max(tried, key=lambda t: sum(g["passed"] for g in t[1]))
        incident, next_ = one.id, f"homeostat why {one.id}"
        first = next((g for g in gates if not g["passed"]), None)
        answer = "not_meant" if first is not None else "unknown"
        rival = _rival(asked, one) if first is None else ""
        if first is not None:
            text = first["reason"]
        elif rival:
            text = f"all that can be known fits, but {rival} came first on this target"
            note = "first is who names the more specific cause, then who has more conditions, then the lower `order:`"
        else:
            text = _nothing_against(book)
    lines = [
        f"{asked.head()}, at {asked.when}",
        "Decided:  nothing; this is worked out from what was recorded" + before,
    ]
    lines.append(f"Answer:   {text}" + (f" (incident {incident})" if incident else ""))
    if note:
        lines.append(f"Order:    {note}")
    lines += [_line("Not", g) for g in gates if not g["passed"]][1:]
    fits = ", ".join(f"{g['name']} {g['value']}" for g in gates if g["passed"])
    lines += [f"Fits:     {fits}"] if fits else []
    lines.append(f"Next:     {next_}")
    return _view(asked, answer, lines, gates, incident, next_=next_)


def _before(asked: _Asked) -> str:
    subject = f"{asked.playbook}|{asked.target.id}"
    entries = asked.hooks.journal.read(("decision",), subject, newest_first=True, limit=_LOOK_BACK)
    last = next((e for e in entries if e.ts <= asked.ts), None)
    if last is None:
        return ""
    return f" (last decided at {clock(last.ts, asked.hooks.now())}, for an incident that was over)"


def _concerning(asked: _Asked) -> Iterator[Incident]:
    """Yield the incidents that were open then and have to do with the target."""
    topology = asked.hooks.world.topology
    mine = {asked.target, *(e for e, _ in topology.around(asked.target))}
    for id_ in list(asked.hooks.memory.incidents)[::-1]:
        found = _then(asked, id_)
        if found is None or found.opened > asked.ts:
            continue
        causes = found.diagnosis.causes if found.diagnosis else ()
        if mine & {
            *found.entities,
            *(c.entity for c in causes),
            *([found.about] if found.about else []),
        }:
            yield found


def _checks(asked: _Asked, book: Playbook, incident: Incident) -> list[GateView]:
    """Return what it would have had to fulfil, in the order in which matching asks."""
    cause = incident.diagnosis.top if incident.diagnosis else None
    because = book.because
    if cause is None:
        reason = "no cause had been found yet"
        return [_check("cause", False, "none yet", because.cause, reason)]
    sure, least = f"{cause.probability:.0%}", f"{because.min_confidence:.0%}"
    fits = matches(because.cause, cause.kind)
    out = [
        _check("cause", fits, cause.kind, because.cause,
               f"the cause was {cause.kind} ({words(cause.kind)}), it is for {because.cause}"),
        _check("confidence", cause.probability >= because.min_confidence, sure, least,
               f"the cause was {sure} sure, it wants {least}"),
        _check("severity", _SEVERITIES.index(incident.severity) >= _SEVERITIES.index(because.severity),
               incident.severity, because.severity,
               f"the incident was a {incident.severity}, it wants a {because.severity}"),
        _check("state", incident.state in {"open", "acknowledged"}, incident.state, "open",
               f"the incident was {incident.state}: it was well already"),
    ]  # fmt: skip
    meant = match.target_of(book, cause, incident, asked.hooks.world.topology)
    said = meant.id if meant is not None else "nobody"
    whom = (
        f"it would act on {said}"
        if meant is not None
        else f"no {book.target.kind} belongs to the incident"
    )
    out.append(_check("target", meant == asked.target, said, asked.target.id,
                      f"it acts on a {book.target.kind}: {whom}, not on {asked.target.id}"))  # fmt: skip
    if fits:
        out += _conditions(asked, book, incident, cause)
    return out


def _conditions(asked: _Asked, book: Playbook, incident: Incident, cause: Cause) -> list[GateView]:
    scene = _scene(asked, incident, cause, book)
    out: list[GateView] = []
    if book.target.where:
        out.append(_expression("where", book.target.where, parse(book.target.where).test(scene)))
    items = [i.condition for i in book.when.any or book.when.all]
    seen = [_seen(item, item.now(scene), scene) for item in items]
    if book.when.any and any(g["passed"] for g in seen):
        seen = [g for g in seen if g["passed"]]
    out += seen
    for text in book.unless:
        said = parse(text).test(scene)
        excepted = said is True or (said is None and book.mutating)
        out.append(_check("unless", not excepted, _word(said), text,
                          f"its exception {text} was {_word(said)}"))  # fmt: skip
    return out


def _seen(item: Condition, value: bool | None, scene: Scene) -> GateView:
    view = scene.about(item.signal) if item.signal else scene
    read = {n: view(n) for n in item.expression.names}
    numbers = ", ".join(
        f"{n} {'unknown' if v is None else _short(v)}" for n, v in sorted(read.items())
    )
    held = (
        f" (how long is not known, it wants {say_duration(item.for_s)})"
        if item.for_s and value
        else ""
    )
    reason = f"its condition {item} was {_word(value)}: {numbers}"
    return _check("when", value is True, f"{_word(value)}{held}", str(item), reason)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _expression(name: str, text: str, value: bool | None) -> GateView:
    return _check(name, value is True, _word(value), text, f"{text} was {_word(value)}")


def _word(value: bool | None) -> str:
    return {True: "true", False: "false", None: "unknown"}[value]


def _scene(asked: _Asked, incident: Incident, cause: Cause, book: Playbook) -> Scene:
    """Return what its expressions would have seen: the world of now, or one made of history."""
    hooks = asked.hooks
    going = [a.onset for a in incident.anomalies if a.end is None and a.road == "objective"]
    since = min(going, default=incident.opened)
    baseline = hooks.config.diagnose.baseline
    live = hooks.now() - asked.ts < _LIVE_S
    read: Reader = lambda series, a, b: hooks.read(series, a, b, None)  # noqa: E731
    now = Scene(hooks.world, asked.target, read=read, cause=cause, since=since, baseline_s=baseline)
    if live:
        return now
    items = [i.condition for i in book.when.any or book.when.all]
    names = {n for i in items for n in i.expression.names} | {i.signal for i in items if i.signal}
    names |= {n for t in (*book.unless, book.target.where) if t for n in parse(t).names}
    wanted = sorted({s for n in names for s in _all(hooks.world, n.removeprefix("baseline."))})
    world = World(hooks.world.topology)
    world.take(_frame_of(wanted, asked))
    world.now = asked.ts
    return Scene(world, asked.target, read=read, cause=cause, since=since, baseline_s=baseline)


def _all(world: World, metric: str) -> list[Series]:
    """Return all series of a metric: peers are asked for too."""
    return world.find(metric)


def _frame_of(series: Sequence[Series], asked: _Asked) -> Frame:
    """Return the last value of each series shortly before a moment; NaN where there was none."""
    values = np.full(len(series), np.nan)
    if series:
        _, rows = asked.hooks.read(series, asked.ts - _SEEN_S, asked.ts, None)
        for j in range(len(series)) if len(rows) else ():
            known = rows[~np.isnan(rows[:, j]), j]
            if len(known):
                values[j] = known[-1]
    return Frame("history", asked.ts, tuple(series), values)


def _nothing_against(book: Playbook) -> str:
    longest = max((i.for_ for i in book.when.any + book.when.all), default=0.0)
    if longest:
        return f"all that can be known fits; its conditions may not have held for {say_duration(longest)} yet"
    return "all that can be known fits"


def _rival(asked: _Asked, incident: Incident) -> str:
    """Return which other playbook had the word on this target in this incident; "" = none."""
    found = [
        d.playbook
        for d in asked.hooks.memory.decisions(incident.id)
        if d.target == asked.target and d.playbook != asked.playbook and d.ts <= asked.ts
    ]
    return found[-1] if found else ""


# ---------------------------------------------------------------- form


def _line(head: str, gate: GateView) -> str:
    saw = f"{gate['name']}: {gate['value']}, it wants {gate['limit']}"
    return f"{head + ':':10}{saw}" + (f"; {gate['reason']}" if gate["reason"] else "")


def _check(
    name: str, passed: bool, value: str, limit: str, reason: str
) -> GateView:  # a row of a table
    return {
        "name": name,
        "passed": passed,
        "value": value,
        "limit": limit,
        "reason": "" if passed else reason,
    }


def _views(gates: Iterable[Gate]) -> list[GateView]:
    return [
        {"name": g.name, "passed": g.passed, "value": g.value, "limit": g.limit, "reason": g.reason}
        for g in gates
    ]


def _view(
    asked: _Asked,
    answer: str,
    lines: list[str],
    gates: list[GateView],
    incident: str,
    *,
    decision: Decision | None = None,
    run: Run | None = None,
    next_: str = "",
) -> WhyNotView:
    return {
        "playbook": asked.playbook, "target": views.entity_view(asked.target, asked.name), "ts": asked.ts,
        "answer": answer, "text": lines, "decided": None if decision is None else decision.ts,
        "incident": incident, "mode": "" if decision is None else decision.mode, "gates": gates,
        "run": "" if run is None else run.id, "next": next_,
    }  # fmt: skip
