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
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.verdict import Difference


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    names = scene.case.plan.options.steps or ()
    if not names or scene.call is None:
        return known
    found = dict(_differences(scene, names, scene.call))
    differing = [name for name, differences in found.items() if differences]
    if len(found) < len(names):
        stopped = f"`{names[len(found)]}` of the reference does not take what is before it"
    agreeing = [name for name in found if name not in differing]
    alike = f"{_listed(agreeing)} agree{'s' * (len(agreeing) == 1)}" if agreeing else ""
    if not differing:
        if len(found) < len(names):
            return replace(known, not_examined=(*known.not_examined, f"steps: {stopped}"))
        text = f"{alike}, each by itself: it is how they are put together that differs"
    else:
        first, *others = differing
        text = f"`{first}` differs: {_worst(found[first][0])}"
        text += f"; {_listed(others)} differ too" if others else ""
        text += f"; {alike}" if alike else ""
    return replace(known, causes=(Cause(kind="step", text=text), *known.causes))


def _differences(
    scene: Scene, names: Sequence[str], call: Call
) -> Iterator[tuple[str, Sequence[Difference]]]:
    """Yield each step with what differs beyond rounding, as far as the reference returns."""
    case = scene.case
    reference, subject = case.reference.pristine.copy(), Subject.of(case.artifact.program)
    for name in names:
        step = Subject.of(reference.part(name), reference.grad_mode)
        call = _fitting(call, step)
        expected, found = (
            observe(each, call, seed=case.plan.seed, grad_mode=reference.grad_mode)
            for each in (step.function, subject.part(name))
        )
        if not isinstance(expected, Returned):
            return
        differences = compare(expected, found, case.judge.tolerance)
        if differences and isinstance(found, Returned) and not case.judge.tolerance.given:
            rounding = Calibration(OtherRuns(step, case.plan.seed))
            leaves = leaves_after(expected, {}), leaves_after(found, {})
            differences = rounding.judge(differences, [call], *leaves).bugs
        yield name, differences
        call = Call((expected.value,))


def _fitting(call: Call, step: Subject) -> Call:
    """Return the call of a step: with the items of a tuple if it takes as many arguments."""
    signature = step.signature()
    (value,) = call.args if len(call.args) == 1 else (None,)
    if signature is None or not isinstance(value, tuple):
        return call
    try:
        signature.bind(value)
    except TypeError:
        return Call(value)
    return call


def _worst(item: Difference) -> str:
    if item.max_abs is not None:
        return f"|{item.max_abs:.4g}| at {list(item.index or ())} of {item.path}"
    return f"{item.path} {item.expected}, then {item.actual}"


def _listed(names: Sequence[str]) -> str:
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last
