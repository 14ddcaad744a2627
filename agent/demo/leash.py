"""Start a command that ends when we end, whatever ends us: `python -m agent.demo.leash TERM PARENT -- ARGV...`.

Linux sends the named signal when the parent dies (prctl PR_SET_PDEATHSIG survives execve); elsewhere the
command just starts, and the stage's own clean-up is all there is. Source: prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
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


def main(argv: Sequence[str]) -> None:
    """Tie this process to its parent and become the command."""
    name, parent, dashes, *command = argv
    if dashes != "--" or not command:
        raise SystemExit("usage: python -m agent.demo.leash TERM|KILL PARENT -- ARGV...")
    tie(signal.Signals[f"SIG{name}"], int(parent))
    os.execv(command[0], command)  # noqa: S606  # becoming the command, without a shell, is the point


if __name__ == "__main__":
    main(sys.argv[1:])
