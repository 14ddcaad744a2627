"""The person who presses approve when the agent only suggests.

The plan and its evidence are shown in the terminal. Whoever watches may press `a` there, click in the console, or run
`homeostat approve`: the demo goes on looking meanwhile. `press=True` stands for a person who always says yes.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from agent.demo.console import Console
from agent.views import IncidentDetail, RunView

Say = Callable[[str, str], None]
_YES: Final = frozenset({"a", "approve", "y", "yes"})
_NO: Final = frozenset({"d", "deny", "n", "no"})


@dataclass(slots=True)
class Person:
    """Sees suggestions and answers them.

    state   state folder of the daemon, for the command that is shown
    press   answer yes at once
    """

    console: Console
    say: Say
    state: Path
    press: bool = False
    _asking: RunView | None = None
    _seen: set[str] = field(default_factory=set)
    _listens: bool = True

    def look(self, runs: dict[str, RunView], incidents: dict[str, IncidentDetail]) -> None:
        """Show what is newly suggested, and take an answer if there is one."""
        asking = [r for r in runs.values() if r["state"] == "suggested" and r["asks"]]
        newest = max(asking, key=lambda r: r["started"], default=None)
        if newest is None:
            self._asking = None
            return
        if newest["id"] not in self._seen:
            self._seen.add(newest["id"])
            self._asking = newest
            self._show(newest, incidents.get(newest["incident"]))
        if self._asking is not None:
            self._answer(self._asking, "a" if self.press else self._typed())

    def _answer(self, run: RunView, typed: str) -> None:
        if typed not in _YES | _NO:
            return
        self._asking = None
        try:
            if typed in _YES:
                self.console.approve(run)
            else:
                self.console.deny(run)
        except httpx.HTTPStatusError as error:
            # the evidence has changed: the agent suggests anew, on what it sees now
            self.say(f"  it says no: {error.response.json().get('error', error)}", "yellow")
            return
        self.say("  approved" if typed in _YES else "  denied", "bold")

    def _typed(self) -> str:
        """Return what was typed since; "" = nothing yet."""
        if not self._listens or not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        line = sys.stdin.readline()
        self._listens = bool(line)  # the end of the file: nobody will type here
        return line.strip().lower()

    def _show(self, run: RunView, incident: IncidentDetail | None) -> None:
        self.say(f"  the agent suggests: {run['title']} ({run['target']['name']})", "bold")
        if incident and incident["causes"]:
            cause = incident["causes"][0]
            name = cause["entity"]["name"]
            self.say(f"    because {cause['words']} ({name}, {cause['probability']:.0%} sure)", "")
            for one in cause["evidence"]:
                self.say(f"      {one['weight']:+.1f}  {one['text']}", "dim")
            for other in incident["rejected"][:3]:
                against = min(other["evidence"], key=lambda e: e["weight"], default=None)
                why = against["text"] if against else "nothing speaks for it"
                self.say(f"    not {other['words']}: {why}", "dim")
        for step in run["steps"]:
            later = ", put back later" if step["temporary"] else ""
            self.say(f"    step {step['id']}: {step['use']}{later}", "")
        for text in run["expect"]:
            self.say(f"    proven by: {text}", "")
        if self.press:
            self.say("  approve is pressed", "")
        else:
            command = f"homeostat approve {run['id']} --state {self.state}"
            self.say(f"  type a and enter to approve, d to deny; or, elsewhere: {command}", "bold")
