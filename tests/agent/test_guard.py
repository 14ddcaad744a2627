import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import by_hand, guard, reach, registry
from agent.codec import pack, unpack
from agent.config import Config
from agent.errors import Refused
from agent.journal import Entry
from agent.memory import Ceiling, Memory, Silence
from agent.model import (
    Anomaly,
    Cause,
    Decision,
    Diagnosis,
    Edge,
    Entity,
    Evidence,
    Frame,
    Incident,
    Outcome,
    Run,
    Series,
    Sighting,
    StepRecord,
)
from agent.plans import Plan, PlannedStep, plan_hash
from agent.playbook import Library
from agent.scene import Scene
from agent.trouble import key_of
from agent.world import World

NOW = 10_000.0
HOST, WEB, MODEL = Entity("host", "h"), Entity("service", "web"), Entity("model", "fraud")
FEATURE = Entity("feature", "fraud/age")
BURN = Entity("process", "b/99/9")
LATENCY = Series("service.latency_p95_seconds", WEB)

BOOK = """
version: 1
id: {id}
title: T
mode: {mode}
target: {{kind: {kind}}}
because: {{cause: serving}}
do: [{{use: {use}, undo: none, with: {{{params}}}}}]
verify: {{within: 1m, expect: ['service.up > 0.5']}}
guard:
  cooldown: {{per: {per}, time: 5m}}
  rate: {{max: 3, per: 1h}}
  blast: {{max_targets: 2, max_share: 50%, domain: '{domain}'}}
  settle: 1m
  attempts: {{max: 2, per: 24h}}
  breaker: {{bad_outcomes: 2, hold: 6h}}
  fresh: 30s
"""


@pytest.fixture(autouse=True, scope="module")
def verbs():
    actions, connectors = registry.Registry("action"), registry.Registry("connector")

    class Hand:
        def grip(self): ...

    def put(name, effect="mutating", ability=None, **more):
        body = {"effect": effect, "ability": ability, "reversible": True, "shared": False} | more
        actions(name)(type(name, (), body))

    put("act")
    put("drain", takes_replica=True)
    put("grasp", ability=Hand)
    put("share", shared=True)
    put("reboot", reversible=False)
    put("reboot_all", reversible=False, takes_replica=True)
    put("tell", "marking", reversible=False)
    put("mark", "marking", shared=True)
    old = registry.action, registry.connector
    registry.action, registry.connector = actions, connectors
    yield
    registry.action, registry.connector = old


@pytest.fixture
def make(tmp_path):
    def made(**words):
        text = BOOK.format(**{
            "id": "b", "mode": "auto", "kind": "service", "use": "act", "per": "target", "domain": "", "params": "",
            **words,
        })  # fmt: skip
        params = words.get("params", "")
        if params:
            registry.action.get(words.get("use", "act")).Params = _any_params()
        (tmp_path / "b.yaml").write_text(text)
        racks = Config.model_validate(
            {"topology": {"labels": [{"kind": "service", "set": {"rack": "0"}}]}}
        )
        return next(iter(Library.load([tmp_path], racks, built_in=False).playbooks.values()))

    return made


def _any_params():
    from agent.units import Model

    class Params(Model):
        process: str = ""

    return Params


def config(**more):
    base = {
        "mode": "auto",
        "manages": [{"kind": "service"}, {"kind": "model"}, {"kind": "process", "where": {"name": "burn*"}}],
        "single_agent": True, "services": [{"id": "web", "min_healthy": 2}],
    }  # fmt: skip
    return Config.model_validate(base | more)


def world(*, trust="local", value=0.9, at=NOW, webs=1, replicas=3.0):
    w = World()
    for i in range(webs):
        w.take(
            Frame(
                "s",
                at,
                (),
                np.array([]),
                seen=(
                    Sighting(Entity("service", f"web{i or ''}"), (("labels.rack", str(i % 2)),)),
                ),
            )
        )
    edges = (Edge("runs_on", BURN, HOST), Edge("feeds", FEATURE, MODEL))
    attrs = (("command", "burn"), ("name", "burner"), ("pid", "99"))
    w.take(
        Frame(
            "s",
            at,
            (),
            np.array([]),
            seen=(Sighting(BURN, attrs, edges[:1]), Sighting(FEATURE, edges=edges[1:])),
        )
    )
    series = (LATENCY, Series("service.replicas_count", WEB))
    w.take(Frame("web", at, series, np.array([value, replicas])))
    w.trusts["web"] = trust
    w.now = NOW
    return w


def anomaly(series=LATENCY, end=None):
    return Anomaly(
        series, NOW - 60, end, 0.0, 1, 0.9, math.nan, 0.25, 0.6, 9.0, "objective", "slow", harm=True
    )


SLOW = anomaly()


def incident(*, low=False, cause=None, anomalies=(SLOW,), **more):
    cause = cause or Cause("serving.saturation", WEB, 0.8)
    fields = {"severity": "page", "id": "i"} | more
    diagnosis = Diagnosis(NOW, (cause,), low_confidence=low)
    return Incident(
        opened=NOW - 60,
        updated=NOW,
        state="open",
        title="t",
        anomalies=anomalies,
        diagnosis=diagnosis,
        **fields,
    )


class Past:
    """A memory that is told what has happened."""

    def __init__(self):
        self.memory = Memory()

    def put(self, kind, subject, body, ts=NOW):
        self.memory.apply(Entry(self.memory.seq + 1, ts, kind, subject, body, "", ""))

    def run(
        self,
        id_="r",
        *,
        ago=0.0,
        playbook="b",
        target=WEB,
        state="done",
        acted=True,
        verdict=None,
        use="act",
        **more,
    ):
        at = NOW - ago
        steps = (StepRecord("s", use, at, at, "done", "did"),) if acted else ()
        outcome = Outcome(verdict, "s") if verdict else None
        fields = {"incident": "i0"} | more
        run = Run(
            id_, playbook, target, fields["incident"], "auto", state, at, at, "h", steps, outcome
        )
        self.put("run", id_, pack(run), at)
        return self


