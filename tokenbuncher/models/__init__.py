"""Models in memory: checkpoints, tokenizers, responses and their entropies."""
