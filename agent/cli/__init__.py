"""The command `homeostat`: what people ask and do at a terminal.

    homeostat COMMAND -> daemon over its Unix socket  -> answer as a table, or as JSON with --json
                      '-> (daemon dead) the journal answers what was; `pause` writes the file PAUSED

Exit codes: 0 done; 1 problems were found, or the daemon said no; 2 wrong usage or config; 3 no daemon answers.
Heavy things are imported inside the commands: `homeostat --help` must come at once.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import typer

from agent import control
from agent.errors import AgentError, ConfigError, Fault, Unavailable
from agent.strike import last_words

OK: Final = 0
PROBLEMS: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
_PARTS: Final = (
    "asking",
    "report",
    "act",
    "playbook",
    "replay",
    "local",
    "reference",
    "versions",
    "dashboards",
    "slack",
)
"""Where commands are, in the order of --help."""

app = typer.Typer(
    name="homeostat",
    help="Watches hosts and the models that run on them, says what broke and why, and heals it.",
    epilog=(
        "A first day: homeostat init, check, run; then open http://127.0.0.1:8787. "
        "Exit codes: 0 done, 1 problems found or refused, 2 usage or config, 3 no daemon answers."
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # it prints local variables
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
token_app = typer.Typer(help="Tokens to act over HTTP: add, list, revoke.", no_args_is_help=True)
audit_app = typer.Typer(help="Check that nobody altered the record.", no_args_is_help=True)
reference_app = typer.Typer(
    help="What a model version is used to: make it from rows.", no_args_is_help=True
)
playbook_app = typer.Typer(
    help="Write playbooks: new, lint, test, plan, explain, graph.", no_args_is_help=True
)
dashboards_app = typer.Typer(
    help="Grafana boards and Kibana objects: export, push.", no_args_is_help=True
)
app.add_typer(dashboards_app, name="dashboards")
slack_app = typer.Typer(help="Set Slack up: manifest, test.", no_args_is_help=True)
app.add_typer(token_app, name="token")
app.add_typer(audit_app, name="audit")
app.add_typer(reference_app, name="reference")
app.add_typer(playbook_app, name="playbook")
app.add_typer(slack_app, name="slack")

ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="HOMEOSTAT_CONFIG", metavar="FILE", help="agent.yaml to use.",
        show_default="/etc/homeostat/agent.yaml as root, else ~/.config/homeostat/agent.yaml",
    ),
]  # fmt: skip
StateFolder = Annotated[
    Path | None,
    typer.Option(
        "--state", envvar="HOMEOSTAT_STATE", metavar="FOLDER", help="State folder of the daemon.",
        show_default="`state:` in agent.yaml, else /var/lib/homeostat as root, ~/.local/state/homeostat",
    ),
]  # fmt: skip
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")
]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the record and for others.")]


def _print_version(asked: bool) -> None:
    if asked:
        from agent import __version__

        typer.echo(f"homeostat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[  # its callback has printed it
        bool,
        typer.Option(
            "--version",
            help="Print the version, and leave.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    pass


Command = TypeVar("Command", bound="Callable[..., None]")


def command(
    name: str | None = None,
    *,
    example: str | tuple[str, ...],
    then: str = "",
    parent: typer.Typer = app,
) -> Callable[[Command], Command]:
    """Register a command: its docstring teaches what it does, then come an example and what to do next."""
    examples = [example] if isinstance(example, str) else list(example)
    tail = "\n".join([f"Example:  {examples[0]}", *(f"          {more}" for more in examples[1:])])
    if then:
        tail += f"\nNext:     {then}"

    def put(function: Command) -> Command:
        # \b keeps the lines of the paragraph as they are
        text = f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\n{tail}"
        parent.command(name, help=text)(function)
        return function

    return put


# ---------------------------------------------------------------- where, and how it is said


def where(config: Path | None, state: Path | None) -> tuple[Path | None, Path]:
    """Return the agent.yaml that holds (or none) and the state folder."""
    path = control.config_path(config)
    return path, control.state_folder(state, path)


def daemon_of(config: Path | None, state: Path | None) -> control.Control:
    """Return the daemon to ask; whether it lives shows at the first question."""
    return control.Control(where(config, state)[1])


def emit(data: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    """Print an answer: as JSON, stable and complete, or as `show` shows it to people."""
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False))  # noqa: T201  # standard output is what is asked for
    else:
        show(data)


def note(text: str) -> None:
    """Say something beside the answer."""
    typer.echo(text, err=True)


def ask(
    config: Path | None,
    state: Path | None,
    path: str,
    query: Mapping[str, Any],
    offline: Callable[[Any], Any],
) -> Any:
    """Ask the daemon; when it is dead, let `offline` answer from the journal."""
    config_path, folder = where(config, state)
    try:
        return control.Control(folder).get(path, **query)
    except control.NotRunning as dead:
        if not (folder / "journal.sqlite").exists():
            raise
        from agent.asleep import Asleep
        from agent.authority import Tokens
        from agent.desk import Desk

        reason = str(dead).partition("; ")[0]
        note(f"{reason}: this is what the journal knows")
        with Asleep(folder, config_path) as hooks:
            return offline(Desk(hooks, Tokens(folder / "tokens.json")))


def part(text: str) -> str:
    """Make what a person wrote safe as a part of a path."""
    return quote(text, safe="") or "-"


# ---------------------------------------------------------------- the entry point


def shown(fault: Mapping[str, Any], caret: str = "") -> str:
    """Return a fault as compilers tell it: place, problem, the line with a caret, remedy."""
    at = f"{fault['place']}:{fault['line']}:{fault['column']}" if fault["line"] else fault["place"]
    lines = [f"{at}: {fault['problem']}"]
    lines += [indent(part_, "    ") for part_ in (caret, fault["remedy"]) if part_]
    return "\n".join(lines)


def fault_body(fault: Fault) -> dict[str, Any]:
    """Return a fault for programs."""
    return {
        "place": fault.place, "line": fault.line, "column": fault.column,
        "problem": fault.problem, "remedy": fault.remedy,
    }  # fmt: skip


def tell(error: AgentError, as_json: bool) -> int:
    """Print an error with its remedy; returns the exit code."""
    from agent.units import many

    code = (
        USAGE if isinstance(error, ConfigError)
        else UNREACHABLE if isinstance(error, Unavailable)
        else USAGE if isinstance(error, control.Answer) and error.status in {400, 422}
        else PROBLEMS
    )  # fmt: skip
    said, _, remedy = str(error).partition("; ")
    told: Sequence[Fault] = getattr(error, "faults", ())
    faults = [fault_body(f) for f in told] or list(getattr(error, "body", {}).get("faults", ()))
    if as_json:
        body = {"error": said, "remedy": remedy, "exit": code}
        if faults:
            said = many(len(faults), "fault")
            body = {"error": said, "remedy": "", "exit": code, "faults": faults}
        print(json.dumps(body, indent=2, ensure_ascii=False))  # noqa: T201  # standard output is what is asked for
        return code
    if faults:
        carets = [f.caret() for f in told] or [""] * len(faults)
        for f, caret in zip(faults, carets, strict=True):
            note(shown(f, caret))
        note(many(len(faults), "fault"))
    else:
        note(f"homeostat: {said}" + (f"\n    {remedy}" if remedy else ""))
    return code


@cache
def _tree(parts: Sequence[str]) -> Callable[[], None]:
    """Return the commands of these parts, ready to be run: they are built once."""
    for name in parts:
        import_module(f"agent.cli.{name}")
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; never shows a traceback for what is expected."""
    try:
        # the daemon lives for months: it holds no command but its own
        _tree(("local",) if sys.argv[1:2] == ["run"] else _PARTS)()
    except AgentError as error:
        sys.exit(tell(error, "--json" in sys.argv[1:]))
    except BrokenPipeError:  # `homeostat runs | head`
        sys.stderr.close()
        sys.exit(PROBLEMS)
    except Exception as bug:  # noqa: BLE001  # the border of the command line
        last_words(type(bug), bug, bug.__traceback__)
        sys.exit(PROBLEMS)