def ask(book, inc=None, *, past=None, w=None, c=None, target=WEB, now=NOW, **more):
    return guard.decide(
        book, target, inc or incident(), memory=(past or Past()).memory, world=w or world(), config=c or config(),
        now=now, **more,
    )  # fmt: skip


def gate(decision, name):
    return next(g for g in decision.gates if g.name == name)


def closed(decision):
    return {g.name for g in decision.gates if not g.passed}


# ---------------------------------------------------------------- all open


def test_one_that_waited_in_vain_for_its_turn_has_told_nobody(make):
    told = Past().run(ago=4000, incident="i", use="tell")
    assert closed(ask(make(use="tell"), past=told)) == {"once"}
    expired = Past().run(ago=4000, incident="i", use="tell", state="expired", acted=False)
    assert closed(ask(make(use="tell"), past=expired)) == set()
    asked = Past().run(ago=4000, incident="i", use="tell", state="expired")
    assert closed(ask(make(use="tell"), past=asked)) == {"once"}


def test_what_only_observes_says_who_wants_it_so(make):
    assert gate(ask(make(), c=config(mode="observe")), "mode").reason.endswith(
        "agent.yaml says `mode: observe`"
    )
    assert gate(ask(make(mode="observe")), "mode").reason.endswith(
        "the playbook says `mode: observe`"
    )


def test_all_gates_open_lets_it_act(make):
    decision = ask(make())
    assert closed(decision) == set()
    assert (decision.allowed, decision.mode) == (True, "auto")
    assert {g.name for g in decision.gates} == {
        "mode", "ability", "pause", "paused_file", "journal", "silence", "maintenance", "never", "busy", "once",
        "cooldown", "rate", "fresh", "trust", "attempts", "blast_count", "blast_share", "settle", "breaker",
        "min_healthy", "correlated", "scope", "shared", "confidence", "irreversible", "record", "seen",
    }  # fmt: skip
    assert all(g.value and g.limit for g in decision.gates)
    assert unpack(Decision, pack(decision)) == decision


def test_every_gate_is_asked_after_one_has_closed(make):
    past = Past().run(ago=10)
    past.put("pause", "*", {"by": "ann", "reason": "fire drill"})
    decision = ask(
        make(), past=past, w=world(trust="untrusted"), paused_file=True, journal_well=False
    )
    assert {"pause", "paused_file", "journal", "cooldown", "trust"} <= closed(decision)
    assert len(decision.gates) == len(ask(make()).gates)
    assert not decision.allowed


# ---------------------------------------------------------------- one gate after the other


@pytest.mark.parametrize(
    ("mode", "ceiling", "allowed", "result"),
    [
        ("auto", "auto", True, "auto"), ("auto", "approve", True, "approve"), ("approve", "auto", True, "approve"),
        ("suggest", "auto", True, "suggest"), ("auto", "suggest", True, "suggest"),
        ("observe", "auto", False, "observe"), ("auto", "observe", False, "observe"),
    ],
)  # fmt: skip
def test_the_lowest_ceiling_holds(make, mode, ceiling, allowed, result):
    decision = ask(make(mode=mode), c=config(mode=ceiling))
    assert (decision.allowed, decision.mode) == (allowed, result)


def test_a_missing_ability_stops(make):
    decision = ask(make(use="grasp"))
    assert closed(decision) == {"ability"}
    assert "Hand" in gate(decision, "ability").reason
    assert not decision.allowed


@pytest.mark.parametrize("key", ["*", "service:web"])
def test_a_pause_stops(make, key):
    past = Past()
    past.put("pause", key, {"by": "ann", "reason": "fire drill"})
    decision = ask(make(), past=past)
    assert not decision.allowed
    assert "paused by ann: fire drill" in gate(decision, "pause").reason
    past.put("resume", key, {})
    assert ask(make(), past=past).allowed


def test_a_pause_of_a_model_covers_its_features(make):
    past = Past()
    past.put("pause", "model:fraud", {"by": "ann", "reason": ""})
    assert closed(ask(make(kind="feature"), target=FEATURE, past=past)) == {"pause"}


def test_the_file_and_the_journal_stop(make):
    assert closed(ask(make(), paused_file=True)) == {"paused_file"}
    assert closed(ask(make(), journal_well=False)) == {"journal"}
    assert not ask(make(use="tell"), journal_well=False).allowed


def test_a_silence_stops_until_it_ends(make):
    past = Past()
    past.put("silence", "s", pack(Silence("s", "service:*", NOW + 60, "ann", "deploy")))
    decision = ask(make(), past=past)
    assert gate(decision, "silence").reason == "silenced by ann for 1 min more: deploy"
    assert not decision.allowed
    assert ask(make(), past=past, now=NOW + 61).allowed
    past.put("silence", "s", pack(Silence("s", "*", NOW + 60, "ann", cause="data")))
    assert ask(make(), past=past).allowed


@pytest.mark.parametrize(
    ("attrs", "says"),
    [
        ({"name": "sshd"}, "sshd is never touched"),
        ({"name": "containerd-shim"[:15]}, "never touched"),
        ({"name": "postgres"}, "never touched"),
        ({"name": "kubelet"}, "never touched"),
        ({"name": "mydb", "listen": "5432"}, "listens on port 5432"),
        ({"name": "burner", "self": "yes"}, "homeostat itself"),
        ({"name": "burner", "pid": "1"}, "PID 1"),
        ({}, "nothing is known of process:b/99/9"),
    ],
)
def test_some_processes_are_never_touched_whatever_is_managed(make, attrs, says):
    w = world()
    w.take(Frame("s", NOW, (), np.array([]), seen=(Sighting(BURN, gone=True),)))
    if attrs:
        w.take(
            Frame("s", NOW, (), np.array([]), seen=(Sighting(BURN, tuple(sorted(attrs.items()))),))
        )
    c = config(manages=[{"kind": "process"}, {"kind": "service"}])
    decision = ask(make(kind="process"), target=BURN, w=w, c=c)
    assert says in gate(decision, "never").reason
    assert not decision.allowed
    by_parameter = make(params="process: '${cause.entity}'")
    decision = ask(by_parameter, incident(cause=Cause("serving.x", BURN, 0.9)), w=w, c=c)
    assert "never" in closed(decision)
    assert not ask(
        by_parameter, incident(cause=Cause("serving.x", BURN, 0.9)), w=w, c=c, ceiling="approve"
    ).allowed


