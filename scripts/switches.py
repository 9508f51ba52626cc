"""Switch each mechanism off, and print what the zoo loses without it: what it earns.

    python scripts/switches.py                          # all of them, on the items that they name
    python scripts/switches.py --only gradient
    python scripts/switches.py --only gradient --on '^zoo/.*band/trace'    # on other items

An item is ``zoo/<row>/<target>``, a verdict; ``search/<row>``, the outcomes of the row's witnesses
that the search for branches misses; or ``region/<row>/<target>``, whether a fault in a corner is
found. It is lost if it is another one: of a verdict, class, owner, operator, line or cause count. A
mechanism of which no item is lost earns nothing, and the script exits with 1: give it a row of the
zoo that needs it, or take it out.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import verdicts

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Switch:
    """A mechanism, where it stands in the package, and the items of the zoo that need it.

    ``off`` returns what stands there while it is off, given what stands there.
    """

    mechanism: str
    at: str
    off: Callable[[Any], Any]
    items: tuple[str, ...]

    def place(self) -> tuple[Any, str]:
        """Return the object that has the attribute, and its name."""
        module, _, path = self.at.partition(":")
        owner: Any = importlib.import_module(f"pytest_torchexport.{module}")
        *parts, name = path.split(".")
        for part in parts:
            owner = getattr(owner, part)
        return owner, name

    def lost(self, item: str, check: Callable[[], Any], before: dict[str, Any]) -> list[str]:
        """Return the differences in the verdict of an item while the mechanism is off."""
        with ExitStack() as stack:
            stands, (owner, name) = getattr(*self.place()), self.place()
            # A function stands wherever it was imported to; the verdict before has imported all.
            users = [each for each in ours() if vars(each).get(name) is stands]
            for user in {id(each): each for each in (owner, *users)}.values():
                stack.enter_context(mock.patch.object(user, name, self.off(stands)))
            after = golden(check)
        return [
            f"{field}: {old} -> {new}" for field, old, new in verdicts.differences(before, after)
        ]


def ours() -> list[Any]:
    """Return the modules of the package that are loaded."""
    return [sys.modules[name] for name in [*sys.modules] if name.startswith("pytest_torchexport")]


def items() -> dict[str, Callable[[], dict[str, Any]]]:
    """Return for each item's name the function that returns what counts of it."""
    import branches
    import regions
    import zoo

    def of_verdict(check: Callable[[], Any]) -> dict[str, Any]:
        return verdicts.golden(verdicts.plain(check()))

    def of_search(row: Any) -> dict[str, Any]:
        model = branches.observe(row)
        missed = [model.wanted - branches.search(model, seed, 200)[0] for seed in (0, 1, 2)]
        return {"missed": [sorted(map(model.words, goals)) for goals in missed]}

    def of_region(row: Any, target: str) -> dict[str, Any]:
        regions.register()
        return {"found": regions._faulty(row, target, 1)["found"]}

    found = {name: partial(of_verdict, check) for name, check in verdicts.items().items()}
    found |= {f"search/{row.name}": partial(of_search, row) for row in zoo.ZOO if row.witnesses}
    for row in zoo.rows("faulty"):
        found |= {f"region/{row.name}/{on}": partial(of_region, row, on) for on in row.targets}
    return found


