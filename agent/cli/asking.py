"""Commands that ask: status, incidents, why, runs, audit verify, version. They change nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent.cli import (
    PROBLEMS,
    AsJson,
    ConfigPath,
    StateFolder,
    ask,
    audit_app,
    command,
    daemon_of,
    emit,
    part,
    where,
)


@command(example="homeostat status", then="homeostat incidents, homeostat why last")
def status(
    *, config: ConfigPath = None, state: StateFolder = None, as_json: AsJson = False
) -> None:
    """Say in one look how things are.

    Open incidents, runs that wait for you, what is blind or still learning, what is paused, and whether the alarm
    budget holds.
    """
    from agent.cli import tables

    emit(daemon_of(config, state).get("/api/status"), as_json, tables.status)


@command(
    example="homeostat incidents --all",
    then="homeostat why ID   (the first letters of the id are enough)",
)
def incidents(
    *,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also those that are over.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """List incidents: what harms users first, then the newest.

    Answers from the journal when the daemon is dead.
    """
    from agent.cli import tables

    found = ask(
        config, state, "/api/incidents", {"state": "all" if everything else "open", "limit": limit},
        lambda desk: desk.incidents(everything=everything, limit=limit),
    )  # fmt: skip
    emit(found, as_json, tables.incidents)


@command(
    example="homeostat why inc-7f",
    then="homeostat approve RUN, or homeostat runs RUN for its steps",
)
def why(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")] = "last",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Explain an incident in ten lines.

    What it is, why, what it is not, what was done, and what you can do. Answers from the journal when the
    daemon is dead.
    """
    from agent.cli import tables

    said = ask(
        config, state, f"/api/incidents/{part(incident)}/why", {}, lambda desk: desk.why(incident)
    )
    emit(said, as_json, tables.why)


