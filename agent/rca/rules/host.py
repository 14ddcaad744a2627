"""Rules of the branch `host`, and its hardware: what a machine is short of, who takes it, what of it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.model import Entity, Evidence, Series
from agent.rca.case import Case, numbers
from agent.rca.look import Look
from agent.rca.rules import _service as service
from agent.rca.rules._signs import Sign, kernel, weigh
from agent.rca.weights import WEIGHTS
from agent.units import say

_SIGNS: Final[dict[str, tuple[Sign, ...]]] = {
    "host.memory": (
        Sign(
            "host.oom_kills_per_second",
            0.0,
            alone="decisive",
            said="the kernel kills processes for want of memory",
        ),
        Sign(
            "host.cgroup_oom_kills_per_second",
            0.0,
            alone="decisive",
            said="the container's processes are killed for want of memory",
        ),
        kernel("oom_kill", "the kernel killed a process for want of memory"),
        Sign("host.group_oom_kills_per_second", 0.0, alone="strong",
             said="processes of a container or unit are killed for want of memory"),
        Sign("host.memory_utilization_ratio", 0.9),
        Sign("host.swap_utilization_ratio", 0.2),
        Sign(
            "host.pressure_ratio",
            0.1,
            labels=(("resource", "memory"), ("who", "some")),
            said="the time that tasks wait for memory",
        ),
        Sign("host.allocation_stalls_per_second"),
        Sign("host.cgroup_memory_ratio", 0.95),
        Sign("host.group_memory_ratio", 0.95),
    ),
    "host.disk": (
        Sign(
            "host.mount_reachable", 0.5, -1, alone="decisive", said="a file system does not answer"
        ),
        Sign("host.disk_failing", 0.5, alone="decisive", said="a disk says itself that it fails"),
        kernel("read_only", "a file system was made read-only after an error", "decisive"),
        kernel("file_system_error", "a file system is damaged"),
        kernel("io_error", "a disk does not read or write"),
        kernel("server_silent", "a file server does not answer"),
        kernel("raid_degraded", "a disk was thrown out of a RAID"),
        kernel("hung_task", "a task waits in the kernel for minutes, as on a disk that does not answer"),
        Sign("host.disk_errors_per_second", 0.0, labels=(("type", "media"),), alone="strong",
             said="errors that a disk could not correct"),
        Sign("host.disk_bad_sectors_count", 0.5),
        Sign("host.raid_degraded", 0.5, said="a software RAID lacks disks"),
        Sign("host.disk_utilization_ratio", 0.99, alone="strong", said="a file system is full"),
        Sign("host.disk_inodes_ratio", 0.99, alone="strong", said="the inodes are used up"),
        Sign("host.disk_utilization_ratio", 0.95),
        Sign("host.disk_inodes_ratio", 0.95),
        Sign("host.disk_busy_ratio", 0.9),
        Sign("host.disk_write_latency_seconds", 0.01),
        Sign("host.disk_read_latency_seconds", 0.01),
        Sign("host.disk_flush_latency_seconds", 0.05),
        Sign(
            "host.pressure_ratio",
            0.2,
            labels=(("resource", "io"), ("who", "some")),
            said="the time that tasks wait for a disk",
        ),
    ),
    "host.network": (
        Sign("host.network_up", 0.5, -1, said="an interface is down"),
        Sign("host.infiniband_up", 0.5, -1, said="a port of InfiniBand is down"),
        kernel("link_down", "an interface lost its link"),
        kernel("transmit_timeout", "an interface sends nothing"),
        kernel("conntrack_full", "the firewall dropped packets, for it can track no more connections"),
        Sign("host.infiniband_errors_per_second", 0.1),
        Sign("host.network_errors_per_second", 1.0),
        Sign("host.network_drops_per_second", 5.0),
        Sign("host.tcp_retransmits_per_second", 2.0),
        Sign(
            "host.conntrack_ratio",
            0.95,
            alone="strong",
            said="the firewall can track no more connections",
        ),
    ),
    "host.exhausted": (
        Sign(
            "host.file_descriptors_ratio", 0.95, alone="strong", said="open files reach their limit"
        ),
        Sign("host.threads_ratio", 0.95, alone="strong", said="threads reach their limit"),
        Sign("host.tcp_memory_ratio", 0.95, said="memory of TCP buffers"),
        Sign("host.file_descriptors_ratio", 0.8),
        Sign("host.threads_ratio", 0.8),
    ),
    "host.cpu": (
        Sign(
            "host.cpu_utilization_ratio",
            0.1,
            labels=(("mode", "steal"),),
            said="CPU time that the hypervisor gives to others",
        ),
        Sign("host.cgroup_throttled_ratio", 0.1),
        Sign("host.group_throttled_ratio", 0.1),
        kernel("cpu_hot", "heat holds a CPU back"),
        Sign("host.cpu_busy_ratio", 0.9),
        Sign("host.load1_count"),
        Sign(
            "host.pressure_ratio",
            0.3,
            labels=(("resource", "cpu"), ("who", "some")),
            said="the time that tasks wait for a CPU",
        ),
    ),
    "hardware.host": (
        kernel("memory_error", "memory of the host failed and could not be corrected", "decisive"),
        kernel("machine_check", "the CPU reports an error of the hardware"),
        kernel("kernel_bug", "the kernel hit a bug of its own", "decisive"),
        kernel("lockup", "a CPU is stuck in the kernel", "decisive"),
        Sign("host.memory_errors_per_second", 0.0, labels=(("type", "uncorrected"),), alone="decisive",
             said="memory errors that could not be corrected"),
        Sign("host.memory_errors_per_second", 0.1, labels=(("type", "corrected"),)),
    ),
}  # fmt: skip
SIGNALS_READ: Final = tuple(dict.fromkeys(s.metric for some in _SIGNS.values() for s in some))
_FULL: Final = 0.97
"""Of the memory of a GPU. Servers that take most of it at the start stay below, and they do not move."""
_OF_CARD: Final = (Sign("gpu.memory_utilization_ratio", 0.95),)
_HELD: Final = ("gpu.processes_count", "gpu.memory_utilization_ratio")
_HELD_LEAST: Final = 0.1
"""The driver itself keeps a few percent of the memory."""
_IDLE: Final = 0.05
"""Share of the time below which a GPU computes nothing that is worth holding its memory."""
_OF_SERVICE: Final = (
    Sign(
        "service.certificate_seconds",
        259200.0,
        -1,
        alone="strong",
        said="its certificate ends soon",
    ),
)
_CROWDED: Final = 0.9
_CAME_BYTES: Final = 256e6
"""Of GPU memory: a context alone is about as much, so less is no work."""
_TAKEN_FROM_US: Final = ("host.cpu_utilization_ratio", "host.cgroup_throttled_ratio")
_DISK: Final = (
    "host.disk_write_latency_seconds",
    "host.disk_read_latency_seconds",
    "host.disk_busy_ratio",
)


def machine(look: Look) -> list[Case]:
    """A resource of the machine is short: by objective, by a detector, or measured against its own past."""
    host = look.host
    if host is None:
        return []
    out = []
    for kind, signs in _SIGNS.items():
        case = Case(kind, host)
        weigh(look, case, host, signs)
        if not case.evidence:
            continue
        taken = kind == "host.cpu" and _taken_from_us(look, case, host)
        if kind == "host.memory":
            case.facts |= _grower(look, host)
        decisive = max(e.weight for e in case.evidence) >= WEIGHTS["strong"]
        if look.group.kind == "service" and not decisive and not taken:
            text = "on its own this rarely explains the trouble of a service"
            case.add("rarely explains a service", text)
        out.append(case)
    return out


def _grower(look: Look, host: Entity) -> dict[str, str]:
    """Return the process group, ours apart, whose memory has grown most; nothing when none has much."""
    grown = _grown(look, _processes(look, host, "process.memory_bytes"), least=64e6)
    if not grown:
        return {}
    attrs = look.world.attrs(grown[0][0])
    name = attrs.get("command") or attrs.get("name", grown[0][0].key)
    return {"process": grown[0][0].id, "command": name}


def exhausted(look: Look) -> list[Case]:
    """What is used up beside the machine: the memory of a GPU, the certificate of a service."""
    told = {a.series.entity: None for a in look.incident.anomalies if a.end is None}
    out = []
    for kind, signs in (("gpu", _OF_CARD), ("service", _OF_SERVICE)):
        for entity in [e for e in told if e.kind == kind] or look.topology.related(
            look.group, kind
        ):
            case = Case("host.exhausted", entity)
            weigh(look, case, entity, signs)
            if kind == "gpu":
                _memory_of(look, case)
                _holder(look, case, about=entity in told)
            if case.evidence:
                out.append(case)
    return out


def _memory_of(look: Look, case: Case) -> None:
    """Weigh the memory of a GPU that nobody uses and that is held all the same, or that has just been used up."""
    card = case.entity
    users, held = (look.value(m, card) for m in _HELD)
    if users == 0 and held is not None and held > _HELD_LEAST:
        text = (
            f"{say(held, 'ratio')} of the memory of {card.key} is held, and nobody computes on it"
        )
        case.add("strong", text)
    m = look.measure("gpu.memory_utilization_ratio", card)
    if m is not None and m.now > _FULL and m.moved > 1 - _FULL:
        case.add("strong", f"the memory of {card.key} is used up ({numbers(m)})", m)


def _holder(look: Look, case: Case, *, about: bool) -> None:
    """Say who holds most of the memory of a GPU that is used up, where that can be seen.

    about   the incident is about this GPU: then it counts, too, that it idles while those who hold it serve nobody
    """
    held = [
        (look.world.get(s) or 0.0, s.entity)
        for s in look.world.find("process.gpu_memory_bytes")
        if ("gpu", case.entity.key) in s.labels
    ]
    if not held:
        return
    served = [_served(look, who) for _, who in held]
    busy = look.measure("gpu.utilization_ratio", case.entity)
    share = look.value("gpu.memory_utilization_ratio", case.entity)
    idle = busy is not None and busy.now < _IDLE and share is not None and share > _HELD_LEAST
    told = not _of_replicas(look, case.entity)
    if about and idle and told and not any(served):
        text = f"{case.entity.key} computes nothing, and who holds its memory serves nobody"
        case.add("strong", text, busy)
    if case.evidence:
        (most, who), service_ = max(zip(held, served, strict=True))
        attrs = look.world.attrs(who)
        name = attrs.get("command") or attrs.get("name", who.key)
        case.facts |= {"process": who.id, "command": name}
        if told:
            case.facts |= {"serves": service_ or "nobody"}
        case.say(f"{_called(name)} holds {say(most, 'bytes')} of it")


def _of_replicas(look: Look, card: Entity) -> bool:
    """Tell whether replicas are known to run on a GPU, as a cluster says: which process is theirs nobody tells then."""
    edges = look.topology.edges(card)
    return any(e.kind == "runs_on" and e.dst == card and e.src.kind == "replica" for e in edges)


def _served(look: Look, who: Entity) -> str:
    """Return the service that a process group serves; "" = none that we know."""
    group = look.topology.group(who)
    return group.key if group.kind in {"service", "model"} else ""


def network_between(look: Look) -> list[Case]:
    """Callers see it slow while the callee's own work, traffic and queue are as ever: the network at the callee.

    The callee is the service itself, or one that it calls.
    """
    if look.group.kind != "service" or not service.slow(look):
        return []
    out = []
    for callee in (look.group, *look.callees()):
        found = service.between(look, callee)
        if found is None:
            continue
        latency, work, sure = found
        where = look.topology.nearest(callee, "host") or callee
        case = Case("host.network", where, facts={"service": callee.key})
        text = (
            f"callers of {callee.key} wait {numbers(latency)}, the work itself takes"
            f" {numbers(work)}: the network between them"
        )
        case.add("caller slow, callee flat", text, latency, 1.0 if sure else 0.75)
        again = look.measure("host.tcp_retransmits_per_second", where)
        if again is not None and again.deviations > 3:
            case.add("sent again", f"segments are sent again {numbers(again)}", again)
        out.append(case)
    return out


def _taken_from_us(look: Look, case: Case, host: Entity) -> bool:
    """Weigh CPU that the hypervisor gives to others, or a limit holds back, while nobody here asks for more."""
    told = [e for e in case.evidence if e.series and e.series.metric in _TAKEN_FROM_US]
    if not any(e.weight > 0 for e in told):
        return False
    own = service.cores(look)
    asked = sum(
        excess for _, excess, _ in _grown(look, _strangers(look, host, "process.cpu_cores"))
    )
    asked += own[0] - own[1] if own is not None else 0.0
    if asked > 0.15 * _cores(look, host):
        return False
    text = "CPU is taken from outside (hypervisor or a limit), nobody here asks for more"
    case.add("stolen or throttled", text)
    return True


# ---------------------------------------------------------------- who takes it


def neighbour(look: Look) -> list[Case]:
    """Other processes take CPU or disk: theirs is up, own traffic is flat, the work itself takes longer."""
    if look.group.kind != "service" or not service.slow(look):
        return []
    host = look.host
    if host is None:
        return []
    others = _strangers(look, host, "process.cpu_cores")
    grown = _grown(look, others)
    case = Case("host.neighbour", grown[0][0] if grown else host)
    total = _cores(look, host)
    taken = sum(excess for _, excess, _ in grown)
    if grown and taken >= 0.15 * total:
        share = min(1.0, (1.0 + 4.0 * taken / total) / WEIGHTS["neighbour took"])
        text = f"processes outside the service took {taken:.1f} more cores; most of it "
        _blame(look, case, grown, text, share)
    elif not _disk_hog(look, case, host) and not _gpu_hog(look, case):
        case.add(
            "nobody took more", f"no process outside the service took more CPU ({taken:.2f} cores)"
        )
    traffic = service.traffic(look)
    if traffic is not None and traffic.ratio < 1.2:
        case.add("own traffic flat", f"own traffic is flat ({numbers(traffic)})", traffic)
    elif traffic is not None and traffic.deviations > 2:
        case.add("own traffic up", f"own traffic is up ({numbers(traffic)})", traffic)
    _, work = service.waiting(look)
    if work is not None and work.deviations > 3 and work.ratio > 1.3:
        case.add("work takes longer", f"the work itself takes longer ({numbers(work)})", work)
    pressure = look.measure("host.pressure_ratio", host, resource="cpu", who="some")
    if pressure is not None and pressure.deviations > 3:
        text = f"tasks wait for a CPU {numbers(pressure)} of the time"
        case.add("tasks wait", text, pressure)
    return [case]


def _blame(
    look: Look, case: Case, grown: list[tuple[Entity, float, Evidence]], text: str, share: float,
    *, reason: str = "neighbour took",
) -> None:  # fmt: skip
    first, most, found = grown[0]
    case.entity = first
    case.others = [e for e, excess, _ in grown[1:4] if excess >= 0.25 * most]
    attrs = look.world.attrs(first)
    name = attrs.get("command") or attrs.get("name", first.key)
    case.facts = {"command": name}
    weight = WEIGHTS[reason] * share
    case.logit += weight
    case.evidence.append(replace(found, text=text + _called(name), weight=weight))


def _called(command: str) -> str:
    """Return a command as people say it: without the folder of its program, which the facts keep."""
    program, _, rest = command.partition(" ")
    return f"{program.rpartition('/')[2]} {rest}".strip()


def _disk_hog(look: Look, case: Case, host: Entity) -> bool:
    """Blame a process that reads or writes so much more that a disk has become slow."""
    slow = [
        m
        for metric in _DISK
        for m in look.measure_all(look.find(metric, host))
        if m is not None and m.deviations > 6 and m.moved > 0.005
    ]
    if not slow:
        return False
    for metric in ("process.written_bytes_per_second", "process.read_bytes_per_second"):
        grown = _grown(look, _strangers(look, host, metric), least=1e6)
        if grown and grown[0][1] > 5e6:
            rate = say(sum(excess for _, excess, _ in grown), "bytes_per_second")
            word = "wrote" if "written" in metric else "read"
            _blame(
                look,
                case,
                grown,
                f"processes outside the service {word} {rate} more; most of it ",
                0.85,
            )
            case.add("disk slow", f"a disk became slow with it ({numbers(slow[0])})", slow[0])
            return True
    return False


def _gpu_hog(look: Look, case: Case) -> bool:
    """Blame a process that came to a GPU of the service, or took much more of its memory, and now it is busy.

    No source says which share of the time of a GPU each process takes; that it came then, and that the GPU became
    busy with it while we do no more than ever, is what can be seen.
    """
    for card in look.topology.related(look.group, "gpu"):
        users = [
            s for s in look.world.find("process.gpu_memory_bytes") if ("gpu", card.key) in s.labels
        ]
        here = [s for s in users if not _served(look, s.entity)]
        # who is not known to be ours may be ours all the same
        if not any(look.topology.group(s.entity) == look.group for s in users):
            continue
        busy = look.measure("gpu.utilization_ratio", card)
        if not here or busy is None or busy.now < _CROWDED or busy.deviations < 3:
            continue
        grown = _grown(look, here, least=_CAME_BYTES)
        if grown:
            most = say(grown[0][1], "bytes")
            text = f"who serves nobody came to {card.key} and took {most} of its memory: "
            _blame(look, case, grown, text, 1.0, reason="neighbour on the GPU")
            case.facts |= {"gpu": card.id}
            case.say(f"{card.key} became busy with it ({numbers(busy)})", 0.0, busy)
            return True
    return False


def _strangers(look: Look, host: Entity, metric: str) -> list[Series]:
    """Return the series of processes on the machine that are neither the service's nor ours."""
    return [s for s in _processes(look, host, metric) if look.topology.group(s.entity) == host]


def _processes(look: Look, host: Entity, metric: str) -> list[Series]:
    """Return the series of all processes on the machine but our own."""
    return [
        s
        for s in look.world.find(metric)
        if look.topology.nearest(s.entity, "host") == host
        and look.world.attrs(s.entity).get("self") != "yes"
        and look.world.get(s) is not None
    ]


def _grown(
    look: Look, series: Sequence[Series], least: float = 0.05
) -> list[tuple[Entity, float, Evidence]]:
    """Return (process, what it takes beyond its usual, numbers), largest first.

    Means over the whole incident, so that one busy second does not name anybody. Only the busiest processes are
    sampled: where one is not, it took next to nothing.
    """
    means = look.means(series) if series else None
    if means is None:
        return []
    out = [
        (s.entity, float(now - was), Evidence("", 0.0, s, float(now), float(was), look.onset))
        for s, now, was in zip(series, *means, strict=True)
        if now - was > least
    ]
    return sorted(out, key=lambda x: (-x[1], x[0]))


def _cores(look: Look, host: Entity) -> float:
    try:
        return max(1.0, float(look.world.attrs(host).get("cores", "")))
    except ValueError:
        return max(1.0, float(len(look.world.find("host.core_utilization_ratio", host))))
