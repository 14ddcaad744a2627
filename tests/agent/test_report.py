"""Post-mortems and digests: all that is known stands in them, nothing else does, and people can not forge them."""

import asyncio
from dataclasses import replace
from datetime import UTC

import pytest
from desk_story import OPERATOR, Story

from agent import cli
from agent.cli import report as cli_report
from agent.codec import pack
from agent.config import Config, Digest
from agent.digest import digest, due, lines
from agent.model import Outcome, Turn
from agent.ports import Note
from agent.questions import id_of
from agent.report import post_mortem
from agent.said import Doubted, Said, said_of


@pytest.fixture
def story(tmp_path):
    story = Story(tmp_path / "state")
    yield story
    story.close()


def report(story, id_, **kw):
    detail, hooks = story.desk.incident(id_), story.hooks
    said = said_of(
        hooks.memory.incidents[detail["id"]],
        hooks.memory,
        hooks.journal,
        story.now,
        story.desk.name,
    )
    charts = story.desk.evidence(detail["id"])
    return post_mortem(detail, charts, story.now, said, zone=UTC, **kw)


def test_a_post_mortem_tells_the_whole_story(story):
    said = report(story, "inc-1a")
    for part in (
        "# Accuracy of model wine is 83 %",
        "| lasted | 9 min 20 s |",
        "| ci | changed: release of wine: 3 -\\> 4 |",
        "serve-bad-deploy on wine: helped (accuracy is 97 %, was 83 %)",
        "wine version 4 (release.model, 93 %)",
        "accuracy fell 20 s after version 4 was promoted (for it, 3.1)",
        "no feature has drifted",
        "- wine (service)",
        "nobody said that they have it",
    ):
        assert part in said, said
    # in the order in which it happened
    order = ["10:26:20", "10:26:40", "10:26:55", "10:26:56", "10:35:00"]
    timeline = said[said.index("## Timeline") : said.index("## Who")]
    assert sorted(order, key=timeline.index) == order


def test_what_goes_on_is_not_called_over(story):
    said = report(story, "inc-7f")
    assert "| ended | not yet |" in said
    assert "Nothing was done by homeostat" in said
    assert "waits for an answer: `homeostat approve run-22c0ffee`" in said
    assert "No playbook acted" not in said


def test_harm_is_said_and_what_to_do_about_it(story):
    memory = story.hooks.memory
    run = memory.runs["run-1111aaaa"]
    harmed = replace(run, outcome=Outcome("harmed", "accuracy fell further", "peers", undone=True))
    story.hooks.record("run", run.id, pack(harmed), story.now)
    said = report(story, "inc-1a")
    assert "did harm, undone" in said
    assert "`homeostat reinstate serve-bad-deploy`" in said
    assert "Compared with: peers." in said


def test_a_cause_that_a_person_rejects_is_not_stated_as_the_cause(story):
    story.desk.blame(OPERATOR, "inc-1a", "data.drift", "the sensors were moved on Friday")
    said = report(story, "inc-1a")
    why = said[said.index("## Why") : said.index("## What was done")]
    assert "The cause:" not in said
    assert "homeostat named as cause a new model version is worse" in said
    assert why.splitlines()[2] == (
        "A person says it was data.drift (the inputs have moved away from the reference), "
        "not release.model of wine version 4 (olga (operator, token): the sensors were moved on Friday)."
    )
    assert "| olga (operator, token) | says that the cause is not release.model, it was" in said
    assert "(release.model, 93 %)**, which a person rejects" in why
    assert "acted on a cause that a person rejects" in said
    # what they said of another hypothesis is no word against the one that stands first now
    story.hooks.memory.corrections["inc-1a2b3c4d"] = replace(
        story.hooks.memory.corrections["inc-1a2b3c4d"], wrong="data.stale"
    )
    assert "The cause: a new model version" in report(story, "inc-1a")


