"""The other side of the ways to people: protocol-true stand-ins over HTTP that can fail as they are told.

What PagerDuty and Grafana demand and answer is taken from their documentation; neither was run.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

_STATUS = {"unauthorized": 401, "forbidden": 403, "busy": 429, "broken": 500, "unfit": 400}
FAULTS = frozenset({"dropped", "slow", "redirect", "garbage", *_STATUS})


class Side(http.server.ThreadingHTTPServer):
    """A server that keeps what it was asked and fails as it is told; `take` makes it one of the real ones."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Answer)
        self.fault = ""
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.strayed: list[str] = []
        self.going_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, object]:
        self.asked.append((method, path, headers, body))
        return 200, {}


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Side

    def _any(self) -> None:
        side = self.server
        headers = {k.lower(): v for k, v in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        if self.path.startswith("/elsewhere"):
            side.strayed.append(self.path)
        if side.fault == "slow":
            side.going_on.wait(20)
            return
        if side.fault == "dropped":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, said = _STATUS.get(side.fault, 0), {"echo": str(headers) + body.decode()}
        if side.fault == "redirect":
            status = 307
        elif side.fault == "garbage":
            status = 200
        elif not status:
            status, said = side.take(self.command, self.path, headers, body)
        text = b"\x00<html>" * 100 if side.fault == "garbage" else json.dumps(said).encode()
        with contextlib.suppress(OSError):  # the other end gave up
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            if status == 307:
                self.send_header("location", f"{side.url}/elsewhere")
            if status == 429:
                self.send_header("retry-after", "7")
            self.end_headers()
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_PATCH = _any  # noqa: N815  # names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing on standard error."""


class PagerDutySide(Side):
    """Events API v2: checks an event as documented, answers 202 or 400, and folds events into incidents."""

    KEY = "R0123456789CANARY0123456789ABCDE"

    def __init__(self) -> None:
        super().__init__()
        self.incidents: dict[str, list[str]] = {}
        self.triggers: dict[str, dict] = {}

    def take(self, method, path, headers, body):
        super().take(method, path, headers, body)
        if (method, path) != ("POST", "/v2/enqueue"):
            return 404, {}
        event = json.loads(body)
        errors = list(self._errors(event, body))
        if errors:
            said = {
                "status": "invalid event",
                "message": "Event object is invalid",
                "errors": errors,
            }
            return 400, said
        key, action = event["dedup_key"], event["event_action"]
        lives = self.incidents.setdefault(key, [])
        if action == "trigger":
            if not lives or lives[-1] == "resolved":
                lives.append("triggered")
            self.triggers[key] = event
        elif lives and lives[-1] != "resolved":
            lives[-1] = {"acknowledge": "acknowledged", "resolve": "resolved"}[action]
        return 202, {"status": "success", "message": "Event processed", "dedup_key": key}

    def _errors(self, event: dict, body: bytes) -> Iterator[str]:
        if event.get("routing_key") != self.KEY:
            yield "'routing_key' is invalid"
        if event.get("event_action") not in {"trigger", "acknowledge", "resolve"}:
            yield "'event_action' is invalid"
        if not 0 < len(event.get("dedup_key", "")) <= 255 or len(body) > 512 * 1024:
            yield "'dedup_key' is invalid or the event is too large"
        if set(event) - {
            "routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links", "images",
        }:  # fmt: skip
            yield "unknown fields"
        if event.get("event_action") != "trigger":
            return
        payload = event.get("payload", {})
        if not 0 < len(payload.get("summary", "")) <= 1024 or not payload.get("source"):
            yield "'summary' or 'source' is missing or too long"
        if payload.get("severity") not in {"critical", "error", "warning", "info"}:
            yield "'severity' is invalid"
        if not re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", payload.get("timestamp", "")):
            yield "'timestamp' is invalid"
        if any(not link.get("href") for link in event.get("links", ())):
            yield "'links' are invalid"


class GrafanaSide(Side):
    """The annotations of Grafana: added, found by tags (all of them), changed by PATCH."""

    TOKEN = "glsa_CANARY0123456789"  # of the stand-in

    def __init__(self) -> None:
        super().__init__()
        self.annotations: list[dict] = []

    def take(self, method, path, headers, body):
        super().take(method, path, headers, body)
        if headers.get("authorization") != f"Bearer {self.TOKEN}":
            return 401, {"message": "Invalid API key"}
        parts = urlsplit(path)
        if method == "GET" and parts.path == "/api/annotations":
            wanted = set(parse_qs(parts.query).get("tags", ()))
            return 200, [a for a in self.annotations if wanted <= set(a["tags"])]
        said = json.loads(body)
        if method == "POST" and parts.path == "/api/annotations":
            if not said.get("text"):
                return 400, {"message": "Failed to save annotation: text field should not be empty"}
            one = {"id": len(self.annotations) + 1, **said}
            self.annotations.append({"timeEnd": one["time"], **one})
            return 200, {"message": "Annotation added", "id": one["id"]}
        if method == "PATCH" and (found := re.fullmatch(r"/api/annotations/(\d+)", parts.path)):
            self.annotations[int(found[1]) - 1].update(said)
            return 200, {"message": "Annotation patched"}
        return 404, {"message": "Not found"}


@contextlib.contextmanager
def serving(side: Side) -> Iterator[Side]:
    """Let it answer for a while."""
    thread = threading.Thread(target=side.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield side
    finally:
        side.going_on.set()
        side.shutdown()
        thread.join()
        side.server_close()
