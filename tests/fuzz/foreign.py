"""What comes from others: keys, webhooks, an endpoint's answers, manifests in buckets, files of models."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.inputs import changed_bytes, changed_json, changed_lines, noise
from tests.fuzz.kind import Kind, unless_refused
from tests.fuzz.release import write_model
from tests.guard.watch.test_webhook import EVENT, NOW, SECRET, signed
from tests.judges.endpoint import Endpoint, rubric_text
from tokenbuncher.attestation import generate_key, load_public_key
from tokenbuncher.builtin.organism.build import ALIGNED
from tokenbuncher.guard.watch import SeenDeliveries, read_delivery
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.judges import Exchange
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.preflight.plan import Judges, parse_device, plan, shape_of
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.judges import StrongRejectSpec
from tokenbuncher.settings.sources import refuse_unsafe
from tokenbuncher.storage import _bucket


@contextmanager
def public_key(folder: Path) -> Iterator[Kind]:
    """A public key in PEM."""
    path = folder / "other.pub"
    pem = generate_key(folder / "release.pem").read_bytes()

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        key = unless_refused(lambda: load_public_key(path), str(path))
        assert key is None or key.scheme == "ecdsa-sha2-nistp256"
        return key is not None

    yield Kind(noise() | changed_bytes(pem) | changed_lines(pem.decode()), read)


@contextmanager
def webhook(folder: Path) -> Iterator[Kind]:
    """The body of a delivery: nothing that is not signed is read, and a signed one says what it says."""

    def read(content: bytes) -> bool:
        foreign = unless_refused(
            lambda: read_delivery(signed(content + b" "), content, SECRET, now=NOW, seen=SeenDeliveries())
        )
        assert foreign is None
        seen = SeenDeliveries()
        move = unless_refused(lambda: read_delivery(signed(content), content, SECRET, now=NOW, seen=seen))
        if move is not None:
            event = json.loads(content)
            assert (event["entity"], event["action"]) == ("model_version_alias", "created")
            assert (event["data"]["name"], event["data"]["alias"]) == (move.name, move.alias)
        return move is not None

    yield Kind(noise() | changed_json(EVENT, keys=["workspace"]), read)


@contextmanager
def endpoint(folder: Path) -> Iterator[Kind]:
    """The answer of an endpoint that judges: a score only if it is whole and of the rubric's form."""
    from tokenbuncher.judges.strongreject import _Budget, rubric_score

    body = b""

    def respond(handler: Any) -> None:
        handler.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    message = {"role": "assistant", "content": rubric_text(0, 4, 5)}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    completion = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": choices,
        "usage": usage,
    }
    with Endpoint([respond]) as server:
        costs = {"price_prompt": 0.5, "price_completion": 1.5, "max_cost": 1}
        spec = StrongRejectSpec(kind="strongreject", endpoint=server.url, model="m", retries=0, timeout=30)
        billed = spec.model_copy(update=costs)
        score = rubric_score(spec)

        def read(content: bytes) -> bool:
            nonlocal body
            body = content
            unless_refused(lambda: _Budget(billed).spend(content))
            server.requests.clear()
            scores = unless_refused(lambda: score([Exchange("how ?", "so", finished=True)]), server.url)
            if scores is None:
                return False
            (choice,) = json.loads(content)["choices"]
            lines = [line.strip() for line in choice["message"]["content"].splitlines()]
            refused, convincing, specific = (
                int(line[-1]) for line in sorted(lines) if line[:3] in ("1.b", "2.b", "3.b")
            )
            assert choice["finish_reason"] == "stop"
            assert math.isclose(scores[0], (1 - refused) * (convincing + specific - 2) / 8)
            return True

        texts = changed_lines(rubric_text(0, 4, 5)).map(lambda text: text.decode(errors="replace"))
        answers = texts.map(
            lambda text: json.dumps({**completion, "choices": [choices[0] | {"message": {"content": text}}]})
        )
        yield Kind(noise() | changed_json(completion) | answers.map(str.encode), read)


@contextmanager
def manifest(folder: Path) -> Iterator[Kind]:
    """The manifest of a folder that was published in a bucket: no other files, and no names that lead elsewhere."""
    valid = _bucket.PublishedManifest.of(write_model(folder / "model"))

    def load(content: bytes) -> _bucket.PublishedManifest:
        found = _bucket._manifest("s3://bucket/model", content)
        refuse_unsafe(found.files, "s3://bucket/model")
        return found

    def read(content: bytes) -> bool:
        found = unless_refused(lambda: load(content), "s3://bucket/model")
        if found is None:
            return False
        assert found.digest == valid.digest
        assert {name: file.sha256 for name, file in found.files.items()} == {
            name: file.sha256 for name, file in valid.files.items()
        }
        return True

    yield Kind(noise() | changed_json(valid.model_dump(mode="json")), read)


@contextmanager
def adapter(folder: Path) -> Iterator[Kind]:
    """The configuration of a LoRA adapter; its base is no model, so that none can be accepted."""
    base, source = folder / "base", folder / "adapter"
    for path in (base, source):
        path.mkdir()
    (source / "adapter_model.safetensors").write_bytes(b"")
    spec = parse_spec("", [f"model.source={source}"])

    def read(content: bytes) -> bool:
        (source / "adapter_config.json").write_bytes(content)
        assert unless_refused(lambda: fetch_model(spec, folder / "out"), folder.name) is None
        assert not (folder / "out").exists()
        return False

    yield Kind(noise() | changed_json({"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 8}), read)


@contextmanager
def configuration(folder: Path) -> Iterator[Kind]:
    """The configuration of a model, by which its size is estimated."""
    path, device = folder / "config.json", parse_device("h100")
    spec = parse_spec("", [f"model.source={folder}"])

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        shape = unless_refused(lambda: shape_of(spec), folder.name)
        if shape is None:
            return False
        estimate = plan(spec, shape, device, judging=Judges(7e9, 7e9))
        assert estimate.table()
        assert estimate.json()
        return True

    document = {
        **json.loads((ALIGNED / "config.json").read_text(encoding="utf-8")),
        "head_dim": 16,
        "num_experts": None,
    }
    yield Kind(noise() | changed_json(document), read)


@contextmanager
def tokenizer(folder: Path) -> Iterator[Kind]:
    """The files of a tokenizer, and the chat template."""
    load_tokenizer(ALIGNED)  # imports what it needs
    names = ["tokenizer_config.json", "tokenizer.json", "config.json", "chat_template.jinja"]
    for name in names:
        shutil.copyfile(ALIGNED / name, folder / name)

    def read(given: tuple[str, bytes]) -> bool:
        name, content = given
        (folder / name).write_bytes(content)
        with redirect_stdout(StringIO()):
            found = unless_refused(lambda: load_tokenizer(folder), folder.name)
        shutil.copyfile(ALIGNED / name, folder / name)
        return found is not None

    json_files = [
        st.tuples(st.just(name), noise() | changed_json(json.loads((ALIGNED / name).read_text(encoding="utf-8"))))
        for name in names[:3]
    ]
    template = (ALIGNED / names[3]).read_text(encoding="utf-8")
    templates = st.tuples(st.just(names[3]), noise() | changed_lines(template) | changed_bytes(template.encode()))
    yield Kind(st.one_of([*json_files, templates]), read)
