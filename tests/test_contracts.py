"""Every registered source and action x every check of its contract; detectors and views: `tests/detectors/`.

A new plug-in needs one line in a table below: how to build it on a world of its own. An exemption stands in
`EXEMPT` with its reason in words; one that is no longer needed fails too.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.server
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from elastic_side import Elastic, iso
from kubernetes_nodes_side import NodePool
from kubernetes_side import NAMESPACE, NODES, serving
from kubernetes_workload_side import Workload
from mlflow_side import People, stand_in

from agent import registry
from agent.errors import AgentError, Refused
from agent.journal import Journal
from agent.memory import Memory
from agent.model import Change, Entity, Frame, Series
from agent.ports import BulkReceiver, Done, Feed, Note, Notifier, Source, Step
from agent.questions import OwnQuestions
from agent.silences import OwnSilences
from agent.testing import Broken, Check, Stage, check_action, check_source
from agent.units import Model
from playbooks.actions import nodes, rollouts

registry.load()

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")

# ---- exemptions: (plug-in, check) -> why

_NO_MARK = (
    "what it does leaves no mark that could be seen, so the runner trusts the step's own record"
)
EXEMPT: dict[tuple[str, str], str] = {
    ("wait", "reached"): _NO_MARK,
    ("page", "reached"): _NO_MARK,
    ("notify", "reached"): _NO_MARK,
    ("collect", "reached"): "its file is written once by its key, so a second try is harmless",
    ("diagnose_gpu", "reached"): "looking is done anew each time and leaves no mark",
    ("release_retraining", "others_before_undo"): "a hold of somebody else is as good as ours: undo wants it held",
}  # fmt: skip

# ---- connectors that are sources: how to build one


@dataclasses.dataclass
class World:
    """What sources of the tests look at."""

    folder: Path

    def models(self) -> Path:
        return model_folder(self.folder / "models")


def model_folder(root: Path) -> Path:
    for version, role, features in (
        ("1", "candidate", ["age", "area"]),
        ("2", "candidate", ["age", "area"]),
        ("3", "candidate", ["age", "area"]),
        ("b1", "backup", ["age"]),
    ):
        folder = root / "fraud" / version
        folder.mkdir(parents=True)
        about = {
            "version": version,
            "role": role,
            "features": features,
            "accuracy": 0.9,
            "trained_at": 5.0,
        }
        (folder / "metadata.json").write_text(json.dumps(about))
    point(root, "3", ["2", "1"])
    return root


def point(root: Path, version: str, previous: list[str], by: str = "alice") -> None:
    text = json.dumps({"version": version, "previous": previous, "changed": 5.0, "by": by})
    (root / "fraud" / "champion.json").write_text(text)


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        """Say nothing on standard error."""


@contextlib.contextmanager
def plain(world: World) -> Iterator[dict]:
    yield {}


@contextlib.contextmanager
def logged(world: World) -> Iterator[dict]:
    path = world.folder / "kmsg"
    said = ("eth0: Link is Down", "Out of memory: Killed process 7 (java) total-vm:1kB")
    lines = [f"3,{i},{time.monotonic() * 1e6:.0f},-;{text}\n" for i, text in enumerate(said)]
    path.write_text("".join(lines))
    yield {"path": path, "in_container": True}


@contextlib.contextmanager
def with_disks(world: World) -> Iterator[dict]:
    device = world.folder / "block/sda/device"
    device.mkdir(parents=True)
    for name, text in (("state", "running"), ("ioerr_cnt", "0x2"), ("life_time", "")):
        (device / name).write_text(text)
    yield {"sysfs": world.folder}


@contextlib.contextmanager
def in_models(world: World) -> Iterator[dict]:
    yield {"path": world.models()}


@contextlib.contextmanager
def served(world: World) -> Iterator[dict]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield {"service": "web", "url": f"http://127.0.0.1:{server.server_port}/"}
        finally:
            server.shutdown()
            thread.join()


class _SpeaksPromql(_Answers):
    """Three series of two scraped targets; it is asked for nothing that it does not have."""

    def do_GET(self):
        if self.path.endswith("/values"):
            data = ["shop_level", "shop_orders_total", "up"]
        elif self.path.endswith("/metadata"):
            data = {"shop_level": [{"type": "gauge"}]}
        else:
            rows = [
                ({"__name__": "shop_level", "job": "shop", "instance": i}, "2.5")
                for i in ("a:80", "b:80")
            ] + [({"__name__": "shop_orders_total", "job": "shop", "instance": "a:80"}, "7")]
            wanted = rows if "shop" in self.path else []
            data = {"result": [{"metric": m, "value": [time.time(), v]} for m, v in wanted]}
        body = json.dumps({"status": "success", "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def spoken(world: World) -> Iterator[dict]:
    """Something that speaks PromQL; a real one: tests/live/test_prometheus_source.py."""
    pytest.importorskip("prometheus_api_client")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _SpeaksPromql) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            yield {"url": url, "selectors": ['{job="shop"}'], "exporters": []}
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def registered(world: World) -> Iterator[dict]:
    """Something that speaks as MLflow does; a real one: tests/live/test_mlflow_server.py."""
    with stand_in() as server:
        People(server.url).fraud()
        yield {"url": server.url}


@contextlib.contextmanager
def under_gunicorn(world: World) -> Iterator[dict]:
    """A real gunicorn with one worker."""
    (world.folder / "app.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '2')])\n"
        "    return [b'ok']\n"
    )
    pidfile, said = world.folder / "pid", world.folder / "gunicorn.log"
    with said.open("w") as log:
        master = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--workers", "1", "--pid", str(pidfile), "--bind",
             f"unix:{world.folder}/sock", "app:app"],
            cwd=world.folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 30
        while "Booting worker" not in said.read_text():
            assert master.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.05)
        yield {"service": "web", "pidfile": pidfile, "max_workers": 2}
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(master.pid, signal.SIGKILL)
        master.wait()


@contextlib.contextmanager
def in_runs(world: World) -> Iterator[dict]:
    folder = world.folder / "runs"
    folder.mkdir(exist_ok=True)
    yield {"path": folder / "*.jsonl", "model": "fraud"}


@contextlib.contextmanager
def indexed(world: World) -> Iterator[dict]:
    """Logs of two services, a host and a template, in the stand-in of tests/elastic_side.py."""
    pytest.importorskip("elasticsearch")
    with Elastic() as elastic:
        for i in range(20):
            at = {"@timestamp": iso(time.time() - 20 + i), "host.name": "h1", "event.code": "E1"}
            elastic.put(at | {"service.name": f"s{i % 2}", "log.level": "error"}, index="logs-x")
            elastic.put(at, index="logs-x")
        yield {"url": elastic.url, "delay": 5}


SOURCES = {
    "batch_scoring": in_runs,
    "connections": plain,
    "containers": plain,
    "disks": with_disks,
    "elastic_logs": indexed,
    "gpu": plain,
    "gunicorn": under_gunicorn,
    "host": plain,
    "kernel_log": logged,
    "mlflow": registered,
    "model_directory": in_models,
    "probe": served,
    "processes": plain,
    "prometheus": spoken,
    "units": plain,
}
NO_SOURCE = {
    "alertmanager": "a receiver of alerts, not of frames: tests/live/test_alerts.py",
    "commands": "only an ability: tests/connectors/test_commands.py",
    "deployments": "a receiver of changes, not of frames: tests/connectors/test_deployments.py",
    "elastic_out": "it only keeps copies: tests/connectors/test_elastic_out.py",
    "elastic_predictions": "a feed of rows, not of frames: tests/connectors/test_elastic_predictions.py",
    "cgroup": "only an ability: tests/connectors/test_cgroup.py",
    "fleet_http": "only abilities: tests/connectors/test_fleet_http.py",
    "flag_file": "only abilities: tests/connectors/test_flag_file.py",
    "gpu_control": "only abilities: tests/connectors/test_gpu_control.py",
    "flag_http": "only abilities: tests/connectors/test_flag_http.py",
    "grafana_annotations": "it only tells: tests/connectors/test_grafana_annotations.py",
    "haproxy": "only abilities: tests/live/test_haproxy.py",
    "heartbeat": "it only tells that we live: tests/connectors/test_heartbeat.py",
    "http_calls": "only an ability: tests/connectors/test_http_calls.py",
    "kubernetes": "only abilities: tests/connectors/test_kubernetes.py",
    "kubernetes_nodes": "only an ability: tests/connectors/test_kubernetes_nodes.py",
    "machine": "only an ability: tests/connectors/test_machine.py",
    "mail": "it only tells people: tests/connectors/test_mail.py",
    "old_files": "only an ability: tests/connectors/test_old_files.py",
    "otlp": "others push to it: tests/connectors/test_otlp_metrics.py",
    "page": "it only tells people: see its notifier test below",
    "pagerduty": "it only tells people: tests/connectors/test_pagerduty.py",
    "predictions": "a feed and a receiver of rows, not of frames: tests/connectors/test_predictions.py",
    "remote_write": "it only keeps our numbers: tests/connectors/test_remote_write.py",
    "slack": "it tells and asks people: tests/connectors/test_slack.py",
    "systemd": "only abilities: tests/connectors/test_systemd.py",
    "docker": "only abilities: tests/connectors/test_docker.py",
    "trainer": "only an ability, used by the action retrain below",
    "trainer_http": "only an ability: tests/connectors/test_trainers_elsewhere.py, retrain by it, too",
    "trainer_kubeflow": "only an ability: tests/connectors/test_trainers_elsewhere.py, retrain by it, too",
    "trainer_kubernetes": "only an ability: tests/connectors/test_trainers_elsewhere.py, retrain by it, too",
    "webhook": "it only tells: tests/connectors/test_webhook.py",
}


def build(name: str, config: dict, folder: Path):
    cls = registry.connector.get(name)
    made = cls.Config(**config)
    state = {"state": folder} if "state" in inspect.signature(cls).parameters else {}
    return cls(name, made, **state)


async def close(source) -> None:
    end = getattr(source, "close", None)
    if end is not None:
        done = end()
        if inspect.isawaitable(done):
            await done


# Only for the names of the checks: no source is built here.
SOURCE_CHECKS = [check.name for check in check_source(lambda: None, name="any")]  # type: ignore[arg-type,return-value]

# ---- actions: a stage each


class Fleet:
    """A service whose replicas are a number; compare-and-set as the Scaler contract says."""

    def __init__(self, n: int) -> None:
        self.n = n

    async def replicas(self, target: str) -> int:
        return self.n

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        if self.n != expect:
            raise Refused(f"{target} runs {self.n} replicas, not {expect}")
        self.n = n


class Balancer:
    """A load balancer with three servers in memory; compare-and-set as the Traffic and Roster contracts say."""

    def __init__(self, first: str = "ready") -> None:
        self.servers = {f"replica:web/{n}": self.server("ready") for n in "123"}
        self.servers["replica:web/1"] = self.server(first)

    @staticmethod
    def server(state: str, weight: int = 100, address: str = "10.0.0.1:80"):
        return types.SimpleNamespace(
            weight=weight, state=state, up=True, sessions=0, address=address
        )

    async def backends(self, service: str):
        return dict(self.servers)

    async def set_weight(self, replica: str, weight: int, expect: int) -> None:
        assert self.servers[replica].weight == expect
        self.servers[replica].weight = weight

    async def set_state(self, replica: str, state: str, expect: str) -> None:
        assert self.servers[replica].state == expect
        self.servers[replica].state = state

    async def address(self, replica: str):
        return self.servers[replica].address if replica in self.servers else None

    async def set_address(self, replica: str, address, expect) -> None:
        assert await self.address(replica) == expect
        self.servers.pop(replica, None)
        if address is not None:
            self.servers[replica] = self.server("ready", address=address)


class Units:
    """A service of three replicas that can be restarted."""

    def __init__(self) -> None:
        self.births = {1: 0, 2: 0, 3: 0}

    async def units(self, service: str):
        return [
            types.SimpleNamespace(replica=f"replica:web/{n}", birth=f"{n}-{b}", well=True)
            for n, b in self.births.items()
        ]

    async def restart(self, service: str, birth: str) -> None:
        n, _, b = birth.partition("-")
        if self.births[int(n)] != int(b):
            raise Refused(f"no replica {birth}")
        self.births[int(n)] += 1


class Told:
    """Somebody who hears notes, each key once."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def write(self, note: Note) -> None:
        if note.key not in self.keys:
            self.keys.append(note.key)

    async def notify(self, note: Note) -> None:
        self.write(note)


