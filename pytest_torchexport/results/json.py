"""The blob: the results of a run as JSON, from which every other report can be made.

``read`` is the inverse of ``render``: nothing is lost. docs/reference/json-report.md describes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pytest_torchexport.results.plain import made, plain
from pytest_torchexport.results.verdict import SCHEMA_VERSION, RunResults

SCHEMA = "pytest-torchexport"
# The name of a report of a single failure, among the files that show it again.
OF_A_FAILURE = "verdict.json"
WRITE_ONE = "pytest --torchexport-report json:PATH writes one"


class Unreadable(ValueError):
    """A text is no report, or none that this version can read. Its text says why."""


class NotOurs(Unreadable):
    """A text is whole, but something else than a report of this plugin."""


def render(results: RunResults) -> str:
    """Return the JSON text of a run's results.

    Numbers that JSON does not have (nan, inf) become the strings "nan", "inf" and "-inf".
    """
    document = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "complete": results.complete,
        "environment": dict(results.environment),
        "items": [
            {**plain(item), "verdicts": [verdict.as_dict() for verdict in item.verdicts]}
            for item in results.items
        ],
    }
    return json.dumps(_legal(document), indent=2, allow_nan=False) + "\n"


def read(text: str) -> RunResults:
    """Return the results that ``render`` made the text from.

    Keys that this version does not know are left out, and those that an older one did not write get
    their defaults. Raises Unreadable for any other text.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is not JSON, or was cut off ({error})") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise NotOurs(f"it is not a report of pytest-torchexport: {WRITE_ONE}")
    _check_version(document.get("version"))
    try:
        return made(RunResults, {**document, "before": None})
    except TypeError as error:
        raise Unreadable(f"something has changed it: {error}") from None


def _check_version(version: Any) -> None:
    if not isinstance(version, int) or isinstance(version, bool):
        raise Unreadable(f"its version is {version!r}, and not a number")
    if version > SCHEMA_VERSION:
        raise Unreadable(
            f"a newer pytest-torchexport has written it (version {version} of the schema; this one "
            f"reads {SCHEMA_VERSION}): install that version here"
        )
    if version < SCHEMA_VERSION:
        raise Unreadable(
            f"it has version {version} of the schema, which no release has written: {WRITE_ONE}"
        )


def _legal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _legal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_legal(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
