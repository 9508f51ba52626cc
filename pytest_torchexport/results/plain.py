"""Turn dataclasses of the results into plain data, and plain data into them again.

One way for all of them: the types of the fields say what each value is.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

NOT_IN_JSON = ("nan", "inf", "-inf")
# The types that a value of a field's type may have in the data, and their name in a message.
_SCALARS: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}
# The types of a class's fields, which are strings in the source; cached, as an item has hundreds.
_kinds = functools.cache(typing.get_type_hints)


class Unreadable(ValueError):
    """Data are none of ours, or none that this version can read. Its text says why."""


class NotOurs(Unreadable):
    """A text is whole, but something else than a document of this plugin."""


def plain(value: Any) -> Any:
    """Return a value made of dataclasses, dicts and tuples as JSON has it.

    Numbers that JSON does not have (nan, inf) become the texts "nan", "inf" and "-inf".
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def made(kind: Any, value: Any, at: str = "") -> Any:
    """Return the value of a type, such as a dataclass, that ``plain`` made the data from.

    Unknown keys are left out. A number that JSON does not have is its name: ``"nan"``, ``"inf"``,
    ``"-inf"``. Raises Unreadable if a value has another type than its field, or a field without a
    default is missing: its text begins with the place: ``verdicts[0].seed: ...``.
    """
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        kinds, found = _kinds(kind), _typed(value, (Mapping,), "an object", at)
        values = {}
        for item in dataclasses.fields(kind):
            place = f"{at}.{item.name}".removeprefix(".")
            if item.name in found:
                values[item.name] = made(kinds[item.name], found[item.name], place)
            elif item.default is item.default_factory is dataclasses.MISSING:
                raise Unreadable(f"{place}: it is missing")
        return kind(**values)
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (only,) = (each for each in inside if each is not types.NoneType)
        return None if value is None else made(only, value, at)
    if origin in (tuple, Sequence):
        items = _typed(value, (list, tuple), "a list", at)
        return tuple(made(inside[0], item, f"{at}[{i}]") for i, item in enumerate(items))
    if origin in (dict, Mapping):
        items = _typed(value, (Mapping,), "an object", at)
        return {key: made(inside[1], item, f"{at}[{key!r}]") for key, item in items.items()}
    if kind is Any:
        return value
    if kind is float and value in NOT_IN_JSON:
        return float(value)
    # Any text for a Literal: a newer version may have written another word.
    allowed, words = _SCALARS[str if origin is typing.Literal else kind]
    return _typed(value, allowed, words, at)


def _typed(value: Any, allowed: tuple[type, ...], words: str, at: str) -> Any:
    """Return the value. Raises Unreadable if it has none of the allowed types."""
    # A bool is an int in Python, and not in JSON.
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise Unreadable(f"{at or 'all of it'}: {value!r:.80} is not {words}")
    return value


# -- documents of ours: JSON with a schema and a version -------------------------------------------


def document(text: str | bytes, schema: str, version: int, otherwise: str) -> dict[str, Any]:
    """Return the JSON object of a schema and version. ``otherwise``: what to say of another one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is not JSON, or was cut off ({error})") from None
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise NotOurs(otherwise)
    written = found.get("version")
    if isinstance(written, int) and written > version:
        raise Unreadable(
            f"a newer pytest-torchexport has written it (version {written}; this one reads "
            f"{version}): install that version here"
        )
    if written != version or isinstance(written, bool):
        raise Unreadable(f"its version is {written!r}, which no release has written")
    return found
