import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent import install
from agent.config import Config
from agent.errors import Refused
from agent.install import Machine, sd_notify

CONFIG = Path("/etc/homeostat/agent.yaml")


def machine(*drivers):
    return Machine(("/usr/bin/true",), drivers)


def unit(config=None, *, on=None, **kw):
    sections = install.plan(config or Config(), on or machine(), config_path=CONFIG, **kw)
    return {(line.key, line.value): line.why for s in sections for line in s.lines}


def acting():
    return Config.model_validate(
        {
            "manages": [{"kind": "process", "key": "*"}, {"kind": "service", "key": "wine"}],
            "connectors": {"models": {"use": "model_directory", "path": "/srv"}},
        }
    )


def test_every_line_says_why():
    for why in unit(acting(), on=machine("nvidia")).values():
        assert len(why) > 10
        assert "\n" not in why


def test_a_watcher_has_no_capability_and_no_devices():
    lines = dict(k for k in unit())
    assert lines["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in lines
    assert lines["PrivateDevices"] == "yes"
    assert lines["ProtectSystem"] == "strict"
    assert lines["DynamicUser"] == "yes"
    assert "ReadWritePaths" not in lines
    assert lines["Type"] == "notify"


def test_only_what_it_manages_gives_capabilities():
    pairs = unit(acting())
    lines = dict(k for k in pairs)
    assert lines["CapabilityBoundingSet"] == "CAP_KILL CAP_SYS_NICE"
    assert lines["AmbientCapabilities"] == "CAP_KILL CAP_SYS_NICE"
    assert lines["ReadWritePaths"] == "-/srv"
    why = pairs["CapabilityBoundingSet", "CAP_KILL CAP_SYS_NICE"]
    assert "pause processes" in why
    assert "priority" in why


def test_what_connectors_act_with_is_granted_when_anything_is_managed(tmp_path):
    connectors = {
        "commands": {"user": "ops", "run": {"rotate": {"argv": ["/usr/sbin/logrotate"]}}},
        "cgroup": {"groups": {"wine": "system.slice/wine.service"}},
        "gpu_control": {},
        "old_files": {"rules": {"logs": {"path": str(tmp_path), "names": ["*.gz"], "older": "2d"}}},
        "flag_file": {"service": "wine", "path": str(tmp_path / "conf/flags.json"), "may": ["a"]},
    }
    manages = [{"kind": "service", "key": "wine"}]
    pairs = unit(Config.model_validate({"connectors": connectors, "manages": manages}))
    lines = dict(k for k in pairs)
    granted = lines["CapabilityBoundingSet"]
    assert granted == "CAP_DAC_OVERRIDE CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_ADMIN"
    why = pairs["CapabilityBoundingSet", granted]
    assert "CAP_SETUID to run commands as a user of their own (connector commands)" in why
    assert ("ProtectControlGroups", "yes") not in pairs
    assert ("ReadWritePaths", f"-{tmp_path}") in pairs
    assert ("ReadWritePaths", f"-{tmp_path}/conf") in pairs
    watching = unit(Config.model_validate({"connectors": connectors}))
    assert dict(k for k in watching)["CapabilityBoundingSet"] == ""
    assert ("ProtectControlGroups", "yes") in watching
    assert "ReadWritePaths" not in dict(k for k in watching)


def test_devices_of_gpus_are_allowed_by_driver_only():
    pairs = unit(on=machine("nvidia"))
    assert ("DeviceAllow", "char-nvidia* rw") in pairs
    assert ("PrivateDevices", "yes") not in pairs
    assert ("ProtectClock", "yes") not in pairs  # it would close the devices again


def test_the_log_of_the_kernel_is_opened_where_a_person_asks_for_it():
    closed = unit()
    assert ("ProtectKernelLogs", "yes") in closed
    pairs = unit(Config.model_validate({"connectors": {"kernel_log": {}}}))
    lines = dict(k for k in pairs)
    assert lines["CapabilityBoundingSet"] == "CAP_SYSLOG"
    assert ("DeviceAllow", "/dev/kmsg r") in pairs
    assert lines["DevicePolicy"] == "closed"
    assert "ProtectKernelLogs" not in lines
    assert "PrivateDevices" not in lines
    off = unit(Config.model_validate({"connectors": {"kernel_log": {"enabled": False}}}))
    assert ("ProtectKernelLogs", "yes") in off
    assert dict(k for k in off)["CapabilityBoundingSet"] == ""


def test_homes_are_closed_unless_the_config_reads_there():
    assert ("ProtectHome", "yes") in unit()
    config = Config.model_validate({"connectors": {"predictions": {"path": "/home/ml/log.jsonl"}}})
    pairs = unit(config)
    assert ("ProtectHome", "tmpfs") in pairs
    assert ("BindReadOnlyPaths", "-/home/ml/log.jsonl") in pairs
    assert ("ProtectHome", "read-only") in unit(config, user="ml")
    assert ("User", "ml") in unit(config, user="ml")


def test_programs_that_lie_in_a_home_stay_readable():
    assert ("ProtectHome", "read-only") in unit(on=Machine(("/home/ml/venv/bin/homeostat",)))
    inside = Machine(("/opt/homeostat/bin/homeostat",), programs=("/root/.pyenv/bin/python",))
    assert ("ProtectHome", "read-only") in unit(on=inside)


def test_the_state_folder_is_always_said():
    # as a user without a home the daemon would look for it elsewhere
    assert dict(k for k in unit())["ExecStart"].endswith("--state /var/lib/homeostat")


def test_a_log_in_tmp_stays_visible():
    config = Config.model_validate({"connectors": {"predictions": {"path": "/tmp/log.jsonl"}}})
    assert ("PrivateTmp", "yes") not in unit(config)
    assert ("PrivateTmp", "yes") in unit()


def test_words_with_spaces_and_percent_reach_systemd_whole():
    sections = install.plan(
        Config(),
        Machine(("/opt/my venv/50%/homeostat",)),
        config_path=Path("/etc/a b.yaml"),
        state=Path("/srv/state"),
    )
    text = install.text(sections)
    assert (
        'ExecStart="/opt/my venv/50%%/homeostat" run --config "/etc/a b.yaml" --state /srv/state'
        in text
    )


@pytest.mark.parametrize("drivers", [(), ("nvidia",)])
@pytest.mark.parametrize(
    "config",
    [Config(), acting(), Config.model_validate({"connectors": {"kernel_log": {}}})],
    ids=["watching", "acting", "kernel log"],
)
def test_systemd_finds_no_fault(tmp_path, drivers, config):
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    path = tmp_path / "homeostat.service"
    user = "root"  # a user that exists here; DynamicUser is checked by the same parser below
    for who in (user, ""):
        sections = install.plan(config, machine(*drivers), config_path=CONFIG, user=who)
        path.write_text(install.text(sections))
        done = subprocess.run(
            [tool, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
        )
        said = [x for x in (done.stdout + done.stderr).splitlines() if "homeostat" in x]
        assert said == []


def test_a_broken_unit_would_be_found(tmp_path):
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    path = tmp_path / "homeostat.service"
    good = install.text(install.plan(Config(), machine(), config_path=CONFIG))
    path.write_text(good.replace("ProtectSystem=strict", "ProtectSystem=sometimes"))
    done = subprocess.run(
        [tool, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert "sometimes" in done.stdout + done.stderr


def test_writing_never_overwrites_what_differs(tmp_path):
    path = tmp_path / "homeostat.service"
    sections = install.plan(Config(), machine(), config_path=CONFIG)
    assert install.write(sections, path) is True
    assert install.write(sections, path) is False
    path.write_text("mine")
    with pytest.raises(Refused, match="--force"):
        install.write(sections, path)
    assert path.read_text() == "mine"
    assert install.write(sections, path, force=True) is True
    assert path.read_text() == install.text(sections)
    with pytest.raises(Refused, match="use --print"):
        install.write(sections, tmp_path / "no" / "where.service")


def test_what_would_keep_it_from_starting_is_said(tmp_path):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o700)
    config = shut / "agent.yaml"
    on = Machine((str(shut / "bin" / "homeostat"),))
    said = install.warnings(on, config_path=config)
    assert sum("can not start" in line for line in said) == 1
    both = Machine(on.command, programs=(str(shut / "bin" / "python"),))
    assert sum("can not start" in x for x in install.warnings(both, config_path=config)) == 2
    assert any("homeostat init" in line for line in said)
    config.write_text("")
    config.chmod(0o600)
    assert any("chmod o+r" in line for line in install.warnings(on, config_path=config))
    assert install.warnings(on, config_path=config, user="root") == []


def test_it_starts_itself_again_by_an_absolute_path():
    words = install.command()
    assert Path(words[0]).is_absolute()
    done = subprocess.run(
        [*words, "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "homeostat" in done.stdout


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize(
    "message",
    ["READY=1", "WATCHDOG=1", "STOPPING=1", "RELOADING=1\nMONOTONIC_USEC=12345"],
)
def test_systemd_hears_us(tmp_path, monkeypatch, message, abstract):
    name = f"homeostat-test-{os.getpid()}-{abs(hash(message))}"
    address = "\0" + name if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name if abstract else address)
        assert sd_notify(message) is True
        assert systemd.recv(4096) == message.encode()


def test_without_systemd_it_is_silent(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert sd_notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", "relative")
    assert sd_notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert sd_notify("READY=1") is False


def test_the_watchdog_is_longer_than_a_tick_by_far():
    lines = dict(k for k in unit())
    assert int(lines["WatchdogSec"]) >= 10
    assert re.fullmatch(r"\d+", lines["TimeoutStopSec"])
    assert sys.executable  # the unit never names a shell
    assert "/sh " not in lines["ExecStart"]
