"""GPU: does it work, is it held back, is it breaking, and who uses it."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.parts import (
    FINE,
    ORANGE,
    YES_NO,
    Q,
    Row,
    bad_from,
    board,
    choice,
    lines,
    named,
    ok_until,
    says,
    signal,
    stat,
    states,
    values,
)

UID = "homeostat-gpu"
_NONE = "no GPU here"
_NAME = "{{name}} {{entity}}"


def _gpu(name: str, **labels: str) -> str:
    return signal(name, entity="$gpu", **labels)


def build() -> m.Dashboard:
    """Build it."""
    return board(
        UID,
        "Homeostat / GPU",
        "Does it work, is it held back, is it breaking, and who uses it.",
        [
            choice(
                "gpu", "GPU", "GPUs by their UUID, instances (MIG) among them.",
                values("entity", signal("gpu.reachable")), many=True,
            ),
        ],
        [
            Row("Does it work?", (
                stat(
                    "Lost", "GPUs that do not answer.", Q(f'count({_gpu("gpu.reachable")} == 0) or vector(0)'),
                    steps=bad_from(1),
                ),
                stat(
                    "Breaking", "GPUs of which the driver told an error (XID) in the last ten minutes, or whose memory rows could "
                    "not be remapped, or that need a reset.",
                    Q(
                        f'count(max by (entity) ({_gpu("gpu.xid_seen")} or {_gpu("gpu.remap_failed")}'
                        f' or {_gpu("gpu.recovery_needed")}) > 0) or vector(0)'
                    ),
                    steps=bad_from(1),
                ),
                stat(
                    "Held back", "GPUs whose clock heat or power hold back.",
                    Q(f'count(max by (entity) ({_gpu("gpu.throttled")}) > 0) or vector(0)'), steps=bad_from(1, ORANGE),
                ),
                stat(
                    "Hottest", says("gpu.temperature_celsius"), Q(f'max({_gpu("gpu.temperature_celsius")})'), unit="celsius",
                    steps=ok_until(80, 90), none=_NONE, line=True,
                ),
                stat(
                    "Fullest memory", says("gpu.memory_utilization_ratio"), Q(f'max({_gpu("gpu.memory_utilization_ratio")})'),
                    unit="percentunit", steps=ok_until(0.9, 0.97), none=_NONE, line=True,
                ),
                stat(
                    "Work", "Mean share of time that kernels ran.", Q(f'avg({_gpu("gpu.utilization_ratio")})'),
                    unit="percentunit", none=_NONE, line=True,
                ),
                states(
                    "Held back, and why", says("gpu.throttled"), Q(named(_gpu("gpu.throttled")), _NAME + ": {{reason}}"),
                    maps={"0": ("no", "green"), "1": ("yes", ORANGE)}, none=_NONE,
                ),
                states(
                    "Errors that the driver told", says("gpu.xid_seen"), Q(_gpu("gpu.xid_seen"), "{{entity}}: XID {{xid}}"),
                    none="no errors were told, or no GPU is here",
                ),
            )),
            Row("Work", (
                lines(
                    "Utilisation", says("gpu.utilization_ratio"), Q(named(_gpu("gpu.utilization_ratio")), _NAME),
                    unit="percentunit", high=1.0, none=_NONE,
                ),
                lines(
                    "Memory in use", says("gpu.memory_utilization_ratio"),
                    Q(named(_gpu("gpu.memory_utilization_ratio")), _NAME), unit="percentunit", high=1.0, none=_NONE,
                ),
                lines(
                    "Clock against its maximum", says("gpu.clock_ratio"), Q(named(_gpu("gpu.clock_ratio")), _NAME),
                    unit="percentunit", size=(8, 8), none=_NONE,
                ),
                lines(
                    "Memory bus", says("gpu.memory_busy_ratio"), Q(named(_gpu("gpu.memory_busy_ratio")), _NAME),
                    unit="percentunit", size=(8, 8), none="these GPUs do not tell",
                ),
                lines(
                    "Who holds its memory", says("process.gpu_memory_bytes"),
                    Q(named(signal("process.gpu_memory_bytes", gpu=".+")), "{{name}} on {{gpu}}"), unit="bytes", size=(8, 8),
                    stacked=True, none="no process computes there",
                ),
            )),
            Row("Heat and power", (
                lines(
                    "Temperature", "Temperature of the chip and of the memory.",
                    Q(named(_gpu("gpu.temperature_celsius")), _NAME),
                    Q(named(_gpu("gpu.memory_temperature_celsius")), _NAME + " memory"), unit="celsius", low=None,
                    size=(8, 8), none=_NONE,
                ),
                lines(
                    "Degrees left", says("gpu.temperature_margin_celsius"),
                    Q(named(_gpu("gpu.temperature_margin_celsius")), _NAME), unit="celsius", size=(8, 8),
                    none="these GPUs do not tell",
                ),
                lines(
                    "Power", "Power drawn. Dashed: what it may draw.", Q(named(_gpu("gpu.power_watts")), _NAME),
                    Q(named(_gpu("gpu.power_limit_watts")), "limit of " + _NAME), unit="watt", dashed=["^limit of"],
                    size=(8, 8), none=_NONE,
                ),
            )),
            Row("Is it breaking?", (
                lines(
                    "Memory errors", says("gpu.ecc_errors_per_second"),
                    Q(named(_gpu("gpu.ecc_errors_per_second")), _NAME + ": {{type}}"), unit="ops", size=(8, 8),
                    none="these GPUs have no ECC",
                ),
                lines(
                    "Rows remapped, pages retired", "Memory that was taken out of use.",
                    Q(named(_gpu("gpu.remapped_rows_count")), _NAME + ": rows, {{type}}"),
                    Q(named(_gpu("gpu.retired_pages_count")), _NAME + ": pages, {{type}}"), size=(8, 8),
                    none="these GPUs do not tell",
                ),
                states(
                    "Asked for by the driver", "Rows that wait to be remapped, remapping that failed, a reset or a reboot that the "
                    "driver asks for.",
                    Q(named(_gpu("gpu.remap_pending")), _NAME + ": remap pending"),
                    Q(named(_gpu("gpu.remap_failed")), _NAME + ": remap failed"),
                    Q(named(_gpu("gpu.recovery_needed")), _NAME + ": recovery needed"), maps=YES_NO, size=(8, 8),
                    none="these GPUs do not tell",
                ),
                lines(
                    "PCIe link", "Width against its maximum, and generation; an idle GPU lowers the latter.",
                    Q(named(_gpu("gpu.pcie_link_ratio")), _NAME + ": width"),
                    Q(named(_gpu("gpu.pcie_generation_ratio")), _NAME + ": generation"), unit="percentunit", high=1.0,
                    size=(8, 8), none=_NONE,
                ),
                lines(
                    "NVLinks that are up", says("gpu.nvlinks_count"), Q(named(_gpu("gpu.nvlinks_count")), _NAME), size=(8, 8),
                    none="these GPUs have no NVLinks",
                ),
                states(
                    "Answers", says("gpu.reachable"), Q(_gpu("gpu.reachable"), "{{entity}}"), maps=FINE, size=(8, 8), none=_NONE,
                ),
            )),
        ],
        since="now-3h",
    )  # fmt: skip
