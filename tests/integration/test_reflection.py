"""Reflection answers by both of its names, v1 and v1alpha, and describes itself by both."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from jobstate_server.rpc import reflection

from ..support.server import Running

OURS = {
    "jobstate.v1.JobService",
    "jobstate.v1.DispatchService",
    "jobstate.v1.MaintenanceService",
    "grpc.health.v1.Health",
}


def message(version: str, name: str) -> Any:
    """A message of that version of the protocol, as its own description makes it."""
    reflection.describe_v1()
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"grpc.reflection.{version}.{name}"))


async def asked(running: Running, version: str, **question: Any) -> Any:
    """The answer to a question, by that name of the protocol."""
    channel: Any = running.channel
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message(version, "ServerReflectionResponse").FromString,
    )([message(version, "ServerReflectionRequest")(**question)])
    (answer,) = [answer async for answer in call]
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_list_every_service_and_each_other(running: Running, version: str) -> None:
    answer = await asked(running, version, list_services="")

    names = {service.name for service in answer.list_services_response.service}
    assert names >= OURS | {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_describe_both_versions_and_the_contract(running: Running, version: str) -> None:
    for symbol in (
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "jobstate.v1.JobService",
    ):
        answer = await asked(running, version, file_containing_symbol=symbol)

        encoded = answer.file_descriptor_response.file_descriptor_proto
        files = [descriptor_pb2.FileDescriptorProto.FromString(file) for file in encoded]
        package, _, service = symbol.rpartition(".")
        assert any(file.package == package and service in {s.name for s in file.service} for file in files)
        # What was described can be built: every type that is named is there.
        pool = descriptor_pool.DescriptorPool()
        waiting = {file.name: file for file in files}
        while waiting:
            ready = [file for file in waiting.values() if not waiting.keys() & set(file.dependency)]
            assert ready
            for file in ready:
                pool.Add(waiting.pop(file.name))
        assert pool.FindServiceByName(symbol).methods


async def test_what_is_not_there_is_not_found_by_either(running: Running) -> None:
    for version in ("v1", "v1alpha"):
        answer = await asked(running, version, file_containing_symbol="no.such.Thing")
        assert answer.error_response.error_code == 5
