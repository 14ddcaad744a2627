"""Applications: all processes of one program, or of one script, taken together; those at the top by CPU or memory.

Counters of an application never fall while it is known: they are sums of what its processes used, whoever comes and
goes. Pages that processes share are counted for each of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from connectors._proc import HERTZ

METRICS: Final = (
    "host.application_cpu_seconds_total", "host.application_memory_bytes",
    "host.application_processes_count", "host.application_threads_count",
)  # fmt: skip
_SMOOTH_S: Final = 15.0
_LINGER_S: Final = 60.0
"""An application stays shown for so long after it has left the top, so that it does not flap in and out."""
_IDLE_CORES: Final = 0.002
_MOST: Final = 2000
_MOST_CHARS: Final = 64
_RUNS_SCRIPTS: Final = re.compile(
    r"(?:python|pypy|ruby|perl|node|nodejs|php|java|bash|dash|sh|zsh|ksh)[\d.]*"
)
_WITH_VALUE: Final = frozenset({
    "-cp", "-classpath", "--class-path", "-p", "--module-path", "-W", "-X", "-r", "--require", "-I",
})  # fmt: skip
"""Switches of interpreters that are followed by a word of their own."""


@dataclass(slots=True)
class Application:
    """What the processes of one application use: ticks so far, the rest now."""

    ticks: int = 0
    spent: int = 0
    cores: float = 0.0
    rss_pages: int = 0
    processes: int = 0
    threads: int = 0


class Applications:
    """Adds processes up by application; `begin`, `add` for each process, `rank`, then `choose`."""

    def __init__(self, top: int, patterns: Mapping[str, Sequence[str]]) -> None:
        self._top = top
        self._patterns = patterns
        self._all: dict[str, Application] = {}
        self._chosen: dict[str, float] = {}

    @staticmethod
    def must_read(program: str) -> bool:
        """Tell whether the command is needed to know what a program runs: it is an interpreter."""
        return _RUNS_SCRIPTS.fullmatch(program) is not None

    def name(self, program: str, argv: Sequence[str]) -> str:
        """Return the application of a process, by its name and its command."""
        own = application_of(program, argv)
        for name, globs in self._patterns.items():
            if any(fnmatchcase(own, glob) for glob in globs):
                return name
        return own

    def begin(self) -> None:
        """Start to add up anew; counters go on. Who is gone and not shown is forgotten."""
        if len(self._all) > _MOST:
            self._all = {n: a for n, a in self._all.items() if a.processes or n in self._chosen}
        for one in self._all.values():
            one.spent = one.rss_pages = one.processes = one.threads = 0

    def add(self, name: str, ticks: int, rss_pages: int, threads: int) -> None:
        """Add one process: what it used since the last time, and what it holds."""
        one = self._all.get(name)
        if one is None:
            one = self._all[name] = Application()
        one.ticks += ticks
        one.spent += ticks
        one.rss_pages += rss_pages
        one.processes += 1
        one.threads += threads

    def rank(self, elapsed_s: float) -> None:
        """Smooth the use of CPU, by which they are ranked."""
        weight = 1 - math.exp(-elapsed_s / _SMOOTH_S)
        for one in self._all.values():
            now = one.spent / HERTZ / elapsed_s
            one.cores += (now - one.cores) * (weight if one.cores else 1.0)

    def choose(self, now: float) -> dict[str, Application]:
        """Return those to show, by name: in by rank, out only when out of the ranks for a while."""
        busy = [n for n, a in self._all.items() if a.processes and a.cores >= _IDLE_CORES]
        held = [n for n, a in self._all.items() if a.processes]
        by_cpu = sorted(busy, key=lambda n: (-self._all[n].cores, n))
        by_memory = sorted(held, key=lambda n: (-self._all[n].rss_pages, n))
        for name in (*by_cpu[: self._top], *by_memory[: self._top]):
            self._chosen[name] = now
        self._chosen = {n: at for n, at in self._chosen.items() if now - at < _LINGER_S}
        return {name: self._all[name] for name in sorted(self._chosen)}


def application_of(program: str, argv: Sequence[str]) -> str:
    """Return what runs: the program, or the script or module that an interpreter runs.

    >>> application_of("python3.11", ["python3", "-u", "/srv/app/train.py", "--fast"])
    'train.py'
    >>> application_of("nginx", ["nginx: worker process"])
    'nginx'
    """
    if _RUNS_SCRIPTS.fullmatch(program):
        words = iter(argv[1:])
        for word in words:
            if word in {"-m", "-jar"}:
                return _shown(_last(next(words, program)))
            if word in {"-c", "-e"}:
                break
            if word in _WITH_VALUE:
                next(words, None)
            elif word and not word.startswith("-"):
                return _shown(program if word.startswith(("/dev/", "/proc/")) else _last(word))
    return _shown(program.partition(":")[0])


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _shown(word: str) -> str:
    """Return a name for a label: what can not be shown is not in it, and it has an end."""
    return "".join(c for c in word[:_MOST_CHARS] if c.isprintable()).strip() or "?"
