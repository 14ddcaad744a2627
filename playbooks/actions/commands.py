"""Run a command that agent.yaml allows, or call an HTTP interface that it allows. Both once per step.

What a command or a call did can not be seen by us, so a person must say yes. It is undone where somebody has declared
how: `undo` of the command in agent.yaml, `inverse` of the call in the playbook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import Field, StringConstraints

from agent.errors import Refused
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Duration, Model
from playbooks.actions._step import change, nothing, target

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Ran(Protocol):
    """What came of a command."""

    @property
    def code(self) -> int:
        """Exit status; 0 = well."""
        ...

    @property
    def output(self) -> str:
        """Last lines of what it printed, secrets masked."""
        ...


@runtime_checkable
class Commands(Protocol):
    """Something that runs named commands, each once per key."""

    def shown(self, name: str, args: Mapping[str, str]) -> str:
        """Return what would be run, for people; raises Refused for a name or argument that is not allowed."""
        ...

    def limit_s(self, name: str) -> float:
        """Return how long it may take; raises Refused for a name that is not allowed."""
        ...

    async def execute(self, name: str, args: Mapping[str, str], key: str, target: str) -> Ran:
        """Run it, unless it was for this key; then return what came of it.

        Refused when it is not allowed, cannot be started, or ended with another status than 0; Uncertain when it was
        begun by a try that did not live to see its end, or took too long and was ended.
        """
        ...

    async def executed(self, key: str) -> Ran | None:
        """Return what came of the command of this key; None = it was never begun, or has not ended."""
        ...


@runtime_checkable
class Inverses(Protocol):
    """Commands of which some have a declared inverse."""

    def inverse(self, name: str, args: Mapping[str, str]) -> str:
        """Return what would be run to undo a command, for people; "" = nobody has declared it. Refused as `shown`."""
        ...

    async def revert(self, name: str, args: Mapping[str, str], key: str, target: str) -> Ran:
        """Run the inverse, as `execute` runs the command itself: once per key, with the same errors."""
        ...


@action("run_command")
class RunCommand:
    """Run a command that is allow-listed in agent.yaml: no shell, its own user, limits, output masked."""

    effect = "mutating"
    ability = Commands
    reversible = False
    shared = False
    gives = ("command", "code", "output")

    class Params(Model):
        """Which command, and with what."""

        command: Word
        """Its name in agent.yaml."""
        args: dict[str, Annotated[str, Field(max_length=500)]] = {}
        """For the places that the command leaves open; each must match the pattern given there."""

    def __init__(self, params: Params, ability: Commands) -> None:
        self._params = params
        self._commands = ability
        self.waits_s = ability.limit_s(params.command) + 15.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return whether this step's command has run; Refused when it is not allowed."""
        self._commands.shown(self._params.command, self._params.args)
        ran = await self._commands.executed(step.key)
        return {"command": self._params.command, "ran": ran is not None}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it has run."""
        del step
        return bool(seen["ran"])

    async def run(self, step: Step) -> Done:
        """Run it."""
        name, args = self._params.command, self._params.args
        said = self._commands.shown(name, args)
        back = self._inverse(name, args)
        if step.dry_run:
            how = f"undo would run {back}" if back else "nothing undoes it"
            return Done(f"would run {said}; {how}", {"command": name})
        about = target(step)
        ran = await self._commands.execute(name, args, step.key, about.id)
        last = ran.output.strip().rpartition("\n")[2]
        return Done(
            f"ran {said}" + (f": {last}" if last else ""),
            {"command": name, "code": ran.code, "output": ran.output},
            {"command": name, "args": args} if back else {},
            change(step, about, "act", "", f"ran {name}"),
        )

    def _inverse(self, name: str, args: Mapping[str, str]) -> str:
        return self._commands.inverse(name, args) if isinstance(self._commands, Inverses) else ""

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Run the inverse that agent.yaml declares, once; what others have done since it can not see."""
        if nothing(done):
            return Done("nothing to put back: no inverse of the command is declared")
        name, args = str(done["command"]), dict(done["args"])
        said = self._inverse(name, args)
        if not said or not isinstance(self._commands, Inverses):
            raise Refused(f"agent.yaml declares no inverse of {name} any more; put it back by hand")
        if step.dry_run:
            return Done(f"would run {said}")
        about = target(step)
        ran = await self._commands.revert(name, args, f"{step.key}/undo", about.id)
        last = ran.output.strip().rpartition("\n")[2]
        return Done(
            f"ran {said}" + (f": {last}" if last else ""),
            {"command": name, "code": ran.code, "output": ran.output},
            change=change(step, about, "act", f"ran {name}", f"ran the inverse of {name}"),
        )


