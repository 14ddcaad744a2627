"""Ten thousand ways to write a playbook wrong: each is told with its place or loads as meant; none crashes or acts.

Seeded. A shipped playbook is taken apart as a tree or as text, changed once to three times, and read as any file is.
What loads is then planned, explained, drawn and tried: all that may happen to it but being run.
"""

import copy
import math
import os
import random
import socket
import subprocess
from importlib import resources

import pytest
import yaml

from agent import registry
from agent.config import Config
from agent.model import Entity
from agent.playbook import explain, flow, template
from agent.playbook.examples import forecast, run
from agent.playbook.library import lay
from agent.strict import MAX_BYTES, read

registry.load()
SHIPPED = [f.read_text() for f in sorted(resources.files("playbooks").iterdir(), key=lambda f: f.name)
           if f.name.endswith(".yaml")]  # fmt: skip
MADE = [
    template.write("made", "hardware.gpu.thermal", "scale"),
    template.write("made", "serving", "notify"),
    template.write("made", "data.contract", "deploy_backup"),
]
BOOKS = SHIPPED + MADE

WORDS = (
    "no yes on off 1.10 12:30:00 0777 0x1F 1_000 .nan .inf -.inf ~ null 1e400 2026-11-29 true True TRUE -1 0 "
    "& &a *a *nobody % @ ` ' [ ] { } ${ ${} $${ ${title} ${steps.x.y} - # | > >- not None value target.id"
)
TRAPS = [
    *WORDS.split(),
    "!!python/object:os.system", "!!binary aGk=", "<<: *a", '"', "- ", "? ", ": ", "\t", "= 1", "9" * 400,
    "1s  " * 30 + "!", "é", "日本", "\U0001f600", "\u2028", "a.b > 2", "a.b > 2.0 &&", "((((", "value > 90%",
    "gpu.clock_ratio < 90.0", "x" * 3000,
    "gpu.clock_ratio > process.memory_bytes", "1.0 / 0.0", "baseline.",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 3, 1.5, math.inf, math.nan, "", "no", "on", "x", "10%", "110%", "5m", "5 parsecs", "-5m",
    "12:30:00", "${", "${cause.entity}", [], {}, [None], [[[]]], {"": ""}, {"a": {"b": ["c"]}}, "2026-11-29",
    "\ud7ff", "a\x00b", "gpu.clock_ratio > 0.5", "gpu.clock_ratio", "1.10", ["a", "a"], "x" * 500,
]  # fmt: skip
KEYS = [
    "on",
    "true",
    "id",
    "use",
    "with",
    "undo",
    "is",
    "for",
    "when",
    "do",
    "no",
    "<<",
    "feed",
    "until",
    "via",
    "é",
    "",
]


def bombs(rng, text):
    """Files that are made to hurt."""
    n = rng.randint(40, 3000)
    grow = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    deep = "(" * n + "host.load1_count" + ")" * n
    return rng.choice([
        lambda: "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *grow, text]),
        lambda: text + "\nx: " + "[" * n + "]" * n,
        lambda: text + "\nx: " + "{a: " * n + "1" + "}" * n,
        lambda: text + "\n" + "\n".join(" " * i + f"k{i}:" for i in range(min(n, 400))),
        lambda: text + "#" + "x" * (MAX_BYTES + rng.randint(-2000, 2000)),
        lambda: text + "\nunless:\n" + "".join(f"  - 'host.load1_count > {i}.0'\n" for i in range(n)),
        lambda: text.replace("when:", f"when: ['{deep} > 1.0']\nwhat:", 1),
        lambda: text + "\nowner: &o {x: *o}\n",
        lambda: "%YAML 1." + "9" * n + "\n---\n" + text,
        lambda: text + "\n---\n" + text,
        lambda: text.replace("id: ", "id: " + "a" * n, 1),
        lambda: text.replace("title: ", "title: '" + "${title}" * 60 + "' #", 1),
    ])()  # fmt: skip


