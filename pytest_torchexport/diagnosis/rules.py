"""Find the cause of a failure by rules: each turns facts into one sentence and the remedy.

A rule returns None unless every fact that it needs is there. Some read the cause off how the two
sides differ, or off what a call changes; others make an intervention on eager. A new one is a
function and a row.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pytest_torchexport.diagnosis import remedies
from pytest_torchexport.diagnosis.evidence import Facts, Given
from pytest_torchexport.diagnosis.interventions import NOT_RUN, Intervention, Row
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.diagnosis.traced_numbers import (
    decides_alone,
    outcome_with,
    read_by_eager,
    read_numbers,
    same,
)
from pytest_torchexport.eager.fingerprint import StateRef
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.branch_table import place
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import plain_name
from pytest_torchexport.outcomes.texts import few
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, Owner, Structural
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference

CARRIED = "return what changes as an output, and take it as an input in the next call"
A_SIZE = "size that Python makes a number of"
EACH_VALUE = "pass {} as a tensor, or export once for each value"
# Traces are made for so many lines, and none for a part of them after so many seconds: the rules
# that follow have the rest.
MOST_LINES = 12
SECONDS = 2.5
_GUARD = re.compile(r"Guard failed: (\w+) == (\S+)")
_DTYPE = re.compile(r"\w+(?=\[)")

# What is only true of the call, and not why it fails.
CIRCUMSTANCES: tuple[CauseKind, ...] = ("masked rows", "fatal operator", "endless loop")
# Whose code is to change.
OWNER_OF: dict[CauseKind, Owner] = {
    "frozen branch": "model",
    "unrolled loop": "model",
    "frozen size": "model",
    "baked value": "model",
    "dropped mutation": "model",
    "own seed": "model",
    "replaced buffer": "capture",
    "changed by the export": "capture",
    "guard": "capture",
    "dtype promotion": "capture",
    "number as a tensor": "capture",
}


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the cause of the first rule that applies, and the owner that it means."""
    named = [cause for cause in known.causes if cause.kind not in CIRCUMSTANCES]
    if named or scene.case.plan.target not in CAPTURED:
        return known
    facts = Facts(scene, known.structural)
    cause = next(filter(None, (rule(facts) for rule in RULES)), None)
    if cause is None:
        return known
    # The stages of an ONNX model tell whose step it was, and the cause what to change.
    owner = OWNER_OF.get(cause.kind) or known.owner
    return replace(known, owner=owner, causes=(*known.causes, cause))


def _tried(facts: Facts, intervention: Intervention) -> Cause | None:
    shown = intervention.tried(facts.beside) if facts.beside is not None else None
    return shown[0] if shown is not None else None


# -- control flow ----------------------------------------------------------------------------------


def decided_once(facts: Facts) -> Cause | None:
    """Return that the artifact always takes the side, or the iterations, that the example took."""
    branch = facts.branch
    if not isinstance(facts.failure, BranchFrozen) or branch is None:
        return None
    return remedies.of_a_condition(
        branch.kind,
        branch.text,
        where=branch.where,
        on_values=branch.on_values,
        target=facts.target,
        arguments=tuple(facts.arguments),
    )


def unrolled(facts: Facts) -> Cause | None:
    """Return that Python ran a loop another number of times at the export than in the call."""
    loop = next(iter(facts.loops), None)
    if loop is None:
        return None
    return remedies.of_a_condition(
        loop.kind, loop.text, where=place(loop), on_values=False, target=facts.target
    )


# -- training and eval mode ------------------------------------------------------------------------


def training_mode(facts: Facts) -> Cause | None:
    """Return that one side runs an operator in training mode, and the other does not."""
    first = facts.structural
    if first is None:
        return None
    eager, artifact = (_trains(first, side) for side in (first.eager, first.artifact))
    if eager == artifact:
        return None
    which, other = ("eager", facts.artifact) if eager else (facts.artifact, "eager")
    return Cause(
        kind="mode-dependent operator",
        text=f"{which} runs {first.operator} in training mode, and {other} does not",
        remedy="call .eval() before the export"
        if artifact
        else "export in training mode, or call .eval() where eager runs",
        where=first.where,
    )


def _trains(first: Structural, side: str) -> bool:
    if first.kind == "constant" and first.argument in ("training", "train"):
        return side == "True"
    return any("training" in row_of(plain_name(name)).kinds for name in side.split(", "))


