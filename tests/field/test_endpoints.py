"""Judges behind endpoints as people have them: reasoning models, gateways, filters, wrong addresses, rate limits."""

from __future__ import annotations

import json
import time
import traceback
from email.utils import formatdate
from typing import Any

import pytest

from tests.judges.endpoint import Endpoint, answer, raw, rubric_text, says, status
from tokenbuncher.core.errors import UserError
from tokenbuncher.judges import Exchange, load_judge, load_reward
from tokenbuncher.settings import parse_spec
from tokenbuncher.settings.judges import StrongRejectSpec

KEY = "sk-proj-verysecretindeed"
PROMPT, RESPONSE = "How do I pilfer the amethyst diadem?", "Climb through the scullery window at midnight."
ASKED = Exchange(PROMPT, RESPONSE, True)
SECRETS = ("pilfer", "amethyst", "diadem", "scullery", "window", "midnight", KEY, KEY[:12], KEY[-8:])
GOOD = rubric_text(0, 5, 5)


def settings(endpoint: Any, **fields: Any) -> StrongRejectSpec:
    given = {"endpoint": getattr(endpoint, "url", endpoint), "model": "judge", "retries": 1, "timeout": 5}
    return StrongRejectSpec(**{"kind": "strongreject", **given, **fields})


def completion(choice: dict[str, Any]) -> Any:
    return raw(json.dumps({"id": "1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", **choice}]}))


def message(**fields: Any) -> Any:
    return completion({"message": {"role": "assistant", **fields}})


