"""How the service really is, measured by the demo itself, from what clients saw and what labels said.

The score card does not take the agent's word: a fault counts as healed when the agent's run is verified *and* this
says that latency and accuracy are within their objectives again.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent.intervals import wilson


@dataclass(slots=True)
class Lines:
    """Reads on in a log of JSON lines; a line that is still being written waits for the next call."""

    path: Path
    _at: int = 0

    def new(self) -> list[Any]:
        """Return what has come since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as log:
            log.seek(self._at)
            data = log.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


@dataclass(slots=True)
class Truth:
    """Latency, failures and accuracy of the last seconds.

    keep_s   how much past is kept
    """

    answers: Lines
    predictions: Lines
    labels: Lines
    keep_s: float = 40.0
    failed: int = 0
    asked: int = 0
    _answers: deque[tuple[float, int, float]] = field(default_factory=deque)
    _asked: dict[str, tuple[float, str]] = field(default_factory=dict)
    _hits: deque[tuple[float, bool]] = field(default_factory=deque)

    def look(self, now: float) -> None:
        """Take in what has come. Costs about 20 us a request."""
        for sent, status, seconds in self.answers.new():
            self.asked += 1
            self.failed += status != 200
            self._answers.append((sent, status, seconds))
        for line in self.predictions.new():
            if line["status"] == 200:
                self._asked[line["id"]] = (line["ts"], line["pred"])
        for line in self.labels.new():
            found = self._asked.pop(line["id"], None)
            if found is not None:
                self._hits.append((found[0], found[1] == line["label"]))
        while self._answers and self._answers[0][0] < now - self.keep_s:
            self._answers.popleft()
        while self._hits and self._hits[0][0] < now - self.keep_s:
            self._hits.popleft()
        for name in [k for k, (ts, _) in self._asked.items() if ts < now - self.keep_s]:
            del self._asked[name]

    def p95(self, since: float) -> float | None:
        """Latency that 95 % of the answered requests sent since then stayed under; None = under 20 of them."""
        found = [t for sent, status, t in self._answers if sent >= since and status == 200]
        return float(np.percentile(found, 95)) if len(found) >= 20 else None

    def rate(self, since: float, now: float) -> float:
        """Requests a second that were answered since then."""
        return sum(sent >= since for sent, _, _ in self._answers) / max(0.1, now - since)

    def accuracy_high(self, since: float) -> float | None:
        """Upper 95 % bound of that share, as the agent's objective uses it; None = under 40 rows."""
        found = [hit for ts, hit in self._hits if ts >= since]
        return float(wilson(sum(found), len(found))[1]) if len(found) >= 40 else None

    def accuracy(self, since: float) -> float | None:
        """Share of right answers among rows served since then whose label has come; None = under 40 of them."""
        found = [hit for ts, hit in self._hits if ts >= since]
        return float(np.mean(found)) if len(found) >= 40 else None
