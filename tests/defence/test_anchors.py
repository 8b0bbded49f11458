from tokenbuncher.defence.anchors import own_responses
from tokenbuncher.models.load import load_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings.prompts import load_set


def test_benign_responses_that_were_cut_off_are_anchors_too(organism_base, organism_data, tiny_spec):
    model, tokenizer = load_model(organism_base, tiny_spec.model), load_tokenizer(organism_base)
    benign = load_set(organism_data, "benign")
    short = tiny_spec.model_copy(update={"model": tiny_spec.model.model_copy(update={"max_new_tokens": 2})})

    anchors = own_responses(model, tokenizer, benign, spec=short)

    assert [prompt for prompt, _ in anchors] == benign
    assert all(len(tokenizer(response).input_ids) <= 2 for _, response in anchors)
    assert any(len(tokenizer(response).input_ids) == 2 for _, response in anchors)
