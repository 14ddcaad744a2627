import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalogue import SIGNALS
from agent.model import Entity, Frame, Series, Sighting
from agent.telemetry import METRICS, MetricDef, Telemetry, wants_openmetrics
from agent.world import World

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
UNESCAPE = {r"\\": "\\", r"\n": "\n", r"\"": '"'}
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")


def parse(text, *, openmetrics=False):
    """Read an exposition as a scraper does and refuse whatever a scraper refuses.

    Returns {sample name: {sorted label pairs: value}} and {family: (type, unit, help)}.
    """
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    if openmetrics:
        assert lines.pop() == "# EOF"
    samples, families, current, closed = {}, {}, None, set()
    for line in lines:
        meta = re.fullmatch(rf"# (HELP|TYPE|UNIT) ({NAME}) (.*)", line)
        if meta:
            what, family, value = meta.groups()
            if family != current:
                assert family not in closed, f"{family} is in two places"
                closed.add(current)
                current = family
                families[family] = {}
            assert what not in families[family], f"second {what} of {family}"
            families[family][what] = value
            continue
        assert not line.startswith("#"), line
        match = SAMPLE.fullmatch(line)
        assert match, f"not a sample: {line!r}"
        name, inner, number = match.groups()
        kind = families[current]["TYPE"]
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        if kind == "histogram" or (kind == "counter" and openmetrics):
            assert name in {current + e for e in endings[kind]}, (name, current)
        else:
            assert name == current
            assert kind == "counter" or not name.endswith(("_total", "_count", "_bucket", "_sum"))
        pairs = []
        if inner:
            at = 0
            while at < len(inner):
                pair = LABEL.match(inner, at)
                assert pair, f"bad labels: {inner!r}"
                plain = re.sub(r"\\.", lambda m: UNESCAPE[m.group()], pair.group(2))
                pairs.append((pair.group(1), plain))
                at = pair.end()
                assert at == len(inner) or inner[at] == ","
                at += 1
        assert len({k for k, _ in pairs}) == len(pairs), f"a label twice: {line}"
        key = tuple(sorted(pairs))
        assert key not in samples.setdefault(name, {}), f"a sample twice: {line}"
        samples[name][key] = float(number.replace("Inf", "inf"))
    for family, told in families.items():
        assert {"HELP", "TYPE"} <= told.keys(), family
        if "UNIT" in told:
            assert family.removesuffix("_total").endswith("_" + told["UNIT"])
    return samples, families


def entry(what, subject, **body):
    return SimpleNamespace(kind=what, subject=subject, body=body)


HOST = Entity("host", "web-1")


def world_of(*rows, source="host", ts=100.0, patience=10.0):
    world = World()
    series = tuple(sorted(s for s, _ in rows))
    values = np.array([dict(rows)[s] for s in series])
    world.patience[source] = patience
    world.take(Frame(source, ts, series, values))
    return world


@pytest.mark.parametrize("openmetrics", [False, True])
def test_everything_we_say_about_ourselves_can_be_read(openmetrics):
    telemetry = Telemetry(started=123.5)
    for d in METRICS.values():
        labels = dict.fromkeys(d.labels, 'a "b" \\ c\nd')
        if d.kind == "histogram":
            telemetry.observe(d.name, 0.003, **labels)
            telemetry.observe(d.name, 99.0, **labels)
        elif d.kind == "counter":
            telemetry.add(d.name, 2, **labels)
        else:
            telemetry.set(d.name, 1.5, **labels)
    samples, families = parse(telemetry.render(openmetrics=openmetrics), openmetrics=openmetrics)
    bare = (lambda d: d.name.removesuffix("_total")) if openmetrics else (lambda d: d.name)
    assert {bare(d) for d in METRICS.values()} == set(families)
    assert samples["homeostat_false_pages_last_week"] == {(): 1.5}
    nasty = (("source", 'a "b" \\ c\nd'),)
    assert samples["homeostat_frames_total"][nasty] == 2
    buckets = samples["homeostat_tick_seconds_bucket"]
    counts = [v for _, v in sorted(buckets.items(), key=lambda kv: float(dict(kv[0])["le"]))]
    assert counts == sorted(counts)
    assert buckets[(("le", "+Inf"),)] == samples["homeostat_tick_seconds_count"][()] == 2
    assert buckets[(("le", "0.005"),)] == 1
    assert samples["homeostat_tick_seconds_sum"][()] == pytest.approx(99.003)


