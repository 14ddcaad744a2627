"""Which prediction a late label belongs to: id -> when, by whom, what was said, how surely. Never the features.

A hash table in arrays: 48 bytes a waiting row, about 1 microsecond a row in batches. Rows leave by age in whole
generations, oldest first, so nothing is ever deleted in the middle. Ids are kept as 64-bit hashes: among a million
waiting rows two share a hash once in 40 million such millions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.model import BoolArray, FloatArray, IntArray

KeyArray = npt.NDArray[np.uint64]
Waiting = npt.NDArray[np.void]
"""(n,) of `ROW`."""
SLICES: Final = 10
"""Slicings that a row remembers its values of."""
ROW: Final = np.dtype(
    [
        ("key", np.uint64),
        ("ts", np.float64),
        ("tenure", np.int32),
        ("said", np.float32),
        ("confidence", np.uint16),
        ("slices", np.uint8, (SLICES,)),
        ("marks", np.uint8),
        ("labelled", np.bool_),
        ("arm", np.uint16),
    ]
)
"""What is kept of a prediction. said: number of the class, or the prediction of a regression; confidence in
1 / 65534, 65535 = none; slices: value of each slicing, 255 = none; marks: bits, as whoever reads them has set them;
arm: number of the version and variant that said it (`agent/models/versus.py`)."""
_UNSURE: Final = 65_535
_LARGEST: Final = 1 << 16
_PLAIN: Final = 64
"""Longer ids (bytes) are shortened by a digest first."""
_MIX: Final = (
    (np.uint64(33), np.uint64(0xFF51AFD7ED558CCD)),
    (np.uint64(33), np.uint64(0xC4CEB9FE1A85EC53)),
)
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)


def rows_of(keys: KeyArray, ts: FloatArray, tenure: int, said: Any) -> Waiting:
    """Return rows (n,) for `LabelJoin.add`, without confidence, slices or marks."""
    rows: Waiting = np.zeros(len(keys), dtype=ROW)
    rows["key"], rows["ts"], rows["tenure"], rows["said"] = keys, ts, tenure, said
    rows["confidence"], rows["slices"] = _UNSURE, 255
    return rows


def set_confidence(rows: Waiting, confidence: FloatArray) -> None:
    """Write confidences (n,) in 0..1 into rows; NaN = none."""
    known = np.isfinite(confidence)
    scaled = np.rint(np.where(known, np.clip(confidence, 0.0, 1.0), 0.0) * (_UNSURE - 1))
    rows["confidence"] = np.where(known, scaled, _UNSURE).astype(np.uint16)


def confidence_of(rows: Waiting) -> FloatArray:
    """Return the confidences (n,) of rows; NaN = none."""
    raw = rows["confidence"].astype(np.float64)
    return np.asarray(np.where(raw == _UNSURE, np.nan, raw / (_UNSURE - 1)))


def keys_of(ids: Sequence[str]) -> KeyArray:
    """Return the hashes of ids (n,); 0 stands for "" (no id). Stable across restarts; .2 microseconds an id.

    Eight bytes at a time through the finishing steps of MurmurHash3 and SplitMix64, all ids at once.
    """
    raw: Sequence[str | bytes] = ids
    if max(map(len, ids), default=0) > _PLAIN or not all(map(str.isascii, ids)):
        encoded = (one.encode("utf-8", "surrogatepass") for one in ids)
        raw = [
            one if len(one) <= _PLAIN else hashlib.blake2b(one, digest_size=_PLAIN // 4).digest()
            for one in encoded
        ]
    width = max(1, -(-max(map(len, raw), default=0) // 8))
    words = np.array(raw, dtype=f"S{8 * width}").view("<u8").reshape(len(raw), width)
    lengths = np.fromiter(map(len, raw), dtype=np.int64, count=len(raw))
    out: KeyArray = np.zeros(len(raw), dtype=np.uint64)
    for i, word in enumerate(words.T):
        some = lengths > 8 * i  # an id's hash must not depend on how long the others are
        mixed = (out + _STEP) ^ word
        for shift, factor in _MIX:
            mixed ^= mixed >> shift
            mixed *= factor
        mixed ^= mixed >> np.uint64(33)
        out[some] = mixed[some]
    return out


class _Generation:
    """Up to `size` rows and an open-addressing table over them, half full at most."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows = 0
        self.newest = -np.inf
        self.row: Waiting = np.zeros(size, dtype=ROW)
        self.table = np.zeros(2 * size, dtype=np.int32)  # row + 1; 0 = free
        self._mask = np.uint64(2 * size - 1)

    def find(self, keys: KeyArray) -> IntArray:
        """Return the row of each key; -1 = not here."""
        out = np.full(len(keys), -1, dtype=np.int64)
        slot = (keys & self._mask).astype(np.int64)
        open_ = np.arange(len(keys))
        while open_.size:
            row = self.table[slot[open_]].astype(np.int64) - 1
            taken = row >= 0
            same = taken & (self.row["key"][row] == keys[open_])
            out[open_[same]] = row[same]
            open_ = open_[taken & ~same]
            slot[open_] = (slot[open_] + 1) & int(self._mask)
        return out

    def add(self, new: Waiting) -> None:
        """Append rows whose keys are not here yet and differ from each other."""
        places = np.arange(self.rows, self.rows + len(new))
        self.row[self.rows : self.rows + len(new)] = new
        self.rows += len(new)
        self.newest = max(self.newest, float(new["ts"].max()))
        self.index(places)

    def index(self, rows: IntArray) -> None:
        """Put rows into the table. All of a round try for their slot; who did not get it tries the next one."""
        slot = (self.row["key"][rows] & self._mask).astype(np.int64)
        open_ = np.arange(len(rows))
        while open_.size:
            free = self.table[slot[open_]] == 0
            self.table[slot[open_[free]]] = rows[open_[free]] + 1
            won = self.table[slot[open_]] == rows[open_] + 1
            open_ = open_[~won]
            slot[open_] = (slot[open_] + 1) & int(self._mask)


