"""Reads boards as Grafana does: variables are resolved, expressions filled in and asked of a real Prometheus."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_side import SCRAPE_S, Prometheus

FOLDER = Path(__file__).resolve().parent.parent / "dashboards" / "grafana"
_QUERY = re.compile(r"label_values\((.+), (\w+)\)")


def boards() -> dict[str, dict]:
    """Return uid -> board, as committed."""
    found = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    return {board["uid"]: board for board in found}


def panels(board: dict) -> list[dict]:
    """Return its panels, without rows."""
    return [p for p in board["panels"] if p["type"] != "row"]


def variables(board: dict) -> list[dict]:
    return board["templating"]["list"]


def expressions(board: dict) -> Iterator[tuple[str, str]]:
    """Yield every expression and where it stands: panels, annotations."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for one in board["annotations"]["list"]:
        if "expr" in one:
            yield one["name"], one["expr"]


def called(title: str, expr: str) -> str:
    """Return what an expression is called in a list: its panel, and the metric that it asks for first."""
    metric = re.search(r"\b(homeostat_\w+|up)\b", expr)
    return f"{title}: {metric[0].removeprefix('homeostat_')}"


@dataclass
class Told:
    """What a Prometheus answered to a board.

    values    of its variables
    empty     expressions without a single value, and where they stand
    slowest   seconds, and which one
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    empty: list[tuple[str, str]] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    asked: int = 0


def read(server: Prometheus, board: dict, since: float, until: float) -> Told:
    """Ask everything that a board asks, for a stretch of time; an expression that is none raises.

    Of a variable of which one value is chosen (a model, a host) the first is asked of; an expression that has nothing
    of that one is asked of the others, too, and is empty when it has nothing of any.
    """
    told = _read(server, board, since, until, {})
    for one in variables(board):
        if one["type"] == "query" and not one["multi"]:
            for value in told.values[one["name"]][1:]:
                more = _read(server, board, since, until, {one["name"]: value}, told.empty)
                told.empty = more.empty
                told.asked += more.asked
    return told


def _read(
    server: Prometheus,
    board: dict,
    since: float,
    until: float,
    told_to: dict[str, str],
    only: Container[tuple[str, str]] | None = None,
) -> Told:
    """Ask with these values chosen, and the first of the others; `only` these expressions."""
    told, chosen = Told(), {"__range": f"{int(until - since)}s"}
    step = max(SCRAPE_S, math.ceil((until - since) / 200))
    chosen["__rate_interval"] = f"{max(step + SCRAPE_S, 4 * SCRAPE_S)}s"
    for one in variables(board):
        if one["type"] == "query":
            match, label = _QUERY.fullmatch(one["query"]).groups()
            match = filled(match, chosen)
            match = match if "{" in match else match + "{}"
            found = server.values(label, match, start=since, end=until)
            if one["regex"]:
                pattern = re.compile(one["regex"].strip("/").replace("\\/", "/"))
                found = [m.group(1) for m in map(pattern.fullmatch, found) if m]
            told.values[one["name"]] = found
            first = told_to.get(one["name"], (found or [""])[0])
            chosen[one["name"]] = one["allValue"] if one["multi"] else first
    for title, expr in expressions(board):
        if only is not None and (title, expr) not in only:
            continue
        took, any_value = _ask(server, filled(expr, chosen), since, until, step)
        told.asked += 1
        told.slowest = max(told.slowest, (took, f"{title}: {expr}"))
        if not any_value:
            told.empty.append((title, expr))
    return told


def filled(expr: str, chosen: dict[str, str]) -> str:
    """Put values into the places of variables; raises KeyError for one that nobody defined."""
    return re.sub(r"\$\{?(\w+)\}?", lambda m: chosen[m.group(1)], expr)


def _ask(
    server: Prometheus, expr: str, since: float, until: float, step: float
) -> tuple[float, bool]:
    """Return seconds that the server needed to evaluate, the best of three, and whether there was any value."""
    times, any_value = [], False
    for _ in range(3):
        said = server.ask(
            "query_range", query=expr, start=since, end=until, step=step, stats="all"
        )["data"]
        times.append(said["stats"]["timings"]["evalTotalTime"])
        any_value = any(v != "NaN" for one in said["result"] for _, v in one["values"])
    return min(times), any_value
