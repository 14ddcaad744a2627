"""The one door to HTTP: what it closes when, and what it takes out of an answer."""

import asyncio
import base64
import contextlib
import gc
import ssl

import httpx
import pytest

from agent.errors import Unavailable
from connectors.http import Door

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


def trusts():
    """Count the sets of trusted certificates that are in memory."""
    gc.collect()
    return sum(isinstance(one, ssl.SSLContext) for one in gc.get_objects())


async def test_many_doors_hold_the_trusted_certificates_once(slow):
    may, _, url = slow
    may.set()
    doors = [Door() for _ in range(4)]
    await doors[0].ask("GET", url, timeout_s=5.0)
    before = trusts()
    for door in doors[1:]:
        await door.ask("GET", url, timeout_s=5.0)
    assert trusts() == before
    for door in doors:
        await door.close()
