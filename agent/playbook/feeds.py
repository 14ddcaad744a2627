"""Frames of a test: made from a few words, or read from a recorded file.

    feed: {series: {gpu.clock_ratio: {ramp: [0.95, 0.5], from: 2m, to: 5m, noise: 0.01}}}
    feed: {series: {host.network_up: {pulse: [1, 0], from: 2m, to: 2m30s, every: 10m}}}
    feed: thermal_ramp.csv            # ts,gpu.clock_ratio,gpu.clock_ratio{gpu:other}

Around the target stands a small example of a world: a host, a GPU, a process, a service with its model, version and
feature, so that signals of relatives are found as in a real one. A process `stranger/...` is on the same GPU and host,
and serves nobody. Deterministic: noise comes from the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.model import BoolArray, Edge, EdgeKind, Entity, EntityKind, FloatArray, Series, Sighting
from agent.playbook.trial import Feed, Wave, notation
from agent.rows import Rows, from_file

_KEYS: Final[Mapping[EntityKind, str]] = {
    "host": "example", "gpu": "example", "process": "boot/4711/1", "service": "example", "replica": "example/0",
    "model": "example", "version": "example/1", "feature": "example/f", "dependency": "example:5432",
    "source": "example",
}  # fmt: skip
_PARENTS: Final[tuple[tuple[EdgeKind, EntityKind, EntityKind], ...]] = (
    ("runs_on", "gpu", "host"), ("runs_on", "process", "gpu"), ("runs_on", "process", "host"),
    ("serves", "process", "service"), ("runs_on", "service", "host"), ("serves", "replica", "service"),
    ("serves", "service", "model"), ("version_of", "version", "model"), ("feeds", "feature", "model"),
    ("calls", "service", "dependency"),
)  # fmt: skip
_STRANGER: Final = "stranger/"
_MOST_BYTES: Final = 64 << 20


def example(kind: EntityKind) -> Entity:
    """Return the entity of a kind in the example world."""
    return Entity(kind, _KEYS[kind])


def rows(feed: Feed, folder: Path) -> Rows:
    """Return the rows of a feed; raises Refused when its file can not be read."""
    return (
        _made(feed)
        if feed.file is None
        else from_file(folder / feed.file, _series, most_bytes=_MOST_BYTES)
    )


def onset(feed: Feed, found: Rows) -> float:
    """Return when the trouble begins: said, or when the first series begins to move, or after a third of it."""
    if feed.onset is not None:
        return float(found.ts[0]) + feed.onset
    begins = [w.at if w.at is not None else w.from_ for w in feed.series.values()]
    length = float(found.ts[-1] - found.ts[0])
    return float(found.ts[0]) + min((b for b in begins if b is not None), default=length / 3)


def sightings(
    series: tuple[Series, ...], attrs: Mapping[Entity, Mapping[str, str]]
) -> tuple[Sighting, ...]:
    """Return who is there: the example world, and peers hung on the same parents.

    A process of a stranger serves nobody. Who is only named (by `cause.entity`) is a stranger on the same host.
    """
    measured = dict.fromkeys([*map(example, _KEYS), *(s.entity for s in series)])
    out = []
    for one in measured | dict.fromkeys(attrs):
        said = {"name": "example", "pid": "4711"} if one.kind == "process" else {}
        said |= attrs.get(one, {})
        edges = tuple(
            Edge(kind, one, example(dst))
            for kind, src, dst in _PARENTS
            if src == one.kind
            and (one in measured or dst == "host")
            and not (kind == "serves" and one.key.startswith(_STRANGER))
        )
        out.append(Sighting(one, tuple(sorted(said.items())), edges))
    return tuple(out)


def _series(text: str) -> Series:
    signal, about, labels = notation(text)
    kind = SIGNALS[signal].entity_kind
    return Series(signal, about or example(kind), labels)  # type: ignore[arg-type]  # the catalogue's kinds


def _made(feed: Feed) -> Rows:
    ts = np.arange(0.0, feed.for_ + feed.every / 2, feed.every)
    columns = {
        _series(text): _wave(wave, ts, feed.seed, text) for text, wave in feed.series.items()
    }
    series = tuple(sorted(columns))
    return Rows(ts, series, np.column_stack([columns[s] for s in series]))


def _wave(wave: Wave, ts: FloatArray, seed: int, text: str) -> FloatArray:
    if wave.step is not None:
        out = np.where(ts < (wave.at or 0.0), *wave.step)
    elif wave.ramp is not None:
        out = np.interp(ts, [wave.from_ or 0.0, wave.to or 0.0], wave.ramp)
    elif wave.pulse is not None:
        out = np.where(_pulsing(wave, ts), wave.pulse[1], wave.pulse[0])
    else:
        out = np.full(len(ts), wave.value)
    # each series has noise of its own, and keeps it when others are added
    noise = np.random.default_rng([seed, zlib.crc32(text.encode())]).normal(0.0, 1.0, len(ts))
    definition = SIGNALS[notation(text)[0]]
    out = out + wave.noise * noise
    if wave.noise:
        out = np.clip(out, definition.least, definition.most)
    if wave.missing is not None:
        start, end = wave.missing
        out[(ts >= start) & (ts < end)] = np.nan
    return out.astype(np.float64)


def _pulsing(wave: Wave, ts: FloatArray) -> BoolArray:
    """Tell at which instants a pulse is on."""
    # sums of frames of a tenth of a second are not exact
    since = np.round(ts - (wave.from_ or 0.0), 6)
    lasts = (wave.to or 0.0) - (wave.from_ or 0.0)
    began = since >= 0
    if wave.every is not None:
        since = np.round(since % wave.every, 6) % wave.every
    return began & (since < round(lasts, 6))
