"""What the contracts of detectors and views have in common: equal p-values, spoilt states, memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from agent import checkpoint
from agent.errors import Refused
from agent.model import FloatArray
from agent.testing._check import Broken, must

T0: Final = 1_700_000_000.0
SERIES_BYTES: Final = 3_000
"""What may be kept of one series, in memory and in a state."""
_WORK: Final = 3.0
"""A tick may need so many times what is kept, for as long as it takes."""
_BESIDE_BYTES: Final = 8 << 20
"""What may be kept beside, however many series there are."""
_SIZES: Final = (300, 1_000, 10_000, 100_000)
_ELSEWHERE: Final = 1e-9
"""The same column among others may be added up in another order."""


class Kept(Protocol):
    """Whatever has a state."""

    def dump(self) -> bytes:
        """Return the state."""
        ...

    def load(self, state: bytes) -> None:
        """Take a state."""
        ...


def equal(
    check: str, wanted: FloatArray, seen: FloatArray, what: str, *, exact: bool = True
) -> None:
    """Compare p-values, one row after another; exact False = rounding may differ."""
    with np.errstate(invalid="ignore"):
        off = np.abs(wanted - seen) > (0.0 if exact else _ELSEWHERE * np.abs(wanted))
    off |= np.isnan(wanted) != np.isnan(seen)
    rows = np.flatnonzero(off.reshape(len(wanted), -1).any(axis=1))
    if len(rows):
        at = int(rows[0])
        raise Broken(f"{check}: {what} gave p {seen[at]} at row {at}, wanted {wanted[at]}")


def unchanged(check: str, i: int, given: FloatArray, row: FloatArray) -> None:
    """Demand that row i is left as it was given."""
    off = np.flatnonzero((given != row) & ~(np.isnan(given) & np.isnan(row)))
    if len(off):
        j = int(off[0])
        raise Broken(f"{check}: row {i} was changed at column {j}, from {given[j]:g} to {row[j]:g}")


def faded(check: str, p: FloatArray) -> None:
    """Demand that an excursion which was never trusted (k,) is at its end as abnormal as at its begin."""
    begin, end = float(np.median(p[:20])), float(np.median(p[-20:]))
    must(
        end <= min(3.0 * begin, 0.01),
        check,
        f"an excursion that was never trusted had p {begin:.2g} and has p {end:.2g} after {len(p)} rows",
    )


def refuses(check: str, kept: Kept) -> None:
    """Hand in states that are damaged or of something else: each must be Refused and change nothing."""
    state = kept.dump()
    bad = {
        "that is empty": b"",
        "cut short": state[:-3],
        "cut in the middle": state[: len(state) // 2],
        "of something else": b"nothing of the kind" * 10,
        "of another plug-in": checkpoint.write("a plug-in of the tests", 1, {}, {"a": np.ones(3)}),
    }
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = round(share * (len(state) - 1))
        flipped = state[:at] + bytes([state[at] ^ 0xFF]) + state[at + 1 :]
        bad[f"with byte {at} of {len(state)} changed"] = flipped
    for what, hurt in bad.items():
        try:
            kept.load(hurt)
        except Refused:
            must(kept.dump() == state, check, f"a state {what} was refused, but changed it")
        except Exception as error:  # a plug-in under test may raise anything
            raise Broken(
                f"{check}: a state {what} raised {type(error).__name__}, wanted Refused"
            ) from error
        else:
            raise Broken(f"{check}: a state {what} was taken")


@dataclass(frozen=True, slots=True)
class _Size:
    """Bytes with n series: kept in memory, needed at most in a tick, dumped."""

    kept: int
    most: int
    dumped: int


def linear(check: str, use: Callable[[int], Kept]) -> None:
    """Measure memory from 300 to 100,000 series.

    use   makes one of n series, feeds it a few rows and returns it

    The sizes come one after another, so that what is quadratic is found before it fills the machine.
    """
    use(10)  # what is loaded or made once is none of the series' doing
    sizes: list[_Size] = []
    for n in _SIZES:
        sizes.append(_measure(use, n))
        if len(sizes) == 1:
            beside = sizes[0].kept - SERIES_BYTES * n
            must(
                beside <= _BESIDE_BYTES,
                check,
                f"{sizes[0].kept / n:.0f} bytes a series are kept of {n} series, {SERIES_BYTES} may be",
            )
            continue
        small, more = sizes[-2], n - _SIZES[len(sizes) - 2]
        per = _Size(*(
            round((getattr(sizes[-1], name) - getattr(small, name)) / more)
            for name in ("kept", "most", "dumped")
        ))  # fmt: skip
        for what, bytes_, limit in (
            ("kept in memory", per.kept, SERIES_BYTES),
            ("dumped", per.dumped, SERIES_BYTES),
            ("needed in a tick", per.most, SERIES_BYTES * _WORK),
        ):
            must(
                bytes_ <= limit,
                check,
                f"up to {n} series {bytes_} bytes a series are {what}, {limit:.0f} may be",
            )


def _measure(use: Callable[[int], Kept], n: int) -> _Size:
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        made = use(n)
        most = tracemalloc.get_traced_memory()[1] - before
        gc.collect()
        kept = tracemalloc.get_traced_memory()[0] - before
        return _Size(kept, most, len(made.dump()))
    finally:
        if ours:
            tracemalloc.stop()
