"""The model service of the demo: FastAPI under gunicorn with uvicorn workers, one inference at a time a worker.

Each request runs the champion's `predict_proba` in this process (about 3 ms of one core) and then waits WAIT_S for
what a real scorer also waits for, a feature store and an accelerator (a sleep, the only part that is made up).
So one worker carries about 65 requests a second and the queue grows above that. The champion pointer is looked at
five times a second; a new champion is loaded in a thread and swapped in between two requests.

Every answer appends one line to the prediction log by one write to a file opened with O_APPEND, so that workers
never tear each other's lines. The log is followed by its name: when another file, or a pipe that somebody reads, takes
the name, the next lines go there. `latency_ms` counts from the client's X-Request-Start header: waiting in the accept
queue counts. A request that is older than GIVE_UP_S when its turn comes is answered 503: its client has gone.

Settings, by environment: DEMO_MODELS (model directory), DEMO_MODEL (name), DEMO_PREDICTIONS (log).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import joblib
import numpy as np
from fastapi import FastAPI, Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

WAIT_S: Final = 0.010
GIVE_UP_S: Final = 1.2
_APPEND: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT


class Row(BaseModel):
    """What a client sends: an id that a late label may refer to, and the features by name."""

    model_config = ConfigDict(extra="forbid")

    id: str
    features: dict[str, float]


class Version:
    """A loaded version: its model and the features it wants, in their order."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.model = joblib.load(folder / "model.joblib")
        about = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        self.features: list[str] = about["features"]

    def ask(self, features: dict[str, float]) -> tuple[str, float]:
        """Return (class, its probability); a missing feature is NaN, which these trees take."""
        row = np.array([[features.get(name, np.nan) for name in self.features]])
        votes = self.model.predict_proba(row)[0]
        best = int(votes.argmax())
        return str(self.model.classes_[best]), float(votes[best])


Answer = tuple[str, str | None, float | None]
"""(version, class, its probability); None where there was no answer."""


class Scorer:
    """What one worker holds: the champion, the turn, the log."""

    def __init__(self, models: Path, name: str, predictions: Path) -> None:
        self.name = name
        self._folder = models / name
        self._seen = -1
        self._version = Version(self._folder / self._pointer())
        self._turn = asyncio.Lock()
        self._predictions = predictions
        self._log = os.open(predictions, _APPEND, 0o644)
        self._parent = os.getppid()

    @property
    def version(self) -> str:
        """The version that answers."""
        return self._version.name

    def _pointer(self) -> str:
        pointer = self._folder / "champion.json"
        self._seen = pointer.stat().st_mtime_ns
        return str(json.loads(pointer.read_text(encoding="utf-8"))["version"])

    def _reopen(self) -> None:
        """Go over to what has the name of the log now; the old one stays until the new one is open."""
        with contextlib.suppress(OSError):  # no such name yet, or a pipe that nobody reads
            if self._predictions.stat().st_ino != os.fstat(self._log).st_ino:
                # not blocking: it must not wait for a reader
                new = os.open(self._predictions, _APPEND | os.O_NONBLOCK, 0o644)
                os.close(self._log)
                self._log = new

    async def follow(self) -> None:
        """Follow the champion pointer and the name of the log, and end with our master, for ever."""
        while True:
            await asyncio.sleep(0.2)
            self._reopen()
            if os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)
            if (self._folder / "champion.json").stat().st_mtime_ns != self._seen:
                wanted = self._pointer()
                self._version = await asyncio.to_thread(Version, self._folder / wanted)

    async def score(self, row: Row, sent: float) -> tuple[int, dict[str, Any]]:
        """Answer one row when its turn has come; returns (status, body)."""
        async with self._turn:
            began = time.time()
            if began - sent > GIVE_UP_S:
                self._write(
                    row, sent=sent, began=began, status=503, answer=(self.version, None, None)
                )
                return 503, {"id": row.id, "error": "too late: the client has given up"}
            version = self._version
            label, share = version.ask(row.features)
            await asyncio.sleep(WAIT_S)
        self._write(row, sent=sent, began=began, status=200, answer=(version.name, label, share))
        return 200, {"id": row.id, "label": label, "probability": share, "version": version.name}

    def _write(self, row: Row, *, sent: float, began: float, status: int, answer: Answer) -> None:
        now = time.time()
        version, label, share = answer
        line = {
            "id": row.id,
            "ts": round(now, 4),
            "model": self.name,
            "version": version,
            "features": row.features,
            "pred": label,
            "proba": None if share is None else round(share, 4),
            "latency_ms": round((now - sent) * 1000, 2),
            "processing_ms": round((now - began) * 1000, 2) if label is not None else None,
            "status": status,
        }
        os.write(self._log, json.dumps(line, separators=(",", ":")).encode() + b"\n")


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    scorer = Scorer(
        Path(os.environ["DEMO_MODELS"]),
        os.environ["DEMO_MODEL"],
        Path(os.environ["DEMO_PREDICTIONS"]),
    )
    app.state.scorer = scorer
    follow = asyncio.create_task(scorer.follow())
    yield
    follow.cancel()


app = FastAPI(title="scoring", lifespan=_life, openapi_url=None)


def _sent(header: str | None) -> float:
    """Read `t=<unix seconds>`, as reverse proxies write it; now when it is absent or makes no sense."""
    now = time.time()
    try:
        sent = float((header or "").removeprefix("t="))
    except ValueError:
        return now
    return sent if 0 <= now - sent < 3600 else now


@app.post("/predict")
async def predict(
    row: Row, x_request_start: Annotated[str | None, Header()] = None
) -> JSONResponse:
    """Classify one row."""
    scorer: Scorer = app.state.scorer
    status, body = await scorer.score(row, _sent(x_request_start))
    return JSONResponse(body, status)


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that this worker is alive and which version answers."""
    return {"status": "ok", "version": app.state.scorer.version}
