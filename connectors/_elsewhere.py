"""A training that runs on another system: started once per key, found again, ended when it takes too long.

    train(key) --known here? --> done: its report | failed: Refused
               --on the other side? (asked by the key) --> follow it
               --nowhere--> start, note its name, follow
    follow: look every so often --> succeeded: its report | failed, or too long: ended, Refused

What the other side calls the run is on disk before it is followed, so a daemon that was killed goes on following. A
start whose answer was lost is looked for by its key; where the other side can not be asked so, it is not repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import structlog
from pydantic import Field

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.units import Duration, Model, Span, say_duration
from connectors._mlflow_runs import Runs, RunsAt
from connectors._once import Once
from connectors._proc import command_line
from connectors._trained import MOST_REPORT_BYTES, Trained, read_report, trained
from connectors.http import Answer, Door, Method, redacted, retry_after

log = structlog.get_logger()

_LONGEST_PAUSE_S: Final = 60.0
_NOT_NOW: Final = frozenset({408, 425, 429, 502, 503, 504})

_PLACES: Final = {
    "key": "HOMEOSTAT_KEY", "model": "HOMEOSTAT_MODEL", "mlflow_run": "MLFLOW_RUN_ID",
    "mlflow_uri": "MLFLOW_TRACKING_URI",
}  # fmt: skip


class ElsewhereConfig(Model):
    """What every such trainer is told."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    limit: Span = 4 * 3600.0
    """A training that takes longer is ended."""
    every: Annotated[Duration, Field(gt=0, le=600)] = 10.0
    """How often it is looked at."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0
    """For one request."""
    mlflow: RunsAt | None = None
    """It logs to a run there, which is its report; training is refused while the model is tagged `retraining_held`."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a run is. words: what the other side says of it."""

    state: Literal["runs", "succeeded", "failed"]
    words: str = ""


