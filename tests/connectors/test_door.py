"""The one door to HTTP: whom it trusts, what it closes when, and what it takes out of an answer."""

import asyncio
import base64
import contextlib
import gzip
import os
import socket
import ssl
import subprocess
import time
import tracemalloc
import zlib
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest
from listening import listening

from agent import registry
from agent.errors import Refused, Unavailable, Uncertain
from agent.strike import learn
from connectors import _elastic, _promql
from connectors.http import Door, authorities, retry_after, trusted

PASSWORD = "pa55/word+long"


def echo(request):
    said = request.headers["authorization"]
    pair = base64.b64decode(said.partition(" ")[2]).decode()
    headers = {"location": f"http://h/?login={pair}", "x-said": said}
    return httpx.Response(302, headers=headers, text=f"{said} is {pair}, by {PASSWORD}")


async def test_a_secret_comes_back_neither_in_body_nor_headers_in_any_form():
    door = Door(transport=httpx.MockTransport(echo))
    basic = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    answer = await door.ask("GET", "http://h/", timeout_s=5.0, headers={"authorization": basic})
    said = answer.body.decode() + str(answer.headers)
    assert PASSWORD not in said
    assert basic.partition(" ")[2] not in said
    assert answer.headers["location"] == "http://h/?login=***"
    await door.close()


@pytest.fixture
async def slow():
    """A server that answers when it may, and knows which connections are open."""
    may, open_ = asyncio.Event(), {}

    async def serve(reader, writer):
        open_[writer] = asyncio.current_task()
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            while await reader.readuntil(b"\r\n\r\n"):
                await may.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        del open_[writer]
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield may, open_, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()
    serving = list(open_.values())
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)
    await asyncio.sleep(0.01)  # what is closed says so in the next round of the loop


async def until(what):
    async with asyncio.timeout(5):
        while not what():  # noqa: ASYNC110  # the other side of a socket tells nobody
            await asyncio.sleep(0.005)


async def test_what_is_under_way_when_it_is_closed_is_answered_and_nothing_stays_open(slow):
    may, open_, url = slow
    door = Door()
    asking = asyncio.create_task(door.ask("GET", url, timeout_s=5.0))
    await until(lambda: open_)
    await door.close()
    assert open_, "a step still waits for this answer"
    may.set()
    assert (await asking).body == b"ok"
    await until(lambda: not open_)
    assert (await door.ask("GET", url, timeout_s=5.0)).ok, "a step that goes on may ask again"
    await until(lambda: not open_)


async def test_one_that_failed_while_it_was_closed_is_closed_too(slow):
    _, open_, url = slow
    door = Door()
    asking = asyncio.create_task(door.ask("GET", url, timeout_s=0.2))
    await until(lambda: open_)
    await door.close()
    with pytest.raises(Unavailable):
        await asking
    assert door._client is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate, and its key, that only an authority of one's own has signed."""
    folder = tmp_path_factory.mktemp("authority")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=here",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@pytest.fixture
async def private(certificate):
    """A server inside a company: it answers as a Prometheus and as an Elasticsearch would."""
    body = b'{"status": "success", "data": []}'
    head = (
        "HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\nContent-Type: application/json\r\n"
    )
    answer = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    async with listening(serve, tls=tls) as url:
        yield url


async def by_door(url):
    door = Door()
    try:
        return await door.ask("GET", url, timeout_s=5.0)
    finally:
        await door.close()


async def by_promql(url):
    pytest.importorskip("prometheus_api_client", reason="needs the extra `prometheus`")
    server = _promql.Promql(_promql.Access(url=url))
    try:
        return await asyncio.to_thread(server.names)
    finally:
        server.close()


async def by_elastic(url):
    pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
    server = _elastic.Elastic(_elastic.Access(url=url), 5.0)
    try:
        return await asyncio.to_thread(lambda: server.client().info())
    except Exception as problem:  # noqa: BLE001  # whatever it is, `means` knows
        raise server.means(problem) from None
    finally:
        server.close()


@pytest.mark.parametrize("ask", [by_door, by_promql, by_elastic])
async def test_an_authority_that_this_host_trusts_needs_no_setting(
    ask, private, certificate, monkeypatch
):
    with pytest.raises((Refused, Unavailable), match=r"(?i)certificate"):
        await ask(private)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    await ask(private)


