"""Tags as slices: the values of tags that the config names are looked at one by one, as those of categories are.

Values are not known beforehand: the first `MOST_VALUES` that come get a place, and stand under its name in what is
kept of labels; `say` puts the values in their places. Others are of no slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from agent.ports import Judged

MOST_VALUES: Final = 8
PLACES: Final = tuple(f"#{i + 1}" for i in range(MOST_VALUES))
NONE: Final = 255


class Tags:
    """The tags of one model."""

    def __init__(self, names: Sequence[str]) -> None:
        self.values: dict[str, list[str]] = {name: [] for name in names}

    def code(self, tags: Mapping[str, Any], at: Any, rows: int) -> Any:
        """Return the place of each value (tags, rows); 255 = none. `at` picks the rows."""
        out = np.full((len(self.values), rows), NONE, dtype=np.uint8)
        for i, (name, known) in enumerate(self.values.items()):
            if name not in tags:
                continue
            column = np.asarray(tags[name], dtype=object)[at].tolist()
            for value in dict.fromkeys(column):
                if value is not None and value not in known and len(known) < MOST_VALUES:
                    known.append(value)
            places = {value: j for j, value in enumerate(known)}
            out[i] = [places.get(value, NONE) for value in column]
        return out

    def say(self, judged: Judged) -> Judged:
        """Return what labels say with the values of tags instead of their places."""
        if not self.values:
            return judged
        return replace(
            judged,
            changes=tuple(replace(c, value=self.value(c.what, c.value)) for c in judged.changes),
            slices={(name, self.value(name, v)): band for (name, v), band in judged.slices.items()},
        )

    def value(self, name: str, place: str) -> str:
        """Return the value at a place of a tag; everything else as it is."""
        known = self.values.get(name.removeprefix(BESIDE))
        if known is None or place not in PLACES or PLACES.index(place) >= len(known):
            return place
        return known[PLACES.index(place)]


BESIDE: Final = "tag "
"""Before the name of a tag that a feature has, too."""


def slicings(names: Sequence[str], taken: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the slicings of tags, beside others whose names are `taken`."""
    return tuple((BESIDE + name if name in taken else name, PLACES) for name in names)
