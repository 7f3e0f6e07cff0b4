"""Where the server is: what ``--server`` and JOBSTATE_SERVER may say."""

from __future__ import annotations

import re
from typing import Any

import click
from click.core import ParameterSource

DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_PORT = 50051
PORT_MAX = 65_535

SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
"""Of gRPC's own names for a server, those that are passed on as they are."""

_HOST_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^\s:/,\[\]@?#]+):(?P<port>\d+)")


def problem(address: str) -> str:
    """What is wrong with an address and what to write instead; empty when nothing is."""
    if address.startswith(tuple(f"{scheme}:" for scheme in SCHEMES)):
        return ""
    if url := re.fullmatch(r"(?i)(https?)://([^/?#]*).*", address):
        return _instead_of_url(url[1].lower(), url[2])
    if found := _HOST_PORT.fullmatch(address):
        fits = 1 <= int(found["port"]) <= PORT_MAX
        return "" if fits else f"{address!r} has no such port; a port is a number from 1 to {PORT_MAX}"
    if re.fullmatch(r"\[[^\]]+\]|[^\s:/,\[\]@?#]+", address):
        return f"{address!r} names no port; write {address}:{DEFAULT_PORT}"
    if re.fullmatch(r"[0-9A-Fa-f:.]+", address) and address.count(":") > 1:
        return f"{address!r} is an IPv6 address; write it in brackets, with a port: [{address}]:{DEFAULT_PORT}"
    return f"{address!r} is no address; write HOST:PORT, such as {DEFAULT_SERVER}"


def _instead_of_url(scheme: str, place: str) -> str:
    port = 443 if scheme == "https" else DEFAULT_PORT
    instead = place if _HOST_PORT.fullmatch(place) else f"{place or '127.0.0.1'}:{port}"
    return f"a server is named without {scheme}://; write {instead}" + (" and --tls" if scheme == "https" else "")


class AddressType(click.ParamType[str]):
    """The address of a server."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it."""
        address = str(value).strip()
        if told := problem(address):
            source = None if ctx is None or param is None or not param.name else ctx.get_parameter_source(param.name)
            self.fail(told + (" (in JOBSTATE_SERVER)" if source is ParameterSource.ENVIRONMENT else ""), param, ctx)
        return address


ADDRESS = AddressType()
