"""Before a run: whether everything is there, and what it will cost."""
