"""Every registered group view x every check of its contract; a new one is checked by being registered."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from agent import registry
from agent.testing import Check, check_view

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
    ("name", "check"), [pytest.param(name, check, id=f"{name}-{check.name}") for name, check in checks()]
)  # fmt: skip
async def test_view(name, check):
    if (name, check.name) not in EXEMPT:
        await check.run()
        return
    assert await check.fault() is not None, f"{name} keeps {check.name}: its exemption can go"


def test_every_exemption_has_its_reason_and_its_view():
    assert set(EXEMPT) <= {(name, check.name) for name, check in checks()}
    assert all(len(reason.split()) > 5 for reason in EXEMPT.values())
