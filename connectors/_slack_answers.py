"""What can be asked in Slack and changes nothing: views of the desk, said in a few lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import Refused
from agent.meant import NotThere
from agent.units import many, say
from agent.views import ChartView
from agent.why import run_words, spark
from connectors import _slack_blocks as blocks
from connectors._slack_words import Line

if TYPE_CHECKING:
    from agent.desk import Desk

_MOST_ROWS: Final = 15
_BETWEEN: Final = frozenset({"and", "vs", "vs.", "with", "against", "to"})
_MOST_MOVED: Final = 10
HELP: Final = (
    "*What I understand* (add `share` and everybody sees the answer)",
    "`status` · `incidents` · `why [INCIDENT]` · `why-not PLAYBOOK TARGET [2h ago]` · `runs` · `playbooks`",
    "`ack INCIDENT` · `mute INCIDENT for 2h` · `page INCIDENT` · `noise INCIDENT` · `real INCIDENT`",
    "`approve RUN` · `deny RUN` · `undo RUN` · `run PLAYBOOK TARGET` shows the plan first · `answer ID name=value`",
    "`dry-run RUN` · `dry-run PLAYBOOK TARGET` asks each step what it would do; nothing is done",
    "`silence TARGET for 2h because we deploy` · `silence TARGET until 18:00` · `unsilence ID`",
    "`pause [TARGET]` · `resume [TARGET]` · `mode PLAYBOOK suggest`",
    "`graph METRIC [TARGET] since yesterday` · `drift MODEL` · `compare MODEL A B`",
    "Ids may be shortened, names be given in part. Times are on your clock.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said. charts: to be drawn, with a title; changed: an incident of which the message is to be edited."""

    text: str
    made: blocks.Blocks | None = None
    charts: Sequence[ChartView] = ()
    changed: str = ""


