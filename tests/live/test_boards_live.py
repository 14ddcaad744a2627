"""Every expression of every board, asked of a real Prometheus that scrapes a real agent.

Once under the demo, with its five faults; once on a short run of its own: GPUs of a stand-in for NVML (there is no
GPU here: what a real one would tell beyond that is not seen), a host of files whose disk and CPU are waited for, models
of every sort, one of which drifts and one that comes to fail, rows that are pushed, numbers that are sent on. No
expression may be empty in both, so a wrong label is found. Nothing renders them: there is no Grafana here.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest
from boards_read import FOLDER, boards, called, expressions, panels, read
from daemon_process import Running, free_port, wait_for
from host_side import HostSide
from nvml_side import library
from prometheus_side import prometheus

from agent.authority import Tokens
from connectors._proc import in_container

BOARDS = boards()
RULES = tuple(sorted(FOLDER.with_name("rules").glob("*.yml")))
SLOWEST_S = 0.2
"""By the server's own clock, without the time that it waited for a core; the best of three."""

NOT_IN_THE_DEMO = {
    "homeostat-fleet": {
        "Error budgets: how fast they burn": "its objectives have no target",
        "Error budgets that are left": "likewise",
        "GPUs": "there is none",
    },
    "homeostat-host": {
        "Containers and units by CPU": "not on every machine",
        "Tasks that wait": "not every kernel tells of pressure",
        "Read and written": "not every machine has a disk of its own",
        "How long disks take": "likewise",
        "Something is full in": "not every machine has what is foretold",
        "How unusual it is": "nothing of the host need be abnormal",
    },
    "homeostat-gpu": {p["title"]: "there is none" for p in panels(BOARDS["homeostat-gpu"])},
    "homeostat-models": {
        "Error budget left": "its objectives have no target",
        "Errors of a regression": "it predicts classes",
        "Differences between groups": "none are protected",
        "Batch-scoring runs": "it answers requests",
        "Answers of a generator": "it generates no text",
        "Version against version": "a version that did harm is gone before it can be compared",
    },
    "homeostat-drift": {"What the loss comes from": "labels need longer to tell"},
    "homeostat-incidents": {},
    "homeostat-agent": {
        "Pushed": "it follows files",
        "Numbers sent on": "no remote_write",
    },
}
"""Panels that may be empty, and expressions (panel and metric), and why: each panel says what that means."""

NOWHERE = {
    "homeostat-fleet": {
        "Work: service_busy_ratio": "no server here tells of its workers",
        "Work: service_queue": "likewise",
    },
    "homeostat-host": {
        # no stand-in makes a container of the machine that we are on
        **({} if in_container() else {"Own container": "these tests run in none"}),
        "What is wrong with it: host_unit_failed": "no unit has failed",
        "What is wrong with it: host_kernel_event_seen": "its kernel has nothing to tell",
        "What is wrong with it: host_raid_degraded": "it has no array",
    },
    "homeostat-gpu": {"Asked for by the driver: gpu_recovery_needed": "it asks for nothing"},
    "homeostat-incidents": {
        "Why people are needed: incidents_needing_people": "nobody is needed",
        "False pages a week: false_pages_per_week": "they are known after a day of watching",
        "False notes a day: console_notes_per_day": "likewise",
        "Series abnormal a day: anomalies_per_day": "likewise",
    },
    "homeostat-agent": {"Pushed: points_left_out_total": "nothing is left out"},
}
"""Expressions that have no data in either run, and why."""

NOTHING_ACTS = dict.fromkeys(("Under way", "Acts", "Changes"), "nobody changes anything")
NOT_IN_A_SHORT_RUN = {
    "homeostat-fleet": {
        "Work": "nobody counts its workers",
        "Latency of services, 95 %: objective_limit": "no objective is on it",
        "Latency: objective_limit": "likewise",
    },
    "homeostat-host": {"Own container": "its /proc is not that of this machine"},
    "homeostat-models": {
        "Age": "nobody tells when it was trained",
        "Accuracy, as labels show it: objective_limit": "no objective is on it",
        "What is proven of it: model_retraining_held": "nobody holds it",
    },
    "homeostat-incidents": dict.fromkeys(
        (
            "Time to heal", "Healed without a person", "How soon it heals", "How long runs take", "Playbooks",
            "Decisions", "What held it back", "Runs under way",
        ),
        "nothing is resolved",
    ),
}  # fmt: skip


