"""What a person may write into `agent.yaml` and `services.d/*.yaml`. An empty file is valid.

Reading YAML and its errors stand in `agent/strict.py`; `load()` here joins the files, checks what only the whole
can tell (names that must exist, units that must fit, addresses that clash) and tells all faults at once.

`services.d/*.yaml`, beside `agent.yaml`: one file a team, so that teams edit their own. Either one service as it
would stand under `services:`, or

    owner: team-fraud                  # for every service of the file that does not say its own
    channel: '#fraud-oncall'
    objectives: [{signal: service.error_ratio, max: 1%}]      # for every service of the file
    services:
      - {id: scoring, port: 8080, models: [fraud]}
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from agent import registry, windows
from agent.attributes import ATTRIBUTES, LABELS
from agent.catalogue import SIGNALS, SignalDef
from agent.cron import Cron
from agent.errors import ConfigError, Fault
from agent.model import Edge, EdgeKind, EntityKind, Mode, entity
from agent.possible import reach
from agent.routing import Day, People
from agent.routing import faults as people_faults
from agent.strict import NAME, Document, Place, did_you_mean, examine, read
from agent.units import Bytes, Duration, Model, Quantity, Ratio, Span, say_duration

Name = Annotated[str, StringConstraints(pattern=NAME)]


class Objective(Model):
    """A limit that a person states; valid from the first minute.

    Example: `{signal: service.latency_p95_seconds, max: 250ms, for: 30s}`. With a target it may be missed now and then,
    and is told when its error budget burns too fast: `{signal: service.error_ratio, target: 99.9%}`.
    """

    signal: str
    """Any gauge, state or counter of the catalogue, of a counter its rate: `service.latency_p95_seconds`."""
    max: Quantity | None = None
    min: Quantity | None = None
    for_: Duration = Field(default=10.0, alias="for")
    """How long it must be broken before it counts."""
    target: Ratio | None = None
    """Share of the time that the limit must hold; without a limit: share of the requests that must be good."""
    over: Annotated[Duration, Field(ge=86_400, le=90 * 86_400)] = 30 * 86_400.0
    """Of how long the target is meant."""
    labels: dict[str, str] = {}
    """Only series with these labels."""
    entity: str = ""
    """Only this entity (`host:web-1`, with * allowed); inside a service: the service and its models."""


class Service(Model):
    """Something that serves: what a team owns."""

    id: Name
    owner: str = ""
    """Who answers for it, for `people:` and in what is told."""
    channel: str = ""
    """Where its people are told, of ways that have channels."""
    pidfile: Path | None = None
    """Binds the process group of the master to the service."""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Binds whoever listens there to the service."""
    process: str = ""
    """Binds process groups whose command matches this glob to the service."""
    models: list[Name] = []
    """Models that it serves."""
    calls: list[str] = []
    """Services or dependencies (host:port) that it needs."""
    min_healthy: Annotated[int, Field(ge=0)] = 1
    """It never acts when fewer replicas than this would be left."""
    objectives: list[Objective] = []
    """What its users may expect."""


class Matcher(Model):
    """Which entities: all that is said must hold; `*` in texts is a glob."""

    kind: EntityKind
    key: str = "*"
    where: dict[str, str] = {}
    """Attributes by name: `{command: 'python *batch.py*'}`; `labels.NAME`: of `topology: {labels: [...]}`."""


class Window(Model):
    """A maintenance window, in which nothing is touched: every week, by a cron line, or once.

    Example: `{name: patching, days: [sun], at: '02:00', lasts: 2h, scope: [{kind: host, key: 'web-*'}]}`.
    """

    name: Name
    scope: list[Matcher] = []
    """What it covers, with all that runs on it; default: everything."""
    days: list[Day] = []
    """On which it begins; default: every day."""
    at: Annotated[str, StringConstraints(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9])?$")] = ""
    """When it begins: `'02:30'`."""
    cron: str = ""
    """Or when it begins, as crontab has it: `0 2 1 * *` monthly, `0 2 * * tue#2` each second Tuesday of a month."""
    lasts: Annotated[Duration, Field(ge=0, le=7 * 86_400)] = 0.0
    from_: str = Field(default="", alias="from")
    """Once: from this moment, `2026-12-24T18:00`, or with an offset `2026-12-24T18:00+01:00`."""
    to: str = ""
    """Until this moment."""
    timezone: str = ""
    """`Europe/Berlin`; default: that of this host."""
    reason: str = ""


def _cron_line(text: str) -> str:
    if text:
        Cron(text)
    return text


def _zone_name(text: str) -> str:
    windows.zone_of(text)
    return text


class Digest(Model):
    """When the digest goes to the ways that want the event `digest` (`mail: {events: [digest]}`)."""

    at: Annotated[str, AfterValidator(_cron_line)] = "0 9 * * mon"
    """As crontab has it; it is about the time since the one before. Empty = never."""
    timezone: Annotated[str, AfterValidator(_zone_name)] = ""
    """`Europe/Berlin`; default: that of this host."""


