"""Ordinary work for a host: builds, tests, archives, files, downloads, clients and idle times, in a seeded order.

Each piece of work is a process group of its own, as if somebody had started it from a shell. All of it is on a leash
of the process that asked for it, and ends with it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from agent.demo.leash import leashed

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    "tests/agent/test_budget.py", "tests/agent/test_config.py", "tests/agent/test_correlate.py",
    "tests/agent/test_expr.py", "tests/agent/test_guard.py", "tests/agent/test_history.py",
    "tests/agent/test_playbook.py", "tests/agent/test_rings.py", "tests/detectors/test_drift_evidence.py",
)  # fmt: skip
IDLE_S = (5.0, 60.0)
PAUSE_S = (1.0, 15.0)

WRITE = """
import os, pathlib, sys, time
path, size, bits = pathlib.Path(sys.argv[1]), int(sys.argv[2]), os.urandom(1 << 20)
with path.open("wb") as f:
    for i in range(size):
        f.write(bits)
        if i % 16 == 15:
            os.fsync(f.fileno())
        time.sleep(0.01)
with path.open("rb") as f:
    while f.read(1 << 20):
        pass
path.unlink()
"""
FETCH = """
import sys, time, urllib.request
for _ in range(int(sys.argv[2])):
    with urllib.request.urlopen(sys.argv[1], timeout=30) as said:
        while said.read(1 << 16):
            time.sleep(0.002)
    time.sleep(1)
"""


def start(argv: Sequence[str], *, where: Path = ROOT, kill: bool = True) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own, on our leash, silent."""
    return subprocess.Popen(
        leashed(argv, kill=kill), cwd=where, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """End a group, also one that is stopped; quiet when it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)


@contextlib.contextmanager
def running(argv: Sequence[str], *, where: Path = ROOT) -> Iterator[subprocess.Popen[bytes]]:
    """A command for as long as the block lasts."""
    process = start(argv, where=where)
    try:
        yield process
    finally:
        end(process)


@dataclass(slots=True)
class Done:
    """A piece of work, as it was done."""

    name: str
    start: float
    end: float


@dataclass(slots=True)
class Work:
    """A person's day in a thread: `with Work(...)`: begins at once, ends with the block.

    folder     scratch space; url: a file of some megabytes to download
    urls       services that clients ask, `rate` requests a second each
    """

    folder: Path
    url: str
    urls: tuple[str, ...] = ()
    seed: int = 0
    rate: float = 3.0
    done: list[Done] = field(default_factory=list)
    now: str = "idle"
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        tree = self.folder / "tree"
        for room in ("agent", "connectors", "detectors", "playbooks", "tests"):
            shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
        self._threads = [threading.Thread(target=self._work, daemon=True)]
        self._threads += [
            threading.Thread(target=partial(self._ask, url, i), daemon=True)
            for i, url in enumerate(self.urls)
        ]
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for one in self._threads:
            one.join(15)

    def _work(self) -> None:
        chance = random.Random(self.seed)
        jobs = self._jobs(chance)
        while not self._stop.is_set():
            name = chance.choice(sorted(jobs))
            pause = chance.uniform(*PAUSE_S)
            argv = jobs[name]()
            began, self.now = time.time(), name
            if argv:
                self._run(argv)
            else:
                self._stop.wait(chance.uniform(*IDLE_S))
            self.done.append(Done(name, began, time.time()))
            self.now = "idle"
            self._stop.wait(pause)

    def _jobs(self, chance: random.Random) -> dict[str, Callable[[], list[str]]]:
        """Return what may be done; each gives the command of its next time, none = idle."""
        tree, scratch, python = self.folder / "tree", self.folder, sys.executable

        def build() -> list[str]:
            return [python, "-m", "compileall", "-q", "-f", "-j", str(chance.choice((1, 2))), str(tree)]  # fmt: skip

        def pack() -> list[str]:
            kind = chance.choice(("gztar", "bztar", "xztar", "zip"))
            code = f"import shutil; shutil.make_archive({str(scratch / 'pack')!r}, {kind!r}, {str(tree)!r})"
            return [python, "-c", code]

        def tests() -> list[str]:
            return [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chance.sample(TESTS, 3)]  # fmt: skip

        def files() -> list[str]:
            return [python, "-c", WRITE, str(scratch / "file"), str(chance.randint(30, 300))]

        def download() -> list[str]:
            return [python, "-c", FETCH, self.url, str(chance.randint(1, 6))]

        return {
            "build": build, "pack": pack, "tests": tests, "files": files, "download": download,
            "idle": list, "idle again": list,
        }  # fmt: skip

    def _run(self, argv: Sequence[str]) -> None:
        with running(argv) as process:
            while process.poll() is None and not self._stop.wait(0.2):
                pass

    def _ask(self, url: str, i: int) -> None:
        """Be a client: a request now and then, each on a connection of its own; an error is an answer, too."""
        chance = random.Random(f"{self.seed}/{i}")
        host = url.removeprefix("http://").split("/")[0]
        while not self._stop.wait(chance.expovariate(self.rate)):
            connection = http.client.HTTPConnection(host, timeout=3.0)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/")
                connection.getresponse().read()
            connection.close()
