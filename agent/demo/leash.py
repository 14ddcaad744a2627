"""Start a command that ends when we end, whatever ends us: `python -m agent.demo.leash TERM PARENT -- ARGV...`.

Linux sends the named signal when the parent dies (prctl PR_SET_PDEATHSIG survives execve); elsewhere the
command just starts, and the stage's own clean-up is all there is. Source: prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def tie(number: int, parent: int) -> None:
    """Ask the kernel to send signal `number` to this process when `parent` dies; ends at once if it has."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl refused to tie us to our parent")
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), number)


def leashed(argv: Sequence[str], *, kill: bool = False) -> list[str]:
    """Return the argv that starts `argv` on a leash held by the calling process.

    kill   SIGKILL instead of SIGTERM: for a job that may be stopped (SIGSTOP) when its time comes
    """
    name = "KILL" if kill else "TERM"
    return [sys.executable, "-P", "-m", "agent.demo.leash", name, str(os.getpid()), "--", *argv]


@contextlib.contextmanager
def own_share(nice: str) -> Iterator[None]:
    """Give our session a larger share of the CPU than other sessions get, where we may; put it back afterwards.

    Linux shares CPU between sessions first (autogroup). What strangers do on this machine would be a neighbour too,
    and the agent would rightly say so; within our session everything stays as fair as before. Needs root.
    Source: sched(7), the autogroup feature.
    """
    group = Path("/proc/self/autogroup")
    try:
        before = group.read_text(encoding="ascii").split()[-1]
        group.write_text(nice, encoding="ascii")
    except (OSError, IndexError):
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            group.write_text(before, encoding="ascii")


def main(argv: Sequence[str]) -> None:
    """Tie this process to its parent and become the command."""
    name, parent, dashes, *command = argv
    if dashes != "--" or not command:
        raise SystemExit("usage: python -m agent.demo.leash TERM|KILL PARENT -- ARGV...")
    tie(signal.Signals[f"SIG{name}"], int(parent))
    os.execv(command[0], command)  # noqa: S606  # becoming the command, without a shell, is the point


if __name__ == "__main__":
    main(sys.argv[1:])
