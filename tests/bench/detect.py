"""How well the shipped detector finds what people labelled, beside simple rivals, and what it costs.

    HOMEOSTAT_BENCH_DATA=DIR python tests/bench/detect.py [--sets kpi,nab] [--subjects homeostat,ewma]
        [--budgets .03,.1,1] [--quick] [--jobs 2] [--out FILE]

Reads DIR/detect/SET/index.jsonl and the parquet files that it names; without them it says where the public originals
are, and ends with 2. Rows are fed in order, one tick for all series of one step; nobody sees a label. One setting for
everything: the shipped defaults at a budget of 0.1 false alarms a series and day (spark, 1 s: 1), and each rival at
its own usual limit. Prints tables and writes build/bench/detect.json. What the figures mean: `scoring.py`.

index.jsonl, one object a file: `id file series step_seconds per_series_labels`, for NAB also `nab_windows` (pairs of
epoch seconds) and `probation_rows`. Columns of a file: `ts` (epoch seconds), `v0 .. vK`, `label` (1 = abnormal, the
whole file), `scored` (0 = warm-up: fed, not judged), `l0 .. lK` (labels of single metrics, where there are such).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import adapters
import joint
import numpy as np
import psutil
import rivals
import scoring

Array = scoring.Array
ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench" / "detect.json"
OTHERS = ROOT / "build" / "rivals" / "bin" / "python"
SETS = ("asd", "kpi", "smd", "nab", "spark")
BUDGETS = (0.03, 0.1, 1.0)
OWN_BUDGET = {"spark": 1.0}
HOST_BUDGET = 1.0
"""False alarms a host and day that the host view may cost."""
QUICK_SERIES = {"kpi": 4, "nab": 12, "smd": 38, "asd": 38, "spark": 80}
SLOWEST = ("kpi", "smd", "nab", "asd", "spark")
FIRST_MINUTE_S = 60.0

WITH = "homeostat+"
"""The bank and one joint detector, as the daemon joins them: what it adds is the difference from `homeostat`."""
JOINT_SETS = {
    "pca": ("asd", "smd", "spark"),
    "isolation_forest": ("asd", "smd", "spark"),
    "conv": ("asd", "smd", "spark"),
    "seasonal": ("kpi", "nab"),
}
"""Where a joint detector can say anything: hosts of many series, or slow series with a rhythm."""
OWN = ("homeostat", *JOINT_SETS, *(WITH + name for name in JOINT_SETS))
SUBJECTS = (*OWN, *rivals.RIVALS, *rivals.POINTS)

PROMISED = {
    ("asd", "vus_pr"): (">=", 0.56),
    ("asd", "f1"): (">=", 0.55),
    ("asd", "r_at_1"): (">=", 0.90),
    ("kpi", "vus_pr"): (">=", 0.45),
    ("kpi", "f1"): (">=", 0.58),
    ("kpi", "false_alarms_per_series_day"): ("<=", 0.3),
    ("kpi", "r_at_1"): (">=", 0.65),
    ("smd", "vus_pr"): (">=", 0.32),
    ("smd", "r_at_01"): (">=", 0.45),
    ("smd_machines", "vus_pr"): (">=", 0.50),
    ("smd_machines", "r_at_1"): (">=", 0.87),
    ("nab", "vus_pr"): (">=", 0.27),
    ("nab", "r_at_1"): (">=", 0.90),
    ("nab", "nab_one_row"): (">=", 58.0),
    ("spark", "false_alarms_per_series_day"): ("<=", 2.0),
    ("spark", "false_alarms_per_series_day_from_first_minute"): ("<=", 2.0),
    ("spark", "false_alarms_per_host_day"): ("<=", 1.0),
    ("cost", "us_per_point_at_2000"): ("<=", 1.0),
    ("cost", "us_per_point_at_400"): ("<=", 2.0),
    ("cost", "us_per_tick_at_20"): ("<=", 250.0),
    ("cost", "state_bytes_per_series"): ("<=", 3000.0),
}
"""What was promised for homeostat before its first run; besides budgets, delays and linearity."""

WHERE = """\
{problem}

