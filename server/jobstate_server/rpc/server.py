"""The gRPC server: its services, where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import cast

import grpc
from grpc_channelz.v1 import channelz

from jobstate.v1 import dispatch_service_pb2, job_service_pb2, maintenance_service_pb2
from jobstate_server.rpc.connections import Connections
from jobstate_server.rpc.dispatch_service import DispatchService
from jobstate_server.rpc.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from jobstate_server.rpc.health import HealthService
from jobstate_server.rpc.job_service import JobService
from jobstate_server.rpc.maintenance_service import MaintenanceService
from jobstate_server.rpc.reflection import SERVICE_NAMES as REFLECTION_NAMES
from jobstate_server.rpc.reflection import Reflection
from jobstate_server.rpc.serving import Calls
from jobstate_server.rpc.transport import transport_options

SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    maintenance_service_pb2.DESCRIPTOR.services_by_name["MaintenanceService"],
    dispatch_service_pb2.DESCRIPTOR.services_by_name["DispatchService"],
)

READ_ANSWERS_S = 2.0
"""How long a stop waits until the last answers are read, after all calls have been answered."""


class AddressNotUsable(Exception):
    """The server cannot listen on the address. The message says why."""


class _ByName:
    """A gRPC server to which generated code adds services, which are then only found by name.

    Generated code also registers each method. grpc.aio then waits for every registered method before every call, which
    with a dozen methods takes a tenth of the time of a call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: the methods are found by name."""


class GrpcServer:
    """The server for callers. Call its methods on the event loop's thread."""

    def __init__(
        self,
        jobs: JobService,
        maintenance: MaintenanceService,
        dispatch: DispatchService,
        *,
        open_streams_max: int,
        requests_bytes_max: int,
        cache_bytes: int,
    ) -> None:
        """``cache_bytes``: memory that is taken by what need not be read again, which is not short for it."""
        self._servicers: Mapping[str, object] = {
            "JobService": jobs,
            "MaintenanceService": maintenance,
            "DispatchService": dispatch,
        }
        self.calls = Calls(
            open_streams_max=open_streams_max, requests_bytes_max=requests_bytes_max, cache_bytes=cache_bytes
        )
        self.health = HealthService()
        self.connections: Connections = self.calls.admission.connections
        self.receive_buffers = self.calls.admission.buffers
        self.resets = self.calls.admission.resets
        self.connections.count_as_used(lambda: self.health.watching)
        names = [service.full_name for service in SERVICES]
        self._reflection = Reflection([*names, HEALTH_SERVICE_NAME, *REFLECTION_NAMES])
        self._server: grpc.aio.Server | None = None

    def listen(self, host: str, port: int, *, with_channelz: bool) -> int:
        """Bind the address without answering calls yet. Returns the port.

        Raises:
            AddressNotUsable: the server cannot listen on it.
        """
        server = grpc.aio.server(options=transport_options())
        for service in SERVICES:
            self.calls.register(server, service, self._servicers[service.name])
        self.health.register(server, self.calls)
        if with_channelz:
            channelz.add_channelz_servicer(cast("grpc.aio.Server", _ByName(server)))
            self._reflection.add("grpc.channelz.v1.Channelz")
        self._reflection.register(server)
        # gRPC would not say why it failed, and would print lines of its own.
        _check_address(host, port)
        try:
            bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise AddressNotUsable("it is in use") from error
        self._server = server
        self.connections.port = self.receive_buffers.port = bound
        return bound

    async def start(self) -> None:
        """Answer calls. Call ``listen`` first."""
        assert self._server is not None
        await self._server.start()
        self.receive_buffers.start()

    def set_serving(self, is_serving: bool) -> None:
        """Set the gRPC health status of the services."""
        for name in ("", *(service.full_name for service in SERVICES)):
            self.health.set(name, is_serving)

    def drain(self) -> None:
        """The server is stopping: health becomes NOT_SERVING, and the streams of health and reflection end."""
        self.health.drain()
        self._reflection.drain()

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls, and wait until the open calls are answered, or end them when the grace is over."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self.receive_buffers.stop()
        loop = asyncio.get_running_loop()
        grace_ends = loop.time() + grace_s
        # The grace is timed here, because it may end before gRPC's, once all calls are answered.
        stopping = asyncio.create_task(server.stop(grace_s + 2 * READ_ANSWERS_S))
        idle = asyncio.create_task(self.calls.under_way.none())
        await asyncio.wait((stopping, idle), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        # If all calls are answered, the clients of those that are still open are not reading.
        await asyncio.wait((stopping,), timeout=max(0.0, min(READ_ANSWERS_S, grace_ends - loop.time())))
        if not stopping.done():
            stopping.cancel()
            await server.stop(None)
        await idle


def _check_address(host: str, port: int) -> None:
    """Check that the server can listen on the address. Raises AddressNotUsable with the reason of the system."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # Like gRPC: a port whose last connections are still closing can be used.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressNotUsable(str(error.strerror)) from error
