"""Ask a person in the middle of a run: a question with a small form, whose answers later steps read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from agent.authority import Approver
from agent.errors import Refused
from agent.ports import Done, Step
from agent.questions import Asker, Question, id_of
from agent.questions import Field as Line
from agent.registry import action
from agent.units import Duration, Model
from playbooks.actions._step import target

_LOOK_S: Final = 0.5

FieldName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class FormField(Model):
    """One line of the form."""

    kind: Literal["yes_no", "number", "text", "choice"] = "yes_no"
    text: Annotated[str, Field(max_length=300)] = ""
    """What is asked."""
    choices: list[str] = []
    """Of a choice."""
    min: float | None = None
    max: float | None = None
    default: bool | float | str | None = None
    """What stands when nothing is said; without one it must be answered."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.kind == "choice") != bool(self.choices):
            raise ValueError("`choices` and `kind: choice` belong together")
        return self


@action("ask")
class Ask:
    """Ask a person and wait for the answer: `${steps.ask.go}`. No answer in time, or `go: no`, ends the run here."""

    effect = "marking"
    ability = Asker
    reversible = False
    shared = False

    class Params(Model):
        """What is asked, of whom, for how long."""

        text: Annotated[str, Field(min_length=1, max_length=2000)]
        form: dict[FieldName, FormField] = {}
        """Default: one line `go`, yes or no. A line `go` of yes or no decides whether the run goes on."""
        by: Approver = "operator"
        """Who may answer, at least."""
        wait: Annotated[Duration, Field(gt=0, le=86_400)] = 900.0
        """For an answer."""

    def __init__(self, params: Params, ability: Asker) -> None:
        self._params = params
        self._asker = ability
        self.waits_s = params.wait + 10.0
        form = params.form or {"go": FormField(text="go on?")}
        # what decides stands last; beyond that a plan that was written down keeps its lines by name
        self._lines = tuple(
            Line(n, f.kind, f.text, tuple(f.choices), f.min, f.max, f.default)
            for n, f in sorted(form.items(), key=lambda line: line[0] == "go")
        )

    @staticmethod
    def gives(written: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the lines of the form, and who answered."""
        form = written.get("form")
        return *(form if isinstance(form, Mapping) and form else ("go",)), "by"

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return whether there is an answer."""
        return {"answered": await self._asker.reply(step.key) is not None}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether there is an answer."""
        del step
        return bool(seen["answered"])

    async def run(self, step: Step) -> Done:
        """Ask, once a step, and wait."""
        p = self._params
        if step.dry_run:
            return Done(f"would ask: {p.text}")
        reply = await self._asker.reply(step.key)
        if reply is None:
            now = time.time()
            about = target(step).id
            question = Question(
                id_of(step.key), about, p.text, self._lines, p.by, now, now + p.wait
            )
            await self._asker.ask(step.key, question)
        while (reply := await self._asker.reply(step.key)) is None:
            if await self._asker.over(step.key):
                raise Refused(f"nobody has answered in time: {p.text}")
            await asyncio.sleep(_LOOK_S)
        said = ", ".join(f"{k} {v}" for k, v in reply.values.items())
        if reply.values.get("go") is False:
            raise Refused(f"{reply.person} says no: {p.text}")
        return Done(f"{reply.person} answers: {said}", {**reply.values, "by": reply.person})