Url = Annotated[str, Field(min_length=1, max_length=2000)]
HttpMethod = Literal["POST", "PUT", "PATCH", "DELETE", "GET"]


class Inverse(Model):
    """The call that undoes another."""

    url: Url
    method: HttpMethod = "POST"
    json_: Annotated[Any, Field(alias="json")] = None
    """Body, sent as JSON."""


class Called(Protocol):
    """What an HTTP interface answered."""

    @property
    def status(self) -> int:
        """HTTP status, 2xx."""
        ...

    @property
    def body(self) -> str:
        """Beginning of the answer, secrets masked."""
        ...


@runtime_checkable
class Calls(Protocol):
    """Something that calls HTTP interfaces on an allow-list."""

    def permitted(self, method: str, url: str) -> str:
        """Return method, host and path for people; raises Refused for what is not on the list."""
        ...

    async def call(self, method: str, url: str, body: Any, key: str, timeout_s: float) -> Called:
        """Call it, unless it was answered for this key; then return that answer.

        The key travels as `Idempotency-Key`. Raises Refused for an answer of 4xx, Unavailable for one that says that
        nothing happened (429, 503, or no connection), Uncertain for any other.
        """
        ...

    async def answered(self, key: str) -> Called | None:
        """Return the answer to the call of this key; None = there was none."""
        ...


@action("http_call")
class HttpCall:
    """Call an HTTP interface on a host that agent.yaml allows; headers with secrets stand there, not here."""

    effect = "mutating"
    ability = Calls
    reversible = False
    shared = True
    gives = ("call", "status", "body")

    class Params(Model):
        """What is called."""

        url: Url
        method: HttpMethod = "POST"
        json_: Annotated[Any, Field(alias="json")] = None
        """Body, sent as JSON."""
        timeout: Annotated[Duration, Field(gt=0, le=300)] = 10.0
        inverse: Inverse | None = None
        """The call that undoes this one; default: nothing does. agent.yaml must allow it, too."""

    def __init__(self, params: Params, ability: Calls) -> None:
        self._params = params
        self._calls = ability
        self.waits_s = params.timeout + 5.0

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return whether this step's call was answered; Refused when it is not allowed."""
        said, _ = self._permitted()
        return {"call": said, "answered": await self._calls.answered(step.key) is not None}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it was answered."""
        del step
        return bool(seen["answered"])

    async def run(self, step: Step) -> Done:
        """Call it."""
        p = self._params
        said, back = self._permitted()
        if step.dry_run:
            how = f"undo would call {back}" if back else "nothing undoes it"
            return Done(f"would call {said}; {how}", {"call": said})
        about = target(step)
        answer = await self._calls.call(p.method, p.url, p.json_, step.key, p.timeout)
        return Done(
            f"called {said}: {answer.status}",
            {"call": said, "status": answer.status, "body": answer.body},
            {"call": said} if back else {},
            change(step, about, "act", "", f"called {said}"),
        )

    def _permitted(self) -> tuple[str, str]:
        """Return the call and its inverse for people; raises Refused when one of them is not allowed."""
        p, back = self._params, self._params.inverse
        said = self._calls.permitted(p.method, p.url)
        return said, self._calls.permitted(back.method, back.url) if back is not None else ""

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Make the call that is declared as its inverse, once; what others have done since it can not see."""
        back = self._params.inverse
        if nothing(done) or back is None:
            return Done("nothing to put back: no inverse of the call is declared")
        said = self._calls.permitted(back.method, back.url)
        if step.dry_run:
            return Done(f"would call {said}")
        key = f"{step.key}/undo"
        answer = await self._calls.call(
            back.method, back.url, back.json_, key, self._params.timeout
        )
        return Done(
            f"called {said}: {answer.status}",
            {"call": said, "status": answer.status, "body": answer.body},
            change=change(step, target(step), "act", str(done["call"]), f"called {said}"),
        )
