"""Find the cause of a failure by rules: each turns facts into one sentence and the remedy.

A rule returns None unless every fact that it needs is there. Some read the cause off how the two
sides differ, or off what a call changes; others make an intervention on eager. A new one is a
function and a row.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from pytest_torchexport.diagnosis import remedies
from pytest_torchexport.diagnosis.interventions import (
    Numbers,
    decides_alone,
    outcome_with,
    read_numbers,
    same,
    smallest,
)
from pytest_torchexport.diagnosis.refusal import explained
from pytest_torchexport.diagnosis.scene import CAPTURED, Changed, Facts, Scene
from pytest_torchexport.eager.preflight import draws_from, seeded_at, streams
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.branch_table import DIVERGES, place
from pytest_torchexport.judge.judge import carried_differences
from pytest_torchexport.judge.narrow import overflow
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.outcomes.observe import Raised, caches_of, observe
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import plain_name
from pytest_torchexport.outcomes.tape import Step, record
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, Owner
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    BranchFrozen,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.onnx_model import OnnxModelFacts

CARRIED = "return what changes as an output, and take it as an input in the next call"
EACH_VALUE = "pass {} as a tensor, or export once for each value"
# No further run or trace is made after so many seconds: other examinations have the rest.
SECONDS = 2.5
# So often at most an exporter may have run forward: openvino.convert_model does four times.
MOST_RUNS = 6
_GUARD = re.compile(r"Guard failed: (\w+) == (\S+)")
_NUMBER = re.compile(r"True|False|nan|[-+]?(inf|\d+\.?\d*(e[-+]?\d+)?)")

# What is only true of the call, and not why it fails.
CIRCUMSTANCES: tuple[CauseKind, ...] = ("fatal operator", "endless loop")
# What runs forward in Python, and what the size of a tensor is to it.
A_SIZE_IS = {"trace": "a tensor", "export": "a torch.SymInt"}
# Whose code is to change.
OWNER_OF: dict[CauseKind, Owner] = {
    "frozen branch": "model",
    "unrolled loop": "model",
    "frozen size": "model",
    "baked value": "model",
    "export-only branch": "model",
    "dropped mutation": "model",
    "own seed": "model",
    "active dropout": "model",
    "replaced buffer": "capture",
    "changed by the export": "capture",
    "guard": "capture",
    "number as a tensor": "capture",
    "missing annotation": "model",
    "unsupported type": "model",
    "unsupported operator": "translation",
}


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the cause of the first rule that applies, and the owner that it means."""
    named = [cause for cause in known.causes if cause.kind not in CIRCUMSTANCES]
    if named or scene.case.plan.target not in CAPTURED:
        return known
    facts = Facts(scene, known)
    cause = next(filter(None, (rule(facts) for rule in RULES)), None)
    if cause is None:
        return known
    # The stages of an ONNX model tell whose step it was, and the cause what to change.
    owner = OWNER_OF.get(cause.kind) or known.owner
    return replace(known, owner=owner, causes=(*known.causes, cause))


def _line(changes: Iterable[Changed]) -> SourceLine | None:
    return next((change.where for change in changes if change.where is not None), None)


# -- how it is run ---------------------------------------------------------------------------------


def decided_once(facts: Facts) -> Cause | None:
    """Return that the artifact always takes the side, or the iterations, that the example took."""
    where = facts.failure.where
    if not isinstance(facts.failure, BranchFrozen) or where is None:
        return None
    here = (each for each in facts.case.log.branches if each.where.place == where.place)
    branch = next((each for each in here if DIVERGES in each.status.values()), None)
    if branch is None:
        return None
    cause = remedies.of_a_condition(
        branch.kind,
        branch.text,
        where=branch.where,
        on_values=branch.on_values,
        target=facts.target,
        arguments=tuple(facts.arguments),
    )
    branches = facts.case.branches
    others = branches.guilty_beside(where) if branches is not None else ()
    return replace(cause, details=remedies.also(others))


