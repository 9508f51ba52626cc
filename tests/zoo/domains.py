"""The legal calls of a model, of which many are drawn, and the rows of models that have them.

``faulty`` makes a row of a model whose artifact is wrong in a corner of its domain, ``steep`` one of
a healthy model that amplifies rounding; `benchmarks/regions.py` checks them.
"""

from __future__ import annotations

import inspect
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import SECTION, TABLE, Row, as_class, names_in

BATCH = {"batch": (1, 4)}
TWO = ("trace", "onnx")
THREE = ("trace", "onnx", "export")
# For modules that the ONNX exporter of torch 2.13 refuses or breaks by itself.
NOT_ONNX = ("trace", "export")
# Undeclared floats are legal up to this many times the example's largest magnitude.
BEYOND_EXAMPLE = 4.0

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Leaf:
    """A tensor argument. ``shape`` has sizes and names of dims; without ``values`` it is normal."""

    shape: str
    dtype: torch.dtype
    values: tuple[float, float] | tuple[int, int] | None

    def draw(self, sizes: dict[str, int], generator: torch.Generator) -> Tensor:
        """Return independent numbers: uniform between the declared bounds, else normal."""
        shape = [sizes[word] if word in sizes else int(word) for word in self.shape.split()]
        if self.values is None:
            return torch.randn(shape, generator=generator)
        low, high = self.values
        if not self.dtype.is_floating_point:
            return torch.randint(int(low), int(high) + 1, shape, generator=generator)
        return torch.rand(shape, generator=generator) * (high - low) + low

    def holds(self, value: Tensor, example: Tensor) -> bool:
        """Return True if the value's numbers are legal; ``example`` bounds undeclared ones."""
        low, high = self.values or (float("-inf"), float("inf"))
        most = example.abs().max() * BEYOND_EXAMPLE if self.values is None else high
        return (
            value.dtype == self.dtype
            and bool(value.isfinite().all())
            and bool(((value >= low) & (value <= high)).all())
            and bool((value.abs() <= most).all() | (self.values is not None))
        )


def reals(shape: str, low: float | None = None, high: float | None = None) -> Leaf:
    """Return floats with declared bounds, or undeclared ones if none are given."""
    values = None if low is None or high is None else (float(low), float(high))
    return Leaf(shape, torch.float32, values)


def whole(shape: str, low: int, high: int) -> Leaf:
    """Return integers with declared bounds, both inclusive."""
    return Leaf(shape, torch.int64, (low, high))


@dataclass(frozen=True)
class Domain:
    """The legal calls of a module: its arguments by name, and the sizes of their dims."""

    leaves: dict[str, Leaf]
    dims: dict[str, tuple[int, int]]

    def options(self) -> dict[str, Any]:
        """Return the arguments of ``check_export`` that declare this domain."""
        declared = {name: leaf.values for name, leaf in self.leaves.items() if leaf.values}
        return {
            "shapes": {name: leaf.shape for name, leaf in self.leaves.items()},
            "dims": dict(self.dims),
            **({"values": declared} if declared else {}),
        }

    def example(self) -> Inputs:
        """Return the call that is given to the exporter, the same each time: middle sizes."""
        sizes = {name: (low + high) // 2 for name, (low, high) in self.dims.items()}
        return self._draw(sizes, torch.Generator().manual_seed(0))

    def draw(self, chooser: random.Random) -> Inputs:
        """Return a call with uniform sizes and independent numbers."""
        sizes = {name: chooser.randint(*bounds) for name, bounds in self.dims.items()}
        return self._draw(sizes, torch.Generator().manual_seed(chooser.randrange(2**31)))

    def _draw(self, sizes: dict[str, int], generator: torch.Generator) -> Inputs:
        return tuple(leaf.draw(sizes, generator) for leaf in self.leaves.values())

    def holds(self, call: Inputs) -> bool:
        """Return True if the call is legal: shapes, sizes and values."""
        sizes: dict[str, int] = {}
        for leaf, value in zip(self.leaves.values(), call, strict=True):
            words = leaf.shape.split()
            if len(words) != value.ndim:
                return False
            for word, size in zip(words, value.shape, strict=True):
                if sizes.setdefault(word, int(word) if word.isdigit() else size) != size:
                    return False
        legal = all(low <= sizes[name] <= high for name, (low, high) in self.dims.items())
        return legal and all(
            leaf.holds(value, example)
            for leaf, value, example in zip(self.leaves.values(), call, self.example(), strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Region(Row):
    """A row with its domain, the targets on which it runs, and perhaps a fault in a corner.

    ``shipped`` is the forward that the faulty exporter captures; ``witness`` returns a legal call
    on which it differs. Both take the module first.
    """

    make: type[nn.Module]
    domain: Domain
    targets: tuple[str, ...]
    shipped: Callable[..., Tensor] = field(repr=False)
    witness: Callable[[nn.Module], Inputs] = field(repr=False)

    @property
    def mechanism(self) -> str:
        return self.tags[1]


def faulty(
    name: str = "",
    *,
    targets: tuple[str, ...] = TWO,
    dims: dict[str, tuple[int, int]] | None = None,
    shipped: Callable[..., Tensor] | None = None,
    witness: Callable[[Any], Tensor | Inputs] | None = None,
    **leaves: Leaf,
) -> Callable[[Any], type[nn.Module]]:
    """Add a row of a ``forward`` or a class; ``steep`` adds a healthy one, which ships its forward.

    An exporter's fault is no part of the user's class, so no search may read it there.
    """
    domain = Domain(leaves, BATCH if dims is None else dims)

    def add(model: Any) -> type[nn.Module]:
        cls = as_class(model, name)

        def build() -> nn.Module:
            """Return the module in eval mode, with the same weights each time."""
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(zlib.crc32(cls.__name__.encode()))
                return cls().eval()

        def showing(net: nn.Module) -> Inputs:
            made = witness(net) if witness is not None else domain.example()
            return made if isinstance(made, tuple) else (made,)

        wrong = shipped or cls.forward
        taken, wanted = (list(inspect.signature(each).parameters) for each in (wrong, cls.forward))
        assert taken == wanted, cls.__name__
        TABLE.append(
            Region(
                name=cls.__name__,
                make=cls,
                build=build,
                example=lambda: (domain.example(), {}),
                options=domain.options(),
                domain=domain,
                targets=targets,
                tags=tuple(SECTION),
                names=frozenset(names_in(cls)),
                shipped=wrong,
                witness=showing,
            )
        )
        return cls

    return add


steep = faulty


def climb(
    score: Callable[[Tensor], Tensor], shape: tuple[int, ...], low: float, high: float
) -> Tensor:
    """Return numbers between two bounds at which a score of one number is large: for witnesses."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.rand((8, *shape), generator=generator) * (high - low) + low
    best, best_score = starts[0], float("-inf")
    for start in starts:
        x = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([x], lr=(high - low) / 40)
        for _ in range(150):
            optimizer.zero_grad()
            (-score(x)).backward()
            optimizer.step()
            with torch.no_grad():
                x.clamp_(low, high)
        if (reached := score(x).item()) > best_score:
            best, best_score = x.detach(), reached
    return best
