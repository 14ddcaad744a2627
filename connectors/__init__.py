"""One outside system each: sources and abilities. Talks to it and translates its words into ours; decides nothing.

Importing this package registers every built-in connector: one line each. Heavy libraries are imported by the
methods that need them.
"""

from connectors import alertmanager as alertmanager
from connectors import batch_scoring as batch_scoring
from connectors import cgroup as cgroup
from connectors import commands as commands
from connectors import connections as connections
from connectors import containers as containers
from connectors import deployments as deployments
from connectors import docker as docker
from connectors import elastic_logs as elastic_logs
from connectors import elastic_out as elastic_out
from connectors import elastic_predictions as elastic_predictions
from connectors import flag_file as flag_file
from connectors import flag_http as flag_http
from connectors import gpu as gpu
from connectors import gpu_control as gpu_control
from connectors import grafana_annotations as grafana_annotations
from connectors import gunicorn as gunicorn
from connectors import haproxy as haproxy
from connectors import heartbeat as heartbeat
from connectors import host as host
from connectors import http_calls as http_calls
from connectors import kernel_log as kernel_log
from connectors import kubernetes as kubernetes
from connectors import machine as machine
from connectors import mail as mail
from connectors import mlflow as mlflow
from connectors import model_directory as model_directory
from connectors import old_files as old_files
from connectors import otlp as otlp
from connectors import page as page
from connectors import pagerduty as pagerduty
from connectors import predictions as predictions
from connectors import probe as probe
from connectors import processes as processes
from connectors import prometheus as prometheus
from connectors import prometheus_range as prometheus_range
from connectors import remote_write as remote_write
from connectors import systemd as systemd
from connectors import trainer as trainer
from connectors import trainer_http as trainer_http
from connectors import trainer_kubeflow as trainer_kubeflow
from connectors import trainer_kubernetes as trainer_kubernetes
from connectors import units as units
from connectors import webhook as webhook
