"""Containers of one Docker host as the replicas of a service: restart, start and stop, limits.

    docker:
      service: checkout
      labels: {com.docker.compose.service: checkout}      # which containers; all of them must have all of these

Spoken to by the Engine API on its Unix socket. Whoever may write there is root on this host: give it to homeostat
only where it may act at all. Docker itself makes no replicas: to scale out, containers must be there, stopped
(`docker compose up --no-start --scale checkout=5`).
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import structlog
from pydantic import Field

from agent.config import Name
from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.model import entity
from agent.registry import connector
from agent.units import Duration, Model, many, say_duration
from connectors.http import Answer, Door, Method

log = structlog.get_logger()

_API: Final = "v1.41"
"""Docker 20.10 (2020) and newer."""
_LOOK_S: Final = 0.2
_NANO: Final = 1_000_000_000
_LIMITS: Final = ("cpu_cores", "memory_bytes", "pids_count")
_LEAST_BYTES: Final = 6 << 20
"""What Docker takes at least."""


@dataclass(frozen=True, slots=True)
class Life:
    """One container that runs. birth: its id and when it was started."""

    replica: str
    birth: str
    well: bool


@connector("docker")
class Docker:
    """Containers of this host that together are one service.

    Abilities  Restarter (see playbooks/actions/restart.py), Scaler (see playbooks/actions/scale.py): more replicas are
               the first containers that do not run, fewer are the last that do. Limiter (playbooks/actions/limits.py)
               of `replica:`: `cpu_cores`, `memory_bytes`, `pids_count`; CPU and memory only where there is such a limit
               already, as Docker can change one and not take it away
    Never the container that homeostat itself runs in. The protocol is known from its documentation: `stand_in`.
    """

    tested = "stand-in of the Engine API 1.41"
    stand_in = True

    class Config(Model):
        """Which containers."""

        service: Name
        labels: Annotated[dict[str, str], Field(min_length=1)]
        """What all of them have: `com.docker.compose.service: checkout`."""
        socket: Path = Path("/var/run/docker.sock")
        grace: Annotated[Duration, Field(ge=0, le=600)] = 10.0
        """Between SIGTERM and SIGKILL."""
        wait: Annotated[Duration, Field(gt=0, le=600)] = 60.0
        """For one container to be well again, by its health check where it has one."""
        timeout: Annotated[Duration, Field(gt=0, le=60)] = 5.0
        """For an answer of Docker."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self._door = Door(socket=config.socket)
        self._turn = asyncio.Lock()

    # ---- ability: Restarter

    async def units(self, service: str) -> Sequence[Life]:
        """Return the containers that run or are being started."""
        self._ours(service)
        return [
            Life(f"replica:{self.config.service}/{_name(one)}", _birth(one), _well(one))
            for one in await self._all()
            if _runs(one)
        ]

    async def restart(self, service: str, birth: str) -> None:
        """Restart the container of that birth, and wait until it is well again."""
        self._ours(service)
        async with self._turn:
            found = next(
                (one for one in await self._all() if _runs(one) and _birth(one) == birth), None
            )
            if found is None:
                raise Refused(
                    f"{service} runs no container of birth {birth}: it was restarted already"
                )
            await self._tell("restart", found)
            await self._until_well(found)

    # ---- ability: Scaler

    async def replicas(self, target: str) -> int:
        """Return how many containers run."""
        return len(await self.units(target))

    async def set_replicas(self, target: str, n: int, expect: int) -> None:
        """Start or stop containers, one by one."""
        self._ours(target)
        async with self._turn:
            every = await self._all()
            running = [one for one in every if _runs(one)]
            if not 1 <= n <= len(every):
                raise Refused(
                    f"{target} has 1 to {len(every)} containers, not {n}: make them first, stopped, with the labels "
                    f"of {self.name}"
                )
            if len(running) != expect:
                raise Refused(
                    f"{target} runs {many(len(running), 'container')}, not {expect}: changed by others"
                )
            more = n > expect
            idle = [one for one in every if not _runs(one)]
            for turn, one in enumerate(idle[: n - expect] if more else running[n:][::-1]):
                try:
                    await self._tell("start" if more else "stop", one)
                    if more:
                        await self._until_well(one)
                except (Refused, Unavailable) as problem:
                    if not turn:
                        raise
                    raise Uncertain(
                        f"{turn} containers of {target} were changed, then: {problem}"
                    ) from None

    # ---- ability: Limiter

    async def limit(self, target: str, name: str) -> float | None:
        """Return the limit that a container was given."""
        return _limit((await self._one(target))["HostConfig"], _known(name))

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return what Docker keeps; Refused where it could not be taken back, or would kill at once."""
        found = await self._one(target)
        now = _limit(found["HostConfig"], _known(name))
        if name == "pids_count":
            return float(max(1, round(value)))
        if now is None:
            raise Refused(
                f"{target} has no limit {name}, and Docker can not take one away again: start it with one"
            )
        if name == "cpu_cores":
            return round(max(value, 0.01) * 1000) / 1000
        wanted = float(int(max(value, _LEAST_BYTES)))
        used = await self._used(found)
        if wanted < used:
            raise Refused(
                f"{target} uses {used:.0f} bytes: with a limit of {wanted:.0f} the kernel would kill it at once; "
                "restart it first"
            )
        return wanted

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Update one container, if its limit is still `expect`."""
        async with self._turn:
            found = await self._one(target)
            host = found["HostConfig"]
            now = _limit(host, _known(name))
            if now != expect:
                raise Refused(f"{name} of {target} is {now}, not {expect}: changed by others")
            if value is None and name != "pids_count":
                raise Refused(
                    f"Docker can not take the limit {name} of {target} away: start it anew"
                )
            body = {"PidsLimit": -1} if value is None else _wanted(host, name, value)
            await self._ask("POST", f"containers/{found['Id']}/update", body, changes=True)
            try:
                after = _limit((await self._one(target))["HostConfig"], name)
            except AgentError as lost:
                raise Uncertain(f"{name} of {target} was set to {value}; {lost}") from None
            if after != value:
                raise Uncertain(f"{name} of {target} was set to {value} and is {after}")

    async def describe(self) -> Sequence[str]:
        """Say which containers there are, and how they stand."""
        try:
            version = (await self._ask("GET", "version")).json()
            every = await self._all()
        except (Refused, Unavailable, ValueError) as problem:
            return (str(problem),)
        lines = [f"Docker {version.get('Version', '?')} on {self.config.socket}"]
        if not every:
            lines.append(f"no container has all of the labels {dict(self.config.labels)}")
        for one in every:
            said = [
                f"{name} {_limit(one['HostConfig'], name):g}"
                for name in _LIMITS
                if _limit(one["HostConfig"], name)
            ]
            health = one["State"].get("Health", {}).get("Status", "")
            lines.append(
                ", ".join(
                    [f"{_name(one)}: {one['State']['Status']}", *filter(None, [health]), *said]
                )
            )
        return lines

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()

    # ---- the Engine API

    def _ours(self, service: str) -> None:
        if service != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} runs service:{self.config.service}, not {service}: say which with `via:`"
            )

    async def _all(self) -> list[dict[str, Any]]:
        """Return what Docker says of each container, by name."""
        wanted = [f"{key}={value}" for key, value in sorted(self.config.labels.items())]
        query = urlencode({"all": "true", "filters": json.dumps({"label": wanted})})
        found = self._read(await self._ask("GET", f"containers/json?{query}"))
        if not isinstance(found, list) or not all(
            isinstance(one, dict) and "Id" in one for one in found
        ):
            raise Unavailable(
                f"{self.config.socket} does not answer as Docker does: no list of containers"
            )
        every = []
        for one in found:
            try:
                every.append(await self._inspect(str(one["Id"])))
            except _Gone:  # between the two questions
                continue
        return sorted(every, key=_name)

    async def _one(self, target: str) -> dict[str, Any]:
        """Return the container that is a replica."""
        about = entity(target)
        service, _, name = about.key.partition("/")
        if about.kind != "replica" or service != self.config.service:
            raise Refused(f"{self.name} limits replica:{self.config.service}/NAME, not {target}")
        for one in await self._all():
            if _name(one) == name:
                return one
        raise Refused(f"there is no container {name} with the labels of {self.name}")

    async def _inspect(self, id_: str) -> dict[str, Any]:
        found = self._read(await self._ask("GET", f"containers/{quote(id_, safe='')}/json"))
        for key in ("Id", "Name", "State", "HostConfig"):
            if not isinstance(found, dict) or key not in found:
                raise Unavailable(f"{self.config.socket} does not answer as Docker does: no {key}")
        return dict(found)

    def _read(self, answer: Answer) -> Any:
        try:
            return answer.json()
        except ValueError:
            raise Unavailable(
                f"{self.config.socket} does not answer as Docker does: no JSON"
            ) from None

    async def _used(self, one: Mapping[str, Any]) -> float:
        """Return the bytes that can not be taken back from a container; 0 = it does not run."""
        path = f"containers/{one['Id']}/stats?stream=false&one-shot=true"
        said = (await self._ask("GET", path)).json().get("memory_stats", {})
        inactive = said.get("stats", {}).get("inactive_file", 0)
        return float(max(said.get("usage", 0) - inactive, 0))

    async def _tell(self, verb: str, one: Mapping[str, Any]) -> None:
        """Start, stop or restart one container."""
        if one["Id"].startswith(socket.gethostname()):
            raise Refused(f"{_name(one)} is the container that homeostat runs in: never touched")
        query = f"?t={self.config.grace:.0f}" if verb != "start" else ""
        timeout = self.config.timeout + (self.config.grace if verb != "start" else self.config.wait)
        await self._ask(
            "POST", f"containers/{one['Id']}/{verb}{query}", timeout_s=timeout, changes=True
        )
        log.info("container_told", verb=verb, container=_name(one))

    async def _until_well(self, before: Mapping[str, Any]) -> None:
        """Wait until a container runs, in another life than before, and its health check says so."""
        end = time.monotonic() + self.config.wait
        while True:
            try:
                now = await self._inspect(before["Id"])
            except (
                Unavailable
            ) as blind:  # it was told, so this is no time to say that nothing happened
                how = f"can not be seen ({blind})"
            else:
                if _well(now) and _birth(now) != _birth(before):
                    return
                state = now["State"]
                health = state.get("Health", {}).get("Status", "no health check")
                how = f"is {state['Status']} ({health})"
            if time.monotonic() > end:
                raise Uncertain(
                    f"{_name(before)} {how} after {say_duration(self.config.wait)}; see its log"
                )
            await asyncio.sleep(_LOOK_S)

    async def _ask(
        self,
        method: Method,
        path: str,
        body: Any = None,
        *,
        timeout_s: float | None = None,
        changes: bool = False,
    ) -> Answer:
        where = f"/{path.partition('?')[0]} of Docker at {self.config.socket}"
        try:
            answer = await self._door.ask(
                method, f"http://docker/{_API}/{path}", timeout_s=timeout_s or self.config.timeout,
                called=where, headers={"content-type": "application/json"} if body is not None else None,
                body=json.dumps(body).encode() if body is not None else b"" if changes else None,
            )  # fmt: skip
        except Unavailable as away:
            raise Unavailable(f"{away}; does Docker run, and may we write to its socket?") from None
        if answer.ok or answer.status == 304:  # it is so already
            return answer
        called = f"{method} {where}"
        try:
            said = str(answer.json()["message"])[:300]
        except (ValueError, KeyError, TypeError):
            said = f"status {answer.status}"
        if answer.status == 404:
            raise _Gone(f"{called}: {said}")
        if answer.status < 500:
            raise Refused(f"{called}: {said}")
        if changes:
            raise Uncertain(f"{called}: {said}; it may have been done")
        raise Unavailable(f"{called}: {said}")


