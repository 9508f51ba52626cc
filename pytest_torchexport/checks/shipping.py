"""Write the files of an artifact that passed, with a manifest of what was judged.

They are the files that the round trip loaded, byte for byte.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from pytest_torchexport.judge.case import Case
from pytest_torchexport.results import manifest, reports
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.files import write

NO_FILE = (
    "not shipped: no file was judged (for that, round_trip has to be among the checks, and the "
    "clean process has to know the target)"
)


def clear(ship: str) -> None:
    """Remove what an earlier check shipped: it is not what this one judges.

    Raises SpecError if there is something else.
    """
    directory = Path(ship)
    if (directory / manifest.NAME).is_file():
        shutil.rmtree(directory)
    elif directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    elif os.path.lexists(directory):
        raise SpecError(
            f"ship: {ship} has files that no check has shipped; name another directory, or remove "
            "them"
        )


def ship(case: Case) -> None:
    """Ship the files: every step before this one has passed."""
    if case.saved is None:
        case.log.caution(NO_FILE)
        return
    place = Path(case.plan.settings.ship)
    half = place.parent / f".half-{os.getpid()}-{secrets.token_hex(4)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The process that has them loaded may write its output beside them.
        shutil.copytree(
            case.saved.path.parent, half, ignore=shutil.ignore_patterns("*.output"), symlinks=True
        )
        half.chmod(0o777 & ~_umask())  # the directory that was copied is its owner's alone
        judged = _manifest(case, half)
        write(half / manifest.NAME, manifest.render(judged))
        half.rename(place)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _manifest(case: Case, directory: Path) -> manifest.Manifest:
    assert case.saved is not None
    log, plan = case.log, case.plan
    return manifest.Manifest(
        file=case.saved.path.name,
        files=manifest.files_in(directory),
        subject=case.reference.pristine.name,
        target=plan.target,
        device=plan.device,
        status=manifest.PASSED,
        weak=(*log.cautions, *log.ineffective),
        sizes={
            name: _sizes(dim.sizes, log.covered.sizes[name])
            for name, dim in case.spec.dims.items()
            if log.covered.sizes.get(name)
        },
        environment=reports.environment(),
    )


def _sizes(legal: range | tuple[int, ...], run: set[int]) -> manifest.Sizes:
    """Return the legal sizes between the smallest and the largest that were run."""
    low, high = min(run), max(run)
    if isinstance(legal, range):
        return manifest.Sizes(low=low, high=high, step=legal.step)
    return manifest.Sizes(
        low=low, high=high, only=tuple(size for size in legal if low <= size <= high)
    )
