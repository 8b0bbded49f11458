"""The release report: one HTML file that explains a verdict, readable without network or script."""

from tokenbuncher.report.render import render

__all__ = ["render"]
