"""Where a reader stands, on disk: JSON that survives a kill, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog

log = structlog.get_logger()

_EVERY_S: Final = 2.0


class Kept:
    """One JSON object with the state of one reader; without a path it is only kept in memory.

    clean   the last one closed it: nothing was lost. Else the reader was killed and must go back a little
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written_at = -math.inf
        self.clean = True
        self.found: dict[str, Any] = {}
        if path is None:
            return
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            self.clean, self.found = bool(data["clean"]), dict(data["state"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as damage:
            log.warning(
                "positions_not_read",
                file=str(path),
                error=str(damage),
                remedy="begins as at first sight",
            )

    def write(self, state: Mapping[str, Any], *, clean: bool = False) -> None:
        """Write it, at most every 2 s; `clean` at the end, always."""
        now = time.monotonic()
        if self._path is None or (not clean and now - self._written_at < _EVERY_S):
            return
        self._written_at = now
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._path.with_suffix(".new")
            with fresh.open("w", encoding="utf-8") as out:
                json.dump({"clean": clean, "state": state}, out)
                out.flush()
                os.fsync(out.fileno())
            fresh.replace(self._path)
        except OSError as wrong:
            log.warning("positions_not_kept", file=str(self._path), error=wrong.strerror)
