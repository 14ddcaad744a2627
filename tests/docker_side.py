"""A Docker Engine for tests: what its API (v1.41) demands and answers, on a Unix socket, taken from its pages."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Containers by id, as `inspect` shows them; `fault` is the status of every change."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.containers: dict[str, dict] = {}
        self.used: dict[str, int] = {}
        self.asked: list[str] = []
        self.fault = 0
        self.heals = True
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)
        super().__init__(str(path), _Answer)

    def add(
        self,
        name: str,
        status: str = "running",
        labels: dict | None = None,
        health: bool = False,
        **host,
    ) -> str:
        id_ = f"{len(self.containers) + 1:064x}"[::-1]
        state = {"Status": status, "Running": status == "running", "StartedAt": self.tick()}
        if health:
            state["Health"] = {"Status": "healthy" if status == "running" else "unhealthy"}
        self.containers[id_] = {
            "Id": id_, "Name": f"/{name}", "State": state, "Config": {"Labels": labels or {"app": "web"}},
            "HostConfig": {"Memory": 0, "MemorySwap": 0, "NanoCpus": 0, "CpuQuota": 0, "CpuPeriod": 0,
                           "PidsLimit": None, **host},
        }  # fmt: skip
        return id_

    def tick(self) -> str:
        self._clock += timedelta(seconds=1)
        return self._clock.isoformat().replace("+00:00", "000Z")

    def state(self, name: str) -> str:
        return next(
            c["State"]["Status"] for c in self.containers.values() if c["Name"] == f"/{name}"
        )

    def change(self, one: dict, verb: str) -> int:
        """Start, stop or restart; returns the status of the answer."""
        runs = one["State"]["Status"] == "running"
        if (verb, runs) in {("start", True), ("stop", False)}:
            return 304
        up = verb != "stop"
        one["State"].update(Status="running" if up else "exited", Running=up)
        if up:
            one["State"]["StartedAt"] = self.tick()
        if "Health" in one["State"]:
            one["State"]["Health"]["Status"] = (
                "healthy" if up and self.heals else "unhealthy" if up else "none"
            )
        return 204

    def update(self, one: dict, wanted: dict) -> str:
        """Update resources; returns what Docker would complain of."""
        host = one["HostConfig"]
        nano = wanted.get("NanoCpus") and host["CpuQuota"]
        if nano or (wanted.get("CpuQuota") and host["NanoCpus"]):
            return "Conflicting options: CPU Quota and Nano CPUs cannot both be set."
        memory, swap = (
            wanted.get("Memory") or host["Memory"],
            wanted.get("MemorySwap") or host["MemorySwap"],
        )
        if 0 < swap < memory:
            return (
                "Memory limit should be smaller than already set memoryswap limit, update it, too"
            )
        if 0 < memory < 6 << 20:
            return "Minimum memory limit allowed is 6MB"
        host.update({k: v for k, v in wanted.items() if v})  # zero changes nothing
        return ""


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def address_string(self) -> str:
        return "socket"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        engine, path, query = self._asked()
        match = re.fullmatch(r"containers/([^/]+)/(json|stats)", path)
        if path == "version":
            self._say(200, {"Version": "20.10.24", "ApiVersion": "1.41"})
        elif path == "containers/json":
            wanted = dict(x.split("=", 1) for x in json.loads(query["filters"][0])["label"])
            every = [
                c
                for c in engine.containers.values()
                if wanted.items() <= c["Config"]["Labels"].items()
            ]
            if query.get("all") != ["true"]:
                every = [c for c in every if c["State"]["Running"]]
            self._say(
                200,
                [
                    {"Id": c["Id"], "Names": [c["Name"]], "State": c["State"]["Status"]}
                    for c in every
                ],
            )
        elif match is None or match[1] not in engine.containers:
            self._say(404, {"message": f"No such container: {match and match[1]}"})
        elif match[2] == "stats":
            usage = {"usage": engine.used.get(match[1], 0) + 1000, "stats": {"inactive_file": 1000}}
            self._say(200, {"memory_stats": usage})
        else:
            self._say(200, engine.containers[match[1]])

    def do_POST(self) -> None:
        engine, path, _ = self._asked()
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        match = re.fullmatch(r"containers/([^/]+)/(start|stop|restart|update)", path)
        if match is None or match[1] not in engine.containers:
            self._say(404, {"message": f"No such container: {match and match[1]}"})
        elif engine.fault:
            self._say(engine.fault, {"message": "driver failed"})
        elif match[2] == "update":
            if self.headers.get("content-type") != "application/json":
                self._say(400, {"message": "unsupported Content-Type header"})
                return
            wrong = engine.update(engine.containers[match[1]], json.loads(body))
            self._say(409 if wrong else 200, {"message": wrong} if wrong else {"Warnings": []})
        else:
            self._say(engine.change(engine.containers[match[1]], match[2]), None)

    def _asked(self) -> tuple[Engine, str, dict]:
        parts = urlsplit(self.path)
        self.server.asked.append(f"{self.command} {self.path}")
        assert parts.path.startswith("/v1.41/")
        return self.server, parts.path.removeprefix("/v1.41/"), parse_qs(parts.query)

    def _say(self, status: int, said: object) -> None:
        body = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        if status not in {204, 304}:
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def engine(folder: Path) -> Iterator[tuple[Engine, Path]]:
    """Serve on a socket in a folder; yields the engine and the socket."""
    path = folder / "docker.sock"
    with Engine(path) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made, path
        made.shutdown()
        thread.join()
