"""Packages of AOTInductor, compiled and loaded without starting a program; files of ExecuTorch.

Separate because torch has both in private modules, though it documents them: ``torch._inductor``,
and the loader below ``torch._inductor.aoti_load_package``, which probes the processor with g++. So
has executorch what loads a file: its public module imports the exporter, which takes seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def package_compiler() -> Callable[..., Any] | None:
    """Return ``aoti_compile_and_package``; None if torch has none, or no loader of packages."""
    try:
        found: Any = importlib.import_module("torch._inductor").aoti_compile_and_package
        _loader()
    except (ImportError, AttributeError):
        return None
    return found  # type: ignore[no-any-return]


def compile_package(program: Any, path: Path, configs: Mapping[str, Any]) -> None:
    compiler = package_compiler()
    assert compiler is not None
    compiler(program, package_path=str(path), inductor_configs=dict(configs))  # which it changes


def load_package(path: Path) -> Callable[..., Any]:
    """Load a package. It is called as the ExportedProgram is, with state of its own.

    Raises AttributeError or ImportError if torch has no such loader.
    """
    load, callable_of = _loader()
    # Its model, which may run on several threads, once, on the device that it was compiled for.
    loaded: Callable[..., Any] = callable_of(load(str(path), "model", False, 1, -1))
    return loaded


EXECUTORCH = "executorch.extension.pybindings._C"
EXECUTORCH_NAMES = (
    *("_load_for_executorch_from_buffer", "_threadpool_get_thread_count"),
    "_unsafe_reset_threadpool",
)


def executorch_runtime() -> Any:
    """Return the module that loads files of ExecuTorch.

    Raises ImportError if it was built for another torch, or has no such functions.
    """
    found: Any = importlib.import_module(EXECUTORCH)
    if not all(hasattr(found, name) for name in EXECUTORCH_NAMES):
        raise ImportError(f"{EXECUTORCH} lacks one of {', '.join(EXECUTORCH_NAMES)}")
    return found


def load_executorch(content: bytes) -> Any:
    """Load a ``.pte`` file, which has to be kept as long as the program is."""
    return executorch_runtime()._load_for_executorch_from_buffer(content)


def limit_executorch(threads: int) -> None:
    """Set how many threads all its programs have, in this process."""
    runtime = executorch_runtime()
    if runtime._threadpool_get_thread_count() != threads:
        runtime._unsafe_reset_threadpool(threads)


def _loader() -> tuple[Any, Any]:
    package = importlib.import_module("torch.export.pt2_archive._package")
    return torch._C._aoti.AOTIModelPackageLoader, package.AOTICompiledModel
