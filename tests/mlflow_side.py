"""The other side of MLflow: what people do there, and a stand-in that answers as far as we ask.

A real server: tests/live/test_mlflow_server.py, which does the same as the stand-in's tests.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit


class People:
    """Somebody who works with an MLflow server, real or not, by its REST interface."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, method: str, path: str, **body: Any) -> dict:
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), method=method,
            headers={"content-type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read() or b"{}")

    def run(self, experiment: str, accuracy: float, **params: str) -> dict:
        """Log a run that has ended."""
        try:
            made = self.ask("POST", "experiments/create", name=experiment)["experiment_id"]
        except urllib.error.HTTPError:  # it is there
            made = self.ask("POST", "experiments/search", max_results=100)["experiments"]
            made = next(e["experiment_id"] for e in made if e["name"] == experiment)
        now = int(time.time() * 1000)
        run = self.ask("POST", "runs/create", experiment_id=made, start_time=now)["run"]
        self.ask(
            "POST", "runs/log-batch", run_id=run["info"]["run_id"],
            metrics=[{"key": "accuracy", "value": accuracy, "timestamp": now, "step": 0}],
            params=[{"key": k, "value": v} for k, v in params.items()],
            tags=[{"key": "mlflow.source.git.commit", "value": "c0ffee"}],
        )  # fmt: skip
        self.ask("POST", "runs/update", run_id=run["info"]["run_id"], status="FINISHED", end_time=now)  # fmt: skip
        return run

    def register(self, model: str, run: dict | None = None, **tags: str) -> str:
        """Register a version of a model, of a run when there is one."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.ask("POST", "registered-models/create", name=model)
        of = {"source": "s3://models/fraud"}
        if run is not None:
            of = {"run_id": run["info"]["run_id"], "source": run["info"]["artifact_uri"] + "/model"}
        made = self.ask(
            "POST", "model-versions/create", name=model, tags=[{"key": k, "value": v} for k, v in tags.items()], **of
        )  # fmt: skip
        return made["model_version"]["version"]

    def stage(self, model: str, version: str, stage: str) -> None:
        """Put a version into a stage, as was done before there were aliases."""
        self.ask("POST", "model-versions/transition-stage", name=model, version=version, stage=stage)  # fmt: skip

    def point(self, model: str, version: str, alias: str = "champion") -> None:
        self.ask("POST", "registered-models/alias", name=model, alias=alias, version=version)

    def pointer(self, model: str, alias: str = "champion") -> str | None:
        with urllib.request.urlopen(
            f"{self.url}/api/2.0/mlflow/registered-models/get?name={model}", timeout=20
        ) as answer:
            found = json.loads(answer.read())["registered_model"].get("aliases") or []
        return next((str(a["version"]) for a in found if a["alias"] == alias), None)

    def fraud(self, model: str = "fraud") -> None:
        """Register three versions and three backups of a model, the third answers."""
        for accuracy in (0.91, 0.92, 0.93):
            self.register(model, self.run(f"{model}-training", accuracy, trees="60"))
        for features in ("age", "area", ""):
            self.register(model, role="backup", **({"features": features} if features else {}))
        for version in "123":
            self.point(model, version)


class StandIn(http.server.ThreadingHTTPServer):
    """An MLflow server in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.models: dict[str, dict] = {}
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict] = {}
        self.files: dict[tuple[str, str], str] = {}
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 0
        self.body = b"{}"
        self.before: Any = None
        self.ids = itertools.count(1)


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """Run one for a while."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _any(self) -> None:
        s = self.server
        sent = self.rfile.read(int(self.headers["content-length"] or 0))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api/2.0/mlflow/")
        args = {k: v[0] for k, v in parse_qs(parts.query).items()} | json.loads(sent or b"{}")
        s.asked.append((self.command, path))
        s.headers.append(dict(self.headers))
        if s.before is not None:
            s.before(self.command, path, args)
        if s.status:
            self._say(s.status, s.body)
            return
        try:
            found = _answer(s, self.command, path, args)
        except KeyError as missing:
            said = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {missing}"}
            self._say(404, json.dumps(said).encode())
        except ValueError as bad:
            said = {"error_code": "RESOURCE_ALREADY_EXISTS", "message": str(bad)}
            self._say(400, json.dumps(said).encode())
        else:
            self._say(200, found if isinstance(found, bytes) else json.dumps(found).encode())

    def do_GET(self):
        self._any()

    def do_POST(self):
        self._any()

    def do_DELETE(self):
        self._any()

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Say nothing on standard error."""


