"""Can anybody tell new rows from those of the reference? Asked of a classifier, for all features together, on demand.

    rows of both, as many of each -> three folds in the order of rows -> boosted trees on two of them
                                  -> pairs of the third, one row of each -> which one looks newer

Good for: what single columns and pairs of them do not show, and which features it takes. Not for: watching (it is made
anew each time), or fewer than 300 rows a side. Numbers may be NaN, texts are taken by their 30 commonest values.
`chance` is that of the newer row of a pair to look newer: .5 = nobody can tell, with 95 % bounds for this one look.
`evidence` is log10 of an e-value: where rows of both are exchangeable it reaches x with a probability of 10^-x, so
asking again and again does no harm when the values are averaged. Rows that hang together make it larger than it should
be. `worth` of a feature is how much of `chance` is lost when its values are dealt anew; of two that go together either
may stand for both, and both seem worth little.
Cost: 4 s for 10,000 rows a side of 50 features, and the import of scikit-learn.
Sources: Lopez-Paz, Oquab, Revisiting classifier two-sample tests, 2017; Pandeva et al., E-valuating classifier
two-sample tests, 2022; Breiman, Random forests, 2001, section 10 (dealing values anew).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.imports import lacking
from agent.intervals import wilson
from agent.model import BoolArray, FloatArray
from agent.units import many

LEAST_ROWS: Final = 300
MOST_ROWS: Final = 10_000
_FOLDS: Final = 3
_VALUES: Final = 30
_STAKES: Final = np.array([0.1, 0.3, 0.6, 0.9])


@dataclass(frozen=True, slots=True)
class ToldApart:
    """Whether rows are told apart; see the module. worth: feature (or group of them) -> its part in `chance`."""

    chance: float
    low: float
    high: float
    evidence: float
    worth: Mapping[str, float]
    pairs: int


@registry.drift("domain")
class Domain:
    """See the module; groups: names of features that are one thing, feature -> group."""

    def __init__(self, groups: Mapping[str, str] | None = None, seed: int = 0) -> None:
        self._groups = groups or {}
        self._random = np.random.default_rng(seed)

    def tell(self, reference: Mapping[str, Any], rows: Mapping[str, Any]) -> ToldApart:
        """Tell columns, name -> (n,) and (m,), apart by the features that both have; raises Refused."""
        names = sorted(reference.keys() & rows.keys())
        sides = [_evenly({name: side[name] for name in names}) for side in (reference, rows)]
        n = min((len(next(iter(side.values()), ())) for side in sides), default=0)
        if n < LEAST_ROWS:
            raise Refused(
                f"{many(n, 'row')} with features that both have: it takes {LEAST_ROWS} on either side"
            )
        columns = [_coded(sides[0][name], sides[1][name], n) for name in names]
        texts = np.array([is_text for _, _, is_text in columns])
        old, new = (np.column_stack([c[side] for c in columns]) for side in (0, 1))
        bets, won, lost = [], [], dict.fromkeys(self._named(names), 0.0)
        for fold in range(_FOLDS):
            held = np.arange(n) * _FOLDS // n == fold
            model = self._learnt(old[~held], new[~held], texts)
            a, b = old[held], new[held][self._random.permutation(np.count_nonzero(held))]
            gain = model(b) - model(a)
            bets.append(np.log1p(_STAKES * gain[:, None]).sum(axis=0))
            won.append(_won(gain))
            for group, at in self._named(names).items():
                dealt = self._dealt(a, b, at)
                part = _won(model(dealt[1]) - model(dealt[0])).mean()
                lost[group] += float(won[-1].mean() - part) / _FOLDS
        every = np.concatenate(won)
        low, high = wilson(every.sum(), len(every))
        worth = dict(sorted(lost.items(), key=lambda item: -item[1]))
        evidence = float(np.logaddexp.reduce(np.ravel(bets)) - np.log(np.size(bets)))
        return ToldApart(
            float(every.mean()), float(low), float(high), evidence / np.log(10.0), worth, len(every)
        )

    def _named(self, names: Sequence[str]) -> dict[str, list[int]]:
        out: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            out.setdefault(self._groups.get(name) or name, []).append(i)
        return out

    def _learnt(self, old: FloatArray, new: FloatArray, texts: BoolArray) -> Any:
        """Return what says of rows (k, d) how surely they are new (k,)."""
        try:
            ensemble = importlib.import_module("sklearn.ensemble")
        except ImportError:
            raise Refused(lacking("scikit-learn is not installed", "ml")) from None
        seed = int(self._random.integers(1 << 31))
        model = ensemble.HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=15, min_samples_leaf=40, early_stopping=False,
            categorical_features=texts, random_state=seed,
        )  # fmt: skip
        model.fit(np.concatenate((old, new)), np.repeat([0, 1], [len(old), len(new)]))
        return lambda x: model.predict_proba(x)[:, 1]

    def _dealt(
        self, a: FloatArray, b: FloatArray, at: Sequence[int]
    ) -> tuple[FloatArray, FloatArray]:
        """Return both with the values of some columns dealt anew among all rows."""
        both = np.concatenate((a, b))
        both[:, at] = both[self._random.permutation(len(both))][:, at]
        return both[: len(a)], both[len(a) :]


def _won(gain: FloatArray) -> FloatArray:
    """Return 1 where the newer row of a pair looks newer, a half where both look the same (n,)."""
    out: FloatArray = np.where(gain == 0, 0.5, gain > 0)
    return out


def _evenly(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return at most MOST_ROWS rows, evenly over their order."""
    n = len(next(iter(columns.values()), ()))
    at = np.unique(np.linspace(0, n - 1, MOST_ROWS).astype(np.int64)) if n > MOST_ROWS else slice(n)
    return {name: np.asarray(column)[at] for name, column in columns.items()}


def _coded(old: Any, new: Any, n: int) -> tuple[FloatArray, FloatArray, bool]:
    """Return a column of both sides as numbers (n,), evenly, and whether these are codes of texts."""
    both = [side[np.linspace(0, len(side) - 1, n).astype(np.int64)] for side in (old, new)]
    if all(side.dtype.kind == "f" for side in both):
        return both[0], both[1], False
    said = [[None if v is None or v != v else str(v) for v in side.tolist()] for side in both]  # noqa: PLR0124  # NaN
    known: dict[str, int] = {}
    for value in (v for side in said for v in side if v is not None):
        known[value] = known.get(value, 0) + 1
    common = sorted(known, key=lambda v: (-known[v], v))[:_VALUES]
    codes: dict[str | None, float] = {value: float(i) for i, value in enumerate(common)}
    codes[None] = np.nan
    a, b = (np.array([codes.get(v, float(_VALUES)) for v in side]) for side in said)
    return a, b, True
