"""The Gate before every request: whose name was called, from where, and who asks; and how errors are told.

A web page elsewhere can reach loopback through the browser of somebody on this host. So a foreign Host (DNS
rebinding) and a foreign Origin (forged requests) are refused before anything is looked at. Reading on loopback is
free; what changes something needs a token, or the Unix socket, where the kernel tells the uid.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pydantic
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from agent.authority import LOOPBACK, SENDER, Forbidden, Person, Tokens, Unknown, peer
from agent.errors import AgentError, ConfigError, Refused, Unavailable, Uncertain
from agent.meant import NotThere
from agent.telemetry import Telemetry

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from agent.refusals import Refusals

log = structlog.get_logger()

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_READ_S: Final = 15.0

_POLICY: Final = (
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:",
    "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
)  # fmt: skip
"""No inline script, nothing from elsewhere, framed by nobody."""
HEADERS: Final = (
    (b"content-security-policy", "; ".join(_POLICY).encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
PAGES: Final = ("/", "/incidents/{id}", "/explore", "/models", "/playbooks", "/audit", "/topology")
"""Addresses of the console: one empty page, which asks for the rest."""
_PUBLIC: Final = frozenset({*PAGES, "/health", "/ready"})
"""What anybody may have who names us rightly: an empty page, and whether we live."""
_READS: Final = frozenset({"GET", "HEAD"})


class TooLarge(Refused):
    """More bytes than this way takes."""


class Malformed(Refused):
    """The request can not be understood."""


class Gate:
    """Stands before everything and lets in whom it knows."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        telemetry: Telemetry,
        *,
        public_url: str = "",
        ingest: frozenset[str] = frozenset(),
        signed: frozenset[str] = frozenset(),
        refusals: Refusals | None = None,
    ) -> None:
        self._app = app
        self._refusals = refusals
        self._tokens = tokens
        self._telemetry = telemetry
        public = urlsplit(public_url)
        self._public = public.hostname or ""
        self._origin = f"{public.scheme}://{public.netloc}".lower() if public.netloc else ""
        self._ingest = ingest
        self._signed = signed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; anything but HTTP is closed."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        start = time.perf_counter()
        seen = {"status": 500}

        async def out(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        request = Request(scope)
        try:
            scope["state"]["person"] = self._admit(request)
            await self._app(scope, receive, out)
        except AgentError as error:
            await told(request, error)(scope, receive, out)
        finally:
            self._count(scope, seen["status"], time.perf_counter() - start)
            if seen["status"] in {401, 403} and scope["method"] not in _READS:
                self._write_down(request, seen["status"])

    def _write_down(self, request: Request, status: int) -> None:
        """Note an act that was refused: whoever tried may have had a person's browser do it."""
        if self._refusals is None:
            return
        state = request.scope["state"]
        person: Person | None = state.get("person")
        client = request.scope.get("client")
        self._refusals.take(
            request.method,
            request.url.path,
            status=status,
            why=state.get("refusal", ""),
            origin=request.headers.get("origin", ""),
            by=person.signed if person is not None else str(client[0]) if client else "the socket",
        )

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        name = getattr(scope.get("route"), "name", None) or "none"
        # whatever a stranger calls as path or method must not become a label
        method = scope["method"] if name != "none" else "any"
        self._telemetry.add(
            "homeostat_http_requests_total", 1, route=name, method=method, code=str(status)
        )
        if name != "events":
            self._telemetry.observe("homeostat_http_request_seconds", took_s, route=name)

    def _admit(self, request: Request) -> Person:
        """Return who asks; raises Forbidden, Unknown or NotThere."""
        door = request.scope["state"].get("door", "console")
        path = request.url.path
        pushes = path in self._ingest and request.method == "POST"
        allowed = {"metrics": path == "/metrics", "ingest": pushes}.get(door, True)
        if not allowed:
            raise NotThere(f"{path} is not served here; this address is for {door} only")
        near = door in {"console", "socket"}
        if door == "console" and not self._ours(request) and path not in {"/health", "/ready"}:
            raise Forbidden(
                f"this is not {request.headers.get('host', 'that host')!r}; "
                "use localhost, or set public_url in agent.yaml"
            )
        self._same_origin(request)
        authorization = request.headers.get("authorization", "")
        scheme, _, token = authorization.partition(" ")
        if authorization:
            if scheme.lower() != "bearer":
                raise Unknown(
                    "only bearer tokens are understood; send: Authorization: Bearer TOKEN"
                )
            self._private(request, door)
            who = self._tokens.who(token.strip())
            if who.role == SENDER and not pushes:
                raise Forbidden(
                    f"{who.name} is {SENDER}; it may send predictions and labels, no more"
                )
            return who
        uid = request.scope["state"].get("peer_uid")
        if uid is not None:
            return peer(uid)
        if near and self._from_here(request):
            return LOOPBACK
        if path in self._signed:
            # its receiver asks for a signature of the body, which has not been read yet
            return Person("somebody who signs", "viewer", "nowhere")
        if near and (path in _PUBLIC or path.startswith(("/static/", "/incidents/"))):
            return Person("somebody", "viewer", "nowhere")
        raise Unknown(
            "reading from elsewhere needs a token; make one with: homeostat token add NAME"
        )

    def _ours(self, request: Request) -> bool:
        """Tell whether Host is a name of ours: a rebound name of somebody's web page is not."""
        host = _hostname(request.headers.get("host", ""))
        return host in LOOPBACK_NAMES or (bool(host) and host == self._public)

    def _from_here(self, request: Request) -> bool:
        """Tell whether it was asked on loopback under a loopback name: a proxy asks for others."""
        client = request.scope.get("client")
        try:
            near = client is not None and ipaddress.ip_address(client[0]).is_loopback
        except ValueError:
            near = False
        forwarded = any(h in request.headers for h in ("forwarded", "x-forwarded-for", "x-real-ip"))
        host = _hostname(request.headers.get("host", ""))
        return near and host in LOOPBACK_NAMES and not forwarded

    def _private(self, request: Request, door: str) -> None:
        """Refuse a token from elsewhere without TLS before the proxy: it says so itself, or `public_url` does."""
        told = request.headers.get("x-forwarded-proto", "")
        tls = told.lower() == "https" if told else self._origin.startswith("https://")
        if door == "console" and not tls and not self._from_here(request):
            raise Forbidden(
                "a token may not travel without TLS; open the https address, "
                "and let the proxy send X-Forwarded-Proto: https"
            )

    def _same_origin(self, request: Request) -> None:
        """Refuse what a page of somebody else has made the browser send."""
        origin = request.headers.get("origin")
        if origin is not None:
            mine = f"{request.url.scheme}://{request.headers.get('host', '')}".lower()
            if origin.lower() not in {mine, self._origin} - {""}:
                raise Forbidden(f"a page of {origin} may not ask this; open the console itself")
        elif request.headers.get("sec-fetch-site") in {"cross-site", "same-site"} and (
            request.method != "GET" or request.headers.get("sec-fetch-mode") != "navigate"
        ):
            raise Forbidden("a page of somebody else may not ask this; open the console itself")


def _hostname(host: str) -> str:
    """Return the name in a Host header, without port and brackets; empty when it is malformed."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON that no cache keeps; NaN and infinities become null, JSON has neither."""
    try:
        text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except ValueError:
        text = json.dumps(_finite(data), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    said = {"cache-control": "no-store", **(headers or {})}
    return Response(text, status, said, media_type="application/json")


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {k: _finite(v) for k, v in data.items()}
    return [_finite(v) for v in data] if isinstance(data, list | tuple) else data


_STATUS: Final[tuple[tuple[type[Exception], int], ...]] = (
    # the first that fits
    (ConfigError, 422),
    (Unknown, 401),
    (Forbidden, 403),
    (NotThere, 404),
    (TooLarge, 413),
    (Malformed, 400),
    (Refused, 409),
    (Uncertain, 502),
    (Unavailable, 503),
)


def told(request: Request, error: Exception) -> Response:
    """Turn an error into {"error", "remedy"} and the status that says whose turn it is."""
    if isinstance(error, AgentError):
        return _expected(request, error)
    remedy = "see /api/openapi.json"
    if isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "model_type":  # pydantic names our class, which is nobody's business
            said = "Input should be an object"
        return answer({"error": f"{where}: {said}", "remedy": remedy}, 400)
    if isinstance(error, HTTPException):
        said = str(error.detail).lower()
        if error.status_code == 404:
            said = f"there is no {request.url.path}"
        return answer({"error": said, "remedy": remedy}, error.status_code, error.headers)
    if isinstance(error, TimeoutError):
        return answer({"error": "it took too long", "remedy": "try again"}, 503)
    log.error("bug", where=request.url.path, exc_info=error)
    return answer({"error": "a bug in the daemon", "remedy": "its log has the traceback"}, 500)


def _expected(request: Request, error: AgentError) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    said, _, remedy = str(error).partition("; ")
    request.scope["state"]["refusal"] = said
    body: dict[str, Any] = {"error": said, "remedy": remedy}
    headers: dict[str, str] = {}
    if isinstance(error, ConfigError):
        body["faults"] = [dataclasses.asdict(fault) for fault in error.faults]
    elif isinstance(error, Unknown):
        headers = {"www-authenticate": 'Bearer realm="homeostat"'}
    elif isinstance(error, Unavailable) and error.wait_s:
        headers = {"retry-after": str(math.ceil(error.wait_s))}
    return answer(body, status, headers)


def parse(raw: bytes) -> Any:
    """Read a JSON body; an empty one is an empty object; raises Malformed."""
    if not raw.strip():
        return {}
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Malformed(f"the body is not JSON ({error}); send an object") from None


async def read_body(request: Request, most: int) -> bytes:
    """Read a body of at most `most` bytes within its time; raises TooLarge, Malformed, Unavailable."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Malformed("compressed bodies are not understood; send it plain")
    try:
        told = int(request.headers.get("content-length", "0"))
    except ValueError:
        raise Malformed("content-length is no number") from None
    too_large = TooLarge(f"more than {most} bytes; send it in parts")
    if told > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(_READ_S):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        raise Unavailable(f"the body did not come within {_READ_S:.0f} s; send it again") from None
    except ClientDisconnect:
        raise Unavailable("the client left before its body had come") from None
    return b"".join(parts)
