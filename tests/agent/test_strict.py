import random
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, field_validator

from agent.config import Config, Service, Team
from agent.errors import ConfigError
from agent.secret import Headers, Reference
from agent.strict import MAX_BYTES, MAX_DEPTH, check, did_you_mean, examine, read
from agent.units import Duration, Model


class Wheel(Model):
    size: Annotated[int, Field(ge=1, le=99)]
    hard: bool = False


class Cart(Model):
    """Something with every shape that YAML has."""

    name: str = "cart"
    kind: Literal["hand", "horse"] = "hand"
    when: str = ""
    wait: Duration = 1.0
    wheels: list[Wheel] = []
    parts: dict[str, float] = {}
    load: Wheel | str | None = None
    token: str = ""

    @field_validator("name")
    @classmethod
    def _short(cls, name):
        if len(name) > 20:
            raise ValueError("the name is too long; take at most 20 letters")
        return name


def faults(text, model=Cart):
    with pytest.raises(ConfigError) as caught:
        check(model, read(text, "cart.yaml"))
    return [str(f) for f in caught.value.faults]


def data(text):
    document = read(text)
    assert not document.faults, document.faults
    return document.data


# ---------------------------------------------------------------- scalars


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False),
        ("12", 12), ("-3", -3), ("+3", 3), ("0", 0), ("0o17", 15), ("0x1F", 31), ("1.10", 1.1), (".5", 0.5),
        ("1e3", 1000.0), ("-.inf", float("-inf")), ("12:30:00", "12:30:00"), ("1_000", "1_000"),
        ("0b11", "0b11"), ("2024-01-01", "2024-01-01"), ("'1.10'", "1.10"), ('"true"', "true"),
        ("'on'", "on"), ("text with # no comment", "text with"), ("=", "="), ("y", "y"), ("10%", "10%"),
        ("'null'", "null"), ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(written, value):
    found = data(f"a: {written}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number():
    assert data("a: .nan")["a"] != data("a: .nan")["a"]


@pytest.mark.parametrize("word", ["yes", "No", "on", "OFF", "off"])
def test_words_that_others_read_as_truth_are_refused(word):
    (fault,) = read(f"a: {word}", "f").faults
    assert f"`{word}` is" in fault.problem
    assert f"'{word}' in quotes" in fault.remedy
    assert (fault.line, fault.column) == (1, 4)


def test_a_leading_zero_is_refused():
    (fault,) = read("mode: 0644").faults
    assert "0o644" in fault.remedy
    assert "'0644'" in fault.remedy


def test_keys_are_always_text():
    assert data("1.10: a\ntrue: b\n'on': c") == {"1.10": "a", "true": "b", "on": "c"}


def test_endless_digits_are_text_and_no_error():
    assert data("a: " + "9" * 5000)["a"] == "9" * 5000


# ---------------------------------------------------------------- shape of the file


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    for text in ("", "\n\n", "# only words\n", "---\n", "\ufeff"):
        assert data(text) == {}
    path = tmp_path / "agent.yaml"
    path.write_bytes(b"")
    assert check(Config, read(path)) == Config()


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "`a` is written twice, first at line 1, column 1; keep one"),
        ("x: {a: 1, a: 2}", 1, 11, "`a` is written twice, first at line 1, column 5"),
        ("- 1", 1, 1, "is not a mapping"),
        ("words", 1, 1, "is not a mapping"),
        ("a: 1\n---\nb: 2", 2, 1, "a second document starts here"),
        ("a:\n\tb: 1", 2, 1, "a tab stands where spaces must; indent with spaces"),
        ("a: b: c", 1, 5, "quote the text"),
        ("a: [1, 2", 1, 9, "a bracket was opened and never closed"),
        ("a: 'x", 1, 6, "a quote was opened and never closed"),
        ("a: @x", 1, 4, "can not start a value"),
        ("a: !!python/object:os.system {}", 1, 4, "tags are not read"),
        ("a: !secret x", 1, 4, "tags are not read"),
        ("? [a]\n: b", 1, 3, "this key is not a word"),
        ("~: b", 1, 1, "a key is missing"),
        ("a: &x {b: 1}\nc:\n  <<: *x", 3, 3, "merge keys"),
        ("a: *x", 1, 4, "no anchor &x above"),
        ("a: &x [*x]", 1, 8, "*x contains itself"),
        ("a: \x07", 1, 4, "U+0007"),
        ('a: "\\ud800"', 1, 4, "lone surrogate"),
        ("a:\u00a0x\nb: 1", 1, 3, "character U+00A0 looks like a space, or like nothing; write a space"),
        ("a: x\nb:\u200b [1]\nc: 2", 2, 3, "character U+200B looks like a space"),
        ("a: 'x\nb: 1\nc: 'y'\n", 1, 4, "this quote is closed only at line 3, column 4; close it where"),
        ("a: 'x\u00a0y'\nb: c: d", 2, 5, "quote the text"),
    ],
)  # fmt: skip
def test_faults_of_yaml_say_where_and_what_to_do(text, line, column, says):
    found = read(text, "f.yaml").faults
    assert any(says in str(f) and (f.line, f.column) == (line, column) for f in found), found
    with pytest.raises(ConfigError):
        check(Config, read(text))


