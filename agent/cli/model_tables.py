"""What `homeostat models`, `compare`, `edges`, `explain` and `drift` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.console import Group
from rich.text import Text

from agent.cli.tables import _console, _table
from agent.units import many, say, say_duration

_WHOLE: Final = frozenset({"mae", "rmse", "bias", "log_loss"})
"""Figures that are no shares."""
_MOST: Final = 12
_COIN: Final = 0.5
_NOTABLE: Final = 0.05
"""Of a loss: less is not worth a word."""


def models(found: Sequence[Any], *, closely: bool) -> None:
    """Show the models, each in some lines; closely: with slices, gaps and features."""
    out = _console()
    if not found:
        out.print("no predictions were logged yet; see docs/logging-predictions.md")
    for one in found:
        out.print(Group(*_lines(one, closely=closely)))


def _lines(m: Any, *, closely: bool) -> list[Any]:
    serving = ", ".join(v["version"] or "no version" for v in m["serving"]) or "nothing serves"
    lines: list[Any] = [Text.assemble((m["model"], "bold"), f"  {serving}")]
    lines.append(Text(f"  accuracy   {_band(m['accuracy'])}{_against(m)}"))
    if m["expected"]["value"] is not None:
        lines.append(Text(f"  expected   {_band(m['expected'])} without labels"))
    elif m["unknown"]:
        lines.append(Text(f"  expected   can not be told: {m['unknown']}", style="dim"))
    labels = "none yet" if m["label_coverage"] is None else f"{m['label_coverage']:.0%} of the rows"
    late = f", after {say_duration(m['label_delay_s'])}" if m["label_delay_s"] is not None else ""
    lines.append(Text(f"  labels     {labels}{late}"))
    if m["lost"]:
        lost = f"  lost       {m['lost']:.1%} of the predictions, by the sender's own count: see its log"
        lines.append(Text(lost, style="yellow"))
    if m["figures"]:
        shown = ", ".join(f"{k} {_number(k, v['value'])}" for k, v in m["figures"].items())
        lines.append(Text(f"  figures    {shown}"))
    for one in m["compared"]:
        style = "yellow" if one["verdict"] == "worse" else ""
        lines.append(Text(f"  versions   {one['said']}", style=style))
    lines += [Text(f"  {s['cause']}: {s['reason']}", style="yellow") for s in m["suspects"]]
    if m["suspects"] and _parts(m["loss"]):
        lines.append(Text(f"  of the loss, {_parts(m['loss'])}"))
    if m["preparing"]:
        whose = ", ".join(v or "no version" for v in m["preparing"])
        rows = many(m["held_rows"], "row waits, and is", "rows wait, and are")
        waits = f"preparing what {whose} is held against: {rows} counted then"
        lines.append(Text(f"  {waits}", style="dim"))
    elif not m["suspects"]:
        calm = "it is learning what is usual" if m["learning"] else "nothing has moved far enough"
        lines.append(Text(f"  {calm}", style="dim"))
    if closely:
        lines += _closely(m)
    return lines


def _parts(loss: Any) -> str:
    """Say what a change of the loss is made of, where it is sure that there is one: the parts that are sure."""
    if loss is None:
        return ""
    out = []
    for one in loss["parts"]:
        share, part = one["share"]["value"], one["loss"]
        if share is None or share < _NOTABLE or part["low"] * part["high"] <= 0:
            continue
        between = f"{one['share']['low']:.0%} to {one['share']['high']:.0%}"
        what = (
            "the relation to the label changed"
            if one["what"] == "relation"
            else f"{one['what']} moved"
        )
        out.append(f"{share:.0%} ({between}): {what}")
    if out and loss["unseen"]:
        out.append(f"rows unlike all before in {', '.join(loss['unseen'][:3])} count as relation")
    return "; ".join(out)


def compared(one: Any) -> None:
    """Show two versions."""
    out = _console()
    out.print(Text(one["said"], style="yellow" if one["verdict"] == "worse" else ""))
    if one["agreement"] is not None:
        out.print(f"both said the same to {one['agreement']:.1%} of the requests")
    if one["slices"]:
        table = _table("slice", "verdict", "difference", "between")
        worst = sorted(
            one["slices"].items(), key=lambda item: -(item[1]["difference"]["value"] or 0.0)
        )
        for name, found in worst[:_MOST]:
            band = found["difference"]
            table.add_row(name, found["verdict"], _plain(band["value"], "+.3g"), _between(band))
        out.print(table)


def edges(said: Any) -> None:
    """Show what sketches are counted over."""
    out = _console()
    out.print(f"{said['model']}, version {said['version'] or 'without a name'}")
    table = _table("feature", "edges or values")
    for name, one in said["features"].items():
        table.add_row(name, ", ".join(map(str, one.get("edges") or one["values"])))
    out.print(table)
    out.print("--json gives them to the last digit", style="dim")


def explained(said: Any) -> None:
    """Show what drove one answer."""
    out = _console()
    known = said["told"] is not None
    if known:
        head = f"{said['unit']} is {said['usual']:.3g} on average"
        out.print(f"{head}; single features explain {said['told']:.0%} of how answers differ")
    else:
        out.print(
            "no answers to rows of a reference are known (models: {reference: ...}): only what is unusual"
        )
    table = _table("feature", "adds", "so unusual are")
    for one in said["drivers"][:_MOST]:
        table.add_row(
            one["name"], _plain(one["adds"], "+.3g"), f"{one['rare']:.2%} of the reference"
        )
    out.print(table)


def asked(said: Any) -> None:
    """Show what the model itself says of one answer."""
    out = _console()
    out.print(
        f"the answer is {said['answer']:.3g}; to rows of the reference {said['usual']:.3g} on average"
    )
    table = _table("feature", "adds", "give or take")
    for one in said["drivers"][:_MOST]:
        table.add_row(one["name"], _plain(one["adds"], "+.3g"), _plain(one["error"], ".2g"))
    out.print(table)


def apart(said: Any) -> None:
    """Show whether rows are told from those of a reference, and by what."""
    out = _console()
    out.print(
        f"{many(said['rows'], 'row')} of {said['file']} against {said['reference_rows']:,} of {said['reference']}"
    )
    chance = said["chance"]
    known = "they differ" if chance["low"] > _COIN else "nobody can tell them apart"
    out.print(
        f"{known}: of an old and a new row, the new one is found {chance['value']:.1%} of the time"
        f" ({_between(chance)}; a half is a coin), evidence 10^{said['evidence']:.1f}"
    )
    table = _table("feature", "worth", "how it moved")
    for one in said["features"][:_MOST]:
        table.add_row(one["name"], _plain(one["worth"], ".3f"), one["said"])
    out.print(table)
    for key, what in (("only_before", "not there any more"), ("only_now", "not in the reference")):
        if said[key]:
            out.print(f"{what}: {', '.join(said[key][:_MOST])}")


def _closely(m: Any) -> list[Any]:
    out: list[Any] = []
    if m["outputs"]:
        table = _table("output", "drifted", "evidence", "PSI")
        for f in m["outputs"]:
            drifted = "yes" if f["drifted"] else ""
            table.add_row(f["name"], drifted, _plain(f["evidence"], ".1f"), _plain(f["psi"], ".2f"))
        out.append(table)
    if m["features"]:
        table = _table("feature", "drifted", "evidence", "PSI", "missing", "contract")
        for f in m["features"][:_MOST]:
            table.add_row(
                f["name"], "yes" if f["drifted"] else "", _plain(f["evidence"], ".1f"),
                _plain(f["psi"], ".2f"), _plain(f["missing"], ".1%"), f["broken"] or "kept",
            )  # fmt: skip
        out.append(table)
    if m["slices"]:
        table = _table("slice", "accuracy", "between")
        worst = sorted(m["slices"].items(), key=lambda item: item[1]["value"] or 0.0)
        for name, band in worst[:_MOST]:
            table.add_row(name, _plain(band["value"], ".3f"), _between(band))
        out.append(table)
    if m["gaps"]:
        table = _table("groups", "gap", "between")
        for name, band in m["gaps"].items():
            table.add_row(name, _plain(band["value"], ".3f"), _between(band))
        out.append(table)
    return out


def _against(m: Any) -> str:
    usual = m["reference_accuracy"]
    return "" if usual is None else f", reference {say(usual, 'ratio')}"


def _band(band: Any) -> str:
    if band["value"] is None:
        return "not known yet"
    return f"{say(band['value'], 'ratio')} ({_between(band)})"


def _between(band: Any) -> str:
    if band["low"] is None or band["high"] is None:
        return "-"
    return f"{band['low']:.3f} to {band['high']:.3f}"


def _number(name: str, x: float | None) -> str:
    return _plain(x, ".4g" if name in _WHOLE else ".3f")


def _plain(x: float | None, form: str) -> str:
    return "-" if x is None else format(x, form)