def _shown(model: dict) -> dict:
    out = {k: model[k] for k in ("name", "last_updated_timestamp")}
    for name, key, value in (("tags", "key", "value"), ("aliases", "alias", "version")):
        if model[name]:  # MLflow leaves out what is empty
            out[name] = [{key: k, value: v} for k, v in model[name].items()]
    return out


def _answer(s: StandIn, method: str, path: str, args: dict) -> Any:  # noqa: C901, PLR0912  # a table of what is asked
    now = int(time.time() * 1000)
    match method, path:
        case "GET", "/version":
            return b"3.0-stand-in"
        case "POST", "registered-models/create":
            if args["name"] in s.models:
                raise ValueError("it is there")
            s.models[args["name"]] = {
                "name": args["name"], "tags": {}, "aliases": {}, "versions": {}, "last_updated_timestamp": now,
            }  # fmt: skip
            return {}
        case "GET", "registered-models/get":
            return {"registered_model": _shown(s.models[args["name"]])}
        case "GET", "registered-models/search":
            return {"registered_models": [_shown(m) for m in s.models.values()]}
        case "POST", "registered-models/alias":
            model = s.models[args["name"]]
            model["versions"][args["version"]]  # raises when there is none
            model["aliases"][args["alias"]] = args["version"]
            return {}
        case "DELETE", "registered-models/alias":
            del s.models[args["name"]]["aliases"][args["alias"]]
            return {}
        case "POST", "registered-models/set-tag":
            s.models[args["name"]]["tags"][args["key"]] = args["value"]
            return {}
        case "DELETE", "registered-models/delete-tag":
            s.models[args["name"]]["tags"].pop(args["key"], None)
            return {}
        case "POST", "model-versions/create":
            model = s.models[args["name"]]
            version = str(len(model["versions"]) + 1)
            model["last_updated_timestamp"] = now
            model["versions"][version] = {
                "name": args["name"], "version": version, "creation_timestamp": now, "status": "READY",
                "run_id": args.get("run_id", ""), "tags": args.get("tags", []),
            }  # fmt: skip
            return {"model_version": model["versions"][version]}
        case "GET", "model-versions/get":
            return {"model_version": s.models[args["name"]]["versions"][args["version"]]}
        case "GET", "model-versions/search":
            found = [v for m in s.models.values() for v in m["versions"].values()]
            key, value = re.fullmatch(r"(name|run_id)\s*=\s*'(.*)'", args["filter"]).groups()
            newest = sorted((v for v in found if v[key] == value), key=lambda v: -int(v["version"]))
            return {"model_versions": newest[: int(args["max_results"])]}
        case "GET", "/model-versions/get-artifact":
            return s.files[args["name"], args["version"]].encode()
        case "POST", "experiments/create":
            if args["name"] in s.experiments:
                raise ValueError("it is there")
            s.experiments[args["name"]] = str(next(s.ids))
            return {"experiment_id": s.experiments[args["name"]]}
        case "POST", "experiments/search":
            return {
                "experiments": [{"name": n, "experiment_id": i} for n, i in s.experiments.items()]
            }
        case "GET", "experiments/get-by-name":
            return {"experiment": {"experiment_id": s.experiments[args["experiment_name"]]}}
        case "POST", "runs/create":
            run_id = f"run{next(s.ids)}"
            s.runs[run_id] = {
                "info": {
                    "run_id": run_id, "status": "RUNNING", "start_time": args["start_time"],
                    "experiment_id": args["experiment_id"], "artifact_uri": f"mlflow-artifacts:/{run_id}",
                },
                "data": {"metrics": [], "params": [], "tags": args.get("tags", [])},
            }  # fmt: skip
            return {"run": s.runs[run_id]}
        case "GET", "runs/get":
            return {"run": s.runs[args["run_id"]]}
        case "POST", "runs/update":
            s.runs[args["run_id"]]["info"] |= {k: v for k, v in args.items() if k != "run_id"}
            return {}
        case "POST", "runs/log-batch":
            data = s.runs[args["run_id"]]["data"]
            for kind in ("metrics", "params", "tags"):
                data[kind] = data[kind] + args.get(kind, [])
            return {}
        case "POST", "runs/search":
            key, value = re.fullmatch(r"tags\.`(.*)` = '(.*)'", args["filter"]).groups()
            return {
                "runs": [
                    r for r in s.runs.values()
                    if r["info"]["experiment_id"] in args["experiment_ids"]
                    and {"key": key, "value": value} in r["data"]["tags"]
                ]
            }  # fmt: skip
    raise KeyError(f"{method} {path}")