def step(use: str, target: str, **more) -> Step:
    return Step(f"run-1/{use}", use, target, {}, by="homeostat:run-1", **more)


def act_of(name: str, ability, **params):
    cls = registry.action.get(name)
    return cls(cls.Params(**params), ability)


@contextlib.asynccontextmanager
async def lives(verb: str, connector: str, config: dict, folder: Path, **params) -> AsyncIterator:
    """Give a function that builds a verb and its connector over what their earlier lives have left on disk."""
    made = []

    def again():
        made.append(build(connector, config, folder))
        return act_of(verb, made[-1], **params)

    try:
        yield again
    finally:
        for one in made:
            await close(one)


def on_models(name: str, facts: dict | None = None, **params):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        root = model_folder(folder / "models")
        held = root / "fraud" / "RETRAINING_HELD"

        async def world():
            said = json.loads((root / "fraud" / "champion.json").read_text())
            return said["version"], said["previous"], held.read_text() if held.exists() else ""

        async def disturb():
            point(root, "1", ["3"], by="pipeline")

        async def hold_themselves():
            theirs = build("model_directory", {"path": root}, folder)
            await theirs.release_retraining("fraud", "homeostat:run-1")
            await theirs.hold_retraining("fraud", "we look at it", "alice")
            await close(theirs)

        holds = name == "hold_retraining"
        async with lives(name, "model_directory", {"path": root}, folder, **params) as again:
            yield Stage(
                again(), step(name, "model:fraud", facts=facts or {}), world,
                None if holds else disturb, meddle=hold_themselves if holds else None, again=again,
            )  # fmt: skip

    return stage


