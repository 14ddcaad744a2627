"""Asks whatever speaks PromQL (Prometheus, VictoriaMetrics, Mimir, Thanos) through prometheus-api-client.

    Promql --question--> PrometheusConnect --request--> _Session --requests--> server
           <-- parsed JSON, or Unavailable / Refused <--

The library knows the interface; what it leaves open is closed by the session that we lend it: an answer is bounded in
bytes and in time, redirects and proxies of the environment are not followed, nothing is tried again behind our back,
and no message carries a secret. All of it blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, model_validator

from agent.errors import Refused, Unavailable
from agent.imports import lacking
from agent.secret import Headers, Reference, secret
from agent.strike import strike
from agent.units import Bytes, Duration, Model
from connectors._patience import Patience
from connectors.http import authorities, checked_base, redacted, retry_after

_PIECE: Final = 1 << 16
_SAID: Final = 200
"""Of what a server says of an error, so many characters are told."""
_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another try may turn; 500 is what a proxy before a restarting server says."""

# A URL of a query may hold what an operator would not want in a log.
logging.getLogger("urllib3").setLevel(logging.WARNING)


class Access(Model):
    """Where it answers, and who asks."""

    url: Annotated[str, AfterValidator(checked_base)]
    """`http://prometheus:9090`; Mimir ends with `/prometheus`, VictoriaMetrics clusters `/select/0/prometheus`."""
    token: Reference = ""
    """`env:NAME` or `file:PATH` of a bearer token."""
    user: str = ""
    password: Reference = ""
    """`env:NAME` or `file:PATH`, beside `user`: basic authentication."""
    headers: Headers = {}
    """Sent with every question, values may be references: `X-Scope-OrgID: team-a`."""
    ca: Path | None = None
    """Certificates to trust instead of those of the system."""
    certificate: Path | None = None
    """Ours, where the server asks for one; with `key` when that stands in a file of its own."""
    key: Path | None = None
    timeout: Annotated[Duration, Field(gt=0, le=120)] = 10.0
    """For one question, answer included."""
    most_bytes: Annotated[Bytes, Field(ge=1000, le=256e6)] = 16e6
    """The largest answer that is taken: some 250 bytes a series."""

    @model_validator(mode="after")
    def _one_way(self) -> Access:
        if self.token and (self.user or self.password):
            raise ValueError("a token and a user are two ways in: keep one of them")
        if self.key and not self.certificate:
            raise ValueError("`key` belongs to a `certificate`: name it, too")
        return self


class _Answer:
    """What the library needs of a response."""

    ok, status_code = True, 200

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def json(self) -> dict[str, Any]:
        return self._body


class _Session:
    """A session of requests that keeps our rules; the library calls it as it would call its own."""

    def __init__(self, access: Access, requests: Any) -> None:
        self._access = access
        self._requests = requests
        self._inner = requests.Session()
        self._inner.trust_env = False
        self._patience = Patience()
        self.verify: bool | str = str(access.ca) if access.ca else authorities() or True
        cert = str(access.certificate) if access.certificate else None
        self.cert = (cert, str(access.key)) if cert and access.key else cert

    def mount(self, prefix: str, adapter: Any) -> None:
        adapter.poolmanager.pool_classes_by_scheme = {
            scheme: type(
                "Pool", (pool,), {"ConnectionCls": self._patience.kind(pool.ConnectionCls)}
            )
            for scheme, pool in adapter.poolmanager.pool_classes_by_scheme.items()
        }
        self._inner.mount(prefix, adapter)

    def close(self) -> None:
        self._inner.close()

    def get(self, url: str, **more: Any) -> _Answer:
        return self.request("GET", url, **more)

    def request(self, method: str, url: str, params: Any = None, **_: Any) -> _Answer:
        """Ask once. Raises Unavailable, Refused."""
        where, a = redacted(url), self._access
        hidden = [secret(v) for v in (a.token, a.password, *a.headers.values()) if v]
        headers = {name: secret(value) for name, value in a.headers.items()}
        if a.token:
            headers["Authorization"] = f"Bearer {secret(a.token)}"
        auth = (a.user, secret(a.password)) if a.user else None
        gone: type[Exception] = self._requests.RequestException
        late = Unavailable(f"{where}: no answer within {a.timeout:g} s")
        try:
            with self._patience.limit(a.timeout), contextlib.closing(
                self._inner.request(
                    method, url, params=params, headers=headers, auth=auth, stream=True,
                    timeout=a.timeout, allow_redirects=False, verify=self.verify, cert=self.cert,
                )
            ) as response:  # fmt: skip
                body = b"".join(self._pieces(response, where))
                status, said = response.status_code, response.headers
        except self._requests.Timeout:
            raise late from None
        except (gone, OSError, ValueError, Unavailable) as wrong:
            if self._patience.over:
                raise late from None
            if isinstance(wrong, Unavailable):
                raise
            if isinstance(wrong, self._requests.exceptions.SSLError):
                raise Refused(
                    f"{where}: the certificate is not to be trusted, or ours is not taken "
                    f"({_told(str(wrong), hidden)}); see `ca` and `certificate`"
                ) from None
            raise Unavailable(f"{where}: no connection ({_why(wrong)})") from None
        if self._patience.over:  # it was cut in the head of the answer, which then looks like one
            raise late
        if status != 200:
            raise _failure(where, status, said, _told(_error(body), hidden))
        return _Answer(_read(body, where))

    def _pieces(self, response: Any, where: str) -> Iterator[bytes]:
        """Read what comes, as it comes: a server that floods must not fill us."""
        size, most = 0, int(self._access.most_bytes)
        raw = response.raw
        try:
            while piece := raw.read1(_PIECE, decode_content=True):
                size += len(piece)
                if size > most:
                    raise Refused(
                        f"{where}: the answer is larger than {most} bytes; narrow the selectors, or raise `most_bytes`"
                    )
                yield piece
        except import_module("urllib3").exceptions.HTTPError as wrong:
            raise Unavailable(f"{where}: the answer broke off ({_why(wrong)})") from None


