"""Isolation forest: rows that few random cuts set apart, while each series alone, and beside its like, is ordinary.

Good for combinations that never came together: a batch job in the busiest hour, two replicas down at once, a cache
that is cold while the load is high. Ordinary may be several clusters (day and night, batch and idle): principal
components (`pca`) know only one cloud and see nothing wrong between them. Not for saying how far off a single series
is: the row is judged, and the series that carry it are named.
x (n,) base units, NaN = left out (it counts as its median); p (n,), see `detectors/_joint.py`: that of the row for
the series that carry it, 1 for the others.

    u (m,) -> scores of the first k principal components: where the row is       -> trees -> how soon it is alone
           -> how large what they leave is, on the whole and at most: 2 numbers  -'

Trees see few numbers, however many series there are: of a hundred columns nearly every cut would miss the three that
matter, and a cut along one axis can not see that two series have come apart; the residual can.

Trained in the worker with scikit-learn; extra `ml`. Here the trees are flat arrays, walked all at once, in as many
numpy steps as a tree is deep.
Cost: about 0.4 ms a tick, nearly whatever n is; 20 bytes a node, about 300 kB in all, and 8 k + 50 bytes a series.
Source: Liu, Ting & Zhou 2008, Isolation forest; credit of cuts after Carletti et al. 2023 (DIFFI), local form.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from agent import checkpoint
from agent.model import BoolArray, FloatArray
from agent.registry import detector, trainer
from detectors._components import Basis, components
from detectors._joint import Arrays, Joint, Look, Settings, need, prepare, sizes

_EULER: Final = 0.5772156649


@trainer("isolation_forest")
@detector("isolation_forest")
class IsolationForest(Joint):
    """Rows that few random cuts set apart, and the series that carry them (extra `ml`)."""

    kind = "isolation_forest"
    by_row = True

    class Config(Settings):
        """How many trees, and what they see."""

        trees: Annotated[int, Field(ge=8, le=512)] = 64
        """How many trees."""
        sample: Annotated[int, Field(ge=16, le=512)] = 128
        """Rows that a tree is grown from."""
        components: Annotated[int, Field(ge=1, le=48)] = 8
        """Principal components, at most; never more than half of the series."""

    @staticmethod
    def train(config: Config, ts: FloatArray, values: FloatArray) -> bytes:
        """Fit on three quarters of the rows, size the scores on the rest; see `agent.ports.Trainable`."""
        del ts  # a row is judged by itself, whenever it was
        ensemble = need("sklearn.ensemble", "ml")
        ready = prepare(values, config.most_series)
        basis = components(ready.u[ready.fit], config.components, 0.9)
        raw, _ = _features(ready.u, Basis(basis), np.ones(1))
        spread = np.maximum(raw.std(axis=0), 1e-6)
        f = raw / spread
        forest = ensemble.IsolationForest(
            n_estimators=config.trees, max_samples=config.sample, random_state=0
        ).fit(f[ready.fit])
        trees = _flat([one.tree_ for one in forest.estimators_])
        usual = min(config.sample, int(ready.fit.sum()))
        trees["usual"] = np.array([float(_path(np.array([usual]))[0])])
        odd = np.array([Trees(trees).score(row)[0] for row in f[~ready.fit]])
        arrays = {
            **ready.arrays(), **sizes(ready.u[~ready.fit], odd), **basis, **trees, "spreads": spread,
        }  # fmt: skip
        return checkpoint.write(
            "isolation_forest model", IsolationForest.version, {"step_s": config.step_s}, arrays
        )

    def _open(self, arrays: Arrays) -> None:
        self._basis = Basis(arrays)
        self._trees = Trees(arrays)
        self._spreads: FloatArray = arrays["spreads"]

    def _look(self, ts: float, u: FloatArray, known: BoolArray) -> Look:
        del ts
        f, residuals = _features(u[None], self._basis, self._spreads)
        odd, credit = self._trees.score(f[0])
        credit = credit * np.abs(f[0])  # cuts at random: what they cut counts by how far out it is
        # what cut a score is the doing of the series that made it, what cut the rest that of those left over
        made = np.abs(self._basis.vectors * (u - self._basis.mean)[:, None])
        off = np.abs(residuals[0])
        weight = made @ (credit[:-2] / np.maximum(made.sum(axis=0), 1e-12))
        weight += credit[-2:].sum() * off / max(float(off.sum()), 1e-12)
        return Look(u - residuals[0], np.full(len(u), np.nan), np.where(known, weight, 0.0), odd)


def _features(u: FloatArray, basis: Basis, spreads: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return what the trees see, (k, components + 2) divided by their spreads, and the residuals (k, m)."""
    away = u - basis.mean
    residuals = basis.judge(u)
    sizes = np.abs(residuals) / basis.reach
    left = np.stack((np.sqrt((sizes**2).mean(axis=1)), sizes.max(axis=1)), axis=1)
    f = np.concatenate((away @ basis.vectors, np.log1p(left)), axis=1)
    return f / spreads, residuals