def decided_otherwise(facts: Facts) -> Cause | None:
    """Return the condition that forward decides otherwise while it is captured than eager does.

    Only if what torch captured differs from eager even on the call that it was captured with. Not
    where forward asks what runs it: an intervention has given it the answers.
    """
    case, by = facts.case, CAPTURED[facts.target]
    asks = by not in A_SIZE_IS or case.questions
    decided = None if asks else facts.scene.decided
    if decided is None or case.observed is None:
        return None
    own, there = decided
    pairs = enumerate(zip(own, there, strict=False))
    at = next((number for number, (one, other) in pairs if one != other), len(there))
    # The capture may not get to it, or its key may be no number there and be looked up in vain.
    is_same = at < min(len(own), len(there)) and own[at][0] == there[at][0]
    left_out = at < len(own) and own[at + 1 :] == there[at : len(own) - 1]
    if not (is_same or left_out):
        return None
    condition = case.observed.conditions[own[at][0]]
    if " is " in condition.text and " is int" not in condition.text:
        return None  # of two tensors, perhaps: a trace makes two of one that is given twice
    return Cause(
        kind="export-only branch",
        text=f"Python decides {condition.text!r} otherwise while {by} runs forward: a size is "
        f"{A_SIZE_IS[by]} there",
        remedy="ask what has the same answer for an int, as n == 4 or n > 4",
        where=place(condition),
    )


# -- state -----------------------------------------------------------------------------------------


def stateless(facts: Facts) -> Cause | None:
    """Return that forward changes state or an input, and a file of arrays changes none."""
    if not facts.of_arrays or not isinstance(facts.failure, StateDiffers):
        return None
    differing = [item.path for item in facts.failure.differences]
    written = [item.path.removesuffix(" after the call") for item in facts.in_inputs()]
    changes = [each for each in facts.changes if str(each.ref) in differing] or facts.changes
    if not (written or changes):
        return None
    return Cause(
        kind="dropped mutation",
        text=f"forward changes {few(written or [each.ref for each in changes])}: {facts.artifact} "
        "writes to no input and keeps nothing from one run to the next",
        remedy=CARRIED,
        where=None if written else _line(changes),
    )


def replaced_buffer(facts: Facts) -> Cause | None:
    """Return that forward puts a new tensor in a buffer's place, which the artifact cannot do."""
    differing = {item.path for item in facts.failure.differences}
    # The artifact raised as it copied into a buffer.
    first = facts.structural
    copies = first is not None and "copies" in row_of(plain_name(first.operator)).kinds
    copied = copies and isinstance(facts.failure, ArtifactRaised)
    buffers = [
        each
        for each in facts.changes
        if each.ref.kind == "buffer" and each.is_other and (copied or str(each.ref) in differing)
    ]
    if not buffers:
        return None
    is_traced = facts.target == "trace"
    does = (
        "the trace leaves the old one there"
        if is_traced
        else f"{facts.artifact} copies its numbers into the old one, of another size"
    )
    return Cause(
        kind="replaced buffer",
        text=f"forward puts a new tensor in place of {buffers[0].ref}: {does}",
        # A trace that writes into its buffers starts with what tracing wrote.
        remedy=CARRIED
        if is_traced
        else "make the buffer in __init__, large enough, and only copy_ into it in forward",
        where=buffers[0].where,
    )


def changed_by_the_trace(facts: Facts) -> Cause | None:
    """Return that tracing ran forward, and that the artifact starts with what it changed."""
    failures = StateDiffers | OutputsDiffer
    if facts.target != "trace" or facts.case.foreign or not isinstance(facts.failure, failures):
        return None
    reference, exact = facts.case.reference, Tolerance(0.0, 0.0)
    differences = carried_differences(reference.tensors(), facts.case.judge.tensors(), exact)
    moved = [*dict.fromkeys(item.path for item in differences)]
    if not moved:
        return None
    return Cause(
        kind="changed by the export",
        text=f"torch.jit.trace runs forward, which changes {few(moved)}: the trace starts with the "
        "changed numbers",
        # The state dict leaves some buffers out.
        remedy=f"{CARRIED}; or "
        + (
            f"copy {few(moved)} of a module that has not run"
            if {*moved} <= caches_of(reference.pristine.module)
            else "load_state_dict() of a copy made before"
        )
        + " into your own trace, and check its file by torchexport.check_artifact",
        where=_line(each for each in facts.changes if str(each.ref) in moved),
    )


