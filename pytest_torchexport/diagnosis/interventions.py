"""Find the cause of a failure by interventions on eager.

Eager runs the failing call with one thing changed: with the exporter's answers to what it asks,
with one tensor in the place of two, without attention's fast path, without gradients. If it then
returns what the artifact does, that is the cause. An intervention that has parts, as the places
that ask, is made with the fewest of them that are enough.

The last one is made by a rule, as its cause needs more facts: with other numbers than Python reads
from tensors. While ``torch.jit.trace`` runs forward, sizes are tensors: ``int(x.shape[0])`` reads a
number from one as ``x.max().item()`` does, and the trace keeps both as constants. Traced with other
numbers in their place, forward does what it would do if it had read these.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar
from unittest import mock

import numpy as np
import torch
from torch import nn

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.scene import Beside, Scene
from pytest_torchexport.eager.queries import GRAD_MODE, Query, answering, queries, survives
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.messages import first_owned
from pytest_torchexport.outcomes.observe import Outcome, observe
from pytest_torchexport.outcomes.tape import UsersLines
from pytest_torchexport.outcomes.torch_state import GradMode, plain_attention
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Owner
from pytest_torchexport.results.escaped import SHOWN, few
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.capturing import FlatModule

SAME = (
    "write on both sides what eager runs there; the question is for what changes no result, as a "
    "check or a log"
)
# In eval mode and without gradients, their forward runs a fused kernel if the arguments allow it.
WITH_FAST_PATH = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
WITHOUT_FAST_PATH = "torch.backends.mha.set_fastpath_enabled(False)"

Part = TypeVar("Part")
# The cause, and whose code is to change if the cause alone tells it.
Explained: TypeAlias = tuple[Cause, Owner | None]


def smallest(parts: Sequence[Part], is_enough: Callable[[Sequence[Part]], bool]) -> Sequence[Part]:
    """Return the fewest found of these parts that are enough; none if all together are not."""
    if not parts or not is_enough(parts):
        return ()
    while len(parts) > 1:
        middle = len(parts) // 2
        halves = parts[:middle], parts[middle:]
        half = next((half for half in halves if is_enough(half)), None)
        if half is None:
            break
        parts = half
    for part in tuple(parts) if len(parts) > 1 else ():
        fewer = [each for each in parts if each is not part]
        parts = fewer if is_enough(fewer) else parts
    return parts


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the cause that the first intervention shows which eager takes to do the same."""
    beside = scene.beside
    if beside is None:
        return known
    explained = next(filter(None, (explain(beside) for explain in INTERVENTIONS)), None)
    if explained is None:
        return known
    cause, owner = explained
    return replace(known, owner=known.owner or owner, causes=(*known.causes, cause))


# -- the failing call ------------------------------------------------------------------------------


def _one_tensor_for_several(beside: Beside) -> Explained | None:
    """Give one tensor wherever the example does: the export may have taken them for one."""
    leaves, structure = beside.call.flatten()
    aliases = beside.scene.case.spec.aliases

    def does(groups: Sequence[Sequence[int]], taken: int) -> bool:
        one_of = {index: group[min(taken, len(group) - 1)] for group in groups for index in group}
        chosen = [leaves[one_of.get(index, index)][1] for index in range(len(leaves))]
        return beside.agrees(beside.scene.subject(), Call(*structure.unflatten(chosen)))

    # Some exporters take the first of them, others the last.
    for taken in range(max(map(len, aliases), default=0)):
        enough = smallest(aliases, lambda groups: does(groups, taken))  # noqa: B023 - called here
        if enough:
            spec = beside.scene.case.spec
            first, *others = (spec.leaves[number].path for number in enough[0])
            made = ", ".join(f"{other!r}: {first}" for other in others)
            given = f"{', '.join([first, *others[:-1]])} and {others[-1]}"
            cause = Cause(
                kind="one tensor twice",
                text=f"the example gives one tensor as {given}, and the export takes them for one: "
                "given one tensor, eager returns what the artifact does",
                remedy="call it with different tensors in the test; if they always are one, say "
                f"so: map=lambda {first}: {{{made}}}",
            )
            return cause, "capture"
    return None


