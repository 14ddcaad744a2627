"""Boards keep the rules: no data source but the variable's, only names that exist, units and words on every panel."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path

import pytest
import yaml
from boards_read import FOLDER, boards, expressions, panels, variables

from agent.catalogue import SIGNALS
from agent.telemetry import METRICS

BOARDS = boards()
NAMES = {d.exported for d in SIGNALS.values()} | {
    f"{d.name}{end}"
    for d in METRICS.values()
    for end in (("_bucket", "_sum", "_count") if d.kind == "histogram" else ("",))
}
COUNTERS = {d.name for d in METRICS.values() if d.kind == "counter"}
BUILT_IN = {"__all", "__rate_interval", "__range", "__url_time_range", "__value", "__data"}
KNOWN = {"stat", "timeseries", "table", "state-timeline", "heatmap", "bargauge", "row"}
ABSOLUTE = "since each agent started"


# ---------------------------------------------------------------- the rules: a board in, faults out


def datasource(board):
    first = variables(board)[0]
    if (first["type"], first["name"], first["query"]) != ("datasource", "datasource", "prometheus"):
        yield "its first variable is not the data source"
    for where in _dicts(board):
        ref = where.get("datasource")
        allowed = [{"type": "prometheus", "uid": "${datasource}"}]
        if "iconColor" in where:
            allowed.append({"type": "grafana", "uid": "-- Grafana --"})
        if ref is not None and ref not in allowed:
            yield f"a data source is written into it: {ref}"


def matchers(board):
    """Every selector names a metric that we export, and says of which job and agent."""
    for title, expr in [*expressions(board), *((v["name"], v["query"]) for v in _asking(board))]:
        for name, inner in re.findall(r"\b(homeostat_\w+|up)\b(\{[^}]*\})?", expr):
            if name not in NAMES | {"up"}:
                yield f"{title}: {name} is exported by nobody"
            wanted = _FIRST.get((title, name), {"job", "instance"})
            lacks = [one for one in sorted(wanted) if f'{one}=~"${one}"' not in inner]
            if lacks:
                yield f"{title}: {name} does not say of which {' and '.join(lacks)}"


_FIRST = {
    ("job", "homeostat_build_info"): set(),
    ("instance", "homeostat_build_info"): {"job"},
}


def rates(board):
    """Counters are looked at as rates, over a window that fits the scrapes."""
    about = {p["title"]: p["description"] for p in panels(board)}
    for title, expr in expressions(board):
        for function, window in re.findall(r"(\w+)\([^()]*\[([^\]]+)\]\)", expr):
            if function not in {"rate", "increase", "changes", "max_over_time"}:
                yield f"{title}: {function} over a window"
            if window not in {"$__rate_interval", "$__range"}:
                yield f"{title}: a window of its own: {window}"
        for counter in COUNTERS:
            rated = re.search(rf"(rate|increase|changes)\({counter}\b", expr)
            if re.search(rf"\b{counter}\b", expr) and not rated and ABSOLUTE not in about[title]:
                yield f"{title}: {counter} is no rate, and it does not say `{ABSOLUTE}`"
        if "histogram_quantile" in expr and not re.search(r"by \([^)]*\ble\b", expr):
            yield f"{title}: a quantile without `le`"


def words(board):
    """A person who has never seen it understands each panel: title, unit, description, what no value means."""
    titles = [p["title"] for p in panels(board)]
    for title in {t for t in titles if titles.count(t) > 1}:
        yield f"two panels are called {title}"
    for panel in panels(board):
        yield from (f"{panel['title']}: {fault}" for fault in _of_panel(panel))
    if not board.get("description", "").endswith(".") or "homeostat" not in board["tags"]:
        yield "no description, or not tagged"
    for one in variables(board):
        if not one.get("label") or not one.get("description"):
            yield f"variable {one['name']}: no label or description"


def _of_panel(panel):
    defaults, refs = panel["fieldConfig"]["defaults"], [t["refId"] for t in panel["targets"]]
    text = panel.get("description", "")
    asks = {
        "its title begins small": not panel["title"][:1].isupper(),
        "no description": len(text) < 12 or not text.endswith("."),
        "no unit": defaults.get("unit", "none") in {"", "none"},
        "it does not say what no value means": not defaults.get("noValue"),
        "no panel that every Grafana has": panel["type"] not in KNOWN,
        "it asks nothing": not refs,
        "two queries of one name": len(set(refs)) != len(refs),
    }
    return [fault for fault, there in asks.items() if there]


def grid(board):
    """Ids are unique, nothing overlaps, nothing is wider than the page."""
    ids = [p["id"] for p in board["panels"]]
    if len(set(ids)) != len(ids):
        yield "two panels of one id"
    for p in board["panels"]:
        g = p["gridPos"]
        if g["x"] < 0 or g["x"] + g["w"] > 24 or g["w"] < 1 or g["h"] < 1:
            yield f"{p['title']}: beyond the page"
    for a, b in itertools.combinations(board["panels"], 2):
        g, h = a["gridPos"], b["gridPos"]
        apart = (
            g["x"] + g["w"] <= h["x"] or h["x"] + h["w"] <= g["x"]
            or g["y"] + g["h"] <= h["y"] or h["y"] + h["h"] <= g["y"]
        )  # fmt: skip
        if not apart:
            yield f"{a['title']} and {b['title']} overlap"


def names(board):
    """Every $name is a variable of this board, or Grafana's own; each is used; links lead to boards of ours."""
    known = {v["name"] for v in variables(board)}
    text = json.dumps(board)
    used = set(re.findall(r"\$\{?(\w+)", text))
    for name in sorted(used - known - BUILT_IN):
        yield f"${name} is no variable"
    for name in sorted(known - used):
        yield f"variable {name} is used by nothing"
    for uid, more in re.findall(r'"/d/([\w-]+)\?([^"]*)"', text):
        if uid not in BOARDS:
            yield f"a link leads to {uid}, which is no board"
            continue
        there = {v["name"] for v in variables(BOARDS[uid])}
        for var in re.findall(r"var-(\w+)=", more):
            if var not in there:
                yield f"a link gives {var} to {uid}, which has no such variable"
    for panel in panels(board):
        legends = {t["legendFormat"] for t in panel["targets"]}
        for name in _overridden(panel):
            if panel["type"] == "timeseries" and name not in legends:
                yield f"{panel['title']}: {name} is changed, and nothing is called so"


