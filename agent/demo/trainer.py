"""The training pipeline of the demo's model: `python -m agent.demo.trainer first|release|retrain ...`.

Writes versions in the layout of TensorFlow Serving and Triton: `<root>/<model>/<version>/model.joblib` with
`metadata.json`, `reference.json` and the rows it learnt (`training.npz`), and moves the champion pointer
`champion.json`. For every candidate it also trains a backup without the strongest feature.

    first     the first version, from the rows of `--rows`; it becomes champion
    release   a worse version: the champion's own rows with a share of wrong labels, as a broken label join
              makes them; it becomes champion. The pipeline does not notice: it trusts its labels
    retrain   a challenger from recent labelled rows of the logs, compared with the champion on rows that
              neither trained on; it is not promoted here, the report is for whoever decides

The last line of standard output is a JSON report. Exit 0: done; 3: refused (retraining is held, or there are not
enough labelled rows). The same HOMEOSTAT_KEY gives the same version: a second run finds it and says so.

Model: 60 bagged trees over all features (scikit-learn, `RandomForestClassifier(max_features=None)`): 0.15 s to
train, about 3 ms of one core a row to ask. Accuracy, confidence and class shares in the reference are out of bag.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.demo.rows import CLASSES, FEATURES, STRONG, Rows, load
from agent.model import FloatArray

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

TREES: Final = 60
BINS: Final = 10
HOLDBACK: Final = 0.3
"""Share of the distinct rows that the challenger must not see."""
REFUSED: Final = 3


class NotNow(Exception):
    """The pipeline will not train; the message says why."""


# ---- the model directory


def write_json(path: Path, value: object) -> None:
    """Replace a file whole: whoever reads it sees the old or the new one, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        json.dump(value, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(name, path)  # noqa: PTH105  # the call that is atomic, by its own name


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a model's folder, as everybody does who moves its pointer or numbers a version."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def champion(folder: Path) -> str:
    """Return the version that the pointer names."""
    return str(read_json(folder / "champion.json")["version"])


def promote(folder: Path, version: str, by: str) -> str:
    """Move the pointer under the lock; return the version that was champion ("" for the first)."""
    with locked(folder):
        return move(folder, version, by)


def move(folder: Path, version: str, by: str) -> str:
    """Move the pointer, for who holds the lock; return the version that was champion ("" for the first)."""
    pointer = folder / "champion.json"
    now = read_json(pointer) if pointer.exists() else {"version": "", "previous": []}
    before = str(now["version"])
    previous = ([before] if before else []) + [v for v in now["previous"] if v != before]
    value = {"version": version, "previous": previous, "changed": time.time(), "by": by}
    write_json(pointer, value)
    return before


# ---- a version


def fit(rows: Rows, seed: int) -> RandomForestClassifier:
    """Train on these rows."""
    # here, as in what reads models: clients of the service write files as the trainer does, and need none of it
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        TREES, max_features=None, oob_score=True, random_state=seed, n_jobs=1
    )
    return forest.fit(rows.x, np.array(CLASSES)[rows.bad.astype(int)])


def accuracy(model: RandomForestClassifier, rows: Rows) -> float:
    """Share of rows that it classifies rightly."""
    return float(np.mean((model.predict(rows.x) == CLASSES[1]) == rows.bad))


def reference(model: RandomForestClassifier, rows: Rows) -> dict[str, Any]:
    """Describe what this version is used to: its inputs by quantile bins, its answers out of bag."""
    votes = np.nan_to_num(
        model.oob_decision_function_, nan=0.5
    )  # NaN: a row that every tree has seen
    answers = model.classes_[votes.argmax(axis=1)]
    truth = np.array(CLASSES)[rows.bad.astype(int)]
    features: dict[str, Any] = {}
    for i, name in enumerate(rows.names):
        column = rows.x[:, i]
        edges = np.unique(np.quantile(column, np.linspace(0, 1, BINS + 1)))
        counts, _ = np.histogram(column, edges)
        features[name] = {
            "edges": edges.tolist(),
            "shares": (counts / len(column)).tolist(),
            "missing": 0.0,
            "min": float(column.min()),
            "max": float(column.max()),
            "median": float(np.median(column)),
        }
    return {
        "rows": len(rows),
        "accuracy": float(np.mean(answers == truth)),
        "confidence": float(votes.max(axis=1).mean()),
        "classes": {name: float(np.mean(answers == name)) for name in CLASSES},
        "features": features,
    }


