"""Words stay true: every plug-in is documented, the README's commands exist, the wheel holds what it must."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from agent import cli, registry, strict
from agent.catalogue import SIGNALS
from agent.causes import CAUSES, known
from agent.config import load
from agent.playbook.examples import try_examples
from agent.playbook.library import lay
from agent.playbook.style import hints
from agent.rca.weights import WEIGHTS
from agent.shelf import filled

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SOURCES = sorted(
    p
    for room in ("agent", "connectors", "dashboards", "detectors", "playbooks")
    for p in (ROOT / room).rglob("*.py")
)


@pytest.mark.parametrize("kind", ["connector", "detector", "view", "action"])
def test_every_plugin_is_in_the_readme(kind):
    names = list(getattr(registry, kind))
    assert names
    missing = [n for n in names if f"`{n}`" not in README]
    assert not missing, f"{kind}s without a word in README.md: run `make readme`"


@pytest.mark.parametrize("name", list(registry.connector))
def test_every_connector_says_what_it_was_tested_with(name):
    cls = registry.connector.get(name)
    assert cls.tested
    # what has only met a stand-in may not act by itself: both are said, or neither
    assert not getattr(cls, "stand_in", False) or cls.tested.startswith("stand-in")


@pytest.mark.parametrize("page", ["README.md", "docs/actions.md", "docs/settings.md"])
def test_tables_are_as_the_code_says(page):
    text = (ROOT / page).read_text()
    assert filled(text) == text, f"{page}: run `make readme`"
    assert " begin (make readme) -->" in text


def test_every_playbook_is_in_the_readme_and_names_known_causes_and_signals():
    shipped = sorted((ROOT / "playbooks").glob("*.yaml"))
    assert len(shipped) >= 7
    for path in shipped:
        book = yaml.safe_load(path.read_text())
        assert f"`{book['id']}`" in README, f"{book['id']}: run `make readme`"
        cause = (book.get("because") or {}).get("cause")
        assert cause is None or known(cause), f"{path.name}: {cause} is no cause"


def test_the_readme_names_only_targets_and_commands_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target} does not exist"
    helped = subprocess.run(
        [sys.executable, "-m", "agent", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    for command in set(re.findall(r"homeostat ([a-z]+)", README)) - {"of", "was"}:
        assert re.search(rf"\b{command}\b", helped), f"homeostat {command} does not exist"


def test_every_cause_can_be_named_by_a_rule():
    rules = "".join(p.read_text() for p in (ROOT / "agent" / "rca" / "rules").glob("*.py"))
    unnamed = {c for c in CAUSES if f'"{c}"' not in rules}
    assert unnamed == {"unknown"}  # what is left when no rule has evidence


def test_every_weight_is_used_and_every_reason_has_a_weight():
    texts = {p: p.read_text() for p in (ROOT / "agent" / "rca").rglob("*.py")}
    code = "".join(t for p, t in texts.items() if p.name != "weights.py")
    unused = {reason for reason in WEIGHTS if f'"{reason}"' not in code}
    assert unused == set()


def test_signals_that_code_names_are_in_the_catalogue():
    kinds = "|".join(sorted({d.entity_kind for d in SIGNALS.values()}))
    for path in SOURCES:
        for name in re.findall(rf'"((?:{kinds})\.[a-z][a-z0-9_]*_[a-z0-9_]+)"', path.read_text()):
            assert name in SIGNALS, f"{path.relative_to(ROOT)}: {name} is not in agent/catalogue.py"


def test_an_import_of_the_daemon_brings_nothing_heavy():
    code = (
        "import sys, agent.daemon, agent.registry; agent.registry.load();"
        "print([m for m in ('sklearn','scipy','torch','pandas','statsmodels','dbos','mlflow','fastapi')"
        " if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == "[]"


def test_every_room_says_what_lives_there():
    for path in SOURCES:
        first = path.read_text().removeprefix("#!/usr/bin/env python3\n").removeprefix("r")
        assert first.startswith('"""'), f"{path.relative_to(ROOT)} does not say what it is"


@pytest.mark.slow
def test_the_wheel_holds_five_packages_and_what_they_need_at_run_time(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("homeostat-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if not n.startswith("homeostat-")} == {
        "agent", "connectors", "dashboards", "detectors", "playbooks"
    }  # fmt: skip
    for needed in (
        "dashboards/console/index.html", "dashboards/console/uplot/uPlot.iife.min.js",
        "dashboards/console/uplot/LICENSE", "dashboards/rules/homeostat.yml", "agent/demo/service.py",
        "dashboards/grafana/homeostat-fleet.json", "dashboards/provisioning/homeostat.yaml",
        "dashboards/kibana/homeostat.ndjson", "dashboards/rules/homeostat-slo.yml",
    ):  # fmt: skip
        assert needed in names, needed
    assert len([n for n in names if n.startswith("playbooks/") and n.endswith(".yaml")]) == len(
        list((ROOT / "playbooks").glob("*.yaml"))
    )
    assert not any(n.startswith("tests/") for n in names)


def test_the_config_in_the_readme_passes_the_check(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```yaml\n(mode: .*?)```", README, re.DOTALL)
    path = tmp_path / "agent.yaml"
    path.write_text(example)
    config = load(path)
    assert config.services[0].objectives
    monkeypatch.setattr(sys, "argv", ["homeostat", "check", "--config", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, capsys.readouterr()


def test_the_config_in_the_page_on_the_graph_passes_the_check(tmp_path):
    blocks = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "topology.md").read_text(), re.DOTALL
    )
    assert len(blocks) == 2
    services = "services:\n- {id: shop, port: 80}\n- {id: reviews}\n"
    path = tmp_path / "agent.yaml"
    path.write_text(services + "".join(blocks))
    config = load(path)
    assert len(config.topology.add) == 2
    assert config.connectors["deployments"].own["environments"] == ["production"]


def test_the_config_in_the_page_on_ways_to_people_passes_the_check(tmp_path):
    text = (ROOT / "docs" / "notifiers.md").read_text()
    ways, people = re.findall(r"```yaml\n(public_url.*?|people.*?)```", text, re.DOTALL)
    path = tmp_path / "agent.yaml"
    path.write_text(ways + people)
    config = load(path)
    assert [rung.after for rung in config.people.escalation] == [0.0, 600.0, 1800.0]
    assert {
        to.way for rung in config.people.escalation for to in rung.to
    } < config.connectors.keys()


def test_the_playbook_in_the_page_for_authors_is_sound_and_passes_its_tests():
    (example,) = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "playbooks.md").read_text(), re.DOTALL
    )
    found = lay([[strict.read(example, "api-slow.yaml")]], None)
    assert [str(f) for f in found.faults] == []
    assert try_examples(found.playbooks["api-slow"]) == []
    assert list(hints(found.playbooks["api-slow"], found.documents["api-slow"])) == []


@pytest.mark.parametrize("page", ["mlflow.md", "slack.md", "trainers.md"])
def test_connectors_in_pages_are_as_their_code_wants_them(page):
    blocks = re.findall(
        r"```yaml\n(connectors:.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL
    )
    assert blocks
    for block in blocks:
        for name, own in yaml.safe_load(block)["connectors"].items():
            assert registry.connector.get(name).Config(**own)
