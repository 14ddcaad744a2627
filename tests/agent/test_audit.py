"""Every kind of entry that the code writes can be found in the record, and says what it says in words."""

import ast
import re
from pathlib import Path

import pytest

from agent import audit
from agent.journal import Entry
from agent.memory import Memory

ROOT = Path(__file__).resolve().parents[2]
WRITES = re.compile(r"(?:record|put|append)\(\s*[\"']")
LEFT_OUT: dict[str, str] = {}
"""Kinds that nobody should have to choose from, each with the reason."""


def written() -> set[str]:
    """Return the kinds that stand as words where something is written: `record("incident", id, body, ...)`."""
    found = set()
    for room in ("agent", "connectors", "dashboards", "detectors", "playbooks"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            if not WRITES.search(text):  # parsing all that there is takes seconds
                continue
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.Call) or len(node.args) < 3:
                    continue
                name = getattr(node.func, "attr", getattr(node.func, "id", "")).lstrip("_")
                kind = getattr(node.args[0], "value", None)
                if name in {"record", "put", "append"} and isinstance(kind, str):
                    found.add(kind)
    return found


def test_every_kind_that_is_written_can_be_chosen_in_the_console():
    page = (ROOT / "dashboards" / "console" / "audit.js").read_text()
    (said,) = re.findall(r"const KINDS = \[(.*?)\];", page)
    listed = re.findall(r'"(\w+)"', said)
    kinds = written()
    assert kinds >= {"incident", "press", "thread", "handoff", "reason", "told", "refused"}
    assert kinds >= set(Memory()._folds)  # else the walk above misses what is written
    assert sorted(listed) == sorted(kinds - LEFT_OUT.keys())


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("press", {"by": "olga", "via": "slack", "what": "approve", "came": "done"}, "approve in slack: done"),
        ("thread", {"channel": "C012", "ts": "1.2", "said": ["a"] * 9}, "is talked about in C012"),
        ("handoff", {"code": "held", "why": "no playbook may act"}, "no playbook may act"),
        ("handoff", {"code": "", "why": ""}, "nobody is needed any more"),
        ("reason", {"by": "olga", "reason": "we tried it twice"}, "we tried it twice"),
        ("snooze", {"by": "olga", "until": 5.0, "reason": ""}, "until 5.0"),
        ("told", {"by": "slack", "sent": {"channel": "", "page": False}}, "people were told"),
        ("told", {"by": "page", "sent": {"channel": "#sre", "page": True}}, "people were called, in #sre"),
        ("told", {"by": "mail", "in": "quiet:mail:1"}, "people were told, together with others (quiet:mail:1)"),
        ("told", {"by": "mail", "withheld": "put off by olga"}, "nobody was told: put off by olga"),
        ("told", {"by": "mail", "gave_up": "older than 6 h"}, "given up: older than 6 h"),
        ("note", {"key": "page:x:0", "ts": 5.0, "severity": "page", "title": "slow", "text": "why", "facts": {}},
         "page: slow: why"),
        ("intent", {"step": "lower", "use": "set_priority", "before": {"nice": 0}}, "lower (set_priority) begins"),
        ("acted", {"step": "lower", "result": {"record": {"summary": "nice is 19"}}}, "lower: nice is 19"),
        ("refused", {"method": "POST", "status": 403, "why": "vic is viewer", "more": 2},
         "POST: vic is viewer (403, 2 more since)"),
    ],
)  # fmt: skip
def test_entries_say_what_they_say_in_words(kind, body, said):
    assert audit.line(Entry(1, 0.0, kind, "x", body, "", ""))["text"] == said
