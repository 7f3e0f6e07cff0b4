"""The table of labels, as a peewee model."""

from __future__ import annotations

from peewee import BigIntegerField, CompositeKey, Model, TextField


class LabelRow(Model):
    """A label of the job with this ``create_sequence``. Jobs without labels have no rows.

    The key is the order of a page, so that the jobs with a label are read like those of a source.
    """

    key = TextField()
    value = TextField()
    create_time = BigIntegerField()
    create_sequence = BigIntegerField()

    class Meta:
        table_name = "label"
        primary_key = CompositeKey("key", "value", "create_time", "create_sequence")
        strict_tables = True
        without_rowid = True