class Budget(Model):
    """How many false pages people accept, in the whole installation; everything else follows (`agent/budget.py`)."""

    false_pages_per_week: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """Only harm to users or model results pages, so this is also what people are asked to label."""
    console_notes_per_day: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Notes that never page: several series of one host or model abnormal together. Default: half of the above."""


class Keep(Model):
    """How much past is kept on disk."""

    age: Duration = 48 * 3600.0
    size: Bytes = 1e9
    """Of this, a sixteenth is for what detectors said of the series."""


class Page(Model):
    """How a page leaves the console: an optional command, argv list, note as JSON on standard input."""

    command: list[str] = []
    timeout: Span = 10.0


class Diagnose(Model):
    """How far diagnosis looks; demos and tests shorten it."""

    window: Span = 300.0
    """How much of the present is looked at."""
    baseline: Span = 3600.0
    """How much past before the onset is ordinary."""
    release_window: Duration = 1800.0
    """How long a release stays the first suspect; where labels prove a loss, from its first labels on."""
    settle: Duration = 10.0
    """How long an incident gathers evidence before it is diagnosed."""
    resolve_after: Duration = 120.0
    """How long all must be well before an incident is resolved."""
    reopen_within: Duration = 600.0
    """Trouble of the same group so soon after is the same incident again."""


def _referred(text: str) -> str:
    """Take a reference to what may hold a password, never the thing itself."""
    if text and text.partition(":")[0] not in {"env", "file"}:
        raise ValueError("an address may hold a password; write env:NAME or file:PATH of it")
    return text


class Runs(Model):
    """Where the steps of runs are kept: a file in the state folder, or a PostgreSQL database."""

    database: Annotated[str, AfterValidator(_referred)] = ""
    """`env:NAME` or `file:PATH` of `postgresql://user@host:5432/database`; empty: a file. Read at start."""
    db_schema: Annotated[str, Field(alias="schema", pattern=r"^[a-z_][a-z0-9_]{0,47}$")] = (
        "homeostat"
    )
    """The schema in it: of this installation alone, so each host that shares a server has one of its own."""


class WatchModels(Model):
    """How predictions become model metrics; demos and tests shorten it."""

    window: Span = 300.0
    """Rows of this long make the model's numbers."""
    min_rows: Annotated[int, Field(ge=10)] = 100
    """Fewer rows than this are unknown, not a number."""
    label_wait: Span = 3 * 86_400.0
    """How long a prediction waits for its label: a nightly job that has failed once is made up for."""
    max_waiting: Annotated[int, Field(ge=1000)] = 1_000_000
    """Most predictions that wait for labels, 48 bytes each; the oldest go first."""
    quiet: Span = 90 * 86_400.0
    """Between two false alarms of drift, for each model and kind: at least this long on average."""
    reference: dict[str, Path] = {}
    """Model, or `model/version` -> file of the rows it was trained on, with labels: parquet, CSV or JSON lines."""
    first_rows: Annotated[int, Field(ge=200, le=20_000)] = 1000
    """So many first rows of a version are its reference, where none is given."""
    protected: list[str] = []
    """Features whose values are groups that must not be treated differently: gaps between them become metrics."""
    slices: Annotated[list[str], Field(max_length=3)] = []
    """Tags whose values are looked at one by one, as those of categories are: the first 8 that come of each."""
    tolerance: Ratio = 0.03
    """How much accuracy may fall before it counts as lost."""
    traffic_window: Span = 10.0
    """Requests of this long make rate, latency and errors of the service."""


LabelName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]


class EdgeSpec(Model):
    """One edge of the graph: `{from: service:shop, to: dependency:db:5432}`."""

    src: Annotated[str, Field(alias="from")]
    """Entity id (`service:shop`); under `remove:` with * allowed."""
    dst: Annotated[str, Field(alias="to")]
    kind: EdgeKind | None = None
    """calls, runs_on, serves, version_of or feeds; default: calls, under `remove:` any."""


class Labelled(Model):
    """Words of a person on entities: `{kind: host, key: 'gpu-0*', set: {rack: r7}}`."""

    kind: EntityKind
    key: str = "*"
    """Which of the kind; * is a glob."""
    set: Annotated[dict[LabelName, str], Field(min_length=1)]
    """Name to value: `target.labels.rack` in playbooks, `labels.rack` as their domain and under `where:`."""


class Map(Model):
    """What a person knows better about who depends on whom; everything else is learnt."""

    add: list[EdgeSpec] = []
    remove: list[EdgeSpec] = []
    """These edges are not there, whatever tells them."""
    labels: list[Labelled] = []
    """Of several on one entity, a later one wins."""
    names: dict[str, Name] = {}
    """What labels call it -> service id: `{reviews-v1: reviews}`; * in the former is a glob."""
    qualify: bool = False
    """Put the namespace before the names that labels give (`prod/cart`): the same name means two services."""
    forget: Annotated[Duration, Field(ge=60)] = 3600.0
    """How long a call that is not seen any more stays in the graph."""


class PlaybookDirs(Model):
    """Where a team's own playbooks lie; they win over built-in ones of the same id, field by field."""

    dirs: list[Path] = []


DEFAULT_CONNECTORS: Final = (
    "host", "processes", "connections", "containers", "units", "kernel_log", "gpu",
)  # fmt: skip
"""What runs without a word in agent.yaml."""


