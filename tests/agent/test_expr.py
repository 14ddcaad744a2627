import math
import random

import cel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.expr import UNKNOWN, Expression, expressions, interpolate, lint, parse, pieces, say

NAN = float("nan")


def of(text, **known):
    return parse(text).evaluate(lambda name: known.get(name.replace(".", "_")))


# ---------------------------------------------------------------- the engine's traps, as they are


def test_traps_of_the_engine_are_still_there():
    """If one of these changes, the rules above it may be loosened."""
    with pytest.raises(TypeError):
        cel.evaluate("2.0 * 2")
    with pytest.raises(ValueError, match="parse"):
        cel.compile("a < 10%")
    with pytest.raises(TypeError):
        cel.evaluate("a < 1.0", {"a": NAN})
    assert cel.evaluate("a != 1.0", {"a": NAN}) is True
    assert cel.evaluate("a / 0.0 > 1.0", {"a": 1.0}) is True
    assert cel.evaluate("a == 'text'", {"a": 1.0}) is False
    with pytest.raises(RuntimeError):
        cel.evaluate("a > 1.0", {})
    with pytest.raises(KeyError):
        cel.evaluate("a.b > 1.0", {"a": {}})


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "known", "value"),
    [
        ("a * 2.0", {"a": 2}, 4.0),
        ("a.b.c < 0.5", {"a_b_c": 0.4}, True),
        ("a > 1.0 && b > 1.0", {"a": 2, "b": 0}, False),
        ("a ? 1.0 : 2.0", {"a": False}, 2.0),
        ("x.startsWith('ab')", {"x": "abc"}, True),
        ("x in ['a', 'b']", {"x": "b"}, True),
        ("x + '-' + string(n)", {"x": "v", "n": 3}, "v-3"),
        ("size(x)", {"x": "abc"}, 3.0),
        ("-a + 1e1", {"a": 3}, 7.0),
        ("a == true", {"a": True}, True),
        ("a", {"a": np.float64(1.5)}, 1.5),
        ("a", {"a": np.int64(2)}, 2.0),
        ("a", {"a": ("x", "y")}, ["x", "y"]),
        ("double(x) * 2.0", {"x": "1.5"}, 3.0),
    ],
)
def test_values(text, known, value):
    found = of(text, **known)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("missing", [None, NAN, UNKNOWN, np.nan])
@pytest.mark.parametrize(
    "text",
    ["a", "a > 1.0", "!(a > 1.0)", "a != 1.0", "a == a", "a + 1.0 > 0.0", "a in [1.0]", "-a < 0.0"],
)
def test_what_is_missing_is_unknown_and_never_false(text, missing):
    assert of(text, a=missing) is UNKNOWN


def test_logic_has_three_values():
    assert of("a > 1.0 || b > 1.0", a=2) is True
    assert of("b > 1.0 || a > 1.0", a=2) is True
    assert of("a > 1.0 && b > 1.0", a=0) is False
    assert of("a > 1.0 && b > 1.0", a=2) is UNKNOWN
    assert of("a > 1.0 || b > 1.0", a=0) is UNKNOWN
    assert of("a > 1.0 ? 1.0 : b", a=2) == 1.0


def test_what_can_not_be_computed_is_unknown():
    assert of("a / b > 1.0", a=1, b=0) is UNKNOWN
    assert of("a / b > 1.0", a=1, b=-0.0) is UNKNOWN
    assert of("a / b", a=6, b=2) == 3.0
    assert of("a * a", a=1e300) is UNKNOWN
    assert of("a > 1.0", a="text") is UNKNOWN
    assert of("double(a) > 1.0", a="text") is UNKNOWN


def test_unknown_can_not_be_taken_for_false():
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(UNKNOWN)
    assert repr(UNKNOWN) == "UNKNOWN"


def test_test_says_true_false_or_none():
    assert parse("a > 1.0").test({"a": 2.0}.get) is True
    assert parse("a > 1.0").test({}.get) is None
    assert parse("a").test({"a": 2.0}.get) is None


def test_only_the_names_that_are_used_are_asked_for():
    asked = []
    expression = Expression(
        "gpu.clock_ratio < 0.9 && target.command.startsWith('py') && size(x) > 1.0"
    )
    expression.evaluate(asked.append)
    assert set(asked) == expression.names == {"gpu.clock_ratio", "target.command", "x"}


