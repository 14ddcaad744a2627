"""How the past lies on disk: records that are complete or ignored, blocks of compressed columns.

A record is `magic, kind, length, crc32 of the payload, t0, t1, crc32 of this head` and its payload, so it is
complete or it is ignored. Columns are float32 where rounding stays below 1e-6 of the value and below 1/1000 of what
the column moved within the block, and float64 elsewhere; coded as differences of their bits, bytes of equal weight
together, zlib. A column that did not change takes 8 bytes. All integers are little-endian. Cost: about 30 us a column
of 600 rows to write, 15 us to read.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from agent.model import Entity, FloatArray, IntArray, Series

_HEAD: Final = struct.Struct("<4sBIIdd")
_HEAD_CRC: Final = struct.Struct("<I")
HEAD_SIZE: Final = _HEAD.size + _HEAD_CRC.size
_MAGIC: Final = b"HSM1"
NAMES: Final = 1
BLOCK: Final = 2
ROWS: Final = 3

ROW_HEAD: Final = struct.Struct("<HII")
"""Of rows in a log: length of the source's name, rows, series."""
_PART: Final = struct.Struct("<HIII")
_CONSTANT: Final = 0
_NARROW: Final = 1
_WIDE: Final = 2

Key = tuple[str, Series]
"""A series of one source."""


@dataclass(slots=True)
class Block:
    """Where one block lies in its file, and the first row number of each source when we wrote it ourselves."""

    offset: int
    length: int
    t0: float
    t1: float
    rows: dict[str, int] = field(default_factory=dict)


def record(kind: int, payload: bytes, t0: float = 0.0, t1: float = 0.0) -> bytes:
    """Return the payload with its head."""
    head = _HEAD.pack(_MAGIC, kind, len(payload), zlib.crc32(payload), t0, t1)
    return head + _HEAD_CRC.pack(zlib.crc32(head)) + payload


def records(fd: int, size: int, *, check: bool) -> Iterator[tuple[int, int, int, float, float]]:
    """Walk over complete records: (kind, offset of the payload, its length, t0, t1); stops at the first torn one.

    check   also read every payload and compare its crc; without it only the last one is read
    """
    at = 0
    while at + HEAD_SIZE <= size:
        raw = os.pread(fd, HEAD_SIZE, at)
        if len(raw) < HEAD_SIZE or _HEAD_CRC.unpack_from(raw, _HEAD.size)[0] != zlib.crc32(
            raw[: _HEAD.size]
        ):
            return
        magic, kind, length, crc, t0, t1 = _HEAD.unpack_from(raw)
        end = at + HEAD_SIZE + length
        if magic != _MAGIC or end > size:
            return
        last = end + HEAD_SIZE > size
        if (check or last) and zlib.crc32(os.pread(fd, length, at + HEAD_SIZE)) != crc:
            return
        yield kind, at + HEAD_SIZE, length, t0, t1
        at = end


def write(fd: int, data: bytes, at: int) -> None:
    """Write all of it at `at`; a torn try before it is simply written over. Raises OSError."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def pack_names(fresh: Sequence[tuple[Key, int]]) -> bytes:
    """Numbers of series in one file, as the payload of a record."""
    rows = [
        [number, source, one.metric, one.entity.kind, one.entity.key, one.labels]
        for (source, one), number in fresh
    ]
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), 6)


def unpack_names(payload: bytes) -> dict[Key, int]:
    """Read it again; raises zlib.error or ValueError when it is damaged."""
    return {
        (source, Series(metric, Entity(kind, key), tuple((k, v) for k, v in labels))): number
        for number, source, metric, kind, key, labels in json.loads(zlib.decompress(payload))
    }


def unpack_rows(payload: bytes) -> tuple[str, IntArray, FloatArray, FloatArray]:
    """Read the rows of a log: their source, numbers of the series (n,), ts (k,), values (k, n)."""
    size, k, n = ROW_HEAD.unpack_from(payload)
    at = ROW_HEAD.size + size
    source = payload[ROW_HEAD.size : at].decode()
    ids = np.frombuffer(payload, "<u4", n, at).astype(np.int64)
    ts = np.frombuffer(payload, "<f8", k, at + 4 * n)
    return source, ids, ts, np.frombuffer(payload, "<f8", k * n, at + 4 * n + 8 * k).reshape(k, n)


def pack_part(
    source: str, ts: FloatArray, ids: IntArray, groups: Iterable[FloatArray]
) -> tuple[bytes, bytes]:
    """Return head and body of one source in a block.

    ts (k,); ids (n,) ascending; groups: the columns (some, k) in the order of ids, a few at a time, so that a block
    of a thousand series does not stand in memory twice
    """
    # Time is never rounded.
    kinds, bodies = [_WIDE], [zlib.compress(_planes(ts[None].view(np.uint64))[0].tobytes(), 1)]
    for columns in groups:
        for kind, data in _code(columns):
            kinds.append(kind)
            bodies.append(data)
    label = source.encode()
    body = b"".join(bodies)
    sizes = np.array([len(data) for data in bodies], "<u4").tobytes()
    head = _PART.pack(len(label), len(ts), len(ids), len(body)) + label
    return head + ids.astype("<u4").tobytes() + bytes(kinds) + sizes, body


def pack_block(generation: int, parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the payload of a block: all sources of one stretch of time."""
    head = struct.pack("<II", generation, len(parts)) + b"".join(head for head, _ in parts)
    front = struct.pack("<II", len(head), zlib.crc32(head))
    return b"".join((front, head, *(body for _, body in parts)))


