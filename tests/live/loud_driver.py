"""The real daemon, made to say all it can: libraries at DEBUG, runs through every ability, a source that breaks.

    python loud_driver.py CONFIG STATE text|json

The file STATE/crash ends it by an exception that nothing catches. Both it and the source have a secret in their message
and in their local variables, as careless code would.
"""

import logging
import sys
import time
from pathlib import Path

# tests/agent has no __init__ and would be taken for the package, if that were not found before
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import structlog
from run_stage import plan, step

from agent import daemon, registry
from agent.model import Entity
from agent.pipeline import record_plan
from agent.secret import Reference, secret
from agent.units import Model

WEB, FRAUD, REPLICA = Entity("service", "web"), Entity("model", "fraud"), Entity("replica", "web/a")
BEGIN = 4
"""At which tick the runs begin."""


def steps(url):
    """Return what is done through whom, on whom."""
    yield WEB, "http_call", "http_calls", {"url": f"{url}/http_calls/x"}
    yield WEB, "run_command", "commands", {"command": "say"}
    yield WEB, "set_flag", "flag_http", {"flag": "beta", "value": True}
    yield WEB, "set_flag", "flag_file", {"flag": "beta", "value": True}
    yield WEB, "scale", "kubernetes", {"by": 1}
    yield Entity("service", "api"), "restart", "kubernetes_2", {}
    yield WEB, "scale", "docker", {"by": 1}
    yield WEB, "scale", "fleet_http", {"by": 1}
    yield Entity("host", "n1"), "cordon_node", "kubernetes_nodes", {}
    yield WEB, "restart", "systemd", {}
    yield WEB, "scale", "gunicorn", {"by": 1}
    yield REPLICA, "uncordon", "haproxy", {}
    yield WEB, "silence", "alertmanager", {"for": "1h", "reason": "x"}
    yield WEB, "quarantine", "old_files", {"rule": "logs"}
    yield WEB, "notify", None, {"text": "x", "title": "x"}
    for via in ("mlflow", "mlflow_2", "model_directory"):
        yield FRAUD, "roll_back", via, {"to": "1"}
    trainers = ("trainer", "trainer_http", "trainer_kubeflow", "trainer_kubernetes")
    for via in (*trainers, *(f"{t}_2" for t in trainers), *(f"{t}_3" for t in trainers[1:])):
        yield FRAUD, "retrain", via, {}


@registry.connector("saboteur")
class Saboteur:
    """Breaks whenever it is asked."""

    interval_s = 1.0

    class Config(Model):
        """What it holds, and where the others ask."""

        held: Reference
        url: str

    def __init__(self, name, config):
        self.name, self.config = name, config

    async def poll(self):
        headers = {"authorization": "Bearer " + secret(self.config.held)}
        raise RuntimeError(f"can not send {headers}")


class End(BaseException):
    """Nothing catches it."""


class Loud(daemon.Daemon):
    """Starts the runs, on each target one after the other, and ends when it is told to."""

    due = None

    def standing(self, plan, stage):
        return ""

    def _tick(self):
        super()._tick()
        own = self.connectors.built["saboteur"].config
        if self.ticks >= BEGIN:
            self.due = list(enumerate(steps(own.url))) if self.due is None else self.due
            for one in self.due.copy():
                i, (target, use, via, params) = one
                if self.memory.run_on(target.id) is None:
                    self.due.remove(one)
                    planned = step("a", use, via=via, params=params, timeout=10.0, retry=0)
                    made = plan(planned, run_id=f"r{i}", target=target, created=time.time())
                    record_plan(self.record, made, made.created)
                    self.spawn(self.runner.start(made), f"run {i}")
        if (self.state / "crash").exists():
            held = secret(own.held)
            raise End(f"the end of {held}")


def loudly(*, as_json):
    """Set up logging as ever, then let everybody speak who has not been told to be quiet."""
    quiet(as_json=as_json)
    logging.getLogger().setLevel(logging.DEBUG)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))


if __name__ == "__main__":
    quiet, daemon.set_up_logging, daemon.Daemon = daemon.set_up_logging, loudly, Loud
    config, state, style = sys.argv[1:]
    sys.exit(daemon.run(Path(config), state=Path(state), log_json=style == "json"))
