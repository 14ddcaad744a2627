"""Rebooting, by a script in systemctl's place: what is run, what forbids it, how it is seen. No host goes down here."""

import dataclasses
import os

import pytest

from agent.errors import Refused, Uncertain
from agent.ports import Step, Undo
from connectors import machine as machine_module
from connectors._proc import this_host
from connectors.machine import Machine
from playbooks.actions.machine import Machine as Ability
from playbooks.actions.machine import Reboot

STEP = Step("run-1/reboot", "reboot", this_host().id, {}, by="homeostat:run-1")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="to reboot takes root")


@pytest.fixture
def machine(tmp_path):
    script = tmp_path / "systemctl"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f"if [ -e {tmp_path}/held ]; then echo 'Operation inhibited'; exit 1; fi\n"
    )
    script.chmod(0o755)
    config = Machine.Config(reboot=[str(script), "reboot"], block=tmp_path / "block")
    return Machine("machine", config)


@as_root
async def test_a_reboot_is_asked_for_and_seen_by_the_new_boot(machine, tmp_path, monkeypatch):
    assert isinstance(machine, Ability)
    act = Reboot(Reboot.Params(wait=0.05), machine)
    assert not isinstance(act, Undo)
    assert not act.reversible
    one = dataclasses.replace(STEP, before=dict(await act.observe(STEP)))
    assert not act.reached(one, one.before)
    said = await act.run(dataclasses.replace(one, dry_run=True))
    assert said.summary == f"would reboot {this_host()}"
    assert not (tmp_path / "asked").exists()
    with pytest.raises(Uncertain, match="still runs after 50 ms"):
        await act.run(one)
    assert (tmp_path / "asked").read_text() == "reboot\n"
    monkeypatch.setattr(machine_module, "boot_id", lambda: "another-boot")
    assert act.reached(one, await act.observe(one))
    done = await act.run(one)
    assert done.change.kind == "restart"
    assert (tmp_path / "asked").read_text() == "reboot\n"


@as_root
async def test_what_forbids_it(machine, tmp_path):
    act = Reboot(Reboot.Params(wait=0.0), machine)
    (tmp_path / "held").touch()
    with pytest.raises(Refused, match="refused: Operation inhibited"):
        await act.run(STEP)
    (tmp_path / "block").touch()
    with pytest.raises(Refused, match="remove it when this host may be rebooted"):
        await act.observe(STEP)
    assert "block is there" in (await machine.describe())[0]
    (tmp_path / "block").unlink()
    with pytest.raises(Refused, match="a host is rebooted by its own agent"):
        await act.observe(dataclasses.replace(STEP, target="host:elsewhere"))
    assert (await machine.describe())[0].startswith(f"may reboot {this_host()} by ")
    gone = Machine("m", Machine.Config(reboot=["no-such-program"]))
    with pytest.raises(Refused, match="there is no no-such-program"):
        gone.may_reboot()
