"""Forecasts beside the ticks: who is sent to the worker, when people are told, and what a restart keeps."""

import asyncio
import contextlib
import math
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from desk_story import Story

from agent import checkpoint, registry, views
from agent.cli.tables import forecasts as shown
from agent.codec import pack, unpack
from agent.config import Config, Outlook, load
from agent.correlate import Correlator
from agent.errors import ConfigError, Refused, Unavailable
from agent.filling import LEVELS, Forecast, Target
from agent.forecasts import Forecasts
from agent.history import History
from agent.match import HoldingState
from agent.memory import Memory
from agent.model import Anomaly, Entity, Frame, Incident, Series
from agent.monitor import Monitor
from agent.objectives import limits_of
from agent.pipeline import Walk
from agent.playbook import Library
from agent.scene import Scene
from agent.why import why_view
from agent.world import World

registry.load()

HOST = Entity("host", "web-1")
ROOT = Series("host.disk_utilization_ratio", HOST, (("mount", "/"),))
DATA = Series("host.disk_utilization_ratio", HOST, (("mount", "/data"),))
MEMORY = Series("host.memory_utilization_ratio", HOST)
LOAD = Series("host.load1_count", HOST)
SERIES = (ROOT, DATA, LOAD, MEMORY)
T0 = 1_700_006_400.0
HOUR = 3600.0
FLAT = {DATA: 0.5, LOAD: 1.0, MEMORY: 0.4}


class FakeWorker:
    """Answers that what is asked is full in `left_s`, give or take a tenth; keeps the jobs."""

    def __init__(self, left_s=2 * HOUR):
        self.left_s = left_s
        self.jobs = []
        self.raises = None
        self.why = 0

    async def train(self, job):
        self.jobs.append(job)
        if self.raises is not None:
            raise self.raises
        n = len(job.config["limits"])
        spread = self.left_s * (0.9 + 0.2 * np.array(LEVELS))
        arrays = {"quantiles": np.tile(spread, (n, 1)), "why": np.full(n, self.why, np.int64)}
        return checkpoint.write("fill forecast", 1, None, arrays)

    async def close(self):
        pass


class House:
    """A world and a history in which the root disk fills, and forecasts over them."""

    def __init__(self, folder, worker=None, *, outlook=None, limits=(), left_s=2 * HOUR, level=0.8):
        self.world = World()
        self.history = History(folder, age_s=72 * HOUR, size_bytes=1e9, tail_s=1e9)
        self.left_s, self.level = left_s, level
        self.now = T0
        self.fed = T0 - 4 * HOUR
        self.worker = worker or FakeWorker(left_s)
        self.forecasts = Forecasts(
            outlook or Outlook(), limits, self.history, self.world, worker=self.worker
        )
        self.live(T0)

    def root(self, ts):
        return self.level + (1.0 - self.level) / self.left_s * (ts - T0)

    def live(self, until, root=None):
        """Let time pass, a frame every half minute."""
        while self.fed < until:
            values = [{ROOT: (root or self.root)(self.fed), **FLAT}[s] for s in SERIES]
            frame = Frame("host", self.fed, SERIES, np.array(values))
            self.world.take(frame)
            self.history.append(frame)
            self.fed += 30.0
        self.now = self.world.now = until

    async def round(self):
        await self.forecasts.round(self.now)
        return self.forecasts.step(self.now)


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def forecast(left_s, *, made=T0, spread=0.2, target=None, horizon_s=9 * 86_400.0):
    times = made + left_s * (1 - spread / 2 + spread * np.array(LEVELS))
    target = target or Target(ROOT, "disk", 1.0)
    return Forecast(target, made, 0.8, tuple(float(t) for t in times), horizon_s)


def judge(f, made, now=T0):
    """Put a forecast in and look."""
    f.found[made.target.series] = made
    f._settle()
    return f.step(now)


@pytest.fixture
def bare():
    return Forecasts(Outlook(), (), None, World(), worker=FakeWorker())


# ---- who is sent to the worker


async def test_only_what_rises_is_sent_and_the_others_are_known_to_stand(house):
    (told,) = await house.round()
    (job,) = house.worker.jobs
    assert job.trainer == "fill"
    assert job.config["limits"] == [1.0]
    assert job.values.shape[1] == 2
    assert set(house.forecasts.found) == {ROOT, DATA, MEMORY}, "load does not fill anything"
    assert not house.forecasts.found[MEMORY].within
    assert (told.series, told.harm, told.end) == (ROOT, True, None)
    assert told.ahead.median == pytest.approx(T0 + 2 * HOUR)


