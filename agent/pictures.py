"""Charts as pictures, for those who can not draw them: chats, reports, mails. PNG, light or dark.

    ChartView, ChartView, ... --Pictures.draw--> worker process (matplotlib, extra `charts`) --> PNG

matplotlib never gets into the daemon. Good for up to four charts of a few hundred points. Cost: about a second for the
first picture of a process, a third of one after it; the process ends when nobody wants another.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from agent import registry
from agent.errors import Refused
from agent.imports import lacking
from agent.model import BoolArray, FloatArray
from agent.units import Model, say
from agent.worker import Job, Worker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from agent.views import ChartView, MarkView

MOST_CHARTS: Final = 4
_MOST_MARKS: Final = 6
_WIDE_IN, _HIGH_IN, _FOOT_IN, _DPI = 8.0, 1.75, 0.28, 110
_LONGEST: Final = 64
_LIMIT_S: Final = 60.0
_Stroke = Literal["-", "--", "-.", ":"]
_NICE: Final = 5
"""A person waits for it: before trainings, behind all else on this host."""


@dataclass(frozen=True, slots=True)
class _Look:
    """Colours; those of marks are told apart with any sight, and by their strokes."""

    paper: str
    ink: str
    grid: str
    line: str
    band: str
    marks: Mapping[str, tuple[str, _Stroke]]


_LIGHT: Final = _Look(
    "#ffffff", "#1d2733", "#dde3ea", "#1f5fbf", "#1f5fbf",
    {"onset": ("#c2410c", "--"), "end": ("#15803d", "-."), "change": ("#7e22ce", ":"), "act": ("#0e7490", "-")},
)  # fmt: skip
_DARK: Final = _Look(
    "#12171d", "#e4e9ef", "#2a333d", "#7ab0ff", "#7ab0ff",
    {"onset": ("#fb923c", "--"), "end": ("#4ade80", "-."), "change": ("#c084fc", ":"), "act": ("#22d3ee", "-")},
)  # fmt: skip


class Pictures:
    """Draws charts in a process of its own.

    cache   a folder where the fonts that were found are remembered, as finding them takes seconds
    """

    def __init__(self, cache: Path, worker: Worker | None = None) -> None:
        self._cache = cache
        self._worker = worker or Worker(limit_s=_LIMIT_S, nice=_NICE)

    async def draw(self, charts: Sequence[ChartView], *, dark: bool = False) -> bytes:
        """Return a PNG of the first four charts that have a value, one below the other.

        Raises Refused (nothing to draw, matplotlib is not installed) and Unavailable (the process failed; try again).
        """
        some = [dict(chart) for chart in charts if _known(chart)][:MOST_CHARTS]
        if not some:
            raise Refused("no chart has a value: there is nothing to draw")
        nothing = np.empty(0)
        config = {"charts": some, "dark": dark, "cache": str(self._cache)}
        return await self._worker.train(Job("picture", config, nothing, nothing))

    async def close(self) -> None:
        """End the process."""
        await self._worker.close()


def _known(chart: ChartView) -> bool:
    return len(chart["data"]) == 2 and any(v is not None for v in chart["data"][1])


# ---------------------------------------------------------------- in the worker process


@registry.trainer("picture")
class Picture:
    """What the worker process makes."""

    class Config(Model):
        """One picture."""

        charts: list[dict[str, Any]]
        dark: bool = False
        cache: str = ""

    @staticmethod
    def train(config: Config, ts: FloatArray, values: FloatArray) -> bytes:
        """Return the PNG; raises Refused when matplotlib is not installed."""
        del ts, values
        if config.cache:
            os.environ.setdefault("MPLCONFIGDIR", config.cache)
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise Refused(lacking("pictures need matplotlib", "charts")) from None
        look = _DARK if config.dark else _LIGHT
        charts: list[Any] = config.charts
        marks = _marks(charts)
        foot = _FOOT_IN * (1 + math.ceil(len(marks) / 2))
        high = _HIGH_IN * len(charts) + foot
        figure = Figure(figsize=(_WIDE_IN, high), dpi=_DPI, facecolor=look.paper)
        all_axes = figure.subplots(len(charts), 1, sharex=True, squeeze=False)[:, 0]
        for axes, chart in zip(all_axes, charts, strict=True):
            _draw(axes, chart, marks, look)
        _time_axis(all_axes[-1], charts)
        if marks:
            figure.legend(
                handles=[_handle(mark, look) for mark in marks], loc="lower left", ncols=2, fontsize=8,
                frameon=False, labelcolor=look.ink, bbox_to_anchor=(0.06, 0.0),
            )  # fmt: skip
        figure.subplots_adjust(
            left=0.115, right=0.985, top=1 - 0.3 / high, bottom=foot / high + 0.02, hspace=0.42
        )
        out = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(out, format="png", facecolor=look.paper)
        return out.getvalue()


def _marks(charts: Sequence[ChartView]) -> list[MarkView]:
    """Return what is drawn as lines: what began it and the acts before all else, in the order of time."""
    rank = {"onset": 0, "act": 1, "end": 2, "change": 3}
    found = {(m["ts"], m["kind"], m["text"]): m for c in charts for m in c["marks"]}
    kept = sorted(found.values(), key=lambda m: (rank.get(m["kind"], 4), m["ts"]))[:_MOST_MARKS]
    return sorted(kept, key=lambda m: m["ts"])


def _draw(axes: Axes, chart: ChartView, marks: Sequence[MarkView], look: _Look) -> None:
    """Draw one series with its band and the marks."""
    ts, values = (
        np.array([math.nan if v is None else v for v in part], dtype=np.float64)
        for part in chart["data"]
    )
    axes.set_facecolor(look.paper)
    axes.plot(ts, values, color=look.line, linewidth=1.4)
    alone = np.isfinite(values) & ~_beside(values)
    axes.plot(ts[alone], values[alone], ".", color=look.line, markersize=4)
    bottom, top = _span(values, chart["low"], chart["high"])
    if chart["low"] is not None or chart["high"] is not None:
        low = chart["low"] if chart["low"] is not None else bottom
        high = chart["high"] if chart["high"] is not None else top
        axes.axhspan(low, high, color=look.band, alpha=0.13, linewidth=0)
    for mark in marks:
        colour, stroke = look.marks.get(mark["kind"], (look.ink, ":"))
        axes.axvline(mark["ts"], color=colour, linestyle=stroke, linewidth=1.1)
    axes.set_ylim(bottom, top)
    axes.set_title(
        _cut(f"{chart['title']} of {chart['subject']}"), loc="left", fontsize=9.5, color=look.ink, pad=4
    )  # fmt: skip
    unit = chart["unit"]
    axes.yaxis.set_major_formatter(lambda value, _: say(value, unit))
    axes.locator_params(axis="y", nbins=4)
    axes.tick_params(colors=look.ink, labelsize=8, length=2)
    axes.grid(visible=True, color=look.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(look.grid)


def _beside(values: FloatArray) -> BoolArray:
    """Tell which values have a neighbour: a line shows no other."""
    known = np.isfinite(values)
    left, right = np.roll(known, 1), np.roll(known, -1)
    left[:1], right[-1:] = False, False
    return np.logical_or(left, right)


def _span(values: FloatArray, low: float | None, high: float | None) -> tuple[float, float]:
    """Return the height of a chart: all values and the edges of the band, with a little air."""
    edges = [v for v in (low, high) if v is not None]
    known = np.append(values[np.isfinite(values)], edges)
    bottom, top = float(known.min()), float(known.max())
    air = 0.08 * (top - bottom) or 0.1 * abs(top) or 1.0
    return (0.0 if 0.0 <= bottom < 3 * air else bottom - air), top + air


def _time_axis(axes: Axes, charts: Sequence[ChartView]) -> None:
    """Write times as people on this host read them."""
    times = [t for c in charts for t in c["data"][0] if t is not None]
    first, last = min(times), max(times)
    form = "%H:%M:%S" if last - first < 300 else "%H:%M" if last - first < 86_400 else "%d %b %H:%M"
    axes.set_xlim(first, max(last, first + 1.0))
    axes.set_xticks(list(_ticks(first, last)))
    axes.xaxis.set_major_formatter(lambda t, _: f"{datetime.fromtimestamp(t).astimezone():{form}}")


def _ticks(first: float, last: float) -> Iterator[float]:
    """Yield round times, at most eight; round where this host is."""
    steps = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 10_800, 21_600, 43_200, 86_400)
    step = next((s for s in steps if (last - first) / s <= 8), (last - first) / 8)
    offset = datetime.fromtimestamp(first).astimezone().utcoffset()
    shift = offset.total_seconds() if offset is not None else 0.0
    tick = math.ceil((first + shift) / step) * step - shift
    while tick <= last:
        yield tick
        tick += step


def _handle(mark: MarkView, look: _Look) -> Any:
    """Return the line of the legend for a mark."""
    from matplotlib.lines import Line2D

    colour, stroke = look.marks.get(mark["kind"], (look.ink, ":"))
    at = datetime.fromtimestamp(mark["ts"]).astimezone()
    label = _cut(f"{at:%H:%M:%S} {mark['text']}", _LONGEST - 8)
    return Line2D([], [], color=colour, linestyle=stroke, label=label)


def _cut(text: str, most: int = _LONGEST) -> str:
    """Cut a text, and let no dollar in it open a formula."""
    cut = text if len(text) <= most else text[: most - 1].rstrip() + "…"
    return cut.replace("$", r"\$")
