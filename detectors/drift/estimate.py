"""How often a model is right now, without labels: from its own confidence, held to what labels have shown.

    confidence -> column (a bin of it, by predicted class) -> counts of a window -> share of right answers, with a band
    late labels -> the same columns, right or wrong -> a filter over what the confidence missed

What the confidence alone says (share of each bin x how often the reference was right there) holds while only the mix
of rows changes. Where rows leave what the model knows it is far worse than "as the reference". So what it says of a
change is not taken at its word, but enters a filter with five states:

    level       how far the share of right answers lies off, lasting
    transient   the same, passing: it fades over `STEP_ROWS`
    chance      how much is true of a change that chance might have made: little, until blocks of the reference, held
                against the rest of it, or labels say otherwise; nothing where the reference is but one block
    fall        how much of a fall beyond chance is true: all of it, until labels say otherwise
    rise        the same of a rise: nothing of it, for under shift confidence stays high or rises while answers get
                worse (Ovadia et al., Can you trust your model's uncertainty?, 2019); but it may be all, or the contrary

Eleven copies of the filter differ in how much level and transient move. Each weighs as much as it has foretold blocks
of the reference and late labels. So the middle lies between "as the reference", "as lately labelled" and the
confidence, by how well each has done. The band holds the sampling of window and reference and the misfit; and that the
relation may have changed while no label came, which makes it deeper, not higher, the longer none comes.

Good for: classifiers that log a confidence, labels late, few or none. Not for: regression; noticing that the concept
has changed: the middle says "as before" until labels come. Nothing is said (NaN and a reason) while rows are unlike all
that had labels, and while the newest labels contradict it.
Shapes: (n,) rows; counts (WIDTH,). Units: shares 0..1; `at` counts the rows of this version. NaN confidence = not
known: counts as an average row. Warm-up: `LEAST_ROWS` labelled rows of reference. Cost, one core: 0.04 microseconds a
row in batches of 1,000 (0.16 in batches of 100), 0.6 ms a `judge`, 0.1 ms for 500 labels. State: 5 kB.
Sources: NannyML, Confidence-based performance estimation (the idea); Blom, Bar-Shalom, The interacting multiple model
algorithm, 1988 (copies that switch).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import checkpoint
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray

BINS: Final = 20
"""Of the confidence, for each of two sorts of rows: others, and those predicted positive."""
UNKNOWN: Final = 2 * BINS
COLUMNS: Final = UNKNOWN + 1
OUTSIDE: Final = 1
BROKEN: Final = 2
JOINT: Final = 4
"""Marks of a row: it has a value out of range, new or missing that is none of the reference's; it came while the
contract of a feature was broken; it came while features stood to each other as never before."""
_REASONS: Final = (
    "rows are outside what the reference holds",
    "the contract of a feature is broken",
    "features stand to each other as never before",
)
WIDTH: Final = COLUMNS + len(_REASONS)
"""Of a vector of counts: rows in each column, then rows with each mark."""
STEP_ROWS: Final = 500
"""Rows of a block: enough for a share, few enough that a reference holds several."""
LEAST_ROWS: Final = 200

_ROWS_A_BIN: Final = 40
_UNLIKE: Final = 0.1
"""Share of marked rows, beyond twice what lately labelled rows had, at which nothing is said."""
_CONTRADICTED: Final = 1e-4
_SIZES: Final = np.array([0.01, 0.02, 0.04, 0.08, 0.16])
_NONE: Final = np.zeros(len(_SIZES))
_WALK: Final = np.concatenate(([0.0], _SIZES, _NONE))
"""sd of the level's steps over 1,000 rows, in each copy."""
_PASSING: Final = np.concatenate(([0.0], _NONE, _SIZES))
"""sd of the transient in each copy."""
_PRIOR: Final = np.concatenate(([0.5], np.full(2 * len(_SIZES), 0.25 / len(_SIZES))))
_PRIOR_LEFT: Final = 0.1
"""Of the weights after the reference: it is never long enough to rule a copy out."""
_SWITCH: Final = 0.01
"""How probable it is, in `STEP_ROWS` labelled rows, that another copy fits better from there on."""
_TRUST: Final = ((0.3, 0.3), (1.0, 0.3), (0.0, 1.0))
"""Mean and sd of what is true of a change, at first: within chance, of a fall beyond it, of a rise beyond it."""
_BY_CHANCE: Final = (2.0, 4.0)
"""A change by so many sd of sampling is chance, by so many is none, between them some of both."""
_FARTHEST_ROWS: Final = 5000.0
"""Beyond the newest labels over which the level is let wander; of longer stretches nothing is known."""
_UNSEEN_ROWS: Final = 20_000.0
"""In so many a relation changes once, on average: of six published streams four did, most of them more than once."""
_LOST: Final = -0.1 * np.log(1 - np.array([0.1, 0.3, 0.5, 0.7, 0.9]))[:, None]
"""What that costs of the share: exponential, 0.1 on average, as five values that are as likely as each other."""
_FORGET_ROWS: Final = 5000.0
"""Half-life, in labelled rows, of which bins are right."""
_SHAPE_ROWS: Final = 500.0
"""Labelled rows that outweigh the reference in that."""
_Z90: Final = NormalDist().inv_cdf(0.95)
_SHIFTS: Final = np.linspace(-12.0, 12.0, 241)[:, None]
_LEVEL, _TRANSIENT, _CHANCE, _RISE = 0, 1, 2, 4
_STATES: Final = 2 + len(_TRUST)
_VERSION: Final = 2

