"""A process beside the daemon for what is slow and heavy: training. Started when needed, ended when idle.

    Worker.train(job) --stdin--> python -m agent.worker: trainer.train(config, ts, values) --stdout--> the model

One job at a time; the daemon only waits on pipes. The process has the lowest CPU priority (unless told otherwise) and
one thread, is the first that the kernel ends when memory is short, may not allocate more than it was told, and ends by
itself when the daemon does. Kill it at any time: the job fails as Unavailable, and the next one gets a new process.
Libraries stay in it until it ends, so that two trainings in a row load them once; what it
returns are bytes that need none of them.

On the pipes: length u64 (little-endian), then a checkpoint (`agent/checkpoint.py`), in both directions: no pickle.
What libraries print goes to standard error, which is kept for the last words of a process that died.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from agent import checkpoint, registry
from agent.errors import Refused, Unavailable
from agent.model import FloatArray
from agent.units import say_duration

_SIZE: Final = struct.Struct("<Q")
_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 30
_CHUNK: Final = 1 << 20
_NICE: Final = 19
_OOM_SCORE: Final = 800
"""The kernel's first choice when memory runs out; the daemon itself must not be."""
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LOOK_S: Final = 1.0
_MERCY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Job:
    """One training.

    trainer   its name in `registry.trainer`; config is JSON-able
    ts        (k,) ascending; values (k, n), NaN = not known
    """

    trainer: str
    config: Mapping[str, Any]
    ts: FloatArray
    values: FloatArray


class Worker:
    """The one worker process of a daemon.

    limit_s        a job that takes longer is ended
    idle_s         so long after its last job the process ends
    memory_bytes   what the process may allocate (RLIMIT_DATA, where the system has it)
    nice           how far it steps back: 19 gets next to nothing on a host whose CPU is taken altogether
    """

    def __init__(
        self,
        *,
        limit_s: float = 900.0,
        idle_s: float = 60.0,
        memory_bytes: float = 4e9,
        nice: int = _NICE,
    ) -> None:
        self._limit_s = limit_s
        self._idle_s = idle_s
        self._memory_bytes = int(memory_bytes)
        self._nice = nice
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._said: IO[bytes] | None = None
        self._bell: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Process id while one lives; None = there is none, and none is needed."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and alive else None

    async def train(self, job: Job) -> bytes:
        """Return the model that the trainer makes.

        Raises Refused as the trainer does; Unavailable when it failed, took too long, or the process died.
        """
        module = registry.trainer.get(job.trainer).__module__
        async with self._turn:
            self._quiet()
            try:
                async with asyncio.timeout(self._limit_s):
                    data = await asyncio.to_thread(_pack, job, module)
                    answer = await self._ask(data)
            except TimeoutError:
                await self._kill()
                limit = say_duration(self._limit_s)
                raise Unavailable(
                    f"training {job.trainer} took longer than {limit} and was ended"
                ) from None
            except (OSError, EOFError) as broken:
                code = await self._kill(
                    mercy_s=_MERCY_S
                )  # it is ending by itself: how, its status tells
                raise Unavailable(
                    f"training {job.trainer}: the worker process {self._how(code, broken)}"
                ) from None
            except BaseException:
                await (
                    self._kill()
                )  # cancelled in the middle: what it still writes belongs to nobody
                raise
            self._bell = asyncio.get_running_loop().call_later(self._idle_s, self._dismiss)
        return _unpack(answer, job.trainer)

    async def close(self) -> None:
        """End the process, whatever it is at."""
        if self._bell is not None:
            self._bell.cancel()
        await self._kill()
        if self._said is not None:
            self._said.close()
            self._said = None

    async def _ask(self, data: bytes) -> bytes:
        process = await self._living()
        assert process.stdin is not None  # noqa: S101  # both are pipes: see _living
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(_SIZE.pack(len(data)))
        for at in range(0, len(data), _CHUNK):
            process.stdin.write(data[at : at + _CHUNK])
            await process.stdin.drain()
        (size,) = _SIZE.unpack(await process.stdout.readexactly(_SIZE.size))
        if size > _MOST_BYTES:
            raise EOFError(f"answered {size} bytes")
        return await process.stdout.readexactly(size)

    async def _living(self) -> asyncio.subprocess.Process:
        process = self._process
        if process is not None and process.returncode is None and not _sent_away(process):
            return process
        await self._kill()
        if self._said is not None:
            self._said.close()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agent.worker",
            str(os.getpid()), str(self._memory_bytes), str(self._nice),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._said,
            env={**os.environ, **dict.fromkeys(_THREADS, "1")}, start_new_session=True,
        )  # fmt: skip
        return self._process

    def _dismiss(self) -> None:
        """Let an idle process go: it ends when its input does."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _quiet(self) -> None:
        if self._bell is not None:
            self._bell.cancel()
            self._bell = None

    async def _kill(self, mercy_s: float = 0.0) -> int | None:
        """End the process, after waiting `mercy_s` for it; returns its exit status, None when there was none."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.stdin is not None:
            process.stdin.close()
        if mercy_s:
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(process.wait(), mercy_s)
        if process.returncode is None:
            # not process.kill(): that looks first whether it has ended, and then takes its status from asyncio
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        return await process.wait()

    def _how(self, code: int | None, broken: Exception) -> str:
        """Say how the process ended, with its last words."""
        how = f"broke off ({broken})"
        if code is not None and code != 0:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended ({code})"
        last = b""
        if self._said is not None:
            size = self._said.seek(0, os.SEEK_END)
            self._said.seek(max(0, size - 4096))
            last = self._said.read().rstrip().rpartition(b"\n")[2]
        text = last.decode("utf-8", "replace")[:300]
        return how + (f": {text}" if text else "")


