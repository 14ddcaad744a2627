"""Cron lines against a reference that walks through time minute by minute."""

import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cron import Cron

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
CHANGES = ("2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01")
"""Sundays on which one of these clocks is put on or back."""
BERLIN = ZoneInfo("Europe/Berlin")


def at(text, zone=BERLIN):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def said(found, zone=BERLIN):
    return [datetime.fromtimestamp(ts, zone).strftime("%m-%d %H:%M%z") for ts in found]


@pytest.mark.parametrize(
    ("line", "due"),
    [
        ("0 2 1 * *", ["12-01 02:00+0100"]),
        ("0 2 * * tue#2", ["12-08 02:00+0100"]),
        ("0 2 * * 2#2", ["12-08 02:00+0100"]),
        ("0 22 L * *", ["12-31 22:00+0100"]),
        ("0 2 * * friL", ["12-25 02:00+0100"]),
        ("0 2 24 12 *", ["12-24 02:00+0100"]),
        ("0 2 1 * sun#1", ["12-01 02:00+0100", "12-06 02:00+0100"]),
        ("30 4 8 * mon", ["12-07 04:30+0100", "12-08 04:30+0100", "12-14 04:30+0100",
                          "12-21 04:30+0100", "12-28 04:30+0100"]),
        ("0 0 */10 * *", ["12-01 00:00+0100", "12-11 00:00+0100", "12-21 00:00+0100", "12-31 00:00+0100"]),
        ("0 0 */10 * fri", ["12-11 00:00+0100"]),
        ("0 0 * dec sat-sun", [f"12-{d:02} 00:00+0100" for d in (5, 6, 12, 13, 19, 20, 26, 27)]),
    ],
)  # fmt: skip
def test_a_line_means_what_people_mean(line, due):
    assert said(Cron(line, BERLIN).between(at("2026-12-01"), at("2026-12-31T23:59"))) == due


@pytest.mark.parametrize(
    "line",
    ["", "0 2 * *", "60 * * * *", "0 24 * * *", "0 0 32 * *", "0 0 30 2 *", "0 2 * * tue#6", "0 2 * * tuesday",
     "0 2 * * xyz", "0 2 * * 8", "0 2 * foo *", "*/0 * * * *", "0 2 1st * *", "0 2-1 * * *", "0;2 * * * *"],
)  # fmt: skip
def test_what_is_no_line_is_refused(line):
    with pytest.raises(ValueError, match=r"cron line|never comes"):
        Cron(line)


def test_the_hour_that_is_left_out_and_the_one_that_comes_twice():
    night = Cron("30 2 * * *", BERLIN)
    on = night.between(at("2026-03-28T12:00"), at("2026-03-30T12:00"))
    assert said(on) == ["03-29 03:30+0200", "03-30 02:30+0200"]
    back = night.between(at("2026-10-24T12:00"), at("2026-10-26T12:00"))
    assert said(back) == ["10-25 02:30+0200", "10-26 02:30+0100"]
    hourly = Cron("0 * * * *", BERLIN).between(at("2026-10-25T01:00"), at("2026-10-25T03:00"))
    assert said(hourly) == ["10-25 01:00+0200", "10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"]  # fmt: skip


@st.composite
def nights(draw):
    """Return a time of day, weekdays and a stretch of days around one on which the clock changes."""
    zone = ZoneInfo(draw(st.sampled_from(ZONES)))
    change = draw(st.sampled_from(CHANGES))
    days = draw(st.sets(st.integers(0, 6), min_size=1))
    start = datetime.fromisoformat(change).replace(tzinfo=UTC).timestamp() - 3 * 86_400
    return zone, draw(st.integers(0, 23)), draw(st.integers(0, 59)), days, start


def first_minute(day, hour, minute, zone):
    """Return when the clock on the wall first shows a time or more, on a day, by looking at each minute."""
    wanted = day.replace(hour=hour, minute=minute)
    ts = int(wanted.replace(tzinfo=UTC).timestamp()) - 16 * 3600
    before = None
    while True:
        shown = datetime.fromtimestamp(ts, zone).replace(tzinfo=None)
        if shown == wanted or (before is not None and before < wanted < shown):
            return ts, shown
        before, ts = shown, ts + 60


@given(nights())
def test_each_wanted_night_has_one_begin_whatever_the_clock_does(night):
    zone, hour, minute, days, start = night
    cron = Cron(f"{minute} {hour} * * {','.join(map(str, sorted(days)))}", zone)
    found = cron.between(start, start + 6 * 86_400)
    first = datetime.fromtimestamp(start, zone).replace(tzinfo=None, hour=0, minute=0)
    expected = []
    for ahead in range(8):
        day = first + timedelta(days=ahead)
        if (day.weekday() + 1) % 7 not in days:
            continue
        ts, shown = first_minute(day, hour, minute, zone)
        if shown != day.replace(
            hour=hour, minute=minute
        ):  # left out: later by as much as the clock is put on
            ts += (day.replace(hour=hour, minute=minute) - _gap_start(ts, zone)).total_seconds()
        if start <= ts <= start + 6 * 86_400:
            expected.append(ts)
    assert found == expected


def _gap_start(ts, zone):
    """Return what the clock would have shown next, had it not been put on."""
    before = datetime.fromtimestamp(ts - 60, zone).replace(tzinfo=None)
    return before + timedelta(minutes=1)


@given(nights(), st.floats(0, 6 * 86_400))
def test_next_and_last_agree_with_the_whole_list(night, after):
    zone, hour, minute, days, start = night
    cron = Cron(f"{minute} {hour} * * {','.join(map(str, sorted(days)))}", zone)
    now = start + after
    past = [due for due in cron.between(start - 30 * 86_400, now) if due <= now]
    assert cron.last(now) == (past[-2], past[-1])
    coming = [due for due in cron.between(now, now + 30 * 86_400) if due > now]
    assert cron.next(now) == coming[0]


def test_what_comes_once_in_four_years_is_found():
    leap = Cron("0 0 29 2 *")
    assert leap.next(at("2026-01-01", UTC)) == at("2028-02-29", UTC)
    assert leap.last(at("2028-03-01", UTC))[1] == at("2028-02-29", UTC)
    assert math.isnan(leap.last(at("2028-02-28", UTC))[1])