def test_never_of_the_config_stops(make):
    decision = ask(make(), c=config(never=[{"kind": "service", "key": "w*"}]))
    assert closed(decision) == {"never"}


def test_what_is_not_managed_is_only_suggested(make):
    decision = ask(make(), c=config(manages=[]))
    assert closed(decision) == {"scope"}
    assert (decision.allowed, decision.mode) == (True, "suggest")
    assert "add it to `manages:`" in gate(decision, "scope").reason
    asked = ask(make(), c=config(manages=[]), ceiling="approve")
    assert not asked.allowed


def test_whom_a_parameter_names_must_be_managed_too(make):
    book = make(params="process: '${cause.entity}'")
    inc = incident(cause=Cause("serving.x", BURN, 0.9))
    assert ask(book, inc).mode == "auto"
    narrow = config(manages=[{"kind": "service"}])
    decision = ask(book, inc, c=narrow)
    assert (closed(decision), decision.mode) == ({"scope"}, "suggest")
    assert "process:b/99/9" in gate(decision, "scope").value


def test_who_manages_a_model_manages_its_features(make):
    assert ask(make(kind="feature"), target=FEATURE).allowed


def test_shared_targets_need_a_single_agent(make):
    decision = ask(
        make(use="share"), c=config(mode="suggest", single_agent=False), ceiling="approve"
    )
    assert closed(decision) == {"shared"}
    assert not decision.allowed
    assert ask(make(use="share")).mode == "auto"


def test_low_confidence_only_suggests_unless_a_person_asks(make):
    decision = ask(make(), incident(low=True))
    assert (decision.allowed, decision.mode, closed(decision)) == (True, "suggest", {"confidence"})
    asked = ask(make(), incident(low=True), ceiling="approve")
    assert (asked.allowed, asked.mode) == (True, "approve")


@pytest.mark.parametrize(
    ("cause", "said", "why"),
    [
        (Cause("unknown", WEB, 0.99), "99%", "no cause has enough evidence"),
        (Cause("serving.saturation", WEB, 0.4), "40%", "not sure enough"),
        (Cause("serving.saturation", WEB, 0.9), "90%", "only shipped limits speak for it"),
    ],
)
def test_why_a_diagnosis_is_of_low_confidence_is_told_though_it_may_look_sure(
    make, cause, said, why
):
    decision = ask(make(), incident(low=True, cause=cause))
    (gate,) = (g for g in decision.gates if g.name == "confidence")
    assert (gate.passed, gate.value) == (False, said)
    assert why in gate.reason


def test_a_person_may_start_what_is_only_suggested_but_passes_the_other_gates(make):
    book, c = make(mode="suggest"), config(mode="suggest")
    assert ask(book, c=c).mode == "suggest"
    assert ask(book, c=c, ceiling="approve").allowed
    suggested = Past().run(state="suggested", acted=False, ago=5, incident="i")
    assert not ask(book, c=c, past=suggested).allowed
    assert ask(book, c=c, past=suggested, ceiling="approve").allowed
    assert not ask(book, c=c, past=Past().run(ago=5), ceiling="approve").allowed
    assert not ask(make(mode="observe"), ceiling="approve").allowed


@pytest.mark.parametrize(
    ("inc", "w", "says"),
    [
        (incident(anomalies=()), {}, "nothing is wrong any more"),
        (incident(anomalies=(anomaly(end=NOW - 5),)), {}, "nothing is wrong any more"),
        (incident(), {"at": NOW - 31}, "the evidence is old"),
        (incident(), {"value": math.nan}, "the evidence is old"),
    ],
)
def test_old_evidence_stops(make, inc, w, says):
    decision = ask(make(), inc, w=world(**w))
    assert says in gate(decision, "fresh").reason
    assert not decision.allowed


def test_what_was_wrong_before_a_restart_moves_nothing_until_it_is_seen_again(make):
    unseen = {key_of(SLOW)}
    decision = ask(make(), unseen=unseen)
    assert closed(decision) == {"seen", "fresh", "trust"}
    assert "not been seen since" in gate(decision, "seen").reason
    assert closed(ask(make(use="mark"), unseen=unseen)) == {"seen"}
    assert ask(make(use="tell"), unseen=unseen).allowed  # people are told all the same
    errors = replace(SLOW, series=Series("service.error_ratio", WEB))
    both = incident(anomalies=(SLOW, errors))
    assert "seen" not in closed(ask(make(), both, unseen=unseen))
    by_hand = ask(make(), unseen=unseen, ceiling="approve")
    assert "seen" in closed(by_hand)


def test_untrusted_evidence_stops_what_mutates(make):
    assert "trust" in closed(ask(make(), w=world(trust="untrusted")))
    assert not ask(make(), w=world(trust="untrusted")).allowed
    assert ask(make(), w=world(trust="authenticated")).allowed
    assert ask(make(use="tell"), w=world(trust="untrusted")).allowed
    w = world()
    rumour = Series("service.error_ratio", WEB)
    w.take(Frame("hearsay", NOW, (rumour,), np.array([0.5])))
    w.trusts["hearsay"] = "untrusted"
    cause = Cause("serving.saturation", WEB, 0.8, (Evidence("they say", 2.0, rumour),))
    assert not ask(make(), incident(cause=cause), w=w).allowed


@pytest.mark.parametrize(
    "state", ["acting", "waiting_approval", "verifying", "holding", "paused", "undoing"]
)
def test_one_run_a_target(make, state):
    past = Past().run(playbook="other", state=state, acted=False)
    decision = ask(make(), past=past)
    assert "busy" in closed(decision)
    assert "is at work on service:web" in gate(decision, "busy").reason
    assert not decision.allowed
    elsewhere = Past().run(
        playbook="other", state=state, acted=False, target=Entity("service", "x")
    )
    assert "busy" not in closed(ask(make(), past=elsewhere))