async def test_nothing_rises_no_worker_is_started(tmp_path):
    house = House(tmp_path, level=0.8, left_s=math.inf)
    assert await house.round() == []
    assert house.worker.jobs == []


async def test_it_is_foretold_again_when_due_or_when_it_has_become_quicker(house):
    await house.round()
    house.live(T0 + 60)
    await house.round()
    assert len(house.worker.jobs) == 1, "a minute later nothing is new"
    house.live(T0 + 400)
    await house.round()
    assert len(house.worker.jobs) == 2
    house.live(T0 + 500, root=lambda ts: house.root(T0 + 400) + (ts - T0 - 400) * 1e-3)
    await house.round()
    assert len(house.worker.jobs) == 3


async def test_one_that_goes_in_and_out_of_the_screen_does_not_start_the_worker_each_time(
    house, monkeypatch
):
    house.worker.left_s = 900 * HOUR
    times = iter([30_000.0, math.inf, 29_000.0, math.inf, 31_000.0, 12_000.0])
    monkeypatch.setattr("agent.forecasts.screen", lambda *_: np.full(3, next(times)))
    asked = []
    for minute in range(0, 30, 5):
        house.live(T0 + 60 * minute)
        await house.round()
        asked.append(len(house.worker.jobs))
    assert asked == [1, 1, 1, 1, 1, 2], "again only when it is due, or twice as quick"


async def test_what_was_too_young_to_tell_is_asked_again_in_the_next_round(house):
    house.worker.why = 1
    assert await house.round() == []
    assert "too short" in house.forecasts.found[ROOT].why
    house.worker.why = 0
    house.live(T0 + 300)
    (told,) = await house.round()
    assert told.series == ROOT


async def test_the_past_is_read_once_and_then_only_what_is_new(house):
    await house.round()
    spans = []
    read = house.history.read

    def counted(series, start, end, step=None):
        spans.append(end - start)
        return read(series, start, end, step)

    house.forecasts.history = type("Reads", (), {"read": staticmethod(counted)})()
    house.live(T0 + 300)
    await house.round()
    assert sum(spans) < 400.0


async def test_a_series_that_comes_later_gets_its_past(house):
    await house.round()
    new = Series("host.disk_inodes_ratio", HOST, (("mount", "/"),))
    times = np.arange(T0 - HOUR, T0, 30.0)
    for ts in times:
        house.history.append(Frame("inodes", ts, (new,), np.array([0.9 + (ts - T0) * 1e-5])))
    house.world.take(Frame("inodes", T0, (new,), np.array([0.9])))
    house.live(T0 + 60)
    await house.round()
    assert len(house.worker.jobs) == 2
    last = house.worker.jobs[-1]
    assert np.count_nonzero(np.isfinite(last.values[:, 0])) >= 100
    assert house.forecasts.found[ROOT].within, "what stays keeps its forecast"


async def test_what_could_not_be_read_is_read_the_next_time_also_when_series_came(house):
    read = house.history.read

    def broken(*_):
        raise OSError("the disk is away")

    house.forecasts.history = type("Reads", (), {"read": staticmethod(broken)})()
    with pytest.raises(OSError, match="away"):
        await house.forecasts.round(T0)
    house.forecasts.history = type("Reads", (), {"read": staticmethod(read)})()
    inodes = Series("host.disk_inodes_ratio", HOST, (("mount", "/"),))
    house.world.take(Frame("inodes", T0, (inodes,), np.array([0.1])))
    (told,) = await house.round()
    assert told.series == ROOT
    assert np.isfinite(house.worker.jobs[-1].values[:, 0]).sum() > 150


async def test_a_worker_that_fails_leaves_what_is_known(house):
    await house.round()
    before = house.forecasts.found[ROOT]
    house.worker.raises = Unavailable("the worker process was ended")
    house.live(T0 + 900)
    with pytest.raises(Unavailable):
        await house.forecasts.round(house.now)
    assert house.forecasts.found[ROOT] is before
    assert [a.end for a in house.forecasts.step(house.now)] == [None]


