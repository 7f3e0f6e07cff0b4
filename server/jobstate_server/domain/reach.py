"""Which jobs a caller may see and change. Jobs out of reach are treated as if they did not exist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Patterns = tuple[str, ...]
"""Names, or prefixes that end in ``*``."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The jobs whose type and source both match. None: any."""

    job_types: Patterns | None = None
    source_ids: Patterns | None = None

    def admits(self, job_type: str, source_id: str) -> bool:
        """Whether a job of this type and source is within reach."""
        return self.admits_type(job_type) and self.admits_source(source_id)

    def admits_type(self, job_type: str) -> bool:
        """Whether jobs of this type can be within reach."""
        return self.job_types is None or _matches(self.job_types, job_type)

    def admits_source(self, source_id: str) -> bool:
        """Whether jobs of this source can be within reach."""
        return self.source_ids is None or _matches(self.source_ids, source_id)

    @property
    def sees_members(self) -> bool:
        """Whether the counts of groups may be told: they sum up members of any type."""
        return self.job_types is None

    @property
    def named_sources(self) -> tuple[str, ...] | None:
        """All sources within reach, where they can be listed; None where they cannot."""
        if self.source_ids is None or any(pattern.endswith("*") for pattern in self.source_ids):
            return None
        return self.source_ids

    @property
    def lists_sources(self) -> bool:
        """Whether all jobs within reach can be found without a source being named."""
        return self.source_ids is None or self.named_sources is not None


EVERYTHING = Reach()
"""The reach of callers without limits. There is one object, so that an ``is`` shows whether there are limits."""


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns)
