"""References out of rows, made in a process beside the daemon."""

import asyncio

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent import registry
from agent.config import WatchModels
from agent.models.made import Later, Made, learn, learn_job, make
from agent.reference import read_rows, reader_of_rows
from agent.references import References


@pytest.fixture
def csv(tmp_path):
    pytest.importorskip("pyarrow")
    random = np.random.default_rng(0)
    lines = ["age,land,prediction,probability,label"]
    for _ in range(1200):
        age, land = random.normal(40, 5), random.choice(["DE", "FR"])
        said = int(age > 40)
        truth = said if random.random() < 0.9 else 1 - said
        lines.append(f"{age:.3f},{land},{said},{random.uniform(0.8, 1.0):.3f},{truth}")
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
async def made():
    all_of_them = []

    def start(**config):
        def bug(where, error):
            raise AssertionError(where) from error

        one = References(WatchModels(**config), bug)
        all_of_them.append(one)
        one.start()
        return one

    yield start
    for one in all_of_them:
        await one.close()


async def settled(one, model):
    async with asyncio.timeout(60.0):
        while isinstance(one.of(model, "1"), Later):  # noqa: ASYNC110  # the worker has no event
            await asyncio.sleep(0.02)


async def test_a_file_becomes_one_for_every_version_and_is_the_same_as_made_at_once(csv, made):
    one = made(reference={"fraud": csv, "churn/2": csv})
    assert isinstance(one.of("fraud", "1"), Later)
    assert one.of("price", "1") is None
    assert one.of("churn", "1") is None
    await settled(one, "fraud")
    registry.load()
    batch, truth = read_rows(csv, reader_of_rows(), "fraud")
    got = one.of("fraud", "7")
    assert isinstance(got, Made)
    assert got.pack() == make(WatchModels(reference={"fraud": csv, "churn/2": csv}), batch, truth).pack()  # fmt: skip
    assert one.faults == {}


async def test_what_can_not_be_made_is_told_once_with_place_and_remedy(tmp_path, made):
    path = tmp_path / "no.csv"
    with capture_logs() as logs:
        one = made(reference={"fraud": path})
        await settled(one, "fraud")
        assert one.of("fraud", "1") is None
    (told,) = [entry for entry in logs if entry["event"] == "reference_not_made"]
    assert (told["model"], told["file"]) == ("fraud", str(path))
    assert str(path) in one.faults["fraud"]
    assert "mend the file, and restart; until then its first rows are one" in one.faults["fraud"]


async def test_a_worker_that_is_killed_is_told_and_it_is_tried_again(csv, made, monkeypatch):
    monkeypatch.setattr("agent.references._FIRST_WAIT_S", 0.5)
    one = made(reference={"fraud": csv})
    async with asyncio.timeout(30.0):
        while one._worker.pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    one._worker._process.kill()
    await settled(one, "fraud")
    assert "SIGKILL; it is tried again" in one.faults["fraud"]
    async with asyncio.timeout(60.0):
        while one.of("fraud", "1") is None or isinstance(one.of("fraud", "1"), Later):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert one.faults == {}


async def test_first_rows_are_learnt_there_as_here(made):
    random = np.random.default_rng(1)
    land = np.array(["de", "fr", None], dtype=object)[random.integers(0, 3, 1000)]
    features = {"x": random.normal(size=1000), "land": land, "y": np.full(1000, np.nan)}
    answers = asyncio.Queue()
    made().learn(features, answers.put_nowait)
    async with asyncio.timeout(60.0):
        state = await answers.get()
    registry.load()
    assert state == learn(WatchModels(), features)


def test_a_job_carries_numbers_and_texts_as_numbers():
    land = np.array(["de", None, "fr", "de"], dtype=object)
    job = learn_job(WatchModels(), {"x": np.arange(4.0), "land": land})
    assert job.values.tolist() == [[0, 0], [1, 1], [2, 2], [3, 0]]
    assert job.config["columns"] == {"x": [], "land": ["de", None, "fr"]}
