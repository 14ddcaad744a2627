"""MLflow over its REST interface: asked at the one door, answers sorted by what the caller should do.

    server = Mlflow(access)
    found = await server.get("registered-models/get", name="fraud")
    await server.post("registered-models/alias", name="fraud", alias="champion", version="3")

The mlflow package is not imported: it takes 164 MB. Source (read, then told in our own words): mlflow.org, REST API.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from pydantic import AfterValidator, Field, model_validator

from agent.errors import Refused, Unavailable, Uncertain
from agent.secret import Headers, Reference, secret
from agent.units import Duration, Model
from connectors._proc import command_line
from connectors.http import (
    Answer,
    Door,
    Method,
    checked_base,
    redacted,
    retry_after,
    trusting,
)

KEY_TAG: Final = "homeostat.key"
"""Tag of a run that was started for a step: the key of the step."""
HELD_TAG: Final = "retraining_held"
"""Tag of a registered model whose retraining is held back: why, and by whom."""
_NOT_NOW: Final = frozenset({408, 425, 429, 502, 503, 504})
_PAGE: Final = 500
_MOST_PAGES: Final = 20


class Access(Model):
    """Where MLflow answers, and who asks."""

    url: Annotated[str, AfterValidator(checked_base)]
    """Of the tracking server: `http://mlflow:5000`."""
    token: Reference = ""
    """Of a bearer token."""
    user: str = ""
    password: Reference = ""
    """Beside `user`: basic authentication."""
    headers: Headers = {}
    """Sent with every request, values may be references."""
    ca: Path | None = None
    """Certificates to trust instead of those of the system."""
    timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0

    @model_validator(mode="after")
    def _one_way(self) -> Access:
        if self.token and (self.user or self.password):
            raise ValueError("a token and a user are two ways in: keep one of them")
        return self


class Missing(Refused):
    """There is no such thing at the other end."""


class Mlflow:
    """One MLflow server."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._door = Door(trust=trusting(access.ca) if access.ca else None)
        self.base = access.url.rstrip("/")
        self.where = redacted(self.base)

    async def get(self, path: str, /, **params: Any) -> dict[str, Any]:
        """Ask; raises Missing, Refused, Unavailable."""
        query = urlencode({k: v for k, v in params.items() if v not in {None, ""}})
        return await self._json("GET", path, f"?{query}" if query else "")

    async def post(self, path: str, /, **body: Any) -> dict[str, Any]:
        """Tell, or ask what takes a body; raises Missing, Refused, Unavailable, Uncertain."""
        return await self._json("POST", path, body=body)

    async def delete(self, path: str, /, **body: Any) -> dict[str, Any]:
        """Take away; raises Missing, Refused, Unavailable, Uncertain."""
        return await self._json("DELETE", path, body=body)

    async def text(self, path: str, /, **params: str) -> str:
        """Return a file that the server hands out: what lies outside its REST interface."""
        query = f"?{urlencode(params)}" if params else ""
        answer = await self._ask("GET", f"{self.base}/{path}{query}", None)
        return answer.body.decode("utf-8", "replace")

    async def pages(self, path: str, key: str, most: int, /, **params: Any) -> list[dict[str, Any]]:
        """Return what a search gives, page by page, at most `most` things."""
        out: list[dict[str, Any]] = []
        token = None
        for _ in range(_MOST_PAGES):
            found = await self.get(path, **params, max_results=min(most, _PAGE), page_token=token)
            out += [one for one in found.get(key) or () if isinstance(one, dict)]
            token = found.get("next_page_token")
            if not token or len(out) >= most:
                break
        return out[:most]

    async def runs(self, experiment: str, key: str) -> list[dict[str, Any]]:
        """Return the runs of an experiment that were started for a step, the first started first."""
        try:
            found = await self.post(
                "runs/search", experiment_ids=[experiment], max_results=10, order_by=["attributes.start_time ASC"],
                filter=f"tags.`{KEY_TAG}` = '{tag_of(key)}'",
            )  # fmt: skip
        except Uncertain as lost:  # a search changes nothing
            raise Unavailable(str(lost)) from None
        return [run_of(run) for run in found.get("runs") or ()]

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    async def _json(
        self, method: Method, path: str, query: str = "", body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        url = f"{self.base}/api/2.0/mlflow/{path}{query}"
        answer = await self._ask(method, url, body)
        found = _read(answer) if answer.body else {}
        if not isinstance(found, dict):
            raise Refused(f"{method} {redacted(url)}: the answer is no JSON; is `url` MLflow's?")
        return found

    async def _ask(self, method: Method, url: str, body: Mapping[str, Any] | None) -> Answer:
        a = self._access
        headers = {**a.headers, "content-type": "application/json"}
        if a.token:
            headers["authorization"] = f"Bearer {secret(a.token)}"
        elif a.user:
            pair = f"{a.user}:{secret(a.password)}".encode()
            headers["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        sent = None if body is None else json.dumps(body).encode()
        answer = await self._door.ask(method, url, timeout_s=a.timeout, headers=headers, body=sent)
        if answer.ok:
            return answer
        code, words = _error(answer)
        said = f"{method} {redacted(url)}: {answer.status}" + (f", {words}" if words else "")
        status = answer.status
        if status == 404 or code == "RESOURCE_DOES_NOT_EXIST":
            raise Missing(said)
        if status in _NOT_NOW:
            raise Unavailable(said, wait_s=retry_after(answer.headers))
        if status in {401, 403}:
            raise Refused(f"{said}; may `token` or `user` do this?")
        if status < 500:
            raise Refused(said)
        raise Unavailable(said) if method == "GET" else Uncertain(f"{said}; it may have been done")


def _read(answer: Answer) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def tag_of(key: str) -> str:
    """Return the key of a step as it stands in a tag, and can be searched for."""
    return key.replace("'", "_")


def _error(answer: Answer) -> tuple[str, str]:
    """Return code and words of a failure, words short and masked; "" where it says none."""
    said = _read(answer)
    if not isinstance(said, dict):
        return "", ""
    return str(said.get("error_code", "")), command_line([str(said.get("message", ""))])


def run_of(said: Any) -> dict[str, Any]:
    """Return a run as the server shows it; raises Refused for what is none."""
    if not isinstance(said, dict) or not (said.get("info") or {}).get("run_id"):
        raise Refused("the answer has no run; is `url` MLflow's?")
    return said


def by_key(pairs: Any) -> dict[str, str]:
    """Return `[{"key": k, "value": v}]`, MLflow's way to write a map, as one."""
    return dict(_pairs(pairs))


def _pairs(pairs: Any) -> Iterator[tuple[str, str]]:
    for one in pairs if isinstance(pairs, list) else ():
        if isinstance(one, dict) and "key" in one:
            yield str(one["key"]), str(one.get("value", ""))


def numbers(metrics: Any) -> dict[str, float]:
    """Return the metrics of a run, the latest value of each."""
    out = {}
    for name, text in _pairs(metrics):
        try:
            out[name] = float(text)
        except ValueError:
            continue
    return out


def used(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return which data, code and parameters a run used, as it says: for the journal."""
    data = run.get("data") or {}
    tags = by_key(data.get("tags"))
    sets = [
        " ".join(x for x in (d.get("name", ""), d.get("digest", "")) if x)
        for given in (run.get("inputs") or {}).get("dataset_inputs") or ()
        if isinstance(d := given.get("dataset"), dict)
    ]
    code = (tags.get(f"mlflow.{name}") for name in ("source.git.commit", "source.name"))
    return {
        "data": sets or None,
        "code": next((c for c in code if c), None),
        "params": by_key(data.get("params")) or None,
    }


def read_hold(text: str) -> tuple[str, str]:
    """Return why and by whom a hold is, of its tag; what a person wrote has no `by`."""
    reason, _, by = text.partition("\nby: ")
    return " ".join(reason.split()) or "no reason given", by.strip()
