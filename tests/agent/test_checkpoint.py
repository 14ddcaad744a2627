"""What goes in comes out, or is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import checkpoint
from agent.errors import Refused

ARRAYS = {
    "empty": np.zeros((0, 3)),
    "one": np.array(7, dtype=np.int16),
    "bools": np.array([[True], [False]]),
    "big-endian": np.arange(5, dtype=">u8"),
    "not in one piece": np.arange(12.0).reshape(3, 4)[:, ::2],
    "nan": np.array([np.nan, np.inf], dtype=np.float32),
}


def test_what_goes_in_comes_out():
    meta, arrays = checkpoint.read("k", 2, checkpoint.write("k", 2, {"a": [1, None]}, ARRAYS))
    assert meta == {"a": [1, None]}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].shape == array.shape
        assert arrays[name].dtype.kind == array.dtype.kind
        assert arrays[name].flags.writeable


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_refused(at, change):
    data = bytearray(checkpoint.write("k", 1, None, {"x": np.arange(100.0)}))
    data[at % len(data)] ^= change
    with pytest.raises(Refused, match="learnt anew"):
        checkpoint.read("k", 1, bytes(data))


@given(st.binary(max_size=300))
def test_noise_is_refused(data):
    with pytest.raises(Refused, match="learnt anew"):
        checkpoint.read("k", 1, data)


@pytest.mark.parametrize(("kind", "version"), [("other", 1), ("k", 2)])
def test_another_kind_or_version_is_refused(kind, version):
    with pytest.raises(Refused, match="is not"):
        checkpoint.read(kind, version, checkpoint.write("k", 1, None, {}))


def test_objects_are_not_kept():
    with pytest.raises(TypeError, match="only numbers"):
        checkpoint.write("k", 1, None, {"x": np.array([object()])})
