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
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agent.errors import Refused, Uncertain
from agent.registry import connector
from agent.units import Model
from connectors._values import Value, Values, ValuesConfig, merged, nested, value_at

_MOST_BYTES: Final = 1 << 20


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
class FlagFile(Values):
    """The flags of one service, in a JSON file.

    Abilities  Flags (see playbooks/actions/flags.py), Limiter for its numbers (see playbooks/actions/limits.py)
    Everything else in the file stays as it is; its owner, group and mode too. A lock beside it keeps two of us apart;
    who writes without it may still come between, within a millisecond.
    """

    tested = "real files"

    class Config(ValuesConfig):
        """Which file."""

        path: Path
        reload: Reload | None = None

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config)
        self.config = config

    async def _get(self, name: str) -> Value:
        return await asyncio.to_thread(lambda: value_at(self._read(), name))

    async def _put(self, name: str, value: Value, expect: Value) -> None:
        await asyncio.to_thread(self._write, name, value, expect)

    async def describe(self) -> Sequence[str]:
        """Say what the values are, and whether we may write."""
        try:
            data = await asyncio.to_thread(self._read)
        except Refused as problem:
            return (str(problem),)
        lines = [f"{name} = {json.dumps(value_at(data, name))}" for name in self.config.may]
        folder = self.config.path.parent
        if not os.access(folder, os.W_OK):
            lines.append(f"may only look: {folder} can not be written")
        return lines

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
                now = value_at(data, name)
                if now != expect:
                    raise Refused(f"{name} in {path} is {now!r}, not {expect!r}: changed by others")
                old = path.stat()
                with fresh.open("w", encoding="utf-8") as out:
                    json.dump(merged(data, nested(name, value)), out, indent=2, ensure_ascii=False)
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
