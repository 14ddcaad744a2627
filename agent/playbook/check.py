"""All that can be known of a playbook before it acts: names, types and units, verbs and parameters, undo and proof."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent import registry
from agent.abilities import able
from agent.attributes import ATTRIBUTES, LABELS, facts_of
from agent.catalogue import SIGNALS, labelled
from agent.causes import CAUSES, known
from agent.codec import canonical
from agent.config import labels_of, unknown_attribute
from agent.errors import ConfigError, Fault
from agent.expr import Kind, lint, parse, pieces, places
from agent.model import EntityKind
from agent.playbook import dimensions
from agent.playbook.language import MOST, Item, Playbook, StepModel
from agent.playbook.trial import ABOUT, Example, notation
from agent.playbook.verbs import can_undo, given_by, may_undo, stays, verb_of
from agent.strict import Document, Place, did_you_mean, examine, misfits
from agent.units import read_quantity

if TYPE_CHECKING:
    from agent.config import Config


def checked(
    document: Document, config: Config | None, folder: Path = Path()
) -> tuple[Playbook | None, list[Fault]]:
    """Return the playbook of a document and every fault; None when it is not one, or names verbs that are not there.

    config   None = there is no agent.yaml at hand: no connector is asked for
    folder   where the files lie that its tests name
    """
    playbook, faults = examine(Playbook, document)
    if playbook is None:
        sound = _sound(document)
        if sound is not None:
            faults += sound.check(config).faults(whole=False)
        return None, sorted(set(faults), key=lambda f: (f.line, f.column, f.problem))
    faults += _Check(playbook, document, config).faults()
    if any(step.use not in registry.action for step in (*playbook.do, *playbook.then)):
        return None, faults
    # set once, here
    playbook._text_hash = _hash(document.data)  # noqa: SLF001
    playbook._folder = folder  # noqa: SLF001
    if config is not None:
        ports = {verb_of(step).ability for step in (*playbook.do, *playbook.then)} - {None}
        playbook._able = {port.__name__: tuple(able(config, port)) for port in ports}  # noqa: SLF001
    return playbook, faults


def _hash(data: Any) -> str:
    return hashlib.sha256(canonical(_jsonable(data)).encode()).hexdigest()


def _jsonable(data: Any) -> Any:
    """Let NaN and infinities, which JSON has not, stand as text."""
    if isinstance(data, float) and not math.isfinite(data):
        return repr(data)
    if isinstance(data, Mapping):
        return {key: _jsonable(value) for key, value in data.items()}
    return [_jsonable(value) for value in data] if isinstance(data, list) else data


_STAND_IN: Final[Mapping[str, Any]] = {
    "version": 1, "id": "unknown", "title": "unknown", "do": [{"id": "unknown", "use": "unknown"}],
}  # fmt: skip
"""What stands for a part that must be there and is not right, as far as no other part depends on what it says."""
_MOST_TURNS: Final = 20
_QUOTED: Final = 120
"""So much of an expression is quoted in a message: its place is told beside it."""


@dataclass(frozen=True, slots=True)
class _Sound:
    """What of a faulty playbook is right; lost: the places of what was taken away or stood in for."""

    playbook: Playbook
    document: Document
    lost: frozenset[Place]

    def check(self, config: Config | None) -> _Check:
        return _Check(self.playbook, self.document, config, self.lost)


def _sound(document: Document) -> _Sound | None:
    """Return what of a faulty playbook is right, so that its names are checked in the same go; None = too little.

    Keys that nobody knows and values that do not fit are taken away, then what lacks something, until the rest fits.
    """
    gone: set[Place] = set()
    for _ in range(_MOST_TURNS if not document.broken else 0):
        marks: dict[Place, Place] = {}
        data = _without(document.data, (), (), gone, marks)
        stands = {name: value for name, value in _STAND_IN.items() if name not in data}
        verify = data.get("verify")
        if isinstance(verify, dict):
            stands["verify"] = {"within": 60.0, **verify}
        wrong = misfits(Playbook, data | stands)
        if not wrong:
            return _Sound(
                Playbook.model_validate(data | stands),
                _moved(document, data, marks),
                frozenset({*_left_by(gone, marks), *((name,) for name in stands)}),
            )
        if () in wrong:
            return None
        # what was stood in for is not marked, and right
        gone |= {marks[place] for place in wrong if place in marks}
    return None


def _without(
    data: Any, path: Place, at: Place, gone: Collection[Place], marks: dict[Place, Place]
) -> Any:
    """Return data without the places in `gone`; marks: where each place of the result comes from."""
    marks[at] = path
    if isinstance(data, dict):
        return {
            key: _without(value, (*path, key), (*at, key), gone, marks)
            for key, value in data.items()
            if (*path, key) not in gone
        }
    if isinstance(data, list):
        left = [i for i in range(len(data)) if (*path, i) not in gone]
        return [_without(data[i], (*path, i), (*at, n), gone, marks) for n, i in enumerate(left)]
    return data


def _left_by(gone: Collection[Place], marks: Mapping[Place, Place]) -> Iterator[Place]:
    """Yield where, in what is left, the places stood that are gone."""
    now = {path: at for at, path in marks.items()}
    yield from ((*now.get(place[:-1], place[:-1]), place[-1]) for place in gone)


def _moved(document: Document, data: dict[str, Any], marks: Mapping[Place, Place]) -> Document:
    """Return a document of what is left of another: each place points to where it was written."""

    def moved(table: Mapping[Place, Any]) -> dict[Place, Any]:
        return {at: table[path] for at, path in marks.items() if path in table}

    return replace(
        document, data=data, values=moved(document.values), keys=moved(document.keys), raw=moved(document.raw)
    )  # fmt: skip


def branches() -> set[str]:
    """Return every cause and every branch of the tree of causes."""
    return {".".join(c.split(".")[: i + 1]) for c in CAUSES for i in range(c.count(".") + 1)}


_OWN_NAMES: Final[Mapping[str, Kind]] = {
    "title": "text", "owner": "text", "incident.id": "text", "incident.title": "text", "incident.severity": "text",
    "cause.words": "text",
}  # fmt: skip
_TARGET: Final = frozenset({"id", "kind", "key"})
_CAUSE: Final = frozenset({"kind", "entity", "probability"})
Given = Mapping[str, frozenset[str] | None]
"""Step -> the values that it gives to later ones; None = its verb does not say."""
_NO_STEPS: Final[Given] = {}


class _Unsure(dict[str, frozenset[str] | None]):
    """The steps that are known, where others are not: each name may be one of theirs, with any value."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> None:
        return None


