"""Ends a request of urllib3 when its time is over, wherever it waits.

The library's own limit is the time between two bytes: a server that drips one now and then would hold us for hours.

    patience = Patience()
    pool.ConnectionCls = patience.kind(pool.ConnectionCls)
    with patience.limit(10.0):
        ...                  # ask, and read the answer
    if patience.over: ...    # what was read is not the whole of it

For one request at a time. A TLS handshake is limited by the library alone.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any


class Patience:
    """Knows the connection that is in use, and cuts it.

    over   whether the last request was cut
    """

    def __init__(self) -> None:
        self.over = False
        self._line: socket.socket | None = None
        self._lock = threading.Lock()
        self._turn = 0

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Cut the connection when this takes longer."""
        with self._lock:
            self._turn += 1
            self.over, self._line = False, None
        timer = threading.Timer(seconds, self._cut, (self._turn,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._turn += 1
                self._line = None

    def kind(self, base: Any) -> Any:
        """Return a class of connections that lets itself be cut."""
        patience = self

        class Patient(base):  # type: ignore[misc]  # its base is only known when the library is there
            def connect(self) -> None:
                super().connect()
                patience._hold(self.sock)

            def request(self, *args: Any, **more: Any) -> None:
                if self.sock is not None:
                    patience._hold(self.sock)
                super().request(*args, **more)

        Patient.__name__ = base.__name__  # errors of the library begin with it
        return Patient

    def _hold(self, line: socket.socket) -> None:
        with self._lock:
            self._line = line
            if self.over:
                _end(line)

    def _cut(self, turn: int) -> None:
        with self._lock:
            if turn != self._turn:
                return
            self.over = True
            if self._line is not None:
                _end(self._line)


def _end(line: socket.socket) -> None:
    """Let whoever reads or writes see the end; of TLS, too, whose own shutdown would wait for an answer."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(line, socket.SHUT_RDWR)
