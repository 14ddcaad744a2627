"""Rows that come while what their version is held against is being made: they wait, and are counted then."""

from dataclasses import replace

import numpy as np
import pytest

from agent import registry
from agent.cli import model_tables
from agent.config import WatchModels
from agent.model_views import model_view
from agent.models import ModelWatch, held
from agent.models.made import Later, learn, make, unpack
from agent.ports import LabelBatch, PredictionBatch


@pytest.fixture(autouse=True)
def plug_ins():
    registry.load()


class Stream:
    """Rows of a model, the same for every watch that they are given to."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)
        self.n = 0

    def rows(self, n, now, version="1"):
        x = self.random.normal(size=n)
        said = (x > 0).astype(int)
        ids = tuple(f"{self.n + i}" for i in range(n))
        self.n += n
        nan = np.full(n, np.nan)
        features = {
            "x": x, "y": self.random.normal(size=n),
            "land": np.array([("de", "fr", "it")[i % 3] for i in range(n)], dtype=object),
        }  # fmt: skip
        return PredictionBatch(
            "churn", version, np.full(n, now), ids, features,
            np.array([str(s) for s in said], dtype=object), np.full(n, 0.9), np.full(n, 0.02), nan, np.full(n, 200),
        )  # fmt: skip

    def labels(self, batch, now):
        wrong = self.random.random(len(batch.ids)) < 0.1
        truth = [str(1 - int(p)) if w else p for p, w in zip(batch.pred, wrong, strict=True)]
        return LabelBatch("churn", np.full(len(truth), now), batch.ids, tuple(truth))


CONFIG = WatchModels(min_rows=50)


def watched(made=None, learn=None, config=CONFIG):
    return ModelWatch(config, lambda _m, _v: None, lambda _m: "shop", made, learn)


@pytest.fixture
def reference():
    stream = Stream(99)
    batch = stream.rows(2000, 0.0)
    return make(CONFIG, batch, list(stream.labels(batch, 0.0).labels))


def served(watch, stream, first=1, last=6, *, ready=None):
    """Serve some seconds, each with its labels; `ready` is called before second 4."""
    for now in range(first, last):
        if now == 4 and ready is not None:
            ready()
        batch = stream.rows(100, float(now))
        watch.take(batch)
        watch.take(batch)  # sent twice
        watch.take(stream.labels(batch, now + 0.5))
        watch.frame(float(now) + 1.0)


def test_what_waited_is_counted_as_if_it_had_not(reference):
    at_once = watched(lambda _m, _v: reference)
    served(at_once, Stream())
    answers = [Later()]
    late = watched(lambda _m, _v: answers[0])

    def ready():
        facts = late.facts("churn")
        assert facts.preparing == ("1",)
        assert (facts.held_rows, facts.current) == (300, None)
        assert late.holding
        answers[0] = unpack(reference.pack())
        while late.catch_up():
            pass
        assert not late.holding

    served(late, Stream(), ready=ready)
    one, two = at_once.facts("churn"), late.facts("churn")
    assert (two.current.rows, two.labelled, two.preparing) == (500, 500, ())
    told = {
        "drifted": (),
        "broken": (),
        "label_coverage": 0.0,
        "judged": two.judged,
    }  # by when they came
    one, two = (
        replace(x, **told, current=replace(x.current, judged_since=None)) for x in (one, two)
    )
    assert str(one) == str(two)
    assert at_once.evidence("churn") == late.evidence("churn")


def test_it_is_shown(capsys):
    watch = watched(lambda _m, _v: Later())
    served(watch, Stream(), last=4)
    shown = model_view(watch.facts("churn"), [])
    assert (shown["preparing"], shown["held_rows"]) == (["1"], 300)
    model_tables.models([shown], closely=False)
    assert "preparing what 1 is held against: 300 rows wait" in capsys.readouterr().out


def test_traffic_is_seen_while_rows_wait(reference):
    watch = watched(lambda _m, _v: Later())
    served(watch, Stream(), last=4)
    frame = watch.frame(4.0)
    rates = {s.metric: v for s, v in zip(frame.series, frame.values, strict=True)}
    assert rates["service.requests_per_second"] > 0


@pytest.mark.parametrize(("bound", "value"), [("MOST_CELLS", 1500), ("LONGEST_S", 2.0)])
def test_there_is_a_bound_behind_which_they_count_without(reference, monkeypatch, bound, value):
    monkeypatch.setattr(held, bound, value)
    answers = [Later()]
    watch = watched(lambda _m, _v: answers[0])
    stream = Stream()
    served(watch, stream, last=10)
    while watch.catch_up():
        pass
    assert watch.facts("churn").current.rows == 900  # behind it they do not wait again
    assert watch.facts("churn").learning
    answers[0] = reference
    served(watch, stream, 10, 14)
    while watch.catch_up():
        pass
    watch.frame(14.0)
    facts = watch.facts("churn")
    assert facts.current.rows == 1300
    assert not facts.learning
    assert facts.reference_accuracy == reference.accuracy


def test_at_the_end_all_are_counted_and_a_restart_takes_the_reference(reference):
    watch = watched(lambda _m, _v: Later())
    stream = Stream()
    served(watch, stream, last=4)
    watch.settle()
    assert not watch.holding
    again = watched(lambda _m, _v: reference)
    again.load(watch.dump())
    again.take(stream.rows(10, 5.0))
    again.frame(6.0)
    facts = again.facts("churn")
    assert (facts.current.rows, facts.labelled) == (310, 300)
    assert facts.reference_accuracy == reference.accuracy


def test_one_that_could_not_be_made_is_learnt_from_first_rows():
    answers = [Later()]
    watch = watched(lambda _m, _v: answers[0])
    stream = Stream()
    served(watch, stream, last=4)
    answers[0] = None
    while watch.catch_up():
        pass
    served(watch, stream, 4, 20)
    facts = watch.facts("churn")
    assert facts.preparing == ()
    assert facts.current.rows == 1900
    assert not facts.learning


# ---- first rows


def test_first_rows_are_made_a_reference_elsewhere_and_nothing_else_changes():
    at_once = watched()
    served(at_once, Stream(), last=30)
    jobs = []
    aside = watched(learn=lambda features, done: jobs.append((features, done)))
    stream = Stream()
    served(aside, stream, last=14)
    ((features, done),) = jobs
    assert {len(column) for column in features.values()} == {1000}
    assert aside.facts("churn").preparing == ("1",)
    assert aside.facts("churn").held_rows == 300
    done(learn(CONFIG, features))
    while aside.catch_up():
        pass
    assert not aside.holding
    served(aside, stream, 14, 30)
    assert len(jobs) == 1
    assert aside.evidence("churn") == at_once.evidence("churn")
    assert str(aside.facts("churn").drifted) == str(
        at_once.facts("churn").drifted
    )  # there is NaN in it


def test_where_that_fails_it_is_tried_again_a_minute_later():
    jobs = []
    watch = watched(learn=lambda features, done: jobs.append((features, done)))
    stream = Stream()
    served(watch, stream, last=14)
    jobs[0][1](None)
    assert watch.facts("churn").preparing == ("1",)  # rows wait to be counted
    while watch.catch_up():
        pass
    served(watch, stream, 14, 60)
    assert len(jobs) == 1
    served(watch, stream, 60, 90)
    assert len(jobs) == 2
    features, done = jobs[1]
    assert {len(column) for column in features.values()} == {1000}
    done(learn(CONFIG, features))
    while watch.catch_up():
        pass
    served(watch, stream, 90, 92)
    assert watch.facts("churn").current.rows == 9100
    assert watch.facts("churn").drifted


def test_a_version_that_was_forgotten_meanwhile_takes_nothing(reference):
    jobs = []
    answers = [None]
    watch = watched(lambda _m, _v: answers[0], lambda f, done: jobs.append((f, done)))
    stream = Stream()
    served(watch, stream, last=12)
    answers[0] = reference
    served(watch, stream, 12, 13)
    before = watch.state_bytes("churn")
    features, done = jobs[0]
    done(learn(CONFIG, features))
    assert watch.state_bytes("churn") == before


# ---- slices of rows that wait for labels


def sliced(watch, model="churn"):
    """Return the slices of what waits, by the name of the slicing."""
    state = watch._models[model]
    version = state.versions["1"]
    rows = np.concatenate([g.row[: g.rows] for g in state.join._generations])
    names = [*(name for name, _ in version.drift.slicings), "confidence"]
    return {name: rows["slices"][:, i].tolist() for i, name in enumerate(names)}


def many_groups(stream, n, now):
    batch = stream.rows(n, now)
    extra = {
        f"g{i}": np.array([("a", "b")[(j >> i) & 1] for j in range(n)], dtype=object)
        for i in range(7)
    }
    return replace(batch, features={**batch.features, **extra})


def test_other_protected_groups_do_not_mix_up_the_rows_that_wait():
    stream = Stream()
    first = watched()
    first.fit(many_groups(stream, 1000, 0.0), [None] * 1000)
    first.take(many_groups(stream, 256, 1.0))
    first.frame(2.0)
    before = sliced(first)
    assert "g6" not in before
    other = watched(config=WatchModels(min_rows=50, protected=["g6", "g2"]))
    other.load(first.dump())
    after = sliced(other)
    assert list(after)[:2] == ["g2", "g6"]
    assert set(after["g6"]) == {255}  # nobody looked at it then
    for name in set(after) & set(before):
        assert after[name] == before[name], name
    assert set(before["confidence"]) == {2}
    assert len(set(before["g2"])) == 2


def test_rows_from_before_slices_were_learnt_have_none():
    stream = Stream()
    watch = watched()
    served_rows = [many_groups(stream, 250, float(i)) for i in range(1, 6)]
    for batch in served_rows:
        watch.take(batch)
    after = sliced(watch)
    assert set(after["g0"][:1000]) == {255}
    assert set(after["g0"][1000:]) == {0, 1}
    assert set(after["confidence"]) == {2}