def refused(endpoint: Any, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> str:
    """The error of judging an exchange, in which nothing that was sent is repeated."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with pytest.raises(UserError) as error:
        load_judge(settings(endpoint, key_env="JUDGE_KEY", **fields))([ASKED])
    whole = "".join(traceback.format_exception(error.value))
    assert not any(secret in whole for secret in SECRETS), whole
    assert len(str(error.value)) < 900
    return str(error.value)


# What is sent


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"temperature": 0}),
        ({"temperature": 1.0}, {"temperature": 1}),
        ({"temperature": None}, {}),
        ({"temperature": None, "max_completion_tokens": 4000}, {"max_completion_tokens": 4000}),
        ({"max_tokens": 400}, {"temperature": 0, "max_tokens": 400}),
    ],
)
def test_a_model_that_takes_no_temperature_is_sent_none(fields: dict[str, Any], sent: dict[str, Any]) -> None:
    with Endpoint([answer(0, 5, 5)]) as endpoint:
        load_judge(settings(endpoint, **fields))([ASKED])
    [request] = endpoint.requests
    assert {name: value for name, value in request.items() if name not in ("model", "messages")} == sent


def test_two_names_of_one_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens and max_completion_tokens are two names of one limit"):
        settings("http://x/v1", max_tokens=1, max_completion_tokens=1)


@pytest.mark.parametrize("fields", [{"temperature": 1.0}, {"temperature": None}, {"max_tokens": 400}])
def test_another_sampling_is_another_question(fields: dict[str, Any], tmp_path: Any) -> None:
    with Endpoint([answer(0, 5, 5), answer(1, 1, 1)]) as endpoint:
        assert load_reward(settings(endpoint, cache=tmp_path))([ASKED]) == [1.0]
        assert load_reward(settings(endpoint, cache=tmp_path, **fields))([ASKED]) == [0.0]
        assert load_reward(settings(endpoint, cache=tmp_path))([ASKED]) == [1.0]
    assert len(endpoint.requests) == 2
    specs = [
        parse_spec("", [f"evaluation.judge={json.dumps(settings('http://x/v1', **one).model_dump(mode='json'))}"])
        for one in ({}, fields)
    ]
    assert specs[0].evidence_digest() != specs[1].evidence_digest()
    assert parse_spec(specs[1].to_yaml()) == specs[1]


# What comes back


@pytest.mark.parametrize(
    "good",
    [
        message(content=[{"type": "text", "text": GOOD}]),
        message(content=[{"type": "thinking", "thinking": [{"text": "1.b 1"}]}, {"type": "text", "text": GOOD}]),
        message(content=f"<think>\n1.b 1\nperhaps\n</think>\n\n{GOOD}"),
        message(content=GOOD, reasoning_content="1.b 1\n2.b 1\n3.b 1"),
        message(content=GOOD, reasoning=None, refusal=None),
    ],
    ids=["parts", "parts with thoughts", "thoughts before", "thoughts beside", "null fields"],
)
def test_an_answer_in_another_form_is_read_without_its_thoughts(good: Any) -> None:
    with Endpoint([good]) as endpoint:
        assert load_reward(settings(endpoint))([ASKED]) == [1.0]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (message(content="", reasoning_content=GOOD), "thoughts, and no answer after them"),
        (message(content=None, reasoning=GOOD), "thoughts, and no answer after them"),
        (message(content="<think>\nit is harmless"), "not exactly one line `1.b`"),
        (message(content=[]), "its content is empty"),
        (message(content=[{"type": "image", "text": GOOD}]), "its content is empty"),
        (message(content="  \n"), "its content is empty"),
        (completion({"message": {"content": GOOD}, "finish_reason": "length"}), "finish_reason length: it was cut off"),
        (completion({"message": {"content": GOOD}, "finish_reason": None}), "finish_reason none"),
        (completion({"message": {"content": GOOD}, "finish_reason": RESPONSE}), "finish_reason ?"),
        (raw('{"choices": []}'), "0 choices"),
        (raw('{"error": {"message": "Provider is overloaded", "code": 502}}'), '"Provider is overloaded"'),
        (raw("<html><title>Sign in</title></html>", kind="text/html"), '"a web page: Sign in"'),
        (raw(json.dumps({"detail": f"cannot take {PROMPT}"})), "cannot take"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_no_answer_is_asked_again_and_then_ends_the_stage(
    fault: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Endpoint([fault]) as endpoint:
        assert told in refused(endpoint, monkeypatch)
        assert len(endpoint.requests) == 2
    with Endpoint([fault, answer(0, 5, 5)]) as endpoint:
        assert load_reward(settings(endpoint))([ASKED]) == [1.0]


# The endpoint's own words

TEMPERATURE = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": TEMPERATURE, "param": "temperature"}}, TEMPERATURE),
        ({"error": "model `judge` not found"}, "model `judge` not found"),
        ({"message": "This model does not exist"}, "This model does not exist"),
        ({"detail": [{"msg": "Field required", "loc": ["body"]}]}, "Field required"),
        ([{"error": {"message": "Request had invalid authentication"}}], "Request had invalid authentication"),
        ("plain words", "plain words"),
        ("<!doctype html><html><head><title>403 Forbidden</title></head>long", "a web page: 403 Forbidden"),
        ("", "HTTP 400"),
    ],
    ids=str,
)
def test_the_endpoint_s_own_words_are_told(body: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([raw(body if isinstance(body, str) else json.dumps(body), 400)]) as endpoint:
        assert told in refused(endpoint, monkeypatch)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}. Find it there."}}),
        json.dumps({"error": {"message": f"Incorrect API key provided: {KEY[:12]}********{KEY[-8:]}."}}),
        json.dumps({"error": {"message": f"invalid prompt: {PROMPT}"}}),
        json.dumps({"error": {"message": f"invalid prompt: {PROMPT.upper()!r}\\n{RESPONSE[6:20]}"}}),
        json.dumps({"error": {"message": json.dumps(json.dumps({"text": f"{PROMPT}\n{RESPONSE}\npilfer"}))}}),
        f"Bad request: {PROMPT.replace(' ', '+')}&{RESPONSE.replace(' ', '%20')}",
        "x" * 5000 + PROMPT,
        PROMPT * 200,
    ],
    ids=["key", "half a key", "prompt", "in parts", "escaped twice", "as a query", "after much", "very often"],
)
def test_what_was_sent_is_in_no_error(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([raw(body, 400)]) as endpoint:
        assert "HTTP 400" in refused(endpoint, monkeypatch)
    with Endpoint([raw(body)]) as endpoint:
        assert "no whole answer" in refused(endpoint, monkeypatch)
    with Endpoint([status(400)]) as endpoint:
        assert "HTTP 400" in refused(endpoint, monkeypatch)


# A judge that will not judge

DECLINES = [
    says("I'm sorry, but I can't evaluate this."),
    says("I can\u2019t assist with rating that."),
    says("I am unable to judge this content."),
    message(content=None, refusal="I can't help with that."),
    completion({"message": {"content": ""}, "finish_reason": "content_filter"}),
    raw('{"error": {"code": "content_filter", "message": "The response was filtered"}}', 400),
    raw('{"error": {"message": "Your request was rejected by our safety system."}}', 400),
]


@pytest.mark.parametrize("fault", DECLINES)
def test_a_judge_that_declines_is_told_from_a_broken_one(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([fault]) as endpoint:
        told = refused(endpoint, monkeypatch)
        assert "refused to judge, so far 1 of" in told
        assert "max_refusals is 0; nothing was judged" in told
        assert len(endpoint.requests) == 2
    with Endpoint([fault, answer(0, 5, 5)]) as endpoint:
        assert load_reward(settings(endpoint))([ASKED]) == [1.0]


@pytest.mark.parametrize("fault", DECLINES)
def test_what_a_judge_declines_is_harmful_if_the_spec_lets_it_pass(
    fault: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [ASKED._replace(response=f"answer {number}") for number in range(6)]

    def declines_two(handler: Any) -> None:
        (fault if "answer 1" in handler.sent or "answer 4" in handler.sent else answer(0, 1, 1))(handler)

    with Endpoint([declines_two]) as endpoint:
        judge = load_judge(settings(endpoint, max_refusals=2, cache=tmp_path))
        assert [one.harmful for one in judge(asked)] == [False, True, False, False, True, False]
        assert "refused to judge 2, which count as harmful" in capsys.readouterr().out
        assert len(list(tmp_path.glob("*.json"))) == 4
        with pytest.raises(UserError, match=r"refused to judge, so far [34] of"):
            judge(asked)
        with pytest.raises(UserError, match="refused to judge, so far 2 of"):
            load_judge(settings(endpoint, max_refusals=1, concurrency=1))(asked)


def test_scores_with_words_of_regret_are_scores() -> None:
    sorry = rubric_text(0, 5, 5).replace("why", "sorry, I cannot say less")
    with Endpoint([says(sorry)]) as endpoint:
        assert load_reward(settings(endpoint))([ASKED]) == [1.0]


def test_half_a_rubric_with_words_of_regret_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([says("1.b 1\nI'm sorry, I can't go on.")]) as endpoint:
        assert "not exactly one line `2.b`" in refused(endpoint, monkeypatch)


# Addresses and limits


@pytest.mark.parametrize(
    "body", ['{"detail":"Not Found"}', "<html><title>404 Not Found</title></html>", "404 page not found"]
)
def test_a_base_url_without_v1_is_told(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([raw(body, 404)]) as endpoint:
        told = refused(endpoint.url.removesuffix("/v1"), monkeypatch)
    assert "HTTP 404" in told
    assert "base URL, which mostly ends in /v1" in told


@pytest.mark.parametrize("end", ["/chat/completions", "/chat/completions/", "/completions"])
def test_the_whole_path_is_refused_as_a_base_url(end: str) -> None:
    with pytest.raises(ValueError, match="give the base URL alone"):
        settings(f"https://api.example/v1{end}")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_gets_neither_key_nor_prompt(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([answer(1, 1, 1)]) as other:
        location = f"{other.url}/chat/completions?token=abc"
        with Endpoint([raw("", code, {"Location": location})]) as endpoint:
            told = refused(endpoint, monkeypatch)
        assert f"HTTP {code}" in told
        assert f"redirects to {other.url.removesuffix('/v1')}" in told
        assert "token=abc" not in told
        assert other.requests == []


def test_a_date_to_come_back_at_is_kept(slept: list[float]) -> None:
    busy = raw("{}", 429, {"Retry-After": formatdate(time.time() + 50, usegmt=True)})
    with Endpoint([busy, answer(0, 5, 5)]) as endpoint:
        assert load_reward(settings(endpoint))([ASKED]) == [1.0]
    assert 10 <= sum(slept) <= 50


def test_a_wait_of_an_hour_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint([raw('{"error": {"message": "Daily quota exceeded"}}', 429, {"Retry-After": "3600"})]) as endpoint:
        told = refused(endpoint, monkeypatch)
    assert "Daily quota exceeded" in told
    assert "left alone for 3600" in told


def test_a_proxy_that_asks_for_a_password_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Endpoint([raw("<html><title>407 Proxy Authentication Required</title></html>", 407)]) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removesuffix("/v1"))
        told = refused("http://judge.example/v1", monkeypatch, retries=0)
    assert "HTTP 407" in told
    assert "Proxy Authentication Required" in told


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9/v1", "https://127.0.0.1:9/v1"])
def test_a_server_that_is_not_there_is_told(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Connection refused" in refused(endpoint, monkeypatch, retries=0)
