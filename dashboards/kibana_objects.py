"""What Kibana imports: data views and saved searches over what the connector `elastic_out` writes.

One object a line, and a last line that counts them, as Kibana's own export has it (NDJSON). Ids stay, so that an import
writes over what an earlier one made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_IN_THE_SEARCH: Final = "kibanaSavedObjectMeta.searchSourceJSON.index"


@dataclass(frozen=True, slots=True)
class Search:
    """A saved search. view: which indices; query: in KQL; columns: fields, as they are mapped."""

    id: str
    title: str
    help: str
    view: str
    columns: tuple[str, ...]
    query: str = ""
    sort: str = "@timestamp"


VIEWS: Final[Mapping[str, str]] = {
    "incidents": "Homeostat: incidents",
    "runs": "Homeostat: runs",
    "events": "Homeostat: what happened",
}
"""Kind of index -> name of its data view."""

_INCIDENT: Final = (
    "homeostat.incident.severity", "homeostat.incident.state", "homeostat.incident.about", "message", "event.reason",
    "homeostat.incident.causes.probability", "homeostat.incident.id",
)  # fmt: skip

SEARCHES: Final = (
    Search(
        "open-incidents", "Homeostat: open incidents",
        "What is open now: whom it is about, what it comes from, and how surely.", "incidents", _INCIDENT,
        'not homeostat.incident.state : "resolved"', "event.start",
    ),
    Search(
        "incidents", "Homeostat: incidents", "Every incident as it is now, the newest first.", "incidents",
        (*_INCIDENT[:5], "event.end", "homeostat.incident.runs"), sort="event.start",
    ),
    Search(
        "runs", "Homeostat: acts and verdicts",
        "Every run: what it did to whom, for which incident, and what that was worth.",
        "runs",
        (
            "homeostat.run.playbook", "homeostat.run.target", "homeostat.run.state", "homeostat.run.verdict", "message",
            "homeostat.run.incident", "event.duration",
        ),
        sort="event.start",
    ),
    Search(
        "events", "Homeostat: what happened",
        "Turns of incidents, decisions, changes, notes and what people said, in order.",
        "events",
        ("event.dataset", "event.action", "message", "user.name", "service.name", "host.name", "homeostat.incident.id"),
    ),
    Search(
        "changes", "Homeostat: changes by others", "Releases, settings, scaling: the first suspects.", "events",
        ("event.action", "homeostat.change.entity", "homeostat.change.before", "homeostat.change.after", "user.name"),
        'event.dataset : "homeostat.change" and not user.name : homeostat*',
    ),
)  # fmt: skip


def built(prefix: str = "homeostat") -> str:
    """Return the file. prefix: of the indices, as `elastic_out` has it."""
    objects = [_view(kind, name, prefix) for kind, name in VIEWS.items()]
    objects += [_search(one) for one in SEARCHES]
    counted = {
        "excludedObjects": [], "excludedObjectsCount": 0, "exportedCount": len(objects), "missingRefCount": 0,
        "missingReferences": [],
    }  # fmt: skip
    return "".join(json.dumps(one, sort_keys=True) + "\n" for one in [*objects, counted])


def _object(
    kind: str, id_: str, attributes: Mapping[str, Any], references: Sequence[Any]
) -> dict[str, Any]:
    return {
        "id": id_, "type": kind, "attributes": attributes, "references": references, "managed": False,
        "coreMigrationVersion": "8.8.0", "typeMigrationVersion": "8.0.0",
    }  # fmt: skip


def _view(kind: str, name: str, prefix: str) -> dict[str, Any]:
    attributes = {"title": f"{prefix}-{kind}-*", "name": name, "timeFieldName": "@timestamp"}
    return _object("index-pattern", f"homeostat-view-{kind}", attributes, [])


def _search(one: Search) -> dict[str, Any]:
    source = {
        "query": {"query": one.query, "language": "kuery"}, "filter": [], "indexRefName": _IN_THE_SEARCH,
    }  # fmt: skip
    attributes = {
        "title": one.title, "description": one.help, "columns": list(one.columns), "sort": [[one.sort, "desc"]],
        "grid": {}, "hideChart": False,
        "kibanaSavedObjectMeta": {"searchSourceJSON": json.dumps(source, sort_keys=True)},
    }  # fmt: skip
    references = [
        {"name": _IN_THE_SEARCH, "type": "index-pattern", "id": f"homeostat-view-{one.view}"}
    ]
    return _object("search", f"homeostat-search-{one.id}", attributes, references)