class Elsewhere:
    """The ability Trainer over five questions that a connector asks the other side."""

    def __init__(
        self, name: str, config: ElsewhereConfig, state: Path | None, door: Door | None = None
    ) -> None:
        self.name = name
        self._told = config
        self._door = door or Door()
        self._once = Once(state / "trainer" / name if state is not None else None)
        self._runs = Runs(config.mlflow) if config.mlflow is not None else None
        self._watched: dict[str, asyncio.Task[Trained]] = {}
        self._waiting = 0
        self._closed = False

    findable = True
    """Whether `_again` knows all runs, so that what it does not know was never started."""

    # ---- what a connector asks

    async def _start(self, key: str, variables: Mapping[str, str]) -> str:
        """Start it and return what the other side calls it; variables: what the training must be told."""
        raise NotImplementedError

    async def _again(self, key: str) -> str | None:
        """Return what the other side calls the run of a key; None = it has none."""
        raise NotImplementedError

    async def _look(self, run: str) -> Look:
        """Say how it is; a run that is not there any more has failed."""
        raise NotImplementedError

    async def _report(self, run: str) -> Any:
        """Return the report of a run that has succeeded: JSON or its text, None = it left none."""
        raise NotImplementedError

    async def _end(self, run: str) -> None:
        """End it; none that runs is no failure."""
        raise NotImplementedError

    def _used(self) -> Mapping[str, Any]:
        """Return the code and parameters that it was started with, for the journal."""
        raise NotImplementedError

    # ---- ability: Trainer

    async def train(self, model: str, key: str) -> Trained:
        """Train, or wait for the training of that key, or return what it gave; as connectors/trainer.py does."""
        if model != self._told.model:
            raise Refused(
                f"{self.name} trains {self._told.model}, not {model}: say which with `via:`"
            )
        watched = self._watched.get(key)
        if watched is None or watched.done():
            busy = next((k for k, task in self._watched.items() if not task.done()), None)
            if busy is not None:
                raise Unavailable(f"{model} is being trained already (step {busy})", wait_s=10.0)
            watched = asyncio.create_task(self._train(key), name=f"training {key}")
            watched.add_done_callback(_looked_at)
            self._watched = {key: watched}
        self._waiting += 1
        try:
            return await asyncio.shield(watched)
        finally:
            self._waiting -= 1
            if self._closed and not self._waiting:
                await self.close()

    async def find(self, key: str) -> Trained | None:
        """Return what the training of that key gave; None when it was never started, runs still, or failed."""
        record = await asyncio.to_thread(self._once.find, key)
        if record.get("state") != "begun":
            return trained(record["report"]) if "report" in record else None
        run = record.get("run") or await self._again(key)
        if run is None or (await self._look(run)).state != "succeeded":
            return None
        try:
            return await self._conclude(key, run)
        except Refused:
            return None  # kept as failed: `train` says why

    async def cancel(self, key: str) -> None:
        """End the training of a key; it has failed then. Nothing happens when it has ended, or never began."""
        record = await asyncio.to_thread(self._once.find, key)
        if record.get("state") != "begun":
            return
        run = record.get("run") or await self._again(key)
        await self._stop(key, run, "was called off")

    async def close(self) -> None:
        """Stop watching, once no step waits for it; a training that runs goes on and is found again."""
        self._closed = True
        if self._waiting:
            return
        for task in self._watched.values():
            task.cancel()
        await asyncio.gather(*self._watched.values(), return_exceptions=True)
        await self._door.close()
        if self._runs is not None:
            await self._runs.close()

    # ---- one training

    async def _train(self, key: str) -> Trained:
        record = await asyncio.to_thread(self._once.find, key)
        if "report" in record:
            return trained(record["report"])
        if "error" in record:
            raise Refused(str(record["error"]))
        run, started = record.get("run"), float(record.get("started", time.time()))
        if run is None:
            run = await self._again(key)
            if run is None and record and not self.findable:
                raise Uncertain(
                    f"a training of {self._told.model} was asked for, for {key}, and the answer was not seen; "
                    "look whether it runs"
                )
            adopted = run is not None
            run = run or await self._begin(key, again=bool(record))
            log.info(
                "training_adopted" if adopted else "training_started",
                model=self._told.model, key=key, run=run,
            )  # fmt: skip
            await asyncio.to_thread(self._once.note, key, {"run": run, "started": started})
        return await self._follow(key, run, started + self._told.limit - time.time())

    async def _begin(self, key: str, *, again: bool) -> str:
        model = self._told.model
        if held := await self._hold():
            raise Refused(f"retraining of {model} is held: {held}")
        more = await self._runs.open(model, key) if self._runs is not None else {}
        await asyncio.to_thread(self._once.begin, key)
        try:
            return await self._start(key, {"HOMEOSTAT_KEY": key, "HOMEOSTAT_MODEL": model, **more})
        except (Unavailable, Refused):
            if not again:
                await asyncio.to_thread(self._once.forget, key)
            raise

    async def _follow(self, key: str, run: str, left_s: float) -> Trained:
        """Look until it has ended; one that can not be seen is waited for, as it may run on."""
        end, pause, problem = time.monotonic() + left_s, self._told.every, ""
        while True:
            try:
                look = await self._look(run)
            except AgentError as blind:
                if str(blind) != problem:
                    log.warning(
                        "training_not_seen", model=self._told.model, key=key, error=str(blind)
                    )
                look, problem = Look("runs"), str(blind)
                pause = min(2 * pause, max(_LONGEST_PAUSE_S, self._told.every))
            else:
                pause, problem = self._told.every, ""
            if look.state == "succeeded":
                return await self._conclude(key, run)
            if look.state == "failed":
                raise self._failed(key, "failed" + (f": {look.words}" if look.words else ""))
            if time.monotonic() > end:
                why = f"took longer than {say_duration(self._told.limit)}"
                raise await self._stop(key, run, why)
            await asyncio.sleep(min(pause, max(0.01, end - time.monotonic())))

    async def _stop(self, key: str, run: str | None, why: str) -> Refused:
        """End a run and keep that it was; raises Uncertain when it can not be ended."""
        try:
            if run is not None:
                await self._end(run)
        except AgentError as problem:
            raise Uncertain(
                f"the training of {self._told.model} {why} and could not be ended ({problem}): look at run {run}"
            ) from None
        if self._runs is not None:
            await self._runs.end(key, "KILLED")
        return self._failed(key, f"{why} and was ended")

    async def _conclude(self, key: str, run: str) -> Trained:
        if self._runs is not None:
            said: Any = await self._runs.report(self._told.model, key)
            wanted = f"a version of {self._told.model} registered from its MLflow run"
        else:
            said = await self._report(run)
            wanted = "a JSON object with `version`"
        report = read_report(said, key)
        if report is None:
            raise self._failed(key, f"ended without a report, which is {wanted}")
        report = {
            **report,
            **{k: v for k, v in self._used().items() if not report.get(k)},
            "job": run,
        }
        await asyncio.to_thread(self._once.end, key, {"report": report})
        if self._runs is not None:
            await self._runs.end(key, "FINISHED")
        log.info("training_done", model=self._told.model, key=key, version=report["version"])
        return trained(report)

    def _failed(self, key: str, how: str) -> Refused:
        error = f"the training of {self._told.model} {how}"
        if said := self._once.find(key).get("error"):
            return Refused(str(said))  # it was called off, which is why it has failed
        self._once.end(key, {"error": error})
        log.warning("training_failed", model=self._told.model, key=key, error=error)
        return Refused(error)

    async def _hold(self) -> str:
        return await self._runs.held(self._told.model) if self._runs is not None else ""

    async def describe(self) -> Sequence[str]:
        """Say what would be started; starts nothing."""
        out = [f"trains model:{self._told.model}, at most {say_duration(self._told.limit)}"]
        try:
            out.append(await self._seen())
            if held := await self._hold():
                out.append(f"training is held: {held}")
        except AgentError as problem:
            out.append(str(problem))
        return out

    async def _seen(self) -> str:
        """Say what the other side is, as far as a look tells."""
        raise NotImplementedError

    # ---- asking

    async def _ask(
        self,
        method: Method,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        fine: frozenset[int] = frozenset(),
    ) -> Answer:
        """Ask once; other than 2xx and `fine` raises Unavailable, Refused, Uncertain."""
        answer = await self._door.ask(
            method, url, timeout_s=self._told.timeout, headers=headers, body=body,
            most_bytes=8 * MOST_REPORT_BYTES,
        )  # fmt: skip
        status = answer.status
        if answer.ok or status in fine:
            return answer
        words = command_line([answer.body[:400].decode("utf-8", "replace")])
        said = f"{method} {redacted(url)}: {status}" + (f", {words}" if words else "")
        if status in _NOT_NOW or (method == "GET" and status >= 500):
            raise Unavailable(said, wait_s=retry_after(answer.headers))
        if status < 500:
            raise Refused(said)
        raise Uncertain(f"{said}; it may have been done")


def read(answer: Answer) -> Any:
    """Return an answer read as JSON; None where it is none."""
    try:
        return answer.json()
    except ValueError:
        return None


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Return JSON with `{key}`, `{model}`, `{mlflow_run}` and `{mlflow_uri}` in its texts replaced."""
    if isinstance(value, str):
        for place, name in _PLACES.items():
            value = value.replace(f"{{{place}}}", variables.get(name, ""))
        return value
    if isinstance(value, dict):
        return {k: filled(v, variables) for k, v in value.items()}
    return [filled(v, variables) for v in value] if isinstance(value, list) else value


def label_of(model: str, key: str) -> str:
    """Return a name for the run of a key that every system takes: lower case, at most 63 characters."""
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in model.lower())
    return f"homeostat-{plain[:30].strip('-')}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _looked_at(task: asyncio.Task[Trained]) -> None:
    """Keep asyncio from complaining of a failure that the journal has and that nobody waited for."""
    if not task.cancelled():
        task.exception()
