"""HAProxy by its runtime socket: weights, drain, and the list of servers, without a reload.

    haproxy:
      service: checkout
      socket: /run/haproxy/admin.sock      # `stats socket /run/haproxy/admin.sock mode 600 level admin`
      backend: checkout                    # default: the service's name

A server `s1` of the backend is `replica:checkout/s1`. What is set here lasts until HAProxy is reloaded: the file
then holds again, and a run that is in the middle sees that somebody else has changed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from agent.config import Name
from agent.errors import Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.units import Duration, Model, say_duration

State = Literal["ready", "drain", "maint"]

_WORD: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_MOST_BYTES: Final = 4 << 20
_MOST_WEIGHT: Final = 256
_MAINT: Final = 0x01 | 0x02 | 0x04 | 0x20
_DRAIN: Final = 0x08 | 0x10
"""Bits of srv_admin_state: HAProxy's management guide, `show servers state`."""
_RUNNING: Final = "2"
_CHECKED: Final = 0x04
"""Bit of srv_check_state: its checks are on."""
_PASSED: Final = "3"
"""srv_check_result: it is well and wants requests."""
_LOOK_S: Final = 0.1
_RATE: Final = "sessions_per_second"
_CONNECTIONS: Final = "connections_count"


@dataclass(frozen=True, slots=True)
class Server:
    """One server of the backend."""

    weight: int
    state: State
    up: bool
    sessions: int
    address: str


