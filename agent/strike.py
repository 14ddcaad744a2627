"""Strikes known secrets out of what is about to be said: the last net under errors, logs and tracebacks.

    secret("env:TOKEN") --> learn(value) --> strike(text) in errors, log lines, tracebacks of a crash

Whoever speaks to another system keeps its secret out of messages by itself; this is for what nobody thought of: a
library that quotes a header, a server that echoes what it was sent. A secret is known from its first use on, in the
forms in which it travels: itself, in base64, percent-encoded, as JSON.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import traceback
from collections import OrderedDict
from types import TracebackType
from typing import Final
from urllib.parse import quote, quote_plus

LEAST: Final = 8
"""What is shorter would be found in ordinary words."""
_MOST: Final = 500
"""Secrets that are renewed pile up: the oldest are forgotten."""
_STRUCK: Final = "***"

_known: OrderedDict[str, tuple[str, ...]] = OrderedDict()


def forms(value: str) -> tuple[str, ...]:
    """Return a secret as it may be met, the longest first: itself, what `Bearer` or `Basic` stand before, encoded."""
    plain = {value, value.rpartition(" ")[2]}
    if value[:6].lower() == "basic ":
        try:
            pair = base64.b64decode(value[6:], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            pair = ""
        plain |= {pair, pair.partition(":")[2]}
    out = set(plain)
    for one in plain:
        raw = one.encode("utf-8", "surrogateescape")
        out |= {quote(raw, safe=""), quote(raw), quote_plus(raw), json.dumps(one)[1:-1]}
        out |= {repr(one)[1:-1], *_base64(raw)}
    return tuple(sorted(out - {""}, key=lambda form: (-len(form), form)))


def _base64(raw: bytes) -> set[str]:
    """Return what is the same wherever the secret stands in a longer text: `user:secret` shifts it by some bits."""
    out = set()
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        coded = coded[-(-8 * shift // 6) :]
        if (shift + len(raw)) % 3:
            coded = coded[:-1]  # its last bits depend on what follows
        out |= {coded, coded.replace("+", "-").replace("/", "_")}
    return out


def learn(value: str) -> str:
    """Know a secret from now on, and return it."""
    if len(value) >= LEAST:
        if value not in _known:
            _known[value] = tuple(form for form in forms(value) if len(form) >= LEAST)
            if len(_known) > _MOST:
                _known.popitem(last=False)
        else:
            _known.move_to_end(value)
    return value


def strike(text: str) -> str:
    """Return a text without the secrets that are known."""
    for some in tuple(_known.values()):
        for form in some:
            if form in text:
                text = text.replace(form, _STRUCK)
    return text


def bug_in(what: str, error: BaseException) -> str:
    """Say that somebody's code has broken, with the words of an exception that nobody expected."""
    return strike(f"a bug in {what}: {type(error).__name__}: {error}")


def last_words(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what nobody caught as Python does, without secrets."""
    sys.stderr.write(strike("".join(traceback.format_exception(kind, error, trace))))
