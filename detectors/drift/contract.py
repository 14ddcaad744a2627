"""What breaks the contract of a feature, as a person would say it: one feature, at once, beyond natural change.

    missing      more rows without a value than the reference, by more than the tolerance
    type         numbers that are no numbers
    new values   categories never seen
    scale        one factor lies between all magnitudes then and now: a unit has changed
    stuck        nearly all rows hold one value
    range        rows outside the minimum and maximum of the reference
    whole        whole numbers alone, where the reference has fractions; fractions, where it has none
    few values   the same few numbers again and again, where each was its own: something rounds them
    swapped      a column has the magnitudes of another one, and that one those of the first

Each needs evidence (a Wilson bound at 4 standard deviations, or as many rows as the quartiles need) and size (the
tolerance), and ends at half of what it began with. Not for: drift, where values stay possible (see `evidence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from agent.intervals import wilson
from agent.model import BoolArray, FloatArray, IntArray
from agent.units import Model, Ratio
from detectors.drift.reference import ABOVE, BELOW, MISSING, WRONG, Reference

KINDS: Final = (
    "", "missing", "type", "scale", "stuck", "range", "new values", "whole numbers", "few values", "swapped",
    "fractions",
)  # fmt: skip
_MISSING, _TYPE, _SCALE, _STUCK, _RANGE, _NEW, _WHOLE_NUMBERS, _FEW, _SWAPPED, _FRACTIONS = range(
    1, len(KINDS)
)
OF_RUNS: Final = (_STUCK, _RANGE, _NEW)
"""No news of a column that changes its value less than once in the newest rows: it is new with each change."""
OF_LIFE: Final = (_SCALE, _RANGE, _NEW)
"""What may be ordinary life: once it was so for as many rows as the reference has, it may come back unsaid."""
LOGS: Final = 200
"""Bins of magnitudes: 20 a decade, 5 decades to either side of the reference's median."""
PER_DECADE: Final = 20
ZERO: Final = LOGS
NEGATIVE: Final = LOGS + 1
WHOLE: Final = LOGS + 2
SAME, SAME_BUT_ZERO, NEITHER_ZERO = LOGS + 3, LOGS + 4, LOGS + 5
MAGNITUDES: Final = LOGS + 6
"""What is counted of magnitudes: bins of log10, zeros apart, below zero, whole numbers, and rows that are the same as
the one before: with zeros, without, and of how many without."""
_OFTEN_SAME, _SELDOM_SAME = 0.08, 0.02
_ALL_WHOLE = 0.98
_MOSTLY_WHOLE, _SELDOM_WHOLE = 0.95, 0.5

_Z: Final = 4.0
_FACTOR: Final = np.log10(1.5)
_BIG_FACTOR: Final = np.log10(8.0)
"""A factor that no natural change makes while the spread stays as it was."""
_DEVIATIONS: Final = 3.0
_BIN_SPREAD: Final = 0.03
"""With less spread (in decades) the reference itself may lie in one bin of magnitudes."""
_FINE: Final = 0.6
"""Most that one bin of the reference may hold for its inside not to matter."""
_SPREADS: Final = 5.0
"""Standard errors of a quartile, about: so far the newest rows may be off."""
_SIGNS: Final = 0.2
_FAR: Final = 4.0
"""So many times further off must it be from itself: columns that are much alike pass each other in their seasons."""
_PAIR: Final = 2
_QUARTILES: Final = (0.25, 0.5, 0.75)


class Tolerances(Model):
    """How much is still ordinary, in shares of the rows, on top of the reference's own share."""

    missing: Ratio = 0.05
    type_: Ratio = 0.02
    range_: Ratio = 0.10
    new_values: Ratio = 0.10
    stuck: Ratio = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Now:
    """The newest rows of d features.

    shares (d, COLUMNS), rows (d,) effective; magnitudes (d, LOGS) weighted counts of log10 |x|, logs_rows (d,)
    effective rows behind them; same (d, 2) shares of rows that are the same as the one before, of all and of those
    without zeros; same_rows (d, 2) of how many; the others are shares of all rows; whole_usual, same_usual those in
    the reference, NaN where nobody knows
    """

    shares: FloatArray
    rows: FloatArray
    magnitudes: FloatArray
    largest_share: FloatArray
    zero_share: FloatArray
    whole_share: FloatArray
    whole_usual: FloatArray
    same: FloatArray
    same_rows: FloatArray
    same_usual: FloatArray
    negative_share: FloatArray
    logs_rows: FloatArray


