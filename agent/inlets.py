"""Ways in for masses of rows: one small ASGI application, on the daemon's own port and in the ingest process.

    request -> who? -> room? -> body (bounded, inflated, bounded) -> Inlet.take -> for these models? -> Hand.give -> 202

A request is taken whole or not at all. Whatever is wrong with it is answered 4xx with a reason and a remedy, as
`{"error", "remedy"}`; what waits for us is answered 429 or 503 with Retry-After. No payload gets into a log: of a bug
only its type and place are told.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qsl

from agent.authority import SENDER, Forbidden, Person, Unknown
from agent.errors import AgentError, BadRecords, Refused, Unavailable
from agent.parcels import rows_of
from agent.ports import Bulk, BulkReceiver, Inlet, Pushed, SampleBatch, Taken

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_READ_S: Final = 15.0
_ASKS: Final = 8
"""Models whose columns one request may have to ask for."""
_NAMES_S: Final = 300.0
_MOST_NAMES: Final = 1000


class Busy(Unavailable):
    """Too much is waiting already: come back after `wait_s`."""


class Unasked(LookupError):
    """The columns of this model have not been asked for, or long ago."""

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(model)


@dataclass(frozen=True, slots=True)
class Limits:
    """In bytes: a body as sent, the same inflated, and all that are under way, until they are answered."""

    body: int
    inflated: int
    held: int


SMALL: Final = Limits(body=1 << 20, inflated=2 << 20, held=8 << 20)
"""On the daemon's own port: what is read there delays a tick, 2 MB by some 40 ms."""
LARGE: Final = Limits(body=8 << 20, inflated=16 << 20, held=64 << 20)


class Hand(Protocol):
    """Who takes the rows on."""

    def room(self) -> None:
        """Raise Busy when no more rows can wait."""
        ...

    async def give(self, source: str, arrivals: Sequence[Bulk], waiting: int) -> None:
        """Return when all are counted; raises Busy, Unavailable, or Refused for what can not be counted.

        waiting   halves that the inlets keep in memory
        """
        ...

    async def ask(self, model: str) -> Sequence[str]:
        """Return the names of a model's columns in order, () = not known."""
        ...

    def told(self, source: str, size: int, *, refused: bool) -> None:
        """Take note of a request: bytes of its body, and whether it was refused."""
        ...

    def bug(self, where: str, trace: str) -> None:
        """Take note of an exception that nobody expected."""
        ...


def mounted(receivers: Mapping[str, BulkReceiver]) -> dict[str, tuple[str, Inlet]]:
    """Return path -> (source, inlet); of two connectors of one kind the second gets its name behind the path.

    What stands `beside` shares the path of another one.
    """
    out: dict[str, tuple[str, Inlet]] = {}
    beside = []
    for source, receiver in receivers.items():
        for inlet in receiver.inlets():
            if inlet.beside:
                beside.append((source, inlet))
                continue
            path = inlet.path if inlet.path not in out else f"{inlet.path}/{source}"
            out[path] = source, inlet
    for source, inlet in beside:
        mine = out.get(inlet.path)
        both = inlet if mine is None else Inlet(inlet.path, _both(mine[1], inlet))
        out[inlet.path] = source if mine is None else mine[0], both
    return out


def _both(first: Inlet, beside: Inlet) -> Callable[[Pushed], Taken]:
    def take(pushed: Pushed) -> Taken:
        a = first.take(pushed)
        try:
            b = beside.take(pushed)
        except Forbidden:  # who may speak for one model only still does
            return a
        # what the first one could not use the second one may have counted
        return Taken((*a.arrivals, *b.arrivals), a.waiting + b.waiting, b.answer or a.answer)

    return take


def may_speak(models: Mapping[str, Sequence[str]], person: Person, model: str) -> bool:
    """Tell whether somebody may send rows of a model: of a sender its token says it, and for all `models` does.

    All may while `models` say nothing, then who is named, or `*`.
    """
    if person.role == SENDER and not any(fnmatchcase(model, glob) for glob in person.models):
        return False
    if not models or person.via != "token":
        return True
    return any(fnmatchcase(model, glob) for glob in models.get(person.name, models.get("*", ())))


