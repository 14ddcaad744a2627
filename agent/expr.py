"""Expressions in playbooks: a documented subset of CEL, one evaluator for conditions and `${}`.

    gpu.clock_ratio < 0.9 && service.latency_p99_seconds > baseline.service.latency_p99_seconds * 1.1

The subset: numbers with a point (`2.0`), 'text', true, false, lists, dotted names, `+ - * /`, comparisons,
`in`, `&& || !`, `a ? b : c`, and the functions double, int, string, size, startsWith, endsWith, contains, matches.

**Unknown.** A name without a value (None, NaN) is withheld; what can not be computed without it is UNKNOWN, which is
neither true nor false. `known_and_true || unknown` is true, as in three-valued logic. An expression that can not be
computed for another reason (a text where a number was, division by zero) is unknown, too: it never fires.

**Numbers.** `cel` does not mix whole numbers and numbers with a point in arithmetic (`2.0 * 2` raises), and
catalogue signals are floats: so every number enters as float, and `lint` asks for `2.0` where `2` was written.
Percent, sizes and durations are literals of YAML scalars, never of expressions; `lint` says what to write.

Cost: parsing 20 us, once; evaluating about 10 us. Only the names that are used are looked up and handed over.
Source: the Common Expression Language (cel.dev), here by `common-expression-language` in Rust.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Final, Literal

from agent.errors import ConfigError, Fault
from agent.units import read_bytes, read_duration

# `cel` imports its own command line with itself: 115 modules of a terminal toolkit, 10 MB that a daemon never uses
_without_cli = "cel.cli" not in sys.modules and sys.modules.setdefault(
    "cel.cli", ModuleType("cel.cli")
)
import cel  # noqa: E402  # after what is left out

if _without_cli:
    del sys.modules["cel.cli"]

Lookup = Callable[[str], Any]
Kind = Literal["number", "truth", "text", "any"]


class Unknown:
    """The answer when a needed value is missing. It is neither true nor false, and says so when asked."""

    __slots__ = ()

    def __bool__(self) -> bool:
        raise TypeError("unknown is neither true nor false: compare with `is UNKNOWN`")

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()

LONGEST: Final = 2000
"""Characters of one expression; parsers of more may run out of their stack."""
_DEEPEST: Final = 9
METHODS: Final = frozenset({"startsWith", "endsWith", "contains", "matches", "size"})
FUNCTIONS: Final = frozenset({"double", "int", "string", "size"})
_WORDS: Final = frozenset({"true", "false", "in"})


@dataclass(frozen=True, slots=True)
class Slip:
    """One thing that is wrong in an expression; `at` counts characters from 0."""

    at: int
    problem: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an expression; kind: unit, number, text, name, op or bad. `at` counts characters from 0."""

    kind: str
    text: str
    at: int


