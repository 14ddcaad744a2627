"""What live tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from daemon_process import Running


@pytest.fixture
def running(tmp_path):
    started: list[Running] = []

    def make(yaml: str = "", *, state: Path | None = None) -> Running:
        one = Running(tmp_path, yaml, state=state)
        started.append(one)
        return one

    yield make
    for one in started:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)
