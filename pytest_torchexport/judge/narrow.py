"""Judge a file in eight or sixteen bits, whose numbers are not those of eager in float32.

In eight bits, over calls: no element of such a file is as near to eager's as floats are, and no one
bound separates files. Of ten small models, healthy files were 0.2 to 3.4 % off (root mean square in
parts of the output's, median over calls), broken ones 0.4 to 125 %. But eager whose operators get
numbers in 256 steps is off by nearly as much as a healthy file of the same model: these were 0.7 to
3.3 times as far. Only calls like the example count, inside the range that the file was calibrated
to: a file may cut off other numbers. What is no matter of numbers (shapes, dtypes, exceptions,
infinities) is judged of every call, as of any file.

In half precision, by onnx.reference too: on the CPU, ONNX Runtime computes in float32, and never
overflows as other devices do.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.recipes import (
    SCALES,
    Recipe,
    example_recipe,
    plain_recipe,
    recorded_recipes,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.inputs.strategies import drawn_sizes
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.last_digits import rounds, with_float_operands
from pytest_torchexport.judge.log import UNTIL_CALLS, Shrunk
from pytest_torchexport.judge.other_runs import Leaves, OtherRuns, Way, leaves_after
from pytest_torchexport.outcomes.compare import compare
from pytest_torchexport.outcomes.observe import Outcome, Returned
from pytest_torchexport.outcomes.operators import Operation, operations, written_to
from pytest_torchexport.outcomes.tape import How, record
from pytest_torchexport.results.diagnosis import NOTHING, Cause, Diagnosis
from pytest_torchexport.results.failures import OutputsDiffer, SpecError

CALLS = 24
# So many times eager's own error is no failure: in the median of the drawn calls, in all but one of
# twenty, and in each call of the test's own. Of ten models, 60 healthy files reached 2.5 and 3.1.
MEDIAN, MOST = 3.5, 5.0
# Nor is an error below this part of the output: less than one step of 256.
FLOOR = 0.004
STEPS = 255

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Errors:
    """The errors of one call by output path: the file's and eager's in eight bits, in parts of it.

    ``own``: the test made the call.
    """

    recipe: Recipe
    call: Call
    expected: Returned
    actual: Outcome
    own: bool
    of: Mapping[str, tuple[float, float]]


def judge(case: Case) -> None:
    """Raise OutputsDiffer if the file is further from eager than its numbers explain."""
    if case.judge.in_eight_bits:
        _in_eight_bits(case)
    elif case.precision is torch.float16 and case.plan.device == "cpu":
        _in_half(case)


# -- eight bits ------------------------------------------------------------------------------------


def _in_eight_bits(case: Case) -> None:
    ranges = case.artifact.facts.ranges(case.spec.example)
    cut = [*_cut_off(case.spec, ranges)]
    calls = [*_calls(case, ranges)]
    for path in dict.fromkeys(path for each in calls for path in each.of):
        drawn = [each for each in calls if path in each.of and not each.own]
        for each in calls:
            if each.own and path in each.of and _is_far(*each.of[path], MOST):
                _raise(case, each, path, f"on the test's own call {_words(*each.of[path])}", cut)
        if len(drawn) < CALLS // 2:
            text = (
                f"eager takes {len(drawn)} calls like the example: too few to judge eight bits by"
            )
            case.log.ineffective.append(text)
            continue
        files, eagers = (sorted(each.of[path][side] for each in drawn) for side in (0, 1))
        middle = statistics.median(files), statistics.median(eagers)
        near_most = round(0.95 * (len(drawn) - 1))
        high = files[near_most], eagers[near_most]
        worst = max(drawn, key=lambda each: each.of[path][0])
        for text, pair, times in (("the median", middle, MEDIAN), ("95 %", high, MOST)):
            if _is_far(*pair, times):
                said = f"in {text} of {len(drawn)} calls like the example {_words(*pair)}"
                _raise(case, worst, path, said, cut)
        case.log.note(
            f"{path}: in the median of {len(drawn)} calls like the example {_words(*middle)}"
        )
    for text in cut:
        case.log.caution(text)


def _is_far(file: float, eager: float, times: float) -> bool:
    return not file <= max(times * eager, FLOOR)


def _words(file: float, eager: float) -> str:
    return f"the file is {file:.1%} off, and eager with numbers in eight bits {eager:.1%}"


def _raise(case: Case, worst: Errors, path: str, text: str, cut: Sequence[str]) -> None:
    case.log.shrunk = Shrunk.as_made(case.spec, worst.recipe, worst.call)
    cause = Cause(
        kind="calibration",
        text=" and ".join(cut),
        remedy="calibrate with calls like those that the test makes",
    )
    raise OutputsDiffer(
        f"{path}: {text}",
        differences=tuple(
            item
            for item in compare(worst.expected, worst.actual, case.judge.tolerance)
            if item.path == path
        ),
        diagnosis=Diagnosis(causes=(cause,)) if cut else NOTHING,
    )


def _cut_off(spec: InputSpec, ranges: Mapping[str, Range]) -> Iterator[str]:
    """Yield what the file cuts off of the numbers that the test itself passes."""
    for leaf in spec.tensors:
        low, high = ranges.get(leaf.path, (-torch.inf, torch.inf))
        step = (high - low) / STEPS
        given = torch.cat([tensor.detach().flatten().double() for tensor in leaf.given])
        outside = (given < low - step) | (given > high + step)
        if bool(outside.any()):
            furthest = float(given[outside].abs().max())
            yield (
                f"the file is calibrated to {low:.3g} to {high:.3g} of {leaf.path}, and the test's "
                f"own numbers reach {furthest:.3g}: {float(outside.double().mean()):.1%} of them "
                "are cut off"
            )


def _calls(case: Case, ranges: Mapping[str, Range]) -> Iterator[Errors]:
    """Yield the errors of the test's own calls, and of some like the example."""
    eager = OtherRuns(case.reference.pristine, case.plan.seed, stateful=case.reference.stateful)
    spec = dataclasses.replace(
        case.spec,
        leaves=tuple(
            _within(leaf, *ranges[leaf.path])
            if isinstance(leaf, TensorLeaf) and leaf.path in ranges
            else leaf
            for leaf in case.spec.leaves
        ),
    )
    sizes = drawn_sizes(spec)
    drawn = (
        plain_recipe(
            spec,
            "normal",
            {name: legal[number % len(legal)] for name, legal in sizes.items()},
            case.plan.seed + number,
        )
        for number in range(CALLS)
    )
    own = [example_recipe(case.spec), *recorded_recipes(case.spec)]
    inside = case.accepted.with_spec(spec)
    for accepted, recipe in (
        *((case.accepted, recipe) for recipe in own),
        *((inside, recipe) for recipe in drawn),
    ):
        if case.deadline.is_past(UNTIL_CALLS):
            return
        try:
            found = accepted.call(recipe)
        except SpecError:
            continue
        expected = found and case.reference.on_device(found.call, found.outcome)
        if found is None or not isinstance(expected, Returned):
            continue
        actual = case.judge.run(found.call)
        coarse = eager.run([found.call], (), [Way(in_eight_bits)])
        if isinstance(actual, Returned) and coarse:
            yield Errors(
                recipe=recipe,
                call=found.call,
                expected=expected,
                actual=actual,
                own=accepted is case.accepted,
                of=_errors(leaves_after(expected, {}), leaves_after(actual, {}), coarse[0]),
            )


