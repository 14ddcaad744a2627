"""A stretch of Prometheus' past, for replays: what our own `/metrics` told it, and what PromQL makes of the rest.

    {__name__=~"homeostat_.+"} --query_range--> service.latency_p95_seconds{service:shop}, by the names of the catalogue
    --query SERIES=PROMQL      --query_range--> SERIES

Prometheus repeats a sample for five minutes when a series stops; so long its silence is not seen. Counters are left
out: our rates are exported beside them.
Source (read, then told in our own words): prometheus.io, HTTP API, range queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from agent.catalogue import SIGNALS
from agent.errors import Refused, Unavailable
from agent.model import FloatArray, Series, entity
from agent.registry import past
from agent.rows import Rows
from connectors._promql import Access, Promql, numbers
from connectors.http import redacted

OURS: Final = '{__name__=~"homeostat_.+",entity!=""}'
_MOST_POINTS: Final = 1000
"""A series in one answer: Prometheus gives 11,000 at most, and hundreds of series come at once."""
_TIMEOUT_S: Final = 60.0
_MOST_BYTES: Final = 256e6
"""Of one answer: a thousand rows of several hundred series."""
_SCRAPERS: Final = frozenset({"__name__", "entity", "job", "instance"})
_SIGNAL: Final = {d.exported: d.name for d in SIGNALS.values() if d.kind != "counter"}


@past("prometheus")
class PrometheusRange:
    """Rows of a Prometheus between any two moments.

    url       where it answers; queries: series -> PromQL that gives one series
    step_s    whole seconds between two rows
    token     `env:NAME` or `file:PATH` of a bearer token; "" = none is needed
    """

    def __init__(
        self, url: str, queries: Mapping[Series, str], *, step_s: int = 15, token: str = ""
    ) -> None:
        self.start, self.end = -math.inf, math.inf
        self._queries = dict(queries)
        self._step_s = step_s
        try:
            access = Access(url=url, token=token, timeout=_TIMEOUT_S, most_bytes=_MOST_BYTES)
        except ValueError:
            raise Refused(
                f"{redacted(url)} is no address of Prometheus; write it like http://127.0.0.1:9090"
            ) from None
        self._promql = Promql(access)

    def stretches(self, start: float, end: float) -> Iterator[Sequence[tuple[str, Rows]]]:
        """Yield a thousand rows at a time. Raises Unavailable, Refused."""
        step = self._step_s
        first, last = math.ceil(start / step) * step, math.floor(end / step) * step
        table: tuple[Series, ...] = ()
        for begin in range(first, last + 1, _MOST_POINTS * step):
            until = min(begin + (_MOST_POINTS - 1) * step, last)
            columns = self._ours(begin, until)
            for series, query in self._queries.items():
                columns[series] = self._one(series, query, begin, until)
            known = {s: x for s, x in columns.items() if not np.isnan(x).all()}
            if not known:
                continue
            fresh = tuple(sorted(known))
            table = table if table == fresh else fresh
            ts = np.arange(begin, until + 1, step, dtype=np.float64)
            yield [("prometheus", Rows(ts, table, np.column_stack([known[s] for s in table])))]

    def _ours(self, begin: int, until: int) -> dict[Series, FloatArray]:
        found: dict[Series, FloatArray] = {}
        for one in self._ask(OURS, begin, until):
            labels = dict(one["metric"])
            signal = _SIGNAL.get(labels.get("__name__", ""))
            if signal is None:
                continue
            try:
                about = entity(labels["entity"])
            except ValueError:
                continue  # somebody else's metric under our name
            rest = {
                k.removeprefix("label_"): v for k, v in labels.items() if k not in _SCRAPERS
            }  # of a label that a scraper has, ours comes as exported_
            rest = {k.removeprefix("exported_"): v for k, v in rest.items()}
            found[Series(signal, about, tuple(sorted(rest.items())))] = self._column(
                one["values"], begin, until
            )
        return found

    def _one(self, series: Series, query: str, begin: int, until: int) -> FloatArray:
        answer = self._ask(query, begin, until)
        if len(answer) > 1:
            raise Refused(
                f"the query of {series} gives {len(answer)} series: {query}; join them, as with sum() or max()"
            )
        return self._column(answer[0]["values"] if answer else [], begin, until)

    def _column(self, values: Sequence[tuple[float, str]], begin: int, until: int) -> FloatArray:
        """Put [ts, text] pairs onto the grid; NaN where nothing came."""
        out = np.full((until - begin) // self._step_s + 1, np.nan)
        if values:
            at = np.rint((np.array([ts for ts, _ in values]) - begin) / self._step_s)
            out[at.astype(np.int64)] = numbers([text for _, text in values])
        return out

    def _ask(self, query: str, begin: int, until: int) -> list[dict[str, Any]]:
        self._promql.ready()  # what is not installed here Prometheus has not refused
        try:
            return self._promql.matrix(query, begin, until, self._step_s)
        except Unavailable as gone:
            raise Unavailable(
                f"Prometheus does not answer ({gone}); look whether it runs, and at --prometheus"
            ) from None
        except Refused as no:
            raise Refused(
                f"Prometheus refused `{query}`: {no}; try it in its own console"
            ) from None
