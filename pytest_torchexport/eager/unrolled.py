"""Unroll a loop: make the call of the next step from what a step returns.

Eager's own loop comes first: it tells which paths are legal, and how large a carried state becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_torchexport.config.loop import Loop
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.pytrees import clone, describe, flatten, kind_of
from pytest_torchexport.inputs.recipes import recorded_recipes
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Outcome, Raised, Returned, Run, Tensors
from pytest_torchexport.outcomes.torch_state import random_numbers
from pytest_torchexport.results.failures import SpecError, ends_the_test


@dataclass(frozen=True)
class Made:
    """One step: its call, its outcome, and the module's tensors after it."""

    call: Call
    outcome: Outcome
    state: Tensors


@dataclass(frozen=True, kw_only=True)
class Wiring:
    loop: Loop
    spec: InputSpec

    def unroll(self, run: Run, ahead: Sequence[Made] = ()) -> Iterator[Made]:
        """Yield the steps, up to the first that does not return.

        ``ahead`` are eager's: a step gets their integers and bools in place of its own.
        """
        call = self.spec.example
        for number in range(self.loop.steps):
            made = Made(call, *run(call))
            yield made
            if not isinstance(made.outcome, Returned) or number + 1 == self.loop.steps:
                return
            call = self.following(call, made.outcome.value, number)
            if ahead:
                call = self.led(call, ahead[number + 1].call)[0]

    def following(self, call: Call, value: Any, number: int) -> Call:
        """Return the call after step ``number``, which returned ``value``. Raises SpecError."""
        inputs, outputs = dict(self.spec.flatten(call)), dict(flatten(value, "output")[0])
        for source, target in self.loop.carry.items():
            _put("carry", inputs, target, _below(source, outputs, "carry", "what the step returns"))
        for target, how in self.loop.feed.items():
            new = how[number] if isinstance(how, Sequence) else _answer(target, how, value)
            _put("feed", inputs, target, dict(flatten(new)[0]))
        return Call(*self.spec.structure.unflatten(inputs.values()))

    def led(self, call: Call, eager: Call) -> tuple[Call, bool]:
        """Return the call with eager's integers, bools and Python values, and if any was another.

        Numbers that agree but for rounding may lead to another of these: a tie of an argmax.
        """
        pairs = [*zip(call.leaves(), eager.leaves(), strict=True)]
        ours = [each if _is_real(each) else other for each, other in pairs]
        parted = any(
            not _is_real(each) and compare_values(each, other, Tolerance(0.0, 0.0))
            for each, other in pairs
        )
        return Call(*self.spec.structure.unflatten(ours)), parted

    def carried_to(self, path: str) -> str:
        """Return the path of the input that an output becomes; empty if it becomes none."""
        for source, target in self.loop.carry.items():
            if _is_below(path, source):
                return target + path.removeprefix(source)
        return ""


def spec_of_loop(
    loop: Loop,
    example: Call,
    reference: Reference,
    options: Options,
    spec_of: Callable[[Sequence[Call], Options], InputSpec],
) -> InputSpec:
    """Return the spec of the calls of eager's own loop. Raises SpecError if it has no next one.

    Sizes that change are dims, as large as the loop makes them: more may be no legal size.
    """
    # Zeros that are given twice, as two states, are two tensors in the next step.
    example = Call(*clone((example.args, dict(example.kwargs))))
    calls = _calls(loop, example, reference, spec_of([example], Options()))
    spec = spec_of(calls, options)
    if not spec.recorded:
        return spec
    every = [spec.example_sizes, *(recipe.sizes for recipe in recorded_recipes(spec))]
    ends = {name: [sizes[name] for sizes in every] for name in spec.recorded}
    dims = {name: range(min(each), max(each) + 1) for name, each in ends.items()}
    return spec_of(calls, replace(options, dims={**dims, **(options.dims or {})}))


def _calls(loop: Loop, example: Call, reference: Reference, spec: InputSpec) -> list[Call]:
    first = dict(spec.flatten(example))
    calls, run = list[Call](), reference.anew("cpu", state=False)
    wiring = Wiring(loop=loop, spec=spec)
    for number, made in enumerate(wiring.unroll(run)):
        where = made.outcome.where if isinstance(made.outcome, Raised) else None
        if not isinstance(made.outcome, Returned):
            raise SpecError(f"eager raises at step {number + 1}: {made.outcome}", where=where)
        for path, leaf in spec.flatten(made.call):
            if kind_of(leaf) != kind_of(first[path]):
                raise SpecError(
                    f"step {number + 1} gets {path} as {describe(leaf)}, and the first step as "
                    f"{describe(first[path])}: only the sizes of its axes may change"
                )
        calls.append(made.call)
        if not number:
            _refuse_other_answers(wiring, made.call, made.outcome.value)
    return calls


def _refuse_other_answers(wiring: Wiring, call: Call, value: Any) -> None:
    """Raise SpecError for a function of ``feed`` that does not repeat: the loop runs many times."""
    put_back = random_numbers()
    first = dict(wiring.spec.flatten(wiring.following(call, value, 0)))
    put_back()
    again = dict(wiring.spec.flatten(wiring.following(call, value, 0)))
    put_back()
    for path, leaf in first.items():
        if compare_values(leaf, again[path], Tolerance(0.0, 0.0)):
            raise SpecError(
                f"feed: {path!r}: the function returns another value for the same output when it "
                "is called again. Draw random numbers without a generator of your own (torch's are "
                "seeded for each step), or give the values as a list"
            )


def _is_real(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _is_below(path: str, whole: str) -> bool:
    return path == whole or path.startswith((f"{whole}[", f"{whole}."))


def _below(whole: str, leaves: Mapping[str, Any], argument: str, of: str) -> dict[str, Any]:
    """Return the leaves of a part of a pytree by the rest of their paths. Raises SpecError."""
    found = {p.removeprefix(whole): leaf for p, leaf in leaves.items() if _is_below(p, whole)}
    if not found:
        raise SpecError(
            f"{argument}: {whole!r} is not in {of}; legal: {', '.join(leaves) or 'nothing'}, or a "
            f"container of these.{nearest(whole, leaves)}"
        )
    return found


def _put(argument: str, inputs: dict[str, Any], target: str, new: Mapping[str, Any]) -> None:
    """Replace a part of the inputs by one with the same leaves. Raises SpecError."""
    known = _below(target, inputs, argument, "this call")
    if known.keys() != new.keys():
        had, got = (", ".join(f"{target}{rest}" for rest in each) for each in (known, new))
        raise SpecError(
            f"{argument}: {target!r} has the leaves {had}, and the next step would get {got}: a "
            "loop exports one step, whose inputs have the same containers every time"
        )
    inputs.update({f"{target}{rest}": leaf for rest, leaf in new.items()})


def _answer(target: str, how: Callable[[Any], Any], value: Any) -> Any:
    try:
        return how(value)
    except Exception as error:
        if ends_the_test(error):
            raise
        raise SpecError(f"feed: {target!r}: raised {type(error).__name__}: {error}") from error
