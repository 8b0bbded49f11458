"""The report on a release in every form: for people, for a pull request, for machines."""

from __future__ import annotations

from tokenbuncher.report.figures import ReleaseFigures
from tokenbuncher.report.page import html_report
from tokenbuncher.report.pull_request import markdown_report

HTML_NAME, MARKDOWN_NAME, JSON_NAME = "report.html", "report.md", "report.json"


def documents(figures: ReleaseFigures) -> dict[str, str]:
    """The texts of report.html, report.md and report.json, by name."""
    return {
        HTML_NAME: html_report(figures),
        MARKDOWN_NAME: markdown_report(figures),
        JSON_NAME: figures.model_dump_json(indent=1) + "\n",
    }
