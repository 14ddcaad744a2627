"""Every connector that asks another system, against every way in which that system can fail.

Whatever comes back: an error of ours (or a finding) in good time that says where, a few requests and no more, a bounded
part of what is sent read, no request where a redirect points to, and the secret that went along in nothing that we say.
When the system is well again, the next use is as if nothing had been.
"""

import asyncio
import contextlib
import gc
import math
import ssl
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent import registry
from agent.errors import AgentError
from agent.journal import Entry
from agent.ports import Note
from connectors.alertmanager import Alertmanager
from connectors.docker import Docker
from connectors.elastic_logs import ElasticLogs
from connectors.elastic_out import ElasticOut
from connectors.elastic_predictions import ElasticPredictions
from connectors.flag_http import FlagHttp
from connectors.fleet_http import FleetHttp
from connectors.grafana_annotations import GrafanaAnnotations
from connectors.heartbeat import Heartbeat
from connectors.http_calls import HttpCalls
from connectors.kubernetes import Kubernetes
from connectors.kubernetes_nodes import KubernetesNodes
from connectors.mlflow import MlflowModels
from connectors.pagerduty import PagerDuty
from connectors.probe import Probe
from connectors.prometheus import Prometheus
from connectors.remote_write import RemoteWrite
from connectors.slack import Slack
from connectors.trainer_http import TrainerHttp
from connectors.trainer_kubeflow import TrainerKubeflow
from connectors.trainer_kubernetes import TrainerKubernetes
from connectors.webhook import Webhook

CANARY = "canary-7d1f3b9e"
LIMIT_S = 0.4
"""What connectors are told to wait for one answer."""
MOST_SENT = 80e6


BODIES = {
    "wrong_body": b"<html><body>Sign in: ",
    "wrong_shape": b'[[null, {"a": -1e400}], "x"]',
    "deep": b"[" * 200_000,
}
"""Answers of status 200 that mean nothing."""


