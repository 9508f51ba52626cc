"""Print how many failures of the zoo the scripts show that the plugin writes for them.

`python benchmarks/reproducers.py --every 10 --targets trace,export,onnx`

Each script runs in a process of its own that has neither this package nor the zoo imported. A
script shows a failure if it ends with 1 and
says so, or if it does not survive what the artifact did not survive.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

import zoo  # noqa: E402  # it lies in the directory that was added above
from fresh import Fresh, fresh  # noqa: E402  # they lie in the directory that was added above

from pytest_torchexport import check_export  # noqa: E402

SCRIPT = "reproduce.py"
DEADLY = ("ArtifactCrashed", "ArtifactHung")
# A failure of eager alone, or of the declaration: there is no artifact to show.
NOT_OF_AN_ARTIFACT = ("Ineffective", "NotRepeatable", "SpecError", "TrainingMode")


def cases(arguments: argparse.Namespace) -> list[tuple[Any, str, str]]:
    """Return the rows, targets and failures that the arguments select."""
    found = [
        (row, target, failure)
        for name in arguments.mechanisms.split(",")
        for row in zoo.MECHANISMS[name]
        for target, failure in row.truth().items()
        if failure not in (None, zoo.SKIPPED, *NOT_OF_AN_ARTIFACT)
        if target in arguments.targets.split(",")
        if arguments.only in row.name
    ]
    return found[:: arguments.every]


def shows(script: Path, failure: str, elsewhere: Fresh) -> str:
    """Return ``shown``, ``absent``, or how the script ended otherwise."""
    if not script.is_file():
        return "absent"
    ran = elsewhere.run(script)
    if failure in DEADLY and ran.code != 0:
        return "shown"
    if ran.code == 1 and "The failure is there" in ran.text:
        return "shown"
    lines = ran.text.strip().splitlines()
    return f"ended with {ran.code}: {lines[-1] if lines else ''}"


def record(row: Any, target: str, failure: str, elsewhere: Fresh) -> dict[str, Any]:
    """Return what the scripts of one failure show."""
    args, kwargs = row.example()
    # Below the directory with the zoo, as the files of an item are.
    with tempfile.TemporaryDirectory(dir=TESTS, prefix=".torchexport-") as kept:
        Path(kept, ".gitignore").write_text("*\n", encoding="utf-8")
        os.chdir(TESTS)
        options = {"max_examples": 15, **row.options}
        with row.under():
            verdict = check_export(
                row.build(), args, kwargs, target=target, keep=Path(kept, "item"), **options
            )
        item = Path(kept, "item")
        found = shows(item / SCRIPT, failure, elsewhere)
        notes = [note for note in verdict.notes if note.startswith("not kept")]
    return {
        "row": row.name,
        "target": target,
        "failure": verdict.failure,
        "notes": notes,
        SCRIPT: found,
    }


def main() -> None:
    """Run the selection; print a line per failure and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default=",".join(zoo.TARGETS))
    parser.add_argument("--mechanisms", default=",".join(zoo.MECHANISMS))
    parser.add_argument("--every", type=int, default=1, help="take every n-th failure")
    parser.add_argument("--only", default="", help="a part of the names of rows")
    parser.add_argument("--json", type=Path, help="a file for the records")
    arguments = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as directory, fresh(Path(directory)) as elsewhere:
        for row, target, failure in cases(arguments):
            try:
                found = record(row, target, failure, elsewhere)
            except Exception as error:  # one row must not end the run
                text = f"{type(error).__name__}: {error}"
                found = {"row": row.name, "target": target, "error": text}
            records.append(found)
            print(json.dumps(found), flush=True)
    counts = collections.Counter(found.get(SCRIPT, "error").split(":")[0] for found in records)
    print(dict(counts))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
