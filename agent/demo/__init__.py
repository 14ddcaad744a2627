"""`homeostat demo`: break a real model service five times and watch the agent heal it.

    load ──HTTP──> service (gunicorn, uvicorn workers, scikit-learn) ──> predictions.jsonl ──┐
      │                  ^ champion pointer, versions                                        ├──> agent
      └── labels, late ──┼───────────────────────────────────────────> labels.jsonl ─────────┘      │
    faults ── real damage┘        trainer <── retrain ── acts: pointer, workers, priorities <───────┘

stage.py     sets the stage, runs the faults one after another, ends with the score card
play.py      looks on, tells people what happens, keeps the score; belief.py what is done to the agent itself
service.py   the model service; load.py its clients; neighbour.py somebody else's job; trainer.py the pipeline
front.py     small front ends beside it
rows.py      the data set; faults.py the damage; card.py the score; leash.py no process outlives the demo

What is real: the data set (Wisconsin breast cancer, 569 patients, shipped with scikit-learn), the models and
their training, every request over HTTP, the waiting, the CPU that is burnt, the files, the signals, the agent
(the same `homeostat run`, told only what its `agent.yaml` says; it never hears from the injector).
What is made up: who asks and when (Poisson arrivals with the swing of a day), the wait for a feature store and
an accelerator inside each request (a sleep of some milliseconds), the new rule that labels follow after the
concept drift, and time: a day lasts about 22 s, labels come after 2 to 4 s, and the agent's windows, settle
times and cool-downs are shortened alike; the score card prints each of them beside its default.
What to keep in mind: recorded rows come round every few seconds, so after retraining most rows that are served
are rows the new version was trained on; whether it may be promoted is therefore judged on held-back rows only.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from agent.errors import Refused
from agent.imports import lacking

NEEDED: Final = ("fastapi", "gunicorn", "sklearn", "uvicorn_worker")
"""Libraries of the extra; the modules of this package take them, or what comes with them, at their top."""


def must_be_installed() -> None:
    """Raise Refused where the demo's libraries are not installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise Refused(lacking(f"the demo needs {', '.join(missing)}", "demo"))
