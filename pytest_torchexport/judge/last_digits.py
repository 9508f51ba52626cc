"""Scatter eager's results: move those that were rounded by as much as rounding may move them.

An implementation of the same formula with other kernels (an ONNX runtime, a fused kernel, another
machine) gets other last digits. ``scattered`` runs eager's own operators, moves each result that
had to be rounded by about one unit in the last place, and the terms of sums and products of
matrices by as much (Monte Carlo arithmetic: D. S. Parker, UCLA CSD-970002, 1997). How far the
results scatter is eager's own error on that call. Exact results stay as they are: moved data,
comparisons, ``floor``, ``max``, sums of small integers. So a value that lies exactly *on* a
threshold stays there, and one *near* it may cross it. Equal numbers leave ``sort`` and ``topk`` in
any order, as documented. ``uncast`` leaves out the casts that a runtime may leave out.

``sequential`` adds up in another order. Separate from ``rounding``, which compares the results:
this file is about operators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.operators import (
    Operation,
    floats_of,
    is_float,
    operations,
    with_floats,
    written_to,
)
from pytest_torchexport.outcomes.torch_state import steps_of_attention_in_half
from pytest_torchexport.torch_private.dispatcher import aten_of_prim, decomposition_of, schema_of

# Results with more elements count as rounded; whether they were is not computed, nor are orders of
# so many looked up. A limit of cost.
LOOKED_AT = 1_000_000
# torch itself marks views, which never round either.
_EXACT, _SUMS = of_kind("exact"), of_kind("sums")


def rounds(operation: Operation) -> bool:
    """Return True if the operator computes with floats, and may have to round its results."""
    if operation.name in _EXACT or operation.func.is_view or not operation.floats:
        return False
    # Attention without dropout draws nothing.
    return not operation.may_draw or operation.argument("dropout_p") == 0.0


def exact_elements(operation: Operation) -> list[torch.Tensor] | None:
    """Return per float output a mask of the elements that needed no rounding; None if unknown.

    These are the elements whose result in float64 is a number of the dtype. For a sum, the result
    of the terms' absolute values must be one as well: if terms cancel, few digits are left of any
    sum, whatever was rounded on the way.
    """
    floats = operation.floats
    narrow = {tensor.dtype for tensor in floats}
    if narrow & {torch.float64, torch.complex128} or sum(t.numel() for t in floats) > LOOKED_AT:
        return None
    dtype = functools.reduce(torch.promote_types, narrow)
    ways = [operation]
    if torch.Tag.pointwise not in operation.func.tags:
        ways.append(with_float_operands(operation, torch.abs))

    def holds(wide: torch.Tensor) -> torch.Tensor:
        narrow = wide.to(dtype.to_complex() if wide.is_complex() else dtype.to_real())
        return narrow.to(wide.dtype) == wide

    masks = []
    for way in ways:
        wide = in_float64(way)
        if wide is None:
            return None
        masks.append([holds(tensor) for tensor in floats_of(wide)])
    return [functools.reduce(torch.logical_and, each) for each in zip(*masks, strict=True)]


def with_float_operands(
    operation: Operation,
    function: Callable[[torch.Tensor], torch.Tensor],
    but: frozenset[str] = frozenset(),
) -> Operation:
    """Return the operator with its float arguments replaced, ``but`` those of these names."""
    names = [item.name for item in schema_of(operation.func).arguments]
    args = tuple(
        arg if name in but else with_floats(function, arg)
        for name, arg in zip(names, operation.args, strict=False)
    )
    kwargs = {
        name: value if name in but else with_floats(function, value)
        for name, value in operation.kwargs.items()
    }
    return Operation(operation.func, args, kwargs)


def in_float64(operation: Operation) -> Any:
    """Return an operator's result on float64; None if it has no kernel for it."""
    dtypes = {False: torch.float64, True: torch.complex128}
    try:
        return with_float_operands(
            operation, lambda tensor: tensor.to(dtypes[tensor.is_complex()])
        ).run()
    except Exception:  # torch raises RuntimeError, NotImplementedError or ValueError for it
        return None


def casts_float(operation: Operation) -> bool:
    if "cast" not in operation.row.kinds or not operation.operand.is_floating_point():
        return False
    dtype = operation.argument("dtype")
    return dtype is not None and dtype.is_floating_point and is_float(operation.operand)


