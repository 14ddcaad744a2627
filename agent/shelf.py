"""What there is: every plug-in, playbook and setting with one line each, for the pages and for people who look around.

`python -m agent.shelf README.md docs/actions.md docs/settings.md` writes the tables between the marks of those files;
without a file it prints those of the README.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from agent import registry
from agent.playbook.verbs import can_undo, may_undo, stays
from agent.ports import (
    Archive,
    BulkReceiver,
    Chat,
    Feed,
    Notifier,
    Pulse,
    Receiver,
    Sink,
    Source,
)
from agent.units import read_bytes, read_duration, read_ratio

_POWERS: Final = (
    ("source", Source),
    ("feed", Feed),
    ("receiver", Receiver),
    ("inlets", BulkReceiver),
    ("notifier", Notifier),
    ("chat", Chat),
    ("pulse", Pulse),
    ("sink", Sink),
    ("archive", Archive),
)


def _line(cls: type[Any]) -> str:
    """Return the first sentence of a class's docstring."""
    text = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return text.removesuffix(".")


def _able(cls: type[Any]) -> str:
    """Say what a connector can do, seen from its methods, as the loader sees it."""
    powers = [name for name, port in _POWERS if all(hasattr(cls, m) for m in _methods(port))]
    wanted = {
        a.ability for n in registry.action if (a := registry.action.get(n)).ability is not None
    }
    powers += sorted(
        p.__name__ for p in wanted - {Notifier} if all(hasattr(cls, m) for m in _methods(p))
    )
    return ", ".join(powers)


def _methods(port: type[Any]) -> Iterator[str]:
    return (m for m in vars(port) if not m.startswith("_") and callable(getattr(port, m)))


def _undo(verb: type[Any]) -> str:
    """Say whether a verb puts back what was there; - = there is nothing to put back."""
    if verb.effect == "reading" or stays(verb):
        return "-"
    return "yes" if can_undo(verb) else "if declared" if may_undo(verb) else "no"


def tables() -> str:
    """Return the tables in Markdown: connectors open, what is long and seldom read folded."""
    out = ["### Connectors", "", "| connector | can | | tested with |", "|---|---|---|---|"]
    for name in registry.connector:
        cls = registry.connector.get(name)
        out.append(f"| `{name}` | {_able(cls)} | {_line(cls)} | {getattr(cls, 'tested', '')} |")
    out += ["", "### Detectors", "", "| detector | |", "|---|---|"]
    out += [f"| `{n}` | {_line(registry.detector.get(n))} |" for n in registry.detector]
    out += [f"| `{n}` (groups) | {_line(registry.view.get(n))} |" for n in registry.view]
    out += ["", "### Verbs of playbooks", "", *_kinds_of_verbs()]
    books = [
        yaml.safe_load(p.read_text())
        for p in resources.files("playbooks").iterdir()
        if p.name.endswith(".yaml")
    ]
    alone = sum(book["mode"] == "auto" for book in books)
    out += [
        "", "### Playbooks", "",
        f"{len(books)}; {alone} ship as `auto`: they mark and tell. `mode:` (default `suggest`) caps all.",
        "", "<details><summary>All of them, with the cause that each is for</summary>", "",
        "| playbook | ships as | when | |", "|---|---|---|---|",
    ]  # fmt: skip
    for book in sorted(books, key=lambda b: str(b["id"])):
        cause = (book.get("because") or {}).get("cause", "any")
        out.append(f"| `{book['id']}` | {book['mode']} | `{cause}` | {book['title']} |")
    return "\n".join([*out, "", "</details>"])


def _kinds_of_verbs() -> Iterator[str]:
    """Yield the verbs by what they do to the world, a line each; `verbs` has all that there is to say of them."""
    acts = {
        "yes": "act, with undo", "if declared": "act, undone by what you declare",
        "-": "act, with nothing to put back", "no": "act, without undo",
    }  # fmt: skip
    sorts: dict[str, list[str]] = {
        sort: [] for sort in ("change nothing", "mark and tell", *acts.values())
    }
    for name in registry.action:
        cls = registry.action.get(name)
        other = {"reading": "change nothing", "marking": "mark and tell"}
        sorts[other.get(cls.effect) or acts[_undo(cls)]].append(f"`{name}`")
    for sort, names in sorts.items():
        yield f"- **{sort}**: {', '.join(names)}"


def verbs() -> str:
    """Return the table of verbs with their parameters, in Markdown."""
    out = ["| verb | needs | parameters | undo | approve | |", "|---|---|---|---|---|---|"]
    for name in registry.action:
        cls = registry.action.get(name)
        ability = cls.ability.__name__ if cls.ability is not None else ""
        undo = _undo(cls)
        must = "always" if cls.effect == "mutating" and not cls.reversible else ""
        params = ", ".join(_parameters(cls.Params)) or "-"
        out.append(f"| `{name}` | {ability} | {params} | {undo} | {must} | {_line(cls)} |")
    return "\n".join(out)