def test_bytes_that_are_not_utf_8_are_told_by_place():
    (fault,) = read(b"a: 1\nb: \xff\n", "f").faults
    assert (fault.line, fault.column) == (2, 4)
    assert "0xff is not UTF-8" in fault.problem


def test_an_alias_is_read_where_it_stands():
    document = read("a: &x {b: 7}\nc: *x\n")
    assert document.data == {"a": {"b": 7}, "c": {"b": 7}}
    assert document.where(("c", "b")) == (1, 11)


def test_a_bomb_of_aliases_is_defused_quickly():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    begun = time.perf_counter()
    document = read("\n".join(lines))
    assert time.perf_counter() - begun < 5
    assert document.broken
    assert "aliases counted" in str(document.faults[-1])


def test_depth_is_bounded():
    assert not read("a: " + "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)).faults
    (fault,) = read("a: " + "[" * 100_000).faults
    assert "nested deeper" in fault.problem


def test_size_is_bounded():
    (fault,) = read("#" * (MAX_BYTES + 1)).faults
    assert "larger than 256 KiB" in fault.problem


def test_what_can_not_be_read_is_a_fault(tmp_path):
    assert "no such file" in str(read(tmp_path / "none.yaml").faults[0])
    assert "not a plain file" in str(read(Path("/dev/zero")).faults[0])
    assert "not a plain file" in str(read(tmp_path).faults[0])


def test_where_falls_back_to_the_nearest_parent():
    document = read("a:\n  b: {c: 1}\n")
    assert document.where(("a", "b", "c")) == (2, 10)
    assert document.where(("a", "b", "c"), key=True) == (2, 7)
    assert document.where(("a", "b", "nothing", 3)) == (2, 6)
    assert read("").where(("a",)) == (0, 0)


# ---------------------------------------------------------------- against a model


def test_all_faults_are_told_at_once_in_order_of_place():
    found = faults(
        "nmae: x\nkind: hoarse\nwait: 5 parsecs\nwheels:\n- {size: 0}\n- {sise: 3}\nparts: {a: no}\n"
        "name: a\nname: b\n"
    )
    assert found == [
        "cart.yaml:1:1: unknown key `nmae`; did you mean `name`?",
        "cart.yaml:2:7: `kind`: `hoarse` is not one of hand, horse; did you mean `horse`?",
        "cart.yaml:3:7: `wait`: unknown unit 'parsecs', known: ms, s, m, h, d, w",
        "cart.yaml:5:10: `size`: `0` is out of bounds: at least 1",
        "cart.yaml:6:3: `size` is missing; add `size: ...`",
        "cart.yaml:6:4: unknown key `sise`; did you mean `size`?",
        "cart.yaml:7:12: `no` is false to some readers of YAML and text to others; write false, or 'no' in quotes",
        "cart.yaml:9:1: `name` is written twice, first at line 8, column 1; keep one of them",
    ]  # fmt: skip


def test_the_key_on_has_a_remedy_of_its_own():
    (found,) = faults("on: x")
    assert "unknown key `on`; write `when:`" in found
    assert "unknown key `on`" in faults("on: x", Config)[0]
    assert "when" not in faults("on: x", Config)[0]


def test_a_number_where_text_belongs_keeps_what_was_written():
    assert faults("name: 1.10") == [
        "cart.yaml:1:7: `name`: `1.10` is not text; put it in quotes: '1.10'"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("wheels: [{size: 1, hard: 'no'}]", "1:26: `no` is not true or false"),
        ("wheels: [{size: 1, hard: 1}]", "1:26: `1` is not true or false"),
        ("wheels: [{size: true}]", "1:17: `true` is not a number"),
        ("parts: {a: true}", "1:12: `true` is not a number"),
        ("wait: false", "1:7: `false` is not a number"),
    ],
)
def test_truth_is_never_taken_for_a_number_nor_text_for_truth(text, says):
    assert says in faults(text)[0]


