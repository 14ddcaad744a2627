"""The console as a person saw it in Chromium while five real faults came and were healed; its pictures are kept.

`HOMEOSTAT_PICTURES=docs/pictures` keeps those of the README, taken in this very run.
"""

import os
import shutil
from pathlib import Path

import pytest
from camera import FAULTS
from PIL import Image

KEPT = {
    "now": "now", "bad-release": "incident", "noisy-neighbour-dark": "incident-dark", "bad-release-phone": "phone",
    "explore": "explore", "models": "models", "playbooks": "playbooks", "audit": "audit",
}  # fmt: skip
MOST_BYTES = 150_000
SAYS = {
    "bad release": ("scoring", "replaced", "release"),
    "noisy neighbour": ("(pid ", "agent.demo.neighbour", "priority"),
    "traffic surge": ("scoring", "traffic is", "replica"),
    "unit change": ("feature", "contract"),
    "concept drift": ("scoring", "labels"),
}


@pytest.fixture
def seen(demo_run, needs):
    needs("chromium")
    assert demo_run["seen"]["error"] == ""
    return demo_run["seen"]


@pytest.mark.demo
def test_each_fault_was_seen_on_its_page_while_it_was_healed(seen):
    assert set(seen["incidents"]) == set(FAULTS.values())
    for fault, page in seen["incidents"].items():
        text = page["text"].lower()
        for part in (*SAYS[fault], "speaks for it", "incident opened", "what was done", "what it is not"):  # fmt: skip
            assert part in text, (fault, part)
        assert page["live"] == "live", fault
        assert page["ink"], fault
        assert all(n > 8 for n in page["ink"]), (fault, page["ink"])
        assert page["cause"], fault
        assert page["wide"] <= 1280, fault
    lit = {fault: page["lit"] for fault, page in seen["incidents"].items()}
    assert lit["noisy neighbour"] >= 1, lit
    assert all(page["phone"] <= 390 for page in seen["incidents"].values() if "phone" in page)


@pytest.mark.demo
def test_every_page_was_seen_with_what_really_happened_on_it(seen):
    pages = {name: page["text"] for name, page in seen["pages"].items()}
    assert set(pages) == {"now", "after", "models", "explore", "playbooks", "audit", "topology"}
    assert "compared" in pages["explore"]
    assert "scoring" in pages["models"]
    assert "helped" in pages["playbooks"]
    assert "holds; its last hash is" in pages["audit"]
    assert "1 helped" in pages["playbooks"]
    assert "it takes a day of watching" in pages["after"]


@pytest.mark.demo
def test_nothing_went_wrong_in_the_browser_and_nobody_else_was_asked(seen):
    assert seen["problems"] == []
    assert seen["strangers"] == []


@pytest.mark.demo
def test_pictures_are_whole_and_small(demo_run, seen):
    for name in KEPT:
        path = demo_run["pictures"] / f"{name}.png"
        with Image.open(path) as picture:
            assert len(picture.getcolors(1 << 20)) > 20, name
        assert path.stat().st_size < MOST_BYTES, (name, path.stat().st_size)
    if os.environ.get("HOMEOSTAT_PICTURES"):
        to = Path(os.environ["HOMEOSTAT_PICTURES"])
        to.mkdir(parents=True, exist_ok=True)
        for name, kept in KEPT.items():
            shutil.copy(demo_run["pictures"] / f"{name}.png", to / f"{kept}.png")
