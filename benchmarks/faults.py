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
from common import (
    Record,
    by_target,
    dims_of,
    far,
    found_of_counted,
    healthy_table,
    judged,
    misses,
    progress,
    table,
)
from networks import EXAMPLE, FAULTS, RANGES, Network, draw
from torch import Tensor, nn

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
    try:
        exported(network, healthy, target)
    except Exception:  # exporters raise many types
        return True
    return _differs_on_draws(network, healthy, lambda: exported(network, healthy, target))


def _differs_on_draws(
    network: Network, healthy: nn.Module, fresh: Callable[[], Callable[..., Any]]
) -> bool:
    chooser = random.Random(f"effect {network.seed}")
    for scale in SCALES:
        calls = [
            network.call(chooser.randrange(2**31), _sizes(chooser), scale) for _ in range(IN_A_ROW)
        ]
        if _differ(
            _row(copy.deepcopy(healthy), calls),
            _row(fresh(), calls),
            _row(copy.deepcopy(healthy).double(), calls, torch.float64),
        ):
            return True
    return False


def _sizes(chooser: random.Random) -> dict[str, int]:
    return {name: chooser.randint(*RANGES[name]) for name in EXAMPLE}


def _row(
    function: Callable[..., Any],
    calls: list[tuple[Tensor, ...]],
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Tensor]] | None:
    """Return the outputs of each call by name; None if a call raises."""
    rows = []
    try:
        with torch.no_grad():
            for call in calls:
                given = [x.to(dtype) if x.is_floating_point() else x for x in call]
                rows.append(_leaves(function(*given)))
    except Exception:  # torch, TorchScript and ONNX Runtime raise different types
        return None
    return rows


def _leaves(output: Any) -> dict[str, Tensor]:
    if isinstance(output, dict):
        return output
    if isinstance(output, tuple):
        return {str(number): leaf for number, leaf in enumerate(output)}
    return {"": output}


def _differ(
    healthy: list[dict[str, Tensor]] | None,
    faulty: list[dict[str, Tensor]] | None,
    exact: list[dict[str, Tensor]] | None,
) -> bool:
    assert healthy is not None, "the healthy network refuses a legal call"
    assert exact is not None, "the healthy network refuses a legal call in float64"
    if faulty is None:
        return True
    return any(
        mine.keys() != other.keys() or any(far(mine[k], other[k], true[k]) for k in mine)
        for mine, other, true in zip(healthy, faulty, exact, strict=True)
    )


def exported(network: Network, module: nn.Module, target: str) -> Callable[..., Any]:
    """Return an artifact made by hand, whose outputs have the names of eager's."""
    module = copy.deepcopy(module)
    dims = dims_of(network.shapes, RANGES)
    artifact = common.exported(module, network.example(), dims, target)
    if target != "onnx":
        return artifact
    names = list(_leaves(copy.deepcopy(module)(*network.example())))
    return lambda *call: dict(zip(names, artifact(*call), strict=True))


# -- one network -----------------------------------------------------------------------------------


def judge(seed: int, targets: list[str]) -> list[Record]:
    """Return one record per target."""
    network = draw(seed)
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

    def row(name: str, of: list[Record]) -> list[object]:
        cell = lambda group: "{} / {}".format(*found_of_counted(group))  # noqa: E731
        return by_target(name, of, targets, cell)

    kinds = [row(fault, [r for r in records if r["mechanism"] == fault]) for fault in FAULTS]
    faulty = table(["found / counted", *targets, "all"], *kinds, row("all", records))
    return "\n\n".join([healthy_table(records, targets), faulty, "\n".join(misses(records))])


def main() -> None:
    parser = common.parser(__doc__, "trace,script,export,onnx")
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="the first network's")
    parser.add_argument("--show", type=int, metavar="SEED", help="print this network's source")
    given = parser.parse_args()
    if given.show is not None:
        print(draw(given.show).source, end="")
        return
    targets = given.targets.split(",")
    seeds = range(given.seed, given.seed + given.networks)
    records = common.records(judge, [(seed, targets) for seed in seeds], given, progress)
    print(f"{len(seeds)} networks from seed {given.seed}\n\n{tables(records, targets)}")


if __name__ == "__main__":
    main()
