"""What holds for the pipelines in the examples of Go and TypeScript.

Each prints the group, how many members it has, and the last job.
"""

from __future__ import annotations

from jobstate_client import Client, State, WaitReason

from .facts import Command
from .support import InteropServer, run_probe

STEPS = (("clean_transcript", 1), ("extract_insights", 1), ("generate_posts", 10), ("notify", 1))
PATIENCE_S = 60.0


class PipelineFacts:
    """The facts. A language's test module has the fixture ``pipeline``, the program."""

    def test_a_pipeline_goes_on_from_step_to_step(
        self, server: InteropServer, client: Client, pipeline: Command
    ) -> None:
        (told,) = run_probe([*pipeline, server.address, "episode-12"])
        group, members, last = told.split()
        assert members == "12"
        assert client.get(last).wait_reason is WaitReason.NEEDS

        for job_type, count in STEPS:
            for _ in range(count):
                (job,) = client.acquire([job_type], wait=PATIENCE_S / 2)
                client.complete(job)

        ended = client.wait(group, timeout=PATIENCE_S)
        assert (ended.state, client.get(last).state) == (State.COMPLETED, State.COMPLETED)
        assert ended.members is not None
        assert ended.members.completed == 12

    def test_a_pipeline_whose_first_step_is_cancelled_ends_with_the_notice(
        self, server: InteropServer, client: Client, pipeline: Command
    ) -> None:
        (told,) = run_probe([*pipeline, server.address, "episode-13"])
        group, _, last = told.split()
        client.cancel(f"{group}.clean")

        assert client.wait(group, timeout=PATIENCE_S).state is State.PERMANENTLY_FAILED

        (notice,) = client.acquire(["notify"], wait=PATIENCE_S / 2)
        assert notice.id == last
