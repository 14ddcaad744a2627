"""Model watch against rivals: how soon, how noisily, with which cause, and at what price.

    [HOMEOSTAT_BENCH_DATA=DIR] python tests/bench/drift.py [--quick] [--seeds 20] [--jobs 2] [--only PART,...]
        [--subjects homeostat,ddm] [--out FILE]

Made-up streams (`drift_streams.py`) always; real ones from DIR/drift/index.jsonl and its parquet files when there are
any. Rivals (`drift_rivals.py`) run in environments of their own under build/; one that is not there is named and left
out. Nothing is tuned here: homeostat runs as shipped (`adapters.drift`). What the figures mean: `drift_scoring.py`.

    null    exchangeable rows: false alarms at the default; the setting of each subject at 1e-4, 1e-5, 1e-6 a row
    delay   each kind of trouble: delays at the defaults and at these settings, medians over seeds; causes
    fresh   other seeds, sizes, columns, tasks: causes and detections; season, wander, release: false alarms
    real    stretches between documented changes: false alarms before them, changes found
    label   accuracy estimated without labels, and its band
    cost    CPU, state, memory, import

index.jsonl, one object a file: `name file task features categorical n_train n_ref` and `drift`, a list of documented
changes {row, features}. Columns of a file: the features, `y`, `pred`, `proba`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import adapters
import drift_rivals
import drift_scoring as scoring
import drift_streams as streams
import numpy as np
import psutil
from detect import machine, names, say, tell
from drift_scoring import Block, Setting, Trace
from drift_streams import Array, Rows, Stream

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench" / "drift.json"
OWN = "homeostat"
PARTS = ("null", "delay", "fresh", "real", "label", "cost")
RATES = {"1e_4": 1e-4, "1e_5": 1e-5, "1e_6": 1e-6}
ADWIN = ("adwin_columns", "adwin_ranks", "adwin_error")
Figures = dict[str, dict[str, float]]
Told = list[tuple[str, Figures]]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    null_rows, null_seeds   watched rows of each exchangeable stream, and how many streams
    slow_rows               all such rows for a subject that takes a millisecond a row
    seeds, slow_seeds       streams of each kind; of that subject
    fresh                   drawn services
    """

    null_rows: int
    null_seeds: int
    slow_rows: int
    seeds: int
    slow_seeds: int
    fresh: int
    cost_rows: int


WHOLE = Size(100_000, 30, 60_000, 20, 20, 24, 100_000)
QUICK = Size(50_000, 4, 10_000, 4, 1, 6, 20_000)

PROMISED = {
    ("null", "false_alarms"): ("<=", 0.0),
    ("weather", "false_alarms_per_10k"): ("<=", 1.0),
    ("employment_ma", "false_alarms_per_10k"): ("<=", 1.0),
    ("elec2", "false_alarms_per_10k"): ("<=", 1.0),
    ("bank", "false_alarms_per_10k"): ("<=", 1.0),
    ("real", "harmful_found_ratio"): (">=", 1.0),
    ("cov_joint", "delay"): ("<=", 300.0),
    ("con_segment", "delay"): ("<=", 500.0),
    ("synthetic", "cause_right_ratio"): (">=", 0.9),
    ("fresh", "cause_right_ratio"): (">=", 0.9),
    ("car_loan", "accuracy_error_ratio"): ("<=", 0.6),
    ("all", "accuracy_band_covers"): (">=", 0.85),
    ("cost", "us_per_row"): ("<=", 10.0),
    ("cost", "state_bytes"): ("<=", 500_000.0),
    ("cost", "rss_growth_mb_million_rows"): ("<=", 80.0),
    ("cost", "client_import_ms"): ("<=", 50.0),
}
"""What was promised for homeostat; besides, delays against rivals, and estimates against "as the reference"."""


# ---------------------------------------------------------------- ourselves, as a process like the rivals'


