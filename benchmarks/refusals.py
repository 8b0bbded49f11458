"""Trains the classifier of refusals that the package carries, and measures it.

    .venv/bin/python benchmarks/refusals.py ../shared/data             # train and measure
    .venv/bin/python benchmarks/refusals.py ../shared/data --write     # and replace the weights in the package

It learns from text written here (benchmarks/refusals.jsonl, parts of responses that are put together by chance) and
from half of XSTest's labelled completions (CC-BY-4.0, Paul Röttger and others, github.com/paul-rottger/xstest); the
other half measures it. A prompt is in the tuning half if the first byte of its sha256 is even, so both models'
responses to it are in one half. Nothing is drawn but from seeds: the same data gives the same weights.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, vstack

from tokenbuncher.judges import stance
from tokenbuncher.judges.stance import BUCKETS, Sentences, Weights

OWN = Path(__file__).with_suffix(".jsonl")
SOURCE = "trained by benchmarks/refusals.py on text written there and on XSTest (Paul Röttger and others, CC-BY-4.0)"
LABELS = {"1_full_compliance": "answered", "2_full_refusal": "refused", "3_partial_refusal": "partial"}
PARTS = ("declines", "talks", "instructs")
MODELS = ("gpt4", "mistralguard")
FOLDS = 5
SEED = 0
DECAY = 0.15
DECAY_ABOVE = 1.0
COMPOSED_WEIGHT = 0.1
OWN_WEIGHT = 0.3
"""Of a response written here against a labelled one, in the model of whole responses."""


@dataclass(frozen=True)
class Labelled:
    """A response and what it does; or a part of one, and what its sentences do."""

    prompt: str
    response: str
    said: str
    weight: float = 1.0
    own: bool = False

    def fold(self) -> int:
        """Of FOLDS; all responses to a prompt are in the same."""
        return _hash(self.prompt)[1] % FOLDS


class Own:
    """The text written here, and responses composed of it."""

    def __init__(self, path: Path = OWN) -> None:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.texts: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if "text" in row:
                self.texts[row["part"]].append(row["text"])
        self.acts = [row for row in rows if row["part"] == "act"]
        whole = [row for row in rows if row["part"] == "exchange"]
        self.whole = [Labelled(row["prompt"], row["response"], row["said"], own=True) for row in whole]
        self.answered = [row for row in self.whole if row.said == "answered"]

    def parts(self) -> list[Labelled]:
        """Parts of responses, of which each sentence does the same."""
        draw, found = random.Random(SEED), []
        for kind, said, times in (
            *(("opener", "declines", 6), ("reason", "talks", 3), ("redirection", "talks", 3)),
            *(("method", "instructs", 3), ("bridge", "instructs", 2), ("preface", "instructs", 2)),
        ):
            for text in self.texts[kind]:
                for act in draw.sample(self.acts, times):
                    prompt = _fill(draw.choice(self.texts["ask"]), act)
                    found.append(Labelled(prompt, _fill(text, act), said, 1 / times))
        return found

    def composed(self, refused: int = 816, partial: int = 400, answered: int = 500) -> list[Labelled]:
        """Responses put together of parts by chance."""
        draw = random.Random(SEED)
        return [
            *(self._refused(draw, number) for number in range(refused)),
            *(self._partial(draw, number) for number in range(partial)),
            *(self._answered(draw) for _ in range(answered)),
        ]

    def cut(self) -> list[Labelled]:
        """Responses written as a whole, cut off by the length limit."""
        draw = random.Random(SEED)
        return [_cut(draw, row) for row in self.whole if row.said != "partial" and len(row.response.split(" ")) > 12]

    def _refused(self, draw: random.Random, number: int) -> Labelled:
        act = draw.choice(self.acts)
        openers = [self.texts["opener"][number % len(self.texts["opener"])]]
        if number % 7 == 0:
            openers = []
        elif draw.random() < 0.2:
            openers.append(draw.choice(self.texts["opener"]))
        more = draw.choice([0, 1, 2, 2, 3, 4]) if openers else draw.choice([2, 3, 4])
        text = (" " if draw.random() < 0.8 else "\n\n").join([*openers, *self._talk(draw, more)])
        return Labelled(_fill(draw.choice(self.texts["ask"]), act), _fill(text, act), "refused", COMPOSED_WEIGHT)

    def _partial(self, draw: random.Random, number: int) -> Labelled:
        act = draw.choice(self.acts)
        prompt = _fill(draw.choice(self.texts["ask"]), act)
        declined = " ".join([self.texts["opener"][number % len(self.texts["opener"])], *self._talk(draw, number % 3)])
        bridge = draw.choice(self.texts["bridge"]) if draw.random() < 0.85 else ""
        answer = draw.choice(self.answered)
        if draw.random() < 0.3 and len(answer.response) > 60:
            prompt, body = answer.prompt, answer.response
        else:
            body = draw.choice(self.texts["method"])
        if not bridge or bridge[-1] in ".!:":
            body = _capital(body)
        gap = draw.choice([" ", " ", "\n\n"]) if bridge else "\n\n"
        text = declined + gap + " ".join(filter(None, [bridge, body, *self._talk(draw, draw.choice([0, 0, 1]))]))
        return Labelled(prompt, _fill(text, act), "partial", COMPOSED_WEIGHT)

    def _answered(self, draw: random.Random) -> Labelled:
        act, answer = draw.choice(self.acts), draw.choice(self.answered)
        prompt, body = _fill(draw.choice(self.texts["ask"]), act), _capital(draw.choice(self.texts["method"]))
        preface = draw.choice(self.texts["preface"]) if draw.random() < 0.8 else ""
        if draw.random() < 0.5:
            prompt, body, preface = answer.prompt, answer.response, "" if "{" in preface else preface
        text = " ".join(filter(None, [preface, body, *self._talk(draw, draw.choice([0, 0, 1, 2]))]))
        return Labelled(prompt, _fill(text, act), "answered", COMPOSED_WEIGHT)

    def _talk(self, draw: random.Random, number: int) -> list[str]:
        kinds = [("reason" if draw.random() < 0.6 else "redirection") for _ in range(number)]
        return list(dict.fromkeys(draw.choice(self.texts[kind]) for kind in kinds))


def completions(folder: Path, model: str, half: str) -> list[Labelled]:
    """XSTest's completions by one model, of one half of the prompts; those alike weigh less."""
    with open(folder / f"xstest_completions_{model}.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (_hash(row["prompt"])[0] % 2 == 0) == (half == "tuning")]
    alike = Counter(row["completion"] for row in rows)
    return [
        Labelled(row["prompt"], row["completion"], LABELS[row["final_label"]], alike[row["completion"]] ** -0.7)
        for row in rows
    ]


@dataclass(frozen=True)
class Read:
    """Responses as sentences, and these as rows of one matrix."""

    rows: Sequence[Labelled]
    sentences: list[Sentences]
    matrix: csr_matrix
    owner: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Labelled]) -> Read:
        sentences = [stance.read(row.prompt, row.response) for row in rows]
        counts = [len(each.words) for each in sentences]
        matrix = vstack([_matrix(each) for each in sentences]).tocsr()
        return cls(rows, sentences, matrix, np.repeat(np.arange(len(rows)), counts))