def changed_by_the_runs_of_the_exporter(facts: Facts) -> Cause | None:
    """Return that the exporter ran forward, and that the file has what these runs changed."""
    traced = facts.of_arrays and CAPTURED[facts.target] == "trace"
    if not traced or not isinstance(facts.failure, OutputsDiffer):
        return None
    exported_at = facts.case.call_to_export()
    changes = facts.changed_by(exported_at)
    beside = facts.scene.beside if changes else None
    if beside is None:
        return None
    plan, example = beside.plan, exported_at.to(beside.plan.device)
    end = time.monotonic() + SECONDS
    for runs in range(1, MOST_RUNS + 1):
        if runs > 1 and time.monotonic() > end:
            return None
        subject = beside.scene.subject()
        for _ in range(runs):
            observe(subject.function, example, seed=plan.seed, grad_mode=subject.grad_mode)
        if beside.agrees(subject):
            break
    else:
        return None
    often = "once" if runs == 1 else f"{runs} times"
    return Cause(
        kind="changed by the export",
        text=f"the exporter runs forward, which changes {few([each.ref for each in changes])}: "
        f"eager that has run {often} before returns what {facts.artifact} does",
        remedy=CARRIED,
        where=_line(changes),
    )


def dropped_mutation(facts: Facts) -> Cause | None:
    """Return that forward changes an attribute, or an argument, that the artifact does not have."""
    first, lines = facts.structural, {each.where for each in facts.changes}
    written = first is not None and first.argument == "self" and first.operator.endswith("_")
    constant = written and first is not None and first.where in lines
    if not isinstance(facts.failure, StateDiffers) and not constant:
        return None
    given = next((item.path for item in facts.in_inputs() if item.total is None), "")
    if given:
        return Cause(
            kind="dropped mutation",
            text=f"forward changes an object that it is given ({given}), and the {facts.target} "
            "does not",
            remedy="return what changes, and take it as an argument in the next call",
        )
    kinds = ("attribute", "class attribute", "global", "closure")
    new = [each for each in facts.changes if each.ref.kind == "buffer" and each.is_new]
    changes = new or [each for each in facts.changes if each.ref.kind in kinds]
    if not changes or first is None:
        return None
    refs = few([each.ref for each in changes])
    return Cause(
        kind="dropped mutation",
        text=f"forward registers {refs}, and {facts.artifact} does not"
        if new
        else f"forward changes {refs}, and {facts.artifact} "
        + ("changes a constant of its own" if constant else "keeps what it was at the export"),
        remedy="register a buffer in __init__ and write into it in forward (add_, copy_), or "
        "return the state and take it as an argument",
        where=_line(changes),
    )


# -- numbers ---------------------------------------------------------------------------------------


def own_seed(facts: Facts) -> Cause | None:
    """Return that forward seeds torch, and the artifact does not."""
    first, case = facts.structural, facts.case
    if first is None or first.kind != "same" or not first.draws:
        return None
    where = seeded_at(case.reference.pristine, case.spec.example, case.plan.seed + 1)
    if where is None:
        return None
    return Cause(
        kind="own seed",
        text=f"forward seeds torch before it draws ({first.operator}), and {facts.artifact} "
        "has no such call",
        remedy="draw the numbers once, in __init__, into a buffer",
        where=where,
    )


