"""References of models out of rows, made one after the other in a process beside the daemon.

    models.reference: files --(at start)--> worker process: read, fit --> what a version is held against
    first rows of a version without one -------------------------------^

A file is made once, whatever versions come; no row of it is ever in the daemon. What fails is told once, and the
version goes by its first rows; where the worker is to blame, it is tried again, and taken when it is there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from agent.config import WatchModels
from agent.errors import AgentError, Unavailable
from agent.models.made import Later, Made, file_job, learn_job, unpack
from agent.worker import Worker

log = structlog.get_logger()

_FIRST_WAIT_S: Final = 60.0
_LONGEST_WAIT_S: Final = 3600.0
_NICE: Final = 5
"""Rows wait for what is made here: before trainings, behind all else on this host."""


class References:
    """What `models.reference` names, and what first rows become.

    bug   where, exception: what nobody expected
    """

    def __init__(self, config: WatchModels, bug: Callable[[str, Exception], None]) -> None:
        self._config = config
        self._bug = bug
        self._worker = Worker(nice=_NICE)
        self._made: dict[str, Made | Later] = dict.fromkeys(config.reference, Later())
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults: dict[str, str] = {}
        """Those that could not be made, and why."""

    def of(self, model: str, version: str) -> Made | Later | None:
        """Return the reference of a version; None = none is named, or it could not be made."""
        return self._made.get(f"{model}/{version}") or self._made.get(model)

    def start(self) -> None:
        """Begin with the files."""
        for name in self._config.reference:
            self._spawn(self._file(name))

    def learn(self, features: Mapping[str, Any], done: Callable[[bytes | None], None]) -> None:
        """Have first rows made a reference; `done` is called with the state of their features, None = it failed."""
        self._spawn(self._first(features, done))

    async def close(self) -> None:
        """Break off what is being made."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._worker.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="reference")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _file(self, name: str) -> None:
        """Make one out of its file; where only the worker has failed, again and again."""
        path, wait = self._config.reference[name], _FIRST_WAIT_S
        while True:
            try:
                job = file_job(self._config, name.partition("/")[0], path)
                self._made[name] = unpack(await self._worker.train(job))
            except Unavailable as error:
                self._failed(name, f"{error}; it is tried again")
            except AgentError as error:
                self._failed(name, f"{error}; mend the file, and restart")
                return
            except Exception as error:  # noqa: BLE001  # a border: a model without a reference must not end the daemon
                self._bug(f"reference of {name}", error)
                self._failed(name, "a bug in homeostat; its log tells where")
                return
            else:
                self.faults.pop(name, None)
                return
            await asyncio.sleep(wait)
            wait = min(2.0 * wait, _LONGEST_WAIT_S)

    def _failed(self, name: str, why: str) -> None:
        """Let the version go by its first rows, and tell it when that is new."""
        self._made.pop(name, None)
        path = self._config.reference[name]
        told = f"{path}: {why}; until then its first rows are one"
        if self.faults.get(name) != told:
            log.warning("reference_not_made", model=name, file=str(path), error=why)
        self.faults[name] = told

    async def _first(
        self, features: Mapping[str, Any], done: Callable[[bytes | None], None]
    ) -> None:
        state = None
        try:
            with contextlib.suppress(asyncio.CancelledError):
                state = await self._worker.train(learn_job(self._config, features))
        except AgentError as error:
            log.warning("reference_not_learnt", error=str(error), remedy="tried again in a minute")
        except Exception as error:  # noqa: BLE001  # as above
            self._bug("first rows of a version", error)
        done(state)
