"""What Kibana imports: whole, and only over fields that `elastic_out` maps. No Kibana was ever asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from connectors._elastic_setup import templates
from dashboards import kibana_objects

FILE = Path(kibana_objects.__file__).parent / "kibana" / "homeostat.ndjson"
LINES = [json.loads(line) for line in FILE.read_text().splitlines()]
OBJECTS, COUNTED = LINES[:-1], LINES[-1]
VIEWS = {o["id"]: o for o in OBJECTS if o["type"] == "index-pattern"}
SEARCHES = [o for o in OBJECTS if o["type"] == "search"]


def mapped(kind):
    """Return the fields of the index template of a kind."""

    def walk(properties, before=""):
        for name, one in properties.items():
            yield f"{before}{name}"
            yield from walk(one.get("properties", {}), f"{before}{name}.")

    body = templates("homeostat")[f"homeostat-{kind}"]
    return body["index_patterns"], set(walk(body["template"]["mappings"]["properties"]))


def test_what_is_committed_is_what_the_python_builds():
    assert FILE.read_text() == kibana_objects.built(), "run `make boards`"


def test_it_counts_itself_and_every_id_is_there_once():
    assert COUNTED["exportedCount"] == len(OBJECTS) == len({o["id"] for o in OBJECTS})
    assert {o["type"] for o in OBJECTS} == {"index-pattern", "search"}


def test_data_views_are_over_indices_that_there_are():
    for view in VIEWS.values():
        kind = view["id"].removeprefix("homeostat-view-")
        patterns, fields = mapped(kind)
        assert [view["attributes"]["title"]] == patterns
        assert view["attributes"]["timeFieldName"] in fields


@pytest.mark.parametrize("search", SEARCHES, ids=lambda s: s["id"])
def test_searches_ask_for_fields_that_are_mapped_in_a_view_that_is_here(search):
    attributes = search["attributes"]
    source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
    (reference,) = search["references"]
    assert reference["name"] == source["indexRefName"]
    view = VIEWS[reference["id"]]
    _, fields = mapped(view["id"].removeprefix("homeostat-view-"))
    asked = re.findall(r"([\w.@]+) :", source["query"]["query"])
    sorts = [name for name, _ in attributes["sort"]]
    assert {*attributes["columns"], *asked, *sorts} <= fields
    assert attributes["description"].endswith(".")