def active_dropout(facts: Facts) -> Cause | None:
    """Return that dropout is active in eval mode, if only what it makes random differs."""
    reference = facts.case.reference
    paths = {item.path for item in facts.failure.differences}
    if not reference.dropped_at or not paths <= reference.random:
        return None
    where, *others = reference.dropped_at
    return Cause(
        kind="active dropout",
        text=f"dropout is active in eval mode, and {facts.artifact} does not drop the same",
        remedy="pass training=self.training, or declare mode='sampling' if it is meant",
        details=remedies.also(others),
        where=where,
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
    beside = facts.scene.beside if facts.arguments else None
    if beside is None:
        return None
    structure = beside.call.flatten()[1]

    def is_enough(names: Sequence[str]) -> bool:
        given = [
            facts.arguments[path][0] if path in names else leaf
            for path, leaf in facts.case.spec.flatten(beside.call)
        ]
        return beside.agrees(beside.scene.subject(), Call(*structure.unflatten(given)))

    names = smallest(tuple(facts.arguments), is_enough)
    if not names:
        return None
    of_example, of_call = facts.arguments[names[0]]
    first = facts.structural
    return Cause(
        kind="baked value",
        text=f"{facts.kept()}the argument {names[0]} is {of_call!r} in the call, and "
        f"{of_example!r} of the example is a constant",
        remedy=EACH_VALUE.format(names[0]),
        where=first.where if first is not None and first.kind == "constant" else None,
    )


def baked_draw(facts: Facts) -> Cause | None:
    """Return that a random number drawn outside torch is a constant of the artifact."""
    first, case = facts.structural, facts.case
    if first is None or first.kind not in ("constant", "stored", "extra"):
        return None
    subject, example, seed = case.reference.pristine, case.spec.example, case.plan.seed
    draws = draws_from(subject, example, seed, tuple(streams()))
    # On this line, or else all that is drawn, if the output is random in eager.
    here = [draw for draw in draws if draw.line == first.where]
    if not here and case.reference.random and len(draws) == 1:
        here = draws
    if not here:
        return None
    return Cause(
        kind="baked value",
        text=f"{facts.kept()}it is drawn from {here[0].what} in each call of eager, and once at "
        "the export",
        remedy="draw with torch.rand, or draw outside forward and pass a tensor",
        where=here[0].line,
    )


def frozen_numbers(facts: Facts) -> Cause | None:
    """Return the lines whose numbers, if they are those of the export, make eager do the same."""
    case = facts.case
    if CAPTURED.get(facts.target) != "trace" or case.foreign:
        return None
    beside = facts.scene.beside_captured if facts.of_arrays else facts.scene.beside
    if beside is None:
        return None
    own, there = (
        read_numbers(case, call, traced=True) for call in (case.call_to_export(), beside.call)
    )
    other = [line for line in own if not same(own[line], there.get(line, []))]
    first = facts.structural
    if not other and first is not None and first.argument == "size" and not facts.scene.decided:
        return Cause(
            kind="guard",
            text=f"{facts.kept()}torch's own code makes it a number while it is traced",
            remedy="other operations of torch on this line, or the targets export and onnx",
            where=first.where,
        )
    numbers = [line for line in other if not decides_alone(own[line])]
    end = time.monotonic() + SECONDS

    def is_enough(lines: Sequence[SourceLine]) -> bool:
        is_part = len(lines) < min(len(numbers) or len(other), len(other))
        if is_part and time.monotonic() > end:
            return False
        outcome = outcome_with(case, beside.call, {line: own[line] for line in lines})
        return beside.does([(outcome, {})])

    # Forward with another side of an if may run nothing that can be compared: numbers first. Of
    # some numbers the trace keeps no constant: then one of the lines alone is.
    for lines in (numbers, other, *([line] for line in other if len(other) > 1)):
        enough = smallest(lines, is_enough)
        if enough:
            decides = all(decides_alone(own[line]) for line in enough)
            more = _more_numbers(facts, own, enough, end)
            return _of_numbers(facts, beside.call, (*enough, *more), decides=decides)
    # Eager has checks that a trace has not, and may raise with the number of the export.
    line = first.where if first is not None and first.kind in ("constant", "stored") else None
    if line in numbers and isinstance(outcome_with(case, beside.call, {line: own[line]}), Raised):
        return _of_numbers(facts, beside.call, (line,), decides=False, tried=False)
    return None


def _more_numbers(
    facts: Facts, own: Numbers, known: Sequence[SourceLine], end: float
) -> Sequence[SourceLine]:
    """Return the lines whose numbers another failing call needs as well: of the first that does.

    In the shrunk call they may be those of the export, or make no difference.
    """
    case = facts.case
    left = [line for line in own if line not in known]

    def more(recipe: Recipe) -> Sequence[SourceLine]:
        scene = replace(facts.scene, recipe=recipe)
        beside = scene.beside_captured if facts.of_arrays else scene.beside
        if beside is None:
            return ()

        def is_enough(lines: Sequence[SourceLine]) -> bool:
            numbers = {line: own[line] for line in (*known, *lines)}
            return beside.does([(outcome_with(case, beside.call, numbers), {})])

        return () if is_enough(()) else smallest(left, is_enough)

    recipes = [recipe for recipe, _ in case.log.failed if recipe != facts.scene.recipe]
    found = (more(recipe) for recipe in recipes if left and time.monotonic() < end)
    return next(filter(None, found), ())


def _of_numbers(
    facts: Facts, call: Call, lines: Sequence[SourceLine], *, decides: bool, tried: bool = True
) -> Cause:
    """Return that the numbers of these lines are constants; ``decides``: all are truth values.

    ``tried``: eager with them is wrong as the artifact is.
    """
    where, *others = lines
    also = remedies.also(others)
    # What eager itself reads is another value; a size is no tensor to it.
    calls = facts.case.call_to_export(), call
    of_value = not same(*(read_numbers(facts.case, n, traced=False).get(where, []) for n in calls))
    if decides:
        frozen = remedies.of_a_condition(
            "if", where.text, where=where, on_values=of_value, target=facts.target
        )
        return replace(frozen, details=also)
    what = "number that Python reads from a tensor" if of_value else remedies.A_SIZE
    numbers = "these numbers make" if others else "this number makes"
    proof = f" (tried: {numbers} the difference)"
    # The first difference of two runs may be on another line: operators without a pair.
    first = facts.structural
    kept = facts.kept() if first is not None and first.where == where else ""
    return Cause(
        kind="baked value" if of_value else "frozen size",
        text=f"{kept}a {what} is a constant of the trace" + proof * tried,
        remedy=remedies.A_TENSOR if of_value else remedies.without_a_number(where),
        details=also,
        where=where,
    )


def fixed_parts(facts: Facts) -> Cause | None:
    """Return the operator that makes another number of tensors than at the export."""
    case, call = facts.case, facts.scene.call
    captured = CAPTURED.get(facts.target) == "trace" and not case.foreign
    if not captured or call is None or not isinstance(facts.failure, ArtifactRaised):
        return None

    def steps(call: Call) -> Sequence[Step]:
        subject = case.reference.pristine.copy()
        function, mode, module = subject.function, subject.grad_mode, subject.module
        return record(function, call, seed=case.plan.seed, grad_mode=mode, module=module).steps

    for there, here in zip(steps(case.call_to_export()), steps(call), strict=False):
        many = len(there.results), len(here.results)
        if there.operator != here.operator or not min(many):
            return None
        if many[0] != many[1]:
            return Cause(
                kind="frozen size",
                text=f"{there.operator_name} makes {many[0]} tensors at the export, and "
                f"{many[1]} in the call: {facts.artifact} always has as many",
                remedy="take only the parts that are used, by their index: x[0], x[-1]",
                where=here.where,
            )
    return None


def raises_known(facts: Facts) -> Cause | None:
    """Return the cause if the artifact raises in words that are known, as those of a refusal."""
    if not isinstance(facts.failure, ArtifactRaised):
        return None
    known = explained(RuntimeError(str(facts.failure)), facts.target)
    return next((replace(cause, where=facts.failure.where) for cause in known.causes), None)


def warned_by_the_exporter(facts: Facts) -> Cause | None:
    """Return the exporter's warning about the operator that differs.

    If it is not known which one does, that about an operator of the file, named as ONNX's.
    """
    program = facts.case.artifact.facts
    if not isinstance(program, OnnxModelFacts) or facts.case.foreign:
        return None
    if facts.place is not None:
        names = rf"\b(?i:{re.escape(facts.place.operator.rpartition('.')[2])})\b"
    else:
        names = "|".join(rf"onnx:+{node.op_type}\b" for node in program.model().graph.node)
    for text in facts.case.log.warned:
        if names and re.search(names, text):
            return Cause(
                kind="unsupported operator",
                text=f"the exporter warned of it: {text}",
                remedy="another opset_version in export_options, or other operations of torch",
            )
    return None


def number_as_tensor(facts: Facts) -> Cause | None:
    """Return that an output of the artifact is a tensor where eager's is a number of Python's."""
    for item in facts.failure.differences if isinstance(facts.failure, StructureDiffers) else ():
        is_tensor = re.fullmatch(r"\w+\[\]", item.actual)
        if is_tensor and item.kind == "structure" and _NUMBER.fullmatch(item.expected):
            return Cause(
                kind="number as a tensor",
                text=f"{item.path} is the number {item.expected} in eager: {facts.artifact} "
                "returns a tensor",
                remedy="return a tensor, or leave the number out of what forward returns",
            )
    return None


def overflow_in_half(facts: Facts) -> Cause | None:
    """Return the operator that overflows in eager too, if the file computes in float16."""
    call = facts.scene.call
    of_half = facts.case.precision is torch.float16
    return overflow(facts.case, call) if of_half and call is not None else None


# In this order: a later rule is asked only if the earlier ones do not apply.
RULES: tuple[Callable[[Facts], Cause | None], ...] = (
    overflow_in_half,
    decided_once,
    stateless,
    replaced_buffer,
    changed_by_the_trace,
    changed_by_the_runs_of_the_exporter,
    dropped_mutation,
    own_seed,
    active_dropout,
    guard,
    baked_argument,
    baked_draw,
    frozen_numbers,
    fixed_parts,
    number_as_tensor,
    decided_otherwise,
    raises_known,
    warned_by_the_exporter,
)
