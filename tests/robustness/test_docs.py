"""docs/watch.md names the test that holds each statement: there is such a test."""

from __future__ import annotations

import re

from .process import ROOT
from .validators import VALIDATORS

PAGE = (ROOT / "docs" / "watch.md").read_text("utf-8")
TESTS = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))

    assert named
    assert not [name for name in sorted(named) if not re.search(rf"def {name}\(", TESTS)]


def test_every_named_promise_is_on_the_page_with_its_validator() -> None:
    promises = re.findall(r"^\| (\w+) \|.*\|.*`test_", PAGE, re.MULTILINE)

    assert promises == list(VALIDATORS)[: len(promises)]
    assert len(promises) == 7
