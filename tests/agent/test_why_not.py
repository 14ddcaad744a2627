"""Why a playbook did not act: as it was recorded, or worked out from what was open and seen then."""

from dataclasses import replace

import pytest
from desk_story import BATCH, MODEL, WINE, Story
from pydantic import TypeAdapter

from agent import registry, views
from agent.cli import tables
from agent.codec import pack
from agent.errors import Refused
from agent.meant import NotThere
from agent.model import Decision, Gate, Run
from agent.playbook import Playbook
from agent.views import WhyNotView

NEIGHBOUR = {
    "version": 1, "id": "slow-service", "title": "Scale what is slow", "target": {"kind": "service"},
    "because": {"cause": "host.neighbour", "min_confidence": 0.5},
    "do": [{"id": "tell", "use": "notify", "with": {"text": "x"}}],
    "when": ["service.latency_p95_seconds > 0.3"],
}  # fmt: skip


@pytest.fixture
def story(tmp_path):
    registry.load()
    story = Story(tmp_path)
    yield story
    story.close()


def ask(story, playbook, target, when=""):
    said = story.desk.why_not(playbook, target, when)
    TypeAdapter(WhyNotView).validate_python(said, strict=True)
    return said, "\n".join(said["text"])


def load(story, **more):
    book = Playbook.model_validate(NEIGHBOUR | more)
    story.hooks.loaded[book.id] = book
    listed = [
        *story.hooks.playbooks(),
        {"id": book.id, "title": book.title, "owner": "", "target": "service", "causes": [], "limits": [
            {"by": "playbook", "mode": "auto", "reason": ""}]},
    ]  # fmt: skip
    story.hooks.playbooks = lambda: listed


# ---- recorded


def test_a_decision_is_told_gate_by_gate(story):
    said, text = ask(story, "backup-model", "model:wine")
    assert (said["answer"], said["incident"], said["mode"]) == ("held", "inc-7c00beef", "auto")
    assert "held back by 1 gate, since" in text
    assert (
        "Closed:   confidence: 0.78, it wants 0.80; the cause is 78 % sure, 80 % are asked for"
        in text
    )
    assert "Open:     scope model matched" in text
    assert [g["name"] for g in said["gates"]] == ["scope", "confidence"]
    assert said["next"] == "homeostat why inc-7c00beef"


def test_what_did_run_is_said_with_its_run(story):
    said, text = ask(story, "calm", "nightly-batch")
    assert (said["answer"], said["run"]) == ("ran", "run-22c0ffee")
    assert "run-22c0ffee is waiting approval" in text
    assert said["next"] == "homeostat approve run-22c0ffee"


def test_each_time_has_the_decision_that_held_then(story):
    later = Decision(
        story.now - 50, "backup-model", MODEL, "inc-7c00beef", "auto", False,
        (Gate("cooldown", False, "1 s", "5 min", "it rests"),),
    )  # fmt: skip
    story.hooks.record("decision", f"backup-model|{MODEL.id}", pack(later), later.ts)
    assert ask(story, "backup-model", "model:wine")[0]["gates"][0]["name"] == "cooldown"
    assert len(ask(story, "backup-model", "model:wine", "100s")[0]["gates"]) == 2
    before, text = ask(story, "backup-model", "model:wine", "30m")
    assert before["decided"] is None
    assert "Decided:  nothing" in text


def test_that_its_own_run_is_at_work_is_no_answer_but_what_let_it_begin_and_where_it_stands(story):
    busy = Gate("busy", False, "backup-1", "one run a target", "run backup-1 is at work")
    let = Decision(story.now - 40, "backup-model", MODEL, "inc-7c00beef", "approve", True, ())
    held = Decision(
        story.now - 30, "backup-model", MODEL, "inc-7c00beef", "approve", False, (busy,)
    )
    for one in (let, held):
        story.hooks.record("decision", f"backup-model|{MODEL.id}", pack(one), one.ts)
    run = Run("backup-1", "backup-model", MODEL, "inc-7c00beef", "approve", "waiting_approval",
              let.ts, let.ts, "h", text="waits for a yes")  # fmt: skip
    story.hooks.record("run", run.id, pack(run), let.ts)
    said, text = ask(story, "backup-model", "model:wine")
    assert (said["answer"], said["run"], said["decided"]) == ("ran", "backup-1", let.ts)
    assert "backup-1 is waiting approval: waits for a yes" in text
    assert text.endswith("Next:     homeostat approve backup-1")
    other = replace(busy, value="run-of-another")
    held = replace(held, ts=story.now - 20, gates=(other,))
    story.hooks.record("decision", f"backup-model|{MODEL.id}", pack(held), held.ts)
    assert ask(story, "backup-model", "model:wine")[0]["answer"] == "held"


