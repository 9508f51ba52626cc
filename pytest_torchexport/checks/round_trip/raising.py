"""Round trip: a file that was saved, moved and loaded elsewhere is what never left memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Raised,
    Returned,
    TimedOut,
)
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    LoadFailed,
    RoundTripDiffers,
)
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.targets.formats.missing_dependencies import OWN_CLASS, remedies


def not_loaded(problem: Outcome, printed: str, blocked: Sequence[str]) -> None:
    """Raise what it amounts to that the file was not loaded."""
    if isinstance(problem, Crashed):
        raise ArtifactCrashed(f"while it was loaded: {problem.reason}", output=printed)
    if isinstance(problem, TimedOut):
        raise ArtifactHung(f"while it was loaded: {problem}", output=printed)
    if not isinstance(problem, Raised):
        raise LoadFailed(str(problem), output=printed)
    wanted = [name for name in blocked if _names(problem.message, name)]
    gone = (f"not importable there: {', '.join(wanted)}",) if wanted else ()
    details = (*remedies(problem.type, problem.message), *gone)
    raise LoadFailed(str(problem), details=details, where=problem.where, output=printed)


def _names(text: str, package: str) -> bool:
    """Whether a text speaks of a package, of what is in it or of its operators, and not of a path or a file of that
    name.
    """
    begins, ends = r"(?:(?<![\w./\\-])|(?<=ops\.))", r"(?![\w/\\-]|\.(?:pt2?|pth|onnx)\b)"
    return re.search(begins + re.escape(package) + ends, text) is not None


def sound(problems: Sequence[str]) -> None:
    """Raise where something is wrong with the file as such."""
    if problems:
        raise LoadFailed(problems[0], details=tuple(problems[1:]))


def same_files(first: Iterable[str], second: Iterable[str]) -> None:
    """Raise where saving twice does not give files of the same names. Formats may write a time of day."""
    once, again = list(first), list(second)
    if once != again:
        raise RoundTripDiffers(
            f"saved twice, it wrote {', '.join(once)} and then {', '.join(again)}"
        )


def same_names(
    here: Mapping[str, str], there: Mapping[str, str], done: str = "saving and loading it"
) -> None:
    """Raise where a program says something else of itself after something was ``done`` to it."""
    changed = [
        f"{key}: {here.get(key, 'nothing')} before, {there.get(key, 'nothing')} after"
        for key in (*here, *(key for key in there if key not in here))
        if here.get(key) != there.get(key)
    ]
    if changed:
        raise RoundTripDiffers(
            f"{done} changed what the program says of itself: {changed[0]}",
            details=tuple(changed[1:]),
        )


def callable_there(wanted: Outcome, found: Outcome, what: str) -> str | None:
    """Raise RoundTripDiffers where the loaded artifact raises and the one in memory (``wanted``) does not, LoadFailed
    where it cannot be called at all.

    Returns why it could not be judged, or None.
    """
    if isinstance(found, NotTransferable):
        if found.own_class:
            raise LoadFailed(
                f"cannot be called where the source does not exist: {found}", details=(OWN_CLASS,)
            )
        return f"round trip not checked: {found}"
    if isinstance(found, Raised) and isinstance(wanted, Returned):
        details = remedies(found.type, found.message)
        raise RoundTripDiffers(f"{what} raises {found}", details=details, where=found.where)
    return None  # parity tells what it did here


def same(differences: Sequence[Difference], what: str) -> None:
    """Raise RoundTripDiffers where the loaded artifact does something else than the one in memory."""
    if differences:
        raise RoundTripDiffers(what, differences=tuple(differences))
