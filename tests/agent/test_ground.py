"""Values, units, causes, the registry and the clock."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import causes, registry
from agent.catalogue import SIGNALS
from agent.clock import Clock
from agent.codec import canonical, pack, unpack
from agent.errors import ConfigError, Fault, Refused
from agent.model import Anomaly, Cause, Diagnosis, Entity, Evidence, Incident, Series, entity
from agent.units import read_bytes, read_duration, read_quantity, read_ratio, say, say_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("2 d", 172_800), (7, 7)],
)
def test_durations(text, seconds):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5x", "m5", "-5m", "5m later", "1.2.3s"])
def test_what_is_no_duration_says_how_to_write_one(text):
    with pytest.raises(ValueError, match=r"30s, 5m or 1h30m|unknown unit"):
        read_duration(text)


def test_shares_sizes_and_quantities():
    assert read_ratio("12.5%") == 0.125
    assert read_bytes("1GiB") == 2**30
    assert [read_quantity(x) for x in ("250ms", "95%", "2GB", 3.5)] == [0.25, 0.95, 2e9, 3.5]


@given(st.floats(0, 1e9))
def test_every_duration_can_be_said(seconds):
    assert say_duration(seconds)[0].isdigit()


def test_values_are_said_in_their_units():
    assert say(0.123, "ratio") == "12.3 %"
    assert say(0.245, "seconds") == "245 ms"
    assert say(1.2e9, "bytes") == "1.2 GB"
    assert say(math.nan, "ratio") == "unknown"


def test_an_incident_survives_json_and_open_bands_come_back_as_nan():
    series = Series("model.accuracy_ratio", Entity("model", "fraud"), (("slice", "a"),))
    anomaly = Anomaly(
        series, 1.0, None, 0.0, -1, 0.5, 0.9, math.nan, 0.4, 9.0, "objective", "x", True,
        carriers=(series,),
    )  # fmt: skip
    cause = Cause(
        "concept.drift",
        series.entity,
        0.8,
        (Evidence("e", 1.0, series, 0.5, 0.9, 1.0),),
        facts={"a": "b"},
    )
    incident = Incident(
        "i", 1.0, 2.0, "open", "page", "t", (anomaly,), entities=(series.entity,),
        diagnosis=Diagnosis(2.0, (cause,)), about=series.entity,
    )  # fmt: skip
    back = unpack(Incident, json.loads(canonical(pack(incident))))
    assert math.isnan(back.anomalies[0].high)
    assert back.anomalies[0].carriers == (series,)
    assert back.diagnosis == incident.diagnosis
    assert pack(back) == pack(incident)


def test_canonical_json_is_one_text_for_one_value():
    assert canonical({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": math.nan})


def test_entity_ids_are_read_back_and_nonsense_is_refused():
    assert entity("process:boot/12/34") == Entity("process", "boot/12/34")
    for bad in ("", "host", "planet:x", "host:"):
        with pytest.raises(ValueError, match="kind:key"):
            entity(bad)


def test_causes_match_whole_words():
    assert causes.matches("hardware.gpu", "hardware.gpu.thermal")
    assert not causes.matches("hardware.gp", "hardware.gpu.thermal")
    assert causes.known("data")
    assert not causes.known("dat")


def test_every_counter_names_a_rate_that_exists_and_every_name_tells_its_unit():
    endings = {"seconds": "_seconds", "bytes": "_bytes", "ratio": "_ratio", "celsius": "_celsius",
               "watts": "_watts", "hertz": "_hertz"}  # fmt: skip
    for name, d in SIGNALS.items():
        if d.kind == "counter":
            assert name.endswith("_total")
            assert SIGNALS[d.rate].kind == "gauge"
        elif d.unit in endings:
            assert name.endswith(endings[d.unit]), name


def test_an_unknown_plugin_is_refused_with_the_nearest_name():
    with pytest.raises(Refused, match="did you mean host"):
        registry.connector.get("hots")


def test_faults_read_like_those_of_a_compiler():
    fault = Fault("agent.yaml", 3, 5, "unknown key 'mods'", "did you mean mode?")
    assert str(fault) == "agent.yaml:3:5: unknown key 'mods'; did you mean mode?"
    assert str(ConfigError([fault, Fault("x", 0, 0, "is empty")])).splitlines()[1] == "x: is empty"


def test_the_clock_tells_jumps_once_and_ignores_drift():
    wall, steady = [1000.0], [5.0]
    clock = Clock(lambda: wall[0], lambda: steady[0])
    steady[0] += 10
    wall[0] += 10.5
    assert clock.now() == (1010.5, 0.0)
    wall[0] -= 3600
    assert clock.now() == (wall[0], pytest.approx(-3599.5))
    steady[0] += 1
    wall[0] += 1
    assert clock.now() == (wall[0], 0.0)