class ConnectorConfig(Model):
    """One connector: `use` names it (default: the key), the rest is its own Config."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = ""
    """Which connector it is; default: its name here."""
    enabled: bool = True
    interval: Span | None = None
    """How often a source is asked; default: as often as the connector says."""
    trust: Literal["untrusted", "local", "authenticated"] | None = None
    """How far what it says is believed; default: local."""

    @property
    def own(self) -> dict[str, Any]:
        """What is left for the connector's own Config."""
        return dict(self.__pydantic_extra__ or {})


class DetectorConfig(Model):
    """One joint detector, beside the bank that always runs: `use` names it (default: the key), the rest is its own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = ""
    """Which detector it is; default: its name here."""
    enabled: bool = True
    sources: list[Name] = []
    """Which sources it looks at; default: all."""
    every: Span = 86_400.0
    """How old its model may become."""

    @property
    def own(self) -> dict[str, Any]:
        """What is left for the detector's own Config."""
        return dict(self.__pydantic_extra__ or {})


class Lead(Model):
    """How long before something is full people are told; 0 = never, left out = the default of its kind."""

    page: Duration | None = None
    """It pages: there is not more time than that."""
    tell: Duration | None = None
    """It opens an incident that waits in the console."""


_LEADS: Final[Mapping[str, tuple[float, float]]] = {
    "disk": (4 * 3600.0, 3 * 86_400.0),
    "memory": (1800.0, 4 * 3600.0),
    "gpu_memory": (1800.0, 4 * 3600.0),
    "swap": (0.0, 4 * 3600.0),
    "handles": (1800.0, 4 * 3600.0),
    "queue": (300.0, 1800.0),
    "certificate": (2 * 86_400.0, 14 * 86_400.0),
    "age": (0.0, 3 * 86_400.0),
}


class Outlook(Model):
    """What fills, leaks or ages is foretold; people are told when it is sure to be full within the lead time."""

    enabled: bool = True
    every: Annotated[Duration, Field(ge=30)] = 300.0
    """How often all are looked at; the heavy part follows only for what rises."""
    probability: Annotated[Ratio, Field(ge=0.5, le=0.975)] = 0.9
    """How sure it must be."""
    disk: Lead = Lead()
    """Space and inodes of file systems: 4h pages, 3d tells."""
    memory: Lead = Lead()
    """Memory of hosts, containers and (with an objective) processes: 30m pages, 4h tells."""
    gpu_memory: Lead = Lead()
    """30m pages, 4h tells."""
    swap: Lead = Lead()
    """4h tells."""
    handles: Lead = Lead()
    """Open files, threads, tracked connections: 30m pages, 4h tells."""
    queue: Lead = Lead()
    """Queues and labels that are late, with an objective: 5m pages, 30m tells."""
    certificate: Lead = Lead()
    """2d pages, 14d tells."""
    age: Lead = Lead()
    """Models, with an objective: 3d tells."""

    @staticmethod
    def kinds() -> tuple[str, ...]:
        """Return what is foretold, by name."""
        return tuple(_LEADS)

    def lead(self, kind: str) -> tuple[float, float]:
        """Return seconds before which it pages and tells; 0 = never."""
        said: Lead = getattr(self, kind)
        page, tell = _LEADS[kind]
        return page if said.page is None else said.page, tell if said.tell is None else said.tell


class Config(Model):
    """The whole of `agent.yaml`."""

    mode: Mode = "suggest"
    """Ceiling over every playbook."""
    manages: list[Matcher] = []
    """What it may act on: nothing by default."""
    never: list[Matcher] = []
    """What it must never touch, beside what is built in."""
    maintenance: list[Window] = []
    """When nothing is touched; people are told all the same."""
    single_agent: bool = False
    """No other agent acts on the same endpoints, aliases and deployments."""
    listen: str = "127.0.0.1:8787"
    """Console, API, /metrics, /health, /ready. Loopback only."""
    ingest_listen: str = ""
    """Predictions, labels, changes and webhooks from elsewhere: `0.0.0.0:8788` or `unix:/run/homeostat/ingest.sock`."""
    ingest_models: dict[str, list[str]] = {}
    """Token -> the models that it may push rows of: `{scoring: [fraud, 'churn-*']}`; `'*'` = all other tokens."""
    metrics_listen: str = ""
    """/metrics for scrapers elsewhere, with a token: `0.0.0.0:8789` or `unix:/run/homeostat/metrics.sock`."""
    public_url: str = ""
    """Where people reach the console through a proxy with TLS: `https://...`, also for links in what they are told."""
    state: Path | None = None
    """State folder; default: by XDG, as root /var/lib/homeostat."""
    cpu_budget: Ratio = 0.05
    """Share of one core that polling may cost before intervals are stretched."""
    priority: Annotated[int, Field(ge=-20, le=19)] = -5
    """Scheduling priority (nice) of the daemon, where it may set it; 0 leaves it as it is."""
    budget: Budget = Budget()
    people: People = People()
    """Who is told what, by which way and when, and who is called next."""
    digest: Digest = Digest()
    history: Keep = Keep()
    runs: Runs = Runs()
    page: Page = Page()
    diagnose: Diagnose = Diagnose()
    models: WatchModels = WatchModels()
    topology: Map = Map()
    playbooks: PlaybookDirs = PlaybookDirs()
    connectors: dict[Name, ConnectorConfig] = {}
    """Where to look, and what can be done there. Seven sources run without a word: `gpu: {enabled: false}` ends one."""
    detectors: dict[Name, DetectorConfig] = {}
    """Joint detectors over all series of a source: `pca: {}`; none by default. Read at start, not at a reload."""
    forecasts: Outlook = Outlook()
    """When what fills, leaks or ages will be full: `disk: {page: 2h}`."""
    services: list[Service] = []
    objectives: list[Objective] = []
    """Objectives on hosts and GPUs."""


