"""What people and CI/CD systems read of a verdict: an HTML file, a model card, a Markdown summary, JUnit XML."""

from tokenbuncher.report.card import CARD_NAME, card
from tokenbuncher.report.ci import junit, summary
from tokenbuncher.report.red_team import red_team_report
from tokenbuncher.report.render import render

__all__ = ["CARD_NAME", "card", "junit", "red_team_report", "render", "summary"]
