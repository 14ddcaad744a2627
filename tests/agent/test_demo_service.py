from __future__ import annotations

import asyncio
import itertools
import json
import time

import httpx
import pytest

from agent.demo import rows, service, trainer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    first, served = rows.split(3)
    first.save(folder / "first.npz")
    trainer.first(folder, "scoring", folder / "first.npz", seed=0)
    return folder, served


@pytest.fixture
async def client(models, tmp_path, monkeypatch):
    monkeypatch.setenv("DEMO_MODELS", str(models[0]))
    monkeypatch.setenv("DEMO_MODEL", "scoring")
    monkeypatch.setenv("DEMO_PREDICTIONS", str(tmp_path / "p.jsonl"))
    transport = httpx.ASGITransport(service.app)
    async with (
        service.app.router.lifespan_context(service.app),
        httpx.AsyncClient(transport=transport, base_url="http://scoring") as client,
    ):
        yield client


def log(tmp_path):
    return [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]


def row(models, i=0, name="r1"):
    served = models[1]
    return {"id": name, "features": dict(zip(served.names, served.x[i].tolist(), strict=True))}


async def test_answers_as_the_champion_does_and_logs_it(client, models, tmp_path):
    sent = time.time() - 0.5
    answer = await client.post(
        "/predict", json=row(models), headers={"X-Request-Start": f"t={sent:.6f}"}
    )
    assert answer.status_code == 200
    body = answer.json()
    champion = trainer.champion(models[0] / "scoring")
    assert body["version"] == champion
    (line,) = log(tmp_path)
    assert set(line) == {"id", "ts", "model", "version", "features", "pred", "proba", "latency_ms",
                         "processing_ms", "status"}  # fmt: skip
    assert (line["id"], line["model"], line["version"]) == ("r1", "scoring", champion)
    assert line["pred"] == body["label"]
    assert line["features"] == row(models)["features"]
    assert line["latency_ms"] >= 500  # waiting before us counts
    assert service.WAIT_S * 1000 <= line["processing_ms"] < 500


async def test_one_at_a_time(client, models, tmp_path):
    sent = time.time()
    await asyncio.gather(
        *(client.post("/predict", json=row(models, i, f"r{i}"), headers={"X-Request-Start": f"t={sent}"})
          for i in range(8))
    )  # fmt: skip
    lines = sorted(log(tmp_path), key=lambda x: x["ts"])
    gaps = [b["ts"] - a["ts"] for a, b in itertools.pairwise(lines)]
    assert min(gaps) >= service.WAIT_S * 0.9
    assert lines[-1]["latency_ms"] >= 8 * service.WAIT_S * 1000


async def test_who_is_too_late_gets_no_inference(client, models, tmp_path):
    old = time.time() - 2 * service.GIVE_UP_S
    answer = await client.post(
        "/predict", json=row(models), headers={"X-Request-Start": f"t={old}"}
    )
    assert answer.status_code == 503
    (line,) = log(tmp_path)
    assert (line["status"], line["pred"], line["proba"], line["processing_ms"]) == (
        503,
        None,
        None,
        None,
    )


@pytest.mark.parametrize("header", [None, "soon", "t=", "t=99999999999"])
async def test_a_senseless_start_counts_from_now(client, models, tmp_path, header):
    headers = {} if header is None else {"X-Request-Start": header}
    assert (await client.post("/predict", json=row(models), headers=headers)).status_code == 200
    assert log(tmp_path)[0]["latency_ms"] < 1000


async def test_follows_the_champion_pointer(client, models):
    folder = models[0] / "scoring"
    before = trainer.champion(folder)
    other = "2" if before == "1" else "1"
    trainer.promote(folder, other, by="test")
    try:
        for _ in range(100):
            answer = (await client.post("/predict", json=row(models))).json()
            if answer["version"] == other:
                break
            await asyncio.sleep(0.05)
        assert answer["version"] == other
        assert (await client.get("/health")).json() == {"status": "ok", "version": other}
    finally:
        trainer.promote(folder, before, by="test")


async def test_malformed_rows_are_refused(client):
    answer = await client.post("/predict", json={"id": "r", "features": {"worst_area": "big"}})
    assert answer.status_code == 422


async def test_the_log_is_followed_by_its_name(client, models, tmp_path):
    await client.post("/predict", json=row(models, 0, "old"))
    (tmp_path / "p.jsonl").rename(tmp_path / "p.old")
    (tmp_path / "p.jsonl").touch()
    for i in range(100):
        await client.post("/predict", json=row(models, 0, f"new{i}"))
        if log(tmp_path):
            break
        await asyncio.sleep(0.05)
    old = [json.loads(line)["id"] for line in (tmp_path / "p.old").read_text().splitlines()]
    new = [line["id"] for line in log(tmp_path)]
    assert old + new == ["old", *(f"new{n}" for n in range(i + 1))]