_TOKENS: Final = re.compile(
    r"""(?P<space>[ \t\r\n\f]+)
    |(?P<unit>(?:\d+(?:\.\d+)?)(?:%|(?!e[-+]?\d|E[-+]?\d)[A-Za-z]+(?:\d+(?:\.\d+)?[A-Za-z]+)*))
    |(?P<number>(?:\d+\.\d+|\.\d+|\d+)(?:[eE][-+]?\d+)?)
    |(?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
    |(?P<op>&&|\|\||==|!=|<=|>=|[-+*/<>!?:()\[\],])
    |(?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)

_INSTEAD: Final = {
    "=": "write `==`", "&": "write `&&`", "|": "write `||`", "^": "multiply instead",
    "%": "remainders are not part of the language; percent is written as 0.1", "'": "close the quote",
    '"': "close the quote", "$": "inside an expression names stand bare", "{": "maps are not part of the language",
    ".": "a name or number is not finished here", "~": "write `!`", "#": "comments stand outside the expression",
    "`": "write 'text' in straight quotes", ";": "write one expression",
    "\u2264": "write `<=`", "\u2265": "write `>=`", "\u2260": "write `!=`", "\u00d7": "write `*`",
    **dict.fromkeys("\u2018\u2019\u201c\u201d\u00b4", "write 'text' in straight quotes"),
    **dict.fromkeys("\u2013\u2014\u2212", "write `-`"),
}  # fmt: skip
_MISSING: Final = "a missing value is unknown by itself"
_INSTEAD_OF_WORDS: Final = {
    "and": "write `&&`", "or": "write `||`", "not": "write `!`", "is": "write `==`",
    "True": "write `true`", "False": "write `false`", "null": _MISSING, "None": _MISSING, "nan": _MISSING,
    "if": "write `a ? b : c`", "else": "write `a ? b : c`",
}  # fmt: skip


def scan(text: str) -> list[Token]:
    """Return the tokens of an expression, whether or not they make sense."""
    return [
        Token(str(m.lastgroup), m.group(), m.start())
        for m in _TOKENS.finditer(text)
        if m.lastgroup != "space"
    ]


def lint(text: str) -> list[Slip]:
    """Return everything that is wrong with an expression by itself, without knowing its names."""
    return list(_compiled(text)[0])


_MOST_KEPT: Final = 16_384
"""Expressions that stay compiled: of a thousand playbooks; with room for fewer, each tick would compile anew."""


@lru_cache(maxsize=_MOST_KEPT)
def _compiled(text: str) -> tuple[tuple[Slip, ...], Any]:
    """Return what is wrong with an expression, and its program; None where something is."""
    if not text.strip():
        return (Slip(0, "the expression is empty", "write a comparison like `a.b > 1.0`"),), None
    if len(text) > LONGEST:
        problem = f"the expression has more than {LONGEST} characters"
        return (Slip(0, problem, "split it into several conditions"),), None
    tokens = scan(text)
    slips = [slip for i in range(len(tokens)) for slip in _slips(tokens, i)]
    slips = slips or list(_clashes(tokens))
    if slips:
        return tuple(slips), None
    try:
        return (), cel.compile(text)
    except (ValueError, RuntimeError) as error:
        return (_said(str(error)),), None


def _slips(tokens: Sequence[Token], i: int) -> Iterator[Slip]:
    token = tokens[i]
    after = tokens[i + 1].text if i + 1 < len(tokens) else ""
    before = tokens[i - 1].text if i else ""
    if token.kind == "unit":
        yield Slip(token.at, f"`{token.text}` is not a number here", _of_unit(token.text))
    elif token.kind == "number" and not re.search(r"[.eE]", token.text):
        yield Slip(token.at, f"`{token.text}` has no point, and signals are never whole numbers",
                   f"write {token.text}.0")  # fmt: skip
    elif token.kind == "bad":
        yield _bad(token)
    elif token.kind == "name":
        yield from _name_slips(token, after)
    elif token.kind == "text" and before and re.fullmatch(r"[rRbB]+", before):
        yield Slip(token.at, "prefixed texts are not part of the language", "write 'text'")
    if token.text == "[" and i and tokens[i - 1].kind in {"name", "text"} and before not in _WORDS:
        yield Slip(token.at, "indexing is not part of the language", "use a dotted name")
    if token.text in {")", "]"} and after.startswith("."):
        yield Slip(token.at, "nothing can be read from a result", "use a dotted name")
    if token.text == "/" and (after == "(" or re.fullmatch(r"[0.]+", after)):
        yield Slip(
            token.at,
            "only a name or a number other than zero may follow `/`",
            "multiply by the inverse",
        )


def _bad(token: Token) -> Slip:
    if not token.text.isprintable():
        code = f"U+{ord(token.text):04X}"
        return Slip(token.at, f"a character that can not be seen ({code}) stands here", "delete it")
    return Slip(
        token.at, f"`{token.text}` is not part of the language", _INSTEAD.get(token.text, "")
    )


def _name_slips(token: Token, after: str) -> Iterator[Slip]:
    if token.text.count(".") > _DEEPEST:
        yield Slip(token.at, f"a name has more than {_DEEPEST + 1} parts", "shorten it")
        return
    if token.text in _INSTEAD_OF_WORDS:
        yield Slip(
            token.at, f"`{token.text}` is not part of the language", _INSTEAD_OF_WORDS[token.text]
        )
    elif after == "(" and token.text not in _WORDS:
        rest, _, function = token.text.rpartition(".")
        known = METHODS if rest else FUNCTIONS
        if function not in known:
            near = difflib.get_close_matches(function, known, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(sorted(known))}"
            yield Slip(token.at, f"no function is called `{function}`", remedy)


def _of_unit(text: str) -> str:
    """Say what to write instead of 10%, 250ms, 2GB."""
    if text.endswith("%"):
        return (
            f"write {float(text[:-1]) / 100:g}"
            if float(text[:-1]) % 100
            else f"write {float(text[:-1]) / 100}"
        )
    for read in (read_duration, read_bytes):
        try:
            value = read(text)
        except ValueError:
            continue
        return f"write {value!r}"
    return "write a number like 2.0, or 'text' in quotes"


def _said(error: str) -> Slip:
    """Turn what the parser says into one plain line."""
    match = re.search(r"<input>:1:(\d+): (?:Syntax error: )?([^\n]*)", error)
    if match is None:
        return Slip(0, "the expression can not be read", "check brackets and operators")
    at, words = int(match.group(1)) - 1, match.group(2)
    if "<EOF>" in words and "mismatched input '<EOF>'" in words:
        return Slip(at, "the expression stops too early", "finish it")
    if "missing ')'" in words:
        return Slip(at, "a bracket was opened and never closed", "add `)`")
    if "reserved identifier" in words:
        return Slip(
            at,
            f"{words.replace('reserved identifier:', 'a reserved word is used as a name:')}",
            "rename it",
        )
    extra = re.match(r"(?:extraneous|mismatched) input '([^']*)'", words)
    return Slip(at, f"`{extra.group(1)}` was not expected" if extra else "the expression can not be read",
                "check brackets and operators")  # fmt: skip


def _names(tokens: Sequence[Token]) -> dict[str, int]:
    """Return the dotted names that an expression reads, with the place of the first of each."""
    out: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token.kind != "name" or token.text in _WORDS:
            continue
        name = token.text
        if i + 1 < len(tokens) and tokens[i + 1].text == "(":
            name = name.rpartition(".")[0]
        if name:
            out.setdefault(name, token.at)
    return out


def places(text: str) -> dict[str, int]:
    """Return the dotted names that an expression reads, with the place of the first of each."""
    return _names(scan(text))


def _clashes(tokens: Sequence[Token]) -> Iterator[Slip]:
    """Find names that are a value and a branch at once (`a` and `a.b`): no context can hold both."""
    names = _names(tokens)
    for name, at in names.items():
        if any(other.startswith(name + ".") for other in names):
            yield Slip(
                at,
                f"`{name}` is used as a value and as the beginning of another name",
                "rename one",
            )


class Expression:
    """A compiled expression.

    names   the dotted names it reads; a method's own name (`target.command.startsWith`) is not part of one
    strict  it is true only when all of them are known
    """

    __slots__ = ("_divisors", "_paths", "_program", "names", "strict", "text")

    def __init__(self, text: str) -> None:
        """Compile; raises ConfigError with every slip (place `<expression>`, line 1) when it is not sound."""
        slips, program = _compiled(text)
        if slips:
            raise ConfigError(
                [
                    Fault("<expression>", 1, s.at + 1, f"`{text}`: {s.problem}", s.remedy)
                    for s in slips
                ]
            )
        tokens = scan(text)
        self.text = text
        self.names = frozenset(_names(tokens))
        words = {token.text for token in tokens}
        # `&&` inside of something else may be asked for being false
        inside = "&&" in words and words & {"(", "["}
        self.strict = not (words & {"||", "?", "!"} or inside)
        self._paths = tuple((name, tuple(name.split("."))) for name in sorted(self.names))
        self._divisors = frozenset(
            after.text
            for token, after in itertools.pairwise(tokens)
            if token.text == "/" and after.kind == "name"
        )
        self._program = program

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def evaluate(self, lookup: Lookup) -> Any:
        """Return the value: bool, float, text or list; UNKNOWN when it can not be computed from what is known."""
        context: dict[str, Any] = {}
        for name, path in self._paths:
            value = _enter(lookup(name))
            if value is None or (value == 0.0 and name in self._divisors):
                continue
            here = context
            for part in path[:-1]:
                here = here.setdefault(part, {})
            here[path[-1]] = value
        return self._run(context)

    def _run(self, context: dict[str, Any]) -> Any:
        try:
            value = self._program.execute(context)
        except (RuntimeError, LookupError, TypeError, ValueError, ArithmeticError):
            # a name is missing (RuntimeError, KeyError), or the values do not go together (the others)
            return UNKNOWN
        return _leave(value)

    def test(self, lookup: Lookup) -> bool | None:
        """Return the truth of a condition; None = unknown, also when it yields no truth value at all."""
        value = self.evaluate(lookup)
        return value if isinstance(value, bool) else None

    def check(self, kind_of: Callable[[str], Kind | None], want: Kind = "any") -> list[Slip]:
        """Try the expression on sample values and return what does not fit: operands, or its own kind.

        kind_of   name -> kind of its values; names must be known, None is taken as `any`
        want      what the expression must yield
        Types only: there is no syntax tree, so it is run with small, large and negative samples.
        """
        kinds: dict[str, Kind] = {name: kind_of(name) or "any" for name in self.names}
        never = list(_never_equal(scan(self.text), kinds))
        if never:
            return never
        failures: list[Exception] = []
        yields: set[Kind] = set()
        for samples in _samples(kinds):
            try:
                yields.add(_kind(self._program.execute(samples)))
            except (TypeError, RuntimeError, LookupError, ValueError, ArithmeticError) as error:
                failures.append(error)
        free = any(kind == "any" for kind in kinds.values())
        if failures and not (free and yields):
            return [Slip(0, *self._misfit(kinds, failures[0]))]
        if want != "any" and want not in yields and "any" not in yields:
            got = "/".join(sorted(yields))
            remedy = ""
            if want == "truth" and len(self.names) == 1 and self.text.strip() in self.names:
                remedy = f"write `{self.text.strip()} > 0.5`" if got == "number" else ""
            elif want == "truth":
                remedy = "compare it with something"
            return [Slip(0, f"it yields a {got} where a {want} is needed", remedy)]
        return []

    def _misfit(self, kinds: Mapping[str, Kind], error: Exception) -> tuple[str, str]:
        texts = sorted(name for name, kind in kinds.items() if kind == "text")
        numbers = sorted(name for name, kind in kinds.items() if kind == "number")
        if texts:
            said = f"{', '.join(texts)} {'is' if len(texts) == 1 else 'are'} text"
            return f"its parts do not go together: {said}", "compare text with 'text' in quotes"
        if numbers:
            said = f"{', '.join(numbers)} {'is a number' if len(numbers) == 1 else 'are numbers'}"
            return (
                f"its parts do not go together: {said}",
                "compare numbers with numbers (`a > 0.5`), and join only comparisons by && || !",
            )
        return f"it can not be computed: {str(error).split('.')[0].lower()}", ""


def _never_equal(tokens: Sequence[Token], kinds: Mapping[str, Kind]) -> Iterator[Slip]:
    """Find `number == 'text'` and the like: CEL calls it false without a word, so it would never fire."""

    def kind(token: Token) -> Kind:
        if token.kind == "name":
            return "truth" if token.text in {"true", "false"} else kinds.get(token.text, "any")
        return "text" if token.kind == "text" else "number" if token.kind == "number" else "any"

    for left, op, right in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if op.text in {"==", "!="}:
            a, b = kind(left), kind(right)
            if "any" not in {a, b} and a != b:
                problem = f"`{left.text}` is a {a} and `{right.text}` a {b}: they are never equal"
                remedy = f"write `{left.text} > 0.5`" if {a, b} == {"number", "truth"} else ""
                yield Slip(left.at, problem, remedy)


_SAMPLE: Final[Mapping[Kind, tuple[Any, ...]]] = {
    "number": (1.5, -1e9, 1e9),
    "truth": (True, False, True),
    "text": ("text", "", "~"),
}


def _samples(kinds: Mapping[str, Kind]) -> Iterator[dict[str, Any]]:
    free = [name for name, kind in kinds.items() if kind == "any"]
    stands_for: tuple[Kind, ...] = ("number", "text", "truth") if free else ("number",)
    for kind in stands_for:
        for i in range(3):
            context: dict[str, Any] = {}
            for name, own in kinds.items():
                here = context
                *path, last = name.split(".")
                for part in path:
                    here = here.setdefault(part, {})
                here[last] = _SAMPLE[kind if own == "any" else own][i]
            yield context


def _kind(value: Any) -> Kind:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "any"


def _enter(value: Any) -> Any:
    """Let numbers in as float; None for what is withheld."""
    if value is None or value is UNKNOWN or isinstance(value, bool | str):
        return None if value is UNKNOWN else value
    if isinstance(value, int | float):
        number = float(value)
        return None if math.isnan(number) else number
    if isinstance(value, Mapping):
        return {str(k): _enter(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [_enter(v) for v in value]
    item = getattr(value, "item", None)  # a numpy scalar
    return _enter(item()) if callable(item) else str(value)


def _leave(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return UNKNOWN
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@lru_cache(maxsize=_MOST_KEPT)
def parse(text: str) -> Expression:
    """Return the compiled expression, once a text; raises ConfigError."""
    return Expression(text)


# ---------------------------------------------------------------- ${...} in texts


def pieces(text: str) -> list[tuple[bool, str]]:
    """Split a text into (is an expression, words); `$${` stands for `${` itself. Raises ConfigError when open."""
    out: list[tuple[bool, str]] = []
    words, i = "", 0
    while i < len(text):
        if text.startswith("$${", i):
            words += "${"
            i += 3
        elif text.startswith("${", i):
            end = _end(text, i + 2)
            if end < 0:
                raise ConfigError(
                    [Fault("<expression>", 1, i + 1, f"`{text}`: `${{` is never closed", "add `}`")]
                )
            if words:
                out.append((False, words))
                words = ""
            out.append((True, text[i + 2 : end].strip()))
            i = end + 1
        else:
            words += text[i]
            i += 1
    if words or not out:
        out.append((False, words))
    return out


def _end(text: str, start: int) -> int:
    """Return where the expression that starts here is closed; a brace in quotes does not count."""
    quote = ""
    i = start
    while i < len(text):
        if quote:
            if text[i] == "\\":
                i += 1
            elif text[i] == quote:
                quote = ""
        elif text[i] in "'\"":
            quote = text[i]
        elif text[i] == "}":
            return i
        i += 1
    return -1


def expressions(data: Any) -> Iterator[tuple[tuple[str | int, ...], Expression]]:
    """Yield every `${}` inside nested dicts and lists with its path; raises ConfigError for one that is not sound."""
    if isinstance(data, str):
        for is_expression, words in pieces(data):
            if is_expression:
                yield (), parse(words)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from (((key, *path), found) for path, found in expressions(value))
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            yield from (((i, *path), found) for path, found in expressions(value))


def interpolate(data: Any, lookup: Lookup, *, keep: bool = False) -> Any:
    """Fill `${}` in a text, or in all texts of nested dicts and lists.

    A text that is one `${}` and nothing else keeps the type of its value; else values are written as people
    write them. What is unknown makes the whole UNKNOWN.

    keep   fill what is known and leave the other `${}` to be filled later: the answer is such a text again, so a
           value that happens to hold `${` is escaped and never read as an expression
    """
    if isinstance(data, str):
        return _fill_some(data, lookup) if keep else _fill(data, lookup)
    if isinstance(data, Mapping):
        mapped = {key: interpolate(value, lookup, keep=keep) for key, value in data.items()}
        return UNKNOWN if any(v is UNKNOWN for v in mapped.values()) else mapped
    if isinstance(data, list | tuple):
        listed = [interpolate(value, lookup, keep=keep) for value in data]
        return UNKNOWN if any(v is UNKNOWN for v in listed) else listed
    return data


def _fill(text: str, lookup: Lookup) -> Any:
    if "${" not in text:
        return text
    parts = pieces(text)
    if len(parts) == 1 and parts[0][0]:
        return parse(parts[0][1]).evaluate(lookup)
    out = ""
    for is_expression, words in parts:
        value = parse(words).evaluate(lookup) if is_expression else words
        if value is UNKNOWN:
            return UNKNOWN
        out += say(value)
    return out


def _fill_some(text: str, lookup: Lookup) -> Any:
    if "${" not in text:
        return text
    parts = pieces(text)
    out = words = ""
    for is_expression, part in parts:
        value = parse(part).evaluate(lookup) if is_expression else part
        if value is UNKNOWN:
            out += f"{_literally(words, before_open=True)}${{{part}}}"
            words = ""
        elif len(parts) == 1 and not isinstance(value, str):
            return value
        else:
            words += say(value)
    return out + _literally(words)


def _literally(words: str, *, before_open: bool = False) -> str:
    """Write words so that `pieces` gives them back; a `$` at their end must not join the `${` that follows."""
    rest = words.rstrip("$") if before_open else words
    dollars = words[len(rest) :]
    return rest.replace("${", "$${") + (f"${{'{dollars}'}}" if dollars else "")


def say(value: Any) -> str:
    """Write a value into a text: `3`, not `3.0`; `true`, not `True`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.6g}"
    return str(value)