def where_it_broke(error: BaseException) -> str:
    """Return type and place of an exception without its message, which may quote a row."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{f.filename}:{f.lineno} {f.name}" for f in frames[-8:]]
    return "\n".join([*lines, type(error).__name__])


class Inlets:
    """The application.

    who      scope -> who asks; raises Unknown, Forbidden
    models   sender -> globs of the models that it may speak for
    """

    def __init__(
        self,
        receivers: Mapping[str, BulkReceiver],
        hand: Hand,
        who: Callable[[Scope], Person],
        models: Callable[[], Mapping[str, Sequence[str]]],
        limits: Limits,
    ) -> None:
        self.mounted = mounted(receivers)
        """Path -> whose it is, and what takes it; put anew when the connectors are."""
        self._hand = hand
        self._who = who
        self._models = models
        self._limits = limits
        self._held = 0
        self._names: dict[str, tuple[float, Sequence[str]]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request to one of the paths."""
        source, inlet = self.mounted[scope["path"]]
        body = _Body()
        refused = True
        try:
            answer = await self._serve(source, inlet, scope, receive, body)
            refused = False
        except _Gone:
            return
        except (AgentError, No) as error:
            answer = told(error)
        except Exception as error:  # noqa: BLE001  # the border: a bug costs this request, and is told without its rows
            self._hand.bug(f"inlet {inlet.path}", where_it_broke(error))
            answer = told(No(500, "a bug in homeostat", "its log tells where"))
        finally:
            self._held -= body.held
        self._hand.told(source, body.sent, refused=refused)
        await answer.send(send)

    async def _serve(
        self, source: str, inlet: Inlet, scope: Scope, receive: Receive, body: _Body
    ) -> _Answer:
        person = self._who(scope)
        person.must("rows")
        _post(scope)
        self._hand.room()
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        raw = await self._read(headers, receive, body)
        self._hand.room()  # others may have come while the body did
        allow = functools.partial(self._allow, person)
        pushed = Pushed(raw, headers, _query(scope), time.time(), self._columns, allow, person.name)
        taken = await self._take(inlet, person, pushed)
        for arrival in taken.arrivals:
            if not isinstance(arrival, SampleBatch):  # its inlet has asked
                allow(arrival.model)
        try:
            await self._hand.give(source, taken.arrivals, taken.waiting)
        except Refused as error:
            raise No(409, *_parted(error)) from None
        rows = sum(map(rows_of, taken.arrivals))
        said = taken.answer or (202, "application/json", _json({"accepted": rows}))
        return _Answer(*said, {})

    async def _take(self, inlet: Inlet, person: Person, pushed: Pushed) -> Taken:
        for _ in range(_ASKS):
            try:
                return inlet.take(pushed)
            except Unasked as need:
                self._allow(person, need.model)
                if len(self._names) >= _MOST_NAMES:
                    self._names.clear()
                self._names[need.model] = time.monotonic(), await self._hand.ask(need.model)
            except Forbidden:
                raise
            except BadRecords as error:
                raise No(400, *_parted(error), reasons=error.reasons) from None
            except Refused as error:
                raise No(400, *_parted(error)) from None
        raise No(400, f"rows of more than {_ASKS} new models at once", "send them in parts")

    def _columns(self, model: str) -> Sequence[str]:
        when, names = self._names.get(model, (-math.inf, ()))
        if time.monotonic() - when > _NAMES_S:
            raise Unasked(model)
        return names

    def _allow(self, person: Person, model: str) -> None:
        if not may_speak(self._models(), person, model):
            remedy = f"add it for {person.name} under ingest_models: in agent.yaml"
            if person.role == SENDER and not any(fnmatchcase(model, g) for g in person.models):
                remedy = f"its token is for {', '.join(person.models)}; make one with --model {model[:80]}"
            raise Forbidden(f"{person.name} may not speak for model {model[:80]}; {remedy}")

    # ---- the body

    async def _read(self, headers: Mapping[str, str], receive: Receive, body: _Body) -> bytes:
        """Return the body, inflated."""
        limits = self._limits
        packing = headers.get("content-encoding", "identity").strip().lower() or "identity"
        if packing not in {"identity", "gzip", "x-gzip"}:
            raise No(415, f"bodies packed by {packing[:40]} are not read", "send gzip, or plain")
        try:
            size = int(headers.get("content-length", "0"))
        except ValueError:
            raise No(400, "content-length is no number", "send a count of bytes") from None
        too_large = No(
            413, f"a body of more than {limits.body} bytes", "send it in parts, or as gzip"
        )
        if size > limits.body:
            raise too_large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(_READ_S):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part = message.get("body", b"")
                    more = message.get("more_body", False)
                    body.sent += len(part)
                    if body.sent > limits.body:
                        raise too_large
                    self._hold(body, len(part))
                    parts.append(part)
        except TimeoutError:
            raise No(
                408, f"the body did not come within {_READ_S:.0f} s", "send it again"
            ) from None
        raw = b"".join(parts)
        if packing == "identity":
            return raw
        whole = inflate(raw, limits.inflated)
        self._hold(body, len(whole))
        return whole

    def _hold(self, body: _Body, size: int) -> None:
        """Count bytes as held until their request is answered; raises Busy."""
        body.held += size
        self._held += size
        if self._held > self._limits.held:
            raise Busy("too many bodies are under way; send it again later", wait_s=1.0)


