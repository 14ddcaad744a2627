"""Ways to people x the contract of a notifier, on their other sides; what is planted as a secret shows up nowhere."""

import contextlib
import json
import os
import socket
from dataclasses import replace

import pytest
import structlog
from people_side import FAULTS, GrafanaSide, PagerDutySide, Side, serving
from pydantic import ValidationError
from slack_side import BOT as SLACK_BOT
from slack_side import CHANNEL as SLACK_CHANNEL
from slack_side import FAULTS as SLACK_FAULTS
from slack_side import HOOK as SLACK_HOOK
from slack_side import SlackSide
from smtp_side import FAULTS as POST_FAULTS
from smtp_side import PASSWORD, certificate, post

from agent.errors import Unavailable
from agent.ports import Choosy, Note, Notifier
from agent.testing import NOTIFIER_FAULTS, Hearing, check_notifier
from agent.trying import look
from connectors.alertmanager import Alertmanager
from connectors.grafana_annotations import GrafanaAnnotations
from connectors.heartbeat import Heartbeat
from connectors.mail import Mail
from connectors.pagerduty import PagerDuty
from connectors.slack import Slack
from connectors.webhook import Webhook

HOOK, WAY, AM_TOKEN = "whsec_CANARY123456", "CANARYpath123456", "Bearer amCANARY123456"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    monkeypatch.setenv("PD_KEY", PagerDutySide.KEY)
    monkeypatch.setenv("GRAFANA_TOKEN", GrafanaSide.TOKEN)
    monkeypatch.setenv("HOOK_SECRET", HOOK)
    monkeypatch.setenv("AM_TOKEN", AM_TOKEN)
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    monkeypatch.setenv("SLACK_BOT_TOKEN", SLACK_BOT)


def pagerduty(url):
    own = PagerDuty.Config(routing_key="env:PD_KEY", url=f"{url}/v2/enqueue", timeout=0.5)
    return PagerDuty("pagerduty", own)


def grafana(url):
    own = GrafanaAnnotations.Config(url=url, token="env:GRAFANA_TOKEN", timeout=0.5)
    return GrafanaAnnotations("grafana", own)


def webhook(url, folder):
    """One whose whole URL is a secret."""
    (folder / "url").write_text(f"{url}/{WAY}\n")
    own = Webhook.Config(url=f"file:{folder}/url", secret="env:HOOK_SECRET", timeout=0.5)
    return Webhook("webhook", own)


def mail(port, pair, **more):
    own = {
        "server": "localhost", "port": port, "ca": pair[0], "user": "homeostat", "password": "env:SMTP_PASSWORD",
        "sender": "homeostat@example.org", "to": ["oncall@example.org"], "timeout": 0.5,
    }  # fmt: skip
    return Mail("mail", Mail.Config(**{**own, **more}))


@contextlib.asynccontextmanager
async def hearing(side, made, heard, *secrets):
    def fault(what):
        side.fault = what

    with serving(side):
        try:
            yield Hearing(made, fault, FAULTS, heard, secrets)
        finally:
            await made.close()


@contextlib.asynccontextmanager
async def posted(pair):
    with post(pair) as side:

        def fault(what):
            side.fault = what

        made = mail(side.port, pair)
        known = POST_FAULTS & set(NOTIFIER_FAULTS)
        yield Hearing(
            made,
            fault,
            known,
            lambda: [m["Message-ID"] for m in side.mails],
            [PASSWORD],
            waits=False,
        )


def make(name, folder, pair):
    if name == "mail":
        return posted(pair)
    if name.startswith("slack"):
        pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
        return slacked(hooked=name != "slack")
    side = {"pagerduty": PagerDutySide, "grafana_annotations": GrafanaSide}.get(name, Side)()
    if name == "pagerduty":
        return hearing(side, pagerduty(side.url), lambda: list(side.triggers), side.KEY)
    if name == "alertmanager":
        own = Alertmanager.Config(
            url=side.url, headers={"authorization": "env:AM_TOKEN"}, alerts=["page"], timeout=0.5
        )

        def told():
            sent = [json.loads(body) for *_, body in side.asked if body]
            return [alert["labels"]["incident"] for alerts in sent for alert in alerts]

        return hearing(side, Alertmanager(name, own, state=folder), told, AM_TOKEN)
    if name == "webhook":
        said = lambda: [json.loads(body)["key"] for *_, body in side.asked]  # noqa: E731
        return hearing(side, webhook(side.url, folder), said, HOOK, WAY)
    ids = lambda: [str(a["id"]) for a in side.annotations]  # noqa: E731
    return hearing(side, grafana(side.url), ids, side.TOKEN)


