"""Counts instead of rows: the cells of the reference, and what is refused."""

import numpy as np
import pytest

from agent.errors import Refused
from agent.ports import Sketch
from detectors.drift import cells
from detectors.drift.cells import Cells
from detectors.drift.features import Features
from detectors.drift.reference import ABOVE, BELOW, MISSING, WRONG

FOUND = {
    "rows": 1000,
    "features": {
        "x": {"edges": [0.0, 1.0, 2.0, 4.0], "shares": [0.2, 0.3, 0.5]},
        "colour": {"values": {"red": 0.6, "blue": 0.4}},
    },
}
TOP = float(np.nextafter(4.0, np.inf))


def made():
    return Features(Features.Config(), FOUND)


def number(edges, counts, **more):
    return Sketch(np.array(edges), (), np.array(counts), **more)


def test_what_is_wanted_is_what_rows_are_put_into():
    assert Cells(made()).wanted() == {
        "colour": {"values": ["red", "blue"]},
        "x": {"edges": [0.0, 1.0, 2.0, TOP]},
    }
    assert Cells(Features(Features.Config())).wanted() == {}


def test_every_count_has_its_cell():
    counts = Cells(made()).counts(
        100,
        {
            "x": number([0, 1, 2, TOP], [5, 10, 20, 30, 6], missing=9, other=2),
            "colour": Sketch(
                np.zeros(0), ("blue", "green"), np.array([40, 3]), missing=10, other=7
            ),
            "unknown": number([0], [1, 2]),
        },
    )
    colour, x = counts
    assert [x[i] for i in (BELOW, 1, 2, 3, ABOVE)] == [5, 10, 20, 30, 6]
    assert (x[MISSING], x[WRONG]) == (9 + 18, 2)  # 18 rows that nothing was said of
    assert (colour[1], colour[2], colour[WRONG], colour[MISSING]) == (0, 40, 10, 50)
    assert counts.sum(axis=1).tolist() == [100, 100]


def test_a_column_that_is_not_there_is_missing():
    counts = Cells(made()).counts(50, {"x": number([0, 1, 2, TOP], [0, 50, 0, 0, 0])})
    assert counts[0, MISSING] == 50


def test_finer_edges_are_put_together():
    counts = Cells(made()).counts(
        21, {"x": number([-1.0, 0.0, 0.5, 1.0, 2.0, TOP, 9.0], [1, 2, 3, 4, 5, 3, 2, 1])}
    )
    assert [counts[1, i] for i in (BELOW, 1, 2, 3, ABOVE)] == [3, 7, 5, 3, 3]


@pytest.mark.parametrize("edges", [[0.0, 1.0, 2.0, 4.0], [0.0, 2.0, TOP], [0.0, 1.0, 2.1, TOP]])
def test_other_edges_are_refused(edges):
    with pytest.raises(Refused, match="edges of the reference"):
        Cells(made()).counts(1, {"x": number(edges, [0] * (len(edges) + 1))})


def test_another_plug_in_counts_no_sketches():
    with pytest.raises(Refused, match="send the rows"):
        Cells(object())


def test_who_asks_gets_the_cells_that_are_in_use():
    features = made()
    assert cells.width(features) == 3 + 4
    x = np.array([-1.0, 0.5, 3.0, 9.0, np.nan])
    colour = np.array(["red", "blue", None, "?", "red"], dtype=object)
    placed = cells.columns(features, 5, {"x": x, "colour": colour})
    assert placed.tolist() == [[1, 2, 5, 6, 1], [0, 1, 3, 4, 5]]
    assert cells.ordered(features).tolist() == [0, 5]
    assert cells.usual(features)[1].tolist() == pytest.approx([0, 200, 300, 500, 0, 0, 0])
    features.take(1.0, 5, {"x": np.array([0.5] * 5)})
    assert cells.now(features)[1].tolist() == [0, 5, 0, 0, 0, 0, 0]