def test_doors_share_what_they_trust_until_it_changes(tmp_path, monkeypatch, certificate):
    file = tmp_path / "authorities.pem"
    file.write_bytes(Path(certificate[0]).read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    first = trusted()
    assert trusted() is first
    os.utime(file, ns=(1, 1))
    assert trusted() is not first


def test_a_host_without_authorities_trusts_those_that_come_with_python(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    (tmp_path / "bundle.crt").write_text("OpenSSL does not find it by this name\n")
    assert authorities() is None
    assert trusted().cert_store_stats()["x509_ca"] > 50
    (tmp_path / "0a1b2c3d.0").write_text("by this one it does\n")
    assert authorities() == str(tmp_path)
    assert trusted().cert_store_stats()["x509_ca"] == 0


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("1" * 30, 3600.0)]
    + [
        (text, None)
        for text in ("", "soon", "nan", "inf", "\u00b2", "Wed, 99 Nov 2026 25:00:00 GMT")
    ],
)
def test_how_long_we_are_asked_to_wait(said, seconds):
    assert retry_after({"retry-AFTER": said}) == seconds


def test_we_may_be_asked_to_wait_until_a_date():
    until = formatdate(time.time() + 90, usegmt=True)
    assert retry_after({"Retry-After": until}) == pytest.approx(90.0, abs=3.0)
    assert retry_after({"Retry-After": formatdate(0, usegmt=True)}) == 0.0
    assert retry_after({"Server": "x"}) is None


@pytest.mark.parametrize(
    "told",
    [
        lambda text: _elastic.reason({"error": {"type": "t", "reason": text}}),
        lambda text: _promql._told(text, ()),
    ],
    ids=["elastic", "promql"],
)
def test_of_words_of_others_that_are_cut_no_half_secret_is_left(told):
    learn("fu1l-0f-s3crets")
    for length in range(150, 320):
        assert "fu1l" not in told("x" * length + "fu1l-0f-s3crets")


@pytest.fixture
async def packed():
    """A server that answers what it is given, packed as it is told."""
    told = {}

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        told["asked"] = head.decode().lower()
        size = len(told["body"])
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Encoding: {told['by']}\r\nContent-Length: {size}\r\n\r\n".encode()
        )
        writer.write(told["body"])
        await writer.drain()

    async with listening(serve) as url:
        yield told, f"{url}/"


async def test_an_answer_that_is_packed_is_read(packed):
    told, url = packed
    told |= {"by": "gzip", "body": gzip.compress(b"x" * 3_000_000)}
    assert (await by_door(url)).body == b"x" * 3_000_000
    assert "accept-encoding: gzip\r\n" in told["asked"]


async def test_a_few_bytes_that_stand_for_a_gigabyte_fill_no_memory(packed):
    told, url = packed
    pack = zlib.compressobj(wbits=31)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(256)) + pack.flush()
    told |= {"by": "gzip", "body": bomb}
    tracemalloc.start()
    try:
        with pytest.raises(Refused, match="larger than 8388608 bytes"):
            await by_door(url)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("by", "body", "words"),
    [("gzip", b"plain", "not packed as it says"), ("br", b"x", "packed by br was not asked for")],
)
async def test_an_answer_that_can_not_be_unpacked_is_none(packed, by, body, words):
    told, url = packed
    told |= {"by": by, "body": body}
    with pytest.raises(Unavailable, match=words):
        await by_door(url)
    door = Door()
    with pytest.raises(Uncertain, match=words):
        await door.ask("POST", url, timeout_s=5.0)
    await door.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_why_there_is_no_connection_is_said_in_the_words_of_the_system(host):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=r"no connection: connection refused$"):
        await by_door(f"http://{host}:{port}/")
    with pytest.raises(Unavailable, match=r"no connection: .*name"):
        await by_door("http://nobody.invalid/")


BASES = {
    "alertmanager": {},
    "elastic_logs": {},
    "elastic_out": {},
    "fleet_http": {"service": "web"},
    "kubernetes": {"service": "web", "workload": "deployment/web"},
    "mlflow": {},
    "prometheus": {},
    "trainer_kubeflow": {"model": "m", "pipeline": "p", "report": "http://h/{run}"},
}


@pytest.mark.parametrize("kind", BASES)
def test_a_url_to_which_paths_are_added_may_not_go_on_behind_its_path(kind):
    registry.load()
    config = registry.connector.get(kind).Config
    assert config(url="http://h:1/prefix/", **BASES[kind]).url.endswith("/prefix/")
    for wrong in ("http://h:1/?token=s3cr3t", "http://h:1/#x"):
        with pytest.raises(ValueError, match=r"end it before `\?`"):
            config(url=wrong, **BASES[kind])
