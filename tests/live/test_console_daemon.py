"""The console of a real daemon: a run asks by a form, acts on real files and is put back; who is called is seen."""

import contextlib
import json
import os
import signal
import socket
import time

import httpx
import pytest
from console_side import asked, at, button, put
from daemon_process import wait_for

from agent.codec import pack
from agent.journal import Journal
from agent.model import Entity, Outcome, Run

pytestmark = pytest.mark.live

YAML = """\
mode: auto
single_agent: true
manages: [{{kind: host}}]
objectives: [{{signal: host.uptime_seconds, max: 1s, for: 1s}}]
diagnose: {{settle: 1s, resolve_after: 5s}}
connectors:
  old_files: {{rules: {{logs: {{path: {logs}, names: ['*.log.*'], older: 60s, keep: 0}}}}}}
  pager: {{use: page, command: [sh, -c, 'cat >> {folder}/paged']}}
people: {{escalation: [{{to: [pager]}}]}}
"""
"""An objective that this host breaks for ever: an incident without waiting for trouble."""
HOST = socket.gethostname()
TIDY = """\
version: 1
id: tidy-logs
title: Move old logs aside
mode: auto
target: {kind: host}
because: {cause: host.disk}
when: [{is: 'host.disk_utilization_ratio > 0.999', for: 1m}]
guard: {cooldown: {time: 30m}, rate: {max: 2, per: 1h}}
do:
  - id: talk
    use: ask
    with:
      text: How much of the old logs may go aside?
      form:
        most: {kind: number, text: Bytes at most, min: 1000, max: 100000}
        ticket: {kind: text, text: Ticket}
        which: {kind: choice, text: Which of them, choices: [oldest, largest], default: oldest}
        go: {kind: yes_no, text: 'Go on?'}
      wait: 5m
    undo: none
    timeout: 10m
  - {id: aside, use: quarantine, with: {rule: logs, most: '${steps.talk.most}'}, undo: auto, timeout: 30s}
verify: {wait: 1s, within: 5s, expect: ['host.uptime_seconds > 0.0'], otherwise: escalate}
"""


@pytest.fixture
def host(running, tmp_path, browser):
    """Return how a daemon with the playbook is started; its console is open, and nothing went wrong there."""
    logs = tmp_path / "logs"
    logs.mkdir()
    for k, name in enumerate(("old.log.2", "older.log.1")):
        (logs / name).write_text("x" * 3000)
        os.utime(logs / name, (time.time() - 3600 * (k + 1),) * 2)
    (tmp_path / "playbooks.d").mkdir()
    (tmp_path / "playbooks.d" / "tidy-logs.yaml").write_text(TIDY)

    def make():
        one = running(YAML.format(logs=logs, folder=tmp_path)).start()
        one.url = f"http://127.0.0.1:{one.port}"
        browser.open(one.url)
        return one

    yield make
    assert [p for p in browser.problems if "401" not in p and "409" not in p] == []


