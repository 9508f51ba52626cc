"""Print how many faults are found that only a corner of the domain shows, and the false alarms.

`python benchmarks/regions.py --seeds 0,1,2 --targets trace,onnx,export --jobs 2`

Each model of ``zoo.regions`` is checked twice per seed and target: as it is, and with a target
that exports its ``shipped`` in place of ``forward``. So only the artifact has the fault, and eager
never sees it. The modules of ``zoo.steep`` have no fault.

A model is used only if its fault is in a corner (at most 0.1 % of 3,000 uniform calls show it) and
can be reached (its witness is a legal call that shows it). A pair of model and target counts if the
healthy model passes there, and if the exporter keeps the fault: the artifact that was checked
differs from eager on the witness.

A steep module that fails is a false alarm. So is a model without its fault that fails, unless the
exporter itself broke it: the artifact is off by more than 100 times eager's own float32 error on
calls drawn here, on zeros, or on the witness.
"""

from __future__ import annotations

import copy
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch
import zoo
from common import (
    Around,
    Record,
    apart,
    by_target,
    count,
    differ,
    healthy_table,
    judged,
    misses,
    table,
    why,
)
from torch import Tensor, nn
from zoo.domains import Inputs, Region

from pytest_torchexport import NotApplicable, Verdict, check_export, register_target
from pytest_torchexport.targets import export, onnx, trace
from pytest_torchexport.targets.base import Artifact, Target

BASES: dict[str, Target] = {"trace": trace.TARGET, "export": export.TARGET, "onnx": onnx.TARGET}
# A model is in a corner if at most this share of the uniform calls shows its fault.
MOST_VOLUME, VOLUME_CALLS = 1e-3, 3000
# A difference on uniform calls is relative to eager; that on a witness is far beyond rounding.
RELATIVE, WITNESS_RELATIVE = 1e-4, 1e-3
BY_HAND_CALLS = 300

Key = tuple[str, str]


# -- the target ------------------------------------------------------------------------------------


class Shipping(Around):
    """A target that exports the faulty forward with the module's weights; it keeps artifacts."""

    def __init__(self, base: Target) -> None:
        super().__init__(base)
        self.made: list[Artifact] = []

    def export(
        self, module: nn.Module, example: Any, spec: Any, **options: Any
    ) -> Artifact | NotApplicable:
        other, cls = copy.copy(module), type(module)
        other.__class__ = type(cls.__name__, (cls,), {"forward": SHIPPED[cls]})
        artifact = self.base.export(other, example, spec, **options)
        if not isinstance(artifact, NotApplicable):
            self.made.append(artifact)
        return artifact


FAULTY: list[Any] = zoo.rows("faulty")
STEEP: list[Any] = zoo.rows("steep")
SHIPPED = {row.make: row.shipped for row in FAULTY}
# The targets with the faults, by the name of their base.
WITH_FAULT = {name: Shipping(base) for name, base in BASES.items()}


def register() -> None:
    for name in BASES:
        register_target(f"faulty_{name}", WITH_FAULT[name])


# -- a model without the plugin --------------------------------------------------------------------


def examine(row: Region) -> float:
    """Return the share of uniform calls that show the fault.

    Raises AssertionError if the share is too large, or if the witness is illegal or shows nothing.
    """
    net = row.build()
    witness = row.witness(net)
    assert row.domain.holds(witness), f"{row.name}: the witness is illegal"
    apart = differ(_run(net, witness), _run(row.shipped, (net, *witness)), WITNESS_RELATIVE)
    assert apart, f"{row.name}: the witness does not show the fault"
    chooser = random.Random(f"volume {row.name}")
    shown = sum(_shows(row, net, row.domain.draw(chooser)) for _ in range(VOLUME_CALLS))
    assert shown <= MOST_VOLUME * VOLUME_CALLS, f"{row.name}: {shown} uniform calls differ"
    return shown / VOLUME_CALLS


def uniform(row: Region, seed: int, calls: int) -> bool:
    """Return True if one of so many uniform calls, with sizes at random, shows the fault."""
    net, chooser = row.build(), random.Random(f"uniform {row.name} {seed}")
    return any(_shows(row, net, row.domain.draw(chooser)) for _ in range(calls))


def _shows(row: Region, net: nn.Module, call: Inputs) -> bool:
    return differ(_run(net, call), _run(row.shipped, (net, *call)), RELATIVE)


