"""Rules of the branch `serving`: too much traffic, replicas that crash, hang or answer wrongly, callees, the mix."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import Entity
from agent.rca.case import Case, numbers, what
from agent.rca.look import Look, Measured
from agent.rca.rules import _service as service
from agent.rca.rules._model import drifted
from agent.rca.rules._model import say as say_drift
from agent.units import many, say, say_duration, say_times

_PEERS: Final = 3
"""Fewer replicas than this have no peers to be apart from."""
_APART: Final = 5.0
_CACHE_FULL: Final = 0.95
_AGAIN: Final = 1.5
"""More restarts than this since the onset are no single one, which a rollout or a person may be."""
_BEFORE_S: Final = -30.0
"""A release that is told so much after the onset may still have come first: clocks differ."""
_LOOPS: Final = "CrashLoopBackOff"
"""What Kubernetes says of a container that it starts again and again, and is about to once more."""
_TOLD_S: Final = 60.0
"""A change so near to the start of a process explains that start."""
OF_REPLICA: Final = (
    "service.error_ratio", "service.latency_p95_seconds", "service.latency_p50_seconds",
    "service.processing_p50_seconds", "service.probe_latency_seconds",
)  # fmt: skip


def saturation(look: Look) -> list[Case]:
    """More traffic than the replicas can carry: traffic up, waiting up, the work itself as quick as ever."""
    if look.group.kind != "service" or not service.slow(look):
        return []
    case = Case("serving.saturation", look.group)
    traffic = service.traffic(look)
    if traffic is None:
        case.say("traffic is not known")
    elif service.rose(traffic):
        share = min(1.0, 0.25 + 0.625 * math.log2(traffic.ratio))
        case.add(
            "traffic up", f"traffic is {traffic.ratio:.1f} times the usual ({numbers(traffic)})",
            traffic, share,
        )  # fmt: skip
    elif _fewer(look, case):
        case.say(f"traffic is as usual ({numbers(traffic)})", 0.0, traffic)
    else:
        case.add(
            "traffic flat, not saturated", f"traffic is as usual ({numbers(traffic)})", traffic
        )
    _waits(look, case)
    busy = look.measure("service.busy_ratio", look.group)
    if busy is not None and busy.now > 0.85 and busy.deviations > 3:
        case.add("workers busy", f"the workers are {numbers(busy)} busy", busy)
    _cache(look, case)
    if traffic is not None and service.rose(traffic):
        _most(look, case)
    return [case]


def _most(look: Look, case: Case) -> None:
    """Weigh that an autoscaler may make no more replicas, or say how many it still may."""
    most = look.state("service.replicas_most_count", look.group)
    count = look.value("service.replicas_count", look.group)
    if most is None or count is None:
        return
    if count > most.now - 0.5:
        bound = many(round(most.now), "replica")
        text = f"its autoscaler makes {bound} at most, and there are {count:.0f}"
        case.add("autoscaler at its most", text, most)
    else:
        more = many(round(most.now - count), "more replica")
        case.say(f"its autoscaler may make {more}", 0.0, most)


def _waits(look: Look, case: Case) -> None:
    """Weigh whether requests wait for a worker, or the work itself has become slower."""
    latency, work = service.waiting(look)
    if latency is not None and work is not None:
        waits = latency.now - work.now
        if waits > max(0.01, 0.5 * latency.now) and work.ratio < 1.6:
            case.add(
                "requests wait",
                f"requests wait {say(waits, 'seconds')} for a worker,"
                f" the work itself takes {numbers(work)}",
                latency,
            )
        elif work.ratio >= 1.6:
            text = f"the work itself has become slower ({numbers(work)})"
            case.add("work itself slower", text, work)
    elif work is None:
        queued = look.measure("service.wait_mean_seconds", look.group)
        if queued is not None and queued.deviations > 3 and queued.moved > 0.01:
            case.add("requests wait", f"requests wait to be served ({numbers(queued)})", queued)


def _cache(look: Look, case: Case) -> None:
    """Weigh that a generator has no cache left: what it serves at once is as much as it can."""
    cache = look.measure("service.cache_ratio", look.group)
    if cache is not None and cache.now > _CACHE_FULL and cache.deviations > 3:
        case.add(
            "cache used up", f"the cache of the generator is used up ({numbers(cache)})", cache
        )
    back = look.measure("service.preemptions_per_second", look.group)
    if back is not None and back.now > 0.1 and back.deviations > 3:
        text = f"requests are put back for want of cache ({numbers(back)})"
        case.add("requests put back", text, back)


def _fewer(look: Look, case: Case) -> bool:
    """Weigh that the same traffic meets fewer replicas than before; True when that is so."""
    for suspect in look.suspects():
        c = suspect.change
        if suspect.steps == 0 and c.kind == "scale" and service.count(c.after) < service.count(c.before):  # fmt: skip
            # when nobody says that they did it, they may have died
            reason = "scaled down by somebody" if c.by else "fewer replicas"
            text = f"replicas went from {c.before} to {c.after}{f' by {c.by}' if c.by else ''} {suspect.when}"
            case.add(reason, text, share=suspect.nearness)
            case.facts = {"before": c.before, "after": c.after}
            return True
    return False


def crash(look: Look) -> list[Case]:
    """Replicas are gone, do not answer, or let nothing through."""
    if look.group.kind != "service":
        return []
    case = Case("serving.crash", look.group)
    up = look.state("service.up", look.group, 1.0)
    replicas = look.measure("service.replicas_count", look.group)
    errors = look.measure("service.error_ratio", look.group)
    if up is not None and up.now < 0.5:
        case.add("no answer", "the service does not answer a probe", up)
    if replicas is not None and replicas.moved <= -1:
        _gone(look, case, replicas)
    if errors is not None and errors.now > 0.05 and errors.deviations > 3:
        case.add("requests fail", f"requests fail ({numbers(errors)})", errors)
    _hang(look, case)
    _restarts(look, case)
    _containers(look, case)
    if service.slow(look) or case.evidence:
        _moved(look, case)
    if not any(e.weight > 0 for e in case.evidence):
        return []
    _released(look, case)
    return [case]


def _gone(look: Look, case: Case, replicas: Measured) -> None:
    """Weigh that there are fewer replicas than before: they died, unless their cluster says that it wants no more."""
    text = f"replicas fell to {replicas.now:.0f} from {replicas.usual:.0f}"
    m = look.measure("service.replicas_missing_count", look.group)
    missing = m.now if m is not None else look.value("service.replicas_missing_count", look.group)
    if missing is None or missing > 0.5:
        case.add("replicas gone", text, replicas)
        return
    least = look.value("service.replicas_least_count", look.group)
    text += ", and no more are wanted"
    if least is not None and replicas.now > least - 0.5:
        text += f": its autoscaler keeps {least:.0f} at least"
    case.say(text, 0.0, replicas)


def _released(look: Look, case: Case) -> None:
    """Say which release of it came right before: a playbook may go back. What it weighs, the rules of changes say."""
    for suspect in look.suspects():
        c = suspect.change
        if suspect.steps == 0 and c.kind == "release" and suspect.before_s >= _BEFORE_S:
            versions = f"{c.before} to {c.after}" if c.before else c.after or c.text
            case.facts = {**case.facts, "released": versions or "a release"}
            case.say(f"it was released ({case.facts['released']}) {suspect.when}")
            return


def _containers(look: Look, case: Case) -> None:
    """Weigh what a cluster tells of the replicas: restarts, kills for want of memory, which are not there."""
    replicas = [
        r for r in look.topology.related(look.group, "replica") if look.topology.group(r) == look.group
    ]  # fmt: skip
    for metric, reason, fact, least, text in (
        ("replica.restarts_per_second", "starts again and again", "loops", _AGAIN, "started again {} times"),
        ("replica.oom_kills_per_second", "killed for want of memory", "killed", 0.5,
         "had {} processes killed for want of memory"),
    ):  # fmt: skip
        most = _often(look, replicas, metric)
        if most is not None and most[1] > least:
            m, times = most
            who = m.series.entity
            said = f"{who.key} has {text.format(round(times))} since the trouble began"
            case.add(reason, said, m)
            case.facts = {**case.facts, fact: who.id}
    _killed(look, case, replicas)
    _waiting(look, case, replicas)
    if any(e.series and e.series.metric == "service.replicas_count" for e in case.evidence):
        return
    missing = look.measure("service.replicas_missing_count", look.group)
    away = [r for r in replicas if look.value("replica.ready", r) == 0]
    if missing is not None:
        if missing.now > 0.5 and missing.moved > 0.5:
            lacks = many(
                round(missing.now), "replica that is wanted is", "replicas that are wanted are"
            )
            text = f"{lacks} not available"
            case.add("replicas missing", text, missing)
    elif away:
        text = f"{len(away)} of {len(replicas)} replicas are not ready ({away[0].key})"
        case.add("replicas missing", text, share=len(away) / len(replicas))


def _killed(look: Look, case: Case, replicas: list[Entity]) -> None:
    """Weigh that a cluster says of a replica that it was killed for want of memory, where nobody counts kills."""
    found = _newly(look, replicas, "replica.oom_killed")
    if found and "killed" not in case.facts:
        who = found[0].series.entity
        text = f"{who.key} was killed for want of memory and started again in the last ten minutes"
        case.add("killed for want of memory", text, found[0])
        case.facts = {**case.facts, "killed": who.id}


def _waiting(look: Look, case: Case, replicas: list[Entity]) -> None:
    """Weigh that containers wait to be started: once more, or because they can not be."""
    for m in _newly(look, replicas, "replica.waiting"):
        who, why = m.series.entity, dict(m.series.labels).get("reason", "")
        if why == _LOOPS and "loops" not in case.facts:
            case.add("starts again and again", f"{who.key} waits to be started once more", m)
            case.facts = {**case.facts, "loops": who.id}
        elif why != _LOOPS and "waiting" not in case.facts:
            case.add("can not be started", f"{who.key} can not be started ({why})", m)
            case.facts = {**case.facts, "waiting": why}


def _newly(look: Look, replicas: list[Entity], metric: str) -> list[Measured]:
    """Return the states of replicas that are so now, and were not as a rule before."""
    found = [s for r in replicas for s in look.find(metric, r) if (look.world.get(s) or 0.0) > 0.5]
    return [
        Measured(s, 1.0, 0.0, 1.0, 0, None, look.trusted(s))
        for s, m in zip(found, look.measure_all(found), strict=True)
        if m is None or m.usual < 0.5
    ]


def _often(look: Look, replicas: list[Entity], metric: str) -> tuple[Measured, float] | None:
    """Return the replica to which it happened most often since the onset, and how often beyond what is usual.

    By means: a rate of something rare is zero at most instants.
    """
    found = [s for r in replicas for s in look.find(metric, r) if look.world.get(s) is not None]
    means = look.means(found) if found else None
    if means is None:
        return None
    lasts = look.now - look.onset
    excess = [float(now - was) * lasts for now, was in zip(*means, strict=True)]
    most = max(range(len(found)), key=lambda i: (excess[i], found[i].entity))
    now, was = (float(mean[most]) for mean in means)
    one = found[most]
    return Measured(one, now, was, 1.0, 0, look.onset, look.trusted(one)), excess[most]


def _moved(look: Look, case: Case) -> None:
    """Weigh that it was restarted right before, or made smaller on purpose."""
    for suspect in look.suspects():
        c = suspect.change
        if suspect.steps == 0 and c.kind == "restart" and suspect.before_s >= 0:
            text = f"it was restarted{f' by {c.by}' if c.by else ''} {suspect.when}"
            case.add("restarted right before", text, share=suspect.nearness)
            return
        if suspect.steps == 0 and c.kind == "scale" and c.by and case.evidence:
            case.add("scaled on purpose", f"{c.by} scaled it from {c.before} to {c.after}")
            return


def _hang(look: Look, case: Case) -> None:
    """Weigh whether it lives and yet hardly anything comes through, while connections wait to be taken."""
    served = service.traffic(look)
    if served is None or served.ratio > 0.3 or served.deviations > -3:
        return
    queues = [
        m
        for e in service.processes(look)
        if (m := look.measure("process.accept_queue_count", e)) is not None and m.deviations > 3
    ]
    if queues:
        text = (
            f"hardly anything comes through ({numbers(served)}), while {queues[0].now:.0f}"
            " connections wait to be accepted"
        )
        case.add("nothing comes through", text, served)


def _restarts(look: Look, case: Case) -> None:
    """Weigh whether processes of the service are younger than the trouble, and nobody says that they were restarted."""
    age_s = look.now - look.onset
    for process in service.processes(look):
        age = look.state("process.age_seconds", process)
        if age is None or age.now > age_s + 5.0:
            continue
        text = f"a process of it started {say_duration(age.now)} ago, after the trouble began"
        case.add("restarted", text, age)
        began = look.now - age.now
        told = [  # our own acts, too: who restarts it knows why it is young
            c
            for c in look.changes
            if c.entity in {look.group, process} and abs(c.ts - began) <= _TOLD_S
        ]
        if told:
            text = f"{told[-1].kind} by {told[-1].by or 'somebody'} at that time"
            case.add("restarted by somebody", text)
        return


def dependency(look: Look) -> list[Case]:
    """Something that the service calls is slow or down, while the service's own work is as usual."""
    out = []
    for callee in look.callees():
        case = Case("serving.dependency", callee)
        up = look.state("service.up", callee, 1.0)
        if up is not None and up.now < 0.5:
            case.add("callee down", f"{callee.key} does not answer a probe", up)
        for metric in (
            "service.latency_p95_seconds",
            "service.error_ratio",
            "service.probe_latency_seconds",
        ):
            m = look.measure(metric, callee)
            if m is not None and m.deviations > 4:
                text = f"{callee.key} itself is unwell: {what(metric)} {numbers(m)}"
                case.add("callee unwell", text, m)
                if m.onset is not None and m.onset > look.onset + 15.0:
                    late = say_duration(m.onset - look.onset)
                    case.add("callee no earlier", f"but only {late} after the trouble began")
                break
        if case.evidence:
            if service.between(look, callee) is not None:
                text = (
                    f"but the work of {callee.key} takes as long as ever: only who calls it waits"
                )
                case.add("callee flat inside", text)
            _own_work(look, case)
            out.append(case)
    return out


