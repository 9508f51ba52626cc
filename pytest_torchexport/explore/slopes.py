"""Give step functions a slope while a call is differentiated.

``round``, ``sign``, a comparison, a count or ``int(x)`` have no gradient, although a condition on
them depends on the input. In a probe alone, the results of such functions keep their values and get
the gradient of the smooth function before the step (a straight-through estimator, Bengio et al.
2013). What ``detach`` and ``no_grad`` cut off keeps its gradient, too. A bool or an integer cannot
have one: it carries a float ``shadow`` that has it, and what is computed from it has a shadow too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.operator_table import OPERATORS, functions_of, row_of
from pytest_torchexport.results.failures import ends_the_test
from pytest_torchexport.torch_private.circumstances import ends_gradients
from pytest_torchexport.torch_private.memory import times_written

# The last choices and lookups of a call that are remembered.
REMEMBERED = 8
# Two operands nearer than this part of their scale count as this far apart.
NEAREST = 1e-3
_SHADOW = "_torchexport_shadow"

Source = Callable[..., Tensor]


@dataclass(frozen=True)
class Choice:
    """The elements along one dimension of which the largest or the smallest was chosen.

    ``chosen`` are the places that were, if the function returned them; in their order if there are
    several.
    """

    scores: Tensor
    dim: int
    largest: bool
    chosen: Tensor | None = None


@dataclass(frozen=True)
class Lookup:
    """Rows that were looked up in a table: by these indices, and as a leaf to differentiate."""

    indices: Tensor
    table: Tensor
    rows: Tensor


class _Sloped(torch.autograd.Function):
    """A value with the gradient of a source of the same shape."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor) -> Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004
        return None, gradients[0]


