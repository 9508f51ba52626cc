"""Print the table of benchmarks: `python benchmarks/run.py [ROW ...] [--runs N]`.

Each figure is a ratio (or a difference) of runs that take turns, the median of at least 7, so that
the machine's speed cancels out. Goals are printed and not asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
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
    for elements in (16, 3_000, 150_000):
        module, x = Scale(), torch.randn(2, elements // 2)
        spec = build_spec(inspect.signature(module.forward), [Call((x,))], Options(), {})
        traced = torch.jit.trace(module, x)

        def engine(count: int, module: torch.nn.Module = module, x: torch.Tensor = x) -> float:
            verdict = check_export(
                module, (x,), target="trace", checks=("parity",), max_examples=count
            )
            assert verdict.status == "passed", verdict
            return verdict.seconds["parity"]

        def empty(count: int, spec: object = spec) -> float:
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

        def forwards(count: int, module=module, x=x, traced=traced) -> float:
            def loop() -> None:
                with torch.no_grad():
                    for _ in range(count):
                        module(x), traced(x)

            return seconds(loop)

        def beyond(engine=engine, empty=empty, forwards=forwards) -> float:
            mine, given, bare = (f(many) - f(few) for f in (engine, empty, forwards))
            return 1000 * (mine - given - bare) / (many - few)

        beyond()
        figure = statistics.median(beyond() for _ in range(runs))
        goal = "<= 1 ms" if elements == 3_000 else ""
        yield f"engine per drawn call, {elements} elements", f"{figure:.2f} ms", goal


def whole(runs: int) -> Iterator[Row]:
    """Compare a test with all checks on the default targets to the loop that a user would write."""
    for name in ("ten blocks", "encoder"):
        yield beside_hand(name, ["trace", "script", "export", "onnx"], runs, "<= 1.1")


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
        yield what, f"{ratio:.2f} ({mine:.2f} s / {hand:.2f} s)", "<= 1.1"


def cached(runs: int) -> Iterator[Row]:
    """Compare an item whose verdict is in the cache to one that is checked."""
    for name in ("ten blocks", "encoder"):
        for target in ("trace", "onnx"):
            with tempfile.TemporaryDirectory() as directory:
                items(name, [target], cache=directory)
                first, again, ratio = interleaved(
                    lambda n=name, t=target: items(n, [t]),
                    lambda n=name, t=target, d=directory: items(n, [t], cache=d),
                    runs,
                )
            figure = f"{ratio:.0f} ({first:.2f} s / {again:.3f} s)"
            yield f"{target}, {name}, checked / from the cache", figure, ">= 20"


def beside_hand(name: str, targets: list[str], runs: int, goal: str, **options: object) -> Row:
    """Return the row of a model: its items against the loop that a user would write."""
    calls = items(name, targets, **options)
    mine, hand, ratio = interleaved(
        lambda: items(name, targets, **options), lambda: by_hand(name, targets, calls), runs
    )
    label = f"{' + '.join(targets)}, {name}, {calls} calls / hand-written"
    return label, f"{ratio:.2f} ({mine:.2f} s / {hand:.2f} s)", goal


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
    from models import build

    batch = torch.export.Dim("batch")
    exporters: dict[str, Callable] = {
        "trace": lambda m, x: torch.jit.trace(m, x, check_trace=False),
        "script": lambda m, _: torch.jit.script(m),
        "export": lambda m, x: torch.export.export(m, (x,), dynamic_shapes=({0: batch},)).module(),
        "onnx": onnx_by_hand,
    }
    for target in targets:
        module, x = build(name)
        with torch.no_grad():
            artifact = exporters[target](module, x)
            for number in range(calls):
                call = torch.randn(1 + number % 4, *x.shape[1:])
                torch.testing.assert_close(artifact(call), module(call), rtol=1e-3, atol=1e-3)


class Clock:
    """Context manager that times functions of the package, each under the name of a stage.

    If one function calls another, the time counts for the outer one, so that the stages add up.
    """

    def __init__(
        self,
        functions: dict[str, tuple[object, str]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.functions = functions
        self._clock = clock
        self.seconds = dict.fromkeys(functions, 0.0)
        self._patches = contextlib.ExitStack()
        self._running = False

    def __enter__(self) -> Clock:
        for stage, (owner, name) in self.functions.items():
            timed = self._timed(stage, getattr(owner, name))
            self._patches.enter_context(mock.patch.object(owner, name, timed))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _timed(self, stage: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*args: object, **kwargs: object) -> object:
            if self._running:
                return function(*args, **kwargs)
            self._running, start = True, self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                self._running = False
                self.seconds[stage] += self._clock() - start

        return timed


def stages() -> dict[str, tuple[object, str]]:
    """Return the functions that are stages of an item in this process, as (owner, name)."""
    from pytest_torchexport.checks import artifact_files, parity
    from pytest_torchexport.eager import reference
    from pytest_torchexport.judge import case, judge, runner

    return {
        "eager": (reference.Reference, "_observe"),
        "preflight": (reference, "examine"),
        "export": (case.Prepared, "_exported"),
        "save": (artifact_files, "_saved"),
        "search": (parity, "searched"),
        "artifact": (runner.InProcess, "_observe"),
        "comparing": (judge, "compare"),
    }


def parts(runs: int) -> Iterator[Row]:
    """Give the processor time of the parts of an item in this process, without its clean process.

    The search and the preflight are without their plain calls of eager, which count as eager's.
    """
    for name in ("ten blocks", "encoder"):
        for target in ("trace", "script", "export", "onnx"):
            items(name, [target])
            found = []
            for _ in range(runs):
                with Clock(stages(), time.process_time) as clock:
                    whole = seconds(functools.partial(items, name, [target]), time.process_time)
                found.append({**clock.seconds, "whole item": whole})
            for stage in found[0]:
                took = statistics.median(each[stage] for each in found)
                yield f"{stage}, {name}, {target}", f"{1000 * took:.0f} ms", ""


def onnx_by_hand(module, x):
    import onnxruntime
    import torch

    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module, (x,), dynamic_shapes=({0: batch},), dynamo=True, verbose=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda call: torch.from_numpy(session.run(None, {name: call.numpy()})[0])


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

    def peak(count: int) -> int:
        code = (
            "import sys; sys.path.insert(0, sys.argv[1]); import resource\n"
            "from models import build; from pytest_torchexport import check_export\n"
            "module, x = build('CNN')\n"
            "v = check_export(module, (x,), target='trace', max_examples=int(sys.argv[2]))\n"
            "assert v.status == 'passed', v\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        command = [sys.executable, "-c", code, str(ROOT / "benchmarks"), str(count)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    pairs = [(peak(50), peak(500)) for _ in range(runs)]
    ratio = statistics.median(b / a for a, b in pairs)
    sizes = (
        statistics.median(a for a, _ in pairs) / 1024,
        statistics.median(b for _, b in pairs) / 1024,
    )
    yield (
        "peak memory, 500 / 50 calls",
        f"{ratio:.3f} ({sizes[1]:.0f} MB / {sizes[0]:.0f} MB)",
        "flat",
    )


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
        command = [sys.executable, "-W", "ignore", "-c", LARGE_MODEL, target, str(count)]
        found = [
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(max(1, runs // 3))
        ]
        peak = statistics.median(found)
        figure = f"{peak / size:.1f} ({peak:.0f} MB / {size:.0f} MB)"
        yield f"peak memory of an item / its weights, {target}", figure, "<= 2.5"


def observing(runs: int) -> Iterator[Row]:
    """Compare an observed call, and a gradient step of the search, to a plain call.

    The seconds are processor time: other work on the machine disturbs calls of milliseconds.
    """
    import torch
    from branches import observe
    from models import BRANCHING, row

    for name in BRANCHING:
        model = observe(row(name))
        observed, call = model.observed, model.spec.example
        with observed.installed():
            path = observed.run(call)
        # The last condition on a number, as most of forward runs before it.
        place, event = [(i, e) for i, e in enumerate(path.events) if e.distance is not None][-1]
        module = row(name).build()

        def plain(module=module, call=call) -> None:
            with torch.no_grad():
                for _ in range(IN_A_ROW):
                    module(*call.args)

        def watched(observed=observed, call=call) -> None:
            with observed.installed():
                for _ in range(IN_A_ROW):
                    observed.run(call)

        def step(observed=observed, call=call, place=place, wanted=not event.outcome) -> None:
            with observed.installed():
                for _ in range(IN_A_ROW):
                    observed.probe(call, place, wanted, float("inf"))

        for what, other, goal in (
            ("observed call", watched, "<= 1.3"),
            ("gradient step", step, ""),
        ):
            mine, bare, ratio = interleaved(other, plain, 3 * runs, time.process_time)
            each = 1000 / IN_A_ROW
            figure = f"{ratio:.2f} ({each * mine:.2f} ms / {each * bare:.2f} ms)"
            yield f"{what} / plain one, {name}", figure, goal


def explore(runs: int) -> Iterator[Row]:
    """Time the search per module, with the default budget."""
    import branches
    from models import BRANCHING, row

    from pytest_torchexport.outcomes.torch_state import quiet

    def searched(model: branches.Model) -> tuple[float, int]:
        start = time.perf_counter()
        _, calls = branches.search(model, seed=0, calls=branches.BUDGETS[-1])
        return time.perf_counter() - start, calls

    with quiet("cpu"):
        small = [searched(model)[0] for model in branches.models(branches.MODELS["zoo"]())]
    figure = f"median {statistics.median(small):.3f} s, most {max(small):.2f} s"
    yield f"search per module, {len(small)} of the zoo that branch", figure, "<= 5 s"
    for name in BRANCHING:
        found = [searched(branches.observe(row(name))) for _ in range(runs)]
        time_taken, calls = (statistics.median(column) for column in zip(*found, strict=True))
        figure = f"{time_taken:.2f} s, {calls:.0f} calls"
        yield f"search, {name}", figure, "<= 5 s"


def search(runs: int) -> Iterator[Row]:
    """Give the search for thresholds of operators as a share of passing items, default settings.

    Every model runs once: the figure is a median over models, and the largest share.
    """
    import zoo
    from models import MODELS, build

    from pytest_torchexport import check_export
    from pytest_torchexport.checks import parity

    def share(row: Callable[[], tuple], target: str) -> float | None:
        module, args, kwargs, options = row()
        with Clock({"search": (parity, "_search")}) as clock:
            start = time.perf_counter()
            verdict = check_export(module, args, kwargs, target=target, **options)
            whole = time.perf_counter() - start
        return clock.seconds["search"] / whole if verdict.status == "passed" else None

    def of_model(name: str) -> tuple:
        module, x = build(name)
        return module, (x,), {}, {}

    def of_row(row: zoo.Row) -> tuple:
        args, kwargs = row.example()
        return row.build(), args, kwargs, row.options

    healthy = [row for row in zoo.ZOO if set(row.expect.values()) == {None}]
    for what, subjects in (
        (f"{len(MODELS)} models", [functools.partial(of_model, name) for name in MODELS]),
        (
            "every 10th healthy row of the zoo",
            [functools.partial(of_row, r) for r in healthy[::10]],
        ),
    ):
        for target in ("trace", "export", "onnx"):
            shares = [found for row in subjects if (found := share(row, target)) is not None]
            figure = f"median {statistics.median(shares):.1%}, most {max(shares):.1%}"
            yield f"search / item, {what}, {target}", figure, "<= 15 %"


def unconditional(runs: int) -> Iterator[Row]:
    """Compare an item with the control_flow check to one without, on models without conditions."""
    from models import MODELS, build

    from pytest_torchexport import check_export

    for name in MODELS:

        def item(*more: str, name: str = name) -> None:
            module, x = build(name)
            checks = ("parity", "dims", "state", *more)
            verdict = check_export(module, (x,), target="trace", checks=checks, max_examples=CALLS)
            assert verdict.status == "passed", verdict

        mine, without, ratio = interleaved(
            lambda i=item: i("control_flow"), item, runs, time.process_time
        )
        label = f"item with control_flow / without, {name}: no condition"
        yield label, f"{ratio:.3f} ({mine:.2f} s / {without:.2f} s)", "1.0"


def round_trip(runs: int) -> Iterator[Row]:
    """Give an item's round trip, in the clean process, beside its export."""
    from models import build

    from pytest_torchexport import check_export

    def trip_and_export(name: str, target: str) -> tuple[float, float]:
        module, x = build(name)
        verdict = check_export(module, (x,), target=target, max_examples=CALLS)
        assert verdict.status == "passed", verdict
        return verdict.seconds["round trip"], verdict.seconds["export"]

    for name in ("MLP", "CNN"):
        for target in ("trace", "export", "onnx"):
            trip_and_export(name, target)
            found = [trip_and_export(name, target) for _ in range(runs)]
            share = statistics.median(trip / export for trip, export in found)
            trip, export = (statistics.median(column) for column in zip(*found, strict=True))
            goal = "<= 10 %" if target == "onnx" else ""
            label = f"round trip of an item / its export, {name}, {target}"
            yield label, f"{share:.1%} ({trip:.3f} s / {export:.2f} s)", goal


