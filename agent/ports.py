"""The contracts between the ground and its guests. The docstring is the law.

Interval, timeout, retry, counters and tracing stay outside the plug-in. More powers are more protocols
beside these (`Undo` beside `Action`), never flags. Abilities that an action needs (Scaler, Models, ...)
stand beside the action that needs them, in `playbooks/actions/`; a connector just has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

from agent.model import BoolArray, Change, FloatArray, Frame, IntArray, Series, Sighting
from agent.traits import Traits

if TYPE_CHECKING:
    from agent.chat import Room
    from agent.journal import Entry

P = TypeVar("P")
_offered: WeakKeyDictionary[type[Any], dict[type[Any], bool]] = WeakKeyDictionary()


def offers(thing: object, port: type[P]) -> TypeGuard[P]:
    """Whether a guest keeps a contract: `isinstance`, asked once a class, for each tick (0.2 us, not 8 to 14)."""
    known = _offered.setdefault(type(thing), {})
    said = known.get(port)
    if said is None:
        said = known[port] = isinstance(thing, port)
    return said


@runtime_checkable
class Source(Protocol):
    """Something that can be asked how things are.

    Called from the daemon's event loop, never twice at once. `interval_s` is how often it wants to be asked;
    the collector stretches it when polls cost more than their share. What may block runs in a thread with a
    time limit, inside. Raises Unavailable (back off, the source is stale) or Refused (a person must mend it).
    """

    interval_s: float

    async def poll(self) -> Frame:
        """Take one reading. Counters stay counters: the collector makes rates."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A source of which somebody has kept the past: `remembers_s` of it is wanted, 0 = none.

    Asked once, before the first poll, where history holds nothing of the source. The caller bounds the time.
    """

    remembers_s: float

    async def past(self, since: float, until: float) -> Sequence[Frame]:
        """Return rows in order of time, bounded in memory; counters stay counters. Raises as `poll` does."""
        ...


@runtime_checkable
class Covering(Protocol):
    """A source that may see what another one would have to look for itself: `covers`, as of its last poll."""

    covers: frozenset[Series]


@runtime_checkable
class Ceding(Protocol):
    """A source that need not tell what another one covers.

    Told before each poll, with what sources that are not blind cover; what it leaves out stays out of its frame.
    `rests_s`, as of its last poll: how seldom it may be asked while it leaves much to others; 0 = as ever.
    """

    rests_s: float

    def cede(self, covered: frozenset[Series]) -> None:
        """Leave these to others, and nothing else."""
        ...


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """Rows that a model service logged, columnar; see `agent.models` for what becomes of them.

    model, version   whose rows (version "" = unknown)
    ts               (n,) unix seconds of the prediction
    ids              (n,) what a late label refers to; "" = none
    features         name -> (n,) float64 (NaN = missing) or (n,) object of str (None = missing)
    pred             (n,) object of str, or float64 for regression; None = not logged
    proba            (n,) probability of the predicted class; NaN = not logged
    latency_s        (n,) as the client saw it, waiting included; NaN = not logged
    processing_s     (n,) inside the worker, without waiting; NaN = not logged
    status           (n,) HTTP-like code; 200 = served
    traces           (n,) trace ids of the requests, "" = none; () where the source carries none
    variant          which arm these rows are of: canary, shadow, A, B; "" = not said
    classes, shares  (n, len(classes)) probability of each class, NaN = not logged; () and None where none has them
    tags             name -> (n,) object of str, None = none
    tokens_in, tokens_out, ttft_s   (n,) of generators, NaN = not logged; None where no row has one
    finish           (n,) object of str: why a generator stopped; None where no row has one
    dropped          rows that the sender could not log since it told the last time, by its own count
    """

    model: str
    version: str
    ts: FloatArray
    ids: tuple[str, ...]
    features: Mapping[str, Any]
    pred: Any
    proba: FloatArray
    latency_s: FloatArray
    processing_s: FloatArray
    status: IntArray
    traces: tuple[str, ...] = ()
    variant: str = ""
    classes: tuple[str, ...] = ()
    shares: FloatArray | None = None
    tags: Mapping[str, Any] = field(default_factory=dict)
    tokens_in: FloatArray | None = None
    tokens_out: FloatArray | None = None
    ttft_s: FloatArray | None = None
    finish: Any = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels that came later: `ids[i]` was in truth `labels[i]`, known since `ts[i]`."""

    model: str
    ts: FloatArray
    ids: tuple[str, ...]
    labels: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of one column over fixed bins: two of the same bins are merged by adding.

    edges    (k,) rising; () = a category
    values   (k,) of a category; () = numbers
    counts   of numbers (k + 1,): below the first edge, [edge, next edge), from the last edge on; of a category (k,)
    missing  rows without a value
    other    rows with a value that has no count of its own
    """

    edges: FloatArray
    values: tuple[str, ...]
    counts: IntArray
    missing: int = 0
    other: int = 0


@dataclass(frozen=True, slots=True)
class SketchBatch:
    """Rows that an edge process has counted itself, over the edges of the reference; no row in it.

    id             the same for every try to send it; "" = none
    since, until   unix seconds of its first and last row
    rows, failed   predictions, and requests that failed beside them
    pred           of the predictions; None = not counted
    """

    model: str
    version: str
    variant: str
    id: str
    since: float
    until: float
    rows: int
    failed: int
    features: Mapping[str, Sketch]
    pred: Sketch | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """An alert from elsewhere: evidence, not yet an incident. firing False = it was resolved."""

    ts: float
    name: str
    source: str
    firing: bool
    labels: tuple[tuple[str, str], ...]
    text: str = ""


class Book:
    """Names by number, that only grow: of a table that one process fills and another one reads.

    origin   the same for one table, never used again for another
    start    number of the first name that is in here; those before it have been told
    told     how many names have been handed to the other process, in order, without a gap
    """

    __slots__ = ("origin", "series", "start", "told")

    def __init__(self, origin: str, series: list[Series] | None = None, start: int = 0) -> None:
        self.origin = origin
        self.series: list[Series] = [] if series is None else series
        self.start = start
        self.told = 0


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatch:
    """The newest values of series that others measured, columnar; rates are made already. See `agent.board`.

    source     the connector whose series they are
    book, at   who they are: numbers (n,) in the book
    values     (n,) in base units; NaN = its sender says that there is none
    every_s    how often its frame is made; a value holds for three times as long
    seen       entities that are new or due
    left_out   points that were not taken since the last batch, and `why`
    sender     who pushed them
    """

    source: str
    book: Book
    at: IntArray
    values: FloatArray
    every_s: float
    seen: tuple[Sighting, ...] = ()
    left_out: int = 0
    why: str = ""
    sender: str = ""


Logged = PredictionBatch | LabelBatch | SketchBatch
"""What is about the rows of a model."""
Bulk = Logged | SampleBatch
"""What comes in masses, and is counted between the ticks."""

Arrival = Frame | Change | Signal | Bulk


@dataclass(frozen=True, slots=True)
class Said:
    """What a route answers in its sender's own protocol, with status 200; nothing has arrived."""

    body: bytes = b""
    media: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Route:
    """One way in that a receiver asks for; the daemon mounts it with limits and authority.

    handle   body and content type in, arrivals out; raises Refused for what is malformed (answered 4xx)
    vouch    for senders that sign and can carry no token of ours: headers (lower case) and body in; raises Refused
             unless the signature is right (answered 401). It is asked before `handle`, and instead of a token; a
             request with a token of ours needs no signature. None = a token with the role for `push`, always.
    always   a token does not stand in for the signature: what is sent says who does something, and only the sender
             knows who that is
    """

    path: str
    handle: Callable[[bytes, str], Sequence[Arrival] | Said]
    max_bytes: int = 8 << 20
    vouch: Callable[[Mapping[str, str], bytes], None] | None = None
    always: bool = False


