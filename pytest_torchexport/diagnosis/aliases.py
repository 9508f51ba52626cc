"""Examine tensors given twice: does the call fail only as it has one at several places?

Because the export took them for one, or because the artifact cannot tell that they are one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.results.diagnosis import Cause, Diagnosis


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the arguments that are one tensor in the example, if the export takes that for granted.

    The owner is the capture: eager tells the arguments apart.
    """
    causes = tuple(_causes(scene))
    if not causes:
        return known
    owner = known.owner or "capture"
    return dataclasses.replace(known, owner=owner, causes=(*known.causes, *causes))


def _causes(scene: Scene) -> Iterator[Cause]:
    case = scene.case
    groups = case.spec.aliases
    if not groups or scene.call is None or not scene.fails:
        return
    if _agrees_apart(scene, scene.call):
        yield from (_told_apart(_paths(scene, group)) for group in groups)
    elif scene.agrees_exported_again(at=case.call_to_export().apart()):
        yield from (_taken_for_one(_paths(scene, group)) for group in groups)


def _agrees_apart(scene: Scene, call: Call) -> bool:
    """Return True if eager does with equal tensors what the artifact does with one."""
    apart = call.apart()
    if len({id(item) for item in apart.tensors()}) == len({id(item) for item in call.tensors()}):
        return False
    plan, subject = scene.case.plan, scene.case.reference.pristine.copy().to(scene.case.plan.device)
    eager = observe(
        subject.function, apart.to(plan.device), seed=plan.seed, grad_mode=subject.grad_mode
    )
    actual = scene.judge().run(call)
    return isinstance(eager, Returned) and not scene.differences(apart, eager, actual)


def _paths(scene: Scene, group: Sequence[int]) -> list[str]:
    return [scene.case.spec.leaves[number].path for number in group]


def _told_apart(paths: Sequence[str]) -> Cause:
    return Cause(
        kind="one tensor twice",
        text=f"the call gives one tensor as {_listed(paths)}, and the artifact cannot tell: with "
        "equal tensors in its place eager returns what the artifact does",
        remedy="call it with different tensors in the test, or compute the same for one tensor as "
        "for equal ones (without q is k)",
    )


def _listed(paths: Sequence[str]) -> str:
    return f"{', '.join(paths[:-1])} and {paths[-1]}"


def _taken_for_one(paths: Sequence[str]) -> Cause:
    first, *others = paths
    made = ", ".join(f"{other!r}: {first}" for other in others)
    return Cause(
        kind="one tensor twice",
        text=(
            f"the example gives one tensor as {_listed(paths)}, and the export takes them for "
            "one; exported with different tensors, eager and artifact agree"
        ),
        remedy=(
            f"call it with different tensors in the test; if they always are one, say so: "
            f"map=lambda {first}: {{{made}}}"
        ),
    )
