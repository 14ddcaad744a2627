"""A post-mortem of an incident, in Markdown: what happened, why, what was done about it, and what is still open.

    IncidentDetail + Said + ChartViews -> head, summary, timeline, hurt, causes, acts, charts, open ends -> text

Everything in it was recorded while it happened; nothing is made up afterwards, and what is unknown is called so. What a
person rejects is not stated as the cause. What people wrote (reasons, titles, names) is escaped: it can not pass for a
heading, a link or a table. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import Final
from urllib.parse import quote

from typing_extensions import TypedDict

from agent import views
from agent.causes import words
from agent.said import NOTHING, US, Doubted, Row, Said
from agent.units import many, say, say_duration
from agent.views import CauseView, ChartView, EvidenceView, IncidentDetail, RunView
from agent.why import run_words, spark

_MOST_SEEN: Final = 12
"""Series that a timeline names one by one; the rest is counted."""
_SPARK_POINTS: Final = 60
_MARKS: Final = re.compile(r"([\\`*_{}\[\]<>#|~])")


class ReportView(TypedDict):
    """A post-mortem: the text, and the charts that pictures can be made of."""

    id: str
    title: str
    markdown: str
    charts: list[ChartView]


def post_mortem(
    detail: IncidentDetail,
    charts: Sequence[ChartView],
    now: float,
    said: Said = NOTHING,
    *,
    picture: str = "",
    zone: tzinfo | None = None,
) -> str:
    """Return the report as Markdown (CommonMark with tables).

    now      unix seconds at which it is written
    said     what people said of it, and were told of it
    picture  where the picture of the charts is, as a link says it; without one they are drawn in text
    zone     of the times in it; None = that of this host
    """
    at = _Clock(zone, detail["opened"])
    parts = [
        f"# {_safe(detail['title'])}",
        _head(detail, now, at),
        *_part("What happened", [_summary(detail, said.doubted, now)]),
        *_part("Timeline", _timeline(detail, said.rows, at)),
        *_part("Who was hurt", [f"- {_safe(e['name'])} ({e['kind']})" for e in detail["hurts"]]),
        *_part("Why", _causes(detail, said.doubted)),
        *_part("What was done", _acts(detail, at)),
        *_part("Evidence", _charts(charts, picture)),
        *_part("Still open", [f"- [ ] {line}" for line in _open_ends(detail, said.doubted)]),
        f"*Written by homeostat at {at.full(now)} from what was recorded; incident {detail['id']}.*",
    ]
    return "\n\n".join(parts) + "\n"


class _Clock:
    """Times as one zone writes them, with the day only where it is not the one on which it began."""

    def __init__(self, zone: tzinfo | None, began: float) -> None:
        self._zone = zone
        self._day = self._when(began).date()

    def _when(self, ts: float) -> datetime:
        return datetime.fromtimestamp(ts).astimezone(self._zone)

    def short(self, ts: float) -> str:
        when = self._when(ts)
        return when.strftime("%H:%M:%S" if when.date() == self._day else "%Y-%m-%d %H:%M:%S")

    def full(self, ts: float) -> str:
        return self._when(ts).isoformat(sep=" ", timespec="seconds")


def _safe(text: str) -> str:
    """Escape what Markdown would read as more than words; series are named as people name them."""
    return _MARKS.sub(r"\\\1", " ".join(views.plainly(text).split()))


def _part(title: str, lines: Sequence[str]) -> list[str]:
    """Return a section, or nothing when there is nothing to say."""
    return [f"## {title}", "\n".join(lines)] if lines else []


# ---------------------------------------------------------------- head


def _head(detail: IncidentDetail, now: float, at: _Clock) -> str:
    over = detail["resolved"]
    lasted = say_duration((now if over is None else over) - detail["opened"])
    label = detail["labelled"]
    rows = {
        "incident": detail["id"],
        "severity": detail["severity"],
        "state": detail["state"],
        "began": at.full(detail["opened"]),
        "ended": at.full(over) if over is not None else "not yet",
        "lasted": lasted if over is not None else f"{lasted} so far",
        "came back": many(detail["reopened"], "time") if detail["reopened"] else "",
        "taken by": detail["acknowledged_by"] or "nobody",
        "part of": detail["merged_into"],
        "with it": ", ".join(detail["absorbed"]),
        "people said": f"{label['label']}, by {label['by']}" if label else "",
    }
    said = [f"| {name} | {_safe(value)} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "|---|---|", *said])


def _rejected(top: CauseView | None, doubted: Doubted | None) -> bool:
    """Tell whether a person says that what stands first is not the cause."""
    if top is None or doubted is None:
        return False
    return (top["kind"], top["entity"]["name"]) == (doubted.wrong, doubted.of)


def _summary(detail: IncidentDetail, doubted: Doubted | None, now: float) -> str:
    hurt = ", ".join(e["name"] for e in detail["hurts"][:3])
    top = detail["causes"][0] if detail["causes"] else None
    said = [f"{detail['title']}" + (f"; it hurt {hurt}." if hurt else ".")]
    if top is None:
        said.append("It was not diagnosed.")
    elif top["kind"] == "unknown":
        said.append("No cause was found that the evidence carries.")
    else:
        sure = f"{100 * top['probability']:.0f} % sure"
        doubt = ", low confidence" if detail["low_confidence"] else ""
        named = f"{top['words']}: {top['entity']['name']} ({sure}{doubt})"
        if doubted is not None and _rejected(top, doubted):
            said.append(f"homeostat named as cause {named}; {_instead(doubted)}.")
        else:
            said.append(f"The cause: {named}.")
    acted = [r for r in detail["run_views"] if _acted(r)]
    if acted:
        said.append("What was done: " + "; ".join(run_words(r) for r in acted) + ".")
    else:
        said.append("Nothing was done by homeostat.")
    if detail["resolved"] is not None:
        said.append(f"It was over after {say_duration(detail['resolved'] - detail['opened'])}.")
    else:
        said.append(f"It goes on, for {say_duration(max(0.0, now - detail['opened']))} so far.")
    return _safe(" ".join(said))


def _acted(run: RunView) -> bool:
    return any(s["status"] in {"done", "adopted", "undone", "uncertain"} for s in run["steps"])


# ---------------------------------------------------------------- timeline


def _timeline(detail: IncidentDetail, people: Sequence[Row], at: _Clock) -> list[str]:
    rows = sorted(
        (*_seen(detail), *_changed(detail), *_turned(detail), *_ran(detail), *people), key=_when
    )
    said = [f"| {at.short(ts)} | {_safe(who)} | {_safe(what)} |" for ts, who, what in rows]
    return ["| when | who | what |", "|---|---|---|", *said] if said else []


def _when(row: Row) -> float:
    return row[0]


def _seen(detail: IncidentDetail) -> Iterator[Row]:
    shown = detail["anomalies"][:_MOST_SEEN]
    for a in shown:
        harm = " (harm)" if a["harm"] else ""
        yield a["onset"], "", f"{a['text']}{harm}"
        if a["end"] is not None:
            yield a["end"], "", f"{a['title']} of {a['entity']['name']} is ordinary again"
    rest = len(detail["anomalies"]) - len(shown) + detail["more"]
    if rest:
        yield max(a["onset"] for a in shown), "", f"{rest} more series were abnormal"


def _changed(detail: IncidentDetail) -> Iterator[Row]:
    for c in detail["changes"]:
        link = f", {c['url']}" if c["url"] else ""
        who = c["by"] or (US if c["ours"] else "")
        yield c["ts"], who, f"changed: {views.change_words({**c, 'by': ''})}{link}"


def _turned(detail: IncidentDetail) -> Iterator[Row]:
    for t in detail["turns"]:
        yield t["ts"], t["by"], t["event"] + (f": {t['why']}" if t["why"] else "")


def _ran(detail: IncidentDetail) -> Iterator[Row]:
    for run in detail["run_views"]:
        what = f"{run['playbook']} on {run['target']['name']} ({run['mode']})"
        yield run["started"], run["by"] or US, what
        for s in run["steps"]:
            if s["ended"] is not None:
                what = f"{run['playbook']}: {s['summary'] or s['use']} [{s['status']}]"
                yield s["ended"], US, what
        if run["outcome"] is not None:
            yield run["updated"], "", run_words(run)


# ---------------------------------------------------------------- why


def _instead(doubted: Doubted) -> str:
    """Say what a person says of the cause."""
    if doubted.right:
        return f"a person says it was {doubted.right} ({words(doubted.right)})"
    return "a person says that this was not it"


def _denied(doubted: Doubted) -> str:
    """Say whole what a person says of the cause, and who."""
    named = f"{doubted.wrong} of {doubted.of}"
    whose = doubted.by + (f": {doubted.note}" if doubted.note else "")
    if doubted.right:
        it = f"{doubted.right} ({words(doubted.right)})"
        return f"A person says it was {it}, not {named} ({whose})."
    return f"A person says that it was not {named} ({whose})."


def _causes(detail: IncidentDetail, doubted: Doubted | None) -> list[str]:
    lines: list[str] = []
    if doubted is not None:
        lines += [_safe(_denied(doubted)), ""]
    if not detail["causes"]:
        return [*lines, "No diagnosis was made."]
    for n, c in enumerate(detail["causes"], 1):
        doubt = ", which a person rejects" if _rejected(c, doubted) else ""
        lines.append(f"{n}. **{_safe(_cause(c))}**{doubt}")
        lines += [f"   - {_reason(e)}" for e in c["evidence"]]
    if detail["rejected"]:
        lines += ["", "Looked at and rejected:", ""]
        lines += [f"- {_safe(_cause(c))}: {_why_not(c)}" for c in detail["rejected"]]
    if detail["logs_of"]:
        where = ", ".join(_safe(e["name"]) for e in detail["logs_of"])
        lines += ["", f"Logs to read: {where}."]
    if detail["traces"]:
        lines += ["", f"Requests that failed or were slow: {_safe(', '.join(detail['traces']))}."]
    return lines


def _cause(c: CauseView) -> str:
    if c["kind"] == "unknown":
        return f"{c['words']} ({100 * c['probability']:.0f} %)"
    return f"{c['words']}: {c['entity']['name']} ({c['kind']}, {100 * c['probability']:.0f} %)"


def _reason(e: EvidenceView) -> str:
    side = "for it" if e["weight"] > 0 else "against it" if e["weight"] < 0 else "beside it"
    return f"{_safe(e['text'])} ({side}, {abs(e['weight']):.1f})"


def _why_not(c: CauseView) -> str:
    said = [e["text"] for e in c["evidence"] if e["weight"] < 0]
    return _safe("; ".join(said) or "too little speaks for it")


# ---------------------------------------------------------------- acts


def _acts(detail: IncidentDetail, at: _Clock) -> list[str]:
    lines: list[str] = []
    for run in detail["run_views"]:
        if views.only_suggested(run):
            continue
        lines += [f"### {_safe(run['title'])} ({run['id']})", ""]
        lines += [_safe(run_words(run)) + ".", ""]
        if run["steps"]:
            lines += ["| step | verb | became | what |", "|---|---|---|---|"]
            lines += [
                f"| {_safe(s['id'])} | {_safe(s['use'])} | {s['status']} | {_safe(s['summary'])} |"
                for s in run["steps"]
            ] + [""]  # fmt: skip
        if run["outcome"] is not None and run["outcome"]["against"]:
            lines += [f"Compared with: {_safe(run['outcome']['against'])}.", ""]
        if run["gates"] and all(g["passed"] for g in run["gates"]):
            passed = ", ".join(f"{g['name']} {g['value']}".strip() for g in run["gates"])
            lines += [f"Gates it passed: {_safe(passed)}.", ""]
    held = [d for d in detail["decisions"] if not d["allowed"]]
    if held:
        lines += ["Held back by the guard:", ""]
        for d in held:
            gate = next((g for g in d["gates"] if not g["passed"]), None)
            why = f"{gate['name']}: {gate['reason'] or gate['value']}" if gate else "the guard"
            about = f"{d['playbook']} on {d['target']['name']}"
            lines.append(f"- {at.short(d['ts'])} {_safe(about)}, {_safe(why)}")
    return lines[:-1] if lines and not lines[-1] else lines


def _charts(charts: Sequence[ChartView], picture: str) -> list[str]:
    drawn = [c for c in charts if any(v is not None for v in c["data"][1])]
    lines = [f"![What was measured]({quote(picture)})", ""] if picture and drawn else []
    for c in drawn:
        _, values = c["data"]
        known = [v for v in values if v is not None]
        low, high = say(min(known), c["unit"]), say(max(known), c["unit"])
        lines += [f"**{_safe(c['title'])} of {_safe(c['subject'])}**, from {low} to {high}", ""]
        if not picture:
            lines += ["```text", spark(_thinned(values)), "```", ""]
    return lines[:-1]


def _thinned(values: Sequence[float | None]) -> list[float | None]:
    """Return at most so many values, the largest of each stretch: a peak must not vanish."""
    step = -(-len(values) // _SPARK_POINTS) or 1
    stretches = (values[i : i + step] for i in range(0, len(values), step))
    return [max((v for v in one if v is not None), default=None) for one in stretches]


# ---------------------------------------------------------------- open ends


def _open_ends(detail: IncidentDetail, doubted: Doubted | None) -> Iterator[str]:
    """Say what a person should still do: each line follows from the record."""
    id_, into = detail["id"], detail["merged_into"]
    if into:
        yield f"It became part of {into}: `homeostat report {into}`"
        return
    if detail["resolved"] is None:
        yield f"It is not over: `homeostat why {id_}`"
    if detail["severity"] == "page" and not detail["acknowledged_by"]:
        yield "It paged, and nobody said that they have it"
    top = detail["causes"][0] if detail["causes"] else None
    rejected = _rejected(top, doubted)
    kind = doubted.right if doubted is not None and rejected else top["kind"] if top else ""
    if kind in {"", "unknown"}:
        yield "The cause is not known: what would have shown it?"
    elif not detail["run_views"]:
        yield f"No playbook acted on {kind}: should one?"
    if rejected and any(_acted(run) for run in detail["run_views"]):
        yield "It acted on a cause that a person rejects: was what it did right?"
    for run in detail["run_views"]:
        yield from _left_by(run)
    if detail["labelled"] is None:
        yield f"Was it right to tell it? `homeostat label {id_} real` (or noise)"


def _left_by(run: RunView) -> Iterator[str]:
    """Say what a run leaves to people."""
    if run["outcome"] is not None and run["outcome"]["verdict"] == "harmed":
        yield (
            f"{_safe(run['playbook'])} did harm: look at it before it may act again, then "
            f"`homeostat reinstate {run['playbook']}`"
        )
    if any(s["status"] == "uncertain" for s in run["steps"]):
        yield f"Run {run['id']} can not say whether a step happened: look at its target"
    if run["asks"]:
        yield f"Run {run['id']} waits for an answer: `homeostat approve {run['id']}`"
