"""A real HAProxy before real servers: weights, drain, a server more and one fewer, and no request that fails."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
import time
import urllib.request

import pytest
from daemon_process import free_port, wait_for
from servers import haproxy_before

from agent.errors import Refused, Unavailable
from agent.ports import Step
from connectors.haproxy import Haproxy
from playbooks.actions import traffic
from playbooks.actions.limits import Limiter, SetLimit

pytestmark = pytest.mark.live


class Backend:
    """An HTTP server that says its name, slowly when asked to."""

    def __init__(self, name: str) -> None:
        me = self

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path == "/slow":
                    me.slow.set()
                    time.sleep(1.0)
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *args):
                """Say nothing on standard error."""

        self.slow = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.port = self.server.server_port
        serve = {"poll_interval": 0.05}
        threading.Thread(target=self.server.serve_forever, kwargs=serve, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Asking:
    """Somebody who asks all the time, and notes who answered and what failed."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/"
        self.answers: list[str] = []
        self.failed: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    self.answers.append(answer.read().decode())
            except OSError as wrong:
                self.failed.append(str(wrong))

    def share(self, name: str, n: int = 300) -> float:
        """Return the share of the next `n` requests that a server answers."""
        time.sleep(0.1)
        start = len(self.answers)
        wait_for("answers", lambda: len(self.answers) >= start + n)
        some = self.answers[start : start + n]
        return some.count(name) / n

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def front(needs, tmp_path):
    """Start a HAProxy before two servers; a third runs and is not on its list."""
    program = needs("haproxy")
    servers = [Backend(f"s{i}") for i in (1, 2, 3)]
    with contextlib.ExitStack() as running:
        for one in servers:
            running.callback(one.close)

        def start(level: str = "admin"):
            before = haproxy_before(servers[0].port, servers[1].port, program, tmp_path, level)
            socket, port = running.enter_context(before)
            made = Haproxy(
                "haproxy",
                Haproxy.Config(service="web", socket=socket, frontend="in", check=0.1, wait=10),
            )
            return made, port, servers

        yield start


async def planned(act, name: str) -> Step:
    step = Step(f"run-1/{name}", name, "replica:web/s1", {}, by="homeostat:run-1")
    return dataclasses.replace(step, before=json.loads(json.dumps(await act.observe(step))))


async def test_no_request_fails_while_weights_drains_and_servers_change(front):
    haproxy, port, servers = front()
    assert isinstance(haproxy, traffic.Roster)
    asking = Asking(port)
    try:
        assert asking.share("s1") == pytest.approx(0.5, abs=0.05)

        shift = traffic.ShiftTraffic(traffic.ShiftTraffic.Params(share="20%"), haproxy)
        step = await planned(shift, "shift_traffic")
        assert step.before["goal"] == 25
        done = await shift.run(step)
        assert asking.share("s1") == pytest.approx(0.2, abs=0.05)
        await shift.undo(step, done.undo)
        assert asking.share("s1") == pytest.approx(0.5, abs=0.05)

        drain = traffic.Drain(traffic.Drain.Params(), haproxy)
        step = await planned(drain, "drain")
        done = await drain.run(step)
        assert "it is at no request" in done.summary
        assert asking.share("s1") == 0
        assert drain.reached(step, await drain.observe(step))
        last = dataclasses.replace(step, target="replica:web/s2", before={})
        with pytest.raises(
            Refused, match="without replica:web/s2 only 0 replicas of service:web would serve"
        ):
            await drain.run(last)
        uncordon = traffic.Uncordon(traffic.Uncordon.Params(), haproxy)
        await uncordon.run(await planned(uncordon, "uncordon"))
        assert asking.share("s1") == pytest.approx(0.5, abs=0.05)

        attach = traffic.AttachReplica(
            traffic.AttachReplica.Params(
                address=f"127.0.0.1:{servers[2].port}", replica="replica:web/s3"
            ),
            haproxy,
        )
        step = await planned(attach, "attach_replica")
        done = await attach.run(step)
        assert asking.share("s3") > 0
        await attach.undo(step, done.undo)
        assert asking.share("s3") == 0
        assert set(await haproxy.backends("service:web")) == {"replica:web/s1", "replica:web/s2"}

        detach = traffic.DetachReplica(traffic.DetachReplica.Params(), haproxy)
        step = await planned(detach, "detach_replica")
        done = await detach.run(step)
        assert asking.share("s2") == 1
        await detach.undo(step, done.undo)
        assert 0 < asking.share("s1") < 1
    finally:
        asking.close()
    assert asking.failed == []


