"""Round trip: a file that was saved, moved and loaded elsewhere is what never left memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pytest_torchexport.failures import (
    ArtifactCrashed,
    ArtifactHung,
    LoadFailed,
    RoundTripDiffers,
)
from pytest_torchexport.observe import Died, Outcome, Raised, Returned
from pytest_torchexport.sandbox.wire import NotCarried, OwnClass
from pytest_torchexport.targets.missing import needs, remedy
from pytest_torchexport.verdict import Difference


def not_loaded(problem: Outcome, printed: str, blocked: Sequence[str]) -> None:
    """Raise what it amounts to that the file was not loaded."""
    if isinstance(problem, Died):
        raise ArtifactCrashed(f"while it was loaded: {problem.reason}", output=printed)
    if not isinstance(problem, Raised):
        raise ArtifactHung(f"while it was loaded: {problem}", output=printed)
    raise LoadFailed(
        str(problem), details=_remedies(problem, blocked), where=problem.where, output=printed
    )


def _remedies(problem: Raised, blocked: Sequence[str]) -> tuple[str, ...]:
    missing = needs(problem.type, problem.message)
    lines = remedy(missing) if missing is not None else ()
    wanted = [name for name in blocked if name in problem.message]
    gone = (f"not importable there: {', '.join(wanted)}",) if wanted else ()
    return (*lines, *gone)


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
    if not isinstance(found, Raised):
        return None
    if found.type == NotCarried.__name__:
        return f"round trip not checked: {found.message}"
    if found.type == OwnClass.__name__:
        raise LoadFailed(f"cannot be called where the source does not exist: {found.message}")
    if isinstance(wanted, Returned):  # otherwise parity tells what it did here
        lines = _remedies(found, ())
        raise RoundTripDiffers(f"{what} raises {found}", details=lines, where=found.where)
    return None


def same(differences: Sequence[Difference], what: str) -> None:
    """Raise RoundTripDiffers where the loaded artifact does something else than the one in memory."""
    if differences:
        raise RoundTripDiffers(what, differences=tuple(differences))
