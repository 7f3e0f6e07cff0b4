"""One word for one thing: the words that docs/architecture.md gives up are used nowhere."""

from __future__ import annotations

import io
import re
import tokenize
from functools import cache

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


@cache
def parts_of(identifier: str) -> list[str]:
    """The words that an identifier is made of."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", identifier).lower().split("_")


def test_the_page_gives_words_up() -> None:
    assert {"bell", "hub", "ring", "duty"} <= given_up()


def test_no_identifier_has_a_word_that_was_given_up() -> None:
    # What tells whether a field of a message is set is called so by protobuf itself.
    allowed = {"has_presence"}
    words, wrong = given_up(), []
    for path in CODE:
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        names = {token.string for token in tokens if token.type == tokenize.NAME} - allowed
        wrong += [(relative(path), name) for name in sorted(names) if words.intersection(parts_of(name))]

    assert not wrong


def test_no_page_uses_a_word_that_was_given_up() -> None:
    texts = {path: path.read_text("utf-8") for path in TEXTS}
    texts[PAGE] = texts[PAGE].replace(WORDS, "")
    words = given_up()

    assert not [
        (relative(path), used)
        for path, text in texts.items()
        if (used := words.intersection(re.findall(r"[a-z]+", text.lower())))
    ]
