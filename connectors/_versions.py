"""What registries of models have in common: champion, version, hold, and how they stand on the map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.model import Edge, Entity, Sighting

MOST_PREVIOUS: Final = 20
"""Champions before the one in use that are remembered."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that answers. previous: champions before it, newest first; changed: unix seconds, NaN = not said.

    instead   the champion that it took the place of, and those before that; "" = not said
    """

    version: str
    previous: tuple[str, ...]
    changed: float
    by: str
    instead: tuple[str, tuple[str, ...]] = ("", ())


@dataclass(frozen=True, slots=True)
class Version:
    """One trained version, as its metadata says. role: candidate | backup."""

    version: str
    role: str
    features: tuple[str, ...]
    trained_at: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Hold:
    """Retraining is held back: why and by whom ("" = not said)."""

    reason: str
    by: str


def stack(now: Champion, version: str) -> list[str]:
    """Return the champions before `version` when it takes over.

    One that was champion takes back what came after it: a second roll back then goes further back instead of forth.
    Who puts back what the champion took the place of gets back all of it, the champions between included.
    """
    if version == now.instead[0]:
        return list(now.instead[1])
    if version in now.previous:
        return list(now.previous[now.previous.index(version) + 1 :])
    return [now.version, *(p for p in now.previous if p != now.version)][:MOST_PREVIOUS]


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Sort 9 before 10."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"(\d+)", name)
        if part
    )


def sightings(about: Entity, champion: Champion, versions: Sequence[Version]) -> list[Sighting]:
    """Return the model and its versions with what people want to know of them."""
    out = [
        Sighting(
            about,
            (("changed_by", champion.by), ("previous", ",".join(champion.previous[:5])), ("version", champion.version)),
        )
    ]  # fmt: skip
    for version in versions:
        me = Entity("version", f"{about.key}/{version.version}")
        attrs = {"champion": str(version.version == champion.version).lower(), "role": version.role}
        if version.accuracy is not None:
            attrs["accuracy"] = f"{version.accuracy:.4f}"
        if version.trained_at is not None:
            attrs["trained_at"] = f"{version.trained_at:.0f}"
        out.append(Sighting(me, tuple(sorted(attrs.items())), (Edge("version_of", me, about),)))
    return out
