"""The shipped playbooks, against the real verbs, the catalogue and the tree of causes."""

import re
import tracemalloc
from importlib import resources
from pathlib import Path

import pytest
from shipped import LIBRARY

from agent.catalogue import labelled
from agent.causes import CAUSES, matches
from agent.config import Config
from agent.expr import expressions, parse
from agent.model import Cause, Diagnosis, Entity, Incident
from agent.playbook import Library
from agent.playbook.alike import hollow
from agent.playbook.examples import run, try_examples
from agent.playbook.trial import Example, notation
from agent.playbook.verbs import put_back, stays, verb_of
from agent.rca.rules import hardware, host
from agent.rca.weights import WEIGHTS

BOOKS = sorted(LIBRARY.playbooks.values(), key=lambda p: p.id)
NAMES = {
    "serve-bad-deploy", "serve-noisy-neighbour", "serve-saturation", "feat-schema-change", "concept-drift",
    "page-harm", "observer-blind",
}  # fmt: skip


def ids(book):
    return book.id


def test_the_library_is_whole_and_free_of_faults():
    assert {p.id for p in BOOKS} >= NAMES


def test_the_page_of_the_library_has_every_playbook_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "library.md").read_text("utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("|")]
    cells = [row[3] for row in rows if not set(row[1]) <= {"-"} and "failure" not in row[1]]
    assert all("`" in cell or cell.strip().startswith("none") for cell in cells)
    beyond = "".join(re.findall(r"Beyond the catalogue: (.*?)\n\n", page + "\n\n", re.DOTALL))
    told = re.findall(r"`([a-z]+(?:-[a-z]+)+)`", "".join(cells) + beyond)
    assert sorted(set(told)) == [p.id for p in BOOKS]


def test_loading_takes_little_more_memory_than_what_is_kept_of_it():
    tracemalloc.start()
    try:
        library = Library.load([], Config())
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(library.playbooks) == len(BOOKS)
    assert most < 1.5 * kept


def test_a_library_without_tests_is_the_same_otherwise():
    bare = Library.load([], Config(), tests=False).playbooks
    assert list(bare) == list(LIBRARY.playbooks)
    for book in BOOKS:
        assert not bare[book.id].tests
        assert bare[book.id].model_copy(update={"tests": book.tests}) == book
        assert bare[book.id].text_hash == book.text_hash


def test_a_file_is_called_as_its_playbook():
    files = {
        Path(f.name).stem
        for f in resources.files("playbooks").iterdir()
        if f.name.endswith(".yaml")
    }
    assert files == {p.id for p in BOOKS}


@pytest.mark.parametrize("book", BOOKS, ids=ids)
def test_its_own_tests_pass(book):
    assert len(book.tests) >= 2
    assert {bool(t.fires if t.expect is None else t.expect.fires) for t in book.tests} == {
        True, False
    }  # fmt: skip
    assert try_examples(book) == []


@pytest.mark.parametrize("book", BOOKS, ids=ids)
def test_each_feed_on_which_it_is_silent_shows_what_it_is_about(book):
    assert [(t.name, why) for t in book.tests if (why := hollow(book, t))] == []


def signals(test):
    return {notation(series)[0] for series in test.feed.series}


@pytest.mark.parametrize("book", BOOKS, ids=ids)
def test_it_is_silent_on_a_feed_that_looks_alike(book):
    """A feed that has a signal of its own symptoms, and all that it asks for; doubt of the diagnosis does not count."""
    fed = [t for t in book.tests if t.feed is not None and t.feed.series]
    symptoms = {s for t in fed if t.expect.fires for s in signals(t)}
    alike = [
        t for t in fed
        if t.expect.fires == 0 and not t.expect.blocked_by
        and "cause.probability" not in t.given and signals(t) & symptoms
    ]  # fmt: skip
    # silent for want of knowledge is no silence on a look-alike
    assert [t.name for t in alike if "unknown" not in run(book, t).reason]


@pytest.mark.parametrize("book", BOOKS, ids=ids)
def test_what_mutates_ships_as_suggest_and_can_be_undone_or_says_why_not(book):
    if book.mutating:
        assert book.mode == "suggest"
        assert book.guard is not None
        assert book.verify is not None
        assert book.irreversible or any(put_back(s) or stays(verb_of(s)) for s in book.do)
        assert book.limits.attempts.then == "escalate"
    else:
        assert book.mode == "auto"


@pytest.mark.parametrize("book", BOOKS, ids=ids)
def test_times_are_those_of_production(book):
    limits = book.limits
    assert limits.cooldown.time >= 300
    assert limits.rate.per >= 3600
    if book.verify is not None:
        assert book.verify.within >= 60
    for step in book.do:
        if step.until is not None:
            assert step.until.for_ >= 60


@pytest.mark.parametrize(
    ("cause", "one"),
    [
        ("release.model", "serve-bad-deploy"),
        ("host.neighbour", "serve-noisy-neighbour"),
        ("serving.saturation", "serve-saturation"),
        ("data.contract", "feat-schema-change"),
        ("concept.drift", "concept-drift"),
        ("unknown", "page-harm"),
        ("observer.blind", "observer-blind"),
        ("serving.dependency", "serve-dependency"),
        ("serving.crash", "serve-crashloop"),
        ("serving.traffic", "serve-traffic-mix"),
        ("data.stale", "batch-run-late"),
        ("data.prior", "prior-shift"),
        ("label.late", "label-delay"),
        ("label.bad", "label-bad"),
        ("release.code", "serve-bad-release"),
        ("release.code", "serve-release-undo"),
        ("serving.crash", "serve-crashloop-undo"),
        ("hardware.host", "host-hardware"),
        ("release.config", "serve-bad-config"),
    ],
)
def test_each_cause_finds_its_playbook(cause, one):
    assert one in {p.id for p in LIBRARY.for_cause(cause)}


@pytest.mark.parametrize("cause", CAUSES)
def test_no_cause_is_without_a_playbook(cause):
    assert LIBRARY.for_cause(cause)


SIGNS = {
    (cause, sign)
    for some in (
        host._SIGNS, hardware._SIGNS, {"host.exhausted": (*host._OF_CARD, *host._OF_SERVICE)},
        {"hardware.gpu.lost": hardware._DRIVER, "hardware.gpu.link": hardware._SWITCH},
        {"serving.crash": hardware._HANGS},
    )
    for cause, signs in some.items()
    for sign in signs
    if sign.alone and WEIGHTS[sign.alone] >= WEIGHTS["strong"]
}  # fmt: skip
"""What names a cause by itself, or nearly so: the strong and decisive signs of the rules."""
EXCUSED = {
    ("hardware.gpu.lost", "gpu.reachable"): "host.gpus_count is the number of those that are, and the host is rebooted",
    ("hardware.gpu.memory", "gpu.ecc_errors_per_second"):
        "it counts contained errors, too: what must be reset say the XID and gpu.recovery_needed",
}  # fmt: skip
"""(cause, signal) that no playbook reads, and why."""


def reads(book, sign):
    """Tell whether a condition of a playbook looks at a sign: at its signal without labels, or with just these."""
    items = [*book.when.all, *book.when.any]
    labels = dict(sign.labels)
    for item in items:
        named, some = labelled(item.signal) if item.signal else ("", ())
        if named == sign.metric and set(some) <= set(sign.labels):
            return True
        if re.search(rf"(?<![\w.]){re.escape(sign.metric)}\b", item.is_):
            return True
        if "xid" in labels and "cause.xid" in item.is_ and f'"{labels["xid"]}"' in item.is_:
            return True
    return False


@pytest.mark.parametrize(
    ("cause", "sign"), sorted(SIGNS, key=repr), ids=lambda x: getattr(x, "what", x)
)
def test_what_names_a_cause_by_itself_is_looked_at_by_a_playbook_for_it(cause, sign):
    looking = [p.id for p in LIBRARY.for_cause(cause) if reads(p, sign)]
    assert bool(looking) != ((cause, sign.metric) in EXCUSED), looking


def test_excuses_are_of_signs_that_there_are_and_reasoned():
    assert EXCUSED.keys() <= {(cause, sign.metric) for cause, sign in SIGNS}
    assert all(len(reason.split()) >= 8 for reason in EXCUSED.values())


@pytest.mark.parametrize("signal", [
    "service.replicas_missing_count", "replica.restarts_per_second", "replica.oom_kills_per_second",
    "replica.oom_killed", "replica.waiting", "service.replicas_most_count",
    "host.infiniband_up", "host.infiniband_errors_per_second", "host.raid_degraded", "host.disk_bad_sectors_count",
])  # fmt: skip
def test_what_a_source_tells_of_a_failure_is_looked_at(signal):
    said = [f"{i.signal} {i.is_}" for p in BOOKS for i in (*p.when.all, *p.when.any)]
    assert any(signal in text for text in said)


@pytest.mark.parametrize(
    "book", [p for p in BOOKS if p.because.cause.partition(".")[0] in {"host", "hardware"}], ids=ids
)
def test_people_are_told_whatever_sign_named_the_cause(book):
    """What a text asks for and the diagnosis does not say keeps the whole text from being told."""
    sure = {"cause.kind", "cause.entity", "cause.words"}
    sure |= parse(book.target.where).names if book.target.where else set()
    sure |= {name for item in book.when.all for name in parse(item.is_).names}
    for step in (s for s in book.do if s.use in {"notify", "page", "ask"}):
        asked = {name for _, e in expressions(step.with_) for name in e.names}
        assert {n for n in asked if n.startswith("cause.")} <= sure | {"cause.command"}


def test_who_reboots_a_host_silences_it_first_and_a_node_is_drained_before_that():
    for book in BOOKS:
        verbs = [s.use for s in book.do]
        if "reboot" not in verbs:
            continue
        quiet = book.do[verbs.index("reboot") - 1]
        assert quiet.use == "silence"
        # over before people are called, or nobody would be
        assert quiet.until is not None
        assert quiet.until.at_most <= 120.0
        if book.id.startswith("node-"):
            assert verbs.index("drain_node") < verbs.index("silence")
            assert book.do[verbs.index("drain_node")].until is not None


@pytest.mark.parametrize(
    "book", [p for p in BOOKS if any(s.use == "retrain" for s in p.do)], ids=ids
)
def test_nobody_retrains_while_retraining_is_held_or_labels_are_few(book):
    assert "model.retraining_held > 0.5" in book.unless
    assert "model.labelled_rows_count >= 100.0" in [i.is_ for i in book.when.all]


def test_drift_alone_retrains_nobody():
    for cause in ("data.contract", "data.stale", "label.bad", "label.late", "release.model"):
        assert not any(s.use == "retrain" for p in LIBRARY.for_cause(cause) for s in p.do)
    known = {"model.labelled_rows_count": 400.0, "model.retraining_held": 0.0, "feature.drift_psi": 3.0,
             "model.feature_drift_psi": 3.0, "feature.drifted": 1.0, "cause.feature": "age"}  # fmt: skip
    acting = [p for p in LIBRARY.for_cause("data.drift") if p.mutating]
    for lost, fires in ((0.0, False), (1.0, True)):
        given = {**known, "model.quality_lost": lost}
        assert [not run(p, Example(name="", given=given, fires=True)).wrong for p in acting] == [
            fires
        ]


def test_what_a_dependency_breaks_is_not_restarted():
    for cause in ("serving.dependency", "release.code", "release.config"):
        assert not any(
            s.use in {"restart", "scale"} for p in LIBRARY.for_cause(cause) for s in p.do
        )


def made(book, scene=lambda _: None):
    cause = Cause(
        book.because.cause, Entity("process", "b/4711/9"), 0.9,
        facts={"feature": "age", "model": "fraud", "why": "unit", "command": "burn"},
    )  # fmt: skip
    assert matches(book.because.cause, cause.kind)
    incident = Incident("i-1", 1.0, 1.0, "open", "page", "x", diagnosis=Diagnosis(1.0, (cause,)))
    known = {"cause.entity": cause.entity.id, **{f"cause.{k}": v for k, v in cause.facts.items()}}
    return book.plan(Entity(book.target.kind, "fraud"), incident, known.get, "auto", 5.0), cause


def test_a_retraining_is_promoted_only_by_what_it_trained():
    plan, _ = made(LIBRARY.playbooks["concept-drift"])
    assert [s.use for s in plan.steps] == ["retrain", "promote"]
    assert plan.steps[1].params == {"version": "${steps.retrain.version}"}


def test_the_neighbour_of_the_diagnosis_is_named_and_touched():
    book = LIBRARY.playbooks["serve-noisy-neighbour"]
    plan, cause = made(book)
    assert plan.steps[0].params["process"] == "process:b/4711/9"
    assert book.touches(Entity("service", "web"), cause) == (Entity("service", "web"), cause.entity)


def test_a_broken_feature_is_held_back_replaced_and_put_back():
    plan, _ = made(LIBRARY.playbooks["feat-schema-change"])
    assert [s.use for s in plan.steps if s.undo == "auto"] == ["hold_retraining", "deploy_backup"]
    assert plan.steps[0].params["reason"] == "age broke its contract (i-1)"
    assert plan.steps[1].params == {"without": "age"}
    assert all(s.until is not None for s in plan.steps[:2])


def test_with_somebody_to_tell_people_are_told():
    config = Config.model_validate({"page": {"command": ["cat"]}})
    library = Library.load([], config)
    plan, _ = made(library.playbooks["feat-schema-change"])
    page = plan.steps[-1]
    assert page.use == "page"
    assert page.params["title"] == "Feature age of fraud broke its contract"
    assert "${steps.backup.version}" in page.params["text"]
    assert not library.playbooks["page-harm"].lacking