def uids(board):
    if not re.fullmatch(r"homeostat-[a-z]{2,20}", board["uid"]):
        yield f"{board['uid']} is no uid that stays"
    if board.get("id") is not None:
        yield "an id belongs to one Grafana"


RULES = (datasource, matchers, rates, words, grid, names, uids)


def _dicts(value):
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from _dicts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _dicts(one)


def _asking(board):
    return [v for v in variables(board) if v["type"] == "query"]


def _overridden(panel):
    for one in panel["fieldConfig"].get("overrides", ()):
        if one["matcher"]["id"] == "byName":
            yield one["matcher"]["options"]


# ---------------------------------------------------------------- the boards keep them


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("uid", BOARDS)
def test_boards_keep_the_rules(uid, rule):
    assert list(rule(BOARDS[uid])) == []


def _break(path, value):
    def change(board):
        at = board
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


PANEL = ["panels", 1]
BREAKS = {
    "data source": (datasource, [*PANEL, "datasource"], {"type": "prometheus", "uid": "abc"}),
    "job": (matchers, [*PANEL, "targets", 0, "expr"], 'sum(homeostat_pages_last_week{instance=~"$instance"})'),
    "metric": (matchers, [*PANEL, "targets", 0, "expr"], 'homeostat_x{job=~"$job", instance=~"$instance"}'),
    "window": (rates, [*PANEL, "targets", 0, "expr"], "rate(homeostat_ticks_total{}[5m])"),
    "counter": (rates, [*PANEL, "targets", 0, "expr"], "sum(homeostat_ticks_total{})"),
    "quantile": (rates, [*PANEL, "targets", 0, "expr"], "histogram_quantile(0.5, sum(x))"),
    "unit": (words, [*PANEL, "fieldConfig", "defaults", "unit"], "none"),
    "silence": (words, [*PANEL, "fieldConfig", "defaults", "noValue"], ""),
    "description": (words, [*PANEL, "description"], ""),
    "panel type": (words, [*PANEL, "type"], "grafana-piechart-panel"),
    "id": (grid, [*PANEL, "id"], 3),
    "overlap": (grid, [*PANEL, "gridPos", "w"], 24),
    "variable": (names, [*PANEL, "title"], "Of $nobody"),
    "link": (names, ["links", 1, "url"], "/d/homeostat-nowhere?a"),
    "uid": (uids, ["uid"], "Board 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", BREAKS)
def test_a_board_that_breaks_a_rule_is_told(what):
    rule, path, value = BREAKS[what]
    board = copy.deepcopy(BOARDS["homeostat-fleet"])
    _break(path, value)(board)
    assert list(rule(board))


def test_there_is_a_board_for_each_question():
    assert set(BOARDS) == {
        f"homeostat-{name}"
        for name in ("fleet", "host", "gpu", "models", "drift", "incidents", "agent")
    }
    assert len({b["title"] for b in BOARDS.values()}) == len(BOARDS)


def test_what_is_committed_is_what_the_python_builds():
    main = pytest.importorskip("dashboards.boards.__main__", exc_type=ImportError)
    files = main.built()
    for name, text in files.items():
        assert (FOLDER.parent / name).read_text() == text, "run `make boards`"
    assert {p.name for p in FOLDER.glob("*.json")} == {Path(n).name for n in files if n.endswith(".json")}  # fmt: skip


def test_provisioning_finds_the_boards():
    said = yaml.safe_load((FOLDER.parent / "provisioning" / "homeostat.yaml").read_text())
    (provider,) = said["providers"]
    assert said["apiVersion"] == 1
    assert provider["type"] == "file"
    assert provider["folderUid"] == "homeostat"
    assert provider["options"]["path"].startswith("/var/lib/grafana/")


@pytest.mark.parametrize("uid", BOARDS)
def test_incidents_acts_and_changes_are_drawn_on_every_board(uid):
    drawn = {a["name"]: a for a in BOARDS[uid]["annotations"]["list"]}
    assert {"Incidents", "Acts", "Changes", "Told by homeostat"} <= set(drawn)
    assert drawn["Told by homeostat"]["target"]["tags"] == ["homeostat"]
    links = {link["title"]: link for link in BOARDS[uid]["links"]}
    assert links["homeostat"]["tags"] == ["homeostat"]
    assert links["Console"]["url"] == "${console}/"
