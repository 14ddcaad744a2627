"""Real faults for a live host, each undone by leaving its block, whatever ends it.

A fault is a context manager over a `Ground`: entering breaks something and yields what was broken, leaving heals it.

    cpu           a pool that has run away: four busy loops a core, nice 0
    cpu_mild      one busy loop a core: no more than a build takes, but for longer
    memory_leak   a service, quiet until then, grows by 30 MB/s, to at most half of what is free
    disk          a file that grows on a small ext4 of its own (a loop mount: tmpfs of one's own are not watched)
    network       packets of a service in a network namespace get lost
    hung          SIGSTOP of a service
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from live_match import Broken, Sign
from live_work import running

DISK_MB = 256
LEAK_MB_S = 30
LOSS = 0.4
NET = ("10.231.77.1", "10.231.77.2", 30)
LINK = "hbench0"
"""Not veth*: the host source leaves those out, as containers bring and take them."""

SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2000")
        self.end_headers()
        self.wfile.write(b"x" * 2000)
    def log_message(self, *said):
        pass
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""
LEAK = """
import signal, sys, time
kept, leaks = [], False
def begin(*_):
    global leaks
    leaks = True
def heal(*_):
    global leaks
    leaks = False
    kept.clear()
signal.signal(signal.SIGUSR1, begin)
signal.signal(signal.SIGUSR2, heal)
while True:
    time.sleep(3 / float(sys.argv[1]))
    if leaks and len(kept) * 3 < int(sys.argv[2]):
        kept.append(bytearray(b"x") * (3 << 20))
"""


class Missing(Exception):
    """This fault can not be made here; the text says why."""


@dataclass(slots=True)
class Ground:
    """What the faults are made on: it is there from the beginning, so that it has a history.

    mount     a small file system of its own, None where it can not be had; likewise `inside`, the namespaced service
    service   the service that will hang; leaky: the one that will leak, leak_mb at most
    """

    seconds: float
    service: subprocess.Popen[bytes] | None = None
    leaky: subprocess.Popen[bytes] | None = None
    leak_mb: int = 0
    mount: Path | None = None
    inside: subprocess.Popen[bytes] | None = None
    missing: dict[str, str] = field(default_factory=dict)


def run(*argv: str) -> str:
    """Run a tool; returns what it said when it failed, "" when it did not."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else f"{argv[0]}: {(done.stderr or done.stdout).strip()}"


