"""Opens the daemon to people and machines: `start` joins the parts and opens the doors.

daemon -> Living (hooks of the desk) -> Desk -> ways -> api.make_app -> doors.open_doors -> Site
       -> wrote     each journal entry  -> telemetry (counts), events (consoles)
       -> published each tick           -> telemetry (how long), events (tick)

living     the hooks of the desk, on a daemon that lives
table      the ways into the API, and what is asked for on each
page_ways  the ways that only the console's pages ask
vitals     how the daemon is: /health, /ready and the gauges of /metrics
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from agent.api import Views, make_app
from agent.authority import Tokens
from agent.chat import Chats
from agent.desk import Desk
from agent.doors import Site, bound, open_doors, socket_path, split_address
from agent.errors import Refused
from agent.events import Events
from agent.inlets import SMALL, Inlets, mounted
from agent.intake import FORWARD, Counting, Intake
from agent.pictures import Pictures
from agent.ports import Chat, Labels, Note, Sink
from agent.refusals import Refusals
from agent.sinks import Numbers
from agent.telemetry import Telemetry
from agent.web.living import Living
from agent.web.table import ways
from agent.web.vitals import health, measure, measure_daemon, ready

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agent.daemon import Daemon
    from agent.journal import Entry
    from agent.pipeline import Moment

log = structlog.get_logger()

_WITHHELD_S: Final = 60.0
"""So long until it is looked again whether what is put off or silenced still is."""


def refusals(desk: Desk) -> Refusals:
    """Return what writes down acts that were refused."""
    return Refusals(
        lambda subject, body: desk.hooks.record("refused", subject, body, desk.hooks.now())
    )


def tell(events: Events, entry: Entry) -> None:
    """Tell consoles of what was just written: enough to know what to ask for again."""
    body = entry.body
    match entry.kind:
        case "incident":
            said = {k: body.get(k) for k in ("id", "state", "severity", "title")}
            events.publish("incident", said)
        case "run":
            said = {k: body.get(k) for k in ("id", "state", "incident", "playbook")}
            events.publish("run", said)
        case "decision" | "plan" | "intent" | "acted":
            pass  # details of what `run` and `incident` tell
        case _:
            events.publish("state", {"kind": entry.kind, "subject": entry.subject})


async def start(daemon: Daemon) -> Site:
    """Open the daemon to the world; raises Refused when an address can not be had."""
    telemetry = Telemetry(daemon.started)
    events = Events()
    tokens = Tokens(daemon.state / "tokens.json")
    desk = daemon.desk = Desk(Living(daemon), tokens)

    def wrote(entry: Entry) -> None:
        telemetry.wrote(entry)
        tell(events, entry)

    def published(moment: Moment) -> None:
        telemetry.add("homeostat_ticks_total")
        telemetry.observe("homeostat_tick_seconds", daemon.tick_s)
        for one in moment.frames:
            telemetry.add("homeostat_frames_total", 1, source=one.source)
        if len(events):
            events.publish("tick", _tick(desk, moment.now))
        daemon.sinks.tick(moment.now, numbered)

    def measured() -> None:
        measure(desk, telemetry, events)
        measure_daemon(daemon, telemetry)

    watches = daemon.walk.monitor.watches
    numbers = Numbers(
        telemetry,
        daemon.world,
        lambda: [(w.series, w.p) for w in watches.values() if len(w.p) == len(w.series)],
    )

    def numbered(sink: Sink) -> dict[Labels, float]:
        measured()
        return numbers.of(sink)

    def metrics(openmetrics: bool) -> str:
        measured()
        return telemetry.render(daemon.world, openmetrics=openmetrics)

    chats = daemon.chats = _chats(daemon, desk)
    daemon.wrote += [wrote, chats.wrote]
    daemon.published.append(published)
    config = daemon.config

    def tally(source: str, size: int, refused: int) -> None:
        telemetry.add("homeostat_received_bytes_total", size, source=source)
        telemetry.add("homeostat_received_refused_total", refused, source=source)

    daemon.counting.tally = tally
    refused = refusals(desk)
    front = _Front(
        daemon,
        lambda inlets: make_app(
            ways(desk),
            Views(lambda: health(desk, time.time()), lambda: ready(desk), metrics),
            tokens,
            events,
            telemetry,
            receivers={name: receiver.routes() for name, receiver in daemon.receivers().items()},
            inlets=inlets,
            push=daemon.collector.take,
            public_url=daemon.config.public_url,
            refusals=refused,
        ),
    )
    host, port = split_address(config.listen)
    ingest = bound(config.ingest_listen, "ingest_listen") if config.ingest_listen else None
    site = await open_doors(
        front, events, host=host, port=port, uds=daemon.state / "agent.sock",
        metrics=config.metrics_listen, ingest=f"unix:{daemon.state / FORWARD}" if ingest else "",
    )  # fmt: skip
    daemon.reloaded.append(front.again)
    if ingest is not None:
        _take_in(daemon, site, ingest, daemon.counting)
    daemon.reloaded.append(chats.turn)
    site.beside.append(chats.close)
    chats.turn()
    _opened(telemetry, f"http://{host}:{site.port}/", config.public_url)
    return site


def _opened(telemetry: Telemetry, console: str, public_url: str) -> None:
    """Say where the console is."""
    telemetry.set("homeostat_console_info", 1.0, url=(public_url or console).rstrip("/"))
    log.info("doors_open", console=console)


class _Front:
    """The application as the connectors of now make it: receivers come and go with a reload.

    Raises Refused when two of them claim one path; after a reload that is told, and those of before stay.
    """

    def __init__(self, daemon: Daemon, make: Callable[[Inlets], ASGIApp]) -> None:
        self._daemon = daemon
        self._make = make
        self._inlets = Inlets(
            daemon.bulk_receivers(), daemon.counting, lambda scope: scope["state"]["person"],
            lambda: daemon.config.ingest_models, SMALL,
        )  # fmt: skip
        self._app = make(self._inlets)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._app(scope, receive, send)

    def again(self) -> None:
        """Make it anew."""
        before = self._inlets.mounted
        self._inlets.mounted = mounted(self._daemon.bulk_receivers())
        try:
            self._app = self._make(self._inlets)
        except Refused as error:
            self._inlets.mounted = before
            log.error("ways_in_refused", error=str(error))


def _chats(daemon: Daemon, desk: Desk) -> Chats:
    """Return what keeps chats talking: they ask the routes where and when to speak, as messages do."""

    def meant(way: str, note: Note) -> tuple[str, float] | None:
        router = daemon.outbox.router
        if router.withheld(note):
            return "", note.ts + _WITHHELD_S
        leg = next(iter(router.legs(note, [way])), None)
        return None if leg is None else (leg.note.channel, leg.due)

    return Chats(
        lambda: daemon.connectors.of(Chat),
        desk, daemon.record, Pictures(daemon.state / "fonts"), bug=daemon.bug, meant=meant,
    )  # fmt: skip


def _take_in(daemon: Daemon, site: Site, sock: socket.socket, counting: Counting) -> None:
    """Start the process that takes rows in, and start it anew when its settings have changed."""
    intake = daemon.intake = Intake(sock, daemon.intake_settings, counting)
    had = [daemon.intake_settings()]

    def reloaded() -> None:
        now = daemon.intake_settings()
        if now != had[0]:
            had[0] = now
            intake.turn()

    daemon.reloaded.append(reloaded)
    site.beside.append(intake.close)
    path = socket_path(daemon.config.ingest_listen)
    if path is not None:
        site.paths.append(path)
    intake.start()


def _tick(desk: Desk, now: float) -> dict[str, Any]:
    memory = desk.hooks.memory
    open_ = memory.open_incidents()
    return {
        "now": now,
        "open": len(open_),
        "page": sum(1 for i in open_ if i.severity == "page"),
        "live": len(memory.live_runs()),
        "paused": bool(desk.pauses()),
        "blind": len(desk.blind()),
    }
