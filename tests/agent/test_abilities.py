"""Who acts is known before it acts: by `via:`, as the only one, or as the target's own; only that one caps."""

from types import SimpleNamespace
from typing import Protocol, runtime_checkable

import pytest

from agent import guard, registry
from agent.abilities import Able, acting
from agent.config import Config
from agent.daemon import Connectors
from agent.errors import Refused
from agent.memory import Memory
from agent.model import Cause, Diagnosis, Entity, Incident
from agent.playbook import Library
from agent.ports import Notifier
from agent.trying import unbuilt
from agent.units import Model
from agent.world import World

WEB, SHOP = Entity("service", "web"), Entity("service", "shop")


@runtime_checkable
class Scaler(Protocol):
    async def replicas(self, target: str) -> int: ...


class Real:
    class Config(Model):
        service: str = ""

    def __init__(self, name, config):
        self.name, self.config = name, config

    async def replicas(self, target):
        return 1


class Puppet(Real):
    stand_in = True


class Mail(Real):
    replicas = None
    stand_in = True

    async def notify(self, note): ...


@pytest.fixture(autouse=True)
def shelf(monkeypatch):
    actions, connectors = registry.Registry("action"), registry.Registry("connector")
    for name, effect, ability in (("scale", "mutating", Scaler), ("tell", "marking", Notifier)):
        body = {"effect": effect, "ability": ability, "reversible": True, "shared": False}
        actions(name)(type(name, (), body))
    connectors("real")(Real)
    connectors("puppet")(Puppet)
    connectors("mail")(type("Mail", (), {"notify": lambda self, note: None, "stand_in": True}))
    monkeypatch.setattr(registry, "action", actions)
    monkeypatch.setattr(registry, "connector", connectors)


def book(tmp_path, connectors, step="{use: scale, undo: none}", then=""):
    config = Config.model_validate(
        {"mode": "auto", "manages": [{"kind": "service"}], "connectors": connectors}
    )
    (tmp_path / "b.yaml").write_text(
        "version: 1\nid: b\ntitle: B\nmode: auto\ntarget: {kind: service}\n"
        "because: {cause: serving.saturation}\nguard: {}\nverify: {within: 1m, expect: ['service.up > 0.5']}\n"
        f"do: [{step}]\nthen: [{then}]\n"
    )
    return Library.load([tmp_path], config, built_in=False).playbooks["b"], config


TWO = {"a": {"use": "real", "service": "web"}, "p": {"use": "puppet", "service": "shop"}}


def test_only_the_stand_in_that_would_act_caps(tmp_path):
    found, config = book(tmp_path, TWO)
    assert (found.ceiling(config, WEB), found.ceiling(config, SHOP)) == ("auto", "approve")
    assert found.cap() == "approve"  # on some target
    found, config = book(tmp_path, TWO, "{use: scale, via: a, undo: none}")
    assert (found.ceiling(config, WEB), found.ceiling(config, SHOP), found.cap()) == (
        "auto",
        "auto",
        "auto",
    )
    found, config = book(tmp_path, TWO, "{use: scale, via: p, undo: none}")
    assert (found.ceiling(config, WEB), found.cap()) == ("approve", "approve")


def test_where_nobody_is_meant_the_guard_says_so_and_as_a_run_would(tmp_path):
    found, config = book(tmp_path, TWO)
    other = Entity("service", "third")
    assert (found.unable(WEB), found.unable(SHOP)) == ("", "")
    assert found.unable(other) == "2 connectors have the ability Scaler: say which with via:"
    incident = Incident(
        "i", 1.0, 1.0, "open", "page", "t", entities=(other,),
        diagnosis=Diagnosis(1.0, (Cause("serving.saturation", other, 0.9),)),
    )  # fmt: skip
    decision = guard.decide(
        found, other, incident, memory=Memory(), world=World(), config=config, now=1.0
    )
    (gate,) = [g for g in decision.gates if g.name == "ability"]
    assert (gate.passed, gate.value, gate.reason) == (False, "not known who", found.unable(other))


@pytest.mark.parametrize("via", [None, "a", "p", "m"])
@pytest.mark.parametrize("target", ["service:web", "service:shop", "service:third"])
@pytest.mark.parametrize("connectors", [
    TWO, {"a": TWO["a"]}, {"p": TWO["p"], "m": {"use": "mail"}}, {"a": {"use": "real"}, "p": {"use": "puppet"}}, {},
])  # fmt: skip
def test_what_is_said_before_is_what_a_run_finds(tmp_path, connectors, via, target):
    if via is not None and via not in connectors:
        return  # lint says so
    step = f"{{use: scale, undo: none{f', via: {via}' if via else ''}}}"
    found, _ = book(tmp_path, connectors, step)
    made = Connectors(Config(), tmp_path)
    kinds = {"real": Real, "puppet": Puppet, "mail": Mail}
    for name, own in connectors.items():
        cls = kinds[own["use"]]
        one = cls(name, SimpleNamespace(service=own.get("service", "")))
        made.built[name] = (
            one if cls is not Mail else SimpleNamespace(config=one.config, notify=one.notify)
        )
    try:
        resolved = made.resolve(via, Scaler, target)
    except Refused:
        assert found.unable(Entity("service", target.partition(":")[2])) != ""
    else:
        assert found.unable(Entity("service", target.partition(":")[2])) == ""
        entity = Entity("service", target.partition(":")[2])
        assert found.cap(entity) == ("approve" if isinstance(resolved, Puppet) else "auto")


