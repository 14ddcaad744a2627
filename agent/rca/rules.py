"""The rules: what speaks for and against each cause, in log-odds.

Each rule reads a `Look` and returns cases. A weight of +1 makes a cause 2.7 times as probable against all others;
+3 twenty times. What is unknown weighs nothing and is said. The weights are our judgement, in one place to be
replaced by learnt ones; see docs for where each comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import Anomaly, Change, Entity, Evidence, Series
from agent.rca.look import Look, Measured
from agent.units import say, say_duration

_LATENCY: Final = (
    "service.latency_p50_seconds", "service.latency_p95_seconds", "service.latency_p99_seconds",
    "service.probe_latency_seconds",
)  # fmt: skip
_QUALITY: Final = (
    "model.accuracy_ratio", "model.accuracy_high_ratio", "model.accuracy_recent_ratio",
    "model.quality_lost", "model.worse_than_previous",
)  # fmt: skip
_PRIOR: Final = -2.0
_DRIFTED: Final = 0.25
_STILL: Final = 0.10


@dataclass(slots=True)
class Case:
    """One hypothesis while it is weighed."""

    kind: str
    entity: Entity
    logit: float = _PRIOR
    evidence: list[Evidence] = field(default_factory=list)
    others: list[Entity] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def add(self, weight: float, text: str, measured: Measured | None = None) -> None:
        """Add a reason; weight 0 is said but weighs nothing."""
        self.logit += weight
        self.evidence.append(
            Evidence(
                text,
                weight,
                measured.series if measured else None,
                measured.now if measured else None,
                measured.usual if measured else None,
                measured.onset if measured else None,
            )
        )


def _numbers(m: Measured) -> str:
    unit = SIGNALS[m.series.metric].unit
    return f"{say(m.now, unit)}, usually {say(m.usual, unit)}"


def _more(m: Measured | None, most: float, full_at: float) -> float:
    """Turn a rise in robust deviations into a weight 0..most, full at `full_at` deviations."""
    if m is None or m.deviations <= 0:
        return 0.0
    return most * min(1.0, m.deviations / full_at)


# ---------------------------------------------------------------- serving


def _slow(look: Look) -> bool:
    return look.broken(*_LATENCY)


def _traffic(look: Look) -> Measured | None:
    return look.measure("service.requests_per_second", look.group)


def _waiting(look: Look) -> tuple[Measured | None, Measured | None]:
    """Return (latency, processing): what clients see and what a worker needs."""
    return (
        look.measure("service.latency_p50_seconds", look.group),
        look.measure("service.processing_p50_seconds", look.group),
    )


def saturation(look: Look) -> list[Case]:
    """More traffic than the replicas can carry: traffic up, waiting up, the work itself as quick as ever."""
    if look.group.kind != "service" or not _slow(look):
        return []
    case = Case("serving.saturation", look.group)
    traffic = _traffic(look)
    if traffic is None:
        case.add(0.0, "traffic is not known")
    elif traffic.ratio >= 1.25 and traffic.deviations > 2:
        case.add(
            min(4.0, 1.0 + 2.5 * math.log(traffic.ratio) / math.log(2)),
            f"traffic is {traffic.ratio:.1f} times the usual ({_numbers(traffic)})", traffic,
        )  # fmt: skip
    else:
        case.add(-2.5, f"traffic is as usual ({_numbers(traffic)})", traffic)
    latency, work = _waiting(look)
    if latency is not None and work is not None:
        waits = latency.now - work.now
        if waits > max(0.01, 0.5 * latency.now) and work.ratio < 1.6:
            case.add(
                1.5,
                f"requests wait {say(waits, 'seconds')} for a worker,"
                f" the work itself takes {_numbers(work)}",
                latency,
            )
        elif work.ratio >= 1.6:
            case.add(-1.0, f"the work itself has become slower ({_numbers(work)})", work)
    return [case]


def neighbour(look: Look) -> list[Case]:
    """Other processes take the CPU: theirs is up, own traffic is flat, the work itself takes longer."""
    if look.group.kind != "service" or not _slow(look):
        return []
    host = look.topology.nearest(look.group, "host")
    if host is None:
        return []
    series = [
        s
        for s in look.world.find("process.cpu_cores")
        if look.topology.group(s.entity) == host
        and look.world.attrs(s.entity).get("self") != "yes"
        and look.world.get(s) is not None
    ]
    grown = _grown(look, series)
    case = Case("host.neighbour", grown[0][0] if grown else host)
    cores = _cores(look, host)
    taken = sum(excess for _, excess, _ in grown)
    if grown and taken >= 0.15 * cores:
        first, most, numbers = grown[0]
        case.others = [e for e, excess, _ in grown[1:4] if excess >= 0.25 * most]
        name = look.world.attrs(first).get("command") or look.world.attrs(first).get(
            "name", first.key
        )
        case.facts = {"command": name}
        weight = min(3.5, 1.0 + 4.0 * taken / cores)
        text = f"processes outside the service took {taken:.1f} more cores; most of it {name}"
        case.logit += weight
        case.evidence.append(replace(numbers, text=text, weight=weight))
    else:
        case.add(-3.0, f"no process outside the service took more CPU ({taken:.2f} cores)")
    traffic = _traffic(look)
    if traffic is not None and traffic.ratio < 1.2:
        case.add(1.0, f"own traffic is flat ({_numbers(traffic)})", traffic)
    elif traffic is not None and traffic.deviations > 2:
        case.add(-2.0, f"own traffic is up ({_numbers(traffic)})", traffic)
    _, work = _waiting(look)
    if work is not None and work.deviations > 3 and work.ratio > 1.3:
        case.add(1.0, f"the work itself takes longer ({_numbers(work)})", work)
    pressure = look.measure("host.pressure_ratio", host, resource="cpu", who="some")
    if pressure is not None and pressure.deviations > 3:
        case.add(1.0, f"tasks wait for a CPU {_numbers(pressure)} of the time", pressure)
    return [case]


def _grown(look: Look, series: Sequence[Series]) -> list[tuple[Entity, float, Evidence]]:
    """Return (process, cores taken beyond its usual, numbers), largest first.

    Means over the whole incident, so that one busy second does not name anybody. Only the busiest processes are
    sampled: where one is not, it took next to nothing.
    """
    if not series:
        return []
    onset = look.onset
    ts, rows = look.read(series, onset - look.baseline_s, look.now + 0.001)
    before, during = ts < onset - 2.0, ts >= onset
    if not during.any():
        return []
    taken = np.nan_to_num(rows[during]).mean(axis=0)
    usual = np.nan_to_num(rows[before]).mean(axis=0) if before.any() else np.zeros(len(series))
    out = [
        (s.entity, float(now - was), Evidence("", 0.0, s, float(now), float(was), onset))
        for s, now, was in zip(series, taken, usual, strict=True)
        if now - was > 0.05
    ]
    return sorted(out, key=lambda x: (-x[1], x[0]))


def _cores(look: Look, host: Entity) -> float:
    try:
        return max(1.0, float(look.world.attrs(host).get("cores", "")))
    except ValueError:
        return max(1.0, float(len(look.world.find("host.core_utilization_ratio", host))))


def crash(look: Look) -> list[Case]:
    """Replicas are gone or do not answer."""
    if look.group.kind != "service":
        return []
    case = Case("serving.crash", look.group)
    up = look.value("service.up", look.group)
    replicas = look.measure("service.replicas_count", look.group)
    errors = look.measure("service.error_ratio", look.group)
    if up is not None and up < 0.5:
        case.add(3.0, "the service does not answer a probe")
    if replicas is not None and replicas.moved <= -1:
        case.add(2.5, f"replicas fell to {replicas.now:.0f} from {replicas.usual:.0f}", replicas)
    if errors is not None and errors.now > 0.05:
        case.add(1.0, f"requests fail ({_numbers(errors)})", errors)
    return [case] if case.evidence else []


def dependency(look: Look) -> list[Case]:
    """Something that the service calls is slow or down, while the service's own work is as usual."""
    out = []
    for edge in look.topology.edges(look.group):
        if edge.kind != "calls" or edge.src != look.group:
            continue
        for metric in ("service.latency_p95_seconds", "service.error_ratio"):
            m = look.measure(metric, edge.dst)
            if m is not None and m.deviations > 4:
                case = Case("serving.dependency", edge.dst)
                case.add(
                    2.5, f"{edge.dst.key} itself is unwell: {SIGNALS[metric].help} {_numbers(m)}", m
                )
                out.append(case)
                break
    return out