def write_version(
    folder: Path, version: str, rows: Rows, *, role: str, parent: str, seed: int, key: str = ""
) -> RandomForestClassifier:
    """Train a version and put its folder in place in one move; return the model."""
    import joblib

    model = fit(rows, seed)
    seen = reference(model, rows)
    started = Path(tempfile.mkdtemp(dir=folder, prefix=".training-"))
    joblib.dump(model, started / "model.joblib")
    rows.save(started / "training.npz")
    write_json(started / "reference.json", seen)
    write_json(
        started / "metadata.json",
        {
            "version": version,
            "role": role,
            "features": list(rows.names),
            "trained_at": time.time(),
            "accuracy": seen["accuracy"],
            "parent": parent,
            "key": key,
            "trained_on": {"rows": len(rows), "sha256": fingerprint(rows)},
        },
    )
    started.chmod(0o755)
    started.rename(folder / version)
    return model


def next_number(folder: Path) -> int:
    """Return the number after the highest."""
    return max((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), default=0) + 1


def write_pair(
    folder: Path, rows: Rows, *, parent: str, seed: int, key: str = ""
) -> tuple[str, str, RandomForestClassifier]:
    """Train a candidate and its backup without the strongest feature; return their versions and the model.

    The backup is written first: whoever finds the candidate finds a complete pair.
    """
    with locked(folder):
        number = next_number(folder)
        version, backup = str(number), str(number + 1)
        weaker = rows.without(frozenset({STRONG}))
        write_version(folder, backup, weaker, role="backup", parent=version, seed=seed, key=key)
        model = write_version(
            folder, version, rows, role="candidate", parent=parent, seed=seed, key=key
        )
    return version, backup, model


def fingerprint(rows: Rows) -> str:
    """Hash of the data: the same rows give the same text."""
    digest = hashlib.sha256(",".join(rows.names).encode())
    digest.update(np.ascontiguousarray(rows.x).tobytes())
    digest.update(np.ascontiguousarray(rows.bad).tobytes())
    return digest.hexdigest()


def code_hash() -> str:
    """Hash of this file: which code trained."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


# ---- the three jobs


def first(root: Path, name: str, rows: Path, seed: int) -> dict[str, Any]:
    """Train the first version with its backup and make it champion."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    version, backup, _ = write_pair(folder, load(rows), parent="", seed=seed)
    promote(folder, version, by="pipeline")
    return {"version": version, "backup": backup, "code": code_hash()}


def spoil(rows: Rows, share: float, seed: int) -> Rows:
    """Return the rows with `share` of the benign ones labelled malignant."""
    chance = np.random.default_rng(seed).random(len(rows))
    return Rows(rows.names, rows.x, rows.bad | (chance < share))


def release(
    root: Path, name: str, wrong: float, seed: int, *, only_train: bool = False
) -> dict[str, Any]:
    """Train a version on partly wrong labels, as a broken join makes them, and make it champion unless `only_train`."""
    folder = root / name
    parent = champion(folder)
    rows = spoil(load(folder / parent / "training.npz"), wrong, seed)
    with locked(folder):
        version = str(next_number(folder))
        write_version(folder, version, rows, role="candidate", parent=parent, seed=seed)
    changed = time.time()
    if not only_train:
        promote(folder, version, by="release-pipeline")
    return {"version": version, "parent": parent, "changed": changed, "code": code_hash()}


@dataclass(frozen=True, slots=True, eq=False)
class Logged:
    """Rows that the champion served and whose label has come, oldest first.

    ts (n,) when served; right (n,) whether the champion's answer was right
    """

    rows: Rows
    ts: FloatArray
    right: FloatArray


