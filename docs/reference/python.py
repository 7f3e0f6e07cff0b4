"""Write docs/python-api.md, the reference of the Python client, from its docstrings."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python-api.md"
sys.path[:0] = [str(ROOT / "client"), str(ROOT / "generated" / "python")]

import jobstate_client  # noqa: E402 - of this repository

HEAD = """\
# Python reference

Made from the docstrings of [the client](../client/jobstate_client) by `make generate`; edit these instead of this page.
[The page on the client](clients.md) says how to use it.

`AsyncClient` has the same methods as `Client`, to be awaited, and so have the other classes
whose names begin with `Async`.
"""

SECTIONS = {
    "Clients": ("Client", "AsyncClient", "TLS"),
    "Work": ("Run", "Worker", "AsyncWorker", "JobFailure", "NonRetryable", "Release"),
    "Groups, updates and watches": ("Group", "AsyncGroup", "Updates", "AsyncUpdates", "Watch", "AsyncWatch"),
}
"""The classes in the order of the page. Then come values, names of values, and errors."""

LINE_COLUMNS_MAX = 80
"""A longer signature has a line for each parameter."""

_HEADING = re.compile(r"([A-Z][\w ,]*):")
"""The line above a list in a docstring, such as Args and Raises."""


def generate_python_reference(destination: Path) -> None:
    """Write the reference to this file.

    Raises:
        ValueError: a public name or method has no docstring.
    """
    destination.write_text("\n\n".join(_blocks()) + "\n", encoding="utf-8")


def public_names() -> list[str]:
    """The names that programs import."""
    return [name for name in jobstate_client.__all__ if name != "WatchItem"]


def public_members(kind: type) -> dict[str, Any]:
    """The methods and properties of a class that are of this package."""
    names = [name for name in dir(kind) if not name.startswith("_")]
    found = {name: inspect.getattr_static(kind, name) for name in names}
    return {name: each for name, each in found.items() if callable(each) or _getter(each) is not None}


def _getter(member: Any) -> Any:
    """The function of a property; None for anything else."""
    return getattr(member, "fget", None) or getattr(member, "func", None)


def _blocks() -> Iterator[str]:
    yield HEAD.strip("\n")
    kinds = {name: getattr(jobstate_client, name) for name in public_names()}
    placed = {name for names in SECTIONS.values() for name in names}
    others = {name: kind for name, kind in kinds.items() if name not in placed}
    for title, names in SECTIONS.items():
        yield f"## {title}"
        for name in names:
            yield from _class(name, kinds[name])
    errors = {name: kind for name, kind in others.items() if issubclass(kind, jobstate_client.JobStateError)}
    named = {name: kind for name, kind in others.items() if issubclass(kind, enum.Enum)}
    for title, group in (
        ("Values", {name: kind for name, kind in others.items() if name not in errors | named}),
        ("Names of values", named),
        ("Errors", errors),
    ):
        yield f"## {title}"
        for name, kind in group.items():
            yield from _class(name, kind)


def _class(name: str, kind: type) -> Iterator[str]:
    yield f"### {name}"
    bases = [base.__name__ for base in kind.__bases__ if base.__name__ in jobstate_client.__all__]
    if bases:
        yield f"A `{'`, `'.join(bases)}`."
    yield from _text(_docstring(kind, name))
    is_named = issubclass(kind, enum.Enum)
    if not is_named and not dataclasses.is_dataclass(kind) and "__init__" in vars(kind):
        yield _code(f"{name}{_signature(kind.__init__)}")  # type: ignore[misc]
        yield from _text(inspect.getdoc(kind.__init__) or "")  # type: ignore[misc]
    fields = list(_fields(kind))
    if fields:
        yield "\n".join(f"- `{field}`" + (f": {_inline(told)}" if told else "") for field, told in fields)
    for member_name, member in public_members(kind).items():
        if not is_named and not _is_inherited(kind, member_name) and not _is_of_sync(name, member_name, member):
            yield from _member(name, member_name, member)


def _is_of_sync(owner: str, name: str, member: Any) -> bool:
    """Whether a member of an asyncio class says the same as that of its synchronous twin."""
    twin = getattr(jobstate_client, owner.removeprefix("Async"))
    other = public_members(twin).get(name) if owner.startswith("Async") else None
    return other is not None and (_getter(other) or other).__doc__ == (_getter(member) or member).__doc__


def _is_inherited(kind: type, name: str) -> bool:
    """Whether another class of the page has this member."""
    owner = next(each for each in kind.__mro__ if name in vars(each))
    is_ours = owner.__module__.startswith("jobstate_client")
    return not is_ours or (owner is not kind and owner.__name__ in jobstate_client.__all__)


def _member(owner: str, name: str, member: Any) -> Iterator[str]:
    getter = _getter(member)
    told = _docstring(getter or member, f"{owner}.{name}")
    if getter is not None:
        yield f"#### {owner}.{name}"
    else:
        yield f"#### {owner}.{name}()"
        yield _code(f"{name}{_signature(member)}")
    yield from _text(told)


def _docstring(thing: Any, name: str) -> str:
    text = thing.__doc__
    if not text:
        raise ValueError(f"{name} has no docstring")
    return inspect.cleandoc(text)


def _signature(function: Any) -> str:
    """The parameters as they are given, one on each line if they are many."""
    parameters = [each for each in inspect.signature(function).parameters.values() if each.name != "self"]
    shown = [_parameter(each) for each in parameters if each.kind is not inspect.Parameter.VAR_POSITIONAL]
    keywords = [index for index, each in enumerate(parameters) if each.kind is inspect.Parameter.KEYWORD_ONLY]
    if keywords:
        shown.insert(keywords[0], "*")
    line = ", ".join(shown)
    return f"({line})" if len(line) <= LINE_COLUMNS_MAX else "(\n    " + ",\n    ".join(shown) + ",\n)"


def _parameter(parameter: inspect.Parameter) -> str:
    stars = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
    annotation = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{stars}{parameter.name}{annotation}{default}"


def _fields(kind: type) -> Iterator[tuple[str, str]]:
    """The annotated attributes of a class, or the members of an enum, with the text below each."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except OSError:
        return
    assert isinstance(tree, ast.ClassDef)
    following: Iterable[ast.stmt | None] = [*tree.body[1:], None]
    for statement, below in zip(tree.body, following, strict=True):
        name = _declared(statement)
        if name is None or name.startswith("_"):
            continue
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        yield name, inspect.cleandoc(str(below.value.value)) if is_text else ""  # type: ignore[union-attr]


def _declared(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return f"{statement.target.id}: {ast.unparse(statement.annotation)}"
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _text(docstring: str) -> Iterator[str]:
    """A docstring as Markdown: paragraphs, lists of arguments and errors, and what is indented as it stands."""
    for paragraph in re.split(r"\n\n+", docstring):
        first, *rest = paragraph.split("\n")
        if _HEADING.fullmatch(first) and rest and all(line.startswith("    ") for line in rest):
            yield f"{first}"
            yield "\n".join(_items(textwrap.dedent("\n".join(rest))))
        elif paragraph.startswith("    "):
            yield _code(textwrap.dedent(paragraph))
        elif paragraph:
            yield _inline(paragraph)


def _items(text: str) -> Iterator[str]:
    for item in re.split(r"\n(?! )", text):
        names, colon, told = _inline(item).partition(": ")
        yield f"- `{names}`: {told}" if colon and "`" not in names else f"- {names}{colon}{told}"


def _inline(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def main() -> None:
    """Write the page in this repository."""
    generate_python_reference(PAGE)


if __name__ == "__main__":
    main()
