"""The facts of a program on the sizes of its inputs, in torch's own symbols.

Separate because each format reads these facts in its own way, and only one room judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_torchexport.results.source_line import SourceLine


@dataclass(frozen=True)
class Bounds:
    """The range of a symbol, and the user's lines that gave it. None means no bound."""

    low: int | None
    high: int | None
    low_at: SourceLine | None = None
    high_at: SourceLine | None = None


@dataclass(frozen=True, kw_only=True)
class SizeFacts:
    """The facts of one program on sizes, in torch's own symbols.

    ``axes`` are the shapes of the call's leaves in order (None for a leaf that is no tensor).
    ``sources`` say which axis a symbol was made for, in torch's words (``L['x'].size()[0]``), and
    ``frozen`` at which line the size of such an axis became a number.
    """

    axes: tuple[tuple[Any, ...] | None, ...] = ()
    ranges: Mapping[Any, Bounds] = field(default_factory=dict)
    guards: tuple[tuple[Any, SourceLine | None], ...] = ()
    sources: Mapping[Any, str] = field(default_factory=dict)
    frozen: Mapping[str, SourceLine] = field(default_factory=dict)

    @classmethod
    def of_inputs(
        cls,
        shapes: Sequence[Sequence[Any] | None],
        frozen: Mapping[str, SourceLine] | None = None,
    ) -> SizeFacts:
        """Return the facts of a format that has either one size per axis or an open one.

        ``shapes`` are those of the call's leaves (None for a leaf that is no input); on an axis
        with an int, that size alone is taken.
        """
        axes = tuple(
            None if shape is None else tuple(_whole(size) for size in shape) for shape in shapes
        )
        return cls(axes=axes, frozen=frozen or {})

    def as_plain(self) -> dict[str, Any]:
        """Return axes and ranges as JSON, for another process.

        An axis of which only an expression is known becomes None.
        """
        return {
            "axes": [
                None if shape is None else [_plain_size(size) for size in shape]
                for shape in self.axes
            ],
            "ranges": {
                str(symbol): [bounds.low, bounds.high]
                for symbol, bounds in self.ranges.items()
                if symbol.is_Symbol
            },
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> SizeFacts:
        """Return what ``as_plain`` kept. Names become symbols, and nothing is evaluated.

        A file may have written the data itself.
        """
        import sympy  # type: ignore[import-untyped]

        def size(value: Any) -> Any:
            return sympy.Symbol(value) if isinstance(value, str) else _whole(value)

        return cls(
            axes=tuple(
                None if shape is None else tuple(size(value) for value in shape)
                for shape in plain["axes"]
            ),
            ranges={
                sympy.Symbol(str(name)): Bounds(_whole(low), _whole(high))
                for name, (low, high) in plain["ranges"].items()
            },
        )


def _plain_size(size: Any) -> int | str | None:
    if isinstance(size, int):
        return size
    return str(size) if getattr(size, "is_Symbol", False) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None
