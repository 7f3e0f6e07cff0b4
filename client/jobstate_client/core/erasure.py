"""What Erase returns."""

from __future__ import annotations

from dataclasses import dataclass

from jobstate.v1 import maintenance_service_pb2 as maintenance_pb
from jobstate_client.core.decoding import decode, decoders


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """What was erased."""

    jobs: int
    events: int
    request_ids: int
    unfinished: int
    """Jobs of the source, or with the labels, that are left, because they are not final or are still needed."""
    unfinished_job_ids: tuple[str, ...]
    """The first 100 of them."""


_ERASURE_RESULT = decoders(ErasureResult, maintenance_pb.EraseResponse.DESCRIPTOR)


def erasure_result(response: maintenance_pb.EraseResponse) -> ErasureResult:
    """What was erased."""
    return decode(ErasureResult, _ERASURE_RESULT, response)
