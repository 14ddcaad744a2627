import pytest

from agent import registry
from agent.config import Config, address, covers, edges_of, kind_of_literal, load
from agent.config import Matcher as Which
from agent.errors import ConfigError
from agent.units import Duration, Model


@pytest.fixture(autouse=True)
def connectors(monkeypatch):
    """Connectors of this test only: loading looks names up, it builds nothing."""
    known = registry.Registry("connector")

    class Settings(Model):
        service: str = ""
        model: str = ""
        timeout: Duration = 5.0

    for name in ("host", "gunicorn", "trainer"):
        known(name)(type(name, (), {"Config": Settings}))
    known("plain")(type("Plain", (), {}))
    monkeypatch.setattr(registry, "connector", known)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "services.d").mkdir()
    return tmp_path


def loaded(folder, text="", **teams):
    (folder / "agent.yaml").write_text(text)
    for name, words in teams.items():
        (folder / "services.d" / f"{name}.yaml").write_text(words)
    return load(folder / "agent.yaml")


def faults(folder, text="", **teams):
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, **teams)
    return [str(f).replace(f"{folder}/", "") for f in caught.value.faults]


SERVICE = "services:\n- id: churn\n  models: [churn]\n  objectives:\n  - "


def test_nothing_and_an_empty_file_are_the_defaults(folder):
    assert load(None) == Config()
    assert loaded(folder) == Config()


def test_a_missing_file_is_told(folder):
    with pytest.raises(ConfigError, match=r"none.yaml: can not be read: no such file"):
        load(folder / "none.yaml")


def test_teams_are_merged_and_their_words_hold_for_each_service(folder):
    config = loaded(
        folder,
        "services: [{id: web, calls: [churn, 'db:5432']}]",
        fraud="""
            owner: team-fraud
            channel: '#fraud'
            objectives: [{signal: service.error_ratio, max: 1%}]
            services:
            - {id: fraud, models: [fraud]}
            - {id: rules, owner: team-rules, objectives: [{signal: service.up, min: 1}]}
        """,
        one="{id: churn, owner: team-churn, port: 8080}",
    )
    by_id = {s.id: s for s in config.services}
    assert list(by_id) == ["web", "fraud", "rules", "churn"]
    assert (by_id["fraud"].owner, by_id["fraud"].channel) == ("team-fraud", "#fraud")
    assert (by_id["rules"].owner, by_id["rules"].channel) == ("team-rules", "#fraud")
    assert [o.signal for o in by_id["rules"].objectives] == ["service.up", "service.error_ratio"]
    assert by_id["rules"].objectives[1].max == pytest.approx(0.01)
    assert by_id["churn"].port == 8080


def test_only_yaml_files_of_services_d_are_read(folder):
    (folder / "services.d" / "a.yaml.bak").write_text("[")
    (folder / "services.d" / ".a.yaml").write_text("[")
    (folder / "services.d" / "b.yml").write_text("id: b")
    assert [s.id for s in loaded(folder).services] == ["b"]


def test_another_folder_of_services_can_be_named(folder, tmp_path):
    (folder / "services.d" / "b.yaml").write_text("id: b")
    assert [s.id for s in load(None, services_dir=folder / "services.d").services] == ["b"]
    with pytest.raises(ConfigError, match="can not be listed"):
        load(None, services_dir=tmp_path / "none")


def test_faults_of_all_files_are_told_at_once(folder):
    found = faults(
        folder,
        "mode: aut\nconnectors:\n  gunicron: {}\n",
        a="owner: x\nservcies: []\n",
        b="services:\n- {id: web, objectives: [{signal: service.latncy_p95_seconds, max: 1s}]}\n",
        c="services: [",
    )
    assert [
        f.replace(" or `service.latency_p99_seconds` or `service.latency_p50_seconds`", "")
        for f in found
    ] == [
        "agent.yaml:1:7: `mode`: `aut` is not one of observe, suggest, approve, auto; did you mean `auto`?",
        "agent.yaml:3:3: no connector is called `gunicron`; did you mean `gunicorn`?",
        "services.d/a.yaml:2:1: unknown key `servcies`; did you mean `services`?",
        (
            "services.d/b.yaml:2:35: no signal is called `service.latncy_p95_seconds`; did you mean "
            "`service.latency_p95_seconds`?"
        ),
        "services.d/c.yaml:1:12: a bracket was opened and never closed; close it",
    ]


