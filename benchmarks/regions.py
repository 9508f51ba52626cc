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

import argparse
import copy
import json
import multiprocessing
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import torch
import zoo
from torch import Tensor, nn
from zoo.domains import Inputs, Region

from pytest_torchexport import NotApplicable, Verdict, check_export, register_target
from pytest_torchexport.outcomes.torch_state import doubles_by_default
from pytest_torchexport.targets import export, onnx, trace
from pytest_torchexport.targets.base import Artifact, Target

BASES: dict[str, Target] = {
    "trace": trace.TARGET,
    "export": export.TARGET,
    "onnx": onnx.TARGET,
}
# A model is in a corner if at most this share of the uniform calls shows its fault.
MOST_VOLUME, VOLUME_CALLS = 1e-3, 3000
# A difference on uniform calls is relative to eager; that on a witness is far beyond rounding.
RELATIVE, ABSOLUTE, WITNESS_RELATIVE = 1e-4, 1e-5, 1e-3
TIMES_OWN_ERROR, BY_HAND_CALLS = 100, 300

Record = dict[str, Any]
Key = tuple[str, str]


# -- the target ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Captured:
    """A target that exports another forward with the module's weights, and keeps the artifact.

    ``forward`` returns that forward for a module, or None for the module's own.
    """

    base: Target
    forward: Callable[[nn.Module], Callable[..., Any]]
    made: list[Artifact]

    @property
    def traits(self) -> Any:
        return self.base.traits

    def unavailable(self, device: str) -> str | None:
        return self.base.unavailable(device)

    def export(
        self, module: Callable[..., Any], example: Any, spec: Any, **options: Any
    ) -> Artifact | NotApplicable:
        assert isinstance(module, nn.Module)
        other = copy.copy(module)
        other.__class__ = type(
            type(module).__name__, (type(module),), {"forward": self.forward(module)}
        )
        artifact = self.base.export(other, example, spec, **options)
        if not isinstance(artifact, NotApplicable):
            self.made.append(artifact)
        return artifact

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        return self.base.load(path, device)


FAULTY: list[Any] = zoo.rows("faulty")
STEEP: list[Any] = zoo.rows("steep")
SHIPPED = {row.make: row.shipped for row in FAULTY}
# The targets with the faults, and those that only keep the artifact, by the name of their base.
WITH_FAULT = {
    name: Captured(base, lambda module: SHIPPED[type(module)], [])  # type: ignore[index]
    for name, base in BASES.items()
}
KEPT = {
    name: Captured(base, lambda module: type(module).forward, []) for name, base in BASES.items()
}


def register() -> None:
    for name in BASES:
        register_target(f"faulty_{name}", WITH_FAULT[name])
        register_target(f"kept_{name}", KEPT[name])


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


def differ(eager: Tensor, other: Tensor, relative: float) -> bool:
    """Return True if shapes or dtypes differ, or an element by more than the share of eager's."""
    if eager.shape != other.shape or eager.dtype != other.dtype:
        return True
    close = torch.allclose(
        other.double(), eager.double(), rtol=relative, atol=ABSOLUTE, equal_nan=True
    )
    return not close


def broken(row: Region, target: str) -> bool:
    """Return True if the exporter itself breaks the healthy module, as measured without a check."""
    net, chooser = row.build(), random.Random(f"by hand {row.name}")
    check_export(
        net, row.domain.example(), target=f"kept_{target}", checks=["parity"], max_examples=1,
        diagnose=False, **row.domain.options(),
    )  # fmt: skip
    if not KEPT[target].made:
        return False
    artifact = KEPT[target].made[-1]
    calls = [row.domain.draw(chooser) for _ in range(BY_HAND_CALLS)]
    zeros = tuple(torch.zeros_like(x) for x in row.domain.example())
    calls += [zeros] if row.domain.holds(zeros) else []
    calls.append(row.witness(net))
    return any(_far(net, artifact, call) for call in calls)


