"""The times that the store keeps about itself, in the row of the log."""

from __future__ import annotations

from peewee import BigIntegerField, Database

from jobstate_server.store.models import LogRow


class LogRowTimes:
    """A ``StoredTimes`` for both backends. Belongs to one transaction."""

    def __init__(self, database: Database) -> None:
        """``database`` must already be in the transaction."""
        self._database = database

    def newest(self) -> int:
        return self._value(LogRow.time)

    def grace_until(self) -> int:
        return self._value(LogRow.grace_until)

    def removal_suspended_until(self) -> int:
        return self._value(LogRow.removal_suspended_until)

    def extend_grace(self, until: int) -> None:
        self._raise_to(LogRow.grace_until, until)

    def suspend_removal(self, until: int) -> None:
        self._raise_to(LogRow.removal_suspended_until, until)

    def _value(self, column: BigIntegerField) -> int:
        ((value,),) = self._database.execute(LogRow.select(column))
        return int(value)

    def _raise_to(self, column: BigIntegerField, value: int) -> None:
        self._database.execute(LogRow.update({column: value}).where(column < value))
