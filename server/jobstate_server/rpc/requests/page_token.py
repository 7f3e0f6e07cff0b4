"""Page tokens: the position in a listing, valid only with the filter and order of that listing."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.filters import Position
from jobstate_server.domain.limits import ID_PATTERN, PAGE_TOKEN_LENGTH_MAX

_ID = re.compile(ID_PATTERN)


def encode_page_token(request: pb.ListRequest, last: Position) -> str:
    """The token of the page after ``last``."""
    content = json.dumps([_digest(request), last.time, last.create_sequence], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def decode_page_token(request: pb.ListRequest) -> Position | None:
    """The position after which the page begins. None for the first page.

    Raises:
        InvalidField: no server made this token, or it was made for another filter or order.
    """
    token = request.page_token
    if not token:
        return None
    if len(token) > PAGE_TOKEN_LENGTH_MAX:
        raise InvalidField("page_token", "was not made by this service")
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        digest, time, create_sequence = json.loads(content)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidField("page_token", "was not made by this service") from error
    if _is_number(time) and isinstance(create_sequence, str) and _ID.fullmatch(create_sequence):
        # Jobs of one time were in the order of their ids before.
        raise InvalidField("page_token", "was made before the service was upgraded; begin again without it")
    if not (_is_number(time) and _is_number(create_sequence)):
        raise InvalidField("page_token", "was not made by this service")
    if digest != _digest(request):
        raise InvalidField("page_token", "was made for another filter or order; begin again without it")
    return Position(time, create_sequence)


def _is_number(value: object) -> bool:
    """Whether a database can compare this with a number. Booleans are integers in Python, but not there."""
    return type(value) is int and abs(value) < 2**63


def _digest(request: pb.ListRequest) -> str:
    """A digest of the fields that must be the same for every page: all except page size and token."""
    filters = pb.ListRequest()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    return hashlib.blake2b(filters.SerializeToString(deterministic=True), digest_size=8).hexdigest()