def narrows(operation: Operation) -> bool:
    given = operation.operand
    return casts_float(operation) and operation.argument("dtype").itemsize < given.dtype.itemsize


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return half precision as float32, in which every kernel accumulates it."""
    small = tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    return tensor.float() if small else tensor


def axes_of(tensor: torch.Tensor, dim: Any) -> tuple[int, ...] | None:
    """Return the axes that ``dim`` names; None if there is nothing to add up."""
    if not tensor.dim() or not tensor.numel():
        return None
    dims = dim if isinstance(dim, (list, tuple)) else [dim] if dim is not None else []
    return tuple(axis % tensor.dim() for axis in dims) or tuple(range(tensor.dim()))


# -- other orders of summation ---------------------------------------------------------------------

# Matrices with more multiplications are not multiplied step by step: it would take seconds.
MOST_PRODUCTS = 100_000_000


def sequential(lanes: int = 1) -> AbstractContextManager[None]:
    """Add up sums one term after the other, also in means, variances and normalizations.

    In so many lanes, a power of two, as vector registers do: every term is added to the lane that
    is next in turn, and at last the upper half of the lanes to the lower one, until one is left. A
    running sum has one. ONNX Runtime adds so; torch adds pairwise or in double precision. Of ``n``
    equal terms the last digits go one way: the error grows with ``n``, and no scattered run shows
    it.

    An operator that ``_FORMULAS`` does not know is taken apart, as torch does it for torch.compile
    and torch.export: the sums of a loss or a normalization are among its parts.
    """
    # Operators that are being taken apart. One that occurs among its own parts runs as it is.
    opened: set[Any] = set()

    def operator(operation: Operation) -> Any:
        func, args, kwargs = operation.func, operation.args, operation.kwargs
        of_prim = aten_of_prim(func)
        if of_prim is not None:
            with operations(operator):
                return of_prim(*args, **kwargs)
        # Before the operator itself, which may write to its arguments.
        found = one_by_one(operation) if operation.name else None
        return filled(operation, found)

    def one_by_one(operation: Operation) -> Any:
        """Return the results of an operator; None if nothing is known about its sums."""
        func = operation.func
        if any(tensor.is_complex() for tensor in operation.floats):
            return None
        formula = _FORMULAS.get(operation.row.sum)
        if formula is not None:
            wanted = is_float(operation.operand)
            return formula(**dict(operation.arguments), lanes=lanes) if wanted else None
        if func in opened or torch.Tag.pointwise in func.tags or not rounds(operation):
            return None
        if written_to(func):  # once, by the operator itself
            operation = with_float_operands(operation, torch.clone)
        opened.add(func)
        try:
            return in_parts(operation, operator)
        finally:
            opened.discard(func)

    return operations(operator)


def in_parts(operation: Operation, run: Callable[[Operation], Any]) -> Any:
    """Return an operator's results, computed by simpler ones that ``run`` runs; None if unknown.

    Each of them rounds, in half precision too: a fused kernel rounds once.
    """
    parts = decomposition_of(operation.func)
    if parts is None:
        return None
    try:
        with steps_of_attention_in_half(), operations(run):
            return parts(*operation.args, **operation.kwargs)
    except Exception:  # parts are written for compilers, and raise anything on a rare argument
        return None


def filled(operation: Operation, found: Any) -> Any:
    """Run an operator, and write other results to its own, as far as there are any.

    Of NaN it makes NaN where its kernel does, which is no matter of rounding: that stays.
    """
    of_nan = found is not None and any(bool(each.isnan().any()) for each in operation.floats)
    plain = operation.run()
    for tensor, other in zip(floats_of(plain), floats_of(found), strict=False):
        if tensor.numel() == other.numel():
            same = other.reshape(tensor.shape).to(tensor.dtype)
            kept = (tensor.isnan() | same.isnan()) & of_nan
            tensor.copy_(torch.where(kept, tensor, same))
    return plain


def _running(terms: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the sums of the first one, two, three, ... terms, each rounded.

    numpy's ``accumulate`` adds in the dtype itself; ``torch.cumsum`` adds floats in double. The
    terms are copied, because a tensor that has lent numpy its memory can never be resized again.
    """
    return torch.from_numpy(np.add.accumulate(terms.detach().clone().numpy(), axis))


