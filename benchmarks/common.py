"""What benchmarks share: arguments, processes, memory, tables, and exporters as users call them."""

from __future__ import annotations

import argparse
import copy
import inspect
import itertools
import json
import logging
import multiprocessing
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_torchexport.inputs.pytrees import leaves_of
from pytest_torchexport.outcomes.torch_state import doubles_by_default
from pytest_torchexport.targets.base import Target

Inputs = tuple[Tensor, ...]
# What became of one model, or of one fault.
Record = dict[str, Any]
HEALTHY = ("passed", "refused", "broken by the exporter", "false alarm")


# -- runs ------------------------------------------------------------------------------------------


def parser(description: str | None, targets: str = "") -> argparse.ArgumentParser:
    """Return a parser of the arguments that most benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    if targets:
        made.add_argument("--targets", default=targets)
    made.add_argument("--jobs", type=int, default=2)
    made.add_argument("--json", type=Path, help="write all records there")
    return made


def records(
    judge: Callable[..., list[Record]],
    items: Iterable[tuple[Any, ...]],
    given: argparse.Namespace,
) -> list[Record]:
    """Return the records of all items, each judged in one of as many processes as asked for."""
    found = []
    for record in _judged(judge, items, given.jobs):
        print(json.dumps(record), file=sys.stderr, flush=True)
        found.append(record)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return found


def _judged(
    judge: Callable[..., list[Record]], items: Iterable[tuple[Any, ...]], jobs: int
) -> Iterator[Record]:
    if jobs == 1:
        _quiet()
        for item in items:
            yield from judge(*item)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _quiet) as pool:
        for waiting in [pool.apply_async(judge, item) for item in items]:
            yield from waiting.get()


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


# -- memory ----------------------------------------------------------------------------------------


def peak_memory(command: Sequence[str], **options: Any) -> float:
    """Run a command; return the most megabytes that it and all its descendants had at a time."""
    most = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as process:
        while process.poll() is None:
            most = max(most, sum(map(_megabytes, _family(process.pid))))
            time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return most


def _family(first: int) -> set[int]:
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    kin = {first}
    while more := {one for one, parent in parents.items() if parent in kin} - kin:
        kin |= more
    return kin


def _megabytes(process: int) -> float:
    """Return the memory of a process, each shared page divided by the number of its users."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


# -- differences -----------------------------------------------------------------------------------

TIMES_OWN_ERROR = 100
ABSOLUTE = 1e-5


def far(eager: Tensor, other: Tensor, exact: Tensor) -> bool:
    """Return True if an output is off by more than 100 times eager's own error in float32."""
    if eager.shape != other.shape or eager.dtype != other.dtype:
        return True
    if not eager.is_floating_point():
        return False  # a tie of the healthy module may be decided by rounding
    if not torch.equal(eager.isnan(), other.isnan()):
        return True
    off = (eager.double() - other.double()).abs().nan_to_num(0.0, torch.inf).max()
    # An output may happen to be exact; assume an error of half a unit in the last place at least.
    least = torch.finfo(eager.dtype).eps / 2 * exact.abs().nan_to_num(0.0).max()
    own = (eager.double() - exact).abs().nan_to_num(0.0).max()
    return bool(off > TIMES_OWN_ERROR * torch.maximum(own, least))


def apart(module: nn.Module, other: Callable[..., Any], calls: Sequence[Inputs]) -> bool:
    """Return True if calls in a row show that another forward raises or is far from a module's."""
    eager = _outputs(copy.deepcopy(module), calls)
    wide = [tuple(x.double() if x.is_floating_point() else x for x in call) for call in calls]
    with doubles_by_default():
        exact = _outputs(copy.deepcopy(module).double(), wide)
    try:
        found = _outputs(other, calls)
    except Exception:  # torch, TorchScript and ONNX Runtime raise different types
        return True
    return len(eager) != len(found) or any(map(far, eager, found, exact))


def differ(eager: Tensor, other: Tensor, relative: float) -> bool:
    """Return True if shapes or dtypes differ, or an element by more than the share of eager's."""
    if eager.shape != other.shape or eager.dtype != other.dtype:
        return True
    close = torch.allclose(
        other.double(), eager.double(), rtol=relative, atol=ABSOLUTE, equal_nan=True
    )
    return not close


def _outputs(function: Callable[..., Any], calls: Sequence[Inputs]) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for call in calls for leaf in leaves_of(function(*call))]


# -- tables ----------------------------------------------------------------------------------------


def table(*rows: Sequence[object]) -> str:
    """Return a table in Markdown; the first row is its head."""
    head, *body = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def by_target(
    name: str, found: list[Record], targets: Sequence[str], cell: Callable[[list[Record]], object]
) -> list[object]:
    """Return the row of a table: a cell for the records of each target, and one for all."""
    groups = [[record for record in found if record["target"] == target] for target in targets]
    return [name, *(cell(group) for group in [*groups, found])]


def count(found: list[Record]) -> str:
    """Return how many faults were found of those that count."""
    counted = [record for record in found if record.get("counted")]
    return f"{sum(record['found'] for record in counted)} / {len(counted)}"


