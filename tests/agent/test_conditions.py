import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.conditions import UNSEEN_S, Condition, Holding, conditions, join


class Scene:
    """Names to values, with `value` bound to a signal on request."""

    def __init__(self, values, signal=None):
        self.values = values
        self.signal = signal

    def __call__(self, name):
        return self.values.get(self.signal if name == "value" and self.signal else name)

    def about(self, signal):
        return Scene(self.values, signal)


HOT = Condition("a > 1.0", for_s=30.0)


def walk(holding, values, step=1.0, start=1000.0):
    return [holding.update(start + i * step, Scene({"a": v})) for i, v in enumerate(values)]


def test_it_holds_when_it_was_true_for_long_enough():
    answers = walk(Holding([HOT]), [2.0] * 32)
    assert answers == [False] * 30 + [True] * 2


def test_a_break_starts_it_anew():
    answers = walk(Holding([HOT]), [2.0] * 30 + [0.0] + [2.0] * 31)
    assert answers == [False] * 61 + [True]


def test_unknown_pauses_and_is_told():
    answers = walk(Holding([HOT]), [2.0] * 20 + [None] * 5 + [2.0] * 12)
    # 19 s were seen before; of the step out of the dark nothing counts, so 11 more are needed
    assert answers == [False] * 20 + [None] * 5 + [False] * 11 + [True]


def test_a_pause_longer_than_for_starts_it_anew():
    answers = walk(Holding([HOT]), [2.0] * 20 + [None] * 31 + [2.0] * 31)
    assert answers == [False] * 20 + [None] * 31 + [False] * 30 + [True]


def test_unknown_never_holds_even_after_it_held():
    assert walk(Holding([HOT]), [2.0] * 40 + [None] * 100)[-1] is None


def test_time_that_nobody_saw_does_not_count():
    holding = Holding([Condition("a > 1.0", for_s=300.0)])
    assert holding.update(0.0, Scene({"a": 2.0})) is False
    assert holding.update(3600.0, Scene({"a": 2.0})) is False
    assert walk(holding, [2.0] * 301, start=3601.0)[-1] is True


def test_steps_of_a_minute_count():
    holding = Holding([Condition("a > 1.0", for_s=300.0)])
    assert walk(holding, [2.0] * 6, step=UNSEEN_S) == [False] * 5 + [True]


def test_a_clock_that_is_set_back_adds_no_time():
    holding = Holding([HOT])
    walk(holding, [2.0] * 20)
    assert holding.update(0.0, Scene({"a": 2.0})) is False
    assert holding.standings()[0].held_s == 19.0
    assert walk(holding, [2.0] * 11, start=1.0) == [False] * 10 + [True]


def test_without_for_it_is_true_at_once():
    assert walk(Holding([Condition("a > 1.0")]), [2.0, 0.0, None, 2.0]) == [True, False, None, True]


def test_a_condition_about_a_signal_sees_its_value():
    holding = Holding([Condition("value < b * 0.5", signal="gpu.clock_ratio")])
    assert holding.update(0.0, Scene({"gpu.clock_ratio": 0.4, "b": 1.0})) is True
    assert holding.update(1.0, Scene({"value": 0.4, "b": 1.0})) is None


def test_all_and_any():
    both = [Condition("a > 1.0"), Condition("b > 1.0")]
    for values, all_of, any_of in [
        ({"a": 2, "b": 2}, True, True),
        ({"a": 2, "b": 0}, False, True),
        ({"a": 2}, None, True),
        ({"a": 0}, False, None),
        ({}, None, None),
    ]:
        assert Holding(both).update(0.0, Scene(values)) is all_of
        assert Holding(both, "any").update(0.0, Scene(values)) is any_of


def test_no_conditions_hold():
    assert Holding([]).update(0.0, Scene({})) is True


def test_standings_say_why():
    holding = Holding(conditions(["a > 1.0", "b > 1.0"], 5.0))
    for t in range(4):
        holding.update(float(t), Scene({"a": 2.0}))
    first, second = holding.standings()
    assert (first.value, first.held_s, first.met) == (True, 3.0, False)
    assert (second.value, second.met) == (None, None)
    assert str(first.condition) == "a > 1.0 for 5 s"
    assert str(Condition("value > 1.0", "gpu.clock_ratio")) == "gpu.clock_ratio: value > 1.0"


@pytest.mark.parametrize("how", ["all", "any"])
def test_join_is_kleene(how):
    table = {True: 1.0, None: 0.5, False: 0.0}
    choose = min if how == "all" else max
    for a, x in table.items():
        for b, y in table.items():
            assert table[join([a, b], how)] == choose(x, y)


@given(st.lists(st.sampled_from([2.0, 0.0, None]), max_size=80), st.integers(0, 20))
def test_true_is_never_said_without_enough_true_looks_in_a_row_of_known_ones(values, for_s):
    answers = walk(Holding([Condition("a > 1.0", for_s=float(for_s))]), values)
    for i, answer in enumerate(answers):
        assert (answer is None) == (values[i] is None)
        if answer:
            known = [v for v in values[: i + 1] if v is not None]
            assert known[len(known) - for_s - 1 :] == [2.0] * (for_s + 1)
        elif answer is False and values[i] == 2.0:
            assert values[max(0, i - for_s) : i + 1] != [2.0] * (for_s + 1)
