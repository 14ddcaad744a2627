"""May it act? Every gate between a playbook that fires and an act, each with what it saw and its limit. Pure.

All gates are asked and recorded, also after one has closed, so that `why-not` can answer for every one of them.
Three kinds: *stop* gates (nothing is even suggested), *act* gates (it may be suggested but not done: scope, shared
targets, low confidence, a record of harm lower the mode to `suggest`), and a cap (`approve` for what can not be
undone).

    mode      ability   pause     paused_file  journal    silence   maintenance   never     scope    shared
    confidence          seen      fresh        trust      busy      once          cooldown  rate     attempts
    blast     settle    breaker   healthy      correlated irreversible            record

A plan may wait for a person, or for a dead daemon, while the world goes on: before its first step those gates that
look at the world and at people's words are asked again (`standing`), before each later one whether hands are off.

What only tells people or marks something of our own needs fewer of them: no scope, evidence, blast radius or breaker.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent import reach, registry, windows
from agent.causes import matches
from agent.config import covers
from agent.memory import acted_at
from agent.model import (
    ENDED,
    MODES,
    Anomaly,
    Cause,
    Decision,
    Entity,
    Gate,
    Incident,
    Mode,
    Run,
    Series,
)
from agent.playbook import Guard, lowest
from agent.reach import Reach
from agent.record import group_of, owner_of
from agent.trouble import Key, key_of
from agent.units import many, say_duration

if TYPE_CHECKING:
    from agent.config import Config, Matcher, Window
    from agent.memory import Memory
    from agent.plans import Plan, PlannedBlast
    from agent.playbook import Playbook
    from agent.world import World

CORRELATED_SHARE: Final = 0.5
CORRELATED_LEAST: Final = 4
"""The same symptom on more than half of at least so many entities of a kind is no fault of one of them."""

NEVER_NAMES: Final = frozenset({
    "init", "systemd", "systemd-journald", "systemd-logind", "systemd-udevd", "dbus-daemon", "launchd", "sshd",
    "dockerd", "containerd", "containerd-shim", "containerd-shim-runc-v2", "crio", "cri-o", "podman", "conmon", "runc",
    "kubelet", "kube-proxy", "kube-apiserver", "etcd", "nvidia-persistenced", "nv-fabricmanager",
    "postgres", "postmaster", "mysqld", "mariadbd", "mongod", "redis-server", "valkey-server", "memcached",
    "cockroach", "oracle", "sqlservr", "clickhouse-server", "elasticsearch", "opensearch", "influxd", "prometheus",
    "zookeeper", "kafka", "rabbitmq-server", "beam.smp",
})  # fmt: skip
"""Names of processes that nothing may ever touch: init, remote access, container runtimes, node agents, databases."""
_IN_SIGHT_S: Final = 120.0
"""Values of a run's trouble may be this old when it begins, or as old as their source is patient."""
_PATIENCE_S: Final = (60.0, 3600.0)
"""So long, at least and at most, waits a run that has done nothing yet: then its evidence is old."""
_NEVER_PORTS: Final = frozenset({"22", "2379", "5432", "3306", "27017", "6379", "9200", "10250"})


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that the gates look at."""

    playbook: Playbook
    target: Entity
    incident: Incident
    memory: Memory
    world: World
    config: Config
    now: float
    asked: bool
    runs: tuple[Run, ...]
    """Runs that are recent enough for any limit, and those that live."""
    own: tuple[Run, ...]
    """Of these, those of this playbook."""
    reach: Reach
    unseen: Collection[Key]
    mode: Mode = "suggest"
    """How far scope and confidence let it go."""

    @property
    def limits(self) -> Guard:
        return self.playbook.limits

    @property
    def cause(self) -> Cause | None:
        return self.incident.diagnosis.top if self.incident.diagnosis else None

    @property
    def touched(self) -> tuple[Entity, ...]:
        return self.reach.touched

    def passed(self, since: float) -> float:
        """Return the seconds that have passed, whatever the clock was set to meanwhile."""
        return self.memory.passed(since, self.now)

    @property
    def ongoing(self) -> list[Anomaly]:
        going = [a for a in self.incident.anomalies if a.end is None]
        return [a for a in going if key_of(a) not in self.unseen] if self.unseen else going


def decide(
    playbook: Playbook,
    target: Entity,
    incident: Incident,
    *,
    memory: Memory,
    world: World,
    config: Config,
    now: float,
    ceiling: Mode | None = None,
    paused_file: bool = False,
    journal_well: bool = True,
    unseen: Collection[Key] = (),
) -> Decision:
    """Return whether, and how far, a playbook may go on a target now, with every gate.

    ceiling       a person asks for it: up to this mode whatever the ceilings and the confidence say, but through
                  every other gate. Not above what scope allows: then it is not allowed at all
    paused_file   the file PAUSED lies beside agent.yaml
    journal_well  the journal can write; without a record nothing acts
    unseen        what went on before a restart and nobody has seen since
    allowed       the decision lets a plan be made with `mode`; `suggest` is never run

    Cost: .4 ms, and .1 ms for every thousand runs in memory.
    """
    asked = ceiling is not None
    cause = incident.diagnosis.top if incident.diagnosis else None
    recent = _relevant(playbook, memory, now)
    case = _Case(
        playbook,
        target,
        incident,
        memory,
        world,
        config,
        now,
        asked,
        recent,
        tuple(r for r in recent if r.playbook == playbook.id and not _undoes(r, memory)),
        reach.of_playbook(playbook, target, cause, world.topology),
        unseen,
    )
    wanted = _ceiling(playbook, target, config, memory) if ceiling is None else ceiling
    act = [_record(case)]
    if playbook.touching:
        act += [_scope(case.touched, world, config), _shared(case)]
    if playbook.mutating:
        act.append(_confidence(case))
    mode = wanted if all(gate.passed for gate in act) else lowest(wanted, "suggest")
    case = replace(case, mode=mode)
    stop = [
        _mode(case),
        _ability(case),
        *_switches(case, paused_file, journal_well),
        _silence(case),
        _maintenance(case),
    ]
    stop += [
        _never(case.touched, world, config),
        _busy(case),
        _once(case),
        _cooldown(case),
        _rate(case),
    ]
    if playbook.touching:
        stop.append(_seen(incident, unseen))
    if playbook.mutating:
        stop += [
            _fresh(case),
            _trust(case),
            _attempts(case),
            *_blast(
                case.limits.planned_blast, target, playbook.id, memory=memory, world=world, now=now
            ),
            _settle(case),
            _breaker(case),
        ]
        stop += [_healthy(case.reach, world, config), _correlated(case)]
    cap = Gate("irreversible", True, "no", "approve")
    if playbook.irreversible:
        cap = Gate("irreversible", True, "yes", "approve", "a person must say yes")
        mode = lowest(mode, "approve")
    allowed = all(gate.passed for gate in stop) and MODES.index(mode) >= MODES.index("suggest")
    if case.asked and MODES.index(mode) < MODES.index(lowest(wanted, "approve")):
        allowed = False
    gates = (*stop, *act, *([cap] if playbook.mutating else []))
    return Decision(now, playbook.id, target, incident.id, mode, allowed, gates)


def standing(
    plan: Plan,
    *,
    memory: Memory,
    world: World,
    config: Config,
    now: float,
    first: bool,
    incident: Incident | None = None,
    unseen: Collection[Key] = (),
) -> str:
    """Say why a run may not do its next step now; "" = it may.

    first      nothing has been done yet: then all is asked that may have changed since it was planned; else only
               whether somebody wants hands off. To put back is never asked: only a pause stops that, see `paused`
    incident   what it is for, as it is now; unseen: what of it nobody has seen since a restart
    """
    reached = reach.of_plan(plan.entity, plan, world.topology)
    gates = [
        _pause(reached, memory),
        _quiet(reached.covered_by, plan.cause, memory, now, f"homeostat:{plan.run_id}"),
        _window(reached, world, config, now),
    ]
    verbs = [registry.action.get(s.use) for s in plan.steps if s.use in registry.action]
    mutating = any(v.effect == "mutating" for v in verbs)
    shared = any(v.shared for v in verbs)
    if first:
        gates.append(_never(reached.touched, world, config))
    if first and (mutating or shared):
        gates.append(_scope(reached.touched, world, config))
        if incident is not None:
            gates.append(_seen(incident, unseen, world))
            gates.append(_because(plan, incident))
    if first and mutating:
        gates.append(_healthy(reached, world, config))
    if first and plan.blast is not None:
        # others may have begun since it was planned, by limits of their own
        gates += _blast(
            plan.blast, plan.entity, plan.playbook, memory=memory, world=world, now=now, but=plan.run_id
        )  # fmt: skip
    closed = next((g for g in gates if not g.passed), None)
    if closed is not None:
        return closed.reason
    if first and not plan.by and MODES.index(config.mode) < MODES.index(plan.mode):
        return f"agent.yaml says mode {config.mode} by now"
    said = memory.ceilings.get(plan.playbook)
    if first and not plan.by and said and MODES.index(said.mode) < MODES.index(plan.mode):
        return f"{said.by} says mode {said.mode} by now"
    if first and shared and not config.single_agent:
        return "agent.yaml no longer says `single_agent: true`"
    return ""


def patience(incident: Incident | None, world: World) -> float:
    """Return for how many seconds a run that has done nothing waits for leave before the walk decides anew.

    A minute, or until the slowest source of what is wrong must have spoken again: three of its intervals, an hour at
    most. What no source has shown since a restart may be of the slowest that there is.
    """
    least, most = _PATIENCE_S
    wrong = [a.series for a in incident.anomalies if a.end is None] if incident is not None else []
    sources = {world.source(series) for series in wrong}
    known = sources - {""} if "" not in sources else world.patience.keys()
    return min(max([least, *(world.patience.get(s, least) for s in known)]), most)


def paused(plan: Plan, memory: Memory, world: World) -> str:
    """Say which pause holds a run, of whatever it touches; "" = none."""
    return _pause(reach.of_plan(plan.entity, plan, world.topology), memory).reason


def _relevant(playbook: Playbook, memory: Memory, now: float) -> tuple[Run, ...]:
    """Return the runs that any limit looks at: what was last touched longer ago than all windows is none of them."""
    g = playbook.limits
    windows = (g.cooldown.time, g.rate.per, g.attempts.per, g.breaker.hold, g.settle, 60.0)
    longest = max(windows)
    return tuple(
        r for r in memory.runs.values()
        if r.state not in ENDED or memory.passed(r.updated, now) <= longest
    )  # fmt: skip


# ---------------------------------------------------------------- stop


def _ceiling(playbook: Playbook, target: Entity, config: Config, memory: Memory) -> Mode:
    """Return how far it may go by its text, agent.yaml, the abilities of who acts, and the word of a person."""
    mode, said = playbook.ceiling(config, target), memory.ceilings.get(playbook.id)
    return mode if said is None else lowest(mode, said.mode)


def _mode(case: _Case) -> Gate:
    mode = _ceiling(case.playbook, case.target, case.config, case.memory)
    cap = case.playbook.cap(case.target)
    said = f"{case.playbook.mode}, agent.yaml {case.config.mode}, abilities {cap}"
    person = case.memory.ceilings.get(case.playbook.id)
    if person is not None:
        said += f", {person.by} {person.mode}"
    reason = ""
    if mode == "observe":
        words = ((case.config.mode, "agent.yaml"), (case.playbook.mode, "the playbook"))
        who = next((by for said_mode, by in words if said_mode == mode), "")
        reason = f"it only observes: {who} says `mode: observe`" if who else "it only observes"
    return Gate("mode", mode != "observe", mode, said, reason)


def _ability(case: _Case) -> Gate:
    why = case.playbook.unable(case.target)
    lacking = ", ".join(sorted(case.playbook.lacking))
    value = lacking or ("not known who" if why else "all there")
    return Gate("ability", not why, value, "all that its steps need", why)


def _switches(case: _Case, paused_file: bool, journal_well: bool) -> Iterator[Gate]:
    yield _pause(case.reach, case.memory)
    yield Gate(
        "paused_file", not paused_file, "there" if paused_file else "no", "no file PAUSED",
        "the file PAUSED lies beside agent.yaml; remove it to go on" if paused_file else "",
    )  # fmt: skip
    yield Gate(
        "journal", journal_well, "writes" if journal_well else "can not write", "writes",
        "" if journal_well else "what can not be recorded is not done; make room for the journal",
    )  # fmt: skip


def _pause(reached: Reach, memory: Memory) -> Gate:
    pause = next((p for e in reached.covered_by if (p := memory.paused(e)) is not None), None)
    said = f"{pause.key} by {pause.by}" if pause else "no"
    reason = f"paused by {pause.by}: {pause.reason}; only a person resumes it" if pause else ""
    return Gate("pause", pause is None, said, "not paused", reason)


def _silence(case: _Case) -> Gate:
    about = [case.incident.about] if case.incident.about else []
    kind = case.cause.kind if case.cause else ""
    return _quiet([*case.reach.covered_by, *about], kind, case.memory, case.now)


def _quiet(whom: Iterable[Entity], kind: str, memory: Memory, now: float, by: str = "") -> Gate:
    """Ask for silences over any of these; those that `by` has made itself do not hold it up."""
    ids = [e.id for e in whom]
    going = [s for s in memory.silences.values() if now < s.until]
    heads = tuple(s.head for s in going)  # a quick no, for there may be many
    some = [i for i in ids if i.startswith(heads)]
    found = (s for s in going if any(s.covers(i, now, kind) for i in some))
    silence = next((s for s in found if s.by != by), None)
    if silence is None:
        return Gate("silence", True, "none", "no silence")
    left = say_duration(silence.until - now)
    reason = f"silenced by {silence.by} for {left} more" + (
        f": {silence.reason}" if silence.reason else ""
    )
    return Gate("silence", False, silence.target, "no silence", reason)


def _maintenance(case: _Case) -> Gate:
    return _window(case.reach, case.world, case.config, case.now)


def _window(reached: Reach, world: World, config: Config, now: float) -> Gate:
    limit = "no maintenance window"
    for window in config.maintenance:
        until = windows.open_until(window, now)
        if until is None or not _inside(window, reached, world):
            continue
        left = f"maintenance window {window.name} of agent.yaml, {say_duration(until - now)} more"
        reason = left + (f": {window.reason}" if window.reason else "")
        return Gate("maintenance", False, window.name, limit, reason)
    return Gate("maintenance", True, "none", limit)


def _inside(window: Window, reached: Reach, world: World) -> bool:
    whom = reached.covered_by
    return not window.scope or any(_covered(m, e, world) for m in window.scope for e in whom)


def _never(touched: Sequence[Entity], world: World, config: Config) -> Gate:
    for one in touched:
        why = _untouchable(one, world, config)
        if why:
            return Gate("never", False, one.id, "not on the list of what is never touched", why)
    return Gate("never", True, _ids(touched), "not on the list of what is never touched")


def _untouchable(one: Entity, world: World, config: Config) -> str:
    """Say why an entity must never be touched; "" when it may."""
    attrs = world.attrs(one)
    if any(_covered(m, e, world) for m in config.never for e in (one, owner_of(one))):
        return f"{one.id} is on `never:` of agent.yaml"
    if one.kind != "process":
        return ""
    if attrs.get("self") == "yes":
        return "that is homeostat itself"
    if attrs.get("pid", one.key.split("/")[1] if one.key.count("/") == 2 else "") == "1":
        return "that is PID 1"
    name = attrs.get("name", "")
    if not name:
        return f"nothing is known of {one.id}: what it is can not be seen"
    # the kernel cuts names at 15 characters
    if any(name == n or (len(name) == 15 and n.startswith(name)) for n in NEVER_NAMES):
        return f"{name} is never touched"
    ports = set(attrs.get("listen", "").split(",")) & _NEVER_PORTS
    return f"{name} listens on port {min(ports)}, which is never touched" if ports else ""


def _busy(case: _Case) -> Gate:
    """One run a target, and a target is whatever a run acts on or takes down: two never move the same thing.

    Retraining that is held for days keeps nobody from rolling the model back meanwhile.
    """
    for run in case.memory.live_runs():
        meets = case.playbook.touching and bool(case.reach.stakes & _stakes(run, case))
        if case.playbook.mutating and case.memory.aside(run):
            meets = False
        if meets or (run.playbook, run.incident) == (case.playbook.id, case.incident.id):
            reason = f"run {run.id} is at work on {run.target.id} ({run.state})"
            return Gate("busy", False, run.id, "one run a target", reason)
    return Gate("busy", True, "nobody", "one run a target")


def _stakes(run: Run, case: _Case) -> frozenset[Entity]:
    plan = case.memory.plans.get(run.id)
    return reach.of_plan(run.target, plan, case.world.topology).stakes


def _once(case: _Case) -> Gate:
    """Tell people once in the life of an incident; what acts is bounded by cooldown and attempts."""
    if case.playbook.mutating:
        return Gate("once", True, "-", "for what only tells or marks")
    runs = [
        r
        for r in case.memory.runs.values()
        if (r.playbook, r.incident) == (case.playbook.id, case.incident.id)
        # one that waited in vain for its turn has told nobody
        and (r.state != "expired" or r.steps)
    ]
    lives = case.incident.reopened + 1
    reason = "" if len(runs) < lives else f"run {runs[-1].id} has done so for this incident"
    return Gate("once", len(runs) < lives, str(len(runs)), f"fewer than {lives}", reason)


def _cooldown(case: _Case) -> Gate:
    """Rest after a run, whatever became of it: also a suggestion or a refusal is not repeated each tick."""
    limit = case.limits.cooldown
    mine = owner_of(case.target)
    newest = max(
        (
            r.updated
            for r in case.own
            if r.state in ENDED
            and (limit.per == "playbook" or owner_of(r.target) == mine)
            and not (case.asked and acted_at(r) is None)
            # a suggestion keeps us from suggesting again, for this incident; it never delays an act
            and not (r.state == "suggested" and case.mode != "suggest")
            and (
                r.incident == case.incident.id
                or (case.playbook.mutating and (r.state == "failed" or acted_at(r) is not None))
            )
        ),
        default=None,
    )
    if newest is None:
        return Gate("cooldown", True, "never ran", f"{say_duration(limit.time)} since the last run")
    since = case.passed(newest)
    reason = (
        "" if since >= limit.time else f"{say_duration(limit.time - since)} of its rest are left"
    )
    return Gate(
        "cooldown",
        since >= limit.time,
        say_duration(since),
        f"{say_duration(limit.time)} since the last run",
        reason,
    )


def _recent(case: _Case, within: float) -> list[Run]:
    """Return the runs of this playbook that have acted within some seconds, or that live and still may."""
    return [
        run for run in case.own
        if run.state not in ENDED or ((at := acted_at(run)) is not None and case.passed(at) <= within)
    ]  # fmt: skip


def _rate(case: _Case) -> Gate:
    limit = case.limits.rate
    n = len(_recent(case, limit.per))
    reason = "" if n < limit.max else "it has acted often enough; look why it is needed so often"
    return Gate("rate", n < limit.max, str(n), f"{limit.max} in {say_duration(limit.per)}", reason)


def _attempts(case: _Case) -> Gate:
    limit = case.limits.attempts
    mine = owner_of(case.target)
    n = sum(owner_of(r.target) == mine for r in _recent(case, limit.per))
    reason = ""
    if n >= limit.max:
        reason = f"tried {many(n, 'time')} on {case.target.id}; " + (
            "people must look now" if limit.then == "escalate" else "it stops here"
        )
    return Gate(
        "attempts", n < limit.max, str(n), f"{limit.max} in {say_duration(limit.per)}", reason
    )


def _blast(
    limit: PlannedBlast, target: Entity, playbook: str, *, memory: Memory, world: World, now: float, but: str = ""
) -> Iterator[Gate]:  # fmt: skip
    """Count the targets of a domain that are under treatment at about the same time, this one included.

    By whatever playbook: it is the domain that shall not be touched all over, whoever touches it. `but` = this run is
    not counted: it is the one that asks.
    """
    domain = world.attrs(target).get(limit.domain, "") if limit.domain else ""

    def inside(one: Entity, *, sure: bool) -> bool:
        """Tell whether it is of the domain; who has not said yet (after a restart) counts as touched, not as there."""
        said = world.attrs(one).get(limit.domain, "") if domain else domain
        return one.kind == target.kind and (said == domain or not (said or sure))

    runs = (r for r in _treating(memory, playbook, now, limit.within) if r.id != but)
    touched = {
        target,
        *(e for r in runs for e in _treated(r, memory, world) if inside(e, sure=False)),
    }
    n = len(touched)
    passed = n <= limit.max_targets
    reason = "" if passed else "so many targets at once: wait, or look for a common cause"
    yield Gate("blast_count", passed, str(n), str(limit.max_targets), reason)
    there = {e for e in world.entities(target.kind) if inside(e, sure=True)} | touched
    share = n / len(there)
    passed = n == 1 or share <= limit.max_share
    reason = "" if passed else f"{n} of {len(there)} would be touched at once"
    most = f"{limit.max_share:.0%} (one is always allowed)"
    yield Gate("blast_share", passed, f"{share:.0%}", most, reason)


def _treating(memory: Memory, playbook: str, now: float, within: float) -> Iterator[Run]:
    """Yield the runs that count for the blast radius: those that live or have acted within so long, of all playbooks.

    Of another playbook, one that only holds what was proven to help is no treatment any more.
    """
    for run in memory.runs.values():
        if run.state in ENDED and memory.passed(run.updated, now) > within:
            continue
        at = acted_at(run)
        going = run.state not in ENDED and (run.state != "holding" or run.playbook == playbook)
        recent = at is not None and memory.passed(at, now) <= within
        if (going or recent) and _mutates(run, memory):
            yield run


def _mutates(run: Run, memory: Memory) -> bool:
    """Tell whether a run changes the world, as its plan says; without a plan, as its steps say, or may."""
    plan = memory.plans.get(run.id)
    return not plan.marks if plan is not None else _changed(run) or not run.steps


def _treated(run: Run, memory: Memory, world: World) -> frozenset[Entity]:
    return reach.of_plan(run.target, memory.plans.get(run.id), world.topology).treated


def _settle(case: _Case) -> Gate:
    """After an act the world needs time: on another target of this playbook, or on this one by any playbook."""
    limit = case.limits.settle
    mine, stakes = owner_of(case.target), case.reach.stakes
    times = [
        at
        for run in case.runs
        if case.passed(run.updated) <= limit
        and (at := acted_at(run)) is not None
        and (
            (run.playbook == case.playbook.id and owner_of(run.target) != mine)
            or (run.playbook != case.playbook.id and _changed(run) and stakes & _stakes(run, case))
        )
    ]
    if not times:
        return Gate("settle", True, "quiet", f"{say_duration(limit)} after an act nearby")
    since = case.passed(max(times))
    passed = since >= limit
    reason = (
        "" if passed else f"{say_duration(limit - since)} until the last act nearby has settled"
    )
    return Gate(
        "settle", passed, say_duration(since), f"{say_duration(limit)} after an act nearby", reason
    )


def _changed(run: Run) -> bool:
    """Tell whether a run changed the world: to tell people does not unsettle it."""
    return any(moves(step.use) for step in run.steps)


def moves(use: str) -> bool:
    """Tell whether a verb changes the world; one that is not there any more may have."""
    return use not in registry.action or registry.action.get(use).effect == "mutating"


def _breaker(case: _Case) -> Gate:
    limit = case.limits.breaker
    told = [
        (run.updated, run.id, run.outcome.verdict)
        for run in case.own
        if run.outcome is not None and case.passed(run.updated) <= limit.hold
    ]
    bad = 0
    for _, _, verdict in sorted(told, reverse=True):
        if verdict == "helped":
            break
        bad += verdict in {"harmed", "no_effect"}
    reason = ""
    if bad >= limit.bad_outcomes:
        times = "the last time" if bad == 1 else f"{bad} times in a row"
        reason = f"it did not help {times}; it rests for {say_duration(limit.hold)}"
    said = f"{limit.bad_outcomes} in a row within {say_duration(limit.hold)}"
    return Gate(
        "breaker", bad < limit.bad_outcomes, f"{bad} without help", f"fewer than {said}", reason
    )


def _because(plan: Plan, incident: Incident) -> Gate:
    """Ask whether the cause is still the one that it was planned for; a person who began it by hand decided that."""
    top = incident.diagnosis.top if incident.diagnosis else None
    kind = top.kind if top else "unknown"
    same = not plan.cause or bool(plan.by) or matches(plan.cause, kind) or matches(kind, plan.cause)
    reason = "" if same else f"since it was planned the cause became {kind}, it was {plan.cause}"
    return Gate("because", same, kind, plan.cause, reason)


def _seen(incident: Incident, unseen: Collection[Key], world: World | None = None) -> Gate:
    """Ask for what is seen to be wrong: what nobody confirms, after a restart or a wait, is unknown and moves nothing.

    world   asks whether its source has answered of late, too: for a run that has waited
    """
    going = [a for a in incident.anomalies if a.end is None]
    going = [a for a in going if a.harm or a.road == "objective"] or going
    seen = [a for a in going if key_of(a) not in unseen]
    limit = "what is wrong is seen now"
    if going and not seen:
        reason = "what was wrong before the restart has not been seen since: it is unknown"
        return Gate("seen", False, f"{len(going)} not seen since the restart", limit, reason)
    if world is not None and not seen:
        return Gate("seen", False, "none", limit, "nothing is wrong any more")
    if world is not None and not any(_in_sight(world, a.series) for a in seen):
        reason = "its source does not answer: it is unknown"
        return Gate("seen", False, "stale", limit, reason)
    return Gate("seen", True, str(len(seen)), limit)


def _in_sight(world: World, series: Series) -> bool:
    """Tell whether what a series said still stands; what has no source is an alert, which its sender takes back."""
    source = world.source(series)
    patience = max(_IN_SIGHT_S, world.patience.get(source, math.inf))
    return not source or world.age(series) <= patience


def _fresh(case: _Case) -> Gate:
    limit = case.limits.fresh
    ages = [case.world.age(a.series) for a in case.ongoing]
    youngest = min(ages, default=None)
    if youngest is None:
        return Gate(
            "fresh",
            False,
            "none",
            f"{say_duration(limit)} old at most",
            "nothing is wrong any more",
        )
    passed = youngest <= limit
    said = say_duration(youngest) if youngest < 1e9 else "never seen"
    reason = "" if passed else "the evidence is old: the source does not answer"
    return Gate("fresh", passed, said, f"{say_duration(limit)} old at most", reason)


def _trust(case: _Case) -> Gate:
    """Evidence that anybody may have sent does not move the world."""
    series: dict[Series, None] = {a.series: None for a in case.ongoing}
    if case.cause is not None:
        series |= {
            e.series: None for e in case.cause.evidence if e.series is not None and e.weight > 0
        }
    seen = [s for s in series if case.world.age(s) < float("inf")]
    wrong = [s for s in seen if case.world.trust(s) == "untrusted"]
    if wrong:
        return Gate(
            "trust",
            False,
            str(wrong[0]),
            "local or authenticated",
            "its source is not trusted: name its token or user",
        )
    if not seen:
        return Gate("trust", False, "none", "local or authenticated", "no series stands behind it")
    worst = "local" if any(case.world.trust(s) == "local" for s in seen) else "authenticated"
    return Gate("trust", True, worst, "local or authenticated")


def _healthy(reached: Reach, world: World, config: Config) -> Gate:
    """Never take the last healthy replica: asked when a verb takes some away, or stops a service's own process."""
    weakened = sorted(reached.weakened().items())
    said: list[tuple[int, int, Entity]] = []
    for service, elsewhere in weakened:
        least = next((s.min_healthy for s in config.services if s.id == service.key), 1)
        replicas = world.value("service.replicas_count", service)
        if replicas is not None and not math.isfinite(replicas):
            replicas = None  # nobody counts so many
        if replicas is None and not (least == 0 and elsewhere is not None):
            reason = f"how many replicas of {service.key} are well is unknown"
            return Gate("min_healthy", False, "unknown", str(least), reason)
        left = int(replicas or 0) - 1
        if elsewhere is not None:
            left = min(left, elsewhere)
        said.append((max(0, left) - least, least, service))
    if not said:
        return Gate("min_healthy", True, "takes none away", "-")
    over, least, service = min(said)
    rest = many(over + least, "replica")
    reason = "" if over >= 0 else f"{rest} of {service.key} would be left"
    return Gate("min_healthy", over >= 0, str(over + least), str(least), reason)


