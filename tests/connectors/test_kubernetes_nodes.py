"""Nodes of Kubernetes by the verbs that use them, against kmock; all objects pass the schemas of Kubernetes."""

import dataclasses
import json

import pytest
from kubernetes_nodes_side import NodePool
from kubernetes_side import NODES, OUTSIDE, faults, refusal, role_of, serving
from structlog.testing import capture_logs

from agent.errors import Refused, Uncertain
from agent.ports import Step
from connectors import kubernetes_nodes
from connectors.kubernetes_nodes import KubernetesNodes
from playbooks.actions import nodes
from playbooks.actions.nodes import CordonNode, DrainNode, UncordonNode

GPU = "host:gpu-1"


@pytest.fixture
def side(monkeypatch):
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    monkeypatch.setattr(nodes, "_LOOK_S", 0.01)
    monkeypatch.setattr(nodes, "_AGAIN_S", 0.01)
    with serving(NodePool()) as made:
        yield made


@pytest.fixture
async def cluster(side):
    one = KubernetesNodes(
        "nodes",
        KubernetesNodes.Config(nodes=["gpu-*", "db-1"], url=side.url, token="env:K8S_TOKEN"),
    )
    yield one
    await one.close()


def step(target=GPU, key="run-1/drain", **more):
    return Step(key, "drain_node", target, {}, by="homeostat:run-1", **more)


def drain(cluster, **params):
    return DrainNode(DrainNode.Params(**params), cluster)


async def planned(act, one):
    seen = json.loads(json.dumps(await act.observe(one)))
    return dataclasses.replace(one, before=seen)


def everybody(side):
    side.pod("web-1", "gpu-1")
    side.pod("web-2", "gpu-1")
    side.pod("web-3", "gpu-2")
    side.pod("agent-1", "gpu-1", owner="DaemonSet", app="agent", local=True)
    side.pod("etcd-gpu-1", "gpu-1", owner="Node", app="etcd", mirror=True)
    side.pod("done-1", "gpu-1", owner="Job", app="job", phase="Succeeded")


async def test_a_node_is_emptied_of_what_comes_up_elsewhere_and_opened_again(side, cluster):
    everybody(side)
    act = drain(cluster)
    one = await planned(act, step())
    assert one.before == {"host": GPU, "closed": False, "by": "", "left": 2}
    done = await act.run(one)
    assert done.summary == "host:gpu-1 is closed and empty: 2 have gone, 2 belong to it and stay"
    assert side.left("gpu-1") == ["agent-1", "done-1", "etcd-gpu-1"]
    assert side.nodes["gpu-1"]["spec"]["unschedulable"] is True
    assert side.nodes["gpu-1"]["metadata"]["annotations"] == {"homeostat/closed-by": "run-1/drain"}
    assert act.reached(one, await act.observe(one))
    assert (await act.run(one)).undo == done.undo  # once more: nothing is left to do
    assert side.evicted == ["web-1", "web-2"]
    for said in ("takes work again", "takes work again already"):
        assert (await act.undo(one, done.undo)).summary == f"host:gpu-1 {said}"
    assert side.nodes["gpu-1"]["spec"]["unschedulable"] is False
    assert side.nodes["gpu-1"]["metadata"]["annotations"] == {}


async def test_a_budget_is_waited_for_and_progress_is_told(side, cluster):
    for i in range(4):
        side.pod(f"web-{i}", "gpu-1")
    side.budgets, side.refill = {"web": 0}, 1
    with capture_logs() as logs:
        done = await drain(cluster, wait=60).run(step())
    assert done.values == {"host": GPU, "moved": 4, "stay": 0}
    assert sorted(side.evicted) == [f"web-{i}" for i in range(4)]
    told = [entry for entry in logs if entry["event"] == "node_draining"]
    assert [entry["left"] for entry in told] == sorted((e["left"] for e in told), reverse=True)
    assert told[0]["waiting"] == "shop/web-2, shop/web-3"


async def test_who_is_about_to_end_is_waited_for_and_not_evicted_again(side, cluster):
    everybody(side)
    side.lingers = 3
    done = await drain(cluster).run(step())
    assert done.values["moved"] == 2
    assert side.evicted == ["web-1", "web-2"]
    assert side.left("gpu-1") == ["agent-1", "done-1", "etcd-gpu-1"]


async def test_a_node_that_does_not_become_empty_takes_work_again(side, cluster):
    side.pod("web-1", "gpu-1")
    side.pod("db-1", "gpu-1", app="db")
    side.budgets = {"db": 0}
    with pytest.raises(Refused, match=r"after 100 ms: 1 left; shop/db-1: .*budget; it takes work"):
        await drain(cluster, wait=0.1).run(step())
    assert side.evicted == ["web-1"]
    assert not side.nodes["gpu-1"]["spec"]["unschedulable"]

    def only_closing(request):
        if request.method == "PATCH" and not request.data["spec"]["unschedulable"]:
            raise refusal(403, "Forbidden", "forbidden")

    side.meanwhile = only_closing
    with pytest.raises(Uncertain, match=r"could not be opened again: .*forbidden"):
        await drain(cluster, wait=0.1).run(step())


@pytest.mark.parametrize(
    ("one", "param", "said"),
    [
        ({"owner": ""}, "unmanaged", "nobody starts again"),
        ({"local": True}, "local_data", "keep data there"),
    ],
)
async def test_what_would_be_lost_is_refused_unless_it_is_said(side, cluster, one, param, said):
    side.pod("web-1", "gpu-1")
    side.pod("odd-1", "gpu-1", **one)
    act = drain(cluster)
    with pytest.raises(Refused, match=rf"shop/odd-1 {said} \(`{param}: true`"):
        await act.run(await planned(act, step()))
    assert not side.evicted
    assert "unschedulable" not in side.nodes["gpu-1"]["spec"]
    done = await drain(cluster, **{param: True}).run(step())
    assert done.values["moved"] == 2


