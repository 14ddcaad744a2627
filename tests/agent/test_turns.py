"""Turns are as many as fit, nobody waits for ever, and what is urgent does not wait for the rest."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.turns import Turns

COSTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=3), st.floats(0.1, 30.0), min_size=1
)


def go(turns, costs, urgent=(), ahead=()):
    """One tick; returns who had a turn."""
    chosen = turns.begin({i: i in ahead for i in costs}, urgent)
    for id_ in costs:
        if id_ in chosen:
            turns.spend(id_, costs[id_])
    return set(chosen)


@settings(deadline=None)
@given(COSTS)
def test_all_that_fits_has_a_turn_in_each_tick(costs):
    turns = Turns(sum(costs.values()) + 1.0, 1e9, usual=0.0)
    assert all(go(turns, costs) == set(costs) for _ in range(3))


@settings(deadline=None)
@given(COSTS, st.floats(1.0, 50.0), st.data())
def test_a_tick_takes_no_more_than_its_room_and_everybody_has_a_turn(costs, room, data):
    turns = Turns(room, 2 * room, usual=1.0)
    ahead = data.draw(st.sets(st.sampled_from(sorted(costs))))
    had = Counter()
    for _ in range(40 * len(costs)):
        known = set(had)
        some = go(turns, costs, ahead=ahead)
        had.update(some)
        if some <= known:  # what a first turn costs is not known before
            assert sum(costs[i] for i in some) <= room + 1e-6 or len(some) == 1
    assert set(had) == set(costs)


def test_who_has_waited_longest_is_next_and_a_new_one_before_all():
    turns = Turns(2.0, 2.0, usual=1.0)
    assert go(turns, dict.fromkeys("abcd", 1.0)) == {"a", "b"}
    assert go(turns, dict.fromkeys("abcd", 1.0)) == {"c", "d"}
    assert go(turns, dict.fromkeys("abcde", 1.0)) == {"a", "e"}


def test_who_goes_ahead_has_more_turns_and_not_all():
    turns = Turns(1.0, 1.0, usual=1.0)
    had = Counter()
    for _ in range(200):
        had.update(go(turns, dict.fromkeys("ab", 1.0), ahead={"b"}))
    assert had["b"] > 20 * had["a"] > 0


def test_the_urgent_have_the_burst_and_leave_the_others_a_part():
    turns = Turns(4.0, 8.0, usual=1.0)
    costs = dict.fromkeys("abcdefghijklmnop", 1.0)
    go(turns, costs)
    some = go(turns, costs, urgent=set("ghijklmnop"))
    assert len(some & set("ghijklmnop")) == 8
    assert len(some - set("ghijklmnop")) == 1
    assert turns.left == 8.0 - 9.0


def test_the_same_happens_twice_and_who_is_gone_is_forgotten():
    costs = {"a": 3.0, "b": 1.0, "c": 2.0}
    one, two = Turns(3.0, 3.0, usual=1.0), Turns(3.0, 3.0, usual=1.0)
    assert [go(one, costs) for _ in range(9)] == [go(two, costs) for _ in range(9)]
    one.keep({"a"})
    assert set(one._had) == set(one._cost) == {"a"}
