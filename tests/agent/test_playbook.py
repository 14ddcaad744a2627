import random
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import pytest

from agent import registry
from agent.config import Config
from agent.errors import ConfigError
from agent.model import Cause, Diagnosis, Entity, Incident
from agent.plans import PlannedApproval, plan_hash
from agent.playbook import Library, lowest
from agent.ports import Notifier
from agent.units import Duration, Model


@runtime_checkable
class Scaler(Protocol):
    async def replicas(self, target: str) -> int: ...


def verb(effect="mutating", ability=None, *, reversible=True, shared=False, params=None, undo=True):
    body: dict[str, Any] = {
        "effect": effect,
        "ability": ability,
        "reversible": reversible,
        "shared": shared,
    }
    if params is not None:
        body["Params"] = params
    if undo:
        body["undo"] = lambda self, step, done: None
    return type("Verb", (), body)


class ScaleParams(Model):
    by: int
    wait: Duration = 1.0
    process: str = ""


class TellParams(Model):
    text: str


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    """Verbs and connectors of these tests only."""
    actions, connectors = registry.Registry("action"), registry.Registry("connector")
    for name, cls in {
        "scale": verb(ability=Scaler, shared=True, params=ScaleParams),
        "reboot": verb(reversible=False, undo=False),
        "order": verb(reversible=False),
        "mark": verb("marking", shared=True),
        "tell": verb("marking", Notifier, reversible=False, undo=False, params=TellParams),
        "look": verb("reading", undo=False),
    }.items():
        actions(name)(cls)
    connectors("orchestra")(type("Orchestra", (), {"replicas": lambda self, target: 1}))
    connectors("puppet")(type("Puppet", (), {"replicas": lambda self, target: 1, "stand_in": True}))
    connectors("page")(type("Page", (), {"notify": lambda self, note: None}))
    monkeypatch.setattr(registry, "action", actions)
    monkeypatch.setattr(registry, "connector", connectors)


BOOK = """\
version: 1
id: more
title: Add one
mode: auto
target: {kind: service, where: 'target.key != "old"'}
because: {cause: serving.saturation}
when:
  - {signal: service.busy_ratio, is: 'value > 0.9', for: 1m}
unless: ['service.up < 0.5']
guard: {cooldown: {time: 10m}, rate: {max: 2, per: 1h}}
do:
  - {id: out, use: scale, with: {by: 1}, undo: auto, until: {is: 'service.busy_ratio < 0.5', at_most: 1h}}
verify: {within: 5m, expect: ['service.latency_p95_seconds < baseline.service.latency_p95_seconds * 1.5']}
then:
  - {use: tell, with: {text: '${title}: ${verdict.summary} (${steps.out.n})'}}
"""
STEP = BOOK.partition("id: out, ")[2].partition("}\nverify")[0]
CONFIG = Config.model_validate({"connectors": {"orchestra": {}, "page": {}}, "mode": "auto"})


def load(tmp_path, *texts, config=CONFIG):
    """Each text is one folder laid over the ones before."""
    dirs = []
    for i, text in enumerate(texts):
        folder = tmp_path / f"layer{i}"
        folder.mkdir()
        (folder / "book.yaml").write_text(text)
        dirs.append(folder)
    return Library.load(dirs, config, built_in=False)


def faults(tmp_path, text, **more):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **more)
    return [str(f).replace(f"{tmp_path}/layer0/", "") for f in caught.value.faults]


def book(tmp_path, *layers, config=CONFIG):
    return load(tmp_path, BOOK, *layers, config=config).playbooks["more"]


CAUSE = Cause(
    "serving.saturation",
    Entity("service", "web"),
    0.8,
    facts={"process": "p", "cores": "1.93", "version": "1.10"},
)
INCIDENT = Incident(
    "i-1", 100.0, 100.0, "open", "page", "web is slow", diagnosis=Diagnosis(110.0, (CAUSE,))
)
WEB = Entity("service", "web")


# ---------------------------------------------------------------- reading


def test_a_whole_playbook_is_read(tmp_path):
    p = book(tmp_path)
    assert (p.id, p.mode, p.because.min_confidence) == ("more", "auto", 0.6)
    assert p.when.all[0].condition.for_s == 60.0
    assert (p.mutating, p.shared, p.touching, p.irreversible) == (True, True, True, False)
    assert p.do[0].until.at_most == 3600.0
    assert p.then[0].id == "tell"
    assert len(p.text_hash) == 64


