"""A real Prometheus of our own that scrapes whom it is told, while it runs."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

SCRAPE_S = 2


class Prometheus:
    """Starts with no targets; `scrape` tells it of them, also later."""

    def __init__(self, program: str, folder: Path, port: int, rules: tuple[Path, ...] = ()) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._targets = folder / "targets.json"
        self._targets.write_text("[]")
        config = folder / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "homeostat", "file_sd_configs": [{"files": [str(self._targets)]}]}],
        }))  # fmt: skip
        argv = [
            program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log)
        self._client = httpx.Client(base_url=self.url, timeout=30.0, trust_env=False)
        self._wait(lambda: self._client.get("/-/ready").status_code == 200)

    def _wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError):
                if done():
                    return
            time.sleep(0.1)
        raise TimeoutError("Prometheus does not come up")

    def scrape(self, *addresses: str) -> None:
        """Take these targets from now on."""
        part = self._targets.with_name("targets.part")
        part.write_text(json.dumps([{"targets": list(addresses)}] if addresses else []))
        part.replace(self._targets)

    def ask(self, way: str, **query: object) -> dict:
        """Ask its HTTP API; an error of the expression is one of ours."""
        said = self._client.get(f"/api/v1/{way}", params=query).json()
        assert said["status"] == "success", f"{query}: {said}"
        return said

    def values(self, label: str, match: str, **query: object) -> list[str]:
        """Return the values of a label, as a variable of a board asks for them."""
        return self.ask(f"label/{label}/values", **{"match[]": match}, **query)["data"]

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)


@contextlib.contextmanager
def prometheus(
    program: str, folder: Path, port: int, rules: tuple[Path, ...] = ()
) -> Iterator[Prometheus]:
    """Run one for a while."""
    one = Prometheus(program, folder, port, rules)
    try:
        yield one
    finally:
        one.close()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