class Answers:
    """Answers to who may see.

    pictures   whether charts are drawn
    """

    def __init__(self, desk: Desk, *, pictures: bool) -> None:
        self._desk = desk
        self._pictures = pictures

    def to(self, line: Line) -> Answer | None:
        """Answer a line; None = it is no question. Raises what the desk raises."""
        found = self._questions().get(line.verb)
        if line.verb in {"help", "hello", "hi", "?"}:
            return Answer("What I understand", blocks.text(HELP))
        return None if found is None else found(line)

    def verbs(self) -> Sequence[str]:
        """Return what can be asked."""
        return ("help", *self._questions())

    def _questions(self) -> Mapping[str, Callable[[Line], Answer]]:
        return {
            "status": self._status, "incidents": self._incidents, "why": self._why, "why-not": self._why_not,
            "runs": self._runs, "playbooks": self._playbooks, "graph": self._graph, "drift": self._drift,
            "compare": self._compare,
        }  # fmt: skip

    def incident_meant(self, text: str) -> str:
        """Return the incident of a word; none = the one that is open, when it is only one."""
        if text:
            return self._desk.incident(text)["id"]
        open_ = self._desk.incidents()
        if len(open_) == 1:
            return open_[0]["id"]
        raise Refused(
            "which one? "
            + ("; ".join(f"`{i['id']}` {i['title']}" for i in open_[:5]) or "none is open")
        )

    def run_meant(self, text: str) -> str:
        """Return the run of a word; none = the one that asks, when it is only one."""
        if text:
            return self._desk.run(text)["id"]
        asking = [r for r in self._desk.runs(everything=False) if r["asks"]]
        if len(asking) == 1:
            return asking[0]["id"]
        raise Refused(
            "which one? "
            + ("; ".join(f"`{r['id']}` {r['title']}" for r in asking[:5]) or "none asks")
        )

    def _status(self, line: Line) -> Answer:
        del line
        s = self._desk.status()
        c, budget = s["counts"], s["budget"]
        blind = [x["name"] for x in s["sources"] if x["state"] == "blind"]
        learning = sum(1 for x in s["sources"] if x["learning"] and not x["learning"]["ready"])
        open_ = (
            f"{c['open']} open ({', '.join(many(c[s], s) for s in ('page', 'warning', 'note'))})"
            if c["open"]
            else "none open"
        )
        paused = ", ".join("everything" if p["key"] == "*" else p["key"] for p in s["paused"])
        return plain(
            f"*homeostat on {s['host']}*: {'watching' if s['ready'] else 'starting'}, mode {s['mode']}",
            f"Incidents: {open_}",
            f"Runs: {c['runs_live']} at work, {many(c['runs_asking'], 'asks', 'ask')} for a yes",
            f"Pages last week: {budget['pages_last_week']}, false {budget['false_last_week']} "
            f"(promised at most {budget['promised_per_week']:g})",
            f"Eyes: {many(len(s['sources']), 'source')}" + (f", {learning} still learning" if learning else "")
            + (f"; *blind*: {', '.join(blind)}" if blind else ", none blind"),
            f"*Paused*: {paused}" if paused else "",
            *(f"*Fault*: {fault}" for fault in s["faults"][:5]),
        )  # fmt: skip

    def _incidents(self, line: Line) -> Answer:
        found = self._desk.incidents(everything=_all(line), limit=_MOST_ROWS)
        if not found:
            return Answer("No incident is open.")
        rows = [
            f"`{i['id']}` {'✅' if i['state'] == 'resolved' else i['severity']} {i['title']}"
            + (f": {i['cause_words']}" if i["cause"] and i["cause"] != "unknown" else "")
            + (f" ({i['acknowledged_by'].partition(' (')[0]} has it)" if i["acknowledged_by"] else "")
            for i in found
        ]  # fmt: skip
        return plain(*rows)

    def _why(self, line: Line) -> Answer:
        id_ = self.incident_meant(line.words[0] if line.words else "")
        told = self._desk.why(id_)["text"]
        return Answer("\n".join(told), blocks.text(blocks.escaped("\n".join(told)), code=True))

    def _why_not(self, line: Line) -> Answer:
        if len(line.words) < 2:
            raise Refused(
                "write it like `why-not PLAYBOOK TARGET` or `why-not PLAYBOOK TARGET 2h ago`"
            )
        when = f"{line.since:.3f}" if line.since is not None else ""
        told = self._desk.why_not(" ".join(line.words[:-1]), line.words[-1], when)["text"]
        return Answer("\n".join(told), blocks.text(blocks.escaped("\n".join(told)), code=True))

    def _runs(self, line: Line) -> Answer:
        found = self._desk.runs(everything=_all(line), limit=_MOST_ROWS)
        if not found:
            return Answer("No run is at work or asks for a yes; `runs all` shows what was.")
        return plain(*(f"`{r['id']}` {run_words(r)}" for r in found))

    def _playbooks(self, line: Line) -> Answer:
        del line
        rows = [
            f"`{p['id']}` {p['title']}: *{p['mode']}*" + (f" ({p['why'][0]})" if p["why"] else "")
            for p in self._desk.playbooks()
        ]
        return plain(*rows) if rows else Answer("No playbook is loaded.")

    def _graph(self, line: Line) -> Answer:
        if not line.words:
            raise Refused(
                "write it like `graph host.cpu_busy_ratio since 2h` or `graph latency wine since yesterday`"
            )
        start = f"{line.since:.3f}" if line.since is not None else "1h"
        chart = self._desk.chart(self._series(line.words), start)
        known = [v for v in chart["data"][1] if v is not None]
        if not known:
            return Answer(f"{chart['title']} of {chart['subject']} has no value there.")
        step = max(1, math.ceil(len(chart["data"][1]) / 40))
        drawn = spark(chart["data"][1][::step])
        low, high, last = (say(v, chart["unit"]) for v in (min(known), max(known), known[-1]))
        text = f"{chart['title']} of {chart['subject']}\n{drawn}\nnow {last}, lowest {low}, highest {high}"
        return Answer(text, charts=(chart,) if self._pictures else ())

    def _series(self, words: Sequence[str]) -> str:
        """Return the series that is meant by a metric, or words of its name, and perhaps whose it is."""
        known = sorted({s.metric for s in self._desk.hooks.series()})
        metric, whose = words[0], words[1:]
        if metric.partition("{")[0] not in known:
            for used in range(len(words), 0, -1):  # as many words as there is a name for
                part = "_".join(words[:used]).lower().replace(" ", "_")
                near = [m for m in known if part in m]
                if near:
                    break
            if len(near) > 1:
                raise Refused(
                    f"{' '.join(words[:used])} may be {len(near)} metrics; write one of {', '.join(near[:8])}"
                )
            metric, whose = (near[0], words[used:]) if near else (metric, whose)
        if not whose or "{" in metric:
            return metric
        kind, text = metric.partition(".")[0], " ".join(whose)
        try:  # whoever has such a metric is meant before others of that name
            return f"{metric}{{{self._desk.meant(f'{kind}:{text}').id}}}"
        except NotThere:
            return f"{metric}{{{self._desk.meant(text).id}}}"

    def _drift(self, line: Line) -> Answer:
        model = line.words[0] if line.words else ""
        small = {m["model"].lower(): m["model"] for m in self._desk.models("")}
        rows: list[str] = []
        for m in self._desk.models(small.get(model.lower(), model)):
            moved = [f for f in (*m["features"], *m["outputs"]) if f["drifted"] or f["broken"]]
            accuracy = m["accuracy"]["value"]
            said = f", accuracy {100 * accuracy:.1f} %" if accuracy is not None else ""
            serving = ", ".join(v["version"] for v in m["serving"]) or "none"
            rows.append(
                f"*{m['model']}* version {serving}{said}: "
                + (f"{len(moved)} moved" if moved else "as it was used to be")
            )
            rows += [
                f"• {f['name']}: {f['broken'] or 'drifted'}"
                + (f", PSI {f['psi']:.2f}" if f["psi"] is not None else "")
                for f in moved[:10]
            ]
            rows += [f"• suspect {s['cause']}: {s['reason']}" for s in m["suspects"][:3]]
        return plain(*rows) if rows else Answer("No rows of any model were seen.")

    def _compare(self, line: Line) -> Answer:
        words = [w for w in line.words if w.lower() not in _BETWEEN]
        if len(words) != 3:
            raise Refused("write it like `compare MODEL 3 4`")
        found = self._desk.compare(*words)
        return plain(
            f"*{words[0]}*, version {found['b']} against {found['a']}: *{found['verdict']}*",
            found["said"],
        )


def _all(line: Line) -> bool:
    return "all" in {w.lower() for w in line.words}


def plain(*lines: str) -> Answer:
    """Return lines whose stars and ticks are meant."""
    some = [blocks.escaped(line) for line in lines if line]
    return Answer(
        blocks.cut(" ".join(lines).replace("*", "").replace("`", ""), 300), blocks.text(some)
    )