def test_shorthands_of_when(tmp_path):
    p = book(
        tmp_path,
        "id: more\nwhen: {any: ['service.up > 0.5', {is: 'service.busy_ratio > 0.9', for: 10s}]}",
    )
    assert [i.is_ for i in p.when.any] == ["service.up > 0.5", "service.busy_ratio > 0.9"]
    assert p.when.all == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("when:\n", "on:\n", "book.yaml:7:1: unknown key `on`; write `when:`"),
        ("id: more\n", "id: more\nid: more\n", "book.yaml:3:1: `id` is written twice"),
        ("id: more\n", "", "book.yaml:1:1: `id` is missing; add `id: ...`"),
        (
            "serving.saturation",
            "serving.satturation",
            "book.yaml:6:18: no cause is called `serving.satturation`",
        ),
        (
            "service.busy_ratio, is",
            "'service.busy_ratio{replica}', is",
            "`service.busy_ratio{replica}` names no labels; write signal{label=value}",
        ),
        (
            "service.busy_ratio, is",
            "service.bussy_ratio, is",
            "no signal is called `service.bussy_ratio`; did you mean `service.b",
        ),
        ("value > 0.9", "value > 2", "book.yaml:8:47: in `value > 2`: `2` has no point"),
        ("value > 0.9", "value > 90%", "write 0.9"),
        (
            "value > 0.9",
            "value",
            "in `value`: it yields a number where a truth is needed; write `value > 0.5`",
        ),
        (
            "{signal: service.busy_ratio, is: 'value > 0.9', for: 1m}",
            "'value > 0.9'",
            "`value` stands only beside `signal:`",
        ),
        (
            "'service.up < 0.5'",
            "'service.dwon < 0.5'",
            "book.yaml:9:11: in `service.dwon < 0.5`: nothing is called `service.dwon`",
        ),
        (
            "'service.up < 0.5'",
            "'service.up == true'",
            "they are never equal; write `service.up > 0.5`",
        ),
        (
            "'service.up < 0.5'",
            "'process.cpu_seconds_total > 1.0'",
            "only counts up; write its rate: `process.cpu_cores`",
        ),
        (
            "baseline.service.latency_p95_seconds",
            "baseline.latency_p95_seconds",
            "nothing is called `baseline.latency_p95_seconds`; did you mean",
        ),
        (
            "use: scale",
            "use: scael",
            "book.yaml:12:20: no verb is called `scael`; did you mean `scale`?",
        ),
        ("{by: 1}", "{bye: 1}", "unknown key `bye`; did you mean `by`?"),
        ("{by: 1}", "{by: one}", "book.yaml:12:38: `by`: `one` is not a whole number"),
        ("{by: 1}", "{wait: 3s}", "`by` is missing"),
        ("{by: 1}", "{by: 1, process: '${cause.}'}", "in `cause.`"),
        (
            "{by: 1}",
            "{by: 1, process: '${service.nothing}'}",
            "nothing is called `service.nothing`",
        ),
        (
            "{by: 1}",
            "{by: 1, process: '${steps.out.n}'}",
            "no step before this one is called `out`",
        ),
        ("{by: 1}", "{by: 1, process: '${verdict.summary}'}", "only `then:` knows"),
        ("{by: 1}", "{by: 1, process: '${open'}", "is never closed; add `}`"),
        ("undo: auto, ", "", "does not say how it is undone; write `undo: auto`"),
        ("undo: auto", "undo: none", "not undone, so it can not be for a while only"),
        (", at_most: 1h", "", "`at_most` is missing"),
        (
            "undo: auto",
            "undo: auto, via: orkestra",
            "no connector is called `orkestra`; did you mean `orchestra`?",
        ),
        (
            "guard: {cooldown: {time: 10m}, rate: {max: 2, per: 1h}}\n",
            "",
            "`scale` changes the world, but `guard:` is missing",
        ),
        ("verify:", "# verify:", "`scale` changes the world, but `verify:` is missing"),
        (
            "['service.latency_p95_seconds < baseline.service.latency_p95_seconds * 1.5']",
            "[]",
            "`expect`: ",
        ),
        (
            "${steps.out.n}",
            "${steps.uot.n}",
            "no step before this one is called `uot`; did you mean `out`?",
        ),
        (
            "use: tell, with: {text",
            "use: scale, undo: none, with: {by: 1, process",
            "`scale` changes the world after it was proven",
        ),
        (STEP, "use: reboot, undo: auto", "`reboot` can not be undone; write `undo: none`"),
        (STEP, "use: order, undo: auto", "a step can not be put back, so a person must say yes"),
        (
            STEP,
            "use: reboot, undo: none",
            "a step can not be put back, so a person must say yes; write `mode: approve`",
        ),
        (STEP, "use: look, with: {a: 1}", "`look` has no parameters; take it away"),
        (STEP, "use: mark, approve: {by: admin}", "nobody is asked for `mark`: it only marks"),
        (STEP, "use: reboot, undo: none, approve: {by: boss}", "`boss` is not one of"),
        ("use: tell, with", "use: tell, approve: {}, with", "nobody is asked for `tell`"),
        (
            "then:\n",
            "then:\n  - {id: out, use: look}\n",
            "two steps are called `out`; give one an `id:`",
        ),
        ("per: 1h", "per: 0s", "`per`: `0s` is out of bounds: more than 0"),
        ("at_most: 1h", "at_most: 0", "`at_most`: `0` is out of bounds: more than 0"),
        ("version: 1", "version: 2", "`version`: `2` is not one of 1"),
        (
            "version: 1",
            "version: '1'",
            "`version`: `1` is text here, no number; write 1 without quotes",
        ),
        (
            "guard: {cooldown",
            "guard: {settle: , cooldown",
            "`settle`: nothing stands here; write its value, or take the key away",
        ),
        (
            "guard: {cooldown",
            "guard: {approve: {by: viewer}, cooldown",
            "`viewer` is not one of operator, author",
        ),
        (
            "unless:",
            f"unless: ['{'service.up < 0.5 || ' * 200} true']\nunles:",
            "...`: the expression has more than 2000 characters; split it",
        ),
        (
            "unless:",
            "tests: [{name: t, given: {service.bussy_ratio: 1.0}, fires: true}]\nunless:",
            "nothing is called `service.bussy_ratio`",
        ),
        (
            "unless:",
            "tests: [{name: t, given: {service.up: true}, fires: true}]\nunless:",
            "`service.up` is a number; write 1.0",
        ),
        (
            "unless:",
            "tests: [{name: t, given: {baseline.service.busy_ratio: 90%}, fires: true}]\nunless:",
            "`baseline.service.busy_ratio` is a number; write 0.9",
        ),
        (
            "unless:",
            "tests: [{name: t, given: {cause.before: 10}, fires: true}]\nunless:",
            "`cause.before` is text; put it in quotes: '10'",
        ),
    ],
)
def test_faults_are_told_with_place_and_remedy(tmp_path, old, new, says):
    assert old in BOOK
    found = faults(tmp_path, BOOK.replace(old, new, 1))
    assert any(says in line for line in found), found


