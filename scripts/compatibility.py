"""Record a run of the suite, with the versions that it ran on, in ``pytest_torchexport/config/tested.json``.

Give the JUnit file of the run to the interpreter that made it: the versions are those of this interpreter. An entry
replaces the one with the same versions of torch and Python. Then ``docs/make_reference.py`` writes the page.

    pytest --junitxml run.xml tests examples
    python scripts/compatibility.py run.xml

If tests failed, and passed when they were run again after the tests or the plugin were mended, give the files of those
runs too, and those of tests that were added since. The number of tests that were run again is recorded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
ZOO = "tests.test_zoo"
VERDICT = "test_verdict_is_the_truth"


def run_of(report: ET.Element, *again: ET.Element) -> Any:
    """Return the run of a JUnit file as an entry of ``tested.json``.

    ``again`` are later runs of some tests and of new ones; of tests of the same name, the last result counts. Raises
    ValueError if the run has no tests.
    """
    import zoo

    from pytest_torchexport.config.tested import Run
    from pytest_torchexport.results import reports

    by_name = {name_of(case): case for case in report.iter("testcase")}
    if not by_name:
        raise ValueError("the file has no tests")
    later = {name_of(case): case for other in again for case in other.iter("testcase")}
    cases = [*(by_name | later).values()]
    passed = {
        case.get("name")
        for case in cases
        if case.get("classname") == ZOO and result(case) == "passed"
    }
    truths = {
        row.name: {t: row.truth()[t] for t in row.changed() if item(row, t) in passed}
        for row in zoo.ZOO
    }
    return Run(
        date=min(suite.get("timestamp", "") for suite in report.iter("testsuite"))[:10],
        versions=reports.environment(),
        tests=dict(Counter(sorted(map(result, cases)))),
        again=len(later.keys() & by_name.keys()),
        verdicts=sum(name.startswith(f"{VERDICT}[") for name in passed if name),
        zoo={name: found for name, found in truths.items() if found},
        left_out=sorted(files() - set(map(file_of, cases))),
    )


def name_of(case: ET.Element) -> tuple[str, str]:
    """Return what tells a test from others."""
    return case.get("classname", ""), case.get("name", "")


def result(case: ET.Element) -> str:
    """Return ``passed``, ``failed``, ``skipped`` or ``xfailed``; an error of a fixture is a failure."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    if skipped is None:
        return "passed"
    return "xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"


def item(row: Any, target: str) -> str:
    """Return the name of a row's test on a target."""
    return f"{VERDICT}[{row.name.replace(' ', '-')}-{target}]"


def files() -> set[str]:
    """Return the test files of the suite."""
    found = [
        path for folder in ("tests", "examples") for path in (ROOT / folder).rglob("test_*.py")
    ]
    return {path.relative_to(ROOT).as_posix() for path in found}


def file_of(case: ET.Element) -> str:
    """Return the file of a test, whose class name may end in that of a class."""
    parts = case.get("classname", "").split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end]).with_suffix(".py")
        if path.is_file():
            return path.relative_to(ROOT).as_posix()
    return ""


def recorded(run: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of the file with this run among them."""
    from pytest_torchexport.config.tested import runs

    others = [other for other in runs(path) if other.key != run.key]
    yield from (asdict(each) for each in sorted([*others, run], key=lambda each: each.key))


def main() -> int:
    from pytest_torchexport.config import tested

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="the JUnit file of a run on this interpreter")
    parser.add_argument(
        "again",
        type=Path,
        nargs="*",
        help="those of later runs: of tests that failed, and of new ones",
    )
    parser.add_argument("--into", type=Path, default=tested.FILE, help="the file to write")
    given = parser.parse_args()
    run = run_of(*(ET.parse(path).getroot() for path in (given.report, *given.again)))
    entries = list(recorded(run, given.into))
    given.into.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    print(
        f"{run.name}: {run.tests}, {run.verdicts} verdicts of the zoo, without {run.left_out or 'nothing'}"
    )
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
