"""The tables of needs and groups, as peewee models."""

from __future__ import annotations

from peewee import SQL, BigIntegerField, BooleanField, CompositeKey, IntegerField, Model, TextField


class NeedRow(Model):
    """A need of the job with the key ``child_key``."""

    child_key = BigIntegerField()
    position = IntegerField()
    parent_key = BigIntegerField()
    # Kept beside the key: the needed job may be deleted before the one that needs it.
    parent_id = TextField()
    condition = IntegerField()
    # How the needed job ended. NULL while it is not final, and if the job that needs it ended before.
    outcome = IntegerField(null=True)

    class Meta:
        table_name = "need"
        primary_key = CompositeKey("child_key", "position")
        strict_tables = True
        without_rowid = True


# What needs a job: a page of them, and those that its end must still reach.
NeedRow.add_index(NeedRow.parent_key, NeedRow.child_key, name="need_by_parent")
NeedRow.add_index(NeedRow.parent_key, NeedRow.child_key, where=SQL("outcome IS NULL"), name="need_open")


class NeededRow(Model):
    """How many unfinished jobs need a job. A job that none needs has no row.

    It is not a column of the job: rows of jobs are locked before the log, and this is added to under its lock.
    """

    parent_key = BigIntegerField(primary_key=True)
    unfinished = BigIntegerField()

    class Meta:
        table_name = "needed"
        strict_tables = True


class MembersRow(Model):
    """The counts of a group, and what was decided about it: see ``domain.groups``. Apart from the group's job for the
    same reason as ``NeededRow``."""

    group_key = BigIntegerField(primary_key=True)
    group_id = TextField()
    # The group that it is a member of.
    parent_key = BigIntegerField(null=True)
    depth = IntegerField()
    tolerated_failures = BigIntegerField()
    on_excess = IntegerField()
    total = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    completed = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    permanently_failed = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    cancelled = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    progress = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    tokens = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    cost_nano = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    closed = BooleanField(constraints=[SQL("DEFAULT false")])
    stopping = BooleanField(constraints=[SQL("DEFAULT false")])
    final = BooleanField(constraints=[SQL("DEFAULT false")])
    progress_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    due_time = BigIntegerField(null=True)

    class Meta:
        table_name = "members"
        strict_tables = True


MembersRow.add_index(MembersRow.due_time, where=SQL("due_time IS NOT NULL"), name="members_due")
