"""Which versions there are of a model, and which of them serve: tenures begin and end here.

A version enters when a fifth of the newest rows is its own and leaves after `_GONE_ROWS` rows of others without one of
its own. Its reference is asked for again while it learns: that may be written a moment after its first rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from agent import registry
from agent.config import WatchModels
from agent.errors import Refused
from agent.model import Change, Entity
from agent.models.generated import Generated
from agent.models.numbers import Numbers
from agent.models.outputs import Outputs, reference_of
from agent.models.state import (
    CLASSES,
    MOST_TENURES,
    SURE_NAMES,
    ModelState,
    Tenure,
    VersionState,
    word_of,
)
from agent.models.tags import slicings
from agent.ports import FeatureDrift, LabelledDrift

_LOOK_ROWS: Final = 60
_ENTERS: Final = 0.2
_GONE_ROWS: Final = 60
_IDLE_S: Final = 300.0
_ASK_AGAIN_S: Final = 10.0


class Tenures:
    """The one who opens and ends them; keeps nothing of its own.

    reference   (model, version) -> its reference.json, None when there is none (yet)
    aside       first rows are made a reference elsewhere
    """

    def __init__(
        self,
        config: WatchModels,
        reference: Callable[[str, str], Mapping[str, Any] | None],
        numbers: Numbers,
        *,
        aside: bool = False,
    ) -> None:
        self._config = config
        self._aside = aside
        self._reference = reference
        self._numbers = numbers

    def version(self, model: ModelState, name: str, now: float) -> VersionState:
        """Return a version of a model; the first time, and while it learns, its reference is asked for."""
        version = model.versions.get(name)
        if version is not None:
            settled = version.reference is not None or version.damaged
            # asked again while it learns: its reference may be written a moment after its first rows
            if settled or not now - version.asked >= _ASK_AGAIN_S:
                return version
        found = self._reference(model.name, name)
        if version is not None and found is None:
            version.asked = now
            return version
        others = [
            v.reference
            for v in reversed(model.versions.values())
            if v.reference is not None and v.name != name
        ]
        drift, damaged = self.features(found, others)
        before, version = version, self.empty(name, drift)
        model.versions[name] = version
        model.reslice(version, before.slicings if before is not None else ())
        version.reference, version.damaged = (None if damaged else found), damaged
        # before the first frame it is not known how late it is: ask again soon
        version.asked = -math.inf if math.isnan(now) else now
        self._read_quality(model, version)
        if version.mix is not None:
            mix = {word: float(version.mix[i]) for word, i in model.classes.items() if i < CLASSES}
            said = {word: share for word, share in mix.items() if share > 0}
            version.outputs = self._outputs(reference_of(found, said))
        return version

    def empty(self, name: str, drift: FeatureDrift) -> VersionState:
        """Return a version of which nothing is known but its features."""
        generated = Generated(self._config.window / 2, self._config.min_rows)
        return VersionState(name, drift, self._outputs(None), generated)

    def _outputs(self, found: Mapping[str, Any] | None) -> Outputs:
        # few columns: their first rows are made a reference at once
        return Outputs(self.features(found, (), aside=False)[0])

    def features(
        self,
        found: Mapping[str, Any] | None,
        others: Sequence[Mapping[str, Any]],
        *,
        aside: bool = True,
    ) -> tuple[FeatureDrift, bool]:
        """Return the drift of a version's features, and whether its reference is damaged.

        aside   first rows are made a reference elsewhere, where that is done
        """
        cls = registry.drift.get("features")
        settings = cls.Config(
            half_life=max(1.0, self._config.window / 3),
            stale=self._config.window,
            min_rows=self._config.min_rows,
            learn_rows=self._config.first_rows,
            quiet=self._config.quiet,
            apart=tuple(self._config.protected),
            aside=self._aside and aside,
        )
        try:
            return cls(settings, found, others), False
        except Refused:
            # it goes without: what was known of others, else what it learns
            return cls(settings, None, others), True

    def fitted(self, model: ModelState, name: str) -> VersionState:
        """Return a version anew, which will be given rows as its reference: none is asked for any more."""
        drift, _ = self.features(None, ())
        version = model.versions[name] = self.empty(name, drift)
        version.reference = {}
        return version

    def labelled(self, drift: FeatureDrift) -> LabelledDrift:
        """Return what the labels of a version are for; its slicings are those of its features, and how sure it was."""
        cls = registry.drift.get("labelled")
        config = self._config
        settings = cls.Config(
            window=config.window, min_rows=config.min_rows, quiet=config.quiet,
            tolerance=config.tolerance, protected=tuple(config.protected),
        )  # fmt: skip
        own = [*drift.slicings, ("confidence", SURE_NAMES)]
        tags = slicings(config.slices, [name for name, _ in own])
        made: LabelledDrift = cls(settings, [*own, *tags])
        return made

    def _read_quality(self, model: ModelState, version: VersionState) -> None:
        """Take accuracy and classes out of a reference; what is not there or no number is learnt."""
        found = version.reference or {}
        rows = found.get("rows")
        # one that does not say of how many rows it is counts as one that was learnt
        n = float(self._config.first_rows)
        if isinstance(rows, int | float) and rows >= 1:
            n = float(rows)
        accuracy = found.get("accuracy")
        if isinstance(accuracy, int | float) and 0 <= accuracy <= 1:
            version.accuracy, version.accuracy_rows = float(accuracy), n
        classes = found.get("predictions") or found.get("classes")
        if not isinstance(classes, Mapping) or not classes:
            return
        shares = {
            word_of(name): float(share)
            for name, share in classes.items()
            if isinstance(share, int | float) and share >= 0
        }
        total = sum(shares.values())
        if not total > 0 or not math.isfinite(total):
            return
        mix = np.zeros(CLASSES + 1)
        for name in sorted(shares, key=lambda c: (-shares[c], c)):
            number = model.class_number(name)
            mix[min(number, CLASSES) if number >= 0 else CLASSES] += shares[name] / total
        version.mix, version.mix_rows = mix, n
        if model.positive is None:
            model.positive = int(mix[:CLASSES].argmax())

    def tenure(
        self, model: ModelState, version: VersionState, oldest: float, newest: float
    ) -> Tenure:
        """Return the tenure that rows of a version belong to; open one when it has none."""
        tenure = model.open_tenure(version.name)
        if tenure is not None:
            return tenure
        ended = [t for t in model.tenures.values() if t.version == version.name]
        if ended and newest <= (ended[-1].until or 0.0) + 2.0:
            return ended[-1]  # stragglers, logged late
        if ended:
            version.drift.restart()
            version.outputs.restart()
            if version.labelled is not None:
                version.labelled.restart()
        tenure = Tenure(model.next_tenure, version.name, oldest, 2 * self._numbers.held + 1)
        model.tenures[tenure.number] = tenure
        model.next_tenure += 1
        self._prune(model)
        return tenure

    def _prune(self, model: ModelState) -> None:
        """Forget the oldest tenures, those that do not serve first, and versions without one."""
        by_age = sorted(model.tenures.values(), key=lambda t: (t.serving, t.until is None, t.last))
        for tenure in by_age[: max(0, len(by_age) - MOST_TENURES)]:
            del model.tenures[tenure.number]
        alive = {t.version for t in model.tenures.values()}
        for name in [name for name in model.versions if name not in alive]:
            del model.versions[name]

    @staticmethod
    def released(model: ModelState) -> list[Change]:
        """Return the release that rows tell of: another version than before answers most of them."""
        tenure = model.tenure_in_use
        if tenure is None or tenure.number <= model.released:
            return []
        before = model.tenures.get(model.released)
        first, model.released = not model.released, tenure.number
        was = before.version if before is not None else ""
        if first or was == tenure.version:
            return []
        text = "version, as its rows tell"
        return [
            Change(
                tenure.since, Entity("model", model.name), "release", was, tenure.version, text=text
            )
        ]

    def settle(self, model: ModelState, now: float) -> None:
        """Find who serves at `now`: see the module."""
        tenures = [t for t in model.tenures.values() if t.until is None]
        if not tenures:
            return
        newest = max(t.rows.newest for t in tenures)
        first = newest - self._numbers.held + 1
        rows = np.array([t.rows.span(first, newest, 0) for t in tenures], dtype=np.float64)
        tail = np.cumsum(rows.sum(axis=0)[::-1])[::-1]  # rows from a bucket on
        enough = np.flatnonzero(tail >= _LOOK_ROWS)
        look = int(enough[-1]) if enough.size else 0
        recent = rows[:, look:].sum(axis=1)
        share = recent / max(1.0, float(recent.sum()))
        since_last = [
            float(rows[:, max(0, int(t.last / self._numbers.width) + 1 - first) :].sum())
            for t in tenures
        ]
        anybody = any(t.serving for t in tenures)
        for tenure, part, missed in zip(tenures, share, since_last, strict=True):
            if tenure.serving and missed >= _GONE_ROWS:
                tenure.serving, tenure.until = False, tenure.last
            elif not tenure.serving and (part >= _ENTERS or (not anybody and part > 0)):
                tenure.serving = True
            elif not tenure.serving and now - tenure.last > max(_IDLE_S, self._config.window):
                tenure.until = tenure.last
        standing = [(p, t) for p, t in zip(share, tenures, strict=True) if t.serving]
        if not standing:
            return
        top, best = max(standing, key=lambda pair: (pair[0], pair[1].since))
        current = model.tenure_in_use
        if current is None or not current.serving or top > 0.5:
            model.current = best.number
