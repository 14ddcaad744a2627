"""What was done for which key, on disk: so that a second try of the same step does nothing more.

    once = Once(folder)
    record = once.begin(key)      # {} = never begun; begun now, fsynced
    once.end(key, {...})

One small file a key; the oldest go when there are many.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.errors import Unavailable

_KEPT: Final = 2000


class Once:
    """Records by key; without a folder they are only in memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._turn = threading.Lock()
        self._memory: dict[str, dict[str, Any]] = {}

    def find(self, key: str) -> dict[str, Any]:
        """Return what is known of a key: {} never begun, {"state": "begun"}, or what `end` was given."""
        if self._folder is None:
            return dict(self._memory.get(key, {}))
        try:
            found = json.loads(self._path(key).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            return {"state": "begun"}  # it was begun: that is all that a damaged file says
        return found if isinstance(found, dict) else {"state": "begun"}

    def begin(self, key: str) -> dict[str, Any]:
        """Return what `find` does, and note that it begins now when it had not; raises Unavailable when it can not."""
        with self._turn:  # who asks does so in a thread: two at once are one
            found = self.find(key)
            if not found:
                self._write(key, {"key": key, "state": "begun"})
        return found

    def note(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep how far it has got: `find` gives it back, its state is still `begun`. What has ended meanwhile has."""
        with self._turn:
            if self.find(key).get("state") != "done":
                self._write(key, {"key": key, "state": "begun", **record})

    def end(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep what came of it."""
        with self._turn:
            self._write(key, {"key": key, "state": "done", **record})

    def forget(self, key: str) -> None:
        """Say that nothing has happened after all."""
        self._memory.pop(key, None)
        if self._folder is not None:
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        assert self._folder is not None  # noqa: S101  # asked by the callers
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _write(self, key: str, record: Mapping[str, Any]) -> None:
        if self._folder is None:
            self._memory[key] = dict(record)
            return
        path = self._path(key)
        fresh = path.with_suffix(".new")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(record, out)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(path)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as wrong:
            raise Unavailable(
                f"{self._folder} can not be written: {wrong.strerror}; make room"
            ) from None
        self._tidy()

    def _tidy(self) -> None:
        assert self._folder is not None  # noqa: S101  # asked by the caller
        files = list(self._folder.glob("*.json"))
        if len(files) > _KEPT + 100:
            with contextlib.suppress(OSError):
                for old in sorted(files, key=lambda f: f.stat().st_mtime)[:-_KEPT]:
                    old.unlink(missing_ok=True)