def test_an_expression_is_compiled_once_and_compares_by_text():
    assert parse("a > 1.0") is parse("a > 1.0")
    assert Expression("a > 1.0") == Expression("a > 1.0") != Expression("a > 2.0")
    assert len({Expression("a"), Expression("a")}) == 1


# ---------------------------------------------------------------- lint


@pytest.mark.parametrize(
    ("text", "at", "says", "remedy"),
    [
        ("", 0, "is empty", "write a comparison"),
        ("a > 2", 4, "`2` has no point", "write 2.0"),
        ("size(x) == 2", 11, "`2` has no point", "write 2.0"),
        ("a <= 10%", 5, "`10%` is not a number here", "write 0.1"),
        ("a < 250ms", 4, "`250ms`", "write 0.25"),
        ("a < 1h30m", 4, "`1h30m`", "write 5400.0"),
        ("a > 2GB", 4, "`2GB`", "write 2000000000.0"),
        ("a > 5 parsecs", 4, "`5` has no point", "write 5.0"),
        ("a = 1.0", 2, "`=` is not", "write `==`"),
        ("a and b", 2, "`and` is not", "write `&&`"),
        ("not a", 0, "`not` is not", "write `!`"),
        ("a == True", 5, "`True`", "write `true`"),
        ("a == null", 5, "`null`", "unknown by itself"),
        ("a % 2.0 == 0.0", 2, "`%`", "0.1"),
        ("a > 1.0; b", 7, "`;`", "one expression"),
        ("a[0]", 1, "indexing", "dotted name"),
        ("x.starts('y')", 0, "no function is called `starts`", "did you mean `startsWith`?"),
        ("a.exists(x, x > 1.0)", 0, "no function is called `exists`", "known:"),
        ("has(a.b)", 0, "no function is called `has`", "known:"),
        ("a / (b + c)", 2, "may follow `/`", "multiply"),
        ("a / 0.0", 2, "other than zero", "multiply"),
        ("(a > 1.0", 8, "never closed", "add `)`"),
        ("a >", 3, "stops too early", "finish"),
        ("a b", 2, "`b` was not expected", ""),
        ("'open", 0, "`'`", "close the quote"),
        ("r'x' == a", 1, "prefixed", "write 'text'"),
        ("0x10 > a", 0, "`0x`", ""),
        ("package > 1.0", 0, "reserved word", "rename"),
        ("a > 1.0 && a.b > 1.0", 0, "`a` is used as a value and as the beginning", ""),
        ("a\u00a0> 1.0", 1, "can not be seen (U+00A0)", "delete it"),
        ("a.\u200bb > 1.0", 2, "can not be seen (U+200B)", "delete it"),
        ("a == \u2018x\u2019", 5, "`\u2018` is not", "straight quotes"),
        ("a \u2264 1.0", 2, "`\u2264` is not", "write `<=`"),
        ("a \u2013 1.0 > b", 2, "`\u2013` is not", "write `-`"),
        ("'a'.size().x", 9, "nothing can be read from a result", "dotted name"),
    ],
)  # fmt: skip
def test_lint_says_where_what_and_what_to_do(text, at, says, remedy):
    slips = lint(text)
    assert any(s.at == at and says in s.problem and remedy in s.remedy for s in slips), slips
    with pytest.raises(ConfigError):
        Expression(text)


def test_all_slips_are_told_at_once():
    assert len(lint("a > 2 and b < 10%")) == 3


@settings(deadline=None, max_examples=400)
@given(st.text(alphabet="ab.c 012.5e%&|!<>=+-*/?:()[]{},'\"$\\\nmsin\ud800é\x00", max_size=30))
def test_lint_takes_any_text(text):
    slips = lint(text)
    if not slips:
        value = Expression(text).evaluate(lambda _: 1.5)
        assert value is UNKNOWN or isinstance(value, bool | float | str | list | bytes)


def test_mutated_expressions_never_raise_anything_else():
    random.seed(7)
    good = "service.latency_p95_seconds <= baseline.service.latency_p95_seconds * 1.1 && !(a.b in ['x', 'y'])"
    for _ in range(2000):
        text = list(good)
        for _ in range(random.randint(1, 5)):
            text[random.randrange(len(text))] = random.choice("ab.c 012%&|!<>=+-*/?:()[],'\"")
        if not lint("".join(text)):
            Expression("".join(text)).evaluate(lambda _: random.choice([None, 1.0, "x", True]))


