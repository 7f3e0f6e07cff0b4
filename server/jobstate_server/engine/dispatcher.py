"""Hands out ready jobs in a batch: to the calls of Acquire in it, and to those that wait. On the committer's thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from jobstate_server.domain.commands import Acquire, Command, Pause, ServeWaiting
from jobstate_server.domain.job_types import JobTypes
from jobstate_server.domain.limits import ACQUIRED_MAX
from jobstate_server.domain.reads import Reads
from jobstate_server.domain.turns import TypeState
from jobstate_server.engine.batch import Batch
from jobstate_server.engine.outcomes import Outcome, Verdict
from jobstate_server.engine.parked_acquires import ParkedAcquires, WaitingAcquire
from jobstate_server.engine.picking import Picker
from jobstate_server.engine.wanted import Wanted, ending, spared
from jobstate_server.store.base import Transaction

HANDED_OUT_MAX = 512
"""Jobs that one transaction hands out to calls that wait, as many as it takes commands. The rest get theirs in the next
one."""

REPEATS_SOUGHT_MAX = 1_000
"""Request ids of calls that wait which are looked up once a second: a millisecond."""

TRIES_MAX = 8
"""After so many tries in vain to hand out jobs of a type, the replica that does is waited for."""

Handed = list[tuple[WaitingAcquire, Verdict]]


@dataclass(slots=True)
class Turn:
    """What one transaction has done for the calls that wait. Nothing of it counts until the transaction is durable."""

    handed: Handed = field(default_factory=list)
    """The calls that have their answer."""
    is_unfinished: bool = False
    """Whether there may be more ready jobs for the calls that wait."""
    parked: list[WaitingAcquire] = field(default_factory=list)
    """The calls of this batch that found nothing and now wait."""
    tried: set[str] = field(default_factory=set)
    """The types whose turn was tried for."""


class Dispatcher:
    """Serves the calls of Acquire of one server."""

    def __init__(self, job_types: JobTypes, parked: ParkedAcquires, *, is_shared: bool) -> None:
        """``is_shared``: whether calls of Acquire may wait at other servers too."""
        self._is_shared = is_shared
        self._job_types = job_types
        self._picker = Picker(job_types)
        self._parked = parked
        self._is_repeat = False
        """Whether the transaction is repeated because it conflicted with another one."""
        self._opens: dict[str, int] = {}
        """When a limit of a type, or of one of its lanes, will allow another hand-out."""
        self._tries = 0
        """How many times in a row something could not be handed out because another replica was at it."""
        self._must_look = False
        """Whether jobs that the store has are ready and a call may wait for them."""
        self._calls: dict[int, WaitingAcquire] = {}
        """The calls of the current batch, by the identity of their commands. Acquires of a stream are none."""
        self._answered: Handed = []
        self._acquires: list[Acquire] = []
        """The calls of Acquire among the commands of the current transaction."""
        self._commands: Sequence[Command] = ()
        """All of them."""
        self._spare: int | None = None
        """See ``Wanted.spare``. None if nothing was picked."""
        self._pauses: set[tuple[str, str | None]] = set()
        """The types and lanes that are paused in the current transaction, or go on."""
        self._must_serve = False

    def begin(self, calls: Iterable[WaitingAcquire]) -> None:
        """A batch begins, with these calls of Acquire. It may take several transactions."""
        self._calls = {id(call.command): call for call in calls}

    @property
    def is_waited_for(self) -> bool:
        """Whether any call waits."""
        return len(self._parked) > 0

    def begin_transaction(self, *, is_repeat: bool) -> None:
        """A transaction begins. ``is_repeat``: the last one conflicted with another server's."""
        self._is_repeat = is_repeat and self._is_shared

    def wanted_types(self, commands: Sequence[Command]) -> Container[str]:
        """The job types that the commands of a batch, or the calls that wait, ask for."""
        self._commands = commands
        self._acquires = [command for command in commands if type(command) is Acquire]
        self._must_serve = any(type(command) is ServeWaiting for command in commands)
        if self._is_shared:
            return _AllTypes()
        own = {name for command in self._acquires for name in command.job_types}
        # A call is parked by this very thread, and only if its types are among those of the batch.
        return _WantedTypes(own, self._parked) if self._parked else own

    def look(self, transaction: Transaction, commands: Sequence[Command], batch: Batch) -> bool:
        """Offer the batch the ready jobs of the store that it may hand out. True if some may not have been found.

        What is ready is known before the first command is decided. Each command may take away jobs that it names, so as
        many more are read.
        """
        if self._is_shared:
            batch.handing_out.turns = set()
        self._spare = None
        wanted = Wanted(commands=commands, whole_batch=commands)
        for command in self._acquires:
            before = wanted.jobs.get(command.job_types)
            if before is None:
                # What the batch makes ready may go to the calls that wait, after what other replicas made ready.
                before = self._waited_for(command.job_types) if self._is_shared else 0
            wanted.jobs[command.job_types] = before + command.max_jobs
        self._pauses = wanted.pauses = {(each.job_type, each.lane) for each in commands if type(each) is Pause}
        if self._must_look or self._must_serve:
            for types, count in self._parked.wanted(HANDED_OUT_MAX).items():
                wanted.jobs[types] = wanted.jobs.get(types, 0) + count
        elif self._parked:
            self._add_freed(commands, batch, wanted)
        if not wanted.job_types:
            return False
        self._spare = wanted.spare = spared(commands, batch)
        # A call that does not wait would go away with nothing, and so would one that pauses.
        may_wait = self._tries >= TRIES_MAX or bool(wanted.pauses) or not all(map(self._waits, self._acquires))
        is_complete = self._pick(transaction, batch, wanted, may_wait=may_wait)
        self._tries = 0 if is_complete else self._tries + 1
        return not is_complete

    def _pick(self, transaction: Transaction, batch: Batch, wanted: Wanted, *, may_wait: bool = False) -> bool:
        return self._picker.pick(transaction, batch, wanted, may_wait=may_wait, log_first=self._is_repeat)

    def _waited_for(self, job_types: Iterable[str]) -> int:
        """How many jobs of these types the calls that wait want, up to what one transaction hands out."""
        return sum(self._parked.wanted_of(name, HANDED_OUT_MAX + ACQUIRED_MAX) for name in job_types)

    def _add_freed(self, commands: Sequence[Command], batch: Batch, wanted: Wanted) -> None:
        """Calls wait because of a limit: the batch may end attempts, and so make room for others."""
        goes_on = {each.job_type for each in commands if type(each) is Pause and not each.paused}
        names = [job.job_type for job in ending(commands, batch, self._job_types)]
        freed = Counter(name for name in names if self._job_types.policy(name).is_bounded)
        freed.update(dict.fromkeys(goes_on, HANDED_OUT_MAX))
        for name, count in freed.items():
            if name in self._parked:
                asked = sum(count for types, count in self._parked.wanted(HANDED_OUT_MAX).items() if name in types)
                wanted.jobs[name,] = wanted.jobs.get((name,), 0) + min(count, asked)

    def _waits(self, command: Acquire) -> bool:
        call = self._calls.get(id(command))
        return call is not None and call.withdrawn is None

    def _read_lanes(self, transaction: Transaction, batch: Batch, job_types: Iterable[str]) -> None:
        """Read what is stored of the lanes in which jobs of these types became ready in the batch."""
        turns = batch.handing_out.turns
        unknown = batch.handing_out.unknown_lanes(name for name in job_types if turns is None or name in turns)
        if unknown:
            selected = [self._picker.state_of(name, 0, lanes) for name, lanes in unknown.items()]
            found = transaction.hand_out_states(selected, takes_turns=False)
            batch.handing_out.know(found.states.get(name) or TypeState(name) for name in unknown)

    def answer_repeats(self, transaction: Transaction, batch: Batch, turn: Turn) -> None:
        """Answer the calls that wait here and repeat a call that another server has answered since."""
        if not (self._is_shared and self._must_serve):
            return
        keys = self._parked.request_keys(REPEATS_SOUGHT_MAX)
        if keys:
            _load_requests(transaction, batch, keys)
            for key in keys:
                if batch.knows(key):
                    turn.handed += [(call, batch.answer(call.command)) for call in self._parked.take_repeats(key)]

    def serve(self, transaction: Transaction, batch: Batch, turn: Turn, rest: Sequence[Command] = ()) -> None:
        """Hand out what is ready to the calls that wait, first come first served.

        ``rest``: the commands that are decided after this.
        """
        if batch.handing_out.outdated:
            self._pick_again(transaction, batch, turn, rest)
        while self._parked:
            room = HANDED_OUT_MAX - batch.handing_out.handed_out
            if room <= 0:
                # The store may have more ready jobs than were looked for.
                turn.is_unfinished = True
                return
            seen = [name for name in batch.handing_out.seen_types if name in self._parked]
            self._read_lanes(transaction, batch, self._in_turn(transaction, batch, turn, seen, rest))
            ready = batch.handing_out.ready_types(seen)
            if not ready:
                return
            calls = self._parked.take(ready, batch.handing_out.count(ready, room))
            _load_requests(transaction, batch, [call.command.request.key for call in calls if call.command.request])
            unserved = []
            for call in calls:
                verdict = batch.answer(call.command)
                if not self._is_served(batch, call, verdict):
                    unserved.append(call)
                    continue
                turn.handed.append((call, verdict))
                self._serve_repeats(batch, call, turn)
            self._give_back(unserved, turn)
            if len(unserved) == len(calls):
                return

    def _pick_again(self, transaction: Transaction, batch: Batch, turn: Turn, rest: Sequence[Command]) -> None:
        """Pick the types again, of those that are asked for, in which the batch has closed or opened lanes."""
        wanted = self._wanted_after(batch, batch.handing_out.outdated, rest)
        if wanted.jobs:
            turn.is_unfinished |= not self._picker.pick_again(transaction, batch, wanted)

    def _wanted_after(self, batch: Batch, job_types: Iterable[str], rest: Sequence[Command]) -> Wanted:
        """What is wanted of these types by the calls that wait and by the rest of the batch."""
        acquires = [command for command in rest if type(command) is Acquire]
        jobs: dict[tuple[str, ...], int] = {}
        for name in job_types:
            asked = sum(command.max_jobs for command in acquires if name in command.job_types)
            if count := asked + self._waited_for((name,)):
                jobs[name,] = count
        pauses = {(name, lane) for name, lane in self._pauses if (name,) in jobs}
        spare = spared(self._commands, batch) if self._spare is None else self._spare
        return Wanted(jobs, pauses, rest, self._commands, spare, is_first=False)

    def _in_turn(
        self, transaction: Transaction, batch: Batch, turn: Turn, job_types: list[str], rest: Sequence[Command]
    ) -> list[str]:
        """Those of these types that the transaction may hand out. On a store that is shared, it takes their turn.

        What other replicas have made ready comes first, although this one may not have heard of it yet.
        """
        turns = batch.handing_out.turns
        if turns is None:
            return job_types
        new = [name for name in job_types if name not in turns and name not in turn.tried]
        if new:
            turn.tried.update(new)
            turn.is_unfinished |= not self._pick(transaction, batch, self._wanted_after(batch, new, rest))
        return [name for name in job_types if name in turns]

    def _serve_repeats(self, batch: Batch, call: WaitingAcquire, turn: Turn) -> None:
        """Answer the calls that wait with the same request id: the caller lost its connection and has called again."""
        if call.command.request is not None:
            for repeat in self._parked.take_repeats(call.command.request.key):
                turn.handed.append((repeat, batch.answer(repeat.command)))

    @staticmethod
    def _is_served(batch: Batch, call: WaitingAcquire, verdict: Verdict) -> bool:
        """Whether the call need not wait: it got jobs, was refused, or repeats a call that got its jobs."""
        request = call.command.request
        return (
            not isinstance(verdict, Outcome) or bool(verdict.jobs) or (request is not None and batch.knows(request.key))
        )

    def decide(self, transaction: Transaction, commands: Sequence[Command], batch: Batch, turn: Turn) -> None:
        """Decide the commands of the batch. A call that may wait and finds nothing is parked."""
        if not self._acquires:
            batch.decide(*commands)
            return
        begin = 0
        for end, command in enumerate(commands):
            if type(command) is Acquire:
                batch.decide(*commands[begin:end])
                begin = end + 1
                # Those that came before get what became ready since.
                self.serve(transaction, batch, turn, commands[end:])
                self._read_lanes(transaction, batch, command.job_types)
                self._decide_acquire(command, batch, turn)
        batch.decide(*commands[begin:])

    def _decide_acquire(self, command: Acquire, batch: Batch, turn: Turn) -> None:
        call = self._calls.get(id(command))
        if call is not None and call.future.done():
            # A transaction that was not kept had parked it, and its time was up before this one.
            batch.pass_over()
            return
        verdict = batch.decide_one(command)
        if call is not None and not self._is_served(batch, call, verdict) and self._parked.park(call):
            turn.parked.append(call)

    def _give_back(self, calls: Sequence[WaitingAcquire], turn: Turn) -> None:
        for call in self._parked.put_back(calls):
            if call.withdrawn is not None:
                turn.handed.append((call, call.withdrawn))

    def opens(self) -> int | None:
        """When a limit will allow another hand-out of a type for which a call waits. None if no time is known."""
        return min((time for name, time in self._opens.items() if name in self._parked), default=None)

    def committed(self, turn: Turn, batch: Batch) -> None:
        """The transaction is durable."""
        for name in batch.handing_out.known_types:
            opens = batch.handing_out.opens(name)
            if opens is None:
                self._opens.pop(name, None)
            else:
                self._opens[name] = opens
        self._must_look = turn.is_unfinished
        self._answered += turn.handed

    def rolled_back(self, turn: Turn) -> None:
        """The transaction was not kept: nothing was handed out, and nobody waits who did not wait before."""
        parked_here = set(map(id, turn.parked))
        for call in turn.parked:
            self._parked.unpark(call)
        for call in self._parked.put_back([call for call, _ in turn.handed if id(call) not in parked_here]):
            if call.withdrawn is not None:
                self._answered.append((call, call.withdrawn))

    def take_answered(self) -> Handed:
        """The calls that have been answered since the last time."""
        answered, self._answered = self._answered, []
        return answered


class _AllTypes:
    """Every type: the other replicas must be told of all jobs that become ready."""

    def __contains__(self, job_type: object) -> bool:
        return True


class _WantedTypes:
    """The types of a batch's commands and those of the calls that wait, which may become fewer meanwhile."""

    def __init__(self, own: set[str], parked: ParkedAcquires) -> None:
        self._own = own
        self._parked = parked

    def __contains__(self, job_type: object) -> bool:
        return job_type in self._own or job_type in self._parked


def _load_requests(transaction: Transaction, batch: Batch, keys: Sequence[tuple[str, str]]) -> None:
    """Load these request ids: another call with the same id may have been carried out since the call was parked."""
    if keys:
        loaded = transaction.load(Reads(request_keys=set(keys)))
        named = {job_id for stored in loaded.requests.values() for job_id in stored.job_ids} - batch.jobs.keys()
        if named:
            loaded.jobs.update(transaction.load(Reads(job_ids=named)).jobs)
        batch.add(loaded)
