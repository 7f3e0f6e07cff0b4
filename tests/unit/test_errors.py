"""The error tree: nothing of it is missing on the wire, nothing of the wire is missing in it."""

from __future__ import annotations

import base64
import inspect
import re
from collections.abc import Iterator

import pytest
from google.rpc import error_details_pb2

from jobstate.v1 import job_service_pb2
from jobstate.v1.error_reason_pb2 import ErrorReason
from jobstate_server.domain import errors
from jobstate_server.domain.errors import JobStateError
from jobstate_server.domain.lifecycle import SERVER_TRIGGERS, Trigger
from jobstate_server.rpc.errors import STATUS_BYTES_MAX, status_of

NUMBER = re.compile(r"\d+")

WORDS = {
    "job_id": "job-4711",
    "state": "PROCESSING",
    "trigger": "start",
    "allowed": ("complete", "cancel"),
    "why": "the reason is this",
    "retry_count": 17,
    "max_retries": 23,
    "attempt": 31,
    "current_attempt": 37,
    "request_id": "request-6f1c9f0e",
    "job_type": "clean_transcipt",
    "oldest_cursor": "b3BhcXVl",
    "field": "requests[3].timeout",
    "problem": "must be a span",
    "others": (),
    "size": 9_437_184,
    "size_max": 8_388_608,
    "message": "some message",
    "retry_delay_s": 1.5,
    "call_id": "01JD9Z6V7Q3K",
    "because": "",
    "group_id": "import-2026-03-01",
}
"""A value of its own for every parameter of every error, so that each can be told apart in message and facts."""

NOT_FACTS = {"problem", "message", "retry_delay_s", "why", "others", "because"}
"""Parameters that are prose of the message, or details of their own; ``why`` is a fact of RetryNotAllowed only."""


def subclasses(root: type[JobStateError]) -> Iterator[type[JobStateError]]:
    for child in root.__subclasses__():
        yield child
        yield from subclasses(child)


TREE = sorted(set(subclasses(JobStateError)), key=lambda error: error.__name__)
CONCRETE = [error for error in TREE if hasattr(error, "reason")]


def make(error: type[JobStateError]) -> JobStateError:
    """The error with the word of each of its parameters."""
    parameters = inspect.signature(error).parameters.values()
    return error(**{name.name: WORDS[name.name] for name in parameters if name.kind is not name.VAR_KEYWORD})  # type: ignore[arg-type]


def test_every_error_without_a_reason_has_children_that_have_one() -> None:
    abstract = [error for error in TREE if not hasattr(error, "reason")]

    assert {error.__name__ for error in abstract} == {"_AttemptRefused", "Unavailable"}
    assert all(error.__subclasses__() for error in abstract)


def test_every_reason_has_exactly_one_class_and_every_class_a_reason() -> None:
    reasons = [f"ERROR_REASON_{error.reason}" for error in CONCRETE]

    assert sorted(reasons) == sorted(name for name in ErrorReason.keys() if name != "ERROR_REASON_UNSPECIFIED")  # noqa: SIM118


def test_the_drawing_of_the_tree_names_every_public_class_under_its_parent() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│├└─ ]*)([A-Z]\w+)", line)
        if found:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else ""

    def parent(error: type[JobStateError]) -> str:
        base = error.__bases__[0]
        return parent(base) if base.__name__.startswith("_") else base.__name__

    public = {error.__name__: parent(error) for error in TREE if not error.__name__.startswith("_")}
    assert drawn == {"JobStateError": ""} | public


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_every_value_given_to_an_error_is_among_its_facts(error: type[JobStateError]) -> None:
    made = make(error)

    for name in inspect.signature(error).parameters.keys() - NOT_FACTS - {"facts"}:
        value = WORDS[name]
        assert made.facts[name] == (",".join(value) if isinstance(value, tuple) else str(value))


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_every_value_that_the_message_mentions_is_among_the_facts(error: type[JobStateError]) -> None:
    made = make(error)
    prose = " ".join(str(WORDS[name]) for name in NOT_FACTS)
    facts = " ".join(made.facts.values())

    for name, value in WORDS.items():
        if name not in NOT_FACTS and not isinstance(value, tuple) and str(value) in made.message:
            assert str(value) in facts or str(value) in prose, name
    for number in NUMBER.findall(made.message.replace("24 hours", "")):
        assert number in facts, number
    assert all(isinstance(value, str) for value in made.facts.values())
    assert str(made) == made.message


def test_an_allowed_trigger_is_a_word_of_the_message_too() -> None:
    made = make(errors.TransitionNotAllowed)

    assert (
        made.message
        == "job 'job-4711' is PROCESSINGthe reason is this: Start is not allowed (allowed: Complete, Cancel)"
    )
    assert made.facts == {
        "job_id": "job-4711",
        "state": "PROCESSING",
        "trigger": "start",
        "allowed": "complete,cancel",
    }


