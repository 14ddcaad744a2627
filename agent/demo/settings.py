"""The settings that the demo's agent runs with: ordinary `agent.yaml` and `playbooks.d/`, only with shorter times.

It may act on exactly four things: the service, its model (with the features of it) and the neighbour's processes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from agent import registry
from agent.authority import Tokens
from agent.config import Config, load
from agent.demo.card import differences
from agent.demo.ground import MODEL, SERVICE, Ground
from agent.demo.load import DAY_S, LABEL_S
from agent.errors import ConfigError
from agent.model import Mode
from agent.strict import read

HEAD: Final = "Written by `homeostat demo`."
ACCURACY: Final = 0.88
"""Objective on the upper 95 % bound of accuracy, so that few rows do not count as bad ones. The champion has about
.95 (bound .97), its backup .93; the faults bring .4 to .75."""
MARGIN: Final = 4.0
LATENCY_S: Final = (0.15, 0.4)
"""Objective on p95: MARGIN times the quiet p95, within these bounds."""


def latency_objective(quiet_p95_s: float) -> float:
    """Return the objective for p95 from what was measured while all was quiet, on 10 ms."""
    low, high = LATENCY_S
    return round(min(high, max(low, MARGIN * quiet_p95_s)), 2)


def agent_yaml(
    ground: Ground,
    port: int,
    latency_s: float,
    *,
    mode: Mode,
    fronts: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return agent.yaml as data.

    fronts   small front ends that are watched and managed, too: name -> port
    """
    fronts = fronts or {}
    return {
        "mode": mode,
        "single_agent": True,
        "manages": [
            {"kind": "service", "key": SERVICE},
            {"kind": "model", "key": MODEL},
            {"kind": "feature", "key": f"{MODEL}/*"},
            {"kind": "process", "where": {"command": "*agent.demo.neighbour*"}},
            *({"kind": "service", "key": name} for name in fronts),
        ],
        "listen": f"127.0.0.1:{port}",
        "page": {"command": ["tee", "-a", str(ground.folder / "run" / "pages.jsonl")]},
        "diagnose": {
            "window": "10s", "baseline": "300s", "release_window": "30s", "settle": "4s",
            "resolve_after": "4s", "reopen_within": "2s",
        },
        "models": {"window": "7s", "min_rows": 60, "label_wait": "60s", "traffic_window": "4s"},
        "connectors": {
            "processes": {"interval": "1s"},
            "kernel_log": {"enabled": False},  # what befalls the rest of this machine is no fault of the demo
            "model_directory": {"path": str(ground.models)},
            "gunicorn": {"service": SERVICE, "pidfile": str(ground.pidfile), "max_workers": 4},
            "trainer": {
                "model": MODEL,
                "command": [
                    sys.executable, "-P", "-m", "agent.demo.trainer", "retrain",
                    "--root", str(ground.models), "--model", MODEL,
                    "--predictions", str(ground.predictions), "--labels", str(ground.labels),
                    "--reports", str(ground.folder / "reports"),
                ],
                "directory": str(ground.models),
                "timeout": "60s",
            },
            "predictions": {
                "path": str(ground.predictions), "labels": str(ground.labels), "model": MODEL,
            },
            "probe": {"service": SERVICE, "url": f"http://127.0.0.1:{ground.port}/health"},
            **{
                f"gunicorn-{name}": {
                    "use": "gunicorn", "interval": "10s", "service": name, "max_workers": 2,
                    "pidfile": str(ground.front_pidfile(name)),
                }
                for name in fronts
            },
            **{
                f"probe-{name}": {
                    "use": "probe", "interval": "3s", "service": name, "timeout": "1s",
                    "url": f"http://127.0.0.1:{at}/",
                }
                for name, at in fronts.items()
            },
            **ground.more,
        },
        "services": [
            {
                "id": SERVICE,
                "owner": "demo",
                "pidfile": str(ground.pidfile),
                "port": ground.port,
                "models": [MODEL],
                "objectives": [
                    {"signal": "service.latency_p95_seconds", "max": latency_s, "for": "3s"},
                    {"signal": "model.accuracy_high_ratio", "min": ACCURACY, "for": "2s"},
                ],
            },
            *(
                # one process each: the others serve while one restarts
                {"id": name, "owner": "demo", "port": at, "min_healthy": 0,
                 "pidfile": str(ground.front_pidfile(name))}
                for name, at in fronts.items()
            ),
        ],
    }  # fmt: skip


