"""Names with characters that mean something to a registry, a shell, YAML, Markdown or HTML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from securesystemslib.signer import CryptoSigner

from tests.evidence_factory import changed, passing_release
from tests.registry.conftest import Registered, candidate, enter, spec  # noqa: F401
from tokenbuncher.attestation import generate_key, load_private_key
from tokenbuncher.cli import main
from tokenbuncher.core.errors import UserError
from tokenbuncher.gate import conclude
from tokenbuncher.registry import rollback, status, verify_version
from tokenbuncher.report import card, documents, junit, release_figures
from tokenbuncher.settings import ReleaseSpec, load_spec, parse_spec
from tokenbuncher.settings.init import write_spec
from tokenbuncher.verdict import judge_release

Enter = Callable[..., Registered]
NAMES = [
    "it's",
    "'quoted'",
    "O'Brien's 100% model_v2",
    'say "hi"',
    "x' or name = 'plain",
    "back\\slash",
    "tick`s; $(id) | # *x* <b>&amp;",
    "a@b",
    "größe 日本",
    "- {x; [y]}",
]


@pytest.fixture
def key(tmp_path: Path) -> CryptoSigner:
    generate_key(tmp_path / "key.pem")
    return load_private_key(tmp_path / "key.pem")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_any_name_goes_through_registration_promotion_and_the_way_back(
    name: str,
    enter: Enter,  # noqa: F811
    spec: ReleaseSpec,  # noqa: F811
    key: CryptoSigner,
) -> None:
    spec = parse_spec(spec.to_yaml(), [f"tracking.model_name={json.dumps(name)}"])
    first, second = enter(spec, signer=key), enter(spec, signer=key)
    first.promote()
    second.promote()
    assert [line.split()[0] for line in status(spec).splitlines()[2:]] == ["2", "1"]

    rollback(spec, [key.public_key])
    assert second.champion == "1"
    for uri in (f"models:/{name}/1", f"models:/{name}@champion"):
        statement, problems = verify_version(uri, [key.public_key], spec.tracking_uri())
        assert (statement.predicate.model, statement.predicate.version, problems) == (name, "1", [])


@pytest.mark.parametrize("name", ["it's", 'say "hi"', "x' or name = 'plain", "100% a_b\\ ü?&=#"])
def test_the_same_goes_through_a_server(
    name: str,
    mlflow_server: str,
    enter: Enter,  # noqa: F811
    spec: ReleaseSpec,  # noqa: F811
    key: CryptoSigner,
) -> None:
    tracking = {"uri": mlflow_server, "model_name": name}
    spec = parse_spec(spec.to_yaml(), [f"tracking={json.dumps(tracking)}"])
    first, second = enter(spec, signer=key), enter(spec, signer=key)
    first.promote()
    second.promote()
    rollback(spec, [key.public_key])

    assert [line.split()[0] for line in status(spec).splitlines()[2:]] == ["2", "1"]
    assert second.champion == "1"


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "models:x", ".", "..", " a", "a ", "a\nb", "a\tb", "a\u2028b", "a\x7f", "x" * 257, "'\""]
)
def test_a_name_that_mlflow_cannot_keep_or_look_up_is_refused_at_once(name: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.model_name: "):
        parse_spec("", [f"tracking.model_name={json.dumps(name)}"])


@pytest.mark.parametrize("alias", ["", "latest", "Latest", "LATEST", "v1", "V12", "1", "a b", "a/b", "a@b", "x" * 256])
def test_an_alias_that_mlflow_refuses_is_refused_at_once(alias: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.alias: "):
        parse_spec("", [f"tracking.alias={json.dumps(alias)}"])


class Tags(HTMLParser):
    """The tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


@cache
def written(name: str) -> dict[str, str]:
    """The documents of a verdict on a model of that name."""
    release = passing_release()
    registration = changed(release.registration, name=name, version="3")
    verdict = judge_release(release.spec, release.evidence, registration, unreadable=[])
    return {
        **documents(release_figures(release.spec, verdict, release.evidence)),
        "card.md": card(release.spec, verdict, release.evidence, signed=True),
        "junit.xml": junit(release.spec.policy, verdict),
    }


@pytest.mark.parametrize("name", [*NAMES, "</title><script>x</script>", "a | b\\", "<!-- x", "![x](http://x)"])
def test_the_documents_of_a_verdict_hold_any_name_as_text(name: str) -> None:
    plain, found = written("plain"), written(name)

    assert Tags(found["report.html"]).found == Tags(plain["report.html"]).found
    for document in ("report.md", "card.md"):
        assert len(found[document].splitlines()) == len(plain[document].splitlines())
    command = next(line for line in found["card.md"].splitlines() if "verify" in line and "models:/" in line)
    assert shlex.split(command)[2] == f"models:/{name}/3"
    assert name in ElementTree.fromstring(found["junit.xml"]).attrib["name"]
    assert json.loads(found["report.json"])


def test_the_page_of_a_judged_run_on_kubeflow_holds_any_name_as_text(tmp_path: Path) -> None:
    release = passing_release()
    registration = changed(release.registration, name="<script>x</script>")
    verdict = judge_release(release.spec, release.evidence, registration, unreadable=[])
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "verdict.json").write_text(verdict.model_dump_json(), encoding="utf-8")
    conclude(release.spec, str(tmp_path / "outputs"), "", report=tmp_path / "report.html")

    assert "script" not in Tags((tmp_path / "report.html").read_text(encoding="utf-8")).found


@pytest.mark.parametrize(
    "name", ["it's mine.yaml", "a b.yaml", "#x.yaml", "$(id).yaml", "- a: b.yaml", "{{ x }}.yaml", "%}.yaml"]
)
def test_a_spec_begun_in_a_file_of_any_name_is_valid_and_tells_commands_that_work(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    result = CliRunner().invoke(main, ["init", "--model", "organism", "--out", str(path)])

    assert result.exit_code == 0, result.output
    assert load_spec(path) == load_spec("specs/organism.yaml")
    commands = [
        line.partition("#   ")[2]
        for line in path.read_text(encoding="utf-8").splitlines()
        if "tokenbuncher doctor" in line
    ]
    assert shlex.split(commands[0])[:4] == ["tokenbuncher", "doctor", "--spec", str(path)]


def test_a_spec_is_not_begun_in_a_file_whose_name_would_end_the_comment(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no comment can hold"):
        write_spec("organism", tmp_path / "a\nname: other")


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_written_out_has_any_name_as_it_was(name: str) -> None:
    spec = parse_spec("", [f"tracking.model_name={json.dumps(name)}"])  # noqa: F811

    assert yaml.safe_load(spec.to_yaml())["tracking"]["model_name"] == name
    assert parse_spec(spec.to_yaml()) == spec
