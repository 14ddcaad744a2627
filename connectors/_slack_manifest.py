"""The app in Slack: what makes it, and whether it works, step by step.

Needs no slack_sdk for the manifest. Scopes: what each is for stands beside it, and no more are asked for.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from agent.errors import AgentError, Refused, Unavailable
from agent.ports import Note
from agent.secret import secret

if TYPE_CHECKING:
    from connectors._slack_door import Door
    from connectors.slack import Slack

SCOPES: Final[Mapping[str, str]] = {
    "chat:write": "post and edit messages",
    "commands": "the command",
    "app_mentions:read": "be spoken to by its name",
    "files:write": "pictures of charts",
    "channels:history": "find its own messages again after a crash, in public channels",
    "groups:history": "the same in private channels",
    "im:write": "send pictures to who asked for them, and to nobody else",
    "users:read": "names and time zones",
    "users:read.email": "know people by their e-mail",
}


def manifest(config: Slack.Config, name: str, public_url: str) -> dict[str, Any]:
    """Return the manifest of the app; raises Refused where `mode: http` has no address."""
    http = config.mode == "http"
    if http and not public_url.startswith("https://"):
        raise Refused(
            "mode: http needs an address that Slack reaches; write `public_url: https://...` in agent.yaml"
        )
    url = {"url": f"{public_url.rstrip('/')}/ingest/{name}"} if http else {}
    request = {"request_url": url["url"]} if http else {}
    return {
        "display_information": {
            "name": "homeostat",
            "description": "Watches hosts and models, says what broke and why, and heals it",
            "background_color": "#12171d",
        },
        "features": {
            "bot_user": {"display_name": "homeostat", "always_online": True},
            "slash_commands": [{
                "command": config.command, "description": "Ask and tell homeostat",
                "usage_hint": "status | incidents | why | run PLAYBOOK TARGET | help", "should_escape": False, **url,
            }],
        },
        "oauth_config": {"scopes": {"bot": list(SCOPES)}},
        "settings": {
            "event_subscriptions": {"bot_events": ["app_mention"], **request},
            "interactivity": {"is_enabled": True, **request},
            "org_deploy_enabled": False,
            "socket_mode_enabled": not http,
            "token_rotation_enabled": False,
        },
    }  # fmt: skip


async def trial(
    config: Slack.Config, door: Door | None, send: Callable[[Note], Awaitable[None]]
) -> AsyncIterator[tuple[str, str]]:
    """Yield what was tried and what is wrong with it, "" = well; ends with the first that is not well."""
    steps: list[tuple[str, Callable[[], Awaitable[str]]]] = []
    if door is None:
        steps.append(
            (f"the webhook in {config.webhook}", lambda: _secret(config.webhook, "https://"))
        )
    else:
        here = door
        steps += [
            (f"the bot token in {config.bot_token}", lambda: _secret(config.bot_token, "xoxb-")),
            ("Slack knows the bot", lambda: _asked(here, "auth_test")),
        ]
        if config.mode == "socket" and config.owner:
            steps += [
                (
                    f"the app token in {config.app_token}",
                    lambda: _secret(config.app_token, "xapp-"),
                ),
                ("a socket may be opened", lambda: _socket(here, config.app_token)),
            ]
        elif config.mode == "http":
            steps.append(
                (
                    f"the signing secret in {config.signing_secret}",
                    lambda: _secret(config.signing_secret, ""),
                )
            )
        steps.append(("people are known", lambda: _people(here, config)))
    steps.append(
        (f"a message to {config.channel or 'the channel of the webhook'}", lambda: _sent(send))
    )
    for what, step in steps:
        try:
            wrong = await step()
        except AgentError as error:
            wrong = str(error)
        yield what, wrong
        if wrong:
            return


async def _secret(reference: str, begins: str) -> str:
    found = secret(reference)
    if not found.strip():
        return f"{reference} is empty"
    return (
        "" if found.startswith(begins) else f"what is in {reference} does not begin with {begins}"
    )


async def _asked(door: Door, method: str) -> str:
    await door.ask(method)
    return ""


async def _socket(door: Door, app_token: str) -> str:
    try:
        await door.ask("apps_connections_open", app_token=secret(app_token), token=app_token)
    except Unavailable as error:
        return f"{error}; the app token needs the scope connections:write (Basic Information, App-Level Tokens)"
    return ""


async def _people(door: Door, config: Slack.Config) -> str:
    """Look up those that are named by user id; e-mails are looked up when somebody presses."""
    if not config.people:
        return "`people:` is empty: nobody may press a button; write your user id there (profile, Copy member ID)"
    for who in config.people:
        if "@" not in who:
            try:
                await door.ask("users_info", user=who)
            except Refused:
                return f"nobody in this workspace is {who}; copy the member ID from the profile"
    return ""


async def _sent(send: Callable[[Note], Awaitable[None]]) -> str:
    now = time.time()
    text = "`homeostat slack test` sent this. Nothing is wrong, and nothing is asked of you."
    await send(Note(f"try:{now:.3f}", now, "note", "homeostat can write here", text))
    return ""
