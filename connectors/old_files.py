"""Old files that may be moved aside or deleted: named rules, each for one folder.

    old_files:
      rules:
        logs: {path: /var/log/checkout, names: ['*.log.*', '*.gz'], older: 2d, keep: 3}
        checkpoints: {path: /data/checkpoints, names: ['step-*.pt'], older: 12h, keep: 2, depth: 3}

What is taken goes first into `.homeostat-quarantine/KEY/` at the top of the rule's folder, by rename: it can go back
until that is emptied. A file `manifest.json` there, written before anything moves, says where each came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from agent.errors import Refused, Unavailable
from agent.registry import connector
from agent.units import Duration, Model, many, say, say_duration

_Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
_ASIDE: Final = ".homeostat-quarantine"
_MANIFEST: Final = "manifest.json"
_MOST_FILES: Final = 10_000
_NEVER: Final = frozenset(map(Path, (
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
    "/sys", "/usr", "/var", "/var/lib", "/var/log",
)))  # fmt: skip
"""Folders that are too wide for a rule; below some of them nothing is ever taken."""
_NEVER_BELOW: Final = tuple(
    map(Path, ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"))
)


@dataclass(frozen=True, slots=True)
class Old:
    """A file that is, or was, old enough; known by its inode, whatever stands at its path by now."""

    path: str
    size: int
    inode: int


class Rule(Model):
    """Which files of one folder are old."""

    path: Path
    names: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """Patterns of file names, as a shell knows them; never a path."""
    older: Annotated[Duration, Field(ge=60)]
    """Not written to for so long."""
    keep: Annotated[int, Field(ge=0)] = 1
    """The newest of each folder stay, however old."""
    depth: Annotated[int, Field(ge=1, le=10)] = 1
    """How many folders deep; 1 = this one only."""

    @model_validator(mode="after")
    def _narrow(self) -> Self:
        path = self.path
        if not path.is_absolute() or ".." in path.parts:
            raise ValueError(f"write the whole path of {path}")
        if path in _NEVER or any(path.is_relative_to(never) for never in _NEVER_BELOW):
            raise ValueError(f"{path} is too wide, or the system's own: name a folder of a service")
        if any("/" in name or name in {"*", ".*"} for name in self.names):
            raise ValueError("`names` are patterns of file names that say more than `*`")
        return self


@connector("old_files")
class OldFiles:
    """Old files of named rules.

    Ability  Pruner (see playbooks/actions/files.py)
    Only regular files with one name, on the folder's own disk, in no use by any process that we may look at; links
    are never followed. Takes write access to the folders.
    """

    tested = "real files"

    class Config(Model):
        """The rules."""

        rules: Annotated[dict[_Word, Rule], Field(min_length=1)]

    def __init__(self, name: str, config: Config, *, state: Path) -> None:
        self.name = name
        self.config = config
        self._emptied = state / "old_files" / name
        self._turn = asyncio.Lock()

    # ---- ability: Pruner

    async def candidates(self, rule: str, most_bytes: float) -> Sequence[Old]:
        """Return what would be taken, oldest first."""
        return await asyncio.to_thread(self._candidates, self._rule(rule), most_bytes)

    async def set_aside(self, rule: str, most_bytes: float, key: str) -> Sequence[Old]:
        """Write the manifest, then move each; a second call with the same key goes on with the same manifest."""
        async with self._turn:
            return await asyncio.to_thread(self._set_aside, self._rule(rule), most_bytes, key)

    async def aside(self, key: str) -> Sequence[Old]:
        """Return what the manifest of this key names and is there."""
        return await asyncio.to_thread(self._aside, key)

    async def put_back(self, key: str) -> tuple[int, Sequence[str]]:
        """Move back what lies there, never over a file."""
        return await asyncio.to_thread(self._put_back, key)

    async def empty(self, key: str) -> int:
        """Delete what lies there, and the folder."""
        return await asyncio.to_thread(self._empty, key)

    async def emptied(self, key: str) -> bool:
        """Tell whether `empty` has come to its end for this key."""
        return self._mark(key).exists()

    async def describe(self) -> Sequence[str]:
        """Say what each rule would take now; takes nothing."""
        lines = []
        for name, rule in self.config.rules.items():
            found = await self.candidates(name, float("inf"))
            size = say(float(sum(f.size for f in found)), "bytes")
            may = os.access(rule.path, os.W_OK)
            lines.append(
                f"{name}: {', '.join(rule.names)} in {rule.path}, older than {say_duration(rule.older)}: "
                f"{many(len(found), 'file')}, {size}"
                + ("" if may else "; may only look: the folder is not ours to write")
            )
        return lines

    # ---- in a thread

    def _rule(self, name: str) -> Rule:
        if name not in self.config.rules:
            raise Refused(
                f"no rule is called {name}: agent.yaml allows {', '.join(self.config.rules)}"
            )
        return self.config.rules[name]

    def _candidates(self, rule: Rule, most_bytes: float) -> list[Old]:
        try:
            top = rule.path.lstat()
        except OSError as wrong:
            raise Refused(f"{rule.path} can not be read: {wrong.strerror}") from None
        if not stat.S_ISDIR(top.st_mode):
            raise Refused(f"{rule.path} is no folder, or a link to one: name the folder itself")
        limit = time.time() - rule.older
        found: list[tuple[float, Old, tuple[int, int]]] = []
        for files in _folders(rule, top.st_dev):
            fit = [f for f in files if any(fnmatch.fnmatchcase(f.name, n) for n in rule.names)]
            about = sorted(
                ((f.stat(follow_symlinks=False), f.path) for f in fit), key=lambda x: -x[0].st_mtime
            )
            found += [
                (s.st_mtime, Old(path, s.st_blocks * 512, s.st_ino), (s.st_dev, s.st_ino))
                for s, path in about[rule.keep :]
                if s.st_mtime < limit and s.st_nlink == 1 and s.st_dev == top.st_dev
            ]
        used = _in_use() if found else frozenset()
        out: list[Old] = []
        total = 0
        for _, old, who in sorted(found, key=lambda f: (f[0], f[1].path)):
            if who in used or total + old.size > most_bytes or len(out) >= _MOST_FILES:
                continue
            total += old.size
            out.append(old)
        return out

    def _set_aside(self, rule: Rule, most_bytes: float, key: str) -> list[Old]:
        folder = rule.path / _ASIDE / _name(key)
        entries = _manifest(folder)
        if entries is None:
            entries = self._candidates(rule, most_bytes)
            _begin(folder, key, entries)
        for n, old in enumerate(entries):
            _take(Path(old.path), folder / str(n), old.inode)
        return [old for n, old in enumerate(entries) if (folder / str(n)).exists()]

    def _places(self, key: str) -> Iterator[tuple[Path, list[Old]]]:
        """Yield the quarantine folders of a key, and what their manifests say."""
        for top in {rule.path for rule in self.config.rules.values()}:
            folder = top / _ASIDE / _name(key)
            entries = _manifest(folder)
            if entries is not None:
                yield folder, entries

    def _aside(self, key: str) -> list[Old]:
        return [old for _, entries in self._places(key) for old in entries]

    def _put_back(self, key: str) -> tuple[int, list[str]]:
        back, blocked = 0, []
        for folder, entries in self._places(key):
            for n, old in enumerate(entries):
                place = folder / str(n)
                if not place.exists():
                    continue
                if _give_back(place, Path(old.path), old.inode):
                    back += 1
                else:
                    blocked.append(old.path)
            if not blocked:
                _remove(folder)
        return back, blocked

    def _empty(self, key: str) -> int:
        freed = 0
        for folder, entries in self._places(key):
            for n, old in enumerate(entries):
                with contextlib.suppress(FileNotFoundError):
                    (folder / str(n)).unlink()
                    freed += old.size
            self._note(key, freed)
            _remove(folder)
        return freed

    def _mark(self, key: str) -> Path:
        return self._emptied / _name(key)

    def _note(self, key: str, freed: int) -> None:
        self._emptied.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mark(key).write_text(f"{freed}\n", "ascii")


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:24]


def _folders(rule: Rule, device: int) -> Iterator[list[os.DirEntry[str]]]:
    """Yield the regular files of each folder; never through a link, onto another disk, or into a quarantine."""
    todo = [(rule.path, 1)]
    while todo:
        folder, depth = todo.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        yield [e for e in entries if e.is_file(follow_symlinks=False)]
        if depth < rule.depth:
            todo += [
                (Path(e.path), depth + 1)
                for e in entries
                if e.is_dir(follow_symlinks=False)
                and e.name != _ASIDE
                and e.stat(follow_symlinks=False).st_dev == device
            ]


def _in_use() -> frozenset[tuple[int, int]]:
    """Return (device, inode) of every file that a process holds open, as far as we may look."""
    found: set[tuple[int, int]] = set()
    for pid in Path("/proc").glob("[0-9]*"):
        try:
            handles = os.listdir(pid / "fd")  # noqa: PTH208  # names only
        except OSError:
            continue
        for handle in handles:
            with contextlib.suppress(OSError):
                about = (pid / "fd" / handle).stat()
                if stat.S_ISREG(about.st_mode):
                    found.add((about.st_dev, about.st_ino))
    return frozenset(found)


def _manifest(folder: Path) -> list[Old] | None:
    try:
        said = json.loads((folder / _MANIFEST).read_text("utf-8"))["files"]
        return [Old(str(path), int(size), int(inode)) for path, size, inode in said]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        raise Refused(
            f"{folder / _MANIFEST} can not be read ({wrong}): put its files back by hand"
        ) from None


def _begin(folder: Path, key: str, entries: Sequence[Old]) -> None:
    """Write the manifest: whole or not at all, and on disk before anything moves."""
    top = folder.parent
    try:
        top.mkdir(mode=0o700, exist_ok=True)
        about = top.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            raise Refused(f"{top} is not a folder of ours: look who has made it, and take it away")
        folder.mkdir(mode=0o700, exist_ok=True)
        fresh = folder / f"{_MANIFEST}.new"
        with fresh.open("w", encoding="utf-8") as out:
            json.dump({"key": key, "files": [astuple(old) for old in entries]}, out)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(folder / _MANIFEST)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except PermissionError:
        raise Refused(f"{top.parent} is not ours to write: let the daemon's user do so") from None
    except OSError as wrong:
        raise Unavailable(
            f"{folder} can not be written: {wrong.strerror}; a few kB must be free"
        ) from None


def _take(here: Path, there: Path, inode: int) -> None:
    """Move one file aside: a second name first, then the old one goes. Also goes on where a try was cut off.

    Nothing happens to one that has gone meanwhile, or when another file stands at its path by now.
    """
    try:
        if not there.exists():
            os.link(here, there, follow_symlinks=False)
        if there.lstat().st_ino != inode:
            there.unlink()
        elif here.lstat().st_ino == inode:
            here.unlink()
    except FileNotFoundError:
        return
    except OSError as wrong:
        raise Refused(f"{here} can not be moved: {wrong.strerror}") from None


def _give_back(place: Path, path: Path, inode: int) -> bool:
    """Move one file back; False when others have put something in its place."""
    try:
        os.link(place, path, follow_symlinks=False)
    except FileExistsError:
        if path.lstat().st_ino != inode:
            return False
    except OSError as wrong:
        raise Refused(f"{path} can not be put back: {wrong.strerror}; it lies in {place}") from None
    place.unlink()
    return True


def _remove(folder: Path) -> None:
    """Remove an empty quarantine, and its parent when it was the last."""
    with contextlib.suppress(OSError):
        (folder / _MANIFEST).unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()
