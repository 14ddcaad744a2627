"""Columns of cells say what a plain dictionary for each histogram says; many messages at once what each says alone."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_side import part, varint

from connectors._otlp_cells import Cells, Shelf
from connectors._otlp_fields import Fields, packed
from connectors._otlp_wire import fields

# of one histogram: scale, first bucket above 0 and its counts, the same below 0, and what counted as 0
counts = st.lists(st.integers(0, 5), max_size=6)
histogram = st.tuples(
    st.integers(-2, 4), st.integers(-40, 40), counts, st.integers(-40, 40), counts, st.integers(0, 3)
)  # fmt: skip
histograms = st.lists(histogram, min_size=1, max_size=5)


def cells(some) -> Cells:
    sides = [(i, way, h[at]) for i, h in enumerate(some) for way, at in ((1, 1), (-1, 3))]
    told = [h[at] for h in some for at in (2, 4)]
    return Cells.of(
        np.array([h[0] for h in some]), np.array([float(h[5]) for h in some]), np.array(sides),
        np.array([len(one) for one in told], dtype=np.int64), np.array([float(n) for one in told for n in one]),
    )  # fmt: skip


def plain(h) -> dict[tuple[int, int], int]:
    """Of what holds something: sign and bucket."""
    _, over, high, under, low, zero = h
    found = {(0, 0): zero} | {(1, over + i): n for i, n in enumerate(high)}
    return {k: n for k, n in (found | {(-1, under + i): n for i, n in enumerate(low)}).items() if n}


def lowered(found, by: int):
    out: dict[tuple[int, int], int] = {}
    for (sign, i), n in found.items():
        out[sign, i >> by if sign else 0] = out.get((sign, i >> by if sign else 0), 0) + n
    return out


def bounds(found, scale: int) -> list[tuple[float, float, float]]:
    """Buckets in the order of their values."""
    edges = [
        (*sorted((sign * 2.0 ** (i * 2.0**-scale), sign * 2.0 ** ((i + 1) * 2.0**-scale))), float(n))
        for (sign, i), n in found.items()
    ]  # fmt: skip
    return sorted(edges)


def read(one: Cells, row: int):
    return [tuple(b) for b in one.buckets(row).tolist()]


def approx(some):
    return [pytest.approx(b, rel=1e-9) for b in some]


@given(histograms)
def test_cells_are_the_buckets_that_hold_something_in_order(some):
    one = cells(some)
    for i, h in enumerate(some):
        assert read(one, i) == approx(bounds(plain(h), h[0]))
        assert one.totals()[i] == sum(plain(h).values())


@given(st.data(), histograms, st.sampled_from([1.0, -1.0]))
def test_they_are_added_and_subtracted_at_the_lower_scale(data, some, sign):
    others = [data.draw(histogram) for _ in some]
    both = cells(some).plus(cells(others), np.full(len(some), sign))
    for i, (h, g) in enumerate(zip(some, others, strict=True)):
        scaled = [one[0] for one in (h, g) if any(k[0] for k in plain(one))]
        scale = min(scaled, default=0)
        found = lowered(plain(h), max(0, h[0] - scale))
        for k, n in lowered(plain(g), max(0, g[0] - scale)).items():
            found[k] = found.get(k, 0) + sign * n
        assert read(both, i) == approx(bounds({k: n for k, n in found.items() if n > 0}, scale))


@given(histograms)
def test_groups_hold_what_their_rows_hold_and_their_quantiles_stand_where_ranks_do(some):
    group = np.arange(len(some)) % 2
    merged = cells(some).grouped(group, 3)
    values = merged.quantiles([0.0, 0.5, 0.99, 1.0])
    for g in range(3):
        rows = [h for i, h in enumerate(some) if i % 2 == g]
        assert merged.totals()[g] == sum(sum(plain(h).values()) for h in rows)
        buckets = read(merged, g)
        if not buckets:
            assert np.isnan(values[g]).all()
            continue
        for q, value in zip((0.0, 0.5, 0.99, 1.0), values[g].tolist(), strict=True):
            rank, below = q * sum(n for *_, n in buckets), 0.0
            for low, high, n in buckets:
                if below + n >= rank:
                    assert low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high)
                    assert value == pytest.approx(low + (high - low) * (rank - below) / n)
                    break
                below += n


@given(st.lists(st.tuples(st.integers(0, 5), histogram), max_size=30))
def test_a_shelf_gives_back_what_was_put_there_last(puts):
    shelf, kept = Shelf(), {}
    shelf.grow(6)
    for row, h in puts:
        shelf.put(np.array([row]), cells([h]))
        kept[row] = h
    rows = np.array([5, 3, 4, 0, 1, 2])
    shelf.keep(rows)
    found = shelf.take(np.arange(6))
    for i, row in enumerate(rows.tolist()):
        h = kept.get(row)
        assert read(found, i) == (approx(bounds(plain(h), h[0])) if h else [])


def test_what_no_sender_means_is_refused():
    for bad in ((99, 0, [1], 0, [], 0), (-12, 0, [1], 0, [], 0), (0, 1 << 31, [1], 0, [], 0)):
        with pytest.raises(ValueError, match="of a histogram is out of bounds"):
            cells([bad])


# ---- many messages at once

number = st.tuples(st.sampled_from([1, 2, 17]), st.integers(0, (1 << 64) - 1))
piece = st.tuples(st.sampled_from([3, 4]), st.binary(max_size=200))
real = st.tuples(st.just(5), st.floats(allow_nan=False))
messages = st.lists(st.lists(number | piece | real, max_size=7), max_size=6)


def encoded(message) -> bytes:
    out = b""
    for tag, value in message:
        if isinstance(value, bytes):
            out += part(tag, value)
        elif isinstance(value, float):
            out += varint(tag << 3 | 1) + np.float64(value).tobytes()
        else:
            out += varint(tag << 3) + varint(value)
    return out


@given(messages)
def test_the_fields_of_many_messages_are_those_of_each(some):
    bodies = [encoded(one) for one in some]
    end = np.cumsum([len(one) for one in bodies], dtype=np.int64)
    begin = end - np.array([len(one) for one in bodies], dtype=np.int64)
    whole = b"".join(bodies)
    found = Fields(np.frombuffer(whole, dtype=np.uint8), begin, end)
    for i, body in enumerate(bodies):
        alone = list(fields(memoryview(body)))
        for tag in (1, 2, 17):
            said = [v for n, v in alone if n == tag]
            assert int(found.number(tag << 3)[i]) % (1 << 64) == (said[-1] if said else 0)
        of_five = [float(np.frombuffer(v)[0]) for n, v in alone if n == 5]
        value = found.eight(0x29, np.float64, math.nan)[i]
        assert value == of_five[-1] if of_five else np.isnan(value)
        for tag in (3, 4):
            spans = zip(*(x.tolist() for x in found.spans(tag << 3 | 2)), strict=True)
            assert [whole[b:e] for w, b, e in spans if w == i] == [v for n, v in alone if n == tag]
            wholes = zip(*(x.tolist() for x in found.wholes(tag << 3 | 2)), strict=True)
            assert b"".join(whole[b:e] for w, b, e in wholes if w == i) == b"".join(
                part(n, v) for n, v in alone if n == tag
            )


@given(st.lists(st.lists(st.integers(0, (1 << 64) - 1), max_size=5), min_size=1, max_size=5))
def test_packed_numbers_are_read_all_at_once(some):
    pieces = [b"".join(map(varint, one)) for one in some]
    end = np.cumsum([len(one) for one in pieces], dtype=np.int64)
    begin = end - np.array([len(one) for one in pieces], dtype=np.int64)
    values, many = packed(np.frombuffer(b"".join(pieces), dtype=np.uint8), begin, end)
    assert many.tolist() == [len(one) for one in some]
    assert values.tolist() == pytest.approx([float(n) for one in some for n in one])


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x0a\x05abc", "cut off"),
        (b"\x0b", "malformed"),
        (b"\x09abc", "cut off"),
        (b"\x08\x01" * 5000, "more than 4000 fields"),
        (b"\x08" + b"\xff" * 11, "malformed"),
        (b"\x0a" + b"\xff" * 9 + b"\x7f" + b"abc", "cut off"),
    ],
)
def test_what_is_no_message_is_refused(body, why):
    raw = np.frombuffer(body + bytes(20), dtype=np.uint8)
    with pytest.raises(ValueError, match=why):
        Fields(raw, np.array([0]), np.array([len(body)]))


def test_packed_numbers_that_are_cut_off_or_too_long_are_refused():
    for body, why in ((b"\x01\x80", "cut off"), (b"\x80" * 11 + b"\x01", "malformed")):
        raw = np.frombuffer(body, dtype=np.uint8)
        with pytest.raises(ValueError, match=why):
            packed(raw, np.array([0]), np.array([len(body)]))