def _layout_of_the_example(beside: Beside) -> Explained | None:
    """Export with contiguous tensors, and give them to that artifact."""
    case, scene = beside.scene.case, beside.scene
    laid_out = [leaf for leaf in case.spec.tensors if leaf.layout != "contiguous"]
    if not laid_out or not targets.get(beside.plan.target).traits.fixes_layouts:
        return None

    def plain(call: Call) -> Call:
        leaves, structure = call.flatten()
        return Call(
            *structure.unflatten(
                [leaf.contiguous() if is_plain(leaf) else leaf for _, leaf in leaves]
            )
        )

    artifact = case.exported_or_refused(plain(case.call_to_export()))
    if isinstance(artifact, str):
        return None
    outcome = case.runner_of(artifact).run(plain(beside.call), beside.plan.seed)
    if not scene.is_eagers(outcome):
        return None
    named = few([f"{leaf.path} ({leaf.layout})" for leaf in laid_out])
    cause = Cause(
        kind="memory layout",
        text=f"the file does not follow how tensors of the example lie in memory, {named}: "
        "exported and called with contiguous tensors, it agrees with eager",
        remedy="call the module with contiguous tensors in the test, x.contiguous(), and make "
        "inputs contiguous before the call in production",
    )
    return cause, "capture"


# -- how it runs -----------------------------------------------------------------------------------


def _without_fast_path(beside: Beside) -> Explained | None:
    """Keep attention from the fused kernels of eval mode."""
    module, names = beside.scene.subject().module, dict[str, str]()
    for path, part in module.named_modules() if module is not None else ():
        inside = any(f"{path}.".startswith(f"{outer}." if outer else "") for outer in names)
        if isinstance(part, WITH_FAST_PATH) and not part.training and not inside:
            names[path] = f"{path} ({type(part).__name__})".strip()
    if not names or not beside.agrees(beside.scene.subject(), context=plain_attention):
        return None
    cause = Cause(
        kind="attention fast path",
        text=f"the fast path of {few([*names.values()])}: with {WITHOUT_FAST_PATH}, "
        f"eager returns what {beside.words}",
        remedy=WITHOUT_FAST_PATH,
    )
    return cause, None


def _answers_of_the_export(beside: Beside) -> Explained | None:
    """Answer what forward asks as the exporter does: is it traced, scripted, exported?"""
    answers = targets.get(beside.plan.target).traits.answers
    asked = _asked(beside, answers)
    outside = [query for query in asked if not query.of_torch]
    for places in (asked, outside) if len(outside) < len(asked) else (asked,):
        enough = smallest(places, lambda some: _is_answer(beside, answers, some))
        if enough:
            does = f": with this answer eager returns what {beside.words}"
            cause = of_answers(enough, beside.plan.target, does)
            return cause, None if all(query.of_torch for query in enough) else "model"
    return None


def _answers_before_the_file(beside: Beside) -> Explained | None:
    """Answer eager as the export does, beside what torch captured before it became ONNX."""
    answers = targets.get(beside.plan.target).traits.answers
    captured = beside.scene.beside_captured if _asked(beside, answers) else None
    if captured is None or captured.agrees(captured.scene.subject()):
        return None
    return _answers_of_the_export(captured)


def of_answers(asked: Sequence[Query], target: str, does: str) -> Cause:
    """Return the cause of what eager does if it is answered as an export at these places."""
    answers = targets.get(target).traits.answers
    said = dict.fromkeys(f"{query.name}() is {answers[query.name]}" for query in asked)
    return Cause(
        kind="export-only branch",
        text=f"{' and '.join(said)} on {target}{does}",
        remedy=SAME,
        details=tuple(query.asked_at for query in asked[:SHOWN]),
        where=asked[0].where,
    )


def _asked(beside: Beside, answers: Mapping[str, Any]) -> Sequence[Query]:
    return queries(beside.scene.subject(), beside.call, beside.plan.seed, answers)


def _is_answer(beside: Beside, answers: Mapping[str, Any], asked: Sequence[Query]) -> bool:
    pristine = beside.scene.case.reference.pristine
    if not survives(pristine, beside.call.to("cpu"), beside.plan.seed, answers, asked):
        return False
    subject = beside.scene.subject()
    return beside.agrees(replace(subject, function=answering(subject.function, answers, asked)))


def _other_grad_mode(beside: Beside) -> Explained | None:
    """Run in the mode of the export, or else in that in which the artifact is served."""
    reference, subject = beside.scene.case.reference, beside.scene.subject()
    exported, served, own = reference.exported_in, reference.served, subject.grad_mode
    other = served if exported is own else exported
    if other is own or not beside.agrees(replace(subject, grad_mode=other)):
        return None
    if other is exported and not beside.scene.agrees_if_exported(grad_mode=served):
        return None  # attention without its fast path, say: another cause has a remedy that helps
    answers = {GRAD_MODE: other is GradMode.GRAD}
    asked = _asked(beside, answers)
    enough = smallest(asked, lambda some: _is_answer(beside, answers, some))
    cause = Cause(
        kind="mode-dependent operator",
        text=f"exported {exported.value}, served {served.value}: {other.value} eager returns what "
        f"{beside.words}",
        remedy=f"export {served.value}, and make the test's call so",
        details=tuple(query.asked_at for query in enough[:SHOWN]),
        where=enough[0].where if enough else None,
    )
    return cause, None


