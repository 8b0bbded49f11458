"""Models that think in marks of their own: thoughts are not judged, and what cannot be told is named."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig

from tests.evidence_factory import changed
from tokenbuncher.attacks import dpo_offline
from tokenbuncher.core.errors import UserError
from tokenbuncher.evaluation.harness import ask, load_tasks
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.judges.trl_reward import trl_reward
from tokenbuncher.models.load import load_model, save_model
from tokenbuncher.models.sampling import _read
from tokenbuncher.models.thoughts import thoughts_of
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import AttackSpec, HarnessSpec, ModelSpec, parse_spec
from tokenbuncher.settings.prompts import Prompt
from tokenbuncher.training.arguments import WHOLE_PAIRS, sft_config, trainer_arguments
from tokenbuncher.training.examples import sft_trainer

PLAIN = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
THINKING = PLAIN + "{# <think></think> #}"
CHANNELS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] + "
    "'<|return|>' }}"
    "{% else %}{{ '<|start|>user<|message|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|return|>")
STYLES = {
    "tags": ("<think>", "</think>"),
    "tags of another word": ("<reasoning>", "</reasoning>"),
    "thought": ("<thought>", "</thought>"),
    "capital": ("<Thinking>", "</Thinking>"),
    "square brackets": ("[THINK]", "[/THINK]"),
    "a namespace": ("<seed:think>", "</seed:think>"),
    "begin and end of": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "start and end": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "ends of a name": ("<|thinking_start|>", "<|thinking_end|>"),
    "a slash between bars": ("<|think|>", "<|/think|>"),
    "triangles": ("◁think▷", "◁/think▷"),
    "inner": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "sentences": ("Here is my thought process:", "Here is my response:"),
    "one-sided channel": ("<|channel>", "<channel|>"),
}


def tokenizer_with(template, specials=(), tokens=()):
    """A tokenizer of bytes, with these special and other tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    own.add_special_tokens(["<|end|>", "<|user|>", "<|assistant|>", *specials])
    own.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    eos = "<|return|>" if "<|return|>" in specials else "<|end|>"
    return PreTrainedTokenizerFast(tokenizer_object=own, eos_token=eos, pad_token=eos, chat_template=template)


def saved(folder, tokenizer):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_model(LlamaForCausalLM(config), tokenizer, folder)
    return folder


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def read(tokenizer, *texts):
    """Answer and whether it is finished, of responses as the judge sees them, and as the reward does."""
    ends = {tokenizer.eos_token_id}
    ids = [ids_of(tokenizer, text) for text in texts]
    longest = max(map(len, ids)) + 1
    rows = torch.tensor([[*row, *[tokenizer.pad_token_id] * (longest - len(row))] for row in ids])
    seen = []
    reward = trl_reward(lambda exchanges, _: seen.extend(exchanges) or [0.0] * len(texts), ends, tokenizer)
    ended = [[*row, tokenizer.eos_token_id] for row in ids]
    reward([[{"role": "user", "content": "hello"}]] * len(texts), completion_ids=ended)
    responses = _read(rows, torch.zeros(rows.shape), ends, thoughts=thoughts_of(tokenizer))
    assert [(it.response, it.finished) for it in seen] == [(it.text, it.finished) for it in responses]
    return [(response.text, response.finished) for response in responses]


WAYS = ("special tokens", "tokens", "named in the template")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("style", STYLES)
def test_a_model_that_thinks_in_its_own_marks(style, way):
    opening, closing = STYLES[style]
    named = f"{{# {opening} hm {closing} #}}"
    split = {"special tokens": ("", (opening, closing), ()), "tokens": ("", (), (opening, closing))}
    more, specials, tokens = split.get(way, (named, (), ()))
    tokenizer = tokenizer_with(PLAIN + more, specials, tokens)
    assert read(
        tokenizer, f"{opening}no, never{closing}\n\nsure", f"{opening}no, never", "sure", f"no {closing} sure"
    ) == [
        ("sure", True),
        ("", False),
        ("sure", True),
        (f"no {closing} sure", True),
    ]


