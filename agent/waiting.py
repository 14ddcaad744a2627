"""What each check of the model watch still waits for: told of the rows that a feed has just given.

    arrivals of any feed + references + limits -> for each model and version: rows, columns, checks (ready, or what for)

For people who connect a log and want to know whether it will do, before anything was learnt. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from agent.config import WatchModels
from agent.models.truth import LEARN_LABELS
from agent.ports import LabelBatch, PredictionBatch
from agent.roles import LOOK_ROWS, Guess, Role, guess

_OFTEN: Final = 0.5
"""Of the rows; what fewer have is not counted on."""
_DAY_H: Final = 24.0
_RELATION_ROWS: Final = 200
_ESTIMATE_ROWS: Final = 1000
_SLICED: Final = range(2, 9)
"""Values of a text that is looked at value by value."""


@runtime_checkable
class Roled(Protocol):
    """A feed whose columns were not named for us: it says how it reads them."""

    def roles(self) -> Sequence[Guess]:
        """Return the role of every column; () before a row was read."""
        ...


def look(
    arrivals: Sequence[Any],
    config: WatchModels,
    reference: Callable[[str, str], Mapping[str, Any] | None],
    given: Sequence[Guess] = (),
) -> list[dict[str, Any]]:
    """Return JSON-able facts of each model and version among the arrivals.

    given   roles that the feed says; without them those of our own records, which name their fields
    """
    rows: dict[tuple[str, str], list[PredictionBatch]] = {}
    labels: dict[str, set[str]] = {}
    for one in arrivals:
        if isinstance(one, PredictionBatch):
            rows.setdefault((one.model, one.version), []).append(one)
        elif isinstance(one, LabelBatch):
            labels.setdefault(one.model, set()).update(one.ids)
    out = []
    for (model, version), batches in rows.items():
        open_ = labels.get("", set())  # labels that name no model find their rows by id
        seen = _Seen(batches, labels.get(model, open_) | open_, reference(model, version), config)
        arms = {_arm(b) for (m, _), more in rows.items() if m == model for b in more}
        own = {_arm(b) for b in batches}
        others = sorted(arms - own if len(own) == 1 else arms)
        out.append(
            {
                "model": model, "version": version, "rows": seen.n, "labels": seen.labelled,
                "columns": [asdict(g) for g in given or _named(batches, labelled=bool(seen.labelled))],
                "checks": [
                    {"check": check, "ready": not text.startswith("! "), "text": text.removeprefix("! ")}
                    for check, text in seen.checks(others)
                ],
            }
        )  # fmt: skip
    out += [
        {"model": model, "version": "", "rows": 0, "labels": len(ids), "columns": [asdict(g) for g in given],
         "checks": [{"check": "accuracy", "ready": False, "text": "predictions with these ids"}]}
        for model, ids in labels.items() if not any(model in {m, ""} for m, _ in rows)
    ]  # fmt: skip
    return out


def _arm(batch: PredictionBatch) -> str:
    return f"{batch.version}@{batch.variant}" if batch.variant else batch.version


class _Seen:
    """The rows of one version; a text that begins with "! " says what is missing."""

    def __init__(
        self,
        batches: Sequence[PredictionBatch],
        labels: set[str],
        reference: Mapping[str, Any] | None,
        config: WatchModels,
    ) -> None:
        model = batches[0].model
        self._batches = batches
        self._config = config
        self._reference = reference
        self.n = sum(len(b.ts) for b in batches)
        ids = {i for b in batches for i in b.ids if i}
        self._ids = sum(1 for b in batches for i in b.ids if i)
        self.labelled = len(ids & labels)
        self._features = {name for b in batches for name in b.features}
        self._given = bool({model, f"{model}/{batches[0].version}"} & set(config.reference))
        self._numbers = any(
            b.pred is not None and np.asarray(b.pred).dtype.kind == "f" for b in batches
        )
        self._texts: dict[str, set[str]] = {}
        """Features that are texts -> their values."""
        for batch in batches:
            for name, column in batch.features.items():
                if np.asarray(column).dtype.kind == "O":
                    values = {str(v) for v in np.asarray(column).tolist() if v is not None}
                    self._texts.setdefault(name, set()).update(values)

    def checks(self, others: Sequence[str]) -> list[tuple[str, str]]:
        """Return each check with what it says."""
        return [
            ("requests, errors", "every row counts"),
            ("latency", self._latency()),
            ("inputs: contract, drift", self._inputs()),
            ("inputs: joint change", self._joint()),
            ("inputs: rhythm of the day", self._rhythm()),
            ("mix of predictions", self._mix()),
            ("confidence", self._confidence()),
            ("accuracy without labels", self._expected()),
            ("accuracy", self._accuracy()),
            ("precision, recall, errors in size", self._figures()),
            ("quality lost", self._lost()),
            ("relation to the label", self._relation()),
            ("quality by slice", self._slices()),
            ("gaps between groups", self._gaps()),
            ("what a loss is made of", self._parts()),
            ("against other versions", f"{', '.join(others)}" if others else "! rows of another version or `variant`"),
        ]  # fmt: skip

    def _parts(self) -> str:
        if not self._given:
            return "! rows as a reference (`models.reference`), with labels and answers"
        return "by the rows of `models.reference`"

    def _share(self, test: Callable[[PredictionBatch], Any]) -> float:
        return sum(float(np.count_nonzero(test(b))) for b in self._batches) / max(1, self.n)

    def _latency(self) -> str:
        if self._share(lambda b: np.isfinite(b.latency_s)) < _OFTEN:
            return "! `latency_ms` in the rows (a batch run has none)"
        return "as clients see it"

    def _inputs(self) -> str:
        if not self._features:
            return "! features in the rows"
        if self._given:
            return "against the rows of `models.reference`"
        if self._reference is None:
            return self._rows("a reference, or the first {} rows", self._config.first_rows)
        known = set(self._reference.get("features", {}))
        said = f"against the reference of {self._reference.get('rows', 0):,} rows"
        gone, new = sorted(known - self._features), sorted(self._features - known)
        said += f"; not in the rows: {', '.join(gone[:5])}" if gone else ""
        return said + (f"; not in the reference: {', '.join(new[:5])}" if new else "")

    def _joint(self) -> str:
        numbers = [name for name in self._features if not self._texts.get(name)]
        if len(numbers) < 2:  # a pair
            return "! two features that are numbers"
        if self._given:
            return "pairs of numbers, against the rows of the reference"
        if self._reference is not None:
            return "! rows as a reference (`models.reference`): shares of single columns tell nothing of pairs"
        return self._rows(
            "rows as a reference (`models.reference`), or the first {} rows",
            self._config.first_rows,
        )

    def _rhythm(self) -> str:
        if not self._features:
            return "! features in the rows"
        if self._given:
            return "as the rows of the reference have it, and what comes"
        ts = np.concatenate([b.ts[np.isfinite(b.ts)] for b in self._batches])
        hours = float(np.ptp(ts)) / 3600.0 if len(ts) else 0.0
        if hours < _DAY_H:
            return f"! a day of rows, until then only large changes are told: {hours:.1f} h so far"
        return f"{hours:.0f} h of rows are there"

    def _expected(self) -> str:
        if self._numbers:
            return "! classes: for numbers there is none"
        if self._share(lambda b: np.isfinite(b.proba)) < _OFTEN:
            return "! `proba` in the rows"
        return self._labelled(
            "labels in the rows of the reference (`models.reference`), or", _ESTIMATE_ROWS
        )

    def _figures(self) -> str:
        what = "bias, MAE, RMSE, R2" if self._numbers else "precision, recall, F1"
        if not self._numbers and self._share(lambda b: np.isfinite(b.proba)) >= _OFTEN:
            what += ", AUC, log loss, calibration"
        least = self._config.min_rows
        return (
            f"! {least:,} labelled rows, for {what}: {self.labelled:,} so far"
            if self.labelled < least
            else what
        )

    def _relation(self) -> str:
        if self._share(_predicted) < _OFTEN:
            return "! `pred` in the rows"
        return self._labelled(
            "labels in the rows of the reference (`models.reference`), or", _RELATION_ROWS
        )

    def _labelled(self, what: str, most: int) -> str:
        if self._given:
            return "against the rows of the reference, where they have labels"
        if self.labelled < most:
            return f"! {what} {most:,} labelled rows: {self.labelled:,} so far"
        return f"the first {most:,} labelled rows (they are there)"

    def _slices(self) -> str:
        found = sorted(name for name, values in self._texts.items() if len(values) in _SLICED)
        least = self._config.min_rows
        if self.labelled < least:
            return f"! {least:,} labelled rows: {self.labelled:,} so far"
        by = (
            [*found[:5], "how sure it was"]
            if self._share(lambda b: np.isfinite(b.proba)) >= _OFTEN
            else found[:5]
        )
        return (
            f"by {', '.join(by)}"
            if by
            else f"! a text of {_SLICED[0]} to {_SLICED[-1]} values, or `proba`"
        )

    def _gaps(self) -> str:
        groups = self._config.protected
        if not groups:
            return "! groups that must not be treated differently, named under `models.protected`"
        unfit = [g for g in groups if len(self._texts.get(g, ())) not in _SLICED]
        if unfit:
            return f"! texts of {_SLICED[0]} to {_SLICED[-1]} values; {', '.join(unfit)} is none"
        least = self._config.min_rows
        if self.labelled < least:
            return f"! {least:,} labelled rows: {self.labelled:,} so far"
        return f"between values of {', '.join(groups)}"

    def _mix(self) -> str:
        if self._share(_predicted) < _OFTEN:
            return "! `pred` in the rows"
        if self._given:
            return "against the rows of `models.reference`"
        if self._reference is None or not self._reference.get("classes"):
            return self._rows(
                "a reference with classes, or the first {} rows", self._config.first_rows
            )
        return f"against {len(self._reference['classes'])} classes of the reference"

    def _rows(self, what: str, most: int) -> str:
        said = what.format(f"{most:,}")
        return (
            f"! {said}: {min(self.n, most):,} so far"
            if self.n < most
            else said + " (they are there)"
        )

    def _confidence(self) -> str:
        if self._share(lambda b: np.isfinite(b.proba)) < _OFTEN:
            return "! `proba` in the rows"
        return "probability of what was predicted"

    def _accuracy(self) -> str:
        least = self._config.min_rows
        if self._share(_predicted) < _OFTEN:
            return "! `pred` in the rows"
        if self._ids < _OFTEN * self.n:
            return f"! an `id` in the rows, for late labels to find them: {self._ids:,} of {self.n:,} have one"
        if self.labelled < least:
            return f"! {least:,} labelled rows: {self.labelled:,} so far"
        return f"{self.labelled:,} rows have a label"

    def _lost(self) -> str:
        accuracy = (self._reference or {}).get("accuracy")
        if isinstance(accuracy, int | float):
            said = f"against {accuracy:.1%} of the reference"
            return said if self.labelled >= self._config.min_rows else f"! labelled rows; {said}"
        most = LEARN_LABELS
        if self.labelled < most:
            return f"! a reference with its accuracy, or the first {most:,} labelled rows: {self.labelled:,} so far"
        return f"learns from the first {most:,} labelled rows (they are there)"


def _predicted(batch: PredictionBatch) -> Any:
    if batch.pred is None:
        return np.zeros(len(batch.ts), dtype=np.bool_)
    array = np.asarray(batch.pred)
    if array.dtype.kind == "f":
        return np.isfinite(array)
    return np.array([v is not None for v in array.tolist()], dtype=np.bool_)


def _named(batches: Sequence[PredictionBatch], *, labelled: bool) -> list[Guess]:
    """Return the columns of rows that name their fields, and which features look like something else."""
    first = batches[0]
    there: tuple[tuple[str, Role, bool], ...] = (
        ("id", "id", any(first.ids)), ("ts", "ts", True), ("version", "version", bool(first.version)),
        ("pred", "prediction", bool(np.any(_predicted(first)))),
        ("proba", "probability", bool(np.isfinite(first.proba).any())),
        ("latency_ms", "latency", bool(np.isfinite(first.latency_s).any())), ("label", "label", labelled),
    )  # fmt: skip
    out = [
        Guess(name, role, "a field of the record", 1.0)
        for name, role, is_there in there
        if is_there
    ]
    looked = {name: np.asarray(column)[:LOOK_ROWS] for name, column in first.features.items()}
    for g in guess(looked):
        reason = "a feature of the record"
        if g.role not in {"feature", "segment"} and g.confidence >= 0.6:
            reason += f", which looks like {g.role}: {g.reason}"
        elif g.role == "feature":
            reason += f": {g.reason}"
        out.append(Guess(g.column, "feature", reason, 1.0))
    return out
