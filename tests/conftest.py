"""What tests of several rooms share: live servers that must be there in CI, and the one demo run of the session."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
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
    """Run the demo once a session, as a user would, and return what it wrote: card, exit code, output."""
    folder = tmp_path_factory.mktemp("demo")
    card = folder / "demo.json"
    done = subprocess.run(
        [sys.executable, "-m", "agent", "demo", "--seed", "7", "--plain", "--json-out", str(card),
         "--keep", str(folder / "kept")],
        cwd=folder, capture_output=True, text=True, timeout=420, check=False,
    )  # fmt: skip
    found = json.loads(card.read_text()) if card.exists() else {}
    return {"card": found, "code": done.returncode, "out": done.stdout, "err": done.stderr,
            "kept": folder / "kept"}  # fmt: skip
