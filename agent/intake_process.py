"""The ingest process: lets senders in, reads what they send, and hands it to the daemon as columns.

    python -P -m agent.intake_process CHANNEL LISTENING        (both are numbers of open sockets)

Its first parcel says what it needs: `receivers` (name, module, kind, config), `state` (folder: tokens, keys), `models`
(who may speak for which), `forward` (the daemon's socket for all that is no inlet: changes, webhooks). It imports the
connectors' package and no more of the agent than inlets need, ends with the daemon, is the kernel's choice before it
when memory is short, and asks for no priority. What it holds is bounded: bodies by `inlets.LARGE`, rows that the
daemon has not counted by `intake.MOST_CELLS`; above that senders get 429.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import importlib
import inspect
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import _server, registry
from agent.authority import Person, Tokens, Unknown
from agent.calls import Names
from agent.control import no_tls, reach
from agent.errors import AgentError, Refused, Unavailable
from agent.imports import without
from agent.inlets import LARGE, Busy, Inlets, No, told
from agent.intake import MOST_CELLS, SIZE, read
from agent.parcels import cells_of, pack, parts, unpack
from agent.ports import Bulk
from agent.strike import last_words

if TYPE_CHECKING:
    import httpx
    from starlette.types import ASGIApp, Receive, Scope, Send

_CONNECTIONS: Final = 256
_BEAT_S: Final = 2.0
_COUNTED_S: Final = 30.0
_FORWARD_BYTES: Final = 1 << 20
_FORWARD_S: Final = 30.0
_OOM_SCORE: Final = 500
_HOP: Final = frozenset({
    b"connection", b"content-length", b"host", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade",
})  # fmt: skip
"""Headers of one connection only."""


@dataclass(slots=True)
class Pipe:
    """The way to the daemon. The Hand of the inlets here."""

    writer: asyncio.StreamWriter
    _number: int = 0
    _cells: int = 0
    _waiting: int = 0
    _counted: dict[int, asyncio.Future[AgentError | None]] = field(default_factory=dict)
    _named: dict[str, asyncio.Future[Sequence[str]]] = field(default_factory=dict)
    _tally: dict[str, list[int]] = field(default_factory=dict)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def room(self) -> None:
        """Raise Busy when the daemon is behind."""
        if self._cells > MOST_CELLS:
            raise Busy("more rows wait than can be counted now; send them again later", wait_s=2.0)

    async def give(self, source: str, arrivals: Sequence[Bulk], waiting: int) -> None:
        """Hand over, and wait until the daemon has counted."""
        del source
        self._number += 1
        number, self._waiting = self._number, waiting
        cells = sum(map(cells_of, arrivals))
        future = self._counted[number] = asyncio.get_running_loop().create_future()
        self._cells += cells
        try:
            async with asyncio.timeout(_COUNTED_S):
                said = {"kind": "rows", "number": number, "waiting": waiting}
                async with self._turn:
                    for arrival in arrivals:
                        for part in parts(arrival):
                            await self._write(pack({**said, "last": False}, part))
                    await self._write(pack({**said, "last": True}))
                no = await future
        except TimeoutError:
            raise Unavailable(
                "the daemon has not counted them in time; send them again", wait_s=5.0
            ) from None
        finally:
            self._cells -= cells
            self._counted.pop(number, None)
        if no is not None:
            raise no

    async def ask(self, model: str) -> Sequence[str]:
        """Ask the daemon for the columns of a model."""
        future = self._named.get(model)
        if future is None:
            future = self._named[model] = asyncio.get_running_loop().create_future()
            await self._write(pack({"kind": "ask", "model": model}))
        try:
            async with asyncio.timeout(_COUNTED_S):
                return await asyncio.shield(future)
        except TimeoutError:
            raise Unavailable("the daemon does not answer; send it again", wait_s=5.0) from None

    def told(self, source: str, size: int, *, refused: bool) -> None:
        """Count a request; the next sign of life tells the daemon."""
        one = self._tally.setdefault(source, [0, 0])
        one[0] += size
        one[1] += refused

    def bug(self, where: str, trace: str) -> None:
        """Tell the daemon."""
        self._send(pack({"kind": "bug", "where": where, "trace": trace}))

    def heard(self, said: Mapping[str, Any]) -> None:
        """Take an answer of the daemon."""
        if said["kind"] == "counted":
            future = self._counted.get(said["number"])
            if future is not None and not future.done():
                no = said["no"]
                kind = Refused if said["never"] else Unavailable
                future.set_result(kind(no) if no else None)
        elif said["kind"] == "names":
            asked = self._named.pop(said["model"], None)
            if asked is not None and not asked.done():
                asked.set_result(said["names"])

    async def beat(self) -> None:
        """Give signs of life."""
        while True:
            requests = [(source, *one) for source, one in self._tally.items()]
            self._tally.clear()
            self._send(pack({"kind": "beat", "waiting": self._waiting, "requests": requests}))
            await asyncio.sleep(_BEAT_S)

    async def _write(self, data: bytes) -> None:
        self._send(data)
        await self.writer.drain()

    def _send(self, data: bytes) -> None:
        self.writer.write(SIZE.pack(len(data)))
        self.writer.write(data)


class Senders:
    """Who asks: a token, as bearer, or as the password of a URL for senders that can set no header."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def __call__(self, scope: Scope) -> Person:
        """Return who asks; raises Unknown."""
        said = next((v for k, v in scope["headers"] if k == b"authorization"), b"").decode(
            "latin-1"
        )
        kind, _, rest = said.partition(" ")
        match kind.lower():
            case "bearer":
                return self._tokens.who(rest.strip())
            case "basic":
                with contextlib.suppress(ValueError):
                    plain = base64.b64decode(rest.strip(), validate=True).decode("utf-8")
                    return self._tokens.who(plain.partition(":")[2])
        raise Unknown(
            "who sends this is not known; send Authorization: Bearer TOKEN "
            "(homeostat token add NAME --role sender --model MODEL)"
        )


