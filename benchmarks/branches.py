"""Print a table that compares the search for branches with random calls.

`python benchmarks/branches.py --seeds 0,1,2` (`--rows WORDS`: only models with WORDS in the name;
`--models held-out`, `--ways search`: only these)

The models are those of the zoo that branch, in three tables: those with a condition or a few, those
as users deploy them, and more of these, on which the search was developed last. A table compares
three ways to choose calls. Each has the same budgets, chooses among the legal calls of the input
spec, and starts with the example. Counted are the outcomes that the example and the model's
hand-written witnesses take: True and False of each condition in each module; of loops no round, one
round, or many.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import hypothesis
import torch
import zoo
from common import table
from real.models import stub_torchvision

from pytest_torchexport.checks.control_flow import EXPLORED, IN_VAIN
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.search import Budget, Goal, Search
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, plain_recipe, with_leaves
from pytest_torchexport.inputs.spec import Call, InputSpec, ValueLeaf, build_spec
from pytest_torchexport.inputs.strategies import recipes, within_memory
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import quiet

# A row, and the package beside the module's own that is followed; none if that is empty.
Followed = tuple[zoo.Row, str]


def of_ours(*tags: str) -> Callable[[], Iterator[Followed]]:
    return lambda: ((row, "") for row in zoo.rows(*tags))


def of_libraries() -> Iterator[Followed]:
    """Yield the rows of the installed libraries, each with the package that it is of."""
    stub_torchvision()
    for row in zoo.rows("libraries"):
        if importlib.util.find_spec(row.tags[-1]) is not None:
            yield row, row.tags[-1]


MODELS: dict[str, Callable[[], Iterator[Followed]]] = {
    "zoo": of_ours("branches"),
    "deployed": of_ours("deployed"),
    "held-out": of_ours("held-out"),
    "libraries": of_libraries,
}
BUDGETS = (50, 200)


@dataclass(frozen=True)
class Model:
    """A row of the zoo under observation, and the outcomes that a search should reach."""

    name: str
    spec: InputSpec
    observed: Observed
    example: frozenset[Goal]
    wanted: frozenset[Goal]

    def words(self, goal: Goal) -> str:
        (condition, module), outcome = goal
        where = f" in {module}" if module else ""
        return f"{self.name}: `{self.observed.conditions[condition].text}`{where} never {outcome}"


# -- the models ------------------------------------------------------------------------------------


def models(rows: Iterable[Followed]) -> Iterator[Model]:
    """Yield the models of which a witness takes an outcome that the example does not take."""
    for row, package in rows:
        model = observe(row, package)
        if model.wanted - model.example:
            yield model


def observe(row: zoo.Row, package: str = "") -> Model:
    """Return the row's model, prepared as the plugin prepares it before a search."""
    example = _call(row.example)
    options = parse_check_options(dict(row.options))
    subject = Subject.of(row.build())
    plan = Plan(target="trace", device="cpu", options=options)
    eager = Reference(subject, plan, _silent, example)
    spec = build_spec(subject.signature(), [example], options, subject.annotations())
    eager.prepare(example, [leaf.path for leaf in spec.leaves])
    observed = Observed(eager, plan.seed, (package,) if package else ())
    observed.learn(example)
    eager.guard(observed.loops, observed.ends)
    spec = AcceptedCalls(spec, eager, _silent).spec
    first, *others = (_taken(row, observed, make) for make in (row.example, *row.witnesses))
    if observed.drifted():
        first, *others = (_taken(row, observed, make) for make in (row.example, *row.witnesses))
    return Model(row.name, spec, observed, first, first.union(*others))


def _taken(row: zoo.Row, observed: Observed, make: Callable[[], Any]) -> frozenset[Goal]:
    with observed.installed():
        path = observed.run(_call(make))
    assert path is not None, f"{row.name}: eager refuses a witness"
    return frozenset(path.taken())


def _silent(*_: object) -> None:
    """Ignore notes and progress."""


def _call(make: Callable[[], Any]) -> Call:
    args, kwargs = make()
    return Call(tuple(args), dict(kwargs))


# -- the ways --------------------------------------------------------------------------------------


class Tally:
    """Runs calls one by one, and collects the outcomes that they take."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.calls = 0
        self.taken: set[Goal] = set()
        self.add(example_recipe(model.spec))

    def add(self, recipe: Recipe) -> None:
        """Run a call. An illegal one counts too, as in the search."""
        self.calls += 1
        call = build(self.model.spec, recipe)
        path = self.model.observed.run(call) if call is not None else None
        if path is not None:
            self.taken |= path.taken().keys()


def plain_random(model: Model, seed: int, calls: int) -> tuple[set[Goal], int]:
    """Draw normal numbers of the example's scale, and sizes and Python arguments uniformly."""
    chooser = random.Random(seed)
    with model.observed.installed():
        tally = Tally(model)
        while tally.calls < calls:
            tally.add(_random_recipe(model.spec, chooser))
    return tally.taken, tally.calls


def _random_recipe(spec: InputSpec, chooser: random.Random) -> Recipe:
    sizes = {name: chooser.choice(dim.sizes) for name, dim in spec.dims.items()}
    if not within_memory(spec, sizes):
        sizes = {name: dim.example for name, dim in spec.dims.items()}
    arguments = {
        index: _argument(leaf.values, chooser)
        for index, leaf in enumerate(spec.leaves)
        if isinstance(leaf, ValueLeaf) and isinstance(leaf.values, (list, tuple))
    }
    recipe = plain_recipe(spec, "normal", sizes, chooser.randrange(2**31))
    return with_leaves(recipe, arguments)


