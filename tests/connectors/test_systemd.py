"""Units of systemd, by a script that speaks as systemctl does: this suite runs where systemd is not PID 1."""

import dataclasses
import textwrap
from pathlib import Path

import pytest
from pydantic import ValidationError

from agent.errors import Refused, Unavailable, Uncertain
from agent.ports import Step
from connectors.systemd import Systemd
from playbooks.actions.restart import Restart, Restarter
from playbooks.actions.scale import Scale, Scaler

# A folder is the world: a file for each unit holds its state and how often it was started.
SYSTEMCTL = textwrap.dedent(
    """\
    #!/bin/sh
    cd {folder} || exit 1
    while [ "${{1#--no}}" != "$1" ]; do shift; done
    verb=$1; shift
    echo "$verb $*" >> log
    [ ! -e down ] || {{ echo "System has not been booted with systemd as init system"; exit 1; }}
    [ "$verb" = show ] || [ ! -e denied ] || {{ echo "Interactive authentication required."; exit 1; }}
    for unit in "$@"; do
      case $unit in --*) continue;; esac
      if [ ! -e "$unit" ]; then
        printf 'Id=%s\\nLoadState=not-found\\nActiveState=inactive\\nSubState=dead\\nInvocationID=\\n\\n' "$unit"
        continue
      fi
      read -r state n < "$unit"
      case $verb in
        show)
          sub=dead; [ "$state" = active ] && sub=running
          printf 'Id=%s\\nLoadState=loaded\\nActiveState=%s\\nSubState=%s\\nInvocationID=%032x\\n\\n' \\
            "$unit" "$state" "$sub" "$n";;
        stop) echo "inactive $n" > "$unit";;
        *) if [ -e broken ]; then echo "failed $n" > "$unit"; else echo "active $((n + 1))" > "$unit"; fi;;
      esac
    done
    """
)


@pytest.fixture
def world(tmp_path) -> Path:
    script = tmp_path / "systemctl"
    script.write_text(SYSTEMCTL.format(folder=tmp_path))
    script.chmod(0o755)
    for n, state in ((1, "active 11"), (2, "active 22"), (3, "inactive 0")):
        (tmp_path / f"web@{n}.service").write_text(f"{state}\n")
    return tmp_path


def systemd(world: Path, **more) -> Systemd:
    units = [f"web@{n}.service" for n in (1, 2, 3)]
    config = {"service": "web", "units": units, "systemctl": str(world / "systemctl"), "wait": 2}
    return Systemd("systemd", Systemd.Config(**(config | more)))


def told(world: Path) -> list[str]:
    lines = (world / "log").read_text().splitlines()
    return [line for line in lines if not line.startswith("show")]


async def planned(act, use: str, target: str = "service:web") -> Step:
    one = Step(f"run-1/{use}", use, target, {}, by="homeostat:run-1")
    return dataclasses.replace(one, before=dict(await act.observe(one)))


async def test_units_are_restarted_one_by_one(world):
    made = systemd(world)
    assert isinstance(made, Restarter)
    act = Restart(Restart.Params(), made)
    one = await planned(act, "restart")
    assert sorted(one.before["units"].values()) == [
        "replica:web/web@1.service",
        "replica:web/web@2.service",
    ]
    await act.run(one)
    assert told(world) == ["restart -- web@1.service", "restart -- web@2.service"]
    assert act.reached(one, await act.observe(one))
    assert "already" in (await act.run(one)).summary
    with pytest.raises(Refused, match="it was restarted already"):
        await made.restart("service:web", f"{11:032x}")


async def test_one_that_does_not_come_back_stops_the_others(world):
    act = Restart(Restart.Params(wait=0.3), systemd(world))
    one = await planned(act, "restart")
    (world / "broken").touch()
    with pytest.raises(Uncertain, match=r"is failed .* after its restart"):
        await act.run(one)
    assert told(world) == ["restart -- web@1.service"]
    (world / "broken").unlink()
    with pytest.raises(Refused, match="only 0 other replicas"):
        await act.run(one)


async def test_more_and_fewer(world):
    made = systemd(world)
    assert isinstance(made, Scaler)
    act = Scale(Scale.Params(by=1), made)
    one = await planned(act, "scale")
    done = await act.run(one)
    assert await made.replicas("service:web") == 3
    await act.undo(one, done.undo)
    assert told(world) == ["start -- web@3.service", "stop -- web@3.service"]
    with pytest.raises(Refused, match="runs 2 units, not 3: changed by others"):
        await made.set_replicas("service:web", 1, 3)
    with pytest.raises(Refused, match="has 1 to 3 units, not 4"):
        await made.set_replicas("service:web", 4, 2)


async def test_what_systemd_says_is_told(world):
    made = systemd(world)
    assert await made.describe() == [
        "web@1.service: active (running)", "web@2.service: active (running)", "web@3.service: inactive (dead)",
    ]  # fmt: skip
    (world / "denied").touch()
    with pytest.raises(Refused, match="that takes root or a rule of polkit"):
        await made.set_replicas("service:web", 3, 2)
    (world / "down").touch()
    with pytest.raises(Unavailable, match="does systemd run here"):
        await made.units("service:web")
    (world / "down").unlink()
    with pytest.raises(Refused, match=r"has no unit gone.service"):
        await systemd(world, units=["gone.service"]).units("service:web")
    with pytest.raises(Refused, match="can not be run: No such file"):
        await systemd(world, systemctl="/nowhere").units("service:web")
    with pytest.raises(ValidationError):
        Systemd.Config(service="web", units=["--force.service x"])