def test_a_service_may_be_defined_once(folder):
    found = faults(
        folder, "services: [{id: web, port: 80}]", a="id: web", b="{id: other, port: 80}"
    )
    assert found == [
        "services.d/a.yaml:1:5: id `web` is taken by agent.yaml:1:17; keep one of them",
        "services.d/b.yaml:1:19: port `80` is taken by agent.yaml:1:28; two services can not share it",
    ]


def test_calls_name_services_or_addresses(folder):
    (found,) = faults(folder, "services: [{id: web, calls: [chrun]}, {id: churn}]")
    assert found == "agent.yaml:1:30: no service is called `chrun`; did you mean `churn`?"


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ("{signal: service.latency_p95_seconds}", "an objective needs a limit; add `max:` or `min:`"),
        ("{signal: service.error_ratio, max: 250ms}", "`250ms` is a duration, but `service.error_ratio` is in ratio"),
        ("{signal: service.latency_p95_seconds, max: 2GB}", "is in seconds; write it like 250ms"),
        ("{signal: model.feature_drift_psi, max: 20%}", "`20%` is a share"),
        ("{signal: model.accuracy_ratio, min: 95}", "`95` means 9500 % of `model.accuracy_ratio`; write 95% or 0.95"),
        ("{signal: service.error_ratio, max: 150%}", "`service.error_ratio` is 0 to 1, a limit of 1.5 means nothing"),
        ("{signal: process.memory_bytes, min: -1}", "`process.memory_bytes` is 0 or more, a limit of -1 means nothing"),
        ("{signal: service.error_ratio, target: 100%}", "a target of 0 or 100 % leaves no budget; write"),
        ("{signal: service.latency_p95_seconds, target: 99%}", "is no share of requests; add `max:` or `min:`"),
        ("{signal: replica.ready, min: 1, target: 99%}", "on a replica: only services and models have targets; take"),
        ("{signal: service.error_ratio, min: 10%, max: 1%}", "`min` is above `max`"),
        ("{signal: host.cpu_busy_ratio, max: 90%}", "on a host, which no service owns; move it to `objectives:`"),
        ("{signal: service.up, min: 1, entity: churn}", "`churn` is no entity; write `service:NAME`"),
        ("{signal: service.up, min: 1, entity: 'model:churn'}", "measured on a service, not on a model"),
    ],
)  # fmt: skip
def test_objectives_are_checked_against_the_catalogue(folder, objective, says):
    (found,) = faults(folder, SERVICE + objective)
    assert says in found
    assert found.startswith("agent.yaml:5:")


def test_a_limit_on_a_counter_is_sent_to_its_rate(folder):
    (found,) = faults(folder, "objectives: [{signal: host.oom_kills_total, max: 0}]")
    assert "write its rate: `host.oom_kills_per_second`" in found


def test_a_model_objective_needs_a_model(folder):
    objective = "objectives: [{signal: model.accuracy_ratio, min: 90%}]"
    (found,) = faults(folder, "services: [{id: web, " + objective + "}]")
    assert "service `web` has no models" in found
    (found,) = faults(folder, a=f"{objective}\nservices: [{{id: web}}]")
    assert found.startswith("services.d/a.yaml:1:23: service `web` has no models")