def _correlated(case: _Case) -> Gate:
    """The same symptom nearly everywhere: the environment or the detector is wrong, not this target."""
    limit = f"{CORRELATED_SHARE:.0%} of {CORRELATED_LEAST} or more"
    symptoms = [a for a in case.ongoing if a.harm or a.road == "objective"] or case.ongoing
    metrics = {a.series.metric for a in symptoms}
    struck: dict[str, set[Entity]] = {}
    for incident in [case.incident, *case.memory.open_incidents()]:
        for a in incident.anomalies:
            if a.end is None and a.series.metric in metrics:
                struck.setdefault(a.series.metric, set()).add(a.series.entity)
    worst, said = 0.0, "0%"
    for metric, entities in sorted(struck.items()):
        measured = {s.entity for s in case.world.find(metric)} | entities
        share = len(entities) / len(measured)
        if len(measured) >= CORRELATED_LEAST and share > worst:
            worst, said = share, f"{share:.0%} of {len(measured)} ({metric})"
    passed = worst <= CORRELATED_SHARE
    reason = (
        ""
        if passed
        else "the same symptom is nearly everywhere: look at what they share, and at the detector"
    )
    return Gate("correlated", passed, said, limit, reason)


# ---------------------------------------------------------------- act


def _covered(matcher: Matcher, one: Entity, world: World) -> bool:
    return covers(matcher, one.kind, one.key, world.attrs(one))


