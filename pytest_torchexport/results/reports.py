"""The formats of a run's report, and how a report is written to its file.

A format is a function from the records of a run to a text. A new one is a file beside this one and a row in
``FORMATS``; a conftest may add a row too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_torchexport.results import json

# The records ({"nodeid", "outcome", "verdicts"}, one per item) and the versions of what ran them -> the text.
Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, str]], str]

FORMATS: dict[str, Render] = {
    "json": json.render,
}


def write(path: Path, text: str) -> None:
    """Write the whole file or nothing; make its directory if needed. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a file of tempfile: those only their owner may read, and another user may upload the report.
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
