import http.server
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml as pyyaml

from agent import registry, surroundings
from agent.config import load
from agent.errors import Refused
from agent.surroundings import Master, ModelRoot, Surroundings, look, tell, write, yaml


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def process(root, pid, parent, *words):
    put(root / f"proc/{pid}/cmdline", "\0".join(words) + "\0")
    put(root / f"proc/{pid}/stat", f"{pid} (a ) b) S {parent} 1 1 0")


def card(root, address, kind, driver):
    put(root / f"sys/bus/pci/devices/{address}/class", f"{kind}\n")
    (root / f"sys/bus/pci/devices/{address}/driver").symlink_to(f"../../drivers/{driver}")


def test_an_empty_machine_is_no_error(tmp_path):
    found = look(tmp_path, ports=())
    assert found == Surroundings(host=socket.gethostname())
    said = dict(tell(found))
    assert said["gpu"] == "none on the PCI bus"
    assert "--models" in said["models"]


def test_gpus_are_counted_and_screens_are_not(tmp_path):
    card(tmp_path, "0000:01:00.0", "0x030200", "maker")
    card(tmp_path, "0000:02:00.0", "0x030200", "maker")
    card(tmp_path, "0000:03:00.0", "0x030000", "virtio-pci")
    card(tmp_path, "0000:04:00.0", "0x020000", "e1000")
    found = look(tmp_path, ports=())
    assert (found.gpus, found.gpu_drivers) == (2, ("maker",))
    assert "2 (driver maker)" in dict(tell(found))["gpu"]


def test_containers_around_us_and_the_one_that_we_are_in(tmp_path):
    put(tmp_path / "proc/1/cgroup", "0::/system.slice/docker-abc.scope\n")
    for name in ("a" * 64, "b" * 64):
        (tmp_path / f"sys/fs/cgroup/system.slice/docker-{name}.scope/inner").mkdir(parents=True)
    (tmp_path / f"sys/fs/cgroup/kubepods.slice/pod1/cri-containerd-{'c' * 64}.scope").mkdir(
        parents=True
    )
    (tmp_path / "sys/fs/cgroup/system.slice/ssh.service").mkdir()
    found = look(tmp_path, ports=())
    assert found.container == "docker"
    assert found.containers == 3


def test_a_host_is_no_container(tmp_path):
    put(tmp_path / "proc/1/cgroup", "0::/init.scope\n")
    assert look(tmp_path, ports=()).container == ""


def test_model_folders_in_usual_places_and_where_servers_were_told(tmp_path):
    put(tmp_path / "srv/models/wine/1/model.joblib")
    put(tmp_path / "srv/models/wine/2/model.joblib")
    put(tmp_path / "srv/models/wine/champion.json", "{}")
    put(tmp_path / "elsewhere/digits/3/saved_model.pb")
    put(tmp_path / "opt/models/readme.txt")
    (tmp_path / "models/empty/1").mkdir(parents=True)
    process(tmp_path, 7, 1, "tensorflow_model_server", f"--model_base_path={tmp_path}/elsewhere")
    found = look(tmp_path, ports=())
    roots = {r.path: r for r in found.model_roots}
    assert roots[f"{tmp_path}/srv/models"] == ModelRoot(f"{tmp_path}/srv/models", ("wine",), True)
    assert roots[f"{tmp_path}/elsewhere"].pointer is False
    assert f"{tmp_path}/opt/models" not in roots


def test_a_folder_that_a_person_names_is_looked_at(tmp_path):
    put(tmp_path / "mine/wine/1/model.joblib")
    found = look(tmp_path / "nothing", folders=[tmp_path / "mine"], ports=())
    assert [r.path for r in found.model_roots] == [str(tmp_path / "mine")]


def test_masters_are_told_from_their_workers(tmp_path):
    start = ("/venv/bin/python", "/venv/bin/gunicorn", "-w", "2", "--bind=0.0.0.0:8000")
    process(tmp_path, 10, 1, *start, "-p", "/run/wine.pid", "shop.wine:app")
    process(tmp_path, 11, 10, *start, "-p", "/run/wine.pid", "shop.wine:app")
    process(tmp_path, 12, 10, *start, "-p", "/run/wine.pid", "shop.wine:app")
    process(tmp_path, 20, 1, "gunicorn", "-b127.0.0.1:9000", "--name", "Price Service!", "x:make()")
    process(tmp_path, 30, 1, "vim", "gunicorn.conf.py")
    found = look(tmp_path, ports=())
    assert found.masters == (
        Master(10, "wine", 8000, "/run/wine.pid", 2),
        Master(20, "price-service", 9000, "", 0),
    )
    said = "\n".join(s for _, s in tell(found))
    assert "it has no pidfile, so it can be watched and not scaled" in said


