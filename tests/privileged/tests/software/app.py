"""A web app as small as they come: it counts its visitors in Redis, by the protocol itself."""

import http.server
import os
import socket

REDIS = ("redis.marathon.l4lb.thisdcos.directory", 6379)


def ask(*words):
    with socket.create_connection(REDIS, 5) as s:
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words]
        s.sendall(b"".join(parts))
        return s.makefile("rb").readline().strip().decode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/healthz":
            body = b"ok\n"
        else:
            count = ask("INCR", "visitors").lstrip(":")
            body = f"visitor {count} of {os.environ['MESOS_TASK_ID']} as {os.getuid()}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
