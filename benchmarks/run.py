"""Print the table of benchmarks: `python benchmarks/run.py [ROW ...] [--runs N]`.

Each figure is a ratio (or a difference) of runs that take turns, the median of at least 7, so that
the machine's speed cancels out. Goals are printed and not asserted.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
CALLS = 50
COPIES = 4
# Calls under one observation: a search enters an observation once for all its calls.
IN_A_ROW = 5

Row = tuple[str, str, str]


def seconds(
    function: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    start = clock()
    function()
    return clock() - start


def interleaved(
    first: Callable[[], object],
    second: Callable[[], object],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float, float]:
    """Return the medians of both times and of their ratios, after one warm-up of each."""
    first(), second()
    pairs = [(seconds(first, clock), seconds(second, clock)) for _ in range(runs)]
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def pytest_run(directory: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    # If a test fails, the time is not that of the suite.
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)


def of_children() -> float:
    """Return the processor seconds of all processes that this one has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def startup(runs: int) -> Iterator[Row]:
    """Compare pytest with the plugin installed but unused to pytest without it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        with_it, without, ratio = interleaved(
            lambda: pytest_run(directory),
            lambda: pytest_run(directory, "-p", "no:torchexport"),
            max(runs, 11),
            of_children,
        )
    yield (
        "pytest start-up, unused / without",
        f"{ratio:.3f} ({with_it:.2f} s / {without:.2f} s)",
        "<= 1.05",
    )


def overhead(runs: int) -> Iterator[Row]:
    """Time the engine per drawn call, less both forwards and an empty @given of the strategy."""
    import inspect

    import hypothesis
    import torch

    from pytest_torchexport import check_export
    from pytest_torchexport.config.options import Options
    from pytest_torchexport.inputs.spec import Call, build_spec
    from pytest_torchexport.inputs.strategies import recipes

    class Scale(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 + 1

    few, many = 20, 220
    module, x = Scale(), torch.randn(2, 1500)
    spec = build_spec(inspect.signature(module.forward), [Call((x,))], Options(), {})
    traced = torch.jit.trace(module, x)

    def engine(count: int) -> float:
        options = {"checks": ("parity",), "max_examples": count}
        verdict = check_export(module, (x,), target="trace", **options)
        assert verdict.status == "passed", verdict
        return verdict.seconds["parity"]

    def empty(count: int) -> float:
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(recipes(spec))
        def body(recipe: object) -> None:
            pass

        return seconds(body)

    def forwards(count: int) -> float:
        def loop() -> None:
            with torch.no_grad():
                for _ in range(count):
                    module(x), traced(x)

        return seconds(loop)

    def beyond() -> float:
        mine, given, bare = (f(many) - f(few) for f in (engine, empty, forwards))
        return 1000 * (mine - given - bare) / (many - few)

    beyond()
    figure = statistics.median(beyond() for _ in range(runs))
    yield "engine per drawn call, 3000 elements", f"{figure:.2f} ms", "<= 1 ms"


def whole(runs: int) -> Iterator[Row]:
    """Compare a test with all checks on the default targets to the loop that a user would write."""
    targets = ["trace", "script", "export", "onnx"]
    for name in ("ten blocks", "encoder"):
        calls = items(name, targets)
        mine, hand, ratio = interleaved(
            lambda n=name: items(n, targets), lambda n=name, c=calls: by_hand(n, targets, c), runs
        )
        what = f"{' + '.join(targets)} with all checks, {name}, {calls} calls / hand-written"
        yield what, f"{ratio:.2f} ({mine:.2f} s / {hand:.2f} s)", "<= 1.5"


SUITE_OF_ONE = """
import sys
sys.path.insert(0, {benchmarks!r})
import pytest
import models, run

@pytest.mark.torchexport("trace", "script", "export", "onnx")
def test_marked():
    module, x = models.build({name!r})
    module(x)

@pytest.mark.parametrize("target", ["trace", "script", "export", "onnx"])
def test_by_hand(target):
    run.by_hand({name!r}, [target], {calls})