@contextlib.asynccontextmanager
async def on_fleet(folder: Path) -> AsyncIterator[Stage]:
    fleet = Fleet(2)

    async def world():
        return fleet.n

    async def disturb():
        fleet.n = 5

    def again():
        return act_of("scale", fleet, by=1, max=4)

    yield Stage(again(), step("scale", "service:web"), world, disturb, again=again)


class Settings:
    """Limits and flags of a service, in memory; compare-and-set as their contracts say."""

    def __init__(self) -> None:
        self.values = {"memory_bytes": 8e9, "new_ui": True}

    async def limit(self, target: str, name: str):
        return self.values[name]

    async def nearest(self, target: str, name: str, value: float) -> float:
        return float(round(value))

    async def set_limit(self, target: str, name: str, value, expect) -> None:
        assert self.values[name] == expect
        self.values[name] = value

    async def flag(self, name: str):
        return self.values[name]

    async def set_flag(self, name: str, value, expect, by: str) -> None:
        await self.set_limit("", name, value, expect)


def on_settings(name: str, what: str, theirs, **params):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        settings = Settings()

        async def world():
            return dict(settings.values)

        async def disturb():
            settings.values[what] = theirs

        def again():
            return act_of(name, settings, **params)

        yield Stage(again(), step(name, "service:web"), world, disturb, again=again)

    return stage


