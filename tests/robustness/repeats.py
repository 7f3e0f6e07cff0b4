"""One who repeats every call long after it was made: also when its answer is old news, and its job deleted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import grpc

from ..support.waiting import pause
from .clients import CALL_TIMEOUT_S, Shared, Stubs, note_failure
from .history import ANSWERED, UNKNOWN, Call
from .recording import state_name


class Repeater:
    """Makes calls of a run once more, at any time, with the same request id and content."""

    def __init__(self, shared: Shared, stubs: Sequence[Stubs], rng: random.Random) -> None:
        self.repeated = 0
        self._shared = shared
        self._stubs = stubs
        self._rng = rng

    async def run(self) -> None:
        """Go on until the run stops."""
        while not self._shared.stopping.is_set():
            await pause(self._rng.uniform(0.0, 0.1))
            if self._shared.repeatable:
                await self._repeat()

    async def _repeat(self) -> None:
        original, request = self._rng.choice(self._shared.repeatable)
        if not self._shared.may_repeat(request):
            return
        call = replace(original, tries=1, outcome=UNKNOWN, code="", reason="", version=0, attempt=0, state="")
        # Once its request id is forgotten, a call that lets the server choose an id makes another job.
        call.job_id = "" if call.rpc == "Recreate" else getattr(request, "id", "")
        call.changes = call.existing = False
        call.invoked = Shared.now()
        with self._shared.creation(request):
            await self._make(call, request)

    async def _make(self, call: Call, request: Any) -> None:
        try:
            answer: Any = await getattr(self._rng.choice(self._stubs).jobs, call.rpc)(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            note_failure(call, error)
        else:
            call.outcome, call.code = ANSWERED, "OK"
            job = getattr(answer, "job", None)
            call.existing = getattr(answer, "existing", False)
            if job is not None:
                call.job_id = call.job_id or job.id
                call.version, call.attempt, call.state = job.version, job.attempt, state_name(job.state)
        call.returned = Shared.now()
        self._shared.calls.append(call)
        self.repeated += 1