def test_all_faults_of_a_book_are_told_at_once(tmp_path):
    text = (
        BOOK.replace("saturation", "x").replace("value > 0.9", "value > 9").replace("{by: 1}", "{}")
    )
    assert len(faults(tmp_path, text)) == 3


WRONG = """\
version: 1
title: 3
target: {kind: service, where: 'target.kee != "old"'}
because: {cause: serving.saturatoin, min_confidense: 60%}
when:
  - {signal: service.busy_ratio, si: 'value > 0.9'}
  - {signal: service.busy_ratio, is: 'valeu > 0.9'}
unless: ['service.upp < 0.5']
do:
  - {id: out, usee: scale, with: {by: 1}, undo: auto}
  - {id: two, use: sclae, undo: atuo}
  - {id: three, use: scale, wiht: {by: 1}, undo: none}
  - {id: four, use: scale, with: {bye: 1, by: '${steps.out.n}'}, undo: none}
verify: {within: soon, expect: ['service.latency_p59_seconds < 1.0', 'steps.out.n > 1.0']}
then:
  - {use: tell, with: {text: '${titel} ${steps.out.n}'}}
"""


def test_wrong_keys_and_values_hide_no_fault_of_the_rest(tmp_path):
    """What depends on what can not be read is not judged: `steps.out.n` may be right, and `three` has its `by`."""
    assert [line.partition("; ")[0].removeprefix("book.yaml:") for line in faults(tmp_path, WRONG)] == [
        "1:1: `id` is missing",
        "2:8: `title`: `3` is not text",
        '3:33: in `target.kee != "old"`: a service has no attribute `kee`',
        "4:18: no cause is called `serving.saturatoin`",
        "4:38: unknown key `min_confidense`",
        "6:5: `is` is missing",
        "6:34: unknown key `si`",
        "7:39: in `valeu > 0.9`: nothing is called `valeu`",
        "8:11: in `service.upp < 0.5`: nothing is called `service.upp`",
        "10:5: `use` is missing",
        "10:15: unknown key `usee`",
        "11:20: no verb is called `sclae`",
        "11:33: `undo`: `atuo` is not one of auto, none",
        "12:29: unknown key `wiht`",
        "13:35: unknown key `bye`",
        "14:18: `within`: not understood: 'soon', write it like 30s, 5m or 1h30m",
        "14:34: in `service.latency_p59_seconds < 1.0`: nothing is called `service.latency_p59_seconds`",
        "16:33: in `titel`: nothing is called `titel`",
    ]  # fmt: skip