async def test_without_statsmodels_it_says_so_and_the_rest_goes_on(house):
    house.worker.raises = Refused("statsmodels is not installed: pip install 'homeostat[ml]'")
    await house.forecasts._guarded()
    assert "statsmodels" in house.forecasts.fault
    assert "statsmodels" in house.forecasts.found[ROOT].why
    assert not house.forecasts.found[MEMORY].why
    assert house.forecasts.step(T0) == []


async def test_look_starts_a_round_only_when_one_is_due(house):
    await house.forecasts.look()
    await house.forecasts._task
    await house.forecasts.look()
    assert house.forecasts._task.done()
    assert len(house.worker.jobs) == 1
    off = Forecasts(Outlook(enabled=False), (), house.history, house.world, worker=house.worker)
    await off.look()
    assert off._task is None


async def test_a_clock_that_is_set_takes_forecasts_along(house):
    await house.round()
    house.forecasts.rebase(-86_400.0)
    assert house.forecasts.found[ROOT].at(0.5) == pytest.approx(T0 - 86_400.0 + 2 * HOUR)
    (told,) = house.forecasts.step(T0 - 86_400.0)
    assert told.harm


async def test_a_reload_in_the_middle_of_a_round_breaks_it_off_and_the_next_one_is_whole(house):
    asked, answer = asyncio.Event(), house.worker.train

    async def slow(job):
        asked.set()
        await asyncio.sleep(60)
        return await answer(job)

    house.worker.train = slow
    await house.forecasts.look()
    await asked.wait()
    house.forecasts.reload(Outlook.model_validate({"disk": {"page": "1h"}}), ())
    house.worker.train = answer
    with contextlib.suppress(asyncio.CancelledError):
        await house.forecasts._task
    assert house.forecasts.found == {}
    await house.forecasts.look()
    await house.forecasts._task
    (told,) = house.forecasts.step(T0)
    assert not told.harm, "two hours are more than one"
    assert np.isfinite(house.worker.jobs[-1].values[:, 0]).sum() > 150


async def test_what_ages_is_known_without_the_worker(tmp_path):
    model = Entity("model", "fraud")
    age = Series("model.age_seconds", model)
    stated = [{"signal": age.metric, "max": "30d"}]
    limits = limits_of(Config.model_validate({"objectives": stated}))
    house = House(tmp_path, limits=limits, left_s=math.inf)
    house.world.take(Frame("models", T0, (age,), np.array([28 * 86_400.0])))
    (told,) = await house.round()
    assert (told.series, told.harm) == (age, False)
    assert told.ahead.low == told.ahead.high == T0 + 2 * 86_400.0
    assert house.worker.jobs == []


# ---- when people are told


@pytest.mark.parametrize(
    ("left_s", "told"), [(2 * HOUR, "page"), (20 * HOUR, "warning"), (200 * HOUR, "")]
)
def test_it_pages_within_hours_tells_within_days_and_is_silent_beyond(bare, left_s, told):
    found = judge(bare, forecast(left_s))
    assert ["page" if a.harm else "warning" for a in found] == ([told] if told else [])


def test_it_must_be_as_sure_as_asked_not_as_likely_as_not(bare):
    unsure = forecast(3.5 * HOUR, spread=1.0)
    assert unsure.at(0.5) < T0 + 4 * HOUR < unsure.at(0.9)
    (found,) = judge(bare, unsure)
    assert not found.harm
    bare.outlook = Outlook(probability=0.5)
    (found,) = bare.step(T0)
    assert found.harm


def test_what_is_told_stays_until_the_forecast_has_clearly_moved_away(bare):
    judge(bare, forecast(71 * HOUR, spread=0.0))
    for left in (73, 80, 100):
        (found,) = judge(bare, forecast(left * HOUR, spread=0.0))
        assert found.end is None, left
    (ended,) = judge(bare, forecast(120 * HOUR, spread=0.0), T0 + 5)
    assert ended.end == T0 + 5
    assert judge(bare, forecast(100 * HOUR, spread=0.0)) == []
    assert bare.told == {}


def test_one_that_is_on_the_edge_does_not_flap(bare):
    rng = np.random.default_rng(0)
    states = [
        bool(judge(bare, forecast(72 * HOUR * rng.uniform(0.9, 1.1), made=T0 + i), T0 + i))
        for i in range(200)
    ]
    assert sum(a != b for a, b in pairwise(states)) <= 1


