"""What people say of incidents, noise or real and what it was instead, and the alarm budget that comes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from typing_extensions import TypedDict

from agent import views
from agent.authority import Person
from agent.budget import DAY_S, LOOK_BACK_DAYS, WEEK_S, Word, factor_of, signal_of, steps_of
from agent.codec import pack
from agent.desk.finding import Finding, check_cause
from agent.doubts import Doubt, doubts_of
from agent.errors import Refused
from agent.memory import Correction, Label
from agent.views import DoubtView, LabelView, RateView, SignalView

_MOST_SIGNALS: Final = 20
"""Signals that one label speaks of, the most abnormal ones."""


class BudgetView(TypedDict):
    """The alarm budget: promised and measured.

    pages       false pages a week; notes: false console notes a day; anomalies: abnormal series a day, true ones too
    tightness   below 1 = series must be so much rarer, because more were abnormal than was promised
    signals     what labels have made rarer (factor below 1) or more common, the rarest first; it fades by itself
    causes      what people said about causes, and how much less or more they are believed for it; it fades, too
    """

    promised_per_week: float
    pages_last_week: int
    false_last_week: int
    within: bool
    pages: RateView
    notes: RateView
    anomalies: RateView
    anomalies_per_series_day: float
    tightness: float
    signals: list[SignalView]
    causes: list[DoubtView]


class Labels(Finding):
    """Labels and corrections, and the alarm budget."""

    def budget(self) -> BudgetView:
        """Return the alarm budget: what was promised, and what was counted and labelled since."""
        ledger, memory, now = self.hooks.ledger, self.hooks.memory, self.hooks.now()
        since = max(ledger.since, now - LOOK_BACK_DAYS * DAY_S)
        said = {id_: label.word for id_, label in memory.labels.items()}

        def how_many(word: Word, of: Iterable[str]) -> int:
            return sum(said.get(id_) == word for id_ in of)

        week, paged = memory.paged(now - WEEK_S), memory.paged(since)
        noted = [
            i.id for i in memory.incidents.values() if i.severity == "note" and i.opened >= since
        ]
        false = how_many("noise", week)
        pages = ledger.pages(how_many("noise", paged), how_many("real", paged), len(paged))
        notes = ledger.notes(how_many("noise", noted), how_many("real", noted))
        return {
            "promised_per_week": ledger.promise.pages_per_week, "pages_last_week": len(week),
            "false_last_week": false,
            "within": false <= ledger.promise.pages_per_week and pages.verdict != "above",
            "pages": views.rate_view(pages), "notes": views.rate_view(notes),
            "anomalies": views.rate_view(ledger.anomalies()),
            "anomalies_per_series_day": ledger.promise.anomalies_per_series_day,
            "tightness": ledger.tightness, "signals": self._signals(),
            "causes": [views.doubt_view(d) for d in self._doubts().values()],
        }  # fmt: skip

    def label(self, person: Person, id_: str, word: Word, note: str = "") -> LabelView:
        """Say whether an incident was noise or real. Raises NotThere, Forbidden.

        It measures the alarm budget, and makes what was abnormal in it count for less or for more: see `agent.budget`.
        """
        person.must("label")
        i = self._incident(id_)
        found = sorted(
            (a for a in i.anomalies if a.road != "objective"), key=lambda a: -a.deviations
        )
        signals = list(dict.fromkeys(signal_of(a.series) for a in found))[:_MOST_SIGNALS]
        body = {"label": word, "by": person.signed, "note": note, "signals": signals}
        self._record("label", i.id, body)
        made = Label(i.id, word, person.signed, note, self.hooks.now(), tuple(signals))
        return self._label(i.id) or views.label_view(made, [])

    def blame(
        self, person: Person, id_: str, right: str | None = None, note: str = ""
    ) -> LabelView:
        """Say that what an incident blames is not its cause, and what is. Raises NotThere, Forbidden, Refused."""
        person.must("label")
        i = self._incident(id_)
        top = i.diagnosis.top if i.diagnosis else None
        if top is None or top.kind == "unknown":
            raise Refused(f"incident {i.id} blames nothing that could be wrong")
        if right:
            check_cause(right)
        if right == top.kind:
            raise Refused(f"{right} is what it blames already; say what it was instead")
        about = i.about.kind if i.about is not None else top.entity.kind
        made = Correction(
            i.id, about, top.kind, top.entity.id, right or "", person.signed, note, self.hooks.now()
        )
        self._record("correction", i.id, pack(made))
        return self._correction(i.id) or views.correction_view(made, "")

    def _signals(self, only: Iterable[str] | None = None) -> list[SignalView]:
        """Return what labels say now, of all signals or of some."""
        steps = steps_of(self.hooks.memory.labels.values(), self.hooks.now())
        wanted = steps if only is None else [s for s in only if s in steps]
        return [
            {"signal": s, "factor": round(factor_of(steps[s]), 3)}
            for s in sorted(wanted, key=lambda s: (-steps[s], s))
        ]

    def _doubts(self) -> dict[tuple[str, str], Doubt]:
        return doubts_of(self.hooks.memory.corrections.values(), self.hooks.now())

    def _label(self, id_: str) -> LabelView | None:
        label = self.hooks.memory.labels.get(id_)
        if label is None:
            return None
        return views.label_view(label, self._signals(label.signals))

    def _correction(self, id_: str) -> LabelView | None:
        said = self.hooks.memory.corrections.get(id_)
        if said is None:
            return None
        doubt = self._doubts().get((said.about, said.wrong))
        return views.correction_view(said, views.doubt_view(doubt)["text"] if doubt else "")
