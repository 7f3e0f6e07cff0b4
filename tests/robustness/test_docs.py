"""The pages name the test that holds each promise: there is such a test."""

from __future__ import annotations

import re

import pytest

from .dispatch_promises import DISPATCH
from .process import ROOT
from .relation_promises import RELATIONS
from .validators import VALIDATORS

PAGES = {"watch.md": list(VALIDATORS)[:7], "dispatch.md": list(DISPATCH), "groups.md": list(RELATIONS)}
"""The promises that each page names."""

TESTS = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("name", PAGES)
def test_every_test_that_a_page_names_exists(name: str) -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / name).read_text("utf-8")))

    assert named
    assert not [test for test in sorted(named) if not re.search(rf"def {test}\(", TESTS)]


@pytest.mark.parametrize(("name", "promises"), PAGES.items())
def test_every_named_promise_is_on_its_page_with_its_validator(name: str, promises: list[str]) -> None:
    page = (ROOT / "docs" / name).read_text("utf-8")

    assert re.findall(r"^\| (\w+) \|.*\|.*`test_", page, re.MULTILINE) == promises