def own_trace(task: dict[str, Any], s: Stream) -> dict[str, Any]:
    """Run the adapter over a stream, as `drift_rivals.trace` does; with causes, and blocks of estimated accuracy."""
    began = time.process_time()
    watch = adapters.drift(s.features, s.task)
    ref = s.reference
    watch.fit_reference(ref.X, ref.y, ref.pred, ref.proba)
    out: dict[str, list[Any]] = {"ends": [], "score": [], "hit": [], "cause": []}
    told: list[tuple[float, float, float]] = []
    n, stop, labels = len(s.watched), task.get("stop"), task.get("labels", True)
    found = False
    for first in range(0, n - s.batch + 1, s.batch):
        rows = s.watched.part(slice(first, first + s.batch))
        said = watch.update(batch_of(first, rows, labels=labels))
        told.append(
            tuple(said.get(k, math.nan) for k in ("accuracy", "accuracy_lo", "accuracy_hi"))
        )
        named = drift_rivals.foremost(said["features"])
        out["ends"].append(first + s.batch)
        out["score"].append(max(float(said["score"]), drift_rivals.NO_SCORE))
        out["hit"].append(not s.moved or bool(s.moved & set(named)))
        out["cause"].append(said["cause"])
        end, score = out["ends"][-1], out["score"][-1]
        found |= stop is not None and score >= stop and out["hit"][-1] and end > (s.start or 0)
        if drift_rivals.enough(s, end, found):
            break
    cpu = time.process_time() - began
    blocks = [] if labels else blocks_of(s, told)
    causes = out.pop("cause") if s.start is not None else []
    return {**out, "cause": causes, "blocks": blocks, "start": s.start, "cpu_s": cpu}


def batch_of(first: int, rows: Rows, *, labels: bool = True) -> dict[str, Any]:
    """A batch as the adapter takes it."""
    return {
        "start": first, "X": rows.X, "pred": rows.pred, "proba": rows.proba, "y": rows.y if labels else None,
        "late": None, "version": str(rows.version[-1]), "latency_ms": rows.latency_ms, "served": rows.served,
    }  # fmt: skip