# ---------------------------------------------------------------- the ground


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Path | None, str]]:
    """A loop-mounted ext4 of DISK_MB; yields its mount point, or None and why not."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        yield None, "needs root and mkfs.ext4"
        return
    image, point = folder / "disk.img", folder / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_MB << 20)
    point.mkdir()
    try:
        why = run("mkfs.ext4", "-q", "-m", "0", str(image))
        why = why or run("mount", "-o", "loop", str(image), str(point))
        yield (None, why) if why else (point, "")
    finally:
        if point.is_mount() and run("umount", str(point)):
            run("umount", "--lazy", str(point))
        image.unlink()


@contextlib.contextmanager
def namespaced(port: int) -> Iterator[tuple[subprocess.Popen[bytes] | None, str]]:
    """A service in a network namespace without a name: both it and its link are gone when the process is."""
    tools = [shutil.which(t) for t in ("unshare", "nsenter", "ip", "tc")]
    if os.geteuid() != 0 or None in tools:
        yield None, "needs root, util-linux and iproute2"
        return
    ours, theirs, bits = NET
    argv = [str(tools[0]), "--net", sys.executable, "-c", SERVE, "0.0.0.0", str(port)]
    with running(argv) as process:
        try:
            yield process, _link(process.pid, ours, theirs, bits)
        finally:
            run("ip", "link", "del", LINK)


def _link(pid: int, ours: str, theirs: str, bits: int) -> str:
    """Lay a cable into the namespace; returns why not, "" = done."""
    until = time.monotonic() + 5.0
    own = Path("/proc/self/ns/net").readlink()
    while Path(f"/proc/{pid}/ns/net").readlink() == own:  # unshare has not come so far
        if time.monotonic() > until:
            return "unshare made no namespace"
        time.sleep(0.02)
    within = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
    for argv in (
        ("ip", "link", "add", LINK, "type", "veth", "peer", "name", "inner0", "netns", str(pid)),
        ("ip", "addr", "add", f"{ours}/{bits}", "dev", LINK),
        ("ip", "link", "set", LINK, "up"),
        (*within, "addr", "add", f"{theirs}/{bits}", "dev", "inner0"),
        (*within, "link", "set", "inner0", "up"),
    ):
        if why := run(*argv):
            return why
    return ""


# ---------------------------------------------------------------- the faults


@contextlib.contextmanager
def _loops(ground: Ground, name: str, each: int) -> Iterator[Broken]:
    """Busy loops of nice 0, `each` of them a core."""
    cores = os.cpu_count() or 1
    began = time.time()
    with contextlib.ExitStack() as all_of_them:
        loops = [
            all_of_them.enter_context(running([sys.executable, "-c", "while True: pass"]))
            for _ in range(each * cores)
        ]
        for loop in loops:
            with contextlib.suppress(psutil.Error, PermissionError):
                psutil.Process(loop.pid).nice(0)
        yield Broken(
            name, began, began + ground.seconds,
            (
                Sign("host.cpu_busy_ratio", direction=1),
                Sign("host.cpu_utilization_ratio", labels={"mode": "user"}, direction=1),
                Sign("host.cpu_utilization_ratio", labels={"mode": "idle"}, direction=-1),
                Sign("host.core_utilization_ratio", direction=1),
                Sign("host.core_mode_ratio", labels={"mode": "user"}, direction=1),
                Sign("host.core_mode_ratio", labels={"mode": "idle"}, direction=-1),
                Sign("host.load*_count", direction=1),
                Sign("host.pressure_ratio", labels={"resource": "cpu"}, direction=1),
                Sign("host.processes_count", labels={"state": "running"}, direction=1),
                *(Sign("process.cpu_cores", f"process:*/{p.pid}/*", direction=1) for p in loops),
            ),
            f"{len(loops)} busy loops on {cores} cores",
        )  # fmt: skip


def cpu(ground: Ground) -> contextlib.AbstractContextManager[Broken]:
    return _loops(ground, "cpu", 4)


def cpu_mild(ground: Ground) -> contextlib.AbstractContextManager[Broken]:
    return _loops(ground, "cpu_mild", 1)


def free_mb() -> float:
    return float(psutil.virtual_memory().available) / 2**20


@contextlib.contextmanager
def leaking(seconds: float) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A service that is quiet until it leaks; yields it and to how many MB it would grow."""
    most = int(min(LEAK_MB_S * seconds, free_mb() / 2))
    with running([sys.executable, "-c", LEAK, str(LEAK_MB_S), str(most)]) as process:
        yield process, most


@contextlib.contextmanager
def memory_leak(ground: Ground) -> Iterator[Broken]:
    if ground.leaky is None:
        raise Missing("the service is not running")
    if free_mb() < 2 * ground.leak_mb:
        raise Missing(f"{free_mb():.0f} MB are free, twice {ground.leak_mb} MB are needed")
    began = time.time()
    os.kill(ground.leaky.pid, signal.SIGUSR1)
    try:
        yield Broken(
            "memory_leak", began, began + ground.seconds,
            (
                Sign("host.memory_utilization_ratio", direction=1),
                Sign("host.memory_commit_ratio", direction=1),
                Sign("host.memory_bytes", labels={"use": "used"}, direction=1),
                Sign("host.memory_bytes", labels={"use": "anon*"}, direction=1),
                Sign("host.memory_bytes", labels={"use": "free"}, direction=-1),
                Sign("host.memory_bytes", labels={"use": "available"}, direction=-1),
                Sign("host.memory_bytes", labels={"use": "committed*"}, direction=1),
                Sign("host.pressure_ratio", labels={"resource": "memory"}, direction=1),
                Sign("process.memory_bytes", f"process:*/{ground.leaky.pid}/*", direction=1),
            ),
            f"a service leaks {LEAK_MB_S} MB/s, to {ground.leak_mb} MB",
        )  # fmt: skip
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(ground.leaky.pid, signal.SIGUSR2)


