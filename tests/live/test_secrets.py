"""No secret is ever said: a daemon with every connector there is, whose outsides send back what they were sent.

Whatever the daemon then writes, answers or leaves behind is searched for every secret it was given: itself, in halves,
in base64, percent-encoded.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import re
import secrets
import signal
import socketserver
import sqlite3
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import everything
import httpx
import pytest
import yaml
from daemon_process import Running, wait_for

from agent import cli, registry
from agent.authority import Tokens

pytestmark = [pytest.mark.live, pytest.mark.long]
pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
DRIVER = Path(__file__).with_name("loud_driver.py")
DAYS = """\
diagnose: {settle: 1s, resolve_after: 5s}
services: [{id: web, models: [fraud]}, {id: api}]
objectives: [{signal: host.uptime_seconds, max: 1s, for: 1s}]
"""


class Planted:
    """Secrets that a config refers to, in turns by the environment and by files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.env: dict[str, str] = {}
        self.cores: dict[str, str] = {}

    def __call__(self, label: str, form: str = "{}") -> str:
        core = self.cores.setdefault(label, secrets.token_hex(12))
        value = form.replace("{}", f"cnry.{core}" if "://" in form else f'cnry+{core}/"z')
        name = "CANARY_" + re.sub(r"\W", "_", label).upper()
        if len(self.cores) % 2:
            self.env[name] = value
            return f"env:{name}"
        path = self._folder / name
        path.write_text(value + "\n")
        return f"file:{path}"

    def needles(self) -> dict[str, str]:
        """Return what must be found nowhere -> whose it is. Halves: a text that is cut must not cut through one."""
        out = {}
        for label, core in self.cores.items():
            halves = core[:12], core[12:]
            out |= dict.fromkeys(halves, label)
            for shift in range(3):
                coded = base64.b64encode(b"x" * shift + core.encode())
                out[coded[4:-4].decode()] = f"{label}, base64"
        return out

    def found(self, texts: dict[str, str]) -> list[str]:
        """Return who is told where."""
        needles = self.needles()
        whole = re.compile("|".join(map(re.escape, needles)))
        return sorted(
            {
                f"{needles[hit[0]]} in {where}: ...{text[max(0, hit.start() - 80) : hit.end() + 20]}"
                for where, text in texts.items()
                for hit in whole.finditer(text)
            }
        )


class Echo(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Fails in all its ways by turns, and each time says all that it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Says)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.asked: dict[str, int] = {}
        self.strayed = 0


class _Says(http.server.BaseHTTPRequestHandler):
    server: Echo

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        side, who = self.server, self.path.split("/")[1]
        side.strayed += who == "elsewhere"
        turn = side.asked[who] = side.asked.get(who, -1) + 1
        sent = "; ".join(f"{k}: {v}" for k, v in self.headers.items())
        how, _, coded = self.headers.get("authorization", "").partition(" ")
        if how.lower() == "basic":
            with contextlib.suppress(ValueError):
                sent += base64.b64decode(coded).decode("utf-8", "replace")
        said = f"{self.path} {sent} {body.decode('latin-1')}"
        elastic = {"type": "security_exception", "reason": said[:250]}
        head = {"x-said": said[:900]}
        answers = (
            (401, {"error": elastic | {"root_cause": [elastic]}, "status": 401}),
            (500, said),
            (401, {"status": "error", "errorType": "unauthorized", "error": said, "message": said}),
            (307, said),
            (403, {"kind": "Status", "message": said, "error_code": "PERMISSION_DENIED"}),
            (200, {"status": "success", "data": said, "id": said, "run_id": said, "error": said, "value": said}),
            (429, {"error": said, "message": said}),
            (400, {"error": elastic, "error_code": "INVALID", "message": said}),
            (200, "\x00 " + said),
            (404, {"detail": said}),
        )  # fmt: skip
        # each begins with another one
        status, text = answers[(turn + zlib.crc32(who.encode())) % len(answers)]
        if status == 307:
            head["location"] = f"{side.url}/elsewhere?said={sent[:500]}"
        raw = (text if isinstance(text, str) else json.dumps(text)).encode()
        with contextlib.suppress(OSError):
            self.send_response(status, re.sub(r"[\r\n]", " ", said[:300]))
            for name, value in (head | {"x-elastic-product": "Elasticsearch"}).items():
                self.send_header(name, re.sub(r"[^ -~]", " ", value))
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _any  # noqa: N815  # names of the library

    def log_message(self, *_: object) -> None:
        """Say nothing on standard error."""


