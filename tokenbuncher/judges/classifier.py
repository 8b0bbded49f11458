"""Sequence classifiers as judges and rewards: the probability that a response is harmful."""

from __future__ import annotations

from collections.abc import Sequence

from tokenbuncher.core.errors import UserError
from tokenbuncher.judges.reader import Reader, by_batches, fill, load_reader
from tokenbuncher.judges.types import Exchange, Reward
from tokenbuncher.settings.judges import ClassifierSpec


def harm_probability(spec: ClassifierSpec) -> Reward:
    """Loads a classifier.

    Labels that exclude each other (softmax) add up to the probability of harm; of labels that do not (a multi-label
    model, sigmoid), the most probable counts.

    Raises:
        UserError: If the model cannot be loaded, or has no such label.
    """
    from transformers import AutoModelForSequenceClassification

    reader = load_reader(spec.model, AutoModelForSequenceClassification)
    columns = _columns(reader, spec.harmful_labels)
    config = reader.model.config
    exclusive = config.num_labels > 1 and config.problem_type != "multi_label_classification"

    def of_batch(batch: Sequence[Exchange]) -> list[float]:
        if spec.template is None:
            logits, _ = reader.read([e.prompt for e in batch], [e.response for e in batch])
        else:
            logits, _ = reader.read([fill(spec.template, prompt=e.prompt, response=e.response) for e in batch])
        if exclusive:
            return logits.softmax(-1)[:, columns].sum(-1).clamp(max=1.0).tolist()
        return logits.sigmoid()[:, columns].amax(-1).tolist()

    def score(exchanges: Sequence[Exchange]) -> list[float]:
        return by_batches(exchanges, spec.batch_size, of_batch)

    return score


def _columns(reader: Reader, labels: Sequence[str]) -> list[int]:
    known = reader.model.config.label2id
    unknown = sorted(set(labels) - set(known))
    if unknown:
        raise UserError(
            f"the judge {reader.source} has no label {', '.join(unknown)}; harmful_labels can be {', '.join(known)}"
        )
    return sorted({known[label] for label in labels})
