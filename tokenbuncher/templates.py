"""Chat templates of other people: tried in a process with limits before they are used, and read on a settled day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tokenbuncher.errors import UserError

DAY = datetime(2025, 1, 1, tzinfo=UTC)
"""What a template takes for today in every measurement: what is measured must not depend on when."""
SECONDS, MEGABYTES, CHARACTERS, PATIENCE = 5, 1024, 1_000_000, 120
_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPrRsSTuUVwWxXyYzZ"
_CHANGES = "".join(
    f".replace({directive!r}, {DAY.strftime(directive)!r})"
    for letter in _DIRECTIVES
    for directive in (f"%{letter}", f"%-{letter}")
)
# The line break at its end belongs to the block before it, and is not rendered.
PIN = f"{{%- macro strftime_now(format) %}}{{{{ format{_CHANGES} }}}}{{%- endmacro %}}\n"


class _Trial(NamedTuple):
    """What came of rendering a template."""

    clock: bool
    """Whether it asks for the date or time."""
    chance: str | None
    """What in it gives another text each time."""


def tried(
    where: str, template: str, variables: Mapping[str, Any], conversations: Sequence[tuple[list[dict[str, str]], bool]]
) -> str:
    """A template as it is to be used: it ends, renders the same each time, and takes every day for `DAY`.

    Args:
        where: What errors call it.
        template: Its text.
        variables: Texts that it may use, such as the tokenizer's special tokens.
        conversations: What to render: messages, and whether the beginning of a response is to follow.

    Raises:
        UserError: If it goes over the limits, or renders by chance.
    """
    trial = _trial(where, template, json.dumps([dict(variables), list(conversations)], default=str))
    if trial.chance:
        raise UserError(f"{where} uses {trial.chance}, which gives another text each time; take it out")
    return PIN + template if trial.clock else template


def as_released(template: str) -> str:
    """The template as it came."""
    return template.removeprefix(PIN)


@lru_cache(maxsize=64)
def _trial(where: str, template: str, given: str) -> _Trial:
    package = str(Path(__file__).parent.parent)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=json.dumps([template, *json.loads(given)]),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))},
        )
    except subprocess.TimeoutExpired:
        raise UserError(_endless(where)) from None
    if done.returncode:
        raise UserError(_endless(where) if done.returncode < 0 else f"{where} cannot be tried: {done.stderr[-500:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer is None:
        raise UserError(_endless(where))
    return _Trial(*answer)


def _endless(where: str) -> str:
    return (
        f"{where} does not come to an end: to render one short question takes more than {SECONDS} seconds, "
        f"{MEGABYTES} MB or {CHARACTERS:,} characters; mend the template"
    )


def _try() -> None:
    """Renders what stdin holds, and tells on stdout how that went; null: over a limit."""
    import resource

    from transformers.utils.chat_template_utils import _compile_jinja_template

    template, variables, conversations = json.loads(sys.stdin.read())
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime) + SECONDS
    size = (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        + MEGABYTES * 1024**2
    )
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    answer: tuple[bool, str | None] | None = (False, None)
    try:
        compiled = _compile_jinja_template(template)
        answer = _asks(compiled.environment, template)
        for messages, begin in conversations:
            written = sum(
                len(part) for part in compiled.generate(messages=messages, add_generation_prompt=begin, **variables)
            )
            if written > CHARACTERS:
                answer = None
    except MemoryError:
        answer = None
    except Exception:  # whoever renders it next is told
        pass
    print(json.dumps(answer), flush=True)
    os._exit(0)


def _asks(environment: Any, template: str) -> tuple[bool, str | None]:
    from jinja2 import nodes

    tree = environment.parse(template)
    names = {name.name for name in tree.find_all(nodes.Name)}
    chance = "the filter `random`" if any(it.name == "random" for it in tree.find_all(nodes.Filter)) else None
    return "strftime_now" in names, "`lipsum`" if "lipsum" in names else chance


if __name__ == "__main__":
    _try()
