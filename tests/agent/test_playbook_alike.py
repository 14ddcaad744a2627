"""A silent feed shows a look-alike, or is told to be hollow."""

import pytest

from agent import registry
from agent.playbook.alike import hollow
from agent.playbook.library import lay
from agent.strict import read

registry.load()

BOOK = """\
version: 1
id: slow
title: Take load off a slow service
mode: suggest
target: {{kind: service}}
because: {{cause: serving.saturation}}
when:
  - {{is: 'service.latency_p95_seconds > baseline.service.latency_p95_seconds * 2.0', for: 5m}}
guard: {{cooldown: {{time: 10m}}, rate: {{max: 9, per: 1h}}}}
do:
  - {{id: call, use: page, with: {{title: slow, text: slow}}}}
tests:
  - name: it is slow
    feed:
      for: 30m
      {length}
      series:
        service.latency_p95_seconds: {{step: [0.1, 0.6], at: 10m, noise: 0.01}}
        service.requests_per_second: {{value: 20, noise: 1}}
        process.age_seconds: {{ramp: [90000, 91800], from: 0s, to: 30m}}
    expect: {{fires: 1}}
  - name: look-alike
    feed:
      for: 30m
      {onset}
      series:
        service.requests_per_second: {{value: 20, noise: 1}}
        process.age_seconds: {{ramp: [90000, 91800], from: 0s, to: 30m}}
        {series}
    expect: {{fires: 0}}
"""


def said(series, onset=""):
    text = BOOK.format(series=series, onset=onset, length="onset: 10m")
    found = lay([[read(text, "slow.yaml")]], None)
    assert found.faults == []
    return hollow(found.playbooks["slow"], found.playbooks["slow"].tests[1])


LATENCY = "service.latency_p95_seconds"


@pytest.mark.parametrize("series", [
    f"{LATENCY}: {{pulse: [0.1, 0.6], from: 10m, to: 11m}}",
    f"{LATENCY}: {{pulse: [0.1, 0.4], from: 10m, to: 11m, every: 5m, noise: 0.01}}",
    f"{LATENCY}: {{step: [0.1, 0.18], at: 10m, noise: 0.01}}",
    f"{LATENCY}: 0.6",
    f"{LATENCY}: {{value: 0.5, noise: 0.02}}",
    f"{LATENCY}: {{step: [0.1, 0.6], at: 10m, missing: [10m, 1h]}}",
    f"'{LATENCY}{{service:other}}': {{step: [0.1, 0.6], at: 10m}}",
    f"{LATENCY}: 0.1\n        service.error_ratio: {{step: [0, 0.1], at: 10m}}",
])  # fmt: skip
def test_what_shows_something(series):
    assert said(series) == ""


def test_what_came_and_went_before_the_trouble_is_shown():
    assert said(f"{LATENCY}: {{pulse: [0.1, 0.6], from: 5m, to: 6m}}", "onset: 15m") == ""


@pytest.mark.parametrize("series", [
    f"{LATENCY}: 0.1",
    f"{LATENCY}: {{value: 0.1, noise: 0.02}}",
    f"{LATENCY}: {{value: 0.1, missing: [10m, 11m]}}",
    f"{LATENCY}: {{step: [0.1, 0.02], at: 10m}}",
    "service.up: 1",
])  # fmt: skip
def test_where_nothing_stirs_it_is_hollow(series):
    assert "nothing stirs" in said(series)


@pytest.mark.parametrize("wave", ["{ramp: [0.6, 0.1], from: 10m, to: 12m}", "{step: [0.6, 0.1], at: 10m}"])  # fmt: skip
def test_a_burst_that_was_there_all_the_time_before_is_none(wave):
    assert (
        said(f"{LATENCY}: {wave}")
        == f"`{LATENCY}` is at its worst before the trouble begins, and only gets better"
    )


def test_where_no_feed_fires_nothing_is_said():
    text = BOOK.format(series=f"{LATENCY}: 0.1", onset="", length="").replace(
        "fires: 1", "fires: 0"
    )
    book = lay([[read(text, "slow.yaml")]], None).playbooks["slow"]
    assert [hollow(book, t) for t in book.tests] == ["", ""]
