"""Incidents of ours as alerts in Alertmanager, and its silences read in our words.

An alert is `HomeostatIncident` with labels that stay while its incident lives: `incident`, `severity`, and the label of
whom it is about. Where the severity rises it is another alert, and the one before ends. Alertmanager lets an alert end
that is not sent again: every minute all of them are, each time for five more. Which are going is kept on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent.model import Severity, entity
from agent.news import moment
from agent.ports import Mute, Note
from connectors._kept import Kept

INCIDENT: Final = "HomeostatIncident"
TEST: Final = "HomeostatNote"
OURS: Final = frozenset({INCIDENT, TEST, "HomeostatAlive"})
"""Alerts that are ours: they come back through a webhook of a route that catches all, and tell us nothing."""
RESEND_S: Final = 60.0
_LASTS_S: Final = 300.0
_RANK: Final[Mapping[str, int]] = {"note": 0, "warning": 1, "page": 2}
_OVER: Final = frozenset({"resolved", "merged"})
_MOST_TEXT: Final = 1000
_KEY: Final = re.compile(r".* \[([^\[\]]+)\]", re.DOTALL)
_PLAIN: Final = re.compile(r"[\w.\-/:*@ ]+")
"""What is left of a pattern that we can read as a glob."""


class AlertBook:
    """The alerts that are going: incident -> alerts as they are sent, those that ended until that was heard.

    labels   kind of entity -> label that holds its key
    """

    def __init__(self, path: Path | None, labels: Mapping[str, str]) -> None:
        self._kept = Kept(path)
        self._labels = labels
        self._alerts: dict[str, list[dict[str, Any]]] = dict(self._kept.found)

    def take(self, note: Note, now: float) -> None:
        """Begin, go on with or end the alert of an incident."""
        going = self._alerts.setdefault(note.incident, [])
        live = [a for a in going if "endsAt" not in a]
        if note.event in _OVER or note.facts.get("state") == "resolved":
            for alert in live:
                alert["endsAt"] = moment(now)
        else:
            was = max((_RANK[a["labels"]["severity"]] for a in live), default=-1)
            if _RANK[note.severity] > was:
                for alert in live:
                    alert["endsAt"] = moment(now)
                live = [self._new(note, now)]
                going += live
            for alert in live:
                alert["annotations"] = self._said(note) | {
                    "summary": alert["annotations"]["summary"]
                }
        self._keep()

    def sent(self, now: float, incident: str = "") -> list[dict[str, Any]]:
        """Return the alerts of an incident, or all, as they have to be sent now."""
        until = moment(now + _LASTS_S)
        some = [self._alerts.get(incident, [])] if incident else self._alerts.values()
        return [{"endsAt": until, **alert} for going in some for alert in going]

    def forget(self, alert: Mapping[str, Any]) -> None:
        """Let an alert go that is not taken."""
        incident = alert["labels"]["incident"]
        left = [a for a in self._alerts.get(incident, []) if a["labels"] != alert["labels"]]
        self._alerts = {**self._alerts, incident: left}
        self.heard([])

    def heard(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Forget what has ended, once that was taken."""
        over = [a["labels"] for a in alerts]
        for incident, going in list(self._alerts.items()):
            left = [a for a in going if "endsAt" not in a or a["labels"] not in over]
            if left:
                self._alerts[incident] = left
            else:
                del self._alerts[incident]
        self._keep()

    def __len__(self) -> int:
        return sum("endsAt" not in a for going in self._alerts.values() for a in going)

    def _keep(self) -> None:
        self._kept.write(self._alerts, clean=True)

    def _new(self, note: Note, now: float) -> dict[str, Any]:
        labels = {"alertname": INCIDENT, "incident": note.incident, "severity": note.severity}
        about = note.facts.get("about", "")
        if about:
            whom = entity(about)
            labels |= {"entity": about, self._labels.get(whom.kind, whom.kind): whom.key}
        out: dict[str, Any] = {
            "labels": labels, "startsAt": note.facts.get("began") or moment(min(note.ts, now)),
            "annotations": {"summary": note.title or note.text[:_MOST_TEXT]},
        }  # fmt: skip
        if note.link.startswith(("http://", "https://")):
            out["generatorURL"] = note.link
        return out

    @staticmethod
    def _said(note: Note) -> dict[str, str]:
        wanted = ("cause", "cause_of", "cause_probability", "because", "state")
        facts = {name: note.facts[name][:_MOST_TEXT] for name in wanted if note.facts.get(name)}
        return {**facts, "description": note.text[:_MOST_TEXT]} if note.text else facts


