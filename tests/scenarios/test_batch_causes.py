"""Batch-scoring runs, really written and read: what each trouble of theirs is called; a good one opens nothing."""

from __future__ import annotations

import asyncio
import json
import os
import time

import pytest
from made_up import MODEL, ONSET, SHOP, Picture, Stage

from agent.model import Frame
from connectors.batch_scoring import BatchScoring

pytestmark = pytest.mark.long

DAY = 86_400.0
QUIET = {"services": [{"id": "shop", "models": ["fraud"]}], "diagnose": {"window": "60s", "settle": "10s"}}  # fmt: skip


def run(folder, age_days, rows=300, said="prediction"):
    """Write one run, as old as that."""
    path = folder / "runs" / f"{age_days:.2f}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"customer_id": f"c{i}", "age": 20 + i % 50, "probability": (i % 97) / 97, said: i % 2})
        for i in range(rows)
    ]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    os.utime(path, (time.time() - age_days * DAY,) * 2)


def seen(folder, monkeypatch):
    """What the connector makes of the folder."""
    monkeypatch.setattr("connectors.batch_scoring._PATIENCE_S", 30.0)
    monkeypatch.setattr("connectors.batch_scoring._LOOK_EVERY_S", -1.0)
    config = BatchScoring.Config(path=folder / "runs" / "*", model="fraud", backlog=20)
    one = BatchScoring("nightly", config, state=folder / "state")

    async def look():
        quiet = 0
        while quiet < 2:
            quiet = 0 if await one.read() or one._waiting else quiet + 1
        return await one.poll()

    try:
        return asyncio.run(look())
    finally:
        one._aside.close()


CASES = {
    "it did not come": (lambda f: run(f, 2.7), "data.stale"),
    "it is short": (lambda f: (run(f, 0.9), run(f, 0.01, rows=40)), "data.contract"),
    "it has other columns": (lambda f: (run(f, 0.9), run(f, 0.01, said="answer")), "data.contract"),
    "it is as ever": (lambda f: run(f, 0.7), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_called_what_it_is(case, tmp_path, monkeypatch):
    newest, kind = CASES[case]
    for name in ("well", "now"):
        for age in range(3, 10):
            run(tmp_path / name, age + 0.7)
    run(tmp_path / "well", 2.7)
    run(tmp_path / "well", 1.7)
    run(tmp_path / "well", 0.7)
    if case != "it did not come":
        run(tmp_path / "now", 2.7)
        run(tmp_path / "now", 1.7)
    newest(tmp_path / "now")
    well, now = (seen(tmp_path / name, monkeypatch) for name in ("well", "now"))
    assert well.series == now.series

    def frames(ts):
        return [Frame("nightly", ts, well.series, (well if ts < ONSET else now).values)]

    stage = Stage(Picture("", SHOP, {}), tmp_path / "history", 5, frames, QUIET)
    # the connector says it now
    stage._tables = {
        name: tuple(s for s in table if not s.metric.startswith("model.run_"))
        for name, table in stage._tables.items()
    }
    stage.go(ONSET + 40)
    stage.close()
    told = [i for i in stage.incidents if i.severity != "note"]
    if not kind:
        assert told == []
        return
    (one,) = told
    assert one.severity == "page"
    top = stage.incident.diagnosis.top
    assert (top.kind, top.entity, top.facts["run"]) == (kind, MODEL, "nightly")
    assert top.probability > 0.9
