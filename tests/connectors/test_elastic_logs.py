"""Logs in an index as series: counted once, late ones said, unknown where nothing is known; against the stand-in."""

import math
import time

import numpy as np
import pytest
from elastic_side import Elastic, iso

from agent.calls import Names
from agent.config import Config
from agent.errors import Refused, Unavailable
from agent.model import Entity, Series
from agent.ports import Remembering, Source
from agent.trying import look
from connectors.elastic_logs import ElasticLogs

pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")

INDEX = "logs-shop"
SHOP, CART = Entity("service", "shop"), Entity("service", "cart")


@pytest.fixture
def elastic():
    with Elastic() as made:
        made.indexes[INDEX] = {}
        yield made


class Town:
    """A connector, the index that it looks at, and a clock that stands until it is moved."""

    def __init__(self, elastic, folder):
        self.elastic, self.folder = elastic, folder
        self.now = math.floor(time.time())
        self.one = None

    def make(self, names=None, **more):
        if self.one is not None:
            self.one.close()
        config = {"url": self.elastic.url, "window": 10, "delay": 5, "backfill": 3600} | more
        self.one = ElasticLogs(
            "logs", ElasticLogs.Config(**config), names, state=self.folder, clock=lambda: self.now
        )
        return self.one

    def log(self, ago, n=1, service="shop", level="info", **more):
        """Put records that were written `ago` seconds before now."""
        named = {"service": {"name": service}} if service else {}
        one = {
            "@timestamp": iso(self.now - ago), "log": {"level": level}, "host": {"name": "h1"}, "message": "a secret"
        }  # fmt: skip
        self.elastic.put(*({**one, **named, **more} for _ in range(n)), index=INDEX)

    async def poll(self, later=10.0):
        """Move the clock and look; return metric and labels -> value of the shop, or of whoever is named."""
        self.now += later
        frame = await self.one.poll()
        self.frame = frame
        return dict(zip(frame.series, frame.values.tolist(), strict=True))


@pytest.fixture
def town(elastic, tmp_path):
    made = Town(elastic, tmp_path)
    yield made
    if made.one is not None:
        made.one.close()


def of(values, metric, who=SHOP, **labels):
    return values[Series(metric, who, tuple(sorted(labels.items())))]


async def test_records_errors_and_their_share_by_service(town):
    one = town.make()
    assert isinstance(one, Source)
    assert isinstance(one, Remembering)
    town.log(ago=-1, n=30)  # 16 s before the edge of the look at +10 s: outside
    town.log(ago=-4, n=15)
    town.log(ago=-4, n=5, level="ERROR")
    town.log(ago=-4, n=8, service="cart")
    town.log(ago=-6, n=50)  # too young: within the delay
    values = await town.poll(later=10)
    # the first look begins one window before the edge: (-5, +5]
    assert of(values, "service.log_records_per_second") == pytest.approx((30 + 15 + 5) / 10)
    assert of(values, "service.log_errors_per_second") == pytest.approx(0.5)
    assert of(values, "service.log_error_ratio") == pytest.approx(0.1)
    assert of(values, "service.log_records_per_second", CART) == pytest.approx(0.8)
    assert town.frame.ts == town.now - 5
    assert of(await town.poll(), "service.log_records_per_second") == pytest.approx(5.0)


async def test_no_document_is_counted_twice_and_none_is_left_out_between_looks(town):
    town.make()
    for second in range(60):
        town.log(ago=-second - 0.5, n=second + 1)
    total, begun = 0.0, None
    for later in (10, 7, 13, 9.5, 10.25, 12):
        values = await town.poll(later)
        begun = town.frame.ts - 10 if begun is None else begun
        span = town.frame.ts - begun
        total += of(values, "service.log_records_per_second") * span
        begun = town.frame.ts
    # every record up to the last edge, once; the clock stands at +61.75 and the edge 5 s before
    assert total == pytest.approx(sum(second + 1 for second in range(60) if second + 0.5 < 56.75))


async def test_a_look_too_soon_is_over_the_window_before_and_counts_nothing_twice(town):
    town.make()
    town.log(ago=0, n=20)
    first = await town.poll(10)
    soon = await town.poll(1)
    assert of(first, "service.log_records_per_second") == pytest.approx(2.0)
    assert of(soon, "service.log_records_per_second") == pytest.approx(20 / 11)
    town.log(ago=2, n=9)
    assert of(await town.poll(9), "service.log_records_per_second") == pytest.approx(0.9)