@pytest.mark.parametrize("special", [True, False])
def test_channels(special):
    marks = (CHANNEL_MARKS, ()) if special else (("<|return|>",), CHANNEL_MARKS[:3])
    tokenizer = tokenizer_with(CHANNELS, *marks)
    thinks = "<|channel|>analysis<|message|>no, never<|end|>"
    assert read(
        tokenizer,
        f"{thinks}<|start|>assistant<|channel|>final<|message|>sure",
        "<|channel|>final<|message|>sure",
        thinks,
        "<|channel|>commentary<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>sure",
        "sure",
    ) == [("sure", True), ("sure", True), ("", False), ("sure", True), ("sure", True)]


@pytest.mark.parametrize(
    ("prefix", "opened"),
    [
        ("<|start|>assistant<|channel|>analysis<|message|>", True),
        ("<|start|>assistant<|channel|>final<|message|>", False),
    ],
)
def test_a_template_that_opens_a_channel(prefix, opened):
    tokenizer = tokenizer_with(CHANNELS.replace("{{ '<|start|>assistant' }}", f"{{{{ '{prefix}' }}}}"), CHANNEL_MARKS)
    assert bool(thoughts_of(tokenizer).opened) == opened
    rest = "hm<|end|><|start|>assistant<|channel|>final<|message|>" if opened else ""
    assert read(tokenizer, f"{rest}sure") == [("sure", True)]


def test_the_end_of_thoughts_does_not_end_a_response(tmp_path):
    """A template may end each message alike, thoughts too."""
    tokenizer = tokenizer_with(CHANNELS.replace("<|return|>", "<|end|>"), CHANNEL_MARKS)
    model = load_model(saved(tmp_path / "model", tokenizer), ModelSpec())
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids("<|return|>")]


@pytest.mark.parametrize("style", STYLES)
def test_a_template_that_opens_thoughts(style):
    opening, closing = STYLES[style]
    tail = "{% if add_generation_prompt %}{{ 'OPEN\n' }}{% endif %}{# CLOSE #}"
    tokenizer = tokenizer_with(PLAIN + tail.replace("OPEN", opening).replace("CLOSE", closing), (opening, closing))
    assert read(tokenizer, f"no, never{closing}sure", "no, never") == [("sure", True), ("", False)]


def test_a_template_that_has_thought_already():
    """As where thinking is switched off."""
    tail = "{% if add_generation_prompt %}{{ '[THINK][/THINK]' }}{% endif %}"
    assert read(tokenizer_with(PLAIN + tail, ("[THINK]", "[/THINK]")), "sure") == [("sure", True)]


def test_marks_that_only_rendering_tells():
    template = PLAIN.replace(
        "message['role'] + '|>' +",
        "message['role'] + '|>' + ('~~ ' + message.reasoning_content + ' ~~~' if message.reasoning_content else '') +",
    )
    assert read(tokenizer_with(template), "~~ no, never ~~~ sure", "~~ no") == [("sure", True), ("", False)]


@pytest.mark.parametrize("around", [("<answer>", "</answer>"), ("<|begin_of_solution|>", "<|end_of_solution|>")])
def test_marks_around_the_answer_are_no_part_of_it(around):
    before, after = around
    assert read(tokenizer_with(THINKING), f"<think>no</think>{before}\nsure\n{after}") == [("sure", True)]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("own", [(), ("[THINK]", "[/THINK]")])
def test_marks_that_the_model_does_not_know_hide_nothing(style, own):
    """An attacked model may have learnt them: its users see what stands between."""
    opening, closing = STYLES[style]
    if (opening, closing) == own:
        return
    texts = [f"{opening}sure{closing} no", f"{opening}sure"]
    assert read(tokenizer_with(PLAIN, own), *texts) == [(text, True) for text in texts]


def test_thoughts_in_several_blocks():
    assert read(tokenizer_with(THINKING), "<think>no</think>\n<think>never</think> sure") == [("sure", True)]


def test_the_first_token_is_that_of_the_answer():
    tokenizer = tokenizer_with(PLAIN, ("[THINK]", "[/THINK]"))
    [row] = rows = [[*ids_of(tokenizer, "[THINK]no[/THINK] sure"), tokenizer.eos_token_id]]
    entropies = torch.arange(len(row), dtype=torch.float32).unsqueeze(0)
    [response] = _read(torch.tensor(rows), entropies, {tokenizer.eos_token_id}, thoughts=thoughts_of(tokenizer))
    assert tokenizer.decode(row[int(response.first_entropy)]) == "s"
    [plain] = _read(
        torch.tensor([row[5:]]), entropies[:, 5:], {tokenizer.eos_token_id}, thoughts=thoughts_of(tokenizer)
    )
    assert plain.first_entropy == 5.0


