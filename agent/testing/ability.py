"""The contract of an ability: strangers are refused, what others have set stands, once is once, nothing is claimed.

    for check in check_setting("Scaler", make):
        print(check.name, await check.fault() or "holds")

Whatever an ability is called, it has one of two forms, or both. A setting (`SETTINGS`) is read, and set if it is what
was expected. A deed (`DEEDS`) is done once per key: of a step, or of a life that it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.testing._check import Broken, Check, must

_BY: Final = "homeostat:check"
_TIMEOUT_S: Final = 5.0
_NONE: Final = "nobody_has_this_count"

GONE: Final = "gone"
"""Nobody is there."""
CUT: Final = "cut"
"""It does the next change, and is gone before it answers."""
LAST: Final = "last"
"""It does the next change, answers, and is gone."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A connector that has an ability, over a side made for one check.

    connector  it; whoever made it closes it
    whom       what it serves, as the ability calls it: mostly an entity id
    stranger   what it does not serve
    serves     what the refusal of a stranger says, so that a reader knows where to look
    values     of a setting: as it is, and one or two others that it may take; of a deed: one key, or two
    world      looks at the side, not through the connector; of a deed: how often it was done
    fate       has the side suffer GONE, CUT or LAST from now on; "" = it is well again
    fates      those that it can suffer
    again      builds the connector anew, as after a restart
    what       what of it, where that is not said by `whom`: the name of a limit, `weight`
    lost       as what it is told that a side is gone: a file that is not there is Refused, as a person must mend it
    """

    connector: Any
    whom: str
    stranger: str
    serves: str
    values: tuple[Any, ...]
    world: Callable[[], Any]
    fate: Callable[[str], Awaitable[None]]
    fates: frozenset[str]
    again: Callable[[], Any]
    what: str = ""
    lost: tuple[type[AgentError], ...] = (Unavailable, Uncertain)


MakeGround = Callable[[], AbstractAsyncContextManager[Ground]]
_Ask = Callable[[Any, Ground, str], Awaitable[Any]]
_Write = Callable[[Any, Ground, str, Any, Any], Coroutine[Any, Any, Any]]
_Do = Callable[[Any, Ground, str, Any], Coroutine[Any, Any, Any]]
_Done = Callable[[Any, Ground, Any], Awaitable[bool]]
_Form = TypeVar("_Form")


@dataclass(frozen=True, slots=True)
class _Setting:
    """How a setting is read and written.

    asks    what else refuses a stranger
    misses  asks what it serves for something that it has not
    """

    read: _Ask
    write: _Write
    asks: tuple[_Ask, ...] = ()
    misses: tuple[_Ask, ...] = ()


@dataclass(frozen=True, slots=True)
class _Deed:
    """How something is done for a key, and how one sees that it was; `asks`: what else refuses a stranger."""

    do: _Do
    done: _Done
    asks: tuple[_Ask, ...] = ()


def _service(replica: str) -> str:
    return f"service:{replica.partition(':')[2].rpartition('/')[0]}"


async def _backend(c: Any, g: Ground, whom: str) -> Any:
    found = (await c.backends(_service(whom)))[whom]
    return found.state if g.what == "state" else found.weight


def _set_backend(c: Any, g: Ground, whom: str, value: Any, expect: Any) -> Any:
    return (c.set_state if g.what == "state" else c.set_weight)(whom, value, expect)


async def _closed(c: Any, _: Ground, whom: str) -> Any:
    return (await c.node(whom)).closed


async def _champion(c: Any, _: Ground, whom: str) -> Any:
    return (await c.champion(whom)).version


async def _revision(c: Any, _: Ground, whom: str) -> Any:
    return (await c.rollout(whom)).revision


SETTINGS: Final[dict[str, _Setting]] = {
    "Scaler": _Setting(
        lambda c, _, whom: c.replicas(whom),
        lambda c, _, whom, value, expect: c.set_replicas(whom, value, expect),
    ),
    "Limiter": _Setting(
        lambda c, g, whom: c.limit(whom, g.what),
        lambda c, g, whom, value, expect: c.set_limit(whom, g.what, value, expect),
        (lambda c, g, whom: c.nearest(whom, g.what, g.values[1]),),
        (
            lambda c, _, whom: c.limit(whom, _NONE),
            lambda c, g, whom: c.nearest(whom, _NONE, g.values[1]),
        ),
    ),
    "Flags": _Setting(
        lambda c, _, whom: c.flag(whom),
        lambda c, _, whom, value, expect: c.set_flag(whom, value, expect, _BY),
    ),
    "Traffic": _Setting(_backend, _set_backend),
    "Roster": _Setting(
        lambda c, _, whom: c.address(whom),
        lambda c, _, whom, value, expect: c.set_address(whom, value, expect),
    ),
    "Nodes": _Setting(
        _closed,
        lambda c, _, whom, value, expect: c.set_closed(whom, value, expect, _BY),
        (lambda c, _, whom: c.tenants(whom),),
    ),
    "Models": _Setting(
        _champion,
        lambda c, _, whom, value, expect: c.promote(whom, value, expect, _BY),
        (lambda c, _, whom: c.versions(whom), lambda c, _, whom: c.retraining_held(whom)),
    ),
    "Rollouts": _Setting(
        _revision,
        lambda c, _, whom, value, expect: c.roll_to(whom, value, expect),
        (lambda c, _, whom: c.earlier(whom), lambda c, _, whom: c.unblock(whom)),
    ),
}
"""Abilities that set something if it is as expected."""


async def _replaced(c: Any, g: Ground, key: Any) -> bool:
    """Tell whether a replica of that birth lives no more."""
    return all(unit.birth != key for unit in await c.units(g.whom))


async def _evicted(c: Any, g: Ground, key: Any) -> bool:
    return all(tenant.birth != key for tenant in await c.tenants(g.whom))


async def _held(c: Any, g: Ground, key: Any) -> bool:
    hold = await c.retraining_held(g.whom)
    return hold is not None and bool(hold.by == key)


async def _rolled(c: Any, g: Ground, key: Any) -> bool:
    return bool((await c.rollout(g.whom)).restarted == key)


async def _found(asked: Awaitable[Any]) -> bool:
    return await asked is not None


async def _aside(c: Any, _: Ground, key: Any) -> bool:
    return bool(await c.aside(key))


async def _was_reset(c: Any, _: Ground, key: Any) -> bool:
    return bool(await c.was_reset(key))


DEEDS: Final[dict[str, _Deed]] = {
    "Restarter": _Deed(
        lambda c, _, whom, key: c.restart(whom, key), _replaced, (lambda c, _, whom: c.units(whom),)
    ),
    "Rollouts": _Deed(lambda c, g, whom, key: c.roll_again(whom, key, g.what), _rolled),
    "Nodes": _Deed(lambda c, _, whom, key: c.evict(whom, key, None), _evicted),
    "Models": _Deed(lambda c, _, whom, key: c.hold_retraining(whom, "bad data", key), _held),
    "Trainer": _Deed(
        lambda c, _, whom, key: c.train(whom, key), lambda c, _, key: _found(c.find(key))
    ),
    "Calls": _Deed(
        lambda c, _, whom, key: c.call("POST", whom, None, key, _TIMEOUT_S),
        lambda c, _, key: _found(c.answered(key)),
    ),
    "Commands": _Deed(
        lambda c, _, whom, key: c.execute(whom, {}, key, "host:web-1"),
        lambda c, _, key: _found(c.executed(key)),
    ),
    "Pruner": _Deed(
        lambda c, _, whom, key: c.set_aside(whom, math.inf, key),
        _aside,
        (lambda c, _, whom: c.candidates(whom, math.inf),),
    ),
    "GpuCare": _Deed(
        lambda c, _, whom, key: c.reset(whom, key), _was_reset, (lambda c, _, whom: c.health(whom),)
    ),
    "Silencer": _Deed(
        lambda c, _, whom, key: c.silence(key, whom, 4e9, _BY, "we work there"),
        lambda c, _, key: _found(c.silenced(key)),
    ),
}
"""Abilities that do something once per key."""


def check_setting(ability: str, make: MakeGround) -> list[Check]:
    """Return the checks for an ability that sets something: one of SETTINGS.

    make   stands up a fresh ground for each check, and ends it
    """
    kept = _Settings(SETTINGS[ability], make)
    checks = [
        ("strangers", "what it does not serve is refused, and told whom it serves; nothing changes"),
        ("reads", "what is read is what is there, by whoever reads it, and reading changes nothing"),
        ("sets", "what is read after a change is what was set, also after a restart, and it can be put back"),
        ("others", "when it is not as expected it is refused and nothing changes"),
        ("twice", "the same change twice is done once"),
        ("at_once", "of two changes at once from the same value one is done, and the other is refused"),
        ("gone", "a side that is gone is told as that, nothing is claimed, and later it works again"),
        ("cut_off", "a side that goes in the midst: who says that nothing has happened is right"),
        ("describes", "it says what it may do, also of a side that is gone, and changes nothing"),
    ]  # fmt: skip
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


def check_deed(ability: str, make: MakeGround) -> list[Check]:
    """Return the checks for an ability that does something once per key: one of DEEDS.

    make   stands up a fresh ground for each check, and ends it
    """
    kept = _Deeds(DEEDS[ability], make)
    checks = [
        ("strangers", "what it does not serve is refused, and told whom it serves; nothing is done"),
        ("once", "the same key is done once, also after a restart; another key is another deed"),
        ("told", "whether it was done for a key is told, before, after, and after a restart"),
        ("at_once", "the same key twice at once is done once"),
        ("gone", "a side that is gone is told as that, nothing is claimed, and later it works again"),
        ("cut_off", "a side that goes in the midst: who says that nothing was done is right; a second try adds none"),
        ("describes", "it says what it may do, also of a side that is gone, and changes nothing"),
    ]  # fmt: skip
    return [Check(name, demand, getattr(kept, name)) for name, demand in checks]


class _Checks(Generic[_Form]):
    """What both forms share: how it is used, a fresh ground for each check, and what it says of itself."""

    def __init__(self, way: _Form, make: MakeGround) -> None:
        self._way = way
        self._make = make

    async def describes(self) -> None:
        async with self._make() as g:
            before = g.world()
            must(hasattr(g.connector, "describe"), "describes", "it has no describe()")
            said = list(await g.connector.describe())
            lines = bool(said) and all(isinstance(line, str) and line.strip() for line in said)
            must(lines, "describes", f"it says {said}")
            _same("describes", before, g.world(), "describe()")
            if GONE in g.fates:
                await g.fate(GONE)
                with contextlib.suppress(Unavailable, Refused):  # said as well
                    told = bool(await g.connector.describe())
                    must(told, "describes", "it says nothing of its loss")
                await g.fate("")


class _Settings(_Checks[_Setting]):
    """The checks of a setting, one method each."""

    async def _read(self, g: Ground, connector: Any = None) -> Any:
        return await self._way.read(connector or g.connector, g, g.whom)

    def _write(self, g: Ground, value: Any, expect: Any) -> Coroutine[Any, Any, Any]:
        return self._way.write(g.connector, g, g.whom, value, expect)

    async def strangers(self) -> None:
        async with self._make() as g:
            before = g.world()
            for ask in (self._way.read, *self._way.asks):
                await _refuses(g, ask(g.connector, g, g.stranger))
            write = self._way.write(g.connector, g, g.stranger, g.values[1], g.values[0])
            await _refuses(g, write)
            for ask in self._way.misses:
                error = await _error(ask(g.connector, g, g.whom))
                must(isinstance(error, Refused), "strangers", f"what it has not: {_said(error)}")
            _same("strangers", before, g.world(), "what was refused")

    async def reads(self) -> None:
        async with self._make() as g:
            before = g.world()
            for connector in (g.connector, g.connector, g.again()):
                found = await self._read(g, connector)
                must(found == g.values[0], "reads", f"it reads {found!r}, there is {g.values[0]!r}")
            _same("reads", before, g.world(), "reading")

    async def sets(self) -> None:
        async with self._make() as g:
            before, now = g.world(), g.values[0]
            for value in g.values[1:]:
                await self._write(g, value, now)
                must(g.world() != before, "sets", f"{value!r} was set, and nothing changed")
                for connector in (g.connector, g.again()):
                    found = await self._read(g, connector)
                    must(found == value, "sets", f"{value!r} was set, and {found!r} is read")
                now = value
            await self._write(g, g.values[0], now)
            _same("sets", before, g.world(), "to set it and put it back")

    async def others(self) -> None:
        async with self._make() as g:
            before = g.world()
            error = await _error(self._write(g, g.values[1], g.values[-1]))
            must(
                isinstance(error, Refused),
                "others",
                f"it is {g.values[0]!r}, {g.values[-1]!r} was expected: {_said(error)}",
            )
            _same("others", before, g.world(), "what was refused")
            found = await self._read(g)
            must(found == g.values[0], "others", f"then it reads {found!r}, not {g.values[0]!r}")

    async def twice(self) -> None:
        async with self._make() as g:
            await self._write(g, g.values[1], g.values[0])
            after = g.world()
            error = await _error(self._write(g, g.values[1], g.values[0]))
            must(error is None or isinstance(error, Refused), "twice", f"again: {_said(error)}")
            _same("twice", after, g.world(), "a second try")

    async def at_once(self) -> None:
        async with self._make() as g:
            wanted = (g.values[1], g.values[-1])
            errors = await asyncio.gather(
                *(_error(self._write(g, value, g.values[0])) for value in wanted)
            )
            won = [value for value, error in zip(wanted, errors, strict=True) if error is None]
            said = [_said(error) for error in errors]
            must(len(won) == 1, "at_once", f"of two changes {len(won)} were done: {said}")
            found = await self._read(g)
            must(found == won[0], "at_once", f"{won[0]!r} was set, and {found!r} is read")

    async def gone(self) -> None:
        async with self._make() as g:
            if GONE not in g.fates:
                return
            before = g.world()
            await g.fate(GONE)
            error = await _error(self._read(g))
            must(isinstance(error, g.lost), "gone", f"read: {_said(error)}")
            error = await _error(self._write(g, g.values[1], g.values[0]))
            must(isinstance(error, g.lost), "gone", f"set: {_said(error)}")
            await g.fate("")
            _same("gone", before, g.world(), "what came to nobody")
            found = await self._read(g)
            must(found == g.values[0], "gone", f"well again, it reads {found!r}")
            await self._write(g, g.values[1], g.values[0])

    async def cut_off(self) -> None:
        for fate in (CUT, LAST):
            async with self._make() as g:
                if fate not in g.fates:
                    continue
                before = g.world()
                await g.fate(fate)
                error = await _error(self._write(g, g.values[1], g.values[0]))
                await g.fate("")
                changed = g.world() != before
                _claims(fate, error, changed=changed)
                if changed:
                    found = await self._read(g)
                    must(found == g.values[1], "cut_off", f"{fate}: then it reads {found!r}")


class _Deeds(_Checks[_Deed]):
    """The checks of a deed, one method each."""

    def _do(self, g: Ground, key: Any, connector: Any = None) -> Coroutine[Any, Any, Any]:
        return self._way.do(connector or g.connector, g, g.whom, key)

    async def strangers(self) -> None:
        async with self._make() as g:
            for ask in self._way.asks:
                await _refuses(g, ask(g.connector, g, g.stranger))
            await _refuses(g, self._way.do(g.connector, g, g.stranger, g.values[0]))
            _times("strangers", g.world(), 0)

    async def once(self) -> None:
        async with self._make() as g:
            key = g.values[0]
            await self._do(g, key)
            _times("once", g.world(), 1)
            for connector in (g.connector, g.again()):
                error = await _error(self._do(g, key, connector))
                must(error is None or isinstance(error, Refused), "once", f"again: {_said(error)}")
                _times("once", g.world(), 1)
            for other in g.values[1:]:
                await self._do(g, other)
                _times("once", g.world(), 2)

    async def told(self) -> None:
        async with self._make() as g:
            key = g.values[0]
            must(not await self._way.done(g.connector, g, key), "told", "done before it was")
            _times("told", g.world(), 0)
            await self._do(g, key)
            for connector in (g.connector, g.again()):
                must(
                    await self._way.done(connector, g, key), "told", "it was done, and is not seen"
                )
            for other in g.values[1:]:
                must(not await self._way.done(g.connector, g, other), "told", f"{other} was not")
            _times("told", g.world(), 1)

    async def at_once(self) -> None:
        async with self._make() as g:
            key = g.values[0]
            errors = await asyncio.gather(*(_error(self._do(g, key)) for _ in range(2)))
            must(None in errors, "at_once", f"neither was done: {[_said(e) for e in errors]}")
            _times("at_once", g.world(), 1)

    async def gone(self) -> None:
        async with self._make() as g:
            if GONE not in g.fates:
                return
            key = g.values[0]
            await g.fate(GONE)
            error = await _error(self._do(g, key))
            must(isinstance(error, g.lost), "gone", _said(error))
            await g.fate("")
            _times("gone", g.world(), 0)
            must(not await self._way.done(g.connector, g, key), "gone", "it is told as done")
            if not isinstance(error, Uncertain):
                await self._do(g, key)
                _times("gone", g.world(), 1)

    async def cut_off(self) -> None:
        for fate in (CUT, LAST):
            async with self._make() as g:
                if fate not in g.fates:
                    continue
                key = g.values[0]
                await g.fate(fate)
                error = await _error(self._do(g, key))
                await g.fate("")
                _claims(fate, error, changed=g.world() > 0)
                await _error(self._do(g, key, g.again()))
                times = g.world()
                must(times <= 1, "cut_off", f"{fate}: after a second try it was done {times} times")


async def _error(call: Awaitable[Any]) -> AgentError | None:
    """Return the failure that a call told; anything that is none of ours comes through."""
    try:
        await call
    except Broken:
        raise
    except AgentError as error:
        return error
    return None


def _said(error: AgentError | None) -> str:
    return "no failure" if error is None else f"{type(error).__name__} ({error})"


async def _refuses(g: Ground, call: Awaitable[Any]) -> None:
    error = await _error(call)
    told = isinstance(error, Refused) and g.serves in str(error)
    must(told, "strangers", f"{g.stranger}: {_said(error)}, wanted Refused that says {g.serves!r}")


def _claims(fate: str, error: AgentError | None, *, changed: bool) -> None:
    """See that what was told of a side that went is so: nothing has happened, or it is done."""
    if error is None:
        must(changed, "cut_off", f"{fate}: told as done, and nothing changed")
    elif not isinstance(error, Uncertain):
        must(not changed, "cut_off", f"{fate}: it was done, and told as {_said(error)}")


def _times(check: str, times: Any, wanted: int) -> None:
    must(times == wanted, check, f"it was done {times} times, wanted {wanted}")


def _same(check: str, before: Any, after: Any, what: str) -> None:
    must(before == after, check, f"{what} changed the world from {before} to {after}")
