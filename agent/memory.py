"""What must survive a restart: incidents, runs, decisions, silences, pauses. A pure fold over the journal.

    entry = journal.append(...); memory.apply(entry)          while alive
    memory = Memory(); memory.load(journal)                   after a restart: exactly the same state

No clock, no disk: `now` is an argument where it matters. Bounded: of what has ended, only the newest is kept (the
journal has the rest); what is open or alive is always kept. Cost: 20 us an entry, 500 us for a large incident.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
import re
from collections.abc import Callable, Iterable, KeysView, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import ValidationError

from agent.budget import Word
from agent.causes import matches
from agent.codec import unpack
from agent.handoff import Need
from agent.model import ENDED, Change, Decision, Entity, Incident, Mode, Run, Severity
from agent.plans import Plan
from agent.questions import Question, Reply
from agent.record import Records

if TYPE_CHECKING:
    from agent.journal import Entry, JournalReader

V = TypeVar("V")

EVERYTHING: Final = "*"
"""The pause that covers every target."""
_CHANGES: Final = 500
"""Changes that are remembered: those of some weeks; the journal has the rest."""
JUMPED: Final = "clock_jumped"
"""What the record of the daemon says of a clock that was set."""
_LEAPS: Final = 50
_SEVERITIES: Final[tuple[Severity, ...]] = ("note", "warning", "page")
ACTED: Final = frozenset({"done", "adopted", "uncertain", "undone"})
"""States of a step after which the world is, or may be, not as it was."""


@functools.lru_cache(4096)
def _head(glob: str) -> str:
    """Return what stands before the first wildcard."""
    return re.split(r"[*?\[]", glob, maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class Silence:
    """Somebody does not want to hear of something, and does not want it touched, for a while.

    target   glob over entity ids: `service:checkout`, `host:*`, `*`
    cause    only for causes below this prefix; "" = any
    until    unix seconds; an ended silence is one whose `until` lies in the past
    """

    id: str
    target: str
    until: float
    by: str
    reason: str = ""
    cause: str = ""
    created: float = 0.0

    @property
    def head(self) -> str:
        """What every id that it covers begins with."""
        return _head(self.target)

    def covers(self, target: Entity | str, now: float, cause: str = "") -> bool:
        """Tell whether it holds now for a target and a cause."""
        return (
            now < self.until
            and fnmatch.fnmatchcase(_id(target), self.target)
            and (not self.cause or matches(self.cause, cause))
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """A person has said stop: nothing acts on `key` (an entity id, or `*`) until a person resumes it."""

    key: str
    by: str
    reason: str
    since: float


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said an incident was: noise, or real. The newest word on an incident holds.

    signals   the series that were abnormal in it, as `agent.budget.signal_of` names them
    """

    incident: str
    word: Word
    by: str
    note: str
    ts: float
    signals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snooze:
    """A person has put an incident off: until then nobody is told of it, unless it gets worse than it was.

    severity, reopened   how bad it was, and how often it had come back
    until                unix seconds; one that was ended lies in the past
    """

    incident: str
    until: float
    by: str
    reason: str
    severity: Severity
    reopened: int
    ts: float

    def covers(self, incident: Incident, now: float) -> bool:
        """Tell whether it holds for the incident as it is now."""
        worse = _SEVERITIES.index(incident.severity) > _SEVERITIES.index(self.severity)
        return now < self.until and not worse and incident.reopened == self.reopened


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How far a person lets a playbook go, below what its text and agent.yaml say."""

    playbook: str
    mode: Mode
    by: str
    reason: str
    ts: float


@dataclass(frozen=True, slots=True)
class Correction:
    """A person says that what an incident blames is not its cause.

    about    kind of the group whose trouble it was: service, model, host, ...
    wrong    the kind of cause that was named, on the entity `of`
    right    what it was in truth, as far as they know; "" = they do not
    """

    incident: str
    about: str
    wrong: str
    of: str
    right: str
    by: str
    note: str
    ts: float


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person answered when a run asked."""

    run: str
    person: str
    yes: bool
    plan_hash: str
    ts: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """How far a step of a live run has come: what stands between a crash and doing it twice.

    before    what the world looked like when the step was about to act
    attempts  how often it was about to
    open      it was about to act, and what came of it is not known
    result    what it gave when it is known to have acted
    """

    key: str
    before: Mapping[str, Any]
    started: float
    attempts: int
    open: bool
    result: Mapping[str, Any] | None = None


