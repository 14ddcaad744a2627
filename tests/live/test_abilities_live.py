"""The checks of abilities over real servers: HAProxy, gunicorn, Alertmanager; over other sides: tests/connectors."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from daemon_process import wait_for
from prometheus_side import free_port
from relay import FATES, relayed
from servers import haproxy_before

from agent.testing import GONE, Ground, check_deed, check_setting
from connectors.alertmanager import Alertmanager
from connectors.gunicorn import Gunicorn
from connectors.haproxy import Haproxy

pytestmark = pytest.mark.live

WEB, SHOP = "service:web", "service:shop"


async def all_hold(checks_of: Callable, ability: str, ground: Callable) -> None:
    """Run each check on a ground of its own, over a server that they may share."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Ground]:
        with tempfile.TemporaryDirectory(prefix="ability-") as folder:  # short: sockets lie there
            async with ground(Path(folder)) as made:
                yield made

    faults = [fault for check in checks_of(ability, make) if (fault := await check.fault())]
    assert not faults, "\n".join(faults)


# ---- HAProxy


class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Say nothing on standard error."""


@pytest.fixture(scope="module")
def behind() -> Iterator[int]:
    """Serve, as whoever stands behind the load balancer; yields the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Well) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def changes(data: bytes) -> bool:
    return data.startswith((b"set ", b"add ", b"del ", b"enable "))


def asked(path: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(str(path))
        one.sendall(f"{command}\n".encode())
        return one.makefile().read()


def stands(path: Path) -> list[tuple[str, ...]]:
    """Return name, address, port, admin state and weight of each server."""
    lines = asked(path, "show servers state web").splitlines()
    keys = next(line for line in lines if line.startswith("# "))[2:].split()
    rows = [dict(zip(keys, line.split(), strict=False)) for line in lines[2:] if line.strip()]
    wanted = ("srv_name", "srv_addr", "srv_port", "srv_admin_state", "srv_uweight")
    return [tuple(row[key] for key in wanted) for row in rows]


def limits(path: Path) -> str:
    said = asked(path, "show info").splitlines()
    return next(line for line in said if line.startswith("SessRateLimit:"))


@pytest.mark.parametrize(
    ("ability", "whom", "what", "values", "look"),
    [
        ("Traffic", "replica:web/s1", "weight", (100, 50, 70), stands),
        ("Traffic", "replica:web/s1", "state", ("ready", "drain", "maint"), stands),
        ("Roster", "replica:web/s3", "", (None, "127.0.0.1:{port}"), stands),
        ("Limiter", WEB, "sessions_per_second", (None, 100.0, 50.0), limits),
    ],
)
async def test_haproxy(ability, whom, what, values, look, needs, behind):
    program = needs("haproxy")
    stranger = SHOP if whom == WEB else "replica:shop/s1"
    filled = tuple(v.format(port=behind) if isinstance(v, str) else v for v in values)

    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        with haproxy_before(behind, behind, program, folder) as (path, _):
            async with relayed(path, folder, changes) as relay:
                config = Haproxy.Config(
                    service="web", socket=relay.path, check=0.1, wait=5, timeout=1
                )

                def again() -> Haproxy:
                    return Haproxy("haproxy", config)

                yield Ground(
                    again(),
                    whom,
                    stranger,
                    WEB,
                    filled,
                    lambda: look(path),
                    relay.fate,
                    FATES,
                    again,
                    what,
                )

    await all_hold(check_setting, ability, ground)


# ---- gunicorn


class Master:
    """A gunicorn of two workers, that can be killed and comes back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pidfile = folder, folder / "pid"
        self.process: subprocess.Popen | None = None
        (folder / "app.py").write_text("def app(environ, start_response):\n    return []\n")

    def start(self) -> None:
        argv = [
            sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"unix:{self.folder}/sock", "--pid", str(self.pidfile),
            "--no-control-socket", "app:app",
        ]  # fmt: skip
        said = self.folder / "log"
        with said.open("wb") as log:
            self.process = subprocess.Popen(
                argv, cwd=self.folder, start_new_session=True, stdout=log, stderr=log
            )
        wait_for("gunicorn", lambda: said.read_text().count("Booting worker") == 2)

    def workers(self) -> set[int]:
        every = psutil.Process(self.process.pid).children()
        return {one.pid for one in every if one.status() != psutil.STATUS_ZOMBIE}

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    async def fate(self, what: str) -> None:
        if what == GONE:
            self.kill()
        elif self.process.poll() is not None:
            self.start()


@pytest.fixture
def master(tmp_path) -> Iterator[Master]:
    pytest.importorskip("gunicorn", reason="the extra `demo` installs it")
    made = Master(tmp_path)
    made.start()
    yield made
    made.kill()


def scaling(master: Master) -> Gunicorn:
    config = {"service": "web", "pidfile": master.pidfile, "max_workers": 4, "wait": 10}
    return Gunicorn("gunicorn", Gunicorn.Config(**config))


async def test_gunicorn_is_scaled(master):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        made = scaling(master)
        try:
            yield Ground(
                made, WEB, SHOP, WEB, (2, 3), lambda: len(master.workers()), master.fate, frozenset({GONE}),
                lambda: scaling(master),
            )  # fmt: skip
        finally:
            now = await made.replicas(WEB)
            if now != 2:
                await made.set_replicas(WEB, 2, now)

    await all_hold(check_setting, "Scaler", ground)


async def test_workers_of_gunicorn_are_restarted(master):
    """That it is gone is no fate here: its workers go with it, and others come back."""

    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        made, before = scaling(master), master.workers()
        births = tuple(one.birth for one in await made.units(WEB))
        yield Ground(
            made, WEB, SHOP, WEB, births, lambda: len(before - master.workers()), master.fate, frozenset(),
            lambda: scaling(master),
        )  # fmt: skip

    await all_hold(check_deed, "Restarter", ground)


# ---- Alertmanager


@pytest.fixture
def alertmanager(needs, tmp_path) -> Iterator[int]:
    program, own = needs("prometheus-alertmanager"), free_port()
    config = tmp_path / "am.yml"
    config.write_text(json.dumps({"route": {"receiver": "none"}, "receivers": [{"name": "none"}]}))
    argv = [
        program, f"--config.file={config}", f"--storage.path={tmp_path / 'am'}",
        f"--web.listen-address=127.0.0.1:{own}", "--cluster.listen-address=",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        ready = f"http://127.0.0.1:{own}/-/ready"
        wait_for("alertmanager", lambda: httpx.get(ready).status_code == 200)
        yield own
    finally:
        process.kill()
        process.wait(10)


async def test_alertmanager_keeps_quiet(alertmanager):
    numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        keys = tuple(f"run-{next(numbers)}/silence" for _ in range(2))

        def world() -> int:
            found = httpx.get(f"http://127.0.0.1:{alertmanager}/api/v2/silences").json()
            return sum(one["comment"].endswith(tuple(f"[{key}]" for key in keys)) for one in found)

        async with relayed(alertmanager, folder) as relay:
            made = []

            def again() -> Alertmanager:
                made.append(
                    Alertmanager("alertmanager", Alertmanager.Config(url=relay.url, timeout=1))
                )
                return made[-1]

            try:
                yield Ground(
                    again(), WEB, "gpu:GPU-1", "`labels`", keys, world, relay.fate, FATES, again
                )
            finally:
                for one in made:
                    await one.close()

    await all_hold(check_deed, "Silencer", ground)
