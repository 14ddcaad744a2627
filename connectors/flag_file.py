"""A file of flags and parameters that a service reads: one JSON object, replaced as a whole.

flag_file:
  service: checkout
  path: /etc/checkout/flags.json
  may: [reranker, new_ui, max_batch_count, requests_per_second]
  bounds: {max_batch_count: [1, 64], requests_per_second: [10, 5000]}
  reload: {pidfile: /run/checkout.pid}       # SIGHUP after each change; left out: the service looks by itself
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from agent.config import Name
from agent.errors import Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.units import Model

_MOST_BYTES: Final = 1 << 20
Value = bool | float | str | None


class Reload(Model):
    """How a service is told that its file has changed."""

    pidfile: Path

    def tell(self) -> None:
        """Send SIGHUP, if the process has a handler for it: else it would end."""
        try:
            pid = int(self.pidfile.read_text("ascii"))
            status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
        except (OSError, ValueError):
            return  # it does not run: it reads the file when it starts
        caught = next((x.split()[1] for x in status.splitlines() if x.startswith("SigCgt:")), "0")
        if not int(caught, 16) >> (signal.SIGHUP - 1) & 1:
            return
        try:
            os.kill(pid, signal.SIGHUP)
        except PermissionError:
            raise Uncertain(
                f"the file is written, but process {pid} may not be told: run the daemon as its user, or grant CAP_KILL"
            ) from None


@connector("flag_file")
class FlagFile:
    """The flags of one service, in a JSON file.

    Abilities  Flags (see playbooks/actions/flags.py), Limiter for its numbers (see playbooks/actions/limits.py)
    Names with dots lie deeper: `search.reranker` is `{"search": {"reranker": ...}}`. Everything else in the file stays
    as it is; its owner, group and mode too. A lock beside it keeps two of us apart; who writes without it may still
    come between, within a millisecond.
    """

    class Config(Model):
        """Which file, and what of it may be set."""

        service: Name
        path: Path
        may: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
        """Names that may be set, and no others."""
        bounds: dict[str, tuple[float, float]] = {}
        """Least and most of a number."""
        reload: Reload | None = None

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config

    # ---- ability: Flags

    async def flag(self, name: str) -> Value:
        """Return a value; raises Refused when it is a list or an object."""
        self._allowed(name)
        return await asyncio.to_thread(lambda: _value(self._read(), name))

    async def set_flag(self, name: str, value: Value, expect: Value, by: str) -> None:
        """Write the file anew with this one value changed."""
        del by
        self._allowed(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._within(name, value)
        await asyncio.to_thread(self._write, name, value, expect)

    # ---- ability: Limiter

    async def limit(self, target: str, name: str) -> float | None:
        """Return a number."""
        self._ours(target)
        value = await self.flag(name)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise Refused(f"{name} in {self.config.path} is {value!r}, which is no number")
        return None if value is None else float(value)

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return the number itself, if it is within its bounds."""
        self._ours(target)
        self._within(name, value)
        return value

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Set a number."""
        self._ours(target)
        await self.set_flag(name, value, expect, "")

    async def describe(self) -> Sequence[str]:
        """Say what the values are, and whether we may write."""
        try:
            data = await asyncio.to_thread(self._read)
        except (Refused, Unavailable) as problem:
            return (str(problem),)
        lines = [f"{name} = {json.dumps(_value(data, name))}" for name in self.config.may]
        folder = self.config.path.parent
        if not os.access(folder, os.W_OK):
            lines.append(f"may only look: {folder} can not be written")
        return lines

    # ---- the file

    def _ours(self, target: str) -> None:
        if target != f"service:{self.config.service}":
            raise Refused(
                f"{self.name} has the values of service:{self.config.service}, not {target}: say which with `via:`"
            )

    def _allowed(self, name: str) -> None:
        if name not in self.config.may:
            raise Refused(
                f"{name} is not among what {self.name} may set: {', '.join(self.config.may)}"
            )

    def _within(self, name: str, value: float) -> None:
        low, high = self.config.bounds.get(name, (-math.inf, math.inf))
        if not low <= value <= high:
            raise Refused(
                f"{name} may be {low:g} to {high:g}, not {value:g}: see `bounds` of {self.name}"
            )

    def _read(self) -> dict[str, Any]:
        path = self.config.path
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES + 1)
            data = json.loads(text) if len(text) <= _MOST_BYTES else None
        except OSError as wrong:
            raise Refused(f"{path} can not be read: {wrong.strerror}") from None
        except ValueError:
            raise Refused(f"{path} is no JSON: mend it by hand") from None
        if not isinstance(data, dict):
            raise Refused(f"{path} holds no JSON object, or a huge one")
        return data

    def _write(self, name: str, value: Value, expect: Value) -> None:
        path = self.config.path
        fresh = path.with_name(f".{path.name}.homeostat")
        try:
            with path.with_name(f".{path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                data = self._read()
                now = _value(data, name)
                if now != expect:
                    raise Refused(f"{name} in {path} is {now!r}, not {expect!r}: changed by others")
                old = path.stat()
                with fresh.open("w", encoding="utf-8") as out:
                    json.dump(_with(data, name, value), out, indent=2, ensure_ascii=False)
                    out.write("\n")
                    os.fchmod(out.fileno(), old.st_mode & 0o7777)
                    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(out.fileno(), old.st_uid, old.st_gid)
                    out.flush()
                    os.fsync(out.fileno())
                fresh.replace(path)
        except OSError as wrong:
            fresh.unlink(missing_ok=True)
            raise Refused(
                f"{path} can not be written: {wrong.strerror}; let the daemon's user do so"
            ) from None
        if self.config.reload is not None:
            self.config.reload.tell()


def _value(data: Mapping[str, Any], name: str) -> Value:
    found: Any = data
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict | list):
        raise Refused(f"{name} is no single value")
    return found


def _with(data: Mapping[str, Any], name: str, value: Value) -> dict[str, Any]:
    """Return the object with one value set, or taken away when it is None."""
    head, dot, rest = name.partition(".")
    out = dict(data)
    if dot:
        below = out.get(head)
        out[head] = _with(below if isinstance(below, dict) else {}, rest, value)
    elif value is None:
        out.pop(head, None)
    else:
        number = isinstance(value, float) and value.is_integer()
        out[head] = int(value) if number else value  # 8, not 8.0, for those who read integers
    return out
