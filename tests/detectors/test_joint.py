"""Joint detectors on made-up hosts. Models are small: what is tested is that they work, not how well."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from agent import registry
from agent.errors import Refused
from agent.ports import Trainable
from agent.worker import Job, Worker

BENCH = Path(__file__).parents[1] / "bench" / "joint.py"
N = 6
BROKEN = 3
pytestmark = pytest.mark.long

T0 = 1_700_000_000.0
OF_ROWS = ("conv", "isolation_forest", "pca")
SMALL = {
    "conv": {"rows": 2048, "hidden": 8, "epochs": 6},
    "isolation_forest": {"trees": 32},
    "pca": {},
    "seasonal": {"step_s": 1800.0, "slot": 1800.0},
}


def walk(rows, rng):
    """A slow factor with spread 1."""
    out = np.zeros(rows)
    for i in range(1, rows):
        out[i] = 0.95 * out[i - 1] + rng.normal() * np.sqrt(1 - 0.95**2)
    return out


def host(rows, seed, *, broken=None):
    """Series (rows, 6) that sway together; from row `broken` on one of them does what it did 700 rows before."""
    rng = np.random.default_rng(seed)
    load = walk(rows, rng)
    size = np.linspace(8.0, 20.0, N)
    x = 100.0 + np.outer(load, size) + rng.normal(size=(rows, N)) * 1.5
    if broken is not None:
        x[broken:, BROKEN] = x[broken - 700 : rows - 700, BROKEN]
    return x


def daily(periods, seed):
    """Three series by half hours: a daily wave, noise, and a plateau in the morning upon a slow trend."""
    rng = np.random.default_rng(seed)
    t = np.arange(48 * periods)
    wave = 100 + 20 * np.sin(2 * np.pi * t / 48)
    plateau = 50 + 10 * (t % 48 < 10) + 0.02 * t
    x = np.stack([wave + 2 * rng.normal(size=len(t)), rng.normal(size=len(t)),
                  plateau + rng.normal(size=len(t))], 1)  # fmt: skip
    return T0 // 86_400 * 86_400 + t * 1800.0, x


@functools.cache
def model(name):
    cls = registry.detector.get(name)
    config = cls.Config(**SMALL[name])
    if name == "seasonal":
        return cls.train(config, *(part[: 48 * 5] for part in daily(8, 0)))
    return cls.train(config, T0 - 10_000 + np.arange(2000.0), host(2000, 0))


def trained(name, n=None):
    cls = registry.detector.get(name)
    n = n or (3 if name == "seasonal" else N)
    one = cls(cls.Config(**SMALL[name]), n)
    one.take(model(name), np.arange(n))
    return one


def feed(one, rows, start=T0, step=1.0):
    """Score and learn; what is clearly abnormal is not trusted. Returns p and the carriers of series BROKEN."""
    p, carriers = np.full(rows.shape, np.nan), []
    for i, row in enumerate(rows):
        p[i] = one.score(start + i * step, row)
        carriers.append(one.explain(min(BROKEN, rows.shape[1] - 1)).carriers)
        one.learn(start + i * step, row, ~(p[i] < 1e-3))
    return p, carriers


@pytest.mark.parametrize("name", SMALL)
def test_without_a_model_nothing_is_known(name):
    cls = registry.detector.get(name)
    one = cls(cls.Config(), 3)
    assert isinstance(one, Trainable)
    assert registry.trainer.get(name) is cls
    assert np.isnan(one.score(T0, np.ones(3))).all()
    one.learn(T0, np.ones(3), np.ones(3, bool))
    assert one.explain(0).family == "none"
    again = cls(cls.Config(), 3)
    again.load(one.dump())
    assert again.dump() == one.dump()


@pytest.mark.parametrize("name", OF_ROWS)
def test_series_that_part_company_are_found_while_each_looks_normal_alone(name):
    x = host(1700, 1, broken=1500)
    assert np.isin(x[1500:, BROKEN], x[:1500, BROKEN]).all(), "alone it does what it always did"
    p, carriers = feed(trained(name), x)
    before, after = p[600:1500], p[1500:]
    rare = 1e-2
    assert (after[:, BROKEN] < rare).mean() > 20 * max((before < rare).mean(), 1e-3)
    if name != "isolation_forest":
        assert after[:, BROKEN].min() < 1e-4
        # it is the one that is named, not those that it left
        assert (after[:, BROKEN] < rare).mean() > 2 * (np.delete(after, BROKEN, 1) < rare).mean()
    hot = [c for c, q in zip(carriers[1500:], after[:, BROKEN], strict=True) if q < rare]
    first = [c[0] for c in hot]
    assert first.count(BROKEN) > 0.7 * len(first)


@pytest.mark.parametrize("name", OF_ROWS)
def test_it_stays_quiet_on_more_of_the_same(name):
    p, _ = feed(trained(name), host(2500, 2))
    judged = p[600:]
    assert (judged < 1e-2).mean() < 2e-2
    low = judged < 1e-3
    assert (low[1:] & ~low[:-1]).mean() < 1e-3, "p is the rate at which excursions begin"
    assert low.mean() < 4e-3, "each lasts some rows"


@pytest.mark.parametrize("name", OF_ROWS)
def test_it_goes_on_after_a_restart_as_if_it_had_never_stopped(name):
    x = host(400, 3)
    x[::7, 1] = np.nan
    whole, _ = feed(trained(name), x)
    first = trained(name)
    feed(first, x[:201])
    cls = registry.detector.get(name)
    second = cls(cls.Config(**SMALL[name]), 1)
    second.load(first.dump())
    rest, _ = feed(second, x[201:], T0 + 201)
    assert np.array_equal(rest, whole[201:], equal_nan=True)


@pytest.mark.parametrize("name", OF_ROWS)
def test_series_may_change_places_leave_and_come(name):
    x = host(300, 4)
    plain, moved = trained(name), trained(name)
    feed(plain, x[:200])
    feed(moved, x[:200])
    order = np.array([5, 3, -1, 0, 1, 2, 4])
    moved.remap(order)
    there = np.where(order >= 0, x[200:][:, order], 7.0)
    p, _ = feed(plain, x[200:], T0 + 200)
    q, _ = feed(moved, there, T0 + 200)
    assert np.allclose(q[:, order >= 0], p[:, order[order >= 0]], rtol=1e-6, equal_nan=True)
    assert np.isnan(q[:, 2]).all(), "the model does not know the new one"
    moved.remap(np.array([0, 1]))
    left, _ = feed(moved, x[200:][:, [5, 3]], T0 + 300)
    assert np.isfinite(left).all()
    assert moved.explain(0).learnt_rows > 200


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_newer_model_goes_on_with_the_tails_of_the_last(name):
    one = trained(name)
    feed(one, host(700, 5))
    rows, learnt = one.explain(0).learnt_rows, one.judge.dump()
    assert rows > 600
    one.take(model(name), np.arange(N))
    assert one.explain(0).learnt_rows == rows
    assert one.judge.dump() == learnt
    p, _ = feed(one, host(300, 6), T0 + 700)
    assert np.isfinite(p).all()


@pytest.mark.parametrize("name", SMALL)
def test_what_is_no_model_is_refused_and_the_old_one_goes_on(name):
    one = trained(name)
    rows = host(1, 7)[:, : 3 if name == "seasonal" else N]
    before = one.score(T0, rows[0])
    for bad in (b"", model(name)[:-5], model("pca" if name != "pca" else "conv")):
        with pytest.raises(Refused):
            one.take(bad, np.arange(rows.shape[1]))
    assert np.array_equal(one.score(T0, rows[0]), before, equal_nan=True)
    cls = registry.detector.get(name)
    other = cls(cls.Config(**{**SMALL[name], "step_s": 7200.0}), rows.shape[1])
    with pytest.raises(Refused, match=r"step of|slots a period"):
        other.take(model(name), np.arange(rows.shape[1]))


@pytest.mark.parametrize("name", SMALL)
def test_too_little_to_learn_from_is_refused_in_words(name):
    cls = registry.detector.get(name)
    config = cls.Config(**SMALL[name])
    ts = T0 + config.step_s * np.arange(48 * 4)
    with pytest.raises(Refused, match=r"series move|windows of|are needed"):
        cls.train(config, ts, np.full((len(ts), 4), 5.0))
    with pytest.raises(Refused):
        cls.train(config, ts[:0], np.empty((0, 4)))


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("pca", "sklearn", "ml"), ("isolation_forest", "sklearn", "ml"),
     ("seasonal", "statsmodels", "ml"), ("conv", "torch", "deep")],
)  # fmt: skip
async def test_a_missing_library_names_its_extra(name, library, extra, tmp_path, monkeypatch):
    """In a real worker, where importing the library fails."""
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text(f"raise ModuleNotFoundError({library!r})")
    rest = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [rest])]))
    worker = Worker(limit_s=60)
    try:
        job = Job(name, SMALL[name], T0 + np.arange(2000.0), host(2000, 0))
        with pytest.raises(
            Refused, match=rf"{library} is not installed; .*make setup.*pip install '\.\[{extra}\]'"
        ):
            await worker.train(job)
        assert worker.pid is not None
    finally:
        await worker.close()


def test_scoring_loads_none_of_the_libraries_that_trained(tmp_path):
    for name in SMALL:
        (tmp_path / name).write_bytes(model(name))
    code = f"""