This benchmark judges on public labelled data, which is not part of the project. Set HOMEOSTAT_BENCH_DATA to a folder
with detect/SET/index.jsonl and parquet files (the format stands in the docstring of tests/bench/detect.py), made from
these public repositories:

  nab     numenta/NAB (MIT)
  kpi     NetManAIOps/KPI-Anomaly-Detection (MIT); npy copy in CSTCloudOps/datasets
  smd     NetManAIOps/OmniAnomaly, ServerMachineDataset (MIT)
  asd     zhhlee/InterFusion (MIT)
  spark   exathlonbenchmark/exathlon, undisturbed runs (Apache-2.0)
"""


# ---------------------------------------------------------------- data


@dataclass(frozen=True, slots=True)
class Recording:
    """One file: ts, label, scored (T,), values and labels of metrics (T, k), the last perhaps None.

    windows and probation are NAB's, in rows.
    """

    step_s: float
    ts: Array
    values: Array
    label: Array
    scored: Array
    labels: Array | None
    windows: tuple[tuple[int, int], ...] | None
    probation: int

    def unit(self, score: Array, i: int) -> scoring.Unit:
        """What is judged of metric i."""
        if self.labels is not None:
            label = self.labels[:, i]
        elif self.values.shape[1] == 1:
            label = self.label
        else:
            label = np.zeros(len(self.label), dtype=bool)
        neutral = self.label if self.values.shape[1] > 1 else None
        return scoring.Unit(score[:, i], label, self.scored, neutral)


def index(data: Path, name: str, quick: bool) -> list[dict[str, Any]]:
    """What files a set has; `quick` takes the shortest ones."""
    lines = (data / name / "index.jsonl").read_text(encoding="utf-8").splitlines()
    files: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    if not quick:
        return files
    taken, series = [], 0
    for file in sorted(files, key=lambda f: (f["rows"], f["id"])):
        if series < QUICK_SERIES[name]:
            taken.append(file)
            series += file["series"]
    return taken


def read(folder: Path, file: dict[str, Any]) -> Recording:
    """Read one file."""
    from pyarrow import parquet

    table = parquet.read_table(folder / file["file"])
    columns = range(file["series"])

    def column(name: str) -> Array:
        array: Array = table.column(name).to_numpy()
        return array

    ts = column("ts").astype(np.float64)
    windows = file.get("nab_windows")
    return Recording(
        step_s=float(file["step_seconds"]),
        ts=ts,
        values=np.stack([column(f"v{i}").astype(np.float64) for i in columns], axis=1),
        label=column("label") > 0,
        scored=column("scored") > 0,
        labels=np.stack([column(f"l{i}") > 0 for i in columns], axis=1) if file["per_series_labels"] else None,
        windows=None if windows is None else tuple(_in_rows(ts, *window) for window in windows),
        probation=int(file.get("probation_rows", 0)),
    )  # fmt: skip


def _in_rows(ts: Array, first: float, last: float) -> tuple[int, int]:
    """Rows at which a window of NAB begins and ends; their times stand in the file."""
    return int(np.flatnonzero(ts == first)[0]), int(np.flatnonzero(ts == last)[0])


# ---------------------------------------------------------------- running


@dataclass(slots=True)
class Scored:
    """What a subject said to the recordings of one step: scores (T, k) each, and its limit as a score.

    rows     (T,) each: of each row as a whole, where that is what it judges
    hosts    (T,) each: what a person is told of the machine
    """

    recordings: list[Recording]
    scores: list[Array]
    threshold: float
    hosts: list[Array] | None
    cpu_s: float
    points: int
    rows: list[Array] | None = None
    train_s: float = math.nan

    def units(self) -> list[scoring.Unit]:
        """One unit a metric."""
        of = zip(self.recordings, self.scores, strict=True)
        return [r.unit(s, i) for r, s in of for i in range(s.shape[1])]


def make(subject: str, n: int, step_s: float, budget: float) -> Any:
    """A fresh subject for n series."""
    if subject == "homeostat":
        return adapters.detect(n, step_s, budget)
    return rivals.RIVALS[subject](n, step_s)


def replay(
    subject: str, recordings: list[Recording], budget: float, told: Callable[[int], None]
) -> Scored:
    """Feed all recordings of one step together, a row of each at a tick; what has ended sends NaN."""
    if subject.removeprefix(WITH) in JOINT_SETS:
        return replay_hosts(subject, recordings, budget, told)
    step_s = recordings[0].step_s
    ticks = max(len(r.ts) for r in recordings)
    ends = np.cumsum([r.values.shape[1] for r in recordings])
    n = int(ends[-1])
    of_file = np.repeat(np.arange(len(recordings)), [r.values.shape[1] for r in recordings])
    values, ts = np.full((ticks, n), np.nan), np.empty((ticks, len(recordings)))
    for i, (r, end) in enumerate(zip(recordings, ends, strict=True)):
        rows, k = r.values.shape
        values[:rows, end - k : end] = r.values
        ts[:rows, i] = r.ts
        ts[rows:, i] = r.ts[-1] + step_s * np.arange(1, ticks - rows + 1)
    detector = make(subject, n, step_s, budget)
    said = np.empty((ticks, n), dtype=np.float32)
    points, part = sum(r.values.size for r in recordings), 2000
    began = time.process_time()
    for start in range(0, ticks, part):
        stop = min(start + part, ticks)
        for t in range(start, stop):
            said[t] = detector.update(ts[t, of_file], values[t])
        told((stop - start) * points // ticks)
    cpu = time.process_time() - began
    threshold = float(detector.threshold)
    rare = getattr(detector, "kind", "score") == "pvalue"
    firsts = ends - [r.values.shape[1] for r in recordings]
    parts = [said[: len(r.ts), a:b] for r, a, b in zip(recordings, firsts, ends, strict=True)]
    hosts = _host_views(recordings, parts) if subject == "homeostat" else None
    if rare:
        parts, threshold = [_rarity(p) for p in parts], -math.log10(threshold)
    else:
        parts = [np.nan_to_num(p) for p in parts]
    return Scored(recordings, parts, threshold, hosts, cpu, points)


def replay_hosts(
    subject: str, recordings: list[Recording], budget: float, told: Callable[[int], None]
) -> Scored:
    """Feed recordings one after another to a joint detector each: the series of one file are one host."""
    name, step_s = subject.removeprefix(WITH), recordings[0].step_s
    parts, rows, cpu, train_s, models = [], [], 0.0, 0.0, 0
    for r in recordings:
        host = joint.build(
            name, r.values.shape[1], step_s, beside=subject.startswith(WITH), budget=budget
        )
        said, whole = np.empty(r.values.shape, dtype=np.float32), np.empty(len(r.ts))
        began = time.process_time()
        for t in range(len(r.ts)):
            said[t] = host.update(r.ts[t], r.values[t])
            whole[t] = host.row_p
            if t % 2000 == 1999:
                told(2000 * r.values.shape[1])
        cpu += time.process_time() - began - host.train_s
        train_s, models = train_s + host.train_s, models + host.trained
        parts.append(said / step_s)  # rates, as the adapter of the bank gives them
        rows.append(whole / step_s)
    hosts = _host_views(recordings, parts) if subject.startswith(WITH) else None
    whole_rows = [_rarity(w) for w in rows] if np.isfinite(rows[0]).any() else None
    return Scored(
        recordings, [_rarity(p) for p in parts], -math.log10(budget / scoring.DAY_S), hosts, cpu,
        sum(r.values.size for r in recordings), None if hosts else whole_rows,
        train_s / max(models, 1),
    )  # fmt: skip


def _rarity(p: Array) -> Array:
    rarity: Array = -np.log10(np.maximum(np.nan_to_num(p, nan=1.0), 1e-30))
    return rarity.astype(np.float32)


def _host_views(recordings: Sequence[Recording], parts: Sequence[Array]) -> list[Array]:
    """What the shipped group view says of each machine, from the rates of its series: rarity (T,)."""
    said = []
    for r, rates in zip(recordings, parts, strict=True):
        if rates.shape[1] == 1:
            said.append(np.zeros(len(rates)))  # no machine
            continue
        view = adapters.host_view(rates.shape[1], r.step_s)
        rows = zip(r.ts.tolist(), rates.astype(np.float64), strict=True)
        said.append(_rarity(np.array([view.update(ts, at) for ts, at in rows])))
    return said


def machines(scored: Scored) -> list[scoring.Unit]:
    """One unit a machine: the second largest score of its metrics, or what is said of the row as a whole."""
    whole = scored.rows or [scoring.second_largest(s) for s in scored.scores]
    return [
        scoring.Unit(w, r.label, r.scored)
        for r, w in zip(scored.recordings, whole, strict=True)
        if r.values.shape[1] > 1
    ]


def hosts(scored: Scored) -> tuple[list[scoring.Unit], float]:
    """One unit a machine as a person is told of it, the group view, and the limit of that."""
    of = zip(scored.recordings, scored.hosts or (), strict=True)
    units = [scoring.Unit(s, r.label, r.scored) for r, s in of if r.values.shape[1] > 1]
    return units, -math.log10(HOST_BUDGET / scoring.DAY_S)


# ---------------------------------------------------------------- figures


@dataclass(frozen=True, slots=True)
class Task:
    """One run: a subject over a set at a budget; `full` = all figures, else false alarms alone."""

    data: Path
    name: str
    subject: str
    budget: float
    full: bool
    quick: bool


Figures = dict[str, dict[str, float]]
"""set -> figure -> value"""


def measure(task: Task) -> Figures:
    """Run and judge one task (in a process of its own)."""
    groups: dict[float, list[Recording]] = {}
    for file in index(task.data, task.name, task.quick):
        recording = read(task.data / task.name, file)
        groups.setdefault(recording.step_s, []).append(recording)
    said = [replay(task.subject, group, task.budget, _tell) for group in groups.values()]
    units = [g.units() for g in said]
    series = [
        scoring.Events.lay(u, g.recordings[0].step_s) for u, g in zip(units, said, strict=True)
    ]
    own = [g.threshold for g in said]
    out = {}
    if task.subject == "homeostat":
        allowed = task.budget * sum(events.days for events in series)
        false = scoring.false_alarms(series, own)
        out = _against_budget(f"budget_{task.budget:g}", false, allowed)
    if not task.full:
        return {task.name: out}
    out |= scoring.event_figures(series, own)
    out["vus_pr"] = _mean_vus(u for group in units for u in group)
    if np.isfinite(said[0].train_s):
        out["train_s"] = float(np.mean([g.train_s for g in said]))
    out["us_per_point"] = sum(g.cpu_s for g in said) / sum(g.points for g in said) * 1e6
    if task.name == "spark":
        out["false_alarms_per_series_day_from_first_minute"] = _from_first_minute(said)
    out |= _nab_figures(said)
    figures = {task.name: out}
    with_machines = [(g, machines(g)) for g in said if any(s.shape[1] > 1 for s in g.scores)]
    if with_machines:
        false, days = _of_hosts(said, task.subject)
        out["false_alarms_per_host_day"] = false / days
        if task.subject == "homeostat":
            out |= _against_budget(f"host_budget_{HOST_BUDGET:g}", false, HOST_BUDGET * days)
        whole = [scoring.Events.lay(u, g.recordings[0].step_s) for g, u in with_machines]
        of_machines = scoring.event_figures(whole, [g.threshold for g, _ in with_machines])
        of_machines["vus_pr"] = _mean_vus(u for _, group in with_machines for u in group)
        of_machines["false_alarms_per_host_day"] = out["false_alarms_per_host_day"]
        if task.name in ("smd", "asd"):
            figures[f"{task.name}_machines"] = of_machines
    return figures


def _mean_vus(units: Iterable[scoring.Unit]) -> float:
    with_events = (u for u in units if (u.label & u.scored).any())
    areas = [scoring.vus_pr(u.label[u.scored], u.score[u.scored]) for u in with_events]
    return float(np.mean(areas)) if areas else math.nan


def _against_budget(name: str, measured: int, expected: float) -> dict[str, float]:
    return {
        f"{name}_expected": expected,
        f"{name}_measured": measured,
        f"{name}_ratio": measured / expected,
        f"{name}_kept": float(scoring.budget_verdict(measured, expected) != "exceeded"),
    }


def _from_first_minute(said: Sequence[Scored]) -> float:
    """False alarms a series and day when also the warm-up of the files is judged, all but the first minute."""
    false, days = 0, 0.0
    for g in said:
        step_s = g.recordings[0].step_s
        units = []
        for r, s in zip(g.recordings, g.scores, strict=True):
            judged = np.arange(len(r.ts)) >= FIRST_MINUTE_S / step_s
            units += [scoring.Unit(s[:, i], r.unit(s, i).label, judged) for i in range(s.shape[1])]
        events = scoring.Events.lay(units, step_s)
        false, days = false + events.at(g.threshold).false, days + events.days
    return false / days


def _of_hosts(said: Sequence[Scored], subject: str) -> tuple[int, float]:
    """False alarms as a person is told of them, and host-days."""
    false, days = 0, 0.0
    for g in said:
        told_of = subject in OWN and g.hosts is not None
        units, limit = hosts(g) if told_of else (machines(g), g.threshold)
        events = scoring.Events.lay(units, g.recordings[0].step_s)
        false, days = false + events.at(limit).false, days + events.days
    return false, days


def _nab_figures(said: Sequence[Scored]) -> dict[str, float]:
    raw = [
        scoring.NabFile(s[:, 0], r.windows, r.probation, g.threshold)
        for g in said
        for r, s in zip(g.recordings, g.scores, strict=True)
        if r.windows is not None
    ]
    if not raw:
        return {}
    one = [replace(file, score=scoring.first_of_episode(file.score)) for file in raw]
    raw_best, raw_own = scoring.nab(raw)
    one_best, one_own = scoring.nab(one)
    return {
        "nab_one_row": one_best, "nab_raw": raw_best,
        "nab_one_row_at_own_limit": one_own, "nab_raw_at_own_limit": raw_own,
    }  # fmt: skip


# ---------------------------------------------------------------- cost


def cost(subject: str) -> Figures:
    """CPU and state on made-up series, warmed up (in a process of its own, with nothing beside it).

    homeostat at 1 s, as on a host; rivals at 60 s, where the day and all clusterings are at work too.
    """
    step_s = 1.0 if subject == "homeostat" else 60.0
    warm = 400 if subject == "homeostat" else make(subject, 1, step_s, 0.1).warm_rows
    out = {}
    for n, ticks in ((2000, 800), (400, 2000), (20, 3000)):
        us, detector = _time(subject, n, step_s, warm, ticks)
        if n == 20:
            out["us_per_tick_at_20"] = us * n
        else:
            out[f"us_per_point_at_{n}"] = us
        if n == 2000:
            out["state_bytes_per_series"] = _bytes(detector, set()) / n
    if subject == "homeostat":
        for n, ticks in ((1000, 1000), (10_000, 200), (100_000, 40)):
            out[f"us_per_point_at_{n}"], _ = _time(subject, n, step_s, 64, ticks)
        out["us_per_point_100000_to_1000"] = out["us_per_point_at_100000"] / out["us_per_point_at_1000"]  # fmt: skip
    return {"cost": out}


def _time(subject: str, n: int, step_s: float, warm: int, ticks: int) -> tuple[float, Any]:
    """CPU microseconds a point, and the detector after it."""
    random = np.random.default_rng(0)
    rows = min(1009, 8_000_000 // n)
    wander = random.normal(size=(rows, n)).cumsum(axis=0) * 0.05
    made = 100.0 + wander + random.normal(size=(rows, n))
    detector = make(subject, n, step_s, 0.1)
    ts = np.full(n, 1.6e9)
    for t in range(warm):
        detector.update(ts + t * step_s, made[t % rows])
    began = time.process_time()
    for t in range(warm, warm + ticks):
        detector.update(ts + t * step_s, made[t % rows])
    return (time.process_time() - began) / (ticks * n) * 1e6, detector


def _bytes(thing: Any, seen: set[int]) -> int:
    """Bytes of all arrays that an object holds, however deep."""
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return 0 if thing.base is not None and id(thing.base) in seen else thing.nbytes
    if isinstance(thing, dict):
        return sum(_bytes(x, seen) for x in thing.values())
    if isinstance(thing, (list, tuple)):
        return sum(_bytes(x, seen) for x in thing)
    slots = [getattr(thing, name, None) for name in getattr(type(thing), "__slots__", ())]
    return sum(_bytes(x, seen) for x in [*slots, *getattr(thing, "__dict__", {}).values()])


def others(names: Sequence[str]) -> tuple[Figures, list[str]]:
    """Cost of what other packages bring, from their own environment; a note for each that is not there."""
    if not names:
        return {}, []
    if not OTHERS.exists():
        return {}, [f"{', '.join(names)}: not installed (make build/rivals)"]
    out: Figures = {}
    notes = []
    for name in names:
        argv = [str(OTHERS), str(ROOT / "tests" / "bench" / "rivals.py"), name]
        run = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
        if run.returncode:
            last = (run.stderr.strip() or "no message").splitlines()[-1]
            notes.append(f"{name}: did not run ({last})")
        else:
            out[name] = json.loads(run.stdout)[name]
    return out, notes


def all_costs(subjects: Sequence[str]) -> tuple[list[tuple[str, Figures]], list[str]]:
    """Time every subject, one after the other."""
    told = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        for subject in subjects:
            if subject not in rivals.POINTS and subject.removeprefix(WITH) not in JOINT_SETS:
                tell(f"cost of {subject}")
                told.append((subject, alone.submit(cost, subject).result()))
    figures, missing = others([s for s in subjects if s in rivals.POINTS])
    return told + [(subject, {"cost": of}) for subject, of in figures.items()], missing


# ---------------------------------------------------------------- the whole

_done: Any = None


def _share(done: Any) -> None:
    """Give a process of the pool the counter of points done."""
    globals()["_done"] = done


def _tell(points: int) -> None:
    if _done is not None:
        with _done.get_lock():
            _done.value += points


def run_tasks(tasks: Sequence[Task], jobs: int) -> dict[Task, Figures]:
    """Run them side by side, with a bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    total = sum(f["rows"] * f["series"] for t in tasks for f in index(t.data, t.name, t.quick))
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    found: dict[Task, Figures] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeElapsedColumn(),
    )
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_share, initargs=(done,))
    with pool, bar:
        line = bar.add_task("points", total=total)
        waiting = {pool.submit(measure, task): task for task in tasks}
        try:
            while waiting:
                for future in [f for f in waiting if f.done()]:
                    task = waiting.pop(future)
                    found[task] = future.result()
                    bar.console.print(
                        f"{task.name} {task.subject} budget {task.budget:g}: done", highlight=False
                    )
                bar.update(line, completed=done.value)
                time.sleep(0.2)
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
        bar.update(line, completed=total)
    return found