def encodings(rng, text):
    """The same text in bytes that it should not have."""
    which = rng.randrange(9)
    if which == 0:
        return text.encode("utf-16")
    if which == 1:
        return text.replace("a", "ä").encode("latin-1", "replace")
    if which == 2:
        return b"\xef\xbb\xbf" + text.encode()
    raw = bytearray(text.encode())
    at = rng.randrange(len(raw))
    if which == 3:
        raw[at:at] = rng.choice(
            [b"\x00", b"\x07", b"\x1b[31m", b"\x7f", b"\xc2\x85", b"\xe2\x80\xa8", b"\xef\xbf\xbe"]
        )
    elif which == 4:
        raw[at] = rng.choice([0x80, 0xC0, 0xFF, 0xFE, 0xED])
    elif which == 5:
        return text.replace("\n", "\r\n").encode()
    elif which == 6:
        return text.replace("\n", "\r").encode()
    elif which == 7:
        raw[at:at] = b'"\\ud800"'
    else:
        return bytes(raw[:at])
    return bytes(raw)


def lines(rng, text):
    """Change the text as slips of a hand do."""
    rows = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(rows))
        what = rng.randrange(8)
        if what == 0:
            del rows[i]
        elif what == 1:
            rows.insert(i, rows[i])
        elif what == 2:
            rows[i] = " " * rng.randint(1, 3) + rows[i]
        elif what == 3:
            rows[i] = rows[i].lstrip()
        elif what == 4:
            j = rng.randrange(len(rows))
            rows[i], rows[j] = rows[j], rows[i]
        elif what == 5 and ": " in rows[i]:
            rows[i] = rows[i].partition(": ")[0] + ": " + rng.choice(TRAPS)
        elif what == 6 and ":" in rows[i]:
            head, _, tail = rows[i].partition(":")
            rows[i] = (
                rng.choice(KEYS) + ":" + tail if rng.random() < 0.5 else head[:-1] + ":" + tail
            )
        elif rows[i]:
            at = rng.randrange(len(rows[i]))
            rows[i] = rows[i][:at] + rng.choice(TRAPS) + rows[i][at + rng.randint(0, 4) :]
        rows = rows or [""]
    return "\n".join(rows)


def places(tree, here=()):
    yield here
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in inner:
        yield from places(value, (*here, key))


def branches(rng, text):
    """Change the tree: keys deleted, retyped, renamed, reordered; returns the tree that was meant, too."""
    tree = read(text).data
    for _ in range(rng.randint(1, 3)):
        found = [p for p in places(tree) if p]
        if not found:
            break
        path = rng.choice(found)
        parent = tree
        for part in path[:-1]:
            parent = parent[part]
        what = rng.randrange(5)
        if what == 0:
            del parent[path[-1]]
        elif what == 1:
            parent[path[-1]] = copy.deepcopy(rng.choice(VALUES))
        elif what == 2 and isinstance(parent, dict):
            parent[rng.choice(KEYS)] = parent.pop(path[-1])
        elif what == 3 and isinstance(parent, dict):
            items = list(parent.items())
            rng.shuffle(items)
            parent.clear()
            parent.update(items)
        elif isinstance(parent, list):
            parent.insert(rng.randint(0, len(parent)), copy.deepcopy(parent[path[-1]]))
        else:
            parent[path[-1]] = [parent[path[-1]]]
    return tree


def mutate(rng):
    """Return the bytes of a file, and what it means where that is known."""
    text = rng.choice(BOOKS)
    kind = rng.random()
    if kind < 0.4:
        tree = branches(rng, text)
        style = rng.choice([None, False, True])
        dumped = yaml.safe_dump(
            tree, sort_keys=False, default_flow_style=style, allow_unicode=rng.random() < 0.5
        )
        return dumped.encode(), tree
    if kind < 0.8:
        return lines(rng, text).encode("utf-8", "surrogatepass"), None
    if kind < 0.9:
        return encodings(rng, text), None
    return bombs(rng, text).encode(), None