def _run(function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> Tensor:
    with torch.no_grad():
        return function(*inputs)


def broken(row: Region, target: str) -> bool:
    """Return True if the exporter itself breaks the healthy module, as measured without a check."""
    net, chooser = row.build(), random.Random(f"by hand {row.name}")
    example = row.domain.example()
    dims = common.dims_of(row.options["shapes"], row.domain.dims)
    try:
        artifact = common.exported(copy.deepcopy(net), example, dims, target)
    except Exception:  # exporters raise many types: by hand, it breaks nothing
        return False
    calls = [row.domain.draw(chooser) for _ in range(BY_HAND_CALLS)]
    zeros = tuple(torch.zeros_like(x) for x in example)
    calls += [zeros] if row.domain.holds(zeros) else []
    calls.append(row.witness(net))
    return apart(net, artifact, calls)


# -- a model with the plugin -----------------------------------------------------------------------


def judge(key: Key, seeds: list[int], targets: tuple[str, ...], calls: int) -> list[Record]:
    """Return one record per seed and target of a row of FAULTY or STEEP."""
    register()
    row = ROWS[key]
    record: Record = {"kind": key[0], "name": row.name, "mechanism": row.mechanism}
    faulty = key[0] == "faulty"
    if faulty:
        record["volume"] = examine(row)
    records = []
    for seed in seeds:
        seeded = record | {"seed": seed}
        if faulty:
            seeded["uniform"] = uniform(row, seed, calls)
        for target in (each for each in row.targets if each in targets):
            one = seeded | {"target": target}
            one |= judged(_verdict(row, target, seed), lambda on=target: faulty and broken(row, on))
            if faulty and one["healthy"] == "passed":
                one |= _faulty(row, target, seed)
            records.append(one)
    return records


def _faulty(row: Region, target: str, seed: int) -> Record:
    made = WITH_FAULT[target].made
    made.clear()
    verdict = _verdict(row, f"faulty_{target}", seed)
    net = row.build()
    witness = row.witness(net)
    kept = bool(made) and differ(_run(net, witness), _run(made[-1], witness), RELATIVE)
    return {
        "counted": kept,
        # A failure of the plugin itself finds nothing.
        "found": verdict.status == "failed" and verdict.failure != "Failure",
        "failure": verdict.failure,
        "faulty_reason": why(verdict),
    }


def _verdict(row: Region, target: str, seed: int) -> Verdict:
    return check_export(
        row.build(),
        row.domain.example(),
        target=target,
        seed=seed,
        diagnose=False,
        **row.domain.options(),
    )


# -- all of them -----------------------------------------------------------------------------------

ROWS: dict[Key, Region] = {
    **{("faulty", row.name): row for row in FAULTY},
    **{("steep", row.name): row for row in STEEP},
}


def faulty_table(found: list[Record], targets: tuple[str, ...]) -> str:
    """Return a Markdown table: per mechanism, then per seed, the models found of those counted."""

    def row(name: str, of: list[Record]) -> list[object]:
        models = {record["name"] for record in of}
        drawn = {(record["name"], record["seed"]): record["uniform"] for record in of}
        first, *cells = by_target(name, of, targets, count)
        return [first, len(models), f"{sum(drawn.values())} / {len(drawn)}", *cells]

    groups: dict[str, list[Record]] = {}
    for words, field in (("{}", "mechanism"), ("all", ""), ("all, seed {}", "seed")):
        for record in found:
            groups.setdefault(words.format(record.get(field)), []).append(record)
    rows = [row(name, of) for name, of in groups.items()]
    return table(["mechanism", "models", "uniform", *targets, "all"], *rows)


def main() -> None:
    parser = common.parser(__doc__, "trace,onnx,export")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default="", help="only with this in the name or mechanism")
    parser.add_argument("--calls", type=int, default=100, help="uniform calls per model and seed")
    given = parser.parse_args()
    seeds, targets = list(map(int, given.seeds.split(","))), tuple(given.targets.split(","))
    keys = [key for key, row in ROWS.items() if given.rows in f"{row.name}, {row.mechanism}"]
    if not keys:
        parser.error(f"no model has {given.rows!r} in its name or mechanism")
    items = [(key, seeds, targets, given.calls) for key in keys]
    found = common.records(judge, items, given)
    targets = tuple(target for target in targets if any(r["target"] == target for r in found))
    faulty = [record for record in found if "uniform" in record]
    print(f"{len(keys)} models, seeds {given.seeds}\n")
    if faulty:
        largest = max(record["volume"] for record in faulty)
        print(f"Found / counted; the largest volume is {largest:.2%}:\n")
        print(faulty_table(faulty, targets))
    print(f"\n{healthy_table(found, targets)}")
    print("\n" + ("\n".join(misses(found)) or "no miss, no false alarm"))


if __name__ == "__main__":
    main()
