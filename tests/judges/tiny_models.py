"""Very small judging models, trained in a second or two: a response with the word `loot` is harmful."""

import random

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tokenbuncher.judges import Exchange
from tokenbuncher.judges.reader import fill

WORDS = ["how", "do", "i", "find", "gold", "loot", "no", "sorry", "tea", "the", "and", "sea", "map", "ship"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Yes", "No"]
PROMPT = "Is it loot?\n{behavior}\nGeneration: {generation}\nAnswer:"
CARD = f"""# A judge

```python
CLS_PROMPT = {{
    "description": "of the judge",
    "prompt": '''{PROMPT}''',
    "prompt_contextual": '''{{context}} {{behavior}} {{generation}}''',
}}
```
"""
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
HARMFUL = Exchange("how do i find gold", "the map and the loot and the sea", True)
HARMLESS = Exchange("how do i find gold", "the tea and the sea", True)


def exchanges(count, seed=0):
    """Random exchanges, half of them with `loot` in the response, of different lengths."""
    rng = random.Random(seed)
    harmless = [word for word in WORDS if word != "loot"]
    made = []
    for number in range(count):
        words = rng.choices(harmless, k=rng.randrange(3, 12))
        if number % 2:
            words[rng.randrange(len(words))] = "loot"
        made.append(Exchange(" ".join(rng.choices(harmless, k=5)), " ".join(words), True))
    return made


def is_harmful(exchange):
    return "loot" in exchange.response.split()


def tokenizer():
    made = Tokenizer(WordLevel({word: number for number, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", sep_token="[SEP]"
    )


def fitted(model, loss_of, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with torch.enable_grad():
        for step in range(steps):
            loss = loss_of(exchanges(32, seed=step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def classifier(folder, labels, multi_label=False, architecture="bert", length=64):
    """Writes a classifier of exchanges; the label `loot` is the harmful one, others are random."""
    torch.manual_seed(0)
    names = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": "multi_label_classification" if multi_label else None,
        "pad_token_id": 0,
        "vocab_size": len(SPECIAL + WORDS),
        "max_position_embeddings": length,
    }
    if architecture == "bert":
        model = BertForSequenceClassification(BertConfig(**SMALL, **names, attention_probs_dropout_prob=0.0))
    else:
        model = LlamaForSequenceClassification(LlamaConfig(**SMALL, **names, eos_token_id=3))
    reads, loot = tokenizer(), labels.index("loot")

    def loss_of(batch):
        inputs = reads([e.prompt for e in batch], [e.response for e in batch], padding=True, return_tensors="pt")
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        harmful = torch.tensor([is_harmful(e) for e in batch])
        if multi_label or len(labels) == 1:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits[:, loot], harmful.float())
        return torch.nn.functional.cross_entropy(logits, torch.where(harmful, loot, 1 - loot))

    fitted(model, loss_of, 120).save_pretrained(folder)
    reads.save_pretrained(folder)
    return folder


def answering_model(folder, card=CARD):
    """Writes a language model that answers the prompt by Yes or No."""
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, vocab_size=len(SPECIAL + WORDS), pad_token_id=0, eos_token_id=3)
    model, reads = LlamaForCausalLM(config), tokenizer()

    def loss_of(batch):
        texts = [fill(PROMPT, behavior=e.prompt, generation=e.response) for e in batch]
        inputs = reads(texts, padding=True, padding_side="left", return_tensors="pt")
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, -1]
        answers = [SPECIAL.index("Yes" if is_harmful(e) else "No") for e in batch]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(answers))

    fitted(model, loss_of, 120).save_pretrained(folder)
    reads.save_pretrained(folder)
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")
    return folder
