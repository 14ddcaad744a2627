"""Every connector while its outside is gone for ten minutes, and when it is back: one life of the whole daemon.

The life is that of `tests/away_driver.py`: eighteen minutes by a clock that jumps, once for all tests here. What each
connector promises stands in `CASES`; one that has no outside that could go stands in `NO_OUTSIDE` with the reason. A
connector that stands in neither fails `test_every_connector_is_here`.
"""

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
pytest.importorskip("prometheus_api_client", reason="needs the extra `prometheus`")
pytest.importorskip("cramjam", reason="needs the extra `remote-write`")
DRIVER = Path(__file__).parents[1] / "away_driver.py"
GONE, BACK, END = 180.0, 780.0, 1080.0
KNOWN_S = 6.0
"""A source is blind after three of its intervals, and a busy machine looks late."""
"""When all goes, when it is back, when the life ends."""
CALM_S = 90.0
"""After its return everything must be well within so long: the longest rest, and a bit."""

NO_OUTSIDE = {
    "cgroup": "files of this kernel",
    "commands": "programs of this host, each started by a step; what they ask outside is theirs",
    "connections": "tables of this kernel",
    "containers": "control groups of this kernel",
    "deployments": "senders come to us and try again; nothing of it is kept, and their silence means nothing",
    "disks": "disks of this host; smartctl is a program of it",
    "gpu": "a driver in a child of ours: hung, lost and back in tests/connectors/test_gpu.py",
    "gpu_control": "as gpu: tests/connectors/test_gpu_control.py",
    "gunicorn": "processes of this host: gone and back in tests/connectors/test_gunicorn.py",
    "haproxy": "a socket of this host, asked by steps alone: gone and back in tests/live/test_haproxy.py",
    "host": "this kernel",
    "kernel_log": "this kernel",
    "kubernetes_nodes": "asked by steps alone, as kubernetes, over the same code",
    "machine": "this host",
    "old_files": "files of this host",
    "processes": "this kernel",
    "slack": "its threads and the notes that they wait for: tests/connectors/test_slack.py",
    "systemd": "the manager of this host, asked by steps alone",
    "trainer": "a program of this host; how it outlives us: tests/connectors/test_trainer.py",
    "units": "the manager of this host: a systemctl that fails in tests/connectors/test_systemd_units.py",
}


@dataclass(frozen=True)
class Case:
    """What is expected of one connector.

    what     as /health calls it while it is away; "" = nothing asks it by itself, or it is a finding
    most     so often it may be asked in the ten minutes; per_use: requests of one use of an ability
    owed     how much may come at once at the return: what was kept
    notes, changes   whether each of the life arrives, once
    """

    what: str = ""
    most: int = 0
    asked: str = ""
    """Under which name its requests are counted, where it is another one."""
    owed: int = 40
    used: bool = False
    notes: bool = False
    changes: bool = False
    sources: tuple[str, ...] = field(default_factory=tuple)
    """As which sources it is seen; they are blind while it is away, and fresh again."""


CASES = {
    # silences at their rhythm, alerts with growing pauses
    "alertmanager": Case("notes", 65),
    "batch_scoring": Case(),
    "docker": Case(used=True),
    "elastic_logs": Case("readings", 18, sources=("elastic_logs",)),
    "elastic_out": Case("record", 30),
    "elastic_predictions": Case("readings", 20, sources=("elastic_predictions.feed",)),
    "fleet_http": Case(used=True),
    "flag_file": Case(used=True),
    "flag_http": Case(used=True),
    "grafana_annotations": Case("notes", 18, asked="grafana", changes=True),
    "heartbeat": Case("heartbeat", 21),
    "http_calls": Case(used=True),
    "kubernetes": Case(used=True),
    "mail": Case("notes", 18, notes=True),
    "mlflow": Case("readings", 18, used=True, sources=("mlflow",)),
    "model_directory": Case("readings", 18, used=True, sources=("model_directory",)),
    "otlp": Case(sources=("otlp",)),
    "page": Case("notes", 18, notes=True),
    "pagerduty": Case("notes", 18, notes=True),
    "predictions": Case(),
    "probe": Case(),
    "prometheus": Case("readings", 30, sources=("prometheus", "prometheus.feed")),
    "remote_write": Case("numbers", 18, asked="write", owed=320),
    "trainer_http": Case(used=True),
    "trainer_kubeflow": Case(used=True),
    "trainer_kubernetes": Case(used=True),
    "webhook": Case("notes", 18, notes=True, changes=True),
}


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """Return what was told of the life."""
    folder = tmp_path_factory.mktemp("life")
    with (folder / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(folder)], stdout=log, stderr=log, timeout=400, check=False,
            env={**os.environ, "PYTHONPATH": str(DRIVER.parents[1])},
        )  # fmt: skip
    said = (folder / "log").read_text()
    assert done.returncode == 0, said[-4000:]
    return json.loads((folder / "told.json").read_text()) | {"log": said}


