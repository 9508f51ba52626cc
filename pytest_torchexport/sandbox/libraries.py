"""The libraries that artifacts are run with in the sandbox: settings, threads, where they lie."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import site
import sysconfig
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Library:
    """The settings under which artifacts of one library are run.

    ``answers`` is the class by which a child answers, as ``package.module:Class``; ``preload`` is
    what the server imports once, before it forks children.
    """

    answers: str
    preload: tuple[str, ...]


ONNX_RUNTIME = "onnxruntime"
LIBRARIES = {
    "torch": Library("pytest_torchexport.sandbox.with_torch:Answers", ("torch",)),
    ONNX_RUNTIME: Library("pytest_torchexport.sandbox.child:Answers", ("onnxruntime", "onnx")),
}


def library_named(name: str) -> Library:
    """Return the library of that name: one of ours, or any module, whose files take numpy arrays.

    Raises ValueError if there is no such module.
    """
    if name in LIBRARIES:
        return LIBRARIES[name]
    if importlib.util.find_spec(name.partition(".")[0] or "-") is None:
        legal = f"legal: {', '.join(LIBRARIES)}, or the name of an installed module"
        raise ValueError(f"library {name!r} cannot be imported; {legal}")
    return Library("pytest_torchexport.sandbox.child:NumpyAnswers", (name, "numpy"))


@dataclass
class Threads:
    """The number of threads that an artifact may use. With several it runs as it is served."""

    allowed: int = 1


THREADS = Threads()

_LIBRARIES = (
    *("torch", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("onnxruntime-openvino", "openvino", "executorch"),
)
# A requirement begins with a name:
# https://packaging.python.org/en/latest/specifications/dependency-specifiers/
_NAME = re.compile(r"[\w.-]+")


@functools.cache
def library_directories() -> tuple[str, ...]:
    """Return where torch and its like are installed, unless an isolated interpreter looks there.

    What they require is included. Other packages in such a directory become importable too: they
    were installed beside torch.
    """
    own = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    usual = {os.path.realpath(path) for path in (*site.getsitepackages(), *own)}
    directories: dict[str, None] = {}
    names = [*_LIBRARIES]  # grows by what they require
    for name in names:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        directory = os.path.realpath(str(distribution.locate_file("")))
        if directory in usual:
            continue  # and so is what it requires, which the same installer put there
        directories.setdefault(directory)
        for requirement in distribution.requires or ():
            required = _NAME.match(requirement)
            if required is not None and "extra ==" not in requirement and required[0] not in names:
                names.append(required[0])
    return tuple(directories)
