"""The tables of lanes, as peewee models: what the hand-out of job types goes by."""

from __future__ import annotations

from peewee import SQL, BigIntegerField, BooleanField, CompositeKey, Model, TextField


class DispatchRow(Model):
    """What the hand-out of a type goes by, besides its tallies. Types without lanes, rates and pauses have no row."""

    job_type = TextField(primary_key=True)
    # Sums over the type's lanes, without the empty one.
    ready = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    returned = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    running = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    resting = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # The latest turn of any lane.
    turn_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # When the next hand-out would be if they came evenly: see domain.rates.
    next_even_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    paused = BooleanField(constraints=[SQL("DEFAULT false")])
    pause_reason = TextField(constraints=[SQL("DEFAULT ''")])

    class Meta:
        table_name = "dispatch"
        strict_tables = True
        without_rowid = True


class LaneRow(Model):
    """A lane of a job type. The row of the empty lane counts nothing: see domain.lanes.

    A type that has one has a DispatchRow too.
    """

    job_type = TextField()
    lane = TextField()
    ready = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    returned = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    running = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    resting = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    turn_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    next_even_time = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    # Until when a Release holds the lane, and why.
    held_until = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    hold_reason = TextField(constraints=[SQL("DEFAULT ''")])
    # Until when nothing is handed out, because of the rate or of a Release. 0 if nothing closes it. Set whenever the
    # row is written, so that a closed lane is not in the index of turns.
    closed_until = BigIntegerField(constraints=[SQL("DEFAULT 0")])
    paused = BooleanField(constraints=[SQL("DEFAULT false")])
    pause_reason = TextField(constraints=[SQL("DEFAULT ''")])

    class Meta:
        table_name = "lane"
        primary_key = CompositeKey("job_type", "lane")
        strict_tables = True
        without_rowid = True


HAS_TURN = SQL("ready > 0 AND closed_until = 0 AND NOT paused")
"""Lanes that can have a turn. Queries must use exactly this text, like those below."""

IS_CLOSED = SQL("ready > 0 AND closed_until > 0 AND NOT paused")

# The order of turns. A lane that is full is found by what is under way in it, so it is not read past.
LaneRow.add_index(LaneRow.job_type, LaneRow.running, LaneRow.turn_time, LaneRow.lane, where=HAS_TURN, name="lane_turn")
# The same where jobs hold their place until they are final.
LaneRow.add_index(
    LaneRow.job_type,
    SQL("(running + resting)"),
    LaneRow.turn_time,
    LaneRow.lane,
    where=HAS_TURN,
    name="lane_turn_of_jobs",
)
LaneRow.add_index(LaneRow.job_type, LaneRow.closed_until, where=IS_CLOSED, name="lane_closed")
