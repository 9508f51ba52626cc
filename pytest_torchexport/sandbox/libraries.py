"""The libraries that artifacts are run with in the sandbox: one row each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """The settings under which artifacts of one library are run.

    ``answers`` is the module whose ``ANSWERS`` a child answers with, ``preload`` is what the server
    imports once, before it forks children.
    """

    answers: str
    preload: tuple[str, ...]


ONNX_RUNTIME = "onnxruntime"
LIBRARIES = {
    "torch": Library("pytest_torchexport.sandbox.with_torch", ("torch",)),
    ONNX_RUNTIME: Library("pytest_torchexport.sandbox.with_arrays", ("onnxruntime", "onnx")),
}


def library_named(name: str) -> Library:
    """Return the library of that name. Raises ValueError, with the names there are."""
    if name not in LIBRARIES:
        raise ValueError(
            f"there is no library {name!r} in the sandbox; legal: {', '.join(LIBRARIES)}"
        )
    return LIBRARIES[name]
