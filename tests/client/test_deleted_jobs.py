"""A repeat whose job was deleted raises an error that says so."""

from __future__ import annotations

from typing import Any

import pytest

from jobstate_client import Client, JobNotFound
from jobstate_client.testing import JobstateServer

from .support import done


async def test_a_repeat_says_that_its_job_was_deleted(either: Any, client: Client, server: JobstateServer) -> None:
    job = await done(either.create("default", id="first", request_id="create-it"))
    await done(either.cancel(job))
    server.advance(7_200.0)
    client.cleanup(older_than=3_600.0)

    with pytest.raises(JobNotFound) as repeated:
        await done(either.create("default", id="first", request_id="create-it"))
    with pytest.raises(JobNotFound) as wrong:
        await done(either.get("second"))

    assert (repeated.value.job_id, repeated.value.deleted) == ("first", True)
    assert not wrong.value.deleted
