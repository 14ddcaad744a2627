"""The acts of belief: the whole show once, and what it is made of."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace

import pytest

from agent import registry
from agent.config import load
from agent.demo import belief, front, settings, stage
from agent.demo.card import Belief, Card
from agent.demo.ground import Ground
from agent.playbook import Library

SOME = ["killed in mid-run", "wrong playbook", "paused in mid-run"]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and prctl")


@pytest.mark.slow
@pytest.mark.timeout(600)
@linux
def test_acts_of_belief(tmp_path):
    # all six take six minutes: `make bench-belief`
    acts = list(belief.ACTS) if os.environ.get("HOMEOSTAT_BELIEF") == "all" else SOME
    card = tmp_path / "demo.json"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "agent", "demo", "--belief", "--seed", "7", "--plain",
         "--json-out", str(card), "--keep", str(tmp_path / "kept"),
         *(word for act in acts for word in ("--only", act))],
        cwd=tmp_path, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    found = json.loads(card.read_text())
    assert found == json.loads(done.stdout.rstrip().splitlines()[-1])
    assert {row["name"]: row["right"] for row in found["rows"]} == dict.fromkeys(acts, True)
    assert (found["beliefs"], found["beliefs_right"], found["harmful"]) == (len(acts), len(acts), 0)
    assert all(len(row["checks"]) >= 3 for row in found["rows"])


def good(name="paused in mid-run", **over):
    row = Belief(name, "it is paused", {"it stops": True, "it goes on": True}, seconds=12.0)
    return replace(row, **over)


def test_all_right():
    score = Card(3, 0, believed=1, beliefs=[good()])
    assert score.right
    assert score.figures()["beliefs_right"] == 1
    assert score.figures()["rows"][0]["checks"] == {"it stops": True, "it goes on": True}
    assert "1 of 1 acts of belief" in score.summary()


@pytest.mark.parametrize("wrong", [{"checks": {"it stops": False}}, {"checks": {}}, {"harmful": 1}])
def test_one_thing_that_does_not_hold_is_not_all_right(wrong):
    assert not Card(3, 0, believed=2, beliefs=[good(), good(**wrong)]).right


def test_an_act_that_was_not_shown_is_missed():
    assert not Card(3, 0, believed=2, beliefs=[good()]).right


def test_names_that_nobody_knows_are_told(tmp_path):
    with pytest.raises(
        ValueError, match="no act of belief is called 'bad release': take one of killed"
    ):
        stage.demo(belief=True, only=["bad release"], keep=tmp_path / "kept")
    with pytest.raises(ValueError, match="leave --suggest away"):
        stage.demo(belief=True, suggest=True, keep=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_the_settings_of_the_front_ends_and_the_users_playbooks_are_accepted(tmp_path):
    registry.load()
    ground = Ground(tmp_path, seed=1)
    about = settings.agent_yaml(ground, 8899, 0.2, mode="auto", fronts={"front-1": 8901})
    settings.write(ground.config, about, settings.HEAD)
    for one in (settings.wrong_idea("3"), settings.restart_silent()):
        settings.write(ground.playbooks / f"{one['id']}.yaml", one, settings.HEAD)
    config = load(ground.config)
    assert ("service", "front-1") in {(m.kind, m.key) for m in config.manages}
    found = Library.load([ground.playbooks], config).playbooks
    for name in ("push-forward", "restart-silent"):
        assert found[name].ceiling(config) == "auto"
        assert not found[name].lacking
    assert found["push-forward"].rank() < found["serve-bad-deploy"].rank(), (
        "else it never has its turn"
    )


def test_a_front_end_answers():
    said = []
    body = front.app({}, lambda status, headers: said.append((status, dict(headers))))
    assert said == [
        ("200 OK", {"Content-Type": "text/plain", "Content-Length": str(len(b"".join(body)))})
    ]


class Stage:
    """As much of a play as cutting the log needs."""

    def __init__(self, ground):
        self.ground = ground
        self.truth = type("Truth", (), {"predictions": None})()
        self.progress = type("Progress", (), {"say": lambda *_: None})()


@linux
def test_a_log_that_is_cut_loses_nothing(tmp_path):
    ground = Ground(tmp_path, seed=1)
    ground.predictions.write_text("before\n")
    play = Stage(ground)
    with belief._Cut(play) as cut:
        assert stat.S_ISFIFO(ground.predictions.stat().st_mode)
        writer = os.open(ground.predictions, os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, b'{"id": 1}\n')
        cut.mend()
        os.close(writer)
        assert stat.S_ISREG(ground.predictions.stat().st_mode)
    assert ground.predictions.read_text() == '{"id": 1}\n'
    assert play.truth.predictions.new() == [{"id": 1}]