def on_balancer(
    name: str, disturbed: dict, replica: str = "replica:web/1", first: str = "ready", **params
):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        balancer = Balancer(first)

        async def world():
            return {r: dict(vars(s)) for r, s in sorted(balancer.servers.items())}

        async def disturb():
            balancer.servers[replica] = Balancer.server(**{"state": "ready"} | disturbed)

        def again():
            return act_of(name, balancer, **params)

        yield Stage(again(), step(name, replica), world, disturb, again=again)

    return stage


@contextlib.asynccontextmanager
async def on_units(folder: Path) -> AsyncIterator[Stage]:
    units = Units()

    async def world():
        return dict(units.births)

    def again():
        return act_of("restart", units)

    yield Stage(again(), step("restart", "service:web"), world, again=again)


def on_nodes(name: str, *, closed: bool = False):
    """A cluster behind kmock, one node of it."""

    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        with (
            serving(NodePool()) as side,
            patch.object(nodes, "_LOOK_S", 0.01),
            in_env("K8S", "t0ken"),
        ):
            side.pod("web-1", "gpu-1")
            side.pod("agent-1", "gpu-1", owner="DaemonSet")
            side.edit(NODES, "gpu-1", spec={"unschedulable": closed})
            config = {"url": side.url, "token": "env:K8S"}

            async def world():
                return {n: bool(of["spec"].get("unschedulable")) for n, of in side.nodes.items()}

            async def disturb():
                side.edit(NODES, "gpu-1", spec={"unschedulable": not closed})

            async def close_themselves():
                side.edit(NODES, "gpu-1", metadata={"annotations": None})

            # who wants what somebody else has done meanwhile is content
            others = (disturb, close_themselves) if name == "drain_node" else (None, None)
            async with lives(name, "kubernetes_nodes", config, folder) as again:
                yield Stage(
                    again(),
                    step(name, "host:gpu-1"),
                    world,
                    others[0],
                    meddle=others[1],
                    again=again,
                )

    return stage


def on_rollouts(name: str):
    """A deployment behind kmock, with two releases."""

    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        with (
            serving(Workload()) as side,
            patch.object(rollouts, "_LOOK_S", 0.01),
            in_env("K8S", "t0ken"),
        ):
            side.release("web:2")
            config = {"service": "web", "workload": "deployment/web", "namespace": NAMESPACE}
            config |= {"url": side.url, "token": "env:K8S"}

            async def world():
                return json.loads(json.dumps(side.template))

            async def disturb():
                side.release("web:3")

            async with lives(name, "kubernetes", config, folder) as again:
                yield Stage(again(), step(name, "service:web"), world, disturb, again=again)

    return stage


@contextlib.contextmanager
def in_env(name: str, value: str) -> Iterator[None]:
    with patch.dict(os.environ, {name: value}):
        yield


GROUP = textwrap.dedent(
    """
    import os, threading, time
    os.fork()
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    os.write(1, b"ready\\n")  # one write: two processes share this pipe
    time.sleep(600)
    """
)


def on_group(name: str, **params):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        from playbooks.actions import _procfs as procfs

        if name == "set_priority" and os.geteuid() != 0:
            pytest.skip("putting a priority back takes root")
        with subprocess.Popen(  # noqa: ASYNC220  # nothing else runs in this loop that it could hold up
            [sys.executable, "-c", GROUP], start_new_session=True, stdout=subprocess.PIPE, text=True
        ) as leader:
            try:
                assert [leader.stdout.readline().strip() for _ in range(2)] == ["ready", "ready"]
                about = f"process:{procfs.boot_id()}/{leader.pid}/{procfs.read(leader.pid).start}"

                def look():
                    return {
                        m.pid: (m.stopped, sorted(procfs.threads(m.pid).values()))
                        for m in procfs.everyone()
                        if m.group == leader.pid
                    }

                async def world():
                    # a signal takes a moment to arrive
                    for _ in range(40):
                        one = look()
                        await asyncio.sleep(0.05)
                        if one == look():
                            break
                    return one

                async def disturb():
                    os.setpriority(os.PRIO_PGRP, leader.pid, 3)

                def again():
                    return act_of(name, None, **params)

                yield Stage(
                    again(), step(name, about), world, disturb if name == "set_priority" else None,
                    again=again,
                )  # fmt: skip
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(leader.pid, signal.SIGKILL)

    return stage