def _within(leaf: TensorLeaf, low: float, high: float) -> TensorLeaf:
    domain = leaf.domain
    if domain.kind != "float" or domain.declared or domain.choices:
        return leaf
    low = low if domain.low is None else max(low, domain.low)
    high = high if domain.high is None else min(high, domain.high)
    return dataclasses.replace(leaf, domain=dataclasses.replace(domain, low=low, high=high))


def _errors(expected: Leaves, file: Leaves, eager: Leaves) -> dict[str, tuple[float, float]]:
    """Return the errors of both by output path, where all have finite numbers of one shape.

    Of floats the root mean square, in parts of the output's; of others the share that differs.
    """
    found = {}
    for path, wanted in expected.items():
        leaves = wanted, file.get(path), eager.get(path)
        tensors = [leaf.detach().cpu() for leaf in leaves if is_plain(leaf)]
        if not path.startswith("output") or not is_plain(wanted) or not wanted.numel():
            continue
        if [tensor.shape for tensor in tensors] == [wanted.shape] * len(leaves):
            first, of_file, of_eager = tensors
            found[path] = _error(first, of_file), _error(first, _coarse(of_eager))
    return found


def _error(wanted: torch.Tensor, other: torch.Tensor) -> float:
    if not wanted.is_floating_point():
        return float((wanted != other).double().mean())
    finite = wanted.isfinite() & other.isfinite()
    gap, size = (other.double() - wanted.double())[finite], wanted.double()[finite]
    level = float(size.square().mean().sqrt()) if size.numel() else 0.0
    return float(gap.square().mean().sqrt()) / level if level else 0.0


