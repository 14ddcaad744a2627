"""What the columns of a prediction log are: guessed from names, types and values, each with its reason.

    columns -> facts (kind, range, how many differ) -> every rule that fits -> the surest, one role once

Good for files and indexes that were not written for us. Not for records of our own form: these name their fields.
What a person says (`columns: {name: role}`) wins. Pure; looks at the first `LOOK_ROWS` rows only.
Cost: some 10 microseconds a row of 20 columns, once a file of a new form.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, get_args

import numpy as np

from agent.errors import Refused
from agent.model import FloatArray
from agent.vectors import is_vector

Role = Literal[
    "id", "ts", "model", "version", "prediction", "probability", "label", "segment", "latency",
    "status", "feature", "ignore",
]  # fmt: skip
ROLES: Final[tuple[str, ...]] = get_args(Role)
LOOK_ROWS: Final = 2000
_ONCE: Final = frozenset(
    {"id", "ts", "model", "version", "prediction", "label", "latency", "status"}
)
"""Roles that one column has; probabilities may be a column for each class."""
_FEW: Final = 50

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_TIMES: Final = {"ts", "timestamp", "time", "datetime", "date", "at", "when"}
_KEYS: Final = {"id", "ids", "uuid", "guid", "key", "uid"}
_PREDICTED: Final = {"pred", "preds", "prediction", "predictions", "predicted", "yhat", "forecast"}
_SHARES: Final = {
    "proba", "prob", "probability", "probas", "probs", "probabilities", "confidence", "propensity",
}  # fmt: skip
_TRUE: Final = {"label", "labels", "target", "truth", "actual", "actuals", "outcome", "groundtruth"}
_PARTS: Final = {"segment", "slice", "cohort", "variant", "arm", "group", "tenant", "experiment"}
_INPUTS: Final = {"feature", "features", "feat", "input", "inputs"}
_EPOCHS: Final = ((1e9, 4.1e9, 1.0), (1e12, 4.1e12, 1e3), (1e15, 4.1e15, 1e6), (1e18, 4.1e18, 1e9))
"""From 2001 to 2100 in seconds, milliseconds, microseconds, nanoseconds."""


@dataclass(frozen=True, slots=True)
class Guess:
    """The role of a column, why, and how sure that is (0..1; 1 = a person or the record itself says so)."""

    column: str
    role: Role
    reason: str
    confidence: float


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the values of a column are.

    kind      number, truth, text, time, vector, nested, empty
    distinct  how many differ, of `known` values out of `rows`
    low, high of numbers; NaN else
    whole     all numbers are whole
    steps     each is one more than the one before
    length    mean number of characters of texts; spaced: most have a space inside
    """

    kind: str
    rows: int
    known: int
    distinct: int
    low: float = math.nan
    high: float = math.nan
    whole: bool = False
    steps: bool = False
    length: float = 0.0
    spaced: bool = False

    @property
    def share(self) -> float:
        """Of known values that differ."""
        return self.distinct / self.known if self.known else 0.0

    @property
    def few(self) -> bool:
        """Whether the values are of a small set."""
        return 0 < self.distinct <= _FEW and (self.share <= 0.5 or self.distinct <= 2)

    def __str__(self) -> str:
        if self.kind == "empty":
            return "no value at all"
        many = f"{self.distinct} different in {self.known}"
        if self.kind == "number":
            what = "whole numbers" if self.whole else "numbers"
            return f"{what} {self.low:.4g} to {self.high:.4g}, {many}"
        return {
            "truth": "true or false", "time": "times", "nested": "lists or objects", "vector": "vectors of numbers",
        }.get(self.kind, f"texts, {many}")  # fmt: skip


def guess(columns: Mapping[str, Any], given: Mapping[str, str] | None = None) -> tuple[Guess, ...]:
    """Return a role for each column, in their order.

    columns   name -> (n,) values: float64 (NaN = missing), datetime64, bool, or objects (None = missing)
    given     what a person says of some of them; raises Refused for a column that is not there, or no role
    """
    said = _checked(given or {}, columns)
    facts = {name: look(values) for name, values in columns.items() if name not in said}
    options = {
        name: sorted(_options(name, found), key=lambda g: -g.confidence)
        for name, found in facts.items()
    }
    # what nothing else speaks for is a feature
    best = {
        n: some[0] if len(some) > 1 else replace(some[0], confidence=0.9)
        for n, some in options.items()
    }
    taken = {role for role in said.values() if role in _ONCE}
    for role in sorted(_ONCE):
        claims = sorted((g for g in best.values() if g.role == role), key=lambda g: -g.confidence)
        for i, g in enumerate(claims):
            if i or role in taken:
                other = next(c.column for c in (*claims[:1],)) if i else _who(said, role)
                best[g.column] = Guess(
                    g.column, "ignore", f"looks like another {role} beside {other}", 0.6
                )
    _settle(best, facts, said)
    return tuple(
        Guess(name, said[name], "given", 1.0) if name in said else best[name] for name in columns
    )


