"""Two scanners, one reading: whichever of them reads a text, the document and its faults are the same."""

import random
from importlib.resources import files

import pytest

from agent.strict import reading

LIBRARY = sorted(p.read_text() for p in files("playbooks").iterdir() if p.name.endswith(".yaml"))
TRAPS = (
    "a: {b: c?d, e: 1}", "a: [x?]", "? a\n: b", "a: !!int 3", "a: {from: !m, to: 3}", "a:\tb",
    "a: b\r\nc: d", "a: \u2028b", "a: &x 1\nb: *x", "a: &x [*x]", "<<: {a: 1}", "a: 1\na: 2",
    "a: {b: 1", "a: 'b", "- a\n- b", "a: |\n  b\n   c\n", "a: >-\n  b\n  c", 'a: "\\u00e9\\x41"',
    'a: "\\q"', "a: b: c", "a:\n  - b\n c: d", "---\na: 1\n---\nb: 2", "%YAML 1.2\n---\na: 1",
    "a: yes", "a: 007", "{a: 1, b: [c, {d: e}]}", 'a: {b: c:d, e: "f":g}', "a: é µ ∞", "", "#", "a",
    "a: @b", "a: `b`", "a: %b", "a: *b", "a: - b", "a: |#x\n  b", "a: >-2#\n  b", "a: ?", "a: ?b", "a?: b", "?a: b",
    "a: '? b'", "a: {b: '? c', ?d: 1}", "a: {b: 'c', d?: 1}", "a: [b ?c]", "[? a : b]", "a: &x ?b", "- &x? b",
    "a: b ? c : d", "a: b?\n  c? d", "a: |\n  x? y\n", "a: b # c?\n", "a: {b: c # d?\n}", "a: 'é? µ'\nb: {c: d?}",
)  # fmt: skip


def both(text, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_QUICK", None)
        slow = reading.read(text)
    return reading.read(text), slow


@pytest.mark.skipif(reading._QUICK is None, reason="this PyYAML has no libyaml")
def test_the_library_reads_the_same(monkeypatch):
    assert len(LIBRARY) > 40
    for text in LIBRARY:
        quick, slow = both(text, monkeypatch)
        assert quick == slow
        assert not quick.faults


@pytest.mark.skipif(reading._QUICK is None, reason="this PyYAML has no libyaml")
def test_what_people_are_asked_is_read_by_the_quick_one(monkeypatch):
    monkeypatch.setattr(reading.yaml, "SafeLoader", None)
    questions = [text for text in LIBRARY if "?" in text]
    assert len(questions) > 2
    for text in questions:
        assert reading.read(text).data
    assert reading.read("a: what? ever\nb: {c: 'who?', d: [\"why?\"]}\ne: >-\n  where?\n").data


@pytest.mark.parametrize("text", TRAPS)
def test_traps_read_the_same(text, monkeypatch):
    quick, slow = both(text, monkeypatch)
    assert quick == slow


def test_damaged_texts_read_the_same(monkeypatch):
    rng = random.Random(20261130)
    signs = ":-{}[],'\"#&*!|>% \n\t?~@`\\abc01.=µ\r\x85\u2028"
    faulty = 0
    for _ in range(600):
        text = list(rng.choice(LIBRARY)[: rng.randrange(200, 1500)])
        for _ in range(rng.randrange(1, 5)):
            k = rng.randrange(len(text))
            text[k : k + rng.randrange(2)] = rng.choice(signs)
        quick, slow = both("".join(text), monkeypatch)
        assert quick == slow, "".join(text)
        faulty += bool(quick.faults)
    assert 100 < faulty < 600  # some are still sound
