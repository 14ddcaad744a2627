"""Where the demo plays: one folder with everything in it, and the processes that live in it.

    models/       the model directory       logs/     what the service and the labellers write
    world/        what only the injector and the load generator see
    homeostat/    agent.yaml, playbooks.d/, state/    reports/  of the trainer

Every process is started on a leash (it ends when we end, however) and in a process group of its own; `end()` ends
them all, also stopped ones. All of them stay in our session: Linux shares CPU between sessions first (autogroup),
and a job in another session could neither disturb the service much nor be tamed by a lower priority. That session has
no more weight than others: with more, those who burn in it starve the kernel's own threads, and who syncs a file waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from agent.demo.leash import leashed
from agent.demo.load import World

MODEL: Final = "scoring"
SERVICE: Final = "scoring"
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""A worker is one unit of capacity; libraries that start threads on their own would blur that."""


def free_port() -> int:
    """Return a port of the loopback address that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass(slots=True)
class Ground:
    """The folder, its ports and its processes. more: further connectors, who else should see the show."""

    folder: Path
    seed: int
    more: Mapping[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    world: World = field(default_factory=World)
    _alive: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in (
            "models",
            "logs",
            "world",
            "homeostat/playbooks.d",
            "homeostat/state",
            "reports",
            "run",
        ):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    # ---- places

    @property
    def models(self) -> Path:
        """The model directory."""
        return self.folder / "models"

    @property
    def versions(self) -> Path:
        """The folder of our one model."""
        return self.models / MODEL

    @property
    def predictions(self) -> Path:
        """The prediction log."""
        return self.folder / "logs" / "predictions.jsonl"

    @property
    def labels(self) -> Path:
        """The label log."""
        return self.folder / "logs" / "labels.jsonl"

    @property
    def pidfile(self) -> Path:
        """Where the master of the service writes its pid."""
        return self.folder / "run" / "scoring.pid"

    @property
    def control(self) -> Path:
        """What the injector tells the load generator."""
        return self.folder / "world" / "control.json"

    @property
    def answers(self) -> Path:
        """What became of each request, as the clients saw it."""
        return self.folder / "world" / "answers.jsonl"

    @property
    def first_rows(self) -> Path:
        """Rows that the first version is trained on."""
        return self.folder / "world" / "first.npz"

    @property
    def served_rows(self) -> Path:
        """Rows that clients send."""
        return self.folder / "world" / "served.npz"

    @property
    def config(self) -> Path:
        """`agent.yaml`."""
        return self.folder / "homeostat" / "agent.yaml"

    @property
    def playbooks(self) -> Path:
        """The user's playbooks."""
        return self.config.parent / "playbooks.d"

    @property
    def pointer(self) -> Path:
        """Which version is champion, and those before it."""
        return self.versions / "champion.json"

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.folder / "homeostat" / "state"

    def log(self, name: str) -> Path:
        """Where a process's own words go."""
        return self.folder / "run" / f"{name}.log"

    # ---- the world

    def turn(self, world: World) -> None:
        """Change what the clients do."""
        self.world = world
        world.write(self.control)

    # ---- processes

    def environ(self) -> dict[str, str]:
        """Environment of every process here: state and config of the user are out of reach."""
        return {
            **os.environ, **_ONE_THREAD,
            "XDG_STATE_HOME": str(self.folder / "homeostat" / "xdg-state"),
            "XDG_CONFIG_HOME": str(self.folder / "homeostat" / "xdg-config"),
            "DEMO_MODELS": str(self.models), "DEMO_MODEL": MODEL,
            "DEMO_PREDICTIONS": str(self.predictions),
        }  # fmt: skip

    def start(
        self, name: str, argv: Sequence[str], *, kill: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a process on a leash; its words go to `run/<name>.log`. `kill`: it may be stopped when it must end."""
        with self.log(name).open("ab") as log:
            one = subprocess.Popen(
                leashed(argv, kill=kill), cwd=self.folder, env=self.environ(), process_group=0,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._alive.append((name, one))
        return one

    def run(self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end and return its standard output; raises RuntimeError with its words."""
        done = subprocess.run(
            leashed(argv), cwd=self.folder, env={**self.environ(), **(env or {})}, process_group=0,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name} failed with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def python(self, module: str, *args: object) -> list[str]:
        """Return the argv of one of our modules."""
        return [sys.executable, "-P", "-m", module, *map(str, args)]

    def start_service(self) -> None:
        """Start gunicorn with one worker."""
        self.start("service", self.python(
            "gunicorn", "agent.demo.service:app", "--worker-class", "uvicorn_worker.UvicornWorker",
            "--workers", 1, "--bind", f"127.0.0.1:{self.port}", "--pid", self.pidfile, "--preload",
            "--keep-alive", 1, "--graceful-timeout", 3, "--no-control-socket",
            "--log-level", "info",
        ))  # fmt: skip

    def start_load(self) -> None:
        """Start the clients."""
        self.start("load", self.python(
            "agent.demo.load", "--rows", self.served_rows, "--control", self.control,
            "--labels", self.labels, "--log", self.answers, "--port", self.port, "--seed", self.seed,
        ))  # fmt: skip

    def dead(self) -> list[str]:
        """Return the names of processes that have ended though nobody told them to."""
        return [name for name, one in self._alive if one.poll() is not None]

    def last_words(self, lines: int = 12) -> list[str]:
        """Return the last lines of every process's log, for when something went wrong."""
        out: list[str] = []
        for path in sorted((self.folder / "run").glob("*.log")):
            text = path.read_text(encoding="utf-8", errors="replace").splitlines()
            out += [f"{path.name}: {line}" for line in text[-lines:]]
        return out

    def start_agent(self) -> subprocess.Popen[bytes]:
        """Start the agent, the first time or again, on the state that it left."""
        return self.start("agent", self.python(
            "agent", "run", "--config", self.config, "--state", self.state,
        ))  # fmt: skip

    def start_front(self, name: str, port: int) -> subprocess.Popen[bytes]:
        """Start a small front end: a gunicorn with one plain worker that waits for ever for its master."""
        return self.start(name, self.python(
            "gunicorn", "agent.demo.front:app", "--workers", 1, "--bind", f"127.0.0.1:{port}",
            "--pid", self.front_pidfile(name), "--timeout", 0, "--no-control-socket",
        ))  # fmt: skip

    def front_pidfile(self, name: str) -> Path:
        """Where the master of a front end writes its pid."""
        return self.folder / "run" / f"{name}.pid"

    @property
    def agent(self) -> subprocess.Popen[bytes]:
        """The agent's process."""
        return self.named("agent")[-1]

    def named(self, prefix: str) -> list[subprocess.Popen[bytes]]:
        """Return the processes whose name begins so, oldest first."""
        return [one for name, one in self._alive if name.startswith(prefix)]

    def kill(self, one: subprocess.Popen[bytes]) -> None:
        """Kill -9 one process, not its group: what it started is on its own then, as in real life."""
        one.kill()
        one.wait()
        self._alive = [(name, other) for name, other in self._alive if other is not one]

    def end_one(self, one: subprocess.Popen[bytes], *, wait_s: float = 5.0) -> None:
        """End one process group."""
        _end([one], wait_s)
        self._alive = [(name, other) for name, other in self._alive if other is not one]

    def end(self) -> None:
        """End everything that was started here, and what these have started (a training outlives its daemon)."""
        _end([one for _, one in self._alive], 6.0)
        self._alive.clear()
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                argv = one.cmdline()
                if "agent.demo.trainer" in argv and str(self.models) in argv:
                    one.kill()


def _signal(one: subprocess.Popen[bytes], number: int) -> None:
    # not the process but its group: a master that is gone may have left workers
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(one.pid, number)


def _end(some: Sequence[subprocess.Popen[bytes]], wait_s: float) -> None:
    for one in some:
        _signal(one, signal.SIGTERM)
        _signal(one, signal.SIGCONT)
    until = time.monotonic() + wait_s
    for one in some:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.wait(max(0.05, until - time.monotonic()))
        _signal(one, signal.SIGKILL)
        one.wait()