async def test_a_drain_waits_for_the_request_that_is_on_its_way(front):
    haproxy, port, servers = front()
    slow: list[str] = []

    def ask():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/slow", timeout=5) as answer:
            slow.append(answer.read().decode())

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for("the request", lambda: servers[0].slow.is_set() or servers[1].slow.is_set())
    name = "s1" if servers[0].slow.is_set() else "s2"
    drain = traffic.Drain(traffic.Drain.Params(replica=f"replica:web/{name}"), haproxy)
    await drain.run(await planned(drain, "drain"))
    asking.join(2)
    assert slow == [name]


async def test_others_are_left_alone_and_what_is_not_there_is_said(front, tmp_path):
    haproxy, _, _ = front()
    with pytest.raises(Refused, match="has weight 100, not 7: changed by others"):
        await haproxy.set_weight("replica:web/s1", 50, 7)
    with pytest.raises(Refused, match="is ready, not drain: changed by others"):
        await haproxy.set_state("replica:web/s1", "maint", "drain")
    with pytest.raises(Refused, match="weights from 0 to 256"):
        await haproxy.set_weight("replica:web/s1", 300, 100)
    with pytest.raises(Refused, match="no server of such a name"):
        await haproxy.set_weight("replica:web/s1; disable frontend in", 1, 100)
    with pytest.raises(Refused, match="has no server s9"):
        await haproxy.set_weight("replica:web/s9", 1, 100)
    with pytest.raises(Refused, match="say which with `via:`"):
        await haproxy.backends("service:shop")
    impatient = Haproxy("h", haproxy.config.model_copy(update={"wait": 1.0}))
    with pytest.raises(Refused, match="is not well after 1 s and was taken off again"):
        await impatient.set_address("replica:web/s4", f"127.0.0.1:{free_port()}", None)
    assert len(await haproxy.backends("service:web")) == 2
    nobody = Haproxy("h", Haproxy.Config(service="web", socket=tmp_path / "none.sock"))
    with pytest.raises(Unavailable, match="start HAProxy with `stats socket"):
        await nobody.backends("service:web")


async def test_a_socket_that_only_shows_is_said_to_be_so(front):
    haproxy, _, _ = front("user")
    said = await haproxy.describe()
    assert "replica:web/s1 at 127.0.0.1:" in said[0]
    assert said[-1] == "may only look: the socket is not of `level admin`"
    with pytest.raises(Refused, match="Permission denied"):
        await haproxy.set_weight("replica:web/s1", 50, 100)


@pytest.mark.parametrize(
    ("name", "value"), [("sessions_per_second", 50.0), ("connections_count", 200.0)]
)
async def test_what_comes_in_is_limited_and_put_back(front, name, value):
    haproxy, _, _ = front()
    assert isinstance(haproxy, Limiter)
    act = SetLimit(SetLimit.Params(limit=name, value=value), haproxy)
    step = Step("run-1/limit", "set_limit", "service:web", {}, by="homeostat:run-1")
    step = dataclasses.replace(step, before=dict(await act.observe(step)))
    was = step.before["value"]
    assert was is None or was > value
    done = await act.run(step)
    assert await haproxy.limit("service:web", name) == value
    await act.undo(step, done.undo)
    assert await haproxy.limit("service:web", name) == was
    with pytest.raises(Refused, match="changed by others"):
        await haproxy.set_limit("service:web", name, value, 3.0)
    with pytest.raises(Refused, match="has no limit power_watts"):
        await haproxy.limit("service:web", "power_watts")
