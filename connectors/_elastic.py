"""Elasticsearch through its official client: made when first needed, and what its errors mean to us.

The client keeps its own transport behind our settings: no retries (back-off stands outside), no redirects, a limit on
the time and the size of an answer. What the other side says is repeated only as far as it is an error of its own form:
a page of a proxy may echo a secret.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from agent.errors import AgentError, Refused, Unavailable
from agent.imports import lacking, without
from agent.secret import Reference, secret
from agent.strike import strike
from agent.units import Model
from connectors._patience import Patience
from connectors.http import checked_base, redacted, retry_after

# each failed try is a warning of its own there; what is new is said by whoever tries
logging.getLogger("elastic_transport").setLevel(logging.ERROR)

MOST_BYTES: Final = 64 << 20
"""Of one answer: a page of 10,000 documents of some kilobytes."""
_STRANGE: Final = "it answers, but not as Elasticsearch does"
_AROUND: Final = re.compile(r"^(<.*?>|\w+\(host=.*?\)): ")
"""What urllib3 puts before the system's own words."""
_PIECE: Final = 1 << 16
_NEVER: Final = frozenset({400, 401, 403, 405, 406, 410})
"""Statuses that say no and would say it again."""


class Misread(Unavailable):
    """An answer of status 200 that is written otherwise than it should be; `Elastic.means` says of whom."""


class Access(Model):
    """Where it is, and who we are there."""

    url: Annotated[str, AfterValidator(checked_base)]
    api_key: Reference = ""
    """`env:NAME` or `file:/PATH`."""
    user: str = ""
    password: Reference = ""
    """`env:NAME` or `file:/PATH`."""
    ca: Path | None = None
    """Who signed its certificate, when not the system's own."""


class Elastic:
    """One server, or a cluster behind one address; calls block, so they are made in a thread, one at a time.

    timeout_s   of one request, from connecting to the last byte
    """

    def __init__(self, access: Access, timeout_s: float) -> None:
        self._access = access
        self._timeout_s = timeout_s
        self._client: Any = None
        self._key = ""

    def client(self) -> Any:
        """Return the client, with the secret as it is now; raises Refused."""
        access = self._access
        key, password = secret(access.api_key), secret(access.password)
        if self._client is None or self._key != f"{key} {password}":
            module = library()
            more: dict[str, Any] = {"api_key": key} if key else {}
            if access.user:
                more["basic_auth"] = (access.user, password)
            if access.ca is not None:
                more["ca_certs"] = str(access.ca)
            self.close()
            self._client = module.Elasticsearch(
                access.url, request_timeout=self._timeout_s, max_retries=0, retry_on_timeout=False,
                node_class=_bounded(self._timeout_s), **more,
            )  # fmt: skip
            self._key = f"{key} {password}"
        return self._client

    def close(self) -> None:
        """Close the connections; the next call opens them anew."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def means(self, problem: Exception, about: str = "") -> Exception:
        """Return what an exception of the library means to us; one of our own, or a bug, is itself."""
        where = redacted(self._access.url) + (f", {about}" if about else "")
        if isinstance(problem, Misread):
            return Unavailable(f"{where}: {problem}")
        if isinstance(problem, AgentError):
            return problem
        module = library()
        if isinstance(problem, module.UnsupportedProductError):
            return Refused(f"{where}: it does not say that it is Elasticsearch")
        if isinstance(problem, module.ApiError):
            status = int(problem.meta.status)
            why = reason(problem.body)
            said = f"{where}: {status} {why}".rstrip()
            if 300 <= status < 400:
                return Refused(f"{said}; it sends us elsewhere, which is not followed; mend `url`")
            if status in _NEVER or (status == 404 and "index" in why):
                return Refused(said)
            return Unavailable(said, wait_s=retry_after(problem.meta.headers))
        if isinstance(problem, module.SerializationError | RecursionError):
            return Unavailable(f"{where}: {_STRANGE}")
        if isinstance(problem, module.TransportError):
            return Unavailable(f"{where}: {strike(_AROUND.sub('', str(problem.message)))[:200]}")
        return problem


def reason(body: Any) -> str:
    """Return type and reason of an error as Elasticsearch writes it; "" for anything else."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ""
    causes = error.get("root_cause")
    first = causes[0] if isinstance(causes, list) and causes else error
    why = first.get("reason") if isinstance(first, dict) else None
    said = f"{error.get('type', '')}: {why or error.get('reason') or ''}"
    return strike(said)[:300].removesuffix(": ")  # half a secret is known to nobody


def fields(said: Any, *names: str) -> tuple[Any, ...]:
    """Return fields of an answer; raises Misread when it has none such."""
    try:
        return tuple(said[name] for name in names)
    except (KeyError, TypeError, IndexError):
        raise Misread(_STRANGE) from None


def library() -> Any:
    """Return the module; raises Refused when it is not installed.

    Transports that we do not use and Arrow's tables are left out of it: 37 MB where they are installed.
    """
    try:
        with without("aiohttp", "pyarrow", "requests"):
            return import_module("elasticsearch")
    except ImportError:
        raise Refused(lacking("Elasticsearch needs its client", "elastic")) from None


def _bounded(timeout_s: float) -> Any:
    """Return a node of the transport that reads no more, and waits no longer, than it may.

    The library's own limit is between two bytes, and it reads whatever comes.
    """
    node: Any = import_module("elastic_transport").Urllib3HttpNode

    class Bounded(node):  # type: ignore[misc]  # its base is only known when the library is there
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            patience = Patience()
            self.pool.ConnectionCls = patience.kind(self.pool.ConnectionCls)
            self.pool.urlopen = _limited(self.pool.urlopen, patience, timeout_s)

    return Bounded


def _limited(ask: Any, patience: Patience, timeout_s: float) -> Any:
    late = f"no whole answer within {timeout_s:g} s"

    def urlopen(*args: Any, **more: Any) -> Any:
        try:
            with patience.limit(timeout_s):
                answer = _read(ask(*args, preload_content=False, **more))
        except Exception:
            if patience.over:
                raise OverflowError(late) from None
            raise
        if patience.over:  # it was cut in the head of the answer, which then looks like one
            raise OverflowError(late)
        return answer

    return urlopen


def _read(response: Any) -> SimpleNamespace:
    """Read an answer as it comes, up to the limit of its size."""
    whole = False
    parts: list[bytes] = []
    try:
        size = 0
        for part in response.stream(_PIECE, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise OverflowError(f"the answer is larger than {MOST_BYTES} bytes")
        whole = True
    finally:
        if whole:
            response.release_conn()
        else:
            response.close()
    return SimpleNamespace(status=response.status, headers=response.headers, data=b"".join(parts))