def test_a_playbook_whose_only_step_has_no_verb_is_checked_all_the_same(tmp_path):
    found = faults(
        tmp_path, BOOK.replace("use: scale", "usee: scale").replace("service.up <", "up <")
    )
    assert [line.partition(": ")[2].partition("; ")[0] for line in found] == [
        "in `up < 0.5`: nothing is called `up`",
        "`use` is missing",
        "unknown key `usee`",
    ]


def test_two_files_of_a_folder_with_one_id_are_a_fault(tmp_path):
    (tmp_path / "a.yaml").write_text(BOOK)
    (tmp_path / "b.yaml").write_text(BOOK)
    with pytest.raises(ConfigError, match=r"b\.yaml:2:5: `more` is defined in .*a\.yaml:2 too"):
        Library.load([tmp_path], CONFIG, built_in=False)


def test_a_folder_that_is_not_there_is_a_fault(tmp_path):
    with pytest.raises(ConfigError, match="can not be listed"):
        Library.load([tmp_path / "none"], CONFIG, built_in=False)


# ---------------------------------------------------------------- merging


def test_a_layer_changes_field_by_field(tmp_path):
    p = book(
        tmp_path, "id: more\nmode: suggest\nguard: {cooldown: {time: 5s}}\nverify: {within: 9s}\n"
    )
    assert (p.mode, p.title) == ("suggest", "Add one")
    assert (p.limits.cooldown.time, p.limits.rate.max) == (5.0, 2)
    assert p.verify.within == 9.0
    assert len(p.verify.expect) == 1


def test_steps_are_changed_by_id_and_replaced_as_a_whole(tmp_path):
    p = book(tmp_path, "id: more\ndo: [{id: out, until: {at_most: 5m}, with: {by: 2}}]\n")
    assert (p.do[0].use, p.do[0].with_, p.do[0].until.at_most) == ("scale", {"by": 2}, 300.0)
    assert p.do[0].until.is_ == ["service.busy_ratio < 0.5"]


def test_a_list_with_verbs_replaces(tmp_path):
    p = book(tmp_path, "id: more\ndo: [{id: out, use: look}]\nunless: []\nthen: []\n")
    assert [s.use for s in p.do] == ["look"]
    assert p.unless == []
    assert not p.mutating


def test_a_step_of_no_known_id_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"layer1/book.yaml:2:6: `use` is missing"):
        load(tmp_path, BOOK, "id: more\ndo: [{id: uot, until: {at_most: 5m}}]\n")


def test_faults_of_a_layer_are_told_in_the_layer(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            BOOK,
            "id: more\nguard:\n  cooldwon: {time: 5s}\ndo: [{id: out, with: {bye: 1}}]\n",
        )
    assert [str(f).replace(str(tmp_path), "") for f in caught.value.faults] == [
        "/layer1/book.yaml:3:3: unknown key `cooldwon`; did you mean `cooldown`?",
        "/layer1/book.yaml:4:23: unknown key `bye`; did you mean `by`?",
    ]


def test_layers_change_the_hash_and_the_same_text_does_not(tmp_path):
    one, two = book(tmp_path), None
    (tmp_path / "again").mkdir()
    two = book(tmp_path / "again")
    assert one.text_hash == two.text_hash
    (tmp_path / "third").mkdir()
    assert book(tmp_path / "third", "id: more\norder: 7").text_hash != one.text_hash


def test_a_playbook_can_be_switched_off(tmp_path):
    assert load(tmp_path, BOOK, "id: more\nenabled: false").playbooks == {}


