"""How fast the console is there with 1,000 series and 100 open incidents, and how many bytes it is.

A desk with a made-up hour behind real doors, opened in Chromium with an empty cache, five times each page. Paint is the
browser's own (first contentful paint); drawn is when data stand on the page. Writes build/bench/console.json.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

# before the folder of this file, in which a benchmark is called agent
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from browser import Browser
from desk_story import living

from agent import registry
from agent.catalogue import SIGNALS
from agent.codec import pack
from agent.model import Anomaly, Cause, Diagnosis, Entity, Evidence, Frame, Incident, Series

ROOT = Path(__file__).resolve().parents[2]
SERIES, INCIDENTS, TRIES = 1000, 100, 5
PAGES = {
    "now": "/", "incident": "/incidents/inc-00000000", "explore": "/explore",
    "what moved": "/explore?from={from_}&to={to}", "models": "/models", "playbooks": "/playbooks",
    "topology": "/topology", "audit": "/audit",
}  # fmt: skip
DRAWN = "performance.getEntriesByName('drawn')[0]?.startTime ?? 0"


def crowd(house) -> None:
    """Add 1,000 series with half an hour of past, and 100 open incidents on them."""
    hooks, now = house.story.hooks, house.story.now
    rng = np.random.default_rng(7)
    metrics = sorted(m for m in SIGNALS if m.startswith("host.") and m.endswith("_ratio"))[:10]
    table = tuple(
        sorted(
            Series(m, Entity("host", f"node-{k:03d}"))
            for k in range(SERIES // len(metrics))
            for m in metrics
        )
    )
    x = 0.4 + 0.02 * rng.standard_normal((1800, len(table)))
    x[1500:, ::10] += 0.3
    for k, row in enumerate(x):
        hooks.history.append(Frame("fleet", now - 1800 + k, table, row))
    hooks.world.take(Frame("fleet", now, table, x[-1]))
    hooks.world.now = now
    for k in range(INCIDENTS):
        s = table[10 * (k % (len(table) // 10))]
        a = Anomaly(
            s, now - 300, None, 1e-6, 1, 0.7, 0.3, 0.5, 0.2, 12.0, "calibrated", "level", k < 20
        )
        cause = Cause(
            "host.cpu",
            s.entity,
            0.8,
            (Evidence("it is busier than ever", 2.0, s, 0.7, 0.4, now - 300),),
        )
        i = Incident(
            f"inc-{k:08d}",
            now - 300 + k,
            now,
            "open",
            ("page", "warning", "note")[k % 3],
            f"Host {s.entity.key} is busy",
            (a,),
            (),
            (s.entity,),
            Diagnosis(now - 290, (cause,), (), ()),
        )
        hooks.record("incident", i.id, pack(i), now)


def measure(browser: Browser, url: str) -> tuple[float, float]:
    """Return milliseconds until the first paint and until data stood there."""
    browser.page("Network.clearBrowserCache")
    browser.page("Page.navigate", url=url)
    browser.wait(DRAWN)
    browser.wait("performance.getEntriesByName('first-contentful-paint').length")
    paint = browser.js("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    return float(paint), float(browser.js(DRAWN))


def main() -> None:
    """Measure and write."""
    registry.load()
    console = ROOT / "dashboards" / "console"
    size = sum(p.stat().st_size for p in console.rglob("*") if p.is_file())
    rows = [{"set": "all files", "subject": "homeostat", "figure": "bytes", "value": size}]
    with tempfile.TemporaryDirectory() as folder, living(Path(folder), now=time.time()) as house:
        house.story.hooks.watches = dict  # the detector is measured elsewhere
        crowd(house)
        browser = Browser(shutil.which("chromium"), Path(folder))
        try:
            now = house.story.now
            for name, path in PAGES.items():
                address = house.url + path.format(from_=int(now - 280), to=int(now))
                times = [measure(browser, address) for _ in range(TRIES)]
                for figure, k in (("first_paint_ms", 0), ("drawn_ms", 1)):
                    value = statistics.median(t[k] for t in times)
                    rows.append(
                        {
                            "set": name,
                            "subject": "homeostat",
                            "figure": figure,
                            "value": round(value, 1),
                        }
                    )
        finally:
            browser.close()
    print(  # noqa: T201  # a table for people
        f"{size / 1000:.0f} kB in all; {SERIES} series, {INCIDENTS} open incidents; median of {TRIES}"
    )
    for page in PAGES:
        paint, drawn = (
            next(r["value"] for r in rows if r["set"] == page and r["figure"] == f)
            for f in ("first_paint_ms", "drawn_ms")
        )
        print(  # noqa: T201  # as above
            f"{page:12} first paint {paint:6.0f} ms   data on it {drawn:6.0f} ms"
        )
    out = ROOT / "build" / "bench" / "console.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    out.write_text(
        json.dumps(
            {
                "machine": machine,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "rows": rows,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
