"""The grad mode of a call: with gradients, under ``torch.no_grad()``, or in inference mode.

Eager is called and exported in the mode of the user's own call, artifacts run without gradients, as
they are served. Separate from ``torch_state``, which sets what is the same for a whole item.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class GradMode(enum.Enum):
    """A grad mode; its value says in words how a call is made in it."""

    GRAD = "with gradients"
    NO_GRAD = "under torch.no_grad()"
    INFERENCE = "under torch.inference_mode()"

    @classmethod
    def current(cls) -> GradMode:
        """Return the mode that this thread is in."""
        if torch.is_inference_mode_enabled():
            return cls.INFERENCE
        return cls.GRAD if torch.is_grad_enabled() else cls.NO_GRAD

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the block in this mode."""
        with (
            torch.inference_mode(self is GradMode.INFERENCE),
            torch.set_grad_enabled(self is GradMode.GRAD),
        ):
            yield


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leave inference mode for the block: tensors made in it do not count what is written to them.

    Any other mode stays.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False):
        yield