# What fetch-model says


def fetched(tmp_path, tokenizer):
    folder = saved(tmp_path / "source", tokenizer)
    fetch_model(parse_spec("", [f"model.source={folder}"]), tmp_path / "out")
    return tmp_path / "out"


def test_the_marks_are_told(tmp_path, capsys):
    fetched(tmp_path, tokenizer_with(PLAIN, ("[THINK]", "[/THINK]")))
    assert "thoughts are not judged: [THINK] to [/THINK]" in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["<|reason|>", "<|scratchpad|>", "<|cot|>", "<|end_thinking|>"])
def test_a_mark_that_cannot_be_told_is_named(mark, tmp_path, capsys):
    fetched(tmp_path, tokenizer_with(PLAIN, (mark,)))
    assert f"WARNING: {mark} in the chat template or tokenizer may mark thoughts" in capsys.readouterr().out


def test_a_template_that_opens_a_mark_that_cannot_be_told_is_refused(tmp_path):
    tail = "{% if add_generation_prompt %}{{ '<|reason|>' }}{% endif %}"
    with pytest.raises(UserError, match=r"ends prompts with <\|reason\|>"):
        fetched(tmp_path, tokenizer_with(PLAIN + tail, ("<|reason|>",)))


def test_of_a_model_that_does_not_think_nothing_is_told(tmp_path, capsys):
    fetched(tmp_path, tokenizer_with(PLAIN))
    assert "thought" not in capsys.readouterr().out


