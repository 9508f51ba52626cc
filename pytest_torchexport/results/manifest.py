"""The manifest beside an artifact that passed: which files were judged, and at which sizes.

Separate from the reports: it ships with the files, and is read in a moment where torch is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.results.plain import Unreadable, document, made, plain

NAME = "torchexport.json"
SCHEMA = "pytest-torchexport manifest"
VERSION = 1
PASSED = "passed"


@dataclass(frozen=True, kw_only=True)
class File:
    """One file: the checksum of its bytes, and their number."""

    sha256: str
    size: int


def sizes_text(sizes: range | tuple[int, ...]) -> str:
    """Return ``1..8``, ``32..128 by 32`` or ``1, 2, 7``."""
    if not isinstance(sizes, range):
        return ", ".join(map(str, sizes))
    step = f" by {sizes.step}" if sizes.step > 1 else ""
    return f"{sizes[0]}..{sizes[-1]}{step}"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The verified sizes of a dim: from low to high by a step, or only those that are listed."""

    low: int
    high: int
    step: int = 1
    only: tuple[int, ...] = ()

    @property
    def verified(self) -> range | tuple[int, ...]:
        return self.only or range(self.low, self.high + 1, self.step)

    def __str__(self) -> str:
        return sizes_text(self.verified)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files that were judged. ``file``: the one to load. ``weak``: what to know of the pass."""

    file: str
    files: Mapping[str, File]
    subject: str
    target: str
    device: str
    status: str
    weak: tuple[str, ...]
    sizes: Mapping[str, Sizes]
    environment: Mapping[str, str]
    opset: int | None = None  # of an ONNX file


def render(manifest: Manifest) -> str:
    found = {"schema": SCHEMA, "version": VERSION, **plain(manifest)}
    return json.dumps(found | {"seal": _seal(found)}, indent=2) + "\n"


def read(text: str | bytes) -> Manifest:
    """Return the manifest that ``render`` made the text from. Raises Unreadable for others."""
    found = document(text, SCHEMA, VERSION, "it is no manifest of pytest-torchexport")
    seal = found.pop("seal", None)
    if seal != _seal(found):
        raise Unreadable("something has changed it: it does not fit its own checksum")
    manifest: Manifest = made(Manifest, found)
    return manifest


def _seal(document: Mapping[str, Any]) -> str:
    """Return a checksum of the content. It shows accidents; who means harm can write it anew."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def files_in(directory: Path, above: str = "") -> dict[str, File]:
    """Return all files below a directory but the manifest, by their relative names.

    Raises OSError, also for what is no regular file.
    """
    files: dict[str, File] = {}
    for path in sorted(directory.iterdir()):
        name = f"{above}{path.name}"
        if path.is_dir() and not path.is_symlink():
            files |= files_in(path, f"{name}/")
        elif not path.is_file():  # to open a pipe would wait
            raise OSError(f"{path.name} is not a regular file")
        elif name != NAME:
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
                files[name] = File(sha256=digest, size=opened.tell())
    return files
