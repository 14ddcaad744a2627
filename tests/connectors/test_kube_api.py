"""Who we are to an API server of Kubernetes: programs that log in, and what is renewed meanwhile."""

import asyncio
import contextlib
import http.server
import json
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from kubernetes_side import NAMESPACE, serving
from kubernetes_workload_side import Workload
from pydantic import ValidationError

from agent.errors import Refused, Unavailable
from connectors import _kubernetes
from connectors._kube_api import Api
from connectors._kubernetes import Access, place_of

CANARY = "tok-canary-31"
V1 = "client.authentication.k8s.io/v1"
PLUGIN = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([sys.argv[1:], dict(os.environ)]) + "\\n")
print((here / "says").read_text())
sys.exit(int((here / "code").read_text()) if (here / "code").exists() else 0)
"""


class Plugin:
    """A program that logs in: what it was called with, and what it shall say."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "log-in"
        self.path.write_text(PLUGIN)
        self.path.chmod(0o755)
        self.says(token=CANARY)

    def says(self, version=V1, **status):
        said = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (self.folder / "says").write_text(json.dumps(said))

    @property
    def calls(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def plugin(tmp_path):
    return Plugin(tmp_path)


@pytest.fixture
def side():
    with serving(Workload()) as made:
        made.token = CANARY
        yield made


def access(plugin, url, *, login=True, cluster=None, **said):
    config = plugin.folder / "kubeconfig"
    said = {"apiVersion": V1, "command": str(plugin.path), "interactiveMode": "Never", **said}
    config.write_text(
        json.dumps({
            "current-context": "prod",
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
            "clusters": [{"name": "c", "cluster": {"server": url, **(cluster or {})}}],
            "users": [{"name": "u", "user": {"exec": said}}],
        })
    )  # fmt: skip
    config.chmod(0o600)
    allowed = {"program": said["command"], "env": ["K8S_ZONE"], "timeout": 10} if login else None
    return Access(kubeconfig=config, login=allowed)


async def ask(api):
    return await api.ask("GET", f"apis/apps/v1/namespaces/{NAMESPACE}/deployments/web")


# ---- programs


async def test_a_program_logs_us_in_without_a_shell_and_without_our_environment(
    plugin, side, monkeypatch
):
    monkeypatch.setenv("K8S_ZONE", "eu-1")
    monkeypatch.setenv("MLFLOW_TOKEN", "not-for-others")
    args = ["get-token", f"; touch {plugin.folder}/hacked"]
    env = [{"name": "PROFILE", "value": "ops"}]
    api = Api("k8s", access(plugin, side.url, args=args, env=env, provideClusterInfo=True), 5.0)
    await asyncio.gather(ask(api), ask(api), ask(api))
    await api.close()
    ((argv, given),) = plugin.calls  # once for all
    assert argv == args
    assert not (plugin.folder / "hacked").exists()
    told = json.loads(given.pop("KUBERNETES_EXEC_INFO"))
    assert told == {
        "apiVersion": V1, "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": side.url}},
    }  # fmt: skip
    wanted = {"PATH", "K8S_ZONE", "PROFILE"}
    assert wanted <= given.keys() <= wanted | {"HOME", "LC_CTYPE"}  # Python sets the last itself


async def test_a_credential_is_used_until_shortly_before_it_ends(plugin, side, monkeypatch):
    start = time.time()
    ends = datetime.fromtimestamp(start + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    plugin.says(token=CANARY, expirationTimestamp=ends)
    api = Api("k8s", access(plugin, side.url), 5.0)
    for after, calls in ((0, 1), (3500, 1), (3550, 2)):
        monkeypatch.setattr("connectors._kube_api.time.time", lambda at=start + after: at)
        await ask(api)
        assert len(plugin.calls) == calls
    await api.close()


async def test_what_the_server_does_not_take_any_more_is_asked_for_again_once(plugin, side):
    api = Api("k8s", access(plugin, side.url), 5.0)
    await ask(api)
    side.token = "tok-2"
    plugin.says(token="tok-2")
    await ask(api)
    assert len(plugin.calls) == 2
    side.token = "tok-3"
    with pytest.raises(Refused, match="Unauthorized"):
        await ask(api)
    assert len(plugin.calls) == 3
    await api.close()


@pytest.mark.parametrize(
    ("says", "error", "words"),
    [
        (f"garbage {CANARY}", Refused, "prints no ExecCredential; run log-in by hand"),
        (
            {"version": f"{V1}beta1", "token": CANARY},
            Refused,
            "speaks .*v1beta1, the kubeconfig says",
        ),
        (
            {"clientCertificateData": CANARY},
            Refused,
            "neither a token nor a certificate with its key",
        ),
        (
            {"token": CANARY, "expirationTimestamp": "2020-01-01T00:00:00Z"},
            Unavailable,
            "has ended",
        ),
        (3, Unavailable, "ended with status 3; run log-in by hand as our user"),
    ],
)
async def test_a_program_that_fails_is_said_and_its_words_never(plugin, side, says, error, words):
    match says:
        case dict():
            plugin.says(**says)
        case str():
            (plugin.folder / "says").write_text(says)
        case code:
            (plugin.folder / "code").write_text(str(code))
    api = Api("k8s", access(plugin, side.url), 5.0)
    with pytest.raises(error, match=words) as failed:
        await ask(api)
    assert CANARY not in str(failed.value)
    await api.close()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"login": False}, r"allow it with `login: \{program: .*log-in\}`, or give the user a token"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "have it speak .*k8s.io/v1$"),
        ({"interactiveMode": "Always"}, "wants to ask a person"),
        (
            {"command": "no-such-program", "installHint": "get it\nat the shop"},
            "no program no-such-program to log in by: get it at the shop",
        ),
    ],
)  # fmt: skip
def test_what_is_not_run_is_said_with_the_remedy(plugin, said, words):
    with pytest.raises(Refused, match=words):
        place_of(access(plugin, "https://k8s:6443", **said))