def _parameters(model: type[Any]) -> Iterator[str]:
    """Yield the parameters of a verb; those that must be given in bold."""
    for name, about in model.model_fields.items():
        said = f"`{about.alias or name}`"
        yield f"**{said}**" if about.is_required() else said


# ---------------------------------------------------------------- settings


def settings() -> str:
    """Return the tables of all that agent.yaml may hold, in Markdown."""
    from agent.config import Config

    head = ["", "| setting | default | |", "|---|---|---|"]
    out = ["## The file", *head, *_rows(Config)]
    for title, shelf in (("Connectors", registry.connector), ("Detectors", registry.detector)):
        out += ["", f"## {title}"]
        for name in shelf:
            cls = shelf.get(name)
            rows = list(_rows(cls.Config)) if hasattr(cls, "Config") else []
            out += ["", f"### {name}", "", _line(cls) + ("" if rows else ". It has no setting.")]
            out += [*head, *rows] if rows else []
    return "\n".join(out)


def _rows(model: type[BaseModel], before: str = "", within: tuple[Any, ...] = ()) -> Iterator[str]:
    """Yield a row for each setting, those of a setting beneath it: `budget.x`, `services[].id`, `rules.NAME.path`."""
    for name, field in model.model_fields.items():
        said = f"{before}{field.alias or name}"
        inner = [one for one in _models(field.annotation) if one[1] not in within]
        about = field.description or (_line(inner[0][1]) if inner else "")
        yield f"| `{said}` | {_default(field)} | {_about(about, _choices(field.annotation))} |"
        for step, below in inner:
            yield from _rows(below, f"{said}{step}.", (*within, below))


def _models(annotation: Any, step: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield what is written inside a setting, and how one gets there."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield step, annotation
        return
    step += {list: "[]", tuple: "[]", dict: ".NAME"}.get(get_origin(annotation), "")
    for one in get_args(annotation):
        yield from _models(one, step)


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the words that a setting takes, () = any."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for one in get_args(annotation) if (found := _choices(one))), ())


def _about(text: str, choices: tuple[Any, ...]) -> str:
    said = " ".join(text.split()).replace("|", "\\|")
    said = said if said.endswith("...") else said.removesuffix(".")
    words = ", ".join(f"`{one}`" for one in choices) if 1 < len(choices) <= _MOST_CHOICES else ""
    return f"{said} ({words})" if said and words else said or words


def _default(field: FieldInfo) -> str:
    """Say what holds without a word, as one would write it."""
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, BaseModel) or value in ("", [], {}, ()):
        return ""
    written = _written(field.annotation, field.metadata)
    if isinstance(value, bool):
        said = str(value).lower()
    elif isinstance(value, int | float):
        said = written(float(value)) if written else f"{value:.12g}"
    elif isinstance(value, list | tuple):
        said = f"[{', '.join(map(str, value))}]"
    elif isinstance(value, dict):
        said = f"{{{', '.join(f'{k}: {v}' for k, v in value.items())}}}"
    else:
        said = str(value)
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST - 3]}..."
    return f"`{said}`".replace("|", "\\|")


def _written(annotation: Any, metadata: Iterable[Any]) -> Callable[[float], str] | None:
    """Return how a number is written: a duration, a size, a share; None = plainly."""
    for one in (*metadata, *getattr(annotation, "__metadata__", ())):
        if isinstance(one, BeforeValidator) and one.func in _UNITS:
            return _UNITS[one.func]
    inner = (_written(one, ()) for one in get_args(annotation))
    return next((found for found in inner if found), None)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms" if seconds else "0s"


def _size(n: float) -> str:
    for unit, size in (
        ("GB", 10**9), ("MB", 10**6), ("GiB", 2**30), ("MiB", 2**20), ("kB", 10**3), ("KiB", 2**10),
    ):  # fmt: skip
        if n >= size and n % size == 0:
            return f"{n / size:g}{unit}"
    return f"{n:g}B"


def _share(part: float) -> str:
    return f"{part * 100:g}%"


_UNITS: Final[Mapping[Any, Callable[[float], str]]] = {
    read_duration: _span, read_bytes: _size, read_ratio: _share,
}  # fmt: skip
_MOST_CHOICES: Final = 12
_LONGEST: Final = 80
"""Of a default, in characters."""
_TABLES: Final[Mapping[str, Callable[[], str]]] = {
    "what there is": tables, "verbs": verbs, "settings": settings,
}  # fmt: skip
"""Mark in a file -> what stands there."""


def filled(text: str) -> str:
    """Return a page with the tables between its marks written anew."""
    for mark, table in _TABLES.items():
        begin, end = f"<!-- {mark}: begin (make readme) -->", f"<!-- {mark}: end -->"
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if found and closed:
            text = f"{head}{begin}\n\n{table()}\n\n{end}{tail}"
    return text


def main() -> None:
    """Print the tables, or put them into the files that are named."""
    registry.load()
    if len(sys.argv) < 2:
        print(tables())  # noqa: T201  # that is the command's job
        return
    for path in map(Path, sys.argv[1:]):
        path.write_text(filled(path.read_text()))


if __name__ == "__main__":
    main()
