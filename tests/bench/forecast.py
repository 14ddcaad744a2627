"""How honest the forecasts of what fills are: made-up fills, foretold at several moments, against what then came.

    make bench-forecast                  # or: python tests/bench/forecast.py [--series 40] [--seed 0] [--only NAME]

Each set is a generator of series on a grid of half a minute: two days of past, then the truth. Beside us stands what
people use today: Prometheus' `predict_linear` over six hours, a least-squares line, re-created here. An alarm is told
when the limit is reached within the lead time: by us when that is 90 % probable, by the line when it says so.

Figures, written to build/bench/forecast.json:

    cover80, cover95   share of truths inside the interval, of those that came within the horizon (nine days)
    error              median |log(foretold / true time)|; an answer beyond the horizon counts as the horizon
    found              share of fills told when at most half of the lead time was left
    false              share of forecasts that were told and whose limit was not reached within twice the lead time
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

# beside this file `agent.py`, a benchmark, would hide the package
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.filling import FINE_S, LEVELS, Past, screen
from agent.model import FloatArray
from detectors._joint import need
from detectors._trends import Goal
from detectors.fill import forecast

US, LINE = "homeostat", "predict_linear"
HOUR = 3600
PAST_S = 48 * HOUR
AHEAD_S = 9 * 24 * HOUR
LEADS_S = (4 * HOUR, 72 * HOUR)
FLOOR = 0.005
PROBABILITY = 0.9
MOMENTS_S = (0, 2 * HOUR, 8 * HOUR)
T0 = 1_700_000_000.0 // 86_400 * 86_400

Make = Callable[[FloatArray, np.random.Generator], FloatArray]
"""Time since the first moment of forecast (k,), seconds -> share in use (k,)."""


def _log(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _noise(t: FloatArray, rng: np.random.Generator, size: float) -> FloatArray:
    """Readings vary: half of it independent, half wanders with a memory of ten minutes."""
    white, memory = rng.normal(size=len(t)), math.exp(-FINE_S / 600.0)
    drive = rng.normal(size=len(t)) * math.sqrt(1 - memory**2)
    slow = np.empty(len(t))
    state = 0.0
    for i, one in enumerate(drive):
        state = memory * state + one
        slow[i] = state
    return size * (white + slow) / math.sqrt(2.0)


def _level(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.4, 0.8))


def linear(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    left = _log(rng, 0.5 * HOUR, 100 * HOUR)
    level = _level(rng)
    began = -_log(rng, max(600.0, left / 8), PAST_S * 2)
    slope = (1 - level) / left
    low = max(level + slope * began, 0.05)
    return np.maximum(level + slope * t, low) + _noise(t, rng, _log(rng, 1e-4, 0.01))


def accelerating(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    left, level = _log(rng, 2 * HOUR, 60 * HOUR), _level(rng)
    tau = left / rng.uniform(0.5, 2.0)
    grown = (1 - level) * (np.exp(t / tau) - 1) / (math.exp(left / tau) - 1)
    return level + np.maximum(grown, -level + 0.05) + _noise(t, rng, _log(rng, 1e-4, 0.005))


def bursts(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Jobs write at odd times, each another amount."""
    left, level = _log(rng, 4 * HOUR, 80 * HOUR), _level(rng)
    every = _log(rng, 300.0, max(left / 12, 400.0))
    rate = (1 - level) / left
    jobs = rng.random(len(t)) < FINE_S / every
    grown = np.cumsum(jobs * rng.gamma(2.0, rate * every / 2.0, size=len(t)))
    at = int(np.searchsorted(t, 0.0))
    return np.maximum(level + grown - grown[at], 0.02) + _noise(t, rng, 1e-4)


