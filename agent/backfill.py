"""The past of a source that somebody else has kept: into history, once, before it is first asked.

    source.past(since, until) --(rates, possible?)--> history

Detectors do not score it: what was then is nobody's incident now. Charts, baselines of a diagnosis, forecasts and the
training of joint detectors read history, and so begin with it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from agent.errors import AgentError
from agent.history import History
from agent.ports import Remembering
from agent.possible import Possible
from agent.rates import Rates

log = structlog.get_logger()

_LIMIT_S: Final = 120.0


async def fill(name: str, source: Remembering, history: History, now: float) -> int:
    """Return how many rows came: none where history holds some of this source, or when it does not answer."""
    if source.remembers_s <= 0 or history.series(name):
        return 0
    rates, possible = Rates(), Possible()
    try:
        async with asyncio.timeout(_LIMIT_S):
            rows = await source.past(now - source.remembers_s, now)
    except (AgentError, TimeoutError) as problem:
        log.warning("past_not_read", source=name, error=str(problem) or "no answer in time")
        return 0
    for frame in rows:
        history.append(possible.apply(rates.apply(frame)))
        await asyncio.sleep(0)
    if rows:
        log.info("past_read", source=name, rows=len(rows), since=rows[0].ts)
    return len(rows)
