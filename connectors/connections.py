"""TCP connections by state, which process group listens on which port, and which calls whom.

/proc/net/tcp, tcp6 --> states, listening sockets --> /proc/<pid>/fd, only for sockets not known yet --> who
                    '-> connections that were opened from here --(now and then)--> who --> calls dependency host:port
"""

from __future__ import annotations

import ipaddress
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import structlog
from pydantic import Field

from agent.errors import Refused, Unavailable
from agent.model import Edge, Entity, Frame, IntArray, Series, Sighting
from agent.registry import connector
from agent.units import Duration, Model
from connectors._proc import Stat, leader, pids, process_entity, scan, this_host

log = structlog.get_logger()

STATES: Final = {
    "01": "established", "02": "syn_sent", "03": "syn_received", "04": "fin_wait1", "05": "fin_wait2",
    "06": "time_wait", "07": "close", "08": "close_wait", "09": "last_ack", "0A": "listen", "0B": "closing",
}  # fmt: skip
"""States as the kernel numbers them (include/net/tcp_states.h); 0C is a request that is not yet a connection."""

_CHUNK_BYTES: Final = 1 << 16
_MOST_PEERS: Final = 5000
_MOST_CALLS: Final = 30
"""Others that one process group is said to call, at most; the busiest first."""
_FORGET_S: Final = 300.0
"""A socket whose owner could not be found is looked for again after so long."""


@dataclass(slots=True)
class _Listener:
    """One listening socket: its port, how many wait to be accepted, and who holds it."""

    port: int
    waiting: int
    owners: tuple[Entity, ...] = ()
    looked_at: float = -math.inf


@dataclass(slots=True)
class _Row:
    """What one look at the tables of the kernel gave."""

    states: Counter[str] = field(default_factory=Counter)
    listeners: dict[int, _Listener] = field(default_factory=dict)
    whole: bool = True
    peers: dict[int, tuple[bytes, bytes]] | None = None
    """Inode -> local and remote address of established connections, as the kernel writes them; None = not wanted."""


