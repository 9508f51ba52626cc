"""The formats of a run's report, and files that are written whole.

A format is a function from the results of a run to a text. A new one is a file beside this one and
a row in ``FORMATS``. Others add formats by an entry point in the group
``pytest_torchexport.reports``, or a conftest adds a row.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from pytest_torchexport.results import html, json, markdown, sarif
from pytest_torchexport.results.verdict import RunResults

Render = Callable[[RunResults], str]

ENTRY_POINT_GROUP = "pytest_torchexport.reports"
FORMATS: dict[str, Render] = {
    "html": html.render,
    "json": json.render,
    "markdown": markdown.render,
    "comment": markdown.render_comment,
    "github": markdown.render_annotations,
    "sarif": sarif.render,
}

STDOUT = "-"  # the path that means standard output
# The packages that a verdict depends on.
PACKAGES = (
    *("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    *("openvino", "executorch"),
    *("numpy", "hypothesis", "pytest", "pytest-torchexport"),
)


class CannotRender(Exception):
    """A format lacks a package, or somebody else's does not work. Its text says whose, and why."""


def formats() -> tuple[str, ...]:
    """Return the names of all formats, ours first, without importing any that others add."""
    return tuple(dict.fromkeys((*FORMATS, *_entry_points())))


def rendered(name: str, results: RunResults) -> str:
    """Return the report in a format.

    Raises KeyError for an unknown name, and CannotRender with the format and the reason.
    """
    point = None if name in FORMATS else _entry_points()[name]
    owner = point.value if point is not None else FORMATS[name].__module__
    try:
        text = (FORMATS[name] if point is None else point.load())(results)
    except ModuleNotFoundError as error:
        raise CannotRender(
            f"the report format {name!r} needs {error.name}: pip install {error.name}"
        ) from error
    except Exception as error:
        if owner.startswith(f"{__package__}."):
            raise  # a bug of this package is not to look like one of somebody else's
        raise CannotRender(
            f"the report format {name!r} of {owner} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(text, str):
        raise CannotRender(f"the report format {name!r} of {owner} returned no text")
    return text


@functools.cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}


def environment() -> dict[str, str]:
    """Return the versions of the packages that a verdict depends on, as far as installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


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
        # A path may hold bytes that are no UTF-8; Python keeps them as surrogates.
        with half.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a machine that stops then has the old file or the new one
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
