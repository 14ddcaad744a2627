"""The shipped defaults, as outside scorers want to hold them; nothing here is tuned, and nothing learns from labels.

    detect(n_series, step_seconds, budget=0.1)    .update(ts (n,), values (n,)) -> rates (n,), .kind, .threshold
    host_view(n_series, step_seconds)             .update(ts, rates (n,)) -> rate of the host
    rank(frame, inject_time, graph, target)       names of columns, the likeliest root cause first
    drift(feature_names, task)                    .fit_reference(X, y, pred, proba), .update(batch) -> what it found

`detect` does what the daemon does with a source: score a row, name what is rarer than the budget allows, and learn
the row except where an excursion is going on. `budget` is false alarms a series and day. What it returns is the
p-value of a row over the step: excursions a second, so that one threshold holds for series of every step.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

ROOT: Final = Path(__file__).resolve().parents[2]
# A scorer imports this file from wherever it runs; and beside it `agent.py`, a benchmark, would hide the package.
sys.path.insert(0, str(ROOT))

import detectors as _detectors  # noqa: E402, F401  importing it registers what is shipped
from agent import registry  # noqa: E402
from agent.budget import Promise  # noqa: E402
from agent.config import Budget, WatchModels  # noqa: E402
from agent.excursions import Excursions  # noqa: E402
from agent.intervals import wilson  # noqa: E402
from agent.models import ModelWatch  # noqa: E402
from agent.models.cause import blame  # noqa: E402
from agent.ports import LabelBatch, PredictionBatch  # noqa: E402
from agent.rca.flow import Symptom  # noqa: E402
from agent.rca.kinds import Columns, group_of, kind_of  # noqa: E402
from agent.rca.rank import Ranking  # noqa: E402
from agent.rca.rank import rank as rank_columns  # noqa: E402

Array = npt.NDArray[Any]

DETECTOR: Final = "bank"
"""The one that the daemon makes for every source."""
BUDGET: Final = Promise.of(Budget()).anomalies_per_series_day


def detect(n_series: int, step_seconds: float, budget: float = BUDGET) -> Detect:
    """Make the daemon's detector for so many series of one step."""
    return Detect(n_series, step_seconds, budget)


class Detect:
    """The daemon's detector with the daemon's rule for what it learns, columnar and without incidents."""

    kind = "pvalue"

    def __init__(self, n: int, step_s: float, budget: float) -> None:
        cls = registry.detector.get(DETECTOR)
        self.detector = cls(cls.Config(step_s=step_s), n)
        self.threshold = budget / 86_400
        self._step_s = step_s
        self._set_clock = getattr(self.detector, "set_clock", None)
        self._clock = _Clock(step_s, n)
        self._excursions = Excursions(n, step_s)

    def update(self, ts: Array, values: Array) -> Array:
        """Score a row, then learn from it; ts (n,) may differ from series to series."""
        now = self._clock.tick(ts)
        if self._set_clock is not None and self._clock.moved:
            self._set_clock(self._clock.offsets_s)
        rate: Array = self.detector.score(now, values) / self._step_s
        with np.errstate(invalid="ignore"):
            low = rate <= self.threshold
        self._excursions.warm(rate, low)
        trust = self._excursions.trust(low, self.threshold * self._step_s)
        self.detector.learn(now, values, trust)
        return rate


def host_view(n_series: int, step_seconds: float) -> Host:
    """Make the daemon's group view for one host."""
    return Host(n_series, step_seconds)


class Host:
    """The group view with the daemon's rule for what it learns."""

    def __init__(self, n: int, step_s: float) -> None:
        cls = registry.view.get("together")
        self._view = cls(cls.Config(step_s=step_s), np.zeros(n, dtype=np.int64))
        self._step_s = step_s
        self._excursions = Excursions(1, step_s)
        self.threshold = Promise.of(Budget()).notes_per_day / 86_400

    def update(self, ts: float, rates: Array) -> float:
        """Combine a row of rates (n,), as `detect` gives them; then learn from it."""
        p = np.minimum(rates * self._step_s, 1.0)
        rate = self._view.score(ts, p) / self._step_s
        with np.errstate(invalid="ignore"):
            low = rate <= self.threshold
        self._excursions.warm(rate, low)
        self._view.learn(ts, p, self._excursions.trust(low, self.threshold * self._step_s))
        return float(rate[0])