class Promql:
    """One server that answers PromQL. Not for two threads at once."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._where = redacted(access.url)
        self._connect: Any = None

    @property
    def _client(self) -> Any:
        if self._connect is None:
            try:
                library, requests = map(import_module, ("prometheus_api_client", "requests"))
            except ImportError:
                said = lacking("asking Prometheus needs prometheus-api-client", "prometheus")
                raise Refused(said) from None
            self._connect = library.PrometheusConnect(
                self._access.url.rstrip("/"), session=_Session(self._access, requests), retry=0
            )
        return self._connect

    def ready(self) -> None:
        """Raise Refused when its client is not installed."""
        _ = self._client

    def vector(self, query: str, **params: str) -> list[dict[str, Any]]:
        """Return `[{"metric": labels, "value": [ts, text]}]` as it is now. Raises Unavailable, Refused."""
        found = self._list(self._client.custom_query(query, params))
        if not all(map(_is_sample, found)):
            raise self._garbage()
        return found

    def matrix(self, query: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """Return `[{"metric": labels, "values": [[ts, text], ...]}]`. Raises Unavailable, Refused."""
        first, last = (datetime.fromtimestamp(ts, UTC) for ts in (start, end))
        found = self._list(self._client.custom_query_range(query, first, last, f"{step_s:g}"))
        if not all(type(row) is dict and type(row.get("values")) is list for row in found):
            raise self._garbage()
        return found

    def names(self) -> list[str]:
        """Return the names of all metrics that there are. Raises Unavailable, Refused."""
        return self._list(self._client.all_metrics())

    def metadata(self) -> dict[str, tuple[str, str]]:
        """Return metric -> (gauge, counter, ...; unit or "") as its target declared it; others are missing."""
        found = self._raw("metadata")
        if not isinstance(found, dict):
            raise self._garbage()
        return {
            name: (str(said[0]["type"]), str(said[0].get("unit") or ""))
            for name, said in found.items()
            if isinstance(said, list) and said and isinstance(said[0], dict) and "type" in said[0]
        }

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts of its own rules. Raises Unavailable, Refused."""
        found = self._raw("alerts")
        return self._list(found.get("alerts", []) if isinstance(found, dict) else found)

    def close(self) -> None:
        """Close the connections; the next question opens anew."""
        if self._connect is not None:
            self._connect.close()
            self._connect = None

    def _raw(self, path: str) -> Any:
        """Ask what the library has no method for (or one for a single metric only)."""
        url = f"{self._access.url.rstrip('/')}/api/v1/{path}"
        client = self._client
        return client._session.get(url).json()["data"]  # noqa: SLF001  # it is our own session

    def _list(self, found: Any) -> list[Any]:
        if not isinstance(found, list):
            raise self._garbage()
        return found

    def _garbage(self) -> Unavailable:
        return Unavailable(
            f"{self._where}: the answer is not what PromQL is answered with; see `url`"
        )


def _is_sample(row: Any) -> bool:
    return (
        type(row) is dict
        and type(row.get("metric")) is dict
        and type(row.get("value")) is list
        and len(row["value"]) == 2
    )


def numbers(texts: Sequence[str]) -> list[float]:
    """Read values as Prometheus writes them; what is infinite is unknown to us."""
    return [x if math.isfinite(x := float(text)) else math.nan for text in texts]


def _read(body: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("status") != "success" or "data" not in found:
        raise Unavailable(
            f"{where}: the answer is no JSON of Prometheus; is it really one that speaks PromQL? see `url`"
        )
    if where.endswith(("/query", "/query_range")) and (
        not isinstance(found["data"], dict) or "result" not in found["data"]
    ):
        found["data"] = {"result": None}  # where the library looks
    return found


def _error(body: bytes) -> str:
    """Return what a server says of its own error."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(body)
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            return str(found["error"])
    return ""


def _told(text: str, hidden: Sequence[str]) -> str:
    """Return text of others without our secrets, on one line, not too long."""
    text = strike(text)  # before it is cut: half a secret is known to nobody
    for one in filter(None, hidden):
        text = text.replace(one, "***")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SAID]


def _why(wrong: Exception) -> str:
    """Return the system's own words if there are any: what libraries wrap around them names addresses and queries."""
    cause: BaseException | None = wrong
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        inner = cause.args[0] if cause.args and isinstance(cause.args[0], Exception) else None
        cause = getattr(inner, "reason", None) or inner or cause.__cause__ or cause.__context__
    return type(wrong).__name__


def _failure(where: str, status: int, headers: Mapping[str, str], said: str) -> Exception:
    words = f": {said}" if said else ""
    if 300 <= status < 400:
        to = (
            redacted(headers.get("Location", ""))
            if "://" in headers.get("Location", "")
            else "elsewhere"
        )
        return Refused(f"{where}: sends us to {to} ({status}); write the final address as `url`")
    if status in {401, 403}:
        return Refused(
            f"{where}: we may not ask ({status}){words}; see `token`, or `user` and `password`"
        )
    if status in _LATER:
        return Unavailable(f"{where}: {status}{words}", wait_s=retry_after(headers))
    return Refused(f"{where}: {status}{words}")
