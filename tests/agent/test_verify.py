import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.codec import pack, unpack
from agent.model import Anomaly, Entity, Incident, Outcome, Series, Turn
from agent.objectives import Limit
from agent.symptoms import symptoms_of
from agent.verify import Symptom, compare, judge

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def same_noise_in_any_order():
    RNG.bit_generator.state = np.random.default_rng(5).bit_generator.state


def latency(before, after, **more):
    """Seconds around levels, with noise of a tenth of them."""

    def noisy(level, n):
        return level * (1 + 0.1 * RNG.standard_normal(n))

    usual = noisy(0.1, 300)
    b = noisy(before, 30) if isinstance(before, float) else np.asarray(before)
    a = noisy(after, 20) if isinstance(after, float) else np.asarray(after)
    return Symptom("service.latency_p95_seconds", b, a, "low", 0.005, "seconds", usual, **more)


def test_better_after_the_act_and_as_expected_is_helped():
    outcome = judge([latency(0.8, 0.1)], True)
    assert outcome.verdict == "helped"
    assert "ms before" in outcome.summary
    assert outcome.against == "forecast"
    assert outcome.numbers["service.latency_p95_seconds.before"] == pytest.approx(0.8, rel=0.15)
    assert outcome.numbers["service.latency_p95_seconds.rows_after"] == 20


def test_a_high_signal_is_judged_the_other_way_round():
    symptom = Symptom(
        "model.accuracy_ratio", np.full(20, 0.7), np.full(20, 0.95), "high", 0.01, "ratio"
    )
    assert judge([symptom], True).verdict == "helped"
    assert (
        judge([replace(symptom, before=symptom.after, after=symptom.before)], True).verdict
        == "harmed"
    )


def test_what_did_not_come_is_no_effect():
    outcome = judge([latency(0.8, 0.8)], False)
    assert outcome.verdict == "no_effect"


def test_worse_is_harmed_even_when_what_was_expected_came():
    errors = Symptom("service.error_ratio", np.zeros(20), np.full(20, 0.2), "low", 0.005, "ratio")
    assert judge([latency(0.8, 0.1), errors], True).verdict == "harmed"
    assert judge([latency(0.8, 0.1), errors], None).verdict == "harmed"


def test_a_change_that_nobody_would_notice_is_no_harm():
    steady = Symptom(
        "service.error_ratio", np.full(20, 0.1), np.full(20, 0.1001), "low", 0.005, "ratio"
    )
    assert not compare(steady).harmed()
    large = Symptom(
        "x", np.full(20, 100.0) + RNG.normal(0, 0.01, 20), np.full(20, 101.0), "low", 0.0
    )
    assert compare(large).worse > 3
    assert not compare(large).harmed()


def test_worse_within_a_stated_objective_is_no_harm():
    assert judge([latency(0.1, 0.2)], False).verdict == "harmed"
    assert judge([latency(0.1, 0.2, high=0.25)], False).verdict == "no_effect"
    assert judge([latency(0.1, 0.3, high=0.25)], False).verdict == "harmed"


def test_a_signal_without_a_good_end_judges_nothing():
    traffic = Symptom("service.requests_per_second", np.full(20, 10.0), np.full(20, 90.0), "", 0.5)
    assert judge([traffic], False).verdict == "no_effect"
    assert judge([traffic], True).verdict == "cannot_tell"


@pytest.mark.parametrize(
    ("before", "after"),
    [([0.8] * 2, 0.1), (0.8, [0.1] * 2), (0.8, [math.nan] * 50), ([math.nan] * 50, 0.1), ([], [])],
)
def test_too_few_values_can_not_tell(before, after):
    outcome = judge([latency(before, after)], True)
    assert outcome.verdict == "cannot_tell"
    assert "too few values" in outcome.summary
    assert outcome.against == ""


def test_unknown_expectations_can_not_tell():
    assert judge([latency(0.8, 0.1)], None).verdict == "cannot_tell"
    assert judge([], None).verdict == "cannot_tell"
    assert judge([], True).verdict == "cannot_tell"


def test_a_trouble_that_passed_before_the_act_is_not_our_merit():
    passing = np.concatenate([np.full(20, 0.8), np.full(20, 0.1)])
    outcome = judge([latency(passing, 0.1)], True)
    assert outcome.verdict == "cannot_tell"
    assert "no worse right before the act" in outcome.summary


