"""What people ask of one model: a comparison, the edges that sketches need, what drove one answer.

Everything raises Refused, with what is known instead, where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.errors import Refused
from agent.models import reasons, sketched
from agent.models.facts import Compared
from agent.models.state import ModelState, VersionState
from agent.ports import FeatureState, Spread
from agent.vectors import spread_record


class Asked:
    """See the module; `models` by name."""

    def __init__(self, models: Mapping[str, ModelState]) -> None:
        self._models = models

    def compare(self, model: str, a: str, b: str) -> Compared:
        """Compare two versions (or `version@variant`) of a model: what is known of b against a."""
        found = self._model(model)
        said, tags = found.versus.compare(a, b), found.tags
        return replace(
            said,
            slices={(name, tags.value(name, v)): one for (name, v), one in said.slices.items()},
        )

    def edges(self, model: str, version: str = "") -> tuple[str, dict[str, dict[str, Any]]]:
        """Return a version (default: the one in use) and the edges, or values, that sketches of it must have."""
        found = self._version(self._model(model), version)
        wanted = sketched.cells_of(found.drift).wanted()
        if not wanted:
            raise Refused(
                f"version {found.name!r} of {model} has no reference yet: its first rows make one"
            )
        return found.name, wanted

    def features(
        self, model: str, version: str = ""
    ) -> tuple[str, list[tuple[FeatureState, Spread | None]]]:
        """Return a version (default: the one in use), how each of its features stands, and how its values lie."""
        found = self._version(self._model(model), version)
        spreads = sketched.cells_of(found.drift).spreads()
        return found.name, [(s, spreads.get(s.name)) for s in found.drift.states()]

    def explain(self, model: str, version: str, record: Mapping[str, Any]) -> reasons.Explained:
        """Say what drove the answer of a version (default: the one in use) to a record, name -> value."""
        found = self._model(model)
        return reasons.explain(found, self._version(found, version), spread_record(record))

    def _model(self, name: str) -> ModelState:
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models)) or "none yet"
            raise Refused(f"no rows of a model {name} were seen; known: {known}")
        return model

    @staticmethod
    def _version(model: ModelState, name: str) -> VersionState:
        current = model.tenure_in_use
        if not name and "" not in model.versions and current is not None:
            name = current.version
        version = model.versions.get(name)
        if version is None:
            known = ", ".join(model.versions) or "none yet"
            raise Refused(f"version {name!r} of {model.name} was not seen; known: {known}")
        return version