@pytest.mark.parametrize(("verb", "state", "free"), [
    ("tell", "holding", True),  # what it marked is taken back some day; a target can be healed meanwhile
    ("act", "holding", False),
    ("tell", "acting", False),
])  # fmt: skip
def test_a_mark_that_is_held_keeps_nobody_from_healing(make, verb, state, free):
    past = Past().run(playbook="other", state=state, acted=False)
    step = PlannedStep("s", verb)
    plan = Plan("r", "other", "T", "h", WEB.id, "i0", "auto", "", NOW, (step,))
    past.put("plan", "r", pack(plan))
    assert ("busy" in closed(ask(make(), past=past))) is not free


def test_a_model_and_its_features_are_one_target(make):
    past = Past().run(playbook="other", state="acting", target=MODEL, acted=False)
    assert "busy" in closed(ask(make(kind="feature"), target=FEATURE, past=past))


def test_whom_a_running_plan_names_is_taken(make):
    past = Past().run(playbook="other", state="holding", acted=False)
    step = PlannedStep("s", "act", params={"process": BURN.id})
    plan = Plan("r", "other", "T", "h", WEB.id, "i0", "auto", "", NOW, (step,))
    past.put("plan", "r", pack(plan))
    decision = ask(make(kind="process"), target=BURN, past=past)
    assert "busy" in closed(decision)


@pytest.mark.parametrize("state", ["suggested", "denied", "expired"])
def test_what_never_acted_rests_its_own_incident_only_and_a_suggestion_never_delays_an_act(
    make, state
):
    elsewhere = Past().run(ago=5, state=state, acted=False, incident="another")
    assert "cooldown" not in closed(ask(make(), past=elsewhere))
    here = Past().run(ago=5, state=state, acted=False, incident="i")
    assert ("cooldown" in closed(ask(make(), past=here))) == (state != "suggested")
    assert "cooldown" in closed(ask(make(mode="suggest"), c=config(mode="suggest"), past=here))


@pytest.mark.parametrize("state", ["done", "denied", "expired", "failed"])
def test_it_rests_after_any_run(make, state):
    past = Past().run(ago=200, state=state, acted=state == "done", incident="i")
    decision = ask(make(), past=past)
    assert "cooldown" in closed(decision)
    assert gate(decision, "cooldown").reason == "1 min 40 s of its rest are left"
    assert "cooldown" not in closed(ask(make(), past=past, now=NOW + 100))


def test_a_cooldown_is_for_a_target_or_for_the_playbook(make):
    past = Past().run(ago=100, target=Entity("service", "x"))
    assert ask(make(), past=past).allowed
    assert closed(ask(make(per="playbook"), past=past)) == {"cooldown"}


def test_rate_and_attempts(make):
    past = Past()
    for i in range(3):
        past.run(f"r{i}", ago=1000 + i, target=Entity("service", f"x{i}"))
    assert closed(ask(make(), past=past)) == {"rate"}
    past = Past().run("a", ago=7000).run("b", ago=8000)
    decision = ask(make(), past=past)
    assert closed(decision) == {"attempts"}
    assert "people must look now" in gate(decision, "attempts").reason


def test_what_lives_counts_for_the_rate(make):
    past = Past()
    for i in range(3):
        past.run(f"r{i}", state="acting", acted=False, target=Entity("service", f"x{i}"))
    assert "rate" in closed(ask(make(), past=past))


def test_settling_covers_other_targets_and_other_playbooks(make):
    other_target = Past().run(ago=30, target=Entity("service", "x"))
    assert "settle" in closed(ask(make(), past=other_target))
    other_book = Past().run(ago=30, playbook="other")
    assert closed(ask(make(), past=other_book)) == {"settle"}
    assert ask(make(), past=other_book, now=NOW + 30).allowed
    told = Past().run(ago=30, playbook="other", use="tell")
    assert ask(make(), past=told).allowed


def test_blast_radius_counts_and_shares(make):
    past = Past()
    for i in (1, 2):
        past.run(f"r{i}", state="holding", ago=500, target=Entity("service", f"web{i}"))
    decision = ask(make(), past=past, w=world(webs=10))
    assert closed(decision) == {"blast_count"}
    past = Past().run("r", state="holding", ago=500, target=Entity("service", "web2"))
    decision = ask(make(), past=past, w=world(webs=3))
    assert closed(decision) == {"blast_share"}
    assert gate(decision, "blast_share").value == "67%"
    assert ask(make(), past=past, w=world(webs=4)).allowed
    assert ask(make(), w=world(webs=1)).allowed
    # web2 stands in the rack of web, web1 does not
    assert "blast_share" in closed(ask(make(domain="labels.rack"), past=past, w=world(webs=4)))
    apart = Past().run("r", state="holding", ago=500, target=Entity("service", "web1"))
    assert "blast_share" not in closed(ask(make(domain="labels.rack"), past=apart, w=world(webs=4)))


def service(name):
    return Entity("service", name)


@pytest.mark.parametrize(
    ("run", "closes"),
    [
        ({"state": "verifying", "ago": 500}, True),  # at work
        ({"state": "waiting_approval", "acted": False}, True),  # may be at any moment
        ({"state": "holding", "ago": 500}, False),  # proven, and only held
        ({"state": "holding", "ago": 30}, True),
        ({"state": "done", "ago": 30}, True),
        ({"state": "done", "ago": 70}, False),  # settled
        ({"state": "denied", "acted": False, "ago": 30}, False),
        ({"state": "verifying", "use": "tell"}, False),  # changes nothing
        ({"state": "verifying", "target": Entity("replica", "web1/0")}, True),  # its service is treated
        ({"state": "verifying", "target": Entity("host", "h")}, False),
    ],
)  # fmt: skip
def test_the_blast_radius_counts_what_other_playbooks_treat(make, run, closes):
    past = Past().run("r", **{"playbook": "other", "target": service("web1"), **run})
    decision = ask(make(), past=past, w=world(webs=2))
    assert ("blast_share" in closed(decision)) == closes
    assert (
        "blast_count" in closed(ask(make(), past=past, w=world(webs=9)))
    ) is False  # two are allowed
    more = Past().run("r", playbook="other", target=service("web1"), state="verifying")
    more.run("r2", playbook="third", target=service("web2"), state="verifying")
    assert "blast_count" in closed(ask(make(), past=more, w=world(webs=9)))


