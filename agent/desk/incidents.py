"""Incidents: what is open and why, the report of one, and who has taken it."""

from __future__ import annotations

from typing import Final

from agent import views
from agent.authority import Person
from agent.codec import pack
from agent.desk.charts import Charts
from agent.desk.labels import Labels
from agent.desk.questions import Questions
from agent.desk.runs import Runs
from agent.desk.stops import Stops
from agent.errors import Refused
from agent.handoff import NOBODY, Need
from agent.life import acknowledged_by
from agent.memory import Snooze
from agent.model import Incident
from agent.ports import Note
from agent.report import ReportView, post_mortem
from agent.said import said_of
from agent.units import say_duration
from agent.views import IncidentDetail, IncidentView, WhyView
from agent.why import why_view

_LONGEST_SNOOZE_S: Final = 7 * 86_400.0


class Incidents(Charts, Labels, Questions, Runs, Stops):
    """Incidents, with all that belongs to one: charts, labels, questions and runs."""

    def incidents(self, *, everything: bool = False, limit: int = 100) -> list[IncidentView]:
        """Return incidents: open ones first, harm first, then the newest."""
        order = {"page": 0, "warning": 1, "note": 2}
        found = sorted(
            (i for i in self.hooks.memory.incidents.values() if everything or i.state != "resolved"),
            key=lambda i: (i.state == "resolved", 0 if i.state == "resolved" else order[i.severity], -i.opened),
        )  # fmt: skip
        said, called = self.hooks.memory.labels, self.hooks.memory.all_climbed()
        return [
            views.incident_view(
                i,
                self.name,
                said[i.id].word if i.id in said else "",
                snooze=self.hooks.memory.snoozed(i, self.hooks.now()),
                need=self._need(i),
                called=called.get(i.id, ()),
            )
            for i in found[:limit]
        ]

    def incident(self, id_: str) -> IncidentDetail:
        """Return one incident with all its evidence; raises NotThere."""
        return self._detail(self._incident(id_))

    def why(self, id_: str) -> WhyView:
        """Return why: about ten lines for people, and what they were made of; raises NotThere."""
        i = self._incident(id_)
        return why_view(self._detail(i), self.pauses(), self.hooks.now(), self._points(i))

    def report(self, id_: str, picture: str = "") -> ReportView:
        """Return the post-mortem of an incident as Markdown, linked to a picture of its charts.

        Raises NotThere, Unavailable.
        """
        i, now = self._incident(id_), self.hooks.now()
        detail, charts = self._detail(i), self.evidence(id_)
        said = said_of(i, self.hooks.memory, self.hooks.journal, now, self.name)
        text = post_mortem(detail, charts, now, said, picture=picture)
        return {"id": detail["id"], "title": detail["title"], "markdown": text, "charts": charts}

    def acknowledge(self, person: Person, id_: str, reason: str = "") -> IncidentDetail:
        """Say that a person has taken an incident. Raises NotThere, Forbidden, Refused."""
        person.must("ack")
        i = self._incident(id_)
        if i.merged_into:
            raise Refused(
                f"incident {i.id} is part of {i.merged_into}; run: homeostat ack {i.merged_into}"
            )
        taken = acknowledged_by(i)
        if taken is not None and i.state != "resolved":
            raise Refused(f"incident {i.id} is acknowledged already, by {taken.by}; nothing to do")
        self.hooks.turn(i.id, "acknowledged", person, reason)
        return self.incident(i.id)

    def snooze(self, person: Person, id_: str, seconds: float, reason: str = "") -> IncidentDetail:
        """Put an incident off: nobody is told of it for a while, unless it gets worse. 0 = tell again from now on.

        Raises NotThere, Forbidden, Refused.
        """
        person.must("ack")
        i = self._incident(id_)
        if i.state == "resolved":
            raise Refused(f"incident {i.id} is over: nobody will be told of it")
        if not 0 <= seconds <= _LONGEST_SNOOZE_S:
            raise Refused(f"it can be put off for a week at most, not for {say_duration(seconds)}")
        now = self.hooks.now()
        made = Snooze(i.id, now + seconds, person.signed, reason, i.severity, i.reopened, now)
        self._record("snooze", i.id, pack(made))
        return self.incident(i.id)

    def page(self, person: Person, id_: str, reason: str = "") -> IncidentDetail:
        """Call a person now, whatever the severity. Raises NotThere, Forbidden, Refused."""
        person.must("page")
        i = self._incident(id_)
        if i.state == "resolved":
            raise Refused(f"incident {i.id} is over: nobody is called for it")
        now = self.hooks.now()
        if (taken := acknowledged_by(i)) is not None:
            now = max(now, taken.ts + 0.001)  # both may have come within one tick
        said = f"{person.name} calls for help" + (f": {reason}" if reason else "")
        note = Note(f"call:{i.id}:{now:.3f}", now, "page", i.title, said, i.id)
        if note.key not in self.hooks.memory.notes:  # pressed twice
            self.hooks.record("note", note.key, pack(note), now)
        return self.incident(i.id)

    def _detail(self, i: Incident) -> IncidentDetail:
        runs = [r for r in self.hooks.memory.runs.values() if r.incident == i.id]
        runs.sort(key=lambda r: (r.started, r.id))
        return views.incident_detail(
            i, [self._run_view(r) for r in runs], self.hooks.memory.decisions(i.id), self.name, self._label(i.id),
            correction=self._correction(i.id), snooze=self.hooks.memory.snoozed(i, self.hooks.now()),
            need=self._need(i), called=self.hooks.memory.climbed(i.id),
            questions=[q for q in self._open_questions() if self._asked_for(q) == i.id],
            now=self.hooks.now(),
        )  # fmt: skip

    def _need(self, i: Incident) -> Need:
        return NOBODY if i.state == "resolved" else self.hooks.memory.handoffs.get(i.id, NOBODY)
