"""Which version of a model answers: roll back, promote, deploy a backup; and hold or release retraining.

The first three verbs move one pointer, the champion, by compare-and-set: if it is no longer what the run was planned
against, somebody else is at work and the step is refused. Undo puts the old champion back under the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Model
from playbooks.actions._step import VersionText, author, change, nothing, target


class Champion(Protocol):
    """The version that answers now.

    previous   champions before it, newest first
    by         who set it; "" = not said
    """

    @property
    def version(self) -> str:
        """Its name."""
        ...

    @property
    def previous(self) -> tuple[str, ...]:
        """Champions before it, newest first."""
        ...

    @property
    def by(self) -> str:
        """Who did it; empty = not said."""
        ...


class Version(Protocol):
    """One trained version.

    role         candidate (may become champion) | backup (kept for the day when a feature breaks)
    trained_at   unix seconds; accuracy: on its own reference rows; both None = not said
    """

    @property
    def version(self) -> str:
        """Its name."""
        ...

    @property
    def role(self) -> str:
        """`candidate` or `backup`."""
        ...

    @property
    def features(self) -> tuple[str, ...]:
        """Names of its inputs."""
        ...

    @property
    def trained_at(self) -> float | None:
        """Unix seconds."""
        ...

    @property
    def accuracy(self) -> float | None:
        """On its own reference rows."""
        ...


class Hold(Protocol):
    """Retraining is held back: why and by whom."""

    @property
    def reason(self) -> str:
        """What people read."""
        ...

    @property
    def by(self) -> str:
        """Who did it; empty = not said."""
        ...


@runtime_checkable
class Models(Protocol):
    """A registry of model versions with one champion a model.

    Every method raises Unavailable when the registry does not answer and Refused for what does not exist.
    """

    async def champion(self, model: str) -> Champion:
        """Return the version in use."""
        ...

    async def versions(self, model: str) -> Sequence[Version]:
        """Return all versions that could be put to use, oldest first."""
        ...

    async def promote(self, model: str, version: str, expect: str, by: str) -> None:
        """Make `version` the champion if `expect` is it now; Refused when it is not, Uncertain when unclear."""
        ...

    async def hold_retraining(self, model: str, reason: str, by: str) -> None:
        """Forbid retraining; a hold that is there already stays as it is."""
        ...

    async def release_retraining(self, model: str, by: str) -> None:
        """Allow retraining again if `by` holds it; Refused when somebody else does."""
        ...

    async def retraining_held(self, model: str) -> Hold | None:
        """Return who holds retraining back and why; None = it is allowed."""
        ...


def model_of(step: Step, override: str) -> str:
    """Return the name of the model: said, or read from a target model:NAME, version:NAME/V, feature:NAME/F."""
    if override:
        return override
    about = target(step)
    if about.kind == "model":
        return about.key
    if about.kind in {"version", "feature"}:
        return about.key.partition("/")[0]
    if said := step.facts.get("model"):
        return said
    raise Refused(f"{step.use} does not know which model is meant by {about}: write `model: NAME`")


class _Pointer:
    """What the three verbs that move the champion share: everything but the choice of the new one."""

    effect = "mutating"
    ability = Models
    reversible = True
    shared = True
    gives = ("model", "version", "before")

    def __init__(self, model: str, ability: Models) -> None:
        self._model = model
        self._models = ability

    async def _goal(self, step: Step, model: str, now: Champion) -> str:
        """Choose the version that shall answer; "" = there is none."""
        raise NotImplementedError

    def _none(self, step: Step, model: str) -> str:
        """Say why there is nothing to put to use."""
        raise NotImplementedError

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return the champion, those before it, and the version that this step would put in its place."""
        model = model_of(step, self._model)
        now = await self._models.champion(model)
        return {
            "model": model,
            "version": now.version,
            "previous": list(now.previous),
            "by": now.by,
            "goal": await self._goal(step, model, now),
        }

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether the version that was planned is the champion."""
        goal = step.before.get("goal") or seen["goal"]
        return bool(goal) and seen["version"] == goal

    async def run(self, step: Step) -> Done:
        """Move the pointer from the version that was planned against to the one that was planned."""
        model = model_of(step, self._model)
        now = await self._models.champion(model)
        before = str(step.before.get("version") or now.version)
        goal = str(step.before.get("goal") or await self._goal(step, model, now))
        if not goal:
            raise Refused(self._none(step, model))
        values = {"model": model, "version": goal, "before": before}
        if now.version == goal:
            # A try of ours that was cut off, or somebody else's act: only ours may be undone.
            ours = now.by == author(step) and before != goal
            return Done(
                f"{model}: version {goal} answers already"
                + (f", set by {now.by}" if now.by else ""),
                values,
                values if ours else {},
            )
        if now.version != before:
            raise Refused(_moved(model, now, before))
        if step.dry_run:
            return Done(
                f"would make version {goal} of {model} the champion in place of {before}", values
            )
        await self._models.promote(model, goal, before, author(step))
        return Done(
            f"{model}: version {goal} answers in place of {before}",
            values,
            values,
            change(step, Entity("model", model), "release", before, goal),
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Put the old champion back, if the pointer is still as we set it."""
        if nothing(done):
            return Done("nothing to put back: the champion was not moved by this step")
        model, ours, back = str(done["model"]), str(done["version"]), str(done["before"])
        now = await self._models.champion(model)
        values = {"model": model, "version": back, "before": ours}
        if now.version == back:
            return Done(f"{model}: version {back} answers again already", values)
        if now.version != ours or (now.by and now.by != author(step)):
            raise Refused(_moved(model, now, ours))
        if step.dry_run:
            return Done(f"would put version {back} of {model} back in place of {ours}", values)
        await self._models.promote(model, back, ours, author(step))
        return Done(
            f"{model}: version {back} answers again in place of {ours}",
            values,
            change=change(step, Entity("model", model), "release", ours, back),
        )


