"""What the kernel says in its log, as events: who was killed, which disk fails, which GPU has fallen off the bus.

    6,1234,98765432,-;eth0: Link is Down        level + 8 x facility, number, microseconds since boot, flags; text
     SUBSYSTEM=net                              what a driver adds: passed over

The form is that of /dev/kmsg (Documentation/ABI/testing/dev-kmsg of the kernel). Records of programs, which may be
written by anybody who may write there, are passed over by their facility. What is not understood is no event.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

_MOST_TEXT: Final = 1000
_MOST_NAME: Final = 200
_MOST_PENDING: Final = 16
_UNFINISHED: Final = 1 << 16
"""What has no end after so many bytes is no record."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message of the kernel; level 0 (emergency) to 7 (debug)."""

    level: int
    number: int
    since_boot_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """What a message means. kind: a key of `KINDS`; labels: sorted, who or what it is about."""

    kind: str
    labels: tuple[tuple[str, str], ...]
    text: str


KINDS: Final[dict[str, str]] = {
    "oom_kill": "a process was killed for want of memory",
    "io_error": "a disk does not read or write",
    "file_system_error": "a file system is damaged",
    "read_only": "a file system was made read-only after an error",
    "raid_degraded": "a disk was thrown out of a RAID",
    "server_silent": "a file server does not answer",
    "link_down": "a network interface lost its link",
    "transmit_timeout": "a network interface sends nothing",
    "conntrack_full": "the firewall dropped packets, for it can track no more connections",
    "hung_task": "a task waits in the kernel for minutes",
    "lockup": "a CPU is stuck in the kernel",
    "kernel_bug": "the kernel hit a bug of its own",
    "memory_error": "memory failed and could not be corrected",
    "memory_corrected": "memory failed and was corrected",
    "machine_check": "the CPU reports an error of the hardware",
    "cpu_hot": "heat holds a CPU back",
    "segfault": "a program crashed",
    "xid": "the driver of a GPU reports an error",
    "nvswitch_error": "an NVSwitch reports an error",
}
"""Every kind of event, in words."""

_FS: Final = r"(?:EXT[234]-fs|BTRFS|F2FS-fs|FAT-fs|bcachefs)"
_RULES: Final[tuple[tuple[str, str, str], ...]] = (
    # kind, a plain word that must be there (it is cheap to look for), pattern with its labels as named groups
    ("oom_kill", "Killed process ", r"Killed process (?P<pid_>\d+)(?:, UID \d+,)? \((?P<program>.+?)(?:\),? total-vm|\)?,?$)"),
    ("io_error", "I/O error, dev ", r"I/O error, dev (?P<device>[^,\s]+)"),
    ("io_error", "Buffer I/O error", r"Buffer I/O error on dev(?:ice)? (?P<device>[^,\s]+)"),
    ("io_error", " error, dev ", r"critical (?:medium|target|nexus|space allocation) error, dev (?P<device>[^,\s]+)"),
    ("io_error", "nvme", r"nvme (?P<device>nvme\d+): (?:I/O .*timeout|controller is down|Device not ready|Disabling device|Removing after probe)"),
    ("io_error", "failed command", r"\b(?P<device>ata\d+(?:\.\d+)?): failed command"),
    ("io_error", "rejecting I/O", r"^(?P<device>sd [\d:]+\d):.*rejecting I/O to (?:offline|dead) device"),
    ("read_only", "ead-only", r"\((?P<device>[^)\s]+)\): Remounting filesystem read-only"),
    ("read_only", "forced readonly", r"\(device (?P<device>[^):\s]+)[^)]*\):? forced readonly"),
    ("read_only", "XFS (", r"XFS \((?P<device>[^)]+)\): .*(?:[Ff]ilesystem has been shut down|Shutting down filesystem)"),
    ("file_system_error", "(device ", rf"{_FS}:? (?:error|critical|Error) \(device (?P<device>[^):\s]+)"),
    ("file_system_error", "FAT-fs (", r"FAT-fs \((?P<device>[^)]+)\): error"),
    ("file_system_error", "XFS (", r"XFS \((?P<device>[^)]+)\): .*(?:[Cc]orruption|[Mm]etadata I/O [Ee]rror|Internal error)"),
    ("raid_degraded", "Disk failure on", r"md/raid\w*:(?P<device>\w+): Disk failure on (?P<disk>[^,\s]+)"),
    ("server_silent", "not responding", r"nfs: server (?P<server>\S+) not responding"),
    ("server_silent", "has not responded", r"CIFS: .*\\\\(?P<server>[^\s\\]+).*has not responded"),
    ("link_down", "ink ", r"\b(?P<interface>[a-z][\w.-]*): (?:\w+: )?(?:[\w.-]+ )?(?:NIC )?Link(?: is)? [Dd]own"),
    ("link_down", "definitely down", r"(?:interface|slave) (?P<interface>[\w.-]+)\)?:? (?:link status )?definitely down"),
    ("link_down", "definitely down", r"for interface (?P<interface>[\w.-]+)"),
    ("transmit_timeout", "NETDEV WATCHDOG: ", r"NETDEV WATCHDOG: (?P<interface>[\w.-]+) \("),
    ("transmit_timeout", "NETDEV WATCHDOG: CPU", r"(?P<interface>[\w.-]+): NETDEV WATCHDOG: CPU"),
    ("conntrack_full", "table full, dropping packet", r"conntrack: table full"),
    ("hung_task", "blocked for more than", r"task (?P<program>.+):\d+ (?:<[^>]*> )?blocked for more than \d+ seconds"),
    ("lockup", "lockup - CPU", r"BUG: \w+ lockup - CPU#\d+ stuck for \d+s! \[(?P<program>.+?):\d+\]"),
    ("lockup", "hard LOCKUP", r"detected hard LOCKUP on cpu"),
    ("lockup", "detected stall", r"rcu\w*: .*detected stalls? on CPU"),
    ("lockup", "self-detected stall", r"self-detected stall on CPU"),
    ("kernel_bug", "Kernel panic", r"^Kernel panic - not syncing"),
    ("kernel_bug", "BUG: ", r"^BUG: (?:unable to handle|kernel NULL pointer|scheduling while atomic|Bad page)"),
    ("kernel_bug", "kernel BUG at", r"^kernel BUG at "),
    ("kernel_bug", "Oops", r"\bOops: [0-9a-f]{4,}"),
    ("memory_error", " UE ", r"EDAC (?P<device>MC\d+): \d+ UE "),
    ("memory_error", "Memory failure: ", r"^Memory failure: 0x[0-9a-f]+: "),
    ("memory_corrected", " CE ", r"EDAC (?P<device>MC\d+): \d+ CE "),
    ("machine_check", "[Hardware Error]", r"[Mm]achine [Cc]heck (?:events logged|[Ee]xception)"),
    ("cpu_hot", "above threshold", r"CPU\d+: (?:Core|Package) temperature(?:/speed)? (?:is )?above threshold"),
    ("segfault", "]: segfault at ", r"^(?P<program>.+)\[\d+\]: segfault at "),
    ("segfault", "traps: ", r"^traps: (?P<program>.+)\[\d+\] (?:general protection|trap )"),
    ("xid", "NVRM: Xid", r"NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F]+:[0-9a-fA-F:.]+)\): (?P<xid>\d+)"),
    ("nvswitch_error", "SXid", r"SXid \(PCI:(?P<bus>[0-9a-fA-F:.]+)\): (?P<sxid>\d+)"),
)  # fmt: skip
_PATTERNS: Final = tuple((kind, word, re.compile(pattern)) for kind, word, pattern in _RULES)
_OF_GROUP: Final = re.compile(r"task_memcg=(?P<group>[^,]*),task=.*,pid=(?P<pid>\d+),uid=")
_OF_GROUP_BEFORE_5: Final = re.compile(r"^Task in (?P<group>\S+) killed as a result of limit of ")


