"""The application that takes rows: who may, how much, what is said when not, and that nothing is kept then."""

import asyncio
import gzip
import json

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.authority import LOOPBACK, Person, Unknown
from agent.errors import BadRecords, Refused, Unavailable
from agent.inlets import Busy, Inlets, Limits, inflate, may_speak, mounted
from agent.ports import Inlet, LabelBatch, Taken

LIMITS = Limits(body=2000, inflated=4000, held=5000)
SERVICE = Person("scoring", "operator", "token")


def labels(model: str, n: int = 1) -> LabelBatch:
    return LabelBatch(model, np.zeros(n), ("r",) * n, ("1",) * n)


class Receiver:
    """Takes a list of model names; `columns` asks for those of a model first."""

    def __init__(self) -> None:
        self.seen: list = []

    def inlets(self):
        return (Inlet("/ingest/rows", self._take), Inlet("/ingest/own", self._own))

    def _take(self, pushed) -> Taken:
        try:
            said = json.loads(pushed.body)
        except ValueError:
            raise Refused("not JSON; send an array") from None
        if said == "bug":
            raise KeyError("Ann Smith")
        if said == "bad":
            raise BadRecords(2, 3, ["record 0: wrong", "record 2: wrong, too"])
        self.seen.append((pushed.headers, pushed.query, [tuple(pushed.columns(m)) for m in said]))
        return Taken([labels(m) for m in said], waiting=3)

    def _own(self, _) -> Taken:
        return Taken([], answer=(200, "text/x", b"own"))


class Hand:
    def __init__(self) -> None:
        self.given: list = []
        self.no: Exception | None = None
        self.full = False
        self.asked: list[str] = []
        self.tally: list = []
        self.bugs: list = []

    def room(self) -> None:
        if self.full:
            raise Busy("too much; send it again later", wait_s=2.2)

    async def give(self, source, arrivals, waiting):
        if self.no is not None:
            raise self.no
        self.given.append((source, [a.model for a in arrivals], waiting))

    async def ask(self, model):
        self.asked.append(model)
        return [f"{model}-1", f"{model}-2"]

    def told(self, source, size, *, refused):
        self.tally.append((source, size, refused))

    def bug(self, where, trace):
        self.bugs.append((where, trace))


class House:
    def __init__(self, models=None, person=SERVICE) -> None:
        self.receiver, self.hand, self.person = Receiver(), Hand(), person
        self.app = Inlets(
            {"one": self.receiver}, self.hand, self._who, lambda: models or {}, LIMITS
        )

    def _who(self, scope):
        if self.person is None:
            raise Unknown("who is it; send a token")
        return self.person

    async def post(self, content=b"[]", path="/ingest/rows", method="POST", **headers):
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(method, path, content=content, headers=headers)


async def test_rows_are_taken_whole_and_counted_in_the_answer():
    house = House()
    said = await house.post(b'["a", "b"]', "/ingest/rows?model=x")
    assert (said.status_code, said.json()) == (202, {"accepted": 2})
    assert house.hand.given == [("one", ["a", "b"], 3)]
    headers, query, columns = house.receiver.seen[-1]
    assert query == {"model": "x"}
    assert headers["content-length"] == "10"
    assert columns == [("a-1", "a-2"), ("b-1", "b-2")]
    assert house.hand.asked == ["a", "b"]
    await house.post(b'["a"]')
    assert house.hand.asked == ["a", "b"]  # known by now
    assert house.hand.tally == [("one", 10, False), ("one", 5, False)]


async def test_an_inlet_may_answer_in_its_own_way():
    said = await House().post(path="/ingest/own")
    assert (said.status_code, said.headers["content-type"], said.content) == (200, "text/x", b"own")


REFUSED = [
    ({"person": None}, {}, 401, "who is it"),
    ({"person": Person("v", "viewer", "token")}, {}, 403, "v is viewer, rows needs operator"),
    ({}, {"content": b"{"}, 400, "not JSON"),
    ({}, {"content": b"x" * 2001}, 413, "more than 2000 bytes"),
    (
        {},
        {"content": gzip.compress(b" " * 5000), "content-encoding": "gzip"},
        413,
        "4000 bytes when unpacked",
    ),
    ({}, {"content": b"[]", "content-encoding": "gzip"}, 400, "not gzip"),
    ({}, {"content": gzip.compress(b"[]")[:-4], "content-encoding": "gzip"}, 400, "cut off"),
    ({}, {"content": b"[]", "content-encoding": "br"}, 415, "packed by br"),
    ({}, {"path": "/ingest/rows?" + "a=1&" * 30}, 400, "too many parameters"),
    (
        {"models": {"scoring": ["a*"]}},
        {"content": b'["ab", "b"]'},
        403,
        "scoring may not speak for model b",
    ),
    (
        {},
        {"content": json.dumps([f"m{i}" for i in range(20)]).encode()},
        400,
        "more than 8 new models",
    ),
]


@pytest.mark.parametrize(("kept", "sent", "status", "says"), REFUSED)
async def test_what_is_wrong_is_answered_with_a_reason_and_changes_nothing(
    kept, sent, status, says
):
    house = House(**kept)
    said = await house.post(**sent)
    assert said.status_code == status
    assert says in said.json()["error"]
    assert said.json()["remedy"]
    assert house.hand.given == []
    assert house.hand.tally[0][2] is True


async def test_records_that_are_wrong_are_told_each():
    house = House()
    said = await house.post(b'"bad"')
    assert said.status_code == 400
    assert said.json()["error"] == "record 0: wrong (and 1 more of 3 records)"
    assert said.json()["reasons"] == ["record 0: wrong", "record 2: wrong, too"]
    assert house.hand.given == []


