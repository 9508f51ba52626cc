"""Print how many random healthy networks pass, and how many with one known fault fail.

`python benchmarks/faults.py --networks 200 --targets trace,script,export,onnx --seed 0 --jobs 2`

Only the artifact has the fault; eager stays healthy. A fault counts only if independent draws show
an effect of more than 100 times eager's own float32 error, measured against float64.

A healthy network that fails is a false alarm, unless the exporter itself broke it: exported by hand
and called with the same independent draws, the artifact raises or differs by as much as above.
"""

from __future__ import annotations

import copy
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch
from common import Record, apart, by_target, count, healthy_table, judged, misses, table
from networks import EXAMPLE, FAULTS, RANGES, Network
from torch import nn

from pytest_torchexport import check_export

CALLS = 20
SCALES = (1.0, 1.0, 0.3, 0.1, 3.0)
IN_A_ROW = 3


# -- effect of a fault -----------------------------------------------------------------------------


def effect(network: Network, healthy: nn.Module, faulty: nn.Module) -> bool:
    """Return True if sequences of calls drawn here show a difference of the faulty forward."""
    return _differs_on_draws(network, healthy, lambda: copy.deepcopy(faulty).faulty)


def broken(network: Network, healthy: nn.Module, target: str) -> bool:
    """Return True if the exporter refuses or breaks this module without the plugin, too."""

    def exported() -> Callable[..., Any]:
        dims = common.dims_of(network.shapes, RANGES)
        return common.exported(copy.deepcopy(healthy), network.example(), dims, target)

    try:
        return _differs_on_draws(network, healthy, exported)
    except Exception:  # exporters raise many types
        return True


def _differs_on_draws(
    network: Network, healthy: nn.Module, fresh: Callable[[], Callable[..., Any]]
) -> bool:
    chooser = random.Random(f"effect {network.seed}")
    for scale in SCALES:
        calls = [
            network.call(chooser.randrange(2**31), _sizes(chooser), scale) for _ in range(IN_A_ROW)
        ]
        if apart(healthy, fresh(), calls):
            return True
    return False


def _sizes(chooser: random.Random) -> dict[str, int]:
    return {name: chooser.randint(*RANGES[name]) for name in EXAMPLE}


# -- one network -----------------------------------------------------------------------------------


def judge(seed: int, targets: list[str]) -> list[Record]:
    """Return one record per target."""
    network = Network(seed)
    with tempfile.TemporaryDirectory() as directory:
        healthy, faulty = network.load(Path(directory))
        counted = effect(network, healthy, faulty)
        return [_pair(network, target, healthy, faulty, counted) for target in targets]


def _pair(
    network: Network, target: str, healthy: nn.Module, faulty: nn.Module, counted: bool
) -> Record:
    record: Record = {
        "name": f"network {network.seed}",
        "seed": network.seed,
        "target": target,
        "mechanism": network.fault,
    }
    if network.stateful and target == "onnx":
        return record | {"healthy": "refused", "reason": "an ONNX file carries no state"}
    verdict = _verdict(network, healthy, target)
    record |= judged(verdict, lambda: broken(network, healthy, target))
    if record["healthy"] == "passed":
        record["counted"] = counted
    if record.get("counted"):
        found = _verdict(network, faulty, target)
        record |= {"found": found.status == "failed", "failure": found.failure}
        record["faulty_reason"] = found.reason
    return record


def _verdict(network: Network, module: nn.Module, target: str) -> Any:
    # As the truth is measured: attention's fast path is taken without gradients alone.
    with torch.no_grad():
        return check_export(
            module,
            network.example(),
            target=target,
            seed=network.seed,
            max_examples=CALLS,
            diagnose=False,
            **network.options(),
        )


# -- all of them -----------------------------------------------------------------------------------


def tables(records: list[Record], targets: list[str]) -> str:
    """Return the healthy networks, then one row per kind of fault, then the seeds of misses."""

    groups = {fault: [r for r in records if r["mechanism"] == fault] for fault in FAULTS}
    rows = [by_target(name, of, targets, count) for name, of in [*groups.items(), ("all", records)]]
    faulty = table(["found / counted", *targets, "all"], *rows)
    return "\n\n".join([healthy_table(records, targets), faulty, "\n".join(misses(records))])


def main() -> None:
    parser = common.parser(__doc__, "trace,script,export,onnx")
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first network's")
    parser.add_argument("--show", type=int, metavar="SEED", help="print this network's source")
    given = parser.parse_args()
    if given.show is not None:
        print(Network(given.show).source, end="")
        return
    targets = given.targets.split(",")
    seeds = range(given.seed, given.seed + given.networks)
    records = common.records(judge, [(seed, targets) for seed in seeds], given)
    print(f"{len(seeds)} networks from seed {given.seed}\n\n{tables(records, targets)}")


if __name__ == "__main__":
    main()
