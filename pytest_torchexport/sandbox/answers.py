"""What a child of a clean process says, read with distrust: a hostile file may speak in its place.

Separate from asking: what comes out of here has the types that it claims, and texts that a terminal can show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.messages import printable, short_path
from pytest_torchexport.outcomes.observe import NotTransferable, Raised, Tensors
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.sandbox.tensors import are_tensors
from pytest_torchexport.sandbox.wire import Malformed

# What the answer to a question has, unless that failed.
_HAS = {
    "start": {"ready"},
    "load": {"found", "confined"},
    "run": {"returned", "state"},
    "look": {"state"},
}
_FAILED = {"raised", "uncarried", "exhausted"}


@dataclass(frozen=True)
class Answer:
    """The answer to one question; what it is not about is empty. ``confined``: the kernel guards the process."""

    raised: Raised | None = None
    uncarried: NotTransferable | None = None
    exhausted: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    confined: bool = False
    returned: Any = None
    inputs: Call | None = None
    state: Tensors = field(default_factory=dict)


def read(said: Any, asked: str) -> Answer:
    """The answer to ``start`` (which nobody asks for), ``load``, ``run`` or ``look``. Raises Malformed for what is none."""
    if not isinstance(said, dict):
        raise Malformed(f"a {type(said).__name__} is no answer")
    missing = _HAS[asked] - said.keys()
    if missing and not said.keys() & _FAILED:
        raise Malformed(f"an answer without {', '.join(sorted(missing))}")
    known = {name: reads(said[name]) for name, reads in _READS.items() if name in said}
    return Answer(**known)


def _raised(said: Any) -> Raised:
    kind, message, where = _list(said, 3)
    return Raised(_text(kind), _text(message), _source_line(where))


def _source_line(said: Any) -> SourceLine | None:
    if said is None:
        return None
    file, line, text = _list(said, 3)
    if type(line) is not int:
        raise Malformed(f"a {type(line).__name__} is no line number")
    return SourceLine(short_path(_text(file)), line, _text(text))


def _uncarried(said: Any) -> NotTransferable:
    reason, own_class = _list(said, 2)
    return NotTransferable(_text(reason), bool(own_class))


def _inputs(said: Any) -> Call:
    args, kwargs = _list(said, 2)
    return Call(tuple(_list(args)), _named(kwargs))


def _state(said: Any) -> Tensors:
    if not are_tensors(_named(said).values()):
        raise Malformed("a state of something else than tensors")
    return _named(said)


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise Malformed(f"a {type(said).__name__} is no text")
    return printable(said)


def _list(said: Any, length: int | None = None) -> list[Any]:
    if not isinstance(said, list) or len(said) != (len(said) if length is None else length):
        raise Malformed(f"a {type(said).__name__} is no list as agreed")
    return said


def _named(said: Any) -> dict[str, Any]:
    if not isinstance(said, dict) or not all(isinstance(name, str) for name in said):
        raise Malformed(f"a {type(said).__name__} has no names")
    return said


_READS: Mapping[str, Callable[[Any], Any]] = {
    "raised": _raised,
    "uncarried": _uncarried,
    "exhausted": _text,
    "found": _named,
    "confined": bool,
    "returned": lambda said: said,
    "inputs": _inputs,
    "state": _state,
}
