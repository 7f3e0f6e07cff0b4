"""``jobstate maintenance``: what each task prints and refuses."""

from __future__ import annotations

from pathlib import Path

from jobstate_client import Client, State
from jobstate_client.testing import JobstateServer

from .support import run

HOUR = 3_600


def test_check_stale_fails_silent_attempts(server: JobstateServer, client: Client) -> None:
    client.start(client.create("resting", id="first"))
    server.advance(HOUR)
    dry = run(server, "maintenance", "check-stale", "--dry-run")
    done = run(server, "maintenance", "check-stale", "--json")

    assert dry.out == "1 job would be failed as stale.\n  first\n"
    assert done.json == {"job_ids": ["first"], "count": "1"}
    assert client.get("first").state is State.FAILED
    assert run(server, "maintenance", "check-stale").out == "0 jobs failed as stale.\n"


def test_retry_failed_shows_what_it_changed(server: JobstateServer, client: Client) -> None:
    client.fail(client.start(client.create("resting")), "RATE")

    assert run(server, "maintenance", "retry-failed").out == "0 jobs changed.\n"
    assert run(server, "maintenance", "retry-failed", "--dry-run", "--json").json == {"job_ids": [], "count": "0"}


def test_cleanup_deletes_what_is_old_enough(server: JobstateServer, client: Client) -> None:
    client.cancel(client.create("resting", id="first"))
    server.advance(2 * HOUR)
    dry = run(server, "maintenance", "cleanup", "--older-than", "1h30m", "--dry-run")

    assert dry.out == "1 job and 0 events would be deleted.\n"
    assert run(server, "maintenance", "cleanup", "--older-than", "3h", "--json").json == {"jobs": "0", "events": "0"}
    assert run(server, "maintenance", "cleanup", "--older-than", "1h30m").out == "1 job and 0 events deleted.\n"
    assert list(client.list()) == []


def test_a_short_retention_is_refused_unless_forced(server: JobstateServer, client: Client) -> None:
    client.cancel(client.create("resting"))
    server.advance(60)
    refused = run(server, "maintenance", "cleanup", "--older-than", "30s")

    assert refused.code == 1
    assert refused.err.startswith("jobstate: INVALID_FIELD: --older-than: ")
    assert run(server, "maintenance", "cleanup", "--older-than", "30s", "--force", "--json").json["jobs"] == "1"


def test_check_health_exits_with_4_on_request_when_something_is_wrong(server: JobstateServer, client: Client) -> None:
    well = run(server, "maintenance", "check-health", "--exit-state")
    client.create("resting")
    server.advance(24 * HOUR)
    ill = run(server, "maintenance", "check-health", "--exit-state")

    assert (well.code, well.out.splitlines()[0]) == (0, "HEALTHY")
    assert (ill.code, ill.out.splitlines()[0]) == (4, "DEGRADED")
    assert ill.out.splitlines()[1].startswith("  ")
    assert run(server, "maintenance", "check-health").code == 0
    assert run(server, "maintenance", "check-health", "--json").json["state"] == "DEGRADED"


def test_tasks_lists_what_runs_by_itself(server: JobstateServer) -> None:
    names = ["check-stale", "retry-failed", "evict-inactive", "cleanup", "check-health"]
    told = run(server, "maintenance", "tasks").out.splitlines()

    assert [line.split()[0] for line in told] == ["TASK", *names]
    assert [task["name"] for task in run(server, "maintenance", "tasks", "--json").json["tasks"]] == names


def test_tasks_lists_recurring_jobs_with_their_zone_and_their_last_job(tmp_path: Path) -> None:
    entry = {"name": "hourly", "schedule": "0 * * * *", "time_zone": "Asia/Kolkata", "job_type": "report"}
    server = JobstateServer(tmp_path, recurring=[entry])
    try:
        before = run(server, "maintenance", "tasks").out.splitlines()[-1]
        server.advance(HOUR)
        client = server.client()
        while not (found := [job.id for job in client.list(job_types=["report"])]):
            pass  # The server creates it a moment after its clock has moved.
        (created,) = found
        (task,) = [task for task in client.tasks() if task.job_type]
        after = run(server, "maintenance", "tasks").out.splitlines()[-1]
    finally:
        server.close()

    assert before.split()[:7] == [*("hourly", "0", "*", "*", "*", "*", "Asia/Kolkata")]
    assert (task.name, task.last_job_id, task.time_zone) == ("hourly", created, "Asia/Kolkata")
    assert f"{created} created" in after


def test_the_maintenance_tasks_have_the_timeout_that_was_given() -> None:
    result = run("127.0.0.1:1", "maintenance", "check-stale", "--timeout", "500ms")

    assert result.code == 3
