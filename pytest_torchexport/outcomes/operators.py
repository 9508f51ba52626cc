"""Run a block so that each ATen operator it reaches goes through a function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytest_torchexport import torch_private
from pytest_torchexport.outcomes.torch_state import compiling_nothing
from pytest_torchexport.torch_private import Handle


@contextmanager
def dispatched(handle: Handle) -> Iterator[None]:
    """Replace each operator of the block by ``handle(operator, args, kwargs)``.

    If torch has no dispatch mode, the block runs as it is. Run the function once without this
    before: if its first call loads torch._dynamo (``torch.cond`` does), the operators of that call
    are not seen.
    """
    mode = torch_private.dispatch_mode(handle)
    if mode is None:
        yield
        return
    with compiling_nothing(), mode:
        yield


def available() -> bool:
    """Return True if this torch has a dispatch mode."""

    def run(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return operator(*args, **kwargs)

    return torch_private.dispatch_mode(run) is not None


def name_of(func: Any) -> str:
    """Return an operator's plain name: ``add`` for ``aten::add_.Tensor``."""
    return str(torch_private.schema_of(func).name).rpartition("::")[2].removesuffix("_")


def argument_of(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], name: str) -> Any:
    """Return an operator's argument, given by place or by name, or its default."""
    for index, item in enumerate(torch_private.schema_of(func).arguments):
        if item.name == name:
            if index < len(args) and not item.kwarg_only:
                return args[index]
            return kwargs.get(name, item.default_value)
    return None