# In this order: the failing call, then how it is run.
INTERVENTIONS: tuple[Callable[[Beside], Explained | None], ...] = (
    _one_tensor_for_several,
    _layout_of_the_example,
    _other_grad_mode,
    _without_fast_path,
    _answers_of_the_export,
    _answers_before_the_file,
)


# -- numbers that Python reads ---------------------------------------------------------------------

# The methods by which Python makes numbers of a tensor. torch's own functions read a tensor that
# they are given for an integer in C++: a trace follows that.
READERS = (
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "item"),
    *("tolist", "numpy", "__array__"),
)

# What was read on each line, in order.
Numbers = Mapping[SourceLine, list[Any]]
Replace = Callable[[SourceLine, Any], Any]


def read_numbers(case: Case, call: Call, *, traced: bool) -> Numbers:
    """Return the numbers that Python reads from tensors in a call, by line.

    ``traced``: while it is traced; to eager a size is no tensor.
    """
    numbers: defaultdict[SourceLine, list[Any]] = defaultdict(list)

    def note(where: SourceLine, value: Any) -> Any:
        numbers[where].append(value.detach().clone() if isinstance(value, torch.Tensor) else value)
        return value

    if traced:
        _traced(case, call, note)
        return dict(numbers)
    subject = case.reference.pristine.copy()

    def run(*args: Any, **kwargs: Any) -> Any:
        with _handled(note):
            return subject.function(*args, **kwargs)

    observe(run, call, seed=case.plan.seed, grad_mode=subject.grad_mode)
    return dict(numbers)


def outcome_with(case: Case, call: Call, numbers: Numbers) -> Outcome:
    """Return the outcome of a call in which Python reads these numbers on their lines."""
    left = {where: iter(read) for where, read in numbers.items()}

    def replaced(where: SourceLine, value: Any) -> Any:
        other = next(left.get(where, iter(())), value)
        return type(value)(other) if isinstance(value, (bool, int, float)) else other

    return _traced(case, call, replaced)


def decides_alone(read: list[Any]) -> bool:
    """Return True if a line reads truth values alone, as an ``if`` does."""
    return all(isinstance(value, bool) for value in read)


def same(one: list[Any], other: list[Any]) -> bool:
    if any(isinstance(value, np.ndarray) for value in (*one, *other)):
        return len(one) == len(other) and all(map(np.array_equal, one, other))
    return not compare_values(one, other, Tolerance(0.0, 0.0))


def _traced(case: Case, call: Call, read: Replace) -> Outcome:
    """Return the outcome of forward while it is traced; ``read`` replaces each number that is read.

    Not what the trace would return: a number that forward only passes on is none of its constants.
    """
    subject = case.reference.pristine.copy().to(case.plan.device)
    for parameter in subject.module.parameters() if subject.module is not None else ():
        parameter.requires_grad_(False)  # no trace of a function may hold one that does

    def run(*args: Any, **kwargs: Any) -> Any:
        own = Call(args, kwargs)
        flat, values = FlatModule(subject.function, own), list[Any]()

        def forward(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values.append(flat(*tensors))
            return tensors

        with _handled(read), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace
            trace(forward, own.tensors(), check_trace=False, strict=False)
        return values[0]

    return observe(run, call.to(case.plan.device), seed=case.plan.seed)


@contextmanager
def _handled(read: Replace) -> Iterator[None]:
    """Replace in the block what Python reads from tensors on lines of forward."""
    inside, lines = False, UsersLines()

    def reader(original: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or not (args and isinstance(args[0], torch.Tensor)):
                return original(*args, **kwargs)
            inside = True
            try:
                value = original(*args, **kwargs)
            finally:
                inside = False
            where, _ = lines.to_name(sys._getframe(1), None, first_owned)
            return value if where is None else read(where, value)

        return stand_in

    with ExitStack() as stack:
        for owner, name in (*((torch.Tensor, name) for name in READERS), (torch, "tensor")):
            stand_in = reader(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield
