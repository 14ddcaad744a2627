"""Boards on their way to Grafana, objects on their way to Kibana: files of `dashboards`, and who takes them.

    files of the package --export--> a folder, which Grafana reads (provisioning) or a person imports
                         --push----> a Grafana, through the `place` that is registered for it

The files are built and committed (`dashboards/boards`); here they are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, Protocol

Board = Mapping[str, Any]
Became = Literal["new", "changed", "as it is", "edited", "refused"]
"""edited: a person has saved it there since we did, so it was left alone."""

_OF_THE_PLACE: Final = frozenset({"id", "version"})
"""What a Grafana counts for itself."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one board. said: what differs, or why not, in words."""

    uid: str
    title: str
    became: Became
    said: str = ""


class Place(Protocol):
    """Takes boards. Registered with `@registry.place`, made with (url, token, folder)."""

    async def push(self, boards: Sequence[Board], *, dry_run: bool, force: bool) -> list[Pushed]:
        """Put boards where they differ. Raises Unavailable, Refused when it does not talk to us at all.

        force   also over what a person has saved there
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def boards() -> list[Board]:
    """Return the boards that are shipped, by uid."""
    texts = (text for _, text in files("grafana"))
    return sorted((json.loads(text) for text in texts), key=lambda board: str(board["uid"]))


def files(part: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of the files in one folder of the package."""
    folder = resources.files("dashboards") / part
    for path in sorted(folder.iterdir(), key=lambda one: one.name):
        if path.name.endswith((".json", ".ndjson", ".yaml", ".yml")):
            yield path.name, path.read_text(encoding="utf-8")


def export(folder: Path, part: str) -> list[tuple[Path, Became]]:
    """Write the files of one part into a folder; returns each with what became of it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    out: list[tuple[Path, Became]] = []
    for name, text in files(part):
        path = folder / name
        there = path.read_text(encoding="utf-8") if path.exists() else None
        became: Became = "new" if there is None else "as it is" if there == text else "changed"
        if there != text:
            path.write_text(text, encoding="utf-8")
        out.append((path, became))
    return out


def same(ours: Board, theirs: Board) -> bool:
    """Tell whether a board is there as it is here, but for what a Grafana counts for itself."""
    return _bare(ours) == _bare(theirs)


def differences(ours: Board, theirs: Board) -> str:
    """Say what would change there: panels by their title, else the parts of the board."""
    before, after = _panels(theirs), _panels(ours)
    said = [
        *_some("new", [t for t in after if t not in before]),
        *_some("gone", [t for t in before if t not in after]),
        *_some("changed", [t for t in after if t in before and after[t] != before[t]]),
    ]
    a, b = _bare(theirs), _bare(ours)
    rest = [k for k in sorted({*a, *b} - {"panels"}) if a.get(k) != b.get(k)]
    return "; ".join([*said, *_some("also", rest)])


def _bare(board: Board) -> dict[str, Any]:
    return {k: v for k, v in board.items() if k not in _OF_THE_PLACE and v is not None}


def _panels(board: Board) -> dict[str, Any]:
    return {str(p.get("title", "")): p for p in board.get("panels") or ()}


def _some(what: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what}: {', '.join(names[:3])}{more}"] if names else []
