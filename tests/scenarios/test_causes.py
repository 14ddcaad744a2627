"""A scenario for each cause kind that metrics can show, each beside a near miss: a similar picture of another cause.

The right kind on the right entity must come first in both, so that a rule that always says its own fails at the twin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from made_up import (
    ACC,
    AGAIN,
    AGE,
    APART,
    BACKUP,
    BATCH,
    BLIND,
    BRAKE,
    BROKEN,
    BUSY,
    CALM,
    CAP,
    CLEANUP,
    CLOCK,
    CONTAINED,
    CORES,
    COUNT,
    COVERAGE,
    CPU,
    DB,
    DELAY,
    DISK,
    DISK_BUSY,
    DRIFTED,
    DRIVER,
    ECC,
    ERRORS,
    EYES,
    FAR,
    FEATURES,
    FILES,
    GPUS,
    HERE,
    HOLDS,
    HOST,
    HOT,
    INPUT_PSI,
    KERNEL,
    KILLS,
    LABELS,
    LATE,
    LINK,
    MASTER,
    MEMORY,
    MISSED,
    MIX_PSI,
    MODEL,
    NVLINKS,
    ONSET,
    P50,
    P95,
    PREDICTED,
    PSI,
    QUEUE,
    RELATION,
    REPLICA_P95,
    REPLICAS,
    RESTARTS,
    RPS,
    SHOP,
    SHORT,
    SLOW,
    STEAL,
    STORE,
    STORE_P95,
    STORE_UP,
    STORE_WORK,
    SWAP,
    TEMP,
    THROTTLED,
    UP,
    USED,
    WAIT_CPU,
    WAIT_IO,
    WAIT_MEMORY,
    WATTS,
    WORK,
    WRITES,
    WRITTEN,
    WRONG,
    Level,
    Picture,
    play,
    renamed,
)  # fmt: skip

from agent.causes import CAUSES
from agent.model import Change, Edge, Entity, Series

pytestmark = pytest.mark.long

During = Mapping[Series, Level]

WORN: During = {**SLOW, WORK: 0.04}
"""Slow, because the work itself takes longer."""
NEIGHBOUR: During = {**WORN, CORES[BATCH]: 2.9, CPU: 0.97, WAIT_CPU: 0.7}
SURGE: During = {
    **SLOW,
    P50: 0.4,
    RPS: 105.0,
    CORES[MASTER]: 1.2,
    CPU: 0.5,
    QUEUE: 40.0,
    BUSY: 0.98,
}
HEAVIER: During = {
    **WORN,
    CORES[MASTER]: 1.6,
    CPU: 0.6,
    INPUT_PSI: 0.6,
    PSI[0]: 0.6,
    PSI[1]: 0.4,
    DRIFTED[0]: 1.0,
    DRIFTED[1]: 1.0,
}
POOR: During = {ACC: 0.72}
MOVED: During = {
    ACC: 0.8,
    MIX_PSI: 0.3,
    INPUT_PSI: 0.8,
    **dict.fromkeys(PSI[:5], 0.8),
    **dict.fromkeys(DRIFTED[:5], 1.0),
}
STUCK = {f: {"broken": "stuck"} for f in FEATURES[:4]}


def change(kind: Any, entity: Entity, ago: float = 6.0, by: str = "ci") -> Change:
    return Change(ONSET - ago, entity, kind, "3", "4", by=by)


def pic(kind: str, entity: Entity, during: During, **kw: Any) -> Picture:
    return Picture(kind, entity, during, **kw)


ON_GPU = tuple(Edge("runs_on", p, GPUS[1]) for p in (MASTER, BATCH))
RELEASED = pic("release.code", SHOP, WORN, changes=[change("release", SHOP)])
PAIRS: dict[str, tuple[Picture, Picture]] = {
    "GPU memory fails; not: it is slow and no error is told": (
        pic("hardware.gpu.memory", GPUS[1], {**WORN, ECC[1]: 0.5}),
        pic("hardware.gpu.slow", GPUS[1], {**WORN, CLOCK[1]: 0.5}),
    ),
    "GPU too hot; not: as slow by the power brake": (
        pic("hardware.gpu.thermal", GPUS[1], {**WORN, HOT[1]: 1.0, TEMP[1]: 92.0, CLOCK[1]: 0.55}),
        pic("hardware.gpu.power", GPUS[1], {**WORN, BRAKE[1]: 1.0, CLOCK[1]: 0.55}),
    ),
    "GPU held back by power; not: all at their cap under load, which is no fault": (
        pic("hardware.gpu.power", GPUS[2], {**WORN, BRAKE[2]: 1.0, CLOCK[2]: 0.5, CAP[2]: 1.0}),
        pic("host.neighbour", BATCH, {**NEIGHBOUR, **dict.fromkeys(CAP, 1.0)}),
    ),
    "GPU link down-trained under load; not: of an idle GPU": (
        pic("hardware.gpu.link", GPUS[0], {**WORN, LINK[0]: 0.25}),
        pic("host.neighbour", BATCH, {**NEIGHBOUR, LINK[0]: 0.25, USED[0]: 0.01, CLOCK[0]: 0.2}),
    ),
    "GPU off the bus; not: we do not see the GPUs": (
        pic("hardware.gpu.lost", GPUS[3], {**WORN, HERE[3]: 0.0, ERRORS: 0.2}),
        pic("observer.blind", EYES[2], {BLIND[2]: 1.0}, gone=frozenset([*HERE, *CLOCK, *TEMP])),
    ),
    "the driver of the GPUs does not answer; not: it does, and work hangs on one of them": (
        pic("hardware.gpu.lost", HOST, {**WORN, **dict.fromkeys(HERE, 0.0), DRIVER: 0.0}),
        pic("serving.crash", SHOP, {**SLOW, RPS: 1.0, QUEUE: 80.0, USED[1]: 1.0, WATTS[1]: 90.0}),
    ),
    "an NVLink is down; not: an XID 45, as job cleanups leave it by the thousand": (
        pic("hardware.gpu.link", GPUS[1], {**WORN, NVLINKS[1]: 16.0}),
        pic("unknown", SHOP, {ERRORS: 0.3, CLEANUP[1]: 1.0}),
    ),
    "a memory error that was contained; not: busy with little power, as work hangs": (
        pic("hardware.gpu.memory", GPUS[1], {ERRORS: 0.2, CONTAINED[1]: 1.0}),
        pic("serving.crash", SHOP, {**SLOW, RPS: 1.0, QUEUE: 80.0, USED[2]: 1.0, WATTS[2]: 80.0}),
    ),
    "open files are used up; not: more of them than ever, far from the limit": (
        pic("host.exhausted", HOST, {ERRORS: 0.3, FILES: 0.99}),
        pic("unknown", SHOP, {ERRORS: 0.3, FILES: 0.5}),
    ),
    "one GPU behind its peers; not: it is idle and clocks down": (
        pic("hardware.gpu.slow", GPUS[1], {**WORN, CLOCK[1]: 0.45}),
        pic("serving.saturation", SHOP, {**SURGE, CLOCK[1]: 0.2, USED[1]: 0.01}),
    ),
    "CPU stolen by the hypervisor; not: taken by a neighbour": (
        pic("host.cpu", HOST, {**WORN, STEAL: 0.5, CPU: 0.97, WAIT_CPU: 0.7}),
        pic("host.neighbour", BATCH, NEIGHBOUR),
    ),
    "a limit throttles us; not: because a neighbour in the same container takes all": (
        pic("host.cpu", HOST, {**WORN, THROTTLED: 0.6, WAIT_CPU: 0.5}),
        pic("host.neighbour", BATCH, {**NEIGHBOUR, THROTTLED: 0.6}),
    ),
    "out of memory, workers are killed; not: workers crash with memory to spare": (
        pic("host.memory", HOST, {
            **SLOW, MEMORY: 0.985, SWAP: 0.7, WAIT_MEMORY: 0.4, KILLS: 0.5, COUNT: 2.0, UP: 0.0, ERRORS: 0.3,
        }),
        pic("serving.crash", SHOP, {**SLOW, COUNT: 1.0, UP: 0.0, ERRORS: 0.5}),
    ),
    "the kernel killed a process of the service's machine; not: a program crashed by itself": (
        pic("host.memory", HOST, {ERRORS: 0.3, KERNEL["oom_kill"]: 1.0}),
        pic("unknown", SHOP, {ERRORS: 0.31, KERNEL["segfault"]: 1.0}),
    ),
    "a file system turned read-only; not: memory of the machine fails": (
        pic("host.disk", HOST, {ERRORS: 0.3, KERNEL["read_only"]: 1.0}),
        pic("hardware.host", HOST, {ERRORS: 0.3, KERNEL["memory_error"]: 1.0}),
    ),
    "disk full; not: a backup writes and makes it slow": (
        pic("host.disk", HOST, {ERRORS: 0.3, DISK: 0.995}),
        pic("host.neighbour", BACKUP, {
            **WORN, WRITTEN[BACKUP]: 2e8, WRITES: 0.08, DISK_BUSY: 0.99, WAIT_IO: 0.5,
        }),
    ),
    "callers wait, the work is as quick as ever, segments are sent again; not: they wait in a queue": (
        pic("host.network", HOST, {**SLOW, P50: 0.2, AGAIN: 40.0}),
        pic("serving.saturation", SHOP, SURGE),
    ),
    "a neighbour takes the CPU; not: own requests have become heavier": (
        pic("host.neighbour", BATCH, NEIGHBOUR),
        pic("serving.traffic", SHOP, HEAVIER),
    ),
    "a surge; not: a neighbour on a day with a little more traffic": (
        pic("serving.saturation", SHOP, SURGE),
        pic("host.neighbour", BATCH, {**NEIGHBOUR, RPS: 46.0}),
    ),
    "it hangs: nothing comes through, connections wait; not: what it calls is down": (
        pic("serving.crash", SHOP, {**SLOW, RPS: 1.0, QUEUE: 80.0, CORES[MASTER]: 0.0}),
        pic("serving.dependency", STORE, {**SLOW, RPS: 12.0, STORE_UP: 0.0, ERRORS: 0.4}),
    ),
    "it restarts by itself; not: because somebody released": (
        pic("serving.crash", SHOP, {ERRORS: 0.4, AGE: lambda t: t, COUNT: 3.0}),
        pic("release.code", SHOP, {ERRORS: 0.4, AGE: lambda t: t}, changes=[change("release", SHOP)]),
    ),
    "it restarts by itself; not: we restarted it": (
        pic("serving.crash", SHOP, {ERRORS: 0.4, AGE: lambda t: t, COUNT: 3.0}),
        pic("unknown", SHOP, {ERRORS: 0.4, AGE: lambda t: t}, changes=[change("restart", SHOP, by="homeostat:run-1")]),
    ),
    "a replica starts again and again, as its cluster says; not: since a release, which comes first": (
        pic("serving.crash", SHOP, {ERRORS: 0.3, RESTARTS[1]: 0.05}),
        pic("release.code", SHOP, {ERRORS: 0.3, RESTARTS[1]: 0.05}, changes=[change("release", SHOP)]),
    ),
    "a stranger came to the GPU of the service; not: it came while traffic surged": (
        pic("host.neighbour", BATCH, {**WORN, HOLDS[BATCH]: 4e10, USED[1]: 1.0}, edges=ON_GPU),
        pic("serving.saturation", SHOP, {**SURGE, HOLDS[BATCH]: 4e10, USED[1]: 1.0}, edges=ON_GPU),
    ),
    "one replica apart from its peers; not: all of them, after a release": (
        pic("serving.crash", REPLICAS[2], {P95: 0.5, REPLICA_P95[2]: 2.0}),
        RELEASED,
    ),
    "one replica apart after a release of all; not: all slow with no release and a slow callee": (
        pic("serving.crash", REPLICAS[1], {P95: 0.5, REPLICA_P95[1]: 2.0}, changes=[change("release", SHOP)]),
        pic("serving.dependency", STORE, {**SLOW, P50: 0.3, STORE_P95: 0.5, STORE_WORK: 0.3}),
    ),
    "a callee is slow; not: it is as quick as ever and the way to us is not": (
        pic("serving.dependency", STORE, {**SLOW, P50: 0.3, STORE_P95: 0.5, STORE_WORK: 0.3}),
        pic("host.network", HOST, {**SLOW, P50: 0.3, AGAIN: 25.0}),
    ),
    "the network at a callee: its callers wait, its work is as quick as ever; not: its work is slow": (
        pic("host.network", FAR, {**SLOW, P50: 0.3, STORE_P95: 0.5}),
        pic("serving.dependency", STORE, {**WORN, P50: 0.3, STORE_P95: 0.5, STORE_WORK: 0.4}),
    ),
    "heavier requests; not: a release that makes them heavier": (
        pic("serving.traffic", SHOP, HEAVIER),
        pic("release.code", SHOP, HEAVIER, changes=[change("release", SHOP)]),
    ),
    "a release; not: one that came long after the trouble had begun": (
        RELEASED,
        pic("host.neighbour", BATCH, NEIGHBOUR, changes=[change("release", SHOP, ago=-45.0)]),
    ),
    "a configuration change; not: a release of code": (
        pic("release.config", SHOP, WORN, changes=[change("config", SHOP, by="ann")]),
        RELEASED,
    ),
    "a release before a fault; not: a restart by our own act": (
        RELEASED,
        pic("host.neighbour", BATCH, NEIGHBOUR, changes=[change("release", SHOP, by="homeostat:run-1")]),
    ),
    "a worse model version; not: the world has changed": (
        pic("release.model", MODEL, {**POOR, MIX_PSI: 0.3}, changes=[change("release", MODEL)]),
        pic("concept.drift", MODEL, {**POOR, MIX_PSI: 0.03}),
    ),
    "a feature broke its contract; not: many have drifted": (
        pic("data.contract", FEATURES[0], {
            ACC: 0.6, MIX_PSI: 1.2, PSI[0]: 6.0, BROKEN[0]: 1.0, INPUT_PSI: 6.0,
        }, attrs={FEATURES[0]: {"broken": "scale x0.01"}}),
        pic("data.drift", MODEL, MOVED),
    ),
    "a broken contract with a drift beside it; not: a release of a model": (
        pic("data.contract", FEATURES[0], {**MOVED, PSI[0]: 6.0, BROKEN[0]: 1.0},
            attrs={FEATURES[0]: {"broken": "scale x0.01"}}),
        pic("release.model", MODEL, {**POOR, MIX_PSI: 0.4}, changes=[change("release", MODEL)]),
    ),
    "features stand still together; not: a single one does": (
        pic("data.stale", MODEL, {
            ACC: 0.7, **dict.fromkeys(PSI[:4], 3.0), **dict.fromkeys(BROKEN[:4], 1.0), INPUT_PSI: 3.0,
        }, attrs=STUCK),
        pic("data.contract", FEATURES[0], {ACC: 0.7, PSI[0]: 3.0, BROKEN[0]: 1.0, INPUT_PSI: 3.0},
            attrs={FEATURES[0]: {"broken": "stuck"}}),
    ),
    "inputs have drifted; not: only the mix of classes has moved": (
        pic("data.drift", MODEL, MOVED),
        pic("data.prior", MODEL, {
            ACC: 0.86, LABELS: 0.85, PREDICTED: 0.8, MIX_PSI: 0.3, INPUT_PSI: 0.3, PSI[0]: 0.3, PSI[1]: 0.28,
            DRIFTED[0]: 1.0, DRIFTED[1]: 1.0,
        }),
    ),
    "inputs have drifted, labels and predictions with them; not: only the mix of classes has moved": (
        pic("data.drift", MODEL, {**MOVED, LABELS: 0.85, PREDICTED: 0.8}),
        pic("data.prior", MODEL, {ACC: 0.86, LABELS: 0.85, PREDICTED: 0.8, PSI[0]: 0.3, DRIFTED[0]: 1.0}),
    ),
    "inputs have drifted; not: a large index of few rows that proves nothing": (
        pic("data.drift", MODEL, {**POOR, INPUT_PSI: 0.2, PSI[0]: 0.2, DRIFTED[0]: 1.0}),
        pic("concept.drift", MODEL, {**POOR, INPUT_PSI: 0.5, PSI[0]: 0.5}),
    ),
    "inputs have drifted and nobody is hurt; not: a slow service of which that is no reason": (
        pic("data.drift", MODEL, {INPUT_PSI: 0.2, PSI[0]: 0.2, DRIFTED[0]: 1.0}),
        pic("host.neighbour", BATCH, {**NEIGHBOUR, DRIFTED[0]: 1.0}),
    ),
    "one replica answers otherwise; not: it is its GPU that fails": (
        pic("serving.crash", REPLICAS[1], {APART[1]: 1.0, ACC: 0.85, RELATION: 1.0}),
        pic("hardware.gpu.memory", GPUS[1], {APART[1]: 1.0, ACC: 0.85, RELATION: 1.0, ECC[1]: 0.5},
            edges=[Edge("runs_on", REPLICAS[1], GPUS[1])]),
    ),
    "a batch run did not come; not: it came and is short": (
        pic("data.stale", MODEL, {MISSED: 1.0}),
        pic("data.contract", MODEL, {SHORT: 1.0}),
    ),
    "another mix of classes; not: labels that have become all of one class": (
        pic("data.prior", MODEL, {ACC: 0.87, LABELS: 0.85, PREDICTED: 0.8, MIX_PSI: 0.28}),
        pic("label.bad", MODEL, {ACC: 0.6, LABELS: 0.995, WRONG: 1.0}),
    ),
    "labels are wrong; not: the relation has changed, and the mix of labels with it": (
        pic("label.bad", MODEL, {ACC: 0.58, LABELS: 0.999, RELATION: 1.0, WRONG: 1.0}),
        pic("concept.drift", MODEL, {**POOR, LABELS: 0.45, RELATION: 1.0}),
    ),
    "the relation has changed; not: the same while a GPU corrupts": (
        pic("concept.drift", MODEL, POOR),
        pic("hardware.gpu.memory", GPUS[0], {**POOR, ECC[0]: 0.5}),
    ),
    "labels are late; not: we do not see labels at all": (
        pic("label.late", MODEL, {COVERAGE: 0.1, DELAY: 300.0, LATE: 1.0}),
        pic("observer.blind", EYES[1], {BLIND[1]: 1.0}, gone=frozenset([COVERAGE, DELAY, ACC])),
    ),
    "a source does not answer; not: a GPU does not": (
        pic("observer.blind", EYES[3], {BLIND[3]: 1.0}),
        pic("hardware.gpu.lost", GPUS[0], {HERE[0]: 0.0}),
    ),
    "requests fail and no metric says why; not: with most replicas gone": (
        pic("unknown", SHOP, {ERRORS: 0.3}),
        pic("serving.crash", SHOP, {ERRORS: 0.3, COUNT: 1.0}),
    ),
}  # fmt: skip
PICTURES = [
    (f"{name} [{side}]", p)
    for name, pair in PAIRS.items()
    for side, p in zip(("first", "twin"), pair, strict=True)
]


@pytest.mark.parametrize("picture", [p for _, p in PICTURES], ids=[n for n, _ in PICTURES])
def test_the_right_kind_on_the_right_entity_comes_first(picture, tmp_path):
    played = play(picture, tmp_path, seed=len(picture.kind))
    diagnosis = played.incident.diagnosis
    assert diagnosis is not None
    top = diagnosis.top
    said = [
        (c.kind, c.entity.id, c.probability, [(round(e.weight, 2), e.text) for e in c.evidence])
        for c in (*diagnosis.causes, *diagnosis.rejected)
    ]
    assert (top.kind, top.entity) == (picture.kind, picture.entity), said
    if picture.kind != "unknown":
        assert top.probability > 0.5, said
        assert all(e.text for e in top.evidence)
        assert max(e.weight for e in top.evidence) > 0
    assert all(e.evidence for e in diagnosis.rejected), said


def test_every_kind_has_a_scenario_and_every_pair_is_of_two_causes():
    assert {p.kind for _, p in PICTURES} == set(CAUSES)
    for name, (first, twin) in PAIRS.items():
        assert (first.kind, first.entity) != (twin.kind, twin.entity), name
        assert set(first.during) | set(twin.during) <= set(CALM), name


NAMES = {
    "h": "zz-9", "far": "aa-1", "shop": "q", "store": "zzz", "db:5432": "a:1", "fraud": "m0", "GPU-1": "A",
}  # fmt: skip
ALIKE = (
    "serving.dependency", "host.neighbour", "data.contract", "hardware.gpu.slow", "release.code",
)  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_what_things_are_called_decides_nothing(kind, tmp_path):
    picture = renamed(next(p for _, p in PICTURES if p.kind == kind), NAMES)
    assert not {"service:shop", "host:h"} & {s.entity.id for s in picture.during}
    top = play(picture, tmp_path, seed=len(kind)).incident.diagnosis.top
    assert (top.kind, top.entity) == (kind, picture.entity)


def test_without_metric_evidence_it_says_whose_logs_to_read(tmp_path):
    (unknown,) = [p for _, p in PICTURES if set(p.during) == {ERRORS} and p.kind == "unknown"]
    diagnosis = play(unknown, tmp_path).incident.diagnosis
    assert diagnosis.low_confidence
    assert diagnosis.logs_of == (SHOP, DB, STORE)
