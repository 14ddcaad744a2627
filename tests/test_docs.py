"""Pages lead somewhere: links resolve, each page is listed, commands, their options and extras exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from agent import cli, registry

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
OF_NOW = [p for p in PAGES if p.name != "CHANGELOG.md" and p.parent.name != "adr"]
"""The others tell of what was."""
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")


def prose(page: Path) -> str:
    """Return a page without code: what stands there is no link and no heading."""
    return SPAN.sub("x", FENCE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Return what links may point to in a page, as GitHub names its headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head).lower() for head in heads)
    return {re.sub(r"[^\w\- ]", "", head).strip().replace(" ", "-") for head in plain}


def name(page: Path) -> str:
    """Return what a test of a page is called."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_what_there_is(page):
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or ROOT not in (there, *there.parents):
            wrong.append(link)
        elif anchor and anchor not in anchors(there):
            wrong.append(f"{link}: no such heading")
    assert wrong == []


def test_a_link_that_leads_nowhere_would_be_found():
    assert "who-can-do-it" in anchors(ROOT / "docs" / "actions.md")
    assert "x" not in anchors(README)


def test_every_page_is_listed():
    index = ROOT / "docs" / "README.md"
    listed = {
        (index.parent / link.partition("#")[0]).resolve()
        for link in re.findall(r"\]\(([^)]+)\)", index.read_text())
    }
    assert set((ROOT / "docs").glob("*.md")) - {index} - listed == set()
    assert "](docs/README.md)" in README.read_text()


# ---------------------------------------------------------------- commands


def commands():
    """Return the whole command line, as a group of commands and groups."""
    return cli._tree(cli._PARTS)


def written(page: Path) -> Iterator[str]:
    """Yield each call of `homeostat` in the code of a page, without its name."""
    text = page.read_text()
    lines = [
        line for _, kind, body in FENCE.findall(text) if kind in {"sh", ""} for line in body.splitlines()
    ]  # fmt: skip
    for said in (*lines, *SPAN.findall(FENCE.sub("", text))):
        call = re.match(r"(?:\$ )?(?:sudo )?(?:[\w./]*\w/)?homeostat ([^|#;&]+)", said.strip())
        if call:
            yield call[1].strip()


def wrong_in(call: str) -> str:
    """Say what a call names that does not exist; "" = nothing."""
    at = commands()
    for token in shlex.split(call):
        if token.startswith("-"):
            known = {o for p in at.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
            if token.partition("=")[0] not in known:
                return f"{at.name} has no {token}"
        elif hasattr(at, "commands") and re.fullmatch(r"[a-z][a-z-]*", token):
            if token not in at.commands:
                return f"{at.name} has no command {token}"
            at = at.commands[token]
    return ""


@pytest.mark.parametrize("page", OF_NOW, ids=name)
def test_commands_in_pages_exist_with_their_options(page):
    assert [f"{call}: {wrong}" for call in written(page) if (wrong := wrong_in(call))] == []


def test_a_command_that_does_not_exist_would_be_found():
    assert wrong_in("report last --out it.md") == ""
    assert wrong_in("reports last") == "homeostat has no command reports"
    assert wrong_in("report last --to it.md") == "report has no --to"
    assert wrong_in("token give") == "token has no command give"
    calls = list(written(README))
    assert {"status", "demo --suggest"} <= set(calls)
    assert len(calls) > 10


def test_every_command_is_in_the_readme():
    text = README.read_text()
    section = text[text.index("## Every day") : text.index("## How it works")]
    first = {span.split()[0] for span in SPAN.findall(section)}
    assert set(commands().commands) - first == set()


# ---------------------------------------------------------------- installing, settings


def test_extras_that_pages_name_exist_and_nobody_is_sent_to_an_index():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    named = set()
    for page in PAGES:
        text = page.read_text()
        named |= {e for said in re.findall(r"'\.\[([\w,-]+)\]'", text) for e in said.split(",")}
        named |= set(re.findall(r"\bextras?\s+`([\w-]+)`", text))
        if page.name != "CHANGELOG.md":  # who reads that has it
            assert "pip install 'homeostat" not in text, f"{page.name}: it is on no index"
            assert "pip install homeostat" not in text, f"{page.name}: it is on no index"
    assert {"slack", "charts", "prometheus"} <= named <= extras
    install = README.read_text().partition("## Install\n")[2].partition("\n## ")[0]
    said = set(SPAN.findall(install[install.index("Extras:") :]))
    assert extras - {"bench", "dev"} <= said


def test_what_is_not_installed_is_said_in_one_place_by_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rooms = ("agent", "connectors", "dashboards", "detectors", "playbooks")
    sources = {name(p): p.read_text() for room in rooms for p in (ROOT / room).rglob("*.py")}
    assert [path for path, text in sources.items() if "pip install" in text] == ["agent/imports.py"]
    named = {e for text in sources.values() for e in re.findall(r'lacking\(.*, "([\w-]+)"\)', text)}
    assert {"charts", "demo", "slack"} <= named <= set(project["optional-dependencies"])


def test_detectors_in_the_readme_are_as_their_code_wants_them():
    registry.load()
    (block,) = re.findall(r"```yaml\n(detectors:.*?)```", README.read_text(), re.DOTALL)
    for name, own in yaml.safe_load(block)["detectors"].items():
        rest = {k: v for k, v in own.items() if k not in {"sources", "every"}}
        assert registry.detector.get(name).Config(**rest)


def test_what_only_met_a_stand_in_is_said_among_the_limits():
    registry.load()
    text = README.read_text()
    limits = text[text.index("## Honest limits") : text.index("## What there is")]
    said = limits[limits.index("only stand-ins") :].partition("\n- ")[0]
    tested = {name: registry.connector.get(name).tested for name in registry.connector}
    stands = {name for name, by in tested.items() if by.startswith("stand-in")}
    assert {s for s in SPAN.findall(said) if s in registry.connector} == stands
