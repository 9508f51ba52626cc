"""Rules on state: changes that the artifact does not make, or that the export itself made."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_torchexport.diagnosis.evidence import Evidence
from pytest_torchexport.diagnosis.spelling import with_a_write
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import plain_name
from pytest_torchexport.outcomes.texts import few
from pytest_torchexport.results.diagnosis import Cause
from pytest_torchexport.results.failures import ArtifactRaised, OutputsDiffer, StateDiffers
from pytest_torchexport.results.verdict import Difference

CARRIED = "return what changes as an output, and take it as an input in the next call"


def stateless(evidence: Evidence) -> Cause | None:
    """Return that forward changes state or an input, and that an ONNX file changes none."""
    if not evidence.is_onnx or not isinstance(evidence.failure, StateDiffers):
        return None
    differing = [item.path for item in evidence.failure.differences]
    written = [item.path.removesuffix(" after the call") for item in _in_inputs(evidence)]
    changed = evidence.changed_by_eager
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


def replaced_buffer(evidence: Evidence) -> Cause | None:
    """Return that forward puts a new tensor in a buffer's place, which the artifact cannot do."""
    wanted = [
        ref
        for ref in evidence.changed_by_eager
        if ref.kind == "buffer" and ref.path in evidence.replaced_by_eager
    ]
    differing = {item.path for item in evidence.failure.differences}
    found = [ref for ref in wanted if str(ref) in differing or _is_copied_into(evidence, ref)]
    if not found:
        return None
    where = evidence.changed_by_eager[found[0]]
    line = with_a_write(where.text) if where is not None else ""
    does = (
        "the trace leaves the old one there"
        if evidence.target == "trace"
        else f"{evidence.artifact} copies its numbers into the old one, of another size"
    )
    return Cause(
        kind="replaced buffer",
        text=f"forward puts a new tensor in place of {found[0]}: {does}",
        remedy=f"write into it: {line}"
        if line and evidence.target == "trace"
        else "make the buffer in __init__, large enough, and only write into it in forward",
        where=where,
    )


def _is_copied_into(evidence: Evidence, ref: StateRef) -> bool:
    """Return True if the artifact raised as it copied into a buffer."""
    found = evidence.structural
    if not isinstance(evidence.failure, ArtifactRaised) or found is None or ref.kind != "buffer":
        return False
    return "copies" in row_of(plain_name(found.operator)).kinds


def changed_by_the_export(evidence: Evidence) -> Cause | None:
    """Return that tracing ran forward, and that the artifact starts with what it changed."""
    if evidence.target != "trace" or not isinstance(
        evidence.failure, (StateDiffers, OutputsDiffer)
    ):
        return None
    moved = evidence.starts_with
    where = next((evidence.changed_by_eager.get(ref) for ref in _refs(evidence, moved)), None)
    if not moved:
        return None
    named = few(moved)
    kept = "buffers" if set(moved) <= evidence.caches else "state dict"
    return Cause(
        kind="changed by the export",
        text=f"torch.jit.trace runs forward, which changes {named}: the trace starts with the "
        "changed numbers",
        remedy="start it as the module starts: state = copy.deepcopy(net.state_dict()) before, "
        "traced.load_state_dict(state) after the export"
        if kept == "state dict"
        else f"copy {named} from a copy of the module that has not run after the export",
        where=where,
    )


def written_constant(evidence: Evidence) -> Cause | None:
    """Return that the trace keeps a tensor that forward makes anew and writes into."""
    found = evidence.structural
    if evidence.target != "trace" or found is None or found.kind != "stored":
        return None
    in_place = found.operator.endswith("_") and found.argument == "self"
    if not in_place or found.artifact.startswith(("parameter", "buffer", "input")):
        return None
    return Cause(
        kind="changed by the export",
        text=f"forward makes a tensor and writes into it ({found.operator}): the trace keeps that "
        "tensor with what tracing wrote, and each run writes into it again",
        remedy="change it out of place: x = x + y in place of x += y",
        where=found.where,
    )


def changed_by_the_old_exporter(evidence: Evidence) -> Cause | None:
    """Return that the exporter ran forward, and that the ONNX file has what that run changed."""
    is_old = evidence.target == "onnx_legacy" and isinstance(evidence.failure, OutputsDiffer)
    changed = evidence.changed_by_the_export if is_old else {}
    if not changed or not evidence.agrees_after_a_run:
        return None
    return Cause(
        kind="changed by the export",
        text=f"torch.onnx.export(dynamo=False) runs forward, which changes {few([*changed])}: "
        "eager that has run once before returns what the ONNX file does",
        remedy=CARRIED,
        where=next(filter(None, changed.values()), None),
    )


def dropped_mutation(evidence: Evidence) -> Cause | None:
    """Return that forward changes an attribute, or an argument, that the artifact does not have."""
    if not isinstance(evidence.failure, StateDiffers):
        return None
    return _of_an_argument(evidence) or _of_an_attribute(evidence)


def _of_an_argument(evidence: Evidence) -> Cause | None:
    changed = [item.path for item in _in_inputs(evidence) if item.total is None]
    if not changed:
        return None
    return Cause(
        kind="dropped mutation",
        text=f"forward changes an object that it is given ({changed[0]}), and the "
        f"{evidence.target} does not",
        remedy="return what changes, and take it as an argument in the next call",
    )


def _of_an_attribute(evidence: Evidence) -> Cause | None:
    new = [ref for ref in evidence.changed_by_eager if _is_registered(evidence, ref)]
    changed = [
        ref
        for ref in evidence.changed_by_eager
        if ref.kind in ("attribute", "class attribute", "global", "closure")
    ]
    if not (new or changed) or evidence.structural is None:
        return None
    does = (
        f"forward registers {few(new)}, and {evidence.artifact} does not"
        if new
        else f"forward changes {few(changed)}, and {evidence.artifact} keeps what it was at "
        "the export"
    )
    lines = (evidence.changed_by_eager[ref] for ref in new or changed)
    return Cause(
        kind="dropped mutation",
        text=does,
        remedy="register a buffer in __init__ and write into it in forward (add_, copy_), or "
        "return the state and take it as an argument",
        where=next(filter(None, lines), None),
    )


def _is_registered(evidence: Evidence, ref: StateRef) -> bool:
    return ref.kind == "buffer" and ref.path in evidence.registered_by_eager


def own_seed(evidence: Evidence) -> Cause | None:
    """Return that forward seeds torch, and the artifact does not."""
    found = evidence.structural
    if found is None or found.kind != "same" or not found.draws or evidence.seeded_at is None:
        return None
    return Cause(
        kind="own seed",
        text=f"forward seeds torch before it draws ({found.operator}), and {evidence.artifact} "
        "has no such call",
        remedy="draw the numbers once, in __init__, into a buffer",
        where=evidence.seeded_at,
    )


def _in_inputs(evidence: Evidence) -> list[Difference]:
    differences = evidence.failure.differences
    return [item for item in differences if item.path.startswith(("inputs[", "input "))]


def _refs(evidence: Evidence, names: Sequence[str]) -> list[StateRef]:
    return [ref for ref in evidence.changed_by_eager if str(ref) in names]