REPORT = {
    "version": "4",
    "holdback": {
        "rows": 200, "champion": {"accuracy": 0.775}, "challenger": {"accuracy": 0.875},
        "champion_only": 5, "challenger_only": 25,
    },
}  # fmt: skip


@contextlib.asynccontextmanager
async def on_trainer(folder: Path) -> AsyncIterator[Stage]:
    """A real command that writes a report and counts its runs."""
    runs = folder / "runs"
    code = f"open({str(runs)!r}, 'a').write('x'); print({json.dumps(REPORT)!r})"
    config = {"model": "fraud", "command": [sys.executable, "-c", code], "timeout": 60}

    async def world():
        return runs.read_text() if runs.exists() else ""

    async with lives("retrain", "trainer", config, folder) as again:
        yield Stage(again(), step("retrain", "model:fraud"), world, again=again)


def on_people(name: str):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        told = Told()

        async def world():
            return list(told.keys)

        def again():
            return act_of(name, told, text="disk full")

        yield Stage(again(), step(name, "host:web-1"), world, invisible=True, again=again)

    return stage


def on_host(name: str, **params):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        where = {"folder": folder / "kept"} if name == "collect" else {}

        async def world():
            return sorted(path.name for path in (folder / "kept").glob("*"))

        def again():
            return act_of(name, None, **params, **where)

        yield Stage(again(), step(name, "host:web-1"), world, invisible=name == "wait", again=again)

    return stage


@contextlib.asynccontextmanager
async def on_command(folder: Path) -> AsyncIterator[Stage]:
    """A real command that counts its runs, and its inverse, as a user with few rights."""
    runs = folder / "runs"
    runs.touch(0o666)
    runs.chmod(0o666)
    for above in [folder, *folder.parents]:
        if above == Path(tempfile.gettempdir()):  # never that one, nor what is above it
            break
        above.chmod(above.stat().st_mode | 0o011)
    config = {
        "run": {
            "count": {
                "argv": ["/bin/sh", "-c", f"echo x >> {runs}"],
                "undo": ["/usr/bin/truncate", "-s", "-2", str(runs)],
            }
        },
        "user": "nobody" if os.geteuid() == 0 else "",
    }

    async def world():
        return runs.read_text()

    async with lives("run_command", "commands", config, folder, command="count") as again:
        yield Stage(again(), step("run_command", "host:web-1"), world, again=again)


@contextlib.asynccontextmanager
async def on_interface(folder: Path) -> AsyncIterator[Stage]:
    """A real HTTP server that counts calls, and takes them back."""
    calls = []

    class Counts(_Answers):
        def do_POST(self):
            calls.append(self.path)
            self.do_GET()

        def do_DELETE(self):
            calls.remove(self.path)
            self.do_GET()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        config = {"allow": [{"url": url, "methods": ["POST", "DELETE"]}]}
        asked = {"url": f"{url}rebuild", "inverse": {"url": f"{url}rebuild", "method": "DELETE"}}

        async def world():
            return list(calls)

        try:
            async with lives("http_call", "http_calls", config, folder, **asked) as again:
                yield Stage(again(), step("http_call", "service:web"), world, again=again)
        finally:
            server.shutdown()
            thread.join()


def on_old_files(name: str):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        logs = folder / "logs"
        logs.mkdir()
        for n in range(3):
            (logs / f"app.log.{n}").write_text("x")
            os.utime(logs / f"app.log.{n}", (n, n))
        rule = {"path": logs, "names": ["*.log.*"], "older": "1d", "keep": 1}

        async def world():
            return sorted((path.name, path.read_text()) for path in logs.glob("app.*"))

        async def write_anew():
            for n in range(2):
                (logs / f"app.log.{n}").write_text("theirs")

        config = {"rules": {"logs": rule}}
        async with lives(name, "old_files", config, folder, rule="logs") as again:
            yield Stage(again(), step(name, "host:web-1"), world, meddle=write_anew, again=again)

    return stage


