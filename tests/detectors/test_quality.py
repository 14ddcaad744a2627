"""Quality out of sums: against the field's reference implementation, by slice, by group, with bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from agent.errors import Refused
from agent.registry import drift
from detectors.drift.quality import ClassQuality, NumberQuality

RUNS = 300


def two_classes(rng, n, sharp=3.0):
    truth = rng.normal(-0.5, 1.5, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(int)
    p = 1 / (1 + np.exp(-sharp / 3 * (truth + rng.normal(0, 0.5, n))))
    preds = (p > 0.5).astype(int)
    return labels, preds, p


def said(preds, p):
    """The probability of what was said."""
    return np.where(preds == 1, p, 1 - p)


def many_classes(rng, n, k):
    p = rng.dirichlet(np.full(k, 0.5), n)
    labels = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return labels, p.argmax(axis=1), p


def test_they_are_registered():
    assert drift.get("class_quality") is ClassQuality
    assert drift.get("number_quality") is NumberQuality


# ---------------------------------------------------------------- values


def test_two_classes_against_scikit_learn():
    labels, preds, p = two_classes(np.random.default_rng(0), 5000)
    quality = ClassQuality()
    for part in np.array_split(np.arange(5000), 7):
        quality.take(labels[part], preds[part], said(preds, p)[part])
    got = {name: (f.value[0], f.low[0], f.high[0]) for name, f in quality.figures().items()}
    expected = {
        "accuracy": metrics.accuracy_score(labels, preds),
        "precision": metrics.precision_score(labels, preds),
        "recall": metrics.recall_score(labels, preds),
        "f1": metrics.f1_score(labels, preds),
        "macro_f1": metrics.f1_score(labels, preds, average="macro"),
        "macro_precision": metrics.precision_score(labels, preds, average="macro"),
        "macro_recall": metrics.balanced_accuracy_score(labels, preds),
        "log_loss": metrics.log_loss(labels, p),
        "brier": metrics.brier_score_loss(labels, p),
        "overconfidence": p.mean() - labels.mean(),
        "positive_prediction_ratio": preds.mean(),
        "positive_label_ratio": labels.mean(),
        "false_positive_ratio": preds[labels == 0].mean(),
    }
    for name, value in expected.items():
        assert got[name][0] == pytest.approx(value, abs=1e-12), name
        assert got[name][1] < value < got[name][2], name
    area = metrics.roc_auc_score(labels, p)
    assert got["roc_auc"][0] == pytest.approx(area, abs=0.002)
    assert got["roc_auc"][1] < area < got["roc_auc"][2]
    # both ways of logging a probability are the same
    whole = ClassQuality()
    whole.take(labels, preds, np.stack((1 - p, p), axis=1))
    for name, array in whole.arrays.items():
        np.testing.assert_allclose(array, quality.arrays[name], atol=1e-8)


def test_the_area_lies_within_the_ties_of_its_bins():
    # 100 rows of the rarer class, probabilities of a rare event: bins are coarse, and the bound says how coarse
    rng = np.random.default_rng(1)
    for scale in (0.3, 0.02, 0.001, 1e-5):
        p = rng.beta(1, 3, 20_000) * scale
        labels = (rng.random(20_000) < 0.005 + 0.01 * (p > scale / 4)).astype(int)
        quality = ClassQuality()
        quality.take(labels, np.zeros(20_000, dtype=int), 1 - p)
        figure = quality.figures(level=1e-9)["roc_auc"]  # no doubt but that of the bins
        area = metrics.roc_auc_score(labels, p)
        tied = metrics.roc_auc_score(labels, np.minimum(np.arcsin(np.sqrt(p)) * 256 // np.pi, 127))
        assert figure.value[0] == pytest.approx(tied, abs=1e-9)
        assert figure.low[0] <= area <= figure.high[0]


def test_more_classes_against_scikit_learn():
    labels, preds, p = many_classes(np.random.default_rng(2), 4000, 5)
    quality = ClassQuality(5, positive=None)
    quality.take(labels, preds, p)
    got = {name: f.value[0] for name, f in quality.figures().items()}
    one = np.eye(5)[labels]
    expected = {
        "accuracy": (metrics.accuracy_score(labels, preds), 1e-12),
        "macro_f1": (metrics.f1_score(labels, preds, average="macro"), 1e-12),
        "macro_precision": (metrics.precision_score(labels, preds, average="macro"), 1e-12),
        "macro_recall": (metrics.recall_score(labels, preds, average="macro"), 1e-12),
        "log_loss": (-np.log(np.maximum(p[np.arange(4000), labels], 1e-7)).mean(), 1e-12),
        "brier": (((p - one) ** 2).sum(axis=1).mean() / 2, 1e-12),
        "roc_auc": (metrics.roc_auc_score(labels, p, multi_class="ovr"), 0.002),
    }
    for name, (value, slack) in expected.items():
        assert got[name] == pytest.approx(value, abs=slack), name
    assert not {"precision", "recall", "f1"} & set(got)
    # with the confidence alone, what needs all probabilities is unknown
    alone = ClassQuality(5, positive=None)
    alone.take(labels, preds, p.max(axis=1))
    unknown = {name for name, f in alone.figures().items() if np.isnan(f.value[0])}
    assert unknown == {"log_loss", "brier", "roc_auc"}
    assert alone.figures()["overconfidence"].value[0] == pytest.approx(got["overconfidence"])


def test_a_class_of_many_may_be_the_positive_one():
    labels, preds, p = many_classes(np.random.default_rng(3), 2000, 3)
    quality = ClassQuality(3, positive=2)
    quality.take(labels, preds, p)
    got = quality.figures()
    assert got["recall"].value[0] == pytest.approx(metrics.recall_score(labels == 2, preds == 2))
    assert got["f1"].value[0] == pytest.approx(metrics.f1_score(labels == 2, preds == 2))


def test_classes_beyond_the_told_apart_are_one_more_and_right_or_wrong():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 40, 3000)
    preds = np.where(rng.random(3000) < 0.7, labels, rng.integers(0, 40, 3000))
    quality = ClassQuality(16, positive=None)
    quality.take(labels, preds)
    figures = quality.figures()
    assert figures["accuracy"].value[0] == pytest.approx((labels == preds).mean())
    known = np.array([(preds[labels == c] == c).mean() for c in range(16)])
    other = (preds == labels)[labels >= 16].mean()
    assert figures["macro_recall"].value[0] == pytest.approx(np.append(known, other).mean())


def test_numbers_against_scikit_learn_at_a_large_level():
    rng = np.random.default_rng(5)
    labels = 1e6 + rng.gamma(2.0, 3.0, 6000)
    preds = labels + rng.normal(0.3, 2.0, 6000)
    quality = NumberQuality()
    for part in np.array_split(np.arange(6000), 5):
        quality.take(labels[part], preds[part])
    got = {name: (f.value[0], f.low[0], f.high[0]) for name, f in quality.figures().items()}
    expected = {
        "mae": metrics.mean_absolute_error(labels, preds),
        "rmse": metrics.root_mean_squared_error(labels, preds),
        "r2": metrics.r2_score(labels, preds),
        "bias": (preds - labels).mean(),
    }
    for name, value in expected.items():
        assert got[name][0] == pytest.approx(value, rel=1e-7), name
        assert got[name][1] < value < got[name][2], name
    for q in (50, 90, 99):
        true = np.quantile(np.abs(preds - labels), q / 100)
        value, low, high = got[f"error_p{q}"]
        assert value == pytest.approx(true, rel=0.07)
        assert low < true < high


# ---------------------------------------------------------------- bounds at every look


LOOKS = np.unique(np.geomspace(40, 6000, 18).astype(int))


def misses(quality, draw, truths, names):
    """Run RUNS streams side by side, as slices, look after each batch; return the share of streams ever missed."""
    wrong, n = {name: np.zeros(RUNS, dtype=bool) for name in names}, 0
    for look in LOOKS:
        rows = (look - n) * RUNS
        quality.take(*draw(rows), slices=np.arange(rows) % RUNS + 1)
        n = look
        figures = quality.figures()
        for name in names:
            f = figures[name]
            wrong[name] |= (f.low[1:] > truths[name]) | (f.high[1:] < truths[name])
    return {name: float(w.mean()) for name, w in wrong.items()}


@pytest.mark.long
def test_the_truth_of_classes_is_rarely_ever_outside():
    rng = np.random.default_rng(6)
    labels, preds, p = two_classes(rng, 2_000_000, sharp=5.0)
    large = ClassQuality()
    large.take(labels, preds, said(preds, p))
    names = [n for n in large.figures() if n != "calibration_error_by_chance"]
    truths = {name: large.figures()[name].value[0] for name in names}

    def draw(rows):
        labels, preds, p = two_classes(rng, rows, sharp=5.0)
        return labels, preds, said(preds, p)

    shares = misses(ClassQuality(slices=RUNS), draw, truths, names)
    assert max(shares.values()) <= 0.05, shares


@pytest.mark.long
def test_the_truth_of_numbers_is_rarely_ever_outside():
    rng = np.random.default_rng(7)

    def draw(rows):
        labels = rng.gamma(2.0, 3.0, rows)
        return labels, labels + rng.laplace(0.3, 1.0, rows) * (1 + labels / 10)

    large = NumberQuality()
    large.take(*draw(4_000_000))
    names = list(large.figures())
    truths = {name: large.figures()[name].value[0] for name in names}
    shares = misses(NumberQuality(slices=RUNS), draw, truths, names)
    # squares of errors with such tails are where the normal approximation is worst, in the first hundred rows
    tails = {"rmse", "r2"}
    assert max(v for name, v in shares.items() if name not in tails) <= 0.05, shares
    assert max(shares[name] for name in tails) <= 0.08, shares


def test_the_curve_shows_where_scores_promise_too_much():
    rng = np.random.default_rng(8)
    p = rng.random(40_000)
    labels = (rng.random(40_000) < np.where(p > 0.7, p - 0.2, p)).astype(int)
    quality = ClassQuality()
    quality.take(labels, np.ones(40_000, dtype=int), p)
    curve = quality.reliability()
    promised = curve.score > curve.high
    assert promised[curve.score > 0.75].all()
    assert not promised[curve.score < 0.65].any()
    assert curve.rows.sum() == 40_000
    figures = quality.figures()
    assert figures["calibration_error"].low[0] > figures["calibration_error_by_chance"].value[0]
    assert figures["calibration_error"].value[0] == pytest.approx(0.06, abs=0.01)


# ---------------------------------------------------------------- slices, groups


def test_a_slice_is_what_its_rows_alone_would_give():
    rng = np.random.default_rng(9)
    labels, preds, p = two_classes(rng, 3000)
    at = np.stack((rng.integers(0, 3, 3000), rng.integers(0, 2, 3000) * 4), axis=1)
    at[:, 1][at[:, 1] == 0] = 3
    quality = ClassQuality(slices=4)
    quality.take(labels, preds, said(preds, p), at)
    figures = quality.figures()
    for slot in range(5):
        mine = (at == slot).any(axis=1) | (slot == 0)
        alone = ClassQuality()
        alone.take(labels[mine], preds[mine], said(preds, p)[mine])
        for name, figure in alone.figures().items():
            for part in ("value", "low", "high", "rows"):
                got = getattr(figures[name], part)[slot]
                # bounds are searched no finer than the widest of them needs
                want = pytest.approx(getattr(figure, part)[0], abs=1e-3, nan_ok=True)
                assert got == want, name


def groups_of(rng, n, positives=(0.4, 0.4), recalls=(0.8, 0.8), alarms=(0.1, 0.1)):
    group = rng.integers(0, len(positives), n)
    labels = rng.random(n) < np.take(positives, group)
    rate = np.where(labels, np.take(recalls, group), np.take(alarms, group))
    return group, labels.astype(int), (rng.random(n) < rate).astype(int)


def test_gaps_between_groups():
    rng = np.random.default_rng(10)
    group, labels, preds = groups_of(rng, 30_000, recalls=(0.8, 0.6))
    quality = ClassQuality(slices=3)
    quality.take(labels, preds, slices=group + 1)
    gaps = quality.gaps([1, 2])
    tpr = gaps["equal_opportunity"]
    assert (tpr.highest, tpr.lowest, tpr.unknown) == (1, 2, ())
    assert 0.1 < tpr.low < 0.2 < tpr.high < 0.3
    assert tpr.value == pytest.approx(0.2, abs=0.02)
    assert tpr.rows == pytest.approx(6000, rel=0.05)  # positives of the smaller group
    assert gaps["false_positive"].low == 0.0
    assert gaps["demographic_parity"].value == pytest.approx(0.08, abs=0.02)
    assert np.isnan(gaps["calibration"].value)  # no probabilities were logged
    # a third group without rows is unknown, and the others are compared
    with_empty = quality.gaps([1, 2, 3])
    assert with_empty["equal_opportunity"].unknown == (3,)
    assert with_empty["equal_opportunity"].value == tpr.value
    alone = quality.gaps([1, 3])["equal_opportunity"]
    assert np.isnan([alone.value, alone.low, alone.high]).all()


def test_a_gap_of_calibration():
    rng = np.random.default_rng(11)
    p = rng.random(20_000)
    group = rng.integers(0, 2, 20_000)
    labels = (rng.random(20_000) < np.where(group == 1, p**2, p)).astype(int)
    quality = ClassQuality(slices=2)
    quality.take(labels, np.ones(20_000, dtype=int), p, group + 1)
    gap = quality.gaps([1, 2])["calibration"]
    assert gap.low < 1 / 6 < gap.high
    assert gap.high - gap.low < 0.1
    assert (gap.highest, gap.lowest) == (2, 1)


def test_gaps_of_numbers():
    rng = np.random.default_rng(12)
    group = rng.integers(0, 2, 20_000)
    labels = rng.normal(size=20_000)
    preds = labels + rng.normal(0.2 * group, 1.0 + 0.5 * group)
    quality = NumberQuality(slices=2)
    quality.take(labels, preds, group + 1)
    gaps = quality.gaps([1, 2])
    assert gaps["bias"].low < 0.2 < gaps["bias"].high
    size = np.abs(preds - labels)
    assert gaps["mae"].value == pytest.approx(size[group == 1].mean() - size[group == 0].mean())


@pytest.mark.long
def test_equal_groups_are_rarely_ever_found_unequal():
    found = dict.fromkeys(("equal_opportunity", "demographic_parity", "accuracy"), 0)
    for seed in range(80):
        rng = np.random.default_rng(seed)
        quality = ClassQuality(slices=3)
        seen = set()
        for look in range(12):
            group, labels, preds = groups_of(
                rng, 150 * (look + 1), *([v] * 3 for v in (0.4, 0.7, 0.2))
            )
            quality.take(labels, preds, slices=group + 1)
            gaps = quality.gaps([1, 2, 3])
            seen |= {name for name in found if gaps[name].low > 0}
        for name in seen:
            found[name] += 1
    assert max(found.values()) <= 0.05 * 80, found


# ---------------------------------------------------------------- unknown, state, nonsense


def test_few_rows_are_unknown_and_never_zero():
    quality = ClassQuality(slices=1)
    assert all(np.isnan(f.value).all() for f in quality.figures().values())
    # 100 rows, all of one class and none called positive: half of the figures have nothing to be a share of
    quality.take(np.zeros(100, dtype=int), np.zeros(100, dtype=int), np.full(100, 0.9))
    figures = quality.figures()
    unknown = {name for name, f in figures.items() if np.isnan(f.value[0])}
    assert unknown == {"precision", "recall", "f1", "roc_auc"}
    assert all(np.isnan(f.value[1]) for f in figures.values())
    assert figures["accuracy"].value[0] == 1.0
    assert figures["accuracy"].low[0] < 0.97
    numbers = NumberQuality()
    numbers.take(np.arange(20.0), np.arange(20.0))
    assert all(np.isnan(f.value).all() for f in numbers.figures().values())
    numbers.take(np.full(20, 7.0), np.full(20, 7.0))
    assert numbers.figures()["mae"].value[0] == 0.0
    constant = NumberQuality()
    constant.take(np.full(50, 7.1), np.full(50, 7.0))
    assert np.isnan(constant.figures()["r2"].value[0])


def test_rows_without_a_label_a_prediction_or_a_probability():
    quality = ClassQuality()
    quality.take([1, -1, 0, 1], [1, 1, -1, 0], [0.9, 0.9, 0.9, np.nan])
    quality.take([1, 0], [1, 0], [1.5, -0.1])
    quality.take([], [], [])
    assert quality.arrays["confusion"].sum() == 4
    assert quality.arrays["scores"].sum() == 1
    numbers = NumberQuality()
    numbers.take([1.0, np.nan, np.inf, 2.0], [1.5, 1.0, 1.0, np.nan])
    numbers.take([], [])
    assert numbers.arrays["sums"][0, 0] == 1


@pytest.mark.parametrize("kind", ["two", "five", "numbers"])
def test_parts_add_up_in_any_order_and_survive_a_restart(kind):
    rng = np.random.default_rng(13)
    make = {
        "two": lambda: ClassQuality(slices=2),
        "five": lambda: ClassQuality(5, 2, None),
        "numbers": lambda: NumberQuality(slices=2),
    }[kind]
    whole, parts = make(), [make() for _ in range(4)]
    for part in (*parts[:3], *parts[:3]):  # the fourth stays empty
        if kind == "numbers":
            y = rng.normal(50, 2, 200)
            rows = (y, y + rng.normal(size=200))
        elif kind == "two":
            labels, preds, p = two_classes(rng, 200)
            rows = (labels, preds, said(preds, p))
        else:
            rows = many_classes(rng, 200, 5)
        at = rng.integers(0, 3, 200)
        part.take(*rows, slices=at)
        whole.take(*rows, slices=at)
    one = (parts[0] + parts[3]) + (parts[1] + parts[2])
    other = parts[2] + (parts[1] + (parts[3] + parts[0]))
    again = make()
    again.load(one.dump())
    for added in (one, other, again):
        for name, figure in whole.figures().items():
            got = added.figures()[name]
            for field in ("value", "low", "high", "rows"):
                np.testing.assert_allclose(
                    getattr(got, field), getattr(figure, field), rtol=1e-6, atol=1e-9, err_msg=name
                )
    assert len(one.dump()) < one.nbytes + 1000


def test_nonsense_is_refused():
    for wrong in ({"classes": 1}, {"classes": 17}, {"positive": None}, {"positive": 2}):
        with pytest.raises(ValueError, match="class"):
            ClassQuality(**wrong)
    quality = ClassQuality(slices=2)
    with pytest.raises(ValueError, match="slice 3 of 2"):
        quality.take([1], [1], slices=[3])
    with pytest.raises(ValueError, match="of 3 classes, not of 2"):
        quality.take([1], [1], [[0.2, 0.3, 0.5]])
    with pytest.raises(Refused, match="another shape"):
        quality.load(ClassQuality(slices=1).dump())
    with pytest.raises(Refused):
        quality.load(NumberQuality().dump())
    with pytest.raises(Refused, match="damaged"):
        quality.load(quality.dump()[:-1])
    with pytest.raises(TypeError):
        quality + ClassQuality(slices=1)
    with pytest.raises(TypeError):
        quality + NumberQuality(slices=2)
