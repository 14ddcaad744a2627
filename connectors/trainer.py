"""Runs the training command of a model, once per key, and reads its report.

    trainer:
      model: scoring
      command: [/opt/scoring/bin/retrain, --recent, 7d]
      directory: /srv/models

The command gets HOMEOSTAT_KEY (the same for every try of the same step), HOMEOSTAT_MODEL and HOMEOSTAT_REPORT in its
environment. It must print one JSON object as its last line of standard output and end with status 0:

    {"version": "7", "holdback": {...}, "data": ..., "code": ..., "params": ...}

(see playbooks/actions/retrain.py for `holdback`), and may write the same object to the file $HOMEOSTAT_REPORT. With

      mlflow: {url: http://mlflow:5000, experiment: scoring}

it gets MLFLOW_TRACKING_URI and MLFLOW_RUN_ID, too, and its report is what it logs to that run: see
connectors/_mlflow_runs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import structlog
from pydantic import Field

from agent.errors import AgentError, Refused, Unavailable
from agent.registry import connector
from agent.secret import environment_of
from agent.units import Model, Span, say_duration
from connectors._mlflow_runs import Runs, RunsAt
from connectors._proc import command_line
from connectors._trained import MOST_REPORT_BYTES, Trained, read_report, trained

log = structlog.get_logger()

_ENVIRONMENT: Final = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")
_MOST_OUTPUT_BYTES: Final = 64 << 20
_KEPT: Final = 50
_LOOK_S: Final = 0.2
_MERCY_S: Final = 5.0
"""From SIGTERM to SIGKILL."""
_NICE: Final = 10
_OOM_SCORE: Final = 500
"""When memory runs out, training goes before the service that it trains for (proc(5), oom_score_adj)."""


@connector("trainer")
class Trainer:
    """A command that trains a new version and never puts it to use.

    Ability  Trainer (see playbooks/actions/retrain.py)
    It runs without a shell, at low priority, in a session of its own, with an environment of a few named variables;
    its output goes to files that only we may read. It outlives this daemon: after a restart the same key waits for
    the one that still runs, or finds its report. A lock that it inherits tells that it runs, whatever its pid.
    Its own try of the same key should be harmless: it is started again when it died without a report.
    """

    tested = "real programs"

    class Config(Model):
        """Which command trains which model."""

        model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
        command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
        timeout: Span = 1800.0
        workdir: Path | None = None
        env: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = []
        """Names of further variables that it may see; PATH, HOME and the like always."""
        directory: Path | None = None
        """The model directory: training is refused while it is held there, and the new version must be in it."""
        reports: Path | None = None
        """Folder where the command writes its reports; default: in our state."""
        mlflow: RunsAt | None = None
        """Its report is a run there, and training is refused while the tag `retraining_held` is on the model."""

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._folder = (state / "trainer" / name) if state is not None else None
        self._watched: dict[str, asyncio.Task[Trained]] = {}
        self._waiting = 0
        self._closed = False
        self._runs = Runs(config.mlflow) if config.mlflow is not None else None

    # ---- ability: Trainer

    async def train(self, model: str, key: str) -> Trained:
        """Train, or wait for the training of that key, or return what it gave.

        Cancelling the wait does not end the training. Raises Refused (held, failed, too long, not our model),
        Unavailable (another training runs, or the disk is full: nothing was started).
        """
        if model != self.config.model:
            raise Refused(
                f"{self.name} trains {self.config.model}, not {model}: say which with `via:`"
            )
        watched = self._watched.get(key)
        if watched is None or watched.done():
            for other, task in self._watched.items():
                if not task.done():
                    raise Unavailable(
                        f"{model} is being trained already (step {other})", wait_s=10.0
                    )
            watched = asyncio.create_task(self._told(key), name=f"training {key}")
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
        job = await asyncio.to_thread(self._job, key)
        record = await asyncio.to_thread(job.record)
        if record.get("state") == "done":
            return trained(record["report"])
        if record.get("state") != "running" or await asyncio.to_thread(job.runs):
            return None
        report = await self._written(job)
        if report is None:
            return None
        try:
            return await asyncio.to_thread(self._conclude, job, None, report)
        except Refused:
            return None  # kept as failed: `train` says why

    async def describe(self) -> Sequence[str]:
        """Say what would be run, and whether it may; runs nothing."""
        program = shutil.which(self.config.command[0], path=os.environ.get("PATH"))
        out = [
            f"trains model:{self.config.model} by {command_line(self.config.command)}"
            + ("" if program else ": NOT FOUND, training would be refused"),
            f"at most {say_duration(self.config.timeout)}, at priority {_NICE}",
        ]
        try:
            if held := await self._hold():
                out.append(f"training is held: {held}")
        except AgentError as problem:
            out.append(str(problem))
        return out

    async def close(self) -> None:
        """Stop watching, once no step waits for it; a training that runs goes on and is found again."""
        self._closed = True
        if self._waiting:
            return
        for task in self._watched.values():
            task.cancel()
        await asyncio.gather(*self._watched.values(), return_exceptions=True)
        if self._runs is not None:
            await self._runs.close()

    # ---- one training

    async def _told(self, key: str) -> Trained:
        """Train, and tell MLflow how it ended where the command did not."""
        try:
            made = await self._train(key)
        except Refused:
            if self._runs is not None:
                await self._runs.end(key, "FAILED")
            raise
        if self._runs is not None:
            await self._runs.end(key, "FINISHED")
        return made

    async def _train(self, key: str) -> Trained:
        job = await asyncio.to_thread(self._job, key)
        record = await asyncio.to_thread(job.record)
        if record.get("state") == "done":
            return trained(record["report"])
        if record.get("state") == "failed":
            raise Refused(str(record["error"]))
        lock = await _lock(job)
        if lock is None:
            log.info("training_adopted", model=self.config.model, key=key)
            left = float(record.get("started", time.time())) + self.config.timeout - time.time()
            return await self._follow(job, None, record.get("pid"), max(0.0, left))
        try:
            if (report := await self._written(job)) is not None:
                return self._conclude(job, None, report)  # it ended while nobody looked
            if held := await self._hold():
                raise Refused(f"retraining of {self.config.model} is held: {held}")
            process = await self._start(job, lock)
        finally:
            os.close(lock)  # the command has its own copy
        log.info("training_started", model=self.config.model, key=key, pid=process.pid)
        return await self._follow(job, process, process.pid, self.config.timeout)

    async def _start(self, job: _Job, lock: int) -> asyncio.subprocess.Process:
        config = self.config
        more = await self._runs.open(config.model, job.key) if self._runs is not None else {}
        started = {
            "key": job.key,
            "model": config.model,
            "state": "running",
            "started": time.time(),
        }
        job.write(started)
        environment = environment_of((*_ENVIRONMENT, *config.env))
        environment |= {
            "HOMEOSTAT_KEY": job.key,
            "HOMEOSTAT_MODEL": config.model,
            "HOMEOSTAT_REPORT": str(job.report_file),
            **more,
        }
        try:
            with job.open("out") as out, job.open("err") as err:
                process = await asyncio.create_subprocess_exec(
                    *config.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    cwd=config.workdir,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
        except OSError as wrong:
            job.remove()
            raise Refused(
                f"the training command {config.command[0]} cannot be started: {wrong.strerror}; "
                f"mend `command` or `workdir` of {self.name}"
            ) from None
        _lower(process.pid)
        job.write({**started, "pid": process.pid})
        return process

    async def _follow(
        self, job: _Job, process: asyncio.subprocess.Process | None, pid: Any, left_s: float
    ) -> Trained:
        """Wait for the end of a training, ours or one that we found running; end it when it takes too long."""
        end = time.monotonic() + left_s
        while True:
            if process is not None:
                # not wait_for: before Python 3.12 it can swallow a cancellation, and this goes on for ever
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await process.wait()
                over = process.returncode is not None
            else:
                await asyncio.sleep(_LOOK_S)
                over = not job.runs()
            if over:
                break
            problem = ""
            if time.monotonic() > end:
                problem = f"took longer than {say_duration(self.config.timeout)}"
            elif job.output_bytes() > _MOST_OUTPUT_BYTES:
                problem = f"printed more than {_MOST_OUTPUT_BYTES >> 20} MiB"
            if problem:
                ended = await self._end(job, process, pid)
                raise self._failed(
                    job,
                    f"{problem} and "
                    + (
                        "was ended"
                        if ended
                        else f"could not be ended: see who holds {job.file('lock')}"
                    ),
                )
        code = process.returncode if process is not None else None
        report = None if code else await self._written(job)
        return await asyncio.to_thread(self._conclude, job, code, report)

    def _conclude(self, job: _Job, code: int | None, report: dict[str, Any] | None) -> Trained:
        """Keep the outcome. code None: nobody saw the status; a whole report then stands for success."""
        if code:
            said = job.last_words()
            raise self._failed(job, f"ended with status {code}" + (f": {said}" if said else ""))
        if report is None:
            wanted = (
                "the last line of its standard output must be a JSON object with `version`"
                if self._runs is None
                else f"it must register a version of {self.config.model} from the run MLFLOW_RUN_ID, and not fail it"
            )
            raise self._failed(job, f"ended without a report: {wanted}")
        made = trained(report)
        where = self.config.directory
        if (
            where is not None
            and not (where / self.config.model / made.version / "metadata.json").exists()
        ):
            raise self._failed(
                job,
                f"reports version {made.version}, which is not in {where / self.config.model}",
            )
        job.write(
            {
                **job.record(),
                "key": job.key,
                "state": "done",
                "ended": time.time(),
                "report": report,
            }
        )
        job.tidy()
        log.info("training_done", model=self.config.model, key=job.key, version=made.version)
        return made

    def _failed(self, job: _Job, how: str) -> Refused:
        error = f"the training of {self.config.model} {how}; see {job.file('err')}"
        job.write(
            {
                **job.record(),
                "key": job.key,
                "state": "failed",
                "ended": time.time(),
                "error": error,
            }
        )
        log.warning("training_failed", model=self.config.model, key=job.key, error=error)
        return Refused(error)

    async def _end(self, job: _Job, process: asyncio.subprocess.Process | None, pid: Any) -> bool:
        """End the command with all of its group; False when that did not work or its pid was never kept."""

        def over() -> bool:
            return process.returncode is not None if process is not None else not job.runs()

        if not isinstance(pid, int):
            return over()
        for what in (signal.SIGTERM, signal.SIGKILL):
            # while one of the group lives, its number is not given away; `over` tells that one does
            if over():
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, what)
            for _ in range(int(_MERCY_S / 0.05)):
                await asyncio.sleep(0.05)
                if over():
                    break
        if over() and job.runs():
            # it ended and left children behind that ignore SIGTERM; their group keeps its number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        return over()

    async def _written(self, job: _Job) -> dict[str, Any] | None:
        """Return the report of a command that has ended; None = it left none."""
        if self._runs is not None:
            return await self._runs.report(self.config.model, job.key)
        return await asyncio.to_thread(job.written_report)

    async def _hold(self) -> str:
        """Return why training is held; "" = it is not."""
        held = await asyncio.to_thread(self._held)
        if not held and self._runs is not None:
            held = await self._runs.held(self.config.model)
        return held

    def _held(self) -> str:
        """Return why training is held in the model directory; "" = it is not."""
        if self.config.directory is None:
            return ""
        path = self.config.directory / self.config.model / "RETRAINING_HELD"
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        except OSError as wrong:
            return f"{path} cannot be read: {wrong.strerror}"
        return lines[0].strip() if lines and lines[0].strip() else "no reason given"

    def _job(self, key: str) -> _Job:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="homeostat-trainer-"))
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.config.reports is not None:
                self.config.reports.mkdir(parents=True, exist_ok=True)
        except OSError as wrong:
            raise Unavailable(
                f"the records of trainings cannot be kept in {self._folder}: {wrong.strerror}"
            ) from None
        return _Job(key, self._folder, self.config.reports or self._folder)


async def _lock(job: _Job) -> int | None:
    """Take the lock of a job; None when its command runs. A mere look by `find` holds it for a moment only."""
    for _ in range(5):
        if (lock := job.lock()) is not None:
            return lock
        await asyncio.sleep(0.05)
    return None


def _looked_at(task: asyncio.Task[Trained]) -> None:
    """Keep asyncio from complaining of a failure that the journal has and that nobody waited for."""
    if not task.cancelled():
        task.exception()


def _lower(pid: int) -> None:
    """Give a new session low priority for CPU and memory: the group, and its autogroup where there is one."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, pid, _NICE)
    for name, value in (("autogroup", _NICE), ("oom_score_adj", _OOM_SCORE)):
        with contextlib.suppress(OSError):  # not on this kernel, or it has ended
            Path("/proc", str(pid), name).write_text(str(value), encoding="ascii")


