"""What registries of models have in common: champion, version, hold, and how they stand on the map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent.model import Edge, Entity, Sighting


@dataclass(frozen=True, slots=True)
class Champion:
    """The version that answers. previous: champions before it, newest first; changed: unix seconds, NaN = not said."""

    version: str
    previous: tuple[str, ...]
    changed: float
    by: str


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
