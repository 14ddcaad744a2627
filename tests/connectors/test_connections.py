"""Connections: real sockets of real processes, and recorded tables for what a test can not make."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

from agent.catalogue import SIGNALS
from agent.errors import Refused, Unavailable
from agent.model import Entity, Frame, Series, Sighting
from agent.ports import Abilities, Source
from connectors._proc import boot_id, head_of, this_host
from connectors.connections import STATES, Connections, _address

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a Linux /proc")

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@pytest.fixture
def source() -> Connections:
    # a search that is not cut short, however slow the machine
    return Connections("connections", Connections.Config(search_time=1.0))


def count(frame: Frame, state: str) -> float:
    series = Series("host.connections_count", this_host(), (("state", state),))
    return float(frame.values[frame.series.index(series)])


def group_entity(pid: int) -> Entity:
    """The group of a process; whoever started the tests may have ended, and with it the leader of theirs."""
    head = head_of(pid)
    return Entity("process", f"{boot_id()}/{head.pid}/{head.start_ticks}")


SERVER = """
import os, socket, sys, time
s = socket.create_server(("127.0.0.1", 0), backlog=16)
print(s.getsockname()[1], flush=True)
if len(sys.argv) > 1 and os.fork() == 0:
    time.sleep(600)  # a worker that inherits the socket
