"""What the steps of a plan would do now, asked of the connectors that would do it: for `playbook plan --dry-run`.

    plan --each step--> its verb, on the connector of agent.yaml --observe, run(dry_run=True)--> Would

Nothing is changed, nothing is recorded. Each step is asked about the world as it is, not as the steps before it would
leave it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from agent.abilities import able, acting
from agent.config import Config
from agent.daemon import make_connector, wanted_connectors
from agent.errors import Refused, Unavailable
from agent.hands import Past, RealHands
from agent.memory import Memory
from agent.plans import Plan, Would
from agent.scene import Scene
from agent.trying import close
from agent.world import World

if TYPE_CHECKING:
    from agent.model import Incident


async def ask(plan: Plan, config: Config) -> list[Would]:
    """Ask every step of a plan what it would do, in order; builds the connectors that act, and no other."""
    with tempfile.TemporaryDirectory(prefix="homeostat-dry-") as folder:
        connectors = _Acting(config, Path(folder))
        hands = RealHands(connectors.resolve, _unrecorded, Memory(), _NoDaemon(config))
        try:
            return [await hands.would(plan, step) for step in (*plan.steps, *plan.then)]
        finally:
            for one in connectors.built.values():
                await close(one)


def _unrecorded(kind: str, subject: str, body: dict[str, Any], ts: float) -> NoReturn:
    del subject, body, ts
    raise Refused(f"a dry run records nothing, and was asked to record a {kind}")


class _Acting:
    """The connectors that act for the steps, each built when it is first needed."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._wanted = wanted_connectors(config)
        self.built: dict[str, Any] = {}

    def resolve(self, via: str | None, ability: type[Any] | None, target: str = "") -> Any:
        """Return the connector that would act; raises Refused when nobody can, or it can not be built."""
        if ability is None:
            return None
        name = acting(able(self._config, ability), via, ability.__name__, target).name
        if name not in self.built:
            self.built[name] = make_connector(name, self._wanted[name], self._folder)
        return self.built[name]


class _NoDaemon:
    """What a run sees of the world where no daemon measures: the facts of its plan."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def history(self) -> Past:
        """There is none."""
        raise Unavailable("nothing is measured without a daemon")

    def incident(self, id_: str) -> Incident | None:
        """There is none."""
        del id_
        return None

    async def tick(self) -> float:
        """There is no next one."""
        raise Unavailable("nothing is measured without a daemon")

    def scene(
        self, plan: Plan, since: float | None, steps: Mapping[str, Mapping[str, Any]]
    ) -> Scene:
        """Return what is known of the target by its name and its diagnosis."""
        return Scene(World(), plan.entity, facts=plan.facts, since=since, steps=steps)