"""


def marked(runs: int) -> Iterator[Row]:
    """Compare pytest on a marked test to pytest on the loop that a user would write."""
    for name in ("ten blocks", "encoder"):
        calls = items(name, ["trace"])
        text = SUITE_OF_ONE.format(benchmarks=str(ROOT / "benchmarks"), name=name, calls=calls)
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "test_models.py").write_text(text)
            few = f"--torchexport-max-examples={CALLS}"
            mine, hand, ratio = interleaved(
                lambda d=directory, few=few: pytest_run(d, "-k", "marked", few),
                lambda d=directory: pytest_run(d, "-k", "by_hand"),
                runs,
                of_children,
            )
        what = f"pytest on a marked test with four targets, {name}, {calls} calls / hand-written"
        yield what, f"{ratio:.2f} ({mine:.2f} s / {hand:.2f} s)", "<= 1.5"


def cached(runs: int) -> Iterator[Row]:
    """Compare an item whose verdict is in the cache to one that is checked."""
    with tempfile.TemporaryDirectory() as directory:
        items("encoder", ["onnx"], cache=directory)
        first, again, ratio = interleaved(
            lambda: items("encoder", ["onnx"]),
            lambda: items("encoder", ["onnx"], cache=directory),
            runs,
        )
    figure = f"{ratio:.0f} ({first:.2f} s / {again:.3f} s)"
    yield "onnx, encoder, checked / from the cache", figure, ">= 20"


def items(name: str, targets: list[str], **options: object) -> int:
    """Check a model on each target; return the calls of the last."""
    from models import build

    from pytest_torchexport import check_export

    calls = 0
    for target in targets:
        module, x = build(name)
        verdict = check_export(module, (x,), target=target, max_examples=CALLS, **options)
        assert verdict.status == "passed", verdict
        calls = sum(verdict.calls.values())
    return calls


def by_hand(name: str, targets: list[str], calls: int) -> None:
    """Export a model to each target, and compare as many calls."""
    import torch
    from common import exported
    from models import build

    for target in targets:
        module, x = build(name)
        artifact = exported(module, (x,), ({0: torch.export.Dim("batch")},), target)
        with torch.no_grad():
            for number in range(calls):
                call = torch.randn(1 + number % 4, *x.shape[1:])
                found = artifact(call)
                found = found[0] if target == "onnx" else found
                torch.testing.assert_close(found, module(call), rtol=1e-3, atol=1e-3)


SUITE = """
import sys
sys.path.insert(0, {models!r})
import pytest
from models import MODELS, build

@pytest.mark.parametrize("seed", range({copies}))
@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.torchexport("trace", "script", "export", "onnx")
def test_model(name, seed):
    module, x = build(name)
    module(x)
"""


def xdist(runs: int) -> Iterator[Row]:
    """Compare a suite of at least a minute in two workers to one process."""
    from models import MODELS

    with tempfile.TemporaryDirectory() as directory:
        text = SUITE.format(models=str(ROOT / "benchmarks"), copies=COPIES)
        Path(directory, "test_models.py").write_text(text)
        # A run takes minutes, so there are fewer pairs than in other rows; the label has the count.
        pairs = [
            [seconds(lambda n=n: pytest_run(directory, "-n", n)) for n in ("0", "2")]
            for _ in range(max(1, runs // 7))
        ]
    one, two = (statistics.median(column) for column in zip(*pairs, strict=True))
    what = f"-n 0 / -n 2, {COPIES * len(MODELS) * 4} items, {len(pairs)} pair"
    yield what, f"{one / two:.2f} ({one:.0f} s / {two:.0f} s)", ">= 1.5"


def memory(runs: int) -> Iterator[Row]:
    """Compare the peak memory of an item with 500 calls to one with 50."""

    def peak(count: int) -> float:
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import resource\n"
            "from models import build; from pytest_torchexport import check_export\n"
            "module, x = build('CNN')\n"
            "v = check_export(module, (x,), target='trace', max_examples=int(sys.argv[2]))\n"
            "assert v.status == 'passed', v\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        return printed(code, str(ROOT / "benchmarks"), str(count))

    few, many = zip(*((peak(50), peak(500)) for _ in range(runs)), strict=True)
    ratio = statistics.median(b / a for a, b in zip(few, many, strict=True))
    figure = f"{ratio:.3f} ({statistics.median(many):.0f} MB / {statistics.median(few):.0f} MB)"
    yield "peak memory, 500 / 50 calls", figure, "flat"


def printed(code: str, *arguments: str) -> float:
    """Return the number that a process of its own prints."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


LARGE_MODEL = """
import os, pathlib, sys, threading, time
import torch
from pytest_torchexport import check_export

def family():
    kin = {os.getpid()}
    known = {}
    for place in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            known[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    while more := {one for one, parent in known.items() if parent in kin} - kin:
        kin |= more
    return kin

def megabytes():
    found = 0
    for number in family():
        try:
            lines = pathlib.Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found / 1024

def watch():
    global peak
    while True:
        peak = max(peak, megabytes())
        time.sleep(0.1)

target, count = sys.argv[1], int(sys.argv[2])
layers = lambda: torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(count)))
check_export(torch.nn.Linear(2, 2), (torch.ones(2, 2),), target=target, max_examples=1)
before = peak = megabytes()
threading.Thread(target=watch, daemon=True).start()
verdict = check_export(layers(), (torch.randn(2, 2048),), target=target, max_examples=10)
assert verdict.status == "passed", verdict
print(peak - before)
"""


