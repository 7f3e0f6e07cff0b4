"""The Python client of jobstate: ``Client`` for threads, ``AsyncClient`` for asyncio. docs/clients.md shows how.

The public names are those of ``__init__.pyi``. Each one is imported on first use, so that the help and the completion
of the command line need no gRPC.
"""

import functools
import pkgutil
import re
from importlib import import_module
from typing import Any

_EXPORT = re.compile(r"^from (\S+) import (\w+|\*)", re.MULTILINE)


@functools.cache
def _exports() -> dict[str, str]:
    """The module of each public name."""
    stub = pkgutil.get_data(__name__, "__init__.pyi") or b""
    exports = {}
    for module, name in _EXPORT.findall(stub.decode()):
        names = import_module(module).__all__ if name == "*" else [name]
        exports |= dict.fromkeys(names, module)
    return exports


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name == "__all__":
        return sorted(_exports())
    if name == "__version__":
        return _version()
    if name in _exports():
        value = globals()[name] = getattr(import_module(_exports()[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names for completion in a shell."""
    return sorted({*globals(), *_exports()})


def _version() -> str:
    """The version of the installed package; sources that are used without installing them have none."""
    metadata = import_module("importlib.metadata")
    try:
        return str(metadata.version("jobstate-grpc"))
    except metadata.PackageNotFoundError:
        return "0+unknown"
