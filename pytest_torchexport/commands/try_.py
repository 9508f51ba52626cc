"""The command ``try``: check a module without a test, and print the test to paste."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_torchexport.commands.asked_sizes import parse_dim
from pytest_torchexport.commands.bar import Bar
from pytest_torchexport.commands.declared import (
    LEGAL,
    Input,
    TensorInput,
    parse_input,
)
from pytest_torchexport.commands.given_subject import is_made, loaded, made, parse_init
from pytest_torchexport.commands.shell import GREEN, RED, USAGE, CommandError, say
from pytest_torchexport.config.options import Options, parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.config.validate import device_names, positive_int, target_names
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.summary import detail_lines, summary_lines
from pytest_torchexport.results.text import failure_texts
from pytest_torchexport.results.verdict import ItemResult, Verdict

if TYPE_CHECKING:
    import torch

# torch is imported only when the arguments can be right: their mistakes are told at once.


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The trial of one subject. ``source``: the expression of Python that makes the subject."""

    subject: Any
    name: str
    module: str
    source: str
    inputs: Sequence[Input]
    shapes: Mapping[str, str]
    dims: Mapping[str, range]
    values: Mapping[str, tuple[float, float]]

    @property
    def options(self) -> Options:
        """The arguments of the marker that the command line declares."""
        return parse_check_options(
            {"shapes": self.shapes or None, "dims": self.dims or None, "values": self.values}
        )


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if a check fails, 2 for an error."""
    given = _parser(program).parse_args(arguments)
    try:
        targets = target_names(given.target) if given.target else Settings().targets
        (device,) = device_names([given.device])
        inputs = [parse_input(text) for text in given.input]
        dims = dict(map(parse_dim, given.dim))
        _refuse_unused_dims(inputs, dims)
        init = parse_init(given.init) if given.init is not None else None
        examples = positive_int(given.max_examples) if given.max_examples is not None else None
        _seed(given.seed)
        trial = _trial(given.subject, init, inputs, dims)
        options = trial.options
    except (CommandError, SpecError, ValueError) as error:
        say([f"{program}: {error}"], sys.stderr)
        return USAGE
    plans = [
        Plan(
            target=target,
            device=device,
            options=options,
            named=bool(given.target),
            seed=given.seed,
            max_examples=examples,
        )
        for target in targets
    ]
    verdicts = _verdicts(trial, plans)
    wrong = next((each for each in verdicts if each.failure == SpecError.__name__), None)
    if wrong is not None:  # of the call, and so of each target
        say([f"{program}: {wrong.reason}", *wrong.details], sys.stderr)
        return USAGE
    say(_report(trial, verdicts, whole=given.verbose))
    if any(each.status == "failed" for each in verdicts):
        return RED
    if not any(each.status == "passed" for each in verdicts):
        say(["no target was judged"], sys.stderr)
        return RED
    return GREEN


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description="Check a module on export targets without a test, and print a test to paste.",
        epilog="Exit status: 0 if a target passed and none failed; 1 if one failed or none was "
        "judged; 2 if the module, its arguments or its inputs are wrong.",
    )
    parser.add_argument(
        "subject",
        metavar="MODULE:NAME",
        help="a class, a module, a function without arguments that makes a module, or a function "
        "to check: package.module:Net, or path/to/file.py:Net",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="INPUT",
        help=f"an argument of forward (repeatable); {LEGAL}",
    )
    parser.add_argument("--init", metavar="ARGUMENTS", help="for the class: 'hidden=8'")
    parser.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="NAME=LOW..HIGH",
        help="the legal sizes of a dim that has a name in an input (repeatable)",
    )
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAMES",
        help=f"targets to check (default: {','.join(Settings().targets)})",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--max-examples", metavar="N", help="calls to draw per target")
    parser.add_argument("--seed", type=int, default=0, help="of weights and calls (default: 0)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print all details")
    return parser


def _trial(
    text: str, init: Mapping[str, Any] | None, inputs: Sequence[Input], dims: Mapping[str, range]
) -> Trial:
    """Import and make the subject, and give the inputs the names of its arguments."""
    thing, module, name = loaded(text)
    subject, source = thing, name
    if is_made(thing, init=init is not None):
        subject = made(thing, init or {}, name)
        arguments = ", ".join(f"{key}={value!r}" for key, value in (init or {}).items())
        source = f"{name}({arguments})"
    elif init is not None or not callable(thing):
        kind = type(thing).__name__
        raise CommandError(f"{text} is a {kind}, which takes no --init and cannot be checked")
    paths = _paths(subject, inputs)
    tensors = {
        path: each.value
        for path, each in zip(paths, inputs, strict=True)
        if isinstance(each.value, TensorInput)
    }
    return Trial(
        subject=subject,
        name=name,
        module=module,
        source=source,
        inputs=inputs,
        shapes={path: tensor.shape for path, tensor in tensors.items() if tensor.shape},
        dims=dims,
        values={path: tensor.values for path, tensor in tensors.items() if tensor.values},
    )


def _refuse_unused_dims(inputs: Sequence[Input], dims: Mapping[str, range]) -> None:
    tensors = [each.value for each in inputs if isinstance(each.value, TensorInput)]
    named = {dim for tensor in tensors for dim in tensor.dims if dim}
    for dim in dims:
        if dim not in named:
            raise CommandError(
                f"--dim {dim}: no input has a dim of this name; write it beside the size: "
                f"float32[{dim}=2,3]"
            )


def _seed(seed: int) -> torch.Generator:
    """Seed the weights of the module, and return a generator for the inputs."""
    import torch

    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def _paths(subject: Any, inputs: Sequence[Input]) -> list[str]:
    """Return the name of each input's argument. Raises CommandError if they do not fit."""
    forward = getattr(subject, "forward", subject)
    names = [each.name for each in inputs]
    if "" in names[names.count("") :]:
        raise CommandError("--input: those with a name come after those without one")
    try:
        signature = inspect.signature(forward)
    except (TypeError, ValueError):  # a function of C
        return [name or f"args[{number}]" for number, name in enumerate(names)]
    slots = [object() for _ in inputs]
    given = [slot for slot, name in zip(slots, names, strict=True) if not name]
    by_name = {name: slot for slot, name in zip(slots, names, strict=True) if name}
    try:
        bound = signature.bind(*given, **by_name).arguments
    except TypeError as error:
        text = ", ".join(map(str, signature.parameters.values()))
        raise CommandError(
            f"the inputs do not fit forward({text}): {error}; give each with --input"
        ) from None
    found: dict[int, str] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found.update({id(each): f"{name}[{number}]" for number, each in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found.update({id(each): key for key, each in value.items()})
        else:
            found[id(value)] = name
    return [found[id(slot)] for slot in slots]


def _verdicts(trial: Trial, plans: Sequence[Plan]) -> list[Verdict]:
    """Check each target; end early at a mistake in the call, which is the same for all."""
    import dataclasses

    from pytest_torchexport import engine
    from pytest_torchexport.inputs.call import Call

    generator = _seed(plans[0].seed)
    values = [(each.name, each.made(generator)) for each in trial.inputs]
    call = Call(
        tuple(value for name, value in values if not name),
        {name: value for name, value in values if name},
    )
    bar, found = Bar(len(plans)), []
    for plan in plans:
        bar.begin(plan.target)
        found.append(engine.check(trial.subject, [call], dataclasses.replace(plan, progress=bar)))
        bar.end()
        if found[-1].failure == SpecError.__name__:
            break
    return found


def _report(trial: Trial, verdicts: Sequence[Verdict], *, whole: bool) -> list[str]:
    items = [
        ItemResult(
            nodeid=f"{trial.name}[{each.target}-{each.device}]",
            outcome=each.status,
            verdicts=(each,),
            target=each.target,
            device=each.device,
        )
        for each in verdicts
    ]
    failed = [each for each in verdicts if each.status == "failed"]
    lines = [line for text in failure_texts(failed, whole=whole) for line in (text, "")]
    lines += [*detail_lines(items), ""] if whole else []
    return [*lines, *summary_lines(items), "", *_test(trial, verdicts)]


def _test(trial: Trial, verdicts: Sequence[Verdict]) -> list[str]:
    """Return a test with the marker, on the targets that passed; on all, if none did."""
    passed = [each.target for each in verdicts if each.status == "passed"]
    others = [each for each in verdicts if each.status != "passed"]
    targets = [repr(target) for target in passed or [each.target for each in verdicts]]
    declared = [
        f"{name}={value!r}"
        for name, value in (
            ("shapes", dict(trial.shapes)),
            ("dims", {name: (sizes[0], sizes[-1]) for name, sizes in trial.dims.items()}),
            ("values", dict(trial.values)),
        )
        if value
    ]
    without = ", ".join(f"{each.target}: {each.failure or each.skip}" for each in others)
    calls = ", ".join(each.source for each in trial.inputs)
    root = trial.name.partition(".")[0]
    marker = ", ".join([*targets, *declared]).replace("'", '"')
    remark = f" (without {without})" if passed else f" (it fails or is skipped now: {without})"
    return [
        f"To paste into a test file{remark if without else ''}:",
        "",
        "import pytest",
        *(["import torch"] if "torch." in calls else []),
        f"from {trial.module} import {root}",
        "",
        f"@pytest.mark.torchexport({marker})",
        f"def test_{trial.name.replace('.', '_').lower()}():",
        f"    {trial.source}({calls})",
    ]
