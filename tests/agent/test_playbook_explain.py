import re

import pytest
from shipped import LIBRARY

from agent.playbook import explain, flow, sentences, template
from agent.playbook.library import lay
from agent.strict import read

BOOKS = LIBRARY.playbooks


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("service.latency_p95_seconds > 0.25", "latency p95 of the service is above 250 ms"),
        ("gpu.clock_ratio <= 0.85", "clock against its maximum (GPU) is at most 85 %"),
        ("service.error_ratio > 0.0", "share of requests that failed (service) is above 0"),
        ("host.conntrack_ratio > 0.95",
         "connections that the firewall tracks against its limit (host) are above 95 %"),
        ("host.disk_full_seconds < 14400.0", "time until a file system is full (host) is below 4 h"),
        ("service.latency_p95_seconds > baseline.service.latency_p95_seconds * 1.2",
         "latency p95 of the service is above 1.2 times what is usual for it"),
        ("service.requests_per_second <= baseline.service.requests_per_second",
         "requests per second of the service are at most what is usual for them"),
        ("service.error_ratio <= baseline.service.error_ratio + 0.01",
         "share of requests that failed (service) is at most 1 percentage point above what is usual for it"),
        ("service.replicas_count < baseline.service.replicas_count - 0.5",
         "replicas of the service are more than 0.5 below what is usual for them"),
        ("process.threads_count > baseline.process.threads_count * 2.0 + 50.0",
         "threads of the process are above 2 times what is usual for them plus 50"),
        ("host.network_up < baseline.host.network_up",
         "it is not so that an interface is up (host), other than usual"),
        ("host.oom_kills_per_second > 0.0", "OOM kills per second of the host are above 0"),
        ("feature.contract_broken > 0.5", "the data contract is broken (feature)"),
        ("feature.contract_broken < 0.5", "it is not so that the data contract is broken (feature)"),
        ("service.up < 0.5 && host.cpu_busy_ratio > 0.9",
         ("it is not so that the service answers a probe (service) and "
          "share of all cores that is busy (host) is above 90 %")),
        ("model.accuracy_ratio >= model.reference_accuracy_ratio - 0.05",
         ("accuracy of the model is at most 5 percentage points below accuracy on the reference rows "
          "of the version in use (model)")),
        ("cause.entity.startsWith('process:')", "what is to blame is a process"),
        ('cause.replica.startsWith("replica:")', "the diagnosis names a replica"),
        ('cause.process.startsWith("gpu:")', "the diagnosis names a GPU as its `process`"),
        ('cause.why.startsWith("missing")', '`why` of the diagnosis begins with "missing"'),
        ("cause.feature != ''", "the diagnosis names a `feature`"),
        ('cause.apart == "answers"', '`apart` of the diagnosis is "answers"'),
        ('service.up < 0.5 || cause.xid in ["8", "46"]',
         "it is not so that the service answers a probe (service) or `xid` of the diagnosis is 8 or 46"),
        ("service.up > 0.5 && (host.network_up < 0.5 || host.disk_failing > 0.5)",
         ("the service answers a probe (service) and (it is not so that an interface is up (host) or "
          "a disk says itself that it fails, or the kernel has given it up (host))")),
        ("cause.entity == target.id", "what is to blame is target.id"),
        ("service.up < 0.5 || host.network_up < 0.5 && host.disk_failing < 0.5",
         ("either it is not so that the service answers a probe (service); or it is not so that an interface is up "
          "(host) and it is not so that a disk says itself that it fails, or the kernel has given it up (host)")),
        ("service.latency_p95_seconds > (service.latency_p50_seconds * 3.0)",
         "`service.latency_p95_seconds > (service.latency_p50_seconds * 3.0)`"),
        ("service.up > 0.5 ? true : false", "`service.up > 0.5 ? true : false`"),
    ],
)  # fmt: skip
def test_expressions_in_words(expression, said):
    assert sentences.sentence(expression) == said


def test_a_signal_of_the_target_need_not_say_whose_it_is():
    expression = "service.error_ratio > 0.05 && host.network_up > 0.5"
    assert sentences.sentence(expression, kind="service") == (
        "share of requests that failed is above 5 % and an interface is up (host)"
    )


def test_conditions_that_may_come_true_in_several_ways_keep_their_meaning_in_a_list():
    said = sentences.every(["service.up > 0.5", "host.network_up > 0.5 || gpu.reachable > 0.5"])
    assert said == (
        "the service answers a probe (service) and (an interface is up (host) or the GPU answers (GPU))"
    )


def test_value_and_peers_are_of_the_signal():
    said = sentences.sentence("value < peers.median * 0.85", "gpu.clock_ratio")
    assert said == "clock against its maximum (GPU) is below 0.85 times the median of its peers"


