"""Reloads of a real daemon with every connector there is: what goes is closed, what stays goes on, nothing piles up."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import everything
import httpx
import psutil
import pytest
import yaml
from daemon_process import Running, wait_for
from whole_side import beside

from agent.authority import Tokens
from agent.control import Control

pytestmark = [pytest.mark.live, pytest.mark.long]
pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
RELOADS = 50
SAME = {"gpu", "host", "prometheus", "webhook"}
"""What no reload touches."""
DAYS = "services: [{id: web, models: [fraud]}, {id: api}]\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make the stand-in for NVML with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).parents[1] / "connectors" / "nvml_stub.c"
    made = [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(source)]
    subprocess.run(made, check=True)
    return folder


@pytest.fixture
def town(tmp_path, library, monkeypatch):
    """A daemon with everything, and configs to reload: whole, and with each connector changed or gone."""
    monkeypatch.setenv("NVML_STUB", str(tmp_path / "stub"))
    (tmp_path / "stub").write_text("healthy")
    folder = tmp_path / "outside"
    (folder / "models" / "fraud").mkdir(parents=True)
    (folder / "old").mkdir()
    (folder / "rows.csv").write_text("ts,name,prediction\n1,x,0.5\n")
    (folder / "kubeconfig").write_text("{}")
    made = []

    def plant(_, form="{}"):
        made.append(form.replace("{}", f"given{len(made):08}"))
        monkeypatch.setenv(f"GIVEN_{len(made)}", made[-1])
        return f"env:GIVEN_{len(made)}"

    with beside() as side:
        whole = everything.everything(side.url, folder, plant)
        whole["gpu"] = {"library": str(library)}
        whole["gpu_2"] = {"use": "gpu", "library": str(library)}
        changed = {
            name: own if name in SAME else own | {"interval": "7s"}
            for i, (name, own) in enumerate(sorted(whole.items()))
            if name in SAME or i % 3
        }
        one = Running(tmp_path, DAYS)
        yield side, one, whole, changed
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


def write(one, connectors):
    rest = {"listen": f"127.0.0.1:{one.port}", "priority": 0}
    rest["connectors"] = {name: {"enabled": False} for name in OFF} | connectors
    one.config.write_text(DAYS + yaml.safe_dump(rest))


OFF = ("connections", "containers", "processes", "kernel_log", "units", "gpu")


def held(one):
    """Return how many descriptors, threads and children it has, and the pids of these."""
    me = psutil.Process(one.process.pid)
    children = {child.pid for child in me.children(recursive=True)}
    return {"fds": me.num_fds(), "threads": me.num_threads(), "children": len(children)}, children


def settled(one, side):
    """Wait until two looks show the same; returns it."""
    before: dict[str, int] = {}

    def same():
        nonlocal before
        now, children = held(one)
        last, before = before, now
        return children and now == last and (now, children)

    return wait_for("it is calm", same, 30)


@pytest.mark.timeout(240)
def test_fifty_reloads_leave_nothing_behind_and_what_stays_goes_on(town):
    side, one, whole, changed = town
    write(one, whole)
    one.start()
    wait_for("all have asked", lambda: {"prometheus", "mlflow", "probe"} <= set(side.asked), 30)
    control = Control(one.state)

    def reloads(n):
        for i in range(n):
            write(one, whole if i % 2 else changed)
            control.post("/api/reload", {})

    reloads(6)
    first, children = settled(one, side)
    memory = psutil.Process(one.process.pid).memory_info().rss
    stays = {pid for pid in children if _runs_since(pid) == min(map(_runs_since, children))}
    lines = {who: set(side.lines[who]) for who in ("prometheus", "webhook")}
    reloads(RELOADS)
    last, after = settled(one, side)
    grew = (psutil.Process(one.process.pid).memory_info().rss - memory) / 1e6
    (one.folder / "figures").write_text(
        f"after 6 {first}, after {RELOADS} more {last}, {grew:+.1f} MB"
    )
    assert last["children"] == first["children"]
    assert last["fds"] <= first["fds"] + 5
    assert last["threads"] <= first["threads"] + 5
    assert grew < 30
    assert stays <= after, "the child of the source that stayed is another one"
    assert len(side.lines["prometheus"] - lines["prometheus"]) <= 1, "it was connected anew"
    assert "connector_not_closed" not in one.log.read_text()
    assert '"bug"' not in one.log.read_text()

    write(one, {"host": {}})
    control.post("/api/reload", {})
    wait_for("all connections are closed", lambda: side.open_now == 0)
    wait_for("no child is left", lambda: held(one)[0]["children"] == 0)
    assert set(one.get("/health").json()["sources"]) <= {"host"}
    assert one.get("/health").json()["away"] == []


def _runs_since(pid):
    return psutil.Process(pid).create_time()


def test_ways_in_come_and_go_with_a_reload(town):
    _, one, whole, _ = town
    write(one, {"host": {}})
    one.start()
    control = Control(one.state)
    headers = {"authorization": f"Bearer {Tokens(one.state / 'tokens.json').add('a', 'operator', 0.0)}"}  # fmt: skip
    paths = ("/ingest/deployments/generic", "/ingest/alertmanager", "/v1/metrics")

    def said():
        return [
            httpx.post(f"http://127.0.0.1:{one.port}{path}", headers=headers).status_code
            for path in paths
        ]

    assert said() == [404, 404, 404]
    write(one, {name: whole[name] for name in ("host", "deployments", "alertmanager", "otlp")})
    control.post("/api/reload", {})
    assert 404 not in said()
    write(one, {"host": {}})
    control.post("/api/reload", {})
    assert said() == [404, 404, 404]