@connector("connections")
class Connections:
    """TCP connections of the host by state, and the ports that process groups listen on.

    Emits `host.connections_count` for eleven states (NaN when there are more connections than `most`, for then the
    count is not known), `process.accept_queue_count` for each listening port whose owner is known, and sightings:
    attribute `listen` (ports, ascending, with commas) on the process group, its edge to the host, and whom it calls:
    `dependency:host:port` of connections that it opened, `localhost` for this host. These hold for three looks.
    Connections that live shorter than it takes to look are missed at most looks; pools are seen.
    The owner of a socket is found once, among all processes, within `search_time`; a search that runs out of time
    goes on at the next poll. Sockets of other users' processes are found only with root or CAP_SYS_PTRACE.

    Cost: the kernel walks its whole table of sockets, 4 to 8 ms on an idle host, and writes a line for each
    connection, about 1.5 us each with our reading of it. Listening sockets come first and are seen in any case.
    Raises Unavailable when the tables can not be read, Refused where there are none.
    """

    tested = "the kernel's own sockets"

    class Config(Model):
        """How far it looks."""

        most: Annotated[int, Field(ge=100)] = 50_000
        """Connections that are counted at most."""
        search_time: Annotated[Duration, Field(gt=0, le=1)] = 0.05
        """How long one poll may search for the owners of new listening sockets."""
        calls_every: Annotated[Duration, Field(ge=30)] = 300.0
        """How often it is looked up who has opened connections to whom."""
        procfs: Path = Path("/proc")

    interval_s = 30.0

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._host = this_host()
        self._listeners: dict[int, _Listener] = {}
        self._told: dict[Entity, str] = {}
        self._search: Iterator[tuple[int, int]] | None = None
        self._found: dict[int, set[int]] = {}
        self._ports: tuple[tuple[Entity, int], ...] = ()
        self._series: tuple[Series, ...] = ()
        self._order: IntArray = np.zeros(0, dtype=np.int64)
        self._was_whole = True
        self._called_at = -math.inf

    async def poll(self) -> Frame:
        """Count connections and find out who listens."""
        ts = time.time()
        now = time.monotonic()
        row = self._count(now)
        seen = self._own(row, now)
        waiting: dict[tuple[Entity, int], float] = {}
        for one in self._listeners.values():
            for owner in one.owners:
                key = (
                    owner,
                    one.port,
                )  # several sockets of one port (SO_REUSEPORT, IPv4 and 6) are one queue
                waiting[key] = waiting.get(key, 0.0) + one.waiting
        self._build(tuple(sorted(waiting)))
        values = [float(row.states[name]) if row.whole else math.nan for name in STATES.values()]
        if not row.whole:
            values[list(STATES.values()).index("listen")] = float(len(row.listeners))
        values += [waiting[key] for key in self._ports]
        row_of_now = np.array(values, dtype=np.float64)[self._order]
        return Frame(self.name, ts, self._series, row_of_now, seen=seen)

    async def describe(self) -> Sequence[str]:
        """Say what is connected and who listens."""
        frame = await self.poll()
        counts = {
            dict(s.labels)["state"]: value
            for s, value in zip(frame.series, frame.values, strict=True)
            if s.metric == "host.connections_count" and value > 0
        }
        states = ", ".join(f"{n:.0f} {state}" for state, n in sorted(counts.items()))
        lines = [states or "no TCP connections"]
        lines += [f"{entity.id} listens on {ports}" for entity, ports in sorted(self._told.items())]
        unknown = sorted({one.port for one in self._listeners.values() if not one.owners})
        if unknown:
            ports = ", ".join(map(str, unknown))
            lines.append(
                f"nobody was found for ports {ports}: the kernel's own, or we may not look"
            )
        return lines

    # ---- the tables of the kernel

    def _count(self, now: float) -> _Row:
        """Read the tables, at most `most` lines of each."""
        if not sys.platform.startswith("linux"):
            raise Refused(
                "connections are read from /proc/net, which this system has not; "
                "switch the source off in agent.yaml: connections: {enabled: false}"
            )
        row = _Row(peers={} if self._due(now) else None)
        read = 0
        for name in ("tcp", "tcp6"):
            path = self.config.procfs / "net" / name
            try:
                for line in self._lines(path):
                    read += 1
                    if read > self.config.most:
                        row.whole = False
                        break
                    _take(line, row)
            except FileNotFoundError:
                continue  # a host without IPv6
            except OSError as error:
                raise Unavailable(f"can not read {path}: {error.strerror}") from error
        if not read and not (self.config.procfs / "net/tcp").exists():
            raise Unavailable(f"no {self.config.procfs}/net/tcp; is /proc mounted?")
        if row.whole != self._was_whole:
            self._was_whole = row.whole
            if not row.whole:
                log.warning("connections_too_many", most=self.config.most)
        return row

    @staticmethod
    def _lines(path: Path) -> Iterator[bytes]:
        """Give the lines of a table one by one, reading no further than asked."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            rest = b""
            header = True
            while chunk := os.read(fd, _CHUNK_BYTES):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                if header:
                    lines, header = lines[1:], False
                yield from lines
        finally:
            os.close(fd)

    # ---- who listens

    def _due(self, now: float) -> bool:
        """Tell whether it is time to look who calls whom."""
        return now - self._called_at >= self.config.calls_every

    def _own(self, row: _Row, now: float) -> tuple[Sighting, ...]:
        """Find the owners of listening sockets, told when they have changed; now and then, whom they call."""
        listeners = row.listeners
        unknown: set[int] = set()
        for inode, one in listeners.items():
            known = self._listeners.get(inode)
            if known is not None:
                one.owners, one.looked_at = known.owners, known.looked_at
            if self._stale(one, now):
                unknown.add(inode)
        self._listeners = listeners
        calls: list[tuple[Entity, tuple[Edge, ...]]] = []
        if unknown or row.peers is not None:
            calls = self._find(unknown, row, now)
        ports: dict[Entity, set[int]] = {}
        for one in listeners.values():
            for owner in one.owners:
                ports.setdefault(owner, set()).add(one.port)
        told = {entity: ",".join(map(str, sorted(some))) for entity, some in ports.items()}
        seen = [
            Sighting(entity, (("listen", text),), (Edge("runs_on", entity, self._host),))
            for entity, text in sorted(told.items())
            if self._told.get(entity) != text
        ]
        for entity in sorted(self._told.keys() - told.keys()):
            # who has ended is told as gone; who only stopped to listen is not
            alive = self._alive(entity)
            seen.append(Sighting(entity, (("listen", ""),) if alive else (), gone=not alive))
        self._told = told
        lasts_s = 3 * self.config.calls_every + self.interval_s
        seen += [
            Sighting(who, (("listen", told.get(who, "")),), edges, lasts_s=lasts_s)
            for who, edges in calls
        ]
        return tuple(seen)

    def _stale(self, one: _Listener, now: float) -> bool:
        """Tell whether the owners of a socket must be looked for: never found, or ended since."""
        if not one.owners:
            return now - one.looked_at >= _FORGET_S
        return not all(self._alive(owner) for owner in one.owners)

    def _alive(self, entity: Entity) -> bool:
        """Tell whether the leader of a group is still the process that it was."""
        _, pid, start = entity.key.split("/")
        try:
            line = (self.config.procfs / pid / "stat").read_bytes()
        except OSError:
            return False
        return line[line.rindex(b")") + 2 :].split()[19] == start.encode()

    def _find(
        self, unknown: set[int], row: _Row, now: float
    ) -> list[tuple[Entity, tuple[Edge, ...]]]:
        """Search the open files of all processes for these sockets, at most `search_time`; return who calls whom."""
        if self._search is None:
            self._search, self._found = self._sockets(), {}
        end = time.monotonic() + self.config.search_time
        for inode, pid in self._search:
            self._found.setdefault(inode, set()).add(pid)
            if time.monotonic() > end:
                return []  # go on from here at the next poll
        self._search = None
        folder = os.open(self.config.procfs, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stats = scan(folder)
        finally:
            os.close(folder)
        groups: dict[int, list[int]] = {}
        for pid, stat in stats.items():
            groups.setdefault(stat.group, []).append(pid)
        for inode in unknown:
            # who starts others for a socket (systemd) holds it, too, but does not serve it
            holders = self._found.get(inode, set()) - {1} or self._found.get(inode, set())
            numbers = {stats[pid].group for pid in holders if pid in stats}
            heads = [leader([stats[pid] for pid in groups[number]]) for number in sorted(numbers)]
            one = self._listeners[inode]
            one.owners = tuple(sorted(process_entity(h.pid, h.start_ticks) for h in heads))
            one.looked_at = now
        calls = []
        if row.peers is not None:
            self._called_at = now
            calls = self._calls(row, stats, groups)
        self._found = {}
        return calls

    def _calls(
        self, row: _Row, stats: Mapping[int, Stat], groups: Mapping[int, list[int]]
    ) -> list[tuple[Entity, tuple[Edge, ...]]]:
        """Return the edges of each process group to those it has open connections to."""
        listened = {one.port for one in row.listeners.values()}
        pairs = {i: (_address(a), _address(b)) for i, (a, b) in (row.peers or {}).items()}
        own = {host for (host, _), _ in pairs.values()}
        counted: dict[int, Counter[str]] = {}
        for inode, ((_, port), (host, to)) in pairs.items():
            if port in listened:
                continue  # somebody called us
            here = to in listened and (host in own or ipaddress.ip_address(host).is_loopback)
            shown = "localhost" if here else f"[{host}]" if ":" in host else host
            for number in {stats[p].group for p in self._found.get(inode, ()) if p in stats}:
                counted.setdefault(number, Counter())[f"{shown}:{to}"] += 1
        out = []
        for number, some in sorted(counted.items()):
            head = leader([stats[pid] for pid in groups[number]])
            me = process_entity(head.pid, head.start_ticks)
            busiest = sorted(some, key=lambda key: (-some[key], key))[:_MOST_CALLS]
            edges = tuple(Edge("calls", me, Entity("dependency", key)) for key in sorted(busiest))
            out.append((me, edges))
        return out

    def _sockets(self) -> Iterator[tuple[int, int]]:
        """Give (inode, pid) of every open socket of every process we may look into, and (0, pid) after each process."""
        proc = os.open(self.config.procfs, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for pid in pids(proc):
                try:
                    folder = os.open(f"{pid}/fd", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
                except OSError:  # it has ended, or is not ours to look into
                    yield 0, pid
                    continue
                try:
                    yield from ((inode, pid) for inode in _sockets_in(folder))
                finally:
                    os.close(folder)
                yield 0, pid
        finally:
            os.close(proc)

    def _build(self, ports: tuple[tuple[Entity, int], ...]) -> None:
        """Make the table anew when other ports are listened on."""
        if self._series and ports == self._ports:
            return
        self._ports = ports
        series = [Series("host.connections_count", self._host, (("state", s),)) for s in STATES.values()]  # fmt: skip
        series += [Series("process.accept_queue_count", e, (("port", str(p)),)) for e, p in ports]
        order = sorted(range(len(series)), key=lambda i: series[i])
        self._series = tuple(series[i] for i in order)
        self._order = np.array(order, dtype=np.int64)


def _take(line: bytes, row: _Row) -> None:
    """Add one line of /proc/net/tcp: `sl local remote state tx:rx tr:when retransmits uid timeout inode ...`."""
    token = line.split(None, 10)
    state = STATES.get(token[3].decode("ascii"), "syn_received")
    row.states[state] += 1
    if state == "listen":
        port = int(token[1].rpartition(b":")[2], 16)
        # of a listener, the receive queue is the number that waits to be accepted
        row.listeners[int(token[9])] = _Listener(port, int(token[4].partition(b":")[2], 16))
    elif row.peers is not None and state == "established" and len(row.peers) < _MOST_PEERS:
        row.peers[int(token[9])] = token[1], token[2]


def _address(written: bytes) -> tuple[str, int]:
    """Read `0100007F:1F90`: words of four bytes in the order of this machine, then the port."""
    host, _, port = written.partition(b":")
    raw = bytes.fromhex(host.decode("ascii"))
    if sys.byteorder == "little":
        raw = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    ip = ipaddress.ip_address(raw)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(mapped or ip), int(port, 16)


def _sockets_in(folder: int) -> list[int]:
    """Return the inodes of the sockets below an open `/proc/<pid>/fd`."""
    out: list[int] = []
    try:
        names = os.listdir(folder)
    except OSError:
        return out  # it has ended, or is not ours to look into
    for name in names:
        try:
            target = os.readlink(name, dir_fd=folder)
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            out.append(int(target[8:-1]))
    return out
