"""Notes by e-mail, over SMTP.

    mail:
      server: smtp.example.org          # port 587 with STARTTLS, unless told otherwise
      user: homeostat
      password: env:SMTP_PASSWORD
      sender: homeostat@example.org
      to: [oncall@example.org]

All mails about one incident are one thread. A mail that is sent again, because the answer was lost, has the same
Message-ID, by which mail systems know it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import smtplib
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import structlog
from pydantic import Field, model_validator

from agent.errors import Refused, Unavailable, Uncertain
from agent.news import Event, moment
from agent.ports import Note
from agent.registry import connector
from agent.secret import Reference, secret
from connectors._notes import MEND_S, Routed, Wanted

log = structlog.get_logger()

_PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
_MOST_SUBJECT: Final = 200
Address = Annotated[
    str, Field(pattern=r"^[^@\s<>,;:\"\\\x00-\x1f]+@[A-Za-z0-9.\-]+$", max_length=254)
]


@connector("mail")
class Mail(Routed):
    """Notes by e-mail, over SMTP with TLS.

    One connection a note. The certificate of the server is checked, and no password leaves unencrypted. What the server
    says is not repeated beyond its status: it may quote addresses and secrets. Cost: some ms of a thread a note.
    """

    tested = "SMTP with TLS (aiosmtpd)"

    class Config(Wanted):
        """Which server, from whom, to whom."""

        server: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\-]+$")]
        port: Annotated[int, Field(ge=0, le=65_535)] = 0
        """0 = the usual one: 587 for starttls, 465 for tls, 25 for none."""
        security: Literal["starttls", "tls", "none"] = "starttls"
        ca: Path | None = None
        """Certificates to trust instead of those of the system, PEM."""
        user: str = ""
        password: Reference | None = None
        sender: Address
        to: Annotated[list[Address], Field(min_length=1, max_length=50)]
        events: list[Event] = ["resolved"]

        @model_validator(mode="after")
        def _sound(self) -> Self:
            if bool(self.user) != (self.password is not None):
                raise ValueError("`user` and `password` belong together")
            if self.user and self.security == "none":
                raise ValueError(
                    "no password leaves unencrypted: take `security: starttls` or `tls`"
                )
            return self

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config: Mail.Config = config
        self._port = config.port or _PORTS[config.security]
        self._where = f"{config.server}:{self._port}"
        self._turn = asyncio.Lock()

    async def notify(self, note: Note) -> None:
        """Send one mail; raises Unavailable, Refused, Uncertain."""
        sending = _Sending(self.config, self._where, self._port, _letter(note, self.config))
        async with self._turn:  # a thread that hangs is never joined by a second one
            work = asyncio.ensure_future(asyncio.to_thread(sending.run))
            try:
                async with asyncio.timeout(3 * self.config.timeout):
                    refused = await asyncio.shield(work)
            except (TimeoutError, asyncio.CancelledError) as late:
                sending.cut()
                with contextlib.suppress(Unavailable, Refused, Uncertain):
                    await work
                if isinstance(late, asyncio.CancelledError):
                    raise
                raise Uncertain(
                    f"{self.name}: {self._where} took longer than {3 * self.config.timeout:g} s; it may have sent"
                ) from None
        if refused:
            log.warning("mail_recipients_refused", way=self.name, refused=refused)

    async def describe(self) -> Sequence[str]:
        """Say to whom it would write; sends nothing."""
        who = f" as {self.config.user}" if self.config.user else ""
        return (
            f"would write to {', '.join(self.config.to)} by {self._where}{who} ({self.config.security})",
        )


class _Sending:
    """One mail on its way, in a thread; `cut` from outside ends a wait on a server that drips."""

    def __init__(self, config: Mail.Config, where: str, port: int, letter: EmailMessage) -> None:
        self._config = config
        self._where = where
        self._port = port
        self._letter = letter
        self._smtp: smtplib.SMTP | None = None
        self._over = False

    def cut(self) -> None:
        self._over = True  # before the look: who connects just now looks the other way round
        if self._smtp is not None and self._smtp.sock is not None:
            with contextlib.suppress(OSError):  # closed just now
                self._smtp.sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> int:
        """Send; returns how many recipients were refused while others were not."""
        sent = False
        try:
            password = secret(self._config.password) if self._config.password else ""
            smtp = self._open()
            try:
                if self._config.user:
                    smtp.login(self._config.user, password)
                sent = True
                return len(smtp.send_message(self._letter))
            finally:
                with contextlib.suppress(OSError):  # what was taken is taken, however they part
                    smtp.quit()
                smtp.close()
        except Refused as missing:
            raise Unavailable(f"{self._where}: {missing}", wait_s=MEND_S) from None
        except (OSError, ValueError) as wrong:
            raise _sorted(wrong, self._where, sent=sent) from None

    def _open(self) -> smtplib.SMTP:
        config, keep = self._config, self._keep

        class Plain(smtplib.SMTP):
            def _get_socket(self, *to: Any) -> socket.socket:
                return keep(self, super()._get_socket(*to))  # type: ignore[misc]  # not in the stubs

        class Tls(smtplib.SMTP_SSL):
            def _get_socket(self, *to: Any) -> socket.socket:
                return keep(self, super()._get_socket(*to))  # type: ignore[misc]  # not in the stubs

        trust = None
        if config.security != "none":
            trust = ssl.create_default_context(cafile=str(config.ca) if config.ca else None)
        me = socket.gethostname()
        if config.security == "tls":
            return Tls(
                config.server, self._port, local_hostname=me, timeout=config.timeout, context=trust
            )
        smtp = Plain(config.server, self._port, local_hostname=me, timeout=config.timeout)
        if config.security == "starttls":
            try:
                smtp.starttls(context=trust)
            except BaseException:
                smtp.close()
                raise
        return smtp

    def _keep(self, smtp: smtplib.SMTP, line: socket.socket) -> socket.socket:
        """Take the line before anything is read from it, so that it can be cut."""
        smtp.sock, self._smtp = line, smtp
        if self._over:
            self.cut()
        return line


def _sorted(wrong: Exception, what: str, *, sent: bool) -> Exception:
    """Return what the caller should do about it: mend the way, give up the note, or try again."""
    match wrong:
        case ssl.SSLError():
            reason = wrong.reason or type(wrong).__name__
            return Unavailable(f"{what}: no secure connection: {reason}", wait_s=MEND_S)
        case smtplib.SMTPAuthenticationError():
            said = f"{what}: {wrong.smtp_code}: user and password are not accepted"
            return Unavailable(said, wait_s=MEND_S)
        case smtplib.SMTPNotSupportedError():
            said = f"{what}: the server has no STARTTLS, or no way to log in that we know"
            return Unavailable(said, wait_s=MEND_S)
        case smtplib.SMTPRecipientsRefused():
            codes = sorted({code for code, _ in wrong.recipients.values()})
            said = f"{what}: no recipient is accepted ({', '.join(map(str, codes))})"
            return Refused(said) if codes[0] >= 500 else Unavailable(said)
        case smtplib.SMTPDataError() if wrong.smtp_code >= 500:
            return Refused(f"{what}: {wrong.smtp_code}: it does not take this mail")
        case smtplib.SMTPResponseException():
            wait_s = MEND_S if wrong.smtp_code >= 500 else None
            return Unavailable(f"{what}: {wrong.smtp_code}, not now", wait_s=wait_s)
    reason = getattr(wrong, "strerror", None) or type(wrong).__name__
    if sent:
        return Uncertain(f"{what}: broke off ({reason}); it may have been sent")
    return Unavailable(f"{what}: {reason}")


def _letter(note: Note, config: Mail.Config) -> EmailMessage:
    """Write the mail: plain text, first what matters."""
    letter = EmailMessage(policy=SMTP)
    domain = config.sender.rpartition("@")[2]
    word = note.event or note.severity
    title = " ".join((note.title or note.text).split())  # a line break would be a header of its own
    letter["From"] = config.sender
    letter["To"] = ", ".join(config.to)
    letter["Subject"] = _seen(f"[homeostat {word}] {title}")[:_MOST_SUBJECT]
    letter["Date"] = format_datetime(datetime.fromtimestamp(note.ts, UTC))
    letter["Message-ID"] = f"<{_digest(note.key)}@{domain}>"
    if note.incident:
        letter["References"] = f"<{_digest(note.incident)}@{domain}>"
    letter["Auto-Submitted"] = "auto-generated"
    known = {
        "severity": note.severity, "event": note.event, "at": moment(note.ts), "incident": note.incident,
        "owner": note.owner, "channel": note.channel, **note.facts, "more": note.link,
    }  # fmt: skip
    lines = [f"{name}: {said}" for name, said in known.items() if said]
    letter.set_content("\n".join([note.title, "", note.text, "", *lines, ""]))
    return letter


def _seen(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
