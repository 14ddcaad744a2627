"""Log records of OTLP/HTTP: both encodings say the same, other logs are passed over, hostile bytes are refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from otlp_side import any_value, json_logs, part, protobuf_logs

from agent.errors import Refused
from agent.ports import Pushed
from connectors import _otlp
from connectors._otlp_wire import fields
from connectors.predictions import Predictions

NANO = 1_764_000_000_250_000_000


LOG = {
    "ts": NANO, "trace": "4bf92f3577b34da6a3ce929d0e0e4736",
    "attributes": {
        "id": "r1", "features": {"age": 41.5, "country": "DE"}, "features.plan": "pro", "pred": 1, "proba.0": 0.25,
        "proba.1": 0.75, "latency_ms": 12.5, "status": 200, "tags": {"region": "eu"}, "service.name": "x",
    },
}  # fmt: skip
RECORD = {
    "model": "fraud", "version": "3", "id": "r1", "features": {"age": 41.5, "country": "DE", "plan": "pro"}, "pred": 1,
    "proba": {"0": 0.25, "1": 0.75}, "latency_ms": 12.5, "status": 200, "tags": {"region": "eu"}, "ts": NANO / 1e9,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}  # fmt: skip
OF = {"model": "fraud", "version": "3", "service.name": "x"}
ENCODINGS = [(protobuf_logs, "application/x-protobuf"), (json_logs, "application/json")]


@pytest.mark.parametrize(("encode", "kind"), ENCODINGS)
def test_attributes_are_the_fields(encode, kind):
    records, other = _otlp.records_of(encode(OF, [LOG, {"body": "just a log line"}]), kind)
    assert records == [RECORD]
    assert other == 1


@pytest.mark.parametrize(("encode", "kind"), ENCODINGS)
def test_a_body_that_is_a_map_is_a_record_and_attributes_win(encode, kind):
    log = {
        "body": {"features": {"a": 1}, "pred": "x", "model": "old"},
        "attributes": {"model": "new"},
    }
    (record,), _ = _otlp.records_of(encode({}, [log]), kind)
    assert record == {"features": {"a": 1}, "pred": "x", "model": "new"}


@pytest.mark.parametrize(("encode", "kind"), ENCODINGS)
def test_it_goes_all_the_way_to_columns_and_is_answered_as_the_protocol_wants(encode, kind):
    one = Predictions("predictions", Predictions.Config())
    inlet = next(i for i in one.inlets() if i.path == "/v1/logs")
    body = encode(
        OF, [LOG, {"body": "hello"}, {"attributes": {"model": "fraud", "id": "r0", "label": 1}}]
    )
    taken = inlet.take(
        Pushed(body, {"content-type": kind}, {}, NANO / 1e9, lambda _: (), lambda _: None)
    )
    one._aside.close()
    rows, labels = taken.arrivals
    assert (rows.model, rows.version, rows.ids, rows.classes) == ("fraud", "3", ("r1",), ("0", "1"))
    assert rows.pred.tolist() == ["1"]
    assert rows.proba.tolist() == [0.75]
    assert rows.tags["region"].tolist() == ["eu"]
    assert (labels.ids, labels.labels) == (("r0",), ("1",))
    status, media, said = taken.answer
    assert (status, media) == (200, kind)
    if kind == "application/json":
        assert json.loads(said)["partialSuccess"]["rejectedLogRecords"] == "1"
    else:
        (field, inner), *_ = fields(memoryview(said))
        assert field == 1
        assert dict(fields(inner))[1] == 1
    assert _otlp.answer(kind, 0)[2] in (b"", b"{}")


values = st.recursive(
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
keys = st.sampled_from(
    [
        "features",
        "features.a",
        "tags.b",
        "proba.c",
        "proba",
        "pred",
        "label",
        "id",
        "model",
        "status",
    ]
)


attributes = st.dictionaries(keys, values, max_size=5)
logs = st.lists(
    st.fixed_dictionaries({"attributes": attributes, "ts": st.integers(0, 1 << 62)}), max_size=3
)


@given(attributes, logs)
@settings(deadline=None, max_examples=150)
def test_both_encodings_say_the_same(resource, logs):
    def read(encode, kind):
        try:
            return _otlp.records_of(encode(resource, logs), kind)
        except Refused:
            return None  # nested too deep

    assert read(*ENCODINGS[0]) == read(*ENCODINGS[1])


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_read_or_refused(body):
    for kind in ("application/x-protobuf", "application/json"):
        try:
            records, other = _otlp.records_of(body, kind)
        except Refused:
            continue
        assert isinstance(records, list)
        assert other >= 0


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_damaged_message_is_read_or_refused(data):
    body = bytearray(protobuf_logs(OF, [LOG]))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    try:
        records, _ = _otlp.records_of(bytes(body), "application/x-protobuf")
    except Refused:
        return
    assert all(isinstance(record, dict) for record in records)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"[]",
        b'{"resourceLogs": 7}',
        b'{"resourceLogs": [{"resource": null}]}',
        b'{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "x"}]}]}]}',
    ],
)
def test_json_of_another_shape_is_refused(body):
    with pytest.raises(Refused, match="not OTLP logs"):
        _otlp.records_of(body, "application/json")


def test_values_nested_without_end_are_refused():
    value = any_value("x")
    for _ in range(200):
        value = part(5, part(1, value))
    body = part(1, part(2, part(2, part(6, part(1, b"features") + part(2, value)))))
    with pytest.raises(Refused, match="nested too deep"):
        _otlp.records_of(body, "application/x-protobuf")
