"""Who uses the host: process groups (a job, a service with its workers) by CPU and memory, and whole applications.

/proc/<pid>/stat of all --> groups --> the chosen: top by CPU, top by memory, bound to a service, we ourselves
                              |           '--> /proc/<pid>/io, fd of their members only
                              '--> applications: processes of one name together, the top of them
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field

from agent.errors import Refused, Unavailable
from agent.model import Edge, Entity, Frame, IntArray, Series, Sighting
from agent.registry import connector
from agent.units import Model, many, say
from connectors._applications import METRICS, Applications
from connectors._proc import (
    HERTZ,
    PAGE_BYTES,
    Stat,
    command_line,
    leader,
    process_entity,
    read_at,
    scan,
    seconds_since_boot,
    this_host,
)

_METRICS: Final = (
    "process.age_seconds", "process.cpu_seconds_total", "process.file_descriptors_count", "process.memory_bytes",
    "process.nice_count", "process.processes_count", "process.read_bytes_total", "process.threads_count",
    "process.written_bytes_total",
)  # fmt: skip
_STATES: Final = ("stopped", "total", "zombie")

_IDLE_CORES: Final = 0.002
"""A group below this share of a core is in no ranking by CPU: the order of the idle is chance."""
_LINGER_S: Final = 60.0
"""A group stays chosen for so long after it has left the rankings, so that it does not flap in and out."""
_SMOOTH_S: Final = 15.0
"""CPU is ranked by its mean over about so long."""
_FRESH_S: Final = 60.0
"""How often kernel threads and commands are looked at again."""
_MOST_MEMBERS: Final = 512
"""Files and I/O are read for at most so many processes a poll; the groups beyond have NaN there."""


@dataclass(slots=True)
class _Member:
    """What one process had used when it was seen last."""

    start_ticks: int
    parent: int
    group: int
    own_ticks: int
    child_ticks: int
    io: tuple[int, int] | None = None
    new: bool = False
    """It was not there at the poll before."""
    name: str = ""
    application: str = ""


@dataclass(slots=True)
class _Group:
    """One process group: its counters, which never fall while it lives, and what is known of its leader."""

    entity: Entity
    leader: Stat
    ticks: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    cores: float = 0.0
    rss_pages: int = 0
    threads: int = 0
    size: int = 0
    alive: list[int] = field(default_factory=list)
    io_known: bool = False
    files: float = math.nan
    command: str = ""
    name: str = ""
    user: str = ""
    started: str = ""
    looked_at: float = -math.inf
    told: tuple[tuple[str, str], ...] = ()


@connector("processes")
class Processes:
    """Process groups that matter: top by CPU, top by memory, those bound to a service, and the agent itself.

    A group is what a shell calls a job and what a server with its workers is: one process group id. Its entity is
    `process:<boot id>/<leader's pid>/<leader's start in ticks>`; when the leader ends before its group, the oldest
    member stands for it and the group gets a new entity. Kernel threads are left out.

    Emits nine `process.*` series a group, `host.processes_count` by state, four `host.application_*` series for each of
    the applications at the top (all processes that run one program, or one script), and sightings: attributes pid,
    pgid, start, started, name, command (200 characters, secrets masked), user, nice, self; edge runs_on the host;
    `gone` when the group has ended.

    CPU and I/O of a group are sums of what its members used since the last poll, so they survive members that come
    and go. Children that lived and died between two polls are found in the time that their parent waited for.
    Memory is the sum of resident pages: pages that members share are counted for each of them.
    Files and I/O of other users' processes need root or CAP_SYS_PTRACE; else they are NaN.

    Cost: about 20 us of CPU a process of the host and 25 us a member of a chosen group. Raises Unavailable when
    /proc can not be listed, Refused where there is none.
    """

    tested = "real processes"

    class Config(Model):
        """Which groups."""

        top: Annotated[int, Field(ge=1, le=200)] = 15
        """So many by CPU and so many by memory."""
        always: list[str] = []
        """Globs on the command: groups that are shown whatever they use (the services)."""
        top_applications: Annotated[int, Field(ge=0, le=200)] = 10
        """So many applications by CPU and so many by memory; 0 = none."""
        applications: dict[str, list[str]] = {}
        """Name -> globs on the names of programs and scripts: what counts as one application."""
        pidfiles: list[Path] = []
        """The group of the process in each of these files is shown whatever it uses."""
        procfs: Path = Path("/proc")

    interval_s = 5.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._proc = -1
        self._members: dict[int, _Member] = {}
        self._groups: dict[int, _Group] = {}
        self._heirs: dict[int, tuple[int, int]] = {}
        """Who waited for ended processes, and the I/O of those that was counted already."""
        self._heirs_unknown: set[int] = set()
        """Who waited for processes whose I/O nobody looked at."""
        self._chosen: dict[Entity, float] = {}
        """Chosen groups and when they were last in a ranking."""
        self._kernel: set[int] = set()
        self._kernel_at = -math.inf
        self._at = math.nan
        self._series: tuple[Series, ...] = ()
        self._entities: tuple[Entity, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        self._applications = Applications(config.top_applications, config.applications)
        self._shown: tuple[str, ...] = ()
        self._users: dict[int, str] = {}
        self._users_stamp: tuple[float, int] = (0.0, 0)

    async def poll(self) -> Frame:
        """Look at every process once, closely at those of the chosen groups."""
        now = time.monotonic()
        found = self._scan(now)
        ts = time.time()
        gone = self._account(found, now)
        chosen = self._choose(now)
        self._look_closer(chosen)
        seen = [Sighting(entity, gone=True) for entity in gone]
        seen += self._sightings(chosen, now)
        applications = self._applications.choose(now)
        self._build(chosen, tuple(applications))
        up = seconds_since_boot()
        row: list[float] = []
        for group in chosen:
            io = group.io_known
            row += (
                up - group.leader.start_ticks / HERTZ,
                group.ticks / HERTZ,
                group.files,
                float(group.rss_pages * PAGE_BYTES),
                float(group.leader.nice),
                float(group.size),
                float(group.read_bytes) if io else math.nan,
                float(group.threads),
                float(group.written_bytes) if io else math.nan,
            )
        states = [one.state for one in found.values()]
        row += (float(states.count("T") + states.count("t")), float(len(states)), float(states.count("Z")))  # fmt: skip
        for one in applications.values():
            rss = float(one.rss_pages * PAGE_BYTES)
            row += (one.ticks / HERTZ, rss, float(one.processes), float(one.threads))
        values = np.array(row, dtype=np.float64)[self._order]
        return Frame(self.name, ts, self._series, values, seen=tuple(seen))

    async def describe(self) -> Sequence[str]:
        """Say who is at the top."""
        await self.poll()
        await asyncio.sleep(0.2)  # one look tells no CPU
        frame = await self.poll()
        groups = [g for g in self._groups.values() if g.entity in self._chosen]
        groups.sort(key=lambda g: (-g.cores, -g.rss_pages))
        shown = f"{len(groups)} of them shown, {len(frame.series)} series"
        every = many(len(self._members), "process", "processes")
        lines = [f"{every} in {many(len(self._groups), 'group')}: {shown}"]
        lines += [
            f"{g.leader.pid:>8}  {g.cores:5.2f} cores  {say(g.rss_pages * PAGE_BYTES, 'bytes'):>8}  "
            f"{many(g.size, 'process', 'processes'):<14} {g.user:<10} {g.command[:80]}"
            for g in groups[: self.config.top]
        ]
        lines += [
            f"application {name}: {one.cores:.2f} cores, {say(one.rss_pages * PAGE_BYTES, 'bytes')}, "
            f"{many(one.processes, 'process', 'processes')}"
            for name, one in self._applications.choose(time.monotonic()).items()
        ]
        hidden = sum(not g.io_known for g in groups)
        if hidden:
            groups_ = many(hidden, "group: it takes", "groups: they take")
            lines.append(f"no files and I/O of {groups_} root or CAP_SYS_PTRACE")
        return lines

    def close(self) -> None:
        """Give /proc back."""
        if self._proc >= 0:
            os.close(self._proc)
            self._proc = -1

    # ---- all processes

    def _scan(self, now: float) -> dict[int, Stat]:
        """Read the programs that run; remember kernel threads, for a while, to pass them by."""
        if not sys.platform.startswith("linux"):
            raise Refused(
                "processes are read from /proc, which this system has not; "
                "switch the source off in agent.yaml: processes: {enabled: false}"
            )
        if now - self._kernel_at >= _FRESH_S:
            self._kernel.clear()  # a pid that was a kernel thread's may have become a program's
            self._kernel_at = now
        try:
            if self._proc < 0:
                self._proc = os.open(self.config.procfs, os.O_RDONLY | os.O_CLOEXEC)
            found = scan(self._proc, self._kernel)
        except OSError as error:
            self.close()
            raise Unavailable(
                f"can not list {self.config.procfs}: {error.strerror}; is it mounted and readable?"
            ) from error
        if not found:
            raise Unavailable(f"no process to be seen in {self.config.procfs}; is it mounted?")
        for pid in [pid for pid, one in found.items() if one.kernel]:
            self._kernel.add(pid)
            del found[pid]
        return found

    def _account(self, found: Mapping[int, Stat], now: float) -> list[Entity]:
        """Put what was used since the last poll to the account of each group; return groups that ended."""
        elapsed, self._at = now - self._at, now
        before = self._members
        inherited = _inheritance(found, before)
        self._heirs, self._heirs_unknown = {}, set()
        for heir, ended in inherited:
            if ended.io is None:
                self._heirs_unknown.add(heir)
            else:
                read, written = self._heirs.get(heir, (0, 0))
                self._heirs[heir] = (read + ended.io[0], written + ended.io[1])
        self._members = {}
        for pid, one in found.items():
            old = before.get(pid)
            known = old is not None and old.start_ticks == one.start_ticks
            self._members[pid] = _Member(
                one.start_ticks, one.parent, one.group, one.own_ticks, one.child_ticks,
                old.io if old is not None and known else None, new=bool(before) and not known,
                name=one.name,
            )  # fmt: skip
        spent = _ticks(found, before, inherited, elapsed)
        by_group: dict[int, int] = {}
        for pid, used in spent.items():
            by_group[found[pid].group] = by_group.get(found[pid].group, 0) + used
        was = self._groups
        told = {group.entity for group in was.values() if group.told}
        self._groups = self._regroup(found, before)
        for number, group in self._groups.items():
            used = by_group.get(number, 0)
            group.ticks += used
            if elapsed > 0:  # False when there was no poll before
                weight = 1 - math.exp(-elapsed / _SMOOTH_S)
                now_cores = used / HERTZ / elapsed
                group.cores += (now_cores - group.cores) * (weight if group.cores else 1.0)
        if self.config.top_applications:
            self._add_up(found, before, spent, elapsed)
        gone = {group.entity for group in was.values()} - {g.entity for g in self._groups.values()}
        for entity in gone:
            self._chosen.pop(entity, None)
        return sorted(gone & told)

    def _add_up(
        self,
        found: Mapping[int, Stat],
        before: Mapping[int, _Member],
        spent: Mapping[int, int],
        elapsed: float,
    ) -> None:
        """Put what each process used to the account of its application; who is new is looked up once."""
        applications = self._applications
        applications.begin()
        for pid, one in found.items():
            member, old = self._members[pid], before.get(pid)
            if not member.new and old is not None and old.name == one.name:
                member.application = old.application
            if not member.application:
                argv = self._argv(one) if applications.must_read(one.name) else ()
                member.application = applications.name(one.name, argv)
            applications.add(member.application, spent[pid], one.rss_pages, one.threads)
        if elapsed > 0:
            applications.rank(elapsed)

    def _regroup(
        self, found: Mapping[int, Stat], before: Mapping[int, _Member]
    ) -> dict[int, _Group]:
        """Return the groups of now; those that were there keep their counters, also under a new leader."""
        members: dict[int, list[Stat]] = {}
        for one in found.values():
            members.setdefault(one.group, []).append(one)
        groups: dict[int, _Group] = {}
        for number, some in members.items():
            head = leader(some)
            entity = process_entity(head.pid, head.start_ticks)
            group = self._groups.get(number)
            if group is None or group.entity != entity:
                old, group = group, _Group(entity, head)
                # the number alone is no kinship: it may have come again
                stayed = [one for one in some if not self._members[one.pid].new]
                if old and any(before[one.pid].group == number for one in stayed):
                    group.ticks, group.cores = old.ticks, old.cores
                    group.read_bytes, group.written_bytes = old.read_bytes, old.written_bytes
                    if old.entity in self._chosen:
                        self._chosen[entity] = self._chosen[old.entity]
            group.leader = head
            group.rss_pages = sum(one.rss_pages for one in some)
            group.threads = sum(one.threads for one in some)
            group.size = len(some)
            group.alive = [one.pid for one in some if one.state not in "ZX"]
            groups[number] = group
        return groups

    # ---- which groups

    def _choose(self, now: float) -> list[_Group]:
        """Return the groups to show, sorted: in by rank, out only when out of twice as many ranks for a while."""
        groups = self._groups.values()
        top = self.config.top
        busy = (g for g in groups if g.cores >= _IDLE_CORES)
        by_cpu = sorted(busy, key=lambda g: (-g.cores, g.entity))[: 2 * top]
        by_memory = sorted(groups, key=lambda g: (-g.rss_pages, g.entity))[: 2 * top]
        must = self._bound(now)
        for group in (*by_cpu[:top], *by_memory[:top], *must):
            self._chosen[group.entity] = now
        for group in (*by_cpu[top:], *by_memory[top:]):
            if group.entity in self._chosen:
                self._chosen[group.entity] = now
        self._chosen = {e: at for e, at in self._chosen.items() if now - at < _LINGER_S}
        return sorted((g for g in groups if g.entity in self._chosen), key=lambda g: g.entity)

    def _bound(self, now: float) -> list[_Group]:
        """Return the groups that are shown whatever they use: services by command or pidfile, and our own."""
        numbers = {os.getpgid(0)}
        for path in self.config.pidfiles:
            try:
                member = self._members.get(int(path.read_text("ascii")))
            except (OSError, ValueError):
                continue  # the service is down, or just writing it
            if member is not None:
                numbers.add(member.group)
        out = [self._groups[number] for number in numbers if number in self._groups]
        if self.config.always:
            for group in self._groups.values():
                self._name(group, now)
                if any(fnmatchcase(group.command, glob) for glob in self.config.always):
                    out.append(group)
        return out

    # ---- the chosen

    def _look_closer(self, chosen: Iterable[_Group]) -> None:
        """Read open files and I/O of the members of the chosen groups."""
        left = _MOST_MEMBERS
        for group in chosen:
            left -= len(group.alive)
            if left < 0:
                group.files, group.io_known = math.nan, False
                continue
            files = 0.0
            known = True
            for pid in group.alive:
                files += self._files_of(pid)
                known &= self._take_io(group, pid)
            group.files, group.io_known = files, known

    def _files_of(self, pid: int) -> float:
        """Count the open files of a process; NaN where we may not look."""
        try:
            # since Linux 6.2 the size of the folder is their number
            size = os.stat(f"{pid}/fd", dir_fd=self._proc).st_size
            if size:
                return float(size)
            with os.scandir(self.config.procfs / str(pid) / "fd") as files:
                return float(sum(1 for _ in files))
        except FileNotFoundError:
            return 0.0  # it has just ended
        except OSError:
            return math.nan

    def _take_io(self, group: _Group, pid: int) -> bool:
        """Add what a process read and wrote since it was seen last; False where we may not look."""
        member = self._members[pid]
        try:
            token = read_at(self._proc, f"{pid}/io").split()
            read = int(token[token.index(b"read_bytes:") + 1])
            written = int(token[token.index(b"write_bytes:") + 1])
        except (FileNotFoundError, ProcessLookupError):
            return True  # it has just ended
        except (OSError, ValueError):
            return False
        before, member.io = member.io, (read, written)
        if before is None and member.new:
            before = (0, 0)  # all that it ever read and wrote was since the last poll
        if before is not None and pid not in self._heirs_unknown:
            # who waits for a child inherits its counts, and those of the child are in the group's already
            more_read, more_written = self._heirs.get(pid, (0, 0))
            group.read_bytes += max(0, read - before[0] - more_read)
            group.written_bytes += max(0, written - before[1] - more_written)
        return True

    def _name(self, group: _Group, now: float) -> None:
        """Learn the command and the user of a group; again after a while, and when the leader has a new name."""
        head = group.leader
        if group.name == head.name and now - group.looked_at < _FRESH_S:
            return
        group.name, group.looked_at = head.name, now
        with contextlib.suppress(OSError):
            group.user = self._user(os.stat(str(head.pid), dir_fd=self._proc).st_uid)
        group.command = command_line(self._argv(head))
        if not group.started:
            born = time.time() - seconds_since_boot() + head.start_ticks / HERTZ
            group.started = datetime.fromtimestamp(born, UTC).isoformat(timespec="seconds")

    def _argv(self, head: Stat) -> list[str]:
        """Return the words of a command; the name is all that is left of who has just ended."""
        try:
            raw = read_at(self._proc, f"{head.pid}/cmdline")
        except OSError:
            raw = b""
        return raw.decode("utf-8", "replace").rstrip("\0").split("\0") if raw else [head.name]

    def _user(self, uid: int) -> str:
        """Return the name of a local user, else the number: asking the system could wait for a directory server."""
        path = Path("/etc/passwd")
        try:
            stat = path.stat()
            if (stat.st_mtime, stat.st_size) != self._users_stamp:
                rows = [line.split(":") for line in path.read_text("utf-8", "replace").splitlines()]
                self._users = {int(row[2]): row[0] for row in rows if len(row) > 2}
                self._users_stamp = (stat.st_mtime, stat.st_size)
        except (OSError, ValueError):
            self._users = {}
        return self._users.get(uid, str(uid))

    def _sightings(self, chosen: Iterable[_Group], now: float) -> list[Sighting]:
        """Return the chosen that are new or have changed."""
        own = os.getpgid(0)
        seen: list[Sighting] = []
        for group in chosen:
            self._name(group, now)
            head = group.leader
            facts = {
                "command": group.command,
                "name": group.name,
                "nice": str(head.nice),
                "pgid": str(head.group),
                "pid": str(head.pid),
                "start": str(head.start_ticks),
                "started": group.started,
                "user": group.user,
            }
            if head.group == own:
                facts["self"] = "yes"
            attrs = tuple(sorted(facts.items()))
            if attrs != group.told:
                edges = () if group.told else (Edge("runs_on", group.entity, self._host),)
                group.told = attrs
                seen.append(Sighting(group.entity, attrs, edges))
        return seen

    def _build(self, chosen: Sequence[_Group], applications: tuple[str, ...]) -> None:
        """Make the table anew when other groups or applications are chosen."""
        entities = tuple(group.entity for group in chosen)
        if self._series and entities == self._entities and applications == self._shown:
            return
        self._entities, self._shown = entities, applications
        series = [Series(metric, entity) for entity in entities for metric in _METRICS]
        series += [Series("host.processes_count", self._host, (("state", s),)) for s in _STATES]
        series += [
            Series(metric, self._host, (("application", name),))
            for name in applications
            for metric in METRICS
        ]
        # by metric, then entity, is the order of series; the entities are sorted already
        order = sorted(range(len(series)), key=lambda i: (series[i].metric, i))
        self._series = tuple(series[i] for i in order)
        self._order = np.array(order, dtype=np.int64)


def _inheritance(
    found: Mapping[int, Stat], before: Mapping[int, _Member]
) -> list[tuple[int, _Member]]:
    """Return (heir, ended process): who may have waited for each process that ended since the last poll.

    The kernel adds the counts of a child to those of the parent that waits for it. When the parent has ended, too, it
    is the nearest living forebear or the first process; we then take off from both: rather too little than a burst
    that nobody made.
    """
    out: list[tuple[int, _Member]] = []
    for pid, old in before.items():
        now = found.get(pid)
        if now is not None and now.start_ticks == old.start_ticks:
            continue
        heir = old.parent
        for _ in range(64):  # a chain of forebears that all ended
            if heir in found or heir not in before:
                break
            heir = before[heir].parent
        out.append((heir, old))
        if heir not in {old.parent, 1}:
            out.append((1, old))
    return out


def _ticks(
    found: Mapping[int, Stat],
    before: Mapping[int, _Member],
    inherited: Iterable[tuple[int, _Member]],
    elapsed_s: float,
) -> dict[int, int]:
    """Return the CPU ticks that each process used since the last poll; of one not seen before, all that it used.

    Beside its own time a process answers for children that nobody saw: they lived and died between two polls, and
    their time is in what the parent waited for. What was seen of ended children is taken off.
    """
    counted: dict[int, int] = {}
    for heir, old in inherited:
        counted[heir] = counted.get(heir, 0) + old.own_ticks + old.child_ticks
    most = math.inf
    if elapsed_s > 0:
        # nobody can have used more; a second beside, for ticks are coarse and the scan takes its time
        most = (elapsed_s + 1.0) * HERTZ * (os.cpu_count() or 1)
    spent: dict[int, int] = {}
    for pid, one in found.items():
        old_one = before.get(pid)
        if old_one is None or old_one.start_ticks != one.start_ticks:
            used = one.own_ticks + one.child_ticks
        else:
            used = max(0, one.own_ticks - old_one.own_ticks)
            children = one.child_ticks - old_one.child_ticks - counted.get(pid, 0)
            if children > 0:
                used += int(min(children, most))
        spent[pid] = used
    return spent
