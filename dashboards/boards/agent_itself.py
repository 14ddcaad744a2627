"""Homeostat itself: does it see, does it think, does it write, and what does it cost."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.parts import (
    BLUE,
    FINE,
    GREEN,
    ORANGE,
    RATE,
    Q,
    Row,
    bad_from,
    board,
    good_from,
    heat,
    lines,
    ok_until,
    own,
    says,
    signal,
    stat,
    states,
    up,
)

UID = "homeostat-agent"
_NOBODY = "no agent is scraped"


def _rate(name: str, by: str = "", **labels: str) -> str:
    found = f"rate({own(name, **labels)}{RATE})"
    return f"sum by ({by}) ({found})" if by else found


def build() -> m.Dashboard:
    """Build it."""
    return board(
        UID,
        "Homeostat / Itself",
        "Does it see, does it think, does it write, and what does it cost.",
        [],
        [
            Row("Can it be relied on?", (
                stat(
                    "Answers", "Agents that answer when they are scraped, of all that should.", Q(f"sum({up()}) / count({up()})"),
                    unit="percentunit", steps=good_from(1), none=_NOBODY,
                ),
                stat(
                    "Ticks", "Ticks of the slowest walk, per second: it should be one.", Q(f"min({_rate('ticks_total')})"), unit="ops",
                    decimals=2, steps=good_from(0.5), none=_NOBODY, line=True,
                ),
                stat(
                    "Blind sources", "Sources that do not answer: what they watch is unknown.",
                    Q(f'count({own("source_fresh")} == 0) or vector(0)'), steps=bad_from(1, ORANGE),
                ),
                stat(
                    "Journal waits", "Entries that can not be written: the disk is full or broken, and nothing is acted on.",
                    Q(f'max({own("journal_pending")})'), steps=bad_from(1), none=_NOBODY,
                ),
                stat(
                    "Paused", "Pauses in force: nothing is done there before a person resumes.",
                    Q(f'count({own("pauses")}) or vector(0)'), steps=bad_from(1, ORANGE),
                ),
                stat(
                    "Bugs", "Errors of plug-ins that nobody expected, since each agent started.",
                    Q(f'sum({own("bugs_total")}) or vector(0)'), steps=bad_from(1, ORANGE),
                ),
            )),
            Row("Sees", (
                states(
                    "Sources that answer", "Fresh: it answers. Blind: what it watches is unknown.",
                    Q(own("source_fresh"), "{{source}}"), maps=FINE, none=_NOBODY,
                ),
                states(
                    "Learning", "Sources whose history is still too short to judge by; until then only objectives and the shipped prior "
                    "speak.",
                    Q(own("learning"), "{{source}}"), maps={"0": ("ready", GREEN), "1": ("learning", BLUE)},
                    none="no source is judged yet",
                ),
                lines(
                    "Age of what is known", says("source.age_seconds"), Q(signal("source.age_seconds"), "{{entity}}"), unit="s",
                    size=(8, 8), none=_NOBODY,
                ),
                lines(
                    "Time of a poll", says("source.poll_seconds"), Q(signal("source.poll_seconds"), "{{entity}}"), unit="s",
                    size=(8, 8), none=_NOBODY,
                ),
                lines(
                    "Series", "Series that are known, by source.", Q(own("series"), "{{source}}"), stacked=True, size=(8, 8),
                    none=_NOBODY,
                ),
                lines(
                    "Frames", "Frames taken, per second.", Q(_rate("frames_total", "source"), "{{source}}"), unit="ops", size=(8, 8),
                    none=_NOBODY,
                ),
                lines(
                    "Values that can not be", "Taken as unknown.", Q(_rate("impossible_values_total", "source"), "{{source}}"),
                    unit="ops", size=(8, 8), none=_NOBODY,
                ),
                lines(
                    "Pushed", "Bytes that services push, pushes that were refused, and points that were not taken as their sender has "
                    "too many series.",
                    Q(_rate("received_bytes_total", "source"), "{{source}}: bytes"),
                    Q(_rate("received_refused_total", "source"), "{{source}}: refused"),
                    Q(_rate("points_left_out_total", "source"), "{{source}}: points left out"), size=(8, 8), none="nobody pushes",
                ),
            )),
            Row("Thinks and writes", (
                heat("How long ticks take", "Ticks by the time that they took.", own("tick_seconds_bucket"), none=_NOBODY),
                lines(
                    "A tick", "Half of the ticks, and 99 % of them, take at most so long; and how late the last one began.",
                    Q(f"histogram_quantile(0.5, {_rate('tick_seconds_bucket', 'le, instance')})", "half, {{instance}}"),
                    Q(f"histogram_quantile(0.99, {_rate('tick_seconds_bucket', 'le, instance')})", "99 %, {{instance}}"),
                    Q(own("tick_lag_seconds"), "late, {{instance}}"), unit="s", none=_NOBODY,
                ),
                lines(
                    "Journal", "Entries written, per second.", Q(_rate("journal_entries_total", "kind"), "{{kind}}"), unit="ops",
                    size=(8, 8), none="nothing was written yet",
                ),
                lines(
                    "Requests", "Requests to console, API and /metrics that were answered.",
                    Q(_rate("http_requests_total", "code"), "{{code}}"), unit="reqps", size=(8, 8), none="nobody asks",
                ),
                lines(
                    "Time to answer", "95 % of the requests are answered within so long.",
                    Q(f"histogram_quantile(0.95, {_rate('http_request_seconds_bucket', 'le, route')})", "{{route}}"), unit="s",
                    size=(8, 8), none="nobody asks",
                ),
                lines(
                    "Numbers sent on", "Samples for those who keep our numbers: delivered, refused, dropped; and what waits.",
                    Q(_rate("sink_samples_total", "sink, outcome"), "{{sink}}: {{outcome}}"),
                    Q(own("sink_samples_waiting"), "{{sink}}: waiting"), none="no `remote_write`",
                ),
                lines(
                    "Consoles", "Consoles that follow events, and events that were dropped as one was too slow.",
                    Q(own("listeners"), "listening, {{instance}}"),
                    Q(f"increase({own('events_dropped_total')}{RATE})", "dropped, {{instance}}"),
                    none=_NOBODY,
                ),
            )),
            Row("Costs", (
                lines(
                    "CPU", "Share of one core that the daemon uses. It promises 1 % at 1,000 series a second.",
                    Q(_rate("agent_cpu_seconds_total"), "{{instance}}"), unit="percentunit", size=(8, 8), none=_NOBODY,
                ),
                lines(
                    "Memory", "Resident memory. It promises 110 MB before its first run, 140 MB after.",
                    Q(own("agent_resident_memory_bytes"), "{{instance}}"), unit="bytes", steps=ok_until(110e6, 140e6), size=(8, 8),
                    none=_NOBODY,
                ),
                lines(
                    "Open files and threads", "Of the daemon.", Q(own("agent_open_files"), "files, {{instance}}"),
                    Q(own("agent_threads"), "threads, {{instance}}"), size=(8, 8), none=_NOBODY,
                ),
                lines(
                    "What polling costs", says("source.poll_cpu_ratio"), Q(signal("source.poll_cpu_ratio"), "{{entity}}"),
                    unit="percentunit", stacked=True, none=_NOBODY,
                ),
                states(
                    "How far it may go", "The mode that no playbook may exceed.", Q(own("mode_ceiling"), "{{instance}}: {{mode}}"),
                    maps={"1": ("in force", BLUE)}, size=(6, 8), none=_NOBODY,
                ),
                lines(
                    "Running since", "Time since the daemon started, by version.",
                    Q(f'(time() - {own("start_time_seconds")}) * on (job, instance) group_left (version) {own("build_info")}', "{{instance}} {{version}}"),
                    unit="s", size=(6, 8), none=_NOBODY,
                ),
            )),
        ],
        since="now-3h",
    )  # fmt: skip
