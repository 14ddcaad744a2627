"""Imports of libraries without what they take along and we do not use: it would stay in memory for good.

    with without("pyarrow", "aiohttp"):             # optional there: as if they were not installed
        import elasticsearch
    with on_demand("psycopg", "errors"):            # needed there, but only in rare cases
        import dbos

Many libraries import others at their top: for a command line of their own, for transports and databases that we do not
use, for data frames. What is loaded already is left as it is.

`lacking` says of what is not installed how it comes here.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any


def lacking(what: str, extra: str) -> str:
    """Say what is missing and how the extra that brings it is put in: where make has installed, and by pip elsewhere.

    homeostat is on no index: pip takes it from a checkout.
    """
    return f"{what}; in a checkout run `make setup`, or pip install '.[{extra}]' with the pip of another environment"


class _Absent(MetaPathFinder):
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


class _OnDemand(ModuleType):
    """Stands for a module: loads it when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks of every module
            raise AttributeError(name)
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