def test_who_has_not_said_its_domain_counts_as_touched(make):
    """After a restart a target may be known by its run alone."""
    past = Past().run("r", playbook="other", target=service("gone"), state="verifying")
    racks = make(domain="labels.rack")
    assert gate(ask(racks, past=past, w=world(webs=2)), "blast_share").value == "100%"
    assert gate(ask(racks, past=past, w=world(webs=7)), "blast_share").value == "40%"


def test_the_blast_radius_is_asked_again_before_the_first_step(make):
    book, w = make(), world(webs=2)
    plan = book.plan(WEB, incident(), lambda _: None, "approve", NOW)
    assert plan.blast.max_share == book.limits.blast.max_share
    asked = {"world": w, "config": config(), "now": NOW, "incident": incident()}
    mine = Past().run(plan.run_id, state="waiting_approval", acted=False)
    assert guard.standing(plan, memory=mine.memory, first=True, **asked) == ""
    mine.run("r", playbook="other", target=service("web1"), state="verifying")
    said = guard.standing(plan, memory=mine.memory, first=True, **asked)
    assert said == "2 of 2 would be touched at once"
    assert guard.standing(plan, memory=mine.memory, first=False, **asked) == ""
    assert make(use="tell").plan(WEB, incident(), lambda _: None, "auto", NOW).blast is None


@pytest.mark.parametrize(
    ("patience", "waits"),
    [({"web": 31.0}, 60.0), ({"web": 901.0}, 901.0), ({"web": 10_801.0}, 3600.0), ({"web": 31.0, "x": 901.0}, 60.0)],
)  # fmt: skip
def test_a_run_that_has_done_nothing_waits_for_the_slowest_source_of_its_trouble(patience, waits):
    w = world()
    w.patience.update(patience)
    assert guard.patience(incident(), w) == waits
    assert guard.patience(incident(anomalies=(anomaly(end=NOW),)), w) == 60.0
    assert guard.patience(None, w) == 60.0


def test_what_no_source_has_shown_since_a_restart_may_be_of_the_slowest():
    w = World()
    w.patience.update({"web": 31.0, "hourly": 700.0})
    assert guard.patience(incident(), w) == 700.0


def test_a_text_for_people_names_nobody(make):
    """`ask` and `notify` may begin with an entity's id; only what moves something reaches it."""
    said = PlannedStep("s", "tell", params={"text": f"{BURN.id} is stopped, look at it"})
    moved = PlannedStep("m", "act", params={"process": BURN.id})
    topology = world().topology
    plan = Plan("r", "b", "T", "h", WEB.id, "i", "auto", "", NOW, (said,))
    assert reach.of_plan(WEB, plan, topology).touched == (WEB,)
    assert reach.of_plan(WEB, replace(plan, steps=(said, moved)), topology).touched == (WEB, BURN)
    quiet = make(use="tell", params=f"process: '{BURN.id} is stopped'")
    assert quiet.touches(WEB, None) == (WEB,)


def test_limits_are_no_part_of_what_an_approval_binds_to(make):
    plan = make().plan(WEB, incident(), lambda _: None, "approve", NOW)
    assert plan_hash(replace(plan, blast=None)) == plan.hash


@pytest.mark.parametrize(
    ("verdicts", "open_"),
    [
        (["no_effect", "harmed"], True), (["harmed"], False), (["no_effect", "helped", "harmed"], False),
        (["no_effect", "cannot_tell", "harmed"], True), (["cannot_tell"] * 4, False),
    ],
)  # fmt: skip
def test_the_breaker_opens_after_bad_outcomes_in_a_row(make, verdicts, open_):
    past = Past()
    for i, verdict in enumerate(verdicts):
        past.run(f"r{i}", ago=9000 - i * 100, target=Entity("service", f"x{i}"), verdict=verdict)
    decision = ask(make(), past=past)
    assert ("breaker" in closed(decision)) == open_
    assert ask(make(), past=past, w=world(at=NOW + 21_000), now=NOW + 21_000).gates
    late = ask(make(), past=past, now=NOW + 6 * 3600)
    assert "breaker" not in closed(late)


def test_a_clock_that_is_set_forward_ends_no_rest(make):
    limits = {"cooldown", "rate", "attempts", "settle", "blast_count", "breaker"}
    past = Past()
    for i, ago in enumerate((40, 100, 7000)):
        past.run(f"r{i}", ago=ago, verdict="no_effect")
    for i in range(2):
        past.run(f"x{i}", ago=20 + i, target=Entity("service", f"x{i}"))

    def gates(now):
        found = ask(make(), past=past, now=now, w=world(at=now))
        return {g.name: (g.passed, g.value, g.reason) for g in found.gates if g.name in limits}

    before = gates(NOW)
    assert {name for name, (passed, *_) in before.items() if not passed} >= limits - {"blast_count"}
    day = 86_400.0
    assert all(passed for passed, *_ in gates(NOW + day).values())
    past.put("daemon", "clock_jumped", {"by_s": day}, NOW + day)
    assert gates(NOW + day) == before
    assert "cooldown" not in {n for n, (passed, *_) in gates(NOW + day + 300).items() if not passed}
    past.run("new", ago=-day - 400.0)
    assert gates(NOW + day + 500)["cooldown"][:2] == (False, "1 min 40 s")