def _sent_away(process: asyncio.subprocess.Process) -> bool:
    """Tell whether its input is closed: it is on its way out and must not be asked."""
    return process.stdin is None or process.stdin.is_closing()


def _pack(job: Job, module: str) -> bytes:
    meta = {"trainer": job.trainer, "module": module, "config": dict(job.config)}
    return checkpoint.write("job", _VERSION, meta, {"ts": job.ts, "values": job.values})


def _unpack(answer: bytes, trainer: str) -> bytes:
    meta, arrays = checkpoint.read("answer", _VERSION, answer)
    if meta["refused"]:
        raise Refused(f"{trainer}: {meta['refused']}")
    if meta["failed"]:
        raise Unavailable(f"training {trainer} failed: {meta['failed']}")
    return arrays["model"].tobytes()


# ---------------------------------------------------------------- in the process


def _work(data: bytes) -> bytes:
    """Do one job; whatever goes wrong is the answer."""
    refused = failed = ""
    model = b""
    try:
        meta, arrays = checkpoint.read("job", _VERSION, data)
        importlib.import_module(meta["module"])  # runs the decorator
        cls = registry.trainer.get(meta["trainer"])
        model = cls.train(cls.Config(**meta["config"]), arrays["ts"], arrays["values"])
    except Refused as no:
        refused = str(no)
    except Exception as error:  # noqa: BLE001  # the border: a trainer's bug is told, and the next job may be a good one
        failed = f"{type(error).__name__}: {error}"
    said = {"refused": refused, "failed": failed}
    return checkpoint.write("answer", _VERSION, said, {"model": np.frombuffer(model, np.uint8)})


def _step_back(memory_bytes: int, nice: int) -> None:
    """Take a lower priority and a limit on memory, as far as this system knows such things."""
    os.nice(nice)
    for name, value in (("autogroup", nice), ("oom_score_adj", _OOM_SCORE)):
        with contextlib.suppress(OSError):  # not on this system
            Path("/proc/self", name).write_text(str(value), encoding="ascii")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _end_with(parent: int) -> None:
    """End when the parent has: a training would go on for minutes for nobody."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def main() -> None:
    """Do one job after another until the input ends."""
    parent, memory_bytes, nice = (int(text) for text in sys.argv[1:4])
    _step_back(memory_bytes, nice)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get among the answers
    jobs = sys.stdin.buffer
    while len(head := jobs.read(_SIZE.size)) == _SIZE.size:
        answer = _work(jobs.read(_SIZE.unpack(head)[0]))
        answers.write(_SIZE.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    main()