def _path(rows: FloatArray | npt.NDArray[Any]) -> FloatArray:
    """Return how deep a search among so many rows goes on average (Liu et al., equation 1)."""
    n = np.maximum(rows.astype(np.float64), 1.0)
    long = 2.0 * (np.log(np.maximum(n - 1.0, 1.0)) + _EULER) - 2.0 * (n - 1.0) / n
    out: FloatArray = np.where(n > 2, long, np.where(n == 2, 1.0, 0.0))
    return out


def _flat(trees: list[Any]) -> Arrays:
    """Put scikit-learn's trees behind one another: cut (feature, threshold), left and right; leaves lead to themselves.

    depth is how long the path to a leaf counts.
    """
    feature, threshold, left, right, depth, roots = [], [], [], [], [], []
    at = deepest = 0
    for tree in trees:
        own = np.arange(tree.node_count) + at
        leaf = tree.children_left < 0
        level = np.zeros(tree.node_count)
        for i in np.flatnonzero(~leaf):  # parents stand before their children
            level[[tree.children_left[i], tree.children_right[i]]] = level[i] + 1
        feature.append(np.where(leaf, 0, tree.feature))
        threshold.append(np.where(leaf, 0.0, tree.threshold))
        left.append(np.where(leaf, own, tree.children_left + at))
        right.append(np.where(leaf, own, tree.children_right + at))
        depth.append(np.where(leaf, level + _path(tree.n_node_samples), 0.0))
        roots.append(at)
        deepest = max(deepest, int(level.max()))
        at += tree.node_count
    return {
        "feature": np.concatenate(feature).astype(np.int32),
        "threshold": np.concatenate(threshold).astype(np.float32),
        "left": np.concatenate(left).astype(np.int32),
        "right": np.concatenate(right).astype(np.int32),
        "depth": np.concatenate(depth).astype(np.float32),
        "roots": np.array(roots, np.int32),
        "deepest": np.array([deepest], np.int32),
    }


class Trees:
    """A forest as flat arrays, see `_flat`."""

    def __init__(self, arrays: Arrays) -> None:
        self._feature = arrays["feature"]
        self._threshold = arrays["threshold"]
        self._children = np.stack((arrays["left"], arrays["right"]))
        self._depth = arrays["depth"]
        self._roots = arrays["roots"]
        self._deepest = int(arrays["deepest"][0])
        self._usual = float(arrays["usual"][0])

    def score(self, f: FloatArray) -> tuple[float, FloatArray]:
        """Return how odd the row f (d,) is, 0..1, and the credit (d,) of each feature for that.

        Every cut on a path gets a share of one over the length of that path: what sets a row apart early counts.
        """
        row = f.astype(np.float32)
        node = self._roots
        seen = []
        for _ in range(self._deepest):
            cut = self._feature[node]
            after = self._children[(row[cut] > self._threshold[node]).astype(np.int8), node]
            seen.append((cut, after != node))
            node = after
        depth = self._depth[node]
        cuts = np.stack([cut for cut, _ in seen]) if seen else np.zeros((0, len(node)), np.int32)
        went = np.stack([w for _, w in seen]) if seen else np.zeros((0, len(node)), bool)
        share = went / np.maximum(depth, 1.0) ** 2
        credit = np.bincount(cuts.ravel(), weights=share.ravel(), minlength=len(f))
        odd = float(2.0 ** (-depth.mean(dtype=np.float64) / self._usual))
        return odd, credit.astype(np.float64)
