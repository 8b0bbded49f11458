"""Reports on a release: HTML, Markdown, JSON, a model card, JUnit XML, a table for the terminal; two side by side."""

from tokenbuncher.report.card import CARD_NAME, card
from tokenbuncher.report.compare import MARK as COMPARISON_MARK
from tokenbuncher.report.compare import compare_report
from tokenbuncher.report.defence import defence_figures
from tokenbuncher.report.documents import HTML_NAME, JSON_NAME, MARKDOWN_NAME, documents
from tokenbuncher.report.figures import ReleaseFigures
from tokenbuncher.report.junit import junit
from tokenbuncher.report.red_team import red_team_report
from tokenbuncher.report.release import broken_figures, release_figures
from tokenbuncher.report.terminal import failures

__all__ = [
    "CARD_NAME",
    "COMPARISON_MARK",
    "HTML_NAME",
    "JSON_NAME",
    "MARKDOWN_NAME",
    "ReleaseFigures",
    "broken_figures",
    "card",
    "compare_report",
    "defence_figures",
    "documents",
    "failures",
    "junit",
    "red_team_report",
    "release_figures",
]
