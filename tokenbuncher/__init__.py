"""tokenbuncher: the release gate against harmful reinforcement-learning fine-tuning."""

__version__ = "0.1.0"
