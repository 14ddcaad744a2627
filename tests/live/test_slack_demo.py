"""The five faults of the demo as they were told in Slack (a stand-in): one message each, edited until it was over."""

import json

import pytest

SAYS = {"bad release": "release.model", "noisy neighbour": "host.neighbour", "traffic surge": "serving.saturation",
        "unit change": "data.contract", "concept drift": "concept.drift"}  # fmt: skip


@pytest.fixture
def slack(demo_run):
    if demo_run["slack"] is None:
        pytest.skip("needs the extra `slack`")
    return demo_run["slack"]


def told(slack, kind):
    """Return the messages that name a cause, in words or as its kind."""
    from agent.causes import words

    return [m for m in slack.parents if any(w in json.dumps(m) for w in (kind, words(kind)))]


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