# ---------------------------------------------------------------- releases


def release_of_model(look: Look) -> list[Case]:
    """A new model version took over shortly before quality fell."""
    out = []
    for model in look.near("model"):
        if not _poor(look, model):
            continue
        case = Case("release.model", model)
        change = look.release(model, "release")
        if change is None:
            case.add(
                -5.0, f"no release of {model.key} in the last {say_duration(look.release_window_s)}"
            )
            out.append(case)
            continue
        case.facts = {"version": change.after, "previous_version": change.before}
        ago = look.onset - change.ts
        when = f"{say_duration(abs(ago))} {'before' if ago >= 0 else 'after'} the onset"
        case.add(4.0, f"version {change.after} replaced {change.before} {when}")
        accuracy = look.measure("model.accuracy_ratio", model)
        if accuracy is not None:
            case.add(1.0, f"accuracy is {_numbers(accuracy)}", accuracy)
        if (look.value("model.worse_than_previous", model) or 0.0) > 0.5:
            case.add(1.0, "on the same kind of rows it is worse than the version before")
        mix = look.measure("model.prediction_drift_psi", model)
        if mix is not None and mix.now > _STILL and mix.deviations > 2:
            case.add(0.5, f"the predictions moved with it (PSI {mix.now:.2f})", mix)
        _silent_features(look, model, case, 1.0, -1.0)
        if _broken_features(look, model):
            case.add(-3.0, "a feature broke its contract, which is enough to explain it")
        out.append(case)
    return out


