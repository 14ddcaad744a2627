"""What people say of causes moves who is blamed, within bounds, and fades."""

import math
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from agent.doubts import LEAST, MOST, WORD, doubts_of

DAY = 86_400.0


def said(incident="i", wrong="host.neighbour", right="", about="service", ts=0.0):
    return SimpleNamespace(
        incident=incident, about=about, wrong=wrong, right=right, of="process:p", by="olga", ts=ts
    )


def test_one_word_counts_for_the_same_kind_of_trouble_and_fades():
    found = doubts_of([said(right="host.disk")], 0.0)
    assert {key: d.weight for key, d in found.items()} == {
        ("service", "host.disk"): WORD, ("service", "host.neighbour"): -WORD,
    }  # fmt: skip
    assert doubts_of([said()], 60 * DAY)["service", "host.neighbour"].weight == -WORD / 2
    assert doubts_of([said()], 300 * DAY) == {}


def test_it_says_how_often_people_said_so():
    doubt = doubts_of(
        [said(), said("j"), said("k", wrong="host.cpu", right="host.neighbour")], 0.0
    )["service", "host.neighbour"]
    assert (doubt.wrong, doubt.right) == (2, 1)
    assert doubt.words == (
        "people said 2 times that it was not and once that it was host.neighbour where a service was in trouble"
    )
    assert math.isclose(doubt.times, math.exp(-WORD))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", ""]), st.sampled_from(["a", "b", ""]), st.floats(0, 1e8)
        )
    )
)
def test_however_often_it_is_said_it_stays_within_bounds(words):
    found = doubts_of([said(str(i), w, r, ts=ts) for i, (w, r, ts) in enumerate(words)], 1e8)
    assert all(LEAST <= d.weight <= MOST for d in found.values())
    assert all(cause for _, cause in found)
