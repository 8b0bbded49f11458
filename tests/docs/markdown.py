"""What the documents hold: blocks of code, commands, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r" *```(?P<language>\S*)")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^)]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A block of code."""

    document: str
    """Path of the document in the repository."""
    line: int
    """Of its first line of code, from 1."""
    language: str
    """As the fence says; `indented` without a fence."""
    lines: list[str]
    caption: str
    """The last line of text before it."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


class Command(NamedTuple):
    """A command that a reader is to type."""

    place: str
    """Document and line."""
    text: str
    """Without comments, its lines joined."""
    shown: list[str]
    """What it prints, where the document shows that."""


class Document:
    """A Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.relative_to(ROOT).as_posix()
        self._lines = path.read_text(encoding="utf-8").splitlines()

    def __str__(self) -> str:
        return self.name

    @cached_property
    def blocks(self) -> list[Block]:
        """Its blocks of code, fenced or indented."""
        return list(self._blocks())

    @cached_property
    def prose(self) -> str:
        """The text without its blocks."""
        inside = {line for b in self.blocks for line in range(b.line - 1, b.line + len(b.lines) + 1)}
        return "\n".join("" if number in inside else line for number, line in enumerate(self._lines, start=1))

    def _blocks(self) -> Iterator[Block]:
        number, caption = 0, ""
        while number < len(self._lines):
            line = self._lines[number]
            fence = _FENCE.match(line)
            if fence:
                end = next(i for i in range(number + 1, len(self._lines)) if self._lines[i].strip() == "```")
                yield Block(self.name, number + 2, fence["language"], self._lines[number + 1 : end], caption)
                number = end
            elif line.startswith("    ") and not self._lines[number - 1].strip():
                end = number
                while end < len(self._lines) and self._lines[end].startswith("    "):
                    end += 1
                own = [line[4:] for line in self._lines[number:end]]
                yield Block(self.name, number + 1, "indented", own, caption)
                number = end
            elif line.strip():
                caption = line.strip()
            number += 1

    @property
    def links(self) -> list[str]:
        """Targets of its links and pictures."""
        joined = re.sub(r"\(\n", "(", re.sub(r"\]\n\(", "](", self.prose))
        return [match["target"].strip() for match in _LINK.finditer(joined)]

    @property
    def inline(self) -> list[str]:
        """Code within its text."""
        return _INLINE.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What GitHub makes of its headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def documents() -> list[Document]:
    """Everything that is written for people, but for the components' generated pages."""
    return [
        Document(path)
        for path in [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("manifests/*.md"))]
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a block. In a `console` block they begin with `$ `, and the rest is what they print."""
    found: list[Command] = []
    number = 0
    while number < len(block.lines):
        line, first = block.lines[number], number
        while line.endswith("\\") and number + 1 < len(block.lines):
            number += 1
            line = f"{line[:-1].rstrip()} {block.lines[number].strip()}"
        number += 1
        place = f"{block.document}:{block.line + first}"
        if block.language == "console" and not line.startswith("$ "):
            found[-1].shown.append(line)
        elif text := re.sub(r"(^|\s)#\s.*$", "", line.removeprefix("$ ")).strip():
            found.append(Command(place, text, []))
    return found
