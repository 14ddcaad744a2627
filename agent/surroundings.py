"""What stands around on this host, for `homeostat init`: it looks, says what it found, and writes a first agent.yaml.

    look(root) -> Surroundings -> tell() lines for people
                               -> yaml() a commented agent.yaml that `homeostat check` accepts

It only reads (/proc, /sys, folders that models usually lie in) and asks loopback ports; it changes nothing and acts
on nothing: `manages:` stays empty. Cost: a second at most, bounded in folders, processes and ports.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.control import no_tls
from agent.errors import Refused
from agent.imports import lacking

_PORTS: Final = (9090, 9091, 8428, 8429)
"""Where metric servers that speak the HTTP API of Prometheus usually listen."""
_MODEL_ROOTS: Final = (
    "models", "model_repository", "srv/models", "opt/models", "var/lib/models", "mnt/models",
    "data/models",
)  # fmt: skip
_NO_COMPUTE: Final = frozenset({
    "ast", "bochs-drm", "cirrus", "hyperv_drm", "mgag200", "qxl", "vboxvideo", "virtio-pci", "vmwgfx",
})  # fmt: skip
"""Screens of virtual machines and of management controllers: display adapters, but no GPU to watch."""
_CONTAINER: Final = re.compile(
    r"(?:^|/|-)(?:docker|libpod|crio|cri-containerd|containerd|kubepods|lxc|garden)\b"
)
_CONTAINER_GROUP: Final = re.compile(
    r"^(?:(?:docker|libpod|crio|cri-containerd)-)?[0-9a-f]{64}(?:\.scope)?$"
)
_APP: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(?:\(.*\))?")
"""How gunicorn is told what to serve: `package.module:name`; never an address, whose second half is a number."""
_MOST: Final = 2000
"""Folders or processes that are looked at, at most."""


@dataclass(frozen=True, slots=True)
class ModelRoot:
    """A folder in the layout of model servers: <root>/<model>/<version>/files."""

    path: str
    models: tuple[str, ...]
    pointer: bool
    """Whether a champion pointer is there: without one we can watch, and not roll back."""


@dataclass(frozen=True, slots=True)
class Master:
    """A running master of web workers."""

    pid: int
    name: str
    port: int | None
    pidfile: str
    workers: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found."""

    host: str
    gpu_drivers: tuple[str, ...] = ()
    gpus: int = 0
    container: str = ""
    containers: int = 0
    metrics_servers: tuple[str, ...] = ()
    metrics_client: bool = True
    """Whether what asks them is installed."""
    model_roots: tuple[ModelRoot, ...] = ()
    masters: tuple[Master, ...] = ()
    systemd: bool = False


def look(
    root: Path = Path("/"), *, folders: Sequence[Path] = (), ports: Sequence[int] = _PORTS
) -> Surroundings:
    """Look around. root: where the file system starts; folders: model folders to look at beside the usual ones."""
    drivers = gpu_drivers(root)
    commands = list(_commands(root))
    return Surroundings(
        host=socket.gethostname(),
        gpu_drivers=tuple(sorted(set(drivers))),
        gpus=len(drivers),
        container=inside(root),
        containers=_containers(root),
        metrics_servers=tuple(_metrics_servers(ports)),
        metrics_client=importlib.util.find_spec("prometheus_api_client") is not None,
        model_roots=tuple(_model_roots(root, folders, commands)),
        masters=tuple(_masters(root, commands)),
        systemd=(root / "run/systemd/system").is_dir(),
    )


# ---------------------------------------------------------------- looking


def gpu_drivers(root: Path = Path("/")) -> list[str]:
    """Return the driver of every GPU, one for each, from the PCI bus: no vendor's library is asked."""
    out = []
    for device in _inside(root / "sys/bus/pci/devices"):
        kind = _read(device / "class")[:6]
        driver = device / "driver"
        # PCI classes: 0300 VGA, 0302 3D, 1200 accelerator
        if kind in {"0x0300", "0x0302", "0x1200"} and driver.is_symlink():
            name = driver.readlink().name
            if name not in _NO_COMPUTE:
                out.append(name)
    return out


