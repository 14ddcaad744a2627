"""Process groups as the Linux kernel tells of them in /proc: members, identity, priority, privileges.

A group is known by its leader: `boot-id/pid/start-ticks`. A pid alone may name another process a minute later;
with the start time it cannot.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.errors import Refused, Unavailable
from agent.model import Entity

PROC: Final = Path("/proc")
_KERNEL_THREAD: Final = 0x00200000
"""PF_KTHREAD of linux/sched.h, in the flags of /proc/PID/stat."""
_MOST_MEMBERS: Final = 4096
"""A step's state is written into the journal; a group beyond this is no workload that we should touch."""

CAP_KILL: Final = 5
CAP_SYS_NICE: Final = 23


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a group. start: clock ticks after boot; state: R, S, D, T (stopped), t, Z, ..."""

    pid: int
    start: int
    parent: int
    group: int
    state: str
    nice: int
    name: str
    kernel: bool

    @property
    def id(self) -> str:
        """`pid/start`: this process and no other that comes by the same number."""
        return f"{self.pid}/{self.start}"

    @property
    def stopped(self) -> bool:
        """Whether a stop signal holds it."""
        return self.state == "T"


def read(pid: int) -> Member | None:
    """Read one process; None when it has ended (a zombie has)."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # the name may hold spaces and brackets: the last bracket ends it
    name, _, rest = text.partition("(")[2].rpartition(")")
    field = rest.split()
    if field[0] in {"Z", "X"}:
        return None
    return Member(
        pid=pid,
        start=int(field[19]),
        parent=int(field[1]),
        group=int(field[2]),
        state=field[0],
        nice=int(field[16]),
        name=name,
        kernel=bool(int(field[6]) & _KERNEL_THREAD),
    )


def everyone() -> Iterator[Member]:
    """Read all processes; some may end meanwhile and are left out."""
    try:
        names = os.listdir(PROC)  # noqa: PTH208  # names only: a Path for each costs more than the read
    except FileNotFoundError:
        raise Refused(
            "process groups are read from /proc, which this system does not have"
        ) from None
    for name in names:
        if name.isdigit() and (found := read(int(name))) is not None:
            yield found


def parse(about: Entity) -> tuple[int, int]:
    """Return (pid, start) of the leader; raises Refused for another kind, form or boot."""
    if about.kind != "process":
        raise Refused(f"{about} is no process group; target a process, or name one with `process:`")
    boot, _, rest = about.key.partition("/")
    pid, _, start = rest.partition("/")
    if not (boot and pid.isdigit() and start.isdigit()):
        raise Refused(f"{about} does not say boot-id/pid/start of a group's leader")
    if boot != (now := boot_id()) and not (len(boot) >= 8 and now.startswith(boot)):
        raise Refused(f"{about} is of another boot of this host: it has ended")
    return int(pid), int(start)


