"""`homeostat reference make`: a reference.json from a file of rows, with the roles of its columns."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import AsJson, command, emit, reference_app
from agent.errors import Refused, Unavailable
from agent.units import many


@command(
    "make",
    example=(
        "homeostat reference make train.parquet --model fraud --version 7 -o models/fraud/7/reference.json",
        "homeostat reference make scores.csv --model churn --column cust_no=id --column churned=label",
    ),
    then="put it beside the version in the model folder, or name it under `reference:` of batch_scoring",
    parent=reference_app,
)
def make(
    *,
    file: Annotated[Path, typer.Argument(help="Rows: parquet, CSV or JSON lines.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Whose reference it is.")],
    version: Annotated[str, typer.Option("--version", "-V", help="Of which version.")] = "",
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where it goes.")] = Path(
        "reference.json"
    ),
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ROLE", help="A role that is guessed wrong.")
    ] = None,
    rows: Annotated[int, typer.Option(min=0, help="Only the first so many rows; 0 = all.")] = 0,
    regression: Annotated[
        bool, typer.Option("--regression", help="Predictions and labels are numbers.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write over a file that is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the reference of a model version from rows it is used to.

    Best from the rows it was trained or validated on, with its predictions and labels beside them: then also mix of
    predictions, confidence and accuracy are known. Says what it takes each column for, and why. Holds counts and
    quantiles, never rows; values of categories stand in it.
    """
    from agent import registry
    from agent.reference import Maker, reader_of_rows, write_json

    registry.load()
    reader = reader_of_rows()
    given = dict(_pair(one) for one in column or ())
    if out.exists() and not force:
        raise Refused(f"{out} is there; write over it with --force")
    maker = Maker()
    try:
        guesses = reader.guesses_of(file, given)
        task = "regression" if regression else "auto"
        for batch, truth in reader.rows_of(file, given, model, version, task):
            maker.take(batch, truth)
            if rows and maker.rows >= rows:
                break
    except Unavailable as gone:  # a file that is not there is no daemon that does not answer
        raise Refused(str(gone)) from None
    made = {"model": model, "version": version, **maker.made()}
    write_json(out, made)
    said: dict[str, Any] = {
        "file": str(out), "model": model, "version": version, "rows": maker.rows,
        "labelled": maker.labelled, "features": len(made["features"]), "accuracy": made.get("accuracy"),
        "columns": [asdict(g) for g in guesses],
    }  # fmt: skip

    def show(_: Any) -> None:
        from agent.cli import tables

        tables.columns(said["columns"])
        accuracy = f", accuracy {made['accuracy']:.1%}" if "accuracy" in made else ""
        typer.echo(
            f"wrote {out}: {many(maker.rows, 'row')}, {many(len(made['features']), 'feature')}, "
            f"{maker.labelled:,} with a label{accuracy}"
        )

    emit(said, as_json, show)


def _pair(text: str) -> tuple[str, str]:
    name, equals, role = text.rpartition("=")
    if not (name and equals):
        raise Refused(f"not a role: {text!r}; write it like --column cust_no=id")
    return name, role
