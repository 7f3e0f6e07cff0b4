"""Every public name and the module that defines it: the one table of exports, for type checkers and at run time.

The errors are those of ``errors.__all__``.
"""

from jobstate_client.aio.client import AsyncClient as AsyncClient
from jobstate_client.aio.group import AsyncGroup as AsyncGroup
from jobstate_client.aio.updates import AsyncUpdates as AsyncUpdates
from jobstate_client.aio.watch import AsyncWatch as AsyncWatch
from jobstate_client.aio.worker import AsyncWorker as AsyncWorker
from jobstate_client.core.channel import TLS as TLS
from jobstate_client.core.inspection import Attempt as Attempt
from jobstate_client.core.inspection import BulkProgress as BulkProgress
from jobstate_client.core.inspection import CleanupResult as CleanupResult
from jobstate_client.core.inspection import Explanation as Explanation
from jobstate_client.core.inspection import Health as Health
from jobstate_client.core.inspection import Hold as Hold
from jobstate_client.core.inspection import JobType as JobType
from jobstate_client.core.inspection import JobTypes as JobTypes
from jobstate_client.core.inspection import Lane as Lane
from jobstate_client.core.inspection import LimitUse as LimitUse
from jobstate_client.core.inspection import Paused as Paused
from jobstate_client.core.inspection import Rate as Rate
from jobstate_client.core.inspection import Stats as Stats
from jobstate_client.core.inspection import Task as Task
from jobstate_client.core.inspection import TaskResult as TaskResult
from jobstate_client.core.inspection import TypeStats as TypeStats
from jobstate_client.core.inspection import TypeStatus as TypeStatus
from jobstate_client.core.inspection import Unpaused as Unpaused
from jobstate_client.core.job_failure import JobFailure as JobFailure
from jobstate_client.core.job_failure import NonRetryable as NonRetryable
from jobstate_client.core.releasing import Release as Release
from jobstate_client.core.run import Run as Run
from jobstate_client.core.states import AttemptOutcome as AttemptOutcome
from jobstate_client.core.states import CancelCause as CancelCause
from jobstate_client.core.states import EventType as EventType
from jobstate_client.core.states import HealthState as HealthState
from jobstate_client.core.states import HoldReason as HoldReason
from jobstate_client.core.states import LaneFrom as LaneFrom
from jobstate_client.core.states import LaneHolds as LaneHolds
from jobstate_client.core.states import NeedCondition as NeedCondition
from jobstate_client.core.states import OnExcess as OnExcess
from jobstate_client.core.states import Priority as Priority
from jobstate_client.core.states import RetryDecision as RetryDecision
from jobstate_client.core.states import SkipReason as SkipReason
from jobstate_client.core.states import State as State
from jobstate_client.core.states import UniqueUntil as UniqueUntil
from jobstate_client.core.states import WaitReason as WaitReason
from jobstate_client.core.values import CreatedJob as CreatedJob
from jobstate_client.core.values import Detail as Detail
from jobstate_client.core.values import Event as Event
from jobstate_client.core.values import GroupMembers as GroupMembers
from jobstate_client.core.values import GroupPolicy as GroupPolicy
from jobstate_client.core.values import Job as Job
from jobstate_client.core.values import JobError as JobError
from jobstate_client.core.values import Need as Need
from jobstate_client.core.values import NeedStatus as NeedStatus
from jobstate_client.core.values import NewJob as NewJob
from jobstate_client.core.values import SnapshotJob as SnapshotJob
from jobstate_client.core.values import SnapshotStarted as SnapshotStarted
from jobstate_client.core.values import Synced as Synced
from jobstate_client.core.values import Updated as Updated
from jobstate_client.core.values import WatchItem as WatchItem
from jobstate_client.errors import *  # noqa: F403 - errors.__all__ names them
from jobstate_client.sync.client import Client as Client
from jobstate_client.sync.group import Group as Group
from jobstate_client.sync.updates import Updates as Updates
from jobstate_client.sync.watch import Watch as Watch
from jobstate_client.sync.worker import Worker as Worker

__all__: list[str]
__version__: str
