from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import Window, load
from agent.errors import ConfigError
from agent.windows import open_until, upcoming


def at(text, zone="Europe/Berlin"):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def weekly(**words):
    return Window(
        **{"name": "patch", "at": "02:00", "lasts": "2h", "timezone": "Europe/Berlin", **words}
    )


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-12-06T01:59:59", None), ("2026-12-06T02:00", "2026-12-06T04:00"),
        ("2026-12-06T03:59:59", "2026-12-06T04:00"), ("2026-12-06T04:00", None), ("2026-12-07T03:00", None),
    ],
)  # fmt: skip
def test_a_weekly_window_opens_on_its_day(now, until):
    said = open_until(weekly(days=["sun"]), at(now))
    assert said == (None if until is None else at(until))


def test_one_that_goes_over_midnight_or_over_days_is_open_the_next_morning():
    night = weekly(days=["sat"], at="23:00", lasts="3h")
    assert open_until(night, at("2026-12-06T01:00")) == at("2026-12-06T02:00")
    assert open_until(night, at("2026-12-07T01:00")) is None
    long = weekly(days=["fri"], at="18:00", lasts="3d")
    assert open_until(long, at("2026-12-07T17:59")) == at("2026-12-07T18:00")
    assert open_until(weekly(days=[]), at("2026-12-09T02:30")) == at("2026-12-09T04:00")


def test_it_lasts_as_long_when_the_clock_is_put_on():
    # Berlin, 29 March 2026: 02:00 becomes 03:00
    start = at("2026-03-29T01:30")
    window = weekly(days=["sun"], at="01:30", lasts="2h")
    assert open_until(window, start + 7199) == start + 7200
    assert open_until(window, start + 7200) is None


def test_once_from_to_with_and_without_an_offset():
    window = Window.model_validate(
        {"name": "move", "from": "2026-12-24T18:00", "to": "2026-12-24T20:00+00:00", "timezone": "Europe/Berlin"}
    )  # fmt: skip
    assert open_until(window, at("2026-12-24T17:59:59")) is None
    assert open_until(window, at("2026-12-24T18:00")) == at("2026-12-24T21:00")
    assert open_until(window, at("2026-12-24T21:00")) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{name: a}", "it is not clear when `a` is"),
        ("{name: a, at: '02:00'}", "it is not clear when"),
        ("{name: a, at: '02:00', lasts: 1h, from: 2026-01-01}", "it is not clear when"),
        ("{name: a, from: tomorrow, to: 2026-01-01}", "`tomorrow` is no moment"),
        ("{name: a, from: '2026-01-01'}", "`a` has no `to:`"),
        ("{name: a, from: '2026-01-02', to: '2026-01-01'}", "it ends before it begins"),
        ("{name: a, at: '02:00', lasts: 1h, timezone: Mars/Base}", "there is no time zone `Mars/Base`"),
        ("{name: a, cron: '0 2 * * sun'}", "it is not clear when"),
        ("{name: a, cron: '0 2 * * sun', at: '02:00', lasts: 1h}", "it is not clear when"),
        ("{name: a, cron: '0 2 * * sun', days: [sun], lasts: 1h}", "it is not clear when"),
        ("{name: a, cron: '0 2 * * tue#9', lasts: 1h}", "is no weekday"),
        ("{name: a, cron: '0 2 30 2 *', lasts: 1h}", "never comes"),
        ("{name: a, at: '25:00', lasts: 1h}", "at"),
        ("{name: a, at: '02:00', lasts: 1h, days: [sunday]}", "sun"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_told(tmp_path, text, says):
    path = tmp_path / "agent.yaml"
    path.write_text(f"maintenance: [{text}]\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    (fault,) = raised.value.faults
    assert says in f"{fault.problem} {fault.remedy}"
    assert fault.line == 1


def test_a_written_time_of_day_needs_no_quotes(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("maintenance:\n  - {name: a, at: 02:00, lasts: 90m, scope: [{kind: host}]}\n")
    (window,) = load(path).maintenance
    assert (window.at, window.lasts) == ("02:00", 5400.0)


def by_cron(line, lasts="4h"):
    return Window(name="patch", cron=line, lasts=lasts, timezone="Europe/Berlin")


def test_a_monthly_window_opens_by_its_cron_line():
    second = by_cron("0 20 * * tue#2")
    assert open_until(second, at("2026-12-08T20:00")) == at("2026-12-09T00:00")
    assert open_until(second, at("2026-12-08T19:59:59")) is None
    assert open_until(second, at("2026-12-09T00:00")) is None
    assert open_until(second, at("2026-12-15T21:00")) is None
    rare = by_cron("0 0 29 2 *")
    assert open_until(rare, at("2028-02-29T03:59")) == at("2028-02-29T04:00")
    assert open_until(rare, at("2026-02-28T01:00")) is None


def test_what_begins_again_before_it_ends_goes_on():
    often = by_cron("*/10 * * * *", "15m")
    assert open_until(often, at("2026-12-08T20:09")) == at("2026-12-08T20:15")
    assert open_until(often, at("2026-12-08T20:11")) == at("2026-12-08T20:25")


def test_the_next_ones_come_in_order_the_open_one_first():
    move = Window.model_validate(
        {"name": "move", "from": "2026-12-07T12:00", "to": "2026-12-07T13:00", "timezone": "Europe/Berlin"}
    )  # fmt: skip
    over = Window.model_validate({"name": "over", "from": "2026-11-07T12:00Z", "to": "2026-11-07T13:00Z"})  # fmt: skip
    windows = [weekly(days=["sun"]), by_cron("0 20 8 * *"), move, over]
    found = [(s.window.name, s.start) for s in upcoming(windows, at("2026-12-06T03:00"), 5)]
    assert found == [
        ("patch", at("2026-12-06T02:00")), ("move", at("2026-12-07T12:00")), ("patch", at("2026-12-08T20:00")),
        ("patch", at("2026-12-13T02:00")), ("patch", at("2026-12-20T02:00")),
    ]  # fmt: skip
    assert upcoming([over], at("2026-12-06T03:00"), 5) == []


@given(
    st.sampled_from(["02:00", "02:30", "03:15", "23:50"]),
    st.sets(st.sampled_from(["mon", "wed", "sat", "sun"])),
    st.integers(15, 3000),
    st.sampled_from(["2026-03-29T02:00", "2026-10-25T02:00", "2026-07-01T02:00"]),
    st.integers(-4000, 4000),
)
def test_a_window_is_open_for_as_long_as_it_lasts_whatever_the_clock_does(
    begins, days, lasts, near, minutes
):
    """Weekly and by cron the same; open just when one of the listed spans says so."""
    window = weekly(at=begins, days=sorted(days), lasts=f"{lasts}m")
    hour, minute = map(int, begins.split(":"))
    same = by_cron(f"{minute} {hour} * * {','.join(sorted(days)) or '*'}", f"{lasts}m")
    now = at(near) + 60.0 * minutes
    spans = upcoming([window], now - 8 * 86_400, 40)
    assert all(s.end - s.start == 60.0 * lasts for s in spans)
    inside = [s.end for s in spans if s.start <= now < s.end]
    assert open_until(window, now) == open_until(same, now) == max(inside, default=None)