def test_labels_of_a_signal_are_said():
    said = sentences.sentence("value > 0.5", "gpu.throttled{reason=power_brake}")
    assert said == "heat or power hold the clock back (GPU, reason power brake)"
    said = sentences.sentence("value > 0.3", "host.pressure_ratio{resource=cpu,who=some}")
    assert (
        said
        == "share of time that tasks wait for a resource (host, resource cpu, who some) is above 30 %"
    )


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_every_playbook_reads_like_a_runbook(name):
    book = BOOKS[name]
    sections = dict(explain.explain(book))
    assert {"When", "On", "May", "Do", "Works if", "Undo", "Limits", "Asked"} <= sections.keys()
    text = explain.text(book)
    assert text.startswith(book.title)
    for step in book.do:
        assert f"({step.use}" in text
    if book.mutating:
        undone = any("harm is undone" in line for line in sections["Works if"])
        assert undone == any("what was there is put back" in line for line in sections["Undo"])
        assert "role operator" in sections["Asked"][0]
    # no signal's bare name and no raw number of seconds where words can be said
    told = "\n".join(line for label in ("When", "Works if", "Limits") for line in sections[label])
    assert not re.search(r"_seconds|_ratio\b", re.sub(r"`[^`]*`", "", told)), told


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_every_runbook_is_whole_and_fits_a_terminal(name):
    text = explain.text(BOOKS[name])
    assert max(map(len, text.splitlines())) <= 120
    assert "..." not in text
    assert not re.search(r"(?<![.0-9])1 (times|targets|runs)\b", text), text
    plain = " ".join(text.split())
    for step in (*BOOKS[name].do, *BOOKS[name].then):
        assert f". {step.id}: " in plain
        if said := str(step.with_.get("text", "")):
            assert said.split("${", maxsplit=1)[0].strip() in plain


def test_a_condition_of_several_ways_is_told_way_by_way():
    text = explain.text(BOOKS["label-bad"])
    assert "any of these, for 5 min:\n" in text
    assert "  - labels themselves look wrong" in text


def test_who_is_asked_and_what_stays():
    text = explain.text(BOOKS["concept-drift"])
    assert "a person with the role operator, who has 4 h; on silence people are called" in text
    assert "retrain: stays, there is nothing to put back: the new version stands beside" in text
    assert "promote: what was there is put back" in text


def test_a_restart_is_not_said_to_be_put_back():
    text = explain.text(BOOKS["serve-hang"])
    assert (
        "restart: stays, there is nothing to put back: what was restarted runs what it ran before"
        in text
    )
    assert "what was there is put back" not in text
    assert "harm is undone" not in text


def test_a_step_that_asks_for_itself_is_said_and_drawn():
    ask = "approve: {by: admin, timeout: 10m, on_timeout: deny}\n    undo: auto"
    text = template.write("made", "serving", "scale").replace("undo: auto", ask, 1)
    (made,) = lay([[read(text)]], None).playbooks.values()
    said = (
        "a person with the role admin, who has 10 min; on silence it is taken as no, before scale"
    )
    asked = dict(explain.explain(made))["Asked"][0]
    assert asked.startswith("a person with the role operator")
    assert asked.endswith(f"; and {said}")
    alone = dict(explain.explain(made.model_copy(update={"mode": "auto"})))["Asked"]
    assert alone == [said]
    found = flow.flow(made)
    assert found.boxes["ask_do_scale"] == ("ask", "admin says yes within 10 min?")
    assert ("ask_do_scale", "do_scale", "yes") in found.arrows


@pytest.mark.parametrize("name", sorted(BOOKS))
def test_pictures_hang_together(name):
    found = flow.flow(BOOKS[name])
    ends = {n for n, (shape, _) in found.boxes.items() if shape == "end"}
    out = {a: [b for x, b, _ in found.arrows if x == a] for a in found.boxes}
    assert all(out[n] for n in found.boxes if n not in ends)
    assert not any(out[n] for n in ends)
    reached, todo = set(), ["cause"]
    while todo:
        here = todo.pop()
        if here not in reached:
            reached.add(here)
            todo += out[here]
    assert reached == found.boxes.keys()
    for step in BOOKS[name].do:
        assert f"do_{step.id}" in found.boxes


def test_pictures_quote_what_would_be_read_as_signs():
    book = lay(
        [
            [
                read(
                    template.write("made", "serving", "scale").replace(
                        "0.5'", '0.5 || target.id == "a"\'', 1
                    )
                )
            ]
        ],
        None,
    )
    found = flow.flow(book.playbooks["made"])
    drawn = flow.mermaid(found)
    assert drawn.startswith("flowchart TD\n")
    assert "target.id is #34;a#34;" in drawn
    assert '\\"a\\"' in flow.dot(found, "made")


def test_one_that_only_observes_ends_at_the_guard():
    text = template.write("made", "serving", "notify").replace("mode: suggest", "mode: observe")
    found = flow.flow(lay([[read(text)]], None).playbooks["made"])
    assert not any(name.startswith("do_") for name in found.boxes)
