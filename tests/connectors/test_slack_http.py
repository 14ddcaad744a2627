"""Requests that claim to come from Slack: who is let in."""

import asyncio
import contextlib
import json
import time

import pytest
from slack_side import OLGA, SECRET, SlackSide, form, signed
from slack_talk import RUN, Proxy, talking, until

import connectors.slack
from agent.errors import Refused
from connectors.slack import Slack

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
pytestmark = pytest.mark.usefixtures("swift")


@contextlib.asynccontextmanager
async def waiting(tmp_path):
    async with SlackSide().serving() as side, talking(tmp_path, side, mode="http") as talk:
        await until(lambda: side.parents and talk.slack._clerk is not None)
        press = side.press_payload(OLGA, side.parents[0], side.button(side.parents[0], "approve"))
        yield side, talk, Proxy(talk), form(press)


async def test_what_slack_has_signed_is_taken_once(tmp_path):
    async with waiting(tmp_path) as (_, talk, proxy, body):
        headers = signed(body)
        assert (await proxy.post(body, headers)).status_code == 200
        await until(lambda: talk.entries("approval"))
        again = await proxy.post(body, headers)
        assert again.status_code == 401
        assert "taken already" in again.text
        await until(lambda: any("replayed" in p[0] for p in talk.presses()))
        assert len(talk.entries("approval")) == 1


@pytest.mark.parametrize(
    "headers",
    [
        lambda body: {},
        lambda body: signed(body, key="somebody else's"),
        lambda body: signed(body + b" "),
        lambda body: {**signed(body), "x-slack-request-timestamp": "never"},
        lambda body: {**signed(body), "x-slack-request-timestamp": "9" * 400},
        lambda body: {**signed(body), "x-slack-signature": "v0=é"},
        lambda body: {**signed(body), "x-slack-signature": signed(body)["x-slack-signature"].upper()},
    ],
)  # fmt: skip
async def test_what_slack_has_not_signed_is_refused_and_journalled(tmp_path, headers):
    async with waiting(tmp_path) as (_, talk, proxy, body):
        given = {k: v.encode() for k, v in headers(body).items()}
        said = await proxy.post(body, given)
        assert said.status_code == 401
        assert SECRET not in said.text
        await asyncio.sleep(0.05)
        assert talk.entries("approval") == []
        assert talk.memory.runs[RUN].state == "waiting_approval"
        ((what, by, _),) = talk.presses()
        assert (what, by) == ("a forged request", "somebody who claims to be Slack")


async def test_what_was_taken_before_a_restart_is_not_taken_again(tmp_path):
    """What the process before has seen is forgotten, so nothing that is older than us is let in."""
    async with waiting(tmp_path) as (side, talk, proxy, body):
        talk.slack._since -= 60.0  # it has been here for a minute
        headers = signed(body, ts=time.time() - 5)
        assert (await proxy.post(body, headers)).status_code == 200
        await until(lambda: talk.entries("approval"))
        async with talking(tmp_path / "again", side, mode="http") as again:
            await until(lambda: again.slack._clerk is not None)
            said = await Proxy(again).post(body, headers)
            assert said.status_code == 401
            assert "before homeostat was started" in said.text
            await until(lambda: any("replayed" in p[0] for p in again.presses()))
            assert again.entries("approval") == []
            status = form(side.command_payload(OLGA, "status"))
            assert (await Proxy(again).post(status, signed(status))).status_code == 200


@pytest.mark.parametrize("off", [-301, 400])
async def test_what_is_too_old_by_our_clock_says_that_the_clock_may_be_wrong(tmp_path, off):
    async with waiting(tmp_path) as (_, talk, proxy, body):
        said = await proxy.post(body, signed(body, ts=time.time() + off))
        assert said.status_code == 401
        assert "or the clock is wrong" in said.text
        assert talk.entries("approval") == []
        ((what, _, _),) = talk.presses()
        assert what == "a stale request"


class Clock:
    """The clock of the host, as the connector sees it."""

    def __init__(self):
        self.off = 0.0

    def time(self):
        return time.time() + self.off

    def monotonic(self):
        return time.monotonic()


async def test_what_was_taken_is_known_when_the_clock_was_put_on_and_back(tmp_path, monkeypatch):
    async with waiting(tmp_path) as (_, talk, proxy, body):
        clock = Clock()
        monkeypatch.setattr(connectors.slack, "time", clock)
        headers = signed(body)
        assert (await proxy.post(body, headers)).status_code == 200
        await until(lambda: talk.entries("approval"))
        clock.off = 1000.0
        status = form({"command": "/homeostat", "text": "status"})
        assert (await proxy.post(status, signed(status, key="not Slack's"))).status_code == 401
        clock.off = 0.0
        again = await proxy.post(body, headers)
        assert (again.status_code, len(talk.entries("approval"))) == (401, 1)
        assert "taken already" in again.text


async def test_what_slack_signed_long_ago_is_old_whatever_our_clock_says(tmp_path, monkeypatch):
    async with waiting(tmp_path) as (side, talk, proxy, body):
        talk.slack._since -= 3600.0
        clock = Clock()
        monkeypatch.setattr(connectors.slack, "time", clock)
        now = time.time()
        status = form(side.command_payload(OLGA, "status"))
        assert (await proxy.post(status, signed(status, ts=now))).status_code == 200
        clock.off = -400.0
        said = await proxy.post(body, signed(body, ts=now - 400))
        assert said.status_code == 401
        assert "Slack has signed others" in said.text
        assert talk.entries("approval") == []


