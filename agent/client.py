"""Logs predictions from inside a model service, without ever slowing or breaking it.

    log = Client("http://127.0.0.1:8787", model="fraud", version="3", token="env:HOMEOSTAT_TOKEN")
    log(features={"age": 41, "country": "DE"}, pred="0", proba=0.93, id="r-17")    # one prediction
    log(features=x, pred=y, names=["age", "area"])                                 # many: rows of an array, a frame
    log.label("r-17", "1")                                                         # what was true, once it is known

    @log.watch                                                                     # around a function that predicts
    def predict(x): ...

A call copies its arguments and puts them into a bounded queue; a thread makes records of them and sends them. What
does not fit is dropped and counted, nothing is ever waited for, and no exception comes out, whatever is wrong: see
`dropped`, `refused`, `error`. `HOMEOSTAT_CLIENT=off` in the environment switches it off.

Standard library only. Cost of a call 2 microseconds, of a row of 10 features 25 more in the thread.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

__all__ = ["Client"]

_PATH: Final = "/ingest/predictions"
_BATCH_ROWS: Final = 1000
_BATCH_BYTES: Final = 1 << 20
"""A batch is sent before it is larger, unpacked: what is read in the daemon's own process must be small."""
_SPLITS: Final = 24
"""Requests to find the bad records of a refused batch by halving: enough for one among a thousand."""
_YIELD_ROWS: Final = 8
_YIELD_S: Final = 5e-5
"""So often and so long the thread lets go of the interpreter: else a request may wait 5 ms for it."""
_SLICE: Final = 64
_NEVER: Final = float("inf")
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_COROUTINE: Final = 0x80
_MOST_ANSWER: Final = 4096

F = TypeVar("F", bound=Callable[..., Any])


