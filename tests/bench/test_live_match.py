"""What counts as found in a live run, and what as a false alarm."""

import argparse
import json
import sys
import time
from fnmatch import filter as matching

import live
import live_faults
import live_report
import live_work
import pytest
from live_match import Broken, Sign, Told, by_signal, chance, find, outside, read
from live_work import Done

from agent.budget import Promise
from agent.catalogue import SIGNALS
from agent.config import Budget

BUSY = Sign("host.cpu_busy_ratio", direction=1)
SHOP = Sign("service.up", "service:shop", direction=-1)


def told(at=1010.0, metric="host.cpu_busy_ratio", entity="host:h", **more):
    given = {"onset": at - 1, "end": None, "source": "host", "labels": (), "road": "calibrated"}
    given |= {
        "family": "level",
        "direction": 1,
        "p": 1e-7,
        "deviations": 9.0,
        "value": 1.0,
        "high": 0.5,
        **more,
    }
    return Told(at=at, metric=metric, entity=entity, **given)


def broken(*signs, start=1000.0, end=1060.0, **more):
    return Broken("cpu", start, end, signs or (BUSY,), **more)


def line(at=1010.0, **more):
    given = {
        "what": "anomaly",
        "at": at,
        "source": "host",
        "metric": "host.cpu_busy_ratio",
        "entity": "host:h",
    }
    given |= {
        "labels": [["b", "2"], ["a", "1"]],
        "onset": 1009.0,
        "end": None,
        "p": 1e-7,
        "road": "prior",
    }
    given |= {
        "family": "spike",
        "direction": 1,
        "value": 1.0,
        "low": 0.0,
        "high": 0.5,
        "deviations": 9.0,
    }
    return {**given, "harm": False, "together": None, **more}


def incident(opened=1012.0, onset=1009.0, series="host.cpu_busy_ratio{host:h}"):
    return {"opened": opened, "anomalies": [{"series": series, "onset": onset}]}


# ---------------------------------------------------------------- the tap's lines


def test_lines_of_one_stretch_are_joined_and_who_was_first_stays_first():
    (one,) = read(
        [
            {"what": "ledger", "at": 1000.0},
            line(),
            line(1012.0, road="calibrated", together=1e-5, p=1e-9, family="level"),
            line(1030.0, end=1029.0, deviations=40.0),
        ]
    )
    assert (one.at, one.road, one.family, one.alone) == (1010.0, "prior", "spike", True)
    assert (one.end, one.p, one.deviations) == (1029.0, 1e-7, 9.0)
    assert one.series == "host.cpu_busy_ratio{a=1,b=2}"


def test_another_onset_and_another_limit_are_other_stretches():
    own = {"road": "objective", "onset": 1009.0}
    found = read(
        [line(), line(1100.0, onset=1099.0), line(**own, family="a"), line(**own, family="b")]
    )
    assert len(found) == 4
    assert [t.at for t in found] == [1010.0, 1010.0, 1010.0, 1100.0]


def test_a_carrier_of_a_group_is_not_alone():
    assert not read([line(together=1e-5)])[0].alone


# ---------------------------------------------------------------- signs


@pytest.mark.parametrize(
    ("sign", "shown"),
    [
        (Sign("host.cpu_*"), True),
        (Sign("host.memory_*"), False),
        (Sign("host.cpu_*", "service:*"), False),
        (Sign("host.cpu_*", direction=-1), False),
        (Sign("host.cpu_*", labels={"mode": "us*"}), True),
        (Sign("host.cpu_*", labels={"mode": "idle"}), False),
        (Sign("host.cpu_*", labels={"core": "0"}), False),
    ],
)
def test_a_sign_is_signal_thing_labels_and_direction(sign, shown):
    assert sign.shows(told(labels=(("mode", "user"),))) is shown


@pytest.mark.parametrize(
    ("band", "side"),
    [
        ({"value": 1.0, "low": 0.0, "high": 0.5}, 1),
        ({"value": -1.0, "low": 0.0, "high": 0.5}, -1),
        ({"value": 0.2, "low": 0.0, "high": 0.5}, 0),
        ({"value": 0.2, "low": None, "high": None}, 0),
        ({"value": 0.2, "low": 0.5, "high": None}, -1),
        ({"value": None, "low": 0.0, "high": 0.5}, 0),
    ],
)
def test_only_a_value_beyond_the_band_says_in_which_direction(band, side):
    one = told(**band)
    assert one.side == side
    assert Sign("host.cpu_*", direction=1).shows(one) is (side >= 0)


def test_every_sign_of_every_fault_is_a_signal_that_there_is(tmp_path):
    quiet = [sys.executable, "-c", live_faults.LEAK, "1", "3"]

    def signs():
        with live_work.running(quiet) as leaky:
            time.sleep(1.0)  # it must have taken the signals over
            ground = live_faults.Ground(
                0.01, None, leaky, 3, tmp_path, None, {"network": "not here"}
            )
            for name in ("cpu", "memory_leak", "disk"):
                with live_faults.FAULTS[name](ground) as one:
                    yield from one.signs
            assert leaky.poll() is None

    found = list(signs())
    assert len(found) > 15
    assert not [s.metric for s in found if not matching(SIGNALS, s.metric)]
    assert not list(tmp_path.iterdir()), "the file that filled the disk is gone"


def test_a_fault_that_can_not_be_made_says_why():
    ground = live_faults.Ground(1.0, missing={"disk": "no root", "network": "no tc"})
    for name, why in (
        ("disk", "no root"),
        ("network", "no tc"),
        ("hung", "not running"),
        ("memory_leak", "not running"),
    ):
        with pytest.raises(live_faults.Missing, match=why), live_faults.FAULTS[name](ground):
            pass


