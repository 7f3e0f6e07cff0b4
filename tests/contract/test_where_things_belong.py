"""docs/architecture.md says which files an addition touches: held to the newest addition of each kind."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from jobstate.v1 import error_reason_pb2, job_pb2, job_service_pb2, maintenance_service_pb2
from jobstate_server.config import Settings
from jobstate_server.domain.events import EVENT_NAMES, Detail, EventType
from jobstate_server.domain.lifecycle import Trigger
from jobstate_server.maintenance.registry import Schedules

from .support import ROOT, relative
from .test_docs import DOCS, code_in, kinds_of_error, table

BASES = ("", "server/jobstate_server/", "client/jobstate_client/")
"""What the paths of the table are relative to."""

LEFT_OUT = (
    "docs/api.md",
    "docs/python-api.md",
    "docs/benchmarks.md",
    "docs/decisions/",
    "docs/reference/",
    "docs/architecture.md",
)
"""Pages that are generated, that give reasons, or that hold the table itself."""


@dataclass(frozen=True)
class Kind:
    """A kind of addition: a row of the table."""

    row: str
    touched_max: int
    """The most entries of the row that every addition has to touch."""
    newest: str
    """A regular expression for the ways in which files name the newest addition of this kind."""


def newest(numbers: Iterable[tuple[str, int]]) -> str:
    """The name with the highest number: numbers are given in the order in which things are added."""
    return max(numbers, key=lambda pair: pair[1])[0]


def newest_rpc() -> tuple[str, str]:
    """The last RPC of JobService whose requests are checked, and its operation in the client."""
    checks = "".join(path.read_text("utf-8") for path in (ROOT / BASES[1] / "rpc/requests").glob("*.py"))
    methods = job_service_pb2.DESCRIPTOR.services_by_name["JobService"].methods
    rpc = [method.name for method in methods if f"pb.{method.name}Request" in checks][-1]
    operations = (ROOT / BASES[2] / "core/operations.py").read_text("utf-8").split("\ndef ")
    (operation,) = (text.partition("(")[0] for text in operations if f'"{rpc}"' in text)
    return rpc, operation


def newest_task() -> str:
    """The last task that has no RPC: one with an RPC is named wherever the RPC is."""
    rpcs = maintenance_service_pb2.DESCRIPTOR.services_by_name["MaintenanceService"].methods_by_name
    return [name for name in Schedules.model_fields if camel(name) not in rpcs][-1]


def camel(name: str) -> str:
    return name.title().replace("_", "")


def kinds() -> list[Kind]:
    field = newest((field.name, field.number) for field in job_pb2.Job.DESCRIPTOR.fields)
    detail = get_args(Detail)[-1].__name__
    event = max(EventType)
    reason = newest(error_reason_pb2.ErrorReason.items()).removeprefix("ERROR_REASON_")
    error = next(kind.__name__ for kind in kinds_of_error() if kind.reason == reason)
    setting = list(Settings.model_fields)[list(Settings.model_fields).index("schedules") - 1]
    trigger = list(Trigger)[-1]
    rpc, operation = newest_rpc()
    task = newest_task()
    return [
        Kind("a field of a job", 7, rf"\b{field}\b"),
        Kind(
            "a type of event",
            6,
            rf"EventType\.{event.name}\b|EVENT_TYPE_{event.name}\b|{EVENT_NAMES[event]}"
            rf"|\b{detail}[(:]|\b{event.name} = ['\"]{event.name}['\"]|\"{event.name}: ",
        ),
        Kind("an error", 5, rf"ERROR_REASON_{reason}\b|\b{error}\b|`{reason}`"),
        Kind("an RPC", 8, rf"\b{rpc}|\boperations\.{operation}\b"),
        Kind("a setting", 3, rf"\b{setting}\b"),
        Kind("a maintenance task", 3, rf"\b{task}\b|\b{camel(task)}\b"),
        Kind(
            "a step of the lifecycle",
            4,
            rf"\bTrigger\.{trigger.name}\b|['\"]{trigger}['\"]: ['\"]|^\| `{trigger}` \|",
        ),
    ]


KINDS = kinds()
ROWS = {row: (touch, effect) for row, touch, effect in table(DOCS / "architecture.md", "to add", "touch", "used in")}


@cache
def without_prose(path: Path) -> str:
    """The text of a file. That of a module has neither comments nor docstrings: they may speak of anything."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and name == "body":
                node.body = [each for each in value if not is_prose(each)]  # type: ignore[attr-defined]  # It has one.
    return ast.unparse(tree)


def is_prose(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@cache
def written_by_hand() -> tuple[Path, ...]:
    """The files of the contract, the server, the client and the docs."""
    suffixes = {".proto", ".py", ".pyi", ".sql", ".md"}
    found = [ROOT / "README.md"]
    for folder in ("protos", "server/jobstate_server", "client/jobstate_client", "docs"):
        found += [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes]
    return tuple(path for path in found if not relative(path).startswith(LEFT_OUT))


def files_of(entry: str) -> list[Path]:
    """The files that an entry of the table means: one, or those of a folder."""
    names = tuple(base + entry for base in BASES)
    return [
        path
        for path in written_by_hand()
        if (relative(path).startswith(names) if entry.endswith("/") else relative(path) in names)
    ]


def entries(cell: str) -> list[str]:
    return [entry for entry in code_in(cell) if not entry.startswith("make ")]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.row)
def test_the_table_has_every_file_that_names_the_newest(kind: Kind) -> None:
    touch, effect = ROWS[kind.row]
    known = {path for entry in entries(touch) + entries(effect) for path in files_of(entry)}
    pattern = re.compile(kind.newest, re.MULTILINE)

    assert not [
        relative(path) for path in written_by_hand() if path not in known and pattern.search(without_prose(path))
    ]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.row)
def test_the_table_has_no_file_that_need_not_be_touched(kind: Kind) -> None:
    touch, _ = ROWS[kind.row]
    pattern = re.compile(kind.newest, re.MULTILINE)
    needless = [
        entry
        for entry in entries(touch)
        if not any(pattern.search(path.read_text("utf-8")) for path in files_of(entry))
    ]

    assert not needless
    assert len(entries(touch)) <= kind.touched_max


@pytest.mark.parametrize("row", ROWS)
def test_every_path_of_the_table_is_there(row: str) -> None:
    named = [entry for cell in ROWS[row] for entry in entries(cell)]

    assert named
    assert not [entry for entry in named if not any((ROOT / base / entry).exists() for base in BASES)]
