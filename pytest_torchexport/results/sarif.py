"""The report as SARIF 2.1.0, for code scanning: a result for each failure.

A service recognizes a failure of an earlier run by its fingerprint. It consists of names alone, so
that the same failure stays one alert if lines move and numbers change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pytest_torchexport import __version__
from pytest_torchexport.results.changes import Cause
from pytest_torchexport.results.entries import Entry, entries
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.failures import title_of
from pytest_torchexport.results.verdict import RunResults

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# The rule of an item that failed without a verdict.
NO_VERDICT = "NoVerdict"
FINGERPRINT = "pytestTorchexport/v1"


def render(results: RunResults) -> str:
    """Return the SARIF text of a run's results."""
    failing = [entry for entry in entries(results.items) if entry.fails]
    rules = sorted({_rule(entry) for entry in failing})
    run = {
        "tool": {
            "driver": {
                "name": "pytest-torchexport",
                "version": __version__,
                "rules": [
                    {"id": rule, "shortDescription": {"text": _description(rule)}} for rule in rules
                ],
            }
        },
        "invocations": [{"executionSuccessful": results.complete}],
        "results": [_result(entry, rules) for entry in failing],
        "columnKind": "unicodeCodePoints",
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1) + "\n"


def _rule(entry: Entry) -> str:
    return (entry.verdict.failure if entry.verdict is not None else None) or NO_VERDICT


def _description(rule: str) -> str:
    return "the test failed without a verdict" if rule == NO_VERDICT else title_of(rule)


def _result(entry: Entry, rules: Sequence[str]) -> dict[str, Any]:
    cause, rule = Cause((entry,)), _rule(entry)
    return {
        "ruleId": rule,
        "ruleIndex": rules.index(rule),
        "level": "error",
        "message": {"text": _message(cause)},
        "locations": [_location(entry, cause)],
        "partialFingerprints": {FINGERPRINT: _fingerprint(entry, rule)},
    }


def _message(cause: Cause) -> str:
    """Return the report of a failure; a viewer takes ``[text](1)`` for a link."""
    return visible(cause.text or cause.title).replace("](", "] (")


def _location(entry: Entry, cause: Cause) -> dict[str, Any]:
    """Return the user's line, or else the test's file: code scanning shows no other paths."""
    logical = [{"fullyQualifiedName": visible(str(entry)), "kind": "function"}]
    where = cause.where
    file = where.file if where is not None else cause.test_file
    if not file:
        return {"logicalLocations": logical}
    line = where.line if where is not None else 1
    physical = {
        "artifactLocation": {"uri": quote(file.encode("utf-8", "surrogateescape"))},
        "region": {"startLine": max(1, line)},
    }
    return {"physicalLocation": physical, "logicalLocations": logical}


def _fingerprint(entry: Entry, rule: str) -> str:
    """Return a hash of the names of a failure: the item, the class, the outputs, the line.

    Not of its causes and its operator: a diagnosis may run out of time.
    """
    names = [*entry.key, rule]
    if entry.verdict is not None:
        where = entry.verdict.where
        names += sorted({item.path for item in entry.verdict.differences})
        names += [where.text if where is not None else ""]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]
