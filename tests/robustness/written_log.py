"""Logs as a test writes them down."""

from __future__ import annotations

from typing import Any

from .history import EventRecord, LogEntry

MEMBERS = ("total", "completed", "permanently_failed", "cancelled", "tokens")


def log_time(seconds: float) -> str:
    """A Timestamp as JSON has it."""
    return f"1970-01-01T00:{int(seconds) // 60:02}:{seconds % 60:09.6f}Z"


def _related(type_: str, facts: dict[str, str], metadata: dict[str, Any]) -> dict[str, Any]:
    """What a line says of needs and groups."""
    now: dict[str, Any] = {"wait_reason": "WAIT_REASON_NEEDS" if "waits" in facts else "WAIT_REASON_UNSPECIFIED"}
    if type_ == "QUEUED":
        told: dict[str, Any] = {}
        if "needs" in facts:
            pairs = [f"{need}:COMPLETED".split(":")[:2] for need in facts["needs"].split(",")]
            told["needs"] = dict(pairs)
        if "by" in facts:
            job_id, attempt = facts["by"].split(":")
            told["by"] = [job_id, float(attempt)]
        now["metadata"] = {**metadata, **told}
    if "group" in facts:
        tolerated, on_excess = facts["group"].split(":")
        now["group"] = {"tolerated_failures": tolerated, "on_excess": f"ON_EXCESS_{on_excess}"}
    now |= {"group_id": facts["in"]} if "in" in facts else {}
    now |= {"estimated_tokens": facts["tokens"]} if "tokens" in facts else {}
    if "members" in facts:
        now["members"] = dict(zip(MEMBERS, facts["members"].split(":"), strict=True))
    for fact, cause in (("need", "NEED"), ("stopped", "GROUP")):
        if fact in facts:
            now |= {"cancel_cause": f"CANCEL_CAUSE_{cause}", "cancel_cause_id": facts[fact]}
    return now


def _entry(sequence: int, line: str, job: dict[str, Any]) -> LogEntry:
    second, job_id, type_, previous, state, attempt, worker, *more = line.split()
    facts = dict(fact.split("=") for fact in more if "=" in fact)
    now = dict(job)
    now |= {"id": job_id, "state": state, "worker": worker.strip("-")}
    if type_ == "QUEUED":
        now["create_time"] = log_time(int(second))
        now |= {"metadata": {"delay_us": 1_000_000 * int(facts["delay"])}} if "delay" in facts else {}
        now |= {"priority": f"PRIORITY_{facts.get('level', 'NORMAL')}"}
    now |= {"ready_time": log_time(int(facts.get("ready", second)))} if {"ready"} & facts.keys() or not job else {}
    now |= {name: facts[name] for name in ("lane",) if name in facts}
    now |= {"job_type": facts.get("type", "kind")} if not job else {}
    now |= {"unique_key": facts["key"]} if "key" in facts else {}
    now |= {"start_within": f"{facts['within']}s"} if "within" in facts else {}
    now |= {"retry_count": int(facts["retries"])} if "retries" in facts else {}
    now |= {"cancel_cause": "CANCEL_CAUSE_EXPIRED"} if "expired" in more else {}
    now |= _related(type_, facts, now.get("metadata", {}))
    now["claimed"] = "claimed" in more
    now.pop("lease", None)
    if now["claimed"] and "by_hand" not in more:
        now["lease"] = "1s"
    detail = {"delay": f"{facts.get('delay', 0)}s"} | ({"hold_lane": f"{facts['hold']}s"} if "hold" in facts else {})
    detail |= {"cause_id": now["cancel_cause_id"]} if {"need", "stopped"} & facts.keys() else {}
    if state == "RETRYING":
        now["next_retry_time"] = log_time(int(second) + int(facts["delay"]))
    event = EventRecord(sequence, type_, job_id, sequence, state, job_type=now["job_type"])
    actor = "server" if "server" in more else ""
    job.update(now)
    return LogEntry(event, previous.strip("-"), int(attempt), "", "", now, int(second) * 1_000_000, actor, detail)


def written_log(text: str) -> list[LogEntry]:
    """A log of which each line has second, job, type, state before, state after, attempt, worker, and more facts.

    Facts: ``type``, ``lane`` and ``level`` of the job; ``ready``, ``delay``, ``within``, ``hold``, ``retries`` and
    ``key``; ``claimed``, ``by_hand``, ``expired`` and ``server``. Of jobs that are related to others: ``needs`` as
    job:condition,job, ``waits`` for needs, ``by`` as job:attempt, ``group`` as tolerated:on_excess, ``in`` a group,
    ``need`` and ``stopped`` for what cancelled it, ``tokens``, and ``members`` as
    total:completed:failed:cancelled:tokens.
    """
    jobs: dict[str, dict[str, Any]] = {}
    lines = enumerate(text.strip().splitlines(), start=1)
    return [_entry(sequence, line, jobs.setdefault(line.split()[1], {})) for sequence, line in lines]
