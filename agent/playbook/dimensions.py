"""Units of expressions: seconds are never compared with bytes, nor a ratio with 90.

    service.latency_p95_seconds > process.memory_bytes    seconds and bytes: never meant
    gpu.clock_ratio < 90.0                                       a ratio here is 0 to 1: always true

Every catalogue signal has a unit and a possible range. Plain numbers go with any unit; shares, counts and states have
none to hand on in a product. What stays open (a product of two units, the diagnosis' facts) is not judged.
Cost: one pass over the tokens, at load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent.catalogue import SIGNALS, SignalDef
from agent.expr import Slip, Token, scan
from agent.possible import reach

_PURE: Final = frozenset({"ratio", "count", "bool"})
"""Units that a product does not keep."""
_BINARY: Final[tuple[frozenset[str], ...]] = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"==", "!=", "<", "<=", ">", ">=", "in"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/"}),
)
"""From the loosest to the tightest."""
_SUMS: Final = _BINARY[2] | _BINARY[3]


@dataclass(frozen=True, slots=True)
class _Part:
    """What a part of an expression is: its unit ("" = open), the one signal that it is, or the one number."""

    at: int
    said: str
    unit: str = ""
    signal: SignalDef | None = None
    number: float | None = None


def lint(text: str, signal_of: Callable[[str], str]) -> list[Slip]:
    """Return what does not go together in a sound expression.

    signal_of   the signal whose unit and range a name has; "" = none, or open
    """
    reader = _Reader(text, signal_of)
    reader.level(0)
    return reader.slips


class _Reader:
    """Reads tokens by precedence; the expression has been compiled, so it is well formed."""

    def __init__(self, text: str, signal_of: Callable[[str], str]) -> None:
        self.slips: list[Slip] = []
        self._text = text
        self._tokens = scan(text)
        self._signal_of = signal_of
        self._i = 0

    def level(self, n: int) -> _Part:
        """Read one level of precedence; 0 is a whole expression with `? :`."""
        if n == len(_BINARY):
            return self._unary()
        left = self.level(n + 1)
        while self._next() in _BINARY[n]:
            op = self._take()
            right = self.level(n + 1)
            left = self._join(left, op, right)
        if n == 0 and self._next() == "?":
            self._take()
            yes = self.level(0)
            self._take()
            no = self.level(0)
            self._alike(yes, no)
            return _Part(left.at, self._said(left.at), yes.unit or no.unit)
        return left

    def _unary(self) -> _Part:
        if self._next() in {"!", "-"}:
            sign = self._take()
            part = self._unary()
            number = -part.number if sign.text == "-" and part.number is not None else None
            return _Part(sign.at, self._said(sign.at), part.unit, number=number)
        token = self._take()
        if token.text == "(":
            part = self.level(0)
            self._take()
            return _Part(token.at, self._said(token.at), part.unit, part.signal, part.number)
        if token.text == "[":
            self._list("]")
            return _Part(token.at, "")
        if token.kind == "name" and self._next() == "(":
            self._take()
            units = self._list(")")
            unit = units[0] if token.text in {"double", "int"} and units else ""
            return _Part(token.at, self._said(token.at), unit)
        if token.kind == "name":
            signal = SIGNALS.get(self._signal_of(token.text))
            return _Part(token.at, token.text, signal.unit if signal else "", signal)
        number = float(token.text) if token.kind == "number" else None
        return _Part(token.at, token.text, number=number)

    def _list(self, end: str) -> list[str]:
        units = []
        while self._next() != end:
            units.append(self.level(0).unit)
            if self._next() == ",":
                self._take()
        self._take()
        return units

    def _join(self, left: _Part, op: Token, right: _Part) -> _Part:
        unit = ""
        if op.text in _SUMS and op.text != "in":
            self._alike(left, right)
            unit = (left.unit or right.unit) if op.text in _BINARY[3] else ""
        elif op.text in {"*", "/"}:
            kept = [p.unit for p in (left, right) if p.unit and p.unit not in _PURE]
            if len(kept) == 1 and (op.text == "*" or kept[0] == left.unit):
                unit = kept[0]
        if op.text in _BINARY[2]:
            self._possible(left, right)
            self._possible(right, left)
        return _Part(left.at, self._said(left.at), unit)

    def _alike(self, left: _Part, right: _Part) -> None:
        if left.unit and right.unit and left.unit != right.unit:
            self.slips.append(
                Slip(
                    right.at,
                    f"`{left.said}` is in {_words(left.unit)}, `{right.said}` in {_words(right.unit)}",
                    "compare and add only what has the same unit",
                )
            )

    def _possible(self, part: _Part, other: _Part) -> None:
        signal, number = part.signal, other.number
        if signal is None or number is None or signal.least <= number <= signal.most:
            return
        remedy = ""
        if signal.unit == "ratio" and 1 < number <= 100:
            remedy = f"write {number / 100:g} for {number:g} %"
        problem = f"`{part.said}` can only be {reach(signal.name)}, so this never changes"
        self.slips.append(Slip(other.at, problem, remedy))

    def _next(self) -> str:
        return self._tokens[self._i].text if self._i < len(self._tokens) else ""

    def _take(self) -> Token:
        self._i += 1
        return self._tokens[self._i - 1]

    def _said(self, at: int) -> str:
        """Return the words from a place up to here."""
        end = self._tokens[self._i].at if self._i < len(self._tokens) else len(self._text)
        return self._text[at:end].strip()


def _words(unit: str) -> str:
    return {"ratio": "shares", "bool": "states (0 or 1)"}.get(unit, unit.replace("_", " "))
