"""Files of rows, columnar and in bounded pieces: parquet and CSV by pyarrow, JSON lines by the standard library.

    with open_table(path) as table:
        table.kinds                                   # name -> number | text | time | truth | nested | empty
        for columns in table.chunks(start, 10_000):   # name -> (n,) float64, datetime64[us] or objects

A column keeps its kind through the file: decided by the schema (parquet) or by the first `HEAD` rows. A value that
does not fit leaves its column as texts for that piece, so that whoever counts them sees wrong types.
Memory: a piece, and the blocks or pages that it is made of. Cost: see `docs/logging-predictions.md`.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

import numpy as np

from agent.errors import Refused, Unavailable
from agent.imports import lacking

HEAD: Final = 1000
_TEXT_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")
SUFFIXES: Final = (".parquet", ".pq", *_TEXT_SUFFIXES, *(f"{s}.gz" for s in _TEXT_SUFFIXES))
_BLOCK: Final = 1 << 18
"""Of a CSV file; pyarrow reads some thirty ahead."""
_BUFFER: Final = 1 << 16
"""A column is read through a buffer of this size, not as a whole."""
_MOST_LINE: Final = 1 << 20
_MOST_TEXT: Final = 256


class Damaged(Refused):
    """The file itself is not what its name says: torn, empty of a header, not decodable."""


def arrow(part: str) -> Any:
    """Import a part of pyarrow; raises Refused with the extra that brings it."""
    try:
        found = import_module(part)
    except ImportError:
        raise Refused(lacking("parquet and CSV files need pyarrow", "files")) from None
    if part == "pyarrow":  # its own allocator keeps what was freed
        found.set_memory_pool(found.system_memory_pool())
    return found


def open_table(path: Path) -> Table:
    """Open a file of rows by its ending; raises Refused (no reader, damaged) or Unavailable (cannot be read now)."""
    name = path.name.lower().removesuffix(".gz")
    try:
        if name.endswith((".parquet", ".pq")):
            return _Parquet(path)
        if name.endswith((".csv", ".tsv")):
            return _Csv(path)
        if name.endswith((".jsonl", ".ndjson")):
            return _Lines(path)
    except OSError as wrong:
        raise _unreadable(path, wrong) from None
    raise Refused(f"{path}: not a file that is read; its name must end with {', '.join(SUFFIXES)}")


def _unreadable(path: Path, wrong: OSError) -> Refused | Unavailable:
    if wrong.errno is None:  # pyarrow speaks of torn files as of any other input
        return Damaged(f"{path}: {str(wrong)[:200]}")
    return Unavailable(f"{path} cannot be read: {wrong.strerror}")


class Table:
    """One file of rows."""

    kinds: Mapping[str, str]
    """Name -> number, truth, text, time, nested; empty = no value so far."""
    typed = True
    """Whether the file says what its columns are; else a number may be a text that looks like one."""
    rows: int | None = None
    """How many there are, where the file says so."""
    bad = 0
    """Rows that the last `chunks` left out: broken lines."""

    def chunks(self, start: int, size: int) -> Iterator[dict[str, Any]]:
        """Yield up to `size` rows at a time, from row `start` on. Raises as `open_table`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def head(self) -> dict[str, Any]:
        """Return the first rows."""
        return next(self.chunks(0, HEAD), {name: np.zeros(0) for name in self.kinds})


# ---- parquet


class _Parquet(Table):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._pa = arrow("pyarrow")
        try:
            self._file = arrow("pyarrow.parquet").ParquetFile(
                path, pre_buffer=False, buffer_size=_BUFFER
            )
        except self._pa.ArrowException as damage:
            raise Damaged(f"{path}: no parquet file: {str(damage)[:200]}") from None
        self.rows = self._file.metadata.num_rows
        empty = self._pa.Table.from_batches([], schema=self._file.schema_arrow)
        self.kinds = {f.name: _kind(self._pa, f.type) for f in _flat(empty).schema}

    def chunks(self, start: int, size: int) -> Iterator[dict[str, Any]]:
        about, first = self._file.metadata, 0
        while first < about.num_row_groups and start >= about.row_group(first).num_rows:
            start -= about.row_group(first).num_rows
            first += 1
        groups = list(range(first, about.num_row_groups))
        try:
            for batch in self._file.iter_batches(size, row_groups=groups, use_threads=False):
                part = batch.slice(start) if start else batch
                start = max(0, start - batch.num_rows)
                if part.num_rows:
                    table = _flat(self._pa.Table.from_batches([part]))
                    yield {
                        n: _column(self._pa, table[n], self.kinds[n]) for n in table.column_names
                    }
        except self._pa.ArrowException as damage:
            raise Damaged(f"{self._path}: {str(damage)[:200]}") from None
        except OSError as wrong:
            raise _unreadable(self._path, wrong) from None

    def close(self) -> None:
        self._file.close()


