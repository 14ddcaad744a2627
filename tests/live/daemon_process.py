"""The real daemon in a process of its own, as live tests want it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from agent.journal import JournalReader


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(what, test, seconds=20.0):
    """Wait until `test()` is true; its exceptions count as not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError, OSError, KeyError, IndexError, StopIteration):
            found = test()
            if found:
                return found
        time.sleep(0.1)
    pytest.fail(f"{what}: not within {seconds} s")


class Running:
    """`homeostat run` in a process of its own."""

    def __init__(self, folder: Path, yaml: str, *, state: Path | None = None) -> None:
        self.port = free_port()
        self.folder = folder
        self.state = state or folder / "state"
        self.config = folder / "agent.yaml"
        self.log = folder / "log"
        self.config.write_text(f"listen: 127.0.0.1:{self.port}\npriority: 0\n{yaml}")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True):
        argv = [
            sys.executable,
            "-P",
            "-m",
            "agent",
            "run",
            "--config",
            str(self.config),
            "--state",
            str(self.state),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
        if ready:
            wait_for("ready", lambda: self.get("/ready").status_code == 200)
        return self

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5.0)

    def kill(self, number=signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def journal(self, *kinds: str):
        reader = JournalReader(self.state / "journal.sqlite")
        try:
            assert reader.verify() == []
            return list(reader.read(kinds or None))
        finally:
            reader.close()