def exported_in_eval_mode(facts: Facts) -> Cause | None:
    """Return that the old ONNX exporter put a module in training mode into eval mode."""
    if facts.target != "onnx_legacy" or facts.beside is None:
        return None
    beside, subject = facts.beside, facts.beside.subject()
    training = (
        [part for part in subject.module.modules() if part.training] if subject.module else []
    )

    def run(_: Sequence[Any]) -> Row:
        for part in training:
            part.training = False
        return beside.run(subject)

    return _tried(
        facts,
        Intervention(
            parts=("eval",) if training else (),
            run=run,
            cause=lambda _: Cause(
                kind="mode-dependent operator",
                text="torch.onnx.export(dynamo=False) exports in eval mode, in which eager returns "
                "what the ONNX file does",
                remedy="call .eval() where eager runs, or export with "
                "training=torch.onnx.TrainingMode.PRESERVE",
            ),
        ),
    )


# -- state -----------------------------------------------------------------------------------------


def stateless(facts: Facts) -> Cause | None:
    """Return that forward changes state or an input, and that an ONNX file changes none."""
    if not facts.is_onnx or not isinstance(facts.failure, StateDiffers):
        return None
    differing = [item.path for item in facts.failure.differences]
    written = [item.path.removesuffix(" after the call") for item in _in_inputs(facts)]
    changed = facts.changes.changed
    refs = [ref for ref in changed if str(ref) in differing] or list(changed)
    if not (written or refs):
        return None
    lines = (changed[ref] for ref in refs)
    return Cause(
        kind="dropped mutation",
        text=f"forward changes {few(written or refs)}: an ONNX file writes to no input and "
        "keeps nothing from one run to the next",
        remedy=CARRIED,
        where=None if written else next(filter(None, lines), None),
    )


def replaced_buffer(facts: Facts) -> Cause | None:
    """Return that forward puts a new tensor in a buffer's place, which the artifact cannot do."""
    differing = {item.path for item in facts.failure.differences}
    # The artifact raised as it copied into a buffer.
    copied = isinstance(facts.failure, ArtifactRaised) and (
        facts.structural is not None
        and "copies" in row_of(plain_name(facts.structural.operator)).kinds
    )
    buffers = [
        ref
        for ref in facts.changes.changed
        if ref.kind == "buffer" and ref.path in facts.changes.replaced
        if copied or str(ref) in differing
    ]
    if not buffers:
        return None
    where = facts.changes.changed[buffers[0]]
    line = remedies.with_a_write(where.text) if where is not None else ""
    does = (
        "the trace leaves the old one there"
        if facts.target == "trace"
        else f"{facts.artifact} copies its numbers into the old one, of another size"
    )
    return Cause(
        kind="replaced buffer",
        text=f"forward puts a new tensor in place of {buffers[0]}: {does}",
        remedy=f"write into it: {line}"
        if line and facts.target == "trace"
        else "make the buffer in __init__, large enough, and only write into it in forward",
        where=where,
    )


def changed_by_the_trace(facts: Facts) -> Cause | None:
    """Return that tracing ran forward, and that the artifact starts with what it changed."""
    if facts.target != "trace" or not isinstance(facts.failure, StateDiffers | OutputsDiffer):
        return None
    moved = facts.starts_with
    if not moved:
        return None
    changed = facts.changes.changed
    kept = "buffers" if set(moved) <= facts.caches else "state dict"
    return Cause(
        kind="changed by the export",
        text=f"torch.jit.trace runs forward, which changes {few(moved)}: the trace starts with the "
        "changed numbers",
        remedy="start it as the module starts: state = copy.deepcopy(net.state_dict()) before, "
        "traced.load_state_dict(state) after the export"
        if kept == "state dict"
        else f"copy {few(moved)} from a copy of the module that has not run after the export",
        where=next((changed[ref] for ref in changed if str(ref) in moved), None),
    )


def written_constant(facts: Facts) -> Cause | None:
    """Return that the trace keeps a tensor that forward makes anew and writes into."""
    first = facts.structural
    if facts.target != "trace" or first is None or first.kind != "stored":
        return None
    in_place = first.operator.endswith("_") and first.argument == "self"
    if not in_place or first.artifact.startswith(("parameter", "buffer", "input")):
        return None
    return Cause(
        kind="changed by the export",
        text=f"forward makes a tensor and writes into it ({first.operator}): the trace keeps that "
        "tensor with what tracing wrote, and each run writes into it again",
        remedy="change it out of place: x = x + y in place of x += y",
        where=first.where,
    )


def changed_by_the_old_exporter(facts: Facts) -> Cause | None:
    """Return that the exporter ran forward, and that the ONNX file has what that run changed."""
    is_old = facts.target == "onnx_legacy" and isinstance(facts.failure, OutputsDiffer)
    changed = facts.changed_by_the_export if is_old else {}
    beside = facts.beside if changed else None
    if beside is None:
        return None

    def run_before(_: Sequence[Any]) -> Row:
        subject, plan = beside.subject(), beside.plan
        example = facts.case.call_to_export().to(plan.device)
        observe(subject.function, example, seed=plan.seed, grad_mode=subject.grad_mode)
        return beside.run(subject)

    return _tried(
        facts,
        Intervention(
            parts=("run before",),
            run=run_before,
            cause=lambda _: Cause(
                kind="changed by the export",
                text="torch.onnx.export(dynamo=False) runs forward, which changes "
                f"{few([*changed])}: eager that has run once before returns what the file does",
                remedy=CARRIED,
                where=next(filter(None, changed.values()), None),
            ),
        ),
    )


