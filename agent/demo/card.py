"""The score card: what happened to each fault, what it cost, and with which settings.

`build/demo.json` holds one line: {"faults", "detected", "cause_right", "healed", "harmful", "seconds", "rows": [...]}.
All right means: every fault detected, its cause and the thing to blame named, healed with a verified run, temporary
measures put back, no act that harmed or that nobody needed, no false page, neither act nor page in the healthy swing;
and of every act of belief, each thing that must hold.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent.units import many, read_quantity, say_duration
from agent.views import DecisionView


@dataclass(slots=True)
class Row:
    """One fault, or the healthy swing (`fault` False), and what the agent made of it.

    detected_s    from the moment it was broken until the agent opened an incident
    healed_s      until the agent's run was verified and clients saw service within objectives again
    put_back_s    after the outside cause ended: until temporary measures were put back
    acts          playbooks that really acted; `wrong` those of them that nobody needed
    pages         pages told; `false_pages` those without a fault behind them, and every second one for the same fault
    refused       gates of the guard that said no, with how often
    """

    name: str
    fault: bool = True
    severity: str = ""
    detected_s: float | None = None
    expected: str = ""
    cause: str = ""
    blamed: str = ""
    probability: float = 0.0
    cause_right: bool = False
    acts: list[str] = field(default_factory=list)
    verdict: str = ""
    healed_s: float | None = None
    put_back_s: float | None = None
    harmful: int = 0
    wrong: list[str] = field(default_factory=list)
    pages: int = 0
    false_pages: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    said: str = ""

    @property
    def right(self) -> bool:
        """All that this row can show is as it should be."""
        clean = not (self.harmful or self.wrong or self.false_pages)
        if not self.fault:
            return clean and not self.acts and not self.pages
        told = self.detected_s is not None and self.cause_right
        return clean and told and self.healed_s is not None and self.put_back_s is not None


@dataclass(slots=True)
class Belief:
    """One act that makes one believe: what was done to the agent, and whether each thing that must hold did.

    did       in words; checks: what must hold -> whether it did
    acts      playbooks that really acted, with their verdict; seconds: how long it took
    """

    name: str
    did: str
    checks: dict[str, bool] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    harmful: int = 0
    seconds: float = 0.0
    said: str = ""

    @property
    def right(self) -> bool:
        """All that must hold did, and nothing did harm that was not meant to."""
        return bool(self.checks) and all(self.checks.values()) and not self.harmful


@dataclass(slots=True)
class Card:
    """All rows and how long it took; `expected` faults and `believed` acts of belief were meant to be shown."""

    seed: int
    expected: int
    rows: list[Row] = field(default_factory=list)
    believed: int = 0
    beliefs: list[Belief] = field(default_factory=list)
    seconds: float = 0.0
    asked: int = 0
    failed: int = 0

    @property
    def faults(self) -> list[Row]:
        """The rows that are faults."""
        return [row for row in self.rows if row.fault]

    @property
    def right(self) -> bool:
        """Every fault and every act of belief was shown, and every row is right."""
        whole = len(self.faults) == self.expected and len(self.beliefs) == self.believed
        return (
            whole and all(row.right for row in self.rows) and all(row.right for row in self.beliefs)
        )

    def figures(self) -> dict[str, Any]:
        """Return the line for `build/demo.json`."""
        rows: list[Row | Belief] = [*self.rows, *self.beliefs]
        return {
            "faults": self.expected,
            "detected": sum(row.detected_s is not None for row in self.faults),
            "cause_right": sum(row.cause_right for row in self.faults),
            "healed": sum(row.healed_s is not None for row in self.faults),
            "harmful": sum(row.harmful + len(row.wrong) for row in self.rows)
            + sum(row.harmful for row in self.beliefs),
            "seconds": round(self.seconds, 1),
            "false_pages": sum(row.false_pages for row in self.rows),
            "right": self.right,
            "seed": self.seed,
            "requests": self.asked,
            "failed_requests": self.failed,
            "beliefs": self.believed,
            "beliefs_right": sum(row.right for row in self.beliefs),
            "rows": [{**asdict(row), "right": row.right} for row in rows],
        }

    def write(self, path: Path) -> str:
        """Write the line to a file and return it."""
        line = json.dumps(self.figures(), default=str)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + "\n", encoding="utf-8")
        return line

    def table(self) -> Table:
        """Return the card for people."""
        table = Table(
            title=f"score card, seed {self.seed}", box=box.SIMPLE_HEAD, title_justify="left"
        )
        for name in (
            "",
            "fault",
            "detected",
            "cause named",
            "action",
            "verdict",
            "healed",
            "false pages",
            "refused by gate",
        ):
            table.add_column(name, overflow="fold")
        for row in self.rows:
            named = "-"
            if row.cause:
                named = f"{row.cause} [dim]{row.blamed}[/] " + (
                    "right" if row.cause_right else "[red]wrong[/]"
                )
            table.add_row(
                _mark(row.right),
                f"{row.name}\n[dim]{row.severity}[/]",
                _after(row.detected_s),
                named,
                ", ".join(row.acts) or "none",
                row.verdict or "-",
                _after(row.healed_s),
                str(row.false_pages),
                ", ".join(f"{gate} {n}" for gate, n in sorted(row.refused.items())) or "-",
            )
        return table

    def belief_table(self) -> Table:
        """Return what was done to make one believe, a line for each thing that must hold."""
        table = Table(
            title=f"acts of belief, seed {self.seed}", box=box.SIMPLE_HEAD, title_justify="left"
        )
        for name in ("", "act", "must hold", "acted", "took"):
            table.add_column(name, overflow="fold")
        for row in self.beliefs:
            held = "\n".join(f"{_mark(well)} {escape(what)}" for what, well in row.checks.items())
            table.add_row(
                _mark(row.right),
                f"{row.name}\n[dim]{escape(row.did)}[/]",
                held,
                ", ".join(row.acts) or "none",
                _after(row.seconds),
            )
        return table

    def summary(self) -> str:
        """Return the last word for people."""
        f = self.figures()
        harm = many(f["harmful"], "harmful act")
        lost = f"{self.failed} of {self.asked} requests failed or came too late"
        if self.believed:
            return (
                f"{f['beliefs_right']} of {self.believed} acts of belief as they must be, {harm} "
                f"that nobody meant, in {say_duration(self.seconds)}; {lost}"
            )
        return (
            f"{f['detected']} of {self.expected} detected, {many(f['cause_right'], 'cause')} right, "
            f"{f['healed']} healed, {harm}, {many(f['false_pages'], 'false page')}, "
            f"in {say_duration(self.seconds)}; {lost}"
        )


def _mark(well: bool) -> str:
    return "[green]✓[/]" if well else "[red]✗[/]"


def _after(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def count_refusals(decisions: Iterable[DecisionView]) -> dict[str, int]:
    """Count the gates that said no, each once per decision in which it was the first to do so."""
    first = (
        next((str(gate["name"]) for gate in one["gates"] if not gate["passed"]), "")
        for one in decisions
        if not one["allowed"]
    )
    return dict(Counter(name for name in first if name))


def differences(mine: Any, defaults: Any, at: str = "") -> list[str]:
    """Say where settings differ from the defaults, a line each: `diagnose.settle: 2s (default 10)`."""
    if _same(mine, defaults):
        return []
    if isinstance(mine, Mapping):
        known = defaults if isinstance(defaults, Mapping) else {}
        inner = [
            (f"{at}.{key}" if at else str(key), one, known.get(key)) for key, one in mine.items()
        ]
    elif isinstance(mine, list) and any(isinstance(one, Mapping) for one in mine):
        rest = list(defaults) if isinstance(defaults, list) else []
        pairs = itertools.zip_longest(mine, rest[: len(mine)])
        inner = [(f"{at}[{i}]", one, usual) for i, (one, usual) in enumerate(pairs)]
    else:
        timed = _is_duration(mine) and isinstance(defaults, float)
        said = say_duration(defaults) if timed else defaults
        tail = "" if defaults in (None, [], {}, "") else f" (default {_brief(said)})"
        return [f"{at}: {_brief(mine)}{tail}"]
    return [line for where, one, usual in inner for line in differences(one, usual, where)]


def _same(mine: Any, usual: Any) -> bool:
    """Tell whether two settings are one, `2s` and 2.0 too."""
    if mine == usual:
        return True
    if isinstance(mine, str) and isinstance(usual, int | float) and not isinstance(usual, bool):
        try:
            return bool(read_quantity(mine) == usual)
        except ValueError:
            return False
    return False


def _is_duration(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9.]+(ms|s|m|h|d)", value) is not None


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def show(console: Console, card: Card, changed: Sequence[str], compressed: Sequence[str]) -> None:
    """Print the settings it ran with, what was compressed, and then the card, so that it is seen last."""
    console.print("[bold]agent.yaml and playbooks.d, as a difference from the defaults[/]")
    for line in changed:
        console.print(f"  {line}", markup=False, highlight=False)
    console.print("[bold]time is compressed[/]")
    for line in compressed:
        console.print(f"  {line}", markup=False, highlight=False)
    if card.rows:
        console.print(card.table())
    if card.beliefs:
        console.print(card.belief_table())
    console.print(f"[bold]{card.summary()}[/]", highlight=False)
