"""How answers look in a terminal: calm tables, the important first; no colour where nobody can see it."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from agent.units import many, say, say_duration
from agent.views import rate_words
from agent.why import SPARKS

_MOST_SIGNALS: Final = 5
_INDENT: Final = 10
_COLOUR: Final = {
    "page": "bold red", "warning": "yellow", "note": "default", "open": "default", "resolved": "green",
    "fresh": "green", "blind": "bold red", "waiting": "default", "helped": "green", "no_effect": "yellow",
    "harmed": "bold red", "cannot_tell": "yellow", "waiting_approval": "bold yellow",
    "suggested": "bold yellow", "acting": "cyan", "verifying": "cyan", "holding": "cyan", "failed": "red",
    "done": "green", "adopted": "green", "refused": "red", "uncertain": "bold yellow",
}  # fmt: skip


def _console() -> Console:
    # into a pipe or a file: wide lines, nothing folded. Names and words of others may look like markup: [kworker/0:1]
    return Console(
        highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 200
    )


def _word(word: str) -> Text:
    return Text(word.replace("_", " "), style=_COLOUR.get(word, "default"))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(
            name, no_wrap=name in {"id", "since", "state", "severity"}, overflow="fold"
        )
    return table


def _ago(ts: float | None) -> str:
    return "never" if ts is None else f"{say_duration(max(0.0, time.time() - ts))} ago"


def status(said: Any) -> None:
    """Show the whole in one look."""
    out = _console()
    counts, budget = said["counts"], said["budget"]
    for p in said["paused"]:
        what = "everything" if p["key"] == "*" else p["key"]
        out.print(
            Text(
                f"PAUSED  {what}, by {p['by'] or 'the file PAUSED'} {p['reason']}".rstrip(),
                style="bold yellow",
            )
        )
    up = say_duration(said["now"] - said["started"])
    host = said["host"] or "no host yet"
    out.print(f"{host}  mode {said['mode']}, version {said['version']}, up {up}")
    harm = many(counts["page"], "harms users", "harm users")
    open_ = many(counts["open"], "open incident") + (f", {harm}" if counts["page"] else "")
    waits = many(counts["runs_asking"], "run waits for you", "runs wait for you")
    asking = f"; {waits}" if counts["runs_asking"] else ""
    out.print(Text(open_ + asking, style="bold red" if counts["page"] else "default"))
    within = "within" if budget["within"] else "ABOVE"
    out.print(
        f"false pages this week: {budget['false_last_week']} of {many(budget['pages_last_week'], 'page')}, "
        f"{within} the budget of {budget['promised_per_week']:g}"
    )
    out.print(f"  measured: {rate_words(budget['pages'])}")
    out.print(f"console notes: {rate_words(budget['notes'])}")
    anomalies = f"abnormal series: {rate_words(budget['anomalies'])}"
    if budget["tightness"] < 1:
        anomalies += f"; tightened, they must be {1 / budget['tightness']:.2g} times rarer"
    out.print(anomalies)
    for s in budget["signals"][:_MOST_SIGNALS]:
        times = (
            f"{1 / s['factor']:.2g} times rarer"
            if s["factor"] < 1
            else f"{s['factor']:.2g} times more common"
        )
        out.print(
            Text(
                f"  labels: {s['signal']} {'must' if s['factor'] < 1 else 'may'} be {times}",
                style="dim",
            )
        )
    if len(budget["signals"]) > _MOST_SIGNALS:
        rest = many(len(budget["signals"]) - _MOST_SIGNALS, "more signal")
        out.print(Text(f"  and {rest}", style="dim"))
    for c in budget["causes"][:_MOST_SIGNALS]:
        out.print(Text(f"  {c['text']}", style="dim"))
    for fault in said["faults"]:
        out.print(Text(f"mend: {fault}", style="red"))
    for hint in said["hints"]:
        out.print(Text(hint, style="yellow"))
    table = _table("source", "state", "last", "series", "learning", "")
    for s in said["sources"]:
        learns = s["learning"]
        learning = (
            ""
            if not learns or learns["ready"]
            else f"ready in {say_duration(learns['ready_in_s'])}"
        )
        age = "" if s["age_s"] is None else say_duration(s["age_s"])
        said_of = s["error"] or (
            f"{many(s['impossible'], 'impossible value')}, taken as unknown"
            if s["impossible"]
            else ""
        )
        table.add_row(s["name"], _word(s["state"]), age, str(s["series"]), learning, said_of)
    out.print(table)
    cost = said["usage"]
    if cost.get("rss_bytes"):
        cpu = cost["cpu_seconds"] / max(1.0, cost.get("uptime_seconds", 1.0))
        ram, share = say(cost["rss_bytes"], "bytes"), f"{cpu * 100:.1f} % of a core"
        kept = f"journal: {many(said['journal_entries'], 'entry', 'entries')}"
        out.print(Text(f"costs {ram} of memory, {share}; {kept}", style="dim"))


def incidents(found: Sequence[Any]) -> None:
    """Show a list of incidents."""
    out = _console()
    if not found:
        out.print("no open incidents; with --all also those that are over")
        return
    table = _table("id", "since", "severity", "state", "what", "cause")
    for i in found:
        cause = (
            f"{i['cause']} {100 * i['probability']:.0f} %" if i["probability"] is not None else ""
        )
        state = _word(i["state"])
        if i["snoozed_until"]:
            state.append(", put off")
        elif i["needs"] and not i["acknowledged_by"]:
            state.append(", needs you", style="bold")
        table.add_row(i["id"], _ago(i["opened"]), _word(i["severity"]), state, i["title"], cause)
    out.print(table)


def why(said: Any) -> None:
    """Show the answer to why: the first word of each line tells what it is; long lines go on under their text."""
    out = _console()
    first, *rest = said["text"]
    out.print(Text(first, style="bold"))
    for line in rest:
        head, colon, tail = _drawable(line).partition(":")
        rows = wrap(tail.strip(), max(20, out.width - _INDENT), break_long_words=False) or [""]
        text = Text().append(f"{head}{colon}".ljust(_INDENT), style="dim")
        text.append(f"\n{' ' * _INDENT}".join(rows), style="bold" if head == "Cause" else None)
        out.print(text, soft_wrap=True)


def _drawable(line: str) -> str:
    """Draw small charts with letters where the terminal has no blocks."""
    if "utf" in (sys.stdout.encoding or "").lower():
        return line
    return line.translate(str.maketrans(SPARKS + "·", "_.,-~=*#'"))


def forecasts(found: Sequence[Any], *, everything: bool) -> None:
    """Show what fills and when it is full."""
    out = _console()
    shown = [f for f in found if everything or f["median_s"] is not None]
    if shown:
        table = _table("full in", "80 %", "now", "limit", "what", "whose", "told")
        for f in shown:
            table.add_row(
                _full_in(f), _interval(f), say(_or_nan(f["value"]), f["unit"]),
                say(f["limit"], f["unit"]), f["title"], f["entity"]["name"], _word(f["told"]),
            )  # fmt: skip
        out.print(table)
    unknown = sum(f["state"] == "unknown" for f in found)
    quiet = len(found) - len(shown) - (0 if everything else unknown)
    if not found:
        out.print("nothing that fills has been looked at yet")
    elif not everything:
        out.print(Text(f"{quiet} more are not full within their horizon", style="dim"))
        if unknown:
            out.print(Text(f"{unknown} can not be told, see why with --all", style="dim"))


def _full_in(f: Any) -> str:
    if f["state"] == "unknown":
        return str(f["why"])
    if f["median_s"] is None:
        return f"not within {say_duration(f['horizon_s'])}"
    return "now" if f["state"] == "full" else say_duration(f["median_s"])


def _interval(f: Any) -> str:
    if f["low80_s"] is None:
        return ""
    high = "far more" if f["high80_s"] is None else say_duration(f["high80_s"])
    return f"{say_duration(f['low80_s'])} to {high}"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def playbooks(found: Sequence[Any]) -> None:
    """Show how far playbooks may go, why, and how they turned out, those with a record first."""
    out = _console()
    if not found:
        out.print("no playbooks are loaded, and none has a record")
        return
    table = _table(
        "playbook", "mode", "runs", "helped", "no effect", "harmed", "can not tell", "at least", ""
    )
    for p in sorted(found, key=lambda p: (-p["record"]["harmed"], -p["record"]["runs"], p["id"])):
        said = "; ".join(p["why"])
        table.add_row(p["id"], p["mode"], *_counts(p["record"]), Text(said, style="yellow"))
        for name, tally in p["groups"].items():
            mode = "" if tally["mode"] == p["mode"] else tally["mode"]
            harm = "" if tally["harm"] in said else tally["harm"]
            table.add_row(
                Text(f"  {name}", style="dim"), mode, *_counts(tally), Text(harm, style="yellow")
            )
    out.print(table)


def _counts(tally: Any) -> list[Text]:
    told = [
        Text(str(tally[v] or ""), style=_COLOUR[v])
        for v in ("helped", "no_effect", "harmed", "cannot_tell")
    ]
    sure = "" if tally["success"] is None else f"{tally['success']:.0%}"
    return [Text(str(tally["runs"] or "")), *told, Text(sure)]


def runs(found: Sequence[Any]) -> None:
    """Show a list of runs."""
    out = _console()
    if not found:
        out.print("no runs")
        return
    table = _table("id", "since", "state", "verdict", "playbook", "target")
    for r in found:
        verdict = _word(r["outcome"]["verdict"]) if r["outcome"] else Text("")
        table.add_row(
            r["id"],
            _ago(r["started"]),
            _word(r["state"]),
            verdict,
            r["playbook"],
            r["target"]["name"],
        )
    out.print(table)


def run(r: Any) -> None:
    """Show one run, step by step."""
    out = _console()
    out.print(Text(f"{r['id']}  {r['title']}", style="bold"))
    out.print(
        f"on {r['target']['name']} for {r['incident']}, {r['state'].replace('_', ' ')} ({_ago(r['started'])})"
    )
    if r["text"]:
        out.print(r["text"])
    table = _table("step", "status", "what")
    for s in r["steps"]:
        kept = " (put back later)" if s["temporary"] else ""
        table.add_row(f"{s['id']}: {s['use']}", _word(s["status"]), (s["summary"] or "") + kept)
    out.print(table)
    for one in r["expect"]:
        out.print(f"proven by  {one}")
    if r["outcome"]:
        o = r["outcome"]
        text = Text("verdict  ")
        text.append_text(_word(o["verdict"])).append(
            f": {o['summary']}" + (", undone" if o["undone"] else "")
        )
        out.print(text)
    for g in r["gates"]:
        if not g["passed"] and g["value"] != r["id"]:  # that it is at work itself is no news
            out.print(
                Text(
                    f"gate {g['name']}: {g['reason'] or g['value']} (limit {g['limit']})",
                    style="yellow",
                )
            )
    if r["approve"] and r["approve"]["expires"]:
        left = max(0.0, r["approve"]["expires"] - time.time())
        out.print(f"asks for a yes of {r['approve']['by']} within {say_duration(left)}")


WOULD: Final = {
    "would": "dry run: ", "refused": "REFUSED: ", "unknown": "NO ANSWER: ", "later": "later: ",
}  # fmt: skip


def dry_run(said: Any) -> None:
    """Show what each step would do."""
    out = _console()
    for one in said:
        out.print(Text(f"{one['id']} ({one['use']})", style="bold"))
        out.print(Text(f"  {WOULD[one['status']]}{one['text']}"))


def plan(p: Any) -> None:
    """Show what would be done, and what the guard says to it."""
    out = _console()
    why = f" for {p['incident']} ({p['cause']})" if p["incident"] else ""
    out.print(Text(f"{p['title']}  ({p['playbook']} on {p['target']['name']}{why})", style="bold"))
    table = _table("step", "with", "undo")
    for s in (*p["steps"], *p["then"]):
        given = ", ".join(f"{k} {v}" for k, v in s["params"].items())
        back = "put back later" if s["temporary"] else "can be put back" if s["undo"] else "stays"
        asks = f", asks {s['asks']} first" if s["asks"] else ""
        table.add_row(f"{s['id']}: {s['use']}", given, back + asks)
    out.print(table)
    for one in p["expect"]:
        out.print(f"proven by  {one}")
    for g in p["gates"]:
        if not g["passed"]:
            out.print(
                Text(
                    f"gate {g['name']}: {g['reason'] or g['value']} (limit {g['limit']})",
                    style="yellow",
                )
            )
    if p["allowed"]:
        out.print(
            f"Yes:   homeostat playbook run {p['playbook']} {p['target']['id']} --yes {p['hash'][:8]}"
        )
    else:
        out.print(f"it can not be started: {p['closed']}")


def topology(said: Any) -> None:
    """Show the graph as trees: what stands below something is what it needs."""
    out = _console()
    nodes = {n["id"]: n for n in said["nodes"]}
    if not nodes:
        out.print("nothing is known yet")
        return
    below: dict[str, list[tuple[str, str, Any]]] = {}
    above: set[str] = set()
    for e in said["edges"]:
        words, up, down = _sense(e)
        below.setdefault(up, []).append((words, down, e))
        above.add(down)
    shown: set[str] = set()
    # who nobody needs stands first; what is left then stands in a circle
    roots = [i for i in nodes if i not in above]
    for root in [*roots, *nodes]:
        if root not in shown:
            tree = Tree(_node(nodes[root], ""), guide_style="dim")
            _grow(tree, root, nodes, below, shown)
            out.print(tree)
    if said["left_out"]:
        out.print(Text(f"and {said['left_out']} more; ask for the part around one", style="dim"))


def _sense(e: Any) -> tuple[str, str, str]:
    """Return how an edge reads from the one that needs to the one that is needed."""
    if e["kind"] == "serves" and e["dst"].startswith("service:"):
        return "served by", e["dst"], e["src"]
    if e["kind"] == "serves" and e["src"].startswith("replica:"):
        return "on", e["dst"], e["src"]
    if e["kind"] in {"version_of", "feeds"}:
        return {"version_of": "in", "feeds": "fed by"}[e["kind"]], e["dst"], e["src"]
    return e["kind"].replace("_", " "), e["src"], e["dst"]


def _node(n: Any, words: str) -> Text:
    text = Text(f"{words} " if words else "", style="dim")
    if n["kind"] not in n["name"]:
        text.append(f"{n['kind']} ", style="dim")
    text.append(n["name"], style="default")
    if n["state"] in {"page", "warning", "note"}:
        text.append(f"  {n['state']} {n['incident']}", style=_COLOUR[n["state"]])
    elif n["state"] == "silent":
        text.append("  silent", style="dim")
    if n["suspect"]:
        text.append("  suspect", style="bold yellow")
    if n["attrs"].get("version"):
        text.append(f"  {n['attrs']['version']}", style="dim")
    return text


def _grow(
    tree: Tree, at: str, nodes: Any, below: dict[str, list[tuple[str, str, Any]]], shown: set[str]
) -> None:
    shown.add(at)
    for words, down, edge in below.get(at, ()):
        text = _node(nodes[down], words)
        carries = [
            f"{say(edge['carries'][k], unit)} {word}"
            for k, unit, word in (("requests", "per_second", ""), ("errors", "per_second", "fail"))
            if k in edge["carries"]
        ]
        if carries:
            text.append(f"  {', '.join(c.strip() for c in carries)}", style="cyan")
        told = ", ".join(w["source"] for w in edge["sources"] if w["source"])
        text.append(f"  ({told})" if told else "", style="dim")
        if down in shown and below.get(down):
            text.append(" as above", style="dim")
        branch = tree.add(text)
        if down not in shown:
            _grow(branch, down, nodes, below, shown)


def changes(found: Sequence[Any]) -> None:
    """Show what was changed."""
    out = _console()
    if not found:
        out.print("no changes are known")
        return
    table = _table("since", "what", "of", "from", "to", "by", "")
    for c in found:
        who = Text(c["by"], style="cyan" if c["ours"] else "default")
        more = " ".join(x for x in (c["text"], c["url"]) if x)
        table.add_row(
            _ago(c["ts"]), c["kind"], c["entity"]["name"], c["before"], c["after"], who, more
        )
    out.print(table)


def silences(found: Sequence[Any]) -> None:
    """Show silences."""
    out = _console()
    if not found:
        out.print("nothing is silenced")
        return
    table = _table("id", "target", "cause", "ends in", "by", "reason")
    for s in found:
        left = say_duration(max(0.0, s["until"] - time.time()))
        table.add_row(s["id"], s["target"], s["cause"] or "any", left, s["by"], s["reason"])
    out.print(table)


def windows(found: Sequence[Any]) -> None:
    """Show maintenance windows."""
    out = _console()
    if not found:
        out.print("no maintenance window: see `maintenance:` of agent.yaml")
        return
    table = _table("window", "from", "to", "lasts", "", "covers", "reason")
    for w in found:
        zone = ZoneInfo(w["timezone"]) if w["timezone"] else None
        begins, ends = (
            datetime.fromtimestamp(w[k], UTC).astimezone(zone).strftime("%a %Y-%m-%d %H:%M %Z")
            for k in ("start", "end")
        )
        covers = ", ".join(f"{m['kind']}:{m.get('key', '*')}" for m in w["scope"]) or "everything"
        here = "open" if w["open"] else f"in {say_duration(max(0.0, w['start'] - time.time()))}"
        lasts = say_duration(w["end"] - w["start"])
        table.add_row(w["name"], begins, ends, lasts, here, covers, w["reason"])
    out.print(table)


def pauses(found: Sequence[Any]) -> None:
    """Show what stands still."""
    out = _console()
    if not found:
        out.print("nothing is paused")
    for p in found:
        what = "everything" if p["key"] == "*" else p["key"]
        by = f" by {p['by']}" if p["by"] else ""
        out.print(f"paused: {what}{by}" + (f" ({p['reason']})" if p["reason"] else ""))


def tokens(found: Sequence[Any]) -> None:
    """Show tokens."""
    out = _console()
    if not found:
        out.print("no tokens; make one with: homeostat token add NAME --role operator")
        return
    table = _table("name", "role", "models", "made")
    for t in found:
        table.add_row(t["name"], t["role"], ", ".join(t["models"]), _ago(t["created"]))
    out.print(table)


def check(said: Any) -> None:
    """Show what a config will do."""
    out = _console()
    out.print(f"{said['config'] or 'built-in defaults'}: no faults")
    manages = (
        ", ".join(f"{m['kind']}:{m.get('key', '*')}" for m in said["manages"])
        or "nothing: it only watches"
    )
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("watches", ", ".join(said["connectors"]))
    table.add_row("services", ", ".join(said["services"]) or "none")
    table.add_row("objectives", str(said["objectives"]))
    table.add_row("mode", f"{said['mode']} at most")
    table.add_row("acts on", manages)
    b = said["budget"]
    table.add_row(
        "budget",
        f"{b['pages_per_week']:g} false page{'s' * (b['pages_per_week'] != 1)} a week; from it "
        f"{b['notes_per_day']:.2g} console note{'s' * (b['notes_per_day'] != 1)} a day, "
        f"{b['anomalies_per_series_day']:.2g} abnormal times a series and day",
    )
    table.add_row("console", f"http://{said['listen']}/")
    out.print(table)
    if said["playbooks"]:
        list_ = _table("playbook", "may", "for cause", "")
        for p in said["playbooks"]:
            list_.add_row(p["id"], p["mode"], p["cause"], p["title"])
        out.print(list_)


def tried(said: Any, most: int | None) -> None:
    """Show what a source sees and may do."""
    out = _console()
    for line in said["says"]:
        out.print(line)
    series = said["series"]
    if series:
        took = say(said["poll_s"], "seconds")
        known = sum(1 for s in series if s["value"] is not None)
        out.print(f"{len(series)} series, {known} with a value, one reading takes {took}")
        table = _table("series", "value", "means")
        for s in series[:most]:
            table.add_row(s["series"], s["said"], s["means"])
        out.print(table)
        if most is not None and len(series) > most:
            out.print(f"and {len(series) - most} more, see them with --all")
    elif said["poll_s"] is not None:
        out.print("it answers, and sees nothing here")
    for what, n in said["records"].items():
        out.print(f"{n} {what} in the log")
    for one in said["models"]:
        _rows_of(out, one, most)
    for path in said["ways_in"]:
        out.print(f"takes POST {path}")
    for one in said["seen"][: most or None]:
        attrs = ", ".join(f"{k}={v}" for k, v in one["attrs"].items())
        out.print(
            Text(f"{one['entity']}  {attrs}  {'; '.join(one['edges'])}".rstrip(), style="dim")
        )
    out.print("may: " + (", ".join(said["may"]) if said["may"] else "nothing, it only watches"))


def _rows_of(out: Console, one: Any, most: int | None) -> None:
    """Show the rows of one version of a model: its columns, and what each check waits for."""
    version = f" version {one['version']}" if one["version"] else ""
    labels = f", {many(one['labels'], 'label')}" if one["labels"] else ""
    out.print(f"\nmodel:{one['model']}{version}: {many(one['rows'], 'row')} accepted{labels}")
    if one["columns"]:
        columns(one["columns"], most)
    table = _table("check", "", "")
    for c in one["checks"]:
        table.add_row(c["check"], "ready" if c["ready"] else "waits for", c["text"])
    out.print(table)


def columns(guesses: Sequence[Any], most: int | None = None) -> None:
    """Show the roles of columns, how sure they are, and why."""
    out = _console()
    table = _table("column", "role", "sure", "why")
    for c in guesses[:most]:
        sure = "said" if c["confidence"] == 1 else f"{c['confidence']:.0%}"
        table.add_row(c["column"], c["role"], sure, c["reason"])
    out.print(table)
    if most is not None and len(guesses) > most:
        out.print(f"and {len(guesses) - most} more, see them with --all")