class Team(Model):
    """A file of `services.d/`: what one team owns."""

    owner: str = ""
    channel: str = ""
    objectives: list[Objective] = []
    """Hold for every service of this file, beside its own."""
    services: list[Service] = []


# ---------------------------------------------------------------- loading


@dataclass(frozen=True, slots=True)
class _Origin:
    """A service and where it was written; the last `shared` objectives stand at the root of its file."""

    service: Service
    document: Document
    path: Place
    shared: int = 0


def load(path: Path | None, *, services_dir: Path | None = None) -> Config:
    """Read `agent.yaml` and the files of `services.d/` beside it (or of `services_dir`); None = defaults.

    Connector names are looked up in the registry: `registry.load()` must have run. Raises ConfigError with every
    fault of every file, each with file, line, column and remedy; nothing else. Cost: milliseconds a file.
    """
    config = Config()
    faults: list[Fault] = []
    document = Document({}, "<defaults>")
    if path is not None:
        document = read(path)
        found, faults = examine(Config, document)
        config = found or _sound(document)
    origins = [_Origin(s, document, ("services", i)) for i, s in enumerate(config.services)]
    folder = services_dir or (path.parent / "services.d" if path is not None else None)
    whole = "services" in config.model_fields_set or "services" not in document.data
    whole &= not document.broken
    for file in _files(folder, explicit=services_dir is not None, faults=faults):
        told = len(faults)
        origins += _team(read(file), faults)
        whole &= told == len(faults)
    config = config.model_copy(update={"services": [one.service for one in origins]})
    faults += _cross(config, document, origins, whole=whole)
    if faults:
        raise ConfigError(sorted(set(faults), key=lambda f: (f.place, f.line, f.column, f.problem)))
    return config


def _sound(document: Document) -> Config:
    """Return the parts of a faulty `agent.yaml` that are right, so that their names are checked in the same go."""
    sound = {}
    for key, value in document.data.items():
        part = Document({key: value}, document.place)
        if examine(Config, part)[0] is not None:
            sound[key] = value
    return Config.model_validate(sound)


def _files(folder: Path | None, *, explicit: bool, faults: list[Fault]) -> list[Path]:
    """List the YAML files of a folder by name; files of editors and packages (`.swp`, `.bak`) are none."""
    if folder is None:
        return []
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        if explicit or not isinstance(error, FileNotFoundError):
            reason = (error.strerror or str(error)).lower()
            faults.append(
                Fault(str(folder), 0, 0, f"can not be listed: {reason}", "check the path")
            )
        return []
    return [f for f in inside if f.suffix in {".yaml", ".yml"} and not f.name.startswith(".")]


def _team(document: Document, faults: list[Fault]) -> list[_Origin]:
    """Read one file of `services.d/`: a single service, or a team with its services."""
    if "id" in document.data:
        service, wrong = examine(Service, document)
        faults += wrong
        return [_Origin(service, document, ())] if service else []
    team, wrong = examine(Team, document)
    faults += wrong
    if team is None:
        return []
    out = [
        s.model_copy(
            update={
                "owner": s.owner or team.owner,
                "channel": s.channel or team.channel,
                "objectives": [*s.objectives, *team.objectives],
            }
        )
        for s in team.services
    ]
    shared = len(team.objectives)
    return [_Origin(s, document, ("services", i), shared) for i, s in enumerate(out)]


# ---------------------------------------------------------------- what only the whole can tell


def _cross(
    config: Config, document: Document, origins: Sequence[_Origin], *, whole: bool
) -> Iterator[Fault]:
    """Check what only all files together can tell; names of services only when all of them could be read."""
    for i, objective in enumerate(config.objectives):
        yield from _objective(objective, document, ("objectives", i), None)
    yield from _services(origins, whole=whole)
    yield from _map(config, origins, document, whole=whole)
    yield from _scope(config, document)
    yield from _attributes(config, document)
    yield from _maintenance(config, document)
    yield from _addresses(config, document)
    yield from _connectors(config, document, whole=whole)
    yield from _detectors(config, document)
    yield from _forecasts(config, document)
    if whole:
        yield from people_faults(config.people, document, _ways(config))
    if document.data:
        yield from _playbook_dirs(config, document)


_OF_SERVICES: Final = frozenset({"service", "replica", "process", "model", "version", "feature"})
"""Kinds of entities that belong to a service: what its objectives may speak of."""


