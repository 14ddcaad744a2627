"""Real servers that live tests start for themselves, in folders and on ports of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from daemon_process import free_port, wait_for

HAPROXY = """
global
    stats socket {socket} mode 600 level {level}
defaults
    mode http
    timeout connect 2s
    timeout client 10s
    timeout server 10s
frontend in
    bind 127.0.0.1:{port}
    default_backend web
backend web
    balance roundrobin
    server s1 127.0.0.1:{s1} weight 100 check inter 100ms
    server s2 127.0.0.1:{s2} weight 100 check inter 100ms
"""


class Postgres:
    """A PostgreSQL of our own. It never runs as root, so root lends the folder to the user `postgres`."""

    def __init__(self, needs: Callable[[str], str], folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"postgresql://homeostat@127.0.0.1:{self.port}/postgres"
        self._pg_ctl = Path(os.path.realpath(_pg_ctl(needs)))
        self._as: list[str] = []
        if os.geteuid() == 0:
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            shutil.chown(folder, "postgres")
        self._do(self._pg_ctl.with_name("initdb"), "-A", "trust", "-U", "homeostat", "--no-sync")

    def _do(self, program: Path, *arguments: str) -> None:
        command = [*self._as, str(program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=self.folder)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._do(self._pg_ctl, "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """End it at once, as a crash does."""
        self._do(self._pg_ctl, "-m", "immediate", "stop")


@contextlib.contextmanager
def postgres(needs: Callable[[str], str]) -> Iterator[Postgres]:
    """Run a PostgreSQL of our own for a while.

    Not in a folder of pytest: of root's, each other session that starts takes away the right to walk there.
    """
    folder = Path(tempfile.mkdtemp(prefix="homeostat-pg-"))
    try:
        server = Postgres(needs, folder)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # stopped by the test
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pg_ctl(needs: Callable[[str], str]) -> str:
    """Return pg_ctl; Debian keeps it out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return str(found[-1]) if found else needs("pg_ctl")


@contextlib.contextmanager
def haproxy_before(
    s1: int, s2: int, program: str, folder: Path, level: str = "admin"
) -> Iterator[tuple[Path, int]]:
    """Run a HAProxy before two servers of 127.0.0.1 for a while; yields its socket, and where it takes requests.

    level   what may be asked through its socket
    """
    path, config, port = folder / "ha.sock", folder / "ha.cfg", free_port()
    config.write_text(HAPROXY.format(socket=path, level=level, port=port, s1=s1, s2=s2))
    with (folder / "ha.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", config], stdout=log, stderr=log)
    try:
        wait_for("haproxy", lambda: httpx.get(f"http://127.0.0.1:{port}/").status_code == 200)
        yield path, port
    finally:
        process.terminate()
        process.wait(10)
