"""A process that records, counts rows and archives them, to be killed: FOLDER URL LIFE; life -1 = only what is left.

After rows lie in the spool their ids are noted in FOLDER/promised: they must come, whatever happens from then on.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.archives import Archives
from agent.codec import pack
from agent.journal import Journal
from agent.model import Change, Entity, Incident, Turn
from agent.ports import PredictionBatch
from connectors.elastic_out import ElasticOut

SHOP = Entity("service", "shop")


def rows(ids):
    n = len(ids)
    return PredictionBatch(
        "fraud", "3", np.full(n, time.time()), tuple(ids), {}, np.array(["1"] * n, dtype=object),
        np.full(n, 0.5), np.full(n, 0.01), np.full(n, np.nan), np.full(n, 200),
    )  # fmt: skip


class Noted(ElasticOut):
    """Notes which rows are on disk."""

    promised = -1

    def _spool(self, lines, batches):
        super()._spool(lines, batches)
        ids = "".join(f"{i}\n" for batch in batches for i in batch.ids)
        if self._unspooled[1]:
            raise AssertionError("the disk did not take them")
        os.write(self.promised, ids.encode())


async def main(folder, url, life):
    config = ElasticOut.Config(url=url, rows=["*"], timeout=5)
    journal = Journal(folder / "journal.sqlite")
    out = Noted("out", config, state=folder)
    out.promised = os.open(folder / "promised", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    archives = Archives(journal, lambda: {"out": out}, lambda *_: None, sleep)
    archives.start()
    print("began", flush=True)  # noqa: T201  # the parent waits for it
    i = 0
    while life >= 0:
        name = f"{life}-{i}"
        change = Change(time.time(), SHOP, "release", "", name)
        archives.wrote(journal.append("change", "c", pack(change), time.time()))
        turns = (Turn(1.0, "opened", "open", "homeostat", ""),)
        state = Incident("i1", 1.0, time.time(), "open", "page", name, turns=turns)
        archives.wrote(journal.append("incident", "i1", pack(state), time.time()))
        archives.count(rows([f"{name}-{j}" for j in range(20)]))
        i += 1
        await asyncio.sleep(0.005)
    while out.position < journal.head[0] or out._rows.lines:  # noqa: ASYNC110  # nobody tells when
        await asyncio.sleep(0.05)
    await archives.close()
    out.close()
    journal.close()
    json.dump({"position": out.position}, sys.stdout)


async def sleep(seconds):
    """Wait a hundredth of what is asked: a life is short."""
    await asyncio.sleep(seconds / 100)


asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
