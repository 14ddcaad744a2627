"""One workload of Kubernetes, against a stand-in of its API server; what we send is checked with its schemas."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from kubernetes_side import NAMESPACE, ApiServer, serving
from pydantic import ValidationError

from agent.errors import Refused, Unavailable, Uncertain
from connectors import kubernetes
from connectors.kubernetes import Kubernetes

WEB = "service:web"
OUTSIDE = Path(__file__).resolve().parents[2] / "build" / "outside" / "bin"


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    monkeypatch.setattr(kubernetes, "_LOOK_S", 0.01)
    with serving(ApiServer()) as made:
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


async def test_who_changed_it_between_our_look_and_our_hand_wins(side, web, monkeypatch):
    scale = side.scale

    def meanwhile():
        found = scale()
        side.version += 1
        return found

    monkeypatch.setattr(side, "scale", meanwhile)
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
    side.budget = 0
    with pytest.raises(Unavailable, match="disruption budget does not allow it now"):
        await web.restart(WEB, "uid-1")
    side.budget, side.heals = 9, False
    with pytest.raises(Uncertain, match="2 of 3 pods"):
        await web.restart(WEB, "uid-1")
    assert not all(one.well for one in await web.units(WEB))


@pytest.mark.parametrize("how", [{"generation": 2}, {"updated": 1}])
async def test_nothing_is_touched_while_a_rollout_is_under_way(side, web, how):
    vars(side).update(how)
    for act in (web.set_replicas(WEB, 5, 3), web.restart(WEB, "uid-1")):
        with pytest.raises(Refused, match="a rollout of deployment/web is under way"):
            await act
    assert (side.replicas, len(side.pods)) == (3, 3)


async def test_what_it_may_not_is_said_beforehand(side, web):
    assert await web.describe() == [
        f"deployment/web in namespace {NAMESPACE} of {side.url}: 3 of 3 pods are ready"
    ]
    side.autoscaled(2, 6)
    side.denied = {("create", "eviction"), ("update", "scale")}
    _, scaler, rights = await web.describe()
    assert scaler == "scaled by the autoscaler web-hpa between 2 and 6"
    assert rights == "our role may not: update deployments/scale, create pods/eviction"


async def test_failures_say_what_may_have_happened(side, web, monkeypatch):
    for status, error in ((403, Refused), (503, Unavailable), (500, Unavailable)):
        side.status = status
        with pytest.raises(error, match=f"GET {side.url}"):
            await web.replicas(WEB)
    side.status = 0
    with pytest.raises(Refused, match="k8s runs service:web, not service:db"):
        await web.replicas("service:db")
    put = side._scale

    def broken(body):
        put(body)
        return 500, {"message": "etcdserver: request timed out"}

    monkeypatch.setattr(side, "_scale", broken)
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


async def test_the_schemas_of_kubernetes_take_what_we_send(side, web, needs):
    python = needs(str(OUTSIDE / "python"))
    await web.set_replicas(WEB, 4, 3)
    await web.restart(WEB, "uid-1")
    await web.describe()
    side.autoscaled(2, 6)
    await web.set_limit(WEB, "max_replicas_count", 9.0, 6.0)
    sent = [*side.changed[:-1], side.hpa]  # a patch is no object: what it made is
    assert {one["kind"] for one in sent} == {
        "Scale", "Eviction", "SelfSubjectAccessReview", "HorizontalPodAutoscaler",
    }  # fmt: skip
    code = (
        "import json, sys, kubernetes_validate as k\n"
        "for one in json.load(sys.stdin): k.validate(one, '1.30', strict=True)"
    )
    wrong = [sent[0] | {"spec": {"replicass": 1}}]
    for objects, fine in ((sent, True), (wrong, False)):
        done = await asyncio.to_thread(
            subprocess.run,
            [python, "-c", code],
            check=False,
            input=json.dumps(objects),
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == fine, done.stderr
