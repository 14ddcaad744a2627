"""What a disk says of its own health: the JSON that `smartctl --json` prints, and files of the kernel.

Names of the JSON: smartctl 7; what its numbers mean: NVM Express Base Specification (SMART / Health Information), ACS-4
and the vendors' usual numbers of ATA attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from connectors._kernel import Column, column

_FAILING_BIT: Final = 1 << 3
"""Of smartctl's exit status: the disk says that it fails."""
_UNREAD_BITS: Final = 0b11
"""The command line was not understood; the device could not be opened, or sleeps."""
_WARNINGS: Final = (
    "little spare is left", "too hot or too cold", "reliability is degraded", "it takes no more writes",
    "its backup of volatile memory failed", "its persistent memory is read-only",
)  # fmt: skip
"""Bits of NVMe's critical warning. The second passes, and is told by the temperature."""
_HEAT_BIT: Final = 1 << 1
_SECTORS: Final = {5: "reallocated", 197: "pending", 198: "uncorrectable"}
_ERRORS: Final = {187: "media", 199: "link"}
_LIFE: Final = frozenset({
    "Wear_Leveling_Count", "Media_Wearout_Indicator", "Percent_Lifetime_Remain", "SSD_Life_Left",
})  # fmt: skip
"""ATA attributes whose normalised value begins at 100 and is at 0 when the rated writes are used up."""


@dataclass(frozen=True, slots=True)
class Health:
    """values: columns without the device; why: what it says of failing, "" = nothing; asleep: it was not woken."""

    values: tuple[tuple[str, tuple[tuple[str, str], ...], float], ...] = ()
    why: str = ""
    asleep: bool = False

    def columns(self, device: str) -> Iterator[tuple[Column, float]]:
        """Yield what a frame shows of it."""
        yield column("host.disk_failing", device=device), float(bool(self.why))
        for metric, labels, value in self.values:
            yield column(metric, device=device, **dict(labels)), value


def device_of(said: Mapping[str, Any]) -> str:
    """Return what the kernel calls the disk of a report: sda, nvme0n1; "" = it does not say."""
    name = str((said.get("device") or {}).get("name", "")).removeprefix("/dev/")
    # the name of a controller: what counts reads and writes is its first name space
    return f"{name}n1" if re.fullmatch(r"nvme\d+", name) else name


def health(said: Mapping[str, Any]) -> Health | None:
    """Read a report; None = it tells nothing, and why stands in its messages."""
    status = int((said.get("smartctl") or {}).get("exit_status", 0))
    if status & _UNREAD_BITS:
        words = problem(said).lower()
        return Health(asleep=True) if "standby" in words or "sleep" in words else None
    found: list[tuple[str, tuple[tuple[str, str], ...], float]] = []
    why = []
    passed = (said.get("smart_status") or {}).get("passed")
    if passed is False or status & _FAILING_BIT:
        why.append("its own test of its health is failed")
    for part in (_nvme, _ata, _scsi):
        values, failing = part(said)
        found += values
        why += failing
    for metric, where in (
        ("host.disk_temperature_celsius", ("temperature", "current")),
        ("host.disk_wear_ratio", ("endurance_used", "current_percent")),
    ):
        value = (said.get(where[0]) or {}).get(where[1])
        if isinstance(value, int | float) and not any(m == metric for m, _, _ in found):
            found.append((metric, (), value / 100 if metric.endswith("_ratio") else float(value)))
    if passed is None and not found and not why:
        return None
    return Health(tuple(found), "; ".join(why))


def problem(said: Mapping[str, Any]) -> str:
    """Return what smartctl complains of."""
    messages = (said.get("smartctl") or {}).get("messages") or ()
    return "; ".join(str(m.get("string", "")) for m in messages)[:300]


_Part = tuple[list[tuple[str, tuple[tuple[str, str], ...], float]], list[str]]


def _nvme(said: Mapping[str, Any]) -> _Part:
    log = said.get("nvme_smart_health_information_log") or {}
    values: _Part = ([], [])
    for key, metric, labels, scale in (
        ("percentage_used", "host.disk_wear_ratio", (), 0.01),
        ("available_spare", "host.disk_spare_ratio", (), 0.01),
        ("media_errors", "host.disk_errors_total", (("type", "media"),), 1.0),
    ):
        if isinstance(log.get(key), int | float):
            values[0].append((metric, labels, log[key] * scale))
    warning = int(log.get("critical_warning") or 0) & ~_HEAT_BIT
    values[1].extend(words for bit, words in enumerate(_WARNINGS) if warning >> bit & 1)
    return values


