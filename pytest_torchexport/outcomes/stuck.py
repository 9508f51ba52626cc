"""Find the line at which code stays that does not return, in samples of its stack.

Separate from ``limits``, which takes the samples and ends such code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

from pytest_torchexport.results.source_line import SourceLine, innermost, short_path, source_line

T = TypeVar("T")

# What is named has to be in more than this share of the samples.
MOST = 0.5
# sympy computes with the sizes that are not known while torch.export captures.
_SYMPY = "/sympy/"
_TORCH = "/torch/"


@dataclass(frozen=True)
class Frame:
    """One frame of a stack: its file, the line in it, and its function."""

    file: str
    line: int
    function: str


# From the innermost frame on.
Stack = tuple[Frame, ...]


@dataclass(frozen=True)
class Stuck:
    """The place at which most samples of a stack are.

    ``where``: the line to name. ``function``: the innermost of torch's functions that it called,
    ``FloorDiv.eval in torch/utils/_sympy/functions.py``. ``in_sympy``: they are in sympy. Each is
    empty if it is not the same in most of the samples.
    """

    where: SourceLine | None = None
    function: str = ""
    in_sympy: bool = False


def stack_of(frame: FrameType | None, outermost: FrameType | None) -> Stack:
    """Return the frames from one on, without ``outermost`` and what called it."""
    found: list[Frame] = []
    while frame is not None and frame is not outermost:
        code = frame.f_code
        found.append(Frame(code.co_filename, frame.f_lineno, code.co_qualname))
        frame = frame.f_back
    return tuple(found)


def stuck(stacks: Sequence[Stack]) -> Stuck:
    """Return where most of these stacks are."""
    frame = _most(stacks, _named)
    return Stuck(
        where=source_line(*frame) if frame is not None else None,
        function=_most(stacks, _function) or "",
        in_sympy=_most(stacks, _is_in_sympy) or False,
    )


def _most(stacks: Sequence[Stack], fact: Callable[[Stack], T]) -> T | None:
    """Return the fact that is the same of most stacks, None if there is none."""
    for found, count in Counter(map(fact, stacks)).most_common(1):
        return found if count > MOST * len(stacks) else None
    return None


def _named(stack: Stack) -> tuple[str, int] | None:
    number = innermost(frame.file for frame in stack)
    return (stack[number].file, stack[number].line) if number is not None else None


def _function(stack: Stack) -> str:
    number = innermost(frame.file for frame in stack)
    for frame in stack[:number]:
        if _TORCH in frame.file:
            return f"{frame.function} in {short_path(frame.file)}"
    return ""


def _is_in_sympy(stack: Stack) -> bool:
    return bool(stack) and _SYMPY in stack[0].file
