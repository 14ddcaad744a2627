from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import structlog
from worker_trainers import Mean, begun

from agent import registry
from agent import training as module
from agent.config import DetectorConfig, load
from agent.errors import ConfigError
from agent.model import Entity, Frame, Series
from agent.monitor import Monitor
from agent.panel import Panel
from agent.ports import Detector, Past, Why
from agent.training import Training, gather, pieces
from agent.traits import Traits
from agent.worker import Worker

HERE = Path(__file__).parent
HOST = Entity("host", "h")
NAMES = tuple(Series("host.load1_count", HOST, (("n", str(i)),)) for i in range(4))
T0 = 1_700_000_000.0


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    rest = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{rest}" if rest else str(HERE))
    monkeypatch.setitem(registry.detector._known, "test_mean", Mean)


class Past3:
    """A history of three values that never change; counts its reads."""

    def __init__(self) -> None:
        self.reads = 0
        self.rows = 100

    def read(self, series, start, end, step=None):
        self.reads += 1
        ts = np.arange(np.ceil(start / step), np.floor(end / step) + 1) * step
        ts = ts[ts >= T0 - self.rows]
        return ts, np.tile([float(s.labels[0][1]) * 100 for s in series], (len(ts), 1))


class Bank:
    """A first detector that finds nothing, and is asked for its state."""

    def __init__(self) -> None:
        self.learnt = 0
        self.traits = None

    def score(self, ts, x):
        return np.where(np.isnan(x), np.nan, 0.5)

    def learn(self, ts, x, trust):
        self.learnt += 1

    def remap(self, old_index):
        pass

    def dump(self):
        return b"bank"

    def load(self, state):
        assert state == b"bank"

    def explain(self, i):
        return Why("bank", 0.0, 1.0, 1.0, 1, calibrated=True)

    def set_traits(self, traits):
        self.traits = traits


@dataclasses.dataclass
class Watch:
    detector: Detector | None
    series: tuple[Series, ...]


