"""Every registered group view x every check of its contract; a new one is checked by being registered."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from agent import registry
from agent.testing import Check, _state, check_view

registry.load()

EXEMPT: dict[tuple[str, str], str] = {}
"""(view, check) -> why, in words."""


def make(name: str, of):
    cls = registry.view.get(name)
    return cls(cls.Config(), of)


def checks() -> Iterator[tuple[str, Check]]:
    for name in registry.view:
        yield from ((name, check) for check in check_view(functools.partial(make, name)))


@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(
            name, check, id=f"{name}-{check.name}",
            marks=[pytest.mark.long] if check.name == "many_series" else [],
        )
        for name, check in checks()
    ],
)  # fmt: skip
async def test_view(name, check):
    if (name, check.name) not in EXEMPT:
        await check.run()
        return
    assert await check.fault() is not None, f"{name} keeps {check.name}: its exemption can go"


@pytest.mark.parametrize("name", list(registry.view))
async def test_each_of_ten_thousand_series_takes_no_more_than_it_may(name, monkeypatch):
    """With ten times as many it is one of the long ones above."""
    monkeypatch.setattr(_state, "_SIZES", _state._SIZES[:-1])
    found = {check.name: check for check in check_view(functools.partial(make, name))}
    await found["many_series"].run()


def test_every_exemption_has_its_reason_and_its_view():
    assert set(EXEMPT) <= {(name, check.name) for name, check in checks()}
    assert all(len(reason.split()) > 5 for reason in EXEMPT.values())