def _folded(lanes: Sequence[torch.Tensor]) -> torch.Tensor:
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
    return lanes[0]


def _sum(
    self: torch.Tensor, *, lanes: int, dim: Any = None, dtype: Any = None, **_: Any
) -> torch.Tensor | None:
    axes = axes_of(self, dim)
    if axes is None:
        return None
    terms = widened(self.to(dtype or self.dtype))
    # All terms of a sum in a row, one after the other; the axes keep size 1.
    row = terms.movedim(list(axes), list(range(-len(axes), 0))).flatten(-len(axes))
    row = functional.pad(row, (0, -row.shape[-1] % lanes))
    row = _running(row.reshape(*row.shape[:-1], -1, lanes), -2)[..., -1, :]
    total = _folded(row.unbind(-1))
    return total.reshape([1 if axis in axes else size for axis, size in enumerate(terms.shape)])


def _mean(self: torch.Tensor, **given: Any) -> torch.Tensor | None:
    total = _sum(self, **given)
    return None if total is None else total / (self.numel() / total.numel())


def _cumsum(self: torch.Tensor, dim: int, dtype: Any = None, **_: Any) -> torch.Tensor | None:
    axes = axes_of(self, dim)
    return None if axes is None else _running(widened(self.to(dtype or self.dtype)), axes[0])


def _var(
    self: torch.Tensor,
    *,
    lanes: int,
    dim: Any = None,
    correction: Any = None,
    unbiased: bool = True,
    **_: Any,
) -> torch.Tensor | None:
    terms = widened(self)
    mean = _mean(terms, dim=dim, lanes=lanes)
    squares = _sum((terms - mean) ** 2, dim=dim, lanes=lanes) if mean is not None else None
    if squares is None:
        return None
    count = self.numel() / squares.numel()
    return squares / (count - (unbiased if correction is None else float(correction)))


