"""docs/python-api.md is what the docstrings of the Python client say, whole."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import jobstate_client

from .support import ROOT

PAGE = ROOT / "docs" / "python-api.md"
TEXT = PAGE.read_text("utf-8")
HEADINGS = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "reference" / "python.py"))


def test_the_page_is_what_the_docstrings_say(generator: dict[str, Any], tmp_path: Path) -> None:
    generator["generate_python_reference"](tmp_path / "page.md")

    assert (tmp_path / "page.md").read_text("utf-8") == TEXT, "run `make generate`"


def test_every_public_name_has_its_heading_once() -> None:
    names = set(jobstate_client.__all__) - {"WatchItem"}

    assert names <= set(HEADINGS)
    assert len(HEADINGS) == len(set(HEADINGS))


@pytest.mark.parametrize("name", ["Client", "Worker", "Run", "Watch", "Group", "Job"])
def test_every_method_and_property_has_its_heading(name: str) -> None:
    kind = getattr(jobstate_client, name)
    members = {member for member in dir(kind) if not member.startswith("_")}
    fields = set(re.findall(r"^- `(\w+): ", TEXT, re.MULTILINE))
    told = {heading.removeprefix(f"{name}.").removesuffix("()") for heading in HEADINGS}

    assert members - told - fields <= {"decoders"}


def test_nothing_on_the_page_depends_on_the_run() -> None:
    assert " at 0x" not in TEXT


def test_what_has_no_docstring_is_refused(generator: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Bare has no docstring"):
        list(generator["_class"]("Bare", type("Bare", (), {})))