def release_of_service(look: Look) -> list[Case]:
    """Code or configuration of the service changed shortly before it became slow or failed."""
    if look.group.kind != "service":
        return []
    if not (_slow(look) or look.broken("service.error_ratio", "service.up")):
        return []
    kinds: dict[str, str] = {
        "release": "release.code",
        "config": "release.config",
        "flag": "release.config",
    }
    change: Change | None = look.release(look.group, *kinds)
    if change is None:
        return []
    case = Case(
        kinds[change.kind], look.group, facts={"before": change.before, "after": change.after}
    )
    ago = say_duration(abs(look.onset - change.ts))
    case.add(3.5, f"{change.kind} from {change.before} to {change.after} {ago} before the onset")
    return [case]


# ---------------------------------------------------------------- data and models


def _poor(look: Look, model: Entity) -> bool:
    """Tell whether the quality of a model is below its objective, or far below its own past."""
    if any(
        a.series.entity == model and a.series.metric in _QUALITY and a.end is None
        for a in look.incident.anomalies
    ):
        return True
    m = look.measure("model.accuracy_ratio", model)
    return m is not None and m.deviations < -4 and m.moved < -0.03


def _features(look: Look, model: Entity) -> list[Entity]:
    return [
        e.src
        for e in look.topology.edges(model)
        if e.kind == "feeds" and e.dst == model and e.src.kind == "feature"
    ]


def _broken_features(look: Look, model: Entity) -> list[Entity]:
    return [
        f for f in _features(look, model) if (look.value("feature.contract_broken", f) or 0.0) > 0.5
    ]


def _moved(look: Look, model: Entity) -> list[tuple[Entity, float]]:
    """Return the features whose distribution has moved, with PSI, largest first."""
    drifts = [(f, look.value("feature.drift_psi", f)) for f in _features(look, model)]
    return sorted(
        ((f, psi) for f, psi in drifts if psi is not None and psi >= _DRIFTED),
        key=lambda x: (-x[1], x[0]),
    )


def _silent_features(look: Look, model: Entity, case: Case, silent: float, loud: float) -> None:
    """Weigh whether the inputs look as they always did."""
    known = [
        psi
        for f in _features(look, model)
        if (psi := look.value("feature.drift_psi", f)) is not None
    ]
    if not known:
        case.add(0.0, "how the inputs are distributed is not known")
    elif max(known) < _DRIFTED:
        case.add(silent, f"the inputs look as they always did (largest PSI {max(known):.2f})")
    else:
        worst = _moved(look, model)
        names = ", ".join(f.key.rpartition("/")[2] for f, _ in worst[:3])
        case.add(loud, f"the inputs moved too ({names}, PSI {max(known):.2f})")


