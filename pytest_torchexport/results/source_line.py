"""A line of the user's source, as failures, verdicts and branches refer to it, and whose it is."""

from __future__ import annotations

import functools
import linecache
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Installed packages in which no model is at fault for what happens there.
NO_MODELS = frozenset(
    {
        *("torch", "functorch", "torchgen", "numpy", "scipy", "sympy", "networkx"),
        *("onnx", "onnxruntime", "onnxscript", "onnx_ir", "executorch", "coremltools"),
        *("openvino", "tensorrt", "torch_tensorrt"),
        *("pytest", "_pytest", "pluggy", "xdist", "hypothesis", "pytest_torchexport"),
        *("jaxtyping", "beartype", "typeguard", "typing_extensions", "packaging"),
    }
)
# Python's own folder has its version: lib/python/models is one of the user's.
_LIBRARY = re.compile(r"/(?:site-packages/|pytest_torchexport/|__torch__|lib/python\d)")


@dataclass(frozen=True)
class SourceLine:
    """A line of source: the file as a report shows it, the line's number (from 1), and its text.

    ``text`` has no blanks at its ends and is empty if the source is not known.
    """

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        """Return ``net.py:38  if x.sum() > 0:``."""
        return f"{self.place}  {self.text}".rstrip()

    @property
    def place(self) -> str:
        """``net.py:38``."""
        return f"{self.file}:{self.line}"


def source_line(path: str, number: int, text: str | None = None) -> SourceLine:
    """Return line ``number`` of the file; without ``text``, its source is looked up."""
    source = linecache.getline(path, number) if text is None else text
    return SourceLine(short_path(path), number, source.strip())


def is_users(path: str) -> bool:
    """Return True if a file is the user's: not this package's, nor any library's."""
    plain = path.replace("\\", "/")
    if plain.startswith(("<", "code/")) or _LIBRARY.search(plain):
        return False
    for folder in (folder.rstrip("/") for folder in sys.path if folder):
        if plain.startswith(f"{folder}/"):
            within = plain[len(folder) + 1 :].partition("/")[0]
            if within in _installed(folder):
                return False
    return True


def is_models(path: str) -> bool:
    """Return True for a file of a library, as timm, that does not run, export or test models."""
    _, library, within = path.replace("\\", "/").rpartition("/site-packages/")
    return bool(library) and within.partition("/")[0].removesuffix(".py") not in NO_MODELS


def has_owner(path: str) -> bool:
    """Return True if a report may name a line of a file: the user's, or of an installed model."""
    return is_users(path) or is_models(path)


@functools.lru_cache(maxsize=256)
def _installed(folder: str) -> frozenset[str]:
    """Return the packages and files that installers put into a folder (``pip install --target``).

    Empty for the folder of an editable install, which its owner works on.
    """
    names: set[str] = set()
    with suppress(OSError):
        for record in Path(folder).glob("*.dist-info/RECORD"):
            lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
            names.update(line.partition(",")[0].partition("/")[0] for line in lines)
    return frozenset(names)


def short_path(path: str) -> str:
    """Return the path as the user would type it.

    Relative if it lies below the working directory; from the package's name on if installed.
    """
    _, library, within = path.replace("\\", "/").rpartition("/site-packages/")
    if library:
        return within
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return path
    return path if relative.startswith("..") else relative
