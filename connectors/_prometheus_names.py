"""What exporters and model servers call things, and what we call them: one row a metric, in one table.

    plain     foreign metric -> signal, asked for as it is: counters stay counters, the collector makes rates
    derived   PromQL -> signal: shares, quantiles and means, which only the server can make; `$w` is its window

Whom a series is about is read off its labels (`agent/labels.py`), once. Several foreign series of one of ours are
added, or the worst of them counts where adding would mean nothing. Not of a GPU: exporters repeat what they tell of a
whole GPU for each of its instances and each pod that shares it, two balancers count the same servers. Such rows are
one; only what is a part is added.
Where two exporters tell the same of the same (a load balancer and a model server behind it), the first here counts.
Sources (read, then told in our own words): the metric lists of node_exporter, smartctl_exporter, cAdvisor,
kube-state-metrics, dcgm-exporter, nginx-prometheus-exporter, ingress-nginx, HAProxy, vLLM (0.6 to 0.18), Triton,
TorchServe, TensorFlow Serving, KServe and MLServer; Micrometer's, OpenTelemetry's and Istio's metrics of requests. Against running servers tested: node_exporter, HAProxy; the others
by series written like theirs, in a real Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from agent.calls import RULES
from agent.labels import Labels
from connectors._joined import fold_of

SIGNAL_LABEL: Final = "homeostat_signal"
"""Tells the addends of one joint question apart."""
_DEVICES: Final = r'device!~"lo|veth.*|br-.*|docker.*|cali.*|cni.*|flannel.*|tunl.*"'
_DISKS: Final = r'device!~"(ram|loop|fd|sr).*"'
_MOUNTS: Final = 'fstype!~"tmpfs|overlay|squashfs|ramfs|devtmpfs|nsfs|fuse.*|iso9660|autofs"'
_SERVICE: Final = "job, namespace, app, app_kubernetes_io_name, service_name, deployment, isvc, exported_namespace"
"""Labels that name a service: what quantiles are kept apart by."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A foreign metric that is a signal of ours.

    labels   our label -> theirs
    fixed    our label -> its value
    where    their label -> pattern that its value must match
    scale    to base units
    whom     their label that names the service, where the target of the scrape is not who is spoken of
    whole    each series tells the whole, as those of a GPU do: from several targets it is still one
    part     their label that names a part of the whole; parts are added
    beside   tells rows apart that are added, because each counts something else of the same signal
    """

    metric: str
    signal: str
    labels: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    whom: str = ""
    whole: bool = False
    part: str = ""
    beside: str = ""

    def fits(self, labels: Labels) -> bool:
        """Tell whether a series of this metric is meant."""
        return all(re.fullmatch(p, labels.get(k, "")) for k, p in self.where.items())

    def which(self, labels: Labels) -> tuple[str, str] | None:
        """Say which part of a whole is told: series of the same part say the same thing; None = each is one of its own."""
        if not (self.whole or self.signal.startswith("gpu.")) or fold_of(self.signal) != "add":
            return None
        return self.beside, labels.get(self.part, "")


@dataclass(frozen=True, slots=True)
class Derived:
    """PromQL that gives a signal of ours; `about` is the metric whose labels it keeps.

    whom, space   their labels that name the service and its namespace, where the target is not who is spoken of
    tells         its labels name somebody whom no plain metric names
    """

    signal: str
    query: str
    about: str
    labels: Mapping[str, str] = field(default_factory=dict)
    whom: str = ""
    space: str = ""
    tells: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """All that we take of one exporter; it is there when `marker` is, or another of these names."""

    name: str
    marker: str
    plain: tuple[Plain, ...] = ()
    derived: tuple[Derived, ...] = ()
    matchers: str = ""
    also: tuple[str, ...] = ()

    def among(self, names: Container[str]) -> bool:
        """Tell whether it is there, of all names that there are."""
        return any(name in names for name in (self.marker, *self.also))

    def selector(self) -> str:
        """Return one question for all plain metrics."""
        names = "|".join(dict.fromkeys(p.metric for p in self.plain))
        return f'{{__name__=~"{names}"{self.matchers}}}' if names else ""

    def question(self, window: str) -> str:
        """Return one question for all that is derived, each addend marked by its place in the table."""
        return " or ".join(
            f'label_replace({d.query.replace("$w", window)}, "{SIGNAL_LABEL}", "{self.name}/{i}", "", "")'
            for i, d in enumerate(self.derived)
        )


def _host(names: Iterable[tuple[str, str]], **fixed: str) -> tuple[Plain, ...]:
    return tuple(Plain(theirs, ours, fixed=fixed) for theirs, ours in names)


def _device(kind: str, names: Iterable[tuple[str, str]], **fixed: str) -> tuple[Plain, ...]:
    where = {"device": "(?!(lo|veth|br-|docker|cali|cni|flannel|tunl)).*"} if kind == "interface" else {
        "device": "(?!(ram|loop|fd|sr)).*"}  # fmt: skip
    return tuple(Plain(t, o, {kind: "device"}, fixed, where) for t, o in names)


def _latency(bucket: str, *, scale: str = "", matchers: str = "") -> tuple[Derived, ...]:
    return tuple(
        Derived(
            f"service.latency_p{round(100 * q)}_seconds",
            f"histogram_quantile({q:g}, sum by (le, {_SERVICE}) (rate({_select(bucket, matchers)}[$w]))){scale}",
            bucket,
        )
        for q in (0.5, 0.95, 0.99)
    )


def _quantile(signal: str, q: float, bucket: str) -> Derived:
    query = f"histogram_quantile({q:g}, sum by (le, {_SERVICE}) (rate({bucket}[$w])))"
    return Derived(signal, query, bucket)


def _mean(signal: str, histogram: str, scale: str = "") -> Derived:
    """Return the mean of what a histogram or summary has seen."""
    total, count = (
        f"sum by ({_SERVICE}) (rate({_select(f'{histogram}_{x}')}[$w]))" for x in ("sum", "count")
    )
    return Derived(signal, f"({total}{scale} / ({count} > 0))", f"{histogram}_count")


def _select(metric: str, matchers: str = "") -> str:
    """Return a selector that any name may stand in, also one that begins with a colon or is a pattern."""
    how = "=" if re.fullmatch(r"[\w:]+", metric) else "=~"
    return f'{{__name__{how}"{metric}"{matchers}}}'


def _requests(counter: str, failed: str, by: str = _SERVICE) -> tuple[Derived, ...]:
    """Requests and the share that failed, of one counter; no failed one is 0, not unknown."""
    total = f"sum by ({by}) (rate({_select(counter)}[$w]))"
    bad = f"sum by ({by}) (rate({_select(counter, ', ' + failed)}[$w]))"
    return (
        Derived("service.requests_per_second", total, counter),
        Derived("service.error_ratio", f"(({bad} or {total} * 0) / ({total} > 0))", counter),
    )


_NODE: Final = Pack(
    "node_exporter",
    "node_cpu_seconds_total",
    (
        *_host((
            ("node_load1", "host.load1_count"), ("node_load5", "host.load5_count"), ("node_load15", "host.load15_count"),
            ("node_context_switches_total", "host.context_switches_total"), ("node_intr_total", "host.interrupts_total"),
            ("node_forks_total", "host.forks_total"), ("node_filefd_allocated", "host.file_descriptors_count"),
            ("node_vmstat_oom_kill", "host.oom_kills_total"), ("node_entropy_available_bits", "host.entropy_count"),
            ("node_netstat_Tcp_RetransSegs", "host.tcp_retransmits_total"),
            ("node_netstat_TcpExt_ListenOverflows", "host.listen_overflows_total"),
            ("node_netstat_Tcp_CurrEstab", "host.tcp_established_count"),
            ("node_nf_conntrack_entries", "host.conntrack_count"),
            ("node_timex_sync_status", "host.clock_synchronized"), ("node_timex_offset_seconds", "host.clock_offset_seconds"),
            ("node_timex_maxerror_seconds", "host.clock_error_seconds"),
        )),
        *_host((("node_procs_running", "host.processes_count"),), state="running"),
        *_host((("node_procs_blocked", "host.processes_count"),), state="blocked"),
        *_host((("node_vmstat_pgmajfault", "host.page_faults_total"),), type="major"),
        *_host((("node_netstat_Tcp_InSegs", "host.tcp_segments_total"),), direction="in"),
        *_host((("node_netstat_Tcp_OutSegs", "host.tcp_segments_total"),), direction="out"),
        *_host((("node_netstat_Tcp_OutRsts", "host.tcp_resets_total"),), direction="out"),
        *_host((("node_netstat_Tcp_ActiveOpens", "host.tcp_opens_total"),), type="active"),
        *_host((("node_netstat_Tcp_PassiveOpens", "host.tcp_opens_total"),), type="passive"),
        *(
            Plain(f"node_pressure_{resource}_{word}_seconds_total", "host.pressure_seconds_total",
                  fixed={"resource": resource, "who": who})
            for resource in ("cpu", "memory", "io") for word, who in (("waiting", "some"), ("stalled", "full"))
            if (resource, word) != ("cpu", "stalled")
        ),
        Plain("node_pressure_irq_stalled_seconds_total", "host.pressure_seconds_total",
              fixed={"resource": "irq", "who": "full"}),
        *(
            Plain(f"node_memory_{theirs}_bytes", "host.memory_bytes", fixed={"use": ours})
            for theirs, ours in (("MemFree", "free"), ("MemAvailable", "available"), ("Cached", "cached"),
                                 ("Buffers", "buffers"), ("Dirty", "dirty"))
        ),
        *_device("interface", (
            ("node_network_receive_bytes_total", "host.network_received_bytes_total"),
            ("node_network_transmit_bytes_total", "host.network_sent_bytes_total"),
            ("node_network_receive_packets_total", "host.network_received_packets_total"),
            ("node_network_transmit_packets_total", "host.network_sent_packets_total"),
            ("node_network_up", "host.network_up"),
            ("node_network_speed_bytes", "host.network_speed_bytes_per_second"),
            ("node_network_carrier_changes_total", "host.network_carrier_changes_total"),
        )),
        *_device("interface", (("node_network_receive_errs_total", "host.network_errors_total"),
                               ("node_network_receive_drop_total", "host.network_drops_total")), direction="in"),
        *_device("interface", (("node_network_transmit_errs_total", "host.network_errors_total"),
                               ("node_network_transmit_drop_total", "host.network_drops_total")), direction="out"),
        *_device("device", (
            ("node_disk_read_bytes_total", "host.disk_read_bytes_total"),
            ("node_disk_written_bytes_total", "host.disk_written_bytes_total"),
            ("node_disk_reads_completed_total", "host.disk_reads_total"),
            ("node_disk_writes_completed_total", "host.disk_writes_total"),
            ("node_disk_io_time_seconds_total", "host.disk_busy_seconds_total"),
            ("node_disk_io_time_weighted_seconds_total", "host.disk_queue_seconds_total"),
            ("node_disk_io_now", "host.disk_in_flight_count"),
        )),
        Plain("node_edac_correctable_errors_total", "host.memory_errors_total", {"controller": "controller"}, {"type": "corrected"}),
        Plain("node_edac_uncorrectable_errors_total", "host.memory_errors_total", {"controller": "controller"}, {"type": "uncorrected"}),
        Plain("node_md_disks", "host.raid_disks_count", {"array": "device", "state": "state"}),
        Plain("node_filesystem_readonly", "host.mount_read_only", {"mount": "mountpoint"},
              where={"fstype": "(?!tmpfs|overlay|squashfs|ramfs|devtmpfs|nsfs|fuse|iso9660|autofs).*"}),
        Plain("node_infiniband_port_data_received_bytes_total", "host.infiniband_received_bytes_total", {"device": "device", "port": "port"}),
        Plain("node_infiniband_port_data_transmitted_bytes_total", "host.infiniband_sent_bytes_total", {"device": "device", "port": "port"}),
        Plain("node_infiniband_link_downed_total", "host.infiniband_errors_total", {"device": "device", "port": "port"}, {"type": "link_downed"}),
        Plain("node_hwmon_temp_celsius", "host.temperature_celsius", {"chip": "chip", "sensor": "sensor"}),
    ),
    (
        Derived("host.cpu_utilization_ratio", "avg without (cpu) (rate(node_cpu_seconds_total[$w]))",
                "node_cpu_seconds_total", {"mode": "mode"}),
        Derived("host.cpu_busy_ratio",
                'clamp(1 - sum without (mode) (avg without (cpu) (rate(node_cpu_seconds_total{mode=~"idle|iowait"}[$w]))), 0, 1)',
                "node_cpu_seconds_total"),
        Derived("host.memory_utilization_ratio", "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
                "node_memory_MemTotal_bytes"),
        Derived("host.swap_utilization_ratio", "1 - node_memory_SwapFree_bytes / (node_memory_SwapTotal_bytes > 0)",
                "node_memory_SwapTotal_bytes"),
        Derived("host.disk_utilization_ratio",
                f"1 - node_filesystem_avail_bytes{{{_MOUNTS}}} / (node_filesystem_size_bytes{{{_MOUNTS}}} > 0)",
                "node_filesystem_size_bytes", {"mount": "mountpoint"}),
        Derived("host.mount_reachable", f"1 - node_filesystem_device_error{{{_MOUNTS}}}", "node_filesystem_device_error",
                {"mount": "mountpoint"}),
        Derived("host.raid_degraded",
                '(node_md_disks_required - ignoring (state) node_md_disks{state="active"} > bool 0)',
                "node_md_disks_required", {"array": "device"}),
        Derived("host.disk_inodes_ratio",
                f"1 - node_filesystem_files_free{{{_MOUNTS}}} / (node_filesystem_files{{{_MOUNTS}}} > 0)",
                "node_filesystem_files", {"mount": "mountpoint"}),
        Derived("host.disk_read_latency_seconds",
                f"rate(node_disk_read_time_seconds_total{{{_DISKS}}}[$w]) / (rate(node_disk_reads_completed_total{{{_DISKS}}}[$w]) > 0)",
                "node_disk_read_time_seconds_total", {"device": "device"}),
        Derived("host.disk_write_latency_seconds",
                f"rate(node_disk_write_time_seconds_total{{{_DISKS}}}[$w]) / (rate(node_disk_writes_completed_total{{{_DISKS}}}[$w]) > 0)",
                "node_disk_write_time_seconds_total", {"device": "device"}),
        Derived("host.file_descriptors_ratio", "node_filefd_allocated / (node_filefd_maximum > 0)", "node_filefd_maximum"),
        Derived("host.conntrack_ratio", "node_nf_conntrack_entries / (node_nf_conntrack_entries_limit > 0)",
                "node_nf_conntrack_entries"),
        Derived("host.uptime_seconds", "time() - node_boot_time_seconds", "node_boot_time_seconds"),
    ),
)  # fmt: skip

_SMARTCTL: Final = Pack(
    "smartctl_exporter",
    "smartctl_device_smart_status",
    (
        Plain("smartctl_device_temperature", "host.disk_temperature_celsius", {"device": "device"},
              where={"temperature_type": "current"}),
        Plain("smartctl_device_percentage_used", "host.disk_wear_ratio", {"device": "device"}, scale=0.01),
        Plain("smartctl_device_available_spare", "host.disk_spare_ratio", {"device": "device"}, scale=0.01),
        Plain("smartctl_device_media_errors", "host.disk_errors_total", {"device": "device"}, {"type": "media"}),
        *(
            Plain("smartctl_device_attribute", signal, {"device": "device"}, {"type": kind},
                  {"attribute_id": number, "attribute_value_type": "raw"})
            for signal, kind, number in (
                ("host.disk_bad_sectors_count", "reallocated", "5"), ("host.disk_bad_sectors_count", "pending", "197"),
                ("host.disk_bad_sectors_count", "uncorrectable", "198"), ("host.disk_errors_total", "media", "187"),
                ("host.disk_errors_total", "link", "199"),
            )
        ),
    ),
    (Derived("host.disk_failing", "1 - smartctl_device_smart_status", "smartctl_device_smart_status",
             {"device": "device"}),),
)  # fmt: skip

_CONTAINERS: Final = (
    ("container_cpu_usage_seconds_total", "replica.cpu_seconds_total"),
    ("container_memory_working_set_bytes", "replica.memory_bytes"),
    ("container_cpu_cfs_throttled_seconds_total", "replica.throttled_seconds_total"),
    ("container_oom_events_total", "replica.oom_kills_total"),
)


def _containers(name: str, where: Mapping[str, str], matchers: str) -> Pack:
    """Return what cAdvisor tells of containers of one kind."""
    limited = f"(container_spec_memory_limit_bytes{{{matchers}}} > 0)"
    return Pack(
        name,
        "container_cpu_usage_seconds_total",
        tuple(Plain(theirs, ours, where=where) for theirs, ours in _CONTAINERS),
        (
            Derived(
                "replica.memory_ratio",
                f"container_memory_working_set_bytes{{{matchers}}} / {limited}",
                "container_memory_working_set_bytes",
            ),
        ),
        # the sums over pods and slices that cAdvisor tells, too, would count everything twice
        matchers=f", {matchers}",
    )


_CADVISOR: Final = _containers("cadvisor", {"container": ".+"}, 'container!="", container!="POD"')
# outside of Kubernetes nobody names the container but Docker itself; a sandbox of a pod has no `container` either
_CADVISOR_DOCKER: Final = _containers(
    "cadvisor_docker", {"container": "", "pod": "", "name": ".+"}, 'container="", pod="", name!=""'
)

_POD: Final = "namespace, pod, exported_namespace, exported_pod"
_POD_CONTAINER: Final = f"{_POD}, container, exported_container"
_HPA: Final = "namespace, exported_namespace, horizontalpodautoscaler"
_KUBE_STATE: Final = Pack(
    "kube_state_metrics",
    "kube_pod_status_ready",
    (
        Plain("kube_pod_container_status_restarts_total", "replica.restarts_total"),
        Plain("kube_pod_status_ready", "replica.ready", where={"condition": "true"}),
        # told only while it is so; what every container does when it begins is no trouble
        Plain("kube_pod_container_status_waiting_reason", "replica.waiting", {"reason": "reason"},
              where={"reason": "(?!(ContainerCreating|PodInitializing)$).+"}),
        Plain("kube_node_status_condition", "host.ready", where={"condition": "Ready", "status": "true"}),
        Plain("kube_node_spec_unschedulable", "host.cordoned"),
        *(Plain(f"kube_{kind}_status_replicas_{word}", "service.replicas_count", whom=kind, whole=True, beside=kind)
          for kind, word in (("deployment", "available"), ("statefulset", "ready"))),
    ),
    (
        *(
            Derived("service.replicas_missing_count",
                    f"clamp_min(kube_{kind}_{wanted} - kube_{kind}_status_replicas_{there}, 0)", f"kube_{kind}_{wanted}",
                    whom=kind)
            for kind, wanted, there in (("deployment", "spec_replicas", "available"), ("statefulset", "replicas", "ready"))
        ),
        # the reason of the last end is told for ever: it is one of now when the container was restarted since
        Derived("replica.oom_killed",
                f'max by ({_POD}) ((max by ({_POD_CONTAINER}) '
                '(kube_pod_container_status_last_terminated_reason{reason="OOMKilled"}) > 0) '
                f"* (max by ({_POD_CONTAINER}) (increase(kube_pod_container_status_restarts_total[10m])) > bool 0))",
                "kube_pod_container_status_last_terminated_reason"),
        *(
            Derived(f"service.replicas_{ours}_count",
                    f"max by (namespace, exported_namespace, scaletargetref_name) (kube_horizontalpodautoscaler_spec_{theirs}_replicas"
                    f" * on ({_HPA}) group_left (scaletargetref_name) "
                    f"max by ({_HPA}, scaletargetref_name) (kube_horizontalpodautoscaler_info))",
                    f"kube_horizontalpodautoscaler_spec_{theirs}_replicas", whom="scaletargetref_name")
            for ours, theirs in (("least", "min"), ("most", "max"))
        ),
    ),
)  # fmt: skip

_REASONS: Final = (("power_cap", 4), ("hardware_slowdown", 8), ("thermal", 32), ("hardware_thermal", 64),
                   ("power_brake", 128))  # fmt: skip
_DCGM_PLAIN: Final = (
    Plain("DCGM_FI_DEV_GPU_UTIL", "gpu.utilization_ratio", scale=0.01),
    Plain("DCGM_FI_DEV_FB_USED", "gpu.memory_used_bytes", scale=2.0**20, part="GPU_I_ID"),
    Plain("DCGM_FI_DEV_GPU_TEMP", "gpu.temperature_celsius"),
    Plain("DCGM_FI_DEV_POWER_USAGE", "gpu.power_watts"),
    Plain("DCGM_FI_DEV_POWER_MGMT_LIMIT", "gpu.power_limit_watts"),
    Plain("DCGM_FI_DEV_SM_CLOCK", "gpu.clock_hertz", scale=1e6),
    Plain("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "gpu.ecc_errors_total", fixed={"type": "uncorrected"}),
    Plain("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "gpu.ecc_errors_total", fixed={"type": "corrected"}),
    Plain("DCGM_FI_DEV_ROW_REMAP_PENDING", "gpu.remap_pending"),
    Plain("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gpu.remap_failed"),
    Plain("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "gpu.remapped_rows_count", fixed={"type": "corrected"}),
    Plain("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "gpu.remapped_rows_count", fixed={"type": "uncorrected"}),
    Plain("DCGM_FI_DEV_MEMORY_TEMP", "gpu.memory_temperature_celsius"),
    Plain("DCGM_FI_DEV_MEM_CLOCK", "gpu.memory_clock_hertz", scale=1e6),
    Plain("DCGM_FI_DEV_MEM_COPY_UTIL", "gpu.memory_busy_ratio", scale=0.01),
    Plain("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "gpu.pcie_replays_total"),
    Plain("DCGM_FI_DEV_RETIRED_SBE", "gpu.retired_pages_count", fixed={"type": "corrected"}),
    Plain("DCGM_FI_DEV_RETIRED_DBE", "gpu.retired_pages_count", fixed={"type": "uncorrected"}),
    Plain("DCGM_FI_DEV_FAN_SPEED", "gpu.fan_ratio", scale=0.01),
    Plain("DCGM_FI_DEV_MIG_MODE", "gpu.mig_enabled"),
    *(
        Plain(f"DCGM_FI_DEV_NVLINK_{word}_ERROR_COUNT_TOTAL", "gpu.nvlink_errors_total", fixed={"type": kind}, beside=word)
        for word, kind in (("CRC_FLIT", "crc"), ("CRC_DATA", "crc"), ("REPLAY", "replay"), ("RECOVERY", "recovery"))
    ),
)  # fmt: skip
_DCGM_NAMES: Final = {
    f"DCGM_FI_DEV_{old}": f"DCGM_FI_DEV_{new}"
    for old, new in (
        ("GPU_TEMP", "GPU_TEMP_CELSIUS"), ("MEMORY_TEMP", "MEMORY_TEMP_CELSIUS"), ("POWER_USAGE", "BOARD_POWER_WATTS"),
        ("POWER_MGMT_LIMIT", "BOARD_POWER_LIMIT_REQUESTED_WATTS"), ("PCIE_REPLAY_COUNTER", "PCIE_REPLAY_TOTAL"),
        ("RETIRED_SBE", "PAGE_RETIRED_SBE_TOTAL"), ("RETIRED_DBE", "PAGE_RETIRED_DBE_TOTAL"),
        ("UNCORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_UNCORRECTABLE_TOTAL"),
        ("CORRECTABLE_REMAPPED_ROWS", "ROW_REMAP_CORRECTABLE_TOTAL"), ("ROW_REMAP_FAILURE", "ROW_REMAP_FAILED"),
        *((f"NVLINK_{word}_ERROR_COUNT_TOTAL", f"NVLINK_{word}_ERROR_TOTAL")
          for word in ("CRC_FLIT", "CRC_DATA", "REPLAY", "RECOVERY")),
    )
}  # fmt: skip
"""Fields that DCGM 4.6 calls otherwise and exporters since 4.9 show so."""
_DCGM_BASE: Final = {
    f"DCGM_FI_DEV_{old}": f"DCGM_FI_DEV_{new}"
    for old, new in (
        ("GPU_UTIL", "GPU_UTIL_RATIO"), ("MEM_COPY_UTIL", "MEMORY_UTIL_RATIO"), ("FB_USED", "FB_USED_BYTES"),
        ("SM_CLOCK", "SM_CLOCK_HERTZ"), ("MEM_CLOCK", "MEMORY_CLOCK_HERTZ"), ("FAN_SPEED", "FAN_SPEED_RATIO"),
    )
}  # fmt: skip
"""Fields beside which DCGM 4.7 has one in base units, which exporters since 4.9 show instead.

