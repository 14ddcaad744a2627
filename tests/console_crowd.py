"""Many: 1,000 series and 100 open incidents beside those of `desk_story`, for bench and tests of the console."""

from __future__ import annotations

import numpy as np

from agent.catalogue import SIGNALS
from agent.codec import pack
from agent.model import Anomaly, Cause, Diagnosis, Entity, Evidence, Frame, Incident, Series

SERIES, INCIDENTS = 1000, 100


def crowd(house) -> None:
    """Add 1,000 series with half an hour of past, and 100 open incidents on those of every tenth host, 5 min old."""
    hooks, now = house.story.hooks, house.story.now
    rng = np.random.default_rng(7)
    metrics = sorted(m for m in SIGNALS if m.startswith("host.") and m.endswith("_ratio"))[:10]
    table = tuple(
        sorted(
            Series(m, Entity("host", f"node-{k:03d}"))
            for k in range(SERIES // len(metrics))
            for m in metrics
        )
    )
    x = 0.4 + 0.02 * rng.standard_normal((1800, len(table)))
    x[1500:, ::10] += 0.3
    for k, row in enumerate(x):
        hooks.history.append(Frame("fleet", now - 1800 + k, table, row))
    hooks.world.take(Frame("fleet", now, table, x[-1]))
    hooks.world.now = now
    for k in range(INCIDENTS):
        s = table[10 * (k % (len(table) // 10))]
        a = Anomaly(
            s, now - 300, None, 1e-6, 1, 0.7, 0.3, 0.5, 0.2, 12.0, "calibrated", "level", k < 20
        )
        cause = Cause(
            "host.cpu",
            s.entity,
            0.8,
            (Evidence("it is busier than ever", 2.0, s, 0.7, 0.4, now - 300),),
        )
        i = Incident(
            f"inc-{k:08d}",
            now - 300 + k,
            now,
            "open",
            ("page", "warning", "note")[k % 3],
            f"Host {s.entity.key} is busy",
            (a,),
            (),
            (s.entity,),
            Diagnosis(now - 290, (cause,), (), ()),
        )
        hooks.record("incident", i.id, pack(i), now)
