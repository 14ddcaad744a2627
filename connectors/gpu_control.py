"""What may be done to NVIDIA GPUs: power limits and resets. What is seen of them comes from `gpu`.

    gpu_control: {}

A power limit is set through NVML in a process of its own, that is killed when the driver hangs; a reset by
`nvidia-smi --gpu-reset`, as NVML has no call for it. Both take CAP_SYS_ADMIN.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from agent.errors import Refused, Unavailable, Uncertain
from agent.registry import connector
from agent.units import Duration, Model, say_duration
from connectors._once import Once
from connectors._proc import has_capability
from connectors._program import run_program
from connectors.gpu import driver_shows

_PROGRAM: Final = Path(__file__).with_name("_nvml_act.py")
_RECOVERY: Final = (
    "none", "reset", "node_reboot", "drain_p2p", "drain_and_reset", "recover_imex_domain", "bus_reset", "system_reboot",
)  # fmt: skip
"""nvml.h, nvmlDeviceGpuRecoveryAction_t, in order."""
_POWER: Final = "power_watts"
_CAP_SYS_ADMIN: Final = 21


@dataclass(frozen=True, slots=True)
class State:
    """What NVML says of one GPU."""

    recovery: str | None
    remap_pending: bool | None
    remap_failed: bool | None
    pids: tuple[int, ...]


@connector("gpu_control")
class GpuControl:
    """NVIDIA GPUs of this host, to act on.

    Abilities  Limiter for `power_watts` of gpu:UUID (see playbooks/actions/limits.py), GpuCare (see
               playbooks/actions/gpu.py)
    """

    tested = "stand-in: NVML's own interface on a library of the tests, a script for nvidia-smi"
    stand_in = True
    powers = (("CAP_SYS_ADMIN", "to set power limits of GPUs and to reset them"),)

    class Config(Model):
        """How to reach NVML and nvidia-smi."""

        timeout: Annotated[Duration, Field(gt=0, le=60)] = 10.0
        """How long NVML may take."""
        library: Path | None = None
        """Folder of libnvidia-ml.so.1, where the system does not find it by itself."""
        nvidia_smi: str = "nvidia-smi"
        reset_timeout: Annotated[Duration, Field(gt=0, le=600)] = 120.0

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._once = Once(state / "gpu_control" / name if state is not None else None)
        self._turn = asyncio.Lock()

    # ---- ability: Limiter

    async def limit(self, target: str, name: str) -> float | None:
        """Return the power limit in watts."""
        said = await self._nvml({"do": "power", "uuid": _uuid(target, name)})
        return float(said["watts"])

    async def nearest(self, target: str, name: str, value: float) -> float:
        """Return whole watts; Refused outside what the board allows."""
        said = await self._nvml({"do": "power", "uuid": _uuid(target, name)})
        watts = float(round(value))
        if not said["least"] <= watts <= said["most"]:
            raise Refused(
                f"{target} takes power limits from {said['least']:g} to {said['most']:g} W, not {watts:g}"
            )
        return watts

    async def set_limit(
        self, target: str, name: str, value: float | None, expect: float | None
    ) -> None:
        """Set the power limit if it is `expect`."""
        if value is None:
            raise Refused(f"{target} always has a power limit: write its default instead of none")
        asked = {"do": "set_power", "uuid": _uuid(target, name), "watts": value, "expect": expect}
        async with self._turn:  # NVML compares nothing: the program looks, then sets
            said = await self._nvml(asked, changes=True)
        if said["watts"] != value:
            raise Uncertain(
                f"the power limit of {target} was set to {value:g} W and is {said['watts']:g}"
            )

    # ---- ability: GpuCare

    async def health(self, gpu: str) -> State:
        """Ask NVML."""
        said = await self._nvml({"do": "health", "uuid": _uuid(gpu)})
        code = said["recovery"]
        known = code is not None and 0 <= code < len(_RECOVERY)
        recovery = _RECOVERY[code] if known else None if code is None else f"action_{code}"
        return State(recovery, said["remap_pending"], said["remap_failed"], tuple(said["pids"]))

    async def reset(self, gpu: str, key: str) -> None:
        """Reset by nvidia-smi, once per key."""
        uuid = _uuid(gpu)
        if not has_capability(_CAP_SYS_ADMIN):
            raise Refused(
                f"to reset {gpu} takes CAP_SYS_ADMIN: run `nvidia-smi --gpu-reset -i {uuid}` by hand"
            )
        program = shutil.which(self.config.nvidia_smi)
        if program is None:
            raise Refused(
                f"there is no {self.config.nvidia_smi}: install it, or mend `nvidia_smi` of {self.name}"
            )
        found = await asyncio.to_thread(self._once.begin, key)
        if found.get("state") == "done":
            return
        if found:
            raise Uncertain(
                f"a reset of {gpu} was begun for {key}, and its end was not seen; see nvidia-smi"
            )
        try:
            code, out = await run_program(
                [program, "--gpu-reset", "-i", uuid], self.config.reset_timeout
            )
        except TimeoutError:
            raise Uncertain(
                f"the reset of {gpu} took longer than {say_duration(self.config.reset_timeout)}; see nvidia-smi"
            ) from None
        said = out.rpartition("\n")[2][:300]
        if code:
            await asyncio.to_thread(self._once.forget, key)
            raise Refused(f"nvidia-smi did not reset {gpu}: {said or f'status {code}'}")
        await asyncio.to_thread(self._once.end, key, {"gpu": gpu})

    async def was_reset(self, key: str) -> bool:
        """Tell whether that was done for this key."""
        return (await asyncio.to_thread(self._once.find, key)).get("state") == "done"

    async def describe(self) -> Sequence[str]:
        """Say what privileges there are."""
        if self.config.library is None and not driver_shows():
            return ("no NVIDIA driver on this machine: there is nothing to set or to reset",)
        root = has_capability(_CAP_SYS_ADMIN)
        smi = shutil.which(self.config.nvidia_smi)
        return (
            "may set power limits" if root else "may only look: power limits and resets take CAP_SYS_ADMIN",
            f"may reset by {smi}" if smi and root else "no resets: they take CAP_SYS_ADMIN and nvidia-smi",
        )  # fmt: skip

    async def _nvml(self, asked: Mapping[str, Any], *, changes: bool = False) -> dict[str, Any]:
        environment = dict(os.environ)
        if self.config.library is not None:
            path = f"{self.config.library}:{environment.get('LD_LIBRARY_PATH', '')}"
            environment["LD_LIBRARY_PATH"] = path.rstrip(":")
        argv = [sys.executable, "-P", str(_PROGRAM)]
        line = json.dumps(asked).encode() + b"\n"
        try:
            _, out = await run_program(
                argv, self.config.timeout, send=line, env=environment, errors=False
            )
        except TimeoutError:
            text = f"NVML gave no answer within {say_duration(self.config.timeout)}: a GPU or the driver hangs"
            if changes:
                raise Uncertain(f"{text}; it may have been done") from None
            raise Unavailable(text) from None
        try:
            said = json.loads(out.rpartition("\n")[2])
        except ValueError:
            raise Unavailable("the program that asks NVML has ended; see the kernel log") from None
        if "refused" in said:
            raise Refused(f"{asked['uuid']}: {said['refused']}" + _hint(said["refused"]))
        if "failed" in said:
            raise Unavailable(f"NVML fails: {said['failed']}; see nvidia-smi and the kernel log")
        return dict(said)


def _hint(said: str) -> str:
    return "; that takes CAP_SYS_ADMIN" if "ermission" in said else ""


def _uuid(target: str, limit: str = _POWER) -> str:
    kind, _, uuid = target.partition(":")
    if kind != "gpu" or not uuid.startswith(("GPU-", "MIG-")):
        raise Refused(f"{target} is no GPU of this host: write gpu:GPU-...")
    if limit != _POWER:
        raise Refused(f"GPUs have no limit {limit}: there is {_POWER}")
    return uuid
