"""One workload of Kubernetes, against kmock; every object, ours and theirs, passes the schemas of Kubernetes."""

import asyncio
import dataclasses
import json

import pytest
from kubernetes_side import (
    HPAS,
    NAMESPACE,
    OUTSIDE,
    PODS,
    REVISIONS,
    SETS,
    WORKLOADS,
    faults,
    role_of,
    serving,
)
from kubernetes_workload_side import Workload, template
from pydantic import ValidationError
from training_side import until

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Step
from connectors import kubernetes
from connectors._kube_api import MERGE
from connectors._kube_rollout import progress
from connectors.kubernetes import Kubernetes
from playbooks.actions import rollouts
from playbooks.actions.limits import SetLimit
from playbooks.actions.rollouts import RolloutRestart, RolloutUndo
from playbooks.actions.scale import Scale

WEB = "service:web"


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    monkeypatch.setattr(kubernetes, "_LOOK_S", 0.01)
    with serving(Workload()) as made:
        yield made


def config(side, **more):
    return Kubernetes.Config(
        **{"service": "web", "workload": "deployment/web", "url": side.url, "token": "env:K8S_TOKEN",
           "namespace": NAMESPACE, "wait": 0.3, **more}
    )  # fmt: skip


@pytest.fixture
async def web(side):
    one = Kubernetes("k8s", config(side))
    yield one
    await one.close()


async def test_it_scales_and_waits_until_all_are_ready(side, web):
    assert await web.replicas(WEB) == 3
    await web.set_replicas(WEB, 5, 3)
    assert (await web.replicas(WEB), len(side.pods)) == (5, 5)
    await web.set_replicas(WEB, 2, 5)
    assert len(side.pods) == 2
    with pytest.raises(Refused, match="asks for 2 pods, not 4: changed by others"):
        await web.set_replicas(WEB, 5, 4)
    side.heals = False
    with pytest.raises(Uncertain, match="2 of 3 pods of deployment/web are ready after 300 ms"):
        await web.set_replicas(WEB, 3, 2)


async def test_who_changed_it_between_our_look_and_our_hand_wins(side, web):
    side.meanwhile = lambda _: side.release("web:2")
    with pytest.raises(Refused, match="the object has been modified; changed by others just now"):
        await web.set_replicas(WEB, 5, 3)
    assert side.replicas == 3


async def test_an_autoscaler_rules_and_its_bounds_are_limits(side, web):
    with pytest.raises(Refused, match="has no HorizontalPodAutoscaler"):
        await web.limit(WEB, "min_replicas_count")
    side.autoscaled(2, 6)
    with pytest.raises(
        Refused, match="scaled by the HorizontalPodAutoscaler web-hpa: set its bounds"
    ):
        await web.set_replicas(WEB, 5, 3)
    assert await web.limit(WEB, "min_replicas_count") == 2.0
    assert await web.nearest(WEB, "min_replicas_count", 4.4) == 4.0
    with pytest.raises(Refused, match="can not be 7: max_replicas_count is 6"):
        await web.nearest(WEB, "min_replicas_count", 7.0)
    with pytest.raises(Refused, match="can not be 1: min_replicas_count is 2"):
        await web.nearest(WEB, "max_replicas_count", 0.0)
    await web.set_limit(WEB, "min_replicas_count", 4.0, 2.0)
    assert side.hpa["spec"]["minReplicas"] == 4
    with pytest.raises(Refused, match=r"is 4, not 2\.0: changed by others"):
        await web.set_limit(WEB, "min_replicas_count", 5.0, 2.0)
    with pytest.raises(Refused, match="no limit cpu_cores"):
        await web.limit(WEB, "cpu_cores")