# ---------------------------------------------------------------- found or missed


def test_found_by_the_first_sign_with_the_delay_of_each_road():
    lines = [
        told(1005.0, metric="host.forks_per_second"),
        told(1010.0),
        told(1020.0, road="objective"),
        told(1030.0),
    ]
    found = find(broken(), lines)
    assert found.first is lines[1]
    assert found.delay_s == 10.0
    assert found.roads == {"calibrated": 10.0, "objective": 20.0}
    assert len(found.signs) == 3
    assert found.beside == (lines[0],)


@pytest.mark.parametrize(
    "other",
    [
        told(990.0),  # before
        told(1010.0, onset=900.0),  # it went on already
        told(1080.0, onset=1059.0),  # told when all was over
        told(1010.0, metric="host.load1_count"),
        told(1010.0, value=0.1, low=0.2),
    ],
)
def test_missed_when_nothing_names_it_within_it(other):
    found = find(broken(), [other])
    assert found.first is None
    assert found.delay_s is None


def test_an_onset_one_row_before_still_counts():
    assert find(broken(), [told(1001.0, onset=999.5)]).delay_s == 1.0


def test_an_incident_counts_when_it_opened_within_and_holds_a_sign():
    right = incident()
    found = find(broken(), [told()], [incident(900.0), incident(series="x{host:h}"), right])
    assert found.incident is right
    assert find(broken(), [told()], [incident(onset=1050.0)]).incident is None


def test_a_page_counts_only_where_users_are_hurt():
    pages = [{"ts": 1020.0, "severity": "info"}, {"ts": 1025.0, "severity": "page"}]
    assert find(broken(SHOP), [], pages=pages).page is None
    assert find(broken(SHOP, pages=True), [], pages=pages).page == pages[1]
    assert find(broken(SHOP, pages=True, end=1010.0), [], pages=pages).page is None


def test_chance_is_what_an_equally_long_stretch_shows_while_all_is_well():
    lines = [told(t) for t in (100.0, 200.0, 500.0, 1010.0)] + [
        told(300.0, metric="host.load1_count")
    ]
    assert chance(broken(), lines, 0.0, 600.0) == pytest.approx(0.3)


def test_outside_is_neither_in_a_fault_nor_right_behind_it():
    faults = [broken()]
    assert [outside(t, faults, 30.0) for t in (990.0, 1000.0, 1085.0, 1095.0)] == [
        True,
        False,
        False,
        True,
    ]


# ---------------------------------------------------------------- the report


def seen():
    ledger = [
        {"at": 0.0, "series_days": 1.0, "notes": 2, "tightness": 1.0},
        {"at": 3590.0, "series_days": 21.0, "notes": 3, "tightness": 0.5},
        {"at": 3700.0, "series_days": 30.0, "notes": 9, "tightness": 0.25},
    ]
    alarms = [told(100.0), told(200.0), told(300.0, family="spike"), told(4010.0)]
    return live_report.Seen(
        0.0, 3600.0, 4100.0, [broken(start=4000.0, end=4060.0), broken(SHOP, start=4070.0, end=4090.0)],
        told=alarms, ledger=ledger, work=[Done("build", 90.0, 150.0)],
        pages=[{"ts": t, "severity": "page"} for t in (500.0, 3900.0, 4050.0)],
        status={"usage": {"series": 500, "bugs": {"x": 1}, "late_ticks": 3}},
    )  # fmt: skip


def test_only_the_ordinary_time_counts_for_the_budget():
    figures = live_report.ordinary(seen(), Promise.of(Budget()))
    assert figures["hours"] == 1.0
    assert (figures["pages"], figures["pages_outside_faults"]) == (1, 2)
    assert figures["pages_budget"] == pytest.approx(2 / 168)
    assert (figures["anomalies"], figures["host_alarms"]) == (3, 1)
    assert figures["anomalies_per_series_day"] == pytest.approx(3 / 20)
    assert figures["bugs"] == 1


def test_the_report_lists_false_alarms_with_the_work_and_has_rows_for_each_fault():
    run = seen()
    run.faults[1] = Broken("hung", 4070.0, 4090.0, (SHOP,))
    said, found = live_report.report(run, Promise.of(Budget()))
    of = {row["figure"]: row["value"] for row in said["rows"]}
    assert (of["found_cpu"], of["delay_s_cpu"], of["found_hung"]) == (1.0, 10.0, 0.0)
    assert "delay_s_hung" not in of
    assert [a["during"] for a in said["false_alarms"]] == ["build", "idle", "idle"]
    assert {(row["set"], row["subject"]) for row in said["rows"]} == {("live", "homeostat")}
    assert json.loads(json.dumps(said, allow_nan=False))["faults"][0]["found"] is True
    assert [f.fault.name for f in found] == ["cpu", "hung"]


def test_the_tables_show_what_was_missed(capsys):
    run = seen()
    run.missing["disk"] = "no root"
    promise = Promise.of(Budget())
    live_report.show(run, live_report.ordinary(run, promise), live_report.report(run, promise)[1])
    text = capsys.readouterr().out
    assert "missed" in text
    assert "10.0 s" in text
    assert "no root" in text


def test_false_alarms_are_counted_by_signal_most_frequent_first():
    lines = [told(), told(family="spike"), told()]
    assert [(family, n) for _, family, _, n in by_signal(lines)] == [("level", 2), ("spike", 1)]


def test_faults_are_chosen_by_name():
    assert live.names("cpu,hung") == ["cpu", "hung"]
    assert live.names("") == []
    with pytest.raises(argparse.ArgumentTypeError, match="no fault fire"):
        live.names("cpu,fire")
