"""What the demo sees of the agent: its HTTP API on loopback, as any person with a browser, and the pages it sent.

Read-only without a token; approving needs one of role operator, which the demo makes as `homeostat token add` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from agent.control import no_tls
from agent.desk.playbooks import PlaybookView
from agent.model import Cause, entity
from agent.views import IncidentDetail, RunView


@dataclass(slots=True)
class Console:
    """A client of one daemon.

    url     http://127.0.0.1:PORT
    pages   file that the page command appends to: one JSON object a page
    token   for approving; "" = look only
    """

    url: str
    pages_file: Path
    token: str = ""
    _http: httpx.Client = field(init=False)
    _incidents: dict[str, IncidentDetail] = field(default_factory=dict)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        self._http = httpx.Client(
            base_url=self.url, timeout=10.0, headers=headers, trust_env=False, verify=no_tls()
        )

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def ready(self) -> bool:
        """Tell whether it watches."""
        try:
            return self._http.get("/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def _get(self, path: str, **query: Any) -> Any:
        """Ask; a daemon that is starved of CPU gets a second try."""
        try:
            answer = self._http.get(path, params=query)
        except httpx.TransportError:
            answer = self._http.get(path, params=query)
        answer.raise_for_status()
        return answer.json()

    def status(self) -> dict[str, Any]:
        """How the agent is."""
        found: dict[str, Any] = self._get("/api/status")
        return found

    def incidents(self) -> list[IncidentDetail]:
        """Every incident with its evidence, resolved ones included; those that are over are asked for once."""
        for short in self._get("/api/incidents", state="all", limit=200):
            known = self._incidents.get(short["id"])
            if known is None or known["state"] != "resolved" or short["state"] != "resolved":
                self._incidents[short["id"]] = self._get(f"/api/incidents/{short['id']}")
        return list(self._incidents.values())

    def runs(self) -> list[RunView]:
        """Every run, step by step."""
        found: list[RunView] = self._get("/api/runs", state="all", limit=200)
        return found

    def playbook(self, id_: str) -> PlaybookView | None:
        """How far a playbook may go, and why; None = it is not loaded."""
        found: list[PlaybookView] = self._get("/api/playbooks")
        return next((one for one in found if one["id"] == id_), None)

    def approve(self, run: RunView) -> None:
        """Say yes to the plan that was shown; raises httpx.HTTPStatusError when it is another one by now."""
        answer = self._http.post(
            f"/api/runs/{run['id']}/approve", json={"plan_hash": run["plan_hash"]}
        )
        answer.raise_for_status()

    def deny(self, run: RunView) -> None:
        """Say no to it; raises httpx.HTTPStatusError when nobody is asked any more."""
        self._http.post(f"/api/runs/{run['id']}/deny", json={}).raise_for_status()

    def pages(self) -> list[dict[str, Any]]:
        """Pages that were really sent, oldest first."""
        if not self.pages_file.exists():
            return []
        text, found, at = self.pages_file.read_text(encoding="utf-8"), [], 0
        decoder = json.JSONDecoder()
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            try:
                note, at = decoder.raw_decode(text, at)
            except json.JSONDecodeError:  # still being written: the next call reads it
                break
            found.append(note)
        return found


def top(incident: IncidentDetail) -> Cause | None:
    """Return the first cause of an incident as a value."""
    for one in incident["causes"][:1]:
        return Cause(
            one["kind"], entity(one["entity"]["id"]), one["probability"],
            others=tuple(entity(e["id"]) for e in one["others"]), facts=one["facts"],
        )  # fmt: skip
    return None
