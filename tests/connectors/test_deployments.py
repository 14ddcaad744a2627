"""Deployments: what each system sends, who may send it, and what becomes of it."""

import hashlib
import hmac
import json
import math
import time

import pytest

from agent.errors import Refused
from agent.ports import Receiver
from connectors.deployments import Deployments, _when

GITHUB = {
    "action": "created",
    "deployment": {
        "id": 145, "sha": "f95f852bd8fca8fcc58a9a2d6c842781e32a215e", "ref": "main", "task": "deploy",
        "environment": "production", "description": "ship it", "creator": {"login": "ann"},
        "created_at": "2026-11-20T09:59:00Z",
    },
    "deployment_status": {"id": 9, "state": "success", "created_at": "2026-11-20T10:00:00Z",
                          "target_url": "https://ci.example/run/9", "creator": {"login": "ci[bot]"}},
    "repository": {"full_name": "acme/checkout", "html_url": "https://github.com/acme/checkout"},
}  # fmt: skip
GITLAB = {
    "object_kind": "deployment", "status": "success", "status_changed_at": "2026-11-20 12:00:00 +0200",
    "deployment_id": 15, "deployable_url": "https://gitlab.example/jobs/796", "environment": "production",
    "project": {"name": "checkout", "path_with_namespace": "acme/checkout"}, "short_sha": "279484c0",
    "user": {"name": "Ann", "username": "ann"}, "ref": "main", "commit_title": "Add cards",
}  # fmt: skip
ARGOCD = {
    "app": {
        "metadata": {"name": "checkout"},
        "spec": {"destination": {"namespace": "production"}, "source": {"repoURL": "https://git.example/ops"}},
        "status": {
            "sync": {"revision": "bbbbbbbbbbbbbbbbbbbb"},
            "history": [{"revision": "aaaaaaaaaaaaaaaaaaaa"}, {"revision": "bbbbbbbbbbbbbbbbbbbb"}],
            "operationState": {
                "phase": "Succeeded", "startedAt": "2026-11-20T10:00:00Z", "finishedAt": "2026-11-20T10:02:00Z",
                "syncResult": {"revision": "bbbbbbbbbbbbbbbbbbbb"},
                "operation": {"initiatedBy": {"username": "ann"}},
            },
            "summary": {"images": ["acme/checkout:1.4"]},
        },
    }
}  # fmt: skip
GENERIC = {"service": "checkout", "to": "1.4", "from": "1.3", "by": "ann", "ts": 1795168800.0,
           "id": "run-7", "url": "https://ci.example/7", "environment": "production"}  # fmt: skip
SAYS = {"github": GITHUB, "gitlab": GITLAB, "argocd": ARGOCD, "generic": GENERIC}
TS = 1795168800.0
"""2026-11-20T10:00:00Z."""


def ways(**config):
    made = Deployments("deployments", Deployments.Config(**config))
    assert isinstance(made, Receiver)
    return {route.path.rpartition("/")[2]: route for route in made.routes()}


def changes(who, said, **config):
    return ways(**config)[who].handle(json.dumps(said).encode(), "application/json")


def edited(said, *path, to):
    """Return a copy with one value changed; `to` None takes it away."""
    copy = json.loads(json.dumps(said))
    here = copy
    for key in path[:-1]:
        here = here[key]
    if to is None:
        del here[path[-1]]
    else:
        here[path[-1]] = to
    return copy


@pytest.mark.parametrize(
    ("who", "after", "before", "id_"),
    [
        ("github", "f95f852bd8fc", "", "github:145"), ("gitlab", "279484c0", "", "gitlab:15"),
        ("argocd", "bbbbbbbbbbbb", "aaaaaaaaaaaa", "argocd:checkout:bbbbbbbbbbbb:2026-11-20T10:00:00Z"),
        ("generic", "1.4", "1.3", "generic:run-7"),
    ],
)  # fmt: skip
def test_each_is_a_release_of_its_service(who, after, before, id_):
    (change,) = changes(who, SAYS[who])
    assert (change.entity.id, change.kind) == ("service:checkout", "release")
    assert (change.before, change.after, change.id) == (before, after, id_)
    assert change.ts == TS
    assert change.by == "ann"
    assert change.url.startswith("https://")
    assert "to production" in change.text
    assert not change.ours


def test_all_states_of_one_deployment_are_one_change():
    began = edited(GITHUB, "deployment_status", "state", to="in_progress")
    ids = {c.id for said in (began, GITHUB) for c in changes("github", said)}
    assert ids == {"github:145"}
    ran = edited(ARGOCD, "app", "status", "operationState", "phase", to="Running")
    assert changes("argocd", ran)[0].id == changes("argocd", ARGOCD)[0].id


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("github", {"zen": "Keep it logically awesome.", "hook_id": 1}),
        ("github", {k: v for k, v in GITHUB.items() if k != "deployment_status"}),
        ("github", edited(GITHUB, "deployment_status", "state", to="inactive")),
        ("github", edited(GITHUB, "deployment_status", "state", to="queued")),
        ("gitlab", {"object_kind": "push"}),
        ("gitlab", edited(GITLAB, "status", to="canceled")),
        ("argocd", edited(ARGOCD, "app", "status", "operationState", "phase", to="Terminating")),
    ],
)
def test_what_is_no_deployment_is_taken_and_ignored(who, said):
    assert changes(who, said) == ()