def _flat(table: Any) -> Any:
    """Return a table whose structs are columns of their own, `features.age`."""
    while any(str(f.type).startswith("struct") for f in table.schema):
        table = table.flatten()
    return table


def _kind(pa: Any, type_: Any) -> str:
    t = pa.types
    if t.is_null(type_):
        return "empty"
    if t.is_dictionary(type_):
        return _kind(pa, type_.value_type)
    if t.is_boolean(type_):
        return "truth"
    if t.is_integer(type_) or t.is_floating(type_) or t.is_decimal(type_):
        return "number"
    if t.is_timestamp(type_) or t.is_date(type_):
        return "time"
    if t.is_string(type_) or t.is_large_string(type_) or str(type_) == "string_view":
        return "text"
    return "nested"


def _column(pa: Any, column: Any, kind: str) -> Any:
    """Return a column of arrow as numpy wants it."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind in {"number", "truth"}:
        if pa.types.is_float16(column.type):
            column = column.cast(pa.float32())
        return _array(column.cast(pa.float64(), safe=False), "f8")
    if kind == "time":
        return _array(column.cast(pa.timestamp("us"), safe=False), "M8[us]")
    return _objects(column.to_pylist())


def _array(column: Any, dtype: str) -> Any:
    """Return a column of eight bytes a value, NaN or NaT for null; its own `to_numpy` would import pandas, 60 MB."""
    out = []
    for part in getattr(column, "chunks", [column]):
        n, at = len(part), part.offset
        known, data = part.buffers()
        x = np.frombuffer(data, dtype)[at : at + n].copy() if n else np.zeros(0, dtype)
        if part.null_count:
            bits = np.unpackbits(np.frombuffer(known, np.uint8), bitorder="little")
            x[bits[at : at + n] == 0] = np.nan if dtype == "f8" else np.datetime64("NaT")
        out.append(x)
    return np.concatenate(out) if out else np.zeros(0, dtype)


def _objects(values: Sequence[Any]) -> Any:
    out = np.empty(len(values), dtype=object)
    out[:] = [v[:_MOST_TEXT] if isinstance(v, str) else v for v in values]
    return out


# ---- CSV


class _Csv(Table):
    typed = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pa, self._csv = arrow("pyarrow"), arrow("pyarrow.csv")
        with _plain(path) as file:
            line = file.readline(_MOST_LINE).decode("utf-8-sig", "replace").rstrip("\r\n")
        if not line:
            raise Damaged(f"{path}: empty, without even a header")
        self._mark = max(",;\t|", key=line.count)
        self._names = next(csv.reader([line], delimiter=self._mark))
        if len(set(self._names)) < len(self._names):
            raise Damaged(f"{path}: two columns have the same name")
        head = next(self._texts(HEAD), None)
        self.kinds = {
            name: "empty" if head is None else _kind_of_texts(self._pa, head[name])
            for name in self._names
        }

    def chunks(self, start: int, size: int) -> Iterator[dict[str, Any]]:
        self.bad = 0
        for table in self._texts(size, start):
            yield {name: self._read(table[name], self.kinds[name]) for name in self._names}

    def _read(self, column: Any, kind: str) -> Any:
        try:
            if kind == "number":
                return _array(column.cast(self._pa.float64()), "f8")
            if kind == "truth":
                told = column.cast(self._pa.bool_()).cast(self._pa.int8()).cast(self._pa.float64())
                return _array(told, "f8")
            if kind == "time":
                return _array(column.cast(self._pa.timestamp("us")), "M8[us]")
        except self._pa.ArrowException:
            pass  # a value that does not fit: the column stays as it is written
        return _objects(column.to_pylist())

    def _texts(self, size: int, start: int = 0) -> Iterator[Any]:
        """Yield tables of texts of exactly `size` rows, the last one shorter."""
        pa, module = self._pa, self._csv

        def broken(_: Any) -> str:
            self.bad += 1
            return "skip"

        options = module.ConvertOptions(
            column_types={name: pa.string() for name in self._names}, strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "\\N"],
        )  # fmt: skip
        held: list[Any] = []
        n = 0
        try:
            with module.open_csv(
                self._path,
                read_options=module.ReadOptions(use_threads=False, block_size=_BLOCK),
                parse_options=module.ParseOptions(
                    delimiter=self._mark, newlines_in_values=True, invalid_row_handler=broken
                ),
                convert_options=options,
            ) as reader:
                for batch in reader:
                    part = batch.slice(start) if start else batch
                    start = max(0, start - batch.num_rows)
                    held.append(part)
                    n += part.num_rows
                    while n >= size:
                        table = pa.Table.from_batches(held)
                        yield table.slice(0, size)
                        n -= size
                        held = table.slice(size).to_batches()
            if n:
                yield pa.Table.from_batches(held)
        except pa.ArrowException as damage:
            raise Damaged(f"{self._path}: {str(damage)[:200]}") from None
        except OSError as wrong:
            raise _unreadable(self._path, wrong) from None


def _kind_of_texts(pa: Any, column: Any) -> str:
    known = column.drop_null()
    if not len(known):
        return "empty"
    texts = known.to_pylist()
    padded = any(len(t) > 1 and t[0] == "0" and t[1].isdigit() for t in texts)  # 01067 is no number
    for kind, type_ in (("number", pa.float64()), ("truth", pa.bool_()), ("time", pa.timestamp("us"))):  # fmt: skip
        if kind == "number" and padded:
            continue
        try:
            known.cast(type_)
        except pa.ArrowException:
            continue
        return kind
    return "text"


# ---- JSON lines


class _Lines(Table):
    def __init__(self, path: Path) -> None:
        self._path = path
        first = next(self._records(0, HEAD), [])
        if not first and self.bad:
            raise Damaged(f"{path}: no line of it is a JSON object")
        names = list(dict.fromkeys(itertools.chain.from_iterable(first)))
        self.kinds = {name: _kind_of_values([r.get(name) for r in first]) for name in names}

    def chunks(self, start: int, size: int) -> Iterator[dict[str, Any]]:
        self.bad = 0
        for records in self._records(start, size):
            yield {n: _values([r.get(n) for r in records], k) for n, k in self.kinds.items()}

    def _records(self, start: int, size: int) -> Iterator[list[dict[str, Any]]]:
        held: list[dict[str, Any]] = []
        try:
            with _plain(self._path) as file:
                while line := file.readline(_MOST_LINE):
                    record = _record(line)
                    if record is None:
                        self.bad += not line.isspace()
                        continue
                    if start:
                        start -= 1
                        continue
                    held.append(record)
                    if len(held) == size:
                        yield held
                        held = []
        except EOFError:
            raise Damaged(f"{self._path}: ends in the middle") from None
        except OSError as wrong:
            raise _unreadable(self._path, wrong) from None
        if held:
            yield held


def _plain(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return flat(found) if isinstance(found, dict) else None


def flat(record: Mapping[str, Any], depth: int = 4) -> dict[str, Any]:
    """Return a record whose objects are fields of their own: `features.age`."""
    out: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and depth:
            out.update({f"{name}.{k}": v for k, v in flat(value, depth - 1).items()})
        else:
            out[name] = value
    return out


def _kind_of_values(values: Sequence[Any]) -> str:
    kinds = {type(v) for v in values if v is not None}
    if not kinds:
        return "empty"
    if kinds & {list, dict}:
        return "nested"
    if kinds == {bool}:
        return "truth"
    return "number" if kinds <= {int, float, bool} else "text"


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return flat records as columns, each of its own kind."""
    names = dict.fromkeys(itertools.chain.from_iterable(records))
    listed = {n: [r.get(n) for r in records] for n in names}
    return {n: _values(values, _kind_of_values(values)) for n, values in listed.items()}


def _values(values: list[Any], kind: str) -> Any:
    if kind in {"number", "truth"}:
        try:
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            pass  # a value that does not fit: the column stays as it is written
    return _objects(values)