class _Clock:
    """One clock for series whose clocks differ: it goes on by what most of them go on by.

    A gap or a repeated hour in one file is then none for the others. `offsets_s` (n,) are the seconds to add for the
    time of day of each series; `moved` says that the last tick changed them.
    """

    def __init__(self, step_s: float, n: int) -> None:
        self.step_s = step_s
        self.now = np.nan
        self.offsets_s = np.zeros(n)
        self.moved = False
        self._last = np.full(n, np.nan)

    def tick(self, ts: Array) -> float:
        known = np.isfinite(ts)
        if not known.any():
            self.now += self.step_s
            self.moved = False
            return self.now
        if np.isnan(self.now):
            self.now = float(ts[known][0])
        else:
            went = ts - self._last
            first = went[0]
            if not (went == first).all():
                went = went[np.isfinite(went)]
                first = np.median(went) if len(went) else self.step_s
            self.now += float(first)
        offsets = np.where(known, ts - self.now, self.offsets_s)
        self._last = np.where(known, ts, self._last + self.step_s)
        self.moved = not np.array_equal(offsets, self.offsets_s)
        self.offsets_s = offsets
        return self.now


def rank(
    frame: Any, inject_time: float, graph: Any = None, target: dict[str, str] | None = None
) -> list[str]:
    """Rank the columns of a table, root cause first; services come in the order of their best columns.

    frame        a pandas DataFrame with `time` (epoch seconds) and columns SERVICE_METRIC (no underscore in METRIC)
    inject_time  rows from it on are the incident
    graph        pairs of caller and callee, or None
    target       {"service", "metric"} of the symptom that alerted, or None
    """
    names = [name for name in frame.columns if name != "time"]
    values = np.column_stack([frame[name].to_numpy(dtype=float) for name in names])
    return suspects(
        frame["time"].to_numpy(dtype=float), names, values, inject_time, graph, target
    ).columns


def _split(name: str) -> tuple[str, str]:
    """Service and metric of a column; a name without underscore is a service whose metric is not told."""
    service, _, metric = name.rpartition("_")
    return (service, metric) if service else (name, "")


@dataclass(frozen=True, slots=True)
class Suspects:
    """Names of services and columns, likeliest first, with the ranking they come from."""

    services: list[str]
    columns: list[str]
    ranking: Ranking


def suspects(
    times: Array, names: Sequence[str], values: Array, at: float, graph: Any = None,
    target: dict[str, str] | None = None,
) -> Suspects:  # fmt: skip
    """Rank columns that are named SERVICE_METRIC; services of the graph without columns may be suspected too."""
    parts = [_split(name) for name in names]
    edges = [(str(a), str(b)) for a, b in graph or ()]
    services = sorted({service for service, _ in parts} | {end for edge in edges for end in edge})
    number = {service: i for i, service in enumerate(services)}
    groups = {g: i for i, g in enumerate(sorted({group_of(metric) for _, metric in parts}))}
    symptom = None
    if target and target["service"] in number:
        metric = target["metric"].rpartition("_")[2]
        group = groups.get(group_of(metric), -1)
        symptom = Symptom(number[target["service"]], group, kind_of(metric))
    if (np.diff(times) < 0).any():
        ordered = np.argsort(times, kind="stable")
        times, values = times[ordered], values[ordered]
    ranking = rank_columns(
        times,
        values,
        Columns(
            np.array([number[service] for service, _ in parts], dtype=np.int64),
            np.array([kind_of(metric) for _, metric in parts], dtype=np.int64),
            np.array([groups[group_of(metric)] for _, metric in parts], dtype=np.int64),
        ),
        at,
        entities=len(services),
        edges=np.array([(number[a], number[b]) for a, b in edges], dtype=np.int64).reshape(-1, 2),
        symptom=symptom,
    )
    return Suspects(
        [services[i] for i in ranking.entities], [names[j] for j in ranking.columns], ranking
    )


# ---------------------------------------------------------------- drift

ROW_S: Final = 0.3
"""Rows that come without a time are three a second: a thousand make the window of the daemon."""
BATCH_S: Final = 60.0
"""A batch spans no more, as rows further ahead of the last tick of the daemon are garbage to it."""
CAUSES: Final = ("infra", "deploy", "pipeline", "data", "label", "concept")