class Client:
    """A way to log predictions and labels of one model.

    to        `http://host:port` or `https://...` (a path of its own is kept), `unix:/path/to/socket`,
              `file:/path/to/log.jsonl` (lines are appended, the daemon reads on in it)
    model     whose predictions; version, names, token: as far as they are known
    names     of the columns of arrays; without them they are `f0`, `f1`, ...
    token     a reference: `env:NAME` or `file:PATH`, read anew when it is needed
    classes   of the columns of probabilities, for `watch` around `predict_proba` and the like
    queue     values (rows x columns) that may wait at once; about 100 bytes each in dicts, 8 in arrays
    every_s   how long a record waits at most before it is sent, when all is well
    exit_s    how long the end of the process may be held up to send the rest

    Good for: any Python service, also one that forks (each process gets a queue and a thread with its first call).
    Not for: whole batch runs; let the daemon read their files instead. A row without an id may be counted twice
    when the answer to its batch was lost.
    """

    def __init__(
        self, to: Any, *, model: str, version: str = "", token: str = "",
        names: Any = None, classes: Any = None,
        queue: int = 500_000, every_s: float = 1.0, timeout_s: float = 5.0, exit_s: float = 2.0,
    ) -> None:  # fmt: skip
        self.model = model
        self.version = version
        self._to = os.fspath(to) if isinstance(to, os.PathLike) else str(to)
        if isinstance(to, os.PathLike):
            self._to = f"file:{self._to}"
        self._token = token
        self._names = names if names is None else [str(n) for n in names]
        self._classes = classes if classes is None else [str(c) for c in classes]
        self._most = queue
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._exit_s = exit_s
        self.on = os.environ.get("HOMEOSTAT_CLIENT", "").lower() not in {"off", "0", "no", "false"}
        """Whether anything is logged at all."""
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        """Start from nothing: when it is made, and in a process that was forked (the rest is its parent's)."""
        # may be taken again by the same thread: a signal handler or a finalizer may log in the middle of a call
        self._lock = threading.RLock()
        self._queue: deque[_Call] = deque()
        self._waiting = 0
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None
        self._ends = _NEVER
        self._untold = 0
        self.sent = 0
        """Records that were taken by the other side."""
        self.dropped = 0
        """Records that were lost here: no room in the queue, not understood, or left over at the end."""
        self.refused = 0
        """Records that the other side does not want; `error` says why."""
        self.error = ""
        """What last went wrong; "" since something was sent again."""
        self._line: _Line | None = None
        try:
            # not later, in the thread: a fork in the middle of its imports would leave their locks to nobody
            self._line = _Line.to(self._to)
        except Exception as problem:  # noqa: BLE001  # said, and harms nobody
            self.error = str(problem)

    # ---- what a service calls

    def __call__(
        self, features: Any = None, pred: Any = None, proba: Any = None, id: Any = None,  # noqa: A002  # the record's own word
        *, label: Any = None, names: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """Log one prediction or many.

        features  one row: a dict, or values in the order of `names`; many: a list of rows, an array (n, d), a frame, a
                  dict of columns (arrays, lists). A vector (an embedding) is a list, or an array beside other values
        pred      one answer or (n,)
        proba     probability of what was predicted, or {class: probability}; (n,), or (n, k) over all classes
        id        what a late label will refer to, or (n,)
        more      `ts`, `version`, `variant`, `latency_ms`, `processing_ms`, `status`, `trace_id`, `tags`, ...
        """
        if not self.on:
            return
        rows = 1
        try:
            rows, values = _size(features) if features is not None else _labels(id)
            now = time.time()
            with self._lock:
                if self._waiting + values > self._most:
                    self._lose(rows, f"the queue is full: {self._most} values wait")
                    return
                self._waiting += values
                waiting = self._waiting
            # a service may fill the same array again for the next request
            self._queue.append((
                now, rows, values, _copy(features), _copy(pred), _copy(proba), _copy(id), label,
                names, more,
            ))  # fmt: skip
            if self._thread is None:
                self._start()
            if waiting * 2 > self._most:
                self._wake.set()
        except Exception as problem:  # noqa: BLE001  # the promise: a service never breaks by it
            self._lose(rows, repr(problem))

    def label(self, id: Any, label: Any, ts: float | None = None) -> None:  # noqa: A002  # the record's own word
        """Log what was true of a prediction that was logged with this id; both may be (n,)."""
        more = {} if ts is None else {"ts": ts}
        self(None, id=id, label=_copy(label), **more)

    def watch(
        self, function: F | None = None, *, features: int | str = 0, id: str = "", names: Any = None,  # noqa: A002
        answer: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> Any:  # fmt: skip
        """Wrap a function that predicts, one row or many at once; also a coroutine function.

        features  position (after `self`) or name of the argument that holds them
        id        name of the argument that holds ids; "" = none
        answer    what the function returned -> {"pred": ..., "proba": ...}. Without it, what it returns is the
                  prediction; a dict is asked for `pred` or `prediction`, and `proba` or `probability`; with
                  `classes` it is the probabilities of these classes
        An exception of the function is logged as status 500 and goes on to its caller.
        """
        if function is None:
            return functools.partial(
                self.watch, features=features, id=id, names=names, answer=answer
            )
        if not self.on:
            return function
        seen = _Watched(self, function, features, id_=id, names=names, answer=answer)
        if seen.flags & _COROUTINE:

            @functools.wraps(function)
            async def later(*args: Any, **kwargs: Any) -> Any:
                begun = time.perf_counter()
                try:
                    result = await function(*args, **kwargs)
                except Exception:
                    seen.failed(begun, args, kwargs)
                    raise
                seen.answered(begun, args, kwargs, result)
                return result

            return later

        @functools.wraps(function)
        def now(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                result = function(*args, **kwargs)
            except Exception:
                seen.failed(begun, args, kwargs)
                raise
            seen.answered(begun, args, kwargs, result)
            return result

        return now

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all that was logged so far is sent or given up; False = not within that time."""
        if self._thread is None:
            return not self._queue
        self._idle.clear()
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Send the rest within `exit_s`; what is left then is dropped. Also called at the end of the process."""
        thread, self.on = self._thread, False
        if thread is None or not thread.is_alive():
            return
        self._ends = time.monotonic() + self._exit_s
        self._wake.set()
        thread.join(self._exit_s + 0.2)
        while thread.is_alive() and self._queue:  # it hangs; what it holds nobody knows
            self._lose(self._queue.popleft()[1], "left over at the end")

    @property
    def waiting(self) -> int:
        """Values (rows x columns) in the queue."""
        return self._waiting

    # ---- beside it

    def _lose(self, rows: int, why: str) -> None:
        with self._lock:
            self.dropped += rows
            self._untold += rows
        self.error = why

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None or not self.on:
                return
            thread = threading.Thread(target=self._work, name="homeostat-client", daemon=True)
            # known before it starts: a signal handler that logs meanwhile would start a second one
            self._thread = thread
            try:
                thread.start()
            except (
                RuntimeError
            ) as problem:  # no room for a thread: the queue waits, the next call tries again
                self._thread, self.error = None, repr(problem)
                return
        # a process of `multiprocessing` ends without what is registered with atexit
        pool = sys.modules.get("multiprocessing.util")
        if pool is not None:
            pool.Finalize(None, self.close, exitpriority=10)

    def _work(self) -> None:
        """Make records and send them, until the end."""
        while True:
            if not self._wake.is_set():
                self._wake.wait(self._every_s)
            self._wake.clear()
            asked = not self._idle.is_set()
            try:
                for lines in self._batches():
                    self._deliver(lines)
            except Exception as problem:  # noqa: BLE001  # as above; the next batch may do
                self.error = repr(problem)
            if asked:
                self._idle.set()
            if time.monotonic() >= self._ends or (not self._queue and self._ends < _NEVER):
                while self._queue:
                    self._lose(self._queue.popleft()[1], "left over at the end")
                self._close_line()
                return

    def _batches(self) -> Iterator[list[bytes]]:
        """Yield records as lines, up to a thousand."""
        lines: list[bytes] = []
        size = 0
        while self._queue:
            call = self._queue.popleft()
            with self._lock:
                self._waiting -= call[2]
            made = 0
            try:
                for record in _records(call, self):
                    line = _encode(record)
                    made += 1
                    lines.append(line)
                    size += len(line) + 1
                    if not len(lines) % _YIELD_ROWS and self._ends == _NEVER:
                        time.sleep(_YIELD_S)
                    if len(lines) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                        yield lines
                        lines, size = [], 0
            except Exception as problem:  # noqa: BLE001  # one call that is not understood; the others are
                self._lose(max(1, call[1] - made), repr(problem))
        if lines:
            yield lines

    def _deliver(self, lines: list[bytes]) -> None:
        """Send a batch, however long that takes; halves of it where it is refused, to find what is wrong."""
        wait = _FIRST_WAIT_S
        parts, splits = [lines], _SPLITS
        while parts:
            part = parts.pop()
            left = self._ends - time.monotonic()
            if left <= 0:
                self._lose(len(part), "left over at the end")
                continue
            try:
                status, why, after = self._send(part, min(self._timeout_s, left))
            except Exception as problem:  # noqa: BLE001  # sockets, TLS, files, a token that is not there: all the same
                self._close_line()
                status, why, after = 0, repr(problem), 0.0
            if 200 <= status < 300:
                self.sent += len(part)
                self.error, wait = "", _FIRST_WAIT_S
            elif status in {400, 413, 422}:
                self.error = f"{status}: {why}"
                if len(part) > 1 and splits > 0:
                    splits -= 2
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
                else:
                    self.refused += len(part)
            else:
                self.error = f"{status}: {why}" if status else why
                parts.append(part)
                # not all processes of a service at once
                pause = max(after, wait * (0.5 + os.urandom(1)[0] / 255))
                wait = min(2 * wait, _LONGEST_WAIT_S)
                self._pause(min(pause, _LONGEST_WAIT_S))

    def _pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < min(until, self._ends):
            self._wake.wait(min(until, self._ends) - now)
            self._wake.clear()

    def _send(self, lines: list[bytes], timeout_s: float) -> tuple[int, str, float]:
        """Send lines once; return status, what was said, and how long to wait for. Raises what sockets raise."""
        told = self._untold
        if told:
            lines = [lines[0][:-1] + b',"dropped":%d}' % told, *lines[1:]]
        if self._line is None:
            raise ValueError(self.error)
        answer = self._line.send(b"\n".join(lines) + b"\n", _secret(self._token), timeout_s)
        if told and 200 <= answer[0] < 300:
            with self._lock:
                self._untold -= told
        return answer

    def _close_line(self) -> None:
        if self._line is not None:
            self._line.close()


class _Watched:
    """A function that is watched: where its features are, and how its answer is read."""

    def __init__(
        self,
        client: Client,
        function: Any,
        features: int | str,
        *,
        id_: str,
        names: Any,
        answer: Any,
    ) -> None:
        self._client = client
        code = getattr(function, "__code__", None)
        self.flags = code.co_flags if code is not None else 0
        self._words = code.co_varnames[: code.co_argcount] if code is not None else ()
        method = self._words[:1] in {("self",), ("cls",)} and not hasattr(function, "__self__")
        self._features = features + method if isinstance(features, int) else features
        self._id = id_
        self._names = names
        self._answer = answer or self._read

    def failed(self, begun: float, args: Any, kwargs: Any) -> None:
        """Log that it raised."""
        self._log(begun, args, kwargs, {}, status=500)

    def answered(self, begun: float, args: Any, kwargs: Any, result: Any) -> None:
        """Log what it returned."""
        try:
            said = self._answer(result)
        except Exception as problem:  # noqa: BLE001  # the promise: a service never breaks by it
            self._client._lose(1, repr(problem))  # noqa: SLF001  # our own
        else:
            self._log(begun, args, kwargs, said)

    def _log(self, begun: float, args: Any, kwargs: Any, said: Any, **more: Any) -> None:
        spent = (time.perf_counter() - begun) * 1000
        try:
            self._client(
                self._argument(self._features, args, kwargs), said.get("pred"), said.get("proba"),
                self._argument(self._id, args, kwargs) if self._id else None,
                names=self._names, processing_ms=spent, **more,
            )  # fmt: skip
        except Exception as problem:  # noqa: BLE001  # as above
            self._client._lose(1, repr(problem))  # noqa: SLF001  # our own

    def _argument(self, of: int | str, args: Any, kwargs: Any) -> Any:
        if isinstance(of, str):
            if of in kwargs:
                return kwargs[of]
            of = self._words.index(of)
        return args[of] if of < len(args) else kwargs[self._words[of]]

    def _read(self, result: Any) -> Mapping[str, Any]:
        """Return prediction and probability of what a function returned."""
        if isinstance(result, Mapping):
            return {
                "pred": result.get("pred", result.get("prediction")),
                "proba": result.get("proba", result.get("probability")),
            }
        classes = self._client._classes  # noqa: SLF001  # our own
        if classes is None:
            return {"pred": result}
        rows = _plain(result)
        single = not rows or not isinstance(rows[0], list)
        best = [max(range(len(row)), key=row.__getitem__) for row in ([rows] if single else rows)]
        pred = [classes[i] for i in best]
        return {"pred": pred[0] if single else pred, "proba": result}


_Call = tuple[float, int, int, Any, Any, Any, Any, Any, Any, dict[str, Any]]
"""When, rows, values, features, pred, proba, id, label, names, more."""

_living: weakref.WeakSet[Client] = weakref.WeakSet()


def _forked() -> None:
    for client in list(_living):
        client._close_line()  # noqa: SLF001  # our own end of it: the parent's stays open
        client._begin()  # noqa: SLF001


def _at_exit() -> None:
    for client in list(_living):
        client.close()


os.register_at_fork(after_in_child=_forked)
atexit.register(_at_exit)


# ---- from arguments to records


def _size(features: Any) -> tuple[int, int]:
    """Return rows and values, cheaply: what a call takes of the queue."""
    shape = getattr(features, "shape", None)
    if shape is not None:
        rows = int(shape[0]) if len(shape) > 1 else 1
        width = int(shape[1]) if len(shape) > 1 else int(shape[0])
        return rows, max(1, rows * width)
    width = len(features)
    if width and isinstance(features, list | tuple):
        inner: Any = features[0]
        if isinstance(inner, list | tuple | dict) or _ndim(inner):
            return width, max(1, width * len(inner))
    elif type(features) is dict and not _FIRM.issuperset(map(type, features.values())):
        if _is_columns(features):
            first: Any = next(iter(features.values()))
            return len(first), max(1, width * len(first))
        width = sum(1 if type(one) in _FIRM else _length(one) for one in features.values())
    return 1, max(1, width)


def _is_columns(features: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping holds columns: all of one length, at least one an array. Else an array is a vector."""
    values = features.values()
    if type(next(iter(values), None)) in _FIRM or not any(_ndim(one) == 1 for one in values):
        return False
    return len({_length(one) if isinstance(one, list) or _ndim(one) else 0 for one in values}) == 1


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _ndim(value: Any) -> int:
    return getattr(value, "ndim", 0)


def _labels(ids: Any) -> tuple[int, int]:
    n = 1 if type(ids) in _FIRM else len(ids)
    return n, n


def _copy(value: Any) -> Any:
    """Return a copy that nobody else changes; of nested lists, two levels."""
    kind = type(value)
    if kind in _FIRM:
        return value
    if kind is dict:
        held = dict(value)
        for name, one in held.items():
            if type(one) not in _FIRM:
                held[name] = _copy(one)
        return held
    if kind is list or kind is tuple:
        return [one if type(one) in _FIRM else _copy(one) for one in value]
    copied = getattr(value, "copy", None)
    return copied() if copied is not None else value


_FIRM: Final = frozenset({int, float, str, bool, type(None), bytes})


def _plain(value: Any) -> Any:
    """Return lists and numbers for arrays, series and their scalars."""
    made = getattr(value, "tolist", None)
    if made is not None:
        return made()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _records(call: _Call, client: Client) -> Iterator[dict[str, Any]]:
    """Yield the records of one call."""
    now, n, _, features, pred, proba, id_, label, names, more = call
    same: dict[str, Any] = {"ts": now, "model": client.model}
    if client.version:
        same["version"] = client.version
    many = n > 1 or _is_table(features)
    each: dict[str, list[Any]] = {}
    for key, given in {"pred": pred, "proba": proba, "id": id_, "label": label, **more}.items():
        value = _plain(given)
        if key == "proba":
            value = _best(value, many=many)
        if isinstance(value, list) and (many or key in _ANSWERS):
            if len(value) != n:
                raise ValueError(f"{len(value)} values of `{key}` for {n} rows")
            each[key] = value
        elif value is not None:
            same[key] = value
    if features is None:
        rows: Iterator[Any] = iter([None] * n)
    else:
        rows = _rows(features, names if names is not None else client._names)  # noqa: SLF001  # our own
    for i, row in enumerate(rows):
        record = {**same, **{key: column[i] for key, column in each.items()}}
        if row is not None:
            record["features"] = row
        yield record


_ANSWERS: Final = frozenset({"pred", "proba", "id", "label"})
"""What may come as an array of one, with one row."""


def _is_table(features: Any) -> bool:
    """Tell whether it is rows, perhaps a single one."""
    if len(getattr(features, "shape", ())) > 1:
        return True
    first: Any = features[0] if isinstance(features, list) and features else None
    return isinstance(first, list | tuple | dict)


def _best(value: Any, *, many: bool) -> Any:
    """Return the probability of the predicted class, where those of all classes were given."""
    if not isinstance(value, list) or not value:
        return value
    if isinstance(value[0], list):
        return [max(row) for row in value]
    return value if many else max(value)


def _rows(features: Any, names: Any) -> Iterator[dict[str, Any]]:
    """Yield rows as dicts."""
    if isinstance(features, Mapping):
        if _is_columns(features):
            yield from _turn({str(name): _plain(column) for name, column in features.items()})
        else:
            yield {str(name): _plain(value) for name, value in features.items()}
    elif hasattr(features, "columns"):
        yield from _of_frame(features)
    elif _is_table(features):
        yield from _of_table(features, names)
    else:
        if names is None and not isinstance(features, list) and hasattr(features, "index"):
            names = [str(name) for name in features.index]  # one row of a frame
        row = _plain(features)
        if not isinstance(row, list):
            raise TypeError(f"features of type {type(features).__name__} are not understood")
        yield _named(row, names)


def _of_frame(frame: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a frame of pandas or polars, a few at a time: nobody is held up for long."""
    at = getattr(frame, "iloc", frame)
    for i in range(0, len(frame), _SLICE):
        part = at[i : i + _SLICE]
        yield from _turn({str(n): [_plain(v) for v in part[n]] for n in frame.columns})


def _of_table(table: Any, names: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of an array, or of a list of rows."""
    for i in range(0, len(table), _SLICE):
        for row in _plain(table[i : i + _SLICE]):
            if isinstance(row, dict):
                yield {str(k): _plain(v) for k, v in row.items()}
            else:
                yield _named(row, names)


def _named(row: list[Any], names: Any) -> dict[str, Any]:
    if names is None:
        names = [f"f{i}" for i in range(len(row))]
    return dict(zip(names, row, strict=True))


def _turn(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _other(value: Any) -> Any:
    """Return something that JSON knows, for what it does not."""
    made = getattr(value, "tolist", None) or getattr(value, "isoformat", None)
    if made is not None:
        return made()
    try:
        return float(value)  # decimals, fractions
    except (TypeError, ValueError):
        return str(value)[:256]


_STRICT: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_other).encode


def _encode(record: dict[str, Any]) -> bytes:
    try:
        return _STRICT(record).encode()
    except (ValueError, TypeError):
        return _STRICT(_known(record)).encode()


def _known(value: Any) -> Any:
    """Return the same with null for NaN and infinity, and text for keys."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _known(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_known(one) for one in value]
    made = getattr(value, "tolist", None)
    return value if made is None else _known(made())


# ---- the ways out


def _secret(reference: str) -> str:
    """Return what a reference means; raises ValueError, KeyError, OSError."""
    if not reference:
        return ""
    kind, _, where = reference.partition(":")
    if kind == "env":
        return os.environ[where].strip()
    if kind == "file":
        with open(where, encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs more than this whole module
            return file.read().strip()
    raise ValueError("a token is given as env:NAME or file:PATH, never itself")


class _Line:
    """Where batches go."""

    @staticmethod
    def to(address: str) -> _Line:
        """Return the way to an address; raises ValueError."""
        kind, _, rest = address.partition(":")
        if kind == "file" and rest:
            return _File(rest.removeprefix("//"))
        if (kind in {"http", "https"} and rest.startswith("//")) or (kind == "unix" and rest):
            return _Http(kind, rest)
        raise ValueError(
            f"not an address: {address!r}; write http://host:port, unix:PATH or file:PATH"
        )

    def send(self, body: bytes, token: str, timeout_s: float) -> tuple[int, str, float]:
        """Send once; returns status, what was said, seconds to wait."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is held."""


class _File(_Line):
    """A log of JSON lines; opened for each batch, so it may be rotated at any time."""

    def __init__(self, path: str) -> None:
        self._path = path

    def send(self, body: bytes, token: str, timeout_s: float) -> tuple[int, str, float]:
        del token, timeout_s
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # one write: the lines of several processes do not mix
            written = os.write(handle, body)
            if written < len(
                body
            ):  # the disk is full: the torn line is ended when there is room again
                os.write(handle, b"\n")
                return 507, f"{self._path}: no room", 0.0
        finally:
            os.close(handle)
        return 200, "", 0.0


class _Http(_Line):
    """A receiver over HTTP, its connection kept; `unix:` over a socket file."""

    def __init__(self, kind: str, rest: str) -> None:
        import encodings.idna  # noqa: F401  # what looks names up imports it
        import gzip
        from http.client import HTTPConnection, HTTPSConnection
        from urllib.parse import urlsplit

        self._pack = functools.partial(gzip.compress, compresslevel=1)

        if kind == "unix":
            self._path = _PATH
            self._make: Callable[[float], HTTPConnection] = functools.partial(
                _over_socket, rest.removeprefix("//")
            )
        else:
            parts = urlsplit(f"{kind}:{rest}")
            if not parts.hostname:
                raise ValueError(f"no host in {kind}:{rest}")
            self._path = parts.path.rstrip("/") or _PATH
            cls = HTTPSConnection if kind == "https" else HTTPConnection
            host, port = parts.hostname, parts.port
            self._make = lambda timeout_s: cls(host, port, timeout=timeout_s)
        self._connection: HTTPConnection | None = None
        self._packs: bool | None = None  # None = it is not known yet whether it understands gzip

    def send(self, body: bytes, token: str, timeout_s: float) -> tuple[int, str, float]:
        packed = self._packs is not False
        answer = self._ask(body, token, timeout_s, packed=packed)
        if packed and self._packs is None and answer[0] in {400, 415}:
            plain = self._ask(body, token, timeout_s, packed=False)
            if 200 <= plain[0] < 300:
                self._packs = False
            return plain
        if packed and 200 <= answer[0] < 300:
            self._packs = True
        return answer

    def _ask(
        self, body: bytes, token: str, timeout_s: float, *, packed: bool
    ) -> tuple[int, str, float]:
        headers = {"Content-Type": "application/x-ndjson"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if packed:
            body = self._pack(body)
            headers["Content-Encoding"] = "gzip"
        try:
            reused = self._connection is not None
            response, said = self._exchange(body, headers, timeout_s)
        except ConnectionError:
            if not reused:
                raise
            # the other side had closed a connection that was quiet for a while, as servers do
            response, said = self._exchange(body, headers, timeout_s)
        try:
            after = float(response.headers.get("Retry-After", "0"))
        except ValueError:  # a date
            after = 0.0
        return response.status, said[:300], max(0.0, after)

    def _exchange(self, body: bytes, headers: dict[str, str], timeout_s: float) -> tuple[Any, str]:
        """Ask once; a connection that failed is closed."""
        if self._connection is None:
            self._connection = self._make(timeout_s)
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_s)
        try:
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
            said = response.read(_MOST_ANSWER).decode("utf-8", "replace")
        except BaseException:
            self.close()
            raise
        if response.will_close or not response.isclosed():
            self.close()
        return response, said

    def close(self) -> None:
        """Close the connection; the next batch makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _over_socket(path: str, timeout_s: float) -> Any:
    """Return an HTTP connection over a socket file."""
    import socket
    from http.client import HTTPConnection

    connection = HTTPConnection("localhost", timeout=timeout_s)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(timeout_s)
    try:
        line.connect(path)
    except BaseException:
        line.close()
        raise
    connection.sock = line
    return connection
