"""The API server of Kubernetes: objects as JSON, what its refusals mean, and credentials that are renewed meanwhile.

    api = Api("k8s", access, timeout_s=10.0)
    node = await api.ask("GET", "api/v1/nodes/web-1")

A token is read for each request. When a file that certificates came from has changed (a rotated CA, another
kubeconfig), it is read anew before the next request. What a program gave is used until shortly before it ends, or the
server does not take it any more (401).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from agent.errors import Refused, Unavailable, Uncertain
from connectors._elsewhere import read
from connectors._kubernetes import Access, Place, Program, place_of
from connectors._program import run_program
from connectors.http import MOST_BYTES, Answer, Door, Method, redacted

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
_MOST_BYTES: Final = 32 << 20
_PAGE: Final = 250
_EARLY_S: Final = 60.0
_EARLY_SHARE: Final = 0.1
"""A credential is renewed so long before its end, or in the last tenth of its life."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a program gave. until: when it is asked again, unix seconds; inf = when the server says 401."""

    token: str = field(default="", repr=False)
    pem: bytes = field(default=b"", repr=False)
    until: float = float("inf")


async def log_in(program: Program, now: float) -> Credential:
    """Run a program to log in; raises Unavailable when it fails, Refused for what is no credential.

    Nothing that it prints is ever repeated: that is where the secret stands.
    """
    name = Path(program.argv[0]).name
    spec: dict[str, Any] = {"interactive": False}
    if program.cluster is not None:
        spec["cluster"] = program.cluster
    info = {"apiVersion": program.protocol, "kind": "ExecCredential", "spec": spec}
    env = {**dict(program.env), "KUBERNETES_EXEC_INFO": json.dumps(info)}
    by_hand = f"run {name} by hand as our user"
    try:
        code, out = await run_program(program.argv, program.timeout_s, env=env, errors=False)
    except TimeoutError:
        raise Unavailable(
            f"{name} did not log us in within {program.timeout_s:g} s; {by_hand}"
        ) from None
    except OSError as wrong:
        raise Refused(f"{name}, to log in by, can not be run: {wrong.strerror}") from None
    if code:
        raise Unavailable(f"{name} did not log us in: it ended with status {code}; {by_hand}")
    try:
        said = json.loads(out)
        version, status = str(said["apiVersion"]), dict(said["status"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Refused(f"{name} prints no ExecCredential; {by_hand}") from None
    if version != program.protocol:
        raise Refused(f"{name} speaks {version[:60]}, the kubeconfig says {program.protocol}")
    token = str(status.get("token") or "")
    certificate, key = (
        str(status.get(f"client{w}Data") or "").encode() for w in ("Certificate", "Key")
    )
    pem = certificate + b"\n" + key if certificate and key else b""
    if not token and not pem:
        raise Refused(f"{name} gives neither a token nor a certificate with its key")
    ends = _unix(str(status["expirationTimestamp"])) if status.get("expirationTimestamp") else None
    if ends is None:
        return Credential(token, pem)
    if ends <= now:
        raise Unavailable(f"{name} gives a credential that has ended; {by_hand}")
    return Credential(token, pem, ends - min(_EARLY_S, _EARLY_SHARE * (ends - now)))


def _unix(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.timestamp() if at.tzinfo is not None else None


class ApiDoor(Door):
    """The door to one API server: each request says who we are, as it is now."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access
        self._place = place_of(access)
        self._stamp = _stamp(self._place.files)
        self._inner = Door(trust=self._place.trust())
        self._before: Door | None = None
        self._credential = Credential(until=0.0)
        self._turn = asyncio.Lock()
        self.url, self.namespace = self._place.url, self._place.namespace

    async def ask(
        self,
        method: Method,
        url: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int = MOST_BYTES,
        keep: bool = True,
        called: str = "",
    ) -> Answer:
        """Ask once, as `Door.ask` does; once more when a credential of a program was not taken."""
        for last in (False, True):
            async with self._turn:
                await self._renew()
                door, who, used = self._inner, self._place.headers(), self._credential
            if used.token:
                who = {"authorization": f"Bearer {used.token}"}
            answer = await door.ask(
                method, url, timeout_s=timeout_s, headers={**(headers or {}), **who}, body=body,
                most_bytes=most_bytes, keep=keep, called=called,
            )  # fmt: skip
            if answer.status != 401 or self._place.program is None or last:
                break
            if self._credential is used:  # nothing has happened there: it does not know us
                self._credential = Credential(until=0.0)
        return answer

    async def close(self) -> None:
        """Close what is open."""
        for door in filter(None, (self._inner, self._before)):
            await door.close()

    async def _renew(self) -> None:
        """Read anew what has changed, and log in again where that has run out."""
        stamp = _stamp(self._place.files)
        if stamp != self._stamp:
            place = await asyncio.to_thread(place_of, self._access)
            if place.url != self.url:
                raise Refused(
                    f"{self._access.kubeconfig} names {redacted(place.url)} now, not {redacted(self.url)}: reload "
                    "homeostat when that is meant"
                )
            if place.program != self._place.program:
                self._credential = Credential(until=0.0)
            await self._take(place, self._credential.pem)
            self._stamp = stamp
        if self._place.program is not None and time.time() >= self._credential.until:
            new = await log_in(self._place.program, time.time())
            if new.pem != self._credential.pem:
                await self._take(self._place, new.pem)
            self._credential = new

    async def _take(self, place: Place, pem: bytes) -> None:
        """Use other certificates; requests that are on their way end over the old connections."""
        door = Door(trust=place.trust(pem))
        if self._before is not None:
            await self._before.close()
        self._place, self._inner, self._before = place, door, self._inner


def _stamp(files: Iterable[Path]) -> tuple[tuple[int, int, int] | None, ...]:
    """Return what tells whether files are the same as before."""
    out: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            state = file.stat()
        except OSError:
            out.append(None)
        else:
            out.append((state.st_mtime_ns, state.st_ino, state.st_size))
    return tuple(out)


class Api:
    """One API server, as a connector asks it."""

    def __init__(self, name: str, access: Access, timeout_s: float) -> None:
        self._name = name
        self._timeout_s = timeout_s
        self._door = ApiDoor(access)
        self.url, self.namespace = self._door.url, self._door.namespace

    async def ask(
        self, method: Method, path: str, body: Mapping[str, Any] | None = None, kind: str = JSON
    ) -> dict[str, Any]:
        """Return the object that it answers; raises Refused, Unavailable, Uncertain."""
        answer = await self.send(method, path, body, kind)
        if not answer.ok:
            raise wrong(f"{method} {redacted(f'{self.url}/{path}')}", method, answer)
        return self._read(method, path, answer)

    async def find(self, path: str) -> dict[str, Any] | None:
        """Return an object; None = there is none."""
        answer = await self.send("GET", path)
        if answer.status == 404:
            return None
        if not answer.ok:
            raise wrong(f"GET {redacted(f'{self.url}/{path}')}", "GET", answer)
        return self._read("GET", path, answer)

    def _read(self, method: str, path: str, answer: Answer) -> dict[str, Any]:
        found = read(answer)
        if not isinstance(found, dict):
            raise Unavailable(
                f"{method} {redacted(f'{self.url}/{path}')}: no JSON of Kubernetes; see `url` or `kubeconfig` of "
                f"{self._name}"
            )
        return found

    async def send(
        self, method: Method, path: str, body: Mapping[str, Any] | None = None, kind: str = JSON
    ) -> Answer:
        """Return the answer, whatever its status."""
        headers = {"accept": JSON} | ({"content-type": kind} if body is not None else {})
        return await self._door.ask(
            method, f"{self.url}/{path}", timeout_s=self._timeout_s, headers=headers,
            body=None if body is None else json.dumps(body).encode(), most_bytes=_MOST_BYTES,
        )  # fmt: skip

    async def items(self, path: str, **query: str) -> list[dict[str, Any]]:
        """Return all objects of a list, page by page."""
        out: list[dict[str, Any]] = []
        asked = {**query, "limit": str(_PAGE)}
        while True:
            found = await self.ask("GET", f"{path}?{urlencode(asked)}")
            out += found.get("items") or []
            more = (found.get("metadata") or {}).get("continue")
            if not more:
                return out
            asked["continue"] = str(more)

    async def lacks(self, rights: Sequence[tuple[str, str, str, str]], namespace: str) -> list[str]:
        """Ask what our role may not do of (verb, group, resource, subresource); namespace "" = in all."""
        missing = []
        for verb, group, resource, sub in rights:
            about = {
                "namespace": namespace, "verb": verb, "group": group, "resource": resource,
                "subresource": sub,
            }  # fmt: skip
            body = {
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {k: v for k, v in about.items() if v}},
            }  # fmt: skip
            said = await self.ask(
                "POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body
            )
            if not said.get("status", {}).get("allowed"):
                missing.append(f"{verb} {resource}{f'/{sub}' if sub else ''}")
        return [f"our role may not: {', '.join(missing)}"] if missing else []

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()


def wrong(said: str, method: str, answer: Answer) -> Exception:
    """Return what a status of the API server means."""
    words = message(answer)
    match answer.status:
        case 409:
            return Refused(f"{said}: {words}; changed by others just now")
        case 429 if method == "POST":  # an eviction
            return Unavailable(f"{said}: {words}; its disruption budget does not allow it now")
        case 401 | 403:
            return Refused(f"{said}: {words}; see the role of our account with `homeostat try`")
        case 429 | 502 | 503 | 504:
            return Unavailable(f"{said}: {words}")
        case status if status < 500:
            return Refused(f"{said}: {words}")
    return Unavailable(f"{said}: {words}") if method == "GET" else Uncertain(f"{said}: {words}")


def message(answer: Answer) -> str:
    """Return what the server says of a request that failed."""
    try:
        return str(answer.json()["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status}"


def named(one: Mapping[str, Any]) -> str:
    """Return the name of an object."""
    return str(one["metadata"]["name"])


def ready(one: Mapping[str, Any]) -> bool:
    """Tell whether a pod or node is ready."""
    conditions = one.get("status", {}).get("conditions") or []
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
