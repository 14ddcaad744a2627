import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from desk_story import HOST, MODEL, Story, free_port, living

from agent import cli
from agent.authority import Tokens
from agent.cli import act, asking, local, tables
from agent.codec import pack
from agent.journal import Journal
from agent.memory import Memory
from agent.model import Change, Edge, Entity, Outcome, Run


@pytest.fixture(autouse=True)
def nobodys_config(tmp_path, monkeypatch):
    """No test reads or writes what the person who runs it has configured."""
    for name in ("HOMEOSTAT_CONFIG", "HOMEOSTAT_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))


@pytest.fixture
def homeostat(monkeypatch, capsys):
    """Run a command as the installed script does; returns (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["homeostat", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def daemon(tmp_path):
    """A desk with a story behind its real socket."""
    with living(tmp_path) as house:
        house.story.hooks.config_path = tmp_path / "config" / "homeostat" / "agent.yaml"
        yield house


@pytest.fixture
def dead(tmp_path):
    """The state folder of a daemon that was killed: its journal is there, nobody answers."""
    Story(tmp_path / "state", now=time.time()).close()
    return tmp_path / "state"


# ---- asking a living daemon


def test_status_says_what_matters_first(homeostat, daemon):
    code, out, _ = homeostat("status", "--state", daemon.state)
    assert code == 0
    for part in (
        "2 open incidents, 1 harms users; 1 run waits for you",
        "false pages this week: 0 of 2 pages, within the budget of 2",
        "measured: not known yet, it takes a day of watching",
        "objective host.disk_utilization_ratio at most 0.9: no series has mount=/dta",
        "2 impossible values",
        "predictions.feed",
        "the log is not there",
        "ready in 8 min 30 s",
    ):
        assert part in out, part


def test_forecast_says_what_will_be_full_and_when(homeostat, daemon):
    code, out, _ = homeostat("forecast", "--state", daemon.state)
    assert code == 0
    (line,) = [x for x in out.splitlines() if "mount /" in x]
    assert line.startswith("3 h ")
    assert "80 %" in line
    assert "page" in line
    code, out, _ = homeostat("forecast", "web-1", "--all", "--json", "--state", daemon.state)
    assert [f["state"] for f in json.loads(out)] == ["soon", "far", "unknown"]
    code, _, err = homeostat("forecast", "nobody", "--state", daemon.state)
    assert code != 0
    assert "nobody" in err


def test_incidents_why_and_runs(homeostat, daemon):
    _, out, _ = homeostat("incidents", "--state", daemon.state)
    assert "inc-7f3a99e0" in out
    assert "inc-1a2b3c4d" not in out
    assert "inc-1a2b3c4d" in homeostat("incidents", "--all", "--state", daemon.state)[1]
    code, out, _ = homeostat("why", "inc-7f", "--state", daemon.state)
    assert code == 0
    assert out.splitlines() == daemon.desk.why("inc-7f")["text"]
    assert "serve-bad-deploy" in homeostat("runs", "--state", daemon.state)[1]
    assert "serve-bad-deploy" not in homeostat("runs", "--live", "--state", daemon.state)[1]
    _, out, _ = homeostat("runs", "run-11", "--state", daemon.state)
    assert "champion of wine is 3 again, was 4" in out
    assert "verdict  helped: accuracy is 97 %, was 83 %" in out


@pytest.mark.parametrize(
    "words",
    [("status",), ("incidents", "--all"), ("why", "inc-1a"), ("runs",), ("runs", "run-22"), ("silence",),
     ("playbooks",), ("changes",), ("topology",), ("token", "list"), ("audit", "verify"), ("version",)],
    ids=" ".join,
)  # fmt: skip
def test_every_answer_can_be_read_by_programs(homeostat, daemon, words):
    where = () if words == ("version",) else ("--state", daemon.state)
    code, out, err = homeostat(*words, *where, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict | list)


def test_the_version_is_told_in_both_ways_that_people_try(homeostat):
    told = homeostat("version")
    assert told == homeostat("--version")
    assert (told[0], told[2]) == (0, "")
    assert re.fullmatch(r"homeostat \d+\.\d+\.\d+\n", told[1])


# ---- doing


def test_what_a_run_would_do_is_tried_before_it_is_approved(homeostat, daemon):
    code, out, _ = homeostat("approve", "run-22", "--dry-run", "--state", daemon.state)
    assert (code, "dry run: would set_priority" in out) == (0, True)
    assert daemon.desk.run("run-22")["asks"]
    code, _, err = homeostat("approve", "run-22", "--dry-run", "--yes", "--state", daemon.state)
    assert code == 1
    assert "say one of them" in err


def test_approve_takes_exactly_what_was_shown(homeostat, daemon, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    code, _, err = homeostat("approve", "run-22", "--state", daemon.state)
    assert code == 1
    assert "add --yes" in err
    assert daemon.desk.run("run-22")["asks"]
    code, out, _ = homeostat("approve", "run-22", "--yes", "--state", daemon.state)
    assert code == 0
    assert "run-22c0ffee may act on nightly-batch (pid 5200)" in out
    (entry,) = daemon.story.hooks.journal.read(("approval",))
    assert entry.body["plan_hash"] == daemon.story.run.plan_hash
    assert entry.body["person"].endswith("(admin, socket)")
    code, _, err = homeostat("approve", "run-22", "-y", "--state", daemon.state)
    assert (code, "nobody is asked" in err) == (1, True)


def test_at_a_terminal_the_plan_is_shown_and_asked_about(homeostat, daemon, monkeypatch):
    answers = io.StringIO("n\ny\n")
    monkeypatch.setattr(answers, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", answers)
    code, out, _ = homeostat("approve", "run-22", "--state", daemon.state)
    assert (code, "nightly-batch" in out, "Approve?" in out) == (1, True, True)
    assert daemon.desk.run("run-22")["asks"]
    code, out, _ = homeostat("approve", "run-22", "--state", daemon.state)
    assert (code, "run-22c0ffee may act on" in out) == (0, True)


def test_ack_says_whose_it_is_and_why_shows_it(homeostat, daemon):
    code, out, _ = homeostat("ack", "inc-7f", "--reason", "looking", "--state", daemon.state)
    assert code == 0
    assert out.startswith("inc-7f3a99e0 is acknowledged, it is yours: Latency p95")
    code, _, err = homeostat("ack", "inc-7f", "--state", daemon.state)
    assert (code, "is acknowledged already" in err) == (1, True)
    assert homeostat("ack", "inc-1a", "--state", daemon.state)[0] == 1


def test_deny(homeostat, daemon):
    code, out, _ = homeostat("deny", "run-22", "--reason", "no", "--state", daemon.state)
    assert (code, out.strip()) == (0, "run-22c0ffee is denied")


def test_silence_list_and_end(homeostat, daemon):
    where = ("--state", daemon.state)
    assert "nothing is silenced" in homeostat("silence", *where)[1]
    assert homeostat("silence", "web-1", *where)[0] == 1
    code, out, _ = homeostat("silence", "web-1", "--for", "2h", "--cause", "host.disk", *where)
    assert code == 0
    assert "host:web-1" in out
    made = json.loads(homeostat("silence", "--json", *where)[1])[0]["id"]
    assert homeostat("silence", "--end", made[:7], *where)[0] == 0
    assert json.loads(homeostat("silence", "--json", *where)[1]) == []
    code, _, err = homeostat("silence", "web", "--for", "soon", *where)
    assert (code, "not a duration: 'soon', write it like" in err) == (1, True)


def test_pause_and_resume(homeostat, daemon):
    where = ("--state", daemon.state)
    assert "paused: everything" in homeostat("pause", "--reason", "deploying", *where)[1]
    assert "paused: process:b00t/5200/9950" in homeostat("pause", "nightly", *where)[1]
    code, out, _ = homeostat("resume", *where)
    assert code == 0
    assert "everything" not in out
    assert "nothing is paused" in homeostat("resume", "nightly", *where)[1]
    code, _, err = homeostat("resume", *where)
    assert (code, "not paused" in err) == (1, True)


def test_resume_takes_the_file_away_that_the_daemon_may_not(homeostat, daemon, tmp_path):
    config = tmp_path / "config" / "homeostat" / "agent.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("")
    (config.parent / "PAUSED").touch()
    assert daemon.desk.pauses()[0]["file"]
    code, out, _ = homeostat("resume", "--state", daemon.state)
    assert (code, out.strip()) == (0, "nothing is paused")
    assert not (config.parent / "PAUSED").exists()


def test_playbooks_and_reinstate(homeostat, daemon):
    where = ("--state", daemon.state)
    story = daemon.story
    harmed = Run("run-bad", "calm-neighbour", HOST, "inc-7f", "auto", "done", 1.0, 2.0, "h",
                 outcome=Outcome("harmed", "slower than before"))  # fmt: skip
    story.hooks.record("run", harmed.id, pack(harmed), story.now)
    code, out, _ = homeostat("playbooks", *where)
    assert code == 0
    (line,) = (x for x in out.splitlines() if "calm-neighbour" in x)
    assert "suggest" in line
    assert "it harmed host:web-1 in run run-bad: slower than before" in line
    (group,) = (x for x in out.splitlines() if x.split()[:1] == ["host:web-1"])
    assert group.split()[1:] == ["1", "1", "0%"]  # runs, harmed, at least
    code, out, _ = homeostat("reinstate", "calm", "--reason", "mended", "--json", *where)
    (back,) = json.loads(out)
    assert (back["mode"], back["record"]["harmed"]) == ("approve", 1)
    code, _, err = homeostat("reinstate", "calm", *where)
    assert (code, "nothing to do" in err) == (1, True)


def test_label_and_reload(homeostat, daemon):
    where = ("--state", daemon.state)
    code, out, _ = homeostat("label", "inc-7f", "noise", "--note", "test", *where)
    assert code == 0
    assert "is noted as noise; " in out
    assert "times rarer" in out
    assert daemon.desk.budget()["false_last_week"] == 1
    assert "host.cpu_busy_ratio{host:web-1} must be 3 times rarer" in homeostat("status", *where)[1]
    code, out, _ = homeostat("label", "inc-7f", "real", "--json", *where)
    assert json.loads(out)["label"] == "real"
    assert daemon.desk.budget()["false_last_week"] == 0
    code, _, err = homeostat("label", "inc-7f", "wrong", *where)
    assert (code, "neither noise nor real" in err) == (2, True)
    assert homeostat("reload", *where)[0] == 0
    assert daemon.story.hooks.told == ["reload"]


def test_tokens(homeostat, daemon):
    where = ("--state", daemon.state)
    code, out, err = homeostat("token", "add", "olga", "--role", "operator", *where)
    assert (code, "olga is operator by it" in err, "this once" in err) == (0, True, True)
    assert daemon.story.tokens.who(out.strip()).role == "operator"
    assert "olga" in homeostat("token", "list", *where)[1]
    assert homeostat("token", "add", "olga", *where)[0] == 1
    assert homeostat("token", "revoke", "olga", *where)[0] == 0
    assert "no tokens" in homeostat("token", "list", *where)[1]
    code, _, err = homeostat("token", "add", "bob", "--role", "boss", *where)
    assert (code, "boss" in err, "operator" in err, "/api/" in err) == (2, True, True, False)


# ---- errors


def test_mistakes_are_told_with_a_remedy_and_a_code(homeostat, daemon):
    where = ("--state", daemon.state)
    code, out, err = homeostat("why", "inc-7", *where)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "homeostat: 'inc-7' is the beginning of 2 incidents",
        "    write more: inc-7f3a99e0, inc-7c00beef",
    ]
    code, out, _ = homeostat("why", "inc-7", "--json", *where)
    assert json.loads(out)["exit"] == code == 1
    assert homeostat("why", "../../etc/passwd", *where)[0] == 1
    assert homeostat("nonsense")[0] == 2
    assert homeostat("silence", "--for")[0] == 2
    assert homeostat("incidents", "--limit", "0", *where)[0] == 2


@pytest.mark.parametrize(
    "words", [("status",), ("approve", "x", "-y"), ("incidents",), ("reload",)]
)
def test_no_daemon_at_all(homeostat, tmp_path, words):
    code, out, err = homeostat(*words, "--state", tmp_path / "none")
    assert (code, out) == (3, "")
    assert "no daemon runs here" in err
    assert "homeostat run" in err
    code, out, _ = homeostat(*words, "--state", tmp_path / "none", "--json")
    assert (code, json.loads(out)["exit"]) == (3, 3)


# ---- the graph


def test_the_graph_is_a_tree_of_what_each_needs(homeostat, daemon):
    code, out, _ = homeostat("topology", "--state", daemon.state)
    assert code == 0
    lines = out.splitlines()
    wine = next(i for i, line in enumerate(lines) if line.startswith("service wine"))
    assert "page inc-7f3a99e0" in lines[wine]
    below = "\n".join(lines[wine + 1 :])
    for part in (
        "runs on host web-1",
        "served by process gunicorn (pid 4100)",
        "serves model wine",
    ):
        assert part in below
    assert "nightly-batch (pid 5200)  note inc-7f3a99e0  suspect" in out
    _, out, _ = homeostat("topology", "web-1", "--state", daemon.state, "--json")
    assert {"nodes", "edges"} <= set(json.loads(out))


def test_a_graph_with_a_circle_is_shown_once(homeostat, daemon):
    names = [Entity("service", n) for n in "abc"]
    for one, other in zip(names, [*names[1:], names[0]], strict=True):
        daemon.call(daemon.story.hooks.world.topology.link, Edge("calls", one, other), "mesh")
    _, out, _ = homeostat("topology", "--state", daemon.state)
    assert [line.count("service a") for line in out.splitlines() if "service a" in line] == [1, 1]
    assert "calls service a  silent  (mesh) as above" in out


# ---- changes


def test_changes_are_listed_with_who_and_what(homeostat, daemon, tmp_path):
    assert "no changes are known" in homeostat("changes", "--state", daemon.state)[1]
    hooks = daemon.story.hooks
    ours = Change(hooks.now() - 60, MODEL, "release", "4", "3", "homeostat:run-11", "roll_back")
    theirs = Change(hooks.now() - 90, HOST, "config", "", "", "ann", "sysctl", "https://ci/7")
    for change in (ours, theirs):
        daemon.call(hooks.push, change)
    code, out, _ = homeostat("changes", "--state", daemon.state)
    assert code == 0
    first, second = out.splitlines()[1:3]
    assert "release" in first
    assert "homeostat:run-11" in first
    assert "sysctl https://ci/7" in second
    _, out, _ = homeostat("changes", "web-1", "--state", daemon.state, "--json")
    assert [c["kind"] for c in json.loads(out)] == ["config"]
    assert homeostat("changes", "wbe-1", "--state", daemon.state)[0] == 1
    assert homeostat("changes", "--since", "soon", "--state", daemon.state)[0] == 1


def test_changes_of_a_dead_daemon_are_in_its_journal(homeostat, tmp_path):
    story = Story(tmp_path / "state", now=time.time())
    story.hooks.push(Change(time.time() - 5, HOST, "config", "a", "b", "ann"))
    story.close()
    code, out, err = homeostat("changes", "--state", tmp_path / "state")
    assert code == 0
    assert "ann" in out
    assert "this is what the journal knows" in err


# ---- a dead daemon


def test_what_was_can_be_read_from_the_journal(homeostat, dead):
    code, out, err = homeostat("why", "inc-1a", "--state", dead)
    assert code == 0
    assert "new model version is worse" in out
    assert "this is what the journal knows" in err
    assert "inc-7f3a99e0" in homeostat("incidents", "--state", dead)[1]
    assert "serve-bad-deploy" in homeostat("runs", "--state", dead)[1]
    assert "helped" in homeostat("runs", "run-11", "--state", dead)[1]
    assert "not loaded" in homeostat("playbooks", "--state", dead)[1]
    assert homeostat("why", "nothing", "--state", dead)[0] == 1


def test_what_needs_a_daemon_says_so(homeostat, dead):
    for words in (
        ("approve", "run-22", "-y"),
        ("deny", "run-22"),
        ("status",),
        ("silence", "x", "--for", "1h"),
    ):
        code, _, err = homeostat(*words, "--state", dead)
        assert code == 3, words
        assert "start it with: homeostat run" in err


def test_pause_works_with_the_daemon_dead_and_the_config_faulty(homeostat, tmp_path, dead):
    config = tmp_path / "etc" / "agent.yaml"
    config.parent.mkdir()
    config.write_text("mode: [nonsense\n")
    where = ("--state", dead, "--config", config)
    code, out, err = homeostat("pause", "--reason", "help", *where)
    assert code == 0
    assert "paused: everything" in out
    assert str(config.parent / "PAUSED") in err
    assert json.loads((config.parent / "PAUSED").read_text())["reason"] == "help"
    code, _, err = homeostat("pause", "service:wine", *where)
    assert code == 3
    code, out, err = homeostat("resume", *where)
    assert (code, out.strip()) == (0, "nothing is paused")
    assert not (config.parent / "PAUSED").exists()
    assert homeostat("resume", *where)[0] == 3


def test_tokens_can_be_made_before_the_first_start(homeostat, tmp_path):
    state = tmp_path / "fresh"
    code, out, _ = homeostat("token", "add", "olga", "--role", "operator", "--state", state)
    assert code == 0
    assert Tokens(state / "tokens.json").who(out.strip()).name == "olga"
    reader = Journal.reader(state / "journal.sqlite")
    assert next(e.body["by"] for e in reader.read(("token",))).endswith("(admin, file)")
    memory = Memory()
    memory.load(reader)
    reader.close()


def test_audit_finds_what_was_altered(homeostat, dead):
    code, out, _ = homeostat("audit", "verify", "--state", dead)
    assert code == 0
    assert "all is as it was written" in out
    import sqlite3

    with sqlite3.connect(dead / "journal.sqlite") as raw:
        for (name,) in raw.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("UPDATE journal SET body = replace(body, '0.83', '0.99') WHERE seq = 1")
    raw.close()
    code, out, _ = homeostat("audit", "verify", "--state", dead)
    assert code == 1
    assert "entry 1: was altered" in out
    code, out, _ = homeostat("audit", "verify", "--state", dead, "--json")
    assert json.loads(out)["breaks"][0]["entry"] == 1


def test_audit_without_a_journal(homeostat, tmp_path):
    code, _, err = homeostat("audit", "verify", "--state", tmp_path)
    assert code == 2
    assert "--state" in err


# ---- commands that need no daemon


def test_init_writes_a_file_that_check_accepts(homeostat, tmp_path):
    code, out, _ = homeostat("init")
    path = tmp_path / "config" / "homeostat" / "agent.yaml"
    assert code == 0
    assert f"Wrote {path}" in out
    assert "homeostat check" in out
    code, out, err = homeostat("check")
    assert (code, err) == (0, "")
    assert f"{path}: no faults" in out
    assert "suggest at most" in out
    assert "nothing: it only watches" in out
    assert "host" in json.loads(homeostat("check", "--json")[1])["connectors"]
    code, _, err = homeostat("init")
    assert (code, "--force" in err) == (1, True)
    assert homeostat("init", "--force")[0] == 0
    assert homeostat("init", "--print")[1] == path.read_text()


def test_check_tells_every_fault_with_its_place(homeostat, tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("mode: atuo\nmanages: []\nbudgett: 3\nconnectors:\n  hots: {}\n")
    code, out, err = homeostat("check", "--config", path)
    assert (code, out) == (2, "")
    assert re.search(rf"^{re.escape(str(path))}:1:7: ", err, re.MULTILINE)
    assert re.search(rf"^{re.escape(str(path))}:3:1: ", err, re.MULTILINE)
    assert re.search(rf"^{re.escape(str(path))}:5:", err, re.MULTILINE)
    assert "3 faults" in err
    code, out, _ = homeostat("check", "--config", path, "--json")
    said = json.loads(out)
    assert (code, said["exit"]) == (2, 2)
    assert {f["line"] for f in said["faults"]} == {1, 3, 5}
    assert all(f["place"] == str(path) for f in said["faults"])


def test_check_without_a_file_is_about_the_defaults(homeostat):
    code, out, _ = homeostat("check")
    assert code == 0
    assert "built-in defaults: no faults" in out
    assert homeostat("check", "--config", "/nowhere/agent.yaml")[0] == 2


def test_words_in_brackets_are_shown_as_they_are(capsys):
    words = "[ssl: x] took all of [/dev/fd/3] and [kworker/0:1], :bug:"
    series = {"series": words, "said": words, "means": words, "value": 1.0}
    said = {
        "says": [words], "series": [series], "poll_s": 1.0, "records": {}, "models": [], "ways_in": [], "seen": [],
        "may": [],
    }  # fmt: skip
    tables.tried(said, None)
    assert capsys.readouterr().out.count(words) == 4


def test_what_a_connector_logs_is_no_part_of_what_try_answers(homeostat, tmp_path):
    path = tmp_path / "agent.yaml"
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    path.write_text(
        f"connectors: {{front: {{use: probe, service: shop, url: '{url}'}}}}\nservices: [{{id: shop}}]\n"
    )
    code, out, err = homeostat("try", "front", "--json", "--config", path)
    assert code == 0
    said = json.loads(out)
    assert [s["value"] for s in said["series"]] == [None, 0.0]
    assert "probe_failed" not in err, "it is in the answer"


def test_what_try_prints_to_be_copied_has_our_own_addresses(homeostat, tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text("listen: 127.0.0.1:9787\ningest_listen: 0.0.0.0:9318\n")
    _, out, _ = homeostat("try", "otlp", "--config", path)
    assert f"endpoint: http://{socket.gethostname()}:9318 " in out
    path.write_text("connectors: {rw: {use: remote_write, url: 'http://127.0.0.1:9/w'}}\n")
    _, out, _ = homeostat("try", "rw", "--config", path)
    assert "may: write our numbers there" in out
    path.write_text("ingest_listen: unix:/run/x.sock\n")
    _, out, _ = homeostat("try", "otlp", "--config", path)
    assert "endpoint: http://127.0.0.1:4318 " in out


def test_try_reads_a_source_twice_and_says_what_it_may(homeostat, tmp_path):
    code, out, _ = homeostat("try", "host", "--json")
    said = json.loads(out)
    assert code == 0
    rates = [s for s in said["series"] if s["metric"] == "host.context_switches_per_second"]
    assert rates[0]["value"] > 0
    assert said["poll_s"] < 5
    code, out, _ = homeostat("try", "host")
    assert "more, see them with --all" in out
    assert "may: nothing, it only watches" in out
    folder = tmp_path / "models" / "wine" / "1"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text('{"version": "1", "role": "candidate", "features": []}')
    code, out, err = homeostat("try", "model_directory", "--set", f"path={tmp_path / 'models'}")
    assert code == 0, err
    assert "roll_back" in out
    code, _, err = homeostat("try", "hsot")
    assert (code, "did you mean host" in err) == (1, True)
    assert homeostat("try", "host", "--set", "nonsense")[0] == 1
    assert homeostat("try", "host", "--set", "nonsense=1")[0] == 1


def test_install_prints_reasons_and_writes_only_when_told(homeostat, tmp_path, monkeypatch):
    from agent import install

    target = tmp_path / "homeostat.service"
    monkeypatch.setattr(install, "UNIT_PATH", target)
    monkeypatch.setattr(install.write, "__defaults__", (target,))
    code, out, _ = homeostat("install")
    assert code == 0
    assert "Type=notify" in out
    assert out.count("\n# ") > 30
    assert not target.exists()
    lines = json.loads(homeostat("install", "--json")[1])["lines"]
    assert all(line["why"] for line in lines)
    code, out, _ = homeostat("install", "--write")
    assert (code, target.exists()) == (0, True)
    assert "systemctl enable --now homeostat" in out
    assert "unchanged" in homeostat("install", "--write")[1]


# ---- teaching


def commands():
    found = {c.name or c.callback.__name__: c for c in cli.app.registered_commands}
    for name, group in (("token", cli.token_app), ("audit", cli.audit_app)):
        found |= {f"{name} {c.name}": c for c in group.registered_commands}
    return found


def test_the_commands_are_those_that_were_promised():
    assert all(m.__name__ in sys.modules for m in (act, asking, local))
    assert set(commands()) >= {
        "init", "run", "check", "try", "status", "incidents", "why", "runs", "approve", "deny", "silence",
        "pause", "resume", "token add", "token list", "token revoke", "demo", "install", "audit verify", "version",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_help_teaches(homeostat, name):
    code, out, _ = homeostat(*name.split(), "--help")
    assert code == 0
    assert "Example:  homeostat " in out
    if name != "run":  # a daemon speaks in logs
        assert "--json" in out
    first, dot, _ = commands()[name].help.replace("\n", " ").partition(". ")
    assert dot
    assert len(first) <= 64  # whole in the list of commands


def test_every_example_is_a_command_that_exists(homeostat):
    for name, command in commands().items():
        for line in command.help.splitlines():
            words = line.replace("Example:", "").split()
            if words[:1] == ["homeostat"] and "Example" in line:
                assert words[1] in {n.split()[0] for n in commands()}, (name, line)


def test_the_exit_codes_are_in_the_help(homeostat):
    _, out, _ = homeostat("--help")
    said = " ".join(out.split())
    assert "0 done, 1 problems found or refused, 2 usage or config, 3 no daemon answers" in said


# ---- the real script


SCRIPT = Path(sys.executable).with_name("homeostat")


def test_help_comes_at_once():
    heavy = ("numpy", "pydantic", "httpx", "sqlalchemy", "rich.table", "starlette", "psutil")
    code = (
        "import sys, time; t = time.process_time(); import agent.cli, agent.cli.act, agent.cli.asking, agent.cli.local;"
        f"print(time.process_time() - t, [m for m in {heavy} if m in sys.modules])"
    )
    took = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        seconds, loaded = done.stdout.split(" ", 1)
        took.append(float(seconds))
        assert loaded.strip() == "[]"
    assert min(took) < 0.3


def test_the_daemon_holds_no_command_but_its_own_and_no_tables(tmp_path):
    (tmp_path / "agent.yaml").write_text("no such key: 1\n")
    code = (
        "import atexit, sys; from agent.cli import main;"
        f"sys.argv = ['homeostat', 'run', '--config', {str(tmp_path / 'agent.yaml')!r}];"
        "atexit.register(lambda: print([m for m in sys.modules if m in ('agent.daemon', 'rich', 'agent.cli.act')]));"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout.strip() == "['agent.daemon']"


@pytest.mark.live
def test_the_real_daemon_is_spoken_to_over_its_real_socket(tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text(f"listen: 127.0.0.1:{free_port()}\n")
    state = tmp_path / "state"
    env = {k: v for k, v in os.environ.items() if not k.startswith("HOMEOSTAT")}
    where = ["--config", str(config), "--state", str(state)]

    def homeostat(*words):
        done = subprocess.run(
            [SCRIPT, *words, *where],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    told = (tmp_path / "log").open("w+")
    daemon = subprocess.Popen([SCRIPT, "run", *where, "--log-json"], stderr=told, env=env)
    try:
        until = time.monotonic() + 60
        while homeostat("status")[0] != 0:
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
        code, out, err = homeostat("status", "--json")
        assert code == 0, err
        said = json.loads(out)
        assert {"host", "processes"} <= {s["name"] for s in said["sources"]}
        assert said["mode"] == "suggest"
        assert homeostat("pause", "--reason", "look")[0] == 0
        code, out, err = homeostat("token", "add", "ci", "--role", "operator")
        assert code == 0, err
        assert homeostat("audit", "verify")[0] == 0
        os.kill(daemon.pid, signal.SIGKILL)  # no farewell
        daemon.wait(10)
        code, out, err = homeostat("runs")
        assert (code, out.strip()) == (0, "no runs")
        assert "it has died" in err
        reader = Journal.reader(state / "journal.sqlite")
        memory = Memory()
        memory.load(reader)
        assert memory.pauses["*"].reason == "look"
        assert reader.verify() == []
        reader.close()
    finally:
        daemon.kill()
        daemon.wait(10)
        told.close()


# ---- models


def test_versions_are_compared_in_a_sentence(homeostat, daemon):
    code, out, _ = homeostat("compare", "fraud", "6", "7", "--state", daemon.state)
    assert code == 0
    assert "version 7@canary is worse than 6: log10 odds" in out
    assert "600 rows against 2400" in out
    _, out, _ = homeostat("compare", "fraud", "7", "6", "--json", "--state", daemon.state)
    assert json.loads(out)["verdict"] == "better"
    code, _, err = homeostat("compare", "fraud", "6", "9", "--state", daemon.state)
    assert code != 0
    assert "known: 6, 7@canary" in err


def test_edges_are_printed_to_the_last_digit(homeostat, daemon):
    code, out, _ = homeostat("edges", "fraud", "--state", daemon.state)
    assert code == 0
    assert "DE, FR" in out
    said = json.loads(homeostat("edges", "fraud", "--json", "--state", daemon.state)[1])
    mine = daemon.story.hooks.asked().edges("fraud", "6")[1]
    assert said["features"]["amount"]["edges"] == mine["amount"]["edges"]


def test_one_record_is_explained_from_a_file(homeostat, daemon, tmp_path):
    row = tmp_path / "row.json"
    row.write_text('{"id": "r-1", "version": "6", "features": {"amount": -2.0, "country": "FR"}}')
    code, out, _ = homeostat("explain", "fraud", row, "--state", daemon.state)
    assert code == 0
    assert "the probability of 1 is 0.4" in out
    amount = next(line for line in out.splitlines() if line.startswith("amount"))
    assert "-0." in amount
    for text, says in (("[1]", "is no record"), ("{", "not one JSON object")):
        row.write_text(text)
        code, _, err = homeostat("explain", "fraud", row, "--state", daemon.state)
        assert code != 0
        assert says in err


# ---- what people do beside answering


def test_an_incident_is_put_off_called_for_and_corrected(homeostat, daemon):
    at = ("--state", daemon.state)
    code, out, _ = homeostat("snooze", "inc-7f", "--for", "2h", "--reason", "at noon", *at)
    assert (code, out.split(":")[0].split(" until")[0]) == (0, "inc-7f3a99e0 is put off")
    code, out, _ = homeostat("snooze", "inc-7f", "--for", "0", *at)
    assert (code, "put off no longer" in out) == (0, True)
    code, out, _ = homeostat("page", "inc-7f", "--reason", "I need somebody", *at)
    assert (code, out.startswith("called for inc-7f3a99e0")) == (0, True)
    code, out, _ = homeostat("blame", "inc-7f", "host.disk", "--note", "rebuilding", *at)
    assert code == 0
    assert "not host.neighbour" in out
    assert "it was host.disk" in out


def test_a_playbook_is_held_back(homeostat, daemon):
    at = ("--state", daemon.state)
    code, out, _ = homeostat("mode", "calm", "observe", "--reason", "until noon", *at)
    assert code == 0
    assert "observe" in out
    code, _, err = homeostat("mode", "calm", "full", *at)
    assert (code, "full" in err, "approve" in err, "/api/" in err) == (2, True, True, False)


def test_a_playbook_is_run_by_a_yes_to_the_plan_that_was_seen(homeostat, daemon):
    at = ("--state", daemon.state)
    code, out, _ = homeostat("playbook", "run", "calm", "nightly", *at)
    assert code == 0
    assert "set_priority" in out
    yes = out.split("--yes ")[1].split()[0]
    assert "run-byhand" not in daemon.story.hooks.memory.runs
    code, _, err = homeostat("playbook", "run", "calm", "nightly", "--yes", "00000000", *at)
    assert (code, "by now" in err) == (1, True)
    code, out, _ = homeostat("playbook", "run", "calm", "nightly", "--yes", yes, *at)
    assert (code, out.startswith("run-byhand is acting")) == (0, True)


def test_a_closed_gate_is_shown_and_nothing_starts(homeostat, daemon):
    at = ("--state", daemon.state)
    daemon.story.hooks.lets = False
    code, out, _ = homeostat("playbook", "run", "calm", "nightly", *at)
    assert (code, "can not be started" in out) == (1, True)
    plan = json.loads(homeostat("playbook", "run", "calm", "nightly", "--json", *at)[1])
    assert plan["allowed"] is False


def test_an_undo_is_asked_for_twice_or_with_yes(homeostat, daemon):
    at = ("--state", daemon.state)
    code, _, err = homeostat("undo", "run-11", *at)
    assert (code, "add --yes" in err) == (1, True)
    code, _, err = homeostat("undo", "run-11", "--yes", *at)
    assert (code, "nothing to undo" in err) == (1, True)
