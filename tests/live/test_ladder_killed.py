"""The ladder of a real daemon that is killed between its steps: none is lost, none is climbed twice."""

import json

import httpx
import pytest
from daemon_process import wait_for

pytestmark = pytest.mark.live

YAML = """
objectives:
  - {{signal: host.uptime_seconds, max: 1s, for: 1s}}
diagnose: {{settle: 1s, resolve_after: 5s}}
connectors:
  first: {{use: page, command: [sh, -c, 'cat >> {folder}/first']}}
  second: {{use: page, command: [sh, -c, 'cat >> {folder}/second']}}
  third: {{use: page, command: [sh, -c, 'cat >> {folder}/third']}}
people:
  escalation:
    - {{to: [first]}}
    - {{after: 3s, to: [{{way: second, channel: '#night'}}]}}
    - {{after: 8s, to: [third]}}
"""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def post(one, path, body):
    transport = httpx.HTTPTransport(uds=str(one.state / "agent.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as http:
        return http.post(path, json=body)


def test_killed_between_its_steps_each_is_climbed_once_until_somebody_has_it(running, tmp_path):
    one = running(YAML.format(folder=tmp_path)).start()
    (incident,) = wait_for("incident", lambda: one.get("/api/incidents").json())
    path = f"/api/incidents/{incident['id']}"
    assert post(one, f"{path}/page", {"reason": "help"}).status_code == 200
    for name in ("first", "second"):
        wait_for(name, lambda name=name: lines(tmp_path / name))
        one.kill()
        one.start()
    assert lines(tmp_path / "second")[0]["channel"] == "#night"
    assert post(one, f"{path}/ack", {"reason": "mine"}).status_code == 200
    assert post(one, f"{path}/page", {"reason": "I can not"}).status_code == 200
    for name, times in (("first", 2), ("second", 2), ("third", 1)):
        wait_for(name, lambda name=name, times=times: len(lines(tmp_path / name)) >= times)
    one.kill()
    keys = [e.subject for e in one.journal("note") if e.subject.startswith("ladder:")]
    assert len(keys) == len(set(keys))
    told = {n["key"] for name in ("first", "second", "third") for n in lines(tmp_path / name)}
    assert {k for k in told if k.startswith("ladder:")} == set(keys)
