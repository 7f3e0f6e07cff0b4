"""Write docs/api.md, the reference of the contract, from the protos and their comments."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
PAGE = ROOT / "docs" / "api.md"

ORDER = ("job_service", "maintenance_service", "job", "event", "error_reason")
"""The files in the order of the page: first what is called, then what it speaks of. Others follow by name."""

WELL_KNOWN = "https://protobuf.dev/reference/protobuf/google.protobuf/#"

HEAD = """\
# API reference

Made from [the protos](../protos/jobstate/v1) by `make generate`; edit the comments there instead of this page.
What a refusal carries on the wire is told [under errors](errors.md), how to keep a watch going [under watch](watch.md),
and what each state means [under lifecycle](lifecycle.md).

Types are named as Protocol Buffers names them. *Optional* marks a field for which unset differs from zero or empty; one
that holds a message can always be left unset.
"""

Field = pb.FieldDescriptorProto

SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in Field.Type.items()
    if number not in {Field.TYPE_MESSAGE, Field.TYPE_ENUM, Field.TYPE_GROUP}
}

_CAMEL = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)+\b|\b[A-Z]+(?:_[A-Z]+)*\b")
"""What may be the name of a message, an enum or an RPC of two words or more, or of a reason."""


def generate_reference(destination: Path) -> None:
    """Write the reference to this file.

    Raises:
        SystemExit: the protos do not compile; the message says why.
        ValueError: something is without a comment, or two headings would have the same anchor.
    """
    destination.write_text(Reference(_files()).page(), encoding="utf-8")


def _files() -> list[pb.FileDescriptorProto]:
    """The contract's files with their comments."""
    protos = sorted(PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "contract.binpb"
        options = ["--include_source_info", f"--descriptor_set_out={compiled}", "-I", str(PROTOS)]
        command = [sys.executable, "-m", "grpc_tools.protoc", *options, *map(str, protos)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise SystemExit(f"protoc failed:\n{finished.stdout}{finished.stderr}")
        files = pb.FileDescriptorSet.FromString(compiled.read_bytes()).file
    ranks = {f"{name}.proto": rank for rank, name in enumerate(ORDER)}
    return sorted(files, key=lambda file: (ranks.get(Path(file.name).name, len(ranks)), file.name))


@dataclass
class Part:
    """A message, enum or service with its comment, and those of what it holds."""

    name: str
    comment: str
    message: pb.DescriptorProto | None = None
    enum: pb.EnumDescriptorProto | None = None
    service: pb.ServiceDescriptorProto | None = None
    comments: list[str] = field(default_factory=list)
    """Of each field, value or RPC, in order."""

    @property
    def in_sections(self) -> bool:
        """Whether the values of this enum need more room than a row of a table has."""
        return self.enum is not None and any("\n\n" in comment for comment in self.comments)


def parts_of(file: pb.FileDescriptorProto) -> Iterator[Part]:
    """What a file declares, in its order."""
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}

    def comment(name: str, *path: int) -> str:
        text = "\n".join(line.removeprefix(" ").rstrip() for line in comments.get(path, "").splitlines()).strip()
        if not text:
            raise ValueError(f"{file.name}: {name} has no comment")
        return text

    # The numbers are those of the fields of FileDescriptorProto, ServiceDescriptorProto and so on: what a path is of.
    for index, service in enumerate(file.service):
        told = [comment(rpc.name, 6, index, 2, number) for number, rpc in enumerate(service.method)]
        yield Part(service.name, comment(service.name, 6, index), service=service, comments=told)
    for index, message in enumerate(file.message_type):
        told = [comment(f"{message.name}.{each.name}", 4, index, 2, n) for n, each in enumerate(message.field)]
        yield Part(message.name, comment(message.name, 4, index), message=message, comments=told)
    for index, enum in enumerate(file.enum_type):
        told = [comment(value.name, 5, index, 2, number) for number, value in enumerate(enum.value)]
        yield Part(enum.name, comment(enum.name, 5, index), enum=enum, comments=told)


def anchor(heading: str) -> str:
    """The name of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """As lines of Markdown."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in lines]


class Reference:
    """The page in the making."""

    def __init__(self, files: list[pb.FileDescriptorProto]) -> None:
        self._files = [(file, list(parts_of(file))) for file in files]
        self._anchors: dict[str, str] = {}
        """Of whatever a text can name, the anchor that it leads to."""
        self._lines: list[str] = []
        for part in (part for _, parts in self._files for part in parts):
            self._anchors[part.name] = anchor(part.name)
            if part.service is not None:
                self._anchors |= {rpc.name: anchor(f"{part.name}.{rpc.name}") for rpc in part.service.method}
            if part.enum is not None and part.in_sections:
                prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", part.name).upper() + "_"
                self._anchors |= {value.name.removeprefix(prefix): anchor(value.name) for value in part.enum.value}

    def page(self) -> str:
        """All of it."""
        self._lines = [HEAD]
        self._index()
        for file, parts in self._files:
            for part in parts:
                self._add(f"## {part.name}", *self._text(part.comment, but=part.name))
                if part.service is not None:
                    self._service(file, part, part.service)
                elif part.message is not None:
                    self._fields(part, part.message)
                elif part.enum is not None:
                    self._values(part, part.enum)
        headings = [line.lstrip("# ") for line in self._lines if line.startswith("#")]
        if len({anchor(heading) for heading in headings}) != len(headings):
            raise ValueError("two headings have the same anchor")
        return "\n\n".join(block.strip("\n") for block in self._lines) + "\n"

    def _add(self, *blocks: str) -> None:
        self._lines += blocks

    def _index(self) -> None:
        self._add("## Index")
        for _, parts in self._files:
            for part in parts:
                if part.service is not None:
                    calls = [
                        (f"[{rpc.name}](#{self._anchors[rpc.name]})", *self._carried(rpc), self._first(told))
                        for rpc, told in zip(part.service.method, part.comments, strict=True)
                    ]
                    heads = (f"[{part.name}](#{self._anchors[part.name]})", "takes", "returns", "")
                    self._add("\n".join(table(heads, calls)))
        rows: list[tuple[str, ...]] = []
        for file, parts in self._files:
            kinds = [[p.name for p in parts if p.message is not None], [p.name for p in parts if p.enum is not None]]
            linked = [", ".join(f"[{name}](#{self._anchors[name]})" for name in sorted(names)) for names in kinds]
            rows.append((f"[{Path(file.name).name}](../protos/{file.name})", *linked))
        self._add("\n".join(table(("file", "messages", "enums"), rows)))

    @staticmethod
    def _first(text: str) -> str:
        """The first sentence, without the name that it begins with."""
        sentence = re.split(r"(?<=\.)\s|:\s|\n\n", text, maxsplit=1)[0].partition(" ")[2]
        return " ".join(sentence.split()).rstrip(".")

    def _carried(self, rpc: pb.MethodDescriptorProto) -> tuple[str, str]:
        """What an RPC takes and returns."""
        takes, returns = (self._type(name) for name in (rpc.input_type, rpc.output_type))
        return (
            f"a stream of {takes}" if rpc.client_streaming else takes,
            f"a stream of {returns}" if rpc.server_streaming else returns,
        )

    def _service(self, file: pb.FileDescriptorProto, part: Part, service: pb.ServiceDescriptorProto) -> None:
        for rpc, told in zip(service.method, part.comments, strict=True):
            takes, returns = self._carried(rpc)
            self._add(f"### {part.name}.{rpc.name}")
            self._add(f"`{file.package}.{part.name}/{rpc.name}` takes {takes} and returns {returns}.")
            self._add(*self._text(told, but=rpc.name))

    def _fields(self, part: Part, message: pb.DescriptorProto) -> None:
        if not message.field:
            return
        entries = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
        rows = []
        for each, told in zip(message.field, part.comments, strict=True):
            (text, *more) = self._text(told, but=part.name)
            if more:
                raise ValueError(f"{part.name}.{each.name}: a field's comment has to be one paragraph")
            rows.append((f"`{each.name}`", str(each.number), self._kind(message, each, entries), text))
        self._add("\n".join(table(("field", "number", "type", "meaning"), rows)))

    def _kind(self, message: pb.DescriptorProto, each: Field, entries: dict[str, pb.DescriptorProto]) -> str:
        entry = entries.get(each.type_name.rpartition(".")[2]) if each.type == Field.TYPE_MESSAGE else None
        if entry is not None:
            key, value = (SCALARS.get(part.type) or self._type(part.type_name) for part in entry.field)
            return f"map of {key} to {value}"
        kind = SCALARS.get(each.type) or self._type(each.type_name)
        if each.label == Field.LABEL_REPEATED:
            return f"repeated {kind}"
        if each.proto3_optional:
            return f"optional {kind}"
        if each.HasField("oneof_index"):
            return f"{kind}, one of `{message.oneof_decl[each.oneof_index].name}`"
        return kind

    def _type(self, full_name: str) -> str:
        """The name of a message or enum, with a link to what it is."""
        name = full_name.rpartition(".")[2]
        if full_name.startswith(".google.protobuf."):
            return f"[{name}]({WELL_KNOWN}{name.lower()})"
        return f"[{name}](#{self._anchors[name]})"

    def _values(self, part: Part, enum: pb.EnumDescriptorProto) -> None:
        told = [self._text(comment, but=part.name) for comment in part.comments]
        if part.in_sections:
            for value, blocks in zip(enum.value, told, strict=True):
                self._add(f"### {value.name}", f"Number {value.number}.", *blocks)
            return
        rows = [
            (f"`{value.name}`", str(value.number), blocks[0]) for value, blocks in zip(enum.value, told, strict=True)
        ]
        self._add("\n".join(table(("value", "number", "meaning"), rows)))

    def _text(self, comment: str, *, but: str) -> list[str]:
        """A comment as paragraphs of Markdown. Paragraphs that are indented are code, as in the protos."""
        blocks = []
        for paragraph in re.split(r"\n\n+", comment):
            lines = paragraph.splitlines()
            if all(line.startswith("    ") for line in lines):
                blocks.append("\n".join(["```json", *(line[4:] for line in lines), "```"]))
            else:
                blocks.append(self._linked(" ".join(line.strip() for line in lines), but))
        return blocks

    def _linked(self, text: str, but: str) -> str:
        """Plain text with links to what it names, and without what Markdown would take for its own."""

        # A reason of one word may also be a code of gRPC's or a kind of response, but where errors are listed.
        lists_errors = text.startswith(("Errors", "Any call"))

        def link(found: re.Match[str]) -> str:
            name = found[0]
            is_plain = name.isupper() and "_" not in name and not lists_errors
            leads = name in self._anchors and name != but and not is_plain
            return f"[{name}](#{self._anchors[name]})" if leads else name

        pieces = re.split(r"(`[^`]*`)", text)
        pieces[::2] = [_CAMEL.sub(link, re.sub(r"([*<\\])", r"\\\1", piece)) for piece in pieces[::2]]
        return "".join(pieces)


def main() -> None:
    """Write the page in this repository."""
    generate_reference(PAGE)


if __name__ == "__main__":
    main()