_ABOUT_SIGNAL: Final = frozenset({"value", "peers.median", "peers.count"})


@dataclass(slots=True)
class _Check:
    """Everything about one playbook that only catalogue, causes, verbs and connectors together can tell."""

    playbook: Playbook
    document: Document
    config: Config | None
    lost: frozenset[Place] = frozenset()
    """Places of what is not right and was taken away: what depends on it can not be judged."""

    def faults(self, *, whole: bool = True) -> Iterator[Fault]:
        """Yield every fault; of a playbook in parts (not `whole`), none that tells of what is missing."""
        yield from self._because()
        yield from self._conditions()
        yield from self._steps()
        yield from self._expected()
        if whole:
            yield from self._proof()
        yield from self._examples()

    def _steps_lost(self) -> bool:
        """Tell whether there are steps that are not known: a name may be one of theirs."""
        return any(place[0] in {"do", "then"} and len(place) <= 2 for place in self.lost)

    def _readable(self, before: Given) -> Given:
        """Return what expressions may read of steps."""
        return _Unsure(before) if self._steps_lost() else before

    def _partly(self, path: Place) -> bool:
        """Tell whether something was taken away there: what is missing then may have been it."""
        return any(place[: len(path)] == path for place in self.lost)

    def _about(self) -> About:
        return About.of(self.playbook, self.config)

    def _say(self, path: Place, problem: str, remedy: str = "", *, key: bool = False) -> Fault:
        return self.document.fault(path, problem, remedy, key=key)

    def _because(self) -> Iterator[Fault]:
        cause = self.playbook.because.cause
        if not known(cause):
            remedy = did_you_mean(cause, branches())
            yield self._say(("because", "cause"), f"no cause is called `{cause}`", remedy)

    # ---- expressions

    def _conditions(self) -> Iterator[Fault]:
        p = self.playbook
        domain = p.limits.blast.domain
        if domain:
            wrong = unknown_attribute(domain, p.target.kind, self._about().labels)
            if wrong is not None:
                yield self._say(("guard", "blast", "domain"), *wrong)
        if p.target.where:
            yield from self._expression(p.target.where, ("target", "where"), "truth")
        written = self.document.data.get("when")
        if p.when.all and p.when.any:
            yield self._say(("when",), "`all` and `any` stand together", "write one of them")
        for how, items in (("all", p.when.all), ("any", p.when.any)):
            base: Place = ("when",) if isinstance(written, list) else ("when", how)
            for i, item in enumerate(items):
                yield from self._item(item, (*base, i))
        for i, text in enumerate(p.unless):
            yield from self._expression(text, ("unless", i), "truth")

    def _item(self, item: Item, path: Place) -> Iterator[Fault]:
        try:
            signal, _ = labelled(item.signal)
        except ValueError as wrong:
            problem, _, remedy = str(wrong).partition("; ")
            yield self._say((*path, "signal"), problem, remedy)
            return
        if signal and signal not in SIGNALS:
            remedy = did_you_mean(signal, SIGNALS)
            yield self._say((*path, "signal"), f"no signal is called `{signal}`", remedy)
        extra = _ABOUT_SIGNAL if item.signal else frozenset()
        where: Place = (*path, "is")
        yield from self._expression(
            item.is_,
            where if where in self.document.values else path,
            "truth",
            extra=extra,
            signal=signal,
        )

    def _expression(
        self,
        text: str,
        path: Place,
        want: Kind,
        *,
        extra: Iterable[str] = (),
        steps: Given = _NO_STEPS,
        signal: str = "",
        inside: str = "",
    ) -> Iterator[Fault]:
        """Check syntax, names, types and units of one expression.

        signal   what `value` and `peers.median` stand for
        inside   the whole text, when the expression is a `${}` of it
        """
        whole = inside or text
        start = max(0, whole.find(text))
        shown = text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."

        def say(at: int, problem: str, remedy: str) -> Fault:
            return self.document.fault_in(
                path, whole, start + at, f"in `{shown}`: {problem}", remedy
            )

        slips = lint(text)
        if slips:
            yield from (say(s.at, s.problem, s.remedy) for s in slips)
            return
        about = self._about()
        nameless = [
            say(at, problem, remedy)
            for name, at in sorted(places(text).items())
            for problem, remedy in unknown(name, about, frozenset(extra), steps)
        ]
        yield from nameless
        if nameless:
            return
        slips = parse(text).check(_kind_of, want)
        if not slips:
            slips = dimensions.lint(text, lambda name: _signal_of(name, signal))
        yield from (say(s.at, s.problem, s.remedy) for s in slips)

    def _texts(self, data: Any, path: Place, steps: Given, extra: Iterable[str]) -> Iterator[Fault]:
        """Check every `${}` inside parameters."""
        if isinstance(data, str):
            try:
                found = [words for is_expression, words in pieces(data) if is_expression]
            except ConfigError as error:
                yield self._say(path, error.faults[0].problem, error.faults[0].remedy)
                return
            if len(found) > MOST:
                yield self._say(path, f"one text holds more than {MOST} expressions", "shorten it")
                return
            for words in found:
                yield from self._expression(
                    words, path, "any", steps=steps, extra=extra, inside=data
                )
        elif isinstance(data, Mapping):
            for key, value in data.items():
                yield from self._texts(value, (*path, key), steps, extra)
        elif isinstance(data, list):
            for i, value in enumerate(data):
                yield from self._texts(value, (*path, i), steps, extra)

    # ---- steps

    def _steps(self) -> Iterator[Fault]:
        p = self.playbook
        before: dict[str, frozenset[str] | None] = {}
        for part, steps in (("do", p.do), ("then", p.then)):
            for i, step in enumerate(steps if (part,) not in self.lost else ()):
                path: Place = (part, i)
                if step.id in before:
                    yield self._say(
                        (*path, "id"), f"two steps are called `{step.id}`", "give one an `id:`"
                    )
                if step.use not in registry.action:
                    remedy = did_you_mean(step.use, list(registry.action), show=40)
                    yield self._say((*path, "use"), f"no verb is called `{step.use}`", remedy)
                else:
                    yield from self._step(step, path, before, after=part == "then")
                known_verb = step.use in registry.action
                before[step.id] = given_by(step) if known_verb else None

    def _step(self, step: StepModel, path: Place, before: Given, *, after: bool) -> Iterator[Fault]:
        verb = verb_of(step)
        can = can_undo(verb)
        if after and verb.effect == "mutating":
            yield self._say(
                (*path, "use"), f"`{step.use}` changes the world after it was proven that all is well",
                "move it to `do:`; `then:` only marks and tells",
            )  # fmt: skip
        if verb.effect == "mutating" and step.undo is None and not self._partly(path):
            remedy = (
                "write `undo: auto`, or `undo: none` if it shall stay"
                if can
                else "write `undo: none`"
            )
            yield self._say(
                path, f"`{step.use}` changes the world and does not say how it is undone", remedy
            )
        if step.approve is not None and (after or verb.effect != "mutating"):
            yield self._say(
                (*path, "approve"), f"nobody is asked for `{step.use}`: it only marks, tells or reads",
                "take `approve` away", key=True,
            )  # fmt: skip
        harmless = verb.effect == "reading" or stays(verb)
        if step.undo == "auto" and not may_undo(verb) and not harmless:
            yield self._say(
                (*path, "undo"), f"`{step.use}` can not be undone", "write `undo: none`"
            )
        names = list(self.config.connectors) if self.config is not None else []
        if self.config is not None and step.via is not None and step.via not in names:
            remedy = did_you_mean(step.via, names) or "add it under `connectors:` in agent.yaml"
            yield self._say((*path, "via"), f"no connector is called `{step.via}`", remedy)
        if step.until is not None:
            yield from self._until(step, path, before, can=may_undo(verb))
        extra = {"verdict.summary", "verdict.verdict"} if after else set()
        yield from self._texts(
            step.with_, (*path, "with"), self._readable(before), {*_OWN_NAMES, *extra}
        )
        yield from self._params(step, path)

    def _until(self, step: StepModel, path: Place, before: Given, *, can: bool) -> Iterator[Fault]:
        assert step.until is not None  # noqa: S101  # asked by the caller
        if not can or step.undo == "none":
            yield self._say(
                (*path, "until"), f"`{step.use}` is not undone, so it can not be for a while only",
                "write `undo: auto` or take `until` away",
            )  # fmt: skip
        for i, text in enumerate(step.until.is_):
            yield from self._expression(
                text,
                (*path, "until", "is", i),
                "truth",
                steps=self._readable({**before, step.id: given_by(step)}),
            )

    def _params(self, step: StepModel, path: Place) -> Iterator[Fault]:
        """Check parameters by the verb's own model; what holds `${}` is checked when it is filled."""
        model = getattr(verb_of(step), "Params", None)
        where: Place = (*path, "with")
        if model is None:
            for key in step.with_:
                yield self._say(
                    (*where, key), f"`{step.use}` has no parameters", "take it away", key=True
                )
            return
        later = {
            self.document.where((*where, key))
            for key, value in step.with_.items()
            if _templated(value)
        }
        base = where if where in self.document.values else path
        if self._partly(path) and not step.with_:
            return  # it may stand under the key that nobody knows
        _, faults = examine(model, self.document, base, step.with_)
        for fault in faults:
            is_later = (fault.line, fault.column) in later and "unknown key" not in fault.problem
            if not is_later and not (later and fault.problem.startswith("`with`: ")):
                yield fault

    # ---- guard, proof, tests

    def _expected(self) -> Iterator[Fault]:
        done = {s.id: given_by(s) if s.use in registry.action else None for s in self.playbook.do}
        verify = self.playbook.verify
        for i, text in enumerate(verify.expect if verify is not None else ()):
            where: Place = ("verify", "expect", i)
            yield from self._expression(text, where, "truth", steps=self._readable(done))

    def _proof(self) -> Iterator[Fault]:
        p = self.playbook
        if any(step.use not in registry.action for step in p.do):
            return
        changing = next((i for i, s in enumerate(p.do) if verb_of(s).effect == "mutating"), None)
        if changing is not None:
            verb = p.do[changing].use
            for part, remedy in (
                ("guard", "add `guard: {cooldown: {time: 30m}, rate: {max: 2, per: 1h}}`"),
                ("verify", "add `verify: {within: 10m, expect: ['...']}`"),
            ):
                if getattr(p, part) is None:
                    yield self._say(
                        ("do", changing, "use"),
                        f"`{verb}` changes the world, but `{part}:` is missing",
                        remedy,
                    )
        if p.irreversible and p.mode == "auto":
            yield self._say(
                ("mode",),
                "a step can not be put back, so a person must say yes",
                "write `mode: approve`",
            )

    def _examples(self) -> Iterator[Fault]:
        for i, example in enumerate(self.playbook.tests):
            path: Place = ("tests", i)
            for name in example.given:
                yield from self._given(name, example, (*path, "given", name))
            if example.feed is not None:
                yield from self._feed(example, path)

    def _given(self, name: str, example: Example, path: Place) -> Iterator[Fault]:
        if name in {"incident.severity", "cause.probability", "cause.kind"}:
            return
        if example.feed is not None and not name.startswith(ABOUT):
            yield self._say(
                path, f"`{name}` stands beside a feed, which tells what is measured",
                "move it to `feed: {series: ...}`", key=True,
            )  # fmt: skip
            return
        # another cause may be given, to see that it stays silent
        about = replace(self._about(), cause="")
        nameless = list(unknown(name.partition("{")[0], about, _ABOUT_SIGNAL))
        for problem, remedy in nameless:
            yield self._say(path, problem, remedy, key=True)
        if not nameless:
            yield from self._typed(name, example.given[name], path)

    def _typed(self, name: str, value: float | bool | str | None, path: Place) -> Iterator[Fault]:
        """Check that what is given has the type by which expressions see it: else nothing is ever equal to it."""
        if name.startswith(("cause.", "target.")):
            if value is not None and not isinstance(value, str):
                written = self.document.raw.get(path, value)
                yield self._say(path, f"`{name}` is text", f"put it in quotes: '{written}'")
        elif name.partition("{")[0].removeprefix("baseline.") in SIGNALS:
            if isinstance(value, bool):
                yield self._say(path, f"`{name}` is a number", f"write {float(value)}")
            elif isinstance(value, str):
                yield self._say(path, f"`{name}` is a number", _as_number(value))

    def _feed(self, example: Example, path: Place) -> Iterator[Fault]:
        feed = example.feed
        assert feed is not None  # noqa: S101  # asked by the caller
        for text in feed.series:
            where: Place = (*path, "feed", "series", text)
            try:
                signal, _, _ = notation(text)
            except ValueError as wrong:
                problem, _, remedy = str(wrong).partition("; ")
                yield self._say(where, problem, remedy, key=True)
                continue
            for problem, remedy in unknown(signal, self._about()):
                yield self._say(where, problem, remedy, key=True)
        known = {step.id for step in self.playbook.do}
        expect = example.expect
        named = expect if not self._steps_lost() else None
        for part, some in (("do", named.do), ("asks", named.asks or [])) if named else ():
            for i, step in enumerate(some):
                if step not in known:
                    where = (*path, "expect", part, i)
                    remedy = did_you_mean(step, known)
                    yield self._say(where, f"no step is called `{step}`", remedy)


