"""The library: built-in playbooks with those of teams laid over them by id."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.causes import matches
from agent.errors import ConfigError, Fault
from agent.playbook.check import checked
from agent.playbook.language import Playbook
from agent.strict import Document, Place, read

if TYPE_CHECKING:
    from agent.config import Config


@dataclass(frozen=True, slots=True)
class Library:
    """All playbooks by id."""

    playbooks: Mapping[str, Playbook] = field(default_factory=dict)
    _of_cause: dict[str, list[Playbook]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(
        cls, dirs: Sequence[Path], config: Config, *, built_in: bool = True, tests: bool = True
    ) -> Library:
        """Read the built-in playbooks and lay those of `dirs` over them, in order.

        Connectors and verbs must be registered. tests: whether their tests are kept; checked they are in any case.
        Raises ConfigError with every fault of every file.
        """
        faults: list[Fault] = []
        site = [in_folder(folder, faults) for folder in dirs]
        changed = [document.data.get("id") for files in site for document in files]
        found: dict[str, Playbook] = {}
        # one after the other: a text with all its places takes far more memory than what is kept of it
        under = []
        for document in shipped() if built_in else ():
            if document.data.get("id") in changed:
                under.append(document)
                continue
            alone = lay([[document]], config)
            found |= _kept(alone, tests=tests)
            faults += alone.faults
        laid = lay([under, *site], config)
        found |= _kept(laid, tests=tests)
        faults += laid.faults
        if faults:
            raise ConfigError(sorted(set(faults), key=_order))
        return cls({name: p for name, p in sorted(found.items()) if p.enabled})

    def unbuilt(self, faults: Mapping[str, str]) -> None:
        """Let playbooks know, from now on, which connectors could not be built, and why: the mapping itself is kept."""
        for playbook in self.playbooks.values():
            playbook.unbuilt(faults)

    def for_cause(self, cause: str) -> list[Playbook]:
        """Return the playbooks that speak of a cause, best first. Cost: a dictionary hit after the first time."""
        if cause not in self._of_cause:
            found = [p for p in self.playbooks.values() if matches(p.because.cause, cause)]
            self._of_cause[cause] = sorted(found, key=Playbook.rank)
        return self._of_cause[cause]


@dataclass(frozen=True, slots=True)
class Laid:
    """Layers laid over each other, sound or not: what `load` refuses, `lint` shows.

    playbooks   those without a fault, also switched off ones
    documents   the merged text of every one, by id
    """

    playbooks: Mapping[str, Playbook]
    documents: Mapping[str, Document]
    faults: Sequence[Fault]


def _kept(laid: Laid, *, tests: bool) -> Mapping[str, Playbook]:
    if tests:
        return laid.playbooks
    return {name: p.model_copy(update={"tests": []}) for name, p in laid.playbooks.items()}


def lay(layers: Iterable[Iterable[Document]], config: Config | None) -> Laid:
    """Merge playbooks by id and check each; without a config, no connector is asked for."""
    faults: list[Fault] = []
    merged: dict[str, Document] = {}
    folders: dict[str, Path] = {}
    for files in layers:
        seen: dict[str, Document] = {}
        for document in map(_prepared, files):
            name = document.data.get("id")
            if not isinstance(name, str):
                faults += checked(document, config, _folder(document))[1]
            elif name in seen:
                other = f"{seen[name].place}:{seen[name].where(('id',))[0]}"
                faults.append(
                    document.fault(("id",), f"`{name}` is defined in {other} too", "keep one")
                )
            else:
                seen[name] = document
                merged[name] = _over(merged[name], document) if name in merged else document
                if "tests" in document.data:
                    folders[name] = _folder(document)
    playbooks = {}
    for name, document in sorted(merged.items()):
        found, wrong = checked(document, config, folders.get(name, Path()))
        faults += wrong
        if found is not None and not wrong:
            playbooks[name] = found
    return Laid(playbooks, merged, sorted(set(faults), key=_order))


def _order(fault: Fault) -> tuple[str, int, int, str]:
    return fault.place, fault.line, fault.column, fault.problem


def shipped_ids() -> list[str]:
    """Return the ids of the built-in playbooks: the file of each is called by its id."""
    root = resources.files("playbooks")
    return sorted(f.name.removesuffix(".yaml") for f in root.iterdir() if f.name.endswith(".yaml"))


def shipped(only: Collection[str] | None = None) -> Iterator[Document]:
    """Yield the built-in playbooks as they were written; only: those with such an id."""
    root = resources.files("playbooks")
    for name in shipped_ids():
        if only is None or name in only:
            yield read((root / f"{name}.yaml").read_bytes(), f"playbooks/{name}.yaml")


def folders(config_path: Path | None, config: Config) -> list[Path]:
    """Return where a site keeps its own: `playbooks.d` beside agent.yaml, then what `playbooks: {dirs}` names."""
    root = config_path.parent if config_path is not None else Path()
    beside = [root / "playbooks.d"] if config_path is not None else []
    return [*(d for d in beside if d.is_dir()), *(root / d for d in config.playbooks.dirs)]


def _folder(document: Document) -> Path:
    """Return where the files of a playbook's tests lie: beside it."""
    path = Path(document.place)
    if path.parent == Path("playbooks") and not path.is_file():
        return Path(str(resources.files("playbooks")))
    return path.parent


