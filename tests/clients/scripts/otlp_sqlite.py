"""An OTLP endpoint (JSON over HTTP) that stores what comes in SQLite, written from the specification alone.

otlp_sqlite.py serve DB    serves, and writes its port to standard output; ends with its input
otlp_sqlite.py join DB     writes each resource with how many records of each signal it has, as JSON
otlp_sqlite.py exemplars DB
                           writes each exemplar's metric with the span that it leads to, and how many logs that span's trace has by
                           its resource, as JSON
"""

import gzip
import http.server
import json
import sqlite3
import sys
import threading

SHAPES = {
    "/v1/logs": ("log", "resourceLogs", "scopeLogs", "logRecords"),
    "/v1/traces": ("span", "resourceSpans", "scopeSpans", "spans"),
    "/v1/metrics": ("metric", "resourceMetrics", "scopeMetrics", "metrics"),
}


ONE_AT_A_TIME = threading.Lock()


def value(any_value):
    (kind, held), = any_value.items()
    if kind == "arrayValue":
        return [value(v) for v in held.get("values", [])]
    if kind == "kvlistValue":
        return attributes(held.get("values", []))
    return int(held) if kind == "intValue" else held


def attributes(pairs):
    keys = [p["key"] for p in pairs]
    assert len(keys) == len(set(keys)), f"a key comes twice: {keys}"
    return {p["key"]: value(p["value"]) for p in pairs}


def check(signal, record):
    if signal == "log":
        assert int(record["timeUnixNano"]) > 0, record
        assert record.get("traceId", "") == "" or len(record["traceId"]) == 32, record
    elif signal == "span":
        assert len(record["traceId"]) == 32 and len(record["spanId"]) == 16, record
        assert int(record["endTimeUnixNano"]) >= int(record["startTimeUnixNano"]), record
    else:
        kinds = {"gauge", "sum", "histogram", "exponentialHistogram", "summary"} & set(record)
        assert len(kinds) == 1, record
        assert record[kinds.pop()]["dataPoints"], record


def serve(path):
    database = sqlite3.connect(path, check_same_thread=False)
    database.execute("CREATE TABLE resource (id INTEGER PRIMARY KEY, attributes TEXT UNIQUE)")
    database.execute("CREATE TABLE record (resource INTEGER, signal TEXT, name TEXT, trace TEXT, span TEXT, json TEXT)")
    database.execute("CREATE TABLE exemplar (metric TEXT, trace TEXT, span TEXT, value REAL, at INTEGER)")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            try:
                take(database, self.path, json.loads(body))
                status, answer = 200, b"{}"
            except Exception as error:  # whatever it is, the other side is wrong
                print(f"refused: {error!r}", file=sys.stderr)
                status, answer = 400, json.dumps({"code": 3, "message": repr(error)}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    # A connection for each signal, and each is kept.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


def take(database, path, request):
    signal, resources, scopes, records = SHAPES[path]
    with ONE_AT_A_TIME, database:
        for of_resource in request[resources]:
            held = attributes(of_resource["resource"]["attributes"])
            text = json.dumps(held, sort_keys=True)
            database.execute("INSERT OR IGNORE INTO resource (attributes) VALUES (?)", (text,))
            query = "SELECT id FROM resource WHERE attributes = ?"
            resource, = database.execute(query, (text,)).fetchone()
            for scope in of_resource[scopes]:
                for record in scope[records]:
                    check(signal, record)
                    ids = (record.get("traceId", ""), record.get("spanId", ""))
                    row = (resource, signal, record.get("name", ""), *ids, json.dumps(record))
                    database.execute("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", row)
                    if signal == "metric":
                        keep_exemplars(database, record)


def keep_exemplars(database, metric):
    for kind in ("gauge", "sum", "histogram"):
        for point in metric.get(kind, {}).get("dataPoints", []):
            # One for each bucket, at most.
            exemplars = point.get("exemplars", [])
            assert len(exemplars) <= max(1, len(point.get("bucketCounts", []))), point
            for e in exemplars:
                assert len(e["traceId"]) == 32 and len(e["spanId"]) == 16, e
                row = (metric["name"], e["traceId"], e["spanId"], float(e["asDouble"]), int(e["timeUnixNano"]))
                database.execute("INSERT INTO exemplar VALUES (?, ?, ?, ?, ?)", row)


def join(path):
    query = """
        SELECT attributes,
            sum(signal = 'log'), sum(signal = 'span'), sum(signal = 'metric')
        FROM resource JOIN record ON record.resource = resource.id
        GROUP BY resource.id
    """
    rows = sqlite3.connect(path).execute(query).fetchall()
    print(json.dumps([[json.loads(row[0]), *row[1:]] for row in rows]))


def exemplars(path):
    query = """
        SELECT DISTINCT exemplar.metric, exemplar.value, span.name, resource.attributes,
            (SELECT count(*) FROM record log
                WHERE log.signal = 'log' AND log.resource = span.resource AND log.trace = exemplar.trace)
        FROM exemplar
        JOIN record span ON span.signal = 'span' AND span.trace = exemplar.trace AND span.span = exemplar.span
        JOIN resource ON resource.id = span.resource
        ORDER BY exemplar.at
    """
    rows = sqlite3.connect(path).execute(query).fetchall()
    print(json.dumps([[*row[:3], json.loads(row[3]), row[4]] for row in rows]))


if __name__ == "__main__":
    {"serve": serve, "join": join, "exemplars": exemplars}[sys.argv[1]](sys.argv[2])
