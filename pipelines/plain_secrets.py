"""Finds secrets in the plain text of a compiled pipeline, which anyone who sees a run can read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.graph import Problem

ADVICE = "name a Secret and its key in the placement (secret_env, secret_files), and have what is written here replaced"

_ANYWHERE = {
    "an AWS access key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "a JSON web token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.",
    "a password in a URL": r"://[^/\s:@]+:[^/\s:@]+@",
}
# Not in code, where a variable may be called that; and `secret:` names a Secret.
_OUTSIDE_CODE = {
    "a password or token": r"(?i)\b(password|passwd|passphrase|token|api[_-]?key)\s*[=:]\s*(?!null\b)[^\s{$]{4,}"
}
_SECRET_NAME = re.compile(r"(?i)(KEY|TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIALS?)(_ID)?$")


def plain_secrets(document: Any, where: str = "") -> Iterator[Problem]:
    """Every place of a document that holds what looks like a secret.

    Args:
        document: Anything parsed from YAML.
        where: Path of it in the whole.
    """
    if isinstance(document, str):
        in_code = re.search(r"\.(command|description)(\.\d+)?$", where)
        for what, pattern in (_ANYWHERE if in_code else _ANYWHERE | _OUTSIDE_CODE).items():
            if re.search(pattern, document):
                yield Problem(where, f"holds what looks like {what}; {ADVICE}")
                return
    elif isinstance(document, list):
        for number, item in enumerate(document):
            yield from plain_secrets(item, f"{where}.{number}".lstrip("."))
    elif isinstance(document, dict):
        name, value = document.get("name"), document.get("value")
        if isinstance(name, str) and isinstance(value, str) and _is_secret(name, value):
            yield Problem(where, f"gives {name} a literal value; {ADVICE}")
            return
        for key, item in document.items():
            yield from plain_secrets(item, f"{where}.{key}".lstrip("."))


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable of that name gives away its value; a path does not."""
    return bool(value and _SECRET_NAME.search(name)) and not value.startswith("/")
