"""Workers of a gunicorn: how many there are, and more or fewer of them by its own signals (TTIN, TTOU).

    gunicorn:
      service: scoring
      pidfile: /run/scoring/gunicorn.pid
      max_workers: 8

The master is found by its pid file and checked before every signal: it must be alive, be a gunicorn, not be younger
than the file, and catch the signal. An uncaught SIGTTIN would stop the process that gets it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
import structlog
from pydantic import Field, model_validator

from agent.config import Name
from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Change, Edge, Entity, Frame, Series, Sighting
from agent.registry import connector
from agent.units import Duration, Model, many
from connectors._proc import HERTZ, Stat, parse_stat, process_entity, scan

log = structlog.get_logger()

_PROC: Final = Path("/proc")
_SLACK_S: Final = 5.0
"""A pid file is written some moments after its process has started; clocks are adjusted by as much."""
_LOOK_S: Final = 0.05
_WORKER_TITLE: Final = b"gunicorn: worker"
"""What a worker calls itself where the package setproctitle is installed."""


@dataclass(frozen=True, slots=True)
class _Master:
    """The process that starts and ends workers. command: its arguments, joined by NUL as the kernel gives them."""

    pid: int
    start: int
    group: int
    command: bytes


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as a restart sees it. birth: `pid/start`; a worker that lives is well: the master ends others."""

    replica: str
    birth: str
    well: bool = True