def weights(runs: int) -> Iterator[Row]:
    """Compare the peak memory of an item, with all its processes, to the weights of its module."""
    count, size = 32, 512.1
    for target in ("trace", "script", "export", "onnx"):
        found = [printed(LARGE_MODEL, target, str(count)) for _ in range(max(1, runs // 3))]
        peak = statistics.median(found)
        figure = f"{peak / size:.1f} ({peak:.0f} MB / {size:.0f} MB)"
        yield f"peak memory of an item / its weights, {target}", figure, "<= 2.5"


def observing(runs: int) -> Iterator[Row]:
    """Compare an observed call, and a gradient step of the search, to a plain call.

    The seconds are processor time: other work on the machine disturbs calls of milliseconds.
    """
    import torch
    from branches import observe
    from models import TRANSFORMER, transformer

    model = observe(transformer())
    observed, call, module = model.observed, model.spec.example, transformer().build()
    with observed.installed():
        path = observed.run(call)
    # The last condition on a number, as most of forward runs before it.
    place, event = [(i, e) for i, e in enumerate(path.events) if math.isfinite(e.far)][-1]

    def plain() -> None:
        with torch.no_grad():
            for _ in range(IN_A_ROW):
                module(*call.args)

    def watched() -> None:
        with observed.installed():
            for _ in range(IN_A_ROW):
                observed.run(call)

    def step() -> None:
        with observed.installed():
            for _ in range(IN_A_ROW):
                observed.probe(call, place, not event.outcome, float("inf"))

    for what, other, goal in (("observed call", watched, "<= 1.3"), ("gradient step", step, "")):
        mine, bare, ratio = interleaved(other, plain, 3 * runs, time.process_time)
        each = 1000 / IN_A_ROW
        figure = f"{ratio:.2f} ({each * mine:.2f} ms / {each * bare:.2f} ms)"
        yield f"{what} / plain one, {TRANSFORMER}", figure, goal


def explore(runs: int) -> Iterator[Row]:
    """Time the search per module, with the default budget."""
    import branches

    from pytest_torchexport.outcomes.torch_state import quiet

    with quiet("cpu"):
        took = [
            seconds(functools.partial(branches.search, model, 0, branches.BUDGETS[-1]))
            for model in branches.models(branches.MODELS["zoo"]())
        ]
    figure = f"median {statistics.median(took):.3f} s, most {max(took):.2f} s"
    yield f"search per module, {len(took)} of the tests that branch", figure, "<= 5 s"


def search(runs: int) -> Iterator[Row]:
    """Give the search for thresholds of operators as a share of passing items, default settings."""
    from models import MODELS, build

    from pytest_torchexport import check_export
    from pytest_torchexport.checks import parity

    def share(name: str, target: str) -> float:
        took, searched = [0.0], parity.searched

        def timed(*given: object, **more: object) -> object:
            start = time.perf_counter()
            try:
                return searched(*given, **more)
            finally:
                took[0] += time.perf_counter() - start

        module, x = build(name)
        with mock.patch.object(parity, "searched", timed):
            whole = seconds(lambda: check_export(module, (x,), target=target))
        return took[0] / whole

    for target in ("trace", "export", "onnx"):
        shares = [share(name, target) for name in MODELS]
        figure = f"median {statistics.median(shares):.1%}, most {max(shares):.1%}"
        yield f"search for thresholds / item, {len(MODELS)} models, {target}", figure, "<= 15 %"


def noise(runs: int) -> Iterator[Row]:
    """Count how often identical networks are told apart, and one that runs twice is."""
    import torch
    from torch import nn

    from pytest_torchexport.checks.latency import timed_in_turn

    x = torch.randn(32, 64)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    other = copy.deepcopy(net)

    def slower(artifact: Callable[[], object], limit: float) -> bool:
        return timed_in_turn(lambda: net(x), artifact, 60.0).exceeds(limit)

    with torch.no_grad():
        alarms = sum(slower(lambda: other(x), 1.0) for _ in range(10 * runs))
        seen = sum(slower(lambda: (net(x), net(x)), 1.5) for _ in range(runs))
    yield "identical networks called slower, limit 1", f"{alarms} of {10 * runs}", "0"
    yield "a network run twice called slower, limit 1.5", f"{seen} of {runs}", "all"


ROWS = {
    each.__name__: each
    for each in (
        startup, overhead, whole, marked, cached, observing, explore, search, memory, weights,
        xdist, noise,
    )
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="default: all")
    parser.add_argument("--runs", type=int, default=7, help="runs per figure (default 7)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"medians of {arguments.runs}; {os.cpu_count()} cores; Python {sys.version.split()[0]}\n")
    print("| what | figure | goal |\n| --- | --- | --- |")
    for name in arguments.rows or ROWS:
        for what, figure, goal in ROWS[name](arguments.runs):
            print(f"| {what} | {figure} | {goal} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n(this process peaked at {peak:.0f} MB)")


if __name__ == "__main__":
    main()