@dataclass(frozen=True, slots=True)
class Joined:
    """What became of a batch of labels, (n,) each.

    status   0 = no such prediction (yet), 1 = joined now, 2 = had its label already
    rows     the predictions, where status is 1
    """

    status: IntArray
    rows: Waiting


def arrays_of(kept: Sequence[Waiting]) -> dict[str, npt.NDArray[Any]]:
    """Return the state for a checkpoint out of `LabelJoin.copies`."""
    whole = np.concatenate(kept) if kept else np.zeros(0, dtype=ROW)
    out = {name: np.ascontiguousarray(whole[name]) for name in ROW.names or ()}
    out["sizes"] = np.array([len(rows) for rows in kept], dtype=np.int64)
    return out


class LabelJoin:
    """Predictions that wait for their label.

    wait_s     a label that comes later than this is not joined
    max_rows   most rows that are kept; the oldest go first
    """

    def __init__(self, wait_s: float, max_rows: int) -> None:
        self._wait_s = wait_s
        self._size = 256
        while self._size < _LARGEST and self._size * 8 <= max_rows:
            self._size *= 2
        self._most = max(2, -(-max_rows // self._size))
        self._generations: list[_Generation] = []

    def __len__(self) -> int:
        return sum(g.rows for g in self._generations)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return len(self._generations) * self._size * (ROW.itemsize + 2 * 4)

    def known(self, keys: KeyArray) -> BoolArray:
        """Tell which keys are here (n,); cost: one probe a generation."""
        out = np.zeros(len(keys), dtype=np.bool_)
        for generation in self._generations:
            out |= generation.find(keys) >= 0
        return out

    def peek(self, keys: KeyArray) -> tuple[BoolArray, Waiting]:
        """Return which keys are here (n,), and what waits there (n,), labelled or not."""
        found = np.zeros(len(keys), dtype=np.bool_)
        out: Waiting = np.zeros(len(keys), dtype=ROW)
        for generation in reversed(self._generations):
            row = generation.find(keys)
            here = (row >= 0) & ~found
            out[here] = generation.row[row[here]]
            found |= here
        return found, out

    def add(self, rows: Waiting) -> None:
        """Let rows wait. Their keys are not `known`, not 0, and differ from each other."""
        done = 0
        while done < len(rows):
            if not self._generations or self._generations[-1].rows >= self._generations[-1].size:
                self._expire(float(rows["ts"].max()))
                self._generations.append(_Generation(self._size))
                del self._generations[: -self._most]
            last = self._generations[-1]
            part = rows[done : done + last.size - last.rows]
            last.add(part)
            done += len(part)

    def label(self, keys: KeyArray) -> Joined:
        """Join labels to their predictions; each prediction takes one label, the first."""
        n = len(keys)
        status = np.zeros(n, dtype=np.int64)
        out: Waiting = np.zeros(n, dtype=ROW)
        horizon = self._newest() - self._wait_s
        for generation in reversed(self._generations):
            at = np.flatnonzero(status == 0)
            if not at.size:
                break
            row = generation.find(keys[at])
            here = row >= 0
            at, row = at[here], row[here]
            found = generation.row[row]
            fresh = ~found["labelled"] & (found["ts"] >= horizon)
            # the same id twice in one batch: the first one counts
            first = np.zeros(len(row), dtype=np.bool_)
            first[np.unique(row, return_index=True)[1]] = True
            joined = fresh & first
            status[at] = np.where(joined, 1, 2)
            out[at[joined]] = found[joined]
            generation.row["labelled"][row[joined]] = True
        return Joined(status, out)

    def reslice(self, tenures: Sequence[int], order: IntArray) -> None:
        """Give rows of tenures other slicings: their slicing i is what slicing order[i] was; -1 = it is new to them."""
        for generation in self._generations:
            rows = generation.row[: generation.rows]
            mine = np.flatnonzero(np.isin(rows["tenure"], tenures))
            before = rows["slices"][mine]
            after = np.full_like(before, 255)
            after[:, : len(order)] = np.where(order >= 0, before[:, order], 255)
            rows["slices"][mine] = after

    def _newest(self) -> float:
        return max((g.newest for g in self._generations), default=-np.inf)

    def _expire(self, now: float) -> None:
        self._generations = [g for g in self._generations if g.newest >= now - self._wait_s]

    # ---- restarts

    def copies(self) -> list[Waiting]:
        """Return what waits, for `arrays_of`, which takes longer and may be called elsewhere."""
        return [g.row[: g.rows].copy() for g in self._generations]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state for a checkpoint."""
        return arrays_of([g.row[: g.rows] for g in self._generations])

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take what `arrays` gave; a smaller `max_rows` than then drops the oldest."""
        self._generations = []
        at = 0
        for rows in map(int, arrays["sizes"]):
            part = slice(at, at + rows)
            at += rows
            generation = _Generation(max(self._size, 1 << max(0, rows - 1).bit_length()))
            generation.rows = rows
            for name in ROW.names or ():
                generation.row[name][:rows] = arrays[name][part]
            generation.newest = float(generation.row["ts"][:rows].max()) if rows else -np.inf
            generation.index(np.arange(rows))
            self._generations.append(generation)
        del self._generations[: -self._most]
