"""Print how often a failure's line is the one to blame, of models whose line is marked.

`python benchmarks/lines.py --targets trace,onnx_legacy,export,onnx --jobs 1`

An item is a model of `lines_models.py` on a target. If it fails, its line is right if it is marked;
if two lines share the blame, each is right, and it is counted whether the report names both.
"""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
from common import Record, by_target, table
from lines_models import MODELS

from pytest_torchexport import Verdict, check_export

MARKS = ("# here", "# also")


def judge(name: str, target: str, seed: int) -> list[Record]:
    """Return the record of one item."""
    model = MODELS[name]
    verdict = check_export(model.build(), model.inputs, target=target, seed=seed, **model.options)
    text = verdict.where.text if verdict.where is not None else ""
    result = "right" if text.endswith(MARKS) else "wrong" if text else "none"
    record = {
        "name": name,
        "family": model.family,
        "target": target,
        "failure": verdict.failure or "",
        "line": text,
        "result": result if verdict.status == "failed" else verdict.status,
    }
    source = inspect.getsource(model.forward)
    if result == "right" and "# also" in source:
        marked = [line for line in source.splitlines() if line.endswith(MARKS)]
        said = _said(verdict)
        record["both"] = all(line.partition("  #")[0].strip() in said for line in marked)
    return [record]


def _said(verdict: Verdict) -> str:
    """Return what a report says of the lines of a failure."""
    causes = verdict.diagnosis.causes
    details = [*verdict.details, *(line for cause in causes for line in cause.details)]
    return "\n".join(map(str, [*details, verdict.where, *(cause.where for cause in causes)]))


def cell(found: list[Record]) -> str:
    """Return how many lines were right, not named and wrong."""
    results = [record["result"] for record in found]
    return " / ".join(str(results.count(result)) for result in ("right", "none", "wrong"))


def main() -> None:
    parser = common.parser(__doc__, "trace,onnx_legacy,export,onnx")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", default="", help="only models with this in the name")
    given = parser.parse_args()
    targets = given.targets.split(",")
    items = [
        (name, target, given.seed)
        for name, model in MODELS.items()
        for target in targets
        if given.rows in name and target in model.targets
    ]
    if not items:
        parser.error(f"no model has {given.rows!r} in its name")
    found = common.records(judge, items, given)
    families = dict.fromkeys(record["family"] for record in found)
    groups = [(name, [r for r in found if r["family"] == name]) for name in families]
    rows = [by_target(name, of, targets, cell) for name, of in [*groups, ("all", found)]]
    print(f"{len(items)} items; of those that fail, the line is right / not named / wrong:\n")
    print(table(["line of", *targets, "all"], *rows))
    both = [record["both"] for record in found if "both" in record]
    print(f"\nOf {len(both)} with two lines, {sum(both)} name both.\n")
    for record in found:
        if record["result"] not in ("right", "passed"):
            print("- {result}: {name} on {target}: {failure} {line}".format(**record))


if __name__ == "__main__":
    main()