def test_an_id_without_anything_is_an_incomplete_playbook(tmp_path):
    found = faults(tmp_path, "id: mroe\nmode: auto\n")
    assert any("`because` is missing" in line for line in found)


# ---------------------------------------------------------------- abilities and ceilings


def test_abilities_that_no_connector_has_are_lacking(tmp_path):
    assert book(tmp_path).lacking == frozenset()
    (tmp_path / "b").mkdir()
    assert book(tmp_path / "b", config=Config()).lacking == {"Scaler"}


def test_a_stand_in_is_capped_at_approve(tmp_path):
    config = Config.model_validate({"mode": "auto", "connectors": {"puppet": {}}})
    p = book(tmp_path, config=config)
    assert (p.cap(), p.ceiling(config)) == ("approve", "approve")


def test_the_lowest_ceiling_holds(tmp_path):
    p = book(tmp_path)
    assert p.ceiling(CONFIG) == "auto"
    assert p.ceiling(CONFIG.model_copy(update={"mode": "suggest"})) == "suggest"
    assert lowest("auto", "observe", "approve") == "observe"


def test_more_specific_playbooks_come_first(tmp_path):
    (tmp_path / "a.yaml").write_text(BOOK)
    (tmp_path / "b.yaml").write_text(
        BOOK.replace("id: more", "id: any").replace("serving.saturation", "serving")
    )
    (tmp_path / "c.yaml").write_text(BOOK.replace("id: more", "id: first\norder: 1"))
    library = Library.load([tmp_path], CONFIG, built_in=False)
    assert [p.id for p in library.for_cause("serving.saturation")] == ["first", "more", "any"]
    assert [p.id for p in library.for_cause("serving.crash")] == ["any"]


# ---------------------------------------------------------------- plans


def scene(name):
    return {"service.busy_ratio": 0.95, "cause.entity": "process:boot/1/2"}.get(name)


def test_a_plan_fixes_what_will_be_done(tmp_path):
    p = book(tmp_path, "id: more\ndo: [{id: out, with: {process: '${cause.entity}'}}]")
    plan = p.plan(WEB, INCIDENT, scene, "auto", 120.0)
    assert (plan.playbook, plan.target, plan.incident, plan.mode) == (
        "more",
        "service:web",
        "i-1",
        "auto",
    )
    assert plan.entity == WEB
    (step,) = plan.steps
    assert step.params == {"by": 1, "process": "process:boot/1/2"}
    assert (step.undo, step.until.is_, step.until.at_most) == (
        "auto",
        ("service.busy_ratio < 0.5",),
        3600.0,
    )
    assert (plan.verify.within, plan.verify.otherwise) == (300.0, "undo")
    assert plan.then[0].params == {"text": "Add one: ${verdict.summary} (${steps.out.n})"}
    assert (plan.approve.by, plan.approve.timeout) == ("operator", 900.0)
    assert plan.text_hash == p.text_hash


def test_a_step_may_ask_for_itself_and_then_only_it_waits_for_a_person(tmp_path):
    def plan_of(approve):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        layer = f"id: more\ndo: [{{id: out, approve: {{{approve}}}}}]"
        return book(folder, layer).plan(WEB, INCIDENT, scene, "auto", 120.0)

    asks = plan_of("by: admin, timeout: 5m, on_timeout: deny")
    assert asks.steps[0].approve == PlannedApproval("admin", 300.0, "deny")
    assert asks.approve == PlannedApproval()
    others = (
        "by: author, timeout: 5m, on_timeout: deny",
        "by: admin, timeout: 6m, on_timeout: deny",
        "by: admin, timeout: 5m",
    )
    assert asks.hash not in {plan_of(other).hash for other in others}


def test_what_can_not_be_put_back_and_asks_for_itself_need_not_be_approved_as_a_whole(tmp_path):
    text = BOOK.replace(STEP, "use: reboot, undo: none, approve: {by: admin}")
    asks = load(tmp_path, text).playbooks["more"]
    assert (asks.mode, asks.irreversible) == ("auto", False)


def test_facts_of_a_plan_say_who_and_what_but_no_measurements(tmp_path):
    plan = book(tmp_path).plan(WEB, INCIDENT, scene, "auto", 120.0)
    assert plan.facts == {
        "process": "p", "version": "1.10", "kind": "serving.saturation", "entity": "service:web", "incident": "i-1",
    }  # fmt: skip