def test_what_peers_did_too_is_not_our_merit():
    """Everybody recovers at the same moment: without the control it looks like help, with it it does not."""
    others = (np.full(300, 0.1), np.full(30, 0.8), np.full(20, 0.1))
    alone, compared = latency(0.8, 0.1), latency(0.8, 0.1, control=others)
    assert judge([alone], True).verdict == "helped"
    outcome = judge([compared], True)
    assert outcome.verdict == "cannot_tell"
    assert outcome.against == "peers"
    all_worse = (np.full(300, 0.1), np.full(30, 0.1), np.full(20, 0.8))
    worse_for_all = latency(0.1, 0.8, control=all_worse)
    assert judge([worse_for_all], False).verdict == "no_effect"


def test_a_playbook_says_what_it_is_compared_with():
    others = (np.full(300, 0.1), np.full(30, 0.8), np.full(20, 0.1))
    compared = latency(0.8, 0.1, control=others)
    roads = {a: judge([compared], True, against=a) for a in ("", "peers", "forecast", "past")}
    assert {a: o.against for a, o in roads.items()} == {
        "": "peers", "peers": "peers", "forecast": "forecast", "past": "past",
    }  # fmt: skip
    assert roads["forecast"].verdict == "helped"
    assert roads["past"].verdict == "cannot_tell"  # no trouble of the past is known


def test_against_peers_the_last_look_needs_to_be_less_sure_than_those_before_it():
    control = (np.full(300, 0.1), np.full(30, 0.8), np.full(20, 0.8))
    found = compare(latency(0.8, 0.1, control=control))
    assert found.road == "peers"

    def doubts(lasts, road="peers", many=1):
        c = replace(found, road=road, evidence=replace(found.evidence, lasts=lasts))
        return bool(c.doubt(many)), bool(c.doubt(many, last=True))

    assert (doubts(4.4), doubts(4.6), doubts(7.1)) == ((True, True), (True, False), (False, False))
    assert doubts(4.6, many=2) == (True, True)  # of two symptoms one moves by chance sooner
    assert doubts(4.6, "forecast") == (True, True)


def test_noise_is_no_harm():
    """Noise that grows with the level, as latency does: of 100 comparisons without an effect hardly one is harm."""
    others = (np.full(300, 0.1), np.full(30, 0.1), np.full(20, 0.8))
    said = [judge([latency(0.1, 0.8, control=others)], False).verdict for _ in range(100)]
    assert said.count("harmed") <= 2


def test_peers_with_too_few_values_do_not_count():
    others = (np.full(300, 0.1), np.full(30, 0.8), np.full(20, np.nan))
    others[2][:2] = 0.1
    outcome = judge([latency(0.8, 0.1, control=others)], True)
    assert (outcome.verdict, outcome.against) == ("helped", "forecast")


finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
samples = st.lists(finite | st.just(math.nan), max_size=40).map(np.array)


@given(samples, samples, st.sampled_from(["", "low", "high"]), st.sampled_from([True, False, None]))
def test_any_samples_give_a_verdict_that_the_journal_can_carry(before, after, better, expected):
    outcome = judge([Symptom("x", before, after, better, 0.1)], expected)
    assert unpack(Outcome, pack(outcome)) == outcome
    if outcome.verdict == "helped":
        assert expected is True
    if outcome.verdict == "harmed":
        assert better


@given(st.lists(finite, min_size=5, max_size=40).map(np.array), st.sampled_from(["low", "high"]))
def test_nothing_changed_is_neither_help_nor_harm(x, better):
    found = compare(Symptom("x", x, x, better, 0.001))
    assert not found.harmed()


@given(
    st.lists(finite, min_size=8, max_size=30).map(np.array),
    st.lists(finite, min_size=8, max_size=30).map(np.array),
    st.sampled_from([2.0, 10.0, 0.5]),
)
def test_units_do_not_change_the_verdict(before, after, k):
    one = judge([Symptom("x", before, after, "low", 1.0)], True)
    other = judge([Symptom("x", before * k, after * k, "low", 1.0 * k)], True)
    assert one.verdict == other.verdict


def ar(phi, n, seed=1):
    rng = np.random.default_rng(seed)
    x = np.empty(n)
    last = 0.0
    for i, e in enumerate(rng.standard_normal(n)):
        x[i] = last = phi * last + math.sqrt(1 - phi * phi) * e
    return x


def test_a_short_trouble_is_no_proof():
    x = ar(0.5, 400)
    short, long, far = (
        Symptom("x", x[300:n] + size, x[350:380], "low", 0.1, usual=x[:300])
        for n, size in ((305, 3.5), (340, 3.5), (305, 20.0))
    )
    outcome = judge([short], True)
    assert outcome.verdict == "cannot_tell"
    assert "stood for only 5 rows" in outcome.summary
    assert judge([long], True).verdict == "helped"
    assert judge([far], True).verdict == "helped"


