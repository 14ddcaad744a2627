"""What people mean: ids as git shortens them, names in part, durations and moments as they are written."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.errors import Refused
from agent.units import read_duration, read_moment


class NotThere(Refused):
    """There is nothing of that name."""


def pick(text: str, ids: Mapping[str, Any], what: str) -> str:
    """Return the id that `text` begins, as git does; `last` is the newest. Raises NotThere or Refused."""
    if text in ids:
        return text
    if text == "last" and ids:
        return list(ids)[-1]
    found = [i for i in ids if i.startswith(text)] if text else []
    if not found and text:
        # the part behind the first dash: people copy it from where the prefix was cut off
        found = [i for i in ids if i.partition("-")[2].startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(
            f"{text!r} is the beginning of {len(found)} {what}s; write more: {few(found)}"
        )
    if not ids:
        raise NotThere(f"there is no {what} yet; the journal of this state folder holds none")
    newest = list(ids)[-5:]
    raise NotThere(f"there is no {what} {text!r}; the newest are {few(reversed(newest))}")


def meant(text: str, names: Mapping[str, str]) -> str:
    """Return the entity id that was meant: itself, its key, its name, or a unique part of them."""
    if text in names:
        return text
    word = text.lower()
    rounds: tuple[Callable[[str, str], bool], ...] = (
        lambda id_, name: word in {id_.partition(":")[2].lower(), name.lower()},
        lambda id_, _: id_.lower().startswith(word),
        lambda id_, name: word in id_.lower() or word in name.lower(),
    )
    for fits in rounds:
        found = sorted(id_ for id_, name in names.items() if word and fits(id_, name))
        if len(found) == 1:
            return found[0]
        if found:
            said = (f"{i} ({names[i]})" if names[i] not in i else i for i in found)
            raise Refused(f"{text!r} may be {len(found)} things; write one of {few(said)}")
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    raise NotThere(
        f"nothing here is called {text!r}; "
        + (f"did you mean {few(near)}?" if near else "write it like service:checkout")
    )


def named(text: str, known: Mapping[str, str]) -> str:
    """Return the playbook that was meant: its id, the beginning of it, or a unique part of id or title."""
    if text in known:
        return text
    word = text.lower()
    rounds = (
        [i for i in known if word and i.startswith(word)],
        [i for i, title in known.items() if word and (word in i or word in title.lower())],
    )
    for found in rounds:
        if len(found) == 1:
            return found[0]
        if found:
            raise Refused(f"{text!r} may be {len(found)} playbooks; write one of {few(found)}")
    if not known:
        raise NotThere("no playbook is known here; start the daemon, or see homeostat playbooks")
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.4)
    raise NotThere(
        f"no playbook is called {text!r}; "
        + (f"did you mean {few(near)}?" if near else "see homeostat playbooks")
    )


def few(words: Iterable[str], most: int = 5) -> str:
    """Return the first few words, and how many more there are."""
    some = list(words)
    return ", ".join(some[:most]) + (f" and {len(some) - most} more" if len(some) > most else "")


def duration(text: str) -> float:
    """Read `2h`, `90s`, `1h30m`, or a plain number of seconds; raises Refused."""
    bare = text.replace(".", "", 1).isdigit()
    try:
        return float(read_duration(f"{text}s" if bare else text))
    except (ValueError, TypeError) as wrong:
        raise Refused(str(wrong).replace("not understood", "not a duration")) from None


def moment(text: str, now: float, default: float) -> float:
    """Read a time: `15m` (ago), unix seconds, or ISO 8601; raises Refused."""
    if not text.strip():
        return default
    try:
        return read_moment(text, now)
    except ValueError as wrong:
        raise Refused(str(wrong)) from None