def contract(look: Look) -> list[Case]:
    """A feature broke its contract: unit, range, missing, stuck. Not drift: one feature, at once."""
    out = []
    for model in look.near("model"):
        broken = _broken_features(look, model)
        every = _features(look, model)
        for feature in broken:
            name = feature.key.rpartition("/")[2]
            why = look.world.attrs(feature).get("broken", "")
            case = Case(
                "data.contract", feature, facts={"feature": name, "model": model.key, "why": why}
            )
            case.add(5.0, f"feature {name} broke its contract" + (f": {why}" if why else ""))
            if len(broken) <= max(1, len(every) // 4):
                case.add(1.0, f"{len(broken)} of {len(every)} features, the others are well")
            change = look.release(model, "release")
            if change is not None:
                case.add(-0.5, f"version {change.after} was released at that time, too")
            psi = look.value("feature.drift_psi", feature)
            # several broken at once: the one that is broken most leads
            case.add(
                min(0.5, 0.1 * (psi or 0.0)),
                f"its PSI is {psi:.2f}" if psi else "its PSI is not known",
            )
            out.append(case)
    return out


def concept(look: Look) -> list[Case]:
    """The relation between inputs and labels has changed: labels say worse, inputs look as ever."""
    out = []
    for model in look.near("model"):
        if not _poor(look, model):
            continue
        case = Case("concept.drift", model)
        accuracy = look.measure("model.accuracy_ratio", model)
        reference = look.value("model.reference_accuracy_ratio", model)
        if accuracy is not None:
            case.add(1.5, f"accuracy on labels is {_numbers(accuracy)}", accuracy)
        elif reference is not None:
            case.add(0.5, f"accuracy is below that of the reference ({say(reference, 'ratio')})")
        _silent_features(look, model, case, 2.0, -1.5)
        change = look.release(model, "release")
        if change is not None:
            ago = say_duration(abs(look.onset - change.ts))
            case.add(
                -4.0, f"version {change.after} was released {ago} from the onset: look there first"
            )
        else:
            case.add(1.0, "no version was released")
        _label_trouble(look, model, case)
        out.append(case)
    return out


def _label_trouble(look: Look, model: Entity, case: Case) -> None:
    coverage = look.measure("model.label_coverage_ratio", model)
    if coverage is not None and coverage.moved < -0.3:
        case.add(-2.0, f"labels are missing ({_numbers(coverage)})", coverage)


def drift(look: Look) -> list[Case]:
    """Several inputs have moved away from the reference, and it hurts."""
    out = []
    for model in look.near("model"):
        moved = _moved(look, model)
        if not moved:
            continue
        case = Case("data.drift", model, facts={"feature": moved[0][0].key.rpartition("/")[2]})
        case.others = [f for f, _ in moved[:5]]
        names = ", ".join(f"{f.key.rpartition('/')[2]} {psi:.2f}" for f, psi in moved[:4])
        case.add(1.5 + min(1.5, 0.5 * len(moved)), f"{len(moved)} features moved (PSI {names})")
        if _broken_features(look, model):
            case.add(-4.0, "a feature broke its contract: that is no drift")
        if look.release(model, "release") is not None:
            case.add(-1.0, "a version was released at that time")
        if not _poor(look, model):
            case.add(-2.0, "quality does not suffer")
        out.append(case)
    return out


def labels(look: Look) -> list[Case]:
    """Labels are late, missing or wrong: then accuracy is not known, rather than bad."""
    out = []
    for model in look.near("model"):
        coverage = look.measure("model.label_coverage_ratio", model)
        if coverage is not None and coverage.now < 0.5 * coverage.usual:
            case = Case("label.late", model)
            case.add(3.5, f"labels come for only {_numbers(coverage)} of the predictions", coverage)
            out.append(case)
        rate = look.measure("model.positive_label_ratio", model)
        mix = look.measure("model.positive_prediction_ratio", model)
        if _poor(look, model) and rate is not None and mix is not None:
            stepped = abs(rate.deviations) > 6 and abs(rate.moved) > 0.15
            if stepped and abs(mix.deviations) < 2 and look.release(model, "release") is None:
                case = Case("label.bad", model)
                case.add(
                    1.5, f"the mix of labels stepped ({_numbers(rate)}), predictions did not", rate
                )
                out.append(case)
    return out


# ---------------------------------------------------------------- hosts, GPUs, our own eyes

_HOST_SIGNALS: Final = {
    "host.memory": ("host.memory_utilization_ratio", "host.swap_utilization_ratio", "host.oom_kills_per_second"),
    "host.disk": ("host.disk_utilization_ratio", "host.disk_inodes_ratio", "host.disk_busy_ratio",
                  "host.disk_read_latency_seconds", "host.disk_write_latency_seconds", "host.mount_reachable"),
    "host.network": ("host.network_errors_per_second", "host.network_drops_per_second",
                     "host.tcp_retransmits_per_second", "host.network_up"),
    "host.cpu": ("host.cpu_busy_ratio", "host.load1_count", "host.cgroup_throttled_ratio"),
}  # fmt: skip
_GPU_SIGNALS: Final = {
    "hardware.gpu.lost": ("gpu.reachable",),
    "hardware.gpu.memory": ("gpu.remap_failed", "gpu.remap_pending", "gpu.ecc_errors_per_second"),
    "hardware.gpu.thermal": ("gpu.temperature_celsius", "gpu.throttled"),
    "hardware.gpu.power": ("gpu.power_watts", "gpu.throttled"),
    "hardware.gpu.link": ("gpu.pcie_link_ratio",),
    "hardware.gpu.slow": ("gpu.clock_ratio",),
}


_THROTTLED: Final = {
    "hardware.gpu.thermal": ("thermal", "hardware_thermal"),
    "hardware.gpu.power": ("power_brake", "hardware_slowdown"),
}
"""Reasons that are faults; a power cap under full load is not."""


def _throttled_so(kind: str, a: Anomaly) -> bool:
    """Tell whether a throttled clock speaks for this kind, by its reason."""
    if a.series.metric != "gpu.throttled":
        return True
    return dict(a.series.labels).get("reason") in _THROTTLED.get(kind, ())


def hardware(look: Look) -> list[Case]:
    """A resource of the host or a GPU is itself abnormal: by objective, or by a detector."""
    out = []
    for table in (_HOST_SIGNALS, _GPU_SIGNALS):
        for kind, metrics in table.items():
            found = [
                a
                for a in look.incident.anomalies
                if a.series.metric in metrics and a.end is None and _throttled_so(kind, a)
            ]
            for entity in sorted({a.series.entity for a in found}):
                mine = [a for a in found if a.series.entity == entity]
                case = Case(kind, entity)
                if mine[0].series.labels:
                    case.facts = dict(mine[0].series.labels)
                for a in mine[:3]:
                    unit = SIGNALS[a.series.metric].unit
                    if a.ahead is not None:
                        limit = say(a.high if a.direction > 0 else a.low, unit)
                        text = f"is {say(a.value, unit)} and on its way to {limit}"
                        case.add(2.5, f"{SIGNALS[a.series.metric].help} {text}")
                        continue
                    stated = a.road == "objective"
                    case.add(
                        2.5 if stated else 1.0,
                        f"{SIGNALS[a.series.metric].help} is {say(a.value, unit)}"
                        + (" (beyond its objective)" if stated else " (out of its band)"),
                    )
                if look.group.kind == "service" and kind.startswith("host."):
                    case.add(-1.0, "on its own this rarely explains the trouble of a service")
                out.append(case)
    return out


def blind(look: Look) -> list[Case]:
    """We cannot see: a source is stale."""
    out = []
    for a in look.incident.anomalies:
        if a.series.metric == "source.blind" and a.end is None:
            case = Case("observer.blind", a.series.entity)
            age = look.value("source.age_seconds", a.series.entity)
            said = f" for {say_duration(age)}" if age is not None else ""
            case.add(6.0, f"source {a.series.entity.key} has not answered{said}")
            out.append(case)
    return out


Rule = Callable[[Look], list[Case]]
RULES: Final[tuple[Rule, ...]] = (
    saturation, neighbour, crash, dependency, release_of_model, release_of_service,
    contract, concept, drift, labels, hardware, blind,
)  # fmt: skip
