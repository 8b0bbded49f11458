"""A bucket behind a proxy, and a model in it."""

import hashlib
import threading

import pytest

from tests.storage.faulty_proxy import Proxy
from tests.storage.model_files import FILES, PART, write


@pytest.fixture
def proxy(s3, monkeypatch, slept):
    """Between tries of what it spoils nobody waits."""
    proxy = Proxy(s3.meta.endpoint_url.removeprefix("http://"))
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    monkeypatch.setattr("tokenbuncher.storage._bucket.PART", PART)
    yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def bucket(s3, request):
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model")


@pytest.fixture
def uploaded(s3, bucket):
    """The model as other tools put it there."""
    for name, content in FILES.items():
        s3.put_object(Bucket=bucket, Key=f"base/{name}", Body=content)
    return f"s3://{bucket}/base"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"