def _own_work(look: Look, case: Case) -> None:
    _, work = service.waiting(look)
    if work is not None and abs(work.deviations) < 3:
        case.add("own work as usual", f"its own work takes {numbers(work)}", work)


def mix(look: Look) -> list[Case]:
    """The requests are others: as many as ever, and each makes more work, for no reason of ours."""
    if look.group.kind != "service" or not service.slow(look):
        return []
    traffic = service.traffic(look)
    own = service.cores(look)
    if traffic is None or service.rose(traffic) or own is None:
        return []
    each = (own[0] / max(traffic.now, 1e-9)) / max(own[1] / max(traffic.usual, 1e-9), 1e-9)
    case = Case("serving.traffic", look.group)
    if each >= 1.4 and own[0] - own[1] > 0.1:
        text = f"each request makes {each:.1f} times the work (CPU of the service a request)"
        case.add("more work a request", text, own[2])
        case.add("mix: traffic flat", f"traffic is as usual ({numbers(traffic)})", traffic)
    elif not case.evidence:
        return []
    moved = [found for model in look.near("model") for found in drifted(look, model)]
    if moved:
        text = f"the requests look different: {', '.join(map(say_drift, moved[:3]))}"
        case.add("requests look different", text)
    change = look.release(look.group, "release", "config", "flag")
    if change is not None:
        case.add("mix: released", f"a {change.kind} explains more work a request")
    return [case]