import sys, numpy as np
from pathlib import Path
from agent import daemon, registry
registry.load()
for name, own in {SMALL!r}.items():
    n = 3 if name == "seasonal" else {N}
    cls = registry.detector.get(name)
    one = cls(cls.Config(**own), n)
    one.take((Path({str(tmp_path)!r}) / name).read_bytes(), np.arange(n))
    for i in range(40):
        p = one.score({T0} + i * one.config.step_s, np.full(n, 100.0 + i))
        one.learn({T0} + i * one.config.step_s, np.full(n, 100.0 + i), np.ones(n, bool))
    assert np.isfinite(p).any(), name
    again = cls(cls.Config(**own), n)
    again.load(one.dump())
    again.explain(0)
print([m for m in daemon.HEAVY if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr


# ---- forest


def shifts(rows, seed, *, both=None):
    """Six series of one load and six of another, each load off or on; both at once only from row `both` on."""
    rng = np.random.default_rng(seed)
    on, at = np.zeros((rows, 2)), 0
    while at < rows:
        lasts = int(rng.integers(30, 90))
        on[at : at + lasts] = ((0, 0), (1, 0), (0, 1))[rng.integers(3)]
        at += lasts
    if both is not None:
        on[both:] = 1
    load, now = np.zeros((rows, 2)), np.zeros(2)
    for i in range(rows):
        now = now + 0.3 * (on[i] - now)
        load[i] = now
    load += 0.05 * rng.normal(size=load.shape)
    size = np.linspace(8.0, 20.0, 6)
    x = 100.0 + np.concatenate([np.outer(load[:, g], size) for g in (0, 1)], axis=1)
    return x + 0.6 * rng.normal(size=x.shape)


def test_what_never_came_together_is_found_by_the_forest_alone():
    """A batch job in the busiest hour: each series, and each beside its like, does what it often does."""
    x = shifts(1660, 1, both=1600)
    assert x[1600:].max() < 1.05 * x[:1600].max(), "nobody is higher than ever"
    rarest = {}
    for name in ("isolation_forest", "pca", "bank"):
        cls = registry.detector.get(name)
        one = cls(cls.Config(), 12)
        if name != "bank":
            one.take(cls.train(cls.Config(), T0 - 5e3 + np.arange(4000.0), shifts(4000, 0)), np.arange(12))  # fmt: skip
        p, carriers = feed(one, x)
        rarest[name] = p[600:].min(axis=1)
        if name == "isolation_forest":
            found = [set(c) for c, q in zip(carriers[1600:], p[1600:], strict=True) if q.min() < 1e-2]  # fmt: skip
            both = [bool(c & set(range(6))) and bool(c & set(range(6, 12))) for c in found]
            assert np.mean(both) > 0.7, "it names series of both"
    ordinary = {name: p[:1000] for name, p in rarest.items()}
    broken = {name: p[1000:] for name, p in rarest.items()}
    assert (broken["isolation_forest"] < 1e-2).mean() > 0.5
    assert (ordinary["isolation_forest"] < 1e-2).mean() < 0.01
    for blind in ("pca", "bank"):
        assert broken[blind].min() > 0.9 * ordinary[blind].min(), "no rarer than what often comes"


def test_the_flat_trees_say_what_scikit_learn_says():
    from sklearn.ensemble import IsolationForest

    from detectors.isolation_forest import Trees, _flat, _path

    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5)).astype(np.float32)
    theirs = IsolationForest(n_estimators=20, max_samples=64, random_state=0).fit(x)
    arrays = _flat([one.tree_ for one in theirs.estimators_])
    ours = Trees({**arrays, "usual": _path(np.array([64]))})
    probe = np.concatenate((x[:50], 4 * rng.normal(size=(50, 5)).astype(np.float32)))
    assert np.allclose(
        [ours.score(row)[0] for row in probe], -theirs.score_samples(probe), atol=1e-6
    )
    far = np.zeros(5)
    far[2] = 9.0
    assert ours.score(far)[1].argmax() == 2