def tail(path: Path, limit: int = 8 << 20) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines in the last `limit` bytes of a log; the line that is being written is left out."""
    if not path.exists():
        return
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - limit))
        if size > limit:
            log.readline()
        for line in log:
            if line.endswith(b"\n"):
                yield json.loads(line)


def logged(
    predictions: Path,
    labels: Path,
    *,
    version: str,
    names: Sequence[str],
    newest: int,
    since: float = 0.0,
) -> Logged:
    """Join the newest rows that `version` served since `since` with their labels.

    Rows without a feature of `names` are left out.
    """
    truth = {line["id"]: line["label"] for line in tail(labels)}
    kept = [
        line
        for line in tail(predictions)
        if line["version"] == version
        and line["status"] == 200
        and line["ts"] >= since
        and line["id"] in truth
        and all(line["features"].get(name) is not None for name in names)
    ]
    kept.sort(key=lambda line: float(line["ts"]))
    kept = kept[-newest:]
    x = np.array([[float(line["features"][n]) for n in names] for line in kept]).reshape(
        -1, len(names)
    )
    label = [str(truth[line["id"]]) for line in kept]
    right = [float(line["pred"] == truth[line["id"]]) for line in kept]
    return Logged(
        Rows(tuple(names), x, np.array([text == CLASSES[1] for text in label], dtype=np.bool_)),
        np.array([float(line["ts"]) for line in kept]),
        np.array(right),
    )


def change_point(right: FloatArray, margin: int = 30) -> int:
    """Return where the champion's answers became worse, as an index into `right`; 0 when they did not.

    The most likely split of a Bernoulli series into two rates; it counts when twice its log-likelihood ratio
    exceeds 15 (well above what the best of some thousand splits of an unchanged series reaches) and the rate fell.
    Cost O(n). Source: Hinkley & Hinkley 1970, inference about the change-point in binomial variables.
    """
    n = len(right)
    if n < 2 * margin:
        return 0
    head = np.cumsum(right)[:-1]
    k = np.arange(1, n)
    before, after = head / k, (right.sum() - head) / (n - k)

    def likelihood(hits: FloatArray, rate: FloatArray, count: FloatArray) -> FloatArray:
        p = np.clip(rate, 1e-9, 1 - 1e-9)
        out: FloatArray = hits * np.log(p) + (count - hits) * np.log1p(-p)
        return out

    whole = right.mean()
    ratio = 2 * (
        likelihood(head, before, k.astype(np.float64))
        + likelihood(right.sum() - head, after, (n - k).astype(np.float64))
        - likelihood(np.array([right.sum()]), np.array([whole]), np.array([float(n)]))
    )
    ratio[(k < margin) | (k > n - margin) | (after >= before)] = 0.0
    best = int(ratio.argmax())
    return int(k[best]) if ratio[best] > 15 else 0


def distinct(rows: Rows) -> tuple[Rows, list[str]]:
    """Return each distinct row once, with its newest label, and a hash per row."""
    newest: dict[str, int] = {}
    for i in range(len(rows)):
        newest[hashlib.sha256(rows.x[i].tobytes()).hexdigest()] = i
    return rows.take(np.array(list(newest.values()), dtype=np.int64)), list(newest)


def held_back(hashes: Sequence[str]) -> list[bool]:
    """Choose the rows to hold back, by their content alone: the same row is always on the same side."""
    return [int(text[:8], 16) / 0xFFFFFFFF < HOLDBACK for text in hashes]


def compare(
    old: RandomForestClassifier, old_names: Sequence[str], new: RandomForestClassifier, rows: Rows
) -> dict[str, Any]:
    """Compare champion and challenger row by row on rows that the challenger has not seen."""
    columns = [rows.names.index(name) for name in old_names]
    was = (old.predict(rows.x[:, columns]) == CLASSES[1]) == rows.bad
    now = (new.predict(rows.x) == CLASSES[1]) == rows.bad
    return {
        "rows": len(rows),
        "champion": {"accuracy": float(was.mean())},
        "challenger": {"accuracy": float(now.mean())},
        "champion_only": int((was & ~now).sum()),
        "challenger_only": int((now & ~was).sum()),
    }


def held(folder: Path) -> str:
    """Return why retraining is held back; "" when it is not."""
    mark = folder / "RETRAINING_HELD"
    return mark.read_text(encoding="utf-8").strip() or "no reason given" if mark.exists() else ""


def find(folder: Path, key: str) -> str:
    """Return the candidate that was trained under a key; "" when there is none."""
    for path in sorted(folder.glob("*/metadata.json")):
        seen = read_json(path)
        if key and seen.get("key") == key and seen["role"] == "candidate":
            return str(seen["version"])
    return ""


def retrain(
    root: Path,
    name: str,
    predictions: Path,
    labels: Path,
    *,
    reports: Path | None,
    key: str,
    newest: int,
    enough: int,
    patience_s: float,
    seed: int,
) -> dict[str, Any]:
    """Train a challenger on what the champion served since it became worse, and compare the two.

    enough      distinct labelled rows that must have come since then; waits for them up to `patience_s`
    Raises NotNow when retraining is held or the rows do not come.
    """
    import joblib

    folder = root / name
    report = reports / f"{slug(key)}.json" if reports and key else None
    if report and report.exists() and find(folder, key):
        return read_json(report)
    if reason := held(folder):
        raise NotNow(f"retraining of {name} is held: {reason}")
    for path in folder.glob(".training-*"):  # left by a run that was killed
        shutil.rmtree(path, ignore_errors=True)
    parent = champion(folder)
    since = float(
        read_json(folder / "champion.json")["changed"]
    )  # older rows may tell of older trouble
    names = tuple(read_json(folder / parent / "metadata.json")["features"])
    if STRONG not in names:
        names = tuple(FEATURES)  # a backup serves: the challenger may use every feature again
    waited = time.monotonic() + patience_s
    while True:
        log = logged(predictions, labels, version=parent, names=names, newest=newest, since=since)
        start = change_point(log.right)
        recent, hashes = distinct(log.rows.take(slice(start, None)))
        if len(recent) >= enough:
            break
        if time.monotonic() >= waited:
            raise NotNow(
                f"{len(recent)} distinct labelled rows since the change, {enough} are needed"
            )
        time.sleep(0.5)
    back = np.array(held_back(hashes), dtype=np.bool_)
    train, test = recent.take(~back), recent.take(back)
    version = find(folder, key)
    if version:
        model = joblib.load(folder / version / "model.joblib")
        backup = ""
    else:
        version, backup, model = write_pair(folder, train, parent=parent, seed=seed, key=key)
    old = joblib.load(folder / parent / "model.joblib")
    old_names = read_json(folder / parent / "metadata.json")["features"]
    out = {
        "version": version,
        "backup": backup,
        "parent": parent,
        "holdback": compare(old, old_names, model, test),
        "data": {
            "served_rows": len(log.rows) - start,
            "distinct_rows": len(recent),
            "trained_rows": len(train),
            "since": float(log.ts[start]) if len(log.ts) else math.nan,
            "changed": start > 0,
            "sha256": fingerprint(train),
        },
        "code": code_hash(),
        "params": {"trees": TREES, "seed": seed, "newest": newest, "holdback": HOLDBACK},
    }
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_json(report, out)
    return out


def slug(key: str) -> str:
    """Return a key as a file name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", key)[:120]


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Do one job and print its report."""
    parser = argparse.ArgumentParser(
        prog="agent.demo.trainer",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    jobs = parser.add_subparsers(dest="job", required=True)
    for job in ("first", "release", "retrain"):
        one = jobs.add_parser(job)
        one.add_argument("--root", type=Path, required=True, help="the model directory")
        one.add_argument("--model", default="scoring")
        one.add_argument("--seed", type=int, default=0)
        if job == "first":
            one.add_argument("--rows", type=Path, required=True, help="rows to train on (.npz)")
        elif job == "release":
            one.add_argument(
                "--wrong", type=float, default=0.6, help="share of benign rows labelled wrongly"
            )
            one.add_argument(
                "--only-train", action="store_true", help="leave the champion as it is"
            )
        else:
            one.add_argument("--predictions", type=Path, required=True)
            one.add_argument("--labels", type=Path, required=True)
            one.add_argument("--reports", type=Path)
            one.add_argument("--newest", type=int, default=1500, help="look at so many served rows")
            one.add_argument(
                "--enough", type=int, default=230, help="distinct labelled rows that are needed"
            )
            one.add_argument(
                "--patience", type=float, default=15.0, help="seconds to wait for them"
            )
    o = parser.parse_args(argv)
    try:
        if o.job == "first":
            out = first(o.root, o.model, o.rows, o.seed)
        elif o.job == "release":
            out = release(o.root, o.model, o.wrong, o.seed, only_train=o.only_train)
        else:
            out = retrain(
                o.root, o.model, o.predictions, o.labels, reports=o.reports,
                key=environ.get("HOMEOSTAT_KEY", ""), newest=o.newest, enough=o.enough,
                patience_s=o.patience, seed=o.seed,
            )  # fmt: skip
    except NotNow as no:
        print(f"refused: {no}", file=sys.stderr)  # noqa: T201  # a command's own words
        return REFUSED
    print(json.dumps(out))  # noqa: T201  # the report is this command's result
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
