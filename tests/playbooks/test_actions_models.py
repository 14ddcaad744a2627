"""The verbs that move the champion, on a real model directory."""

import dataclasses
import json
from pathlib import Path

import pytest

from agent.errors import Refused
from agent.ports import Action, Step, Undo
from agent.registry import action
from connectors.model_directory import ModelDirectory
from playbooks.actions.models import DeployBackup, HoldRetraining, Models, Promote, RollBack

BY = "homeostat:run-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version, role, features in (
        ("1", "candidate", ["age", "area"]),
        ("2", "candidate", ["age", "area"]),
        ("3", "candidate", ["age", "area"]),
        ("b1", "backup", ["age"]),
        ("b2", "backup", ["age"]),
        ("b3", "backup", ["area"]),
    ):
        folder = tmp_path / "fraud" / version
        folder.mkdir(parents=True)
        about = {"version": version, "role": role, "features": features, "accuracy": 0.9}
        about["trained_at"] = 1000.0 + len(list((tmp_path / "fraud").iterdir()))
        (folder / "metadata.json").write_text(json.dumps(about))
    point(tmp_path, "3", ["2", "1"])
    return tmp_path


def point(root: Path, version: str, previous: list[str], by: str = "alice") -> None:
    text = json.dumps({"version": version, "previous": previous, "changed": 5.0, "by": by})
    (root / "fraud" / "champion.json").write_text(text)


def pointer(root: Path) -> dict:
    return json.loads((root / "fraud" / "champion.json").read_text())


@pytest.fixture
def models(root: Path) -> ModelDirectory:
    return ModelDirectory("model_directory", ModelDirectory.Config(path=root, lock_wait=0.3))


def step(use: str, target: str = "model:fraud", **more) -> Step:
    return Step(key="run-1/back", use=use, target=target, params={}, by=BY, **more)


async def planned(act, one: Step) -> Step:
    return dataclasses.replace(one, before=await act.observe(one))


def test_every_verb_keeps_the_contract():
    assert isinstance(ModelDirectory("m", ModelDirectory.Config(path=Path("/nowhere"))), Models)
    for name in ("roll_back", "promote", "deploy_backup", "hold_retraining"):
        cls = action.get(name)
        assert {cls.effect, cls.ability, cls.reversible, cls.shared} >= {Models, True}
        built = cls(cls.Params(**({"version": "1"} if name == "promote" else {})), None)
        assert isinstance(built, Action)
        assert isinstance(built, Undo)


async def test_roll_back_goes_to_the_champion_before_and_undo_restores_all_of_it(root, models):
    act = RollBack(RollBack.Params(), models)
    one = await planned(act, step("roll_back"))
    assert one.before["goal"] == "2"
    assert not act.reached(one, one.before)
    done = await act.run(one)
    assert done.values["version"] == "2"
    assert done.change is not None
    assert done.change.ours
    assert (done.change.kind, done.change.before, done.change.after) == ("release", "3", "2")
    assert pointer(root)["version"] == "2"
    assert pointer(root)["by"] == BY
    assert pointer(root)["previous"] == ["1"]  # what was rolled back is no champion to go back to
    assert act.reached(one, await act.observe(one))
    back = await act.undo(one, done.undo)
    assert "answers again" in back.summary
    assert back.change.after == "3"
    assert (pointer(root)["version"], pointer(root)["previous"]) == ("3", ["2", "1"])


@pytest.mark.parametrize(
    "act",
    [lambda m: RollBack(RollBack.Params(to="1"), m), lambda m: Promote(Promote.Params(version="1"), m)],
    ids=["roll_back", "promote"],
)  # fmt: skip
async def test_undo_of_a_long_jump_gives_back_the_champions_between(root, models, act):
    verb = act(models)
    before = {k: pointer(root)[k] for k in ("version", "previous")}
    one = await planned(verb, step("promote"))
    done = await verb.run(one)
    assert (pointer(root)["version"], pointer(root)["previous"]) == ("1", [])
    await verb.undo(one, done.undo)
    assert {k: pointer(root)[k] for k in ("version", "previous")} == before
    assert (await RollBack(RollBack.Params(), models).observe(step("roll_back")))["goal"] == "2"


