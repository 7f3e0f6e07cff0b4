"""The address of the server, as ``--server`` and JOBSTATE_SERVER give it."""

from __future__ import annotations

import re
from typing import Any

import click
from click.core import ParameterSource

DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_PORT = 50051
PORT_MAX = 65_535

SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
"""The name schemes of gRPC that are passed on unchanged."""

_HOST_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^\s:/,\[\]@?#]+):(?P<port>\d+)")


def problem(address: str) -> str:
    """What is wrong with an address, and what to write instead; empty if it is valid."""
    if address.startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
        return ""
    if url := re.fullmatch(r"(?i)(https?)://([^/?#]*).*", address):
        return _instead_of_url(url[1].lower(), url[2])
    if found := _HOST_PORT.fullmatch(address):
        fits = 1 <= int(found["port"]) <= PORT_MAX
        return "" if fits else f"{address!r} has an invalid port; a port is a number from 1 to {PORT_MAX}"
    if re.fullmatch(r"\[[^\]]+\]|[^\s:/,\[\]@?#]+", address):
        return f"{address!r} has no port; write {address}:{DEFAULT_PORT}"
    if re.fullmatch(r"[0-9A-Fa-f:.]+", address) and address.count(":") > 1:
        return f"{address!r} is an IPv6 address; write it in brackets, with a port: [{address}]:{DEFAULT_PORT}"
    return f"{address!r} is not an address; write HOST:PORT, such as {DEFAULT_SERVER}"


def _instead_of_url(scheme: str, host: str) -> str:
    port = 443 if scheme == "https" else DEFAULT_PORT
    instead = host if _HOST_PORT.fullmatch(host) else f"{host or '127.0.0.1'}:{port}"
    return f"a server address has no {scheme}://; write {instead}" + (" and --tls" if scheme == "https" else "")


class AddressType(click.ParamType[str]):
    """The address of a server."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the address."""
        address = str(value).strip()
        if found := problem(address):
            source = None if ctx is None or param is None or not param.name else ctx.get_parameter_source(param.name)
            self.fail(found + (" (in JOBSTATE_SERVER)" if source is ParameterSource.ENVIRONMENT else ""), param, ctx)
        return address


ADDRESS = AddressType()