def _far(net: nn.Module, artifact: Callable[..., Tensor], call: Inputs) -> bool:
    eager, other = _run(net, call), _run(artifact, call)
    if not eager.is_floating_point():
        return False  # a tie of the healthy module may be decided by rounding
    wide = tuple(x.double() if x.is_floating_point() else x for x in call)
    with doubles_by_default():
        exact = _run(copy.deepcopy(net).double(), wide)
    own = (eager.double() - exact).abs().nan_to_num().max()
    least = torch.finfo(eager.dtype).eps * exact.abs().nan_to_num().max()
    off = (other.double() - eager.double()).abs().nan_to_num(torch.inf).max()
    return bool(off > TIMES_OWN_ERROR * torch.maximum(own, least))


# -- a model with the plugin -----------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """The user's choice: seeds, targets, the number of uniform calls, healthy and faulty items."""

    seeds: tuple[int, ...]
    targets: tuple[str, ...]
    calls: int
    healthy: bool
    faulty: bool


def judge(key: Key, wanted: Wanted) -> list[Record]:
    """Return one record per seed and target of a row of FAULTY or STEEP."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    register()
    row = ROWS[key]
    record: Record = {"kind": key[0], "name": row.name, "mechanism": row.mechanism}
    faulty = key[0] == "faulty" and wanted.faulty
    if faulty:
        record["volume"] = examine(row)
    records = []
    for seed in wanted.seeds:
        seeded = record | {"seed": seed}
        if faulty:
            seeded["uniform"] = uniform(row, seed, wanted.calls)
        for target in row.targets:
            if target in wanted.targets:
                one = seeded | {"target": target}
                one |= _healthy(row, target, seed) if wanted.healthy else {"healthy": "passed"}
                if faulty and one["healthy"] == "passed":
                    one |= _faulty(row, target, seed)
                records.append(one)
    return records


def _healthy(row: Region, target: str, seed: int) -> Record:
    started = time.perf_counter()
    verdict = _verdict(row, target, seed)
    seconds = time.perf_counter() - started
    record = {"healthy": "passed", "seconds": seconds, "reason": _why(verdict)}
    if verdict.status == "skipped" or verdict.failure == "ExportRefused":
        record["healthy"] = "refused"
    elif verdict.status == "failed":
        really = "faulty" in row.tags and broken(row, target)
        record["healthy"] = "broken by the exporter" if really else "false alarm"
    return record


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
        "faulty_reason": _why(verdict),
    }


def _why(verdict: Verdict) -> str:
    """Return the class of a failure, its reason, the first difference and the call."""
    worst = [
        f"eager {one.expected}, artifact {one.actual}, |difference| {one.max_abs}"
        for one in verdict.differences[:1]
    ]
    parts = [verdict.failure or "", verdict.reason, *worst, verdict.call]
    return "; ".join(part for part in parts if part)


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


def run(keys: list[Key], wanted: Wanted, jobs: int) -> Iterator[Record]:
    """Yield the records of each row when it is done, in the order of the rows."""
    if jobs == 1:
        for key in keys:
            yield from judge(key, wanted)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for result in [pool.apply_async(judge, (key, wanted)) for key in keys]:
            yield from result.get()


def faulty_table(records: list[Record], targets: tuple[str, ...]) -> str:
    """Return a Markdown table: per mechanism, then per seed, the models found of those counted."""
    head = ["mechanism", "models", "uniform", *targets, "all"]
    rows = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for mechanism in dict.fromkeys(record["mechanism"] for record in records):
        own = [record for record in records if record["mechanism"] == mechanism]
        rows.append(_found_row(mechanism, own, targets))
    rows.append(_found_row("all", records, targets))
    for seed in dict.fromkeys(record["seed"] for record in records):
        own = [record for record in records if record["seed"] == seed]
        rows.append(_found_row(f"all, seed {seed}", own, targets))
    return "\n".join(rows)


def _found_row(name: str, records: list[Record], targets: tuple[str, ...]) -> str:
    models = {record["name"] for record in records}
    drawn = {(record["name"], record["seed"]): record["uniform"] for record in records}
    groups = [[r for r in records if r["target"] == target] for target in targets]
    cells = [_share(group) for group in [*groups, records]]
    return " | ".join(
        [f"| {name}", str(len(models)), f"{sum(drawn.values())} / {len(drawn)}", *cells]
    ) + " |"  # fmt: skip


def _share(records: list[Record]) -> str:
    counted = [record for record in records if record.get("counted")]
    found = sum(record["found"] for record in counted)
    share = f" ({found / len(counted):.0%})" if counted else ""
    return f"{found} / {len(counted)}{share}"


def healthy_table(records: list[Record], targets: tuple[str, ...]) -> str:
    """Return a Markdown table: how many healthy items passed, were refused, or failed."""
    head = ["healthy items", *targets, "all"]
    rows = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for what in ("passed", "refused", "broken by the exporter", "false alarm"):
        groups = [[r for r in records if r["target"] == target] for target in targets]
        cells = [str(sum(r["healthy"] == what for r in group)) for group in [*groups, records]]
        rows.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(rows)


def misses(records: list[Record]) -> Iterator[str]:
    """Yield a line per fault that was missed, per pair that does not count, and per alarm."""
    for record in records:
        where = (
            f"{record['name']} ({record['mechanism']}) on {record['target']}, seed {record['seed']}"
        )
        if record["healthy"] != "passed":
            yield f"- {record['healthy']}: {where}: {record['reason']}"
        elif "found" in record and not record["counted"]:
            yield f"- not counted: {where}: the exporter loses the fault"
        elif "found" in record and not record["found"]:
            yield f"- missed: {where}"


def progress(record: Record) -> str:
    text = f"{record['name']:32} {record['target']:6} seed {record['seed']}: {record['healthy']}"
    if "found" not in record:
        return text
    found = f"found ({record['failure']})" if record["found"] else "MISSED"
    return f"{text}, {found if record['counted'] else 'not counted'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--targets", default="trace,onnx,export")
    parser.add_argument("--rows", default="", help="only with this in the name or mechanism")
    parser.add_argument("--calls", type=int, default=100, help="uniform calls per model and seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all records there")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--healthy-only", action="store_true", help="check no model with its fault")
    only.add_argument("--faulty-only", action="store_true", help="check no model without a fault")
    arguments = parser.parse_args()
    wanted = Wanted(
        seeds=tuple(int(seed) for seed in arguments.seeds.split(",")),
        targets=tuple(arguments.targets.split(",")),
        calls=arguments.calls,
        healthy=not arguments.faulty_only,
        faulty=not arguments.healthy_only,
    )
    keys = [
        key
        for key, row in ROWS.items()
        if (arguments.rows in row.name or arguments.rows in row.mechanism)
        and (key[0] == "faulty" or wanted.healthy)
    ]
    if not keys:
        parser.error(f"no model has {arguments.rows!r} in its name or mechanism")
    records = []
    for record in run(keys, wanted, arguments.jobs):
        print(progress(record), file=sys.stderr, flush=True)
        records.append(record)
        if arguments.json:
            arguments.json.write_text(json.dumps(records, indent=1))
    targets = tuple(t for t in wanted.targets if any(r["target"] == t for r in records))
    faulty = [record for record in records if "uniform" in record]
    print(f"{len(keys)} models, seeds {arguments.seeds}\n")
    if faulty:
        largest = max(record["volume"] for record in faulty)
        print(f"Found / counted; the largest volume is {largest:.2%}:\n")
        print(faulty_table(faulty, targets))
    if wanted.healthy:
        print(f"\n{healthy_table(records, targets)}")
    print("\n" + ("\n".join(misses(records)) or "no miss, no false alarm"))


if __name__ == "__main__":
    main()