# ---------------------------------------------------------------- types


KINDS = {"n": "number", "m": "number", "t": "text", "b": "truth", "any": "any"}.get


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n", "yields a number where a truth is needed"),
        ("n + m", "yields a number where a truth is needed"),
        ("n && m > 1.0", "m, n are numbers"),
        ("n ? true : false", "n is a number"),
        ("t > 1.0", "t is text"),
        ("t + n > 1.0", "t is text"),
        ("0.1 < n < 0.2", "n is a number"),
        ("n == 'high'", "`n` is a number and `'high'` a text: they are never equal"),
        ("n == true", "never equal"),
        ("t != 1.0", "never equal"),
        ("n.startsWith('x')", "n is a number"),
    ],
)
def test_types_are_checked_on_samples(text, says):
    slips = parse(text).check(KINDS, "truth")
    assert says in slips[0].problem


@pytest.mark.parametrize(
    "text",
    ["n > m * 2.0", "b", "!b && n < 1.0", "t == 'x' || t.startsWith('y')", "any", "any > 1.0", "any == 'x'",
     "any.startsWith('x')", "n in [1.0, 2.0]", "b == true", "(n > 1.0) == b"],
)  # fmt: skip
def test_sound_types_pass(text):
    assert parse(text).check(KINDS, "truth") == []


def test_a_bare_state_signal_gets_its_remedy():
    (slip,) = parse("n").check(KINDS, "truth")
    assert slip.remedy == "write `n > 0.5`"


# ---------------------------------------------------------------- texts


def test_a_whole_scalar_keeps_its_type():
    known = {"n": 3, "t": "x", "b": True, "l": ["a"]}.get
    assert interpolate("${n}", known) == 3.0
    assert interpolate("${ n + 1.5 }", known) == 4.5
    assert interpolate("${b}", known) is True
    assert interpolate("${l}", known) == ["a"]
    assert interpolate("at ${n} for ${t}, ${b}: ${n * 0.1}", known) == "at 3 for x, true: 0.3"
    assert interpolate("plain", known) == "plain"
    assert interpolate(5, known) == 5


def test_unknown_makes_the_whole_unknown_or_is_kept_for_later():
    known = {"n": 3}.get
    data = {"a": "${n}", "b": ["${steps.x.v}", 1]}
    assert interpolate(data, known) is UNKNOWN
    assert interpolate("about ${steps.x.v}", known) is UNKNOWN
    assert interpolate(data, known, keep=True) == {"a": 3.0, "b": ["${steps.x.v}", 1]}
    assert interpolate("${n}: ${ verdict.summary }", known, keep=True) == "3: ${verdict.summary}"


@settings(deadline=None)
@given(st.text(alphabet="${}ab' ", max_size=12))
def test_what_is_filled_is_never_read_as_an_expression(value):
    known = {"v": value, "w": "later"}.get
    for text in ("${v}", "a ${v} b", "${v}${w}", "$${v} ${v}"):
        soon = interpolate(text, lambda name: value if name == "v" else None, keep=True)
        assert interpolate(soon, known) == interpolate(text, known)


def test_braces_in_quotes_and_escapes():
    assert pieces("a ${x == '}'} b $${y}") == [
        (False, "a "),
        (True, "x == '}'"),
        (False, " b ${y}"),
    ]
    assert interpolate("${'a}b' + \"}\"}", {}.get) == "a}b}"
    assert pieces("") == [(False, "")]
    with pytest.raises(ConfigError, match="never closed"):
        pieces("a ${b")


def test_expressions_are_found_with_their_path():
    found = list(expressions({"a": ["x", "${b.c} and ${d}"], "e": 1}))
    assert [(path, e.text) for path, e in found] == [(("a", 1), "b.c"), (("a", 1), "d")]


@settings(deadline=None)
@given(st.text(max_size=20).filter(lambda t: "${" not in t))
def test_texts_without_expressions_are_left_alone(text):
    assert interpolate(text, {}.get) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (0.1 + 0.2, "0.3"),
        (1e18, "1e+18"),
        (True, "true"),
        (-2.5, "-2.5"),
        (math.inf, "inf"),
        ("x", "x"),
    ],
)
def test_values_are_written_as_people_do(value, text):
    assert say(value) == text