def test_a_kubeconfig_that_others_may_write_names_no_program(plugin):
    way = access(plugin, "https://k8s:6443")
    assert place_of(way).program is not None
    way.kubeconfig.chmod(0o620)
    with pytest.raises(Refused, match=r"others may write .*chmod go-w"):
        place_of(way)
    with pytest.raises(ValidationError, match="`login` belongs to a `kubeconfig`"):
        Access(login={"program": "aws"})


# ---- what is renewed


async def test_another_kubeconfig_is_read_before_the_next_request(plugin, side):
    api = Api("k8s", access(plugin, side.url), 5.0)
    await ask(api)
    access(plugin, side.url, args=["other"])
    await ask(api)
    assert [argv for argv, _ in plugin.calls] == [[], ["other"]]
    access(plugin, "http://127.0.0.1:1")
    with pytest.raises(Refused, match=r"names http://127\.0\.0\.1:1 now, not"):
        await ask(api)
    await api.close()


def certificate(folder, name):
    """Make one that is its own authority, valid for this address."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / f"{name}.key"),
         "-out", str(folder / f"{name}.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / f"{name}.pem", folder / f"{name}.key"


@contextlib.contextmanager
def greeting(certificate, key):
    """Serve `Hello` over TLS; yields its port, and the context that a test may change."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_port, context
        finally:
            server.shutdown()
            thread.join()


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        # the last letter: the whole token would be masked
        body = json.dumps({"ends": self.headers.get("authorization", "")[-1:]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


async def test_in_a_pod_a_rotated_ca_and_token_are_taken_up(tmp_path, monkeypatch, needs):
    needs("openssl")
    old, new = certificate(tmp_path, "old"), certificate(tmp_path, "new")
    account = tmp_path / "account"
    account.mkdir()
    for name, text in (("token", "tok-1"), ("namespace", "ml"), ("ca.crt", old[0].read_text())):
        (account / name).write_text(text)
    with greeting(*old) as (port, context):
        monkeypatch.setattr(_kubernetes, "SERVICE_ACCOUNT", account)
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
        api = Api("k8s", Access(), 5.0)
        assert await api.ask("GET", "version") == {"ends": "1"}
        context.load_cert_chain(*new)
        await api.close()  # its connections were of the old certificate
        with pytest.raises(Refused, match="certificate is not to be trusted"):
            await api.ask("GET", "version")
        # as the kubelet does it: the new file takes the place of the old one
        (tmp_path / "next").write_text(new[0].read_text())
        (tmp_path / "next").replace(account / "ca.crt")
        (account / "token").write_text("tok-2")
        assert await api.ask("GET", "version") == {"ends": "2"}
        await api.close()


async def test_a_program_may_give_a_certificate(plugin, tmp_path, needs):
    needs("openssl")
    (ca, key), ours = certificate(tmp_path, "server"), certificate(tmp_path, "us")
    plugin.says(
        clientCertificateData=ours[0].read_text(), clientKeyData=ours[1].read_text(), token=None
    )
    with greeting(ca, key) as (port, context):
        context.load_verify_locations(ours[0])
        context.verify_mode = ssl.CERT_REQUIRED
        trust = {"certificate-authority": "server.pem"}  # beside the kubeconfig
        way = access(plugin, f"https://127.0.0.1:{port}", cluster=trust)
        api = Api("k8s", way, 5.0)
        assert await api.ask("GET", "version") == {"ends": ""}
        await api.ask("GET", "version")
        assert len(plugin.calls) == 1
        await api.close()
