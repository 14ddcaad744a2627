r"""The systemd unit, with least privileges and the reason for each line; and the words that systemd waits for.

    config + machine -> plan (sections of lines, each with its why) -> text of homeostat.service
    sd_notify("READY=1" | "WATCHDOG=1" | "RELOADING=1\nMONOTONIC_USEC=..." | "STOPPING=1")

Nothing is granted that the config does not need: with `manages:` empty the daemon has no capability at all.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent import registry
from agent.config import Config
from agent.errors import Refused

UNIT_PATH: Final = Path("/etc/systemd/system/homeostat.service")
WATCHDOG_S: Final = 30
"""The daemon reports once a tick; half a minute of silence means that its loop hangs."""
STATE: Final = Path("/var/lib/homeostat")
_HOMES: Final = ("/home", "/root")

_POWERS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "process": (
        ("CAP_SYS_NICE", "to lower the priority of processes in `manages:`, and to put it back"),
        ("CAP_KILL", "to pause processes in `manages:` (SIGSTOP, SIGCONT)"),
    ),
    "service": (("CAP_KILL", "to tell the masters of services in `manages:` to scale"),),
    "replica": (("CAP_KILL", "to tell the masters of replicas in `manages:` to scale or drain"),),
}
"""What is needed to act on a kind of entity that other users own."""


@dataclass(frozen=True, slots=True)
class Line:
    """One setting of the unit and the reason for it."""

    key: str
    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Section:
    """One section of the unit."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the unit must know of the machine.

    command      how homeostat is started, absolute
    programs     what that needs beside itself: the interpreter
    gpu_drivers  drivers of display and compute cards: their devices are allowed, no others
    """

    command: tuple[str, ...]
    gpu_drivers: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


def command() -> tuple[str, ...]:
    """Return how this homeostat is started again: its own script, else the interpreter and the module."""
    script = Path(sys.argv[0])
    if script.name == "homeostat" and script.is_file():
        return (str(script.absolute()),)
    beside = Path(sys.executable).with_name("homeostat")
    if beside.is_file():
        return (str(beside),)
    found = shutil.which("homeostat")
    return (found,) if found else (sys.executable, "-m", "agent")


def machine(gpu_drivers: Sequence[str]) -> Machine:
    """Return what the unit must know of this machine."""
    interpreter = str(Path(sys.executable).resolve())
    return Machine(command(), tuple(sorted(set(gpu_drivers))), (interpreter,))


def plan(
    config: Config, machine: Machine, *, config_path: Path, state: Path = STATE, user: str = ""
) -> tuple[Section, ...]:
    """Return the unit for this config on this machine. user "" = a fresh one of systemd's own (DynamicUser)."""
    # the state folder is always said: a daemon that is not root would look for it in a home that it does not have
    words = (*machine.command, "run", "--config", str(config_path), "--state", str(state))
    start = " ".join(_quote(word) for word in words)
    return (
        Section("Unit", (
            Line("Description", "homeostat: watches hosts and models, and heals them", "shown by systemctl"),
            Line("Documentation", "man:systemd.exec(5)", "explains every line below"),
            Line("After", "network-online.target", "sources that speak HTTP find a network"),
            Line("Wants", "network-online.target", "without it After= waits for nothing"),
            Line("StartLimitIntervalSec", "300", "with the next line: stop trying when it can not live"),
            Line("StartLimitBurst", "10", "ten starts in five minutes are enough to know"),
        )),
        Section("Service", tuple(_service(config, machine, start, state, user))),
        Section("Install", (
            Line("WantedBy", "multi-user.target", "start with the machine once it is enabled"),
        )),
    )  # fmt: skip


def _service(
    config: Config, machine: Machine, start: str, state: Path, user: str
) -> Iterator[Line]:
    yield from _life(start)
    yield from _identity(config, state, user)
    yield from _files(config, machine, state, user)
    yield from _devices(config, machine)
    yield from _kernel(config)
    yield from _bounds()