def test_what_harmed_only_suggests_until_a_person_has_looked(make):
    past = Past().run("bad", ago=8 * 3600, target=Entity("service", "x"), verdict="harmed")
    decision = ask(make(), past=past)
    assert (decision.allowed, decision.mode) == (True, "suggest")
    assert "homeostat reinstate b" in gate(decision, "record").reason
    by_hand = guard.decide(
        make(),
        WEB,
        incident(),
        memory=past.memory,
        world=world(),
        config=config(),
        now=NOW,
        ceiling="approve",
    )
    assert (by_hand.allowed, by_hand.mode) == (True, "approve")
    past.put("reinstate", "b", {"by": "ann (author, token)", "reason": "mended"})
    decision = ask(make(), past=past)
    assert (decision.allowed, decision.mode) == (True, "auto")
    past.run("again", ago=7 * 3600, target=Entity("service", "y"), verdict="harmed")
    assert ask(make(), past=past).mode == "suggest"
    for i in range(3):
        past.run(f"h{i}", ago=(9 + i) * 3600, verdict="helped")
    assert ask(make(), past=past).mode == "auto"  # proven here
    past.run("here", ago=8 * 3600, verdict="harmed")
    assert ask(make(), past=past).mode == "suggest"


def test_the_last_healthy_replica_is_not_taken(make):
    assert ask(make(use="drain"), w=world(replicas=3.0)).allowed
    decision = ask(make(use="drain"), w=world(replicas=2.0))
    assert closed(decision) == {"min_healthy"}
    assert gate(decision, "min_healthy").reason == "1 replica of web would be left"
    for uncounted in (math.nan, math.inf):
        assert (
            "unknown"
            in gate(ask(make(use="drain"), w=world(replicas=uncounted)), "min_healthy").reason
        )


def test_a_process_that_serves_counts_as_a_replica(make):
    w = world(replicas=1.0)
    w.topology.link(Edge("serves", BURN, WEB))
    c = config(manages=[{"kind": "process"}])
    assert "min_healthy" in closed(ask(make(kind="process"), target=BURN, w=w, c=c))


def on_host(service=WEB, host="h", n=0, w=None):
    replica = Entity("replica", f"{service.key}/{n}")
    w.topology.link(Edge("runs_on", replica, Entity("host", host)))
    w.topology.link(Edge("serves", replica, service))
    return replica


def test_a_host_that_is_rebooted_takes_its_replicas_along(make):
    c = config(manages=[{"kind": "host"}], services=[{"id": "web", "min_healthy": 1}])
    book = make(kind="host", use="reboot_all", mode="approve")
    w = world()
    assert gate(ask(book, w=w, c=c, target=HOST), "min_healthy").value == "takes none away"
    on_host(w=w)
    decision = ask(book, w=w, c=c, target=HOST)
    assert closed(decision) == {"min_healthy"}
    assert gate(decision, "min_healthy").reason == "0 replicas of web would be left"
    on_host(w=w, host="far", n=1)
    assert ask(book, w=w, c=c, target=HOST).allowed


def test_what_runs_on_a_host_that_is_rebooted_is_at_stake(make):
    w = world()
    on_host(w=w), on_host(w=w, host="far", n=1)
    plan = Plan(
        "r", "other", "T", "h", HOST.id, "i0", "auto", "", NOW, (PlannedStep("s", "reboot_all"),)
    )
    past = Past().run(playbook="other", target=HOST, state="acting", acted=False)
    assert "busy" not in closed(ask(make(), past=past, w=w))
    past.put("plan", "r", pack(plan))
    assert "busy" in closed(ask(make(), past=past, w=w))
    past = Past().run(
        playbook="other", target=Entity("replica", "web/1"), state="acting", acted=False
    )
    c = config(manages=[{"kind": "host"}])
    assert "busy" in closed(
        ask(make(kind="host", use="reboot_all", mode="approve"), past=past, w=w, c=c, target=HOST)
    )


@pytest.mark.parametrize(
    ("scope", "holds"),
    [
        ([], True), ([{"kind": "service", "key": "we*"}], True), ([{"kind": "service", "key": "x"}], False),
        ([{"kind": "host", "key": "h"}], True), ([{"kind": "host", "where": {"labels.rack": "9"}}], False),
    ],
)  # fmt: skip
def test_nothing_acts_in_a_maintenance_window(make, scope, holds):
    w = world()
    w.topology.link(Edge("runs_on", WEB, HOST))
    window = {
        "name": "patch", "from": "1970-01-01T02:00", "to": "1970-01-01T03:00", "timezone": "UTC", "scope": scope,
        "reason": "kernel",
    }  # fmt: skip
    c = config(maintenance=[window])
    decision = ask(make(), w=w, c=c)
    assert closed(decision) == ({"maintenance"} if holds else set())
    if holds:
        said = gate(decision, "maintenance").reason
        assert said == "maintenance window patch of agent.yaml, 13 min 20 s more: kernel"
    w.now = NOW + 800
    assert "maintenance" not in closed(ask(make(), w=w, c=c, now=NOW + 800))


def test_before_its_first_step_a_run_is_asked_for_again_and_later_only_hands_off(make):
    w, past = world(), Past()
    plan = Plan("r", "b", "T", "h", WEB.id, "i", "auto", "", NOW, (PlannedStep("s", "drain"),))

    def stands(c, *, first=True, silenced="", **more):
        if silenced:
            past.put("silence", "s", pack(Silence("s", "service:*", NOW + 60, silenced)))
        world_ = world(**more)
        return guard.standing(
            plan, memory=past.memory, world=world_, config=c, now=NOW, first=first
        )

    del w
    assert stands(config()) == ""
    assert "add it to `manages:`" in stands(config(manages=[]))
    assert stands(config(manages=[]), first=False) == ""
    assert "never:" in stands(config(never=[{"kind": "service"}]))
    assert stands(config(mode="suggest")) == "agent.yaml says mode suggest by now"
    assert "would be left" in stands(config(), replicas=2.0)
    assert stands(config(), silenced="homeostat:r") == ""  # its own silence does not stop it
    assert "silenced by ann" in stands(config(), silenced="ann", first=False)
    past.put("pause", "service:web", {"by": "ann", "reason": "x"})
    assert "paused by ann" in guard.paused(plan, past.memory, world())