def _services(origins: Sequence[_Origin], *, whole: bool) -> Iterator[Fault]:
    ids = [one.service.id for one in origins]
    firsts: dict[tuple[str, object], _Origin] = {}
    for one in origins:
        service, document, path = one.service, one.document, one.path
        unique = {"id": service.id, "port": service.port, "pidfile": service.pidfile}
        for key, value in unique.items():
            if value is None:
                continue
            first = firsts.setdefault((key, value), one)
            if first is not one:
                line, column = first.document.where((*first.path, key))
                said = f"{first.document.place}:{line}:{column}"
                remedy = "keep one of them" if key == "id" else "two services can not share it"
                yield document.fault((*path, key), f"{key} `{value}` is taken by {said}", remedy)
        for i, callee in enumerate(service.calls):
            if whole and ":" not in callee and callee not in ids:
                remedy = did_you_mean(callee, ids) or "write a service id, or host:port"
                yield document.fault(
                    (*path, "calls", i), f"no service is called `{callee}`", remedy
                )
        mine = len(service.objectives) - one.shared
        for i, objective in enumerate(service.objectives):
            where: Place = (*path, "objectives", i) if i < mine else ("objectives", i - mine)
            yield from _objective(objective, document, where, service)


def _objective(
    objective: Objective, document: Document, path: Place, service: Service | None
) -> Iterator[Fault]:
    definition = SIGNALS.get(objective.signal)
    if definition is None:
        remedy = did_you_mean(objective.signal, SIGNALS)
        yield document.fault((*path, "signal"), f"no signal is called `{objective.signal}`", remedy)
        return
    if definition.kind == "counter":
        yield document.fault(
            (*path, "signal"),
            f"`{objective.signal}` only counts up, a limit on it means nothing",
            f"write its rate: `{definition.rate}`",
        )
    if objective.target is not None:
        yield from _target(objective, definition, document, path)
    elif objective.max is None and objective.min is None:
        yield document.fault(path, "an objective needs a limit", "add `max:` or `min:`")
    if objective.max is not None and objective.min is not None and objective.min > objective.max:
        yield document.fault((*path, "min"), "`min` is above `max`", "swap them")
    for key, limit in (("max", objective.max), ("min", objective.min)):
        wrong = list(_unit(definition, document, (*path, key)))
        yield from wrong or _reach(definition, limit, document, (*path, key))
    yield from _subject(objective, definition, document, path, service)


def _target(
    objective: Objective, definition: SignalDef, document: Document, path: Place
) -> Iterator[Fault]:
    """Check what an objective says of how often it may be missed."""
    if not 0.0 < (objective.target or 0.0) < 1.0:
        remedy = "write a share between, such as 99.9%"
        yield document.fault((*path, "target"), "a target of 0 or 100 % leaves no budget", remedy)
    if definition.entity_kind not in {"service", "model"}:
        yield document.fault(
            (*path, "target"),
            f"`{objective.signal}` is measured on a {definition.entity_kind}: only services and models have targets",
            "take `target:` out and write a limit",
        )
    shares = definition.unit == "ratio" and definition.most <= 1.0 and definition.better
    if objective.max is None and objective.min is None and not shares:
        remedy = "add `max:` or `min:`; the target is then the share of the time that it must hold"
        yield document.fault(path, f"`{objective.signal}` is no share of requests", remedy)


def _subject(
    objective: Objective,
    definition: SignalDef,
    document: Document,
    path: Place,
    service: Service | None,
) -> Iterator[Fault]:
    """Check of whom an objective speaks."""
    kind = definition.entity_kind
    if objective.entity:
        said, colon, _ = objective.entity.partition(":")
        if not colon or said not in get_args(EntityKind):
            yield document.fault(
                (*path, "entity"),
                f"`{objective.entity}` is no entity",
                f"write `{kind}:NAME` or `{kind}:*`",
            )
        elif said != kind:
            yield document.fault(
                (*path, "entity"),
                f"`{objective.signal}` is measured on a {kind}, not on a {said}",
                f"write `{kind}:...`",
            )
    if service is None:
        return
    if kind not in _OF_SERVICES:
        yield document.fault(
            (*path, "signal"),
            f"`{objective.signal}` is measured on a {kind}, which no service owns",
            "move it to `objectives:` of agent.yaml",
        )
    elif kind in {"model", "version", "feature"} and not service.models:
        yield document.fault(
            (*path, "signal"),
            f"service `{service.id}` has no models to measure `{objective.signal}` on",
            "add `models: [NAME]` to the service",
        )


_FITS: Final[Mapping[str, tuple[str, ...]]] = {
    "a share": ("ratio",),
    "a duration": ("seconds",),
    "a size": ("bytes", "bytes_per_second"),
}
_SIZES: Final = {"B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"}


def kind_of_literal(raw: str) -> str:
    """Say what a written quantity is: `a share` (10%), `a duration` (5m), `a size` (1GB), or "" for a bare number."""
    if raw.rstrip().endswith("%"):
        return "a share"
    units = re.findall(r"[A-Za-z]+", raw)
    if not units or re.fullmatch(r"\s*[-+]?[0-9.]+[eE][-+]?[0-9]+\s*", raw):
        return ""
    return "a size" if set(units) <= _SIZES else "a duration"