def test_the_world_is_exported_with_entity_and_labels_and_unknown_is_left_out():
    cpu = Series("host.cpu_utilization_ratio", HOST, (("mode", "user"),))
    free = Series("host.memory_bytes", HOST, (("use", "free"),))
    lost = Series("host.load1_count", HOST)
    world = world_of((cpu, 0.25), (free, 4e9), (lost, math.nan))
    samples, families = parse(Telemetry(0).render(world))
    key = (("entity", "host:web-1"), ("mode", "user"))
    assert samples["homeostat_host_cpu_utilization_ratio"] == {key: 0.25}
    assert families["homeostat_host_cpu_utilization_ratio"] == {
        "HELP": SIGNALS["host.cpu_utilization_ratio"].help,
        "TYPE": "gauge",
        "UNIT": "ratio",
    }
    assert "homeostat_host_load1" not in samples

    world.now = 111.0  # older than the patience with its source: unknown now
    samples, _ = parse(Telemetry(0).render(world))
    assert "homeostat_host_memory_bytes" not in samples


def test_new_tables_are_followed_and_doubles_are_dropped():
    a, b = Series("host.load1_count", HOST), Series("host.load5_count", HOST)
    telemetry = Telemetry(0)
    world = world_of((a, 1.0))
    assert parse(telemetry.render(world))[0]["homeostat_host_load1"].popitem()[1] == 1.0
    world.take(Frame("host", 101.0, (a, b), np.array([2.0, 3.0])))
    world.take(Frame("other", 101.0, (a,), np.array([9.0])))
    samples, _ = parse(telemetry.render(world))
    assert list(samples["homeostat_host_load1"].values()) == [2.0]
    assert list(samples["homeostat_host_load5"].values()) == [3.0]
    world.drop("host")
    samples, _ = parse(telemetry.render(world))
    assert list(samples["homeostat_host_load1"].values()) == [9.0]


def test_keys_of_machines_get_a_name_for_people():
    process = Entity("process", "boot/1/2")
    series = Series("process.memory_bytes", process)
    world = world_of((series, 1e6))
    world.topology.take(Sighting(process, attrs=(("command", "x --password=1"), ("name", "x"))))
    text = Telemetry(0).render(world)
    samples, _ = parse(text)
    key = (("entity", process.id), ("kind", "process"), ("name", "x"))
    assert samples["homeostat_entity_info"] == {key: 1.0}
    assert "password" not in text


@given(st.text(max_size=20), st.text(min_size=1, max_size=10), st.floats(allow_nan=False))
def test_any_label_and_any_number_survive(text, name, value):
    series = Series("host.load1_count", Entity("host", text or "h"), ((name, text),))
    samples, _ = parse(Telemetry(0).render(world_of((series, value))))
    (labels,) = samples["homeostat_host_load1"]
    assert ("entity", f"host:{text or 'h'}") in labels
    assert text in {v for k, v in labels if k != "entity"}
    assert samples["homeostat_host_load1"][labels] == value


def test_the_journal_is_counted_once_an_incident_and_once_a_run():
    t = Telemetry(0)
    for _ in range(3):
        t.wrote(entry("incident", "i1", severity="warning"))
    t.wrote(entry("incident", "i1", severity="page"))
    t.wrote(entry("incident", "i1", severity="page"))
    gates = [{"name": "cooldown", "passed": False}, {"name": "scope", "passed": True}]
    t.wrote(entry("decision", "i1", playbook="roll-back", allowed=False, gates=gates))
    run = {
        "playbook": "roll-back",
        "state": "verifying",
        "outcome": None,
        "started": 1.0,
        "updated": 2.0,
    }
    t.wrote(entry("run", "r1", **run))
    for _ in range(2):
        t.wrote(entry("run", "r1", **{**run, "state": "done", "outcome": {"verdict": "helped"}}))
    t.wrote(entry("run", "r2", **{**run, "state": "denied"}))
    assert t.value("homeostat_incidents_total", severity="warning") == 1
    assert t.value("homeostat_incidents_total", severity="page") == 0
    assert t.value("homeostat_pages_total") == 1
    assert t.value("homeostat_decisions_total", playbook="roll-back", allowed="false") == 1
    assert t.value("homeostat_gates_closed_total", gate="cooldown") == 1
    assert math.isnan(t.value("homeostat_gates_closed_total", gate="scope"))
    assert t.value("homeostat_runs_total", playbook="roll-back", verdict="helped") == 1
    assert t.value("homeostat_runs_total", playbook="roll-back", verdict="none") == 1
    assert t.value("homeostat_journal_entries_total", kind="incident") == 5


