"""Applications: names of what runs, sums that survive whoever comes and goes, and the top of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agent.model import Frame
from agent.rates import Rates
from connectors._applications import Applications, application_of
from connectors._proc import HERTZ
from connectors.processes import Processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of Linux")


@pytest.mark.parametrize(
    ("program", "command", "name"),
    [
        ("nginx", "nginx: worker process", "nginx"),
        ("python3", "/usr/bin/python3 -u /srv/app/train.py --epochs 3", "train.py"),
        ("python3.11", "python3.11 -m vllm.entrypoints.openai.api_server ", "vllm.entrypoints.openai.api_server"),
        ("python3", "python3 -c import@time", "python3"),
        ("python3", "python3 -X dev -W error run.py", "run.py"),
        ("python3", "python3", "python3"),
        ("java", "java -Xmx4g -cp /a.jar:/b.jar org.example.Main serve", "org.example.Main"),
        ("java", "java -Xmx4g -jar /opt/shop/shop.jar", "shop.jar"),
        ("bash", "bash -c make@test", "bash"),
        ("bash", "bash /dev/fd/63", "bash"),
        ("sh", "sh /etc/cron.daily/backup", "backup"),
        ("node", "node --require ./t.js server/index.js", "index.js"),
        ("postgres", "postgres: checkpointer", "postgres"),
        ("", "", "?"),
        ("bad\x07\nname", "x", "badname"),
    ],
)  # fmt: skip
def test_what_runs_is_named(program, command, name):
    argv = [word.replace("@", " ") for word in command.split(" ")] if command else []
    assert application_of(program, argv) == name


def test_a_name_has_an_end():
    assert len(application_of("python3", ["python3", "x" * 1000])) == 64


def test_patterns_bring_several_under_one_name():
    apps = Applications(5, {"shop": ["shop*.jar", "checkout"]})
    assert apps.name("java", ["java", "-jar", "shop-2.jar"]) == "shop"
    assert apps.name("checkout", ["checkout"]) == "shop"
    assert apps.name("java", ["java", "-jar", "other.jar"]) == "other.jar"


def test_counters_never_fall_and_the_rest_is_of_now():
    apps = Applications(5, {})
    for ticks, rss in ((100, 10), (50, 20)):
        apps.begin()
        apps.add("web", ticks, rss, 3)
        apps.add("web", ticks, rss, 3)
        apps.rank(5.0)
    (web,) = apps.choose(0.0).values()
    assert (web.ticks, web.rss_pages, web.processes, web.threads) == (300, 40, 2, 6)
    apps.begin()
    apps.rank(5.0)
    (web,) = apps.choose(1.0).values()
    assert (web.ticks, web.rss_pages, web.processes) == (300, 0, 0)


def test_in_by_rank_out_after_a_while():
    apps = Applications(1, {})

    def look(now: float, **used: int) -> list[str]:
        apps.begin()
        for name, ticks in used.items():
            apps.add(name, ticks, 1 + (name == "big"), 1)
        apps.rank(5.0)
        return list(apps.choose(now))

    assert look(0.0, busy=5 * HERTZ, big=0, idle=0) == ["big", "busy"]
    assert look(5.0, busy=0, big=0, idle=40 * HERTZ) == ["big", "busy", "idle"]
    for now in range(10, 70, 5):
        shown = look(float(now), busy=0, big=0, idle=5 * HERTZ)
    assert shown == ["big", "idle"]


def test_what_comes_and_goes_by_the_thousand_takes_no_memory():
    apps = Applications(3, {})
    for i in range(6000):
        apps.begin()
        apps.add(f"job{i}", 1, 1, 1)
    assert len(apps._all) <= 2001


def shown(frame: Frame, metric: str) -> dict[str, float]:
    return {
        dict(s.labels)["application"]: float(v)
        for s, v in zip(frame.series, frame.values, strict=True)
        if s.metric == f"host.application_{metric}"
    }


def started(script: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-S", str(script)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


@linux
async def test_two_scripts_of_one_name_are_one_application(tmp_path: Path):
    """Real processes in groups of their own: their CPU adds up under the name of the script."""
    script = tmp_path / "burner.py"
    script.write_text("print('on', flush=True)\nwhile True: sum(range(1000))\n")
    jobs = [started(script) for _ in range(2)]
    source = Processes("processes", Processes.Config(top=1))
    try:
        for job in jobs:
            assert job.stdout is not None
            assert job.stdout.readline() == b"on\n"
        rates = Rates()
        rates.apply(await source.poll())
        cores: dict[str, float] = {}
        for _ in range(40):
            await asyncio.sleep(0.5)
            frame = rates.apply(await source.poll())
            cores = shown(frame, "cpu_cores")
            if cores.get("burner.py", 0.0) > 0.05:
                break
        assert 0.05 < cores["burner.py"] < 2.2
        assert shown(frame, "processes_count")["burner.py"] == 2.0
        assert list(frame.series) == sorted(set(frame.series))
    finally:
        source.close()
        for job in jobs:
            job.kill()
            job.communicate()


@linux
async def test_none_are_shown_where_none_are_wanted():
    source = Processes("processes", Processes.Config(top_applications=0))
    try:
        assert shown(await source.poll(), "cpu_seconds_total") == {}
    finally:
        source.close()
