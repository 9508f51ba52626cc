"""The report as SARIF 2.1.0, for code scanning: a result for each failure.

A service recognizes a failure of an earlier run by its fingerprint. It consists of names alone, so
that the same failure stays one alert if lines move and numbers change.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from pytest_torchexport.results import __version__
from pytest_torchexport.results.changes import Cause
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.failures import title_of
from pytest_torchexport.results.verdict import RunResults, entries

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# The rule of an item that failed without a verdict.
NO_VERDICT = "NoVerdict"


def render(results: RunResults) -> str:
    failing = [
        (entry, (entry.verdict.failure if entry.verdict is not None else None) or NO_VERDICT)
        for entry in entries(results.items)
        if entry.fails
    ]
    titles = {rule: title_of(rule) for _, rule in failing}
    titles |= {NO_VERDICT: "the test failed without a verdict"} if NO_VERDICT in titles else {}
    rules = sorted(titles)
    found = []
    for entry, rule in failing:
        cause = Cause((entry,))
        # A viewer takes [text](1) for a link.
        message = visible(cause.text or cause.title).replace("](", "] (")
        named = {"fullyQualifiedName": visible(str(entry)), "kind": "function"}
        location: dict[str, Any] = {"logicalLocations": [named]}
        # The user's line, or else the test's file: code scanning shows no other paths.
        file, line = (cause.where.file, cause.where.line) if cause.where else (cause.test_file, 1)
        if file:
            physical = {
                "artifactLocation": {"uri": quote(file.encode("utf-8", "surrogateescape"))},
                "region": {"startLine": max(1, line)},
            }
            location = {"physicalLocation": physical, **location}
        # Names of the item, the class, the outputs and the line; not of causes and the operator: a
        # diagnosis may run out of time.
        names = [*entry.key, rule]
        if entry.verdict is not None:
            where = entry.verdict.where
            names += sorted({item.path for item in entry.verdict.differences})
            names += [where.text if where is not None else ""]
        fingerprint = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]
        result = {
            "ruleId": rule,
            "ruleIndex": rules.index(rule),
            "level": "error",
            "message": {"text": message},
            "locations": [location],
            "partialFingerprints": {"pytestTorchexport/v1": fingerprint},
        }
        found.append(result)
    described = [{"id": each, "shortDescription": {"text": titles[each]}} for each in rules]
    run = {
        "tool": {
            "driver": {"name": "pytest-torchexport", "version": __version__, "rules": described}
        },
        "invocations": [{"executionSuccessful": results.complete}],
        "results": found,
        "columnKind": "unicodeCodePoints",
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1) + "\n"
