"""What a run looks at when all is over: every job, every sum, the whole log, and where old cursors lead."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from jobstate.v1 import job_pb2
from jobstate.v1 import job_service_pb2 as pb
from jobstate.v1 import maintenance_service_pb2 as mpb
from jobstate_server.store.check import check
from jobstate_server.store.chunks import chunks

from .clients import Shared, Stubs
from .history import FINAL_STATES, History, Listing, Stream, Watcher
from .process import ServerProcess
from .recording import Recorder, ending_of, job_dict, state_name
from .relation_recount import recount
from .settling import settle
from .watchers import Habits, request_of

GETS_AT_ONCE = 100

LISTED = 8
"""Jobs of which those are listed that have something in common with them."""

WAIT_REASONS = ("WAIT_REASON_TURN", "WAIT_REASON_TIME", "WAIT_REASON_NEEDS")

PROBES = 40
"""Cursors of the run that are tried again at its end."""


async def gather_final_state(
    servers: Sequence[ServerProcess], history: History, recorder: Recorder, rng: random.Random
) -> None:
    """Fill in what was left, as told by all the servers of one store."""
    history.settled, history.left_due = await settle(servers[0].store)
    await _stop(servers)
    await asyncio.gather(*(server.start(still=True) for server in servers))
    async with AsyncExitStack() as stack:
        everywhere = [Stubs(server.address) for server in servers]
        for stubs in everywhere:
            await stack.enter_async_context(stubs.channel)
        history.rows = await _all_jobs(rng.choice(everywhere))
        history.needs = await _needs(rng.choice(everywhere), history.rows)
        history.listings = await _listings(rng.choice(everywhere), history.rows, rng)
        await _statistics(rng.choice(everywhere), history)
        await _probe(everywhere, history, recorder, rng)
    await _stop(servers)
    history.recounted = check(servers[0].url).problems + recount(servers[0].store)
    history.log, history.horizon = recorder.log(servers[0].store)


async def _stop(servers: Sequence[ServerProcess]) -> None:
    for server in servers:
        server.signal(signal.SIGTERM)
    for server in servers:
        await server.ended()


async def _all_jobs(stubs: Stubs) -> dict[str, dict[str, object]]:
    """Every job, as List shows it; Get must show the same."""
    listed: dict[str, job_pb2.Job] = {}
    token = ""
    while True:
        page = await stubs.jobs.List(pb.ListRequest(page_size=500, page_token=token))
        listed.update((job.id, job) for job in page.jobs)
        token = page.next_page_token
        if not token:
            break
    got: list[job_pb2.Job] = []
    for some in chunks(list(listed), GETS_AT_ONCE):
        got += await asyncio.gather(*(_get(stubs, job_id) for job_id in some))
    differing: Sequence[Message] = [job for job in got if job != listed[job.id]]
    assert not differing, f"Get and List differ: {differing[:3]}"
    return {job_id: job_dict(job) for job_id, job in listed.items()}


async def _needs(stubs: Stubs, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What Get says of the needs of each job that has some."""
    found: dict[str, list[dict[str, Any]]] = {}
    # A recreated job has the metadata of another, and no needs.
    told = {job_id: row.get("metadata", {}) for job_id, row in rows.items() if "recreated_from" not in row}
    with_needs = [job_id for job_id, metadata in told.items() if metadata.get("needs")]
    for some in chunks(with_needs, GETS_AT_ONCE):
        requests = [pb.GetRequest(id=job_id, include_needs=True) for job_id in some]
        answers = await asyncio.gather(*(stubs.jobs.Get(request) for request in requests))
        found.update((answer.job.id, [_need(need) for need in answer.needs]) for answer in answers)
    return found


def _need(answer: pb.NeedAnswer) -> dict[str, Any]:
    condition = job_pb2.NeedCondition.Name(answer.need.condition).removeprefix("NEED_CONDITION_")
    told: dict[str, Any] = {"job_id": answer.need.job_id, "condition": condition, "met": answer.met}
    return told | ({"state": state_name(answer.state)} if answer.state else {})


