import os
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from desk_story import living

from agent import control
from agent.config import Config
from agent.control import Answer, Control, NotRunning
from agent.daemon import state_folder as daemons_state_folder
from agent.errors import Refused, Unavailable


@pytest.fixture
def house(tmp_path):
    with living(tmp_path) as made:
        yield made


def test_it_asks_does_and_takes_away(house):
    daemon = Control(house.state)
    assert daemon.alive()
    assert daemon.get("/api/incidents", state="open", limit=1)[0]["id"] == "inc-7f3a99e0"
    made = daemon.post("/api/silences", {"target": "web-1", "for": "1h", "cause": None})
    assert made["by"].endswith("(admin, socket)")
    assert daemon.delete(f"/api/silences/{made['id']}")["id"] == made["id"]


def test_a_no_keeps_its_words(house):
    with pytest.raises(Answer) as no:
        Control(house.state).get("/api/incidents/inc-7")
    assert no.value.status == 409
    assert no.value.remedy.startswith("write more: ")
    assert str(no.value).startswith("'inc-7' is the beginning of 2 incidents; ")


def test_nobody_there(tmp_path):
    daemon = Control(tmp_path)
    assert not daemon.alive()
    with pytest.raises(
        NotRunning, match=r"agent\.sock is not there\); start it with: homeostat run"
    ):
        daemon.get("/ready")


def listening(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock


def test_one_who_has_died(tmp_path):
    listening(tmp_path / "agent.sock").close()  # the file stays behind
    daemon = Control(tmp_path)
    assert not daemon.alive()
    with pytest.raises(NotRunning, match="it has died"):
        daemon.get("/ready")


def test_one_who_does_not_answer(tmp_path):
    with (
        listening(tmp_path / "agent.sock"),
        pytest.raises(Unavailable, match=r"did not answer within 0 s; look at its log"),
    ):
        Control(tmp_path, timeout_s=0.2).get("/ready")


@pytest.mark.parametrize(
    ("raw", "error", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", Unavailable, "broke off"),
        (b"SMTP hello\r\n\r\n", Unavailable, "broke off"),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", Unavailable, "answered 500"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", Unavailable, "answered 503"),
    ],
)
def test_one_who_talks_nonsense(tmp_path, raw, error, words):
    with listening(tmp_path / "agent.sock") as sock:

        def answer():
            while True:
                other, _ = sock.accept()
                with other:
                    if other.recv(4096):  # the first one only knocks
                        other.sendall(raw)
                        return

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(error, match=words):
            Control(tmp_path, timeout_s=5).get("/x")
        thread.join(10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else for a moment")
def test_one_that_belongs_to_somebody_else():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "agent.sock"
        with listening(path):
            path.chmod(0o600)
            os.seteuid(65534)
            try:
                with pytest.raises(Refused, match="as the daemon's user or root"):
                    Control(Path(folder)).get("/ready")
            finally:
                os.seteuid(0)
        closed = Path(folder) / "closed"
        closed.mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(Refused, match="as the daemon's user or root"):
                Control(closed).get("/ready")
        finally:
            os.seteuid(0)


def test_a_path_longer_than_the_kernel_takes_is_reached(tmp_path):
    folder = tmp_path / ("deep" * 40)
    folder.mkdir()
    with control.reach(folder / "agent.sock") as short:
        assert len(short) < 100
        with (
            listening(short),
            control.reach(folder / "agent.sock") as again,
            socket.socket(socket.AF_UNIX) as client,
        ):
            client.connect(again)
    with control.reach(Path("/run/agent.sock")) as short:
        assert short == "/run/agent.sock"


# ---- where things are


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("HOMEOSTAT_CONFIG", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_the_config_is_where_it_was_said_to_be(home, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert control.default_config() == home / ".config" / "homeostat" / "agent.yaml"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert control.default_config() == Path("/etc/homeostat/agent.yaml")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "x"))
    assert control.default_config() == home / "x" / "homeostat" / "agent.yaml"
    assert control.config_path(None) is None  # nothing there: built-in defaults
    (home / "x" / "homeostat").mkdir(parents=True)
    (home / "x" / "homeostat" / "agent.yaml").touch()
    assert control.config_path(None) == home / "x" / "homeostat" / "agent.yaml"
    monkeypatch.setenv("HOMEOSTAT_CONFIG", "/some/where.yaml")
    assert control.default_config() == Path("/some/where.yaml")
    assert control.config_path(Path("/named.yaml")) == Path("/named.yaml")


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("xdg", ["", "/xdg"])
@pytest.mark.parametrize("given", [None, Path("/given")])
@pytest.mark.parametrize("state", [None, "/told"])
def test_the_command_line_looks_where_the_daemon_lives(home, monkeypatch, uid, xdg, given, state):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if xdg:
        monkeypatch.setenv("XDG_STATE_HOME", xdg)
    config = home / "agent.yaml"
    config.write_text(f"state: {state}\n" if state else "mode: observe\n")
    loaded = Config.model_validate({"state": state} if state else {})
    assert control.state_folder(given, config) == daemons_state_folder(loaded, given)


@pytest.mark.parametrize("text", ["mode: [", "state: [1]\n", "\x00", "state:\n", "nonsense"])
def test_a_faulty_config_does_not_hide_the_daemon(home, monkeypatch, text):
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    config = home / "agent.yaml"
    config.write_text(text)
    assert control.state_folder(None, config) == Path("/xdg/homeostat")
    assert control.state_folder(None, home / "gone.yaml") == Path("/xdg/homeostat")


def test_the_file_that_stops_everything(tmp_path):
    config = tmp_path / "etc" / "agent.yaml"
    path = control.paused_file(config, tmp_path)
    assert path == tmp_path / "etc" / "PAUSED"
    assert control.paused_file(None, tmp_path) == tmp_path / "PAUSED"
    control.write_paused(path, "why", 12.0)
    assert '"reason": "why"' in path.read_text()
    with pytest.raises(Refused, match="touch"):
        control.write_paused(path / "below" / "PAUSED", "why", 12.0)