def _var_mean(self: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    mean = _mean(self, dim=given["dim"], lanes=given["lanes"])
    variance = _var(self, **given)
    return (variance, mean) if mean is not None and variance is not None else None


def _product(self: torch.Tensor, mat2: torch.Tensor, *, lanes: int, **_: Any) -> Any:
    """Multiply matrices, or batches of them, one inner index after the other."""
    inner = self.shape[-1]
    left, right = widened(self), widened(mat2)
    totals = [torch.zeros_like(left[..., :1] * right[..., :1, :]) for _ in range(lanes)]
    size = inner * totals[0].numel()
    if not size or size > MOST_PRODUCTS:
        return None
    for index in range(inner):
        totals[index % lanes] += left[..., index : index + 1] * right[..., index : index + 1, :]
    return _folded(totals).to(self.dtype)


# How to compute the operators of which torch makes the others, with single additions. By the names
# that the rows of the operators have for them.
_FORMULAS: Mapping[str, Callable[..., Any]] = {
    "sum": _sum,
    "mean": _mean,
    "running": _cumsum,
    "variance": _var,
    "variance_and_mean": _var_mean,
    "product": _product,
}


def rounded_to(dtype: torch.dtype) -> AbstractContextManager[None]:
    """Round what the operators of the block compute with floats to a narrower type."""

    def operator(operation: Operation) -> Any:
        found = operation.run()
        for tensor in floats_of(found) if rounds(operation) else ():
            tensor.copy_(tensor.to(dtype))
        return found

    return operations(operator)


# -- scattered results -----------------------------------------------------------------------------

# Results are moved by a random multiple of the epsilon, up to this: a kernel that is right to
# the last place is off by a half, and the runs must reach beyond what others are off by.
REACH = 1.5
# Kernels of half precision compute in float32 and round once, so to a neighboring number at most.
REACH_HALF = 0.75
# Numbers this many epsilons apart may be sorted in any order: a few roundings apart, chosen.
TIED = 8.0
# Those that may take equal elements in any order, and those that only ask which are larger.
ORDERING, BY_RANK = of_kind("unordered"), of_kind("by_rank")
FUSED = of_kind("fused")


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
    return operations(_Scatter(seed, ties if ties is not None else Ties(), casts).operator)


def uncast() -> AbstractContextManager[None]:
    """Leave all floats in float64 that are cast to another one within the block."""

    def operator(operation: Operation) -> Any:
        if operation.name and casts_float(operation):
            return operation.func(*operation.args, **{**operation.kwargs, "dtype": torch.float64})
        return operation.run()

    return operations(operator)


class _Scatter:
    """Move rounded results by a random stream of its own."""

    def __init__(self, seed: int, ties: Ties, casts: bool) -> None:
        self._ties, self._casts = ties, casts
        self._generator = torch.Generator().manual_seed(seed)
        self._alike = seed % 2 == 0

    def operator(self, operation: Operation) -> Any:
        if not operation.name:
            return operation.run()  # torch.cond and other higher-order operators
        if operation.name in ORDERING and not operation.argument("stable"):
            return self._ordered(operation)
        if self._casts and narrows(operation):
            result = operation.run()
            return torch.where(
                result.double() == operation.operand.double(), result, self._move(result)
            )
        if not rounds(operation):
            return operation.run()
        if operation.name in FUSED:
            return filled(operation, in_parts(operation, self.operator))
        if torch.Tag.pointwise in operation.func.tags:
            exact = exact_elements(operation)
            return self._scattered(operation.run(), exact, plain=None)
        return self._sum(operation)

    def _sum(self, operation: Operation) -> Any:
        """Run an operator that may add up: its terms are moved too."""
        written = written_to(operation.func)
        # An operator that sums and writes cannot be run twice to learn its exact result.
        exact = None if written or not _adds_exactly(operation) else exact_elements(operation)
        plain = None
        if exact is not None and any(bool(mask.any()) for mask in exact):
            plain = floats_of(operation.run())
        # In half precision only the sum is rounded.
        result = with_float_operands(
            operation, lambda term: self._move(term) if widened(term) is term else term, but=written
        ).run()
        if not floats_of(result) and not written:
            # An index, a count or a Python number: the operator picks or compares.
            return operation.run()
        return self._scattered(result, exact, plain)

    def _scattered(
        self, result: Any, exact: list[torch.Tensor] | None, plain: list[torch.Tensor] | None
    ) -> Any:
        """Move what was rounded; the ``exact`` elements stay as they are, or are the ``plain``."""
        outputs = floats_of(result)
        for index, tensor in enumerate(outputs):
            moved = self._move(tensor)
            if exact is not None and len(exact) == len(outputs):
                moved = torch.where(exact[index], plain[index] if plain else tensor, moved)
            tensor.copy_(moved)
        return result

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

    def _ordered(self, operation: Operation) -> Any:
        """Run an operator on its input in another order; return indices into the given order."""
        func, (tensor, *rest) = operation.func, operation.args
        dim = operation.argument("dim")
        if dim is None or not tensor.dim():
            return operation.run()
        values = tensor.sort(dim).values.double()
        near = TIED * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
        largest = values.abs().amax(dim, keepdim=True)
        self._ties.met |= bool((values.diff(dim=dim) <= near * largest).any())
        # Kernels order all rows by one rule, or each row in its own way.
        shape = [1] * tensor.dim() if self._alike else list(tensor.shape)
        shape[dim] = tensor.shape[dim]
        keys = torch.rand(shape, generator=self._generator).to(tensor.device)
        order = keys.argsort(dim).expand_as(tensor)
        given = tensor.gather(dim, order)
        by_rank = operation.name in BY_RANK
        if by_rank:
            # The kernel itself would take any of equal numbers, of distinct ones it takes those
            # that come last in this order.
            given = torch.argsort(given, dim=dim, stable=True).argsort(dim)
        values, places = func(given, *rest, **operation.kwargs)
        dropped = places.dim() < tensor.dim()
        found = order.gather(dim, places.unsqueeze(dim) if dropped else places)
        if by_rank:
            values = tensor.gather(dim, found)
            values = values.squeeze(dim) if dropped else values
        return values, found.squeeze(dim) if dropped else found


def _adds_exactly(operation: Operation) -> bool:
    """Return True if the operator is exact whenever all its partial sums are.

    True for sums of products, and for a mean if its number of terms is a power of two.
    """
    if operation.row.sum != "mean":
        return operation.name in _SUMS
    tensor = operation.operand
    count = math.prod(
        tensor.shape[axis] for axis in axes_of(tensor, operation.argument("dim")) or ()
    )
    return bool(count > 0 and count & (count - 1) == 0)
