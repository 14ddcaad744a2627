"""Tokens: made, shown without themselves, taken away."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from agent.authority import Person, Token, Tokens
from agent.desk.finding import Finding


class TokenView(TypedDict):
    """A token, without itself."""

    name: str
    role: str
    created: float
    models: list[str]


class TokenBook(Finding):
    """Who may come in over HTTP."""

    tokens: Tokens

    def token_list(self, person: Person) -> list[TokenView]:
        """Return the tokens, without themselves; raises Forbidden."""
        person.must("token")
        return [_token_view(t) for t in self.tokens.known()]

    def token_add(
        self, person: Person, name: str, role: str, models: Sequence[str] = ()
    ) -> dict[str, str]:
        """Make a token and return it, this once; raises Forbidden, Refused."""
        person.must("token")
        token = self.tokens.add(name, role, self.hooks.now(), models)
        said = {"what": "added", "role": role, "by": person.signed}
        self._record("token", name, said | ({"models": list(models)} if models else {}))
        return {"name": name, "role": role, "token": token}

    def token_revoke(self, person: Person, name: str) -> TokenView:
        """Take a token away; raises Forbidden, Refused."""
        person.must("token")
        gone = self.tokens.revoke(name)
        self.hooks.dismiss(name)
        self._record("token", name, {"what": "revoked", "role": gone.role, "by": person.signed})
        return _token_view(gone)


def _token_view(t: Token) -> TokenView:
    return {"name": t.name, "role": t.role, "created": t.created, "models": list(t.models)}
