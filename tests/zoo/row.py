"""The type of a row, and the helpers that rows are written with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from versions import INSTALLED, Change, truth_on

TARGETS = ("trace", "script", "export", "onnx", "onnx_legacy")

DIFFERS = "OutputsDiffer"
RAISES = "ArtifactRaised"
REFUSED = "ExportRefused"
STRUCTURE = "StructureDiffers"
STATE = "StateDiffers"
UNLOADABLE = "LoadFailed"
# The artifact always takes the example's side of a branch, or its number of passes of a loop.
FROZEN = BRANCH = "BranchFrozen"
# The artifact takes fewer sizes than eager: a guard refuses them, or an axis became static.
NARROWED = "DimsNarrowed"
NOT_REPEATABLE = "NotRepeatable"
INEFFECTIVE = "Ineffective"
SPEC = "SpecError"
# Not a failure: the target cannot take this kind of subject, or draws other random numbers.
SKIPPED = "skipped"

Example = tuple[tuple[Any, ...], dict[str, Any]]
BLAMED = TARGETS
# Whose files keep no state.
STATELESS = ("onnx", "onnx_legacy")
STATES = ("changed by the export", "replaced buffer", "dropped mutation")
EXPLAINED = (DIFFERS, RAISES, STRUCTURE, STATE, FROZEN)


@dataclass(frozen=True, kw_only=True)
class Blame:
    """What a failure's report has to name: the owner, the kind of the cause, a part of the line.

    ``known`` is False if reports do not find it yet: they may name nothing, and nothing else.
    """

    owner: str
    cause: str
    line: str = ""
    known: bool = True


def asks(line: str) -> Blame:
    """Return the blame of a line that asks whether it is exported."""
    return Blame(owner="model", cause="export-only branch", line=line)


def decided(line: str, *, known: bool = True) -> Blame:
    """Return the blame of a condition that is decided at the export."""
    return Blame(owner="model", cause="frozen branch", line=line, known=known)


def frozen_size(line: str = "") -> Blame:
    """Return the blame of a line that makes a number of a size."""
    return Blame(owner="model", cause="frozen size", line=line)


def baked(line: str) -> Blame:
    """Return the blame of a line that makes a number of a tensor, or draws or takes one."""
    return Blame(owner="model", cause="baked value", line=line)


def dropped(line: str) -> Blame:
    """Return the blame of a line that changes what the artifact does not have."""
    return Blame(owner="model", cause="dropped mutation", line=line)


def replaced(line: str) -> Blame:
    """Return the blame of a line that puts a new tensor in a buffer's place."""
    return Blame(owner="capture", cause="replaced buffer", line=line)


def moved_on(line: str) -> Blame:
    """Return the blame of an export that ran a line which changes the module."""
    return Blame(owner="capture", cause="changed by the export", line=line)


def undecided(line: str) -> Blame:
    """Return the blame of a line that needs a value, which torch.export refuses."""
    return Blame(owner="model", cause="data-dependent value", line=line)


def decides_by_size(line: str) -> Blame:
    """Return the blame of a branch on a size, which torch.export refuses."""
    return Blame(owner="model", cause="guard", line=line)


def no_construct(line: str = "") -> Blame:
    """Return the blame of something that the target's language has not."""
    return Blame(owner="model", cause="unsupported construct", line=line)


def no_type(line: str = "") -> Blame:
    """Return the blame of an object that the target has no type for."""
    return Blame(owner="model", cause="unsupported type", line=line)


def unannotated(line: str) -> Blame:
    """Return the blame of something without annotation, which TorchScript takes for another type."""
    return Blame(owner="model", cause="missing annotation", line=line)


def untranslated(line: str = "") -> Blame:
    """Return the blame of an operator that an ONNX exporter does not translate."""
    return Blame(owner="translation", cause="unsupported operator", line=line)