def _moved(model: str, now: Champion, expected: str) -> str:
    who = f" by {now.by}" if now.by else ""
    return (
        f"the champion of {model} was changed by others: it is version {now.version}{who}, "
        f"not {expected} as planned; look who is at work there before you act"
    )


@action("roll_back")
class RollBack(_Pointer):
    """Go back to the newest champion before this one that still exists, or to the version that is named."""

    class Params(Model):
        """What to roll back."""

        to: VersionText | None = None
        """The version to go back to; default: the champion before this one."""
        model: str = ""
        """Default: the model of the target."""

    def __init__(self, params: Params, ability: Models) -> None:
        super().__init__(params.model, ability)
        self._to = params.to

    async def _goal(self, step: Step, model: str, now: Champion) -> str:
        del step
        if self._to:
            return self._to
        there = {v.version for v in await self._models.versions(model)}
        return next((v for v in now.previous if v != now.version and v in there), "")

    def _none(self, step: Step, model: str) -> str:
        return f"{step.use}: {model} has no champion before this one whose files are still there; name one with `to:`"


@action("promote")
class Promote(_Pointer):
    """Make a version the champion."""

    class Params(Model):
        """What to promote."""

        version: VersionText
        """The version that shall answer: `'${steps.retrain.version}'`."""
        model: str = ""
        """Default: the model of the target."""

    def __init__(self, params: Params, ability: Models) -> None:
        super().__init__(params.model, ability)
        self._version = params.version

    async def _goal(self, step: Step, model: str, now: Champion) -> str:
        del step, model, now
        return self._version

    def _none(self, step: Step, model: str) -> str:
        return f"{step.use}: no version of {model} is named"


@action("deploy_backup")
class DeployBackup(_Pointer):
    """Let the newest backup version answer that does not use a broken feature."""

    class Params(Model):
        """What the backup must do without."""

        without: str = ""
        """Feature that it must not use; default: the fact `feature` of the diagnosis."""
        model: str = ""
        """Default: the model of the target."""

    def __init__(self, params: Params, ability: Models) -> None:
        super().__init__(params.model, ability)
        self._without = params.without

    def _feature(self, step: Step) -> str:
        feature = self._without or step.facts.get("feature", "")
        about = target(step)
        if not feature and about.kind == "feature":
            feature = about.key.partition("/")[2]
        if not feature:
            raise Refused(
                f"{step.use} does not know which feature is broken: write `without: FEATURE`"
            )
        return feature

    async def _goal(self, step: Step, model: str, now: Champion) -> str:
        del now
        feature = self._feature(step)
        fit = [
            v
            for v in await self._models.versions(model)
            if v.role == "backup" and feature not in v.features
        ]
        # versions come oldest first, so of two that were trained at once the later one wins
        best = max(enumerate(fit), key=lambda at: (at[1].trained_at or 0.0, at[0]), default=None)
        return best[1].version if best else ""

    def _none(self, step: Step, model: str) -> str:
        return (
            f"{step.use}: {model} has no backup version that does without {self._feature(step)}; "
            "train one with role backup"
        )


