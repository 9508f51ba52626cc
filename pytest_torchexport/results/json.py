"""The verdicts of a run as JSON: the same data that rides on pytest's reports, with a schema version."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_torchexport.results.verdict import SCHEMA_VERSION


def render(records: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> str:
    """``records`` are ``{"nodeid", "outcome", "verdicts"}``; ``environment`` says what ran it.

    Numbers that JSON does not have (nan, inf) become the strings "nan", "inf" and "-inf".
    """
    document = {
        "schema": "pytest-torchexport",
        "version": SCHEMA_VERSION,
        "environment": dict(environment),
        "items": [dict(record) for record in records],
    }
    return json.dumps(_legal(document), indent=2, sort_keys=True, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write the whole file or nothing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not a temporary file of tempfile's: those only their owner may read, and somebody else uploads the report.
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


def _legal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _legal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_legal(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