async def test_undo_of_a_long_jump_is_refused_when_somebody_moved_it_since(root, models):
    verb = Promote(Promote.Params(version="1"), models)
    one = await planned(verb, step("promote"))
    done = await verb.run(one)
    await models.promote("fraud", "2", "1", "alice")
    await models.promote(
        "fraud", "1", "2", "alice"
    )  # the same version again, and a decision of hers
    with pytest.raises(Refused, match="changed by others"):
        await verb.undo(one, done.undo)
    assert (pointer(root)["version"], pointer(root)["by"]) == ("1", "alice")


async def test_two_roll_backs_go_further_back_not_forth(root, models):
    for goal in ("2", "1"):
        act = RollBack(RollBack.Params(), models)
        await act.run(await planned(act, step("roll_back")))
        assert pointer(root)["version"] == goal
    act = RollBack(RollBack.Params(), models)
    with pytest.raises(Refused, match="no champion before"):
        await act.run(await planned(act, step("roll_back")))


async def test_a_previous_champion_whose_files_are_gone_is_passed_over(root, models):
    (root / "fraud" / "2" / "metadata.json").unlink()
    act = RollBack(RollBack.Params(), models)
    assert (await act.observe(step("roll_back")))["goal"] == "1"


async def test_a_dry_run_moves_nothing(root, models):
    act = RollBack(RollBack.Params(), models)
    one = dataclasses.replace(await planned(act, step("roll_back")), dry_run=True)
    done = await act.run(one)
    assert "would make version 2" in done.summary
    assert done.change is None
    assert pointer(root)["version"] == "3"
    assert "nothing to put back" in (await act.undo(one, done.undo)).summary


async def test_a_pointer_that_others_moved_is_left_to_them(root, models):
    act = RollBack(RollBack.Params(), models)
    one = await planned(act, step("roll_back"))
    point(root, "1", ["3"], by="pipeline")
    with pytest.raises(Refused, match=r"changed by others.*version 1 by pipeline"):
        await act.run(one)
    assert pointer(root)["version"] == "1"


async def test_undo_is_refused_when_others_moved_it_since(root, models):
    act = RollBack(RollBack.Params(), models)
    one = await planned(act, step("roll_back"))
    done = await act.run(one)
    point(root, "1", ["2"], by="alice")
    with pytest.raises(Refused, match="changed by others"):
        await act.undo(one, done.undo)
    # the same version set again by a person is a decision of theirs, too
    point(root, "2", ["1"], by="alice")
    with pytest.raises(Refused, match="changed by others"):
        await act.undo(one, done.undo)
    assert pointer(root)["by"] == "alice"


async def test_a_try_that_was_cut_off_is_taken_as_done_and_can_be_undone(root, models):
    act = RollBack(RollBack.Params(), models)
    one = await planned(act, step("roll_back"))
    await act.run(one)  # the answer is lost: kill -9
    again = await act.run(one)
    assert "already" in again.summary
    assert again.undo
    await act.undo(one, again.undo)
    assert pointer(root)["version"] == "3"
    assert "already" in (await act.undo(one, again.undo)).summary


async def test_what_others_did_before_us_is_not_ours_to_undo(root, models):
    act = RollBack(RollBack.Params(), models)
    one = await planned(act, step("roll_back"))
    point(root, "2", ["1"], by="alice")
    done = await act.run(one)
    assert done.undo == {}
    assert "set by alice" in done.summary


@pytest.mark.parametrize("version", ["1", 1, 1.0])
async def test_promote_takes_versions_as_yaml_and_expressions_give_them(root, models, version):
    act = Promote(Promote.Params(version=version), models)
    one = await planned(act, step("promote"))
    done = await act.run(one)
    assert done.values["version"] == "1"
    assert pointer(root)["version"] == "1"