def inflate(raw: bytes, most: int) -> bytes:
    """Unpack gzip, never more than `most` bytes of it; raises No."""
    out: list[bytes] = []
    size = 0
    try:
        while raw:
            member = zlib.decompressobj(wbits=31)
            out.append(member.decompress(raw, most - size + 1))
            size += len(out[-1])
            if size > most:
                raise No(413, f"more than {most} bytes when unpacked", "send it in parts")
            if not member.eof:
                raise No(400, "the gzip body is cut off", "send the whole of it")
            raw = member.unused_data
    except zlib.error:
        raise No(400, "the body is not gzip", "mend content-encoding, or pack it") from None
    return b"".join(out)


def _post(scope: Scope) -> None:
    if scope["method"] != "POST":
        raise No(405, f"{scope['method']} is not served here", "send POST", {"allow": "POST"})


def _query(scope: Scope) -> dict[str, str]:
    try:
        return dict(parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=20))
    except ValueError:
        raise No(400, "the address has too many parameters", "send only model=NAME") from None


# ---- answers


@dataclass(slots=True)
class _Body:
    """Bytes of a body as sent, and those that are held for it."""

    sent: int = 0
    held: int = 0


class _Gone(Exception):
    """The client has left before its body had come."""


class No(Exception):
    """An answer that is none of the tree's."""

    def __init__(
        self,
        status: int,
        said: str,
        remedy: str,
        headers: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
    ) -> None:
        self.status = status
        self.said = said
        self.remedy = remedy
        self.headers = headers or {}
        self.reasons = reasons
        super().__init__(said)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    media: str
    body: bytes
    headers: Mapping[str, str]

    async def send(self, send: Send) -> None:
        said = {
            "content-type": self.media, "content-length": str(len(self.body)), "cache-control": "no-store",
            **self.headers,
        }  # fmt: skip
        headers = [(k.encode(), v.encode()) for k, v in said.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def told(error: AgentError | No) -> _Answer:
    """Turn an error into status and {"error", "remedy"}."""
    if isinstance(error, No):
        more = {"reasons": list(error.reasons)} if error.reasons else {}
        body = _json({"error": error.said, "remedy": error.remedy, **more})
        return _Answer(error.status, "application/json", body, error.headers)
    status, headers = 400, {}
    match error:
        case Unknown():
            status, headers = 401, {"www-authenticate": 'Bearer realm="homeostat"'}
        case Forbidden():
            status = 403
        case Unavailable():
            status = 429 if isinstance(error, Busy) else 503
            headers = {"retry-after": str(math.ceil(error.wait_s or 1.0))}
    said, remedy = _parted(error)
    return _Answer(status, "application/json", _json({"error": said, "remedy": remedy}), headers)


def _parted(error: Exception) -> tuple[str, str]:
    said, _, remedy = str(error).partition("; ")
    return said, remedy or "docs/predictions.md says what is taken"


def _json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
