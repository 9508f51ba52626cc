"""The values that a leaf may take: inferred from the example, or given by the user's ``values``.

Separate from shapes, as in Hypothesis: the same domain serves every size.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

Kind = Literal["float", "int", "bool"]
# How many values of a user's strategy are drawn for the calls that Hypothesis does not draw.
SOME = 32


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Legal values of one tensor.

    ``low`` and ``high`` are inclusive; None means unbounded (floats only). ``scale`` is the root
    mean square of the example, or 1 if that is zero. ``choices``, if not empty, are the only legal
    values. ``elements`` is a Hypothesis strategy for single elements; ``choices`` are then some of
    them, for the calls that Hypothesis does not draw. ``rows_keep_one`` says that each row along
    the last axis keeps at least one nonzero, as in an attention mask. ``declared`` says that the
    user gave the values.
    """

    kind: Kind
    low: float | int | None = None
    high: float | int | None = None
    scale: float = 1.0
    choices: tuple[Any, ...] = ()
    elements: Any = None
    rows_keep_one: bool = False
    declared: bool = False

    def describe(self) -> str:
        """Return words like ``0..99``, ``[0, 1]``, ``not negative`` or ``one of 1, 2``."""
        if self.elements is not None:
            return "from a strategy"
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.kind == "bool":
            return "False or True" + (", a True in each row" if self.rows_keep_one else "")
        if self.kind == "int":
            return f"{self.low}..{self.high}" + (", a 1 in each row" if self.rows_keep_one else "")
        if self.low == 0 and self.high is None:
            return "not negative"
        if self.low is None and self.high is None:
            return f"about +-{self.scale:.3g}"
        low = "-inf" if self.low is None else self.low
        high = "inf" if self.high is None else self.high
        return f"[{low}, {high}]"


def infer(*examples: torch.Tensor) -> Domain:
    """Return the domain that examples alone suggest.

    Integers stay between the examples' minimum and maximum. Bools and 0/1 masks stay such, and
    rows that all have a 1 keep one. Non-negative floats and floats in [0, 1] stay such.
    """
    values = [example.detach().resolve_conj().cpu() for example in examples]
    flat = torch.cat([value.flatten() for value in values])
    keep_one = all(map(_rows_keep_one, values))
    if flat.dtype == torch.bool:
        return Domain(kind="bool", low=0, high=1, rows_keep_one=keep_one)
    if not (flat.is_floating_point() or flat.is_complex()):
        return _integers(flat, keep_one)
    return _floats(flat, keep_one)


def declared(value: Any, example: torch.Tensor, path: str) -> Domain:
    """Return the domain that the user's ``values`` give for a leaf.

    Raises ValueError if the leaf's dtype cannot hold them.
    """
    inferred = infer(example)
    base = dataclasses.replace(inferred, declared=True, rows_keep_one=False)
    if isinstance(value, tuple):
        low, high = value
        return _between(low, high, base, example, path)
    if isinstance(value, list):
        return _one_of(value, base, example, path)
    return dataclasses.replace(base, elements=value, choices=_some(value))


def _some(strategy: Any) -> tuple[Any, ...]:
    """Return some values of a strategy, the same ones each time."""
    import hypothesis

    found: dict[str, Any] = {}

    @hypothesis.seed(0)
    @hypothesis.settings(
        max_examples=SOME,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
        backend="hypothesis",
    )
    @hypothesis.given(strategy)
    def keep(value: Any) -> None:
        found[repr(value)] = value

    keep()
    return tuple(found.values())


def _between(low: Any, high: Any, base: Domain, example: torch.Tensor, path: str) -> Domain:
    if base.kind == "bool" and not 0 <= low <= high <= 1:
        raise ValueError(f"{path!r} is bool, which cannot hold all of {low}..{high}")
    bounded = math.isfinite(low) and math.isfinite(high)
    if base.kind == "int":
        if not bounded or low != int(low) or high != int(high):
            raise ValueError(f"{path!r} holds integers, but its range is ({low}, {high})")
        _check_fits(int(low), example.dtype, path)
        _check_fits(int(high), example.dtype, path)
        return dataclasses.replace(base, low=int(low), high=int(high))
    scale = max(abs(low), abs(high)) or 1.0 if bounded else base.scale
    return dataclasses.replace(base, scale=float(scale), low=_finite(low), high=_finite(high))


def _one_of(choices: list[Any], base: Domain, example: torch.Tensor, path: str) -> Domain:
    kinds = (bool, int, float, complex) if example.is_complex() else (bool, int, float)
    for choice in choices:
        if not isinstance(choice, kinds):
            raise ValueError(f"{path!r} is a tensor, and {choice!r} is no number to fill it with")
        if base.kind == "int":
            _check_fits(choice, example.dtype, path)
    return dataclasses.replace(base, choices=tuple(choices))


def _check_fits(choice: Any, dtype: torch.dtype, path: str) -> None:
    info = torch.iinfo(dtype)
    if not math.isfinite(choice) or choice != int(choice) or not info.min <= choice <= info.max:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"{path!r} is {name}, which cannot hold {choice!r}")


_ORDERED = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _integers(flat: torch.Tensor, keep_one: bool) -> Domain:
    if not flat.numel():
        return Domain(kind="int", low=0, high=0)
    # The unsigned types beyond uint8 have no min and max of their own in torch.
    numbers = flat if flat.dtype in _ORDERED else flat.to(torch.int64)
    low, high = int(numbers.min()), int(numbers.max())
    mask = (low, high) == (0, 1)
    return Domain(kind="int", low=low, high=high, rows_keep_one=mask and keep_one)


def _floats(value: torch.Tensor, keep_one: bool) -> Domain:
    flat = torch.view_as_real(value) if value.is_complex() else value
    flat = flat.double()
    flat = flat[torch.isfinite(flat)]
    if not flat.numel():
        return Domain(kind="float")
    if (
        bool(((flat == 0) | (flat == 1)).all())
        and bool((flat == 0).any())
        and bool((flat == 1).any())
    ):
        return Domain(kind="float", low=0.0, high=1.0, choices=(0.0, 1.0), rows_keep_one=keep_one)
    scale = float(flat.square().mean().sqrt()) or 1.0
    low = 0.0 if float(flat.min()) >= 0 and not value.is_complex() else None
    high = 1.0 if low is not None and float(flat.max()) <= 1 else None
    return Domain(kind="float", low=low, high=high, scale=scale)


def _rows_keep_one(mask: torch.Tensor) -> bool:
    return bool(mask.dim() and mask.numel() and (mask != 0).any(dim=-1).all())