def inside(root: Path = Path("/")) -> str:
    """Name the kind of container that we run in; empty when we do not."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    found = _CONTAINER.search(_read(root / "proc/1/cgroup"))
    if found:
        return found.group().strip("/-")
    return os.environ.get("container", "") if root == Path("/") else ""  # noqa: SIM112  # systemd writes it so


def _containers(root: Path) -> int:
    """Count the control groups of containers, at most five levels deep."""
    seen = 0
    level = [root / "sys/fs/cgroup"]
    for _ in range(5):
        level = [
            d for folder in level for d in _inside(folder) if d.is_dir() and not d.is_symlink()
        ][:_MOST]
        groups = [d for d in level if _CONTAINER_GROUP.fullmatch(d.name)]
        seen += len(groups)
        level = [d for d in level if d not in set(groups)]
    return seen


def _metrics_servers(ports: Sequence[int]) -> Iterator[str]:
    """Ask the usual ports who they are; a closed port costs nothing, a silent one a third of a second."""
    import httpx  # only init needs it, and it takes a tenth of a second

    with httpx.Client(timeout=0.3, trust_env=False, verify=no_tls()) as client:
        for port in ports:
            url = f"http://127.0.0.1:{port}"
            try:
                answer = client.get(f"{url}/api/v1/status/buildinfo")
                told: Any = answer.json()
            except (httpx.HTTPError, ValueError):
                continue
            if isinstance(told, dict) and told.get("status") == "success":
                yield url


def _model_roots(
    root: Path, folders: Sequence[Path], commands: Sequence[tuple[int, int, list[str]]]
) -> Iterator[ModelRoot]:
    """Look where models usually lie, and where running servers were told that they lie."""
    named = (
        Path(word.partition("=")[2] or word)
        for _, _, words in commands
        for word in words
        if "/" in word
    )
    usual = (root / place for place in _MODEL_ROOTS)
    seen: set[Path] = set()
    for folder in itertools.islice(itertools.chain(folders, usual, named), _MOST):
        if not folder.is_absolute() or folder in seen:
            continue
        seen.add(folder)
        found = _model_root(folder)
        if found is not None:
            yield found


def _model_root(folder: Path) -> ModelRoot | None:
    models = []
    pointer = False
    for model in itertools.islice(_inside(folder), 200):
        if not model.name.startswith(".") and any(
            v.name.isdigit() and any(True for _ in _inside(v))
            for v in itertools.islice(_inside(model), 50)
        ):
            models.append(model.name)
            pointer = pointer or (model / "champion.json").is_file()
    return ModelRoot(str(folder), tuple(sorted(models)), pointer) if models else None


def _masters(root: Path, commands: Sequence[tuple[int, int, list[str]]]) -> Iterator[Master]:
    """Find the masters of gunicorn: those whose parent is none."""
    ours = {pid: (parent, words) for pid, parent, words in commands if _is_gunicorn(words)}
    for pid, (parent, words) in sorted(ours.items()):
        if parent in ours:
            continue
        bind = _option(words, "-b", "--bind")
        port = re.search(r":(\d+)$", bind)
        app = next((w for w in reversed(words) if _APP.fullmatch(w)), "")
        name = _option(words, "-n", "--name") or app.partition(":")[0].rpartition(".")[2]
        workers = sum(1 for p, _ in ours.values() if p == pid)
        pidfile = _option(words, "-p", "--pid")
        if pidfile and not Path(pidfile).is_absolute():
            cwd = root / f"proc/{pid}/cwd"
            pidfile = str(cwd.readlink() / pidfile) if cwd.is_symlink() else ""
        yield Master(
            pid, _name(name) or f"service-{pid}", int(port[1]) if port else None, pidfile, workers
        )


def _is_gunicorn(words: Sequence[str]) -> bool:
    return any(Path(w).name == "gunicorn" for w in words[:3]) or words[0].startswith("gunicorn: ")


def _option(words: Sequence[str], short: str, long: str) -> str:
    """Return the value of an option: `-b X`, `-bX`, `--bind X` or `--bind=X`."""
    for i, word in enumerate(words):
        if word in {short, long}:
            return words[i + 1] if i + 1 < len(words) else ""
        if word.startswith(long + "="):
            return word.partition("=")[2]
        if word.startswith(short) and not word.startswith("--"):
            return word[len(short) :]
    return ""


def _name(text: str) -> str:
    """Make a name that agent.yaml accepts."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-_.")[:63]


