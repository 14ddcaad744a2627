"""Looks at the console in Chromium while the demo breaks and heals a real service; keeps pictures and what was seen.

It runs beside the demo, in a thread, at a low priority: what is looked at must not become the noisy neighbour. On a
busy machine a page may take long: what was not there in time is looked at again.
"""

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import httpx
from browser import Browser
from PIL import Image

FAULTS = {
    "release.model": "bad release", "host.neighbour": "noisy neighbour", "serving.saturation": "traffic surge",
    "data.contract": "unit change", "concept.drift": "concept drift",
}  # fmt: skip
OTHERS = ("/models", "/explore", "/audit", "/playbooks", "/topology", "/")
NICE = 10
SIZE = (1280, 900)
PHONE = (390, 844)
INK = """[...document.querySelectorAll('.chart canvas')].map((canvas) => {
  const c = canvas.getContext('2d'), d = c.getImageData(0, 0, canvas.width, canvas.height).data, seen = new Set();
  for (let i = 0; i < d.length; i += 16) if (d[i + 3]) seen.add([d[i], d[i + 1], d[i + 2]].join());
  return seen.size;
})"""  # how many colours each chart is drawn in
READY = "document.querySelector('#page')?.getAttribute('aria-busy') === 'false'"


class Camera:
    """One browser that follows one daemon. `seen` is what the test asks about, by fault and by page."""

    def __init__(self, program, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.seen = {
            "incidents": {},
            "pages": {},
            "problems": [],
            "strangers": [],
            "late": [],
            "error": "",
        }
        self._program = program
        self._end = threading.Event()
        self._thread = None
        self._later = list(OTHERS)

    def start(self, url: str) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._guarded, args=(url,))
        self._thread.start()

    def end(self) -> dict:
        """Stop looking; return what was seen."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(60)
        (self.folder / "seen.json").write_text(json.dumps(self.seen, indent=1))
        return self.seen

    def _guarded(self, url: str) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)  # its children, too
        browser = Browser(self._program, self.folder, SIZE)
        try:
            self._follow(browser, url)
        except Exception as error:  # noqa: BLE001  # told by the test that asks
            self.seen["error"] = f"{type(error).__name__}: {error}"[:2000]
        finally:
            self.seen["problems"] = browser.problems
            ours = (url, "data:", "about:")
            self.seen["strangers"] = [u for u in browser.asked if not u.startswith(ours)]
            browser.close()

    def _follow(self, browser: Browser, url: str) -> None:
        told = set()
        with httpx.Client(base_url=url, timeout=10, trust_env=False) as http:
            while not self._end.wait(0.5):
                try:
                    incidents = http.get("/api/incidents", params={"state": "all"}).json()
                except httpx.TransportError:
                    continue  # it is over
                for i in incidents:
                    fault = FAULTS.get(i["cause"])
                    if i["severity"] == "note" or fault is None or fault in self.seen["incidents"]:
                        continue
                    runs = http.get(f"/api/incidents/{i['id']}").json()["run_views"]
                    if not any(s["status"] == "done" for r in runs for s in r["steps"]):
                        continue
                    with self._again():
                        self.seen["incidents"][fault] = self._incident(browser, url, i["id"], fault)
                        told.add(fault)
                quiet = all(i["state"] == "resolved" or i["severity"] == "note" for i in incidents)
                if self._later and len(told) >= 3 and quiet:
                    with self._again():
                        self._other(browser, url, self._later[0])
                        self._later.pop(0)

    @contextlib.contextmanager
    def _again(self):
        try:
            yield
        except AssertionError as late:
            self.seen["late"].append(str(late)[:500])

    def _incident(self, browser: Browser, url: str, id_: str, fault: str) -> dict:
        """Look at it while it is being healed: that is when people look."""
        if not self.seen["pages"].get("now"):
            self.seen["pages"]["now"] = self._visit(browser, url, "/", "now")
        name = fault.replace(" ", "-")
        said = self._visit(browser, url, f"/incidents/{id_}", name)
        browser.wait("document.querySelectorAll('.chart canvas').length", 15)
        said |= {
            "id": id_,
            "ink": browser.js(INK),
            "lit": browser.js("document.querySelectorAll('#map .edge.lit').length"),
            "cause": browser.js("[...document.querySelectorAll('#map .is-cause')].map((n) => n.dataset.id)"),
            "gates": browser.js("document.querySelectorAll('#decisions tbody tr').length"),
            "live": browser.text("#link-text"),
        }  # fmt: skip
        self._shot(browser, f"{name}.png", whole=True)
        if fault in {"bad release", "noisy neighbour"}:
            self._theme(browser, "dark")
            self._shot(browser, f"{name}-dark.png", whole=True)
            self._theme(browser, "light")
            self._screen(browser, PHONE)
            time.sleep(0.4)
            said["phone"] = browser.js("document.documentElement.scrollWidth")
            self._shot(browser, f"{name}-phone.png")
            self._screen(browser, SIZE)
        return said

    def _other(self, browser: Browser, url: str, path: str) -> None:
        name = path.strip("/") or "after"
        if name == "explore":
            with httpx.Client(base_url=url, timeout=10, trust_env=False) as http:
                i = http.get("/api/incidents", params={"state": "all"}).json()[0]
            over = i["resolved"] or i["opened"] + 20
            path += f"?from={i['opened'] - 5:.0f}&to={over:.0f}&start={i['opened'] - 60:.0f}"
        if name == "playbooks":
            with httpx.Client(base_url=url, timeout=10, trust_env=False) as http:
                books = http.get("/api/playbooks").json()
            path += f"?id={next(b['id'] for b in books if b['record']['runs'])}"
        self.seen["pages"][name] = self._visit(browser, url, path, name)
        self._theme(browser, "dark")
        self._shot(browser, f"{name}-dark.png")
        self._theme(browser, "light")

    def _visit(self, browser: Browser, url: str, path: str, name: str) -> dict:
        browser.page("Page.navigate", url=url + path)
        browser.wait(READY, 20)
        if name == "audit":
            browser.wait("document.querySelector('#chain.good, #chain.fault')", 20)
        time.sleep(0.6)  # charts are drawn when they are laid out
        self._shot(browser, f"{name}.png")
        return {"text": browser.text("body"), "wide": browser.js("document.documentElement.scrollWidth")}  # fmt: skip

    def _theme(self, browser: Browser, value: str) -> None:
        browser.page(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": value}],
        )
        time.sleep(0.3)

    def _screen(self, browser: Browser, size) -> None:
        browser.page(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )

    def _shot(self, browser: Browser, name: str, *, whole: bool = False) -> None:
        """Keep what fits a window, or all of it, in few colours: pictures of pages need no more."""
        path = self.folder / name
        browser.shot(path, whole=whole)
        Image.open(path).convert("RGB").quantize(256, kmeans=1).save(path, optimize=True)
