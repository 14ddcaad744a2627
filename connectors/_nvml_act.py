"""One act on one GPU through NVML, in a process that can be killed when the driver hangs.

Run as a program by `connectors.gpu_control`: one line of JSON in, one out. Imports nothing of ours.

    {"do": "health", "uuid": "GPU-..."}  ->  {"recovery": 1, "remap_pending": true, "remap_failed": false, "pids": []}
    {"do": "power", "uuid": "GPU-..."}   ->  {"watts": 700.0, "least": 200.0, "most": 700.0}
    {"do": "set_power", "uuid": "GPU-...", "watts": 500.0, "expect": 700.0}  ->  {"watts": 500.0, ...}

    {"refused": "..."}  a person must do something       {"failed": "..."}  not now
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, Final

import pynvml as nv

_REFUSED: Final = frozenset({
    nv.NVML_ERROR_NO_PERMISSION, nv.NVML_ERROR_NOT_SUPPORTED, nv.NVML_ERROR_INVALID_ARGUMENT, nv.NVML_ERROR_NOT_FOUND,
    nv.NVML_ERROR_LIBRARY_NOT_FOUND, nv.NVML_ERROR_DRIVER_NOT_LOADED, nv.NVML_ERROR_FUNCTION_NOT_FOUND,
})  # fmt: skip


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (nv.NVMLError, nv.NVMLLibraryMismatchError):
        return None


def _recovery(gpu: Any) -> int | None:
    (field,) = nv.nvmlDeviceGetFieldValues(gpu, [nv.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
    return int(field.value.uiVal) if field.nvmlReturn == nv.NVML_SUCCESS else None


def _health(gpu: Any) -> dict[str, Any]:
    rows = _or_none(lambda: nv.nvmlDeviceGetRemappedRows(gpu))
    processes = nv.nvmlDeviceGetComputeRunningProcesses(gpu)
    return {
        "recovery": _or_none(lambda: _recovery(gpu)),
        "remap_pending": None if rows is None else bool(rows[2]),
        "remap_failed": None if rows is None else bool(rows[3]),
        "pids": sorted({int(p.pid) for p in processes}),
    }


def _power(gpu: Any) -> dict[str, float]:
    least, most = nv.nvmlDeviceGetPowerManagementLimitConstraints(gpu)
    now = nv.nvmlDeviceGetPowerManagementLimit(gpu)
    return {"watts": now / 1000, "least": least / 1000, "most": most / 1000}


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    nv.nvmlInit()
    gpu = nv.nvmlDeviceGetHandleByUUID(asked["uuid"])
    if asked["do"] == "health":
        return _health(gpu)
    found: dict[str, Any] = _power(gpu)
    if asked["do"] == "set_power":
        if found["watts"] != asked["expect"]:
            return {
                "refused": f"its power limit is {found['watts']:g} W, not {asked['expect']:g}: changed by others"
            }
        nv.nvmlDeviceSetPowerManagementLimit(gpu, round(asked["watts"] * 1000))
        found = _power(gpu)
    return found


def main() -> None:
    """Answer once."""
    try:
        said = _answer(json.loads(sys.stdin.readline()))
    except nv.NVMLError as error:
        said = {"refused" if error.value in _REFUSED else "failed": str(error)}
    except nv.NVMLLibraryMismatchError as error:
        said = {"refused": str(error)}
    sys.stdout.write("\n" + json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
