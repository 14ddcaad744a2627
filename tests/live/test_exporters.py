"""What exporters and model servers show becomes signals of ours, through a real Prometheus.

HAProxy shows its own page; those of the others are written like theirs.
Names, labels, kinds and units of the pages are those of the documentation of each; counters grow by the second.
Every row of the table is met, but for `UNMET`, which says why.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import math
import subprocess
import threading
import time

import httpx
import pytest
from daemon_process import free_port, wait_for

from agent.model import Edge, Entity
from agent.rates import Rates
from connectors._prometheus_names import PACKS, PLAIN, SIGNAL_LABEL
from connectors.prometheus import Prometheus

pytestmark = pytest.mark.live

GPU = "GPU-11111111-2222-3333-4444-555555555555"
NEWER = "GPU-11111111-2222-3333-4444-666666666666"


def histogram(name, labels, count, mean, edge):
    """Say a histogram by second: `count` a second, of that mean, all between half of `edge` and `edge`."""
    return [
        (f'{name}_bucket{{{labels},le="{edge / 2:g}"}}', 0.0), (f'{name}_bucket{{{labels},le="{edge:g}"}}', count),
        (f'{name}_bucket{{{labels},le="+Inf"}}', count), (f"{name}_sum{{{labels}}}", count * mean),
        (f"{name}_count{{{labels}}}", count),
    ]  # fmt: skip


def each(names, labels="", value=1.0):
    """Say series of the same labels."""
    return [f"{name}{{{labels}}} {value}" for name in names.split()]


_VLLM = 'model_name="llama",engine="0"'
_REST = 'app_name="mlserver",method="POST",path="/v2/models/m/infer"'
_PENDING = 'device="sda",attribute_name="Current_Pending_Sector",attribute_id="197"'
_DOCKER = 'id="/docker/abc",name="proj-cart-1",image="cart:2",container_label_com_docker_compose_service="cart"'
_HPA = 'namespace="ml",horizontalpodautoscaler="web-hpa"'
_CALLED = (
    'reporter="destination",source_canonical_service="web",source_workload_namespace="ml",'
    'destination_canonical_service="pay",destination_workload_namespace="ml"'
)
_QUEUING = ":tensorflow:serving:batching_session:queuing_latency"
_TFS = 'model_name="m",API="predict",entrypoint="REST"'
COUNTS: dict[str, list[tuple[str, float]]] = {
    "vllm": [
        (f'vllm:request_success_total{{{_VLLM},finished_reason="stop"}}', 3.0),
        (f'vllm:request_success_total{{{_VLLM},finished_reason="error"}}', 1.0),
        (f"vllm:generation_tokens_total{{{_VLLM}}}", 80.0), (f"vllm:num_preemptions_total{{{_VLLM}}}", 2.0),
        *histogram("vllm:e2e_request_latency_seconds", _VLLM, 4.0, 1.5, 2.0),
        *histogram("vllm:time_to_first_token_seconds", _VLLM, 4.0, 0.2, 0.25),
        *histogram("vllm:inter_token_latency_seconds", _VLLM, 80.0, 0.02, 0.025),
        *histogram("vllm:time_per_output_token_seconds", _VLLM, 80.0, 0.02, 0.025),
        *histogram("vllm:request_queue_time_seconds", _VLLM, 4.0, 0.3, 0.5),
    ],
    "triton": [
        ('nv_inference_request_success{model="m",version="1"}', 9.0),
        ('nv_inference_request_failure{model="m",version="1",reason="OTHER"}', 1.0),
        ('nv_inference_request_duration_us{model="m",version="1"}', 9 * 50_000.0),
        ('nv_inference_queue_duration_us{model="m",version="1"}', 9 * 20_000.0),
        ('nv_inference_compute_infer_duration_us{model="m",version="1"}', 9 * 25_000.0),
        *histogram("nv_inference_first_response_histogram_ms", 'model="m",version="1"', 9.0, 40.0, 50.0),
    ],
    "torchserve": [
        ('ts_inference_requests_total{model_name="m",model_version="default",hostname="h"}', 5.0),
        ('ts_inference_latency_microseconds{model_name="m",model_version="default",hostname="h"}', 5 * 30_000.0),
        ('ts_queue_latency_microseconds{model_name="m",model_version="default",hostname="h"}', 5 * 10_000.0),
        ('Requests2XX{Level="Host",Hostname="h"}', 4.0), ('Requests5XX{Level="Host",Hostname="h"}', 1.0),
    ],
    "tensorflow_serving": [
        (':tensorflow:serving:request_count{model_name="m",status="OK"}', 6.0),
        (':tensorflow:serving:request_count{model_name="m",status="INTERNAL"}', 2.0),
        *histogram(":tensorflow:serving:request_latency", _TFS, 8.0, 15_000.0, 20_000.0),
        *histogram(":tensorflow:serving:runtime_latency", _TFS.replace("entrypoint", "runtime"), 8.0, 7_000.0, 8_000.0),
        *histogram(_QUEUING, 'thread_pool_name="p"', 8.0, 3_000.0, 4_000.0),
    ],
    "kserve": histogram("request_predict_seconds", 'model_name="m"', 7.0, 0.03, 0.04),
    "mlserver": [
        ('model_infer_request_success_total{model="m",version="v1"}', 3.0),
        ('model_infer_request_failure_total{model="m",version="v1"}', 1.0),
        # those over REST alone are none of gRPC, and some are no inference
        (f'rest_server_requests_total{{{_REST},status_code="200"}}', 30.0),
        *histogram("rest_server_requests_duration_seconds", _REST, 4.0, 0.03, 0.04),
        ('model_infer_request_duration_sum{model="m",version="v1"}', 4 * 0.02),
        ('model_infer_request_duration_count{model="m",version="v1"}', 4.0),
        *histogram("parallel_request_queue", 'workerpid="7"', 4.0, 2.0, 4.0),
    ],
    "ingress_nginx": [
        ('nginx_ingress_controller_requests{exported_service="shop",exported_namespace="default",status="200"}', 9.0),
        ('nginx_ingress_controller_requests{exported_service="shop",exported_namespace="default",status="502"}', 1.0),
        *histogram("nginx_ingress_controller_request_duration_seconds",
                   'exported_service="shop",exported_namespace="default"', 10.0, 0.15, 0.2),
    ],
    "nginx": [("nginx_http_requests_total", 20.0)],
    "node": [
        ('node_cpu_seconds_total{cpu="0",mode="idle"}', 0.75), ('node_cpu_seconds_total{cpu="0",mode="user"}', 0.25),
        ("node_context_switches_total", 300.0), ("node_forks_total", 4.0), ("node_intr_total", 200.0),
        *((f'node_disk_{what}{{device="sda"}}', grows) for what, grows in (
            ("read_time_seconds_total", 0.1), ("reads_completed_total", 10.0), ("write_time_seconds_total", 0.4),
            ("writes_completed_total", 20.0))),
        ('node_network_receive_errs_total{device="eth0"}', 2.0),
        ('node_network_transmit_drop_total{device="eth0"}', 3.0),
        ('node_edac_uncorrectable_errors_total{controller="0"}', 1.0), ("node_pressure_io_stalled_seconds_total", 0.5),
    ],
    "cadvisor_docker": [
        (f'container_cpu_usage_seconds_total{{{_DOCKER},cpu="total"}}', 0.5),
        (f"container_cpu_cfs_throttled_seconds_total{{{_DOCKER}}}", 0.1),
        (f"container_oom_events_total{{{_DOCKER}}}", 0.0),
        ('container_cpu_usage_seconds_total{id="/docker",name=""}', 7.0),
    ],
    "istio": [
        *histogram("istio_request_duration_milliseconds", f'{_CALLED},response_code="200"', 9.0, 150.0, 200.0),
        *histogram("istio_request_duration_milliseconds", f'{_CALLED},response_code="503"', 1.0, 150.0, 200.0),
        # the same requests as their caller saw them: not counted twice
        *histogram("istio_request_duration_milliseconds",
                   f'{_CALLED.replace("destination", "source", 1)},response_code="200"', 10.0, 350.0, 400.0),
    ],
    "opentelemetry": [
        *histogram("http_server_request_duration_seconds", 'http_response_status_code="200"', 3.0, 0.15, 0.2),
        *histogram("http_server_request_duration_seconds", 'http_response_status_code="500"', 1.0, 0.15, 0.2),
    ],
    "spring": [
        *histogram("http_server_requests_seconds", 'uri="/buy",status="200",outcome="SUCCESS"', 3.0, 0.15, 0.2),
        *histogram("http_server_requests_seconds", 'uri="/buy",status="500",outcome="SERVER_ERROR"', 1.0, 0.15, 0.2),
    ],
    "http": [
        *histogram("http_request_duration_seconds", 'handler="/buy",code="200"', 3.0, 0.15, 0.2),
        *histogram("http_request_duration_seconds", 'handler="/buy",code="502"', 1.0, 0.15, 0.2),
    ],
    "own": histogram("basket_milliseconds", 'shop="a"', 8.0, 150.0, 200.0),
    "cadvisor": [
        ('container_cpu_usage_seconds_total{namespace="ml",pod="web-0",container="web"}', 0.5),
        ('container_cpu_cfs_throttled_seconds_total{namespace="ml",pod="web-0",container="web"}', 0.1),
        ('container_oom_events_total{namespace="ml",pod="web-0",container="web"}', 0.0),
    ],
    "kube_state_metrics": [
        ('kube_pod_container_status_restarts_total{namespace="ml",pod="web-0",container="web"}', 0.0),
        ('kube_pod_container_status_restarts_total{namespace="ml",pod="web-1",container="web"}', 0.25),
    ],
    "dcgm_exporter": [
        (f'DCGM_FI_DEV_PCIE_REPLAY_COUNTER{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 1.0),
        (f'DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 2.0),
        (f'DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 0.0),
        (f'DCGM_FI_DEV_ECC_SBE_VOL_TOTAL{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 1.0),
        (f'DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 3.0),
        (f'DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 4.0),
        (f'DCGM_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL{{UUID="{GPU}",gpu="0",Hostname="g1"}}', 0.0),
    ],
    "smartctl_exporter": [('smartctl_device_media_errors{device="nvme0"}', 1.0)],
}  # fmt: skip
"""Job -> series, and by how much each grows in a second."""
_CARD = f'UUID="{GPU}",gpu="0",Hostname="g1"'
LEVELS: dict[str, list[str]] = {
    "vllm": [
        f"vllm:num_requests_running{{{_VLLM}}} 6", f"vllm:num_requests_waiting{{{_VLLM}}} 2",
        f"vllm:kv_cache_usage_perc{{{_VLLM}}} 0.75", f"vllm:gpu_cache_usage_perc{{{_VLLM}}} 0.75",
    ],
    "triton": [
        *(f'nv_inference_request_summary_us{{model="m",version="1",quantile="{q}"}} {us}'
          for q, us in (("0.5", 40_000), ("0.9", 60_000), ("0.95", 70_000), ("0.99", 90_000))),
        # nobody asked this one for anything lately
        'nv_inference_request_summary_us{model="idle",version="1",quantile="0.95"} NaN',
        'nv_inference_pending_request_count{model="m",version="1"} 3',
        f'nv_gpu_utilization{{gpu_uuid="{GPU}"}} 0.9', f'nv_gpu_memory_used_bytes{{gpu_uuid="{GPU}"}} 1e9',
        f'nv_gpu_memory_total_bytes{{gpu_uuid="{GPU}"}} 4e9', f'nv_gpu_power_usage{{gpu_uuid="{GPU}"}} 100',
        f'nv_gpu_power_limit{{gpu_uuid="{GPU}"}} 300',
    ],
    "mlserver": ['rest_server_requests_in_progress{app_name="mlserver",method="POST",path="/v2/models/m/infer"} 5'],
    "nginx": [
        "nginx_up 1", "nginx_connections_active 40", "nginx_connections_reading 1", "nginx_connections_writing 3",
        "nginx_connections_waiting 36",
    ],
    "node": [
        'node_uname_info{nodename="web-7",release="6.1"} 1',
        *each("node_load1 node_load5 node_load15 node_filefd_allocated node_vmstat_oom_kill "
              "node_entropy_available_bits node_netstat_Tcp_RetransSegs "
              "node_netstat_TcpExt_ListenOverflows node_netstat_Tcp_CurrEstab "
              "node_nf_conntrack_entries node_timex_sync_status node_timex_offset_seconds node_timex_maxerror_seconds "
              "node_procs_running node_procs_blocked node_vmstat_pgmajfault node_netstat_Tcp_InSegs "
              "node_netstat_Tcp_OutSegs node_netstat_Tcp_OutRsts node_netstat_Tcp_ActiveOpens "
              "node_netstat_Tcp_PassiveOpens node_pressure_cpu_waiting_seconds_total "
              "node_pressure_memory_waiting_seconds_total node_pressure_memory_stalled_seconds_total "
              "node_pressure_io_waiting_seconds_total node_pressure_irq_stalled_seconds_total "
              "node_memory_MemFree_bytes node_memory_Cached_bytes node_memory_Buffers_bytes node_memory_Dirty_bytes "
              "node_boot_time_seconds node_memory_SwapFree_bytes"),
        "node_memory_MemAvailable_bytes 1e9", "node_memory_MemTotal_bytes 4e9", "node_memory_SwapTotal_bytes 4",
        "node_filefd_maximum 8", "node_nf_conntrack_entries_limit 16",
        *each("node_network_receive_bytes_total node_network_transmit_bytes_total node_network_receive_packets_total "
              "node_network_transmit_packets_total node_network_up node_network_speed_bytes "
              "node_network_carrier_changes_total node_network_receive_drop_total node_network_transmit_errs_total",
              'device="eth0"'),
        'node_network_up{device="veth12"} 0', 'node_disk_io_now{device="loop3"} 9',
        *each("node_disk_read_bytes_total node_disk_written_bytes_total node_disk_io_time_seconds_total "
              "node_disk_io_time_weighted_seconds_total node_disk_io_now", 'device="sda"'),
        *each("node_edac_correctable_errors_total", 'controller="0"'),
        'node_md_disks{device="md0",state="active"} 1', 'node_md_disks_required{device="md0"} 2',
        *each("node_filesystem_avail_bytes node_filesystem_files_free node_filesystem_device_error "
              "node_filesystem_readonly", 'device="/dev/sda1",fstype="ext4",mountpoint="/data"'),
        *each("node_filesystem_size_bytes node_filesystem_files",
              'device="/dev/sda1",fstype="ext4",mountpoint="/data"', 4),
        *each("node_infiniband_port_data_received_bytes_total node_infiniband_port_data_transmitted_bytes_total "
              "node_infiniband_link_downed_total", 'device="mlx5_0",port="1"'),
        'node_hwmon_temp_celsius{chip="platform_coretemp_0",sensor="temp1"} 44',
    ],
    "cadvisor_docker": [
        f"container_memory_working_set_bytes{{{_DOCKER}}} 1e8", f"container_spec_memory_limit_bytes{{{_DOCKER}}} 4e8",
    ],
    "cadvisor": [
        'container_memory_working_set_bytes{namespace="ml",pod="web-0",container="web"} 1e8',
        'container_spec_memory_limit_bytes{namespace="ml",pod="web-0",container="web"} 4e8',
    ],
    "kube_state_metrics": [
        'kube_pod_status_ready{namespace="ml",pod="web-0",condition="true"} 1',
        *(f'kube_pod_container_status_{what}_reason{{namespace="ml",pod="web-{i}",container="web",reason="{why}"}} 1'
          for what, i, why in (
              ("waiting", 1, "CrashLoopBackOff"), ("waiting", 2, "ContainerCreating"),
              # web-0 was not restarted since: that was long ago
              ("last_terminated", 1, "OOMKilled"), ("last_terminated", 0, "OOMKilled"))),
        f"kube_horizontalpodautoscaler_spec_min_replicas{{{_HPA}}} 2",
        f"kube_horizontalpodautoscaler_spec_max_replicas{{{_HPA}}} 7",
        f'kube_horizontalpodautoscaler_info{{{_HPA},scaletargetref_kind="Deployment",scaletargetref_name="web"}} 1',
        'kube_node_status_condition{node="g1",condition="Ready",status="true"} 1',
        'kube_node_spec_unschedulable{node="g1"} 1',
        'kube_deployment_spec_replicas{namespace="ml",deployment="web"} 3',
        'kube_deployment_status_replicas_available{namespace="ml",deployment="web"} 2',
        'kube_statefulset_replicas{namespace="ml",statefulset="db"} 3',
        'kube_statefulset_status_replicas_ready{namespace="ml",statefulset="db"} 3',
    ],
    "dcgm_exporter": [
        f"DCGM_FI_DEV_{name}{{{_CARD}}} {value}" for name, value in (
            ("GPU_TEMP", 61), ("GPU_UTIL", 50), ("FB_USED", 1024), ("FB_FREE", 3072), ("POWER_USAGE", 200),
            ("POWER_MGMT_LIMIT", 400), ("SM_CLOCK", 900), ("MAX_SM_CLOCK", 1800), ("MEM_CLOCK", 1000),
            ("MEM_COPY_UTIL", 25), ("MEMORY_TEMP", 70), ("ROW_REMAP_FAILURE", 0), ("CORRECTABLE_REMAPPED_ROWS", 1),
            ("UNCORRECTABLE_REMAPPED_ROWS", 0), ("RETIRED_SBE", 0), ("CLOCK_THROTTLE_REASONS", 72), ("RETIRED_DBE", 0),
            ("ROW_REMAP_PENDING", 0), ("FAN_SPEED", 30), ("MIG_MODE", 0), ("SLOWDOWN_TEMP", 90), ("PCIE_LINK_WIDTH", 8),
            ("PCIE_MAX_LINK_WIDTH", 16), ("PCIE_LINK_GEN", 4), ("PCIE_MAX_LINK_GEN", 5), ("GPU_RECOVERY_ACTION", 1),
        )
    ] + [
        # as newer exporters call it
        f'DCGM_FI_DEV_{name}{{UUID="{NEWER}",gpu="1",hostname="g1"}} {value}' for name, value in (
            ("GPU_TEMP_CELSIUS", 51), ("MEMORY_TEMP_CELSIUS", 60), ("BOARD_POWER_WATTS", 150), ("ROW_REMAP_FAILED", 0),
            ("BOARD_POWER_LIMIT_REQUESTED_WATTS", 350), ("PCIE_REPLAY_TOTAL", 0), ("PAGE_RETIRED_SBE_TOTAL", 0),
            ("PAGE_RETIRED_DBE_TOTAL", 0), ("ROW_REMAP_UNCORRECTABLE_TOTAL", 2), ("ROW_REMAP_CORRECTABLE_TOTAL", 0),
            ("NVLINK_CRC_FLIT_ERROR_TOTAL", 0), ("NVLINK_CRC_DATA_ERROR_TOTAL", 0), ("NVLINK_REPLAY_ERROR_TOTAL", 0),
            ("NVLINK_RECOVERY_ERROR_TOTAL", 0), ("GPU_TEMP_MARGIN_CELSIUS", 33), ("CLOCKS_EVENT_REASONS", 36),
            ("GPU_UTIL_RATIO", 0.75), ("MEMORY_UTIL_RATIO", 0.5), ("FB_USED_BYTES", 3e9), ("FB_FREE_BYTES", 1e9),
            ("SM_CLOCK_HERTZ", 1.2e9), ("SM_MAX_CLOCK_HERTZ", 1.6e9), ("MEMORY_CLOCK_HERTZ", 2e9),
            ("FAN_SPEED_RATIO", 0.4),
        )
    ],
    "smartctl_exporter": [
        'smartctl_device_smart_status{device="nvme0"} 0', 'smartctl_device_percentage_used{device="nvme0"} 12',
        'smartctl_device_temperature{device="nvme0",temperature_type="current"} 44',
        'smartctl_device_temperature{device="nvme0",temperature_type="drive_trip"} 85',
        'smartctl_device_available_spare{device="nvme0"} 90',
        f'smartctl_device_attribute{{{_PENDING},attribute_value_type="raw"}} 8',
        f'smartctl_device_attribute{{{_PENDING},attribute_value_type="value"}} 100',
        *(f'smartctl_device_attribute{{device="sda",attribute_id="{number}",attribute_value_type="raw"}} 0'
          for number in (5, 187, 198, 199)),
    ],
}  # fmt: skip
"""Job -> gauges, as they are shown."""
UNMET: dict[str, str] = {}
"""Rows of the table that no page shows -> why not."""

WANTED: dict[str, float] = {
    "service.requests_per_second{service:vllm}": 4.0, "service.error_ratio{service:vllm}": 0.25,
    "service.tokens_per_second{service:vllm}": 80.0, "service.preemptions_per_second{service:vllm}": 2.0,
    "service.latency_p50_seconds{service:vllm}": 1.5, "service.first_token_p95_seconds{service:vllm}": 0.24375,
    "service.token_p95_seconds{service:vllm}": 0.024375, "service.wait_mean_seconds{service:vllm}": 0.3,
    "service.in_flight_count{service:vllm}": 6.0, "service.queue_count{service:vllm}": 2.0,
    "service.cache_ratio{service:vllm}": 0.75,
    "service.requests_per_second{service:triton}": 9.0, "service.error_ratio{service:triton}": 0.1,
    "service.latency_mean_seconds{service:triton}": 0.05, "service.wait_mean_seconds{service:triton}": 0.02,
    "service.processing_mean_seconds{service:triton}": 0.025, "service.queue_count{service:triton}": 3.0,
    "service.first_token_p95_seconds{service:triton}": 0.04875, "service.latency_p50_seconds{service:triton}": 0.04,
    "service.latency_p95_seconds{service:triton}": 0.07, "service.latency_p99_seconds{service:triton}": 0.09,
    "service.requests_per_second{service:torchserve}": 5.0, "service.error_ratio{service:torchserve}": 0.2,
    "service.latency_mean_seconds{service:torchserve}": 0.03, "service.wait_mean_seconds{service:torchserve}": 0.01,
    "service.requests_per_second{service:tensorflow_serving}": 8.0,
    "service.error_ratio{service:tensorflow_serving}": 0.25,
    "service.latency_p50_seconds{service:tensorflow_serving}": 0.015,
    "service.processing_p50_seconds{service:tensorflow_serving}": 0.006,
    "service.wait_mean_seconds{service:tensorflow_serving}": 0.003,
    "service.requests_per_second{service:kserve}": 7.0, "service.latency_p50_seconds{service:kserve}": 0.03,
    "service.requests_per_second{service:mlserver}": 4.0, "service.error_ratio{service:mlserver}": 0.25,
    "service.latency_p50_seconds{service:mlserver}": 0.03, "service.processing_mean_seconds{service:mlserver}": 0.02,
    "service.queue_count{service:mlserver}": 2.0, "service.in_flight_count{service:mlserver}": 5.0,
    "service.requests_per_second{service:shop}": 10.0, "service.error_ratio{service:shop}": 0.1,
    "service.latency_p50_seconds{service:shop}": 0.15,
    "service.requests_per_second{service:nginx}": 20.0, "service.in_flight_count{service:nginx}": 4.0,
    "service.up{service:nginx}": 1.0,
    "replica.cpu_cores{replica:web/web-0}": 0.5, "replica.throttled_ratio{replica:web/web-0}": 0.1,
    "replica.memory_bytes{replica:web/web-0}": 1e8, "replica.memory_ratio{replica:web/web-0}": 0.25,
    "replica.ready{replica:web/web-0}": 1.0, "replica.restarts_per_second{replica:web/web-0}": 0.0,
    "replica.waiting{replica:web/web-1,reason=CrashLoopBackOff}": 1.0,
    "replica.oom_killed{replica:web/web-1}": 1.0, "replica.oom_killed{replica:web/web-0}": 0.0,
    "service.replicas_least_count{service:web}": 2.0, "service.replicas_most_count{service:web}": 7.0,
    "replica.cpu_cores{replica:cart/proj-cart-1}": 0.5, "replica.memory_ratio{replica:cart/proj-cart-1}": 0.25,
    **{
        f"service.{signal}{{service:{service}}}": value
        for service in ("opentelemetry", "spring", "http")
        for signal, value in (
            ("latency_p50_seconds", 0.15), ("latency_p95_seconds", 0.195), ("latency_p99_seconds", 0.199),
            ("latency_mean_seconds", 0.15), ("requests_per_second", 4.0), ("error_ratio", 0.25),
        )
    },
    "service.latency_p50_seconds{service:pay}": 0.15, "service.requests_per_second{service:pay}": 10.0,
    "service.error_ratio{service:pay}": 0.1,
    "service.latency_p50_seconds{service:own}": 0.15, "service.requests_per_second{service:own}": 8.0,
    "host.cpu_busy_ratio{host:web-7}": 0.25, "host.memory_utilization_ratio{host:web-7}": 0.75,
    "host.swap_utilization_ratio{host:web-7}": 0.75, "host.disk_utilization_ratio{host:web-7,mount=/data}": 0.75,
    "host.disk_read_latency_seconds{host:web-7,device=sda}": 0.01,
    "host.disk_write_latency_seconds{host:web-7,device=sda}": 0.02,
    "host.file_descriptors_ratio{host:web-7}": 0.125, "host.conntrack_ratio{host:web-7}": 0.0625,
    "host.raid_degraded{host:web-7,array=md0}": 1.0, "host.forks_per_second{host:web-7}": 4.0,
    "host.network_errors_per_second{host:web-7,direction=in,interface=eth0}": 2.0,
    "host.network_drops_per_second{host:web-7,direction=out,interface=eth0}": 3.0,
    "host.memory_errors_per_second{host:web-7,controller=0,type=uncorrected}": 1.0,
    "host.pressure_ratio{host:web-7,resource=io,who=full}": 0.5,
    "host.ready{host:g1}": 1.0, "host.cordoned{host:g1}": 1.0,
    "service.replicas_count{service:web}": 2.0, "service.replicas_missing_count{service:web}": 1.0,
    "service.replicas_count{service:db}": 3.0, "service.replicas_missing_count{service:db}": 0.0,
    # Triton tells of the same GPU: it is not added
    f"gpu.utilization_ratio{{gpu:{GPU}}}": 0.5, f"gpu.memory_used_bytes{{gpu:{GPU}}}": 2.0**30,
    f"gpu.memory_utilization_ratio{{gpu:{GPU}}}": 0.25, f"gpu.power_watts{{gpu:{GPU}}}": 200.0,
    f"gpu.power_limit_watts{{gpu:{GPU}}}": 400.0, f"gpu.clock_hertz{{gpu:{GPU}}}": 9e8,
    f"gpu.clock_ratio{{gpu:{GPU}}}": 0.5, f"gpu.temperature_celsius{{gpu:{GPU}}}": 61.0,
    f"gpu.throttled{{gpu:{GPU},reason=hardware_thermal}}": 1.0,
    f"gpu.throttled{{gpu:{GPU},reason=hardware_slowdown}}": 1.0,
    f"gpu.throttled{{gpu:{GPU},reason=power_brake}}": 0.0, f"gpu.throttled{{gpu:{GPU},reason=thermal}}": 0.0,
    f"gpu.nvlink_errors_per_second{{gpu:{GPU},type=replay}}": 2.0,
    f"gpu.nvlink_errors_per_second{{gpu:{GPU},type=crc}}": 7.0, f"gpu.xid_seen{{gpu:{GPU},xid=79}}": 1.0,
    f"gpu.temperature_margin_celsius{{gpu:{GPU}}}": 29.0, f"gpu.pcie_link_ratio{{gpu:{GPU}}}": 0.5,
    f"gpu.pcie_generation_ratio{{gpu:{GPU}}}": 0.8, f"gpu.uncorrected_errors_count{{gpu:{GPU}}}": 0.0,
    f"gpu.recovery_needed{{gpu:{GPU}}}": 1.0, f"gpu.temperature_celsius{{gpu:{NEWER}}}": 51.0,
    f"gpu.power_watts{{gpu:{NEWER}}}": 150.0, f"gpu.temperature_margin_celsius{{gpu:{NEWER}}}": 33.0,
    f"gpu.remapped_rows_count{{gpu:{NEWER},type=uncorrected}}": 2.0, f"gpu.fan_ratio{{gpu:{GPU}}}": 0.3,
    f"gpu.throttled{{gpu:{NEWER},reason=power_cap}}": 1.0, f"gpu.throttled{{gpu:{NEWER},reason=thermal}}": 1.0,
    f"gpu.throttled{{gpu:{NEWER},reason=hardware_thermal}}": 0.0,
    f"gpu.utilization_ratio{{gpu:{NEWER}}}": 0.75, f"gpu.memory_busy_ratio{{gpu:{NEWER}}}": 0.5,
    f"gpu.memory_used_bytes{{gpu:{NEWER}}}": 3e9, f"gpu.memory_utilization_ratio{{gpu:{NEWER}}}": 0.75,
    f"gpu.clock_hertz{{gpu:{NEWER}}}": 1.2e9, f"gpu.clock_ratio{{gpu:{NEWER}}}": 0.75,
    f"gpu.memory_clock_hertz{{gpu:{NEWER}}}": 2e9, f"gpu.fan_ratio{{gpu:{NEWER}}}": 0.4,
    f"gpu.pcie_replays_per_second{{gpu:{GPU}}}": 1.0,
    "host.disk_failing{host:web-7,device=nvme0}": 1.0, "host.disk_wear_ratio{host:web-7,device=nvme0}": 0.12,
    "host.disk_spare_ratio{host:web-7,device=nvme0}": 0.9,
    "host.disk_temperature_celsius{host:web-7,device=nvme0}": 44.0,
    "host.disk_errors_per_second{host:web-7,device=nvme0,type=media}": 1.0,
    "host.disk_bad_sectors_count{host:web-7,device=sda,type=pending}": 8.0,
}  # fmt: skip


class Page(http.server.BaseHTTPRequestHandler):
    """/JOB shows what that exporter would."""

    began = time.time()

    def do_GET(self):
        job, since = self.path.strip("/"), time.time() - self.began
        lines = [f"{series} {grows * since!r}" for series, grows in COUNTS.get(job, ())]
        if (
            job == "dcgm_exporter"
        ):  # an error that comes while it is watched, however late that began
            self.server.asked = getattr(self.server, "asked", 0) + 1
            lines.append(f"DCGM_FI_DEV_XID_ERRORS{{{_CARD}}} {79 if self.server.asked > 3 else 0}")
        body = "\n".join([*lines, *LEVELS.get(job, ()), ""]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


HAPROXY = """
global
  stats socket {folder}/sock mode 600 level user