@pytest.mark.parametrize(("model", "status"), [("fraud", 202), ("churn-eu", 202), ("price", 403)])
async def test_a_sender_sends_rows_of_its_models(model, status):
    house = House(person=Person("edge", "sender", "token", ("fraud", "churn-*")))
    said = await house.post(json.dumps([model]).encode())
    assert said.status_code == status
    if status == 403:
        assert "its token is for fraud, churn-*" in said.json()["remedy"]


@pytest.mark.parametrize(
    ("kept", "status", "remedy"),
    [
        ({"person": Person("edge", "sender", "token", ("a*",))}, 403, "its token is for a*; make one with --model b"),
        ({"person": Person("edge", "sender", "token", ("*",)), "models": {"edge": ["a*"]}}, 403,
         "add it for edge under ingest_models: in agent.yaml"),
        ({"person": LOOPBACK}, 401, "make one with: homeostat token add NAME --role sender --model MODEL"),
    ],
)  # fmt: skip
async def test_who_may_not_is_told_what_to_do(kept, status, remedy):
    said = await House(**kept).post(b'["ab", "b"]')
    assert (said.status_code, said.json()["remedy"]) == (status, remedy)


async def test_other_methods_are_refused():
    for method in ("GET", "PUT", "DELETE"):
        said = await House().post(method=method)
        assert (said.status_code, said.headers["allow"]) == (405, "POST")


async def test_a_body_in_pieces_is_bounded_as_well():
    async def pieces():
        for _ in range(100):
            yield b" " * 1000

    house = House()
    said = await house.post(pieces())
    assert said.status_code == 413
    assert house.app._held == 0


async def test_many_slow_bodies_together_are_bounded():
    house = House()
    go = asyncio.Event()

    async def slow():
        yield b"[" + b" " * 1500
        await go.wait()
        yield b"]"

    waiting = [asyncio.create_task(house.post(slow())) for _ in range(3)]
    while house.app._held < 4500:  # noqa: ASYNC110  # what is held has no event
        await asyncio.sleep(0.01)
    said = await house.post(b"[" + b" " * 1500 + b"]")
    assert (said.status_code, said.headers["retry-after"]) == (429, "1")
    go.set()
    assert [r.status_code for r in await asyncio.gather(*waiting)] == [202] * 3
    assert house.app._held == 0


@pytest.mark.parametrize(
    ("no", "status", "after"),
    [
        (Busy("full; later", wait_s=3.1), 429, "4"),
        (Unavailable("gone; later", wait_s=5.0), 503, "5"),
        (Unavailable("gone"), 503, "1"),
        (Refused("not these; send others"), 409, None),
    ],
)
async def test_what_the_hand_does_not_take_is_told(no, status, after):
    house = House()
    house.hand.no = no
    said = await house.post(b'["a"]')
    assert (said.status_code, said.headers.get("retry-after")) == (status, after)


async def test_when_there_is_no_room_the_body_is_not_even_read():
    house = House()
    house.hand.full = True
    said = await house.post(b"{")
    assert (said.status_code, said.headers["retry-after"]) == (429, "3")
    assert house.receiver.seen == []


async def test_a_bug_is_told_by_its_place_and_without_the_row():
    house = House()
    said = await house.post(b'"bug"')
    assert said.status_code == 500
    ((where, trace),) = house.hand.bugs
    assert where == "inlet /ingest/rows"
    assert "test_inlets.py" in trace
    assert trace.endswith("KeyError")
    assert "Ann" not in trace + said.text


def test_of_two_receivers_of_a_kind_the_second_has_its_name_behind_the_path():
    found = mounted({"one": Receiver(), "two": Receiver()})
    assert {path: source for path, (source, _) in found.items()} == {
        "/ingest/rows": "one", "/ingest/own": "one", "/ingest/rows/two": "two", "/ingest/own/two": "two",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("models", "person", "model", "may"),
    [
        ({}, SERVICE, "any", True),
        ({"scoring": ["fraud", "churn-*"]}, SERVICE, "churn-eu", True),
        ({"scoring": ["fraud", "churn-*"]}, SERVICE, "frau", False),
        ({"other": ["*"]}, SERVICE, "fraud", False),
        ({"other": ["x"], "*": ["fraud"]}, SERVICE, "fraud", True),
        ({"scoring": [], "*": ["*"]}, SERVICE, "fraud", False),
        ({"other": ["*"]}, Person("root", "admin", "socket"), "fraud", True),
        ({}, Person("edge", "sender", "token", ("fraud",)), "fraud", True),
        ({}, Person("edge", "sender", "token", ("fraud",)), "churn", False),
        ({}, Person("edge", "sender", "token"), "fraud", False),
        ({"edge": ["churn"]}, Person("edge", "sender", "token", ("*",)), "fraud", False),
    ],
)
def test_who_may_speak_for_which_model(models, person, model, may):
    assert may_speak(models, person, model) is may


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_gzip_of_several_members_is_read_whole(pieces):
    whole = b"".join(pieces)
    assert inflate(b"".join(map(gzip.compress, pieces)), 2000) == whole


def test_a_bomb_is_stopped_when_it_is_large_enough_to_know():
    bomb = gzip.compress(gzip.compress(b"\0" * 50_000_000, 9), 9)
    inner = inflate(bomb, 1 << 20)
    with pytest.raises(Exception, match="when unpacked"):
        inflate(inner, 1 << 20)