def _who(said: Mapping[str, Role], role: str) -> str:
    return next(name for name, r in said.items() if r == role)


def _checked(given: Mapping[str, str], columns: Mapping[str, Any]) -> dict[str, Role]:
    out: dict[str, Role] = {}
    for name, role in given.items():
        if role not in ROLES:
            raise Refused(f"column {name!r}: {role!r} is no role; use one of {', '.join(ROLES)}")
        if name not in columns:
            near = difflib.get_close_matches(name, columns, n=2)
            there = f"there are: {', '.join(list(columns)[:20])}"
            hint = f"did you mean {' or '.join(near)}?" if near else there
            raise Refused(f"there is no column {name!r}; {hint}")
        out[name] = role  # type: ignore[assignment]
    return out


def _settle(best: dict[str, Guess], facts: Mapping[str, _Facts], said: Mapping[str, Role]) -> None:
    """Decide what only all columns together tell: a prediction that is a probability, or a score that is none."""
    roles = {g.role: g.column for g in best.values()} | {r: n for n, r in said.items()}
    pred, label = roles.get("prediction"), roles.get("label")
    if pred is not None and pred in facts and "probability" not in roles:
        found = facts[pred]
        binary = label is None or label not in facts or facts[label].distinct <= 2
        if found.kind == "number" and not found.whole and found.low >= 0 and found.high <= 1:
            if binary and label is not None:
                reason = f"{found}, while the label has two values"
                best[pred] = Guess(pred, "probability", reason, 0.8)
            return
    if pred is None and "probability" not in roles:
        scores = [n for n, f in facts.items() if "score" in _words(n) and f.kind == "number"]
        if len(scores) == 1:
            best[scores[0]] = Guess(
                scores[0], "prediction", f"the only score: {facts[scores[0]]}", 0.6
            )


# ---- what values are


def look(values: Any) -> Any:
    """Return the facts of the first rows of a column."""
    array = np.asarray(values)[:LOOK_ROWS]
    rows = len(array)
    if array.dtype.kind == "M":
        known = array[~np.isnat(array)]
        return _Facts("time" if len(known) else "empty", rows, len(known), len(np.unique(known)))
    if array.dtype.kind == "b":
        return _Facts("truth", rows, rows, len(np.unique(array)), 0.0, 1.0, whole=True)
    if array.dtype.kind in "fiu":
        return _numbers(array.astype(np.float64), rows)
    listed = [v for v in array.tolist() if v is not None and v == v]  # noqa: PLR0124  # NaN
    if not listed:
        return _Facts("empty", rows, 0, 0)
    if all(isinstance(v, bool) for v in listed):
        return _Facts("truth", rows, len(listed), len(set(listed)), 0.0, 1.0, whole=True)
    if all(isinstance(v, int | float) for v in listed):
        return _numbers(np.array(listed, dtype=np.float64), rows)
    if all(map(is_vector, listed)):
        return _Facts("vector", rows, len(listed), len(listed))
    if any(isinstance(v, list | tuple | dict | np.ndarray) for v in listed):
        return _Facts("nested", rows, len(listed), len(listed))
    texts = [str(v) for v in listed]
    kind = "time" if all(map(_is_time, texts[:50])) else "text"
    length = sum(map(len, texts)) / len(texts)
    return _Facts(kind, rows, len(texts), len(set(texts)), length=length,
                  spaced=2 * sum(" " in t for t in texts) > len(texts))  # fmt: skip


def _numbers(x: FloatArray, rows: int) -> _Facts:
    x = x[np.isfinite(x)]
    if not len(x):
        return _Facts("empty", rows, 0, 0)
    whole = bool((x == np.floor(x)).all())
    steps = whole and len(x) > 2 and bool((np.diff(x) == 1).all())
    return _Facts("number", rows, len(x), len(np.unique(x)), float(x.min()), float(x.max()),
                  whole=whole, steps=steps)  # fmt: skip


def _is_time(text: str) -> bool:
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def epoch_unit(low: float, high: float) -> float | None:
    """Return how many of the unit make a second, where numbers look like times since 1970; else None."""
    return next((unit for a, b, unit in _EPOCHS if a <= low and high <= b), None)


# ---- what names and values tell


def _words(name: str) -> list[str]:
    return [w.lower() for w in _WORDS.findall(name)]


def _options(name: str, f: _Facts) -> Iterator[Guess]:
    """Yield every role that a column could have."""
    for rule in _RULES:
        for role, confidence, reason in rule(name, _words(name), f):
            yield Guess(name, role, reason, confidence)