def _scope(touched: Sequence[Entity], world: World, config: Config) -> Gate:
    unmanaged = [
        one
        for one in touched
        if not any(_covered(m, e, world) for m in config.manages for e in {one, owner_of(one)})
    ]
    reason = (
        f"add it to `manages:` of agent.yaml: {{kind: {unmanaged[0].kind}, key: ...}}"
        if unmanaged
        else ""
    )
    return Gate("scope", not unmanaged, _ids(unmanaged or touched), "managed", reason)


def _shared(case: _Case) -> Gate:
    passed = not case.playbook.shared or case.config.single_agent
    value = "yes" if case.playbook.shared else "no"
    reason = (
        ""
        if passed
        else "other agents may act on it, too: write `single_agent: true` if there are none"
    )
    return Gate("shared", passed, value, "single_agent", reason)


def _confidence(case: _Case) -> Gate:
    low = case.incident.diagnosis is None or case.incident.diagnosis.low_confidence
    sure = f"{case.cause.probability:.0%}" if case.cause else "-"
    if low and case.asked:
        return Gate("confidence", True, sure, "not low", "low, but a person decided")
    reason = ""
    if low and (case.cause is None or case.cause.kind == "unknown"):
        reason = "no cause has enough evidence, and without one nothing acts on its own"
    elif low and case.cause is not None and case.cause.probability >= 0.5:
        reason = "only shipped limits speak for it so far, which is too little to act on its own"
    elif low:
        reason = "the diagnosis is not sure enough to act on its own"
    return Gate("confidence", not low, sure, "not low", reason)


