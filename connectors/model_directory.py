"""Versions of models in a folder, in the layout of TensorFlow Serving and Triton, with a champion pointer.

    <path>/<model>/<version>/{model files, metadata.json, reference.json}
    <path>/<model>/champion.json      {"version": "3", "previous": ["2", "1"], "changed": <unix>, "by": "..."}
                                      "instead": {"version": "2", "previous": ["1"]}: what the last move took away
    <path>/<model>/RETRAINING_HELD    exists while retraining is held; its first line says why
    <path>/<model>/.lock              flock of whoever moves the pointer

The pointer is replaced whole (temporary file, fsync, rename) under the lock, so that a reader sees the old or the new
one and two writers never mix. The kernel gives the lock of a process that died back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog

from agent.errors import Refused, Unavailable, Uncertain
from agent.model import Change, Entity, FloatArray, Frame, Series, Sighting
from agent.registry import connector
from agent.units import Duration, Model, say_duration
from connectors._aside import Aside
from connectors._versions import Champion, Hold, Version, natural, sightings, stack

log = structlog.get_logger()

POINTER: Final = "champion.json"
HELD: Final = "RETRAINING_HELD"
_LOCK: Final = ".lock"
_MOST_BYTES: Final = 4 << 20
_PATIENCE_S: Final = 1.5
"""A poll that takes 2 s is given up by the collector."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """All that one look at the folder has found; problems: model -> what is wrong with it."""

    ts: float
    series: tuple[Series, ...]
    values: FloatArray
    there: dict[Entity, Sighting]
    champions: dict[Entity, Champion]
    problems: dict[str, str]


@connector("model_directory")
class ModelDirectory:
    """A folder of model versions: watches the champions, and moves them by compare-and-set.

    Source   model.age_seconds, model.retraining_held for each model; a Change of kind release when a pointer has
             moved, also when that happened while the daemon was down (told twice when it is killed within a second)
    Ability  Models (see playbooks/actions/models.py)
    What cannot be read is unknown, said once in the log, and does not hide the other models.
    Cost: two `stat` a model and one a version each second; files are read again when they have changed.
    """

    tested = "real files"

    class Config(Model):
        """Where the versions lie."""

        path: Path
        """The folder that holds one folder for each model."""
        models: list[str] = []
        """Only these; default: every folder in it that has a champion."""
        lock_wait: Duration = 5.0
        """How long to wait for somebody else who is moving the pointer."""

    interval_s = 1.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._root = config.path
        self._files = _Files()
        self._aside = Aside(limit_s=_PATIENCE_S)
        self._series: tuple[Series, ...] = ()
        self._told: dict[Entity, Sighting] = {}
        self._problems: dict[str, str] = {}
        self._seen = _Seen(state / "feeds" / f"{name}.pointers.json" if state is not None else None)

    # ---- source

    async def poll(self) -> Frame:
        """Look at all pointers; raises Refused when the folder is not there, Unavailable when it does not answer."""
        start = time.monotonic()
        self._aside.ask("look", self._look)
        await self._aside.settle(_PATIENCE_S)
        answer = self._aside.answer("look", time.monotonic() - start)
        if answer is None:
            raise Unavailable(
                f"the folder {self._root} does not answer: look whether its mount hangs"
            )
        if answer.error is not None:
            raise answer.error
        look: _Look = answer.value
        # Only now, when the frame is sure to be taken, is what it tells remembered as told.
        series = look.series if look.series != self._series else self._series
        gone = [e for e in self._told if e.kind == "version" and e not in look.there]
        seen = [s for e, s in look.there.items() if self._told.get(e) != s]
        seen += [Sighting(e, gone=True) for e in gone]
        changes: list[Change] = []
        for about, champion in look.champions.items():
            changes += self._seen.compare(about, champion, look.ts)
        self._series = series
        # A model stays on the map with what config says of it (who serves it); only its versions go.
        self._told = {e: s for e, s in self._told.items() if e.kind == "model"} | look.there
        self._say(look.problems)
        return Frame(self.name, look.ts, series, look.values, tuple(seen), tuple(changes))

    def _look(self) -> _Look:
        """Read all there is, beside the event loop: a mount may hang."""
        now = time.time()
        self._seen.keep()  # what the last frame told has been taken
        rows: list[tuple[Series, float]] = []
        there: dict[Entity, Sighting] = {}
        champions: dict[Entity, Champion] = {}
        problems: dict[str, str] = {}
        told = self._told
        for name in self._names():
            about = Entity("model", name)
            trained: float | None = None
            try:
                champion = self._champion(name)
                versions = self._versions(name)
            except (Unavailable, Refused) as problem:
                problems[name] = str(problem)
                # a damaged pointer is no reason to believe that the versions have gone
                there.update({e: s for e, s in told.items() if _of(e, name)})
            else:
                champions[about] = champion
                there.update({s.entity: s for s in sightings(about, champion, versions)})
                trained = next(
                    (v.trained_at for v in versions if v.version == champion.version), None
                )
            rows.append(
                (Series("model.age_seconds", about), math.nan if trained is None else now - trained)
            )
            rows.append((Series("model.retraining_held", about), self._is_held(name)))
        rows.sort(key=lambda row: row[0])
        values = np.array([row[1] for row in rows], dtype=np.float64)
        return _Look(now, tuple(row[0] for row in rows), values, there, champions, problems)

    def _say(self, problems: Mapping[str, str]) -> None:
        for model, problem in problems.items():
            if self._problems.get(model) != problem:
                log.warning("model_unreadable", model=model, problem=problem)
        for model in self._problems.keys() - problems.keys():
            log.info("model_readable", model=model)
        self._problems = dict(problems)

    def _names(self) -> list[str]:
        """Return the models, sorted."""
        if self.config.models:
            return sorted(set(self.config.models))
        # a model that was here and lost its pointer is a problem to tell, not a model less
        known = {e.key for e in self._told if e.kind == "model" and (self._root / e.key).is_dir()}
        try:
            return sorted(
                known
                | {
                    entry.name
                    for entry in os.scandir(self._root)
                    if _NAME.fullmatch(entry.name)
                    and entry.is_dir()
                    and Path(entry.path, POINTER).exists()
                }
            )
        except FileNotFoundError:
            raise Refused(
                f"there is no folder {self._root}: create it or mend `path` of {self.name}"
            ) from None
        except OSError as wrong:
            raise Unavailable(f"the folder {self._root} cannot be read: {wrong.strerror}") from None

    # ---- ability: Models

    async def champion(self, model: str) -> Champion:
        """Return the version in use; raises Refused when there is no such model, Unavailable for a damaged pointer."""
        return await asyncio.to_thread(self._champion, model)

    async def versions(self, model: str) -> Sequence[Version]:
        """Return the versions whose metadata can be read, oldest first; others are no candidates."""
        return await asyncio.to_thread(self._versions, model)

    async def promote(self, model: str, version: str, expect: str, by: str) -> None:
        """Move the pointer if it names `expect`.

        A version among the previous champions takes back all that came after it, as a stack does: a second roll
        back then goes further back instead of forth. Who puts back the version that it took the place of gets all of
        it back, the champions between included.
        Raises Refused (moved by others, version not there, no right to write), Unavailable (damaged, disk full,
        lock held), Uncertain (the disk failed while the rename was made durable).
        """
        await asyncio.to_thread(self._promote, model, version, expect, by)

    async def hold_retraining(self, model: str, reason: str, by: str) -> None:
        """Forbid retraining; a hold that is there already stays as it is."""
        await asyncio.to_thread(self._hold, model, reason, by)

    async def release_retraining(self, model: str, by: str) -> None:
        """Allow retraining again; raises Refused when somebody else holds it."""
        await asyncio.to_thread(self._release, model, by)

    async def retraining_held(self, model: str) -> Hold | None:
        """Return why and by whom retraining is held; None = it is allowed."""
        return await asyncio.to_thread(self._held, model)

    def reference(self, model: str, version: str) -> dict[str, Any] | None:
        """Return what a version is used to (its reference.json); None when it has none or it is damaged.

        Read again when the file changes. Cost otherwise: one `stat`.
        """
        if not (_NAME.fullmatch(model) and _NAME.fullmatch(version)):
            return None
        path = self._root / model / version / "reference.json"
        try:
            return self._files.read(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as wrong:
            key = f"{model}/{version}"
            if self._files.new_problem(path):
                log.warning("reference_unreadable", version=key, file=str(path), error=str(wrong))
            return None

    async def describe(self) -> Sequence[str]:
        """Say what is in the folder."""
        out = []
        for name in await asyncio.to_thread(self._names):
            try:
                champion = await self.champion(name)
            except (Unavailable, Refused) as problem:
                out.append(f"model:{name}: {problem}")
                continue
            hold = await self.retraining_held(name)
            said = ", ".join(f"{v.version} ({v.role})" for v in await self.versions(name))
            age = time.time() - champion.changed
            since = "" if math.isnan(age) else f", since {say_duration(max(0.0, age))}"
            out.append(
                f"model:{name}: version {champion.version} answers{since}; versions {said}"
                + (f"; retraining is held: {hold.reason}" if hold else "")
            )
        may = os.access(self._root, os.W_OK)
        out.append(
            "may move champions and hold retraining"
            if may
            else f"may only look: {self._root} is not writable"
        )
        return out or [f"no model with a {POINTER} in {self._root}"]

    def close(self) -> None:
        """Keep what was told and let the thread end."""
        self._seen.keep()
        self._aside.close()

    # ---- files

    def _folder(self, model: str) -> Path:
        if not _NAME.fullmatch(model):
            raise Refused(f"not a name of a model: {model!r}")
        folder = self._root / model
        if not folder.is_dir():
            raise Refused(f"there is no model {model} in {self._root}")
        return folder

    def _is_held(self, model: str) -> float:
        try:
            return float((self._root / model / HELD).exists())
        except OSError:
            return math.nan  # we may not look: unknown

    def _champion(self, model: str) -> Champion:
        path = self._folder(model) / POINTER
        try:
            return _champion_of(self._files.read(path))
        except FileNotFoundError:
            raise Refused(
                f'{model} has no champion: write {path} with {{"version": "..."}}'
            ) from None
        except (ValueError, KeyError, TypeError) as damage:
            raise Unavailable(
                f"the champion pointer {path} is damaged ({damage}); "
                'write {"version": "...", "previous": [], "changed": 0, "by": "..."} into it'
            ) from None
        except OSError as wrong:
            raise Unavailable(
                f"the champion pointer {path} cannot be read: {wrong.strerror}"
            ) from None

    def _versions(self, model: str) -> list[Version]:
        folder = self._folder(model)
        found: list[Version] = []
        for entry in sorted(os.scandir(folder), key=lambda e: natural(e.name)):
            if not (_NAME.fullmatch(entry.name) and entry.is_dir()):
                continue
            path = Path(entry.path, "metadata.json")
            try:
                found.append(_version_of(entry.name, self._files.read(path)))
            except FileNotFoundError:
                continue  # some other folder, or a version that is being written
            except (OSError, ValueError, KeyError, TypeError) as damage:
                if self._files.new_problem(path):
                    log.warning(
                        "version_unreadable", model=model, file=str(path), error=str(damage),
                        remedy="mend the file or remove the version",
                    )  # fmt: skip
        return sorted(found, key=lambda v: (v.trained_at or 0.0, natural(v.version)))

    def _promote(self, model: str, version: str, expect: str, by: str) -> None:
        folder = self._folder(model)
        with self._locked(folder):
            now = self._champion(model)
            if now.version != expect:
                raise Refused(
                    f"the champion of {model} is {now.version}" + (f", set by {now.by}" if now.by else "")
                    + f", not {expect}: changed by others, look before you act"
                )  # fmt: skip
            if version not in {v.version for v in self._versions(model)}:
                raise Refused(
                    f"{model} has no version {version} with a readable metadata.json in {folder / version}"
                )
            _replace(
                folder / POINTER,
                {
                    "version": version,
                    "previous": stack(now, version),
                    "changed": time.time(),
                    "by": by,
                    "instead": {
                        "version": now.version,
                        "previous": list(now.previous),
                    },
                },
            )

    def _hold(self, model: str, reason: str, by: str) -> None:
        folder = self._folder(model)
        first = " ".join(reason.split())
        with self._locked(folder), _writing(folder / HELD):
            try:
                handle = os.open(
                    folder / HELD, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
                )
            except FileExistsError:
                return
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                out.write(f"{first}\nby: {by}\n")
                out.flush()
                os.fsync(out.fileno())

    def _release(self, model: str, by: str) -> None:
        folder = self._folder(model)
        with self._locked(folder), _writing(folder / HELD):
            hold = self._held(model)
            if hold is None:
                return
            if hold.by != by:
                raise Refused(
                    f"retraining of {model} is held by {hold.by or 'somebody else'} ({hold.reason}): "
                    f"they release it, or a person removes {folder / HELD}"
                )
            (folder / HELD).unlink(missing_ok=True)

    def _held(self, model: str) -> Hold | None:
        path = self._folder(model) / HELD
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return None
        except OSError as wrong:
            raise Unavailable(f"{path} cannot be read: {wrong.strerror}") from None
        by = next(
            (line.removeprefix("by:").strip() for line in lines[1:] if line.startswith("by:")), ""
        )
        return Hold(lines[0].strip() if lines and lines[0].strip() else "no reason given", by)

    @contextlib.contextmanager
    def _locked(self, folder: Path) -> Iterator[None]:
        """Hold the lock of a model; raises Unavailable when a living process does not let go of it."""
        path = folder / _LOCK
        with _writing(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            end = time.monotonic() + self.config.lock_wait
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= end:
                        raise Unavailable(
                            f"somebody has held {path} for more than {self.config.lock_wait:g} s; "
                            f"see who: fuser {path}",
                            wait_s=2.0,
                        ) from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write into ours; nothing has happened then."""
    try:
        yield
    except (PermissionError, FileNotFoundError) as wrong:
        raise Refused(
            f"{path} cannot be written: {wrong.strerror}; give the daemon's user the right to"
        ) from None
    except OSError as wrong:
        raise Unavailable(
            f"{path} cannot be written: {wrong.strerror}; free space or mend the disk"
        ) from None