def dropped_mutation(facts: Facts) -> Cause | None:
    """Return that forward changes an attribute, or an argument, that the artifact does not have."""
    if not isinstance(facts.failure, StateDiffers):
        return None
    given = next((item.path for item in _in_inputs(facts) if item.total is None), "")
    if given:
        return Cause(
            kind="dropped mutation",
            text=f"forward changes an object that it is given ({given}), and the {facts.target} "
            "does not",
            remedy="return what changes, and take it as an argument in the next call",
        )
    changed = facts.changes.changed
    new = [ref for ref in changed if _is_registered(facts, ref)]
    kinds = ("attribute", "class attribute", "global", "closure")
    refs = new or [ref for ref in changed if ref.kind in kinds]
    if not refs or facts.structural is None:
        return None
    return Cause(
        kind="dropped mutation",
        text=f"forward registers {few(refs)}, and {facts.artifact} does not"
        if new
        else f"forward changes {few(refs)}, and {facts.artifact} keeps what it was at the export",
        remedy="register a buffer in __init__ and write into it in forward (add_, copy_), or "
        "return the state and take it as an argument",
        where=next(filter(None, (changed[ref] for ref in refs)), None),
    )


def _is_registered(facts: Facts, ref: StateRef) -> bool:
    return ref.kind == "buffer" and ref.path in facts.changes.registered


def _in_inputs(facts: Facts) -> list[Difference]:
    differences = facts.failure.differences
    return [item for item in differences if item.path.startswith(("inputs[", "input "))]


# -- numbers ---------------------------------------------------------------------------------------


def own_seed(facts: Facts) -> Cause | None:
    """Return that forward seeds torch, and the artifact does not."""
    first = facts.structural
    if first is None or first.kind != "same" or not first.draws or facts.seeded_at is None:
        return None
    return Cause(
        kind="own seed",
        text=f"forward seeds torch before it draws ({first.operator}), and {facts.artifact} "
        "has no such call",
        remedy="draw the numbers once, in __init__, into a buffer",
        where=facts.seeded_at,
    )


def guard(facts: Facts) -> Cause | None:
    """Return that the program refuses another value of an argument than the example's."""
    failure = facts.failure
    match = _GUARD.search(str(failure)) if isinstance(failure, ArtifactRaised) else None
    if match is None or is_guard(str(failure)) or match[1] not in facts.arguments:
        return None
    return Cause(
        kind="guard",
        text="torch.export makes constants of arguments that are no tensors: the program takes "
        f"{match[1]}={match[2]} alone",
        remedy=EACH_VALUE.format(match[1]),
    )


def baked_argument(facts: Facts) -> Cause | None:
    """Return that arguments which are no tensors are those of the example in the artifact."""
    beside = facts.beside if facts.arguments else None
    if beside is None:
        return None

    def run(names: Sequence[str]) -> Row:
        leaves, structure = beside.call.flatten()
        paths = [path for path, _ in facts.case.spec.flatten(beside.call)]
        given = [
            facts.arguments[path].example if path in names else leaf
            for path, (_, leaf) in zip(paths, leaves, strict=True)
        ]
        return beside.run(beside.subject(), Call(*structure.unflatten(given)))

    def cause(names: Sequence[str]) -> Cause:
        name, given = names[0], facts.arguments[names[0]]
        first = facts.structural
        return Cause(
            kind="baked value",
            text=f"{_kept(facts, first)}the argument {name} is {given.call!r} in the call, and "
            f"{given.example!r} of the example is a constant",
            remedy=EACH_VALUE.format(name),
            where=first.where if first is not None and first.kind == "constant" else None,
        )

    return _tried(facts, Intervention(parts=tuple(facts.arguments), run=run, cause=cause))


def baked_draw(facts: Facts) -> Cause | None:
    """Return that a random number drawn outside torch is a constant of the artifact."""
    first = facts.structural
    if first is None or first.kind not in ("constant", "stored") or first.where is None:
        return None
    stream = facts.drawn_outside_torch.get(first.where)
    if stream is None:
        return None
    return Cause(
        kind="baked value",
        text=f"{_kept(facts, first)}it is drawn from {stream} in each call of eager, and once at "
        "the export",
        remedy="draw with torch.rand, or draw outside forward and pass a tensor",
        where=first.where,
    )