def _signal_of(name: str, signal: str) -> str:
    """Return the signal whose unit a name has; "" = none."""
    if name in {"value", "peers.median"}:
        return signal
    return name.removeprefix("baseline.")


def _templated(value: Any) -> bool:
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(map(_templated, value.values()))
    return isinstance(value, list) and any(map(_templated, value))


@dataclass(frozen=True, slots=True)
class About:
    """What names are about: a target of this kind, a cause of this branch ("" = any).

    labels   that a person gives to targets of the kind; None = there is no agent.yaml at hand
    """

    kind: EntityKind
    cause: str = ""
    labels: frozenset[str] | None = None

    @classmethod
    def of(cls, playbook: Playbook, config: Config | None) -> About:
        """Return what the names of a playbook are about."""
        kind = playbook.target.kind
        labels = None if config is None else frozenset(labels_of(config, kind))
        return cls(kind, playbook.because.cause, labels)


def _as_number(text: str) -> str:
    try:
        return f"write {float(read_quantity(text)):g}"
    except ValueError:
        return "write a number like 2.5"


def unknown(
    name: str,
    about: About,
    extra: frozenset[str] = frozenset(),
    steps: Given = _NO_STEPS,
) -> Iterator[tuple[str, str]]:
    """Yield (problem, remedy) when nobody can know a name."""
    head, _, rest = name.partition(".")
    if name in extra:
        return
    signal = rest if head == "baseline" else name
    if signal in SIGNALS:
        if SIGNALS[signal].kind == "counter":
            rate = name.replace(signal, SIGNALS[signal].rate)
            yield f"`{name}` only counts up", f"write its rate: `{rate}`"
    elif head in {"target", "cause"} and rest:
        yield from (_no_attribute if head == "target" else _no_fact)(rest, about)
    elif head == "steps":
        yield from _no_value(rest, steps)
    elif name in _ABOUT_SIGNAL:
        yield f"`{name}` stands only beside `signal:`", "write {signal: ..., is: '...'}"
    elif head == "verdict":
        yield (
            f"`{name}` is not known here",
            "only `then:` knows `verdict.summary` and `verdict.verdict`",
        )
    else:
        choices = {*SIGNALS, *extra, "target.id", "target.kind", "cause.kind", "cause.entity"}
        near = did_you_mean(signal, choices)
        yield f"nothing is called `{name}`", near


