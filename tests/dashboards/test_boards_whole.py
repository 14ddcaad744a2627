"""All that the agent tells of itself is on a board; signals that no board shows are left out on purpose."""

import re
from pathlib import Path

from boards_read import boards, expressions, variables

from agent.catalogue import SIGNALS
from agent.telemetry import METRICS

LIST = Path(__file__).with_name("no_board.txt")
PARTS = ("", "_bucket", "_sum", "_count")


def shown():
    said = [
        text
        for board in boards().values()
        for text in (
            *(expr for _, expr in expressions(board)),
            *(v["query"] for v in variables(board) if v["type"] == "query"),
        )
    ]
    return set(re.findall(r"\bhomeostat_\w+", " ".join(said)))


def by_rule(name):
    """Counters as they are read (rates are signals of their own), what is beyond the catalogue, alerts."""
    return name.endswith(("_total", ".alert_firing")) or ".other_" in name


def listed():
    lines = LIST.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_all_that_the_agent_tells_of_itself_is_on_a_board():
    found = shown()
    assert [name for name in METRICS if not any(name + part in found for part in PARTS)] == []


def test_signals_that_no_board_shows_are_left_out_on_purpose():
    found, told = shown(), listed()
    unshown = {n for n, d in SIGNALS.items() if d.exported not in found and not by_rule(n)}
    assert len(told) == len(set(told))
    assert unshown - set(told) == set(), (
        f"show it on a board, or write into {LIST.name} that none shows it"
    )
    assert set(told) - unshown == set(), (
        f"a board shows it, or it is gone: take it out of {LIST.name}"
    )