@pytest.fixture
async def make(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(module, "_TOO_SHORT_S", 0.0)

    def start(history=None, *, series=NAMES[:3], **config):
        told = {k: config.pop(k) for k in ("every", "sources", "use") if k in config}
        wanted = {"test_mean": DetectorConfig.model_validate({**told, **config})}
        one = Training(
            wanted, history or Past3(), tmp_path / "trained", lambda: T0, Worker(limit_s=60)
        )
        one.watches = {"host": Watch(one.panel(Bank(), 1.0, len(series)), series)}
        made.append(one)
        return one

    yield start
    for one in made:
        await one.close()


def detector(training: Training) -> Mean:
    panel = training.watches["host"].detector
    assert isinstance(panel, Panel)
    return panel.others["test_mean"]


async def round_(training: Training) -> None:
    await training.look()
    if training._task is not None:
        await training._task


async def test_it_trains_from_history_and_hands_the_model_over(make):
    training = make()
    assert np.isnan(detector(training).mean).all()
    await round_(training)
    assert detector(training).mean.tolist() == [0.0, 100.0, 200.0]
    await round_(training)
    assert detector(training).taken == 1, "a model of now is not made again"


async def test_it_trains_anew_when_the_model_is_old(make):
    training = make(every="1s")
    await round_(training)
    training.rebase(-2.0)
    await round_(training)
    assert detector(training).taken == 2


async def test_killed_in_the_middle_nothing_is_lost_and_it_is_tried_again(make, tmp_path):
    mark = tmp_path / "mark"
    training = make(every="1s", mark=str(mark))
    await round_(training)
    before = detector(training).mean.copy()
    mark.unlink()
    training.wanted = {"test_mean": DetectorConfig.model_validate(
        {"every": "1s", "mark": str(mark), "seconds": 60})}  # fmt: skip
    training.rebase(-2.0)
    with structlog.testing.capture_logs() as said:
        for _ in range(2):
            await training.look()
            os.kill(await begun(mark), signal.SIGKILL)
            await training._task
            mark.unlink()
    warned = [one for one in said if one["log_level"] == "warning"]
    assert [one["event"] for one in warned] == ["training_failed"], "logged once, not on each try"
    assert "ended by SIGKILL" in warned[0]["error"]
    assert np.array_equal(detector(training).mean, before), "the old model goes on"
    training.wanted = {"test_mean": DetectorConfig.model_validate({"every": "1s"})}
    await round_(training)
    assert detector(training).taken == 2
    assert training._turns["host", "test_mean"].failures == 0


async def test_it_waits_longer_after_each_failure(make, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_WAIT_S", 60.0)
    training = make(what="bug")
    waits = []
    for _ in range(3):
        training._turns.setdefault(("host", "test_mean"), module._Turn()).next = 0.0
        await round_(training)
        waits.append(training._turns["host", "test_mean"].next - time.monotonic())
    assert waits == pytest.approx([60, 120, 240], abs=5)
    training._turns["host", "test_mean"].failures = 5000
    training._turns["host", "test_mean"].next = 0.0
    await round_(training)
    waits.append(training._turns["host", "test_mean"].next - time.monotonic())
    assert waits[-1] == pytest.approx(6 * 3600, abs=5)
    task = training._task
    await training.look()
    assert training._task is task, "not before its time"


async def test_a_missing_library_is_said_once_and_the_rest_goes_on(make):
    training = make(what="refuse")
    with structlog.testing.capture_logs() as said:
        await round_(training)
        await round_(training)
    assert [one["error"] for one in said] == [
        "test_any: sklearn is not installed: pip install 'homeostat[ml]'".replace("any", "mean")
    ]
    panel = training.watches["host"].detector
    assert panel.score(T0, np.zeros(3)).tolist() == [0.5, 0.5, 0.5]


async def test_the_tick_never_waits_for_a_training(make):
    training = make(seconds=1.0)
    # start the process first: what is measured is the training, not the start of an interpreter
    await training.look()
    panel = training.watches["host"].detector
    longest = 0.0
    ticks = 0
    while not training._task.done():
        begin = time.monotonic()
        panel.score(T0 + ticks, np.zeros(3))
        panel.learn(T0 + ticks, np.zeros(3), np.ones(3, bool))
        longest, ticks = max(longest, time.monotonic() - begin), ticks + 1
        await asyncio.sleep(0.01)
    assert ticks > 20
    assert longest < 0.2
    assert detector(training).taken == 1


async def test_series_that_came_and_went_meanwhile_find_their_columns(make, tmp_path):
    mark = tmp_path / "mark"
    training = make(seconds=0.5, mark=str(mark))
    await training.look()
    await begun(mark)
    watch = training.watches["host"]
    watch.detector.remap(np.array([2, -1, 0]))
    watch.series = (NAMES[2], NAMES[3], NAMES[0])
    await training._task
    mean = detector(training).mean
    assert mean[[0, 2]].tolist() == [200.0, 0.0]
    assert np.isnan(mean[1])


async def test_state_survives_a_restart_and_a_changed_table(make):
    training = make()
    await round_(training)
    await training.close()
    again = make(series=(NAMES[2], NAMES[3], NAMES[0]))
    await again.look()
    assert again._task is None, "the kept model is fresh enough"
    assert detector(again).mean[[0, 2]].tolist() == [200.0, 0.0]
    assert np.isnan(detector(again).mean[1])


async def test_damaged_state_is_told_and_made_anew(make, tmp_path):
    path = tmp_path / "trained" / "host" / "test_mean.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nonsense")
    training = make()
    with structlog.testing.capture_logs() as said:
        await round_(training)
    assert [one["event"] for one in said] == ["state_not_loaded", "trained"]
    assert detector(training).taken == 1


async def test_too_short_a_history_is_no_fault(make):
    history = Past3()
    history.rows = 5
    training = make(history)
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            await round_(training)
    assert [(one["event"], one["log_level"]) for one in said] == [("training_waits", "info")]
    assert training.worker.pid is None
    history.rows = 100
    await round_(training)
    assert detector(training).taken == 1


async def test_only_the_sources_that_were_named(make):
    training = make(sources=["gpu"])
    await round_(training)
    assert training._task is None


def test_pieces_cover_a_short_span_and_sample_a_long_one():
    whole = pieces(Past(100.0, 1.0, 200, 30, 1), T0 + 0.4, 200)
    assert whole[0][0] == T0 - 100
    assert whole[-1][1] == T0 - 0.5
    assert [b - a for a, b in whole] == [29.5, 29.5, 29.5, 9.5]
    some = pieces(Past(86_400.0, 1.0, 1000, 100, 1), T0, 1000)
    assert len(some) == 10
    assert all(b - a == 99.5 for a, b in some)
    assert (some[0][0], some[-1][1]) == (T0 - 86_400, T0 - 0.5)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(some))


