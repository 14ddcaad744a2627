"""Models: what is known of them, one version against another, and what drove an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.desk.finding import Finding
from agent.meant import NotThere
from agent.model_views import (
    CompareView,
    EdgesView,
    ExplainedView,
    ModelView,
    compare_view,
    explained_view,
    model_view,
)


class Models(Finding):
    """Models and their versions."""

    def models(self, model: str = "") -> list[ModelView]:
        """Return what is known of the models (of one). Raises NotThere."""
        found = [
            model_view(facts, suspects)
            for facts, suspects in self.hooks.models()
            if not model or facts.model == model
        ]
        if model and not found:
            known = ", ".join(f.model for f, _ in self.hooks.models()) or "none yet"
            raise NotThere(f"no rows of a model {model} were seen; known: {known}")
        return found

    def compare(self, model: str, a: str, b: str) -> CompareView:
        """Return what is known of version b against version a of a model. Raises Refused."""
        return compare_view(self.hooks.asked().compare(model, a, b))

    def edges(self, model: str, version: str = "") -> EdgesView:
        """Return what sketches of a version must be counted over. Raises Refused."""
        name, features = self.hooks.asked().edges(model, version)
        return {"model": model, "version": name, "features": features}

    def explain(self, model: str, version: str, record: Mapping[str, Any]) -> ExplainedView:
        """Return what drove the answer to one record; it is not kept. Raises Refused."""
        return explained_view(self.hooks.asked().explain(model, version, record))
