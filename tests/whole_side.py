"""The other side of every connector that speaks over the net, in one place: well, gone, hung, and what it was given.

    side = Whole(); await side.open(); ...; await side.go(); ...; await side.come()

It lives on the loop of whoever uses it. The first part of a path says whom it stands for, as in `everything.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from elastic_side import Elastic

PER_SECOND = 100.0
"""How fast the counter grows that Prometheus tells of."""


class Whole:
    """One server. `asked` has the time of each request by whom it was for, `given` what was taken, by its own name."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        self.port = 0
        self.hung = False
        self.began = time.time()
        self.asked: dict[str, list[float]] = defaultdict(list)
        self.given: dict[str, Counter[str]] = defaultdict(Counter)
        self.lines: dict[str, set[int]] = defaultdict(set)
        """Connections that each came by, by number."""
        self.open_at_once, self._n = 0, 0
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.elastic: dict[str, Elastic] = {}

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self.port}"

    async def come(self) -> None:
        """Be there, at the port of before."""
        self._server = await asyncio.start_server(self._answer, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def go(self) -> None:
        """Be gone: connections are cut, new ones refused."""
        if self._server is not None:
            self._server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    # ---- HTTP

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open.add(task)
        self.open_at_once = max(self.open_at_once, len(self._open))
        self._n += 1
        number = self._n
        try:
            while True:
                self.lines[await self._one(reader, writer)].add(number)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.transport.abort()

    @property
    def open_now(self) -> int:
        """How many connections there are."""
        return len(self._open)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        who, _, rest = path.lstrip("/").partition("/")
        self.asked[who].append(time.time())
        if self.hung:  # the beginning of an answer, and no end
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
            await asyncio.sleep(3600)
        status, said = self._said(who, method, f"/{rest}", headers, body)
        raw = said if isinstance(said, bytes) else json.dumps(said).encode()
        kind = "application/json"
        if who.startswith("elastic"):
            kind = "application/vnd.elasticsearch+json;compatible-with=9"
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\nx-elastic-product: Elasticsearch\r\n"
            f"content-length: {len(raw)}\r\n\r\n".encode()
            + (b"" if method == "HEAD" else raw)
        )
        await writer.drain()
        return who

    # ---- what each says

    def _said(
        self, who: str, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Any]:
        if who.startswith("elastic"):
            return self.database(who).answer(method, path, headers, body)
        say: Callable[..., Any] = getattr(self, f"_{who.removesuffix('_2')}", lambda *_: {})
        return 200, say(method, path, headers, body)

    def database(self, who: str) -> Elastic:
        """Return what stands behind one connector of Elasticsearch."""
        if who not in self.elastic:
            self.elastic[who] = Elastic()
            self.elastic[who].server.server_close()
        return self.elastic[who]

    def _alertmanager(self, method: str, path: str, _: Any, body: bytes) -> Any:
        if method == "POST" and path.endswith("/alerts"):
            for alert in json.loads(body):
                self.given["alertmanager"][json.dumps(alert["labels"], sort_keys=True)] += 1
        return []

    def _grafana(self, method: str, _: str, __: Any, body: bytes) -> Any:
        if method != "POST":
            return []
        self.given["grafana_annotations"][str(json.loads(body)["time"])] += 1
        return {"id": 1}

    def _heartbeat(self, *_: Any) -> Any:
        self.given["heartbeat"]["beat"] += 1
        return {}

    def _kubernetes(self, *_: Any) -> Any:
        return {"spec": {"replicas": 3}, "status": {}}

    def _trainer_kubernetes(self, *_: Any) -> Any:
        return {"spec": {"jobTemplate": {"spec": {"template": {}}}}}

    def _mlflow(self, _: str, path: str, __: Any, ___: Any) -> Any:
        if "registered-models/get" in path:
            return {"registered_model": {"name": "fraud", "aliases": [], "tags": []}}
        return {"registered_models": []}

    def _pagerduty(self, _: str, __: str, ___: Any, body: bytes) -> Any:
        event = json.loads(body)
        self.given["pagerduty"][event["dedup_key"] + " " + event["event_action"]] += 1
        return {"status": "success"}

    def _prometheus(self, _: str, path: str, headers: Any, body: bytes) -> Any:
        parts = urlsplit(path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        now = time.time()
        last = now - now % 5  # as it scrapes
        target = {"job": "shop", "instance": "10.0.0.9:80"}
        data: Any = []
        if parts.path.endswith("/query"):
            rows = {
                "timestamp(up)": [target, last],
                "up": [{"__name__": "up", **target}, 1],
                "http_requests_total": [
                    {"__name__": "http_requests_total", **target}, PER_SECOND * (last - self.began)
                ],
            }  # fmt: skip
            found = rows.get(unquote(query["query"]))
            data = {"resultType": "vector", "result": [] if found is None else [
                {"metric": found[0], "value": [now, str(found[1])]}
            ]}  # fmt: skip
        elif parts.path.endswith("/query_range"):
            data = {"resultType": "matrix", "result": []}
        elif parts.path.endswith("/metadata"):
            data = {"http_requests_total": [{"type": "counter", "help": "", "unit": ""}]}
        elif parts.path.endswith("/alerts"):
            data = {"alerts": []}
        return {"status": "success", "data": data}

    def _write(self, _: str, __: str, ___: Any, body: bytes) -> Any:
        self.given["remote_write"][str(hash(body))] += 1
        return {}

    def _webhook(self, _: str, __: str, headers: dict[str, str], ___: bytes) -> Any:
        self.given["webhook"][headers["idempotency-key"]] += 1
        return {}

    def _fleet_http(self, *_: Any) -> Any:
        return {"replicas": 3, "ready": 3}

    def _trainer_http(self, *_: Any) -> Any:
        return {"id": "r1"}

    def _trainer_kubeflow(self, *_: Any) -> Any:
        return {"run_id": "r1"}


@contextlib.contextmanager
def beside() -> Iterator[Whole]:
    """Have one for a while, on a loop and in a thread of its own."""
    loop, side = asyncio.new_event_loop(), Whole()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(side.come(), loop).result(10)
    try:
        yield side
    finally:
        asyncio.run_coroutine_threadsafe(side.go(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