@contextlib.asynccontextmanager
async def on_held_models(folder: Path) -> AsyncIterator[Stage]:
    """A model directory where another run of ours holds retraining back."""
    root = model_folder(folder / "models")
    models = build("model_directory", {"path": root}, folder)
    await models.hold_retraining("fraud", "bad data", "homeostat:run-0")

    async def world():
        hold = await models.retraining_held("fraud")
        return hold and (hold.reason, hold.by)

    async def disturb():
        await models.release_retraining("fraud", "homeostat:run-0")
        await models.hold_retraining("fraud", "we look at it", "alice")

    async def hold_again():
        await models.hold_retraining("fraud", "we look at it", "alice")

    async with lives("release_retraining", "model_directory", {"path": root}, folder) as again:
        yield Stage(
            again(), step("release_retraining", "model:fraud"), world, disturb,
            meddle=hold_again, again=again,
        )  # fmt: skip
    await close(models)


class Cards:
    """A GPU that can be reset, and a host that can be rebooted, in memory."""

    def __init__(self) -> None:
        self.resets: list[str] = []

    async def health(self, gpu: str):
        return types.SimpleNamespace(
            recovery="reset", remap_pending=True, remap_failed=False, pids=()
        )

    async def reset(self, gpu: str, key: str) -> None:
        if key not in self.resets:
            self.resets.append(key)

    async def was_reset(self, key: str) -> bool:
        return key in self.resets

    def boot(self, host: str) -> str:
        return f"boot-{len(self.resets)}"

    def may_reboot(self) -> None:
        """It always may."""

    async def reboot(self, reason: str) -> None:
        self.resets.append(reason)


def on_cards(name: str, about: str, *, invisible: bool = False, **params):
    @contextlib.asynccontextmanager
    async def stage(folder: Path) -> AsyncIterator[Stage]:
        cards = Cards()

        async def world():
            return list(cards.resets)

        def again():
            return act_of(name, cards, **params)

        yield Stage(again(), step(name, about), world, invisible=invisible, again=again)

    return stage


@contextlib.asynccontextmanager
async def on_silences(folder: Path) -> AsyncIterator[Stage]:
    """The silences of our own journal."""
    journal = Journal(folder / "journal.sqlite")

    def loaded() -> Memory:
        memory = Memory()
        memory.load(journal)
        return memory

    async def world():
        return loaded().silenced("service:web", time.time()) is not None

    def again():
        memory = loaded()

        def put(kind: str, subject: str, body: dict) -> None:
            memory.apply(journal.append(kind, subject, body, ts=time.time()))

        own = OwnSilences(memory, put, time.time)
        return act_of("silence", own, **{"for": "1h", "reason": "we work there"})

    yield Stage(again(), step("silence", "service:web"), world, again=again)
    journal.close()


@contextlib.asynccontextmanager
async def on_asking(folder: Path) -> AsyncIterator[Stage]:
    """Somebody who says yes at once, by way of our own journal."""
    journal = Journal(folder / "journal.sqlite")
    told = Told()

    async def world():
        return list(told.keys)

    def again():
        memory = Memory()
        memory.load(journal)

        def put(kind: str, subject: str, body: dict) -> None:
            memory.apply(journal.append(kind, subject, body, ts=time.time()))
            if kind == "question":
                put("reply", subject, {"person": "alice", "values": {"go": True}})

        return act_of("ask", OwnQuestions(memory, put, told.write, time.time), text="go on?")

    yield Stage(again(), step("ask", "service:web"), world, invisible=True, again=again)
    journal.close()


STAGES = {
    "ask": on_asking,
    "attach_replica": on_balancer(
        "attach_replica", {"address": "10.0.0.9:80"}, "replica:web/4", address="10.0.0.4:80"
    ),
    "collect": on_host("collect", what=["cpu", "memory"]),
    "cordon_node": on_nodes("cordon_node"),
    "deploy_backup": on_models("deploy_backup", {"feature": "area"}),
    "detach_replica": on_balancer("detach_replica", {"address": "10.0.0.9:80"}),
    "diagnose_gpu": on_cards("diagnose_gpu", "gpu:GPU-1", invisible=True),
    "drain": on_balancer("drain", {"state": "maint"}),
    "drain_node": on_nodes("drain_node"),
    "http_call": on_interface,
    "kill_process": on_group("kill_process", grace=0.5),
    "hold_retraining": on_models("hold_retraining", reason="bad data"),
    "notify": on_people("notify"),
    "page": on_people("page"),
    "pause_process": on_group("pause_process"),
    "promote": on_models("promote", version="2"),
    "prune": on_old_files("prune"),
    "quarantine": on_old_files("quarantine"),
    "reboot": on_cards("reboot", "host:web-1", wait=0.0),
    "release_retraining": on_held_models,
    "reset_gpu": on_cards("reset_gpu", "gpu:GPU-1"),
    "restart": on_units,
    "retrain": on_trainer,
    "roll_back": on_models("roll_back"),
    "rollout_restart": on_rollouts("rollout_restart"),
    "rollout_undo": on_rollouts("rollout_undo"),
    "run_command": on_command,
    "scale": on_fleet,
    "set_flag": on_settings("set_flag", "new_ui", "dark", flag="new_ui", value=False),
    "set_limit": on_settings("set_limit", "memory_bytes", 1e9, limit="memory_bytes", times=0.5),
    "set_priority": on_group("set_priority"),
    "shift_traffic": on_balancer("shift_traffic", {"weight": 7}, weight="50%"),
    "silence": on_silences,
    "uncordon": on_balancer("uncordon", {"state": "maint"}, first="drain"),
    "uncordon_node": on_nodes("uncordon_node", closed=True),
    "wait": on_host("wait", time=0.0),
}
ACTION_CHECKS = [check.name for check in check_action(lambda: None)]  # type: ignore[arg-type,return-value]


