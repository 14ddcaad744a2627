"""A joint detector as a benchmark sees it: rows in, p-values out, models made on the way, from the past only.

    host = build("pca", n_series=38, step_seconds=60.0)
    p = host.update(ts, values)      # (38,), NaN until there is a model

One object a host: "joint" means the series of one host. With `beside=True` it is the bank and the joint detector as
the daemon joins them (`agent/panel.py`), otherwise the joint one alone. In the daemon a worker makes the models; here
they are made in the call, after `first` rows and then every `every` rows, from at most the last `keep` rows, so
`update` takes long on those rows: count its CPU apart (`train_s`). The row itself is scored before it may become part
of any model. What is called abnormal is not learnt, by the daemon's own rule (`agent/excursions.py`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from agent import registry
from agent.errors import Refused
from agent.excursions import Excursions
from agent.panel import Panel

NAMES = ("conv", "isolation_forest", "pca", "seasonal")
SLOW = ("conv", "seasonal")

Array = npt.NDArray[np.float64]


class Host:
    """The series of one host under one joint detector.

    kind, threshold   p-values, and what counts as an alarm: so many false alarms a series and day
    row_p             p of the last row as a whole, of a detector that judges rows; else NaN
    train_s           CPU seconds of all trainings so far, and how many there were
    refused           why the last one made no model, "" = it did
    """

    kind = "pvalue"

    def __init__(
        self,
        name: str,
        n_series: int,
        step_seconds: float,
        *,
        first: int,
        every: int,
        keep: int,
        beside: bool = False,
        budget: float = 0.1,
        **own: Any,
    ) -> None:
        registry.load()
        self._cls = registry.detector.get(name)
        self._config = self._cls.Config(step_s=step_seconds, **own)
        joint = self._detector = self._cls(self._config, n_series)
        self._whole: Any = joint
        if beside:
            bank = registry.detector.get("bank")
            first_one = bank(bank.Config(step_s=step_seconds), n_series)
            self._whole = Panel(first_one, lambda _n: {name: joint}, n_series)
        self._next, self._every = first, every
        self._ts = np.zeros(keep)
        self._values = np.full((keep, n_series), np.nan, dtype=np.float32)
        self._step = step_seconds
        self._excursions = Excursions(n_series, step_seconds)
        self.rows = 0
        self.row_p = np.nan
        self.threshold = budget * step_seconds / 86_400.0
        self.train_s, self.trained = 0.0, 0
        self.refused = ""

    def update(self, ts: Any, values: Array) -> Array:
        """Return p (n,) of one row; ts seconds, one number or one for each series (the latest counts)."""
        if self.rows >= self._next:
            self._train()
            self._next += self._every
        now = float(np.max(ts))
        x = np.asarray(values, dtype=np.float64)
        p = self._whole.score(now, x)
        self.row_p = self._detector.row_p()
        with np.errstate(invalid="ignore"):
            low = p <= self.threshold
        self._excursions.warm(p, low)
        self._whole.learn(now, x, self._excursions.trust(low, self.threshold))
        at = self.rows % len(self._ts)
        self._ts[at], self._values[at] = now, x
        self.rows += 1
        return np.asarray(p)

    def carriers(self, i: int) -> tuple[int, ...]:
        """Return who was abnormal with series i in the last row."""
        return tuple(self._detector.explain(i).carriers)

    def _train(self) -> None:
        start = time.process_time()
        have = min(self.rows, len(self._ts))
        order = (np.arange(have) + (self.rows - have)) % len(self._ts)
        try:
            model = self._cls.train(self._config, *self._pieces(order))
            self._detector.take(model, np.arange(self._values.shape[1]))
            self.refused = ""
        except Refused as error:
            self.refused = str(error)
        self.train_s += time.process_time() - start
        self.trained += 1

    def _pieces(self, order: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Return as much of the past as the daemon would send: pieces, evenly spread; all of it for slow detectors."""
        past = self._detector.past()
        if len(order) > past.rows and past.step_s == self._step:
            k = max(1, past.rows // past.piece_rows)
            ends = np.linspace(past.piece_rows, len(order), k).astype(int)
            order = np.concatenate([order[end - past.piece_rows : end] for end in ends])
            order = order[np.sort(np.unique(self._ts[order], return_index=True)[1])]
        ts, values = self._ts[order], self._values[order].astype(np.float64)
        if past.step_s > self._step:
            ts, values = _means(ts, values, past.step_s)
        return ts, values


def _means(ts: Array, values: Array, step: float) -> tuple[Array, Array]:
    """Average rows over buckets of `step` seconds, as history does."""
    bucket = np.floor(ts / step)
    begin = np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))
    known = np.isfinite(values)
    total = np.add.reduceat(np.where(known, values, 0.0), begin, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return bucket[begin] * step, total / np.add.reduceat(known.astype(float), begin, axis=0)


def build(
    name: str,
    n_series: int,
    step_seconds: float,
    *,
    first: int | None = None,
    every: int | None = None,
    keep: int | None = None,
    beside: bool = False,
    budget: float = 0.1,
    **own: Any,
) -> Host:
    """Make one of `NAMES` for one host.

    first, every   rows before the first model and between two; by default 1,000 rows (seasonal: three periods and an
                   hour) and then once a day, but never under 1,000 rows; seasonal and conv, slow to train, once a week
    keep           how many rows of past it may look at; by default a week, 20,000 rows at most (seasonal: 14 days)
    beside         join it with the bank; budget   false alarms a series and day, for what is learnt
    own            settings of the detector's own Config
    """
    day = round(86_400.0 / step_seconds)
    slow = name == "seasonal"
    if first is None:
        first = 3 * day + round(3600.0 / step_seconds) + 1 if slow else 1000
    if every is None:
        every = max(7 * day if name in SLOW else day, 1000)
    if keep is None:
        keep = 14 * day if slow else min(max(7 * day, 2000), 20_000)
    return Host(
        name,
        n_series,
        step_seconds,
        first=first,
        every=every,
        keep=keep,
        beside=beside,
        budget=budget,
        **own,
    )
