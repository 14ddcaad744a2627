"""What becomes of a model's trouble, from rows on: predictions and labels are streamed through watch, walk and rules.

The shop of `made_up` stands around them, well. Each trouble must open one incident, as bad as it is, with the right
cause on the right thing; what looks like one and is none must open nothing that anybody is told of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from made_up import CONFIG, ECC, GPUS, MODEL, ONSET, REPLICAS, SHOP, STEP, Picture, Stage

from agent.config import Config, WatchModels
from agent.model import Edge, Entity, Frame
from agent.models import ModelWatch
from agent.models.cause import blame
from agent.models.numbers import SERVICE
from agent.playbook import Library
from agent.ports import LabelBatch, PredictionBatch

pytestmark = pytest.mark.long

ROWS = 40
"""A tick."""
KINDS = np.array(["card", "cash", "transfer"], dtype=object)
NO_OBJECTIVES = {
    "services": [{"id": "shop", "models": ["fraud"], "calls": ["store", "db:5432"]}],
    "diagnose": CONFIG["diagnose"],
}
Columns = dict[str, Any]


@dataclass
class World:
    """Payments as they come: five numbers and a kind, of which four decide; `fraud` has learnt that, nearly rightly.

    Functions change what happens from the onset on: t = seconds since.
    """

    seed: int = 0
    draw: Callable[[World, int, float], Columns] = lambda w, n, t: w.payments(n)
    logged: Callable[[Columns, float], Columns] = lambda x, t: x
    true: Callable[[World, Columns, np.ndarray], np.ndarray] = lambda w, x, score: score
    said: Callable[[np.ndarray, np.ndarray, float], np.ndarray] = lambda score, replica, t: score
    told: Callable[[np.ndarray, np.ndarray, float], np.ndarray | None] = lambda truth, said, t: (
        truth
    )
    delay: Callable[[np.random.Generator, float], float] = lambda r, t: 6.0
    rows: Callable[[float], int] = lambda t: ROWS
    version: Callable[[float], str] = lambda t: "3"
    always: Callable[[World, int, float], Columns] = lambda w, n, t: w.payments(n)
    config: WatchModels = field(default_factory=WatchModels)
    random: np.random.Generator = field(init=False)

    def begin(self) -> None:
        """Make the rows that the model was made with, and a watch that knows them."""
        self.random = np.random.default_rng(self.seed)
        self.watch = ModelWatch(self.config, lambda _m, _v: None, lambda _m: "shop")
        self.served, self.waiting = 0, []
        rows = [self.batch(ROWS, -600.0 + i * STEP, self.always, well=True) for i in range(150)]
        first, truth = rows[0][0], [y for _, y in rows]
        columns = {k: np.concatenate([b.features[k] for b, _ in rows]) for k in first.features}
        whole = {
            name: np.concatenate([getattr(b, name) for b, _ in rows])
            for name in ("ts", "pred", "proba", "latency_s", "processing_s", "status")
        }
        ids = tuple(i for b, _ in rows for i in b.ids)
        made = PredictionBatch("fraud", "3", ids=ids, features=columns, **whole)
        self.watch.fit(made, np.concatenate(truth).tolist())

    def payments(self, n: int) -> Columns:
        x = self.random.normal(size=(n, 5))
        kind = KINDS[self.random.choice(3, n, p=[0.5, 0.3, 0.2])]
        return {
            "f0": 3.7 + 1.9 * x[:, 0], "f1": 52.0 + 4.0 * x[:, 1], "f2": 0.8 * x[:, 2], "f3": -20 + 6 * x[:, 3],
            "f4": x[:, 4], "kind": kind,
        }  # fmt: skip

    def score(self, x: Columns) -> np.ndarray:
        """What the model makes of what it is given; what is missing counts nothing, nor does text."""
        z = [
            np.clip(np.nan_to_num((np.asarray(x.get(name, 0.0), dtype=float) - a) / s), -4, 4)
            for name, a, s in (("f0", 3.7, 1.9), ("f1", 52.0, 4.0), ("f2", 0.0, 0.8))
        ]
        return 6.0 * z[0] - 5.0 * z[1] + 2.0 * z[2] + 3.0 * (x["kind"] == "cash")

    def batch(
        self, n: int, now: float, draw: Callable[[World, int, float], Columns], *, well: bool
    ) -> tuple[PredictionBatch, np.ndarray]:
        t = now - ONSET
        x = draw(self, n, t)
        score = self.score(x)
        true = score if well else self.true(self, x, score)
        # payments that nobody has ever seen are no longer what the model knows
        true = np.where(x["f0"] > 3.7 + 2.2 * 1.9, -true, true)
        truth = np.where(self.random.random(n) < 1 / (1 + np.exp(-true)), "1", "0")
        seen = x if well else self.logged(x, t)
        replica = np.arange(n) % 4
        answer = self.score({k: v if k == "kind" else _numbers(v) for k, v in seen.items()})
        answer = answer if well else self.said(answer, replica, t)
        p = 1 / (1 + np.exp(-np.clip(answer, -30, 30)))
        said = np.where(p >= 0.5, "1", "0").astype(object)
        self.served += n
        ids = tuple(f"{self.served - n + i}" for i in range(n))
        latency = 0.012 + 0.001 * self.random.random(n)
        tags = {"replica": np.array([f"{i}" for i in replica], dtype=object)}
        made = PredictionBatch(
            "fraud", "3" if well else self.version(t), now - STEP * self.random.random(n), ids, seen, said,
            np.maximum(p, 1 - p), latency, latency - 0.002, np.full(n, 200), tags=tags,
        )  # fmt: skip
        return made, truth

    def frames(self, now: float) -> list[Frame]:
        """A tick: rows, the labels that are due, and what the watch makes of them."""
        well, t = now < ONSET, now - ONSET
        made, truth = self.batch(self.rows(t), now, self.always if well else self.draw, well=well)
        self.watch.take(made)
        told = truth if well else self.told(truth, made.pred, t)
        if told is not None:
            self.waiting.append((now + self.delay(self.random, t), made.ids, told))
        due = [one for one in self.waiting if one[0] <= now]
        self.waiting = [one for one in self.waiting if one[0] > now]
        for _, ids, words in due:
            labels = tuple(words.tolist())
            self.watch.take(LabelBatch("fraud", np.full(len(ids), now), ids, labels))
        return [self.watch.frame(now)]


@dataclass
class Turning(World):
    """A world that turns some time after the onset."""

    after: ClassVar[float] = 480.0
    turned: bool = False

    def frames(self, now: float) -> list[Frame]:
        self.turned = now - ONSET >= self.after
        return super().frames(now)


def _numbers(column: Any) -> np.ndarray:
    try:
        return np.asarray(column, dtype=float)
    except ValueError:
        return np.full(len(column), np.nan)


def live(
    world: World, folder: Any, seconds: float = 120.0, during: Any = (), edges: Any = ()
) -> Stage:
    """Let a world go on in the shop until so long after the onset."""
    stage = staged(world, folder, during, edges)
    stage.go(ONSET + seconds)
    stage.close()
    return stage


def staged(world: World, folder: Any, during: Any = (), edges: Any = ()) -> Stage:
    """Put a world into the shop."""
    world.begin()
    picture = Picture("", SHOP, dict(during), edges=edges)
    stage = Stage(picture, folder, world.seed, world.frames, NO_OBJECTIVES)
    ours = {"model", "feature"}
    stage._tables = {
        name if name != "models" else "prometheus": tuple(
            s for s in table
            if s.entity.kind not in ours and not s.metric.startswith("replica.")
            and not (s.entity == SHOP and s.metric in SERVICE)
        )
        for name, table in stage._tables.items()
    }  # fmt: skip
    return stage


def told(stage: Stage) -> list[Any]:
    """Incidents of any time of which somebody is told."""
    return [
        i for i in stage.memory.incidents.values() if i.severity != "note" and not i.merged_into
    ]


def causes(stage: Stage) -> Any:
    """What was said of the worst one, for people who read a failed test."""
    found = stage.incident
    assert found.diagnosis is not None
    return (found.severity, found.title), [
        (c.kind, c.entity.id, round(c.probability, 2), [(round(e.weight, 1), e.text) for e in c.evidence])
        for c in (*found.diagnosis.causes, *found.diagnosis.rejected)
    ]  # fmt: skip


def shifted(name: str, by: float) -> Callable[[World, int, float], Columns]:
    def draw(w: World, n: int, _t: float) -> Columns:
        x = w.payments(n)
        return {**x, name: x[name] + by}

    return draw


def unsure(w: World, n: int, _t: float) -> Columns:
    x = w.payments(n)
    near = {k: at + 0.12 * (x[k] - at) for k, at in (("f0", 3.7), ("f1", 52.0))}
    return {**x, **near}


def mostly_fraud(w: World, n: int, _t: float) -> Columns:
    """Only the mix of classes moves: rows are drawn again until they are of the class that is preferred."""
    x = w.payments(20 * n)
    p = 1 / (1 + np.exp(-w.score(x)))
    yes = w.random.random(20 * n) < p
    want = w.random.random(n) < 0.85
    at = np.where(want, w.random.choice(np.flatnonzero(yes), n), w.random.choice(np.flatnonzero(~yes), n))  # fmt: skip
    return {k: v[at] for k, v in x.items()}


def changed(name: str, to: Callable[[np.ndarray], Any]) -> Callable[[Columns, float], Columns]:
    return lambda x, _t: {**x, name: to(x[name])}


def feature(name: str) -> Entity:
    return Entity("feature", f"fraud/{name}")


def _held(x: Columns, _t: float) -> Columns:
    return {
        **x,
        **{k: np.full(len(x[k]), v) for k, v in (("f0", 4.1), ("f1", 50.5), ("f3", -18.2))},
    }


def _worse(score: np.ndarray, _replica: np.ndarray, _t: float) -> np.ndarray:
    return np.where(np.arange(len(score)) % 3 == 0, -score, score)


def _corrupt(score: np.ndarray, replica: np.ndarray, _t: float) -> np.ndarray:
    return np.where(replica == 1, 9.0 - 0.2 * score, score)


TROUBLES: dict[str, tuple[World, str, str, Entity, dict[str, Any]]] = {
    "inputs drift to where the model is wrong": (
        World(1, draw=shifted("f0", 2.8)), "page", "data.drift", MODEL, {},
    ),
    "inputs drift to where the model is unsure, and no label ever comes": (
        World(16, draw=unsure, delay=lambda r, t: 1e9), "page", "data.drift", MODEL, {},
    ),
    "the relation has turned": (
        World(2, true=lambda w, x, s: s - 12.0 * (x["f0"] - 3.7) / 1.9), "page", "concept.drift", MODEL, {},
    ),
    "the relation has turned for one kind of payment": (
        World(3, true=lambda w, x, s: np.where(x["kind"] == "cash", -s, s)), "page", "concept.drift", MODEL, {},
    ),
    "a version is worse, and only rows tell that there is one": (
        World(4, version=lambda t: "4", said=_worse), "page", "release.model", MODEL, {},
    ),
    "a unit has changed": (
        World(5, logged=changed("f1", lambda v: v * 0.01)), "page", "data.contract", feature("f1"), {},
    ),
    "a column is missing": (
        World(6, logged=lambda x, t: {k: v for k, v in x.items() if k != "f2"}),
        "page", "data.contract", feature("f2"), {},
    ),
    "numbers come as words": (
        World(7, logged=changed("f0", lambda v: np.array(["n/a"] * len(v), dtype=object))),
        "page", "data.contract", feature("f0"), {},
    ),
    "a kind that nobody knows": (
        World(8, logged=changed("kind", lambda v: np.where(v == "cash", "CASH", v).astype(object))),
        "page", "data.contract", feature("kind"), {},
    ),
    "a number is rounded on its way": (
        World(9, logged=changed("f2", lambda v: np.trunc(v / 0.8) * 0.8)), "page", "data.contract", feature("f2"), {},
    ),
    "what feeds the features has stopped": (World(10, logged=_held), "page", "data.stale", MODEL, {}),
    "labels do not come any more": (
        World(11, told=lambda truth, said, t: None), "warning", "label.late", MODEL, {},
    ),
    "labels are turned round": (
        World(12, told=lambda truth, said, t: np.where(truth == "1", "0", "1")), "page", "label.bad", MODEL, {},
    ),
    "labels are all the same": (
        World(13, told=lambda truth, said, t: np.full(len(truth), "0")), "page", "label.bad", MODEL, {},
    ),
    "one replica answers nonsense": (World(14, said=_corrupt), "page", "serving.crash", REPLICAS[1], {}),
    "one replica answers nonsense, and its GPU has memory errors": (
        World(15, said=_corrupt), "page", "hardware.gpu.memory", GPUS[1],
        {"during": {ECC[1]: 0.5}, "edges": [Edge("runs_on", REPLICAS[1], GPUS[1])]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_a_trouble_is_one_incident_with_the_right_cause(name, tmp_path):
    world, severity, kind, entity, more = TROUBLES[name]
    stage = live(world, tmp_path, **more)
    assert stage.incidents, "nothing was noticed"
    said = causes(stage)
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == (kind, entity), said
    assert top.probability > 0.5, said
    assert stage.incident.severity == severity, said
    assert all(e.evidence for e in stage.incident.diagnosis.rejected), said
    assert len(told(stage)) == 1, [(i.title, i.severity) for i in told(stage)]
    assert all(i.opened >= ONSET for i in told(stage))


LATE_S = 700.0
"""Labels come so late: the release is then no more in the window in which changes are suspects."""
BATCH_S = 1000.0
"""So often they come where they come in batches."""


def at_once(_random: np.random.Generator, t: float) -> float:
    """Labels of all that was answered in a while come together at its end, as from a nightly job."""
    now = ONSET + t
    return (np.floor(now / BATCH_S) + 1.0) * BATCH_S - now


def test_a_release_is_blamed_however_late_labels_prove_it_worse(tmp_path):
    world = World(4, version=lambda t: "4", said=_worse, delay=lambda r, t: LATE_S)
    stage = live(world, tmp_path, LATE_S + 60.0)
    (one,) = told(stage)
    assert (
        one.opened
        > ONSET + LATE_S
        > ONSET + Config.model_validate(NO_OBJECTIVES).diagnose.release_window
    )
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == ("release.model", MODEL), causes(stage)
    assert top.facts == {"version": "4", "previous_version": "3"}
    assert any(e.text.endswith("the onset, and now its first labels came") for e in top.evidence)
    assert [(c.before, c.after) for c in stage.incident.changes if c.kind == "release"] == [
        ("3", "4")
    ]
    facts = world.watch.facts("fraud")
    assert blame(facts, ONSET + 4200.0)[0].cause == "release.model", "the model half says the same"
    assert blame(facts, ONSET + 4400.0)[0].cause != "release.model"


def test_a_release_is_blamed_when_the_next_batch_of_labels_proves_it_worse(tmp_path):
    stage = staged(World(4, version=lambda t: "4", said=_worse, delay=at_once), tmp_path)
    stage.go(BATCH_S + 40.0)
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == ("release.model", MODEL), causes(stage)
    delay = stage.walk.world.value("model.label_delay_seconds", MODEL)
    assert delay == pytest.approx(BATCH_S / 2, rel=0.08), "the median of all, whatever came last"
    stage.close()


def test_what_labels_said_holds_until_the_next_batch_of_them_is_overdue(tmp_path):
    world = World(4, delay=lambda r, t: (np.floor((ONSET + t) / 160.0) + 1.0) * 160.0 - (ONSET + t))
    world.config = WatchModels(window=60.0)
    stage = staged(world, tmp_path)
    known = []

    def look(seconds):
        known.clear()
        until = stage.now + seconds
        while stage.now < until:
            stage.go(stage.now + STEP)
            known.append(stage.walk.world.value("model.accuracy_ratio", MODEL))

    stage.go(4 * 160.0)
    look(150.0)
    assert None not in known
    assert stage.walk.world.value("model.label_coverage_ratio", MODEL) is None
    world.told = lambda truth, said, t: None
    stage.go(5 * 160.0)
    look(230.0)
    assert None not in known
    look(60.0)
    assert known[-1] is None, "one is overdue"
    assert told(stage) == []
    stage.close()


def test_a_release_is_not_blamed_for_rows_that_came_long_after_it(tmp_path):
    def turned(w, x, s):
        return s - 12.0 * (x["f0"] - 3.7) / 1.9 if w.turned else s

    world = Turning(2, version=lambda t: "4", true=turned, delay=lambda r, t: LATE_S)
    stage = live(world, tmp_path, Turning.after + LATE_S + 60.0)
    (one,) = told(stage)
    assert one.opened >= ONSET + Turning.after + LATE_S
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == ("concept.drift", MODEL), causes(stage)


def test_drift_that_hurts_nobody_is_a_note_and_says_which_feature(tmp_path):
    stage = live(World(21, draw=shifted("f4", 1.0)), tmp_path)
    assert told(stage) == []
    found = [
        i for i in stage.incidents if any(a.road == "finding" and a.end is None for a in i.anomalies)
    ]  # fmt: skip
    (note,) = found
    assert {a.series.entity for a in note.anomalies if a.road == "finding"} == {feature("f4")}
    top = note.diagnosis.top
    assert (top.kind, top.entity, top.facts["feature"]) == ("data.drift", MODEL, "f4")
    assert stage.entries("note") == []


def test_what_breaks_while_inputs_drift_is_a_trouble_of_its_own_and_the_note_becomes_part(tmp_path):
    def unit(x, t):
        return {**x, "f1": x["f1"] * 100.0} if t >= 150 else x

    stage = live(World(23, draw=shifted("f4", 1.0), logged=unit), tmp_path, 220.0)
    (one,) = told(stage)
    assert one.opened >= ONSET + 150
    (note,) = [i for i in stage.memory.incidents.values() if i.merged_into == one.id]
    assert note.severity == "note"
    assert note.opened < ONSET + 100
    assert feature("f4") in {a.series.entity for a in one.anomalies}
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == ("data.contract", feature("f1")), causes(stage)


def test_another_mix_of_classes_alone_is_that_and_hurts_nobody(tmp_path):
    stage = live(World(22, draw=mostly_fraud), tmp_path, 200.0)
    assert told(stage) == []
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity) == ("data.prior", MODEL), causes(stage)


def season(w: World, n: int, t: float) -> Columns:
    x = w.payments(n)
    return {**x, "f3": x["f3"] + 4.0 * np.sin(2 * np.pi * t / 100.0)}


ORDINARY: dict[str, World] = {
    "a season that it has seen before": World(31, draw=season, always=season),
    "labels that come as late as they sometimes do": World(
        32, delay=lambda r, t: float(r.uniform(2, 20)) if t < 0 else 20.0
    ),
    "a holiday: a quarter of the payments, labels late": World(
        33, rows=lambda t: ROWS if t < 0 else ROWS // 4, delay=lambda r, t: 6.0 if t < 0 else 15.0
    ),
    "a release that is as good": World(34, version=lambda t: "4"),
    "a night without payments": World(35, rows=lambda t: ROWS if t < 0 or t > 60 else 1),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_only_looks_like_trouble_opens_nothing(name, tmp_path):
    stage = live(ORDINARY[name], tmp_path, 200.0)
    assert told(stage) == [], [causes(stage)]
    found = [a for i in stage.memory.incidents.values() for a in i.anomalies if a.road == "finding"]
    assert found == []


@dataclass
class Canary(World):
    """The same payments, and for some time a fifth more that version 4 answers, `wrong` of them the other way round."""

    wrong: float = 0.0
    until: float = np.inf

    def frames(self, now: float) -> list[Frame]:
        if 0 <= now - ONSET < self.until:
            made, truth = self.batch(ROWS // 4, now, self.draw, well=False)
            turned = self.random.random(len(truth)) < self.wrong
            pred = np.where(turned, np.where(made.pred == "1", "0", "1"), made.pred).astype(object)
            self.watch.take(replace(made, version="4", variant="canary", pred=pred))
            self.waiting.append((now + self.delay(self.random, now), made.ids, truth))
        return super().frames(now)


def test_a_canary_that_is_worse_is_one_note_that_names_it_and_ends_with_it(tmp_path):
    world = Canary(41, wrong=0.3, until=240.0, config=WatchModels(window=60.0))
    stage = staged(world, tmp_path)
    stage.walk.library = Library.load([], Config.model_validate(NO_OBJECTIVES))
    stage.go(ONSET + 230.0)
    assert told(stage) == [], causes(stage)
    (note,) = stage.incidents
    top = note.diagnosis.top
    four = Entity("version", "fraud/4")
    assert (top.kind, top.entity) == ("release.model", four), causes(stage)
    assert top.facts == {"version": "4", "previous_version": "3"}
    assert top.evidence[0].text.startswith("version 4 is worse than 3, which serves beside it: log")
    decided = {e.subject for e in stage.entries("decision")}
    assert decided == {"serve-canary-worse|version:fraud/4"}
    stage.go(ONSET + 500.0)
    stage.close()
    assert stage.incidents == []
    assert list(stage.memory.incidents) == [note.id]


def test_a_canary_that_is_as_good_opens_nothing(tmp_path):
    stage = live(Canary(42), tmp_path, 400.0)
    found = [a for i in stage.memory.incidents.values() for a in i.anomalies]
    assert [a for a in found if a.road in {"finding", "objective"}] == []
    world = stage.walk.world
    (proven,) = world.find("version.proven_worse", Entity("version", "fraud/4"))
    assert world.get(proven) == 0.0, "they were compared"