GUARD = Blame(owner="capture", cause="guard")
# The exporter or ONNX Runtime computes something else, of which nothing more is known.
MISTRANSLATED = Blame(owner="translation", cause="")
EVAL_MODE = Blame(owner="translation", cause="mode-dependent operator")
# torch's own words say too little.
UNEXPLAINED = Blame(owner="capture", cause="unsupported construct", known=False)
FAST_PATH = Blame(owner="", cause="attention fast path")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, the call it is exported with, and the verdict that is true of each target."""

    name: str
    # Returns the module or function, with the same weights at every call.
    build: Callable[[], Any]
    # Returns (args, kwargs) of the call that the model is exported with.
    example: Callable[[], Example]
    # The marker's arguments: shapes, dims, values, ...
    options: Mapping[str, Any] = field(default_factory=dict)
    # The mode in which the test calls check_export; by default, with gradients.
    under: Callable[[], AbstractContextManager[Any]] = torch.enable_grad
    # For each target the failure's class, None for a pass, or SKIPPED.
    expect: Mapping[str, str | None] = field(default_factory=dict)
    # Words of the warning that a pass comes with; empty for none. On all targets, or by target.
    weak: str | Mapping[str, str] = ""
    # Words of the warning that eager returns something else in another mode or with more threads;
    # empty for none.
    otherwise: str | Mapping[str, str] = ""
    # Legal calls that together take every reachable outcome that the example does not take.
    witnesses: tuple[Callable[[], Example], ...] = ()
    # Source of the condition that a BranchFrozen names; empty if there is none.
    line: str = ""
    # What the report of another failure names, on all targets or by target.
    blame: Blame | Mapping[str, Blame] | None = None
    # The known defect of another package that the report names, by target; on the others, none.
    known: Mapping[str, str] = field(default_factory=dict)
    # The targets on which CI checks this row; `tox -e zoo` checks it on all.
    ci: tuple[str, ...] = ("trace",)
    # Whether CI also runs the round_trip check: save, load in a clean process, call there. It
    # always does so on rows about files, and if the truth is LoadFailed or RoundTripDiffers.
    round_trip: bool = False
    # The truth on other versions of torch or ONNX's packages, for the targets where it differs.
    elsewhere: Mapping[Change, Mapping[str, str | None]] = field(default_factory=dict)

    def truth(self, installed: Mapping[str, str] = INSTALLED) -> dict[str, str | None]:
        """Return the truth by target on these versions; by default, on those of this run."""
        return truth_on(installed, self.expect, self.elsewhere)

    def blamed(self, target: str) -> Blame | None:
        """Return what a report on a target has to name; None if the row does not say."""
        truth = self.truth()[target]
        blame = self.blame.get(target) if isinstance(self.blame, Mapping) else self.blame
        if truth == STATE and target in STATELESS and (blame is None or blame.cause in STATES):
            line = blame.line if blame is not None else self.line
            return Blame(owner="model", cause="dropped mutation", line=line)
        if blame is None and truth == NARROWED and not self.line:
            return GUARD
        if blame is None and truth in (FROZEN, NARROWED):
            loop = self.line.startswith(("for ", "while "))
            cause = "unrolled loop" if loop else "frozen branch"
            return Blame(owner="model", cause=cause, line=self.line)
        if blame is None and truth == REFUSED and self.line:
            return undecided(self.line)
        return blame

    def blames(self) -> tuple[str, ...]:
        """Return the targets on which a report names a cause."""
        truth = self.truth()
        return tuple(
            target
            for target in TARGETS
            if truth[target] in (REFUSED, NARROWED)
            or (target in BLAMED and truth[target] in EXPLAINED and target not in self.known)
        )

    def changed(self) -> tuple[str, ...]:
        """Return the targets whose truth depends on the version."""
        named = {target for differing in self.elsewhere.values() for target in differing}
        return tuple(target for target in TARGETS if target in named)


# The warning of a pass in which no call took some outcome. Script keeps the branch and needs none.
UNVERIFIED = dict.fromkeys(
    ("trace", "export", "onnx", "onnx_legacy"), "that outcome is not verified"
)


def truth(everywhere: str | None = None, **by_target: str | None) -> dict[str, str | None]:
    """Return the truth per target: ``everywhere``, but for the targets named."""
    return dict.fromkeys(TARGETS, everywhere) | by_target


def seeded(factory: Callable[[], Any], *, train: bool | None = False) -> Callable[[], Any]:
    """Return a factory that gives the same weights each time, in eval mode.

    ``train=None`` leaves the mode alone.
    """

    def build() -> Any:
        torch.manual_seed(0)
        made = factory()
        if isinstance(made, nn.Module) and train is not None:
            made.train(train)
        return made

    return build


def call(*args: Any, **kwargs: Any) -> Callable[[], Example]:
    """Return a factory of the example call: a new copy each time, as some models write to it."""
    return lambda: copy.deepcopy((args, kwargs))


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return integers from low to high; both ends occur."""
    flat = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0))
    flat.view(-1)[0], flat.view(-1)[-1] = low, high
    return flat.to(dtype)


def coins(*shape: int) -> Tensor:
    """Return booleans of both kinds; every row has a True."""
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
    otherwise: str | Mapping[str, str] = "",
    witnesses: tuple[Callable[[], Example], ...] = (),
    under: Callable[[], AbstractContextManager[Any]] = torch.enable_grad,
    line: str = "",
    blame: Blame | Mapping[str, Blame] | None = None,
    refused: Mapping[str, Blame] | None = None,
    known: Mapping[str, str] | None = None,
    ci: str = "trace",
    round_trip: bool = False,
    elsewhere: Mapping[Change, Mapping[str, str | None]] | None = None,
    **options: Any,
) -> Row:
    """Return a row; ``ci`` names the targets that CI checks, as ``"trace export"``.

    ``refused``: whom refusals are blamed on, by such names; other failures by ``blame``.
    """
    return Row(
        name=name,
        build=seeded(factory, train=train),
        example=example,
        options=options,
        under=under,
        expect=truth() if expect is None else expect,
        weak=weak,
        otherwise=otherwise,
        witnesses=witnesses,
        line=line,
        blame=_by_target(blame, refused or {}),
        known=known or {},
        ci=tuple(ci.split()),
        round_trip=round_trip,
        elsewhere=elsewhere or {},
    )


def _by_target(
    blame: Blame | Mapping[str, Blame] | None, refused: Mapping[str, Blame]
) -> Blame | Mapping[str, Blame] | None:
    """Return the blame of the failures with that of the refusals."""
    if not refused:
        return blame
    of_refusals = {target: each for names, each in refused.items() for target in names.split()}
    if isinstance(blame, Blame):
        return dict.fromkeys(TARGETS, blame) | of_refusals
    return {**(blame or {}), **of_refusals}


# Shapes that many rows declare.
B_T = {"x": "batch time"}
B_T_3 = {"x": "batch time 3"}
B_T_4 = {"x": "batch time 4"}
B_2_H_W = {"x": "batch 2 height width"}
