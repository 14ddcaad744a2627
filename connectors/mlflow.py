"""Versions of models in an MLflow registry: one alias says which of them answers.

    mlflow:
      url: http://mlflow:5000
      token: env:MLFLOW_TOKEN          # or user and password
      alias: champion

    registered model  alias champion -> version    tag homeostat.champion   who moved it last, if we did
                                                   tag retraining_held      exists while retraining is held
    version           tag role: backup, tag features: a,b     (else: the inputs of its signature)
    run of a version  its end: when it was trained; metric `accuracy`; data, code and parameters

**MLflow has no compare-and-set.** The alias is read, compared, set and read back: what somebody else sets in the few
milliseconds between the last look and the write is overwritten. Before that we put our name into the tag and look
again, so that two agents do not cross each other, and a run that was cut off knows its own act again.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import numpy as np
import structlog
import yaml
from pydantic import Field, model_validator

from agent.errors import AgentError, Refused, Unavailable, Uncertain
from agent.model import Change, Entity, Frame, Series, Sighting
from agent.registry import connector
from agent.units import say_duration
from connectors._kept import Kept
from connectors._mlflow import (
    HELD_TAG,
    Access,
    Missing,
    Mlflow,
    by_key,
    numbers,
    read_hold,
    used,
)
from connectors._versions import MOST_PREVIOUS, Champion, Hold, Version, natural, sightings, stack

log = structlog.get_logger()

POINTER_TAG: Final = "homeostat.champion"
_MOST_MODELS: Final = 10_000
_MOST_VERSIONS: Final = 50
"""The newest of a model; older ones are no candidates."""
_AGAIN_S: Final = 300.0
"""Versions of a model that shows no change are read again so often: their tags do not touch the model."""
_MOST_RUNS: Final = 2000
_TEXT: Final = 200
_STAGES: Final = frozenset({"Production", "Staging"})


@dataclass(frozen=True, slots=True)
class _Model:
    """A registered model as one answer shows it.

    tag     our own pointer, {} = none, or damaged by somebody
    stages  Production and Staging -> version, of registries that still use them
    """

    name: str
    updated: str
    aliases: Mapping[str, str]
    tags: Mapping[str, str]
    tag: Mapping[str, Any]
    stages: Mapping[str, str] = field(default_factory=dict)

    def advice(self, alias: str) -> str:
        """Say what to do where the alias is missing."""
        if not self.stages:
            return f"set it on the one that serves: `models:/{self.name}@{alias}`"
        had = ", ".join(f"{stage} is version {v}" for stage, v in sorted(self.stages.items()))
        return (
            f"{had}, but MLflow has deprecated stages and they are not watched: set the alias on the one that serves, "
            f"and load `models:/{self.name}@{alias}`"
        )


@connector("mlflow")
class MlflowModels:
    """Model versions in an MLflow registry: watches its aliases, and moves one of them.

    Source   model.age_seconds, model.retraining_held for each model; a Change of kind release when the alias has
             moved, whoever moved it, also while the daemon was down; others (act) for new versions and other aliases
    Ability  Models (see playbooks/actions/models.py)
    When an alias was moved MLflow does not say: within 15 s before it was seen, and exactly where we did it.
    Cost: one request a look, two more for a model that has changed and one for each of its runs, once.
    """

    tested = "MLflow 3.17"

    class Config(Access):
        """Where it is, and what is watched."""

        alias: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "champion"
        """Whoever serves loads `models:/NAME@champion`."""
        models: list[Annotated[str, Field(min_length=1)]] = []
        """Only these; default: every model that has the alias."""
        metric: str = "accuracy"
        """Metric of a run that is the accuracy of its version, 0 to 1."""

        @model_validator(mode="before")
        @classmethod
        def _no_stage(cls, said: Any) -> Any:
            if isinstance(said, dict) and {"stage", "stages"} & said.keys():
                raise ValueError(
                    "MLflow has deprecated stages: set an alias on the version that serves, and write `alias: NAME`"
                )
            return said

    interval_s = 15.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._server = Mlflow(config)
        self._turn = asyncio.Lock()
        self._kept = Kept(state / "feeds" / f"{name}.aliases.json" if state is not None else None)
        self._known: dict[str, dict[str, Any]] = {
            name: seen for name, seen in self._kept.found.items() if _whole(seen)
        }
        self._dirty = False
        self._versions: dict[str, tuple[Any, float, list[dict[str, Any]]]] = {}
        self._runs: dict[str, dict[str, Any]] = {}
        self._inputs: dict[tuple[str, str], tuple[tuple[str, ...], float]] = {}
        self._series: tuple[Series, ...] = ()
        self._told: dict[Entity, Sighting] = {}
        self._problems: dict[str, str] = {}

    # ---- source

    async def poll(self) -> Frame:
        """Look at all models once; raises Unavailable, Refused."""
        self._keep()  # what the last frame told has been taken
        models = await self._models()
        rows: list[tuple[Series, float]] = []
        there: dict[Entity, Sighting] = {}
        changes: list[Change] = []
        problems: dict[str, str] = {}
        seen: dict[str, dict[str, Any]] = {}
        for model in models:
            about = Entity("model", model.name)
            trained: float | None = None
            try:
                champion = self._champion(model)
                found = await self._read(model, only=set(model.aliases.values()))
                seen[model.name] = self._seen(model, champion)
                changes += await self._changes(about, champion, seen[model.name])
            except Refused as problem:
                problems[model.name] = str(problem)
                # no champion is no reason to believe that the versions have gone
                there |= {e: s for e, s in self._told.items() if _of(e, model.name)}
            else:
                there |= {s.entity: s for s in sightings(about, champion, found)}
                trained = next((v.trained_at for v in found if v.version == champion.version), None)
            held = float(HELD_TAG in model.tags)
            rows.append((Series("model.retraining_held", about), held))
            age = math.nan if trained is None else time.time() - trained
            rows.append((Series("model.age_seconds", about), age))
        if any(self._known.get(name) != now for name, now in seen.items()):
            self._known |= seen  # only now, when the frame is sure to be taken
            self._dirty = True
        return self._frame(rows, there, changes, problems)

    def _frame(
        self,
        rows: list[tuple[Series, float]],
        there: dict[Entity, Sighting],
        changes: list[Change],
        problems: dict[str, str],
    ) -> Frame:
        rows.sort(key=lambda row: row[0])
        series = tuple(row[0] for row in rows)
        self._series = series if series != self._series else self._series
        gone = [e for e in self._told if e.kind == "version" and e not in there]
        seen = [s for e, s in there.items() if self._told.get(e) != s]
        seen += [Sighting(e, gone=True) for e in gone]
        self._told = {e: s for e, s in self._told.items() if e.kind == "model"} | there
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                log.warning("model_unreadable", model=name, problem=problem)
        self._problems = problems
        values = np.array([row[1] for row in rows], dtype=np.float64)
        return Frame(self.name, time.time(), self._series, values, tuple(seen), tuple(changes))

    async def _models(self) -> list[_Model]:
        if self.config.models:
            return [await self._named(name) for name in sorted(set(self.config.models))]
        models = await self._all()
        # one that had the alias and lost it is a problem to tell, not a model less
        ours = [m for m in models if self.config.alias in m.aliases or m.name in self._known]
        return sorted(ours, key=lambda m: m.name)

    async def _all(self) -> list[_Model]:
        found = await self._server.pages(
            "registered-models/search", "registered_models", _MOST_MODELS
        )
        return [_model_of(one) for one in found]

    async def _named(self, name: str) -> _Model:
        try:
            return await self._model(name)
        except Missing:  # its champion is refused, and that hides no other model
            return _Model(name, "", {}, {}, {})

    def _seen(self, model: _Model, now: Champion) -> dict[str, Any]:
        """Return what is remembered of a model until the next look."""
        found = self._versions.get(model.name)
        tops = [int(v["version"]) for v in (found[2] if found else []) if _numbered(v)]
        return {
            "champions": [now.version, *now.previous][:MOST_PREVIOUS], "top": max(tops, default=0),
            "aliases": {a: v for a, v in model.aliases.items() if a != self.config.alias},
            "overruled": self._overruled(model),
        }  # fmt: skip

    async def _changes(self, about: Entity, now: Champion, seen: Mapping[str, Any]) -> list[Change]:
        """Return what has changed since the last look; nothing for a model that is seen for the first time."""
        before = self._known.get(about.key)
        if before is None or before == seen:
            return []
        out = [
            Change(
                _seconds(v.get("creation_timestamp")) or time.time(), about, "act", "", f"version {v['version']}",
                str(v.get("user_id") or "")[:100], f"version {v['version']} was registered",
                self._link(about.key, v["version"]),
            )
            for v in self._versions[about.key][2]
            if _numbered(v) and int(v["version"]) > int(before["top"])
        ]  # fmt: skip
        was = before["champions"][0]
        if was != now.version:
            text = await self._about(about.key, now.version)
            ts = now.changed if now.changed > 0 else time.time()
            out.append(
                Change(ts, about, "release", was, now.version, now.by, text, self._link(about.key, now.version))
            )  # fmt: skip
        for alias in sorted(seen["aliases"].keys() | before["aliases"].keys()):
            old, new = before["aliases"].get(alias, ""), seen["aliases"].get(alias, "")
            if old != new:
                text = f"alias {alias} was {'moved' if new else 'taken away'}"
                out.append(Change(time.time(), about, "act", old, new, "", text))
        return out

    def _overruled(self, model: _Model) -> float:
        """Return the time of that move of ours after which we saw somebody else's; 0 = there is none."""
        known = self._known.get(model.name, {})
        # a tag that never came true is of a move that is under way, or was cut off
        was = known.get("champions", [""])[0]
        if model.tag and model.aliases.get(self.config.alias) != was == model.tag["version"]:
            return float(model.tag["changed"])
        return float(known.get("overruled", 0.0))

    def _keep(self) -> None:
        if self._dirty:
            self._kept.write(self._known, clean=True)
            self._dirty = False

    async def _about(self, name: str, version: str) -> str:
        """Say what a version was made of, in one line: for the journal."""
        try:
            run = await self._run(await self._version(name, version))
        except AgentError:
            return ""
        parts = [
            f"{what} {value if isinstance(value, str) else json.dumps(value)}"
            for what, value in used(run).items()
            if value
        ]
        return "; ".join(parts)[:_TEXT]

    def _link(self, name: str, version: str) -> str:
        return f"{self._server.where}/#/models/{quote(name, safe='')}/versions/{version}"

    # ---- ability: Models

    async def champion(self, model: str) -> Champion:
        """Return the version that the alias names."""
        return self._champion(await self._model(model))

    async def versions(self, model: str) -> Sequence[Version]:
        """Return the newest versions that are ready, oldest first."""
        return await self._read(await self._model(model))

    async def promote(self, model: str, version: str, expect: str, by: str) -> None:
        """Move the alias if it names `expect`; see above for what that is worth.

        Raises Refused (moved by others, no such version, no right to), Unavailable (nothing was moved), Uncertain.
        """
        async with self._turn:
            await self._promote(model, version, expect, by)

    async def _promote(self, model: str, version: str, expect: str, by: str) -> None:
        now = self._champion(await self._model(model))
        _same(model, now, expect)
        found = await self._version(model, version)
        if found.get("status", "READY") != "READY":
            raise Refused(f"version {version} of {model} is {found['status']}, not ready")
        tag = {
            "version": version, "by": by, "changed": time.time(), "previous": stack(now, version),
            "was": {"version": now.version, "previous": list(now.previous)},
        }  # fmt: skip
        try:
            await self._tag(model, POINTER_TAG, json.dumps(tag))
        except Uncertain as lost:  # the tag alone moves nothing
            raise Unavailable(f"{lost}; the alias was not moved") from None
        again = await self._model(model)
        if again.tag.get("by") != by or again.tag.get("version") != version:
            raise Refused(
                f"{again.tag.get('by') or 'somebody'} is about to move the champion of {model}, too: look who it is"
            )
        _same(model, self._champion(again), expect)
        await self._server.post(
            "registered-models/alias", name=model, alias=self.config.alias, version=version
        )
        try:
            after = (await self._model(model)).aliases.get(self.config.alias)
        except AgentError as lost:
            raise Uncertain(f"the champion of {model} was set to {version}; {lost}") from None
        if after != version:
            raise Uncertain(
                f"the champion of {model} was set to {version} and is {after or 'none'}: somebody else is at work"
            )

    async def hold_retraining(self, model: str, reason: str, by: str) -> None:
        """Forbid retraining, by a tag; a hold that is there stays as it is."""
        if await self.retraining_held(model) is None:
            await self._tag(model, HELD_TAG, f"{' '.join(reason.split())}\nby: {by}")

    async def release_retraining(self, model: str, by: str) -> None:
        """Allow retraining again; raises Refused when somebody else holds it."""
        hold = await self.retraining_held(model)
        if hold is None:
            return
        if hold.by != by:
            raise Refused(
                f"retraining of {model} is held by {hold.by or 'somebody else'} ({hold.reason}): they release it, "
                f"or a person removes the tag {HELD_TAG}"
            )
        await self._server.delete("registered-models/delete-tag", name=model, key=HELD_TAG)

    async def retraining_held(self, model: str) -> Hold | None:
        """Return why and by whom retraining is held."""
        text = (await self._model(model)).tags.get(HELD_TAG)
        return None if text is None else Hold(*read_hold(text))

    async def describe(self) -> Sequence[str]:
        """Say what is registered, and what may be moved."""
        try:
            models = await self._models()
            about = await self._server.text("version")
        except (Unavailable, Refused) as problem:
            return (str(problem),)
        out = [f"MLflow {about.strip()[:20]} at {self._server.where}"]
        for model in models:
            try:
                champion = self._champion(model)
            except Refused as problem:
                out.append(f"model:{model.name}: {problem}")
                continue
            age = time.time() - champion.changed
            since = "" if math.isnan(age) else f", since {say_duration(max(0.0, age))}"
            said = ", ".join(f"{v.version} ({v.role})" for v in await self._read(model))
            held = model.tags.get(HELD_TAG)
            out.append(
                f"model:{model.name}: version {champion.version} answers{since}; versions {said}"
                + (f"; retraining is held: {read_hold(held)[0]}" if held is not None else "")
            )
        if not models:
            out.append(
                f"no model has the alias {self.config.alias}: set it on the version that serves"
            )
        ours = {model.name for model in models}
        out += [
            f"model:{m.name}: {m.advice(self.config.alias)}"
            for m in await self._all()
            if m.stages and m.name not in ours
        ]
        out.append(f"would move the alias {self.config.alias}; whether the login may is seen then")
        return out

    async def close(self) -> None:
        """Keep what was told, close the connections."""
        self._keep()
        await self._server.close()

    # ---- what MLflow says, in our words

    async def _model(self, name: str) -> _Model:
        try:
            found = await self._server.get("registered-models/get", name=name)
        except Missing:
            raise Missing(f"there is no model {name} in {self._server.where}") from None
        return _model_of(found.get("registered_model"))

    def _champion(self, model: _Model) -> Champion:
        version = model.aliases.get(self.config.alias)
        if version is None:
            raise Refused(
                f"no version of {model.name} has the alias {self.config.alias}: {model.advice(self.config.alias)}"
            )
        tag, known = model.tag, self._known.get(model.name, {})
        if tag and tag["version"] == version and tag["changed"] != known.get("overruled"):
            was = tag["was"]["version"], tuple(tag["was"]["previous"])
            return Champion(version, tuple(tag["previous"]), float(tag["changed"]), tag["by"], was)
        # who moved it since is not told; what it was before we have seen, or our tag says it
        line = list(known.get("champions", ()))
        if not line and tag:
            old = tag["was"] if tag["was"]["version"] == version else tag
            line = [old["version"], *old["previous"]]
        if not line or line[0] == version:
            return Champion(version, tuple(line[1:]), math.nan, "")
        before = Champion(line[0], tuple(line[1:]), math.nan, "")
        return Champion(version, tuple(stack(before, version)), math.nan, "")

    async def _read(self, model: _Model, only: set[str] | None = None) -> list[Version]:
        """Return versions in our words, oldest first; of others than `only` no run is asked for."""
        mark = (model.updated, model.aliases, model.tags)
        kept = self._versions.get(model.name)
        if kept is None or kept[0] != mark or time.monotonic() - kept[1] > _AGAIN_S:
            name = model.name.replace("'", "\\'")
            found = await self._server.pages(
                "model-versions/search", "model_versions", _MOST_VERSIONS,
                filter=f"name='{name}'", order_by="version_number DESC",
            )  # fmt: skip
            kept = mark, time.monotonic(), found
            self._versions[model.name] = kept
        ready = [v for v in kept[2] if v.get("status", "READY") == "READY" and v.get("version")]
        return [
            await self._version_of(
                model.name, v, whole=only is None or str(v["version"]) in only or _backup(v)
            )
            for v in sorted(ready, key=lambda v: natural(str(v["version"])))
        ]

    async def _version_of(self, name: str, said: Mapping[str, Any], *, whole: bool) -> Version:
        version, tags = str(said["version"]), by_key(said.get("tags"))
        made = _seconds(said.get("creation_timestamp"))
        accuracy = None
        if whole:
            run = await self._run(said)
            made = _seconds((run.get("info") or {}).get("end_time")) or made
            accuracy = numbers((run.get("data") or {}).get("metrics")).get(self.config.metric)
        features = tuple(f.strip() for f in tags.get("features", "").split(",") if f.strip())
        if _backup(said) and not features:
            features = await self._signature(name, version)
        # a backup whose inputs are not known does without none of them, as far as we can tell
        role = "backup" if _backup(said) and features else "candidate"
        return Version(version, role, features, made, accuracy)

    async def _version(self, name: str, version: str) -> dict[str, Any]:
        try:
            found = await self._server.get("model-versions/get", name=name, version=version)
        except Missing:
            raise Refused(f"{name} has no version {version} in {self._server.where}") from None
        return dict(found.get("model_version") or {})

    async def _run(self, version: Mapping[str, Any]) -> dict[str, Any]:
        """Return the run of a version, {} when it has none or it was deleted; one that has ended is asked for once."""
        run_id = str(version.get("run_id") or "")
        if not run_id:
            return {}
        if run_id not in self._runs:
            try:
                run = dict((await self._server.get("runs/get", run_id=run_id)).get("run") or {})
            except Missing:
                run = {}
            if (run.get("info") or {}).get("status") == "RUNNING":
                return run
            if len(self._runs) >= _MOST_RUNS:
                self._runs.clear()
            self._runs[run_id] = run
        return self._runs[run_id]

    async def _signature(self, name: str, version: str) -> tuple[str, ...]:
        """Return the inputs that the signature of a version names; () = none that can be read, asked again later."""
        now = time.monotonic()
        known, at = self._inputs.get((name, version), ((), -math.inf))
        if known or now - at < _AGAIN_S:
            return known
        try:
            text = await self._server.text(
                "model-versions/get-artifact", name=name, version=version, path="MLmodel"
            )
        except (Refused, Unavailable):  # it has no files, or the server can not get at them
            text = ""
        if len(self._inputs) >= _MOST_RUNS:
            self._inputs.clear()
        self._inputs[name, version] = _inputs_of(text), now
        return self._inputs[name, version][0]

    async def _tag(self, model: str, key: str, value: str) -> None:
        await self._server.post("registered-models/set-tag", name=model, key=key, value=value)


