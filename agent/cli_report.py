"""Commands that sum up: report (one incident), digest (a stretch of time). They change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import AsJson, ConfigPath, StateFolder, ask, command, emit, note, part
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
    proved, charts, and what is still open. Answers from the journal when the daemon is dead.
    """
    said = ask(
        config, state, f"/api/incidents/{part(incident)}/report", {},
        lambda desk: desk.report(incident),
    )  # fmt: skip
    if out is None or as_json:
        emit(said, as_json, lambda view: typer.echo(view["markdown"], nl=False))
        return
    try:
        out.write_text(said["markdown"], encoding="utf-8")
    except OSError as error:
        raise Refused(f"the report can not be written to {out}: {error.strerror}") from error
    note(f"the post-mortem of {said['id']} is in {out}")


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
    from agent import cli_show

    cli_show.why(said)
