"""Entries of the journal as documents of the Elastic Common Schema, each with an id that is always the same.

    incident -> its state (the newest wins), and each turn of its life as an event
    run      -> its state with steps, gates and verdict, and its verdict as an event
    decision, change, note, and what people said (pause, silence, label, ...) -> an event each

Indices are named by the time of what they hold (`homeostat-events-2026.11`), so a document that is sent again comes to
the same index, whenever that is. Pure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from agent import __version__
from agent.causes import words
from agent.journal import Entry
from agent.model import ENDED

ECS: Final = "8.17.0"
PEOPLE: Final = frozenset({
    "pause", "resume", "silence", "label", "reinstate", "reply", "token", "daemon", "snooze", "correction",
    "mode", "reason", "press",
})  # fmt: skip
"""Entries that become an event as they are."""
_SEVERITY: Final[Mapping[str, int]] = {"page": 73, "warning": 47, "note": 21}
_OUTCOME: Final[Mapping[str, str]] = {
    "helped": "success", "no_effect": "failure", "harmed": "failure", "cannot_tell": "unknown",
}  # fmt: skip
_MOST: Final = 50
"""Of causes, evidence, series and the like in one document."""
_TEXT: Final = 2000


@dataclass(frozen=True, slots=True)
class Document:
    """One document. version: of a state, of which the newest wins; None = an event, made once."""

    index: str
    id: str
    source: Mapping[str, Any]
    version: int | None = None

    def line(self) -> bytes:
        """Return it as one line, for the spool."""
        return json.dumps(
            [self.index, self.id, self.version, self.source], ensure_ascii=False
        ).encode()

    @staticmethod
    def of(line: bytes) -> Document:
        """Read such a line; raises ValueError."""
        index, id_, version, source = json.loads(line)
        return Document(index, id_, source, version)

    def action(self) -> dict[str, Any]:
        """Return its line of action in a bulk request."""
        meta: dict[str, Any] = {"_index": self.index, "_id": self.id}
        if self.version is None:
            return {"create": meta}
        return {"index": {**meta, "version": self.version, "version_type": "external"}}


class Writer:
    """Makes documents. prefix: of the indices; agent: who writes, part of every id."""

    def __init__(self, prefix: str, agent: str) -> None:
        self._prefix = prefix
        self._agent = agent

    def of(self, entry: Entry) -> Iterator[Document]:
        """Yield what an entry says."""
        body = entry.body
        if entry.kind == "incident":
            yield self._incident(entry)
            for turn in body["turns"]:
                yield self._turn(body, turn)
        elif entry.kind == "run":
            yield self._run(entry)
            if body["outcome"] and body["state"] in ENDED:
                yield self._verdict(body)
        elif entry.kind == "decision":
            yield self._decision(entry)
        elif entry.kind == "change":
            yield self._change(entry)
        elif entry.kind == "note":
            yield self._event(
                entry.hash, body["ts"], "note", "told", message=_cut(f"{body['title']}: {body['text']}"),
                homeostat={"incident": {"id": body["incident"], "severity": body["severity"]}},
            )  # fmt: skip
        elif entry.kind in PEOPLE:
            more: dict[str, Any] = {"homeostat": {"about": entry.subject, "facts": _flat(body)}}
            if body.get("by"):
                more["user"] = {"name": str(body["by"])}
            yield self._event(entry.hash, entry.ts, entry.kind, entry.kind, **more)

    def base(self, ts: float, dataset: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return what all documents have."""
        return {
            "@timestamp": iso(ts), "ecs": {"version": ECS}, "tags": ["homeostat"],
            "event": {"module": "homeostat", "dataset": f"homeostat.{dataset}", **event},
            "observer": {
                "vendor": "homeostat", "product": "homeostat", "type": "aiops", "name": self._agent,
                "version": __version__,
            },
        }  # fmt: skip

    def index(self, name: str, ts: float, *, daily: bool = False) -> str:
        """Return the index of a moment: one a month, or one a day."""
        form = "%Y.%m.%d" if daily else "%Y.%m"
        return f"{self._prefix}-{name}-{datetime.fromtimestamp(ts, UTC).strftime(form)}"

    def id(self, key: str) -> str:
        """Return the id of what is called so here."""
        return hashlib.sha256(f"{self._agent}\0{key}".encode()).hexdigest()[:32]

    # ---- states

    def _incident(self, entry: Entry) -> Document:
        body = entry.body
        said = body["diagnosis"] or {}
        causes = [_cause(c) for c in said.get("causes", ())[:_MOST]]
        last = body["turns"][-1] if body["turns"] else {"event": "opened"}
        event = {
            "kind": "alert", "type": ["info"], "action": last["event"], "start": iso(body["opened"]),
            "severity": _SEVERITY.get(body["severity"], 0), "sequence": entry.seq, "id": body["id"],
        }  # fmt: skip
        if body["resolved"] is not None:
            event["end"] = iso(body["resolved"])
        if causes:
            event["reason"] = _cut(f"{causes[0]['said']} ({causes[0]['entity']})")
        entities = [_name(e) for e in body["entities"]]
        ours = {
            "id": body["id"], "state": body["state"], "severity": body["severity"],
            "opened": iso(body["opened"]), "updated": iso(body["updated"]), "reopened": body["reopened"],
            "entities": entities[:_MOST], "causes": causes, "anomalies": len(body["anomalies"]) + body["more"],
            "rejected": [_cause(c) for c in said.get("rejected", ())[:_MOST]],
            "series": [_series(a["series"]) for a in body["anomalies"]][:_MOST], "runs": list(body["runs"])[:_MOST],
            "turns": [{**t, "ts": iso(t["ts"]), "why": _cut(t["why"])} for t in body["turns"]],
            "merged_into": body["merged_into"] or None, "absorbed": list(body["absorbed"])[:_MOST],
            "resolved": None if body["resolved"] is None else iso(body["resolved"]),
            "about": _name(body["about"]) if body["about"] else None,
        }  # fmt: skip
        source = self.base(body["updated"], "incident", event) | {
            "message": _cut(body["title"]), "homeostat": {"incident": _kept(ours)}, **_whom(body["entities"]),
        }  # fmt: skip
        if body["traces"]:
            source["trace"] = {"id": body["traces"][0]}
        index = self.index("incidents", body["opened"])
        return Document(index, self.id(f"incident:{body['id']}"), source, entry.seq)

    def _run(self, entry: Entry) -> Document:
        body = entry.body
        outcome = body["outcome"] or {}
        event = {
            "kind": "event", "type": ["change"], "action": body["state"], "start": iso(body["started"]),
            "sequence": entry.seq, "id": body["id"],
        }  # fmt: skip
        if body["state"] in ENDED:
            event["end"] = iso(body["updated"])
            event["duration"] = round((body["updated"] - body["started"]) * 1e9)
        if outcome:
            event["outcome"] = _OUTCOME.get(outcome["verdict"], "unknown")
        steps = [
            {
                "id": s["id"], "use": s["use"], "status": s["status"], "summary": _cut(s["summary"]),
                "started": iso(s["started"]), "ended": iso(s["ended"]),
            }
            for s in body["steps"]
        ]  # fmt: skip
        gates = [
            {
                k: g[k] if k == "passed" else _cut(g[k])
                for k in ("name", "passed", "value", "limit", "reason")
            }
            for g in body.get("gates", ())
        ]
        ours = self._of_run(body) | {
            "state": body["state"], "mode": body["mode"], "started": iso(body["started"]), "steps": steps,
            "updated": iso(body["updated"]), "plan_hash": body["plan_hash"], "gates": gates,
        }  # fmt: skip
        source = self.base(body["updated"], "run", event) | {
            "message": _cut(outcome.get("summary") or body["text"]), "homeostat": {"run": _kept(ours)},
            **_whom([body["target"]]),
        }  # fmt: skip
        index = self.index("runs", body["started"])
        return Document(index, self.id(f"run:{body['id']}"), source, entry.seq)

    @staticmethod
    def _of_run(body: Mapping[str, Any]) -> dict[str, Any]:
        outcome = body["outcome"] or {}
        return {
            "id": body["id"], "playbook": body["playbook"], "target": _name(body["target"]),
            "incident": body["incident"], "verdict": outcome.get("verdict"), "against": outcome.get("against"),
            "undone": outcome.get("undone"), "well": outcome.get("well"), "numbers": outcome.get("numbers"),
        }  # fmt: skip

    # ---- events

    def _event(self, key: str, ts: float, dataset: str, action: str, **more: Any) -> Document:
        event = {"kind": "event", "type": ["info"], "action": action, **more.pop("event", {})}
        return Document(
            self.index("events", ts), self.id(key), self.base(ts, dataset, event) | more
        )

    def _turn(self, body: Mapping[str, Any], turn: Mapping[str, Any]) -> Document:
        key = f"turn:{body['id']}:{turn['event']}:{turn['ts']:.3f}"
        ours = {"id": body["id"], "state": turn["state"], "severity": body["severity"]}
        said = f"{body['title']}: {turn['event']} by {turn['by']}"
        said += f": {turn['why']}" if turn["why"] else ""
        return self._event(
            key, turn["ts"], "incident", turn["event"], message=_cut(said),
            homeostat={"incident": ours}, user={"name": turn["by"]}, **_whom(body["entities"]),
            event={"severity": _SEVERITY.get(body["severity"], 0)},
        )  # fmt: skip

    def _verdict(self, body: Mapping[str, Any]) -> Document:
        outcome = body["outcome"]
        return self._event(
            f"verdict:{body['id']}", body["updated"], "verdict", outcome["verdict"], message=_cut(outcome["summary"]),
            homeostat={"run": _kept(self._of_run(body))}, **_whom([body["target"]]),
            event={"outcome": _OUTCOME.get(outcome["verdict"], "unknown")},
        )  # fmt: skip

    def _decision(self, entry: Entry) -> Document:
        body = entry.body
        stopped = [g for g in body["gates"] if not g["passed"]]
        said = (
            "allowed"
            if body["allowed"]
            else "; ".join(f"{g['name']}: {g['reason']}" for g in stopped)
        )
        ours = {
            "playbook": body["playbook"], "target": _name(body["target"]), "incident": body["incident"],
            "mode": body["mode"], "allowed": body["allowed"], "stopped_by": [g["name"] for g in stopped],
            "gates": [{k: g[k] if k == "passed" else _cut(g[k]) for k in g} for g in body["gates"]],
        }  # fmt: skip
        return self._event(
            entry.hash, body["ts"], "decision", "allowed" if body["allowed"] else "denied",
            message=_cut(f"{body['playbook']} on {ours['target']}: {said}"), homeostat={"decision": ours},
            **_whom([body["target"]]),
        )  # fmt: skip

    def _change(self, entry: Entry) -> Document:
        body = entry.body
        ours = {
            "entity": _name(body["entity"]), "kind": body["kind"], "before": body["before"], "after": body["after"],
        }  # fmt: skip
        moved = f": {body['before']} -> {body['after']}" if body["before"] or body["after"] else ""
        more: dict[str, Any] = {"user": {"name": body["by"]}} if body["by"] else {}
        return self._event(
            entry.hash, body["ts"], "change", body["kind"], homeostat={"change": _kept(ours)},
            message=_cut(f"{body['kind']} of {ours['entity']}{moved}"), **more, **_whom([body["entity"]]),
            event={"type": ["change"], **({"url": body["url"]} if body["url"] else {})},
        )  # fmt: skip


