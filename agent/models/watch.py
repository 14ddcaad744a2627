"""Predictions and late labels become model metrics: traffic, accuracy, label delay, input contracts, drift.

    PredictionBatch -> traffic ring (1 s)       -> service.*  requests, latency with waiting, errors
                    -> rows ring of the tenure  -> model.*    mix of predictions, confidence
                    -> features of the version  -> feature.*  contract, PSI
                    -> label join
    LabelBatch      -> label join -> labels ring of the tenure -> model.*, version.*  accuracy

A *tenure* is a stretch of time in which a version serves. Accuracy belongs to tenures, and that of the model is the
accuracy of the tenures that serve now: after a release or a roll back it is unknown until enough rows of the new
tenure have labels, never a mixture with those of the version before. A version enters when a fifth of the newest
rows is its own and leaves after `_GONE_ROWS` rows of others without one of its own. A label counts at the time of
its prediction, for the tenure that made it, however late it comes.

State is arrays of fixed size; nothing is kept a row but 48 bytes while it waits for its label. No clock: time comes
with the batches and with `frame(now)`. No feature value leaves: attributes and facts hold shares and factors.
Cost, measured on one core at 30 features in batches of 50: about 15 microseconds a row with its label, 1 ms a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from agent.config import WatchModels
from agent.errors import AgentError, Refused
from agent.label_join import KeyArray, keys_of
from agent.model import Change, Entity, FloatArray, Frame, Sighting
from agent.models import beside, frames, keep, reasons, sketched
from agent.models.asked import Asked
from agent.models.beside import Second
from agent.models.facts import ModelFacts
from agent.models.made import Later, Made, make
from agent.models.numbers import Numbers
from agent.models.replicas import entity as replica
from agent.models.rows import Rows
from agent.models.state import CLASSES, MOST_MODELS, ModelState, VersionState
from agent.models.strays import Strays
from agent.models.tenures import Tenures
from agent.models.truth import Truth
from agent.models.versus import SHADOW
from agent.parcels import rows_at
from agent.ports import LabelBatch, Logged, PredictionBatch, SketchBatch

_AHEAD_S: Final = 60.0
"""A row that claims to be from further ahead than this is garbage."""
_YEAR_2100: Final = 4.1e9
_OUT_FOR_IN: Final = 2
_LEARN_AGAIN_S: Final = 60.0


class ModelWatch:
    """All models that predictions or labels were logged of.

    config      windows and limits
    reference   (model, version) -> its reference.json, None when there is none (yet)
    serves      model -> id of the service that it runs in; None = its traffic is nobody's
    made        (model, version) -> what rows that it was made with became; Later = it is being made; None = none are
    learn       has first rows made a reference elsewhere, and calls back between two ticks with the state, None = it
                failed; without it that is done at once
    """

    def __init__(
        self,
        config: WatchModels,
        reference: Callable[[str, str], Mapping[str, Any] | None],
        serves: Callable[[str], str | None],
        made: Callable[[str, str], Made | Later | None] | None = None,
        learn: Callable[[Mapping[str, Any], Callable[[bytes | None], None]], None] | None = None,
    ) -> None:
        self.config = config
        self._made = made
        self._learn = learn
        self._numbers = Numbers(config)
        self._tenures = Tenures(config, reference, self._numbers, aside=learn is not None)
        self._table = frames.Table()
        self._serves = serves
        self._models: dict[str, ModelState] = {}
        self._now = math.nan
        self._told: dict[Entity, Sighting] = {}
        self._strays = Strays(self._label)
        self._truth = Truth(self._tenures, self._numbers)
        self._rows = Rows(self._tenures, self._numbers, self._wait)
        self._sketches = sketched.Sketches(self._tenures, self._numbers, self._waits)

    @property
    def busy(self) -> bool:
        """Tell whether any model has been seen."""
        return bool(self._models)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that have been seen."""
        return tuple(sorted(self._models))

    # ---------------------------------------------------------------- the reference

    def fit(self, batch: PredictionBatch, truth: Sequence[Any], *, whole: bool = True) -> None:
        """Make rows the reference of their version, at once; see `agent.models.made.make`."""
        model = self._model(batch.model)
        if model is not None:
            self._use(model, batch.version, make(self.config, batch, truth, whole=whole))

    def _use(self, model: ModelState, name: str, made: Made) -> None:
        """Hold a version against a reference that was made of rows."""
        model.held.let_go(name)
        before = model.versions.get(name)
        version = self._tenures.fitted(model, name)
        version.drift.load(made.drift)
        model.reslice(version, before.slicings if before is not None else ())
        version.outputs.load(made.outputs)
        version.parts = reasons.parts_of(version.drift)
        version.parts.load(made.parts)
        version.labelled = self._tenures.labelled(version.drift)
        if made.labelled:
            version.labelled.load(made.labelled)
        version.accuracy, version.accuracy_rows = made.accuracy, made.accuracy_rows
        model.regression = model.regression or made.regression
        numbers = [model.class_number(word) for word in made.classes]
        if made.regression:
            version.learn_level(made.sums, 1)
            return
        version.mix, version.mix_rows = np.zeros(CLASSES + 1), made.mix_rows
        version.mix[CLASSES] = made.mix[CLASSES]
        for number, share in zip(numbers, made.mix[:CLASSES].tolist(), strict=False):
            version.mix[min(number, CLASSES)] += share
        if model.positive is None:
            model.positive = int(version.mix[:CLASSES].argmax())

    def _waits(self, model: ModelState, name: str) -> bool:
        """Tell whether rows of a version must wait: its reference is being made. What was made is taken over."""
        version = model.versions.get(name)
        waits = name in model.learning
        if self._made is not None and (version is None or version.reference is None):
            found = self._made(model.name, name)
            if isinstance(found, Made):
                self._use(model, name, found)
                waits = False
            elif found is not None:
                waits = True
        return waits and not model.held.full(name, self._now)

    def _model(self, name: str) -> ModelState | None:
        """Return a model, a new one when there is room."""
        model = self._models.get(name)
        if model is None and len(self._models) < MOST_MODELS:
            model = self._models[name] = ModelState.new(name, self.config)
        return model

    # ---------------------------------------------------------------- what comes in

    def take(self, batch: Logged) -> None:
        """Count a batch. Rows and labels may come in any order, late, or twice (the second time is dropped).

        Labels of model "" are joined by their ids alone. Raises Refused for a sketch whose edges do not fit.
        """
        if isinstance(batch, LabelBatch) and not batch.model:
            self._strays.take(self._models.values(), batch, self._now)
            return
        if isinstance(batch, SketchBatch):
            self._take_sketch(batch)
            return
        model = self._model(batch.model)
        if model is None:
            return
        if isinstance(batch, LabelBatch):
            self._label(model, batch)
        else:
            self._take_rows(model, batch)

    def _label(self, model: ModelState, batch: LabelBatch) -> None:
        rest = model.held.labels(batch, self._now) if model.held else batch
        self._truth.take(model, rest, self._now)
        for name in model.held.versions:
            self._shrink(model, name)

    def _take_rows(self, model: ModelState, batch: PredictionBatch) -> None:
        model.new_lost += batch.dropped
        ts = np.where(np.isnan(batch.ts), self._now, batch.ts)
        keep = (ts >= 0) & (ts <= self._latest())
        model.rejected += len(ts) - int(np.count_nonzero(keep))
        keys = keys_of(batch.ids)
        answered = (batch.status > 0) & (batch.status < 400)
        once, known = beside.once(model, keys)
        second = keep & answered & (known if batch.variant != SHADOW else keys != 0)
        if second.any():
            beside.take_second(model, batch, Second(batch.pred, keys, ts), second)
        keep &= once & (batch.variant != SHADOW)
        ok = keep & answered
        if not keep.any():
            return
        model.first = min(model.first, float(ts[keep].min()))
        self._rows.count_traffic(model, batch, ts, keep, ok)
        rows = int(np.count_nonzero(ok))
        if not rows:
            return
        model.new_rows += rows
        served = replace(batch, ts=ts)
        served = served if rows == len(ts) else rows_at(served, ok)
        if not self._waits(model, batch.version) and batch.version not in model.held.versions:
            self._count(model, served, keys if rows == len(ts) else keys[ok])
            return
        model.held.add(batch.version, served, self._now)
        self._shrink(model, batch.version)

    def _shrink(self, model: ModelState, name: str) -> None:
        """Count more than just came of what need not wait any longer, so that it grows no further."""
        for _ in range(_OUT_FOR_IN):
            self._count_held(model, name)

    def _count_held(self, model: ModelState, name: str) -> bool:
        """Count the oldest of what waits of a version, unless it has to wait still."""
        if name not in model.held.versions or self._waits(model, name):
            return False
        self._count_oldest(model, name)
        return True

    def _count_oldest(self, model: ModelState, name: str) -> None:
        batch = model.held.pop(name)
        if isinstance(batch, LabelBatch):
            self._truth.take(model, batch, self._now)
        else:
            self._count(model, batch, keys_of(batch.ids))

    @property
    def holding(self) -> bool:
        """Tell whether rows wait for the reference of their version; they are in no `dump`."""
        return any(model.held for model in self._models.values())

    def catch_up(self) -> bool:
        """Count a piece of what need not wait any longer; False = there is nothing."""
        return any(
            self._count_held(model, name)
            for model in self._models.values()
            for name in model.held.versions
        )

    def settle(self) -> None:
        """Count all that waits, now; what has no reference yet learns."""
        for model in self._models.values():
            while model.held:
                self._count_oldest(model, model.held.versions[0])

    def _count(self, model: ModelState, batch: PredictionBatch, keys: KeyArray) -> None:
        """Count rows that were served."""
        version = self._rows.count(model, batch, keys, self._now)
        if self._learn is not None and version.name not in model.learning:
            self._learn_first(model, version)
        self._strays.look(model, batch.ids, self._now)

    def _wait(self, model: ModelState, keys: KeyArray) -> None:
        self._truth.join_early(model, keys, self._now)

    def _take_sketch(self, batch: SketchBatch) -> None:
        """Count rows that were counted elsewhere; raises Refused or Unavailable, and has then changed nothing."""
        if batch.until > self._latest():
            raise Refused("sketch: it is of rows that are still to come; look at the clock there")
        new = batch.model not in self._models
        model = self._model(batch.model)
        if model is None:
            return
        try:
            self._sketches.take(model, batch, self._now)
        except AgentError:
            if new:
                del self._models[batch.model]
            raise

    def _latest(self) -> float:
        """Return what no row may be later than."""
        return _YEAR_2100 if math.isnan(self._now) else self._now + _AHEAD_S

    def _learn_first(self, model: ModelState, version: VersionState) -> None:
        """Have the first rows of a version made its reference, once they are enough."""
        first = None if self._now < version.learn_at else version.drift.first_rows()
        if first is None or self._learn is None:
            return

        def done(state: bytes | None) -> None:
            model.learning.discard(version.name)
            model.held.let_go(version.name)
            if model.versions.get(version.name) is not version:
                return  # it was given a reference meanwhile, or forgotten
            if state is None:
                version.learn_at = self._now + _LEARN_AGAIN_S
            else:
                version.drift.learnt(state)
                model.reslice(version, version.slicings)

        model.learning.add(version.name)
        self._learn(first, done)

    # ---------------------------------------------------------------- the frame

    def frame(self, now: float, unread: Collection[str] = ()) -> Frame:
        """Return all signals at `now`; called every second. Fewer rows than `min_rows` are NaN, not a number.

        unread   models whose rows are somewhere and can not be read now: how many come is unknown, not none
        """
        self._now = now
        self._numbers.unread = frozenset(unread)
        values: list[FloatArray] = []
        layout: list[tuple[Any, ...]] = []
        sightings: list[Sighting] = []
        changes: list[Change] = []
        services: dict[str, list[ModelState]] = {}
        for name in sorted(self._models):
            model = self._models[name]
            model.bring_back(now, self._latest(), self._numbers.width)
            changes += self._tick(model, now)
            model.row = frames.model_row(model, self._numbers, now)
            values.append(model.row)
            more, known = frames.more_of(model, self._numbers, now)
            values.append(known)
            versions = sorted({t.version for t in model.tenures.values()})
            values += [self._numbers.version_row(model, version, now) for version in versions]
            drift = frames.drift_of(model)
            if model.judged is not None:
                values.append(model.judged.ravel())
            service = self._serves(name)
            owner = Entity("service", service) if service is not None else Entity("model", name)
            replicas: tuple[Entity, ...] = ()
            if model.replicas is not None:
                values.append(model.replicas.tick(now).ravel())
                replicas = tuple(replica(owner, one) for one in model.replicas.names)
            names = drift.names if drift is not None else ()
            layout.append((name, tuple(versions), names, more, replicas))
            if service is not None:
                services.setdefault(service, []).append(model)
            shadows = {a.version for a in model.versus.arms.values() if a.shadow}
            sightings += frames.see(model, service, sorted(shadows.union(versions)), drift)
        for service in sorted(services):
            values.append(self._numbers.service_row(services[service], now))
            layout.append((service,))
        self._table.lay_out(tuple(layout))
        flat = np.concatenate(values) if values else np.zeros(0)
        seen = tuple(s for s in sightings if self._told.get(s.entity) != s)
        self._told.update((s.entity, s) for s in seen)
        return Frame(
            "models", now, self._table.series, flat[self._table.order], seen, tuple(changes)
        )

    def _tick(self, model: ModelState, now: float) -> list[Change]:
        """Do what is due once a frame; return what was released."""
        if model.new_rows:
            model.rows_seen = now
        if model.new_labels:
            self._truth.fold_delays(model, now)
            model.labels_seen = now
            for tenure in model.tenures.values():
                if tenure.judged_since is None and tenure.labels.newest >= 0:
                    tenure.judged_since = now
        slot, _ = model.arrivals.slots(np.array([int(now / self._numbers.width)]))
        model.arrivals.data[slot[0]] += (model.new_rows, model.new_labels, model.new_lost)
        self._numbers.coming(model, now, model.new_rows, model.new_labels)
        if model.new_labels:
            model.labels_wrong = self._numbers.labels_wrong(model, model.version_in_use)
        model.new_rows = model.new_labels = model.new_lost = 0
        self._truth.forget(model, now)
        self._tenures.settle(model, now)
        changes = self._tenures.released(model)
        for tenure in model.serving():
            self._truth.judge(model, tenure, now)
        for version in {t.version for t in model.serving()}:
            state = model.versions.get(version)
            if state is not None and state.labelled is not None:
                state.judged = model.tags.say(state.labelled.judge(now))
        beside.look(model, self._numbers, now)
        drift = frames.drift_of(model)
        model.judged = drift.judge(now) if drift is not None else None
        return changes

    # ---------------------------------------------------------------- facts

    def facts(self, model: str) -> ModelFacts | None:
        """Return what is known about a model as of the last frame; None = never seen."""
        found = self._models.get(model)
        if found is None or math.isnan(self._now):
            return None
        return frames.facts_of(found, self._numbers, self._now)

    @property
    def asked(self) -> Asked:
        """What people ask of one model."""
        return Asked(self._models)

    def state_bytes(self, model: str) -> int:
        """Return how many bytes are kept of the largest version of a model, without the rows that wait for labels."""
        found = self._models.get(model)
        versions = found.versions.values() if found is not None else ()
        return max(
            (
                len(v.drift.dump())
                + (len(v.labelled.dump()) if v.labelled is not None else 0)
                + (len(v.parts.dump()) if v.parts is not None else 0)
                + len(v.outputs.drift.dump())
                + len(v.generated.dump())
                for v in versions
            ),
            default=0,
        )

    def evidence(self, model: str) -> dict[str, float]:
        """Return log10 of the evidence of drift of each feature that has moved far enough; 0 is enough."""
        found = self._models.get(model)
        drift = frames.drift_of(found) if found is not None else None
        return drift.moved() if drift is not None else {}

    # ---------------------------------------------------------------- restarts of the agent

    def snapshots(self) -> Iterator[keep.Snapshot]:
        """Yield the snapshot that `dump` packs after each model: some milliseconds one."""
        made = keep.Snapshot(self.config.window, self._now)
        for model in list(self._models.values()):
            made.add(model)
            yield made

    def dump(self) -> bytes:
        """Return the state; `load(dump())` = never stopped. Counts and hashes of ids, never rows."""
        made = keep.Snapshot(self.config.window, self._now)
        for made in self.snapshots():  # noqa: B007  # the last one is the whole
            pass
        return made.pack()

    def load(self, state: bytes) -> None:
        """Take what `dump` gave; raises Refused when it is damaged, of another version or another window.

        When it raises, nothing has changed.
        """
        held = self._numbers.held
        self._models, self._now = keep.load(state, self.config, held, self._tenures)
        self._table, self._told = frames.Table(), {}
