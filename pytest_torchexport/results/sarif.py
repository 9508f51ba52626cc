"""The report as SARIF 2.1.0, for code scanning: a result for each cause.

A service recognizes a failure of an earlier run by its fingerprint. It consists of names alone, so
that the same failure stays one alert if lines move and numbers change.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from pytest_torchexport.results import __version__
from pytest_torchexport.results.changes import Cause, causes
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.failures import title_of
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Entry, RunResults, entries

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# The rule of an item that failed without a verdict.
NO_VERDICT = "NoVerdict"


def render(results: RunResults) -> str:
    failing = causes(entries(results.items))
    titles = {rule: title_of(rule) for rule in (_rule(cause.entries[0]) for cause in failing)}
    titles |= {NO_VERDICT: "the test failed without a verdict"} if NO_VERDICT in titles else {}
    rules = sorted(titles)
    found = []
    for cause in failing:
        first, *others = cause.entries
        rule = _rule(first)
        # The least of all names, so that the order in which the items ran does not matter.
        names = json.dumps(min(map(_names, cause.entries)))
        fingerprint = hashlib.sha256(names.encode()).hexdigest()[:32]
        result = {
            "ruleId": rule,
            "ruleIndex": rules.index(rule),
            "level": "error",
            # A viewer takes [text](1) for a link.
            "message": {"text": visible(cause.text or cause.title).replace("](", "] (")},
            "locations": [_location(first, cause.where)],
            "relatedLocations": [_location(entry, None) for entry in others],
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
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _rule(entry: Entry) -> str:
    return (entry.failure and entry.failure.failure) or NO_VERDICT


def _names(entry: Entry) -> list[str]:
    """Return the names of the item, the class, the outputs and the line for a fingerprint.

    Not of causes and the operator: a diagnosis may run out of time.
    """
    verdict, names = entry.verdict, [*entry.key, _rule(entry)]
    if verdict is not None:
        names += sorted({item.path for item in verdict.differences})
        names += [verdict.where.text if verdict.where is not None else ""]
    return names


def _location(entry: Entry, where: SourceLine | None) -> dict[str, Any]:
    """Return the location of a line, or else of the test's file: others are not shown."""
    file, line = (where.file, where.line) if where else (Cause((entry,)).test_file, 1)
    uri = quote(file.encode("utf-8", "surrogateescape"))
    physical = {"artifactLocation": {"uri": uri}, "region": {"startLine": max(1, line)}}
    named = {"fullyQualifiedName": visible(str(entry)), "kind": "function"}
    return {**({"physicalLocation": physical} if file else {}), "logicalLocations": [named]}
