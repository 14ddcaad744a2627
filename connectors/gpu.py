"""NVIDIA GPUs through NVML, asked by a child that can be killed.

poll --{"id": 7}--> child (_nvml.py) --> libnvidia-ml.so.1 --> driver --> GPU
     <--one line of JSON--             any of these may hang: then the child is killed, later another is started
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import structlog
from pydantic import Field

from agent.errors import Refused, Unavailable
from agent.model import Edge, Entity, FloatArray, Frame, Series, Sighting
from agent.registry import connector
from agent.units import Duration, Model, many, say
from connectors._proc import head_of, process_entity, this_host

log = structlog.get_logger()

_LIBRARY: Final = "libnvidia-ml.so.1"
_SIGNS: Final = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/dxg", "/dev/nvhost-ctrl")
"""Where a driver shows: Linux, its /proc, WSL 2, Tegra."""
_ABSENT_S: Final = 60.0
"""Where there are signs of a driver but NVML says there is none, it is asked again after so long."""
_LONGEST_REST_S: Final = 60.0
_RESTS_S: Final = 15.0
"""How seldom it looks while another source tells most: as often as that one is asked."""
_AGAIN_S: Final = 60.0
"""How often it is told again who computes on which GPU."""
_FACTS: Final = ("name", "index", "bus", "memory_bytes", "multiprocessors")
_FIRST_NAMESPACE: Final = "pid:[4026531836]"
"""include/linux/proc_ns.h: PROC_PID_INIT_INO."""


@dataclass(slots=True)
class _Child:
    """A running child and what it has written that is no whole line yet."""

    process: subprocess.Popen[bytes]
    rest: bytes = b""


@dataclass(slots=True)
class _Card:
    """One GPU that was seen: facts for people, and the columns that it has ever had. of: whose instance it is."""

    entity: Entity
    of: Entity | None = None
    attrs: tuple[tuple[str, str], ...] = ()
    columns: set[Series] = field(default_factory=set)


class _Silent(Exception):
    """The child gave no answer: it hangs, or has ended. Does not leave this file."""


@connector("gpu")
class Gpu:
    """Utilization, memory, heat, power, clocks, throttling, errors, links, users and fan of each NVIDIA GPU.

    Emits `gpu.*` on `gpu:<UUID>` (25 to 40 series each, and one for each XID that the driver told of; what a GPU does
    not support is left out), `host.gpus_count`, whether the driver answers and fits its library, a sighting of each
    GPU with its edge to the host, edges of the process groups that compute on it and the GPU memory of each (not from
    inside a container with process numbers of its own: NVML speaks of those of the host). A GPU that was seen once and
    does not answer keeps its series: `gpu.reachable` is 0 and the rest NaN. So it is for all of them while NVML hangs.
    A GPU that is split (MIG) has its instances as entities of their own, `gpu:<MIG UUID>`, that run on it: memory and
    processes of each, for NVML tells no more of them. One that is taken down is gone, which is no fault.

    What another source tells of a GPU (dcgm-exporter through Prometheus) is left to that, series by series; the rest
    stays ours, and is looked for each 15 s once something of every GPU is told: whether it answers and the driver
    does, what the driver asks for, who computes, and whatever that exporter is not told to export.
    Without a driver it is silent: empty frames, no child, no log above debug, four looks for a file a poll.
    Cost with one: a child of about 17 MB, and about 0.5 ms of CPU a poll here, 0.1 to 2 ms a GPU there.
    A child that does not answer within `timeout` is killed; the next is started after a rest that grows to a minute,
    and never before the last one is dead (a process inside a hung driver can not be killed).

    Raises Unavailable when NVML fails or hangs before any GPU was seen, Refused when `library` holds no NVML.
    """

    tested = "NVML's own interface on a library of the tests"

    class Config(Model):
        """How to reach NVML."""

        timeout: Annotated[Duration, Field(gt=0, le=60)] = 4.0
        """How long a look may take."""
        library: Path | None = None
        """Folder of libnvidia-ml.so.1, where the system does not find it by itself (some clusters, NixOS)."""

    interval_s = 5.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._child: _Child | None = None
        self._dying: list[subprocess.Popen[bytes]] = []
        self._asked = 0
        self._not_before = -math.inf
        self._failures = 0
        self._problem = ""
        self._mismatched = False
        self._cards: dict[str, _Card] = {}
        self._series: tuple[Series, ...] = ()
        self._column: dict[Series, int] = {}
        self._driver = ""
        self._users: dict[Entity, tuple[Edge, ...]] = {}
        self._users_at = -math.inf
        self._pids_are_ours = _host_pids()
        self._covered: frozenset[Series] = frozenset()
        self._left: frozenset[Series] = frozenset()
        self.rests_s = 0.0
        """How seldom it need be asked; 0 = as ever."""

    def cede(self, covered: frozenset[Series]) -> None:
        """Leave series to a source that has them from elsewhere."""
        self._covered = covered

    async def poll(self) -> Frame:
        """Look at every GPU once."""
        ts = time.time()
        self._reap()
        if self._child is None and not self._cards and not self._signs():
            return Frame(self.name, ts, (), np.zeros(0))
        answer = await self._answer()
        if not answer and not self._cards and not self._mismatched:
            return Frame(self.name, ts, (), np.zeros(0))
        return self._frame(ts, answer)

    async def describe(self) -> Sequence[str]:
        """Say which GPUs there are."""
        if not self._signs():
            return ("no NVIDIA driver on this machine: nothing to see, and nothing is asked",)
        frame = await self.poll()
        driver = self._driver or "unknown"
        whole = sum(card.of is None for card in self._cards.values())
        lines = [f"driver {driver}, {many(whole, 'GPU')}, {len(frame.series)} series"]
        for uuid, card in sorted(self._cards.items()):
            facts = dict(card.attrs)
            memory = say(float(facts.get("memory_bytes", "nan")), "bytes")
            name = f"{facts.get('index', '?')}: {facts.get('name', '?')}"
            name = f"instance {name} of {card.of.key}" if card.of is not None else name
            lines.append(f"{name}, {memory}, {uuid}, {len(card.columns)} series")
        if self._left:
            lines.append(f"{len(self._left)} series are left to a source that tells them already")
        if self._problem:
            lines.append(self._problem)
        return lines

    def close(self) -> None:
        """End the child."""
        self._dismiss()
        for process in self._dying:
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                log.warning("gpu_child_stuck", pid=process.pid)
        self._reap()

    # ---- the child

    def _signs(self) -> bool:
        """Tell whether there may be a driver; only looks for files."""
        if self.config.library is not None:
            if not (self.config.library / _LIBRARY).exists():
                raise Refused(
                    f"no {_LIBRARY} in {self.config.library}; correct `library` of {self.name} or leave it out"
                )
            return True
        return driver_shows()

    async def _answer(self) -> dict[str, Any]:
        """Return what the child says; empty while there is nothing to ask or it rests after a failure."""
        now = time.monotonic()
        if now < self._not_before or self._dying:
            if not self._cards and self._problem and not self._mismatched:
                raise Unavailable(self._problem, wait_s=max(0.0, self._not_before - now))
            return {}
        try:
            answer = await self._ask()
        except _Silent as silent:
            self._dismiss()
            return self._fell(str(silent))
        if "absent" in answer:
            log.debug("gpu_absent", why=answer["absent"])
            self._dismiss()
            self._not_before = now + _ABSENT_S
            return {}
        if "failed" in answer:
            self._dismiss()  # what NVML holds may be stale: a new driver needs a new start
            self._mismatched = answer["mismatched"]
            return self._fell(f"NVML fails: {answer['failed']}; see nvidia-smi and the kernel log")
        if self._problem:
            log.info("gpu_back", after=self._problem)
        self._failures, self._problem, self._mismatched = 0, "", False
        return answer

    def _fell(self, problem: str) -> dict[str, Any]:
        """Note a failure, aloud when it is new; rest before the next child."""
        rest = min(_LONGEST_REST_S, self.interval_s * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._not_before = time.monotonic() + rest
        if problem != self._problem:
            log.warning("gpu_failed", problem=problem)
        self._problem = problem
        if not self._cards and not self._mismatched:
            raise Unavailable(problem, wait_s=rest)
        return {}

    async def _ask(self) -> dict[str, Any]:
        """Ask the child once; raises _Silent."""
        child = self._child
        if child is None:
            child = self._child = self._start()
        self._asked += 1
        end = time.monotonic() + self.config.timeout
        try:
            os.write(_fd(child.process.stdin), b'{"id": %d}\n' % self._asked)
        except OSError:
            raise _Silent(self._ended(child)) from None
        while True:
            line = await self._line(child, end)
            try:
                answer = json.loads(line)
            except ValueError:
                continue  # a word of the driver's library, which shares the child's output
            if isinstance(answer, dict) and answer.get("id") == self._asked:
                return answer  # else: of a look that was given up before

    async def _line(self, child: _Child, end: float) -> bytes:
        """Return the next line of the child; raises _Silent after `end` (monotonic) or when it has ended."""
        loop = asyncio.get_running_loop()
        out = _fd(child.process.stdout)
        while b"\n" not in child.rest:
            ready = asyncio.Event()
            loop.add_reader(out, ready.set)
            try:
                # not wait_for: before Python 3.12 it can swallow a cancellation, and a new child starts after `close`
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    await ready.wait()
            except TimeoutError:
                raise _Silent(
                    f"NVML gave no answer within {say(self.config.timeout, 'seconds')}: a GPU or the driver hangs; "
                    "see the kernel log"
                ) from None
            finally:
                loop.remove_reader(out)
            chunk = os.read(out, 1 << 16)
            if not chunk:
                raise _Silent(self._ended(child))
            child.rest += chunk
        line, _, child.rest = child.rest.partition(b"\n")
        return line

    @staticmethod
    def _ended(child: _Child) -> str:
        code = child.process.poll()
        how = "it is still ending" if code is None else f"exit {code}"
        return f"the program that asks NVML has ended ({how}); see the kernel log"

    def _start(self) -> _Child:
        """Start a child. By its file, not as a module: importing our package would cost it 50 MB."""
        environment = dict(os.environ)
        if self.config.library is not None:
            path = f"{self.config.library}:{environment.get('LD_LIBRARY_PATH', '')}"
            environment["LD_LIBRARY_PATH"] = path.rstrip(":")
        process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("_nvml.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env=environment, start_new_session=True,
        )  # fmt: skip
        log.debug("gpu_child_started", pid=process.pid)
        return _Child(process)

    def _dismiss(self) -> None:
        """Kill the child; it is buried when it is dead."""
        child, self._child = self._child, None
        if child is None:
            return
        child.process.kill()
        for pipe in (child.process.stdin, child.process.stdout):
            if pipe is not None:
                pipe.close()
        self._dying.append(child.process)

    def _reap(self) -> None:
        self._dying = [process for process in self._dying if process.poll() is None]

    # ---- the frame

    def _frame(self, ts: float, answer: dict[str, Any]) -> Frame:
        """Put the answer into the table; GPUs that are not in it are out of reach."""
        self._driver = answer.get("driver", self._driver)
        values: dict[Series, float] = {}
        seen: list[Sighting] = []
        for gpu in answer.get("gpus", ()):
            of = Entity("gpu", gpu["of"]) if "of" in gpu else None
            card = self._cards.setdefault(gpu["uuid"], _Card(Entity("gpu", gpu["uuid"]), of))
            facts = {k: str(gpu[k]) for k in _FACTS if k in gpu}
            attrs = tuple(sorted({**facts, "driver": self._driver}.items()))
            if attrs != card.attrs:
                edges = () if card.attrs else (Edge("runs_on", card.entity, of or self._host),)
                card.attrs = attrs
                seen.append(Sighting(card.entity, attrs, edges))
            if of is None:
                values[Series("gpu.reachable", card.entity)] = float(not gpu["lost"])
            for metric, labels, value in gpu["values"]:
                values[Series(metric, card.entity, tuple(sorted(labels.items())))] = value
        seen += self._taken_down(answer)
        for series in values:
            self._cards[series.entity.key].columns.add(series)
        reachable = [
            Series("gpu.reachable", card.entity) for card in self._cards.values() if card.of is None
        ]
        values[Series("host.gpu_driver_up", self._host)] = float(bool(answer))
        values[Series("host.gpu_driver_mismatched", self._host)] = float(self._mismatched)
        values[Series("host.gpus_count", self._host)] = sum(values.get(s, 0.0) for s in reachable)
        using, held = self._using(answer)
        values |= held
        row = self._row(values, reachable)
        return Frame(self.name, ts, self._series, row, seen=(*seen, *using))

    def _row(self, values: Mapping[Series, float], reachable: Sequence[Series]) -> FloatArray:
        """Return the values in the order of the columns; whoever says nothing is out of reach."""
        wanted = {s for card in self._cards.values() for s in card.columns} | values.keys()
        self._leave(wanted)
        wanted -= self._left
        if wanted != self._column.keys():
            self._series = tuple(sorted(wanted))
            self._column = {series: i for i, series in enumerate(self._series)}
        row = np.full(len(self._series), np.nan)
        for series, value in {**dict.fromkeys(reachable, 0.0), **values}.items():
            if series in wanted:
                row[self._column[series]] = value
        return row

    def _leave(self, wanted: set[Series]) -> None:
        """Note what of this is left to others, and look less often once they tell something of every GPU."""
        self._left = frozenset(wanted & self._covered)
        told = {s.entity for s in self._left}
        whole = [card.entity for card in self._cards.values() if card.of is None]
        self.rests_s = _RESTS_S if whole and told.issuperset(whole) else 0.0

    def _taken_down(self, answer: dict[str, Any]) -> list[Sighting]:
        """Forget the instances that their GPU, which answers, does not have any more."""
        there = {gpu["uuid"]: gpu for gpu in answer.get("gpus", ())}
        gone = [
            uuid for uuid, card in self._cards.items()
            if card.of is not None and uuid not in there
            and card.of.key in there and not there[card.of.key]["lost"]
        ]  # fmt: skip
        return [Sighting(self._cards.pop(uuid).entity, gone=True) for uuid in sorted(gone)]

    def _using(self, answer: dict[str, Any]) -> tuple[list[Sighting], dict[Series, float]]:
        """Return the process groups that compute on each GPU (who is new, and each minute all), and what they hold."""
        if not self._pids_are_ours:
            return [], {}
        found: dict[Entity, list[Edge]] = {}
        held: dict[Series, float] = {}
        for gpu in answer.get("gpus", ()):
            card = self._cards[gpu["uuid"]].entity
            here: dict[Entity, float] = {}
            for pid, memory in gpu.get("pids", ()):
                who = _group_of(pid)
                if who is not None:
                    here[who] = here.get(who, 0.0) + memory
            for who in sorted(here):
                found.setdefault(who, []).append(Edge("runs_on", who, card))
                held[Series("process.gpu_memory_bytes", who, (("gpu", card.key),))] = here[who]
        users = {who: tuple(edges) for who, edges in found.items()}
        now = time.monotonic()
        again = now - self._users_at >= _AGAIN_S
        told, self._users = self._users, users
        self._users_at = now if again else self._users_at
        return [
            Sighting(who, edges=edges, lasts_s=3 * _AGAIN_S)
            for who, edges in sorted(users.items())
            if again or told.get(who) != edges
        ], held


def driver_shows() -> bool:
    """Tell whether files here look like those of a driver."""
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f]
    files = [*map(Path, _SIGNS), *(Path(folder, _LIBRARY) for folder in folders)]
    return any(file.exists() for file in files)


def _host_pids() -> bool:
    """Tell whether process numbers here are those of the host: the first namespace has a number of its own."""
    try:
        return Path("/proc/self/ns/pid").readlink().name == _FIRST_NAMESPACE
    except OSError:
        return False


def _group_of(pid: int) -> Entity | None:
    """Return the process group that a process is in, named as `processes` names it; None when it has ended."""
    try:
        head = head_of(pid)
    except (OSError, ValueError):
        return None
    return process_entity(head.pid, head.start_ticks)


def _fd(pipe: Any) -> int:
    """Return the descriptor of a pipe of the child."""
    number: int = pipe.fileno()
    return number
