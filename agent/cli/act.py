"""Commands that change something: each checks who you are, and is written into the journal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agent import control
from agent.cli import (
    PROBLEMS,
    AsJson,
    ConfigPath,
    Reason,
    StateFolder,
    command,
    daemon_of,
    emit,
    note,
    part,
    playbook_app,
    token_app,
    where,
)
from agent.errors import Refused

_LEAST_HASH = 8


DryRun = Annotated[bool, typer.Option("--dry-run", help="Only ask each step what it would do now.")]


@command(
    example=("homeostat approve run-22", "homeostat approve run-22 --dry-run"),
    then="homeostat runs run-22 (what it did, and whether it helped)",
)
def approve(
    *,
    run: Annotated[str, typer.Argument(help="Id of the run, or its first letters.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not show it and ask again.")] = False,
    dry_run: DryRun = False,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say yes to a run that asks, or let a suggestion act.

    You are shown what it will do. Your yes holds for exactly this plan: when the evidence has changed meanwhile,
    nothing happens and you are told. In a dry run each step looks at the world as it is, says what it would do or why
    it can not, and nothing is done.
    """
    from agent.cli import tables

    daemon = daemon_of(config, state)
    if dry_run:
        if yes:
            raise Refused("--yes lets it act and --dry-run does not; say one of them")
        _tried(daemon.get(f"/api/runs/{part(run)}/dry-run"), as_json)
        return
    plan = daemon.get(f"/api/runs/{part(run)}")
    if not yes:
        _sure(plan, tables.run, "Approve?")
    said = daemon.post(f"/api/runs/{plan['id']}/approve", {"plan_hash": plan["plan_hash"]})

    def show(one: Any) -> None:
        typer.echo(f"{one['id']} may act on {one['target']['name']}")
        typer.echo(f"Next:  homeostat runs {one['id']}")

    emit(said, as_json, show)


