"""The size of an artifact's files, beside its module's parameters and buffers.

Measured for every item that has files; a limit is a setting. Raises ArtifactTooLarge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.subject import unique_weight_of
from pytest_torchexport.outcomes.texts import SHOWN, few
from pytest_torchexport.results.failures import ArtifactTooLarge
from pytest_torchexport.results.verdict import ArtifactSize, bytes_text
from pytest_torchexport.targets.formats.stored_parts import checksum_of, stored_parts
from pytest_torchexport.torch_private.memory import memory_of

# The bytes that the program itself may take, beside its weights.
PROGRAM = 2**20
# Of the bytes of all names of weights, so many are in a file that stores each name.
NEARLY = 0.9
# Parts of the files that take a smaller share of them are not named.
SMALL = 0.01
NO_FILE = (
    "the size was not limited: no file was made (for that, round_trip has to be among the checks, "
    "and the clean process has to know the target)"
)
TIED = "likely reason: weights that share memory are stored once per name"
TIED_REMEDY = (
    "next step: make them one Parameter (b.weight = a.weight, not b.weight.data = ...), which "
    "exporters store once; or serve the file as it is and raise the limit"
)
OTHER = (
    (
        "likely reason: the program stores tensors that are no parameters or buffers (constants "
        "that forward makes, or that the export computed), loops that were unrolled, or weights in "
        "a wider dtype"
    ),
    (
        "next step: look at the largest parts; make constants inside forward from their sizes, or "
        "register them as buffers"
    ),
)
# A function reaches its weights in ways that are not known here.
NO_MODULE = "the size was not limited: the subject is a function, and its weights are not known"


def measure(case: Case) -> None:
    """Log the bytes of the artifact's files and of its module's weights."""
    module = case.reference.pristine.module
    if case.directory is None:
        return
    files = [
        path.stat().st_size
        for path in case.directory.rglob("*")
        if path.is_file() and path.suffix != ".output"
    ]
    weights = unique_weight_of(module) if module is not None else 0
    case.log.size = ArtifactSize(files=sum(files), weights=weights)


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
            details=(
                allowed,
                *_largest(module, case.directory, size.files),
                *_likely(module, size),
            ),
        )


def _largest(module: torch.nn.Module, directory: Path | None, files: int) -> Iterator[str]:
    """Yield a line with what takes most of the files, and how often each of it is stored."""
    found: dict[tuple[int, int], list[str]] = defaultdict(list)
    for part in stored_parts(directory) if directory is not None else ():
        found[part.bytes, part.checksum].append(part.name)
    bytes_of = {key: key[0] * len(names) for key, names in found.items()}
    large = [key for key in found if bytes_of[key] > SMALL * files]
    most = sorted(large, key=bytes_of.__getitem__, reverse=True)[:SHOWN]
    own: dict[tuple[int, int], str] = {}
    for name, tensor in _named(module):
        size = tensor.numel() * tensor.itemsize
        if is_plain(tensor) and any(size == key[0] for key in most):
            # The legacy ONNX exporter stores the weights of linear layers transposed.
            for form in (tensor, tensor.t()) if tensor.dim() == 2 else (tensor,):
                own.setdefault((size, checksum_of(form)), name)
    texts = []
    for key in most:
        times = f", stored {len(found[key])} times" if len(found[key]) > 1 else ""
        name = own.get(key) or f"{found[key][0]} (no parameter or buffer has these bytes)"
        texts.append(f"{name}: {bytes_text(key[0])}{times}")
    if texts:
        yield f"the largest parts of the files: {'; '.join(texts)}"


def _likely(module: torch.nn.Module, size: ArtifactSize) -> tuple[str, str]:
    """Return the likely reason, and what to do."""
    tied = [names for names in _names_by_memory(module) if len(names) > 1]
    if not tied or size.files < NEARLY * _weight_by_name(module):
        return OTHER
    most = max(tied, key=len)
    return f"{TIED}: {few(most)}", TIED_REMEDY


def _names_by_memory(module: torch.nn.Module) -> list[list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for name, tensor in _named(module):
        memory = memory_of(tensor) if is_plain(tensor) else 0
        if memory:  # empty tensors share none
            found[memory].append(name)
    return list(found.values())


def _weight_by_name(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.itemsize for _, tensor in _named(module))


def _named(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