async def test_of_many_requests_at_once_none_is_taken_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(connectors.slack, "_MOST_SIGNATURES", 3)
    async with waiting(tmp_path) as (side, talk, proxy, body):
        headers = signed(body)
        assert (await proxy.post(body, headers)).status_code == 200
        for n in range(4):
            status = form(side.command_payload(OLGA, "status"))
            stamped = signed(status, ts=time.time() + 3 + n)
            assert (await proxy.post(status, stamped)).status_code == 200
        assert (await proxy.post(body, headers)).status_code == 401
        await until(lambda: talk.entries("approval"))
        assert len(talk.entries("approval")) == 1


@pytest.mark.parametrize("ahead", [240.0, -240.0])
async def test_a_restart_is_told_by_the_clock_of_slack_and_not_by_ours(tmp_path, ahead):
    async with SlackSide().serving() as side:
        side.ahead_s = ahead
        async with talking(tmp_path, side, mode="http") as talk:
            await until(lambda: side.parents and talk.slack._clerk is not None)
            button = side.button(side.parents[0], "approve")
            body = form(side.press_payload(OLGA, side.parents[0], button))
            headers = signed(body, ts=time.time() + ahead + 1)
            assert (await Proxy(talk).post(body, headers)).status_code == 200
            await until(lambda: talk.entries("approval"))
        side.ahead_s += 10.0  # ten seconds later
        async with talking(tmp_path / "again", side, mode="http") as again:
            await until(lambda: again.slack._clerk is not None)
            assert (await Proxy(again).post(body, headers)).status_code == 401
            assert again.entries("approval") == []
            status = form(side.command_payload(OLGA, "status"))
            new = signed(status, ts=time.time() + side.ahead_s + 1)
            assert (await Proxy(again).post(status, new)).status_code == 200


async def test_a_clock_that_is_wrong_is_told_before_presses_are_lost(tmp_path):
    async with SlackSide().serving() as side:
        side.ahead_s = -240.0
        async with talking(tmp_path, side, mode="http") as talk:
            await until(lambda: talk.slack._clerk is not None)
            (said,) = talk.slack.troubles()
            assert said.startswith("the clock of this host is 4 min")
            assert "ahead of Slack's" in said
            side.ahead_s = 0.0
            await talk.slack._door.ask("auth_test")
            assert talk.slack.troubles() == []


async def test_a_flood_of_forged_requests_is_one_line_in_the_journal(tmp_path):
    async with waiting(tmp_path) as (_, talk, proxy, body):
        for _ in range(20):
            assert (await proxy.post(body, {})).status_code == 401
        assert len(talk.presses()) == 1


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_a_token_of_ours_is_no_signature_of_slacks(tmp_path, role):
    """Else whoever may push could press as anybody."""
    async with waiting(tmp_path) as (_, talk, proxy, body):
        token = talk.story.tokens.add(f"a-{role}", role, 0.0)
        said = await proxy.post(body, {"authorization": f"Bearer {token}"})
        assert said.status_code == 401
        assert talk.entries("approval") == []


async def test_a_page_of_somebody_else_may_not_post_here(tmp_path):
    async with waiting(tmp_path) as (_, talk, proxy, body):
        said = await proxy.post(body, {**signed(body), "origin": "https://evil.example"})
        assert said.status_code == 403
        assert talk.entries("approval") == []


async def test_slack_is_told_that_we_are_here(tmp_path):
    async with waiting(tmp_path) as (_, _, proxy, _):
        body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1a"}).encode()
        said = await proxy.post(body, signed(body), "application/json")
        assert (said.status_code, said.text) == (200, "3eZbrw1a")
        body = b"ssl_check=1&token=x"
        assert (await proxy.post(body, signed(body))).status_code == 200


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"", "application/json"), (b"[]", "application/json"), (b"[" * 9999, "application/json"),
        (b"x=1", "text/plain"), (b"payload=[", ""),
    ],
)  # fmt: skip
async def test_what_is_nothing_of_slacks_is_refused(tmp_path, body, media):
    async with waiting(tmp_path) as (_, talk, proxy, _):
        assert (await proxy.post(body, signed(body), media)).status_code == 400
        assert not talk.bugs


async def test_a_retry_of_an_event_is_answered_and_done_once(tmp_path):
    async with waiting(tmp_path) as (side, _, proxy, _):
        event = {
            "type": "event_callback", "team_id": "T0TEAM0001", "event_id": "Ev1",
            "event": {"type": "app_mention", "user": OLGA, "team": "T0TEAM0001", "channel": "C0123456789",
                      "text": "<@U0BOT00001> status", "ts": "1.1"},
        }  # fmt: skip
        body = json.dumps(event).encode()
        for n in range(3):
            headers = signed(body, ts=time.time() + 1 + n)
            more = (
                {"x-slack-retry-num": str(n), "x-slack-retry-reason": "http_timeout"} if n else {}
            )
            assert (
                await proxy.post(body, {**headers, **more}, "application/json")
            ).status_code == 200
        await until(lambda: side.said)
        await asyncio.sleep(0.1)
        assert len(side.said) == 1


async def test_before_it_talks_slack_is_asked_to_come_again(tmp_path):
    slack = Slack("slack", Slack.Config(mode="http", channel="C0123456789"))
    body = form({"command": "/homeostat", "text": "status"})
    (route,) = slack.routes()
    assert route.always
    route.vouch(signed(body), body)
    with pytest.raises(Exception, match="can not take this now"):
        route.handle(body, "application/x-www-form-urlencoded")


def test_without_its_secret_nobody_is_let_in(monkeypatch):
    monkeypatch.delenv("SLACK_SIGNING_SECRET")
    slack = Slack("slack", Slack.Config(mode="http", channel="C0123456789"))
    (route,) = slack.routes()
    with pytest.raises(Refused, match="can not check signatures"):
        route.vouch(signed(b"x"), b"x")


def test_only_http_has_a_way_in():
    assert Slack("slack", Slack.Config(channel="C0123456789")).routes() == ()
