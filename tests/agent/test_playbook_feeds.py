from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from agent import registry
from agent.errors import Refused
from agent.model import Entity, Series
from agent.playbook.examples import run, try_examples
from agent.playbook.feeds import onset, rows
from agent.playbook.library import lay
from agent.playbook.trial import Feed, notation
from agent.strict import read

registry.load()

BOOK = """\
version: 1
id: derate
title: Take load off a hot GPU
mode: suggest
target: {kind: gpu}
because: {cause: hardware.gpu.thermal}
when:
  - {signal: gpu.clock_ratio, is: 'value < peers.median * 0.85', for: 1m}
unless: ['gpu.utilization_ratio < 0.05']
guard:
  cooldown: {time: 10m}
  rate: {max: 9, per: 1h}
  attempts: {max: 3, per: 24h}
  breaker: {bad_outcomes: 2, hold: 6h}
do:
  - {id: lower, use: scale, with: {by: 1, service: 'service:example'}, undo: auto}
verify: {wait: 1m, within: 4m, expect: ['gpu.clock_ratio >= 0.9']}
tests:
"""
HOT = """\
  - name: hot
    feed:
      for: {length}
      series:
        gpu.clock_ratio: {{step: [0.95, 0.6], at: 5m, noise: 0.01}}
        'gpu.clock_ratio{{gpu:b}}': 0.95
        'gpu.clock_ratio{{gpu:c}}': {other}
        'gpu.clock_ratio{{gpu:d}}': {other}
        gpu.utilization_ratio: {used}
    expect: {expect}
"""


def book(tests, folder=None):
    place = "derate.yaml" if folder is None else str(folder / "derate.yaml")
    found = lay([[read(BOOK + tests, place)]], None)
    assert found.faults == []
    return found.playbooks["derate"]


def hot(expect, *, length="12m", other="0.95", used="0.8"):
    return book(HOT.format(expect=expect, length=length, other=other, used=used))


def tried(made):
    return run(made, made.tests[0])


def faults(tests):
    return [str(f) for f in lay([[read(BOOK + tests, "derate.yaml")]], None).faults]


# ---------------------------------------------------------------- through matcher and guard


def test_it_acts_when_the_condition_has_held_and_says_when_and_what():
    seen = tried(hot("{fires: 1, first_by: 7m, do: [lower]}"))
    assert seen.wrong == ()
    (act,) = seen.acts
    assert act.steps == ("lower",)
    assert 360 <= act.at <= 370


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ("{fires: 0}", "it acts once, expected never (after 6 min)"),
        ("{fires: 3}", "it acts once, expected 3 times"),
        ("{fires: 1, first_by: 5m}", "it acts first after 6 min, expected by 5 min"),
        (
            "{fires: 1, blocked_by: correlated}",
            "expected `correlated` to hold it back, but that was",
        ),
    ],
)
def test_what_is_otherwise_than_expected_is_said(expect, says):
    assert any(says in line for line in tried(hot(expect)).wrong)


def test_its_own_guard_holds_between_acts():
    # an act lasts 5 minutes, rests 10; after two that did not help the breaker is open
    seen = tried(hot("{fires: 2, blocked_by: breaker}", length="90m"))
    assert seen.wrong == ()
    assert seen.acts[1].at - seen.acts[0].at == pytest.approx(15 * 60, abs=20)


def test_the_same_symptom_everywhere_is_no_fault_of_one():
    everywhere = "{step: [0.95, 0.6], at: 5m}"
    made = book(
        HOT.format(expect="{fires: 0, blocked_by: correlated}", length="12m", other=everywhere, used="0.8")
        .replace("gpu:b}': 0.95", "gpu:b}': {step: [0.95, 0.6], at: 5m}")
    )  # fmt: skip
    made = made.model_copy(
        update={"when": made.when.model_validate({"all": [{"is": "gpu.clock_ratio < 0.9"}]})}
    )
    assert tried(made).wrong == ()


def test_an_exception_or_a_blind_spot_keeps_it_still():
    idle = tried(hot("{fires: 0}", used="0.01"))
    assert idle.wrong == ()
    assert "unless: gpu.utilization_ratio < 0.05 is true" in idle.reason
    blind = tried(hot("{fires: 0}", used="{value: 0.8, missing: [0s, 1h]}"))
    assert blind.wrong == ()
    assert "is unknown" in blind.reason


def test_the_cause_is_what_the_test_says():
    other = "    given: {cause.kind: hardware.gpu.power}\n    expect: {fires: 0}"
    made = book(
        HOT.format(expect="{fires: 0}", length="12m", other="0.95", used="0.8").replace(
            "    expect: {fires: 0}", other
        )
    )
    assert tried(made).wrong == ()