# ---- conv


def test_numpy_forecasts_what_torch_forecasts():
    import torch

    from detectors.conv import WINDOW, Net, _arrays

    torch.manual_seed(1)
    first, second = torch.nn.Conv1d(5, 7, 4, stride=4), torch.nn.Conv1d(7, 7, 4)
    head, skip = torch.nn.Linear(7, 5), torch.rand(5)
    rows = torch.randn(9, WINDOW, 5)
    with torch.no_grad():
        hidden = torch.relu(second(torch.relu(first(rows.transpose(1, 2)))))[:, :, 0]
        theirs = (head(hidden) + skip * rows[:, -1]).numpy()
    assert np.allclose(
        Net(_arrays(first, second, head, skip)).forecast(rows.numpy()), theirs, atol=1e-5
    )


def test_the_network_learns_that_one_series_follows_another():
    rng = np.random.default_rng(0)
    lead = rng.normal(size=3000)
    x = np.stack([lead, np.roll(lead, 3) + 0.1 * rng.normal(size=3000)], 1)
    cls = registry.detector.get("conv")
    config = cls.Config(hidden=8, epochs=60)
    one = cls(config, 2)
    one.take(cls.train(config, T0 - 9000 + np.arange(2500.0), x[:2500]), np.arange(2))
    for i in range(2500, 2600):
        one.score(T0 + i, x[i])
        why = one.explain(1)
        one.learn(T0 + i, x[i], np.ones(2, bool))
    assert why.high - why.low < 2.0, "the follower is foretold; its own spread is 4.6 (98 %)"


