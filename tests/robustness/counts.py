"""A promise about counts over recorded histories: what the server has counted is what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .world import HOLDS, World


def tallied(world: World) -> Iterator[str]:
    """P20: GetStats equals a recount, and so do the counts in the store."""
    history = world.history
    yield from history.recounted or [HOLDS]
    if not history.totals:
        return
    stored = Counter(f"{row['job_type']}/{row['state']}" for row in history.rows.values())
    for key in sorted(stored.keys() | history.stored.keys()):
        said = history.stored.get(key, 0)
        yield HOLDS if stored[key] == said else f"{key}: {said} told, {stored[key]} stored"
    recount = _recount(world)
    for key, total in sorted(history.totals.items()):
        yield HOLDS if total == recount[key] else f"{key}: {total} told, {recount[key]} counted"


def _recount(world: World) -> Counter[str]:
    log, rows = world.history.log, world.history.rows.values()
    types = Counter(entry.event.type for entry in log)
    tokens = [max(int(entry.job.get("estimated_tokens", 0)) for entry in entries) for entries in world.by_job.values()]
    return Counter(
        {
            "completed": types["COMPLETED"],
            "permanently_failed": types["PERMANENTLY_FAILED"],
            "cancelled": types["CANCELLED"],
            "retries": types["RETRYING"],
            "released": types["RELEASED"],
            "expired": sum(
                entry.event.type == "CANCELLED" and entry.job.get("cancel_cause") == "CANCEL_CAUSE_EXPIRED"
                for entry in log
            ),
            "tokens": sum(tokens),
            "running": sum(
                row["state"] == "PROCESSING" and bool(row.get("claimed")) and "group" not in row for row in rows
            ),
            **Counter(row["wait_reason"] for row in rows if "wait_reason" in row),
        }
    )
