"""The registry of MLflow: champions, holds and backups by a stand-in; the same on a real server: tests/live."""

import asyncio
import dataclasses
import json
import time

import pytest
import structlog
from mlflow_side import People, stand_in
from pydantic import ValidationError

from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Entity
from agent.ports import Abilities, Source, Step
from connectors._mlflow import read_hold
from connectors.mlflow import MlflowModels
from playbooks.actions.models import DeployBackup, Models, RollBack

BY = "homeostat:run-1"


@pytest.fixture
def server():
    with stand_in() as made:
        People(made.url).fraud()
        yield made


@pytest.fixture
async def make(server, tmp_path):
    made = []

    def one(**more) -> MlflowModels:
        config = MlflowModels.Config(**{"url": server.url, "timeout": 2} | more)
        made.append(MlflowModels("mlflow", config, state=tmp_path))
        return made[-1]

    yield one
    for each in made:
        await each.close()


def people(server) -> People:
    return People(server.url)


def value(frame, metric: str, model: str = "fraud") -> float:
    return next(
        v for s, v in zip(frame.series, frame.values.tolist(), strict=True)
        if s.metric == metric and s.entity == Entity("model", model)
    )  # fmt: skip


# ---- what it sees


async def test_it_sees_champions_and_what_they_were_made_of(make):
    one = make()
    assert isinstance(one, Source)
    assert isinstance(one, Models)
    assert isinstance(one, Abilities)
    frame = await one.poll()
    assert frame.changes == ()  # at first sight nothing has changed
    assert 0 <= value(frame, "model.age_seconds") < 60
    assert value(frame, "model.retraining_held") == 0
    told = {s.entity.id: dict(s.attrs) for s in frame.seen}
    assert told["model:fraud"]["version"] == "3"
    assert told["version:fraud/3"]["accuracy"] == "0.9300"
    assert told["version:fraud/3"]["champion"] == "true"
    assert told["version:fraud/4"]["role"] == "backup"
    assert (await one.poll()).seen == ()


async def test_versions_in_order_with_their_roles(make, server):
    server.files["fraud", "6"] = json.dumps({"signature": {"inputs": '[{"name": "age"}]'}})
    found = await make().versions("fraud")
    assert [v.version for v in found] == ["1", "2", "3", "4", "5", "6"]
    assert [v.role for v in found] == ["candidate"] * 3 + ["backup"] * 3
    assert [v.features for v in found[3:]] == [("age",), ("area",), ("age",)]
    assert found[1].accuracy == 0.92
    assert abs(found[1].trained_at - time.time()) < 60


@pytest.mark.parametrize("status", [0, 500, 403])
async def test_a_backup_whose_inputs_nobody_knows_is_no_backup(make, server, status):
    def before(method, path, args):
        server.status = status if "get-artifact" in path else 0

    server.before = before
    one = make()
    assert len((await one.poll()).series) == 2  # files that can not be had blind nobody
    found = await one.versions("fraud")
    assert (found[5].role, found[5].features) == ("candidate", ())
    assert sum("get-artifact" in path for _, path in server.asked) == 1


async def test_a_release_by_a_person_is_a_change_with_its_facts(make, server):
    one = make()
    await one.poll()
    who = people(server)
    version = who.register("fraud", who.run("fraud-training", 0.7, trees="5"))
    who.point("fraud", version)
    who.point("fraud", "2", alias="challenger")
    registered, moved, other = (await one.poll()).changes
    assert (registered.kind, registered.after) == ("act", "version 7")
    assert (moved.kind, moved.before, moved.after, moved.by) == ("release", "3", "7", "")
    assert moved.text == 'code c0ffee; params {"trees": "5"}'
    assert moved.url == f"{server.url}/#/models/fraud/versions/7"
    assert (other.kind, other.before, other.after) == ("act", "", "2")
    assert (await one.poll()).changes == ()