@command(
    example="homeostat answer ask-4c go=yes replicas=3",
    then="homeostat answer   (what is asked now)",
)
def answer(
    *,
    question: Annotated[str, typer.Argument(help="Id of the question, or its first letters.")] = "",
    values: Annotated[list[str] | None, typer.Argument(help="name=value, for each line.")] = None,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Answer what a run asks; without arguments, list what is asked.

    What has a default need not be said. The first answer holds.
    """
    daemon = daemon_of(config, state)
    if not question:
        emit(daemon.get("/api/questions"), as_json, _questions)
        return
    pairs = [text.partition("=") for text in values or ()]
    if wrong := next((name for name, equals, _ in pairs if not equals), None):
        raise Refused(f"write {wrong}=VALUE")
    body = {"values": {name: value for name, _, value in pairs}}
    said = daemon.post(f"/api/questions/{part(question)}/answer", body)
    emit(said, as_json, lambda one: typer.echo(f"answered {one['id']}: {one['text']}"))


def _tried(told: Any, as_json: bool) -> None:
    """Show what each step would do; exit code 1 when one can not, or has no answer."""
    from agent.cli import tables

    emit(told, as_json, tables.dry_run)
    if any(one["status"] in {"refused", "unknown"} for one in told):
        raise typer.Exit(PROBLEMS)


def _sure(found: Any, show: Callable[[Any], None], question: str) -> None:
    """Show what it is about and ask again; without a yes, nothing happens and the exit code is 1."""
    if not sys.stdin.isatty():
        raise Refused("nobody is there to be asked again; add --yes")
    show(found)
    if not typer.confirm(question, default=False):
        raise typer.Exit(PROBLEMS)


def _questions(found: Any) -> None:
    for one in found:
        typer.echo(f"{one['id']}  {one['target']}  {one['text']}")
        for line in one["fields"]:
            choices = f" ({', '.join(line['choices'])})" if line["choices"] else ""
            default = "" if line["default"] is None else f", else {line['default']}"
            typer.echo(f"    {line['name']}=  {line['text'] or line['kind']}{choices}{default}")
    if not found:
        typer.echo("nothing is asked")


@command(
    example='homeostat ack inc-7f --reason "looking at it"',
    then="homeostat why inc-7f (everybody sees that you have it)",
)
def ack(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")],
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say that you have taken an incident.

    Others see who has it, since when and why; playbooks go on as they may. It holds until the incident is over:
    when it comes back later, it asks again.
    """
    said = daemon_of(config, state).post(f"/api/incidents/{part(incident)}/ack", {"reason": reason})

    def show(one: Any) -> None:
        typer.echo(f"{one['id']} is {one['state']}, it is yours: {one['title']}")
        typer.echo(f"Next:  homeostat why {one['id']}")

    emit(said, as_json, show)


@command(
    example='homeostat deny run-22 --reason "the batch must finish"',
    then="homeostat silence TARGET --for 2h, when it shall not ask again",
)
def deny(
    *,
    run: Annotated[str, typer.Argument(help="Id of the run, or its first letters.")],
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say no to a run that asks; stop one that acts.

    A run that acts already stops at its next step and puts back what it did.
    """
    said = daemon_of(config, state).post(f"/api/runs/{part(run)}/deny", {"reason": reason})
    emit(said, as_json, lambda one: typer.echo(f"{one['id']} is {one['state'].replace('_', ' ')}"))


@command(
    example='homeostat undo serve-bad-deploy-9c --reason "version 3 is worse"',
    then="homeostat runs   (the undo is a run of its own)",
)
def undo(
    *,
    run: Annotated[str, typer.Argument(help="Id of the run, or its first letters.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not show it and ask again.")] = False,
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put back what a run did, also when it is over.

    You are shown what it did. Each step is put back only where nobody has changed it since; what can not be put back
    is told. A run that still acts is stopped first. The playbook only suggests for this incident from then on.
    """
    from agent.cli import tables

    daemon = daemon_of(config, state)
    found = daemon.get(f"/api/runs/{part(run)}")
    if not yes:
        _sure(found, tables.run, "Put it back?")
    said = daemon.post(f"/api/runs/{found['id']}/undo", {"reason": reason})

    def show(one: Any) -> None:
        typer.echo(f"{one['id']} is {one['state'].replace('_', ' ')}: {one['title']}")
        typer.echo(f"Next:  homeostat runs {one['id']}")

    emit(said, as_json, show)


@command(
    "run",
    parent=playbook_app,
    example=(
        "homeostat playbook run serve-saturation service:shop",
        "homeostat playbook run serve-saturation service:shop --dry-run",
        "homeostat playbook run serve-saturation service:shop --yes 4c1f0e22",
    ),
    then="homeostat runs   (what it did, and whether it helped)",
)
def run_playbook(
    *,
    playbook: Annotated[str, typer.Argument(help="Id, or a unique part of id or title.")],
    target: Annotated[str, typer.Argument(help="On whom: an id, or a unique part of a name.")],
    yes: Annotated[
        str,
        typer.Option(metavar="HASH", help="Yes to the plan of this hash, or its first 8 letters."),
    ] = "",
    dry_run: DryRun = False,
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Start a playbook on a target: plan first, then your yes.

    The plan is shown with every gate. Your yes is to exactly this plan: when it has changed by then, nothing happens.
    Ceilings, its conditions and the cause need not hold, as you decide; all other gates do. In a dry run each step
    looks at the world as it is, says what it would do or why it can not, and nothing is done.
    """
    from agent.cli import tables

    daemon = daemon_of(config, state)
    if dry_run:
        if yes:
            raise Refused("--yes starts it and --dry-run does not; say one of them")
        _tried(daemon.get(f"/api/playbooks/{part(playbook)}/dry-run", target=target), as_json)
        return
    plan = daemon.get(f"/api/playbooks/{part(playbook)}/plan", target=target)
    if not (yes and len(yes) >= _LEAST_HASH and plan["hash"].startswith(yes)):
        if yes:
            raise Refused(
                f"the plan is {plan['hash'][:_LEAST_HASH]} by now; look at it again without --yes"
            )
        asked = plan["allowed"] and sys.stdin.isatty() and not as_json
        if not asked:
            emit(plan, as_json, tables.plan)
            if not plan["allowed"]:
                raise typer.Exit(PROBLEMS)
            return
        _sure(plan, tables.plan, "Start it?")
    body = {"target": plan["target"]["id"], "plan_hash": plan["hash"], "reason": reason}
    said = daemon.post(f"/api/playbooks/{plan['playbook']}/run", body)

    def show(one: Any) -> None:
        typer.echo(f"{one['id']} is {one['state'].replace('_', ' ')} on {one['target']['name']}")
        typer.echo(f"Next:  homeostat runs {one['id']}")

    emit(said, as_json, show)


@command(
    example=(
        "homeostat mode serve-saturation suggest --reason 'until the new limits are in'",
        "homeostat mode serve-saturation auto",
    ),
    then="homeostat playbooks   (how far each goes, and why)",
)
def mode(
    *,
    playbook: Annotated[str, typer.Argument(help="Id, or its first letters.")],
    most: Annotated[
        Literal["observe", "suggest", "approve", "auto"],
        typer.Argument(metavar="MODE", help="observe, suggest, approve or auto."),
    ],
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Let a playbook go no further than this mode.

    It only lowers: what its text and agent.yaml say stays the most. It holds over restarts, until somebody says
    otherwise; `auto` takes it away. Needs the role author.
    """
    from agent.cli import tables

    said = daemon_of(config, state).post(
        f"/api/playbooks/{part(playbook)}/mode", {"mode": most, "reason": reason}
    )
    emit([said], as_json, tables.playbooks)


@command(
    example=(
        'homeostat snooze inc-7f --for 2h --reason "fixed with the release at noon"',
        "homeostat snooze inc-7f --for 0",
    ),
    then="homeostat incidents",
)
def snooze(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")],
    lasts: Annotated[
        str, typer.Option("--for", help="How long: 30m, 2h, 1d; 0 = no longer.")
    ] = "1h",
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Put an incident off: nobody is told, unless it gets worse.

    It gets worse when its severity rises, or when it comes back after it was over. Playbooks go on as they may: use
    silence where nothing shall be touched.
    """
    body = {"for": lasts, "reason": reason}
    said = daemon_of(config, state).post(f"/api/incidents/{part(incident)}/snooze", body)

    def show(one: Any) -> None:
        until = one["snoozed_until"]
        from agent.views import clock

        off = f"put off until {clock(until, one['updated'])}" if until else "put off no longer"
        typer.echo(f"{one['id']} is {off}: {one['title']}")

    emit(said, as_json, show)


@command(
    example='homeostat page inc-7f --reason "I need somebody who knows the database"',
    then="homeostat why inc-7f",
)
def page(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")],
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Call a person now, whatever the severity is."""
    body = {"reason": reason}
    said = daemon_of(config, state).post(f"/api/incidents/{part(incident)}/page", body)
    emit(said, as_json, lambda one: typer.echo(f"called for {one['id']}: {one['title']}"))


@command(
    example=(
        "homeostat blame inc-7f",
        'homeostat blame inc-7f host.disk --note "the array was rebuilding"',
    ),
    then="homeostat why inc-7f   (what your word changes)",
)
def blame(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")],
    right: Annotated[str, typer.Argument(metavar="[CAUSE]", help="What it was, if you know.")] = "",
    text: Annotated[str, typer.Option("--note", help="What it was in truth.")] = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say that what an incident blames is not its cause.

    With the right cause if you know it, a word of the tree such as host.disk. The next diagnoses of the same kind of
    trouble learn from it, within bounds: `homeostat why` says by how much.
    """
    body = {"right": right, "note": text}
    said = daemon_of(config, state).post(f"/api/incidents/{part(incident)}/blame", body)
    emit(said, as_json, lambda one: typer.echo(f"{one['incident']}: {one['text']}"))


@command(
    example=(
        'homeostat silence web-1 --for 2h --cause host.disk --reason "new disk"',
        "homeostat silence --end sil-3f",
    ),
    then="homeostat silence   (what is silenced, until when)",
)
def silence(
    *,
    target: Annotated[
        str, typer.Argument(help="What to leave alone: an id, a part of its name, or a glob.")
    ] = "",
    lasts: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 1d.")] = "",
    cause: Annotated[str, typer.Option(help="Only for causes below this, such as host.disk.")] = "",
    end: Annotated[str, typer.Option(metavar="ID", help="End this silence now.")] = "",
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Keep quiet and hands off for a while.

    Without arguments it lists what is silenced. A silenced target is still watched: its incidents are in the
    console, but nobody is paged and nothing acts.
    """
    from agent.cli import tables

    daemon = daemon_of(config, state)
    if end:
        said = daemon.delete(f"/api/silences/{part(end)}")
        emit(
            said, as_json, lambda one: typer.echo(f"silence {one['id']} on {one['target']} is over")
        )
        return
    if not target:
        emit(daemon.get("/api/silences"), as_json, tables.silences)
        return
    if not lasts:
        raise Refused("a silence needs an end; add --for 2h")
    body = {"target": target, "for": lasts, "cause": cause, "reason": reason}
    emit(daemon.post("/api/silences", body), as_json, lambda one: tables.silences([one]))


@command(
    example=('homeostat pause --reason "deploying"', "homeostat pause service:checkout"),
    then="homeostat resume",
)
def pause(
    *,
    target: Annotated[
        str, typer.Argument(help="Entity, or a unique part of its name; without it: everything.")
    ] = "",
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Stop acting: everywhere, or on one target. It goes on watching.

    Runs stop at their next step. A pause survives restarts; only a person ends it. With the daemon dead this writes
    the file PAUSED beside agent.yaml, and the daemon acts on nothing when it starts.
    """
    config_path, folder = where(config, state)
    try:
        said = control.Control(folder).post("/api/pause", {"target": target, "reason": reason})
    except control.NotRunning:
        if target.lower() not in control.ALL:
            raise
        import time

        path = control.paused_file(config_path, folder)
        control.write_paused(path, reason, time.time())
        said = [{"key": "*", "by": "", "reason": reason, "since": time.time(), "file": True}]
        note(
            f"the daemon is not running: wrote {path}, it will act on nothing until: homeostat resume"
        )
    _paused(said, as_json)


@command(example="homeostat resume", then="homeostat status")
def resume(
    *,
    target: Annotated[
        str, typer.Argument(help="What was paused; without it: the pause of everything.")
    ] = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Let it act again, after a pause.

    Takes the file PAUSED away too. A pause of one target is ended by naming that target.
    """
    config_path, folder = where(config, state)
    path = control.paused_file(config_path, folder)
    filed = target in {"", "*"} and path.exists()
    if filed:
        # here and not in the daemon: it is this person's file, the daemon may not have the right
        try:
            path.unlink()
        except OSError as error:
            raise Refused(f"{path} can not be removed ({error.strerror}); run: rm {path}") from None
    try:
        said = control.Control(folder).post("/api/resume", {"target": target})
    except control.NotRunning:
        if not filed:
            raise
        said = []
        note(f"removed {path}; the daemon is not running, start it with: homeostat run")
    except control.Answer as answer:
        if not filed or answer.status != 409:
            raise
        said = control.Control(folder).get("/api/pauses")  # only the file had stopped it
    _paused(said, as_json)


@command(
    example='homeostat reinstate serve-bad-deploy --reason "it rolled back the wrong alias; mended"',
    then="homeostat playbooks",
)
def reinstate(
    *,
    playbook: Annotated[str, typer.Argument(help="Id, or its first letters.")],
    reason: Reason = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Let a playbook that harmed act again.

    One that harmed only suggests from then on, over restarts, too: on the service, model or host that it harmed,
    wherever it has not helped three times, and everywhere once it harmed two. This says that you have looked at it;
    then it may again go as far as its text and agent.yaml let it. Needs the role author.
    """
    from agent.cli import tables

    said = daemon_of(config, state).post(
        f"/api/playbooks/{part(playbook)}/reinstate", {"reason": reason}
    )
    emit([said], as_json, tables.playbooks)


def _paused(said: Any, as_json: bool) -> None:
    from agent.cli import tables

    emit(said, as_json, tables.pauses)


@command(
    example=(
        'homeostat label inc-7f noise --note "planned load test"',
        "homeostat label last real",
    ),
    then="homeostat status   (promised and measured rates, and what labels have changed)",
)
def label(
    *,
    incident: Annotated[str, typer.Argument(help="Id, its first letters, or `last`.")],
    word: Annotated[
        str, typer.Argument(metavar="noise|real", help="Whether you needed not know, or did.")
    ],
    text: Annotated[str, typer.Option("--note", help="What it was in truth.")] = "",
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say that an incident was noise, or real.

    The alarm budget is measured by what people say here, and learns from it: after `noise` the series that were
    abnormal must be 3 times rarer to be named (27 times at most), after `real` they may be more common again. Half of
    it is forgotten in two weeks. Objectives hold as you stated them, whatever is said here; the newest word counts.
    """
    if word not in {"noise", "real"}:
        raise typer.BadParameter(f"{word!r} is neither noise nor real", param_hint="noise|real")
    body = {"label": word, "note": text}
    said = daemon_of(config, state).post(f"/api/incidents/{part(incident)}/label", body)

    def show(one: Any) -> None:
        typer.echo(f"{one['incident']} is noted as {one['label']}; {one['text']}")
        for s in one["signals"]:
            typer.echo(f"  {s['signal']}  x {s['factor']:g}")

    emit(said, as_json, show)


@command(example="homeostat check && homeostat reload", then="homeostat status")
def reload(
    *, config: ConfigPath = None, state: StateFolder = None, as_json: AsJson = False
) -> None:
    """Let the daemon read agent.yaml again. A faulty one is told, and the old one stays."""
    from agent.units import many

    said = daemon_of(config, state).post("/api/reload")
    emit(
        said,
        as_json,
        lambda s: typer.echo(
            f"reloaded; mode {s['mode']}, manages {many(s['manages'], 'kind')} of targets"
        ),
    )


# ---------------------------------------------------------------- tokens


@command(
    "add",
    parent=token_app,
    example="homeostat token add olga --role operator",
    then="paste it into the console, or send it as  Authorization: Bearer TOKEN",
)
def token_add(
    *,
    name: Annotated[str, typer.Argument(help="Whose it is: a person or a program.")],
    role: Annotated[
        Literal["sender", "viewer", "operator", "author", "admin"],
        typer.Option(metavar="ROLE", help="sender, viewer, operator, author or admin."),
    ] = "viewer",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a sender: model whose rows it may send, `*` is a glob; several times."
        ),
    ] = None,
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once. Only its hash is kept.

    sender sends predictions and labels of named models and can do nothing else; viewer reads; operator approves,
    pauses, silences and pushes data; author may approve what a playbook reserves for authors; admin does all, tokens
    included.
    """
    said = _tokens(
        config, state,
        lambda d: d.post("/api/tokens", {"name": name, "role": role, "models": model or []}),
        lambda desk, me: desk.token_add(me, name, role, model or []),
    )  # fmt: skip

    def show(made: Any) -> None:
        typer.echo(made["token"])
        note(f"{name} is {role} by it; it is shown this once")

    emit(said, as_json, show)


@command(
    "list", parent=token_app, example="homeostat token list", then="homeostat token revoke NAME"
)
def token_list(
    *, config: ConfigPath = None, state: StateFolder = None, as_json: AsJson = False
) -> None:
    """List tokens by name and role. The tokens themselves are nowhere."""
    from agent.cli import tables

    said = _tokens(
        config, state, lambda d: d.get("/api/tokens"), lambda desk, me: desk.token_list(me)
    )
    emit(said, as_json, tables.tokens)


@command("revoke", parent=token_app, example="homeostat token revoke olga")
def token_revoke(
    *,
    name: Annotated[str, typer.Argument(help="Name of the token.")],
    config: ConfigPath = None,
    state: StateFolder = None,
    as_json: AsJson = False,
) -> None:
    """Take a token away. It stops working at once."""
    said = _tokens(
        config, state,
        lambda d: d.delete(f"/api/tokens/{part(name)}"),
        lambda desk, me: desk.token_revoke(me, name),
    )  # fmt: skip
    emit(said, as_json, lambda t: typer.echo(f"{t['name']} ({t['role']}) is revoked"))


def _tokens(
    config: Path | None, state: Path | None, alive: Callable[[control.Control], Any],
    dead: Callable[[Any, Any], Any],
) -> Any:  # fmt: skip
    """Ask the daemon; with it dead, whoever may write the state folder may do it there."""
    config_path, folder = where(config, state)
    try:
        return alive(control.Control(folder))
    except control.NotRunning:
        import os
        import time

        from agent import asleep, authority
        from agent.desk import Desk

        if not (folder / "journal.sqlite").exists():
            asleep.write(folder, "daemon", "state made", {"by": "token"}, time.time())
        me = authority.Person(authority.user(os.geteuid()), "admin", "file")
        with asleep.Asleep(folder, config_path) as hooks:
            return dead(Desk(hooks, authority.Tokens(folder / "tokens.json")), me)
