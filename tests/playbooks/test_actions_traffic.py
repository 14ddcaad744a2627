"""Shifting, draining and attaching before a load balancer in memory; a real one is in tests/live/test_haproxy.py."""

import dataclasses
import json
import types

import pytest
from pydantic import ValidationError

from agent.errors import Refused
from agent.ports import Step
from playbooks.actions.traffic import Drain, Roster, ShiftTraffic, Traffic, Uncordon


class Balancer:
    """Three replicas of a service, by name."""

    def __init__(self, **servers) -> None:
        usual = {"weight": 100, "state": "ready", "up": True, "sessions": 0}
        self.servers = {
            f"replica:web/{n}": types.SimpleNamespace(**(usual | servers.get(n, {})))
            for n in ("a", "b", "c")
        }
        self.looks = 0

    async def backends(self, service: str):
        self.looks += 1
        for one in self.servers.values():
            one.sessions = max(0, one.sessions - 1)
        return dict(self.servers) if service == "service:web" else {}

    async def set_weight(self, replica: str, weight: int, expect: int) -> None:
        assert self.servers[replica].weight == expect
        self.servers[replica].weight = weight

    async def set_state(self, replica: str, state: str, expect: str) -> None:
        assert self.servers[replica].state == expect
        self.servers[replica].state = state


DOWN, DRAINED, EMPTY = {"up": False}, {"state": "drain"}, {"weight": 0}


def step(replica: str = "replica:web/a", **more) -> Step:
    return Step("run-1/shift", "shift_traffic", replica, {}, by="homeostat:run-1", **more)


async def planned(act, one: Step | None = None) -> Step:
    one = one or step()
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


@pytest.mark.parametrize(
    ("params", "servers", "goal"),
    [
        ({"weight": "50%"}, {}, 50),
        ({"weight": 2.0}, {}, 200),
        ({"weight": 0}, {}, 0),
        ({"share": "5%"}, {}, 11),  # 11 of 211
        ({"share": "50%"}, {}, 200),
        ({"share": "50%"}, {"b": DOWN, "c": DRAINED}, None),
        ({"share": "50%"}, {"b": DOWN}, 100),
        ({"share": "1%"}, {"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 1}}, None),
    ],
)
async def test_how_much_that_is(params, servers, goal):
    act = ShiftTraffic(ShiftTraffic.Params(**params), Balancer(**servers))
    if goal is None:
        with pytest.raises(Refused, match=r"too coarse|has it all"):
            await planned(act)
    else:
        assert (await planned(act)).before["goal"] == goal


@pytest.mark.parametrize("params", [{}, {"weight": 0.5, "share": 0.5}, {"share": 1.0}, {"share": "105%"}])  # fmt: skip
def test_contradictory_parameters_are_refused(params):
    with pytest.raises(ValidationError):
        ShiftTraffic.Params(**params)


@pytest.mark.parametrize("others", [{"b": DOWN, "c": DRAINED}, {"b": EMPTY, "c": DOWN}])
@pytest.mark.parametrize(
    "act",
    [lambda b: Drain(Drain.Params(), b), lambda b: ShiftTraffic(ShiftTraffic.Params(weight=0), b)],
)
async def test_the_last_that_serves_goes_on(act, others):
    balancer = Balancer(**others)
    before = {r: dict(vars(s)) for r, s in balancer.servers.items()}
    made = act(balancer)
    with pytest.raises(
        Refused, match="without replica:web/a only 0 replicas of service:web would serve"
    ):
        await made.run(await planned(made))
    assert {r: dict(vars(s)) for r, s in balancer.servers.items()} == before


async def test_a_drain_waits_for_what_is_on_its_way_and_says_what_is_left():
    act = Drain(Drain.Params(wait="5s"), Balancer(a={"sessions": 5}))
    done = await act.run(await planned(act))
    assert done.summary.endswith("it is at no request")
    act = Drain(Drain.Params(wait=0.0), Balancer(a={"sessions": 50}))
    done = await act.run(await planned(act))
    assert "of its requests run on after" in done.summary
    back = await act.undo(step(), done.undo)
    assert back.summary == "the state of replica:web/a is ready again in place of drain"


async def test_what_a_person_took_out_stays_out():
    balancer = Balancer(a={"state": "maint"})
    act = Drain(Drain.Params(), balancer)
    one = await planned(act)
    assert act.reached(one, one.before)
    assert (await act.run(one)).undo == {}
    assert balancer.servers["replica:web/a"].state == "maint"
    back = Uncordon(Uncordon.Params(), balancer)
    done = await back.run(await planned(back))
    assert balancer.servers["replica:web/a"].state == "ready"
    await back.undo(step(), done.undo)
    assert balancer.servers["replica:web/a"].state == "maint"


async def test_a_goal_is_that_of_the_plan():
    balancer = Balancer()
    act = ShiftTraffic(ShiftTraffic.Params(share="5%"), balancer)
    one = await planned(act)
    balancer.servers["replica:web/b"].weight = 10  # others moved meanwhile: it is not reckoned anew
    await act.run(one)
    assert balancer.servers["replica:web/a"].weight == 11
    assert act.reached(one, await act.observe(one))


async def test_only_replicas_that_are_there():
    balancer = Balancer()
    assert isinstance(balancer, Traffic)
    assert not isinstance(balancer, Roster)
    act = Drain(Drain.Params(), balancer)
    with pytest.raises(Refused, match="service:web is no replica"):
        await act.observe(step("service:web"))
    with pytest.raises(
        Refused, match="does not know replica:web/z; it has replica:web/a, replica:web/b"
    ):
        await act.observe(step("replica:web/z"))
