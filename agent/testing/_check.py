"""One demand of a contract, how it is run, and what it says when it is not kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agent.errors import AgentError


class Broken(AgentError):
    """A plug-in does not keep its contract."""


@dataclass(frozen=True, slots=True)
class Check:
    """One demand of a contract.

    name     what exemptions refer to
    demand   one line for people
    run      raises Broken when the plug-in does not keep it; whatever the plug-in raises comes through
    """

    name: str
    demand: str
    run: Callable[[], Awaitable[None]]

    async def fault(self) -> str | None:
        """Return what is wrong in one line; None = it holds."""
        try:
            await self.run()
        except Broken as broken:
            return str(broken)
        except Exception as error:  # noqa: BLE001  # a plug-in under test may raise anything
            return f"{self.name}: raised {type(error).__name__}: {error}"
        return None


def must(holds: bool, check: str, seen: str) -> None:
    if not holds:
        raise Broken(f"{check}: {seen}")