def _record(case: _Case) -> Gate:
    """What harmed only suggests, until a person has looked at it; a person's own yes is such a look."""
    harm = case.memory.records.demoted(case.playbook.id, group_of(case.target))
    limit = "no harm that nobody looked at"
    undone = _put_back(case)
    if harm is None and undone is not None and not case.asked:
        reason = f"{undone.by} put back what it did for this incident; a person may start it again"
        return Gate("record", False, f"run {undone.undoes} was put back", limit, reason)
    if harm is None:
        return Gate("record", True, "no harm", limit)
    if case.asked:
        return Gate("record", True, f"harmed in run {harm.run}", limit, "but a person decided")
    reason = f"it harmed {harm.target}; mend it, then: homeostat reinstate {case.playbook.id}"
    return Gate("record", False, f"harmed in run {harm.run}", limit, reason)


def _put_back(case: _Case) -> Plan | None:
    """Return the plan by which a person put back what this playbook did for this incident."""
    found = (
        case.memory.plans.get(r.id)
        for r in case.memory.runs.values()
        if r.playbook == case.playbook.id and r.incident == case.incident.id
    )
    return next((p for p in found if p is not None and p.undoes), None)


def _undoes(run: Run, memory: Memory) -> bool:
    plan = memory.plans.get(run.id)
    return plan is not None and bool(plan.undoes)


def _ids(entities: Iterable[Entity] | Sequence[Entity]) -> str:
    return ", ".join(e.id for e in entities)
