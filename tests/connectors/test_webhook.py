"""Signed webhooks: what a receiver verifies, and that what was recorded can not be played again."""

import hashlib
import hmac
import json
import re
import time
from pathlib import Path

import pytest
from people_side import Side, serving

from agent.ports import Note
from connectors.webhook import Webhook

PAGE = Path(__file__).resolve().parents[2] / "docs" / "notifiers.md"


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "whsec_1")
    with serving(Side()) as made:
        yield made


def verifier():
    """Return the function that the documentation gives to receivers."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = {}
    exec(code, found)  # our own page
    return found["verified"]


async def test_the_receiver_of_the_page_takes_it_and_nothing_else(side):
    hook = Webhook("h", Webhook.Config(url=f"{side.url}/in", secret="env:HOOK_SECRET"))
    await hook.notify(
        Note("k1", 5.0, "page", "té", "x", "i1", link="https://h", facts={"cause": "c"})
    )
    ((method, path, headers, body),) = side.asked
    assert (method, path) == ("POST", "/in")
    said = json.loads(body)
    assert said == {
        "key": "k1", "event": "message", "ts": 5.0, "severity": "page", "title": "té", "text": "x",
        "incident": "i1", "owner": "", "channel": "", "link": "https://h", "facts": {"cause": "c"},
    }  # fmt: skip
    assert headers["idempotency-key"] == "k1"
    signed, verified = headers["homeostat-signature"], verifier()
    assert verified(signed, body, b"whsec_1")
    assert not verified(signed, body, b"whsec_2")
    assert not verified(signed, body + b" ", b"whsec_1")
    ts = int(time.time()) - 301
    mac = hmac.new(b"whsec_1", f"{ts}.".encode() + body, hashlib.sha256).hexdigest()
    assert not verified(f"t={ts},v1={mac}", body, b"whsec_1")  # recorded and played again
    assert not verified("t=x", body, b"whsec_1")
    await hook.close()


async def test_without_a_secret_it_is_not_signed_and_says_so(side):
    hook = Webhook("h", Webhook.Config(url=side.url))
    await hook.notify(Note("env:HOME", 5.0, "page", "t", "x"))
    headers = side.asked[0][2]
    assert "homeostat-signature" not in headers
    assert headers["idempotency-key"] == hashlib.sha256(b"env:HOME").hexdigest()
    assert "NOT signed" in (await hook.describe())[0]
    await hook.close()


async def test_a_redirect_gets_neither_the_note_nor_the_token(side, monkeypatch):
    monkeypatch.setenv("TOKEN", "Bearer x")
    hook = Webhook("h", Webhook.Config(url=side.url, headers={"authorization": "env:TOKEN"}))
    side.fault = "redirect"
    with pytest.raises(Exception, match="not followed"):
        await hook.notify(Note("k", 5.0, "page", "t", "x"))
    assert side.strayed == []
    await hook.close()