def in_folder(folder: Path, faults: list[Fault]) -> list[Document]:
    """Read the playbooks of a folder; one that can not be listed is a fault."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        faults.append(
            Fault(str(folder), 0, 0, f"can not be listed: {reason}", "check `playbooks.dirs`")
        )
        return []
    return [read(f) for f in inside if f.suffix in {".yaml", ".yml"} and not f.name.startswith(".")]


def _prepared(document: Document) -> Document:
    """Give steps that have no id the name of their verb: the key by which they are merged and read."""
    for part in ("do", "then"):
        steps = document.data.get(part)
        for step in steps if isinstance(steps, list) else ():
            if isinstance(step, dict) and isinstance(step.get("use"), str):
                step.setdefault("id", step["use"])
    return document


def _over(under: Document, over: Document) -> Document:
    """Lay one playbook over another of the same id; places are those of the upper one."""
    marks: dict[Place, Place] = {}
    data = _merge(under.data, over.data, (), (), marks)

    def moved(table: Mapping[Place, Any]) -> dict[Place, Any]:
        return {marks[path]: value for path, value in table.items() if path in marks}

    return Document(
        data, over.place, (*under.faults, *over.faults), under.broken or over.broken,
        moved(over.values), moved(over.keys), moved(over.raw), over.lines,
    )  # fmt: skip


def _merge(under: Any, over: Any, path: Place, at: Place, marks: dict[Place, Place]) -> Any:
    """Merge `over` (at `path` of its file) into `under`; `at` is where it stands in the result."""
    marks[path] = at
    if isinstance(under, dict) and isinstance(over, dict):
        out = dict(under)
        for key, value in over.items():
            out[key] = _merge(under.get(key), value, (*path, key), (*at, key), marks)
        return out
    if isinstance(over, list):
        steps = _same_steps(under, over) if path in {("do",), ("then",)} else None
        if steps is not None:
            out_list = list(under)
            for i, j in enumerate(steps):
                out_list[j] = _merge(under[j], over[i], (*path, i), (*at, j), marks)
            return out_list
        return [_merge(None, one, (*path, i), (*at, i), marks) for i, one in enumerate(over)]
    if isinstance(over, dict):
        return {k: _merge(None, v, (*path, k), (*at, k), marks) for k, v in over.items()}
    return over


def _same_steps(under: Any, over: list[Any]) -> list[int] | None:
    """Return which steps of `under` those of `over` change; None when they replace them as a whole."""
    if not isinstance(under, list) or not all(isinstance(s, dict) for s in [*under, *over]):
        return None
    ids = [step.get("id") for step in under]
    if any("use" in step for step in over) or not all(step.get("id") in ids for step in over):
        return None
    return [ids.index(step["id"]) for step in over]
