"""What people and CI/CD systems read of a verdict: one HTML file, a Markdown summary, JUnit XML."""

from tokenbuncher.report.ci import junit, summary
from tokenbuncher.report.red_team import red_team_report
from tokenbuncher.report.render import render

__all__ = ["junit", "red_team_report", "render", "summary"]
