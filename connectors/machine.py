"""The host that we run on, to reboot it.

    machine: {}                         # `systemctl reboot`
    machine: {reboot: [/sbin/shutdown, -r, '+1']}

It takes root, or a rule of polkit. `block: /run/reboot-blocked` names a file that forbids it while it is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import structlog
from pydantic import Field

from agent.errors import Refused, Uncertain
from agent.registry import connector
from agent.units import Model
from connectors._proc import boot_id, command_line, this_host
from connectors._program import run_program

log = structlog.get_logger()

_TIME_S: Final = 30.0


@connector("machine")
class Machine:
    """The host that we run on.

    Ability  Machine (see playbooks/actions/machine.py)
    """

    tested = "stand-in: a script for systemctl"
    stand_in = True

    class Config(Model):
        """How it is rebooted."""

        reboot: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = [
            "systemctl",
            "reboot",
        ]
        block: Path = Path("/run/homeostat-no-reboot")
        """While this file is there, nothing is rebooted."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config

    def boot(self, host: str) -> str:
        """Return the boot id."""
        if host != this_host().id:
            raise Refused(
                f"{self.name} is {this_host()}, not {host}: a host is rebooted by its own agent"
            )
        return boot_id()

    def may_reboot(self) -> None:
        """Look for the program and the file that forbids it."""
        if self.config.block.exists():
            raise Refused(f"{self.config.block} is there: remove it when this host may be rebooted")
        if shutil.which(self.config.reboot[0]) is None:
            raise Refused(f"there is no {self.config.reboot[0]}: mend `reboot` of {self.name}")

    async def reboot(self, reason: str) -> None:
        """Run the command; it returns when the reboot is under way."""
        self.may_reboot()
        log.warning("reboot", reason=reason)
        try:
            code, out = await run_program(self.config.reboot, _TIME_S)
        except TimeoutError:
            raise Uncertain(
                f"{self.config.reboot[0]} did not come back within {_TIME_S:.0f} s"
            ) from None
        if code:
            said = out.rpartition("\n")[2][:300]
            raise Refused(f"{self.config.reboot[0]} refused: {said or f'status {code}'}")

    async def describe(self) -> Sequence[str]:
        """Say what would be run, and whether it may; runs nothing."""
        try:
            self.may_reboot()
        except Refused as no:
            return (str(no),)
        how = "" if os.geteuid() == 0 else ", if a rule of polkit lets our user"
        return (f"may reboot {this_host()} by {command_line(self.config.reboot)}{how}",)
