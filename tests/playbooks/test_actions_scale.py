"""Scaling by compare-and-set; the connector with real workers is tested in test_gunicorn.py."""

import dataclasses

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.errors import Refused
from agent.ports import Action, Step, Undo
from playbooks.actions.scale import Scale, Scaler

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Test machines are busy."""


class Fleet:
    """A service whose replicas are a number; compare-and-set as the Scaler contract says."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.calls: list[tuple[int, int]] = []

    async def replicas(self, target: str) -> int:
        assert target == "service:web"
        return self.n

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        if self.n != expect:
            raise Refused(f"{target} runs {self.n}")
        self.calls.append((expect, n))
        self.n = n


def step(**more) -> Step:
    return Step(
        key="run-1/out", use="scale", target="service:web", params={}, by="homeostat:run-1", **more
    )


async def planned(act: Scale) -> Step:
    return dataclasses.replace(step(), before=await act.observe(step()))


def test_the_contract():
    assert isinstance(Fleet(1), Scaler)
    act = Scale(Scale.Params(by=1), Fleet(1))
    assert isinstance(act, Action)
    assert isinstance(act, Undo)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"by": 1, "to": 2},
        {"by": 0},
        {"to": 0},
        {"to": 3, "max": 2},
        {"by": 1, "max": 1, "min": 2},
    ],
)
def test_contradictory_parameters_are_refused(params):
    with pytest.raises(ValidationError):
        Scale.Params(**params)


async def test_out_and_in_again():
    fleet = Fleet(2)
    act = Scale(Scale.Params(by=1, max=4), fleet)
    one = await planned(act)
    assert one.before == {"service": "service:web", "replicas": 2, "goal": 3}
    assert not act.reached(one, one.before)
    done = await act.run(one)
    assert fleet.n == 3
    assert done.values == {"service": "service:web", "replicas": 3, "before": 2}
    assert (done.change.kind, done.change.before, done.change.after) == ("scale", "2", "3")
    assert act.reached(one, await act.observe(one))
    back = await act.undo(one, done.undo)
    assert fleet.n == 2
    assert back.change.ours
    assert "already" in (await act.undo(one, done.undo)).summary


async def test_a_second_try_does_not_scale_again():
    fleet = Fleet(2)
    act = Scale(Scale.Params(by=1), fleet)
    one = await planned(act)
    await act.run(one)
    again = await act.run(one)
    assert fleet.calls == [(2, 3)]
    assert again.undo["before"] == 2


async def test_others_who_scale_are_left_alone():
    fleet = Fleet(2)
    act = Scale(Scale.Params(by=1), fleet)
    one = await planned(act)
    fleet.n = 5
    with pytest.raises(Refused, match="scaled by others: it runs 5 replicas, not 2"):
        await act.run(one)
    fleet.n = 2
    done = await act.run(one)
    fleet.n = 4
    with pytest.raises(Refused, match="scaled by others"):
        await act.undo(one, done.undo)
    assert fleet.n == 4


async def test_no_room_is_no_success():
    fleet = Fleet(4)
    act = Scale(Scale.Params(by=1, max=4), fleet)
    one = await planned(act)
    assert not act.reached(one, one.before)
    with pytest.raises(Refused, match="leave no room"):
        await act.run(one)
    assert fleet.calls == []


async def test_a_number_that_is_there_already_needs_no_act():
    act = Scale(Scale.Params(to=3), Fleet(3))
    one = await planned(act)
    assert act.reached(one, one.before)
    done = await act.run(one)
    assert done.undo == {}
    assert "did not scale" in (await act.undo(one, done.undo)).summary


async def test_a_dry_run_scales_nothing():
    fleet = Fleet(2)
    act = Scale(Scale.Params(by=1), fleet)
    done = await act.run(dataclasses.replace(await planned(act), dry_run=True))
    assert "would bring service:web from 2 to 3" in done.summary
    assert fleet.n == 2
    assert done.undo == {}


@given(
    now=st.integers(0, 50),
    by=st.integers(-10, 10).filter(bool),
    low=st.integers(1, 20),
    room=st.integers(0, 20),
)
@settings(CALM)
def test_a_bound_never_turns_the_direction_round(now, by, low, room):
    goal = Scale(Scale.Params(by=by, min=low, max=low + room), Fleet(now))._goal(now)
    assert (goal - now) * by >= 0
    if low <= now <= low + room:
        assert low <= goal <= low + room
