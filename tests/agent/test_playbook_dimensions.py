import pytest

from agent.playbook.dimensions import lint


def slips(text, signal=""):
    def name(word):
        return signal if word in {"value", "peers.median"} else word.removeprefix("baseline.")

    return [f"{s.at}: {s.problem}; {s.remedy}" for s in lint(text, name)]


@pytest.mark.parametrize(
    "text",
    [
        "service.latency_p95_seconds > 0.5",
        "service.latency_p95_seconds > baseline.service.latency_p95_seconds * 1.2",
        "1.2 * baseline.service.latency_p95_seconds < service.latency_p95_seconds",
        "service.latency_p95_seconds - baseline.service.latency_p95_seconds > 0.1",
        "(service.latency_p95_seconds + 0.1) * 2.0 < service.latency_p50_seconds * 3.0",
        "service.latency_p95_seconds / service.latency_p50_seconds > 3.0",
        "service.latency_p95_seconds * gpu.clock_ratio < service.latency_p50_seconds",
        "gpu.clock_ratio < 0.9 && service.latency_p95_seconds > 0.2 || !(service.up < 0.5)",
        "service.up > 0.5 ? gpu.clock_ratio < 0.9 : gpu.clock_ratio < 0.5",
        "double(service.latency_p95_seconds) > 0.5",
        "cause.entity.startsWith('process:') && target.key in ['a', 'b']",
        "gpu.clock_ratio >= 0.0 && gpu.clock_ratio <= 1.0",
        "-gpu.temperature_celsius > -80.0",
        "model.bias < -3.0",
        "gpu.clock_ratio < 85.0",  # what it is held against can be lowered, so it has no upper end
    ],
)
def test_what_goes_together_is_let_through(text):
    assert slips(text) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("service.latency_p95_seconds > gpu.clock_ratio",
         "30: `service.latency_p95_seconds` is in seconds, `gpu.clock_ratio` in shares"),
        ("service.latency_p95_seconds + gpu.power_watts > 1.0", "in seconds, `gpu.power_watts` in watts"),
        ("service.latency_p95_seconds * 2.0 > gpu.power_watts", "`service.latency_p95_seconds * 2.0` is in seconds"),
        ("service.up > gpu.clock_ratio", "in states (0 or 1), `gpu.clock_ratio` in shares"),
        ("(gpu.power_watts) < process.memory_bytes", "`(gpu.power_watts)` is in watts"),
        ("true ? gpu.power_watts : gpu.clock_ratio", "in watts, `gpu.clock_ratio` in shares"),
        ("host.disk_utilization_ratio > 90.0", "can only be 0 to 1, so this never changes; write 0.9 for 90 %"),
        ("90.0 < host.disk_utilization_ratio", "0: `host.disk_utilization_ratio` can only be"),
        ("service.latency_p95_seconds > -1.0", "can only be 0 or more, so this never changes"),
        ("service.up == 2.0", "can only be 0 to 1"),
    ],
)  # fmt: skip
def test_what_does_not_is_told_with_its_place(text, says):
    found = slips(text)
    assert len(found) == 1
    assert says in found[0]


def test_value_has_the_unit_of_its_signal():
    assert slips("value < peers.median * 0.85", "gpu.clock_ratio") == []
    assert "in shares" in slips("value > gpu.power_watts", "host.disk_utilization_ratio")[0]