async def test_late_records_are_said_and_in_no_rate(town):
    town.make()
    late = Entity("source", "logs")
    town.log(ago=0, n=10)
    await town.poll()
    town.log(ago=8, n=7)  # its time was counted already
    values = await town.poll()
    assert of(values, "source.late_records_total", late) == 7
    assert of(values, "service.log_records_per_second") == 0.0
    values = await town.poll()
    assert of(values, "source.late_records_total", late) == 7  # said once
    for _ in range(70):  # the stretches that are looked at move on
        values = await town.poll()
        town.log(ago=1, n=1)
    town.log(ago=300, n=3)
    assert of(await town.poll(), "source.late_records_total", late) == 10


async def test_who_is_known_and_logs_nothing_is_at_zero_and_its_error_share_unknown(town):
    town.make()
    town.log(ago=0, n=10)
    town.log(ago=0, n=10, service="cart")
    await town.poll()
    town.log(ago=1, n=10, service="cart")
    values = await town.poll()
    assert of(values, "service.log_records_per_second") == 0.0
    assert math.isnan(of(values, "service.log_error_ratio"))
    assert of(values, "service.log_records_per_second", CART) == pytest.approx(1.0)


async def test_an_index_in_which_nothing_is_new_is_unknown_not_quiet(town):
    town.make(stale=30)
    town.log(ago=0, n=10)
    before = await town.poll()
    table = town.frame.series
    for _ in range(2):
        assert of(await town.poll(), "service.log_records_per_second") == 0.0
    values = await town.poll(20)
    assert math.isnan(of(values, "service.log_records_per_second"))
    assert values.keys() == before.keys()
    assert town.frame.series is table
    assert "all is unknown" in (await town.one.describe())[-1]


async def test_after_ten_minutes_without_an_answer_the_gap_is_unknown_and_no_mean(town):
    town.make()
    town.log(ago=0, n=10)
    await town.poll()
    town.elastic.gone = True
    for _ in range(6):
        with pytest.raises(Unavailable, match="index logs-"):
            await town.poll(100)
    town.log(ago=300, n=100_0)
    town.log(ago=2, n=20)
    town.elastic.gone = False
    values = await town.poll()
    assert of(values, "service.log_records_per_second") == pytest.approx(2.0)
    assert of(values, "source.late_records_total", Entity("source", "logs")) == 0


async def test_records_without_a_service_are_their_hosts_and_services_run_on_hosts(town):
    town.make()
    town.log(ago=0, n=10)
    town.log(ago=0, n=4, service="", level="error", host={"name": "h2"})
    values = await town.poll()
    host = Entity("host", "h2")
    assert of(values, "host.log_records_per_second", host) == pytest.approx(0.4)
    assert of(values, "host.log_error_ratio", host) == 1.0
    (seen,) = town.frame.seen
    assert (seen.entity, [e.dst for e in seen.edges]) == (SHOP, [Entity("host", "h1")])
    town.log(ago=1, n=10)
    await town.poll()
    assert town.frame.seen == ()  # told once
    town.log(ago=1, n=10, host={"name": "h3"})
    await town.poll()
    assert [e.dst.key for e in town.frame.seen[0].edges] == ["h3"]


async def test_names_of_the_logs_become_services_of_ours(town):
    town.make(names=Names({"shop-*": "shop"}))
    for name, n in (("shop-eu", 10), ("shop-us", 5)):
        town.log(ago=0, n=n, service=name, **{"event.code": "E1"})
    values = await town.poll()
    assert of(values, "service.log_records_per_second") == pytest.approx(1.5)
    assert of(values, "service.log_template_per_second", template="E1") == pytest.approx(1.5)


# ---- templates


async def test_templates_are_series_and_the_rest_is_one(town):
    town.make(templates=2)
    for i, n in enumerate((50, 30, 20, 10)):
        town.log(ago=0, n=n, **{"event.code": f"E{i}"})
    values = await town.poll()
    found = {dict(s.labels)["template"]: v for s, v in values.items() if "template_per" in s.metric}
    assert found == pytest.approx({"E0": 5.0, "E1": 3.0, "(other)": 3.0})
    assert of(values, "service.log_new_templates_count") == 0  # the first look learns
    town.log(ago=1, n=10, **{"event.code": "E0"})
    values = await town.poll()
    found = {dict(s.labels)["template"]: v for s, v in values.items() if "template_per" in s.metric}
    assert found == pytest.approx({"E0": 1.0, "E1": 0.0, "(other)": 0.0})


