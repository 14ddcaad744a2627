"""Commands that a person has allowed, run as argv lists: never through a shell.

    commands:
      user: homeostat-run                      # needs root, or is our own user already
      run:
        rotate-logs:
          argv: [/usr/sbin/logrotate, --force, '{file}']
          args: {file: '/etc/logrotate[.]d/[a-z-]+'}     # the whole argument must match
          timeout: 60s
        add-worker:
          argv: [/usr/local/bin/pool, grow, '{pool}']
          undo: [/usr/local/bin/pool, shrink, '{pool}']  # its inverse, with the same arguments
          args: {pool: '[a-z]+'}

An argument stands where its `{name}` is a whole element of argv. A command sees PATH, HOME, LANG, HOMEOSTAT_KEY (the
same for every try of the same step), HOMEOSTAT_TARGET and the variables named in `env`; nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

import structlog
from pydantic import Field, model_validator

from agent.errors import Refused, Uncertain
from agent.registry import connector
from agent.secret import environment_of
from agent.units import Bytes, Duration, Model, say_duration
from connectors._once import Once
from connectors._proc import command_line, has_capability

log = structlog.get_logger()

_Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
_MOST_OUTPUT: Final = 64 << 10
_SETPRIV: Final = "setpriv"
_PRLIMIT: Final = "prlimit"
_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7
_MERCY_S: Final = 3.0
_PLACE: Final = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
_ENVIRONMENT: Final = ("LANG", "LC_ALL", "PATH", "TZ")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a command."""

    code: int
    output: str


