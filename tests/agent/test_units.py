import re

import pytest
from pydantic import TypeAdapter, ValidationError

from agent.units import (
    Bytes,
    Duration,
    Quantity,
    Ratio,
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
