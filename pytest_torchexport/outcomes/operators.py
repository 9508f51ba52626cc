"""Every ATen operator of a block, through a function of ours.

The one place that knows torch's dispatch mode, which is private (documented by use:
https://docs.pytorch.org/docs/stable/notes/extending.html). Where a torch has none, nothing is seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Handle = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def dispatched(handle: Handle) -> Iterator[None]:
    """Within the block each operator is what ``handle(operator, args, kwargs)`` makes of it.

    Run the function clean once before: where its first call loads torch._dynamo (``torch.cond`` does), that
    call cannot be seen.
    """
    mode = _mode()
    if mode is None:
        yield
        return
    with compiling_nothing(), mode(handle):
        yield


def available() -> bool:
    """Whether this torch lets us see its operators."""
    return _mode() is not None


def _mode() -> Callable[[Handle], Any] | None:
    try:
        from torch.utils._python_dispatch import TorchDispatchMode
    except ImportError:
        return None

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        # torch.cond and its kin refuse a mode that does not say so.
        supports_higher_order_operators = True

        def __init__(self, handle: Handle) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self._handle = handle

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else the first operator imports torch._dynamo: more than a second

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            return self._handle(func, args, kwargs or {})

    return Mode


@contextmanager
def compiling_nothing() -> Iterator[None]:
    """What torch.compile compiled runs as it was written: code compiled while a mode sees its operators would
    be used again, and fail, where there is none. So it is with what loads torch._dynamo only now.
    """
    if "torch._dynamo" in sys.modules:
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    try:
        yield
    finally:
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is not None:
            dynamo.reset()
