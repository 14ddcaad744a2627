"""What tests of several rooms share: live servers that must be there in CI, and the one demo run of the session."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_side import free_port, prometheus, scrape_soon

from agent import registry

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    registry.load()


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

    Where there is a Prometheus it scrapes the demo's agent meanwhile: `prometheus`, and of when it knows, `span`.
    """
    folder = tmp_path_factory.mktemp("demo")
    card, program = folder / "demo.json", shutil.which("prometheus")
    with contextlib.ExitStack() as stack:
        server = None
        if program:
            at = tmp_path_factory.mktemp("prometheus")
            server = stack.enter_context(prometheus(program, at, free_port()))
            over = threading.Event()
            stack.callback(over.set)
            config = folder / "kept" / "homeostat" / "agent.yaml"
            threading.Thread(target=scrape_soon, args=(server, config, over), daemon=True).start()
        since = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "agent", "demo", "--seed", "7", "--plain", "--json-out", str(card),
             "--keep", str(folder / "kept")],
            cwd=folder, capture_output=True, text=True, timeout=420, check=False,
        )  # fmt: skip
        found = json.loads(card.read_text()) if card.exists() else {}
        yield {
            "card": found, "code": done.returncode, "out": done.stdout, "err": done.stderr,
            "kept": folder / "kept", "prometheus": server, "span": (since, time.time()),
        }  # fmt: skip
