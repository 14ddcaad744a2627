"""Make room on a disk: move old files aside (that can be put back), or delete them (that can not)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, runtime_checkable

from pydantic import Field, StringConstraints

from agent.errors import Refused
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Bytes, Model, many, say
from playbooks.actions._step import change, nothing, target

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class OldFile(Protocol):
    """A file that a rule would take."""

    @property
    def path(self) -> str:
        """Where it is."""
        ...

    @property
    def size(self) -> int:
        """Bytes on disk."""
        ...


@runtime_checkable
class Pruner(Protocol):
    """Something that may move files of named rules aside and delete them. Blocking work is done in threads."""

    async def candidates(self, rule: str, most_bytes: float) -> Sequence[OldFile]:
        """Return what a rule would take now, oldest first; raises Refused for a rule that is not allowed."""
        ...

    async def set_aside(self, rule: str, most_bytes: float, key: str) -> Sequence[OldFile]:
        """Move them into the quarantine of this key, or go on with what a try before has begun; return them all."""
        ...

    async def aside(self, key: str) -> Sequence[OldFile]:
        """Return what lies in the quarantine of this key, by where it came from."""
        ...

    async def put_back(self, key: str) -> tuple[int, Sequence[str]]:
        """Move all of it back; return how many, and paths where others have put something meanwhile."""
        ...

    async def empty(self, key: str) -> int:
        """Delete the quarantine of this key; return how many bytes that gave."""
        ...

    async def emptied(self, key: str) -> bool:
        """Tell whether the quarantine of this key was emptied."""
        ...


class _Old:
    """What both verbs share."""

    effect = "mutating"
    ability = Pruner
    shared = False

    class Params(Model):
        """What to take."""

        rule: Word
        """Its name in agent.yaml."""
        most: Annotated[Bytes, Field(gt=0)] = 1e12
        """Never more than this, the oldest first."""

    def __init__(self, params: Params, ability: Pruner) -> None:
        self._params = params
        self._pruner = ability

    async def _plan(self) -> dict[str, Any]:
        found = await self._pruner.candidates(self._params.rule, self._params.most)
        return {"rule": self._params.rule, "files": len(found), "bytes": sum(f.size for f in found)}

    def _would(self, verb: str, plan: Mapping[str, Any]) -> Done:
        return Done(
            f"would {verb} {_sized(plan['files'], plan['bytes'])} of {self._params.rule}", plan
        )


@action("quarantine")
class Quarantine(_Old):
    """Move old files aside, on the same disk: nothing is freed yet; undo moves them back."""

    gives = ("rule", "files", "bytes")

    reversible = True

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return how many files this step has moved, and how many the rule would take."""
        return {**await self._plan(), "moved": len(await self._pruner.aside(step.key))}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it has begun: `run` then goes on."""
        del step
        return bool(seen["moved"])

    async def run(self, step: Step) -> Done:
        """Move them."""
        about, plan = target(step), await self._plan()
        moved = await self._pruner.aside(step.key)
        if not moved and not plan["files"]:
            raise Refused(
                f"rule {self._params.rule} finds nothing to take; look elsewhere for room"
            )
        if step.dry_run:
            return self._would("move", plan)
        moved = await self._pruner.set_aside(self._params.rule, self._params.most, step.key)
        size = sum(f.size for f in moved)
        return Done(
            f"moved {_sized(len(moved), size)} of {self._params.rule} aside",
            {"rule": self._params.rule, "files": len(moved), "bytes": size},
            {"files": len(moved)},
            change(step, about, "act", "in place", "aside"),
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Move them back; what others have put in their place stands."""
        if nothing(done):
            return Done("nothing to put back: this step has moved nothing")
        if step.dry_run:
            return Done(f"would move {many(done['files'], 'file')} back")
        n, blocked = await self._pruner.put_back(step.key)
        if blocked:
            raise Refused(
                f"{many(n, 'file is', 'files are')} back; others have put something in the place of "
                f"{', '.join(blocked[:3])}: these stay aside"
            )
        if not n:
            return Done("they are back already")
        return Done(
            f"moved {many(n, 'file')} back",
            {"files": n},
            change=change(step, target(step), "act", "aside", "in place"),
        )


@action("prune")
class Prune(_Old):
    """Delete old files of an allow-listed rule. Nothing brings them back."""

    reversible = False
    gives = ("rule", "files", "bytes")

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return how many files the rule would take, and whether this step has deleted its own."""
        return {
            **await self._plan(),
            "begun": len(await self._pruner.aside(step.key)),
            "over": await self._pruner.emptied(step.key),
        }

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it has begun: `run` then goes on."""
        del step
        return bool(seen["begun"] or seen["over"])

    async def run(self, step: Step) -> Done:
        """Move them aside, so that the journal on disk names each, then delete them."""
        about, plan = target(step), await self._plan()
        if await self._pruner.emptied(step.key):
            return Done(
                f"files of {self._params.rule} were deleted already", {"rule": self._params.rule}
            )
        if not plan["files"] and not await self._pruner.aside(step.key):
            raise Refused(
                f"rule {self._params.rule} finds nothing to take; look elsewhere for room"
            )
        if step.dry_run:
            return self._would("delete", plan)
        moved = await self._pruner.set_aside(self._params.rule, self._params.most, step.key)
        freed = await self._pruner.empty(step.key)
        return Done(
            f"deleted {_sized(len(moved), freed)} of {self._params.rule}",
            {"rule": self._params.rule, "files": len(moved), "bytes": freed},
            change=change(step, about, "act", many(len(moved), "file"), "deleted"),
        )


def _sized(n: int, size: float) -> str:
    return f"{many(n, 'file')} ({say(float(size), 'bytes')})"
