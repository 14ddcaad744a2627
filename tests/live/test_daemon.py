"""The real daemon under bad weather: wrong config, bad sources, a full disk, a clock that jumps, kill -9.

Most tests run it in a process of its own over a temporary state folder, as a service manager would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import time

import httpx
import numpy as np
import pytest
from daemon_process import Running, free_port, wait_for

from agent import registry
from agent.config import load
from agent.daemon import Daemon
from agent.errors import Unavailable
from agent.journal import JournalReader
from agent.model import Entity, Frame, Series
from agent.units import Model

pytestmark = pytest.mark.live


LIMIT = """
objectives:
  - {signal: host.uptime_seconds, max: 1s, for: 1s}
diagnose: {settle: 1s, resolve_after: 5s}
"""
"""An objective that this host breaks for ever: an incident without waiting for trouble."""


def test_a_wrong_config_does_not_start_and_every_fault_has_place_and_remedy(running):
    one = running(
        "moed: auto\nservices:\n  - {id: a, objectives: [{signal: host.cpu_busy, max: 1}]}\n"
    ).start(ready=False)
    assert one.process.wait(20) == 2
    said = one.log.read_text()
    assert f"{one.config}:3:" in said
    assert "mode" in said
    assert f"{one.config}:5:" in said
    assert "host.cpu_busy_ratio" in said
    assert "Traceback" not in said


def test_it_serves_console_metrics_and_health_and_watches_two_hundred_series(running):
    one = running().start()
    wait_for("series", lambda: one.get("/api/status").json()["usage"]["series"] >= 200)
    status = one.get("/api/status").json()
    assert status["mode"] == "suggest"
    assert status["manages"] == 0
    assert status["usage"]["modules_heavy"] == []
    assert status["usage"]["bugs"] == {}
    assert "<html" in one.get("/").text
    # a share of the CPU needs two readings
    wait_for(
        "two readings", lambda: "# HELP homeostat_host_cpu_busy_ratio" in one.get("/metrics").text
    )
    metrics = one.get("/metrics").text
    assert "# TYPE homeostat_host_cpu_busy_ratio gauge" in metrics
    assert one.get("/health").json()["status"] in {"ok", "degraded"}
    assert one.kill(signal.SIGTERM) == 0
    assert [e.subject for e in one.journal("daemon")] == ["started", "stopped"]


def test_an_open_incident_is_open_after_kill_nine_and_is_the_same(running):
    one = running(LIMIT).start()
    before = wait_for("incident", lambda: one.get("/api/incidents").json())
    one.kill()
    one.start()
    after = wait_for("incident again", lambda: one.get("/api/incidents").json())
    assert [i["id"] for i in after] == [i["id"] for i in before]
    assert len({e.subject for e in one.journal("incident")}) == 1


def test_two_daemons_do_not_share_a_state_folder(running, tmp_path):
    one = running().start()
    (tmp_path / "two").mkdir()
    two = Running(tmp_path / "two", "", state=one.state)
    two.start(ready=False)
    assert two.process.wait(20) == 1
    assert "another" in two.log.read_text()
    assert one.get("/ready").status_code == 200


def test_sighup_takes_a_good_config_and_keeps_the_old_one_for_a_bad(running):
    one = running().start()
    text = one.config.read_text()
    one.config.write_text(text + "mode: observe\n")
    one.process.send_signal(signal.SIGHUP)
    wait_for("new mode", lambda: one.get("/api/status").json()["mode"] == "observe")
    one.config.write_text(text + "mode: often\n")
    one.process.send_signal(signal.SIGHUP)
    wait_for("refusal", lambda: "reload_refused" in one.log.read_text())
    assert one.get("/api/status").json()["mode"] == "observe"
    assert "agent.yaml:3" in one.log.read_text()
    one.config.write_text(text + LIMIT)
    one.process.send_signal(signal.SIGHUP)
    wait_for("objective that came with a reload", lambda: one.get("/api/incidents").json())


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of two megabytes; without root there is none."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("a full disk needs root to mount one: " + done.stderr.decode().strip())
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_no_incident_and_the_daemon_lives_and_says_so(running, small_disk):
    state = small_disk / "state"
    one = running("", state=state).start()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as f:
        while True:
            f.write(b"x" * 4096)
    one.config.write_text(one.config.read_text() + LIMIT)
    one.process.send_signal(signal.SIGHUP)
    waiting = wait_for("journal waits", lambda: one.get("/health").json()["journal_pending"], 30)
    assert waiting > 0
    health = one.get("/health")
    assert health.status_code == 503
    assert any("journal" in p for p in health.json()["problems"])
    opened = wait_for("incident in memory", lambda: one.get("/api/incidents").json())
    ballast.unlink()
    wait_for("journal written", lambda: one.get("/health").json()["journal_pending"] == 0, 60)
    assert opened[0]["id"] in {e.subject for e in one.journal("incident")}
    assert one.kill(signal.SIGTERM) == 0


# ---------------------------------------------------------------- inside one process: sources and clocks

H = Entity("host", "h")
TABLE = (Series("host.load1_count", H),)


class _Probe:
    class Config(Model):
        """Nothing to set."""

    interval_s = 0.2

    def __init__(self, name, config):
        self.name = name
        self.config = config


class _Throws(_Probe):
    async def poll(self):
        raise ZeroDivisionError("made to fail")


class _Hangs(_Probe):
    async def poll(self):
        await asyncio.sleep(3600)


class _Away(_Probe):
    async def poll(self):
        raise Unavailable("the server at 127.0.0.1:1 does not answer; is it running?")


class _Nan(_Probe):
    async def poll(self):
        return Frame(self.name, time.time(), TABLE, np.array([np.nan]))


@pytest.fixture
def plugins(monkeypatch):
    made = {"throws": _Throws, "hangs": _Hangs, "away": _Away, "nan": _Nan}
    for name, cls in made.items():
        monkeypatch.setitem(registry.connector._known, name, cls)
    return made


@contextlib.asynccontextmanager
async def living(tmp_path, yaml):
    config_path = tmp_path / "agent.yaml"
    config_path.write_text(f"listen: 127.0.0.1:{free_port()}\npriority: 0\n{yaml}")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    daemon = Daemon(load(config_path), config_path, state)
    task = asyncio.create_task(daemon.live())
    try:
        yield daemon
    finally:
        daemon.draining.set()
        assert await asyncio.wait_for(task, 20) == 0


async def until(test, seconds=15.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if test():
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"not within {seconds} s")


async def test_sources_that_throw_hang_or_are_away_are_blind_and_the_rest_goes_on(
    tmp_path, plugins
):
    yaml = "connectors: {throws: {}, hangs: {}, away: {}, nan: {}}\ndiagnose: {settle: 1s}\n"
    async with living(tmp_path, yaml) as daemon:
        await until(lambda: len(daemon.correlator.incidents) >= 3, 25)
        about = {i.about.key for i in daemon.correlator.incidents.values() if i.about}
        assert about == {"throws", "hangs", "away"}
        assert "is it running?" in daemon.collector.health["away"].error
        assert "ZeroDivisionError" in daemon.collector.health["throws"].error
        assert daemon.world.get(TABLE[0]) is None
        assert daemon.collector.health["nan"].error == ""
        ticks = daemon.ticks
        await until(lambda: daemon.ticks > ticks + 2)
        assert daemon.world.value("host.cpu_busy_ratio", daemon.host) is not None
        tops = [i.diagnosis.top.kind for i in daemon.correlator.incidents.values() if i.diagnosis]
        assert set(tops) <= {"observer.blind"}
    seen = JournalReader(tmp_path / "state" / "journal.sqlite")
    assert {e.body["about"]["key"] for e in seen.read(("incident",))} == {"throws", "hangs", "away"}
    seen.close()


@pytest.mark.parametrize("jump", [7200.0, -7200.0])
async def test_a_clock_that_jumps_loses_no_incident_and_blinds_nobody(tmp_path, jump):
    async with living(tmp_path, LIMIT) as daemon:
        real = time.time

        def wall() -> float:
            return time.time()  # looked up at each call: the jump below is seen

        daemon.clock.wall = daemon.collector.clock = wall
        await until(lambda: daemon.correlator.incidents and daemon.ticks > 3)
        (before,) = daemon.correlator.incidents
        patched = pytest.MonkeyPatch()
        patched.setattr(time, "time", lambda: real() + jump)
        try:
            ticks = daemon.ticks
            await until(lambda: daemon.ticks > ticks + 4)
            assert list(daemon.correlator.incidents) == [before]
            assert daemon.correlator.incidents[before].state == "open"
            now = daemon.world.now
            assert abs(now - time.time()) < 5.0
            assert not any(h.blind(now) for h in daemon.collector.health.values())
            assert daemon.bugs == {}
        finally:
            patched.undo()
    seen = JournalReader(tmp_path / "state" / "journal.sqlite")
    jumps = [e.body["by_s"] for e in seen.read(("daemon",)) if e.subject == "clock_jumped"]
    seen.close()
    assert jumps[0] == pytest.approx(jump, abs=3.0)


async def test_a_daemon_that_was_not_let_run_calls_no_source_blind(tmp_path):
    async with living(tmp_path, "diagnose: {settle: 1s}\n") as daemon:
        health = daemon.collector.health
        await until(lambda: daemon.ticks > 5 and all(h.last_ok > 0 for h in health.values()), 60)
        time.sleep(12.0)  # noqa: ASYNC251  # the loop stands, as it does where a host lets nobody run
        ticks = daemon.ticks
        await until(lambda: daemon.ticks > ticks + 6, 30)
        assert daemon.late_ticks
        about = [i.about for i in daemon.correlator.incidents.values() if i.about]
        assert not [who for who in about if who.kind == "source"]


def test_the_paused_file_is_seen_and_told(running):
    one = running(LIMIT).start()
    (one.config.parent / "PAUSED").write_text("ann: looking into it\n")
    wait_for("paused", lambda: one.get("/api/status").json()["paused"])
    assert one.get("/health").json()["paused"]


def test_a_foreign_host_name_and_a_change_without_a_token_are_refused(running):
    one = running().start()
    url = f"http://127.0.0.1:{one.port}"
    assert httpx.get(url + "/api/status", headers={"Host": "evil.example"}).status_code in {
        400,
        403,
        421,
    }
    refused = httpx.post(url + "/api/pause", json={"reason": "x"})
    assert refused.status_code in {401, 403}
    assert one.get("/api/status").json()["paused"] == []
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(one.state / "agent.sock")),
        base_url="http://localhost",
    ) as socket_:
        assert socket_.post("/api/pause", json={"reason": "x"}).status_code == 200
    assert one.get("/api/status").json()["paused"][0]["reason"] == "x"
    assert json.loads(json.dumps(one.get("/api/openapi.json").json()))["openapi"].startswith("3.")
    assert (one.state / "agent.sock").stat().st_mode & 0o777 == 0o600
    assert one.state.stat().st_mode & 0o777 == 0o700
