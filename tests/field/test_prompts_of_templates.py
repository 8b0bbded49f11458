"""Chat templates that render no question, half of one or another: refused, as nothing would be measured."""

import json
import shutil

import pytest

from tokenbuncher.core.errors import UserError
from tokenbuncher.inputs.fetch import fetch_model
from tokenbuncher.models.tokenizer import load_tokenizer
from tokenbuncher.settings import parse_spec

BEGIN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def turns(content):
    return (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + CONTENT + '<|im_end|>\n' }}{% endfor %}".replace(
            "CONTENT", content
        )
        + BEGIN
    )


@pytest.fixture
def load(organism_base, tmp_path):
    """Loads the tokenizer of a checkpoint with this template."""
    folder = shutil.copytree(organism_base, tmp_path / "checkpoint")

    def loaded(template):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return load_tokenizer(folder)

    loaded.folder = folder
    return loaded


def name_templates(folder, templates):
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"chat_template": templates}
    path.write_text(json.dumps(settings), encoding="utf-8")


def test_templates_of_which_none_is_the_default(load):
    name_templates(load.folder, [{"name": "rag", "template": turns("m['content']")}])
    with pytest.raises(UserError, match=r"has chat templates \(rag\), but none of the name default"):
        load_tokenizer(load.folder)


def test_a_template_for_tools_alone(load):
    template = load.folder / "chat_template.jinja"
    (load.folder / "additional_chat_templates").mkdir()
    template.rename(load.folder / "additional_chat_templates" / "tool_use.jinja")
    with pytest.raises(UserError, match=r"has chat templates \(tool_use\), but none of the name default"):
        load_tokenizer(load.folder)


def test_fetch_model_refuses_it_too(load, tmp_path):
    name_templates(load.folder, [{"name": "rag", "template": turns("m['content']")}])
    with pytest.raises(UserError, match="none of the name default"):
        fetch_model(parse_spec("", [f"model.source={load.folder}"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_default_among_others_is_fine(load):
    plain = {"name": "default", "template": turns("m['content']")}
    name_templates(load.folder, [{"name": "rag", "template": "rag"}, plain])
    assert "hello" in load_tokenizer(load.folder).apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False
    )


@pytest.mark.parametrize("template", ["", " \n", "{# nothing yet #}"])
def test_an_empty_template(load, template):
    with pytest.raises(UserError, match=r"chat template in .* (is empty|renders nothing)"):
        load(template)


def test_an_empty_template_in_tokenizer_config(load):
    name_templates(load.folder, "")
    with pytest.raises(UserError, match=r"has no chat template|is empty"):
        load_tokenizer(load.folder)


PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}" + BEGIN
)
LOSSES = {
    "the beginning of a response alone": "{{ '<|im_start|>assistant\n' }}",
    "a loop over parts": PARTS,
    "the last message dropped": turns("m['content']").replace("in messages", "in messages[:-1]"),
    "messages of the system alone": turns("m['content']").replace("%}{{", "if m['role'] == 'system' %}{{", 1),
    "another field": turns("(m['text'] or '')"),
    "all but the first two messages": turns("m['content']").replace("in messages", "in messages[:2]"),
    "long questions dropped": turns("(m['content'] if m['content'] | length < 99 else '')"),
    "short questions dropped": turns("(m['content'] if m['content'] | length > 99 else '')"),
}
CHANGES = [
    "m['content'] | upper",
    "m['content'] | lower",
    "m['content'] | title",
    "m['content'] | capitalize",
    "m['content'] | e",
    "m['content'] | striptags",
    "m['content'] | tojson",
    "m['content'] | wordwrap",
    "m['content'] | indent",
    "m['content'] | truncate(9999)",
    "m['content'] | replace('\"', \"'\")",
    "m['content'] | replace('\n', ' ')",
    "m['content'] | replace('é', 'e')",
    "m['content'] | reverse",
    "m['content'].split() | join(' ')",
    "m['content'].split('\n')[0]",
    "m['content'].splitlines() | map('trim') | join('\n')",
    "m['content'].rstrip('?!. ')",
    "m['content'].strip('\"')",
    "m['content'][:20]",
    "m['content'][:4000]",
    "m['content'][-4000:]",
    "m['content'][1:]",
    "m['content'].encode('ascii', 'ignore').decode()",
]


@pytest.mark.parametrize("template", LOSSES.values(), ids=LOSSES)
def test_a_template_that_loses_the_question(load, template):
    with pytest.raises(UserError, match=r"chat template in .* does not contain the text of the question"):
        load(template)


@pytest.mark.parametrize("content", CHANGES)
def test_a_template_that_changes_the_question(load, content):
    with pytest.raises(UserError, match=r"chat template in .* does not contain the text of the question"):
        load(turns(f"({content})"))


@pytest.mark.parametrize("content", CHANGES)
def test_a_template_that_changes_the_answer(load, content):
    changed = f"(({content}) if m['role'] == 'assistant' else m['content'])"
    with pytest.raises(UserError, match=r"chat template in .* does not contain the text of the answer"):
        load(turns(changed))


def test_a_template_that_drops_answers(load):
    template = turns("m['content']").replace("%}{{", "if m['role'] == 'user' %}{{", 1)
    with pytest.raises(UserError, match=r"does not contain the text of the answer"):
        load(template)


def test_a_template_that_puts_the_question_behind_its_answer(load):
    template = turns("m['content']").replace("in messages", "in messages | reverse")
    with pytest.raises(UserError, match=r"puts the answer before its question"):
        load(template)


FINE = {
    "plain": turns("m['content']"),
    "without outer spaces": turns("m['content'] | trim"),
    "stripped": turns("m['content'].strip()"),
    "thoughts taken out of answers": turns("m['content'].split('</think>')[-1].lstrip('\n')"),
    "one turn alone": "{% if messages | length > 2 %}{{ raise_exception('one turn') }}{% endif %}"
    + turns("m['content']"),
    "parts or text": turns("(m['content'] if m['content'] is string else m['content'][0]['text'])"),
}


@pytest.mark.parametrize("template", FINE.values(), ids=FINE)
def test_templates_that_render_all_are_fine(load, template):
    assert load(template).chat_template == template
