"""Where the API server of Kubernetes is and who we are there: a service account, a kubeconfig, or URL and token.

Certificates of a kubeconfig are used as they stand; programs that it names for logging in (`exec`) are not run.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import model_validator

from agent.errors import Refused
from agent.secret import Reference, secret
from agent.units import Model
from connectors.http import checked_url

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Access(Model):
    """Without anything: the service account of the pod that we run in."""

    url: str = ""
    """Of the API server, with `token`."""
    token: Reference = ""
    """Read anew for each request, as tokens of service accounts are renewed."""
    ca: Path | None = None
    kubeconfig: Path | None = None
    context: str = ""
    """Of the kubeconfig; empty = its current one."""
    namespace: str = ""
    """Empty = that of the context or of the service account, else `default`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.url:
            checked_url(self.url)
        if self.url and self.kubeconfig:
            raise ValueError("`url` and `kubeconfig` are two ways in: keep one of them")
        if self.context and not self.kubeconfig:
            raise ValueError("`context` belongs to a `kubeconfig`: name it, too")
        return self


@dataclass(frozen=True, slots=True)
class Place:
    """The way in. pem: our certificate and key, b"" = none; ca: PEM text, "" = as the system trusts."""

    url: str
    namespace: str
    token: str = field(default="", repr=False)
    ca: str = ""
    pem: bytes = field(default=b"", repr=False)

    def headers(self) -> dict[str, str]:
        """Return who we are, read now."""
        return {"authorization": f"Bearer {secret(self.token)}"} if self.token else {}

    def trust(self) -> ssl.SSLContext:
        """Return whom TLS trusts, and our certificate."""
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            if self.pem:
                with tempfile.NamedTemporaryFile(prefix="homeostat-") as held:  # 0600, gone at once
                    held.write(self.pem)
                    held.flush()
                    context.load_cert_chain(held.name)
        except (OSError, ssl.SSLError) as wrong:
            raise Refused(f"the certificates for {self.url} can not be used: {wrong}") from None
        return context


def place_of(access: Access) -> Place:
    """Find the way in; raises Refused when there is none, or it can not be read."""
    if access.kubeconfig is not None:
        return _of_kubeconfig(access, access.kubeconfig)
    if access.url:
        ca = _text(access.ca) if access.ca else ""
        return Place(access.url.rstrip("/"), access.namespace or "default", access.token, ca)
    host, port = (
        os.environ.get("KUBERNETES_SERVICE_HOST"),
        os.environ.get("KUBERNETES_SERVICE_PORT"),
    )
    if not host or not (SERVICE_ACCOUNT / "token").exists():
        raise Refused("no way to Kubernetes: write `kubeconfig` or `url`, or run in a pod of it")
    host = f"[{host}]" if ":" in host else host
    return Place(
        f"https://{host}:{port or 443}", access.namespace or _text(SERVICE_ACCOUNT / "namespace").strip(),
        f"file:{SERVICE_ACCOUNT / 'token'}", _text(SERVICE_ACCOUNT / "ca.crt"),
    )  # fmt: skip


def _of_kubeconfig(access: Access, path: Path) -> Place:
    try:
        said = yaml.safe_load(_text(path))
        context = _named(said, "context", access.context or str(said.get("current-context", "")))
        cluster = _named(said, "cluster", str(context.get("cluster", "")))
        user = _named(said, "user", str(context.get("user", "")))
    except (yaml.YAMLError, AttributeError, TypeError) as wrong:
        raise Refused(f"{path} is no kubeconfig: {wrong}") from None
    if user.get("exec") or user.get("auth-provider"):
        raise Refused(
            f"the user of {path} logs in by a program, which is not run: give it a token or a certificate"
        )
    if cluster.get("insecure-skip-tls-verify"):
        raise Refused(f"{path} asks not to check certificates: name a certificate-authority")
    token = str(user.get("token") or "")
    if user.get("tokenFile"):
        token = f"file:{path.parent / str(user['tokenFile'])}"
    certificate, key = (_data(user, f"client-{what}", path) for what in ("certificate", "key"))
    return Place(
        str(cluster.get("server", "")).rstrip("/"),
        access.namespace or str(context.get("namespace") or "default"), token,
        _data(cluster, "certificate-authority", path).decode("ascii", "replace"),
        certificate + b"\n" + key if certificate and key else b"",
    )  # fmt: skip


def _named(said: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    for one in said.get(f"{kind}s") or ():
        if one.get("name") == name:
            return dict(one.get(kind) or {})
    raise Refused(f"the kubeconfig has no {kind} {name or 'that is current'}")


def _data(said: Mapping[str, Any], name: str, path: Path) -> bytes:
    """Return what stands in the file itself, or in one that it names; b"" = neither."""
    if inline := said.get(f"{name}-data"):
        try:
            return base64.b64decode(str(inline), validate=True)
        except binascii.Error:
            raise Refused(f"{path}: {name}-data is not base64") from None
    return _text(path.parent / str(said[name])).encode() if said.get(name) else b""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as wrong:
        raise Refused(f"{path} can not be read: {wrong}") from None