def test_alert(note: Note, now: float) -> dict[str, Any]:
    """Return a note that is of no incident as an alert that ends by itself."""
    return {
        "labels": {"alertname": TEST, "severity": note.severity},
        "annotations": {"summary": note.title, "description": note.text[:_MOST_TEXT]},
        "startsAt": moment(min(note.ts, now)), "endsAt": moment(now + _LASTS_S),
    }  # fmt: skip


# ---- silences


def glob_pattern(glob: str) -> str:
    """Return a glob as a pattern of RE2, which is anchored there."""
    return "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in glob)


def is_silence(one: Any) -> bool:
    """Tell whether this is a silence as Alertmanager tells it."""
    if not isinstance(one, dict) or not isinstance(one.get("status"), dict):
        return False
    told = [
        one["status"].get("state"),
        *(one.get(k) for k in ("id", "comment", "createdBy", "endsAt")),
    ]
    matchers = one.get("matchers")
    return (
        all(isinstance(text, str) for text in told)
        and isinstance(matchers, list)
        and all(isinstance(m, dict) and {"name", "value", "isRegex"} <= m.keys() for m in matchers)
    )


def mutes_of(
    silences: Sequence[Mapping[str, Any]], labels: Mapping[str, str], when: Any
) -> Iterator[Mute]:
    """Yield silences in our words: those of ours by their key, those of people by their targets.

    Of people only those that are about targets alone: one for a single alert, or that excepts something, says less
    than hands off.
    """
    for one in silences:
        state = one["status"]["state"]
        found = _KEY.fullmatch(one["comment"])
        key = found[1] if found else ""
        active = state == "active"
        targets = () if key or not active else tuple(_targets(one["matchers"], labels))
        if key or targets:
            yield Mute(
                one["id"], key, targets, when(one["endsAt"]), str(one["createdBy"])[:100],
                str(one["comment"])[:200], active=active,
            )  # fmt: skip


def _targets(matchers: Sequence[Mapping[str, Any]], labels: Mapping[str, str]) -> Iterator[str]:
    kinds = {label: kind for kind, label in labels.items()}
    about = []
    for one in matchers:
        if not one.get("isEqual", True):
            return
        if one["name"] == "alertname" and one["value"] == INCIDENT:
            continue
        about.append(one)
    if len(about) != 1 or about[0]["name"] not in kinds:
        return
    kind, value = kinds[about[0]["name"]], str(about[0]["value"])
    parts = _alternatives(value) if about[0]["isRegex"] else [re.sub(r"[*?\[]", "", value)]
    for part in parts or ():
        key = re.sub(r":\d+$", "", part) if kind == "host" else part
        if key:
            yield f"{kind}:{key}"


def _alternatives(pattern: str) -> list[str] | None:
    """Return a pattern as globs, where it is words, `.*` and `|`; None = it is more than that."""
    text = pattern.removeprefix("^").removesuffix("$")
    text = text.replace("(:[0-9]+)?", "").replace("(:\\d+)?", "")
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1].removeprefix("?:")
    text = re.sub(r"\\([^\w])", r"\1", text.replace(".*", "*").replace(".+", "*"))
    parts = text.split("|")
    return parts if all(_PLAIN.fullmatch(p) for p in parts) else None


def severities(wanted: Sequence[Severity], note: Note) -> bool:
    """Tell whether a note is for Alertmanager: of an incident, of these severities, or the end of one."""
    if not note.incident or not wanted:
        return False
    if note.event in _OVER:
        return True  # it may have been of another severity before
    return note.severity in wanted and note.event in {
        "",
        "opened",
        "reopened",
        "relapsed",
        "acknowledged",
    }