def generation_of(fd: int, offset: int) -> int:
    """Return the number of the log whose rows a block holds."""
    generation: int = struct.unpack("<I", os.pread(fd, 4, offset + 8))[0]
    return generation


def _code(columns: FloatArray) -> Iterator[tuple[int, bytes]]:
    """Columns (n, k) -> (kind, bytes) each; see the top of the file."""
    bits = columns.view(np.uint64)
    moves = (bits != bits[:, :1]).any(axis=1)
    moving = columns[moves]
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = moving.astype(np.float32)
        span = np.fmax.reduce(moving, axis=1) - np.fmin.reduce(moving, axis=1)
        allowed = np.fmin(np.abs(moving) * 1e-6, span[:, None] * 1e-3)
        wide = (np.abs(moving - narrow) > allowed).any(axis=1)
    small = iter(_planes(narrow[~wide].view(np.uint32)))
    large = iter(_planes(moving[wide].view(np.uint64)))
    kinds = np.full(len(columns), _CONSTANT)
    kinds[moves] = np.where(wide, _WIDE, _NARROW)
    for i, kind in enumerate(kinds.tolist()):
        if kind == _CONSTANT:
            yield kind, bits[i, :1].tobytes()
        else:
            yield kind, zlib.compress(next(large if kind == _WIDE else small).tobytes(), 1)


def _planes(bits: npt.NDArray[np.uint32] | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Differences along a row (n, k), bytes of equal weight together: (n, bytes of one, k)."""
    steps = np.diff(bits, axis=1, prepend=bits.dtype.type(0))
    raw = steps.view(np.uint8).reshape(*bits.shape, bits.dtype.itemsize)
    return np.ascontiguousarray(raw.transpose(0, 2, 1))


def _decode(kind: int, data: bytes, k: int) -> FloatArray:
    """Read one column (k,) again; raises ValueError or zlib.error when it is damaged."""
    if kind == _CONSTANT:
        return np.full(k, np.frombuffer(data, np.uint64).view(np.float64)[0])
    raw = np.frombuffer(zlib.decompress(data), np.uint8)
    if kind == _NARROW:
        steps = np.ascontiguousarray(raw.reshape(4, k).T).view(np.uint32)[:, 0]
        return np.cumsum(steps, dtype=np.uint32).view(np.float32).astype(np.float64)
    steps64 = np.ascontiguousarray(raw.reshape(8, k).T).view(np.uint64)[:, 0]
    return np.cumsum(steps64, dtype=np.uint64).view(np.float64)


def read_block(
    fd: int, block: Block, wanted: dict[str, dict[int, int]]
) -> list[tuple[str, FloatArray, IntArray, FloatArray]]:
    """Read columns of a block. `wanted`: source -> {id in the file: column of the answer}.

    Raises ValueError, struct.error or zlib.error when it is damaged: head and columns carry their checksums.
    """
    size, crc = struct.unpack("<II", os.pread(fd, 8, block.offset))
    head = os.pread(fd, min(size, block.length), block.offset + 8)
    if zlib.crc32(head) != crc:
        raise ValueError("the head of a block is damaged")
    _, count = struct.unpack_from("<II", head)
    at, body = 8, block.offset + 8 + size
    out: list[tuple[str, FloatArray, IntArray, FloatArray]] = []
    for _ in range(count):
        length, k, n, body_size = _PART.unpack_from(head, at)
        at += _PART.size
        source = head[at : at + length].decode()
        at += length
        first, body = body, body + body_size
        ids = np.frombuffer(head, "<u4", n, at)
        kinds = head[at + 4 * n : at + 5 * n + 1]
        sizes = np.frombuffer(head, "<u4", n + 1, at + 5 * n + 1).astype(np.int64)
        at += 5 * n + 1 + 4 * (n + 1)
        if source not in wanted:
            continue
        _, here, there = np.intersect1d(
            ids,
            np.fromiter(wanted[source], np.int64),
            assume_unique=True,
            return_indices=True,
        )
        if not len(here):
            continue
        begin = first + np.cumsum(sizes) - sizes
        ts = _decode(kinds[0], os.pread(fd, int(sizes[0]), int(begin[0])), k)
        values = np.empty((k, len(here)))
        for j, column in enumerate((here + 1).tolist()):
            data = os.pread(fd, int(sizes[column]), int(begin[column]))
            values[:, j] = _decode(kinds[column], data, k)
        columns = np.fromiter(wanted[source].values(), np.int64)[there]
        out.append((source, ts, columns, values))
    return out
