"""Text and tables in Markdown."""

from __future__ import annotations

import re

from tokenbuncher.report.cells import Table


def inline(text: str) -> str:
    """Text that stays text: one line, without Markdown or HTML of its own."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def table_lines(table: Table) -> list[str]:
    """A table, a line for each row."""
    return [
        "| " + " | ".join(table.header) + " |",
        "|" + "---|" * len(table.header),
        *("| " + " | ".join(inline(str(cell)) for cell in row) + " |" for row in table.rows),
    ]
