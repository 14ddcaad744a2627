"""Every connector that there is, with every secret that one can be given: one config for tests of the whole.

A new connector, or a new secret of an old one, is missing here until it is written down: `lacking` says so.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent import registry
from agent.secret import Hidden, is_reference

NOBODY = "nobody" if os.geteuid() == 0 else ""
"""Whom commands run as."""
Plant = Callable[..., str]
"""(label, form) -> reference to a new secret, which stands in `form` where {} does."""


def everything(url: str, folder: Path, plant: Plant) -> dict[str, dict[str, Any]]:
    """Return the connectors of a config, by name; all that speak HTTP ask below `url`, which is said to whom it is.

    Default connectors are among them; what else they need of this host is not there: sockets, pidfiles, programs.
    """
    gone = folder / "gone"

    def bearer(label: str) -> str:
        return plant(label, "Bearer {}")

    def at(name: str) -> dict[str, Any]:
        return {"url": f"{url}/{name}"}

    def mlflow(label: str) -> dict[str, Any]:
        return at(f"{label}-mlflow") | {"headers": {"x-api-key": plant(f"{label}-key")}}

    trains = {"model": "fraud", "limit": "1h", "every": 1, "timeout": 2}
    kubernetes = {"service": "web", "workload": "deployment/web", "timeout": 2, "wait": 2}
    return {
        "alertmanager": {
            **at("alertmanager"), "headers": {"authorization": bearer("alertmanager")}, "alerts": ["page", "note"],
            "timeout": 2,
        },
        "batch_scoring": {
            "path": str(folder / "batch*.csv"), "model": "fraud", "hash": ["name"], "hash_key": plant("batch"),
        },
        "cgroup": {"groups": {"web": "/web.slice"}},
        "commands": {"run": {"say": {"argv": ["/usr/bin/env"], "env": ["SAY_TOKEN"]}}, "user": NOBODY},
        "connections": {},
        "containers": {},
        "deployments": {
            "github": plant("github"), "gitlab": plant("gitlab"), "generic": plant("generic"),
        },
        "disks": {},
        "docker": {"service": "web", "labels": {"app": "web"}, "socket": str(gone / "docker.sock")},
        "elastic_logs": {**at("elastic_logs"), "api_key": plant("elastic-logs"), "window": 2, "delay": 1},
        "elastic_logs_2": {
            "use": "elastic_logs", **at("elastic_logs_2"), "user": "me", "password": plant("elastic-logs-2"),
        },
        "elastic_out": {**at("elastic_out"), "api_key": plant("elastic-out"), "timeout": 2},
        "elastic_out_2": {
            "use": "elastic_out", **at("elastic_out_2"), "user": "me", "password": plant("elastic-out-2"), "timeout": 2,
        },
        "elastic_predictions": {
            **at("elastic_predictions"), "index": "rows", "model": "fraud", "api_key": plant("rows"),
            "hash": ["name"], "hash_key": plant("rows-hash"),
        },
        "elastic_predictions_2": {
            "use": "elastic_predictions", **at("elastic_predictions_2"), "index": "rows", "model": "fraud",
            "user": "me", "password": plant("rows-2"),
        },
        "fleet_http": {
            "service": "web", **at("fleet_http"), "headers": {"authorization": bearer("fleet")}, "timeout": 2,
            "wait": 2,
        },
        "flag_file": {"service": "web", "may": ["beta"], "path": str(folder / "flags.json")},
        "flag_http": {
            "service": "web", "may": ["beta"], **at("flag_http"), "headers": {"authorization": bearer("flags")},
            "timeout": 2,
        },
        "gpu": {},
        "gpu_control": {},
        "grafana_annotations": {
            "url": plant("grafana-url", f"{url}/grafana/{{}}"), "token": plant("grafana"),
            "severities": ["page", "note"], "events": ["opened", "changed"], "timeout": 2,
        },
        "gunicorn": {"service": "web", "pidfile": str(gone / "web.pid"), "max_workers": 4},
        "haproxy": {"service": "web", "socket": str(gone / "haproxy.sock"), "timeout": 2},
        "heartbeat": {
            "url": plant("heartbeat-url", f"{url}/heartbeat/{{}}/ping?pw={{}}"), "every": 5, "timeout": 2,
            "headers": {"authorization": plant("heartbeat", "Basic {}")},
        },
        "host": {},
        "http_calls": {
            "allow": [
                {"url": f"{url}/http_calls/", "headers": {"x-token": plant("calls")}, "methods": ["POST", "GET"]},
            ],
        },
        "kernel_log": {},
        "kubernetes": {**at("kubernetes"), "token": plant("kubernetes"), **kubernetes},
        "kubernetes_2": {"use": "kubernetes", "kubeconfig": str(folder / "kubeconfig"), **kubernetes, "service": "api"},
        "kubernetes_nodes": {**at("kubernetes_nodes"), "token": plant("nodes"), "timeout": 2},
        "machine": {},
        "mail": {
            "server": "127.0.0.1", "port": 1, "security": "tls", "user": "me", "password": plant("mail"),
            "sender": "a@example.org", "to": ["b@example.org"], "severities": ["page", "note"], "timeout": 2,
        },
        "mlflow": {
            **at("mlflow"), "token": plant("mlflow"), "headers": {"x-api-key": plant("mlflow-key")}, "timeout": 2,
        },
        "mlflow_2": {"use": "mlflow", **at("mlflow_2"), "user": "me", "password": plant("mlflow-2"), "timeout": 2},
        "model_directory": {"path": str(folder / "models")},
        "old_files": {"rules": {"logs": {"path": str(folder / "old"), "names": ["*.log"], "older": "1d"}}},
        "otlp": {},
        "page": {"command": ["/bin/false"]},
        "pagerduty": {
            "routing_key": plant("pagerduty"), "url": plant("pagerduty-url", f"{url}/pagerduty/{{}}"), "timeout": 2,
            "severities": ["page", "note"],
        },
        "predictions": {
            "path": str(folder / "rows*.csv"), "model": "fraud", "hash": ["name"], "hash_key": plant("log"),
        },
        "probe": {"service": "web", **at("probe"), "headers": {"cookie": plant("probe", "session={}")}},
        "processes": {},
        "prometheus": {**at("prometheus"), "token": plant("prometheus"), "selectors": ["up"], "timeout": 2},
        "prometheus_2": {
            "use": "prometheus", **at("prometheus_2"), "user": "me", "password": plant("prometheus-2"),
            "headers": {"x-token": plant("prometheus-key")}, "selectors": ["up"], "timeout": 2,
        },
        "remote_write": {
            "url": plant("write-url", f"{url}/write/{{}}"), "headers": {"authorization": bearer("write")}, "every": 2,
            "timeout": 2,
        },
        "slack": {
            "mode": "http", "channel": "C0123456789", "bot_token": plant("slack-bot"), "app_token": plant("slack-app"),
            "signing_secret": plant("slack-signing"), "webhook": plant("slack-url", f"{url}/slack/{{}}"),
            "api_url": f"{url}/slack/api/",
        },
        "systemd": {"service": "web", "units": ["web.service"], "systemctl": "/bin/false"},
        "trainer": {
            "model": "fraud", "command": ["/usr/bin/env"], "env": ["SAY_TOKEN"], "timeout": 5,
            "mlflow": mlflow("trainer") | {"token": plant("trainer")},
        },
        "trainer_2": {
            "use": "trainer", "model": "fraud", "command": ["/bin/false"],
            "mlflow": mlflow("trainer-2") | {"user": "me", "password": plant("trainer-2")},
        },
        "trainer_http": {
            **trains, "start": f"{url}/trainer_http/start", "status": f"{url}/trainer_http/{{run}}",
            "headers": {"authorization": bearer("trainer-http")},
        },
        "trainer_http_2": {
            "use": "trainer_http", **trains, "start": f"{url}/trainer_http_2/start",
            "status": f"{url}/trainer_http_2/{{run}}",
            "mlflow": mlflow("trainer-http-2") | {"token": plant("trainer-http-2")},
        },
        "trainer_http_3": {
            "use": "trainer_http", **trains, "start": f"{url}/trainer_http_3/start",
            "status": f"{url}/trainer_http_3/{{run}}",
            "mlflow": mlflow("trainer-http-3") | {"user": "me", "password": plant("trainer-http-3")},
        },
        "trainer_kubeflow": {
            **trains, **at("trainer_kubeflow"), "pipeline": "p", "token": plant("kubeflow"),
            "headers": {"x-secret": plant("kubeflow-key")}, "report": f"{url}/trainer_kubeflow/{{run}}",
        },
        "trainer_kubeflow_2": {
            "use": "trainer_kubeflow", **trains, **at("trainer_kubeflow_2"), "pipeline": "p",
            "mlflow": mlflow("kubeflow-2") | {"token": plant("kubeflow-2")},
        },
        "trainer_kubeflow_3": {
            "use": "trainer_kubeflow", **trains, **at("trainer_kubeflow_3"), "pipeline": "p",
            "mlflow": mlflow("kubeflow-3") | {"user": "me", "password": plant("kubeflow-3")},
        },
        "trainer_kubernetes": {**trains, **at("trainer_kubernetes"), "token": plant("job"), "cronjob": "c"},
        "trainer_kubernetes_2": {
            "use": "trainer_kubernetes", **trains, **at("trainer_kubernetes_2"), "cronjob": "c",
            "mlflow": mlflow("job-2") | {"token": plant("job-2")},
        },
        "trainer_kubernetes_3": {
            "use": "trainer_kubernetes", **trains, **at("trainer_kubernetes_3"), "cronjob": "c",
            "mlflow": mlflow("job-3") | {"user": "me", "password": plant("job-3")},
        },
        "units": {"systemctl": "/bin/false", "booted": str(folder)},
        "webhook": {
            "url": plant("webhook-url", f"{url}/webhook/{{}}"), "secret": plant("webhook"),
            "headers": {"authorization": bearer("webhook-token")}, "severities": ["page", "note"],
            "events": ["opened", "changed", "acted"], "timeout": 2,
        },
        "webhook_2": {  # refused when it is used: a URL may hold no password
            "use": "webhook", "url": plant("webhook-login", url.replace("://", "://me:{}@") + "/webhook_2"),
            "severities": ["page", "note"], "timeout": 2,
        },
    }  # fmt: skip


# ---------------------------------------------------------------- what may be missing


def secrets_of(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Return the places of a Config at which a secret may stand."""
    for name, field in model.model_fields.items():
        if any(isinstance(one, Hidden) for one in field.metadata):
            yield (name,)
        else:
            yield from ((name, *rest) for rest in _within(field.annotation))