def golden(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the parts of an item that count, or the exception that ends it."""
    try:
        return check()
    except Exception as error:  # a mechanism that others need is missed, too
        return {"status": f"{type(error).__name__}: {error}"}


# -- what stands in a mechanism's place ------------------------------------------------------------


def returns(value: Any) -> Callable[[Any], Any]:
    """Replace a function by one that returns a value."""
    return lambda _: lambda *_, **__: value


def without_move(name: str) -> Callable[[Any], Any]:
    """Return a function of the table of moves that returns it with a move that makes no call."""
    return lambda moves: moves | {name: type(moves[name])(lambda _: iter(()), "switched off")}


def puts_nothing_back(_: Any) -> Any:
    return lambda _reached: nullcontext([])


def yields_nothing(_: Any) -> Callable[..., Iterator[Any]]:
    return lambda *_, **__: iter(())


def without(name: str) -> Callable[[Any], Any]:
    """Leave the rows of a table out that have this name."""
    return lambda rows: tuple(row for row in rows if row.name != name)


def of(path: str, *given: Any, **fields: Any) -> Callable[[Any], Any]:
    """Replace a function by one that returns what a class of the package makes of this."""
    return lambda _: lambda *_, **__: made(path, *given, **fields)


def made(path: str, *given: Any, **fields: Any) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(f"pytest_torchexport.{module}"), name)(*given, **fields)


def takes_all_for_bugs(_: Any) -> Any:
    return lambda _self, differences, *_, **__: made("judge.rounding:Judged", list(differences), [])


# By room, from what is run first to what explains a failure. Each names items that need it.
SWITCHES: tuple[Switch, ...] = (
    # eager
    Switch(
        "eager is pure and repeats",
        "eager.preflight:examine",
        of("eager.preflight:Findings"),
        ("zoo/writes input/onnx", "zoo/global clock/trace"),
    ),
    Switch(
        "memory that nobody wrote",
        "eager.preflight:_Examination._memory",
        returns(None),
        ("zoo/memory nobody wrote/trace", "zoo/a column nobody wrote/trace"),
    ),
    Switch(
        "lines that change state",
        "eager.preflight:changed_at",
        returns({}),
        ("zoo/toggle/trace", "zoo/last input/trace"),
    ),
    Switch(
        "what copies share is put back",
        "eager.shared:put_back",
        puts_nothing_back,
        ("zoo/deployed by its export/export",),
    ),
    # explore
    Switch(
        "steps along the gradient",
        "explore.pursuit:MOVES",
        without_move("descend"),
        ("search/nests conditions",),
    ),
    Switch(
        "climbing towards a condition without a slope",
        "explore.pursuit:MOVES",
        without_move("climb"),
        ("search/sets gain",),
    ),
    Switch(
        "two arguments swapped",
        "explore.pursuit:MOVES",
        without_move("swap"),
        ("search/scores text",),
    ),
    # judge
    Switch(
        "rounding, by other runs of eager",
        "judge.rounding:Calibration.judge",
        takes_all_for_bugs,
        ("zoo/half attention/onnx",),
    ),
    Switch(
        "casts that a runtime leaves out",
        "judge.rounding:as_without_casts",
        lambda _: lambda seen: seen.difference,
        ("zoo/a product in half/onnx",),
    ),
    Switch(
        "contiguous inputs",
        "judge.other_runs:OtherRuns._packs",
        returns(False),
        ("zoo/half attention, strided/onnx",),
    ),
    Switch(
        "orders agree as a whole",
        "judge.rounding:_is_like",
        returns(True),
        ("zoo/parts that overlap/script", "zoo/labels of other boxes/script"),
    ),
    Switch(
        "the artifact's own orders",
        "judge.decisions:Places._orders",
        returns(()),
        ("zoo/corners of two boxes/script", "zoo/masks that overlap/script"),
    ),
    # checks
    Switch(
        "sizes that a program's text shows",
        "checks.dims:audit",
        returns(None),
        ("zoo/size looked up/onnx",),
    ),
    Switch(
        "pairs of sizes",
        "targets.formats.sizes:product",
        lambda _: zip,
        ("zoo/product of sizes/onnx", "zoo/ratio of sizes/onnx"),
    ),
    Switch(
        "search for thresholds of operators",
        "checks.parity:searched",
        returns(()),
        ("zoo/threshold in single/trace", "zoo/a narrow band/trace"),
    ),
    Switch(
        "sweeps of a number",
        "explore.difference:DifferenceSearch._sweep",
        returns(None),
        ("zoo/two digits of one number/trace", "zoo/a narrow band/trace"),
    ),
    Switch(
        "state at the start",
        "checks.state:check_start",
        returns(None),
        ("zoo/buffer counter/trace",),
    ),
    Switch(
        "calls in a row",
        "checks.state:check_rows",
        returns(None),
        ("zoo/warms up late/trace",),
    ),
    # diagnosis
    Switch(
        "first difference of two runs",
        "diagnosis.diagnose:EXAMINATIONS",
        without("operators"),
        ("zoo/float of max/trace",),
    ),
    Switch(
        "a value that torch.export needs",
        "diagnosis.refusal:undecided",
        returns(None),
        ("zoo/sign of mean/export",),
    ),
    Switch(
        "rows of refusals",
        "targets.upstream:first",
        returns(None),
        ("zoo/boxes out/trace", "zoo/bag out/script"),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="switch only mechanisms off that match")
    parser.add_argument("--on", help="look at the items of the zoo that match, not at those named")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    every = items()
    before: dict[str, dict[str, Any]] = {}
    idle = []
    for switch in (each for each in SWITCHES if re.search(given.only, each.mechanism)):
        names: Sequence[str] = switch.items
        if given.on:
            names = [item for item in every if re.search(given.on, item)]
        print(f"{switch.mechanism}  ({switch.at})", flush=True)
        earned = 0
        for item in names:
            if item not in before:
                before[item] = golden(every[item])
            lost = switch.lost(item, every[item], before[item])
            earned += bool(lost)
            if lost or not given.on:
                print(f"    {item}: {'; '.join(lost) or 'nothing'}", flush=True)
        if not earned:
            idle.append(switch.mechanism)
    print(*(f"earns nothing: {mechanism}" for mechanism in idle), sep="\n")
    return bool(idle)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
    sys.exit(main())
