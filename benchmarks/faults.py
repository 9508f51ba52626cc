"""Print how many random healthy networks pass, and how many with one known fault fail.

`python benchmarks/faults.py --networks 200 --targets trace,script,export,onnx --seed 0 --jobs 2`

Only the artifact has the fault; eager stays healthy. A fault counts only if independent draws show
an effect of more than 100 times eager's own float32 error, measured against float64.

A healthy network that fails is a false alarm, unless the exporter itself broke it: exported by hand
and called with the same independent draws, the artifact raises or differs by as much as above.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from networks import EXAMPLE, FAULTS, RANGES, Network, draw
from torch import Tensor, nn
from torch.export import Dim

from pytest_torchexport import check_export

CALLS = 20
TIMES_OWN_ERROR = 100
SCALES = (1.0, 1.0, 0.3, 0.1, 3.0)
IN_A_ROW = 3

Record = dict[str, Any]


# -- effect of a fault -----------------------------------------------------------------------------


def effect(network: Network, healthy: nn.Module, faulty: nn.Module) -> bool:
    """Return True if sequences of calls drawn here show a difference of the faulty forward."""
    return _differs_on_draws(network, healthy, lambda: copy.deepcopy(faulty).faulty)


def broken(network: Network, healthy: nn.Module, target: str) -> str:
    """Return how the exporter breaks this module without the plugin; empty if it does not."""
    try:
        exported(network, healthy, target)
    except Exception as error:  # exporters raise many types
        return f"refuses by hand: {type(error).__name__}"
    apart = _differs_on_draws(network, healthy, lambda: exported(network, healthy, target))
    return "raises or differs by hand" if apart else ""


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
        mine.keys() != other.keys() or any(_far(mine[k], other[k], true[k]) for k in mine)
        for mine, other, true in zip(healthy, faulty, exact, strict=True)
    )


def _far(mine: Tensor, other: Tensor, true: Tensor) -> bool:
    if mine.shape != other.shape or mine.dtype != other.dtype:
        return True
    if not torch.equal(mine.isnan(), other.isnan()):
        return True
    off = (mine.double() - other.double()).abs().nan_to_num(0.0, float("inf")).max()
    # An output may happen to be exact; assume an error of half a unit in the last place at least.
    least = float(torch.finfo(mine.dtype).eps / 2 * true.abs().nan_to_num(0.0).max())
    own = max(float((mine.double() - true).abs().nan_to_num(0.0).max()), least)
    return float(off) > TIMES_OWN_ERROR * own


# -- torch's exporters by hand, as a user would call them -----------------------------------------


def exported(network: Network, module: nn.Module, target: str) -> Callable[..., Any]:
    module = copy.deepcopy(module)
    with torch.no_grad():
        return EXPORTERS[target](network, module)


def _trace(network: Network, module: nn.Module) -> Callable[..., Any]:
    return torch.jit.trace(module, network.example(), check_trace=False)


def _script(network: Network, module: nn.Module) -> Callable[..., Any]:
    return torch.jit.script(module)


def _export(network: Network, module: nn.Module) -> Callable[..., Any]:
    shapes = _dynamic_shapes(network)
    return torch.export.export(module, network.example(), dynamic_shapes=shapes).module()


def _onnx(network: Network, module: nn.Module) -> Callable[..., Any]:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        module,
        network.example(),
        dynamic_shapes=_dynamic_shapes(network),
        dynamo=True,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]
    keys = _keys(module, network)

    def call(*args: Tensor) -> Any:
        # The file may lack inputs that no output depends on.
        given = dict(zip(network.shapes, args, strict=True))
        outputs = session.run(None, {name: given[name].numpy() for name in names})
        tensors = [torch.from_numpy(output) for output in outputs]
        return dict(zip(keys, tensors, strict=True)) if keys else tuple(tensors)

    return call


def _keys(module: nn.Module, network: Network) -> list[str]:
    """Return the keys of eager's outputs: a dict's keys, none for a tuple, one for a tensor."""
    output = copy.deepcopy(module)(*network.example())
    if isinstance(output, dict):
        return list(output)
    return [] if isinstance(output, tuple) else [""]


def _dynamic_shapes(network: Network) -> dict[str, dict[int, Any]]:
    dims = {name: Dim(name, min=low, max=high) for name, (low, high) in RANGES.items()}
    return {
        name: {axis: dims[word] for axis, word in enumerate(text.split()) if word in dims}
        for name, text in network.shapes.items()
    }


EXPORTERS = {"trace": _trace, "script": _script, "export": _export, "onnx": _onnx}


# -- one network -----------------------------------------------------------------------------------


def judge(seed: int, targets: list[str], directory: str) -> list[Record]:
    """Return one record per target."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    network = draw(seed)
    healthy, faulty = network.load(Path(directory))
    counted = effect(network, healthy, faulty)
    return [_pair(network, target, healthy, faulty, counted) for target in targets]