def turn(event, ts):
    return {"event": event, "ts": ts}


def test_it_is_measured_how_long_detecting_and_healing_took():
    t = Telemetry(50.0)
    onsets = [{"onset": 97.0, "road": "objective"}, {"onset": 10.0, "road": "finding"}]
    born = {"severity": "page", "opened": 100.0, "anomalies": onsets}
    turns = [turn("opened", 100.0)]
    t.wrote(entry("incident", "i1", **born, turns=turns))
    helped = {
        "playbook": "b",
        "state": "holding",
        "incident": "i1",
        "outcome": {"verdict": "helped"},
    }
    t.wrote(entry("run", "r1", **helped, started=101.0, updated=120.0))
    t.wrote(entry("run", "r1", **helped | {"state": "done"}, started=101.0, updated=121.0))
    for event, ts in (("mitigated", 110.0), ("relapsed", 112.0), ("mitigated", 130.0)):
        turns = [*turns, turn(event, ts)]
        t.wrote(entry("incident", "i1", **born, turns=turns))
    for _ in range(2):
        t.wrote(entry("incident", "i1", **born, turns=[*turns, turn("resolved", 160.0)]))
    turns = [*turns, turn("resolved", 160.0), turn("reopened", 170.0), turn("resolved", 175.0)]
    t.wrote(entry("incident", "i1", **born, turns=turns))
    merged = born | {"severity": "note"}
    t.wrote(entry("incident", "i2", **merged, turns=[turn("opened", 100.0), turn("merged", 101.0)]))
    t.wrote(entry("incident", "i0", **born | {"opened": 40.0}, turns=[turn("resolved", 60.0)]))
    samples, _ = parse(t.render())
    page = (("severity", "page"),)
    assert samples["homeostat_incident_detect_seconds_sum"][page] == 3.0
    assert samples["homeostat_incident_detect_seconds_count"][page] == 1, "before us: not ours"
    healed = (("by", "homeostat"), *page)
    sums = {k: v for k, v in samples["homeostat_incident_heal_seconds_sum"].items() if v}
    assert sums == {healed: 30.0 + 5.0}, "merged is not healed"
    counts = samples["homeostat_incident_heal_seconds_count"]
    assert counts[healed] == sum(counts.values()) == 2
    took = samples["homeostat_run_seconds_sum"]
    assert took[(("verdict", "helped"),)] == sum(took.values()) == 20.0


def test_changes_are_counted_from_nothing_so_that_the_first_is_seen():
    t = Telemetry(0)
    samples, _ = parse(t.render())
    assert set(samples["homeostat_changes_total"].values()) == {0.0}
    t.wrote(entry("change", "model:m", kind="release", by="ci"))
    t.wrote(entry("change", "model:m", kind="act", by="homeostat:run-1"))
    assert t.value("homeostat_changes_total", kind="release", by="others") == 1
    assert t.value("homeostat_changes_total", kind="act", by="homeostat") == 1


def test_gauges_of_chosen_series_carry_the_labels_of_the_series():
    t = Telemetry(0)
    key = (("entity", "host:a"), ("mount", "/"), ("signal", "host.disk_utilization_ratio"))
    t.replace_series("homeostat_series_expected_high", {key: 0.5, key[:1]: math.nan})
    samples, _ = parse(t.render())
    assert samples["homeostat_series_expected_high"] == {key: 0.5}
    assert ("homeostat_series_expected_high", key, 0.5) in list(t.numbers())
    t.replace_series("homeostat_series_expected_high", {})
    assert "homeostat_series_expected_high" not in parse(t.render())[0]


def test_what_is_not_in_the_catalogue_is_a_bug():
    t = Telemetry(0)
    with pytest.raises(KeyError):
        t.add("homeostat_nonsense_total")
    with pytest.raises(KeyError):
        t.add("homeostat_frames_total")
    with pytest.raises(KeyError):
        t.add("homeostat_frames_total", sauce="host")