@connector("gunicorn")
class Gunicorn:
    """One gunicorn on this host.

    Source   service.replicas_count, the service and its replicas with their processes, a Change when it was restarted
    Abilities  Scaler (see playbooks/actions/scale.py), Restarter (see playbooks/actions/restart.py)
    Workers are the children of the master that run its very command line, or are titled so; one that drains after
    TTOU counts until it has ended. A dirty arbiter (gunicorn 25 and later) counts as one where nothing sets titles.
    Cost: 20 us a worker, and 15 us a process of the host where the kernel does not list children.
    """

    tested = "gunicorn 27"

    class Config(Model):
        """Which gunicorn, and how far it may be scaled."""

        service: Name
        pidfile: Path
        max_workers: Annotated[int, Field(ge=1, le=1024)]
        """Never more: memory and cores set this limit, so nobody can guess it for you."""
        min_workers: Annotated[int, Field(ge=1)] = 1
        wait: Annotated[Duration, Field(gt=0, le=300)] = 20.0
        """How long a worker may take to start, or to finish its requests and end."""

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            if self.min_workers > self.max_workers:
                raise ValueError("min_workers is above max_workers")
            return self

    interval_s = 2.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._service = Entity("service", config.service)
        self._series = (Series("service.replicas_count", self._service),)
        self._master: _Master | None = None
        self._slots: dict[tuple[int, int], int] = {}
        self._told: dict[Entity, Sighting] = {}
        self._turn = asyncio.Lock()

    # ---- source

    async def poll(self) -> Frame:
        """Count the workers. A gunicorn that we have seen and that is gone has 0; one never seen is Unavailable."""
        now = time.time()
        try:
            master = self._find()
        except Unavailable:
            if self._master is None:
                raise
            return Frame(self.name, now, self._series, np.zeros(1), tuple(self._sight(None, [])))
        changes: list[Change] = []
        old, self._master = self._master, master
        if old is not None and (old.pid, old.start) != (master.pid, master.start):
            changes.append(
                Change(
                    min(now, _started(master.start)), self._service, "restart",
                    f"gunicorn {old.pid}", f"gunicorn {master.pid}", text="the master was replaced",
                )
            )  # fmt: skip
        workers = self._workers(master)
        seen = self._sight(master, workers)
        values = np.array([float(len(workers))])
        return Frame(self.name, now, self._series, values, tuple(seen), tuple(changes))

    def _sight(self, master: _Master | None, workers: Sequence[Stat]) -> list[Sighting]:
        """Return what is new about the service and its replicas."""
        self._number(workers)
        there: dict[Entity, Sighting] = {}
        if master is not None:
            group = _leader(master)
            attrs = (("pid", str(master.pid)), ("pidfile", str(self.config.pidfile)))
            there[self._service] = Sighting(
                self._service, attrs, (Edge("serves", group, self._service),)
            )
            for (pid, _), n in self._slots.items():
                me = Entity("replica", f"{self.config.service}/{n}")
                edges = (Edge("serves", me, self._service), Edge("runs_on", me, group))
                there[me] = Sighting(me, (("pid", str(pid)),), edges)
        seen = [s for e, s in there.items() if self._told.get(e) != s]
        seen += [
            Sighting(e, gone=True) for e in self._told if e.kind == "replica" and e not in there
        ]
        # the service itself stays on the map with what config says of it
        self._told = {e: s for e, s in self._told.items() if e == self._service} | there
        return seen

    def _number(self, workers: Sequence[Stat]) -> None:
        """Give each worker a number of its own, which it keeps while it lives."""
        alive = {(w.pid, w.start_ticks) for w in workers}
        self._slots = {who: n for who, n in self._slots.items() if who in alive}
        taken = set(self._slots.values())
        for worker in sorted(workers, key=lambda w: (w.start_ticks, w.pid)):
            who = (worker.pid, worker.start_ticks)
            if who not in self._slots:
                self._slots[who] = next(n for n in range(len(workers) + 1) if n not in taken)
                taken.add(self._slots[who])

    # ---- ability: Restarter

    async def units(self, service: str) -> Sequence[Worker]:
        """Return the workers; raises Refused for another service, Unavailable when it is down."""
        self._ours(service)
        workers = self._workers(self._find())
        self._number(workers)
        return [
            Worker(f"replica:{self.config.service}/{n}", f"{pid}/{start}")
            for (pid, start), n in sorted(self._slots.items(), key=lambda slot: slot[1])
        ]

    async def restart(self, service: str, birth: str) -> None:
        """End one worker by SIGTERM: it finishes its requests, and the master starts another in its place.

        The new one takes requests when it has loaded the application; nobody waits for it meanwhile, as all workers
        take from one queue. `wait` is for both of it.
        """
        self._ours(service)
        async with self._turn:
            master = self._find()
            before = self._workers(master)
            worker = next((w for w in before if f"{w.pid}/{w.start_ticks}" == birth), None)
            if worker is None:
                raise Refused(f"{service} runs no worker {birth}: it has ended already")
            _send(
                _Master(worker.pid, worker.start_ticks, worker.group, master.command),
                signal.SIGTERM,
            )
            end = time.monotonic() + self.config.wait
            while _stat(worker.pid) is not None:
                if time.monotonic() > end:
                    raise Uncertain(
                        f"worker {worker.pid} of {service} still finishes its requests after {self.config.wait:g} s"
                    )
                await asyncio.sleep(_LOOK_S)
            await self._until(master, len(before), first=True)

    # ---- ability: Scaler

    async def replicas(self, target: str) -> int:
        """Return how many workers there are; raises Refused for another service, Unavailable when it is down."""
        self._ours(target)
        return len(self._workers(self._find()))

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        """Start or end workers one by one until there are `n`, each awaited.

        Raises Refused (not `expect` now, out of bounds, an upgrade is going on), Unavailable (it is down),
        Uncertain (a signal was sent and the number did not follow within `wait`).
        """
        self._ours(target)
        if not self.config.min_workers <= n <= self.config.max_workers:
            raise Refused(
                f"{n} workers of {target} are out of bounds: {self.name} allows "
                f"{self.config.min_workers} to {self.config.max_workers}"
            )
        async with self._turn:
            master = self._find()
            now = len(self._workers(master))
            if now != expect:
                raise Refused(
                    f"{target} runs {now} workers, not {expect}: changed by others, look before you act"
                )
            if (upgrade := Path(f"{self.config.pidfile}.2")).exists():
                raise Refused(
                    f"{target} is being upgraded ({upgrade} exists): scale when that is over"
                )
            step = 1 if n > now else -1
            while now != n:
                # One at a time: the kernel merges equal signals that wait for the same process.
                try:
                    _send(master, signal.SIGTTIN if step > 0 else signal.SIGTTOU)
                except (Unavailable, Refused) as problem:
                    if now == expect:
                        raise
                    raise Uncertain(f"{target} runs {now} of {n} workers: {problem}") from None
                await self._until(master, now + step, first=now == expect)
                now += step

    async def _until(self, master: _Master, n: int, *, first: bool) -> None:
        """Wait until there are `n` workers at two looks in a row."""
        end = time.monotonic() + self.config.wait
        steady = 0
        while steady < 2:
            await asyncio.sleep(_LOOK_S)
            there = _stat(master.pid)
            if there is None or there.start_ticks != master.start:
                raise Uncertain(
                    f"gunicorn {master.pid} of {self._service} ended while it was scaled; look at its log"
                )
            now = len(self._workers(master))
            steady = steady + 1 if now == n else 0
            if steady == 0 and time.monotonic() > end:
                raise Uncertain(
                    f"gunicorn {master.pid} of {self._service} was told to run {n} workers and runs {now} after "
                    f"{self.config.wait:g} s"
                    + ("" if first else ", part of the way")
                    + "; it may still follow"
                )

    async def describe(self) -> Sequence[str]:
        """Say which gunicorn this is and how far it may be scaled."""
        try:
            master = self._find()
        except (Unavailable, Refused) as problem:
            return (str(problem),)
        workers = self._workers(master)
        may = _catches(master.pid, signal.SIGTTIN) and _owned(master.pid)
        pids = ", ".join(str(w.pid) for w in workers)
        return (
            f"{self._service}: gunicorn {master.pid} runs {many(len(workers), 'worker')} ({pids})",
            f"may run {self.config.min_workers} to {self.config.max_workers}"
            if may
            else "may only look: the process is not ours to signal",
        )

    # ---- the processes

    def _ours(self, target: str) -> None:
        if target.removeprefix("service:") != self.config.service:
            raise Refused(f"{self.name} runs {self._service}, not {target}: say which with `via:`")

    def _find(self) -> _Master:
        """Return the master; raises Unavailable when it is down, Refused when the file names something else."""
        path = self.config.pidfile
        try:
            written = path.stat().st_mtime
            text = path.read_text(encoding="ascii", errors="replace")[:32].strip()
        except FileNotFoundError:
            raise Unavailable(
                f"there is no {path}: start gunicorn with --pid, or mend `pidfile` of {self.name}"
            ) from None
        except OSError as wrong:
            raise Refused(f"{path} cannot be read: {wrong.strerror}") from None
        if not re.fullmatch(r"[1-9]\d{0,9}", text):
            if not text:
                raise Unavailable(f"{path} is empty: gunicorn is starting, or the disk was full")
            raise Refused(f"{path} holds no pid but {text!r}: mend `pidfile` of {self.name}")
        pid = int(text)
        found = _stat(pid)
        if found is None:
            raise Unavailable(f"{path} names process {pid}, which has ended: start the service")
        command = _command(pid)
        if b"gunicorn" not in command:
            raise Refused(
                f"{path} names process {pid} ({found.name}), which is no gunicorn: the file is stale"
            )
        if str(path).encode() not in command and _started(found.start_ticks) > written + _SLACK_S:
            raise Refused(
                f"{path} is older than process {pid} that it names: the file is stale; restart the service, or "
                "touch the file if you are sure (the clock was set)"
            )
        return _Master(pid, found.start_ticks, found.group, command)

    def _workers(self, master: _Master) -> list[Stat]:
        """Return the living workers, oldest first."""
        second = self._second_master()
        found = [
            child
            for child in _children(master.pid)
            if child.state not in "ZX"
            and child.pid != second
            and _is_worker(child.pid, master.command)
        ]
        return sorted(found, key=lambda w: (w.start_ticks, w.pid))

    def _second_master(self) -> int | None:
        """Return the pid of a new master during an upgrade (USR2): a child that is no worker."""
        try:
            return int(Path(f"{self.config.pidfile}.2").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None


def _stat(pid: int) -> Stat | None:
    """Return what the kernel says of a living process; None when it has ended."""
    try:
        found = parse_stat((_PROC / str(pid) / "stat").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return found if found.state not in "ZX" else None


def _command(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_worker(pid: int, command: bytes) -> bool:
    """Tell a forked worker from whatever else the master has started (resource trackers, loggers)."""
    own = _command(pid)
    return own == command or _WORKER_TITLE in own


def _children(pid: int) -> Iterable[Stat]:
    """Return the children: by the kernel's own list where it keeps one, else by a look at every process."""
    try:
        lists = [
            path.read_text(encoding="ascii")
            for path in (_PROC / str(pid) / "task").glob("*/children")
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []
    if lists:
        return [found for child in " ".join(lists).split() if (found := _stat(int(child)))]
    folder = os.open(_PROC, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [one for one in scan(folder).values() if one.parent == pid]
    finally:
        os.close(folder)


def _leader(master: _Master) -> Entity:
    """Return the process group that the master runs in, by its leader."""
    leader = _stat(master.group)
    if leader is None:
        return process_entity(master.pid, master.start)
    return process_entity(leader.pid, leader.start_ticks)


def _started(ticks: int) -> float:
    """Return when a process started, unix seconds."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / HERTZ


def _catches(pid: int, what: signal.Signals) -> bool:
    """Tell whether a process has a handler for a signal."""
    try:
        lines = (
            (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace").splitlines()
        )
    except (FileNotFoundError, ProcessLookupError):
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (what - 1) & 1)


def _owned(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _send(master: _Master, what: signal.Signals) -> None:
    """Signal exactly this master; the descriptor pins it against reuse of its pid."""
    try:
        handle = os.pidfd_open(master.pid)
    except ProcessLookupError:
        raise Unavailable(f"gunicorn {master.pid} has ended just now") from None
    try:
        found = _stat(master.pid)
        if found is None or found.start_ticks != master.start:
            raise Unavailable(f"gunicorn {master.pid} has ended just now")
        if not _catches(master.pid, what):
            raise Unavailable(
                f"gunicorn {master.pid} does not take {what.name} yet: it is starting, or it is no master",
                wait_s=1.0,
            )
        signal.pidfd_send_signal(handle, what)
    except PermissionError:
        raise Refused(
            f"gunicorn {master.pid} is not ours to signal: run the daemon as its user, or grant it CAP_KILL"
        ) from None
    finally:
        os.close(handle)