def boot_id() -> str:
    """Return the id that the kernel drew at boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def members(about: Entity) -> tuple[int, list[Member]]:
    """Return (group, its living processes by pid), after checking that it is that very group.

    The entity names the leader, or the oldest member when the leader has ended.
    Raises Refused when it has ended, and for what must never be touched, whatever the guard has said: PID 1,
    kernel threads, this daemon, its ancestors and its own group. Cost: one read of /proc, some 20 us a process.
    """
    pid, start = parse(about)
    named = read(pid)
    if named is None:
        raise Refused(f"{about} has ended")
    if named.start != start:
        raise Refused(f"{about} has ended; its number {pid} belongs to another process now")
    if named.group != pid and read(named.group) is not None:
        raise Refused(
            f"{about} leads no process group: it is a member of group {named.group}, name that one"
        )
    found = sorted((m for m in everyone() if m.group == named.group), key=lambda m: m.pid)
    if len(found) > _MOST_MEMBERS:
        raise Refused(
            f"{about} has {len(found)} members, more than {_MOST_MEMBERS}: not ours to touch"
        )
    kin = _kin()
    for member in found:
        if member.kernel or member.pid in kin or member.group == os.getpgrp():
            raise Refused(
                f"{about} holds {member.name} ({member.pid}), which homeostat never touches: "
                "PID 1, kernel threads, itself and its ancestors"
            )
    return named.group, found


def _kin() -> frozenset[int]:
    """Return PID 1, ourselves and our ancestors."""
    out = {1}
    here: int = os.getpid()
    while here > 1 and here not in out:
        out.add(here)
        me = read(here)
        here = me.parent if me is not None else 1
    return frozenset(out)


def threads(pid: int) -> dict[int, int]:
    """Return thread id -> priority: Linux keeps it by thread, so the main thread alone says little."""
    out: dict[int, int] = {}
    try:
        tids = os.listdir(PROC / str(pid) / "task")  # noqa: PTH208  # as above
    except (FileNotFoundError, ProcessLookupError):
        return out
    for tid in tids:
        try:
            out[int(tid)] = os.getpriority(os.PRIO_PROCESS, int(tid))
        except ProcessLookupError:
            continue
    return out


def has_capability(number: int) -> bool:
    """Tell whether this process holds a capability, now and effectively."""
    for line in (PROC / "self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def owner(pid: int) -> int | None:
    """Return the user id of a process; None when it has ended."""
    try:
        return (PROC / str(pid)).stat().st_uid
    except FileNotFoundError:
        return None


def may_raise_to(pid: int, nice: int) -> bool:
    """Tell whether we may bring a process back to priority `nice`: CAP_SYS_NICE, or its RLIMIT_NICE allows it.

    Source: getrlimit(2): the ceiling of the nice value is 20 - rlim_cur.
    """
    if has_capability(CAP_SYS_NICE):
        return True
    try:
        lines = (PROC / str(pid) / "limits").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return True
    except PermissionError:
        return False
    soft = next((x.split()[3] for x in lines if x.startswith("Max nice priority")), "0")
    return soft == "unlimited" or int(soft) >= 20 - nice


# ---- sessions as schedulers see them


def autogroup(pid: int) -> tuple[str, int] | None:
    """Return (name, priority) of the autogroup of a process; None where the kernel has none or it is off.

    With autogroups, the kernel first shares the CPU between sessions, whatever the priorities inside them: a
    process of priority 19 alone in its session gets as much as any other session. See sched(7).
    """
    try:
        if (PROC / "sys/kernel/sched_autogroup_enabled").read_text(encoding="ascii").strip() != "1":
            return None
        name, _, nice = (
            (PROC / str(pid) / "autogroup").read_text(encoding="ascii").partition(" nice ")
        )
        return name.strip(), int(nice)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def set_autogroup(pid: int, nice: int) -> None:
    """Give the autogroup of a process a priority; blocks up to a second, as the kernel takes few changes a second.

    Raises PermissionError when it may not be set, Unavailable when the kernel asks to wait for longer.
    """
    for _ in range(8):
        try:
            (PROC / str(pid) / "autogroup").write_text(str(nice), encoding="ascii")
        except BlockingIOError:
            time.sleep(0.12)
            continue
        except (FileNotFoundError, ProcessLookupError):
            return
        except OSError as wrong:
            if wrong.errno == errno.EROFS:
                raise PermissionError(wrong.errno, wrong.strerror) from None
            raise
        return
    raise Unavailable(
        f"the kernel would not take a new autogroup priority for process {pid} now", wait_s=1.0
    )


# ---- signals


def survivors(group: int, recorded: Collection[str]) -> list[Member]:
    """Return who of a group lives: those we knew, by their own identity, and those forked since.

    The group's number cannot be given away while one of its processes lives, so one known member that is still in
    it proves the whole group, also after its leader has ended.
    """
    known = [m for key in recorded if (m := read(int(key.partition("/")[0]))) and m.id == key]
    if any(m.group == group for m in known):
        known += [m for m in everyone() if m.group == group and m.id not in recorded]
    return known


def signal_one(member: Member, what: signal.Signals) -> bool:
    """Signal exactly this process; False when it has ended. The descriptor pins it against reuse of its pid."""
    try:
        handle = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return False
    try:
        now = read(member.pid)
        if now is None or now.id != member.id:
            return False
        signal.pidfd_send_signal(handle, what)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise Refused(
            f"the kernel refused to signal {member.name} ({member.pid}): that takes CAP_KILL"
        ) from None
    finally:
        os.close(handle)
    return True
