"""The command that erases jobs. Values only, as in ``domain.commands``."""

from __future__ import annotations

from jobstate_server.domain.caller import ANONYMOUS, Caller
from jobstate_server.domain.commands import Command
from jobstate_server.domain.reads import Named, Reads
from jobstate_server.domain.values import value


@value
class EraseFinished(Command):
    """Delete those of these jobs that are final, and tell nothing of them but their ids, types and states."""

    job_ids: tuple[str, ...]
    caller: Caller = ANONYMOUS

    def add_reads(self, reads: Reads) -> None:
        reads.selections.add(Named(self.job_ids))
