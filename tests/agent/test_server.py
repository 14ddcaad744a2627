"""Who is refused while it still sends reads why: real sockets, clients that write all before they read."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
import urllib.error
import urllib.request

import pytest

from agent import _server, doors

LARGE = 32 << 20
"""More than the kernel keeps for both ends: who is not read from can not have sent it."""


async def refuses(scope, receive, send):
    """Say no without a look at the body, as a limit or a token that is none does."""
    del scope, receive
    said = b'{"error":"too large"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": said})


async def refuses_late(scope, receive, send):
    """Say no in the middle of it."""
    await receive()
    await refuses(scope, receive, send)


async def takes(scope, receive, send):
    """Read all of it, and say how much it was."""
    del scope
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    said = b"%d" % size
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@contextlib.asynccontextmanager
async def served(app):
    """Serve `app` on a free port, as the doors do; yields the port."""
    sock = doors.bound("127.0.0.1:0", "listen")
    server = _server.make(app, _server.Protocol, 8)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.end()
        await task


def push(port: int, body) -> tuple[int, bytes, str]:
    """Post as the standard library does: `Connection: close`, all of the body before a look at the answer."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/ingest/rows", data=body)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers["connection"]
    except urllib.error.HTTPError as no:
        return no.code, no.read(), no.headers["connection"]


@pytest.mark.parametrize("app", [refuses, refuses_late])
async def test_who_writes_all_before_it_reads_is_told(app):
    async with served(app) as port:
        said = await asyncio.to_thread(push, port, b"x" * LARGE)
    assert said == (413, b'{"error":"too large"}', "close")


async def test_so_is_who_does_not_say_how_much_will_come():
    def parts():
        for _ in range(LARGE >> 20):
            yield b"x" * (1 << 20)

    async with served(refuses) as port:
        said = await asyncio.to_thread(push, port, parts())
    assert said == (413, b'{"error":"too large"}', "close")


async def test_what_is_taken_is_answered_as_ever():
    async with served(takes) as port:
        status, said, _ = await asyncio.to_thread(push, port, b"x" * LARGE)
    assert (status, int(said)) == (200, LARGE)


async def test_a_little_that_nobody_wanted_does_not_end_the_connection():
    def twice(port):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as one:
            sockets = set()
            for _ in range(2):
                one.request("POST", "/ingest/rows", body=b"x" * 200_000)
                answer = one.getresponse()
                assert (answer.status, answer.read()) == (413, b'{"error":"too large"}')
                sockets.add(one.sock)
            return sockets

    async with served(refuses) as port:
        (kept,) = await asyncio.to_thread(twice, port)
    assert kept is not None


async def test_who_waits_for_a_word_is_told_at_once_and_not_asked_for_the_rest():
    def ask(port):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(
                b"POST /ingest/rows HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\nExpect: 100-continue\r\n\r\n"
            )
            said = b""
            while b"too large" not in said:
                said += sock.recv(4096) or pytest.fail(f"no answer: {said!r}")
            return said, time.monotonic() - began

    async with served(refuses) as port:
        said, took = await asyncio.to_thread(ask, port)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert took < 5


@pytest.mark.parametrize(("most", "long"), [(1 << 20, 30.0), (1 << 40, 0.3)])
async def test_nobody_is_read_from_for_ever(monkeypatch, most, long):
    monkeypatch.setattr(_server, "_REST_BYTES", most)
    monkeypatch.setattr(_server, "_REST_S", long)

    def send(port):
        part = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
        until = time.monotonic() + 20
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(
                b"POST /ingest/rows HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            said = sock.recv(4096)
            with contextlib.suppress(ConnectionError):
                while time.monotonic() < until:
                    sock.sendall(part)
            return said, time.monotonic() < until

    async with served(refuses) as port:
        said, ended = await asyncio.to_thread(send, port)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in said.lower()
    assert ended
