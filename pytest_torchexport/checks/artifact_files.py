"""The artifact's files: measured, and shipped. Raises ArtifactTooLarge."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from pytest_torchexport.config.what_ran import what_ran
from pytest_torchexport.inputs.pytrees import bits_of, is_plain
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.runner import SavedArtifact
from pytest_torchexport.outcomes.subject import weight_of
from pytest_torchexport.results import manifest, reports
from pytest_torchexport.results.escaped import SHOWN
from pytest_torchexport.results.failures import ArtifactTooLarge, SpecError
from pytest_torchexport.results.reports import write
from pytest_torchexport.results.verdict import ArtifactSize, bytes_text
from pytest_torchexport.targets.formats import onnx_model

# The bytes that the program itself may take, beside its weights.
PROGRAM = 2**20
# Parts of the files that take a smaller share of them are not named.
SMALL = 0.01
NO_FILE = (
    "the size was not limited: no file was made (for that, round_trip has to be among the checks, "
    "and the clean process has to know the target)"
)
NEXT = (
    "next step: store each weight once (b.weight = a.weight, not b.weight.data = ...), make "
    "constants inside forward from their sizes, or register them as buffers; or serve the file as "
    "it is and raise the limit"
)
# A function reaches its weights in ways that are not known here.
NO_MODULE = "the size was not limited: the subject is a function, and its weights are not known"


def measure(case: Case) -> None:
    """Log the bytes of the artifact's files and of its module's weights."""
    module = case.reference.pristine.module
    if case.saved is None:
        return
    files = [
        path.stat().st_size
        for path in case.saved.path.parent.rglob("*")
        if path.is_file() and path.suffix != ".output"
    ]
    case.log.size = ArtifactSize(files=sum(files), weights=weight_of(module))


def require(case: Case) -> None:
    """Raise ArtifactTooLarge if the files take more than the setting ``max_size_ratio`` allows.

    Raises Ineffective under strict if that is not known.
    """
    size, module = case.log.size, case.reference.pristine.module
    most = case.plan.settings.max_size_ratio
    if size is None or module is None:
        case.not_applied(NO_FILE if size is None else NO_MODULE)
    elif size.files > most * size.weights + PROGRAM:
        limit = most * size.weights + PROGRAM
        allowed = (
            f"{size.files:,} bytes; allowed are {most:g} (torchexport_max_size_ratio) times "
            f"{size.weights:,} bytes of parameters and buffers, and 1 MiB for the program"
        )
        raise ArtifactTooLarge(
            f"its files take {size}; the limit is {bytes_text(limit)}",
            details=(allowed, *_largest(module, case.saved, size.files), NEXT),
        )


def _largest(module: torch.nn.Module, saved: SavedArtifact | None, files: int) -> Iterator[str]:
    """Yield a line with what takes most of the files, and how often each of it is stored."""
    found: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name, stored, checksum in _stored_parts(saved.path.parent) if saved is not None else ():
        found[stored, checksum].append(name)
    bytes_of = {key: key[0] * len(names) for key, names in found.items()}
    large = [key for key in found if bytes_of[key] > SMALL * files]
    most = sorted(large, key=bytes_of.__getitem__, reverse=True)[:SHOWN]
    own: dict[tuple[int, int], str] = {}
    for name, tensor in (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ):
        size = tensor.numel() * tensor.itemsize
        if is_plain(tensor) and any(size == key[0] for key in most):
            # The legacy ONNX exporter stores the weights of linear layers transposed.
            for form in (tensor, tensor.t()) if tensor.dim() == 2 else (tensor,):
                own.setdefault((size, zlib.crc32(bits_of(form))), name)
    texts = []
    for key in most:
        times = f", stored {len(found[key])} times" if len(found[key]) > 1 else ""
        name = own.get(key) or f"{found[key][0]} (no parameter or buffer has these bytes)"
        texts.append(f"{name}: {bytes_text(key[0])}{times}")
    if texts:
        yield f"the largest parts of the files: {'; '.join(texts)}"


def _stored_parts(directory: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, bytes and checksum of the entries of archives and of the arrays of ONNX files."""
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".onnx":
            for name, array in onnx_model.arrays(path):
                data = array.tobytes()
                yield name, len(data), zlib.crc32(data)
        elif path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    yield entry.filename.partition("/")[2], entry.file_size, entry.CRC


NOT_SHIPPED = (
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
    """Write the files that were loaded, with a manifest, to be deployed."""
    if case.saved is None:
        case.log.caution(NOT_SHIPPED)
        return
    path, place = case.saved.path, Path(case.plan.settings.ship)
    # A file of somebody else's is read in the clean process alone.
    own_onnx = path.suffix == ".onnx" and not case.foreign
    half = place.parent / f".half-{os.getpid()}-{secrets.token_hex(4)}"
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The process that has them loaded may write its output beside them.
        shutil.copytree(path.parent, half, ignore=shutil.ignore_patterns("*.output"), symlinks=True)
        mask = os.umask(0o022)
        os.umask(mask)
        half.chmod(0o777 & ~mask)  # the directory that was copied is its owner's alone
        judged = manifest.Manifest(
            file=path.name,
            files=manifest.files_in(half),
            subject=case.reference.pristine.name,
            target=case.plan.target,
            device=case.plan.device,
            status=manifest.PASSED,
            weak=(*case.log.cautions, *case.log.ineffective),
            sizes={
                name: _sizes(dim.sizes, case.log.covered.sizes[name])
                for name, dim in case.spec.dims.items()
                if case.log.covered.sizes.get(name)
            },
            environment={**reports.environment(), **what_ran(seed=case.plan.seed)},
            opset=onnx_model.opset(onnx_model.read(path)) if own_onnx else None,
        )
        write(half / manifest.NAME, manifest.render(judged))
        half.rename(place)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def _sizes(legal: range | tuple[int, ...], run: set[int]) -> manifest.Sizes:
    """Return the legal sizes between the smallest and the largest that were run."""
    low, high = min(run), max(run)
    if isinstance(legal, range):
        return manifest.Sizes(low=low, high=high, step=legal.step)
    return manifest.Sizes(
        low=low, high=high, only=tuple(size for size in legal if low <= size <= high)
    )
