"""Hold a process group back: lower its priority, or pause it. Both can be put back.

These verbs need no connector: they speak to the kernel of this host. They check by themselves, beside the guard,
that the group is the one that was planned against and that nothing in it is ours or the system's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sized
from typing import Annotated, Any, Final

from pydantic import Field

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Model, many
from playbooks.actions import _procfs as procfs
from playbooks.actions._step import change, nothing, target

_SETTLE_S: Final = 2.0
_PASSES: Final = 5
"""How often we look again for processes that were forked while we acted."""


@action("set_priority")
class SetPriority:
    """Lower the CPU priority of a process group; undo puts back that of each member.

    Nobody's priority is ever raised by `run`. Where the kernel shares the CPU between sessions first (autogroups),
    the session's share is lowered too, if the whole session belongs to the group.
    """

    effect = "mutating"
    ability = None
    reversible = True
    shared = False
    gives = ("process", "name", "nice", "members")

    class Params(Model):
        """How far down."""

        nice: Annotated[int, Field(ge=10, le=19)] = 10
        """Scheduling priority: 10 is low, 19 lowest."""
        process: str = ""
        """Entity id, `process:BOOT/PID/START`; default: the target."""
        irreversible_ok: bool = False
        """Go on although we may not put it back (that takes CAP_SYS_NICE)."""

    def __init__(self, params: Params, ability: None = None) -> None:
        del ability
        self._params = params

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return each member's priority; Refused when a privilege is missing for the act or for its undo."""
        return await asyncio.to_thread(self._look, target(step, self._params.process))

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether the group, and its session where that counts, is as low as asked, or on its way there by us.

        An act that was cut off half way counts as ours: `run` goes on from what `step.before` says there was.
        """
        nice = self._params.nice
        members: Mapping[str, Any] = seen["members"]
        if all(_low(one, nice) for one in members.values()) and all(
            n >= nice for n in seen["sessions"].values()
        ):
            return True
        planned = step.before.get("members", {})
        begun = [key for key, one in members.items() if key in planned and one != planned[key]]
        return bool(begun) and all(
            members[key]["nice"] == max(nice, planned[key]["nice"]) for key in begun
        )

    async def run(self, step: Step) -> Done:
        """Lower all members; if one cannot be lowered, the others are put back and the step is refused."""
        return await asyncio.to_thread(self._lower, step)

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Give every member its priority back, and to those forked since that of the leader."""
        if nothing(done):
            return Done("nothing to put back: no priority was changed")
        return await asyncio.to_thread(self._restore, step, done)

    # ---- in a thread: /proc of a busy host takes milliseconds

    def _look(self, about: Entity) -> dict[str, Any]:
        group, found = procfs.members(about)
        pid, _ = procfs.parse(about)
        for member in found:
            self._check(about, member)
        return {
            "process": about.id,
            "group": group,
            "name": next((m.name for m in found if m.pid == pid), ""),
            "members": {m.id: _priorities(m) for m in found},
            "sessions": _own_sessions(found),
        }

    def _check(self, about: Entity, member: procfs.Member) -> None:
        """Raise Refused when we may not act on a member, or not put it back."""
        if procfs.owner(member.pid) not in {os.geteuid(), None} and not procfs.has_capability(
            procfs.CAP_SYS_NICE
        ):
            raise Refused(
                f"{about} runs {member.name} ({member.pid}) as another user: setting its priority takes "
                "CAP_SYS_NICE; grant it to the daemon (AmbientCapabilities=CAP_SYS_NICE) or pause it by hand"
            )
        if self._params.irreversible_ok or member.nice >= self._params.nice:
            return
        if not procfs.may_raise_to(member.pid, member.nice):
            raise Refused(
                f"the priority of {member.name} ({member.pid}) could be lowered but not put back: that takes "
                "CAP_SYS_NICE; grant it to the daemon (AmbientCapabilities=CAP_SYS_NICE) or write "
                "`irreversible_ok: true`"
            )

    def _lower(self, step: Step) -> Done:
        about = target(step, self._params.process)
        now = self._look(about)
        planned = step.before or now
        nice = self._params.nice
        self._compare(about, planned["members"], now["members"])
        leader_nice = _of_leader(planned, about)
        values = {
            "process": about.id,
            "name": now["name"],
            "nice": nice,
            "members": len(now["members"]),
        }
        if step.dry_run:
            return Done(
                f"would lower {now['name']} ({_processes(now['members'])}) to {nice}", values
            )
        before: dict[str, Any] = {}
        # only sessions that were the group's own when planned and still are, and that nobody has set meanwhile
        sessions = {
            name: int(was)
            for name, was in planned["sessions"].items()
            if was < nice and now["sessions"].get(name) in {was, nice}
        }
        undo = {
            "process": about.id, "group": now["group"], "name": now["name"], "nice": nice, "leader_nice": leader_nice,
            "members": before, "sessions": sessions,
        }  # fmt: skip
        try:
            # Sessions first: they are what may be forbidden, and nothing else is changed then.
            _set_sessions(procfs.members(about)[1], dict.fromkeys(sessions, nice))
            for _ in range(_PASSES):
                fresh = [m for m in procfs.members(about)[1] if m.id not in before]
                if not fresh:
                    break
                for member in fresh:
                    was = planned["members"].get(member.id)
                    if was is None:
                        was = _priorities(member)
                        if was["nice"] >= nice:
                            # forked by one that was lowered already: what it would have is the leader's
                            was = {"nice": leader_nice, "threads": {}}
                    before[member.id] = was
                    _each_thread(member.pid, _at_most(nice))
        except PermissionError as wrong:
            self._restore(step, undo)
            raise Refused(
                f"the kernel refused to lower {about}: {wrong.strerror}; all of it was put back"
            ) from None
        values["members"] = len(before)
        return Done(
            f"{now['name']} ({_processes(before)}) runs at priority {nice}, {leader_nice} before"
            + ("" if now["sessions"] or not _in_sessions(before) else _SHARED_SESSION),
            values,
            undo,
            change(step, about, "act", f"priority {leader_nice}", f"priority {nice}"),
        )

    def _compare(self, about: Entity, planned: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Raise Refused when somebody else has set a priority since the plan."""
        for key, one in now.items():
            was = planned.get(key)
            if was is not None and one["nice"] not in {
                was["nice"],
                max(was["nice"], self._params.nice),
            }:
                raise Refused(
                    f"the priority of {key} in {about} was changed by others: it is {one['nice']}, not "
                    f"{was['nice']} as planned; leave it to them"
                )

    def _restore(self, step: Step, done: Mapping[str, Any]) -> Done:
        about, nice, leader_nice = (
            target(step, str(done["process"])),
            int(done["nice"]),
            int(done["leader_nice"]),
        )
        recorded: Mapping[str, Any] = done["members"]
        alive = {m.id: m for m in procfs.survivors(int(done["group"]), recorded)}
        if not alive:
            return Done(f"{done['name']} has ended: nothing to put back")
        if step.dry_run:
            return Done(f"would put back the priority of {_processes(alive)} of {done['name']}")
        others: list[str] = []
        back = 0
        for key, member in alive.items():
            was = recorded.get(key) or {"nice": leader_nice, "threads": {}}
            ours = max(was["nice"], nice)
            if member.nice not in {ours, was["nice"]}:
                others.append(f"{member.name} ({member.pid}) at {member.nice}")
                continue
            own = {int(tid): int(n) for tid, n in was["threads"].items()}
            try:
                _each_thread(member.pid, _always(int(was["nice"])), own)
            except PermissionError:
                raise Refused(
                    f"the priority of {member.name} ({member.pid}) cannot be put back to {was['nice']}: that takes "
                    f"CAP_SYS_NICE; run: renice -n {was['nice']} -p {member.pid}"
                ) from None
            back += 1
        _set_sessions(list(alive.values()), done["sessions"], expect=nice)
        if others and not back:
            raise Refused(
                f"the priority of {done['name']} was changed by others: {', '.join(others[:5])}; left as it is"
            )
        return Done(
            f"{done['name']} ({many(back, 'process', 'processes')}) runs at priority {leader_nice} again"
            + (f"; changed by others and left: {', '.join(others[:5])}" if others else ""),
            {"members": back},
            change=change(step, about, "act", f"priority {nice}", f"priority {leader_nice}"),
        )


_SHARED_SESSION: Final = (
    "; its session holds other processes too, "
    "so the kernel (autogroup) weighs this priority only inside it"
)


def _low(one: Mapping[str, Any], nice: int) -> bool:
    """Tell whether a member and all of its threads are at `nice` or below that in right."""
    return bool(one["nice"] >= nice and all(n >= nice for n in one["threads"].values()))


def _priorities(member: procfs.Member) -> dict[str, Any]:
    """Return a member's priority, and those of threads that differ from it."""
    own = procfs.threads(member.pid)
    return {
        "nice": member.nice,
        "threads": {str(tid): nice for tid, nice in own.items() if nice != member.nice},
    }


def _of_leader(seen: Mapping[str, Any], about: Entity) -> int:
    pid, start = procfs.parse(about)
    return int(seen["members"].get(f"{pid}/{start}", {"nice": 0})["nice"])


def _own_sessions(found: list[procfs.Member]) -> dict[str, int]:
    """Return autogroup -> priority for those that hold members of this group and nobody else."""
    inside: dict[str, int] = {}
    for member in found:
        if (group := procfs.autogroup(member.pid)) is not None:
            inside[group[0]] = group[1]
    if not inside:
        return {}
    ours = {m.pid for m in found}
    for other in procfs.everyone():
        if other.pid not in ours and not other.kernel:
            group = procfs.autogroup(other.pid)
            if group is not None:
                inside.pop(group[0], None)
    return inside


def _in_sessions(members: Mapping[str, Any]) -> bool:
    """Tell whether the kernel weighs the sessions of these members first (our own may have none)."""
    return any(procfs.autogroup(int(key.partition("/")[0])) is not None for key in members)


def _set_sessions(
    found: list[procfs.Member], nices: Mapping[str, int], expect: int | None = None
) -> None:
    """Set the priority of autogroups through any member in them; with `expect`, only where it is that now."""
    todo = dict(nices)
    for member in found:
        group = procfs.autogroup(member.pid)
        if group is None or group[0] not in todo:
            continue
        nice = todo.pop(group[0])
        if expect is None or group[1] == expect:
            procfs.set_autogroup(member.pid, nice)


def _always(nice: int) -> Callable[[int], int]:
    return lambda _: nice


def _at_most(nice: int) -> Callable[[int], int]:
    """Return what lowers to `nice` and leaves alone what is lower already."""
    return lambda now: max(now, nice)


def _each_thread(
    pid: int, goal: Callable[[int], int], own: Mapping[int, int] | None = None
) -> None:
    """Set every thread of a process to its own priority if it has one, else to goal(its priority now).

    A process that ends meanwhile is no failure. New threads inherit, so we look until none differs.
    """
    for _ in range(_PASSES):
        changed = False
        for tid, now in procfs.threads(pid).items():
            wanted = own[tid] if own and tid in own else goal(now)
            if now != wanted:
                changed = True
                try:
                    os.setpriority(os.PRIO_PROCESS, tid, wanted)
                except ProcessLookupError:
                    continue
        if not changed:
            return


@action("pause_process")
class PauseProcess:
    """Stop a process group where it stands (SIGSTOP); undo lets it go on (SIGCONT)."""

    effect = "mutating"
    ability = None
    reversible = True
    shared = False
    gives = ("process", "name", "members")

    class Params(Model):
        """Which group."""

        process: str = ""
        """Entity id, `process:BOOT/PID/START`; default: the target."""

    def __init__(self, params: Params, ability: None = None) -> None:
        del ability
        self._params = params

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return who of the group is stopped; Refused when we may not signal one of them."""
        return await asyncio.to_thread(self._look, target(step, self._params.process))

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether members stand still that moved before: all of them now, or the first of them by us."""
        members: Mapping[str, bool] = seen["members"]
        planned: Mapping[str, bool] = step.before.get("members", {})
        begun = any(stopped and planned.get(key) is False for key, stopped in members.items())
        return all(members.values()) or begun

    async def run(self, step: Step) -> Done:
        """Stop all members, also those forked meanwhile."""
        return await asyncio.to_thread(self._stop, step)

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Let those go on that we stopped; who was stopped before us stays so."""
        if nothing(done):
            return Done("nothing to put back: nothing was stopped")
        return await asyncio.to_thread(self._go_on, step, done)

    def _look(self, about: Entity) -> dict[str, Any]:
        group, found = procfs.members(about)
        pid, _ = procfs.parse(about)
        for member in found:
            if procfs.owner(member.pid) not in {os.geteuid(), None} and not procfs.has_capability(
                procfs.CAP_KILL
            ):
                raise Refused(
                    f"{about} runs {member.name} ({member.pid}) as another user: pausing it takes CAP_KILL; "
                    "grant it to the daemon (AmbientCapabilities=CAP_KILL)"
                )
        return {
            "process": about.id,
            "group": group,
            "name": next((m.name for m in found if m.pid == pid), ""),
            "members": {m.id: m.stopped for m in found},
        }

    def _stop(self, step: Step) -> Done:
        about = target(step, self._params.process)
        now = self._look(about)
        planned: Mapping[str, bool] = (step.before or now)["members"]
        values = {"process": about.id, "name": now["name"], "members": len(now["members"])}
        if step.dry_run:
            return Done(f"would pause {now['name']} ({_processes(now['members'])})", values)
        # whom somebody else had stopped before us is not ours to wake
        standing = [key for key, stopped in planned.items() if stopped]
        ours: dict[str, bool] = {}
        for _ in range(_PASSES):
            moving = [m for m in procfs.members(about)[1] if not m.stopped]
            if not moving:
                break
            for member in moving:
                if procfs.signal_one(member, signal.SIGSTOP):
                    ours[member.id] = True
            _settle(about, ours)
        # a try of ours that was cut off has stopped some already: they are ours too
        ours |= {m.id: True for m in procfs.members(about)[1] if m.stopped and m.id not in standing}
        values["members"] = len(ours)
        return Done(
            f"{now['name']} ({_processes(ours)}) is paused",
            values,
            {
                "process": about.id,
                "group": now["group"],
                "name": now["name"],
                "members": ours,
                "standing": standing,
            },
            change(step, about, "act", "running", "paused"),
        )

    def _go_on(self, step: Step, done: Mapping[str, Any]) -> Done:
        about = target(step, str(done["process"]))
        standing = set(done["standing"])
        ours = [
            m for m in procfs.survivors(int(done["group"]), done["members"]) if m.id not in standing
        ]
        asleep = sum(m.stopped for m in ours)
        if step.dry_run:
            return Done(f"would let {done['name']} ({many(asleep, 'process', 'processes')}) go on")
        # also those that do not stand still yet: a stop may be on its way to them, and going on takes it back
        woken = sum(procfs.signal_one(member, signal.SIGCONT) for member in ours)
        if not asleep:
            return Done(f"{done['name']} runs again already, or has ended")
        return Done(
            f"{done['name']} ({many(woken, 'process', 'processes')}) goes on",
            {"members": woken},
            change=change(step, about, "act", "paused", "running"),
        )


def _settle(about: Entity, signalled: Mapping[str, bool]) -> None:
    """Wait, not for long, until those who were told to stop stand still: on a busy host it takes a while."""
    deadline = time.monotonic() + _SETTLE_S
    while time.monotonic() < deadline and any(
        m.id in signalled and not m.stopped for m in procfs.members(about)[1]
    ):
        time.sleep(0.01)


def _processes(members: Sized) -> str:
    return many(len(members), "process", "processes")