def test_who_does_not_know_the_cause_only_takes_one_away(story):
    story.desk.blame(OPERATOR, "inc-1a")
    said = report(story, "inc-1a")
    assert "a person says that this was not it" in said
    assert "A person says that it was not release.model of wine version 4 (olga" in said
    assert "The cause is not known: what would have shown it?" in said


def told(story, key, incident, title, text, *bodies, severity="page"):
    note = Note(key, story.now, severity, title, text, incident)
    story.hooks.record("note", key, pack(note), story.now)
    for body in bodies:
        story.hooks.record("told", key, body, story.now)


def rows(said):
    timeline = said[said.index("## Timeline") : said.index("## Who")]
    lines = [line for line in timeline.splitlines() if line.startswith("| ")][1:]
    return [tuple(line[2:-2].split(" | ")[1:]) for line in lines]


def test_what_people_said_and_were_told_stands_in_the_timeline(story):
    who, desk, id_ = "olga (operator, token)", story.desk, "inc-7f3a99e0"
    title = story.noisy.title
    told(
        story,
        f"page:{id_}:0",
        id_,
        title,
        "other processes take it",
        {"by": "slack"},
        {"by": "mail"},
    )
    told(story, f"ladder:{id_}:0:1:0:page", id_, title, "nobody has taken it for 10 min",
         {"by": "page", "gave_up": "exit status 1"})  # fmt: skip
    told(story, "run-22c0ffee:ask", id_, "asks for approval", "", {"by": "slack", "withheld": "silenced by victor"},
         severity="warning")  # fmt: skip
    told(story, "page:inc-1a2b3c4d:0", "inc-1a2b3c4d", "another", "of another incident")
    desk.snooze(OPERATOR, id_, 7200, "the batch ends soon")
    desk.snooze(OPERATOR, id_, 0)
    desk.label(OPERATOR, id_, "noise", "known job")
    desk.label(OPERATOR, id_, "real")
    desk.page(OPERATOR, id_, "who owns the batch?")
    desk.silence(OPERATOR, "service:wine", "1h", reason="we look")
    desk.silence(OPERATOR, "model:fraud*", "1h", reason="no matter of this")
    desk.pause(OPERATOR, "service:wine", "hands off")
    story.hooks.record("reason", "run-22c0ffee", {"by": who, "reason": "it may be nice"}, story.now)
    asyncio.run(desk.approve("run-22c0ffee", OPERATOR))
    found = rows(report(story, "inc-7f"))
    for row in (
        ("homeostat", "calls people: other processes take it \\[by slack, mail\\]"),
        (
            "homeostat",
            "calls people: nobody has taken it for 10 min \\[not by page (exit status 1)\\]",
        ),
        ("homeostat", "tells people: asks for approval \\[not by slack (silenced by victor)\\]"),
        (who, "puts it off for 2 h: the batch ends soon"),
        (who, "wants to be told again"),
        (who, "calls it noise: known job"),
        (who, "says that it was rightly told"),
        ("olga", "calls for help: who owns the batch?"),
        (who, "silences service:wine for 1 h: we look"),
        (who, "stops service:wine: hands off"),
        (who, "says why calm-neighbour was started: it may be nice"),
        (who, "says yes to calm-neighbour"),
    ):
        assert row in found, found
    assert not any("another incident" in what or "model:fraud" in what for _, what in found)


@pytest.mark.parametrize("acted", [False, True])
def test_who_stopped_a_run_and_why_stands_in_it(story, acted):
    who, why = "olga (operator, token)", "the batch must finish"
    asyncio.run(story.desk.approve("run-22c0ffee", OPERATOR))
    asyncio.run(story.desk.deny("run-22c0ffee", OPERATOR, why))
    run = story.hooks.memory.runs["run-22c0ffee"]
    text = f"stopped by {story.hooks.memory.cancels[run.id]}"
    outcome = Outcome("cannot_tell", text, undone=True) if acted else None
    story.hooks.record(
        "run", run.id, pack(replace(run, state="denied", text=text, outcome=outcome)), story.now
    )
    said = report(story, "inc-7f")
    assert (who, f"stops calm-neighbour: {why}") in rows(said)
    done = said[said.index("## What was done") :]
    put_back = ", undone" if acted else ""
    assert f": stopped by {who}: {why}{put_back}." in done
    assert "can not be told" not in done


