import json
import math
import re
from dataclasses import replace

import pytest
from desk_story import (
    ADMIN,
    BATCH,
    CORES,
    LATENCY,
    OPERATOR,
    VIEWER,
    WORKERS,
    Story,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agent import audit, views
from agent.authority import LOOPBACK, Forbidden, Person, Unknown
from agent.budget import Day
from agent.catalogue import SIGNALS
from agent.codec import pack
from agent.control import paused_file, write_paused
from agent.desk import StatusView
from agent.desk.hooks import SourceView
from agent.desk.labels import BudgetView
from agent.desk.playbooks import PlaybookView
from agent.errors import Refused
from agent.journal import Journal
from agent.meant import NotThere
from agent.memory import Memory
from agent.model import Anomaly, Entity, Outcome, Run, Series
from agent.views import (
    ChartView,
    IncidentDetail,
    IncidentView,
    LabelView,
    RunView,
    WhyView,
    name_of,
    title_of,
)
from agent.why import why_view


@pytest.fixture
def story(tmp_path):
    made = Story(tmp_path / "state", config_path=tmp_path / "etc" / "agent.yaml")
    (tmp_path / "etc").mkdir()
    yield made
    made.close()


def fits(view, value):
    """Check an answer against its documented type, and that JSON carries it as it is."""
    TypeAdapter(view).validate_python(value, strict=True)
    assert json.loads(json.dumps(value, allow_nan=False)) == value


# ---- playbooks


def ended(story, id_, verdict, *, playbook="calm-neighbour", target=None, at=0.0):
    run = Run(id_, playbook, target or Entity("service", "checkout"), "inc-7f", "auto", "done", story.now,
              story.now + at, "h", outcome=Outcome(verdict, "so it was"))  # fmt: skip
    story.hooks.record("run", id_, pack(run), story.now)


def playbook(story, id_="calm-neighbour"):
    (found,) = (p for p in story.desk.playbooks() if p["id"] == id_)
    return found


def test_playbooks_show_their_record_and_what_holds_them(story):
    before = playbook(story)
    assert (before["mode"], before["why"], before["record"]["runs"]) == ("approve", [], 0)
    assert before["record"]["success"] is None
    for i, verdict in enumerate(["helped"] * 9 + ["no_effect", "cannot_tell"]):
        ended(story, f"run-x{i}", verdict)
    ended(story, "run-gone", "helped", playbook="forgotten", target=Entity("gpu", "g1"))
    fits(list[PlaybookView], story.desk.playbooks())
    mine, gone = playbook(story), playbook(story, "forgotten")
    assert mine["record"]["helped"] == 9
    assert mine["record"]["success"] == pytest.approx(0.596, abs=0.001)
    assert list(mine["groups"]) == ["service:checkout"]
    assert (gone["id"], gone["mode"], list(gone["groups"])) == ("forgotten", "observe", ["gpu"])
    assert gone["limits"] == [{"by": "not loaded", "mode": "observe", "reason": ""}]


def test_harm_demotes_and_a_named_author_lifts_it(story):
    author = Person("ann", "author", "token")
    with pytest.raises(Refused, match="no harm on its record"):
        story.desk.reinstate(author, "calm-neighbour")
    ended(story, "run-bad", "harmed")
    p = playbook(story)
    assert (p["mode"], p["own_mode"]) == ("suggest", "approve")
    assert p["why"] == ["record: suggest, it harmed service:checkout in run run-bad: so it was"]
    with pytest.raises(Forbidden):
        story.desk.reinstate(OPERATOR, "calm-neighbour")
    with pytest.raises(NotThere):
        story.desk.reinstate(author, "nothing")
    back = story.desk.reinstate(author, "calm", reason="mended")
    assert (back["mode"], back["why"], back["record"]["harmed"]) == ("approve", [], 1)
    (entry,) = story.hooks.journal.read(("reinstate",))
    assert entry.body == {"by": "ann (author, token)", "reason": "mended"}


def test_each_group_says_how_far_a_playbook_may_go_there(story):
    for i in range(3):
        ended(story, f"run-a{i}", "helped")
    ended(story, "run-bad", "harmed", target=Entity("replica", "cart/1"))
    ended(story, "run-new", "helped", target=Entity("service", "mail"))
    p = playbook(story)
    said = {name: (g["mode"], g["helped"], g["harmed"]) for name, g in p["groups"].items()}
    assert said == {
        "service:cart": ("suggest", 0, 1), "service:checkout": ("approve", 3, 0), "service:mail": ("suggest", 1, 0),
    }  # fmt: skip
    assert p["mode"] == "suggest"
    assert (
        p["groups"]["service:mail"]["harm"] == "it harmed replica:cart/1 in run run-bad: so it was"
    )
    assert p["groups"]["service:checkout"]["harm"] == ""
    fits(list[PlaybookView], story.desk.playbooks())


def test_a_pause_of_everything_holds_playbooks_too(story):
    story.desk.pause(OPERATOR, "", "release day")
    p = playbook(story)
    assert p["mode"] == "observe"
    assert p["why"] == [f"pause: observe, by {OPERATOR.signed}"]


# ---- asking


def test_every_answer_is_what_it_is_documented_to_be(story):
    desk = story.desk
    fits(StatusView, desk.status())
    fits(list[IncidentView], desk.incidents(everything=True))
    for i in ("inc-7f", "inc-1a", "inc-7c"):
        fits(IncidentDetail, desk.incident(i))
        fits(WhyView, desk.why(i))
        fits(list[ChartView], desk.evidence(i))
    fits(list[RunView], desk.runs())
    fits(ChartView, desk.chart(str(LATENCY)))
    fits(list[SourceView], desk.sources())
    fits(list[PlaybookView], desk.playbooks())


def test_status_counts_what_is_going_on(story):
    said = story.desk.status()
    assert said["counts"] == {
        "open": 2, "page": 1, "warning": 0, "note": 1, "runs_live": 1, "runs_asking": 1,
    }  # fmt: skip
    assert said["host"] == "web-1"
    assert said["mode"] == "auto"
    assert said["journal_entries"] > 5
    assert [s["name"] for s in story.desk.blind()] == ["predictions.feed"]
    assert [s["name"] for s in story.desk.learning()] == ["models"]


def test_open_incidents_come_first_and_harm_before_all(story):
    assert [i["id"][:6] for i in story.desk.incidents()] == ["inc-7f", "inc-7c"]
    assert [i["id"][:6] for i in story.desk.incidents(everything=True)] == ["inc-7f", "inc-7c", "inc-1a"]  # fmt: skip
    assert len(story.desk.incidents(everything=True, limit=1)) == 1


def test_why_is_read_in_one_breath(story):
    for i in ("inc-7f", "inc-1a", "inc-7c"):
        lines = story.desk.why(i)["text"]
        assert 5 <= len(lines) <= 11
        assert all(len(line) < 160 for line in lines)
    text = "\n".join(story.desk.why("inc-7f")["text"])
    for part in (
        "Latency p95 of service wine is 710 ms",
        "open for 4 min",
        "nightly-batch (pid 5200)",
        "host.neighbour, 87 % sure",
        "1.9 cores, usually 0.05",
        "serving.saturation (traffic did not rise)",
        "your turn: homeostat approve run-22c0ffee",
    ):
        assert part in text, part
    over = "\n".join(story.desk.why("inc-1a")["text"])
    assert "it lasted 9 min 20 s" in over
    assert "serve-bad-deploy on wine: helped (accuracy is 97 %, was 83 %)" in over
    held = "\n".join(story.desk.why("inc-7c")["text"])
    assert "gate confidence: the cause is 78 % sure, 80 % are asked for" in held
    assert "low confidence" in held


def test_why_names_who_left_the_others_together(story):
    detail = story.desk.incident("inc-7f")
    a = Anomaly(
        CORES, story.now - 60, None, 1e-7, 1, 1.9, 0.0, 0.2, 1.7, 20.0, "calibrated", "joint",
        carriers=(LATENCY, CORES),
    )  # fmt: skip
    view = views.anomaly_view(a, lambda e: e.key)
    assert view["carriers"] == ["latency p95", "CPU cores"]
    detail["anomalies"] = [*detail["anomalies"], view, view]
    text = why_view(detail, [], story.now)["text"]
    joint = [line for line in text if line.startswith("Joint:")]
    assert joint == [
        "Joint:    CPU cores left what the series beside it say of it, and with it latency p95"
    ]


def test_why_says_when_everything_stands_still(story):
    story.desk.pause(OPERATOR, reason="deploying")
    assert "everything is paused by olga" in story.desk.why("inc-7f")["next"]


def test_a_run_shows_what_was_planned_and_what_is_done(story):
    asks = story.desk.run("run-22")
    assert [(s["id"], s["status"], s["temporary"]) for s in asks["steps"]] == [
        ("lower", "planned", True),
        ("tell", "planned", False),
    ]
    assert asks["asks"]
    assert asks["live"]
    assert asks["approve"]["by"] == "operator"
    assert asks["approve"]["expires"] == pytest.approx(story.now - 200 + 900)
    assert [g["name"] for g in asks["gates"]] == ["scope", "mode"]
    done = story.desk.run("run-1111")
    assert done["steps"][0]["summary"] == "champion of wine is 3 again, was 4"
    assert done["outcome"]["verdict"] == "helped"
    assert not done["asks"]
    assert [r["id"] for r in story.desk.runs()] == ["run-22c0ffee", "run-1111aaaa"]
    assert [r["id"] for r in story.desk.runs(everything=False)] == ["run-22c0ffee"]


# ---- charts


def test_evidence_is_drawn_with_its_band_harm_first(story):
    charts = story.desk.evidence("inc-7f")
    assert [c["title"] for c in charts] == ["latency p95", "CPU busy", "CPU cores", "requests per second"]  # fmt: skip
    first = charts[0]
    assert (first["low"], first["high"], first["unit"]) == (None, 0.25, "seconds")
    ts, values = first["data"]
    assert len(ts) == len(values) <= 410
    assert ts == sorted(ts)
    assert max(v for v in values if v is not None) > 0.5
    assert {"ts": story.now - 242, "kind": "onset", "text": "it began"} in first["marks"]
    rolled = story.desk.evidence("inc-1a")[0]
    kinds = {m["kind"] for m in rolled["marks"]}
    assert {"onset", "end", "change", "act"} <= kinds
    assert any("3 -> 4 by ci" in m["text"] for m in rolled["marks"])


def test_what_was_not_seen_is_a_gap_in_the_chart(story):
    chart = story.desk.chart(str(LATENCY), "28m", "25m")
    assert None in chart["data"][1]
    assert any(v is not None for v in chart["data"][1])


def test_a_chart_can_be_asked_for_in_few_words(story):
    by_metric = story.desk.chart("service.latency_p95_seconds", "10m")
    assert by_metric["series"] == str(LATENCY)
    assert by_metric["data"][0][0] == pytest.approx(story.now - 600, abs=3)
    assert by_metric["high"] == 0.25
    exact = story.desk.chart(str(LATENCY), str(story.now - 60), str(story.now - 30))
    assert len(exact["data"][0]) == pytest.approx(31, abs=1)
    with pytest.raises(NotThere, match=r"service\.latency_p95_seconds"):
        story.desk.chart("service.latency_p59_seconds")
    with pytest.raises(Refused, match="would end before it starts"):
        story.desk.chart(str(LATENCY), "5m", "10m")
    with pytest.raises(Refused, match="not a time"):
        story.desk.chart(str(LATENCY), "yesterday")


# ---- finding what was meant


def test_ids_are_shortened_as_in_git(story):
    assert story.desk.incident("inc-1a2b3c4d")["id"] == "inc-1a2b3c4d"
    assert story.desk.incident("1a2b")["id"] == "inc-1a2b3c4d"
    assert story.desk.incident("last")["id"] == "inc-7c00beef"
    with pytest.raises(Refused, match="beginning of 2 incidents; write more: inc-7"):
        story.desk.incident("inc-7")
    with pytest.raises(NotThere, match="the newest are inc-7c00beef"):
        story.desk.incident("nonsense")
    with pytest.raises(NotThere):
        story.desk.incident("")


def test_entities_are_found_by_a_part_of_their_name(story):
    desk = story.desk
    assert desk.pause(OPERATOR, "nightly")[0]["key"] == BATCH.id
    assert desk.pause(OPERATOR, "gunicorn")[-1]["key"] == WORKERS.id
    assert desk.pause(OPERATOR, "feature:wine/alcohol")[-1]["key"] == "feature:wine/alcohol"
    with pytest.raises(
        Refused, match=r"'wine' may be 2 things; write one of model:wine, service:wine"
    ):
        desk.pause(OPERATOR, "wine")
    with pytest.raises(NotThere, match="did you mean service:wine"):
        desk.pause(OPERATOR, "service:wiine")
    with pytest.raises(NotThere, match="nothing here is called"):
        desk.silence(OPERATOR, "zzz", "1h")


# ---- doing


async def test_a_yes_reaches_the_run_with_the_name_of_who_said_it(story):
    said = await story.desk.approve("run-22", OPERATOR)
    assert said["state"] == "acting"
    (entry,) = story.hooks.journal.read(("approval",))
    assert entry.body == {
        "person": "olga (operator, token)",
        "yes": True,
        "plan_hash": story.run.plan_hash,
    }
    with pytest.raises(Refused, match="is acting: nobody is asked"):
        await story.desk.approve("run-22", OPERATOR)


async def test_a_yes_to_another_plan_is_no_yes(story):
    with pytest.raises(Refused, match="has changed since you saw it"):
        await story.desk.approve("run-22", OPERATOR, plan_hash="f" * 64)
    assert list(story.hooks.journal.read(("approval",))) == []
    await story.desk.approve("run-22", OPERATOR, plan_hash=story.run.plan_hash)


def test_who_takes_an_incident_is_journalled_and_seen_and_taken_once(story):
    said = story.desk.acknowledge(OPERATOR, "inc-7f", "looking")
    assert said["state"] == "acknowledged"
    entry = list(story.hooks.journal.read(("incident",), "inc-7f3a99e0"))[-1]
    turn = entry.body["turns"][-1]
    assert (turn["state"], turn["by"], turn["why"]) == (
        "acknowledged", "olga (operator, token)", "looking",
    )  # fmt: skip
    with pytest.raises(Refused, match="acknowledged already, by olga"):
        story.desk.acknowledge(ADMIN, "inc-7f")
    with pytest.raises(Refused, match="is resolved: it can not be acknowledged"):
        story.desk.acknowledge(OPERATOR, "inc-1a")


async def test_who_may_not_is_told_what_they_need(story):
    with pytest.raises(Forbidden, match="victor is viewer, approve needs operator"):
        await story.desk.approve("run-22", VIEWER)
    with pytest.raises(Unknown, match="homeostat token add"):
        await story.desk.deny("run-22", LOOPBACK)
    for call in (
        lambda: story.desk.acknowledge(VIEWER, "inc-7f"),
        lambda: story.desk.pause(VIEWER),
        lambda: story.desk.resume(VIEWER),
        lambda: story.desk.silence(VIEWER, "web-1", "1h"),
        lambda: story.desk.label(VIEWER, "inc-1a", "noise"),
        lambda: story.desk.token_add(OPERATOR, "x", "admin"),
    ):
        before = story.hooks.journal.head
        with pytest.raises(Forbidden):
            call()
        assert story.hooks.journal.head == before


async def test_a_no_ends_a_run_that_asks_and_stops_one_that_acts(story):
    assert (await story.desk.deny("run-22", OPERATOR))["state"] == "denied"
    with pytest.raises(Refused, match="is denied: nobody is asked"):
        await story.desk.deny("run-22", OPERATOR)


async def test_a_no_to_a_plan_that_was_seen_is_for_that_plan_alone(story):
    seen = story.desk.asking("run-22", OPERATOR)["plan_hash"]
    with pytest.raises(Refused, match="has changed since you saw it"):
        await story.desk.deny("run-22", OPERATOR, "no", "0" * 64)
    with pytest.raises(Refused, match="has changed since you saw it"):
        story.desk.asking("run-22", OPERATOR, "0" * 64)
    with pytest.raises(Forbidden):
        story.desk.asking("run-22", VIEWER, seen)
    await story.desk.approve("run-22", OPERATOR, seen)
    with pytest.raises(Refused, match="nobody is asked"):
        await story.desk.deny("run-22", OPERATOR, "no", seen)
    assert story.hooks.memory.cancels == {}


async def test_why_it_was_denied_is_in_the_record(story):
    await story.desk.deny("run-22", OPERATOR, "the batch must finish")
    (entry,) = story.hooks.journal.read(("approval",))
    assert (entry.body["yes"], entry.body["reason"]) == (False, "the batch must finish")
    assert audit.line(entry)["text"] == "no: the batch must finish"


async def test_a_run_that_acts_is_stopped_by_a_no(story):
    await story.desk.approve("run-22", OPERATOR)
    await story.desk.deny("run-22", OPERATOR)
    assert story.hooks.memory.cancels == {"run-22c0ffee": "olga (operator, token)"}


@pytest.mark.parametrize("verb", ["deny", "undo"])
async def test_why_it_was_stopped_is_in_the_record(story, verb):
    desk, why = story.desk, "the batch must finish"
    await desk.approve("run-22", OPERATOR)
    await (
        desk.deny("run-22", OPERATOR, why) if verb == "deny" else desk.undo(OPERATOR, "run-22", why)
    )
    (entry,) = story.hooks.journal.read(("cancel",))
    assert entry.body == {"person": "olga (operator, token)", "reason": why}
    shown = audit.line(entry)
    assert (shown["by"], shown["text"]) == ("olga (operator, token)", why)


async def test_a_suggestion_asks_while_its_incident_is_open(story):
    from dataclasses import replace

    old = replace(story.run, id="run-33333333", state="suggested", mode="suggest")
    newer = replace(old, id="run-44444444", started=old.started + 50)
    for run in (old, newer):
        story.hooks.record("run", run.id, pack(run), story.now)
    assert story.desk.run("run-44")["asks"]
    assert not story.desk.run("run-33")["asks"]  # a newer one says the same with fresher evidence
    assert (await story.desk.approve("run-44", OPERATOR))["state"] == "acting"
    story.hooks.record("run", newer.id, pack(newer), story.now)
    denied = await story.desk.deny("run-44", OPERATOR, "not tonight")
    assert denied["state"] == "denied"
    assert "not tonight" in denied["text"]
    over = replace(story.noisy, state="resolved", resolved=story.now)
    story.hooks.record("incident", over.id, pack(over), story.now)
    story.hooks.record("run", newer.id, pack(newer), story.now)
    assert not story.desk.run("run-44")["asks"]


def test_silences_are_made_renewed_and_ended(story):
    made = story.desk.silence(OPERATOR, "web-1", "2h", cause="host.disk", reason="new disk")
    assert made["target"] == "host:web-1"
    assert made["until"] == pytest.approx(story.now + 7200)
    assert story.hooks.memory.silenced("host:web-1", story.now, "host.disk") is not None
    assert story.hooks.memory.silenced("host:web-1", story.now, "host.cpu") is None
    glob = story.desk.silence(OPERATOR, "service:*", "90")
    assert [s["id"] for s in story.desk.silences()] == [glob["id"], made["id"]]
    story.desk.unsilence(OPERATOR, glob["id"][:7])
    assert [s["id"] for s in story.desk.silences()] == [made["id"]]
    last = list(story.hooks.journal.read(("silence",)))[-1]
    assert last.body["ended_by"] == "olga (operator, token)"


@pytest.mark.parametrize("lasts", ["0s", "31d", "soon", "-1h", ""])
def test_a_silence_needs_a_sensible_end(story, lasts):
    with pytest.raises(Refused):
        story.desk.silence(OPERATOR, "web-1", lasts)


def test_a_silence_names_a_cause_that_exists(story):
    with pytest.raises(Refused, match=r"did you mean host\.disk"):
        story.desk.silence(OPERATOR, "web-1", "1h", cause="host.disc")


def test_pause_and_resume_everything_and_one_thing(story):
    desk = story.desk
    assert [p["key"] for p in desk.pause(OPERATOR, reason="deploying")] == ["*"]
    assert [p["key"] for p in desk.pause(ADMIN, "service:wine")] == ["*", "service:wine"]
    assert story.hooks.memory.paused("process:anything").reason == "deploying"
    assert [p["key"] for p in desk.resume(OPERATOR)] == ["service:wine"]
    with pytest.raises(Refused, match="everything is not paused; paused are: service:wine"):
        desk.resume(OPERATOR)
    assert desk.resume(OPERATOR, "service:wine") == []
    said = [
        (e.kind, e.subject, e.body["by"]) for e in story.hooks.journal.read(("pause", "resume"))
    ]
    assert said == [
        ("pause", "*", "olga (operator, token)"),
        ("pause", "service:wine", "root (admin, socket)"),
        ("resume", "*", "olga (operator, token)"),
        ("resume", "service:wine", "olga (operator, token)"),
    ]


def test_the_file_paused_stops_everything_until_it_is_resumed(story):
    path = paused_file(story.hooks.config_path, story.hooks.state)
    write_paused(path, "disk swap", story.now)
    (stop,) = story.desk.pauses()
    assert (stop["key"], stop["file"], stop["reason"]) == ("*", True, "disk swap")
    assert story.desk.resume(OPERATOR) == []
    assert not path.exists()
    path.touch()  # an empty one stops as well
    assert story.desk.pauses()[0]["key"] == "*"
    path.write_text("hands off, Olga")
    assert story.desk.pauses()[0]["reason"] == "hands off, Olga"


def test_the_budget_is_measured_by_what_people_say(story):
    said = story.desk.budget()
    fits(BudgetView, said)
    assert (said["promised_per_week"], said["pages_last_week"], said["false_last_week"]) == (
        2,
        2,
        0,
    )
    assert (said["pages"]["high"], said["pages"]["verdict"]) == (None, "unknown")
    assert said["notes"]["promised"] == 1.0
    story.desk.label(OPERATOR, "inc-1a", "noise")
    assert story.desk.budget()["false_last_week"] == 1
    story.desk.label(OPERATOR, "inc-1a", "real", note="it was real")
    assert story.desk.budget()["false_last_week"] == 0


def test_after_weeks_of_watching_the_measured_rate_has_bounds(story):
    for day in range(28):
        story.hooks.ledger.days[int(story.now // 86_400) - day] = Day(86_400.0, 30.0, 10, 0)
    quiet = story.desk.budget()["pages"]
    assert (quiet["verdict"], quiet["sure"], quiet["perhaps"]) == ("within", 0.0, 0.5)
    story.hooks.ledger.promise = replace(story.hooks.ledger.promise, pages_per_week=0.01)
    assert story.desk.budget()["pages"]["verdict"] == "unknown"
    story.desk.label(OPERATOR, "inc-1a", "noise")
    story.desk.label(OPERATOR, "inc-7f", "noise")
    assert story.desk.budget()["pages"]["verdict"] == "above"
    assert not story.desk.budget()["within"]
    story.desk.label(OPERATOR, "inc-1a", "real")
    story.desk.label(OPERATOR, "inc-7f", "real")
    assert story.desk.budget()["pages"]["perhaps"] == 0.0
    assert story.desk.budget()["anomalies"]["promised"] == pytest.approx(30.0)


def test_a_label_is_journalled_shown_by_why_and_says_what_it_changes(story):
    said = story.desk.label(OPERATOR, "inc-7f", "noise", note="planned load test")
    fits(LabelView, said)
    signals = {s["signal"]: s["factor"] for s in said["signals"]}
    assert signals["host.cpu_busy_ratio{host:web-1}"] == pytest.approx(1 / 3, abs=0.01)
    assert str(LATENCY) not in signals  # an objective holds as it was stated
    assert "3 times rarer" in said["text"]
    (entry,) = story.hooks.journal.read(("label",))
    assert (entry.subject, entry.body["label"]) == (story.noisy.id, "noise")
    assert "olga" in entry.body["by"]
    (line,) = [x for x in story.desk.why("inc-7f")["text"] if x.startswith("Label:")]
    assert "noise, by olga" in line
    assert "planned load test" in line
    assert story.desk.incidents()[0]["label"] == "noise"
    again = Memory()
    again.load(story.hooks.journal)
    assert again == story.hooks.memory
    assert story.desk.budget()["signals"][0]["factor"] < 0.4
    said = story.desk.label(OPERATOR, "inc-7f", "real")
    assert all(s["factor"] > 1 for s in said["signals"])


def test_tokens_are_journalled_and_never_written_out(story):
    made = story.desk.token_add(ADMIN, "ci", "operator")
    assert story.tokens.who(made["token"]) == Person("ci", "operator", "token")
    assert [t["name"] for t in story.desk.token_list(ADMIN)] == ["ci"]
    assert "sha256" not in json.dumps(story.desk.token_list(ADMIN))
    story.desk.token_revoke(ADMIN, "ci")
    assert story.hooks.dismissed == "ci"
    assert story.desk.token_list(ADMIN) == []
    entries = list(story.hooks.journal.read(("token",)))
    assert [e.body["what"] for e in entries] == ["added", "revoked"]
    assert all(made["token"] not in json.dumps(e.body) for e in entries)


async def test_only_an_admin_reloads(story):
    with pytest.raises(Forbidden):
        await story.desk.reload(OPERATOR)
    await story.desk.reload(ADMIN)
    assert story.hooks.told == ["reload"]


def test_what_people_did_is_still_so_after_a_restart(story, tmp_path):
    story.desk.pause(OPERATOR, "nightly", "hands off")
    story.desk.silence(OPERATOR, "web-1", "2h")
    story.hooks.journal.close()
    again = Memory()
    reader = Journal.reader(tmp_path / "state" / "journal.sqlite")
    again.load(reader)
    assert reader.verify() == []
    assert again.pauses[BATCH.id].reason == "hands off"
    assert len(again.silences) == 1
    reader.close()


# ---- words


@pytest.mark.parametrize(
    ("metric", "labels", "said"),
    [
        ("service.latency_p95_seconds", (), "latency p95"),
        ("host.core_utilization_ratio", (("core", "3"),), "core utilization (core 3)"),
        ("host.disk_read_bytes_per_second", (), "disk read per second"),
        ("process.cpu_cores", (), "CPU cores"),
        ("host.load1_count", (), "load1"),
        ("model.feature_drift_psi", (), "feature drift PSI"),
        ("model.accuracy_high_ratio", (), "upper bound of accuracy"),
        ("version.loss_difference_low", (), "lower bound of loss difference"),
    ],
)
def test_series_have_names_for_people(metric, labels, said):
    assert title_of(Series(metric, Entity("host", "x"), labels)) == said


def test_every_signal_has_a_name_for_people():
    for d in SIGNALS.values():
        if d.rate:
            continue  # counters end in the collector, only their rates are shown
        said = title_of(Series(d.name, Entity("host", "x")))
        assert said
        assert "_" not in said
        assert not re.search(r"\b(seconds|ratio|bytes|count)\b", said), said


@pytest.mark.parametrize(
    ("entity", "attrs", "said"),
    [
        (Entity("process", "boot/77/1"), {}, "process (pid 77)"),
        (Entity("process", "boot/77/1"), {"name": "vi", "pid": "77"}, "vi (pid 77)"),
        (Entity("feature", "m/x"), {}, "feature x of m"),
        (Entity("version", "m/3"), {}, "m version 3"),
        (Entity("host", "web-1"), {}, "web-1"),
        (Entity("gpu", "GPU-1"), {"name": "H100"}, "H100 (GPU-1)"),
    ],
)
def test_entities_have_names_for_people(entity, attrs, said):
    assert name_of(entity, attrs) == said


@given(
    st.one_of(st.just(math.nan), st.floats(-1e9, 1e9)),
    st.one_of(st.just(math.nan), st.floats(-1e9, 1e9)),
)
def test_a_band_is_always_said_and_never_as_nan(low, high):
    assert "nan" not in views.expected(low, high, "seconds")
