"""Who may do what: four roles, one table, and the tokens that stand for people and services over HTTP.

    socket  (0600, peer uid)      the same uid as the daemon, or root  -> admin
    HTTP    Authorization: Bearer a token of `homeostat token add`     -> the token's role
    HTTP    loopback, no token                                         -> may read, no more
    HTTP    a token of a *sender*, which is no role of people          -> sends rows of named models, no more

A token is 256 random bits, so its plain SHA-256 is enough to keep: there is nothing to guess from the hash.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import pwd
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from agent.errors import Refused

Role = Literal["viewer", "operator", "author", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
Approver = Literal["operator", "author", "admin"]
"""Roles that a playbook may ask: who only looks decides nothing."""
Sender = Literal["sender"]
SENDER: Final[Sender] = "sender"
"""Beside the roles, not below them: it may send what a viewer may not, and see nothing."""

Verb = Literal[
    "see", "ack", "approve", "deny", "run", "undo", "page", "silence", "pause", "resume", "label", "rows", "push",
    "reinstate", "mode", "reload", "token",
]  # fmt: skip

NEEDS: Final[dict[Verb, Role]] = {
    "see": "viewer",  # incidents, runs, charts, metrics, the journal's words
    "ack": "operator",  # "I have it": an incident is in a person's hands, or put off for a while
    "approve": "operator",  # a playbook may ask for a higher role than this
    "deny": "operator",
    "run": "operator",  # a playbook on a target, through all gates but the ceilings; it may ask for more
    "undo": "operator",  # put back what a run did
    "page": "operator",  # call a person now
    "silence": "operator",
    "pause": "operator",
    "resume": "operator",
    "label": "operator",  # "that page was false", "that is not the cause": what budget and diagnosis learn from
    "rows": "operator",  # predictions and their labels: also what a sender may, of its models
    "push": "operator",  # changes, alerts from services elsewhere
    "reinstate": "author",  # "I have looked at it": a playbook that harmed may act again
    "mode": "author",  # how far a playbook may go, below what agent.yaml says
    "reload": "admin",
    "token": "admin",
}
"""Verb -> the lowest role that may do it. The one table; nothing else decides."""

_KNOWN: Final[tuple[Role | Sender, ...]] = (SENDER, *ROLES)
_PREFIX: Final = "homeostat_"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.@-]{0,62}")


class Forbidden(Refused):
    """We know who asks, and the role is too low."""


class Unknown(Refused):
    """We do not know who asks: no token, or none that is ours."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who asks. `via` tells how we know: socket, token, loopback, file.

    models   globs of the models that a sender may speak for
    """

    name: str
    role: Role | Sender
    via: str
    models: tuple[str, ...] = ()

    def has(self, role: Role) -> bool:
        """Tell whether this person's role is at least `role`."""
        return self.role != SENDER and ROLES.index(self.role) >= ROLES.index(role)

    def may(self, verb: Verb) -> bool:
        """Tell whether this person may do `verb`."""
        return self.has(NEEDS[verb]) or (verb == "rows" and self.role == SENDER)

    def must(self, verb: Verb, role: Role | None = None) -> None:
        """Raise unless this person may do `verb` (and has `role`, when one is asked for beside the table).

        Unknown when only a token is missing, Forbidden when the role is too low.
        """
        needed = NEEDS[verb]
        if role is not None and ROLES.index(role) > ROLES.index(needed):
            needed = role
        if self.has(needed) or (role is None and self.may(verb)):
            return
        if self.via == "loopback" and verb == "rows":
            raise Unknown(
                "who sends rows needs a token; "
                "make one with: homeostat token add NAME --role sender --model MODEL"
            )
        if self.via == "loopback":
            raise Unknown(
                f"{verb} needs a token of role {needed}; "
                f"make one with: homeostat token add NAME --role {needed}"
            )
        raise Forbidden(
            f"{self.name} is {self.role}, {verb} needs {needed}; "
            f"ask an admin for: homeostat token add NAME --role {needed}"
        )

    @property
    def signed(self) -> str:
        """`name (role, via)`, as the journal writes it."""
        return f"{self.name} ({self.role}, {self.via})"


LOOPBACK: Final = Person("someone on this host", "viewer", "loopback")
"""Whoever reads on loopback without a token."""


def peer(uid: int) -> Person:
    """Return the person at the other end of the Unix socket; raises Forbidden for any uid but ours and root.

    The kernel vouches for the uid (SO_PEERCRED), so the name cannot be claimed.
    """
    if uid not in {os.geteuid(), 0}:
        raise Forbidden(
            f"uid {uid} may not speak to this daemon; run the command as {user(os.geteuid())} or root"
        )
    return Person(user(uid), "admin", "socket")


