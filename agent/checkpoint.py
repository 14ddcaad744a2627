"""State of arrays as one checked piece of bytes, so that a restart goes on where the last run stood.

    "HSCK" | length of the head u32 | crc32 of head and body u32 | head: JSON | body: the arrays, one after another

No pickle: what is read can hold numbers, and nothing that runs. Integers are little-endian.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.errors import Refused

_MAGIC: Final = b"HSCK"
_FRONT: Final = struct.Struct("<4sII")
_PLAIN: Final = frozenset("biuf")

Arrays = Mapping[str, npt.NDArray[Any]]


def write(kind: str, version: int, meta: Any, arrays: Arrays) -> bytes:
    """Return `meta` (JSON-able) and `arrays` (numbers and bools of any shape) as bytes.

    kind, version   say what it is: `read` wants the same
    """
    places: list[list[Any]] = []
    body = bytearray()
    for name, array in arrays.items():
        if array.dtype.kind not in _PLAIN:
            raise TypeError(f"array {name} of {kind} holds {array.dtype}, only numbers can be kept")
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        places.append([name, little.dtype.str, list(array.shape), len(body)])
        body += little.tobytes()
    head = json.dumps({"kind": kind, "version": version, "meta": meta, "arrays": places}).encode()
    checked = zlib.crc32(bytes(body), zlib.crc32(head))
    return _FRONT.pack(_MAGIC, len(head), checked) + head + bytes(body)


def read(kind: str, version: int, data: bytes) -> tuple[Any, dict[str, npt.NDArray[Any]]]:
    """Return what `write` was given; the arrays are copies and may be changed.

    Raises Refused when the bytes are damaged, of another kind, or of another version.
    """
    try:
        magic, size, checked = _FRONT.unpack_from(data)
        rest = data[_FRONT.size :]
        if magic != _MAGIC or size > len(rest) or zlib.crc32(rest) != checked:
            raise Refused(f"state of {kind} is damaged: it is learnt anew")
        head = json.loads(rest[:size])
        if (head["kind"], head["version"]) != (kind, version):
            raise Refused(
                f"state of {head['kind']} version {head['version']} is not {kind} version {version}:"
                " it is learnt anew"
            )
        arrays = {
            str(name): np.frombuffer(
                rest, dtype=_dtype(text), count=math.prod(shape), offset=size + at
            )
            .reshape(shape)
            .astype(_dtype(text).newbyteorder("="))
            for name, text, shape, at in head["arrays"]
        }
        return head["meta"], arrays
    except (struct.error, KeyError, TypeError, ValueError) as damage:
        raise Refused(f"state of {kind} is damaged ({damage}): it is learnt anew") from None


def _dtype(text: Any) -> np.dtype[Any]:
    dtype = np.dtype(str(text))
    if dtype.kind not in _PLAIN:
        raise ValueError(f"a state holds {dtype}")
    return dtype
