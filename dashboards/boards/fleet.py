"""Fleet: is anybody hurt, what is being done about it, and where."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.parts import (
    FINE,
    ORANGE,
    PLAIN,
    RED,
    YELLOW,
    Column,
    Q,
    Row,
    bad_from,
    bars,
    board,
    choice,
    lines,
    ok_until,
    own,
    says,
    signal,
    stat,
    table,
    to,
    unit_of,
    up,
    values,
)

UID = "homeostat-fleet"
_SEVERITY = {"page": ("page", RED), "warning": ("warning", ORANGE), "note": ("note", YELLOW)}


def incidents(size: tuple[int, int]) -> m.Panel:
    """Return the table of what is open: whom it is about, what it comes from, a click from the evidence."""
    keep = "instance, severity, entity, cause, state, incident"
    opened = own("incident_opened_timestamp_seconds")
    return table(
        "Open incidents",
        "What is open now, pages first: the most probable cause as far as it is known, whom it is about, for how long. "
        "A click on the incident opens the console.",
        [Q(f"time() - max by ({keep}) ({opened})")],
        [
            Column("severity", "Severity", maps=_SEVERITY),
            Column("entity", "About"),
            Column("cause", "Cause"),
            Column("state", "State"),
            Column("A", "Open for", unit="s"),
            Column("incident", "Incident", url="${console}/incidents/${__value.raw}"),
            Column("instance", "Agent"),
        ],
        size=size,
        none="nothing is open",
        sort="Open for",
        descending=False,
    )


def runs(size: tuple[int, int]) -> m.Panel:
    """Return the table of runs under way."""
    keep = "instance, playbook, entity, state, mode, incident, run"
    started = own("run_started_timestamp_seconds")
    return table(
        "Under way",
        "Runs that have not ended: what they do to whom, how far they are, and how far they may go by themselves.",
        [Q(f"time() - max by ({keep}) ({started})")],
        [
            Column("playbook", "Playbook"),
            Column("entity", "Target"),
            Column("state", "State", maps={"waiting_approval": ("waits for a person", ORANGE)}),
            Column("mode", "Mode"),
            Column("A", "For", unit="s"),
            Column("run", "Run", url="${console}/incidents/${__data.fields.Incident}"),
            Column("incident", "Incident"),
            Column("instance", "Agent"),
        ],
        size=size,
        none="nothing is being done",
        sort="For",
        descending=False,
    )


def build() -> m.Dashboard:
    """Build it."""
    hurt = own("incidents_open", severity="page")
    limit = own("objective_limit", signal="service.latency_p95_seconds")
    service = {"entity": "$service"}
    p95 = "service.latency_p95_seconds"
    return board(
        UID,
        "Homeostat / Fleet",
        "Is anybody hurt, what is being done about it, and where: over all agents.",
        [
            choice(
                "service", "Service", "The service of the row `One service`.",
                values("entity", signal("service.requests_per_second")),
            ),
        ],
        [
            Row("Is anybody hurt?", (
                stat(
                    "Pages open", "Incidents that hurt users or the results of models, now.",
                    Q(f"sum({hurt})"), steps=bad_from(1), none="no agent is scraped", url=to("homeostat-incidents"),
                ),
                stat(
                    "Wait for a person", "Runs that may not go on before somebody approves.",
                    Q(f'sum({own("runs_live", state="waiting_approval")}) or vector(0)'), steps=bad_from(1, ORANGE),
                    url="${console}/",
                ),
                stat(
                    "Acting", "Runs that change something, wait for its effect, or put it back.",
                    Q(f'sum({own("runs_live", state="!waiting_approval")}) or vector(0)'),
                    url=to("homeostat-incidents"),
                ),
                stat(
                    "Warnings open", "Incidents that hurt nobody yet.",
                    Q(f'sum({own("incidents_open", severity="warning")})'), steps=bad_from(1, YELLOW),
                    none="no agent is scraped", url=to("homeostat-incidents"),
                ),
                stat(
                    "Blind sources", "Sources that do not answer: what they watch is unknown, not well.",
                    Q(f'count({own("source_fresh")} == 0) or vector(0)'), steps=bad_from(1, ORANGE),
                    url=to("homeostat-agent"),
                ),
                stat(
                    "Silent agents", "Agents that do not answer when they are scraped: nobody watches and nobody heals there.",
                    Q(f"count({up()} == 0) or vector(0)"), steps=bad_from(1), url=to("homeostat-agent"),
                ),
                incidents((14, 8)),
                runs((10, 8)),
            )),
            Row("Services and models", (
                lines(
                    "Latency of services, 95 %", says(p95) + " Dashed: the objectives that people stated.",
                    Q(signal(p95), "{{entity}}"),
                    Q(f"max by (entity, bound) ({limit})", "objective of {{entity}}"),
                    unit="s", dashed=["^objective of"], none="no service is watched: write `services:` in agent.yaml",
                ),
                lines(
                    "Failed requests", says("service.error_ratio"),
                    Q(signal("service.error_ratio"), "{{entity}}"), unit="percentunit",
                    none="no service is watched: write `services:` in agent.yaml",
                ),
                lines(
                    "Error budgets: how fast they burn",
                    "How many times faster than it may the error budget of an objective is used up; above 1 it will not last.",
                    Q(
                        f'max by (entity, objective, window) ({signal("service.error_budget_burn_ratio")})',
                        "{{entity}}: {{objective}} ({{window}})",
                    ),
                    Q(
                        f'max by (entity, objective, window) ({signal("model.error_budget_burn_ratio")})',
                        "{{entity}}: {{objective}} ({{window}})",
                    ),
                    steps=bad_from(1), none="no objective has a `target:` in agent.yaml, or it is still learning",
                ),
                lines(
                    "Error budgets that are left", "Share of the error budget of an objective that is left; below 0 it is overspent.",
                    Q(
                        f'min by (entity, objective) ({signal("service.error_budget_left_ratio")})',
                        "{{entity}}: {{objective}}",
                    ),
                    Q(f'min by (entity, objective) ({signal("model.error_budget_left_ratio")})', "{{entity}}: {{objective}}"),
                    unit="percentunit", low=None, none="no objective has a `target:` in agent.yaml",
                ),
                lines(
                    "Accuracy of models", says("model.accuracy_ratio"),
                    Q(signal("model.accuracy_ratio"), "{{entity}}"), unit="percentunit", low=None, size=(24, 8),
                    none="no labels have come yet",
                ),
            )),
            Row("One service: $service", (
                lines(
                    "Latency", "Latency as clients see it. Shaded: what is expected of the 95 % line now, by its own history.",
                    Q(signal("service.latency_p50_seconds", **service), "half"),
                    Q(signal(p95, **service), "95 %"),
                    Q(signal("service.latency_p99_seconds", **service), "99 %"),
                    Q(own("series_expected_low", signal=p95, **service), "expected, from"),
                    Q(own("series_expected_high", signal=p95, **service), "expected, to"),
                    Q(own("objective_limit", signal=p95, **service), "objective"),
                    unit="s", band=("expected, from", "expected, to"), dashed=["^objective"], size=(12, 8),
                    none="still learning",
                ),
                lines(
                    "Requests", says("service.requests_per_second"),
                    Q(signal("service.requests_per_second", **service), "requests"), unit="reqps", size=(6, 8),
                ),
                lines(
                    "Work", "What its workers do against what they can do, how many there are, what waits.",
                    Q(signal("service.replicas_count", **service), "replicas"),
                    Q(signal("service.busy_ratio", **service), "busy"),
                    Q(signal("service.queue_count", **service), "waiting"), size=(6, 8),
                ),
            )),
            Row("Machines", (
                table(
                    "Hosts", "The hosts that agents run on. A click on a host opens its board.",
                    [
                        Q(f'max by (instance, entity) ({signal("host.cpu_busy_ratio")})'),
                        Q(f'max by (instance, entity) ({signal("host.memory_utilization_ratio")})'),
                        Q(f'max by (instance, entity) ({signal("host.disk_utilization_ratio")})'),
                        Q(f'max by (instance, entity) ({signal("host.pressure_ratio", who="some")})'),
                        Q(f'max by (instance, entity) ({signal("host.load1_count")})'),
                        Q(f'max by (instance, entity) ({signal("host.uptime_seconds")})'),
                    ],
                    [
                        Column("entity", "Host", url=to("homeostat-host", "var-host=${__value.raw}")),
                        Column("A", "CPU busy", unit="percentunit", gauge=True, steps=ok_until(0.8, 0.95)),
                        Column("B", "Memory", unit="percentunit", gauge=True, steps=ok_until(0.85, 0.95)),
                        Column("C", "Fullest disk", unit="percentunit", gauge=True, steps=ok_until(0.85, 0.95)),
                        Column("D", "Tasks that wait", unit="percentunit", steps=ok_until(0.3, 0.6)),
                        Column("E", "Load", unit="short"),
                        Column("F", "Up", unit="s"),
                        Column("instance", "Agent"),
                    ],
                    size=(24, 7), none="no agent is scraped", sort="CPU busy",
                ),
                table(
                    "GPUs", "The GPUs of these hosts. A click opens their board.",
                    [
                        Q(f'max by (instance, entity) ({signal("gpu.reachable")})'),
                        Q(f'max by (instance, entity) ({signal("gpu.utilization_ratio")})'),
                        Q(f'max by (instance, entity) ({signal("gpu.memory_utilization_ratio")})'),
                        Q(f'max by (instance, entity) ({signal("gpu.temperature_celsius")})'),
                        Q(f'max by (instance, entity) ({signal("gpu.throttled")})'),
                    ],
                    [
                        Column("entity", "GPU", url=to("homeostat-gpu", "var-gpu=${__value.raw}")),
                        Column("A", "Answers", maps=FINE),
                        Column("B", "Work", unit=unit_of("gpu.utilization_ratio"), gauge=True, steps=PLAIN),
                        Column("C", "Memory", unit="percentunit", gauge=True, steps=ok_until(0.9, 0.97)),
                        Column("D", "Temperature", unit="celsius", steps=ok_until(80, 90)),
                        Column("E", "Held back", maps={"0": ("no", "green"), "1": ("yes", ORANGE)}),
                        Column("instance", "Agent"),
                    ],
                    size=(24, 6), none="no GPU here", sort="Answers", descending=False,
                ),
            )),
            Row("How well it does", (
                stat(
                    "Pages, last week", "Incidents of the last seven days that paged somebody.",
                    Q(f'sum({own("pages_last_week")})'), size=(4, 6), none="no agent is scraped",
                    url=to("homeostat-incidents"),
                ),
                stat(
                    "False pages, last week", "Of those, how many a person called false. The budget is what was promised.",
                    Q(f'sum({own("false_pages_last_week")})'), size=(4, 6), none="no agent is scraped",
                    steps=bad_from(1, YELLOW), url=to("homeostat-incidents"),
                ),
                bars(
                    "Verdicts", "What runs of this time were proven to have done.",
                    Q(f'sum by (verdict) (increase({own("run_seconds_count")}[$__range]))', "{{verdict}}"),
                    size=(8, 6), none="nothing has acted", decimals=0,
                ),
                lines(
                    "Open over time", "Incidents that are not resolved.",
                    Q(f'sum by (severity) ({own("incidents_open")})', "{{severity}}"), stacked=True, size=(8, 6),
                    none="no agent is scraped", decimals=0,
                ),
            )),
        ],
    )  # fmt: skip
