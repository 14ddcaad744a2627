"""The challenger gate: exact numbers, damage, idempotence; with a real training command."""

import math
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.errors import Refused
from agent.ports import Action, Step
from connectors.trainer import Trainer as Command
from playbooks.actions.retrain import Retrain, Trainer, read_holdback, sign_test

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Test machines are busy."""

SCRIPT = """
import json, os, sys
runs = os.environ["PWD_RUNS"]
open(runs, "a").write(os.environ["HOMEOSTAT_KEY"] + "\\n")
print("training", file=sys.stderr)
print(os.environ["REPORT"])
"""


def report(rows=200, champion_only=5, challenger_only=25, both=150, **more) -> dict:
    return {
        "version": "4",
        "holdback": {
            "rows": rows,
            "champion": {"accuracy": (both + champion_only) / rows},
            "challenger": {"accuracy": (both + challenger_only) / rows},
            "champion_only": champion_only,
            "challenger_only": challenger_only,
        },
        "data": {"sha256": "d"},
        "code": "c",
        "params": {"trees": 60},
        **more,
    }


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch):
    """Make a trainer whose command prints a given report and counts its runs."""

    def make(said: dict) -> Command:
        import json

        monkeypatch.setenv("REPORT", json.dumps(said))
        monkeypatch.setenv("PWD_RUNS", str(tmp_path / "runs"))
        config = Command.Config(
            model="fraud",
            command=[sys.executable, "-c", SCRIPT],
            env=["REPORT", "PWD_RUNS"],
            timeout=60,
        )
        return Command("trainer", config, state=tmp_path)

    return make


def step(key: str = "run-1/train", **more) -> Step:
    return Step(
        key=key, use="retrain", target="model:fraud", params={}, by="homeostat:run-1", **more
    )


# ---- the test itself


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 0.5),
        (5, 0, 1 / 32),
        (8, 2, 56 / 1024),
        (0, 5, 1.0),
        (15, 5, 21700 / 2**20),
    ],
)
def test_sign_test_gives_the_exact_probability(wins, losses, p):
    assert sign_test(wins, losses) == pytest.approx(p, rel=1e-12)


@given(st.integers(0, 400), st.integers(0, 400))
@settings(CALM)
def test_sign_test_is_a_tail_probability(wins, losses):
    p = sign_test(wins, losses)
    assert 0 < p <= 1
    assert sign_test(wins + 1, losses) <= p <= sign_test(wins, losses + 1)
    # P(X >= w) + P(X <= w) = 1 + P(X = w), and the lower tail is the upper one of the losses
    n = wins + losses
    both = p + sign_test(losses, wins)
    assert both == pytest.approx(1 + math.comb(n, wins) / 2**n if n < 1000 else both, rel=1e-9)


@given(st.integers(-150, 150))
@example(-150)
@example(0)
@example(150)
@settings(CALM, max_examples=20)
def test_the_approximation_for_many_rows_joins_the_exact_values(excess):
    exact = sign_test(10_000 + excess, 10_000 - excess)
    near = sign_test(10_001 + excess, 10_001 - excess)
    assert near == pytest.approx(exact, abs=2e-4)


def test_sign_test_beyond_the_range_of_floats():
    assert sign_test(4000, 1000) < 1e-300
    assert 0.4 < sign_test(5000, 5000) < 0.6


# ---- reports


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"holdback": None},
        {"holdback": {"rows": 10}},
        {"holdback": [1, 2]},
        report() | {"holdback": {**report()["holdback"], "rows": "200"}},
        report() | {"holdback": {**report()["holdback"], "rows": True}},
        report() | {"holdback": {**report()["holdback"], "champion_only": -1}},
        report() | {"holdback": {**report()["holdback"], "champion": {}}},
        report() | {"holdback": {**report()["holdback"], "champion": {"accuracy": "high"}}},
    ],
)
def test_a_report_that_cannot_be_judged_is_refused(damage):
    with pytest.raises(Refused, match="cannot be judged"):
        read_holdback(damage)


@pytest.mark.parametrize(
    "lie",
    [
        {"challenger": {"accuracy": 0.99}},
        {"challenger": {"accuracy": 1.7}},
        {"champion_only": 500},
        {"challenger_only": 60},
        {"champion": {"accuracy": math.nan}},
    ],
)
def test_a_report_that_does_not_add_up_is_refused(lie):
    with pytest.raises(Refused, match="does not add up"):
        read_holdback({"holdback": {**report()["holdback"], **lie}})


def regression(champion=4.0, challenger=3.5, champion_only=70, challenger_only=120, **more) -> dict:
    return report(**more) | {
        "holdback": {
            "rows": 200,
            "champion": {"loss": champion},
            "challenger": {"loss": challenger},
            "champion_only": champion_only,
            "challenger_only": challenger_only,
        }
    }


@pytest.mark.parametrize(
    "lie",
    [
        {"champion": -1.0},
        {"challenger": math.nan},
        {"challenger": math.inf},
        {"champion_only": 300},
        {"champion_only": 0, "challenger_only": 0},
    ],
)
def test_losses_that_do_not_add_up_are_refused(lie):
    with pytest.raises(Refused, match="does not add up"):
        read_holdback(regression(**lie))


def test_a_loss_of_one_and_an_accuracy_of_the_other_can_not_be_judged():
    said = regression()
    said["holdback"]["challenger"] = {"accuracy": 0.9}
    with pytest.raises(Refused, match="cannot be judged"):
        read_holdback(said)


# ---- the verb


async def test_a_regression_passes_by_its_loss(trainer):
    done = await Retrain(Retrain.Params(better_than=0.1), trainer(regression())).run(step())
    assert done.values["gain"] == pytest.approx(0.125)
    assert (done.values["loss"], done.values["champion_loss"]) == (3.5, 4.0)
    assert "accuracy" not in done.values
    assert done.values["p"] == pytest.approx(sign_test(120, 70))
    assert "has loss 3.5 against 4 of the champion" in done.summary


@pytest.mark.parametrize(
    ("said", "params", "why"),
    [
        (regression(challenger=4.5), {}, "needs a gain above 0"),
        (regression(), {"better_than": 0.2}, "needs a gain above 0.2"),
        # less loss in the mean by a few rows, more in most of them: by luck, as far as rows tell
        (regression(champion_only=110, challenger_only=90), {}, "needs p <= 0.05"),
        (regression(champion=0.0, challenger=0.0, champion_only=0, challenger_only=0), {}, "needs a gain above 0"),
    ],
)  # fmt: skip
async def test_a_regression_that_is_not_proven_better_is_refused(trainer, said, params, why):
    with pytest.raises(Refused, match="not proven better") as refused:
        await Retrain(Retrain.Params(**params), trainer(said)).run(step())
    assert why in str(refused.value)


async def test_what_a_refused_training_used_is_told_for_the_record(trainer):
    with pytest.raises(Refused) as refused:
        await Retrain(Retrain.Params(min_rows=500), trainer(report())).run(step())
    assert 'it used data {"sha256": "d"}, code "c", params {"trees": 60}' in str(refused.value)
    with pytest.raises(Refused) as refused:
        await Retrain(Retrain.Params(min_rows=500), trainer(report(code=None))).run(
            step("run-3/train")
        )
    assert "the report does not say which code" in str(refused.value)


async def test_a_better_challenger_passes_with_its_numbers(trainer):
    command = trainer(report())
    assert isinstance(command, Trainer)
    act = Retrain(Retrain.Params(), command)
    assert isinstance(act, Action)
    seen = await act.observe(step())
    assert seen == {"model": "fraud", "version": ""}
    assert not act.reached(step(), seen)
    done = await act.run(step())
    assert done.values["version"] == "4"
    assert done.values["gain"] == pytest.approx(0.1)
    assert done.values["p"] == pytest.approx(sign_test(25, 5))
    assert done.values["used"] == {"data": {"sha256": "d"}, "code": "c", "params": {"trees": 60}}
    assert done.change.ours
    # after a crash the runner looks: it was trained, so `run` is asked once more and only judges
    seen = await act.observe(step())
    assert seen["version"] == "4"
    assert act.reached(step(), seen)
    assert done.undo == {}
    assert "answers nobody" in act.stays


async def test_the_same_key_trains_once_and_another_trains_again(trainer, tmp_path):
    act = Retrain(Retrain.Params(), trainer(report()))
    first = await act.run(step())
    again = await act.run(step())
    assert first.values == again.values
    await act.run(step("run-2/train"))
    assert (tmp_path / "runs").read_text().split() == ["run-1/train", "run-2/train"]


@pytest.mark.parametrize(
    ("said", "params", "why"),
    [
        (report(champion_only=12, challenger_only=14), {}, "needs p <= 0.05"),
        (report(), {"better_than": 0.1}, "needs a gain above 0.1"),
        (report(), {"alpha": 1e-9}, "needs p <= 1e-09"),
        (report(), {"min_rows": 500}, "fewer than 500 rows"),
        (report(champion_only=25, challenger_only=5), {}, "needs a gain above 0"),
        (report(champion_only=0, challenger_only=0), {}, "needs a gain above 0"),
    ],
)
async def test_a_challenger_that_is_not_proven_better_is_refused(trainer, said, params, why):
    act = Retrain(Retrain.Params(**params), trainer(said))
    with pytest.raises(Refused, match="not proven better") as refused:
        await act.run(step())
    assert why in str(refused.value)
    assert "held-back rows" in str(refused.value)


async def test_a_dry_run_trains_nothing(trainer, tmp_path):
    act = Retrain(Retrain.Params(), trainer(report()))
    done = await act.run(step(dry_run=True))
    assert "would retrain fraud" in done.summary
    assert not (tmp_path / "runs").exists()