@pytest.mark.parametrize(
    "objective",
    [
        "{signal: service.latency_p95_seconds, max: 250ms}",
        "{signal: service.latency_p95_seconds, max: 1.5}",
        "{signal: model.accuracy_ratio, min: 90%}",
        "{signal: feature.scale_ratio, max: 5}",
        "{signal: process.memory_bytes, max: 2GB, entity: 'process:*'}",
        "{signal: process.memory_bytes, max: 2e9}",
        "{signal: service.busy_ratio, min: 0, max: 150%}",
        "{signal: service.up, min: 1}",
        "{signal: service.up, min: 1, target: 99.9%}",
        "{signal: service.error_ratio, target: 99.9%, over: 7d}",
        "{signal: model.accuracy_ratio, min: 90%, target: 95%}",
    ],
)
def test_fitting_objectives_are_taken(folder, objective):
    assert len(loaded(folder, SERVICE + objective).services[0].objectives) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("listen: 0.0.0.0:8787", "`0.0.0.0` can be reached from other machines"),
        ("listen: example.org:80", "can be reached"),
        ("listen: '8787'", "`8787` is no address; write it like 127.0.0.1:8787"),
        ("listen: 127.0.0.1:99999", "is no address"),
        ("metrics_listen: 127.0.0.1:8787", "is the address of `listen` too"),
        ("ingest_listen: nowhere", "is no address"),
        ("connectors: {host: {interval: 0s}}", "`interval`: `0s` is out of bounds: more than 0"),
        ("public_url: example.org", "is no link"),
        ("services: [{id: Shop}]", "`Shop` is no name; write small letters, digits"),
        ("playbooks: {dirs: [none]}", "`none` is not a folder"),
        ("manages: [{kind: source}]", "a source is our own eye"),
        ("mode: approve\nmanages: [{kind: model}]", "write `single_agent: true`"),
    ],
)
def test_addresses_and_scope_are_checked(folder, text, says):
    (found,) = faults(folder, text)
    assert says in found


@pytest.mark.parametrize(
    "text",
    [
        "listen: localhost:80", "listen: '[::1]:80'", "listen: 127.9.9.9:80",
        "metrics_listen: 0.0.0.0:9100\ningest_listen: unix:/run/h.sock", "public_url: https://h.example.org/x",
        "mode: auto\nmanages: [{kind: process}]", "manages: [{kind: model}]",
        "mode: auto\nsingle_agent: true\nmanages: [{kind: model}]", "playbooks: {dirs: [services.d]}",
    ],
)  # fmt: skip
def test_sound_addresses_and_scopes_are_taken(folder, text):
    assert loaded(folder, text)


def test_connectors_are_checked_by_their_own_config(folder):
    found = faults(
        folder,
        "services: [{id: churn, models: [churn]}]\n"
        "connectors:\n"
        "  gunicron: {}\n"
        "  mine: {use: gunicorn, service: chrun, timeuot: 3}\n"
        "  gunicorn: {service: chrun, interval: 5s, trust: local}\n"
        "  trainer: {model: fraud, timeout: 3 turns}\n"
        "  plain: {x: 1}\n"
        "  host: {enabled: false, model: fraud}\n",
    )
    assert found == [
        "agent.yaml:3:3: no connector is called `gunicron`; did you mean `gunicorn`?",
        "agent.yaml:4:41: unknown key `timeuot`; did you mean `timeout`?",
        "agent.yaml:5:23: no service is called `chrun`; did you mean `churn`?",
        "agent.yaml:6:36: `timeout`: unknown unit 'turns', known: ms, s, m, h, d, w",
        "agent.yaml:7:11: connector `plain` has no settings; take it away",
        "agent.yaml:8:33: no model is called `fraud`; known: churn",
    ]


def test_a_good_connector_is_taken(folder):
    config = loaded(
        folder,
        "services: [{id: churn}]\nconnectors: {mine: {use: gunicorn, service: churn, interval: 5s}}",
    )
    assert config.connectors["mine"].own == {"service": "churn"}


