import ast
import re
from pathlib import Path

import pytest

from agent import registry
from agent.attributes import ATTRIBUTES, FACTS, facts_of
from agent.catalogue import SIGNALS
from agent.causes import known
from agent.config import Config, load
from agent.errors import ConfigError
from agent.labels import read
from agent.model import Edge, Entity, Sighting
from agent.playbook import Library
from agent.rca.rules import hardware, host
from agent.rca.rules._signs import Sign
from agent.replay import GraphTape
from agent.scene import Scene
from agent.topology import Topology
from agent.world import World

RULES = Path(__file__).parents[2] / "agent" / "rca"
BOOK = """\
version: 1
id: b
title: B
target: {{kind: {kind}, where: '{where}'}}
because: {{cause: {cause}}}
guard: {{blast: {{domain: '{domain}'}}}}
do:
  - {{id: first, use: wait, with: {{time: 5s}}}}
  - {{use: notify, with: {{text: '{text}'}}}}
tests:
  - {{name: n, given: {{{given}}}, fires: true}}
"""


@pytest.fixture(scope="module", autouse=True)
def guests():
    registry.load()


def faults(tmp_path, config=None, **words):
    text = BOOK.format(**{
        "kind": "service", "where": "true", "cause": "host.disk", "domain": "", "text": "x", "given": "", **words,
    })  # fmt: skip
    (tmp_path / "b.yaml").write_text(text)
    try:
        Library.load([tmp_path], config or Config(), built_in=False)
    except ConfigError as error:
        return error.faults
    return ()


LABELLED = Config.model_validate(
    {"topology": {"labels": [{"kind": "service", "set": {"rack": "r1"}}]}}
)


@pytest.mark.parametrize(
    ("where", "at", "problem", "remedy"),
    [
        ('target.ownr == "a"', 1, "a service has no attribute `ownr`", "did you mean `owner`?"),
        ('true && target.kid == "a"', 9, "a service has no attribute `kid`", "did you mean"),
        ('target.command == "a"', 1, "a service has no attribute `command`", ""),
        ('target.labels.rak == "a"', 1, "no service is given the label `rak`", "did you mean `rack`?"),
        ('cause.mout == "/"', 1, "diagnosis says no `mout`", "did you mean `mount`?"),
        ('cause.feature == "f"', 1, "diagnosis says no `feature` beside host.disk", "mount"),
        ('cause.entity.key == "f"', 1, "diagnosis says no `entity.key`", "entity"),
        ("peers.mean > 1.0", 1, "nothing is called `peers.mean`", ""),
        ("target.owner > 1.0", 1, "text", "compare text"),
    ],
)  # fmt: skip
def test_a_name_that_nobody_can_know_is_told_where_it_stands(tmp_path, where, at, problem, remedy):
    (fault,) = faults(tmp_path, LABELLED, where=where)
    assert problem in fault.problem
    assert remedy in fault.remedy
    line = (tmp_path / "b.yaml").read_text().splitlines()[3]
    assert (fault.line, fault.column) == (4, line.index(where) + at)
    assert fault.text == line  # what the caret is drawn under


@pytest.mark.parametrize(
    "where",
    [
        'target.owner == "a"', 'target.labels.rack == "a"', 'cause.mount == "/"', 'target.key == "a"',
        'cause.kind == "x"',
    ],
)  # fmt: skip
def test_what_may_be_known_is_let_through(tmp_path, where):
    assert not faults(tmp_path, LABELLED, where=where)


def test_without_an_agent_yaml_no_label_is_wrong(tmp_path):
    from agent.playbook.library import lay
    from agent.strict import read as read_yaml

    faults(tmp_path, where='target.labels.anything == "a"')
    assert not lay([[read_yaml(tmp_path / "b.yaml")]], None).faults


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ({"domain": "rack"}, "a service has no attribute `rack`"),
        ({"domain": "labels.row"}, "no service is given the label `row`"),
        ({"text": "${steps.first.until}"}, "step `first` gives no `until`"),
        ({"text": "${target.owners}"}, "a service has no attribute `owners`"),
        ({"given": "cause.mout: a"}, "diagnosis says no `mout`"),
        ({"given": "target.pod: a"}, "a service has no attribute `pod`"),
    ],
)
def test_names_are_checked_wherever_they_stand(tmp_path, words, problem):
    assert [problem in f.problem for f in faults(tmp_path, LABELLED, **words)] == [True]


def test_another_cause_may_be_given_to_a_test(tmp_path):
    assert not faults(tmp_path, given="cause.kind: data.contract, cause.feature: f")


@pytest.mark.parametrize(("value", "fine"), [("spare", True), ("by", True), ("go", False)])
def test_a_form_gives_its_lines_and_who_answered(tmp_path, value, fine):
    ask = "{id: ask, use: ask, with: {text: 'go?', form: {spare: {kind: text, text: 'which?'}}}}"
    text = BOOK.format(
        kind="service", where="true", cause="host.disk", domain="", given="", text=f"${{steps.ask.{value}}}"
    )  # fmt: skip
    (tmp_path / "b.yaml").write_text(text.replace("- {use: notify", f"- {ask}\n  - {{use: notify"))
    if fine:
        assert Library.load([tmp_path], Config(), built_in=False).playbooks
        return
    with pytest.raises(ConfigError, match="step `ask` gives no `go`"):
        Library.load([tmp_path], Config(), built_in=False)


def test_every_verb_says_what_it_gives():
    assert [
        name
        for name in registry.action
        if getattr(registry.action.get(name), "gives", None) is None
    ] == []


# ---------------------------------------------------------------- the lists are whole


