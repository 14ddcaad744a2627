"""The child that talks to NVML, so that a dying GPU hangs it and not the daemon.

Run as a program by `connectors.gpu`: it reads one line of JSON for each look ({"id": 7}) and answers with one. It
imports nothing of ours, for it must stay small (14 MB) and be started in tens of milliseconds. It ends with its input.

    {"id": 7, "driver": "550.54", "gpus": [{"uuid": ..., "index": 0, "name": ..., "bus": ..., "memory_bytes": ...,
                                             "lost": false, "values": [["gpu.power_watts", {}, 231.4], ...],
                                             "pids": [[4711, 8589934592]]},
                                            {"uuid": "MIG-...", "of": uuid of its GPU, "values": ..., "pids": ...}]}
    {"id": 7, "absent": "no driver here"}      there is nothing to look at: ask no more
    {"id": 7, "failed": "Unknown Error", "mismatched": false}       NVML answers, but not this

What a GPU does not support is remembered and not asked again. Units are turned into base units here.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
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

_XID_S: Final = 600.0
"""An XID is told once; for so long it is a state that conditions can see."""
_MOST_XIDS: Final = 64
"""At one look: a GPU that dies may tell of thousands."""

_REASONS: Final = {
    # nvml.h, nvmlClocksEventReasons; idle, application clocks and sync boost are no trouble
    "power_cap": 0x04,
    "hardware_slowdown": 0x08,
    "thermal": 0x20,
    "hardware_thermal": 0x40,
    "power_brake": 0x80,
}


_ACTIONS: Final = {
    # nvml.h, nvmlDeviceGpuRecoveryAction_t
    "reset": {nv.NVML_GPU_RECOVERY_ACTION_GPU_RESET, 6},  # 6: of its bus
    "reboot": {nv.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT, 7},  # 7: of the system
    "drain": {nv.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P},
    "drain_and_reset": {nv.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET},
}


def _utilization(gpu: Any) -> list[Value]:
    rates = nv.nvmlDeviceGetUtilizationRates(gpu)
    return [
        ("gpu.utilization_ratio", {}, rates.gpu / 100),
        ("gpu.memory_busy_ratio", {}, rates.memory / 100),
    ]


def _memory(gpu: Any) -> list[Value]:
    memory = nv.nvmlDeviceGetMemoryInfo(gpu)
    out: list[Value] = [("gpu.memory_used_bytes", {}, float(memory.used))]
    if memory.total:
        out.append(("gpu.memory_utilization_ratio", {}, memory.used / memory.total))
    return out


def _temperature(gpu: Any) -> list[Value]:
    celsius = nv.nvmlDeviceGetTemperature(gpu, nv.NVML_TEMPERATURE_GPU)
    return [("gpu.temperature_celsius", {}, float(celsius))]


def _margin(gpu: Any) -> list[Value]:
    try:
        left = nv.nvmlDeviceGetMarginTemperature(gpu)
    except nv.NVMLError as error:
        if error.value not in _UNSUPPORTED:
            raise
        most = nv.nvmlDeviceGetTemperatureThreshold(gpu, nv.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        left = most - nv.nvmlDeviceGetTemperature(gpu, nv.NVML_TEMPERATURE_GPU)
    return [("gpu.temperature_margin_celsius", {}, float(left))]


def _power(gpu: Any) -> list[Value]:
    return [("gpu.power_watts", {}, nv.nvmlDeviceGetPowerUsage(gpu) / 1000)]


def _power_limit(gpu: Any) -> list[Value]:
    return [("gpu.power_limit_watts", {}, nv.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000)]


def _clock(gpu: Any) -> list[Value]:
    mhz = nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_SM)
    out: list[Value] = [("gpu.clock_hertz", {}, mhz * 1e6)]
    try:
        most = nv.nvmlDeviceGetMaxClockInfo(gpu, nv.NVML_CLOCK_SM)
    except nv.NVMLError as error:
        if error.value not in _UNSUPPORTED:
            raise
        return out
    return [*out, ("gpu.clock_ratio", {}, mhz / most)] if most else out


def _memory_clock(gpu: Any) -> list[Value]:
    mhz = nv.nvmlDeviceGetClockInfo(gpu, nv.NVML_CLOCK_MEM)
    return [("gpu.memory_clock_hertz", {}, mhz * 1e6)]


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
    return [*out, ("gpu.uncorrected_errors_count", {}, float(errors))]


def _remapped(gpu: Any) -> list[Value]:
    corrected, uncorrected, pending, failed = nv.nvmlDeviceGetRemappedRows(gpu)
    return [
        ("gpu.remap_pending", {}, float(bool(pending))),
        ("gpu.remap_failed", {}, float(bool(failed))),
        ("gpu.remapped_rows_count", {"type": "corrected"}, float(corrected)),
        ("gpu.remapped_rows_count", {"type": "uncorrected"}, float(uncorrected)),
    ]


def _link(gpu: Any) -> list[Value]:
    width, most = nv.nvmlDeviceGetCurrPcieLinkWidth(gpu), nv.nvmlDeviceGetMaxPcieLinkWidth(gpu)
    return [("gpu.pcie_link_ratio", {}, width / most)] if most else []


def _generation(gpu: Any) -> list[Value]:
    now = nv.nvmlDeviceGetCurrPcieLinkGeneration(gpu)
    most = nv.nvmlDeviceGetMaxPcieLinkGeneration(gpu)
    return [("gpu.pcie_generation_ratio", {}, now / most)] if most else []


def _nvlinks(gpu: Any) -> list[Value]:
    up = 0
    for link in range(nv.NVML_NVLINK_MAX_LINKS):
        try:
            up += nv.nvmlDeviceGetNvLinkState(gpu, link) == nv.NVML_FEATURE_ENABLED
        except nv.NVMLError as error:
            if link == 0 or error.value not in _UNSUPPORTED:
                raise
            break  # it has no more
    return [("gpu.nvlinks_count", {}, float(up))]


def _fan(gpu: Any) -> list[Value]:
    return [("gpu.fan_ratio", {}, nv.nvmlDeviceGetFanSpeed(gpu) / 100)]


def _recovery(action: float) -> list[Value]:
    asked = [("gpu.recovery_asked", {"action": a}, float(action in n)) for a, n in _ACTIONS.items()]
    return [("gpu.recovery_needed", {}, float(action != 0)), *asked]


def _as(metric: str, **labels: str) -> Callable[[float], list[Value]]:
    return lambda value: [(metric, labels, value)]


_FIELDS: Final[dict[int, Callable[[float], list[Value]]]] = {
    nv.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: _recovery,
    nv.NVML_FI_DEV_MEMORY_TEMP: _as("gpu.memory_temperature_celsius"),
    nv.NVML_FI_DEV_PCIE_REPLAY_COUNTER: _as("gpu.pcie_replays_total"),
    nv.NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: _as("gpu.nvlink_errors_total", type="crc"),
    nv.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL: _as("gpu.nvlink_errors_total", type="replay"),
    nv.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL: _as(
        "gpu.nvlink_errors_total", type="recovery"
    ),
    # GPUs before Ampere retire pages; those since remap rows
    nv.NVML_FI_DEV_RETIRED_SBE: _as("gpu.retired_pages_count", type="corrected"),
    nv.NVML_FI_DEV_RETIRED_DBE: _as("gpu.retired_pages_count", type="uncorrected"),
    nv.NVML_FI_DEV_RETIRED_PENDING: _as("gpu.remap_pending"),
}
"""What is asked for all at once."""
_TYPES: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
"""nvml.h, nvmlValueType_t, in its order."""

_LOOKS: Final[tuple[Callable[[Any], list[Value]], ...]] = (
    _utilization, _memory, _temperature, _margin, _power, _power_limit, _clock, _memory_clock, _throttled,
    _ecc, _remapped, _link, _generation, _nvlinks, _fan,
)  # fmt: skip


_FACTS: Final = frozenset({"name", "bus", "memory_bytes"})


class Eye:
    """Looks at every GPU; knows what each of them does not support."""

    def __init__(self) -> None:
        self._begun = False
        self._driver = ""
        self._gpus: dict[int, dict[str, Any]] = {}
        self._unsupported: set[tuple[str, str]] = set()
        self._split: dict[str, bool] = {}
        self._events: Any = None
        self._uuids: dict[int | None, str] = {}
        self._xids: dict[tuple[str, int], float] = {}

    def look(self) -> dict[str, Any]:
        """Return an answer, without its id."""
        try:
            if not self._begun:
                nv.nvmlInit()
                self._begun = True
                self._driver = str(nv.nvmlSystemGetDriverVersion())
            count = nv.nvmlDeviceGetCount()
        except nv.NVMLError as error:
            if error.value in _ABSENT and not self._begun:
                return {"absent": str(error)}
            mismatched = error.value == nv.NVML_ERROR_LIB_RM_VERSION_MISMATCH
            return {"failed": str(error), "mismatched": mismatched}
        self._hear(count)
        gpus = [gpu for i in range(count) for gpu in self._one(i)]
        return {"driver": self._driver, "gpus": gpus}

    def _hear(self, count: int) -> None:
        """Take what the driver has told of XIDs since the last look."""
        if self._events is None:
            self._events = ()
            try:
                self._events = nv.nvmlEventSetCreate()
            except nv.NVMLError:
                return
            for i in range(count):
                try:
                    gpu = nv.nvmlDeviceGetHandleByIndex(i)
                    nv.nvmlDeviceRegisterEvents(gpu, nv.nvmlEventTypeXidCriticalError, self._events)
                    # a GPU that is lost no longer says who it is
                    self._uuids[_address(gpu)] = str(nv.nvmlDeviceGetUUID(gpu))
                except nv.NVMLError:
                    continue
        for _ in range(_MOST_XIDS if self._uuids else 0):
            try:
                told = nv.nvmlEventSetWait_v2(self._events, 0)
            except nv.NVMLError:
                return  # nothing more
            uuid = self._uuids.get(_address(told.device))
            if uuid is not None:
                self._xids[uuid, int(told.eventData)] = time.monotonic()

    def _told(self, uuid: str) -> list[Value]:
        now = time.monotonic()
        return [
            ("gpu.xid_seen", {"xid": str(xid)}, float(now - at < _XID_S))
            for (of, xid), at in self._xids.items()
            if of == uuid
        ]

    def _one(self, index: int) -> list[dict[str, Any]]:
        """Return what one GPU says, and its instances; nothing when it is not even known who it is."""
        try:
            gpu = nv.nvmlDeviceGetHandleByIndex(index)
            uuid = str(nv.nvmlDeviceGetUUID(gpu))
        except nv.NVMLError:
            known = self._gpus.get(index)
            if known is None:
                return []
            return [{**known, "lost": True, "values": self._told(known["uuid"])}]
        facts = self._gpus.get(index)
        if facts is None or facts["uuid"] != uuid:
            facts = self._gpus[index] = {"uuid": uuid, "index": index, **self._facts(gpu)}
        split = self._is_split(gpu, uuid)
        values = self._values(gpu, uuid)
        if values is None:
            return [{**facts, "lost": True, "values": self._told(uuid)}]
        values += self._told(uuid)
        parts = self._parts(gpu, uuid) if split else []
        if split is not None:
            values.append(("gpu.mig_enabled", {}, float(split)))
            values.append(("gpu.mig_instances_count", {}, float(len(parts))))
        return [
            {**facts, "lost": False, "values": values, "pids": self._users(gpu, uuid, values)},
            *parts,
        ]

    def _users(self, gpu: Any, uuid: str, values: list[Value]) -> list[list[int]]:
        """Return who computes on a GPU or an instance, and add how many."""
        pids = self._pids(gpu, uuid)
        if pids is not None:
            values.append(("gpu.processes_count", {}, float(len(pids))))
        return pids or []

    # ---- instances (MIG)

    def _is_split(self, gpu: Any, uuid: str) -> bool | None:
        """Tell whether a GPU is split into instances; None when it can not be."""
        what = (uuid, "mig")
        if what in self._unsupported:
            return None
        try:
            split = bool(nv.nvmlDeviceGetMigMode(gpu)[0] == nv.NVML_DEVICE_MIG_ENABLE)
        except nv.NVMLError as error:
            if error.value in _UNSUPPORTED:
                self._unsupported.add(what)
            return None
        if self._split.get(uuid, split) != split:
            # a GPU that is split supports other things: all is asked anew
            self._unsupported = {known for known in self._unsupported if known[0] != uuid}
        self._split[uuid] = split
        return split

    def _parts(self, gpu: Any, uuid: str) -> list[dict[str, Any]]:
        """Return the instances of a GPU; their numbers have gaps."""
        out = []
        try:
            most = nv.nvmlDeviceGetMaxMigDeviceCount(gpu)
        except nv.NVMLError:
            return []
        for i in range(most):
            try:
                part = nv.nvmlDeviceGetMigDeviceHandleByIndex(gpu, i)
                own = str(nv.nvmlDeviceGetUUID(part))
            except nv.NVMLError:
                continue
            values: list[Value] = []
            try:
                values += _memory(part)
            except nv.NVMLError:  # it is just being taken down
                continue
            facts = self._facts(part, {"name", "memory_bytes", "multiprocessors"})
            pids = self._users(part, own, values)
            known = {"uuid": own, "of": uuid, "index": i, **facts, "lost": False}
            out.append({**known, "values": values, "pids": pids})
        return out

    def _values(self, gpu: Any, uuid: str) -> list[Value] | None:
        """Return what is measured; None when it is lost."""
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
                    return None
                if error.value in _UNSUPPORTED:
                    self._unsupported.add(what)
        return values + self._fields(gpu, uuid)

    def _fields(self, gpu: Any, uuid: str) -> list[Value]:
        """Return what is asked by number, in one call; each is remembered by itself when it is not supported."""
        wanted = [f for f in _FIELDS if (uuid, f"field {f}") not in self._unsupported]
        if not wanted:
            return []
        try:
            found = nv.nvmlDeviceGetFieldValues(gpu, wanted)
        except nv.NVMLError as error:
            if error.value in _UNSUPPORTED:
                self._unsupported.update((uuid, f"field {f}") for f in wanted)
            return []
        out: list[Value] = []
        for number, field in zip(wanted, found, strict=True):
            if field.nvmlReturn in _UNSUPPORTED or field.valueType >= len(_TYPES):
                self._unsupported.add((uuid, f"field {number}"))
            elif field.nvmlReturn == nv.NVML_SUCCESS:
                out += _FIELDS[number](float(getattr(field.value, _TYPES[field.valueType])))
        if (uuid, "_remapped") not in self._unsupported:  # then rows are what waits, not pages
            out = [value for value in out if value[0] != "gpu.remap_pending"]
        return out

    def _pids(self, gpu: Any, uuid: str) -> list[list[int]] | None:
        """Return the programs that compute on a GPU with the memory that each holds; None when it does not say."""
        what = (uuid, "pids")
        if what in self._unsupported:
            return None
        try:
            held: dict[int, int] = {}
            for one in nv.nvmlDeviceGetComputeRunningProcesses(gpu):
                held[int(one.pid)] = held.get(int(one.pid), 0) + int(one.usedGpuMemory or 0)
            return [[pid, held[pid]] for pid in sorted(held)]
        except nv.NVMLLibraryMismatchError:
            self._unsupported.add(what)
        except nv.NVMLError as error:
            if error.value in _UNSUPPORTED:
                self._unsupported.add(what)
        return None

    @staticmethod
    def _facts(gpu: Any, wanted: set[str] | None = None) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        asks: dict[str, Callable[[], Any]] = {
            "name": lambda: str(nv.nvmlDeviceGetName(gpu)),
            "bus": lambda: nv.nvmlDeviceGetPciInfo(gpu).busId,
            "memory_bytes": lambda: int(nv.nvmlDeviceGetMemoryInfo(gpu).total),
            "multiprocessors": lambda: int(nv.nvmlDeviceGetAttributes(gpu).multiprocessorCount),
        }
        for name, ask in asks.items():
            if name not in (wanted or _FACTS):
                continue
            try:
                value = ask()
            except (nv.NVMLError, nv.NVMLLibraryMismatchError):
                continue
            facts[name] = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        return facts


def _address(gpu: Any) -> int | None:
    return ctypes.cast(gpu, ctypes.c_void_p).value


def main() -> None:
    """Answer until the input ends."""
    eye = Eye()
    for line in sys.stdin:
        answer = {"id": json.loads(line)["id"], **eye.look()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
