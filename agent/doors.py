"""The doors: loopback TCP for console and API, a Unix socket for commands, and others when they are asked for.

    Door = a bound socket + a uvicorn server of its own: a flood on one does not keep a person with the stop
           command out of the other

Bounded: connections, size of headers, silence. uvicorn runs inside the daemon's loop and owns no signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal
from urllib.parse import urlsplit

from agent import _server
from agent._server import Protocol, Server
from agent.control import reach
from agent.errors import Refused
from agent.events import Events
from agent.gate import LOOPBACK_NAMES

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DoorName = Literal["console", "socket", "metrics", "ingest"]

_CONNECTIONS: Final = 64
_ANYBODY: Final = 0o666
"""Who may connect where tokens are asked for: as on loopback, everybody on this host."""


class _Protocol(Protocol):
    """Says through which door a request came, and who is at the other end of the socket for commands."""

    door: ClassVar[DoorName] = "console"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self.app_state = {**self.app_state, "door": self.door}
        sock = transport.get_extra_info("socket")
        if self.door == "socket" and sock is not None:
            self.app_state["peer_uid"] = _peer_uid(sock)


def _peer_uid(sock: socket.socket) -> int:
    """Return the uid at the other end, as the kernel knows it; -1 (nobody) where it does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return -1
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)


@dataclass(slots=True)
class Site:
    """The open doors. `port` is where the console is, also when port 0 was asked for."""

    events: Events
    port: int = 0
    beside: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What else must be closed, before the doors."""
    paths: list[Path] = field(default_factory=list)
    """Sockets that have a name on disk."""
    _servers: list[tuple[Server, asyncio.Task[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """Stop listening, let answers that are under way finish for three seconds, then cut them."""
        self.events.close()
        for close in self.beside:
            await close()
        for server, _ in self._servers:
            server.end()
        for _, task in self._servers:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._servers.clear()
        for path in self.paths:
            path.unlink(missing_ok=True)

    async def open(self, app: ASGIApp, door: DoorName, sock: socket.socket) -> None:
        """Serve `app` on a bound socket until `close`."""
        protocol = type(f"_{door}Protocol", (_Protocol,), {"door": door})
        made = _server.make(app, protocol, _CONNECTIONS)
        task = asyncio.create_task(made.serve(sockets=[sock]), name=f"door {door}")
        while not made.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        self._servers.append((made, task))


@contextlib.asynccontextmanager
async def serve(
    app: ASGIApp,
    events: Events,
    *,
    host: str = "127.0.0.1",
    port: int = 8787,
    uds: Path | None = None,
    metrics: str = "",
    ingest: str = "",
) -> AsyncIterator[Site]:
    """Open the doors for as long as the block lasts; see `open_doors`."""
    site = await open_doors(
        app, events, host=host, port=port, uds=uds, metrics=metrics, ingest=ingest
    )
    try:
        yield site
    finally:
        await site.close()


async def open_doors(
    app: ASGIApp,
    events: Events,
    *,
    host: str = "127.0.0.1",
    port: int = 8787,
    uds: Path | None = None,
    metrics: str = "",
    ingest: str = "",
) -> Site:
    """Open the console on a loopback address and a Unix socket, and what else is asked for.

    metrics, ingest   `host:port` or `unix:/path` for scrapers and services elsewhere: nothing else is served there,
                      tokens always
    Raises Refused when an address is taken, not ours, or the console's is not loopback.
    """
    if host not in LOOPBACK_NAMES and not _is_loopback(host):
        raise Refused(
            f"the console listens on loopback only, not on {host}; put a proxy with TLS before it, "
            "and set public_url"
        )
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    doors: list[tuple[DoorName, socket.socket]] = []
    try:
        if uds is not None:
            doors.append(("socket", _unix(uds)))
        doors.append(("console", _tcp(host, port, "listen")))
        wanted: tuple[tuple[DoorName, str], ...] = (("metrics", metrics), ("ingest", ingest))
        for name, address in wanted:
            if address:
                doors.append((name, bound(address, f"{name}_listen")))
    except BaseException:
        for _, sock in doors:
            sock.close()
        raise
    site = Site(
        events, paths=[path for path in (uds, *map(socket_path, (metrics, ingest))) if path]
    )
    for name, sock in doors:
        if name == "console":
            site.port = sock.getsockname()[1]
        await site.open(app, name, sock)
    return site


def bound(address: str, key: str) -> socket.socket:
    """Listen on `host:port` or `unix:/path`; raises Refused, which names the key of agent.yaml."""
    path = socket_path(address)
    if path is not None:
        return _unix(path, _ANYBODY)
    host, port = split_address(address)
    return _tcp(host, port, key)


def socket_path(address: str) -> Path | None:
    """Return the path of a `unix:/path`, None for anything else."""
    return Path(address.removeprefix("unix:")) if address.startswith("unix:/") else None


def split_address(text: str) -> tuple[str, int]:
    """Read `host:port` or `[v6]:port`; raises Refused."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise Refused(f"not an address: {text!r}; write it like 127.0.0.1:8787")
    return host, port


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tcp(host: str, port: int, key: str) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
    except OSError as error:
        raise Refused(
            f"{host}:{port} is no address here ({error.strerror}); mend {key}: in agent.yaml"
        ) from None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise Refused(
            f"{host}:{port} can not be listened on ({error.strerror}); is another homeostat running? "
            f"else set {key}: in agent.yaml"
        ) from None
    sock.setblocking(False)
    return sock


def _unix(path: Path, mode: int = 0o600) -> socket.socket:
    """Bind the socket, its rights set before it listens; a dead one is replaced, a live one is not."""
    with reach(path) as short:
        if path.exists() or path.is_symlink():
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise Refused(f"{path} is there and is no socket; move it away")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                with contextlib.suppress(OSError):
                    probe.connect(short)
                    raise Refused(
                        f"another daemon answers on {path}; stop it, or use --state of its own"
                    )
            path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(short)
            path.chmod(mode)
            sock.listen(128)
        except OSError as error:
            sock.close()
            raise Refused(
                f"{path} can not be made ({error.strerror}); look at the rights of its folder"
            ) from None
    sock.setblocking(False)
    return sock