async def test_a_pod_is_evicted_once_and_its_successor_is_waited_for(side, web):
    before = {one.birth: one for one in await web.units(WEB)}
    assert [one.replica for one in before.values()] == [f"replica:web/web-00{i}" for i in (1, 2, 3)]
    await web.restart(WEB, "uid-2")
    after = {one.birth: one.well for one in await web.units(WEB)}
    assert after == {"uid-1": True, "uid-3": True, "uid-4": True}
    with pytest.raises(Refused, match="no pod of uid uid-2: it was restarted already"):
        await web.restart(WEB, "uid-2")
    side.budgets = {"web": 0}
    with pytest.raises(Unavailable, match="disruption budget does not allow it now"):
        await web.restart(WEB, "uid-1")
    side.budgets, side.heals = {}, False
    with pytest.raises(Uncertain, match="2 of 3 pods"):
        await web.restart(WEB, "uid-1")
    assert not all(one.well for one in await web.units(WEB))


async def test_a_successor_is_waited_for_however_late_its_controller_looks(side, web):
    side.asleep, side.lingers = True, 3
    task = asyncio.create_task(web.restart(WEB, "uid-2"))
    await until(lambda: len(side[PODS, "list"]) > 4)
    assert not task.done()  # the status says still that three are ready
    side.asleep = False
    side.settle()
    await task
    assert {one.birth for one in await web.units(WEB)} == {"uid-1", "uid-3", "uid-4"}


@pytest.mark.parametrize(
    "how", [{"metadata": {"generation": 9}}, {"status": {"updatedReplicas": 1}}]
)
async def test_nothing_is_touched_while_a_rollout_is_under_way(side, web, how):
    side.asleep = True
    for part, change in how.items():
        side.found[part].update(change)
    for act in (web.set_replicas(WEB, 5, 3), web.restart(WEB, "uid-1")):
        with pytest.raises(Refused, match="a rollout of deployment/web is under way"):
            await act
    assert (side.replicas, len(side.pods)) == (3, 3)


async def test_what_it_may_not_is_said_beforehand(side, web):
    assert await web.describe() == [
        f"deployment/web in namespace {NAMESPACE} of {side.url}: 3 of 3 pods are ready",
        "rollout web-rev1: 3 of 3 pods run it and are well; earlier ones: none",
    ]
    side.autoscaled(2, 6)
    side.denied = {("create", "eviction"), ("get", "scale"), ("update", "scale")}
    _, scaler, _, rights = await web.describe()
    assert scaler == "scaled by the autoscaler web-hpa between 2 and 6"
    assert rights == (
        "our role may not: get deployments/scale, update deployments/scale, create pods/eviction"
    )
    with pytest.raises(Refused, match="cannot create resource pods; see the role of our account"):
        await web.restart(WEB, "uid-1")


async def test_failures_say_what_may_have_happened(side, web, monkeypatch):
    for status, error in ((403, Refused), (503, Unavailable), (500, Unavailable)):
        side.status = status
        with pytest.raises(error, match=f"GET {side.url}"):
            await web.replicas(WEB)
    side.status = 0
    with pytest.raises(Refused, match="k8s runs service:web, not service:db"):
        await web.replicas("service:db")
    side.lost = True
    with pytest.raises(Uncertain, match="etcdserver"):
        await web.set_replicas(WEB, 5, 3)
    monkeypatch.setenv("K8S_TOKEN", "other")
    assert "Unauthorized; see the role" in (await web.describe())[0]


@pytest.mark.parametrize(
    "workload", ["web", "daemonset/web", "deployment/", "deployment/Web", "deployment/../x"]
)
def test_a_workload_is_named_by_kind_and_name(side, workload):
    with pytest.raises(ValidationError):
        config(side, workload=workload)