def _replace(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file whole and durably."""
    with _writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump(value, out)
                out.flush()
                os.fsync(out.fileno())
            # mkstemp gives 0600: others read the pointer as they read the one before
            Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as wrong:
        raise Uncertain(
            f"{path} was replaced, but the disk did not confirm it: {wrong.strerror}; look at it before you go on"
        ) from None


class _Files:
    """JSON objects by path, read again when the file has changed."""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[tuple[int, int, int], dict[str, Any]]] = {}
        self._bad: dict[Path, tuple[int, int, int]] = {}

    def read(self, path: Path) -> dict[str, Any]:
        """Return the object; raises OSError, ValueError (no JSON object, or too large)."""
        about = path.stat()
        # the inode too: two replacements within one tick of the clock have the same time, often the same size
        mark = (about.st_mtime_ns, about.st_size, about.st_ino)
        kept = self._kept.get(path)
        if kept is not None and kept[0] == mark:
            return kept[1]
        if about.st_size > _MOST_BYTES:
            raise ValueError(f"{about.st_size} bytes, more than {_MOST_BYTES}")
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004  # one class for all damage
        if len(self._kept) > 4096:
            self._kept.clear()
        self._kept[path] = (mark, value)
        return value

    def new_problem(self, path: Path) -> bool:
        """Tell whether this state of a damaged file was not complained about yet."""
        try:
            about = path.stat()
        except OSError:
            return False
        mark = (about.st_mtime_ns, about.st_size, about.st_ino)
        if self._bad.get(path) == mark:
            return False
        self._bad[path] = mark
        return True


class _Seen:
    """The pointers that were told, so that a restart tells what has moved meanwhile and nothing twice.

    What a frame tells is kept on disk at the next look, when the frame has been taken: a kill between the two tells
    the same change again, with the same time.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self._dirty = False
        if path is None:
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            self._known = {str(model): str(version) for model, version in known.items()}
        except FileNotFoundError:
            pass  # the first start
        except (OSError, ValueError, AttributeError) as damage:
            log.warning("pointers_not_remembered", file=str(path), error=str(damage))

    def compare(self, about: Entity, champion: Champion, now: float) -> list[Change]:
        """Return the release since we last looked; none for a model that we see for the first time."""
        before = self._known.get(about.key)
        if before == champion.version:
            return []
        self._known[about.key] = champion.version
        self._dirty = True
        if before is None:
            return []
        # a clock of the future or a pointer that does not say when: it was moved at the latest now
        ts = min(champion.changed, now) if champion.changed > 0 else now
        return [
            Change(
                ts,
                about,
                "release",
                before,
                champion.version,
                champion.by,
                "champion pointer moved",
            )
        ]

    def keep(self) -> None:
        """Write what was told; a disk that is full is tried again at the next look."""
        if not self._dirty or self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps(self._known), encoding="utf-8")
            fresh.replace(self._path)
        except OSError as wrong:
            log.warning("pointers_not_kept", file=str(self._path), error=wrong.strerror)
            return
        self._dirty = False


