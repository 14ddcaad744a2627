"""Reaches people by a command of theirs: the note as JSON on its standard input.

    page:
      command: [/usr/local/bin/send-page, --team, serving]

Exit status 0 = delivered. A note that was delivered once is not delivered again, also after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
from pydantic import Field

from agent.errors import Unavailable, Uncertain
from agent.registry import connector
from agent.units import Duration, Model, many

if TYPE_CHECKING:
    from agent.ports import Note

log = structlog.get_logger()

_MOST_KEYS: Final = 2000


@connector("page")
class Page:
    """A command that delivers a note.

    It is started without a shell, in a process group of its own, and killed with all its children after `timeout`.
    It gets the environment of the daemon, because senders need their own settings; its output is not kept, because
    senders print tokens when they fail. A kill of the daemon between delivery and our note of it may page twice:
    better than not at all.
    """

    tested = "real programs"

    class Config(Model):
        """Which command."""

        command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
        """Program and arguments. On standard input: {key, ts, severity, title, text, incident, owner, channel}."""
        timeout: Annotated[Duration, Field(gt=0, le=300)] = 10.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._told = _Told(state / "feeds" / f"{name}.told" if state is not None else None)
        self._turn = asyncio.Lock()

    async def notify(self, note: Note) -> None:
        """Deliver once per key; raises Unavailable (exit status not 0, cannot start), Uncertain (killed)."""
        async with self._turn:  # two tries of one key must not both look before either has told
            if note.key in self._told:
                return
            await self._deliver(json.dumps(asdict(note)).encode() + b"\n")
            await asyncio.to_thread(self._told.add, note.key)

    async def _deliver(self, text: bytes) -> None:
        program = self.config.command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self.config.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as wrong:  # a person may mend it while the note is still worth delivering
            raise Unavailable(
                f"the page command {program} cannot be started: {wrong.strerror}; mend `command` of {self.name}"
            ) from None
        try:
            async with asyncio.timeout(self.config.timeout):
                await process.communicate(text)
        except TimeoutError:
            raise Uncertain(
                f"the page command {program} took longer than {self.config.timeout:g} s and was killed; "
                "it may have delivered"
            ) from None
        finally:
            await _end(process)
        if process.returncode != 0:
            raise Unavailable(
                f"the page command {program} ended with status {process.returncode}; "
                "run it by hand with a note on its standard input to see why"
            )

    async def describe(self) -> Sequence[str]:
        """Say what would be run, and whether it is there; delivers nothing."""
        program = self.config.command[0]
        found = shutil.which(program)
        return (
            f"pages by running {found or program} with the note as JSON on its standard input"
            + ("" if found else ": NOT FOUND, pages would be refused"),
            f"has delivered {many(len(self._told), 'note')} that it remembers",
        )


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the command with what it started in its group, unless it has ended by itself."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


class _Told:
    """The keys that were delivered, newest last, one JSON string a line; the newest 2000 are kept.

    path None: only in memory. A torn last line (power cut) is one key that may be told again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys: OrderedDict[str, float] = OrderedDict()
        self._lines = 0
        if path is None or not path.exists():
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            self._lines += 1
            try:
                key: Any = json.loads(line)
            except ValueError:
                continue  # torn by a crash in the middle of the write
            if isinstance(key, str):
                self._keys[key] = 0.0
        while len(self._keys) > _MOST_KEYS:
            self._keys.popitem(last=False)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        """Remember a key, on disk before we return; a disk that is full is logged: people were told all the same."""
        self._keys[key] = time.time()
        while len(self._keys) > _MOST_KEYS:
            self._keys.popitem(last=False)
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._lines >= 2 * _MOST_KEYS:
                self._rewrite()
                return
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(handle).st_size
                torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
                os.write(handle, (b"\n" if torn else b"") + json.dumps(key).encode() + b"\n")
                os.fsync(handle)
            finally:
                os.close(handle)
            self._lines += 1
        except OSError as wrong:
            log.warning("told_not_kept", file=str(self._path), error=wrong.strerror)

    def _rewrite(self) -> None:
        if self._path is None:
            return
        fresh = self._path.with_suffix(".new")
        fresh.write_text("".join(json.dumps(key) + "\n" for key in self._keys), encoding="utf-8")
        fresh.chmod(0o600)
        fresh.replace(self._path)
        self._lines = len(self._keys)
