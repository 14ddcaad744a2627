"""The contract of a way to people: one message a key, faults that are told apart, and not a word of its secrets."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.ports import Abilities, Note, Notifier
from agent.testing._check import Check, must

_Errors = tuple[type[AgentError], ...]
NOTIFIER_FAULTS: Final[dict[str, _Errors]] = {
    "dropped": (Unavailable, Uncertain),
    "slow": (Unavailable, Uncertain),
    "unauthorized": (Unavailable,),
    "forbidden": (Unavailable,),
    "busy": (Unavailable,),
    "broken": (Unavailable, Uncertain),
    "redirect": (Unavailable,),
    "unfit": (Refused,),
    "garbage": (),
}
"""What the other side may do, and what the notifier then raises; () = anything expected, or nothing."""
BUSY_S: Final = 7.0
"""What a side that is busy asks for, where its protocol can."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """A notifier and the other side, made for a test.

    fault    makes the other side do one of NOTIFIER_FAULTS from now on; "" = it is well again
    faults   those that it can do
    heard    names of what people have got to see; the same message twice has one name
    secrets  texts that must show up nowhere
    waits    whether its protocol can say how long to wait
    """

    notifier: Notifier
    fault: Callable[[str], None]
    faults: frozenset[str]
    heard: Callable[[], Sequence[str]]
    secrets: Sequence[str]
    waits: bool = True


MakeHearing = Callable[[], AbstractAsyncContextManager[Hearing]]


def check_notifier(make: MakeHearing, event: str = "") -> list[Check]:
    """Return the checks for a notifier.

    make    stands up a fresh one with its other side, and ends both
    event   of the notes that it is given, for one that takes no messages
    """
    kept = _Notifiers(make, event)
    checks = [
        ("once", "the same key is one message, another key another one"),
        (
            "faults",
            "what the other side does is sorted: mend the way and wait, or give up the note",
        ),
        ("again", "what failed is delivered with the next try, once"),
        ("quiet", "no secret stands in an error, its traceback, or what it says of itself"),
        ("looks", "to say what it would do sends nothing"),
    ]
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


class _Notifiers:
    """The checks of a notifier, one method each."""

    def __init__(self, make: MakeHearing, event: str) -> None:
        self._make = make
        self._event = event

    def _note(self, key: str) -> Note:
        return Note(
            key, 1_800_000_000.0 + len(key), "page", "it is slow\r\nBcc: all@example.org", "look <at> it",
            f"inc-{key}", event=self._event, link="https://homeostat.example.org",
        )  # fmt: skip

    async def _wrong(self, hearing: Hearing, fault: str, key: str) -> AgentError | None:
        hearing.fault(fault)
        try:
            await hearing.notifier.notify(self._note(key))
        except AgentError as error:
            return error
        return None

    async def once(self) -> None:
        async with self._make() as hearing:
            for key in ("a", "a", "bb"):
                await hearing.notifier.notify(self._note(key))
            found = list(hearing.heard())
        must(len(set(found)) == 2, "once", f"three notes of two keys were heard as {found}")

    async def faults(self) -> None:
        async with self._make() as hearing:
            for fault, wanted in NOTIFIER_FAULTS.items():
                if fault not in hearing.faults:
                    continue
                error = await self._wrong(hearing, fault, fault)
                must(
                    not wanted or isinstance(error, wanted),
                    "faults",
                    f"{fault}: {type(error).__name__} ({error}), wanted {[w.__name__ for w in wanted]}",
                )
                if fault == "busy" and hearing.waits:
                    waits = getattr(error, "wait_s", None)
                    must(waits == BUSY_S, "faults", f"busy: waits {waits}, asked for {BUSY_S:g} s")

    async def again(self) -> None:
        async with self._make() as hearing:
            for fault in sorted(hearing.faults - {"garbage"}):
                await self._wrong(hearing, fault, fault)
                before = set(hearing.heard())
                error = await self._wrong(hearing, "", fault)
                must(error is None, "again", f"after {fault}, well again: {error}")
                new = set(hearing.heard()) - before
                must(len(new) <= 1, "again", f"after {fault} it was told {len(new)} times")
                must(bool(new) or fault == "slow", "again", f"after {fault} it was never told")

    async def quiet(self) -> None:
        async with self._make() as hearing:
            said = []
            for fault in sorted(hearing.faults):
                error = await self._wrong(hearing, fault, fault)
                if error is not None:
                    said += traceback.format_exception(error)
            if isinstance(hearing.notifier, Abilities):
                said += await hearing.notifier.describe()
            for n, secret in enumerate(hearing.secrets):
                must(not any(secret in text for text in said), "quiet", f"secret {n} was told")

    async def looks(self) -> None:
        async with self._make() as hearing:
            said = (
                await hearing.notifier.describe() if isinstance(hearing.notifier, Abilities) else ()
            )
            must(bool(said), "looks", "it can not say where it would send (describe)")
            must(not hearing.heard(), "looks", f"describe sent {list(hearing.heard())}")
