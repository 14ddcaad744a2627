"""The child that talks to NVML, so that a dying GPU hangs it and not the daemon.

Run as a program by `connectors.gpu`: it reads one line of JSON for each look ({"id": 7}) and answers with one. It
imports nothing of ours, for it must stay small (14 MB) and be started in tens of milliseconds. It ends with its input.

    {"id": 7, "driver": "550.54", "gpus": [{"uuid": ..., "index": 0, "name": ..., "bus": ..., "memory_bytes": ...,
                                             "lost": false, "values": [["gpu.power_watts", {}, 231.4], ...],
                                             "pids": [4711]}]}
    {"id": 7, "absent": "no driver here"}      there is nothing to look at: ask no more
    {"id": 7, "failed": "Unknown Error"}       NVML answers, but not this

What a GPU does not support is remembered and not asked again. Units are turned into base units here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

import pynvml as nv

Value = tuple[str, dict[str, str], float]

_ABSENT: Final = frozenset(
    {
        nv.NVML_ERROR_LIBRARY_NOT_FOUND,
        nv.NVML_ERROR_DRIVER_NOT_LOADED,
        nv.NVML_ERROR_NO_PERMISSION,
        nv.NVML_ERROR_FUNCTION_NOT_FOUND,
    }
)
_UNSUPPORTED: Final = frozenset(
    {
        nv.NVML_ERROR_NOT_SUPPORTED,
        nv.NVML_ERROR_FUNCTION_NOT_FOUND,
        nv.NVML_ERROR_NO_PERMISSION,
        nv.NVML_ERROR_INVALID_ARGUMENT,
    }
)
_LOST: Final = frozenset({nv.NVML_ERROR_GPU_IS_LOST, nv.NVML_ERROR_RESET_REQUIRED})

_REASONS: Final = {
    # nvml.h, nvmlClocksEventReasons; idle, application clocks and sync boost are no trouble
    "power_cap": 0x04,
    "hardware_slowdown": 0x08,
    "thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}


def _utilization(gpu: Any) -> list[Value]:
    return [("gpu.utilization_ratio", {}, nv.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)]


def _memory(gpu: Any) -> list[Value]:
    memory = nv.nvmlDeviceGetMemoryInfo(gpu)
    out: list[Value] = [("gpu.memory_used_bytes", {}, float(memory.used))]
    if memory.total:
        out.append(("gpu.memory_utilization_ratio", {}, memory.used / memory.total))
    return out


def _temperature(gpu: Any) -> list[Value]:
    celsius = nv.nvmlDeviceGetTemperature(gpu, nv.NVML_TEMPERATURE_GPU)
    return [("gpu.temperature_celsius", {}, float(celsius))]


def _power(gpu: Any) -> list[Value]:
    return [("gpu.power_watts", {}, nv.nvmlDeviceGetPowerUsage(gpu) / 1000)]


def _power_limit(gpu: Any) -> list[Value]:
    return [("gpu.power_limit_watts", {}, nv.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000)]


def _clock(gpu: Any) -> list[Value]:
    mhz = nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_SM)
    return [("gpu.clock_hertz", {}, mhz * 1e6)]


def _clock_share(gpu: Any) -> list[Value]:
    mhz = nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_SM)
    most = nv.nvmlDeviceGetMaxClockInfo(gpu, nv.NVML_CLOCK_SM)
    return [("gpu.clock_ratio", {}, mhz / most)] if most else []


def _throttled(gpu: Any) -> list[Value]:
    try:
        bits = nv.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    except nv.NVMLError as error:
        if error.value != nv.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        bits = nv.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)  # drivers before 535
    return [("gpu.throttled", {"reason": r}, float(bool(bits & b))) for r, b in _REASONS.items()]


def _ecc(gpu: Any) -> list[Value]:
    out: list[Value] = []
    for name, kind in (
        ("corrected", nv.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ("uncorrected", nv.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    ):
        errors = nv.nvmlDeviceGetTotalEccErrors(gpu, kind, nv.NVML_VOLATILE_ECC)
        out.append(("gpu.ecc_errors_total", {"type": name}, float(errors)))
    return out


def _remapped(gpu: Any) -> list[Value]:
    _, _, pending, failed = nv.nvmlDeviceGetRemappedRows(gpu)
    return [
        ("gpu.remap_pending", {}, float(bool(pending))),
        ("gpu.remap_failed", {}, float(bool(failed))),
    ]


def _link(gpu: Any) -> list[Value]:
    width, most = nv.nvmlDeviceGetCurrPcieLinkWidth(gpu), nv.nvmlDeviceGetMaxPcieLinkWidth(gpu)
    return [("gpu.pcie_link_ratio", {}, width / most)] if most else []


def _fan(gpu: Any) -> list[Value]:
    return [("gpu.fan_ratio", {}, nv.nvmlDeviceGetFanSpeed(gpu) / 100)]


_LOOKS: Final[tuple[Callable[[Any], list[Value]], ...]] = (
    _utilization, _memory, _temperature, _power, _power_limit, _clock, _clock_share, _throttled, _ecc, _remapped,
    _link, _fan,
)  # fmt: skip


class Eye:
    """Looks at every GPU; knows what each of them does not support."""

    def __init__(self) -> None:
        self._begun = False
        self._driver = ""
        self._gpus: dict[int, dict[str, Any]] = {}
        self._unsupported: set[tuple[str, str]] = set()

    def look(self) -> dict[str, Any]:
        """Return an answer, without its id."""
        try:
            if not self._begun:
                nv.nvmlInit()
                self._begun = True
                self._driver = str(nv.nvmlSystemGetDriverVersion())
            count = nv.nvmlDeviceGetCount()
        except nv.NVMLError as error:
            kind = "absent" if error.value in _ABSENT and not self._begun else "failed"
            return {kind: str(error)}
        gpus = [self._one(i) for i in range(count)]
        return {"driver": self._driver, "gpus": [gpu for gpu in gpus if gpu is not None]}

    def _one(self, index: int) -> dict[str, Any] | None:
        """Return what one GPU says; None when it is not even known who it is."""
        try:
            gpu = nv.nvmlDeviceGetHandleByIndex(index)
            uuid = str(nv.nvmlDeviceGetUUID(gpu))
        except nv.NVMLError:
            known = self._gpus.get(index)
            return None if known is None else {**known, "lost": True, "values": []}
        facts = self._gpus.get(index)
        if facts is None or facts["uuid"] != uuid:
            facts = self._gpus[index] = {"uuid": uuid, "index": index, **self._facts(gpu)}
        values: list[Value] = []
        for ask in _LOOKS:
            what = (uuid, ask.__name__)
            if what in self._unsupported:
                continue
            try:
                values += ask(gpu)
            except nv.NVMLLibraryMismatchError:
                self._unsupported.add(what)
            except nv.NVMLError as error:
                if error.value in _LOST:
                    return {**facts, "lost": True, "values": []}
                if error.value in _UNSUPPORTED:
                    self._unsupported.add(what)
        return {**facts, "lost": False, "values": values, "pids": self._pids(gpu, uuid)}

    def _pids(self, gpu: Any, uuid: str) -> list[int]:
        """Return the programs that compute on a GPU; nobody when it does not say."""
        what = (uuid, "pids")
        if what in self._unsupported:
            return []
        try:
            return sorted({int(p.pid) for p in nv.nvmlDeviceGetComputeRunningProcesses(gpu)})
        except nv.NVMLLibraryMismatchError:
            self._unsupported.add(what)
        except nv.NVMLError as error:
            if error.value in _UNSUPPORTED:
                self._unsupported.add(what)
        return []

    @staticmethod
    def _facts(gpu: Any) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        asks: dict[str, Callable[[], Any]] = {
            "name": lambda: str(nv.nvmlDeviceGetName(gpu)),
            "bus": lambda: nv.nvmlDeviceGetPciInfo(gpu).busId,
            "memory_bytes": lambda: int(nv.nvmlDeviceGetMemoryInfo(gpu).total),
        }
        for name, ask in asks.items():
            try:
                value = ask()
            except (nv.NVMLError, nv.NVMLLibraryMismatchError):
                continue
            facts[name] = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        return facts


def main() -> None:
    """Answer until the input ends."""
    eye = Eye()
    for line in sys.stdin:
        answer = {"id": json.loads(line)["id"], **eye.look()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