def _commands(root: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (pid, parent, words) of processes that we may look at."""
    numbers = (p for p in _inside(root / "proc") if p.name.isdigit())
    for folder in itertools.islice(numbers, _MOST):
        words = _read(folder / "cmdline").rstrip("\0").split("\0")
        # field 4 of stat; the name in brackets may hold spaces and brackets
        rest = _read(folder / "stat").rpartition(")")[2].split()
        if words != [""] and len(rest) > 1:
            yield int(folder.name), int(rest[1]), words


def _inside(folder: Path) -> list[Path]:
    """List a folder; nothing when it is not there or closed to us: looking around never fails."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


# ---------------------------------------------------------------- telling


def tell(found: Surroundings) -> list[tuple[str, str]]:
    """Say what was found: (what, words for people), also what was looked for and not found."""
    out = [("host", f"{found.host}: CPU, memory, disks, network and processes are watched at once")]
    if found.gpus:
        drivers = ", ".join(found.gpu_drivers)
        out.append(("gpu", f"{found.gpus} (driver {drivers}); read when the driver answers"))
    else:
        out.append(("gpu", "none on the PCI bus"))
    if found.container:
        out.append(("container", f"we run inside {found.container}; its limits are watched"))
    if found.containers:
        out.append(("containers", f"{found.containers} on this host; their processes are watched"))
    for url in found.metrics_servers:
        asked = "what it knows is asked for, not scraped again"
        if not found.metrics_client:
            asked = lacking("to ask it needs prometheus-api-client", "prometheus")
        out.append(("metrics", f"a Prometheus API at {url}; {asked}"))
    for root in found.model_roots:
        models = ", ".join(root.models[:5]) + (" ..." if len(root.models) > 5 else "")
        how = "with" if root.pointer else "without"
        out.append(("models", f"{root.path}: {models} ({how} a champion pointer)"))
    if not found.model_roots:
        out.append(("models", "no folder <model>/<version>/ in the usual places; name it with --models"))  # fmt: skip
    for master in found.masters:
        at = f" on port {master.port}" if master.port else ""
        lacks = "" if master.pidfile else "; it has no pidfile, so it can be watched and not scaled"
        out.append(
            ("gunicorn", f"{master.name}, pid {master.pid}, workers: {master.workers}{at}{lacks}")
        )
    if found.systemd:
        out.append(("systemd", "runs here: homeostat install prints a unit"))
    return out


def yaml(found: Surroundings, *, day: str, plain: bool = False) -> str:
    """Return agent.yaml. day: for its first line. plain: keep what was found as comments only."""
    seen = "\n".join(f"#   {what:10} {said}" for what, said in tell(found))
    return _TEMPLATE.format(
        host=found.host,
        day=day,
        seen=seen,
        connectors=_connectors(found, plain=plain),
        services=_services(found, plain=plain),
    )


def _connectors(found: Surroundings, *, plain: bool) -> str:
    wanted: list[str] = []
    off = "" if found.metrics_client else "# "
    for i, url in enumerate(found.metrics_servers):
        name = "prometheus" if i == 0 else f"prometheus-{i + 1}"
        wanted.append(f"  {off}{name}: {{use: prometheus, url: {_text(url)}}}")
    for i, root in enumerate(found.model_roots):
        name = "models" if i == 0 else f"models-{i + 1}"
        if not root.pointer:
            wanted.append(
                "  # Without a champion pointer it can say what changed, and not roll back."
            )
        wanted.append(f"  {name}: {{use: model_directory, path: {_text(root.path)}}}")
    for master in _distinct(found.masters):
        if master.pidfile:
            most = max(4, 2 * master.workers)
            wanted.append(
                f"  workers-{master.name}: {{use: gunicorn, service: {_text(master.name)}, "
                f"pidfile: {_text(master.pidfile)}, max_workers: {most}}}"
            )
    return _block("connectors", wanted, plain=plain)


def _services(found: Surroundings, *, plain: bool) -> str:
    wanted: list[str] = []
    for master in _distinct(found.masters):
        wanted.append(f"  - id: {_text(master.name)}")
        if master.pidfile:
            wanted.append(f"    pidfile: {_text(master.pidfile)}")
        elif master.port:
            wanted.append(f"    port: {master.port}")
        else:
            wanted.append('    process: "*gunicorn*"')
        wanted.append("    # What users may expect of it; valid from the first minute:")
        wanted.append("    # objectives:")
        wanted.append("    #   - {signal: service.latency_p95_seconds, max: 250ms, for: 30s}")
    return _block("services", wanted, plain=plain)


def _distinct(masters: Sequence[Master]) -> list[Master]:
    """Keep one of each name: two services of one name would be refused."""
    return list({m.name: m for m in reversed(masters)}.values())[::-1]


def _block(name: str, lines: Sequence[str], *, plain: bool) -> str:
    if not lines:
        return f"# {name}:"
    if plain or all(line.lstrip().startswith("#") for line in lines):
        return "\n".join(f"# {line}" for line in (f"{name}:", *lines))
    return "\n".join((f"{name}:", *lines))


def _text(word: str) -> str:
    """Write a text as YAML reads it, whatever it holds (`no` is a trap): JSON strings are YAML."""
    return word if re.fullmatch(r"/[\w./-]+", word) else json.dumps(word)


_TEMPLATE: Final = """\
# What homeostat watches on {host}, and how far it may go. Written by `homeostat init` on {day}.
# Every line is optional: an empty file is valid. After a change: `homeostat check`, then `homeostat reload`.
#
# What was found:
{seen}

# How far any playbook may go: observe < suggest < approve < auto. At `suggest` it says what it would do.
mode: suggest

# What it may act on. Nothing, until you say so. An example: {{kind: service, key: checkout}}
manages: []

# How many false pages a week you accept. Only harm to users or model results pages; the rest waits in the console.
# Everything else follows: here 1 console note a day, and how rare an abnormal series must be (docs/detection.md).
# Say what an incident was, and it is measured and learns: `homeostat label ID noise`, `homeostat label ID real`.
budget:
  false_pages_per_week: 2

# Console, API and /metrics: loopback only.
listen: 127.0.0.1:8787

# How a page leaves the console: any program, the note comes as JSON on its standard input.
# page: {{command: [/usr/local/bin/page-me]}}

# Who is told what, when, and who is called next when nobody takes it (docs/notifiers.md):
# people:
#   quiet: {{from: '22:00', to: '07:00'}}      # what is no page waits until they end
#   escalation:
#     - {{to: [page]}}
#     - {{after: 10m, to: [pagerduty]}}        # another connector that reaches people

# Where to look and what can be done there. host, processes, connections, containers, units, kernel_log and gpu run
# without a word.
# Switch one off with `gpu: {{enabled: false}}`; ask less often with `processes: {{interval: 10s}}`.
# Logs of predictions and of labels, one JSON object a line, bring accuracy and drift:
#   predictions: {{path: /var/log/checkout/predictions.jsonl, labels: /var/log/checkout/labels.jsonl}}
{connectors}

# What serves, whose it is, and what users may expect of it. Teams may keep theirs in services.d/*.yaml.
{services}

# Limits on hosts and GPUs, valid from the first minute:
# objectives:
#   - {{signal: host.disk_utilization_ratio, max: 90%, for: 1m}}
"""


def write(text: str, path: Path, *, force: bool) -> None:
    """Write agent.yaml, never over one that is there unless told so; raises Refused."""
    if path.exists() and not force:
        raise Refused(f"{path} is there already; keep it, or write over it with --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise Refused(
            f"{path} can not be written ({error.strerror}); name another with --config"
        ) from None