async def test_a_template_that_was_never_seen_is_said_and_becomes_a_series(town):
    one = town.make(templates=2)
    for i in range(3):
        town.log(ago=1800, n=9, **{"event.code": f"E{i}"})
    await one.past(town.now - 3600, town.now)
    for i in range(3):
        town.log(ago=0, n=9, **{"event.code": f"E{i}"})
    values = await town.poll()
    assert of(values, "service.log_new_templates_count") == 0
    town.log(ago=1, n=40, **{"event.code": "E0"})
    town.log(ago=1, n=1, **{"event.code": "panic"})
    values = await town.poll()
    assert of(values, "service.log_new_templates_count") == 1
    assert of(values, "service.log_template_per_second", template="panic") == pytest.approx(0.1)
    # over a restart it is known, and after a while no longer new
    town.make(templates=2)
    town.log(ago=1, n=1, **{"event.code": "panic"})
    assert of(await town.poll(), "service.log_new_templates_count") == 0
    assert "panic" not in (town.folder / "feeds" / "logs.json").read_text()  # hashes alone


async def test_new_is_new_for_a_while(town):
    one = town.make(new_for=60)
    town.log(ago=3000, **{"event.code": "E0"})
    await one.past(town.now - 3600, town.now)
    town.log(ago=0, **{"event.code": "E1"})
    counts = []
    for _ in range(9):
        counts.append(of(await town.poll(), "service.log_new_templates_count"))
        town.log(ago=1, **{"event.code": "E0"})
    assert counts == [1.0] * 6 + [0.0] * 3


async def test_a_service_that_is_young_has_no_new_templates(town):
    town.make()
    town.log(ago=0, service="fresh", **{"event.code": "E1"})
    await town.poll()
    town.log(ago=1, service="fresh", **{"event.code": "E2"})
    values = await town.poll()
    assert of(values, "service.log_new_templates_count", Entity("service", "fresh")) == 0


async def test_the_server_sorts_texts_where_it_can(town):
    town.make(categorize="message")
    for i in range(20):
        town.log(ago=0, message=f"order {i} paid in {i}ms")
    values = await town.poll()
    assert of(values, "service.log_template_per_second", template="order paid in") == pytest.approx(2.0)  # fmt: skip
    town.elastic.categorizes = False
    with pytest.raises(Refused, match="Unknown aggregation type"):
        await town.poll()


# ---- the past, settings, faults


async def test_the_past_is_rows_of_the_window(town):
    one = town.make()
    for minute in range(1, 31):
        town.log(ago=60 * minute, n=minute)
    frames = await one.past(town.now - 3600, town.now)
    assert len(frames) == 30
    assert [f.ts for f in frames] == sorted({f.ts for f in frames})
    rates = [dict(zip(f.series, f.values, strict=True)) for f in frames]
    total = sum(of(r, "service.log_records_per_second") * 10 for r in rates)
    assert total == pytest.approx(sum(range(1, 31)))
    assert all(town.now - 3600 <= f.ts <= town.now for f in frames)


async def test_other_fields_other_errors_only_some_documents(town):
    town.make(
        time_field="ts", service_field="app", errors={"term": {"status": "bad"}}, query={"term": {"zone": "eu"}}
    )  # fmt: skip
    at = {"ts": iso(town.now), "app": "shop"}
    town.elastic.put(
        at | {"zone": "eu", "status": "bad"}, at | {"zone": "eu"}, at | {"zone": "us"}, index=INDEX
    )
    values = await town.poll()
    assert of(values, "service.log_records_per_second") == pytest.approx(0.2)
    assert of(values, "service.log_error_ratio") == 0.5


async def test_more_services_than_may_be_are_said_and_the_others_are_not_zero(town):
    town.make(most_services=1)
    town.log(ago=0, n=3)
    await town.poll()
    town.log(ago=1, n=2)
    town.log(ago=1, n=9, service="cart")
    values = await town.poll()
    assert math.isnan(of(values, "service.log_records_per_second"))  # it logged, and was not named
    assert of(values, "service.log_records_per_second", CART) == pytest.approx(0.9)
    assert "most_services" in " ".join(await town.one.describe())