def test_an_excursion_of_slow_noise_that_fades_is_no_proof():
    """Down from its height at the pace of its own past: nobody did that."""
    x = ar(0.97, 400)
    fading = 4.0 * 0.97 ** np.arange(120)
    x[300:] += fading[:100]
    found = compare(Symptom("x", x[300:320], x[320:400], "low", 0.1, usual=x[:300]))
    assert found.worse < -1
    assert found.doubt() != ""


def test_what_was_getting_better_before_the_act_goes_on_by_itself():
    said = []
    for seed in range(12):
        x = ar(0.5, 420, seed)
        x[300:] += np.clip(6.0 * (1 - np.arange(120) / 90), 0.0, None)
        symptom = Symptom(
            "x", x[300:360], x[366:400], "low", 0.1, usual=x[:300], between=x[360:366]
        )
        said.append(judge([symptom], True))
    assert {o.verdict for o in said} == {"cannot_tell"}
    assert any("getting better before" in o.summary for o in said)


def test_troubles_that_end_by_themselves_as_soon_are_no_proof():
    x = ar(0.5, 400)
    symptom = Symptom(
        "x", x[300:340] + 6.0, x[346:386], "low", 0.1, usual=x[:300], between=x[340:346]
    )
    assert judge([symptom], True).verdict == "helped"
    known = replace(symptom, past=(41.0, 42.0, 44.0, 45.0))
    outcome = judge([known], True)
    assert outcome.verdict == "cannot_tell"
    assert "end by themselves" in outcome.summary
    assert judge([replace(symptom, past=(900.0, 4000.0))], True).verdict == "helped"


def test_a_trouble_that_outlasts_a_long_act_has_stood_as_long():
    x = ar(0.5, 460)
    symptom = Symptom(
        "x", x[300:308] + 6.0, x[360:400], "low", 0.1, usual=x[:300],
        between=np.concatenate([x[308:354] + 6.0, x[354:360]]),
    )  # fmt: skip
    outcome = judge([symptom], True)
    assert outcome.verdict == "cannot_tell"
    assert "took far longer to end" in outcome.summary
    assert judge([replace(symptom, acting=46)], True).verdict == "helped"


def test_durations_alone_prove_when_there_are_enough_of_them():
    few = Symptom("x", np.full(5, 9.0), np.zeros(4), "low", 0.1, step=300.0)
    assert judge([few], True).verdict == "cannot_tell"
    lasting = replace(few, past=(40_000.0, 90_000.0, 60_000.0, 200_000.0))
    outcome = judge([lasting], True)
    assert (outcome.verdict, outcome.against) == ("helped", "past")
    assert judge([replace(few, past=(1800.0, 2000.0, 2100.0))], True).verdict == "cannot_tell"
    assert (
        judge([replace(few, before=np.zeros(5), after=np.full(4, 9.0))], None).verdict == "harmed"
    )


# ---------------------------------------------------------------- what is compared


def test_symptoms_are_what_was_expected_broken_and_felt():
    service = Entity("service", "web")
    mine = {
        m: Series(m, service)
        for m in (
            "service.latency_p95_seconds",
            "service.error_ratio",
            "service.busy_ratio",
            "service.up",
        )
    }
    broken = Series("service.probe_latency_seconds", service)

    class Scene:
        def series(self, metric):
            return [mine[metric]] if metric in mine else []

    asked = []

    def read(series, start, end):
        asked.append((start, end))
        ts = np.arange(start, end)
        return ts, np.tile(np.arange(float(len(series))), (len(ts), 1))

    anomaly = Anomaly(
        broken, 950.0, None, 0.0, 1, 0.9, math.nan, 0.25, 0.6, 9.0, "objective", "slow", harm=True
    )
    incident = Incident("i1", 960.0, 990.0, "open", "page", "slow", anomalies=(anomaly,))
    found = symptoms_of(
        Scene(), incident, ["service.busy_ratio < baseline.service.busy_ratio * 2.0"], read,
        acted=1000.0, settled=1030.0, now=1060.0,
    )  # fmt: skip
    assert {s.name for s in found} == {str(s) for s in (*mine.values(), broken)}
    by_name = {s.name: s for s in found}
    assert (by_name[str(broken)].low, by_name[str(broken)].high) == (None, 0.25)
    assert by_name[str(mine["service.up"])].better == "high"
    assert by_name[str(mine["service.busy_ratio"])].floor == 0.05
    assert asked == [(-2650.0, 1060.0)]
    sides = by_name[str(broken)]
    assert [len(x) for x in (sides.usual, sides.before, sides.between, sides.after)] == [
        3600,
        51,
        29,
        30,
    ]
    assert (sides.step, sides.stood) == (1.0, 50)


