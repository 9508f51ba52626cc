"""Print the table of benchmarks: `python benchmarks/run.py [ROW ...] [--runs N]`.

Each figure is a ratio (or a difference) of runs that take turns, the median of at least 7, so that
the machine's speed cancels out. Goals are printed and not asserted.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
COPIES = 4
TARGETS = ("trace", "script", "export", "onnx")
# The models that are compared with a loop by hand.
COMPARED = ("ten blocks", "encoder")
# Calls under one observation: a search enters an observation once for all its calls.
IN_A_ROW = 5
SEEDS = itertools.count()

Row = tuple[str, str, str]


def seconds(
    function: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    start = clock()
    function()
    return clock() - start


def ratio(
    first: Callable[[], object],
    second: Callable[[], object],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> str:
    """Return the median ratio of runs that take turns, and the medians of both in brackets."""
    first(), second()  # to warm up
    return of_pairs([(seconds(first, clock), seconds(second, clock)) for _ in range(runs)])


def of_pairs(pairs: list[tuple[float, float]], unit: str = "s") -> str:
    """Return the median of the ratios, and the medians of what is divided."""
    one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return f"{ratio:.3g} ({one:.3g} {unit} / {other:.3g} {unit})"


@contextmanager
def suite() -> Iterator[Callable[..., None]]:
    """Return what runs pytest with arguments on a suite of its own, of all models."""
    with tempfile.TemporaryDirectory() as directory:
        text = SUITE.format(benchmarks=str(ROOT / "benchmarks"), copies=COPIES)
        Path(directory, "test_models.py").write_text(text)
        yield functools.partial(pytest_run, directory)


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
        with_it = functools.partial(pytest_run, directory)
        without = functools.partial(with_it, "-p", "no:torchexport")
        figure = ratio(with_it, without, max(runs, 11), of_children)
    yield "pytest start-up, unused / without", figure, "<= 1.05"


def overhead(runs: int) -> Iterator[Row]:
    """Time the engine per drawn call, less both forwards and an empty @given of the strategy."""
    import inspect

    import torch
    from branches import drawn

    from pytest_torchexport import check_export
    from pytest_torchexport.config.options import Options
    from pytest_torchexport.inputs.spec import Call, build_spec

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
        return seconds(lambda: drawn(spec, count, lambda _: None))

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


SUITE = """
import sys
sys.path.insert(0, {benchmarks!r})
import pytest
import models, run

@pytest.mark.parametrize("name", [*models.MODELS, *models.LARGER])
@pytest.mark.parametrize("copy", range({copies}))
@pytest.mark.torchexport(*run.TARGETS)
def test_marked(name, copy):
    module, x = models.build(name)
    module(x)

@pytest.mark.parametrize("target", run.TARGETS)
@pytest.mark.parametrize("name", run.COMPARED)
def test_by_hand(name, target):
    run.by_hand(name, [target])
