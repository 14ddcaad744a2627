"""What only Kubernetes has: the Job that is made, and kept by kmock; the ways in."""

import asyncio
import base64
import contextlib
import json

import pytest
from kubernetes_side import (
    CRONJOBS,
    JOBS,
    NAMESPACE,
    OUTSIDE,
    PODS,
    Cluster,
    faults,
    refusal,
    role_of,
    serving,
)
from pydantic import ValidationError
from training_side import REPORT, KubernetesSide, running, until

from agent.errors import Refused
from connectors import _kubernetes
from connectors._elsewhere import label_of
from connectors._kubernetes import Access, place_of
from connectors.trainer_kubernetes import TrainerKubernetes

KEY = "run-1/train"
KINDS = ({}, {"cronjob": "", "job": KubernetesSide.JOB})


@pytest.fixture
def side():
    with running(KubernetesSide()) as made:
        yield made


async def made_of(side, tmp_path, **more) -> dict:
    """Return the Job that a config makes."""
    config = {"model": "fraud", "every": 0.02, **side.config(), **more}
    one = TrainerKubernetes("trainer", TrainerKubernetes.Config(**config), state=tmp_path)
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: side.runs)
    side.finish()
    assert (await task).version == "4"
    await one.close()
    return next(iter(side.runs.values()))["body"]


@pytest.mark.parametrize("of", KINDS)
async def test_the_job_that_is_made_is_one(side, tmp_path, of):
    job = await made_of(side, tmp_path, limit="2h", **of)
    assert job["metadata"]["name"] == label_of("fraud", KEY)
    assert job["metadata"]["labels"].get("team") == (None if of else "fraud")
    assert job["spec"]["activeDeadlineSeconds"] == 7200
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["ttlSecondsAfterFinished"] == 86_400
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["env"] == [
        {"name": "HOMEOSTAT_KEY", "value": KEY}, {"name": "HOMEOSTAT_MODEL", "value": "fraud"},
    ]  # fmt: skip
    assert KubernetesSide.JOB["backoffLimit"] == 3  # a copy was changed


async def test_a_stricter_deadline_of_theirs_holds(side, tmp_path):
    job = await made_of(side, tmp_path, cronjob="", job={**side.JOB, "activeDeadlineSeconds": 60})
    assert job["spec"]["activeDeadlineSeconds"] == 60


async def test_a_job_of_that_name_that_is_not_ours_is_left_alone(side, tmp_path):
    theirs = {"state": "runs", "words": "", "key": KEY, "body": {"metadata": {}}}
    side.runs[label_of("fraud", KEY)] = theirs
    config = TrainerKubernetes.Config(model="fraud", **side.config())
    one = TrainerKubernetes("trainer", config, state=tmp_path)
    with pytest.raises(Refused, match="it is not ours"):
        await one.train("fraud", KEY)
    await one.close()


async def test_a_cronjob_that_is_not_there_is_said(side, tmp_path):
    config = TrainerKubernetes.Config(model="fraud", **{**side.config(), "cronjob": "none"})
    one = TrainerKubernetes("trainer", config, state=tmp_path)
    assert ": 404," in (await one.describe())[1]
    with pytest.raises(Refused, match="404"):
        await one.train("fraud", KEY)
    await one.close()


# ---- on an API server that keeps objects, and takes none that is not valid


class Batch(Cluster):
    """A cluster with a CronJob; a test ends what runs."""

    def __init__(self):
        super().__init__()
        self.lay(CRONJOBS, {
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "retrain", "namespace": NAMESPACE},
            "spec": {"schedule": "0 3 * * *", "suspend": True, "jobTemplate": {"spec": KubernetesSide.JOB}},
        })  # fmt: skip

    def finish(self, **condition):
        """End all Jobs, with what their pods have printed."""
        for name, job in self.all(JOBS).items():
            self.edit(JOBS, name, status={"conditions": [{"status": "True", **condition}]})
            phase = "Succeeded" if condition["type"] == "Complete" else "Failed"
            self.lay(PODS, {
                "apiVersion": "v1", "kind": "Pod", "status": {"phase": phase},
                "metadata": {"name": f"{name}-x", "namespace": NAMESPACE, "labels": {"job-name": name}},
                "spec": job["spec"]["template"]["spec"],
            })  # fmt: skip
            self.logs[f"{name}-x"] = b"epoch 1\n" + json.dumps(REPORT).encode() + b"\n"


@pytest.fixture
def batch(monkeypatch):
    monkeypatch.setenv("K8S_TOKEN", "t0ken")
    with serving(Batch()) as made:
        yield made


def life(side, state, **more):
    """Return a trainer, as after a start of the daemon."""
    config = {"model": "fraud", "every": 0.02, "cronjob": "retrain", **more}
    config |= {"url": side.url, "token": "env:K8S_TOKEN", "namespace": NAMESPACE}
    return TrainerKubernetes("trainer", TrainerKubernetes.Config(**config), state=state)


@pytest.mark.parametrize("of", KINDS)
async def test_a_job_is_made_once_and_found_again(batch, tmp_path, of, needs):
    needs(str(OUTSIDE))
    one = life(batch, tmp_path / "1", **of)
    assert "would make a Job" in (await one.describe())[1]
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: batch.all(JOBS))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await one.close()
    looks = len(batch[JOBS, "get"])
    again = life(batch, tmp_path / "2", **of)  # one that has forgotten all
    task = asyncio.create_task(again.train("fraud", KEY))
    await until(lambda: len(batch[JOBS, "get"]) > looks + 1)
    batch.finish(type="Complete")
    assert (await task).version == "4"
    assert await again.find(KEY) == await task
    await again.close()
    ((name, job),) = batch.all(JOBS).items()
    assert name == label_of("fraud", KEY)
    assert faults(job) == ""
    assert [one["kind"] for one in batch.changed] == ["Job"]
    assert batch.used <= role_of("trainers.md", "The role it takes")


