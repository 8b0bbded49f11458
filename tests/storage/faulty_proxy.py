"""A proxy in front of an S3 server, or another, that makes trouble."""

import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(ThreadingHTTPServer):
    """Forwards to an S3 server, logs what is asked, and makes trouble where a test wants it."""

    daemon_threads = True

    def __init__(self, upstream):
        self.upstream = upstream
        self.asked = []
        self.faults = []
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Forward)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def fault(self, asked, act, times=1):
        """Lets `act` answer requests that match, a number of times."""
        self.faults.append([re.compile(asked), act, times])

    def answerer(self, asked):
        with self.lock:
            self.asked.append(asked)
            for fault in self.faults:
                if fault[2] and fault[0].search(asked):
                    fault[2] -= 1
                    return fault[1]
        return Forward.pass_on

    def count(self, asked):
        return sum(bool(re.search(asked, line)) for line in self.asked)


class Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.answerer(f"{self.command} {self.path}")(self)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def fetch(self, without=()):
        upstream = http.client.HTTPConnection(self.server.upstream)
        kept = {name: value for name, value in self.headers.items() if name not in ("Expect", *without)}
        upstream.request(self.command, self.path, self.body, kept)
        answer = upstream.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def reply(self, status, headers, body, sent=None):
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if sent is None else body[:sent])

    def pass_on(self):
        # Real servers decide one write after another; the one for tests does not.
        with self.server.lock if self.headers.get("If-None-Match") else threading.Lock():
            answer = self.fetch()
        self.reply(*answer)

    def log_message(self, *_):
        pass


def refuse(status, code):
    def act(forward):
        body = f"<Error><Code>{code}</Code><Message>said the server</Message></Error>".encode()
        forward.reply(status, [("Content-Length", str(len(body))), ("Content-Type", "application/xml")], body)

    return act


def hang_up(forward):
    forward.close_connection = True


def hang_up_halfway(forward):
    status, headers, body = forward.fetch()
    forward.reply(status, headers, body, sent=len(body) // 2)
    forward.close_connection = True


def hang_up_when_done(forward):
    forward.fetch()
    forward.close_connection = True


def corrupt(forward):
    status, headers, body = forward.fetch()
    forward.reply(status, headers, bytes([body[0] ^ 1]) + body[1:])


def ignore_conditions(forward):
    forward.reply(*forward.fetch(without=("If-None-Match",)))