def test_facts_stand_beside_causes_that_there_are():
    assert all(map(known, FACTS))
    assert facts_of("data.contract").keys() == {"feature", "model", "why", "run"}
    assert "process" in facts_of("host.memory")
    assert "process" not in facts_of("host.cpu")


def test_every_fact_that_a_rule_says_is_in_the_list():
    """Keys of whatever a rule hands on as `facts`, and labels of the series that signs look at."""
    said = {}
    for file in sorted(RULES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            value = None
            if isinstance(node, ast.keyword) and node.arg == "facts":
                value = node.value
            elif isinstance(node, ast.Assign | ast.AugAssign):
                whom = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if (isinstance(whom, ast.Attribute) and whom.attr == "facts") or (
                    isinstance(whom, ast.Name) and whom.id == "facts"
                ):
                    value = node.value
            for one in ast.walk(value) if value is not None else ():
                keys = one.keys if isinstance(one, ast.Dict) else ()
                said |= {k.value: file.name for k in keys if isinstance(k, ast.Constant)}
    assert {"replica", "apart", "better", "version", "why", "previous_version"} <= said.keys()
    assert {name: at for name, at in said.items() if name not in facts_of()} == {}


def test_every_label_of_a_sign_may_be_a_fact_of_its_cause():
    seen = 0
    for module in (host, hardware):
        for kind, signs in module._SIGNS.items():
            for sign in signs:
                assert isinstance(sign, Sign)
                told = re.search(r"\(labels? ([^)]*)\)", SIGNALS[sign.metric].help)
                named = re.findall(r"(?:^|[,;] )(\w+)(?=[,;:]|$)", told.group(1)) if told else []
                values = re.findall(r": ([^;]*)", told.group(1)) if told else []
                labels = [n for n in named if not any(n in v.split(", ") for v in values)]
                seen += len(labels)
                assert set(labels) <= facts_of(kind).keys(), (kind, sign.metric)
    assert seen > 20


def test_labels_of_series_tell_attributes_that_are_listed():
    told = read("node_uname_info", {"instance": "h:9100", "release": "6.1"})
    told_gpu = read(
        "DCGM_FI_DEV_GPU_UTIL",
        {"UUID": "GPU-" + "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "modelName": "H"},
    )
    told_app = read("up", {"job": "shop", "instance": "a:1", "version": "v1"})
    attrs = [*told.attrs, *told_gpu.attrs, *told_app.attrs]
    assert {(e.kind, name) for e, name, _ in attrs} >= {
        ("host", "kernel"),
        ("gpu", "name"),
        ("service", "version"),
    }
    assert [a for a in attrs if a[1] not in ATTRIBUTES[a[0].kind]] == []


# ---------------------------------------------------------------- labels of a person

WEB = Entity("host", "web-1")
RULE = Config.model_validate({
    "topology": {"labels": [{"kind": "host", "set": {"rack": "r0", "row": "a"}},
                            {"kind": "host", "key": "web-*", "set": {"rack": "r1"}}]}
}).topology.labels  # fmt: skip


def test_labels_hang_on_whom_they_mean_whenever_it_comes():
    topology = Topology()
    topology.take(Sighting(Entity("host", "db-1"), (("os", "Linux"),)))
    topology.configure([], [], labels=RULE)
    topology.link(Edge("runs_on", Entity("gpu", "g"), WEB))
    topology.take(Sighting(WEB, (("os", "Linux"),)))
    assert topology.attrs(Entity("host", "db-1")) == {
        "os": "Linux",
        "labels.rack": "r0",
        "labels.row": "a",
    }
    assert topology.attrs(WEB) == {"os": "Linux", "labels.rack": "r1", "labels.row": "a"}
    assert topology.attrs(Entity("gpu", "g")) == {}
    world = World()
    world.topology = topology
    assert Scene(world, WEB)("target.labels.rack") == "r1"
    topology.configure([], [], labels=RULE[:1])
    assert topology.attrs(WEB)["labels.rack"] == "r0"
    topology.configure([], [])
    assert topology.attrs(WEB) == {"os": "Linux"}


def test_labels_are_part_of_the_past_of_the_graph(tmp_path):
    from agent.graph_past import GraphPast

    topology, past = Topology(), GraphPast(tmp_path, 3600.0)
    topology.configure([], [], labels=RULE)
    topology.take(Sighting(WEB))
    past.take(1000.0, topology)
    past.close()
    again = Topology()
    GraphTape(tmp_path, 2000.0).wind(2000.0, again)
    assert again.attrs(WEB) == {"labels.rack": "r1", "labels.row": "a"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("manages: [{kind: process, where: {comand: x}}]",
         "agent.yaml:1:35: a process has no attribute `comand`: did you mean `command`?"),
        ("never: [{kind: host, where: {labels.rak: x}}]", "no host is given the label `rak`: did you mean `rack`?"),
        ("maintenance: [{name: w, days: [sun], at: '02:00', lasts: 1h, scope: [{kind: gpu, where: {rack: x}}]}]",
         "a gpu has no attribute `rack`"),
        ("topology: {labels: [{kind: host, set: {Rack: x}}]}", "Rack"),
    ],
)  # fmt: skip
def test_agent_yaml_is_checked_alike(tmp_path, text, said):
    file = tmp_path / "agent.yaml"
    labels = "topology: {labels: [{kind: host, set: {rack: r}}]}\n"
    file.write_text(f"{text}\n{'' if 'topology' in text else labels}")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert said in str(caught.value).replace("; ", ": ")


def test_the_page_for_authors_lists_them_all():
    page = (RULES.parents[1] / "docs" / "playbooks.md").read_text()
    for name, some in [*ATTRIBUTES.items(), *((f"`{k}`", v) for k, v in FACTS.items())]:
        if some:
            assert f"| {name} | {', '.join(f'`{n}`' for n in some)} |" in page