_EXAMPLES: Final = {
    "seconds": "250ms or 1.5", "ratio": "95% or 0.95", "bytes": "2GB", "bytes_per_second": "10MB",
}  # fmt: skip


def _reach(
    definition: SignalDef, limit: float | None, document: Document, path: Place
) -> Iterator[Fault]:
    """Check that a limit lies where the signal can be: elsewhere it is broken always, or never."""
    if limit is not None and not definition.least <= limit <= definition.most:
        yield document.fault(
            path,
            f"`{definition.name}` is {reach(definition.name)}, a limit of {limit:g} means nothing",
            "write one that it can cross",
        )


def _unit(definition: SignalDef, document: Document, path: Place) -> Iterator[Fault]:
    """Check that `250ms` stands only where seconds are measured, `95%` only on ratios."""
    raw = document.raw.get(path)
    if raw is None:
        return
    said, unit = kind_of_literal(raw), definition.unit
    remedy = f"write it like {_EXAMPLES.get(unit, '12.5')}"
    if said and unit not in _FITS[said]:
        words = unit.replace("_", " ")
        yield document.fault(
            path, f"`{raw}` is {said}, but `{definition.name}` is in {words}", remedy
        )
    elif not said and unit == "ratio" and not definition.name.endswith("scale_ratio"):
        try:
            value = float(raw)
        except ValueError:
            return
        if value > 2:
            yield document.fault(
                path,
                f"`{raw}` means {value * 100:g} % of `{definition.name}`",
                f"write {raw}% or {value / 100:g}",
            )


_ENDS: Final[Mapping[EdgeKind, tuple[frozenset[str], frozenset[str]]]] = {
    "calls": (frozenset({"service"}), frozenset({"service", "dependency"})),
    "runs_on": (
        frozenset({"service", "replica", "process", "gpu"}),
        frozenset({"process", "gpu", "host"}),
    ),
    "serves": (
        frozenset({"process", "replica", "service"}),
        frozenset({"service", "model", "version"}),
    ),
    "version_of": (frozenset({"version"}), frozenset({"model"})),
    "feeds": (frozenset({"feature"}), frozenset({"model"})),
}
"""Which kinds of entities an edge may join: from, to."""


def _map(
    config: Config, origins: Sequence[_Origin], document: Document, *, whole: bool
) -> Iterator[Fault]:
    """Check `topology:`: kinds of ends, services that must be defined, edges both added and removed."""
    services = [one.service.id for one in origins]
    removed = [(e.src, e.dst, e.kind) for e in config.topology.remove]
    for what, edges in (("add", config.topology.add), ("remove", config.topology.remove)):
        for i, edge in enumerate(edges):
            path: Place = ("topology", what, i)
            kind = edge.kind or ("calls" if what == "add" else None)
            wrong = list(_ends(edge, kind, document, path))
            if what == "add" and whole and not wrong:
                wrong = list(_defined(edge, services, document, path))
            yield from wrong
            if what == "add" and not wrong:
                if edge.src == edge.dst:
                    yield document.fault(path, "an edge from a thing to itself", "take it away")
                elif any(
                    fnmatchcase(edge.src, s) and fnmatchcase(edge.dst, d) and k in {None, kind}
                    for s, d, k in removed
                ):
                    yield document.fault(
                        path, "this edge is also taken away under `remove`", "keep one of them"
                    )
    for name, service in config.topology.names.items() if whole else ():
        if service not in services:
            remedy = did_you_mean(service, services) or "add it under `services:`"
            yield document.fault(
                ("topology", "names", name), f"no service is called `{service}`", remedy
            )


def _ends(
    edge: EdgeSpec, kind: EdgeKind | None, document: Document, path: Place
) -> Iterator[Fault]:
    """Check that both ends are entities, of kinds that such an edge may join."""
    kinds = [k for k in get_args(EntityKind) if k != "source"]
    for at, (key, text) in enumerate((("from", edge.src), ("to", edge.dst))):
        said, colon, rest = text.partition(":")
        if not (colon and rest) or said not in {*kinds, "*"}:
            remedy = did_you_mean(said, kinds, show=0) if colon else f"write `service:{text}`"
            yield document.fault(
                (*path, key),
                f"`{text}` is no entity",
                remedy or f"write KIND:NAME, kinds: {', '.join(kinds)}",
            )
        elif kind is not None and said not in {*_ENDS[kind][at], "*"}:
            yield document.fault(
                (*path, key),
                f"`{kind}` can not go {key} a {said}",
                f"{key} one of: {', '.join(sorted(_ENDS[kind][at]))}",
            )


def _defined(
    edge: EdgeSpec, services: Sequence[str], document: Document, path: Place
) -> Iterator[Fault]:
    """Check that an edge that is added names two things, and services that are there."""
    for key, text in (("from", edge.src), ("to", edge.dst)):
        kind, _, rest = text.partition(":")
        if "*" in text:
            yield document.fault(
                (*path, key), f"`{text}` is not one entity", "write the whole of its id"
            )
        elif kind == "service" and rest not in services:
            remedy = did_you_mean(rest, services) or "add it under `services:`"
            yield document.fault((*path, key), f"no service is called `{rest}`", remedy)


