"""A real SMTP server (aiosmtpd) with STARTTLS and a login, that can fail as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

FAULTS = frozenset({"slow", "unauthorized", "busy", "unfit", "broken", "dropped", "nobody", "some"})
PASSWORD = "pass_CANARY123456"  # of the stand-in


class Post:
    """Takes mails and keeps them."""

    def __init__(self) -> None:
        self.fault = ""
        self.mails: list[EmailMessage] = []
        self.rcpt: list[list[str]] = []
        self.port = 0

    def login(
        self, _server: object, _session: Session, _envelope: Envelope, _how: str, data: object
    ):
        good = isinstance(data, LoginPassword) and data.password == PASSWORD.encode()
        return AuthResult(success=good and self.fault != "unauthorized")

    async def handle_RCPT(  # noqa: N802  # a name of aiosmtpd
        self, _server, _session, envelope: Envelope, address: str, _options
    ) -> str:
        if self.fault == "nobody" or (self.fault == "some" and address.startswith("gone")):
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802  # a name of aiosmtpd
        self, server, _session, envelope: Envelope
    ) -> str:
        if self.fault == "slow":
            await asyncio.sleep(3)
        if self.fault == "dropped":
            server.transport.abort()
        said = {
            "busy": "451 greylisted", "unfit": "554 looks like spam", "broken": "421 going down",
        }.get(self.fault)  # fmt: skip
        if said is not None or self.fault in {"slow", "dropped"}:
            return said or "250 late"
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        self.rcpt.append(list(envelope.rcpt_tos))
        return "250 OK"


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for localhost; returns it and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return cert, key


@contextlib.contextmanager
def post(pair: tuple[Path, Path], *, tls: bool = True) -> Iterator[Post]:
    """Run one for a while, on a port of its own."""
    made = Post()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    more = {"tls_context": context, "require_starttls": True, "auth_required": True} if tls else {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        made.port = free.getsockname()[1]  # it does not take 0
    runs = Controller(made, hostname="127.0.0.1", port=made.port, authenticator=made.login, **more)
    runs.start()
    try:
        yield made
    finally:
        runs.stop(no_assert=True)