async def _listings(stubs: Stubs, rows: Mapping[str, Mapping[str, Any]], rng: random.Random) -> list[Listing]:
    """What List finds by what some of the jobs have."""
    ahead = await _ahead(stubs)
    filters: list[dict[str, Any]] = [{"wait_reasons": [reason]} for reason in WAIT_REASONS]
    for row in rng.sample(list(rows.values()), min(LISTED, len(rows))):
        filters += [{"labels": dict([label])} for label in row.get("labels", {}).items()]
        filters.append({"labels": row.get("labels", {}), "states": [row["state"]]})
        filters.append({name: row[name] for name in ("worker", "source_id") if name in row})
        if "last_error" in row:
            filters.append({"error_code": row["last_error"].get("code", "")})
        if row["state"] in FINAL_STATES:
            moment = (datetime.fromisoformat(row["complete_time"]) - ahead).isoformat()
            filters.append({"complete_time_from": moment, "labels": row.get("labels", {})})
            filters.append({"complete_time_to": moment})
    unlike = {json.dumps(wanted, sort_keys=True): wanted for wanted in filters if any(wanted.values())}
    return [Listing(wanted, await _list(stubs, wanted)) for wanted in unlike.values()]


async def _ahead(stubs: Stubs) -> timedelta:
    """About how far the store's time is ahead of the wall clock, by which callers give times."""
    health = await stubs.maintenance.CheckHealth(mpb.CheckHealthRequest())
    told = re.search(r"(\d+) s behind the store's time", " ".join(health.problems))
    return timedelta(seconds=int(told[1]) if told else 0)


async def _list(stubs: Stubs, wanted: Mapping[str, Any]) -> list[str]:
    request = ParseDict(
        {**wanted, "states": [f"JOB_STATE_{state}" for state in wanted.get("states", ())]}, pb.ListRequest()
    )
    request.page_size = 100
    job_ids: list[str] = []
    while True:
        page = await stubs.jobs.List(request)
        job_ids += [job.id for job in page.jobs]
        request.page_token = page.next_page_token
        if not request.page_token:
            return job_ids


async def _get(stubs: Stubs, job_id: str) -> job_pb2.Job:
    return (await stubs.jobs.Get(pb.GetRequest(id=job_id))).job


async def _statistics(stubs: Stubs, history: History) -> None:
    stats = await stubs.jobs.GetStats(pb.GetStatsRequest())
    for of_type in stats.job_types:
        for stored in of_type.stored:
            history.stored[f"{of_type.job_type}/{state_name(stored.state)}"] = stored.count
    total = stats.total
    history.totals = {
        name: getattr(total, name)
        for name in (
            "completed",
            "permanently_failed",
            "cancelled",
            "retries",
            "released",
            "expired",
            "running",
            "tokens",
        )
    }
    waiting = dict.fromkeys((job_pb2.WAIT_REASON_TURN, job_pb2.WAIT_REASON_TIME, job_pb2.WAIT_REASON_NEEDS), 0)
    waiting.update((each.reason, each.count) for each in total.waiting)
    history.totals.update((job_pb2.WaitReason.Name(reason), count) for reason, count in waiting.items())


async def _probe(everywhere: Sequence[Stubs], history: History, recorder: Recorder, rng: random.Random) -> None:
    """The log from its start, and from cursors that watchers were given, read to the end by watchers like them."""
    givers = list(history.watchers)
    history.watchers.append(Watcher("log", streams=[Stream("EARLIEST", follow=False)]))
    places = [
        (watcher, number, index)
        for watcher in givers
        for number, stream in enumerate(watcher.streams)
        for index, response in enumerate(stream.responses)
        if response.cursor and not stream.job_ids
    ]
    # The newest of each is within retention; of the rest any may be.
    newest = {watcher.name: (watcher, number, index) for watcher, number, index in places}
    for watcher, number, index in [*newest.values(), *rng.sample(places, min(PROBES, len(places)))]:
        cursor = watcher.streams[number].responses[index].cursor
        watcher.streams.append(Stream("CURSOR", cursor, (number, index), follow=False))
    for watcher in history.watchers:
        for stream in watcher.streams:
            if not stream.follow:
                await _read(rng.choice(everywhere), watcher, stream, recorder)


async def _read(stubs: Stubs, watcher: Watcher, stream: Stream, recorder: Recorder) -> None:
    try:
        async for message in stubs.jobs.WatchEvents(request_of(watcher, stream, Habits())):
            stream.responses.append(recorder.response(message, Shared.now()))
        stream.code = "OK"
    except grpc.aio.AioRpcError as error:
        ending = ending_of(error)
        stream.code, stream.reason = ending.code, ending.reason
        stream.oldest_cursor = recorder.note_cursor(ending.oldest_cursor)