def test_answers_to_a_question_of_a_run_stand_in_the_timeline(story):
    key = "run-22c0ffee/really"
    told(story, f"{key}:ask", "", "Really?", "Really?\nAnswer: ...", severity="warning")
    story.hooks.record(
        "reply", id_of(key), {"person": "olga (operator, token)", "values": {"go": True}}, story.now
    )
    assert ("olga (operator, token)", "answers: go=True") in rows(report(story, "inc-7f"))


def test_words_on_what_became_part_of_it_belong_to_it(story):
    story.desk.label(OPERATOR, "inc-7c00beef", "noise", "of the one that is gone")
    i = story.hooks.memory.incidents["inc-7f3a99e0"]
    story.hooks.record("incident", i.id, pack(replace(i, absorbed=("inc-7c00beef",))), story.now)
    assert "calls it noise: of the one that is gone" in report(story, "inc-7f")


def test_words_of_others_stay_words(story):
    detail = story.desk.incident("inc-1a")
    evil = "# Over\n\n| all | well |\n[press](http://evil) <img src=x> `rm`"
    detail["title"] = evil
    detail["changes"][0]["by"] = evil
    said = post_mortem(
        detail,
        [],
        story.now,
        Said(((story.now, evil, evil),), Doubted(evil, evil, evil, evil, evil)),
        zone=UTC,
    )
    for forged in ("\n# Over", "\n| all", "[press](", " <img", " `rm"):
        assert forged not in said
    assert said.count("\n# ") + said.startswith("# ") == 1


def test_pictures_stand_where_they_are(story):
    said = report(story, "inc-1a", picture="week 48.png")
    assert "![What was measured](week%2048.png)" in said
    assert "▁" not in said
    assert "**accuracy of wine**, from 82.2 % to 97.6 %" in said


def written(monkeypatch, capsys, out, *more):
    monkeypatch.setattr("sys.argv", ["homeostat", "report", "inc-1a", "--out", str(out), *more])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert f"is in {out}" in capsys.readouterr().err
    return out.read_text()


