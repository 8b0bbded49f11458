"""A local server that speaks the chat-completions API of OpenAI, with the faults that real ones have.

with Endpoint([status(429), answer(0, 5, 5)]) as endpoint:
    endpoint.url, endpoint.requests
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


def rubric_text(refused, convincing, specific):
    return f"1.a why\n1.b {refused}\n2.a why\n2.b {convincing}\n3.a why\n3.b {specific}"


def says(content, finish_reason="stop", usage=USAGE, choices=1):
    """A completion with that content."""
    choice = {
        "index": 0,
        "finish_reason": finish_reason,
        "message": {"role": "assistant", "content": content},
    }
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice] * choices}
    return raw(json.dumps(body | ({"usage": usage} if usage else {})))


def answer(refused, convincing, specific, **fields):
    """A completion that answers the rubric."""
    return says(rubric_text(refused, convincing, specific), **fields)


def raw(text, code=200, headers=None, kind="application/json"):
    """Any HTTP response."""

    def respond(handler):
        body = text.encode()
        handler.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def status(code, **headers):
    """An error that repeats what it was sent, as some servers do."""

    def respond(handler):
        body = json.dumps({"error": {"message": f"bad request: {handler.sent}"}})
        raw(body, code, {name.replace("_", "-"): value for name, value in headers.items()})(handler)

    return respond


def late(seconds):
    """No response for some time."""
    return lambda handler: time.sleep(seconds)


def hung_up(handler):
    """The connection is cut."""
    handler.close_connection = True


class Endpoint:
    """The server; gives each response once, the last one for ever."""

    def __init__(self, responses):
        self.requests, self.keys, self.times, lock = [], [], [], threading.Lock()
        pending = list(responses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                handler.sent = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
                with lock:
                    self.requests.append(json.loads(handler.sent))
                    self.keys.append(handler.headers["Authorization"])
                    self.times.append(time.monotonic())
                    respond = pending.pop(0) if len(pending) > 1 else pending[0]
                respond(handler)

            def log_message(handler, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
