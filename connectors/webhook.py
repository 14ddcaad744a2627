"""Notes as JSON to a URL of yours, signed.

    webhook:
      url: https://hooks.example.org/homeostat       # or env:NAME, where the URL is a secret
      secret: env:HOMEOSTAT_WEBHOOK_SECRET
      severities: [page, warning]
      events: [acknowledged, resolved]

`Homeostat-Signature: t=UNIX,v1=HEX`: HEX is the HMAC-SHA256 of `UNIX.BODY` under the secret. A receiver computes it,
compares in constant time, and takes nothing older than five minutes; it drops an `Idempotency-Key` that it has seen.
docs/notifiers.md has the ten lines. Source of the scheme: Stripe, "Verify webhook signatures manually".
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.errors import Refused, Unavailable
from agent.registry import connector
from agent.secret import Headers, Reference, secret
from connectors._notes import MEND_S, Routed, Url, Wanted, Web, facts

if TYPE_CHECKING:
    from agent.ports import Note


@connector("webhook")
class Webhook(Routed, Web):
    """Notes as signed JSON to a URL of yours.

    Each try is signed anew, so no signature is stale; the `key` stays the same. Cost: one request a note.
    """

    tested = "a receiver that verifies"

    class Config(Wanted):
        """Where it goes."""

        url: Url
        secret: Reference | None = None
        """Key of the signature; none = the body is not signed."""
        headers: Headers = {}
        """`authorization: env:NAME`."""

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(name, config.timeout)
        self.config: Webhook.Config = config

    async def notify(self, note: Note) -> None:
        """Send once; 2xx is taken."""
        body = json.dumps(facts(note)).encode()
        headers = {
            **self.config.headers, "content-type": "application/json", "idempotency-key": _plain(note.key),
        }  # fmt: skip
        if self.config.secret is not None:
            try:
                key = secret(self.config.secret)
            except Refused as missing:
                raise Unavailable(f"{self.name}: {missing}", wait_s=MEND_S) from None
            headers["homeostat-signature"] = signature(key, body, time.time())
        await self.ask("POST", self.config.url, headers=headers, body=body)

    async def describe(self) -> Sequence[str]:
        """Say where notes go; sends nothing."""
        how = "signed" if self.config.secret else "NOT signed, give it a `secret`"
        return (f"would send notes of {', '.join(self.config.severities)} as JSON, {how}",)


def signature(key: str, body: bytes, ts: float) -> str:
    """Return the header: the time, and the HMAC-SHA256 of time and body."""
    signed = f"{ts:.0f}.".encode() + body
    return f"t={ts:.0f},v1={hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()}"


def _plain(key: str) -> str:
    """Return the key where a header can carry it, else a hash of it."""
    fits = key.isascii() and key.isprintable() and not key.startswith(("env:", "file:"))
    return key if fits else hashlib.sha256(key.encode()).hexdigest()
