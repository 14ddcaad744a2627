"""A front end of the demo: `gunicorn agent.demo.front:app`, as small as a real one can be.

Four of them stand side by side when the demo shows what happens if all show the same symptom at once; nothing but a
probe asks them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Say that this front end is alive, whatever is asked."""
    del environ
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]
