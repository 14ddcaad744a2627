"""A model that was made with rows, and two versions of it that serve at once: the second one is worse."""

import numpy as np

from agent.config import WatchModels
from agent.models import ModelWatch
from agent.ports import LabelBatch, PredictionBatch


def two_versions(now: float) -> ModelWatch:
    """Return the watch of model `fraud`: versions 6 (right in .95) and 7 (a canary, in .7), and a frame at `now`."""
    random = np.random.default_rng(0)
    watch = ModelWatch(WatchModels(), lambda _m, _v: None, lambda _m: None)

    def rows(n, version, quality, start, variant=""):
        x = random.normal(size=n)
        truth = np.where(x > 0, "1", "0")
        said = np.where(random.random(n) < quality, truth, np.where(x > 0, "0", "1"))
        ids = tuple(f"{version}/{start}/{i}" for i in range(n))
        columns = {"amount": x, "country": np.array(["DE", "FR"] * n, dtype=object)[:n]}
        nan = np.full(n, np.nan)
        ts = start + np.linspace(0.0, 1.0, n)
        batch = PredictionBatch(
            "fraud", version, ts, ids, columns, said.astype(object), np.full(n, 0.9), nan, nan,
            np.full(n, 200), variant=variant,
        )  # fmt: skip
        return batch, tuple(truth.tolist())

    for version in ("6", "7"):
        watch.fit(*rows(600, version, 0.95, now - 5000.0))
    for i in range(20):
        start = now - 300.0 + 15.0 * i
        both = rows(120, "6", 0.95, start), rows(30, "7", 0.7, start, "canary")
        for batch, _ in both:
            watch.take(batch)
        for batch, truth in both:
            watch.take(LabelBatch("fraud", batch.ts, batch.ids, truth))
        watch.frame(start + 1.0)
    watch.frame(now)
    return watch