def excused(uid, may):
    """Return the expressions of a board that may be empty: of panels that are listed, and those listed by name."""
    return {
        (title, expr)
        for title, expr in expressions(BOARDS[uid])
        if title in may or called(title, expr) in may
    }


def in_a_short_run(uid):
    return {**NOT_IN_A_SHORT_RUN.get(uid, {}), **NOTHING_ACTS}


def nowhere(uid):
    return NOWHERE.get(uid, {})


@pytest.mark.parametrize("uid", BOARDS)
def test_what_may_be_empty_in_one_run_has_its_data_in_the_other(uid):
    both = excused(uid, NOT_IN_THE_DEMO[uid]) & excused(uid, in_a_short_run(uid))
    assert both <= excused(uid, nowhere(uid))
    asked = list(expressions(BOARDS[uid]))
    there = {title for title, _ in asked} | {called(*one) for one in asked}
    named = {*NOT_IN_THE_DEMO[uid], *NOT_IN_A_SHORT_RUN.get(uid, ()), *nowhere(uid)}
    assert named <= there, "an excuse for what is not there"


def check(server, uid, span, may_be_empty):
    told = read(server, BOARDS[uid], *span)
    found = [
        f"{called(*one)}: {one[1]}" for one in told.empty if one not in excused(uid, may_be_empty)
    ]
    assert found == []
    assert told.slowest[0] < SLOWEST_S, told.slowest
    unresolved = {name for name, found in told.values.items() if not found}
    assert unresolved <= ({"gpu"} if "Hottest" in may_be_empty else set())


@pytest.fixture(scope="module")
def recorded(demo_run, needs):
    """Return the Prometheus that scraped the demo, and the stretch of time that it knows."""
    needs("prometheus")
    assert demo_run["code"] == 0, demo_run["out"][-4000:]  # else boards show what did not happen
    since, until = demo_run["span"]
    return demo_run["prometheus"], (since + 15, until - 3)


@pytest.mark.live
@pytest.mark.demo
@pytest.mark.parametrize("uid", BOARDS)
def test_no_expression_is_empty_or_slow_under_the_demo(recorded, uid):
    server, span = recorded
    check(server, uid, span, {**NOT_IN_THE_DEMO[uid], **nowhere(uid)})


@pytest.mark.live
@pytest.mark.demo
def test_a_person_on_call_sees_what_the_demo_did(recorded, demo_run):
    server, (_, until) = recorded

    def value(selector):
        # the agent ends a little before the demo does
        found = server.ask("query", query=f"sum(max_over_time({selector}[30s]))", time=until)
        return sum(float(r["value"][1]) for r in found["data"]["result"])

    faults = demo_run["card"]["faults"]
    assert value('homeostat_run_seconds_count{verdict="helped"}') >= faults
    assert value('homeostat_run_seconds_count{verdict="harmed"}') == 0
    healed = value('homeostat_incident_heal_seconds_count{by="homeostat"}')
    assert faults <= healed <= value("homeostat_incidents_total")
    detect = value("homeostat_incident_detect_seconds_sum") / value(
        "homeostat_incident_detect_seconds_count"
    )
    assert 0 < detect < 60
    drawn = server.ask(
        "query_range", query="homeostat_run_started_timestamp_seconds", start=until - 400, end=until, step=2
    )["data"]["result"]  # fmt: skip
    acted = {r["metric"]["playbook"] for r in drawn}
    assert {"serve-saturation", "serve-bad-deploy"} <= acted


# ---------------------------------------------------------------- a short run


