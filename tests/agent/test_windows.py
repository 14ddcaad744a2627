from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from agent.config import Window, load
from agent.errors import ConfigError
from agent.windows import open_until


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
