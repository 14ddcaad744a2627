"""Mail and HAProxy speak no HTTP: what every_fault.py does to the others is done to them over a bare socket.

Whatever comes back is an error of ours in good time, with a bounded part read; nothing is called done that was not.
"""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from agent.errors import AgentError, Refused, Unavailable
from agent.ports import Note
from connectors.haproxy import Haproxy
from connectors.mail import Mail

LIMIT_S = 0.4
NOTE = Note("k1", 5.0, "page", "t", "x", "i1")


class Raw:
    """Takes connections and answers each as it is told, in threads of its own."""

    def __init__(self, listener: socket.socket, fault: str) -> None:
        self.fault, self.sent, self.asked = fault, 0, 0
        self._listener = listener
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        self._listener.settimeout(0.05)
        while not self._over.is_set():
            with contextlib.suppress(OSError):  # a time-out, or the listener is gone
                line, _ = self._listener.accept()
                self.asked += 1
                self._threads.append(threading.Thread(target=self._answer, args=(line,)))
                self._threads[-1].start()

    def _answer(self, line: socket.socket) -> None:
        line.settimeout(2.0)
        with line, contextlib.suppress(OSError):
            if self.fault == "garbage":
                line.sendall(b"\x00\xff\xfe no protocol at all\r\n" * 3)
            elif self.fault == "one_long_line":
                while not self._over.is_set() and self.sent < 500e6:
                    line.sendall(b"2" * 65_536)
                    self.sent += 65_536
            elif self.fault == "endless_lines":
                while not self._over.is_set() and self.sent < 500e6:
                    line.sendall(b"220-on and on\r\n" * 4096)
                    self.sent += 15 * 4096
            elif self.fault == "half_open":
                line.sendall(b"22")
                self._over.wait(30)
            elif self.fault == "slow":
                self._over.wait(30)
            # else: dropped

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def raw():
    """Give a maker: a listening socket and a fault -> who answers."""
    made = []

    def make(listener, fault):
        made.append(Raw(listener, fault))
        return made[-1]

    yield make
    for one in made:
        one.close()


FAULTS = ("dropped", "slow", "half_open", "garbage", "one_long_line", "endless_lines")


async def _used(use):
    """Use it once; return the error, and how long it took."""
    began = time.monotonic()
    with pytest.raises(AgentError) as caught:
        async with asyncio.timeout(20 * LIMIT_S):
            await use
    return caught.value, time.monotonic() - began


@pytest.mark.parametrize("security", ["starttls", "tls", "none"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_mail_that_a_broken_server_takes_is_not_called_sent(raw, fault, security):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        side = raw(listener, fault)
        mail = Mail("mail", Mail.Config(
            server="127.0.0.1", port=listener.getsockname()[1], security=security, sender="a@example.org",
            to=["b@example.org"], timeout=LIMIT_S,
        ))  # fmt: skip
        wrong, took = await _used(mail.notify(NOTE))
        assert "127.0.0.1" in str(wrong)
        assert took < 10 * LIMIT_S
        assert side.asked == 1
        assert side.sent < 80e6


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_broken_haproxy_says_is_no_list_of_servers(raw, fault, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        side = raw(listener, fault)
        haproxy = Haproxy(
            "h", Haproxy.Config(service="web", socket=tmp_path / "socket", timeout=LIMIT_S)
        )
        wrong, took = await _used(haproxy.backends("service:web"))
        assert isinstance(wrong, (Unavailable, Refused))
        assert "HAProxy" in str(wrong)
        assert took < 10 * LIMIT_S
        assert side.asked == 1
        assert side.sent < 80e6