def test_what_can_not_be_told_changes_nothing(bare):
    judge(bare, forecast(2 * HOUR))
    blind = replace(forecast(2 * HOUR), quantiles=(math.nan,) * len(LEVELS), why="stale")
    (found,) = judge(bare, blind)
    assert found.end is None


def test_time_alone_brings_a_forecast_within_its_lead(bare):
    made = forecast(80 * HOUR, spread=0.0)
    assert judge(bare, made) == []
    assert judge(bare, made, T0 + 10 * HOUR) != []


def test_leads_of_zero_never_tell(bare):
    bare.outlook = Outlook.model_validate({"disk": {"page": 0}})
    (found,) = judge(bare, forecast(HOUR))
    assert not found.harm
    bare.outlook = Outlook.model_validate({"disk": {"page": 0, "tell": 0}})
    (ended,) = bare.step(T0)
    assert ended.end is not None


async def test_a_file_system_that_is_gone_takes_its_alarm_with_it(house):
    await house.round()
    del house.forecasts.found[ROOT]
    house.forecasts._settle()
    assert [a.end for a in house.forecasts.step(T0)] == [None]
    (ended,) = house.forecasts.step(T0 + 1000)
    assert ended.end == T0 + 1000
    assert house.forecasts.step(T0 + 1001) == []


def test_any_probability_can_be_asked_for():
    made = forecast(10 * HOUR)
    assert made.sure(0.5) == made.at(0.5)
    assert made.at(0.8) < made.sure(0.85) < made.at(0.9)
    half = (*made.quantiles[:7], *(math.inf,) * 6)
    assert math.isinf(replace(made, quantiles=half).sure(0.9))


# ---- in the world, in incidents, after restarts


async def test_signals_of_ours_can_be_asked_in_conditions(house):
    await house.round()
    frame = house.forecasts.frame(T0)
    house.world.take(frame)
    scene = Scene(house.world, HOST)
    assert scene("host.disk_full_seconds") == pytest.approx(2 * HOUR * 1.08)
    assert scene("host.memory_full_seconds") == 12 * HOUR, "not within the horizon: the horizon"
    assert house.forecasts.frame(T0 + 1) is None
    assert house.forecasts.frame(T0 + 61).series is frame.series


def walk(house, memory=None):
    entries = []

    def record(kind, subject, body, ts):
        entries.append((kind, subject, body))

    config = Config.model_validate({"diagnose": {"settle": 0}})
    out = Walk(
        config, house.world, house.history, Monitor(None, ()),
        Correlator(house.world.topology, 60.0, 10.0, 30.0), Library.load([], config),
        memory or Memory(), record, HoldingState(), foretold=house.forecasts.step,
    )  # fmt: skip
    return out, entries


async def test_an_incident_opens_before_it_bites_pages_once_and_closes_when_it_has_moved_away(
    house,
):
    await house.round()
    rooms, entries = walk(house)
    (note,) = rooms.step(T0, ()).notes
    (incident,) = rooms.correlator.incidents.values()
    assert incident.severity == "page"
    assert incident.title == "web-1: share of a file system in use (/) will reach 100 %"
    assert "in 2 h (1 h 50 min to 2 h 9 min)" in note.text
    assert incident.diagnosis.top.kind == "host.disk"
    assert rooms.step(T0 + 1, ()).notes != [], (
        "the test's memory folds nothing: it would tell again"
    )

    detail = views.incident_detail(incident, [], [], lambda e: e.key, now=T0)
    text = "\n".join(why_view(detail, [], T0)["text"])
    assert (
        "Ahead:    disk utilization (mount /) of web-1 100 % in 2 h (1 h 50 min to 2 h 9 min)"
        in text
    )
    assert "above" not in text

    house.forecasts.found[ROOT] = forecast(900 * HOUR)
    house.forecasts._settle()
    rooms.step(T0 + 10, ())
    moment = rooms.step(T0 + 30, ())
    assert [i.state for i in moment.touched.values()] == ["resolved"]
    assert rooms.correlator.incidents == {}
    assert sum(kind == "incident" for kind, _, _ in entries) < 6


async def test_the_journal_hears_of_it_as_it_comes_nearer_not_at_each_tick(house):
    await house.round()
    rooms, entries = walk(house)
    for second in range(0, 3600, 10):
        rooms.step(T0 + second, ())
    written = [body for kind, _, body in entries if kind == "incident"]
    assert 3 <= len(written) <= 8


