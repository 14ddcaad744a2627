"""Questions that a run asks a person in the middle of its way: a text, a small form, and who may answer.

question (journal) -> people are told -> homeostat answer ID name=value -> reply (journal) -> the run goes on
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from agent.authority import Role
from agent.codec import pack
from agent.errors import Refused
from agent.ports import Note

if TYPE_CHECKING:
    from agent.memory import Memory

Kind = Literal["yes_no", "number", "text", "choice"]


@dataclass(frozen=True, slots=True)
class Field:
    """One line of a form.

    choices     of a choice
    low, high   of a number; None = no bound
    default     what stands when nothing is said; None = it must be said
    """

    name: str
    kind: Kind
    text: str = ""
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    default: bool | float | str | None = None

    def read(self, said: Any) -> bool | float | str:
        """Return the value that somebody has typed; raises Refused when it is none."""
        if said is None:
            if self.default is None:
                raise Refused(f"{self.name} must be answered: {self.text or self.kind}")
            return self.default
        text = str(said).strip()
        if self.kind == "yes_no":
            word = text.lower()
            if word in {"yes", "y", "true", "no", "n", "false"}:
                return word in {"yes", "y", "true"}
            raise Refused(f"{self.name} is yes or no, not {text!r}")
        if self.kind == "choice" and text not in self.choices:
            raise Refused(f"{self.name} is one of {', '.join(self.choices)}, not {text!r}")
        if self.kind != "number":
            return text[:2000]
        try:
            number = float(text)
        except ValueError:
            raise Refused(f"{self.name} is a number, not {text!r}") from None
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if not low <= number <= high:
            raise Refused(f"{self.name} is from {low:g} to {high:g}, not {text}")
        return number


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    until   unix seconds; later answers are too late
    role    who may answer, at least
    run     that asks; "" = one of before this was kept
    """

    id: str
    target: str
    text: str
    fields: tuple[Field, ...]
    role: Role
    asked: float
    until: float
    run: str = ""

    def read(self, answers: Mapping[str, Any]) -> dict[str, bool | float | str]:
        """Return the values of an answer; raises Refused for one that does not fit."""
        names = [f.name for f in self.fields]
        unknown = [name for name in answers if name not in names]
        if unknown:
            raise Refused(
                f"nothing was asked about {unknown[0]}; write {', '.join(names) or 'nothing'}"
            )
        return {f.name: f.read(answers.get(f.name)) for f in self.fields}

    def unfit(self, answers: Mapping[str, Any]) -> dict[str, str]:
        """Say of each line of an answer that does not fit what is wrong with it; none = all fit."""
        wrong = {}
        for f in self.fields:
            try:
                f.read(answers.get(f.name))
            except Refused as no:
                wrong[f.name] = str(no)
        return wrong


@dataclass(frozen=True, slots=True)
class Reply:
    """What a person answered."""

    person: str
    values: Mapping[str, Any]


def id_of(key: str) -> str:
    """Return the id of the question that the step of this key asks."""
    return f"ask-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


@runtime_checkable
class Asker(Protocol):
    """Something that can ask people and knows what they answered."""

    async def ask(self, key: str, question: Question) -> None:
        """Ask, once a key; raises Unavailable when nobody could be told."""
        ...

    async def reply(self, key: str) -> Reply | None:
        """Return what was answered; None = nothing yet."""
        ...

    async def over(self, key: str) -> bool:
        """Tell whether it is too late to answer."""
        ...


@dataclass(frozen=True, slots=True)
class OwnQuestions:
    """`Asker` over the journal and every way to people.

    run, incident   who asks, and what for; "" = not known
    """

    memory: Memory
    put: Callable[[str, str, dict[str, Any]], Any]
    tell: Callable[[Note], None]
    clock: Callable[[], float]
    run: str = ""
    incident: str = ""

    async def ask(self, key: str, question: Question) -> None:
        """Record the question, once a key, and tell people of it."""
        if question.id not in self.memory.questions:
            self.put("question", question.id, pack(replace(question, run=self.run)))
        how = " ".join(
            f"{f.name}={f.kind if f.default is None else f.default}" for f in question.fields
        )
        text = f"{question.text}\nAnswer: homeostat answer {question.id} {how}"
        title = question.text.partition("\n")[0][:200]
        facts = {"question": question.id}
        self.tell(
            Note(f"{key}:ask", question.asked, "warning", title, text, self.incident, facts=facts)
        )

    async def reply(self, key: str) -> Reply | None:
        """Return what was answered."""
        return self.memory.replies.get(id_of(key))

    async def over(self, key: str) -> bool:
        """Tell whether it is too late to answer."""
        question = self.memory.questions.get(id_of(key))
        return question is not None and self.clock() >= question.until
