"""Examine whether a failure looks like a defect that is known upstream.

It does if the target, the owner, the operator, the user's line and the kind of the difference are
those of a row of ``upstream/known_defects.toml``. That is no proof: the report says "looks like".
"""

from __future__ import annotations

from dataclasses import replace

from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.outcomes.tape import How, record
from pytest_torchexport.results.diagnosis import Diagnosis, Known
from pytest_torchexport.results.reports import environment
from pytest_torchexport.targets.upstream import Evidence, first


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the known defect that the failure looks like, and its owner if none is known."""
    place, failure = known.place, scene.failure
    # Without an owner, every difference of values looks like some defect if there is no operator,
    # and a cause that was shown is none of these.
    of_values = all(each.kind == "values" for each in failure.differences)
    unowned = known.owner is None and of_values
    if scene.case.foreign or (unowned and (known.causes or place is None)):
        return known
    line = known.where or (place.where if place is not None else None) or failure.where
    # The one that is at fault, else all that eager runs on the failing call.
    operators: frozenset[str] = frozenset()
    if place is not None:
        operators = frozenset({place.operator.rpartition(".")[2]})
    elif scene.call is not None:
        plan, subject, how = scene.case.plan, scene.subject(), How(keep=lambda _: None)
        given = scene.call.to(plan.device)
        tape = record(subject.function, given, seed=plan.seed, grad_mode=subject.grad_mode, how=how)
        operators = frozenset(step.name for step in tape.steps)
    evidence = Evidence(
        target=scene.case.plan.target,
        said=[
            (type(failure).__name__, f"{each.what}: eager {each.expected}, artifact {each.actual}")
            for each in failure.differences
        ],
        line=line.text if line is not None else "",
        owner=known.owner,
        step=next((stage.name for stage in known.stages if stage.agrees is False), ""),
        operators=operators,
    )
    found = first("known_defects", evidence, environment())
    if found is None:
        return known
    row, _ = found
    defect = Known(issue=row.issue, text=row.cause, fixed_in=row.fixed_in, remedy=row.remedy)
    owner = known.owner or row.owner
    return replace(known, owner=owner, known=(*known.known, defect))
