"""The probe and the HTTP door, against real sockets."""

import asyncio
import contextlib
import math
import shutil
import socket
import ssl
import subprocess

import httpx
import pytest
import structlog
from listening import listening
from pydantic import ValidationError

from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Entity
from agent.ports import Source
from agent.secret import secret
from connectors.http import Door, checked_url, redacted
from connectors.probe import Probe

UP = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def serving(*answers: bytes, delay_s: float = 0.0, hold: bool = False, tls=None):
    """Serve raw answers, the last one for ever; yields (url, requests as they came)."""
    asked: list[bytes] = []
    todo = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(x.split(b":")[1])
                for x in head.lower().split(b"\r\n")
                if x.startswith(b"content-length")
            ),
            0,
        )
        asked.append(head + await reader.readexactly(length))
        await asyncio.sleep(delay_s)
        writer.write(todo.pop(0) if len(todo) > 1 else todo[0])
        await writer.drain()
        if hold:
            await asyncio.sleep(30)

    async with listening(answer, tls=tls) as url:
        yield url, asked


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def probe(url: str, **more) -> Probe:
    return Probe("probe", Probe.Config(service="web", url=url, **more))


async def ask(one: Probe) -> dict[str, float]:
    frame = await one.poll()
    assert frame.source == "probe"
    assert all(s.entity == Entity("service", "web") for s in frame.series)
    assert list(frame.series) == sorted(frame.series)
    return dict(zip((s.metric for s in frame.series), frame.values, strict=True))


async def test_a_service_that_answers_is_up_with_its_latency():
    async with serving(UP, delay_s=0.05) as (url, asked):
        one = probe(url + "/health")
        assert isinstance(one, Source)
        seen = await ask(one)
        assert seen["service.up"] == 1.0
        assert 0.05 <= seen["service.probe_latency_seconds"] < 2
        assert asked[0].startswith(b"GET /health HTTP/1.1\r\n")
        assert (await one.poll()).series is (await one.poll()).series
        await one.close()


async def test_every_probe_waits_in_the_queue_of_new_clients():
    async with serving(UP) as (url, asked):
        one = probe(url)
        for _ in range(3):
            assert (await ask(one))["service.up"] == 1.0
        await one.close()
    # this server reads one request a connection: three answers are three connections
    assert len(asked) == 3
    assert all(b"connection: close" in request.lower() for request in asked)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oh No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        b"this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut off",
        b"",
    ],
)
async def test_an_answer_that_is_none_means_down_with_unknown_latency(answer):
    async with serving(answer) as (url, _):
        one = probe(url)
        seen = await ask(one)
        await one.close()
    assert seen["service.up"] == 0.0
    assert math.isnan(seen["service.probe_latency_seconds"])


async def test_refused_connections_and_unknown_hosts_mean_down():
    for url in (f"http://127.0.0.1:{closed_port()}/", "http://no-such-host.invalid/"):
        one = probe(url)
        assert (await ask(one))["service.up"] == 0.0
        await one.close()


@pytest.mark.parametrize("hold", [False, True])
async def test_a_service_that_hangs_is_down_in_time(hold):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nslow" if hold else UP
    async with serving(answer, delay_s=0.0 if hold else 5.0, hold=hold) as (url, _):
        one = probe(url, timeout=0.3)
        start = asyncio.get_running_loop().time()
        assert (await ask(one))["service.up"] == 0.0
        assert asyncio.get_running_loop().time() - start < 1.5
        await one.close()


async def test_redirects_are_not_followed_and_count_as_an_answer():
    async with serving(UP) as (inner, reached):
        move = f"HTTP/1.1 302 Found\r\nLocation: {inner}/\r\nContent-Length: 0\r\n\r\n".encode()
        async with serving(move) as (url, _):
            one = probe(url)
            assert (await ask(one))["service.up"] == 1.0
            strict = probe(url, expect=[200])
            assert (await ask(strict))["service.up"] == 0.0
            await one.close()
            await strict.close()
        assert reached == []