@command(
    name="why-not",
    example=("homeostat why-not calm-neighbour batch", "homeostat why-not calm-neighbour batch 2h"),
    then="homeostat why INCIDENT, for the whole story",
)
def why_not(
    *,
    playbook: Annotated[str, typer.Argument(help="Its id, or a unique part of it.")],
    target: Annotated[str, typer.Argument(help="On whom: id or a unique part of its name.")],
    time: Annotated[
        str,
        typer.Argument(
            help="When: 15m (ago), 14:05, 2026-11-23T14:00, unix seconds; default: now."
        ),
    ] = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say why a playbook did not act on a target, now or then.

    What was decided is told gate by gate, as it was recorded. Where nothing was decided it is worked out what did not
    fit: the cause that was found, how sure it was, each condition with what it saw. Answers from the journal when the
    daemon is dead.
    """
    from agent.cli import tables

    said = ask(
        config, state, f"/api/playbooks/{part(playbook)}/why-not", {"target": target, "time": time},
        lambda desk: desk.why_not(playbook, target, time),
    )  # fmt: skip
    emit(said, as_json, tables.why)


@command(
    example=("homeostat models", "homeostat models fraud"),
    then="homeostat why ID, where an incident is open for it",
)
def models(
    *,
    model: Annotated[str, typer.Argument(help="Name of one model; default: all.")] = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say how good the models are, and what may be to blame.

    Figures come with bounds that hold however often you look. Needs the running daemon.
    """
    from agent.cli import model_tables

    found = daemon_of(config, state).get("/api/models", model=model)
    emit(found, as_json, lambda said: model_tables.models(said, closely=bool(model)))


@command(
    example="homeostat playbooks",
    then="homeostat reinstate ID, once you know why one harmed",
)
def playbooks(
    *, config: ConfigPath = None, state: StateFolder = None, as_json: AsJson = False
) -> None:
    """Show how far each playbook may go, and how it turned out.

    `at least` is the lower 95 % bound of the share of runs that helped, of those that could be told. Answers from the
    journal when the daemon is dead.
    """
    from agent.cli import tables

    found = ask(config, state, "/api/playbooks", {}, lambda desk: desk.playbooks())
    emit(found, as_json, tables.playbooks)


@command(
    example=("homeostat forecast", "homeostat forecast web-1 --all"),
    then="homeostat why ID, where one is told already",
)
def forecast(
    *,
    entity: Annotated[
        str, typer.Argument(help="One entity: id or a unique part of its name; default: all.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also what is not full within its horizon.")
    ] = False,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """List what fills, leaks or ages, and when it will be full.

    The time is the median with its 80 % interval. Needs the running daemon.
    """
    from agent.cli import tables

    found = daemon_of(config, state).get("/api/forecasts", entity=entity)
    emit(found, as_json, lambda said: tables.forecasts(said, everything=everything))


@command(
    example=("homeostat runs --live", "homeostat runs run-22"),
    then="homeostat approve RUN, homeostat deny RUN",
)
def runs(
    *,
    run: Annotated[
        str, typer.Argument(help="One run, step by step: id, its first letters, or `last`.")
    ] = "",
    live: Annotated[bool, typer.Option("--live", help="Only those that ask or act.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """List runs and their verdicts, or show one.

    A run is a playbook at work on one target. Its verdict is proven: helped, no effect, harmed (then it was
    undone), or can not be told from chance. Answers from the journal when the daemon is dead.
    """
    from agent.cli import tables

    if run:
        one = ask(config, state, f"/api/runs/{part(run)}", {}, lambda desk: desk.run(run))
        emit(one, as_json, tables.run)
        return
    found = ask(
        config, state, "/api/runs", {"state": "live" if live else "all", "limit": limit},
        lambda desk: desk.runs(everything=not live, limit=limit),
    )  # fmt: skip
    emit(found, as_json, tables.runs)


@command(
    example=("homeostat topology", "homeostat topology checkout --json"),
    then="http://127.0.0.1:8787/topology shows it as a graph; edit it under topology: in agent.yaml",
)
def topology(
    *,
    target: Annotated[
        str, typer.Argument(help="Only what is around this: id, or part of a name.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Also features, sources, idle versions, processes.")
    ] = False,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show who is there, and who depends on whom.

    Services, what they call, the models that they serve, and the replicas, GPUs and hosts that carry them: each with
    how it is, each edge with what it carries and who says so.
    """
    from agent.cli import tables

    said = daemon_of(config, state).get("/api/topology", target=target, everything=everything)
    emit(said, as_json, tables.topology)


@command(
    example=("homeostat changes --since 2h", "homeostat changes checkout"),
    then="homeostat why last   (which of them is a suspect)",
)
def changes(
    *,
    target: Annotated[
        str, typer.Argument(help="Only of this, and of what it depends on: id, or part of a name.")
    ] = "",
    since: Annotated[
        str, typer.Option("--since", help="2h, 1d (ago), unix seconds or ISO 8601.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """List what was changed, by whom, the newest first.

    Releases, settings, scaling, restarts, and what homeostat itself did. Answers from the journal when the daemon is
    dead; `target` then means just that entity.
    """
    from agent.cli import tables

    found = ask(
        config, state, "/api/changes", {"target": target, "since": since, "limit": limit},
        lambda desk: desk.changes(target, since, limit=limit),
    )  # fmt: skip
    emit(found, as_json, tables.changes)


@command("verify", parent=audit_app, example="homeostat audit verify")
def audit_verify(
    *, config: ConfigPath = None, state: StateFolder = None, as_json: AsJson = False
) -> None:
    """Check the hash chain of the journal.

    Nothing may have been altered, cut out or put in. Reads the file itself and needs no daemon. Note the last
    hash elsewhere to prove later that nothing was cut off at the end. Exit code 1 when something is wrong.
    """
    from agent.journal import Journal
    from agent.units import many

    _, folder = where(config, state)
    with Journal.reader(folder / "journal.sqlite") as journal:
        breaks = journal.verify()
        entries, head = journal.head
    said = {
        "ok": not breaks, "entries": entries, "head": head,
        "breaks": [{"entry": b.seq, "problem": b.problem} for b in breaks],
    }  # fmt: skip

    def show(_: Any) -> None:
        for one in breaks:
            typer.echo(str(one))
        verdict = many(len(breaks), "problem") if breaks else "all is as it was written"
        typer.echo(f"{many(entries, 'entry', 'entries')}, {verdict}; last hash {head}")

    emit(said, as_json, show)
    if breaks:
        raise typer.Exit(PROBLEMS)


@command(example="homeostat version")
def version(*, as_json: AsJson = False) -> None:
    """Print the version."""
    from agent import __version__

    emit({"version": __version__}, as_json, lambda v: typer.echo(f"homeostat {v['version']}"))