async def test_gathering_is_bounded_and_pauses_after_each_read():
    history, pauses = Past3(), []

    async def pause():
        pauses.append(1)

    history.rows = 10**9
    many = tuple(Series("host.load1_count", HOST, (("n", str(i)),)) for i in range(20_000))
    past = Past(86_400.0, 1.0, 8192, 50, 1)
    ts, values = await gather(history.read, many, past, T0, pause)
    assert values.shape == (100, 20_000)
    assert len(pauses) == history.reads == 2
    assert (np.diff(ts) > 0).all()


# ---- the panel


class Fixed(Bank):
    """A joint detector with a fixed answer."""

    def __init__(self, p) -> None:
        super().__init__()
        self.p = np.array(p)

    def score(self, ts, x):
        return self.p

    def explain(self, i):
        return Why("joint", 0.0, 1.0, 1.0, 1, calibrated=True)


def test_the_rarest_speaks_and_all_pay():
    panel = Panel(
        Bank(), lambda n: {"a": Fixed([1e-6, 0.9, np.nan]), "b": Fixed([0.5, np.nan, np.nan])}, 3
    )
    p = panel.score(T0, np.zeros(3))
    assert p == pytest.approx([6e-6, 0.75, 0.5])
    assert [panel.explain(i).family for i in range(3)] == ["joint", "bank", "bank"]


def test_a_detector_with_a_bug_rests_and_the_first_goes_on():
    told = []
    panel = Panel(Bank(), lambda n: {"bad": Mean(Mean.Config(what="score_bug"), n)}, 3,
                  lambda where, error: told.append((where, str(error))))  # fmt: skip
    for i in range(3):
        assert panel.score(T0 + i, np.zeros(3)).tolist() == [0.5, 0.5, 0.5]
        panel.learn(T0 + i, np.zeros(3), np.ones(3, bool))
    assert told == [("detector bad", "bug in score")]
    assert panel.first.learnt == 3


def test_a_kept_state_of_the_bank_fits_whether_or_not_joint_detectors_are_on():
    panel = Panel(Bank(), lambda n: {"a": Mean(Mean.Config(), n)}, 3)
    assert panel.dump() == b"bank"
    panel.load(b"bank")
    panel.remap(np.array([5, 6, -1, 7]))
    assert len(panel.others["a"].mean) == 4
    assert panel.score(T0, np.zeros(4)).tolist() == [0.5] * 4
    panel.set_traits(Traits.neutral(4, np.ones(4)))
    assert panel.first.traits.floors.tolist() == [1, 1, 1, 1]


def test_nothing_is_wrapped_when_nothing_is_wanted(tmp_path):
    bank = Bank()
    assert Training({}, Past3(), tmp_path, lambda: T0).panel(bank, 1.0, 3) is bank
    off = {"pca": DetectorConfig.model_validate({"enabled": False})}
    assert Training(off, Past3(), tmp_path, lambda: T0).panel(bank, 1.0, 3) is bank


def test_the_monitor_names_what_a_joint_detector_finds():
    panel = Panel(Bank(), lambda n: {"a": Fixed([1e-12, 1.0, 1.0])}, 3)
    monitor = Monitor(lambda step_s, n: panel, ())
    found = []
    for i in range(5):
        found = monitor.take(Frame("host", T0 + i, NAMES[:3], np.zeros(3)))
    assert [(a.series, a.family) for a in found] == [(NAMES[0], "joint")]


# ---- agent.yaml


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("detectors: {pcaa: {}}", "`pcaa` is no joint detector"),
        ("detectors: {bank: {}}", "`bank` always runs"),
        ("detectors: {pca: {component: 3}}", "component"),
        ("detectors: {pca: {every: 0s}}", "every"),
    ],
)
def test_what_is_wrong_in_the_config_is_told(tmp_path, text, says):
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(path)


def test_what_is_right_in_the_config_is_taken(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("detectors:\n  pca: {sources: [host], every: 12h, span: 6h, components: 8}\n")
    wanted = load(path).detectors["pca"]
    assert wanted.every == 43_200
    made = module.build("pca", wanted, 2.0, 5)
    assert (made.config.components, made.config.step_s) == (8, 2.0)