Band = tuple[float, float, float]
"""(middle, low, high); between low and high with 90 %."""
_NOTHING: Final = (math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of the rows of a window: what labels will say of these very rows. NaN = not estimable.

    accuracy                share of right answers
    precision, recall, f1   of the positive class; NaN also without two classes, or where nobody is positive
    confident               the accuracy that the confidence alone would tell, for comparison; not to be trusted
    reason                  why there is nothing, for people
    """

    accuracy: Band
    precision: Band
    recall: Band
    f1: Band
    confident: float
    reason: str


class Estimate:
    """The estimate of one model version; see the module.

    Vectors of `count` add up, over batches and over replicas: keep them in rings, hand in their sums.
    """

    def __init__(self) -> None:
        self._edges: FloatArray = np.full((2, BINS - 1), np.inf)
        self._two_classes = False
        self._table = _Table(np.zeros(COLUMNS), np.zeros(COLUMNS))
        self._late: FloatArray = np.zeros((2, COLUMNS))  # rows, right; they forget
        self._pending: FloatArray = np.zeros((2, WIDTH))
        self._seen: FloatArray = np.zeros(len(_REASONS))
        self._at = 0.0
        self._surprise = 1.0
        self._mean: FloatArray = np.zeros((len(_PRIOR), _STATES))
        self._spread: FloatArray = np.zeros((len(_PRIOR), _STATES, _STATES))
        self._weight: FloatArray = _PRIOR.copy()

    # ---- the reference

    def learn(
        self, confidence: FloatArray, right: BoolArray, positive: BoolArray | None = None
    ) -> None:
        """Take the reference, in the order in which its rows came, and forget all else. Raises Refused if too short.

        confidence   (n,) probability of what was predicted
        right        (n,) whether it was so
        positive     (n,) whether the positive of two classes was predicted; None = more classes, or no matter
        """
        n = len(confidence)
        if n < LEAST_ROWS:
            raise Refused(
                f"estimate: a reference of {n} labelled rows is too short, {LEAST_ROWS} do"
            )
        self._two_classes = positive is not None
        sort = np.zeros(n, dtype=np.bool_) if positive is None else positive
        self._edges[:] = np.inf
        for side in (0, 1):
            some = confidence[(sort == side) & ~np.isnan(confidence)]
            bins = min(len(some) // _ROWS_A_BIN, BINS)
            if bins > 1:
                inner = np.unique(np.quantile(some, np.arange(1, bins) / bins))
                self._edges[side, : len(inner)] = inner
        blocks = max(1, n // STEP_ROWS)
        cells = np.arange(n) * blocks // n * COLUMNS + self.code(confidence, positive)
        rows, good = (
            np.bincount(cells, weights=w, minlength=blocks * COLUMNS)
            .reshape(blocks, COLUMNS)
            .astype(np.float64)
            for w in (np.ones(n), right.astype(np.float64))
        )
        self._table = _Table(rows.sum(axis=0), good.sum(axis=0))
        self._late[:], self._pending[:], self._seen[:] = 0.0, 0.0, 0.0
        self._at, self._surprise = 0.0, 1.0
        self._mean[:] = (0.0, 0.0, *(middle for middle, _ in _TRUST))
        # one block can be held against nothing
        self._mean[:, _CHANCE] *= 1 - 1 / blocks
        self._spread[:] = np.diag((0.0, 0.0, *(sd**2 for _, sd in _TRUST)))
        self._weight = _PRIOR.copy()
        self._stand()
        if blocks > 1:
            for one, hits in zip(rows, good, strict=True):
                rest = _Table(self._table.rows - one, self._table.right - hits)
                self._mean, self._spread = self._ahead(float(one.sum()))
                self._step(rest, one, float(hits.sum()))
            self._stand()
            self._weight = (1 - _PRIOR_LEFT) * self._weight + _PRIOR_LEFT * _PRIOR

    def _stand(self) -> None:
        """Stand at "as the reference": the whole of it, for its last blocks are no better guess.

        What its blocks have shown of sizes and of trust stays; of rises they can show nothing, for a rise within
        the reference is none beyond it.
        """
        fresh = np.zeros((len(_PRIOR), _STATES))
        fresh[:, _LEVEL] = self._table.noise / max(1.0, self._table.total) + _WALK**2
        fresh[:, _TRANSIENT] = _PASSING**2
        fresh[:, _RISE] = _TRUST[-1][1] ** 2
        for i in (_LEVEL, _TRANSIENT, _RISE):
            self._mean[:, i] = 0.0
            self._spread[:, i, :] = self._spread[:, :, i] = 0.0
            self._spread[:, i, i] = fresh[:, i]

    # ---- rows

    def code(
        self,
        confidence: FloatArray,
        positive: BoolArray | None = None,
        marks: IntArray | int = 0,
    ) -> IntArray:
        """Return a number below 328 for each row (n,): all that need be kept of it until its label comes.

        marks   OUTSIDE + BROKEN + JOINT, as they apply; (n,) or one for all
        """
        if positive is None:
            at = np.searchsorted(self._edges[0], confidence, side="right")
        else:
            at = np.empty(len(confidence), dtype=np.int64)
            for side, some in enumerate((~positive, positive)):
                at[some] = BINS * side + np.searchsorted(
                    self._edges[side], confidence[some], side="right"
                )
        codes: IntArray = np.where(np.isnan(confidence), UNKNOWN, at) + COLUMNS * np.asarray(marks)
        return codes

    @staticmethod
    def count(codes: IntArray, right: BoolArray | None = None) -> FloatArray:
        """Return the counts (WIDTH,) of rows, or of those that were right; they add up."""
        kinds = 1 << len(_REASONS)
        some = codes if right is None else codes[right]
        cells = np.bincount(some, minlength=kinds * COLUMNS).reshape(kinds, COLUMNS)
        has = np.arange(kinds)[:, None] >> np.arange(len(_REASONS)) & 1
        out: FloatArray = np.concatenate((cells.sum(axis=0), cells.sum(axis=1) @ has))
        return out.astype(np.float64)

    # ---- late labels

    def label(self, rows: FloatArray, right: FloatArray, at: float) -> None:
        """Take labelled rows: their counts (WIDTH,), and those of the right ones; the newest was row number `at`.

        They are gathered until they make a step: `STEP_ROWS`, or `LEAST_ROWS` where few rows ever get a label.
        """
        self._pending += (rows, right)
        total = float(self._pending[0, :COLUMNS].sum())
        if total < (LEAST_ROWS if at - self._at >= STEP_ROWS else STEP_ROWS):
            return
        counts, good = self._pending[:, :COLUMNS]
        self._mean, self._spread = self._ahead(max(0.0, at - self._at))
        self._at = max(self._at, at)
        self._mix(1 - (1 - _SWITCH) ** (total / STEP_ROWS))
        self._surprise = self._step(self._table, counts, float(good.sum()))
        self._late *= 2.0 ** (-total / _FORGET_ROWS)
        self._late += self._pending[:, :COLUMNS]
        fresh = min(1.0, total / (2 * STEP_ROWS))
        self._seen += fresh * (self._pending[0, COLUMNS:] / total - self._seen)
        self._pending[:] = 0.0

    # ---- the filter

    def _ahead(self, rows: float) -> tuple[FloatArray, FloatArray]:
        """Return mean and spread after so many rows without a label."""
        stay = np.ones(_STATES)
        stay[_TRANSIENT] = math.exp(-rows / STEP_ROWS)
        mean = self._mean * stay
        spread = self._spread * stay[:, None] * stay
        spread[:, _LEVEL, _LEVEL] += _WALK**2 * min(rows, _FARTHEST_ROWS) / 1000.0
        spread[:, _TRANSIENT, _TRANSIENT] += _PASSING**2 * (1 - stay[_TRANSIENT] ** 2)
        return mean, spread

    def _mix(self, switch: float) -> None:
        """Let each copy go on from what all think that may turn into it."""
        after = (1 - switch) * self._weight + switch * _PRIOR
        come = switch * self._weight[:, None] * _PRIOR + np.diag((1 - switch) * self._weight)
        come /= after
        mean = come.T @ self._mean
        apart = self._mean[:, None, :] - mean
        self._spread = np.einsum("ij,iab->jab", come, self._spread) + np.einsum(
            "ij,ija,ijb->jab", come, apart, apart
        )
        self._mean, self._weight = mean, after

    def _step(self, table: _Table, counts: FloatArray, right: float) -> float:
        """Learn from labelled rows; return how probable it was to be so far off."""
        n = float(counts.sum())
        h, doubt = table.look(counts, n)
        share = (right + 10.0 * table.accuracy + 0.5) / (n + 11.0)
        off = right / n - table.accuracy - self._mean @ h
        reach = self._spread @ h
        total = reach @ h + doubt + table.kept * share * (1 - share) / n
        far = off**2 / total
        normal = NormalDist()
        tails = np.array([2 * normal.cdf(-z) for z in np.sqrt(far).tolist()])
        surprise = float(self._weight @ tails)
        self._weight = self._weight * np.exp((far.min() - far) / 2) / np.sqrt(total)
        self._weight /= self._weight.sum()
        gain = reach / total[:, None]
        self._mean = self._mean + gain * off[:, None]
        self._spread = self._spread - gain[:, :, None] * reach[:, None, :]
        return surprise

    # ---- what is expected

    def judge(self, counts: FloatArray, at: float, rows: float = 0.0) -> Expected:
        """Say what is expected of a window of rows (WIDTH,); its middle was row number `at`.

        rows   of how many rows like these the band shall hold the share; 0 = as many as there are
        """
        table, here = self._table, counts[:COLUMNS]
        n = float(here.sum())
        if not (table.total and n):
            why = "no rows" if table.total else "there is no reference with labels"
            return Expected(_NOTHING, _NOTHING, _NOTHING, _NOTHING, math.nan, why)
        h, doubt = table.look(here, n)
        confident = float(here / n @ table.a)
        unlike = counts[COLUMNS:] / n - 2 * self._seen
        if unlike.max() > _UNLIKE:
            why = f"{_REASONS[int(unlike.argmax())]}, and none such had a label yet"
            return Expected(_NOTHING, _NOTHING, _NOTHING, _NOTHING, confident, why)
        if self._surprise < _CONTRADICTED:
            why = "the newest labels contradict it"
            return Expected(_NOTHING, _NOTHING, _NOTHING, _NOTHING, confident, why)
        past = max(0.0, at - self._at)
        mean, spread = self._ahead(past)
        middle = table.accuracy + mean @ h
        share = np.clip(middle, 0.5 / n, 1 - 0.5 / n)
        of_model = spread @ h @ h + doubt
        of_rows = table.kept * share * (1 - share) / (rows or n)
        # the middle is what holds if the relation does; the band bears that it may not
        changed = -math.expm1(-min(past, _FARTHEST_ROWS) / _UNSEEN_ROWS)
        weight = np.empty((1 + len(_LOST), len(middle)))
        weight[0], weight[1:] = (1 - changed) * self._weight, changed / len(_LOST) * self._weight
        places = np.concatenate((middle[None], middle - _LOST))
        low, high, lowest, highest, half = _quantiles(
            weight, places, np.sqrt(np.stack((of_model + of_rows, of_model))), self._weight
        )
        bands = (_NOTHING, _NOTHING, _NOTHING)
        if self._two_classes:
            bands = self._of_positives(here, np.array((half, lowest, highest)))
        return Expected((half, low, high), *bands, confident, "")

    def _of_positives(self, rows: FloatArray, accuracy: FloatArray) -> tuple[Band, Band, Band]:
        """Return precision, recall and F1 where the accuracy is as given (middle, low, high).

        Which bins are right is as lately labelled; all log-odds are then moved alike until the accuracy is met.
        """
        late, good = self._late
        usual = _SHAPE_ROWS * self._table.p
        a = (good + usual * self._table.a + self._table.accuracy) / (late + usual + 1.0)
        odds = np.log(a / (1 - a))
        moved = 1 / (1 + np.exp(-odds - _SHIFTS))
        shift = np.interp(accuracy, moved @ rows / rows.sum(), _SHIFTS[:, 0])
        a = 1 / (1 + np.exp(-odds - shift[:, None]))
        said, unsaid = rows[BINS:UNKNOWN], rows[:BINS]
        hit = a[:, BINS:UNKNOWN] @ said
        missed = (1 - a[:, :BINS]) @ unsaid
        # of each row: its variance, and how much the three move when it is right instead of wrong
        noise = rows[:UNKNOWN] * a[0, :UNKNOWN] * (1 - a[0, :UNKNOWN])
        of_said, of_unsaid = float(noise[BINS:].sum()), float(noise[:BINS].sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            positive, twice = hit + missed, said.sum() + hit + missed
            precision, recall, f1 = hit / said.sum(), hit / positive, 2 * hit / twice
            variances = (
                of_said / said.sum() ** 2,
                (of_said * missed[0] ** 2 + of_unsaid * hit[0] ** 2) / positive[0] ** 4,
                (of_said * (2 - f1[0]) ** 2 + of_unsaid * f1[0] ** 2) / twice[0] ** 2,
            )
        bands = []
        for (mid, lowest, highest), variance in zip(
            (precision, recall, f1), variances, strict=True
        ):
            if math.isnan(mid):
                bands.append(_NOTHING)
                continue
            below, above = (
                math.hypot(mid - x, _Z90 * math.sqrt(variance)) for x in (lowest, highest)
            )
            bands.append((float(mid), max(0.0, float(mid - below)), min(1.0, float(mid + above))))
        return bands[0], bands[1], bands[2]

    # ---- restarts

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped."""
        meta = {"at": self._at, "surprise": self._surprise, "two_classes": self._two_classes}
        return checkpoint.write("estimate", _VERSION, meta, self._arrays())

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "edges": self._edges, "rows": self._table.rows, "right": self._table.right,
            "late": self._late, "pending": self._pending, "seen": self._seen,
            "mean": self._mean, "spread": self._spread, "weight": self._weight,
        }  # fmt: skip

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged or of another version."""
        meta, arrays = checkpoint.read("estimate", _VERSION, state)
        mine = self._arrays()
        if any(name not in arrays or arrays[name].shape != mine[name].shape for name in mine):
            raise Refused("state of an estimate does not fit: it is learnt anew")
        try:
            at, surprise = float(meta["at"]), float(meta["surprise"])
            self._two_classes = bool(meta["two_classes"])
        except (KeyError, TypeError, ValueError) as damage:
            raise Refused(
                f"state of an estimate is damaged ({damage}): it is learnt anew"
            ) from None
        self._at, self._surprise = at, surprise
        self._table = _Table(arrays["rows"], arrays["right"])
        self._edges, self._late, self._pending = arrays["edges"], arrays["late"], arrays["pending"]
        self._seen, self._mean = arrays["seen"], arrays["mean"]
        self._spread, self._weight = arrays["spread"], arrays["weight"]


class _Table:
    """How often the reference was right in each column.

    p, a      (COLUMNS,) share of the rows, and of the right ones among them
    noise     variance of right or wrong that the confidence leaves; kept: the share of it in all
    between   variance that the confidence explains
    """

    def __init__(self, rows: FloatArray, right: FloatArray) -> None:
        self.rows, self.right = rows, right
        self.total = float(rows.sum())
        self.accuracy = float(right.sum()) / max(1.0, self.total)
        self.p: FloatArray = rows / max(1.0, self.total)
        # half a row of doubt in all, two in each bin: nothing is certain, and a bin without rows is as the average
        average = (float(right.sum()) + 0.5) / (self.total + 1.0)
        self.a: FloatArray = (right + 2.0 * average) / (rows + 2.0)
        self.a[UNKNOWN] = average
        alone = self.a * (1 - self.a)
        self.noise = float(self.p @ alone)
        self._each: FloatArray = alone / (rows + 2.0)
        whole = max(self.accuracy * (1 - self.accuracy), 1e-9)
        self.kept = min(1.0, max(0.1, self.noise / whole))
        self.between = max(0.0, whole - self.noise)

    def look(self, counts: FloatArray, n: float) -> tuple[FloatArray, float]:
        """Return what each state of the filter weighs in rows (4,), and the variance of the table in it."""
        moved = counts / n - self.p
        change, doubt = float(moved @ self.a), float(moved**2 @ self._each)
        by_chance = math.sqrt(self.between * (1 / n + 1 / self.total) + doubt)
        chance, none = _BY_CHANCE
        far = (abs(change) / max(by_chance, 1e-12) - chance) / (none - chance)
        beyond = change * min(1.0, max(0.0, far))
        return np.array([1.0, 1.0, change - beyond, min(beyond, 0.0), max(beyond, 0.0)]), doubt


def _quantiles(
    weight: FloatArray, middle: FloatArray, sd: FloatArray, settled: FloatArray
) -> tuple[float, ...]:
    """Return 5 % and 95 % quantiles of mixtures of normal distributions, within 0..1, and a median.

    weight, middle   (k, copies) of the parts of a mixture
    sd               (2, copies) of the two mixtures whose quantiles are wanted
    settled          (copies,) weights of the mixture of middle[0] and sd[0] whose median is wanted
    """
    whole = np.zeros_like(weight)
    whole[0] = settled
    weights = np.stack((weight, weight, weight, weight, whole))
    wanted = np.array([0.05, 0.95, 0.05, 0.95, 0.5])
    scale = 1.0 / sd[[0, 0, 1, 1, 0], None, :]
    low, high = np.zeros(5), np.ones(5)
    z, odds = np.empty(weights.shape), np.empty(weights.shape)
    for _ in range(20):
        x = (low + high) / 2
        np.subtract(x[:, None, None], middle, out=z)
        z *= scale
        np.minimum(np.maximum(z, -8.0, out=z), 8.0, out=z)
        # the normal distribution within 0.0002 (Bowling et al., A logistic approximation to it, 2009)
        np.multiply(z, 0.07056, out=odds)
        odds *= z
        odds += 1.5976
        odds *= np.negative(z, out=z)
        np.exp(odds, out=odds)
        odds += 1.0
        less = np.divide(weights, odds, out=odds).sum(axis=(1, 2)) < wanted
        low, high = np.where(less, x, low), np.where(less, high, x)
    return tuple(((low + high) / 2).tolist())
