"""The surroundings of a check that decide its verdict: versions, machine, and torch's settings."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.grad_mode import GradMode, under_autocast
from pytest_torchexport.outcomes.torch_state import settings_now

# The beginnings of the names of variables that torch, ONNX Runtime and their libraries read.
_VARIABLES = (
    *("TORCH", "PYTORCH", "ATEN", "ONNX", "ORT"),
    *("OMP_", "GOMP_", "KMP_", "MKL", "DNNL", "ONEDNN", "OPENBLAS", "BLIS_", "GOTO_"),
    *("CUDA", "CUBLAS", "CUDNN", "NVIDIA_", "NCCL_", "LD_"),
)


def surroundings(device: str) -> tuple[str, ...]:
    """Return what a check on a device depends on, besides its subject, calls and options."""
    return (
        *_process(),
        *settings_now(device),
        str(GradMode.current()),
        *under_autocast(),
        *sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(_VARIABLES)),
        *_device(device),
        *_native_libraries(),
    )


def _device(device: str) -> tuple[str, ...]:
    if not cuda.is_cuda(device):
        return ()
    return (torch.cuda.get_device_name(device), str(torch.version.cuda))


def _native_libraries() -> Iterator[str]:
    """Yield the digests of the libraries of custom operators that this process has loaded."""
    for library in sorted(map(str, torch.ops.loaded_libraries)):
        yield f"{Path(library).name}={_hash_of_file(library)}"


@functools.cache
def _hash_of_file(path: str) -> str:
    """Return the SHA-256 of a library, which stays as it was loaded while the process lives."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@functools.cache
def _process() -> tuple[str, ...]:
    """Return what holds for the life of a process.

    Every installed distribution: any of them may be a part of the model, or hook into torch.
    """
    installed = {
        f"{found.metadata['Name']}=={found.version} {_files_of(found)}"
        for found in metadata.distributions()
    }
    return (
        platform.python_version(),
        platform.python_implementation(),
        f"-O{sys.flags.optimize}",  # leaves out asserts
        platform.platform(),
        torch.backends.cpu.get_cpu_capability(),
        _own_source(),
        *sorted(installed),
    )


def _files_of(distribution: metadata.Distribution) -> str:
    """Return the digest of what an installer wrote of the files of a package.

    The version of a package may stay the same while it is installed anew, as tox does. Empty if no
    installer wrote a RECORD.
    """
    lines = (distribution.read_text("RECORD") or "").splitlines()
    # Not scripts and notes of the installer, which hold the directory, nor what it compiled.
    own = (line for line in lines if not re.match(r"\.\.|/|.*\.(dist-info/|pyc,)", line))
    return hashlib.sha256("\n".join(sorted(own)).encode()).hexdigest() if lines else ""


def _own_source() -> str:
    """Return the digest of this package: in its own repository, its version stays the same."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(f"{path.relative_to(root)}:".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