async def test_a_job_that_fails_says_why(batch, tmp_path):
    one = life(batch, tmp_path)
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: batch.all(JOBS))
    batch.finish(type="Failed", reason="DeadlineExceeded", message="it was active too long")
    with pytest.raises(Refused, match="failed: DeadlineExceeded: it was active too long"):
        await task
    await one.close()


async def test_a_job_that_is_called_off_is_deleted(batch, tmp_path):
    one = life(batch, tmp_path)
    task = asyncio.create_task(one.train("fraud", KEY))
    await until(lambda: batch.all(JOBS))
    await one.cancel(KEY)
    with pytest.raises(Refused):
        await task
    assert not batch.all(JOBS)
    assert batch.used <= role_of("trainers.md", "The role it takes")
    assert batch.changed[-1] == {
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
    }  # fmt: skip
    await one.close()


async def test_who_has_made_a_job_of_that_name_meanwhile_keeps_it(batch, tmp_path):
    theirs = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": label_of("fraud", KEY), "namespace": NAMESPACE},
        "spec": KubernetesSide.JOB,
    }  # fmt: skip
    batch.meanwhile = lambda _: batch.lay(JOBS, theirs)
    one = life(batch, tmp_path)
    with pytest.raises(Refused, match="it is not ours"):
        await one.train("fraud", KEY)
    assert "annotations" not in batch.all(JOBS)[label_of("fraud", KEY)]["metadata"]
    await one.close()


async def test_a_job_that_kubernetes_does_not_take_is_said(batch, tmp_path, needs):
    needs(str(OUTSIDE))
    wrong = {**KubernetesSide.JOB, "backofLimit": 0}
    one = life(batch, tmp_path, cronjob="", job=wrong)
    with pytest.raises(Refused, match=r"422.*backofLimit"):
        await one.train("fraud", KEY)
    assert not batch.all(JOBS)

    def quota(_):
        raise refusal(403, "Forbidden", "exceeded quota: jobs")

    batch.meanwhile = quota
    other = life(batch, tmp_path)
    with pytest.raises(Refused, match="exceeded quota: jobs"):
        await other.train("fraud", KEY)
    await one.close()
    await other.close()


# ---- the ways in


def kubeconfig(tmp_path, user: dict, **cluster) -> Access:
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps({
            "current-context": "prod",
            "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u", "namespace": "ml"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://k8s.example.org:6443", **cluster}}],
            "users": [{"name": "u", "user": user}],
        })
    )  # fmt: skip
    return Access(kubeconfig=path)


def test_a_kubeconfig_says_where_and_who(tmp_path):
    (tmp_path / "token").write_text("tok-canary-77\n")
    place = place_of(kubeconfig(tmp_path, {"tokenFile": "token"}))
    assert (place.url, place.namespace) == ("https://k8s.example.org:6443", "ml")
    assert place.headers() == {"authorization": "Bearer tok-canary-77"}
    place = place_of(kubeconfig(tmp_path, {"token": "tok-canary-88"}))
    assert place.headers() == {"authorization": "Bearer tok-canary-88"}
    assert "tok-canary" not in repr(place)
    assert place_of(kubeconfig(tmp_path, {})).headers() == {}


@pytest.mark.parametrize(
    ("user", "cluster", "words"),
    [
        ({"auth-provider": {"name": "gcp"}}, {}, "an auth-provider, which Kubernetes took out"),
        ({}, {"insecure-skip-tls-verify": True}, "not to check certificates"),
        ({"client-certificate-data": "!"}, {}, "client-certificate-data is not base64"),
        ({}, {"certificate-authority": "none.pem"}, "none.pem can not be read"),
    ],
)
def test_what_a_kubeconfig_may_not_say(tmp_path, user, cluster, words):
    with pytest.raises(Refused, match=words):
        place_of(kubeconfig(tmp_path, user, **cluster))


def test_certificates_that_are_none_are_said(tmp_path):
    junk = base64.b64encode(b"junk").decode()
    user = {"client-certificate-data": junk, "client-key-data": junk}
    with pytest.raises(Refused, match="can not be used"):
        place_of(kubeconfig(tmp_path, user)).trust()
    with pytest.raises(Refused, match="has no context test"):
        place_of(kubeconfig(tmp_path, {}).model_copy(update={"context": "test"}))


def test_in_a_pod_the_service_account_is_the_way_in(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(Refused, match="no way to Kubernetes"):
        place_of(Access())
    monkeypatch.setattr(_kubernetes, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name, text in (("token", "tok-1"), ("namespace", "ml\n"), ("ca.crt", "PEM")):
        (tmp_path / name).write_text(text)
    place = place_of(Access())
    assert (place.url, place.namespace, place.ca) == ("https://[fd00::1]:443", "ml", "PEM")
    assert place.headers() == {"authorization": "Bearer tok-1"}
    (tmp_path / "token").write_text("tok-2")  # renewed
    assert place.headers() == {"authorization": "Bearer tok-2"}


def test_one_way_in_and_one_thing_to_run(side):
    for wrong in (
        {"kubeconfig": "/x"}, {"context": "x"}, {"job": {"template": {}}}, {"cronjob": ""}, {"url": "ftp://x"},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            TrainerKubernetes.Config(model="fraud", **{**side.config(), **wrong})
