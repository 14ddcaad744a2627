import csv
import json
import sys

import numpy as np
import pytest

from agent import cli, registry
from agent.codec import pack
from agent.graph_past import GraphPast
from agent.history import History
from agent.journal import Journal
from agent.memory import Silence
from agent.model import Edge, Entity, Frame, Incident, Series, Sighting
from agent.topology import Topology

registry.load()

SHOP, HOST = Entity("service", "shop"), Entity("host", "h")
BUSY = "service.busy_ratio{service:shop}"
RPS = "service.requests_per_second{service:shop}"
P95 = "service.latency_p95_seconds{service:shop}"
START = 1_764_000_000.0
AGENT = """
services:
  - id: shop
    objectives: [{signal: service.latency_p95_seconds, max: 250ms, for: 10s}]
mode: suggest
connectors: {page: {command: ['true']}}
manages: [{kind: service}]
single_agent: true
diagnose: {settle: 10s}
forecasts: {enabled: false}
"""
BOOK = """
version: 1
id: say-so
title: Say that the shop is slow
target: {kind: service}
because: {cause: serving, min_confidence: 10%, severity: warning}
when: ['service.latency_p95_seconds > LIMIT']
mode: MODE
do: [{id: tell, use: notify, with: {text: 'slow: ${target.id}'}}]
"""


@pytest.fixture
def homeostat(monkeypatch, capsys, tmp_path):
    """Run a command as the installed script does, in a folder of its own; returns (exit code, stdout, stderr)."""
    for name in ("HOMEOSTAT_CONFIG", "HOMEOSTAT_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "agent.yaml").write_text(AGENT)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["homeostat", "replay", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def rows(n=240, ill=120, step=10.0):
    """More is asked of the shop from row `ill` on, for a while: it has no room left and answers late."""
    rng = np.random.default_rng(3)
    ts = START + step * np.arange(n)
    bad = (np.arange(n) >= ill) & (np.arange(n) < ill + 60)
    busy = np.clip(np.where(bad, 0.97, 0.4) + rng.normal(0, 0.01, n), 0, 1)
    p95 = np.where(bad, 0.9, 0.03) * (1 + rng.normal(0, 0.03, n))
    rps = np.where(bad, 160.0, 40.0) + rng.normal(0, 1.0, n)
    return ts, busy, p95, rps


def table(path, **how):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["ts", BUSY, P95, RPS])
        out.writerows(zip(*(x.tolist() for x in rows(**how)), strict=True))
    return path


def book(folder, name="say-so", limit="0.2", mode="suggest"):
    folder.mkdir(exist_ok=True)
    text = BOOK.replace("LIMIT", limit).replace("MODE", mode).replace("say-so", name)
    (folder / f"{name}.yaml").write_text(text)
    return folder


def state(folder):
    """A state folder as a daemon leaves it: history, graph, journal; the end of history still in its log."""
    history = History(folder / "history", age_s=1e6, size_bytes=1e9)
    graph, topology = GraphPast(folder / "history", 1e6), Topology()
    topology.take(Sighting(SHOP, edges=(Edge("runs_on", SHOP, HOST),)))
    series = tuple(Series(text.partition("{")[0], SHOP) for text in (BUSY, P95, RPS))
    for ts, *values in zip(*rows(), strict=True):
        history.append(Frame("made", float(ts), series, np.array(values)))
        graph.take(float(ts), topology)
    history.flush()
    graph.close()
    Journal(folder / "journal.sqlite").close()
    return history


def everything(folder):
    """All files but those that SQLite lays beside a journal for whoever reads it."""
    return {
        p: p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(("-shm", "-wal"))
    }


def test_a_file(homeostat, tmp_path):
    book(tmp_path / "playbooks.d")
    past = table(tmp_path / "march.csv")
    words = ("say-so", "--file", past, "--config", "agent.yaml", "--warm", "0s")
    code, out, err = homeostat(*words, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["from"], said["to"], said["series"], said["ticks"]) == (START, START + 2390, 3, 240)  # fmt: skip
    assert (said["pages"], said["playbooks"]) == (1, 1)
    page = next(i for i in said["incidents"] if i["paged"])
    assert (page["about"], page["state"]) == ("service:shop", "resolved")
    assert page["cause"].startswith("serving")
    (act,) = said["acts"]
    assert (act["playbook"], act["target"], act["mode"]) == ("say-so", "service:shop", "suggest")
    assert act["steps"][0]["with"] == {"text": "slow: service:shop"}
    assert (act["verdict"], act["recorded"]) == ("cannot_tell", [])
    assert START + 1200 <= act["at"] <= START + 1300
    assert homeostat(*words, "--json", "--expect-no-acts")[0] == 1
    code, out, _ = homeostat(*words)
    assert "say-so on service:shop suggests: notify text=slow: service:shop" in out
    assert "verdicts, are not known" in out


