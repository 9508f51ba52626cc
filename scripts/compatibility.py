"""Record a run of the suite, with the versions that it ran on, in ``scripts/compatibility.json``.

The package ships the versions of those that passed, in ``pytest_torchexport/config/tested.json``.

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
ZOO = "tests.test_zoo"
VERDICT = "test_verdict_is_the_truth"
FILE = Path(__file__).with_suffix(".json")
# Test files that need a GPU.
NEED_GPU = "tests/gpu/"
# Tests that need transformers, timm and torchvision, which are released for one version of torch.
NEED_OTHERS = ("tests/real/", "examples/test_bert.py")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the suite.

    ``date``: the day, as ``2026-11-22``. ``versions``: as ``results.reports.environment`` returns
    them. ``tests``: the number of tests that passed, failed, were skipped, and failed as expected.
    ``again``: how many of them failed at first, and were run again after a change to them or to the
    plugin. ``verdicts``: how many verdicts of the zoo were the truth. ``zoo``: the truth by target
    of the rows whose truth depends on the version, as far as it was checked. ``left_out``: the test
    files without a result.
    """

    date: str
    versions: Mapping[str, str]
    tests: Mapping[str, int]
    again: int
    verdicts: int
    zoo: Mapping[str, Mapping[str, str | None]]
    left_out: Sequence[str]

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The versions of torch and Python, which no two entries share, to sort by."""
        from pytest_torchexport.config.tested import numbers

        return numbers(self.versions["torch"]), numbers(self.versions["python"])[:2]

    @property
    def passed(self) -> bool:
        """True if no test failed, and all ran but for those on a GPU and those of real models."""
        known = (NEED_GPU, *NEED_OTHERS)
        return not self.tests.get("failed") and all(f.startswith(known) for f in self.left_out)

    @property
    def on_gpu(self) -> bool:
        """True if the tests that need a GPU ran."""
        return not any(path.startswith(NEED_GPU) for path in self.left_out)


def runs(path: Path = FILE) -> list[Run]:
    """Return the recorded runs, ordered by the versions of torch and Python."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return sorted((Run(**entry) for entry in entries), key=lambda run: run.key)


def write(recorded: Sequence[Run], path: Path, shipped: Path) -> None:
    """Write the runs to a file, and the versions of those that passed to the package's."""
    passed = [{"versions": run.versions, "on_gpu": run.on_gpu} for run in recorded if run.passed]
    for place, entries in ((path, [asdict(run) for run in recorded]), (shipped, passed)):
        place.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def run_of(report: ET.Element, *again: ET.Element) -> Run:
    """Return the run of a JUnit file.

    ``again`` are later runs of some tests and of new ones; of tests of the same name, the last result counts. Raises
    ValueError if the run has no tests.
    """
    import zoo

    from pytest_torchexport.results import reports

    by_name = {name_of(case): case for case in report.iter("testcase")}
    if not by_name:
        raise ValueError("the file has no tests")
    later = {name_of(case): case for other in again for case in other.iter("testcase")}
    cases = [*(by_name | later).values()]
    passed = {
        test
        for (file, test), case in (by_name | later).items()
        if file == ZOO and result(case) == "passed"
    }
    truths = {
        row.name: {
            target: row.truth()[target]
            for target in row.changed()
            if f"{VERDICT}[{row.name.replace(' ', '-')}-{target}]" in passed
        }
        for row in zoo.ZOO
    }
    return Run(
        date=min(suite.get("timestamp", "") for suite in report.iter("testsuite"))[:10],
        versions=reports.environment(),
        tests=dict(Counter(sorted(map(result, cases)))),
        again=len(later.keys() & by_name.keys()),
        verdicts=sum(name.startswith(f"{VERDICT}[") for name in passed),
        zoo={name: found for name, found in truths.items() if found},
        left_out=sorted(files() - set(map(file_of, cases))),
    )


def name_of(case: ET.Element) -> tuple[str, str]:
    """Return the name that tells a test from others."""
    return case.get("classname", ""), case.get("name", "")


def result(case: ET.Element) -> str:
    """Return ``passed``, ``failed``, ``skipped`` or ``xfailed``; an error of a fixture is a failure."""
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    skipped = case.find("skipped")
    if skipped is None:
        return "passed"
    return "xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"


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


def main() -> int:
    from pytest_torchexport.config import tested

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, help="the JUnit file of a run on this interpreter")
    parser.add_argument("again", type=Path, nargs="*", help="those of later runs of some tests")
    parser.add_argument("--into", type=Path, default=FILE, help="the file to write")
    parser.add_argument("--ship", type=Path, default=tested.FILE, help="that of the package")
    given = parser.parse_args()
    run = run_of(*(ET.parse(path).getroot() for path in (given.report, *given.again)))
    others = [other for other in runs(given.into) if other.key != run.key]
    write(sorted([*others, run], key=lambda each: each.key), given.into, given.ship)
    print(
        f"{tested.torch_and_python(run.versions)}: {run.tests}, {run.verdicts} verdicts of the zoo, without {run.left_out or 'nothing'}"
    )
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
