"""The state of all models to bytes and back: counts and hashes of ids, never rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt

from agent import checkpoint
from agent.config import WatchModels
from agent.errors import Refused
from agent.label_join import ROW, Waiting, arrays_of
from agent.model import FloatArray
from agent.models.labels import Coming, Moments
from agent.models.reasons import parts_of
from agent.models.replicas import Replicas
from agent.models.state import CLASSES, ModelState, Tenure, VersionState
from agent.ports import FeatureDrift, LabelledDrift

_VERSION: Final = 4
_JOIN: Final = (*(ROW.names or ()), "sizes")
_TENURE: Final = (
    "numbers",    "number", "version", "since", "last", "until", "serving", "rows_total", "lost", "lost_since",
    "worse",
)  # fmt: skip


class Maker(Protocol):
    """Who makes empty detectors of a version."""

    def features(
        self, found: Mapping[str, Any] | None, others: Sequence[Mapping[str, Any]]
    ) -> tuple[FeatureDrift, bool]:
        """Return the drift of its features, and whether its reference is damaged."""
        ...

    def labelled(self, drift: FeatureDrift) -> LabelledDrift:
        """Return what its labels are for."""
        ...

    def empty(self, name: str, drift: FeatureDrift) -> VersionState:
        """Return a version of which nothing is known but its features."""
        ...


class Snapshot:
    """The state of models, one after the other: copies are taken at once, the bytes are made where there is time."""

    def __init__(self, window: float, now: float) -> None:
        at = None if math.isnan(now) else now
        self._meta: dict[str, Any] = {"window": window, "now": at, "models": []}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._waiting: dict[str, list[Waiting]] = {}

    def add(self, model: ModelState) -> None:
        """Take the state of one more model."""
        at = f"{len(self._meta['models'])}."
        arrays: dict[str, npt.NDArray[Any]] = {}
        self._meta["models"].append(_dump_model(model, at, arrays))
        self._arrays |= {name: array.copy() for name, array in arrays.items()}
        self._waiting[at] = model.join.copies()

    def pack(self) -> bytes:
        """Return the bytes; a third of a second where a million rows wait for labels."""
        joins = {
            f"{at}join.{name}": array
            for at, waiting in self._waiting.items()
            for name, array in arrays_of(waiting).items()
        }
        return checkpoint.write("models", _VERSION, self._meta, self._arrays | joins)


def load(
    state: bytes, config: WatchModels, held: int, make: Maker
) -> tuple[dict[str, ModelState], float]:
    """Return the models and the time of a Snapshot; raises Refused when it is damaged or of another window.

    held   buckets of a window; make makes what a version's own state is loaded into
    """
    meta, arrays = checkpoint.read("models", _VERSION, state)
    try:
        if meta["window"] != config.window:
            raise Refused("state of models is of another models.window: it is learnt anew")
        models = {
            str(one["name"]): _load_model(one, f"{i}.", arrays, config, held)
            for i, one in enumerate(meta["models"])
        }
        for i, one in enumerate(meta["models"]):
            model = models[str(one["name"])]
            for j, version in enumerate(one["versions"]):
                loaded = _load_version(version, f"{i}.v{j}.", arrays, make)
                model.versions[loaded.name] = loaded
                kept = version.get("slicings")
                before = kept and [(str(name), tuple(map(str, values))) for name, values in kept]
                model.reslice(loaded, before)  # other groups may be protected since
        now = math.nan if meta["now"] is None else float(meta["now"])
    except (KeyError, TypeError, ValueError, IndexError) as damage:
        raise Refused(f"state of models is damaged ({damage!r}): it is learnt anew") from None
    return models, now


def _load_model(
    said: Mapping[str, Any],
    at: str,
    arrays: Mapping[str, npt.NDArray[Any]],
    config: WatchModels,
    held: int,
) -> ModelState:
    model = ModelState.new(str(said["name"]), config)
    model.join.restore({name: arrays[f"{at}join.{name}"] for name in _JOIN})
    model.versus.load(arrays[f"{at}versus"].tobytes())
    model.sketches = dict.fromkeys(map(int, arrays[f"{at}sketches"]))
    model.frames = int(said["frames"])
    for name, values in said["tags"].items():
        if name in model.tags.values:
            model.tags.values[name] = [str(value) for value in values]
    for ring, name in ((model.traffic, "traffic"), (model.arrivals, "arrivals")):
        ring.restore(int(said[name]), arrays[f"{at}{name}"])
    model.delays[:] = arrays[f"{at}delays"]
    if f"{at}new_delays" in arrays:
        model.new_delays[:] = arrays[f"{at}new_delays"]
    model.next_tenure, model.rejected = int(said["next_tenure"]), int(said["rejected"])
    model.current = None if said["current"] is None else int(said["current"])
    model.released = model.current or 0
    model.regression = bool(said["regression"])
    model.shown = {
        (str(metric), tuple((str(k), str(v)) for k, v in labels)): None
        for metric, labels in said["shown"]
    }
    model.positive = None if said["positive"] is None else int(said["positive"])
    model.classes = {str(word): i for i, word in enumerate(said["classes"])}
    model.first, model.rows_seen, model.labels_seen = map(float, arrays[f"{at}times"])
    model.new_rows, model.new_labels, model.new_lost = map(int, said["new"])
    model.early = {
        int(key): (float(a), float("nan" if b is None else b), float("nan" if c is None else c))
        for key, a, b, c in said["early"]
    }
    if said.get("coming"):
        model.coming = Coming.of(said["coming"])
    if said.get("replicas"):
        model.replicas = Replicas(config.quiet)
        model.replicas.load(said["replicas"], cast("FloatArray", arrays[f"{at}replicas"]))
    for j, one in enumerate(said["tenures"]):
        tenure = _load_tenure(one, f"{at}t{j}.", arrays, 2 * held + 1)
        model.tenures[tenure.number] = tenure
    return model


def _load_version(
    said: Mapping[str, Any], at: str, arrays: Mapping[str, npt.NDArray[Any]], make: Maker
) -> VersionState:
    drift, _ = make.features(None, ())
    drift.load(arrays[f"{at}drift"].tobytes())
    version = make.empty(str(said["name"]), drift)
    version.outputs.load(arrays[f"{at}outputs"].tobytes())
    version.generated.load(arrays[f"{at}generated"].tobytes())
    if f"{at}parts" in arrays:
        version.parts = parts_of(drift)
        version.parts.load(arrays[f"{at}parts"].tobytes())
    version.reference, version.damaged = said["reference"], bool(said["damaged"])
    version.learnt_labels, version.learnt_right = map(int, said["learnt"])
    version.accuracy, version.accuracy_rows, version.mix_rows = map(float, arrays[f"{at}numbers"])
    version.learnt_mix[:] = arrays[f"{at}learnt_mix"]
    if f"{at}level" in arrays:
        version.learnt_sums[:] = arrays[f"{at}learnt_sums"]
        mean, unit, *moments = map(float, arrays[f"{at}level"])
        version.level = (mean, unit)
        version.moments = Moments(*moments) if moments else None
    if f"{at}labelled" in arrays:
        labelled = make.labelled(drift)
        # of other slices, after a change of the config: what labels said is learnt anew, all else stays
        with contextlib.suppress(Refused):
            labelled.load(arrays[f"{at}labelled"].tobytes())
        version.labelled = labelled
    if said["mixed"]:
        version.mix = np.zeros(CLASSES + 1)
        version.mix[:] = arrays[f"{at}mix"]
    return version


def _dump_model(model: ModelState, at: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Put the arrays of a model under names that begin with `at`; return the rest."""
    arrays[f"{at}traffic"], arrays[f"{at}arrivals"] = model.traffic.data, model.arrivals.data
    arrays[f"{at}delays"], arrays[f"{at}new_delays"] = model.delays, model.new_delays
    arrays[f"{at}versus"] = np.frombuffer(model.versus.dump(), dtype=np.uint8)
    arrays[f"{at}sketches"] = np.array(list(model.sketches), dtype=np.uint64)
    arrays[f"{at}times"] = np.array([model.first, model.rows_seen, model.labels_seen])
    versions, tenures = [], []
    for j, version in enumerate(model.versions.values()):
        here = f"{at}v{j}."
        arrays[f"{here}drift"] = np.frombuffer(version.drift.dump(), dtype=np.uint8)
        version.outputs.flush()
        arrays[f"{here}outputs"] = np.frombuffer(version.outputs.drift.dump(), dtype=np.uint8)
        arrays[f"{here}generated"] = np.frombuffer(version.generated.dump(), dtype=np.uint8)
        if version.parts is not None:
            arrays[f"{here}parts"] = np.frombuffer(version.parts.dump(), dtype=np.uint8)
        if version.labelled is not None:
            arrays[f"{here}labelled"] = np.frombuffer(version.labelled.dump(), dtype=np.uint8)
        arrays[f"{here}numbers"] = np.array(
            [version.accuracy, version.accuracy_rows, version.mix_rows]
        )
        arrays[f"{here}learnt_mix"] = version.learnt_mix
        m = version.moments
        moments = (m.truth, m.said, m.tie) if m is not None else ()
        arrays[f"{here}learnt_sums"] = version.learnt_sums
        arrays[f"{here}level"] = np.array([*version.level, *moments])
        arrays[f"{here}mix"] = version.mix if version.mix is not None else np.zeros(CLASSES + 1)
        versions.append(
            {
                "name": version.name,
                "reference": version.reference,
                "damaged": version.damaged,
                "slicings": [[name, list(values)] for name, values in version.drift.slicings],
                "mixed": version.mix is not None,
                "learnt": [version.learnt_labels, version.learnt_right],
            }
        )
    for j, tenure in enumerate(model.tenures.values()):
        here = f"{at}t{j}."
        arrays[f"{here}rows"], arrays[f"{here}labels"] = tenure.rows.data, tenure.labels.data
        arrays[f"{here}tests"] = np.concatenate(
            [tenure.against_reference.dump(), tenure.against_previous.dump()]
        )
        arrays[f"{here}succession"] = tenure.succession.dump()
        arrays[f"{here}large"] = tenure.large
        tenures.append(
            {name: getattr(tenure, name) for name in (*_TENURE, "judged_since")}
            | {"newest": [tenure.rows.newest, tenure.labels.newest]}
        )
    replicas: Mapping[str, Any] = {}
    if model.replicas is not None:
        replicas, arrays[f"{at}replicas"] = model.replicas.dump()
    return {
        "name": model.name,
        "coming": model.coming.words(),
        "replicas": replicas,
        "traffic": model.traffic.newest,
        "arrivals": model.arrivals.newest,
        "next_tenure": model.next_tenure,
        "rejected": model.rejected,
        "current": model.current,
        "positive": model.positive,
        "regression": model.regression,
        "shown": [[metric, [list(pair) for pair in labels]] for metric, labels in model.shown],
        "classes": list(model.classes),
        "new": [model.new_rows, model.new_labels, model.new_lost],
        "tags": model.tags.values,
        "frames": model.frames,
        "early": [[str(key), *_no_nan(value)] for key, value in model.early.items()],
        "versions": versions,
        "tenures": tenures,
    }  # fmt: skip


def _no_nan(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def _load_tenure(
    said: Mapping[str, Any], at: str, arrays: Mapping[str, npt.NDArray[Any]], buckets: int
) -> Tenure:
    tenure = Tenure(int(said["number"]), str(said["version"]), float(said["since"]), buckets)
    for name in _TENURE:
        setattr(tenure, name, said[name])
    tenure.judged_since = said.get("judged_since", tenure.since)  # older states do not say
    tenure.rows.restore(int(said["newest"][0]), arrays[f"{at}rows"])
    tenure.labels.restore(int(said["newest"][1]), arrays[f"{at}labels"])
    tests = cast("FloatArray", arrays[f"{at}tests"])
    tenure.against_reference.load(tests[: len(tests) // 2])
    tenure.against_previous.load(tests[len(tests) // 2 :])
    tenure.succession.load(cast("FloatArray", arrays[f"{at}succession"]))
    tenure.large = cast("FloatArray", arrays[f"{at}large"])
    return tenure
