"""Print how many failures of the zoo name the right owner, line and cause, and which do not.

`python benchmarks/blame.py --targets trace,script,export --slice 0/4`
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import zoo
from zoo.blaming import judged

from pytest_torchexport import check_export
from pytest_torchexport.config import names

CALLS = 20


def main() -> int:
    """Check the rows of a slice. Return 1 if a report names a wrong owner, line or cause."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", default="trace,script,export")
    parser.add_argument("--slice", default="0/1", help="this part of the rows, of so many")
    given = parser.parse_args()
    first, step = map(int, given.slice.split("/"))
    wanted = given.targets.split(",")
    items = [(row, target) for row in zoo.ZOO for target in row.blames() if target in wanted]
    found: Counter[tuple[str, str]] = Counter()
    seconds = 0.0
    warnings.simplefilter("ignore")
    for row, target in items[first::step]:
        result, spent = _result(row, target)
        seconds += spent
        found.update(result.items())
        if set(result.values()) != {"right"}:
            print(f"{row.name} on {target}: {result}", flush=True)
    for part in ("owner", "line", "cause"):
        counts = (f"{found[part, kind]} {kind}" for kind in ("right", "unknown", "wrong"))
        print(f"{part:<6}", ", ".join(counts))
    print(f"{len(items[first::step])} failures, {seconds:.1f} s of diagnosis")
    return int(any(kind == "wrong" and count for (_, kind), count in found.items()))


def _result(row: zoo.Row, target: str) -> tuple[dict[str, str], float]:
    args, kwargs = row.example()
    checks = tuple(name for name in names.checks() if name != "round_trip")
    options = {"max_examples": CALLS, "checks": checks, **row.options}
    subject = row.build()
    start = time.perf_counter()
    with row.under():
        verdict = check_export(subject, args, kwargs, target=target, **options)
    spent = verdict.seconds.get("diagnosis", time.perf_counter() - start)
    if verdict.failure != row.truth()[target]:
        return {"verdict": f"{verdict.failure}, not {row.truth()[target]}"}, spent
    blame = row.blamed(target)
    return (judged(verdict, blame), spent) if blame is not None else ({}, spent)


if __name__ == "__main__":
    sys.exit(main())