def _ata(said: Mapping[str, Any]) -> _Part:
    values: _Part = ([], [])
    for one in (said.get("ata_smart_attributes") or {}).get("table") or ():
        number, name = int(one.get("id", 0)), str(one.get("name", ""))
        raw = (one.get("raw") or {}).get("value")
        if one.get("when_failed") == "now":
            values[1].append(f"{name} is below its limit")
        if name in _LIFE and isinstance(one.get("value"), int):
            values[0].append(("host.disk_wear_ratio", (), max(0.0, 1 - one["value"] / 100)))
        if not isinstance(raw, int | float):
            continue
        if number in _SECTORS:
            values[0].append(("host.disk_bad_sectors_count", (("type", _SECTORS[number]),), float(raw)))  # fmt: skip
        if number in _ERRORS:
            values[0].append(("host.disk_errors_total", (("type", _ERRORS[number]),), float(raw)))
    return values


def _scsi(said: Mapping[str, Any]) -> _Part:
    values: _Part = ([], [])
    if isinstance(grown := said.get("scsi_grown_defect_list"), int):
        values[0].append(("host.disk_bad_sectors_count", (("type", "reallocated"),), float(grown)))
    counts = [
        int(of["total_uncorrected_errors"])
        for of in (said.get("scsi_error_counter_log") or {}).values()
        if isinstance(of, Mapping) and str(of.get("total_uncorrected_errors", "")).isdigit()
    ]
    if counts:
        values[0].append(("host.disk_errors_total", (("type", "media"),), float(sum(counts))))
    return values


# ---- what the kernel tells without privileges

_HARDWARE: Final = re.compile(r"sd[a-z]+|hd[a-z]+|nvme\d+n\d+|mmcblk\d+")
_SENSORS: Final = (
    "hwmon*/temp1_input",
    "hwmon/hwmon*/temp1_input",
    "device/hwmon/hwmon*/temp1_input",
)
"""In the folder of the device; of NVMe that of its controller, or one further up before Linux 5.11."""
_DEAD: Final = frozenset({"dead", "offline", "transport-offline"})


def disks(sysfs: Path) -> dict[str, Path]:
    """Return the disks that are hardware -> their folder; no partitions, arrays, loops or disks of a hypervisor."""
    return {
        folder.name: folder
        for folder in sorted((sysfs / "block").glob("*"))
        if _HARDWARE.fullmatch(folder.name) and (folder / "device").exists()
    }


def seen_by_kernel(folder: Path) -> Health:
    """Return temperature, state, errors and wear of a disk, as far as /sys has them."""
    device = folder / "device"
    values: list[tuple[str, tuple[tuple[str, str], ...], float]] = []
    heat = [v for glob in _SENSORS for f in device.glob(glob) if (v := _number(f)) is not None]
    if heat:
        values.append(("host.disk_temperature_celsius", (), heat[0] / 1000))
    for file, kind in (("ioerr_cnt", "io"), ("iotmo_cnt", "timeout")):
        if (value := _number(device / file)) is not None:
            values.append(("host.disk_errors_total", (("type", kind),), value))
    used = [int(word, 16) for word in _text(device / "life_time").split() if _hex(word)]
    if used:  # of eMMC: tenths of its rated writes, begun ones counted; 0 = it does not say
        worst = max(used)
        if worst:
            values.append(("host.disk_wear_ratio", (), worst / 10))
    state = _text(device / "state")
    why = f"the kernel calls it {state}" if state in _DEAD else ""
    return Health(tuple(values), why)


def _text(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace").strip()
    except OSError:
        return ""


def _hex(word: str) -> bool:
    return re.fullmatch(r"0x[0-9a-fA-F]+", word) is not None


def _number(file: Path) -> float | None:
    text = _text(file)
    if _hex(text):
        return float(int(text, 16))
    return float(text) if re.fullmatch(r"-?\d+", text) else None
