"""Rows as bytes, from the ingest process to the daemon: columns of numbers, and texts by number. No pickle.

    parts(batch) -> pieces of at most CELLS cells -> pack(said, piece) -> unpack -> what was said, the piece

A piece is what the daemon counts in one go: some 10 ms of its loop. Texts of a column are sent once each.
Cost, on one core: about half a microsecond a row of ten columns on either side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from agent import checkpoint
from agent.codec import pack as packed
from agent.codec import unpack as unpacked
from agent.model import BoolArray, Entity, FloatArray, Series, Sighting
from agent.ports import Book, Bulk, LabelBatch, PredictionBatch, SampleBatch, Sketch, SketchBatch

CELLS: Final = 10_000
_FIXED: Final = 6
"""Cells that a row has beside its features."""
_KIND: Final = "parcel"
_VERSION: Final = 1
_OPTIONAL: Final = ("tokens_in", "tokens_out", "ttft_s")


def rows_of(batch: Bulk) -> int:
    """Return how many rows a batch holds; a sketch counts as one."""
    if isinstance(batch, SketchBatch):
        return 1
    return len(batch.at if isinstance(batch, SampleBatch) else batch.ts)


def cells_of(batch: Bulk) -> int:
    """Return how large a batch is."""
    if isinstance(batch, SketchBatch):
        return sum(len(one.counts) for one in batch.features.values())
    if isinstance(batch, SampleBatch):
        return len(batch.at)
    return len(batch.ts) * _width(batch)


def _width(batch: PredictionBatch | LabelBatch) -> int:
    if isinstance(batch, LabelBatch):
        return _FIXED
    return _FIXED + len(batch.features) + len(batch.classes) + len(batch.tags)


def parts(batch: Bulk) -> Iterator[Bulk]:
    """Return the batch in pieces of at most CELLS cells, views of its arrays."""
    if isinstance(batch, SketchBatch | SampleBatch) or cells_of(batch) <= CELLS:
        yield batch
        return
    step = max(1, CELLS // _width(batch))
    for at in range(0, len(batch.ts), step):
        part = slice(at, at + step)
        if isinstance(batch, LabelBatch):
            yield replace(batch, ts=batch.ts[part], ids=batch.ids[part], labels=batch.labels[part])
        else:
            yield rows_at(batch if not at else replace(batch, dropped=0), part)


def rows_at(batch: PredictionBatch, at: slice | BoolArray) -> PredictionBatch:
    """Return some rows of a batch: views of its arrays where `at` is a slice."""

    def some(column: Any) -> Any:
        return column[at] if isinstance(at, slice) else tuple(itertools.compress(column, at))

    return replace(
        batch,
        ts=batch.ts[at],
        ids=some(batch.ids),
        features={name: column[at] for name, column in batch.features.items()},
        pred=None if batch.pred is None else batch.pred[at],
        proba=batch.proba[at],
        latency_s=batch.latency_s[at],
        processing_s=batch.processing_s[at],
        status=batch.status[at],
        traces=some(batch.traces),
        shares=None if batch.shares is None else batch.shares[at],
        tags={name: column[at] for name, column in batch.tags.items()},
        tokens_in=None if batch.tokens_in is None else batch.tokens_in[at],
        tokens_out=None if batch.tokens_out is None else batch.tokens_out[at],
        ttft_s=None if batch.ttft_s is None else batch.ttft_s[at],
        finish=None if batch.finish is None else batch.finish[at],
    )


def pack(said: Mapping[str, Any], batch: Bulk | None = None) -> bytes:
    """Return what is said (JSON-able) and a batch as bytes; of a book only the names that were not told yet."""
    if batch is None:
        return checkpoint.write(_KIND, _VERSION, {"said": said, "of": ""}, {})
    if isinstance(batch, LabelBatch):
        late = {"of": "labels", "model": batch.model, "ids": batch.ids, "labels": batch.labels}
        return checkpoint.write(_KIND, _VERSION, {"said": said, **late}, {"ts": batch.ts})
    if isinstance(batch, SketchBatch):
        return checkpoint.write(_KIND, _VERSION, {"said": said, **_sketch_out(batch)}, {})
    if isinstance(batch, SampleBatch):
        return _samples_out(said, batch)
    arrays: dict[str, Any] = {
        "ts": batch.ts, "proba": batch.proba, "latency": batch.latency_s,
        "processing": batch.processing_s, "status": batch.status,
    }  # fmt: skip
    numbers = [name for name, column in batch.features.items() if column.dtype != object]
    if numbers:
        arrays["numbers"] = np.stack([batch.features[name] for name in numbers])
    more = {name: getattr(batch, name) for name in (*_OPTIONAL, "shares")}
    arrays |= {name: column for name, column in more.items() if column is not None}
    texts = {f"f{name}": c for name, c in batch.features.items() if c.dtype == object}
    texts |= {f"t{name}": column for name, column in batch.tags.items()}
    texts |= {} if batch.finish is None else {"end": batch.finish}
    (texts if batch.pred.dtype == object else arrays)["pred"] = batch.pred
    words = {}
    for i, (name, column) in enumerate(texts.items()):
        words[name], arrays[f"w{i}"] = _coded(column)
    meta: dict[str, Any] = {
        "of": "predictions", "model": batch.model, "version": batch.version, "variant": batch.variant,
        "ids": batch.ids if any(batch.ids) else None, "traces": batch.traces, "order": list(batch.features),
        "numbers": numbers, "words": words, "classes": batch.classes, "dropped": batch.dropped,
    }  # fmt: skip
    return checkpoint.write(_KIND, _VERSION, {"said": said, **meta}, arrays)


def unpack(data: bytes) -> tuple[dict[str, Any], Bulk | None]:
    """Return what `pack` was given; raises Refused when the bytes are damaged."""
    meta, arrays = checkpoint.read(_KIND, _VERSION, data)
    said: dict[str, Any] = meta["said"]
    match meta["of"]:
        case "predictions":
            return said, _predictions_in(meta, arrays)
        case "labels":
            labels = tuple(meta["labels"])
            return said, LabelBatch(meta["model"], arrays["ts"], tuple(meta["ids"]), labels)
        case "sketch":
            return said, _sketch_in(meta)
        case "samples":
            return said, _samples_in(meta, arrays)
        case _:
            return said, None


def _predictions_in(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> PredictionBatch:
    n = len(arrays["ts"])
    texts = {name: _words(w, arrays[f"w{i}"]) for i, (name, w) in enumerate(meta["words"].items())}
    features = {name: arrays["numbers"][i] for i, name in enumerate(meta["numbers"])}
    features |= {name[1:]: column for name, column in texts.items() if name[:1] == "f"}
    return PredictionBatch(
        model=meta["model"],
        version=meta["version"],
        ts=arrays["ts"],
        ids=tuple(meta["ids"]) if meta["ids"] is not None else ("",) * n,
        features={name: features[name] for name in meta["order"]},
        pred=arrays["pred"] if "pred" in arrays else texts["pred"],
        proba=arrays["proba"],
        latency_s=arrays["latency"],
        processing_s=arrays["processing"],
        status=arrays["status"],
        traces=tuple(meta["traces"]),
        variant=meta["variant"],
        classes=tuple(meta["classes"]),
        shares=arrays.get("shares"),
        tags={name[1:]: column for name, column in texts.items() if name[:1] == "t"},
        tokens_in=arrays.get("tokens_in"),
        tokens_out=arrays.get("tokens_out"),
        ttft_s=arrays.get("ttft_s"),
        finish=texts.get("end"),
        dropped=int(meta["dropped"]),
    )


def _coded(column: Any) -> tuple[list[str | None], Any]:
    """Return each text once, and its number in every row."""
    known: dict[str | None, int] = {}
    codes = np.fromiter((known.setdefault(v, len(known)) for v in column), np.int32, len(column))
    return list(known), codes


def _words(words: Sequence[str | None], codes: Any) -> Any:
    known = np.empty(len(words), dtype=object)
    known[:] = words
    return known[codes]


def _samples_out(said: Mapping[str, Any], batch: SampleBatch) -> bytes:
    book = batch.book
    new = book.series[book.told - book.start :]
    meta = {
        "of": "samples", "source": batch.source, "origin": book.origin, "start": book.told,
        "names": [(s.metric, s.entity.kind, s.entity.key, s.labels) for s in new],
        "every": batch.every_s, "seen": [packed(s) for s in batch.seen], "left": [batch.left_out, batch.why],
        "sender": batch.sender,
    }  # fmt: skip
    book.told += len(new)  # what is packed is sent, in order, or this process ends
    arrays = {"at": batch.at, "values": batch.values}
    return checkpoint.write(_KIND, _VERSION, {"said": said, **meta}, arrays)


def _samples_in(meta: Mapping[str, Any], arrays: Mapping[str, Any]) -> SampleBatch:
    series = [
        Series(metric, Entity(kind, key), tuple((k, v) for k, v in labels))
        for metric, kind, key, labels in meta["names"]
    ]
    seen = tuple(unpacked(Sighting, one) for one in meta["seen"])
    book = Book(meta["origin"], series, meta["start"])
    left, why = meta["left"]
    return SampleBatch(
        meta["source"], book, arrays["at"], arrays["values"], meta["every"], seen, left, why, meta["sender"]
    )  # fmt: skip


def _sketch_out(batch: SketchBatch) -> dict[str, Any]:
    return {
        "of": "sketch",
        "head": [
            batch.model, batch.version, batch.variant, batch.id, batch.since, batch.until,
            batch.rows, batch.failed,
        ],
        "features": {name: _column_out(one) for name, one in batch.features.items()},
        "pred": None if batch.pred is None else _column_out(batch.pred),
    }  # fmt: skip


def _column_out(one: Sketch) -> list[Any]:
    return [one.edges.tolist(), one.values, one.counts.tolist(), one.missing, one.other]


def _sketch_in(meta: Mapping[str, Any]) -> SketchBatch:
    features = {name: _column_in(one) for name, one in meta["features"].items()}
    pred = None if meta["pred"] is None else _column_in(meta["pred"])
    model, version, variant, id_, since, until, rows, failed = meta["head"]
    return SketchBatch(model, version, variant, id_, since, until, rows, failed, features, pred)


def _column_in(one: Sequence[Any]) -> Sketch:
    edges: FloatArray = np.array(one[0], dtype=np.float64)
    counts = np.array(one[2], dtype=np.int64)
    return Sketch(edges, tuple(one[1]), counts, one[3], one[4])
