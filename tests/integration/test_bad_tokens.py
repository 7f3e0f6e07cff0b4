"""A page token or cursor that is mangled, or from somewhere else, is refused and never misread."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.filters import Position
from jobstate_server.event_log.cursor import Cursor, decode_cursor, encode_cursor
from jobstate_server.rpc.requests.page_token import decode_page_token, encode_page_token

from ..support.calls import ask, create, refused, watching_live
from ..support.server import Running, serving

# Page tokens.


@pytest.fixture
async def page(running: Running) -> pb.ListResponse:
    """The first of two pages."""
    await create(running, "1")
    await create(running, "2")
    page = await running.jobs.List(pb.ListRequest(page_size=1, job_types=["default"]))
    assert page.next_page_token
    return page


@pytest.mark.parametrize(
    "filters",
    [{}, {"job_types": ["other"]}, {"states": [job_pb2.JOB_STATE_QUEUED]}, {"order": pb.LIST_ORDER_CREATE_TIME_ASC}],
    ids=["no filter", "another type", "a state more", "another order"],
)
async def test_a_page_token_is_refused_with_another_filter(
    running: Running, page: pb.ListResponse, filters: dict[str, Any]
) -> None:
    same = {} if not filters or "job_types" in filters else {"job_types": ["default"]}
    request = pb.ListRequest(page_token=page.next_page_token, **(filters | same))

    refusal = await refused(running.jobs.List(request))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "page_token"}
    assert "another filter" in refusal.message


async def test_a_page_token_of_an_older_server_is_refused_with_the_reason(
    running: Running, page: pb.ListResponse
) -> None:
    token = _forged(page.next_page_token, lambda content: [*content[:2], "job-2"])

    refusal = await refused(running.jobs.List(pb.ListRequest(job_types=["default"], page_token=token)))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "page_token"}
    assert "before the service was upgraded; begin again" in refusal.message


def _forged(token: str, change: Callable[[list[Any]], object]) -> str:
    content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    forged = json.dumps(change(content))
    return base64.urlsafe_b64encode(forged.encode()).rstrip(b"=").decode()


MANGLED: dict[str, Callable[[str], str]] = {
    "cut short": lambda token: token[:-3],
    "with a letter more": lambda token: token + "A",
    "no base64": lambda _: "!!!",
    "not ASCII": lambda _: "é",
    "no JSON": lambda _: "AAAA",
    "overlong": lambda token: token * 10,
    "of another shape": lambda token: _forged(token, lambda content: {"a": content}),
    "of too few parts": lambda token: _forged(token, lambda content: content[:2]),
    "of other kinds": lambda token: _forged(token, lambda content: [content[0], "now", 1]),
    "with a time beyond all": lambda token: _forged(token, lambda content: [content[0], 2**63, content[2]]),
    "with true for a time": lambda token: _forged(token, lambda content: [content[0], True, content[2]]),
    "with a fraction for a time": lambda token: _forged(token, lambda content: [content[0], 1.5, content[2]]),
    "with a number that is none": lambda token: _forged(token, lambda content: [content[0], math.nan, content[2]]),
    "with a key beyond all": lambda token: _forged(token, lambda content: [*content[:2], -(2**63)]),
    "with true for a key": lambda token: _forged(token, lambda content: [*content[:2], True]),
    "with no key": lambda token: _forged(token, lambda content: [*content[:2], None]),
    "with NUL": lambda token: _forged(token, lambda content: [*content[:2], "a\0"]),
    "with no text": lambda token: _forged(token, lambda content: [*content[:2], ""]),
    "with an overlong text": lambda token: _forged(token, lambda content: [*content[:2], "a" * 129]),
    "with half a character": lambda token: _forged(token, lambda content: [*content[:2], "\ud800"]),
}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=520),
        st.binary(max_size=300).map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
        _JSON.map(lambda content: base64.urlsafe_b64encode(json.dumps(content).encode()).decode()),
        st.lists(_JSON, min_size=3, max_size=3).map(
            lambda content: base64.urlsafe_b64encode(json.dumps(content).encode()).decode()
        ),
        st.integers(1, 384).map(lambda depth: base64.urlsafe_b64encode(b"[" * depth).decode()),
    )
)
def test_no_text_is_taken_for_a_page_token_or_cursor_that_no_server_made(text: str) -> None:
    assert decode_cursor(text) is None or len(text) == 28
    if not text:
        assert decode_page_token(pb.ListRequest()) is None
        return
    with pytest.raises(InvalidField) as refusal:
        decode_page_token(pb.ListRequest(page_token=text))
    assert refusal.value.field == "page_token"


@settings(max_examples=300)
@given(_JSON, _JSON)
def test_a_page_token_with_the_right_filter_holds_a_time_and_a_key(time: Any, key: Any) -> None:
    token = _forged(encode_page_token(pb.ListRequest(), Position(1, 2)), lambda content: [content[0], time, key])
    try:
        position = decode_page_token(pb.ListRequest(page_token=token))
    except InvalidField:
        return
    assert position is not None
    for number in (position.time, position.create_sequence):
        assert type(number) is int
        assert -(2**63) < number < 2**63


@pytest.mark.parametrize("mangle", MANGLED.values(), ids=MANGLED)
async def test_a_mangled_page_token_is_refused(
    running: Running, page: pb.ListResponse, mangle: Callable[[str], str]
) -> None:
    request = pb.ListRequest(page_token=mangle(page.next_page_token), job_types=["default"])

    refusal = await refused(running.jobs.List(request))

    assert refusal.brief == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert refusal.metadata == {"field": "page_token"}


# Cursors.


def _ahead(cursor: Cursor) -> Cursor:
    return cursor._replace(sequence=cursor.sequence + 1)


def _of_another_history(cursor: Cursor) -> Cursor:
    return cursor._replace(check=cursor.check ^ 1)


def _of_another_log(cursor: Cursor) -> Cursor:
    return cursor._replace(log_id="0" * 12)


def _changed(change: Callable[[Cursor], Cursor]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        cursor = decode_cursor(text)
        assert cursor is not None
        return encode_cursor(change(cursor))

    return apply


UNKNOWN_CURSORS: dict[str, Callable[[str], str]] = {
    "ahead of the log": _changed(_ahead),
    "of another history": _changed(_of_another_history),
    "of another log": _changed(_of_another_log),
    "cut short": lambda text: text[:-2],
    "no base64": lambda _: "!" * 28,
    "not ASCII": lambda _: "é" * 28,
    "overlong": lambda text: text * 100,
}


@pytest.mark.parametrize("change", UNKNOWN_CURSORS.values(), ids=UNKNOWN_CURSORS)
async def test_a_cursor_of_no_place_in_this_log_is_unknown(running: Running, change: Callable[[str], str]) -> None:
    async with watching_live(running) as watch:
        await create(running)
        cursor = (await watch.response()).cursor

    refusal = await refused(ask(running, "WatchEvents", pb.WatchEventsRequest(cursor=change(cursor))))

    assert refusal.brief == ("FAILED_PRECONDITION", "CURSOR_UNKNOWN")
    assert refusal.metadata.keys() == {"oldest_cursor"}
    oldest = pb.WatchEventsRequest(cursor=refusal.metadata["oldest_cursor"])
    assert (await ask(running, "WatchEvents", oldest)).events[0].job.id == "job"


async def test_a_cursor_of_another_server_is_unknown(running: Running, tmp_path: Path) -> None:
    async with serving(tmp_path / "other.db") as other, watching_live(other) as watch:
        await create(other)
        cursor = (await watch.response()).cursor
    await create(running)

    refusal = await refused(ask(running, "WatchEvents", pb.WatchEventsRequest(cursor=cursor)))

    assert refusal.brief == ("FAILED_PRECONDITION", "CURSOR_UNKNOWN")
