"""Rolling restarts of replicas in memory; real ones are in test_gunicorn.py and test_systemd.py."""

import dataclasses
import json
import types

import pytest

from agent.errors import Refused, Uncertain
from agent.ports import Step
from playbooks.actions.restart import Restart, Restarter


class Units:
    """Replicas that can be restarted; `fails`: who does not come back; `slow`: looks until one is well again."""

    def __init__(self, n: int = 3, fails: int = 0, slow: int = 0) -> None:
        self.births = dict.fromkeys(range(1, n + 1), 0)
        self.ill = dict.fromkeys(range(1, n + 1), 0)
        self.fails = fails
        self.slow = slow
        self.order: list[int] = []
        self.least = n

    async def units(self, service: str):
        assert service == "service:web"
        self.ill = {n: max(0, left - 1) for n, left in self.ill.items()}
        return [
            types.SimpleNamespace(
                replica=f"replica:web/{n}", birth=f"{n}-{b}", well=not self.ill[n]
            )
            for n, b in self.births.items()
        ]

    async def restart(self, service: str, birth: str) -> None:
        n, _, b = birth.partition("-")
        if self.births[int(n)] != int(b):
            raise Refused(f"there is no {birth}")
        self.least = min(self.least, sum(not left for left in self.ill.values()) - 1)
        if int(n) == self.fails:
            self.ill[int(n)] = 10**6
            raise Uncertain(f"{n} did not come back")
        self.order.append(int(n))
        self.births[int(n)] += 1
        self.ill[int(n)] = self.slow


def step(about: str = "service:web") -> Step:
    return Step("run-1/restart", "restart", about, {}, by="homeostat:run-1")


async def planned(act: Restart, about: str = "service:web") -> Step:
    one = step(about)
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


async def test_one_after_the_other_and_enough_stay_well():
    units = Units(slow=3)
    assert isinstance(units, Restarter)
    act = Restart(Restart.Params(min_healthy=2), units)
    done = await act.run(await planned(act))
    assert units.order == [1, 2, 3]
    assert units.least == 2
    assert done.values["restarted"] == 3


async def test_cut_off_half_way_it_goes_on_with_the_rest():
    units = Units()
    act = Restart(Restart.Params(), units)
    one = await planned(act)
    await units.restart("service:web", "1-0")  # a try of ours that did not live to tell
    assert act.reached(one, await act.observe(one))
    await act.run(one)
    assert units.births == {1: 1, 2: 1, 3: 1}
    await act.run(one)
    assert units.births == {1: 1, 2: 1, 3: 1}


async def test_one_that_does_not_come_back_stops_the_others():
    units = Units(fails=2)
    act = Restart(Restart.Params(min_healthy=2, wait=0.0), units)
    one = await planned(act)
    with pytest.raises(Uncertain, match="2 did not come back"):
        await act.run(one)
    assert units.order == [1]
    with pytest.raises(
        Refused, match="only 1 other replica of service:web is well after 0 ms, 2 must be"
    ):
        await act.run(dataclasses.replace(one, before={"units": {"3-0": "replica:web/3"}}))
    assert units.order == [1]


async def test_half_way_is_not_told_as_nothing():
    units = Units(n=2)
    act = Restart(Restart.Params(wait=0.0), units)
    one = await planned(act)
    units.slow = 10**6
    with pytest.raises(
        Uncertain, match="1 of 2 replicas of service:web were restarted, then: only 0 other"
    ):
        await act.run(one)


async def test_the_last_one_is_restarted_only_when_it_serves_nobody():
    units = Units(n=1)
    act = Restart(Restart.Params(wait=0.0), units)
    with pytest.raises(Refused, match="only 0 other replicas"):
        await act.run(await planned(act))
    units.ill[1] = 10**6
    await act.run(await planned(act))
    assert units.order == [1]
    alone = Restart(Restart.Params(min_healthy=0), Units(n=1))
    await alone.run(await planned(alone))


async def test_one_replica_alone_and_none_at_all():
    units = Units()
    act = Restart(Restart.Params(), units)
    await act.run(await planned(act, "replica:web/2"))
    assert units.order == [2]
    with pytest.raises(Refused, match="replica:web/9 has no replicas that could be restarted"):
        await act.run(await planned(act, "replica:web/9"))