def test_the_same_seed_gives_the_same_frames_and_another_one_others():
    def values(seed):
        feed = Feed.model_validate(
            {"seed": seed, "series": {"gpu.clock_ratio": {"value": 0.9, "noise": 0.02}}}
        )
        return rows(feed, Path()).values

    assert np.array_equal(values(1), values(1))
    assert not np.array_equal(values(1), values(2))
    assert values(1).std() == pytest.approx(0.02, rel=0.4)


def test_noise_stays_within_what_a_signal_can_be():
    feed = Feed.model_validate({"series": {"gpu.clock_ratio": {"value": 0.01, "noise": 0.5}}})
    assert rows(feed, Path()).values.min() == 0.0


def test_shapes():
    feed = Feed.model_validate({
        "every": "1m", "for": "4m",
        "series": {
            "host.load1_count": 2, "gpu.clock_ratio": {"ramp": [1.0, 0.5], "from": "1m", "to": "3m"},
            "gpu.fan_ratio": {"step": [0.1, 0.9], "at": "2m", "missing": ["3m", "4m"]},
            "host.network_up": {"pulse": [1, 0], "from": "2m", "to": "3m"},
        },
    })  # fmt: skip
    found = rows(feed, Path())
    by = {s.metric: found.values[:, i].tolist() for i, s in enumerate(found.series)}
    assert by["host.load1_count"] == [2.0] * 5
    assert by["gpu.clock_ratio"] == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert by["gpu.fan_ratio"][:3] == [0.1, 0.1, 0.9]
    assert by["host.network_up"] == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert np.isnan(by["gpu.fan_ratio"][3])
    assert onset(feed, found) == 60.0
    assert {s.metric for s in found.moved()} == {
        "gpu.clock_ratio", "gpu.fan_ratio", "host.network_up",
    }  # fmt: skip


@pytest.mark.parametrize("every", [1.0, 0.1])
def test_a_pulse_comes_again_as_often_as_it_says(every):
    wave = {"pulse": [2, 5], "from": 20 * every, "to": 25 * every, "every": 30 * every}
    feed = Feed.model_validate({
        "every": every, "for": 100 * every, "series": {"host.load1_count": wave},
    })  # fmt: skip
    found = rows(feed, Path())
    on = [round(t / every) for t in found.ts[found.values[:, 0] == 5.0]]
    assert on == [*range(20, 25), *range(50, 55), *range(80, 85)]
    assert onset(feed, found) == pytest.approx(20 * every)


@pytest.mark.parametrize(("to", "fires"), [("5m50s", 0), ("6m20s", 1)])
def test_a_burst_that_is_over_in_time_is_left_alone(to, fires):
    text = HOT.format(expect=f"{{fires: {fires}}}", length="12m", other="0.95", used="0.8")
    text = text.replace("step: [0.95, 0.6], at: 5m", f"pulse: [0.95, 0.6], from: 5m, to: {to}")
    assert tried(book(text)).wrong == ()


# ---------------------------------------------------------------- recorded


def record(folder):
    """A GPU that slows down after five minutes; two peers do not."""
    ts = np.arange(1000.0, 1000.0 + 720, 10)
    ours = np.where(ts < 1300, 0.95, 0.6)
    names = ["ts", "gpu.clock_ratio", "gpu.clock_ratio{gpu:b}", "gpu.utilization_ratio"]
    table = [ts, ours, np.full(len(ts), 0.95), np.full(len(ts), 0.8)]
    lines = [
        ",".join(names),
        *(",".join(f"{x:g}" for x in row) for row in zip(*table, strict=True)),
    ]
    (folder / "hot.csv").write_text("\n".join(lines) + "\n")
    parquet.write_table(pa.table(dict(zip(names, table, strict=True))), folder / "hot.parquet")


