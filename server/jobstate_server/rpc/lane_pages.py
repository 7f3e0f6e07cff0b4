"""The pages of ListLanes: first the lanes that can have a turn, in the order of turns, then the others by name."""

from __future__ import annotations

import base64
import json

from jobstate.v1 import dispatch_service_pb2 as pb
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.limits import PAGE_TOKEN_LENGTH_MAX
from jobstate_server.domain.turns import LaneState, Limits, TurnKey
from jobstate_server.rpc.requests.dispatch import LanesWanted
from jobstate_server.store.base import Reader
from jobstate_server.store.records import LaneRecord
from jobstate_server.wire.times import set_span, set_time

_Position = tuple[TurnKey | None, str | None]
"""After which turn the page begins; or, once there is no lane left that can have one, after which name."""

_FIRST: _Position = (None, None)


def lane_page(reader: Reader, wanted: LanesWanted, limits: Limits, now: int) -> pb.ListLanesResponse:
    """One page. Raises InvalidField."""
    turn, name = _FIRST if not wanted.page_token else _decoded(wanted)
    of_type = reader.type_record(wanted.job_type)
    answer = pb.ListLanesResponse(type_paused=of_type.state.paused, type_pause_reason=of_type.pause_reason)
    type_opens = limits.type_opens(of_type.state)
    if type_opens > now:
        set_time(answer.type_held_until_time, type_opens)
    records = [(record, True) for record in _in_turn(reader, wanted, limits, turn)] if name is None else []
    if len(records) <= wanted.limit:
        rest = wanted.limit + 1 - len(records)
        holds_jobs = limits.holds_jobs
        others = reader.lanes_without_turn(wanted.job_type, name or "", rest, now, holds_jobs=holds_jobs)
        records += [(record, False) for record in others]
        empty = _empty_lane(reader, wanted.job_type)
        if name is None and not _has_turn(empty) and _is_told(empty, limits, now):
            records.insert(len(records) - len(others), (empty, False))
    for record, _ in records[: wanted.limit]:
        _add_lane(answer, record, limits, now)
    if len(records) > wanted.limit:
        record, has_turn = records[wanted.limit - 1]
        token = [wanted.job_type, limits.key(record.state) if has_turn else None, record.state.lane]
        answer.next_page_token = base64.urlsafe_b64encode(json.dumps(token).encode()).decode()
    oldest = reader.oldest_ready_in(wanted.job_type, [lane.lane for lane in answer.lanes if lane.ready])
    for lane in answer.lanes:
        if lane.lane in oldest:
            set_span(lane.oldest_wait, max(0, now - oldest[lane.lane]))
    return answer


def _in_turn(reader: Reader, wanted: LanesWanted, limits: Limits, after: TurnKey | None) -> list[LaneRecord]:
    """The next lanes in the order of turns, one more than the page has."""
    limit = wanted.limit + 1
    records = reader.lanes_in_turn(wanted.job_type, after, limit, holds_jobs=limits.holds_jobs)
    empty = _empty_lane(reader, wanted.job_type)
    if _has_turn(empty) and (after is None or limits.key(empty.state) > after):
        records = sorted([*records, empty], key=lambda record: limits.key(record.state))
    return records[:limit]


def _empty_lane(reader: Reader, job_type: str) -> LaneRecord:
    record = reader.lane_record(job_type, "")
    record.state.counts = reader.type_record(job_type).state.lanes[""].counts
    return record


def _has_turn(record: LaneRecord) -> bool:
    return record.state.counts.ready > 0 and not record.closed_until and not record.state.paused


def _is_told(record: LaneRecord, limits: Limits, now: int) -> bool:
    counts = record.state.counts
    has_jobs = counts.ready > 0 or limits.under_way(counts) > 0
    return has_jobs or record.state.paused or record.closed_until > now


def _add_lane(answer: pb.ListLanesResponse, record: LaneRecord, limits: Limits, now: int) -> None:
    state: LaneState = record.state
    counts = state.counts
    begun = counts.running + counts.resting + counts.returned
    lane = answer.lanes.add(
        lane=state.lane,
        ready=counts.ready,
        running=begun if limits.holds_jobs else counts.running,
        paused=state.paused,
        pause_reason=record.pause_reason,
    )
    if state.turn_time:
        set_time(lane.turn_time, state.turn_time)
    opens = limits.lane_opens(state)
    if opens > now:
        set_time(lane.held_until_time, opens)


def _decoded(wanted: LanesWanted) -> _Position:
    token = wanted.page_token[: PAGE_TOKEN_LENGTH_MAX + 1]
    try:
        job_type, turn, name = json.loads(base64.b64decode(token, altchars=b"-_", validate=True))
        key = None if turn is None else (int(turn[0]), int(turn[1]), str(turn[2]))
        position = (key, None if turn is not None else str(name))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InvalidField("page_token", "was not made by this service") from error
    if key is not None and not all(abs(number) < 2**63 for number in key[:2]):
        raise InvalidField("page_token", "was not made by this service")
    if job_type != wanted.job_type:
        raise InvalidField("page_token", "was made for another job type; begin again without it")
    return position
