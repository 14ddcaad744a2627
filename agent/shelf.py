"""What there is: every plug-in and playbook with one line each, for the README and for people who look around.

`python -m agent.shelf README.md docs/actions.md` writes the tables between the marks of those files; without a file it
prints those of the README.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

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


_TABLES: Final[Mapping[str, Callable[[], str]]] = {"what there is": tables, "verbs": verbs}
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
