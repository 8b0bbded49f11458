"""The version of tokenbuncher."""

__version__ = "0.1.0"
