"""Imports go one way, and each foreign package has the rooms it may enter."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from .support import CLIENT, ROOT, SERVER, modules_below, parsed, relative, run_tool

OURS = {"jobstate", "jobstate_client", "jobstate_server"}
PACKAGES = {"jobstate_client": CLIENT, "jobstate_server": SERVER}
MODULES = [path for name, root in PACKAGES.items() for path in modules_below(root / name)]

RPC, WIRE, APP = "jobstate_server.rpc", "jobstate_server.wire", "jobstate_server.app"
ADMIN = "jobstate_server.admin"
CLI, CONFIG, CLIENT_LIBRARY = "jobstate_server.cli", "jobstate_server.config", "jobstate_client"

ROOMS: dict[str, tuple[str, ...]] = {
    "apscheduler": ("jobstate_server.maintenance",),
    "click": ("jobstate_client.cli.commands",),
    "google": (WIRE, RPC, CLIENT_LIBRARY),
    "grpc": (RPC, ADMIN, APP, CLIENT_LIBRARY),
    "grpc_channelz": (RPC, APP),
    "grpc_health": (RPC, ADMIN, APP, CLI, CLIENT_LIBRARY),
    "grpc_reflection": (RPC,),
    "grpc_status": (RPC, CLIENT_LIBRARY),
    "jobstate": (WIRE, RPC, APP, CLIENT_LIBRARY),
    "peewee": ("jobstate_server.store",),
    "playhouse": ("jobstate_server.store",),
    "psycopg": ("jobstate_server.store",),
    "pydantic": (
        CONFIG,
        "jobstate_server.check_config",
        "jobstate_server.maintenance.crontab",
        "jobstate_server.maintenance.registry",
    ),
    "pytest": ("jobstate_client.testing",),
    "pythonjsonlogger": (APP, CLI, "jobstate_server.logs"),
    "rich": ("jobstate_client.cli.terminal", "jobstate_client.demo"),
    "transitions": ("jobstate_server.domain.lifecycle",),
    "uvloop": ("jobstate_server.process",),
}
"""Who may import what is not of the standard library: a package that is missing here may be imported nowhere."""


def module_name(path: Path) -> str:
    """The dotted name that a file is imported by."""
    root = next(root for root in PACKAGES.values() if path.is_relative_to(root))
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def foreign_imports(path: Path) -> Iterator[str]:
    """The top-level names of the packages that a file imports anywhere, the standard library's apart."""
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Import(names=names):
                imported = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                imported = [module]
            case _:
                continue
        yield from (
            name.partition(".")[0] for name in imported if name.partition(".")[0] not in sys.stdlib_module_names
        )


def declared(*extras: str) -> set[str]:
    """The names of the distributions that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return {re.split(r"[<>=!;\s\[]", item, maxsplit=1)[0].lower() for items in lists for item in items}


def test_every_layer_imports_only_downwards() -> None:
    roots = os.pathsep.join(str(root) for root in PACKAGES.values())
    result = run_tool("lint-imports", "--no-logo", "--no-cache", env={"PYTHONPATH": roots})

    assert result.returncode == 0, result.stdout + result.stderr


def test_a_foreign_package_is_imported_only_in_its_rooms() -> None:
    strays = [
        (relative(path), package)
        for path in MODULES
        for package in set(foreign_imports(path)) - {"jobstate_client", "jobstate_server"}
        if not any(f"{module_name(path)}.".startswith(f"{room}.") for room in ROOMS.get(package, ()))
    ]

    assert not strays


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_every_imported_package_is_a_declared_dependency(package: str) -> None:
    wanted = declared("cli", "testing") if package == "jobstate_client" else declared("server", "postgres")
    distributions = packages_distributions()
    imported = {name for path in modules_below(PACKAGES[package] / package) for name in foreign_imports(path)} - OURS

    undeclared = {
        name for name in imported if not wanted & {distribution.lower() for distribution in distributions.get(name, [])}
    }

    assert not undeclared
