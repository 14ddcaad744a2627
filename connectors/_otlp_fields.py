"""Many messages of protobuf read at once: the first field of all of them, then the second, and so on.

    Fields(body, begin, end).real(0x29)    # of each message its field 5, a double

Good for messages that are much alike, as points of one shape are: Python's work is that for the longest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from agent.model import FloatArray, IntArray
from connectors._otlp_cells import ragged

_MOST: Final = 4000
"""Fields of one message: where one has very many, reading it so would take long."""
MOST_PACKED: Final = 4_000_000
"""Each byte may be a number, which takes some fifty while it is worked with."""
_SIZES: Final = np.array([0, 8, 0, 0, 0, 4, 0, 0])
"""Of wire types; 0 and 2 say themselves."""
_KNOWN: Final = np.array([True, True, True, False, False, True, False, False])
_WORTH: Final = 128.0 ** np.arange(10)
"""Of a byte of a varint, by its place."""
_STEP: Final = np.arange(8)

Spans = tuple[IntArray, IntArray, IntArray]
"""Whose, begin and end, without tag and length."""


class Fields:
    """The fields of n messages, from `begin` to `end` (n,); raises ValueError or IndexError where they are none."""

    def __init__(self, raw: Any, begin: IntArray, end: IntArray) -> None:
        self.raw = raw
        self.n = len(begin)
        parts: dict[int, list[tuple[IntArray, ...]]] = {}
        at, alive = begin.copy(), np.flatnonzero(begin < end)
        for _ in range(_MOST):
            if not alive.size:
                break
            tag, first = _varints(raw, at[alive])
            kind = tag & 7
            if not _KNOWN[kind].all():
                raise ValueError("the message is malformed")
            stop = first + _SIZES[kind]
            said = np.flatnonzero((kind == 0) | (kind == 2))
            value, behind = _varints(raw, first[said])
            sized = kind[said] == 2
            first[said] = np.where(sized, behind, first[said])
            stop[said] = behind + np.where(sized, value, 0)
            if (stop > end[alive]).any() or (stop < first).any():
                raise ValueError("the message is cut off")
            for one in set(tag.tolist()):
                its = tag == one
                parts.setdefault(one, []).append(
                    (alive[its], first[its], stop[its], at[alive[its]])
                )
            at[alive] = stop
            alive = alive[stop < end[alive]]
        else:
            raise ValueError(f"a message of more than {_MOST} fields")
        self._parts = parts

    def spans(self, *tags: int) -> Spans:
        """Return where the fields of some tags stand, in the order of the messages."""
        whose, begin, end, _ = self._all(tags)
        return whose, begin, end

    def wholes(self, tag: int) -> Spans:
        """Return where fields stand with tag and length; those that follow each other as one."""
        whose, _, end, begin = self._all((tag,))
        begins = np.append(True, (begin[1:] != end[:-1]) | (whose[1:] != whose[:-1]))
        first = np.flatnonzero(begins[: len(whose)])
        last = np.append(first[1:], len(whose))[: len(first)] - 1
        return whose[first], begin[first], end[last]

    def _all(self, tags: Sequence[int]) -> Sequence[IntArray]:
        some = [part for tag in tags for part in self._parts.get(tag, ())]
        if not some:
            return (np.zeros(0, dtype=np.int64),) * 4
        if len(some) == 1:
            return some[0]
        whole = [np.concatenate(column) for column in zip(*some, strict=True)]
        order = np.lexsort((whole[1], whole[0]))
        return [column[order] for column in whole]

    def number(self, tag: int) -> IntArray:
        """Return a varint of each; 0 = not said."""
        out = np.zeros(self.n, dtype=np.int64)
        for whose, begin, *_ in self._parts.get(tag, ()):
            out[whose] = _varints(self.raw, begin)[0]
        return out

    def signed(self, tag: int) -> IntArray:
        """Return a zigzag varint of each; 0 = not said."""
        value = self.number(tag)
        return np.asarray((value >> 1) ^ -(value & 1))

    def eight(self, tag: int, kind: type = np.uint64, missing: float = 0.0) -> FloatArray:
        """Return a number of 8 bytes of each: unsigned, signed (np.int64) or a double (np.float64)."""
        out = np.full(self.n, missing)
        for whose, begin, *_ in self._parts.get(tag, ()):
            out[whose] = eight(self.raw, begin).view(kind)
        return out


def eight(raw: Any, at: IntArray) -> Any:
    """Return the 8 bytes that stand at each place, as unsigned numbers."""
    return np.ascontiguousarray(raw[at[:, None] + _STEP]).view("<u8").ravel()


def packed(raw: Any, begin: IntArray, end: IntArray) -> tuple[FloatArray, IntArray]:
    """Return the varints of spans, one after the other, and how many each span has."""
    size = end - begin
    if size.sum() > MOST_PACKED:
        raise ValueError(f"more than {MOST_PACKED} bytes of buckets at once; send them in parts")
    whole = raw[ragged(begin, size)]
    last = np.flatnonzero(whole < 0x80)
    ends = np.cumsum(size)
    if not (raw[end[size > 0] - 1] < 0x80).all():
        raise ValueError("the message is cut off")
    many = np.diff(np.searchsorted(last, ends), prepend=0)
    if len(last) == len(whole):
        return whole.astype(np.float64), many
    first = np.append(0, last[:-1] + 1)
    place = np.arange(len(whole)) - np.repeat(first, last - first + 1)
    if place.max() > 9:
        raise ValueError("the message is malformed")
    return np.add.reduceat((whole & 0x7F) * _WORTH[place], first), many


def _varints(raw: Any, at: IntArray) -> tuple[IntArray, IntArray]:
    """Return the varints that stand at each place, modulo 2 ** 64, and where each ends."""
    byte = raw[at].astype(np.int64)
    value, at = byte & 0x7F, at + 1
    more, shift = np.flatnonzero(byte >= 0x80), 7
    while more.size:
        if shift >= 70:
            raise ValueError("the message is malformed")
        byte = raw[at[more]].astype(np.int64)
        value[more] |= (byte & 0x7F) << shift
        at[more] += 1
        more, shift = more[byte >= 0x80], shift + 7
    return value, at