def test_literals_say_what_they_are():
    said = {t: kind_of_literal(t) for t in ("10%", "5m", "1h30m", "1GB", "12.5", "1e3", "250 ms")}
    assert said == {
        "10%": "a share", "5m": "a duration", "1h30m": "a duration", "1GB": "a size", "12.5": "",
        "1e3": "", "250 ms": "a duration",
    }  # fmt: skip


def test_addresses_are_read():
    assert address("[::1]:80") == ("::1", 80)
    assert address("a.b:1") == ("a.b", 1)
    assert address("a") is address(":1") is address("a:0") is address("a:b") is None


def test_a_matcher_wants_all_that_it_says():
    which = Which(kind="process", key="boot/*", where={"command": "*burn*"})
    assert covers(which, "process", "boot/1", {"command": "python burn.py"})
    assert not covers(which, "process", "boot/1", {})
    assert not covers(which, "process", "other/1", {"command": "python burn.py"})
    assert not covers(which, "service", "boot/1", {"command": "python burn.py"})


def test_names_are_not_blamed_while_a_file_with_services_is_broken(folder):
    found = faults(
        folder, "connectors: {trainer: {model: churn}}", a="services: [{id: web, prot: 1}]"
    )
    assert len(found) == 1
    assert "unknown key `prot`; did you mean `port`?" in found[0]


# ---- the graph

SHOPS = "services:\n- {id: shop}\n- {id: store}\n"


def test_edges_and_names_are_read(folder):
    config = loaded(folder, SHOPS + "topology:\n  add:\n  - {from: service:shop, to: dependency:db:5432}\n"
                    "  - {from: replica:shop/a, to: gpu:GPU-1, kind: runs_on}\n"
                    "  remove:\n  - {from: service:*, to: service:store}\n"
                    "  names: {store-v1: store, 'old-*': shop}\n  forget: 2h\n")  # fmt: skip
    first, second = edges_of(config)
    assert (first.kind, first.src.id, first.dst.id) == ("calls", "service:shop", "dependency:db:5432")  # fmt: skip
    assert (second.kind, second.dst.kind) == ("runs_on", "gpu")
    assert config.topology.forget == 7200.0
    assert config.topology.names["store-v1"] == "store"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("add: [{from: service:shp, to: service:store}]",
         "no service is called `shp`; did you mean `shop`?"),
        ("add: [{from: shop, to: service:store}]", "`shop` is no entity; write `service:shop`"),
        ("add: [{from: servcie:shop, to: service:store}]",
         "`servcie:shop` is no entity; did you mean `service`?"),
        ("add: [{from: service:shop, to: host:a}]",
         "`calls` can not go to a host; to one of: dependency, service"),
        ("add: [{from: service:shop, to: service:shop}]", "an edge from a thing to itself; take it away"),
        ("add: [{from: service:s*, to: service:store}]", "`service:s*` is not one entity; write the whole of its id"),
        ("add: [{from: service:shop, to: service:store}]\n  remove: [{from: service:*, to: service:*}]",
         "this edge is also taken away under `remove`; keep one of them"),
        ("add: [{from: service:shop, to: service:store, kind: cals}]", "`cals`"),
        ("names: {a: shpo}", "no service is called `shpo`; did you mean `shop`?"),
        ("forgt: 1h", "did you mean `forget`?"),
        ("forget: 1s", "60"),
    ],
)  # fmt: skip
def test_faults_of_the_graph_are_told_with_place_and_remedy(folder, words, said):
    (fault,) = faults(folder, SHOPS + f"topology:\n  {words}\n")
    assert fault.startswith("agent.yaml:5:")
    assert said in fault


def test_services_that_a_connector_names_must_be_there(folder, monkeypatch):
    class Hooks:
        class Config(Model):
            services: dict[str, str] = {}

    registry.connector("hooks")(Hooks)
    text = SHOPS + "connectors:\n  hooks:\n    services: {acme/web: shpo}\n"
    assert faults(folder, text) == [
        "agent.yaml:6:26: no service is called `shpo`; did you mean `shop`?"
    ]
