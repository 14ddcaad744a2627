"""Every connector x every ability that it offers x the checks of that ability, over its side; real servers: tests/live.

A new connector with an ability needs one line in a table below: how to build it over a side. What no check is made for
stands in `ELSEWHERE` or `NO_CHECK` with its reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from docker_side import engine
from kubernetes_nodes_side import NodePool
from kubernetes_side import NAMESPACE, serving
from kubernetes_workload_side import Workload
from mlflow_side import People, stand_in
from relay import FATES, relayed
from test_flag_http import Service
from test_fleet_http import Platform
from test_systemd import SYSTEMCTL
from training_side import REPORT, HttpSide, KubeflowSide, KubernetesSide, running

from agent import registry
from agent.abilities import methods
from agent.errors import Refused, Unavailable
from agent.testing import (
    CUT,
    DEEDS,
    GONE,
    LAST,
    SETTINGS,
    Ground,
    check_deed,
    check_setting,
)
from connectors import docker, fleet_http, kubernetes, systemd

registry.load()
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sides of Linux")

WEB, SHOP = "service:web", "service:shop"
FILES = frozenset({GONE})
REFUSED = (Refused,)
"""As what a file, folder or program is told that is not there: waiting does not bring it back, a person does."""
GPU = "gpu:GPU-00000000-0000-0000-0000-000000000000"


def built(name: str, config: dict, state: Path | None = None):
    cls = registry.connector.get(name)
    kept = {"state": state} if "state" in inspect.signature(cls).parameters else {}
    return cls(name, cls.Config(**config), **kept)


@contextlib.asynccontextmanager
async def lives(name: str, config: dict, state: Path | None = None) -> AsyncIterator:
    """Give a function that builds a connector, each time as after a restart."""
    made = []

    def again():
        made.append(built(name, config, state))
        return made[-1]

    try:
        yield again
    finally:
        for one in made:
            end = getattr(one, "close", None)
            done = end() if end is not None else None
            if inspect.isawaitable(done):
                await done


def fading(path: Path):
    """Return how a file or folder is moved away, and comes back."""
    aside = path.with_name(f"{path.name}.aside")

    def move(*, away: bool) -> None:
        if away:
            path.rename(aside)
        elif aside.exists():
            aside.rename(path)

    async def fate(what: str) -> None:
        move(away=what == GONE)

    return fate


def reads(path: Path):
    def world() -> str:
        return path.read_text()

    return world


def counts(path: Path, word: str = ""):
    """Count the lines of a file that have a word."""

    def world() -> int:
        lines = path.read_text().splitlines() if path.exists() else []
        return sum(word in line for line in lines)

    return world


@contextlib.contextmanager
def answering(handler: type, **attributes) -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        vars(made).update(attributes)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


# ---- docker

MIB = 1 << 20


@contextlib.asynccontextmanager
async def on_docker(folder: Path) -> AsyncIterator:
    with engine(folder) as (side, path), patch.object(docker, "_LOOK_S", 0.01):
        for n, status in ((1, "running"), (2, "running"), (3, "exited")):
            side.add(f"web-{n}", status, Memory=512 * MIB)
        async with relayed(path, folder) as relay:
            config = {"service": "web", "labels": {"app": "web"}, "socket": relay.path}
            config |= {"timeout": 1, "wait": 0.3}
            async with lives("docker", config) as again:
                yield side, relay, again


@contextlib.asynccontextmanager
async def docker_scaler(folder: Path) -> AsyncIterator[Ground]:
    async with on_docker(folder) as (side, relay, again):

        def world():
            return [side.state(f"web-{n}") for n in (1, 2, 3)]

        yield Ground(again(), WEB, SHOP, WEB, (2, 3, 1), world, relay.fate, FATES, again)


@contextlib.asynccontextmanager
async def docker_limiter(folder: Path) -> AsyncIterator[Ground]:
    async with on_docker(folder) as (side, relay, again):

        def world():
            return [one["HostConfig"]["Memory"] for one in side.containers.values()]

        yield Ground(
            again(), "replica:web/web-1", "replica:shop/a-1", "replica:web/",
            (512.0 * MIB, 256.0 * MIB, 384.0 * MIB), world, relay.fate, FATES, again, "memory_bytes",
        )  # fmt: skip


@contextlib.asynccontextmanager
async def docker_restarter(folder: Path) -> AsyncIterator[Ground]:
    async with on_docker(folder) as (side, relay, again):

        def world():
            return sum("/restart" in asked for asked in side.asked)

        births = tuple(one.birth for one in await again().units(WEB))
        yield Ground(again(), WEB, SHOP, WEB, births, world, relay.fate, FATES, again)


# ---- replicas and settings behind HTTP


class OneByOne(Service):
    """Two changes at once are two, one after the other, as a service does that has ETags."""

    turn = threading.Lock()

    def change(self):
        with self.turn:
            super().change()


@contextlib.asynccontextmanager
async def on_fleet(folder: Path) -> AsyncIterator:
    side_of = {
        "replicas": 3, "lives": dict.fromkeys("abc", 1), "version": 1, "tokens": [], "tags": True, "heals": True,
        "meanwhile": False, "failing": False, "status": 0,
    }  # fmt: skip
    with answering(Platform, **side_of) as side, patch.object(fleet_http, "_LOOK_S", 0.01):
        async with relayed(side.server_port, folder) as relay:
            config = {
                "service": "web", "url": f"{relay.url}/services/web", "max_replicas": 6, "timeout": 1, "wait": 0.3,
                "replicas": "spec.replicas", "ready": "status.ready",
            }  # fmt: skip
            async with lives("fleet_http", config) as again:
                yield side, relay, again


@contextlib.asynccontextmanager
async def fleet_scaler(folder: Path) -> AsyncIterator[Ground]:
    async with on_fleet(folder) as (side, relay, again):

        def world():
            return side.replicas

        yield Ground(again(), WEB, SHOP, WEB, (3, 4, 2), world, relay.fate, FATES, again)


@contextlib.asynccontextmanager
async def fleet_restarter(folder: Path) -> AsyncIterator[Ground]:
    async with on_fleet(folder) as (side, relay, again):

        def world():
            return sum(side.lives.values()) - 3

        yield Ground(again(), WEB, SHOP, WEB, ("a-1", "b-1"), world, relay.fate, FATES, again)


def flag_http(
    whom: str, stranger: str, serves: str, values: tuple, what: str = "", path: str = "/config"
):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        side_of = {
            "data": {"new_ui": True, "reranker": "large", "max_batch": 16}, "tags": True, "bare": False,
            "meanwhile": False, "failing": False, "status": 0, "version": 1, "tokens": [],
        }  # fmt: skip
        with answering(OneByOne, **side_of) as side:
            async with relayed(side.server_port, folder) as relay:
                config = {
                    "service": "web",
                    "url": f"{relay.url}{path}",
                    "may": ["reranker", "max_batch"],
                }
                config |= {"timeout": 1}

                def world():
                    return dict(side.data)

                async with lives("flag_http", config) as again:
                    yield Ground(
                        again(),
                        whom,
                        stranger,
                        serves,
                        values,
                        world,
                        relay.fate,
                        FATES,
                        again,
                        what,
                    )

    return ground


def flag_file(whom: str, stranger: str, serves: str, values: tuple, what: str = ""):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        path = folder / "flags.json"
        path.write_text(
            json.dumps({"reranker": "large", "max_batch": 16, "other": [1]}, indent=2) + "\n"
        )
        config = {"service": "web", "path": path, "may": ["reranker", "max_batch"]}

        def world():
            return json.loads(path.read_text())

        async with lives("flag_file", config) as again:
            yield Ground(
                again(), whom, stranger, serves, values, world, fading(path), FILES, again, what,
                REFUSED,
            )  # fmt: skip

    return ground


FLAG = ("reranker", "new_ui", "reranker, max_batch", ("large", "small", None))
NUMBER = (WEB, SHOP, WEB, (16.0, 8.0, 32.0), "max_batch")


# ---- Kubernetes


@contextlib.asynccontextmanager
async def on_kubernetes(folder: Path) -> AsyncIterator:
    with (
        serving(Workload()) as side,
        patch.object(kubernetes, "_LOOK_S", 0.01),
        patch.dict(os.environ, {"K8S": side.token}),
    ):
        async with relayed(side.server_port, folder) as relay:
            config = {"service": "web", "workload": "deployment/web", "namespace": NAMESPACE}
            config |= {"url": relay.url, "token": "env:K8S", "timeout": 1, "wait": 0.3}
            async with lives("kubernetes", config) as again:
                yield side, relay, again


@contextlib.asynccontextmanager
async def kubernetes_scaler(folder: Path) -> AsyncIterator[Ground]:
    async with on_kubernetes(folder) as (side, relay, again):

        def world():
            return side.replicas

        yield Ground(again(), WEB, SHOP, WEB, (3, 4, 2), world, relay.fate, FATES, again)


@contextlib.asynccontextmanager
async def kubernetes_restarter(folder: Path) -> AsyncIterator[Ground]:
    async with on_kubernetes(folder) as (side, relay, again):

        def world():
            return len(side.evicted)

        yield Ground(again(), WEB, SHOP, WEB, ("uid-1", "uid-2"), world, relay.fate, FATES, again)


@contextlib.asynccontextmanager
async def kubernetes_limiter(folder: Path) -> AsyncIterator[Ground]:
    async with on_kubernetes(folder) as (side, relay, again):
        side.autoscaled(2, 6)

        def world():
            return side.hpa["spec"]["minReplicas"], side.hpa["spec"]["maxReplicas"]

        yield Ground(
            again(),
            WEB,
            SHOP,
            WEB,
            (6.0, 7.0, 8.0),
            world,
            relay.fate,
            FATES,
            again,
            "max_replicas_count",
        )


@contextlib.asynccontextmanager
async def kubernetes_rollouts(folder: Path) -> AsyncIterator[Ground]:
    async with on_kubernetes(folder) as (side, relay, again):
        for image in ("web:2", "web:3"):
            side.release(image)

        def world():
            return side.newest, json.dumps(side.template)

        values = ("web-rev3", "web-rev2", "web-rev1")
        yield Ground(again(), WEB, SHOP, WEB, values, world, relay.fate, FATES, again)


@contextlib.asynccontextmanager
async def kubernetes_rollouts_again(folder: Path) -> AsyncIterator[Ground]:
    async with on_kubernetes(folder) as (side, relay, again):

        def world():
            return len(side.history) - 1

        yield Ground(
            again(), WEB, SHOP, WEB, ("run-1/roll",), world, relay.fate, FATES, again, side.newest
        )


def nodes(values: tuple):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        with serving(NodePool()) as side, patch.dict(os.environ, {"K8S": side.token}):
            side.pod("web-1", "gpu-1")
            side.pod("web-2", "gpu-1")
            async with relayed(side.server_port, folder) as relay:
                config = {"url": relay.url, "token": "env:K8S", "timeout": 1, "nodes": ["gpu-*"]}

                def closed():
                    return [bool(n["spec"].get("unschedulable")) for n in side.nodes.values()]

                def evicted():
                    return len(side.evicted)

                world = closed if values == (False, True) else evicted
                async with lives("kubernetes_nodes", config) as again:
                    yield Ground(
                        again(),
                        "host:gpu-1",
                        "host:db-1",
                        "gpu-*",
                        values,
                        world,
                        relay.fate,
                        FATES,
                        again,
                    )

    return ground


# ---- this host


def on_systemd(values: tuple):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        script, log = folder / "systemctl", folder / "log"
        last = '[ "$verb" = show ] || [ ! -e last ] || touch down\n'
        script.write_text(SYSTEMCTL.format(folder=folder) + last)
        script.chmod(0o755)
        states = [folder / f"web@{n}.service" for n in (1, 2, 3)]
        for unit, state in zip(states, ("active 11", "active 22", "inactive 0"), strict=True):
            unit.write_text(f"{state}\n")

        def running_now():
            return [unit.read_text().split()[0] for unit in states]

        async def fate(what: str) -> None:
            for file, on in (("down", what == GONE), ("last", what == LAST)):
                (folder / file).touch() if on else (folder / file).unlink(missing_ok=True)

        config = {
            "service": "web", "units": [u.name for u in states], "systemctl": str(script), "wait": 2,
        }  # fmt: skip
        world = running_now if values[0] == 2 else counts(log, "restart --")
        with patch.object(systemd, "_LOOK_S", 0.01):
            async with lives("systemd", config) as again:
                yield Ground(
                    again(), WEB, SHOP, WEB, values, world, fate, frozenset({GONE, LAST}), again
                )

    return ground


@contextlib.asynccontextmanager
async def cgroup_limiter(folder: Path) -> AsyncIterator[Ground]:
    group = folder / "system.slice/web.service"
    group.mkdir(parents=True)
    (group / "pids.max").write_text("4096\n")

    def world():
        return (group / "pids.max").read_text().strip()

    config = {"groups": {"web": "system.slice/web.service"}, "root": folder}
    async with lives("cgroup", config) as again:
        yield Ground(
            again(), WEB, SHOP, "only of web", (4096.0, 2048.0, 1024.0), world, fading(group), FILES, again,
            "pids_count",
        )  # fmt: skip


@pytest.fixture(scope="module")
def nvml(tmp_path_factory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make the stand-in for NVML with")
    pytest.importorskip("pynvml", reason="needs the extra `gpu`")
    made = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", made / "libnvidia-ml.so.1", source], check=True
    )
    return made


@contextlib.asynccontextmanager
async def on_gpu(folder: Path) -> AsyncIterator:
    state, smi = folder / "state", folder / "nvidia-smi"
    state.write_text("healthy")
    smi.write_text(f'#!/bin/sh\necho "$@" >> {folder}/smi\n')
    smi.chmod(0o755)

    async def fate(what: str) -> None:
        state.write_text("failing" if what == GONE else "healthy")

    config = {"library": os.environ["NVML_FOLDER"], "nvidia_smi": str(smi)}
    stub = {"NVML_STUB": str(state), "NVML_STUB_POWER": str(folder / "power")}
    with patch.dict(os.environ, stub):
        async with lives("gpu_control", config, folder) as again:
            yield fate, again


@contextlib.asynccontextmanager
async def gpu_limiter(folder: Path) -> AsyncIterator[Ground]:
    (folder / "power").write_text("700000")
    async with on_gpu(folder) as (fate, again):
        yield Ground(
            again(), GPU, "host:web-1", "gpu:GPU-", (700.0, 500.0, 300.0), reads(folder / "power"), fate,
            FILES, again, "power_watts",
        )  # fmt: skip


@contextlib.asynccontextmanager
async def gpu_care(folder: Path) -> AsyncIterator[Ground]:
    if os.geteuid() != 0:
        pytest.skip("resets take root")
    async with on_gpu(folder) as (fate, again):
        yield Ground(
            again(), GPU, "host:web-1", "gpu:GPU-", ("run-1/reset", "run-2/reset"), counts(folder / "smi"),
            fate, frozenset(), again,
        )  # fmt: skip


def for_all(path: Path) -> Path:
    """Let every user of this host at a folder, or an empty file."""
    path.touch()
    path.chmod(0o777)
    return path


@contextlib.asynccontextmanager
async def commands(folder: Path) -> AsyncIterator[Ground]:
    runs, script = for_all(for_all(folder) / "runs"), folder / "count"
    script.write_text(f"#!/bin/sh\necho x >> {runs}\n")
    script.chmod(0o755)
    config = {
        "run": {"count": {"argv": [str(script)]}}, "user": "nobody" if os.geteuid() == 0 else "",
    }  # fmt: skip
    async with lives("commands", config, folder / "state") as again:
        yield Ground(
            again(), "count", "reboot", "allows count", ("run-1/x", "run-2/x"), counts(runs), fading(script),
            FILES, again, lost=REFUSED,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def old_files(folder: Path) -> AsyncIterator[Ground]:
    logs = folder / "logs"
    logs.mkdir()
    for n in range(3):
        (logs / f"app.log.{n}").write_text("x")
        os.utime(logs / f"app.log.{n}", (n, n))

    def world():
        left = len(list(logs.glob("app.log.*")))
        return {3: 0, 1: 1}.get(left, f"{left} files left")

    rule = {"path": logs, "names": ["*.log.*"], "older": "1d", "keep": 1}
    async with lives("old_files", {"rules": {"logs": rule}}, folder / "state") as again:
        yield Ground(
            again(), "logs", "data", "allows logs", ("run-1/x",), world, fading(logs), FILES, again,
            lost=REFUSED,
        )  # fmt: skip


# ---- models and trainings


@contextlib.asynccontextmanager
async def on_directory(folder: Path) -> AsyncIterator:
    root = folder / "models"
    for version in "123":
        (root / "fraud" / version).mkdir(parents=True)
        about = {"version": version, "role": "candidate", "features": ["age"], "trained_at": 5.0}
        (root / "fraud" / version / "metadata.json").write_text(json.dumps(about))
    pointer = {"version": "3", "previous": ["2", "1"], "changed": 5.0, "by": "alice"}
    (root / "fraud" / "champion.json").write_text(json.dumps(pointer))
    async with lives("model_directory", {"path": root}, folder / "state") as again:
        yield root, again


@contextlib.asynccontextmanager
async def directory_models(folder: Path) -> AsyncIterator[Ground]:
    async with on_directory(folder) as (root, again):

        def world():
            return json.loads((root / "fraud" / "champion.json").read_text())["version"]

        yield Ground(
            again(), "fraud", "churn", str(root), ("3", "1", "2"), world, fading(root), FILES, again,
            lost=REFUSED,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def directory_holds(folder: Path) -> AsyncIterator[Ground]:
    async with on_directory(folder) as (root, again):
        world = counts(root / "fraud" / "RETRAINING_HELD", "by: run-1")
        yield Ground(
            again(), "fraud", "churn", str(root), ("run-1/hold",), world, fading(root), FILES, again,
            lost=REFUSED,
        )  # fmt: skip


def mlflow(values: tuple):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        with stand_in() as side:
            People(side.url).fraud()
            async with relayed(side.server_port, folder) as relay:

                def pointer():
                    return side.models["fraud"]["aliases"]["champion"]

                def held():
                    return sum("by: run-1" in t for t in side.models["fraud"]["tags"].values())

                world = pointer if values[0] == "3" else held
                async with lives("mlflow", {"url": relay.url, "timeout": 1}, folder) as again:
                    yield Ground(
                        again(),
                        "fraud",
                        "churn",
                        relay.url,
                        values,
                        world,
                        relay.fate,
                        FATES,
                        again,
                    )

    return ground


def quick(side: type) -> type:
    """Return a side whose trainings are over as soon as they have begun."""

    class Quick(side):
        def take(self, name, **about):
            super().take(name, **about)
            self.finish()

    return Quick


def training(kind: type):
    @contextlib.asynccontextmanager
    async def ground(folder: Path) -> AsyncIterator[Ground]:
        with running(quick(kind)()) as side:
            async with relayed(side.server_port, folder) as relay:
                side.url = relay.url

                def world():
                    return len(side.runs)

                config = {
                    "model": "fraud",
                    "every": 0.02,
                    "timeout": 1,
                    "limit": 0.5,
                    **side.config(),
                }
                async with lives(side.use, config, folder) as again:
                    yield Ground(
                        again(), "fraud", "churn", "trains fraud", ("run-1/train", "run-2/train"), world,
                        relay.fate, FATES, again,
                    )  # fmt: skip

    return ground


@contextlib.asynccontextmanager
async def trainer(folder: Path) -> AsyncIterator[Ground]:
    runs, script = folder / "runs", folder / "train"
    script.write_text(f"#!/bin/sh\necho x >> {runs}\necho '{json.dumps(REPORT)}'\n")
    script.chmod(0o755)
    config = {"model": "fraud", "command": [str(script)], "timeout": 30}
    async with lives("trainer", config, folder / "state") as again:
        yield Ground(
            again(), "fraud", "churn", "trains fraud", ("run-1/train", "run-2/train"), counts(runs),
            fading(script), FILES, again, lost=REFUSED,
        )  # fmt: skip


class Counts(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.calls.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        """Say nothing on standard error."""


@contextlib.asynccontextmanager
async def http_calls(folder: Path) -> AsyncIterator[Ground]:
    with answering(Counts, calls=[]) as side:
        async with relayed(side.server_port, folder) as relay:

            def world():
                return len(side.calls)

            config = {"allow": [{"url": f"{relay.url}/rebuild", "methods": ["POST"]}]}
            async with lives("http_calls", config, folder / "state") as again:
                yield Ground(
                    again(), f"{relay.url}/rebuild", f"{relay.url}/other", "add it to `allow`",
                    ("run-1/x", "run-2/x"), world, relay.fate, FATES, again,
                )  # fmt: skip


# ---- the tables

SETTING_GROUNDS = {
    ("cgroup", "Limiter"): cgroup_limiter,
    ("docker", "Limiter"): docker_limiter,
    ("docker", "Scaler"): docker_scaler,
    ("flag_file", "Flags"): flag_file(*FLAG),
    ("flag_file", "Limiter"): flag_file(*NUMBER),
    ("flag_http", "Flags"): flag_http(*FLAG, path="/flags/{name}"),
    ("flag_http", "Limiter"): flag_http(*NUMBER),
    ("fleet_http", "Scaler"): fleet_scaler,
    ("gpu_control", "Limiter"): gpu_limiter,
    ("kubernetes", "Limiter"): kubernetes_limiter,
    ("kubernetes", "Rollouts"): kubernetes_rollouts,
    ("kubernetes", "Scaler"): kubernetes_scaler,
    ("kubernetes_nodes", "Nodes"): nodes((False, True)),
    ("mlflow", "Models"): mlflow(("3", "1", "2")),
    ("model_directory", "Models"): directory_models,
    ("systemd", "Scaler"): on_systemd((2, 3, 1)),
}
DEED_GROUNDS = {
    ("commands", "Commands"): commands,
    ("docker", "Restarter"): docker_restarter,
    ("fleet_http", "Restarter"): fleet_restarter,
    ("gpu_control", "GpuCare"): gpu_care,
    ("http_calls", "Calls"): http_calls,
    ("kubernetes", "Restarter"): kubernetes_restarter,
    ("kubernetes", "Rollouts"): kubernetes_rollouts_again,
    ("kubernetes_nodes", "Nodes"): nodes(("uid-web-1", "uid-web-2")),
    ("mlflow", "Models"): mlflow(("run-1/hold",)),
    ("model_directory", "Models"): directory_holds,
    ("old_files", "Pruner"): old_files,
    ("systemd", "Restarter"): on_systemd((f"{11:032x}", f"{22:032x}")),
    ("trainer", "Trainer"): trainer,
    ("trainer_http", "Trainer"): training(HttpSide),
    ("trainer_kubeflow", "Trainer"): training(KubeflowSide),
    ("trainer_kubernetes", "Trainer"): training(KubernetesSide),
}
LIVE = "over a real server: tests/live/test_abilities_live.py"
ELSEWHERE = {
    **dict.fromkeys([("gunicorn", "Restarter"), ("gunicorn", "Scaler")], LIVE),
    **dict.fromkeys([("haproxy", a) for a in ("Limiter", "Roster", "Traffic")], LIVE),
    ("alertmanager", "Silencer"): LIVE,
}
"""(connector, ability) -> where the checks are run."""
NO_CHECK = {
    "Machine": "a reboot has neither a key nor a value that is expected: tests/connectors/test_machine.py",
    "Notifier": "a contract of its own, check_notifier: tests/connectors/test_notifiers.py",
    "Asker": "only our own journal asks people: on_asking in tests/test_contracts.py",
}
"""Ability -> why it has no checks here."""
EXEMPT: dict[tuple[str, str, str], tuple[str, str]] = {}
"""(connector, ability, check) -> why it does not hold, and what is said then."""


def ports() -> dict[str, type]:
    abilities = (registry.action.get(name).ability for name in registry.action)
    return {port.__name__: port for port in abilities if port is not None}


def offered() -> set[tuple[str, str]]:
    return {
        (name, port)
        for port, contract in ports().items()
        for name in registry.connector
        if all(hasattr(registry.connector.get(name), method) for method in methods(contract))
    }


def test_every_ability_has_checks_or_a_reason():
    assert {*SETTINGS, *DEEDS} | set(NO_CHECK) == set(ports())
    assert not {*SETTINGS, *DEEDS} & set(NO_CHECK)


@pytest.mark.parametrize(("forms", "grounds"), [(SETTINGS, SETTING_GROUNDS), (DEEDS, DEED_GROUNDS)])
def test_every_connector_with_an_ability_has_a_ground_or_a_reason(forms, grounds):
    wanted = {(name, port) for name, port in offered() if port in forms}
    assert wanted == set(grounds) | {key for key in ELSEWHERE if key[1] in forms}
    assert not set(grounds) & set(ELSEWHERE)


def test_where_it_says_that_it_is_checked_it_is():
    root = Path(__file__).parents[2]
    for (name, _), reason in ELSEWHERE.items():
        assert name in (root / reason.rpartition(": ")[2]).read_text()
    for reason in NO_CHECK.values():
        assert (root / reason.rpartition(" ")[2]).exists()


# ---- every connector x every ability x every check


@pytest.mark.parametrize(("connector", "ability"), SETTING_GROUNDS)
async def test_setting(connector, ability, request, monkeypatch):
    if connector == "gpu_control":
        monkeypatch.setenv("NVML_FOLDER", str(request.getfixturevalue("nvml")))
    await holds(check_setting, SETTING_GROUNDS, connector, ability)


@pytest.mark.parametrize(("connector", "ability"), DEED_GROUNDS)
async def test_deed(connector, ability, request, monkeypatch):
    if connector == "gpu_control":
        monkeypatch.setenv("NVML_FOLDER", str(request.getfixturevalue("nvml")))
    await holds(check_deed, DEED_GROUNDS, connector, ability)


async def holds(checks_of, grounds, connector: str, ability: str) -> None:
    """Run all checks of one ability, each on a ground of its own."""

    @contextlib.asynccontextmanager
    async def make():
        with tempfile.TemporaryDirectory(prefix="ability-") as folder:  # short: sockets lie there
            async with grounds[connector, ability](Path(folder)) as ground:
                assert isinstance(ground.connector, ports()[ability])
                yield ground

    faults = []
    for check in checks_of(ability, make):
        fault = await check.fault()
        reason, said = EXEMPT.get((connector, ability, check.name), ("", ""))
        if reason:
            assert said in (fault or ""), f"{connector} keeps {check.name}: its exemption can go"
        elif fault is not None:
            faults.append(fault)
    assert not faults, "\n".join(faults)


# ---- the checks themselves can fail


class Careless:
    """Serves everybody, overwrites what others have set, and says that all is done."""

    def __init__(self, side):
        self.side = side

    async def replicas(self, target):
        if self.side.gone:
            raise OSError("no route to host")
        return self.side.n

    async def set_replicas(self, target, n, expect):
        await asyncio.sleep(0)
        self.side.n = n + (n == 3)

    async def restart(self, service, birth):
        self.side.n += 1

    async def units(self, service):
        return [SimpleNamespace(birth="a")]

    async def describe(self):
        self.side.n += 1
        return [""]


class Hasty(Careless):
    """Is right as long as its side is; then it tells what it does not know."""

    async def replicas(self, target):
        if target != WEB:
            raise Refused(f"it runs {WEB}, not {target}")
        if self.side.gone:
            raise Unavailable("it is away")
        return self.side.n

    async def set_replicas(self, target, n, expect):
        now = await self.replicas(target)
        if now != expect:
            raise Refused(f"there are {now}, not {expect}")
        self.side.n = n
        self.side.gone = self.side.gone or bool(self.side.dies)
        await self.replicas(target)

    async def describe(self):
        return ["it may run some"]


def bare(cls, values, fates=FATES):
    @contextlib.asynccontextmanager
    async def make():
        side = SimpleNamespace(n=values[0] if values[0] == 2 else 0, gone=False, dies=False)

        def world():
            return side.n

        async def fate(what):
            side.gone, side.dies = what == GONE, what in {CUT, LAST}

        yield Ground(cls(side), WEB, SHOP, WEB, values, world, fate, fates, lambda: cls(side))

    return make


async def verdicts(checks) -> dict[str, str]:
    found = {check.name: await check.fault() for check in checks}
    return {name: fault for name, fault in found.items() if fault}


async def test_a_careless_setting_is_found_out():
    said = await verdicts(check_setting("Scaler", bare(Careless, (2, 3, 1))))
    assert said["strangers"].startswith("strangers: service:shop: no failure, wanted Refused")
    assert said["sets"] == "sets: 3 was set, and 4 is read"
    assert said["others"] == "others: it is 2, 1 was expected: no failure"
    assert said["at_once"].startswith("at_once: of two changes 2 were done")
    assert said["gone"] == "gone: raised OSError: no route to host"
    assert said["describes"] == "describes: it says ['']"
    assert set(said) == {"strangers", "sets", "others", "at_once", "gone", "cut_off", "describes"}


async def test_a_careless_deed_is_found_out():
    said = await verdicts(check_deed("Restarter", bare(Careless, ("a", "b"))))
    assert said["once"] == "once: it was done 2 times, wanted 1"
    assert said["told"] == "told: it was done, and is not seen"
    assert said["at_once"] == "at_once: it was done 2 times, wanted 1"
    assert said["gone"] == "gone: no failure"
    assert said["cut_off"] == "cut_off: cut: after a second try it was done 2 times"
    assert set(said) == {"strangers", "once", "told", "at_once", "gone", "cut_off", "describes"}


async def test_who_says_that_nothing_has_happened_when_it_has_is_found_out():
    said = await verdicts(check_setting("Scaler", bare(Hasty, (2, 3, 1))))
    assert said == {"cut_off": "cut_off: cut: it was done, and told as Unavailable (it is away)"}


async def test_a_side_that_can_not_go_is_not_asked_to():
    assert await verdicts(check_setting("Scaler", bare(Hasty, (2, 3, 1), frozenset()))) == {}
