"""Silences, told in both directions: those of an Alertmanager hold for us, and ours hold there.

    theirs (a person, there) --> journal, as `mute-ID-n`, by whoever set it --> the guard: hands off, nobody is told
    ours (a person or a run, here) --> there, with the same target and end
    whichever is ended before its time, on either side, ends on the other

Which are ours there is seen by the key in their comment, so a restart makes nothing twice. One that is limited to a
cause can not be told there. What does not answer is asked again at the next look; nothing is ended by its silence.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import structlog

from agent.away import Absences, Away
from agent.codec import pack
from agent.errors import AgentError, Refused
from agent.journal import Entry
from agent.memory import Memory, Silence
from agent.ports import Mute, Muting

log = structlog.get_logger()

_LOOK_S: Final = 15.0
_SAME_S: Final = 1.5
"""Ends that differ by less are the same."""
_THEIRS: Final = "mute-"
_ENDED_S: Final = 86_400.0
"""How long after its end a silence of ours is still looked for there."""

Record = Callable[[str, str, dict[str, Any], float], None]


class Mutes:
    """Keeps both sides alike.

    muting   the connectors that have silences of their own, by name
    spawn    runs something beside the ticks
    """

    def __init__(
        self,
        muting: Callable[[], Mapping[str, Muting]],
        memory: Memory,
        record: Record,
        spawn: Callable[[Awaitable[None], str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._muting = muting
        self._memory = memory
        self._record = record
        self._spawn = spawn
        self._clock = clock
        self._due: dict[str, float] = {}
        self._out: set[str] = set()
        self._away = Absences("silences")
        self._told: set[str] = set()
        """Silences of which it was said that they can not be told there."""

    def faults(self) -> list[str]:
        """Say of each whose silences are not known now, why."""
        return [f"{x.connector}: its silences are not known ({x.why})" for x in self.away()]

    def away(self) -> list[Away]:
        """Return those whose silences are not known now."""
        return self._away.told()

    def wrote(self, entry: Entry) -> None:
        """Look at once when a silence was written down here."""
        if entry.kind == "silence" and not entry.subject.startswith(_THEIRS):
            self._due.clear()

    def tick(self, now: float) -> None:
        """Look where it is due."""
        muting = self._muting()
        self._away.only(muting)
        for name, one in muting.items():
            if name not in self._out and not 0 < self._due.get(name, 0.0) - now <= _LOOK_S:
                self._due[name] = now + _LOOK_S
                self._out.add(name)
                self._spawn(self._look(name, one), f"silences of {name}")

    async def _look(self, name: str, one: Muting) -> None:
        try:
            found = await one.mutes()
            await self._theirs(name, one, [m for m in found if not m.key])
            await self._ours(name, one, {m.key: m for m in sorted(found, key=_order) if m.key})
        except AgentError as error:
            if self._away.fell(name, str(error), _LOOK_S):
                log.warning("silences_not_known", source=name, error=str(error))
        else:
            if (after_s := self._away.back(name)) is not None:
                log.info("silences_known_again", source=name, after_s=after_s)
        finally:
            self._out.discard(name)

    async def _theirs(self, name: str, one: Muting, found: list[Mute]) -> None:
        """Write down what holds there, and what does not any more."""
        now = self._clock()
        there: dict[str, Silence] = {}
        for mute in found:
            ids = [f"{_THEIRS}{name}-{mute.id[:13]}-{i}" for i in range(len(mute.targets))]
            held = [self._memory.silences.get(id_) for id_ in ids]
            if any(s is not None and s.until <= now < mute.until for s in held):
                await one.unmute(mute.id)  # a person here has ended it
                continue
            for id_, target in zip(ids, mute.targets, strict=True):
                by = f"{mute.by} ({name})"
                there[id_] = Silence(id_, target, mute.until, by, mute.reason, "", now)
        for id_, silence in there.items():
            known = self._memory.silences.get(id_)
            if (
                known is None
                or abs(known.until - silence.until) > _SAME_S
                or known.target != silence.target
            ):
                self._record("silence", id_, pack(silence), now)
        for id_, known in list(self._memory.silences.items()):
            if id_.startswith(f"{_THEIRS}{name}-") and id_ not in there and now < known.until:
                self._record(
                    "silence", id_, {**pack(replace(known, until=now)), "ended_by": name}, now
                )

    async def _ours(self, name: str, one: Muting, there: Mapping[str, Mute]) -> None:
        now = self._clock()
        for id_, ours in list(self._memory.silences.items()):
            if id_.startswith(_THEIRS) or ours.until < now - _ENDED_S:
                continue
            theirs = there.get(id_)
            if now >= ours.until:
                if theirs is not None and theirs.active:
                    await one.unsilence(id_)
            elif theirs is not None and theirs.active and abs(theirs.until - ours.until) <= _SAME_S:
                continue
            elif theirs is not None and not theirs.active and _ended_early(ours, theirs):
                ended = {**pack(replace(ours, until=now)), "ended_by": name}
                self._record("silence", id_, ended, now)
            else:
                await self._put(name, one, ours, theirs)

    async def _put(self, name: str, one: Muting, ours: Silence, theirs: Mute | None) -> None:
        if ours.cause:
            self._cannot(name, ours, f"one of {ours.cause} alone can not be told there")
            return
        try:
            if theirs is not None and theirs.active:
                await one.unsilence(ours.id)
            await one.silence(ours.id, ours.target, ours.until, ours.by, ours.reason or "homeostat")
        except Refused as no:
            self._cannot(name, ours, str(no))

    def _cannot(self, name: str, ours: Silence, why: str) -> None:
        if ours.id not in self._told:
            self._told.add(ours.id)
            log.warning("silence_not_told", source=name, silence=ours.id, why=why)


def _ended_early(ours: Silence, theirs: Mute) -> bool:
    """Tell whether somebody ended it there; what ended there before ours was made was an earlier one of its name."""
    return ours.created < theirs.until < ours.until - _SAME_S


def _order(mute: Mute) -> tuple[bool, float]:
    """Put the one that counts last: what holds, else what ended last."""
    return mute.active, mute.until
