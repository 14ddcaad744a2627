"""A stand-in for Elasticsearch that the official client talks to: documents, points in time, search, bulk, templates.

Written from the documented protocol; no real server was asked. It is strict where a server is (media types, NDJSON,
form of errors, unknown keys, types of mapped fields) and computes what it answers from the documents that it holds.
"""

import base64
import fnmatch
import http.server
import json
import re
import threading
import time
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs, unquote, urlsplit

MEDIA = "application/vnd.elasticsearch+json"
NDJSON = "application/vnd.elasticsearch+x-ndjson"
SHARDS = {"total": 1, "successful": 1, "skipped": 0, "failed": 0}
TEMPLATE = {"index_patterns", "template", "priority", "version", "_meta", "composed_of"}
PHASES = {"hot", "warm", "cold", "frozen", "delete"}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EDGES = {
    "gte": lambda value, edge: value >= edge, "gt": lambda value, edge: value > edge,
    "lte": lambda value, edge: value <= edge, "lt": lambda value, edge: value < edge,
}  # fmt: skip


def iso(ts):
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def instant(value):
    """Read a date as Elasticsearch does: epoch milliseconds, or ISO 8601."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value / 1000
    return datetime.fromisoformat(value).timestamp()


def field_of(source, name):
    """Return the values of a field: a path of objects, a dotted name, one value or many."""
    if name in source:
        found = source[name]
        return list(found) if isinstance(found, list) else [] if found is None else [found]
    parts = name.split(".")
    for i in range(1, len(parts)):
        inner = source.get(".".join(parts[:i]))
        if isinstance(inner, dict):
            return field_of(inner, ".".join(parts[i:]))
    return []


class Bad(Exception):
    """What the server answers with an error: (status, type, reason)."""


def known(body, allowed, what):
    """Refuse keys that the real one would refuse."""
    if extra := set(body) - set(allowed):
        raise Bad(400, "x_content_parse_exception", f"[{what}] unknown field {sorted(extra)}")


# ---- queries and aggregations


def holds(query, source):
    """Tell whether a document matches."""
    ((kind, body),) = query.items()
    if kind not in QUERIES:
        raise Bad(400, "parsing_exception", f"unknown query [{kind}]")
    return QUERIES[kind](body, source)


def _many(value):
    return [] if value is None else value if isinstance(value, list) else [value]


def _bool(body, source):
    known(body, ("filter", "must", "must_not", "should"), "bool")
    every = [*_many(body.get("filter")), *_many(body.get("must"))]
    some = _many(body.get("should"))
    return (
        all(holds(q, source) for q in every)
        and not any(holds(q, source) for q in _many(body.get("must_not")))
        and (not some or bool(every) or any(holds(q, source) for q in some))
    )


def _terms(body, source):
    ((name, wanted),) = body.items()
    wanted = wanted["value"] if isinstance(wanted, dict) else wanted
    return any(v in _many(wanted) for v in field_of(source, name))


def _range(body, source):
    ((name, limits),) = body.items()
    limit = dict(limits)
    assert limit.pop("format") in {"strict_date_optional_time_nanos", "epoch_millis"}
    return any(
        all(EDGES[op](instant(v), instant(edge)) for op, edge in limit.items())
        for v in field_of(source, name)
    )


QUERIES = {
    "match_all": lambda _, __: True, "bool": _bool, "term": _terms, "terms": _terms, "range": _range,
    "exists": lambda body, source: bool(field_of(source, body["field"])),
}  # fmt: skip


def aggs(wanted, docs):
    """Compute aggregations over documents."""
    return {name: _agg(dict(spec), docs) for name, spec in wanted.items()}


def _agg(spec, docs):
    inner = spec.pop("aggs", {})
    ((kind, body),) = spec.items()
    if kind not in AGGREGATIONS:
        raise Bad(400, "parsing_exception", f"Unknown aggregation type [{kind}]")
    return AGGREGATIONS[kind](body, docs, inner)


def _filter(body, docs, inner):
    docs = [d for d in docs if holds(body, d)]
    return {"doc_count": len(docs)} | aggs(inner, docs)


def _max(body, docs, inner):
    found = [instant(v) * 1000 for d in docs for v in field_of(d, body["field"])]
    return {"value": max(found, default=None)}


def _by_term(body, docs, inner):
    known(body, ("field", "size", "order"), "terms")
    groups = {}
    for d in docs:
        for v in dict.fromkeys(field_of(d, body["field"])):
            groups.setdefault(v, []).append(d)
    size = body.get("size", 10)
    rest = sorted((len(g) for g in groups.values()), reverse=True)[size:]
    return {"doc_count_error_upper_bound": 0, "sum_other_doc_count": sum(rest)} | _buckets(
        groups, size, inner
    )


def _by_category(body, docs, inner):
    """Join texts that have the same words once those with a digit are left out."""
    known(body, ("field", "size", "min_doc_count"), "categorize_text")
    groups = {}
    for d in docs:
        for v in field_of(d, body["field"]):
            words = [w for w in v.split() if not re.search(r"\d", w)]
            groups.setdefault(" ".join(words), []).append(d)
    return _buckets(groups, body.get("size", 10), inner)


def _buckets(groups, size, inner):
    order = sorted(groups, key=lambda k: (-len(groups[k]), str(k)))[:size]
    return {
        "buckets": [{"key": k, "doc_count": len(groups[k])} | aggs(inner, groups[k]) for k in order]
    }


def _by_time(body, docs, inner):
    known(body, ("field", "fixed_interval", "min_doc_count", "offset"), "date_histogram")
    number, unit = re.fullmatch(r"(\d+)([smhd])", body["fixed_interval"]).groups()
    step = int(number) * UNITS[unit]
    shift = int(re.fullmatch(r"\+(\d+)ms", body.get("offset", "+0ms"))[1]) / 1000
    groups = {}
    for d in docs:
        for v in field_of(d, body["field"]):
            at = (instant(v) - shift) // step * step + shift
            groups.setdefault(round(at * 1000), []).append(d)
    out = [
        {"key": at, "key_as_string": iso(at / 1000), "doc_count": len(groups[at])}
        | aggs(inner, groups[at])
        for at in sorted(groups)
    ]
    return {"buckets": out}


AGGREGATIONS = {
    "filter": _filter, "max": _max, "terms": _by_term, "categorize_text": _by_category, "date_histogram": _by_time,
}  # fmt: skip


# ---- mappings


def _date(value):
    try:
        instant(value)
    except (ValueError, TypeError):
        return False
    return True


def _histogram(value):
    values = value["values"]
    return len(values) == len(value["counts"]) and values == sorted(set(values))


FITS = {
    "date": _date, "histogram": _histogram, "flattened": lambda v: isinstance(v, dict),
    "long": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "double": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool), "keyword": lambda v: not isinstance(v, dict | list),
    "match_only_text": lambda v: not isinstance(v, dict | list),
}  # fmt: skip


def unmapped(props, value, path=""):
    """Yield fields that are kept and not indexed; raises Bad for a value that does not fit."""
    for key, inner in value.items():
        name, at = f"{path}{key}", props.get(key)
        if at is None:
            yield name
            continue
        for one in inner if isinstance(inner, list) else [] if inner is None else [inner]:
            if "properties" not in at and not FITS[at["type"]](one):
                raise Bad(
                    400, "document_parsing_exception", f"failed to parse field [{name}] of type [{at['type']}]"
                )  # fmt: skip
            if "properties" in at and not isinstance(one, dict):
                raise Bad(400, "document_parsing_exception", f"object mapping for [{name}]")
            if "properties" in at:
                yield from unmapped(at["properties"], one, f"{name}.")


# ---- what is held


class Held:
    """Documents by index and id, templates, policies, points in time.

    made_by    index -> (name of the template that it was made by, its body)
    unmapped   fields of documents that no mapping knows
    spoil      (op, index, id, source) -> (status, type) for one document of a bulk request, or None
    """

    def __init__(self):
        self.indexes = {"predictions": {}}
        self.versions = {}
        self.templates = {}
        self.policies = {}
        self.made_by = {}
        self.unmapped = set()
        self.points = {}
        self.categorizes = True
        self.spoil = lambda *_: None

    def put(self, *sources, index="predictions"):
        for one in sources:
            # the order of documents of one instant is that of the shard, not of their ids
            self.indexes.setdefault(index, {})[uuid.uuid4().hex[:20]] = one

    def found(self, pattern):
        """Return the documents of some indexes by id; an id that is there twice is no answer."""
        every = [
            (id_, source)
            for name, docs in self.indexes.items()
            if fnmatch.fnmatch(name, pattern)
            for id_, source in docs.items()
        ]
        assert len(dict(every)) == len(every)
        return dict(every)

    def matching(self, pattern):
        found = [n for n in self.indexes if any(fnmatch.fnmatch(n, p) for p in pattern.split(","))]
        if not found and "*" not in pattern:
            raise Bad(404, "index_not_found_exception", f"no such index [{pattern}]")
        return found

    def template(self, method, name, body):
        if method == "PUT":
            known(body, TEMPLATE, "index_template")
            if not body.get("index_patterns"):
                raise Bad(400, "action_request_validation_exception", "index patterns are missing")
            self.templates[name] = body
            return {"acknowledged": True}
        if name not in self.templates:
            raise Bad(404, "resource_not_found_exception", f"index template [{name}] not found")
        return {"index_templates": [{"name": name, "index_template": self.templates[name]}]}

    def policy(self, method, name, body):
        if method == "PUT":
            known(body, ("policy",), "policy")
            known(body["policy"]["phases"], PHASES, "phases")
            for phase in body["policy"]["phases"].values():
                if not re.fullmatch(r"\d+(ms|s|m|h|d)", phase.get("min_age", "0ms")):
                    raise Bad(400, "illegal_argument_exception", "failed to parse [min_age]")
            self.policies[name] = body
            return {"acknowledged": True}
        if name not in self.policies:
            raise Bad(404, "resource_not_found_exception", f"Lifecycle policy not found: {name}")
        return {name: {"version": 1, "modified_date": iso(0), **self.policies[name]}}

    def made(self, index):
        """Make an index as the first document of it does: by the template of the highest priority."""
        fits = [
            (t.get("priority", 0), name, t["template"])
            for name, t in self.templates.items()
            if any(fnmatch.fnmatch(index, p) for p in t["index_patterns"])
        ]
        _, name, template = max(fits, key=lambda x: x[0], default=(0, "", {}))
        self.indexes[index] = {}
        self.made_by[index] = name, template

    def one(self, op, meta, source):
        """Take one document of a bulk request; return its item."""
        known(meta, ("_index", "_id", "version", "version_type"), op)
        index, id_ = meta["_index"], meta["_id"]
        out = {"_index": index, "_id": id_}
        spoilt = self.spoil(op, index, id_, source)
        if spoilt is not None:
            return out | {"status": spoilt[0], "error": {"type": spoilt[1], "reason": "because"}}
        try:
            return out | self._taken(op, meta, source)
        except Bad as wrong:
            status, kind, why = wrong.args
            return out | {"status": status, "error": {"type": kind, "reason": why}}

    def _taken(self, op, meta, source):
        index, id_ = meta["_index"], meta["_id"]
        if index not in self.indexes:
            self.made(index)
        docs, old = self.indexes[index], self.versions.get((index, id_), 0)
        conflict = "version_conflict_engine_exception"
        if op == "create" and id_ in docs:
            raise Bad(409, conflict, f"[{id_}]: version conflict, document already exists")
        external = meta.get("version_type") == "external"
        version = meta["version"] if external else old + 1
        if version <= old:
            raise Bad(409, conflict, f"[{id_}]: current version [{old}] is higher or equal")
        mapping = self.made_by.get(index, ("", {}))[1].get("mappings", {})
        self.unmapped.update(unmapped(mapping.get("properties", {}), source))
        docs[id_], self.versions[index, id_] = source, version
        result, status = ("updated", 200) if old else ("created", 201)
        return {"_version": version, "result": result, "status": status}

    def open(self, index, query):
        (name,) = self.matching(index)
        assert re.fullmatch(r"\d+m", query["keep_alive"])
        id_ = base64.b64encode(uuid.uuid4().bytes).decode()
        self.points[id_] = list(self.indexes[name].items())
        return {"id": id_, "_shards": SHARDS}

    def page(self, body, query):
        known(body, ("pit", "size", "query", "sort", "search_after", "track_total_hits"), "search")
        known(query, ("allow_partial_search_results",), "search")
        docs = self.points.get(body["pit"]["id"])
        if docs is None:
            raise Bad(404, "search_context_missing_exception", "No search context found")
        (field, how), shard = next(iter(body["sort"][0].items())), body["sort"][1]
        assert how["order"] == "asc"
        assert how["format"] == "strict_date_optional_time_nanos"
        assert shard == {"_shard_doc": "asc"}
        rows = [
            {"_index": "p", "_id": id_, "_score": None, "_source": source,
             "sort": [iso(instant(field_of(source, field)[0])), i]}
            for i, (id_, source) in enumerate(docs)
            if field_of(source, field) and holds(body["query"], source)
        ]  # fmt: skip
        rows.sort(key=lambda r: r["sort"])
        if "search_after" in body:
            assert len(body["search_after"]) == 2
            rows = [r for r in rows if r["sort"] > body["search_after"]]
        return {
            "pit_id": body["pit"]["id"], "took": 1, "timed_out": False, "_shards": SHARDS,
            "hits": {"max_score": None, "hits": rows[: body["size"]]},
        }  # fmt: skip

    def aggregated(self, index, body, query):
        known(body, ("size", "query", "aggs", "track_total_hits"), "search")
        known(query, ("allow_partial_search_results",), "search")
        assert body["size"] == 0
        if not self.categorizes and "categorize_text" in json.dumps(body["aggs"]):
            raise Bad(400, "parsing_exception", "Unknown aggregation type [categorize_text]")
        names = self.matching(index)
        out = {"took": 1, "timed_out": False, "hits": {"max_score": None, "hits": []}}
        if not names:  # a pattern that fits nothing: no shard was asked, nothing was aggregated
            return out | {"_shards": dict.fromkeys(SHARDS, 0)}
        docs = [d for name in names for d in self.indexes[name].values() if holds(body["query"], d)]
        return out | {"_shards": SHARDS, "aggregations": aggs(body["aggs"], docs)}


# ---- the protocol


class Elastic(Held):
    """The server. `fail` holds what the next requests get instead of an answer.

    A fault is (status, type), or a dict: status and kind (an error), raw (bytes instead of JSON), headers, wait
    (seconds before the answer), drop (the connection is cut), lost (it is done, and the answer is cut off).
    """

    def __init__(self, port=0):
        super().__init__()
        self.asked = []
        self.fail = []
        self.gone = False
        self.refused = 0
        self.most_bytes = 100 << 20
        self.product = "Elasticsearch"
        self.auth = ""
        self.lock = threading.Lock()
        self.server = _server(self, port)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}
        )

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def fault(self):
        with self.lock:
            found = self.fail.pop(0) if self.fail else {}
        return {"status": found[0], "kind": found[1]} if isinstance(found, tuple) else found

    def answered(self, fault, method, path, headers, body):
        if "raw" in fault:
            return fault.get("status", 200), fault["raw"]
        if "kind" in fault:
            status, said = self.error(fault["status"], fault["kind"], "because")
        else:
            status, said = self.answer(method, path, headers, body)
        return status, json.dumps(said).encode()

    def answer(self, method, path, headers, body):
        parts = urlsplit(path)
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        where = unquote(parts.path)
        bulk = (method, where) == ("PUT", "/_bulk")
        said = None if bulk or not body else json.loads(body)
        self.asked.append((method, where, said))
        if self.auth and headers.get("authorization") != self.auth:
            return self.error(401, "security_exception", "unable to authenticate")
        if not headers.get("accept", "").startswith(MEDIA):
            return self.error(406, "media_type_header_exception", "wrong accept")
        if len(body) > self.most_bytes:
            return 413, "too large"
        try:
            return 200, self.bulk(body, headers, query) if bulk else self.routed(
                method, where, said, query
            )
        except Bad as wrong:
            return self.error(*wrong.args)

    def error(self, status, kind, reason):
        inner = {"type": kind, "reason": reason}
        return status, {"error": inner | {"root_cause": [inner]}, "status": status}

    def routed(self, method, where, body, query):
        index, _, what = where.strip("/").rpartition("/")
        if where == "/_pit" and method == "DELETE":
            if self.points.pop(body["id"], None) is None:
                raise Bad(404, "search_context_missing_exception", "No search context found")
            return {"succeeded": True, "num_freed": 1}
        if index == "_index_template":
            return self.template(method, what, body)
        if index == "_ilm/policy":
            return self.policy(method, what, body)
        if (method, what) == ("POST", "_pit"):
            return self.open(index, query)
        if (method, what) == ("POST", "_search"):
            return self.aggregated(index, body, query) if index else self.page(body, query)
        raise Bad(400, "illegal_argument_exception", f"unknown {method} {where}")

    def bulk(self, body, headers, query):
        if not headers.get("content-type", "").startswith(NDJSON):
            raise Bad(406, "content_type_header_exception", "a bulk request is x-ndjson")
        known(query, ("refresh", "timeout"), "bulk")
        if not body.endswith(b"\n"):
            raise Bad(400, "illegal_argument_exception", "must be terminated by a newline [\\n]")
        lines = body.split(b"\n")[:-1]
        if len(lines) % 2:
            raise Bad(400, "illegal_argument_exception", "Malformed action/metadata line")
        items = []
        for head, text in zip(lines[::2], lines[1::2], strict=True):
            ((op, meta),) = json.loads(head).items()
            if op not in {"index", "create"}:
                raise Bad(400, "illegal_argument_exception", f"Malformed action [{op}]")
            items.append({op: self.one(op, meta, json.loads(text))})
        bad = any("error" in one for item in items for one in item.values())
        return {"took": 1, "errors": bad, "items": items}


def _server(elastic, port):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            fault = elastic.fault()
            time.sleep(fault.get("wait", 0))
            if elastic.gone or fault.get("drop"):
                elastic.refused += 1
                self.close_connection = True
                return
            with elastic.lock:
                status, said = elastic.answered(fault, self.command, self.path, self.headers, body)
            self._say(status, said, fault)

        def _say(self, status, raw, fault):
            self.send_response(status)
            if elastic.product:
                self.send_header("X-Elastic-Product", elastic.product)
            self.send_header("Content-Type", f"{MEDIA};compatible-with=9")
            self.send_header("Content-Length", str(len(raw)))
            for name, value in fault.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            if fault.get("lost"):
                self.close_connection = True
            else:
                self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  # names of the library

        def log_message(self, *args):
            """Say nothing on standard error."""

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args):
            """Who asked may be gone by now."""

    return Server(("127.0.0.1", port), Handler)