def iso(ts: float) -> str:
    """Return a moment as Elasticsearch writes it."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _cut(text: str) -> str:
    return text[:_TEXT]


def _kept(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: said for name, said in facts.items() if said is not None}


def _name(one: Mapping[str, str]) -> str:
    return f"{one['kind']}:{one['key']}"


def _series(one: Mapping[str, Any]) -> str:
    labels = "".join(f",{k}={v}" for k, v in one["labels"])
    return f"{one['metric']}{{{_name(one['entity'])}{labels}}}"


def _cause(one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": one["kind"], "said": words(one["kind"]), "entity": _name(one["entity"]),
        "probability": one["probability"] or 0.0, "because": [_cut(e["text"]) for e in one["evidence"][:_MOST]],
    }  # fmt: skip


def _whom(entities: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the fields of the schema that name entities: the first service and host, and all hosts."""
    hosts = [e["key"] for e in entities if e["kind"] == "host"]
    services = [e["key"] for e in entities if e["kind"] == "service"]
    services += [e["key"].rpartition("/")[0] for e in entities if e["kind"] == "replica"]
    out: dict[str, Any] = {}
    if hosts:
        out["host"] = {"name": hosts[0]}
        out["related"] = {"hosts": hosts[:_MOST]}
    if services:
        out["service"] = {"name": services[0]}
    return out


def _flat(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is no object, as texts: a flattened field takes nothing else."""
    return {
        k: _cut(v if isinstance(v, str) else json.dumps(v)) for k, v in body.items()
        if v is not None and not isinstance(v, dict)
    }  # fmt: skip
