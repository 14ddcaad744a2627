"""A host that waits, writes to a disk and runs a unit of systemd, whatever the machine of the tests is like.

Its /proc is the real one through links, but for pressure and disks; its control groups are files. `beat` moves them on.
"""

from __future__ import annotations

import os
from pathlib import Path

_PRESSURE = (
    "some avg10=0.00 avg60=0.00 avg300=0.00 total={some:018d}\n"
    "full avg10=0.00 avg60=0.00 avg300=0.00 total={full:018d}\n"
)
_DISK = " 259 0 nvme0n1 {n:018d} 0 {sectors:018d} {ms:018d} {n:018d} 0 {sectors:018d} {ms:018d} 0 {ms:018d} {ms:018d} 0 0 0 0 {n:018d} {ms:018d}\n"  # noqa: E501  # as the kernel writes it


class HostSide:
    """`procfs` and `cgroups` are what sources are told to read. All numbers grow, so that every rate is above 0."""

    def __init__(self, folder: Path) -> None:
        self.procfs, self.cgroups = folder / "proc", folder / "cgroup"
        self._beats = 0
        (self.procfs / "pressure").mkdir(parents=True)
        for name in (path.name for path in Path("/proc").iterdir()):
            if not name.isdigit() and name not in {"pressure", "diskstats"}:
                (self.procfs / name).symlink_to(Path("/proc") / name)
        unit = self.cgroups / "system.slice" / "shop.service"
        unit.mkdir(parents=True)
        (self.cgroups / "cgroup.controllers").write_text("cpu memory pids\n")
        (unit / "memory.current").write_text(f"{200 << 20}\n")
        (unit / "memory.stat").write_text("inactive_file 0\n")
        self._unit = unit
        self.beat(0.0)

    def beat(self, seconds: float) -> None:
        """Let time go on: of a second a third was waited for the disk, and a fifth was the CPU of the unit."""
        self._beats += round(seconds * 1000)
        ms = self._beats
        for resource in ("cpu", "memory", "io"):
            share = 333 if resource == "io" else 10
            said = _PRESSURE.format(some=ms * share, full=ms * share // 2)
            _over(self.procfs / "pressure" / resource, said)
        _over(self.procfs / "diskstats", _DISK.format(n=ms // 10, sectors=ms, ms=ms // 2))
        _over(self._unit / "cpu.stat", f"usage_usec {ms * 200:018d}\n")


def _over(path: Path, text: str) -> None:
    """Write over a file of the same length: who holds it open never sees half of it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, text.encode("ascii"), 0)
    finally:
        os.close(fd)
