"""Looks on while the agent works, tells people what happens, and keeps the score of faults and of the quiet.

What is known here of the agent comes over its HTTP API and from the pages it sends; what is known of the service comes
from its clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx
from rich.console import Console as Screen
from rich.live import Live
from rich.text import Text

from agent.demo import card, faults, settings
from agent.demo.console import Console, top
from agent.demo.ground import Ground
from agent.demo.load import DAY_S
from agent.demo.person import Person
from agent.demo.truth import Truth
from agent.model import ENDED, Cause
from agent.views import IncidentDetail, RunView

_HEAL_S: Final = 75.0
_PUT_BACK_S: Final = 50.0
_PERSON_S: Final = 900.0
_LOOK_S: Final = 0.5
_TRUE_S: Final = 4.0
"""Clients must be served within objectives over so many seconds for a fault to count as healed."""
_LONGEST: Final = 170
_TELLING: Final = frozenset({"page", "notify", "collect", "wait"})
"""Verbs that change nothing: pages are counted apart."""


class Broken(Exception):
    """The demo itself can not go on; the message says what failed and where to look."""


def acted(run: RunView) -> bool:
    """Tell whether a run changed the world, or may have."""
    return any(
        step["status"] in {"done", "adopted", "uncertain", "undone"} and step["use"] not in _TELLING
        for step in run["steps"]
    )


def verdict(run: RunView) -> str:
    """Return how it was judged; "" = not yet."""
    return run["outcome"]["verdict"] if run["outcome"] else ""


def serious(incident: IncidentDetail) -> bool:
    """Tell whether it is meant for people now: notes wait in the console."""
    return incident["severity"] != "note"


@dataclass(slots=True)
class Progress:
    """What a person sees: lines that stay, and one line that changes in place on a terminal."""

    screen: Screen
    live: Live | None
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays, with the seconds since the beginning."""
        line = Text.assemble((f"{time.monotonic() - self.began:6.1f} s  ", "dim"), (text, style))
        self.screen.print(line, highlight=False, soft_wrap=True)

    def now(self, text: str) -> None:
        """Change the line in place."""
        if self.live is not None:
            self.live.update(
                Text(f"          {text}", style="dim", no_wrap=True, overflow="ellipsis")
            )