@contextlib.contextmanager
def disk(ground: Ground) -> Iterator[Broken]:
    """Full after two thirds of the time; the limit of a full disk needs some seconds after that."""
    if ground.mount is None:
        raise Missing(ground.missing["disk"])
    path, stop = ground.mount / "filling", threading.Event()
    pause = ground.seconds * 2 / 3 / DISK_MB

    def fill() -> None:
        bits = os.urandom(1 << 20)
        with contextlib.suppress(OSError), path.open("wb") as file:  # full is what it shall be
            while not stop.wait(pause):
                file.write(bits)
                file.flush()

    filler = threading.Thread(target=fill, daemon=True)
    began = time.time()
    filler.start()
    where = {"mount": str(ground.mount)}
    try:
        yield Broken(
            "disk", began, began + ground.seconds,
            (
                Sign("host.disk_utilization_ratio", labels=where, direction=1),
                Sign("host.disk_bytes", labels={**where, "use": "used"}, direction=1),
                Sign("host.disk_bytes", labels={**where, "use": "free"}, direction=-1),
            ),
            f"{DISK_MB} MB of ext4 full in {ground.seconds * 2 / 3:.0f} s",
        )  # fmt: skip
    finally:
        stop.set()
        filler.join(10)
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def network(ground: Ground) -> Iterator[Broken]:
    if ground.inside is None:
        raise Missing(ground.missing["network"])
    inside = ("nsenter", f"--net=/proc/{ground.inside.pid}/ns/net", "tc")
    ends = (("tc",), LINK), (inside, "inner0")
    stop = threading.Event()
    flaps = [
        threading.Thread(target=_flap, args=(tc, link, stop, i), daemon=True)
        for i, (tc, link) in enumerate(ends)
    ]
    try:
        loss = ("root", "netem", "loss", f"{LOSS:.0%}")
        began = time.time()
        how = f"{LOSS:.0%} of packets lost each way (netem)"
        if any(run(*tc, "qdisc", "replace", "dev", link, *loss) for tc, link in ends):
            how = (
                f"each way, {LOSS:.0%} of the time, in bursts, all packets are lost "
                "(a blackhole queue: this kernel has no netem)"
            )
            for flap in flaps:
                flap.start()
        yield Broken(
            "network", began, began + ground.seconds,
            (
                Sign("service.up", "service:edge", direction=-1),
                Sign("service.probe_latency_seconds", "service:edge", direction=1),
                Sign("host.tcp_retransmits_per_second", direction=1),
                *(
                    Sign("host.tcp_events_per_second", labels={"type": kind}, direction=1)
                    for kind in ("timeouts", "*retransmits")
                ),
                Sign("host.connections_count", labels={"state": "syn_sent"}, direction=1),
                Sign("host.tcp_opens_per_second", labels={"type": "failed"}, direction=1),
                Sign("host.network_*", labels={"interface": LINK}),
            ),
            how, pages=True,
        )  # fmt: skip
    finally:
        stop.set()
        for flap in flaps:
            if flap.is_alive():
                flap.join(10)
        for tc, link in ends:
            run(*tc, "qdisc", "del", "dev", link, "root")


def _flap(tc: tuple[str, ...], link: str, stop: threading.Event, seed: int) -> None:
    """Lose all packets of a link in bursts of 0.05 to 0.5 s, LOSS of the time: one `tc` that is told line by line."""
    chance = random.Random(seed)
    with subprocess.Popen(
        [*tc, "-force", "-batch", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as batch:  # fmt: skip
        pipe = batch.stdin
        if pipe is None:
            return
        with contextlib.suppress(BrokenPipeError):
            while not stop.is_set():
                burst = chance.uniform(0.05, 0.5)
                for queue, seconds in (("blackhole", burst), ("pfifo", burst * (1 / LOSS - 1))):
                    pipe.write(f"qdisc replace dev {link} root {queue}\n".encode())
                    pipe.flush()
                    if stop.wait(seconds):
                        break
            pipe.write(f"qdisc del dev {link} root\n".encode())
            pipe.close()


@contextlib.contextmanager
def hung(ground: Ground) -> Iterator[Broken]:
    if ground.service is None:
        raise Missing("the service is not running")
    pid = ground.service.pid
    began = time.time()
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield Broken(
            "hung", began, began + ground.seconds,
            (
                Sign("service.up", "service:shop", direction=-1),
                Sign("service.probe_latency_seconds", "service:shop", direction=1),
                Sign("host.processes_count", labels={"state": "stopped"}, direction=1),
                Sign("process.*", f"process:*/{pid}/*"),
            ),
            "SIGSTOP of the service", pages=True,
        )  # fmt: skip
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGCONT)


FAULTS: dict[str, Callable[[Ground], contextlib.AbstractContextManager[Broken]]] = {
    "cpu": cpu, "cpu_mild": cpu_mild, "memory_leak": memory_leak, "disk": disk, "network": network, "hung": hung,
}  # fmt: skip
EXPLAINED = {
    "cpu_mild": "cpu, one loop a core",
    "memory_leak": "memory leak", "disk": "disk fill", "network": "network loss", "hung": "hung process",
}  # fmt: skip
