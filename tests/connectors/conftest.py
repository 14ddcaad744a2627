"""What tests of several connectors share."""

import pytest


@pytest.fixture
def swift(monkeypatch):
    """Let Slack's seconds be hundredths."""
    from slack_talk import swifter  # not everybody has the extra `slack`

    swifter(monkeypatch)


@pytest.fixture(params=["socket", "http"])
def mode(request):
    """By which way Slack comes in."""
    return request.param
