"""An operator of a run, who pauses job types and lanes, and lets them go on."""

from __future__ import annotations

from typing import Any

import grpc

from jobstate.v1 import dispatch_service_pb2 as dispatch_pb

from ..support.waiting import pause
from .clients import CALL_TIMEOUT_S, Client, Shared, may_be_done
from .history import ANSWERED, REFUSED, UNKNOWN, Pausing
from .recording import ending_of

PAUSED: list[tuple[str, str | None]] = [
    ("shared", None),
    ("shared", "lane-0"),
    ("narrow", None),
    ("narrow", "source-1"),
    ("orderly", "lane-1"),
]
"""What is paused now and then: a type, or a lane of it."""


class Operator(Client):
    """Pauses one thing at a time."""

    paused = 0
    """How many Pauses were answered."""

    async def run(self) -> None:
        """Go on until the run stops."""
        while not self._shared.stopping.is_set():
            await self._shared.present.wait()
            job_type, lane = self._rng.choice(PAUSED)
            for _ in range(self._rng.choice([1, 1, 2])):
                self.paused += await self._tell(job_type, lane, paused=True)
                await pause(self._rng.uniform(0.0, 0.7))
            while not await self._tell(job_type, lane, paused=False):
                await pause(0.1)
                self._move()
            await pause(self._rng.uniform(0.0, 0.5))
            self._move()

    async def _tell(self, job_type: str, lane: str | None, *, paused: bool) -> bool:
        """Make one call. Returns whether it was answered."""
        pausing = Pausing(job_type, lane, paused, UNKNOWN, invoked=Shared.now())
        self._shared.pauses.append(pausing)
        calls: Any = self._at.dispatch
        kind = dispatch_pb.PauseRequest if paused else dispatch_pb.UnpauseRequest
        rpc = calls.Pause if paused else calls.Unpause
        try:
            answer = await rpc(kind(job_type=job_type, lane=lane), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            pausing.outcome = UNKNOWN if may_be_done(ending_of(error)) else REFUSED
            return False
        finally:
            pausing.returned = Shared.now()
        pausing.outcome, pausing.head = ANSWERED, answer.head
        return True
