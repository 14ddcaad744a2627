"""Incidents and runs: how soon troubles are seen and healed, what acts were worth, and whether the alarm budget holds."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard as m

from dashboards.boards.fleet import incidents, runs
from dashboards.boards.parts import (
    GREEN,
    GREY,
    ORANGE,
    RANGE,
    RATE,
    RED,
    YELLOW,
    Column,
    Q,
    Row,
    Step,
    bad_from,
    bars,
    board,
    heat,
    lines,
    own,
    stat,
    table,
)

UID = "homeostat-incidents"
_YOUNG = "less than a day under watch: no rate yet"


def _typical(name: str, q: float) -> str:
    """Return a quantile of a histogram over the time that is shown."""
    return f"histogram_quantile({q}, sum by (le) (increase({own(name + '_bucket')}{RANGE})))"


def _count(name: str, **labels: str) -> str:
    return f"sum(increase({own(name + '_count', **labels)}{RANGE}))"


def build() -> m.Dashboard:
    """Build it."""
    healed = _count("incident_heal_seconds", by="homeostat")
    all_ = _count("incident_heal_seconds")
    ends = {"quarter": 0.25, "half": 0.5, "95 %": 0.95}
    return board(
        UID,
        "Homeostat / Incidents and runs",
        "How soon troubles are seen and healed, what acts were worth, and whether the alarm budget holds.",
        [],
        [
            Row("Now", (
                incidents((14, 8)),
                runs((10, 8)),
                stat(
                    "Need a person", "Open incidents for which homeostat has done what it may: the rest is for people.",
                    Q(f'sum({own("incidents_needing_people")}) or vector(0)'), steps=bad_from(1, ORANGE), size=(4, 6),
                    decimals=0, url="${console}/",
                ),
                stat(
                    "Silences", "Silences in force: nobody is told of those targets, and nothing acts on them.",
                    Q(f'sum({own("silences")})'), size=(4, 6), decimals=0, none="no agent is scraped",
                ),
                lines(
                    "Why people are needed", "Open incidents, and those of them that need a person, by why: a run asks or only "
                    "suggests, attempts are used up, an act did not help or did harm, nothing may act (`held`), or nothing is "
                    "meant for it (`no_playbook`).",
                    Q(f'sum by (needs) ({own("incidents_needing_people")})', "{{needs}}"),
                    Q(f'sum({own("incidents_open")})', "open"), size=(16, 6), none="no agent is scraped", decimals=0,
                ),
            )),
            Row("How well it does, in the time that is shown", (
                stat(
                    "Time to detect", "Half of the incidents were opened so soon after the first abnormal moment of their series.",
                    Q(_typical("incident_detect_seconds", 0.5)), unit="s", none="no incident in this time",
                ),
                stat(
                    "Time to heal", "Half of the incidents were well for good so long after they were opened.",
                    Q(_typical("incident_heal_seconds", 0.5)), unit="s", none="nothing was resolved in this time",
                ),
                stat(
                    "Healed without a person", "Share of the incidents that were resolved after a run of homeostat was proven to have "
                    "helped.",
                    Q(f"{healed} / ({all_} > 0)"), unit="percentunit", none="nothing was resolved in this time",
                ),
                stat(
                    "Runs that harmed", "Runs after which it was proven to be worse; they are put back.",
                    Q(_count("run_seconds", verdict="harmed")), steps=bad_from(0.5), decimals=0, none="no agent is scraped",
                ),
                stat(
                    "Pages, last week", "Incidents of the last seven days that paged.", Q(f'sum({own("pages_last_week")})'),
                    none="no agent is scraped",
                ),
                stat(
                    "False pages, last week", "Of those, how many a person called false.", Q(f'sum({own("false_pages_last_week")})'),
                    steps=bad_from(1, YELLOW), none="no agent is scraped",
                ),
                heat(
                    "How long healing took", "Incidents by the time from their opening to when they were well for good, as they end.",
                    own("incident_heal_seconds_bucket"), none="nothing was resolved in this time",
                ),
                lines(
                    "Opened", "Incidents opened in each stretch of time.",
                    Q(f'sum by (severity) (increase({own("incidents_total")}{RATE}))', "{{severity}}"), stacked=True,
                    none="no agent is scraped",
                ),
                bars(
                    "How soon it detects", "So many of the incidents were opened so soon after the first abnormal moment.",
                    *(Q(_typical("incident_detect_seconds", q), words) for words, q in ends.items()), unit="s",
                    size=(8, 6), none="no incident in this time",
                ),
                bars(
                    "How soon it heals", "So many of the incidents were well for good so soon after they were opened.",
                    *(Q(_typical("incident_heal_seconds", q), words) for words, q in ends.items()), unit="s",
                    size=(8, 6), none="nothing was resolved in this time",
                ),
                bars(
                    "How long runs take", "So many of the runs that acted had ended so soon, verdict and all.",
                    *(Q(_typical("run_seconds", q), words) for words, q in ends.items()), unit="s",
                    size=(8, 6), none="nothing has acted in this time",
                ),
            )),
            Row("What acts were worth", (
                bars(
                    "Verdicts", "What runs of this time were proven to have done: helped, no effect, harmed, or it can not be told.",
                    Q(f'sum by (verdict) (increase({own("run_seconds_count")}{RANGE}))', "{{verdict}}"), decimals=0, size=(8, 8),
                    none="no agent is scraped",
                ),
                table(
                    "Playbooks", "Runs that ended, by playbook and verdict, since each agent started; `none`: it did not act.",
                    [Q(f'sum by (playbook, verdict) (max_over_time({own("runs_total")}{RANGE}))')],
                    [
                        Column("playbook", "Playbook"),
                        Column("verdict", "Verdict", maps={
                            "helped": ("helped", GREEN), "harmed": ("harmed", RED), "no_effect": ("no effect", YELLOW),
                            "cannot_tell": ("can not tell", GREY), "none": ("did not act", GREY),
                        }),
                        Column("A", "Runs"),
                    ],
                    size=(8, 8), none="no run has ended", sort="Runs",
                ),
                bars(
                    "What held it back", "Gates of the guard that said no, since each agent started.",
                    Q(f'topk(12, sum by (gate) (max_over_time({own("gates_closed_total")}{RANGE})))', "{{gate}}"), size=(8, 8),
                    decimals=0, steps=(Step(None, ORANGE),), none="no gate has said no",
                ),
                lines(
                    "Decisions", "What the guard said in each stretch of time.",
                    Q(f'sum by (allowed) (increase({own("decisions_total")}{RATE}))', "allowed: {{allowed}}"),
                    none="nothing was to be decided",
                ),
                lines(
                    "Runs under way", "Runs that have not ended.", Q(f'sum by (state) ({own("runs_live")})', "{{state}}"),
                    stacked=True, none="nothing is being done", decimals=0,
                ),
                lines(
                    "Changes by others", "Releases, settings, scaling and restarts that others made: the first suspects.",
                    Q(f'sum by (kind) (increase({own("changes_total", by="others")}{RATE}))', "{{kind}}"), size=(12, 8),
                    none="no agent is scraped",
                ),
                lines(
                    "Changes by homeostat", "What it has changed itself: never a suspect.",
                    Q(f'sum by (kind) (increase({own("changes_total", by="homeostat")}{RATE}))', "{{kind}}"), size=(12, 8),
                    none="no agent is scraped",
                ),
            )),
            Row("The alarm budget", (
                lines(
                    "False pages a week", "Measured, between what people called false (low) and what nobody called real (high), with "
                    "95 %. Dashed: what was promised.",
                    Q(f'max by (instance, bound) ({own("false_pages_per_week")})', "{{instance}}: {{bound}}"),
                    Q(f'max by (instance) ({own("false_pages_budget_per_week")})', "promised by {{instance}}"),
                    dashed=["^promised"], size=(8, 8), none=_YOUNG,
                ),
                lines(
                    "False notes a day", "The same of notes in the console.",
                    Q(f'max by (instance, bound) ({own("console_notes_per_day")})', "{{instance}}: {{bound}}"),
                    Q(f'max by (instance) ({own("console_notes_budget_per_day")})', "promised by {{instance}}"),
                    dashed=["^promised"], size=(8, 8), none=_YOUNG,
                ),
                lines(
                    "Series abnormal a day", "Series that became abnormal by themselves, true ones among them.",
                    Q(f'max by (instance, bound) ({own("anomalies_per_day")})', "{{instance}}: {{bound}}"),
                    Q(f'max by (instance) ({own("anomalies_budget_per_day")})', "promised by {{instance}}"),
                    dashed=["^promised"], size=(8, 8), none=_YOUNG,
                ),
                lines(
                    "Series abnormal now", "Series that belong to an open incident.",
                    Q(f'sum by (instance) ({own("anomalies_active")})', "{{instance}}"), size=(8, 8), none="no agent is scraped",
                ),
                lines(
                    "Tightness", "1: limits are as derived from the budget. Below: series must be so much rarer, as too many were "
                    "abnormal.",
                    Q(own("budget_tightness"), "{{instance}}"), size=(8, 8), none="no agent is scraped",
                ),
                lines(
                    "What people said", "Signals whose sensitivity labels (`noise`, `real`) have changed.",
                    Q(f'sum by (direction) ({own("signals_labelled")})', "must be {{direction}}"), size=(8, 8),
                    none="no agent is scraped",
                ),
                stat(
                    "Budgets that are hardly used", "So many of the three have let less than a quarter of what was promised be false: you "
                    "may promise less, or let more be told. 0, too, in the first day under watch.",
                    Q(f'sum({own("budget_unused")}) or vector(0)'), size=(8, 6), decimals=0,
                ),
                stat(
                    "Paged", "Incidents that became a page in the time that is shown.", Q(f'sum(increase({own("pages_total")}{RANGE}))'),
                    size=(8, 6), decimals=0, none="no agent is scraped",
                ),
                stat(
                    "Measured over", "Time under watch behind the measured rates, of the last four weeks, of the agent that has least.",
                    Q(f'min({own("budget_watched_seconds")})'), unit="s", size=(8, 6), none="no agent is scraped",
                ),
            )),
        ],
        since="now-7d",
    )  # fmt: skip