@contextlib.contextmanager
def served(side):
    thread = threading.Thread(target=side.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield side
    finally:
        side.shutdown()
        thread.join()
        side.server_close()


@pytest.fixture
def echo():
    with served(Echo()) as side:
        yield side


@pytest.fixture
def town(tmp_path, echo, monkeypatch):
    """Return the planted secrets and a daemon that was given all of them, not started."""
    folder = tmp_path / "outside"
    (folder / "models" / "fraud").mkdir(parents=True)
    (folder / "old").mkdir()
    planted = Planted(folder)
    connectors = everything.everything(echo.url, folder, planted)
    connectors["saboteur"] = {"held": planted("saboteur"), "url": echo.url}
    (folder / "rows.csv").write_text("ts,name,prediction\n1,x,0.5\nbad,y\n")
    kubeconfig = {
        "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": f"{echo.url}/kubernetes_2"}}],
        "users": [{"name": "u", "user": {"token": _written(planted, "kubeconfig")}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    for name, value in planted.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SAY_TOKEN", _written(planted, "child"))
    one = Running(tmp_path, DAYS + yaml.safe_dump({"connectors": connectors}))
    yield planted, one
    if one.process is not None and one.process.poll() is None:
        one.process.kill()
        one.process.wait(10)


def _written(planted, label):
    """Return a secret itself."""
    reference = planted(label)
    kind, _, name = reference.partition(":")
    return planted.env[name] if kind == "env" else Path(name).read_text().strip()


def start(one, style, **env):
    argv = [sys.executable, DRIVER, one.config, one.state, style]
    with one.log.open("ab") as log:
        one.process = subprocess.Popen(
            argv, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **env}
        )
    wait_for("ready", lambda: one.get("/ready").status_code == 200, 180)


def answered(one):
    """Return all that is answered over HTTP."""
    ways = json.loads(one.get("/api/openapi.json").text)["paths"]
    ids = {
        "incidents": [i["id"] for i in one.get("/api/incidents").json()],
        "runs": [r["id"] for r in one.get("/api/runs").json()],
        "playbooks": [p["id"] for p in one.get("/api/playbooks").json()][:3],
        "models": ["fraud"],
    }
    assert ids["incidents"]
    paths = ["/", "/topology", "/health", "/ready", "/metrics", "/api/openapi.json"]
    for path, how in ways.items():
        if "get" in how and not path.endswith("/events"):
            kind = path.split("/")[2]
            paths += [re.sub(r"\{\w+\}", one, path, count=1) for one in ids.get(kind, [""])]
    paths += [
        "/api/incidents?state=all&limit=1000", "/api/runs?state=all&limit=1000", "/api/topology?everything=true",
        "/api/models/fraud/compare?a=1&b=2", "/api/playbooks/page-harm/why-not?target=service:web",
    ]  # fmt: skip
    return {path: one.get(path).text for path in dict.fromkeys(paths)}


def left(one):
    """Return all that is on disk: as it is, and what databases read out of it."""
    out = {}
    for path in one.state.rglob("*"):
        if not path.is_file():
            continue
        out[str(path)] = path.read_bytes().decode("latin-1")
        if path.suffix == ".sqlite":
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as found:
                out[f"{path}, read"] = "\n".join(found.iterdump())
    return out


def told(one, capfd, monkeypatch):
    """Return what the commands print, with the daemon alive."""
    names = [n for n in yaml.safe_load(one.config.read_text())["connectors"] if n != "saboteur"]
    where = ["--config", str(one.config), "--state", str(one.state)]
    asked = (
        ["status"], ["status", "--json"], ["check"], ["check", "--json"], ["incidents", "--json"], ["runs", "--json"],
        ["sources", "--json"], ["topology", "--json"], ["silences", "--json"], ["audit", "verify", "--json"],
        *(["try", name] for name in names), *(["try", name, "--json"] for name in names[::4]),
    )  # fmt: skip
    out = {}
    for words in asked:
        monkeypatch.setattr(sys, "argv", ["homeostat", *words, *where])
        with contextlib.suppress(SystemExit):
            cli.main()
        said = capfd.readouterr()
        out[" ".join(words)] = said.out + said.err
    assert sum("homeostat" in text or bool(text.strip()) for text in out.values()) > len(names)
    return out


MUCH = 100
"""Requests: some of each way to fail for each that asks by itself."""
RUNS = 29
"""That the driver starts."""


def ended(one):
    """Tell whether all runs have."""
    runs = one.get("/api/runs?limit=1000").json()
    ours = [r for r in runs if r["playbook"] == "turn-it"]
    return len(ours) == RUNS and all(r["state"] in {"done", "failed"} for r in ours)


def test_every_secret_that_a_connector_may_have_is_planted(tmp_path):
    connectors = everything.everything("http://127.0.0.1:1", tmp_path, Planted(tmp_path))
    assert everything.lacking(connectors) == []
    without = {k: v for k, v in connectors.items() if k not in {"mail", "probe"}}
    without["webhook"] = without["webhook"] | {"secret": None}
    gone = ["mail", "mail: password", "probe", "probe: headers", "webhook: secret"]
    assert everything.lacking(without) == gone


def test_no_text_that_sounds_like_a_secret_may_be_written_itself():
    sounds = re.compile(r"token|passw|secret|key$|auth|credential|dsn|cookie")
    registry.load()
    assert [
        (name, place)
        for name in registry.connector
        for place in everything.texts_of(registry.connector.get(name).Config)
        if sounds.search(place[-1])
    ] == []


@pytest.mark.timeout(280)
def test_it_is_in_nothing_that_a_daemon_says_and_leaves(town, echo, capfd, monkeypatch):
    planted, one = town
    start(one, "text")
    wait_for("runs", lambda: ended(one), 120)
    wait_for("each was asked", lambda: set(ASKED) <= set(echo.asked), 60)
    wait_for("much was asked", lambda: sum(echo.asked.values()) > MUCH, 120)
    (one.folder / "figures").write_text(json.dumps(echo.asked))
    token = Tokens(one.state / "tokens.json").add("ci", "operator", 0.0)
    planted.cores["a token of ours"] = token[-24:]
    for path in ("github", "gitlab", "generic"):
        one_time = {"x-gitlab-token": _value(one, path), "authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{one.port}/ingest/deployments/{path}"
        httpx.post(url, content=b'{"a": 1', headers=one_time)
        httpx.post(url, content=b'{"a": 1', headers={"x-gitlab-token": _value(one, path)})
    texts = answered(one)
    assert "saboteur" in texts["/health"]
    assert "***" in texts["/health"]
    texts |= told(one, capfd, monkeypatch)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(40) == 0
    texts |= left(one) | {"log": one.log.read_text()}
    assert "RuntimeError" in texts["log"]
    assert "DEBUG" in texts["log"]
    assert planted.found(texts) == []
    assert echo.strayed == 0


ASKED = (
    "alertmanager", "elastic_logs", "elastic_logs_2", "elastic_out", "elastic_out_2", "elastic_predictions",
    "flag_http", "grafana", "heartbeat", "mlflow", "mlflow_2", "pagerduty", "probe", "prometheus", "prometheus_2",
    "write", "webhook",
)  # fmt: skip


def _value(one, name):
    reference = yaml.safe_load(one.config.read_text())["connectors"]["deployments"][name]
    kind, _, rest = reference.partition(":")
    return os.environ[rest] if kind == "env" else Path(rest).read_text().strip()


@pytest.mark.parametrize("style", ["text", "json"])
def test_it_is_not_in_the_last_words_of_one_that_breaks(town, style, monkeypatch):
    planted, one = town
    # a database that is not there, with a password in its address
    reference = planted("runs", "postgresql://me:{}@127.0.0.1:9/none")
    for name, value in planted.env.items():
        monkeypatch.setenv(name, value)
    one.config.write_text(one.config.read_text() + f"runs: {{database: '{reference}'}}\n")
    start(one, style)
    wait_for("the source broke", lambda: "RuntimeError" in one.log.read_text())
    wait_for("no database", lambda: "127.0.0.1/none" in one.log.read_text(), 40)
    (one.state / "crash").touch()
    assert one.process.wait(60) == 1
    said = one.log.read_text()
    assert "End: the end of ***" in said
    assert planted.found(left(one) | {"log": said}) == []


def test_it_is_not_in_what_an_abort_leaves(town):
    planted, one = town
    start(one, "json", PYTHONFAULTHANDLER="1")
    wait_for("the source broke", lambda: "RuntimeError" in one.log.read_text())
    one.process.send_signal(signal.SIGABRT)
    # who reads the frames of threads that run, as faulthandler does, may fall over them: it is dead either way
    assert one.process.wait(60) in {-signal.SIGABRT, -signal.SIGSEGV}
    said = one.log.read_text()
    assert "Fatal Python error: Aborted" in said
    assert planted.found(left(one) | {"log": said}) == []
