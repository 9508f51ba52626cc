"""The public names, signatures, legal values and settings, compared with a snapshot.

The keys of the JSON report are in docs/reference/report.schema.json, which test_docs.py compares.

A change of the snapshot is a change for users: it needs a line in the changelog. Write it anew with

    python tests/test_public_api.py
"""

from __future__ import annotations

import ast
import inspect
import json
from importlib import metadata
from pathlib import Path

import pytest

import pytest_torchexport
from pytest_torchexport.commands import COMMANDS
from pytest_torchexport.config.names import BUILT_IN, ENTRY_POINT_GROUP, checks
from pytest_torchexport.config.options import NAMES
from pytest_torchexport.config.settings import TABLE
from pytest_torchexport.results import reports

SNAPSHOT = Path(__file__).with_name("public_api.json")


def described(value):
    """A function's signature; of a class its bases and public members, with the signatures of its methods."""
    if not inspect.isclass(value):
        return str(inspect.signature(value))
    members = {
        name: str(inspect.signature(member)) if inspect.isfunction(member) else "property"
        for name, member in sorted(vars(value).items())
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    }
    bases = [base.__name__ for base in value.__bases__]
    return {"bases": bases, "members": members} if members else {"bases": bases}


def public_api():
    names = {name: getattr(pytest_torchexport, name) for name in pytest_torchexport.__all__}
    points = metadata.distribution("pytest-torchexport").entry_points
    return {
        "names": {name: described(value) for name, value in names.items()},
        "marker": list(NAMES),
        "targets": list(BUILT_IN),
        "checks": list(checks()),
        "settings": [
            {
                "name": row.name,
                "kind": row.kind,
                "default": row.shown_default,
                "flag": row.option,
            }
            for row in TABLE
        ],
        "report formats": list(reports.FORMATS),
        "entry points": {
            point.group: [other.name for other in points if other.group == point.group]
            for point in points
        },
        "entry-point group for targets": ENTRY_POINT_GROUP,
        "entry-point group for report formats": reports.ENTRY_POINT_GROUP,
        "commands": list(COMMANDS),
    }


def rendered():
    return json.dumps(public_api(), indent=1) + "\n"


def test_the_public_api_is_that_of_the_snapshot():
    assert rendered() == SNAPSHOT.read_text(), (
        "the public API has changed; if that is meant, run 'python tests/test_public_api.py', "
        "and add a line to CHANGELOG.md"
    )


def test_type_checkers_see_the_names_that_the_interpreter_finds():
    tree = ast.parse(Path(pytest_torchexport.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    failures = pytest_torchexport.results.failures.__all__
    seen = {}
    for statement in guarded.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            names = failures if alias.name == "*" else [alias.asname]
            seen |= dict.fromkeys(names, statement.module)
    homes = pytest_torchexport._HOMES.items()
    assert seen == {name: f"pytest_torchexport.{module}" for name, module in homes}


def test_all_is_sorted_complete_and_what_dir_shows():
    assert sorted(pytest_torchexport.__all__) == sorted(set(pytest_torchexport.__all__))
    assert dir(pytest_torchexport) == sorted(pytest_torchexport.__all__)


def test_every_failure_is_public_and_every_public_name_has_a_docstring():
    failures = pytest_torchexport.results.failures.Failure.__subclasses__()
    assert {cls.__name__ for cls in failures} <= set(pytest_torchexport.__all__)
    assert all(getattr(pytest_torchexport, name).__doc__ for name in pytest_torchexport.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'check_exports'"):
        _ = pytest_torchexport.check_exports


if __name__ == "__main__":
    SNAPSHOT.write_text(rendered())