def test_a_start_of_a_job_that_is_delayed_is_told_as_held_back() -> None:
    made = errors.TransitionNotAllowed(
        "job", "QUEUED", "start", ("expedite", "cancel"), " and is delayed", because="held back"
    )

    assert made.facts["why"] == "held back"
    assert "is QUEUED and is delayed" in made.message


def test_a_final_state_is_said_to_allow_nothing() -> None:
    made = errors.TransitionNotAllowed("job", "COMPLETED", "start", ())

    assert made.facts["allowed"] == ""
    assert "nothing, the state is final" in made.message


def test_the_refusal_of_a_retry_tells_why_among_its_facts() -> None:
    made = errors.RetryNotAllowed("job", "limit reached", 3, 3)

    assert made.facts == {"job_id": "job", "why": "limit reached", "retry_count": "3", "max_retries": "3"}


def test_a_required_attempt_is_told_as_attempt_zero() -> None:
    assert errors.AttemptRequired("job", 2, "RETRYING").facts == {
        "job_id": "job",
        "attempt": "0",
        "current_attempt": "2",
        "state": "RETRYING",
    }


def test_the_size_of_a_refused_message_is_told_with_its_limit() -> None:
    assert errors.MessageTooLarge(9_437_184, 8_388_608).facts == {"size": "9437184", "size_max": "8388608"}


def test_invalid_fields_within_another_keep_their_class_and_their_problems() -> None:
    plain = errors.InvalidField("timeout", "is negative", others=(("id", "is too long"),)).within("requests[3]")
    unknown = errors.UnknownJobType("typo").within("requests[3]").within("batch")

    assert type(plain) is errors.InvalidField
    assert plain.violations == (("requests[3].timeout", "is negative"), ("requests[3].id", "is too long"))
    assert plain.facts == {"field": "requests[3].timeout"}
    assert type(unknown) is errors.UnknownJobType
    assert unknown.facts == {"field": "batch.requests[3].job_type", "job_type": "typo"}


def test_an_invalid_field_names_the_first_of_its_violations() -> None:
    made = errors.InvalidField("timeout", "is negative", others=(("id", "is too long"),))

    assert (made.field, made.problem, made.message) == ("timeout", "is negative", "timeout: is negative")
    assert made.violations == (("timeout", "is negative"), ("id", "is too long"))
    assert made.facts["field"] == "timeout"


def test_an_error_that_passes_by_itself_tells_when_to_repeat() -> None:
    with_a_message = [kind for kind in errors.Unavailable.__subclasses__() if kind is not errors.Draining]
    for made in [errors.Draining(1.5), *(kind("some message", 1.5) for kind in with_a_message)]:
        assert made.retry_delay_s == 1.5
        assert made.facts == {}


def test_a_status_fits_the_headers_that_proxies_take_whatever_was_sent() -> None:
    texts = ("x" * 5_000, "ü" * 2_500, "%" * 700, "a" * 300)
    others = tuple((f"requests[{number}].metadata.{text}", text) for number in range(20) for text in texts)
    for error in (
        errors.InvalidField("metadata." + texts[1], texts[2], others=others),
        errors.JobExists("j" * 128),
        errors.CursorExpired("c" * 200),
        errors.Overloaded(texts[1], 1.0),
    ):
        status = status_of(error)
        info = error_details_pb2.ErrorInfo()
        message = sum(1 if 32 <= byte < 127 and byte != 37 else 3 for byte in status.message.encode())

        assert status.details[0].Unpack(info)
        assert info.reason == error.reason
        assert message + len(base64.b64encode(status.SerializeToString())) <= STATUS_BYTES_MAX


def test_of_an_error_that_is_too_long_the_first_violations_are_told_and_short_ones_all() -> None:
    told = []
    for count in (20, 200):
        others = tuple((f"requests[{number}].id", "must be 1 to 128 letters") for number in range(1, count))
        status = status_of(errors.InvalidField("requests[0].id", "must be 1 to 128 letters", others=others))
        fields = error_details_pb2.BadRequest()
        assert status.details[1].Unpack(fields)
        told.append([violation.field for violation in fields.field_violations])

    assert told[0] == [f"requests[{number}].id" for number in range(20)]
    assert told[1] == [f"requests[{number}].id" for number in range(len(told[1]))]
    assert 20 < len(told[1]) < 200


def test_every_step_that_a_caller_can_be_offered_is_told_as_the_call_that_does_it() -> None:
    calls = {method.name for method in job_service_pb2.DESCRIPTOR.services_by_name["JobService"].methods}

    for trigger in set(Trigger) - SERVER_TRIGGERS:
        refusal = errors.TransitionNotAllowed("job", "QUEUED", trigger, (trigger,))
        asked, allowed = re.findall(r": (.+) is not allowed \(allowed: (.+)\)", refusal.message)[0]
        assert asked == allowed
        assert asked.partition(" ")[0] in calls
        assert refusal.facts["allowed"] == refusal.facts["trigger"] == trigger