def _model_of(said: Any) -> _Model:
    if not isinstance(said, dict) or not said.get("name"):
        raise Refused("the answer has no registered model; is `url` MLflow's?")
    aliases = {
        str(a.get("alias")): str(a.get("version"))
        for a in said.get("aliases") or ()
        if isinstance(a, dict)
    }
    tags = by_key(said.get("tags"))
    stages = {
        str(v["current_stage"]): str(v.get("version"))
        for v in said.get("latest_versions") or ()
        if isinstance(v, dict) and v.get("current_stage") in _STAGES
    }
    return _Model(
        str(said["name"]),
        str(said.get("last_updated_timestamp")),
        aliases,
        tags,
        _pointer(tags),
        stages,
    )


def _pointer(tags: Mapping[str, str]) -> dict[str, Any]:
    """Return our own tag; {} when there is none, or it is not as we write it."""
    try:
        tag = json.loads(tags.get(POINTER_TAG, ""))
        return {
            "version": str(tag["version"]), "by": str(tag["by"]), "changed": float(tag["changed"]),
            "previous": [str(v) for v in tag["previous"]],
            "was": {
                "version": str(tag["was"]["version"]), "previous": [str(v) for v in tag["was"]["previous"]],
            },
        }  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return {}


def _inputs_of(text: str) -> tuple[str, ...]:
    """Return the names of the inputs in an MLmodel file; () = it has no signature, or names none."""
    try:
        columns = json.loads(yaml.safe_load(text)["signature"]["inputs"])
        return tuple(str(column["name"]) for column in columns)
    except (ValueError, TypeError, KeyError, yaml.YAMLError):
        return ()


def _same(model: str, now: Champion, expect: str) -> None:
    if now.version != expect:
        raise Refused(
            f"the champion of {model} is {now.version}" + (f", set by {now.by}" if now.by else "")
            + f", not {expect}: changed by others, look before you act"
        )  # fmt: skip


def _of(about: Entity, model: str) -> bool:
    return about.key == model or about.key.startswith(model + "/")


def _whole(seen: Any) -> bool:
    """Tell whether what was kept of a model is as we keep it."""
    try:
        return (
            bool(seen["champions"])
            and dict(seen["aliases"]) is not None
            and seen["top"] + seen["overruled"] >= 0
        )
    except (TypeError, KeyError, ValueError):
        return False


def _numbered(version: Mapping[str, Any]) -> bool:
    return str(version.get("version", "")).isdigit()


def _backup(version: Mapping[str, Any]) -> bool:
    return by_key(version.get("tags")).get("role") == "backup"


def _seconds(milliseconds: Any) -> float | None:
    """Return unix seconds; None for what says no time."""
    try:
        seconds = float(milliseconds) / 1000
    except (TypeError, ValueError):
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None
