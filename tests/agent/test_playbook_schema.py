"""The JSON Schema against what the loader takes: editors must not underline what is right, and must what is wrong."""

from functools import cache
from importlib import resources

import jsonschema
import pytest

from agent import registry
from agent.playbook import schema, template
from agent.strict import read

registry.load()
SHIPPED = sorted(
    (f for f in resources.files("playbooks").iterdir() if f.name.endswith(".yaml")),
    key=lambda f: f.name,
)
SATURATION = next(f for f in SHIPPED if f.name == "serve-saturation.yaml").read_text()


@cache
def validator(make):
    made = make()
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


def check(data, make=schema.playbook):
    return [e.message for e in validator(make).iter_errors(data)]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.name)
def test_the_whole_library_keeps_it(file):
    assert check(read(file.read_text()).data) == []


@pytest.mark.parametrize("use", list(registry.action))
def test_what_new_writes_keeps_it(use):
    assert check(read(template.write("made", "serving", use)).data) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("mode: suggest", "mode: sugest", "is not one of"),
        ("{by: 1}", "{bye: 1}", "'bye' was unexpected"),
        ("{by: 1}", "{by: one}", "is not valid under any"),
        ("use: notify", "use: notfy", "is not valid under any"),
        ("cause: serving.saturation", "cause: serving.saturated", "is not valid under any"),
        ("settle: 2m", "settle: 2 parsecs", "is not valid under any"),
        ("max_share: 50%", "max_share: 150", "is not valid under any"),
        ("order: 30", "on: 30", "'on' was unexpected"),
        ("title:", "titel:", "'title' is a required property"),
        ("fires: true", "fires: perhaps", "is not valid under any"),
        ("    use: scale\n", "", "'use' is a required property"),
        ("with: {by: 1}", "with: 3", "is not of type 'object'"),
        ("    use: scale\n", "    use: scale\n    approve: {by: boss}\n", "is not valid under any"),
    ],
)
def test_what_the_loader_refuses_is_underlined(old, new, says):
    assert old in SATURATION
    found = check(read(SATURATION.replace(old, new, 1)).data)
    assert any(says in message for message in found), found


@pytest.mark.parametrize(
    "layer",
    [
        "id: serve-saturation\nmode: auto\n",
        "id: serve-saturation\ndo: [{id: scale_out, approve: {by: admin, timeout: 5m, on_timeout: deny}}]\n",
        "id: serve-saturation\ndo: [{id: scale_out, until: {at_most: 1h, is: 'service.up > 0.5'}}]\n",
    ],
)
def test_a_layer_over_another_playbook_need_not_be_whole(layer):
    assert check(read(layer).data) == []


@pytest.mark.parametrize(
    ("parameter", "right"),
    [
        ("by: '${service.replicas_count}'", True),
        ("by: 2", True),
        ("to: '3'", False),
        ("max: 0, by: 1", False),
    ],
)
def test_parameters_are_values_of_their_type_or_expressions(parameter, right):
    found = check(read(SATURATION.replace("{by: 1}", f"{{{parameter}}}")).data)
    assert (found == []) is right, found


def test_every_verb_has_a_branch_with_its_parameters():
    branches = {
        b["if"]["properties"]["use"]["const"]: b["then"]
        for b in schema.playbook()["definitions"]["StepModel"]["allOf"]
    }
    assert branches.keys() == set(registry.action)
    for name, made in schema.verbs():
        model = getattr(registry.action.get(name), "Params", None)
        wanted = {i.alias or n for n, i in model.model_fields.items()} if model else set()
        assert set(made.get("properties", {})) == wanted


def test_settings_of_connectors_and_detectors_are_in_that_of_the_agent():
    good = "mode: auto\nconnectors:\n  page: {command: [cat]}\n  mine: {use: page, command: [cat], interval: 5s}\n"
    assert check(read(good).data, schema.agent) == []
    for bad in (
        "connectors: {page: {comand: [cat]}}",
        "connectors: {mine: {command: [cat]}}",
        "connectors: {mine: {use: pgae}}",
        "connectors: {mine: {use: page, command: 3}}",
        "detectors: {nobody: {use: nobody}}",
        "mode: often",
        "budget: {false_pages_per_week: -1}",
        "diagnose: {settle: 10 parsecs}",
    ):
        assert check(read(bad).data, schema.agent), bad


def test_every_key_has_words_for_people():
    parts = schema.playbook()["definitions"]
    bare = [
        name
        for name, part in parts.items()
        if part.get("type") == "object" and not part.get("description")
    ]
    assert bare == []
