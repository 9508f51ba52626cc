"""Differentiate what forward computed: any operator in it may have no backward, or a broken one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pytest_torchexport.outcomes.limits import TimeLimitExceeded


def gradients(
    outputs: Sequence[Any], sources: Sequence[Tensor], pulls: Sequence[Tensor] | None = None
) -> list[Tensor | None]:
    """Return the gradients of tensors, or of edges with ``pulls``, with respect to each source.

    None for one on which nothing depends; for all of them if autograd raises, as it does where
    forward has written to what the gradient needs.
    """
    if not outputs or not sources:
        return [None] * len(sources)
    try:
        found = torch.autograd.grad(outputs, sources, pulls, retain_graph=True, allow_unused=True)
    except TimeLimitExceeded:
        raise
    except Exception:  # whatever the backward of a user's function raises
        return [None] * len(sources)
    return list(cast(Sequence["Tensor | None"], found))