# ---- the tables are whole


def test_every_connector_has_a_stage_or_a_reason():
    assert set(SOURCES) | set(NO_SOURCE) == set(registry.connector)
    assert not set(SOURCES) & set(NO_SOURCE)
    for name in NO_SOURCE:
        assert not hasattr(registry.connector.get(name), "poll"), f"{name} is a source now"


def test_every_action_has_a_stage():
    assert set(STAGES) == set(registry.action)


@linux
@pytest.mark.parametrize("name", STAGES)
async def test_every_stage_has_another_life(name, tmp_path):
    async with STAGES[name](tmp_path) as stage:
        assert stage.again is not None
        assert type(stage.again()) is type(stage.act)


def test_every_exemption_has_its_reason_and_its_plug_in():
    known = {*registry.action, *registry.connector}
    checks = {*ACTION_CHECKS, *SOURCE_CHECKS}
    for (plug_in, check), reason in EXEMPT.items():
        assert plug_in in known
        assert check in checks
        assert len(reason.split()) > 5


# ---- every plug-in x every check


@linux
@pytest.mark.parametrize("name", SOURCES)
async def test_source(name, tmp_path):
    """All checks of one source on one world: what they look at may take seconds to start."""
    faults = []
    with SOURCES[name](World(tmp_path)) as config:
        made = iter(range(100))
        checks = check_source(
            lambda: build(name, config, tmp_path / str(next(made))), name=name, close=close
        )
        assert isinstance(build(name, config, tmp_path / "other"), Source)
        for check in checks:
            fault = await check.fault()
            if (name, check.name) in EXEMPT:
                assert fault is not None, f"{name} keeps {check.name}: its exemption can go"
            elif fault is not None:
                faults.append(fault)
    assert not faults, "\n".join(faults)


@linux
@pytest.mark.parametrize("check", ACTION_CHECKS)
@pytest.mark.parametrize("name", STAGES)
async def test_action(name, check, tmp_path):
    made = iter(range(100))
    checks = check_action(lambda: STAGES[name](_fresh(tmp_path / str(next(made)))))
    await holds(name, next(one for one in checks if one.name == check))


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def holds(name: str, check: Check) -> None:
    if (name, check.name) not in EXEMPT:
        await check.run()
        return
    fault = await check.fault()
    assert fault is not None, f"{name} keeps {check.name}: its exemption can go"


async def test_page_tells_once_a_key(tmp_path):
    heard = tmp_path / "heard"
    code = f"import sys; open({str(heard)!r}, 'a').write(sys.stdin.read().strip() + chr(10))"
    page = build("page", {"command": [sys.executable, "-c", code]}, tmp_path)
    assert isinstance(page, Notifier)
    note = Note("k1", 1.0, "page", "disk full", "really")
    await page.notify(note)
    await page.notify(note)
    await page.notify(dataclasses.replace(note, key="k2"))
    assert [json.loads(line)["key"] for line in heard.read_text().splitlines()] == ["k1", "k2"]


def test_predictions_is_a_feed_and_a_receiver(tmp_path):
    made = build("predictions", {"path": tmp_path / "log"}, tmp_path)
    assert isinstance(made, Feed)
    assert isinstance(made, BulkReceiver)


# ---- the checks themselves can fail: a plug-in that breaks each demand, and what is said of it


async def verdicts(checks) -> dict[str, str | None]:
    return {check.name: await check.fault() for check in checks}


class Sloppy:
    """A source that breaks every demand."""

    interval_s = 0.0
    slow = False

    async def poll(self):
        if self.slow:
            time.sleep(1.2)  # noqa: ASYNC251  # this is what it is accused of
        host = Entity("gpu", "GPU-1")
        series = (
            Series("host.nonsense_count", host),
            Series("host.load1_count", host, (("b", "1"), ("a", ""))),
        )
        return Frame("me", 5.0, series, np.array([np.inf, 1.0]))


async def test_a_sloppy_source_is_found_out():
    said = await verdicts(check_source(Sloppy, name="sloppy"))
    assert said["interval"] == "interval: interval_s is 0.0"
    assert "infinite: host.nonsense_count" in said["shape"]
    assert "stands before" in said["sorted"]
    assert said["named"] == "named: it calls itself 'me', not 'sloppy'"
    assert "nobody defined host.nonsense_count" in said["signals"]
    assert "labels: host.load1_count carries" in said["labels"]
    assert "2 equal series came as another tuple" in said["same_table"]
    assert "before the first" in said["time_goes_on"]


