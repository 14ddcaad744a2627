"""What a generator wrote of late: tokens, the time to the first one, and why it stopped; of one version.

Histograms that fade, with a half-life of half a window; quantiles are right within 2.5 %. 8 kB a version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent import checkpoint
from agent.errors import Refused
from agent.model import FloatArray
from agent.ports import PredictionBatch
from agent.rings import LATENCIES, latency_bins, latency_quantile

_PER_BIN: Final = 1000.0
"""Tokens are counted in the bins of latencies, a thousand to the second: from a tenth of a token to a million."""
_MOST_FINISHES: Final = 8
_OTHER: Final = "other"
_VERSION: Final = 1


class Generated:
    """See the module; half_life in seconds, fewer than `min_rows` rows are not known."""

    def __init__(self, half_life: float, min_rows: int) -> None:
        self._half_life = half_life
        self._min_rows = min_rows
        self._last = -math.inf
        # tokens in, tokens out, time to the first one; most models are no generators
        self._bins: FloatArray = np.zeros((3, 0))
        self._sums: FloatArray = np.zeros(2)
        self._finishes: dict[str, float] = {}

    @property
    def seen(self) -> bool:
        """Whether any row told of any of it."""
        return math.isfinite(self._last)

    def take(self, ts: float, batch: PredictionBatch, at: Any) -> None:
        """Count rows, the newest at `ts`; `at` picks those that were served."""
        columns = (batch.tokens_in, batch.tokens_out, batch.ttft_s)
        if batch.finish is None and all(one is None for one in columns):
            return
        if not self.seen:
            self._bins = np.zeros((3, LATENCIES + 1))
        self._fade(ts)
        for i, column in enumerate(columns):
            if column is None:
                continue
            x = np.asarray(column, dtype=np.float64)[at]
            known = x[np.isfinite(x)]
            seconds = known if i == 2 else known / _PER_BIN  # the last of the three is a time
            self._bins[i] += np.bincount(latency_bins(seconds), minlength=LATENCIES + 1)
            if i < 2:
                self._sums[i] += known.sum()
        if batch.finish is not None:
            for why in np.asarray(batch.finish, dtype=object)[at].tolist():
                if why is not None:
                    name = why if why in self._finishes or self._room() else _OTHER
                    self._finishes[name] = self._finishes.get(name, 0.0) + 1.0

    def _room(self) -> bool:
        return len(self._finishes) < _MOST_FINISHES

    def _fade(self, ts: float) -> None:
        past = max(0.0, ts - self._last) if self.seen else 0.0
        factor = 2.0 ** (-past / self._half_life)
        self._bins *= factor
        self._sums *= factor
        self._finishes = {
            name: n * factor for name, n in self._finishes.items() if n * factor > 1e-3
        }
        self._last = max(self._last, ts)

    def figures(self, now: float) -> dict[tuple[str, str], float]:
        """Return (signal, finish reason or "") -> value; what has too few rows, or is old, is NaN."""
        if not self.seen:
            return {}
        old = now - self._last > 4 * self._half_life
        rows = self._bins.sum(axis=1)
        out: dict[tuple[str, str], float] = {}
        for i, name in enumerate(("tokens_in", "tokens_out")):
            enough = rows[i] >= self._min_rows and not old
            out[f"version.{name}_mean_count", ""] = self._sums[i] / rows[i] if enough else math.nan
            out[f"version.{name}_p95_count", ""] = (
                latency_quantile(self._bins[i], 0.95) * _PER_BIN if enough else math.nan
            )
        for q in (50, 95):
            out[f"version.ttft_p{q}_seconds", ""] = (
                latency_quantile(self._bins[2], q / 100)
                if rows[2] >= self._min_rows and not old
                else math.nan
            )
        total = sum(self._finishes.values())
        for name, n in self._finishes.items():
            enough = total >= self._min_rows and not old
            out["version.finish_ratio", name] = n / total if enough else math.nan
        return out

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped."""
        arrays: Mapping[str, npt.NDArray[Any]] = {"bins": self._bins, "sums": self._sums}
        meta = {"last": self._last if self.seen else None, "finishes": self._finishes}
        return checkpoint.write("generated", _VERSION, meta, arrays)

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged."""
        meta, arrays = checkpoint.read("generated", _VERSION, state)
        try:
            wide = 0 if meta["last"] is None else LATENCIES + 1
            if arrays["bins"].shape != (3, wide) or arrays["sums"].shape != self._sums.shape:
                raise Refused("state of a generator does not fit: it is learnt anew")
            self._bins, self._sums = arrays["bins"], arrays["sums"]
            self._last = -math.inf if meta["last"] is None else float(meta["last"])
            self._finishes = {str(k): float(v) for k, v in meta["finishes"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as damage:
            raise Refused(f"state of a generator is damaged ({damage!r})") from None