async def test_a_body_and_a_secret_header_are_sent_and_not_told(monkeypatch):
    monkeypatch.setenv("PROBE_TOKEN", "hunter2")
    async with serving(UP, b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n") as (url, asked):
        one = probe(
            url + "/predict?key=hunter2", method="POST", body='{"x": 1}',
            headers={"authorization": "env:PROBE_TOKEN"},
        )  # fmt: skip
        with structlog.testing.capture_logs() as logs:
            assert (await ask(one))["service.up"] == 1.0
            assert (await ask(one))["service.up"] == 0.0
            lines = await one.describe()
        await one.close()
    assert b"authorization: hunter2" in asked[0]
    assert asked[0].endswith(b'{"x": 1}')
    assert "hunter2" not in str(logs)
    assert "hunter2" not in str(lines)


async def test_a_missing_secret_is_said_and_means_that_we_do_not_know_it_is_up(monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    async with serving(UP) as (url, asked):
        one = probe(url, headers={"authorization": "env:NO_SUCH"})
        assert (await ask(one))["service.up"] == 0.0
        assert "NO_SUCH is not set" in (await one.describe())[1]
        await one.close()
    assert asked == []


async def test_a_failure_is_logged_when_it_begins_and_when_it_is_over():
    async with serving(*[b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"] * 3, UP) as (url, _):
        one = probe(url)
        with structlog.testing.capture_logs() as logs:
            for _ in range(5):
                await one.poll()
        await one.close()
    assert [entry["event"] for entry in logs] == ["probe_failed", "probe_answered"]


@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "http://", "http://user:pass@host/", "//host/", "http://host:99999/", "/path"],
)
def test_urls_that_we_do_not_ask_are_refused(url):
    with pytest.raises(ValidationError):
        probe(url)


def test_the_interval_leaves_room_for_the_time_limit():
    assert probe("http://h/").interval_s == 5.0
    assert 2 * probe("http://h/", timeout=30).interval_s > 30


# ---- the door


def test_redaction_leaves_what_helps():
    assert redacted("https://api.example:8443/v1/x?token=s#f") == "https://api.example:8443/v1/x"
    assert redacted("http://[::1]:80/a?b") == "http://[::1]:80/a"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("127.0.0.1:9090", "127.0.0.1:9090"),
        ("user:secret@host:9090/x?token=s", "host:9090/x"),
        ("http://user:secret@host:99999/", "host:99999/"),
        ("http://host:abc?token=s", "http://host:abc"),
        ("http://[::1", "http://[::1"),
        ("", ""),
    ],
)
def test_what_is_no_url_is_named_without_its_secret(written, said):
    assert redacted(written) == said
    assert checked_url("http://[::1]:80/a") == "http://[::1]:80/a"


