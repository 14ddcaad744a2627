"""What other packages say of prediction streams: River, NannyML and Evidently, each in an environment of its own.

    build/rivals/bin/python tests/bench/drift_rivals.py adwin_columns < tasks.jsonl     a trace a line
    build/nannyml/bin/python tests/bench/drift_rivals.py --cost nannyml_univariate 20000

A rival gives every batch a *score*; it alarms where the score reaches `limit`, its usual setting. Where its statistic
can be read while it runs, one pass holds all settings; ADWIN can not be read so, and runs once for each `delta`.
Streams are made here, from kind, seed and shape, or read from an .npz file. Columns are standardised by the reference
before River sees them, or turned to ranks in it; both are in its favour, and which is better depends on the trouble.
Chunks of NannyML and Evidently have 1,000 rows.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import drift_streams as streams
import numpy as np
from drift_scoring import COOL
from drift_streams import Array, Rows, Shape, Stream

CHUNK = 1000
NO_SCORE = -1e9


def foremost(scores: dict[str, float]) -> list[str]:
    """The columns that an alarm names: the top three, as long as half of the first lies not between."""
    order = sorted(scores, key=lambda name: -scores[name])[:3]
    top = max(scores.values(), default=0.0)
    # a logarithm of evidence may be negative, at settings below the usual
    return [name for name in order if scores[name] > top - abs(top) / 2]


class Rival:
    """One subject. `named` = it says which columns moved; `labels` = it sees errors, not columns."""

    environment: ClassVar[str]
    limit: ClassVar[float]
    named: ClassVar[bool] = True
    labels: ClassVar[bool] = False
    settings: ClassVar[tuple[float, ...]] = ()
    """Settings to be run one by one, the most eager first; () = one pass reads them all."""
    chunk: ClassVar[int] = 0
    at_once: ClassVar[bool] = False
    """All chunks of a stream in one call, where that is cheaper."""

    def __init__(self, features: Sequence[str], task: str, setting: float | None) -> None:
        self.features, self.task, self.setting = list(features), task, setting

    def learn(self, rows: Rows) -> None:
        """Take the reference."""
        raise NotImplementedError

    def update(self, rows: Rows) -> tuple[float, list[str]]:
        """Take a batch; return its score and the columns that it names."""
        raise NotImplementedError

    def blocks(self, s: Stream) -> list[list[float]]:
        """Return accuracy of each chunk: true, of the reference, estimated, and the band of that."""
        return []

    def several(self, rows: Rows) -> list[tuple[float, list[str]]]:
        """Take all chunks; what `update` would say of each."""
        raise NotImplementedError


# ---------------------------------------------------------------- River


class _Columns(Rival):
    """A River detector for each column."""

    environment = "rivals"

    def make(self) -> Any:
        raise NotImplementedError

    def feed(self, detector: Any, values: list[float]) -> float:
        """Feed one column of a batch; return its score."""
        raise NotImplementedError

    def learn(self, rows: Rows) -> None:
        self.prepare(np.nan_to_num(rows.X))
        self.detectors = [self.make() for _ in self.features]
        self._scores(rows.part(slice(-2000, None)))

    def prepare(self, x: Array) -> None:
        """Learn what columns (n, d) look like."""
        self.middle, self.spread = x.mean(axis=0), x.std(axis=0) + 1e-9

    def seen(self, x: Array) -> Array:
        """Columns (n, d) as the detectors get them."""
        standard: Array = (x - self.middle) / self.spread
        return standard

    def _scores(self, rows: Rows) -> list[float]:
        x = self.seen(np.nan_to_num(rows.X))
        return [self.feed(d, column.tolist()) for d, column in zip(self.detectors, x.T, strict=True)]  # fmt: skip

    def update(self, rows: Rows) -> tuple[float, list[str]]:
        scores = self._scores(rows)
        return max(scores), foremost(dict(zip(self.features, scores, strict=True)))


class _Error(Rival):
    """A River detector on the errors."""

    environment = "rivals"
    named = False
    labels = True

    def make(self) -> Any:
        raise NotImplementedError

    def feed(self, detector: Any, values: list[float]) -> float:
        raise NotImplementedError

    def learn(self, rows: Rows) -> None:
        off = np.abs(rows.y - rows.pred)
        self.off = float(np.quantile(off, 0.9)) if self.task == "regression" else 0.0
        self.detector = self.make()
        self.feed(self.detector, self._errors(rows.part(slice(-2000, None))))

    def _errors(self, rows: Rows) -> list[float]:
        wrong = np.abs(rows.y - rows.pred) > self.off
        out: list[float] = wrong.astype(float).tolist()
        return out

    def update(self, rows: Rows) -> tuple[float, list[str]]:
        return self.feed(self.detector, self._errors(rows)), []


class _Adwin:
    """ADWIN (Bifet and Gavalda 2007); its setting is `delta`, 0.002 as a rule."""

    limit = 1.0
    # beyond 1 it is no probability any more, but still a setting: as eager as the comparison needs it
    settings = (3.0, 0.5, 0.1, 0.02, 1e-4)
    setting: float | None

    def make(self) -> Any:
        from river.drift import ADWIN

        return ADWIN(delta=0.002 if self.setting is None else self.setting)

    def feed(self, detector: Any, values: list[float]) -> float:
        found = 0.0
        for v in values:
            detector.update(v)
            if detector.drift_detected:
                found = 1.0
        return found


class AdwinColumns(_Adwin, _Columns):
    """ADWIN on each column."""


class AdwinRanks(AdwinColumns):
    """ADWIN on the rank of each value in the reference: within 0 and 1, as its bound wants it, deaf to spread."""

    def prepare(self, x: Array) -> None:
        self.steps = np.quantile(x, np.linspace(0.0, 1.0, 201), axis=0).T

    def seen(self, x: Array) -> Array:
        of = zip(self.steps, x.T, strict=True)
        return np.column_stack([np.searchsorted(steps, column) / 200.0 for steps, column in of])


class AdwinError(_Adwin, _Error):
    """ADWIN on the errors."""


class _PageHinkley:
    """The test of Page and Hinkley, up and down; its setting is the threshold, 50 as a rule."""

    limit = 50.0

    def make(self) -> Any:
        from river.drift import PageHinkley

        return PageHinkley(threshold=math.inf)

    def feed(self, detector: Any, values: list[float]) -> float:
        top = 0.0
        for v in values:
            detector.update(v)
            up = detector._sum_increase - detector._min_increase
            down = detector._max_decrease - detector._sum_decrease
            top = max(top, up, down)
        return top


class PageHinkleyColumns(_PageHinkley, _Columns):
    """Page-Hinkley on each column."""


class PageHinkleyError(_PageHinkley, _Error):
    """Page-Hinkley on the errors."""


class Ddm(_Error):
    """The drift detection method (Gama and others 2004) on the errors; its setting is in deviations, 3 as a rule."""

    limit = 3.0

    def make(self) -> Any:
        from river.drift.binary import DDM

        return DDM(warning_threshold=math.inf, drift_threshold=math.inf)

    def feed(self, detector: Any, values: list[float]) -> float:
        top = 0.0
        for v in values:
            detector.update(bool(v))
            least = detector._s_min
            if least:
                p = detector._p.get()
                now = p + math.sqrt(p * (1.0 - p) / detector._p.n)
                top = max(top, (now - detector._p_min) / least)
        return top


# ---------------------------------------------------------------- chunks


def _pandas(features: Sequence[str], rows: Rows, words: Any) -> Any:
    """Rows as a frame; categories as text."""
    import pandas as pd

    table = pd.DataFrame(rows.X, columns=list(features))
    for name in features:
        if name.startswith("c_"):
            table[name] = table[name].fillna(-1).astype(int).astype(str).astype(words)
    return table


class _Nannyml(Rival):
    """A calculator of NannyML; its setting is how many deviations of the reference's chunks, 3 as a rule."""

    environment = "nannyml"
    limit = 3.0
    chunk = CHUNK
    at_once = True

    def calculator(self) -> Any:
        raise NotImplementedError

    def table(self, rows: Rows, *, labels: bool) -> Any:
        t = _pandas(self.features, rows, "category")
        t["pred"], t["proba"] = rows.pred, np.nan_to_num(rows.proba, nan=0.5)
        if labels:
            t["y"] = rows.y
        return t

    def learn(self, rows: Rows) -> None:
        warnings.filterwarnings("ignore")
        logging.disable(logging.CRITICAL)
        self.of = self.calculator()
        self.of.fit(self.table(rows, labels=True))

    def several(self, rows: Rows) -> list[tuple[float, list[str]]]:
        rows = rows.part(slice(0, len(rows) // CHUNK * CHUNK))
        do = self.of.estimate if hasattr(self.of, "estimate") else self.of.calculate
        result = do(self.table(rows, labels=False))
        usual = result.filter(period="reference").to_df()
        now = result.filter(period="analysis").to_df()
        keys = [key for key in now.columns if key[-1] == "value" and key[0] != "chunk"]
        self.told: list[float] = now[keys[0]].to_numpy(float).tolist()
        z = np.zeros((len(now), len(keys)))
        for i, key in enumerate(keys):
            past = usual[key].to_numpy(float)
            z[:, i] = np.abs(now[key].to_numpy(float) - past.mean()) / (past.std() + 1e-12)
        of = [str(key[0]) for key in keys]
        z = np.nan_to_num(z)
        return [(float(row.max()), foremost(dict(zip(of, row.tolist(), strict=True)))) for row in z]


class NannymlUnivariate(_Nannyml):
    """Jensen-Shannon distance of each column."""

    def calculator(self) -> Any:
        import nannyml

        return nannyml.UnivariateDriftCalculator(
            column_names=self.features,
            treat_as_categorical=[n for n in self.features if n.startswith("c_")],
            chunk_size=CHUNK,
            continuous_methods=["jensen_shannon"],
            categorical_methods=["jensen_shannon"],
        )


class NannymlReconstruction(_Nannyml):
    """Error of rebuilding rows from principal components."""

    named = False

    def calculator(self) -> Any:
        import nannyml

        return nannyml.DataReconstructionDriftCalculator(
            column_names=self.features, chunk_size=CHUNK
        )


class NannymlCbpe(_Nannyml):
    """Estimated accuracy; two classes only."""

    named = False

    def calculator(self) -> Any:
        import nannyml

        return nannyml.CBPE(
            y_pred_proba="proba", y_pred="pred", y_true="y", metrics=["accuracy"],
            problem_type="classification_binary", chunk_size=CHUNK,
        )  # fmt: skip

    def blocks(self, s: Stream) -> list[list[float]]:
        right = (s.watched.y == s.watched.pred).reshape(-1)
        usual = float((s.reference.y == s.reference.pred).mean())
        true = [float(right[i : i + CHUNK].mean()) for i in range(0, len(self.told) * CHUNK, CHUNK)]
        return [[t, usual, e, math.nan, math.nan] for t, e in zip(true, self.told, strict=True)]


class Evidently(Rival):
    """DataDriftPreset, any column; its setting is the distance of a column, 0.1 as a rule, here 1."""

    environment = "evidently"
    limit = 1.0
    chunk = CHUNK

    def learn(self, rows: Rows) -> None:
        warnings.filterwarnings("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        self.definition = DataDefinition(
            numerical_columns=[n for n in self.features if not n.startswith("c_")],
            categorical_columns=[n for n in self.features if n.startswith("c_")],
        )
        self.dataset, self.report = Dataset, Report([DataDriftPreset()])
        self.usual = self._set(rows)

    def _set(self, rows: Rows) -> Any:
        table = _pandas(self.features, rows, "object")
        return self.dataset.from_pandas(table, data_definition=self.definition)

    def update(self, rows: Rows) -> tuple[float, list[str]]:
        found = self.report.run(self._set(rows), self.usual).dict()
        scores = {}
        for metric in found["metrics"]:
            config = metric.get("config") or {}
            if "column" not in config or "method" not in config:
                continue
            value, limit = float(metric["value"]), float(config["threshold"])
            # of a p-value little is much
            logs = math.log(max(value, 1e-300)) / math.log(limit)
            scores[config["column"]] = logs if "p_value" in config["method"] else value / limit
        return max(scores.values()), foremost(scores)


RIVALS: dict[str, type[Rival]] = {
    "adwin_columns": AdwinColumns,
    "adwin_ranks": AdwinRanks,
    "adwin_error": AdwinError,
    "page_hinkley_columns": PageHinkleyColumns,
    "page_hinkley_error": PageHinkleyError,
    "ddm": Ddm,
    "nannyml_univariate": NannymlUnivariate,
    "nannyml_reconstruction": NannymlReconstruction,
    "nannyml_cbpe": NannymlCbpe,
    "evidently": Evidently,
}


# ---------------------------------------------------------------- running


def load(task: dict[str, Any]) -> Stream:
    """Make or read the stream of a task."""
    if "file" in task:
        with np.load(task["file"]) as kept:
            parts = [
                Rows(*(kept[f"{which}_{name}"] for name in Rows.__slots__))
                for which in ("reference", "watched")
            ]
        return Stream(
            task["kind"], task["task"], tuple(task["features"]), "data", task["start"],
            frozenset(task["moved"]), parts[0], parts[1], 100,
        )  # fmt: skip
    shape = Shape(**task["shape"])
    return streams.stream(task["kind"], task["seed"], shape, task.get("rows", 0))


def enough(s: Stream, end: int, found: bool) -> bool:
    """Tell whether row `end` is late enough to stop: an alarm from before the trouble may hide others until then."""
    return found and s.start is not None and end > s.start + COOL


def trace(name: str, task: dict[str, Any], s: Stream) -> dict[str, Any]:
    """Run a rival over a stream, up to where it has surely found the trouble: `stop` or more."""
    cls = RIVALS[name]
    began = time.process_time()
    rival = cls(s.features, s.task, task.get("setting"))
    rival.learn(s.reference)
    ends: list[int] = []
    score: list[float] = []
    hit: list[bool] = []
    n, step, stop = len(s.watched), cls.chunk or s.batch, task.get("stop")
    found = False
    whole = rival.several(s.watched) if cls.at_once else None
    for i, end in enumerate(range(step, n + 1, step)):
        said, named = (
            whole[i] if whole is not None else rival.update(s.watched.part(slice(end - step, end)))
        )
        ends.append(end)
        score.append(max(said, NO_SCORE))
        hit.append(not cls.named or not s.moved or bool(s.moved & set(named)))
        found |= stop is not None and said >= stop and hit[-1] and end > (s.start or 0)
        if enough(s, end, found):
            break
    return {
        "ends": ends, "score": score, "hit": hit, "start": s.start, "blocks": rival.blocks(s),
        "cpu_s": time.process_time() - began,
    }  # fmt: skip


def cost(name: str, rows: int, columns: int = 50) -> dict[str, float]:
    """CPU a row, memory and seconds of import: one reference of 20,000 rows, then `rows` more."""
    cls = RIVALS[name]
    usual, now = streams.frame(columns, 20_000, 0), streams.frame(columns, rows, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    __import__({"rivals": "river.drift"}.get(cls.environment, cls.environment))
    imported = time.process_time() - began
    rival = cls(streams.names_of(columns), "binary", None)
    rival.learn(usual)
    began = time.process_time()
    if cls.environment == "evidently":
        rival.update(now)  # one report of it all, its cheapest way
    elif cls.at_once:
        rival.several(now)
    else:
        for i in range(0, rows, 1000):
            rival.update(now.part(slice(i, i + 1000)))
    spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "us_per_row": spent / rows * 1e6, "import_s": imported, "rss_growth_mb": (peak - before) / 1024
    }  # fmt: skip


def serve(run: Callable[[dict[str, Any], Stream], dict[str, Any]]) -> None:
    """Read a task a line, write a trace a line; tasks of one stream follow each other."""
    before: list[Any] = []
    s: Stream | None = None
    for line in sys.stdin:
        task = json.loads(line)
        key = [task.get(k) for k in ("file", "kind", "seed", "rows")]
        if s is None or key != before:
            before, s = key, load(task)
        try:
            said = run(task, s)
        except Exception as fault:  # noqa: BLE001  # of somebody else's package: said, and the next stream
            said = {"fault": f"{type(fault).__name__}: {str(fault)[:200]}"}
        sys.stdout.write(json.dumps({"id": task["id"], **said}) + "\n")
        sys.stdout.flush()


def main() -> None:
    if sys.argv[1] == "--cost":
        sys.stdout.write(json.dumps(cost(sys.argv[2], int(sys.argv[3]))) + "\n")
        return
    name = sys.argv[1]
    serve(lambda task, s: trace(name, task, s))


if __name__ == "__main__":
    main()