def test_parquet_says_what_csv_says(homeostat, tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    book(tmp_path / "playbooks.d")
    names = ("ts", BUSY, P95, RPS)
    parquet.write_table(
        pyarrow.table(dict(zip(names, rows(), strict=True))), tmp_path / "m.parquet"
    )
    found = []
    for past in (table(tmp_path / "m.csv"), tmp_path / "m.parquet"):
        code, out, _ = homeostat("--file", past, "--config", "agent.yaml", "--json")
        said = json.loads(out)
        assert (code, len(said["incidents"])) == (0, 1)
        found.append((said["incidents"], said["acts"], said["held"], said["silent"]))
    assert found[0] == found[1]


def test_history_beside_whoever_writes_it(homeostat, tmp_path):
    folder = tmp_path / "homeostat"
    history = state(folder)
    book(tmp_path / "playbooks.d", mode="auto")
    before = everything(folder)
    words = ("say-so", "--config", "agent.yaml", "--state", folder, "--json")
    code, out, err = homeostat(*words)
    assert (code, err) == (0, "")
    assert everything(folder) == before
    first, second = json.loads(out), json.loads(homeostat(*words)[1])
    timed = {"took_s", "cells_per_second", "times_real_time"}
    assert {k: v for k, v in first.items() if k not in timed} == {
        k: v for k, v in second.items() if k not in timed
    }
    assert len(first["acts"]) == 1
    assert not any("who runs on" in n for n in first["notes"])
    said = json.loads(homeostat(*words, "--from", str(START - 3600))[1])
    assert "what was recorded begins 1 h after --from" in said["notes"][1]
    history.close()


def test_what_the_journal_recorded_is_compared_and_what_people_did_then_holds(homeostat, tmp_path):
    folder = tmp_path / "homeostat"
    state(folder).close()
    book(tmp_path / "playbooks.d")
    words = ("say-so", "--config", "agent.yaml", "--state", folder, "--json")
    said = json.loads(homeostat(*words)[1])
    page = next(i for i in said["incidents"] if i["paged"])
    journal = Journal(folder / "journal.sqlite")
    silence = Silence("s1", "service:*", START + 1e5, "ann", created=START)
    journal.append("silence", "s1", pack(silence), START + 10)
    for id_, opened, about in (
        (page["id"], page["opened"], SHOP),
        ("other", START + 100, Entity("service", "elsewhere")),
    ):
        was = Incident(
            id_, opened, opened + 30, "resolved", "page", "slow", resolved=opened + 30, about=about
        )
        journal.append("incident", id_, pack(was), opened)
    journal.close()
    said = json.loads(homeostat(*words)[1])
    assert said["recorded"]["incidents"] == 2
    assert said["recorded"]["matched"] == 1
    assert [m["id"] for m in said["recorded"]["missed"]] == ["other"]
    assert (said["acts"], said["gates"]) == ([], {"silence": 1})
    assert [g["name"] for g in said["held"][0]["gates"]] == ["silence"]


def test_two_versions_of_playbooks(homeostat, tmp_path):
    past = table(tmp_path / "march.csv")
    old, same = book(tmp_path / "old"), book(tmp_path / "same")
    deaf, more = book(tmp_path / "deaf", limit="5.0"), book(tmp_path / "more", mode="approve")
    words = (
        "say-so",
        "--file",
        past,
        "--config",
        "agent.yaml",
        "--playbooks",
        old,
        "--json",
        "--against",
    )
    code, out, _ = homeostat(*words, same)
    assert (code, json.loads(out)["against"]["differs"]) == (0, False)
    code, out, _ = homeostat(*words, deaf)
    of = json.loads(out)["against"]
    assert (code, len(of["only_first"]), of["only_against"]) == (1, 1, [])
    (tmp_path / "agent.yaml").write_text(AGENT.replace("mode: suggest", "mode: auto"))
    code, out, _ = homeostat(*words, more)
    (pair,) = json.loads(out)["against"]["otherwise"]
    assert (code, pair["first"]["mode"], pair["against"]["mode"]) == (1, "suggest", "approve")


def test_a_would_be_act_holds_its_place(homeostat, tmp_path):
    """Its run is judged for a while and has a cooldown after that, though nobody carries it out."""
    past = table(tmp_path / "march.csv")
    (tmp_path / "agent.yaml").write_text(AGENT.replace("mode: suggest", "mode: auto"))
    book(tmp_path / "playbooks.d", mode="auto")
    code, out, _ = homeostat("say-so", "--file", past, "--config", "agent.yaml", "--json")
    said = json.loads(out)
    assert (code, [a["mode"] for a in said["acts"]]) == (0, ["auto"])
    assert said["gates"], "a second act in the same trouble was stopped by nothing"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no history lies in"),
        (("--file", "x.csv"), "x.csv is not there"),
        (("--file", "odd.csv"), "no signal is called `shop.latency`"),
        (("--file", "march.csv", "--from", "yesterday"), "--from: not a time: 'yesterday'"),
        (("--file", "march.csv", "--to", "1000"), "nothing lies between"),
        (("--file", "march.csv", "--prometheus", "http://x"), "two pasts"),
        (("--file", "march.csv", "--query", "a=b"), "asks a Prometheus"),
        (("--prometheus", "me:secret@x:9090"), "homeostat: x:9090 is no address of Prometheus"),
        (("--prometheus", "http://x:99999"), "http://x:99999 is no address of Prometheus"),
        (("--file", "march.csv", "--warm", "long"), "--warm: not understood"),
        (("nobody", "--file", "march.csv"), "no playbook is called 'nobody'"),
        (("--file", "march.csv", "--against", "nowhere"), "nowhere: can not be listed"),
    ],
)
def test_faults_are_told_with_place_and_remedy(homeostat, tmp_path, words, says):
    table(tmp_path / "march.csv", n=10, ill=5)
    (tmp_path / "odd.csv").write_text("ts,shop.latency\n1,2\n")
    code, out, err = homeostat(*words)
    assert code in {1, 2}
    assert out == ""
    assert says in err, err


def test_what_is_not_installed_is_not_refused_by_prometheus(homeostat, monkeypatch):
    def gone(name):
        raise ImportError(name)

    monkeypatch.setattr("connectors._promql.import_module", gone)
    code, _, err = homeostat("--prometheus", "http://127.0.0.1:1", "--from", "1h")
    assert (code, "asking Prometheus needs prometheus-api-client" in err) == (1, True)
    assert "refused" not in err
