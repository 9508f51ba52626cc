"""Scatter eager's results: move those that were rounded by as much as rounding may move them.

An implementation of the same formula with other kernels (an ONNX runtime, a fused kernel, another
machine) gets other last digits. ``scattered`` runs eager's own operators, moves each result that
had to be rounded by about one unit in the last place, and the terms of sums and products of
matrices by as much (Monte Carlo arithmetic: D. S. Parker, UCLA CSD-970002, 1997). How far the
results scatter is eager's own error on that call. Exact results stay as they are: moved data,
comparisons, ``floor``, ``max``, sums of small integers. So a value that lies exactly *on* a
threshold stays there, and one *near* it may cross it. Equal numbers leave ``sort`` and ``topk`` in
any order, as documented. ``uncast`` leaves out the casts that a runtime may leave out.

Separate from ``own_error``, which compares the results: this file is about operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.judge.rounding import (
    adds_exactly,
    casts_float,
    exact_elements,
    narrows,
    rounds,
    widened,
)
from pytest_torchexport.judge.summing import by_rule, filled
from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.operators import (
    argument_of,
    dispatched,
    floats_of,
    name_of,
    with_floats,
    written_to,
)
from pytest_torchexport.torch_private.dispatcher import is_operator, schema_of

# Results are moved by a random multiple of the dtype's epsilon, up to this.
REACH = 1.5
# Kernels of half precision compute in float32 and round once, so to a neighboring number at most.
REACH_HALF = 0.75
# Numbers this many epsilons apart may be sorted in any order.
TIED = 8.0
# Those that may take equal elements in any order, and those that only ask which are larger.
ORDERING, BY_RANK = of_kind("unordered"), of_kind("by_rank")
FOURIER, FUSED = of_kind("fourier"), of_kind("fused")


@dataclass
class Ties:
    """A record of whether ``sort`` and the like met numbers that are equal but for rounding."""

    met: bool = False


def scattered(
    seed: int, ties: Ties | None = None, *, casts: bool = False
) -> AbstractContextManager[None]:
    """Move each rounded result a little within the block, differently for each seed.

    Record in ``ties`` if an operator met equal numbers. ``casts``: also what is cast to a narrower
    float.
    """
    return dispatched(_Scatter(seed, ties if ties is not None else Ties(), casts).operator)


def uncast() -> AbstractContextManager[None]:
    """Leave all floats in float64 that are cast to another one within the block."""

    def operator(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_operator(func) and casts_float(func, args, kwargs):
            kwargs = {**kwargs, "dtype": torch.float64}
        return func(*args, **kwargs)

    return dispatched(operator)


def _has_ties(tensor: torch.Tensor, dim: int) -> bool:
    values = tensor.sort(dim).values.double()
    near = TIED * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    return bool((values.diff(dim=dim) <= near * values.abs().amax(dim, keepdim=True)).any())


class _Scatter:
    """Move rounded results by a random stream of its own."""

    def __init__(self, seed: int, ties: Ties, casts: bool) -> None:
        self._ties, self._casts = ties, casts
        self._generator = torch.Generator().manual_seed(seed)
        self._alike = seed % 2 == 0

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator."""
        if not is_operator(func):
            return func(*args, **kwargs)  # torch.cond and other higher-order operators
        name = name_of(func)
        if name in ORDERING and not argument_of(func, args, kwargs, "stable"):
            return self._ordered(func, args, kwargs)
        if self._casts and narrows(func, args, kwargs):
            result = func(*args, **kwargs)
            exact = result.double() == args[0].double()
            return torch.where(exact, result, self._move(result))
        if not rounds(func, args, kwargs):
            return func(*args, **kwargs)
        if name in FUSED:
            plain = func(*args, **kwargs)
            with dispatched(self.operator):
                return filled(plain, by_rule(func, args, kwargs, lanes=1))
        return self._rounded(func, args, kwargs)

    def _rounded(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        sums = torch.Tag.pointwise not in func.tags
        written = written_to(func)
        # An operator that sums and writes cannot be run twice to learn its exact result.
        known = not sums or (not written and adds_exactly(func, args, kwargs))
        exact = exact_elements(func, args, kwargs) if known else None
        plain = None
        if sums:
            if exact is not None and any(bool(mask.any()) for mask in exact):
                plain = floats_of(func(*args, **kwargs))
            of_terms = self._transformed if name_of(func) in FOURIER else self._of_moved_terms
            result = of_terms(func, args, kwargs)
            if not floats_of(result) and not written:
                # An index, a count or a Python number: the operator picks or compares.
                return func(*args, **kwargs)
        else:
            result = func(*args, **kwargs)
        outputs = floats_of(result)
        for index, tensor in enumerate(outputs):
            scattered = self._move(tensor)
            if exact is not None and len(exact) == len(outputs):
                kept = tensor if plain is None else plain[index]
                scattered = torch.where(exact[index], kept, scattered)
            tensor.copy_(scattered)
        return result

    def _transformed(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run a Fourier transform as another algorithm may round it, with its own factors.

        The error of a result does not depend on its size: it is about epsilon times the logarithm
        of the number of terms times their norm, in any direction (N. J. Higham, Accuracy and
        Stability of Numerical Algorithms, 24.1).
        """
        terms, *rest = args
        axes = {axis % terms.dim() for axis in argument_of(func, args, kwargs, "dim")}
        steps = math.log2(max(math.prod(terms.shape[axis] for axis in axes), 2))
        # The transform of the errors alone: beside the terms, most would be rounded away.
        moved = func(*args, **kwargs) + steps * func(self._error(terms), *rest, **kwargs)
        if terms.is_complex():
            return moved
        turned = func(self._error(terms), *rest, **kwargs)
        # Of real terms, the sum itself: its factors are all one, in any algorithm.
        turned[tuple(0 if axis in axes else slice(None) for axis in range(terms.dim()))] = 0.0
        return moved + 1j * steps * turned

    def _of_moved_terms(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        written = written_to(func)
        moved = tuple(
            arg if item.name in written else with_floats(self._move_term, arg)
            for item, arg in zip(schema_of(func).arguments, args, strict=False)
        )
        named = {
            name: value if name in written else with_floats(self._move_term, value)
            for name, value in kwargs.items()
        }
        return func(*moved, **named)

    def _move_term(self, tensor: torch.Tensor) -> torch.Tensor:
        """Move a term of a sum, except in half precision, where only the sum is rounded."""
        return self._move(tensor) if widened(tensor) is tensor else tensor

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + self._error(tensor)

    def _error(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return how far numbers are moved, both parts of a complex one by themselves."""
        if tensor.is_complex():
            return torch.complex(self._error(tensor.real), self._error(tensor.imag))
        shift = torch.rand(tensor.shape, generator=self._generator, dtype=torch.float32)
        reach = REACH if widened(tensor) is tensor else REACH_HALF
        shift = ((shift * 2 - 1) * reach * torch.finfo(tensor.dtype).eps).to(tensor.dtype)
        # An infinite term, as of a mask that is added, would become nan.
        return torch.where(tensor.isfinite(), tensor * shift.to(tensor.device), 0.0)

    def _ordered(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operator on its input in another order; return indices into the given order."""
        tensor = args[0]
        dim = argument_of(func, args, kwargs, "dim")
        if dim is None or not tensor.dim():
            return func(*args, **kwargs)
        self._ties.met = self._ties.met or _has_ties(tensor, dim)
        # Kernels order all rows by one rule, or each row in its own way.
        shape = [1] * tensor.dim() if self._alike else list(tensor.shape)
        shape[dim] = tensor.shape[dim]
        keys = torch.rand(shape, generator=self._generator).to(tensor.device)
        order = keys.argsort(dim).expand_as(tensor)
        given = tensor.gather(dim, order)
        if name_of(func) in BY_RANK:
            # The kernel itself would take any of equal numbers, of distinct ones it takes those
            # that come last in this order.
            given = torch.argsort(given, dim=dim, stable=True).argsort(dim)
        values, places = func(given, *args[1:], **kwargs)
        dropped = places.dim() < tensor.dim()
        found = order.gather(dim, places.unsqueeze(dim) if dropped else places)
        if name_of(func) in BY_RANK:
            values = tensor.gather(dim, found)
            values = values.squeeze(dim) if dropped else values
        return values, found.squeeze(dim) if dropped else found
