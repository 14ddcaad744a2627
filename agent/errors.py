"""What can go wrong, sorted by what the caller should do about it.

    AgentError
    ├─ ConfigError    a person must edit a file          -> do not start; say where and how
    ├─ Unavailable    try again, perhaps after .wait_s   -> back off, mark the source stale
    ├─ Refused        trying again will not help         -> stop this attempt, tell a person
    └─ Uncertain      it may have happened               -> verify, never repeat

Anything else that comes out of a plug-in is a bug: it is caught at its one border, logged once with its
traceback and counted; the plug-in rests and the daemon lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.strike import strike

_SHOWN: Final = 100
"""Of a longer line, so many characters around the place are shown."""


class AgentError(Exception):
    """Any failure that homeostat expects. The message says what failed, on what, and what to do, and no secret."""

    def __init__(self, message: str = "") -> None:
        super().__init__(strike(message))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a file that a person wrote.

    place     file, or "<default>" and the like where there is none
    line      from 1; 0 = the whole file
    column    from 1; 0 = the whole line
    problem   what is wrong, lower case, no full stop
    remedy    what to write instead; empty when the problem says it
    text      the line as it was written, to point at the column; empty where it is not known or may hold a secret
    """

    place: str
    line: int
    column: int
    problem: str
    remedy: str = ""
    text: str = field(default="", compare=False, repr=False)

    def caret(self) -> str:
        """Return the line and below it a caret at the column, as compilers do; "" when there is nothing to show."""
        if not (self.text.strip() and 1 <= self.column <= len(self.text) + 1):
            return ""
        start = max(0, self.column - 1 - _SHOWN // 2) if len(self.text) > _SHOWN else 0
        shown = self.text[start : start + _SHOWN]
        plain = "".join(c if c.isprintable() else " " for c in shown).rstrip()
        return f"{plain}\n{' ' * (self.column - 1 - start)}^"

    def __str__(self) -> str:
        """Return `file:line:column: problem; remedy`, as compilers and editors know it."""
        where = self.place
        if self.line:
            where += f":{self.line}"
            if self.column:
                where += f":{self.column}"
        return f"{where}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")


class ConfigError(AgentError):
    """A person must edit a file: all faults are told at once, each with place and remedy."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class Unavailable(AgentError):
    """It did not answer now. Try again, not before `wait_s` seconds when that is given."""

    def __init__(self, message: str, *, wait_s: float | None = None) -> None:
        self.wait_s = wait_s
        super().__init__(message)


class Refused(AgentError):
    """The answer was no, and would be no again: stop this attempt and tell a person."""


class BadRecords(Refused):
    """Records of one request can not be taken, so none was: `reasons` of the first of them."""

    def __init__(self, bad: int, of: int, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        many = f" (and {bad - 1} more of {of} records)" if bad > 1 else ""
        super().__init__(f"{reasons[0]}{many}")


class Uncertain(AgentError):
    """It may have happened: verify what the world looks like, never repeat blindly."""
