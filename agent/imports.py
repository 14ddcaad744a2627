"""Imports of libraries without what they take along and we do not use: it would stay in memory for good.

    with without("pyarrow", "aiohttp"):             # optional there: as if they were not installed
        import elasticsearch
    with on_demand("psycopg", "errors"):            # needed there, but only in rare cases
        import dbos
    lean("structlog", "rich")                       # whoever imports it first, and whenever

Many libraries import others at their top: for a command line of their own, for transports and databases that we do not
use, for data frames. What is loaded already is left as it is.

This file itself loads next to nothing: each process has it first, the light client too.

`lacking` says of what is not installed how it comes here.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec


def lacking(what: str, extra: str) -> str:
    """Say what is missing and how the extra that brings it is put in: where make has installed, and by pip elsewhere.

    homeostat is on no index: pip takes it from a checkout.
    """
    return f"{what}; in a checkout run `make setup`, or pip install '.[{extra}]' with the pip of another environment"


class _Absent:
    """Says of some modules that they are not installed, to one thread."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Raise for a hidden name; leave all others to those who come after."""
        del path, target
        if fullname in self._names and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is left out here", name=fullname)


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Let modules look as if they were not installed to what is imported inside, by this thread."""
    absent = _Absent(names)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


class _Lean:
    """Loads one library, once, without others."""

    def __init__(self, name: str, absent: Sequence[str]) -> None:
        self._name = name
        self._absent = absent

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let those who come after find it, and hide the others while it is loaded."""
        del path, target
        if fullname != self._name or self not in sys.meta_path:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with without(*self._absent):
                    load(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # this loader is of this module alone
        return spec


def lean(name: str, *absent: str) -> None:
    """Hide modules from a library when it is loaded, whoever imports it; one that is loaded stays as it is."""
    if name not in sys.modules:
        sys.meta_path.insert(0, _Lean(name, absent))


class _OnDemand(ModuleType):
    """Stands for a module: loads it when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of every module
            raise AttributeError(name)
        from importlib import import_module

        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


@contextlib.contextmanager
def on_demand(name: str, *parts: str) -> Iterator[None]:
    """Let a module be loaded only when it is used by what is imported inside; so its parts that are named."""
    if name in sys.modules:
        yield
        return
    stand_in = _OnDemand(name)
    for part in parts:
        setattr(stand_in, part, _OnDemand(f"{name}.{part}"))
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