async def test_what_moved_while_the_daemon_was_down_is_told(make, server):
    one = make()
    await one.poll()
    await one.close()
    people(server).point("fraud", "1")
    (moved,) = (await make().poll()).changes
    assert (moved.kind, moved.before, moved.after) == ("release", "3", "1")


async def test_what_a_frame_told_is_kept_only_when_the_next_is_asked_for(make, server):
    one = make()
    await one.poll()
    await one.poll()
    people(server).point("fraud", "1")
    assert len((await one.poll()).changes) == 1
    # killed before the frame was taken: told again
    assert len((await make().poll()).changes) == 1


async def test_our_own_move_is_known_as_ours(make):
    one = make()
    await one.poll()
    await one.promote("fraud", "2", "3", BY)
    (moved,) = (await one.poll()).changes
    assert (moved.by, moved.ours) == (BY, True)
    assert moved.ts == pytest.approx(time.time(), abs=60)


async def test_a_poll_in_the_midst_of_our_move_takes_nothing_from_us(make, server):
    one = make()
    await one.poll()
    polled = []

    def before(method, path, args):
        if path == "registered-models/alias" and not polled:
            polled.append(asyncio.run_coroutine_threadsafe(one.poll(), loop).result(5))

    loop = asyncio.get_running_loop()
    server.before = before
    await one.promote("fraud", "2", "3", BY)
    assert polled[0].changes == ()
    assert (await one.poll()).changes[0].by == BY
    assert (await one.champion("fraud")).by == BY


async def test_a_model_that_lost_its_alias_hides_no_other(make, server):
    people(server).fraud("spam")
    one = make()
    assert len((await one.poll()).series) == 4
    people(server).ask("DELETE", "registered-models/alias", name="fraud", alias="champion")
    with structlog.testing.capture_logs() as logs:
        frame = await one.poll()
        await one.poll()
    assert len(frame.series) == 4
    assert value(frame, "model.age_seconds") != value(frame, "model.age_seconds")  # NaN
    assert value(frame, "model.age_seconds", "spam") >= 0
    (said,) = [e for e in logs if e["event"] == "model_unreadable"]
    assert "has the alias champion" in said["problem"]


async def test_a_model_that_is_named_and_not_there_hides_no_other(make):
    frame = await make(models=["fraud", "ghost"]).poll()
    assert value(frame, "model.age_seconds") >= 0


# ---- what it moves


async def test_a_stack_of_champions_goes_back_and_forth(make):
    one = make()
    await one.promote("fraud", "2", "3", BY)
    await one.promote("fraud", "1", "2", BY)
    now = await one.champion("fraud")
    assert (now.version, now.previous, now.by) == ("1", ("2", "3"), BY)
    await one.promote("fraud", "2", "1", BY)
    assert (await one.champion("fraud")).previous == ("3",)


async def test_champions_that_people_set_are_remembered(make, server):
    one = make()
    await one.poll()
    for version in ("1", "2"):
        people(server).point("fraud", version)
        await one.poll()
    assert (await one.champion("fraud")).previous == ("1", "3")
    people(server).point("fraud", "3")  # back, as a stack goes back
    assert (await one.champion("fraud")).previous == ()


async def test_a_version_that_a_person_set_again_is_theirs(make, server):
    one = make()
    await one.poll()
    await one.promote("fraud", "2", "3", BY)
    await one.poll()
    people(server).point("fraud", "1")
    await one.poll()
    people(server).point("fraud", "2")
    assert (await one.champion("fraud")).by == ""
    await one.poll()
    assert (await one.champion("fraud")).by == ""
    await one.close()
    assert (await make().champion("fraud")).by == ""


async def test_others_are_not_overwritten(make, server):
    one = make()
    people(server).point("fraud", "1")
    with pytest.raises(Refused, match=r"is 1, not 3: changed by others"):
        await one.promote("fraud", "2", "3", BY)
    assert people(server).pointer("fraud") == "1"


