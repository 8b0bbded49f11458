"""Entropy and Token Noiser over a large vocabulary: in chunks against the straightforward form, time and memory.

    .venv/bin/python benchmarks/losses.py [--tokens 2048] [--vocabulary 151936] [--width 2048] [--times 3]

Each measurement is a process of its own, the forms in turn. Memory is what the loss and its gradient add at most to
hidden states, head and their gradients, which both forms need. No form can take less time than the three matrix
products alone: logits, and the gradients of hidden states and head.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORMS = ("straightforward", "chunked", "products alone")
LOSSES = ("entropy", "noiser")
MEGABYTE = 2**20


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    size = (given.tokens, given.vocabulary, given.width, given.dtype)
    print("| loss | form | seconds, median (all) | MB added, median | time, ratio | memory, ratio |")
    print("|---|---|---|---|---|---|")
    for loss in LOSSES:
        found: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
        for _ in range(given.times):
            for form in FORMS:
                found[form].append(in_a_process(measured, loss, form, *size))
        plain = zip(*found["straightforward"], strict=True)
        plain_seconds, plain_memory = (statistics.median(column) for column in plain)
        for form in FORMS:
            seconds, memory = zip(*found[form], strict=True)
            print(
                f"| {loss} | {form} | {statistics.median(seconds):.1f} ({', '.join(f'{s:.1f}' for s in seconds)}) "
                f"| {statistics.median(memory):.0f} | {statistics.median(seconds) / plain_seconds:.2f} "
                f"| {statistics.median(memory) / plain_memory:.3f} |",
                flush=True,
            )


def in_a_process(work: Callable[..., Any], *given: Any) -> Any:
    """What a function gives in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def measured(loss: str, form: str, tokens: int, vocabulary: int, width: int, dtype: str) -> tuple[float, float]:
    """Seconds and megabytes of one loss with its gradient."""
    import torch

    from tokenbuncher.defence.noiser import noiser_terms
    from tokenbuncher.models.chunked import chunked_loss
    from tokenbuncher.models.entropy import token_entropy

    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=random).to(getattr(torch, dtype)).requires_grad_()
    head = (torch.randn(vocabulary, width, generator=random) / width**0.5).to(hidden.dtype).requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), generator=random)
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in (hidden, head)) / MEGABYTE

    def part(logits: torch.Tensor, rows: slice) -> torch.Tensor:
        if loss == "entropy":
            return token_entropy(logits).sum() / tokens
        return noiser_terms(logits, targets[rows], 0.1, form="paper", generator=random).sum() / tokens

    with Peak() as peak:
        begun = time.monotonic()
        if form == "products alone":
            products(hidden.detach(), head.detach())
        elif form == "chunked":
            chunked_loss(hidden, head, part).backward()
        else:
            part((hidden @ head.T).float(), slice(0, tokens)).backward()
        seconds = time.monotonic() - begun
    return seconds, peak.megabytes - gradients


def products(hidden: Any, head: Any) -> tuple[Any, Any]:
    """The gradients of hidden states and head if the loss's gradient were the logits."""
    logits = hidden @ head.T
    return logits @ head, logits.T @ hidden


class Peak:
    """The most memory that the process had in the block, beyond what it had before."""

    def __enter__(self) -> Peak:
        self.before, self.most, self.over = resident(), 0.0, threading.Event()
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()
        return self

    def _watch(self) -> None:
        while not self.over.wait(0.01):
            self.most = max(self.most, resident())

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.watch.join()

    @property
    def megabytes(self) -> float:
        return self.most - self.before


def resident() -> float:
    """Megabytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / MEGABYTE


if __name__ == "__main__":
    main()
