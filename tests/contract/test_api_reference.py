"""docs/api.md is what the protos say, whole, and every link on it leads somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from jobstate.v1 import (
    dispatch_service_pb2,
    error_reason_pb2,
    event_pb2,
    job_pb2,
    job_service_pb2,
    maintenance_service_pb2,
)

from .support import ROOT

PAGE = ROOT / "docs" / "api.md"
TEXT = PAGE.read_text("utf-8")
FILES: list[FileDescriptor] = [
    module.DESCRIPTOR
    for module in (
        dispatch_service_pb2,
        error_reason_pb2,
        event_pb2,
        job_pb2,
        job_service_pb2,
        maintenance_service_pb2,
    )
]
RPCS: list[MethodDescriptor] = [
    method for file in FILES for service in file.services_by_name.values() for method in service.methods
]
REASONS = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
CODES = re.compile(r"[A-Z_]+ \(")


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "reference" / "generate.py"))


def section(heading: str) -> str:
    """What stands under a heading, up to the next."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"{heading} is not on the page"
    return found[1]


def anchors() -> list[str]:
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings()]


def headings() -> list[str]:
    return re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)


def test_the_page_is_what_the_protos_say(generator: dict[str, Any], tmp_path: Path) -> None:
    generator["generate_reference"](tmp_path / "api.md")

    assert (tmp_path / "api.md").read_text("utf-8") == TEXT, "run `make generate`"


def test_every_message_and_enum_is_there_with_all_it_holds() -> None:
    missing = []
    for file in FILES:
        for message in file.message_types_by_name.values():
            rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section(message.name), re.MULTILINE)
            if rows != [(field.name, str(field.number)) for field in message.fields]:
                missing.append(message.name)
        for enum in file.enum_types_by_name.values():
            rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", section(enum.name), re.MULTILINE)
            values = [(value.name, str(value.number)) for value in enum.values]
            if rows != values and not all(f"Number {number}." in section(name) for name, number in values):
                missing.append(enum.name)

    assert not missing


@pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)
def test_every_call_tells_states_repetition_and_errors(rpc: MethodDescriptor) -> None:
    text = section(f"{rpc.containing_service.name}.{rpc.name}")
    (takes, *paragraphs, errors) = text.strip().split("\n\n")

    assert f"[{rpc.input_type.name}](" in takes
    assert f"[{rpc.output_type.name}](" in takes
    assert ("takes a stream of" in takes, "returns a stream of" in takes) == (
        rpc.client_streaming,
        rpc.server_streaming,
    )
    assert paragraphs[0].startswith(f"{rpc.name} ")
    assert re.search(r"repeat", " ".join(paragraphs), re.IGNORECASE)
    assert errors.startswith("Errors")
    linked = re.findall(r"\[([A-Z_]+)\]\(#error_reason_\w+\)", errors)
    assert set(linked) <= REASONS
    assert bool(linked) == bool(CODES.search(errors)), "each code names its reasons"


def test_every_call_is_in_the_index() -> None:
    index = section("Index")
    listed = re.findall(r"^\| \[(\w+)\]\(#\w+service\w+\) \|", index, re.MULTILINE)

    assert sorted(listed) == sorted(rpc.name for rpc in RPCS)


def test_every_message_and_enum_is_in_the_index() -> None:
    index = section("Index")
    names = [name for file in FILES for name in (*file.message_types_by_name, *file.enum_types_by_name)]

    assert not [name for name in names if f"[{name}](#{name.lower()})" not in index]


def test_no_two_headings_have_the_same_anchor() -> None:
    assert len(set(anchors())) == len(anchors())


def test_every_link_on_the_page_leads_to_a_heading_or_a_file() -> None:
    known = set(anchors())
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in link]
    dead = [
        link
        for link in links
        if (link[1:] not in known if link.startswith("#") else not (PAGE.parent / link.partition("#")[0]).exists())
    ]

    assert len(links) > len(RPCS)
    assert not dead


def test_what_has_no_comment_is_refused(generator: dict[str, Any]) -> None:
    contract: list[Any] = generator["_files"]()
    (file,) = [file for file in contract if file.name.endswith("/job.proto")]
    for place in file.source_code_info.location:
        if list(place.path) == [4, 0, 2, 0]:
            place.ClearField("leading_comments")

    with pytest.raises(ValueError, match=r"Job\.id has no comment"):
        list(generator["parts_of"](file))