def reporting(runs: int) -> Iterator[Row]:
    """Time each report of 2,000 items, a fifth of which fail, beside the time of the items."""
    import sample_run

    from pytest_torchexport.results import json, reports

    results = sample_run.many(2000)
    spent = sum(
        sum(verdict.seconds.values()) for item in results.items for verdict in item.verdicts
    )
    for name in reports.FORMATS:
        took = statistics.median(
            seconds(functools.partial(reports.rendered, name, results)) for _ in range(runs)
        )
        size = len(reports.rendered(name, results)) / 1e6
        figure = f"{took / spent:.3%} ({took:.2f} s / {spent:.0f} s), {size:.2f} MB"
        yield f"report of 2,000 items / the items, {name}", figure, "<= 2 %"
    text = json.render(results)
    took = statistics.median(seconds(functools.partial(json.read, text)) for _ in range(runs))
    yield "reading the JSON report of 2,000 items", f"{took:.2f} s", ""


def localize(runs: int) -> Iterator[Row]:
    """Time the search for the wrong operator of ResNet-18, less one run of each side."""
    import blame_onnx
    import torch
    from real.models import stub_torchvision

    from pytest_torchexport import check_export, register_target
    from pytest_torchexport.diagnosis import diagnose, first_difference, onnx_nodes

    stub_torchvision()
    import torchvision

    class Clipped(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
            return x.clamp(0, 0.5) if exported else x.clamp(0)

    def check(target: str, module: torch.nn.Module) -> None:
        options = {"checks": ["parity"], "max_examples": 1, "shapes": {"x": "1 3 224 224"}}
        check_export(module, (torch.randn(1, 3, 224, 224),), target=target, **options)

    def timed(scene: object, known: object, examine: object, took: list[object]) -> object:
        case, call = scene.case, scene.call
        runner, subject = case.runner_of(case.artifact), case.reference.pristine.copy()
        for _ in range(runs):
            sides = (
                seconds(lambda: subject.function(*call.args)),
                seconds(lambda: runner.run(call, case.plan.seed)),
            )
            started = time.perf_counter()
            found = examine(scene, known)
            whole = time.perf_counter() - started
            assert found.place is not None, found
            took.append((whole - sum(sides), sides[0]))
        return found

    register_target("faulty_onnx", blame_onnx.TARGET)
    torch_runs = first_difference
    for target, file in (
        ("trace", torch_runs),
        ("export", torch_runs),
        ("faulty_onnx", onnx_nodes),
    ):
        torch.manual_seed(0)
        module, fault = torchvision.models.resnet18().eval(), contextlib.nullcontext()
        if target == "faulty_onnx":
            check(target, module)
            possible = [
                f for f in blame_onnx.faults(blame_onnx.TARGET.plain) if f.kind == "left out"
            ]
            fault = blame_onnx.fault_in("translation", possible[len(possible) // 2])
        else:
            module.layer3[0].relu = Clipped()
        took: list[tuple[float, float]] = []
        stand_in = functools.partial(timed, examine=file.examine, took=took)
        with (
            fault,
            torch.no_grad(),
            mock.patch.object(file, "examine", stand_in),
            mock.patch.object(diagnose, "can_fork", return_value=False),
        ):
            check(target, module)
        beyond = statistics.median(1000 * beyond for beyond, _ in took)
        ratio = statistics.median(beyond / eager for beyond, eager in took)
        name = target.removeprefix("faulty_")
        figure = f"{beyond:.0f} ms ({ratio:.1f} x eager)"
        yield f"operator found beyond two runs, ResNet-18, {name}", figure, "<= 150 ms, <= 5 x"


ROWS = {
    "startup": startup,
    "overhead": overhead,
    "whole": whole,
    "marked": marked,
    "cached": cached,
    "observing": observing,
    "explore": explore,
    "search": search,
    "parts": parts,
    "unconditional": unconditional,
    "round_trip": round_trip,
    "memory": memory,
    "weights": weights,
    "xdist": xdist,
    "reporting": reporting,
    "localize": localize,
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n(this process peaked at {peak:.0f} MB)")


if __name__ == "__main__":
    main()
