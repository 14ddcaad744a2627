"""One connector alone, for `homeostat try`: what it sees and what it may do. Changes nothing, unless told to send."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent import registry, waiting
from agent.catalogue import SIGNALS
from agent.config import Config, ConnectorConfig
from agent.daemon import make_connector, wanted_connectors
from agent.errors import AgentError, Refused, Unavailable
from agent.model import Frame
from agent.ports import (
    Abilities,
    Archive,
    Chat,
    Feed,
    LabelBatch,
    Note,
    Notifier,
    PredictionBatch,
    Pulse,
    Receiver,
    Sink,
    Source,
)
from agent.rates import Rates
from agent.units import say

_LIMIT_S: Final = 15.0
_PAUSE_S: Final = 1.0
"""Between the two readings: long enough for a rate to mean something."""


async def look(
    name: str, config: Config, own: Mapping[str, Any], *, send: bool = False
) -> dict[str, Any]:
    """Ask a connector twice; returns JSON-able facts. Raises Refused, Unavailable as the connector does.

    send   also tell people that this is a test, or beat once
    """
    wanted = wanted_connectors(config).get(name) or config.connectors.get(name)
    if wanted is None:
        registry.connector.get(name)  # says which names there are
        wanted = ConnectorConfig()
    if own:
        wanted = ConnectorConfig.model_validate({**wanted.model_dump(), **wanted.own, **own})
    with tempfile.TemporaryDirectory(prefix="homeostat-try-") as folder:
        made = make_connector(name, wanted, Path(folder))
        try:
            out = await _ask(name, wanted.use or name, made)
            out["says"] = [_as_here(line, config) for line in out["says"]]
            if isinstance(made, Feed):
                await _rows(out, made, config, Path(folder))
            if send:
                out["says"].append(await _send(name, made, config))
            return out
        finally:
            await close(made)


def unbuilt(config: Config, names: Iterable[str]) -> dict[str, str]:
    """Return which of some connectors of a config can not be built here, and why; nothing outside is asked."""
    out = {}
    wanted = wanted_connectors(config)
    with tempfile.TemporaryDirectory(prefix="homeostat-try-") as folder:
        for name in sorted(set(names) & wanted.keys()):
            try:
                asyncio.run(_build(name, wanted[name], Path(folder)))
            except AgentError as error:
                out[name] = str(error)
    return out


async def _build(name: str, wanted: ConnectorConfig, folder: Path) -> None:
    await close(make_connector(name, wanted, folder))


async def close(made: Any) -> None:
    """Let a connector go; one that has nothing to close is just dropped."""
    shut = getattr(made, "close", None)
    if shut is not None:
        result = shut()
        if inspect.isawaitable(result):
            await result


async def _ask(name: str, kind: str, made: Any) -> dict[str, Any]:
    out: dict[str, Any] = {
        "source": name, "kind": kind, "series": [], "seen": [], "changes": [], "records": {}, "models": [],
        "ways_in": [
            f"{r.path} ({'signed' if r.vouch else 'with a token of role operator'})"
            for r in (made.routes() if isinstance(made, Receiver) else ())
        ],
        "may": _may(made), "says": [], "poll_s": None,
    }  # fmt: skip
    if isinstance(made, Source):
        frame, out["poll_s"], seen = await _frame(made)
        out["series"] = [
            {
                "series": str(s), "metric": s.metric, "entity": s.entity.id, "labels": dict(s.labels),
                "value": None if math.isnan(v) else float(v), "unit": SIGNALS[s.metric].unit,
                "said": say(float(v), SIGNALS[s.metric].unit), "means": SIGNALS[s.metric].help,
            }
            for s, v in zip(frame.series, frame.values, strict=True)
        ]  # fmt: skip
        out["seen"] = [
            {
                "entity": x.entity.id,
                "attrs": dict(x.attrs),
                "edges": [f"{e.kind} {e.dst.id}" for e in x.edges if e.src == x.entity],
            }
            for x in seen
        ]
        out["changes"] = [
            f"{c.kind} of {c.entity.id}: {c.before} -> {c.after}" for c in frame.changes
        ]
    if isinstance(made, Abilities):
        out["says"] = list(await _within(made.describe(), "describe"))
    return out


async def _rows(out: dict[str, Any], feed: Feed, config: Config, folder: Path) -> None:
    """Read once what a feed holds: how much; of models also how columns are read and what each check waits for."""
    arrivals = await _within(feed.read(), "read")
    out["records"] = _count(arrivals)
    given = feed.roles() if isinstance(feed, waiting.Roled) else ()
    known = [r for r in (feed, *_others(config, folder)) if hasattr(r, "reference")]

    def reference(model: str, version: str) -> Mapping[str, Any] | None:
        found = (r.reference(model, version) for r in known)
        return next((x for x in found if x is not None), None)

    out["models"] = waiting.look(arrivals, config.models, reference, given)


async def _send(name: str, made: Any, config: Config) -> str:
    """Send one note that says it is a test, or one heartbeat; returns what came of it."""
    now = time.time()
    if isinstance(made, Pulse) and not isinstance(made, Notifier):
        await _within(made.beat(now), "take a heartbeat")
        return "sent one heartbeat: it was taken"
    if not isinstance(made, Notifier):
        raise Refused(f"{name} tells nobody anything: --send is for ways to people")
    severity = next(iter(getattr(made.config, "severities", ())), "page")  # type: ignore[attr-defined]
    title = f"test of homeostat on {socket.gethostname()}"
    text = "Somebody ran `homeostat try --send`. Nothing is wrong, and nothing is asked of you."
    note = Note(f"try:{now:.3f}", now, severity, title, text, link=config.public_url)
    await _within(made.notify(note), "take a note")
    return f"sent one test note ({severity}): it was taken"


def _others(config: Config, folder: Path) -> list[Any]:
    """Return connectors of the config that know references."""
    out = []
    for name, wanted in config.connectors.items():
        use = wanted.use or name
        if not wanted.enabled or use not in registry.connector:
            continue
        if hasattr(registry.connector.get(use), "reference"):
            with contextlib.suppress(AgentError):
                out.append(make_connector(name, wanted, folder / "beside"))
    return out


async def _frame(source: Source) -> tuple[Frame, float, list[Any]]:
    """Read twice; returns the second reading with rates, how long it took, and what both saw."""
    rates = Rates()
    loop = asyncio.get_running_loop()
    first = await _within(source.poll(), "answer")
    rates.apply(first)
    await asyncio.sleep(_PAUSE_S)
    start = loop.time()
    second = await _within(source.poll(), "answer")
    took = loop.time() - start
    seen = {x.entity: x for x in (*first.seen, *second.seen)}
    return rates.apply(second), took, list(seen.values())


async def _within(work: Any, what: str) -> Any:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            return await work
    raise Unavailable(f"it did not {what} within {_LIMIT_S:.0f} s; look whether it is up")


def _as_here(line: str, config: Config) -> str:
    """Return a line in which our own addresses are those of this config, so that it can be copied as it is."""
    for written, own in (
        ("127.0.0.1:8787", config.listen),
        ("127.0.0.1:4318", config.ingest_listen),
    ):
        if own and not own.startswith("unix:"):
            host, _, port = own.rpartition(":")
            everywhere = host in {"0.0.0.0", "[::]"}  # noqa: S104  # read, not bound
            line = line.replace(written, f"{socket.gethostname()}:{port}" if everywhere else own)
    return line


def _count(arrivals: Sequence[Any]) -> dict[str, int]:
    """Count what a log held."""
    out: dict[str, int] = {}
    for one in arrivals:
        kind, n = type(one).__name__, 1
        if isinstance(one, PredictionBatch):
            kind, n = "predictions", len(one.ts)
        elif isinstance(one, LabelBatch):
            kind, n = "labels", len(one.ts)
        out[kind] = out.get(kind, 0) + n
    return out


def _may(made: Any) -> list[str]:
    """Return the verbs that this connector could carry out, by its abilities."""
    found = [
        name
        for name in registry.action
        if (ability := registry.action.get(name).ability) is not None and isinstance(made, ability)
    ]
    return [
        *found,
        *(["tell people"] if isinstance(made, Notifier) else []),
        *(["talk with people"] if isinstance(made, Chat) else []),
        *(["beat, while all is well"] if isinstance(made, Pulse) else []),
        *(["keep a copy of the record"] if isinstance(made, Archive) else []),
        *(["write our numbers there"] if isinstance(made, Sink) else []),
    ]
