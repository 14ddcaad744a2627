"""Containers as replicas, against a stand-in that speaks the Engine API on a Unix socket."""

import asyncio
import socket

import pytest
from docker_side import engine

from agent.errors import Refused, Unavailable, Uncertain
from connectors.docker import Docker

WEB = "service:web"


@pytest.fixture
async def stage(tmp_path):
    with engine(tmp_path) as (side, path):
        config = Docker.Config(service="web", labels={"app": "web"}, socket=path, wait=0.5, grace=0)
        docker = Docker("docker", config)
        yield side, docker
        await docker.close()
        await asyncio.sleep(0.01)


async def births(docker):
    return {one.replica: (one.birth, one.well) for one in await docker.units(WEB)}


async def test_what_runs_is_a_replica_and_what_has_other_labels_is_not(stage):
    side, docker = stage
    side.add("web-2", health=True)
    side.add("web-1")
    side.add("web-3", status="exited")
    side.add("db-1", labels={"app": "db"})
    found = await births(docker)
    assert list(found) == ["replica:web/web-1", "replica:web/web-2"]
    assert all(well for _, well in found.values())
    assert await docker.replicas(WEB) == 2
    with pytest.raises(Refused, match="docker runs service:web, not service:db"):
        await docker.units("service:db")


async def test_one_container_is_restarted_once_and_waited_for(stage):
    side, docker = stage
    side.add("web-1", health=True)
    side.add("web-2")
    before = await births(docker)
    birth, _ = before["replica:web/web-1"]
    await docker.restart(WEB, birth)
    after = await births(docker)
    assert after["replica:web/web-1"] != before["replica:web/web-1"]
    assert after["replica:web/web-2"] == before["replica:web/web-2"]
    with pytest.raises(Refused, match="no container of birth"):
        await docker.restart(WEB, birth)
    assert sum("/restart?t=0" in asked for asked in side.asked) == 1


async def test_one_that_does_not_get_well_is_uncertain(stage):
    side, docker = stage
    side.add("web-1", health=True)
    side.heals = False
    ((birth, _),) = (await births(docker)).values()
    with pytest.raises(Uncertain, match=r"web-1 is running \(unhealthy\) after 500 ms"):
        await docker.restart(WEB, birth)


async def test_scaling_starts_what_is_there_and_stops_the_last(stage):
    side, docker = stage
    for i in range(4):
        side.add(f"web-{i}", status="running" if i < 2 else "created")
    await docker.set_replicas(WEB, 4, 2)
    assert await docker.replicas(WEB) == 4
    await docker.set_replicas(WEB, 1, 4)
    assert [side.state(f"web-{i}") for i in range(4)] == ["running", "exited", "exited", "exited"]
    with pytest.raises(Refused, match="runs 1 container, not 3: changed by others"):
        await docker.set_replicas(WEB, 2, 3)
    for n in (0, 5):
        with pytest.raises(Refused, match="has 1 to 4 containers"):
            await docker.set_replicas(WEB, n, 1)


async def test_limits_are_changed_in_the_form_they_were_made_in(stage):
    side, docker = stage
    nano = side.add("web-1", NanoCpus=2_000_000_000, Memory=100 << 20, MemorySwap=150 << 20)
    side.add("web-2", CpuQuota=150_000, CpuPeriod=100_000)
    one, two = "replica:web/web-1", "replica:web/web-2"
    assert (await docker.limit(one, "cpu_cores"), await docker.limit(two, "cpu_cores")) == (
        2.0,
        1.5,
    )
    for target, was in ((one, 2.0), (two, 1.5)):
        wanted = await docker.nearest(target, "cpu_cores", 0.75)
        await docker.set_limit(target, "cpu_cores", wanted, was)
        assert await docker.limit(target, "cpu_cores") == 0.75
    # above memory and swap together: both move
    await docker.set_limit(one, "memory_bytes", float(300 << 20), float(100 << 20))
    assert side.containers[nano]["HostConfig"]["MemorySwap"] == 350 << 20
    with pytest.raises(Refused, match="changed by others"):
        await docker.set_limit(one, "memory_bytes", float(200 << 20), float(100 << 20))
    await docker.set_limit(one, "pids_count", 200.0, None)
    assert await docker.limit(one, "pids_count") == 200.0
    await docker.set_limit(one, "pids_count", None, 200.0)
    assert await docker.limit(one, "pids_count") is None


async def test_what_could_not_be_taken_back_or_would_kill_is_refused(stage):
    side, docker = stage
    id_ = side.add("web-1", Memory=100 << 20)
    side.used[id_] = 80 << 20
    one = "replica:web/web-1"
    with pytest.raises(Refused, match="has no limit cpu_cores, and Docker can not take one away"):
        await docker.nearest(one, "cpu_cores", 1.0)
    with pytest.raises(Refused, match="would kill it at once"):
        await docker.nearest(one, "memory_bytes", float(70 << 20))
    assert await docker.nearest(one, "memory_bytes", float(90 << 20)) == 90 << 20
    for target, name, says in (
        (one, "disk_bytes", "have no limit disk_bytes"), (WEB, "cpu_cores", "not service:web"),
        ("replica:web/web-9", "cpu_cores", "no container web-9"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=says):
            await docker.limit(target, name)


async def test_its_own_container_is_never_touched(stage, monkeypatch):
    side, docker = stage
    id_ = side.add("web-1")
    monkeypatch.setattr(socket, "gethostname", lambda: id_[:12])
    ((birth, _),) = (await births(docker)).values()
    with pytest.raises(Refused, match="the container that homeostat runs in: never touched"):
        await docker.restart(WEB, birth)
    assert not any(asked.startswith("POST") for asked in side.asked)


async def test_failures_say_what_may_have_happened(stage, tmp_path):
    side, docker = stage
    side.add("web-1")
    ((birth, _),) = (await births(docker)).values()
    for fault, error in ((500, Uncertain), (409, Refused)):
        side.fault = fault
        with pytest.raises(error, match="driver failed"):
            await docker.restart(WEB, birth)
    away = Docker(
        "d", Docker.Config(service="web", labels={"app": "web"}, socket=tmp_path / "none")
    )
    with pytest.raises(Unavailable, match="may we write to its socket"):
        await away.units(WEB)
    assert "does Docker run" in (await away.describe())[0]
    await away.close()


async def test_describe_tells_what_there_is(stage):
    side, docker = stage
    assert "no container has all of the labels" in (await docker.describe())[1]
    side.add("web-1", health=True, NanoCpus=500_000_000)
    side.add("web-2", status="exited")
    first, *rest = await docker.describe()
    assert first.startswith("Docker 20.10.24 on ")
    assert rest == ["web-1: running, healthy, cpu_cores 0.5", "web-2: exited"]
