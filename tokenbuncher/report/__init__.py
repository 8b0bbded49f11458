"""What people and machines read of a release: HTML, Markdown, JSON, a model card, JUnit XML; and two side by side."""

from tokenbuncher.report.card import CARD_NAME, card
from tokenbuncher.report.compare import MARK as COMPARISON_MARK
from tokenbuncher.report.compare import compare_report
from tokenbuncher.report.documents import HTML_NAME, JSON_NAME, MARKDOWN_NAME, documents
from tokenbuncher.report.figures import ReleaseFigures, broken_figures, release_figures
from tokenbuncher.report.junit import junit
from tokenbuncher.report.red_team import red_team_report

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
    "documents",
    "junit",
    "red_team_report",
    "release_figures",
]
