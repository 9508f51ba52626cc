"""The values that a leaf may take: inferred from the example, or given by the user's ``values``.

Separate from shapes, as in Hypothesis: the same domain serves every size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pytest_torchexport.results.failures import ends_the_test

Kind = Literal["float", "int", "bool"]
# How many values of a user's strategy are drawn for the calls that Hypothesis does not draw.
SOME = 32
# A smaller triangle may be one by chance.
CAUSAL = 3
# A mask that is added leaves out what it adds this or less to.
ADDED = -1e4


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Legal values of one tensor.

    ``low`` and ``high`` are inclusive; None means unbounded (floats only). ``scale`` is the root
    mean square of the example, or 1 if that is zero. ``choices``, if not empty, are the only legal
    values. ``elements`` is a Hypothesis strategy for single elements; ``choices`` are then some of
    them, for the calls that Hypothesis does not draw. Each row along the last axis of a mask has
    a nonzero if ``rows_keep`` is True, a zero if it is False. ``triangle`` are the values of a
    causal mask: up to the diagonal, and above it. ``declared`` says that the user gave the values.
    """

    kind: Kind
    low: float | int | None = None
    high: float | int | None = None
    scale: float = 1.0
    choices: tuple[Any, ...] = ()
    elements: Any = None
    rows_keep: bool | None = None
    triangle: tuple[Any, Any] | None = None
    declared: bool = False

    def describe(self) -> str:
        """Return words like ``0..99``, ``[0, 1]``, ``not negative`` or ``one of 1, 2``."""
        if self.triangle is not None:
            below, above = self.triangle
            return f"{above} above the diagonal and {below} elsewhere"
        if self.elements is not None:
            return "from a strategy"
        if self.choices:
            kept = {True: "a nonzero", False: "a zero"}
            return f"one of {', '.join(map(str, self.choices))}{self._kept(kept)}"
        if self.kind == "bool":
            return "False or True" + self._kept({True: "a True", False: "a False"})
        if self.kind == "int":
            return f"{self.low}..{self.high}" + self._kept({True: "a 1", False: "a 0"})
        if self.low == 0 and self.high is None:
            return "not negative"
        if self.low is None and self.high is None:
            return f"about +-{self.scale:.3g}"
        low = "-inf" if self.low is None else self.low
        high = "inf" if self.high is None else self.high
        return f"[{low}, {high}]"

    def _kept(self, words: Mapping[bool, str]) -> str:
        return "" if self.rows_keep is None else f", {words[self.rows_keep]} in each row"


def infer(*examples: torch.Tensor) -> Domain:
    """Return the domain that examples alone suggest.

    Integers stay between the examples' minimum and maximum. Masks stay such: of bools, of 0 and 1,
    and of 0 and a number like -inf that is added to what is left out. A causal mask stays causal,
    and rows that all keep something keep something. Non-negative floats and floats in [0, 1] stay
    such.
    """
    values = [example.detach().resolve_conj().cpu() for example in examples]
    flat = torch.cat([value.flatten() for value in values])
    # The unsigned types beyond uint8 have no min and max of their own in torch.
    counts = not (flat.is_floating_point() or flat.is_complex() or flat.dtype == torch.bool)
    flat = flat.to(torch.int64) if counts and flat.dtype not in _ORDERED else flat
    return _masks(flat, values) or (_integers(flat) if counts else _floats(flat))


def declared(value: Any, example: torch.Tensor, path: str) -> Domain:
    """Return the domain that the user's ``values`` give for a leaf.

    Raises ValueError if the leaf's dtype cannot hold them, or if a strategy gives none.
    """
    inferred = infer(example)
    base = dataclasses.replace(inferred, declared=True, rows_keep=None, triangle=None)
    if isinstance(value, tuple):
        low, high = value
        return _between(low, high, base, example, path)
    if isinstance(value, list):
        return _one_of(value, base, example, path)
    return dataclasses.replace(_one_of(_some(value, path), base, example, path), elements=value)


def _some(strategy: Any, path: str) -> list[Any]:
    """Return some values of a strategy, the same ones each time. Raises ValueError if it raises."""
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
        found[repr(value)] = value.item() if hasattr(value, "item") else value  # numpy's numbers

    try:
        keep()
    except Exception as error:
        if ends_the_test(error):
            raise
        text = f"the strategy of {path!r} gives no value: {type(error).__name__}: {error}"
        raise ValueError(text) from error
    return list(found.values())


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


def _integers(numbers: torch.Tensor) -> Domain:
    if not numbers.numel():
        return Domain(kind="int", low=0, high=0)
    return Domain(kind="int", low=int(numbers.min()), high=int(numbers.max()))


def _floats(value: torch.Tensor) -> Domain:
    flat = torch.view_as_real(value) if value.is_complex() else value
    flat = flat.double()
    flat = flat[torch.isfinite(flat)]
    if not flat.numel():
        return Domain(kind="float")
    scale = float(flat.square().mean().sqrt()) or 1.0
    low = 0.0 if float(flat.min()) >= 0 and not value.is_complex() else None
    high = 1.0 if low is not None and float(flat.max()) <= 1 else None
    return Domain(kind="float", low=low, high=high, scale=scale)


def _masks(flat: torch.Tensor, examples: Sequence[torch.Tensor]) -> Domain | None:
    """Return the domain of examples that are masks, else None."""
    if flat.dtype == torch.bool:
        out = all(map(_marks_what_is_left_out, examples))
        domain, kept = Domain(kind="bool", low=0, high=1), not out
    elif flat.is_complex() or not bool((flat == 0).any()) or bool((flat == 0).all()):
        return None
    elif bool(((flat == 0) | (flat == 1)).all()):
        whole = not flat.is_floating_point()
        domain = Domain(kind="int" if whole else "float", low=0, high=1)
        domain = domain if whole else dataclasses.replace(domain, choices=(0.0, 1.0))
        kept = True
    else:
        lowest = float(flat.min()) if flat.is_floating_point() else 0.0
        if lowest > ADDED or bool(((flat != 0) & (flat != lowest)).any()):
            return None
        domain, kept = Domain(kind="float", high=0.0, choices=(0.0, lowest)), False
    triangle = _triangle(examples)
    if triangle is not None:
        return dataclasses.replace(domain, triangle=triangle)
    rows = all(value.dim() and bool(((value != 0) == kept).any(-1).all()) for value in examples)
    return dataclasses.replace(domain, rows_keep=kept if rows and flat.numel() else None)


def _marks_what_is_left_out(mask: torch.Tensor) -> bool:
    """Return True if True marks padding: the first of each row is False, or all of some row are.

    The other way round, nothing would be left of such a row.
    """
    if mask.dim() < 2 or mask.shape[-1] < 2:
        return False
    return not bool(mask[..., 0].any()) or not bool(mask.any(-1).all())


def _triangle(examples: Sequence[torch.Tensor]) -> tuple[Any, Any] | None:
    """Return the values of a causal mask, up to the diagonal and above it; None if it is none."""
    found = set()
    for value in examples:
        if value.dim() < 2 or value.shape[-2] != value.shape[-1] or value.shape[-1] < CAUSAL:
            return None
        corners = value.reshape(-1, *value.shape[-2:])[:1]
        if not len(corners):
            return None
        below, above = corners[0, -1, 0], corners[0, 0, -1]
        inside = torch.ones(value.shape[-2:], dtype=torch.bool).tril()
        if below == above or not torch.equal(
            value, torch.where(inside, below, above).expand_as(value)
        ):
            return None
        found.add((below.item(), above.item()))
    return found.pop() if len(found) == 1 else None
