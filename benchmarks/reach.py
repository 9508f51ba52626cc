"""Print how many models are found that only rarely drawn calls show to be wrong.

`python benchmarks/reach.py --seeds 0,1,2 --targets trace,export,onnx --jobs 1`

Each model of `reach_models.py` has witnesses: rows of legal calls, each from its first state on. It
counts if eager and the artifact of the check differ on one of them, and is healthy if on none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch
from common import Around, Record, by_target, count, differ, healthy_table, judged, misses, table
from families import Model
from reach_models import MODELS
from torch import nn

from pytest_torchexport import check_export, register_target
from pytest_torchexport.targets import export, onnx, trace
from pytest_torchexport.targets.base import Target

CHECKS = ("parity", "control_flow", "dims", "state")
BASES = {"trace": trace, "export": export, "onnx": onnx}


class Keeping(Around):
    """A target that can make each of its artifacts again, of another copy of the module."""

    def __init__(self, base: Target) -> None:
        super().__init__(base)
        self.again: list[Callable[[nn.Module], Any]] = []

    def export(self, module: nn.Module, example: Any, spec: Any, **options: Any) -> Any:
        self.again.append(partial(self.base.export, example=example, spec=spec, **options))
        return self.base.export(module, example, spec, **options)


KEEPING = {name: Keeping(module.TARGET) for name, module in BASES.items()}


def judge(name: str, seeds: list[int], targets: list[str]) -> list[Record]:
    """Return one record per seed and target."""
    model, records = MODELS[name], []
    for target in (each for each in targets if each in model.targets):
        register_target(f"kept_{target}", KEEPING[target])
        for seed in seeds:
            KEEPING[target].again.clear()
            verdict = check_export(
                model.build(),
                model.inputs,
                target=f"kept_{target}",
                seed=seed,
                checks=CHECKS,
                diagnose=False,
                **model.options,
            )
            record = judged(verdict, lambda: False)
            if record["healthy"] != "refused" and shown(model, KEEPING[target].again[0]):
                found = verdict.status == "failed" and verdict.failure != "Failure"
                record |= {"healthy": "passed", "counted": True, "found": found}
            own = {"name": model.name, "mechanism": model.family, "target": target, "seed": seed}
            records.append(own | record)
    return records


def shown(model: Model, export: Callable[[nn.Module], Any]) -> bool:
    """Return True if a row of calls shows a difference between eager and a new artifact."""
    artifact = export(model.build())
    for row in model.witnesses:
        module = model.build()
        if len(row) > 1:
            artifact = export(model.build())
        for call in row:
            with torch.no_grad():
                eager = module(*call)
                try:
                    found = artifact(*call)
                except Exception:  # torch and ONNX Runtime raise different types
                    return True
            if differ(eager, found, 1e-3):
                return True
    return False


def main() -> None:
    parser = common.parser(__doc__, "trace,export,onnx")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default="", help="only models with this in the name")
    given = parser.parse_args()
    seeds, targets = list(map(int, given.seeds.split(","))), given.targets.split(",")
    names = [name for name in MODELS if given.rows in name]
    if not names:
        parser.error(f"no model has {given.rows!r} in its name")
    found = common.records(judge, [(name, seeds, targets) for name in names], given)
    families = dict.fromkeys(record["mechanism"] for record in found)
    groups = [(name, [r for r in found if r["mechanism"] == name]) for name in families]
    rows = [by_target(name, of, targets, count) for name, of in [*groups, ("all", found)]]
    print(f"{len(names)} models, seeds {given.seeds}; found / counted:\n")
    print(table(["mechanism", *targets, "all"], *rows))
    healthy = [record for record in found if "counted" not in record]
    print(f"\n{healthy_table(healthy, targets)}")
    print("\n" + ("\n".join(misses(found)) or "no miss, no false alarm"))


if __name__ == "__main__":
    main()
