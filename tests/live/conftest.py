"""What live tests share."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from browser import Browser
from daemon_process import Running
from desk_story import living


@pytest.fixture
def running(tmp_path):
    started: list[Running] = []

    def make(yaml: str = "", *, state: Path | None = None) -> Running:
        one = Running(tmp_path, yaml, state=state)
        started.append(one)
        return one

    yield make
    for one in started:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


# ---- the console


@pytest.fixture
def house(tmp_path):
    with living(tmp_path, now=time.time()) as made:
        yield made


@pytest.fixture(scope="module")
def chromium(needs, tmp_path_factory):
    made = Browser(needs("chromium"), tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture
def browser(chromium):
    """As if it were new: each house has an origin, and so a storage, of its own."""
    chromium.fresh()
    return chromium


@pytest.fixture
def page(house, browser):
    """The page is open; whatever the test does, nothing may go wrong in the browser or leave the house."""
    browser.open(house.url)
    yield browser
    if os.environ.get("HOMEOSTAT_SHOTS"):
        name = re.sub(r"\W+", "_", os.environ["PYTEST_CURRENT_TEST"].split("::")[1].split(" ")[0])
        browser.shot(Path(os.environ["HOMEOSTAT_SHOTS"]) / f"{name}.png")
    refused = [p for p in browser.problems if "401" not in p]  # a missing token is part of the game
    assert refused == []
    assert browser.asked
    assert all(url.startswith((house.url, "data:")) for url in browser.asked), browser.asked