"""


def marked(runs: int) -> Iterator[Row]:
    """Compare pytest on a marked test to pytest on the loop that a user would write."""
    for name in COMPARED:
        with suite() as tests:
            word = name.partition(" ")[0]
            mine = functools.partial(tests, "-k", f"marked and 0-{word}")
            hand = functools.partial(tests, "-k", f"by_hand and {word}")
            figure = ratio(mine, hand, runs, of_children)
        what = f"pytest on a marked test with four targets, {name} / hand-written"
        yield what, figure, "<= 1.5"


def cached(runs: int) -> Iterator[Row]:
    """Compare an item whose verdict is in the cache to one that is checked."""
    with tempfile.TemporaryDirectory() as directory:
        checked = functools.partial(items, "encoder", ["onnx"])
        figure = ratio(checked, functools.partial(checked, cache=directory), runs)
    yield "onnx, encoder, checked / from the cache", figure, ">= 20"


def items(name: str, targets: Sequence[str], **options: object) -> None:
    """Check a model on each target, each time with another seed: else eager would not run again."""
    from models import build

    from pytest_torchexport import check_export

    seed = next(SEEDS)
    for target in targets:
        module, x = build(name)
        verdict = check_export(module, (x,), target=target, seed=seed, **options)
        assert verdict.status == "passed", verdict


def by_hand(name: str, targets: Sequence[str]) -> None:
    """Make the test of a model that a user would write, on each target."""
    import common
    import torch
    from models import build

    for target in targets:
        module, x = build(name)
        calls = [(torch.randn(size, *x.shape[1:]),) for size in (2, 1, 3, 4)]
        common.by_hand(module, calls, ({0: torch.export.Dim("batch")},), target)


def inputs(runs: int) -> Iterator[Row]:
    """Compare the items of a test with 100 stored inputs to the same without."""
    import numpy as np
    from models import MODELS, build

    from pytest_torchexport import engine
    from pytest_torchexport.config.options import parse_check_options
    from pytest_torchexport.config.plan import Plan
    from pytest_torchexport.inputs.spec import Call

    def test(stored: str | None) -> None:
        options, seed = parse_check_options({"inputs": stored}), next(SEEDS)
        for target in TARGETS:
            module, x = build(name)
            plan = Plan(target=target, device="cpu", options=options, seed=seed)
            verdict = engine.check(module, [Call((x,))], plan)
            assert verdict.status == "passed", verdict

    for name in MODELS:
        with tempfile.TemporaryDirectory() as directory:
            _, x = build(name)
            for number in range(100):
                like = x.new_empty(x.shape).normal_()
                np.savez(Path(directory, f"{number}.npz"), like.numpy())
            stored, without = functools.partial(test, directory), functools.partial(test, None)
            figure = ratio(stored, without, runs)
        yield f"four targets, {name}, with 100 stored inputs / without", figure, "<= 1.2"


def xdist(runs: int) -> Iterator[Row]:
    """Compare a suite of at least a minute in two workers to one process."""
    from models import MODELS

    # A run takes minutes, so there are fewer pairs than in other rows; the label has the count.
    number = max(1, runs // 7)
    with suite() as tests:
        chosen = functools.partial(tests, "-k", "marked and not ten")
        one, two = functools.partial(chosen, "-n", "0"), functools.partial(chosen, "-n", "2")
        figure = of_pairs([(seconds(one), seconds(two)) for _ in range(number)])
    yield f"-n 0 / -n 2, {COPIES * len(MODELS) * 4} items, {number} pair", figure, ">= 1.5"


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

    pairs = [(peak(500), peak(50)) for _ in range(runs)]
    yield "peak memory, 500 / 50 calls", of_pairs(pairs, "MB"), "flat"


def printed(code: str, *arguments: str) -> float:
    """Return the number that a process of its own prints."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


LARGE_MODEL = """
import sys, torch
from pytest_torchexport import check_export
target, count = sys.argv[1], int(sys.argv[2])
module = torch.nn.Sequential(*(torch.nn.Linear(2048, 2048) for _ in range(count)))
verdict = check_export(module, (torch.randn(2, 2048),), target=target, max_examples=10)
assert verdict.status == "passed", verdict
"""


def weights(runs: int) -> Iterator[Row]:
    """Compare the peak memory of an item, with all its processes, to the weights of its module.

    From both, those of a module with 32 layers less are subtracted.
    """
    from common import peak_memory

    def peak(target: str, layers: int) -> float:
        return peak_memory([sys.executable, "-W", "ignore", "-c", LARGE_MODEL, target, str(layers)])

    for target in TARGETS:
        pairs = [(peak(target, 33) - peak(target, 1), 512.2) for _ in range(max(1, runs // 3))]
        yield f"peak memory of an item / its weights, {target}", of_pairs(pairs, "MB"), "<= 2.5"


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
        figure = ratio(other, plain, 3 * runs, time.process_time)
        yield f"{what} / plain one, {TRANSFORMER}, {IN_A_ROW} in a row", figure, goal


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

    def share(name: str, target: str) -> float:
        module, x = build(name)
        spent = check_export(module, (x,), target=target).seconds
        return spent["search"] / sum(spent.values())

    for target in ("trace", "export", "onnx"):
        shares = [share(name, target) for name in MODELS]
        figure = f"median {statistics.median(shares):.1%}, most {max(shares):.1%}"
        yield f"search for thresholds / item, {len(MODELS)} models, {target}", figure, "<= 15 %"


ROWS = {
    each.__name__: each
    for each in (
        *(startup, overhead, marked, cached, inputs, observing, explore, search),
        *(memory, weights, xdist),
    )
}


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


if __name__ == "__main__":
    main()
