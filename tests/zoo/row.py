"""One row of the zoo, and what rows are written with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TARGETS = ("trace", "script", "export", "onnx", "onnx_legacy")

DIFFERS = "OutputsDiffer"
RAISES = "ArtifactRaised"
REFUSED = "ExportRefused"
STRUCTURE = "StructureDiffers"
STATE = "StateDiffers"
UNLOADABLE = "LoadFailed"
# The artifact took one side of a branch for good, or goes round a loop as often as its example did.
FROZEN = BRANCH = "BranchFrozen"
# The artifact takes fewer sizes than eager: by a guard of torch's own, or because an axis became static.
NARROWED = "DimsNarrowed"
NOT_REPEATABLE = "NotRepeatable"
INEFFECTIVE = "Ineffective"
SPEC = "SpecError"
# Not a failure: the target has no meaning for the subject, or its random stream is not eager's.
SKIPPED = "skipped"

Example = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, the call it is exported with, the marker's arguments, and the truth per target. ``weak``
    is what a pass is said to rest on where that is little, on all targets or by target.

    Of a model that branches: ``witnesses`` are legal calls that together take every reachable outcome of
    its conditions that the example does not take; ``line`` is the source of the condition that a frozen
    artifact is to be blamed on.
    """

    name: str
    build: Callable[[], Any]
    example: Callable[[], Example]
    options: Mapping[str, Any] = field(default_factory=dict)
    expect: Mapping[str, str | None] = field(default_factory=dict)
    weak: str | Mapping[str, str] = ""
    witnesses: tuple[Callable[[], Example], ...] = ()
    line: str = ""


# An outcome that no call took: only a trace, and what is made like one, have no branch there.
UNVERIFIED = dict.fromkeys(
    ("trace", "export", "onnx", "onnx_legacy"), "that outcome is not verified"
)


def truth(everywhere: str | None = None, **by_target: str | None) -> dict[str, str | None]:
    """What is expected of every target: ``everywhere``, and what is said of single ones."""
    return dict.fromkeys(TARGETS, everywhere) | by_target


def seeded(factory: Callable[[], Any], *, train: bool | None = False) -> Callable[[], Any]:
    """A factory with the same weights at every call, in eval mode; ``train=None`` leaves the mode alone."""

    def build() -> Any:
        torch.manual_seed(0)
        made = factory()
        if isinstance(made, nn.Module) and train is not None:
            made.train(train)
        return made

    return build


def call(*args: Any, **kwargs: Any) -> Callable[[], Example]:
    """The example call, copied each time: some models write to their inputs."""
    return lambda: copy.deepcopy((args, kwargs))


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Integers from low to high, both reached."""
    flat = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0))
    flat.view(-1)[0], flat.view(-1)[-1] = low, high
    return flat.to(dtype)


def coins(*shape: int) -> Tensor:
    """Booleans of both kinds; every row keeps a True."""
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    tensor[..., 0] = True
    tensor.view(-1)[-1] = False
    return tensor


def row(
    name: str,
    factory: Callable[[], Any],
    example: Callable[[], Example],
    expect: Mapping[str, str | None] | None = None,
    *,
    train: bool | None = False,
    weak: str | Mapping[str, str] = "",
    witnesses: tuple[Callable[[], Example], ...] = (),
    line: str = "",
    **options: Any,
) -> Row:
    return Row(
        name=name,
        build=seeded(factory, train=train),
        example=example,
        options=options,
        expect=truth() if expect is None else expect,
        weak=weak,
        witnesses=witnesses,
        line=line,
    )


# Shapes that many rows declare.
B_T = {"x": "batch time"}
B_T_3 = {"x": "batch time 3"}
B_T_4 = {"x": "batch time 4"}
B_2_H_W = {"x": "batch 2 height width"}