def acted_at(run: Run) -> float | None:
    """Return when a run last changed the world, or may have; None = it did not."""
    return max((s.ended for s in run.steps if s.status in ACTED), default=None)


def _lot_of_run(state: str, *, acted: bool) -> str:
    return "" if state not in ENDED else "acted" if acted else "talked"


def _lot_of_incident(state: str) -> str:
    return "over" if state == "resolved" else ""


class _Recent(dict[Any, V]):
    """The newest `room` values of each lot by last update; those of lot "" live, and stay however old they are.

    Lots, so that a flood of one sort does not drive out another: suggestions not what rates and attempts count.
    What is kept depends on the last update of each key only: folding everything, and folding the last entry of each
    key, give the same.
    """

    def __init__(self, room: int, lot: Callable[[V], str] = lambda _: "all") -> None:
        super().__init__()
        self._room = room
        self._lot = lot
        self._many: dict[str, int] = {}

    def put(self, key: Any, value: V) -> list[Any]:
        """Set a value; returns the keys that had to leave."""
        old = self.pop(key, None)
        if old is not None:
            self._many[self._lot(old)] -= 1
        self[key] = value
        lot = self._lot(value)
        self._many[lot] = self._many.get(lot, 0) + 1
        extra = self._many[lot] - self._room if lot else 0
        if extra <= 0:
            return []
        same = (k for k, v in self.items() if self._lot(v) == lot)
        gone = list(itertools.islice(same, extra))
        self._many[lot] -= len(gone)
        for k in gone:
            del self[k]
        return gone


