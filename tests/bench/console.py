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

# before the folder of this file, in which a benchmark is called agent
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from browser import Browser
from console_crowd import INCIDENTS, SERIES, crowd
from desk_story import living

from agent import registry

ROOT = Path(__file__).resolve().parents[2]
TRIES = 5
PAGES = {
    "now": "/", "incident": "/incidents/inc-00000000", "explore": "/explore",
    "what moved": "/explore?from={from_}&to={to}", "models": "/models", "playbooks": "/playbooks",
    "topology": "/topology", "audit": "/audit",
}  # fmt: skip
DRAWN = "performance.getEntriesByName('drawn')[0]?.startTime ?? 0"


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
