"""Rows of a CSV file that grows, as the JSON lines that the reader of records takes.

    id,ts,pred,proba,age,country,tags.region      # the first line names the columns
    r1,1764000000,0,0.9,41,DE,eu

Columns called as fields of a record are those; `tags.NAME` is a tag; all others (also `features.NAME`) are features. An
empty cell is missing. A cell with a line break in it can not be read by lines: its pieces are bad records.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from typing import Final

_TEXTS: Final = frozenset({"id", "model", "version", "variant", "trace_id", "finish_reason"})
_FIELDS: Final = _TEXTS | {
    "ts", "pred", "proba", "label", "latency_ms", "processing_ms", "status", "tokens_in", "tokens_out", "ttft_ms",
}  # fmt: skip


def records(head: bytes, lines: Sequence[bytes]) -> list[bytes]:
    """Return rows as JSON lines; one whose cells are not as many as the columns stays as it is, and is a bad record."""
    columns = _cells(head)
    out = []
    for line in lines:
        if line.rstrip(b"\r") == head.rstrip(b"\r"):
            continue
        cells = _cells(line)
        fits = len(cells) == len(columns)
        out.append(json.dumps(_record(columns, cells)).encode() if fits else line)
    return out


def _record(columns: Sequence[str], cells: Sequence[str]) -> dict[str, object]:
    record: dict[str, object] = {}
    features: dict[str, object] = {}
    tags: dict[str, object] = {}
    for column, cell in zip(columns, cells, strict=True):
        if not cell:
            continue
        if column in _FIELDS:
            record[column] = cell if column in _TEXTS else _value(cell)
        elif column.startswith("tags."):
            tags[column.removeprefix("tags.")] = cell
        else:
            features[column.removeprefix("features.")] = _value(cell)
    if features:
        record["features"] = features
    if tags:
        record["tags"] = tags
    return record


def _value(cell: str) -> object:
    """Read a number where it is one."""
    try:
        return int(cell)
    except ValueError:
        pass
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) else cell


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8", "replace").rstrip("\r")]), [])
    except csv.Error:
        return []