class Reader:
    """Makes records of bytes, and events of records; keeps what is unfinished, no more than it must."""

    def __init__(self) -> None:
        self._rest = b""
        self._last = -1
        self._groups: OrderedDict[str, str] = OrderedDict()

    def records(self, chunk: bytes) -> list[Record]:
        """Return the records of the kernel in what was read; a number that was seen already is not told again."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _UNFINISHED:
            self._rest = b""
        found = []
        for line in lines:
            record = _record(line)
            if record is not None and record.number > self._last:
                self._last = record.number
                found.append(record)
        return found

    def event(self, text: str) -> Event | None:
        """Return what a message means; None = nothing that we know."""
        if "oom-kill:" in text or text.startswith("Task in "):
            self._remember_group(text)
            return None
        for kind, word, pattern in _PATTERNS:
            if word not in text:
                continue
            found = pattern.search(text)
            if found is not None:
                labels = {k: _name(v) for k, v in found.groupdict().items() if v and k[-1] != "_"}
                if kind == "oom_kill":
                    group = self._groups.pop(found["pid_"], self._groups.pop("", ""))
                    labels |= {"cgroup": _name(group)} if group.strip("/") else {}
                return Event(kind, tuple(sorted(labels.items())), text)
        return None

    def _remember_group(self, text: str) -> None:
        """Keep whose control group the next one to be killed is in: the kernel says so before it kills."""
        found = _OF_GROUP.search(text)
        if found is not None:
            self._groups[found["pid"]] = found["group"]
        elif older := _OF_GROUP_BEFORE_5.match(text):
            self._groups[""] = older["group"]
        while len(self._groups) > _MOST_PENDING:
            self._groups.popitem(last=False)


def _record(line: bytes) -> Record | None:
    """Read one line; None for the additions of drivers, what programs wrote, and what is no record."""
    head, semicolon, text = line.partition(b";")
    if not semicolon or line[:1] == b" ":
        return None
    field = head.split(b",")
    try:
        priority, number, since_us = int(field[0]), int(field[1]), int(field[2])
    except (ValueError, IndexError):
        return None
    if not 0 <= priority < 8:  # facility 0 is the kernel, and only it may write so
        return None
    return Record(priority, number, since_us * 1e-6, text[:_MOST_TEXT].decode("utf-8", "replace"))


def _name(text: str) -> str:
    """Return a name for a label: what cannot be shown is not in it, and it has an end."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:_MOST_NAME]).strip()
    return shown or "?"
