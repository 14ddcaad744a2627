"""What tests of several rooms share: live servers that must be there in CI, and the one demo run of the session."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent import registry

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config):
    registry.load()


def need(program: str) -> str:
    """Return the path of a real server or tool; without it the test skips, in CI it fails."""
    found = shutil.which(program)
    if found is None:
        how = "make build/outside" if "/" in program else "make debian"
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
    """Run the demo once a session, as a user would, and return what it wrote: card, exit code, output.

    seen   what a browser saw of its console meanwhile; {} where there is no Chromium
    """
    from camera import Camera

    folder = tmp_path_factory.mktemp("demo")
    card = folder / "demo.json"
    chromium = shutil.which("chromium")
    camera = Camera(chromium, folder / "pictures") if chromium else None
    argv = [sys.executable, "-m", "agent", "demo", "--seed", "7", "--plain", "--json-out", str(card),
            "--keep", str(folder / "kept")]  # fmt: skip
    said, faults = [], folder / "err"
    with (
        faults.open("wb") as err,
        subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=err, text=True) as demo,
    ):
        late = threading.Timer(420, demo.kill)
        late.start()
        try:
            for line in demo.stdout:
                said.append(line)
                if camera is not None and (url := re.search(r"its console: (http://[^/]+)/", line)):
                    camera.start(url[1])
            code = demo.wait()
        finally:
            late.cancel()
            seen = camera.end() if camera is not None else {}
    found = json.loads(card.read_text()) if card.exists() else {}
    return {"card": found, "code": code, "out": "".join(said), "err": faults.read_text(),
            "kept": folder / "kept", "seen": seen, "pictures": folder / "pictures"}  # fmt: skip
