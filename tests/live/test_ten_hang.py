"""Ten sources hang at once, and the ways out with them: ticks come, /health answers, whoever is well is heard."""

from __future__ import annotations

import signal
import time

import psutil
import pytest
import yaml
from daemon_process import Running, wait_for
from whole_side import beside

pytestmark = [pytest.mark.live, pytest.mark.long]
pytest.importorskip("elasticsearch", reason="needs the extra `elastic`")
LOOK_S = 25.0


def connectors(hung, well, folder):
    """Return sources that hang in threads, on the loop, in a program; ways out that hang; one that is well."""
    at = {"timeout": 10, "url": f"{hung}/prometheus"}
    out = {f"asked_{i}": {"use": "prometheus", **at} for i in range(6)}
    out |= {f"logs_{i}": {"use": "elastic_logs", "url": f"{hung}/elastic_logs"} for i in range(2)}
    out |= {
        "mlflow": {"url": f"{hung}/mlflow", "timeout": 10},
        "probe": {"service": "web", "url": f"{hung}/probe", "timeout": 10},
        "units": {"systemctl": str(folder / "never"), "booted": str(folder), "timeout": 10},
        "alertmanager": {"url": f"{hung}/alertmanager", "timeout": 10},
        "elastic_out": {"url": f"{hung}/elastic_out", "timeout": 10},
        "remote_write": {"url": f"{hung}/write/x", "timeout": 10, "every": 1},
        "heartbeat": {"url": f"{hung}/heartbeat/x", "timeout": 10, "every": 5},
        "webhook": {"url": f"{hung}/webhook/x", "timeout": 10, "events": ["changed"]},
        "well": {"use": "prometheus", "url": f"{well}/prometheus", "interval": 2, "selectors": ["up"]},
    }  # fmt: skip
    return out


HANG = {"logs_0", "logs_1", "mlflow", "units", *(f"asked_{i}" for i in range(6))}
"""The ten."""


@pytest.mark.timeout(180)
def test_ten_sources_hang_and_everything_else_goes_on(tmp_path):
    (tmp_path / "never").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "never").chmod(0o755)
    with beside() as hung, beside() as well:
        hung.hung = True
        made = yaml.safe_dump({"connectors": connectors(hung.url, well.url, tmp_path)})
        one = Running(tmp_path, "services: [{id: web}]\n" + made)
        try:
            one.start()
            wait_for("ten hang", lambda: _away(one) >= HANG, 60)
            me = psutil.Process(one.process.pid)
            before, threads, start = _usage(one), [], time.monotonic()
            while time.monotonic() - start < LOOK_S:
                health = one.get("/health").json()
                assert not [p for p in health["problems"] if "no tick" in p]
                assert health["sources"]["well"]["state"] == "fresh", health["sources"]["well"]
                threads.append(me.num_threads())
                time.sleep(1.0)
            took, after = time.monotonic() - start, _usage(one)
            ticks, late = (after[k] - before[k] for k in ("ticks", "late_ticks"))
            grew = (after["rss_bytes"] - before["rss_bytes"]) / 1e6
            (tmp_path / "figures").write_text(
                f"{ticks} ticks in {took:.0f} s, {late} late, {max(threads)} threads, {grew:+.1f} MB"
            )
            assert ticks >= 0.5 * took, "one a second, on a machine that others use, too"
            assert max(threads) <= threads[0] + 25
            away = {a["connector"]: a for a in one.get("/health").json()["away"]}
            assert HANG | {"elastic_out", "remote_write", "heartbeat", "alertmanager"} <= set(away)
            assert all(a["why"] and a["since"] > 0 for a in away.values())
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(40) == 0
        finally:
            if one.process.poll() is None:
                one.kill()


def _away(one):
    return {a["connector"] for a in one.get("/health").json()["away"]}


def _usage(one):
    return one.get("/api/status").json()["usage"]