# ---- translating


def _champion_of(data: Mapping[str, Any]) -> Champion:
    version = _name_of(data["version"])
    instead = data.get("instead")
    changed = data.get("changed")
    fine = (
        isinstance(changed, int | float)
        and not isinstance(changed, bool)
        and math.isfinite(changed)
    )
    return Champion(
        version,
        _previous_of(data),
        float(changed) if fine and changed is not None else math.nan,
        str(data.get("by") or "")[:200],
        ("", ()) if instead is None else (_name_of(instead["version"]), _previous_of(instead)),
    )


def _previous_of(data: Mapping[str, Any]) -> tuple[str, ...]:
    previous = data.get("previous", [])
    if not isinstance(previous, list):
        raise TypeError("`previous` is no list")
    return tuple(_name_of(v) for v in previous)


def _name_of(value: Any) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not _NAME.fullmatch(text):
        raise ValueError(f"{value!r} is no version")
    return text


def _version_of(folder: str, data: Mapping[str, Any]) -> Version:
    said = _name_of(data.get("version", folder))
    if said != folder:
        raise ValueError(f"it says version {said} in the folder of {folder}")
    features = data.get("features", [])
    if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
        raise TypeError("`features` is no list of names")
    return Version(
        folder,
        str(data.get("role") or "candidate"),
        tuple(features),
        _number(data.get("trained_at")),
        _number(data.get("accuracy")),
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _of(about: Entity, model: str) -> bool:
    return about.key == model or about.key.startswith(model + "/")
