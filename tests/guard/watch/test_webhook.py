"""Deliveries of webhooks: none is accepted but MLflow's own, in time, and once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbuncher.guard.watch import AliasMove, Rejected, SeenDeliveries, read_delivery
from tokenbuncher.guard.watch.webhook import LARGEST_BODY

SECRET = "a secret that both of them know"
NOW = 1_800_000_000
EVENT: dict[str, Any] = {
    "entity": "model_version_alias",
    "action": "created",
    "timestamp": "2027-01-15T08:00:00+00:00",
    "data": {"name": "assistant", "alias": "champion", "version": "7"},
}
BODY = json.dumps(EVENT).encode()


def signed(
    body: bytes = BODY, secret: str = SECRET, delivery: str = "0d5cf4b2-6d05", timestamp: int | str = NOW
) -> dict[str, str]:
    """The headers that MLflow sends, by its own recipe."""
    digest = hmac.new(secret.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": str(timestamp),
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
    }


def read(headers: dict[str, str], body: bytes = BODY, seen: SeenDeliveries | None = None) -> AliasMove | None:
    return read_delivery(headers, body, SECRET, now=NOW, seen=seen or SeenDeliveries())


def assert_rejected(headers: dict[str, str], body: bytes, status: int, says: str) -> None:
    with pytest.raises(Rejected, match=says) as rejected:
        read(headers, body)
    assert rejected.value.status == status
    assert SECRET not in str(rejected.value)


def test_mlflows_delivery_is_read() -> None:
    assert read(signed()) == AliasMove(name="assistant", alias="champion")


def test_a_model_with_the_tag_of_a_prompt_is_told_of_as_a_prompt() -> None:
    body = json.dumps({**EVENT, "entity": "prompt_alias"}).encode()
    assert read(signed(body), body) == AliasMove(name="assistant", alias="champion")


def test_headers_may_have_any_case() -> None:
    assert read({name.lower(): value for name, value in signed().items()}) is not None


def test_signature_is_the_one_that_mlflow_makes() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    assert signed()["X-MLflow-Signature"] == _generate_hmac_signature(SECRET, "0d5cf4b2-6d05", str(NOW), BODY.decode())


@pytest.mark.parametrize("name", signed())
def test_every_header_is_needed(name: str) -> None:
    headers = {other: value for other, value in signed().items() if other != name}
    assert_rejected(headers, BODY, 400, f"{name} is missing")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-MLflow-Delivery-Id", ""),
        ("X-MLflow-Delivery-Id", "a.b"),
        ("X-MLflow-Delivery-Id", "a" * 129),
        ("X-MLflow-Timestamp", "yesterday"),
        ("X-MLflow-Timestamp", "-1"),
        ("X-MLflow-Timestamp", "1e9"),
        ("X-MLflow-Timestamp", "١٢٣"),
        ("X-MLflow-Timestamp", "9" * 5000),
        ("X-MLflow-Signature", "v1,"),
        ("X-MLflow-Signature", "v2," + "A" * 43 + "="),
        ("X-MLflow-Signature", "ß"),
    ],
)
def test_garbled_headers_are_rejected(name: str, value: str) -> None:
    assert_rejected({**signed(), name: value}, BODY, 400, f"{name} is garbled")


@pytest.mark.parametrize(
    "headers",
    [
        signed(secret="another secret altogether"),
        signed(body=BODY + b" "),
        {**signed(), "X-MLflow-Delivery-Id": "another"},
        {**signed(), "X-MLflow-Timestamp": str(NOW + 1)},
    ],
    ids=["secret", "body", "id", "timestamp"],
)
def test_wrong_signature_is_rejected(headers: dict[str, str]) -> None:
    assert_rejected(headers, BODY, 401, "wrong signature")


@pytest.mark.parametrize("off", [-301, 301, -NOW, 10**11])
def test_other_times_are_rejected(off: int) -> None:
    assert_rejected(signed(timestamp=NOW + off), BODY, 401, "300 s off")


@pytest.mark.parametrize("off", [-300, 300])
def test_clocks_may_differ_a_little(off: int) -> None:
    assert read(signed(timestamp=NOW + off)) is not None


def test_replay_is_rejected() -> None:
    seen = SeenDeliveries()
    read(signed(), seen=seen)
    with pytest.raises(Rejected, match="before") as rejected:
        read(signed(), seen=seen)
    assert rejected.value.status == 409


def test_forgery_does_not_use_up_a_delivery() -> None:
    seen = SeenDeliveries()
    with pytest.raises(Rejected):
        read(signed(secret="another secret altogether"), seen=seen)
    assert read(signed(), seen=seen) is not None


def test_memory_of_deliveries_is_bounded() -> None:
    seen = SeenDeliveries(limit=3)
    assert all(seen.add(delivery) for delivery in "abcd")
    assert not any(seen.add(delivery) for delivery in "bcd")
    assert seen.add("a")


def test_large_body_is_rejected() -> None:
    body = b" " * (LARGEST_BODY + 1)
    assert_rejected(signed(body), body, 413, "65537 bytes")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        json.dumps({**EVENT, "more": 1}).encode(),
        json.dumps({**EVENT, "data": {"alias": "champion"}}).encode(),
        json.dumps({**EVENT, "data": {"name": "", "alias": "champion"}}).encode(),
        json.dumps({**EVENT, "data": {"name": 7, "alias": "champion"}}).encode(),
        json.dumps({**EVENT, "data": []}).encode(),
    ],
)
def test_what_is_no_event_is_rejected(body: bytes) -> None:
    assert_rejected(signed(body), body, 400, "not an MLflow event")


def test_unknown_fields_are_taken_inside_data_only() -> None:
    body = json.dumps({**EVENT, "workspace": "default", "data": {**EVENT["data"], "more": [1]}}).encode()
    assert read(signed(body), body) == AliasMove(name="assistant", alias="champion")


@pytest.mark.parametrize(
    "kind", [("model_version_alias", "deleted"), ("prompt_alias", "deleted"), ("budget_policy", "exceeded")]
)
def test_other_events_are_ignored(kind: tuple[str, str]) -> None:
    body = json.dumps({**EVENT, "entity": kind[0], "action": kind[1], "data": {"x": 1}}).encode()
    assert read(signed(body), body) is None


garbage = st.dictionaries(st.sampled_from([*signed(), "Content-Type", ""]), st.text(max_size=80))


@given(headers=garbage, body=st.binary(max_size=300) | st.just(BODY))
def test_nothing_unsigned_is_accepted(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(Rejected):
        read(headers, body)


@given(
    name=st.sampled_from(list(signed())),
    place=st.integers(0, 60),
    character=st.characters(),
    body=st.just(BODY) | st.binary(max_size=300),
)
def test_no_changed_delivery_is_accepted(name: str, place: int, character: str, body: bytes) -> None:
    headers = signed()
    value = headers[name]
    headers[name] = value[:place] + character + value[place + 1 :]
    if (headers, body) == (signed(), BODY):
        assert read(headers, body) is not None
    else:
        with pytest.raises(Rejected):
            read(headers, body)


@given(
    body=st.binary(max_size=500) | st.recursive(st.none() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_signed_nonsense_is_rejected(body: bytes) -> None:
    assert_rejected(signed(body), body, 400, "not an MLflow event")
