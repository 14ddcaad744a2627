"""Tell people: `page` wakes somebody, `notify` does not.

What was told cannot be taken back, yet it changes nothing but knowledge: marking, so it may be automatic.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agent.model import Severity
from agent.ports import Done, Note, Notifier, Step
from agent.registry import action
from agent.units import Model


class _Tell:
    """One note to people, told once per step key by whoever delivers it."""

    effect = "marking"
    ability = Notifier
    reversible = False
    shared = False
    gives = ("severity", "title")

    class Params(Model):
        """What to say."""

        text: str = Field(min_length=1, max_length=4000)
        """What happened and what is asked of the reader."""
        title: str = Field(default="", max_length=200)
        """Default: the first line of the text."""
        severity: Severity | None = None
        """Default: page for `page`, warning for `notify`."""
        owner: str = ""
        channel: str = ""

    default_severity: Severity = "warning"

    def __init__(self, params: Params, ability: Notifier) -> None:
        self._params = params
        self._notifier = ability

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return nothing: what somebody has read cannot be seen."""
        del step
        return {}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Never: whoever delivers knows the keys that it has told."""
        del step, seen
        return False

    async def run(self, step: Step) -> Done:
        """Hand the note over; the same key is not told twice."""
        params = self._params
        severity = params.severity or self.default_severity
        title = params.title or params.text.strip().partition("\n")[0][:200]
        values = {"severity": severity, "title": title}
        if step.dry_run:
            return Done(f"would tell ({severity}): {title}", values)
        await self._notifier.notify(
            Note(
                key=step.key,
                ts=time.time(),
                severity=severity,
                title=title,
                text=params.text,
                incident=step.facts.get("incident", ""),
                owner=params.owner,
                channel=params.channel,
            )
        )
        return Done(f"told ({severity}): {title}", values)


@action("page")
class Page(_Tell):
    """Wake somebody: users or model results are hurt."""

    default_severity: Severity = "page"


@action("notify")
class Notify(_Tell):
    """Tell people without waking them."""
