"""The profile of the committer's path knows the parts that the code has."""

from __future__ import annotations

from tests.bench import committer


async def test_every_part_of_the_path_is_timed() -> None:
    found = await committer.profile(committer.LIFECYCLES, 4, is_unary=False, rounds=1, round_commands=24)

    heads = {part.split()[0] for part in found.parts}
    assert heads == set(committer.ORDER)
    assert {f"SQL {table}" for table in ("job", "event", "tally", "log", "attempt")} <= found.parts.keys()


async def test_a_unary_call_goes_the_same_way() -> None:
    found = await committer.profile(committer.PROGRESS, 2, is_unary=True, rounds=1, round_commands=2)

    assert {"parse", "check", "decide", "encode", "SQL event", "answer"} <= found.parts.keys()
