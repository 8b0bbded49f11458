"""One delivery of an MLflow webhook: whether MLflow sent it, just now and for the first time, and what it says."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from http import HTTPStatus
from threading import Lock
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenbuncher.core.documents import Strict, first_problem
from tokenbuncher.core.errors import UserError

ALIAS_SET = {("model_version_alias", "created"), ("prompt_alias", "created")}
"""Events of an alias that was set; a model with the tag of a prompt, which anybody can set, counts as a prompt."""
LARGEST_BODY = 64 * 1024
TOLERANCE_SECONDS = 5 * 60

# No dots: the signature is over "id.timestamp.body", which then reads in one way only.
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")

Name = Annotated[str, Field(min_length=1, max_length=1000)]


class Rejected(UserError):
    """A delivery that is not acted on; `status` is the answer to its sender."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class AliasMove(BaseModel):
    """An alias was set, says MLflow. On which version, ask the registry: by now it may be on another."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Name
    alias: Name


class SeenDeliveries:
    """Identifiers of the latest accepted deliveries; what is older, its timestamp keeps from coming again."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._ids: dict[str, None] = {}  # a set in order of arrival
        self._lock = Lock()

    def add(self, delivery: str) -> bool:
        """Remembers a delivery; False if it is remembered already."""
        with self._lock:
            if delivery in self._ids:
                return False
            self._ids[delivery] = None
            if len(self._ids) > self._limit:
                del self._ids[next(iter(self._ids))]
            return True


class _Envelope(Strict):
    entity: str
    action: str
    timestamp: str
    workspace: str | None = None
    data: dict[str, Any]


def read_delivery(
    headers: Mapping[str, str], body: bytes, secret: str, *, now: float, seen: SeenDeliveries
) -> AliasMove | None:
    """Verifies a delivery.

    Args:
        headers: The headers of the request; the case of their names does not matter.
        body: The body of the request.
        secret: The webhook's.
        now: The present, in seconds since 1970.
        seen: Earlier deliveries; a genuine one is added.

    Returns:
        The move of an alias; None for a genuine event of another kind.

    Raises:
        Rejected: If it is not MLflow's, not of the last minutes, not the first of its id, or not understood.
    """
    check_size(len(body))
    fields = {name.lower(): value for name, value in headers.items()}
    delivery = _field(fields, "X-MLflow-Delivery-Id", _ID)
    timestamp = _field(fields, "X-MLflow-Timestamp", _TIMESTAMP)
    signature = _field(fields, "X-MLflow-Signature", _SIGNATURE)
    if not hmac.compare_digest(signature, _signed(secret, delivery, timestamp, body=body)):
        raise Rejected(HTTPStatus.UNAUTHORIZED, "wrong signature; is the webhook's secret the watcher's?")
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise Rejected(HTTPStatus.UNAUTHORIZED, f"timestamp is more than {TOLERANCE_SECONDS} s off; compare the clocks")
    if not seen.add(delivery):
        raise Rejected(HTTPStatus.CONFLICT, "this delivery was accepted before")
    try:
        event = _Envelope.model_validate_json(body)
        if (event.entity, event.action) not in ALIAS_SET:
            return None
        return AliasMove.model_validate(event.data)
    except ValidationError as error:
        raise Rejected(HTTPStatus.BAD_REQUEST, f"not an MLflow event: {first_problem(error)}") from error


def check_size(size: int) -> None:
    """Refuses a body that is too large, which need not be read for that.

    Raises:
        Rejected: If it is.
    """
    if size > LARGEST_BODY:
        raise Rejected(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body has {size} bytes; {LARGEST_BODY} are allowed")


def _field(fields: Mapping[str, str], name: str, form: re.Pattern[str]) -> str:
    value = fields.get(name.lower())
    if value is None:
        raise Rejected(HTTPStatus.BAD_REQUEST, f"header {name} is missing; has the webhook a secret?")
    if not form.fullmatch(value):
        raise Rejected(HTTPStatus.BAD_REQUEST, f"header {name} is garbled")
    return value


def _signed(secret: str, delivery: str, timestamp: str, *, body: bytes) -> str:
    content = f"{delivery}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret.encode(), content, "sha256")).decode()
