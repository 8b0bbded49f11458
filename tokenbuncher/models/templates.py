"""Chat templates of others. They are tried in a limited process before use, and rendered as on a fixed day."""

from __future__ import annotations

import json
import multiprocessing
import resource
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenbuncher.core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DAY = datetime(2025, 1, 1, tzinfo=UTC)
"""What a template takes for today in every measurement: what is measured must not depend on when."""
SECONDS, MEGABYTES, CHARACTERS, PATIENCE = 3, 1024, 1_000_000, 60
_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPrRsSTuUVwWxXyYzZ"
_CHANGES = "".join(
    f".replace({directive!r}, {DAY.strftime(directive)!r})"
    for letter in _DIRECTIVES
    for directive in (f"%{letter}", f"%-{letter}")
)
# The line break at its end belongs to the block before it, and is not rendered.
PIN = f"{{%- macro strftime_now(format) %}}{{{{ format{_CHANGES} }}}}{{%- endmacro %}}\n"

# What templates change where they change a text: letters, spaces, lines, quotes, brackets, words like markup, the ends.
_PARAGRAPH = (
    "\"How do I add 12 and 7?  Is 'a < b && c > d' TRUE?\n\n\tIt's a naïve café:  <b>x_1</b> = {{ 3.14 }} % \\n | [y]"
    " ### 東京 🙂\n   see https://example.org/?q=1 or ask. "
)
QUESTION = f"{''.join(f'{_PARAGRAPH}{number}' for number in range(300))}?"
REPLY = f"{QUESTION.replace('How do I', 'So we').replace('?', '!')}?"


class _Exchange(NamedTuple):
    """An exchange that a template must render unchanged."""

    question: str
    answer: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """Both as a conversation."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]


_EXCHANGES = (_Exchange("hello", "fine"), _Exchange(QUESTION, REPLY))
_SEVERAL = [*_EXCHANGES[0].messages, *_EXCHANGES[1].messages[:1]]
CONVERSATIONS = [
    *((one.messages[:number], begin) for one in _EXCHANGES for number, begin in ((1, True), (2, False))),
    (_SEVERAL, True),
]
"""What a template is tried with: messages, and whether the beginning of a response is to follow."""


class _Trial(NamedTuple):
    """The result of rendering a template."""

    clock: bool
    """Whether it asks for the date or time."""
    chance: str | None
    """What in it gives another text each time."""


def tried(
    where: str,
    template: str,
    variables: Mapping[str, Any],
    *,
    conversations: Sequence[tuple[list[dict[str, str]], bool]],
) -> str:
    """A template as it is to be used: it ends, renders the same each time, and takes every day for `DAY`.

    Args:
        where: Name of the template in error messages.
        template: Text of the template.
        variables: Texts that it may use, such as the tokenizer's special tokens.
        conversations: Conversations to render: messages, and whether to append the beginning of a response.

    Raises:
        UserError: If it goes over the limits, or renders by chance.
    """
    trial = _trial(where, template, json.dumps([dict(variables), list(conversations)], default=str))
    if trial.chance:
        raise UserError(f"{where} uses {trial.chance}, which gives another text each time; take it out")
    return PIN + template if trial.clock else template


def check_rendered(where: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that the chat template of a tokenizer renders questions and answers in order, and changes neither.

    Spaces around them it may leave out. Of several questions it may refuse all but the first.

    Raises:
        UserError: If it does not.
    """
    for exchange in _EXCHANGES:
        asked = _rendered(tokenizer, exchange.messages[:1], begin=True)
        answered = _rendered(tokenizer, exchange.messages, begin=False)
        for text in (asked, answered):
            _refuse_without(where, "question", exchange.question, rendered=text)
        _refuse_without(where, "answer", exchange.answer, rendered=answered)
        if exchange.answer not in answered.partition(exchange.question)[2]:
            raise UserError(f"{where} puts the answer before its question; mend the template")
    try:
        several = _rendered(tokenizer, _SEVERAL, begin=True)
    except Exception:  # whoever asks several is told
        return
    _refuse_without(where, "question", QUESTION, rendered=several)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, begin: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=begin))


def _refuse_without(where: str, what: str, text: str, *, rendered: str) -> None:
    if not rendered.strip():
        raise UserError(f"{where} renders nothing for a question; mend the template")
    if text not in rendered:
        raise UserError(
            f"what {where} renders does not contain the text of the {what} as it was given (it begins with "
            f"{json.dumps(rendered[:60], ensure_ascii=False)}): the model would see nothing of it, a part or another "
            "text. Mend the template; it gets each content as one string, not as parts"
        )


def as_released(template: str) -> str:
    """The template as it came."""
    return template.removeprefix(PIN)


@lru_cache(maxsize=64)
def _trial(where: str, template: str, given: str) -> _Trial:
    """Renders in a process of its own, which ends at the limits; forked, as it starts at once and with all imported."""
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_try, args=(sender, template, given))
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(PATIENCE) else None
    except EOFError:  # it was ended
        answer = None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if answer is None:
        raise UserError(
            f"{where} does not come to an end: to render a question takes more than {SECONDS} seconds, "
            f"{MEGABYTES} MB or {CHARACTERS:,} characters; mend the template"
        )
    return _Trial(*answer)


def _try(sender: Connection, template: str, given: str) -> None:
    """Renders, and sends how that went; null: over a limit."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    _limit()
    answer: tuple[bool, str | None] | None = (False, None)
    try:
        compiled = _compile_jinja_template(template)
        answer = _asks(compiled.environment, template)
        variables, conversations = json.loads(given)
        for messages, begin in conversations:
            parts = compiled.generate(messages=messages, add_generation_prompt=begin, **variables)
            if sum(map(len, parts)) > CHARACTERS:
                answer = None
    except MemoryError:
        answer = None
    except Exception:  # whoever renders it next is told
        pass
    sender.send(answer)


def _limit() -> None:
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    for what, limit in ((resource.RLIMIT_AS, size + MEGABYTES * 1024**2), (resource.RLIMIT_CPU, SECONDS)):
        resource.setrlimit(what, (limit, limit))


def _asks(environment: Any, template: str) -> tuple[bool, str | None]:
    from jinja2 import nodes

    tree = environment.parse(template)
    names = {name.name for name in tree.find_all(nodes.Name)}
    chance = "the filter `random`" if any(it.name == "random" for it in tree.find_all(nodes.Filter)) else None
    return "strftime_now" in names, "`lipsum`" if "lipsum" in names else chance