def test_what_users_feel_is_judged_by_the_signal_that_has_an_objective():
    service = Entity("service", "web")
    metrics = ("service.latency_p50_seconds", "service.latency_p95_seconds", "service.error_ratio")

    class Scene:
        def series(self, metric):
            return [Series(metric, service)] if metric in metrics else []

    def read(series, start, end):
        ts = np.arange(start, end)
        acted = ts > 1000.0
        level = {"p50": np.where(acted, 0.04, 0.02), "p95": np.where(acted, 0.08, 0.05)}
        zero = np.zeros(len(ts))
        return ts, np.column_stack(
            [next((v for k, v in level.items() if k in s.metric), zero) for s in series]
        )

    incident = Incident("i1", 960.0, 990.0, "open", "page", "worse answers")
    times = {"acted": 1000.0, "settled": 1010.0, "now": 1060.0}
    alone = judge(symptoms_of(Scene(), incident, [], read, **times), True)
    assert alone.verdict == "harmed"
    limit = Limit("service.latency_p95_seconds", math.nan, 0.25, 3.0, ("service:web",))
    symptoms = symptoms_of(Scene(), incident, [], read, stated=[limit], **times)
    assert "service.latency_p50_seconds" not in {s.name.partition("{")[0] for s in symptoms}
    assert judge(symptoms, True).verdict != "harmed"
    strict = Limit("service.latency_p95_seconds", math.nan, 0.07, 3.0, ("service:web",))
    assert (
        judge(symptoms_of(Scene(), incident, [], read, stated=[strict], **times), True).verdict
        == "harmed"
    )


def test_what_it_was_not_about_can_show_harm_but_not_help():
    better = Symptom("probe", np.full(20, 0.8), np.full(20, 0.1), "low", 0.01, proves=False)
    same = Symptom("accuracy", np.full(20, 0.6), np.full(20, 0.6), "high", 0.01)
    assert judge([better, same], True).verdict == "cannot_tell"
    worse = Symptom("probe", np.full(20, 0.1), np.full(20, 0.8), "low", 0.01, proves=False)
    assert judge([worse, same], True).verdict == "harmed"


def test_rows_of_other_sources_are_no_gaps_and_own_ones_are():
    series = Series("service.error_ratio", Entity("service", "web"))

    class Scene:
        def series(self, metric):
            return [series] if metric == series.metric else []

    def read(wanted, start, end):
        ts = np.arange(
            start, end + 1, 2.5
        )  # another source comes in between, every row of ours is 5 s apart
        own = np.where(np.arange(len(ts)) % 2 == 0, 0.0, np.nan)
        own[(ts > 900) & (ts < 920)] = np.nan
        return ts, own[:, None]

    incident = Incident("i1", 800.0, 990.0, "open", "page", "slow")
    (found,) = symptoms_of(
        Scene(), incident, [], read, acted=1000.0, settled=1020.0, now=1100.0, baseline=300.0
    )
    assert found.step == 5.0
    assert np.isnan(found.before).sum() == 3
    assert len(found.before) == 41
    assert not np.isnan(found.usual).any()


def test_troubles_that_were_treated_are_no_ordinary_past():
    series = Series("service.error_ratio", Entity("service", "web"))

    class Scene:
        def series(self, metric):
            return [series] if metric == series.metric else []

    def read(wanted, start, end):
        ts = np.arange(start, end)
        return ts, np.where((ts >= 700) & (ts <= 750), 1.0, 0.0)[:, None]

    incident = Incident("i1", 900.0, 990.0, "open", "page", "slow")
    times = {"acted": 1000.0, "settled": 1005.0, "now": 1040.0, "baseline": 500.0}
    (found,) = symptoms_of(Scene(), incident, [], read, **times)
    assert np.nansum(found.usual) == 51
    (found,) = symptoms_of(
        Scene(), incident, [], read, **times, spoilt=lambda e: [(690.0, 760.0), (950.0, 960.0)]
    )
    assert np.nansum(found.usual) == 0
    assert np.isnan(found.usual).sum() == 71
    assert not np.isnan(found.before).any()


