"""The mode of a call: with gradients, under ``torch.no_grad()``, or in inference mode; autocast.

Eager is called and exported in the grad mode of the user's own call, artifacts run without
gradients, as they are served. Nothing runs under the user's autocast. Separate from
``torch_state``, which sets what is the same for a whole item.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

WITHOUT_AUTOCAST = (
    "the test calls the module under torch.autocast, and eager, export and artifact run without: "
    "to check what it computes there, enter autocast in forward"
)


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


def under_autocast() -> tuple[str, ...]:
    """Return the types of devices for which this thread is under ``torch.autocast``."""
    return tuple(kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))


@contextmanager
def outside_autocast() -> Iterator[None]:
    """Leave ``torch.autocast`` for the block."""
    with ExitStack() as stack:
        for kind in under_autocast():
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
