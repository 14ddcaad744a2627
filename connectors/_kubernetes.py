"""Where the API server of Kubernetes is and who we are there: a service account, a kubeconfig, or URL and token.

Certificates of a kubeconfig are used as they stand. A program that it names for logging in (`exec`) is run where
`login:` names it, too: whoever may write a kubeconfig shall not choose what we run.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Self

import yaml
from pydantic import Field, model_validator

from agent.errors import Refused
from agent.secret import Reference, secret
from agent.units import Duration, Model
from connectors.http import checked_base

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PROTOCOLS: Final = tuple(f"client.authentication.k8s.io/{v}" for v in ("v1", "v1beta1"))
_OTHERS_WRITE: Final = 0o022


class Login(Model):
    """A program that a kubeconfig's user logs in by, allowed here: `login: {program: aws, env: [AWS_PROFILE]}`."""

    program: Annotated[str, Field(min_length=1)]
    """As `command` of the kubeconfig says it."""
    env: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = []
    """Variables of the daemon that it gets, beside PATH, HOME and those of the kubeconfig."""
    timeout: Annotated[Duration, Field(gt=0, le=300)] = 30.0


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
    login: Login | None = None
    """The program that its user logs in by; without it, none is run."""
    namespace: str = ""
    """Empty = that of the context or of the service account, else `default`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.url:
            checked_base(self.url)
        if self.url and self.kubeconfig:
            raise ValueError("`url` and `kubeconfig` are two ways in: keep one of them")
        if self.context and not self.kubeconfig:
            raise ValueError("`context` belongs to a `kubeconfig`: name it, too")
        if self.login and not self.kubeconfig:
            raise ValueError("`login` belongs to a `kubeconfig`: name it, too")
        return self


@dataclass(frozen=True, slots=True)
class Program:
    """What is run to log in. protocol: the version of ExecCredential; cluster: what it is told of it, or None."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = field(repr=False)
    protocol: str
    cluster: Mapping[str, Any] | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Place:
    """The way in.

    ca       PEM text, "" = as the system trusts
    pem      our certificate and key, b"" = none
    program  what tells who we are instead; None = nothing is run
    files    what all this was read from: when one changes, it is read anew
    """

    url: str
    namespace: str
    token: str = field(default="", repr=False)
    ca: str = ""
    pem: bytes = field(default=b"", repr=False)
    program: Program | None = None
    files: tuple[Path, ...] = ()

    def headers(self) -> dict[str, str]:
        """Return who we are, read now."""
        return {"authorization": f"Bearer {secret(self.token)}"} if self.token else {}

    def trust(self, pem: bytes = b"") -> ssl.SSLContext | None:
        """Return whom TLS trusts, and our certificate, or the one given; None = it is not spoken."""
        if not self.url.startswith("https:"):
            return None
        try:
            context = ssl.create_default_context(cadata=self.ca or None)
            if pem := pem or self.pem:
                with tempfile.NamedTemporaryFile(prefix="homeostat-") as held:  # 0600, gone at once
                    held.write(pem)
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
        files = (access.ca,) if access.ca else ()
        return Place(
            access.url.rstrip("/"), access.namespace or "default", access.token, ca, files=files
        )
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
        files=(SERVICE_ACCOUNT / "ca.crt",),
    )  # fmt: skip


def _of_kubeconfig(access: Access, path: Path) -> Place:
    try:
        said = yaml.safe_load(_text(path))
        context = _named(said, "context", access.context or str(said.get("current-context", "")))
        cluster = _named(said, "cluster", str(context.get("cluster", "")))
        user = _named(said, "user", str(context.get("user", "")))
    except (yaml.YAMLError, AttributeError, TypeError) as wrong:
        raise Refused(f"{path} is no kubeconfig: {wrong}") from None
    if user.get("auth-provider"):
        raise Refused(
            f"the user of {path} has an auth-provider, which Kubernetes took out: use `exec`, a token or a certificate"
        )
    if cluster.get("insecure-skip-tls-verify"):
        raise Refused(f"{path} asks not to check certificates: name a certificate-authority")
    program = _program(access, path, user["exec"], cluster) if user.get("exec") else None
    token = str(user.get("token") or "")
    if user.get("tokenFile"):
        token = f"file:{path.parent / str(user['tokenFile'])}"
    named = [
        path.parent / str(said[key])
        for said, key in ((cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key"))
        if said.get(key) and not said.get(f"{key}-data")
    ]  # fmt: skip
    certificate, key = (_data(user, f"client-{what}", path) for what in ("certificate", "key"))
    return Place(
        str(cluster.get("server", "")).rstrip("/"),
        access.namespace or str(context.get("namespace") or "default"), token,
        _data(cluster, "certificate-authority", path).decode("ascii", "replace"),
        certificate + b"\n" + key if certificate and key else b"",
        program, (path, *named),
    )  # fmt: skip


def _program(
    access: Access, path: Path, said: Mapping[str, Any], cluster: Mapping[str, Any]
) -> Program:
    """Return what is run to log in; raises Refused unless agent.yaml allows it and nobody else may change it."""
    command, protocol = str(said.get("command", "")), str(said.get("apiVersion", ""))
    if access.login is None or access.login.program != command:
        raise Refused(
            f"the user of {path} logs in by the program {command}: allow it with `login: {{program: {command}}}`, or "
            "give the user a token or a certificate"
        )
    if protocol not in _PROTOCOLS:
        raise Refused(
            f"{path}: exec speaks {protocol or 'no apiVersion'}; have it speak {_PROTOCOLS[0]}"
        )
    if said.get("interactiveMode") == "Always":
        raise Refused(f"{path}: {command} wants to ask a person: log in by one that need not")
    state = path.stat()
    if state.st_mode & _OTHERS_WRITE or state.st_uid not in {0, os.geteuid()}:
        raise Refused(
            f"others may write {path}, which says what is run: `chmod go-w` it, and own it"
        )
    # as kubectl finds it: by PATH, or from the folder of the kubeconfig
    found = str(path.parent / command) if "/" in command else shutil.which(command)
    if found is None or not os.access(found, os.X_OK):
        hint = " ".join(str(said.get("installHint") or "").split())[:200]
        raise Refused(f"there is no program {command} to log in by" + (f": {hint}" if hint else ""))
    given = {n: os.environ[n] for n in ("PATH", "HOME", *access.login.env) if n in os.environ}
    given |= {str(e.get("name")): str(e.get("value")) for e in said.get("env") or ()}
    told = {
        key: cluster[key]
        for key in ("server", "tls-server-name", "certificate-authority-data")
        if cluster.get(key)
    }
    return Program(
        (found, *map(str, said.get("args") or ())), tuple(sorted(given.items())), protocol,
        told if said.get("provideClusterInfo") else None, access.login.timeout,
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
