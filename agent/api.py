"""The application behind the doors: console, JSON API, /metrics, /health, /ready and what services push.

Gate (who, from where) --> /            console, static files under a strict CSP
                      |--> /api/*      one table of ways -> desk; the OpenAPI document is made from it
                      |--> /metrics, /health, /ready
                      '--> receivers' routes and inlets, with their size limits
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import pydantic
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute
from typing_extensions import TypedDict

from agent import openapi
from agent.authority import NEEDS, Person, Tokens, Unknown, Verb
from agent.errors import AgentError, Refused
from agent.events import Events
from agent.gate import PAGES, Gate, Malformed, answer, parse, read_body, told
from agent.meant import NotThere
from agent.ports import Said
from agent.telemetry import OPENMETRICS, TEXT, Telemetry, wants_openmetrics
from agent.units import Model

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from agent.inlets import Inlets
    from agent.ports import Arrival, Route
    from agent.refusals import Refusals

    Push = Callable[[str, Sequence[Arrival]], Awaitable[None]]
    """(source, what it was sent): returns when it is taken."""

_BODY_BYTES: Final = 64 << 10
"""What a person can have to say; receivers state their own."""
_ANSWER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One request on its way to the desk: who asks, and what was given, already checked."""

    person: Person
    path: Mapping[str, str]
    query: Any
    body: Any