@runtime_checkable
class Receiver(Protocol):
    """Something that others push to."""

    def routes(self) -> Sequence[Route]:
        """Say the ways in, once, at start."""
        ...


@dataclass(frozen=True, slots=True)
class Pushed:
    """One request for an inlet.

    body      inflated
    headers   names in lower case
    query     what stood behind the `?`
    now       unix seconds when it came
    columns   model -> its features in order, as its registered reference has them; () = not known. It may have to be
              asked for first: it then raises, and the inlet is asked again; so look it up before anything is kept
    allow     model -> raises Forbidden when the sender may not speak for it; for what is kept and not returned. `*`
              asks for all there is: what is about no model needs that
    sender    name of who sends
    """

    body: bytes
    headers: Mapping[str, str]
    query: Mapping[str, str]
    now: float
    columns: Callable[[str], Sequence[str]]
    allow: Callable[[str], None]
    sender: str = ""


@dataclass(frozen=True, slots=True)
class Taken:
    """What an inlet made of a request.

    arrivals   sender and limits are checked behind it: nothing may have been kept of a model that was not allowed
    waiting    what the inlet keeps in memory until its other half comes, all requests together
    answer     status, media type and body; None = 202 and how many rows were accepted
    """

    arrivals: Sequence[Bulk]
    waiting: int = 0
    answer: tuple[int, str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class Inlet:
    """One way in for masses of rows.

    take     a request in, rows out; raises Refused for what is malformed (answered 4xx), and has then kept nothing
    beside   it takes its part of what another inlet of the same path takes, too; asked after that one
    """

    path: str
    take: Callable[[Pushed], Taken]
    beside: bool = False


@runtime_checkable
class BulkReceiver(Protocol):
    """Something that masses of rows are pushed to.

    Its inlets are mounted on the daemon's own port and, where there is `ingest_listen`, in a process of their own:
    there it is built a second time, with the same config, and nothing but its inlets is used.
    """

    def inlets(self) -> Sequence[Inlet]:
        """Say the ways in, once, at start."""
        ...


@runtime_checkable
class Feed(Protocol):
    """A log that grows (prediction logs, label files): read on from where we were, also after kill -9."""

    interval_s: float

    async def read(self) -> Sequence[Arrival]:
        """Return what has come since the last call; bounded by what one tick may carry."""
        ...


@dataclass(frozen=True, slots=True)
class Why:
    """Why a detector says that a series is abnormal.

    family       spike, level, trend, shape, variability, flatline, peers, silence, ...
    low, high    the band that was expected, in units of the series
    deviations   distance from it in robust deviations
    learnt_rows  how many rows of history stand behind it; p can not be below 1 / (30 learnt_rows)
    carriers     positions of the series that are abnormal together with it, the most first; joint detectors only
    since        when it began, where the detector knows better than its caller (silence: the last value)
    """

    family: str
    low: float
    high: float
    deviations: float
    learnt_rows: int
    calibrated: bool
    carriers: tuple[int, ...] = ()
    since: float | None = None


class Detector(Protocol):
    """Numbers in, p-values out: columnar over all series of one source, causal, deterministic.

    A detector keeps its state in arrays (n, ...), at most 3 kB a series. It has no clock, no I/O, no log and no opinion
    on what is bad. `agent.testing.check_detector` tries all of this.
    """

    def score(self, ts: float, x: FloatArray) -> FloatArray:
        """Return p-values (n,) of this row against what was learnt before it; NaN = not ready or x NaN.

        A series that has answered may be given a p where x is NaN: how rare it is that it is silent for so long,
        explained as "silence". Where others of the row have no value either, nobody is.
        """
        ...

    def learn(self, ts: float, x: FloatArray, trust: BoolArray) -> None:
        """Learn the row, after `score`; trust[i] False = it is called abnormal, do not learn it.

        Rows that come late or twice teach nothing. Rows of the past may come without a `score` before them.
        """
        ...

    def remap(self, old_index: IntArray) -> None:
        """Series came and went: new position i was old_index[i]; -1 = new, starts from nothing."""
        ...

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped. Versioned and checked."""
        ...

    def load(self, state: bytes) -> None:
        """Take a state that `dump` gave; raises Refused when it is damaged or of another version."""
        ...

    def explain(self, i: int) -> Why:
        """Say why series i got its last p-value."""
        ...


@runtime_checkable
class Knowing(Protocol):
    """A detector that wants to know what its series are, not only how they move."""

    def set_traits(self, traits: Traits) -> None:
        """Take what the n series are: after it was made, and after every `remap`, before the next row."""
        ...


@runtime_checkable
class Banded(Protocol):
    """A detector that can say where it expects a series, also while nothing is wrong."""

    def band(self, i: int) -> tuple[float, float]:
        """Return low and high for the last row of series i, in its units; NaN = not known (yet)."""
        ...


class GroupView(Protocol):
    """What is abnormal together: p-values of the series of one source in, a p-value of each of g groups out.

    Registered with `@registry.view`, made with `(Config(...), of)`; `of` (n,) is the group of each column. Calls come
    as with a `Detector`: score, then learn; no clock, no I/O, no opinion on what is bad. The order of the columns does
    not matter, and groups do not influence each other. `agent.testing.check_view` tries all of this.
    """

    def score(self, ts: float, p: FloatArray) -> FloatArray:
        """Return p-values (g,) of this row (n,) of p-values; NaN = not ready, or fewer than two have a p."""
        ...

    def learn(self, ts: float, p: FloatArray, trust: BoolArray) -> None:
        """Learn the row, after `score`; trust[g] False = the group is called abnormal, do not learn it."""
        ...

    def regroup(self, of: IntArray, old_index: IntArray) -> None:
        """Columns or groups changed: new group g was old_index[g]; -1 = new, starts from nothing."""
        ...

    def carriers(self, group: int) -> IntArray:
        """Return the columns that made the last p-value of a group what it is, the rarest first."""
        ...

    def dump(self) -> bytes:
        """Return the state of the groups; `load(dump())` = never stopped. Versioned and checked."""
        ...

    def load(self, state: bytes) -> None:
        """Take a state that `dump` gave, with its groups; columns come with the next `regroup`; raises Refused."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, ready to act.

    key       idempotency key: run id + step id; the same for every try of the same step
    params    the action's parameters, interpolated, of its own types
    before    what `observe` said when the run was planned (compare-and-set against it)
    target    entity id
    facts     facts of the diagnosis
    dry_run   say what would be done, change nothing
    """

    key: str
    use: str
    target: str
    params: Mapping[str, Any]
    before: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """What a step did: a line for people, values for later steps (`${steps.ID.NAME}`), and what undo needs.

    undo   {} = nothing was changed, so there is nothing to put back
    """

    summary: str
    values: Mapping[str, Any] = field(default_factory=dict)
    undo: Mapping[str, Any] = field(default_factory=dict)
    change: Change | None = None


@runtime_checkable
class Action(Protocol):
    """A verb: a class under `@action("name")`, with `class Params(Model)` and four attributes.

    effect     "mutating" | "marking" (only marks, blocks retraining or tells people) | "reading"
    ability    the Protocol that a connector must have, or None
    reversible whether it has `undo`, or what it did `stays` and harms nobody; irreversible verbs need mode approve
    shared     acts on something that several agents may share (endpoint, alias, deployment)

    Built with `(params, ability)`; `ability` is the connector found by `via:` or the only one that has it. One that
    waits by its own parameters may have an attribute `waits_s`: a try is given at least so long. `gives`, if it has it,
    names the values of its `Done`, so that `${steps.ID.NAME}` is checked at load: a tuple, or a static method from the
    parameters as they are written to one. `stays`, if it has it, says in words why nothing of what it did is put back
    though it is reversible: it has no `undo` then, and such a step is never called undone. One that is not reversible
    may have `undo` all the same, for steps to which somebody has declared an inverse: of others its `Done.undo` is {}.
    """

    effect: str
    ability: type[Any] | None
    reversible: bool
    shared: bool

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Read the state of the world that this step would change; free of effects; JSON-able."""
        ...

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether `seen` is what the step wants: it has happened, or need not."""
        ...

    async def run(self, step: Step) -> Done:
        """Act once, by compare-and-set against `step.before`; honours `step.dry_run`.

        Also called when `reached` holds already (a try that was cut off, or the world needs nothing): then it changes
        nothing and returns what undo needs if the act was ours. Idempotent per step.key where the world allows.
        Raises Unavailable (nothing happened, try again), Refused (nothing happened, stop), Uncertain (it may have
        happened: the runner will `observe`).
        """
        ...


@runtime_checkable
class Undo(Protocol):
    """An action that can put back what was there."""

    async def undo(self, step: Step, done: Mapping[str, Any]) -> Done:
        """Put back `done` (the `Done.undo` of run), by compare-and-set; idempotent; Refused if others changed it."""
        ...


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell people. `key` is the same for every try: who has told it once does not tell it again.

    event   "" = a message; else what happened, a word of `agent.news.EVENTS`, for ways that want to know (`Choosy`)
    link    where to read more: the console, or what a change names; "" = nowhere
    to      only to these ways, as the ladder wants; () = to whom the routes say
    facts   short words by name (`cause`, `state`, `began`), as they are when the note is delivered
    """

    key: str
    ts: float
    severity: str
    title: str
    text: str
    incident: str = ""
    owner: str = ""
    channel: str = ""
    event: str = ""
    link: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    to: tuple[str, ...] = ()


@runtime_checkable
class Notifier(Protocol):
    """A way to reach people."""

    async def notify(self, note: Note) -> None:
        """Deliver; keeps nothing, and may be asked again with the same key.

        Raises Refused when this note can never be delivered (it is given up); Unavailable or Uncertain for all that
        may be mended within hours, a wrong token included: the note waits, and its way is named in /health.
        """
        ...


@runtime_checkable
class Choosy(Protocol):
    """A notifier that says what it wants to hear; one that does not say gets every message, and no events."""

    def wants(self, note: Note) -> bool:
        """Tell whether this note is for it; asked once a note, before it is owed. Free of effects."""
        ...


@runtime_checkable
class Chat(Protocol):
    """Somewhere where people see incidents live and act on them. It decides nothing: the desk does, for a `Person`."""

    async def talk(self, room: Room) -> None:
        """Talk until cancelled, and leave nothing behind then; started anew when it returns or raises.

        Says `room.well` once it is there. Raises Unavailable, Refused, Uncertain for what keeps it from talking at all;
        what concerns one incident or one person it bears itself.
        """
        ...

    def troubles(self) -> Sequence[str]:
        """Say what a person should know, beside why it can not talk."""
        ...


@runtime_checkable
class Archive(Protocol):
    """Somewhere else where a copy of the record is kept, with counts of the rows that were scored.

    The journal itself is what waits while it is away: entries are given in order, from `position` on, page by page;
    those of runs with the gates that let them through (`gates` in the body). After a crash they may be given again.
    """

    position: int
    """Number of the newest entry that it has for sure, also after the next start; 0 = none."""

    def count(self, rows: Logged) -> None:
        """Count rows that were scored, in memory and quickly; raises nothing that is expected."""
        ...

    async def keep(self, entries: Sequence[Entry]) -> bool:
        """Take entries, none or some; called every few seconds, never twice at once. True = more of its own waits.

        When it returns, `position` is the last of them. Raises Unavailable: they are given again later.
        """
        ...

    async def store(self) -> None:
        """Put on its own disk what it has counted; called every few seconds while `keep` fails and is waited for."""
        ...

    def troubles(self) -> Sequence[str]:
        """Say what a person should know, beside why `keep` failed."""
        ...


@runtime_checkable
class Pulse(Protocol):
    """Something outside that raises an alarm when it does not hear from us."""

    pulse_s: float
    """How often it wants to hear."""

    async def beat(self, ts: float) -> None:
        """Say that the walk got to `ts` and the journal takes entries; raises Unavailable, Refused, Uncertain."""
        ...


Labels = tuple[tuple[str, str], ...]
"""Name (`__name__`) and labels of a number of ours, sorted."""


@runtime_checkable
class Sink(Protocol):
    """Something outside that keeps our numbers: what /metrics shows, and how rare the values of series are now."""

    sink_s: float
    """How often it wants them."""
    tally: Mapping[str, int]
    """Samples by what became of them: delivered, refused, dropped, waiting."""

    def keeps(self, metric: str) -> bool:
        """Tell whether it wants a metric, by its name in /metrics."""
        ...

    def heeds(self, series: Series) -> bool:
        """Tell whether it wants the score of a series."""
        ...

    def take(self, ts: float, numbers: Mapping[Labels, float]) -> None:
        """Keep them until they are delivered, bounded; what is not in it any more has ended. Never waits."""
        ...

    async def deliver(self) -> None:
        """Deliver what waits, the oldest first; raises Unavailable (tried again), and Refused when all else is out."""
        ...


@runtime_checkable
class Silencer(Protocol):
    """Something that keeps quiet about a target for a while: our own silences, or those of an Alertmanager."""

    async def silence(self, key: str, target: str, until: float, by: str, reason: str) -> None:
        """Keep quiet until then (unix seconds); the same key is one silence. Raises Unavailable, Refused, Uncertain."""
        ...

    async def silenced(self, key: str) -> float | None:
        """Return until when the silence of this key holds; None = there is none, or it has ended."""
        ...

    async def unsilence(self, key: str) -> None:
        """End it now; none is no failure."""
        ...


@dataclass(frozen=True, slots=True)
class Mute:
    """A silence that stands elsewhere.

    key       what we called it when we made it; "" = somebody else did
    targets   globs of entities, of one that is not ours
    active    False = it has ended, perhaps before its time
    """

    id: str
    key: str
    targets: tuple[str, ...]
    until: float
    by: str
    reason: str
    active: bool = True


@runtime_checkable
class Muting(Protocol):
    """A Silencer whose silences hold for us, and ours there: see `agent.mutes`."""

    muting: bool
    """False: by its config the two are kept apart."""

    async def mutes(self) -> Sequence[Mute]:
        """Return those that hold, and of ours also those that ended; raises Unavailable, Refused."""
        ...

    async def silence(self, key: str, target: str, until: float, by: str, reason: str) -> None:
        """As `Silencer`."""
        ...

    async def unsilence(self, key: str) -> None:
        """As `Silencer`."""
        ...

    async def unmute(self, id_: str) -> None:
        """End one of somebody else's, by its id; none is no failure."""
        ...


@runtime_checkable
class Abilities(Protocol):
    """A connector that can say in one line each what it sees and what it may do, for `homeostat try`."""

    async def describe(self) -> Sequence[str]:
        """Return lines for people."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureState:
    """How one input column stands against its reference. NaN and None = not known.

    used           the version that serves was made with it (False: it is only logged)
    learning       there is no reference yet: the first rows make one
    rows           effective rows behind the newest numbers
    scale          median magnitude against that of the reference
    broken, reason, since   whether its contract is broken, how (`missing 40 %`, `scale x0.01`), since when
    evidence       log10 of the e-value against "as the reference"; 0 is what the bearable rate of false alarms asks for
    drifted        evidence and size together
    """

    name: str
    used: bool
    learning: bool
    rows: float
    missing: float
    out_of_range: float
    scale: float
    psi: float
    broken: bool | None
    reason: str
    since: float | None
    evidence: float
    drifted: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of one feature lie: counts of the reference (usual) and of late (now), for people.

    edges    of a number: cells are all below the first, those between, all above the last; () of a category
    values   of a category: its cells, in this order; () of a number
    missing, wrong   of late: rows without a value, and with one that the reference has no cell for
    """

    edges: tuple[float, ...]
    values: tuple[str, ...]
    usual: FloatArray
    now: FloatArray
    missing: float
    wrong: float


@dataclass(frozen=True, slots=True)
class Coded:
    """What is kept of rows until their labels come, (n,) each; no feature value is in it.

    marks    bits: 1 = a value that the reference has not, 2 = a contract was broken, 4 = features stood to each other
             as never before
    slices   (s, n) number of the value of each of `FeatureDrift.slicings`; 255 = none
    """

    marks: Any
    slices: Any


class FeatureDrift(Protocol):
    """The inputs of one model version against their reference; registered with `@registry.drift`.

    Columnar over features, constant memory, no clock, no I/O, no log. Made with
    `(Config(...), reference, others)`: the version's own reference.json or None, and those of the model's other
    versions, for logged features that only they describe; raises Refused when its own reference is malformed.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """The features that it knows; grows only while it learns."""
        ...

    @property
    def slicings(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Features whose values are looked at apart, with these values."""
        ...

    def take(self, ts: float, rows: int, features: Mapping[str, Any]) -> Coded:
        """Count a batch: columns as in `PredictionBatch`, newest row at `ts`. Unknown columns are ignored."""
        ...

    def code(self, rows: int, features: Mapping[str, Any]) -> Coded:
        """Say what would be kept of rows, without counting them."""
        ...

    def first_rows(self) -> Mapping[str, Any] | None:
        """Return the first rows as columns, when they are enough to be a reference and none was made of them."""
        ...

    def learnt(self, state: bytes) -> None:
        """Take the state of one to which `first_rows` are the reference (`fit`), and count them."""
        ...

    def fit(self, features: Mapping[str, Any], *, whole: bool = True) -> None:
        """Make rows the reference: columns of one length, in the order of time.

        whole   they are of all hours in which the model serves
        """
        ...

    def judge(self, ts: float) -> FloatArray:
        """Decide at `ts`; return (d, 7), NaN = unknown.

        missing, out of range, scale, PSI, broken (0, 1), evidence (log10 of the e-value), drifted (0, 1)
        """
        ...

    def moved(self) -> dict[str, float]:
        """Return log10 of the e-value of each feature that has moved far enough to matter; 0 is enough."""
        ...

    def states(self) -> tuple[FeatureState, ...]:
        """Say what the last `judge` found, for each of `names`."""
        ...

    def restart(self) -> None:
        """Forget the rows, keep the reference: the version serves anew."""
        ...

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped. Holds counts, never rows."""
        ...

    def load(self, state: bytes) -> None:
        """Take a state that `dump` gave; raises Refused when it is damaged or of another version."""
        ...


@dataclass(frozen=True, slots=True)
class Band:
    """A figure with the bounds that it lies between; NaN = unknown."""

    value: float
    low: float
    high: float

    @staticmethod
    def unknown() -> Band:
        """Return the band of what is not known."""
        return Band(math.nan, math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class RelationChange:
    """What speaks for a changed relation between inputs and labels, and since when.

    what       error, better, overconfident, underconfident, surprise, or the name of a slicing
    value      of the slicing; "" = all rows
    since      unix seconds after which it began
    rows       labelled rows of it since then
    before, after   mean loss before that and since
    evidence   log10 of its e-value
    """

    what: str
    value: str
    since: float
    rows: int
    before: float
    after: float
    evidence: float


@dataclass(frozen=True, slots=True)
class LossParts:
    """What a change of the loss against the reference is made of; parts in its unit, shares of it, all with 90 %.

    features         name -> what its move alone is worth; relation: what no move explains
    shares           the same as shares of the change; unknown while it is not sure that there is one
    unseen           features with many rows in bins that the reference never had: their worth falls to the relation
    """

    change: Band
    features: Mapping[str, Band]
    relation: Band
    shares: Mapping[str, Band]
    relation_share: Band
    unseen: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Driver:
    """One feature of one row.

    adds   what its value adds to the answer, in the unit of the answer; NaN = not known
    rare   how large a share of the reference is at least as unusual
    """

    name: str
    adds: float
    rare: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What late labels and confidences say of one model version.

    changed    evidence and size of a changed relation together
    evidence   log10 of the e-value of what is large enough, by which it passes what is enough; below 0 it does not
    expected   accuracy without labels, with 90 %; unknown says why there is none
    figures    name -> figure of all rows with 95 % bounds; gaps by (slicing, kind), slices by (slicing, value)
    """

    changed: bool
    evidence: float
    changes: tuple[RelationChange, ...]
    expected: Band
    unknown: str
    figures: Mapping[str, Band]
    gaps: Mapping[tuple[str, str], Band]
    slices: Mapping[tuple[str, str], Band]
    learning: bool

    @staticmethod
    def nothing() -> Judged:
        """Return what is known before the first label."""
        return Judged(
            False, -math.inf, (), Band.unknown(), "no labels yet", {}, {}, {}, learning=True
        )


@dataclass(frozen=True, slots=True)
class LabelledRows:
    """Predictions whose labels have come, (n,) each.

    said, truth   numbers of classes, or numbers of a regression in the unit of the label
    confidence    probability of what was said; NaN = not logged
    marks, slices   (n,) and (s, n), as in `Coded`
    """

    said: Any
    truth: Any
    confidence: FloatArray
    marks: Any
    slices: Any


class LabelledDrift(Protocol):
    """Late labels of one model version; registered with `@registry.drift`.

    Made with `(Config(...), slicings)`: name and values of each.

    Columnar, constant memory, no clock, no I/O, no log. `positive` is the class of precision and recall where there
    are two classes, else None.
    """

    @property
    def restless(self) -> float:
        """How much more than chance the loss wanders in ordinary life: a design effect, at least 1."""
        ...

    @property
    def large(self) -> float:
        """The error of a regression that a tenth of those of its reference exceed; NaN = not known."""
        ...

    def fit(self, rows: LabelledRows, classes: int, positive: int | None) -> None:
        """Take rows of the reference, in the order in which they came; classes 0 = a regression."""
        ...

    def take(
        self, ts: float, confidence: FloatArray, positive: BoolArray | None, marks: Any
    ) -> None:
        """Count predictions (n,), the newest at `ts`; positive = said to be so, None = more classes."""
        ...

    def label(self, ts: float, rows: LabelledRows, classes: int, positive: int | None) -> None:
        """Take labelled rows; classes 0 = a regression."""
        ...

    def judge(self, ts: float) -> Judged:
        """Say what is known at `ts`."""
        ...

    def restart(self) -> None:
        """Forget what was found, keep the reference: the version serves anew."""
        ...

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped. Holds counts, never rows."""
        ...

    def load(self, state: bytes) -> None:
        """Take a state that `dump` gave; raises Refused when it is damaged or of other slices."""
        ...


class ErrorDrift(Protocol):
    """Sequential evidence that a share of errors lies above a bound; valid however often one looks."""

    alarm: float
    """log10 of the evidence that is enough: at least 10^alarm batches between two false alarms, on average."""

    def take(self, wrong: int, rows: int, bound: float) -> None:
        """Count a batch of judged rows; `bound` is fixed before they are seen."""
        ...

    @property
    def evidence(self) -> float:
        """log10 of the e-value."""
        ...

    def dump(self) -> FloatArray:
        """Return the state, a few numbers."""
        ...

    def load(self, state: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        ...


class SuccessionDrift(Protocol):
    """Sequential evidence that what took over errs more than what it took over from; valid however often one looks."""

    alarm: float
    """log10 of the evidence that is enough."""

    def take(self, wrong: int, rows: int, before: tuple[float, float], effect: float) -> None:
        """Count a batch of judged rows; before: errors and rows; effect: design effect, at least 1."""
        ...

    @property
    def evidence(self) -> float:
        """log10 of the e-value."""
        ...

    @property
    def rise(self) -> float:
        """How much larger the share of errors is than before; NaN = there are no rows."""
        ...

    def dump(self) -> FloatArray:
        """Return the state, a few numbers."""
        ...

    def load(self, state: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        ...


class ReplicaDrift(Protocol):
    """Which replica answers otherwise than its peers; registered with `@registry.drift`.

    Made with `(answers, Config(...))`. Columnar over replicas, which are numbers until `remap`; no clock, no I/O.
    """

    apart: BoolArray
    """Which are (n,)."""

    def remap(self, old: IntArray) -> None:
        """Take other replicas: the old number of each, -1 = new."""
        ...

    def take(self, ts: float, counts: Any) -> None:
        """Count the rows of a batch by replica and answer (n, answers), until `ts`."""
        ...

    @property
    def ready(self) -> BoolArray:
        """Which replicas are known well enough (n,)."""
        ...

    @property
    def size(self) -> FloatArray:
        """Share of its answers (n,) that would have to be others to be like its peers, less what is usual."""
        ...

    @property
    def evidence(self) -> FloatArray:
        """log10 of the e-value (n,); 0 is enough."""
        ...

    def dump(self) -> FloatArray:
        """Return the state."""
        ...

    def load(self, state: FloatArray) -> None:
        """Take what `dump` gave; raises Refused when it does not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Past:
    """Which past a training wants to see: rows of `step_s` out of the last `span_s` seconds.

    rows         how many at most; when the span has more, pieces of it are taken, spread evenly
    piece_rows   how many follow each other without a gap
    least_rows   fewer are not worth a training
    """

    span_s: float
    step_s: float
    rows: int
    piece_rows: int
    least_rows: int


@runtime_checkable
class Trainable(Protocol):
    """A detector whose model is made from history, beside the ticks; until then it scores NaN.

    Its class is registered twice, with `@registry.detector` and `@registry.trainer`: the worker process finds
    `train` by that name. Scoring stays pure numpy, in the daemon; what `train` imports never gets there.
    """

    def past(self) -> Past:
        """Say what `train` wants to see."""
        ...

    def take(self, model: bytes, column: IntArray) -> None:
        """Score by what `train` returned from now on; series i was column[i] of its rows, -1 = none. Or Refused."""
        ...

    @staticmethod
    def train(config: Any, ts: FloatArray, values: FloatArray) -> bytes:
        """Make a model from rows (k, n), ts ascending, NaN = not known; blocks as long as it takes.

        Only ever called in the worker process. Raises Refused when these rows do not do (too few, nothing moves) or
        a library is not installed, and says which extra brings it.
        """
        ...
