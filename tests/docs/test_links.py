"""Links lead somewhere, and files that the text names are there."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.docs.markdown import ROOT, Document, documents
from tokenbuncher.core.stages import COMMANDS

each_document = pytest.mark.parametrize("document", documents(), ids=str)
TREE = r"(?:tokenbuncher|components|pipelines|specs|docs|examples|manifests|images|tests|benchmarks)/[\w./-]*"
TO_BE_WRITTEN = {"docs/extending.md"}
"""Documents that name files which the reader is to write."""
NO_FILES = {"tokenbuncher/v1"}


@each_document
def test_links(document: Document) -> None:
    for link in document.links:
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.exists(), f"{document}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{document}: {link} leads out of the repository"
        if anchor:
            assert anchor in Document(target).anchors, f"{document}: {link}, but {path} has {Document(target).anchors}"


@each_document
def test_files_that_the_text_names(document: Document) -> None:
    for code in document.inline:
        if re.fullmatch(TREE, code) and code not in NO_FILES and document.name not in TO_BE_WRITTEN:
            places = ROOT / code, document.path.parent / code
            assert any(place.exists() for place in places), f"{document}: there is no {code}"


def test_every_guide_can_be_found() -> None:
    index = Document(ROOT / "docs" / "README.md")
    listed = {(index.path.parent / link).resolve() for link in index.links}
    assert set(ROOT.glob("docs/*.md")) - {index.path} <= listed


def test_the_picture_has_every_stage() -> None:
    """And is a picture: well-formed, without scripts, nothing from elsewhere."""
    picture = ElementTree.parse(ROOT / "docs" / "pipeline.svg")
    drawn = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert set(COMMANDS) <= drawn
    assert "script" not in {element.tag.rpartition("}")[2] for element in picture.iter()}
    assert not re.search(r"(href|src)=|url\((?!#)", Path(ROOT / "docs" / "pipeline.svg").read_text(encoding="utf-8"))