def plan(data: Path, asked: argparse.Namespace) -> list[Task]:
    """What to run, the longest first."""
    tasks = []
    for name in sorted(asked.sets, key=SLOWEST.index):
        own = OWN_BUDGET.get(name, adapters.BUDGET)
        able = (s for s in asked.subjects if s not in rivals.POINTS)
        runs = [(s, own, True) for s in able if name in JOINT_SETS.get(s.removeprefix(WITH), SETS)]
        if "homeostat" in asked.subjects and name not in OWN_BUDGET:
            runs += [("homeostat", b, False) for b in asked.budgets if b != own]
        tasks += [Task(data, name, s, b, full=full, quick=asked.quick) for s, b, full in runs]
    return tasks


COLUMNS = {
    "vus_pr": "VUS-PR", "precision": "precis.", "recall": "recall", "f1": "F1", "r_at_1": "R@1", "r_at_01": "R@.1",
    "false_alarms_per_series_day": "FA/ser-d",
    "false_alarms_per_series_day_from_first_minute": "1st min.",
    "false_alarms_per_host_day": "FA/hst-d", "delay_s": "delay s",
    "delay_s_at_1": "dly@1 s",
    "nab_one_row": "NAB one", "nab_raw": "NAB raw", "us_per_point": "us/pt", "train_s": "train s",
}  # fmt: skip


