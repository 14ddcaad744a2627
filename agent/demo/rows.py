"""The data: 569 real patients, eight measurements, and which of them are trained on and which are served.

The Wisconsin diagnostic breast cancer data (W. N. Street, W. H. Wolberg, O. L. Mangasarian, 1993), as
scikit-learn ships it. Rows that the service is asked about are never among those that the first version learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from agent.model import BoolArray, FloatArray, IntArray

FEATURES: Final[dict[str, str]] = {
    "worst_area": "worst area",
    "worst_texture": "worst texture",
    "worst_smoothness": "worst smoothness",
    "worst_symmetry": "worst symmetry",
    "mean_compactness": "mean compactness",
    "mean_concave_points": "mean concave points",
    "texture_error": "texture error",
    "mean_symmetry": "mean symmetry",
}
"""Our name -> the data set's name."""

STRONG: Final = "worst_area"
"""The feature that the champion leans on most: a wrong unit in it ruins the champion (accuracy .95 -> .45),
while a backup trained without it stays at about .93."""

CLASSES: Final = ("benign", "malignant")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """x (n, f) float64 in the order of `names`; bad (n,) bool, True = malignant."""

    names: tuple[str, ...]
    x: FloatArray
    bad: BoolArray

    def __len__(self) -> int:
        return len(self.bad)

    def take(self, index: BoolArray | IntArray | slice) -> Rows:
        """Return the rows of an index, a mask or a slice."""
        return Rows(self.names, self.x[index], self.bad[index])

    def without(self, names: frozenset[str]) -> Rows:
        """Return the rows without some features."""
        keep = [i for i, name in enumerate(self.names) if name not in names]
        return Rows(tuple(self.names[i] for i in keep), self.x[:, keep], self.bad)

    def save(self, path: Path) -> None:
        """Write them to an .npz file."""
        np.savez(path, names=np.array(self.names), x=self.x, bad=self.bad)


def load(path: Path) -> Rows:
    """Read what `Rows.save` wrote."""
    with np.load(path, allow_pickle=False) as kept:
        return Rows(tuple(str(name) for name in kept["names"]), kept["x"], kept["bad"])


def split(seed: int, train: int = 220) -> tuple[Rows, Rows]:
    """Return (rows to train the first version on, rows to serve), the classes in equal shares; 1 s of import."""
    from sklearn.datasets import load_breast_cancer  # seconds; only who needs it pays
    from sklearn.model_selection import train_test_split  # likewise

    data = load_breast_cancer()
    columns = [list(data.feature_names).index(name) for name in FEATURES.values()]
    every = Rows(
        tuple(FEATURES), np.asarray(data.data[:, columns], dtype=np.float64), data.target == 0
    )
    first, second = train_test_split(
        np.arange(len(every)), train_size=train, random_state=seed, stratify=every.bad
    )
    return every.take(np.sort(first)), every.take(np.sort(second))


@dataclass(frozen=True, slots=True)
class Concept:
    """The relation between a row and its label: patients with `feature` above `above` are graded the other way.

    `feature` "" is the relation of the data set.
    """

    feature: str = ""
    above: float = 0.0

    def turned(self, row: Mapping[str, float]) -> bool:
        """Tell whether the label of this row is turned."""
        return bool(self.feature) and row[self.feature] > self.above

    def label(self, row: Mapping[str, float], bad: bool) -> str:
        """Return the true label of a row under this concept."""
        return CLASSES[1] if bad != self.turned(row) else CLASSES[0]


def other_concept(served: Rows, share: float) -> Concept:
    """Return a concept that turns the labels of about `share` of the served rows.

    By symmetry of the nuclei, because there the classes are mixed half and half: accuracy falls by nearly
    `share` while the mix of classes hardly moves, so that only the relation has changed.
    """
    column = served.x[:, served.names.index("mean_symmetry")]
    return Concept("mean_symmetry", float(np.quantile(column, 1 - share)))