def test_other_environments_are_ignored():
    assert changes("github", GITHUB, environments=["staging"]) == ()
    assert len(changes("github", GITHUB, environments=["prod*"])) == 1


def test_repositories_are_given_to_services():
    (change,) = changes("gitlab", GITLAB, services={"acme/check*": "shop"})
    assert change.entity.key == "shop"


def test_no_sender_can_make_a_change_look_like_ours_or_come_from_the_future():
    (change,) = changes("generic", GENERIC | {"by": "homeostat:run-1", "ts": 1e12})
    assert not change.ours
    assert change.ts <= time.time()


def test_what_it_carries_is_bounded_and_a_strange_link_is_left_out():
    said = GENERIC | {"to": "x" * 5000, "text": "y" * 5000, "id": "z" * 500, "url": "javascript:alert(1)"}  # fmt: skip
    (change,) = changes("generic", said)
    assert (len(change.after), len(change.text), len(change.id), change.url) == (200, 200, 128, "")


@pytest.mark.parametrize("who", SAYS)
@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'"text"', b"\xff\xfe"])
def test_what_is_no_object_is_refused(who, body):
    with pytest.raises(Refused, match="JSON"):
        ways()[who].handle(body, "application/json")


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("github", edited(GITHUB, "repository", to=None)),
        ("github", edited(GITHUB, "deployment", "id", to=None)),
        ("github", edited(GITHUB, "deployment_status", to=["x"])),
        ("gitlab", edited(GITLAB, "project", to="x")),
        ("argocd", {"app": {"status": {}}}),
        ("argocd", {"text": "hello"}),
        ("generic", {"service": "checkout"}),
        ("generic", {"service": 7, "to": "1"}),
        ("generic", GENERIC | {"verison": "1"}),
    ],
)
def test_what_is_not_understood_is_refused_in_words(who, said):
    with pytest.raises(Refused, match=f"no event of {who}"):
        changes(who, said)


# ---- who may send


def signed(body, secret="not so secret"):
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("who", "header"), [("github", "x-hub-signature-256"), ("generic", "x-signature-256")]
)
def test_a_signature_is_checked(who, header, monkeypatch):
    monkeypatch.setenv("HOOK", "not so secret")
    vouch = ways(**{who: "env:HOOK"})[who].vouch
    vouch({header: signed(b"body")}, b"body")
    for wrong in (signed(b"other"), signed(b"body", "guessed"), "", "sha256=", signed(b"body")[7:]):
        with pytest.raises(Refused, match="missing or wrong"):
            vouch({header: wrong}, b"body")
    with pytest.raises(Refused, match="missing or wrong"):
        vouch({}, b"body")
    monkeypatch.setenv("HOOK", "renewed")
    with pytest.raises(Refused):
        vouch({header: signed(b"body")}, b"body")


def test_the_token_of_gitlab_is_checked(tmp_path):
    (tmp_path / "secret").write_text("a long token\n")
    vouch = ways(gitlab=f"file:{tmp_path}/secret")["gitlab"].vouch
    vouch({"x-gitlab-token": "a long token"}, b"")
    for wrong in ({}, {"x-gitlab-token": ""}, {"x-gitlab-token": "a long tokeN"}):
        with pytest.raises(Refused, match="missing or wrong"):
            vouch(wrong, b"")


def test_an_empty_secret_lets_nobody_in(monkeypatch):
    monkeypatch.setenv("HOOK", "")
    with pytest.raises(Refused, match="shorter"):
        ways(gitlab="env:HOOK")["gitlab"].vouch({"x-gitlab-token": ""}, b"")
    monkeypatch.delenv("HOOK")
    with pytest.raises(Refused, match="HOOK is not set"):
        ways(gitlab="env:HOOK")["gitlab"].vouch({"x-gitlab-token": ""}, b"")


def test_without_a_secret_a_token_of_ours_is_asked_for():
    assert all(route.vouch is None for route in ways().values())
    assert ways(github="env:HOOK")["gitlab"].vouch is None


def test_a_secret_stands_nowhere_but_by_reference():
    with pytest.raises(ValueError, match="pattern"):
        Deployments.Config(github="hunter2hunter2")


@pytest.mark.parametrize(
    ("said", "ts"),
    [
        ("2026-11-20T10:00:00Z", TS), ("2026-11-20 12:00:00 +0200", TS), ("2026-11-20 10:00:00 UTC", None),
        ("yesterday", None), (TS, TS), (True, None), (None, None), ({}, None),
    ],
)  # fmt: skip
def test_times(said, ts):
    got = _when(said)
    assert math.isnan(got) if ts is None else got == ts