time.sleep(600)
"""


class Server:
    """A process group of its own that listens and accepts nobody."""

    def __init__(self, *extra: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", SERVER, *extra],
            start_new_session=True,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.entity = group_entity(self.process.pid)

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server("fork")
    yield made
    if made.process.poll() is None:
        made.end()


def heard(frame: Frame, entity: Entity) -> list[Sighting]:
    """Return what is told of the ports of a group; whom it calls is told beside, for a while."""
    return [
        s for s in frame.seen
        if s.entity == entity and "listen" in dict(s.attrs) and s.lasts_s == math.inf
    ]  # fmt: skip


def ports_of(frame: Frame, entity: Entity) -> set[str]:
    (sighting,) = heard(frame, entity)
    return set(dict(sighting.attrs)["listen"].split(","))


async def test_frames_keep_the_contract(source: Connections):
    assert isinstance(source, Source)
    assert isinstance(source, Abilities)
    assert source.interval_s == 30.0
    frame = await source.poll()
    assert list(frame.series) == sorted(set(frame.series))
    assert {s.metric for s in frame.series} <= SIGNALS.keys()
    states = {dict(s.labels)["state"] for s in frame.series if s.metric == "host.connections_count"}
    assert states == set(STATES.values())
    assert np.isfinite(frame.values).all()


async def test_who_listens_is_known_by_its_group_and_told_once(source: Connections, server: Server):
    frame = await source.poll()
    assert ports_of(frame, server.entity) == {str(server.port)}
    (sighting,) = [s for s in frame.seen if s.entity == server.entity]
    (edge,) = sighting.edges
    assert (edge.kind, edge.src, edge.dst) == ("runs_on", server.entity, this_host())
    again = await source.poll()
    assert not [s for s in again.seen if s.entity == server.entity]
    assert any(str(server.port) in line for line in await source.describe())


async def test_those_that_wait_to_be_accepted_are_counted(source: Connections, server: Server):
    queue = Series("process.accept_queue_count", server.entity, (("port", str(server.port)),))
    frame = await source.poll()
    assert frame.values[frame.series.index(queue)] == 0.0
    clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    try:
        frame = await source.poll()
        assert frame.values[frame.series.index(queue)] == 5.0
        assert count(frame, "established") >= 10  # both ends are here
    finally:
        for client in clients:
            client.close()


async def test_a_listener_that_ends_is_gone(source: Connections, server: Server):
    await source.poll()
    server.end()
    frame = await source.poll()
    assert Sighting(server.entity, gone=True) in frame.seen
    assert server.entity not in {s.entity for s in frame.series}


async def test_a_listener_that_stops_to_listen_is_not_gone(source: Connections):
    listener = socket.create_server(("127.0.0.1", 0))
    port = str(listener.getsockname()[1])
    frame = await source.poll()
    me = group_entity(os.getpid())
    assert port in ports_of(frame, me)
    listener.close()
    frame = await source.poll()
    told = heard(
        frame, me
    )  # more than one where another process of our group comes or goes just now
    assert told
    assert not any(now.gone for now in told)
    assert all(port not in dict(now.attrs).get("listen", "").split(",") for now in told)


async def test_a_search_that_runs_out_of_time_goes_on_at_the_next_poll(server: Server):
    hasty = Connections("connections", Connections.Config(search_time=1e-9))
    frame = await hasty.poll()
    assert not [s for s in frame.seen if s.entity == server.entity]
    for _ in range(100_000):
        frame = await hasty.poll()
        if server.entity in {s.entity for s in frame.seen}:
            break
    assert ports_of(frame, server.entity) == {str(server.port)}


async def test_known_sockets_are_not_searched_for_again(
    source: Connections, server: Server, monkeypatch: pytest.MonkeyPatch
):
    await source.poll()
    searched: list[int] = []
    find = source._find

    def spy(unknown: set[int], now: float) -> None:
        searched.extend(source._listeners[inode].port for inode in unknown)
        find(unknown, now)

    monkeypatch.setattr(source, "_find", spy)
    await source.poll()
    assert server.port not in searched


async def test_descriptors_do_not_pile_up(source: Connections, server: Server):
    await source.poll()
    before = psutil.Process().num_fds()
    for _ in range(5):
        await source.poll()
    assert psutil.Process().num_fds() == before


# ---- recorded tables


def row(i: int, port: int, state: str, inode: int = 0, waiting: int = 0) -> str:
    return f"{i:4d}: 0100007F:{port:04X} 00000000:0000 {state} 00000000:{waiting:08X} 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"  # noqa: E501  # as the kernel writes it


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    return tmp_path


async def test_states_of_both_families_are_summed(tables: Path):
    (tables / "net/tcp").write_text(HEAD + row(0, 80, "0A") + row(1, 80, "01") + row(2, 80, "06"))
    six = (
        row(0, 443, "01").replace("0100007F", "0" * 32).replace("00000000:0000", "0" * 32 + ":0000")
    )
    (tables / "net/tcp6").write_text(HEAD + six + row(1, 80, "0C"))
    source = Connections("connections", Connections.Config(procfs=tables))
    frame = await source.poll()
    assert count(frame, "listen") == 1
    assert count(frame, "established") == 2
    assert count(frame, "time_wait") == 1
    assert count(frame, "syn_received") == 1
    assert count(frame, "close_wait") == 0


async def test_too_many_connections_are_unknown_but_listeners_are_known(tables: Path):
    rows = row(0, 80, "0A", 77) + "".join(row(i, 1000 + i, "01") for i in range(1, 500))
    (tables / "net/tcp").write_text(HEAD + rows)
    source = Connections("connections", Connections.Config(procfs=tables, most=100))
    with capture_logs() as logs:
        frame = await source.poll()
        await source.poll()
    assert np.isnan(count(frame, "established"))
    assert count(frame, "listen") == 1
    assert [entry["event"] for entry in logs] == ["connections_too_many"]


async def test_fifty_thousand_connections_cost_bounded_time(tables: Path):
    rows = "".join(row(i, i % 60_000, "01") for i in range(50_000))
    (tables / "net/tcp").write_text(HEAD + rows)
    source = Connections("connections", Connections.Config(procfs=tables))
    start = time.process_time()
    frame = await source.poll()
    assert time.process_time() - start < 1.5  # 0.08 s on a quiet machine
    assert count(frame, "established") == 50_000


async def test_the_port_belongs_to_the_service_not_to_who_opened_it_first(tables: Path):
    """Systemd opens sockets for others and keeps them: both hold it, the service serves it."""
    (tables / "net/tcp").write_text(HEAD + row(0, 8080, "0A", 555))
    for pid in (1, 40):
        (tables / str(pid) / "fd").mkdir(parents=True)
        (tables / str(pid) / "fd/3").symlink_to("socket:[555]")
        fields = f"{pid} (x) S 1 {pid} {pid} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {pid * 10} 0 5 0\n"
        (tables / str(pid) / "stat").write_text(fields)
    source = Connections("connections", Connections.Config(procfs=tables))
    frame = await source.poll()
    assert [s.entity for s in frame.seen] == [Entity("process", f"{boot_id()}/40/400")]


async def test_a_host_without_the_tables_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = Connections("connections", Connections.Config(procfs=tmp_path))
    with pytest.raises(Unavailable, match="is /proc mounted"):
        await source.poll()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Refused, match="switch the source off"):
        await source.poll()


# ---- who calls whom


def calls_of(frame: Frame) -> dict[Entity, set[str]]:
    return {
        s.entity: {e.dst.key for e in s.edges if e.kind == "calls"}
        for s in frame.seen
        if any(e.kind == "calls" for e in s.edges)
    }


async def test_whoever_has_opened_a_connection_calls_who_listens(server: Server):
    source = Connections("connections", Connections.Config(search_time=1.0, calls_every=30.0))
    # this very process is in a group of the test run
    me = group_entity(os.getpid())
    with socket.create_connection(("127.0.0.1", server.port)):
        frame = await source.poll()
        called = calls_of(frame)
        assert f"localhost:{server.port}" in called[me]
        assert server.entity not in called
        (mine,) = [
            s for s in frame.seen if s.entity == me and any(e.kind == "calls" for e in s.edges)
        ]
        assert 90.0 <= mine.lasts_s < 300.0
        assert calls_of(await source.poll()) == {}  # not at every poll
        source._called_at -= 60.0
        assert me in calls_of(await source.poll())
    source._called_at -= 60.0
    again = calls_of(await source.poll())
    assert f"localhost:{server.port}" not in again.get(me, set())


@pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a little-endian machine")
@pytest.mark.parametrize(
    ("written", "host", "port"),
    [
        (b"0100007F:1F90", "127.0.0.1", 8080),
        (b"0700000A:1538", "10.0.0.7", 5432),
        (b"00000000000000000000000001000000:0050", "::1", 80),
        (b"0000000000000000FFFF00000700000A:01BB", "10.0.0.7", 443),
    ],
)
def test_addresses_as_the_kernel_writes_them(written: bytes, host: str, port: int):
    assert _address(written) == (host, port)