def _life(start: str) -> Iterator[Line]:
    yield Line("Type", "notify", "it says itself when it is ready, reloads or stops")
    yield Line("NotifyAccess", "main", "only the daemon may say so, not what it starts")
    yield Line("ExecStart", start, "the daemon in the foreground")
    yield Line(
        "ExecReload",
        "/bin/kill -HUP $MAINPID",
        "reads agent.yaml again; a faulty one is told and the old one stays",
    )
    yield Line(
        "WatchdogSec", str(WATCHDOG_S), "restart it when its loop hangs: it reports every second"
    )
    yield Line(
        "Restart",
        "on-failure",
        "runs and incidents are in the journal, a restart goes on with them",
    )
    yield Line("RestartSec", "2", "no hot loop of restarts")
    yield Line(
        "RestartPreventExitStatus", "2", "exit 2 is a faulty config: a restart would not mend it"
    )
    yield Line("TimeoutStopSec", "30", "time to drain: runs stop at a step boundary")
    yield Line("KillMode", "mixed", "SIGTERM to the daemon only: it ends its own helpers in order")


def _identity(config: Config, state: Path, user: str) -> Iterator[Line]:
    if user:
        yield Line("User", user, "runs as this user, never as root")
    else:
        yield Line(
            "DynamicUser", "yes", "runs as a user that exists only while it runs, never as root"
        )
    yield Line("NoNewPrivileges", "yes", "nothing that it starts can gain more than it has")
    powers = capabilities(config)
    names = " ".join(name for name, _ in powers)
    why = "; ".join(f"{name} {why}" for name, why in powers)
    yield Line("CapabilityBoundingSet", names, why or "no capability at all: `manages:` is empty")
    if powers:
        yield Line("AmbientCapabilities", names, "hands these to a daemon that is not root")
    if state == STATE:
        yield Line(
            "StateDirectory", "homeostat", "/var/lib/homeostat: journal, runs, history, socket"
        )
        yield Line(
            "StateDirectoryMode", "0700", "nobody else reads the journal or speaks on the socket"
        )
    yield Line("UMask", "0077", "files that it makes are its own")


def capabilities(config: Config) -> tuple[tuple[str, str], ...]:
    """Return the capabilities that seeing, and acting on `manages:`, need, each with its reason; mostly none."""
    found: dict[str, list[str]] = {}
    for matcher in config.manages:
        for name, why in _POWERS.get(matcher.kind, ()):
            whys = found.setdefault(name, [])
            if why not in whys:
                whys.append(why)
    for name, cls in _connectors(config):
        acting = getattr(cls, "powers", ()) if config.manages else ()
        for power, why in (*getattr(cls, "sees", ()), *acting):
            found.setdefault(power, []).append(f"{why} (connector {name})")
    return tuple((name, " and ".join(whys)) for name, whys in sorted(found.items()))


def _connectors(config: Config) -> Iterator[tuple[str, type[Any]]]:
    """Yield the classes of the connectors that are configured; what a class needs of the unit stands in it.

    powers     (capability, why) that acting takes
    unlocks    lines of `_kernel` that would keep it from acting
    sees       (capability, why) that looking takes, whatever is managed
    opens      lines of `_kernel` that would keep it from looking
    devices    device nodes that it reads
    """
    for name, wanted in config.connectors.items():
        use = wanted.use or name
        if wanted.enabled and use in registry.connector:
            yield name, registry.connector.get(use)