def test_secrets_come_by_reference(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN_X", "abc")
    (tmp_path / "secret").write_text("def\n")
    assert secret("env:TOKEN_X") == "abc"
    assert secret(f"file:{tmp_path}/secret") == "def"
    assert secret("plain") == "plain"
    with pytest.raises(Refused, match="cannot be read"):
        secret(f"file:{tmp_path}/none")


async def test_what_a_failure_means_depends_on_whether_it_may_have_happened():
    door = Door()
    async with serving(UP, delay_s=5) as (url, _):
        with pytest.raises(Unavailable, match="no answer within"):
            await door.ask("GET", url, timeout_s=0.2)
        with pytest.raises(Uncertain, match="may have been done"):
            await door.ask("POST", url, timeout_s=0.2, body=b"x")
    async with serving(b"") as (url, _):
        with pytest.raises(Unavailable):
            await door.ask("GET", url, timeout_s=2)
        with pytest.raises(Uncertain):
            await door.ask("DELETE", url, timeout_s=2)
    with pytest.raises(Unavailable, match="no connection"):  # never sent: nothing has happened
        await door.ask("POST", f"http://127.0.0.1:{closed_port()}/", timeout_s=2, body=b"x")
    await door.close()


async def test_an_answer_without_end_is_cut():
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000
    async with serving(endless, hold=True) as (url, _):
        door = Door()
        with pytest.raises(Refused, match="larger than 1000 bytes"):
            await door.ask("GET", url, timeout_s=5, most_bytes=1000)
        await door.close()


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    async with serving(UP) as (url, _):
        door = Door()
        answer = await door.ask("GET", url, timeout_s=2)
        await door.close()
    assert (answer.status, answer.body, answer.ok) == (200, b"ok", True)


async def test_a_closed_door_opens_again():
    async with serving(UP) as (url, _):
        door = Door()
        for _ in range(2):
            assert (await door.ask("GET", url, timeout_s=2)).ok
            await door.close()


# ---- certificates


@pytest.fixture
def certified(tmp_path):
    """A certificate of ten days for 127.0.0.1; returns (context of the server, context of a client that trusts it)."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make a certificate with")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "10", "-subj", "/CN=here",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return server, ssl.create_default_context(cafile=cert)


async def test_how_long_a_certificate_is_valid_is_read_with_the_probe(certified):
    server, client = certified
    async with serving(UP, b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", tls=server) as (url, _):
        one = probe(url)
        one._door = Door(transport=httpx.AsyncHTTPTransport(verify=client))
        first, second = await one.poll(), await one.poll()
        await one.close()
    assert first.series[0].metric == "service.certificate_seconds"
    assert first.values[0] == pytest.approx(10 * 86_400.0, abs=120.0)
    assert first.values[-1] == 1.0
    assert second.values[-1] == 0.0
    assert second.values[0] == pytest.approx(first.values[0], abs=10.0)


@pytest.mark.parametrize("scheme", ["https", "tls"])
async def test_a_file_of_authorities_is_trusted_and_nobody_else(certified, tmp_path, scheme):
    server, _ = certified
    async with serving(UP, tls=server) as (https, _):
        url = https.replace("https", scheme)
        trusting, strict = probe(url, ca=tmp_path / "cert.pem"), probe(url)
        assert await ask(trusting) == {
            "service.certificate_seconds": pytest.approx(10 * 86_400.0, abs=120.0),
            "service.probe_latency_seconds": pytest.approx(0.5, abs=0.5),
            "service.up": 1.0,
        }
        assert (await ask(strict))["service.up"] == 0.0
        said = " ".join(await strict.describe())
        assert "certificate" in said
        assert "is valid for" in " ".join(await trusting.describe())
    with pytest.raises(Refused, match=r"nowhere\.pem: No such file or directory; name a PEM file"):
        probe(url, ca=tmp_path / "nowhere.pem")


async def test_a_port_that_takes_connections_is_up_and_one_that_is_closed_or_hangs_is_not():
    async with serving(UP) as (url, asked):
        one = probe(url.replace("http", "tcp"))
        seen = await ask(one)
        assert (seen["service.up"], asked) == (1.0, [])
        assert list(seen) == ["service.probe_latency_seconds", "service.up"]
    assert (await ask(one))["service.up"] == 0.0
    assert "down: tcp://127.0.0.1" in (await one.describe())[1]
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # a handshake that is never answered
        hangs = probe(f"tls://127.0.0.1:{deaf.getsockname()[1]}", timeout=0.2)
        assert (await ask(hangs))["service.up"] == 0.0
        assert "no answer within 200 ms" in (await hangs.describe())[1]


async def test_a_large_page_is_an_answer_as_well():
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000
    async with serving(page) as (url, _):
        one = probe(url, timeout=10.0)
        assert (await ask(one))["service.up"] == 1.0
        assert "up: status 200" in (await one.describe())[1]
        await one.close()


async def test_a_name_is_resolved_as_this_host_does():
    assert (await ask(probe("dns://localhost")))["service.up"] == 1.0
    assert "127.0.0.1" in (await probe("dns://localhost").describe())[1]
    unknown = probe("dns://no-such-name.invalid")
    assert await ask(unknown) == {
        "service.probe_latency_seconds": pytest.approx(math.nan, nan_ok=True),
        "service.up": 0.0,
    }


@pytest.mark.parametrize(
    ("url", "more", "says"),
    [
        ("tcp://web", {}, "write http"),
        ("tcp://web:80/path", {}, "write http"),
        ("dns://", {}, "write http"),
        ("ftp://web", {}, "write http"),
        ("tcp://web:99999", {}, "[Pp]ort"),
        ("tcp://web:80", {"method": "HEAD"}, "`method`: only for http"),
    ],
)
def test_what_can_not_be_asked_is_refused(url, more, says):
    with pytest.raises(ValidationError, match=says):
        probe(url, **more)


async def test_a_certificate_that_nobody_has_seen_is_unknown():
    one = probe(f"https://127.0.0.1:{closed_port()}")
    frame = await one.poll()
    await one.close()
    assert math.isnan(frame.values[0])
    assert list(frame.series) == sorted(frame.series)
