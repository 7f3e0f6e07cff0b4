"""Strategies for requests, from their descriptors: valid by chance, wrong in many ways, or no message at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

KNOWN_IDS = tuple(f"job-{index}" for index in range(5))
"""Jobs that there are, so that chance finds them."""

Draw = Callable[[st.SearchStrategy[Any]], Any]

_DEPTH_MAX = 3

KNOWN: dict[str, list[str]] = {
    "id": [*KNOWN_IDS, "new", ""],
    "job_type": ["default", "quick"],
    "job_types": ["default", "quick"],
    "source_id": ["source-1", ""],
    "source_ids": ["source-1"],
    "request_id": [f"request-{number}" for number in range(1_000)],
    "worker": ["worker-1"],
    "error_code": ["E1"],
    "labels": ["tenant", "release"],
}
"""By field what the server knows, or takes; of a map what its keys are."""

_OF_ONES_OWN = [*KNOWN_IDS[:2], "source-1", ""]
"""What other texts of a neat request may be."""

_NEEDED = {"id", "job_type", "job_types", "request_id", "filter", "requests", "updates", "attempt"}
"""Without most of these a call is refused."""

_NUMBERS = [0, 1, 2, 5]

_TEXTS = st.one_of(
    st.sampled_from(KNOWN_IDS),
    st.sampled_from(["", "quick", "default", "x" * 129, "x" * 5_000, "a\0b", "é" * 70, "\u2028", "..", "request-1"]),
    st.text(max_size=12),
)

_EDGES = [0, 1, -1, 2, 100, 101, 1_000, 1_001, 2**31 - 1, -(2**31)]
_WIDE_EDGES = [*_EDGES, 2**53, 2**63 - 1, -(2**63), 253_402_300_799, 253_402_300_800]
_DOUBLES = [0.0, -0.0, 1e-12, 1e9, 1.1e9, -1.0, float("nan"), float("inf"), float("-inf"), 1e308]


def _token(last: object, time: object, digest: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest, time, last]).encode()).rstrip(b"=").decode()


class Texts:
    """What a server gave and takes back, as it was and bent."""

    def __init__(self) -> None:
        self.given: list[str] = ["Ae", "A" * 28, "=" * 8, "é", base64.urlsafe_b64encode(b"[1,2,3]").decode()]

    def give(self, text: str) -> None:
        """Remember a cursor or page token, and what somebody might make of it."""
        self.given.append(text)
        for index in (0, len(text) // 2, len(text) - 1):
            self.given.append(text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :])
        try:
            digest, time, _ = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except ValueError:
            return
        # Tied to the right filter, with a position that no listing ever has.
        self.given += [_token(last, time, digest) for last in ("\ud800", "\0", "x" * 200, 5, None)]
        self.given += [_token("job", time, digest) for time in (-(2**63), 2**64, 1.5, True, "now")]


def messages(descriptor: Descriptor, texts: Texts) -> st.SearchStrategy[Message]:
    """Requests of a kind, each field there or not, mostly wrong in some way."""

    @st.composite
    def made(draw: Draw) -> Message:
        message = GetMessageClass(descriptor)()
        _fill(draw, message, texts, 0)
        return message

    return made()


def neat_messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Requests of a kind with few fields, as a caller may send them who has read what they mean."""

    @st.composite
    def made(draw: Draw) -> Message:
        message = GetMessageClass(descriptor)()
        _fill_neatly(draw, message)
        return message

    return made()


def encodings(descriptor: Descriptor, texts: Texts) -> st.SearchStrategy[bytes]:
    """Bytes at a kind of request: messages, messages with bytes changed, cut or added, and bytes that are nothing."""
    whole = messages(descriptor, texts).map(lambda message: message.SerializeToString())
    neat = neat_messages(descriptor).map(lambda message: message.SerializeToString())
    return st.one_of(whole, whole, neat, neat, _mutated(whole), _mutated(neat), st.binary(max_size=64))


def _fill_neatly(draw: Draw, message: Message) -> None:
    field: Any
    for field in message.DESCRIPTOR.fields:
        is_wanted = st.sampled_from([True, True, True, False] if field.name in _NEEDED else [False] * 5 + [True])
        kind = field.message_type
        if not draw(is_wanted) or (kind is not None and kind.full_name == "google.protobuf.Struct"):
            continue
        if kind is not None and kind.GetOptions().map_entry:
            values = getattr(message, field.name)
            for key in draw(st.lists(st.sampled_from(KNOWN.get(field.name, ["key"])), max_size=2)):
                values[key] = draw(st.sampled_from(["acme", "", "é"]))
        elif field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(draw(st.integers(1, 2))):
                if kind is None:
                    values.append(draw(_neat_scalar(field)))
                else:
                    _fill_neatly(draw, values.add())
        elif kind is not None:
            nested = getattr(message, field.name)
            nested.SetInParent()
            _fill_neatly(draw, nested)
        else:
            setattr(message, field.name, draw(_neat_scalar(field)))


def _neat_scalar(field: Any) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.sampled_from(KNOWN.get(field.name, _OF_ONES_OWN))
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return st.sampled_from([0.0, 0.5])
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.sampled_from([value.number for value in field.enum_type.values if value.number])
    return st.sampled_from(_NUMBERS)


@st.composite
def _mutated(draw: Draw, encoded: st.SearchStrategy[bytes]) -> bytes:
    raw = bytearray(draw(encoded))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["change", "cut", "add"])):
            case "change" if place < len(raw):
                raw[place] = draw(st.integers(0, 255))
            case "cut":
                del raw[place:]
            case _:
                raw[place:place] = draw(st.binary(max_size=6))
    return bytes(raw)


def _fill(draw: Draw, message: Message, texts: Texts, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and depth >= _DEPTH_MAX:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values, kind = getattr(message, field.name), field.message_type.fields_by_name["value"]
            for key in draw(st.lists(st.text(max_size=4), max_size=2)):
                if kind.message_type is not None:
                    _fill(draw, values[key], texts, depth + 1)
                else:
                    values[key] = draw(_scalar(kind, texts))
        elif field.is_repeated:
            for _ in range(draw(st.sampled_from([0, 1, 1, 2, 101]))):
                _add(draw, message, field, texts, depth)
        elif field.message_type is not None:
            nested = getattr(message, field.name)
            nested.SetInParent()
            _fill(draw, nested, texts, depth + 1)
        else:
            setattr(message, field.name, draw(_scalar(field, texts)))


def _add(draw: Draw, message: Message, field: Any, texts: Texts, depth: int) -> None:
    values = getattr(message, field.name)
    if field.message_type is not None:
        _fill(draw, values.add(), texts, depth + 1)
    else:
        values.append(draw(_scalar(field, texts)))


def _scalar(field: Any, texts: Texts) -> st.SearchStrategy[Any]:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.name in {"cursor", "page_token"}:
            return st.sampled_from(texts.given)
        case FieldDescriptor.CPPTYPE_STRING:
            return _TEXTS
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return st.sampled_from(_DOUBLES)
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.sampled_from([0, 1, 2, 3, 7, 11, 12, 99, -1])
        case FieldDescriptor.CPPTYPE_INT64:
            return st.sampled_from(_WIDE_EDGES)
        case FieldDescriptor.CPPTYPE_INT32:
            return st.sampled_from(_EDGES)
    raise NotImplementedError(f"{field.full_name}: a kind of field that no request has had before")