def same(a, b):
    """Equal, NaN to NaN, true not equal to 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


@pytest.fixture
def hands_tied(monkeypatch, tmp_path):
    """Whatever would act fails the test; returns where nothing may be written."""

    def never(*_args, **_more):
        raise AssertionError("a playbook that was only read has acted")

    for name in registry.action:
        cls = registry.action.get(name)
        for method in ("__init__", "observe", "run", "undo"):
            if hasattr(cls, method):
                monkeypatch.setattr(cls, method, never)
    monkeypatch.setattr(subprocess, "Popen", never)
    monkeypatch.setattr(os, "system", never)
    monkeypatch.setattr(socket.socket, "connect", never)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_all(count, seed):
    rng = random.Random(seed)
    loaded = told = 0
    config = Config.model_validate(
        {"mode": "auto", "manages": [{"kind": "service"}], "single_agent": True}
    )
    for i in range(count):
        raw, meant = mutate(rng)
        document = read(raw, "book.yaml")
        if meant is not None and not document.faults:
            assert same(document.data, meant), (i, raw)
        found = lay([[document]], None)
        faults = [*found.faults]
        if not found.playbooks:
            assert faults, (i, raw)
        for f in faults:
            assert f.problem, (i, raw)
            assert f.place == "book.yaml", (i, raw)
            # a whole file may be too large, or hold nothing; all else has its line and column
            whole = len(raw) > MAX_BYTES or not (document.data or document.broken)
            assert whole or (f.line >= 1 and f.column >= 1), (i, str(f), raw)
            assert (
                f.line
                <= raw.count(b"\n")
                + raw.count(b"\r")
                + raw.count(b"\xe2\x80\xa8")
                + raw.count(b"\xc2\x85")
                + 1
            )
            assert len(str(f)) < 1000, (i, len(str(f)))
            assert f.caret() == "" or "^" in f.caret()
        told += bool(faults)
        for book in found.playbooks.values():
            loaded += 1
            assert explain.text(book)
            drawn = flow.flow(book)
            assert flow.mermaid(drawn)
            assert flow.dot(drawn, book.id)
            forecast(book, Entity(book.target.kind, "x"), {}, config)
            for test in book.tests:
                run(book, test)
    return loaded, told


def test_two_hundred_mutated_playbooks(hands_tied):
    loaded, told = check_all(200, seed=6)
    assert loaded > 20
    assert told > 100
    assert list(hands_tied.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_ten_thousand_mutated_playbooks(hands_tied, seed):
    loaded, told = check_all(1000, seed)
    assert loaded > 100
    assert told > 500
    assert list(hands_tied.iterdir()) == []


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("title: no", "`no` is false to some readers of YAML"),
        ("title: 1.10", "`1.10` is not text; put it in quotes: '1.10'"),
        ("title: 12:30:00", ""),
        ("title: 0777", "starts with zero"),
        ("order: 1.10", "is not a whole number"),
        ("order: true", "`true` is not a number"),
        ("enabled: 1", "is not true or false"),
        ("guard: {settle: 12:30:00}", "write it like 30s"),
        ("guard: {settle: 5}", ""),
        ("owner: &o [*o]", "contains itself"),
        ("owner: !!python/name:os.system x", "tags are not read"),
    ],
)
def test_traps_of_yaml(written, says):
    key = written.partition(":")[0]
    kept = "\n".join(x for x in MADE[1].split("\n") if not x.startswith(f"{key}:"))
    if key == "guard":
        kept = MADE[1].replace(
            "guard:\n  cooldown: {per: target, time: 30m}\n  rate: {max: 2, per: 1h}\n", ""
        )
    found = lay([[read(f"{kept}\n{written}\n", "book.yaml")]], None)
    if says:
        assert any(says in str(f) for f in found.faults), [str(f) for f in found.faults]
    else:
        assert found.faults == []
        book = found.playbooks["made"]
        assert book.title == "12:30:00" or book.limits.settle == 5.0