def _argument(values: list[Any] | tuple[Any, Any], chooser: random.Random) -> Any:
    if isinstance(values, list):
        return chooser.choice(values)
    low, high = values
    whole = isinstance(low, int) and isinstance(high, int)
    return chooser.randint(low, high) if whole else chooser.uniform(low, high)


def plain_hypothesis(model: Model, seed: int, calls: int) -> tuple[set[Goal], int]:
    """Draw with the plugin's strategy for Hypothesis, without the calls that a search found."""
    with model.observed.installed():
        tally = Tally(model)
        drawn(model.spec, calls - 1, tally.add, seed)
    return tally.taken, tally.calls


def drawn(spec: InputSpec, calls: int, use: Callable[[Recipe], None], seed: int = 0) -> None:
    """Give as many recipes of the plugin's strategy to a function."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=calls,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(recipes(spec))
    def draw(recipe: Recipe) -> None:
        use(recipe)

    draw()


def search(model: Model, seed: int, calls: int) -> tuple[set[Goal], int]:
    """Run the plugin's search. It ends early if every outcome was taken."""
    budget = Budget(calls=calls, in_vain=EXPLORED // IN_VAIN)
    found = Search(model.spec, model.observed, seed=seed, budget=budget).run(_silent)
    taken = {(key, outcome) for key, seen in found.seen.items() for outcome in seen.counts}
    return taken, found.calls


WAYS = {"plain random": plain_random, "plain Hypothesis": plain_hypothesis, "search": search}

# By way, seed and budget: per model, the outcomes that were missed, and the seconds per call.
Records = dict[tuple[str, int, int], list[tuple[frozenset[Goal], float]]]


def run(found: Sequence[Model], seeds: Sequence[int], ways: Sequence[str]) -> Records:
    """Return the results of these ways on every model; the ways take turns on each model."""
    records: Records = {}
    for model in found:
        print(model.name, file=sys.__stderr__)
        for seed, way, budget in itertools.product(seeds, ways, BUDGETS):
            start = time.perf_counter()
            taken, calls = WAYS[way](model, seed, budget)
            each = (time.perf_counter() - start) / calls
            records.setdefault((way, seed, budget), []).append((model.wanted - taken, each))
    return records


# -- the table -------------------------------------------------------------------------------------


def table_of(found: Sequence[Model], seeds: Sequence[int], records: Records) -> str:
    """Return a Markdown table: per way the mean of its seeds and, in brackets, the least."""
    last = BUDGETS[-1]
    at = (f"outcomes at {budget}" for budget in BUDGETS)
    rows = [("way", *at, "beyond the example's", f"modules complete at {last}", "ms per call")]
    wanted = sum(len(model.wanted) for model in found)
    beyond = sum(len(model.wanted - model.example) for model in found)

    def shares(way: str, budget: int, of: int, count: Callable[[Any], int] = len) -> str:
        """Return the share of what no model missed, by a count of the misses of each."""
        each = [
            1 - sum(count(missed) for missed, _ in records[way, seed, budget]) / of
            for seed in seeds
        ]
        return f"{statistics.mean(each):.1%} ({min(each):.1%})"

    for way in dict.fromkeys(way for way, *_ in records):
        cells = [shares(way, budget, wanted) for budget in BUDGETS]
        cells += [shares(way, last, beyond), shares(way, last, len(found), bool)]
        each = (each for seed in seeds for _, each in records[way, seed, last])
        rows.append((way, *cells, f"{1000 * statistics.median(each):.2f}"))
    return table(*rows)


def misses(found: Sequence[Model], seeds: Sequence[int], records: Records) -> Iterator[str]:
    """Yield a line per outcome that the search did not reach, with the seeds."""
    for position, model in enumerate(found):
        for goal in sorted(model.wanted, key=str):
            last = {seed: records["search", seed, BUDGETS[-1]][position][0] for seed in seeds}
            without = [str(seed) for seed, missed in last.items() if goal in missed]
            if without:
                yield f"- {model.words(goal)} (seeds {', '.join(without)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="", choices=MODELS, help="default: all")
    parser.add_argument("--rows", default="", help="only models whose names contain this")
    parser.add_argument("--seeds", default="0,1,2", help="default: 0,1,2")
    parser.add_argument("--ways", default=",".join(WAYS), help="default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    ways = arguments.ways.split(",")
    chosen = {arguments.models: MODELS[arguments.models]} if arguments.models else MODELS
    printed = False
    for name, rows in chosen.items():
        with quiet("cpu"), warnings.catch_warnings():
            found = list(models(each for each in rows() if arguments.rows in each[0].name))
            records = run(found, seeds, ways)
        if not found:
            continue
        printed = True
        outcomes = sum(len(model.wanted) for model in found)
        print(f"\n## {name}: {len(found)} modules, {outcomes} outcomes, seeds {seeds}\n")
        print(table_of(found, seeds, records))
        if "search" in ways:
            print(f"\nNot reached by the search in {BUDGETS[-1]} calls:\n")
            print("\n".join(misses(found, seeds, records)) or "nothing")
    if not printed:
        parser.error(f"no model that branches has {arguments.rows!r} in its name")


if __name__ == "__main__":
    main()
