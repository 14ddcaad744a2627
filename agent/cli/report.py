"""Commands that sum up: report (one incident), digest (a stretch of time). They change nothing."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import AsJson, ConfigPath, StateFolder, ask, command, emit, note, part, where
from agent.errors import Refused


@command(
    example=("homeostat report last", "homeostat report inc-7f --out post-mortem.md"),
    then="fill in what is still open, and put it where your team keeps post-mortems",
)
def report(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")] = "last",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write it there; default: to the screen."),
    ] = None,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Write the post-mortem of an incident, in Markdown.

    What happened and when, who was hurt, the cause with its evidence, what was rejected, what was done and what that
    proved, charts, and what is still open. With --out the charts are a picture beside it, where matplotlib is installed
    (extra `charts`). When the daemon is dead the journal answers, without charts.
    """
    drawn = out.with_suffix(".png") if out and find_spec("matplotlib") and not as_json else None
    query = {"picture": drawn.name} if drawn else {}
    said = ask(
        config, state, f"/api/incidents/{part(incident)}/report", query,
        lambda desk: desk.report(incident, **query),
    )  # fmt: skip
    if out is None or as_json:
        emit(said, as_json, lambda view: typer.echo(view["markdown"], nl=False))
        return
    try:
        if drawn and any(v is not None for c in said["charts"] for v in c["data"][1]):
            drawn.write_bytes(asyncio.run(_drawn(said["charts"], where(config, state)[1])))
        out.write_text(said["markdown"], encoding="utf-8")
    except OSError as error:
        raise Refused(f"the report can not be written to {out}: {error.strerror}") from error
    note(f"the post-mortem of {said['id']} is in {out}")


async def _drawn(charts: Any, folder: Path) -> bytes:
    from agent.pictures import Pictures

    pictures = Pictures(folder / "fonts")
    try:
        return await pictures.draw(charts)
    finally:
        await pictures.close()


@command(
    example="homeostat digest --since 7d", then="homeostat label ID noise, for pages that were"
)
def digest(
    *,
    since: Annotated[
        str, typer.Option(help="From when on: 7d (ago), 2026-11-23, unix seconds.")
    ] = "7d",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say how a week went, and what could be changed.

    Pages against the alarm budget, what was healed without a person, what waits, the noisiest series, and playbooks
    that have earned more trust or should go. Answers from the journal when the daemon is dead.
    """
    said = ask(config, state, "/api/digest", {"since": since}, lambda desk: desk.digest(since))
    emit(said, as_json, _show)


def _show(said: Any) -> None:
    from agent.cli import tables

    tables.why(said)
