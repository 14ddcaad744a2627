"""Secrets by reference: `env:NAME` and `file:PATH` stand in files, the secret itself never does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from agent.errors import Refused
from agent.strike import learn


class Hidden:
    """Marks the fields of a Config whose values stand for secrets, for those who look for all of them."""


HIDDEN: Final = Hidden()
_SECRET_NAME: Final = re.compile(
    r"(?i)authorization|cookie|token|secret|passw|credential|(?<![a-z])auth(?![a-z])"
    r"|(api|access|account|functions?|routing|subscription)[-_]?key"
)

REFERENCE: Final = r"^(|env:[A-Za-z_][A-Za-z0-9_]*|file:/.+)$"
Reference = Annotated[str, Field(pattern=REFERENCE), HIDDEN]
"""A secret, `env:NAME` or `file:/PATH` and never itself; "" = none."""


def _none_written(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if _SECRET_NAME.search(name) and not is_reference(value):
            raise ValueError(
                f"{name} is a secret: write `env:NAME` or `file:/PATH` of its whole value, `Bearer ...` included"
            )
    return headers


Headers = Annotated[dict[str, str], AfterValidator(_none_written), HIDDEN]
"""Headers of a request; values may be references, those that are secrets by their name must."""


def is_reference(text: str) -> bool:
    """Tell whether a text stands for a secret."""
    return text.startswith(("env:", "file:/"))


def environment_of(names: Iterable[str]) -> dict[str, str]:
    """Return what is set of these variables, for a program that we start; those that are secrets by name are known."""
    found = {name: os.environ[name] for name in names if name in os.environ}
    for name, value in found.items():
        if _SECRET_NAME.search(name):
            learn(value)
    return found


def secret(reference: str) -> str:
    """Resolve `env:NAME` or `file:PATH` now, so that a renewed secret is used; other text stands for itself.

    Raises Refused when it is not there. What it returns must not be printed or kept; `agent.strike` knows it then.
    """
    kind, colon, name = reference.partition(":")
    if colon and kind == "env":
        try:
            return learn(os.environ[name])
        except KeyError:
            raise Refused(
                f"the environment variable {name} is not set; set it for the daemon"
            ) from None
    if colon and kind == "file":
        try:
            return learn(Path(name).read_text(encoding="utf-8").strip())
        except OSError as wrong:
            raise Refused(f"the secret in {name} cannot be read: {wrong.strerror}") from None
    return reference
