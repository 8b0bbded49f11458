"""The distributions that losses take from hidden states are those of the model's own logits, whatever its head does."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from tokenbuncher.training import logits as training_logits
from tokenbuncher.training.logits import response_distributions

VOCABULARY = 64
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.5,  # logits so large that a cap on them shows
}
HEADS = {
    "qwen2": ("qwen2", {}, True),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}, True),
    "llama": ("llama", {}, True),
    "gemma": ("gemma", {}, True),
    "gemma2": ("gemma2", {}, False),
    "gemma3": ("gemma3_text", {}, True),
    "gemma3-capped": ("gemma3_text", {"final_logit_softcapping": 20.0}, False),
    "phi": ("phi", {"num_key_value_heads": 4}, False),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}, True),
    "granite": ("granite", {"logits_scaling": 4.0}, False),
    "cohere2": ("cohere2", {}, False),
    "inkling": ("inkling_text", {}, False),
    "recurrent_gemma": ("recurrent_gemma", {"logits_soft_cap": 1.0, "num_hidden_layers": 3}, False),
}
"""By name the architecture, what is particular, and whether its logits are its hidden states times a matrix alone."""


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
@pytest.mark.parametrize("name", HEADS)
def test_distributions_are_those_of_the_model_s_own_logits(name, adapted, monkeypatch):
    monkeypatch.setattr(training_logits, "LARGE_VOCABULARY", 1)
    architecture, own, plain = HEADS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **SMALL | own)).eval()
        if adapted:
            model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        prompts, completions = torch.randint(3, VOCABULARY, (2, 4)), torch.randint(3, VOCABULARY, (2, 5))
    prompt_mask, completion_mask = torch.ones_like(prompts), torch.ones_like(completions)
    prompt_mask[0, :2] = completion_mask[1, 3:] = 0
    batch = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": completion_mask,
    }
    with torch.no_grad():
        found = response_distributions(model, batch)
        mask = torch.cat([prompt_mask, completion_mask], dim=1)
        wanted = model(input_ids=torch.cat([prompts, completions], dim=1), attention_mask=mask).logits[:, 3:-1]
    assert (found.head is not None) == plain
    there = completion_mask.bool()
    assert torch.allclose(found.values(lambda logits, _: logits)[there], wanted[there], rtol=1e-4, atol=1e-4)
