"""Which prediction a late label belongs to: id -> when, by whom, what was said. Never the features.

A hash table in arrays: 30 bytes a waiting row, about 1 microsecond a row in batches. Rows leave by age in whole
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
_LARGEST: Final = 1 << 16


def keys_of(ids: Sequence[str]) -> KeyArray:
    """Return the hashes of ids (n,); 0 stands for "" (no id). Stable across restarts."""
    digests = b"".join(
        hashlib.blake2b(one.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if one
        else b"\0\0\0\0\0\0\0\0"
        for one in ids
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


class _Generation:
    """Up to `size` rows and an open-addressing table over them, half full at most."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rows = 0
        self.newest = -np.inf
        self.key = np.zeros(size, dtype=np.uint64)
        self.ts = np.zeros(size, dtype=np.float64)
        self.tenure = np.zeros(size, dtype=np.int32)
        self.said = np.zeros(size, dtype=np.int16)
        self.labelled = np.zeros(size, dtype=np.bool_)
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
            same = taken & (self.key[row] == keys[open_])
            out[open_[same]] = row[same]
            open_ = open_[taken & ~same]
            slot[open_] = (slot[open_] + 1) & int(self._mask)
        return out

    def add(self, keys: KeyArray, ts: FloatArray, tenure: int, said: IntArray) -> None:
        """Append rows whose keys are not here yet and differ from each other."""
        n = len(keys)
        rows = np.arange(self.rows, self.rows + n)
        self.key[rows] = keys
        self.ts[rows] = ts
        self.tenure[rows] = tenure
        self.said[rows] = said
        self.rows += n
        self.newest = max(self.newest, float(ts.max()))
        self.index(rows)

    def index(self, rows: IntArray) -> None:
        """Put rows into the table. All of a round try for their slot; who did not get it tries the next one."""
        slot = (self.key[rows] & self._mask).astype(np.int64)
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
    ts, tenure, said   of the prediction, where status is 1
    """

    status: IntArray
    ts: FloatArray
    tenure: IntArray
    said: IntArray


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
        per_row = 8 + 8 + 4 + 2 + 1 + 2 * 4
        return len(self._generations) * self._size * per_row

    def known(self, keys: KeyArray) -> BoolArray:
        """Tell which keys are here (n,); cost: one probe a generation."""
        out = np.zeros(len(keys), dtype=np.bool_)
        for generation in self._generations:
            out |= generation.find(keys) >= 0
        return out

    def add(self, keys: KeyArray, ts: FloatArray, tenure: int, said: IntArray) -> None:
        """Let rows wait. Their keys are not `known`, not 0, and differ from each other."""
        done = 0
        while done < len(keys):
            if not self._generations or self._generations[-1].rows >= self._generations[-1].size:
                self._expire(float(ts.max()))
                self._generations.append(_Generation(self._size))
                del self._generations[: -self._most]
            last = self._generations[-1]
            part = slice(done, done + last.size - last.rows)
            last.add(keys[part], ts[part], tenure, said[part])
            done += len(keys[part])

    def label(self, keys: KeyArray) -> Joined:
        """Join labels to their predictions; each prediction takes one label, the first."""
        n = len(keys)
        status = np.zeros(n, dtype=np.int64)
        ts = np.full(n, np.nan)
        tenure = np.zeros(n, dtype=np.int64)
        said = np.zeros(n, dtype=np.int64)
        horizon = self._newest() - self._wait_s
        for generation in reversed(self._generations):
            at = np.flatnonzero(status == 0)
            if not at.size:
                break
            row = generation.find(keys[at])
            here = row >= 0
            at, row = at[here], row[here]
            fresh = ~generation.labelled[row] & (generation.ts[row] >= horizon)
            # the same id twice in one batch: the first one counts
            first = np.zeros(len(row), dtype=np.bool_)
            first[np.unique(row, return_index=True)[1]] = True
            joined = fresh & first
            status[at] = np.where(joined, 1, 2)
            at, row = at[joined], row[joined]
            ts[at], tenure[at], said[at] = (
                generation.ts[row],
                generation.tenure[row],
                generation.said[row],
            )
            generation.labelled[row] = True
        return Joined(status, ts, tenure, said)

    def _newest(self) -> float:
        return max((g.newest for g in self._generations), default=-np.inf)

    def _expire(self, now: float) -> None:
        self._generations = [g for g in self._generations if g.newest >= now - self._wait_s]

    # ---- restarts

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state for a checkpoint."""
        columns = ("key", "ts", "tenure", "said", "labelled")
        out: dict[str, npt.NDArray[Any]] = {
            name: np.concatenate([getattr(g, name)[: g.rows] for g in self._generations])
            if self._generations
            else getattr(_Generation(1), name)[:0]
            for name in columns
        }
        out["sizes"] = np.array([g.rows for g in self._generations], dtype=np.int64)
        return out

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Take what `arrays` gave; a smaller `max_rows` than then drops the oldest."""
        self._generations = []
        at = 0
        for rows in map(int, arrays["sizes"]):
            part = slice(at, at + rows)
            at += rows
            generation = _Generation(max(self._size, 1 << max(0, rows - 1).bit_length()))
            generation.rows = rows
            for name in ("key", "ts", "tenure", "said", "labelled"):
                getattr(generation, name)[:rows] = arrays[name][part]
            generation.newest = float(generation.ts[:rows].max()) if rows else -np.inf
            generation.index(np.arange(rows))
            self._generations.append(generation)
        del self._generations[: -self._most]
