"""A life of the whole daemon in minutes that pass in seconds, while everything outside goes away and comes back.

    python away_driver.py FOLDER

Three minutes all is well, ten minutes all is gone, five minutes all is back. The clock is the real one, and jumps ahead
whenever nobody waits for anything but time. What was asked, given, said and kept is written to FOLDER/told.json, which
tests/connectors/test_every_absence.py reads.
"""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import socket
import sys
import threading
import time
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import ahead  # first: it changes the clocks
import everything
import httpx
import otlp_side
import psutil
import yaml
from aiosmtpd.smtp import SMTP
from docker_side import engine
from elastic_side import iso
from whole_side import Whole

from agent import daemon, registry
from agent.authority import Tokens
from agent.away import Absences
from agent.codec import pack
from agent.config import load
from agent.errors import AgentError
from agent.model import Change, Entity
from agent.ports import Note

WELL_S, AWAY_S, BACK_S = 180.0, 600.0, 300.0
WEB = Entity("service", "web")
SERVICES = [{"id": "web", "models": ["fraud", "rows", "log", "batch"]}, {"id": "api"}]
EVERY_S = 60.0
"""How often people are told something, and something is changed."""
USE_S = 20.0
"""How often a step asks for an ability."""


class Post:
    """Takes mails."""

    def __init__(self, given):
        self._given = given

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  # a name of aiosmtpd
        text = envelope.content.decode()
        self._given[text.partition("Message-ID: ")[2].split()[0]] += 1
        return "250 OK"


