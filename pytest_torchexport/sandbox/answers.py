"""Validates what a child answers: a hostile file may write in its place.

Separate from asking, so that everything behind it may rely on the types, and on texts that a
terminal can show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.outcomes.observe import NotTransferable, Raised, Tensors
from pytest_torchexport.results.source_line import SourceLine, short_path
from pytest_torchexport.sandbox.wire import Malformed

# The fields of an answer by request. "start" is the child's first message, which nobody requests.
_FIELDS = {
    "start": {"ready"},
    "load": {"found", "confined"},
    "run": {"returned", "state"},
    "state": {"state"},
    "call": {"value"},
}
# A failed request has one of these instead.
_FAILED = {"raised", "not_transferable", "exhausted", "crashed"}


@dataclass(frozen=True)
class Answer:
    """The answer to one request; fields of other requests are empty.

    ``confined``: the kernel guards the process. ``value``: what a called function returned.
    ``crashed``: why the process is of no further use. ``there``: which tensors of ``returned`` are
    on the device on which the file was loaded; all of them if None. ``state``: the tensors after a
    call.
    """

    raised: Raised | None = None
    not_transferable: NotTransferable | None = None
    exhausted: str | None = None
    crashed: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    confined: bool = False
    value: Any = None
    returned: Any = None
    there: list[bool] | None = None
    inputs: Call | None = None
    state: Tensors = field(default_factory=dict)

    @property
    def failure(self) -> Raised | NotTransferable | None:
        return self.raised or self.not_transferable


def read(message: Any, request: str) -> Answer:
    """Return the answer in a message. Raises Malformed if the request cannot have that answer."""
    if not isinstance(message, dict):
        raise Malformed(f"a {type(message).__name__} is no answer")
    missing = _FIELDS[request] - message.keys()
    if missing and not message.keys() & _FAILED:
        raise Malformed(f"an answer without {', '.join(sorted(missing))}")
    return Answer(
        **{name: read(message[name]) for name, read in _READERS.items() if name in message}
    )


def _raised(value: Any) -> Raised:
    kind, message, where = _list(value, 3)
    if where is None:
        return Raised(_text(kind), _text(message))
    file, line, text = _list(where, 3)
    if type(line) is not int:
        raise Malformed(f"a {type(line).__name__} is no line number")
    place = SourceLine(short_path(_text(file)), line, _text(text))
    return Raised(_text(kind), _text(message), place)


def _not_transferable(value: Any) -> NotTransferable:
    reason, own_class = _list(value, 2)
    return NotTransferable(_text(reason), bool(own_class))


def _inputs(value: Any) -> Call:
    args, kwargs = _list(value, 2)
    return Call(tuple(_list(args)), _by_name(kwargs))


def _state(value: Any) -> Tensors:
    if not all(isinstance(each, torch.Tensor) for each in _by_name(value).values()):
        raise Malformed("a state with values that are no tensors")
    return _by_name(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Malformed(f"a {type(value).__name__} is no text")
    return printable(value)


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise Malformed(f"a {type(value).__name__} is no list of {length or 'any length'}")
    return value


def _by_name(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Malformed(f"a {type(value).__name__} is no dict with names")
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "raised": _raised,
    "not_transferable": _not_transferable,
    "exhausted": _text,
    "crashed": _text,
    "found": _by_name,
    "confined": bool,
    "value": lambda value: value,
    "returned": lambda value: value,
    "there": lambda value: list(map(bool, _list(value))),
    "inputs": _inputs,
    "state": _state,
}
