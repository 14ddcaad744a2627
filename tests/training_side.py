"""The other side of trainings that run elsewhere: stand-ins of a pipeline, of Kubeflow Pipelines, and of Kubernetes."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPORT = {
    "version": "4",
    "holdback": {
        "rows": 200, "champion": {"accuracy": 0.775}, "challenger": {"accuracy": 0.875},
        "champion_only": 5, "challenger_only": 25,
    },
}  # fmt: skip


class Side(http.server.ThreadingHTTPServer):
    """What all have in common: runs by name, which a test ends; a status that answers everything instead."""

    use = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, dict[str, Any]] = {}
        self.ended: list[str] = []
        self.status = 0
        self.lose = False
        """Take what is started, and do not answer."""
        self.endless = False
        """End nothing."""
        self.headers: list[dict[str, str]] = []

    def config(self) -> dict[str, Any]:
        raise NotImplementedError

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        raise NotImplementedError

    def finish(self, report: Any = None) -> None:
        """Let all that runs succeed."""
        for run in self.runs.values():
            if run["state"] == "runs":
                run |= {"state": "succeeded", "report": REPORT if report is None else report}

    def fail(self, words: str) -> None:
        """Let all that runs fail."""
        for run in self.runs.values():
            run |= {"state": "failed", "words": words}

    def take(self, name: str, **about: Any) -> None:
        """Start a run."""
        self.runs[name] = {"state": "runs", "words": "", **about}
        if self.lose:
            raise ConnectionAbortedError

    def stop(self, name: str) -> None:
        """End a run."""
        self.ended.append(name)
        self.runs[name] |= {"state": "failed", "words": "ended"}


class _Answers(http.server.BaseHTTPRequestHandler):
    def _any(self) -> None:
        s, parts = self.server, urlsplit(self.path)
        sent = self.rfile.read(int(self.headers["content-length"] or 0))
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        s.headers.append(dict(self.headers))
        ends = self.command == "DELETE" or self.path.endswith("terminate")
        if s.status or (s.endless and ends):
            self._say(s.status or 403, "no")
            return
        try:
            self._say(
                *s.answer(self.command, unquote(parts.path), query, json.loads(sent or b"null"))
            )
        except ConnectionAbortedError:
            self.close_connection = True

    def do_GET(self):
        self._any()

    def do_POST(self):
        self._any()

    def do_DELETE(self):
        self._any()

    def _say(self, status: int, body: Any) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        """Say nothing on standard error."""


@contextlib.contextmanager
def running(side: Side) -> Iterator[Side]:
    """Run one for a while."""
    with side:
        thread = threading.Thread(target=side.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield side
        finally:
            side.shutdown()
            thread.join()


class HttpSide(Side):
    """A pipeline with an interface of its own."""

    use = "trainer_http"

    def config(self) -> dict[str, Any]:
        return {
            "start": f"{self.url}/runs", "body": {"pipeline": "retrain", "args": ["{key}", "{model}"]},
            "status": f"{self.url}/runs/{{run}}", "state": "/state", "report": "/out/report",
            "find": f"{self.url}/runs?key={{key}}", "found": "/0/id", "cancel": f"{self.url}/runs/{{run}}",
        }  # fmt: skip

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        name = path.removeprefix("/runs").strip("/")
        match method:
            case "POST":
                name = f"r{len(self.runs) + 1}"
                self.take(name, key=body["args"][0], body=body)
                return 201, {"id": name}
            case "GET" if not name:
                return 200, [{"id": n} for n, r in self.runs.items() if r["key"] == query["key"]]
            case "GET" if name in self.runs:
                run = self.runs[name]
                said = {"succeeded": "SUCCEEDED", "failed": "Failed"}.get(run["state"], "queued")
                return 200, {"state": said, "error": run["words"], "out": {"report": run.get("report")}}  # fmt: skip
            case "DELETE" if name in self.runs:
                self.stop(name)
                return 204, b""
        return 404, {}


class KubeflowSide(Side):
    """Kubeflow Pipelines v2beta1, as its interface definition says."""

    use = "trainer_kubeflow"
    PIPELINE, VERSION = "9b187b86-7c0a-42ae-a0bc-2a746b6eb7a3", "d5b1d6a8-1f4f-4d6b-8e3b-5a9a5b8f3f0e"  # fmt: skip
    INPUTS = frozenset({
        "experiment_id", "display_name", "description", "pipeline_version_reference", "pipeline_spec",
        "runtime_config", "service_account",
    })  # fmt: skip

    def config(self) -> dict[str, Any]:
        return {
            "url": self.url, "pipeline": self.PIPELINE, "version": self.VERSION,
            "parameters": {"key": "{key}", "days": 7}, "report": f"{self.url}/reports/{{run}}.json",
        }  # fmt: skip

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if path.startswith("/reports/"):
            report = self.runs[path.removeprefix("/reports/").removesuffix(".json")].get("report")
            return (200, report) if report is not None else (404, {})
        name = path.removeprefix("/apis/v2beta1/runs").strip("/")
        if method == "POST" and not name:
            unknown = body.keys() - self.INPUTS
            wanted = {"pipeline_id": self.PIPELINE, "pipeline_version_id": self.VERSION}
            if unknown or not body.get("display_name") or body["pipeline_version_reference"] != wanted:  # fmt: skip
                return 400, {"code": 3, "message": f"Invalid input: {sorted(unknown)}"}
            if not isinstance(body["runtime_config"]["parameters"], dict):
                return 400, {"code": 3, "message": "parameters is a map"}
            name = f"{len(self.runs) + 1:08d}-0000-4000-8000-000000000000"
            self.take(name, key=body["runtime_config"]["parameters"]["key"], body=body)
            return 200, self._shown(name)
        if method == "GET" and not name:
            found = list(self.runs)
            for one in json.loads(query.get("filter", '{"predicates": []}'))["predicates"]:
                assert (one["operation"], one["key"]) == ("EQUALS", "display_name")
                found = [n for n in found if self.runs[n]["body"]["display_name"] == one["string_value"]]  # fmt: skip
            return 200, {"runs": [self._shown(n) for n in found]} if found else {}
        run, _, act = name.partition(":")
        if run not in self.runs:
            return 404, {"code": 5, "message": "Run not found"}
        if method == "POST" and act == "terminate":
            self.stop(run)
            return 200, {}
        return 200, self._shown(run)

    def _shown(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        state = {"runs": "RUNNING", "succeeded": "SUCCEEDED", "failed": "FAILED"}[run["state"]]
        error = {"error": {"code": 13, "message": run["words"]}} if run["words"] else {}
        return {"run_id": name, "display_name": run["body"]["display_name"], "state": state, **error}  # fmt: skip


class KubernetesSide(Side):
    """Jobs of Kubernetes."""

    use = "trainer_kubernetes"
    JOB = {
        "template": {
            "spec": {
                "restartPolicy": "OnFailure",
                "containers": [{"name": "train", "image": "train:1", "args": ["--days", "7"],
                                "env": [{"name": "HOMEOSTAT_KEY", "value": "theirs"}]}],
            }
        },
        "backoffLimit": 3, "ttlSecondsAfterFinished": 60,
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.cronjobs = {"retrain": {"spec": {"suspend": True, "schedule": "0 3 * * *", "jobTemplate": {
            "metadata": {"labels": {"team": "fraud"}}, "spec": self.JOB}}}}  # fmt: skip

    def config(self) -> dict[str, Any]:
        return {"url": self.url, "namespace": "ml", "cronjob": "retrain"}

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        kind, _, name = path.partition("/namespaces/ml/")[2].partition("/")
        if path.startswith("/apis/batch/v1/") and kind == "cronjobs" and name in self.cronjobs:
            return 200, self.cronjobs[name]
        if path.startswith("/apis/batch/v1/") and kind == "jobs":
            return self._jobs(method, name, body)
        if path.startswith("/api/v1/") and kind == "pods":
            return self._pods(name, query)
        return 404, {"kind": "Status", "reason": "NotFound"}

    def _jobs(self, method: str, name: str, body: Any) -> tuple[int, Any]:
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.runs:
                return 409, {"kind": "Status", "reason": "AlreadyExists"}
            (container,) = body["spec"]["template"]["spec"]["containers"]
            key = next(e["value"] for e in container["env"] if e["name"] == "HOMEOSTAT_KEY")
            self.take(name, key=key, body=body)
            return 201, body
        if not name:
            return 200, {"kind": "JobList", "items": []}
        if name not in self.runs:
            return 404, {"kind": "Status", "reason": "NotFound"}
        run = self.runs[name]
        if method == "DELETE":
            assert body["propagationPolicy"] == "Background"
            self.stop(name)
            del self.runs[name]
            return 200, {"kind": "Status", "status": "Success"}
        done = {
            "succeeded": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}],
            "failed": [{"type": "Failed", "status": "True", "reason": run["words"]}],
        }.get(run["state"], [{"type": "Suspended", "status": "False"}])  # fmt: skip
        return 200, {**run["body"], "status": {"conditions": done}}

    def _pods(self, name: str, query: dict[str, str]) -> tuple[int, Any]:
        if not name:
            job = query["labelSelector"].removeprefix("job-name=")
            phase = "Succeeded" if self.runs[job]["state"] == "succeeded" else "Failed"
            return 200, {"items": [{"metadata": {"name": f"{job}-x"}, "status": {"phase": phase}}]}
        report = self.runs[name.removesuffix("/log").removesuffix("-x")]["report"]
        assert query["tailLines"] == "1"
        return 200, f"{json.dumps(report)}\n".encode()


async def until(check: Any) -> None:
    """Wait for something that another thread does."""
    for _ in range(6000):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")
