"""Reading /proc cheaply: files through one descriptor, processes by one read each, and who is who.

psutil would do the same at five to ten times the cost (measured: 70 us a process against 12 us here), which matters
at 200 processes every few seconds. Everything here is Linux; the connectors fall back on psutil elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from agent.model import Entity
from agent.strike import strike

HERTZ: Final = os.sysconf("SC_CLK_TCK")
"""Ticks a second in which the kernel counts CPU time."""
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

_KERNEL_THREAD: Final = 0x0020_0000
"""PF_KTHREAD of the kernel's include/linux/sched.h."""

_LEFT: Final = (".dockerenv", "run/.containerenv", "run/systemd/container")
_ENGINES: Final = ("docker", "kubepods", "containerd", "libpod", "/lxc", "crio-")


def this_host() -> Entity:
    """Return the entity of the machine we run on."""
    return Entity("host", socket.gethostname())


def in_container(root: Path = Path("/")) -> bool:
    """Tell whether we run in a container: by the files and the cgroup names that engines leave."""
    if "KUBERNETES_SERVICE_HOST" in os.environ or any((root / file).exists() for file in _LEFT):
        return True
    try:
        membership = (root / "proc/self/cgroup").read_text("utf-8", "replace")
    except OSError:
        return False
    return any(word in membership for word in _ENGINES)


@cache
def boot_id() -> str:
    """Return what tells this boot from every other; where the kernel does not say, the time of it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        import psutil  # only where there is no /proc

        return f"boot-{psutil.boot_time():.0f}"


def seconds_since_boot() -> float:
    """Return the clock in which the kernel gives the start of processes; suspended time counts."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def has_capability(number: int) -> bool:
    """Tell whether this process may do what a capability allows: bits of linux/capability.h."""
    try:
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
    except OSError:
        return os.geteuid() == 0
    held = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return bool(int(held, 16) >> number & 1)


def process_entity(pid: int, start_ticks: int) -> Entity:
    """Return the entity of a process group by its leader: pids come again, this never does."""
    return Entity("process", f"{boot_id()}/{pid}/{start_ticks}")


class ProcFile:
    """A file of /proc or /sys that is read again and again.

    Keeps one descriptor open, so a reading costs two system calls. Errors are those of the kernel (OSError); after
    one the file is opened anew, so a device that comes back is seen.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._fd = -1

    def read(self) -> bytes:
        """Return the whole of the file as it is now."""
        try:
            if self._fd < 0:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            whole = os.pread(self._fd, 1 << 16, 0)
            # the kernel may give less than there is: it hands out as many records as fit its own buffer
            while more := os.pread(self._fd, 1 << 16, len(whole)):
                whole += more
        except OSError:
            self.close()
            raise
        return whole

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class Stat(NamedTuple):
    """What we need of `/proc/<pid>/stat` (proc_pid_stat(5)); times in ticks, memory in pages."""

    pid: int
    name: str
    state: str
    parent: int
    group: int
    own_ticks: int
    """CPU time of the process itself."""
    child_ticks: int
    """CPU time of its children that ended and were waited for, with theirs."""
    nice: int
    threads: int
    start_ticks: int
    rss_pages: int
    kernel: bool
    """A thread of the kernel, not a program."""


def parse_stat(line: bytes) -> Stat:
    """Read one line of `/proc/<pid>/stat`; the name may hold spaces and brackets. Raises ValueError."""
    opened, closed = line.index(b"("), line.rindex(b")")
    field = line[closed + 2 :].split()
    try:
        return Stat(
            int(line[:opened]),
            line[opened + 1 : closed].decode("utf-8", "replace"),
            field[0].decode("ascii"),
            int(field[1]),
            int(field[2]),
            int(field[11]) + int(field[12]),
            int(field[13]) + int(field[14]),
            int(field[16]),
            int(field[17]),
            int(field[19]),
            int(field[21]),
            bool(int(field[6]) & _KERNEL_THREAD),
        )
    except IndexError:
        raise ValueError(f"not a line of /proc/<pid>/stat: {line!r}") from None


def read_at(folder: int, name: str) -> bytes:
    """Read a small file below an open folder in one go; raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


