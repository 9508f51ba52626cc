"""The formats of a run's report, and how a report is written to its file.

A format is a function from the results of a run to a text. A new one is a file beside this one and
a row in ``FORMATS``; a conftest may add a row too.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from pytest_torchexport.results import html, json
from pytest_torchexport.results.verdict import RunResults

Render = Callable[[RunResults], str]

FORMATS: dict[str, Render] = {
    "html": html.render,
    "json": json.render,
}

# The packages that a verdict depends on.
PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "hypothesis",
    "pytest",
)


def write(path: Path, text: str) -> None:
    """Write the whole file or nothing; make its directory if needed.

    A link is kept, and the file that it leads to is written. Raises OSError, also if something else
    than a regular file is there: a device, a pipe, a directory, a link that leads to itself.
    """
    path = Path(os.path.realpath(path))
    if os.path.lexists(path) and not path.is_file():
        raise OSError("it is not a regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    # No file of tempfile: only its owner may read it, and another user may upload the report.
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def environment() -> dict[str, str]:
    """Return the versions of the packages that a verdict depends on, as far as installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