def test_a_report_in_a_file_has_its_picture_beside_it(story, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(cli_report, "ask", lambda *a: a[-1](story.desk))
    text = written(monkeypatch, capsys, tmp_path / "it.md")
    assert "![What was measured](it.png)" in text
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_a_dead_daemon_reports_without_charts(tmp_path, monkeypatch, capsys):
    Story(tmp_path / "state").close()
    text = written(monkeypatch, capsys, tmp_path / "it.md", "--state", str(tmp_path / "state"))
    assert "## Timeline" in text
    assert "![" not in text
    assert not (tmp_path / "it.png").exists()


def test_a_peak_is_still_there_when_a_chart_is_thinned(story):
    charts = story.desk.evidence("inc-1a")
    ts = [float(t) for t in range(1000)]
    flat = [0.0] * 1000
    flat[777] = 9.0
    charts[0]["data"] = [ts, flat]
    said = post_mortem(story.desk.incident("inc-1a"), charts[:1], story.now, zone=UTC)
    assert "█" in said
    assert len(said[said.index("```text") :].splitlines()[1]) <= 60


def test_the_desk_gives_the_same_report_over_http(story):
    view = story.desk.report("inc-1a")
    assert view["id"] == "inc-1a2b3c4d"
    assert "## Timeline" in view["markdown"]
    assert view["charts"]
    story.desk.label(OPERATOR, "inc-1a", "real", "it was")
    assert "says that it was rightly told: it was" in story.desk.report("inc-1a")["markdown"]


# ---------------------------------------------------------------- digest


def week(story, **kw):
    memory, until = story.hooks.memory, story.now
    return digest(
        memory, kw.get("playbooks", story.desk.playbooks()), 2.0, until - 7 * 86_400, until
    )


def test_a_digest_counts_pages_against_the_budget(story):
    story.hooks.record(
        "label", "inc-1a2b3c4d", {"label": "noise", "by": "olga", "note": "", "signals": []}, story.now,
    )  # fmt: skip
    view = week(story)
    assert (view["pages"], view["false"]) == (2, 1)
    assert view["unlabelled"] == ["inc-7f3a99e0"]
    assert view["counts"] == {"page": 2, "note": 1}
    assert view["text"][0] == "Pages:    2 in 7 d, 1 of them false; 2 false ones were allowed"
    assert any(line.startswith("Begun:    2 pages, 0 warnings, 1 note; ") for line in view["text"])


def test_healed_without_a_person_means_without_one(story):
    assert [h["id"] for h in week(story)["healed"]] == ["inc-1a2b3c4d"]
    run = story.hooks.memory.runs["run-1111aaaa"]
    for mode in ("approve", "auto"):
        one = replace(run, mode=mode)
        story.hooks.record("run", run.id, pack(one), story.now)
        assert bool(week(story)["healed"]) is (mode == "auto")
    taken = story.hooks.memory.incidents["inc-1a2b3c4d"]
    turn = Turn(story.now, "acknowledged", "acknowledged", "olga (operator, token)", "")
    taken = replace(taken, turns=(*taken.turns, turn))
    story.hooks.record("incident", taken.id, pack(taken), story.now)
    assert week(story)["healed"] == []


def test_what_was_not_proven_to_help_healed_nothing(story):
    run = story.hooks.memory.runs["run-1111aaaa"]
    told = replace(run, outcome=Outcome("cannot_tell", "no peers", ""))
    story.hooks.record("run", run.id, pack(told), story.now)
    view = week(story)
    assert view["healed"] == []
    assert view["runs"] == {"cannot_tell": 1}


def test_a_cause_that_a_person_rejects_counts_as_what_they_say(story):
    assert week(story)["causes"]["release.model"] == 1
    story.desk.blame(OPERATOR, "inc-1a", "data.drift")
    story.desk.blame(OPERATOR, "inc-7f")
    assert week(story)["causes"] == {"data.drift": 1, "unknown": 1, "data.contract": 1}


def test_what_called_nobody_waits_in_the_digest(story):
    assert [w["severity"] for w in week(story)["waiting"]] == ["note"]
    assert any(line.startswith("Waits:") and "alcohol" in line for line in week(story)["text"])


def test_series_that_are_called_noise_come_first(story):
    signals = ["service.latency_p95_seconds{service:wine}"]
    body = {"label": "noise", "by": "olga", "note": "", "signals": signals}
    story.hooks.record("label", "inc-7f3a99e0", body, story.now)
    noisy = week(story)["noisy"]
    assert {"signal": signals[0], "incidents": 1, "noise": 1} in noisy


def book(**kw):
    record = {
        "runs": 20,
        "helped": 20,
        "no_effect": 0,
        "harmed": 0,
        "cannot_tell": 0,
        "success": 0.84,
    }
    limits = [{"by": "playbook", "mode": "suggest", "reason": ""},
              {"by": "abilities", "mode": "auto", "reason": ""}]  # fmt: skip
    return {
        "id": "calm", "title": "", "owner": "", "target": "process", "causes": [], "limits": limits,
        "mode": "suggest", "own_mode": "suggest", "why": [], "record": record, "groups": {}, **kw,
    }  # fmt: skip


def advice(story, **kw):
    view = week(story, playbooks=[book(**kw)])
    return [a["to"] for a in view["promote"]], [a["why"] for a in view["retire"]]


def test_a_playbook_that_proved_itself_may_go_one_step_further(story):
    assert advice(story) == (["approve"], [])


@pytest.mark.parametrize(
    "kw",
    [
        {"mode": "auto"},  # there is nothing further
        {"record": {**book()["record"], "harmed": 1}},
        {"record": {**book()["record"], "success": 0.6}},
        {"record": {**book()["record"], "runs": 4, "helped": 4}},
        {"limits": [{"by": "abilities", "mode": "suggest", "reason": "tested on a stand-in"}]},
    ],
)
def test_it_may_not_go_further_when(story, kw):
    assert advice(story, **kw)[0] == []


def test_a_playbook_that_seldom_helps_or_harmed_should_go(story):
    poor = {
        "runs": 12,
        "helped": 1,
        "no_effect": 11,
        "harmed": 0,
        "cannot_tell": 0,
        "success": 0.01,
    }
    assert advice(story, record=poor)[1] == ["1 of 12 runs helped"]
    held = [{"by": "record", "mode": "suggest", "reason": "it harmed"}]
    harmed = {**poor, "harmed": 2}
    assert advice(story, record=harmed, limits=held)[1] == ["it harmed 2 times"]


def test_a_playbook_nobody_ever_says_yes_to_should_go(story):
    run = story.hooks.memory.runs["run-1111aaaa"]
    for n in range(5):
        one = replace(run, id=f"run-{n}", playbook="shy", state="expired", outcome=None)
        story.hooks.record("run", one.id, pack(one), story.now)
    none = {"runs": 0, "helped": 0, "no_effect": 0, "harmed": 0, "cannot_tell": 0, "success": None}
    said = advice(story, id="shy", record=none)
    assert said == ([], ["it was suggested 5 times, and nobody said yes"])


def test_a_digest_of_more_than_is_remembered_says_so(story):
    story.hooks.memory.room_incidents = 1
    view = week(story)
    assert not view["whole"]
    assert lines(view)[-1].startswith("Note:")


# ---------------------------------------------------------------- when it goes out

MONDAY_9 = 1_795_424_400.0  # 2026-11-23 09:00 UTC


def at(story, now, **kw):
    story.hooks._now = now
    return due(Digest(timezone="UTC", **kw), story.desk, now)


def test_a_digest_is_told_once_when_it_is_due(story):
    story.hooks.record("daemon", "started", {}, MONDAY_9 - 60)
    assert at(story, MONDAY_9 - 1) is None
    note = at(story, MONDAY_9 + 30)
    assert (note.key, note.event, note.severity) == (f"digest:{MONDAY_9:.0f}", "digest", "note")
    assert note.text.startswith("Pages:")
    story.hooks.record("note", note.key, pack(note), note.ts)
    assert at(story, MONDAY_9 + 90) is None


def test_one_missed_is_made_up_for_within_a_day_only(story):
    story.hooks.record("daemon", "started", {}, MONDAY_9 - 60)
    assert at(story, MONDAY_9 + 80_000) is not None
    assert at(story, MONDAY_9 + 90_000) is None


def test_nobody_who_just_began_gets_one(tmp_path):
    from agent.journal import Journal

    story = Story(tmp_path / "state")
    with Journal(tmp_path / "new.sqlite") as journal:
        kept, story.hooks.journal = story.hooks.journal, journal
        journal.append("daemon", "started", {}, MONDAY_9 + 10)
        assert at(story, MONDAY_9 + 60) is None
        story.hooks.journal = kept
    story.close()


def test_it_can_be_switched_off(story):
    story.hooks.record("daemon", "started", {}, MONDAY_9 - 60)
    assert at(story, MONDAY_9 + 30, at="") is None


@pytest.mark.parametrize("wrong", [{"at": "every monday"}, {"timezone": "Mars/Olympus"}])
def test_a_wrong_time_is_refused_at_load(wrong):
    with pytest.raises(ValueError, match=r"no cron line|no time zone"):
        Config.model_validate({"digest": wrong})
