"""Name the step of a pipeline in which a subject does not do what its reference does.

The user names the steps (``steps=["preprocess", "model"]``). Each is run on what the reference's
own step before it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.judge.rounding import Calibration
from pytest_torchexport.outcomes.compare import compare
from pytest_torchexport.outcomes.observe import Outcome, Returned, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.verdict import Difference


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    names = scene.case.plan.options.steps or ()
    if not names or scene.call is None:
        return known
    reference = scene.case.reference.pristine.copy()
    subject = Subject.of(scene.case.artifact.program, reference.grad_mode)
    found = dict(_differences(scene, names, reference, subject))
    differing = [name for name, differences in found.items() if differences]
    agreeing = [name for name in found if name not in differing]
    if differing:
        first, *others = differing
        parts = [f"`{first}` differs: {found[first][0]}"]
        parts += [f"{_listed(others)} differ{'s' * (len(others) == 1)} too"] if others else []
        parts += [f"{_listed(agreeing)} agree{'s' * (len(agreeing) == 1)}"] if agreeing else []
        text = "; ".join(parts)
    elif len(found) < len(names):
        raised = f"steps: `{names[len(found)]}` of {reference.name} does not return"
        return replace(known, not_examined=(*known.not_examined, raised))
    else:
        text = f"{_listed(agreeing)} agree, each by itself: it is together that they differ"
    return replace(known, causes=(Cause(kind="step", text=text), *known.causes))


def _differences(
    scene: Scene, names: Sequence[str], reference: Subject, subject: Subject
) -> Iterator[tuple[str, Sequence[Difference]]]:
    """Yield each step with what differs beyond rounding, as far as the reference returns."""
    judge, call = scene.case.judge, scene.call
    for name in names:
        assert call is not None
        call, expected = _step(scene, reference, name, call)
        _, found = _step(scene, subject, name, call)
        if not isinstance(expected, Returned):
            return
        differences = compare(expected, found, judge.tolerance)
        if differences and isinstance(found, Returned) and not judge.tolerance.given:
            step = Subject.of(reference.part(name), reference.grad_mode)
            rounding = Calibration(OtherRuns(step, judge.plan.seed))
            leaves = leaves_after(expected, {}), leaves_after(found, {})
            differences = rounding.judge(differences, [call], *leaves).bugs
        yield name, differences
        call = Call((expected.value,))


def _step(scene: Scene, owner: Subject, name: str, call: Call) -> tuple[Call, Outcome]:
    """Return the call of a step, and its outcome.

    The items of a tuple are its arguments, if it does not take the tuple.
    """
    step = Subject.of(owner.part(name), owner.grad_mode)
    signature = step.signature()
    if signature is not None and len(call.args) == 1 and isinstance(call.args[0], tuple):
        try:
            signature.bind(*call.args)
        except TypeError:
            call = Call(call.args[0])
    seed = scene.case.plan.seed
    return call, observe(step.function, call, seed=seed, grad_mode=step.grad_mode)


def _listed(names: Sequence[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last
