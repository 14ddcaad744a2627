"""Playbooks: how far each may go and why, how its runs turned out, and why it did not act."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from agent.authority import Person
from agent.budget import WEEK_S
from agent.codec import pack
from agent.desk.hooks import LimitView, LoadedView
from agent.desk.stops import Stops
from agent.digest import DigestView
from agent.digest import digest as digest_of
from agent.errors import Refused
from agent.meant import moment, named, pick
from agent.memory import EVERYTHING, Ceiling
from agent.model import MODES, Mode
from agent.record import Harm, Tally
from agent.views import WhyNotView
from agent.why_not import targets_of, why_not


class TallyView(TypedDict):
    """How runs turned out. success: lower 95 % bound of the share that helped, of those that could be told."""

    runs: int
    helped: int
    no_effect: int
    harmed: int
    cannot_tell: int
    success: float | None


class GroupView(TallyView):
    """How runs on one group of targets turned out. mode: how far it may go there now; harm: why not further."""

    mode: Mode
    harm: str


class PlaybookView(LoadedView):
    """A playbook and its record.

    mode     how far it may go now where it has no record: the lowest of `limits`; own_mode: what its text asks for
    why      what holds it there beside its own text, the strictest first, in words
    record   of all its runs; groups: by group of targets
    """

    mode: Mode
    own_mode: Mode
    why: list[str]
    record: TallyView
    groups: dict[str, GroupView]


class Playbooks(Stops):
    """Playbooks and their record; people lower them and let them act again."""

    def playbooks(self) -> list[PlaybookView]:
        """Return the playbooks that are loaded or have a record: how far they may go, why, how they turned out."""
        loaded = {p["id"]: p for p in self.hooks.playbooks()}
        known = dict.fromkeys([*loaded, *sorted(self.hooks.memory.records.tallies)])
        return [self._playbook(loaded.get(id_) or _not_loaded(id_)) for id_ in known]

    def why_not(self, playbook: str, target: str, when: str = "") -> WhyNotView:
        """Return why a playbook did not act on a target, now or at a time; raises NotThere, Refused."""
        known = {p["id"]: p["title"] or p["id"] for p in self.hooks.playbooks()}
        decided = self.hooks.memory.decisions()
        known |= {
            i: i
            for i in (*self.hooks.memory.records.tallies, *(d.playbook for d in decided))
            if i not in known
        }
        id_ = named(playbook, known)
        gone = {e.id: self.name(e) for e in targets_of(self.hooks, id_)}
        kind = next((p["target"] for p in self.hooks.playbooks() if p["id"] == id_), "")
        whom = self._target(kind, target, {**gone, **self._entities()})
        now = self.hooks.now()
        ts = moment(when, now, now)
        if ts > now:
            raise Refused(f"{when} has not come yet: nothing is decided ahead")
        return why_not(self.hooks, id_, whom, ts, self.name)

    def digest(self, since: str = "7d") -> DigestView:
        """Return how a stretch of time went: `since` as `7d` (ago), unix seconds or ISO; raises Refused."""
        now = self.hooks.now()
        return digest_of(
            self.hooks.memory, self.playbooks(), self.hooks.ledger.promise.pages_per_week,
            moment(since, now, now - WEEK_S), now,
        )  # fmt: skip

    def set_mode(self, person: Person, playbook: str, mode: str, reason: str = "") -> PlaybookView:
        """Let a playbook go no further than `mode`, until somebody says otherwise. Raises NotThere, Forbidden, Refused.

        It only lowers: what its text and agent.yaml say is the most.
        """
        person.must("mode")
        known_ = {p["id"]: p for p in self.playbooks()}
        id_ = pick(playbook, known_, "playbook")
        wanted = next((m for m in MODES if m == mode), None)
        if wanted is None:
            raise Refused(f"there is no mode {mode!r}; write one of {', '.join(MODES)}")
        most = self.hooks.config.mode
        if MODES.index(wanted) > MODES.index(most):
            raise Refused(f"agent.yaml says mode {most}: nothing goes further; change it there")
        made = Ceiling(id_, wanted, person.signed, reason, self.hooks.now())
        self._record("mode", id_, pack(made))
        return next(p for p in self.playbooks() if p["id"] == id_)

    def reinstate(self, person: Person, playbook: str, reason: str = "") -> PlaybookView:
        """Let a playbook that harmed act again as far as its text and agent.yaml let it.

        Raises NotThere, Forbidden, Refused.
        """
        person.must("reinstate")
        known = {p["id"]: p for p in self.playbooks()}
        id_ = pick(playbook, known, "playbook")
        if not self.hooks.memory.records.harmed(id_):
            raise Refused(
                f"playbook {id_} has no harm on its record that nobody looked at; nothing to do"
            )
        self._record("reinstate", id_, {"by": person.signed, "reason": reason})
        return next(p for p in self.playbooks() if p["id"] == id_)

    def _playbook(self, p: LoadedView) -> PlaybookView:
        memory = self.hooks.memory
        records = memory.records
        limits = list(p["limits"])
        harm = records.demoted(p["id"], "")
        if harm is not None:
            limits.append({"by": "record", "mode": "suggest", "reason": _of_harm(harm)})
        said = memory.ceilings.get(p["id"])
        if said is not None:
            why = said.by + (f": {said.reason}" if said.reason else "")
            limits.append({"by": "person", "mode": said.mode, "reason": why})
        limits += [
            {"by": "pause", "mode": "observe", "reason": f"by {pause['by'] or 'the file PAUSED'}"}
            for pause in self.pauses()
            if pause["key"] == EVERYTHING
        ]

        def rank(limit: LimitView) -> int:
            return MODES.index(limit["mode"])

        mode, own = min(limits, key=rank)["mode"], limits[0]["mode"]
        tight = sorted(
            (x for x in limits if x["by"] != "playbook" and (x["mode"] == mode or rank(x) < MODES.index(own))),
            key=rank,
        )  # fmt: skip
        groups = records.of(p["id"])
        return {
            **p, "limits": limits, "mode": mode, "own_mode": own,
            "why": [
                f"{x['by']}: {x['mode']}" + (f", {x['reason']}" if x["reason"] else "")
                for x in tight if x["mode"] != "auto"
            ],
            "record": _tally(sum(groups.values(), Tally())),
            "groups": {name: self._group(p["id"], name, t, limits) for name, t in groups.items()},
        }  # fmt: skip

    def _group(self, id_: str, name: str, tally: Tally, limits: Sequence[LimitView]) -> GroupView:
        harm = self.hooks.memory.records.demoted(id_, name)
        modes: list[Mode] = [limit["mode"] for limit in limits if limit["by"] != "record"]
        mode = min([*modes, *(["suggest"] if harm else [])], key=MODES.index)
        return {**_tally(tally), "mode": mode, "harm": _of_harm(harm) if harm else ""}  # type: ignore[typeddict-item]  # a mode


def _not_loaded(id_: str) -> LoadedView:
    """Return what is left of a playbook of which only the record is known."""
    limit: LimitView = {"by": "not loaded", "mode": "observe", "reason": ""}
    return {"id": id_, "title": "", "owner": "", "target": "", "causes": [], "limits": [limit]}


def _of_harm(harm: Harm) -> str:
    return f"it harmed {harm.target} in run {harm.run}: {harm.summary}"


def _tally(t: Tally) -> TallyView:
    return {
        "runs": t.runs, "helped": t.helped, "no_effect": t.no_effect, "harmed": t.harmed,
        "cannot_tell": t.cannot_tell, "success": None if t.success is None else round(t.success, 3),
    }  # fmt: skip
