"""Functions run under the mode that remembers what conditions were computed from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pytest_torchexport.explore.provenance import Provenance, ProvenanceMode, provenance_of

X = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
Y = torch.tensor([[0.0, -2.0, 1.0], [3.0, 1.0, -4.0]])


def watched(function: Callable[..., Any], *arguments: Any) -> tuple[Any, ProvenanceMode]:
    """Return a function's result under the mode, and the mode."""
    mode = ProvenanceMode(lambda _: None)
    with mode:
        return function(*arguments), mode


def behind(function: Callable[..., Any], *arguments: Any) -> Provenance | None:
    """Return the provenance of the tensor that a function returns, or of the number it read."""
    found, mode = watched(function, *arguments)
    return provenance_of(found) if isinstance(found, torch.Tensor) else mode.of_number(found, True)