def user(uid: int) -> str:
    """Return the login name of a uid, or `uid N` when it has none (usual in containers)."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token: never the token itself."""

    name: str
    role: Role | Sender
    sha256: str
    created: float
    models: tuple[str, ...] = ()


class Tokens:
    """The file of tokens, 0600. Read again when it has changed; a look-up then costs one `stat` and n hashes.

    Raises Refused when others could have written the file: whoever can write it can make themselves admin.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def known(self) -> tuple[Token, ...]:
        """Return all tokens, oldest first."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._seen, self._tokens = None, ()
            return ()
        # mtime alone misses two writes within one tick of the clock; the inode changes with every replace
        now = (found.st_mtime_ns, found.st_size, found.st_ino)
        if now != self._seen:
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise Refused(f"others may write {self.path}; run: chmod 600 {self.path}")
            self._tokens = _parse(self.path)
            self._seen = now
        return self._tokens

    def who(self, token: str) -> Person:
        """Return whose token this is; raises Unknown. Takes the same time for a near miss as for any other."""
        digest = _hash(token)
        found: Token | None = None
        for one in self.known():
            if hmac.compare_digest(one.sha256, digest):
                found = one  # no break: how long it takes must not tell which one it was
        if found is None:
            raise Unknown("this token is not known; it may have been revoked, ask an admin")
        return Person(found.name, found.role, "token", found.models)

    def add(self, name: str, role: str, now: float, models: Sequence[str] = ()) -> str:
        """Make a token and return it: the only time anyone sees it. Raises Refused for a bad name or role.

        models   globs of the models that a sender may speak for; for no other role
        """
        if not _NAME.fullmatch(name):
            raise Refused(
                f"not a name: {name!r}; write lower case letters, digits and . _ @ -, at most 63"
            )
        if role not in _KNOWN:
            raise Refused(f"no role is called {role!r}; write one of {', '.join(_KNOWN)}")
        if role == SENDER and not models:
            raise Refused(
                "a sender sends rows of named models; name them: --model fraud, or '*' for all"
            )
        if role != SENDER and models:
            raise Refused(
                f"only a sender is held to models; make {name} a sender, or leave them out"
            )
        token = _PREFIX + secrets.token_urlsafe(32)
        with self._locked() as tokens:
            if any(one.name == name for one in tokens):
                raise Refused(
                    f"there is a token called {name!r}; revoke it first: homeostat token revoke {name}"
                )
            new = Token(name, _KNOWN[_KNOWN.index(role)], _hash(token), now, tuple(models))
            self._write([*tokens, new])
        return token

    def revoke(self, name: str) -> Token:
        """Take a token away, at once; raises Refused when there is none of that name."""
        with self._locked() as tokens:
            gone = next((one for one in tokens if one.name == name), None)
            if gone is None:
                names = ", ".join(one.name for one in tokens) or "none"
                raise Refused(f"no token is called {name!r}; there are: {names}")
            self._write([one for one in tokens if one is not gone])
        return gone

    @contextmanager
    def _locked(self) -> Iterator[tuple[Token, ...]]:
        """Hold off other writers (daemon and command line may both come)."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.known()
        finally:
            os.close(lock)

    def _write(self, tokens: list[Token]) -> None:
        rows = [
            {"name": t.name, "role": t.role, "sha256": t.sha256, "created": t.created}
            | ({"models": list(t.models)} if t.models else {})
            for t in tokens
        ]
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".tokens-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as out:
                json.dump({"version": 1, "tokens": rows}, out, indent=1)
                out.flush()
                os.fsync(out.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _parse(path: Path) -> tuple[Token, ...]:
    """Read the file; a damaged one is refused whole: half a list of tokens is a surprise for somebody."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            Token(
                name=str(r["name"]),
                role=r["role"],
                sha256=str(r["sha256"]),
                created=float(r["created"]),
                models=tuple(map(str, r.get("models", ()))),
            )
            for r in data["tokens"]
        ]
    except (ValueError, KeyError, TypeError) as damage:
        raise Refused(f"{path} is damaged ({damage}); remove it and add the tokens again") from None
    if any(row.role not in _KNOWN for row in rows):
        raise Refused(f"{path} holds an unknown role; write one of {', '.join(_KNOWN)}")
    return tuple(rows)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
