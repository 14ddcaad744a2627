from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent import registry
from agent.authority import Tokens
from agent.config import load
from agent.demo import settings
from agent.demo.ground import Ground
from agent.errors import ConfigError
from agent.playbook import Library


@pytest.fixture
def ground(tmp_path):
    return Ground(tmp_path, seed=1)


def write(ground, mode="auto", latency_s=0.2):
    settings.write(
        ground.config, settings.agent_yaml(ground, 8899, latency_s, mode=mode), "words\nfor people"
    )
    for name, data in settings.playbooks(latency_s, mode=mode).items():
        settings.write(ground.config.parent / "playbooks.d" / f"{name}.yaml", data, "words")


@given(st.floats(0, 5))
def test_the_objective_has_a_margin_and_bounds(quiet):
    found = settings.latency_objective(quiet)
    low, high = settings.LATENCY_S
    assert low <= found <= high
    if low < settings.MARGIN * quiet < high:
        assert found == pytest.approx(settings.MARGIN * quiet, abs=0.006)


@pytest.mark.parametrize("mode", ["auto", "suggest"])
def test_what_is_written_is_accepted_and_covers_every_cause(ground, mode):
    registry.load()
    write(ground, mode)
    config = load(ground.config)
    library = Library.load([ground.config.parent / "playbooks.d"], config)
    causes = {}
    for id_ in settings.playbooks(0.2, mode=mode):
        playbook = library.playbooks[id_]
        assert playbook.ceiling(config) == mode
        assert not playbook.lacking
        causes[playbook.because.cause] = id_
    assert set(causes) == {
        "release.model", "host.neighbour", "serving.saturation", "data.contract", "concept.drift",
    }  # fmt: skip


def test_it_may_act_on_exactly_its_own(ground):
    registry.load()
    write(ground)
    manages = [(m.kind, m.key, m.where) for m in load(ground.config).manages]
    assert manages == [
        ("service", "scoring", {}), ("model", "scoring", {}), ("feature", "scoring/*", {}),
        ("process", "*", {"command": "*agent.demo.neighbour*"}),
    ]  # fmt: skip


def test_the_agent_never_hears_of_the_world(ground):
    write(ground)
    text = ground.config.read_text() + "".join(
        p.read_text() for p in (ground.config.parent / "playbooks.d").iterdir()
    )
    for secret in (ground.control, ground.answers, ground.first_rows, ground.served_rows):
        assert str(secret) not in text
    assert str(ground.folder / "world") not in text


def test_what_changed_is_said_with_the_shipped_value(ground):
    write(ground)
    said = settings.changed(ground)
    assert "mode: auto (default suggest)" in said
    assert "diagnose.settle: 4s (default 10 s)" in said
    assert "playbook serve-bad-deploy: mode: auto (default suggest)" in said
    assert any(
        s.startswith("playbook serve-saturation: do[0].until.for: 3s (default ") for s in said
    )
    assert not any("title" in s or ".use:" in s for s in said)  # what is as shipped is not said


def test_overrides_only_name_what_is_shipped(ground):
    """A playbook or step that was renamed would silently be no override any more."""
    registry.load()
    write(ground)
    shipped = Library.load([], load(ground.config)).playbooks
    for id_, over in settings.playbooks(0.2, mode="auto").items():
        assert id_ in shipped
        ids = {step.id for step in shipped[id_].do}
        assert {step["id"] for step in over.get("do", [])} <= ids


def test_the_token_is_that_of_an_operator(ground):
    token = settings.token(ground.state)
    person = Tokens(ground.state / "tokens.json").who(token)
    assert person.role == "operator"


def test_comments_stand_on_top(ground):
    write(ground)
    assert ground.config.read_text().startswith("# words\n# for people\n")
    assert yaml.safe_load(ground.config.read_text())["mode"] == "auto"


def test_more_connectors_see_the_show(ground, tmp_path):
    path = tmp_path / "more.yaml"
    path.write_text("connectors:\n  slack: {channel: C0123456789}\n")
    ground.more = settings.more_connectors(path)
    about = settings.agent_yaml(ground, 8899, 0.2, mode="auto")
    assert about["connectors"]["slack"] == {"channel": "C0123456789"}
    assert "gunicorn" in about["connectors"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode: auto\n", "`mode` is not taken here"),
        ("connectors: [slack]\n", "is no mapping"),
        ("connectors: {a: 1, a: 2}\n", "written twice"),
    ],
)
def test_what_is_no_connector_is_told_with_its_place(tmp_path, text, said):
    path = tmp_path / "more.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        settings.more_connectors(path)
    assert error.value.faults[0].line == 1
