"""A real daemon with a stand-in for Elasticsearch: logs in, the record out, over a server that goes and a kill."""

from __future__ import annotations

import signal
import time

import pytest
from daemon_process import Running, wait_for
from elastic_side import Elastic, iso

pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
pytestmark = pytest.mark.live
PLANTED = "CANARY0123456789"
YAML = """\
connectors:
  logs: {{use: elastic_logs, url: '{url}', api_key: env:ES_KEY, window: 2, delay: 1}}
  out: {{use: elastic_out, url: '{url}', api_key: env:ES_KEY}}
"""


def events(elastic):
    """Return how often each thing that the daemon itself did is there."""
    with elastic.lock:
        found = elastic.found("homeostat-events-*").values()
        said = [d["homeostat"]["about"] for d in found if d["event"]["action"] == "daemon"]
    return {about: said.count(about) for about in said}


def test_the_record_gets_there_whatever_happens_and_the_logs_come_in(tmp_path, monkeypatch):
    monkeypatch.setenv("ES_KEY", PLANTED)
    with Elastic() as elastic:
        elastic.auth = f"ApiKey {PLANTED}"
        one = {"service": {"name": "shop"}, "log": {"level": "error"}}
        elastic.put(
            *(one | {"@timestamp": iso(time.time() - 10 + i)} for i in range(60)), index="logs-x"
        )
        daemon = Running(tmp_path, YAML.format(url=elastic.url))
        try:
            daemon.start()
            wait_for("the first event", lambda: events(elastic) == {"started": 1}, 60)
            health = wait_for("logs", lambda: _fresh(daemon, "logs"), 30)
            assert not [p for p in health["problems"] if "out" in p]

            elastic.gone = True
            daemon.process.send_signal(signal.SIGHUP)
            wait_for("it is said", lambda: "of the journal wait" in daemon.get("/health").text, 60)  # fmt: skip
            said = daemon.get("/health").text
            daemon.kill()
            elastic.gone = False
            daemon.start()
            wait_for("all is there", lambda: events(elastic) == {"started": 2, "reloaded": 1}, 60)
            assert daemon.kill(signal.SIGTERM) == 0
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.kill()
        assert elastic.unmapped == set()
        kept = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
        assert all(PLANTED.encode() not in data for data in [*kept, said.encode()])


def _fresh(daemon, source):
    health = daemon.get("/health").json()
    return health if health["sources"][source]["state"] == "fresh" else None
