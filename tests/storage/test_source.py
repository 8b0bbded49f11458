"""URIs of folders."""

import re

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.settings.sources import parse_source


@pytest.mark.parametrize(
    ("uri", "telling"),
    [
        ("gopher://model", "use a local folder, file://, s3://"),
        ("runs:/1/model", "use a local folder"),
        ("s3://bucket", "write s3://bucket/prefix"),
        ("s3:/bucket/prefix", "write s3://bucket/prefix"),
        ("models:/name", "write models:/name/version or models:/name@alias"),
        ("models:/name/latest", "write models:/name/version"),
        ("hf://org/name", "write hf://org/name@revision"),
        ("hf://org/name@", "write hf://org/name@revision"),
        ("file://host/folder", "write file:///folder"),
        ("s3://bucket/prefix#sha256=abc", "64 hex digits"),
    ],
)
def test_a_uri_of_no_known_form_is_refused(uri, telling):
    with pytest.raises(UserError, match=re.escape(telling)):
        parse_source(uri)
