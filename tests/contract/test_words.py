"""One word for one thing: the words that docs/architecture.md gives up are used nowhere."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

from .support import ROOT, relative

PAGE = ROOT / "docs" / "architecture.md"
WORDS = PAGE.read_text("utf-8").partition("## Words\n")[2].partition("\n## ")[0]

CODE = sorted(path for folder in ("server", "client") for path in (ROOT / folder).rglob("*.py"))
TEXTS = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / "protos").rglob("*.proto"), ROOT / "README.md", ROOT / "CHANGELOG.md"]
)


def given_up() -> set[str]:
    """The words of the last column."""
    rows = re.findall(r"^\| .* \| ([^|]*) \|$", WORDS, re.MULTILINE)[2:]
    return {word.strip() for row in rows for word in row.split(",") if word.strip()} - {"status"}


def parts_of(identifier: str) -> list[str]:
    """The words that an identifier is made of."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", identifier).lower().split("_")


def test_the_page_gives_words_up() -> None:
    assert {"bell", "hub", "ring", "duty"} <= given_up()


@pytest.mark.parametrize("path", CODE, ids=relative)
def test_no_identifier_has_a_word_that_was_given_up(path: Path) -> None:
    # What tells whether a field of a message is set is called so by protobuf itself.
    allowed = {"has_presence"}
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME} - allowed

    assert not {name for name in names if given_up().intersection(parts_of(name))}


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_no_page_uses_a_word_that_was_given_up(path: Path) -> None:
    text = path.read_text("utf-8")
    if path == PAGE:
        text = text.replace(WORDS, "")

    assert not given_up().intersection(re.findall(r"[a-z]+", text.lower()))
