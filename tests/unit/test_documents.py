"""Free JSON kept as encoded bytes: merging, what is refused, and what only looks as if it were."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import assume, given
from hypothesis import strategies as st

from jobstate.v1 import event_pb2, job_pb2, job_service_pb2
from jobstate_server.domain.errors import InvalidField
from jobstate_server.domain.events import Event, EventType
from jobstate_server.domain.job import Document, Job
from jobstate_server.domain.limits import METADATA_BYTES_MAX, NESTING_MAX
from jobstate_server.wire.documents import encode, merge_metadata
from jobstate_server.wire.events import complete_event, encode_event

ODD_NANS = [struct.unpack("<d", bits)[0] for bits in (b"\x01" + b"\xff" * 7, b"\n" * 6 + b"\xf8\x7f")]
"""NaN has many bit patterns; newlines among them must not hide one."""

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=10)
values = st.recursive(
    st.none() | st.booleans() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["a", "b", "c", ""]) | texts
documents = st.dictionaries(keys, values, max_size=5)


def a_struct(content: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(content)
    return made


def encoded(content: dict[str, Any]) -> Document:
    return encode(a_struct(content), "metadata", METADATA_BYTES_MAX)


def decoded(document: Document) -> dict[str, Any]:
    return MessageToDict(Struct.FromString(document))


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """The rule as a model: top-level keys replace, null removes."""
    return {key: value for key, value in {**base, **patch}.items() if key not in patch or value is not None}


@given(documents)
def test_a_document_is_kept_as_it_was_given(content: dict[str, Any]) -> None:
    assert decoded(encoded(content)) == content


@given(documents, documents)
def test_merging_replaces_top_level_keys_and_removes_those_that_are_null(
    base: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert decoded(merge_metadata(encoded(base), encoded(patch))) == merged(base, patch)


@given(st.lists(documents, max_size=6))
def test_merging_one_patch_after_another_stays_true_to_the_model(patches: list[dict[str, Any]]) -> None:
    document, model = b"", dict[str, Any]()
    for patch in patches:
        document, model = merge_metadata(document, encoded(patch)), merged(model, patch)

    assert decoded(document) == model


@given(documents)
def test_a_document_merged_into_nothing_loses_its_top_level_nulls_only(content: dict[str, Any]) -> None:
    assert decoded(merge_metadata(b"", encoded(content))) == {k: v for k, v in content.items() if v is not None}


@given(documents, documents)
def test_the_same_content_has_the_same_bytes_however_it_came_to_be(base: dict[str, Any], patch: dict[str, Any]) -> None:
    by_merging = merge_metadata(encoded(base), encoded(patch))

    assert by_merging == encoded(merged(base, patch))


def test_a_nested_object_is_replaced_and_not_merged() -> None:
    base = encoded({"a": {"x": 1, "y": 2}, "b": [1, 2]})

    assert decoded(merge_metadata(base, encoded({"a": {"y": 3}, "b": [3]}))) == {"a": {"y": 3}, "b": [3]}


def test_null_removes_a_key_and_leaves_a_nested_null_alone() -> None:
    base = encoded({"a": 1, "b": 2})

    assert decoded(merge_metadata(base, encoded({"a": None, "c": {"x": None}}))) == {"b": 2, "c": {"x": None}}
    assert merge_metadata(encoded({"a": 1}), encoded({"a": None})) == b""
    assert merge_metadata(b"", encoded({"never there": None})) == b""


def test_a_text_that_holds_the_bytes_of_a_null_removes_nothing() -> None:
    patch = {"a": "\x08\x00", "\x08\x00": 1}

    assert decoded(merge_metadata(encoded({"a": 1}), encoded(patch))) == patch


@pytest.mark.parametrize("number", [math.nan, -math.nan, math.inf, -math.inf, *ODD_NANS])
@pytest.mark.parametrize(
    ("path", "wrap"),
    [
        ("metadata.a", lambda number: {"a": number}),
        ("metadata.a.b", lambda number: {"ok": 1, "a": {"ok": "x", "b": number}}),
        ("metadata.a[1]", lambda number: {"a": [0, number]}),
        ("metadata.a[0].b[2][0]", lambda number: {"a": [{"b": [1, 2, [number]]}]}),
    ],
)
def test_a_number_that_is_not_finite_is_refused_with_its_path(path: str, wrap: Any, number: float) -> None:
    with pytest.raises(InvalidField) as refused:
        encoded(wrap(number))

    assert refused.value.field == path
    assert refused.value.facts["field"] == path


@given(documents, st.sampled_from([math.nan, math.inf, -math.inf]), st.randoms(use_true_random=False))
def test_a_number_that_is_not_finite_is_found_wherever_it_is(
    content: dict[str, Any], number: float, random: Any
) -> None:
    place: Any = content
    while random.random() < 0.7:
        inner = [value for value in place.values() if isinstance(value, dict)]
        if not inner:
            break
        place = random.choice(inner)
    place["not finite"] = number

    with pytest.raises(InvalidField, match=r"not finite: must be a finite number$"):
        encoded(content)


@given(finite)
def test_every_finite_number_passes(number: float) -> None:
    assert decoded(encoded({"a": number, "b": [number, {"c": number}]})) == {"a": number, "b": [number, {"c": number}]}


@pytest.mark.parametrize("number", [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, -0.0])
def test_the_extreme_finite_numbers_pass(number: float) -> None:
    assert decoded(encoded({"a": number})) == {"a": number}


def test_a_text_that_merely_looks_like_a_number_that_is_not_finite_passes() -> None:
    # Text cannot hold f0 7f, but the length of a text can: 16,368 as a varint. The 0x11 is in the key before it.
    content = {"\x11ab": "x" * 16_368}
    raw = encoded(content)
    end = raw.index(b"\xf0\x7f")

    assert raw[end - 7] == 0x11
    assert decoded(raw) == content
    assert decoded(encoded({"b": 1.0} | content)) == {"b": 1.0} | content


def test_a_number_that_is_not_finite_is_found_behind_a_text_that_looks_like_one() -> None:
    with pytest.raises(InvalidField) as refused:
        encoded({"\x11ab": "x" * 16_368, "z": math.inf})

    assert refused.value.field == "metadata.z"


@given(st.lists(st.sampled_from(["\x11", "\x7f", "\U0010ffff", "\U000f0000", "\u00ff", "x"]), max_size=24))
def test_texts_of_suspicious_bytes_pass(parts: list[str]) -> None:
    content = {"".join(parts): "".join(parts), "nested": {"a": ["".join(parts)]}}

    assert decoded(encoded(content)) == content


def test_a_document_of_exactly_the_limit_passes_and_one_byte_more_is_refused() -> None:
    size = len(a_struct({"a": "x" * 100}).SerializeToString())

    assert len(encode(a_struct({"a": "x" * 100}), "error.details", size)) == size
    with pytest.raises(InvalidField) as refused:
        encode(a_struct({"a": "x" * 100}), "error.details", size - 1)
    assert refused.value.field == "error.details"
    assert str(size) in refused.value.problem
    assert str(size - 1) in refused.value.problem


def test_the_limit_of_metadata_is_on_the_merged_document() -> None:
    half = METADATA_BYTES_MAX // 2
    base, patch = encoded({"a": "x" * half}), encoded({"b": "y" * half})

    with pytest.raises(InvalidField) as refused:
        merge_metadata(base, patch)

    assert refused.value.field == "metadata"
    assert len(merge_metadata(base, encoded({"a": "y" * half}))) <= METADATA_BYTES_MAX


def test_metadata_of_exactly_the_limit_is_kept_when_merged() -> None:
    overhead = len(encoded({"a": "x" * 60_000})) - 60_000
    content = {"a": "x" * (METADATA_BYTES_MAX - overhead)}

    assert len(merge_metadata(b"", encoded(content))) == METADATA_BYTES_MAX
    with pytest.raises(InvalidField):
        merge_metadata(encoded(content), encoded({"b": True}))


@given(documents, documents)
def test_merging_changes_neither_document(base: dict[str, Any], patch: dict[str, Any]) -> None:
    assume(base or patch)
    first, second = encoded(base), encoded(patch)
    before = (bytes(first), bytes(second))

    merge_metadata(first, second)

    assert (first, second) == before


def nested(depth: int) -> Struct:
    made = Struct()
    inner = made
    for _ in range(depth):
        inner = inner.fields["a"].struct_value
    inner.fields["a"].bool_value = True
    return made


@pytest.mark.parametrize("depth", [1, 14, 15, 16, 17, 31, 32])
def test_a_watcher_can_read_every_document_that_was_accepted(depth: int) -> None:
    request = job_service_pb2.CreateRequest(id="job", metadata=nested(depth)).SerializeToString()
    metadata = job_service_pb2.CreateRequest.FromString(request).metadata
    try:
        document = merge_metadata(b"", encode(metadata, "metadata", METADATA_BYTES_MAX))
    except InvalidField:
        return

    job = Job(id="job", job_type="default", metadata=document)
    event = encode_event(Event(EventType.QUEUED, 1, "", None, job, with_metadata=True))
    message = event_pb2.Event.FromString(complete_event(1, 1, job.id, job.job_type, "", event.type, event.payload))

    assert message.job.metadata == Struct.FromString(document)
    assert isinstance(message, event_pb2.Event)
    assert isinstance(message.job, job_pb2.Job)


@pytest.mark.parametrize("levels", [1, NESTING_MAX - 1])
def test_a_document_within_the_limit_of_nesting_is_accepted(levels: int) -> None:
    assert encode(nested(levels), "metadata", METADATA_BYTES_MAX)


@pytest.mark.parametrize("inner", [{}, [], 1])
def test_the_document_itself_is_the_first_level_whatever_the_innermost_holds(inner: Any) -> None:
    def of(levels: int) -> dict[str, Any]:
        content = inner
        for _ in range(levels - (inner in ({}, []))):
            content = {"a": content}
        assert isinstance(content, dict)
        return content

    assert encoded(of(NESTING_MAX))
    with pytest.raises(InvalidField, match=f"nested deeper than {NESTING_MAX} levels"):
        encoded(of(NESTING_MAX + 1))


def test_every_value_of_a_document_that_is_not_acceptable_is_named() -> None:
    with pytest.raises(InvalidField) as refused:
        encoded({"a": math.nan, "b": {"c": [1, math.inf]}, "d": -math.inf, "e": "fine"})

    assert [field for field, _ in refused.value.violations] == ["metadata.a", "metadata.b.c[1]", "metadata.d"]


def test_a_document_of_nothing_but_bad_values_is_refused_with_twenty_of_them() -> None:
    with pytest.raises(InvalidField) as refused:
        encoded({"a": [math.nan] * 5_000})

    assert len(refused.value.violations) == 20


@pytest.mark.parametrize("depth", [NESTING_MAX + 1, NESTING_MAX + 2, 32])
def test_a_document_nested_too_deep_is_refused_as_a_whole(depth: int) -> None:
    with pytest.raises(InvalidField, match="nested deeper") as refused:
        encode(nested(depth), "error.details", METADATA_BYTES_MAX)

    assert refused.value.field == "error.details"


@pytest.mark.parametrize("inner", [{}, {"x": "2*"}, {"x": [1], "y": {}}, {"2": "*"}])
def test_lists_count_as_levels_as_objects_do(inner: dict[str, Any]) -> None:
    content: dict[str, Any] = inner
    for level in range(NESTING_MAX + 1):
        content = {"a": content} if level % 2 else {"a": [content]}

    with pytest.raises(InvalidField, match="nested deeper"):
        encoded(content)


@pytest.mark.parametrize("levels", [NESTING_MAX - 1, NESTING_MAX])
def test_whether_nesting_is_accepted_does_not_depend_on_the_texts(levels: int) -> None:
    def is_accepted(text: str) -> bool:
        document = nested(levels)
        document.fields["text"].string_value = text
        try:
            encode(document, "metadata", METADATA_BYTES_MAX)
        except InvalidField:
            return False
        return True

    assert is_accepted("without") == is_accepted("2" * 40)


def test_a_value_that_is_nothing_is_refused() -> None:
    document = Struct()
    document.fields["empty"].Clear()

    with pytest.raises(InvalidField) as refused:
        encode(document, "metadata", METADATA_BYTES_MAX)

    assert refused.value.field == "metadata.empty"


def test_a_null_by_another_number_removes_a_key_too() -> None:
    patch = Struct()
    patch.fields["key"].null_value = 5  # type: ignore[assignment]

    assert merge_metadata(encoded({"key": 1}), patch.SerializeToString()) == b""


def test_the_path_of_a_refusal_is_cut_where_the_callers_key_is_long() -> None:
    document = Struct()
    document.fields["k" * 50_000].number_value = float("nan")

    with pytest.raises(InvalidField) as refused:
        encode(document, "metadata", METADATA_BYTES_MAX)

    assert len(refused.value.field) == 200


def test_a_document_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidField) as refused:
        encode(Struct.FromString(encoded({"key": "x" * 200})), "result", 100)

    assert int(refused.value.facts["size"]) > 200
    assert refused.value.facts["size_max"] == "100"
