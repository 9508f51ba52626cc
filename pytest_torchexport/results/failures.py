"""The failures a check can raise: one class per kind, so that an xfail masks exactly one thing.

This file imports nothing heavy: users name these classes in ``xfail`` at the top of their tests.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pytest_torchexport.results.diagnosis import Diagnosis
    from pytest_torchexport.results.source_line import SourceLine
    from pytest_torchexport.results.verdict import Difference, SkipKind, Verdict

__all__ = [
    "ArtifactCrashed",
    "ArtifactHung",
    "ArtifactRaised",
    "ArtifactSlower",
    "ArtifactTooLarge",
    "BranchFrozen",
    "DimsNarrowed",
    "ExportRefused",
    "Failure",
    "Ineffective",
    "LoadFailed",
    "NotRepeatable",
    "OutputsDiffer",
    "PipelineFailed",
    "RelationBroken",
    "RoundTripDiffers",
    "SpecError",
    "StateDiffers",
    "StructureDiffers",
    "TrainingMode",
]


class Failure(AssertionError):
    """The base of all failures of checks. Raised itself only for an error of the plugin.

    ``details``: further lines of its text. ``where``: the line of the user's code. ``differences``:
    the data behind it. ``verdicts``: the verdicts that an item's final failure is raised for.
    ``output``: the end of what the artifact printed in a process of its own. ``imports``: the
    modules that a process has to import before it can load or run the file. ``diagnosis``: what is
    known of its cause where it is raised. ``sides``: the names of the two sides of its differences
    if they are not eager and the target.
    """

    title: ClassVar[str] = "pytest-torchexport itself failed"

    def __init__(  # noqa: PLR0913 - each is a fact of the report, by its name
        self,
        text: str = "",
        *,
        details: tuple[str, ...] = (),
        where: SourceLine | None = None,
        differences: tuple[Difference, ...] = (),
        verdicts: tuple[Verdict, ...] = (),
        output: str = "",
        imports: tuple[str, ...] = (),
        diagnosis: Diagnosis | None = None,
        sides: tuple[str, ...] = (),
    ) -> None:
        super().__init__(text)
        self.details = details
        self.where = where
        self.differences = differences
        self.verdicts = verdicts
        self.output = output
        self.imports = imports
        self.diagnosis = diagnosis
        self.sides = sides

    def __init_subclass__(cls, *, title: str) -> None:
        cls.title = title


def facts_of(failure: Failure) -> dict[str, Any]:
    """Return the fields of a verdict that a failure has failed."""
    names = ("details", "where", "differences", "output", "imports", "sides")
    own = {name: getattr(failure, name) for name in names}
    return {"status": "failed", "failure": type(failure).__name__, "reason": str(failure), **own}


class SpecError(Failure, title="the input spec does not fit the module"):
    """The input spec is wrong, or eager raises inside a range that the user declared."""


class ExportRefused(Failure, title="the exporter refused the module"):
    """The exporter refused the module, or made another file than ``export_options`` ask for.

    Or a function of ``after_export`` left no file that can be judged.
    """


class ArtifactRaised(Failure, title="the artifact raises where eager returns"):
    """The artifact raises on a call on which eager returns."""


class ArtifactCrashed(Failure, title="the artifact killed its interpreter"):
    """The artifact killed its interpreter."""


class ArtifactHung(Failure, title="the artifact did not return within the time limit"):
    """The artifact did not return within the time limit."""


class StructureDiffers(Failure, title="the structure of the output differs from eager"):
    """Containers, counts or kinds of outputs differ."""


class OutputsDiffer(Failure, title="outputs differ from eager"):
    """Shape, dtype, device or values of an output differ."""


class StateDiffers(Failure, title="state after the call differs from eager"):
    """Buffers, parameters or inputs differ after the call."""


class BranchFrozen(Failure, title="a branch is frozen"):
    """The artifact always takes the branch that its example took."""


class DimsNarrowed(Failure, title="the artifact accepts fewer sizes than were declared"):
    """The artifact accepts fewer sizes than were declared."""


class LoadFailed(Failure, title="the artifact does not load in a clean process"):
    """The artifact cannot be saved, or cannot be loaded without the model's source."""


class RoundTripDiffers(Failure, title="the loaded artifact differs from the one in memory"):
    """The loaded artifact differs from the one that never left memory."""


class RelationBroken(Failure, title="a relation does not hold"):
    """A relation that ``relations`` requires does not hold of the model itself, or the artifact."""


class ArtifactTooLarge(Failure, title="the artifact is too large"):
    """The artifact's files take more bytes than the setting ``max_size_ratio`` allows."""


class ArtifactSlower(Failure, title="the artifact is slower than eager"):
    """A call of the artifact takes longer than the setting ``max_slowdown`` allows.

    Beyond the noise of the machine: interleaved pairs of calls say so.
    """


class PipelineFailed(Failure, title="the code around the module fails on the artifact"):
    """The test's body, or a function given to ``same``, raises with the artifact only."""


class NotRepeatable(Failure, title="eager does not agree with itself"):
    """Eager does not agree with itself on the same call and seed.

    Or a test's body that is run again (``stand_in``) fails or calls other sizes without an artifact
    too, or a function given to ``same`` does not return twice the same for the module.
    """


class TrainingMode(Failure, title="the module is not in the declared mode"):
    """In eval mode a part is left in training mode, or dropout is active (a warning by default)."""


class Ineffective(Failure, title="nothing was really checked"):
    """Nothing was really checked: a marked test calls no module, or hardly any call is legal.

    Under ``--torchexport-strict`` also if the target or device is unavailable, if the calls cannot
    be compared, if a limit that is set could not be applied, or if a pass would mean little.
    """


class CannotJudge(Exception):
    """The item cannot be judged here: a skip, not a failure. Its text gives reason and remedy."""

    def __init__(self, text: str, kind: SkipKind = "not judged") -> None:
        super().__init__(text)
        self.kind = kind


def by_name(name: str) -> type[Failure]:
    """Return the class of that name. Raises KeyError for an unknown name."""
    classes: list[type[Failure]] = [Failure, *Failure.__subclasses__()]
    return {cls.__name__: cls for cls in classes}[name]


def title_of(name: str | None) -> str:
    """Return the title of the class of that name; of one that a newer version has, its name."""
    try:
        return by_name(name or Failure.__name__).title
    except KeyError:
        return str(name)


def ends_the_test(error: BaseException) -> bool:
    """Return True for an exception that ends the test or the run, whoever raises it.

    That is Ctrl-C, and the exceptions of pytest.skip, fail, xfail and exit and of unittest's skips.
    """
    ends: list[type[BaseException]] = [KeyboardInterrupt]
    pytest, unittest = sys.modules.get("pytest"), sys.modules.get("unittest")
    if pytest is not None:  # that of xfail is a subclass of that of fail
        ends += [end.Exception for end in (pytest.skip, pytest.fail, pytest.exit)]
    if unittest is not None:
        ends.append(unittest.SkipTest)
    return isinstance(error, tuple(ends))
