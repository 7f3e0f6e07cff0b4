"""A year of recurring jobs over three replicas on PostgreSQL that are killed and frozen: each instant has one job."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobstate_server.clock import ManualClock
from jobstate_server.domain.events import EventType
from jobstate_server.domain.filters import EventFilter
from jobstate_server.store.factory import open_store

from ..support.clock import PATIENCE_S
from ..support.instants import days_of, instants, micros
from ..support.postgres import postgres_server
from .recurring_replica import TIME

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
CHANGES = {
    BERLIN: (date(2026, 3, 29), date(2026, 10, 25)),
    NEW_YORK: (date(2026, 3, 8), date(2026, 11, 1)),
    LORD_HOWE: (date(2026, 4, 5), date(2026, 10, 4)),
}
MONTHS = (3, 4, 10, 11)
"""The months in which clocks are changed. In the others the entries run on Sundays, which takes a third of the time."""

NIGHTLY = {
    "berlin-skipped-and-repeated": (BERLIN, (2, 30)),
    "new-york-skipped": (NEW_YORK, (2, 30)),
    "new-york-repeated": (NEW_YORK, (1, 30)),
    "lord-howe-skipped": (LORD_HOWE, (2, 15)),
    "lord-howe-repeated": (LORD_HOWE, (1, 45)),
}
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def entries() -> dict[str, tuple[dict[str, Any], list[datetime]]]:
    """The entries by name, each with the instants that it must have in the year."""
    around = [START.date() - timedelta(days=1), *days_of(2026), END.date()]
    made: dict[str, tuple[dict[str, Any], list[datetime]]] = {}
    for name, (zone, (hour, minute)) in NIGHTLY.items():
        of_months = f"{minute} {hour} * {','.join(map(str, MONTHS))} *"
        in_months = [day for day in around if day.month in MONTHS]
        made[name] = _entry(name, of_months, zone), instants([(hour, minute)], zone, in_months, hourly=False)
        sundays = [day for day in around if day.weekday() == 6]
        schedule = f"{minute} {hour} * * sun"
        made[f"{name}.sun"] = (
            _entry(f"{name}.sun", schedule, zone),
            instants([(hour, minute)], zone, sundays, hourly=False),
        )
    for zone, days in CHANGES.items():
        for day in days:
            # Clocks are moved by half an hour there.
            step = 30 if zone == LORD_HOWE else 60
            name = f"all-day:{zone.partition('/')[2]}:{day.month}"
            times = [(hour, minute) for hour in range(24) for minute in range(0, 60, step)]
            schedule = f"{'0,30' if step == 30 else '0'} * {day.day} {day.month} *"
            made[name] = _entry(name, schedule, zone), instants(times, zone, [day], hourly=True)
    return {name: (entry, [each for each in found if START < each <= END]) for name, (entry, found) in made.items()}


def _entry(name: str, schedule: str, zone: str) -> dict[str, Any]:
    return {"name": name, "schedule": schedule, "time_zone": zone, "job_type": "default"}


@dataclass
class Replica:
    """A process that creates the jobs of what is due."""

    process: asyncio.subprocess.Process
    begun: asyncio.Task[str]
    is_frozen: bool = False
    unread: int = field(default=0)
    """Answers that it owes."""

    @property
    def is_ready(self) -> bool:
        return self.begun.done() and not self.is_frozen

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.unread += 1

    async def answers(self) -> None:
        while self.unread:
            assert await read_line(self.process)
            self.unread -= 1

    async def end(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.begun.cancel()


async def read_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line = (await process.stdout.readline()).decode().strip()
    assert line, "a replica has ended"
    return line


async def new_replica(url: str, name: str, clock: Path) -> Replica:
    told = json.dumps([entry for entry, _ in entries().values()])
    arguments = ("-m", "tests.robustness.recurring_replica", url, name, str(clock), told)
    pipe = asyncio.subprocess.PIPE
    with clock.with_name(f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=pipe, stdout=pipe, stderr=log)
    return Replica(process, asyncio.create_task(read_line(process)))


@asynccontextmanager
async def company(url: str, clock: Path) -> AsyncIterator[list[Replica]]:
    """Three replicas that are ready."""
    replicas: list[Replica] = []
    try:
        replicas += [await new_replica(url, f"first-{number}", clock) for number in range(3)]
        await asyncio.gather(*(replica.begun for replica in replicas))
        yield replicas
    finally:
        for replica in replicas:
            await replica.end()


def show(clock: Path, now: datetime) -> None:
    """Let all replicas see this time, those that are frozen as soon as they go on."""
    with clock.open("r+b") as content:
        content.write(TIME.pack(micros(now)))


def created(url: str) -> Counter[str]:
    """How often each job was created, by the log."""
    with closing(open_store(url, ManualClock(), 64 * 1024 * 1024)) as store, closing(store.open_reader()) as reader:
        found: Counter[str] = Counter()
        after = 0
        while (page := reader.events(after, EventFilter(), 10_000, 2**40)).events:
            found.update(event.job_id for event in page.events if event.type == EventType.QUEUED)
            after = page.events[-1].sequence
        return found


@pytest.mark.timeout(240)
async def test_over_a_year_each_instant_has_one_job_whichever_replicas_are_killed_and_frozen(
    tmp_path: Path,
) -> None:
    url, chance = postgres_server().new_store(), random.Random(20_260_329)
    clock, made = tmp_path / "clock", entries()
    clock.write_bytes(TIME.pack(micros(START)))
    hours = {each for name, (_, found) in made.items() if name.startswith("all-day") for each in found}
    midnights = [START + timedelta(days=number) for number in range(1, 366)]
    steps = sorted(hours | {day for day in midnights if day.month in MONTHS or day.weekday() in {0, 6}} | {END})
    blows = dict.fromkeys(chance.sample(range(10, len(steps) - 10), 12), "freeze")
    blows |= dict.fromkeys(chance.sample(sorted(blows), 5), "kill")

    async with company(url, clock) as replicas:
        for number, now in enumerate(steps):
            ready = [replica for replica in replicas if replica.is_ready]
            show(clock, now)
            for replica in ready:
                replica.tell("look")
            blow = blows.get(number) if len(ready) > 1 else None
            victim = chance.choice(ready)
            if blow == "kill":
                await victim.end()
                replicas[replicas.index(victim)] = await new_replica(url, f"heir-{number}", clock)
            elif blow == "freeze":
                victim.process.send_signal(signal.SIGSTOP)
                victim.is_frozen = True
            working = [replica for replica in ready if blow is None or replica is not victim]
            await asyncio.gather(*(replica.answers() for replica in working))
            if number % 60 == 59:
                # The ids are free again, and what is thawed could use them.
                working[0].tell("purge")
                await working[0].answers()
            for replica in replicas:
                if replica.is_frozen and chance.random() < 0.2:
                    replica.process.send_signal(signal.SIGCONT)
                    replica.is_frozen = False
                    await replica.answers()

    expected = {f"{name}-{each:%Y-%m-%dT%H:%M:%SZ}" for name, (_, found) in made.items() for each in found}
    found = created(url)
    assert found == Counter(expected)
    assert len(expected) == 5 * (122 + 52) + 2 * (23 + 25) + 47 + 49
