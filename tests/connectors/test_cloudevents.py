"""Request and response events become records: protocols, modes, order, hostile bodies, a bounded room."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.authority import Forbidden
from agent.errors import Refused
from agent.ports import Pushed
from connectors import _cloudevents
from connectors._cloudevents import Pairs, is_event
from connectors.predictions import Predictions

T0 = 1_764_000_000.0
KIND = "org.kubeflow.serving.inference."


def event(
    kind: str, data, *, id_="e1", now=T0, model="fraud", columns=(), allow=lambda _: None, **more
) -> Pushed:
    """An event in binary mode, as the logger of KServe sends it."""
    headers = {
        "ce-specversion": "1.0", "ce-id": id_, "ce-type": KIND + kind, "ce-source": "http://localhost:9081/",
        "ce-inferenceservicename": model, "ce-endpoint": "default", "content-type": "application/json",
        **{f"ce-{k}": v for k, v in more.items()},
    }  # fmt: skip
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return Pushed(body, headers, {}, now, lambda _: columns, allow)


V1 = {"instances": [[41.0, "DE"], [20.0, None]]}


def test_a_pair_of_the_v1_protocol_becomes_a_record_a_row():
    room = Pairs()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    first = event(
        "request",
        V1,
        columns=("age", "country"),
        time="2025-11-24T16:00:00.000000001Z",
        traceparent=trace,
    )
    assert room.take(first, "") == []
    assert len(room) == 1
    said = event("response", {"predictions": [1, 0]}, time="2025-11-24T16:00:00.250Z")
    one, two = room.take(said, "")
    assert len(room) == 0
    assert one == {
        "id": "e1/0", "model": "fraud", "version": "", "variant": "", "ts": T0,
        "features": {"age": 41.0, "country": "DE"},
        "pred": 1, "proba": None, "latency_ms": 250.0, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }  # fmt: skip
    assert (two["id"], two["features"], two["pred"]) == ("e1/1", {"age": 20.0, "country": None}, 0)


def test_halves_come_in_any_order_and_one_row_keeps_the_id_of_its_event():
    room = Pairs()
    assert room.take(event("response", {"predictions": [[0.1, 0.9]]}), "") == []
    (record,) = room.take(event("request", {"instances": [{"age": 3}]}, endpoint="canary"), "")
    assert record["id"] == "e1"
    assert record["variant"] == "canary"
    assert record["features"] == {"age": 3}
    assert record["proba"] == {"0": 0.1, "1": 0.9}


def test_named_tensors_of_v2():
    room = Pairs()
    inputs = [
        {"name": "age", "shape": [2, 1], "datatype": "FP64", "data": [41, 20]},
        {"name": "country", "shape": [2], "datatype": "BYTES", "data": ["DE", "FR"]},
    ]
    outputs = [
        {"name": "predict", "shape": [2], "datatype": "INT64", "data": [1, 0]},
        {
            "name": "predict_proba",
            "shape": [2, 2],
            "datatype": "FP64",
            "data": [[0.2, 0.8], [0.7, 0.3]],
        },
    ]
    room.take(event("request", {"inputs": inputs}), "")
    answer = {"model_name": "m", "model_version": "7", "outputs": outputs}
    one, two = room.take(event("response", answer), "")
    assert (one["features"], two["features"]) == (
        {"age": 41, "country": "DE"},
        {"age": 20, "country": "FR"},
    )
    assert [(r["pred"], r["proba"], r["version"]) for r in (one, two)] == [
        (1, {"0": 0.2, "1": 0.8}, "7"), (0, {"0": 0.7, "1": 0.3}, "7"),
    ]  # fmt: skip


def test_one_tensor_has_its_columns_by_position():
    flat = {"name": "input-0", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
    for columns, names in ((("a", "b", "c"), ["a", "b", "c"]), (("a", "b"), ["x0", "x1", "x2"])):
        room = Pairs()
        room.take(event("request", {"inputs": [flat]}, columns=columns), "")
        _, two = room.take(event("response", {"predictions": ["no", "yes"]}), "")
        assert two["features"] == dict(zip(names, [4, 5, 6], strict=True))


@pytest.mark.parametrize(
    ("said", "pred", "proba"),
    [
        ({"predictions": ["a"]}, "a", None),
        ({"predictions": [[2.5]]}, 2.5, None),
        ({"predictions": [[3.0, 4.0]]}, None, None),
        ({"predictions": [{"label": "a", "probability": 0.7}]}, "a", 0.7),
        ({"predictions": [{"class": 1, "scores": [0.4, 0.6]}]}, 1, {"0": 0.4, "1": 0.6}),
        ({"outputs": {"output": [7]}}, 7, None),
        ({"outputs": [{"name": "score", "shape": [1], "datatype": "FP32", "data": [0.3]}]}, None, 0.3),
    ],
)  # fmt: skip
def test_answers_of_many_shapes(said, pred, proba):
    room = Pairs()
    room.take(event("request", {"instances": [[1]]}), "")
    (record,) = room.take(event("response", said), "")
    assert (record["pred"], record["proba"]) == (pred, proba)


def test_structured_mode_and_batches():
    one = {
        "specversion": "1.0", "type": KIND + "request", "id": "s1", "source": "x", "inferenceservicename": "fraud",
        "data": {"instances": [[5]]},
    }  # fmt: skip
    two = {**one, "type": KIND + "response", "data": {"predictions": [1]}}
    room = Pairs()
    headers = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
    assert is_event(headers)
    whole = Pushed(json.dumps([one, two]).encode(), headers, {}, T0, lambda _: (), lambda _: None)
    (record,) = room.take(whole, "")
    assert (record["id"], record["features"], record["pred"]) == ("s1", {"x0": 5}, 1)
    headers = {"content-type": "application/cloudevents+json"}
    assert (
        room.take(
            Pushed(json.dumps(one).encode(), headers, {}, T0, lambda _: (), lambda _: None), ""
        )
        == []
    )


BAD = [
    (event("explanation", {}), "events of type"),
    (event("request", V1, id_=""), "needs an `id`"),
    (event("request", [1]), "must be an object"),
    (event("request", {"instances": "x"}), "must be an array"),
    (event("request", {"instances": [[1], [1, 2]]}), "differ in length"),
    (event("request", {"instances": [[[1]]]}), "more than a table"),
    (event("request", {"instances": [[0] * 2001]}), "2001 columns"),
    (event("request", {"instances": [[0]] * 20_001}), "at most 20000 rows"),
    (event("request", {}), "neither `instances` nor `inputs`"),
    (event("request", {"inputs": [{"name": "a", "shape": [9], "datatype": "FP32", "data": [1]}]}), "do not fill"),
    (event("request", {"inputs": [{"name": "a", "shape": [-1], "datatype": "FP32", "data": []}]}), "counts"),
    (event("request", {"inputs": [{"name": "a", "shape": [1 << 40], "datatype": "FP32", "data": []}]}), "counts"),
    (event("request", {"inputs": [{"name": "a", "shape": [1], "datatype": "FP32"}]}), "has no `data`"),
    (event("request", {"inputs": {"a": [1], "b": [1, 2]}}), "differ in length"),
    (event("request", {"inputs": {"a": [[[[[[1]]]]]]}}), "nested too deep"),
    (event("response", {}), "neither `predictions` nor `outputs`"),
    (event("request", b"\x00\x01"), "not JSON"),
    (event("request", V1, model="../x"), "names no model"),
]  # fmt: skip


@pytest.mark.parametrize(("pushed", "says"), BAD)
def test_what_is_malformed_is_refused_and_keeps_nothing(pushed, says):
    room = Pairs()
    with pytest.raises(Refused, match=says):
        room.take(pushed, "")
    assert len(room) == 0


def test_a_sender_that_may_not_speak_for_a_model_leaves_nothing_in_the_room():
    def allow(model: str) -> None:
        raise Forbidden(f"not {model}")

    room = Pairs()
    with pytest.raises(Forbidden):
        room.take(event("request", V1, allow=allow), "")
    assert len(room) == 0


def test_a_half_that_stays_alone_is_let_go_as_what_it_is():
    room = Pairs()
    room.take(event("request", V1, id_="a", columns=("age", "country")), "")
    room.take(event("response", {"predictions": [1]}, id_="b"), "")
    later = T0 + _cloudevents.WAIT_S + 1
    alone = room.take(event("request", {"instances": [[1]]}, id_="c", now=later), "")
    assert [r["id"] for r in alone] == ["a/0", "a/1", "b"]
    assert "pred" not in alone[0]
    assert "features" not in alone[2]
    assert len(room) == 1


def test_the_room_is_bounded_in_halves_and_bytes(monkeypatch):
    monkeypatch.setattr(_cloudevents, "MOST_WAITING", 3)
    room = Pairs()
    out = [
        r
        for i in range(5)
        for r in room.take(event("request", {"instances": [[i]]}, id_=f"e{i}"), "")
    ]
    assert len(room) == 3
    assert [r["id"] for r in out] == ["e0", "e1"]
    size = len(event("request", {"instances": [[0]]}).body)
    monkeypatch.setattr(_cloudevents, "MOST_BYTES", 2 * size)
    out = room.take(event("request", {"instances": [[9]]}, id_="e9"), "")
    assert [r["id"] for r in out] == ["e2", "e3"]
    assert room._bytes == 2 * size


def test_the_same_half_again_is_one():
    room = Pairs()
    for _ in range(3):
        assert room.take(event("request", {"instances": [[1]]}), "") == []
    assert len(room) == 1
    assert len(room.take(event("response", {"predictions": [1]}), "")) == 1
    assert room._bytes == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "label", "scores"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
bodies = st.dictionaries(
    st.sampled_from(
        ["instances", "inputs", "predictions", "outputs", "model_version", "model_name"]
    ),
    json_values,
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["request", "response"]), st.integers(0, 2), bodies), max_size=8
    )
)
@settings(deadline=None, max_examples=200)
def test_any_events_are_taken_or_refused_and_columns_fit(story):
    one = Predictions("predictions", Predictions.Config())
    inlet = one.inlets()[0]
    try:
        for kind, id_, body in story:
            try:
                taken = inlet.take(event(kind, body, id_=str(id_), columns=("a", "b")))
            except Refused:
                continue
            for batch in taken.arrivals:
                assert all(len(np.asarray(c)) == len(batch.ts) for c in batch.features.values())
            assert taken.waiting <= 3
    finally:
        one._aside.close()