async def test_we_never_evict_ourselves(side, cluster, monkeypatch):
    side.pod("homeostat-0", "gpu-1", owner="StatefulSet")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setattr("socket.gethostname", lambda: "homeostat-0")
    with pytest.raises(Refused, match="shop/homeostat-0 are homeostat itself"):
        await drain(cluster, unmanaged=True, local_data=True).run(step())


async def test_somebody_must_be_there_to_take_it(side, cluster):
    side.pod("web-1", "gpu-1")
    side.node("gpu-2", ready=False)
    side.edit(NODES, "db-1", spec={"unschedulable": True})
    with pytest.raises(
        Refused, match="without host:gpu-1 only 0 nodes are well and open, at least 1"
    ):
        await drain(cluster).run(step())
    assert (await drain(cluster, min_open=0).run(step())).values["moved"] == 1


async def test_a_drain_that_was_cut_off_goes_on(side, cluster):
    everybody(side)
    act = drain(cluster)
    one = await planned(act, step())
    await cluster.set_closed(GPU, True, False, one.key)  # and then we were killed
    assert act.reached(one, await act.observe(one))
    done = await act.run(one)
    assert done.undo == {"host": GPU, "key": one.key}
    assert side.left("gpu-1") == ["agent-1", "done-1", "etcd-gpu-1"]


async def test_what_others_did_meanwhile_stands(side, cluster):
    everybody(side)
    act = drain(cluster)
    one = await planned(act, step())
    side.edit(NODES, "gpu-1", spec={"unschedulable": True})
    with pytest.raises(Refused, match="was closed by others since it was planned"):
        await act.run(one)
    assert not side.evicted
    # who had closed it before has it closed afterwards, too
    done = await act.run(await planned(act, step()))
    assert done.undo == {}
    assert (await act.undo(one, done.undo)).summary.startswith("nothing to put back")
    assert side.nodes["gpu-1"]["spec"]["unschedulable"] is True
    # closed by us, then by another run: not ours to open
    await cluster.set_closed(GPU, True, True, "run-2/drain")
    with pytest.raises(Refused, match="closed by others now"):
        await act.undo(one, {"host": GPU, "key": "run-1/drain"})


async def test_who_changes_a_node_between_our_look_and_our_hand_wins(side, cluster):
    side.meanwhile = lambda _: side.edit(NODES, "gpu-1", metadata={"labels": {"by": "others"}})
    with pytest.raises(Refused, match="the object has been modified; changed by others"):
        await cluster.set_closed(GPU, True, False, "k")
    assert "unschedulable" not in side.nodes["gpu-1"]["spec"]


async def test_cordon_and_uncordon_only_close_and_open(side, cluster):
    everybody(side)
    close = CordonNode(CordonNode.Params(), cluster)
    one = await planned(close, step(key="run-1/close"))
    done = await close.run(one)
    assert done.summary == "host:gpu-1 is closed to new work in place of open to work"
    assert (await cluster.node(GPU)).by == "run-1/close"
    assert not side.evicted
    undone = await close.undo(one, done.undo)
    assert undone.summary == "host:gpu-1 is open to work again in place of closed to new work"
    side.edit(NODES, "gpu-1", spec={"unschedulable": True})
    opened = UncordonNode(UncordonNode.Params(), cluster)
    await opened.run(await planned(opened, step(key="run-1/open")))
    assert not (await cluster.node(GPU)).closed


async def test_only_nodes_that_may_be_touched_and_that_there_are(side, cluster):
    side.node("web-1")
    with pytest.raises(Refused, match="web-1 is not among those that nodes may touch"):
        await cluster.set_closed("host:web-1", True, False, "k")
    with pytest.raises(Refused, match="has no node gpu-9"):
        await cluster.node("host:gpu-9")
    assert (await cluster.node("host:db")).closed is False  # by its label
    with pytest.raises(Refused, match="replica:web/1 is no host: drain_node acts on host:NAME"):
        await drain(cluster).run(step("replica:web/1"))


async def test_it_says_what_there_is_and_what_it_may_not(side, cluster):
    assert list(await cluster.describe()) == [f"{side.url}: 3 nodes, 3 ready, 3 may be touched"]
    await cluster.set_closed(GPU, True, False, "run-1/close")
    side.denied = {("create", "eviction")}
    assert list(await cluster.describe())[1:] == [
        "host:gpu-1 takes no pods, closed by run-1/close",
        "our role may not: create pods/eviction",
    ]
    side.status = 503
    assert "no" in (await cluster.describe())[0]


async def test_the_schemas_of_kubernetes_take_what_we_send(side, cluster, needs):
    needs(str(OUTSIDE))
    everybody(side)
    await drain(cluster, grace=5).run(step())
    await cluster.describe()
    sent = [one for one in side.changed if "kind" in one]
    assert {one["kind"] for one in sent} == {"Eviction", "SelfSubjectAccessReview"}
    assert sent[0]["deleteOptions"]["gracePeriodSeconds"] == 5
    assert side.used == set(kubernetes_nodes._RIGHTS) == role_of("kubernetes.md", "For nodes")
    kept = [o.raw for o in side.objects.values() if not o.deleted]
    assert len(kept) == 3 + 4
    assert not list(filter(None, map(faults, sent + kept)))
