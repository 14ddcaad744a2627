"""The one door through which connectors speak HTTP: time limits, size limits, secrets by reference, redaction.

    door = Door()
    answer = await door.ask("GET", url, timeout_s=2.0)
    await door.close()

Redirects are not followed, proxies of the environment are not used, certificates are checked. Errors say which host
and path, never user info, query or headers: that is where secrets stand.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import certifi

from agent.control import no_tls
from agent.errors import Refused, Unavailable, Uncertain
from agent.imports import without
from agent.secret import secret
from agent.strike import forms

with without("pygments"):  # for a command line of its own that colours what it shows
    import httpx

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

MOST_BYTES: Final = 8 << 20
_LEAST_SECRET: Final = 4
"""What is shorter is no secret, and would be found everywhere."""
_PIECE: Final = 1 << 18
_CONNECT_SHARE: Final = 0.75
_LONGEST_WAIT_S: Final = 3600.0
_HASHED: Final = re.compile(r"[0-9a-f]{8}\.\d+")
"""How OpenSSL finds a certificate in a folder; by another name it does not."""
_SAFE: Final = frozenset({"GET", "HEAD"})
"""Methods after which nothing has happened, whatever became of the answer."""

# httpx logs every request with its whole URL at INFO; a URL may hold a secret.
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    seconds   from before the connection to the end of the body
    expires   when the certificate that was shown ends, unix seconds; None = none was shown
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    expires: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Read the body as JSON; raises ValueError when it is none, or is nested deeper than anybody means it."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deep") from None


def checked_url(url: str) -> str:
    """Return the URL if we would ask it; raises ValueError (for a connector's Config) when not."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not a URL that we can ask: write http://host:port/path or https://...")
    if parts.username or parts.password:
        raise ValueError(
            "a URL may not hold a password: write a header with `env:NAME` or `file:PATH`"
        )
    _ = parts.port  # raises ValueError when it is no port
    return url


def checked_base(url: str) -> str:
    """Return a URL to which paths are added, if it is one; raises ValueError as `checked_url` does."""
    if "?" in url or "#" in url:
        raise ValueError(
            "paths are added to this URL: end it before `?`; write what stands for a secret as a header"
        )
    return checked_url(url)


def trusting(ca: Path) -> ssl.SSLContext:
    """Return a context that trusts these certificates and no others; raises Refused when they can not be read."""
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as wrong:
        raise Refused(f"the certificates in {ca} can not be read: {wrong}") from None


def authorities() -> str | None:
    """Return the file or folder of the authorities that this host trusts; None where it has none.

    An authority of one's own stands there, too. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others, as for all programs.
    """
    paths = ssl.get_default_verify_paths()
    if paths.cafile or not paths.capath:
        return paths.cafile
    found = any(_HASHED.fullmatch(one.name) for one in Path(paths.capath).iterdir())
    return paths.capath if found else None


def trusted() -> ssl.SSLContext:
    """Return a context that trusts whom this host trusts; where that is nobody, whom browsers do.

    All doors share it (change nothing of it): reading a host's authorities costs 30 ms and most of a megabyte. When
    they change, the next door to open has read them again.
    """
    found = authorities()
    return _trusting(found, Path(found).stat().st_mtime_ns if found else 0)


@lru_cache(maxsize=1)
def _trusting(found: str | None, _changed_ns: int) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if found is None:
        context.load_verify_locations(certifi.where())
    return context


def _expires(response: httpx.Response) -> float | None:
    """Return when the certificate of the connection ends; None where there is none, or it can not be read."""
    stream = response.extensions.get("network_stream")
    tls = stream.get_extra_info("ssl_object") if stream is not None else None
    if not isinstance(tls, ssl.SSLObject | ssl.SSLSocket):
        return None
    until = (tls.getpeercert() or {}).get("notAfter")
    return float(ssl.cert_time_to_seconds(until)) if isinstance(until, str) else None


async def _unpacked(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body in small pieces, also where some bytes of gzip stand for a gigabyte; raises TransportError."""
    if response.is_stream_consumed:  # a transport that had all of it has unpacked it, too
        yield response.content
        return
    packing = response.headers.get("content-encoding", "").strip().lower()
    if packing not in {"", "identity", "gzip", "x-gzip"}:
        raise httpx.RemoteProtocolError(f"an answer packed by {packing[:20]} was not asked for")
    if not packing.endswith("gzip"):
        async for part in response.aiter_raw():
            yield part
        return
    unpack = zlib.decompressobj(wbits=31)
    async for part in response.aiter_raw():
        packed = part
        while packed:
            try:
                yield unpack.decompress(packed, _PIECE)
            except zlib.error:
                raise httpx.RemoteProtocolError("the answer is not packed as it says") from None
            packed = unpack.unconsumed_tail
        if unpack.eof:
            return


def _without(answer: Answer, hidden: Sequence[str]) -> Answer:
    """Return an answer without the secrets that went with the request: some servers echo what they were asked."""
    found = [form for one in hidden for form in forms(one) if len(form) >= _LEAST_SECRET]
    body, headers = answer.body, dict(answer.headers)
    for form in found:
        body = body.replace(form.encode("utf-8", "surrogateescape"), b"***")
        headers = {name: value.replace(form, "***") for name, value in headers.items()}
    return replace(answer, body=body, headers=headers)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds an answer asks us to wait, at most an hour; None where it does not say."""
    said = next((text for name, text in headers.items() if name.lower() == "retry-after"), "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_WAIT_S) if math.isfinite(seconds) else None


def redacted(url: str) -> str:
    """Return scheme, host, port and path: what may stand in messages and logs. Of what is no URL, its end."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.netloc) and parts.port != 0
    except ValueError:  # no port, or half an IPv6 address
        whole = False
    if not whole:
        return re.split(r"[?#]", url)[0].rpartition("@")[2]
    port = f":{parts.port}" if parts.port else ""
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"


class Door:
    """A client that every connector may hold; connections are made when first needed.

    keep_alive  False: a connection of its own for each request, as a new client would come
    trust       whose certificates are trusted; None = `trusted()`
    socket      a Unix socket that all requests go to, whatever host their URL names
    """

    def __init__(
        self,
        *,
        keep_alive: bool = True,
        trust: ssl.SSLContext | None = None,
        socket: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._keep_alive = keep_alive
        self._trust = trust
        self._socket = socket
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._asking = 0
        self._closed = False

    async def ask(
        self,
        method: Method,
        url: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int = MOST_BYTES,
        keep: bool = True,
        called: str = "",
    ) -> Answer:
        """Ask once; any status is an answer. `timeout_s` limits the whole of it, body included.

        keep     False: the body is read to its end and forgotten
        called   what errors call the URL, when its path is a secret, too

        Raises Unavailable when nothing has happened at the other end (or could have, by the method), Uncertain
        when a request that changes something may have been taken, Refused for an answer above `most_bytes` or
        a certificate that is not to be trusted. A secret that the other end sends back is taken out of its answer.
        """
        where = called or redacted(url)
        sent = {name: secret(value) for name, value in (headers or {}).items()}
        hidden = [
            sent[name]
            for name, value in (headers or {}).items()
            if sent[name] != value or name == "authorization"
        ]
        self._open()  # reading whom we trust takes a while, which is not the other end's
        start = time.perf_counter()
        self._asking += 1
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(
                    method,
                    url,
                    sent,
                    body,
                    where,
                    most_bytes=most_bytes,
                    keep=keep,
                    timeout_s=timeout_s,
                    start=start,
                )
                return _without(answer, hidden)
        except (TimeoutError, httpx.TimeoutException) as late:
            unsent = isinstance(late, httpx.ConnectTimeout | httpx.PoolTimeout)
            message = f"{method} {where}: no answer within {timeout_s:g} s"
            if method in _SAFE or unsent:
                raise Unavailable(message) from None
            raise Uncertain(f"{message}; it may have been done") from None
        except httpx.ConnectError as wrong:
            if isinstance(wrong.__cause__, ssl.SSLError) or "CERTIFICATE" in str(wrong):
                raise Refused(
                    f"{method} {where}: the certificate is not to be trusted: {_reason(wrong)}"
                ) from None
            raise Unavailable(f"{method} {where}: no connection: {_reason(wrong)}") from None
        except (httpx.LocalProtocolError, UnicodeEncodeError):  # both would quote the header
            raise Refused(
                f"{method} {where}: a header can not be sent; has its secret a line break, or letters beyond ASCII?"
            ) from None
        except httpx.TransportError as wrong:
            message = f"{method} {where}: {_reason(wrong)}"
            if method in _SAFE:
                raise Unavailable(message) from None
            raise Uncertain(f"{message}; it may have been done") from None
        except httpx.InvalidURL:
            raise Refused(f"{method} {where}: not a URL that can be asked") from None
        finally:
            self._asking -= 1
            if self._closed and not self._asking:
                await self._shut()

    async def _ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        where: str,
        *,
        most_bytes: int,
        keep: bool,
        timeout_s: float,
        start: float,
    ) -> Answer:
        # a handshake that is cancelled from outside leaves its socket open: it must end by itself, before
        within = httpx.Timeout(None, connect=_CONNECT_SHARE * timeout_s)
        async with self._open().stream(
            method, url, headers=headers, content=body, timeout=within
        ) as response:
            parts: list[bytes] = []
            size = 0
            async for part in _unpacked(response):
                size += len(part)
                if size > most_bytes:
                    raise Refused(f"{method} {where}: the answer is larger than {most_bytes} bytes")
                if keep:
                    parts.append(part)
            return Answer(
                response.status_code,
                dict(response.headers),
                b"".join(parts),
                time.perf_counter() - start,
                _expires(response),
            )

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            trust = no_tls() if self._socket else self._trust or trusted()
            uds = (
                httpx.AsyncHTTPTransport(uds=str(self._socket), verify=trust)
                if self._socket
                else None
            )
            self._client = httpx.AsyncClient(
                transport=self._transport or uds,
                verify=trust,
                follow_redirects=False,
                trust_env=False,
                timeout=None,  # noqa: S113  # the limits stand in `ask`
                limits=httpx.Limits(
                    max_connections=20, max_keepalive_connections=10 if self._keep_alive else 0
                ),
                headers={"user-agent": "homeostat", "accept-encoding": "gzip"}
                | ({} if self._keep_alive else {"connection": "close"}),
            )
        return self._client

    async def close(self) -> None:
        """Close what is open as soon as nobody asks; a step that still runs may ask again, and leaves nothing open."""
        self._closed = True
        if not self._asking:
            await self._shut()

    async def _shut(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _reason(wrong: Exception) -> str:
    """Return the system's own words: what libraries wrap around them says less."""
    cause: BaseException | None = wrong
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            number = 0 if isinstance(cause, ssl.SSLError) else cause.errno or 0
            return (os.strerror(number) if number > 0 else cause.strerror).lower()
        cause = (
            cause.exceptions[0]  # a name has several addresses
            if isinstance(cause, BaseExceptionGroup)
            else cause.__cause__ or cause.__context__
        )
    return str(wrong).strip().lower() or type(wrong).__name__