def test_one_that_no_longer_follows_is_found_by_the_network_alone():
    """The follower goes on as lively as ever, three rows behind somebody else: in no row is that strange."""
    rng = np.random.default_rng(0)
    lead, other = rng.normal(size=(2, 4700))
    x = np.stack([lead, np.roll(lead, 3) + 0.1 * rng.normal(size=4700)], 1)
    x[4600:, 1] = np.roll(other, 3)[4600:]
    rarest = {}
    for name, own in (("conv", {"hidden": 8, "epochs": 40}), ("pca", {}), ("bank", {})):
        cls = registry.detector.get(name)
        one = cls(cls.Config(**own), 2)
        if name != "bank":
            model = cls.train(one.config, T0 - 9e3 + np.arange(2500.0), x[:2500])
            one.take(model, np.arange(2))
        p, _ = feed(one, x[2500:])
        rarest[name] = p[600:].min(axis=1)
    ordinary = {name: p[:1500] for name, p in rarest.items()}
    broken = {name: p[1500:] for name, p in rarest.items()}
    assert (broken["conv"] < 1e-3).mean() > 0.5
    assert (ordinary["conv"] < 1e-3).mean() < 0.005
    for blind in ("pca", "bank"):
        assert broken[blind].min() > 0.5 * ordinary[blind].min(), "no rarer than what often comes"


def test_a_long_excursion_stays_one_while_it_is_not_trusted():
    one = trained("conv")
    feed(one, host(700, 8))
    x = host(100, 9)
    x[:, BROKEN] += 400.0
    p = np.array([one.score(T0 + 700 + i, row)[BROKEN] for i, row in enumerate(x)
                  if one.learn(T0 + 699.5 + i, row, np.arange(N) != BROKEN) is None])  # fmt: skip
    assert (p < 1e-3).all()


@pytest.mark.parametrize(
    ("asked", "there", "used"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_the_device_is_chosen_by_what_was_asked_and_what_is_there(asked, there, used):
    from detectors.conv import device_of

    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: there))
    assert device_of(torch, asked) == used


def test_cuda_that_is_asked_for_and_absent_is_refused_before_anything_is_trained(monkeypatch):
    import torch
    from pydantic import ValidationError

    cls = registry.detector.get("conv")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match=r"no CUDA device.*device: auto"):
        cls.train(cls.Config(device="cuda"), np.empty(0), np.empty((0, 2)))
    with pytest.raises(ValidationError, match="device"):
        cls.Config(device="gpu")


# ---- seasonal