DCGM 4.6 says percent under the name `GPU_UTIL_RATIO`, but what its exporters show unless told otherwise is `GPU_UTIL`.
"""
_OF_GPU: Final = "UUID, uuid, gpu_uuid"
"""What exporters call the label that names a GPU."""
_DCGM: Final = Pack(
    "dcgm_exporter",
    "DCGM_FI_DEV_GPU_TEMP",
    (
        *_DCGM_PLAIN,
        *(replace(p, metric=_DCGM_NAMES[p.metric]) for p in _DCGM_PLAIN if p.metric in _DCGM_NAMES),
        *(replace(p, metric=_DCGM_BASE[p.metric], scale=1.0) for p in _DCGM_PLAIN if p.metric in _DCGM_BASE),
    ),
    (
        # of a GPU that is split: the instance that is fullest
        Derived("gpu.memory_utilization_ratio",
                "(DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE > 0) or "
                "DCGM_FI_DEV_FB_USED_BYTES / (DCGM_FI_DEV_FB_USED_BYTES + DCGM_FI_DEV_FB_FREE_BYTES > 0))",
                "DCGM_FI_DEV_FB_USED"),
        Derived("gpu.clock_ratio",
                "(DCGM_FI_DEV_SM_CLOCK / (DCGM_FI_DEV_MAX_SM_CLOCK > 0) or "
                "DCGM_FI_DEV_SM_CLOCK_HERTZ / (DCGM_FI_DEV_SM_MAX_CLOCK_HERTZ > 0))",
                "DCGM_FI_DEV_SM_CLOCK"),
        Derived("gpu.pcie_link_ratio", "DCGM_FI_DEV_PCIE_LINK_WIDTH / (DCGM_FI_DEV_PCIE_MAX_LINK_WIDTH > 0)",
                "DCGM_FI_DEV_PCIE_LINK_WIDTH"),
        Derived("gpu.pcie_generation_ratio", "DCGM_FI_DEV_PCIE_LINK_GEN / (DCGM_FI_DEV_PCIE_MAX_LINK_GEN > 0)",
                "DCGM_FI_DEV_PCIE_LINK_GEN"),
        # what the driver itself says is left, else what the chip has left until it slows down
        Derived("gpu.temperature_margin_celsius",
                "(DCGM_FI_DEV_GPU_TEMP_LIMIT or DCGM_FI_DEV_GPU_TEMP_MARGIN_CELSIUS or "
                "(DCGM_FI_DEV_SLOWDOWN_TEMP - DCGM_FI_DEV_GPU_TEMP) or "
                "(DCGM_FI_DEV_GPU_TEMP_SLOWDOWN_CELSIUS - DCGM_FI_DEV_GPU_TEMP_CELSIUS))",
                "DCGM_FI_DEV_GPU_TEMP"),
        Derived("gpu.recovery_needed", "DCGM_FI_DEV_GPU_RECOVERY_ACTION > bool 0", "DCGM_FI_DEV_GPU_RECOVERY_ACTION"),
        # a count, too, beside the counter: one more is a fault; volatile: since the driver was loaded
        Derived("gpu.uncorrected_errors_count", f"max by ({_OF_GPU}) (DCGM_FI_DEV_ECC_DBE_VOL_TOTAL)",
                "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"),
        # a mask of bits, under its new name or its old one
        *(
            Derived("gpu.throttled",
                    'label_replace(floor((DCGM_FI_DEV_CLOCKS_EVENT_REASONS or DCGM_FI_DEV_CLOCK_THROTTLE_REASONS) '
                    f'/ {bit}) % 2, "reason", "{reason}", "", "")',
                    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS", {"reason": "reason"})
            for reason, bit in _REASONS
        ),
        # the exporter says the last XID for ever: only one that is new is told, and only for a while
        Derived("gpu.xid_seen",
                f'clamp_max(count_values by ({_OF_GPU}, gpu) ("xid", '
                + " or ".join(f"({name} > 0 and changes({name}[10m]) > 0)"
                              for name in ("DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR"))
                + "), 1)", "DCGM_FI_DEV_XID_ERRORS", {"xid": "xid"}),
    ),
    also=("DCGM_FI_DEV_GPU_TEMP_CELSIUS",),
)  # fmt: skip

_NGINX: Final = Pack(
    "nginx",
    "nginx_http_requests_total",
    (
        # of the active ones, too, but these only wait for the client's next request
        Plain("nginx_connections_reading", "service.in_flight_count"),
        Plain("nginx_connections_writing", "service.in_flight_count"),
        Plain("nginx_up", "service.up"),
    ),
    (Derived("service.requests_per_second", f"sum by ({_SERVICE}) (rate(nginx_http_requests_total[$w]))",
             "nginx_http_requests_total"),),
)  # fmt: skip

_INGRESS: Final = Pack(
    "ingress_nginx",
    "nginx_ingress_controller_requests",
    derived=(
        *(
            Derived(d.signal, d.query, d.about, whom="exported_service")
            for d in _requests("nginx_ingress_controller_requests", 'status=~"5.."',
                               "exported_service, exported_namespace")
        ),
        *(
            Derived(f"service.latency_p{round(100 * q)}_seconds",
                    f"histogram_quantile({q:g}, sum by (le, exported_service, exported_namespace) "
                    "(rate(nginx_ingress_controller_request_duration_seconds_bucket[$w])))",
                    "nginx_ingress_controller_request_duration_seconds_bucket", whom="exported_service")
            for q in (0.5, 0.95, 0.99)
        ),
    ),
)  # fmt: skip

_HAPROXY: Final = Pack(
    "haproxy",
    "haproxy_backend_http_responses_total",
    (
        Plain("haproxy_backend_current_queue", "service.queue_count", whom="proxy"),
        Plain("haproxy_backend_current_sessions", "service.in_flight_count", whom="proxy"),
        Plain("haproxy_backend_active_servers", "service.replicas_count", whom="proxy", whole=True),
        Plain("haproxy_backend_status", "service.up", where={"state": "UP"}, whom="proxy"),
        # means of the last 1,024 requests, as HAProxy keeps them
        Plain("haproxy_backend_total_time_average_seconds", "service.latency_mean_seconds", whom="proxy"),
        Plain("haproxy_backend_response_time_average_seconds", "service.processing_mean_seconds", whom="proxy"),
        Plain("haproxy_backend_queue_time_average_seconds", "service.wait_mean_seconds", whom="proxy"),
    ),
    (
        *(
            Derived(d.signal, d.query, d.about, whom="proxy")
            for d in _requests("haproxy_backend_http_responses_total", 'code="5xx"', "proxy")
        ),
        # a server in maintenance was taken out, or is a place that was never filled
        Derived("replica.ready",
                'min by (proxy, server) (haproxy_server_status{state="UP"} '
                'unless on (job, instance, proxy, server) (haproxy_server_status{state="MAINT"} == 1))',
                "haproxy_server_status", tells=True),
    ),
)  # fmt: skip

_VLLM: Final = Pack(
    "vllm",
    "vllm:num_requests_running",
    (
        Plain("vllm:num_requests_running", "service.in_flight_count"),
        Plain("vllm:num_requests_waiting", "service.queue_count"),
        Plain("vllm:gpu_cache_usage_perc", "service.cache_ratio"),
        Plain("vllm:kv_cache_usage_perc", "service.cache_ratio"),  # the name since 0.10
        Plain("vllm:num_preemptions_total", "service.preemptions_total"),
    ),
    (
        *_latency("vllm:e2e_request_latency_seconds_bucket"),
        _quantile("service.first_token_p95_seconds", 0.95, "vllm:time_to_first_token_seconds_bucket"),
        _quantile("service.token_p95_seconds", 0.95, "vllm:inter_token_latency_seconds_bucket"),
        _quantile("service.token_p95_seconds", 0.95, "vllm:time_per_output_token_seconds_bucket"),  # before 0.11
        _mean("service.wait_mean_seconds", "vllm:request_queue_time_seconds"),
        # older versions do not count those that fail: then it is unknown, not 0
        Derived("service.error_ratio",
                f'(sum by ({_SERVICE}) (rate(vllm:request_success_total{{finished_reason="error"}}[$w])) '
                f"/ (sum by ({_SERVICE}) (rate(vllm:request_success_total[$w])) > 0))", "vllm:request_success_total"),
        Derived("service.requests_per_second", f"sum by ({_SERVICE}) (rate(vllm:request_success_total[$w]))",
                "vllm:request_success_total"),
        Derived("service.tokens_per_second", f"sum by ({_SERVICE}) (rate(vllm:generation_tokens_total[$w]))",
                "vllm:generation_tokens_total"),
    ),
)  # fmt: skip

_TRITON_GOOD: Final = f"sum by ({_SERVICE}) (rate(nv_inference_request_success[$w]))"
_TRITON_BAD: Final = f"sum by ({_SERVICE}) (rate(nv_inference_request_failure[$w]))"
_TRITON: Final = Pack(
    "triton",
    "nv_inference_request_success",
    (
        Plain("nv_inference_pending_request_count", "service.queue_count"),
        Plain("nv_gpu_utilization", "gpu.utilization_ratio"),
        Plain("nv_gpu_memory_used_bytes", "gpu.memory_used_bytes"),
        Plain("nv_gpu_power_usage", "gpu.power_watts"),
        Plain("nv_gpu_power_limit", "gpu.power_limit_watts"),
    ),
    (
        Derived("service.requests_per_second", _TRITON_GOOD, "nv_inference_request_success"),
        Derived("service.error_ratio", f"({_TRITON_BAD} / ({_TRITON_BAD} + {_TRITON_GOOD} > 0))",
                "nv_inference_request_failure"),
        Derived("service.processing_mean_seconds",
                f"sum by ({_SERVICE}) (rate(nv_inference_compute_infer_duration_us[$w])) / 1e6 / ({_TRITON_GOOD} > 0)",
                "nv_inference_request_success"),
        Derived("service.latency_mean_seconds",
                f"sum by ({_SERVICE}) (rate(nv_inference_request_duration_us[$w])) / 1e6 / ({_TRITON_GOOD} > 0)",
                "nv_inference_request_success"),
        Derived("service.wait_mean_seconds",
                f"sum by ({_SERVICE}) (rate(nv_inference_queue_duration_us[$w])) / 1e6 / ({_TRITON_GOOD} > 0)",
                "nv_inference_request_success"),
        # where --metrics-config summary_latencies=true; quantiles can not be added: those of the slowest model
        *(
            Derived(f"service.latency_p{round(100 * q)}_seconds",
                    f'max by ({_SERVICE}) (nv_inference_request_summary_us{{quantile="{q:g}"}}) / 1e6',
                    "nv_inference_request_summary_us")
            for q in (0.5, 0.95, 0.99)
        ),
        Derived("service.first_token_p95_seconds",
                f"histogram_quantile(0.95, sum by (le, {_SERVICE}) "
                "(rate(nv_inference_first_response_histogram_ms_bucket[$w]))) / 1e3",
                "nv_inference_first_response_histogram_ms_bucket"),
        Derived("gpu.memory_utilization_ratio", "nv_gpu_memory_used_bytes / (nv_gpu_memory_total_bytes > 0)",
                "nv_gpu_memory_used_bytes"),
    ),
)  # fmt: skip

_TORCH_GOOD, _TORCH_BAD = (f"sum by ({_SERVICE}) (rate(Requests{n}XX[$w]))" for n in (2, 5))
_TORCH_N: Final = f"sum by ({_SERVICE}) (rate(ts_inference_requests_total[$w]))"
_TORCHSERVE: Final = Pack(
    "torchserve",
    "ts_inference_requests_total",
    derived=(
        Derived("service.requests_per_second", _TORCH_N, "ts_inference_requests_total"),
        Derived("service.latency_mean_seconds",
                f"sum by ({_SERVICE}) (rate(ts_inference_latency_microseconds[$w])) / 1e6 / ({_TORCH_N} > 0)",
                "ts_inference_requests_total"),
        Derived("service.wait_mean_seconds",
                f"sum by ({_SERVICE}) (rate(ts_queue_latency_microseconds[$w])) / 1e6 / ({_TORCH_N} > 0)",
                "ts_inference_requests_total"),
        # each of these begins to be when it is first counted
        Derived("service.error_ratio",
                f"(({_TORCH_BAD} or {_TORCH_GOOD} * 0) "
                f"/ (({_TORCH_BAD} or {_TORCH_GOOD} * 0) + ({_TORCH_GOOD} or {_TORCH_BAD} * 0) > 0))", "Requests2XX"),
    ),
)  # fmt: skip

_TENSORFLOW: Final = Pack(
    "tensorflow_serving",
    ":tensorflow:serving:request_count",
    derived=(
        *_requests(":tensorflow:serving:request_count", 'status!="OK"'),
        *_latency(":tensorflow:serving:request_latency_bucket", scale=" / 1e6"),
        Derived("service.processing_p50_seconds",
                f"histogram_quantile(0.5, sum by (le, {_SERVICE}) "
                f"(rate({_select(':tensorflow:serving:runtime_latency_bucket')}[$w]))) / 1e6",
                ":tensorflow:serving:runtime_latency_bucket"),
        _mean("service.wait_mean_seconds", ":tensorflow:serving:batching_session:queuing_latency", " / 1e6"),
    ),
)  # fmt: skip

_KSERVE: Final = Pack(
    "kserve",
    "request_predict_seconds_bucket",
    derived=(
        *_latency("request_predict_seconds_bucket"),
        Derived("service.requests_per_second", f"sum by ({_SERVICE}) (rate(request_predict_seconds_count[$w]))",
                "request_predict_seconds_count"),
    ),
)  # fmt: skip

_MLSERVER_GOOD, _MLSERVER_BAD = (
    f"sum by ({_SERVICE}) (rate(model_infer_request_{how}_total[$w]))"
    for how in ("success", "failure")
)
_MLSERVER_N: Final = (
    f"(({_MLSERVER_GOOD} or {_MLSERVER_BAD} * 0) + ({_MLSERVER_BAD} or {_MLSERVER_GOOD} * 0))"
)
_MLSERVER: Final = Pack(
    "mlserver",
    "model_infer_request_success_total",
    (Plain("rest_server_requests_in_progress", "service.in_flight_count"),),
    (
        # over REST and gRPC; each of the two begins to be when it is first counted
        Derived("service.requests_per_second", _MLSERVER_N, "model_infer_request_success_total"),
        Derived(
            "service.error_ratio",
            f"(({_MLSERVER_BAD} or {_MLSERVER_GOOD} * 0) / ({_MLSERVER_N} > 0))",
            "model_infer_request_failure_total",
        ),
        # over REST alone: of gRPC it makes no histogram
        *_latency("rest_server_requests?_duration_seconds_bucket"),
        # over REST and gRPC, of the model alone
        _mean("service.processing_mean_seconds", "model_infer_request_duration"),
        # its length at each request
        _mean("service.queue_count", "parallel_request_queue"),
    ),
)

_STATUS: Final = tuple((label, "5..") for label in ("status", "code", "status_code"))
"""Labels in which libraries say how a request ended; 5xx counts as failed."""


def served(
    name: str, histogram: str, *, scale: str = "", matchers: str = "", failed: Iterable[tuple[str, str]] = _STATUS,
    by: str = _SERVICE, whom: str = "", space: str = "",
) -> Pack:  # fmt: skip
    """Return what a service says of the requests that it serves, in one histogram.

    histogram   its name without the ending
    failed      labels that say how a request ended, and what they say of those that failed: the first that is there is
                read; where none is, errors are unknown
    by          labels that it is kept apart by
    """
    counted = f"{histogram}_count"

    def rate(ending: str, more: str = "") -> str:
        return f"rate({_select(histogram + ending, matchers + more)}[$w])"

    ratios = []
    for label, bad in failed:
        stated, bad_ones = f', {label}!=""', f', {label}=~"{bad}"'
        said = f"sum by ({by}) ({rate('_count', stated)})"
        lost = f"sum by ({by}) ({rate('_count', bad_ones)})"
        ratios.append(f"(({lost} or {said} * 0) / ({said} > 0))")
    number = f"sum by ({by}) ({rate('_count')})"
    took = f"sum by ({by}) ({rate('_sum')})"
    queries = [
        *(
            (f"latency_p{round(100 * q)}_seconds",
             f"histogram_quantile({q:g}, sum by (le, {by}) ({rate('_bucket')})){scale}")
            for q in (0.5, 0.95, 0.99)
        ),
        ("latency_mean_seconds", f"({took}{scale} / ({number} > 0))"),
        ("requests_per_second", number),
        ("error_ratio", f"({' or '.join(ratios)})"),
    ]  # fmt: skip
    derived = (
        Derived(f"service.{word}", query, counted, whom=whom, space=space)
        for word, query in queries
    )
    return Pack(name, counted, derived=tuple(derived))


_HTTP: Final = served("http", "http_request_duration_seconds")
_SPRING: Final = served("spring", "http_server_requests_seconds", failed=(("status", "5.."),))
_OPENTELEMETRY: Final = served(
    "opentelemetry",
    "http_server_request_duration_seconds",
    failed=(("http_response_status_code", "5.."),),
)
_ISTIO: Final = served(
    "istio",
    "istio_request_duration_milliseconds",
    scale=" / 1e3",
    # as whoever serves saw it; what callers saw is told of calls
    matchers=', reporter=~"destination|waypoint"',
    failed=(("response_code", "5..|0"),),
    by="destination_canonical_service, destination_workload_namespace",
    whom="destination_canonical_service",
    space="destination_workload_namespace",
)

PACKS: Final = {
    p.name: p
    for p in (
        _NODE, _SMARTCTL, _CADVISOR, _CADVISOR_DOCKER, _KUBE_STATE, _DCGM, _NGINX, _INGRESS, _HAPROXY, _VLLM, _TRITON,
        _TORCHSERVE, _TENSORFLOW, _KSERVE, _MLSERVER, _ISTIO, _OPENTELEMETRY, _SPRING, _HTTP,
    )
}  # fmt: skip

TELLS: Final = frozenset({
    *RULES, "up", "target_info", "node_uname_info", "node_os_info", "kube_pod_info", "kube_pod_container_info",
    "kube_node_info",
    # one counter of each server of which nothing is read as it is: it names models and their versions
    ":tensorflow:serving:request_count", "ts_inference_requests_total", "request_predict_seconds_count",
    "model_infer_request_success_total",
})  # fmt: skip
"""What is read for the graph alone: who is there, where, in which version, who calls whom, which models are served."""
TELLING: Final = f'{{__name__=~"{"|".join(sorted(TELLS))}"}}'

PLAIN: Final[dict[str, tuple[Plain, ...]]] = {}
"""Foreign metric -> the rows that may mean it."""
PACK_OF: Final[dict[str, str]] = {}
"""Foreign metric -> whose it is; of cAdvisor, the first of the two."""
RANK: Final = {name: i for i, name in enumerate(PACKS)}
for _pack in PACKS.values():
    for _one in _pack.plain:
        PACK_OF.setdefault(_one.metric, _pack.name)
        PLAIN[_one.metric] = (*PLAIN.get(_one.metric, ()), _one)
