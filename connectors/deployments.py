"""Deployments that others tell of: webhooks of GitHub, GitLab, Argo CD, and a plain signed one for everything else.

    POST /ingest/deployments/github    X-Hub-Signature-256: sha256=HMAC(secret, body)
    POST /ingest/deployments/gitlab    X-Gitlab-Token: secret
    POST /ingest/deployments/argocd    a token of ours (its webhooks can send any header)
    POST /ingest/deployments/generic   X-Signature-256: sha256=HMAC(secret, body), or a token of ours

A deployment is a release of one service. It counts once, from when it began: its later states change nothing.
Sources (read, then told in our own words): docs.github.com webhook events `deployment`, `deployment_status`;
docs.gitlab.com webhook events, deployment; argo-cd.readthedocs.io notifications, webhook service.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from agent.errors import Refused
from agent.model import Change, Entity
from agent.ports import Arrival, Route
from agent.registry import connector
from agent.secret import Reference, secret
from agent.units import Model

_MOST_BYTES: Final = 1 << 20
_TEXT: Final = 200
_URL: Final = re.compile(r"https?://\S{1,490}")
_BEGAN: Final = frozenset({"in_progress", "running", "success", "failure", "error", "failed"})
"""States in which something has been changed; `pending`, `queued`, `waiting`, `inactive` and the like are none."""

Fields = Mapping[str, Any]


@connector("deployments")
class Deployments:
    """Releases that GitHub, GitLab, Argo CD or a script of yours tell of, each checked by its own secret.

    Receiver  a way in for each; those without a secret need a token of role operator
    Secrets are read when a request comes, so one that was renewed holds at once. What is deployed elsewhere than to
    `environments`, and events that are no deployments, are taken and ignored: their senders must not see an error.
    Cost: a hash of the body and 50 us a request.
    """

    tested = "requests as GitHub, GitLab and Argo CD document them"

    class Config(Model):
        """Who may tell, and whose releases they are."""

        github: Reference = ""
        """Secret of the webhook, `env:NAME` or `file:/PATH`."""
        gitlab: Reference = ""
        generic: Reference = ""
        services: dict[str, str] = {}
        """Repository, project or application (globs) -> service id; without a match its last part is the service."""
        environments: list[str] = ["*"]
        """Only deployments to these (globs): [production, 'prod-*']."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config

    def routes(self) -> Sequence[Route]:
        """Say the ways in."""
        c = self.config
        return (
            self._route("github", _github, _hmac(c.github, "x-hub-signature-256")),
            self._route("gitlab", _gitlab, _token(c.gitlab, "x-gitlab-token")),
            self._route("argocd", _argocd, None),
            self._route("generic", _generic, _hmac(c.generic, "x-signature-256")),
        )

    def _route(
        self,
        name: str,
        read: Callable[[Fields], _Deployment | None],
        vouch: Callable[[Mapping[str, str], bytes], None] | None,
    ) -> Route:
        def handle(body: bytes, content_type: str) -> Sequence[Arrival]:
            del content_type
            try:
                said = json.loads(body)
            except ValueError as wrong:
                raise Refused(
                    f"the body is no JSON ({wrong}); set its content type to JSON"
                ) from None
            if not isinstance(said, dict):
                raise Refused("the body is no JSON object; send the event as it is")
            try:
                found = read(said)
            except (KeyError, TypeError, ValueError, AttributeError) as wrong:
                why = f"{type(wrong).__name__}: {wrong}"
                raise Refused(f"this is no event of {name} that is understood ({why})") from None
            return () if found is None else self._changes(name, found)

        return Route(f"/ingest/deployments/{name}", handle, _MOST_BYTES, vouch)

    def _changes(self, name: str, d: _Deployment) -> Sequence[Arrival]:
        if not any(fnmatchcase(d.environment, glob) for glob in self.config.environments):
            return ()
        service = next(
            (s for glob, s in self.config.services.items() if fnmatchcase(d.what, glob)),
            d.what.rpartition("/")[2],
        )
        if not service:
            raise Refused("the event does not say what was deployed; name it in `service`")
        now = time.time()
        ts = min(d.ts, now) if math.isfinite(d.ts) and d.ts > 0 else now
        by = d.by if not d.by.startswith("homeostat:") else name
        words = " ".join(x for x in (d.environment and f"to {d.environment}", d.text) if x)
        return (
            Change(
                ts, Entity("service", service), "release", d.before[:_TEXT], d.after[:_TEXT],
                (by or name)[:100], words[:_TEXT], d.url if _URL.fullmatch(d.url) else "",
                f"{name}:{d.id}"[:128],
            ),
        )  # fmt: skip


class _Deployment:
    """What was deployed, in plain words: everything is text; ts NaN = it does not say when."""

    __slots__ = ("after", "before", "by", "environment", "id", "text", "ts", "url", "what")

    def __init__(self, what: Any, after: Any, id_: Any, **more: Any) -> None:
        self.what, self.after, self.id = str(what or ""), str(after or ""), str(id_ or "")
        self.before, self.by, self.environment, self.text, self.url = (
            str(more.get(key) or "") for key in ("before", "by", "environment", "text", "url")
        )
        self.ts = _when(more.get("ts"))