class Broken:
    """A server that fails as it is told; well, it answers `said`."""

    def __init__(self) -> None:
        self.fault, self.said = "", b"{}"
        self.requests, self.strayed, self.sent = 0, 0, 0
        self._tasks: set[asyncio.Task] = set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one(self, reader, writer) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        if b"/elsewhere" in head:
            self.strayed += 1
        lengths = [
            x.split(b":")[1] for x in head.lower().split(b"\r\n") if x.startswith(b"content-length")
        ]
        echo = head + await reader.readexactly(int(lengths[0]) if lengths else 0)
        strange = getattr(self, f"_{self.fault}", None)
        if strange is not None:
            return await strange(writer, echo)
        if self.fault in BODIES:
            await self._say(
                writer, 200, BODIES[self.fault] + (b"" if self.fault == "wrong_shape" else echo)
            )
        elif self.fault:
            await self._say(
                writer, int(self.fault), b'{"error": "' + echo + b'"}', "retry-after: 1"
            )
        else:
            await self._say(writer, 200, self.said(head) if callable(self.said) else self.said)
        return True

    async def _slow(self, writer, echo: bytes) -> bool:
        await asyncio.sleep(60)
        return False

    async def _half_open(self, writer, echo: bytes) -> bool:
        """Begin an answer and stop."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        await writer.drain()
        return await self._slow(writer, echo)

    async def _drips(self, writer, echo: bytes) -> bool:
        """Send the head of an answer, which never ends, byte by byte."""
        writer.write(b"HTTP/1.1 200 OK\r\nX-Much: ")
        return await self._drip(writer)

    async def _drips_its_body(self, writer, echo: bytes) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        return await self._drip(writer)

    async def _drip(self, writer) -> bool:
        for _ in range(600):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(LIMIT_S / 4)
        return False

    async def _dropped(self, writer, echo: bytes) -> bool:
        return False

    async def _garbage(self, writer, echo: bytes) -> bool:
        writer.write(b"\x00\xff\xfe not a protocol \r\n\r\n" + echo)
        await writer.drain()
        return False

    async def _huge(self, writer, echo: bytes) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
        )
        part = b"10000\r\n" + b'"' + b"x" * 65_535 + b"\r\n"
        while self.sent < 2e9:
            writer.write(part)
            self.sent += 65_536
            await writer.drain()
        return False

    async def _redirect(self, writer, echo: bytes) -> bool:
        await self._say(writer, 302, echo, f"location: {self.url}/elsewhere")
        return True

    async def _say(self, writer, status: int, body: bytes, *more: str) -> None:
        head = [
            f"HTTP/1.1 {status} X",
            "content-type: application/json",
            "x-elastic-product: Elasticsearch",
            *more,
        ]
        writer.write("\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body)
        await writer.drain()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


FAULTS = (
    "refused", "slow", "half_open", "drips", "drips_its_body", "dropped", "401", "403", "404", "429", "500", "503",
    "garbage", "wrong_body", "wrong_shape", "deep", "huge", "redirect", "no_tls", "strange_certificate",
)  # fmt: skip


@contextlib.asynccontextmanager
async def broken(fault: str, folder: Path, *, unix: bool = False):
    side = Broken()
    side.fault = fault if fault not in {"refused", "no_tls", "strange_certificate"} else ""
    tls = None
    if fault == "strange_certificate":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*self_signed())
    if unix:
        side.url = str(folder / "socket")
        server = await asyncio.start_unix_server(side.answer, side.url)
    else:
        server = await asyncio.start_server(side.answer, "127.0.0.1", 0, ssl=tls)
        scheme = "https" if fault in {"no_tls", "strange_certificate"} else "http"
        side.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    if fault == "refused":
        server.close()
        await server.wait_closed()
    try:
        yield side
    finally:
        server.close()
        await asyncio.sleep(0.01)  # a connection that was just taken gets its turn, and is ended
        await side.close()
        await asyncio.sleep(0.01)


@cache
def self_signed() -> tuple[Path, Path]:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="homeostat-test-"))
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=here",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@dataclass(frozen=True)
class Subject:
    """A connector, what it is used for, and what its system says when it is well.

    finds    a system that fails is its finding: an answer, not an error
    takes    faults that are none for it: it reads no body
    unix     it is asked at a Unix socket, where nobody speaks TLS
    """

    make: Callable[[str, Path], Any]
    use: Callable[[Any], Any]
    said: bytes | Callable[[bytes], bytes] = b"{}"
    finds: bool = False
    takes: frozenset[str] = field(default_factory=frozenset)
    unix: bool = False


NOTE = Note("k1", 5.0, "page", "t", "x", "i1")
ANSWERED = frozenset({"wrong_body", "wrong_shape", "deep"})


PROMETHEUS = b'{"status": "success", "data": %s}'


def call(connector):
    return connector.call(
        "POST", connector.config.allow[0].url, {}, f"k{time.monotonic_ns()}", LIMIT_S
    )


async def drawn(connector):
    await connector.notify(Note("k1", 5.0, "page", "t", "x", "i1", event="opened"))


async def wrote(connector):
    connector.take(time.time(), {(("__name__", "x"),): 1.0})
    await connector.deliver()


def alertmanager(url, folder):
    config = Alertmanager.Config(
        url=url, headers={"x": "env:CANARY"}, alerts=["page"], timeout=LIMIT_S
    )
    return Alertmanager("am", config, state=folder)


def patient(connector):
    connector._elastic._timeout_s = LIMIT_S
    return connector


def searched(head):
    """Say what Elasticsearch does of an index in which nothing is."""
    if b"/_pit" in head:
        return b'{"id": "p1"}'
    shards = '"timed_out": false, "_shards": {"total": 1}, "hits": {"hits": []}'
    none = '"services": {"buckets": []}, "others": {"hosts": {"buckets": []}}'
    aggregations = f'"now": {{"doc_count": 0, {none}}}, "newest": {{"value": null}}'
    return f'{{{shards}, "aggregations": {{{aggregations}}}}}'.encode()


def installed(head):
    """Say that each policy and template is there, and take a document."""
    _, _, what = head.split(b" ")[1].partition(b"/_ilm/policy/")
    if what:
        return b'{"%s": {"policy": {}}}' % what
    return b'{"index_templates": [{"index_template": {}}], "items": [{"create": {"status": 201}}]}'


PAUSED = Entry(1, time.time(), "pause", "*", {"by": "alice"}, "", "h1")


async def rested(connector):
    """Tell a note when the time that Slack has asked for is over."""
    connector._door._rest.clear()
    await connector.notify(NOTE)


def hook(url, folder):
    """Return a reference to a URL that is a secret."""
    (folder / "url").write_text(f"{url}/services/{CANARY}\n")
    return f"file:{folder}/url"


SUBJECTS = {
    "alertmanager, its silences": Subject(alertmanager, lambda c: c.mutes(), b"[]"),
    "alertmanager, its alerts": Subject(alertmanager, lambda c: c.notify(NOTE), takes=ANSWERED),
    "docker": Subject(
        lambda path, _: Docker(
            "d", Docker.Config(service="web", labels={"a": "b"}, socket=path, timeout=LIMIT_S)
        ),
        lambda c: c.units("service:web"),
        b"[]",
        unix=True,
    ),
    "elastic_logs": Subject(
        lambda url, _: patient(ElasticLogs("logs", ElasticLogs.Config(url=url, api_key="env:CANARY"))),
        lambda c: c.poll(),
        searched,
    ),
    "elastic_out": Subject(
        lambda url, folder: ElasticOut(
            "out", ElasticOut.Config(url=url, api_key="env:CANARY", timeout=LIMIT_S), state=folder
        ),
        lambda c: c.keep([PAUSED]),
        installed,
    ),
    "elastic_predictions": Subject(
        lambda url, _: patient(
            ElasticPredictions("p", ElasticPredictions.Config(url=url, index="i", model="m", api_key="env:CANARY"))
        ),
        lambda c: c.read(),
        searched,
    ),
    "flag_http": Subject(
        lambda url, _: FlagHttp(
            "f", FlagHttp.Config(
                service="web", may=["x"], url=f"{url}/{{name}}", headers={"x": "env:CANARY"}, timeout=LIMIT_S
            ),
        ),
        lambda c: c._get("x"),
        b'{"value": true}',
        takes=frozenset({"404"}),  # nobody has set it
    ),
    "grafana_annotations": Subject(
        lambda url, _: GrafanaAnnotations(
            "g", GrafanaAnnotations.Config(url=url, token="env:CANARY", timeout=LIMIT_S)
        ),
        drawn,
        b"[]",
    ),
    "heartbeat": Subject(
        lambda url, _: Heartbeat("h", Heartbeat.Config(url=url, headers={"x": "env:CANARY"}, timeout=LIMIT_S)),
        lambda c: c.beat(5.0),
        takes=ANSWERED,
    ),
    "http_calls": Subject(
        lambda url, folder: HttpCalls(
            "c", HttpCalls.Config(allow=[{"url": f"{url}/x", "methods": ["POST"], "headers": {"x": "env:CANARY"}}]),
            state=folder,
        ),
        call,
        takes=ANSWERED,
    ),
    "mlflow": Subject(
        lambda url, _: MlflowModels("m", MlflowModels.Config(url=url, token="env:CANARY", timeout=LIMIT_S)),
        lambda c: c.poll(),
    ),
    "pagerduty": Subject(
        lambda url, _: PagerDuty("pd", PagerDuty.Config(url=url, routing_key="env:CANARY", timeout=LIMIT_S)),
        lambda c: c.notify(NOTE),
        b'{"status": "success"}',
        takes=ANSWERED,
    ),
    "probe": Subject(
        lambda url, _: Probe(
            "p", Probe.Config(service="web", url=url, headers={"x": "env:CANARY"}, timeout=LIMIT_S)
        ),
        lambda c: c.poll(),
        finds=True,
        takes=ANSWERED | {"redirect"},
    ),
    "prometheus": Subject(
        lambda url, _: Prometheus("prom", Prometheus.Config(url=url, token="env:CANARY", timeout=LIMIT_S)),
        lambda c: c.poll(),
        lambda head: PROMETHEUS % (b'{"resultType": "vector", "result": []}' if b"/query" in head else b"[]"),
    ),
    "remote_write": Subject(
        lambda url, _: RemoteWrite("rw", RemoteWrite.Config(url=url, headers={"x": "env:CANARY"}, timeout=LIMIT_S)),
        wrote,
        takes=ANSWERED,
    ),
    "slack": Subject(
        lambda url, _: Slack(
            "s", Slack.Config(channel="C0123456789", bot_token="env:CANARY", api_url=f"{url}/api/", timeout=LIMIT_S)
        ),
        rested,
        b'{"ok": true, "ts": "1.1"}',
    ),
    "slack, its webhook": Subject(
        lambda url, folder: Slack("s", Slack.Config(mode="webhook", webhook=hook(url, folder), timeout=LIMIT_S)),
        lambda c: c.notify(NOTE),
        b"ok",
        takes=ANSWERED,
    ),
    "trainer_http": Subject(
        lambda url, _: TrainerHttp(
            "t", TrainerHttp.Config(
                model="m", start=f"{url}/runs", status=f"{url}/{{run}}", headers={"x": "env:CANARY"}, timeout=LIMIT_S
            ),
        ),
        lambda c: c._start("k", {}),
        b'{"id": "r1"}',
    ),
    "trainer_kubeflow": Subject(
        lambda url, _: TrainerKubeflow(
            "t", TrainerKubeflow.Config(
                model="m", url=url, pipeline="p", report=f"{url}/{{run}}", token="env:CANARY", timeout=LIMIT_S
            ),
        ),
        lambda c: c._start("k", {}),
        b'{"run_id": "r1"}',
    ),
    "trainer_kubernetes": Subject(
        lambda url, _: TrainerKubernetes(
            "t", TrainerKubernetes.Config(
                model="m", url=url, cronjob="c", token="env:CANARY", timeout=LIMIT_S
            ),
        ),
        lambda c: c._start("k", {}),
        b'{"spec": {"jobTemplate": {"spec": {"template": {}}}}}',
    ),
    "kubernetes": Subject(
        lambda url, _: Kubernetes(
            "k", Kubernetes.Config(
                service="web", workload="deployment/web", url=url, token="env:CANARY", timeout=LIMIT_S
            ),
        ),
        lambda c: c.replicas("service:web"),
        b'{"spec": {"replicas": 3}}',
    ),
    "kubernetes_nodes": Subject(
        lambda url, _: KubernetesNodes(
            "k", KubernetesNodes.Config(url=url, token="env:CANARY", timeout=LIMIT_S)
        ),
        lambda c: c.node("host:gpu-1"),
        b'{"metadata": {"name": "gpu-1"}}',
    ),
    "fleet_http": Subject(
        lambda url, _: FleetHttp(
            "f", FleetHttp.Config(service="web", url=url, headers={"x": "env:CANARY"}, timeout=LIMIT_S)
        ),
        lambda c: c.replicas("service:web"),
        b'{"replicas": 3}',
    ),
    "webhook": Subject(
        lambda url, _: Webhook("w", Webhook.Config(url=url, headers={"x": "env:CANARY"}, timeout=LIMIT_S)),
        lambda c: c.notify(NOTE),
        takes=ANSWERED,
    ),
}  # fmt: skip


ELSEWHERE = {
    **dict.fromkeys(
        ("cgroup", "connections", "containers", "host", "kernel_log", "machine", "processes"),
        "this kernel alone",
    ),
    **dict.fromkeys(
        ("batch_scoring", "flag_file", "model_directory", "old_files", "units"),
        "files of this host",
    ),
    **dict.fromkeys(
        ("commands", "disks", "systemd", "trainer"),
        "programs of this host, bounded in connectors/_program",
    ),
    **dict.fromkeys(
        ("deployments", "otlp", "predictions"),
        "others come to us: tests/live/test_ingest.py, test_wire.py",
    ),
    "gpu": "a driver in a child of ours: hung, lost, failing, absent in tests/connectors/test_gpu.py",
    "gpu_control": "as gpu: tests/connectors/test_gpu_control.py",
    "gunicorn": "processes of this host: tests/connectors/test_gunicorn.py",
    "haproxy": "no HTTP, a socket of one line and its answer: tests/live/test_haproxy.py",
    "mail": "no HTTP: tests/connectors/test_mail.py",
    "page": "a door of our own to other connectors",
}
"""Who is no subject here, and why; what others fail at stands where it says."""


def test_every_connector_is_a_subject_or_says_where_it_is_tried():
    registry.load()
    here = {name.partition(",")[0] for name in SUBJECTS}
    assert sorted(here | set(ELSEWHERE)) == sorted(registry.connector)
    assert not here & set(ELSEWHERE)


async def used(subject: Subject, connector) -> tuple[str, str]:
    """Use it once, in good time; return what went wrong in words, and all that was said of it."""
    with structlog.testing.capture_logs() as logs:
        try:
            async with asyncio.timeout(20 * LIMIT_S):
                found = await subject.use(connector)
        except AgentError as wrong:
            return str(wrong) or "?", "".join(traceback.format_exception(wrong)) + repr(logs)
    if subject.finds and found.values[-1] != 1.0:
        assert not math.isnan(found.values[-1])
        return "down", repr(logs) + repr(found)
    return "", repr(logs) + repr(found)


@pytest.fixture(scope="module", autouse=True)
def swept():
    """Let nothing that others left be told of these tests; each puts aside, for collecting, what was there before."""
    gc.collect()
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SUBJECTS)
async def test_whatever_comes_back(name, fault, tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", CANARY)
    subject = SUBJECTS[name]
    if name.startswith("elastic"):
        pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
    if name.startswith("slack"):
        pytest.importorskip("slack_sdk", reason="needs the extra `slack`")
    if subject.unix and fault in {"no_tls", "strange_certificate"}:
        return
    gc.freeze()  # so that collecting looks at what is made from here on, and not at all that the session holds
    async with broken(fault, tmp_path, unix=subject.unix) as side:
        side.said = subject.said
        connector = subject.make(side.url, tmp_path)
        try:
            wrong, said = await used(subject, connector)
            assert bool(wrong) == (fault not in subject.takes), said
            assert CANARY not in said
            assert side.requests <= 3
            assert side.sent <= MOST_SENT
            assert side.strayed == 0
            if wrong and not subject.finds:
                assert "127.0.0.1" in wrong or connector.name in wrong or side.url in wrong
            if fault in {"refused", "no_tls", "strange_certificate"}:
                return
            side.fault = ""
            wrong, said = await used(subject, connector)
            assert not wrong, said
        finally:
            closed = getattr(connector, "close", lambda: None)()
            if asyncio.iscoroutine(closed):
                await closed
            del connector
            await asyncio.sleep(0.01)  # what is closed says so in the next round of the loop
            gc.collect()  # a connection that was left open is told here, and not of another test
