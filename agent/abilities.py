"""Which connector acts for a step: the one that `via:` names, the only one that has the ability, or the target's own.

    agent.yaml --able--> Able, Able, ... --acting(via, ability, target)--> the one, or Refused

Asked before an act (may it be suggested? how far may it go?) and again when it acts, so that both say the same. One
that could not be built (an extra is missing, a secret can not be read) is chosen like any other, and says why it can
not act: another one shall not act in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent import registry
from agent.config import DEFAULT_CONNECTORS, ConnectorConfig
from agent.errors import Refused
from agent.model import entity
from agent.ports import Notifier, Silencer
from agent.questions import Asker
from agent.record import owner_of

if TYPE_CHECKING:
    from agent.config import Config


OURS: Final = frozenset(port.__name__ for port in (Notifier, Silencer, Asker))
"""What the journal does where a step names no connector: write down what people must know, silences, questions."""


@dataclass(frozen=True, slots=True)
class Able:
    """A connector that has an ability.

    of        the service and the model that it is for; () = any
    stand_in  its class says that it has never met the real system it speaks to
    """

    name: str
    of: tuple[str, ...] = ()
    stand_in: bool = False


def acting(
    able: Iterable[Able],
    via: str | None,
    ability: str,
    target: str,
    unbuilt: Mapping[str, str] | None = None,
) -> Able:
    """Return who of those that have an ability acts on a target (an entity id); raises Refused when that is not one.

    unbuilt   connector -> why it could not be built
    """
    found = [one for one in able if via in {None, one.name}]
    if len(found) > 1:
        about = entity(target)
        whom = {about.key, owner_of(about).key}
        found = [one for one in found if whom & set(one.of)] or found
    if len(found) == 1:
        why = (unbuilt or {}).get(found[0].name)
        if why is not None:
            raise Refused(f"connector {found[0].name} could not be built: {why}")
        return found[0]
    if not found and via is not None:
        raise Refused(f"{via} can not do this: it has not the ability {ability}")
    how = "say which with via:" if found else "add one under connectors: in agent.yaml"
    raise Refused(f"{len(found)} connectors have the ability {ability}: {how}")


def able(config: Config, ability: type[Any]) -> Iterator[Able]:
    """Yield the connectors of a config that have an ability, as their classes tell; those must be registered."""
    wanted = dict.fromkeys(DEFAULT_CONNECTORS, ConnectorConfig()) | dict(config.connectors)
    if config.page.command:
        wanted.setdefault("page", ConnectorConfig())
    for name, one in sorted(wanted.items()):
        kind = one.use or name
        if not one.enabled or kind not in registry.connector:
            continue
        cls = registry.connector.get(kind)
        if all(hasattr(cls, method) for method in methods(ability)):
            yield Able(name, meant_for(one.own), bool(getattr(cls, "stand_in", False)))


def meant_for(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the service and the model that a connector's own config names."""
    return tuple(str(config[key]) for key in ("service", "model") if config.get(key))


def methods(port: type[Any]) -> list[str]:
    """Return the methods that a contract asks for."""
    return [m for m in vars(port) if not m.startswith("_") and callable(getattr(port, m))]