def more_connectors(path: Path) -> dict[str, Any]:
    """Return the connectors of a file that has nothing else; raises ConfigError."""
    document = read(path)
    faults = [*document.faults]
    for key in document.data:
        if key != "connectors":
            remedy = "leave it away: the demo writes the rest of its agent.yaml itself"
            faults.append(document.fault((key,), f"`{key}` is not taken here", remedy))
    some = document.data.get("connectors") or {}
    if not faults and not isinstance(some, dict):
        faults.append(document.fault(("connectors",), "is no mapping", "write `slack: {...}`"))
    if faults:
        raise ConfigError(faults)
    return dict(some)


def compressed() -> list[str]:
    """Say what takes less time here than anywhere else."""
    return [
        f"a day lasts {DAY_S:g} s ({86_400 / DAY_S:,.0f} times faster)",
        f"labels come after {LABEL_S[0]:g} to {LABEL_S[1]:g} s instead of hours or days",
        "windows, settle times, cool-downs and waits of agent and playbooks: as listed above",
    ]


def playbooks(latency_s: float, *, mode: Mode, belief: bool = False) -> dict[str, dict[str, Any]]:
    """Return what `playbooks.d/` lays over the shipped playbooks: mode, shorter times, smaller counts.

    belief   the acts of belief break the same thing again and again: more roll backs are allowed, further apart
    Latency is proven against the stated objective: it is what the service owes, and a machine that others use too
    does not return to the very latency it had before.
    """
    soon = {"is": f"service.latency_p95_seconds > {latency_s}", "for": "2s"}
    well = [f"service.latency_p95_seconds <= {latency_s}"]
    guard = {"cooldown": {"time": "5s"}, "settle": "2s", "attempts": {"max": 4}}
    over: dict[str, dict[str, Any]] = {
        "serve-bad-deploy": {"verify": {"wait": "3s", "within": "20s"}},
        "serve-noisy-neighbour": {
            "when": [soon, 'cause.entity.startsWith("process:")'],
            "do": [{"id": "lower", "until": {"for": "3s", "at_most": "25s"}}],
            "verify": {"wait": "3s", "within": "16s", "expect": well},
        },
        "serve-saturation": {
            "when": [soon],
            "do": [
                {
                    "id": "scale_out",
                    "with": {"by": 2},
                    "until": {
                        # the day itself swings by a fifth
                        "is": "service.requests_per_second <= baseline.service.requests_per_second * 1.6",
                        "for": "3s",
                        "at_most": "60s",
                    },
                }
            ],
            "verify": {"wait": "3s", "within": "16s", "expect": well},
        },
        "feat-schema-change": {
            # labels come 2 to 4 s late: who acts before they tell of the harm can not prove that it helped
            "when": [{"is": "feature.contract_broken > 0.5", "for": "5s"}],
            "do": [
                {"id": "hold", "until": {"for": "1s", "at_most": "60s"}},
                {"id": "backup", "until": {"for": "4s", "at_most": "60s"}},
            ],
            "verify": {"wait": "3s", "within": "20s"},
        },
        "concept-drift": {
            "do": [{"id": "retrain", "with": {"min_rows": 40}}],
            "verify": {"wait": "3s", "within": "20s"},
        },
    }
    if belief:
        # longer than the minute after a restart in which what was wrong before is confirmed to be over
        often = {"cooldown": {"time": "70s"}, "rate": {"max": 12}, "attempts": {"max": 12}}
        over["serve-bad-deploy"]["guard"] = {**guard, **often}
    return {id_: {"id": id_, "mode": mode, "guard": guard, **rest} for id_, rest in over.items()}


