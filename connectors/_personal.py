"""Features that are personal data: left out, or replaced by a keyed hash, before anything else sees them.

A hash keeps what drift needs (which values, how often) and is no name. It is keyed, because the values of a name or a
postcode are few: whoever knows the method, but not the key, can not try them all. The key is made once an
installation, so that the same value has the same hash tomorrow; several hosts that must agree are given one key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from agent.errors import Refused
from agent.secret import Reference, secret
from agent.units import Model

_KEY_BYTES: Final = 32
_DIGEST_BYTES: Final = 8
_MOST_NAMES: Final = 10_000

Fate = Literal["keep", "drop", "hash"]


class Settings(Model):
    """What of the rows is nobody's business: part of the Config of whoever reads rows."""

    drop: list[str] = []
    """Features and tags that are left out before anything sees them; `*` is a glob."""
    hash: list[str] = []
    """Features and tags of which only a keyed hash of the value goes on; `*` is a glob."""
    hash_key: Reference = ""
    """Key of the hashes, `env:NAME` or `file:/PATH`, where several hosts must agree; default: one of our own."""


class Personal:
    """What becomes of each feature and tag, by its name.

    drop, hash   names, with * allowed; what is in both is dropped
    key          called when the first value is hashed; raises Refused, ConfigError
    """

    def __init__(
        self, drop: Sequence[str] = (), hash_: Sequence[str] = (), key: Callable[[], bytes] = bytes
    ) -> None:
        self._drop = tuple(drop)
        self._hash = tuple(hash_)
        self._make = key
        self._key = b""
        self._fates: dict[str, Fate] = {}

    @classmethod
    def of(cls, config: Settings, name: str, state: Path | None) -> Personal:
        """Return what a connector of this name does; the key that it makes lies in the state folder."""
        kept = state / "feeds" / f"{name}.key" if state is not None else None
        return cls(config.drop, config.hash, lambda: key_of(config.hash_key, kept))

    def fate(self, name: str) -> Fate:
        """Say what becomes of a column."""
        known = self._fates.get(name)
        if known is None:
            if len(self._fates) >= _MOST_NAMES:
                self._fates.clear()
            known = self._fates[name] = self._find(name)
        return known

    def _find(self, name: str) -> Fate:
        if any(fnmatchcase(name, glob) for glob in self._drop):
            return "drop"
        return "hash" if any(fnmatchcase(name, glob) for glob in self._hash) else "keep"

    def column(self, texts: Sequence[str | None]) -> Any:
        """Return what stands for the values of a column (n,), None = missing."""
        known: dict[str | None, str | None] = {None: None}
        for text in texts:
            if text is not None and text not in known:
                known[text] = self.hashed(text)
        out = np.empty(len(texts), dtype=object)
        out[:] = [known[text] for text in texts]
        return out

    def hashed(self, text: str) -> str:
        """Return 16 hexadecimal digits that stand for a value."""
        if not self._key:
            self._key = self._make()
        raw = text.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(raw, key=self._key, digest_size=_DIGEST_BYTES).hexdigest()


def key_of(reference: str, kept: Path | None) -> bytes:
    """Return the key: as a person wrote it (`env:NAME`, `file:/PATH`), else the one in `kept`, made at first need.

    Raises Refused, or what `secret` raises for its reference.
    """
    if reference:
        said = secret(reference).encode()
        if len(said) < _KEY_BYTES // 2:
            raise Refused(f"hash_key: {reference} is shorter than 16 characters; make it longer")
        return hashlib.blake2b(said, digest_size=_KEY_BYTES).digest()
    if kept is None:
        return secrets.token_bytes(_KEY_BYTES)  # to look at once, with `homeostat try`
    try:
        return _kept(kept)
    except OSError as wrong:
        raise Refused(
            f"{kept} can not be kept ({wrong.strerror}); without it the hashes would change with every start"
        ) from None


def _kept(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(f".{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(handle, secrets.token_bytes(_KEY_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # whole or not at all, and only the first of two
    finally:
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise Refused(f"{path} is damaged; put it back from a copy, or remove it to have a new one")
    return key
