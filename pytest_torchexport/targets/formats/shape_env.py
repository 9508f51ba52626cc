"""torch's ShapeEnv: the sizes, ranges and guards of what ``torch.export`` captured, or refused.

Separate from sizes.py because it is about torch. ``symbolic_sizes.py`` reads the attributes, none
of which torch documents; if torch has changed, nothing is known, and a test fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_torchexport.outcomes.texts import chain
from pytest_torchexport.outcomes.torch_state import exports_observed
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.size_facts import Bounds, SizeFacts
from pytest_torchexport.torch_private.symbolic_sizes import (
    environment_of,
    frozen_lines,
    guards_of,
    range_lines,
    ranges_of,
    shape_environment,
    sources_of,
)


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
        environment = environment_of(chain(error))
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
    """The facts on sizes of the ``torch.export`` calls of one ``torch.onnx.export``."""

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

    def exported(program: Any) -> None:
        seen.kept = captured_sizes(program)

    def refused(error: Exception) -> None:
        seen.refused.append(refused_sizes(error))

    with exports_observed(exported, refused):
        yield seen


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
