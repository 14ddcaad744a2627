"""Every registered detector x every check of its contract; a new one is checked by being registered.

One that is trained gets a model of ordinary rows, as a worker would have made it. An exemption stands in `EXEMPT` with
its reason in words; one that is no longer needed fails too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest

from agent import registry
from agent.ports import Trainable
from agent.testing import Check, _state, check_detector

registry.load()

_NOT_KNOWN = "its model does not know new series, and says nothing of them until the next one"
_MOVES = "its model was made of series that move: standing still elsewhere is abnormal to it"
_ALONE = "it judges combinations: a series that is alone has none"
TRAINED = {"conv", "isolation_forest", "pca", "seasonal"}
EXEMPT: dict[tuple[str, str], str] = {
    **{(name, "remap_new"): _NOT_KNOWN for name in sorted(TRAINED)},
    ("seasonal", "constant_is_quiet"): _MOVES,
    ("isolation_forest", "distrust"): _ALONE,
}  # fmt: skip

JOINT = {"conv", "isolation_forest", "pca"}
"""They judge a series by the others of its source: that is what they are for."""

DETECTORS = {name: registry.detector.get(name) for name in registry.detector}
SETTINGS = {
    "conv": {"hidden": 4, "epochs": 2},
    "isolation_forest": {"trees": 32},
    "seasonal": {"slot": 1.0, "period": 60.0},
}
_MODELLED = 10
"""Series that a model is made of when there are thousands: the others are unknown to it, and kept all the same."""
_WIDEST = 100
"""With more series than this a model would take long to make."""


@functools.cache
def trained(name: str, n: int) -> bytes:
    """Return a model of n series of noise, 50 +- 1; with a rhythm for the detector that wants one."""
    cls = DETECTORS[name]
    config = cls.Config(**SETTINGS.get(name, {}))
    rows = 400 if name == "seasonal" else 2000
    ts = np.arange(rows) + 1_690_000_000.0
    values = 50.0 + np.random.default_rng(7).normal(size=(n, rows)).T
    if name == "seasonal":
        # the same for each column, as it promises that columns do not know each other
        values = np.tile(values[:, :1] + 2.0 * np.sin(2 * np.pi * ts / 60.0)[:, None], (1, n))
    return cls.train(config, ts, values)


def make(name: str, n: int):
    cls = DETECTORS[name]
    made = cls(cls.Config(**SETTINGS.get(name, {})), n)
    if n and isinstance(made, Trainable):
        known = n if n <= _WIDEST else _MODELLED
        column = np.arange(n)
        made.take(trained(name, known), np.where(column < known, column, -1))
    return made


def checks() -> Iterator[tuple[str, Check]]:
    for name, cls in DETECTORS.items():
        # a model knows where its series are: what is moved from there is abnormal to it, and so it should be
        promises = not isinstance(cls(cls.Config(), 0), Trainable)
        found = check_detector(
            functools.partial(make, name), shift=promises, scale=promises, alone=name not in JOINT
        )
        yield from ((name, check) for check in found)


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name, check, id=f"{name}-{check.name}",
            marks=[pytest.mark.long] if name in TRAINED or check.name == "many_series" else [],
        )
        for name, check in checks()
    ],
)  # fmt: skip
async def test_detector(name, check):
    if (name, check.name) not in EXEMPT:
        await check.run()
        return
    assert await check.fault() is not None, f"{name} keeps {check.name}: its exemption can go"


@pytest.mark.parametrize("name", sorted(DETECTORS.keys() - TRAINED))
async def test_each_of_ten_thousand_series_takes_no_more_than_it_may(name, monkeypatch):
    """With ten times as many it is one of the long ones above."""
    monkeypatch.setattr(_state, "_SIZES", _state._SIZES[:-1])
    found = {check.name: check for check in check_detector(functools.partial(make, name))}
    await found["many_series"].run()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.long] if n == "conv" else []) for n in sorted(JOINT)],
)
async def test_what_promises_less_does_need_to(name):
    found = {check.name: check for check in check_detector(functools.partial(make, name))}
    assert await found["columns_are_alone"].fault() is not None


def test_every_exemption_has_its_reason_and_its_detector():
    known = {(name, check.name) for name, check in checks()}
    assert set(EXEMPT) <= known
    assert all(len(reason.split()) > 5 for reason in EXEMPT.values())