def edges_of(config: Config) -> list[Edge]:
    """Return the edges that a person added."""
    return [Edge(e.kind or "calls", entity(e.src), entity(e.dst)) for e in config.topology.add]


def labels_of(config: Config, kind: str) -> set[str]:
    """Return the labels that a person gives to entities of a kind."""
    return {name for rule in config.topology.labels if rule.kind == kind for name in rule.set}


def _attributes(config: Config, document: Document) -> Iterator[Fault]:
    """Check names under `where:`: what no entity of the kind has would match nothing, without a word."""
    matchers: list[tuple[Place, Matcher]] = [
        *((("manages", i), one) for i, one in enumerate(config.manages)),
        *((("never", i), one) for i, one in enumerate(config.never)),
        *(
            (("maintenance", i, "scope", j), one)
            for i, window in enumerate(config.maintenance)
            for j, one in enumerate(window.scope)
        ),
    ]
    for path, matcher in matchers:
        for name in matcher.where:
            wrong = unknown_attribute(name, matcher.kind, labels_of(config, matcher.kind))
            if wrong is not None:
                yield document.fault((*path, "where", name), *wrong, key=True)


def unknown_attribute(
    name: str, kind: EntityKind, labels: Collection[str] | None
) -> tuple[str, str] | None:
    """Return (problem, remedy) when no entity of a kind can have an attribute; `labels` None = they are not known."""
    label = name.removeprefix(LABELS)
    if label == name:
        known = ATTRIBUTES[kind]
        if name in known:
            return None
        remedy = did_you_mean(name, known, show=20) or f"or give a label: `{LABELS}{name}`"
        return f"a {kind} has no attribute `{name}`", remedy
    if labels is None or label in labels:
        return None
    remedy = did_you_mean(label, labels) or (
        f"add it to agent.yaml: topology: {{labels: [{{kind: {kind}, key: ..., set: {{{label}: ...}}}}]}}"
    )
    return f"no {kind} is given the label `{label}`", remedy


_SHARED_KINDS: Final = frozenset({"service", "replica", "model", "version"})
"""What several agents may see at once: an endpoint, an alias, a deployment."""


def _scope(config: Config, document: Document) -> Iterator[Fault]:
    """Check `manages:`: shared targets need a promise that nobody else acts on them."""
    for i, matcher in enumerate(config.manages):
        where: Place = ("manages", i, "kind")
        if matcher.kind == "source":
            yield document.fault(
                where, "a source is our own eye, nothing acts on it", "take it away"
            )
        if (
            matcher.kind in _SHARED_KINDS
            and config.mode in {"approve", "auto"}
            and not config.single_agent
        ):
            yield document.fault(
                where,
                f"a {matcher.kind} may be shared with other agents, and mode `{config.mode}` would act on it",
                "write `single_agent: true` if no other agent acts on it, or `mode: suggest`",
            )


def _maintenance(config: Config, document: Document) -> Iterator[Fault]:
    """Check that each window says when it is, in one of three ways."""
    names: set[str] = set()
    for i, window in enumerate(config.maintenance):
        path: Place = ("maintenance", i)
        if window.name in names:
            yield document.fault(
                (*path, "name"), f"two windows are called `{window.name}`", "rename one"
            )
        names.add(window.name)
        try:
            windows.zone(window)
        except ValueError:
            problem = f"there is no time zone `{window.timezone}`"
            yield document.fault((*path, "timezone"), problem, "write it like Europe/Berlin or UTC")
            continue
        weekly, by_cron = bool(window.at and window.lasts), bool(window.cron and window.lasts)
        once = bool(window.from_ or window.to)
        said = bool(window.at or window.days), bool(window.cron), once
        if sum(said) != 1 or not (weekly or by_cron or once) or (once and window.lasts):
            remedy = (
                "write `at:` and `lasts:` (and `days:`), `cron:` and `lasts:`, or `from:` and `to:`"
            )
            yield document.fault(path, f"it is not clear when `{window.name}` is", remedy)
        elif once:
            yield from _moments(window, document, path)
        elif by_cron:
            try:
                windows.comes(window)
            except ValueError as wrong:
                remedy = "write minute, hour, day, month, weekday: 0 2 * * sun"
                yield document.fault((*path, "cron"), str(wrong), remedy)


def _moments(window: Window, document: Document, path: Place) -> Iterator[Fault]:
    for key, text in (("from", window.from_), ("to", window.to)):
        if windows.moment(text, window) is None:
            problem = f"`{text}` is no moment" if text else f"`{window.name}` has no `{key}:`"
            yield document.fault(
                (*path, key) if text else path, problem, "write it like 2026-12-24T18:00"
            )
            return
    if windows.once(window) is None:
        yield document.fault((*path, "to"), "it ends before it begins", "swap `from:` and `to:`")


