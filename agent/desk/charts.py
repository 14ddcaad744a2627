"""Charts: any series, the evidence of an incident, and the small ones beside a `why`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent import views
from agent.catalogue import SIGNALS
from agent.desk.finding import Finding
from agent.errors import Refused
from agent.meant import moment
from agent.model import Anomaly, Incident, Series
from agent.views import ChartView, MarkView, PointsView
from agent.why import spark

_POINTS: Final = 400
"""Points of a chart: more than a screen has pixels for one line helps nobody."""
_CHARTS: Final = 8
_SPARKS: Final = 6
_SPARK_POINTS: Final = 24


class Charts(Finding):
    """Series over time, with what happened drawn into them."""

    def chart(self, text: str, start: str = "15m", end: str = "") -> ChartView:
        """Return one series over a time: `start` and `end` as `15m` (ago), unix seconds or ISO; raises NotThere."""
        series = self.series(text)
        now = self.hooks.now()
        since, until = moment(start, now, now - 900.0), moment(end, now, now)
        if since >= until:
            raise Refused(
                f"the chart would end before it starts ({start} to {end or 'now'}); swap them"
            )
        low, high, marks = math.nan, math.nan, []
        for i in self.hooks.memory.incidents.values():
            for a in i.anomalies:
                if a.series == series and a.onset < until and (a.end or now) > since:
                    low, high = a.low, a.high
                    marks += _edges(a)
        return self._chart(series, (since, until), (low, high), marks)

    def evidence(self, id_: str) -> list[ChartView]:
        """Return the evidence of an incident as charts: harm, what stands out, what the cause rests on."""
        i = self._incident(id_)
        now = self.hooks.now()
        chosen: dict[Series, tuple[float, float]] = {}
        detail = sorted(i.anomalies, key=lambda a: (not a.harm, a.road != "objective", a.p, -a.deviations))  # fmt: skip
        top = i.diagnosis.top if i.diagnosis else None
        for a in detail[:3]:
            chosen.setdefault(a.series, (a.low, a.high))
        for e in sorted(top.evidence if top else (), key=lambda e: -abs(e.weight)):
            if e.series is not None:
                chosen.setdefault(e.series, (math.nan, math.nan))
        for a in detail[3:]:
            chosen.setdefault(a.series, (a.low, a.high))
        onset = min([i.opened, *(a.onset for a in i.anomalies)])
        until = min(now, (i.resolved or now) + 60.0)
        since = onset - max(60.0, min(900.0, 0.5 * (until - onset)))
        marks = self._happened(i, onset)
        return [
            self._chart(series, (since, until), band, marks)
            for series, band in list(chosen.items())[:_CHARTS]
            if series.metric in SIGNALS and SIGNALS[series.metric].unit != "bool"
        ]

    def _points(self, i: Incident) -> list[PointsView]:
        """Return small charts of what the cause rests on, or of what is abnormal: one read of history for all."""
        top = i.diagnosis.top if i.diagnosis else None
        said = top.evidence if top else ()
        speak = sorted((e for e in said if e.weight > 0), key=lambda e: -e.weight)
        abnormal = sorted(
            i.anomalies, key=lambda a: (not a.harm, a.road != "objective", -a.deviations)
        )
        wanted = dict.fromkeys([e.series for e in speak if e.series] + [a.series for a in abnormal])
        drawn = [s for s in wanted if s.metric in SIGNALS and SIGNALS[s.metric].unit != "bool"]
        drawn = drawn[:_SPARKS]
        if not drawn:
            return []
        until = min(self.hooks.now(), (i.resolved or math.inf) + 60.0)
        began = min([i.opened, *(a.onset for a in i.anomalies)])
        since = began - max(60.0, 0.5 * (until - began))
        step = max(1.0, (until - since) / _SPARK_POINTS)
        ts, values = self.hooks.read(drawn, since, until, step)
        out: list[PointsView] = []
        for j, series in enumerate(drawn):
            column = [_six(v) for v in values[:, j]] if len(values) else []
            out.append({
                "series": str(series), "title": views.title_of(series), "unit": SIGNALS[series.metric].unit,
                "data": [[float(t) for t in ts], column],
                "spark": spark(column, SIGNALS[series.metric].floor),
            })  # fmt: skip
        return out

    def _happened(self, i: Incident, onset: float) -> list[MarkView]:
        """List what is drawn as lines over the charts of an incident."""
        marks: list[MarkView] = [{"ts": onset, "kind": "onset", "text": "it began"}]
        if i.resolved is not None:
            marks.append({"ts": i.resolved, "kind": "end", "text": "resolved"})
        for c in i.changes:
            shown = views.change_view(c, self.name)
            marks.append({"ts": c.ts, "kind": "change", "text": views.change_words(shown)})
        for run in self.hooks.memory.runs.values():
            if run.incident == i.id:
                marks += [
                    {"ts": s.ended, "kind": "act", "text": s.summary or s.use}
                    for s in run.steps
                    if s.status in {"done", "adopted", "undone"}
                ]
        return sorted(marks, key=lambda m: m["ts"])

    def _chart(
        self,
        series: Series,
        span: tuple[float, float],
        band: tuple[float, float],
        marks: Sequence[MarkView],
    ) -> ChartView:
        (since, until), (low, high) = span, band
        step = max(1.0, math.ceil((until - since) / _POINTS))
        ts, values = self.hooks.read([series], since, until, step)
        column = values[:, 0] if values.size else np.empty(0)
        data: list[list[float | None]] = [
            [float(t) for t in ts],
            [_six(v) for v in column],
        ]
        return {
            "series": str(series), "title": views.title_of(series), "subject": self.name(series.entity),
            "unit": SIGNALS[series.metric].unit, "data": data,
            "low": None if math.isnan(low) else low, "high": None if math.isnan(high) else high,
            "marks": [m for m in marks if since <= m["ts"] <= until],
        }  # fmt: skip


def _six(value: float) -> float | None:
    """Round to six digits, as many as anybody can see; None = unknown."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _edges(a: Anomaly) -> list[MarkView]:
    out: list[MarkView] = [{"ts": a.onset, "kind": "onset", "text": "it began"}]
    if a.end is not None:
        out.append({"ts": a.end, "kind": "end", "text": "well again"})
    return out
