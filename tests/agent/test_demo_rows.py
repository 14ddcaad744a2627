from __future__ import annotations

import numpy as np
import pytest

from agent.demo import rows
from agent.demo.rows import CLASSES, FEATURES, STRONG, Concept, other_concept


@pytest.fixture(scope="module")
def parts():
    return rows.split(3)


def test_no_served_row_is_trained_on(parts):
    first, served = parts
    assert len(first) + len(served) == 569
    mine = {row.tobytes() for row in first.x}
    assert not any(row.tobytes() in mine for row in served.x)


def test_both_parts_have_both_classes_in_equal_shares(parts):
    first, served = parts
    assert first.bad.mean() == pytest.approx(served.bad.mean(), abs=0.01)


def test_the_split_depends_on_the_seed_alone():
    again, other = rows.split(3)[1], rows.split(4)[1]
    assert np.array_equal(rows.split(3)[1].x, again.x)
    assert not np.array_equal(again.x, other.x)


def test_rows_come_back_from_disk(parts, tmp_path):
    parts[0].save(tmp_path / "rows.npz")
    back = rows.load(tmp_path / "rows.npz")
    assert back.names == tuple(FEATURES)
    assert np.array_equal(back.x, parts[0].x)
    assert np.array_equal(back.bad, parts[0].bad)


def test_without_leaves_out_columns(parts):
    weaker = parts[0].without(frozenset({STRONG}))
    assert STRONG not in weaker.names
    assert weaker.x.shape == (220, len(FEATURES) - 1)
    assert np.array_equal(weaker.x[:, 0], parts[0].x[:, 1])


@pytest.mark.parametrize("share", [0.29, 0.34])
@pytest.mark.parametrize("seed", range(4))
def test_another_concept_turns_that_share_and_keeps_the_mix(seed, share):
    served = rows.split(seed)[1]
    concept = other_concept(served, share)
    table = [dict(zip(served.names, row, strict=True)) for row in served.x]
    turned = np.array([concept.turned(row) for row in table])
    assert turned.mean() == pytest.approx(share, abs=0.02)
    labels = [concept.label(row, bool(bad)) for row, bad in zip(table, served.bad, strict=True)]
    now = np.array([label == CLASSES[1] for label in labels])
    assert np.array_equal(now != served.bad, turned)
    assert now.mean() == pytest.approx(served.bad.mean(), abs=0.08)


def test_the_first_concept_is_that_of_the_data():
    assert Concept().label({"mean_symmetry": 1.0}, bad=True) == "malignant"
    assert Concept().label({"mean_symmetry": 1.0}, bad=False) == "benign"
