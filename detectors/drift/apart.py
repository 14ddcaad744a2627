"""Whether one replica answers otherwise than its peers on the same traffic: counts in, evidence and size out.

    counts of a batch (replicas, answers) -> more or fewer of an answer at a replica than a fair deal gives -> evidence
                                          -> how its mix differs from that of its peers, less what is usual  -> size

Whoever deals requests fairly deals those of each answer at random, so of the N rows of a batch, a share p of which has
an answer, the count S at a replica with n rows is that of a draw without replacement, and

    L = exp(t S) / (1 + p (exp(t) - 1))^n        R <- (R + w) L        w the share of the bearable time that has passed

L is at most 1 on average, as such a draw is spread no wider than one with replacement. So no reference is needed, and
what moves all replicas alike (a drift, a release) moves none apart. Requests that are not dealt fairly (a replica for
each tenant) have evidence without end; what is usual for a replica is learnt, and size asks for more than that: there
for four times of how far such a replica wanders. For those that is a judgement and no bound.
Good for: three replicas or more. Not for: two of them (which one is wrong?), or a fault that shows in no answer.
Warm-up: 300 rows of each replica. Arrays (replicas, answers, bets); 0.2 ms a batch with 4 replicas, 6 answers.
Sources: Shin, Ramdas, Rinaldo, E-detectors, 2022; Hoeffding, Probability inequalities for sums of bounded random
variables, 1963, section 6.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from agent import registry
from agent.errors import Refused
from agent.model import BoolArray, FloatArray, IntArray
from agent.units import Model, Span

_TILTS: Final = np.array([0.2, -0.2, 0.6, -0.6, 1.8, -1.8])
_LEAST: Final = 3
"""Replicas without which nobody knows who of them is wrong."""
_SIZE: Final = 0.1
_CLEAR: Final = 1.5
"""Times the size of the next one: the others differ from a pool that has the odd one in it."""
_NEW_ROWS: Final = 300.0
_RECENT_ROWS: Final = 300.0
"""Half-lives, in rows of a replica, of how it is now and of how it usually is."""
_USUAL_ROWS: Final = 20_000.0
_ROWS_BEARABLE: Final = 1e7
"""When rows come faster than time passes, one false alarm in so many is bearable, too."""
_MOST_PASSED: Final = 0.01
_CAP: Final = math.log(100.0)
"""Above an alarm: evidence piles up no further, so that it can go again."""
_LOOSE_ROWS: Final = 1200.0
"""So many rows with evidence and no size: requests are not dealt fairly to this replica."""
_WANDERS: Final = 4.0
_CALM: Final = 0.5
"""What is apart is so until half of the size is left."""


@registry.drift("apart")
class Apart:
    """Up to 64 replicas and their answers; replicas are named by number, and may come and go (`remap`)."""

    class Config(Model):
        """How often it may be wrong."""

        quiet: Span = 90 * 86_400.0
        """Between two false alarms of a model, at the least and on average."""

    most: ClassVar[int] = 64

    def __init__(self, answers: int, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.answers = answers
        self._last = math.nan
        self._lay(0)

    def _lay(self, n: int) -> None:
        self._log_r: FloatArray = np.full((n, self.answers, len(_TILTS)), -np.inf)
        self._recent: FloatArray = np.zeros((n, self.answers))
        self._usual: FloatArray = np.zeros((n, self.answers))
        self._gap: FloatArray = np.zeros((n, self.answers))  # usual share less that of its peers
        self._loose: FloatArray = np.zeros(n)  # rows with evidence and no size
        self._wander: FloatArray = np.zeros(n)  # mean size while all is well
        self.apart: BoolArray = np.zeros(n, dtype=np.bool_)

    def remap(self, old: IntArray) -> None:
        """Take other replicas: the old number of each, -1 = new."""
        names = ("_log_r", "_recent", "_usual", "_gap", "_loose", "_wander", "apart")
        kept = {name: getattr(self, name) for name in names}
        self._lay(len(old))
        some = old >= 0
        for name, array in kept.items():
            getattr(self, name)[some] = array[old[some]]

    def take(self, ts: float, counts: Any) -> None:
        """Count the rows of a batch by replica and answer (replicas, answers), until `ts`."""
        k: FloatArray = np.asarray(counts, dtype=np.float64)
        n = k.sum(axis=1)
        total = float(n.sum())
        past = ts - self._last
        self._last = ts
        if len(k) < _LEAST or total <= 0 or np.count_nonzero(n) < _LEAST:
            return
        passed = (past if past > 0 else 0.0) / self.config.quiet
        passed = min(max(passed, total / _ROWS_BEARABLE), _MOST_PASSED) / self._log_r.size
        share = k.sum(axis=0) / total
        worth = _TILTS * k[:, :, None] - n[:, None, None] * np.log1p(
            share[:, None] * np.expm1(_TILTS)
        )
        self._log_r = np.minimum(np.logaddexp(self._log_r, math.log(passed)) + worth, _CAP)
        self._recent *= (2.0 ** (-n / _RECENT_ROWS))[:, None]
        self._recent += k
        rows = self._recent.sum(axis=1)
        self._decide(n)
        # what is apart is not what is usual; nor is anything, while somebody is
        learn = np.zeros(len(n), dtype=np.bool_) if self.apart.any() else rows >= _NEW_ROWS / 2
        fade = (2.0 ** (-n / _USUAL_ROWS))[:, None]
        self._usual[learn] = (self._usual * fade + k)[learn]
        weight = np.minimum(1.0, 2.0 * n / np.maximum(self._usual.sum(axis=1), 1.0))[:, None]
        self._gap[learn] += (weight * (self._against() - self._gap))[learn]

    def _against(self) -> FloatArray:
        """Return the recent share of each answer less that among the peers (replicas, answers)."""
        rows = self._recent.sum(axis=1, keepdims=True)
        peers = self._recent.sum(axis=0) - self._recent
        return np.asarray(
            self._recent / np.maximum(rows, 1.0)
            - peers / np.maximum(peers.sum(axis=1, keepdims=True), 1.0)
        )

    @property
    def ready(self) -> BoolArray:
        """Which replicas are known well enough (n,)."""
        known: BoolArray = self._usual.sum(axis=1) >= _NEW_ROWS
        return known & (np.count_nonzero(known) >= _LEAST)

    @property
    def size(self) -> FloatArray:
        """Share of its answers (n,) that would have to be others to be like its peers, less what is usual."""
        moved = self._against() - self._gap
        return np.asarray(np.where(self.ready, 0.5 * np.abs(moved).sum(axis=1), np.nan))

    @property
    def evidence(self) -> FloatArray:
        """log10 of the e-value (n,); 0 is enough."""
        top = np.maximum(self._log_r.max(axis=(1, 2), initial=-np.inf), -50.0)
        inside = np.exp(self._log_r - top[:, None, None]).sum(axis=(1, 2))
        return np.asarray((top + np.log(np.maximum(inside, 1e-300))) / math.log(10.0))

    def _decide(self, rows: FloatArray) -> None:
        size, sure = np.nan_to_num(self.size), self.evidence >= 0
        fade = 2.0 ** (-rows / _USUAL_ROWS)
        self._loose = self._loose * fade + np.where(sure & (size < _SIZE), rows, 0.0)
        wanders = np.where(self._loose > _LOOSE_ROWS, _WANDERS * self._wander, 0.0)
        least = np.maximum(_SIZE, wanders)
        others = np.array([np.delete(size, i).max(initial=0.0) for i in range(len(size))])
        found = sure & (size >= least) & (size >= _CLEAR * others)
        self.apart = found | (self.apart & (size >= _CALM * least))
        # no faster than from as many rows as there were
        weight = np.minimum(1.0, 2.0 * rows / np.maximum(self._usual.sum(axis=1), 1.0))
        calm = self.ready & ~self.apart.any()
        self._wander += np.where(calm, weight * (size - self._wander), 0.0)

    # ---- restarts

    def dump(self) -> FloatArray:
        """Return the state."""
        parts = [np.array([self._last, len(self.apart)]), self._log_r.ravel()]
        parts += [a.ravel() for a in (self._recent, self._usual, self._gap)]
        return np.concatenate([*parts, self._loose, self._wander, self.apart.astype(np.float64)])

    def load(self, state: npt.NDArray[Any]) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        n, a, b = int(state[1]) if len(state) > 1 else 0, self.answers, len(_TILTS)
        if state.shape != (2 + n * (a * (b + 3) + 3),):
            raise Refused("state of replicas does not fit: it is learnt anew")
        self._last = float(state[0])
        self._lay(n)
        self._log_r = state[2 : 2 + n * a * b].reshape(n, a, b).astype(np.float64)
        rest = state[2 + n * a * b :]
        self._recent, self._usual, self._gap = (
            rest[i * n * a : (i + 1) * n * a].reshape(n, a).astype(np.float64) for i in range(3)
        )
        self._loose, self._wander, apart = rest[3 * n * a :].reshape(3, n).astype(np.float64)
        self.apart = apart > 0.5
