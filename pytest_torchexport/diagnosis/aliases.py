"""Examine tensors given twice: does the call fail only as the example has one at several places?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from pytest_torchexport.diagnosis.scene import Scene
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
    if not groups or scene.call is None:
        return
    if not scene.agrees_exported_again(at=case.call_to_export().apart()):
        return
    for group in groups:
        first, *others = (case.spec.leaves[number].path for number in group)
        made = ", ".join(f"{other!r}: {first}" for other in others)
        yield Cause(
            kind="one tensor twice",
            text=(
                f"the example gives one tensor as {', '.join((first, *others[:-1]))} and "
                f"{others[-1]}, and the export takes them for one; exported with different "
                f"tensors, eager and artifact agree"
            ),
            remedy=(
                f"call it with different tensors in the test; if they always are one, say so: "
                f"map=lambda {first}: {{{made}}}"
            ),
        )
