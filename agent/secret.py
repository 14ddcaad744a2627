"""Secrets by reference: `env:NAME` and `file:PATH` stand in files, the secret itself never does."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import Refused


def secret(reference: str) -> str:
    """Resolve `env:NAME` or `file:PATH` now, so that a renewed secret is used; other text stands for itself.

    Raises Refused when it is not there. What it returns must not be printed or kept.
    """
    kind, colon, name = reference.partition(":")
    if colon and kind == "env":
        try:
            return os.environ[name]
        except KeyError:
            raise Refused(
                f"the environment variable {name} is not set; set it for the daemon"
            ) from None
    if colon and kind == "file":
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except OSError as wrong:
            raise Refused(f"the secret in {name} cannot be read: {wrong.strerror}") from None
    return reference
