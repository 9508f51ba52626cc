"""The blob: the results of a run as JSON, from which every other report can be made.

``read`` is the inverse of ``render``: nothing is lost. docs/reference/json-report.md describes it.
"""

from __future__ import annotations

import json

from pytest_torchexport.results.plain import document, made, plain
from pytest_torchexport.results.verdict import SCHEMA_VERSION, RunResults

SCHEMA = "pytest-torchexport"
OF_A_FAILURE = "verdict.json"  # a report of a single failure, among the files that show it again
HALF = ".half-"  # while these are written, their directory has a name that begins so
WRITE_ONE = "pytest --torchexport-report json:PATH writes one"


def render(results: RunResults) -> str:
    found = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "complete": results.complete,
        "environment": dict(results.environment),
        "items": [
            {**plain(item), "verdicts": [verdict.as_dict() for verdict in item.verdicts]}
            for item in results.items
        ],
    }
    return json.dumps(found, indent=2, allow_nan=False) + "\n"


def read(text: str | bytes) -> RunResults:
    """Return the results that ``render`` made the text from.

    Keys that this version does not know are left out, and those that an older one did not write get
    their defaults. Raises Unreadable for any other text.
    """
    otherwise = f"it is not a report of pytest-torchexport: {WRITE_ONE}"
    found = document(text, SCHEMA, SCHEMA_VERSION, otherwise)
    results: RunResults = made(RunResults, {**found, "before": None})
    return results