async def test_whoever_moves_it_after_the_first_look_is_seen(make, server):
    one = make()

    def before(method, path, args):
        if path == "registered-models/set-tag":
            server.models["fraud"]["aliases"]["champion"] = "1"

    server.before = before
    with pytest.raises(Refused, match="is 1, not 3"):
        await one.promote("fraud", "2", "3", BY)
    assert people(server).pointer("fraud") == "1"


async def test_two_agents_do_not_cross(make, server):
    async def other_moves():
        other = MlflowModels("other", MlflowModels.Config(url=server.url))
        await other.promote("fraud", "1", "3", "homeostat:run-2")
        await other.close()

    def before(method, path, args):
        if path == "registered-models/alias":
            server.before = None
            asyncio.run(other_moves())  # after our last look: this is the window

    server.before = before
    await make().promote("fraud", "2", "3", BY)
    assert people(server).pointer("fraud") == "2"  # overwritten, as the docs say

    def earlier(method, path, args):
        if path == "registered-models/set-tag":
            server.before = None
            server.models["fraud"]["tags"].pop("homeostat.champion")
            people(server).point("fraud", "3")
            asyncio.run(other_moves())

    server.before = earlier
    with pytest.raises(Refused, match="is 1, not 2"):
        await make().promote("fraud", "3", "2", BY)
    assert people(server).pointer("fraud") == "1"


async def test_what_is_not_there_or_not_ready_is_not_promoted(make, server):
    one = make()
    with pytest.raises(Refused, match="fraud has no version 99"):
        await one.promote("fraud", "99", "3", BY)
    server.models["fraud"]["versions"]["2"]["status"] = "PENDING_REGISTRATION"
    with pytest.raises(Refused, match="is PENDING_REGISTRATION, not ready"):
        await one.promote("fraud", "2", "3", BY)
    assert "2" not in [v.version for v in await one.versions("fraud")]
    with pytest.raises(Refused, match="there is no model ghost"):
        await one.champion("ghost")


async def test_a_try_that_was_cut_off_between_tag_and_alias_is_made_again(make, server):
    one = make()

    def before(method, path, args):
        server.status = 503 if path == "registered-models/alias" else 0

    server.before = before
    with pytest.raises(Unavailable):
        await one.promote("fraud", "2", "3", BY)
    server.before, server.status = None, 0
    now = await one.champion("fraud")
    assert (now.version, now.by) == ("3", "")
    await one.promote("fraud", "2", "3", BY)
    assert (await one.champion("fraud")).by == BY


async def test_an_alias_that_may_have_been_moved_is_uncertain(make, server):
    one = make()

    def before(method, path, args):
        server.status = 500 if path == "registered-models/alias" else 0

    server.before = before
    with pytest.raises(Uncertain, match="500; it may have been done"):
        await one.promote("fraud", "2", "3", BY)
    server.before = lambda _m, path, _a: setattr(server, "status", 500 if path.endswith("set-tag") else 0)  # fmt: skip
    with pytest.raises(Unavailable, match="the alias was not moved"):
        await one.promote("fraud", "2", "3", BY)


async def test_holds_are_tags_that_people_can_write_too(make, server):
    one = make()
    await one.hold_retraining("fraud", "bad\ndata", BY)
    await one.hold_retraining("fraud", "worse data", "homeostat:run-2")
    hold = await one.retraining_held("fraud")
    assert (hold.reason, hold.by) == ("bad data", BY)
    assert value(await one.poll(), "model.retraining_held") == 1
    with pytest.raises(Refused, match=r"held by homeostat:run-1 \(bad data\)"):
        await one.release_retraining("fraud", "homeostat:run-2")
    await one.release_retraining("fraud", BY)
    assert await one.retraining_held("fraud") is None
    tag = {"name": "fraud", "key": "retraining_held", "value": "no"}
    people(server).ask("POST", "registered-models/set-tag", **tag)
    assert (await one.retraining_held("fraud")).reason == "no"
    assert read_hold("") == ("no reason given", "")


