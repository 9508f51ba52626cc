"""Count how often a diagnosis names a fault; `blame_onnx` and `blame_program` share this."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = ("right", "unknown", "wrong")

# What became of one fault: it is counted if a call shows it.
Record = dict[str, Any]
# Returns the records of the network of a seed, of at most so many faults each.
Judge = Callable[[int, int], list[Record]]


def result(known: bool, right: bool) -> str:
    """Return the word for what a report names, if anything."""
    return "unknown" if not known else "right" if right else "wrong"


def table(records: list[Record], by: str, groups: Iterable[str], columns: Mapping[str, str]) -> str:
    """Return a table in Markdown with a row per group; ``columns`` has titles of results."""
    how = " / ".join(RESULTS)
    rows = [[by, "counted", *(f"{title} {how}" for title in columns.values())]]
    rows.append(["---"] * (2 + len(columns)))
    for group in (*groups, "all"):
        found = [r for r in records if r["counted"] and group in (r[by], "all")]
        cells = [
            " / ".join(str(sum(r[key] == what for r in found)) for what in RESULTS)
            for key in columns
        ]
        rows.append([group, str(len(found)), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def run(description: str, judge: Judge, show: Callable[[list[Record]], str], each: int) -> None:
    """Judge the networks that the command line asks for, and print the records and their table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="the first network's")
    parser.add_argument("--each", type=int, default=each, help="faults of each kind per network")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all records there")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.networks)
    records: list[Record] = []
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, _quiet) as pool:
        for found in [pool.apply_async(judge, (seed, arguments.each)) for seed in seeds]:
            for record in found.get():
                records.append(record)
                print(json.dumps(record), file=sys.stderr, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    print(f"{len(seeds)} networks from seed {arguments.seed}\n\n{show(records)}")


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
