"""A crontab expression that is accepted means the same to every program, and comes to pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.triggers.cron import CronTrigger
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from jobstate_server.maintenance.crontab import crontab

ACCEPTED = (
    "* * * * *",
    "*/5 * * * *",
    "*/7 */5 * * *",
    "5-59/15 * * * *",
    "0 2 * * *",
    "0 2 * * sun",
    "0 2 * * SUN",
    "30 4 * * mon-fri",
    "0 0 * * sat,sun",
    "15 3 * * tue,thu-sat",
    "0 0 1 * *",
    "0 0 31 * *",
    "0 0 29 2 *",
    "0 12 1-7 jan,jul *",
    "0 0 */2 * *",
    "0 0 1,15 */3 *",
    "59 23 31 dec *",
    "0 6-22/4 * * *",
    "0 0 28-31 feb *",
    "1,2,30-40 0 * mar-may *",
)

REFUSED = {
    "0 2 * * 0": "'0' is not a weekday here; write names",
    "0 2 * * 7": "'7' is not a weekday here",
    "0 2 * * 1-5": "'1-5' is not a weekday here",
    "0 2 * * */2": "'*/2' is not a weekday here",
    "0 2 * * mon-fri/2": "'mon-fri/2' is not a weekday here",
    "0 2 * * mon#1": "is not a weekday here",
    "0 2 * * monday": "'monday' is not a weekday here",
    "0 2 * * sun-tue": "weekdays run from mon to sun",
    "0 2 1 * mon": "leave one of the two *",
    "0 2 */2 * mon": "leave one of the two *",
    "0 0 30 2 *": "never comes",
    "0 0 31 4,6,9,11 *": "never comes",
    "0 0 30-31 feb *": "never comes",
    "0 0 last * *": "'last' is no day of month",
    "0 0 L * *": "'L' is no day of month",
    "0 0 ? * *": "'?' is no day of month",
    "0 0 mon * *": "'mon' is no day of month",
    "5/15 * * * *": "a step needs a range or *",
    "0-0/1 * * * *": "a step needs a range or *",
    "*/0 * * * *": "is not a crontab expression",
    "60 * * * *": "is not a crontab expression",
    "* 24 * * *": "is not a crontab expression",
    "* * 0 * *": "is not a crontab expression",
    "* * 32 * *": "is not a crontab expression",
    "* * * 13 *": "is not a crontab expression",
    "* * * foo *": "is not a crontab expression",
    "* * * jan-foo *": "is not a crontab expression",
    "30-10 * * * *": "is not a crontab expression",
    ", * * * *": "'' is no minute",
    "-1 * * * *": "'-1' is no minute",
    "1.5 * * * *": "'1.5' is no minute",
    "٣ * * * *": "is no minute",
    "* * * *": "it has 4 fields",
    "0 * * * * *": "it has 6 fields",
    "@daily": "it has 1 fields",
    "": "it has 0 fields",
    "9" * 5_000 + " * * * *": "is no minute",
}

_WHEN = st.datetimes(datetime(2024, 1, 1), datetime(2032, 1, 1))


def ours(expression: str, after: datetime, count: int) -> list[datetime]:
    """The next instants, as the server's schedule has them."""
    trigger = CronTrigger.from_crontab(crontab(expression), timezone=UTC)
    found: list[datetime] = []
    for _ in range(count):
        after = trigger.get_next_fire_time(None, after + timedelta(microseconds=1))
        found.append(after)
    return found


def theirs(expression: str, after: datetime, count: int) -> list[datetime]:
    """The next instants, as Debian's cron has them."""
    instants = CronSim(expression, after)
    return [next(instants) for _ in range(count)]


@pytest.mark.parametrize("expression", ACCEPTED)
def test_the_next_instants_are_those_of_a_second_implementation(expression: str) -> None:
    for after in (datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 2, 28, 23, 59, 59, tzinfo=UTC)):
        assert ours(expression, after, 12) == theirs(expression, after, 12)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    span = st.tuples(number, number).map(sorted)
    part = st.one_of(
        st.just("*"),
        number.map(str),
        span.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.integers(1, high - low).map(lambda step: f"*/{step}"),
        st.tuples(span, st.integers(1, high - low)).map(lambda given: f"{given[0][0]}-{given[0][1]}/{given[1]}"),
    )
    return st.lists(part, min_size=1, max_size=3).map(",".join)


_DAY = st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])
_EXPRESSION = st.one_of(
    st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), _field(1, 12)).map(lambda parts: " ".join(parts) + " *"),
    st.tuples(_field(0, 59), _field(0, 23), _field(1, 12), st.lists(_DAY, min_size=1, max_size=3)).map(
        lambda parts: f"{parts[0]} {parts[1]} * {parts[2]} {','.join(parts[3])}"
    ),
)


@settings(max_examples=150, deadline=None)
@given(_EXPRESSION, _WHEN)
def test_whatever_is_accepted_has_the_instants_of_a_second_implementation(expression: str, when: datetime) -> None:
    try:
        crontab(expression)
    except ValueError:
        return
    after = when.replace(tzinfo=UTC)

    assert ours(expression, after, 3) == theirs(expression, after, 3)


@pytest.mark.parametrize(("expression", "phrase"), REFUSED.items(), ids=[text[:20] for text in REFUSED])
def test_what_programs_read_differently_and_what_never_comes_is_refused_with_a_sentence(
    expression: str, phrase: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        crontab(expression)

    assert phrase in str(refused.value)
    assert len(str(refused.value)) < 400


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.text("0123456789*/-, monsutefrijal", max_size=30))
def test_no_text_does_anything_but_work_or_be_refused(text: str) -> None:
    try:
        expression = crontab(text)
    except ValueError:
        return
    assert len(ours(expression, datetime(2026, 1, 1, tzinfo=UTC), 1)) == 1