class Front:
    """Inlets are served here; all else is the daemon's, and so are its answers."""

    def __init__(self, inlets: Inlets, daemon: Path) -> None:
        self._inlets = inlets
        self._daemon = daemon
        self._client: httpx.AsyncClient | None = None
        self._reached = contextlib.ExitStack()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["path"] in self._inlets.mounted:
            await self._inlets(scope, receive, send)
            return
        try:
            await self._forward(scope, receive, send)
        except (AgentError, No) as error:
            await told(error).send(send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        with without("pygments"):  # as in `connectors/http.py`
            import httpx

        if self._client is None:
            path = self._reached.enter_context(reach(self._daemon))  # for as long as we live
            transport = httpx.AsyncHTTPTransport(uds=path, verify=no_tls())
            self._client = httpx.AsyncClient(transport=transport, timeout=_FORWARD_S)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > _FORWARD_BYTES:
                raise No(413, f"a body of more than {_FORWARD_BYTES} bytes", "send it in parts")
        query = scope["query_string"]
        url = httpx.URL(
            "http://homeostat", raw_path=scope["raw_path"] + (b"?" + query if query else b"")
        )
        headers = [(k, v) for k, v in scope["headers"] if k not in _HOP]
        try:
            got = await self._client.request(
                scope["method"], url, headers=headers, content=bytes(body)
            )
        except httpx.HTTPError:
            raise Unavailable("the daemon does not answer; send it again", wait_s=2.0) from None
        out = [(k.lower(), v) for k, v in got.headers.raw if k.lower() not in _HOP - {b"content-length"}]  # fmt: skip
        await send({"type": "http.response.start", "status": got.status_code, "headers": out})
        await send({"type": "http.response.body", "body": got.content})


def receivers_of(
    wanted: Sequence[Mapping[str, Any]], state: Path, names: Names | None = None
) -> dict[str, Any]:
    """Build the connectors whose inlets are served here."""
    out = {}
    offered = {"state": state, "names": names or Names()}
    for one in wanted:
        importlib.import_module(one["module"])  # runs the decorator
        cls = registry.connector.get(one["kind"])
        asks = inspect.signature(cls).parameters
        own = {k: v for k, v in offered.items() if k in asks}
        out[one["name"]] = cls(one["name"], cls.Config(**one["config"]), **own)
    return out


def application(settings: Mapping[str, Any], pipe: Pipe) -> ASGIApp:
    """Return what is served."""
    state = Path(settings["state"])
    inlets = Inlets(
        receivers_of(settings["receivers"], state, Names(*settings.get("names", ()))),
        pipe,
        Senders(Tokens(state / "tokens.json")),
        lambda: settings["models"],
        LARGE,
    )
    return Front(inlets, Path(settings["forward"]))


async def _live(channel: socket.socket, listening: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=channel, limit=1 << 20)
    settings, _ = unpack(await read(reader))
    pipe = Pipe(writer)
    server = _server.make(application(settings, pipe), _server.Protocol, _CONNECTIONS)
    gc.freeze()
    beat = asyncio.create_task(pipe.beat())
    hear = asyncio.create_task(_hear(reader, pipe, server))
    await server.serve(sockets=[listening])
    beat.cancel()
    hear.cancel()


async def _hear(reader: asyncio.StreamReader, pipe: Pipe, server: _server.Server) -> None:
    """Take the daemon's answers, until it lets us go, or has ended."""
    while True:
        try:
            said, _ = unpack(await read(reader))
        except (EOFError, OSError):
            os._exit(1)  # the daemon is gone: nobody would count what is still under way
        if said["kind"] == "end":
            server.end()
        pipe.heard(said)


def main() -> None:
    """Serve until the daemon lets us go."""
    sys.excepthook = last_words
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    if (
        os.getpriority(os.PRIO_PROCESS, 0) < 0
    ):  # the daemon may have asked for more, which is not for us
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    with contextlib.suppress(OSError):  # not on this system
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    channel, listening = (socket.socket(fileno=int(text)) for text in sys.argv[1:3])
    channel.setblocking(False)
    listening.setblocking(False)
    asyncio.run(_live(channel, listening))


if __name__ == "__main__":
    main()