@pytest.mark.parametrize("name", ["hot.csv", "hot.parquet"])
def test_a_recorded_file_beside_the_playbook_is_walked(tmp_path, name):
    record(tmp_path)
    test = f"  - {{name: t, feed: {{file: {name}, onset: 5m}}, expect: {{fires: 1, first_by: 6m10s, do: [lower]}}}}\n"
    assert try_examples(book(test, tmp_path)) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is not there; record it"),
        ("a,b\n1,2\n", "has no column `ts`"),
        (
            "ts,gpu.clock_ratio\n2,1\n1,1\n",
            "`ts` does not rise: row 2 is of 1, the row before it of 2",
        ),
        (
            "ts,gpu.clok_ratio\n1,1\n2,1\n",
            "no signal is called `gpu.clok_ratio`, did you mean `gpu.clock_ratio`?",
        ),
        ("ts,gpu.clock_ratio\n1,x\n", "line 2: column `gpu.clock_ratio`: 'x' is no number"),
        ("ts,gpu.clock_ratio\n1\n", "line 2: 1 cells below 2 names of columns"),
        ("ts\n1\n2\n", "has no column beside `ts`"),
        ("", "has no column `ts`"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, text, says):
    if text is not None:
        (tmp_path / "x.csv").write_text(text)
    with pytest.raises(Refused, match="x") as caught:
        rows(Feed.model_validate({"file": "x.csv"}), tmp_path)
    assert says in str(caught.value)
    made = book("  - {name: t, feed: x.csv, expect: {fires: 0}}\n", tmp_path)
    assert says in try_examples(made)[0]


def test_an_empty_cell_is_unknown(tmp_path):
    (tmp_path / "x.csv").write_text("ts,gpu.clock_ratio\n1,0.5\n2,\n")
    assert np.isnan(rows(Feed.model_validate({"file": "x.csv"}), tmp_path).values[1, 0])


# ---------------------------------------------------------------- how it is written


def test_notation():
    assert notation("gpu.clock_ratio") == ("gpu.clock_ratio", None, ())
    assert notation("host.disk_utilization_ratio{host:h, mount=/}") == (
        "host.disk_utilization_ratio", Entity("host", "h"), (("mount", "/"),)
    )  # fmt: skip
    assert (
        str(Series("gpu.throttled", Entity("gpu", "g"), (("reason", "thermal"),)))
        == "gpu.throttled{gpu:g,reason=thermal}"
    )
    for wrong in ("a{b", "a{gpu:x,gpu:y}", "a{x}"):
        with pytest.raises(ValueError, match="write"):
            notation(wrong)


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("{name: t, given: {}}", "`fires` is missing"),
        ("{name: t, feed: x.csv}", "`expect` is missing beside `feed`"),
        ("{name: t, feed: x.csv, fires: true, expect: {fires: 1}}", "`expect` is missing beside `feed`"),
        ("{name: t, feed: {}, expect: {fires: 1}}", "it has not one source"),
        ("{name: t, feed: {series: {gpu.clok_ratio: 1}}, expect: {fires: 1}}",
         "19:31: nothing is called `gpu.clok_ratio`"),
        ("{name: t, feed: {series: {'gpu.clock_ratio{x': 1}}, expect: {fires: 1}}", "a brace was opened"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {step: [1, 0]}}}, expect: {fires: 1}}",
         "a step happens at a moment"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {ramp: [1, 0]}}}, expect: {fires: 1}}", "a ramp has two moments"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {}}}, expect: {fires: 1}}", "it has not one shape"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {ramp: [1, 0], from: 5m, to: 2m}}}, expect: {fires: 1}}",
         "a ramp takes time"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {pulse: [1, 0]}}}, expect: {fires: 1}}",
         "a pulse has two moments"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {pulse: [1, 0], from: 5m, to: 5m}}}, expect: {fires: 1}}",
         "a pulse takes time"),
        ("{name: t, feed: {series: {gpu.fan_ratio: {pulse: [1, 0], from: 5m, to: 6m, every: 9s}}}, expect: {fires: 1}}",
         "a pulse ends before it comes again"),
        ("{name: t, feed: {series: {gpu.fan_ratio: {ramp: [1, 0], from: 5m, to: 6m, every: 9m}}}, expect: {fires: 1}}",
         "only a pulse comes again"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {pulse: [1, 0], from: 5m, to: 5m5s}}}, expect: {fires: 1}}",
         "may come and go between two frames; let it last for 10 s at least"),
        ("{name: t, feed: {series: {gpu.clock_ratio: {puls: [1, 0], from: 5m, to: 6m}}}, expect: {fires: 1}}",
         "did you mean `pulse`?"),
        ("{name: t, feed: {every: 1ms, for: 1h, series: {gpu.clock_ratio: 1}}, expect: {fires: 1}}",
         "more than 20000 frames"),
        ("{name: t, feed: {series: {gpu.clock_ratio: 1}}, expect: {fires: 1, do: [lowr]}}", "did you mean `lower`?"),
        ("{name: t, given: {gpu.clock_ratio: 1}, feed: {series: {gpu.fan_ratio: 1}}, expect: {fires: 1}}",
         "stands beside a feed"),
    ],
)  # fmt: skip
def test_a_test_that_is_not_one_is_a_fault(test, says):
    found = faults(f"  - {test}\n")
    assert any(says in line for line in found), found
