"""What there is: every plug-in and playbook with one line each, for the README and for people who look around.

`python -m agent.shelf README.md` writes the tables between the marks of that file; without a file it prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from agent import registry
from agent.ports import Feed, Notifier, Receiver, Source, Undo

_BEGIN: Final = "<!-- what there is: begin (make readme) -->"
_END: Final = "<!-- what there is: end -->"
_POWERS: Final = (
    ("source", Source),
    ("feed", Feed),
    ("receiver", Receiver),
    ("notifier", Notifier),
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


def tables() -> str:
    """Return the tables in Markdown."""
    out = ["| connector | can | |", "|---|---|---|"]
    for name in registry.connector:
        cls = registry.connector.get(name)
        out.append(f"| `{name}` | {_able(cls)} | {_line(cls)} |")
    out += ["", "| detector | |", "|---|---|"]
    out += [f"| `{n}` | {_line(registry.detector.get(n))} |" for n in registry.detector]
    out += ["", "| group view | |", "|---|---|"]
    out += [f"| `{n}` | {_line(registry.view.get(n))} |" for n in registry.view]
    out += ["", "| verb | effect | undo | |", "|---|---|---|---|"]
    for name in registry.action:
        cls = registry.action.get(name)
        able = all(hasattr(cls, m) for m in _methods(Undo)) and cls.reversible
        undo = "" if cls.effect == "reading" else "yes" if able else "no"
        out.append(f"| `{name}` | {cls.effect} | {undo} | {_line(cls)} |")
    out += ["", "| playbook | ships as | when | |", "|---|---|---|---|"]
    books = [
        yaml.safe_load(p.read_text())
        for p in resources.files("playbooks").iterdir()
        if p.name.endswith(".yaml")
    ]
    for book in sorted(books, key=lambda b: str(b["id"])):
        cause = (book.get("because") or {}).get("cause", "any")
        out.append(f"| `{book['id']}` | {book['mode']} | `{cause}` | {book['title']} |")
    return "\n".join(out)


def main() -> None:
    """Print the tables, or put them into the file that is named."""
    registry.load()
    if len(sys.argv) < 2:
        print(tables())  # noqa: T201  # that is the command's job
        return
    path = Path(sys.argv[1])
    text = path.read_text()
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not (begin and end):
        raise SystemExit(f"{path} has no marks: put {_BEGIN} and {_END} where the tables belong")
    path.write_text(f"{head}{begin}\n\n{tables()}\n\n{end}{tail}")


if __name__ == "__main__":
    main()