class _Gone(Refused):
    """There is no such container any more."""


def _known(name: str) -> str:
    if name not in _LIMITS:
        raise Refused(f"containers have no limit {name}: there are {', '.join(_LIMITS)}")
    return name


def _limit(host: Mapping[str, Any], name: str) -> float | None:
    """Read a limit of `HostConfig`; None = there is none."""
    if name == "memory_bytes":
        return float(host.get("Memory") or 0) or None
    if name == "pids_count":
        pids = host.get("PidsLimit") or 0
        return float(pids) if pids > 0 else None
    if host.get("NanoCpus"):
        return float(host["NanoCpus"] / _NANO)
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or 100_000
    return quota / period if quota > 0 else None


def _wanted(host: Mapping[str, Any], name: str, value: float) -> dict[str, int]:
    """Return what an update must say, in the form that the container was made with."""
    if name == "pids_count":
        return {"PidsLimit": int(value)}
    if name == "memory_bytes":
        memory, swap = host.get("Memory") or 0, host.get("MemorySwap") or 0
        # memory and swap together may not be less than memory: they move along
        more = {"MemorySwap": int(value) + swap - memory} if swap > 0 else {}
        return {"Memory": int(value), **more}
    if host.get("NanoCpus"):
        return {"NanoCpus": round(value * _NANO)}
    return {"CpuQuota": round(value * (host.get("CpuPeriod") or 100_000))}


def _name(one: Mapping[str, Any]) -> str:
    return str(one["Name"]).lstrip("/")


def _birth(one: Mapping[str, Any]) -> str:
    return f"{one['Id'][:12]}@{one['State'].get('StartedAt', '')}"


def _runs(one: Mapping[str, Any]) -> bool:
    return one["State"].get("Status") in {"running", "restarting"}


def _well(one: Mapping[str, Any]) -> bool:
    state = one["State"]
    return state.get("Status") == "running" and state.get("Health", {}).get(
        "Status", "healthy"
    ) in {"healthy", "none"}