def looks(life, since, until):
    return [one for one in life["seen"] if since <= one["at"] < until]


def test_every_connector_is_here(life):
    assert sorted({*CASES, *NO_OUTSIDE}) == life["registered"]
    assert not set(CASES) & set(NO_OUTSIDE)
    assert all(NO_OUTSIDE.values())


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.what])
def test_it_is_not_asked_all_the_time_while_it_is_gone_nor_at_its_return(name, life):
    case = CASES[name]
    who = case.asked or name
    # refused connections reach nobody: the daemon itself tells of its tries
    while_gone = [at for at in life["tried"][name] if GONE <= at < BACK]
    assert 1 <= len(while_gone) <= case.most, while_gone
    if who not in life["asked"]:
        return
    well = [at for at in life["asked"][who] if GONE - 120 <= at < GONE]
    storm = [at for at in life["asked"][who] if BACK <= at < BACK + 120]
    assert len(storm) <= 3 * len(well) + case.owed, (len(storm), len(well))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.what])
def test_health_says_who_is_away_since_when_why_and_when_next(name, life):
    case = CASES[name]
    keys = case.sources or (name,)
    late = looks(life, GONE + 120, BACK - 5)
    assert late
    for look in late:
        found = {(a["connector"], a["what"]): a for a in look["health"]["away"]}
        assert look["health"]["status"] == "degraded"
        for key in keys:
            away = found[key, case.what]
            assert away["why"]
            assert 0.0 <= away["again_s"] <= 60.0
            since = away["since"] - life["began"]
            assert GONE - 1 <= since <= GONE + 90, (key, since)
    for look in looks(life, BACK + CALM_S, END):
        assert not [a for a in look["health"]["away"] if a["connector"] in keys], look
        for source in case.sources:
            assert look["health"]["sources"][source]["state"] == "fresh"


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.notes])
def test_every_note_arrives_once(name, life):
    """Several may come as one message, when many are owed: each is told once, and no message comes twice."""
    arrived = life["arrived"][name]
    assert {key for _, key in life["notes"]} <= set(arrived)
    assert len(set(arrived)) == len(arrived)
    assert set(life["given"][name].values()) == {1}


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.changes])
def test_every_change_is_told_once(name, life):
    given = {
        k: n for k, n in life["given"][name].items() if name != "webhook" or k.startswith("change:")
    }
    assert len(given) == len(life["notes"])
    assert set(given.values()) == {1}


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.used])
def test_a_step_fails_at_once_and_the_next_one_after_the_return_does_not(name, life):
    used = life["used"][name]
    gone = [said for at, said in used if GONE < at < BACK]
    assert len(gone) >= 25
    assert all(gone), gone
    assert len(set(gone)) <= 2, "the same failure is told in the same words"
    assert [said for at, said in used if at < GONE or at > BACK + 1] == [""] * (
        len(used) - len(gone)
    )
    if name in life["asked"] and not CASES[name].what:
        assert len(life["asked"][name]) <= 2 * (len(used) - len(gone)), "one use, one question"


def test_rows_are_all_counted_once(life):
    """Log files that were moved away, an index that was gone: every row of before, meanwhile and after."""
    for model in ("log", "rows"):
        assert life["logged"] - 40 <= life["rows"][model] <= life["logged"], model
    assert life["rows"]["log"] <= life["logged"]


