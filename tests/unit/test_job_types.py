"""Policies: the shipped ones, the delays they give, and the ones that are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobstate_server.domain.durations import DAY, MINUTE, SECOND
from jobstate_server.domain.job_types import (
    DEFAULT_JOB_TYPE,
    SHIPPED_JOB_TYPES,
    JobType,
    JobTypes,
)
from jobstate_server.domain.limits import MAX_RETRIES_MAX, RETRY_DELAY_MAX, TIMEOUT_MAX

DOCS = Path(__file__).parents[2] / "docs" / "lifecycle.md"

SHIPPED = {
    "clean_transcript": (3, 60.0, 1.0, 30.0, 300.0),
    "extract_insights": (5, 120.0, 2.0, 60.0, 600.0),
    "generate_posts": (4, 90.0, 1.5, 45.0, 450.0),
    "default": (3, None, 1.0, 60.0, 900.0),
}
"""The table of the design: max_retries, timeout, base_delay, max_delay, stale_threshold; spans in seconds."""

POLICY = JobType(
    name="render", max_retries=3, timeout=MINUTE, base_delay=SECOND, max_delay=30 * SECOND, stale_threshold=MINUTE
)

policies = st.builds(
    lambda base, more, jitter: replace(POLICY, base_delay=base, max_delay=base + more, jitter=jitter),
    st.integers(0, DAY),
    st.integers(0, DAY),
    st.floats(0, 1),
)


def in_seconds(span: int | None) -> float | None:
    return None if span is None else span / SECOND


def test_the_third_retry_of_clean_transcript_waits_four_seconds() -> None:
    assert JobTypes().policy("clean_transcript").backoff_delay(2) == 4 * SECOND


def test_the_shipped_policies_are_exactly_the_table() -> None:
    shipped = {
        policy.name: (
            policy.max_retries,
            in_seconds(policy.timeout),
            in_seconds(policy.base_delay),
            in_seconds(policy.max_delay),
            in_seconds(policy.stale_threshold),
        )
        for policy in SHIPPED_JOB_TYPES
    }

    assert shipped == SHIPPED
    assert len(SHIPPED_JOB_TYPES) == len(SHIPPED)
    assert all(policy.jitter == 0.0 and policy.auto_retry for policy in SHIPPED_JOB_TYPES)


def test_the_docs_have_exactly_the_shipped_policies_and_their_waits() -> None:
    def seconds(span: int | None) -> str:
        return "none" if span is None else f"{span / SECOND:g} s"

    expected = []
    for policy in SHIPPED_JOB_TYPES:
        waits = ", ".join(f"{policy.backoff_delay(count) / SECOND:g}" for count in range(policy.max_retries))
        spans = (policy.timeout, policy.base_delay, policy.max_delay, policy.stale_threshold)
        expected.append([policy.name, str(policy.max_retries), *map(seconds, spans), f"{waits} s"])

    section = DOCS.read_text(encoding="utf-8").split("\n## Retries\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]

    assert [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows] == expected


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("clean_transcript", [1, 2, 4, 8, 16, 30, 30]),
        ("extract_insights", [2, 4, 8, 16, 32, 60, 60]),
        ("generate_posts", [1.5, 3, 6, 12, 24, 45, 45]),
        ("default", [1, 2, 4, 8, 16, 32, 60, 60]),
    ],
)
def test_the_delay_doubles_up_to_the_cap(name: str, waits: list[float]) -> None:
    policy = JobTypes().policy(name)

    assert [policy.backoff_delay(count) / SECOND for count in range(len(waits))] == waits


@given(policies, st.integers(0, 80), st.floats(0, 1, exclude_max=True))
def test_the_delay_is_the_formula_and_jitter_only_adds_at_most_its_fraction(
    policy: JobType, retry_count: int, random: float
) -> None:
    without = min(policy.max_delay, policy.base_delay * 2**retry_count)

    assert policy.backoff_delay(retry_count) == without
    assert without <= policy.backoff_delay(retry_count, random) <= math.ceil(without * (1 + policy.jitter))


def test_jitter_spreads_the_delay_over_its_whole_range() -> None:
    policy = replace(POLICY, jitter=0.5)

    assert [policy.backoff_delay(1, random) for random in (0.0, 0.5, 0.999999)] == [2_000_000, 2_500_000, 2_999_999]


@given(policies, st.sampled_from([63, 64, 65, 1_000, 10**6, 10**18]))
def test_a_huge_retry_count_gives_the_cap(policy: JobType, retry_count: int) -> None:
    assert policy.backoff_delay(retry_count) == (policy.max_delay if policy.base_delay else 0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_retries", -1),
        ("max_retries", MAX_RETRIES_MAX + 1),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", TIMEOUT_MAX + 1),
        ("base_delay", -1),
        ("base_delay", RETRY_DELAY_MAX + 1),
        ("max_delay", -1),
        ("max_delay", RETRY_DELAY_MAX + 1),
        ("max_delay", SECOND - 1),
        ("stale_threshold", 0),
        ("stale_threshold", TIMEOUT_MAX + 1),
        ("jitter", -0.1),
        ("jitter", 1.1),
        ("jitter", math.nan),
    ],
)
def test_a_refused_policy_names_its_type_and_the_setting(setting: str, value: float) -> None:
    changes: dict[str, Any] = {setting: value}

    with pytest.raises(ValueError, match=rf"^job type 'render': {setting} must "):
        replace(POLICY, **changes)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_retries", 0),
        ("max_retries", MAX_RETRIES_MAX),
        ("timeout", None),
        ("timeout", 1),
        ("timeout", TIMEOUT_MAX),
        ("base_delay", 0),
        ("max_delay", SECOND),
        ("max_delay", RETRY_DELAY_MAX),
        ("stale_threshold", 1),
        ("stale_threshold", TIMEOUT_MAX),
        ("jitter", 0.0),
        ("jitter", 1.0),
    ],
)
def test_the_bounds_themselves_are_accepted(setting: str, value: float | None) -> None:
    changes: dict[str, Any] = {setting: value}

    assert getattr(replace(POLICY, **changes), setting) == value


def test_a_type_that_no_policy_names_follows_the_default() -> None:
    job_types = JobTypes()

    assert job_types.policy("unheard_of") == job_types.policy(DEFAULT_JOB_TYPE)
    assert not job_types.names("unheard_of")
    assert job_types.names("default")


def test_the_policies_in_force_are_listed_by_name() -> None:
    assert [policy.name for policy in JobTypes().all()] == sorted(SHIPPED)
