"""A living daemon's past is replayed beside it: the incident that it opened is found again, with its graph."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from daemon_process import wait_for

pytestmark = pytest.mark.live

AGENT = """
objectives: [{signal: host.memory_utilization_ratio, max: 0.1%, for: 2s}]
diagnose: {settle: 2s}
"""


def test_beside_the_daemon_that_writes_it(running):
    daemon = running(AGENT).start()
    wait_for("an incident", lambda: daemon.journal("incident"), 40)
    time.sleep(12)  # the log is written every ten seconds
    argv = [sys.executable, "-m", "agent", "replay", "--config", str(daemon.config),
            "--state", str(daemon.state), "--json"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert daemon.process.poll() is None
    assert said["recorded"]["incidents"] == said["recorded"]["matched"] > 0
    assert not any("was not recorded" in note for note in said["notes"])
    opened = {e.subject: e.body for e in daemon.journal("incident")}
    found = next(i for i in said["incidents"] if i["recorded"])
    was = opened[found["recorded"][0]]
    assert found["title"] == was["title"]
    assert abs(found["opened"] - was["opened"]) < 3
    assert daemon.get("/ready").status_code == 200
