import json
import os
import re
import subprocess
import sys

import jsonschema
import pytest

from agent import cli, registry
from agent.causes import CAUSES
from agent.playbook import library, template
from agent.playbook.check import branches

registry.load()


@pytest.fixture
def homeostat(monkeypatch, capsys, tmp_path):
    """Run a command as the installed script does, in a folder of its own; returns (exit code, stdout, stderr)."""
    for name in ("HOMEOSTAT_CONFIG", "HOMEOSTAT_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["homeostat", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    run.work = tmp_path / "work"
    return run


def made(homeostat, name="gpu-hot", cause="hardware.gpu.thermal", use="scale"):
    code, _, err = homeostat("playbook", "new", name, "--cause", cause, "--use", use)
    assert (code, err) == (0, "")
    return homeostat.work / f"{name}.yaml"


def test_new_lint_test(homeostat):
    path = made(homeostat)
    assert "# yaml-language-server: $schema=" in path.read_text()
    code, out, _ = homeostat("playbook", "lint", path, "--strict")
    assert (code, out) == (0, "1 playbook, 3 tests, 0 faults, 0 hints\n")
    code, out, _ = homeostat("playbook", "test", path)
    assert code == 0
    assert "ok      gpu-hot: it turns ill and stays so  (acts after 5 min 30 s: scale)" in out
    assert out.endswith("3 passed, 0 failed\n")


def test_an_author_waits_for_no_playbook_but_the_own(homeostat, monkeypatch):
    was_read, really = [], library.read

    def read(*what):
        was_read.append(what[-1])
        return really(*what)

    monkeypatch.setattr(library, "read", read)
    path = made(homeostat)
    assert homeostat("playbook", "lint", path)[0] == 0
    assert was_read == []
    assert homeostat("playbook", "explain", "serve-leak", path)[0] == 0
    assert was_read == ["playbooks/serve-leak.yaml"]


def test_a_first_playbook_is_called_by_whole_words(homeostat):
    text = made(homeostat, "ask-me", "serving", "ask").read_text()
    assert "title: 'Ask a person and wait for the answer, because serving'" in text
    text = made(homeostat, "end-it", "host.exhausted", "kill_process").read_text()
    assert "title: 'End a process group'\n" in text


@pytest.mark.parametrize("use", list(registry.action))
def test_what_new_writes_for_any_verb_is_sound(homeostat, use):
    path = made(homeostat, "one", "serving.saturation", use)
    code, out, _ = homeostat("playbook", "lint", path, "--strict", "--json")
    assert (code, json.loads(out)["ok"]) == (0, True), out


def test_what_new_writes_for_any_cause_is_sound(homeostat):
    for i, cause in enumerate(sorted({*CAUSES, *branches()})):
        (homeostat.work / f"c{i}.yaml").write_text(template.write(f"c{i}", cause, "notify"))
    code, out, _ = homeostat("playbook", "lint", homeostat.work, "--strict")
    assert code == 0, out


def test_new_writes_over_nothing_and_says_what_it_does_not_know(homeostat):
    path = made(homeostat)
    before = path.read_text()
    new = ("playbook", "new", "gpu-hot", "--cause", "hardware.gpu.thermal", "--use", "scale")
    code, _, err = homeostat(*new)
    assert (code, "gpu-hot.yaml is there" in err) == (1, True)
    assert path.read_text() == before
    for words, says in (
        (
            ("x", "--cause", "hardware.gpu.termal", "--use", "scale"),
            "did you mean `hardware.gpu.thermal`?",
        ),
        (("x", "--cause", "serving", "--use", "scael"), "did you mean scale?"),
        (("Big One", "--cause", "serving", "--use", "scale"), "can not be an id"),
        (
            ("serve-saturation", "--cause", "serving", "--use", "scale"),
            "a built-in playbook is called",
        ),
        (
            ("x", "--cause", "serving", "--use", "scale", "-o", "/no/where.yaml"),
            "can not be written",
        ),
    ):
        code, _, err = homeostat("playbook", "new", *words)
        assert (code, says in err) == (1, True), err
    assert [p.name for p in homeostat.work.iterdir()] == ["gpu-hot.yaml"]


def test_faults_have_place_caret_and_remedy(homeostat):
    path = made(homeostat)
    path.write_text(
        path.read_text().replace("clock_ratio < 0.85", "clok_ratio < 0.85").replace("mode:", "mod:")
    )
    code, out, _ = homeostat("playbook", "lint", path.name)
    assert code == 1
    assert (
        "gpu-hot.yaml:13:11: in `gpu.clok_ratio < 0.85`: nothing is called `gpu.clok_ratio`\n"
        "      - {is: 'gpu.clok_ratio < 0.85', for: 30s}\n"
        "              ^\n"
        "    did you mean `gpu.clock_ratio`?\n"
    ) in out
    assert "gpu-hot.yaml:9:1: unknown key `mod`" in out
    code, out, _ = homeostat("playbook", "lint", path.name, "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (1, False)
    assert {(f["line"], f["column"]) for f in said["faults"]} >= {(13, 11), (9, 1)}
    code, _, err = homeostat("playbook", "test", path.name)
    assert code == 2
    assert "              ^" in err


def test_a_failing_test_is_a_fault_at_its_place(homeostat):
    path = made(homeostat)
    path.write_text(path.read_text().replace("first_by: 7m", "first_by: 5m10s"))
    line = next(i for i, row in enumerate(path.read_text().split("\n"), 1) if "it turns ill" in row)
    code, out, _ = homeostat("playbook", "lint", path.name)
    assert code == 1
    said = "it acts first after 5 min 30 s, expected by 5 min 10 s"
    assert f"gpu-hot.yaml:{line}:5: test `it turns ill and stays so`: {said}" in out
    code, out, _ = homeostat("playbook", "test", path.name, "-k", "moment")
    assert (code, out.endswith("1 passed, 0 failed\n")) == (0, True)
    code, _, err = homeostat("playbook", "test", path.name, "-k", "monument")
    assert (code, "no test has 'monument' in its name" in err) == (1, True)
    code, out, _ = homeostat("playbook", "test", path.name, "--json")
    said = json.loads(out)
    assert (code, said["failed"], said["tests"][0]["acts"][0]["steps"]) == (1, 1, ["scale"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("id: gpu-hot", "id: gpu-cold", "the file is not called gpu-cold.yaml"),
        ("mode: suggest", "mode: auto", "it acts by itself from the first day"),
        ("title: 'S", "title: 's", "begins with a capital letter"),
        ("settle: 5m", "settle: 5", "`settle: 5` names no unit: it is 5 s"),
        ("down'", "down.'", "a title has no full stop"),
        ("min_confidence: 60%", "min_confidence: 20%", "only 20% sure"),
        (
            "    undo: auto                     # put back what was there",
            "    undo: none",
            "could be undone and is not",
        ),
        (
            "then:\n  - {use: notify, with: {text: '${title}: ${target.key}; ${verdict.summary}'}}\n",
            "",
            "nobody is told",
        ),
        (
            "    expect: {fires: 0}",
            "    expect: {fires: 1}",
            "no test shows what it stays silent on",
        ),
        (
            "{pulse: [0.97, 0.6], from: 5m, to: 5m20s}",
            "0.97",
            "it shows no look-alike: nothing stirs in it",
        ),
    ],
)
def test_hints(homeostat, old, new, says):
    path = made(homeostat)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    _, out, _ = homeostat("playbook", "lint", path.name)
    assert f"hint: {says}" in out or says in out
    assert homeostat("playbook", "lint", path.name, "--strict")[0] == 1


def test_an_undo_that_would_put_nothing_back_is_hinted_at(homeostat):
    path = made(homeostat, use="restart")
    text = path.read_text()
    assert "undo: none                     # what was restarted runs what it ran before" in text
    path.write_text(text.replace("undo: none", "undo: auto", 1))
    code, out, _ = homeostat("playbook", "lint", path.name)
    assert (code, " 0 faults, 1 hint\n" in out) == (0, True), out
    assert "hint: `restart` puts nothing back: what was restarted runs what it ran before" in out
    plan = ("playbook", "plan", path.name, "--target", "gpu:GPU-1", "--json")
    assert json.loads(homeostat(*plan)[1])["steps"][0]["undo"] == "none"


def test_a_playbook_without_tests_is_hinted_at(homeostat):
    path = made(homeostat)
    path.write_text(path.read_text().partition("tests:")[0])
    code, out, _ = homeostat("playbook", "lint", path.name)
    assert (code, "hint: it has no `tests:`" in out) == (0, True)


def test_the_shipped_library_is_clean(homeostat):
    code, out, _ = homeostat("playbook", "lint", "--strict")
    assert (code, out.endswith(" 0 faults, 0 hints\n")) == (0, True), out


def test_plan_fills_parameters_and_asks_the_gates_it_can(homeostat):
    target = ("--target", "service:shop", "--given", "cause.entity=process:b/9/9")
    code, out, _ = homeostat(
        "playbook", "plan", "serve-noisy-neighbour", *target, "--given", "target.owner=me"
    )
    assert code == 0
    assert '"process": "process:b/9/9"' in out
    assert "unknown whether it would fire" in out
    assert "no agent.yaml at hand" in out
    slow = (
        "--given",
        "service.latency_p95_seconds=0.9",
        "--given",
        "baseline.service.latency_p95_seconds=0.1",
    )
    code, out, _ = homeostat("playbook", "plan", "serve-noisy-neighbour", *target, *slow, "--json")
    said = json.loads(out)
    assert (code, said["fires"], said["mode"]) == (0, True, "suggest")
    assert said["steps"][0]["with"] == {"process": "process:b/9/9", "nice": 15}
    gates = {g["name"]: g for g in said["gates"]}
    assert gates["mode"]["passed"] is True
    assert gates["scope"]["passed"] is None
    assert gates["cooldown"]["passed"] is None


def test_what_is_given_to_a_plan_is_read_as_people_write_it(homeostat):
    """Numbers may have units; what a diagnosis says is text, also where it looks like a number."""
    plan = ("playbook", "plan", "--json", "--target")
    slow = ("service.latency_p95_seconds=900ms", "baseline.service.latency_p95_seconds=0.1s",
            "service.requests_per_second=9e1", "baseline.service.requests_per_second=40")  # fmt: skip
    given = [word for one in slow for word in ("--given", one)]
    code, out, _ = homeostat(*plan, "service:shop", "serve-saturation", *given)
    assert (code, json.loads(out)["fires"]) == (0, True)
    given = ("--given", "cause.xid=79", "--given", "host.gpu_driver_up=true")
    code, out, _ = homeostat(*plan, "host:web-1", "gpu-off-bus", *given)
    assert (code, json.loads(out)["fires"]) == (0, True), out


def test_a_folder_without_playbooks_is_hinted_at(homeostat):
    (homeostat.work / "empty").mkdir()
    code, out, _ = homeostat("playbook", "lint", "empty")
    assert (code, "there is no playbook in empty" in out) == (0, True)
    assert homeostat("playbook", "lint", "empty", "--strict")[0] == 1


def test_plan_with_an_agent_yaml_knows_what_is_managed(homeostat):
    config = homeostat.work / "agent.yaml"
    config.write_text("mode: auto\nsingle_agent: true\nmanages: [{kind: service}]\n")
    code, out, _ = homeostat(
        "playbook", "plan", "serve-saturation", "--target", "service:shop", "-c", config, "--json"
    )
    gates = {g["name"]: g for g in json.loads(out)["gates"]}
    assert code == 0
    assert gates["scope"]["passed"] is True
    assert "Scaler" in gates["ability"]["value"]


def test_plan_says_whom_it_asks_and_a_text_is_no_target(homeostat):
    code, out, _ = homeostat(
        "playbook", "plan", "gpu-nvlink", "--target", "gpu:G", "--given", "cause.replica=replica:shop/0", "--json"
    )  # fmt: skip
    said = json.loads(out)
    assert (code, said["mode"]) == (0, "suggest")
    assert [a["said"] for a in said["asks"]] == [
        "would ask operator before free, waits up to 1 h, then it ends with drain put back; people are told"
    ]
    (never,) = [g for g in said["gates"] if g["name"] == "never"]
    assert never["value"] == "gpu:G, replica:shop/0"


def test_a_connector_that_can_not_be_built_here_is_told(homeostat):
    config = homeostat.work / "agent.yaml"
    config.write_text(
        "services: [{id: shop, port: 80}]\n"
        "connectors: {k: {use: kubernetes, service: shop, workload: deployment/shop, kubeconfig: /nowhere}}\n"
    )
    code, out, err = homeostat(
        "playbook", "plan", "serve-saturation", "--target", "replica:shop/0", "-c", config
    )
    assert (code, "acts on a service" in err) == (1, True)
    said = "connector k could not be built: "
    code, out, _ = homeostat(
        "playbook", "plan", "serve-saturation", "--target", "service:shop", "-c", config, "--json"
    )
    (gate,) = [g for g in json.loads(out)["gates"] if g["name"] == "ability"]
    assert (code, gate["passed"], gate["reason"].startswith(said)) == (0, False, True), out
    code, out, _ = homeostat("playbook", "lint", "serve-saturation", "-c", config)
    assert (code, f"hint: not able here: {said}" in out) == (0, True), out


TIDY = """\
version: 1
id: tidy
title: Move old logs aside
mode: suggest
target: {kind: host}
because: {cause: host.exhausted}
guard: {cooldown: {time: 30m}, rate: {max: 2, per: 1h}}
do:
  - {id: aside, use: quarantine, with: {rule: logs}, undo: auto}
  - {id: none, use: quarantine, with: {rule: dumps}, undo: auto}
  - {id: count, use: run_command, with: {command: count}, undo: none}
  - {id: say, use: notify, with: {text: 'moved ${steps.aside.files} files'}}
  - {id: hush, use: silence, with: {for: 1h, reason: we work there}, undo: auto}
  - {id: ask, use: ask, with: {text: 'go on?'}}
verify: {within: 10m, expect: ['host.disk_spare_ratio > 0.1']}
then:
  - {use: notify, id: tell, with: {text: 'done on ${target.key}'}}
"""


def test_a_dry_run_asks_the_connectors_and_changes_nothing(homeostat):
    logs, config = homeostat.work / "logs", homeostat.work / "agent.yaml"
    logs.mkdir()
    for n in range(3):
        (logs / f"app.log.{n}").write_text("x")
        os.utime(logs / f"app.log.{n}", (n, n))
    config.write_text(
        "page: {command: ['/bin/false']}\n"
        "connectors:\n  old_files:\n    rules:\n"
        f"      logs: {{path: {logs}, names: ['app.log.*'], older: 1d, keep: 1}}\n"
        f"      dumps: {{path: {logs}, names: ['core.*'], older: 1d}}\n"
    )
    (homeostat.work / "tidy.yaml").write_text(TIDY)
    words = ("playbook", "plan", "tidy.yaml", "--target", "host:h1", "-c", config)
    there = sorted(path.name for path in homeostat.work.rglob("*"))
    code, out, err = homeostat(*words, "--dry-run", "--json")
    assert code == 1, err
    told = {one["id"]: (one["status"], one["text"]) for one in json.loads(out)["dry_run"]}
    assert told["aside"][0] == "would"
    assert told["aside"][1].startswith("would move 2 files (")
    assert told["none"] == ("refused", "rule dumps finds nothing to take; look elsewhere for room")
    assert told["count"][0] == "refused"
    assert "0 connectors have the ability Commands" in told["count"][1]
    assert told["say"] == ("later", "it stands on steps.aside.files")
    assert [told[name][0] for name in ("hush", "ask", "tell")] == ["would"] * 3
    assert sorted(path.name for path in homeostat.work.rglob("*")) == there

    code, out, _ = homeostat(*words, "--dry-run")
    assert code == 1
    assert "   dry run: would move 2 files (" in out
    assert "   REFUSED: rule dumps finds nothing to take" in out
    assert "   later: it stands on steps.aside.files\n" in out
    assert json.loads(homeostat(*words, "--json")[1])["dry_run"] is None


def test_a_dry_run_in_which_every_step_can_is_well(homeostat):
    (homeostat.work / "agent.yaml").write_text("page: {command: ['/bin/false']}")
    (homeostat.work / "tidy.yaml").write_text(
        re.sub(r"  - \{id: (aside|none|count|say).*\n", "", TIDY)
    )
    words = ("playbook", "plan", "tidy.yaml", "--target", "host:h1", "--dry-run")
    assert homeostat(*words, "-c", "agent.yaml")[0] == 0
    code, _, err = homeostat(*words)
    assert (code, "name it with --config" in err) == (1, True), err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("serve-saturation", "--target", "gpu:1"), "acts on a service, not on gpu:1"),
        (("serve-saturation", "--target", "shop"), "write kind:key"),
        (("serve-saturtion", "--target", "service:x"), "did you mean `serve-saturation`?"),
        (("no.yaml", "--target", "service:x"), "no.yaml: can not be read"),
        (("serve-saturation", "--target", "service:x", "--given", "x"), "not a value: 'x'"),
        (
            ("serve-saturation", "--target", "service:x", "--given", "service.up=soon"),
            "service.up is a number: not understood: 'soon'",
        ),
        (
            ("serve-saturation", "--target", "service:x", "--given", "service.upp=1"),
            "did you mean `service.up`?",
        ),
        (
            ("serve-saturation", "--target", "service:x", "--given", "cause.entity=x"),
            "not an entity id: 'x'",
        ),
        (
            ("serve-saturation", "--target", "service:x", "--given", "incident.severity=x"),
            "no severity is called",
        ),
    ],
)
def test_plan_says_what_is_wrong(homeostat, words, says):
    code, _, err = homeostat("playbook", "plan", *words)
    assert code in {1, 2}
    assert says in err