@contextlib.asynccontextmanager
async def slacked(*, hooked):
    async with SlackSide().serving() as side:

        def fault(what):
            side.fault = what
            made._door._rest.clear()  # as if the time that it asked for were over

        if hooked:
            os.environ["SLACK_WEBHOOK_URL"] = side.url + SLACK_HOOK
        own = {"mode": "webhook"} if hooked else {"channel": SLACK_CHANNEL}
        made = Slack("slack", Slack.Config(**own, api_url=f"{side.url}/api/", timeout=0.5))

        def heard():
            if hooked:
                return [json.dumps(message) for message in side.hooked]
            return [m["metadata"]["event_payload"]["key"] for m in side.parents]

        try:
            yield Hearing(made, fault, SLACK_FAULTS, heard, [SLACK_BOT, SLACK_HOOK])
        finally:
            await made.close()
            os.environ.pop("SLACK_WEBHOOK_URL", None)


WAYS = (
    "slack",
    "slack by webhook",
    "pagerduty",
    "grafana_annotations",
    "webhook",
    "mail",
    "alertmanager",
)
CHECKS = ("once", "faults", "again", "quiet", "looks")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", WAYS)
async def test_contract(name, check, tmp_path, pair):
    event = "opened" if name == "grafana_annotations" else ""
    checks = check_notifier(lambda: make(name, tmp_path, pair), event)
    assert [one.name for one in checks] == list(CHECKS)
    with structlog.testing.capture_logs() as logs:
        await next(one for one in checks if one.name == check).run()
    for planted in (
        PagerDutySide.KEY,
        GrafanaSide.TOKEN,
        HOOK,
        WAY,
        PASSWORD,
        AM_TOKEN,
        SLACK_BOT,
        SLACK_HOOK,
    ):
        assert planted not in str(logs)


class Sloppy:
    """A notifier that breaks every demand."""

    def __init__(self, heard):
        self.heard = heard

    async def notify(self, note):
        del note
        self.heard.append(str(len(self.heard)))

    async def describe(self):
        self.heard.append("described")
        return ("by hunter2",)


async def test_a_sloppy_notifier_is_found_out():
    @contextlib.asynccontextmanager
    async def made():
        heard = []
        way = Sloppy(heard)
        yield Hearing(way, lambda _: None, FAULTS, lambda: heard, ["hunter2"])

    said = {check.name: await check.fault() for check in check_notifier(made)}
    assert said["once"] == "once: three notes of two keys were heard as ['0', '1', '2']"
    assert said["faults"] == (
        "faults: dropped: NoneType (None), wanted ['Unavailable', 'Uncertain']"
    )
    assert said["again"] is None
    assert said["quiet"] == "quiet: secret 0 was told"
    assert said["looks"] == "looks: describe sent ['described']"


@pytest.mark.parametrize("name", WAYS)
async def test_where_nobody_listens_the_note_waits(name, tmp_path, pair):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "hook").write_text(url + SLACK_HOOK)
    ways = {
        "pagerduty": lambda: pagerduty(url), "grafana_annotations": lambda: grafana(url),
        "webhook": lambda: webhook(url, tmp_path), "mail": lambda: mail(port, pair),
        "alertmanager": lambda: Alertmanager("alertmanager", Alertmanager.Config(url=url)),
        "slack": lambda: Slack("slack", Slack.Config(channel=SLACK_CHANNEL, api_url=f"{url}/api/")),
        "slack by webhook": lambda: Slack("slack", Slack.Config(mode="webhook", webhook=f"file:{tmp_path}/hook")),
    }  # fmt: skip
    way = ways[name]()
    note = Note("k", 5.0, "page", "title", "text", event="opened")
    with pytest.raises(Unavailable, match=r"refused|no connection"):
        await way.notify(note)
    if name != "mail":
        await way.close()


