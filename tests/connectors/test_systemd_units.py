"""Units of systemd, by a script that answers as `systemctl show` does: this suite runs where systemd is not PID 1."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from agent.catalogue import SIGNALS
from agent.errors import Unavailable
from agent.model import Frame, Series
from agent.ports import Abilities, Source
from agent.rates import Rates
from connectors._proc import this_host
from connectors.units import Units


class World:
    """A folder whose file `said` is what systemctl says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        script = folder / "systemctl"
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {folder}/asked\n. {folder}/first\ncat {folder}/said\n'
        )
        script.chmod(0o755)
        (folder / "first").write_text("")
        self.units(nginx=("active", 0), backup=("failed", 0), cron=("active", 0))

    def units(self, **states: tuple[str, int]) -> None:
        blocks = [
            f"Id={u}.service\nActiveState={s}\nNRestarts={n}\n" for u, (s, n) in states.items()
        ]
        blocks.append("Id=data.mount\nActiveState=active\n")
        (self.folder / "said").write_text("\n".join(blocks))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def source(world: World) -> Units:
    return Units(
        "units", Units.Config(systemctl=str(world.folder / "systemctl"), booted=world.folder)
    )


def value(frame: Frame, metric: str, **label: str) -> float:
    return float(
        frame.values[frame.series.index(Series(metric, this_host(), tuple(label.items())))]
    )


def known(frame: Frame, metric: str) -> set[str]:
    return {dict(s.labels)["unit"] for s in frame.series if s.metric == metric}


async def test_states_are_counted_and_who_failed_is_named(source: Units, world: World):
    assert isinstance(source, Source)
    assert isinstance(source, Abilities)
    frame = await source.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert {s.metric for s in frame.series} <= SIGNALS.keys()
    assert value(frame, "host.units_count", state="active") == 3.0
    assert value(frame, "host.units_count", state="failed") == 1.0
    assert value(frame, "host.units_count", state="activating") == 0.0
    assert value(frame, "host.unit_failed", unit="backup.service") == 1.0
    assert known(frame, "host.unit_failed") == {"backup.service"}
    assert (await source.poll()).series is frame.series
    (asked, *_) = (world.folder / "asked").read_text().splitlines()
    assert asked.startswith(
        "--no-pager show --all --property=Id,ActiveState,NRestarts -- *.service"
    )


async def test_who_failed_and_is_well_again_stays_until_it_is_gone(source: Units, world: World):
    await source.poll()
    world.units(nginx=("active", 0), backup=("active", 0))
    assert value(await source.poll(), "host.unit_failed", unit="backup.service") == 0.0
    world.units(nginx=("active", 0))
    assert known(await source.poll(), "host.unit_failed") == set()


async def test_restarts_are_a_rate(source: Units, world: World):
    rates = Rates()
    world.units(web=("active", 1))
    first = rates.apply(await source.poll())
    await asyncio.sleep(0.06)  # what is read again at once has no rate
    assert np.isnan(value(first, "host.unit_restarts_per_second", unit="web.service"))
    world.units(web=("activating", 4))
    second = rates.apply(await source.poll())
    assert value(second, "host.unit_restarts_per_second", unit="web.service") > 0
    assert "data.mount" not in known(second, "host.unit_restarts_per_second")


async def test_without_systemd_it_is_silent_and_asks_nobody(world: World, tmp_path: Path):
    source = Units(
        "units", Units.Config(systemctl=str(world.folder / "systemctl"), booted=tmp_path / "no")
    )
    assert (await source.poll()).series == ()
    assert "not the first process" in (await source.describe())[0]
    assert not (world.folder / "asked").exists()


async def test_a_systemd_that_does_not_answer_is_unavailable(source: Units, world: World):
    (world.folder / "first").write_text("echo Failed to connect to bus; exit 1\n")
    with pytest.raises(Unavailable, match="Failed to connect to bus"):
        await source.poll()
    (world.folder / "first").write_text("exec sleep 60\n")
    source.config = source.config.model_copy(update={"timeout": 0.3})
    with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        await source.poll()
    source.config = source.config.model_copy(update={"systemctl": "/no/such/systemctl"})
    with pytest.raises(Unavailable, match="can not be run"):
        await source.poll()


async def test_garbage_is_no_unit(source: Units, world: World):
    (world.folder / "said").write_bytes(b"\xff\xfe=\n\nId=\n\nActiveState=active\n\nx\n=\n")
    frame = await source.poll()
    assert float(np.nansum(frame.values)) == 0.0


async def test_describe_names_who_failed(source: Units):
    states, failed = await source.describe()
    assert states == "units: 3 active, 1 failed"
    assert failed == "failed: backup.service"
