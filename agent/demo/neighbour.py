"""Somebody else's batch job on the same host: real processes that burn CPU in a process group of their own.

`python -m agent.demo.neighbour --job nightly-report --burners 8`. SIGUSR1: the heavy part is over, the job stays
and idles; SIGTERM: it ends. Each burner hashes a buffer over and over, as a compression or checksum job would.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from agent.demo.leash import tie


class _Phase:
    """Whether the heavy part is still going on; a signal handler may only set a flag."""

    def __init__(self) -> None:
        self.burning = True
        signal.signal(signal.SIGUSR1, self.over)

    def over(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # what a handler is given
        self.burning = False


def burn(phase: _Phase) -> None:
    """Use all the CPU we get until the heavy part is over, then sleep until we are told to end."""
    buffer = bytes(range(256)) * 64
    while phase.burning:
        buffer = hashlib.sha256(buffer).digest() * 512
    while True:
        time.sleep(0.5)


def main(argv: Sequence[str]) -> int:
    """Start the burners and wait for them."""
    parser = argparse.ArgumentParser(prog="agent.demo.neighbour", description=__doc__)
    parser.add_argument(
        "--job", default="nightly-report", help="what people call it; it changes nothing"
    )
    parser.add_argument("--burners", type=int, default=2, help="how many processes burn CPU")
    options = parser.parse_args(argv)
    phase = _Phase()  # before the fork, so that no burner is without a handler
    leader = os.getpid()
    burners = []
    for _ in range(options.burners):
        pid = os.fork()
        if pid == 0:
            tie(signal.SIGKILL, leader)
            burn(phase)
        burners.append(pid)

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # what a handler is given
        for pid in burners:
            os.kill(pid, signal.SIGKILL)
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    for pid in burners:
        os.waitpid(pid, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
