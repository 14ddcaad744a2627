"""Commands that set Slack up: what makes the app there, and whether each step up to the first message works."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import typer

from agent import control
from agent.cli import PROBLEMS, AsJson, ConfigPath, command, emit, note, slack_app
from agent.errors import Refused

_KIND: Final = "slack"
_NO_CHANNEL: Final = "C0000000000"
"""Stands for a channel where none is needed yet."""
Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Of the connector in agent.yaml, if several.")
]


@command(
    parent=slack_app,
    example=("homeostat slack manifest", "homeostat slack manifest --mode http --json"),
    then="https://api.slack.com/apps, Create New App, From a manifest: paste it there",
)
def manifest(
    *,
    mode: Annotated[
        Literal["socket", "http"] | None,
        typer.Option(help="How Slack is to reach us; default: as agent.yaml says, else socket."),
    ] = None,
    name: Name = "",
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Print what makes the app in Slack.

    Its scopes, its command, and how it reaches us. Paste it where Slack asks for a manifest; the tokens that you then
    copy go into the environment of the daemon. Needs no daemon and no token.
    """
    import yaml

    cls, called, own, public_url = _found(config, name)
    wanted = {**own, **({"mode": mode} if mode else {})}
    if wanted.get("mode") == "webhook":
        raise Refused(
            "a webhook needs no app of this kind; make one under Incoming Webhooks, or take mode: socket"
        )
    said = cls.manifest(_config(cls, {"channel": _NO_CHANNEL, **wanted}), called, public_url)
    emit(said, as_json, lambda m: typer.echo(yaml.safe_dump(m, sort_keys=False), nl=False))
    if not as_json:
        whole = quote(yaml.safe_dump(said, sort_keys=False))
        note(f"or open: https://api.slack.com/apps?new_app=1&manifest_yaml={whole}")


@command(
    "test",
    parent=slack_app,
    example=("homeostat slack test", "homeostat slack test --channel C0123456789"),
    then="homeostat reload, and press a button under the next incident",
)
def try_out(
    *,
    channel: Annotated[
        str, typer.Option(metavar="ID", help="Of the channel, before it is in agent.yaml.")
    ] = "",
    name: Name = "",
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Try each step up to the first message, and send one.

    Tokens, scopes, the socket, the people that are named, the channel: ends at the first that is not well and says how
    to mend it. Exit code 1 then. Needs no daemon.
    """
    cls, called, own, _ = _found(config, name)
    made = cls(called, _config(cls, {**own, **({"channel": channel} if channel else {})}))

    async def steps() -> list[dict[str, Any]]:
        try:
            return [
                {"step": what, "ok": not wrong, "remedy": wrong}
                async for what, wrong in made.trial()
            ]
        finally:
            closed = made.close()
            if inspect.isawaitable(closed):
                await closed

    found = asyncio.run(steps())

    def show(some: list[dict[str, Any]]) -> None:
        for one in some:
            typer.echo(f"{'ok' if one['ok'] else 'NO':4}{one['step']}")
            if one["remedy"]:
                typer.echo(f"    {one['remedy']}")

    emit(found, as_json, show)
    if not all(one["ok"] for one in found):
        raise typer.Exit(PROBLEMS)


def _found(config: Path | None, name: str) -> tuple[Any, str, dict[str, Any], str]:
    """Return the class of the connector, its name, what agent.yaml says of it, and public_url; raises Refused."""
    from agent import registry
    from agent.config import load

    registry.load()
    loaded = load(control.config_path(config))
    some = {n: c for n, c in loaded.connectors.items() if (c.use or n) == _KIND}
    if name and name not in some:
        raise Refused(
            f"no connector {name!r} in agent.yaml speaks to Slack; there are: {', '.join(some) or 'none'}"
        )
    if not name and len(some) > 1:
        raise Refused(
            f"{len(some)} connectors speak to Slack; write --name {' or --name '.join(some)}"
        )
    called = name or next(iter(some), _KIND)
    own = dict(some[called].own) if called in some else {}
    return registry.connector.get(_KIND), called, own, loaded.public_url


def _config(cls: Any, own: dict[str, Any]) -> Any:
    """Return the connector's config; raises Refused."""
    from pydantic import ValidationError

    from agent.strict import say

    try:
        return cls.Config(**own)
    except ValidationError as wrong:
        raise Refused(f"slack: {say(wrong)}; write it in agent.yaml, or give --channel") from None
