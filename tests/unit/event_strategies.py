"""Hypothesis strategies for events, made from their fields: a new field is covered when it exists."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import AwareDatetime, PlainValidator
from pydantic.fields import FieldInfo

from ruvllm.schemas.event import Event, Value
from ruvllm.schemas.request import Rate

PRINTABLE = st.characters(exclude_categories=["Cs", "Cc"])
ANY_CHARACTER = st.characters(exclude_categories=["Cs"])
MOMENTS = st.datetimes(
    min_value=datetime(1000, 1, 2),
    max_value=datetime(9999, 12, 30),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))]),
)
VECTORS = arrays.arrays(np.float32, st.integers(0, 4), elements=st.floats(width=32, allow_nan=False))


def events(cls: type[Event]) -> st.SearchStrategy[Event]:
    """Any event of one kind."""
    fields = st.fixed_dictionaries(_fields(cls))
    if cls is Rate:  # needs a verdict
        fields = fields.map(lambda given: given if given["rating"] else {**given, "passed": True})
    return fields.map(cls.model_validate)


def _fields(cls: type[Value]) -> dict[str, st.SearchStrategy[Any]]:
    fields = {name: _values(field.annotation, field.metadata) for name, field in cls.model_fields.items()}
    if issubclass(cls, Event):
        fields["version"] = st.just(cls.current_version)  # what is written today
    return fields


def _values(kind: Any, limits: list[Any]) -> st.SearchStrategy[Any]:
    """Values of an annotation; `limits` are pydantic's constraints on it."""
    origin, parts = get_origin(kind), get_args(kind)
    if any(isinstance(limit, PlainValidator) for limit in limits):
        return st.binary(max_size=8) if kind is bytes else VECTORS
    if origin is Annotated:
        inner = [m for part in parts[1:] for m in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _values(parts[0], [*limits, *inner])
    if origin in (Union, types.UnionType):
        return st.one_of([_values(part, limits) for part in parts])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        return st.lists(_values(parts[0], []), min_size=_limit(limits, "min_length", 0), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(_values(parts[0], []), _values(parts[1], []), max_size=2)
    if isinstance(kind, type) and issubclass(kind, Value):
        return st.fixed_dictionaries(_fields(kind)).map(kind.model_validate)
    return _plain(kind, limits)


def _plain(kind: Any, limits: list[Any]) -> st.SearchStrategy[Any]:
    low, high = _limit(limits, "ge", None), _limit(limits, "le", None)
    above, below = _limit(limits, "gt", None), _limit(limits, "lt", None)
    if kind is AwareDatetime:
        return MOMENTS
    if kind is str:
        characters = PRINTABLE if _limit(limits, "pattern", None) else ANY_CHARACTER
        return st.text(characters, min_size=_limit(limits, "min_length", 0), max_size=6)
    if kind is int:
        return st.integers(-(2**63) if low is None else low, high if high is not None else (below or 2**63) - 1)
    if kind is float:
        return st.floats(
            low if above is None else above,
            high if below is None else below,
            exclude_min=above is not None,
            exclude_max=below is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    return {bool: st.booleans(), type(None): st.none()}[kind]


def _limit(limits: list[Any], name: str, default: Any) -> Any:
    found = [value for limit in limits if (value := getattr(limit, name, None)) is not None]
    return found[-1] if found else default
