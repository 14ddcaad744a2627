"""Questions about one model: version against version, edges of sketches, what drove an answer, rows against rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.cli import AsJson, ConfigPath, StateFolder, command, daemon_of, emit, part, where
from agent.errors import Refused

Reference = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Rows it was made with; default: models.reference."),
]


@command(
    example=("homeostat compare fraud 6 7", "homeostat compare fraud 6 7@canary --json"),
    then="homeostat models MODEL",
)
def compare(
    *,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    a: Annotated[str, typer.Argument(help="A version, or VERSION@VARIANT.")],
    b: Annotated[str, typer.Argument(help="The one that is held against it.")],
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say whether one version is worse than another, how surely.

    Of a shadow the same requests are compared, of a canary or an A/B test those of the same time; versions that never
    served at once are compared one after the other. The bounds hold however often you look.
    """
    from agent.cli import model_tables

    found = daemon_of(config, state).get(f"/api/models/{part(model)}/compare", a=a, b=b)
    emit(found, as_json, model_tables.compared)


@command(
    example=("homeostat edges fraud", "homeostat edges fraud --version 7 --json"),
    then="send sketches over them: docs/predictions.md",
)
def edges(
    *,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[
        str, typer.Option("--version", "-V", help="Of which version; default: the one in use.")
    ] = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Print the edges that sketches of a model are counted over.

    A process at the edge that counts over them may send counts instead of rows.
    """
    from agent.cli import model_tables

    found = daemon_of(config, state).get(f"/api/models/{part(model)}/edges", version=version)
    emit(found, as_json, model_tables.edges)


@command(
    example=(
        "homeostat explain fraud row.json",
        "grep r-17 /var/log/fraud.jsonl | head -1 | homeostat explain fraud",
        "homeostat explain fraud row.json --ask serving.model:predict --reference train.parquet",
    ),
    then="homeostat models MODEL",
)
def explain(
    *,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    file: Annotated[
        Path, typer.Argument(help="One record, or its features, as JSON; default: standard input.")
    ] = Path("-"),
    version: Annotated[
        str, typer.Option("--version", "-V", help="Of which version; default: that of the record.")
    ] = "",
    ask: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="The model itself: takes rows (list of dicts), returns a number each.",
        ),
    ] = "",
    reference: Reference = None,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say which features drove the answer to one record.

    By the rows that the version was made with (`models: {reference: ...}`): what each value adds to the answer, all
    else as it is, and how unusual it is. Rows are not kept, so you give the record; it is looked at and forgotten.
    Where you have the model, `--ask` asks it: Shapley values against rows of the reference, exact but for sampling.
    """
    from agent import at_hand
    from agent.cli import model_tables

    record = _record(file)
    features = record.get("features", record)
    said = record.get("version", "") if "features" in record else ""
    version = version or str(said or "")
    if ask:
        path, _ = where(config, state)
        made = at_hand.rows_of(_reference(reference, path, model, version), model)
        emit(at_hand.asked(features, made, at_hand.model_at(ask)), as_json, model_tables.asked)
        return
    body = {"version": version, "features": features}
    found = daemon_of(config, state).post(f"/api/models/{part(model)}/explain", body)
    emit(found, as_json, model_tables.explained)


@command(
    example=(
        "homeostat drift fraud /var/log/fraud.jsonl --reference train.parquet",
        "homeostat drift fraud today.parquet --json",
    ),
    then="homeostat models MODEL",
)
def drift(
    *,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    file: Annotated[Path, typer.Argument(help="New rows: parquet, CSV or JSON lines.")],
    version: Annotated[
        str, typer.Option("--version", "-V", help="Of which version the reference is.")
    ] = "",
    reference: Reference = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Say whether new rows differ from the reference, and by what.

    All features together: a classifier is asked to tell them apart (needs the extra `ml`), which also finds what no
    single column shows. For a second look: what the daemon watches needs no such question. Of either file the newest
    20,000 rows are read, looked at and forgotten.
    """
    from agent import at_hand
    from agent.cli import model_tables

    old = _reference(reference, where(config, None)[0], model, version)
    found = at_hand.apart(at_hand.rows_of(old, model), at_hand.rows_of(file, model))
    emit({"file": str(file), "reference": str(old), **found}, as_json, model_tables.apart)


def _reference(given: Path | None, path: Path | None, model: str, version: str) -> Path:
    from agent import at_hand, registry
    from agent.config import WatchModels, load

    registry.load()
    found = load(path).models if path is not None and path.is_file() else WatchModels()
    return at_hand.reference_of(given, found, model, version)


def _record(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as wrong:
        raise Refused(f"{file} can not be read: {wrong.strerror}") from None
    except ValueError as wrong:
        raise Refused(f"{file} is not one JSON object ({wrong}); give one record") from None
    if not isinstance(found, dict) or not isinstance(found.get("features", {}), dict):
        raise Refused(f"{file} is no record: give an object of names and values")
    return found