def serve(body, status=200):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(
    ("body", "is_one"),
    [
        (b'{"status": "success", "data": {"version": "2.42.0"}}', True),
        (b"<html>hello</html>", False),
        (b"[1]", False),
    ],
)
def test_a_metrics_server_is_asked_who_it_is(tmp_path, body, is_one):
    server = serve(body)
    try:
        port = server.server_address[1]
        found = look(tmp_path, ports=(port,))
        assert found.metrics_servers == ((f"http://127.0.0.1:{port}",) if is_one else ())
    finally:
        server.shutdown()
        server.server_close()


FULL = Surroundings(
    host="web-1",
    gpu_drivers=("maker",),
    gpus=2,
    container="docker",
    containers=3,
    metrics_servers=("http://127.0.0.1:9090",),
    model_roots=(
        ModelRoot("/srv/models", ("wine",), True),
        ModelRoot('/srv/other "models"', ("digits",), False),
    ),
    masters=(
        Master(10, "wine", 8000, "/run/wine.pid", 2),
        Master(11, "wine", 8001, "/run/wine2.pid", 2),
        Master(12, "no", 8002, "", 1),
        Master(13, "bare", None, "", 1),
    ),
    systemd=True,
)


@pytest.mark.parametrize("found", [Surroundings(host="x"), FULL], ids=["empty", "full"])
@pytest.mark.parametrize("plain", [False, True])
def test_what_init_writes_passes_check(tmp_path, found, plain):
    registry.load()
    path = tmp_path / "agent.yaml"
    write(yaml(found, day="2026-11-23", plain=plain), path, force=False)
    config = load(path)
    assert config.manages == []
    assert config.mode == "suggest"
    if found is FULL and not plain:
        assert {s.id for s in config.services} == {"wine", "no", "bare"}
        assert config.connectors["prometheus"].own["url"] == "http://127.0.0.1:9090"
        assert config.connectors["models"].own["path"] == "/srv/models"
        assert config.connectors["models-2"].own["path"] == '/srv/other "models"'
        assert config.connectors["workers-wine"].use == "gunicorn"
    else:
        assert config.services == []
        assert config.connectors == {}


def test_a_metrics_server_is_asked_only_where_its_client_is_installed(tmp_path):
    registry.load()
    server = "http://127.0.0.1:9090"
    bare = Surroundings(host="x", metrics_servers=(server,), metrics_client=False)
    text = yaml(bare, day="2026-11-23")
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    assert load(path).connectors == {}
    assert f'prometheus: {{use: prometheus, url: "{server}"}}' in text
    assert "pip install '.[prometheus]'" in dict(tell(bare))["metrics"]
    there = replace(bare, metrics_servers=(server, "http://127.0.0.1:8428"), metrics_client=True)
    path.write_text(yaml(there, day="2026-11-23"))
    assert list(load(path).connectors) == ["prometheus", "prometheus-2"]


def test_every_finding_stands_in_the_file_as_a_comment():
    text = yaml(FULL, day="2026-11-23")
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for _, said in tell(FULL):
        assert said in comments
    assert pyyaml.safe_load(text)["manages"] == []


def test_it_never_overwrites_without_being_told(tmp_path):
    path = tmp_path / "etc" / "agent.yaml"
    write("mode: observe\n", path, force=False)
    with pytest.raises(Refused, match="--force"):
        write("mode: auto\n", path, force=False)
    assert path.read_text() == "mode: observe\n"
    write("mode: suggest\n", path, force=True)
    assert path.read_text() == "mode: suggest\n"
    with pytest.raises(Refused, match="can not be written"):
        write("", path / "below" / "a.yaml", force=False)


@pytest.mark.live
def test_a_real_gunicorn_is_found(tmp_path):
    if not shutil.which("gunicorn", path=str(Path(sys.executable).parent)):
        pytest.skip("gunicorn is not installed (the extra `demo`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    put(
        tmp_path / "hello.py",
        "def app(environ, start):\n    start('200 OK', [])\n    return [b'hi']\n",
    )
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", "-p", "g.pid",
         "--no-control-socket", "hello:app"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 30
        mine = None
        while time.monotonic() < until and (mine is None or mine.workers < 2):
            mine = next((m for m in look(ports=()).masters if m.port == port), None)
            time.sleep(0.2)
        assert mine is not None
        assert mine.pid == server.pid
        assert mine.name == "hello"
        assert mine.pidfile == str(tmp_path / "g.pid")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def test_looking_around_here_takes_a_moment_only():
    start = time.monotonic()
    found = surroundings.look()
    assert time.monotonic() - start < 10
    assert found.host == socket.gethostname()