class _Job:
    """The files of one training: record (.run), lock, output (.out, .err), and the report that it may write."""

    def __init__(self, key: str, folder: Path, reports: Path) -> None:
        self.key = key
        slug = re.sub(r"[^A-Za-z0-9_.-]", "_", key)[:120]
        # two keys may give the same slug; our own files must never be mixed up
        self._stem = folder / f"{slug[:80]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        self.report_file = reports / f"{slug}.json"

    def file(self, kind: str) -> Path:
        """Return the path of one of the files."""
        return self._stem.with_name(f"{self._stem.name}.{kind}")

    def open(self, kind: str) -> Any:
        """Open an output file anew; only we may read it."""
        handle = os.open(
            self.file(kind), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        return os.fdopen(handle, "wb")

    def record(self) -> dict[str, Any]:
        """Return what is known of this training; {} when it was never started or the record is damaged."""
        try:
            record = json.loads(self.file("run").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return record if isinstance(record, dict) and record.get("key") == self.key else {}

    def write(self, record: Mapping[str, Any]) -> None:
        """Keep the record durably; raises Unavailable when the disk does not take it."""
        fresh = self.file("new")
        try:
            with fresh.open("w", encoding="utf-8") as out:
                json.dump(record, out)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self.file("run"))
        except OSError as wrong:
            raise Unavailable(f"{fresh} cannot be written: {wrong.strerror}") from None

    def remove(self) -> None:
        """Forget this training."""
        for kind in ("run", "out", "err"):
            self.file(kind).unlink(missing_ok=True)

    def lock(self) -> int | None:
        """Take the lock that the command will hold; None when a living one holds it."""
        handle = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def runs(self) -> bool:
        """Tell whether the command lives: it holds the lock, and the kernel takes it back when it ends."""
        handle = self.lock()
        if handle is None:
            return True
        os.close(handle)
        return False

    def output_bytes(self) -> int:
        """Return how much it has printed."""
        size = 0
        for kind in ("out", "err"):
            with contextlib.suppress(FileNotFoundError):
                size += self.file(kind).stat().st_size
        return size

    def written_report(self) -> dict[str, Any] | None:
        """Return the report: the last line of its output, else the file that it may have written; None = none."""
        texts = [self._last_line("out")]
        with contextlib.suppress(OSError):
            if self.report_file.stat().st_size <= MOST_REPORT_BYTES:
                texts.append(self.report_file.read_bytes())
        return next((r for text in texts if (r := read_report(text, self.key))), None)

    def last_words(self) -> str:
        """Return the last line that it complained with, secrets masked."""
        return command_line([self._last_line("err").decode("utf-8", "replace")])

    def _last_line(self, kind: str) -> bytes:
        try:
            with self.file(kind).open("rb") as lines:
                size = lines.seek(0, os.SEEK_END)
                lines.seek(max(0, size - MOST_REPORT_BYTES))
                return lines.read().rstrip().rpartition(b"\n")[2]
        except FileNotFoundError:
            return b""

    def tidy(self) -> None:
        """Let the oldest trainings go; those that run keep their files."""
        records = sorted(self._stem.parent.glob("*.run"), key=lambda p: p.stat().st_mtime)
        for old in records[:-_KEPT]:
            for kind in ("run", "out", "err", "lock"):
                old.with_suffix(f".{kind}").unlink(missing_ok=True)