def _no_value(name: str, steps: Given) -> Iterator[tuple[str, str]]:
    step, _, value = name.partition(".")
    if step not in steps:
        yield f"no step before this one is called `{step}`", did_you_mean(step, steps)
    elif not value:
        yield f"`steps.{name}` names no value of the step", f"write `steps.{step}.NAME`"
    elif (gives := steps[step]) is not None and value not in gives:
        remedy = did_you_mean(value, gives) or "it gives nothing"
        yield f"step `{step}` gives no `{value}`", remedy


def _no_attribute(name: str, about: About) -> Iterator[tuple[str, str]]:
    if name in _TARGET:
        return
    wrong = unknown_attribute(name, about.kind, about.labels)
    if wrong is not None:
        problem, remedy = wrong
        near = did_you_mean(name, {*_TARGET, *ATTRIBUTES[about.kind]}, show=0)
        yield problem, near if near and not name.startswith(LABELS) else remedy


def _no_fact(name: str, about: About) -> Iterator[tuple[str, str]]:
    known_here = {*_CAUSE, *facts_of(about.cause)}
    if name in known_here:
        return
    if name in facts_of():
        yield (
            f"diagnosis says no `{name}` beside {about.cause}",
            f"known: {', '.join(sorted(known_here))}",
        )
    else:
        yield f"diagnosis says no `{name}`", did_you_mean(name, known_here, show=30)


def _kind_of(name: str) -> Kind:
    """Return what a known name yields."""
    if name in _OWN_NAMES:
        return _OWN_NAMES[name]
    signal = name.removeprefix("baseline.")
    if signal in SIGNALS or name in _ABOUT_SIGNAL or name == "cause.probability":
        return "number"
    head, _, rest = name.partition(".")
    if (
        head == "target"
        or (head == "cause" and rest in facts_of())
        or name in {"cause.kind", "cause.entity"}
        or head == "verdict"
    ):
        return "text"
    return "any"
