"""The contract of an action: looking is free, acting is once, undo puts back, and other people's changes stand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import pydantic

from agent.errors import Refused
from agent.ports import Action, Done, Step, Undo
from agent.testing._check import Broken, Check, must

_EFFECTS: Final = frozenset({"mutating", "marking", "reading"})


@dataclass(frozen=True, slots=True)
class Stage:
    """An action on a world of its own, ready to act.

    act      the action, built
    step     a step that has something to do there; its `before` is filled in by the checks
    world    reads what the action would change, not through the action; comparable
    disturb  changes the same thing as somebody else would; None = nobody else can
    meddle   the same after `run`, to what is neither as it was nor as `run` left it; None = `disturb` does
    again    builds the action, and what it acts through, anew: what remains of them after kill -9; None = can not be
    invisible   True when `run` leaves nothing that `world` could see (waiting, training that stands aside)
    """

    act: Action
    step: Step
    world: Callable[[], Awaitable[Any]]
    disturb: Callable[[], Awaitable[None]] | None = None
    invisible: bool = False
    meddle: Callable[[], Awaitable[None]] | None = None
    again: Callable[[], Action] | None = None

    def later(self) -> Action:
        """Return the action as the next life of the process would have it."""
        return self.again() if self.again is not None else self.act


MakeStage = Callable[[], AbstractAsyncContextManager[Stage]]


def check_action(make: MakeStage) -> list[Check]:
    """Return the checks for an action.

    make   opens a fresh stage for each check and takes it down afterwards
    """
    kept = _Actions(make)
    checks = [
        (
            "declared",
            "effect, ability, reversible, shared and Params are said; what is reversible has undo, or says why not",
        ),
        ("observing_is_free", "observe changes nothing, and what it returns survives JSON"),
        ("dry_run", "a dry run changes nothing and leaves nothing to undo"),
        (
            "reached",
            "not reached before, reached after run (seen through a fresh observe, after a restart)",
        ),
        (
            "plain",
            "Done has a summary; values as `gives` names them, which survive JSON as undo does; a change known as ours",
        ),
        (
            "twice_is_once",
            "a second try of the same step changes nothing more, also after a restart",
        ),
        (
            "undo",
            "undo puts back what was there, also after a restart and twice; what has no undo leaves nothing for one",
        ),
        ("undo_of_nothing", "undo of a step that did nothing changes nothing"),
        ("others", "what somebody else has changed since the plan is refused and left alone"),
        (
            "others_before_undo",
            "undo refuses what somebody else has changed since run, and leaves it alone",
        ),
    ]
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


class _Actions:
    """The checks of an action, one method each."""

    def __init__(self, make: MakeStage) -> None:
        self.make = make

    async def declared(self) -> None:
        async with self.make() as stage:
            act = stage.act
            cls = type(act)
            must(isinstance(act, Action), "declared", f"{cls.__name__} lacks a method of Action")
            must(
                act.effect in _EFFECTS,
                "declared",
                f"effect is {act.effect!r}, wanted one of {sorted(_EFFECTS)}",
            )
            for flag in ("reversible", "shared"):
                must(
                    isinstance(getattr(act, flag), bool), "declared", f"{flag} is not True or False"
                )
            must(
                act.ability is None or isinstance(act.ability, type),
                "declared",
                "ability is no Protocol",
            )
            stays = bool(getattr(act, "stays", ""))
            must(
                isinstance(act, Undo) or not act.reversible or act.effect == "reading" or stays,
                "declared",
                "reversible, but without undo, and it does not say in `stays` why",
            )
            must(
                not (stays and isinstance(act, Undo)),
                "declared",
                "it has an undo, and says that what it did stays",
            )
            params = getattr(cls, "Params", None)
            must(
                isinstance(params, type) and issubclass(params, pydantic.BaseModel),
                "declared",
                f"{cls.__name__} has no pydantic class Params",
            )
            strict = params is not None and params.model_config.get("extra") == "forbid"
            must(strict, "declared", "Params takes unknown keys: derive it from agent.units.Model")

    async def observing_is_free(self) -> None:
        async with self.make() as stage:
            before = await stage.world()
            one = await stage.act.observe(stage.step)
            two = await stage.act.observe(stage.step)
            _unchanged("observing_is_free", before, await stage.world(), "observe")
            must(one == two, "observing_is_free", f"two looks differ: {one} and {two}")
            _survives("observing_is_free", "what observe gave", one)

    async def dry_run(self) -> None:
        async with self.make() as stage:
            before = await stage.world()
            step = dataclasses.replace(await _planned(stage), dry_run=True)
            done = await stage.act.run(step)
            _unchanged("dry_run", before, await stage.world(), "a dry run")
            must(bool(done.summary), "dry_run", "it does not say what it would do")
            must(
                done.change is None,
                "dry_run",
                f"it tells of a change that did not happen: {done.change}",
            )
            must(not done.undo, "dry_run", f"it leaves {dict(done.undo)} to undo")

    async def reached(self) -> None:
        async with self.make() as stage:
            step = await _planned(stage)
            must(
                not stage.act.reached(step, step.before),
                "reached",
                "reached before anything was done",
            )
            await stage.act.run(step)
            later = stage.later()
            seen = _json(await later.observe(step))
            must(
                later.reached(step, seen),
                "reached",
                f"not reached after run; observe says {seen}",
            )

    async def plain(self) -> None:
        async with self.make() as stage:
            before = await stage.world()
            done = await stage.act.run(await _planned(stage))
            must(isinstance(done, Done) and bool(done.summary), "plain", f"run gave {done!r}")
            _survives("plain", "values", done.values)
            _survives("plain", "undo", done.undo)
            gives = getattr(stage.act, "gives", None)
            if gives is not None and not callable(gives):
                more = sorted(done.values.keys() - set(gives))
                must(not more, "plain", f"it gives {more}, which its `gives` does not name")
            moved = await stage.world() != before
            must(moved or stage.invisible, "plain", "run changed nothing that can be seen")
            must(
                done.change is None or done.change.ours,
                "plain",
                f"the change is told as made by {done.change and done.change.by!r}",
            )
            must(
                done.change is not None or stage.act.effect == "reading" or stage.invisible,
                "plain",
                "it changed the world and tells of no Change",
            )

    async def twice_is_once(self) -> None:
        async with self.make() as stage:
            step = await _planned(stage)
            await stage.act.run(step)
            after = await stage.world()
            await stage.act.run(step)
            _unchanged("twice_is_once", after, await stage.world(), "a second try of the same step")
            if stage.again is not None:
                await stage.again().run(step)
                what = "a second try of the same step after a restart"
                _unchanged("twice_is_once", after, await stage.world(), what)

    async def undo(self) -> None:
        async with self.make() as stage:
            act = stage.act
            before = await stage.world()
            step = await _planned(stage)
            done = await act.run(step)
            kept = _json(done.undo)
            if not isinstance(act, Undo):
                must(not kept, "undo", f"it has no undo, and leaves {kept} for one")
                return
            if not kept and not act.reversible:
                return  # nobody has declared how
            must(bool(kept), "undo", "run leaves nothing by which it could be put back")
            for turn in ("undo", "a second undo"):
                later = stage.later()
                assert isinstance(later, Undo)  # noqa: S101  # it is of the same class
                back = await later.undo(step, kept)
                must(bool(back.summary), "undo", f"{turn} does not say what it did")
                _unchanged("undo", before, await stage.world(), f"run and {turn}")

    async def undo_of_nothing(self) -> None:
        async with self.make() as stage:
            act = stage.act
            if not isinstance(act, Undo):
                return
            before = await stage.world()
            await act.undo(await _planned(stage), {})
            _unchanged(
                "undo_of_nothing", before, await stage.world(), "undo of a step that did nothing"
            )

    async def others(self) -> None:
        async with self.make() as stage:
            if stage.disturb is None:
                return
            step = await _planned(stage)
            await stage.disturb()
            theirs = await stage.world()
            try:
                done = await stage.act.run(step)
            except Refused:
                _unchanged("others", theirs, await stage.world(), "a refused run")
            else:
                raise Broken(f"others: it acted over what somebody else had set: {done.summary}")

    async def others_before_undo(self) -> None:
        check = "others_before_undo"
        async with self.make() as stage:
            meddle = stage.meddle or stage.disturb
            later = stage.later()
            if meddle is None or not isinstance(later, Undo):
                return
            step = await _planned(stage)
            done = await stage.act.run(step)
            await meddle()
            theirs = await stage.world()
            try:
                back = await later.undo(step, _json(done.undo))
            except Refused:
                _unchanged(check, theirs, await stage.world(), "a refused undo")
            else:
                raise Broken(f"{check}: somebody else had changed it, and it said: {back.summary}")


async def _planned(stage: Stage) -> Step:
    """Fill in what was seen when the step was planned; it travels through the journal as JSON."""
    seen = await stage.act.observe(stage.step)
    return dataclasses.replace(stage.step, before=_json(seen))


def _json(data: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(data), allow_nan=False))


def _survives(check: str, what: str, data: Mapping[str, Any]) -> None:
    try:
        back = _json(data)
    except (TypeError, ValueError) as wrong:
        raise Broken(f"{check}: {what} is no JSON: {wrong}") from None
    must(_plain(data) == back, check, f"{what} is another after JSON: {data} became {back}")


def _plain(data: Any) -> Any:
    """Lists for tuples, which JSON does not tell apart."""
    if isinstance(data, Mapping):
        return {k: _plain(v) for k, v in data.items()}
    return [_plain(v) for v in data] if isinstance(data, list | tuple) else data


def _unchanged(check: str, before: Any, after: Any, what: str) -> None:
    must(before == after, check, f"{what} changed the world from {before} to {after}")
