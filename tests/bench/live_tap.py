"""The daemon with a tap behind its detectors: `python live_tap.py FILE run --config ... --state ...`.

The API shows what belongs to an incident. A benchmark must also see what is abnormal on its own and opens nothing, and
when it was told first: so one more stage stands behind `detect` and writes a JSON line when a stretch begins, changes
its road or is joined by its group, and ends. Everything else is the daemon as it is.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from agent import cli, pipeline
from agent.model import Anomaly
from agent.pipeline import Moment, Walk

LEDGER_S = 10.0
"""How often it is written what was counted for the budget."""


def number(x: float) -> float | None:
    return None if math.isnan(x) or math.isinf(x) else x


def line(now: float, source: str, a: Anomaly) -> dict[str, Any]:
    return {
        "what": "anomaly", "at": now, "source": source, "metric": a.series.metric, "entity": a.series.entity.id,
        "labels": a.series.labels, "onset": a.onset, "end": a.end, "p": a.p, "road": a.road, "family": a.family,
        "direction": a.direction, "value": number(a.value), "low": number(a.low), "high": number(a.high),
        "deviations": number(a.deviations) or 0.0, "harm": a.harm, "together": a.together,
    }  # fmt: skip


class Tap:
    """The stage. Costs a few microseconds for each series that is abnormal."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._going: dict[tuple[str, str, float], tuple[str, bool]] = {}
        self._due = 0.0

    def __call__(self, walk: Walk, moment: Moment) -> None:
        of = {s: f.source for f in moment.frames for s in f.series} if moment.anomalies else {}
        for a in moment.anomalies:
            key = (str(a.series), a.family if a.road == "objective" else "", a.onset)
            seen = (a.road, a.together is not None)
            if a.end is not None or self._going.get(key) != seen:
                self._write(line(moment.now, of.get(a.series, ""), a))
            if a.end is None:
                self._going[key] = seen
            else:
                self._going.pop(key, None)
        if moment.now >= self._due:
            self._due = moment.now + LEDGER_S
            self._write({"what": "ledger", "at": moment.now, **self._ledger(walk)})

    def _write(self, what: dict[str, Any]) -> None:
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()

    @staticmethod
    def _ledger(walk: Walk) -> dict[str, float]:
        ledger = walk.monitor.ledger
        days = ledger.days.values()
        due = sum(day.due for day in days)
        return {
            "series_days": due / ledger.promise.anomalies_per_series_day,
            "anomalies": sum(day.anomalies for day in days),
            "notes": sum(day.notes for day in days),
            "tightness": ledger.tightness,
        }


def stages(tap: Tap) -> Iterator[Callable[[Walk, Moment], None]]:
    """Yield the stages of the walk, with the tap behind `detect`."""
    for stage in pipeline.STAGES:
        yield stage
        if stage is pipeline.detect:
            yield tap


def main() -> None:
    with Path(sys.argv.pop(1)).open("a", encoding="utf-8") as file:
        vars(pipeline)["STAGES"] = tuple(stages(Tap(file)))
        cli.main()


if __name__ == "__main__":
    main()
