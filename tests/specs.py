"""Short ways to write and read input specs of plain functions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pytest_torchexport.config.options import parse_options
from pytest_torchexport.inputs.domains import Domain
from pytest_torchexport.inputs.spec import Call, InputSpec, build_spec


def spec_of(
    function: Callable[..., Any],
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    more: Sequence[Call] = (),
    annotations: Mapping[str, Any] | None = None,
    **options: Any,
) -> InputSpec:
    """Return the spec of ``function(*args, **kwargs)``; ``more`` are further recorded calls."""
    example = Call(args, dict(kwargs or {}))
    return build_spec(
        inspect.signature(function),
        [example, *more],
        parse_options((), options),
        annotations or {},
    )


def shapes_of(spec: InputSpec) -> dict[str, str]:
    """Return the shapes of the tensors, as ``{"x": "batch 3"}``."""
    return {leaf.path: " ".join(axis.text for axis in leaf.shape) for leaf in spec.tensors}


def sizes_of(spec: InputSpec) -> dict[str, Any]:
    """Return the sizes of the dims, as ``{"batch": range(1, 5)}``."""
    return {name: dim.sizes for name, dim in spec.dims.items()}


def within(tensor: torch.Tensor, domain: Domain) -> bool:
    """Return True if the domain allows each number, rounded to the tensor's precision."""

    def rounded(number: Any) -> Any:
        return torch.tensor(number, dtype=torch.float64).to(tensor.dtype).double().item()

    if domain.choices:
        allowed = torch.tensor([rounded(choice) for choice in domain.choices], dtype=torch.float64)
        return bool(torch.isin(tensor.double(), allowed).all())
    wide = tensor.double() if tensor.is_floating_point() else tensor.to(torch.int64)
    low = -math.inf if domain.low is None else domain.low
    high = math.inf if domain.high is None else domain.high
    if tensor.is_floating_point():
        low, high = rounded(low), rounded(high)
    return bool(((wide >= low) & (wide <= high)).all()) and bool(torch.isfinite(wide).all())