def test_a_delay_that_makes_all_values_old_is_refused():
    with pytest.raises(ValueError, match="give it a `window` of at least half"):
        ElasticLogs.Config(url="http://h:9200", window=10, delay=30)


SLOW = {"wait": 2.5}
STRANGE = b'{"timed_out": false, "_shards": {}, "aggregations": {"now": {}, "newest": {}, "before_0": {}}}'
HUGE = b'{"x":"' + b"x" * (1 << 16) + b'"}'


def patience(one, seconds):
    one._elastic._timeout_s = seconds
    one._elastic.close()


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ((401, "security_exception"), Refused, "401"), ((403, "security_exception"), Refused, "403"),
        ((429, "es_rejected_execution_exception"), Unavailable, "429"), ((500, "x"), Unavailable, "500"),
        ((503, "x"), Unavailable, "503"), ({"drop": True}, Unavailable, "index logs-"),
        ({"raw": b"<html>no</html>"}, Unavailable, "not as Elasticsearch does"),
        ({"raw": b"{}"}, Unavailable, "not as Elasticsearch does"), ({"raw": HUGE}, Unavailable, "larger than"),
        ({"raw": STRANGE}, Unavailable, "not written"),
        ({"status": 302, "raw": b"", "headers": {"Location": "http://x/"}}, Refused, "not followed"),
        ({"lost": True}, Unavailable, "index logs-"), (SLOW, Unavailable, "index logs-"),
    ],
)  # fmt: skip
async def test_what_goes_wrong_is_said_costs_nothing_and_is_over_when_it_is_over(
    town, monkeypatch, fault, error, says
):
    monkeypatch.setattr("connectors._elastic.MOST_BYTES", 1 << 15)
    town.make()
    town.log(ago=0, n=10)
    await town.poll()
    town.log(ago=1, n=20)
    town.elastic.fail = [fault]
    patience(town.one, 1.0 if fault == SLOW else 20.0)
    with pytest.raises(error, match=says):
        await town.poll(5)
    patience(town.one, 20.0)
    assert of(await town.poll(5), "service.log_records_per_second") == pytest.approx(2.0)


async def test_it_waits_as_long_as_it_is_asked_to(town):
    town.make()
    town.elastic.fail = [{"status": 429, "kind": "x", "headers": {"Retry-After": "17"}}]
    with pytest.raises(Unavailable) as caught:
        await town.poll()
    assert caught.value.wait_s == 17


async def test_no_such_index(town):
    town.make(index="nothing")
    with pytest.raises(Refused, match="index_not_found"):
        await town.poll()
    town.make(index="nothing-*")
    with pytest.raises(Refused, match="no index is called so"):
        await town.poll()


async def test_a_key_is_a_reference_and_is_in_no_message(town, monkeypatch):
    monkeypatch.setenv("ES_KEY", "canary-1")
    town.elastic.auth = "ApiKey other"
    town.make(api_key="env:ES_KEY")
    with pytest.raises(Refused) as caught:
        await town.poll()
    assert "canary" not in str(caught.value)
    with pytest.raises(ValueError, match="api_key") as wrong:
        ElasticLogs.Config(url="http://h:9200", api_key="canary-2")
    assert "canary" not in str(wrong.value)


async def test_values_are_numbers_or_unknown_never_infinite(town):
    town.make()
    town.log(ago=0, n=1)
    await town.poll()
    assert not np.isinf(town.frame.values).any()


async def test_try_shows_the_series_and_whom_it_sees(elastic):
    now = time.time()
    one = {"service": {"name": "shop"}, "log": {"level": "error"}, "host": {"name": "h1"}}
    elastic.put(*(one | {"@timestamp": iso(now - 5 + i / 10)} for i in range(400)), index=INDEX)
    said = await look("elastic_logs", Config(), {"url": elastic.url, "window": 1, "delay": 1})
    found = {s["series"]: s["value"] for s in said["series"]}
    assert found["service.log_records_per_second{service:shop}"] == pytest.approx(10, rel=0.3)
    assert found["service.log_error_ratio{service:shop}"] == 1.0
    assert said["seen"] == [{"entity": "service:shop", "attrs": {}, "edges": ["runs_on host:h1"]}]
    assert "1 service, " in said["says"][0]