@pytest.mark.parametrize("kind", WORKLOADS)
async def test_the_schemas_of_kubernetes_take_all_that_is_sent_and_kept(kind, needs, monkeypatch):
    needs(str(OUTSIDE))
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    monkeypatch.setattr(kubernetes, "_LOOK_S", 0.01)
    with serving(Workload(kind)) as side:
        web = Kubernetes("k8s", config(side, workload=f"{kind}/web"))
        await web.set_replicas(WEB, 4, 3)
        await web.restart(WEB, "uid-1")
        await web.describe()
        await web.roll_again(WEB, "run-1/again", "web-rev1")
        side.autoscaled(2, 6)
        side.edit(HPAS, "web-hpa", spec={"scaleTargetRef": {"kind": side.found["kind"]}})
        await web.set_limit(WEB, "max_replicas_count", 9.0, 6.0)
        await web.close()
    *sent, patch = side.changed
    assert {one["kind"] for one in sent} == {
        "Scale", "Eviction", "SelfSubjectAccessReview", side.found["kind"],
    }  # fmt: skip
    assert patch["spec"] == {"maxReplicas": 9}
    # what is used, what is asked for beforehand, and what the documentation gives are one
    assert side.used == {
        (verb, group, of.format(kind=kind, history=kubernetes._HISTORY[kind]), sub)
        for verb, group, of, sub in kubernetes._RIGHTS
    }
    assert side.used <= role_of("kubernetes.md", "For a workload")
    kept = [o for of in (WORKLOADS[kind], SETS, REVISIONS, PODS, HPAS) for o in side.all(of).values()]  # fmt: skip
    assert len(kept) == 1 + 3 + 4 + 1
    assert not list(filter(None, map(faults, sent + kept)))


async def test_what_is_no_object_of_kubernetes_is_not_taken(side, web, needs):
    needs(str(OUTSIDE))
    with pytest.raises(AssertionError, match="replicass"):
        side.lay(WORKLOADS["deployment"], side.found | {"spec": {"replicass": 1}})
    path = f"apis/apps/v1/namespaces/{NAMESPACE}/deployments/web"
    before = side.found
    for wrong in ({"replicass": 1}, {"replicas": "1"}):
        whole = {**before, "spec": {**before["spec"], **wrong}}
        assert (await web._api.send("PUT", path, whole)).status == 422
        assert (await web._api.send("PATCH", path, {"spec": wrong}, MERGE)).status == 422
    assert side.found == before


# ---- the verbs that use it


def step(use: str, key: str = "run-1/back", **more) -> Step:
    return Step(key, use, WEB, {}, by="homeostat:run-1", **more)


async def planned(act, one: Step) -> Step:
    return dataclasses.replace(one, before=json.loads(json.dumps(await act.observe(one))))


async def test_more_replicas_are_started_and_ended_again(side, web):
    act = Scale(Scale.Params(by=2, max=6), web)
    one = await planned(act, step("scale"))
    done = await act.run(one)
    assert (side.replicas, len(side.pods)) == (5, 5)
    assert act.reached(one, await act.observe(one))
    await act.undo(one, done.undo)
    assert (side.replicas, len(side.pods)) == (3, 3)
    side.edit(WORKLOADS["deployment"], "web", spec={"replicas": 4})
    with pytest.raises(Refused, match="by others"):
        await act.undo(one, done.undo)
    assert side.replicas == 4


async def test_a_bound_of_an_autoscaler_is_set_and_put_back(side, web):
    side.autoscaled(2, 6)
    act = SetLimit(SetLimit.Params(limit="max_replicas_count", value=9), web)
    one = await planned(act, step("set_limit"))
    done = await act.run(one)
    assert side.hpa["spec"]["maxReplicas"] == 9
    await act.undo(one, done.undo)
    assert side.hpa["spec"]["maxReplicas"] == 6
    side.meanwhile = lambda _: side.edit(HPAS, "web-hpa", spec={"maxReplicas": 7})
    with pytest.raises(Refused, match="the object has been modified"):
        await act.run(one)
    assert side.hpa["spec"]["maxReplicas"] == 7


# ---- rollouts


@pytest.fixture(params=["deployment", "statefulset"])
async def rolled(request, monkeypatch):
    """A workload that has had two releases, the second bad."""
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    monkeypatch.setattr(rollouts, "_LOOK_S", 0.01)
    with serving(Workload(kind=request.param)) as side:
        side.release("web:2")
        made = Kubernetes("k8s", config(side, workload=f"{request.param}/web"))
        yield side, made
        await made.close()