class Outside:
    """Everything outside: the net, a mail server, Docker, a pager, files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = Whole()
        self.mail_port = 0
        self._mail = None
        self._docker = None
        self.logged = 0
        self.counted = 0

    async def come(self):
        await self.net.come()
        loop = asyncio.get_running_loop()
        post = Post(self.net.given["mail"])
        self._mail = await loop.create_server(partial(SMTP, post), "127.0.0.1", self.mail_port)
        self.mail_port = self._mail.sockets[0].getsockname()[1]
        self._docker = contextlib.ExitStack()
        (self.folder / "gone").mkdir(exist_ok=True)
        held, path = self._docker.enter_context(engine(self.folder / "gone"))
        held.add("web-1")
        assert path == self.folder / "gone" / "docker.sock", path
        (self.folder / "page").write_text(f"#!/bin/sh\ncat >> {self.folder}/paged\n")
        (self.folder / "page").chmod(0o755)
        for name in ("models", "flags.json", "logs"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / f"{name}.away").rename(self.folder / name)

    async def go(self):
        await self.net.go()
        self._mail.close()
        await self._mail.wait_closed()
        await asyncio.to_thread(self._docker.close)
        (self.folder / "gone" / "docker.sock").unlink()
        (self.folder / "page").write_text("#!/bin/sh\nexit 1\n")
        for name in ("models", "flags.json", "logs"):
            (self.folder / name).rename(self.folder / f"{name}.away")

    def tick(self, now):
        """Go on, whether we are asked or not: log lines, predictions."""
        self.net.database("elastic_logs").put(
            {"@timestamp": iso(now), "service": {"name": "web"}, "log": {"level": "error"}}, index="logs-x"
        )  # fmt: skip
        row = {"@timestamp": iso(now), "prediction": 0.5, "name": f"n{self.logged % 7}"}
        self.net.database("elastic_predictions").put(row, index="rows")
        logs = self.folder / ("logs" if (self.folder / "logs").exists() else "logs.away")
        with (logs / "rows.csv").open("a") as out:
            out.write(f"{now:.3f},n{self.logged % 7},0.5\n")
        self.logged += 1


def settings(outside):
    """Return the config, and the environment that it refers to."""
    n = 0

    def plant(_, form="{}"):
        nonlocal n
        n += 1
        os.environ[f"GIVEN_{n}"] = form.replace("{}", f"given-to-nobody-else-{n:04}")
        return f"env:GIVEN_{n}"

    folder = outside.folder
    made = everything.everything(outside.net.url, folder, plant)
    made["mail"] = {
        "server": "127.0.0.1", "port": outside.mail_port, "security": "none", "sender": "a@example.org",
        "to": ["b@example.org"], "timeout": 5,
    }  # fmt: skip
    made["page"] = {"command": [str(folder / "page")]}
    made["predictions"] |= {"path": str(folder / "logs" / "*.csv"), "model": "log"}
    made["elastic_predictions"] |= {"model": "rows", "lag": 1}
    made["batch_scoring"] |= {"path": str(folder / "logs" / "batch*.parquet"), "model": "batch"}
    made["elastic_logs"] |= {"categorize": ""}
    made["prometheus"] |= {"selectors": ["http_requests_total"]}
    made["webhook"]["events"] = ["changed"]
    made["webhook"]["severities"] = ["page"]
    made["grafana_annotations"]["events"] = ["changed"]
    made["heartbeat"]["every"] = 30
    made["alertmanager"]["alerts"] = ["page"]
    for name in ("host", "processes", "containers", "connections", "units", "kernel_log"):
        made[name]["interval"] = 30  # not what this is about
    for second in [name for name in made if name.endswith(("_2", "_3"))]:
        del made[second]
    del (
        made["gunicorn"],
        made["units"],
        made["slack"],
    )  # this host has neither; it has a story of its own
    made["kubernetes"]["timeout"] = 5
    return made


tries = defaultdict(list)
"""Connector -> when it was tried, as the daemon itself notes it; a refused connection reaches nobody."""


def watched(fell):
    """Note each try that failed."""

    def told(self, name, *args):
        tries[name.removesuffix(".feed")].append(time.time())
        return fell(self, name, *args)

    return told


Absences.fell = watched(Absences.fell)


class Life(daemon.Daemon):
    """Remembers what was counted of rows."""

    def __init__(self, *args):
        super().__init__(*args)
        self.rows = Counter()

    def count(self, rows):
        super().count(rows)
        if hasattr(rows, "model"):
            self.rows[rows.model] += len(rows.ts)


USES = {
    "docker": lambda c: c.units("service:web"),
    "fleet_http": lambda c: c.replicas("service:web"),
    "flag_file": lambda c: c.flag("beta"),
    "flag_http": lambda c: c.flag("beta"),
    "http_calls": lambda c: c.call("GET", f"{c.config.allow[0].url}x", None, f"k{time.monotonic()}", 5.0),
    "kubernetes": lambda c: c.replicas("service:web"),
    "mlflow": lambda c: c.retraining_held("fraud"),
    "model_directory": lambda c: c.versions("fraud"),
    "trainer_http": lambda c: c._look("r1"),
    "trainer_kubeflow": lambda c: c._look("r1"),
    "trainer_kubernetes": lambda c: c._look("r1"),
}  # fmt: skip
"""What steps of runs ask."""


class Told:
    """What is seen of a life, by phase."""

    def __init__(self) -> None:
        self.phase = "well"
        self.used = defaultdict(list)
        self.seen = []
        self.rates = []
        self.notes = []

    def dump(self, life, outside, began):
        net = outside.net
        asked = {who: [round(at - began, 1) for at in times] for who, times in net.asked.items()}
        with contextlib.closing(life.journal.reader(life.state / "journal.sqlite")) as record:
            kinds = Counter(entry.kind for entry in record.read())
            arrived = defaultdict(list)
            for entry in record.read(("told",)):
                if entry.subject and "gave_up" not in entry.body:
                    arrived[entry.body["by"].partition("/")[0]].append(entry.subject)
        with contextlib.suppress(FileNotFoundError):
            paged = (outside.folder / "paged").read_text().splitlines()
            net.given["page"].update(json.loads(line)["key"] for line in paged)
        return {
            "asked": asked, "given": {who: dict(found) for who, found in net.given.items()},
            "open_at_once": net.open_at_once, "used": self.used, "seen": self.seen, "rates": self.rates,
            "notes": self.notes, "rows": dict(life.rows), "logged": outside.logged, "journal": dict(kinds),
            "incidents": [
                {"title": i.title, "opened": round(i.opened - began, 1), "severity": i.severity,
                 "found": [[str(a.series), round(a.onset - began, 1), a.road] for a in i.anomalies]}
                for i in life.memory.incidents.values()
            ],
            "arrived": arrived, "began": began,
            "tried": {n: [round(at - began, 1) for at in some] for n, some in tries.items()},
            "behind": life.journal.head[0] - life.connectors.built["elastic_out"].position,
            "events": len(net.database("elastic_out").found("homeostat-*")) if net.elastic else 0,
            "bugs": life.bugs, "registered": list(registry.connector), "tally": {
                n: dict(some) for n, some in life.sinks.tally().items()
            },
        }  # fmt: skip


async def main(folder):
    outside = Outside(folder / "outside")
    for name in ("models/fraud", "logs", "old"):
        (outside.folder / name).mkdir(parents=True)
    (outside.folder / "flags.json").write_text('{"beta": true}')
    (outside.folder / "logs" / "rows.csv").write_text("ts,name,prediction\n")
    await outside.come()
    made = settings(outside)
    path = folder / "agent.yaml"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path.write_text(
        yaml.safe_dump({"listen": f"127.0.0.1:{port}", "priority": 0, "connectors": made, "services": SERVICES})
    )  # fmt: skip
    state = folder / "state"
    state.mkdir()
    token = Tokens(state / "tokens.json").add("sender", "operator", 0.0)
    life = Life(load(path), path, state)
    lives = asyncio.create_task(life.live())
    told, began = Told(), time.time()
    ends = {"well": WELL_S, "away": WELL_S + AWAY_S, "back": WELL_S + AWAY_S + BACK_S}
    senders = Senders(life, token, f"http://127.0.0.1:{port}")
    due_note, due_use, due_look, due_rows = 5.0, 10.0, 20.0, 0.0
    while (at := time.time() - began) < ends["back"]:
        if told.phase == "well" and at >= ends["well"]:
            told.phase = "away"
            await outside.go()
        elif told.phase == "away" and at >= ends["away"]:
            told.phase = "back"
            await outside.come()
        if at >= due_rows:
            due_rows += 1.0
            outside.tick(time.time())
            await senders.tick(told.phase != "away")
            told.rates.append([round(at, 1), *(rate_of(life, *one) for one in RATES)])
        if at >= due_note:
            due_note += EVERY_S
            key = f"n{len(told.notes)}"
            life.record("note", key, pack(Note(key, time.time(), "page", key, key)), time.time())
            life.collector.push([Change(time.time(), WEB, "config", "a", key, id=key)])
            told.notes.append([round(at, 1), key])
        if at >= due_use:
            due_use += USE_S
            await use(life, told, at)
        if at >= due_look:
            due_look += 20.0
            told.seen.append(await look(senders, at))
        await asyncio.sleep(0.25)
    result = told.dump(life, outside, began)
    life.draining.set()
    await lives
    return result


class Senders:
    """Those who push: OTLP every ten seconds; an alert and a release now and then."""

    def __init__(self, life, token, url):
        self.life, self._token, self.url = life, token, url
        self._http = httpx.AsyncClient(trust_env=False, timeout=30.0)
        self._n = 0
        self._began = time.time()

    async def tick(self, there):
        self._n += 1
        if not there or self._n % 10:
            return
        now = time.time()
        point = otlp_side.number(100.0 * (now - self._began), ts=now, start=self._began)
        body = otlp_side.protobuf(
            {"service.name": "web"}, [otlp_side.metric("orders", "sum", [point])]
        )
        headers = {
            "authorization": f"Bearer {self._token}",
            "content-type": "application/x-protobuf",
        }
        said = await self._http.post(f"{self.url}/v1/metrics", content=body, headers=headers)
        assert said.status_code == 200, said.text

    async def health(self):
        return (await self._http.get(f"{self.url}/health")).json()


async def use(life, told, at):
    """Ask each ability as a step would."""
    for name, how in USES.items():
        with ahead.clock.real():
            try:
                await how(life.connectors.built[name])
                said = ""
            except AgentError as error:
                said = f"{type(error).__name__}: {error}"
        told.used[name].append([round(at, 1), said])


async def look(senders, at):
    """Return how the daemon says that it is, and what it holds."""
    life = senders.life
    gc.collect()
    me = psutil.Process()
    return {
        "at": round(at, 1), "health": await senders.health(), "rss": me.memory_info().rss, "fds": me.num_fds(),
        "threads": threading.active_count(), "tasks": len(asyncio.all_tasks()), "owed": dict(life.outbox.owed),
        "away": {a.connector: [a.what, a.for_s, a.again_s, a.waiting] for a in life_away(life)},
        "late": life.late_ticks, "ticks": life.ticks,
    }  # fmt: skip


def life_away(life):
    asked = (life.outbox, life.archives, life.sinks, life.pulses, life.mutes)
    return [*life.collector.away.told(), *(one for some in asked for one in some.away())]


RATES = (
    ("prometheus", "per_second"), ("otlp", "per_second"), ("models", "predictions_per_second{model:rows}"),
    ("models", "predictions_per_second{model:log}"), ("elastic_logs", "per_second"),
)  # fmt: skip
"""Rates that are looked at: source, a part of the name."""


def rate_of(life, source, name):
    """Return the rate that a source tells of now; None = unknown."""
    rows = life.world.rows().get(source)
    if rows is None:
        return None
    for series, value, when in zip(rows[0], rows[1].tolist(), rows[2].tolist(), strict=True):
        if name in str(series) and value == value:  # noqa: PLR0124  # NaN
            fresh = life.world.now - when <= life.world.patience.get(source, 60.0)
            return round(value, 3) if fresh else None
    return None


if __name__ == "__main__":
    where = Path(sys.argv[1])
    daemon.set_up_logging(as_json=True)
    registry.load()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(ahead.Jumping())) as runner:
        found = runner.run(main(where))
    (where / "told.json").write_text(json.dumps(found))
    shutil.rmtree(where / "outside", ignore_errors=True)
