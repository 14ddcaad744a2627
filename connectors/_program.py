"""Run a program to its end: an argv list, never a shell; killed when it takes too long or nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

_BURY_S = 1.0
"""A process that hangs inside the kernel can not be killed: it is not waited for longer than this."""


async def run_program(
    argv: Sequence[str],
    timeout_s: float,
    *,
    send: bytes = b"",
    env: Mapping[str, str] | None = None,
    errors: bool = True,
) -> tuple[int, str]:
    """Return its status and what it printed; raises TimeoutError, and OSError when it can not be started.

    errors   whether its standard error is part of what it printed
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if errors else asyncio.subprocess.DEVNULL,
        env=env,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, _ = await process.communicate(send)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BURY_S):
                await process.wait()
    return process.returncode or 0, out.decode("utf-8", "replace").strip()