class _Truth(torch.autograd.Function):
    """1 for True and 0 for False, with the gradient of a source, as far as a truth can change.

    What is True cannot rise, and what is False cannot fall.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor, sides: _Sides) -> Tensor:
        ctx.sides = sides
        ctx.save_for_backward(value.clone())  # forward may write to its own
        return value.to(source.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (value,) = ctx.saved_tensors
        (gradient,) = gradients
        if ctx.sides.one:
            gradient = torch.where(value, gradient.clamp(min=0), gradient.clamp(max=0))
        return None, gradient, None


@dataclass
class _Sides:
    """The sides from which truths have gradients; ``one``: only the descending one."""

    one: bool = True


def sloped(value: Tensor, source: Tensor) -> Tensor:
    """Return a float tensor with the numbers of ``value`` and the gradient of ``source``."""
    numbers = value.detach().to(source.dtype)
    found: Tensor = _Sloped.apply(numbers, source)  # type: ignore[no-untyped-call]
    return found


def shadow_of(value: Any) -> Tensor | None:
    """Return the float tensor that stands for a bool or an integer one.

    None if that was written to since then.
    """
    found = getattr(value, _SHADOW, None) if isinstance(value, Tensor) else None
    return found[0] if found is not None and found[1] == times_written(value) else None


def _smooth(value: Any) -> Any:
    shadow = shadow_of(value)
    return value if shadow is None else shadow


# -- what has the gradient instead -----------------------------------------------------------------


def _identity(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _sign(x: Tensor) -> Tensor:
    return 2 * x / _apart(x)


def _quotient(x: Any, other: Any, **_: Any) -> Tensor:
    quotient: Tensor = x / other
    return quotient


def _greater(left: Any, right: Any) -> Tensor:
    difference: Tensor = left - right
    return difference / _apart(difference)


def _less(left: Any, right: Any) -> Tensor:
    return -_greater(left, right)


def _equal(left: Any, right: Any) -> Tensor:
    return -_greater(left, right).abs()


def _unequal(left: Any, right: Any) -> Tensor:
    return -_equal(left, right)


def _apart(difference: Tensor) -> Tensor:
    """Return distances that are not zero; they have no gradient."""
    far = difference.detach().abs()
    # Reads no number: what forward reads is remembered.
    return far.maximum(far.max() * NEAREST + 1e-12) if far.numel() else far


# By the names that the rows of the operators have for them.
_STEPS: dict[str, Source] = {
    "operand": _identity,
    "cast": _identity,
    "sign": _sign,
    "quotient": _quotient,
    "greater": _greater,
    "less": _less,
    "equal": _equal,
    "unequal": _unequal,
}
# What an embedding bag does with the rows of the table, by its mode.
_POOLED: dict[str, Source] = {"mean": lambda rows: rows.mean(1), "sum": lambda rows: rows.sum(1)}
# Of shadows: they are 1 for True and 0 for False.
_LOGIC: dict[str, Source] = {
    "and": lambda a, b: a * b,
    "or": lambda a, b: a + b - a * b,
    "xor": lambda a, b: a + b - 2 * a * b,
    "not": lambda a: 1 - a,
    "smallest": torch.amin,
    "largest": torch.amax,
    "mixture": lambda mask, a, b: mask * a + (1 - mask) * b,
}
# Their results have no gradient; NumPy takes no other tensors.
_DATA: Any = Tensor.data  # a descriptor, although it is typed as a tensor
_CUT = frozenset({torch.detach, Tensor.detach, _DATA.__get__})
_TO_NUMPY = (Tensor.numpy, Tensor.__array__)
# They give Python or another library all numbers of a tensor, by no operator.
_HANDED_OUT = (*_TO_NUMPY, Tensor.tolist, Tensor.__dlpack__)
# -- the mode --------------------------------------------------------------------------------------


class SlopeMode(TorchFunctionMode):
    """Gives slopes to the functions of a block, and remembers its last choices and lookups."""

    def __init__(self) -> None:
        super().__init__()
        self.lookups: list[Lookup] = []
        self.choices: list[Choice] = []
        # The tensors all of whose numbers have left torch.
        self.handed_out: list[Tensor] = []
        self._paused = False
        self._sides = _Sides()
        self._chosen = functions_of(name for name, row in OPERATORS.items() if row.parameters)
        self._slopes = {
            function: row_of(name).slope
            for function, name in functions_of(OPERATORS).items()
            if row_of(name).slope in {*_STEPS, *_LOGIC}
        }

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Give no slopes in the block."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @contextmanager
    def both_sides(self) -> Iterator[None]:
        """Let truths change to either side in the gradients of the block."""
        self._sides.one = False
        try:
            yield
        finally:
            self._sides.one = True

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._paused and ends_gradients(function, args):
            return None
        if function in _HANDED_OUT and not self._paused:
            self.handed_out.append(args[0].detach())
        if function in _TO_NUMPY:
            args = (args[0].detach(), *args[1:])
        result = function(*args, **kwargs)
        if self._paused or not isinstance(result, (Tensor, tuple)) or _writes(function, kwargs):
            return result
        try:
            return self._with_slope(function, args, kwargs, result)
        except TimeLimitExceeded:
            raise
        except Exception as error:  # operands of another kind: the result is right without a slope
            if ends_the_test(error):
                raise
            return result

    def _with_slope(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        if function in _CUT:
            return _same(args[0])
        smooth = tuple(_smooth(arg) for arg in args)
        name = self._chosen.get(function)
        if name is not None:
            chosen = _choice(name, result, *smooth, **kwargs)
            self.choices = [*self.choices, *chosen][-REMEMBERED:]
        if not isinstance(result, Tensor):
            return result
        if function in (F.embedding, F.embedding_bag) and not result.requires_grad:
            return self._looked_up(function, args, kwargs, result)
        source = self._source(function, smooth, kwargs, result)
        if source is None and any(
            one is not other for one, other in zip(args, smooth, strict=True)
        ):
            source = function(*smooth, **kwargs)
        if source is None or not source.requires_grad or source.shape != result.shape:
            return result
        if result.is_floating_point():
            return sloped(result, source.to(result.dtype))
        truth = result.dtype == torch.bool
        shadow = (
            _Truth.apply(result, source, self._sides)  # type: ignore[no-untyped-call]
            if truth
            else sloped(result.to(source.dtype), source)
        )
        setattr(result, _SHADOW, (shadow, times_written(result)))
        return result

    def _looked_up(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> Tensor:
        """Return the result with the gradient of the rows that it was computed from."""
        bag = function is F.embedding_bag
        pooled = _POOLED.get(kwargs.get("mode", "mean")) if bag else _identity
        chosen = any(kwargs.get(name) is not None for name in ("padding_idx", "per_sample_weights"))
        if pooled is None or (bag and (chosen or args[0].dim() != 2)):
            return result
        rows = F.embedding(*args[:2]).detach().requires_grad_()
        self.lookups = [*self.lookups, Lookup(args[0], args[1], rows)][-REMEMBERED:]
        return sloped(result, pooled(rows))

    def _source(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> Tensor | None:
        """Return what has the gradient of the result, if the function is known."""
        slope = self._slopes.get(function, "")
        if slope in _STEPS:
            moved = result.is_floating_point() and result.dtype == args[0].dtype
            return None if slope == "cast" and moved else _STEPS[slope](*args, **kwargs)
        return _LOGIC[slope](*(_float(arg) for arg in args), **kwargs) if slope else None


def _same(value: Tensor) -> Tensor:
    """Return a view of all of a tensor, with its gradient."""
    found = value.view_as(value)
    shadow = shadow_of(value)
    if shadow is not None:
        setattr(found, _SHADOW, (shadow, times_written(found)))
    return found


def _writes(function: Any, kwargs: dict[str, Any]) -> bool:
    """Return True if a function writes to an operand."""
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or name.startswith("__i") or "out" in kwargs


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bool else value


def _choice(name: str, result: Any, scores: Tensor, *args: Any, **kwargs: Any) -> Iterator[Choice]:
    """Yield what a function chose from, if it chose among elements that have a gradient."""
    row = row_of(name)
    given = dict(zip(row.parameters, args, strict=False)) | kwargs
    dim: Any = given.get("dim", None if "reduction" in row.kinds else -1)
    if isinstance(dim, Tensor) or "other" in given or not scores.requires_grad:
        return
    whole = dim is None
    # The single result of ``max`` is a number, of integers too.
    places = result if isinstance(result, Tensor) and not row.second else None
    yield Choice(
        scores.reshape(-1) if whole else scores,
        0 if whole else dim,
        bool(given.get("largest", given.get("descending", row.largest))),
        result[1] if isinstance(result, tuple) else places,
    )