class Command(Model):
    """One allowed command."""

    argv: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """The first is an absolute path, so that PATH decides nothing."""
    args: dict[str, str] = {}
    """Place -> the pattern that the whole of its argument must match."""
    timeout: Annotated[Duration, Field(gt=0, le=3600)] = 30.0
    memory: Bytes = 512e6
    """Address space at most."""
    workdir: Path = Path("/")
    env: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = []
    """Further variables of ours that it may see."""
    undo: list[Annotated[str, Field(min_length=1)]] = []
    """The command that undoes it, with the same arguments, user and limits; default: nothing does."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for program in (self.argv[0], *self.undo[:1]):
            if not program.startswith("/"):
                raise ValueError(f"write the whole path of {program}")
        places = {m[1] for a in self.argv[1:] if (m := _PLACE.fullmatch(a))}
        if places != set(self.args):
            raise ValueError(f"argv has the places {sorted(places)}, args says {sorted(self.args)}")
        more = {m[1] for a in self.undo[1:] if (m := _PLACE.fullmatch(a))} - set(self.args)
        if more:
            raise ValueError(f"undo has the places {sorted(more)}, args says {sorted(self.args)}")
        for pattern in self.args.values():
            re.compile(pattern)
        return self

    def filled(self, name: str, args: Mapping[str, str], *, undo: bool = False) -> list[str]:
        """Return argv, or that of its inverse; raises Refused for an argument that is missing, unknown, or no match."""
        if set(args) != set(self.args):
            takes, given = ", ".join(self.args) or "nothing", ", ".join(args) or "nothing"
            raise Refused(f"command {name} takes {takes}, not {given}")
        for place, value in args.items():
            if "\0" in value or not re.fullmatch(self.args[place], value):
                raise Refused(
                    f"command {name}: its argument {place} must match {self.args[place]!r}"
                )
        argv = self.undo if undo else self.argv
        return [args[m[1]] if (m := _PLACE.fullmatch(a)) else a for a in argv]


@connector("commands")
class Commands:
    """Commands by name, each run once per key.

    Ability  Commands, Inverses (see playbooks/actions/commands.py)
    No shell, a session of its own, no input, no core dump, none of our capabilities, no new privileges (setpriv and
    prlimit of util-linux see to that); address space, time, and 64 KiB of output at most. After `timeout` all of its
    process group is ended: what it had done by then is not known, so the step is told as uncertain. Takes CAP_SETUID
    and CAP_SETGID for a `user` that is not ours.
    """

    tested = "real programs"
    powers = (
        ("CAP_SETUID", "to run commands as a user of their own"),
        ("CAP_SETGID", "to run commands in the groups of that user"),
    )

    class Config(Model):
        """What may be run, and as whom."""

        run: Annotated[dict[_Word, Command], Field(min_length=1)]
        user: str = ""
        """Default: ours, which must not be root then."""

    def __init__(self, name: str, config: Config, *, state: Path | None = None) -> None:
        self.name = name
        self.config = config
        self._once = Once(state / "commands" / name if state is not None else None)
        self._shed = _dropping(name, config.user)

    def shown(self, name: str, args: Mapping[str, str]) -> str:
        """Return the command line, masked."""
        return command_line(self._command(name).filled(name, args))

    def limit_s(self, name: str) -> float:
        """Return how long it may take."""
        return self._command(name).timeout

    async def execute(self, name: str, args: Mapping[str, str], key: str, target: str) -> Result:
        """Run it once per key."""
        return await self._once_per_key(name, self._command(name).filled(name, args), key, target)

    def inverse(self, name: str, args: Mapping[str, str]) -> str:
        """Return the command line that undoes it, masked; "" = none is declared."""
        return command_line(self._command(name).filled(name, args, undo=True))

    async def revert(self, name: str, args: Mapping[str, str], key: str, target: str) -> Result:
        """Run its inverse once per key."""
        argv = self._command(name).filled(name, args, undo=True)
        if not argv:
            raise Refused(f"agent.yaml declares no inverse of command {name}")
        return await self._once_per_key(name, argv, key, target)

    async def _once_per_key(self, name: str, argv: list[str], key: str, target: str) -> Result:
        command = self._command(name)
        if shutil.which(argv[0]) is None:
            raise Refused(f"command {name} can not be started: there is no program {argv[0]}")
        found = await asyncio.to_thread(self._once.begin, key)
        if not found:
            return await self._run(name, command, argv, key, target)
        if found["state"] == "begun":
            raise Uncertain(
                f"command {name} was begun for {key}, and its end was not seen; look what it has done"
            )
        return self._result(name, found)

    async def executed(self, key: str) -> Result | None:
        """Return what came of it."""
        found = await asyncio.to_thread(self._once.find, key)
        return Result(int(found["code"]), str(found["output"])) if "code" in found else None

    async def describe(self) -> Sequence[str]:
        """Say what may be run, as whom, and whether it is there."""
        user = self.config.user or pwd.getpwuid(os.geteuid()).pw_name
        return [
            f"{name}: {command_line(c.argv)}, as {user}, at most {say_duration(c.timeout)}"
            + (f", undone by {command_line(c.undo)}" if c.undo else "")
            + ("" if shutil.which(c.argv[0]) else ": NOT FOUND, it would be refused")
            for name, c in self.config.run.items()
        ]

    def _command(self, name: str) -> Command:
        if name not in self.config.run:
            raise Refused(
                f"no command is called {name}: agent.yaml allows {', '.join(self.config.run)}"
            )
        return self.config.run[name]

    @staticmethod
    def _result(name: str, record: Mapping[str, object]) -> Result:
        result = Result(int(str(record["code"])), str(record["output"]))
        if result.code:
            last = result.output.strip().rpartition("\n")[2]
            raise Refused(
                f"command {name} ended with status {result.code}" + (f": {last}" if last else "")
            )
        return result

    async def _run(
        self, name: str, command: Command, argv: list[str], key: str, target: str
    ) -> Result:
        environment = environment_of((*_ENVIRONMENT, *command.env))
        environment |= {"HOME": "/", "HOMEOSTAT_KEY": key, "HOMEOSTAT_TARGET": target}
        start = time.monotonic()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._shed, *_limited(command, argv), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=command.workdir, env=environment, start_new_session=True, umask=0o077,
            )  # fmt: skip
        except (OSError, ValueError) as wrong:
            self._once.forget(key)
            reason = getattr(wrong, "strerror", None) or str(wrong)
            raise Refused(
                f"command {name} can not be started: {reason}; mend `argv` or `workdir`"
            ) from None
        try:
            async with asyncio.timeout(command.timeout):
                output = await _read(process)
                code = await process.wait()
        except TimeoutError:
            raise Uncertain(
                f"command {name} took longer than {say_duration(command.timeout)} and was ended; look what it has done"
            ) from None
        finally:
            await _end(process)
        text = _masked(output)
        record = {"code": code, "output": text}
        await asyncio.to_thread(self._once.end, key, record)
        log.info(
            "command_ran",
            command=name,
            key=key,
            code=code,
            seconds=round(time.monotonic() - start, 3),
        )
        return self._result(name, record)


def _dropping(name: str, user: str) -> list[str]:
    """Return how a command becomes `user` and sheds what we may; raises Refused when that can not be."""
    for program in (_SETPRIV, _PRLIMIT):
        if shutil.which(program) is None:
            raise Refused(f"{name}: there is no {program}; install util-linux")
    shed = [_SETPRIV, "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all"]
    mine = os.geteuid()
    if not user:
        if mine == 0:
            raise Refused(f"{name}: commands are not run as root; name a `user` with few rights")
        return shed
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Refused(f"{name}: there is no user {user} on this host") from None
    if entry.pw_uid == mine:
        return shed
    if not (has_capability(_CAP_SETUID) and has_capability(_CAP_SETGID)):
        raise Refused(
            f"{name}: to run commands as {user} takes CAP_SETUID and CAP_SETGID; grant them, or run the daemon as it"
        )
    return [*shed, f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]


def _limited(command: Command, argv: Sequence[str]) -> list[str]:
    """Return argv behind `prlimit`, which limits itself and then becomes the command."""
    limits = {"core": 0, "as": int(command.memory), "cpu": int(command.timeout) + 1}
    return [_PRLIMIT, *(f"--{name}={most}" for name, most in limits.items()), "--", *argv]


async def _read(process: asyncio.subprocess.Process) -> bytes:
    """Return the last of its output; the rest is read and dropped, so that it never waits for us."""
    assert process.stdout is not None  # noqa: S101  # a pipe was asked for
    kept = b""
    while chunk := await process.stdout.read(1 << 16):
        kept = (kept + chunk)[-_MOST_OUTPUT:]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    """End whatever of its group is left: asked first, then made to."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, what)
        except (ProcessLookupError, PermissionError):
            break
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MERCY_S):
                await process.wait()
                break
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MERCY_S):
            await process.wait()


def _masked(output: bytes) -> str:
    """Return the output line by line with secrets masked."""
    lines = output.decode("utf-8", "replace").splitlines()
    return "\n".join(command_line([line], limit=500) for line in lines[-200:])