def test_explain_and_graph(homeostat):
    code, out, _ = homeostat("playbook", "explain", "serve-bad-deploy")
    assert (code, out.startswith("Roll back a model version")) == (0, True)
    code, out, _ = homeostat("playbook", "explain", "--json")
    assert code == 0
    assert len(json.loads(out)) >= 7
    code, out, _ = homeostat("playbook", "graph", "serve-bad-deploy")
    assert (code, out.startswith("flowchart TD")) == (0, True)
    code, out, _ = homeostat("playbook", "graph", "serve-bad-deploy", "--format", "dot")
    assert (code, out.startswith('digraph "serve-bad-deploy" {')) == (0, True)
    code, out, _ = homeostat("playbook", "graph", "serve-bad-deploy", "--json")
    assert {a["from"] for a in json.loads(out)["arrows"]} >= {"cause", "guard"}


def test_a_site_of_its_own_is_laid_over(homeostat, tmp_path):
    (homeostat.work / "playbooks.d").mkdir()
    (homeostat.work / "playbooks.d" / "serve-saturation.yaml").write_text(
        "id: serve-saturation\ntitle: Ours\n"
    )
    (homeostat.work / "agent.yaml").write_text("mode: suggest\n")
    code, out, _ = homeostat("playbook", "explain", "serve-saturation", "-c", "agent.yaml")
    assert (code, out.startswith("Ours  (serve-saturation)")) == (0, True)


@pytest.mark.parametrize("what", ["playbook", "agent"])
def test_schema_is_one(homeostat, what):
    code, out, _ = homeostat("schema", what)
    assert code == 0
    jsonschema.Draft7Validator.check_schema(json.loads(out))


def test_help_of_each_says_how(homeostat):
    for verb in ("new", "lint", "test", "plan", "explain", "graph"):
        code, out, _ = homeostat("playbook", verb, "--help")
        assert (code, "Example:" in out, "--json" in out) == (0, True, True)


def test_a_daemon_never_loads_what_is_for_authors():
    code = (
        "import sys, agent.daemon; "
        "print([m for m in sys.modules if m.startswith('agent.playbook.') and m.rpartition('.')[2] in "
        "('examples', 'feeds', 'schema', 'template', 'explain', 'flow', 'style')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert out.strip() == "[]"