def healthy_table(found: list[Record], targets: Sequence[str]) -> str:
    """Return the table of how many healthy models passed, were refused, or failed."""
    rows = [
        by_target(what, found, targets, lambda group, w=what: sum(r["healthy"] == w for r in group))
        for what in HEALTHY
    ]
    return table(["healthy items", *targets, "all"], *rows)


def judged(verdict: Any, broken: Callable[[], Any]) -> Record:
    """Return what became of a healthy model; ``broken`` tells if its exporter itself breaks it."""
    record = {"healthy": "passed", "seconds": sum(verdict.seconds.values()), "reason": why(verdict)}
    if verdict.status == "skipped" or verdict.failure == "ExportRefused":
        record["healthy"] = "refused"
    elif verdict.status == "failed":
        record["healthy"] = "broken by the exporter" if broken() else "false alarm"
    return record


def why(verdict: Any) -> str:
    """Return the class of a failure, its reason, the first difference and the call."""
    worst = [
        f"eager {one.expected}, artifact {one.actual}, |difference| {one.max_abs}"
        for one in verdict.differences[:1]
    ]
    parts = [verdict.failure or "", verdict.reason, *worst, verdict.call]
    return "; ".join(part for part in parts if part)


def misses(records: list[Record]) -> Iterator[str]:
    """Yield a line per fault that was missed, per pair that does not count, and per alarm."""
    for record in records:
        where = (
            f"{record['name']} ({record['mechanism']}) on {record['target']}, seed {record['seed']}"
        )
        if record["healthy"] not in ("passed", "refused"):
            yield f"- {record['healthy']}: {where}: {record['reason']}"
        elif not record.get("counted", True):
            yield f"- not counted: {where}"
        elif not record.get("found", True):
            yield f"- missed: {where}"


# -- exporters -------------------------------------------------------------------------------------


class Around:
    """A target that is another one but for what a subclass makes wrong."""

    def __init__(self, base: Target) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)


def dims_of(
    shapes: Mapping[str, str], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, dict[int, Any]]:
    """Return torch's dynamic shapes, of shapes like ``batch 3`` and the sizes of named dims."""
    dims = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in sizes.items()}
    return {
        name: {axis: dims[word] for axis, word in enumerate(text.split()) if word in dims}
        for name, text in shapes.items()
    }


def exported(
    module: nn.Module,
    example: tuple[Tensor, ...],
    dynamic_shapes: Any,
    target: str,
    file: Path | None = None,
) -> Callable[..., Any]:
    """Return an artifact that is made as a user would make it; that of onnx returns a tuple.

    It is saved to ``file`` too, if that is given.
    """
    with torch.no_grad():
        if target == "onnx":
            return _onnx(module, example, dynamic_shapes, file)
        if target == "export":
            program = torch.export.export(module, example, dynamic_shapes=dynamic_shapes)
            if file:
                torch.export.save(program, file)
            return program.module()
        if target == "trace":
            scripted = torch.jit.trace(module, example, check_trace=False)
        else:
            scripted = torch.jit.script(module)
        if file:
            scripted.save(file)
        return scripted


LOAD = {
    "trace": "import sys, torch; torch.jit.load(sys.argv[1])",
    "script": "import sys, torch; torch.jit.load(sys.argv[1])",
    "export": "import sys, torch; torch.export.load(sys.argv[1]).module()",
    "onnx": "import sys, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])",
}
# Calls of the test by hand.
CALLS = 20


def by_hand(
    module: nn.Module, calls: Sequence[Inputs], dynamic_shapes: Any, target: str, imports: str = ""
) -> dict[str, float]:
    """Make the test that a user would write, and return the seconds of its parts.

    Export at the first call, load the file in a fresh interpreter, and compare ``CALLS`` calls.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "model.pt2" if target == "export" else f"model.{target}")
        code = f"import {imports or 'sys'}; {LOAD[target]}"
        start = time.perf_counter()
        artifact = exported(module, calls[0], dynamic_shapes, target, file)
        saved = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", code, file], check=True)
        loaded = time.perf_counter()
    with torch.no_grad():
        for call in itertools.islice(itertools.cycle(calls), CALLS):
            found, expected = artifact(*call), module(*call)
            found = found[0] if target == "onnx" else found
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    end = time.perf_counter()
    return {"export": saved - start, "load": loaded - saved, "forwards": end - loaded}


def _onnx(
    module: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: Any, file: Path | None
) -> Callable[..., tuple[Tensor, ...]]:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        module, example, dynamic_shapes=dynamic_shapes, dynamo=True, verbose=False
    )
    if file:
        program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    # The file may lack inputs that no output depends on.
    kept = [given.name for given in session.get_inputs()]
    names = list(inspect.signature(module.forward).parameters)[: len(example)]

    def call(*args: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, args, strict=True))
        outputs = session.run(None, {name: given[name].numpy() for name in kept})
        return tuple(torch.from_numpy(output) for output in outputs)

    return call