class _Retraining:
    """What holds retraining and what releases it look at alike."""

    effect = "marking"
    ability = Models
    reversible = True
    shared = True

    def __init__(self, params: Any, ability: Models) -> None:
        self._params = params
        self._models = ability

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return whether retraining is held, why and by whom."""
        model = model_of(step, self._params.model)
        hold = await self._models.retraining_held(model)
        return {
            "model": model,
            "held": hold is not None,
            "reason": hold.reason if hold else "",
            "by": hold.by if hold else "",
        }


@action("hold_retraining")
class HoldRetraining(_Retraining):
    """Forbid retraining while the data cannot be trusted; undo allows it again."""

    gives = ("model", "reason")

    class Params(Model):
        """Why, and of which model."""

        reason: str = Field(default="homeostat holds retraining", min_length=1, max_length=500)
        """What people read who wonder why their training is refused."""
        model: str = ""
        """Default: the model of the target."""

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether retraining is held, by whomever."""
        del step
        return bool(seen["held"])

    async def run(self, step: Step) -> Done:
        """Hold it; a hold of others stays theirs and is not ours to release."""
        model = model_of(step, self._params.model)
        values = {"model": model, "reason": self._params.reason}
        hold = await self._models.retraining_held(model)
        if hold is None and step.dry_run:
            return Done(f"would hold retraining of {model}: {self._params.reason}", values)
        if hold is None:
            await self._models.hold_retraining(model, self._params.reason, author(step))
            return Done(
                f"retraining of {model} is held: {self._params.reason}",
                values,
                {"model": model},
                change(
                    step, Entity("model", model), "flag", "retraining allowed", "retraining held"
                ),
            )
        ours = hold.by == author(step)
        return Done(
            f"retraining of {model} is held already: {hold.reason}",
            values,
            {"model": model} if ours else {},
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Allow retraining again, if the hold is still ours."""
        if nothing(done):
            return Done("nothing to put back: the hold is not of this step")
        model = str(done["model"])
        hold = await self._models.retraining_held(model)
        if hold is None:
            return Done(f"retraining of {model} is allowed already")
        if hold.by != author(step):
            raise Refused(
                f"the hold on retraining of {model} was changed by others: it is now of {hold.by or 'somebody'} "
                f"({hold.reason}); ask them to release it"
            )
        if step.dry_run:
            return Done(f"would allow retraining of {model} again")
        await self._models.release_retraining(model, author(step))
        return Done(
            f"retraining of {model} is allowed again",
            change=change(
                step, Entity("model", model), "flag", "retraining held", "retraining allowed"
            ),
        )


@action("release_retraining")
class ReleaseRetraining(_Retraining):
    """Allow retraining again where the hold is ours; that of a person stays. Undo holds it again."""

    gives = ("model",)

    class Params(Model):
        """Of which model."""

        model: str = ""
        """Default: the model of the target."""

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether retraining is allowed."""
        del step
        return not seen["held"]

    async def run(self, step: Step) -> Done:
        """Release it, if the hold is the one that was planned against, and ours."""
        model = model_of(step, self._params.model)
        hold = await self._models.retraining_held(model)
        planned = step.before.get("by", hold.by if hold else "")
        kept = {"model": model, "by": planned, "reason": step.before.get("reason", "")}
        if hold is None:
            ours = bool(step.before.get("held"))
            return Done(
                f"retraining of {model} is allowed already", {"model": model}, kept if ours else {}
            )
        if not hold.by.startswith("homeostat:") or hold.by != planned:
            raise Refused(
                f"retraining of {model} is held by {hold.by or 'somebody'} ({hold.reason}): ask them to release it"
            )
        if step.dry_run:
            return Done(f"would allow retraining of {model} again", {"model": model})
        await self._models.release_retraining(model, hold.by)
        return Done(
            f"retraining of {model} is allowed again",
            {"model": model},
            {**kept, "reason": hold.reason},
            change(step, Entity("model", model), "flag", "retraining held", "retraining allowed"),
        )

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Hold it again as it was held, unless somebody does."""
        if nothing(done):
            return Done("nothing to put back: this step has released nothing")
        model = str(done["model"])
        hold = await self._models.retraining_held(model)
        if hold is not None:
            return Done(f"retraining of {model} is held already: {hold.reason}")
        if step.dry_run:
            return Done(f"would hold retraining of {model} again")
        await self._models.hold_retraining(model, str(done["reason"]), str(done["by"]))
        return Done(
            f"retraining of {model} is held again: {done['reason']}",
            change=change(
                step, Entity("model", model), "flag", "retraining allowed", "retraining held"
            ),
        )
