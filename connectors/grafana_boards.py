"""Boards into Grafana, through its HTTP API: into one folder, and only where they differ.

    GET folder (made when missing) -> each board: GET by uid -> the same: nothing
                                                             -> saved by a person since: left alone, unless forced
                                                             -> else POST with the version that was seen

Who saved a board last is told by the message of its newest version: ours say so. A board that somebody saves between
our look and our word is refused by Grafana (412), as we name the version that we saw.
Source (read, then told in our own words): grafana.com, "Dashboard HTTP API", "Folder HTTP API", "Dashboard versions".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from agent import __version__
from agent.boards import Board, Pushed, differences, same
from agent.errors import Refused, Unavailable
from agent.registry import place
from agent.secret import secret
from connectors.http import Answer, Door, Method, checked_url, redacted

MESSAGE: Final = "homeostat"
"""Every version of ours has a message that begins so."""
_UID: Final = "homeostat"
_TIMEOUT_S: Final = 15.0


@place("grafana")
class GrafanaBoards:
    """Puts boards into a folder of a Grafana.

    url      as in a browser, with the path that it is served under
    token    `env:NAME` or `file:/PATH` of the token of a service account that may write dashboards and folders
    folder   title of the folder, made when it is not there
    Known only from its documentation: tested against a stand-in.
    """

    def __init__(self, url: str, token: str, folder: str = "Homeostat") -> None:
        try:
            self._url = checked_url(url).rstrip("/")
        except ValueError as wrong:
            raise Refused(f"{redacted(url)}: {wrong}") from None
        self._token = token
        self._folder = folder
        self._door = Door()

    async def push(self, boards: Sequence[Board], *, dry_run: bool, force: bool) -> list[Pushed]:
        """Put boards where they differ; see `agent.boards.Place`."""
        there = await self._find_folder(dry_run=dry_run)
        return [await self._one(b, there, dry_run=dry_run, force=force) for b in boards]

    async def _find_folder(self, *, dry_run: bool) -> str:
        """Return the uid of the folder."""
        answer = await self._ask("GET", "/api/folders?limit=1000")
        found = _many(self._read(answer))
        for one in found:
            if one.get("uid") == _UID or one.get("title") == self._folder:
                return str(one["uid"])
        if not dry_run:
            body = {"uid": _UID, "title": self._folder}
            self._read(await self._ask("POST", "/api/folders", body))
        return _UID

    async def _one(self, board: Board, folder: str, *, dry_run: bool, force: bool) -> Pushed:
        uid, title = str(board["uid"]), str(board["title"])
        answer = await self._ask("GET", f"/api/dashboards/uid/{quote(uid)}")
        if answer.status == 404:
            said = await self._put(board, folder, None, dry_run=dry_run)
            return Pushed(uid, title, "refused" if said else "new", said)
        found = self._read(answer)
        theirs = found.get("dashboard") or {}
        if same(board, theirs):
            return Pushed(uid, title, "as it is")
        differs = differences(board, theirs)
        if not force and not await self._ours(uid):
            return Pushed(uid, title, "edited", differs)
        said = await self._put(board, folder, theirs.get("version"), dry_run=dry_run)
        return Pushed(uid, title, "refused" if said else "changed", said or differs)

    async def _ours(self, uid: str) -> bool:
        """Tell whether we were the last to save a board."""
        answer = await self._ask("GET", f"/api/dashboards/uid/{quote(uid)}/versions?limit=1")
        said = self._read(answer)
        versions = _many(said.get("versions") if isinstance(said, dict) else said)
        return bool(versions) and str(versions[0].get("message", "")).startswith(MESSAGE)

    async def _put(self, board: Board, folder: str, version: int | None, *, dry_run: bool) -> str:
        """Save a board over a version, or as a new one; returns why not, "" = it is saved."""
        if dry_run:
            return ""
        made = {**board, "id": None} | ({} if version is None else {"version": version})
        body = {
            "dashboard": made, "folderUid": folder, "message": f"{MESSAGE} {__version__}", "overwrite": False,
        }  # fmt: skip
        answer = await self._ask("POST", "/api/dashboards/db", body)
        if answer.status in {400, 412, 422}:
            return _words(answer)
        self._read(answer)
        return ""

    async def _ask(self, method: Method, path: str, body: Any = None) -> Answer:
        headers = {"authorization": f"Bearer {secret(self._token)}", "accept": "application/json"}
        sent = None
        if body is not None:
            headers["content-type"] = "application/json"
            sent = json.dumps(body).encode()
        return await self._door.ask(
            method, self._url + path, timeout_s=_TIMEOUT_S, headers=headers, body=sent
        )

    def _read(self, answer: Answer) -> Any:
        """Return what it says; raises Refused for what a person must mend, Unavailable for what passes."""
        where = redacted(self._url)
        if answer.status in {401, 403}:
            raise Refused(
                f"{where}: {answer.status}, the token is not accepted; it must be of a service account that may "
                "write dashboards and folders"
            )
        if 300 <= answer.status < 400:
            raise Refused(f"{where} sends us elsewhere, which is not followed; mend the url")
        if answer.status == 404:
            raise Refused(f"{where}: 404, this is no Grafana; mend the url")
        if not answer.ok:
            raise Unavailable(f"{where}: {answer.status} {_words(answer)}".rstrip())
        try:
            said = answer.json()
        except ValueError:
            said = None
        if not isinstance(said, dict | list):
            raise Refused(f"{where} answers, but not as Grafana does; mend the url")
        return said

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()


def _many(said: Any) -> list[Mapping[str, Any]]:
    return [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []


def _words(answer: Answer) -> str:
    """Return what Grafana says of a fault."""
    try:
        said = answer.json()
        return str(said["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return str(answer.status)