def test_a_run_that_waited_acts_only_on_what_is_seen_now(make):
    plan = Plan("r", "b", "T", "h", WEB.id, "i", "auto", "", NOW, (PlannedStep("s", "act"),))

    def stands(inc, *, w=None, first=True, unseen=()):
        return guard.standing(
            plan, memory=Past().memory, world=w or world(), config=config(), now=NOW, first=first,
            incident=inc, unseen=unseen,
        )  # fmt: skip

    assert stands(incident()) == ""
    assert stands(incident(anomalies=(anomaly(end=NOW),))) == "nothing is wrong any more"
    assert "not been seen since" in stands(incident(), unseen={key_of(SLOW)})
    assert stands(incident(), unseen={key_of(SLOW)}, first=False) == ""
    old = world(at=NOW - 130)
    old.patience["web"] = 30.0
    assert "does not answer" in stands(incident(), w=old)
    old.patience["web"] = 300.0  # a slow source
    assert stands(incident(), w=old) == ""
    alert = replace(SLOW, series=Series("service.alert_firing", WEB, (("alert", "A"),)))
    assert stands(incident(anomalies=(alert,))) == ""
    tells = replace(plan, steps=(PlannedStep("s", "tell"),))
    plan = tells
    assert stands(incident(anomalies=())) == ""


def test_a_run_that_waited_acts_only_on_the_cause_that_it_was_planned_for():
    plan = Plan(
        "r", "b", "T", "h", WEB.id, "i", "auto", "", NOW, (PlannedStep("s", "act"),),
        cause="serving.saturation",
    )  # fmt: skip

    def stands(kind, *, plan=plan, first=True):
        now = incident(cause=Cause(kind, WEB, 0.8))
        return guard.standing(
            plan, memory=Past().memory, world=world(), config=config(), now=NOW, first=first,
            incident=now,
        )  # fmt: skip

    assert stands("serving.saturation") == ""
    said = stands("host.disk")
    assert said == "since it was planned the cause became host.disk, it was serving.saturation"
    assert "became unknown" in stands("unknown")
    assert stands("host.disk", first=False) == ""  # what has begun is brought to its end
    assert stands("host.disk", plan=replace(plan, by="olga")) == ""  # a person decided that
    tells = replace(plan, steps=(PlannedStep("s", "tell"),))
    assert stands("host.disk", plan=tells) == ""


def test_the_same_symptom_everywhere_is_no_fault_of_one(make):
    w = world(webs=4)
    series = tuple(
        Series("service.latency_p95_seconds", Entity("service", f"web{i}")) for i in (1, 2, 3)
    )
    w.take(Frame("others", NOW, series, np.ones(3)))
    past = Past()
    for i, s in enumerate(series[:2]):
        past.put("incident", f"j{i}", pack(incident(id=f"j{i}", anomalies=(anomaly(s),))))
    decision = ask(make(), past=past, w=w)
    assert closed(decision) == {"correlated"}
    assert gate(decision, "correlated").value.startswith("75% of 4")
    alone = Past()
    alone.put("incident", "j", pack(incident(id="j", anomalies=(anomaly(series[0]),))))
    assert ask(make(), past=alone, w=w).allowed


def test_what_can_not_be_undone_needs_a_person(make):
    decision = ask(make(use="reboot", mode="approve"), c=config())
    assert (decision.allowed, decision.mode) == (True, "approve")
    assert gate(decision, "irreversible").value == "yes"


# ---------------------------------------------------------------- telling people


def test_telling_people_needs_neither_scope_nor_evidence(make):
    decision = ask(make(use="tell"), incident(anomalies=(), low=True), c=config(manages=[]))
    assert (decision.allowed, decision.mode) == (True, "auto")


def test_marking_what_others_use_needs_scope(make):
    assert ask(make(use="mark"), c=config(manages=[])).mode == "suggest"


def test_people_are_told_once_in_the_life_of_an_incident(make):
    past = Past().run(ago=9000, incident="i", use="tell")
    assert closed(ask(make(use="tell"), past=past)) == {"once"}
    assert ask(make(use="tell"), incident(reopened=1), past=past).allowed


def test_people_are_told_while_something_else_is_at_work(make):
    past = Past().run(playbook="other", state="holding")
    assert ask(make(use="tell"), past=past).allowed


def test_owners():
    assert guard.owner_of(FEATURE) == MODEL
    assert guard.owner_of(Entity("version", "fraud/3")) == MODEL
    assert guard.owner_of(Entity("replica", "web/1")) == WEB
    assert guard.owner_of(WEB) == WEB


# ---------------------------------------------------------------- whatever happens

TARGETS = (WEB, Entity("service", "web1"), Entity("service", "web2"), Entity("service", "foreign"))
MANAGED = config(manages=[{"kind": "service", "key": "web*"}])

event = st.tuples(
    st.floats(0.0, 1500.0),
    st.sampled_from(TARGETS),
    st.sampled_from(["acted", "failed", "helped", "no_effect", "harmed", "lives"]),
    st.integers(0, 3),
)


@settings(deadline=None, max_examples=60)
@given(events=st.lists(event, max_size=25))
def test_over_any_history_the_limits_hold(events, tmp_path_factory):
    """Whatever is let through is run; then the limits are counted anew, by hand."""
    folder = tmp_path_factory.mktemp("b")
    (folder / "b.yaml").write_text(
        BOOK.format(
            id="b", mode="auto", kind="service", use="act", per="target", domain="", params=""
        )
    )
    book = Library.load([folder], Config(), built_in=False).playbooks["b"]
    past, now = Past(), NOW
    live: dict[str, Run] = {}
    acts: list[tuple[float, Entity]] = []
    for n, (wait, target, becomes, other) in enumerate(events):
        now += wait
        w = world(at=now, webs=3)
        w.now = now
        # somebody else's run comes or goes
        if other == 3 and live:
            ended = live.pop(next(iter(live)))
            past.put("run", ended.id, pack(replace(ended, state="done", updated=now)), now)
        decision = guard.decide(
            book, target, incident(id=f"i{n}"), memory=past.memory, world=w, config=MANAGED, now=now
        )
        if not decision.allowed or decision.mode != "auto":
            continue
        assert target.key != "foreign"
        assert target not in {r.target for r in live.values()}
        assert all(at <= now - 300 for at, t in acts if t == target)
        assert all(at <= now - 60 for at, _ in acts)
        acts.append((now, target))
        assert sum(at > now - 3600 for at, _ in acts) <= 3
        assert sum(at > now - 86_400 and t == target for at, t in acts) <= 2
        step = StepRecord("s", "act", now, now, "done", "did")
        verdict = becomes if becomes in {"helped", "no_effect", "harmed"} else None
        state = "holding" if becomes == "lives" else "failed" if becomes == "failed" else "done"
        run = Run(
            f"r{n}",
            "b",
            target,
            f"i{n}",
            "auto",
            state,
            now,
            now,
            "h",
            (step,),
            Outcome(verdict, "") if verdict else None,
        )
        past.put("run", run.id, pack(run), now)
        if becomes == "lives":
            live[run.id] = run


