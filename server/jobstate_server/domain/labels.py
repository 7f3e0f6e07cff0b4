"""Labels: pairs of texts that a job is found by.

A job has them as one text, which stores keep as it is: JSON, the keys in order, so that equal labels are equal texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jobstate_server.domain.limits import LABEL_KEY_PATTERN

Label = tuple[str, str]
"""A key and its value."""

Labels = tuple[Label, ...]
"""Some labels, in the order of their keys. Each key once."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


_KEY = re.compile(LABEL_KEY_PATTERN)


def is_key(text: str) -> bool:
    """Whether this may be the key of a label."""
    return _KEY.fullmatch(text) is not None


def to_text(labels: Mapping[str, str]) -> str | None:
    """The labels of a job. None if there are none."""
    return _encode(dict(sorted(labels.items()))) if labels else None


def from_text(text: str | None) -> Labels:
    """The same labels as pairs."""
    if text is None:
        return ()
    labels: dict[str, Any] = json.loads(text)
    return tuple(labels.items())