# ---------------------------------------------------------------- who vouches


def _hmac(reference: str, header: str) -> Callable[[Mapping[str, str], bytes], None] | None:
    if not reference:
        return None

    def vouch(headers: Mapping[str, str], body: bytes) -> None:
        wanted = "sha256=" + hmac.new(secret(reference).encode(), body, hashlib.sha256).hexdigest()
        _same(headers.get(header, ""), wanted, f"the signature in {header}")

    return vouch


def _token(reference: str, header: str) -> Callable[[Mapping[str, str], bytes], None] | None:
    if not reference:
        return None

    def vouch(headers: Mapping[str, str], body: bytes) -> None:
        del body
        _same(headers.get(header, ""), secret(reference), f"the token in {header}")

    return vouch


def _same(said: str, wanted: str, what: str) -> None:
    """Compare in a time that tells nothing; an empty secret lets nobody in."""
    if len(wanted) < 8:
        raise Refused("the secret of this webhook is shorter than 8 characters; make it longer")
    if not hmac.compare_digest(said.encode(), wanted.encode()):
        raise Refused(f"{what} is missing or wrong; both sides must have the same secret")


# ---------------------------------------------------------------- what they say


def _github(said: Fields) -> _Deployment | None:
    d = said.get("deployment")
    if not isinstance(d, dict):
        return None  # a ping, or an event that is no deployment
    status = said.get("deployment_status") or {}
    # the bare `deployment` event only asks for one; it begins when a status says so
    if status.get("state") not in _BEGAN:
        return None
    return _Deployment(
        said["repository"]["full_name"], d.get("sha", "")[:12], d["id"],
        environment=d.get("environment"), ts=status.get("created_at"),
        by=(d.get("creator") or {}).get("login"), text=d.get("description") or d.get("ref"),
        url=status.get("target_url") or status.get("log_url") or said["repository"].get("html_url"),
    )  # fmt: skip


def _gitlab(said: Fields) -> _Deployment | None:
    if said.get("object_kind") != "deployment" or said.get("status") not in _BEGAN:
        return None
    return _Deployment(
        said["project"]["path_with_namespace"], said.get("short_sha"), said["deployment_id"],
        environment=said.get("environment"), ts=said.get("status_changed_at"),
        by=(said.get("user") or {}).get("username"), text=said.get("commit_title") or said.get("ref"),
        url=said.get("deployable_url") or said.get("commit_url"),
    )  # fmt: skip


def _argocd(said: Fields) -> _Deployment | None:
    """Read an Application as it is: the template of the webhook is `{"app": {{toJson .app}}}`."""
    app = said.get("app", said)
    name, status = app["metadata"]["name"], app["status"]
    done = status.get("operationState") or {}
    if done.get("phase", "Succeeded").lower() not in {"running", "succeeded", "failed", "error"}:
        return None
    result = done.get("syncResult") or {}
    revision = result.get("revision") or (status.get("sync") or {}).get("revision") or ""
    history = [h.get("revision", "") for h in status.get("history") or ()]
    before = next((r for r in reversed(history) if r and r != revision), "")
    started = (done.get("operation") or {}).get("initiatedBy") or {}
    by = started.get("username") or ("argocd" if started.get("automated") else "")
    destination = (app.get("spec") or {}).get("destination") or {}
    return _Deployment(
        name, revision[:12], f"{name}:{revision[:12]}:{done.get('startedAt', '')}",
        before=before[:12], ts=done.get("startedAt"), by=by,
        environment=destination.get("namespace"),
        text=", ".join((status.get("summary") or {}).get("images") or ())[:_TEXT],
        url=(app.get("spec") or {}).get("source", {}).get("repoURL"),
    )  # fmt: skip


def _generic(said: Fields) -> _Deployment | None:
    extra = said.keys() - {
        "service", "to", "from", "by", "ts", "id", "url", "text", "environment",
    }  # fmt: skip
    if extra or not isinstance(said.get("service"), str) or not said.get("to"):
        raise ValueError(
            f"unknown keys: {', '.join(sorted(extra))}"
            if extra
            else "`service` and `to` are needed"
        )
    id_ = said.get("id") or f"{said['service']}:{said['to']}:{said.get('ts', '')}"
    return _Deployment(
        said["service"], said["to"], id_, before=said.get("from"), by=said.get("by"),
        ts=said.get("ts"), url=said.get("url"), text=said.get("text"),
        environment=said.get("environment"),
    )  # fmt: skip


def _when(said: Any) -> float:
    """Read unix seconds or a written time (`2026-11-23T10:00:00Z`, `2026-11-23 10:00:00 +0200`); NaN = neither."""
    if isinstance(said, int | float) and not isinstance(said, bool):
        return float(said)
    if not isinstance(said, str):
        return math.nan
    text = re.sub(r" ([+-]\d\d):?(\d\d)$", r"\1:\2", said.strip().removesuffix(" UTC"))
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    # a time without a zone is not known well enough to be evidence
    return when.timestamp() if when.tzinfo is not None else math.nan
