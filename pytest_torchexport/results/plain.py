"""Turn dataclasses of the results into plain data, and plain data into them again.

One way for all of them: the types of the fields say what each value is.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Data = TypeVar("Data")


def plain(value: Any) -> Any:
    """Return plain dicts, lists and scalars for a value made of dataclasses, dicts and tuples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def made(cls: type[Data], data: Mapping[str, Any]) -> Data:
    """Return the dataclass that ``plain`` made the data from. Unknown keys are left out.

    Raises TypeError if a field without a default is missing.
    """
    kinds = _kinds(typing.cast("Any", cls))
    known = (item.name for item in dataclasses.fields(typing.cast("Any", cls)))
    return cls(**{name: _made(kinds[name], data[name]) for name in known if name in data})


@functools.cache
def _kinds(cls: type[Any]) -> Mapping[str, Any]:
    """Return the types of the fields, which are strings in the source."""
    return typing.get_type_hints(cls)


def _made(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        return made(typing.cast("type[Any]", kind), value)
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (only,) = (each for each in inside if each is not types.NoneType)
        return None if value is None else _made(only, value)
    if origin is tuple:
        return tuple(_made(inside[0], item) for item in value)
    if origin is dict:
        return {key: _made(inside[1], item) for key, item in value.items()}
    return value
