"""What a model folder of other people holds beside the weights reaches the released model, and nothing that can run."""

import json
import os
import shutil
from datetime import datetime

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import chat_template_utils

from tokenbuncher.defence import defend
from tokenbuncher.evaluation import evaluate_safety
from tokenbuncher.evidence import read_evidence
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.load import save_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.prompts import Prompt

DATED = "It is {{ strftime_now('%d %b %Y') }}. "
KEPT = {
    "LICENSE": "Do as you like.",
    "LICENSE.txt": "Do as you like.",
    "LICENCE-MODEL": "Do as you like.",
    "NOTICE": "Made by us.",
    "USE_POLICY.md": "Be kind.",
    "Notice.rst": "Made by us.",
    "acceptable_use_policy": "Be kind.",
    "CITATION.cff": "title: A model",
    "README.md": "# A model",
    "preprocessor_config.json": "{}",
    "processor_config.json": "{}",
    "special_tokens_map.json": '{"eos_token": "<eos>"}',
    "vocab.json": "{}",
    "merges.txt": "#version: 0.2\na b",
    "tokenizer.model": "pieces",
    "additional_chat_templates/tool_use.jinja": "{{ messages }}",
}
LEFT = {
    "modeling_own.py": b"raise SystemExit",
    "license.py": b"raise SystemExit",
    "LICENSE.sh": b"#!/bin/sh",
    "NOTICE.exe": b"MZ\0\0",
    "LICENSE.bin": b"\x80\x04",
    "COPYING": b"#!/bin/sh\nrm x\n",
    "training_args.bin": b"\x80\x04",
    "optimizer.pt": b"\x80\x04",
    "run": b"#!/bin/sh\n",
}


@pytest.fixture
def published(organism_base, tmp_path):
    """A checkpoint as published: bfloat16, with a licence and more beside it, and with what nobody should run."""
    folder = shutil.copytree(organism_base, tmp_path / "published")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    for name, text in KEPT.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, content in LEFT.items():
        (folder / name).write_bytes(content)
        os.chmod(folder / name, 0o755)
    template = folder / "chat_template.jinja"
    template.write_text(DATED + template.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture
def release(published, tiny_spec, tmp_path):
    """The spec of its release, and its folder as fetch-model brings it."""

    def made(**model):
        fields = {"source": str(published), **model}
        spec = tiny_spec.model_copy(
            update={
                "model": parse_spec(json.dumps({"model": fields})).model,
                "output": tiny_spec.output.model_copy(update={"root": tmp_path / "root"}),
                "defence": tiny_spec.defence.model_copy(update={"steps": 1}),
            }
        )
        fetch_model(spec, tmp_path / "base")
        return spec, tmp_path / "base"

    return made


def assert_kept(folder, published):
    assert {name: (folder / name).read_text(encoding="utf-8") for name in KEPT} == KEPT
    assert not [name for name in LEFT if (folder / name).exists()]
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o111]
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == (
        published / "chat_template.jinja"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 8}}], ids=["all weights", "LoRA"])
def test_the_candidate_keeps_licence_notice_and_processors(release, published, organism_data, tmp_path, model):
    spec, base = release(**model)
    assert_kept(base, published)
    defend(spec, organism_data, base, out=tmp_path / "candidate")
    assert_kept(tmp_path / "candidate", published)
    assert load_tokenizer(tmp_path / "candidate")("so it is") == load_tokenizer(base)("so it is")


def test_without_a_defence_the_candidate_keeps_all(release, published, organism_data, tmp_path):
    spec, base = release()
    spec = spec.model_copy(update={"defence": spec.defence.model_copy(update={"recipe": "none"})})
    defend(spec, organism_data, base, out=tmp_path / "candidate")
    assert_kept(tmp_path / "candidate", published)
    assert {tensor.dtype for tensor in load_file(tmp_path / "candidate" / "model.safetensors").values()} == {
        torch.bfloat16
    }


def test_shards_of_the_base_are_not_named_by_a_candidate_in_one_file(release, published, organism_data, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(published)
    (published / "model.safetensors").unlink()
    model.save_pretrained(published, max_shard_size="400KB")
    spec, base = release()
    defend(spec, organism_data, base, out=tmp_path / "candidate")
    assert (base / "model.safetensors.index.json").is_file()
    assert not (tmp_path / "candidate" / "model.safetensors.index.json").exists()


def test_number_format_and_date_are_in_the_evidence(release, organism_data, tmp_path):
    spec, base = release()
    evaluate_safety(spec, organism_data, base, candidate=base, out=tmp_path / "out")
    evidence = read_evidence(tmp_path / "out")
    reading = evidence.base_reading
    assert (reading.stored, reading.measured, reading.day) == (["bfloat16"], "float32", "2025-01-01")
    assert evidence.candidate_reading == reading


def on(monkeypatch, year):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(year, 5, 17)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def test_two_runs_on_two_days_ask_the_same(release, published, monkeypatch):
    _, base = release()
    messages, asked, given = Prompt(text="hello").messages, set(), set()
    for year in (2026, 2027):
        on(monkeypatch, year)
        asked.add(load_tokenizer(base).apply_chat_template(messages, tokenize=False))
        given.add(AutoTokenizer.from_pretrained(published).apply_chat_template(messages, tokenize=False))
    assert (len(asked), len(given)) == (1, 2)


def test_of_several_templates_the_one_that_is_used_knows_no_date(release, published, tmp_path):
    (published / "additional_chat_templates" / "tool_use.jinja").write_text(DATED + "{{ messages }}", encoding="utf-8")
    _, base = release()
    tokenizer = load_tokenizer(base)
    assert "01 Jan 2025" in tokenizer.apply_chat_template(Prompt(text="hello").messages, tokenize=False)
    model = AutoModelForCausalLM.from_pretrained(base)
    save_model(model, tokenizer, tmp_path / "saved")
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        assert (tmp_path / "saved" / name).read_text(encoding="utf-8") == (published / name).read_text(encoding="utf-8")


def test_thinking_is_settled_without_settling_the_day(release, published):
    path = published / "chat_template.jinja"
    path.write_text(
        "{% if enable_thinking is defined and enable_thinking %}Think. {% endif %}" + path.read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    _, base = release(enable_thinking=False)
    written = (base / "chat_template.jinja").read_text(encoding="utf-8")
    assert written.endswith(path.read_text(encoding="utf-8"))
    assert "macro" not in written
