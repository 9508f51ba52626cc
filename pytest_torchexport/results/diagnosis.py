"""The diagnosis of a failure as plain data: owner, place, causes and remedies, known defects.

Separate from the verdict, which is what happened: this is what was found out about it afterwards.
Everything that is not known is absent; nothing here is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pytest_torchexport.results.size_pattern import Sizes
from pytest_torchexport.results.source_line import SourceLine

Owner = Literal[
    "model",  # its own code is what the target cannot express, or asks whether it is exported
    "capture",  # torch.jit.trace, torch.jit.script or torch.export
    "translation",  # from the ExportedProgram to ONNX
    "exporter's optimizer",
    "runtime's optimizer",
    "runtime",
    "saving and loading",
    "device",
]

StageName = Literal[
    "eager",
    "eager as the exporter sees it",
    "artifact",  # what trace or script made
    "ExportedProgram",
    "ONNX without the exporter's optimizer, by onnx.reference",
    "ONNX without the exporter's optimizer, by ONNX Runtime without optimizations",
    "ONNX by ONNX Runtime without optimizations",
    "ONNX by ONNX Runtime",
    "loaded artifact",
]

CauseKind = Literal[
    "attention fast path",
    "masked rows",
    "frozen size",
    "frozen branch",
    "baked value",
    "one tensor twice",
    "unrolled loop",
    "dropped mutation",
    "replaced buffer",
    "changed by the export",
    "own seed",
    "number as a tensor",
    "dtype promotion",
    "guard",
    "unsupported operator",
    "export-only branch",
    "mode-dependent operator",
    "exporter's optimizer",
    "runtime's optimizer",
    "non-deterministic kernel",
    "missing import",
    "fatal operator",
    "endless loop",
    "other weights",
    "other code",
    # of a refusal
    "data-dependent value",
    "missing annotation",
    "unsupported construct",
    "unsupported type",
]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage between eager and the artifact, and whether it agrees with eager on the call.

    ``agrees`` is None if it could not be run; ``why`` says why not.
    """

    name: StageName
    agrees: bool | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The operator that introduces the difference.

    ``operator``: ``aten.view`` or ``Gemm``. ``module``: the path and class of the submodule that
    runs it, empty for the module itself. ``where``: the user's line. ``error``: the difference that
    it introduces, in units of eager's own error there; None if it was not measured.
    """

    operator: str
    module: str = ""
    where: SourceLine | None = None
    error: float | None = None

    def __str__(self) -> str:
        """Return ``aten.view in head.pool (AdaptiveAvgPool2d)``."""
        return f"{self.operator} in {self.module}" if self.module else self.operator


@dataclass(frozen=True, kw_only=True)
class Structural:
    """A difference between what eager ran on the call and what the artifact ran.

    ``constant``: an argument of an operator is another number, or is stored where eager computes
    it. ``stored``: the artifact uses another parameter, buffer or stored tensor than eager.
    ``missing``, ``extra``, ``other``: operators of one side that the other has not, or has others
    for. ``same``: none; an operator of both gives other numbers on equal operands.
    ``eager`` and ``artifact`` are the two sides as texts; ``argument`` is the operator's argument
    and ``numbers`` the two numbers, if it is one. ``where``: the user's line, ``read_at``: the line
    that reads eager's number from a tensor. ``draws``: the operator draws random numbers.
    """

    kind: Literal["constant", "stored", "missing", "extra", "other", "same"]
    operator: str
    eager: str = ""
    artifact: str = ""
    argument: str = ""
    numbers: tuple[float, ...] = ()
    where: SourceLine | None = None
    read_at: SourceLine | None = None
    draws: bool = False


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Something without which eager and the artifact agree, or that the artifact shows itself.

    ``text`` is one sentence. ``remedy`` is the change to make, with the line to write if there is
    one. ``details`` are further lines. ``where``: the user's line, None if there is none.
    """

    kind: CauseKind
    text: str
    remedy: str = ""
    details: tuple[str, ...] = ()
    where: SourceLine | None = None


@dataclass(frozen=True, kw_only=True)
class Known:
    """A defect that is known upstream.

    ``issue`` is its address, empty if no public one was found; ``fixed_in``: the first version
    without it, empty if there is none. ``remedy`` is what to write instead.
    """

    issue: str
    text: str
    fixed_in: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was found out about a failure.

    ``owner`` is None, and ``place`` and ``structural`` too, if it is not known. ``stages`` are
    those that were run, in their order. ``sizes``: each dim of which some sizes fail and others do
    not. ``not_examined``: what was left out because the time for a diagnosis was over, or because
    the examination itself raised.
    """

    owner: Owner | None = None
    stages: tuple[Stage, ...] = ()
    place: Place | None = None
    structural: Structural | None = None
    causes: tuple[Cause, ...] = ()
    known: tuple[Known, ...] = ()
    sizes: tuple[Sizes, ...] = ()
    not_examined: tuple[str, ...] = ()

    @property
    def where(self) -> SourceLine | None:
        """The user's line of the first cause that has one."""
        return next((cause.where for cause in self.causes if cause.where is not None), None)


NOTHING = Diagnosis()
