"""The dead man's heartbeat out: those who worry when they do not hear from us hear from us, while we are well.

Called at the end of each tick, so a walk that stands still or breaks is silent by itself. Before each beat the journal
proves that the disk takes entries: a daemon that can not write down what it does must not look healthy.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from agent.away import Absences, Away
from agent.errors import AgentError
from agent.ports import Pulse

log = structlog.get_logger()


class Pulses:
    """Beats every pulse in its own rhythm; one that hangs or fails holds up no other and no tick.

    pulses   the connectors that are one, by name, as they are now
    written  tells whether the journal takes entries; asked once a tick at most, when a beat is due
    spawn    runs something beside the ticks
    """

    def __init__(
        self,
        pulses: Callable[[], Mapping[str, Pulse]],
        written: Callable[[], bool],
        spawn: Callable[[Awaitable[None], str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pulses = pulses
        self._written = written
        self._spawn = spawn
        self._clock = clock
        self._due: dict[str, float] = {}
        self._out: set[str] = set()
        self._away = Absences("heartbeat")

    def faults(self) -> list[str]:
        """Say of each that did not hear the last beat, why."""
        return [f"{x.connector}: the heartbeat did not arrive ({x.why})" for x in self.away()]

    def away(self) -> list[Away]:
        """Return those that did not hear the last beat."""
        return self._away.told()

    def tick(self, ts: float) -> None:
        """Beat those that are due, if the journal takes entries."""
        now, pulses = self._clock(), self._pulses()
        for gone in set(self._due) - set(pulses):
            del self._due[gone]
        self._away.only(pulses)
        due = [n for n in pulses if self._due.get(n, now) <= now and n not in self._out]
        if not due or not self._written():
            return
        for name in due:
            self._due[name] = now + pulses[name].pulse_s
            self._out.add(name)
            self._spawn(self._beat(name, pulses[name], ts), f"heartbeat {name}")

    async def _beat(self, name: str, pulse: Pulse, ts: float) -> None:
        try:
            await pulse.beat(ts)
        except AgentError as error:
            if self._away.fell(name, str(error), pulse.pulse_s):  # once, not at each beat
                log.warning("heartbeat_not_heard", way=name, error=str(error))
        else:
            if (after_s := self._away.back(name)) is not None:
                log.info("heartbeat_heard_again", way=name, after_s=after_s)
        finally:
            self._out.discard(name)
