"""Parses a batch of StreamUpdates so that an update that cannot be parsed does not affect the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.message import DecodeError

from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain import limits
from jobstate_server.domain.errors import InvalidField, MessageTooLarge
from jobstate_server.rpc.transport_limits import OUTCOME_BYTES
from jobstate_server.wire.framing import fields

_BATCH = pb.StreamUpdatesRequest.BATCH_FIELD_NUMBER
_UPDATES = pb.StreamUpdatesRequest.UPDATES_FIELD_NUMBER
_ID = pb.CreateRequest.ID_FIELD_NUMBER
"""It is the same in every request that an update can have."""

WHOLE_BYTES_MAX = limits.MEBIBYTE
"""A larger batch is parsed update by update. As a whole, a batch of very small values would take ten times its size."""


class UnreadableUpdate(NamedTuple):
    """An update that cannot be parsed."""

    id: str
    """The id of its job, as far as it can be read."""
    refusal: InvalidField


class UpdateBatch(NamedTuple):
    """A parsed batch."""

    number: int
    updates: Iterable[pb.JobUpdate | UnreadableUpdate]
    """Can be iterated only once."""


def read_batch(raw: bytes) -> UpdateBatch:
    """The batch in these bytes.

    It is parsed as a whole, or update by update if that fails or the batch is large.

    Raises:
        MessageTooLarge: there are too many bytes.
        InvalidField: these bytes are not a batch, or it has too many updates.
    """
    if len(raw) > limits.REQUEST_BYTES_MAX:
        raise MessageTooLarge(len(raw), limits.REQUEST_BYTES_MAX)
    if len(raw) <= WHOLE_BYTES_MAX:
        try:
            request = pb.StreamUpdatesRequest.FromString(raw)
        except DecodeError:
            pass
        else:
            _check_count(len(request.updates))
            return UpdateBatch(request.batch, request.updates)
    return _read_apart(raw)


def estimated_bytes(raw: bytes) -> int:
    """The most that a batch and its answer take, before it is parsed. An update has at least two bytes."""
    return len(raw) + min(len(raw) // 2, limits.BATCH_ITEMS_MAX) * OUTCOME_BYTES


def _read_apart(raw: bytes) -> UpdateBatch:
    encoded: list[bytes] = []
    number = 0
    try:
        for field, value in fields(raw):
            if field == _UPDATES and isinstance(value, bytes):
                encoded.append(value)
            elif field == _BATCH and isinstance(value, int):
                number = value - (1 << 64) if value >> 63 else value
    except ValueError as error:
        raise InvalidField("request", "is not an encoded jobstate.v1.StreamUpdatesRequest") from error
    _check_count(len(encoded))
    return UpdateBatch(number, map(_read_update, encoded))


def _check_count(count: int) -> None:
    if count > limits.BATCH_ITEMS_MAX:
        raise InvalidField("updates", f"has {count} values, at most {limits.BATCH_ITEMS_MAX} are allowed")


def _read_update(encoded: bytes) -> pb.JobUpdate | UnreadableUpdate:
    try:
        return pb.JobUpdate.FromString(encoded)
    except DecodeError:
        problem = "cannot be parsed: it is nested too deeply, holds text that is not UTF-8, or is cut short"
        return UnreadableUpdate(_id_in(encoded), InvalidField("update", problem))


def _id_in(encoded: bytes) -> str:
    """The id of the job that an update names. Empty if it cannot be read."""
    found = b""
    try:
        for _, request in fields(encoded):
            for field, value in fields(request) if isinstance(request, bytes) else ():
                if field == _ID and isinstance(value, bytes):
                    found = value
    except ValueError:
        # Use what was found before the damage.
        pass
    return found.decode(errors="replace")