def sawtooth_rising(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    left, level = _log(rng, 6 * HOUR, 80 * HOUR), _level(rng)
    return _teeth(t, rng) + level + (1 - level) / left * t + _noise(t, rng, 5e-4)


def sawtooth_steady(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    return _teeth(t, rng) + rng.uniform(0.3, 0.65) + _noise(t, rng, 5e-4)


def _teeth(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    period, height = _log(rng, 300.0, 12 * HOUR), rng.uniform(0.05, 0.3)
    return height * ((t / period + rng.random()) % 1.0)


def season_and_trend(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    left, level = _log(rng, 12 * HOUR, 100 * HOUR), _level(rng)
    return _season(t, rng) + level + (1 - level) / left * t + _noise(t, rng, 2e-3)


def season_steady(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    return _season(t, rng) + rng.uniform(0.4, 0.65) + _noise(t, rng, 2e-3)


def _season(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    turn = 2 * np.pi * (t / (24 * HOUR) + rng.random())
    return rng.uniform(0.02, 0.15) * (np.sin(turn) + 0.3 * np.sin(2 * turn + rng.random()))


def step_then_flat(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    at = -_log(rng, 600.0, 30 * HOUR)
    return rng.uniform(0.3, 0.5) + rng.uniform(0.05, 0.35) * (t >= at) + _noise(t, rng, 5e-4)


def noise_only(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    return rng.uniform(0.4, 0.85) + _noise(t, rng, _log(rng, 1e-3, 0.03))


def wandering(t: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Comes back to where it was, but takes hours: memory of a host that works."""
    memory = math.exp(-FINE_S / _log(rng, 2 * HOUR, 8 * HOUR))
    state, out = 0.0, np.empty(len(t))
    for i, one in enumerate(rng.normal(size=len(t)) * math.sqrt(1 - memory**2)):
        state = memory * state + one
        out[i] = state
    return rng.uniform(0.4, 0.6) + 0.08 * out


FILLS: dict[str, Make] = {
    f.__name__: f for f in (linear, accelerating, bursts, sawtooth_rising, season_and_trend)
}
STEADY: dict[str, Make] = {
    f.__name__: f for f in (step_then_flat, noise_only, wandering, sawtooth_steady, season_steady)
}


@dataclass
class Tally:
    """What was counted of one set, for us and for the line."""

    inside80: list[bool] = field(default_factory=list)
    inside95: list[bool] = field(default_factory=list)
    error: dict[str, list[float]] = field(default_factory=lambda: {US: [], LINE: []})
    found: dict[str, list[bool]] = field(default_factory=lambda: {US: [], LINE: []})
    false: dict[str, list[bool]] = field(default_factory=lambda: {US: [], LINE: []})
    asked: int = 0
    screened: int = 0
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Count another set in."""
        self.inside80 += other.inside80
        self.inside95 += other.inside95
        for who in (US, LINE):
            self.error[who] += other.error[who]
            self.found[who] += other.found[who]
            self.false[who] += other.false[who]
        self.asked += other.asked
        self.screened += other.screened
        self.seconds += other.seconds


def line(t: FloatArray, y: FloatArray, window_s: float = 6 * HOUR) -> float:
    """Return the seconds until a least-squares line over the window reaches 1; infinite = never."""
    rows = t >= t[-1] - window_s
    slope, at = np.polyfit(t[rows] - t[-1], y[rows], 1)
    return float((1.0 - at) / slope) if slope > 0 else math.inf


def run(make: Make, n: int, seed: int, kalman: object) -> Tally:
    tally = Tally()
    t = np.arange(-PAST_S, AHEAD_S + max(MOMENTS_S), FINE_S)
    horizon = 3.0 * LEADS_S[-1]
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        y = make(t, rng)
        past = Past(1)
        fed = 0
        for moment in MOMENTS_S:
            at = int(np.searchsorted(t, float(moment)))
            if (y[:at] >= 1.0).any():
                break
            past.feed(T0 + t[fed:at], y[fed:at, None])
            fed = at
            later = np.flatnonzero(y[at:] >= 1.0)
            truth = float(later[0]) * FINE_S + FINE_S if len(later) else math.inf
            ts, mean, most = past.rows(T0 + t[at])
            began = time.process_time()
            soon = screen(ts, mean, np.ones(1), np.full(1, FLOOR))[0]
            tally.asked += 1
            quantiles = np.full(len(LEVELS), np.inf)
            if soon <= horizon:
                tally.screened += 1
                told, _ = forecast(ts, mean[:, 0], most[:, 0], Goal(1.0, FLOOR, horizon), kalman)
                quantiles = np.where(np.isnan(told), np.inf, told)
            tally.seconds += time.process_time() - began
            _count(tally, truth, quantiles, line(t[:at], y[:at]), horizon)
    return tally


def _count(
    tally: Tally, truth: float, quantiles: FloatArray, straight: float, horizon: float
) -> None:
    q = dict(zip(LEVELS, quantiles, strict=True))
    says = {US: q[0.5], LINE: straight}
    sure = {US: q[PROBABILITY], LINE: straight}
    if truth <= horizon:
        tally.inside80.append(q[0.1] <= truth <= q[0.9])
        tally.inside95.append(q[0.025] <= truth <= q[0.975])
        for who, said in says.items():
            off = min(max(said, FINE_S), horizon) / max(truth, FINE_S)
            tally.error[who].append(abs(math.log(off)))
    for lead in LEADS_S:
        for who, said in sure.items():
            if truth <= lead / 2:
                tally.found[who].append(said <= lead)
            if truth > 2 * lead:
                tally.false[who].append(said <= lead)


def _mean(found: list[bool]) -> float:
    return float(np.mean(found)) if found else math.nan


def figures(tally: Tally) -> dict[str, dict[str, float]]:
    """Return subject -> figure -> value."""
    out = {
        who: {
            "error": float(np.median(tally.error[who])) if tally.error[who] else math.nan,
            "found": _mean(tally.found[who]),
            "false": _mean(tally.false[who]),
        }
        for who in (US, LINE)
    }
    out[US] |= {
        "cover80": _mean(tally.inside80),
        "cover95": _mean(tally.inside95),
        "sent_to_worker": tally.screened / max(tally.asked, 1),
        "cpu_seconds_each": tally.seconds / max(tally.screened, 1),
    }
    return out


def screen_cost(n: int = 1000) -> float:
    """Return the milliseconds that the daemon needs for n series that stand still, once in five minutes."""
    past = Past(n)
    t = T0 + np.arange(-PAST_S, 0.0, FINE_S)
    still = np.full((120, n), 0.5)
    for a in range(0, len(t), 120):
        past.feed(t[a : a + 120], still)
    took = []
    for i in range(20):
        fresh = T0 + 300.0 * i + np.arange(10) * FINE_S
        began = time.perf_counter()
        past.feed(fresh, still[:10])
        ts, mean, _ = past.rows(fresh[-1] + FINE_S)
        screen(ts, mean, np.ones(n), np.full(n, FLOOR))
        took.append(time.perf_counter() - began)
    return 1000.0 * float(np.median(took))


def ratio(ours: float, theirs: float) -> str:
    """Say how many times ours is theirs; what cannot be divided is left out."""
    return f"{ours / theirs:.2f}x" if theirs > 0 and math.isfinite(ours / theirs) else "-"


def show(name: str, tally: Tally, said: dict[str, dict[str, float]]) -> str:
    """Return one line of the table: ours / the line's, and their ratio."""
    us, line_ = said[US], said[LINE]
    cells = [f"{name:17} {tally.asked:4} {us['cover80']:7.2f} {us['cover95']:7.2f}"]
    for key, form in (("error", ".2f"), ("found", ".2f"), ("false", ".3f")):
        both = f"{us[key]:{form}} / {line_[key]:{form}}"
        cells.append(f"{both:>15} {ratio(us[key], line_[key]):>6}")
    return " ".join(cells) + f" {us['sent_to_worker']:6.2f} {us['cpu_seconds_each']:7.2f}"


def tell(text: str) -> None:
    """Print a line at once: a run takes minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run all sets, print the table, write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--series", type=int, default=40, help="of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="sets whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("build/bench/forecast.json"))
    asked = parser.parse_args()
    kalman = need("statsmodels.tsa.statespace.kalman_filter", "ml").KalmanFilter
    tell(
        "ours / predict_linear over 6 h, and the ratio of the two (error, false: less is better; found: more is)"
    )
    tell(
        f"{'set':17} {'n':>4} {'cover80':>7} {'cover95':>7} {'error':>15} {'':6} {'found':>15} {'':6}"
        f" {'false':>15} {'':6} {'sent':>6} {'cpu s':>7}"
    )
    rows: list[dict[str, object]] = []
    whole = Tally()
    for name, make in {**FILLS, **STEADY}.items():
        if asked.only not in name:
            continue
        tally = run(make, asked.series, asked.seed, kalman)
        said = figures(tally)
        tell(show(name, tally, said))
        rows += [
            {"set": name, "subject": who, "figure": figure, "value": value}
            for who, some in said.items()
            for figure, value in some.items()
            if math.isfinite(value)
        ]
        whole.add(tally)
    said = figures(whole)
    tell(show("all", whole, said))
    still = screen_cost()
    tell(
        f"1,000 series that stand still cost the daemon {still:.0f} ms in five minutes, and never start the worker"
    )
    rows += [
        {"set": "all", "subject": who, "figure": figure, "value": value}
        for who, some in said.items()
        for figure, value in some.items()
        if math.isfinite(value)
    ]
    rows.append({"set": "cost", "subject": US, "figure": "screen_ms_at_1000", "value": still})
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(report, indent=1))
    tell(f"{report['machine']}; written to {asked.out}")


if __name__ == "__main__":
    main()