def test_the_record_is_whole_there_and_the_samples_come_once(life):
    assert life["events"] > 0
    assert life["behind"] <= 10, "what was written a moment ago"
    assert life["given"]["remote_write"]
    assert set(life["given"]["remote_write"].values()) == {1}
    tally = life["tally"]["remote_write"]
    assert tally["waiting"] <= 2 * tally["delivered"] / len(life["given"]["remote_write"])
    assert "dropped" not in tally


def test_a_heartbeat_that_was_missed_is_not_made_up_for(life):
    beats = [at for at in life["asked"]["heartbeat"] if at >= BACK]
    assert min(b - a for a, b in itertools.pairwise(beats)) >= 25.0


@pytest.mark.parametrize("source", ["prometheus", "otlp"])
def test_a_gap_is_unknown_and_no_rate_spikes_after_it(source, life):
    at = {"prometheus": 1, "otlp": 2}[source]
    rates = [(row[0], row[at]) for row in life["rates"] if row[0] > 60]
    known = [rate for _, rate in rates if rate is not None]
    assert known
    assert all(math.isclose(rate, 100.0, rel_tol=0.1) for rate in known), set(known)
    unknown = [rate is None for when, rate in rates if GONE + 120 <= when < BACK]
    assert all(unknown)
    assert any(rate is not None for when, rate in rates if when > BACK + CALM_S)


def test_nothing_is_called_trouble_but_that_they_are_gone(life):
    """A source that is blind, a probe that fails: true. A number of after the gap against one of before: not."""
    true = ("source.blind", "service.up{service:web}", "service.probe_")
    for incident in life["incidents"]:
        # what swung as they went, before it was known that they are blind, is still evidence beside them
        found = [series for series, onset, _ in incident["found"] if onset >= GONE + KNOWN_S]
        assert all(series.startswith(true) for series in found), incident
    assert not [i for i in life["incidents"] if i["opened"] > BACK + CALM_S], life["incidents"]


def test_what_is_kept_is_bounded_and_given_back(life):
    well, gone, back = (
        looks(life, a, b) for a, b in ((100, GONE), (BACK - 200, BACK), (BACK + 200, END))
    )
    assert max(look["owed"].get("mail", 0) for look in gone) <= len(life["notes"])
    assert max(look["fds"] for look in gone + back) <= max(look["fds"] for look in well) + 20
    assert (
        max(look["threads"] for look in gone + back) <= max(look["threads"] for look in well) + 20
    )
    assert max(look["tasks"] for look in gone) <= max(look["tasks"] for look in well) + 20
    # one look may catch a question in flight: what is never given back is there at each of them
    assert min(look["tasks"] for look in back) <= max(look["tasks"] for look in well) + 2
    assert back[-1]["rss"] - well[0]["rss"] < 40e6, (
        well[0]["rss"],
        gone[-1]["rss"],
        back[-1]["rss"],
    )
    assert not any(back[-1]["owed"].values())


def test_it_walks_all_the_while_and_nothing_is_a_bug(life):
    assert life["bugs"] == {}
    assert '"bug"' not in life["log"]
    first, last = life["seen"][0], life["seen"][-1]
    assert last["ticks"] - first["ticks"] >= 0.9 * (last["at"] - first["at"])


def test_each_failure_is_said_when_it_begins_and_when_it_ends_not_at_each_try(life):
    said = [json.loads(line) for line in life["log"].splitlines() if line.startswith("{")]
    for event in (
        "note_not_delivered",
        "source_failed",
        "numbers_not_delivered",
        "heartbeat_not_heard",
    ):
        about = [one for one in said if one["event"] == event]
        keys = [one.get("way") or one.get("source") or one.get("sink") for one in about]
        assert keys, event
        for key in set(keys):
            assert keys.count(key) <= 4, (event, key)
    for event in (
        "notes_taken_again",
        "source_back",
        "numbers_taken_again",
        "heartbeat_heard_again",
        "archive_back",
    ):
        assert any(one["event"] == event and one["after_s"] > 500 for one in said), event
