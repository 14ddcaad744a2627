"""`homeostat slack`: the manifest, and the steps up to the first message, each of which can fail."""

import asyncio
import json
import os
import sys

import pytest
import yaml
from slack_side import APP, BOT, CHANNEL, HOOK, OLGA, SlackSide

from agent import cli

pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
TOKENS = {"SLACK_BOT_TOKEN": BOT, "SLACK_APP_TOKEN": APP}


@pytest.fixture
def homeostat(monkeypatch, capsys, tmp_path):
    """Run the command in this process, beside the loop of the stand-in; returns its exit code and what it printed."""

    def go():
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0
        return 0

    async def run(*words, config="", **env):
        path = tmp_path / "agent.yaml"
        path.write_text(config)
        for name, value in {"HOMEOSTAT_CONFIG": "", **env}.items():
            monkeypatch.setenv(name, value)
        argv = ["homeostat", "slack", *words, "--config", str(path)]
        monkeypatch.setattr(sys, "argv", argv)
        return await asyncio.to_thread(go), *capsys.readouterr()

    return run


async def started(*words, config, folder, **env):
    """Run it as people do, in a process of its own."""
    path = folder / "agent.yaml"
    path.write_text(config)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "agent", "slack", *words, "--config", str(path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOMEOSTAT_CONFIG": "", **env},
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def slack(side, **own):
    people = {OLGA: {"name": "olga", "role": "operator"}}
    settings = {"channel": CHANNEL, "api_url": f"{side.url}/api/", "people": people, **own}
    return yaml.safe_dump({"connectors": {"slack": settings}})


@pytest.fixture
async def side():
    async with SlackSide().serving() as made:
        yield made


async def test_the_manifest_makes_the_app(homeostat):
    code, out, err = await homeostat("manifest")
    assert code == 0, err
    said = yaml.safe_load(out)
    assert said["settings"]["socket_mode_enabled"] is True
    assert said["features"]["slash_commands"][0]["command"] == "/homeostat"
    assert {"chat:write", "commands", "files:write"} <= set(said["oauth_config"]["scopes"]["bot"])
    assert "https://api.slack.com/apps?new_app=1&manifest_yaml=" in err
    code, out, err = await homeostat("manifest", "--mode", "http", "--json")
    assert code == 1
    assert "public_url" in out
    config = "public_url: https://h.example.org\n"
    code, out, err = await homeostat("manifest", "--mode", "http", "--json", config=config)
    assert code == 0, err
    said = json.loads(out)
    assert said["settings"]["interactivity"]["request_url"] == "https://h.example.org/ingest/slack"
    assert said["settings"]["socket_mode_enabled"] is False


async def test_all_is_well_up_to_the_first_message(tmp_path, side):
    code, out, err = await started("test", config=slack(side), folder=tmp_path, **TOKENS)
    assert code == 0, out + err
    assert all(line.startswith("ok  ") for line in out.splitlines())
    assert "homeostat can write here" in side.parents[0]["text"]


@pytest.mark.parametrize(
    ("spoil", "env", "says"),
    [
        ("", {}, "the environment variable SLACK_BOT_TOKEN is not set"),
        ("", {"SLACK_BOT_TOKEN": APP}, "does not begin with xoxb-"),
        ("", {"SLACK_BOT_TOKEN": "xoxb-old"}, "the token is not accepted; copy it anew"),
        ("", {**TOKENS, "SLACK_APP_TOKEN": "xapp-old"}, "needs the scope connections:write"),
        ("member", TOKENS, "/invite @homeostat in the channel"),
        ({"U0NOBODY01": {"role": "viewer"}}, TOKENS, "nobody in this workspace is U0NOBODY01"),
        ({}, TOKENS, "`people:` is empty"),
    ],
)
async def test_the_first_step_that_is_not_well_says_how_to_mend_it(
    homeostat, side, monkeypatch, spoil, env, says
):
    own = {"people": spoil} if isinstance(spoil, dict) else {}
    side.channels[CHANNEL].member = spoil != "member"
    for name in TOKENS:
        monkeypatch.delenv(name, raising=False)
    config = slack(side, **own)
    code, out, err = await homeostat("test", "--json", config=config, **env)
    assert code == 1, out + err
    steps = json.loads(out)
    assert [s["ok"] for s in steps] == [True] * (len(steps) - 1) + [False]
    assert says in steps[-1]["remedy"]
    assert BOT not in out + err
    assert side.parents == []


async def test_a_webhook_is_tried_too(homeostat, side):
    config = slack(side, mode="webhook")
    env = {"SLACK_WEBHOOK_URL": side.url + HOOK}
    code, out, _ = await homeostat("test", config=config, **env)
    assert code == 1
    assert "does not begin with https://" in out  # the stand-in has no TLS
