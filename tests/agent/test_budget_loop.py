"""From frames to the numbers of `/metrics`, by hand; what a label moves, and that a restart forgets none of it."""

from __future__ import annotations

import math
import re
import shutil

import numpy as np
import pytest
from desk_story import StoryHooks

from agent import registry
from agent.authority import Person, Tokens
from agent.config import Config
from agent.correlate import Correlator
from agent.desk import Desk
from agent.events import Events
from agent.match import HoldingState
from agent.model import Entity, Frame, Series
from agent.monitor import Monitor
from agent.objectives import limits_of
from agent.pipeline import Walk
from agent.playbook import Library
from agent.telemetry import Telemetry
from agent.web.vitals import measure

OPERATOR = Person("olga", "operator", "socket")
T0, STEP = 1_795_000_000.0, 60.0
ROWS = 2880
"""Two days of minutes."""

HOST = Entity("host", "web-1")
CORES = [Series("host.core_utilization_ratio", HOST, (("core", f"{i:02}"),)) for i in range(16)]
SHOPS = [Series("service.latency_p95_seconds", Entity("service", f"shop-{i}")) for i in range(6)]
TABLE = tuple(sorted([*CORES, *SHOPS]))
TOGETHER = [TABLE.index(CORES[i]) for i in (2, 3, 5, 7, 11, 13)]
ALARM_AT = 2400


WEIGHT = {s: 3.0 if s in SHOPS else 1.0 for s in TABLE}
SHARE = {s: 0.1 * STEP / 86_400 * w / np.mean(list(WEIGHT.values())) for s, w in WEIGHT.items()}
"""How rare a row of each must be: a tenth of an anomaly a day, three times as much for what users feel."""


def recorded():
    """Return rows of frames: noise; each shop is slow for an hour once; six cores leave the ordinary together."""
    rng = np.random.default_rng(11)
    rows = 0.3 + 0.02 * rng.standard_normal((ROWS, len(TABLE)))
    for i, shop in enumerate(SHOPS):
        rows[500 + 300 * i : 560 + 300 * i, TABLE.index(shop)] += 1.0
    rows[ALARM_AT : ALARM_AT + 10, TOGETHER] += 0.4
    return np.clip(rows, 0.0, None)


class House:
    """A walk over real parts, on a state folder that outlives it."""

    def __init__(self, state, kept=None):
        registry.load()
        self.hooks = hooks = StoryHooks(state, T0 + STEP * (ROWS - 1))
        hooks.memory.load(hooks.journal)
        limit = {"signal": "service.latency_p95_seconds", "max": 0.8, "for": "0s"}
        config = Config(objectives=[limit])
        bank, together = registry.detector.get("bank"), registry.view.get("together")
        self.monitor = Monitor(
            lambda step, n: bank(bank.Config(step_s=step), n),
            limits_of(config),
            lambda _source: STEP,
            lambda step, of: together(together.Config(step_s=step), of),
            hooks.ledger,
        )
        self.walk = Walk(
            config, hooks.world, hooks.history, self.monitor, Correlator(hooks.world.topology, 90.0, 60.0, 900.0),
            Library.load([], config, built_in=False), hooks.memory, hooks.record, HoldingState(),
        )  # fmt: skip
        self.desk = Desk(hooks, Tokens(state / "tokens.json"))
        if kept is not None:
            self.monitor.watch("host").load(kept[0])
            hooks.ledger.load(kept[1])

    def kept(self):
        """Return what a daemon writes for its next start, beside the journal."""
        return self.monitor.watch("host").dump(), self.hooks.ledger.dump()

    def feed(self, rows, after=0):
        """Walk over rows, a minute each; return the excursions of series, (series, onset) -> began by itself."""
        found = {}
        for i, row in enumerate(rows, after):
            self.hooks._now = T0 + STEP * i
            moment = self.walk.step(self.hooks._now, [Frame("host", self.hooks._now, TABLE, row)])
            for a in moment.anomalies:
                if a.road != "objective":
                    found.setdefault(
                        (a.series, a.onset), a.together is None or a.p <= SHARE[a.series]
                    )
        return found

    def metrics(self):
        telemetry = Telemetry(T0)
        measure(self.desk, telemetry, Events())
        lines = re.findall(r"^(homeostat_\S+) (\S+)$", telemetry.render(), re.MULTILINE)
        return {k: float(v) for k, v in lines if not k.startswith("homeostat_agent_")}

    def close(self):
        self.hooks.close()


@pytest.fixture(scope="module")
def lived(tmp_path_factory):
    """Two days that were walked over, by a daemon that was then stopped: its folder, what it kept, what began."""
    folder = tmp_path_factory.mktemp("loop")
    house = House(folder / "state")
    began = house.feed(recorded())
    house.close()
    return folder / "state", house.kept(), began


@pytest.fixture
def again(lived, tmp_path):
    """The same daemon, started again on a copy of the folder."""
    folder, kept, _ = lived
    shutil.copytree(folder, tmp_path / "state")
    house = House(tmp_path / "state", kept)
    yield house
    house.close()