def test_to_tell_everybody_is_the_journals_and_not_capped_by_one_of_the_ways(tmp_path):
    mail = {"m": {"use": "mail"}, "a": {"use": "real"}}
    found, _ = book(tmp_path, mail, then="{use: tell}")
    assert (found.cap(WEB), found.unable(WEB)) == ("auto", "")
    found, _ = book(tmp_path, mail, then="{use: tell, via: m}")
    assert found.cap(WEB) == "approve"


def test_a_connector_that_is_named_and_can_not_is_no_help(tmp_path):
    found, _ = book(
        tmp_path, {"a": {"use": "real"}, "m": {"use": "mail"}}, "{use: scale, via: m, undo: none}"
    )
    assert found.unable(WEB) == "m can not do this: it has not the ability Scaler"


@pytest.mark.parametrize(
    ("target", "who"),
    [("replica:web/0", "a"), ("replica:shop/0", "b"), ("version:fraud/7", "b"), ("feature:fraud/age", "b"),
     ("replica:third/0", ""), ("process:b/1/2", "")],
)  # fmt: skip
def test_what_is_part_of_a_service_or_model_is_its_connectors(target, who):
    two = [Able("a", ("web",)), Able("b", ("shop", "fraud"))]
    if who:
        assert acting(two, None, "X", target).name == who
        return
    with pytest.raises(Refused, match="say which with via"):
        acting(two, None, "X", target)


class Broken(Real):
    def __init__(self, name, config):
        raise Refused("it needs a client: pip install 'homeostat[x]'")


NOT_BUILT = "could not be built: it needs a client: pip install 'homeostat[x]'"


def made(connectors, tmp_path):
    registry.connector("broken")(Broken)
    config = Config.model_validate({"connectors": connectors})
    out = Connectors(config, tmp_path)
    out.build()
    return out


def test_one_that_could_not_be_built_is_not_able_and_says_why(tmp_path):
    connectors = {"x": {"use": "broken", "service": "web"}}
    built = made(connectors, tmp_path)
    found, config = book(tmp_path, connectors)
    assert found.unable(WEB) == ""  # nobody has tried yet
    found.unbuilt(built.faults)
    assert found.unable(WEB) == f"connector x {NOT_BUILT}"
    assert found.broken == f"connector x {NOT_BUILT}"
    assert not found.lacking
    with pytest.raises(Refused, match="connector x could not be built: it needs a client"):
        built.resolve(None, Scaler, "service:web")
    decision = guard.decide(
        found, WEB, Incident("i", 1.0, 1.0, "open", "page", "t"), memory=Memory(), world=World(), config=config, now=1.0
    )  # fmt: skip
    (gate,) = [g for g in decision.gates if g.name == "ability"]
    assert (gate.passed, gate.reason) == (False, f"connector x {NOT_BUILT}")
    built.faults.clear()  # it was mended, and built at a reload
    assert (found.unable(WEB), found.broken) == ("", "")


def test_another_one_does_not_take_the_place_of_one_that_was_not_built(tmp_path):
    connectors = {"x": {"use": "broken", "service": "web"}, "a": {"use": "real", "service": "shop"}}
    built = made(connectors, tmp_path)
    found, _ = book(tmp_path, connectors)
    found.unbuilt(built.faults)
    for target in ("service:web", "replica:web/1"):
        with pytest.raises(Refused, match="connector x could not be built"):
            built.resolve(None, Scaler, target)
    assert found.unable(Entity("replica", "web/1")) == f"connector x {NOT_BUILT}"
    assert built.resolve(None, Scaler, "replica:shop/1") is built.built["a"]
    assert (found.unable(SHOP), found.broken) == ("", "")
    with pytest.raises(Refused, match="connector x could not be built"):
        built.resolve("x", Scaler, "service:shop")


def test_an_author_is_told_what_can_not_be_built_here(tmp_path):
    registry.connector("broken")(Broken)
    config = Config.model_validate({"connectors": {"x": {"use": "broken"}, "a": {"use": "real"}}})
    assert unbuilt(config, ["x", "a", "nobody"]) == {
        "x": "it needs a client: pip install 'homeostat[x]'"
    }


def test_the_one_or_why_not():
    a, b = Able("a", ("web",)), Able("b", ("shop", "fraud"))
    assert acting([a, b], None, "X", "model:fraud") is b
    assert acting([a], None, "X", "service:other") is a
    with pytest.raises(Refused, match="0 connectors have the ability X: add one"):
        acting([], None, "X", "service:web")