_Options = Iterator[tuple[Role, float, str]]


def _useless(name: str, words: list[str], f: _Facts) -> _Options:
    if f.kind == "empty":
        yield "ignore", 0.9, "no value at all"
    if f.kind == "nested" or (f.kind == "vector" and set(words) & (_SHARES | _PREDICTED)):
        yield (
            "ignore",
            0.99,
            str(f),
        )  # what the model said of each class, in one column, is not read
    index = not words or "index" in words or words[0] == "unnamed"
    if f.steps and index:
        yield "ignore", 0.95, "counts the rows"
    if f.kind == "text" and f.length > 40 and f.share > 0.5:
        yield "ignore", 0.7, f"free text, {f.length:.0f} characters on average"
    if f.kind == "text" and f.share > 0.9 and f.known >= 20:
        yield "ignore", 0.65, f"{f}: too many for a feature"
    del name


def _time(name: str, words: list[str], f: _Facts) -> _Options:
    del name
    named = bool(_TIMES & set(words[-1:] + words[:1]))
    if f.kind == "time":
        yield "ts", 0.95 if named else 0.7, "times" + (", and named so" if named else "")
    elif f.kind == "number" and (unit := epoch_unit(f.low, f.high)) is not None:
        since = {1.0: "seconds", 1e3: "milliseconds", 1e6: "microseconds"}.get(unit, "nanoseconds")
        yield "ts", 0.95 if named else 0.55, f"{since} since 1970" + (", and named so" if named else "")  # fmt: skip


def _who_is_it(name: str, words: list[str], f: _Facts) -> _Options:
    del name
    if words in (["model"], ["model", "name"], ["model", "id"]) and f.few:
        yield "model", 0.9, f"named so, {f.distinct} of them"
    if "version" in words and f.few:
        sure = "model" in words or len(words) == 1
        yield "version", 0.9 if sure else 0.6, f"named so, {f.distinct} of them"
    key = bool(_KEYS & set(words[-1:]))
    if f.kind in {"text", "number"} and (f.kind == "text" or f.whole):
        if key and f.share == 1.0:
            yield "id", 0.95, "named so, and none comes twice"
        elif key and f.share > 0.98:
            yield "id", 0.85, f"named so, and hardly one comes twice: {f}"
        elif key:
            yield "ignore", 0.75, f"names something that comes again: {f}"
        elif f.share == 1.0 and f.known >= 20 and 8 <= f.length <= 40 and not f.spaced:
            yield "id", 0.7, "texts of which none comes twice"


def _answers(name: str, words: list[str], f: _Facts) -> _Options:
    some = set(words)
    joined = "".join(words)
    inside = f.kind == "number" and f.low >= 0 and f.high <= 1
    if some & _SHARES and inside:
        yield "probability", 0.95, f"named so, {f.low:.3g} to {f.high:.3g}"
    elif "score" in some and inside and not f.whole:
        yield "probability", 0.75, f"a score from {f.low:.3g} to {f.high:.3g}"
    elif re.fullmatch(r"p_?\d*", name.lower()) and inside and not f.whole:
        yield "probability", 0.6, f"named so, {f.low:.3g} to {f.high:.3g}"
    elif some & _PREDICTED or joined in {"ypred", "output", "decision"}:
        yield "prediction", 0.95 if some & _PREDICTED else 0.7, f"named so: {f}"
    elif some & _TRUE or joined in {"ytrue", "y", "class"}:
        sure = 0.9 if some & _TRUE or joined == "ytrue" else 0.75
        if f.kind in {"number", "truth", "text"}:
            yield "label", sure, f"named so: {f}"


def _measures(name: str, words: list[str], f: _Facts) -> _Options:
    del name
    if f.kind != "number" or not words:
        return
    if words[0] == "latency" and words[-1] in {"ms", "s", "seconds"}:
        yield "latency", 0.9, f"named so, in {words[-1]}"
    if words in (["status"], ["status", "code"]) and f.whole and f.low >= 0 and f.high < 1000:
        yield "status", 0.8, "named so, codes like 200"


def _inputs(name: str, words: list[str], f: _Facts) -> _Options:
    del name
    if len(words) > 1 and words[0] in _INPUTS and f.kind != "nested":
        yield "feature", 0.97, f"named so: {f}"
    if _PARTS & set(words) and f.few:
        yield "segment", 0.85, f"named so, {f.distinct} of them"
    if f.kind in {"number", "truth", "vector"}:
        yield "feature", 0.5, str(f)
    elif f.kind in {"text", "time"}:
        yield "feature", 0.5 if f.few else 0.4, str(f)


_RULES: Final = (_useless, _time, _who_is_it, _answers, _measures, _inputs)
