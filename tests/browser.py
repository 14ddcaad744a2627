"""Chromium, spoken to over its debugging pipe: no port, no extra library."""

import base64
import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
    "--disable-extensions", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip

_SHOWN = "(document.querySelector('dialog[open]') ?? document.body).innerText"
"""What a person sees first: the box that is open, else the page."""

LAUNCH = """import fcntl, os, sys
a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(a, 3)  # Chromium reads commands from 3 and writes answers to 4
os.dup2(b, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One headless Chromium with one page. What it logs, whom it asks, and what comes back is kept.

    received   address -> bytes over the wire, heads included; what came out of the cache is not there
    """

    def __init__(self, program, folder, size=(1280, 1400)):
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()

        self._log = (folder / "chromium.log").open("wb")
        size_flag = f"--window-size={size[0]},{size[1]}"
        browser = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", size_flag]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(to_read), str(to_write), *browser],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            pass_fds=(to_read, to_write), env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._numbers = itertools.count(1)
        self._rest = b""
        self._answers = {}
        self.problems = []
        self.asked = []
        self.received = Counter()
        self._addresses = {}
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self):
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.page(f"{domain}.enable")

    def send(self, method, session=None, **params):
        number = next(self._numbers)
        said = {"id": number, "method": method, "params": params}
        if session:
            said["sessionId"] = session
        os.write(self._out, json.dumps(said).encode() + b"\0")
        until = time.monotonic() + 60
        while number not in self._answers:
            self._read(until)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def page(self, method, **params):
        return self.send(method, self._session, **params)

    def _read(self, until):
        left = until - time.monotonic()
        assert left > 0, "the browser does not answer"
        if not select.select([self._in], [], [], left)[0]:
            return
        got = os.read(self._in, 1 << 20)
        assert got, "the browser has ended"
        *whole, self._rest = (self._rest + got).split(b"\0")
        for raw in whole:
            said = json.loads(raw)
            if "id" in said:
                self._answers[said["id"]] = said
            else:
                self._event(said["method"], said["params"])

    def _event(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.problems.append(
                params["exceptionDetails"]["text"]
                + str(params["exceptionDetails"].get("exception", {}).get("description"))
            )
        elif method == "Runtime.consoleAPICalled" and params["type"] in {
            "error",
            "warning",
            "assert",
        }:
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
            self._addresses[params["requestId"]] = params["request"]["url"]
        elif method == "Network.loadingFinished" and params["encodedDataLength"]:
            # of what came out of its memory of pages the browser says no address
            address = self._addresses.get(params["requestId"], "")
            self.received[address] += int(params["encodedDataLength"])

    def fresh(self):
        """Forget what was logged and asked, and how the last one who used it wanted to see."""
        self.page("Page.navigate", url="about:blank")
        self.page("Emulation.clearDeviceMetricsOverride")
        self.page("Emulation.setEmulatedMedia", features=[])
        self.page(
            "Network.emulateNetworkConditions",
            offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1,
        )  # fmt: skip
        self.problems.clear()
        self.asked.clear()
        self.received.clear()

    def open(self, url):
        self.page("Page.navigate", url=url)
        self.wait(
            "document.readyState === 'complete' && document.querySelector('#link .dot.live') !== null"
        )

    def js(self, code):
        said = self.page("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, code, seconds=30):
        until = time.monotonic() + seconds
        while not self.js(f"Boolean({code})"):
            assert time.monotonic() < until, f"never: {code}\n{self.js(_SHOWN)[:3000]}"
            time.sleep(0.05)

    def text(self, selector="body"):
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def click(self, selector):
        at = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.page(
                "Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1
            )

    def drag(self, start, end):
        """Press at a point, move in steps, let go at another."""
        steps = [(start[0] + (end[0] - start[0]) * k / 8, start[1]) for k in range(9)]
        self._mouse("mouseMoved", start)
        self._mouse("mousePressed", start)
        for at in steps:
            self._mouse("mouseMoved", at, buttons=1)
        self._mouse("mouseReleased", end)

    def _mouse(self, kind, at, **kw):
        self.page(
            "Input.dispatchMouseEvent",
            type=kind,
            x=at[0],
            y=at[1],
            button="left",
            clickCount=1,
            **kw,
        )

    def key(self, key):
        text = {"Enter": "\r"}.get(key, key)
        code = {"Enter": 13}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            self.page(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=code,
            )

    def write(self, text):
        self.page("Input.insertText", text=text)

    def shot(self, path, *, whole=True):
        raw = self.page("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(raw))

    def close(self):
        with contextlib.suppress(AssertionError, OSError):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._in)
        os.close(self._out)
        self._log.close()
