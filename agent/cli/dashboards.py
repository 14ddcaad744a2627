"""`homeostat dashboards`: the shipped boards into a folder, or into a Grafana."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import PROBLEMS, AsJson, command, dashboards_app, emit
from agent.errors import Refused

_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")


@command(
    example=(
        "homeostat dashboards export /var/lib/grafana/dashboards/homeostat",
        "homeostat dashboards export ./kibana --kibana",
    ),
    then="let Grafana read the folder (homeostat.yaml), or: homeostat dashboards push",
    parent=dashboards_app,
)
def export(
    *,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where they go; made if needed.")],
    kibana: Annotated[
        bool, typer.Option("--kibana", help="What Kibana imports, instead of the boards.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the Grafana boards, and rules for Prometheus, into DIR.

    Boards as JSON, `homeostat.yaml` by which Grafana finds them (provisioning), and recording and alert rules. With
    `--kibana`: a file that Kibana imports, with data views and saved searches for what `elastic_out` writes. Files of
    these names are written over; nothing else is touched.
    """
    from agent import boards

    places = {"grafana": folder, "provisioning": folder, "rules": folder / "rules"}
    if kibana:
        places = {"kibana": folder}
    try:
        done = [one for part, at in places.items() for one in boards.export(at, part)]
    except OSError as wrong:
        raise Refused(f"{wrong.filename or folder} can not be written: {wrong.strerror}") from None
    said = {"files": [{"file": str(path), "became": became} for path, became in done]}

    def show(_: Any) -> None:
        for path, became in done:
            typer.echo(f"{became:10}{path}")

    emit(said, as_json, show)


@command(
    example=(
        "homeostat dashboards push --url https://grafana.example.org --token env:GRAFANA_TOKEN --dry-run",
        "homeostat dashboards push --url https://grafana.example.org --token file:/run/secrets/grafana",
    ),
    then="open the folder Homeostat in Grafana",
    parent=dashboards_app,
)
def push(
    *,
    url: Annotated[str, typer.Option(help="Of Grafana, as in a browser.")],
    token: Annotated[
        str, typer.Option(metavar="REF", help="Its token: env:NAME or file:/PATH, never itself.")
    ],
    folder: Annotated[
        str, typer.Option(help="Title of the folder; made when it is not there.")
    ] = "Homeostat",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would change; change nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also over what a person has saved there since.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put the boards into a folder of a Grafana.

    A board that is there as it is here is left alone; of one that differs it says what changes. One that a person has
    saved since we did is not written over, unless you say `--force`: save your own under another name. Exit code 1
    when a board was refused or left alone.
    """
    from agent import boards, registry

    if not _REFERENCE.fullmatch(token):
        raise Refused(
            "a token is not written on a command line; put it into a file or a variable: --token env:GRAFANA_TOKEN"
        )
    registry.load()
    made: boards.Place = registry.place.get("grafana")(url, token, folder)

    async def work() -> list[boards.Pushed]:
        try:
            return await made.push(boards.boards(), dry_run=dry_run, force=force)
        finally:
            await made.close()

    done = asyncio.run(work())

    def show(_: Any) -> None:
        for one in done:
            typer.echo(f"{one.became:10}{one.title}" + (f"  ({one.said})" if one.said else ""))
        if dry_run:
            typer.echo("nothing was changed: --dry-run")

    emit({"dry_run": dry_run, "boards": [asdict(one) for one in done]}, as_json, show)
    if any(one.became in {"edited", "refused"} for one in done):
        raise typer.Exit(PROBLEMS)
