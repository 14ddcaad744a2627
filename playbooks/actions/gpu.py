"""Find out what a GPU needs, and reset it. NVML's own recovery action comes first, then the table of XIDs.

Source: docs.nvidia.com, deploy/xid-errors (catalogue of XIDs) and deploy/a100-gpu-mem-error-mgmt (recovery actions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

from pydantic import Field

from agent.errors import Refused
from agent.model import Entity
from agent.ports import Done, Step
from agent.registry import action
from agent.units import Model
from playbooks.actions._step import change, target

Remedy = Literal[
    "none", "watch", "restart_app", "reset", "drain_and_reset", "reboot", "service", "update_software", "look_further"
]  # fmt: skip

_RECOVERY: Final[Mapping[str, Remedy]] = {
    "reset": "reset",
    "node_reboot": "reboot",
    "drain_p2p": "service",
    "drain_and_reset": "drain_and_reset",
    "recover_imex_domain": "service",
    "bus_reset": "reboot",
    "system_reboot": "reboot",
}
_XIDS: Final[Mapping[Remedy, frozenset[int]]] = {
    "restart_app": frozenset({13, 31, 32, 69, 94}),
    "watch": frozenset({43, 44, 63, 92, 93, 121}),
    "reset": frozenset({46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158}),
    "drain_and_reset": frozenset({48, *range(144, 151), 74}),
    "reboot": frozenset({79, 151}),
    "service": frozenset({54}),
    "update_software": frozenset({78}),
    "look_further": frozenset({45, 154}),  # 45 only cleans up after another; 154: NVML says it
}
_SAID: Final[Mapping[Remedy, str]] = {
    "none": "it needs nothing",
    "watch": "record it and watch",
    "restart_app": "restart the program that used it; others may go on",
    "reset": "reset it when nobody uses it",
    "drain_and_reset": "drain the host, then reset it",
    "reboot": "drain the host and reboot it",
    "service": "take it out of service: a person must look at the hardware",
    "update_software": "update the driver or the vGPU software",
    "look_further": "look for the error before this one",
}


class Health(Protocol):
    """What NVML says of one GPU. None = this driver or GPU does not say."""

    @property
    def recovery(self) -> str | None:
        """The recovery action it asks for: none, reset, node_reboot, drain_and_reset, ..."""
        ...

    @property
    def remap_pending(self) -> bool | None:
        """Whether rows of its memory are remapped at the next reset."""
        ...

    @property
    def remap_failed(self) -> bool | None:
        """Whether it has no spare rows left."""
        ...

    @property
    def pids(self) -> tuple[int, ...]:
        """Who computes on it."""
        ...


@runtime_checkable
class GpuCare(Protocol):
    """Something that may look after GPUs; targets are entity ids, gpu:UUID."""

    async def health(self, gpu: str) -> Health:
        """Ask NVML; raises Unavailable when it hangs or fails, Refused when there is no such GPU."""
        ...

    async def reset(self, gpu: str, key: str) -> None:
        """Reset it, unless that was done for this key; Refused when it is not ours, Uncertain when unclear."""
        ...

    async def was_reset(self, key: str) -> bool:
        """Tell whether it was reset for this key."""
        ...


def _gpu(step: Step, override: str) -> Entity:
    about = target(step, override)
    if about.kind != "gpu":
        raise Refused(f"{about} is no GPU: {step.use} acts on gpu:UUID, say which with `gpu:`")
    return about


def remedy(health: Health, xid: int | None) -> tuple[Remedy, str]:
    """Return what a GPU needs, and why."""
    if health.remap_failed:
        return "service", "rows of its memory could not be remapped"
    if health.recovery not in {None, "none"}:
        asked = str(health.recovery)
        return _RECOVERY.get(asked, "service"), f"NVML asks for {asked.replace('_', ' ')}"
    if xid is not None:
        found: Remedy = next((r for r, codes in _XIDS.items() if xid in codes), "service")
        if found not in {"reset", "drain_and_reset", "reboot"} or health.recovery is None:
            return found, f"XID {xid}"
        # the driver that knows recovery actions says that it has recovered since
        return "watch", f"XID {xid}, and NVML asks for nothing any more"
    if health.remap_pending:
        return "reset", "rows of its memory wait for a reset to be remapped"
    return "none", "NVML asks for nothing, and no XID is known"


@action("diagnose_gpu")
class DiagnoseGpu:
    """Say what a GPU needs: `${steps.diagnose_gpu.remedy}`; changes nothing."""

    effect = "reading"
    ability = GpuCare
    reversible = True
    shared = False
    gives = ("remedy", "why", "recovery", "users")

    class Params(Model):
        """Which GPU, and which error was seen."""

        gpu: str = ""
        """Entity id, `gpu:UUID`; default: the target."""
        xid: Annotated[int, Field(ge=1, le=999)] | None = None
        """Default: the fact `xid` of the diagnosis."""

    def __init__(self, params: Params, ability: GpuCare) -> None:
        self._params = params
        self._care = ability

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return what NVML says."""
        health = await self._care.health(_gpu(step, self._params.gpu).id)
        return {"recovery": health.recovery or "", "remap_pending": health.remap_pending}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Never: looking is done anew each time."""
        del step, seen
        return False

    async def run(self, step: Step) -> Done:
        """Look, and say what it needs."""
        about = _gpu(step, self._params.gpu)
        if step.dry_run:
            return Done(f"would ask NVML what {about} needs")
        said = step.facts.get("xid", "")
        xid = self._params.xid or (int(said) if said.isdigit() else None)
        health = await self._care.health(about.id)
        found, why = remedy(health, xid)
        return Done(
            f"{about}: {_SAID[found]} ({why})",
            {
                "remedy": found,
                "why": why,
                "recovery": health.recovery or "",
                "users": len(health.pids),
            },
        )


@action("reset_gpu")
class ResetGpu:
    """Reset a GPU that nobody uses; what was in its memory is gone."""

    waits_s = 180.0

    effect = "mutating"
    ability = GpuCare
    reversible = False
    shared = False
    gives = ("gpu", "remedy")

    class Params(Model):
        """Which GPU."""

        gpu: str = ""
        """Entity id, `gpu:UUID`; default: the target."""

    def __init__(self, params: Params, ability: GpuCare) -> None:
        self._params = params
        self._care = ability

    async def observe(self, step: Step) -> Mapping[str, Any]:
        """Return whether this step has reset it; Refused while somebody computes on it."""
        done = await self._care.was_reset(step.key)
        if not done:
            await self._must_be_free(_gpu(step, self._params.gpu))
        return {"reset": done}

    def reached(self, step: Step, seen: Mapping[str, Any]) -> bool:
        """Tell whether it was reset by this step."""
        del step
        return bool(seen["reset"])

    async def run(self, step: Step) -> Done:
        """Reset it once, and say what it needs after that."""
        about = _gpu(step, self._params.gpu)
        if await self._care.was_reset(step.key):
            return Done(f"{about} was reset already", {"gpu": about.id})
        await self._must_be_free(about)
        if step.dry_run:
            return Done(f"would reset {about}", {"gpu": about.id})
        await self._care.reset(about.id, step.key)
        found, why = remedy(await self._care.health(about.id), None)
        return Done(
            f"{about} was reset; now {_SAID[found]} ({why})",
            {"gpu": about.id, "remedy": found},
            change=change(step, about, "restart", "running", "reset"),
        )

    async def _must_be_free(self, about: Entity) -> None:
        pids = (await self._care.health(about.id)).pids
        if pids:
            raise Refused(
                f"{about} is in use by {', '.join(map(str, pids[:5]))}: drain and end them first"
            )