# ---------------------------------------------------------------- what people have said


def test_a_person_lowers_how_far_a_playbook_goes_and_never_raises_it(make):
    past = Past()
    said = Ceiling("b", "suggest", "olga", "until noon", NOW)
    past.put("mode", "b", pack(said))
    assert ask(make(), past=past).mode == "suggest"
    assert "olga suggest" in gate(ask(make(), past=past), "mode").limit
    past.put("mode", "b", pack(replace(said, mode="auto")))
    assert ask(make(), past=past).mode == "auto"
    assert ask(make(mode="approve"), past=past).mode == "approve"
    past.put("mode", "b", pack(replace(said, mode="observe")))
    decision = ask(make(), past=past, ceiling="approve")
    assert (decision.allowed, closed(decision)) == (False, {"mode"})


def test_a_plan_that_waited_does_not_begin_when_its_ceiling_was_lowered_meanwhile():
    past = Past()
    waits = Plan("r", "b", "t", "h", WEB.id, "", "auto", "", NOW, (PlannedStep("s", "act"),))
    ask_ = {
        "memory": past.memory, "world": world(), "config": config(), "now": NOW, "first": True,
    }  # fmt: skip
    assert guard.standing(waits, **ask_) == ""
    past.put("mode", "b", pack(Ceiling("b", "approve", "olga", "", NOW)))
    assert "olga says mode approve" in guard.standing(waits, **ask_)
    assert guard.standing(replace(waits, by="max"), **ask_) == ""


def undone(past, incident_="i"):
    """A run of this incident that a person put back."""
    past.run("r", ago=7200.0, incident=incident_)
    back = Plan("u", "b", "t", "h", WEB.id, incident_, "auto", "olga", NOW - 7000, (), undoes="r")
    past.put("plan", "u", pack(back))
    past.run("u", ago=7000.0, incident=incident_)
    return past


def test_what_a_person_put_back_is_only_suggested_again_for_the_same_incident(make):
    decision = ask(make(), past=undone(Past()))
    assert (decision.mode, closed(decision)) == ("suggest", {"record"})
    assert "olga" in gate(decision, "record").reason
    assert ask(make(), past=undone(Past()), ceiling="approve").mode == "approve"
    assert ask(make(), past=undone(Past(), "another")).mode == "auto"
    assert gate(ask(make(), past=undone(Past())), "attempts").value == "1"  # an undo is no attempt


# ---------------------------------------------------------------- at a person's word


def walk(past, *incidents, books=(), w=None):
    """As much of a walk as a proposal needs."""
    seen = w or world()
    return SimpleNamespace(
        memory=past.memory, world=seen, config=config(), paused_file=False, journal_well=True,
        correlator=SimpleNamespace(incidents={i.id: i for i in incidents}, unseen=lambda _: ()),
        scene=lambda target, cause, since: Scene(seen, target, read=lambda *_: ((), ()), cause=cause),
    )  # fmt: skip


def test_a_person_starts_what_is_meant_for_another_cause(make):
    about = incident(cause=Cause("host.disk", WEB, 0.9), about=WEB)
    found = by_hand.proposed(walk(Past(), about), make(mode="suggest"), WEB, NOW)
    assert (found.decision.allowed, found.closed) == (True, None)
    assert (found.plan.incident, found.plan.mode, found.decision.mode) == ("i", "auto", "approve")
    assert found.decision.plan_hash == found.plan.hash
    again = by_hand.proposed(walk(Past(), about), make(mode="suggest"), WEB, NOW + 5)
    assert (again.plan.hash, again.plan.run_id != found.plan.run_id) == (found.plan.hash, True)


def test_all_other_gates_hold_for_a_person_too(make):
    past = Past()
    past.put("pause", WEB.id, {"by": "ann", "reason": "hands off"})
    found = by_hand.proposed(walk(past, incident(about=WEB)), make(), WEB, NOW)
    assert (found.decision.allowed, found.closed.name) == (False, "pause")


def test_where_nothing_is_wrong_nothing_that_mutates_is_started(make):
    found = by_hand.proposed(walk(Past()), make(), WEB, NOW)
    assert (found.decision.allowed, found.plan.incident) == (False, "")
    assert "fresh" in closed(found.decision)
    tells = by_hand.proposed(walk(Past()), make(use="tell"), WEB, NOW)
    assert (tells.decision.allowed, tells.plan.incident) == (True, "")


def test_what_the_playbook_excepts_is_excepted_for_a_person_too(make, tmp_path):
    book = make()
    for unless, fits in (("service.latency_p95_seconds > 0.5", "no"), ("service.up > 0.5", "unknown"),
                         ("service.latency_p95_seconds > 5.0", "yes")):  # fmt: skip
        found = by_hand.proposed(
            walk(Past(), incident(about=WEB)),
            book.model_copy(update={"unless": [unless]}),
            WEB,
            NOW,
        )
        assert gate(found.decision, "meant").value == fits
        assert found.decision.allowed is (fits == "yes")


def test_a_playbook_is_not_started_on_what_it_is_not_made_for(make):
    with pytest.raises(Refused, match="acts on a service"):
        by_hand.proposed(walk(Past()), make(), HOST, NOW)