def drift(feature_names: Sequence[str], task: str, batch_s: float = BATCH_S) -> Drift:
    """Make what watches one model; a name that starts with `c_` is a category, its values are codes.

    batch_s   seconds that a batch spans, at the most
    """
    return Drift(feature_names, task, batch_s)


def _no_reference(_model: str, _version: str) -> None:
    return None


def _nobody(_model: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Logged:
    """A batch as it was logged; labels that came with it, and late ones, in the order of their rows; None = none."""

    rows: PredictionBatch
    latency_ms: Array
    served: Array
    labels: tuple[Any, ...] | None
    late: tuple[Any, ...] | None


class Drift:
    """The daemon's watch of one model, batch by batch: what `ModelWatch` keeps, and what `blame` makes of it."""

    def __init__(self, feature_names: Sequence[str], task: str, batch_s: float) -> None:
        self._names = [str(name) for name in feature_names]
        self._batch_s = batch_s
        self._task = task
        self._watch = ModelWatch(WatchModels(), _no_reference, _nobody)
        self._on: dict[tuple[str, str], int] = {}
        self._requests = _Requests()
        self._rows = 0
        self._late = 0
        self._now = 0.0
        self._reference: PredictionBatch | None = None
        self._truth: list[Any] = []

    def fit_reference(self, X: Array, y: Array, pred: Array, proba: Array) -> None:  # noqa: N803
        """Learn from reference rows: X (n, d) float64, NaN = missing; the others (n,)."""
        n = len(y)
        self._reference = self._batch(np.arange(n) * ROW_S - n * ROW_S, X, pred, proba, "")
        self._truth = self._words(y)

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take a batch and say what is known: see the scorers for its keys."""
        return self.take(self.as_logged(batch))

    def as_logged(self, batch: dict[str, Any]) -> Logged:
        """Return a batch as the daemon gets it from whoever reads logs: text where the service logs text."""
        served = np.asarray(batch["served"], dtype=bool)
        late = batch.get("late")
        n = len(batch["pred"])
        rows = self._batch(np.zeros(n), batch["X"], batch["pred"], batch["proba"], str(batch["version"]))  # fmt: skip
        return Logged(
            replace(rows, status=np.where(served, 200, 503)), batch["latency_ms"], served,
            None if batch["y"] is None else tuple(self._words(batch["y"])),
            None if late is None else tuple(self._words(late["y"])),
        )  # fmt: skip

    def take(self, logged: Logged) -> dict[str, Any]:
        """Count rows and say what is known."""
        rows, start = logged.rows, self._rows
        n = len(rows.ts)
        if self._reference is not None:
            self._watch.fit(replace(self._reference, version=rows.version), self._truth)
            self._reference, self._truth = None, []
        ids = tuple(map(str, range(start, start + n)))
        ts = self._now + (1 + np.arange(n)) * min(ROW_S, self._batch_s / n)
        self._rows += n
        self._now = float(ts[-1])
        self._requests.take(logged.latency_ms, logged.served)
        self._watch.take(replace(rows, ts=ts, ids=ids))
        if logged.labels is not None:
            self._label(ids, logged.labels)
        if logged.late is not None:
            k = len(logged.late)
            self._label(tuple(map(str, range(self._late, self._late + k))), logged.late)
            self._late += k
        self._watch.frame(self._now)
        return self._said()

    def state_bytes(self) -> int:
        """Return how much is kept of the version, across restarts of the daemon, too."""
        return self._watch.state_bytes(MODEL)

    def _said(self) -> dict[str, Any]:
        facts = self._watch.facts(MODEL)
        if facts is None:
            return {"drifted": False}
        found = blame(facts, self._now, RELEASE_ROWS * ROW_S)
        infra = self._requests.score()
        score = max([infra, *(one.evidence for one in found)])
        features = dict(self._watch.evidence(MODEL))
        for one in found:
            features |= {
                name: max(features.get(name, 0.0), one.evidence) + 1.0 for name in one.features
            }
        cause = "infra" if infra >= 0 else CAUSE[found[0].cause] if found else None
        keys = {
            (one.cause, name)
            for one in found
            # what labels say is one alarm, whatever slice leads; columns have one each
            for name in (one.features if one.cause.startswith("data.") else ()) or ("",)
        }
        keys |= {("infra", "")} if infra >= 0 else set()
        # what goes on, or comes back within a thousand rows, is the same trouble: it alarms once
        new = any(self._rows - self._on.get(key, -SAME_ROWS) >= SAME_ROWS for key in keys)
        self._on |= dict.fromkeys(keys, self._rows)
        if (
            not found
        ):  # below what is enough, too: subjects are compared at equal rates of false alarms
            score = max([score, facts.judged.evidence, *features.values()])
        out: dict[str, Any] = {
            "drifted": new, "cause": cause if new else None, "features": features,
            "score": score if new or not keys else -math.inf,
        }  # fmt: skip
        expected = facts.judged.expected
        if not math.isnan(expected.value):
            out |= {"accuracy": expected.value, "accuracy_lo": expected.low, "accuracy_hi": expected.high}  # fmt: skip
        return out

    def _label(self, ids: tuple[str, ...], words: tuple[Any, ...]) -> None:
        self._watch.take(LabelBatch(MODEL, np.full(len(ids), self._now), ids, words))

    def _words(self, y: Array) -> list[Any]:
        if self._task == "regression":
            return list(np.asarray(y, dtype=float).tolist())
        return [f"{v:g}" for v in np.asarray(y, dtype=float).tolist()]

    def _batch(
        self, ts: Array, x: Array, pred: Array, proba: Array, version: str
    ) -> PredictionBatch:
        n = len(ts)
        sure = np.asarray(proba, dtype=float)
        if self._task == "binary":
            sure = np.where(np.asarray(pred) == 1, sure, 1.0 - sure)
        said = (
            np.asarray(pred, dtype=float)
            if self._task == "regression"
            else np.array(self._words(pred), dtype=object)
        )
        columns = {
            name: _words(x[:, i]) if name.startswith("c_") else np.ascontiguousarray(x[:, i])
            for i, name in enumerate(self._names)
        }
        nan = np.full(n, np.nan)
        return PredictionBatch(
            MODEL, version, ts, ("",) * n, columns, said, sure, nan, nan, np.full(n, 200)
        )


MODEL: Final = "watched"
SAME_ROWS: Final = 1000
RELEASE_ROWS: Final = 5000
"""Rows for which a release is the first suspect."""
CAUSE: Final = {
    "data.contract": "pipeline", "data.stale": "pipeline", "data.drift": "data", "data.prior": "data",
    "release.model": "deploy", "concept.drift": "concept", "label.bad": "label",
    "serving.crash": "infra",
}  # fmt: skip
"""Our causes in the words of the scorers."""


def _words(codes: Array) -> Array:
    """Codes of a category as a service logs them: texts, None = missing."""
    values, at = np.unique(codes, return_inverse=True)
    said = [None if math.isnan(v) else f"v{v:g}" for v in values.tolist()]
    words: Array = np.array(said, dtype=object)[at.reshape(-1)]
    return words


class _Requests:
    """Whether requests fail, or take longer than the first thousand did."""

    def __init__(self) -> None:
        self._seen: list[Array] = []
        self._usual: tuple[float, float] | None = None
        self._fast = np.zeros(3)  # requests, failed, sum of log latency; half-life 64 rows

    def take(self, latency_ms: Array, served: Array) -> None:
        logs = np.log(np.maximum(latency_ms, 1e-3))
        if self._usual is None:
            self._seen.append(logs)
            first = np.concatenate(self._seen)
            if len(first) < 1000:
                return
            self._usual, self._seen = (float(first.mean()), float(first.std())), []
        fade = 0.5 ** (len(logs) / 64)
        self._fast = self._fast * fade + (len(logs), np.count_nonzero(~served), logs.sum())

    def score(self) -> float:
        n, failed, logs = self._fast.tolist()
        if self._usual is None or n < 30:
            return -math.inf
        middle, spread = self._usual
        slower = logs / n - middle
        z = slower / (max(spread, 1e-3) / math.sqrt(n))
        slow = z - 8.0 if slower > math.log(1.3) else -math.inf
        low, _ = wilson(failed, n, 4.0)
        return max(slow, 1.0 if low > 0.01 else -math.inf)
