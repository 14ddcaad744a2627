"""How the agent reaches a guest by name; built-ins are loaded just as other people's plug-ins are.

A plug-in is a class under one of these decorators, with a pydantic `Config` inside when it can be configured:

    @detector("zscore")
    class ZScore:
        class Config(Model): ...

`load()` imports every package of the entry-point group `homeostat.plugins`; importing it runs the decorators, or offers
modules that are imported when somebody asks for their plug-in: of forty connectors a host uses ten.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

from agent.errors import Refused

T = TypeVar("T", bound=type[Any])


class Registry:
    """Plug-ins of one kind by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._known: dict[str, type[Any]] = {}
        self._offered: dict[str, str] = {}

    def offer(self, module: str, name: str = "") -> None:
        """Say that a module registers `name`, default its last part: it is imported when first asked for."""
        self._offered[name or module.rpartition(".")[2]] = module

    def __call__(self, name: str) -> Callable[[T], T]:
        """Register the decorated class under `name`; two of one name are a bug of their authors."""

        def put(cls: T) -> T:
            if name in self._known and self._known[name].__qualname__ != cls.__qualname__:
                raise Refused(f"two {self.kind}s are called {name!r}: rename one of them")
            self._known[name] = cls
            return cls

        return put

    def get(self, name: str) -> type[Any]:
        """Return the class; raises Refused with the nearest names when there is none."""
        if name not in self._known and name in self._offered:
            import_module(self._offered[name])
        try:
            return self._known[name]
        except KeyError:
            near = difflib.get_close_matches(name, list(self), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self)}"
            raise Refused(f"no {self.kind} is called {name!r}; {hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._offered

    def __iter__(self) -> Any:
        return iter(sorted({*self._known, *self._offered}))


connector = Registry("connector")
detector = Registry("detector")
trainer = Registry("trainer")
drift = Registry("drift detector")
view = Registry("group view")
action = Registry("action")
past = Registry("recorded past")
place = Registry("place for boards")


@cache
def load() -> None:
    """Import every plug-in package that is installed, ours and other people's; once, however often it is asked for."""
    for point in entry_points(group="homeostat.plugins"):
        point.load()