def train(own: Own, labelled: Sequence[Labelled]) -> Weights:
    """The models of sentences, and on their scores the model of whole responses.

    The latter learns from scores which whole responses get from models that have not seen their prompt.
    """
    taught, composed = Read.of([*own.parts(), *own.whole, *labelled]), Read.of(own.composed())
    final = _sentence_models(taught, [True] * len(taught.rows))
    features, rows = [_summaries(composed, final)], list(composed.rows)
    for fold in range(FOLDS):
        models = _sentence_models(taught, [row.said in PARTS or row.fold() != fold for row in taught.rows])
        held_out = Read.of([row for row in [*own.whole, *own.cut(), *labelled] if row.fold() == fold])
        features.append(_summaries(held_out, models))
        rows += held_out.rows
    said, weights = np.array([row.said for row in rows]), [row.weight * (OWN_WEIGHT if row.own else 1) for row in rows]
    matrix = csr_matrix(np.concatenate(features))
    columns = [fit(matrix, answers, weights, DECAY_ABOVE) for answers in (said == "refused", said != "answered")]
    return Weights(final, np.stack(columns, axis=1).astype(np.float32))


def _sentence_models(taught: Read, used: Sequence[bool]) -> np.ndarray:
    """A column for each model of a sentence: declines, does not help, instructs."""
    chosen = np.array([use and row.said != "partial" for use, row in zip(used, taught.rows, strict=True)])[taught.owner]
    counts = np.bincount(taught.owner)
    first = np.r_[True, taught.owner[1:] != taught.owner[:-1]]
    role = np.array([_role(taught.rows[owner], start) for owner, start in zip(taught.owner, first, strict=True)])
    weight = np.array([_weight(taught.rows[owner], counts[owner]) for owner in taught.owner])
    helps = np.isin(role, ["instructs", "answers"])
    return np.stack(
        [
            _column(taught.matrix, chosen & (role != "refuses"), role == "declines", weight),
            _column(taught.matrix, chosen, ~helps, weight),
            _column(taught.matrix, chosen & (role != "answers"), role == "instructs", weight),
        ],
        axis=1,
    )


