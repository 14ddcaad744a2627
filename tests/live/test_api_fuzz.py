"""The API held to its own document: schemathesis asks every way what its schema allows, and some that it does not."""

import re
import time

import httpx
import pytest
from desk_story import living
from hypothesis import HealthCheck, Phase, given, seed, settings

from agent.api import Way
from agent.web.table import ways

WAYS = [(way.method, way.path) for way in ways(None)]
READS = [way for way in ways(None) if way.verb == "see"]
OTHERS = [way for way in ways(None) if way.verb != "see"]
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
)  # fmt: skip
EXAMPLES = 25
KNOWN = {"/incidents/": "inc-7f", "/runs/": "run-22", "/playbooks/": "calm-neighbour", "/models/": "fraud"}  # fmt: skip
NEEDED = {
    "series": "service.latency_p95_seconds{service:wine}", "target": "nightly-batch", "a": "6", "b": "7",
    "start": "15m",
}  # fmt: skip
"""What stands behind the `?` where a way can not do without."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    with living(tmp_path_factory.mktemp("fuzz"), now=time.time()) as made:
        yield made


@pytest.fixture(scope="module")
def schemathesis():
    """Return it, which takes a second to import: only who runs these tests pays for it."""
    import schemathesis

    return schemathesis


@pytest.fixture(scope="module")
def schema(house, schemathesis):
    headers = {"authorization": f"Bearer {house.story.tokens.add('fuzzer', 'admin', 0.0)}"}
    loaded = schemathesis.openapi.from_url(f"{house.url}/api/openapi.json", headers=headers)
    return loaded, headers


def fuzz(schemathesis, schema, method, path):
    """Ask a way whatever it allows, and what it does not; raises where an answer is not as the document says."""
    loaded, headers = schema
    operation = loaded[path][method]
    said = loaded.raw_schema["paths"][path][method.lower()]
    checks = [getattr(schemathesis.checks, name) for name in CHECKS]
    cases = operation.as_strategy()
    if said["parameters"] or "requestBody" in said:
        cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @seed(8)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate),
    )  # fmt: skip
    @given(case=cases)
    def ask(case):
        for part, known in KNOWN.items():
            # random ids are never there: half of them are turned into one that is
            if part in path and sum(map(ord, str(case.path_parameters))) % 2:
                name = next(iter(case.path_parameters))
                case.path_parameters[name] = known
        said = case.call(headers=headers, timeout=30)
        case.validate_response(said, checks=checks, headers=headers)

    ask()


@pytest.mark.live
@pytest.mark.long
@pytest.mark.parametrize(("method", "path"), [*WAYS, ("GET", "/api/me")])
def test_answers_are_as_the_document_says_and_never_a_bug(schemathesis, schema, method, path):
    fuzz(schemathesis, schema, method, path)


@pytest.mark.live
@pytest.mark.parametrize("wrong", ["/api/lies", "/api/breaks"])
def test_a_way_that_lies_or_breaks_would_be_found(schemathesis, tmp_path, wrong):
    def breaks(_):
        raise ZeroDivisionError

    extra = (
        Way(
            "GET", "/api/lies", "lies", "see", "Says a list.", lambda _: {"a": 1}, returns=list[int]
        ),
        Way("GET", "/api/breaks", "breaks", "see", "Breaks.", breaks, returns=list[int]),
    )
    with living(tmp_path, now=time.time(), extra=extra) as house:
        loaded = schemathesis.openapi.from_url(f"{house.url}/api/openapi.json")
        with pytest.raises(schemathesis.checks.FailureGroup):
            fuzz(schemathesis, (loaded, {}), "GET", wrong)


# ---- without a token


def told(house, way, **kw):
    """Ask a way of something that is there, with no token; returns the answer and what was written meanwhile."""
    path = way.path
    for part, known in KNOWN.items():
        if part in path:
            path = re.sub(r"{(id|model)}", known, path)
    needs = way.query.model_fields.items() if way.query else ()
    query = {name: NEEDED[name] for name, field in needs if field.is_required()}
    before, _ = house.story.hooks.journal.head
    with httpx.Client(base_url=house.url, trust_env=False) as c:
        said = c.request(way.method, re.sub(r"{\w+}", "1", path), params=query, **kw)
    return said, [e.kind for e in house.story.hooks.journal.read() if e.seq > before]


@pytest.mark.live
@pytest.mark.parametrize("way", READS, ids=lambda way: f"{way.method} {way.path}")
def test_reading_on_loopback_needs_no_token_and_leaves_no_trace(house, way):
    body = {"features": {"amount": 1.0}} if way.method == "POST" else None
    said, wrote = told(house, way, json=body)
    assert said.status_code == 200, said.text
    assert set(wrote) <= {"refused"}  # of who asked before: that is written a moment later


@pytest.mark.live
@pytest.mark.parametrize("way", OTHERS, ids=lambda way: f"{way.method} {way.path}")
def test_without_a_token_nothing_else_is_let_in(house, way):
    said, wrote = told(house, way, json={} if way.method == "POST" else None)
    assert said.status_code == 401, said.text
    assert set(wrote) <= {"refused"}  # at most twenty a minute are written down


def test_all_that_changes_something_asks_for_a_role():
    """Only what asks is free: a way that is not GET, and needs no role, would stand in the first of the two above."""
    assert [way.path for way in READS if way.method != "GET"] == ["/api/models/{model}/explain"]
    assert len(OTHERS) > 15