# ---------------------------------------------------------------- one of several


def apart(look: Look) -> list[Case]:
    """One replica is apart from its peers: then it is the replica, whatever else the whole service shows."""
    if look.group.kind != "service":
        return []
    replicas = look.topology.related(look.group, "replica")
    if len(replicas) < _PEERS:
        return []
    for metric in OF_REPLICA:
        found: dict[Entity, Measured] = {}
        for replica in replicas:
            m = look.measure(metric, replica)
            if m is not None:
                found[replica] = m
        odd = _odd(found)
        if odd is None:
            continue
        m = found[odd]
        others = float(np.median([x.now for r, x in found.items() if r != odd]))
        unit = SIGNALS[metric].unit
        facts = {"replica": odd.key.rpartition("/")[2], "apart": metric}
        case = Case("serving.crash", odd, facts=facts)
        case.add(
            "apart from peers",
            f"{odd.key} alone is unwell: {what(metric)} {say(m.now, unit)},"
            f" its {len(found) - 1} peers {say(others, unit)}",
            m,
        )
        return [case]
    return []


def answers(look: Look) -> list[Case]:
    """One replica answers otherwise than its peers on the same traffic: it computes wrongly, whoever made the model."""
    out = []
    for replica in look.near("replica"):
        state = look.state("replica.predictions_apart", replica)
        if state is None or state.now < 0.5:
            continue
        n = replica.key.rpartition("/")[2]
        case = Case("serving.crash", replica, facts={"replica": n, "apart": "answers"})
        size = look.value("replica.prediction_distance_ratio", replica) or 0.0
        evidence = look.value("replica.apart_evidence_count", replica) or 0.0
        text = (
            f"{replica.key} alone answers otherwise than its peers on the same traffic: {say(size, 'ratio')} of its"
            f" answers would have to be others ({say_times(evidence)} what is enough)"
        )
        case.add("answers apart from peers", text, state)
        case.others = [
            e.dst for e in look.topology.edges(replica) if e.src == replica and e.dst.kind == "gpu"
        ]
        out.append(case)
    return out


def _odd(found: dict[Entity, Measured]) -> Entity | None:
    """Return the one that is far from all others, which are near each other and as they always were."""
    if len(found) < _PEERS:
        return None
    first, second = sorted(found, key=lambda e: -found[e].now)[:2]
    rest = [m for e, m in found.items() if e != first]
    scale = max(*(m.scale for m in found.values()), float(np.std([m.now for m in rest])))
    alone = (found[first].now - found[second].now) / scale
    calm = all(m.deviations < _APART for m in rest)
    return first if alone > _APART and found[first].deviations > _APART and calm else None
