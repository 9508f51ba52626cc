"""Examine the evidence by rules: each turns facts into the cause, in one sentence, and the remedy.

A rule is a function of the evidence that returns None unless every fact it needs is there. A new
one is a function in the file of its family and a row here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from pytest_torchexport.diagnosis import changes, control, kinds, numbers
from pytest_torchexport.diagnosis.evidence import Evidence
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, Owner

# In this order: a later rule is asked only if the earlier ones do not apply.
RULES: tuple[Callable[[Evidence], Cause | None], ...] = (
    control.decided_once,
    kinds.training_mode,
    kinds.exported_in_eval_mode,
    changes.stateless,
    changes.replaced_buffer,
    changes.changed_by_the_export,
    changes.written_constant,
    changes.changed_by_the_old_exporter,
    changes.dropped_mutation,
    changes.own_seed,
    numbers.guard,
    numbers.baked_argument,
    numbers.baked_draw,
    numbers.tried_number,
    numbers.baked_value,
    numbers.left_out_argument,
    numbers.frozen_stride,
    numbers.frozen_size,
    control.unrolled,
    kinds.dtype_promotion,
    kinds.number_as_tensor,
)
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
    evidence = Evidence(scene, known.structural)
    cause = next(filter(None, (rule(evidence) for rule in RULES)), None)
    if cause is None:
        return known
    # The stages of an ONNX model tell whose step it was, and the cause what to change.
    owner = OWNER_OF.get(cause.kind) or known.owner
    return dataclasses.replace(known, owner=owner, causes=(*known.causes, cause))
