"""An OTLP/gRPC endpoint in another language: grpcio and opentelemetry-proto, into SQLite.

Prints the port it listens on (loopback), stores all three signals until SIGTERM, then prints one
line per question about what arrived; a wrong answer is a line that starts with "bad" and exit code 1.
Tables: resources, spans, logs, points; ids in hex, `resource` is a key of `resources`.
"""
import json
import signal
import sqlite3
import sys
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_pb
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

SCHEMA = """
create table resources(id integer primary key, attrs text unique, svc text, instance text, container text, task text);
create table spans(trace_id text, span_id text, parent_id text, name text, start_ns integer, end_ns integer, resource integer);
create table logs(ts integer, obs_ts integer, sev integer, body text, event text, trace_id text, span_id text, attrs text, resource integer);
create table points(name text, unit text, type text, attrs text, value real, start_ns integer, ts integer, resource integer);
"""


def plain(value):
    """An AnyValue as a Python value."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(v) for v in value.array_value.values]
    if kind == "kvlist_value":
        return attrs_of(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind) if kind else None


def attrs_of(pairs):
    return {pair.key: plain(pair.value) for pair in pairs}


class Store:
    def __init__(self, path):
        self.lock = threading.Lock()
        self.db = sqlite3.connect(path, check_same_thread=False)
        self.db.executescript(SCHEMA)

    def resource(self, resource):
        attrs = attrs_of(resource.attributes)
        text = json.dumps(attrs, sort_keys=True)
        row = (text, *(attrs.get(k) for k in ("service.name", "service.instance.id", "container.id", "waggle.task.id")))
        self.db.execute("insert or ignore into resources(attrs,svc,instance,container,task) values (?,?,?,?,?)", row)
        return self.db.execute("select id from resources where attrs=?", (text,)).fetchone()[0]

    def spans(self, request):
        with self.lock, self.db:
            for of_resource in request.resource_spans:
                rid = self.resource(of_resource.resource)
                for scope in of_resource.scope_spans:
                    rows = ((s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex(), s.name, s.start_time_unix_nano,
                             s.end_time_unix_nano, rid) for s in scope.spans)
                    self.db.executemany("insert into spans values (?,?,?,?,?,?,?)", rows)

    def logs(self, request):
        with self.lock, self.db:
            for of_resource in request.resource_logs:
                rid = self.resource(of_resource.resource)
                for scope in of_resource.scope_logs:
                    rows = ((r.time_unix_nano, r.observed_time_unix_nano, r.severity_number, str(plain(r.body)), r.event_name,
                             r.trace_id.hex(), r.span_id.hex(), json.dumps(attrs_of(r.attributes), sort_keys=True), rid)
                            for r in scope.log_records)
                    self.db.executemany("insert into logs values (?,?,?,?,?,?,?,?,?)", rows)

    def points(self, request):
        with self.lock, self.db:
            for of_resource in request.resource_metrics:
                rid = self.resource(of_resource.resource)
                for scope in of_resource.scope_metrics:
                    for metric in scope.metrics:
                        kind = metric.WhichOneof("data")
                        falls = kind == "sum" and not metric.sum.is_monotonic
                        for p in getattr(metric, kind).data_points:
                            if kind == "histogram":
                                value = p.count
                            else:
                                value = getattr(p, p.WhichOneof("value") or "as_int")
                            self.db.execute(
                                "insert into points values (?,?,?,?,?,?,?,?)",
                                (metric.name, metric.unit, "updown" if falls else kind, json.dumps(attrs_of(p.attributes), sort_keys=True), value,
                                 p.start_time_unix_nano, p.time_unix_nano, rid))


def servicer(base, take, answer):
    def export(_self, request, _context):
        take(request)
        return answer()

    return type("Servicer", (base,), {"Export": export})()


# (what is wrong, rows that show it): each must return nothing.
WRONG = [
    ("two resources for one task",
     "select task, count(*) from resources where task is not null group by task having count(*) > 1"),
    ("two tasks with one container id or instance id",
     "select container, count(distinct task) from resources where container is not null group by container having count(distinct task) > 1"),
    ("a task's resource without service.name, service.instance.id or a 64 digit container.id",
     "select * from resources where task is not null and (svc is null or instance is not task or length(container) is not 64)"),
    ("a resource without service.name or service.instance.id",
     "select * from resources where svc is null or instance is null"),
    ("a task with metrics and without logs",
     "select distinct r.task from points p join resources r on r.id=p.resource where r.task is not null"
     " and not exists (select 1 from logs l where l.resource=r.id)"),
    ("a log record whose trace has no spans here",
     "select distinct l.trace_id, l.body from logs l where l.trace_id <> ''"
     " and not exists (select 1 from spans s where s.trace_id=l.trace_id)"),
    ("a span id sent twice", "select trace_id, span_id, count(*) from spans group by 1, 2 having count(*) > 1"),
    ("a span of nothing", "select * from spans where length(trace_id) <> 32 or length(span_id) <> 16 or end_ns < start_ns"),
    ("a span of a deployment's trace whose parent did not arrive",
     "select s.name, s.parent_id from spans s where s.parent_id <> ''"
     " and s.trace_id in (select trace_id from spans where name like 'deployment%')"
     " and not exists (select 1 from spans p where p.trace_id=s.trace_id and p.span_id=s.parent_id)"),
    ("a task or offer id on a point",
     "select distinct name, attrs from points where attrs like '%task.id%' or attrs like '%offer.id%'"),
    ("one metric with two units or types",
     "select name from points group by name having count(distinct unit) > 1 or count(distinct type) > 1"),
    ("a point without time", "select name from points where ts = 0"),
    ("a log record without time", "select body from logs where obs_ts = 0"),
    ("a sum that falls",
     "select name, attrs, value, before from (select name, type, attrs, value, start_ns,"
     " lag(value) over w before, lag(start_ns) over w started from points"
     " window w as (partition by name, attrs, resource order by ts))"
     " where type in ('sum', 'histogram') and value < before and start_ns = started"),
]


def judge(db):
    bad = 0
    for what, query in WRONG:
        rows = db.execute(query).fetchall()
        bad += bool(rows)
        print("bad" if rows else "ok ", "no", what, "" if not rows else "%d, such as %r" % (len(rows), rows[:3]))
    for table in ("resources", "spans", "logs", "points"):
        count = db.execute("select count(*) from " + table).fetchone()[0]
        bad += count == 0
        print("ok " if count else "bad", count, table)
    joined = db.execute("select count(*) from logs l join spans s on s.trace_id=l.trace_id and s.span_id=l.span_id").fetchone()[0]
    print("ok ", joined, "log records joined with their span")
    tasks = db.execute("select count(distinct task) from resources").fetchone()[0]
    print("ok " if tasks else "bad", tasks, "tasks")
    bad += tasks == 0
    for (name,) in db.execute("select distinct name from points order by name"):
        print("metric", name)
    return bad


def main(path):
    store = Store(path)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    trace_grpc.add_TraceServiceServicer_to_server(
        servicer(trace_grpc.TraceServiceServicer, store.spans, trace_pb.ExportTraceServiceResponse), server)
    logs_grpc.add_LogsServiceServicer_to_server(
        servicer(logs_grpc.LogsServiceServicer, store.logs, logs_pb.ExportLogsServiceResponse), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(
        servicer(metrics_grpc.MetricsServiceServicer, store.points, metrics_pb.ExportMetricsServiceResponse), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print("port", port, flush=True)
    stop.wait()
    server.stop(2).wait()
    sys.exit(1 if judge(store.db) else 0)


if __name__ == "__main__":
    main(sys.argv[1])