defaults
  mode http
  timeout connect 1s
  timeout client 5s
  timeout server 5s
frontend in
  bind 127.0.0.1:{port}
  default_backend checkout
frontend exporter
  bind 127.0.0.1:{exporter}
  http-request use-service prometheus-exporter
backend checkout
  server s1 127.0.0.1:{behind} check inter 200ms
  server spare 127.0.0.1:1 disabled
"""


@pytest.fixture(scope="module")
def scraping(needs, tmp_path_factory):
    """A Prometheus that scrapes the pages and a HAProxy; yields its address, and where HAProxy takes requests."""
    pytest.importorskip("prometheus_api_client")
    tmp_path = tmp_path_factory.mktemp("exporters")
    program = needs("haproxy")
    own, port, exporter = free_port(), free_port(), free_port()
    Page.began = time.time()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as pages:
        thread = threading.Thread(target=pages.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        target = f"127.0.0.1:{pages.server_port}"
        jobs = [
            {"job_name": job, "metrics_path": f"/{job}", "static_configs": [{"targets": [target]}]}
            for job in sorted(COUNTS.keys() | LEVELS.keys())
        ]
        jobs.append(
            {"job_name": "haproxy", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}
        )
        (tmp_path / "prometheus.yml").write_text(
            json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
        )
        (tmp_path / "haproxy.cfg").write_text(
            HAPROXY.format(folder=tmp_path, port=port, exporter=exporter, behind=pages.server_port)
        )
        with (tmp_path / "log").open("wb") as log:
            running = [
                subprocess.Popen([program, "-db", "-f", str(tmp_path / "haproxy.cfg")], stdout=log, stderr=log),
                subprocess.Popen(
                    [needs("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}",
                     f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{own}"],
                    stdout=log, stderr=log,
                ),
            ]  # fmt: skip
        try:
            yield f"http://127.0.0.1:{own}", f"http://127.0.0.1:{port}/"
        finally:
            for process in running:
                process.kill()
                process.wait(10)
            pages.shutdown()
            thread.join()


def scraped(url: str) -> bool:
    jobs = len(COUNTS.keys() | LEVELS.keys()) + 1
    query = f"count(count_over_time(up[30s]) >= 8) == count(up) and count(up) == {jobs}"
    found = httpx.get(f"{url}/api/v1/query", params={"query": query})
    return bool(found.status_code == 200 and found.json()["data"]["result"])


async def test_every_name_becomes_a_signal_of_ours(scraping):
    url, front = scraping

    def visited():
        httpx.get(front)
        return scraped(url)

    await asyncio.to_thread(wait_for, "eight scrapes of all", visited, 60)
    config = Prometheus.Config(url=url, window=6, stale=5, histograms=["basket_milliseconds"])
    source = Prometheus("prometheus", config)
    source._own = Entity("host", "elsewhere")
    rates = Rates()
    first = rates.apply(await source.poll())
    # a rate is off by a scrape that came late: the longer, the less
    for _ in range(20):
        await asyncio.to_thread(httpx.get, front)
        await asyncio.sleep(1.0)
    frame = rates.apply(await source.poll())
    source.close()
    got = {str(s): v for s, v in zip(frame.series, frame.values.tolist(), strict=True)}
    wrong = {
        series: got.get(series)
        for series, value in WANTED.items()
        if not math.isclose(got.get(series, math.nan), value, rel_tol=0.12, abs_tol=1e-6)
    }
    assert wrong == {}
    assert source._count.packs == list(PACKS)
    assert missed(source) == sorted(UNMET)
    assert not {s for s in got if "veth12" in s or "loop3" in s or "web-2" in s}
    # HAProxy's own page
    assert got["service.up{service:checkout}"] == 1.0
    assert got["service.replicas_count{service:checkout}"] == 1.0
    assert got["service.requests_per_second{service:checkout}"] > 0
    assert got["service.error_ratio{service:checkout}"] == 0.0
    for mean in ("latency", "processing", "wait"):
        assert 0 <= got[f"service.{mean}_mean_seconds{{service:checkout}}"] < 1
    assert got["replica.ready{replica:checkout/s1}"] == 1.0
    assert "replica.ready{replica:checkout/spare}" not in got, "in maintenance: it was taken out"
    told = {e for frame in (first, frame) for s in frame.seen for e in s.edges}
    for server, model, version in (
        ("tensorflow_serving", "m", ""), ("torchserve", "m", ""), ("kserve", "m", ""), ("mlserver", "m", "v1"),
        ("triton", "m", "1"), ("vllm", "llama", ""),
    ):  # fmt: skip
        assert Edge("serves", Entity("service", server), Entity("model", model)) in told, server
        if version:
            assert (
                Edge("version_of", Entity("version", f"{model}/{version}"), Entity("model", model))
                in told
            )
    assert not [e for e in told if e.src.id == "version:m/default"], "nobody asked for a version"
    cart = Entity("replica", "cart/proj-cart-1")
    assert Edge("serves", cart, Entity("service", "cart")) in told
    spot = Entity("replica", "checkout/s1")
    assert Edge("serves", spot, Entity("service", "checkout")) in told


def missed(source: Prometheus) -> list[str]:
    """Return the rows of the table that nothing of what came was meant by."""
    met = set()
    for (group, key), place in source._places.items():
        labels = dict(key)
        if place is None:
            continue
        if group == 0:
            rows = [r for r in PLAIN.get(labels["__name__"], ()) if r.fits(labels)]
            met.update(str(r) for r in rows[:1])
        elif group == 1:
            met.add(labels[SIGNAL_LABEL])
    rows = [str(row) for pack in PACKS.values() for row in pack.plain]
    rows += [f"{pack.name}/{i}" for pack in PACKS.values() for i in range(len(pack.derived))]
    return sorted(set(rows) - met)


@pytest.mark.parametrize("name", sorted(PACKS))
def test_a_real_prometheus_takes_every_question(scraping, name):
    url, _ = scraping
    wait_for("Prometheus", lambda: httpx.get(f"{url}/-/ready").status_code == 200, 30)
    pack = PACKS[name]
    for question in filter(None, (pack.selector(), pack.question("60s"))):
        said = httpx.get(f"{url}/api/v1/query", params={"query": question}).json()
        assert said["status"] == "success", said