@dataclass(slots=True)
class Play:
    """One run of the demo.

    person   who approves plans; None = the agent acts alone
    """

    ground: Ground
    console: Console
    progress: Progress
    truth: Truth
    latency_s: float
    person: Person | None = None
    incidents: dict[str, IncidentDetail] = field(default_factory=dict)
    runs: dict[str, RunView] = field(default_factory=dict)
    causes: dict[str, Cause] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _told: set[tuple[str, str]] = field(default_factory=set)

    # ---- looking

    def look(self) -> float:
        """Take in what is new of the world and of the agent, tell people; return the time."""
        now = time.time()
        self.truth.look(now)
        if ended := self.ground.dead():
            raise Broken(
                f"{', '.join(ended)} has ended on its own; look into {self.ground.folder / 'run'}"
            )
        try:
            self.incidents = {one["id"]: one for one in self.console.incidents()}
            self.runs = {one["id"]: one for one in self.console.runs()}
        except httpx.TransportError as error:
            self.progress.now(f"the agent does not answer just now: {error}")
            return now
        for incident in self.incidents.values():
            self._tell_incident(incident)
        for run in sorted(self.runs.values(), key=lambda run: run["started"]):
            self._tell_run(run)
        if self.person is not None:
            self.person.look(self.runs, self.incidents)
        return now

    def _once(self, about: str, what: str) -> bool:
        if (about, what) in self._told:
            return False
        self._told.add((about, what))
        return True

    def _tell_incident(self, incident: IncidentDetail) -> None:
        id_, title, life = incident["id"], incident["title"], incident["reopened"]
        if self._once(id_, f"opened{life}"):
            self.progress.say(f"incident ({incident['severity']}): {title}", "yellow")
        cause = top(incident)
        working = any(
            r["incident"] == id_ and r["state"] != "suggested" for r in self.runs.values()
        )
        if cause is not None and not (working and id_ in self.causes):
            # the cause that counts is the one it acted on
            self.causes[id_] = cause
            first = incident["causes"][0]
            self.names[cause.entity.id] = first["entity"]["name"]
            if self._once(id_, f"cause {cause.kind} {cause.entity.id}"):
                self.progress.say(
                    f"  cause: {first['words']}: {cause.kind} on {first['entity']['name']}"
                    + ("" if cause.kind == "unknown" else f", {cause.probability:.0%} sure")
                )
                for one in first["evidence"][:3]:
                    self.progress.say(f"    {one['weight']:+.1f}  {one['text']}", "dim")
        if incident["state"] == "resolved" and self._once(id_, f"resolved{life}"):
            self.progress.say(f"  resolved: {title}", "green")

    def _tell_run(self, run: RunView) -> None:
        for step in run["steps"]:
            if step["status"] != "planned" and self._once(
                run["id"], f"step {step['id']} {step['status']}"
            ):
                said = f"  {run['playbook']}: {step['status']}: {step['summary']}"
                self.progress.say(
                    said if len(said) <= _LONGEST else said[:_LONGEST] + "...", "cyan"
                )
        if run["outcome"] is not None and self._once(run["id"], f"verdict {verdict(run)}"):
            style = "green" if verdict(run) == "helped" else "red"
            self.progress.say(f"  verdict: {verdict(run)}: {run['outcome']['summary']}", style)
        if self._once(run["id"], f"state {run['state']}") and run["state"] in {
            "failed",
            "expired",
            "paused",
        }:
            self.progress.say(f"  {run['playbook']} is {run['state']}: {run['text']}", "red")

    def served_well(self, now: float, since: float) -> bool:
        """Tell whether clients and labels say that all is within objectives, judged on what is newer than `since`."""
        p95 = self.truth.p95(max(since, now - _TRUE_S))
        accuracy = self.truth.accuracy_high(max(since, now - 12.0))
        return (
            p95 is not None and p95 <= self.latency_s
            and accuracy is not None and accuracy >= settings.ACCURACY
        )  # fmt: skip

    def _show(self, name: str, now: float, since: float) -> None:
        p95, accuracy = self.truth.p95(now - 2.0), self.truth.accuracy(now - 6.0)
        self.progress.now(
            f"{name}, {now - since:.0f} s: {self.truth.rate(now - 2.0, now):.0f} requests/s, "
            f"p95 {'?' if p95 is None else f'{p95 * 1000:.0f} ms'}, "
            f"accuracy {'?' if accuracy is None else f'{accuracy:.2f}'}"
        )

    def watch(
        self, name: str, seconds: float, done: Callable[[float], bool] = lambda _: False
    ) -> float | None:
        """Look on until `done(now)`; return that moment, or None when `seconds` were over before."""
        since = time.time()
        while True:
            now = self.look()
            self._show(name, now, since)
            if done(now):
                return now
            if now - since > seconds:
                return None
            time.sleep(max(0.05, _LOOK_S - (time.time() - now)))

    # ---- what happened in a stretch of time

    def opened(self, since: float) -> list[IncidentDetail]:
        """Incidents that opened since then, oldest first."""
        found = [i for i in self.incidents.values() if i["opened"] >= since and serious(i)]
        return sorted(found, key=lambda i: i["opened"])

    def worked(self, since: float) -> list[RunView]:
        """Runs that started since then and changed something, oldest first."""
        found = [r for r in self.runs.values() if r["started"] >= since and acted(r)]
        return sorted(found, key=lambda r: r["started"])

    def settled(self, now: float, since: float) -> bool:
        """Tell whether nothing of the agent is under way any more and all is well."""
        return (
            all(run["state"] in ENDED for run in self.runs.values())
            and all(i["state"] == "resolved" for i in self.incidents.values() if serious(i))
            and self.served_well(now, since)
        )

    # ---- the acts

    def swing(self) -> card.Row:
        """Watch a whole day in which nothing is broken."""
        self.progress.say("healthy swing: a day as any other; nothing is broken", "bold magenta")
        return self.quiet(faults.SWING, DAY_S)

    def quiet(self, name: str, seconds: float) -> card.Row:
        """Watch for some time without breaking anything."""
        row = card.Row(
            name, fault=False, severity="traffic and mix follow the day", expected="none"
        )
        since = time.time()
        self.watch(name, seconds)
        self._count(row, since, harmless=False)
        row.verdict = "left alone" if not row.acts and not row.pages else ""
        return row

    def fault(self, fault: faults.Fault) -> card.Row:
        """Break it, watch it being healed, and put the world in order again."""
        row = card.Row(fault.name, severity=fault.severity, expected=fault.cause)
        self.progress.say(f"{fault.name}: {fault.severity}", "bold magenta")
        asked = time.time()
        since = fault.start(self.ground)
        limit = _PERSON_S if self.person else _HEAL_S

        def healed(now: float) -> bool:
            helped = [r for r in self.worked(asked) if verdict(r) == "helped"]
            if not helped:
                return False
            done = [s["ended"] for r in helped for s in r["steps"] if s["ended"] is not None]
            return self.served_well(now, max(done, default=now))

        at = self.watch(fault.name, limit, healed)
        row.healed_s = at - since if at is not None else None
        if at is not None:
            self.progress.say(
                f"  healed after {at - since:.1f} s, as clients and labels see it too", "bold green"
            )
        else:
            self.progress.say(f"  not healed within {limit:.0f} s", "bold red")
        cleared = time.time()
        fault.clear(self.ground)
        back = self.watch(
            f"after {fault.name}", _PUT_BACK_S, lambda now: self.settled(now, cleared)
        )
        row.put_back_s = back - cleared if back is not None else None
        fault.end(self.ground)
        self._name(row, fault, asked, since)
        self._count(row, asked, harmless=True)
        if back is None:
            row.said = "not settled: " + self._unsettled()
            self.progress.say(f"  {row.said}", "red")
        return row

    def _name(self, row: card.Row, fault: faults.Fault, asked: float, since: float) -> None:
        found = self.opened(asked)
        if not found:
            return
        row.detected_s = max(0.0, found[0]["opened"] - since)
        # what it acted on counts; without an act, what it said of the first incident
        acting = [r["incident"] for r in self.worked(asked)]
        ids = [*acting, *(i["id"] for i in found)]
        cause = next((self.causes[i] for i in ids if i in self.causes), None)
        if cause is not None:
            row.cause, row.blamed = cause.kind, self.names.get(cause.entity.id, cause.entity.id)
            row.probability = cause.probability
            row.cause_right = fault.right(cause)

    def _count(self, row: card.Row, since: float, *, harmless: bool) -> None:
        """Count acts, pages and refusals since then; `harmless`: acts were called for."""
        runs = self.worked(since)
        row.acts = [run["playbook"] for run in runs]
        row.verdict = ", ".join(verdict(run) for run in runs if verdict(run))
        row.harmful = sum(verdict(run) == "harmed" for run in runs)
        named = {i for i, cause in self.causes.items() if cause.kind == row.expected}
        row.wrong = [r["playbook"] for r in runs if not harmless or r["incident"] not in named]
        pages = [
            p for p in self.console.pages() if float(p["ts"]) >= since and p["severity"] == "page"
        ]
        row.pages = len(pages)
        about = {str(p.get("incident", "")) for p in pages}
        true = about & named if harmless else set()
        row.false_pages = len(about) - min(1, len(true))
        decisions = [d for i in self.incidents.values() for d in i["decisions"] if d["ts"] >= since]
        row.refused = card.count_refusals(decisions)

    def _unsettled(self) -> str:
        runs = [
            f"{r['playbook']} {r['state']}" for r in self.runs.values() if r["state"] not in ENDED
        ]
        left = [
            i["title"] for i in self.incidents.values() if i["state"] != "resolved" and serious(i)
        ]
        return ", ".join([*runs, *left]) or "the service is outside its objectives"