def test_endless_labels_do_not_eat_the_memory():
    t = Telemetry(0)
    for i in range(3000):
        t.add("homeostat_frames_total", source=str(i))
        t.observe("homeostat_http_request_seconds", 0.1, route=str(i))
    samples, _ = parse(t.render())
    assert len(samples["homeostat_frames_total"]) == 1000
    assert len(samples["homeostat_http_request_seconds_count"]) == 1000


def test_a_gauge_that_is_unknown_is_gone():
    t = Telemetry(0)
    t.set("homeostat_tick_lag_seconds", 0.5)
    t.set("homeostat_tick_lag_seconds", math.nan)
    assert "homeostat_tick_lag_seconds" not in parse(t.render())[0]
    t.replace("homeostat_runs_live", {("acting",): 2.0})
    t.replace("homeostat_runs_live", {("verifying",): 1.0})
    assert parse(t.render())[0]["homeostat_runs_live"] == {(("state", "verifying"),): 1.0}


def test_it_knows_what_it_costs():
    samples, _ = parse(Telemetry(0).render())
    assert 5e6 < samples["homeostat_agent_resident_memory_bytes"][()] < 5e9
    assert samples["homeostat_agent_cpu_seconds_total"][()] > 0
    assert samples["homeostat_agent_threads"][()] >= 1
    assert samples["homeostat_agent_open_files"][()] >= 3


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5", True),
        ("application/openmetrics-text; version=1.0.0; q=0.2, text/plain; q=0.9", False),
        ("application/openmetrics-text;q=x", False),
    ],
)
def test_openmetrics_is_spoken_when_it_is_asked_for(accept, wanted):
    assert wants_openmetrics(accept) is wanted


def test_names_of_signals_and_of_our_own_metrics_do_not_meet():
    exported = [d.exported for d in SIGNALS.values()]
    assert len(set(exported)) == len(exported)
    assert not set(exported) & set(METRICS)


def test_every_metric_is_named_as_its_kind_and_unit_ask():
    for d in METRICS.values():
        assert isinstance(d, MetricDef)
        assert d.name.endswith("_total") == (d.kind == "counter"), d.name
        if d.unit:
            assert d.name.removesuffix("_total").endswith("_" + d.unit), d.name
        assert not d.help.endswith(".")


def test_a_thousand_series_are_rendered_in_milliseconds():
    rows = [
        (Series("host.core_utilization_ratio", HOST, (("core", str(i)),)), i / 1000)
        for i in range(1000)
    ]
    telemetry, world = Telemetry(0), world_of(*rows)
    telemetry.render(world)
    took = []
    for _ in range(7):
        start = time.thread_time()
        telemetry.render(world)
        took.append(time.thread_time() - start)
    assert min(took) < 0.02  # 1-2 ms on an idle machine


def promtool():
    found = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return found


def test_promtool_has_nothing_to_say():
    tool = promtool()
    telemetry = Telemetry(1.0)
    for d in METRICS.values():
        labels = dict.fromkeys(d.labels, "x")
        if d.kind == "histogram":
            telemetry.observe(d.name, 0.1, **labels)
        elif d.kind == "counter":
            telemetry.add(d.name, 1, **labels)
        else:
            telemetry.set(d.name, 1, **labels)
    rows = []
    for d in SIGNALS.values():
        if not d.rate:
            labels = (("mode", "user"),)
            rows.append((Series(d.name, Entity(d.entity_kind, "x"), labels), 1.0))
    text = telemetry.render(world_of(*rows))
    done = subprocess.run(
        [tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ---- log


@pytest.mark.parametrize("as_json", [False, True])
def test_the_log_says_events_with_keys_and_no_secrets(as_json):
    code = (
        "import structlog, logging\n"
        "from agent.telemetry import set_up_logging\n"
        f"set_up_logging(as_json={as_json})\n"
        "log = structlog.get_logger()\n"
        "log.info('incident_opened', incident='inc-1', api_token='hunter2', Authorization='hunter2')\n"
        "log.debug('too_much')\n"
        "logging.getLogger('lib').warning('from a library')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: log.exception('bug')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    assert "too_much" not in done.stderr
    assert "from a library" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    first = done.stderr.splitlines()[0]
    if as_json:
        said = json.loads(first)
        assert (said["event"], said["incident"], said["level"]) == (
            "incident_opened",
            "inc-1",
            "info",
        )
        assert said["timestamp"].endswith("Z")
    else:
        assert "incident_opened" in first
        assert "incident=inc-1" in first