def test_of_a_union_only_the_arm_that_was_meant_is_told():
    assert faults("load: {size: 200}") == [
        "cart.yaml:1:14: `size`: `200` is out of bounds: at most 99"
    ]
    assert faults("load: {sise: 2}") == [
        "cart.yaml:1:7: `size` is missing; add `size: ...`",
        "cart.yaml:1:8: unknown key `sise`; did you mean `size`?",
    ]


def test_validators_can_say_problem_and_remedy():
    assert faults("name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") == [
        "cart.yaml:1:7: `name`: the name is too long; take at most 20 letters"
    ]


def test_shapes_are_named():
    found = faults("wheels: {a: 1}\nparts: [1]\nname: [x]\nwait: [1]")
    assert "`wheels`: a mapping is not a list; write `- one` lines" in found[0]
    assert "`parts`: a list is not a mapping" in found[1]
    assert "`name`: a list is not text" in found[2]


def test_secrets_are_not_shown():
    (found,) = faults("token: 1234567")
    assert "1234567" not in found
    assert "not text" in found
    (found,) = faults("size: http://u:s3cr3t@h/", Wheel)
    assert "s3cr3t" not in found


class Way(Model):
    hook: Annotated[Reference, Field(min_length=1)] = "env:HOOK"
    other: Reference | None = None
    headers: Headers = {}
    password: str = ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hook: hunter", "`hook`: a secret is not written here; write `env:NAME` or `file:/PATH`"),
        ("other: hunter", "`other`: a secret is not written here"),
        ("headers: {x-auth: hunter}", "x-auth is a secret: write `env:NAME`"),
        ("headers: {x: [hunter]}", "what is written is not text"),
        ("pasword: hunter", "unknown key `pasword`; did you mean `password`?"),
    ],
)
def test_what_a_model_calls_a_secret_is_not_shown_whatever_its_name(text, words):
    with pytest.raises(ConfigError) as caught:
        check(Way, read(text, "way.yaml"))
    (fault,) = caught.value.faults
    assert words in str(fault)
    assert "hunter" not in f"{fault} {fault.caret()}"


def test_a_broken_file_is_not_blamed_for_what_is_missing():
    assert len(faults("owner: x\nservices: [", Team)) == 1
    assert len(faults("x: [", Service)) == 1


def test_part_of_a_document_is_told_at_its_own_place():
    document = read("connectors:\n  cart: {use: x, size: 0}\n", "f")
    wheel, found = examine(Wheel, document, ("connectors", "cart"), {"size": 0})
    assert wheel is None
    assert [str(f) for f in found] == ["f:2:24: `size`: `0` is out of bounds: at least 1"]


def test_did_you_mean_names_the_near_ones_or_the_few():
    assert did_you_mean("latncy", ["latency", "errors"]) == "did you mean `latency`?"
    assert did_you_mean("xyz", ["a", "b"]) == "known: a, b"
    assert did_you_mean("xyz", [str(i) for i in range(99)]) == ""
    assert "`host.cpu_busy_ratio`" in did_you_mean("cpu_busy_ratio", ["host.cpu_busy_ratio", "b"])


# ---------------------------------------------------------------- nothing else is ever raised

SEED = (
    Path(__file__).read_bytes()[:400]
    + b"""
mode: auto
manages: [{kind: process, where: {command: '*burn*'}}]
services:
  - &s {id: churn, owner: "team", port: 8080, models: [churn], objectives: [
      {signal: service.latency_p95_seconds, max: 250ms, for: 30s}]}
connectors: {page: {command: [cat]}, x: |
   text
  }
? k
: !!str v
"""
)