def tell(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def say(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return (
        f"{value:.0f}"
        if abs(value) >= 1000
        else f"{value:.3g}"
        if abs(value) >= 1
        else f"{value:.3f}"
    )


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    of = {(r["set"], r["subject"], r["figure"]): r["value"] for r in rows}
    for name in dict.fromkeys(r["set"] for r in rows if r["set"] != "cost"):
        figures = [f for f in COLUMNS if any(r["set"] == name and r["figure"] == f for r in rows)]
        tell(f"\n{name:26}" + "".join(f"{COLUMNS[f]:>10}" for f in figures))
        for subject in dict.fromkeys(r["subject"] for r in rows if r["set"] == name):
            tell(
                f"{subject:26}" + "".join(f"{say(of.get((name, subject, f))):>10}" for f in figures)
            )
    costs = [r for r in rows if r["set"] == "cost"]
    if costs:
        tell("\ncost")
        for figure in dict.fromkeys(r["figure"] for r in costs):
            told = [f"{r['subject']} {say(r['value'])}" for r in costs if r["figure"] == figure]
            tell(f"{figure:32}{'   '.join(told)}")
    print_budgets(of)
    print_promises(of)


def print_budgets(of: dict[tuple[str, str, str], float | None]) -> None:
    tell(f"\n{'budget':14}{'of':8}{'stated':>8}{'expected':>10}{'measured':>10}{'ratio':>8}")
    for (name, subject, figure), ratio in of.items():
        stem = figure.removesuffix("_ratio")
        whose, _, stated = stem.rpartition("budget_")
        if stem == figure or not stated:
            continue
        expected = of[name, subject, f"{stem}_expected"] or 0.0
        measured = of[name, subject, f"{stem}_measured"] or 0.0
        verdict = scoring.budget_verdict(int(measured), expected)
        unit = whose.removesuffix("_") or "series"
        tell(
            f"{name:14}{unit:8}{stated:>8}{say(expected):>10}{say(measured):>10}{say(ratio):>8}  {verdict}"
        )


def print_promises(of: dict[tuple[str, str, str], float | None]) -> None:
    tell("\npromised for homeostat")
    limits: dict[tuple[str, str], tuple[str, float | None]] = dict(PROMISED)
    for name in (*SETS, "smd_machines"):
        for figure in ("delay_s", "delay_s_at_1"):
            limits[name, figure] = ("<=", of.get((name, "gaussian", figure)))
    for (name, figure), (sign, limit) in limits.items():
        value = of.get((name, "homeostat", figure))
        if value is None or limit is None:
            continue
        kept = value >= limit if sign == ">=" else value <= limit
        tell(
            f"{name:14}{figure:46}{sign} {say(limit):8}{say(value):>9}  {'kept' if kept else 'missed'}"
        )


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, "
        f"{memory:.0f} GiB, Python {platform.python_version()}, numpy {np.__version__}, load {load}"
    )


def find_data(sets: Sequence[str]) -> Path | str:
    """The folder of the data, or what is wrong with it."""
    given = os.environ.get("HOMEOSTAT_BENCH_DATA")
    if not given:
        return "HOMEOSTAT_BENCH_DATA is not set"
    data = Path(given) / "detect"
    missing = [name for name in sets if not (data / name / "index.jsonl").is_file()]
    if missing:
        return f"{data} has no index.jsonl for {', '.join(missing)}"
    if importlib.util.find_spec("pyarrow") is None:
        return "pyarrow is not installed: pip install -e '.[bench]'"
    return data


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Type of an option that takes some of `known`, separated by commas."""
    table = tuple(known)

    def parse(text: str) -> list[str]:
        asked = [x for x in text.split(",") if x]
        unknown = [x for x in asked if x not in table]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"no {', '.join(unknown)}; there are {', '.join(table)}"
            )
        return asked

    return parse


def numbers(text: str) -> list[float]:
    """Type of an option that takes numbers, separated by commas."""
    return [float(x) for x in text.split(",") if x]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sets", type=names(SETS), default=list(SETS), help="of the data, by commas"
    )
    parser.add_argument(
        "--subjects", type=names(SUBJECTS), default=list(SUBJECTS), help="by commas"
    )
    parser.add_argument("--budgets", type=numbers, help="of false alarms a series and day to check")
    parser.add_argument("--quick", action="store_true", help="the shortest files, one budget")
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="side by side"
    )
    parser.add_argument("--no-cost", action="store_true", help="do not time made-up series")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if asked.budgets is None:
        asked.budgets = [] if asked.quick else list(BUDGETS)
    return asked


def _order(task: Task) -> tuple[int, int, bool]:
    return SETS.index(task.name), SUBJECTS.index(task.subject), not task.full


def main() -> int:
    asked = arguments()
    data = find_data(asked.sets)
    if isinstance(data, str):
        sys.stderr.write(WHERE.format(problem=data))
        return 2
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[threads] = "1"  # for the processes of the pool: CPU a point, not a machine
    began = time.monotonic()
    tasks = plan(data, asked)
    found = run_tasks(tasks, asked.jobs)
    told = [(task.subject, found[task]) for task in sorted(tasks, key=_order)]
    notes = []
    if asked.quick:
        notes.append("quick: the shortest files only; figures of the whole sets differ")
    if not asked.no_cost:
        costs, missing = all_costs(asked.subjects)
        told += costs
        notes += missing
    rows = [
        {"set": name, "subject": subject, "figure": figure, "value": float(value) if math.isfinite(value) else None}
        for subject, figures in told
        for name, of_set in figures.items()
        for figure, value in of_set.items()
    ]  # fmt: skip
    print_tables(rows)
    report = {
        "machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began), "quick": asked.quick, "notes": notes, "rows": rows,
    }  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tell("\n" + "\n".join([*notes, report["machine"], f"{report['seconds']} s; written to {asked.out}"]))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