def _files(config: Config, machine: Machine, state: Path, user: str) -> Iterator[Line]:
    yield Line("ProtectSystem", "strict", "the whole file system is read-only but for what follows")
    if state != STATE:
        yield Line("ReadWritePaths", _quote(f"-{state}"), "the state folder")
    yield from _writable(config)
    programs = [Path(p) for p in (machine.command[0], *machine.programs)]
    if any(_is_below(p, _HOMES) for p in programs):
        yield Line("ProtectHome", "read-only", "the programs that it is made of lie in a home")
    elif user and _under_home(config, state):
        yield Line("ProtectHome", "read-only", "it reads below /home because the config says so")
    elif _under_home(config, state):
        yield Line("ProtectHome", "tmpfs", "homes are hidden but for what the config names")
        for _, path in _places(config):
            if _is_below(path, _HOMES):
                yield Line("BindReadOnlyPaths", _quote(f"-{path}"), "named in agent.yaml")
    else:
        yield Line("ProtectHome", "yes", "nothing of people's homes is its business")
    if not any(_is_below(path, ("/tmp", "/var/tmp")) for _, path in _places(config)):  # noqa: S108  # asked about, not written to
        yield Line("PrivateTmp", "yes", "a /tmp of its own")


def _writable(config: Config) -> Iterator[Line]:
    """Yield what connectors may change when anything is managed at all."""
    replacing = {name for name, cls in _connectors(config) if hasattr(cls, "set_flag")}
    for name, path in _places(config) if config.manages else ():
        # a file that is replaced as a whole is written beside itself
        folder = path if path.is_dir() else path.parent if name in replacing else None
        if folder is not None:
            why = f"connector {name} may change what lies there"
            yield Line("ReadWritePaths", _quote(f"-{folder}"), why)


def _devices(config: Config, machine: Machine) -> Iterator[Line]:
    read = [(n, d) for n, cls in _connectors(config) for d in getattr(cls, "devices", ())]
    if not machine.gpu_drivers and not read:
        yield Line(
            "PrivateDevices",
            "yes",
            "no device nodes: there is no GPU here (run install again when there is)",
        )
        yield Line("ProtectClock", "yes", "it never sets the clock")
        return
    yield Line("DevicePolicy", "closed", "no device nodes but these")
    for driver in machine.gpu_drivers:
        yield Line(
            "DeviceAllow",
            f"char-{driver}* rw",
            "to read temperature, clocks and errors of the GPUs",
        )
    if machine.gpu_drivers:
        yield Line("DeviceAllow", "char-drm rw", "the same by way of the kernel's own interface")
    for name, device in read:
        yield Line("DeviceAllow", f"{device} r", f"read by connector {name}")


def _kernel(config: Config) -> Iterator[Line]:
    open_ = {line for _, cls in _connectors(config) for line in getattr(cls, "unlocks", ())}
    unlocked = open_ if config.manages else set()
    unlocked |= {line for _, cls in _connectors(config) for line in getattr(cls, "opens", ())}
    yield Line("ProtectKernelTunables", "yes", "/proc/sys and /sys are read-only")
    yield Line("ProtectKernelModules", "yes", "it loads no modules")
    if "ProtectKernelLogs" not in unlocked:
        yield Line("ProtectKernelLogs", "yes", "it does not read the kernel's log")
    if "ProtectControlGroups" not in unlocked:
        yield Line("ProtectControlGroups", "yes", "it reads limits of containers, it sets none")
    yield Line("ProtectHostname", "yes", "it does not rename the host")
    yield Line(
        "RestrictAddressFamilies",
        "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "HTTP, its socket, and asking the kernel for connections",
    )
    yield Line("RestrictNamespaces", "yes", "it makes no containers")
    yield Line("RestrictRealtime", "yes", "it must never be the noisy neighbour")
    yield Line("RestrictSUIDSGID", "yes", "it makes no file that runs as somebody else")
    yield Line("LockPersonality", "yes", "no other execution domains")
    yield Line("SystemCallArchitectures", "native", "no second set of system calls")
    yield Line("SystemCallFilter", "@system-service", "what a service usually calls, nothing else")
    yield Line(
        "SystemCallErrorNumber",
        "EPERM",
        "a call that is not allowed fails, it does not kill the daemon",
    )