def _pair(
    network: Network, target: str, healthy: nn.Module, faulty: nn.Module, counted: bool
) -> Record:
    record: Record = {
        "seed": network.seed,
        "target": target,
        "fault": network.fault,
        "counted": False,
    }
    if network.stateful and target == "onnx":
        return record | {"healthy": "refused", "reason": "an ONNX file carries no state"}
    started = time.perf_counter()
    verdict = _verdict(network, healthy, target)
    record["seconds"] = time.perf_counter() - started
    record["reason"] = f"{verdict.failure}: {verdict.reason}" if verdict.failure else verdict.reason
    if verdict.status == "skipped" or verdict.failure == "ExportRefused":
        return record | {"healthy": "refused"}
    if verdict.status == "failed":
        really = broken(network, healthy, target)
        record["by_hand"] = really
        return record | {"healthy": "broken by the exporter" if really else "false alarm"}
    record |= {"healthy": "passed", "counted": counted}
    if counted:
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


def run(seeds: list[int], targets: list[str], jobs: int, minutes: float | None) -> Iterator[Record]:
    """Yield the records of each network when it is done; start no new one after ``minutes``."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    with tempfile.TemporaryDirectory() as directory:
        if jobs == 1:
            for seed in seeds:
                if time.monotonic() > end:
                    return
                yield from judge(seed, targets, directory)
            return
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            waiting = [pool.apply_async(judge, (seed, targets, directory)) for seed in seeds]
            for result in waiting:
                if time.monotonic() > end:
                    return  # leaving the block ends the workers
                yield from result.get()


def table(records: list[Record], targets: list[str]) -> str:
    """Return Markdown tables: the healthy networks, then one row per kind of fault."""
    heads = "| | " + " | ".join(targets) + " | all |\n|" + " --- |" * (len(targets) + 2)
    rows = ["Healthy networks:", "", heads]
    rows += [
        _row_of(what, records, targets, lambda group, w=what: _healthy(group, w))
        for what in ("passed", "refused", "broken by the exporter", "false alarm")
    ]
    rows += ["", "The same with one fault, found / counted:", "", heads]
    for fault in FAULTS:
        own = [record for record in records if record["fault"] == fault]
        rows.append(_row_of(fault, own, targets, _found))
    rows.append(_row_of("all", records, targets, _found))
    rows += ["", *_misses(records)]
    return "\n".join(rows)


def _row_of(
    name: str, records: list[Record], targets: list[str], cell: Callable[[list[Record]], str]
) -> str:
    groups = [[r for r in records if r["target"] == target] for target in targets]
    return f"| {name} | " + " | ".join(cell(group) for group in [*groups, records]) + " |"


def _healthy(records: list[Record], what: str) -> str:
    return str(sum(record["healthy"] == what for record in records))


def _found(records: list[Record]) -> str:
    counted = [record for record in records if record["counted"]]
    return f"{sum(record['found'] for record in counted)} / {len(counted)}"


def _misses(records: list[Record]) -> Iterator[str]:
    """Yield lines with the seeds of false alarms, misses and networks that did not count."""
    lines: dict[str, list[str]] = collections.defaultdict(list)
    for record in records:
        if record["healthy"] == "false alarm":
            lines["false alarms"].append(f"{record['seed']} {record['target']}")
        elif record["healthy"] == "broken by the exporter":
            lines["broken by the exporter"].append(f"{record['seed']} {record['target']}")
        elif record["counted"] and not record["found"]:
            lines["missed"].append(f"{record['seed']} {record['target']}")
        elif record["healthy"] == "passed" and not record["counted"]:
            lines["no effect"].append(str(record["seed"]))
    for what in ("false alarms", "missed", "broken by the exporter", "no effect"):
        yield f"{what}: {', '.join(dict.fromkeys(lines[what])) or 'none'}  "


def progress(record: Record) -> str:
    text = f"{record['seed']:4} {record['target']:7} {record['fault']}: {record['healthy']}"
    if record["healthy"] != "passed":
        return f"{text}: {record['reason'][:200]}"
    if not record["counted"]:
        return f"{text}, no effect"
    return f"{text}, {'found' if record['found'] else 'MISSED'} ({record['failure']})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--targets", default="trace,script,export,onnx")
    parser.add_argument("--seed", type=int, default=0, help="the first network's")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="begin no new network after this time")
    parser.add_argument("--json", type=Path, help="write all records there")
    parser.add_argument("--show", type=int, metavar="SEED", help="print this network's source")
    arguments = parser.parse_args()
    if arguments.show is not None:
        print(draw(arguments.show).source, end="")
        return
    targets = arguments.targets.split(",")
    seeds = list(range(arguments.seed, arguments.seed + arguments.networks))
    records = []
    for record in run(seeds, targets, arguments.jobs, arguments.minutes):
        print(progress(record), file=sys.stderr, flush=True)
        records.append(record)
        if arguments.json:
            arguments.json.write_text(json.dumps(records, indent=1))
    done = len({record["seed"] for record in records})
    print(f"{done} networks, seeds {arguments.seed} to {arguments.seed + done - 1}\n")
    print(table(records, targets))


if __name__ == "__main__":
    main()
