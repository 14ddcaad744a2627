import re
import time
from datetime import datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from agent.units import (
    Bytes,
    Duration,
    Quantity,
    Ratio,
    Span,
    many,
    read_bytes,
    read_duration,
    read_moment,
    read_quantity,
    read_ratio,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("1h30m", 5400.0), (" 1h 30m ", 5400.0), ("250ms", 0.25), ("1.5d", 129_600.0)],
)
def test_durations(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "ts"), [("now", 1e9), ("15m", 1e9 - 900), ("15m ago", 1e9 - 900), ("-2h", 1e9 - 7200)]
)
def test_moments(text, ts):
    assert read_moment(text, 1e9) == ts


def test_sizes_shares_and_quantities():
    assert read_bytes("512MiB") == 2.0**29
    assert read_ratio("12.5 %") == 0.125
    assert [read_quantity(t) for t in ("10%", "250ms", "2GB", 3)] == [0.1, 0.25, 2e9, 3]


@pytest.mark.parametrize("read", [read_duration, read_bytes, read_ratio, read_quantity])
@pytest.mark.parametrize(
    "text",
    [
        "1s  " * 30 + "!",
        "1" * 200_000,
        "1s" * 100_000,
        " " * 200_000 + "x",
        "٣s",
        "",
        "s",
        "1",
        "-1s",
    ],
)
def test_what_is_none_is_refused_at_once_and_shortly(read, text):
    with pytest.raises(ValueError, match="write it like") as caught:
        read(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("kind", [Duration, Bytes, Ratio, Quantity])
@pytest.mark.parametrize("text", ["90s", "1h30m", "5 %", "2GB", "1 parsec", "1s!", "", "0.5"])
def test_the_schema_takes_the_texts_that_the_reader_takes(kind, text):
    reader = TypeAdapter(kind)
    patterns = [arm["pattern"] for arm in reader.json_schema()["anyOf"] if "pattern" in arm]
    try:
        reader.validate_python(text)
    except ValidationError:
        taken = False
    else:
        taken = True
    assert any(re.search(p, text) for p in patterns) is taken


@pytest.mark.parametrize("given", ["999999999d", "5220w", 1e12])
def test_a_duration_ends_while_clocks_can_show_it(given):
    with pytest.raises(ValidationError, match=r"hundred years|less than or equal"):
        TypeAdapter(Duration).validate_python(given)
    assert TypeAdapter(Duration).validate_python("5217w") == 5217 * 604_800


@pytest.fixture
def berlin(monkeypatch):
    """Let this host be in Berlin: local times are an hour, or two, before UTC."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("now", "2026-11-23T10:30:00+01:00"),
        ("15m", "2026-11-23T10:15:00+01:00"),
        ("-15m", "2026-11-23T10:15:00+01:00"),
        ("1h30m ago", "2026-11-23T09:00:00+01:00"),
        ("9:05", "2026-11-23T09:05:00+01:00"),
        ("10:30:00", "2026-11-23T10:30:00+01:00"),
        ("10:30:01", "2026-11-22T10:30:01+01:00"),  # not yet today
        ("yesterday 09:05", "2026-11-22T09:05:00+01:00"),
        ("yesterday 23:05", "2026-11-22T23:05:00+01:00"),
        ("2026-11-23 08:00:05", "2026-11-23T08:00:05+01:00"),  # as the day is written in answers
        ("2026-07-01T08:00", "2026-07-01T08:00:00+02:00"),
        ("2026-11-23T08:00:00Z", "2026-11-23T08:00:00+00:00"),
        ("1764000000", "2025-11-24T16:00:00+00:00"),
        ("1764000000000", "2025-11-24T16:00:00+00:00"),
        ("1764000000000000000", "2025-11-24T16:00:00+00:00"),
    ],
)
def test_moments_as_people_write_them(text, meant):
    now = datetime.fromisoformat("2026-11-23T10:30:00+01:00").timestamp()
    assert read_moment(text, now) == datetime.fromisoformat(meant).timestamp()


@pytest.mark.parametrize(
    "text", ["yesterday", "25:00", "9:5", "tomorrow 9:05", "²", "1.2.3", "", ".", "soon " * 1000]
)
def test_what_is_no_moment_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"not a time: .*; write 15m") as caught:
        read_moment(text, 1e9)
    assert len(str(caught.value)) < 150


def test_one_is_one_and_all_else_is_many():
    assert [many(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert many(20_000, "entry waits", "entries wait") == "20,000 entries wait"
    assert many(1, "entry waits", "entries wait") == "1 entry waits"


def test_a_span_is_never_none():
    assert TypeAdapter(Span).validate_python("250ms") == 0.25
    for none in ("0s", 0, "0h0m"):
        with pytest.raises(ValidationError, match="greater than 0"):
            TypeAdapter(Span).validate_python(none)
