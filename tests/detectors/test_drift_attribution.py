"""A loss taken apart: what is known to have been done is what it says, within its bands."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import Refused
from detectors.drift.attribution import Losses

D, BINS, SCORES = 6, 20, 20
CATEGORY = 3


def odds(z):
    return 1 / (1 + np.exp(-z))


def draw(rng, n, kind, now):
    x = rng.normal(size=(n, D))
    x[:, CATEGORY] = rng.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    if kind in {"one", "both"} and now:
        x[:, 0] += 1.0
    elif kind == "two" and now:
        x[:, 0] += 0.8
        x[:, 2] -= 0.8
    elif kind == "follows":
        x[:, 0] += 1.0 * now
        x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    elif kind == "category" and now:
        x[:, CATEGORY] = rng.choice(4, n, p=[0.1, 0.2, 0.2, 0.5])
    elif kind == "joint":
        x[:, 1] = (-0.7 if now else 0.7) * x[:, 0] + 0.714 * x[:, 1]
    return x


def risk(x, kind, now):
    """Return how probable an error is; x1 never counts but where features only count together."""
    if kind == "joint":
        return 0.1 + 0.3 * (x[:, 0] * x[:, 1] < 0)
    if kind == "category":
        return np.array([0.05, 0.1, 0.2, 0.35])[x[:, CATEGORY].astype(int)]
    q = odds(-2 + 0.7 * x[:, 0] - 0.6 * x[:, 2])
    return np.clip(q + 0.15 * (x[:, 5] > 0), 0, 1) if kind in {"both", "relation"} and now else q


def truth(kind):
    """Return what each feature's own move is worth (D,), what they are worth together, and the relation."""
    rng, n = np.random.default_rng(99), 200_000
    before, after = draw(rng, n, kind, now=False), draw(rng, n, kind, now=True)
    was = risk(before, kind, now=False).mean()
    features = np.zeros(D)
    if kind == "follows":
        features[0] = risk(after, kind, now=False).mean() - was
    elif kind != "joint":
        for f in range(D):
            moved = before.copy()
            moved[:, f] = after[:, f]
            features[f] = risk(moved, kind, now=False).mean() - was
    mix = risk(after, kind, now=False).mean() - was
    relation = risk(after, kind, now=True).mean() - risk(after, kind, now=False).mean()
    return np.concatenate((features, [mix - features.sum(), relation]))


def cells(x, edges):
    rows = [
        x[:, f] if f == CATEGORY else np.searchsorted(edges[f], x[:, f], side="right")
        for f in range(D)
    ]
    return np.array(rows).astype(np.int64)


def counted(columns, width):
    return np.array([np.bincount(row, minlength=width) for row in columns]).astype(float)


def case(kind, seed, n=5000, n_now=2000):
    rng = np.random.default_rng(seed)
    before, after = draw(rng, n, kind, now=False), draw(rng, n_now, kind, now=True)
    edges = [np.quantile(before[:, f], np.arange(1, BINS) / BINS) for f in range(D)]
    lost = (rng.random(n) < risk(before, kind, now=False)).astype(float)
    lost_now = (rng.random(n_now) < risk(after, kind, now=True)).astype(float)

    def score(x):
        return np.minimum((risk(x, kind, now=False) * SCORES).astype(int), SCORES - 1)

    ordered = np.full(D, BINS)
    ordered[CATEGORY] = 0
    losses = Losses()
    losses.learn(cells(before, edges), lost, ordered, BINS, score=score(before), score_width=SCORES)
    scores = np.bincount(score(after), minlength=SCORES).astype(float)
    counts = counted(cells(after, edges), BINS)
    return losses, (counts, lost_now.mean(), lost_now.var(), float(n_now), scores)


@pytest.mark.parametrize("kind", ["one", "two", "follows", "category", "both", "relation", "joint"])
def test_parts_and_shares_are_right_within_their_bands(kind):
    wanted = truth(kind)
    total = wanted.sum()
    inside, within, off = [], [], []
    for seed in range(8):
        losses, now = case(kind, seed)
        found = losses.explain(*now)
        parts = np.vstack((found.features, found.interplay, found.relation))
        inside.append((parts[:, 1] <= wanted + 1e-3) & (wanted - 1e-3 <= parts[:, 2]))
        off.append(parts[:, 0] - wanted)
        assert not np.isnan(found.shares).any()
        share = wanted / total
        within.append((found.shares[:, 1] <= share + 0.02) & (share - 0.02 <= found.shares[:, 2]))
        np.testing.assert_allclose(parts[:, 0].sum(), found.change[0], atol=1e-12)
        np.testing.assert_allclose(found.shares[:, 0].sum(), 1.0, atol=1e-9)
        assert found.unseen.max() < 0.01
    assert np.mean(inside) > 0.93
    assert np.mean(within) > 0.93
    largest = int(np.abs(wanted).argmax())
    assert np.mean(inside, axis=0)[largest] >= 0.75
    # on average over seeds a tenth of the change at the most
    assert np.abs(np.mean(off, axis=0)).max() < 0.1 * abs(total)


def test_the_feature_that_only_follows_is_not_charged():
    charged = []
    for seed in range(6):
        losses, now = case("follows", seed)
        found = losses.explain(*now)
        charged.append(found.shares[:2, 0])
        moved = now[0][1] / now[3] - 1 / BINS
        assert np.abs(moved).max() > 0.1, "it moved, too"
    assert np.mean(charged, axis=0)[0] > 0.85
    assert abs(np.mean(charged, axis=0)[1]) < 0.1


def test_without_a_change_no_shares_are_told_and_zero_is_inside():
    for seed in range(4):
        losses, now = case("none", seed)
        found = losses.explain(*now)
        assert np.isnan(found.shares).all()
        assert found.change[1] <= 0 <= found.change[2]


def test_rows_that_the_reference_never_had_are_told():
    losses, (counts, loss, variance, rows, scores) = case("one", 0)
    counts[CATEGORY, 10] = 500.0  # a category that never was
    found = losses.explain(counts, loss, variance, rows, scores)
    assert found.unseen[CATEGORY] == pytest.approx(0.2)
    assert found.unseen[:CATEGORY].max() == 0.0


def test_without_a_score_there_is_no_interplay():
    losses, now = case("two", 0)
    rng = np.random.default_rng(1)
    losses.learn(rng.integers(0, BINS, (D, 1000)), rng.random(1000), np.full(D, BINS), BINS)
    found = losses.explain(*now[:4])
    assert found.interplay.tolist()[0] == 0.0
    assert found.relation[0] == pytest.approx(found.change[0] - found.features[:, 0].sum())


def test_restart_and_nonsense():
    losses, now = case("two", 3)
    other = Losses()
    other.load(losses.dump())
    one, two = losses.explain(*now), other.explain(*now)
    np.testing.assert_array_equal(one.features, two.features)
    np.testing.assert_array_equal(one.shares, two.shares)
    assert len(losses.dump()) < 50_000
    with pytest.raises(Refused, match="damaged"):
        other.load(losses.dump()[:-3])
    with pytest.raises(Refused, match="too few"):
        other.learn(np.zeros((2, 499), dtype=int), np.zeros(499), np.zeros(2, dtype=int), BINS)