@connector("haproxy")
class Haproxy:
    """One backend of a HAProxy on this host.

    Abilities  Traffic and Roster (see playbooks/actions/traffic.py); Limiter (see playbooks/actions/limits.py) for
               `sessions_per_second` of the whole HAProxy, and `connections_count` of `frontend` when it is named
    Setting is compare-and-set as far as HAProxy allows: we look, then set, one command at a time. A server that is
    added is checked like the others where they are checked, and gets requests once it is well.
    """

    tested = "HAProxy 2.6"

    class Config(Model):
        """Which socket, which backend."""

        service: Name
        socket: Path
        backend: Annotated[str, Field(pattern=rf"^({_WORD})?$")] = ""
        frontend: Annotated[str, Field(pattern=rf"^({_WORD})?$")] = ""
        """Whose connections may be limited; empty = nobody's."""
        check: Annotated[Duration, Field(ge=0.1, le=60)] = 2.0
        """How often a server is checked that is added here."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0
        """For one command."""
        wait: Annotated[Duration, Field(gt=0, le=600)] = 30.0
        """For a server that is added to be well, and for the last request of one that is taken off."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._backend = config.backend or config.service
        self._turn = asyncio.Lock()

    # ---- ability: Traffic

    async def backends(self, service: str) -> Mapping[str, Server]:
        """Return every server of the backend."""
        if service != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} serves service:{self.config.service}, not {service}: say which with `via:`"
            )
        return {self._id(name): server for name, server in (await self._servers()).items()}

    async def set_weight(self, replica: str, weight: int, expect: int) -> None:
        """Set the weight, 0 to 256."""
        name = self._named(replica)
        if not 0 <= weight <= _MOST_WEIGHT:
            raise Refused(
                f"HAProxy has weights from 0 to {_MOST_WEIGHT}, not {weight}: lower those of the other servers first"
            )
        async with self._turn:
            now = (await self._one(name)).weight
            if now != expect:
                raise Refused(f"{replica} has weight {now}, not {expect}: changed by others")
            await self._set(f"set server {self._backend}/{name} weight {weight}")
            with _begun(f"the weight of {replica} was set to {weight}"):
                await self._follows(replica, "weight", weight)

    async def set_state(self, replica: str, state: State, expect: State) -> None:
        """Set ready, drain or maint."""
        name = self._named(replica)
        async with self._turn:
            now = (await self._one(name)).state
            if now != expect:
                raise Refused(f"{replica} is {now}, not {expect}: changed by others")
            await self._set(f"set server {self._backend}/{name} state {state}")
            with _begun(f"{replica} was told to be in {state}"):
                await self._follows(replica, "state", state)

    # ---- ability: Roster

    async def address(self, replica: str) -> str | None:
        """Return where a server listens; None = the backend has none of that name."""
        server = (await self._servers()).get(self._named(replica))
        return server.address if server else None

    async def set_address(self, replica: str, address: str | None, expect: str | None) -> None:
        """Add a server and wait until it is well, or take one off when its requests are done."""
        name = self._named(replica)
        async with self._turn:
            there = await self._servers()
            now = there[name].address if name in there else None
            if now != expect:
                raise Refused(
                    f"{replica} is at {now or 'no address'}, not {expect}: changed by others"
                )
            if address is None:
                await self._take_off(replica, name)
            else:
                await self._add(replica, name, address)

    # ---- ability: Limiter

    async def limit(self, target: str, name: str) -> float | None:
        """Return a limit of what comes in; new sessions wait above it, none is turned away."""
        self._limits(target, name)
        if name == _RATE:
            said = await self._ask("show info")
            found = re.search(r"^SessRateLimit: (\d+)$", said, re.MULTILINE)
            return (float(found[1]) or None) if found else None
        stats = await self._ask(f"show stat {self.config.frontend} 1 -1")
        rows = csv.DictReader(io.StringIO(stats.removeprefix("# ")))
        row = next((r for r in rows if r["pxname"] == self.config.frontend), None)
        if row is None:
            raise Refused(
                f"HAProxy has no frontend {self.config.frontend}: mend `frontend` of {self.name}"
            )
        return float(row["slim"])

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return a whole number; 0 would mean no limit, so it is at least 1."""
        self._limits(target, name)
        return float(max(1, round(value)))

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Set it if it is `expect`."""
        async with self._turn:
            now = await self.limit(target, name)
            if now != expect:
                raise Refused(f"{name} of {target} is {now}, not {expect}: changed by others")
            if name == _RATE:
                await self._set(f"set rate-limit sessions global {int(value or 0)}")
            elif value is None:
                raise Refused(f"{self.config.frontend} always has a limit of connections")
            else:
                await self._set(f"set maxconn frontend {self.config.frontend} {int(value)}")
            with _begun(f"HAProxy was told to make {name} {value}"):
                now = await self.limit(target, name)
            if now != value:
                raise Uncertain(f"HAProxy was told to make {name} {value}; it is {now}")

    def _limits(self, target: str, name: str) -> None:
        """Raise Refused for whom we do not serve, and for a limit that there is none of."""
        if target != f"service:{self.config.service}":
            raise Refused(f"{self.name} limits service:{self.config.service}, not {target}")
        if name != _RATE and not (name == _CONNECTIONS and self.config.frontend):
            raise Refused(
                f"{self.name} has no limit {name}: there are {_RATE} and, where `frontend` is named, {_CONNECTIONS}"
            )

    async def describe(self) -> Sequence[str]:
        """Say which servers there are, and whether we may change them."""
        try:
            servers = await self._servers()
            # changes nothing: HAProxy asks for the level before it looks at the name
            answer = await self._ask(f"set server {self._backend}/ weight")
        except (Unavailable, Refused) as problem:
            return (str(problem),)
        lines = [
            f"{self._id(name)} at {s.address}: weight {s.weight}, {s.state}, {'up' if s.up else 'DOWN'}, "
            f"{s.sessions} sessions"
            for name, s in servers.items()
        ]
        if "ermission denied" in answer:
            lines.append("may only look: the socket is not of `level admin`")
        return lines

    # ---- changing the list

    async def _add(self, replica: str, name: str, address: str) -> None:
        """Add it without weight, so that nobody is sent there before it has passed a check."""
        rows = await self._rows()
        weight = max((int(row["srv_iweight"]) for row in rows), default=1)
        checked = any(int(row["srv_check_state"]) & _CHECKED for row in rows)
        where = f"{self._backend}/{name}"
        check = f" check inter {round(self.config.check * 1000)}ms" if checked else ""
        await self._set(
            f"add server {where} {address} weight 0{check}", says="New server registered"
        )
        with _begun(f"{replica} is on the list, but perhaps gets no requests"):
            await self._enable(replica, name, address, weight, checked=checked)

    async def _enable(
        self, replica: str, name: str, address: str, weight: int, *, checked: bool
    ) -> None:
        """Let a server that is on the list have requests, once it is well."""
        where = f"{self._backend}/{name}"
        if checked:
            await self._set(f"enable health {where}")
        await self._set(f"enable server {where}")
        end = time.monotonic() + self.config.wait
        while checked and (await self._row(name)).get("srv_check_result") != _PASSED:
            if time.monotonic() > end:
                await self._take_off(replica, name)
                raise Refused(
                    f"{replica} at {address} is not well after {say_duration(self.config.wait)} and was taken off "
                    "again; look whether it runs"
                )
            await asyncio.sleep(_LOOK_S)
        await self._set(f"set server {where} weight {weight}")

    async def _take_off(self, replica: str, name: str) -> None:
        where = f"{self._backend}/{name}"
        await self._set(f"set server {where} state drain")
        with _begun(f"{replica} is drained, but stays on the list"):
            await self._delete(replica, name)

    async def _delete(self, replica: str, name: str) -> None:
        """Take a server that gets no more requests off the list, when those that it has are done."""
        where = f"{self._backend}/{name}"
        end = time.monotonic() + self.config.wait
        while left := (await self._one(name)).sessions:
            if time.monotonic() > end:
                raise Uncertain(
                    f"{replica} is drained but has {left} requests after {say_duration(self.config.wait)}: it stays on "
                    "the list; end them or wait"
                )
            await asyncio.sleep(_LOOK_S)
        await self._set(f"set server {where} state maint")
        while True:
            answer = await self._ask(f"del server {where}", changes=True)
            if "deleted" in answer.lower():
                return
            # idle connections that it keeps are closed one by one
            if "still has connections" not in answer.lower() or time.monotonic() > end:
                raise Uncertain(f"{replica} gets no requests, but HAProxy keeps it: {answer[:200]}")
            await asyncio.sleep(_LOOK_S)

    async def _follows(self, replica: str, what: str, wanted: object) -> None:
        """Look whether it has come about."""
        now = getattr(await self._one(self._named(replica)), what)
        if now != wanted:
            raise Uncertain(
                f"HAProxy was told to make the {what} of {replica} {wanted}; it is {now}"
            )

    # ---- looking

    def _id(self, name: str) -> str:
        return f"replica:{self.config.service}/{name}"

    def _named(self, replica: str) -> str:
        """Return the server's name; it goes into a command, so only plain words."""
        service, _, name = replica.removeprefix("replica:").rpartition("/")
        if service != self.config.service:
            raise Refused(
                f"{self.name} has the replicas of service:{self.config.service}, not {replica}: say which with `via:`"
            )
        if not re.fullmatch(_WORD, name):
            raise Refused(f"{replica}: HAProxy has no server of such a name")
        return name

    async def _one(self, name: str) -> Server:
        found = (await self._servers()).get(name)
        if found is None:
            raise Refused(f"HAProxy's backend {self._backend} has no server {name}")
        return found

    async def _row(self, name: str) -> dict[str, str]:
        return next((row for row in await self._rows() if row["srv_name"] == name), {})

    async def _rows(self) -> list[dict[str, str]]:
        text = await self._ask(f"show servers state {self._backend}")
        lines = [line for line in text.splitlines() if line.strip()]
        head = next((line for line in lines if line.startswith("# ")), "")
        if not head:
            raise Refused(
                f"HAProxy says of backend {self._backend}: {text[:200].strip() or 'nothing'}; "
                f"mend `backend` of {self.name}"
            )
        keys = head[2:].split()
        rows = (line.split() for line in lines if line != head)
        return [dict(zip(keys, row, strict=False)) for row in rows if len(row) >= len(keys) - 5]

    async def _servers(self) -> dict[str, Server]:
        rows = await self._rows()
        if not rows:
            return {}
        stats = await self._ask(f"show stat {rows[0]['be_id']} 4 -1")
        table = csv.DictReader(io.StringIO(stats.removeprefix("# ")))
        busy = {row["svname"]: int(row["scur"] or 0) + int(row["qcur"] or 0) for row in table}
        return {
            row["srv_name"]: Server(
                int(row["srv_uweight"]),
                _state(int(row["srv_admin_state"])),
                row["srv_op_state"] == _RUNNING,
                busy.get(row["srv_name"], 0),
                f"{row['srv_addr']}:{row['srv_port']}",
            )
            for row in rows
        }

    # ---- the socket

    async def _set(self, command: str, says: str = "") -> str:
        """Give a command that changes something; anything but `says` (default: silence) is a refusal."""
        answer = (await self._ask(command, changes=True)).strip()
        if (says and says not in answer) or (not says and answer):
            raise Refused(f"HAProxy does not take `{command}`: {answer[:200]}")
        return answer

    async def _ask(self, command: str, *, changes: bool = False) -> str:
        where = self.config.socket
        try:
            async with asyncio.timeout(self.config.timeout):
                try:
                    reader, writer = await asyncio.open_unix_connection(str(where))
                except FileNotFoundError:
                    raise Unavailable(
                        f"there is no {where}: start HAProxy with `stats socket {where} level admin`, or mend "
                        f"`socket` of {self.name}"
                    ) from None
                except PermissionError:
                    raise Refused(
                        f"{where} is not ours to open: let the daemon's group use it (`mode 660 group ...`)"
                    ) from None
                except OSError as wrong:
                    raise Unavailable(f"{where} does not answer: {wrong.strerror}") from None
                try:
                    writer.write(command.encode("ascii") + b"\n")
                    await writer.drain()
                    answer = await reader.read(_MOST_BYTES)
                    while more := await reader.read(_MOST_BYTES):
                        answer += more
                        if len(answer) > _MOST_BYTES:
                            raise Refused(f"HAProxy's answer is larger than {_MOST_BYTES} bytes")
                    if not answer:  # whatever HAProxy says, it ends with an empty line
                        raise ConnectionResetError
                finally:
                    writer.close()
        except (TimeoutError, ConnectionError):
            said = f"HAProxy gave no whole answer within {say_duration(self.config.timeout)}"
            if changes:
                raise Uncertain(f"{said} to `{command}`; it may have been done") from None
            raise Unavailable(said) from None
        return answer.decode("utf-8", "replace")


@contextlib.contextmanager
def _begun(what: str) -> Iterator[None]:
    """Turn `not now` into `unclear`: something was done already."""
    try:
        yield
    except Unavailable as lost:
        raise Uncertain(f"{what}; {lost}") from None


def _state(admin: int) -> State:
    if admin & _MAINT:
        return "maint"
    return "drain" if admin & _DRAIN else "ready"
