"""What a training gave, whoever ran it, and the report that it must leave."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MOST_REPORT_BYTES: Final = 1 << 20
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gave: the new version and the trainer's whole report."""

    version: str
    report: Mapping[str, Any]


def trained(report: Mapping[str, Any]) -> Trained:
    """Return what a report that `read_report` took tells."""
    return Trained(str(report["version"]), report)


def read_report(said: Any, key: str) -> dict[str, Any] | None:
    """Return a report of this key: JSON, as text or read already; None for whatever else it is."""
    if isinstance(said, str | bytes):
        try:
            # NaN is no JSON; what is kept and journaled must be
            said = json.loads(said, parse_constant=lambda _: None)
        except ValueError:
            return None
    if not isinstance(said, dict) or said.get("key", key) != key:
        return None
    return dict(said) if _VERSION.fullmatch(str(said.get("version", ""))) else None
