"""Keep what would be gone in the morning: a small, bounded picture of the host at this moment.

No command lines and no environments are taken: they hold passwords. Names, numbers and sizes only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import psutil
from pydantic import Field

from agent.errors import Unavailable
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Model

Picture = Literal["processes", "memory", "cpu", "pressure", "disks", "network"]
_USUAL: Final[tuple[Picture, ...]] = ("processes", "memory", "cpu", "pressure", "disks")
_TOP: Final = 10
_MOST_BYTES: Final = 32 << 10
_KEPT: Final = 50
_TIME_S: Final = 10.0


def _processes() -> list[dict[str, Any]]:
    """Return the processes that use most CPU (since they started) and memory, without their arguments."""
    rows = []
    for process in psutil.process_iter(
        ["pid", "ppid", "name", "username", "status", "nice", "num_threads"]
    ):
        try:
            with process.oneshot():
                times, rss = process.cpu_times(), process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        rows.append(
            {**process.info, "cpu_seconds": round(times.user + times.system, 2), "rss_bytes": rss}
        )
    by_cpu = sorted(rows, key=lambda row: -row["cpu_seconds"])[:_TOP]
    by_memory = sorted(rows, key=lambda row: -row["rss_bytes"])[:_TOP]
    return by_cpu + [row for row in by_memory if row not in by_cpu]


def _memory() -> dict[str, Any]:
    return {"memory": psutil.virtual_memory()._asdict(), "swap": psutil.swap_memory()._asdict()}


def _cpu() -> dict[str, Any]:
    return {
        "load": os.getloadavg(),
        "cores": os.cpu_count(),
        "times": psutil.cpu_times()._asdict(),
        "stats": psutil.cpu_stats()._asdict(),
    }


def _pressure() -> dict[str, str]:
    """Return the kernel's own lines on how long tasks waited; empty where it does not keep them."""
    out = {}
    for name in ("cpu", "memory", "io"):
        try:
            out[name] = Path("/proc/pressure", name).read_text(encoding="ascii").strip()
        except OSError:  # not built in, or not for containers
            continue
    return out


def _disks() -> list[dict[str, Any]]:
    out = []
    for part in psutil.disk_partitions(all=False)[:50]:
        try:
            use = psutil.disk_usage(part.mountpoint)
        except OSError as wrong:
            out.append({"mount": part.mountpoint, "error": wrong.strerror})
            continue
        out.append({"mount": part.mountpoint, "type": part.fstype, **use._asdict()})
    return out


def _network() -> dict[str, Any]:
    counters = psutil.net_io_counters(pernic=True)
    return {name: one._asdict() for name, one in sorted(counters.items())[:20]}


_TAKERS: Final[dict[Picture, Callable[[], Any]]] = {
    "processes": _processes,
    "memory": _memory,
    "cpu": _cpu,
    "pressure": _pressure,
    "disks": _disks,
    "network": _network,
}


@action("collect")
class Collect:
    """Take a picture of the host: kept with the run, and as a file when a folder is named."""

    effect = "reading"
    ability = None
    reversible = True
    shared = False
    gives = ("picture", "file", "bytes")

    class Params(Model):
        """What to take and where to keep it."""

        what: Annotated[list[Picture], Field(min_length=1)] = list(_USUAL)
        folder: Path | None = None
        """Folder for the file (the newest 50 stay); default: no file, only a summary with the run."""

    def __init__(self, params: Params, ability: None = None) -> None:
        del ability
        self._params = params

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return nothing: taking a picture changes nothing."""
        del step
        return {}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Never: the file of a step is written once, by its key."""
        del step, seen
        return False

    async def run(self, step: Step) -> Done:
        """Take all pictures at once, within 10 s; what hangs (a dead mount) is left out and said so."""
        if step.dry_run:
            return Done(f"would collect {', '.join(self._params.what)}")
        taken = await asyncio.gather(*(_taken(name) for name in self._params.what))
        picture: dict[str, Any] = {"ts": time.time(), "target": step.target, "step": step.key}
        picture |= dict(zip(self._params.what, taken, strict=True))
        text = _bounded(picture, self._params.what)
        failed = [name for name in self._params.what if "error" in picture[name]]
        fine = [name for name in self._params.what if name not in failed]
        said = f"collected {', '.join(fine) or 'nothing'}"
        if failed:
            said += "; " + ", ".join(f"{name}: {picture[name]['error']}" for name in failed)
        if self._params.folder is None:
            return Done(said, {"picture": json.loads(text)})
        path = await asyncio.to_thread(_keep, self._params.folder, step.key, text)
        return Done(f"{said}: {path}", {"file": str(path), "bytes": len(text)})


async def _taken(name: Picture) -> Any:
    """Take one picture; what hangs or is forbidden is an error in the picture and no failure of the step.

    In a daemon thread of its own: a mount that hangs must hold neither the others nor the end of the program.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def give(value: Any) -> None:
        if not answer.done():
            answer.set_result(value)

    def take() -> None:
        try:
            value = _TAKERS[name]()
        except (OSError, psutil.Error, RuntimeError, ValueError) as problem:
            value = {"error": str(problem)[:200]}
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(give, value)

    threading.Thread(target=take, name=f"collect {name}", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, _TIME_S)
    except TimeoutError:
        return {"error": f"no answer within {_TIME_S:.0f} s"}


def _bounded(picture: dict[str, Any], names: Sequence[Picture]) -> str:
    """Return the picture as JSON; what makes it too large is left out, the largest part first."""
    while len(text := json.dumps(picture, indent=1, default=str)) > _MOST_BYTES:
        largest = max(names, key=lambda name: len(json.dumps(picture[name], default=str)))
        picture[largest] = {"error": "left out: too large"}
    return text


def _keep(folder: Path, key: str, text: str) -> Path:
    """Write the file for this key and let the oldest go; only names that we give are ever removed."""
    path = folder / f"homeostat-{re.sub(r'[^A-Za-z0-9.-]+', '_', key)[:120]}.json"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        # exclusive and without following links: the folder may be one that others can write
        handle = os.open(
            part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        part.replace(path)
        old = sorted(folder.glob("homeostat-*.json"), key=lambda p: p.stat().st_mtime)[:-_KEPT]
        for one in old:
            one.unlink(missing_ok=True)
    except OSError as wrong:
        raise Unavailable(
            f"the picture could not be kept in {folder}: {wrong.strerror}; "
            "free space or name another folder"
        ) from wrong
    return path