def test_the_hash_says_what_is_done_not_when_nor_for_whom(tmp_path):
    p = book(tmp_path)
    plan = p.plan(WEB, INCIDENT, scene, "suggest", 120.0)
    later = p.plan(WEB, INCIDENT, scene, "auto", 999.0)
    assert plan.hash == later.hash == plan_hash(plan)
    assert plan.run_id != later.run_id
    assert p.plan(WEB, INCIDENT, scene, "suggest", 120.0) == plan
    other_cause = replace(CAUSE, facts={**CAUSE.facts, "process": "q"})
    moved = replace(INCIDENT, diagnosis=Diagnosis(110.0, (other_cause,)))
    assert p.plan(WEB, moved, scene, "suggest", 120.0).hash != plan.hash
    louder = replace(CAUSE, probability=0.9, facts={**CAUSE.facts, "cores": "0.02"})
    assert (
        p.plan(WEB, replace(INCIDENT, diagnosis=Diagnosis(1.0, (louder,))), scene, "auto", 1.0).hash
        == plan.hash
    )
    assert p.plan(Entity("service", "other"), INCIDENT, scene, "suggest", 120.0).hash != plan.hash


def test_values_are_never_read_as_expressions(tmp_path):
    p = book(
        tmp_path,
        "id: more\ndo: [{id: out, with: {process: '${cause.entity} of ${steps.x.y}'}}]".replace(
            " of ${steps.x.y}", ""
        ),
    )
    plan = p.plan(WEB, INCIDENT, {"cause.entity": "${service.up}"}.get, "auto", 1.0)
    assert plan.steps[0].params["process"] == "$${service.up}"


def test_steps_that_only_tell_are_left_out_where_nobody_can_be_told(tmp_path):
    config = Config.model_validate({"connectors": {"orchestra": {}}})
    p = book(tmp_path, config=config)
    assert p.lacking == frozenset()
    assert p.plan(WEB, INCIDENT, scene, "auto", 1.0).then == ()


def test_a_playbook_that_only_tells_needs_somebody_who_can(tmp_path):
    text = "version: 1\nid: tell\ntitle: Tell\ntarget: {kind: host}\nbecause: {cause: unknown}\n"
    text += "do: [{use: tell, with: {text: x}}]\n"
    p = load(tmp_path, text, config=Config()).playbooks["tell"]
    assert p.lacking == {"Notifier"}
    assert (p.mutating, p.touching) == (False, False)


def test_it_touches_its_target_and_whom_parameters_name(tmp_path):
    p = book(tmp_path, "id: more\ndo: [{id: out, with: {process: '${cause.entity}'}}]")
    cause = replace(CAUSE, entity=Entity("process", "boot/1/2"))
    assert p.touches(WEB, cause) == (WEB, Entity("process", "boot/1/2"))
    assert p.touches(WEB, None) == (WEB,)


# ---------------------------------------------------------------- nothing else is ever raised


def test_mutated_playbooks_are_taken_or_told(tmp_path):
    random.seed(11)
    under, over = tmp_path / "under", tmp_path / "over"
    for folder in (under, over):
        folder.mkdir()
    (under / "book.yaml").write_text(BOOK)
    words = [
        "${",
        "}",
        "[",
        "]",
        "{",
        ":",
        "'",
        "-",
        ".nan",
        "null",
        "1",
        "a.b",
        "id",
        "do",
        "use",
        ">",
        "&a",
        "*a",
    ]
    taken = 0
    for _ in range(300):
        text = list(BOOK)
        for _ in range(random.randint(1, 2)):
            at = random.randrange(len(text))
            text[at : at + random.randint(0, 4)] = random.choice(words)
        (over / "book.yaml").write_text("".join(text))
        for dirs in ([over], [under, over]):
            found, told = {}, ()
            try:
                found = Library.load(dirs, CONFIG, built_in=False).playbooks
            except ConfigError as error:
                told = error.faults or pytest.fail("a refusal without a reason")
            assert all(f.problem and f.place.endswith("book.yaml") for f in told)
            for p in found.values():
                taken += 1
                assert p.plan(WEB, INCIDENT, scene, "auto", 1.0).hash
    assert taken > 10


def test_numbers_that_json_has_not_are_taken(tmp_path):
    text = "id: more\ntests: [{name: t, given: {service.busy_ratio: .inf}, fires: true}]\n"
    assert book(tmp_path, text).text_hash
