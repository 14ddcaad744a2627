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
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal
from urllib.parse import urlsplit

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.control import reach
from agent.errors import Refused
from agent.events import Events
from agent.gate import LOOPBACK_NAMES

if TYPE_CHECKING:
    from starlette.types import ASGIApp

DoorName = Literal["console", "socket", "metrics", "ingest"]

_FIRST_REQUEST_S: Final = 15.0
"""A connection that says nothing for so long is closed."""
_CONNECTIONS: Final = 64


class _Server(uvicorn.Server):
    """uvicorn without signals (the daemon owns them) and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._ending.wait()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()


class _Protocol(H11Protocol):
    """Says through which door a request came, and who is at the other end of a Unix socket."""

    door: ClassVar[DoorName] = "console"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self.app_state = {**self.app_state, "door": self.door}
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            self.app_state["peer_uid"] = _peer_uid(sock)
        self.loop.call_later(_FIRST_REQUEST_S, self._silent)

    def _silent(self) -> None:
        cycle: object = self.cycle  # uvicorn declares it never None; before the first request it is
        if cycle is None and not self.transport.is_closing():
            self.transport.close()


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
    _servers: list[tuple[_Server, asyncio.Task[None]]] = field(default_factory=list)
    _socket: Path | None = None

    async def close(self) -> None:
        """Stop listening, let answers that are under way finish for three seconds, then cut them."""
        self.events.close()
        for server, _ in self._servers:
            server.end()
        for _, task in self._servers:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._servers.clear()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    async def open(self, app: ASGIApp, door: DoorName, sock: socket.socket) -> None:
        """Serve `app` on a bound socket until `close`."""
        protocol = type(f"_{door}Protocol", (_Protocol,), {"door": door})
        config = uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, date_header=False, limit_concurrency=_CONNECTIONS, backlog=128,
            timeout_keep_alive=20, timeout_graceful_shutdown=3, h11_max_incomplete_event_size=32 << 10,
        )  # fmt: skip
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]), name=f"door {door}")
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        self._servers.append((server, task))


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

    metrics, ingest   `host:port` for scrapers and services elsewhere: nothing else is served there, tokens always
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
                at, number = split_address(address)
                doors.append((name, _tcp(at, number, f"{name}_listen")))
    except BaseException:
        for _, sock in doors:
            sock.close()
        raise
    site = Site(events, _socket=uds)
    for name, sock in doors:
        if name == "console":
            site.port = sock.getsockname()[1]
        await site.open(app, name, sock)
    return site


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


def _unix(path: Path) -> socket.socket:
    """Bind the socket, 0600 before it listens; a dead one is replaced, a live one is not."""
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
            path.chmod(0o600)
            sock.listen(128)
        except OSError as error:
            sock.close()
            raise Refused(
                f"{path} can not be made ({error.strerror}); look at the rights of its folder"
            ) from None
    sock.setblocking(False)
    return sock