AGENT = """
connectors:
  host: {{procfs: {folder}/host/proc}}
  containers: {{root: {folder}/host/cgroup}}
  gpu: {{library: {library}, interval: 1s}}
  predictions: {{path: {folder}/predictions.jsonl, labels: {folder}/labels.jsonl, model: fraud}}
  nightly: {{use: batch_scoring, path: "{folder}/runs/*.csv", model: prices, task: regression, settle: 0}}
  remote_write: {{url: "http://127.0.0.1:{other}/write", every: 2s}}
models:
  min_rows: 40
  first_rows: 200
  window: 10s
  label_wait: 20s
  traffic_window: 4s
  protected: [sex]
  reference: {{loans: {folder}/loans.csv, prices: {folder}/prices.csv}}
services:
- {{id: back-office, models: [loans, prices, chat]}}
- id: scoring
  models: [fraud]
  objectives:
  - {{signal: service.latency_p95_seconds, max: 0.05, target: 0.9, over: 1d}}
  - {{signal: model.accuracy_ratio, min: 0.5, target: 0.9, over: 1d}}
objectives:
- {{signal: host.uptime_seconds, max: 0.001}}
- {{signal: host.pressure_ratio, max: 0.1, labels: {{resource: io, who: some}}}}
diagnose: {{settle: 1s}}
forecasts: {{every: 30s}}
"""

LATE = (
    "homeostat_host_disk_full_seconds", "homeostat_model_loss_change", "homeostat_model_fairness_gap_ratio",
    "homeostat_model_mean_absolute_error", "homeostat_version_ttft_p95_seconds", "homeostat_sink_samples_total",
)  # fmt: skip
"""What takes longest to be there."""


class Models:
    """Four models, and a host, which live until `over`; what they need is made at once.

    fraud    two versions at once; its amounts are ten times larger after 20 s
    loans    made with labelled rows; after 15 s half of what it says of women is wrong, and most incomes are low
    prices   a regression whose runs are files, with the truth beside them
    chat     a generator that pushes its rows; no labels
    Labels come a second or two later.
    """

    def __init__(self, folder):
        self.folder = folder
        self.over = threading.Event()
        self.push = lambda _rows: None
        self.host = HostSide(folder / "host")
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._random = np.random.default_rng(3)
        for name in ("predictions", "labels"):
            (folder / f"{name}.jsonl").touch()
        (folder / "runs").mkdir()
        columns = ("income", "sex", "prediction", "probability", "label")
        _csv(folder / "loans.csv", columns, [self._loan(failing=False) for _ in range(1500)])
        _csv(
            folder / "prices.csv",
            ("area", "prediction", "label"),
            [self._price() for _ in range(1500)],
        )

    def _run(self):
        began, i, owed = time.time(), 0, []
        while not self.over.wait(0.5):
            now = time.time()
            self.host.beat(0.5)
            frauds = [self._fraud(f"f{i}/{k}", now, late=now - began > 20) for k in range(30)]
            loans = [self._request(f"l{i}/{k}", now, failing=now - began > 15) for k in range(20)]
            owed += [
                {"id": r["id"], "ts": now, "model": r["model"], "label": true}
                for r, true in (*frauds, *loans)
            ]
            self._append("predictions", [row for row, _ in (*frauds, *loans)])
            self._append("labels", owed[:-100])
            owed = owed[-100:]
            if i % 16 == 0:
                rows = [(f"p{i}-{k}", *self._price()) for k in range(200)]
                _csv(
                    self.folder / "runs" / f"{i:04}.csv",
                    ("id", "area", "prediction", "label"),
                    rows,
                )
            self.push([self._answer(f"c{i}/{k}", now) for k in range(20)])
            i += 1

    def _fraud(self, name, now, *, late):
        age, amount = self._random.normal(40, 10), self._random.lognormal()
        row = {
            "id": name, "ts": now, "model": "fraud", "version": str(1 + (self._random.random() < 0.25)),
            "features": {"age": age, "amount": amount * (10 if late else 1)}, "pred": str(int(age > 40)), "proba": 0.9,
            "latency_ms": 20 + self._random.exponential(5), "status": 200,
        }  # fmt: skip
        return row, str(int(age + self._random.normal(0, 5) > 40))

    def _loan(self, *, failing):
        low = self._random.random() < (0.8 if failing else 0.3)
        income = self._random.uniform(10, 30) if low else self._random.uniform(40, 90)
        sex = "mw"[int(self._random.random() < 0.5)]
        wrong = 0.5 if failing and sex == "w" else 0.15 if low else 0.03
        said = int(self._random.random() < 0.5)
        true = said if self._random.random() >= wrong else 1 - said
        return round(income, 2), sex, said, round(self._random.uniform(0.7, 0.95), 3), true

    def _request(self, name, now, *, failing):
        income, sex, said, sure, true = self._loan(failing=failing)
        row = {
            "id": name, "ts": now, "model": "loans", "version": "1", "features": {"income": income, "sex": sex},
            "pred": str(said), "proba": sure,
        }  # fmt: skip
        return row, str(true)

    def _price(self):
        area = self._random.uniform(20, 120)
        return (
            round(area, 2),
            round(3.1 * area + 0.07, 3),
            round(3.1 * area + self._random.normal(0, 9), 3),
        )

    def _answer(self, name, now):
        return {
            "id": name, "ts": now, "model": "chat", "version": "1", "tokens_in": 120,
            "features": {"turns": float(self._random.poisson(3))},
            "tokens_out": int(self._random.poisson(300)), "finish_reason": "stop",
            "ttft_ms": 200 + self._random.exponential(80),
        }  # fmt: skip

    def _append(self, name, records):
        with (self.folder / f"{name}.jsonl").open("a") as file:
            file.writelines(json.dumps(one) + "\n" for one in records)