@dataclass(frozen=True, slots=True)
class Way:
    """One way into the API: what is served, checked and documented.

    handle    gets an Ask; returns JSON-able data or a Response; may be a coroutine
    query     pydantic model of what stands behind the `?`; body: of the JSON body
    returns   type of the answer, for the OpenAPI document
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    name: str
    verb: Verb
    summary: str
    handle: Callable[[Ask], Any]
    query: type[Model] | None = None
    body: type[Model] | None = None
    returns: Any = None
    media: str = "application/json"

    @property
    def path_params(self) -> list[str]:
        """Names in braces."""
        return re.findall(r"{(\w+)}", self.path)


# ---------------------------------------------------------------- the application


@dataclass(frozen=True, slots=True)
class Views:
    """What is not the API: how the daemon is, as three functions.

    health   JSON-able, with `status`: ok | degraded | failing
    ready    whether it watches
    metrics  the exposition; the argument asks for OpenMetrics
    """

    health: Callable[[], dict[str, Any]]
    ready: Callable[[], dict[str, Any]]
    metrics: Callable[[bool], str]


def make_app(
    ways: Sequence[Way],
    views: Views,
    tokens: Tokens,
    events: Events,
    telemetry: Telemetry,
    *,
    receivers: Mapping[str, Sequence[Route]] | None = None,
    inlets: Inlets | None = None,
    push: Push | None = None,
    public_url: str = "",
    refusals: Refusals | None = None,
) -> ASGIApp:
    """Return the whole application behind its Gate. Raises Refused when two routes claim one path."""
    ways = (*ways, *_own_ways(events))
    # Made when it is first asked for, beside the loop: it costs a third of a second, and few ever ask.
    document = cache(partial(openapi.document, ways))
    ways = (
        *ways,
        Way("GET", "/api/openapi.json", "openapi", "see", "This document.",
            lambda _: asyncio.to_thread(document)),
    )  # fmt: skip
    routes = [
        *(StarletteRoute(path, _static("index.html"), name=f"page {path}") for path in PAGES),
        StarletteRoute("/static/{path:path}", _static(), name="static"),
        StarletteRoute("/metrics", _metrics(views), name="metrics"),
        StarletteRoute("/health", _health(views.health), name="health"),
        StarletteRoute("/ready", _health(views.ready), name="ready"),
        *(StarletteRoute(w.path, _way(w), methods=[w.method], name=w.name) for w in ways),
    ]
    taken = {route.path for route in routes}
    ingest: set[str] = set()
    signed: set[str] = set()
    for source, some in (receivers or {}).items():
        for one in some:
            # two connectors of one kind ask for the same path: the second gets its name behind it
            path = one.path if one.path not in ingest else f"{one.path}/{source}"
            if path in taken | ingest or path.startswith(("/api/", "/static/")):
                raise Refused(
                    f"receiver {source}: the path {path} is taken; give it one of its own"
                )
            ingest.add(path)
            if one.vouch is not None:
                signed.add(path)
            handler = _receiver(source, one, push or _nobody, telemetry)
            routes.append(StarletteRoute(path, handler, methods=["POST"], name=f"ingest {source}"))
    if inlets is not None:
        for path, (source, _) in inlets.mounted.items():
            if path in taken | ingest:
                raise Refused(
                    f"receiver {source}: the path {path} is taken; give it one of its own"
                )
            ingest.add(path)
            routes.append(StarletteRoute(path, inlets, name=f"ingest {source}"))
    inner = Starlette(
        routes=routes,
        exception_handlers={
            AgentError: told, HTTPException: told, pydantic.ValidationError: told, Exception: told,
        },
    )  # fmt: skip
    pushed = {way.path for way in ways if way.method == "POST" and way.verb == "push"}
    return Gate(
        inner, tokens, telemetry, public_url=public_url, ingest=frozenset(ingest | pushed),
        signed=frozenset(signed), refusals=refusals,
    )  # fmt: skip


class MeView(TypedDict):
    """Who asks. needs: the role that each verb needs; may: the verbs that this person may do."""

    name: str
    role: str
    via: str
    may: list[str]
    needs: dict[str, str]


def _me(ask: Ask) -> MeView:
    who = ask.person
    return {
        "name": who.name, "role": who.role, "via": who.via,
        "may": [verb for verb in NEEDS if who.may(verb)], "needs": {str(verb): role for verb, role in NEEDS.items()},
    }  # fmt: skip


def _own_ways(events: Events) -> tuple[Way, ...]:
    def follow(_: Ask) -> Response:
        listener = events.listen()
        return StreamingResponse(listener.stream(), media_type="text/event-stream")

    return (
        Way("GET", "/api/events", "events", "see",
            "Server-sent events: incident, run, tick, state; `lagged` = ask for the whole again.",
            follow, media="text/event-stream"),
        Way("GET", "/api/me", "me", "see", "Who the token or the socket says that you are.",
            _me, returns=MeView),
    )  # fmt: skip


def _way(way: Way) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        person: Person = request.scope["state"]["person"]
        person.must(way.verb)
        query = way.query.model_validate(dict(request.query_params)) if way.query else None
        body = None
        if way.body is not None:
            body = way.body.model_validate(parse(await read_body(request, _BODY_BYTES)))
        ask = Ask(person, request.path_params, query, body)
        result = way.handle(ask)
        if inspect.isawaitable(result):
            async with asyncio.timeout(_ANSWER_S):
                result = await result
        return result if isinstance(result, Response) else answer(result)

    return serve


async def _nobody(source: str, arrivals: Sequence[Arrival]) -> None:
    """Take what nobody waits for."""
    del source, arrivals


def _receiver(
    source: str, route: Route, push: Push, telemetry: Telemetry
) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        try:
            person: Person = request.scope["state"]["person"]
            if route.vouch is None or (person.may("push") and not route.always):
                person.must("push")
                raw = await read_body(request, route.max_bytes)
            else:
                raw = await read_body(request, route.max_bytes)
                _vouched(route.vouch, request, raw)
            try:
                arrivals = route.handle(raw, request.headers.get("content-type", ""))
            except Refused as error:
                raise Malformed(str(error)) from None
        except AgentError:
            telemetry.add("homeostat_received_refused_total", 1, source=source)
            raise
        telemetry.add("homeostat_received_bytes_total", len(raw), source=source)
        if isinstance(arrivals, Said):
            return Response(arrivals.body, media_type=arrivals.media)
        await push(source, arrivals)
        return answer({"accepted": len(arrivals)}, 202)

    return serve


def _vouched(
    vouch: Callable[[Mapping[str, str], bytes], None], request: Request, raw: bytes
) -> None:
    """Let a sender in who has signed what it sends; raises Unknown."""
    try:
        vouch(request.headers, raw)
    except Refused as error:
        raise Unknown(str(error)) from None


def _metrics(views: Views) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        text = views.metrics(openmetrics)
        return Response(text, media_type=OPENMETRICS if openmetrics else TEXT)

    return serve


def _health(view: Callable[[], dict[str, Any]]) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        said = view()
        if request.scope["state"]["person"].via == "nowhere":
            said = {"status": said["status"]}
        return answer(said, 503 if said["status"] == "failing" else 200)

    return serve


_MEDIA: Final = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
}  # fmt: skip


def _static(only: str = "") -> Callable[[Request], Any]:
    """Serve the console's files: those that are there and of a kind we know, nothing above them."""
    kept: dict[str, tuple[bytes, str]] = {}

    async def serve(request: Request) -> Response:
        name = only or request.path_params["path"]
        parts = name.split("/")
        suffix = Path(name).suffix
        if suffix not in _MEDIA or any(not re.fullmatch(r"[A-Za-z0-9_-][\w.-]*", p) for p in parts):
            raise NotThere(f"there is no {request.url.path}")
        if name not in kept:
            found = files("dashboards").joinpath("console", *parts)
            if not found.is_file():
                raise NotThere(f"there is no {request.url.path}")
            raw = found.read_bytes()
            kept[name] = raw, '"' + hashlib.sha256(raw).hexdigest()[:32] + '"'
        raw, tag = kept[name]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(raw, headers=headers, media_type=_MEDIA[suffix])

    return serve