def bounds(count):
    """Return the exact 95 % bounds of a Poisson mean."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return low, chi2.ppf(0.975, 2 * count + 2) / 2


def test_metrics_say_what_was_promised_and_what_was_counted(again, lived):
    house, began = again, lived[2]
    paged = [i for i in house.hooks.memory.incidents.values() if i.severity == "page"]
    noted = [i for i in house.hooks.memory.incidents.values() if i.severity == "note"]
    assert len(paged) == len(SHOPS)
    assert noted
    for incident, word in zip(paged, ["noise"] * 4 + ["real"], strict=False):
        house.desk.label(OPERATOR, incident.id, word)
    said = house.metrics()

    days = (ROWS - 1) * STEP / 86_400  # between the first row and the last
    assert said["homeostat_budget_watched_seconds"] == pytest.approx(days * 86_400)
    assert said["homeostat_budget_tightness"] == 1.0

    # pages: 4 of 6 were surely false, one was surely not
    assert said["homeostat_pages_last_week"] == 6
    assert said["homeostat_false_pages_last_week"] == 4
    assert said["homeostat_false_pages_budget_per_week"] == 2.0
    low, high = bounds(4)[0] * 7 / days, bounds(5)[1] * 7 / days
    assert said['homeostat_false_pages_per_week{bound="low"}'] == pytest.approx(low, rel=0.03)
    assert said['homeostat_false_pages_per_week{bound="high"}'] == pytest.approx(high, rel=0.03)

    # notes: nobody has labelled one, so all may be false and none surely is
    assert said["homeostat_console_notes_budget_per_day"] == 1.0
    high = bounds(len(noted))[1] / days
    assert said['homeostat_console_notes_per_day{bound="low"}'] == 0.0
    assert said['homeostat_console_notes_per_day{bound="high"}'] == pytest.approx(high, rel=0.03)

    # series: each is judged from its 31st row on; those that only a group names belong to the notes
    due = 0.1 * len(TABLE) * (ROWS - 30) * STEP / 86_400
    assert said["homeostat_anomalies_budget_per_day"] == pytest.approx(due / days)
    assert len(TOGETHER) <= sum(began.values()) < len(began)
    for bound, value in zip(("low", "high"), bounds(sum(began.values())), strict=True):
        key = f'homeostat_anomalies_per_day{{bound="{bound}"}}'
        assert said[key] == pytest.approx(value / days, rel=0.05)

    # too little was promised in two days to say that it is not used
    assert said['homeostat_budget_unused{budget="pages"}'] == 0.0
    assert house.desk.budget()["pages"]["verdict"] == "above"


def test_a_label_moves_what_its_signals_must_be_and_a_restart_keeps_it(again):
    house, memory = again, again.hooks.memory
    (note,) = [i for i in memory.incidents.values() if i.severity == "note"]
    carried = {a.series for a in note.anomalies}
    assert {TABLE[i] for i in TOGETHER} == carried
    house.feed(recorded()[-1:], ROWS)
    assert house.hooks.ledger.factors(TABLE).tolist() == [1.0] * len(TABLE)
    before = house.metrics()
    said = house.desk.label(OPERATOR, note.id, "noise", "planned load test")
    assert "3 times rarer" in said["text"]
    house.feed(recorded()[-1:], ROWS + 1)
    factors = dict(zip(TABLE, house.hooks.ledger.factors(TABLE).tolist(), strict=True))
    assert {s for s, f in factors.items() if f < 1.0} == carried
    assert all(factors[s] == pytest.approx(1 / 3, rel=1e-3) for s in carried)
    after = house.metrics()
    rarer = 'homeostat_signals_labelled{direction="rarer"}'
    assert (before[rarer], after[rarer]) == (0.0, len(carried))
    low = 'homeostat_console_notes_per_day{bound="low"}'
    assert before[low] == 0.0 < after[low]

    # killed and started again on the same folder
    house.close()
    restarted = House(house.hooks.state, house.kept())
    restarted.hooks._now = house.hooks._now
    assert restarted.metrics() == pytest.approx(after)
    restarted.feed(recorded()[-1:], ROWS + 2)
    ledger = restarted.hooks.ledger
    assert ledger.factors(TABLE).tolist() == pytest.approx(list(factors.values()), rel=1e-3)

    # half of it is forgotten in two weeks
    memory = restarted.hooks.memory
    ledger.heed(memory.labels.values(), memory.labelled, restarted.hooks._now + 14 * 86_400)
    assert ledger.factors(sorted(carried))[0] == pytest.approx(1 / math.sqrt(3), rel=1e-3)
    restarted.close()


def test_real_takes_the_note_out_of_what_may_be_false(again):
    high = 'homeostat_console_notes_per_day{bound="high"}'
    (note,) = [i for i in again.hooks.memory.incidents.values() if i.severity == "note"]
    before = again.metrics()[high]
    again.desk.label(OPERATOR, note.id, "real")
    days = (ROWS - 1) * STEP / 86_400
    assert before == pytest.approx(bounds(1)[1] / days, rel=0.03)
    assert again.metrics()[high] == pytest.approx(bounds(0)[1] / days, rel=0.03)