async def test_a_release_is_rolled_back_and_forward_again(rolled):
    side, web = rolled
    act = RolloutUndo(RolloutUndo.Params(), web)
    one = await planned(act, step("rollout_undo"))
    assert one.before == {"of": WEB, "value": "web-rev2", "goal": "web-rev1"}
    done = await act.run(one)
    assert side.template == template("web:1")
    assert done.summary == (
        "the release of service:web is web-rev1 in place of web-rev2: 3 of 3 pods run it and are well"
    )
    assert done.values["settled"] is True
    assert (done.change.kind, done.change.before, done.change.after) == ("release", "web-rev2", "web-rev1")  # fmt: skip
    assert act.reached(one, await act.observe(one))
    again = await act.run(one)  # a second try
    assert (again.undo, side.changed[-1]) == (done.undo, side.changed[0])
    await act.undo(one, done.undo)
    assert side.template == template("web:2")


async def test_what_was_rolled_back_from_is_not_gone_back_to(rolled):
    side, web = rolled
    await web.roll_to(WEB, "web-rev1", "web-rev2")
    assert await web.earlier(WEB) == []
    act = RolloutUndo(RolloutUndo.Params(), web)
    with pytest.raises(
        Refused, match="keeps no release before web-rev1 that could be gone back to"
    ):
        await act.observe(step("rollout_undo"))
    side.release("web:3")
    assert await web.earlier(WEB) == ["web-rev1"]
    with pytest.raises(Refused, match="keeps no release web-rev9; it has web-rev1"):
        await RolloutUndo(RolloutUndo.Params(to="web-rev9"), web).observe(step("rollout_undo"))


async def test_a_release_of_others_meanwhile_stands(rolled):
    side, web = rolled
    act = RolloutUndo(RolloutUndo.Params(), web)
    one = await planned(act, step("rollout_undo"))
    side.release("web:3")
    with pytest.raises(Refused, match="changed by others: it is web-rev3, not web-rev2"):
        await act.run(one)
    with pytest.raises(Refused, match="runs revision web-rev3, not web-rev2: changed by others"):
        await web.roll_to(WEB, "web-rev1", "web-rev2")
    side.meanwhile = lambda _: side.release("web:4")
    with pytest.raises(Refused, match="the object has been modified"):
        await web.roll_to(WEB, "web-rev1", "web-rev3")
    assert side.template == template("web:4")


async def test_all_pods_are_replaced_once_a_step(rolled):
    side, web = rolled
    before = {pod["metadata"]["uid"] for pod in side.pods.values()}
    act = RolloutRestart(RolloutRestart.Params(), web)
    one = await planned(act, step("rollout_restart", "run-1/again"))
    assert not act.reached(one, one.before)
    done = await act.run(one)
    assert done.summary == "replaced the replicas of service:web: 3 of 3 pods run it and are well"
    assert not before & {pod["metadata"]["uid"] for pod in side.pods.values()}
    assert side.template["spec"] == template("web:2")["spec"]
    seen = await act.observe(one)
    assert act.reached(one, seen)
    puts = len(side.changed)
    await act.run(one)
    assert len(side.changed) == puts
    # a mere restart is no release to go back to
    assert await web.earlier(WEB) == ["web-rev1"]
    late = dataclasses.replace(one, key="run-2/again", before={"revision": "web-rev2"})
    with pytest.raises(Refused, match="runs release web-rev3, not web-rev2 as planned"):
        await act.run(late)


async def test_a_rollout_that_does_not_settle_is_told_and_can_be_undone(rolled):
    side, web = rolled
    side.heals = False
    act = RolloutUndo(RolloutUndo.Params(wait=0.05), web)
    done = await act.run(await planned(act, step("rollout_undo")))
    assert done.values["settled"] is False
    assert "0 of 3 pods that run it are well, after 50 ms" in done.summary
    assert done.undo["before"] == "web-rev2"