def _csv(path, columns, rows):
    """Write a file that is there as a whole."""
    part = path.with_suffix(".part")
    part.write_text(
        "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"
    )
    part.replace(path)


@contextlib.contextmanager
def another():
    """Somebody who takes numbers by remote write and answers that he has; yields his port."""

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Takes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def short_run(needs, tmp_path_factory):
    pytest.importorskip("cramjam", reason="remote write needs it")
    pytest.importorskip("pyarrow", reason="files of rows need it")
    folder = tmp_path_factory.mktemp("short")
    program, stub = needs("prometheus"), folder / "nvml"
    stub.write_text("healthy")
    (folder / "lib").mkdir()
    before = dict(os.environ)
    os.environ |= {
        "NVML_STUB": str(stub),
        "NVML_STUB_PAGES": "1",
        "NVML_STUB_PID": str(os.getpid()),
    }
    models = Models(folder)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(another())
        config = AGENT.format(library=library(folder / "lib"), folder=folder, other=other)
        one = Running(folder, config)
        try:
            one.start()
            token = Tokens(one.state / "tokens.json").add("chat", "sender", time.time(), ["chat"])
            client = stack.enter_context(
                httpx.Client(
                    base_url=f"http://127.0.0.1:{one.port}", trust_env=False, timeout=60.0,
                    headers={"authorization": f"Bearer {token}"},
                )
            )  # fmt: skip
            models.push = lambda rows: client.post("/ingest/predictions", json=rows)
            models.thread.start()
            at = tmp_path_factory.mktemp("prometheus")
            with prometheus(program, at, free_port(), RULES) as server:
                since = time.time()
                server.scrape(f"127.0.0.1:{one.port}")
                wait_for("a scrape", lambda: server.values("entity", "homeostat_gpu_reachable"), 30)
                time.sleep(15)
                stub.write_text("hot")
                time.sleep(8)
                stub.write_text("ecc")
                time.sleep(30)
                for name in LATE:
                    wait_for(name, lambda name=name: server.values("job", name), 100)
                time.sleep(3)  # until it was scraped twice
                yield server, (since + 5, time.time())
        finally:
            models.over.set()
            if models.thread.ident:
                models.thread.join(20)
            os.environ.clear()
            os.environ.update(before)
            one.kill()


@pytest.mark.live
@pytest.mark.parametrize("uid", BOARDS)
def test_no_expression_is_empty_or_slow_on_a_short_run(short_run, uid):
    server, span = short_run
    check(server, uid, span, {**in_a_short_run(uid), **nowhere(uid)})


@pytest.mark.live
def test_rules_can_be_evaluated_and_find_nothing_but_what_is_so(short_run):
    server, _ = short_run
    rules = [r for g in server.ask("rules")["data"]["groups"] for r in g["rules"]]
    assert len(rules) > 15
    assert [r["lastError"] for r in rules if r.get("lastError")] == []
    assert {r["health"] for r in rules} == {"ok"}
    fires = [r["name"] for r in rules if r["type"] == "alerting" and r["state"] == "firing"]
    assert fires == [], "others may be pending: this machine may be busy"
    (recorded,) = server.ask("query", query="sum(job_severity:homeostat_incidents_open:sum)")[
        "data"
    ]["result"]
    assert float(recorded["value"][1]) >= 1