def blocks_of(s: Stream, told: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Compare estimates with the truth: [true, usual, mean estimate, band at the end] of each block."""
    if s.task == "regression":
        return []
    usual = float((s.reference.y == s.reference.pred).mean())
    right = s.watched.y == s.watched.pred
    each = scoring.BLOCK // s.batch
    out = []
    for i in range(0, len(told) - each + 1, each):
        part = told[i : i + each]
        known = [a for a, _, _ in part if not math.isnan(a)]
        true = float(right[i * s.batch : (i + each) * s.batch].mean())
        # not estimable at its end = a person who looks then is told so
        estimate = float(np.mean(known)) if known and not math.isnan(part[-1][0]) else math.nan
        out.append([true, usual, estimate, part[-1][1], part[-1][2]])
    return out


# ---------------------------------------------------------------- running subjects


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks of one subject, for one process."""

    subject: str
    tasks: list[dict[str, Any]]


def program(subject: str) -> list[str] | None:
    """The command of a subject's process; None = its environment is not there."""
    here = Path(__file__).resolve().parent
    if subject == OWN:
        return [sys.executable, str(here / "drift.py"), "--serve"]
    python = ROOT / "build" / drift_rivals.RIVALS[subject].environment / "bin" / "python"
    return [str(python), str(here / "drift_rivals.py"), subject] if python.exists() else None


def run_jobs(title: str, jobs: Sequence[Job], side_by_side: int) -> dict[str, dict[int, Any]]:
    """Run processes side by side with a bar; return subject -> id of the task -> what was said."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description:8}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    found: dict[str, dict[int, Any]] = {job.subject: {} for job in jobs}
    faults: dict[str, list[str]] = {}
    with bar, ThreadPoolExecutor(side_by_side) as pool:
        line = bar.add_task(title, total=sum(len(job.tasks) for job in jobs))
        done = [pool.submit(_run_job, job, lambda: bar.advance(line)) for job in jobs]
        for job, future in zip(jobs, done, strict=True):
            for i, said in future.result().items():
                if "fault" in said:
                    faults.setdefault(job.subject, []).append(said["fault"])
                else:
                    found[job.subject][i] = said
    for subject, of in faults.items():
        tell(f"{title}, {subject}: {len(of)} streams not taken, the first: {of[0]}")
    return found


def _run_job(job: Job, told: Callable[[], None]) -> dict[int, Any]:
    argv = program(job.subject)
    if argv is None or not job.tasks:
        return {}
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as fault:
        given.write("".join(json.dumps(task) + "\n" for task in job.tasks))
        given.seek(0)
        run = subprocess.Popen(argv, stdin=given, stdout=subprocess.PIPE, stderr=fault, text=True)
        out = {}
        for line in run.stdout or ():
            if line.startswith("{"):
                said = json.loads(line)
                out[said["id"]] = said
                told()
        if run.wait():
            fault.seek(0)
            last = (fault.read().strip() or "no message").splitlines()[-1]
            sys.stderr.write(f"{job.subject}: did not run ({last})\n")
    return out


def share(subject: str, tasks: Sequence[dict[str, Any]], processes: int) -> list[Job]:
    """Deal tasks to processes; runs of one stream stay together, so that it is made once."""
    numbered = [{**task, "id": i} for i, task in enumerate(tasks)]
    streams_of: dict[str, list[dict[str, Any]]] = {}
    for task in numbered:
        key = json.dumps([task.get(k) for k in ("file", "kind", "seed", "rows")])
        streams_of.setdefault(key, []).append(task)
    groups = list(streams_of.values())
    dealt = [groups[i::processes] for i in range(processes)]
    return [Job(subject, [task for group in part for task in group]) for part in dealt if part]


def trace_of(said: dict[str, Any]) -> Trace:
    """What a process wrote, as the scoring wants it."""
    return Trace(
        np.array(said["ends"], dtype=np.int64), np.array(said["score"], dtype=float),
        np.array(said["hit"], dtype=bool), said["start"],
    )  # fmt: skip


def ask(
    title: str, tasks: dict[str, list[dict[str, Any]]], jobs: int
) -> dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]:
    """Run the tasks of each subject; return (task, what was said) of those that ran."""
    dealt = [job for subject, of in tasks.items() for job in share(subject, of, jobs)]
    found = run_jobs(title, dealt, jobs)
    return {
        subject: [(task, found[subject][i]) for i, task in enumerate(of) if i in found.get(subject, {})]
        for subject, of in tasks.items()
    }  # fmt: skip


# ---------------------------------------------------------------- null


def limit_of(subject: str) -> float:
    """The threshold of a subject as it comes."""
    return 0.0 if subject == OWN else drift_rivals.RIVALS[subject].limit


def settings_of(subject: str) -> tuple[float, ...]:
    """The parameters that have to be run one by one."""
    return () if subject == OWN else drift_rivals.RIVALS[subject].settings


def nulls(
    subjects: Sequence[str], size: Size, jobs: int
) -> tuple[Told, dict[str, dict[str, Setting]]]:
    """Count false alarms at the defaults; find each subject's setting at each rate."""
    shape = asdict(streams.STANDARD)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for subject in subjects:
        total = size.slow_rows if subject == "evidently" else size.null_rows * size.null_seeds
        rows = min(size.null_rows, total)
        tasks[subject] = [
            {"kind": "null", "seed": 1000 + i, "shape": shape, "rows": rows, "setting": setting}
            for i in range(total // rows)
            for setting in (None, *settings_of(subject))
        ]
    told: Told = []
    settings: dict[str, dict[str, Setting]] = {}
    for subject, answers in ask("null", tasks, jobs).items():
        if not answers:
            continue
        by: dict[float | None, list[Trace]] = {}
        for task, said in answers:
            by.setdefault(task["setting"], []).append(trace_of(said))
        usual = by.pop(None)
        limit = limit_of(subject)
        alarms = sum(scoring.false_events(t, limit) for t in usual)
        rows = sum(t.clean_rows for t in usual)
        if by:
            counted = {
                p: (sum(scoring.false_events(t, limit) for t in ts), sum(t.clean_rows for t in ts))
                for p, ts in by.items()
                if p is not None
            }
            counted[0.002] = (alarms, rows)
            settings[subject] = {
                name: scoring.parameter_at(counted, r) for name, r in RATES.items()
            }
        else:
            settings[subject] = {
                name: scoring.threshold_at(usual, r, limit) for name, r in RATES.items()
            }
        figures = {
            "false_alarms": float(alarms), "rows": float(rows), "false_alarms_per_10k": 1e4 * alarms / rows,
            "false_alarms_per_10k_at_most": 1e4 * scoring.at_most(alarms, rows),
            "us_per_row": 1e6 * sum(said["cpu_s"] for _, said in answers) / sum(s["ends"][-1] for _, s in answers),
        }  # fmt: skip
        for name, setting in settings[subject].items():
            figures[f"setting_at_{name}"] = setting.value
            figures[f"setting_at_{name}_measured"] = float(setting.how == "measured")
        told.append((subject, {"null": figures}))
    return told, settings


# ---------------------------------------------------------------- delay


def kinds_of(subject: str) -> tuple[str, ...]:
    """Kinds of trouble that a subject could see at all."""
    kinds = streams.TROUBLES
    if subject == OWN:
        return kinds
    rival = drift_rivals.RIVALS[subject]
    unseen = {"infra"}
    if not rival.labels:
        unseen |= {"concept", "label"}
    if rival.named:
        unseen.add("deploy")  # it looks at inputs alone
    return tuple(k for k in kinds if streams.KINDS[k].cause not in unseen)


def delays(
    settings: dict[str, dict[str, Setting]], size: Size, jobs: int
) -> tuple[Told, list[tuple[str, str | None]]]:
    """Measure the delay of each kind at the defaults and at the settings of equal rates; our causes, too."""
    shape = asdict(streams.STANDARD)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for subject, at in settings.items():
        seeds = size.slow_seeds if subject == "evidently" else size.seeds
        stop = max([limit_of(subject), *(s.value for s in at.values())])
        runs: Iterable[tuple[float | None, float]] = [(None, stop)]
        if settings_of(subject):
            runs = [(None, 1.0), *((s.value, 1.0) for s in at.values())]
        tasks[subject] = [
            {"kind": kind, "seed": seed, "shape": shape, "setting": setting, "stop": stop_at}
            for kind in kinds_of(subject)
            for seed in range(seeds)
            for setting, stop_at in runs
        ]
    told: Told = []
    causes: list[tuple[str, str | None]] = []
    for subject, answers in ask("delay", tasks, jobs).items():
        of: Figures = {}
        for kind in kinds_of(subject):
            mine = [(t, trace_of(s), s) for t, s in answers if t["kind"] == kind]
            usual = [(trace, said) for t, trace, said in mine if t["setting"] is None]
            if not usual:
                continue
            found = [scoring.delay(trace, limit_of(subject)) for trace, _ in usual]
            figures = {
                "delay": scoring.median(found),
                "found_ratio": float(np.mean(np.isfinite(found))),
                "false_before": float(sum(scoring.false_events(t, limit_of(subject)) for t, _ in usual)),
            }  # fmt: skip
            for name, setting in settings[subject].items():
                at = [scoring.delay(trace, setting.value) for trace, _ in usual]
                if settings_of(subject):
                    same = [trace for t, trace, _ in mine if t["setting"] == setting.value]
                    at = [scoring.delay(trace, 1.0) for trace in same]
                figures[f"delay_at_{name}"] = scoring.median(at)
            if subject == OWN:
                said_of = [cause_of(trace, said) for trace, said in usual]
                named = [(kind, cause) for cause in said_of if cause != ""]
                causes += named
                right = [cause == streams.KINDS[kind].cause for _, cause in named]
                figures["cause_right_ratio"] = float(np.mean(right)) if right else math.nan
            of[kind] = figures
        told.append((subject, of))
    return told, causes


def cause_of(trace: Trace, said: dict[str, Any]) -> str | None:
    """The cause that was named with the detection; "" = it was not detected."""
    i = scoring.detection(trace, 0.0)
    return "" if i is None else said["cause"][i]


def right_of(named: Sequence[tuple[str, str | None]]) -> dict[str, float]:
    """Share of detections with the right cause: of all, and of each true cause."""
    if not named:
        return {}
    by: dict[str, list[bool]] = {}
    for kind, cause in named:
        by.setdefault(str(streams.KINDS[kind].cause), []).append(cause == streams.KINDS[kind].cause)
    every = [ok for of in by.values() for ok in of]
    return {
        "cause_right_ratio": float(np.mean(every)),
        **{f"cause_right_ratio_{cause}": float(np.mean(of)) for cause, of in by.items()},
    }


def print_confusion(title: str, named: Sequence[tuple[str, str | None]]) -> None:
    """Say what was called what."""
    said = sorted({str(cause) for _, cause in named})
    tell(f"\n{title:20}" + "".join(f"{cause:>10}" for cause in said))
    for kind in streams.TROUBLES:
        mine = [str(cause) for k, cause in named if k == kind]
        if mine:
            cells = "".join(f"{mine.count(cause) or '.':>10}" for cause in said)
            tell(f"{kind:20}{cells}   is {streams.KINDS[kind].cause}")


# ---------------------------------------------------------------- fresh


def fresh(size: Size, jobs: int) -> tuple[Told, list[tuple[str, str | None]]]:
    """Watch services that nothing was fitted to."""
    first = 50_000
    tasks = []
    for i in range(size.fresh):
        seed = first + i
        shape = streams.fresh(seed)
        for kind in (*streams.TROUBLES, *streams.NULLS):
            task = {"kind": kind, "seed": seed, "shape": asdict(shape)}
            tasks.append(
                {**task, "rows": 20_000} if kind in streams.NULLS else {**task, "stop": 0.0}
            )
    answers = ask("fresh", {OWN: tasks}, jobs)[OWN]
    causes: list[tuple[str, str | None]] = []
    of: Figures = {"fresh": {}}
    found, false, clean = [], 0, 0
    for kind in (*streams.TROUBLES, *streams.NULLS):
        mine = [(trace_of(s), s) for t, s in answers if t["kind"] == kind]
        if not mine:
            continue
        alarms = sum(scoring.false_events(trace, 0.0) for trace, _ in mine)
        rows = sum(trace.clean_rows for trace, _ in mine)
        if kind in streams.NULLS:
            of["fresh"][f"false_alarms_per_10k_{kind}"] = 1e4 * alarms / rows
            continue
        false, clean = false + alarms, clean + rows
        said = [cause_of(trace, s) for trace, s in mine]
        causes += [(kind, cause) for cause in said if cause != ""]
        found += [cause != "" for cause in said]
        of["fresh"][f"found_ratio_{kind}"] = float(np.mean([cause != "" for cause in said]))
        of["fresh"][f"delay_{kind}"] = scoring.median([scoring.delay(trace, 0.0) for trace, _ in mine])  # fmt: skip
    if found:
        of["fresh"] |= {
            "found_ratio": float(np.mean(found)), "false_alarms_per_10k": 1e4 * false / clean, **right_of(causes)
        }  # fmt: skip
    return [(OWN, of)], causes


# ---------------------------------------------------------------- real streams


LEAST_ROWS = 500
HARM = 0.02
"""Accuracy that a documented change must cost to count as harmful."""


def stretches(data: Path, folder: Path) -> list[dict[str, Any]]:
    """Cut real streams at their documented changes; write what is watched to `folder` and return the tasks.

    The reference is the first part of a stretch: `n_ref` rows, or six tenths of it where it is shorter. The rest is
    clean; after it come up to 5,000 rows of the next stretch. A stream without documented changes is clean to its
    end; one with changes is not watched beyond its last stretch, of which nobody says that it is clean.
    """
    out = []
    for line in (data / "index.jsonl").read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        about = json.loads(line)
        table, features = read(data / about["file"], about)
        n = len(table)
        changes = sorted((d["row"], d["features"]) for d in about["drift"])
        cuts = [about["n_train"], *(row for row, _ in changes)]
        ends = [*(row for row, _ in changes), n]
        for k, (a, b) in enumerate(zip(cuts, ends, strict=True)):
            if b - a < LEAST_ROWS or (b == n and changes):
                continue
            usual = a + min(about["n_ref"], int(0.6 * (b - a)))
            last = min(b + 5000, ends[k + 1]) if b < n else n
            moved = changes[k][1] if b < n else []
            name = f"{about['name']}_{b}" if b < n else about["name"]
            path = folder / f"{name}.npz"
            parts = {"reference": table.part(slice(a, usual)), "watched": table.part(slice(usual, last))}  # fmt: skip
            np.savez(
                path,
                **{f"{w}_{f}": getattr(r, f) for w, r in parts.items() for f in Rows.__slots__},
            )
            before, after = parts["reference"], table.part(slice(b, last))
            out.append(
                {
                    "file": str(path), "kind": name, "set": about["name"], "task": about["task"], "features": features,
                    "start": b - usual if b < n else None,
                    "moved": [f for f in features if f.removeprefix("c_") in moved] if isinstance(moved, list) else [],
                    "harmful": b < n and harmful(before, after),
                }
            )  # fmt: skip
    return out


def harmful(before: Rows, after: Rows) -> bool:
    """Tell whether the model is worse after a change, beyond HARM and beyond chance."""
    a, b = (before.y == before.pred).mean(), (after.y == after.pred).mean()
    doubt = math.sqrt(a * (1 - a) / len(before) + b * (1 - b) / len(after))
    return bool(a - b > HARM and a - b > 3 * doubt)


def read(path: Path, about: dict[str, Any]) -> tuple[Rows, list[str]]:
    """Read a file: its rows, and the names of the columns as the adapter takes them."""
    from pyarrow import parquet

    table = parquet.read_table(path)

    def column(name: str) -> Array:
        array = table.column(name).combine_chunks()
        if name in about["categorical"]:
            if hasattr(array, "dictionary_decode"):
                array = array.dictionary_decode()
            texts = np.array([str(v) for v in array.to_pylist()])
            return np.unique(texts, return_inverse=True)[1].astype(np.float64)
        values: Array = array.to_numpy(zero_copy_only=False).astype(np.float64)
        return values

    x = np.column_stack([column(f) for f in about["features"]])
    y, pred, proba = (column(name) for name in ("y", "pred", "proba"))
    n = len(y)
    features = [("c_" if f in about["categorical"] else "") + f for f in about["features"]]
    rows = Rows(
        x, y.astype(np.int64), pred.astype(np.int64), proba, np.full(n, "v1"), np.full(n, 20.0), np.ones(n, dtype=bool)
    )  # fmt: skip
    return rows, features


def reals(
    tasks: Sequence[dict[str, Any]], subjects: Sequence[str], jobs: int, *, quick: bool
) -> Told:
    """Count false alarms on clean stretches and documented changes found, at the defaults."""

    def able(subject: str, task: dict[str, Any]) -> bool:
        rows = np.load(task["file"])["watched_y"].size
        if subject == "evidently":  # a millisecond a row, ten at a hundred columns
            return bool(rows * len(task["features"]) < (50_000 if quick else 250_000))
        return subject != "nannyml_cbpe" or task["task"] == "binary"

    asked = {s: [t for t in tasks if able(s, t)] for s in subjects}
    told: Told = []
    for subject, answers in ask("real", asked, jobs).items():
        of: Figures = {}
        limit = limit_of(subject)
        by: dict[str, list[tuple[dict[str, Any], Trace]]] = {}
        for task, said in answers:
            by.setdefault(task["set"], []).append((task, trace_of(said)))
        harm: list[bool] = []
        for name, mine in by.items():
            alarms = sum(scoring.false_events(t, limit) for _, t in mine)
            rows = sum(t.clean_rows for _, t in mine)
            figures = {"false_alarms_per_10k": 1e4 * alarms / rows, "clean_rows": float(rows)}
            changes = [
                (task, scoring.delay(t, limit)) for task, t in mine if task["start"] is not None
            ]
            if changes:
                figures["changes"] = float(len(changes))
                figures["changes_found"] = float(sum(math.isfinite(d) for _, d in changes))
            harm += [math.isfinite(d) for task, d in changes if task["harmful"]]
            of[name] = figures
            of |= {
                task["kind"]: {"delay": d, "harmful": float(task["harmful"])} for task, d in changes
            }
        if harm:
            of["real"] = {"harmful": float(len(harm)), "harmful_found_ratio": float(np.mean(harm))}
        told.append((subject, of))
    return told


# ---------------------------------------------------------------- accuracy without labels

ESTIMATED = tuple(
    k for k in streams.TROUBLES if streams.KINDS[k].cause in {"data", "pipeline", "concept"}
)


def labels_withheld(real: Sequence[dict[str, Any]], size: Size, jobs: int) -> Told:
    """Let accuracy be estimated from predictions alone, on real and made-up streams."""
    shape = asdict(streams.STANDARD)
    made = [
        {"kind": kind, "seed": seed, "shape": shape, "set": kind, "labels": False}
        for kind in (*ESTIMATED, "null")
        for seed in range(min(5, size.seeds))
    ]
    tasks = [*({**t, "labels": False} for t in real), *made]
    rivals = [t for t in tasks if t.get("task", "binary") == "binary"]
    told: Told = []
    for subject, answers in ask("label", {OWN: tasks, "nannyml_cbpe": rivals}, jobs).items():
        by: dict[str, list[Block]] = {}
        for task, said in answers:
            by.setdefault(task["set"], []).extend(Block(*b) for b in said.get("blocks", ()))
        of = {name: scoring.estimated(blocks) for name, blocks in by.items()}
        of["all"] = scoring.estimated([b for blocks in by.values() for b in blocks])
        told.append((subject, of))
    return told


# ---------------------------------------------------------------- cost


def costs(subjects: Sequence[str], size: Size) -> Told:
    """Time every subject alone on the same frame of 50 columns: a reference of 20,000 rows, then more."""
    told: Told = []
    for subject in subjects:
        argv = program(subject)
        if argv is None:
            continue
        tell(f"cost of {subject}")
        rows = size.cost_rows
        if subject == OWN:
            argv = [sys.executable, str(Path(__file__).resolve()), "--cost", str(rows)]
        else:
            argv = [*argv[:2], "--cost", subject, str(rows)]
        run = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
        lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
        if run.returncode or not lines:
            last = (run.stderr.strip() or "no message").splitlines()[-1]
            sys.stderr.write(f"cost of {subject}: {last}\n")
            continue
        told.append((subject, {"cost": json.loads(lines[-1])}))
    client = import_ms()
    if not math.isnan(client):
        told.append((OWN, {"cost": {"client_import_ms": client}}))
    return told


def own_cost(rows: int) -> dict[str, float]:
    """CPU a row in batches of 1,000 and of 100, bytes of state, and growth over a million rows."""
    memory = psutil.Process().memory_info
    usual, now = streams.frame(50, 20_000, 0), streams.frame(50, 20_000, 1)

    def batches(size: int) -> list[dict[str, Any]]:
        return [batch_of(i, now.part(slice(i, i + size))) for i in range(0, len(now), size)]

    large, small = batches(1000), batches(100)
    before = most = memory().rss
    # as the daemon has it where a thousand rows come at once: a batch a tick
    watch = adapters.drift(streams.names_of(50), "binary", batch_s=1.0)
    watch.fit_reference(usual.X, usual.y, usual.pred, usual.proba)
    # what a log reader makes of a line is no part of the watch
    large, small = ([watch.as_logged(one) for one in some] for some in (large, small))
    watch.take(large[0])  # the reference is taken with the first rows
    out = {}
    for given, many, name in (
        (small, rows // 5, "us_per_row_batches_of_100"), (large, rows, "us_per_row"), (large, 1_000_000 - rows, ""),
    ):  # fmt: skip
        size = len(given[0].served)
        spent = 0.0
        for i in range(many // size):
            began = time.process_time()
            watch.take(given[i % len(given)])
            spent += time.process_time() - began
            if i % 20 == 0:
                most = max(most, memory().rss)
        if name:
            out[name] = spent / many * 1e6
    out["rss_growth_mb_million_rows"] = (most - before) / 2**20
    out["state_bytes"] = float(watch.state_bytes())
    return out


def import_ms() -> float:
    """Milliseconds to import the client of services, the quickest of five; NaN = there is none."""
    if not (ROOT / "agent" / "client.py").exists():
        return math.nan
    code = "import time; t = time.perf_counter(); import agent.client; print(1e3 * (time.perf_counter() - t))"
    took = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for _ in range(5)
    ]  # fmt: skip
    return min(float(t) for t in took)


# ---------------------------------------------------------------- tables


def print_tables(of: dict[tuple[str, str, str], float | None], subjects: Sequence[str]) -> None:
    """Print what was measured, a table a part."""
    known = [s for s in subjects if any(k[1] == s for k in of)]

    def table(title: str, sets: Sequence[str], figures: dict[str, str]) -> None:
        rows = [(n, s) for n in sets for s in known if any((n, s, f) in of for f in figures)]
        if rows:
            tell(f"\n{title:20}{'':24}" + "".join(f"{head:>12}" for head in figures.values()))
            for n, s in rows:
                tell(f"{n:20}{s:24}" + "".join(f"{say(of.get((n, s, f))):>12}" for f in figures))

    sets = list(dict.fromkeys(k[0] for k in of))
    table("exchangeable rows", ["null"], {
        "rows": "rows", "false_alarms": "false", "false_alarms_per_10k": "per 10k",
        "false_alarms_per_10k_at_most": "at most",
        **{f"setting_at_{r}": f"at {r}" for r in RATES}, "us_per_row": "us/row",
    })  # fmt: skip
    table("delay", [k for k in streams.TROUBLES if k in sets], {
        "delay": "default", "found_ratio": "found", "false_before": "false",
        **{f"delay_at_{r}": f"at {r}" for r in RATES},
    })  # fmt: skip
    counted = {n for n, _, figure in of if figure == "false_alarms_per_10k"} - {"null", "fresh"}
    real = [n for n in sets if n in counted]
    table("real", [*real, "real"], {
        "false_alarms_per_10k": "FA/10k", "clean_rows": "clean rows", "changes": "changes", "changes_found": "found",
        "harmful": "harmful", "harmful_found_ratio": "found",
    })  # fmt: skip
    table("accuracy unlabelled", sets, {
        "accuracy_error": "error", "accuracy_error_constant": "constant", "accuracy_error_ratio": "ratio",
        "accuracy_estimable_ratio": "estimable", "accuracy_band_covers": "90 % band",
    })  # fmt: skip
    table("cost", ["cost"], {
        "us_per_row": "us/row", "us_per_row_batches_of_100": "by 100", "rss_growth_mb": "frame MB",
        "rss_growth_mb_million_rows": "1M rows MB", "state_bytes": "state bytes", "import_s": "import s",
        "client_import_ms": "client ms",
    })  # fmt: skip
    fresh_figures = {f: v for (n, s, f), v in of.items() if n == "fresh" and s == OWN}
    if fresh_figures:
        tell("\nfresh services")
        for figure, value in fresh_figures.items():
            tell(f"    {figure:40}{say(value):>10}")


def print_promises(of: dict[tuple[str, str, str], float | None]) -> None:
    """Say which promises are kept."""
    limits: list[tuple[str, str, str, float, str]] = [
        (name, figure, sign, limit, "") for (name, figure), (sign, limit) in PROMISED.items()
    ]
    limits.append(("all", "accuracy_band_covers", "<=", 0.95, ""))
    for n, s, figure in of:
        if s == OWN and figure == "accuracy_error_ratio" and n not in {"car_loan", "all"}:
            limits.append((n, figure, "<=", 1.05, ""))
    for kind in streams.TROUBLES:
        for r in RATES:
            figure = f"delay_at_{r}"
            slow = ADWIN if kind in streams.SLOW else ()
            for times, rivals in ((2.0, tuple(drift_rivals.RIVALS)), (1.5, slow)):
                # a median that nobody reached is no mark to be measured by
                theirs = [(v, s) for s in rivals if (v := of.get((kind, s, figure))) is not None]
                if theirs:
                    best, whose = min(theirs)
                    limits.append((kind, figure, "<=", times * best, f"{times:g} x {whose}"))
    tell("\npromised for homeostat")
    for name, figure, sign, limit, why in limits:
        if (name, OWN, figure) not in of:
            continue
        value = of[name, OWN, figure]
        kept = value is not None and (value >= limit if sign == ">=" else value <= limit)
        mark = "kept" if kept else "missed"
        tell(f"{name:18}{figure:30}{sign} {say(limit):8}{say(value):>9}  {mark:6}  {why}")


# ---------------------------------------------------------------- the whole


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and seeds: three minutes")
    parser.add_argument("--seeds", type=int, help="streams of each kind of trouble")
    parser.add_argument("--only", type=names(PARTS), default=list(PARTS), help="parts, by commas")
    parser.add_argument(
        "--subjects", type=names((OWN, *drift_rivals.RIVALS)), default=[OWN, *drift_rivals.RIVALS],
        help="by commas",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="side by side"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cost", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def find_data() -> Path | str:
    """The folder of the real streams, or why there are none."""
    given = os.environ.get("HOMEOSTAT_BENCH_DATA")
    if not given:
        return "HOMEOSTAT_BENCH_DATA is not set"
    data = Path(given) / "drift"
    return data if (data / "index.jsonl").is_file() else f"{data} has no index.jsonl"


def measure(
    asked: argparse.Namespace, subjects: Sequence[str], size: Size
) -> tuple[Told, dict[str, dict[str, Setting]]]:
    """All figures of the parts that were asked for, and the settings of equal rates."""
    told: Told = []
    settings: dict[str, dict[str, Setting]] = {}
    if {"null", "delay"} & set(asked.only):
        told, settings = nulls(subjects, size, asked.jobs)
    if "delay" in asked.only:
        more, causes = delays(settings, size, asked.jobs)
        told += [*more, (OWN, {"synthetic": right_of(causes)})]
        print_confusion("causes, standard", causes)
    if "fresh" in asked.only:
        more, causes = fresh(size, asked.jobs)
        told += more
        print_confusion("causes, fresh", causes)
    data = find_data()
    with tempfile.TemporaryDirectory() as folder:
        real = [] if isinstance(data, str) else stretches(data, Path(folder))
        if "real" in asked.only and real:
            told += reals(real, subjects, asked.jobs, quick=asked.quick)
        if "label" in asked.only:
            told += labels_withheld(real, size, asked.jobs)
    if "cost" in asked.only:
        told += costs(subjects, size)
    return told, settings


def notes_of(
    asked: argparse.Namespace, subjects: Sequence[str], settings: dict[str, dict[str, Setting]]
) -> list[str]:
    """What a reader of the figures must know."""
    notes = [
        f"{s}: its environment is not there (make build/{drift_rivals.RIVALS[s].environment})"
        for s in asked.subjects
        if s not in subjects
    ]
    if asked.quick:
        notes.append("quick: few rows and seeds; figures of the whole differ")
    data = find_data()
    if isinstance(data, str):
        notes.append(f"no real streams: {data}")
    for how in ("extrapolated", "silent"):
        of_how = [
            f"{s} {' '.join(n for n, x in at.items() if x.how == how)}"
            for s, at in settings.items()
            if any(x.how == how for x in at.values())
        ]
        if of_how:
            notes.append(f"settings {how}: {', '.join(of_how)}")
    return notes


def main() -> int:
    asked = arguments()
    if asked.serve:
        drift_rivals.serve(own_trace)
        return 0
    if asked.cost:
        sys.stdout.write(json.dumps(own_cost(asked.cost)) + "\n")
        return 0
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[threads] = "1"
    began = time.monotonic()
    size = QUICK if asked.quick else WHOLE
    size = replace(size, seeds=asked.seeds or size.seeds)
    subjects = [s for s in asked.subjects if program(s)]
    told, settings = measure(asked, subjects, size)
    of = {
        (n, s, f): float(v) if math.isfinite(v) else None
        for s, figures in told
        for n, of_set in figures.items()
        for f, v in of_set.items()
    }
    print_tables(of, subjects)
    print_promises(of)
    notes = notes_of(asked, subjects, settings)
    report = {
        "machine": machine(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began), "quick": asked.quick, "notes": notes,
        "rows": [{"set": n, "subject": s, "figure": f, "value": v} for (n, s, f), v in of.items()],
    }  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    tell("\n" + "\n".join([*notes, report["machine"], f"{report['seconds']} s; written to {asked.out}"]))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
