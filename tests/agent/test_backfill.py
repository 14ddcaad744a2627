"""What somebody else has kept of a source goes into history once, as if it had been asked then."""

import numpy as np
import pytest
import structlog

from agent import backfill
from agent.errors import Unavailable
from agent.history import History
from agent.model import Entity, Frame, Series

H = Entity("host", "h")
TABLE = (Series("host.forks_total", H), Series("host.load1_count", H))


class Remembers:
    remembers_s = 60.0

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []
        self.error: Exception | None = None

    async def past(self, since, until):
        self.asked.append((since, until))
        if self.error is not None:
            raise self.error
        return [Frame("p", 940.0 + 15 * i, TABLE, np.array([30.0 * i, 0.5])) for i in range(4)]


@pytest.fixture
def history(tmp_path):
    one = History(tmp_path / "history", age_s=3600, size_bytes=1e6)
    yield one
    one.close()


async def test_rows_become_rates_and_are_read_once(history):
    source = Remembers()
    assert await backfill.fill("p", source, history, 1000.0) == 4
    assert source.asked == [(940.0, 1000.0)]
    series = (Series("host.forks_per_second", H), TABLE[1])
    _, rows = history.read(series, 930.0, 1000.0, 15.0)
    known = rows[np.isfinite(rows[:, 1])]
    assert known[1:, 0].tolist() == [2.0, 2.0, 2.0]
    assert await backfill.fill("p", source, history, 2000.0) == 0
    assert len(source.asked) == 1, "history holds some of it"


async def test_a_past_that_can_not_be_read_is_said_and_hurts_nobody(history):
    source = Remembers()
    source.error = Unavailable("nobody there")
    with structlog.testing.capture_logs() as logs:
        assert await backfill.fill("p", source, history, 1000.0) == 0
    assert [(x["event"], x["error"]) for x in logs] == [("past_not_read", "nobody there")]
    source.remembers_s = 0
    assert await backfill.fill("p", source, history, 1000.0) == 0
    assert len(source.asked) == 1
