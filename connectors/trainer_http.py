"""Trains by a pipeline behind HTTP: a POST starts it, a GET says how it is.

    trainer_http:
      model: scoring
      start: https://pipelines.example.org/runs
      body: {pipeline: retrain-scoring, args: {days: 7, key: '{key}'}}
      run: /id                                             # in the answer: what it calls the run
      status: https://pipelines.example.org/runs/{run}
      state: /state
      report: /result                                      # in the status, when it has succeeded
      find: https://pipelines.example.org/runs?key={key}   # what runs for a key; `found` points at its name
      found: /runs/0/id
      cancel: https://pipelines.example.org/runs/{run}
      headers: {authorization: env:PIPELINE_TOKEN}

`run`, `found`, `state`, `report` and `words` are JSON pointers (RFC 6901). The key of the step travels as
`Idempotency-Key`, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, Field, model_validator

from agent.errors import Refused, Uncertain
from agent.registry import connector
from agent.secret import Headers
from connectors._elsewhere import Elsewhere, ElsewhereConfig, Look, filled, read
from connectors._values import pointed
from connectors.http import checked_url, redacted

Pointer = Annotated[str, Field(pattern=r"^(/.*)?$")]
Url = Annotated[str, AfterValidator(checked_url)]
MaybeUrl = Annotated[str, AfterValidator(lambda url: checked_url(url) if url else url)]


@connector("trainer_http")
class TrainerHttp(Elsewhere):
    """A training pipeline behind an HTTP interface.

    Ability  Trainer (see playbooks/actions/retrain.py)
    Without `find`, a start whose answer was lost is told as uncertain and not repeated, unless `idempotent` says that
    the other side does nothing twice for one `Idempotency-Key`.
    """

    tested = "a server of the tests"

    class Config(ElsewhereConfig):
        """How it is started, and how it is looked at."""

        start: Url
        body: dict[str, Any] = {}
        """`{key}`, `{model}`, `{mlflow_run}` and `{mlflow_uri}` are filled in."""
        run: Pointer = "/id"
        status: Url
        """`{run}` stands for what the answer to the start said."""
        state: Pointer = "/status"
        succeeded: Annotated[list[str], Field(min_length=1)] = ["succeeded", "success", "done"]
        failed: Annotated[list[str], Field(min_length=1)] = ["failed", "error", "cancelled"]
        """Any other state runs still; case does not matter."""
        words: Pointer = "/error"
        """Why it has failed."""
        report: Pointer = "/report"
        """Not asked for where `mlflow` is."""
        find: MaybeUrl = ""
        """What runs for `{key}`; 404, or nothing at `found`: nothing does."""
        found: Pointer = "/id"
        cancel: MaybeUrl = ""
        """How a run is ended that takes too long; empty = it can not be."""
        cancel_method: Literal["DELETE", "POST", "PUT"] = "DELETE"
        idempotent: bool = False
        headers: Headers = {}
        """`env:NAME` and `file:PATH` stand for secrets."""

        @model_validator(mode="after")
        def _placed(self) -> Self:
            for name, place in (("status", "{run}"), ("cancel", "{run}"), ("find", "{key}")):
                if (url := getattr(self, name)) and place not in url:
                    raise ValueError(f"`{name}` must say {place}: whose it is")
            return self

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        super().__init__(name, config, state)
        self.config = config
        self.findable = bool(config.find) or config.idempotent

    async def _start(self, key: str, variables: Mapping[str, str]) -> str:
        sent = json.dumps(filled(self.config.body, variables)).encode()
        headers = {
            **self.config.headers, "content-type": "application/json", "idempotency-key": key,
        }  # fmt: skip
        answer = await self._ask("POST", self.config.start, headers=headers, body=sent)
        run = pointed(read(answer), self.config.run)
        if not isinstance(run, str | int) or isinstance(run, bool) or run == "":
            # it has taken the order, so nothing is forgotten: a person sees what runs there
            said = f"POST {redacted(self.config.start)}"
            raise Uncertain(f"{said}: no name of a run at {self.config.run}; mend `run`")
        return str(run)

    async def _again(self, key: str) -> str | None:
        if not self.config.find:
            return None
        url = self.config.find.replace("{key}", quote(key, safe=""))
        answer = await self._ask("GET", url, headers=self.config.headers, fine=frozenset({404}))
        run = pointed(read(answer), self.config.found) if answer.ok else None
        return None if run in {None, ""} else str(run)

    async def _look(self, run: str) -> Look:
        said = await self._status(run)
        if said is None:
            return Look("failed", "it is not there any more")
        state = str(pointed(said, self.config.state) or "").lower()
        if state in (s.lower() for s in self.config.succeeded):
            return Look("succeeded")
        if state in (s.lower() for s in self.config.failed):
            return Look("failed", str(pointed(said, self.config.words) or state)[:200])
        return Look("runs")

    async def _status(self, run: str) -> Any:
        url = self.config.status.replace("{run}", quote(run, safe=""))
        answer = await self._ask(
            "GET", url, headers=self.config.headers, fine=frozenset({404, 410})
        )
        return read(answer) if answer.ok else None

    async def _report(self, run: str) -> Any:
        return pointed(await self._status(run), self.config.report)

    async def _end(self, run: str) -> None:
        if not self.config.cancel:
            raise Refused(f"{self.name} has no `cancel`")
        url = self.config.cancel.replace("{run}", quote(run, safe=""))
        method = self.config.cancel_method
        await self._ask(method, url, headers=self.config.headers, fine=frozenset({404, 409, 410}))

    def _used(self) -> Mapping[str, Any]:
        return {"code": redacted(self.config.start), "params": self.config.body}

    async def _seen(self) -> str:
        how = (
            "found again by its key" if self.findable else "NOT found again when its answer is lost"
        )
        return f"POST {redacted(self.config.start)}; a run is {how}" + (
            "" if self.config.cancel else "; one that takes too long can NOT be ended"
        )