async def test_verbs_roll_back_and_deploy_a_backup(make, server):
    one = make()
    await one.poll()
    people(server).point("fraud", "2")
    step = Step("run-1/back", "roll_back", "model:fraud", {}, by=BY)
    act = RollBack(RollBack.Params(), one)
    step = dataclasses.replace(step, before=dict(await act.observe(step)))
    done = await act.run(step)
    assert people(server).pointer("fraud") == "3"
    await act.undo(step, done.undo)
    assert people(server).pointer("fraud") == "2"
    backup = DeployBackup(DeployBackup.Params(without="area"), one)
    assert (await backup.observe(step))["goal"] == "4"


# ---- what goes wrong


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (401, b"{}", Refused, "401"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', Refused, "403, no"),
        (302, b"", Refused, "302"),
        (429, b"slow down", Unavailable, "429"),
        (500, b"{}", Unavailable, "500"),
        (503, b"", Unavailable, "503"),
        (200, b"<html>log in</html>", Refused, "no JSON"),
        (200, b"[1]", Refused, "no JSON"),
        (200, b"{}", Refused, "no registered model"),
        (200, b"[" * 100_000, Refused, "no JSON"),
        (200, b"x" * (9 << 20), Refused, "larger than"),
    ],
)
async def test_answers_say_what_they_mean(make, server, monkeypatch, status, body, error, words):
    monkeypatch.setenv("MLFLOW_TOKEN", "tok-canary-77")
    one = make(token="env:MLFLOW_TOKEN", models=["fraud"])
    server.status, server.body = status, body
    with pytest.raises(error, match=words) as caught:
        await one.champion("fraud")
    assert "tok-canary-77" not in str(caught.value)
    with pytest.raises(error):
        await one.poll()
    server.status = 0
    assert (await one.champion("fraud")).version == "3"


async def test_who_asks_is_said_by_reference(make, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TOKEN", "tok-canary-77")
    await make(token="env:MLFLOW_TOKEN").champion("fraud")
    assert server.headers[-1]["authorization"] == "Bearer tok-canary-77"
    one = make(user="ops", password="env:MLFLOW_TOKEN")
    await one.champion("fraud")
    assert server.headers[-1]["authorization"] == "Basic b3BzOnRvay1jYW5hcnktNzc="
    assert "tok-canary" not in " ".join(await one.describe())
    monkeypatch.delenv("MLFLOW_TOKEN")
    with pytest.raises(Refused, match="MLFLOW_TOKEN is not set"):
        await one.champion("fraud")
    with pytest.raises(ValidationError, match="two ways in"):
        MlflowModels.Config(url="http://x", token="env:A", user="b")


async def test_a_server_that_is_gone_is_unavailable_and_comes_back(make, server):
    one = make()
    await one.poll()
    away = make(url="http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="no connection"):
        await away.poll()
    assert "no connection" in (await away.describe())[0]
    assert len((await one.poll()).series) == 2


async def test_it_asks_little_while_nothing_changes(make, server):
    one = make()
    await one.poll()
    server.asked.clear()
    await one.poll()
    assert server.asked == [("GET", "registered-models/search")]


async def test_a_damaged_tag_is_as_none(make, server):
    tag = {"name": "fraud", "key": "homeostat.champion", "value": '{"by": 1}'}
    people(server).ask("POST", "registered-models/set-tag", **tag)
    now = await make().champion("fraud")
    assert (now.version, now.by, now.previous) == ("3", "", ())


async def test_it_says_what_it_sees(make, server):
    one = make()
    await one.hold_retraining("fraud", "bad data", BY)
    said = await one.describe()
    assert said[0] == f"MLflow 3.0-stand-in at {server.url}"
    assert "model:fraud: version 3 answers; versions 1 (candidate)" in said[1]
    assert said[1].endswith("retraining is held: bad data")
    assert "would move the alias champion" in said[2]


def test_a_stage_in_the_config_is_answered_with_the_remedy():
    with pytest.raises(ValidationError, match="MLflow has deprecated stages: set an alias"):
        MlflowModels.Config(url="http://mlflow:5000", stage="Production")
