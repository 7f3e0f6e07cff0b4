"""The gRPC server: its services, where it listens, and how it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import cast

import grpc
from grpc_channelz.v1 import channelz

from jobstate.v1 import job_service_pb2, maintenance_service_pb2
from jobstate_server.rpc.calls import Calls
from jobstate_server.rpc.connections import Connections
from jobstate_server.rpc.health import SERVICE_NAME as HEALTH_SERVICE_NAME
from jobstate_server.rpc.health import HealthService
from jobstate_server.rpc.job_service import JobService
from jobstate_server.rpc.maintenance_service import MaintenanceService
from jobstate_server.rpc.reflection import SERVICE_NAMES as REFLECTION_NAMES
from jobstate_server.rpc.reflection import Reflection
from jobstate_server.rpc.transport import transport_options

SERVICES = (
    job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
    maintenance_service_pb2.DESCRIPTOR.services_by_name["MaintenanceService"],
)

READ_ANSWERS_S = 2.0
"""How long a stop waits for the last answers to be read, once all calls have been answered."""


class AddressNotUsable(Exception):
    """The address cannot be listened on. The message says why."""


class _ByName:
    """A gRPC server for generated code to add services to, found by name only.

    Generated code also registers each method by itself. grpc.aio then waits for every registered method before every
    call, which with a dozen of them costs a tenth of what a call takes.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Leave it at the handlers that are found by name."""


class GrpcServer:
    """Serves callers. Its methods belong on the event loop."""

    def __init__(
        self, jobs: JobService, maintenance: MaintenanceService, *, open_streams_max: int, requests_bytes_max: int
    ) -> None:
        self._servicers: Mapping[str, object] = {"JobService": jobs, "MaintenanceService": maintenance}
        self.calls = Calls(open_streams_max=open_streams_max, requests_bytes_max=requests_bytes_max)
        self.health = HealthService()
        self.connections: Connections = self.calls.admission.connections
        self.connections.count_as_used(lambda: self.health.watching)
        names = [service.full_name for service in SERVICES]
        self._reflection = Reflection([*names, HEALTH_SERVICE_NAME, *REFLECTION_NAMES])
        self._server: grpc.aio.Server | None = None

    def listen(self, host: str, port: int, *, with_channelz: bool) -> int:
        """Take the address; nothing is answered yet. Returns the port.

        Raises:
            AddressNotUsable: it cannot be listened on.
        """
        server = grpc.aio.server(options=transport_options())
        for service in SERVICES:
            self.calls.register(server, service, self._servicers[service.name])
        self.health.register(server)
        if with_channelz:
            channelz.add_channelz_servicer(cast("grpc.aio.Server", _ByName(server)))
            self._reflection.add("grpc.channelz.v1.Channelz")
        self._reflection.register(server)
        # gRPC would say that it failed but not why, and print lines of its own.
        _check_address(host, port)
        try:
            bound = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise AddressNotUsable("it is taken") from error
        self._server = server
        self.connections.port = bound
        return bound

    async def start(self) -> None:
        """Answer calls. ``listen`` comes first."""
        assert self._server is not None
        await self._server.start()

    def set_serving(self, is_serving: bool) -> None:
        """Tell by gRPC health whether the services serve."""
        for name in ("", *(service.full_name for service in SERVICES)):
            self.health.set(name, is_serving)

    def drain(self) -> None:
        """The server stops: nothing is serving any more, and the streams that only tell of the server end."""
        self.health.drain()
        self._reflection.drain()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, and end those that are open once they are answered or the grace is over."""
        if self._server is None:
            return
        server, self._server = self._server, None
        loop = asyncio.get_running_loop()
        grace_ends = loop.time() + grace_s
        # The grace is kept here, not by gRPC: ``close`` must come before gRPC destroys its server.
        stopping = asyncio.create_task(server.stop(grace_s + 2 * READ_ANSWERS_S))
        idle = asyncio.create_task(self.calls.under_way.none())
        await asyncio.wait((stopping, idle), timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        # If all has been answered, what is still open is not being read.
        await asyncio.wait((stopping,), timeout=max(0.0, min(READ_ANSWERS_S, grace_ends - loop.time())))
        self.calls.close()
        if not stopping.done():
            stopping.cancel()
            await server.stop(None)
        await idle


def _check_address(host: str, port: int) -> None:
    """Ask the system whether the address can be listened on. Raises AddressNotUsable with the system's reason."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As gRPC does: a port whose last connections are still dying can be taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressNotUsable(str(error.strerror)) from error
