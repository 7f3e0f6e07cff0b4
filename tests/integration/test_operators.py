"""An operator with a terminal: a running server describes itself, and everything can be typed."""

from __future__ import annotations

import asyncio
import json
import sysconfig
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from jobstate.v1 import job_service_pb2, maintenance_service_pb2

from ..support.calls import refused
from ..support.clock import PATIENCE_S
from ..support.server import Client, client_of, served, serving

JOB_SERVICE = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
MAINTENANCE_SERVICE = maintenance_service_pb2.DESCRIPTOR.services_by_name["MaintenanceService"]


@dataclass(frozen=True)
class Terminal:
    """``buf curl`` on a running server, with nothing but what its reflection tells."""

    address: str

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        process = await asyncio.create_subprocess_exec(
            Path(sysconfig.get_path("scripts")) / "buf",
            *("curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments),
            cwd="/",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def told(self, flag: str) -> list[str]:
        """The lines of a listing."""
        code, out, err = await self.run(flag, f"http://{self.address}")
        assert (code, err) == (0, "")
        return out.split()

    async def call(self, rpc: str, **request: Any) -> list[dict[str, Any]]:
        """The answers to a call of JobService, or of another service that is named in full."""
        method = rpc if "/" in rpc else f"jobstate.v1.JobService/{rpc}"
        code, out, err = await self.run("--data", json.dumps(request), f"http://{self.address}/{method}")
        assert (code, err) == (0, "")
        answers, decoder, start = [], json.JSONDecoder(), 0
        while start < len(out.rstrip()):
            answer, start = decoder.raw_decode(out, start)
            start += 1
            answers.append(answer)
        return answers

    async def job(self, rpc: str, **request: Any) -> dict[str, Any]:
        """The job in the one answer."""
        (answer,) = await self.call(rpc, **request)
        job: dict[str, Any] = answer["job"]
        return job


@pytest.fixture
async def terminal(path: Path) -> AsyncIterator[Terminal]:
    async with served(path) as process:
        yield Terminal(process.address)


async def test_a_job_can_be_driven_watched_and_counted_from_a_terminal(terminal: Terminal) -> None:
    created = await terminal.job("Create", id="job", jobType="clean_transcript", metadata={"talk": 7})
    started = await terminal.job("Start", id="job", worker="me")
    reported = await terminal.job("UpdateProgress", id="job", attempt=1, progress=50, message="half")
    completed = await terminal.job("Complete", id="job", attempt=1, resultCount="2", usage={"tokens": 9})
    found = await terminal.job("Get", id="job")
    (listed,) = await terminal.call("List", states=["JOB_STATE_COMPLETED"], jobTypes=["clean_transcript"])
    *pages, synced = await terminal.call("WatchEvents", start="WATCH_START_EARLIEST", follow=False, jobIds=["job"])
    (stats,) = await terminal.call("GetStats")

    states = [job["state"] for job in (created, started, reported, completed)]
    assert states == ["JOB_STATE_QUEUED", "JOB_STATE_PROCESSING", "JOB_STATE_PROCESSING", "JOB_STATE_COMPLETED"]
    assert reported["progressMessage"] == "half"
    assert found == completed == listed["jobs"][0]
    assert found["metadata"] == {"talk": 7}
    assert [event["name"] for page in pages for event in page["events"]] == [
        "processing-job.queued",
        "processing-job.started",
        "processing-job.progress",
        "processing-job.completed",
    ]
    assert synced["kind"] == "WATCH_RESPONSE_KIND_SYNCED"
    assert stats["total"]["stored"] == [{"state": "JOB_STATE_COMPLETED", "count": "1"}]
    assert (stats["total"]["successRate"], stats["total"]["tokens"]) == (1, "9")


async def test_services_and_methods_can_be_listed_and_health_and_channelz_asked(terminal: Terminal) -> None:
    services = await terminal.told("--list-services")
    methods = await terminal.told("--list-methods")
    (health,) = await terminal.call("grpc.health.v1.Health/Check")
    (of_jobs,) = await terminal.call("grpc.health.v1.Health/Check", service="jobs")
    (servers,) = await terminal.call("grpc.channelz.v1.Channelz/GetServers")
    (tasks,) = await terminal.call("jobstate.v1.MaintenanceService/ListTasks")

    assert {"jobstate.v1.JobService", "jobstate.v1.DispatchService", "grpc.health.v1.Health"} <= set(services)
    for service in (JOB_SERVICE, MAINTENANCE_SERVICE):
        assert {f"{service.full_name}/{method.name}" for method in service.methods} <= set(methods)
    assert health == of_jobs == {"status": "SERVING"}
    assert len(servers["server"]) == 1
    assert len(tasks["tasks"]) == 5


async def test_a_refusal_tells_an_operator_what_to_do(terminal: Terminal) -> None:
    code, out, err = await terminal.run(
        *("--data", '{"id": "nobody"}', f"http://{terminal.address}/jobstate.v1.JobService/Get")
    )

    assert code != 0
    assert out == ""
    assert "not_found" in err
    assert "no job has the id 'nobody'" in err
    assert "google.rpc.ErrorInfo" in err


def described(address: str, *services: str) -> list[ServiceDescriptor]:
    """These services as a client without our protos learns of them, by reflection."""
    with grpc.insecure_channel(address) as channel:
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        return [pool.FindServiceByName(service) for service in services]


async def test_reflection_describes_every_message_as_the_contract_does(path: Path) -> None:
    contract = (JOB_SERVICE, MAINTENANCE_SERVICE)
    async with serving(path) as running:
        names = [service.full_name for service in contract]
        services = await asyncio.to_thread(described, running.server.address, *names)

    for ours, theirs in zip(contract, services, strict=True):
        assert [method.name for method in theirs.methods] == [method.name for method in ours.methods]
        for of_contract, told in zip(ours.methods, theirs.methods, strict=True):
            expected = [field.name for field in of_contract.input_type.fields]
            assert [field.name for field in told.input_type.fields] == expected
            assert told.output_type.full_name == of_contract.output_type.full_name


async def health(client: Client, service: str) -> int:
    """What the health service says."""
    answer = await client.health.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_health_knows_the_services_and_the_jobs_and_nothing_else(path: Path) -> None:
    async with serving(path) as running, client_of(running.server.address) as client:
        for service in ("", JOB_SERVICE.full_name, MAINTENANCE_SERVICE.full_name, "jobs"):
            assert await health(client, service) == health_pb2.HealthCheckResponse.SERVING
        assert (await refused(health(client, "nobody"))).code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("settings", "is_offered"),
    [
        ({}, True),
        ({"channelz": False}, False),
        ({"listen": "0.0.0.0:0", "insecure": True}, False),
        ({"listen": "0.0.0.0:0", "insecure": True, "channelz": True}, True),
    ],
    ids=["on loopback", "on loopback, switched off", "elsewhere", "elsewhere, switched on"],
)
async def test_channelz_is_offered_on_loopback_unless_set(
    path: Path, settings: dict[str, Any], is_offered: bool
) -> None:
    async with serving(path, **settings) as running:
        address = running.server.address.replace("0.0.0.0", "127.0.0.1")
        async with client_of(address) as client:
            channel: Any = client.channel
            get_servers = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")
            if is_offered:
                assert await get_servers(b"")
                (service,) = await asyncio.to_thread(described, address, "grpc.channelz.v1.Channelz")
                assert "GetServers" in service.methods_by_name
            else:
                assert (await refused(get_servers(b""))).code is grpc.StatusCode.UNIMPLEMENTED
