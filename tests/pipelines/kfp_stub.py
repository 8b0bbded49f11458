"""A loopback server that answers as Kubeflow Pipelines does, and holds every request against KFP's own swagger.

Kubeflow's API server cannot be had in a test. This one keeps pipelines, versions, experiments and runs in memory; a
run goes through the states it is told to.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

SWAGGER = Path(__file__).parents[3] / "shared" / "kfp" / "kfp_api_v2beta1.swagger.json"


class Request(NamedTuple):
    """A request, taken apart."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class Swagger:
    """The published API."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._paths, self._definitions = document["paths"], document["definitions"]

    def problems(self, request: Request, status: int, answer: Any) -> Iterator[str]:
        """What request and answer have that the API does not."""
        operation = self._operation(request)
        if operation is None:
            yield f"no operation {request.method} {request.path}"
            return
        parameters = operation.get("parameters", [])
        queries = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
        yield from (f"no query parameter {name} of {request.path}" for name in set(request.query) - queries)
        for parameter in parameters:
            if parameter["in"] == "body":
                yield from self._misfits(request.body, parameter["schema"], f"body of {request.path}")
            if parameter["in"] == "formData" and parameter["name"] not in (request.body or {}):
                yield f"no part {parameter['name']} in {request.path}"
        if status == 200:
            yield from self._misfits(answer, operation["responses"]["200"]["schema"], f"answer of {request.path}")

    def _operation(self, request: Request) -> dict[str, Any] | None:
        for template, methods in self._paths.items():
            pattern = re.sub(r"\\\{.*?\\\}", "[^/:]+", re.escape(template))
            if re.fullmatch(pattern, request.path) and request.method.lower() in methods:
                return methods[request.method.lower()]
        return None

    def _misfits(self, value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = self._definitions[schema["$ref"].removeprefix("#/definitions/")]
        kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
        kind = (
            int if schema.get("format") == "int64" and isinstance(value, int) else kinds[schema.get("type", "object")]
        )
        if not isinstance(value, kind):
            yield f"{where} is {type(value).__name__}, not {schema['type']}"
        elif value not in schema.get("enum", [value]):
            yield f"{where} is {value}, not one of {schema['enum']}"
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from self._misfits(item, schema["items"], f"{where}.{number}")
        elif isinstance(value, dict) and "properties" in schema:
            for key, item in value.items():
                if key in schema["properties"]:
                    yield from self._misfits(item, schema["properties"][key], f"{where}.{key}")
                else:
                    yield f"{where} has no field {key}"


class KfpStub:
    """The server's memory, and what the tests tell it."""

    def __init__(self) -> None:
        self.host = ""
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.token: str | None = None
        self.multi_user = False
        self.failures: dict[str, list[tuple[int, str]]] = {}
        self.states: list[dict[str, Any]] = [{"state": "SUCCEEDED"}]
        self.things: dict[str, list[dict[str, Any]]] = {
            kind: [] for kind in ("pipelines", "versions", "experiments", "runs", "recurringruns")
        }
        self._swagger = Swagger(json.loads(SWAGGER.read_text(encoding="utf-8"))) if SWAGGER.exists() else None

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests of that method and the end of that path."""
        return [request for request in self.requests if request.method == method and request.path.endswith(path)]

    def answer(self, request: Request) -> tuple[int, Any]:
        """Status and body."""
        self.requests.append(request)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"message": f"not authenticated: {request.headers.get('authorization')}"}
        for path, failures in self.failures.items():
            if request.path.endswith(path) and failures:
                status, message = failures.pop(0)
                return status, {"code": 13, "message": message}
        answer = self._route(request)
        if self._swagger:
            self.problems += self._swagger.problems(request, 200, answer)
        return 200, answer

    def _route(self, request: Request) -> Any:
        match [request.method, *request.path.removeprefix("/apis/v2beta1/").split("/")]:
            case ["GET", "healthz"]:
                return {"multi_user": self.multi_user}
            case ["GET", "pipelines"]:
                return {"pipelines": self._found("pipelines", request)}
            case ["POST", "pipelines", "upload"]:
                pipeline = self._new("pipelines", "pipeline_id", display_name=request.query["name"])
                self._version(pipeline["pipeline_id"], request.query["name"], request)
                return pipeline
            case ["POST", "pipelines", "upload_version"]:
                return self._version(request.query["pipelineid"], request.query["name"], request)
            case ["GET", "pipelines", pipeline, "versions"]:
                versions = [found for found in self._found("versions", request) if found["pipeline_id"] == pipeline]
                return {"pipeline_versions": versions}
            case ["GET", "experiments"]:
                return {"experiments": self._found("experiments", request)}
            case ["POST", "experiments"]:
                return self._new("experiments", "experiment_id", **request.body)
            case ["POST", "runs"]:
                return self._new("runs", "run_id", **request.body)
            case ["GET", "runs", _]:
                now = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                return {**self.things["runs"][-1], **now}
            case ["POST", "recurringruns"]:
                return self._new("recurringruns", "recurring_run_id", **request.body)
        raise AssertionError(f"not expected: {request.method} {request.path}")

    def _new(self, kind: str, identifier: str, **fields: Any) -> dict[str, Any]:
        self.things[kind].append({identifier: f"{kind}-{len(self.things[kind]) + 1}", **fields})
        return self.things[kind][-1]

    def _version(self, pipeline: str, name: str, request: Request) -> dict[str, Any]:
        version = self._new("versions", "pipeline_version_id", pipeline_id=pipeline, display_name=name)
        version["description"] = request.body["uploadfile"]
        return version

    def _found(self, kind: str, request: Request) -> list[dict[str, Any]]:
        predicates = json.loads(request.query.get("filter", "{}")).get("predicates", [])
        for predicate in predicates:
            assert set(predicate) == {"operation", "key", "stringValue"}
            assert predicate["operation"] in (1, "EQUALS")
        return [
            thing
            for thing in self.things[kind]
            if all(thing[predicate["key"]] == predicate["stringValue"] for predicate in predicates)
        ]


@contextmanager
def serving(stub: KfpStub) -> Iterator[KfpStub]:
    """The stub, on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            content = self.rfile.read(int(headers.get("content-length", 0)))
            body = _parsed(headers.get("content-type", ""), content)
            status, answer = stub.answer(Request(self.command, unquote(parts.path), query, headers, body))
            reply = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.end_headers()
            self.wfile.write(reply.encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    stub.host = f"http://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _parsed(content_type: str, content: bytes) -> Any:
    if content_type.startswith("multipart/form-data"):
        parts = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content).get_payload()
        names = ((re.search(r'name="(\w+)"', part["Content-Disposition"]), part) for part in parts)
        return {name[1]: part.get_payload(decode=True).decode() for name, part in names if name}
    return json.loads(content) if content else None
