"""The other side of boards: folders, dashboards and their versions, as Grafana's HTTP API documents them.

No Grafana was ever asked. What it demands: a token; a folder that is there; `overwrite: false` with a version that is
the newest (else 412 version-mismatch), or no dashboard of that uid; a title that is free in the folder (else 412
name-exists); no save of what is provisioned by files (400).
"""

from __future__ import annotations

import json
import re
from urllib.parse import parse_qs, urlsplit

from people_side import Side


class GrafanaBoardsSide(Side):
    """Keeps every version of every dashboard."""

    TOKEN = "glsa_CANARY0123456789"  # of the stand-in

    def __init__(self) -> None:
        super().__init__()
        self.folders: list[dict] = []
        self.versions: dict[str, list[dict]] = {}
        self.provisioned: set[str] = set()
        self.meanwhile = ""
        """Of this board a person saves a version between our look and our word."""

    def take(self, method, path, headers, body):
        super().take(method, path, headers, body)
        if headers.get("authorization") != f"Bearer {self.TOKEN}":
            return 401, {"message": "Invalid API key"}
        parts = urlsplit(path)
        said = json.loads(body) if body else None
        if parts.path == "/api/folders":
            return self._folders(method, said, parse_qs(parts.query))
        if (method, parts.path) == ("POST", "/api/dashboards/db"):
            return self._save(said)
        found = re.fullmatch(r"/api/dashboards/uid/([\w-]+)(/versions)?", parts.path)
        if method != "GET" or not found:
            return 404, {"message": "Not found"}
        versions = self.versions.get(found[1])
        if not versions:
            return 404, {
                "message": "Dashboard not found",
                "accessErrorId": "",
                "title": "Not found",
            }
        if found[2]:
            return 200, {"continueToken": "", "versions": [
                {"id": v["version"], "version": v["version"], "message": v["message"]} for v in reversed(versions)
            ]}  # fmt: skip
        newest = versions[-1]
        return 200, {
            "meta": {"folderUid": newest["folder"], "provisioned": found[1] in self.provisioned},
            "dashboard": {**newest["json"], "id": 7, "version": newest["version"]},
        }  # fmt: skip

    def person_saves(self, uid: str, **changes: object) -> None:
        """Do what a person does in the browser."""
        last = self.versions[uid][-1]
        self.versions[uid].append(
            {**last, "json": {**last["json"], **changes}, "version": last["version"] + 1, "message": ""}
        )  # fmt: skip

    def _folders(self, method, said, query):
        if method == "GET":
            return 200, self.folders[: int(query["limit"][0])]
        if any(f["uid"] == said["uid"] or f["title"] == said["title"] for f in self.folders):
            return 409, {"message": "a folder with the same name already exists"}
        self.folders.append({"id": len(self.folders) + 1, **said})
        return 200, self.folders[-1]

    def _save(self, said):
        json_, uid = said["dashboard"], said["dashboard"]["uid"]
        if not json_.get("title"):
            return 400, {"message": "Dashboard title cannot be empty"}
        if not any(f["uid"] == said["folderUid"] for f in self.folders):
            return 400, {"message": "folder not found"}
        if uid in self.provisioned:
            return 400, {"message": "Cannot save provisioned dashboard"}
        if self.meanwhile == uid:
            self.person_saves(uid, refresh="1m")
        versions = self.versions.setdefault(uid, [])
        named = {v[-1]["json"]["title"]: u for u, v in self.versions.items() if v}
        if named.get(json_["title"], uid) != uid:
            return 412, {
                "status": "name-exists",
                "message": "A dashboard with the same name already exists",
            }
        if versions and not said["overwrite"] and json_.get("version") != versions[-1]["version"]:
            return 412, {
                "status": "version-mismatch", "message": "The dashboard has been changed by someone else",
            }  # fmt: skip
        number = versions[-1]["version"] + 1 if versions else 1
        kept = {k: v for k, v in json_.items() if k not in {"id", "version"}}
        versions.append(
            {"json": kept, "version": number, "message": said["message"], "folder": said["folderUid"]}
        )  # fmt: skip
        return 200, {
            "id": 7,
            "uid": uid,
            "status": "success",
            "version": number,
            "slug": "b",
            "url": f"/d/{uid}",
        }