def test_a_run_does_not_show_itself_as_what_stands_in_its_way(story, capsys):
    run = Run("backup-1", "backup-model", MODEL, "inc-7c00beef", "approve", "waiting_approval",
              story.now, story.now, "h", text="waits for a yes")  # fmt: skip
    gates = (Gate("busy", False, "backup-1", "one run a target", "run backup-1 is at work"),
             Gate("settle", False, "1 s", "5 min", "an act nearby has to settle"))  # fmt: skip
    held = Decision(story.now, "backup-model", MODEL, "inc-7c00beef", "approve", False, gates)
    tables.run(views.run_view(run, None, held, str))
    shown = capsys.readouterr().out
    assert "gate settle: an act nearby" in shown
    assert "gate busy" not in shown


def test_a_decision_of_an_incident_that_is_over_does_not_hold_any_more(story):
    over = replace(story.broken, state="resolved", resolved=story.now - 10)
    story.hooks.record("incident", over.id, pack(over), story.now - 10)
    said, text = ask(story, "backup-model", "model:wine")
    assert said["decided"] is None
    assert "last decided at" in text
    assert ask(story, "backup-model", "model:wine", "1m")[0]["answer"] == "held"


# ---- worked out


def test_another_cause_is_named(story):
    load(story, because={"cause": "release.code"})
    said, text = ask(story, "slow-service", "service:wine")
    assert (said["answer"], said["incident"]) == ("not_meant", "inc-7f3a99e0")
    assert "the cause was host.neighbour" in text
    assert "it is for release.code" in text


def test_a_condition_says_what_it_saw_now_and_then(story):
    load(story, when=["service.latency_p95_seconds > 5.0"])
    said, text = ask(story, "slow-service", "service:wine")
    assert said["answer"] == "not_meant"
    assert "was false: service.latency_p95_seconds 0." in text
    load(story, when=["service.latency_p95_seconds > 0.3"])
    _, text = ask(story, "slow-service", "service:wine", "2m")
    assert "all that can be known fits" in text
    load(story, when=["service.error_ratio > 0.3"])
    _, text = ask(story, "slow-service", "service:wine", "2m")
    assert "was unknown: service.error_ratio unknown" in text


def test_who_came_first_is_the_answer_where_nothing_else_speaks_against_it(story):
    """Not that its conditions may not have held: they may have, for hours."""
    load(story, when=[{"is": "service.latency_p95_seconds > 0.3", "for": 30}])
    first = Decision(story.now - 60, "tell-owner", WINE, "inc-7f3a99e0", "auto", True, ())
    story.hooks.record("decision", f"tell-owner|{WINE.id}", pack(first), first.ts)
    said, text = ask(story, "slow-service", "service:wine")
    assert said["answer"] == "unknown"
    assert "all that can be known fits, but tell-owner came first on this target" in text
    assert "Order:    first is who names the more specific cause" in text
    assert "may not have held" not in text


@pytest.mark.parametrize(
    ("more", "target", "says"),
    [
        ({"because": {"cause": "host.neighbour", "min_confidence": 0.95}}, WINE, "87% sure, it wants 95%"),
        ({}, BATCH, "it acts on a service: it would act on service:wine, not on process:"),
        ({"unless": ["service.requests_per_second > 1.0"]}, WINE, "its exception service.requests_per_second > "),
    ],
)  # fmt: skip
def test_whatever_did_not_fit_is_said(story, more, target, says):
    load(story, **more)
    said, text = ask(story, "slow-service", target.id)
    assert said["answer"] == "not_meant"
    assert says in text


def test_where_nothing_was_wrong_that_is_the_answer(story):
    load(story)
    said, text = ask(story, "slow-service", "service:wine", "55m")
    assert said["answer"] == "nothing"
    assert "no incident was open that has to do with it" in text


# ---- names, times, form


def test_names_are_helped_with(story):
    load(story)
    assert ask(story, "scale what", "service:wine")[0]["playbook"] == "slow-service"
    with pytest.raises(NotThere, match="did you mean slow-service"):
        ask(story, "slow-servce", "service:wine")
    with pytest.raises(NotThere, match="did you mean"):
        ask(story, "slow-service", "servce:wine")
    with pytest.raises(Refused, match="nothing is decided ahead"):
        ask(story, "slow-service", "service:wine", str(story.now + 60))
    with pytest.raises(Refused, match="not a time"):
        ask(story, "slow-service", "service:wine", "yesterday")


def test_a_tired_person_can_read_it(story, capsys):
    tables.why(ask(story, "backup-model", "model:wine")[0])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("backup-model on model:wine, at ")
    assert [row.partition(":")[0] for row in rest if row[0] != " "] == [
        "Answer",
        "Closed",
        "Open",
        "Next",
    ]