class Impossible(Sloppy):
    """A source that measures what can not be."""

    async def poll(self):
        series = (Series("host.cpu_busy_ratio", Entity("host", "h")),)
        return Frame("sloppy", time.time(), series, np.array([1.4]))


async def test_a_source_that_measures_what_can_not_be_is_found_out():
    said = await verdicts(check_source(Impossible, name="sloppy"))
    assert said["signals"] == "signals: host.cpu_busy_ratio{host:h} is 1.4, possible is 0 to 1"


async def test_a_source_that_holds_up_the_others_is_found_out(monkeypatch):
    monkeypatch.setattr(Sloppy, "slow", True)
    check = next(c for c in check_source(Sloppy, name="sloppy") if c.name == "in_turn")
    assert "nothing else could run for 1." in await check.fault()


class Careless:
    """An action that acts when it only should look, acts twice, and puts nothing back."""

    effect = "strong"
    ability = None
    reversible = True
    shared = False
    n = 0

    async def observe(self, step):
        self.n += 1
        return {"n": {1, 2}}

    def reached(self, step, seen):
        return True

    async def run(self, step):
        self.n += 10
        return Done("", {"n": self.n}, {"n": object()})

    async def undo(self, step, done):
        return Done("put back")


async def test_a_careless_action_is_found_out():
    @contextlib.asynccontextmanager
    async def stage():
        act = Careless()

        async def world():
            return act.n

        async def disturb():
            act.n = 100

        yield Stage(act, step("careless", "host:web-1"), world, disturb)

    said = await verdicts(check_action(stage))
    assert "effect is 'strong'" in said["declared"]
    assert "observe changed the world from 0 to 2" in said["observing_is_free"]
    assert all(said[name] is not None for name in said if name != "undo_of_nothing")


class Forgetful:
    """An action that knows what it has done only as long as it lives, and puts back over whatever it finds."""

    effect = "mutating"
    ability = None
    reversible = True
    shared = False

    class Params(Model):
        """None."""

    def __init__(self, world):
        self.world = world
        self.did = set()

    async def observe(self, step):
        return {"did": step.key in self.did}

    def reached(self, step, seen):
        return seen["did"]

    async def run(self, step):
        if step.dry_run:
            return Done("would add one")
        if step.key not in self.did:
            self.world["n"] += 1
        self.did.add(step.key)
        act = Change(1.0, Entity("host", "web-1"), "act", "", "", step.by)
        return Done("added one", {}, {"n": 0}, act)

    async def undo(self, step, done):
        self.world["n"] = done.get("n", self.world["n"])
        return Done("put back")


async def test_what_is_known_only_in_memory_and_an_undo_over_others_are_found_out():
    @contextlib.asynccontextmanager
    async def stage(*, reborn: bool = True):
        world = {"n": 0}

        async def look():
            return world["n"]

        async def meddle():
            world["n"] = 7

        again = (lambda: Forgetful(world)) if reborn else None
        yield Stage(
            Forgetful(world), step("forgetful", "host:web-1"), look, meddle=meddle, again=again
        )

    said = await verdicts(check_action(stage))
    assert {name for name, fault in said.items() if fault} == {
        "reached", "twice_is_once", "others_before_undo",
    }  # fmt: skip
    assert "after a restart changed the world from 1 to 2" in said["twice_is_once"]
    assert "somebody else had changed it, and it said: put back" in said["others_before_undo"]
    said = await verdicts(check_action(lambda: stage(reborn=False)))
    assert said["twice_is_once"] is None  # nobody looked


async def test_an_undo_without_what_it_needs_is_found_out():
    class Bare(Forgetful):
        async def run(self, step):
            return dataclasses.replace(await super().run(step), undo={})

    class Both(Forgetful):
        stays = "it does no harm"

    class Stays(Both):
        undo = None

        async def run(self, step):
            return dataclasses.replace(await super().run(step), undo={})

    async def said(cls):
        @contextlib.asynccontextmanager
        async def stage():
            world = {"n": 0}

            async def look():
                return world["n"]

            yield Stage(cls(world), step("forgetful", "host:web-1"), look)

        return {name: f for name, f in (await verdicts(check_action(stage))).items() if f}

    assert "leaves nothing by which" in (await said(Bare))["undo"]
    assert "says that what it did stays" in (await said(Both))["declared"]
    assert await said(Stays) == {}


async def test_a_refusal_is_told_as_what_it_is():
    async def run():
        raise Refused("no")

    assert await Check("x", "y", run).fault() == "x: raised Refused: no"
    assert issubclass(Broken, AgentError)
