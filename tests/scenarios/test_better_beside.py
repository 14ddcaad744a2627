"""A changed relation while a shadow stands by: which version is proven better on the same requests."""

from __future__ import annotations

import pytest
from made_up import ACC, MODEL, RELATION, Picture, play, s

from agent.model import Edge, Entity

pytestmark = pytest.mark.long

SEVEN = Entity("version", "fraud/7")


@pytest.mark.parametrize(
    ("how", "against", "high", "better"),
    [
        ("paired", "3", -0.04, "7"),
        ("paired", "3", 0.01, None),  # not proven
        ("paired", "2", -0.04, None),  # better than one that does not serve
        ("apart", "3", -0.04, None),  # at another time, in another world
    ],
)
def test_it_is_named_when_it_is_proven_beside_what_serves(how, against, high, better, tmp_path):
    margin = s("version.loss_difference_high", SEVEN, against=against, how=how)
    picture = Picture(
        "concept.drift", MODEL, {ACC: 0.72, RELATION: 1.0, margin: high},
        attrs={MODEL: {"serving": "3"}}, edges=[Edge("version_of", SEVEN, MODEL)],
    )  # fmt: skip
    top = play(picture, tmp_path).incident.diagnosis.top
    assert (top.kind, top.entity) == ("concept.drift", MODEL)
    assert top.facts.get("better") == better
