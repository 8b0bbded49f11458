"""Tracking URIs of MLflow: the forms that every stage can use, and suggestions for all others."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import unquote

from tokenbuncher.core.errors import UserError
from tokenbuncher.core.passwords import HIDDEN, has_password, masked

SQLITE = "sqlite:///"
FORMS = "http://HOST:PORT, https://HOST or sqlite:///FILE"
LOG_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_HOST = r"(?:[^\s/?#@:\[\]\\]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
_SERVER = re.compile(rf"https?://{_HOST}(?:/[^\s/?#@\\]+)*/?")
_DATABASE = re.compile(
    rf"(?:postgresql|mysql|mssql)(?:\+\w+)?://(?:[^\s/?#@:]+(?::[^\s/?#@:]*)?@)?(?:{_HOST})?/[^\s?#@:]*(?:\?\S*)?"
)
_OTHER_NAMES = {"postgres": "postgresql", "mariadb": "mysql+pymysql", "mlflow": "http"}


def checked_tracking_uri(uri: str) -> str:
    """The tracking URI, if it is of a form that every stage can use.

    Raises:
        UserError: If it is of another form. The message suggests what to write.
    """
    match = _SERVER.fullmatch(uri) or _DATABASE.fullmatch(uri)
    if match:
        problem = "" if 0 < int(match["port"] or 1) < 65536 else f"there is no port {match['port']}"
    else:
        problem = _of_a_file(uri) if uri.startswith(SQLITE) else _of_no_form(uri)
    if problem:
        raise UserError(f"'{_shown(uri)}' is no tracking URI that can be used: {problem}")
    return uri


def _shown(uri: str) -> str:
    """The URI without what stands before a host, also where the scheme was left out."""
    return masked(re.sub(r"^\s*/*[^\s/:@]*:(?!/).*@(?!sha)", f"{HIDDEN}@", uri, flags=re.DOTALL))


def refuse_password(uri: str) -> None:
    """Checks that a tracking URI that is written down with a release has no password or token.

    Raises:
        UserError: If it has one. The message says where the password belongs.
    """
    if not has_password(uri):
        return
    if uri.lower().startswith("http"):
        advice = f"{LOG_IN}, instead"
    elif uri.startswith("postgresql"):
        advice = "leave it out and set PGPASSWORD or PGPASSFILE, or name the URL of an MLflow server that has it"
    else:
        advice = "name the URL of an MLflow server that has it: `mlflow server --backend-store-uri ...`"
    raise UserError(f"{masked(uri)} holds a password or token, which would be written down with the release; {advice}")


def sqlite_uri(path: Path) -> str:
    """The URI of a database file; a relative path counts from the working folder, as it does for MLflow."""
    return SQLITE + str(path.absolute()).replace("%", "%25").replace("?", "%3F")


def sqlite_path(uri: str) -> Path | None:
    """The database file that a URI names; None if it names none."""
    return Path(unquote(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def absolute(uri: str) -> str:
    """The URI with the whole path of a database file: what is recorded must mean the same in another folder."""
    path = sqlite_path(uri)
    return uri if path is None else sqlite_uri(path)


def _of_a_file(uri: str) -> str:
    """What is wrong with the URI of an sqlite file; empty if nothing is."""
    path = uri.removeprefix(SQLITE)
    if path.lstrip("/").startswith("~"):
        return "it begins with ~, which only a shell expands; write the whole path, four slashes before its first name"
    if path != path.strip():
        return _write(SQLITE + path.strip())
    if not path or path.endswith("/"):
        return f"it names no file; write {SQLITE}mlflow.db, or {SQLITE}/FOLDER/mlflow.db"
    if path == ":memory:":
        return f"what is in memory ends with each stage; write {SQLITE}mlflow.db"
    if "?" in path:
        return f"options do not go with it; {_write(SQLITE + path.partition('?')[0])}"
    return ""


def _of_no_form(uri: str) -> str:
    """What is wrong with a URI of none of the forms."""
    text = uri.strip()
    scheme, separator, rest = text.partition(":")
    scheme, path = scheme.lower(), rest.lstrip("/")
    if not text:
        return "it is empty; leave it out, and releases register in an sqlite file under output.root"
    if re.fullmatch(r"[\w.-]+:\d+(/\S*)?|[\w-]+(\.[\w-]+)+(/\S*)?", text) and not text.endswith(".db"):
        return _write(f"http://{text}")
    if slip := re.fullmatch(r"(https?)[:/]+([^\s/].*)", text, re.IGNORECASE):
        return _of_a_server(slip[1].lower(), slip[2])
    if re.fullmatch(r"sqlite(\+\w+)?", scheme):
        is_whole = len(rest) - len(path) in (1, 4)
        return _write(f"{SQLITE}{'/' if is_whole else ''}{path}") if path else _of_a_file(SQLITE)
    if scheme in _OTHER_NAMES:
        return _write(f"{_OTHER_NAMES[scheme]}://{path}")
    if re.fullmatch(r"(postgresql|mysql|mssql)(\+\w+)?", scheme):
        if hosts := re.match(r"(?:[^@/]*@)?([^@/,]+(?:,[^@/,]+)+)/", path):
            named = "&".join(f"host={host}" for host in hosts[1].split(","))
            return f"SQLAlchemy takes several hosts as parameters alone: write {scheme}://USER@/DATABASE?{named}"
        return "write it as SCHEME://USER@HOST:PORT/DATABASE, with special characters percent-encoded"
    if scheme in ("databricks", "databricks-uc", "uc"):
        return f"registries of Databricks are not supported; write {FORMS}"
    if scheme == "file" or not separator:
        return _of_a_folder(f"/{path}" if scheme == "file" else text)
    meant = get_close_matches(scheme, ("http", "https", "sqlite", "postgresql", "mysql"), n=1)
    return _write(f"{meant[0]}:{rest}" if meant else "")


def _of_a_folder(path: str) -> str:
    file = path if path.endswith(".db") else f"{path.rstrip('/')}/mlflow.db"
    return f"MLflow keeps no registry in plain folders; {_write(SQLITE + file.removeprefix('./'))}, or {FORMS}"


def _of_a_server(scheme: str, rest: str) -> str:
    if "@" in rest.partition("/")[0]:
        return f"names and passwords do not belong in it; {LOG_IN}"
    return _write(f"{scheme}://" + re.sub("/{2,}", "/", re.split(r"[?#\s\\]", rest)[0]).rstrip("/"))


def _write(uri: str) -> str:
    """What to write: that URI, if it is of a form, else any that is."""
    forms = _SERVER.fullmatch(uri) or _DATABASE.fullmatch(uri) or uri.startswith(SQLITE)
    return f"write {uri if forms else FORMS}"
