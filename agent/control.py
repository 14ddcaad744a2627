"""The command line's end of the wire: one HTTP client over the daemon's Unix socket.

Who may speak is decided by the kernel (peer uid), so there is no password to keep. When nobody answers, the errors say
what was tried, where, and what to do.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import Refused, Unavailable

if TYPE_CHECKING:
    import ssl

SOCKET: Final = "agent.sock"
PAUSED: Final = "PAUSED"
ALL: Final = frozenset({"", "*", "everything", "all"})
"""How people name everything when they stop it."""
_LONGEST: Final = 100
"""Bytes of a socket's path; Linux takes 107."""


class NotRunning(Unavailable):
    """No daemon answers on this state folder."""


class Answer(Refused):
    """The daemon said no; `status` as in HTTP, `remedy` in its own words."""

    def __init__(self, status: int, error: str, remedy: str, body: Mapping[str, Any]) -> None:
        self.status = status
        self.remedy = remedy
        self.body = body
        super().__init__(f"{error}; {remedy}" if remedy else error)


def default_config() -> Path:
    """Return where agent.yaml is looked for: $HOMEOSTAT_CONFIG, else by XDG, as root /etc/homeostat."""
    told = os.environ.get("HOMEOSTAT_CONFIG")
    if told:
        return Path(told)
    if os.geteuid() == 0 and "XDG_CONFIG_HOME" not in os.environ:
        return Path("/etc/homeostat/agent.yaml")
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(home) / "homeostat" / "agent.yaml"


def config_path(given: Path | None) -> Path | None:
    """Return the agent.yaml that holds: the one that was named, else the usual one if it is there, else none."""
    if given is not None:
        return given
    usual = default_config()
    return usual if usual.is_file() else None


def state_folder(given: Path | None, config: Path | None) -> Path:
    """Return where the state lies, also when agent.yaml is faulty: `pause` must work then too.

    given: --state; else `state:` in agent.yaml; else by XDG, as root /var/lib/homeostat
    """
    if given is not None:
        return given
    if config is not None:
        from agent.errors import ConfigError  # with the next line
        from agent.strict import read  # YAML is only read when there is some

        with contextlib.suppress(ConfigError):
            told = read(config).data.get("state")
            if isinstance(told, str):
                return Path(told)
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/lib/homeostat")
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "homeostat"


def paused_file(config_path: Path | None, state: Path) -> Path:
    """Return the file that stops everything, also with the daemon dead: beside agent.yaml, else in the state folder."""
    return (config_path.parent if config_path is not None else state) / PAUSED


def write_paused(path: Path, reason: str, now: float) -> None:
    """Put the file that stops everything; raises Refused. An empty one stops as well."""
    said = {"by": getpass.getuser(), "ts": now, "reason": reason}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(said) + "\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path} can not be written ({error.strerror}); run: touch {path}") from None


def no_tls() -> ssl.SSLContext:
    """Return what a client needs where nobody speaks TLS, on a Unix socket or loopback: it trusts no authority.

    Without it httpx reads those of browsers for each client: 50 ms and most of a megabyte.
    """
    import ssl  # only who asks needs it

    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextlib.contextmanager
def reach(path: Path) -> Iterator[str]:
    """Return a path short enough for a Unix socket, valid inside the block: long ones go by the folder's descriptor."""
    if len(os.fsencode(path)) <= _LONGEST or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class Control:
    """Speaks to the daemon of one state folder."""

    def __init__(self, state: Path, *, timeout_s: float = 30.0) -> None:
        self.path = state / SOCKET
        self._timeout_s = timeout_s

    def alive(self) -> bool:
        """Tell whether a daemon answers."""
        try:
            self.get("/ready")
        except NotRunning:
            return False
        except Answer:
            return True
        return True

    def get(self, path: str, **query: Any) -> Any:
        """Ask; returns parsed JSON. Raises NotRunning, Answer."""
        return self._ask("GET", path, {k: v for k, v in query.items() if v is not None}, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Do; returns parsed JSON. Raises NotRunning, Answer."""
        return self._ask("POST", path, {}, {k: v for k, v in (body or {}).items() if v is not None})

    def delete(self, path: str) -> Any:
        """Take away; returns parsed JSON. Raises NotRunning, Answer."""
        return self._ask("DELETE", path, {}, None)

    def _ask(
        self, method: str, path: str, query: Mapping[str, Any], body: Mapping[str, Any] | None
    ) -> Any:
        try:
            there = self.path.exists()
        except PermissionError:
            raise self._closed() from None
        if not there:
            raise NotRunning(
                f"no daemon runs here ({self.path} is not there); start it with: homeostat run, "
                "or say where its state is with --state"
            )
        status, data = self._send(method, path, query, body)
        if status >= 400 and isinstance(data, dict) and "error" in data:
            raise Answer(status, str(data["error"]), str(data.get("remedy", "")), data)
        if status >= 400:
            raise Unavailable(f"the daemon answered {status} to {path}; look at its log")
        return data

    def _send(
        self, method: str, path: str, query: Mapping[str, Any], body: Mapping[str, Any] | None
    ) -> tuple[int, Any]:
        """Return status and parsed JSON (None when it is none)."""
        import httpx  # a tenth of a second that --help need not pay

        try:
            with reach(self.path) as short:
                self._knock(short)
                with httpx.Client(
                    transport=httpx.HTTPTransport(uds=short, verify=no_tls()),
                    base_url="http://localhost",
                    timeout=self._timeout_s,
                ) as client:
                    said = client.request(method, path, params=dict(query), json=body)
        except PermissionError:
            raise self._closed() from None
        except (ConnectionError, FileNotFoundError, httpx.ConnectError):
            raise NotRunning(
                f"the daemon of {self.path} does not answer: it has died; start it with: homeostat run"
            ) from None
        except (TimeoutError, httpx.TimeoutException):
            raise Unavailable(
                f"the daemon of {self.path} did not answer within {self._timeout_s:.0f} s; "
                "look at its log, or stop it"
            ) from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the daemon of {self.path} broke off ({error}); try again") from None
        try:
            return said.status_code, said.json()
        except ValueError:
            return said.status_code, None

    def _knock(self, path: str) -> None:
        """Connect once without a word: the plain errors of the system say best what is wrong."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(self._timeout_s)
            probe.connect(path)

    def _closed(self) -> Refused:
        return Refused(
            f"not allowed to speak to the daemon on {self.path}; run it as the daemon's user or root"
        )