def _addresses(config: Config, document: Document) -> Iterator[Fault]:
    taken: dict[str, str] = {}
    for key in ("listen", "ingest_listen", "metrics_listen"):
        text: str = getattr(config, key)
        if not text or (key != "listen" and text.startswith("unix:/")):
            continue
        found = address(text)
        if found is None:
            yield document.fault((key,), f"`{text}` is no address", "write it like 127.0.0.1:8787")
            continue
        host, port = found
        if key == "listen" and not _loopback(host):
            yield document.fault(
                (key,),
                f"`{host}` can be reached from other machines",
                "write 127.0.0.1 and put a proxy or `metrics_listen` / `ingest_listen` before it",
            )
        other = taken.setdefault(f"{host}:{port}", key)
        if other != key:
            yield document.fault(
                (key,), f"`{text}` is the address of `{other}` too", "take another port"
            )
    if config.public_url and not re.match(r"https?://[^\s/]+", config.public_url):
        yield document.fault(
            ("public_url",), f"`{config.public_url}` is no link", "write https://..."
        )


def address(text: str) -> tuple[str, int] | None:
    """Read `host:port` or `[v6]:port`; None when it is neither."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+)):(\d{1,5})", text)
    if match is None or not 0 < int(match.group(3)) < 65_536:
        return None
    return match.group(1) or match.group(2), int(match.group(3))


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _connectors(config: Config, document: Document, *, whole: bool) -> Iterator[Fault]:
    services = {s.id for s in config.services}
    models = {m for s in config.services for m in s.models}
    for name, wanted in config.connectors.items():
        path: Place = ("connectors", name)
        plugin = wanted.use or name
        if plugin not in registry.connector:
            known = list(registry.connector)
            where = (*path, "use") if wanted.use else path
            remedy = did_you_mean(plugin, known, show=40)
            yield document.fault(
                where, f"no connector is called `{plugin}`", remedy, key=not wanted.use
            )
            continue
        model = getattr(registry.connector.get(plugin), "Config", None)
        if model is None or not issubclass(model, BaseModel):
            for key in wanted.own:
                yield document.fault(
                    (*path, key), f"connector `{plugin}` has no settings", "take it away", key=True
                )
            continue
        own, faults = examine(model, document, path, wanted.own)
        yield from faults
        if own is None or not whole:
            continue
        yield from _known(own, "service", services, document, path)
        yield from _known(own, "model", models, document, path)
        given = getattr(own, "services", None)
        for what, service in given.items() if isinstance(given, dict) else ():
            if service not in services:
                remedy = did_you_mean(service, services) or "add it under `services:`"
                yield document.fault(
                    (*path, "services", what), f"no service is called `{service}`", remedy
                )


def _ways(config: Config) -> dict[str, bool]:
    """Return the connectors of agent.yaml by name: whether each tells people."""
    out = {"page": True} if config.page.command else {}
    for name, wanted in config.connectors.items():
        plugin = wanted.use or name
        known = plugin in registry.connector
        out[name] = not known or hasattr(registry.connector.get(plugin), "notify")
    return out


def _detectors(config: Config, document: Document) -> Iterator[Fault]:
    """Check names and settings of joint detectors; the step is that of the source, not of a person."""
    for name, wanted in config.detectors.items():
        path: Place = ("detectors", name)
        plugin = wanted.use or name
        if plugin not in registry.trainer or plugin not in registry.detector:
            where = (*path, "use") if wanted.use else path
            what = "always runs" if plugin in registry.detector else "is no joint detector"
            joint = [one for one in registry.trainer if one in registry.detector]
            remedy = did_you_mean(plugin, joint, show=40)
            yield document.fault(where, f"`{plugin}` {what}", remedy, key=not wanted.use)
            continue
        _, faults = examine(registry.detector.get(plugin).Config, document, path, wanted.own)
        yield from faults


def _forecasts(config: Config, document: Document) -> Iterator[Fault]:
    """Check that people are told before they are paged."""
    for kind in Outlook.kinds():
        page, tell = config.forecasts.lead(kind)
        if 0 < tell < page:
            said: Lead = getattr(config.forecasts, kind)
            key = "tell" if said.tell is not None else "page"
            yield document.fault(
                ("forecasts", kind, key),
                f"{kind} would page {say_duration(page)} before it is full, but tell only {say_duration(tell)} before",
                "let `tell` be the longer one, or 0 for never",
            )


def _known(
    own: BaseModel, key: str, known: set[str], document: Document, path: Place
) -> Iterator[Fault]:
    """Check that a connector that speaks of one service or model means one that is defined."""
    name = getattr(own, key, None)
    if not isinstance(name, str) or not name or name in known:
        return
    remedy = did_you_mean(name, known)
    if not remedy:
        remedy = (
            "add it under `services:`" if key == "service" else "add it to `models:` of a service"
        )
    yield document.fault((*path, key), f"no {key} is called `{name}`", remedy)


def _playbook_dirs(config: Config, document: Document) -> Iterator[Fault]:
    root = Path(document.place).parent
    for i, folder in enumerate(config.playbooks.dirs):
        if not (root / folder).is_dir():
            where: Place = ("playbooks", "dirs", i)
            yield document.fault(
                where, f"`{folder}` is not a folder", "relative to this file; make it or mend it"
            )


def covers(matcher: Matcher, kind: str, key: str, attrs: Mapping[str, str]) -> bool:
    """Tell whether an entity is meant by a matcher: kind, key and every attribute, `*` is a glob."""
    return (
        matcher.kind == kind
        and fnmatchcase(key, matcher.key)
        and all(fnmatchcase(attrs.get(k, ""), v) for k, v in matcher.where.items())
    )
