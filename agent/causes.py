"""The closed tree of causes: what diagnosis names, playbooks match by prefix, and scorers are mapped to.

A cause is a dotted path. `matches("hardware.gpu", "hardware.gpu.thermal")` is true: a playbook may ask for a
branch. Adding a cause means adding a line here, a rule in `agent/rca` that can name it, and its words for people.
"""

from __future__ import annotations

from typing import Final

CAUSES: Final[dict[str, str]] = {
    "hardware.gpu.memory": "GPU memory is failing (ECC errors, row remapping)",
    "hardware.gpu.thermal": "a GPU is too hot and slows itself down",
    "hardware.gpu.power": "a GPU is held back by its power supply or limit",
    "hardware.gpu.link": "a GPU link (NVLink, PCIe) is down or slow",
    "hardware.gpu.lost": "a GPU has fallen off the bus",
    "hardware.gpu.slow": "a GPU is slower than its peers without saying why",
    "hardware.host": "memory, a CPU or the kernel of the host fails",
    "host.cpu": "the host is short of CPU",
    "host.memory": "the host is short of memory",
    "host.disk": "a disk is full, slow or failing",
    "host.network": "the network of the host loses or delays packets",
    "host.exhausted": "something is used up: open files or threads of the host, GPU memory, a certificate",
    "host.neighbour": "other processes take what the service needs",
    "serving.saturation": "more traffic than the replicas can carry",
    "serving.crash": "replicas crash, hang or answer wrongly",
    "serving.dependency": "something that the service calls is slow or down",
    "serving.traffic": "the mix of requests has changed",
    "release.code": "a release of the service made it worse",
    "release.model": "a new model version is worse than the one before",
    "release.config": "a configuration change made it worse",
    "data.contract": "input data broke its contract (missing, unit, type, range)",
    "data.stale": "input data is no longer fresh",
    "data.drift": "the inputs have moved away from the reference",
    "data.prior": "the mix of true classes has moved",
    "concept.drift": "the relation between inputs and labels has changed",
    "label.late": "labels are late or missing",
    "label.bad": "labels are wrong",
    "observer.blind": "we cannot see: a source is stale, hung or absent",
    "unknown": "no cause that we can name has enough evidence",
}
"""Every leaf of the tree, with one line that a tired person understands."""


def known(prefix: str) -> bool:
    """Tell whether `prefix` is a cause or a branch of the tree."""
    return any(matches(prefix, cause) for cause in CAUSES)


def matches(prefix: str, cause: str) -> bool:
    """Tell whether `cause` is `prefix` or lies below it; whole words only."""
    return cause == prefix or cause.startswith(prefix + ".")


def words(cause: str) -> str:
    """Return the line for people; the cause itself when it is not in the tree."""
    return CAUSES.get(cause, cause)
