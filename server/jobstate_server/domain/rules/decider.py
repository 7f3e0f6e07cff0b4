"""Finds the rule of a command and applies it to what the store holds."""

from __future__ import annotations

from collections.abc import Callable

from jobstate_server.domain import commands as c
from jobstate_server.domain.batch_view import View
from jobstate_server.domain.errors import JobNotFound
from jobstate_server.domain.job import Job
from jobstate_server.domain.job_types import JobTypes, UnnamedTypes
from jobstate_server.domain.plan import Change, Plan
from jobstate_server.domain.rules import (
    acquire,
    attempt,
    bulk,
    cancel,
    claim,
    create,
    due,
    groups,
    maintenance,
    needs,
    pause,
    ready,
    recreate,
    recurring,
    release,
    retry,
    usage,
)
from jobstate_server.domain.rules.context import JobRules, MergeDocuments, PlanRules, RuleContext, visible_job
from jobstate_server.domain.rules.repeats import repeat

JOB_RULES: JobRules = {
    **create.JOB_RULES,
    **claim.JOB_RULES,
    **attempt.JOB_RULES,
    **release.JOB_RULES,
    **retry.JOB_RULES,
    **cancel.JOB_RULES,
    **due.JOB_RULES,
    **ready.JOB_RULES,
    **maintenance.JOB_RULES,
}

PLAN_RULES: PlanRules = {
    **create.PLAN_RULES,
    **recreate.PLAN_RULES,
    **bulk.PLAN_RULES,
    **due.PLAN_RULES,
    **maintenance.PLAN_RULES,
    **usage.PLAN_RULES,
    **acquire.PLAN_RULES,
    **pause.PLAN_RULES,
    **needs.PLAN_RULES,
    **groups.PLAN_RULES,
    **recurring.PLAN_RULES,
}


class Decider:
    """Applies the rules with the policies in force. Pure, except for the random numbers it is given."""

    def __init__(
        self,
        job_types: JobTypes,
        merge_documents: MergeDocuments,
        random: Callable[[], float],
        *,
        unnamed_types_max: int = 1_000,
    ) -> None:
        """
        Args:
            random: numbers from 0 up to 1, for the jitter of the backoff.
            unnamed_types_max: how many job types without a policy of their own may be used. Each takes rows of
                statistics for ever.
        """
        self.unnamed_types = UnnamedTypes(job_types, unnamed_types_max)
        self.context = RuleContext(job_types, merge_documents, random, self.unnamed_types)

    def decide(self, command: c.Command, view: View) -> Change | Plan | None:
        """What ``command`` does. None for a command of the server that has been overtaken.

        Raises:
            JobStateError: the command is refused and nothing changes.
        """
        rule = PLAN_RULES.get(type(command))
        if rule is not None:
            return rule(self.context, command, view)
        assert isinstance(command, c.JobCommand)
        if command.request is not None:
            earlier = view.earlier_call(command.request)
            if earlier is not None:
                return repeat(command, earlier, view.now)
            view.check_request_room(1)
        if type(command) is c.Create:
            if command.unique_key:
                found = create.existing(command, view, {})
                if found is not None:
                    return found
            if command.relations is not None:
                return create.create_related(self.context, command, view)
        # An id is in use even if the job that has it is out of reach.
        job = view.jobs.get(command.job_id) if type(command) is c.Create else visible_job(command, view)
        if job is not None and job.group_id is not None and type(command) is c.Start:
            claim.refuse_stopping(job, command, view)
        now = view.now
        if job is not None and job.update_time > now:
            # The clocks of replicas differ a little. The times of one job never go back.
            now = job.update_time
        return self.change(job, command, now)

    def change(self, job: Job | None, command: c.JobCommand, now: int) -> Change | None:
        """What ``command`` does to ``job`` at ``now``. ``job`` is None if no job has that id.

        Raises:
            JobNotFound, JobExists, InvalidField, UnknownJobType, TransitionNotAllowed, RetryNotAllowed,
            AttemptSuperseded, AttemptRequired: the command is refused and nothing changes.
        """
        if job is None and type(command) is not c.Create:
            if isinstance(command, c.ServerCommand):
                return None
            raise JobNotFound(command.job_id)
        return JOB_RULES[type(command)](self.context, job, command, now)