@pytest.mark.parametrize(
    ("name", "variable"),
    [("pagerduty", "PD_KEY"), ("grafana_annotations", "GRAFANA_TOKEN"), ("webhook", "HOOK_SECRET"),
     ("mail", "SMTP_PASSWORD"), ("alertmanager", "AM_TOKEN")],
)  # fmt: skip
async def test_a_secret_that_is_not_there_is_named_and_the_note_waits(
    name, variable, tmp_path, pair, monkeypatch
):
    monkeypatch.delenv(variable)
    note = Note("k", 5.0, "page", "title", "text", event="opened")
    async with make(name, tmp_path, pair) as one:
        with pytest.raises(Unavailable, match=variable) as wrong:
            await one.notifier.notify(note)
        assert wrong.value.wait_s == 60
        assert one.heard() == []


async def test_a_secret_with_a_line_break_is_not_quoted(tmp_path, pair, monkeypatch):
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_CANARY\n0123")
    async with make("grafana_annotations", tmp_path, pair) as one:
        with pytest.raises(Unavailable, match="line break") as wrong:
            await one.notifier.notify(Note("k", 5.0, "page", "t", "x", event="opened"))
    assert "CANARY" not in str(wrong.value)


@pytest.mark.parametrize(
    ("cls", "own"),
    [
        (PagerDuty, {"routing_key": "CANARY0123456789"}),
        (PagerDuty, {"routing_key": "env:K", "severities": ["CANARY"]}),
        (GrafanaAnnotations, {"url": "http://CANARY:CANARY@g", "token": "env:T"}),
        (GrafanaAnnotations, {"url": "http://g", "token": "CANARY"}),
        (Webhook, {"url": "ftp://CANARY"}),
        (Webhook, {"url": "http://h", "secret": "CANARY"}),
        (Webhook, {"url": "http://h", "events": ["CANARY"]}),
        (Webhook, {"url": "http://h", "CANARY": 1}),
        (Heartbeat, {"url": "CANARY"}),
        (Heartbeat, {"url": "http://h", "every": 1}),
        (Mail, {"server": "s", "sender": "a@b", "to": ["c@d"], "user": "u", "password": "CANARY"}),
        (Mail, {"server": "s", "sender": "a@b", "to": ["c@d"], "user": "u"}),
        (Mail, {"server": "s", "sender": "a@b", "to": []}),
        (Mail, {"server": "s", "sender": "a@b\nBcc: CANARY@b", "to": ["c@d"]}),
        (Mail, {"server": "s", "sender": "a@b", "to": ["c@d"], "user": "u", "password": "env:P",
                "security": "none"}),
    ],
)  # fmt: skip
def test_config_is_strict_and_repeats_no_secret(cls, own):
    with pytest.raises(ValidationError) as wrong:
        cls.Config(**own)
    assert "CANARY" not in str(wrong.value).replace(
        "\nCANARY\n", ""
    )  # the name of a key may be said


def test_pages_alone_are_the_default_and_events_are_chosen():
    hook = Webhook("h", Webhook.Config(url="http://h", events=["resolved", "changed"]))
    page = Note("k", 5.0, "page", "", "")
    assert isinstance(hook, Notifier)
    assert isinstance(hook, Choosy)
    assert hook.wants(page)
    assert not hook.wants(replace(page, severity="warning"))
    assert hook.wants(replace(page, event="resolved"))
    assert not hook.wants(replace(page, event="resolved", severity="warning"))
    assert not hook.wants(replace(page, event="opened"))
    assert hook.wants(replace(page, event="changed", severity="note"))


async def test_try_says_where_it_would_send_and_sends_only_when_told(tmp_path):
    from agent.config import Config, ConnectorConfig

    side = PagerDutySide()
    with serving(side):
        own = {"routing_key": "env:PD_KEY", "url": f"{side.url}/v2/enqueue"}
        config = Config(connectors={"pagerduty": ConnectorConfig(**own)})
        said = await look("pagerduty", config, {})
        assert side.asked == []
        assert said["says"] == [
            f"would page by {side.url}/v2/enqueue with the routing key in env:PD_KEY"
        ]
        assert said["may"] == ["notify", "page", "tell people"]
        said = await look("pagerduty", config, {}, send=True)
        assert said["says"][-1] == "sent one test note (page): it was taken"
        (event,) = side.triggers.values()
        assert event["payload"]["summary"].startswith("test of homeostat on ")
        assert PagerDutySide.KEY not in str(said)