def test_a_rhythm_is_learnt_and_what_leaves_it_is_found():
    ts, x = daily(8, 0)
    one = trained("seasonal")
    p, _ = feed(one, x[48 * 5 : -1], ts[48 * 5], 1800.0)
    assert np.isnan(p[:, 1]).all(), "noise has no rhythm: it is not in the model"
    judged = p[60:, [0, 2]]
    assert (judged < 0.02).mean() < 0.06
    night = x[-1].copy()
    night[0] += 25.0  # still within what it has by day
    assert night[0] < x[:, 0].max()
    q = one.score(ts[-1], night)
    assert q[0] < 1e-3
    why = one.explain(0)
    assert why.family == "season"
    assert why.low < x[-1, 0] < why.high < night[0]
    low, middle, high = one.forecast(ts[-1])
    assert low[0] < x[-1, 0] < high[0]
    assert middle[0] == pytest.approx(x[-1, 0], abs=8)
    later = one.forecast(ts[-1] + 20 * 1800.0)
    assert later[2, 0] - later[0, 0] > high[0] - low[0], "farther ahead is less sure"
    assert np.isnan(low[1])


def test_quick_rows_are_judged_once_a_slot():
    ts, x = daily(8, 0)
    cls = registry.detector.get("seasonal")
    config = cls.Config(step_s=300.0, slot=1800.0)
    one = cls(config, 3)
    one.take(cls.train(config, ts[: 48 * 5], x[: 48 * 5]), np.arange(3))
    rng = np.random.default_rng(1)
    p = np.full((48 * 2, 6), np.nan)
    for i in range(48 * 2):
        for j in range(6):
            row = x[48 * 5 + i] + rng.normal(size=3)
            p[i, j] = one.score(ts[48 * 5 + i] + 300.0 * j, row)[0]
            one.learn(ts[48 * 5 + i] + 300.0 * j, row, np.ones(3, bool))
    assert np.isnan(p[:30]).all()
    assert one.explain(0).learnt_rows == 48 * 2 - 1
    held = p[40:]
    assert (np.ptp(np.log(held[:, 1:]), axis=1) < 1e-9).all(), (
        "between slots nothing new is measured"
    )
    assert (held < 0.02).mean() < 0.06


# ---- the hook for benchmarks


def bench():
    spec = importlib.util.spec_from_file_location("bench_joint", BENCH)
    made = importlib.util.module_from_spec(spec)
    sys.modules["bench_joint"] = made
    spec.loader.exec_module(made)
    return made


def test_a_benchmark_gets_rows_of_p_values_from_the_past_only():
    made = bench()
    assert set(made.NAMES) == set(SMALL)
    x = host(1100, 1, broken=1000)
    one = made.build("pca", N, 60.0, first=400, every=300)
    other = made.build("pca", N, 60.0, first=400, every=300)
    p = np.array([one.update(np.full(N, T0 + 60.0 * i), row) for i, row in enumerate(x)])
    assert np.isnan(p[:400]).all()
    assert np.isfinite(p[440:]).all()
    assert one.train_s > 0
    assert p[1000:, BROKEN].min() < 1e-3
    # what comes later changes nothing of what was said before
    q = np.array([other.update(T0 + 60.0 * i, row) for i, row in enumerate(x[:900])])
    assert np.array_equal(p[:900], q, equal_nan=True)


def test_beside_the_bank_the_benchmark_says_what_the_daemon_would():
    made = bench()
    x = host(1100, 1, broken=1000)
    both = made.build("pca", N, 60.0, first=400, every=2000, beside=True)
    p = np.array([both.update(T0 + 60.0 * i, row) for i, row in enumerate(x)])
    bank = registry.detector.get("bank")
    alone = bank(bank.Config(step_s=60.0), N)
    for i, row in enumerate(x[:400]):
        q = alone.score(T0 + 60.0 * i, row)
        assert np.array_equal(p[i], q, equal_nan=True), (
            "until there is a model the bank speaks alone"
        )
        alone.learn(T0 + 60.0 * i, row, np.ones(N, bool))
    assert p[1000:, BROKEN].min() < 1e-2
    assert both.carriers(BROKEN)[0] == BROKEN
    assert both.trained == 1


def test_of_a_detector_that_judges_rows_the_benchmark_has_one_p_a_row():
    made = bench()
    one = made.build("isolation_forest", N, 60.0, first=400, every=2000)
    for i, row in enumerate(host(500, 1)):
        p = one.update(T0 + 60.0 * i, row)
        if i < 400:
            assert np.isnan(one.row_p)
    assert one.row_p == p.min()
    assert np.isnan(made.build("pca", N, 60.0).row_p)