def _bounds() -> Iterator[Line]:
    yield Line(
        "MemoryHigh",
        "384M",
        "it uses about 100 MB; from here on the kernel slows it, not its neighbours",
    )
    yield Line("MemoryMax", "768M", "and here it ends; a restart goes on from the journal")
    yield Line("TasksMax", "256", "bounds what it can start")
    yield Line("CPUWeight", "50", "half the weight of a service when the CPU is short")
    yield Line("OOMScoreAdjust", "-100", "rather others first: it explains who ate the memory")


def text(sections: Sequence[Section]) -> str:
    """Return the unit file, each line under its reason."""
    out = ["# homeostat.service, written by: homeostat install"]
    for section in sections:
        out.append(f"\n[{section.name}]")
        for line in section.lines:
            out.append(f"# {line.why}")
            out.append(f"{line.key}={line.value}")
    return "\n".join(out) + "\n"


def warnings(machine: Machine, *, config_path: Path, user: str = "") -> list[str]:
    """Say what would keep the unit from starting on this machine."""
    out = []
    if not user:
        for program in (machine.command[0], *machine.programs):
            closed = [p for p in _walk(Path(program)) if not p.stat().st_mode & stat.S_IXOTH]
            if closed:
                out.append(
                    f"{closed[0]} is closed to the service's user, so {program} can not start; "
                    "install homeostat under /opt, or use --user NAME"
                )
    if config_path.exists() and not user and not config_path.stat().st_mode & stat.S_IROTH:
        out.append(f"{config_path} is closed to the service's user; run: chmod o+r {config_path}")
    if not config_path.exists():
        out.append(
            f"{config_path} is not there; run: homeostat init --config {config_path} (an empty file will do)"
        )
    return out


def write(sections: Sequence[Section], path: Path = UNIT_PATH, *, force: bool = False) -> bool:
    """Write the unit; False when it is there already and the same. Raises Refused when it differs or may not."""
    fresh = text(sections)
    try:
        if path.exists():
            if path.read_text(encoding="utf-8") == fresh:
                return False
            if not force:
                raise Refused(
                    f"{path} is there and differs; look at it, then write it with: --write --force"
                )
        path.write_text(fresh, encoding="utf-8")
    except PermissionError:
        raise Refused(f"not allowed to write {path}; run it as root, or use --print") from None
    except OSError as error:
        raise Refused(f"{path} can not be written ({error.strerror}); use --print") from None
    return True


def sd_notify(message: str) -> bool:
    """Tell systemd how the daemon is; False when nobody listens. Never raises: what it says is only a courtesy.

    message   READY=1, WATCHDOG=1, STOPPING=1, RELOADING=1 with MONOTONIC_USEC, STATUS=..., one a line
    Source: sd_notify(3): one datagram to $NOTIFY_SOCKET, a leading @ stands for the abstract name space.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def _places(config: Config) -> list[tuple[str, Path]]:
    """Return the files and folders that connectors are pointed at."""
    out = [
        (name, Path(value))
        for name, connector in config.connectors.items()
        for value in _paths(connector.own)
    ]
    out += [(s.id, s.pidfile) for s in config.services if s.pidfile is not None]
    return [(name, path) for name, path in out if path.is_absolute()]


def _paths(own: Any) -> Iterator[str]:
    """Yield what stands under the keys that name files and folders, however deep."""
    for key, value in own.items() if isinstance(own, dict) else ():
        if key in {"path", "labels", "pidfile"} and isinstance(value, str):
            yield value
        else:
            yield from _paths(value)


def _under_home(config: Config, state: Path) -> bool:
    return any(_is_below(p, _HOMES) for p in [state, *(p for _, p in _places(config))])


def _is_below(path: Path, tops: tuple[str, ...]) -> bool:
    return any(path.is_relative_to(top) for top in tops)


def _walk(path: Path) -> Iterator[Path]:
    """Yield the folders above a file, from the top, that exist."""
    yield from (p for p in reversed(path.resolve().parents) if p.exists())


def _quote(word: str) -> str:
    """Write one word as systemd reads it: quotes around what has spaces, % and $ doubled."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(c.isspace() for c in word) or not word else word