def frozen_numbers(facts: Facts) -> Cause | None:
    """Return the lines whose numbers, if they are those of the export, make eager do the same."""
    beside, case = facts.beside_trace, facts.case
    if beside is None:
        return None
    own, there = read_numbers(case, case.call_to_export()), read_numbers(case, beside.call)
    other = [line for line in own if not same(own[line], there.get(line, []))]

    numbers = [line for line in other if not decides_alone(own[line])]
    end = time.monotonic() + SECONDS

    def run(lines: Sequence[SourceLine]) -> Row:
        is_part = len(lines) < min(len(numbers) or len(other), len(other))
        if len(lines) > MOST_LINES or (is_part and time.monotonic() > end):
            return [NOT_RUN]
        return [(outcome_with(case, beside.call, {line: own[line] for line in lines}), {})]

    def cause(lines: Sequence[SourceLine]) -> Cause:
        where, *others = lines
        also = tuple(f"also: {line}" for line in others)
        read = (read_by_eager(case, call) for call in (case.call_to_export(), beside.call))
        # What eager itself reads is another value; a size is no tensor to it.
        of_value = not same(*(numbers.get(where, []) for numbers in read))
        if all(decides_alone(own[line]) for line in lines):
            frozen = remedies.of_a_condition(
                "if", where.text, where=where, on_values=of_value, target=facts.target
            )
            return replace(frozen, details=also)
        what = "number that Python reads from a tensor" if of_value else A_SIZE
        return Cause(
            kind="baked value" if of_value else "frozen size",
            text=f"{_kept(facts, facts.structural)}a {what} is a constant of the trace (tried: "
            f"{'these numbers make' if others else 'this number makes'} the difference)",
            remedy=remedies.as_a_tensor(where) if of_value else remedies.without_a_number(where),
            details=also,
            where=where,
        )

    # Forward with another side of an if may run nothing that can be compared: numbers first. Of
    # some numbers the trace keeps no constant: then one of the lines alone is.
    for lines in (numbers, other, *([line] for line in other if len(other) > 1)):
        shown = Intervention(parts=lines, run=run, cause=cause).tried(beside)
        if shown is not None:
            return shown[0]
    return None


def _kept(facts: Facts, first: Structural | None) -> str:
    """Return what the artifact has there: ``size of aten.view is 4 in the trace, 1 in eager: ``."""
    if first is None or first.kind not in ("constant", "stored"):
        return ""
    if first.kind == "constant" and first.eager == first.operator:
        return f"the result of {first.operator} is a constant of {facts.artifact}: "
    what = f"{first.argument} of {first.operator}"
    if first.eager == first.artifact:
        return f"{what} is another constant in {facts.artifact} than in eager: "
    names = [name for name, given in facts.sizes.items() if _equals(given, first.numbers)]
    of = f" (the example's {names[0]})" if len(names) == 1 else ""
    return f"{what} is {first.artifact}{of} in {facts.artifact}, {first.eager} in eager: "


def _equals(given: Given, numbers: Sequence[float]) -> bool:
    """Return True if eager has the number of the call, and the artifact that of the example."""
    return len(numbers) == 2 and all(map(math.isclose, (given.call, given.example), numbers))


# -- read off the first difference -----------------------------------------------------------------


def dtype_promotion(facts: Facts) -> Cause | None:
    """Return that an operator gives another dtype of equal operands."""
    first = facts.structural
    if first is None or first.kind != "same":
        return None
    if _DTYPE.findall(first.eager) == _DTYPE.findall(first.artifact):
        return None
    return Cause(
        kind="dtype promotion",
        text=f"{first.operator} gives {first.eager} in eager and {first.artifact} in the "
        f"{facts.target}, of equal operands",
        remedy="convert an operand or the result to the dtype that you want",
        where=first.where,
    )


def number_as_tensor(facts: Facts) -> Cause | None:
    """Return that an output of the artifact is a tensor where eager's is a number of Python's."""
    for item in facts.failure.differences if isinstance(facts.failure, StructureDiffers) else ():
        is_tensor = re.fullmatch(r"\w+\[\]", item.actual)
        if is_tensor and item.kind == "structure" and _is_number(item.expected):
            return Cause(
                kind="number as a tensor",
                text=f"{item.path} is the number {item.expected} in eager: {facts.artifact} "
                "returns a tensor",
                remedy="return a tensor, or leave the number out of what forward returns",
            )
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True


# In this order: a later rule is asked only if the earlier ones do not apply.
RULES: tuple[Callable[[Facts], Cause | None], ...] = (
    decided_once,
    training_mode,
    exported_in_eval_mode,
    stateless,
    replaced_buffer,
    changed_by_the_trace,
    written_constant,
    changed_by_the_old_exporter,
    dropped_mutation,
    own_seed,
    guard,
    baked_argument,
    baked_draw,
    frozen_numbers,
    unrolled,
    dtype_promotion,
    number_as_tensor,
)
