import csv
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from agent.cli.replay import series
from agent.errors import Refused
from agent.rows import from_file

P95 = "service.latency_p95_seconds{service:shop}"
UP = "service.up{service:shop}"
TIMES = [1_764_000_000, 1_764_000_010, 1_764_000_020]


def read(path):
    return from_file(path, series, most_bytes=1e6)


def table(path, times, head=("ts", P95), value=0.1):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(head)
        out.writerows([ts, *[value] * (len(head) - 1)] for ts in times)
    return path


def at(ts, zone=UTC):
    return datetime.fromtimestamp(ts, zone)


@pytest.mark.parametrize(
    "write",
    [
        str, lambda ts: f"{ts}.0", lambda ts: ts * 10**3, lambda ts: ts * 10**6, lambda ts: ts * 10**9,
        lambda ts: at(ts).isoformat(),
        lambda ts: at(ts).strftime("%Y-%m-%dT%H:%M:%SZ"),
        lambda ts: at(ts).strftime("%Y-%m-%d %H:%M:%S"),
        lambda ts: at(ts, timezone(timedelta(hours=2))).isoformat(" "),
    ],
)  # fmt: skip
def test_times_of_a_csv_file_in_all_their_forms(tmp_path, write):
    assert read(table(tmp_path / "x.csv", map(write, TIMES))).ts.tolist() == TIMES


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_timestamps_of_a_parquet_file(tmp_path, unit, zone):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    many = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    ts = pa.array([ts * many for ts in TIMES]).cast(pa.timestamp(unit, tz=zone))
    values = pa.array([0.1, None, 0.3])
    parquet.write_table(
        pa.table({P95: values, "ts": ts, UP: [True, True, False]}), tmp_path / "x.parquet"
    )
    found = read(tmp_path / "x.parquet")
    assert found.ts.tolist() == TIMES
    np.testing.assert_array_equal(found.values, [[0.1, 1], [np.nan, 1], [0.3, 0]])


@pytest.mark.parametrize("kind", ["int64", "float64", "string"])
def test_other_times_of_a_parquet_file(tmp_path, kind):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    ts = [at(ts).isoformat() for ts in TIMES] if kind == "string" else [ts * 10**9 for ts in TIMES]
    ts = [float(one) for one in ts] if kind == "float64" else ts
    made = pa.table({"ts": pa.array(ts, kind), P95: [0.1, 0.2, 0.3]})
    parquet.write_table(made, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet").ts.tolist() == TIMES


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty"),
        (f"ts,{P95}\n", "there is no row below"),
        (
            f"Timestamp,{P95}\n1,2\n",
            f"no column `ts`: its columns are `Timestamp`, `{P95}`; call the one",
        ),
        (f"ts;{P95}\n1;2\n", f"its columns are `ts;{P95}`"),
        (f"ts,{P95}\n1,2\n\n3,N/A\n", f"line 4: column `{P95}`: 'N/A' is no number; leave empty"),
        (
            f"ts,{P95}\n11/23/2026 14:00,2\n",
            "line 2: column `ts`: '11/23/2026 14:00' is no time; write unix",
        ),
        (f"ts,{P95}\n1,2\n2,3,4\n", "line 3: 3 cells below 2 names"),
        (f"ts,{P95}\n1,2\n,3\n", "row 2 has no `ts`"),
        (
            f"ts,{P95}\n1,2\n2,3\n2,4\n",
            "row 3 is of 2 as the row before; keep one row of each moment",
        ),
        (f"ts,{P95}\n5,2\n7,3\n6,4\n", "row 3 is of 6, the row before it of 7; sort the rows"),
        (f"ts,{P95},{P95}\n1,2,3\n", f"`{P95}` is there twice"),
        (f"ts,{P95},ts\n1,2,3\n", "`ts` is there twice"),
        ("ts,service.latency_p95_seconds\n1,2\n", "does not say whose it is"),
        ("ts,service.up{host:a}\n1,2\n", "service.up is of a service"),
        (
            "ts,service.upp{service:a},comment\n1,2,well\n",
            "no signal is called `service.upp{service:a}`, did you mean `service.up`?, no signal is called `comment`",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place(tmp_path, text, says):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(Refused) as caught:
        read(path)
    assert says in str(caught.value), str(caught.value)


def test_a_file_that_is_no_parquet(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    for content in (b"", b"hello", b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(Refused, match="can not be read as parquet"):
            read(path)
    parquet.write_table(pa.table({"ts": TIMES, P95: ["a", "b", "c"]}), path)
    with pytest.raises(Refused, match=r"column `service.latency.*` holds no numbers"):
        read(path)
