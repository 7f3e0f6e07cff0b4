"""Every row of the table of what happens when the store goes has its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = (TESTS.parent / "docs" / "operations.md").read_text("utf-8")

_BROKEN_STORES = "integration/test_broken_stores.py "
_FROZEN_POSTGRES = "integration/test_frozen_postgres.py "
_LOST_FILE = "integration/test_lost_file.py "
_POSTGRES_OUTAGES = "integration/test_postgres_outages.py "
_PROCESS = "integration/test_process.py "

TESTED_BY = {
    "the file or its WAL is deleted, replaced or overwritten": (
        f"{_LOST_FILE}test_no_call_begun_after_the_damage_is_answered_ok_and_the_next_start_serves_what_it_should",
        f"{_LOST_FILE}test_a_server_that_nobody_calls_notices_within_seconds",
    ),
    "the disk is full": (
        f"{_PROCESS}test_a_full_disk_refuses_what_it_cannot_keep_and_loses_nothing",
        f"{_BROKEN_STORES}test_a_store_that_finds_no_room_refuses_to_start_and_says_so",
        f"{_PROCESS}test_while_the_disk_is_full_the_server_is_not_serving_and_recovers_by_itself",
    ),
    "pages are damaged": (
        f"{_BROKEN_STORES}test_a_damaged_page_refuses_to_start_with_a_sentence_or_makes_health_tell",
        f"{_BROKEN_STORES}test_a_file_that_was_cut_off_refuses_to_start_and_says_so",
    ),
    "reads fail with an I/O error": (
        f"{_BROKEN_STORES}test_reads_that_fail_make_health_tell_and_serve_again_when_they_succeed",
    ),
    "another program has locked the file": (
        f"{_BROKEN_STORES}test_a_lock_of_another_program_makes_health_tell_and_nothing_is_lost_when_it_is_given_back",
        f"{_BROKEN_STORES}test_a_change_that_waits_too_long_for_another_programs_lock_is_refused_and_later_ones_are_served",
        f"{_BROKEN_STORES}test_a_start_beside_the_lock_of_another_program_serves_once_that_is_given_back",
    ),
    "PostgreSQL is shut down": (
        f"{_POSTGRES_OUTAGES}test_postgresql_that_is_shut_down_is_told_at_the_first_change",
        f"{_POSTGRES_OUTAGES}test_postgresql_that_is_shut_down_while_nobody_calls_is_told_all_the_same",
    ),
    "PostgreSQL has no connection left": (
        f"{_POSTGRES_OUTAGES}test_postgresql_that_gives_no_connections_is_told_once_one_is_needed_and_not_before",
    ),
    "PostgreSQL is frozen, or the network swallows everything": (
        f"{_FROZEN_POSTGRES}test_while_postgresql_is_frozen_health_and_callers_are_told_and_all_goes_on_by_itself_when_it_thaws",
        f"{_FROZEN_POSTGRES}test_a_server_whose_postgresql_is_frozen_stops_when_told_and_tells_who_waits",
        f"{_POSTGRES_OUTAGES}test_a_network_that_swallows_everything_is_told_after_five_seconds_and_given_up_after_fifteen",
    ),
}
"""How each row begins, and the tests that hold it: module and name."""


def rows() -> list[str]:
    """What each row says happens."""
    section = PAGE.partition("### When the store fails\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (?!what happens|---)([^|]+) \|", section, re.MULTILINE)


def test_every_row_has_its_tests_and_no_other_is_named_here() -> None:
    begun = [[row for row in rows() if row.startswith(beginning)] for beginning in TESTED_BY]

    assert [row for found in begun for row in found] == rows()
    assert all(len(found) == 1 for found in begun)


@pytest.mark.parametrize("beginning", TESTED_BY)
def test_the_tests_of_a_row_are_there(beginning: str) -> None:
    for module, name in map(str.split, TESTED_BY[beginning]):
        text = (TESTS / module).read_text("utf-8")
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), name