def sign_in(page, one, name, role):
    transport = httpx.HTTPTransport(uds=str(one.state / "agent.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as http:
        token = http.post("/api/tokens", json={"name": name, "role": role}).json()["token"]
    page.js(f"sessionStorage.setItem('token', {json.dumps(token)})")
    page.open(one.url)
    page.wait(f"document.querySelector('#who').innerText === '{name} ({role})'")


def entries(one, kind):
    return one.get(f"/api/journal?kind={kind}").json()["entries"]


def test_a_playbook_that_harmed_acts_again_once_an_author_has_looked(host, browser, tmp_path):
    (tmp_path / "state").mkdir()
    harm = Run(
        "run-0badbad0", "tidy-logs", Entity("host", HOST), "", "auto", "done", time.time() - 600,
        time.time() - 500, "0" * 64, (), Outcome("harmed", "disk is 99 %, was 80 %", "before", {}),
    )  # fmt: skip
    with contextlib.closing(Journal(tmp_path / "state" / "journal.sqlite")) as journal:
        journal.append("run", harm.id, pack(harm), harm.updated)
    one, page = host(), browser
    sign_in(page, one, "olga", "operator")
    page.open(f"{one.url}/playbooks?id=tidy-logs")
    press = button("reinstate tidy-logs")
    page.wait(f"{press}?.getAttribute('aria-disabled') === 'true'")
    assert page.js(f"{press}.title") == "olga is operator, reinstate needs author"
    assert f"it harmed host:{HOST} in run run-0badbad0: disk is 99 %" in page.text("#book")
    assert page.text(".ladder [aria-current]") == "suggest"
    sign_in(page, one, "ada", "author")
    page.open(f"{one.url}/playbooks?id=tidy-logs")
    asked(page, "reinstate tidy-logs", reason="the rule was too wide")
    page.wait("document.querySelector('.ladder [aria-current]').innerText === 'auto'")
    assert page.js(f"{press} === null")
    (entry,) = entries(one, "reinstate")
    assert entry["subject"] == "tidy-logs"
    one.kill()
    (entry,) = one.journal("reinstate")
    assert entry.body == {"by": "ada (author, token)", "reason": "the rule was too wide"}
    one.start()  # and it stays so
    said = {p["id"]: p["mode"] for p in one.get("/api/playbooks").json()}
    assert said["tidy-logs"] == "auto"
    browser.problems.clear()  # the browser notes the daemon that was gone


def plan_shown(page, one):
    """Sign in as an operator, and ask for the plan for this host once something is wrong with it."""
    wait_for("incident", lambda: one.get("/api/incidents").json())
    sign_in(page, one, "olga", "operator")
    page.open(f"{one.url}/playbooks?id=tidy-logs")
    page.wait(button("plan tidy-logs"))
    page.click(at("plan tidy-logs"))
    page.wait("document.querySelector('#ask-box').open")
    put(page, "target", f"host:{HOST}")
    page.click("#ask-go")
    page.wait("document.querySelector('#ask-title').innerText.includes('Move old logs aside on')")


def started(page):
    """Press *Run it*, and tell whether it has begun; False = the plan has changed, and is there again."""
    before = page.text("#ask-body > p.small")
    page.click("#ask-go")
    page.wait(
        "!document.querySelector('#ask-box').open"
        f" || document.querySelector('#ask-body > p.small').innerText !== {json.dumps(before)}"
    )
    return not page.js("document.querySelector('#ask-box').open")


def test_a_plan_that_has_changed_is_shown_again_and_not_started(host, browser, tmp_path):
    one, page = host(), browser
    plan_shown(page, one)
    file = tmp_path / "playbooks.d" / "tidy-logs.yaml"
    file.write_text(TIDY.replace("title: Move old logs aside", "title: Move old logs away"))
    one.process.send_signal(signal.SIGHUP)
    wait_for(
        "the new text is read",
        lambda: any(p["title"] == "Move old logs away" for p in one.get("/api/playbooks").json()),
    )
    page.click("#ask-go")
    page.wait("document.querySelector('#ask-body').innerText.includes('The plan has changed')")
    page.wait("document.querySelector('#ask-title').innerText.includes('Move old logs away on')")
    assert page.text("#say") == "The plan has changed: look again"
    assert one.get("/api/runs").json() == []
    assert any("409" in p for p in browser.problems)
    browser.problems.clear()  # Chromium notes each answer that is a refusal
    while not started(page):
        pass
    wait_for("it asks", lambda: one.get("/api/questions").json())


def test_a_run_asks_by_a_form_acts_by_the_answers_and_is_put_back(host, browser, tmp_path):
    one, page, logs = host(), browser, tmp_path / "logs"
    plan_shown(page, one)
    while not started(page):  # on a busy host other incidents come, and the plan is for another one
        pass
    page.open(one.url)
    page.wait("document.querySelector('[data-focus^=answer]')")
    assert "How much of the old logs may go aside?" in page.text("#asks")
    page.click("[data-focus^=answer]")
    page.wait("document.querySelector('#ask-box').open")
    kinds = page.js(
        "[...document.querySelectorAll('#ask-fields input, #ask-fields select')]"
        ".map((e) => [e.name, e.type, e.required, e.value])"
    )
    assert kinds == [
        ["most", "number", True, ""], ["ticket", "text", True, ""],
        ["which", "select-one", False, "oldest"], ["go", "select-one", True, ""],
    ]  # fmt: skip
    assert "From 1000 to 100000." in page.text("#ask-fields")
    put(page, "most", "7")
    put(page, "ticket", "OPS-17")
    put(page, "go", "yes")
    page.click("#ask-go")  # too few: it does not leave the browser
    assert page.js("document.querySelector('#field-most').matches(':invalid')")
    assert page.js("document.querySelector('#ask-box').open")
    assert one.get("/api/questions").json() != []
    assert sorted(p.name for p in logs.glob("*.log.*")) == ["old.log.2", "older.log.1"]
    put(page, "most", "5000")
    page.click("#ask-go")
    page.wait("!document.querySelector('#ask-box').open")
    wait_for("the oldest is aside", lambda: not (logs / "older.log.1").exists())
    assert (logs / "old.log.2").exists()  # two would have been more than was answered
    (run,) = wait_for(
        "the run is over",
        lambda: [r for r in one.get("/api/runs").json() if r["undoable"]],
    )
    said = next(s["summary"] for s in run["steps"] if s["id"] == "talk")
    assert said.startswith("olga (operator, token) answers: ")
    for answer in ("most 5000.0", "ticket OPS-17", "which oldest", "go True"):
        assert answer in said
    assert run["by"] == "olga (operator, token)"
    asked(page, f"undo {run['id']}", reason="it was needed")
    wait_for("it is back", (logs / "older.log.1").exists)
    page.wait("document.querySelector('#runs').innerText.includes('Put back by run undo-')")
    assert f"Puts back what run {run['id']} did, asked by olga" in page.text("#runs")
    page.wait(f"{button('undo ' + run['id'])} === null")
    assert (logs / "older.log.1").read_text() == "x" * 3000


def test_who_was_called_and_what_is_put_off_is_seen_live(host, browser, tmp_path):
    one, page = host(), browser
    (incident,) = wait_for("incident", lambda: one.get("/api/incidents").json())
    sign_in(page, one, "olga", "operator")
    page.open(f"{one.url}/incidents/{incident['id']}")
    asked(page, f"page {incident['id']}", reason="I am alone")
    page.wait("document.querySelector('#about').innerText.includes('Called: pager at')")
    wait_for("paged", (tmp_path / "paged").exists)
    asked(page, f"snooze {incident['id']}", reason="soon", **{"for": "15m"})
    page.wait("document.querySelector('#about').innerText.includes('by olga')")
    page.open(one.url)
    row = button(incident["id"])
    page.wait(f"{row}?.innerText.includes('put off for 14 min')")
    assert page.js(f"{row}.innerText.includes('called 1 way')")
    # once there is some past, what detectors say of each series is kept
    page.open(f"{one.url}/explore?search=memory_utilization")
    page.wait(
        "document.querySelector('#past-score')?.innerText.startsWith('In this time it was')", 120
    )
    said = one.get("/api/explore/past-score?series=host.memory_utilization_ratio&from=2m").json()
    assert [v for v in said["data"][1] if v is not None]