# -- eager in eight bits ---------------------------------------------------------------------------


def in_eight_bits() -> AbstractContextManager[None]:
    """Give the operators of the block that compute with floats numbers in 256 steps.

    Each operand's steps lie between its least and its largest number, zero included, as those of a
    quantizer do. Vectors, as a bias, stay as they are.
    """

    def operator(operation: Operation) -> Any:
        if rounds(operation) and not written_to(operation.func):
            return with_float_operands(operation, _coarse).run()
        return operation.run()

    return operations(operator)


def _coarse(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() < 2 or not tensor.is_floating_point() or not tensor.numel():
        return tensor
    low, high = tensor.amin().clamp(max=0), tensor.amax().clamp(min=0)
    step = (high - low) / STEPS
    coarse = (tensor / step).round() * step
    return coarse if bool(step.isfinite() & (step > 0)) else tensor


# -- half precision --------------------------------------------------------------------------------

# onnx.reference adds up in half precision, which is off by this part of the output at most if
# nothing overflows: 512 terms are off by 1 %.
OVERFLOWS = 0.1
# Numbers so many times those of the example: beyond DRAWN, as no call is drawn, it is a warning.
DRAWN, BEYOND = max(SCALES), 30.0


def _in_half(case: Case) -> None:
    """Raise OutputsDiffer if a call overflows where onnx.reference runs the file."""
    runner = case.by_reference()
    if runner is None:
        return
    normal = plain_recipe(case.spec, "normal", case.spec.example_sizes, case.plan.seed)
    scaled = [
        dataclasses.replace(
            normal, leaves=tuple(dataclasses.replace(leaf, scale=scale) for leaf in normal.leaves)
        )
        for scale in (1.0, DRAWN, BEYOND)
    ]
    for recipe in (example_recipe(case.spec), *recorded_recipes(case.spec), *scaled):
        if case.deadline.is_past(UNTIL_CALLS):
            return
        found = case.accepted.call(recipe)
        if found is None:
            continue
        actual = runner.run(found.call, case.plan.seed)
        if not isinstance(actual, Returned):
            case.log.note(f"overflow is not searched for: onnx.reference cannot run it: {actual}")
            return
        wanted, made = leaves_after(found.outcome, {}), leaves_after(actual, {})
        for path, (error, _) in _errors(wanted, made, made).items():
            lost = bool((wanted[path].isfinite() & ~made[path].isfinite()).any())
            if not lost and error <= OVERFLOWS:
                continue
            cause = overflow(case, found.call)
            text = f"{path}: in float16, as onnx.reference computes it, the file "
            text += "overflows" if lost else f"is {error:.0%} off"
            if recipe is scaled[-1]:
                why = f": {cause.text} ({cause.where})" if cause is not None else ""
                case.log.caution(f"{text} at numbers {BEYOND:g} times the example's{why}")
                return
            case.log.shrunk = Shrunk.as_made(case.spec, recipe, found.call)
            raise OutputsDiffer(
                f"{text}; on the CPU, ONNX Runtime computes in float32 and does not show it",
                diagnosis=Diagnosis(causes=(cause,)) if cause is not None else NOTHING,
            )


def overflow(case: Case, call: Call) -> Cause | None:
    """Return the first operator of eager in half precision that makes an infinity, if one does."""
    subject = case.reference.pristine.copy()
    if subject.module is not None:
        subject.module.half()

    def is_infinite(result: Any) -> bool:
        return isinstance(result, torch.Tensor) and bool(result.isinf().any())

    tape = record(
        subject.function,
        Way(where=torch.float16).given(call),
        seed=case.plan.seed,
        grad_mode=subject.grad_mode,
        how=How(keep=is_infinite),
    )
    step = next((step for step in tape.steps if any(step.results)), None)
    if step is None:
        return None
    return Cause(
        kind="overflow",
        text=f"{step.operator_name} is beyond 65504, the largest number of float16",
        remedy="keep it in float32 when the file is converted, or scale its operands down",
        where=step.where,
    )
