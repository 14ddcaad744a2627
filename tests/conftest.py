"""What tests of several rooms share: live servers that must be there in CI, and the one demo run of the session."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_side import free_port, prometheus

from agent import registry

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    registry.load()


def pytest_collection_finish(session):
    """Let the collector look no more at what lives as long as the session: modules, and some ten thousand tests."""
    gc.collect()
    gc.freeze()


def need(program: str) -> str:
    """Return the path of a real server or tool; without it the test skips, in CI it fails."""
    found = shutil.which(program)
    if found is None:
        how = "make debian"
        if "/build/" in program:
            how = "make build/" + program.partition("/build/")[2].partition("/")[0]
        say = f"{program} is not installed: `{how}` installs it"
        if os.environ.get("CI"):
            pytest.fail(say)
        pytest.skip(say)
    return found


@pytest.fixture(scope="session")
def needs():
    """Ask for programs by name: `needs("promtool")`."""
    return need


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """Run the demo once a session, as a user would; yields what it wrote: card, exit code, output.

    seen               what a browser saw of its console meanwhile; {} where there is no Chromium
    prometheus, span   a Prometheus that scraped its agent meanwhile, and of when it knows; None where there is none
    slack              the stand-in for Slack in which it was told; None where Slack's client is not installed
    """
    from camera import Camera

    folder = tmp_path_factory.mktemp("demo")
    card, program = folder / "demo.json", shutil.which("prometheus")
    chromium = shutil.which("chromium")
    camera = Camera(chromium, folder / "pictures") if chromium else None
    argv = [sys.executable, "-m", "agent", "demo", "--seed", "7", "--plain", "--json-out", str(card),
            "--keep", str(folder / "kept")]  # fmt: skip
    said, faults, since = [], folder / "err", time.time()
    with contextlib.ExitStack() as stack:
        server = None
        if program:
            at = tmp_path_factory.mktemp("prometheus")
            server = stack.enter_context(prometheus(program, at, free_port()))
        slack, env = stack.enter_context(_slack_beside(folder, argv))
        with (
            faults.open("wb") as err,
            subprocess.Popen(
                argv, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True, env=env
            ) as demo,
        ):
            late = threading.Timer(420, demo.kill)
            late.start()
            try:
                for line in demo.stdout:
                    said.append(line)
                    if url := re.search(r"its console: http://([^/]+)/", line):
                        since = time.time()
                        if server is not None:
                            server.scrape(url[1])
                        if camera is not None:
                            camera.start(f"http://{url[1]}")
                code = demo.wait()
            finally:
                late.cancel()
                seen = camera.end() if camera is not None else {}
        found = json.loads(card.read_text()) if card.exists() else {}
        yield {
            "card": found, "code": code, "out": "".join(said), "err": faults.read_text(), "kept": folder / "kept",
            "seen": seen, "pictures": folder / "pictures", "prometheus": server, "span": (since, time.time()),
            "slack": slack,
        }  # fmt: skip


@contextlib.contextmanager
def _slack_beside(folder, argv):
    """Let the demo also be told in a stand-in for Slack, which lives in a loop of its own; yields it, and the env."""
    if importlib.util.find_spec("slack_sdk") is None or importlib.util.find_spec("aiohttp") is None:
        yield None, None
        return
    from slack_side import APP, BOT, CHANNEL, SlackSide

    slack, loop = SlackSide(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(what):
        return asyncio.run_coroutine_threadsafe(what, loop).result(30)

    serving = slack.serving()
    wait(serving.__aenter__())
    try:
        told = folder / "slack.yaml"
        told.write_text(
            "connectors:\n"
            f"  slack: {{channel: {CHANNEL}, api_url: '{slack.url}/api/', severities: [page, warning]}}\n"
        )
        argv += ["--with", str(told)]
        yield slack, {**os.environ, "SLACK_BOT_TOKEN": BOT, "SLACK_APP_TOKEN": APP}
    finally:
        wait(serving.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
