"""Our own silences, as the verb `silence` sets them: in the journal, beside those that people set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agent.codec import pack
from agent.errors import Refused
from agent.memory import Memory, Silence

Put = Callable[[str, str, dict[str, Any]], Any]
"""(kind, subject, body): append to the journal and fold into memory."""


@dataclass(frozen=True, slots=True)
class OwnSilences:
    """`agent.ports.Silencer` over the journal."""

    memory: Memory
    put: Put
    clock: Callable[[], float]

    async def silence(self, key: str, target: str, until: float, by: str, reason: str) -> None:
        """Record it; one of the same key is made longer or shorter."""
        now = self.clock()
        if until <= now:
            raise Refused(f"a silence of {target} that ends in the past silences nothing")
        made = Silence(_id(key), target, until, by, reason, "", now)
        self.put("silence", made.id, pack(made))

    async def silenced(self, key: str) -> float | None:
        """Return until when it holds."""
        found = self.memory.silences.get(_id(key))
        return found.until if found is not None and self.clock() < found.until else None

    async def unsilence(self, key: str) -> None:
        """Record its end."""
        found = self.memory.silences.get(_id(key))
        now = self.clock()
        if found is not None and now < found.until:
            self.put("silence", found.id, pack(replace(found, until=now)))


def _id(key: str) -> str:
    return f"sil-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
