"""The operations as methods of the two clients."""

from __future__ import annotations

from jobstate_client.core import bulk, creating, dispatch, maintenance, operations
from jobstate_client.core.methods import (
    async_batches,
    async_bulk,
    async_listing,
    async_method,
    sync_batches,
    sync_bulk,
    sync_listing,
    sync_method,
    update_method,
)


class SyncMethods:
    """The operations of ``Client``."""

    create = sync_method(creating.create)
    create_many = sync_batches(creating.create_many)
    get = sync_method(operations.get)
    attempts = sync_method(operations.attempts)
    needs = sync_method(operations.needs)
    list = sync_listing(operations.list_jobs)
    start = sync_method(operations.start)
    progress = sync_method(operations.progress)
    complete = sync_method(operations.complete)
    fail = sync_method(operations.fail)
    acquire = sync_method(dispatch.acquire)
    release = sync_method(dispatch.release)
    explain = sync_method(dispatch.explain)
    pause = sync_method(dispatch.pause)
    unpause = sync_method(dispatch.unpause)
    lanes = sync_listing(dispatch.lanes)
    type_status = sync_method(dispatch.type_status)
    retry = sync_method(operations.retry)
    cancel = sync_method(operations.cancel)
    recreate = sync_method(creating.recreate)
    recreate_many = sync_bulk(bulk.recreate_many)
    retry_many = sync_bulk(bulk.retry_many)
    cancel_many = sync_bulk(bulk.cancel_many)
    close_group = sync_method(operations.close_group)
    report_usage = sync_method(operations.report_usage)
    stats = sync_method(operations.stats)
    job_types = sync_method(operations.job_types)
    check_stale = sync_method(maintenance.check_stale)
    retry_failed = sync_method(maintenance.retry_failed)
    cleanup = sync_method(maintenance.cleanup)
    erase = sync_method(maintenance.erase)
    check_health = sync_method(maintenance.check_health)
    tasks = sync_method(maintenance.tasks)


class AsyncMethods:
    """The operations of ``AsyncClient``, each a coroutine or an asynchronous iterator."""

    create = async_method(creating.create)
    create_many = async_batches(creating.create_many)
    get = async_method(operations.get)
    attempts = async_method(operations.attempts)
    needs = async_method(operations.needs)
    list = async_listing(operations.list_jobs)
    start = async_method(operations.start)
    progress = async_method(operations.progress)
    complete = async_method(operations.complete)
    fail = async_method(operations.fail)
    acquire = async_method(dispatch.acquire)
    release = async_method(dispatch.release)
    explain = async_method(dispatch.explain)
    pause = async_method(dispatch.pause)
    unpause = async_method(dispatch.unpause)
    lanes = async_listing(dispatch.lanes)
    type_status = async_method(dispatch.type_status)
    retry = async_method(operations.retry)
    cancel = async_method(operations.cancel)
    recreate = async_method(creating.recreate)
    recreate_many = async_bulk(bulk.recreate_many)
    retry_many = async_bulk(bulk.retry_many)
    cancel_many = async_bulk(bulk.cancel_many)
    close_group = async_method(operations.close_group)
    report_usage = async_method(operations.report_usage)
    stats = async_method(operations.stats)
    job_types = async_method(operations.job_types)
    check_stale = async_method(maintenance.check_stale)
    retry_failed = async_method(maintenance.retry_failed)
    cleanup = async_method(maintenance.cleanup)
    erase = async_method(maintenance.erase)
    check_health = async_method(maintenance.check_health)
    tasks = async_method(maintenance.tasks)


class UpdateMethods:
    """The operations of the updates of both clients."""

    create = update_method(creating.create)
    start = update_method(operations.start)
    progress = update_method(operations.progress)
    complete = update_method(operations.complete)
    fail = update_method(operations.fail)
    release = update_method(dispatch.release)
    report_usage = update_method(operations.report_usage)
    retry = update_method(operations.retry)
    cancel = update_method(operations.cancel)