async def test_promote_refuses_a_version_that_is_not_there(root, models):
    act = Promote(Promote.Params(version="9"), models)
    with pytest.raises(Refused, match="no version 9"):
        await act.run(await planned(act, step("promote")))
    assert pointer(root)["version"] == "3"


async def test_the_backup_is_the_newest_that_does_without_the_feature(root, models):
    act = DeployBackup(DeployBackup.Params(), models)
    one = await planned(act, step("deploy_backup", facts={"feature": "area"}))
    done = await act.run(one)
    assert done.values["version"] == "b2"
    assert pointer(root)["previous"] == ["3", "2", "1"]
    await act.undo(one, done.undo)
    assert (pointer(root)["version"], pointer(root)["previous"]) == ("3", ["2", "1"])


async def test_the_backup_needs_to_know_the_feature_and_to_exist(models):
    act = DeployBackup(DeployBackup.Params(), models)
    with pytest.raises(Refused, match="which feature is broken"):
        await act.observe(step("deploy_backup"))
    for_feature = step("deploy_backup", target="feature:fraud/age")
    assert (await act.observe(for_feature))["goal"] == "b3"
    none = DeployBackup(DeployBackup.Params(without="nothing"), models)
    assert (await none.observe(step("deploy_backup")))["goal"] == "b3"
    both = dataclasses.replace(step("deploy_backup"), facts={"feature": "age"})
    assert (await act.observe(both))["goal"] == "b3"


async def test_without_a_backup_nothing_is_moved(root, models):
    for name in ("b1", "b2", "b3"):
        (root / "fraud" / name / "metadata.json").unlink()
    act = DeployBackup(DeployBackup.Params(without="area"), models)
    with pytest.raises(Refused, match="no backup version that does without area"):
        await act.run(await planned(act, step("deploy_backup")))


@pytest.mark.parametrize(
    ("target", "facts", "model"),
    [
        ("model:fraud", {}, "fraud"),
        ("version:fraud/3", {}, "fraud"),
        ("feature:fraud/age", {}, "fraud"),
        ("service:web", {"model": "fraud"}, "fraud"),
    ],
)
async def test_the_model_is_read_from_the_target(models, target, facts, model):
    act = RollBack(RollBack.Params(), models)
    assert (await act.observe(step("roll_back", target, facts=facts)))["model"] == model


@pytest.mark.parametrize("target", ["host:web-1", "nonsense"])
async def test_a_target_without_a_model_is_refused(models, target):
    with pytest.raises(Refused, match="roll_back"):
        await RollBack(RollBack.Params(), models).observe(step("roll_back", target))


async def test_a_hold_is_set_once_and_released_by_its_owner_only(root, models):
    act = HoldRetraining(HoldRetraining.Params(reason="unit of area\nchanged"), models)
    one = await planned(act, step("hold_retraining"))
    assert not act.reached(one, one.before)
    dry = await act.run(dataclasses.replace(one, dry_run=True))
    assert "would hold" in dry.summary
    assert not (root / "fraud" / "RETRAINING_HELD").exists()
    done = await act.run(one)
    assert done.change.kind == "flag"
    assert (root / "fraud" / "RETRAINING_HELD").read_text().startswith("unit of area changed\n")
    again = await act.run(one)  # a try that was cut off: still ours
    assert again.undo == done.undo
    assert act.reached(one, await act.observe(one))
    back = await act.undo(one, done.undo)
    assert "allowed again" in back.summary
    assert not (root / "fraud" / "RETRAINING_HELD").exists()
    assert "already" in (await act.undo(one, done.undo)).summary


async def test_a_hold_of_others_stays_theirs(root, models):
    (root / "fraud" / "RETRAINING_HELD").write_text("audit until friday\n")
    act = HoldRetraining(HoldRetraining.Params(), models)
    one = await planned(act, step("hold_retraining"))
    assert act.reached(one, one.before)
    done = await act.run(one)
    assert done.undo == {}
    with pytest.raises(Refused, match=r"changed by others.*audit until friday"):
        await act.undo(one, {"model": "fraud"})
    assert (root / "fraud" / "RETRAINING_HELD").exists()