async def test_a_rollout_of_others_in_the_midst_of_ours_is_not_taken_for_ours(rolled, monkeypatch):
    side, web = rolled
    roll = web.roll_to

    async def and_then(*args):
        await roll(*args)
        side.release("web:3")

    monkeypatch.setattr(web, "roll_to", and_then)
    act = RolloutUndo(RolloutUndo.Params(wait=600), web)
    done = await act.run(await planned(act, step("rollout_undo")))
    assert done.summary.endswith("others roll out web-rev3 now")
    assert done.values["settled"] is False
    with pytest.raises(Refused, match="it is web-rev3, not web-rev1"):
        await act.undo(step("rollout_undo"), done.undo)


async def test_a_rollout_that_is_stuck_is_not_waited_for(side, web, monkeypatch):
    monkeypatch.setattr(rollouts, "_LOOK_S", 0.01)
    side.release("web:2")
    side.heals, side.stuck = False, "web-rev2 has timed out"
    done = await RolloutUndo(RolloutUndo.Params(wait=600), web).run(step("rollout_undo"))
    assert done.summary.endswith("it is stuck: web-rev2 has timed out")


async def test_what_would_move_no_pod_is_refused(rolled):
    side, web = rolled
    spec, says = {
        "deployment": ({"paused": True}, "is paused: resume it first"),
        "statefulset": ({"updateStrategy": {"type": "OnDelete"}}, r"no pod by itself \(OnDelete\)"),
    }[side.kind]
    side.edit(WORKLOADS[side.kind], "web", spec=spec)
    for act in (web.roll_to(WEB, "web-rev1", "web-rev2"), web.roll_again(WEB, "k", "web-rev2")):
        with pytest.raises(Refused, match=says):
            await act
    assert side.template == template("web:2")


async def test_pods_of_a_bad_template_do_not_block_a_stateful_set(monkeypatch):
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    with serving(Workload(kind="statefulset")) as side:
        side.heals = False
        side.release("web:2")
        web = Kubernetes("k8s", config(side, workload="statefulset/web"))
        assert await web.unblock(WEB) == 0  # they are of the template that is asked for
        side.asleep, side.heals = True, True
        await web.roll_to(WEB, "web-rev1", "web-rev2")
        assert await web.unblock(WEB) == 0  # its controller has not seen it yet
        side.asleep = False
        side.settle()
        assert not any(u.well for u in await web.units(WEB))  # and waits for those of before
        assert await web.unblock(WEB) == 3
        assert [u.well for u in await web.units(WEB)] == [True] * 3
        assert {p["spec"]["containers"][0]["image"] for p in side.pods.values()} == {"web:1"}
        await web.close()


def workload(**status) -> dict:
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": status.pop("partition", 0)}}},
        "status": {"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3,
                   "availableReplicas": 3, **status},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "status", "settled", "words"),
    [
        ("deployment", {}, True, "3 of 3 pods run it and are well"),
        ("deployment", {"observedGeneration": 1}, False, "its controller has not seen it yet"),
        ("deployment", {"updatedReplicas": 1, "replicas": 1}, False, "1 of 3 pods run it"),
        ("deployment", {"replicas": 4}, False, "1 pods of an earlier one have not ended"),
        ("deployment", {"availableReplicas": 2}, False, "2 of 3 pods that run it are well"),
        ("statefulset", {"updatedReplicas": 2}, False, "2 of 3 pods run it"),
        ("statefulset", {"readyReplicas": 2}, False, "2 of 3 pods that run it are well"),
        (
            "statefulset",
            {"updatedReplicas": 1, "partition": 2},
            True,
            "1 of 1 pods run it and are well",
        ),
    ],
)
def test_a_rollout_is_over_when_all_run_the_newest_and_are_well(kind, status, settled, words):
    assert progress(kind, workload(**status)) == (settled, False, words)
