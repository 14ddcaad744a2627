"""An hour of ordinary work on this host under the default budget, and then real faults: were they found, how late?

    python tests/bench/live.py [--minutes 60] [--faults cpu,cpu_mild,memory_leak,disk,network,hung] [--seed 0] [--keep]

    real daemon: host and processes at 1 s, two small services probed at 1 s, one not probed
      |  --minutes of ordinary work (live_work.py): what is told now is a false alarm
      v
    each fault (live_faults.py) for --seconds, then --recover seconds of rest; the work goes on all the time
      '--> found = something that names it was told within it (live_match.py), how late, by which road; else missed

The daemon is started as users start it, with one stage more that writes down every abnormal series (live_tap.py);
incidents and the budget are asked from its API, pages are what its page command got. Prints tables and writes
build/bench/live.json: rows, and every false alarm with signal, family and what was at work, to learn from.
As root all faults can be made; else `disk` and `network` are left out and it is said why. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Beside this file `agent.py`, a benchmark, would hide the package.
sys.path.insert(0, str(ROOT))

import live_report  # noqa: E402
import yaml  # noqa: E402
from live_faults import FAULTS, NET, SERVE, Ground, Missing, leaking, namespaced, small_disk  # noqa: E402
from live_match import read  # noqa: E402
from live_report import Seen  # noqa: E402
from live_work import Work, running  # noqa: E402

from agent.budget import Promise  # noqa: E402
from agent.config import Budget  # noqa: E402
from agent.demo.console import Console  # noqa: E402
from agent.demo.leash import leashed  # noqa: E402

OUT = ROOT / "build" / "bench" / "live.json"
READY_S = 60.0


# ---------------------------------------------------------------- the daemon


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def settings(folder: Path, port: int, urls: Mapping[str, str], pids: Mapping[str, int]) -> str:
    """Return agent.yaml: all defaults, but processes at 1 s, and two services with a probe each."""
    services = []
    for name, pid in pids.items():
        pidfile = folder / f"{name}.pid"
        pidfile.write_text(f"{pid}\n", encoding="ascii")
        services.append({"id": name, "pidfile": str(pidfile)})
    probes = {
        f"probe_{name}": {"use": "probe", "service": name, "url": url, "interval": "1s"}
        for name, url in urls.items()
    }
    said = {
        "listen": f"127.0.0.1:{port}",
        "page": {"command": ["tee", "-a", str(folder / "pages.jsonl")]},
        "connectors": {
            "processes": {"interval": "1s"},
            "kernel_log": {
                "enabled": False
            },  # of the whole machine, whose other troubles are none of ours
            **probes,
        },
        "services": services,
    }
    return yaml.safe_dump(said, sort_keys=False)


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon with its tap, as `homeostat run`; ended by SIGTERM."""
    gone = ("HOMEOSTAT", "XDG_", "NOTIFY_SOCKET")  # what would make it behave as in another place
    env = {k: v for k, v in os.environ.items() if not k.startswith(gone)}
    argv = leashed([
        sys.executable, "-P", str(Path(__file__).with_name("live_tap.py")), str(folder / "tap.jsonl"), "run",
        "--config", str(folder / "agent.yaml"), "--state", str(folder / "state"),
    ])  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=ROOT, stdout=log, stderr=log, env={**env, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(console: Console, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until host, processes and probes have answered."""
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if console.ready():
            answering = {s["name"] for s in console.status()["sources"] if s["series"] > 0}
            if {"host", "processes"} <= answering:
                return
        time.sleep(0.25)
    raise SystemExit(f"the daemon did not answer:\n{(folder / 'log').read_text()}")


# ---------------------------------------------------------------- the run


def go(asked: argparse.Namespace, folder: Path) -> Seen:
    """Make the ground, start the daemon, work, break, and return what was seen."""
    seen = Seen()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        mount, no_disk = enter(small_disk(folder))
        ports = {name: free_port() for name in ("shop", "files", "edge", "api")}
        shop = enter(running([sys.executable, "-c", SERVE, "127.0.0.1", str(ports["shop"])]))
        edge, no_edge = enter(namespaced(ports["edge"]))
        leaky, leak_mb = enter(leaking(asked.seconds))
        ground = Ground(
            asked.seconds, shop, leaky, leak_mb, mount, None if no_edge else edge,
            {"disk": no_disk, "network": no_edge},
        )  # fmt: skip
        www = folder / "www"
        www.mkdir()
        (www / "file").write_bytes(os.urandom(16 << 20))
        server = [
            sys.executable, "-m", "http.server", str(ports["files"]), "--bind", "127.0.0.1", "--directory", str(www),
        ]  # fmt: skip
        enter(running(server))
        urls = {"shop": f"http://127.0.0.1:{ports['shop']}/"}
        pids = {"shop": shop.pid, "cart": leaky.pid}
        if ground.inside is not None:
            urls["edge"] = f"http://{NET[1]}:{ports['edge']}/"
            pids["edge"] = ground.inside.pid
        (folder / "agent.yaml").write_text(settings(folder, ports["api"], urls, pids), "utf-8")
        process = enter(daemon(folder))
        console = Console(f"http://127.0.0.1:{ports['api']}", folder / "pages.jsonl")
        stack.callback(console.close)
        wait_for(console, process, folder)
        url = f"http://127.0.0.1:{ports['files']}/file"
        work = enter(Work(folder, url, tuple(urls.values()), seed=asked.seed))
        _phases(asked, ground, seen, work, console, process)
        seen.incidents = [dict(one) for one in console.incidents()]
        seen.pages, seen.status = console.pages(), console.status()
        seen.budget = console._get("/api/budget")
        seen.work = list(work.done)
    lines = [json.loads(text) for text in (folder / "tap.jsonl").read_text("utf-8").splitlines()]
    seen.told, seen.ledger = read(lines), [one for one in lines if one["what"] == "ledger"]
    return seen


def _phases(
    asked: argparse.Namespace,
    ground: Ground,
    seen: Seen,
    work: Work,
    console: Console,
    process: subprocess.Popen[bytes],
) -> None:
    """Let time pass, with a bar: ordinary work first, then each fault and a rest behind it."""
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    total = asked.minutes * 60 + len(asked.faults) * (asked.seconds + asked.recover)
    bar = Progress(
        TextColumn("{task.description:42}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with bar:
        line = bar.add_task("ordinary work", total=total)

        def wait(name: str, seconds: float) -> None:
            until = time.monotonic() + seconds
            last = time.monotonic()
            while (now := time.monotonic()) < until:
                if process.poll() is not None:
                    raise SystemExit(f"the daemon ended with {process.returncode}")
                bar.update(line, advance=now - last, description=f"{name}: {work.now}")
                last = now
                time.sleep(min(0.5, until - now))
            bar.update(line, advance=seconds - (last - (until - seconds)))

        seen.start = time.time()
        wait("ordinary work", asked.minutes * 60)
        seen.ordinary_end = time.time()
        n_pages, n_incidents = len(console.pages()), len(console.incidents())
        bar.console.print(
            f"ordinary work is over: {n_pages} pages, {n_incidents} incidents", highlight=False
        )
        for name in asked.faults:
            try:
                with FAULTS[name](ground) as broken:
                    bar.console.print(f"{name}: {broken.how}", highlight=False)
                    wait(f"fault {name}", asked.seconds)
                seen.faults.append(broken)
            except Missing as why:
                seen.missing[name] = str(why)
                bar.console.print(f"{name}: can not be made here: {why}", highlight=False)
                continue
            wait(f"recovery from {name}", asked.recover)
        seen.end = time.time()


def names(text: str) -> list[str]:
    """Read --faults."""
    found = [name for name in text.split(",") if name]
    if unknown := [name for name in found if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no fault {', '.join(unknown)}: there are {', '.join(FAULTS)}")  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="ordinary work before the faults"
    )
    parser.add_argument("--faults", type=names, default=list(FAULTS), help="which, in this order")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each fault lasts")
    parser.add_argument(
        "--recover", type=float, default=180.0, help="seconds of rest after a fault"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order of the work")
    parser.add_argument("--keep", action="store_true", help="keep the folder: state, log, tap")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("this benchmark breaks and reads Linux: run it there")
    # `kill` must clean up as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="homeostat-live-"))
    try:
        seen = go(asked, folder)
        promise = Promise.of(Budget())
        said, found = live_report.report(seen, promise)
    finally:
        if asked.keep:
            sys.stdout.write(f"kept: {folder}\n")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    live_report.show(seen, live_report.ordinary(seen, promise), found)
    sys.stdout.write(f"{said['machine']}\nwritten to {asked.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