@dataclass(slots=True)
class Memory:
    """The state that the guard, the runner and people ask.

    room_runs, room_incidents   how many that have ended are kept; of runs, that acted, and as many that did not
    changes   what was changed, by us and by others, in the order in which it was told; by id, or by entry
    approvals what people answered to live runs: run -> what was asked (a hash) -> the answer
    cancels   who wants a live run stopped, and why when they said so
    labelled  number of the newest label's entry: tells whether there is news
    ceilings  how far people let playbooks go, by playbook
    handoffs  which incidents need a person, and why
    called    what calls people for an incident: keys of notes, and when they were written
    undos     runs that put back what a run did: run -> those, oldest first
    records   how the runs of each playbook turned out, of all times
    strange   entries that could not be read: (seq, why); written by another version, or altered
    leaps     when the clock was set forward, and by how many seconds, oldest first
    """

    room_runs: int = 1000
    room_incidents: int = 200
    seq: int = 0
    incidents: _Recent[Incident] = field(init=False)
    runs: _Recent[Run] = field(init=False)
    plans: dict[str, Plan] = field(default_factory=dict)
    silences: _Recent[Silence] = field(init=False)
    questions: _Recent[Question] = field(init=False)
    replies: _Recent[Reply] = field(init=False)
    labels: _Recent[Label] = field(init=False)
    changes: _Recent[Change] = field(init=False)
    labelled: int = 0
    snoozes: _Recent[Snooze] = field(init=False)
    corrections: _Recent[Correction] = field(init=False)
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    handoffs: _Recent[Need] = field(init=False)
    called: dict[str, dict[str, float]] = field(default_factory=dict)
    undos: dict[str, list[str]] = field(default_factory=dict)
    pauses: dict[str, Pause] = field(default_factory=dict)
    approvals: dict[str, dict[str, Approval]] = field(default_factory=dict)
    cancels: dict[str, str] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)
    records: Records = field(default_factory=Records)
    strange: list[tuple[int, str]] = field(default_factory=list, compare=False)
    leaps: list[tuple[float, float]] = field(default_factory=list)
    _decisions: _Recent[Decision] = field(init=False)
    _notes: _Recent[float] = field(init=False)
    _folds: dict[str, Callable[[Entry], None]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.incidents = _Recent(self.room_incidents, lambda i: _lot_of_incident(i.state))
        self.runs = _Recent(
            self.room_runs, lambda r: _lot_of_run(r.state, acted=acted_at(r) is not None)
        )
        self.silences = _Recent(1000)
        self.questions = _Recent(1000)
        self.replies = _Recent(1000)
        self.labels = _Recent(1000)
        self.changes = _Recent(_CHANGES)
        self.snoozes = _Recent(1000)
        self.corrections = _Recent(1000)
        self.handoffs = _Recent(1000)
        self._decisions = _Recent(5000)
        self._notes = _Recent(10_000)
        self._folds = {
            "incident": self._incident, "run": self._run, "plan": self._plan, "note": self._note,
            "decision": self._decision, "silence": self._silence, "pause": self._pause,
            "question": self._question, "reply": self._reply,
            "resume": self._resume, "approval": self._approval, "cancel": self._cancel,
            "intent": self._intent, "acted": self._acted, "label": self._label,
            "change": self._change, "reinstate": self._reinstate,
            "snooze": self._snooze, "correction": self._correction, "mode": self._mode,
            "handoff": self._handoff, "daemon": self._daemon,
        }  # fmt: skip

    # ---- folding

    def apply(self, entry: Entry) -> None:
        """Take one entry of the journal; one that was taken before, or of no concern here, changes nothing."""
        if entry.seq <= self.seq:
            return
        self.seq = entry.seq
        fold = self._folds.get(entry.kind)
        if fold is not None:
            self._fold(fold, entry)

    def _fold(self, fold: Callable[[Entry], None], entry: Entry) -> None:
        try:
            fold(entry)
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            reason = f"{entry.kind} on {entry.subject}: {type(error).__name__}: {error}"
            self.strange = [*self.strange[-99:], (entry.seq, reason)]

    def load(self, journal: JournalReader) -> None:
        """Fold a whole journal without reading all of it: what was overtaken since is left out.

        Only into an empty memory. Raises Unavailable or Refused as the journal does.
        """
        if self.seq:
            raise ValueError("load fills an empty memory")
        head, _ = journal.head
        every = list(journal.latest("run"))
        runs = _needed(every, self.room_runs, _lot_of_body)
        kept = {e.subject for e in runs}
        for entry in every:
            if entry.subject not in kept:  # what became of it counts for ever
                self._fold(lambda e: self.records.run(e.seq, e.body), entry)
        alive = [e.subject for e in runs if e.body.get("state") not in ENDED]
        found = [
            *runs,
            *_needed(
                journal.latest("incident"),
                self.room_incidents,
                lambda b: _lot_of_incident(str(b.get("state"))),
            ),
            *self._needed_plans(journal, kept),
            *journal.latest("silence", 1000),
            *journal.latest("question", 1000),
            *journal.latest("reply", 1000),
            *journal.latest("note", 10_000),
            *journal.latest("label", 1000),
            *journal.latest("snooze", 1000),
            *journal.latest("correction", 1000),
            *journal.latest("handoff", 1000),
            *journal.latest("mode"),
            *journal.read(("change",), limit=_CHANGES, newest_first=True),
            *journal.read(("daemon",), JUMPED, limit=_LEAPS, newest_first=True),
            *journal.read(("pause", "resume", "approval", "cancel", "reinstate")),
            *itertools.chain.from_iterable(journal.read(("intent", "acted"), run) for run in alive),
            *_newest_decisions(journal),
        ]
        for entry in sorted(found, key=lambda e: e.seq):
            self.apply(entry)
        self.seq = max(self.seq, head)

    @staticmethod
    def _needed_plans(journal: JournalReader, kept: set[str]) -> list[Entry]:
        """Return the plans of runs that are kept, and those that never got as far as a run."""
        known = {e.subject for e in journal.latest("run")}
        return [e for e in journal.latest("plan") if e.subject in kept or e.subject not in known]

    # ---- questions

    def passed(self, since: float, now: float) -> float:
        """Return the seconds between a moment in the record and now; by which the clock was set forward, did not pass.

        Set back, it makes them less than they were: whatever must rest rests longer.
        """
        out = now - since
        for ts, by in reversed(self.leaps):
            if since >= ts:
                break
            out -= by if ts <= now else 0.0
        return out

    @property
    def notes(self) -> KeysView[str]:
        """Keys of what people have been told."""
        return self._notes.keys()

    def climbed(self, incident: str) -> list[tuple[float, str]]:
        """Return whom the ladder has called for an incident, and when, oldest first."""
        return self.all_climbed(f"ladder:{incident}:").get(incident, [])

    def all_climbed(self, head: str = "ladder:") -> dict[str, list[tuple[float, str]]]:
        """Return the same for all incidents at once (whose keys begin so): one pass over what people were told."""
        found: dict[str, list[tuple[float, str]]] = {}
        for key, ts in self._notes.items():
            if key.startswith(head):
                _, incident, _, _, _, way = key.split(":", 5)
                found.setdefault(incident, []).append((ts, way))
        return {incident: sorted(calls) for incident, calls in found.items()}

    def paged(self, since: float) -> set[str]:
        """Return the incidents that paged at or after `since`: those known, and those that people were told of."""
        known = {
            i.id for i in self.incidents.values() if i.severity == "page" and i.opened >= since
        }
        told = {
            key.split(":")[1]
            for key, ts in self._notes.items()
            if ts >= since and key.startswith("page:")
        }
        return known | told

    def open_incidents(self) -> list[Incident]:
        """Return the incidents that are not over, oldest first."""
        found = [i for i in self.incidents.values() if i.state != "resolved"]
        return sorted(found, key=lambda i: (i.opened, i.id))

    def live_runs(self) -> list[Run]:
        """Return the runs that have not ended, oldest first."""
        found = [r for r in self.runs.values() if r.state not in ENDED]
        return sorted(found, key=lambda r: (r.started, r.id))

    def live_runs_of(self, incident: str) -> list[Run]:
        """Return the runs at work for one incident."""
        return [r for r in self.live_runs() if r.incident == incident]

    def run_on(self, target: Entity | str) -> Run | None:
        """Return the run that is at work on a target; one that stands aside is not."""
        found = (r for r in self.live_runs() if r.target.id == _id(target) and not self.aside(r))
        return next(found, None)

    def aside(self, run: Run) -> bool:
        """Tell whether a run only waits to take back a mark: that may last for days, and nobody need wait for it."""
        plan = self.plans.get(run.id)
        return run.state == "holding" and plan is not None and plan.marks

    def paused(self, target: Entity | str) -> Pause | None:
        """Return the pause that covers a target."""
        return self.pauses.get(EVERYTHING) or self.pauses.get(_id(target))

    def held(self, target: Entity | str) -> Pause | Run | None:
        """Return what keeps new acts off a target: a pause, or a run that is at work on it."""
        return self.paused(target) or self.run_on(target)

    def snoozed(self, incident: Incident, now: float) -> Snooze | None:
        """Return the snooze that covers an incident now."""
        found = self.snoozes.get(incident.id)
        return found if found is not None and found.covers(incident, now) else None

    def silenced(self, target: Entity | str, now: float, cause: str = "") -> Silence | None:
        """Return the silence that covers a target now."""
        return next((s for s in self.silences.values() if s.covers(target, now, cause)), None)

    def acts(
        self, playbook: str | None = None, target: Entity | str | None = None, since: float = 0.0
    ) -> list[Run]:
        """Return the runs that really changed something (or may have) at or after `since`, newest act first."""
        found = [
            (at, run)
            for run in self.runs.values()
            if (playbook is None or run.playbook == playbook)
            and (target is None or run.target.id == _id(target))
            and (at := acted_at(run)) is not None
            and at >= since
        ]
        return [run for _, run in sorted(found, key=lambda f: (-f[0], f[1].id))]

    def last_decision(self, playbook: str, target: Entity | str, incident: str) -> Decision | None:
        """Return what the guard last said about a playbook on a target for an incident."""
        return self._decisions.get((playbook, _id(target), incident))

    def decisions(self, incident: str | None = None) -> list[Decision]:
        """Return the last word of the guard on each playbook and target, newest last."""
        return [d for d in self._decisions.values() if incident is None or d.incident == incident]

    def unfinished(self) -> dict[str, Plan]:
        """Return the plans that are to be carried on: their run lives, or was never begun."""
        return {
            id_: plan
            for id_, plan in self.plans.items()
            if plan.mode in {"approve", "auto"}
            and ((run := self.runs.get(id_)) is None or run.state not in ENDED)
        }

    # ---- one fold a kind

    def _incident(self, entry: Entry) -> None:
        self.incidents.put(entry.subject, unpack(Incident, entry.body))

    def _run(self, entry: Entry) -> None:
        run = unpack(Run, entry.body)
        old = self.runs.get(run.id)
        said = old.outcome.verdict if old is not None and old.outcome is not None else None
        self.records.run(entry.seq, entry.body, said)
        for gone in self.runs.put(run.id, run):
            plan = self.plans.pop(gone, None)
            if plan is not None and plan.undoes:
                left = [id_ for id_ in self.undos.pop(plan.undoes, ()) if id_ != gone]
                if left:
                    self.undos[plan.undoes] = left
        if run.state in ENDED:
            self.approvals.pop(run.id, None)
            self.cancels.pop(run.id, None)
            for key in [k for k in self.traces if k.startswith(f"{run.id}/")]:
                del self.traces[key]

    def _reinstate(self, entry: Entry) -> None:
        self.records.trust(entry.seq, entry.subject, entry.body, entry.ts)

    def _plan(self, entry: Entry) -> None:
        plan = self.plans[entry.subject] = unpack(Plan, entry.body)
        if plan.undoes and plan.run_id not in self.undos.setdefault(plan.undoes, []):
            self.undos[plan.undoes].append(plan.run_id)

    def _decision(self, entry: Entry) -> None:
        decision = unpack(Decision, entry.body)
        self._decisions.put(_decision_key(decision), decision)

    def _silence(self, entry: Entry) -> None:
        self.silences.put(entry.subject, unpack(Silence, entry.body))

    def _question(self, entry: Entry) -> None:
        self.questions.put(entry.subject, unpack(Question, entry.body))

    def _reply(self, entry: Entry) -> None:
        self.replies.put(entry.subject, unpack(Reply, entry.body))

    def _pause(self, entry: Entry) -> None:
        by, reason = str(entry.body.get("by", "")), str(entry.body.get("reason", ""))
        self.pauses[entry.subject] = Pause(entry.subject, by, reason, entry.ts)

    def _resume(self, entry: Entry) -> None:
        self.pauses.pop(entry.subject, None)

    def _approval(self, entry: Entry) -> None:
        if self._over(entry.subject):
            return
        body = entry.body
        said = Approval(
            entry.subject, str(body["person"]), bool(body["yes"]), str(body["plan_hash"]), entry.ts,
            str(body.get("reason", "")),
        )  # fmt: skip
        self.approvals.setdefault(entry.subject, {})[said.plan_hash] = said

    def _cancel(self, entry: Entry) -> None:
        if not self._over(entry.subject):
            why = str(entry.body.get("reason", ""))
            self.cancels[entry.subject] = str(entry.body["person"]) + (f": {why}" if why else "")

    def _over(self, run_id: str) -> bool:
        run = self.runs.get(run_id)
        return run is not None and run.state in ENDED

    def _intent(self, entry: Entry) -> None:
        if self._over(entry.subject):
            return
        key, old = str(entry.body["key"]), self.traces.get(str(entry.body["key"]))
        self.traces[key] = Trace(
            key,
            dict(entry.body["before"]),
            old.started if old else entry.ts,
            old.attempts + 1 if old else 1,
            open=True,
        )

    def _acted(self, entry: Entry) -> None:
        if self._over(entry.subject):
            return
        key, result = str(entry.body["key"]), entry.body.get("result")
        old = self.traces.get(key)
        self.traces[key] = Trace(
            key,
            old.before if old else {},
            old.started if old else entry.ts,
            old.attempts if old else 1,
            open=False,
            result=result,
        )

    def _note(self, entry: Entry) -> None:
        key = entry.subject
        for gone in self._notes.put(key, entry.ts):
            about = _calls(gone)
            if about in self.called:
                self.called[about].pop(gone, None)
                if not self.called[about]:
                    del self.called[about]
        if about := _calls(key):
            self.called.setdefault(about, {})[key] = entry.ts

    def _change(self, entry: Entry) -> None:
        change = unpack(Change, entry.body)
        self.changes.put(change.id or f"#{entry.seq}", change)

    def _snooze(self, entry: Entry) -> None:
        self.snoozes.put(entry.subject, unpack(Snooze, entry.body))

    def _correction(self, entry: Entry) -> None:
        self.corrections.put(entry.subject, unpack(Correction, entry.body))

    def _daemon(self, entry: Entry) -> None:
        by = float(entry.body["by_s"]) if entry.subject == JUMPED else 0.0
        if by > 0:
            self.leaps = [*self.leaps[1 - _LEAPS :], (entry.ts, by)]

    def _handoff(self, entry: Entry) -> None:
        self.handoffs.put(entry.subject, unpack(Need, entry.body))

    def _mode(self, entry: Entry) -> None:
        self.ceilings[entry.subject] = unpack(Ceiling, entry.body)

    def _label(self, entry: Entry) -> None:
        body = entry.body
        if "label" not in body and isinstance(body.get("false_page"), bool):
            # as it was written before labels had words; its signals were not kept, so it is counted and nothing more
            word: Any = "noise" if body["false_page"] else "real"
        else:
            word = body["label"]
        if word not in {"noise", "real"}:
            raise ValueError(f"a label says noise or real, not {word!r}")
        signals = tuple(str(s) for s in body.get("signals", ()))
        by, note = str(body.get("by", "")), str(body.get("note", ""))
        label = Label(entry.subject, word, by, note, entry.ts, signals)
        self.labels.put(entry.subject, label)
        self.labelled = entry.seq


def _id(target: Entity | str) -> str:
    return target if isinstance(target, str) else target.id


def _calls(key: str) -> str:
    """Return the incident for which a note with this key calls people; "" = for none."""
    kind, _, rest = key.partition(":")
    return rest.partition(":")[0] if kind in {"page", "needs", "call"} else ""


def _decision_key(decision: Decision) -> tuple[str, str, str]:
    return decision.playbook, decision.target.id, decision.incident


def _needed(
    latest: Iterable[Entry], room: int, lot: Callable[[dict[str, Any]], str]
) -> list[Entry]:
    """Of the last entry of each subject, return those that `_Recent` keeps."""
    kept: list[Entry] = []
    many: dict[str, int] = {}
    for entry in reversed(list(latest)):
        its = lot(entry.body)
        many[its] = many.get(its, 0) + 1
        if not its or many[its] <= room:
            kept.append(entry)
    return kept[::-1]


def _lot_of_body(body: dict[str, Any]) -> str:
    acted = any(s.get("status") in ACTED for s in body.get("steps", ()))
    return _lot_of_run(str(body.get("state")), acted=acted)


def _newest_decisions(journal: JournalReader) -> list[Entry]:
    """Return the last decision on each playbook, target and incident, as many as are kept."""
    found: dict[tuple[Any, ...], Entry] = {}
    for entry in journal.read(("decision",), newest_first=True):
        target = entry.body.get("target") or {}
        key = (entry.body.get("playbook"), str(target), entry.body.get("incident"))
        found.setdefault(key, entry)
        if len(found) >= 5000:
            break
    return list(found.values())