@pytest.mark.parametrize(
    ("acts", "turns", "rows", "stood"),
    [
        ([], [(960.0, "relapsed")], 181, 180),  # nobody has acted: how it goes by itself counts
        ([(850.0, math.inf)], [(960.0, "relapsed")], 44, 43),
        ([(850.0, math.inf)], [(840.0, "relapsed"), (960.0, "reopened"), (1010.0, "relapsed")], 44, 43),
        ([(850.0, math.inf)], [(840.0, "relapsed")], 151, 150),  # what an act has left behind
        ([(851.0, 956.0)], [], 75, 180),  # put back: what was before it counts, and what is after it
    ],
)  # fmt: skip
def test_what_an_earlier_act_has_healed_is_no_time_before_the_next(acts, turns, rows, stood):
    series = Series("service.error_ratio", Entity("service", "web"))

    class Scene:
        def series(self, metric):
            return [series] if metric == series.metric else []

    def read(wanted, start, end):
        ts = np.arange(start, end)
        bad = ((ts >= 820) & (ts <= 850)) | ((ts >= 957) & (ts <= 1000))
        return ts, np.where(bad, 0.5, 0.01)[:, None]

    anomaly = Anomaly(
        series, 820.0, None, 0.0, 1, 0.5, math.nan, 0.05, 0.6, 9.0, "objective", "fails", harm=True
    )
    lived = tuple(Turn(ts, event, "open", "homeostat", "") for ts, event in turns)
    incident = Incident("i1", 820.0, 990.0, "open", "page", "fails", (anomaly,), turns=lived)
    symptoms = symptoms_of(
        Scene(), incident, [], read, acted=1000.0, settled=1001.0, now=1040.0, baseline=300.0,
        stated=[Limit(series.metric, math.nan, 0.05, 3.0, ("service:web",))], acts=acts,
    )  # fmt: skip
    (found,) = symptoms
    assert (np.isfinite(found.before).sum(), found.stood) == (rows, stood)
    assert np.isfinite(found.usual).all()
    assert judge(symptoms, True).verdict == ("helped" if rows < 100 else "cannot_tell")


def test_before_is_at_least_sixty_rows_where_the_trouble_lasted_so_long():
    series = Series("service.error_ratio", Entity("service", "web"))

    class Scene:
        def series(self, metric):
            return [series] if metric == series.metric else []

    def read(wanted, start, end):
        ts = np.arange(start, end, 60.0)
        return ts, np.zeros((len(ts), 1))

    incident = Incident("i1", 10_000.0, 20_000.0, "open", "page", "slow")
    (found,) = symptoms_of(
        Scene(), incident, [], read, acted=20_000.0, settled=20_060.0, now=21_000.0, window=300.0
    )
    assert len(found.before) >= 60
    assert found.stood == round(10_000 / 60)


def test_untreated_peers_with_the_same_symptom_are_the_control():
    own, *others = (Series("gpu.temperature_celsius", Entity("gpu", f"g{i}")) for i in range(5))

    class Scene:
        def series(self, metric):
            return [own] if metric == own.metric else []

    def read(wanted, start, end):
        ts = np.arange(start, end)
        rng = np.random.default_rng(4)
        hot = np.where(ts >= 900, 90.0, 60.0)
        treated = np.where(ts > 1000, 60.0, hot)
        # two peers have the same symptom, one is well, one is far worse
        levels = {own: treated, others[0]: hot, others[1]: hot, others[2]: 60.0 + 0 * ts,
                  others[3]: np.where(ts >= 900, 160.0, 60.0)}  # fmt: skip
        return ts, np.column_stack([levels[s] + rng.normal(0, 0.5, len(ts)) for s in wanted])

    incident = Incident("i1", 900.0, 990.0, "open", "page", "hot")
    asked = ["gpu.temperature_celsius < 80.0"]
    times = {"acted": 1000.0, "settled": 1005.0, "now": 1040.0, "baseline": 500.0}
    (found,) = symptoms_of(
        Scene(), incident, asked, read, **times,
        untreated=lambda _: [s.entity for s in others],
    )  # fmt: skip
    assert np.median(found.control[1]) == pytest.approx(90.0, abs=0.5)
    assert judge([found], True).against == "peers"
    assert judge([found], True).verdict == "helped"
    (alone,) = symptoms_of(
        Scene(), incident, asked, read, **times, untreated=lambda _: [others[0].entity]
    )
    assert alone.control is None


def test_no_series_no_symptoms():
    class Scene:
        def series(self, metric):
            return []

    incident = Incident("i1", 960.0, 990.0, "open", "page", "slow")
    assert symptoms_of(Scene(), incident, [], None, acted=1.0, settled=2.0, now=3.0) == []
