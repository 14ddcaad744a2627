"""Mail to a real SMTP server (aiosmtpd): STARTTLS, login, threads, and what servers say no to."""

import asyncio
import socket
import threading

import pytest
import structlog
from smtp_side import PASSWORD, certificate, post

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Note
from connectors.mail import Mail


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def server(pair, monkeypatch):
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    with post(pair) as made:
        yield made


def way(port, pair, **more):
    own = {
        "server": "localhost", "port": port, "ca": pair[0], "user": "homeostat", "password": "env:SMTP_PASSWORD",
        "sender": "homeostat@example.org", "to": ["oncall@example.org"], "timeout": 0.5,
    }  # fmt: skip
    return Mail("mail", Mail.Config(**{**own, **more}))


def note(key="page:i1:0", title="it is slow", **more):
    about = {
        "incident": "i1",
        "facts": {"cause": "disk full"},
        "link": "https://homeostat.example.org",
    }
    return Note(key, 1_800_000_000.0, "page", title, "look at it: é", **{**about, **more})


async def test_a_mail_has_the_facts_and_those_of_one_incident_are_one_thread(server, pair):
    mail = way(server.port, pair, to=["oncall@example.org", "team@example.org"])
    await mail.notify(note())
    await mail.notify(note())
    await mail.notify(note("turn:i1:resolved", event="resolved"))
    first, again, end = server.mails
    assert first["Subject"] == "[homeostat page] it is slow"
    assert end["Subject"] == "[homeostat resolved] it is slow"
    assert first["Message-ID"] == again["Message-ID"] != end["Message-ID"]
    assert first["References"] == end["References"]
    assert first["Auto-Submitted"] == "auto-generated"
    text = first.get_content()
    for line in (
        "look at it: é",
        "cause: disk full",
        "incident: i1",
        "more: https://homeostat.example.org",
    ):
        assert line in text
    assert server.rcpt[0] == ["oncall@example.org", "team@example.org"]


async def test_a_title_makes_no_header_of_its_own(server, pair):
    await way(server.port, pair).notify(
        note(title="slow\r\nBcc: all@example.org\r\n\r\nhello\x00 " + "x" * 500)
    )
    (mail,) = server.mails
    assert mail["Bcc"] is None
    assert mail["Subject"].startswith("[homeostat page] slow Bcc: all@example.org hello")
    assert server.rcpt == [["oncall@example.org"]]


async def test_nothing_is_said_over_a_line_that_is_not_to_be_trusted(server, pair, tmp_path):
    other, _ = certificate(tmp_path)
    with pytest.raises(
        Unavailable, match="no secure connection: CERTIFICATE_VERIFY_FAILED"
    ) as wrong:
        await way(server.port, pair, ca=other).notify(note())
    assert wrong.value.wait_s == 60
    with post(pair, tls=False) as plain:
        with pytest.raises(Unavailable, match="no STARTTLS"):
            await way(plain.port, pair).notify(note())
        bare = way(plain.port, pair, security="none", user="", password=None)
        await bare.notify(note())
        assert len(plain.mails) == 1
    assert server.mails == []


async def test_who_is_refused_is_told_apart(server, pair):
    server.fault = "nobody"
    with pytest.raises(Refused, match=r"no recipient is accepted \(550\)"):
        await way(server.port, pair).notify(note())
    server.fault = "some"
    with structlog.testing.capture_logs() as logs:
        await way(server.port, pair, to=["gone@example.org", "oncall@example.org"]).notify(note())
    assert server.rcpt == [["oncall@example.org"]]
    assert [(one["event"], one["refused"]) for one in logs] == [("mail_recipients_refused", 1)]


async def test_a_server_that_drips_is_cut_off_and_leaves_no_thread(pair, monkeypatch):
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    over = threading.Event()

    def drip(listener):
        line, _ = listener.accept()
        with line:
            while not over.wait(0.1):
                try:
                    line.sendall(b"2")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        try:
            with pytest.raises(Uncertain, match=r"took longer than 1\.5 s"):
                await way(listener.getsockname()[1], pair).notify(note())
        finally:
            over.set()
            thread.join()


async def test_a_mail_that_is_cancelled_ends_at_once(pair, monkeypatch):
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        mail = way(listener.getsockname()[1], pair, timeout=50)
        task = asyncio.create_task(mail.notify(note()))
        line, _ = await asyncio.to_thread(listener.accept)
        with line:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def test_a_mail_that_is_cancelled_as_it_connects_ends_at_once(pair, monkeypatch):
    monkeypatch.setenv("SMTP_PASSWORD", PASSWORD)
    met, go = threading.Event(), threading.Event()
    real = socket.create_connection

    def slowly(*to, **how):
        line = real(*to, **how)
        met.set()
        go.wait(10)
        return line

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(socket, "create_connection", slowly)
        mail = way(listener.getsockname()[1], pair, timeout=50)
        task = asyncio.create_task(mail.notify(note()))
        assert await asyncio.to_thread(met.wait, 10)
        task.cancel()
        await asyncio.sleep(0.05)  # it is cut while it has no line yet
        go.set()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(10):
                await task


async def test_describe_writes_to_nobody(server, pair):
    (said,) = await way(server.port, pair).describe()
    assert (
        said
        == f"would write to oncall@example.org by localhost:{server.port} as homeostat (starttls)"
    )
    assert server.mails == []