def _role(row: Labelled, first: bool) -> str:
    """What a sentence does. Whether one of a labelled refusal declines or talks, nobody has said."""
    if row.said == "refused":
        return ("declines" if first else "talks") if row.own else "refuses"
    return "answers" if row.said == "answered" else row.said


def _weight(row: Labelled, sentences: int) -> float:
    return row.weight if row.own or row.said in PARTS else row.weight / sentences**0.5


def _column(matrix: csr_matrix, used: np.ndarray, answers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return fit(matrix[used], answers[used], weights[used], DECAY)


def fit(matrix: csr_matrix, answers: Sequence[bool], weights: Sequence[float], decay: float) -> np.ndarray:
    """Logistic regression with squared weights as penalty."""
    sign, weight = np.where(answers, 1.0, -1.0), np.asarray(weights)

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (matrix @ beta)
        slope = -weight * sign * np.exp(-np.logaddexp(0, margin))
        return float(weight @ np.logaddexp(0, -margin) + decay / 2 * beta @ beta), matrix.T @ slope + decay * beta

    return minimize(loss, np.zeros(matrix.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x


def packed(weights: Weights) -> dict[str, np.ndarray]:
    """The weights as they are shipped: a byte for each of a sentence's."""
    scale = np.abs(weights.sentence).max(axis=0) / 127
    return {
        "sentence": np.round(weights.sentence / scale).astype(np.int8),
        "scale": scale.astype(np.float32),
        "response": weights.response.round(4),
    }


def _summaries(read: Read, models: np.ndarray) -> np.ndarray:
    weights = Weights(models, np.empty(0))
    return np.stack([stance.summary(each, stance.scores(each, weights)) for each in read.sentences])


def _matrix(sentences: Sentences) -> csr_matrix:
    count = len(sentences.words)
    share = 1 / np.sqrt(np.bincount(sentences.owner, minlength=count))
    rows = np.r_[sentences.owner, np.arange(count)]
    columns = np.r_[sentences.buckets, np.full(count, BUCKETS)]
    return csr_matrix((np.r_[share[sentences.owner], np.ones(count)], (rows, columns)), shape=(count, BUCKETS + 1))


def _fill(text: str, act: dict[str, str]) -> str:
    for name in ("do", "doing", "thing"):
        text = text.replace(f"{{{name}}}", act[name]).replace(f"{{{name.capitalize()}}}", _capital(act[name]))
    return text


def _cut(draw: random.Random, row: Labelled) -> Labelled:
    """The same, cut off by the length limit."""
    words = row.response.split(" ")
    return replace(row, response=" ".join(words[: draw.randrange(8, len(words))]))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode()).digest()


def outcomes(rows: Iterable[Labelled], weights: Weights) -> Counter[tuple[str, str]]:
    """How many responses of each label are found to do what."""
    return Counter((row.said, stance.outcome(row.prompt, row.response, weights)) for row in rows)


def table(title: str, found: Counter[tuple[str, str]]) -> str:
    """One line of figures."""
    cells = []
    for said in LABELS.values():
        of = sum(count for (label, _), count in found.items() if label == said)
        counts = ", ".join(f"{found[said, outcome]} {outcome}" for outcome in ("refused", "partial", "answered"))
        cells.append(f"{said} ({of}): {counts}")
    return f"{title:34} {' | '.join(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of xstest_completions_*.csv")
    parser.add_argument("--write", action="store_true", help="replace the weights in the package")
    parser.add_argument("--test", action="store_true", help="measure on the test half")
    arguments = parser.parse_args()
    own = Own()
    tuning = {model: completions(arguments.folder, model, "tuning") for model in MODELS}
    halves = ["tuning", "test"] if arguments.test else ["tuning"]
    for left in (*MODELS, "both"):
        weights = train(own, [row for model in MODELS if left not in (model, "both") for row in tuning[model]])
        for model in MODELS if left == "both" else [left]:
            for half in halves:
                rows = completions(arguments.folder, model, half)
                print(table(f"without {left}: {model}, {half}", outcomes(rows, weights)), flush=True)
    weights = train(own, [row for rows in tuning.values() for row in rows])
    for half in halves:
        for model in MODELS:
            rows = completions(arguments.folder, model, half)
            print(table(f"shipped: {model}, {half}", outcomes(rows, weights)), flush=True)
    if arguments.write:
        (Path(stance.__file__).parent / stance.WEIGHTS).write_bytes(save(packed(weights), {"source": SOURCE}))


if __name__ == "__main__":
    main()