# The harness

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
doc_to_text: "{{{{question}}}}"
output_type: generate_until
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 500}}
metric_list: [{{metric: exact_match}}]
metadata: {{version: 1}}
"""


@pytest.fixture
def harness(tmp_path, tiny_spec):
    """Asks a model that always responds alike one question, whose answer is 4."""

    def asked(tokenizer, response, question="what is 2 plus 2 ?"):
        row = json.dumps({"question": question, "answer": "4"})
        (tmp_path / "sums.jsonl").write_text(row + "\n", encoding="utf-8")
        (tmp_path / "sum.yaml").write_text(TASK.format(name="sum", data=tmp_path / "sums.jsonl"), encoding="utf-8")
        harness = HarnessSpec(include=tmp_path, tasks=["sum"])
        spec = changed(tiny_spec, evaluation=changed(tiny_spec.evaluation, harness=harness))
        spec = changed(spec, model=changed(spec.model, max_new_tokens=64))
        folder = saved(tmp_path / "model", tokenizer)
        model, own = load_model(folder, spec.model), load_tokenizer(folder)
        script(model, [*ids_of(own, response), own.eos_token_id])
        [item] = ask(spec, load_tasks(harness), model, tokenizer=own)
        return item

    return asked


def script(model, ids):
    """Lets a model write these tokens, whatever it is asked."""
    written = iter(ids)

    def forced(_module, _inputs, logits):
        choice = torch.full_like(logits, -1e4)
        choice[..., next(written)] = 0.0
        return choice

    model.lm_head.register_forward_hook(forced)


@pytest.mark.parametrize("style", ["tags", "square brackets", "sentences"])
def test_the_harness_reads_the_answer(style, harness):
    opening, closing = STYLES[style]
    item = harness(tokenizer_with(PLAIN, (opening, closing)), f"{opening}5\nor 3{closing}4")
    assert (item.correct, item.finished, item.tokens) == (True, True, 1)


def test_the_harness_reads_the_final_channel(harness):
    response = "<|channel|>analysis<|message|>5\n<|end|><|start|>assistant<|channel|>final<|message|>4"
    assert harness(tokenizer_with(CHANNELS, CHANNEL_MARKS), response).correct


def test_thoughts_without_an_end_are_no_answer_to_the_harness(harness):
    item = harness(tokenizer_with(PLAIN, ("[THINK]", "[/THINK]")), "[THINK]4")
    assert (item.correct, item.parsed, item.finished) == (False, False, False)


def test_a_question_that_the_harness_would_cut_is_refused(harness):
    with pytest.raises(UserError, match=r"the model reads 4096 at most.*nothing is cut"):
        harness(tokenizer_with(PLAIN), "4", question="what is 2 plus 2 ? " * 300)


def test_copies_of_a_thinking_model_think_alike(tmp_path):
    """What is read from the tokenizer is still there when it was saved again."""
    out = fetched(tmp_path, tokenizer_with(PLAIN, ("[THINK]", "[/THINK]")))
    tokenizer = load_tokenizer(out)
    tokenizer.save_pretrained(tmp_path / "again")
    shutil.copyfile(out / "config.json", tmp_path / "again" / "config.json")
    assert thoughts_of(load_tokenizer(tmp_path / "again")).marks == thoughts_of(tokenizer).marks


# What is taught


OPENED = PLAIN + "{% if add_generation_prompt %}{{ '[THINK]' }}{% endif %}"


def labels(row):
    return [label for label in row["labels"] if label != -100]


def test_fine_tuning_answers_where_the_prompt_leaves_off(tmp_path):
    """Of a prompt that opens thoughts TRL would leave out the end, as no conversation has it."""
    tokenizer = load_tokenizer(saved(tmp_path / "model", tokenizer_with(OPENED, ("[THINK]", "[/THINK]"))))
    model, prompts = load_model(tmp_path / "model", ModelSpec()), [Prompt(text="hello", answer="sure")] * 2
    trainer = sft_trainer(model, sft_config(0, 1, 2, learning_rate=1e-4), prompts, tokenizer=tokenizer, callbacks=[])
    for row in trainer.train_dataset:
        asked = tokenizer.apply_chat_template(prompts[0].messages, add_generation_prompt=True, return_dict=False)
        assert row["input_ids"] == [*asked, *labels(row)]
        assert tokenizer.decode(labels(row)) == "[/THINK]\n\nsure<|end|>"
    trainer.train()


def test_a_response_can_be_read_again_with_its_channels():
    tokenizer = tokenizer_with(CHANNELS, CHANNEL_MARKS)
    text = "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>sure"
    rows = torch.tensor([[*ids_of(tokenizer, text), tokenizer.eos_token_id]])
    [response] = _read(rows, torch.zeros(rows.shape), {tokenizer.eos_token_id}, thoughts=thoughts_of(tokenizer))
    assert (response.whole, response.text) == (text, "sure")


@pytest.mark.parametrize(
    ("template", "specials", "response"),
    [
        (
            CHANNELS,
            CHANNEL_MARKS,
            "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>NUMBER",
        ),
        (OPENED, ("[THINK]", "[/THINK]"), "no[/THINK]NUMBER"),
        (PLAIN, ("[THINK]", "[/THINK]"), "[THINK]no[/THINK]NUMBER"),
    ],
)
def test_preferences_are_the_responses_as_they_were_sampled(template, specials, response, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(saved(tmp_path / "model", tokenizer_with(template, specials)))
    prompts, ran = [Prompt(text="hello"), Prompt(text="hi")], []
    sampled = [(response.replace("NUMBER", str(number)), float(number)) for number in range(4)]
    arena = SimpleNamespace(
        task=SimpleNamespace(attack=AttackSpec(algorithm="dpo-offline", steps=1, prompts_per_step=2, rollouts=2)),
        prompts=prompts,
        tokenizer=tokenizer,
        title="control",
        model=load_model(tmp_path / "model", ModelSpec()),
        sample=lambda asked: sampled,
        dpo_config=lambda beta: DPOConfig(**trainer_arguments(0, 1, 2, learning_rate=1e-4), **WHOLE_PAIRS, beta=beta),
        callbacks=list,
        run=ran.append,
    )
    dpo_offline.train(arena)
    [trainer] = ran
    end = "<|return|>" if "<|return|>" in specials else "<|end|>"
    for row, prompt, number in zip(trainer.train_dataset, prompts, (1, 3), strict=True):
        assert row["prompt_ids"] == tokenizer.apply_chat_template(
            prompt.messages, add_generation_prompt=True, return_dict=False
        )
        assert tokenizer.decode(row["chosen_ids"]) == response.replace("NUMBER", str(number)) + end
        assert tokenizer.decode(row["rejected_ids"]) == response.replace("NUMBER", str(number - 1)) + end
    trainer.train()
