"""The five faults of the demo as they were told in Slack (a stand-in): one message each, edited until it was over.

`HOMEOSTAT_PICTURES=docs/pictures` keeps pictures of them, as rendered by `slack_look`.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from browser import Browser
from PIL import Image
from slack_look import WIDTH, page, photograph, thread

SAYS = {"bad release": "release.model", "noisy neighbour": "host.neighbour", "traffic surge": "serving.saturation",
        "unit change": "data.contract", "concept drift": "concept.drift"}  # fmt: skip
KEPT = {"bad release": "slack-incident"}
MOST_BYTES = 150_000


@pytest.fixture
def slack(demo_run):
    if demo_run["slack"] is None:
        pytest.skip("needs the extra `slack`")
    return demo_run["slack"]


def told(slack, kind):
    """Return the messages that name a cause, in words or as its kind."""
    from agent.causes import words

    return [m for m in slack.parents if any(w in json.dumps(m) for w in (kind, words(kind)))]


def life(slack, parent):
    """Return a message as it stood while it was acted upon and as it ended, with what was told beneath it."""
    versions = slack.versions[parent["ts"]]
    drawn = [v for v in versions if any(b["type"] == "image" for b in v["blocks"])]
    acting = next((v for v in drawn if "act" in v["text"].rpartition("[")[2]), versions[0])
    shown = [thread(acting, [], slack.files)] if acting is not versions[-1] else []
    return [*shown, thread(parent, slack.replies(parent["ts"]), slack.files)]


@pytest.mark.demo
@pytest.mark.parametrize("fault", SAYS)
def test_each_fault_was_one_message_that_told_its_whole_life(slack, fault):
    messages = told(slack, SAYS[fault])
    assert messages, (fault, [m["text"] for m in slack.parents])
    assert any(m.get("edits", 0) >= 1 for m in messages)


@pytest.mark.demo
def test_few_messages_with_charts(slack):
    assert 5 <= len(slack.parents) <= 8, [m["text"] for m in slack.parents]
    pictures = [f["content"] for f in slack.files.values()]
    assert pictures
    assert all(p.startswith(b"\x89PNG") for p in pictures)


@pytest.mark.demo
def test_threads_can_be_read_and_pictures_of_them_are_small(slack, demo_run, needs):
    from agent.causes import words

    folder = demo_run["pictures"]
    folder.mkdir(parents=True, exist_ok=True)
    browser = Browser(needs("chromium"), folder, (WIDTH, 900))
    try:
        for fault, kind in SAYS.items():
            name = f"slack-{fault.replace(' ', '-')}"
            parent = max(told(slack, kind), key=lambda m: m.get("edits", 0))
            seen = photograph(browser, folder, name, page(life(slack, parent)))
            for part in (words(kind), "% sure", "since", "Tried", "resolved"):
                assert part in seen, (fault, part, seen)
            assert not re.search(r"&lt;|&amp;|!date|\bNone\b|\bnan\b", seen), (fault, seen)
            with Image.open(folder / f"{name}.png") as picture:
                assert len(picture.getcolors(1 << 16)) > 20, fault
            assert (folder / f"{name}.png").stat().st_size < MOST_BYTES, fault
        assert browser.problems == []
        assert all(u.startswith(("file:", "data:", "about:")) for u in browser.asked)
    finally:
        browser.close()
    if os.environ.get("HOMEOSTAT_PICTURES"):
        to = Path(os.environ["HOMEOSTAT_PICTURES"])
        to.mkdir(parents=True, exist_ok=True)
        for fault, kept in KEPT.items():
            shutil.copy(folder / f"slack-{fault.replace(' ', '-')}.png", to / f"{kept}.png")