async def test_a_restart_keeps_the_incident_and_only_a_forecast_ends_it(house, tmp_path):
    await house.round()
    rooms, _ = walk(house)
    rooms.step(T0, ())
    (incident,) = rooms.correlator.incidents.values()
    kept = unpack(Incident, pack(incident))
    assert kept == incident

    again = Forecasts(Outlook(), (), house.history, house.world, worker=FakeWorker(2 * HOUR))
    again.restore([kept])
    house.forecasts = again
    rooms, _ = walk(house)
    rooms.correlator.restore([kept])
    rooms.step(T0 + 100, ())
    rooms.step(T0 + 119, ())
    assert list(rooms.correlator.incidents) == [incident.id]
    assert rooms.correlator.unseen(
        incident.id
    )  # no forecast of now says so yet: nothing acts on it
    again.worker.left_s = 900 * HOUR
    house.live(T0 + 120)
    await again.round(house.now)
    rooms.step(T0 + 120, ())
    rooms.step(T0 + 200, ())
    assert rooms.correlator.incidents == {}


async def test_the_real_worker_answers(tmp_path):
    house = House(tmp_path, left_s=3 * HOUR)
    house.forecasts = Forecasts(Outlook(), (), house.history, house.world)
    try:
        (told,) = await house.round()
    finally:
        await house.forecasts.close()
    assert told.ahead.low <= T0 + 3 * HOUR <= told.ahead.high
    assert told.harm


def test_the_daemon_that_forecasts_has_nothing_heavy_loaded():
    code = """
        import sys
        import agent.daemon, agent.forecasts, agent.filling, detectors
        heavy = [m for m in agent.daemon.HEAVY if m in sys.modules]
        raise SystemExit(" ".join(heavy) or 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---- config, API, command line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("forecasts: {dsik: {page: 1h}}", "disk"),
        ("forecasts: {disk: {page: 5d}}", "page 5 d before it is full, but tell only 3 d"),
        ("forecasts: {disk: {tell: 1h}}", "tell only 1 h"),
        ("forecasts: {probability: 99.9%}", "97.5"),
        ("forecasts: {every: 1s}", "30"),
        ("detectors: {fill: {}}", "is no joint detector"),
    ],
)
def test_faults_in_agent_yaml_are_told_with_a_remedy(tmp_path, text, says):
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert says.replace("97.5", "0.975") in str(error.value)


def test_one_lead_can_be_set_and_the_others_stay(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("forecasts: {disk: {page: 2h}, memory: {page: 0}, every: 1m}")
    outlook = load(path).forecasts
    assert outlook.lead("disk") == (2 * HOUR, 72 * HOUR)
    assert outlook.lead("memory") == (0.0, 4 * HOUR)
    assert outlook.lead("age") == (0.0, 72 * HOUR)


def test_the_desk_lists_what_is_full_soonest_first(tmp_path, capsys):
    with contextlib.closing(Story(tmp_path, now=time.time())) as story:
        found = story.desk.forecasts()
        assert [v["state"] for v in found] == ["soon", "far", "unknown"]
        first = found[0]
        assert first["median_s"] == pytest.approx(3 * HOUR)
        assert first["low80_s"] < first["median_s"] < first["high80_s"]
        assert first["text"].startswith(
            "disk utilization (mount /) of web-1 100 % in 3 h (1 h 48 min to"
        )
        assert first["told"] == "page"
        assert found[1]["median_s"] is None
        assert "too short" in found[2]["text"]
        assert story.desk.forecasts("web-1") == found
        assert story.desk.forecasts("wine/alcohol") == []
        shown(found, everything=False)
        out = capsys.readouterr().out
        assert "3 h" in out
        assert "memory" not in out
        assert "1 more are not full within their horizon" in out
        shown(found, everything=True)
        out = capsys.readouterr().out
        assert "not within 9 d" in out
        assert "its history is too short" in out


def test_an_anomaly_without_a_forecast_is_read_from_older_journals():
    a = Anomaly(ROOT, 1.0, None, 0.0, 1, 1.0, math.nan, 1.0, 0.0, 1.0, "objective", "x")
    old = {k: v for k, v in pack(a).items() if k != "ahead"}
    assert unpack(Anomaly, old) == a or math.isnan(unpack(Anomaly, old).low)
    assert unpack(Anomaly, old).ahead is None