def _within(kind: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from secrets_of(kind)
    elif typing.get_origin(kind) is typing.Annotated and any(
        isinstance(one, Hidden) for one in kind.__metadata__
    ):
        yield ()
    else:
        for part in typing.get_args(kind):
            yield from _within(part)


def texts_of(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the places of all else that a person writes as text, also in what stands within."""
    hidden = set(secrets_of(model))
    for name, field in model.model_fields.items():
        if field.annotation is str and (name,) not in hidden:
            yield (*at, name)
        for part in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from texts_of(part, (*at, name))


def _given(config: Any, place: tuple[str, ...]) -> bool:
    """Tell whether a secret is given there."""
    if isinstance(config, list):
        return any(_given(one, place) for one in config)
    if not place:
        found = config.values() if isinstance(config, dict) else [config]
        return any(isinstance(one, str) and is_reference(one) for one in found)
    return isinstance(config, dict) and place[0] in config and _given(config[place[0]], place[1:])


def lacking(connectors: dict[str, dict[str, Any]]) -> list[str]:
    """Say which connectors, and which of their secrets, a config has not."""
    registry.load()
    out = []
    for name in registry.connector:
        mine = [own for key, own in connectors.items() if own.get("use", key) == name]
        if not mine:
            out.append(name)
        out += [
            f"{name}: {'.'.join(place)}"
            for place in secrets_of(registry.connector.get(name).Config)
            if not any(_given(own, place) for own in mine)
        ]
    return out
