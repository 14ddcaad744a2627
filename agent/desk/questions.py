"""Questions that runs ask people, and the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent import views
from agent.authority import Forbidden, Person
from agent.codec import pack
from agent.desk.finding import Finding
from agent.errors import Refused
from agent.meant import pick
from agent.model import ENDED
from agent.questions import Question, Reply
from agent.views import QuestionView


class Questions(Finding):
    """Questions of runs, each answered once."""

    def questions(self) -> list[QuestionView]:
        """Return the questions that wait for an answer, the most urgent on top."""
        return [views.question_view(q) for q in self._open_questions()]

    def question(self, person: Person, id_: str) -> QuestionView:
        """Return a question that waits, for somebody who may answer it. Raises NotThere, Forbidden, Refused."""
        return views.question_view(self._question(person, id_))

    def unfit(self, person: Person, id_: str, values: Mapping[str, Any]) -> dict[str, str]:
        """Say of each line of an answer what does not fit, without answering. Raises as `question`."""
        return self._question(person, id_).unfit(values)

    def answer(self, person: Person, id_: str, values: Mapping[str, Any]) -> QuestionView:
        """Answer a question of a run, once. Raises NotThere, Forbidden, Refused."""
        question = self._question(person, id_)
        reply = Reply(person.signed, question.read(values))
        self._record("reply", question.id, pack(reply))
        return views.question_view(question)

    def _open_questions(self) -> list[Question]:
        now, memory = self.hooks.now(), self.hooks.memory
        open_ = [
            q
            for q in memory.questions.values()
            if q.id not in memory.replies and now < q.until and not self._over(q)
        ]
        return sorted(open_, key=lambda q: q.until)

    def _over(self, q: Question) -> bool:
        """Tell whether the run that asks has ended: nobody waits for the answer."""
        run = self.hooks.memory.runs.get(q.run)
        return run is not None and run.state in ENDED

    def _question(self, person: Person, id_: str) -> Question:
        person.must("approve")
        memory = self.hooks.memory
        question = memory.questions[pick(id_, memory.questions, "question")]
        if not person.has(question.role):
            raise Forbidden(f"this asks for the role {question.role}; yours is {person.role}")
        if (before := memory.replies.get(question.id)) is not None:
            raise Refused(f"{before.person} has answered {question.id} already")
        if self.hooks.now() >= question.until:
            raise Refused(f"it is too late to answer {question.id}: the run has gone on without")
        if self._over(question):
            raise Refused(f"the run that asked {question.id} is over: nobody waits for an answer")
        return question

    def _asked_for(self, q: Question) -> str:
        """Return the incident that a question is asked for; "" = none, or not known any more."""
        run = self.hooks.memory.runs.get(q.run)
        return run.incident if run is not None else ""
