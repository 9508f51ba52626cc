"""Render the verdicts of a run as JSON, with a schema version."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pytest_torchexport.results.verdict import SCHEMA_VERSION, RunResults


def render(results: RunResults) -> str:
    """Return the JSON text of a run's results.

    Numbers that JSON does not have (nan, inf) become the strings "nan", "inf" and "-inf".
    """
    document = {
        "schema": "pytest-torchexport",
        "version": SCHEMA_VERSION,
        "complete": results.complete,
        "environment": dict(results.environment),
        "items": [
            {
                "nodeid": result.nodeid,
                "outcome": result.outcome,
                "target": result.target,
                "device": result.device,
                "reason": result.reason,
                "verdicts": [verdict.as_dict() for verdict in result.verdicts],
            }
            for result in results.items
        ],
    }
    return json.dumps(_legal(document), indent=2, sort_keys=True, allow_nan=False) + "\n"


def _legal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _legal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_legal(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