def quartiles_of(magnitudes: FloatArray, centre: FloatArray) -> FloatArray:
    """Return the quartiles (d, 3) of log10 |x| from its histogram (d, LOGS) around `centre` (d,)."""
    reached = np.cumsum(magnitudes, axis=1)
    total = reached[:, -1]
    out = np.full((len(total), 3), np.nan)
    some = total > 0
    rows = np.flatnonzero(some)
    for j, share in enumerate(_QUARTILES):
        wanted = share * total[rows]
        at = np.minimum((reached[rows] < wanted[:, None]).sum(axis=1), LOGS - 1)
        inside = magnitudes[rows, at]
        before = reached[rows, at] - inside
        part = np.where(inside > 0, (wanted - before) / np.maximum(inside, 1e-300), 0.5)
        out[rows, j] = centre[rows] + (at + part - LOGS / 2) / PER_DECADE
    return out


def factor(reference: Reference, live: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log10 of the median magnitude against the reference (d,), and how unlike one factor it is (d,).

    The second is the largest difference between the shifts of the quartiles, beyond what the spread allows; 0 or
    less = one factor explains it. NaN where there are too few rows or no magnitude.
    """
    shift = live - reference.quartiles
    spread = _spread(reference)
    with np.errstate(invalid="ignore"):
        unlike = np.abs(shift[:, 2] - shift[:, 0]) - (0.06 + 0.6 * spread)
    return shift[:, 1], unlike


def _spread(reference: Reference) -> FloatArray:
    q = reference.quartiles
    return np.maximum((q[:, 2] - q[:, 0]) / 1.349, 0.01)


def judge(
    reference: Reference,
    now: Now,
    tolerances: Tolerances,
    least_rows: float,
    before: IntArray,
) -> tuple[IntArray, FloatArray]:
    """Return the index into KINDS of what is broken (d,), 0 = nothing, and the log10 of the factor (d,).

    before   what was found broken before (d,): that stays so until half of what it took is left
    """
    live = quartiles_of(now.magnitudes, reference.quartiles[:, 1])
    live[now.logs_rows < least_rows] = np.nan
    shift, unlike = factor(reference, live)
    spread = _spread(reference)

    usual = reference.shares
    wrong = now.shares[:, WRONG]
    shares = np.stack(
        (now.shares[:, MISSING], wrong, wrong, now.shares[:, BELOW] + now.shares[:, ABOVE])
    )
    ordinary = np.stack((usual[:, MISSING], usual[:, WRONG], usual[:, WRONG], np.zeros(len(usual))))
    tolerance = np.array(
        [[tolerances.missing], [tolerances.type_], [tolerances.new_values], [tolerances.range_]]
    )
    n = np.maximum(reference.rows, 1.0)
    ordinary = ordinary + 3.0 * np.sqrt(ordinary * (1 - ordinary) / n) + 3.0 / n
    low, _ = wilson(shares * now.rows, np.broadcast_to(now.rows, shares.shape), _Z)
    # what is broken already needs no new proof, only size
    on = before == np.array([[_MISSING], [_TYPE], [_NEW], [_RANGE]])
    limit = ordinary + np.where(on, 0.5, 1.0) * tolerance
    missing, types, new, outside = np.where(on, shares, low) > limit
    types &= reference.numeric
    new &= ~reference.numeric
    outside &= reference.numeric

    # where one bin holds most rows (0 or 1, mostly zeros) the reference does not tell magnitudes inside it
    fine = usual[:, BELOW + 1 : ABOVE].max(axis=1) <= _FINE
    with np.errstate(invalid="ignore"):
        size = np.abs(shift) / np.where(before == _SCALE, 0.5, 1.0)
        far = (size >= _BIG_FACTOR) | ((size >= _FACTOR) & (size >= _DEVIATIONS * spread))
        same_signs = np.abs(now.negative_share - reference.negative) < 0.2
        scale = far & (unlike <= 0) & same_signs & fine & reference.numeric

    level = np.where(before == _STUCK, tolerances.stuck - 0.1, tolerances.stuck)
    inner = now.shares[:, BELOW + 1 : ABOVE]
    most = inner.argmax(axis=1)
    rows = np.arange(len(most))
    one_bin = (inner[rows, most] > level) & (usual[rows, most + 1] <= _FINE) & reference.numeric
    enough = (now.logs_rows >= least_rows) & (spread > _BIN_SPREAD)
    one_magnitude = (now.largest_share > level) & enough & fine
    zeros = (now.zero_share > level) & (usual[rows, _column_of_zero(reference)] <= _FINE)
    one_value = (one_magnitude | zeros) & reference.numeric

    # one value before a factor, as one value far off has a factor too; one bin after it, as a factor may put all
    # rows into one bin and still keep their spread
    with np.errstate(invalid="ignore"):
        whole = (now.whole_share > _MOSTLY_WHOLE) & (now.whole_usual < _SELDOM_WHOLE)
        sure, _ = wilson(now.same * now.same_rows, np.maximum(now.same_rows, 1.0), _Z)
        often = np.where((before == _FEW)[:, None], 2.0 * now.same, sure) > _OFTEN_SAME
        few = (often & (now.same_usual < _SELDOM_SAME)).any(axis=1)
        _, most_whole = wilson(now.whole_share * now.rows, now.rows, _Z)
        fractions = (most_whole < _MOSTLY_WHOLE) & (now.whole_usual > _ALL_WHOLE)
    swapped = _swapped(reference, now, live) & fine
    cast = [found & reference.numeric for found in (whole, few, fractions)]
    kinds = np.zeros(len(most), dtype=np.int64)
    for kind, found in reversed((
        (_MISSING, missing), (_TYPE, types), (_STUCK, one_value), (_SWAPPED, swapped), (_SCALE, scale),
        (_STUCK, one_bin), (_RANGE, outside), (_NEW, new), *zip((_WHOLE_NUMBERS, _FEW, _FRACTIONS), cast, strict=True),
    )):  # fmt: skip
        kinds[found] = kind  # the first of them counts
    return kinds, shift


def _swapped(reference: Reference, now: Now, live: FloatArray) -> BoolArray:
    """Return which columns (d,) look like one that looks like them, and no more like themselves.

    Looks: the quartiles of the magnitude, and the share below zero; each within what its newest rows leave open.
    """
    looks = np.column_stack((live, now.negative_share))
    usual = np.column_stack((reference.quartiles, reference.negative))
    doubt = (
        _SPREADS * _spread(reference) / np.sqrt(np.maximum(now.logs_rows, 1.0)) + 1.0 / PER_DECADE
    )
    room = np.column_stack((doubt, doubt, doubt, np.full(len(doubt), _SIGNS)))
    with np.errstate(invalid="ignore"):
        strange = (np.abs(looks - usual) > _FAR * room).any(axis=1) & ~np.isnan(live).any(axis=1)
        which = np.flatnonzero(strange & reference.numeric)
        out = np.zeros(len(usual), dtype=np.bool_)
        if len(which) < _PAIR:
            return out
        # i looks as j usually does
        far: FloatArray = np.abs(looks[which, None] - usual[None, which])
        like: BoolArray = np.asarray((far <= room[None, which]).all(axis=2))
    out[which] = np.logical_and(like, like.T).any(axis=1)
    return out


def _column_of_zero(reference: Reference) -> IntArray:
    """Return the column that a zero falls into (d,)."""
    at = (reference.edges <= 0.0).sum(axis=1)
    return np.where(at > reference.bins, ABOVE, at)


def say(kind: int, share: float, shift: float) -> str:
    """Say what is broken, rounded so that it stays the same while it lasts: `missing 40 %`, `scale x0.01`."""
    name = KINDS[kind]
    if name == "scale":
        whole = 10.0 ** round(shift)
        close = abs(shift - round(shift)) < 0.08
        return f"scale x{whole:g}" if close else f"scale x{10.0**shift:.2g}"
    if name not in {"missing", "type", "range", "new values"}:
        return name
    tens = max(10, 10 * round(10 * share))
    return f"{name} in {tens} % of rows" if name != "missing" else f"missing in {tens} % of rows"