def pids(folder: int) -> list[int]:
    """Return the processes below an open /proc; raises OSError."""
    return [int(name) for name in os.listdir(folder) if name.isdigit()]


def scan(folder: int, skip: Iterable[int] = ()) -> dict[int, Stat]:
    """Read every process below an open /proc, except `skip`; who ends meanwhile is left out.

    Cost: about 15 us a process. Raises OSError when the folder itself can not be listed.
    """
    unwanted = set(skip)
    found: dict[int, Stat] = {}
    for pid in pids(folder):
        if pid in unwanted:
            continue
        try:
            found[pid] = parse_stat(read_at(folder, f"{pid}/stat"))
        except (OSError, ValueError):
            continue  # it ended between the listing and the reading
    return found


def leader(members: Sequence[Stat]) -> Stat:
    """Return who stands for a process group: its leader, or the oldest member when the leader has ended."""
    for one in members:
        if one.pid == one.group and one.state not in "ZX":
            return one
    alive = [one for one in members if one.state not in "ZX"] or members
    return min(alive, key=lambda one: (one.start_ticks, one.pid))


def head_of(pid: int) -> Stat:
    """Return who stands for the group of a process: one look, or a whole scan when its leader has ended.

    Raises OSError or ValueError when the process itself has ended.
    """
    own = parse_stat(Path(f"/proc/{pid}/stat").read_bytes())
    with contextlib.suppress(OSError, ValueError):
        head = parse_stat(Path(f"/proc/{own.group}/stat").read_bytes())
        if head.group == own.group and head.state not in "ZX":
            return head
    folder = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        members = [one for one in scan(folder).values() if one.group == own.group]
    finally:
        os.close(folder)
    return leader(members or [own])


# ---- command lines for people

_WORDS: Final = (
    r"(?:pass(?:word|wd|phrase|code)?|pwd|secret|token(?!s|iz)|credentials?|auth(?:orization)?|cookie|signature|dsn"
    r"|(?:api|access|account|private|session|encryption|license)[-_]?key)"
)
_NAME: Final = rf"{_WORDS}[A-Za-z0-9_-]*"  # what stands before the word needs no look
_SWITCH: Final = re.compile(rf"(?i)-.*{_NAME}\Z")
_SHAPES: Final = (
    # a header: all that follows
    (re.compile(r"(?i)\b((?:proxy-)?(?:authorization|cookie)\s*:\s*).*"), r"\1***"),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)\S+"), r"\1***"),
    # user and password of a URL
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]{1,15}://[^\s:/@]*:)[^\s/]+(@)"), r"\1***\2"),
    # how well-known services begin their keys
    (
        re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|xapp-|sk-|hf_)[\w.=/+-]{8,}"),
        "***",
    ),
    (re.compile(r"\b(?:AKIA|ASIA|AIza|eyJ)[\w.=/+-]{8,}"), "***"),
    (re.compile(rf"(?i)({_NAME}[\"']?\s*[=:]\s*)(\"[^\"]*\"?|'[^']*'?|\S+)"), r"\1***"),
)
_ARGUMENT_CHARS: Final = 500


def command_line(argv: Sequence[str], limit: int = 200) -> str:
    """Return a command for people: secrets masked, control characters out, cut to `limit` characters.

    Masked are values of switches and assignments whose name sounds like a secret (`--password=x`, `--token x`,
    `DB_PASSWORD=x`), passwords in URLs, bearer tokens and keys of a well-known shape. What merely *is* secret
    without looking so is not recognised, unless we know it (`agent.strike`).
    """
    out: list[str] = []
    length = 0
    hide_next = False
    for argument in argv:
        if hide_next and not argument.startswith("-"):
            text, hide_next = "***", False
        else:
            shown = strike(argument)[:_ARGUMENT_CHARS]
            text = "".join(c if c.isprintable() else " " for c in shown)
            hide_next = bool(_SWITCH.match(text))
            for shape, masked in _SHAPES:
                text = shape.sub(masked, text)
            text = " ".join(text.split())
        out.append(text)
        length += len(text) + 1
        if length > limit + 1:
            break
    line = " ".join(out)
    return line if len(line) <= limit else line[: limit - 1] + "…"
