"""torch's ShapeEnv: the sizes, ranges and guards of what ``torch.export`` captured, or refused.

Separate because it is private in torch. Each attribute is read in one function, under "torch's
private parts"; if torch has changed, nothing is known then, and a test fails.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_torchexport.outcomes.messages import is_users, source_line
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.sizes import Bounds, SizeFacts


def captured_sizes(program: Any) -> SizeFacts:
    """Return what an ExportedProgram says about the sizes of its inputs. Never raises."""
    try:
        environment = shape_environment(program)
        return SizeFacts(
            axes=_input_shapes(program),
            ranges=_ranges(program.range_constraints, environment),
            guards=tuple(guards_of(environment)),
            sources=sources_of(environment),
            frozen=frozen_lines(environment),
        )
    except Exception:  # another torch keeps it elsewhere: nothing is known then
        return SizeFacts()


def refused_sizes(error: BaseException) -> SizeFacts:
    """Return what is known about sizes of an export that torch refused. Never raises.

    Those are the bounds and guards that come from a line of the user's, and the lines at which
    sizes became numbers.
    """
    try:
        environment = environment_of(error)
        return SizeFacts(
            ranges={
                symbol: replace(
                    bounds,
                    low=bounds.low if bounds.low_at else None,
                    high=bounds.high if bounds.high_at else None,
                )
                for symbol, bounds in _ranges(ranges_of(environment), environment).items()
            },
            guards=tuple((guard, where) for guard, where in guards_of(environment) if where),
            sources=sources_of(environment),
            frozen=frozen_lines(environment),
        )
    except Exception:  # as above
        return SizeFacts()


def refused_at(error: BaseException) -> SourceLine | None:
    """Return the user's line that made a number of a size, if torch refused the dims for that."""
    return next(iter(refused_sizes(error).frozen.values()), None)


@dataclass
class Captures:
    """What the ``torch.export`` calls of one ``torch.onnx.export`` said about sizes."""

    kept: SizeFacts = field(default_factory=SizeFacts)
    refused: list[SizeFacts] = field(default_factory=list)

    @property
    def frozen(self) -> dict[str, SourceLine]:
        """The lines at which sizes became numbers, in any of them."""
        found: dict[str, SourceLine] = {}
        for facts in (self.kept, *self.refused):
            found = {**facts.frozen, **found}
        return found


@contextmanager
def captures() -> Iterator[Captures]:
    """Collect what ``torch.export`` says about sizes within the block.

    The ONNX exporter drops guards and the lines at which sizes became numbers; the programs that it
    captures on the way have both.
    """
    seen = Captures()
    real = torch.export.export

    def export(*args: Any, **kwargs: Any) -> Any:
        try:
            program = real(*args, **kwargs)
        except Exception as error:
            seen.refused.append(refused_sizes(error))
            raise
        seen.kept = captured_sizes(program)
        return program

    torch.export.export = export
    try:
        yield seen
    finally:
        torch.export.export = real


def _input_shapes(program: Any) -> tuple[tuple[Any, ...] | None, ...]:
    """Return the shape of each leaf of the call, in numbers and sympy expressions."""
    from torch.export.graph_signature import InputKind

    values = {
        node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"
    }
    shapes: list[tuple[Any, ...] | None] = []
    for item in program.graph_signature.input_specs:
        if item.kind == InputKind.USER_INPUT:
            value = values.get(item.arg.name)
            plain = isinstance(value, torch.Tensor)
            shapes.append(tuple(_size(size) for size in value.shape) if plain else None)  # type: ignore[union-attr]
    return tuple(shapes)


def _size(size: Any) -> Any:
    if isinstance(size, int):
        return size
    expr = size.node.expr
    return int(expr) if expr.is_Integer else expr


def _ranges(intervals: Mapping[Any, Any], environment: Any) -> dict[Any, Bounds]:
    return {
        symbol: Bounds(
            # Everything is at least 0.
            _bound(interval.lower) or None,
            _bound(interval.upper),
            *range_lines(environment, symbol),
        )
        for symbol, interval in intervals.items()
    }


def _bound(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return None
    return number if abs(number) < 2**31 else None


# -- torch's private parts -------------------------------------------------------------------------


def shape_environment(program: Any) -> Any:
    """Return the ShapeEnv of an ExportedProgram, None if it has no tensor."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return getattr(mode, "shape_env", None)
    return None


def environment_of(error: BaseException) -> Any:
    """Return the ShapeEnv of a refused export, from the frames that its exception went through."""
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            for name, value in frame.f_locals.items():
                if name == "fake_mode" and getattr(value, "shape_env", None) is not None:
                    return value.shape_env
        cause = cause.__cause__ or cause.__context__
    return None


def guards_of(environment: Any) -> list[tuple[Any, SourceLine | None]]:
    """Return the guards on sizes (sympy relations), each with the user's line.

    The ONNX exporter has assertions instead, which know no line.
    """
    guards = getattr(environment, "guards", None) or ()
    deferred = getattr(environment, "deferred_runtime_asserts", None) or {}
    return [(guard.expr, line_of(guard.sloc)) for guard in guards] + [
        (item.expr, None) for items in deferred.values() for item in items
    ]


def ranges_of(environment: Any) -> dict[Any, Any]:
    """Return the interval of each symbol, of an environment that has no program."""
    return dict(getattr(environment, "var_to_range", None) or {})


def sources_of(environment: Any) -> dict[Any, str]:
    """Return the axis that each symbol was made for, in torch's words: ``L['x'].size()[0]``."""
    found = getattr(environment, "var_to_sources", None) or {}
    names = {symbol: sources[0].name for symbol, sources in found.items() if sources}
    return {symbol: name() if callable(name) else name for symbol, name in names.items()}


def range_lines(environment: Any, symbol: Any) -> tuple[SourceLine | None, SourceLine | None]:
    """Return the user's lines that gave a symbol its lower and its upper bound."""
    lines = (getattr(environment, "var_to_range_sloc", None) or {}).get(symbol)
    return (line_of(lines.lower), line_of(lines.upper)) if lines is not None else (None, None)


def frozen_lines(environment: Any) -> dict[str, SourceLine]:
    """Return the user's line at which each size became a number, by ``L['x'].size()[0]``."""
    replaced = getattr(environment, "replacements", None) or {}
    lines = getattr(environment, "replacements_slocs", None) or {}
    ranges = ranges_of(environment)
    found: dict[str, SourceLine | None] = {}
    for symbol, source in sources_of(environment).items():
        if getattr(replaced.get(symbol), "is_Integer", False) and symbol in lines:
            found[source] = line_of(lines[symbol])
        elif symbol in ranges and ranges[symbol].lower == ranges[symbol].upper:
            found[source] = range_lines(environment, symbol)[1]
    return {source: line for source, line in found.items() if line is not None}


_USER_LINE = re.compile(r"(.*)  # (.+):(\d+) in \w+", re.DOTALL)


def line_of(sloc: Any) -> SourceLine | None:
    """Return the user's line of torch's SLoc; None for a line of torch's own."""
    frame = getattr(sloc, "framework_loc", None)
    if isinstance(frame, traceback.FrameSummary) and is_users(frame.filename):
        return source_line(frame.filename, frame.lineno or 0, frame.line or "")
    match = _USER_LINE.match(getattr(sloc, "maybe_user_loc", None) or "")
    return SourceLine(match[2], int(match[3]), match[1].strip()) if match is not None else None