def survives(raw):
    for model in (Config, Team, Cart):
        told = ()
        try:
            check(model, read(raw, "fuzz"))
        except ConfigError as error:
            told = error.faults or pytest.fail("a refusal without a reason")
        for fault in told:
            assert fault.problem
            assert str(fault).startswith("fuzz")
            str(fault).encode()


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_told(raw):
    survives(raw)


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=" \n\t-:?[]{}&*!|>'\"%@`#,.<=~0189abyesnotrufl\\x\x00\ud800é", max_size=80))
def test_any_text_is_read_or_told(text):
    survives(text)


def test_mutated_files_are_read_or_told():
    random.seed(20)
    for _ in range(400):
        raw = bytearray(SEED)
        for _ in range(random.randint(1, 12)):
            at = random.randrange(len(raw))
            kind = random.random()
            if kind < 0.4:
                raw[at] = random.randrange(256)
            elif kind < 0.6:
                del raw[at : at + random.randint(1, 20)]
            elif kind < 0.8:
                raw[at:at] = random.choice(
                    [b"\t", b"{", b"[", b"&a ", b"*a ", b"'", b'"', b": ", b"\n- ", b"? "]
                )
            else:
                raw[at:at] = raw[random.randrange(len(raw)) :][:30]
        survives(bytes(raw))


keys = st.sampled_from([*Config.model_fields, *Service.model_fields, *Cart.model_fields, "on", "x"])
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(), st.text(max_size=8),
        st.sampled_from(["10%", "5m", "1GB", "auto", "host", "127.0.0.1:1"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(keys, values, max_size=4))
def test_any_shape_of_data_is_taken_or_told(shape):
    import json

    survives(json.dumps(shape))


# ---------------------------------------------------------------- pointing at it


def test_a_fault_shows_its_line_with_a_caret():
    document = read("a: 1\nlist: [one, 'b.c > 2']\n", "f.yaml")
    told = document.fault_in(("list", 1), "b.c > 2", 6, "`2` has no point")
    assert (told.line, told.column) == (2, 20)
    assert told.caret() == "list: [one, 'b.c > 2']\n                   ^"
    assert str(told) == "f.yaml:2:20: `2` has no point"


@pytest.mark.parametrize("written", ["a: >-\n  b.c\n  > 2", "a: 'it''s > 2'", 'a: "b.c \\x3e 2"'])
def test_what_was_folded_or_escaped_is_pointed_at_where_it_starts(written):
    document = read(written, "f.yaml")
    told = document.fault_in(("a",), document.data["a"], 6, "x")
    assert (told.line, told.column) == (1, 4)
    assert "^" in told.caret()


def test_a_long_line_is_cut_around_the_place_and_odd_signs_are_blanks():
    text = "a: '" + "x" * 500 + "\u00a0y" + "z" * 500 + "'\n"
    told = read(text, "f.yaml").fault_in(("a",), text[4:-2], 501, "x")
    line, caret = told.caret().split("\n")
    assert len(line) <= 100
    assert line[caret.index("^")] == "y"
    assert line[caret.index("^") - 1] == " "


@pytest.mark.parametrize(
    "line",
    [
        "token: [1]", "x: {api_key: s3cr3t, on: }", "password: yes", "url: [http://u:s3cr3t@h/]",
        "x: {routing_key: s3cr3t, on: }", "url: [https://h/services/T0/B0/aB3dE5gH7jK9]",
        "x: 0a1b2c3d4e5f6a7b8c9d", "x: a1B2c3-D4e5f6==",
    ],
)  # fmt: skip
def test_a_line_that_may_hold_a_secret_is_not_shown(line):
    document = read(f"{line}\n", "f.yaml")
    faults = [*document.faults, document.fault((line.partition(":")[0],), "wrong")]
    assert [f.caret() for f in faults] == [""] * len(faults)


@pytest.mark.parametrize(
    "line",
    ["signal: service.latency_p95_seconds", "from: 2026-12-24T18:00+01:00", "path: /srv/v2/model3"],
)
def test_names_paths_and_dates_are_shown(line):
    told = read(f"{line}\n", "f.yaml").fault((line.partition(":")[0],), "wrong")
    assert line in told.caret()


def test_a_very_long_quotation_is_cut():
    told = read("a: 1", "f.yaml").fault(("a",), "q" * 5000, "r" * 5000)
    assert len(str(told)) < 1000