def wrong_idea(version: str) -> dict[str, Any]:
    """Return a user's playbook that makes it worse: after a bad release it promotes a version that is worse still."""
    return {
        "version": 1,
        "id": "push-forward",
        "title": "Answer a bad release with another version (a wrong idea)",
        "mode": "auto",
        "order": 1,
        "target": {"kind": "model"},
        "because": {"cause": "release.model", "min_confidence": "60%"},
        # more conditions than those that know better: it comes before them, however soon labels prove the loss
        "when": [
            "model.predictions_per_second > 0.0",
            "model.labelled_rows_count > 0.0",
            "model.accuracy_ratio < 0.9",
        ],
        "guard": {"cooldown": {"time": "60s"}, "settle": "2s"},
        "do": [{"id": "push", "use": "promote", "with": {"version": version}, "undo": "auto"}],
        "verify": {
            "wait": "3s", "within": "20s", "otherwise": "undo",
            "expect": ["model.accuracy_ratio >= model.reference_accuracy_ratio - 0.05"],
        },
        "tests": [
            {
                "name": "it wants to act",
                "given": {
                    "model.predictions_per_second": 20.0, "model.labelled_rows_count": 90.0,
                    "model.accuracy_ratio": 0.8,
                },
                "fires": True,
            }
        ],
    }  # fmt: skip


def restart_silent() -> dict[str, Any]:
    """Return a user's playbook that restarts a service that does not answer: sensible, as long as it is one."""
    return {
        "version": 1,
        "id": "restart-silent",
        "title": "Restart a front end that does not answer",
        "mode": "auto",
        "order": 1,
        "target": {"kind": "service"},
        "because": {"cause": "serving.crash", "min_confidence": "0%"},
        # long enough that a trouble of all of them shows on all of them
        "when": [{"is": "service.up < 0.5", "for": "8s"}],
        "guard": {
            "cooldown": {"time": "5s"}, "settle": "2s", "blast": {"max_targets": 4, "max_share": "100%"},
        },
        "do": [
            {"id": "restart", "use": "restart", "with": {"min_healthy": 0}, "undo": "none"}
        ],
        "verify": {"wait": "3s", "within": "20s", "expect": ["service.up > 0.5"]},
        "tests": [{"name": "it wants to act", "given": {"service.up": 0.0}, "fires": True}],
    }  # fmt: skip


def token(state: Path) -> str:
    """Make the token of the person who approves, as `homeostat token add` does."""
    return Tokens(state / "tokens.json").add("demo", "operator", time.time())


def changed(ground: Ground) -> list[str]:
    """Say where agent.yaml and playbooks.d differ from what is shipped, a line each."""
    registry.load()
    load(ground.config)  # what is shown is what was accepted
    mine = yaml.safe_load(ground.config.read_text(encoding="utf-8"))
    out = differences(mine, Config().model_dump(mode="json", by_alias=True))
    for path in sorted(ground.playbooks.glob("*.yaml")):
        over = yaml.safe_load(path.read_text(encoding="utf-8"))
        shipped = yaml.safe_load(_shipped(over["id"]))
        lines = differences(over, _by_step(over, shipped))
        out += [f"playbook {over['id']}: {line}" for line in lines]
    return out


def _shipped(id_: str) -> str:
    for path in resources.files("playbooks").iterdir():
        if path.name.endswith(".yaml"):
            text = path.read_text(encoding="utf-8")
            if yaml.safe_load(text).get("id") == id_:
                return text
    return "{}"


def _by_step(over: dict[str, Any], shipped: dict[str, Any]) -> dict[str, Any]:
    """Cut steps of the shipped playbook to what the overriding ones speak of, so that the rest is no difference."""
    out = dict(shipped)
    for part in ("do", "then"):
        known = {step.get("id", step["use"]): step for step in shipped.get(part, [])}
        out[part] = [{k: known.get(s["id"], {}).get(k) for k in s} for s in over.get(part, [])]
    return out


def write(path: Path, data: dict[str, Any], head: str) -> None:
    """Write YAML for people: order kept, a comment on top."""
    text = "".join(f"# {line}\n" for line in head.splitlines())
    text += yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    path.write_text(text, encoding="utf-8")
